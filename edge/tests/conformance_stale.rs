//! RFC 9111 section 4.2.4 and RFC 5861: stale responses, and when they must not be served.

mod conformance;

use conformance::Bench;

/// Ways of a prohibition to be spelled.
const PROHIBITED: [&str; 5] =
    ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=60", "Must-Revalidate"];

#[test]
fn the_origin_gives_no_answer() {
    let bench = Bench::with("");
    bench.run(
        "
        # nothing says what to do: an old answer is better than none
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 200 | @close => #1 | Age >= 100 | Cache-Status ~ ttl=-

        GET -> 200 | Expires: {now-10} | Last-Modified: {now-5000} => #1
        GET -> 200 | @close => #1

        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 200 | @raw rubbish\\r\\n\\r\\n => #1

        # stale-if-error says for how long
        GET -> 200 | Cache-Control: max-age=60, stale-if-error=1000 | Age: 100 => #1
        GET -> 200 | @close => #1

        GET -> 200 | Cache-Control: max-age=60, stale-if-error=10 | Age: 100 | ETag: \"a\" => #1
        GET -> 504 | @close => 504

        GET -> 200 | Cache-Control: max-age=60, stale-if-error=0 | Age: 100 | ETag: \"a\" => #1
        GET -> 504 | @close => 504

        # what is fresh stands in for a client that insists
        GET -> 200 | Cache-Control: max-age=3600 => #1
        GET | Cache-Control: no-cache -> 200 | @close => #1

        # nothing is stored
        GET -> 502 | @close => 502
        ",
    );
    bench.run_all(PROHIBITED.map(|directive| {
        format!(
            "GET -> 200 | Cache-Control: max-age=60, {directive}, stale-if-error=1000 | Age: 100 | ETag: \"a\" => #1\n\
             GET -> 504 | @close => 504"
        )
    }));
}

#[test]
fn the_origin_answers_with_an_error() {
    let bench = Bench::with("");
    bench.run_all([500, 502, 503, 504].iter().flat_map(|status| {
        [
            format!(
                "GET -> 200 | Cache-Control: max-age=60, stale-if-error=1000 | Age: 100 => #1\n\
                 GET -> {status} => 200 | #1 | Age >= 100"
            ),
            format!(
                "GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1\n\
                 GET | Cache-Control: stale-if-error=1000 -> {status} => 200 | #1"
            ),
            // Without permission the error goes down, and what is stored stays for when it is over.
            format!(
                "GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1\n\
                 GET -> {status} => #2\n\
                 GET -> 304 | Cache-Control: max-age=3600 => 200 | #1 | saw If-None-Match: \"a\""
            ),
            format!(
                "GET -> 200 | Cache-Control: max-age=60, stale-if-error=10 | Age: 100 | ETag: \"a\" => #1\n\
                 GET -> {status} => #2"
            ),
        ]
    }));
    bench.run_all(PROHIBITED.map(|directive| {
        format!(
            "GET -> 200 | Cache-Control: max-age=60, {directive}, stale-if-error=1000 | Age: 100 | ETag: \"a\" => #1\n\
             GET -> 503 => #2"
        )
    }));
    // Not every error is the origin's failure.
    bench.run_all([400, 403, 404, 410, 501].map(|status| {
        format!(
            "GET -> 200 | Cache-Control: max-age=60, stale-if-error=1000 | Age: 100 | ETag: \"a\" => #1\n\
             GET -> {status} => #2"
        )
    }));
}

#[test]
fn stale_while_revalidate() {
    let bench = Bench::with("");
    bench.run(
        "
        GET -> 200 | Cache-Control: max-age=60, stale-while-revalidate=1000 | Age: 100 => #1
        GET ~> 200 | Cache-Control: max-age=3600 => #1 | Age >= 100 | Cache-Status ~ ttl=-
        GET => #2

        GET -> 200 | Cache-Control: max-age=60, stale-while-revalidate=1000 | Age: 100 | ETag: \"a\" => #1
        GET ~> 304 | Cache-Control: max-age=3600 | X-A: 1 => #1 | saw If-None-Match: \"a\" | !X-A
        GET => #1 | X-A: 1

        # a refresh that fails leaves what is stored
        GET -> 200 | Cache-Control: max-age=60, stale-while-revalidate=1000 | Age: 100 => #1
        GET ~> 200 | @close => #1
        GET ~> 503 => #1

        # past its window it is validated first
        GET -> 200 | Cache-Control: max-age=60, stale-while-revalidate=10 | Age: 100 => #1
        GET -> 200 => #2

        # for a client that wants it fresh too
        GET -> 200 | Cache-Control: max-age=60, stale-while-revalidate=1000 | Age: 100 => #1
        GET | Cache-Control: no-cache -> 200 => #2

        GET -> 200 | Cache-Control: max-age=60, stale-while-revalidate=1000 | Age: 100 => #1
        GET | Cache-Control: max-age=10 -> 200 => #2

        GET -> 200 | Cache-Control: max-age=60, stale-while-revalidate=1000 | Age: 100 => #1
        GET | Cache-Control: min-fresh=1 -> 200 => #2

        GET -> 200 | Cache-Control: max-age=60, stale-while-revalidate=x | Age: 100 | ETag: \"a\" => #1
        GET -> 200 => #2
        ",
    );
    bench.run_all(PROHIBITED.map(|directive| {
        format!(
            "GET -> 200 | Cache-Control: max-age=60, {directive}, stale-while-revalidate=1000 | Age: 100 | ETag: \"a\" => #1\n\
             GET -> 200 => #2"
        )
    }));
}

/// RFC 9111 section 5.5: obsolete, so never made here; what an origin sends is passed on.
#[test]
fn warning_is_not_generated() {
    Bench::with("").run(
        "
        GET -> 200 | Cache-Control: max-age=60, stale-if-error=1000 | Age: 100 => #1
        GET -> 503 => 200 | #1 | !Warning

        GET -> 200 | Cache-Control: max-age=3600 | Warning: 214 - \"x\" => #1 | Warning: 214 - \"x\"
        GET => #1 | Warning: 214 - \"x\"
        ",
    );
}
