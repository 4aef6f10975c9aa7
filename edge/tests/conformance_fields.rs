//! RFC 9110 section 7.6, RFC 9111 section 3.1, RFC 9211: which fields travel, and which are made here.

mod conformance;

use conformance::Bench;

#[test]
fn fields_are_stored_and_passed_on_unchanged() {
    let fields = [
        "Test: a, b, c",
        "Test: with  inner   space",
        "Content-Type: text/plain;charset=utf-8",
        "Content-Encoding: gzip",
        "Content-Language: de",
        "Content-Location: /foo",
        "Content-MD5: rL0Y20zC+Fzt72VPzMSk2A==",
        "Content-Security-Policy: default-src 'self'",
        "Content-Disposition: inline",
        "Clear-Site-Data: \"cookies\"",
        "Access-Control-Allow-Origin: *",
        "Server: origin/1",
        "Link: </a>; rel=b",
        "Public-Key-Pins: a=b",
        "Strict-Transport-Security: max-age=1",
        "X-Frame-Options: deny",
        "X-XSS-Protection: 1",
        "Alt-Svc: h2=\":1\"",
        "P3P: x",
        "Accept-Ranges: bytes",
        "ETag: \"x\"",
        "Last-Modified: Thu, 18 Aug 2005 02:01:18 GMT",
        "Expires: Thu, 18 Aug 2050 02:01:18 GMT",
        "Pragma: x",
        "Retry-After: 5",
        "Refresh: 1",
        "Allow: GET",
        "Digest: sha-256=x",
        "Surrogate-Control: max-age=1",
        "CDN-Cache-Control: max-age=3600",
        "WWW-Authenticate: Basic",
        "Set-Cookie2: a",
        "Authentication-Info: x",
        "Tk: N",
        "Age-Not: 1",
        "Location: /x",
        "Vary: Foo",
    ];
    Bench::with("").run_all(fields.map(|field| {
        format!("GET -> 200 | Cache-Control: max-age=3600 | {field} => #1 | {field}\nGET => #1 | {field}")
    }));
}

#[test]
fn same_name_values_keep_their_order() {
    Bench::with("").run(
        "
        GET -> 200 | Cache-Control: max-age=3600 | A: 1 | B: x | A: 2 | A: 1 => #1 | A: 1, 2, 1 | B: x
        GET => #1 | A: 1, 2, 1 | B: x
        ",
    );
}

#[test]
fn fields_of_one_connection_stay_there() {
    let hop = [
        "Connection: A, b | A: 1 | B: 2 | C: 3 => !A | !B | C: 3",
        "Connection: a | Connection: b | A: 1 | B: 2 => !A | !B",
        "Keep-Alive: timeout=5 => !Keep-Alive",
        "Proxy-Connection: keep-alive => !Proxy-Connection",
        "Proxy-Authenticate: Basic => !Proxy-Authenticate",
        "Proxy-Authentication-Info: x => !Proxy-Authentication-Info",
        "Proxy-Authorization: x => !Proxy-Authorization",
        "TE: trailers => !TE",
        "Upgrade: h2c => !Upgrade",
        "Trailer: Trailing => !Trailer",
    ];
    let bench = Bench::with("");
    bench.run_all(hop.map(|line| {
        let (sent, wanted) = line.split_once(" => ").unwrap();
        format!("GET -> 200 | Cache-Control: max-age=3600 | {sent} => #1 | {wanted}\nGET => #1 | {wanted}")
    }));
    bench.run(
        "
        GET | Connection: A, close | A: 1 | B: 2 | Keep-Alive: x | Proxy-Connection: x | TE: trailers | Proxy-Authorization: x -> 200 => #1 | saw !A | saw B: 2 | saw !Keep-Alive | saw !Proxy-Connection | saw !TE | saw !Proxy-Authorization
        POST | Connection: A | A: 1 | B: 2 -> 200 => #2 | saw !A | saw B: 2
        ",
    );
}

#[test]
fn fields_made_here() {
    Bench::with("").run(
        "
        # Via both ways, after what is there (RFC 9110 section 7.6.3)
        GET | Via: 1.0 first -> 200 | Cache-Control: max-age=3600 | Via: 1.1 origin => #1 | Via: 1.1 origin, 1.1 nearside | saw Via: 1.0 first, 1.1 nearside
        GET => #1 | Via: 1.1 origin, 1.1 nearside

        # Date where there is none, or none that is one
        GET -> 200 | Cache-Control: max-age=3600 | @undated => #1 | Date ~ GMT
        GET => #1 | Date ~ GMT

        GET -> 200 | Cache-Control: max-age=3600 | Date: Thu, 18 Aug 2050 02:01:18 GMT => #1 | Date: Thu, 18 Aug 2050 02:01:18 GMT
        GET => #1 | Date: Thu, 18 Aug 2050 02:01:18 GMT

        # Age on hits only, or as received
        GET -> 200 | Cache-Control: max-age=3600 => #1 | !Age
        GET => #1 | Age >= 0
        GET /other -> 200 | Age: 7 | Cache-Control: no-store => #2 | Age >= 7
        ",
    );
}

