//! RFC 9112 and RFC 9111 section 3.3: framing of all kinds, interim answers, and messages that never came whole.

mod conformance;

use conformance::Bench;

#[test]
fn whole_answers_of_all_framings() {
    let marks = ["@chunked", "@until-close", "@http10", "@http10 | @until-close", "Connection: close"];
    Bench::with("").run_all(marks.map(|mark| {
        format!("GET -> 200 | Cache-Control: max-age=3600 | {mark} => #1\nGET => #1 | Age\nHEAD => 200")
    }));
}

#[test]
fn what_was_cut_short_is_not_reused() {
    let marks = ["@short 10", "@chunked | @cut"];
    Bench::with("").run_all(marks.map(|mark| {
        format!(
            "GET -> 200 | Cache-Control: max-age=3600 | {mark} => @broken\n\
             GET -> 200 | Cache-Control: max-age=3600 => #2\nGET => #2"
        )
    }));
}

/// RFC 9110 section 15.2.
#[test]
fn interim_answers_are_not_stored() {
    let early = ["103", "102", "103,103", "110"];
    Bench::with("").run_all(early.map(|status| {
        format!(
            "GET -> 200 | Cache-Control: max-age=3600 | @early {status} => #1 | !Early-Field\n\
             GET => #1 | !Early-Field"
        )
    }));
}

/// RFC 9110 section 15.2: they go on to the client whose request caused them, in order, without what belongs to the
/// connection; `100` is ours to give, and whoever is answered from the store gets none.
#[test]
fn interim_answers_go_on() {
    Bench::with("").run(
        "
        GET -> 200 | Cache-Control: max-age=3600 | @early 103 => #1 | @interim HTTP/1.1 103 | @interim rel=preload | @interim early-field | !Early-Field | !Link
        GET => #1 | @no-interim | !Early-Field

        GET -> 200 | @early 103,102,103 => #1 | @interim 102 | @interim 103
        GET -> 404 | @early 199 => #2 | @interim 199
        POST | @body x -> 200 | @early 103 => #3 | @interim 103
        GET -> 200 | @early 100 => #4 | @no-interim
        HEAD -> 200 | @early 103 => 200 | @interim 103

        # a confirmation in the background says nothing to the client
        GET -> 200 | Cache-Control: max-age=60, stale-while-revalidate=1000 | Age: 100 | ETag: \"a\" => #1
        GET ~> 304 | Cache-Control: max-age=3600 | @early 103 => #1 | @no-interim

        # one in the foreground does
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | Cache-Control: max-age=3600 | @early 103 => 200 | #1 | @interim 103
        ",
    );
}

/// RFC 9110 section 6.5.1: trailers go on with what is not stored, to clients that ask for them; never into the head.
#[test]
fn trailers() {
    Bench::with("").run(
        "
        GET | TE: trailers | Connection: TE -> 200 | Cache-Control: no-store | @chunked => #1 | @trailer Trailing: 1 | !Trailing
        GET -> 200 | Cache-Control: no-store | @chunked => #2 | @no-trailers | !Trailing
        POST | TE: gzip, Trailers;q=0.5 | Connection: te -> 200 | @chunked => #3 | !Trailing
        POST | TE: trailers | Connection: TE -> 200 | @chunked => #4 | @trailer Trailing: 1 | saw TE: trailers | saw Connection ~ te

        GET | TE: trailers | Connection: TE -> 200 | Cache-Control: max-age=3600 | @chunked => #1 | !Trailing
        GET | TE: trailers | Connection: TE => #1 | !Trailing | @no-trailers
        ",
    );
}

#[test]
fn content_goes_up_whole() {
    Bench::with("").run(
        "
        POST | @body some content -> 200 => #1 | saw @body some content
        PUT | @body other content -> 200 => #2 | saw @body other content
        ",
    );
}

#[test]
fn a_large_answer_is_served_whole() {
    let body = "0123456789abcdef".repeat(40_000);
    Bench::with("").run_all(["Foo: 1", "@chunked"].map(|mark| {
        format!(
            "GET -> 200 | Cache-Control: max-age=3600 | {mark} | @body {body} => @body {body}\n\
             GET => @body {body} | Age\nGET | Range: bytes=639990-639999 => 206 | @body 6789abcdef"
        )
    }));
}
