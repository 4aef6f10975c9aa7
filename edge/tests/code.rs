//! Code at the edge, on a real edge: what a module may do, what it may not, and what becomes of one that fails.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::{path::Path, process::Command, time::Duration};

use http::Method;
use nearside_fleet::config::{
    Config,
    transform::{Code, OnError},
};
use support::{Edge, Origin, fleet, said};
use tempfile::TempDir;

/// The imports that tests use, and texts at 0.
fn module(texts: &str, body: &str) -> String {
    format!(
        r#"(module
        (import "nearside_1" "read" (func $read (param i32 i32 i32) (result i32)))
        (import "nearside_1" "header_get" (func $get (param i32 i32 i32 i32) (result i32)))
        (import "nearside_1" "header_set" (func $set (param i32 i32 i32 i32) (result i32)))
        (import "nearside_1" "header_remove" (func $remove (param i32 i32) (result i32)))
        (import "nearside_1" "target_set" (func $target (param i32 i32) (result i32)))
        (import "nearside_1" "key_add" (func $key (param i32 i32) (result i32)))
        (import "nearside_1" "status_set" (func $status_set (param i32) (result i32)))
        (import "nearside_1" "respond" (func $respond (param i32 i32 i32) (result i32)))
        (import "nearside_1" "answer_header_set" (func $answer_set (param i32 i32 i32 i32) (result i32)))
        (import "nearside_1" "redirect" (func $redirect (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "{texts}")
        {body})"#
    )
}

fn with_module(origin: &Origin, text: &str, on_error: OnError) -> (Config, TempDir) {
    let dir = TempDir::new().unwrap();
    let module = dir.path().join("hook.wasm");
    std::fs::write(&module, wat::parse_str(text).unwrap()).unwrap();
    let mut config = fleet(origin.address, &dir, None);
    let time = Duration::from_millis(500);
    let code = Code { module, on_error, fuel: 1_000_000, time, memory_bytes_max: 1 << 20 };
    config.sites.get_mut("www").unwrap().transform.code = Some(code);
    (config, dir)
}

async fn edge_before(origin: &Origin, text: &str, on_error: OnError) -> Edge {
    let (config, dir) = with_module(origin, text, on_error);
    Edge::with(config, dir).await
}

/// Says what it was asked, and by which fields.
async fn echo() -> Origin {
    Origin::start(|number, asked| async move {
        let field =
            |name: &str| asked.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let said_of = format!("{number} {} a={} host={}", asked.uri(), field("x-a"), field("host"));
        said(200, &[("cache-control", "max-age=60"), ("x-origin", "yes"), ("server", "o")], said_of)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_reads_and_changes_requests_and_responses() {
    let origin = echo().await;
    // "x-a" 0..3, "vienna" 3..9, "/b?c=d" 9..15, "x-origin" 15..23, "host" 23..27, "transfer-encoding" 27..44
    let text = module(
        "x-avienna/b?c=dx-originhosttransfer-encoding",
        r#"(func (export "on_request")
            (drop (call $set (i32.const 0) (i32.const 3) (i32.const 3) (i32.const 6)))
            ;; Ours: refused.
            (if (i32.ne (call $set (i32.const 23) (i32.const 4) (i32.const 3) (i32.const 6)) (i32.const -2)) (then unreachable))
            (if (i32.ne (call $set (i32.const 27) (i32.const 17) (i32.const 3) (i32.const 6)) (i32.const -2)) (then unreachable))
            ;; What is no path, and a status of a response that is not there.
            (if (i32.ne (call $target (i32.const 0) (i32.const 3)) (i32.const -2)) (then unreachable))
            (if (i32.ne (call $status_set (i32.const 201)) (i32.const -2)) (then unreachable))
            (drop (call $target (i32.const 9) (i32.const 6))))
        (func (export "on_response")
            (drop (call $remove (i32.const 15) (i32.const 8)))
            (if (i32.ne (call $status_set (i32.const 204)) (i32.const -2)) (then unreachable))
            (drop (call $status_set (i32.const 203)))
            ;; The response has no such field yet.
            (if (i32.ne (call $get (i32.const 0) (i32.const 3) (i32.const 100) (i32.const 10)) (i32.const -1)) (then unreachable))
            (drop (call $set (i32.const 0) (i32.const 3) (i32.const 100) (call $read (i32.const 5) (i32.const 100) (i32.const 50)))))"#,
    );
    let edge = edge_before(&origin, &text, OnError::Closed).await;
    for status in ["MISS", "HIT"] {
        let reply = edge.get("/a", &[]).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (203, "1 /b?c=d a=vienna host=www.cdn.test"));
        assert_eq!((reply.field("x-origin"), reply.field("x-a")), ("", "127.0.0.1"));
        assert_eq!(reply.field("x-cache-status"), status);
    }
    let head = edge.send(Method::HEAD, "/a", &[], "").await;
    assert_eq!((head.status.as_u16(), head.field("content-length")), (203, "35"));
    assert_eq!(
        edge.metric("nearside_edge_code_calls_total", &["hook=\"on_request\"", "end=\"returned\""]),
        3
    );
    assert_eq!(
        edge.metric("nearside_edge_code_calls_total", &["hook=\"on_response\"", "end=\"returned\""]),
        3
    );
    assert!(edge.metric("nearside_edge_code_fuel_total", &["site=\"www\""]) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_answers_and_redirects() {
    let origin = echo().await;
    // "x-a" 0..3, "short" 3..8, "/elsewhere" 8..18
    let text = module(
        "x-ashort/elsewhere",
        r#"(func (export "on_request")
            (drop (call $read (i32.const 1) (i32.const 200) (i32.const 2)))
            (if (i32.eq (i32.load8_u (i32.const 201)) (i32.const 114))
                (then (drop (call $redirect (i32.const 308) (i32.const 8) (i32.const 10))))
                (else
                    (if (i32.ne (call $respond (i32.const 99) (i32.const 3) (i32.const 5)) (i32.const -2)) (then unreachable))
                    (drop (call $answer_set (i32.const 0) (i32.const 3) (i32.const 3) (i32.const 5)))
                    (drop (call $respond (i32.const 418) (i32.const 3) (i32.const 5))))))"#,
    );
    let edge = edge_before(&origin, &text, OnError::Closed).await;
    let reply = edge.get("/a", &[]).await;
    assert_eq!((reply.status.as_u16(), reply.text(), reply.field("x-a")), (418, "short", "short"));
    let head = edge.send(Method::HEAD, "/a", &[], "").await;
    assert_eq!((head.status.as_u16(), head.text(), head.field("content-length")), (418, "", "5"));
    let moved = edge.get("/r", &[]).await;
    assert_eq!((moved.status.as_u16(), moved.field("location"), moved.text()), (308, "/elsewhere", ""));
    assert_eq!(origin.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_by_key_lie_under_one_url() {
    let origin = echo().await;
    let text = module(
        "cookie",
        r#"(func (export "on_request") (local $n i32)
            (local.set $n (call $get (i32.const 0) (i32.const 6) (i32.const 100) (i32.const 50)))
            (if (i32.gt_s (local.get $n) (i32.const 0))
                (then (drop (call $key (i32.const 100) (local.get $n))))))"#,
    );
    let edge = edge_before(&origin, &text, OnError::Closed).await;
    for (cookie, number) in [("a", "1"), ("b", "2"), ("a", "1"), ("b", "2")] {
        let reply = edge.get("/x", &[("cookie", cookie)]).await;
        assert!(reply.text().starts_with(number), "{cookie}: {}", reply.text());
    }
    // What a client says of it is not believed.
    let forged = edge.get("/x", &[("nearside-key", "a")]).await;
    assert!(forged.text().starts_with('3'), "{}", forged.text());
    let purge = r#"{"purges": [{"scope": {"url": "http://www.cdn.test/x"}}]}"#;
    assert_eq!(edge.control(Method::POST, "/v1/purges", &[], purge.to_owned()).await.status, 200);
    assert!(edge.get("/x", &[("cookie", "a")]).await.text().starts_with('4'), "a purge takes all of them");
    assert!(edge.get("/x", &[("cookie", "b")]).await.text().starts_with('5'));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_fails_open_or_closed() {
    let origin = echo().await;
    for (what, body, end) in [
        ("a trap", r#"(func (export "on_request") unreachable)"#, "trapped"),
        ("a loop", r#"(func (export "on_request") (loop (br 0)))"#, "fuel"),
        ("recursion", r#"(func $f (export "on_response") (call $f) (call $f))"#, "trapped"),
        (
            "greed",
            r#"(func (export "on_response") (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable)"#,
            "trapped",
        ),
        (
            "a change before a trap",
            r#"(func (export "on_request") (drop (call $target (i32.const 0) (i32.const 2))) unreachable)"#,
            "trapped",
        ),
    ] {
        let text = module("/z", body);
        let open = edge_before(&origin, &text, OnError::Open).await;
        let reply = open.get("/a", &[]).await;
        assert_eq!(reply.status, 200, "{what}");
        assert!(reply.text().contains(" /a "), "{what}: it goes on as it came: {}", reply.text());
        let label = format!("end=\"{end}\"");
        assert_eq!(open.metric("nearside_edge_code_calls_total", &[&label]), 1, "{what}");
        let closed = edge_before(&origin, &text, OnError::Closed).await;
        let reply = closed.get("/a", &[]).await;
        assert_eq!(reply.status, 503, "{what}");
        assert!(reply.field("cache-status").contains("detail=edge-code"), "{what}: {:?}", reply.headers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_is_replaced_live_and_a_bad_one_is_refused() {
    let origin = echo().await;
    let answering = |status: u16| {
        let body = format!(
            r#"(func (export "on_request") (drop (call $respond (i32.const {status}) (i32.const 0) (i32.const 0))))"#
        );
        module("", &body)
    };
    let (config, dir) = with_module(&origin, &answering(418), OnError::Open);
    let file = dir.path().join("hook.wasm");
    let edge = Edge::with(config.clone(), dir).await;
    assert_eq!(edge.get("/", &[]).await.status, 418);
    std::fs::write(&file, wat::parse_str(answering(419)).unwrap()).unwrap();
    edge.reload(config.clone()).unwrap();
    assert_eq!(edge.get("/", &[]).await.status, 419);
    for bad in [&b"no module"[..], b"\0asm\x01\0\0\0", b""] {
        std::fs::write(&file, bad).unwrap();
        assert!(edge.reload(config.clone()).is_err(), "{bad:?}");
        assert_eq!(edge.get("/", &[]).await.status, 419, "the last good one serves on");
    }
    assert_eq!(
        edge.metric("nearside_edge_code_calls_total", &["end=\"returned\""]),
        5,
        "counters outlive reloads"
    );
}

/// The example in Rust, built for WebAssembly; `None` where Rust can't do that.
fn example() -> Option<Vec<u8>> {
    const TARGET: &str = "wasm32-unknown-unknown";
    let libdir =
        Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output().ok()?;
    Path::new(str::from_utf8(&libdir.stdout).ok()?.trim()).is_dir().then_some(())?;
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/edge-code/Cargo.toml");
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("example");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--quiet", "--locked", "--offline", "--target", TARGET]);
    let status = cargo.args(["--manifest-path", manifest, "--target-dir"]).arg(&built).status().unwrap();
    assert!(status.success(), "the example builds");
    Some(std::fs::read(built.join(TARGET).join("release/edge_code.wasm")).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_redirects_and_keeps_two_variants() {
    let Some(example) = example() else {
        eprintln!("not here: rustup target add wasm32-unknown-unknown");
        return;
    };
    let origin = echo().await;
    let (mut config, dir) =
        with_module(&origin, &module("", r#"(func (export "on_request"))"#), OnError::Closed);
    std::fs::write(dir.path().join("hook.wasm"), example).unwrap();
    // Rust's stack is 1 MiB, and stands in front of everything else.
    let transform = &mut config.sites.get_mut("www").unwrap().transform;
    transform.code.as_mut().unwrap().memory_bytes_max = 16 << 20;
    let edge = Edge::with(config, dir).await;
    let moved = edge.get("/old/page?x=1", &[]).await;
    assert_eq!((moved.status.as_u16(), moved.field("location")), (301, "/new/page"));
    for (cookie, number) in [("a=b", "1"), ("beta=1", "2"), ("a=c", "1"), ("x=y; beta=1", "2")] {
        let reply = edge.get("/page", &[("cookie", cookie)]).await;
        assert!(reply.text().starts_with(number), "{cookie}: {}", reply.text());
        assert_eq!(reply.field("x-edge-code"), "example");
    }
}
