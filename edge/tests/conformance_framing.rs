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
