//! RFC 9111 section 4.4: what an unsafe request makes untrue. And RFC 9110 section 9.3: which methods are what.

mod conformance;

use conformance::Bench;

const UNSAFE: [&str; 6] = ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "UNKNOWN"];

#[test]
fn successful_unsafe_methods_invalidate() {
    let bench = Bench::with("");
    bench.run_all(UNSAFE.iter().flat_map(|method| {
        [200, 201, 204, 302, 303].map(|status| {
            format!(
                "GET -> 200 | Cache-Control: max-age=3600 => #1\n\
                 {method} -> {status} => {status} | saw @method {method}\n\
                 GET -> 200 | Cache-Control: max-age=3600 => #3\n\
                 GET => #3"
            )
        })
    }));
    // What failed changed nothing.
    bench.run_all(UNSAFE.iter().flat_map(|method| {
        [400, 404, 500, 503].map(|status| {
            format!("GET -> 200 | Cache-Control: max-age=3600 => #1\n{method} -> {status} => #2\nGET => #1")
        })
    }));
    bench.run_all(["OPTIONS"].map(|method| {
        format!("GET -> 200 | Cache-Control: max-age=3600 => #1\n{method} -> 200 => #2\nGET => #1")
    }));
}

#[test]
fn what_location_and_content_location_name_is_invalid_too() {
    let bench = Bench::with("");
    bench.run_all(["Location", "Content-Location"].iter().flat_map(|field| {
        let same = [
            "{base}/other",
            "http://{host}{base}/other",
            "//{host}{base}/other",
            "http://{host}:80{base}/other",
        ];
        let foreign = [
            "http://elsewhere.test{base}/other",
            "https://{host}{base}/other",
            "http://{host}:81{base}/other",
        ];
        let of = move |location: &str, gone: bool, method: &str, status: u16| {
            let then = if gone { "GET /other -> 200 => #3" } else { "GET /other => #1" };
            format!(
                "GET /other -> 200 | Cache-Control: max-age=3600 => #1\n\
                 {method} -> {status} | {field}: {location} => {status}\n{then}"
            )
        };
        let all = UNSAFE.iter().flat_map(move |method| {
            same.map(|location| of(location, true, method, 201))
                .into_iter()
                .chain(foreign.map(|location| of(location, false, method, 201)))
                .chain([of("{base}/other", false, method, 500)])
        });
        all.chain([of("{base}/other", false, "GET", 201)])
    }));
}

/// The port is part of the origin, and is the one that the client named.
#[test]
fn locations_with_the_clients_port() {
    Bench::with("").run(
        "
        GET /other | Host: {host}:8080 -> 200 | Cache-Control: max-age=3600 => #1
        POST | Host: {host}:8080 -> 201 | Location: http://{host}:8080{base}/other => 201
        GET /other | Host: {host}:8080 -> 200 => #3

        GET /other | Host: {host}:8080 -> 200 | Cache-Control: max-age=3600 => #1
        POST | Host: {host}:8080 -> 201 | Location: http://{host}:8081{base}/other => 201
        GET /other | Host: {host}:8080 => #1

        GET /other | Host: {host}:8080 -> 200 | Cache-Control: max-age=3600 => #1
        POST | Host: {host}:8080 -> 200 | Content-Location: {base}/other => 200
        GET /other | Host: {host}:8080 -> 200 => #3
        ",
    );
}

#[test]
fn all_variants_go() {
    Bench::with("").run(
        "
        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #1
        GET | Foo: 2 -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #2
        POST -> 200 => #3
        GET | Foo: 1 -> 200 => #4
        GET | Foo: 2 -> 200 => #5
        ",
    );
}

/// RFC 9110 section 9.3.3.
#[test]
fn answers_to_post() {
    Bench::with("").run(
        "
        POST | @body x -> 200 | Cache-Control: max-age=3600 | Content-Location: {base} => #1
        GET => #1

        POST -> 200 | Cache-Control: max-age=3600 => #1
        GET -> 200 => #2

        POST -> 200 | Content-Location: {base} | Last-Modified: {now-5000} => #1
        GET -> 200 => #2

        POST -> 200 | Cache-Control: max-age=3600 | Content-Location: {base}/other => #1
        GET -> 200 => #2
        GET /other -> 200 => #3

        # never answers another POST
        POST -> 200 | Cache-Control: max-age=3600 | Content-Location: {base} => #1
        POST -> 200 => #2

        PUT -> 200 | Cache-Control: max-age=3600 | Content-Location: {base} => #1
        GET -> 200 => #2
        ",
    );
}

#[test]
fn other_methods_are_passed_on() {
    Bench::with("").run_all(["OPTIONS", "POST", "PUT", "DELETE", "PATCH", "UNKNOWN"].map(|method| {
        format!(
            "{method} -> 200 | Cache-Control: max-age=3600 => #1\n{method} -> 200 => #2\nGET -> 200 => #3"
        )
    }));
}

/// RFC 9110 section 7.6.2.
#[test]
fn options_are_forwarded_as_often_as_they_may() {
    Bench::with("").run(
        "
        OPTIONS | Max-Forwards: 0 => 204 | Allow ~ GET
        OPTIONS | Max-Forwards: 1 -> 200 => #1 | saw Max-Forwards: 0
        OPTIONS | Max-Forwards: 10 -> 200 => #2 | saw Max-Forwards: 9
        OPTIONS | Max-Forwards: x -> 200 => #3
        GET | Max-Forwards: 0 -> 200 => #4
        ",
    );
}