/// RFC 9211: one member, after those of caches closer to the origin.
#[test]
fn cache_status() {
    Bench::with("").run(
        "
        GET -> 200 | Cache-Control: max-age=3600 => #1 | Cache-Status ~ Nearside; fwd=uri-miss; fwd-status=200; ttl=3 | Cache-Status ~ ; stored
        GET => #1 | Cache-Status ~ Nearside; hit; ttl=3

        GET -> 200 | Cache-Control: no-store => #1 | Cache-Status: Nearside; fwd=uri-miss; fwd-status=200
        POST -> 200 => #2 | Cache-Status: Nearside; fwd=method; fwd-status=200

        GET -> 200 | Cache-Control: max-age=3600 | Cache-Status: Origin; hit, Mid; fwd=stale => #1 | Cache-Status ~ Origin; hit, Mid; fwd=stale, Nearside; fwd=uri-miss
        GET => #1 | Cache-Status ~ Origin; hit, Mid; fwd=stale, Nearside; hit

        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #1
        GET | Foo: 2 -> 200 => #2 | Cache-Status ~ Nearside; fwd=vary-miss

        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | Cache-Control: max-age=3600 => 200 | #1 | Cache-Status ~ Nearside; fwd=stale; fwd-status=304; ttl=3
        GET | Cache-Control: no-cache -> 200 => #3 | Cache-Status ~ Nearside; fwd=request; fwd-status=200
        GET | Cache-Control: only-if-cached | Foo: 1 => 504

        GET | Cache-Control: only-if-cached => 504 | Cache-Status ~ Nearside
        ",
    );
}

#[test]
fn large_fields() {
    let large = "x".repeat(20_000);
    Bench::with("").run_all([format!(
        "GET | Large: {large} -> 200 | Cache-Control: max-age=3600 | Large: {large} => #1 | Large: {large} | saw Large: {large}\n\
         GET => #1 | Large: {large}"
    )]);
}

/// RFC 9110 section 5.5: what surrounds a value is not part of it; what is in it is not ours to change.
#[test]
fn odd_spellings_of_fields() {
    Bench::with("").run(
        "
        GET -> 200 | @raw HTTP/1.1 200 OK\\r\\ncache-control:max-age=3600\\r\\nContent-Length: 2\\r\\n\\r\\nok => @body ok
        GET => @body ok

        GET -> 200 | @raw HTTP/1.1 200 OK\\r\\nCACHE-CONTROL: \t max-age=3600 \t \\r\\nContent-Length: 2\\r\\n\\r\\nok => @body ok | Cache-Control: max-age=3600
        GET => @body ok

        GET -> 200 | @raw HTTP/1.1 200 OK\\r\\nCache-Control: public,\tmax-age=3600\\r\\nX-A: ä\\r\\nX-B:\\r\\nContent-Length: 2\\r\\n\\r\\nok => @body ok | X-A: ä | X-B:
        GET => @body ok | X-A: ä | X-B:

        # a reason may be anything, or nothing
        GET -> 200 | @raw HTTP/1.1 200 \\r\\nCache-Control: max-age=3600\\r\\nContent-Length: 2\\r\\n\\r\\nok => @body ok
        GET => @body ok

        GET -> 301 | Cache-Control: max-age=3600 | Location: http://elsewhere.test/a?b#c => 301 | Location: http://elsewhere.test/a?b#c
        GET => 301 | Location: http://elsewhere.test/a?b#c

        GET -> 204 | Cache-Control: max-age=3600 | X-A: 1 => 204 | !Content-Length
        GET => 204 | X-A: 1 | Age | !Content-Length

        GET -> 200 | Cache-Control: max-age=3600, unknown=\"a, b\" => #1 | Cache-Control: max-age=3600, unknown=\"a, b\"
        GET => #1 | Cache-Control: max-age=3600, unknown=\"a, b\"

        # Age in a 304 of ours, as in what it stands for
        GET -> 200 | Cache-Control: max-age=3600 | Age: 30 | ETag: \"a\" => #1 | Age >= 30
        GET | If-None-Match: \"a\" => 304 | Age >= 30
        ",
    );
}
