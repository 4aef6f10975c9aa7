//! RFC 9111 section 2, RFC 3986 section 6.2: what is one resource and what is not; and what strangers may not decide.

mod conformance;

use conformance::Bench;

/// Both spellings reach the origin as one, and are stored as one.
#[test]
fn spellings_of_one_target() {
    let same = [
        ("/x", "/%78"),
        ("/x", "/./x"),
        ("/x", "/a/../x"),
        ("/x", "/a/%2e%2E/x"),
        ("/x", "/a/b/.././../x"),
        ("/x/", "/x/a/.."),
        ("/a%2Fb", "/a%2fb"),
        ("/~x", "/%7Ex"),
        ("/a%5Cb", "/a\\b"),
        ("/%C3%A9", "/%c3%a9"),
        ("/x?a=b", "/x?%61=b"),
    ];
    Bench::with("").run_all(same.iter().flat_map(|(one, other)| {
        [(one, other), (other, one)].map(|(first, second)| {
            format!("GET {first} -> 200 | Cache-Control: max-age=3600 => #1\nGET {second} => #1")
        })
    }));
}

#[test]
fn targets_that_may_differ() {
    let different = [
        ("/a/b", "/a%2Fb"),
        ("/a/b", "/a//b"),
        ("/a/b", "/a/b/"),
        ("/a/b", "/a/B"),
        ("/a/b", "/a;b"),
        ("/a/b", "/a\\b"),
        ("/a;b", "/a;c"),
        ("/a", "/a%00"),
        ("/a", "/a%20"),
        ("/a", "/a?"),
        ("/a?b=1&c=2", "/a?c=2&b=1"),
        ("/a?b", "/a?b="),
        ("/a?b=%26", "/a?b=&"),
        ("/a?b=+", "/a?b=%20"),
        ("/a/..%2Fb", "/b"),
        ("/%252e%252e/b", "/b"),
    ];
    Bench::with("").run_all(different.map(|(one, other)| {
        format!(
            "GET {one} -> 200 | Cache-Control: max-age=3600 => #1\n\
             GET {other} -> 200 | Cache-Control: max-age=3600 => #2\nGET {one} => #1\nGET {other} => #2"
        )
    }));
}

/// Host names without regard to case, with any port, with their final dot; nothing else.
#[test]
fn spellings_of_one_host() {
    let same = ["CONFORMANCE.Test", "conformance.test:80", "conformance.test:8080", "conformance.test."];
    let bench = Bench::with("");
    bench.run_all(same.map(|host| {
        format!(
            "GET | Host: {host} -> 200 | Cache-Control: max-age=3600 => #1 | saw Host: conformance.test | saw X-Forwarded-Host: conformance.test\n\
             GET => #1"
        )
    }));
    bench.run(
        "
        GET | Host: elsewhere.test => 421
        GET | Host: conformance.test:x => 400
        GET | Host: conformance.test/x => 400
        GET | Host: x@conformance.test => 400
        GET | Host: conformance.test, elsewhere.test => 400
        GET | Host: conformance.test | Host: elsewhere.test => 400
        GET | Host: => 400
        ",
    );
}

#[test]
fn the_absolute_form_is_the_same_target() {
    let bench = Bench::with("");
    bench.run(
        "
        GET /x -> 200 | Cache-Control: max-age=3600 => #1
        @absolute http://conformance.test GET /x => #1
        @absolute http://CONFORMANCE.test:80 GET /x => #1
        @absolute http://elsewhere.test GET /x => 400
        ",
    );
}

/// What is no part of the key must not reach what makes the answer.
#[test]
fn fields_that_are_in_no_key_do_not_reach_the_origin() {
    let replaced = [("X-Forwarded-Host", "conformance.test"), ("X-Forwarded-Proto", "http")];
    let dropped = [
        "X-Forwarded-Port",
        "X-Forwarded-Server",
        "X-Forwarded-Scheme",
        "X-Forwarded-Ssl",
        "X-Forwarded-Prefix",
        "X-Real-IP",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Original-Host",
        "X-Host",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "Front-End-Https",
    ];
    let bench = Bench::with("");
    bench.run_all(replaced.map(|(name, ours)| {
        format!("GET | {name}: evil.test -> 200 | Cache-Control: max-age=3600 => #1 | saw {name}: {ours}\nGET => #1")
    }));
    bench.run_all(dropped.map(|name| {
        format!("GET | {name}: evil -> 200 | Cache-Control: max-age=3600 => #1 | saw !{name}\nGET => #1")
    }));
    bench.run(
        "
        GET | Forwarded: host=evil.test -> 200 => #1 | saw Forwarded ~ host=\"conformance.test\"
        # of a request that nobody else gets the answer to, the method is the client's to override
        POST | X-HTTP-Method-Override: PUT -> 200 => #2 | saw X-HTTP-Method-Override: PUT

        # content of a GET has no meaning; an origin that gives it one gives an answer for this client alone
        GET | @body x -> 200 | Cache-Control: max-age=3600 => #1
        GET -> 200 | Cache-Control: max-age=3600 => #2
        GET => #2
        ",
    );
}

/// Rules by path and extension, for pages that are asked for by such a name.
#[test]
fn rules_are_not_deceived() {
    let bench = Bench::with("[[site.www.cache.rule]]\nextensions = [\"css\"]\nttl = \"1h\"\n");
    bench.run(
        "
        GET /a.css -> 200 | Content-Type: text/css => #1
        GET /a.css => #1

        GET /account/a.css -> 200 | Content-Type: text/html => #1
        GET /account/a.css -> 200 => #2

        GET /account;a.css -> 200 | Content-Type: text/html;charset=utf-8 => #1
        GET /account;a.css -> 200 => #2

        GET /a.css -> 200 | Content-Type: text/css | Cache-Control: no-store => #1
        GET /a.css -> 200 => #2

        GET /a.css -> 200 | Content-Type: text/css | Cache-Control: private => #1
        GET /a.css -> 200 => #2

        GET /a.css -> 200 | Content-Type: text/css | Set-Cookie: a=1 => #1
        GET /a.css -> 200 => #2
        ",
    );
}

/// A `Cache-Control` for clients beside the edge's own lifetime.
#[test]
fn what_clients_are_told_is_the_sites_choice() {
    let bench = Bench::with(
        "[[site.www.cache.rule]]\nextensions = [\"css\"]\nttl = \"1h\"\nclient_cache_control = \"max-age=5\"\n\
         [[site.www.cache.rule]]\nstatus = [404]\nttl = \"1m\"\n",
    );
    bench.run(
        "
        GET /a.css -> 200 | Cache-Control: max-age=100 | Expires: {now+100} => #1 | Cache-Control: max-age=5 | !Expires
        GET /a.css => #1 | Cache-Control: max-age=5 | !Expires | Cache-Status ~ ttl=3
        GET /a.css | Range: bytes=0-0 => 206 | Cache-Control: max-age=5

        GET /a.js -> 200 | Cache-Control: max-age=100 => #1 | Cache-Control: max-age=100
        GET /a.js => #1 | Cache-Control: max-age=100

        GET /missing -> 404 => #1
        GET /missing => 404 | #1
        ",
    );
}
