//! Messages that two readers could read differently: what is answered, and that nothing of them reaches
//! the origin or poisons the next request. Raw sockets, because no client library would send these.

mod support;

use support::{Edge, Origin, exchange, said, talk};

/// Follows each bad request on its connection: if the edge ever took it for a request, the origin
/// would see it.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: www.cdn.test\r\n\r\n";

struct Case {
    name: &'static str,
    /// Metric label, or empty where hyper's own parser refuses.
    violation: &'static str,
    bytes: &'static str,
}

const fn case(name: &'static str, violation: &'static str, bytes: &'static str) -> Case {
    Case { name, violation, bytes }
}

const REQUESTS: &[Case] = &[
    case(
        "length and encoding",
        "length_and_encoding",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    case(
        "encoding and length",
        "length_and_encoding",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    case(
        "two lengths",
        "repeated_length",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
    ),
    case(
        "one length twice",
        "repeated_length",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    ),
    case(
        "a list of lengths",
        "repeated_length",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nContent-Length: 0, 0\r\n\r\n",
    ),
    case(
        "a signed length",
        "bad_length",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nContent-Length: +0\r\n\r\n",
    ),
    case(
        "a hexadecimal length",
        "bad_length",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nContent-Length: 0x0\r\n\r\n",
    ),
    case(
        "an endless length",
        "bad_length",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ),
    case(
        "another encoding before chunked",
        "bad_encoding",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    case(
        "chunked twice",
        "bad_encoding",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    case(
        "identity",
        "bad_encoding",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nTransfer-Encoding: identity\r\n\r\n",
    ),
    case(
        "chunked with a vertical tab",
        "bad_encoding",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    ),
    case(
        "encoding in 1.0",
        "encoding_in_old_version",
        "POST / HTTP/1.0\r\nHost: www.cdn.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    case("bare LF after the request line", "bare_lf", "GET / HTTP/1.1\nHost: www.cdn.test\r\n\r\n"),
    case("bare LF after a field", "bare_lf", "GET / HTTP/1.1\r\nHost: www.cdn.test\nX: y\r\n\r\n"),
    case("bare LF as the empty line", "bare_lf", "GET / HTTP/1.1\r\nHost: www.cdn.test\r\n\n"),
    case("bare CR in a field", "bare_cr", "GET / HTTP/1.1\r\nHost: www.cdn.test\r\nX: a\rb\r\n\r\n"),
    case("NUL in a field", "nul", "GET / HTTP/1.1\r\nHost: www.cdn.test\r\nX: a\0b\r\n\r\n"),
    case("a folded line", "folded_line", "GET / HTTP/1.1\r\nHost: www.cdn.test\r\nX: a\r\n b\r\n\r\n"),
    case("a folded first field", "folded_line", "GET / HTTP/1.1\r\n Host: www.cdn.test\r\n\r\n"),
    case(
        "space before a colon",
        "space_before_colon",
        "GET / HTTP/1.1\r\nHost: www.cdn.test\r\nContent-Length : 0\r\n\r\n",
    ),
    case("no colon", "no_colon", "GET / HTTP/1.1\r\nHost: www.cdn.test\r\nnothing\r\n\r\n"),
    case("no name", "no_colon", "GET / HTTP/1.1\r\nHost: www.cdn.test\r\n: x\r\n\r\n"),
    case(
        "a chunk size ended by LF",
        "bad_chunk",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
    ),
    case(
        "chunk data longer than its size",
        "bad_chunk",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ),
    case(
        "a chunk size that is none",
        "bad_chunk",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n",
    ),
    case(
        "a chunk size past 64 bits",
        "bad_chunk",
        "POST / HTTP/1.1\r\nHost: www.cdn.test\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n",
    ),
    case("no host", "", "GET / HTTP/1.1\r\n\r\n"),
    case("two hosts", "", "GET / HTTP/1.1\r\nHost: www.cdn.test\r\nHost: other.cdn.test\r\n\r\n"),
    case("a host that is none", "", "GET / HTTP/1.1\r\nHost: www.cdn.test/x\r\n\r\n"),
    case(
        "another host in the target",
        "",
        "GET http://other.cdn.test/ HTTP/1.1\r\nHost: www.cdn.test\r\nConnection: close\r\n\r\n",
    ),
    case("a control character in the target", "", "GET /a\x01b HTTP/1.1\r\nHost: www.cdn.test\r\n\r\n"),
    case("two spaces in the request line", "", "GET  / HTTP/1.1\r\nHost: www.cdn.test\r\n\r\n"),
    case("an unknown version", "", "GET / HTTP/1.2\r\nHost: www.cdn.test\r\n\r\n"),
    case("a name that is no token", "", "GET / HTTP/1.1\r\nHost: www.cdn.test\r\nX(y): z\r\n\r\n"),
];

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_are_refused_and_poison_nothing() {
    let origin = Origin::start(|_, asked| async move {
        assert_ne!(asked.uri().path(), "/smuggled");
        // Reads the body whatever it is: a refused chunk must not look like the end of one.
        use http_body_util::BodyExt;
        match asked.into_body().collect().await {
            Ok(_) => said(200, &[("cache-control", "no-store")], "from the origin"),
            Err(_) => said(400, &[("cache-control", "no-store")], "cut"),
        }
    })
    .await;
    let edge = Edge::start(&origin).await;
    for Case { name, violation, bytes } in REQUESTS {
        let before = edge.metric("nearside_edge_framing_refused_total", &[&format!("\"{violation}\"")]);
        let answer = talk(edge.http(), format!("{bytes}{SMUGGLED}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{name}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: answered twice: {answer:?}");
        if !violation.is_empty() {
            let after = edge.metric("nearside_edge_framing_refused_total", &[&format!("\"{violation}\"")]);
            assert_eq!(after, before + 1, "{name}: counted as {violation}");
        }
    }
    let fine = edge.get("/", &[]).await;
    assert_eq!(fine.text(), "from the origin", "others are served all the while");
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_but_clear_requests_are_served() {
    let origin = Origin::start(|_, asked| async move {
        use http_body_util::BodyExt;
        let path = asked.uri().path().to_owned();
        let body = asked.into_body().collect().await.unwrap().to_bytes();
        said(200, &[("cache-control", "no-store")], format!("[{path} {}]", String::from_utf8_lossy(&body)))
    })
    .await;
    let edge = Edge::start(&origin).await;
    let close = "GET /end HTTP/1.1\r\nHost: www.cdn.test\r\nConnection: close\r\n\r\n";
    for (request, expected) in [
        ("\r\nGET /a HTTP/1.1\r\nHost: www.cdn.test\r\n\r\n", "[/a ]"),
        ("GET http://www.cdn.test/a HTTP/1.1\r\nHost: www.cdn.test\r\n\r\n", "[/a ]"),
        ("POST /a HTTP/1.1\r\nHost: www.cdn.test\r\nContent-Length: 2\r\n\r\nhi", "[/a hi]"),
        (
            "POST /a HTTP/1.1\r\nHost: www.cdn.test\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\nT: v\r\n\r\n",
            "[/a hi]",
        ),
        ("GET /a HTTP/1.1\r\nhOST:www.cdn.test   \r\nX-Odd: \t\r\n\r\n", "[/a ]"),
    ] {
        let answer = talk(edge.http(), format!("{request}{close}").as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{request:?}: {answer}");
        assert!(answer.contains(expected) && answer.contains("[/end ]"), "{request:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_heads_are_refused_by_their_names() {
    let origin = Origin::start(|_, _| async { said(200, &[], "") }).await;
    let edge = Edge::start(&origin).await;
    let long = "a".repeat(20_000);
    let target = format!("GET /{long} HTTP/1.1\r\nHost: www.cdn.test\r\n\r\n");
    assert!(talk(edge.http(), target.as_bytes()).await.starts_with("HTTP/1.1 414 "));
    let huge = "a".repeat(40_000);
    let field = format!("GET / HTTP/1.1\r\nHost: www.cdn.test\r\nX: {huge}\r\n\r\n");
    assert!(talk(edge.http(), field.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let lines: String = (0..150).map(|number| format!("X-{number}: y\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: www.cdn.test\r\n{lines}\r\n");
    assert!(talk(edge.http(), many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    assert_eq!(origin.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_responses_become_502_and_are_not_kept() {
    for (name, answer) in [
        (
            "length and encoding",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        ),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi"),
        ("one length twice", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi"),
        ("a bad length", "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nhi"),
        ("another encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("encoding in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi"),
        ("NUL", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nhi"),
        ("a folded line", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nhi"),
        ("space before a colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi"),
        ("no HTTP at all", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("a torn head", "HTTP/1.1 200 OK\r\nContent-Le"),
        ("nothing", ""),
    ] {
        let origin = Origin::raw(answer).await;
        let edge = Edge::start(&origin).await;
        let reply = exchange(edge.http(), http::Method::GET, "/", &[], "").await;
        assert_eq!(reply.status, 502, "{name}");
        assert!(reply.field("cache-status").contains("detail=origin-"), "{name}: {:?}", reply.headers);
        assert_eq!(edge.metric("nearside_edge_origin_failures_total", &["site=\"www\""]), 1, "{name}");
        assert_eq!(edge.get("/", &[]).await.status, 502, "{name}: nothing was stored");
    }
}
