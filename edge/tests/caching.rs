//! The whole machine on cacheable traffic: what the client gets, what the origin saw, what was counted.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Method;
use http_body_util::BodyExt;
use nearside_node::Daemon;
use support::{Edge, Origin, get_h2, said};
use tempfile::TempDir;

/// An origin that serves its request's number under these fields.
async fn counting(fields: &'static [(&'static str, &'static str)]) -> Origin {
    Origin::start(move |number, _| async move { said(200, fields, format!("answer {number}")) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_then_a_hit() {
    let origin = counting(&[("cache-control", "max-age=60"), ("content-type", "text/plain")]).await;
    let edge = Edge::start(&origin).await;
    let miss = edge.get("/a?x=1", &[]).await;
    assert_eq!((miss.text(), miss.field("x-cache-status")), ("answer 1", "MISS"));
    assert!(miss.field("cache-status").contains("fwd=uri-miss; fwd-status=200"), "{:?}", miss.headers);
    assert!(miss.field("cache-status").contains("stored"), "{:?}", miss.headers);
    let hit = edge.get("/a?x=1", &[]).await;
    assert_eq!((hit.text(), hit.field("x-cache-status")), ("answer 1", "HIT"));
    assert!(hit.field("cache-status").contains("; hit; ttl="), "{:?}", hit.headers);
    assert!(hit.field("age").parse::<u64>().unwrap() < 5);
    assert_eq!(hit.field("content-length"), "8");
    assert_eq!(edge.get("/a?x=2", &[]).await.text(), "answer 2");
    assert_eq!(edge.get("/a?x=1", &[("host", "other.cdn.test")]).await.text(), "answer 3");
    assert_eq!(origin.requests(), 3);
    assert_eq!((edge.requests("miss"), edge.requests("hit")), (3, 1));
    assert_eq!(edge.metric("nearside_edge_origin_fetches_total", &[]), 3);
    edge.until("bytes are counted", |edge| {
        edge.metric("nearside_edge_body_bytes_total", &["site=\"www\""]) == 32
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_from_a_stored_get() {
    let origin = counting(&[("cache-control", "max-age=60")]).await;
    let edge = Edge::start(&origin).await;
    edge.get("/", &[]).await;
    let head = edge.send(Method::HEAD, "/", &[], "").await;
    assert_eq!((head.status.as_u16(), head.text(), head.field("content-length")), (200, "", "8"));
    assert_eq!(head.field("x-cache-status"), "HIT");
    assert_eq!(origin.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_and_https_and_h2_share_what_is_stored() {
    let origin = counting(&[("cache-control", "max-age=60")]).await;
    let edge = Edge::start_tls(&origin).await;
    assert_eq!(edge.get("/", &[]).await.text(), "answer 1");
    let tls = edge.connect_tls(support::HOST, &["h2"]).await.unwrap();
    for reply in get_h2(tls, &["/", "/", "/"]).await {
        assert_eq!((reply.text(), reply.field("x-cache-status")), ("answer 1", "HIT"));
    }
    assert_eq!(origin.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_are_kept_apart() {
    let origin = Origin::start(|_, asked| async move {
        let language = asked.headers().get("accept-language").map_or("none", |value| value.to_str().unwrap());
        said(200, &[("cache-control", "max-age=60"), ("vary", "Accept-Language")], language.to_owned())
    })
    .await;
    let edge = Edge::start(&origin).await;
    for _ in 0..2 {
        for language in ["de", "fr"] {
            assert_eq!(edge.get("/", &[("accept-language", language)]).await.text(), language);
        }
    }
    assert_eq!(origin.requests(), 2);
    assert_eq!(edge.requests("hit"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_response_is_revalidated() {
    let origin = Origin::start(|_, asked| async move {
        let fields = [("cache-control", "max-age=0, stale-while-revalidate=0"), ("etag", "\"v1\"")];
        match asked.headers().get("if-none-match") {
            Some(tag) if tag == "\"v1\"" => said(304, &fields, ""),
            _ => said(200, &fields, "content"),
        }
    })
    .await;
    let edge = Edge::start(&origin).await;
    assert_eq!(edge.get("/", &[]).await.text(), "content");
    let confirmed = edge.get("/", &[]).await;
    assert_eq!((confirmed.status.as_u16(), confirmed.text()), (200, "content"));
    assert_eq!(confirmed.field("x-cache-status"), "REVALIDATED");
    assert!(confirmed.field("cache-status").contains("fwd=stale; fwd-status=304"), "{:?}", confirmed.headers);
    assert_eq!((origin.requests(), edge.requests("revalidated")), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_are_one_fetch() {
    let origin = Origin::start(|number, _| async move {
        tokio::time::sleep(Duration::from_millis(150)).await;
        said(200, &[("cache-control", "max-age=60")], format!("answer {number}"))
    })
    .await;
    let edge = Arc::new(Edge::start(&origin).await);
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let edge = edge.clone();
            tokio::spawn(async move { edge.get("/", &[]).await.text().to_owned() })
        })
        .collect();
    for client in clients {
        assert_eq!(client.await.unwrap(), "answer 1");
    }
    assert_eq!(origin.requests(), 1);
    assert_eq!(edge.requests("miss"), 1);
    assert_eq!(edge.requests("collapsed") + edge.requests("hit"), 99);
}

#[tokio::test(flavor = "multi_thread")]
async fn uncacheable_responses_do_not_queue() {
    let origin = Origin::start(|number, _| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        said(200, &[("cache-control", "private")], format!("answer {number}"))
    })
    .await;
    let edge = Arc::new(Edge::start(&origin).await);
    let started = std::time::Instant::now();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let edge = edge.clone();
            tokio::spawn(async move { edge.get("/", &[]).await.text().to_owned() })
        })
        .collect();
    let mut answers = std::collections::BTreeSet::new();
    for client in clients {
        answers.insert(client.await.unwrap());
    }
    assert_eq!(answers.len(), 20, "nobody got another's answer");
    assert!(started.elapsed() < Duration::from_secs(2), "one after the other: {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_while_revalidate_refreshes_once_in_the_background() {
    let slow = Arc::new(AtomicBool::new(false));
    let slowly = slow.clone();
    let origin = Origin::start(move |number, _| {
        let slow = slowly.load(Ordering::SeqCst);
        async move {
            if slow {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let fields = [("cache-control", "max-age=0, stale-while-revalidate=60")];
            said(200, &fields, format!("answer {number}"))
        }
    })
    .await;
    let edge = Edge::start(&origin).await;
    assert_eq!(edge.get("/", &[("x", "1")]).await.text(), "answer 1");
    slow.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        let stale = edge.get("/", &[]).await;
        assert_eq!(stale.text(), "answer 1", "nobody waits for the refresh");
    }
    edge.until("the refresh has come", |_| origin.requests() == 2).await;
    assert_eq!(edge.metric("nearside_edge_refreshes_total", &["site=\"www\""]), 1);
    assert!(edge.requests("stale") >= 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_if_error_stands_in_for_a_failing_origin() {
    let broken = Arc::new(AtomicBool::new(false));
    let breaks = broken.clone();
    let origin = Origin::start(move |_, _| {
        let broken = breaks.load(Ordering::SeqCst);
        async move {
            match broken {
                true => said(503, &[], "broken"),
                false => {
                    said(200, &[("cache-control", "max-age=0, stale-if-error=60"), ("etag", "\"1\"")], "good")
                }
            }
        }
    })
    .await;
    let edge = Edge::start(&origin).await;
    assert_eq!(edge.get("/", &[]).await.text(), "good");
    broken.store(true, Ordering::SeqCst);
    let stale = edge.get("/", &[]).await;
    assert_eq!((stale.status.as_u16(), stale.text(), stale.field("x-cache-status")), (200, "good", "STALE"));
    assert!(stale.field("cache-status").contains("fwd-status=503"), "{:?}", stale.headers);
    assert_eq!(edge.get("/never", &[]).await.status, 503);
    assert_eq!(edge.requests("stale"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_stored_objects() {
    let body = |length: usize| (0..length).map(|at| b'a' + (at % 26) as u8).collect::<Vec<_>>();
    let origin = Origin::start(move |_, _| async move {
        let fields = [("cache-control", "max-age=60"), ("etag", "\"v\""), ("content-type", "text/plain")];
        said(200, &fields, body(1000))
    })
    .await;
    let edge = Edge::start(&origin).await;
    assert_eq!(edge.get("/", &[]).await.body.unwrap().len(), 1000);
    for (range, expected, span) in [
        ("bytes=0-4", &body(1000)[0..5], "bytes 0-4/1000"),
        ("bytes=990-", &body(1000)[990..], "bytes 990-999/1000"),
        ("bytes=-3", &body(1000)[997..], "bytes 997-999/1000"),
        ("bytes=500-99999", &body(1000)[500..], "bytes 500-999/1000"),
    ] {
        let part = edge.get("/", &[("range", range)]).await;
        assert_eq!((part.status.as_u16(), part.field("content-range")), (206, span), "{range}");
        assert_eq!(part.body.unwrap(), expected, "{range}");
    }
    let several = edge.get("/", &[("range", "bytes=0-1, 500-501")]).await;
    assert_eq!(several.status, 206);
    let content_type = several.field("content-type").to_owned();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let parts = "\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/1000\r\n\r\nab\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 500-501/1000\r\n\r\ngh\r\n--B--\r\n";
    assert_eq!(several.text(), parts.replace('B', boundary));
    let past = edge.get("/", &[("range", "bytes=1000-")]).await;
    assert_eq!((past.status.as_u16(), past.field("content-range")), (416, "bytes */1000"));
    let changed = edge.get("/", &[("range", "bytes=0-4"), ("if-range", "\"old\"")]).await;
    assert_eq!((changed.status.as_u16(), changed.body.unwrap().len()), (200, 1000));
    assert_eq!(origin.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_answered_from_the_store() {
    let origin = counting(&[("cache-control", "max-age=60"), ("etag", "\"v1\"")]).await;
    let edge = Edge::start(&origin).await;
    edge.get("/", &[]).await;
    let unchanged = edge.get("/", &[("if-none-match", "\"v0\", W/\"v1\"")]).await;
    assert_eq!((unchanged.status.as_u16(), unchanged.text(), unchanged.field("etag")), (304, "", "\"v1\""));
    assert_eq!(edge.get("/", &[("if-none-match", "\"v0\"")]).await.text(), "answer 1");
    assert_eq!(origin.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsafe_method_invalidates() {
    let origin = counting(&[("cache-control", "max-age=60")]).await;
    let edge = Edge::start(&origin).await;
    assert_eq!(edge.get("/", &[]).await.text(), "answer 1");
    assert_eq!(edge.send(Method::POST, "/", &[], "change").await.text(), "answer 2");
    assert_eq!(edge.get("/", &[]).await.text(), "answer 3");
    assert_eq!((edge.requests("pass"), edge.requests("miss")), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_with_content_is_never_shared() {
    let origin = Origin::start(|_, asked| async move {
        let body = asked.into_body().collect().await.unwrap().to_bytes();
        said(200, &[("cache-control", "max-age=60")], format!("said {}", String::from_utf8_lossy(&body)))
    })
    .await;
    let edge = Edge::start(&origin).await;
    assert_eq!(edge.send(Method::GET, "/", &[], "poison").await.text(), "said poison");
    assert_eq!(edge.get("/", &[]).await.text(), "said ");
}

#[tokio::test(flavor = "multi_thread")]
async fn purges_take_what_they_name() {
    let origin = counting(&[("cache-control", "max-age=60"), ("surrogate-key", "news front")]).await;
    let edge = Edge::start(&origin).await;
    let purge = async |scope: &str| {
        let body = format!(r#"{{"purges": [{{"scope": {scope}}}]}}"#);
        edge.control(Method::POST, "/v1/purges", &[], body).await.status.as_u16()
    };
    let is_cached = async |state: &str| {
        let query = [("url", "http://www.cdn.test/a")];
        let answer = edge.control(Method::GET, "/v1/cached", &query, String::new()).await;
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer["state"], state);
    };
    for (scope, spares_b) in [
        (r#"{"url": "http://www.cdn.test/a"}"#, true),
        (r#"{"prefix": "http://www.cdn.test/a"}"#, true),
        (r#"{"prefix": "http://www.cdn.test/"}"#, false),
        (r#"{"tag": {"tag": "news"}}"#, false),
        (r#"{"site": "www"}"#, false),
        (r#""all""#, false),
    ] {
        let first = edge.get("/a", &[]).await.text().to_owned();
        edge.get("/b", &[]).await;
        assert_eq!(edge.get("/a", &[]).await.field("x-cache-status"), "HIT", "{scope}");
        is_cached("cached").await;
        assert_eq!(purge(scope).await, 200, "{scope}");
        is_cached("absent").await;
        let again = edge.get("/a", &[]).await;
        assert_eq!(again.field("x-cache-status"), "MISS", "{scope}");
        assert_ne!(again.text(), first, "{scope}");
        let b = edge.get("/b", &[]).await;
        assert_eq!(b.field("x-cache-status"), if spares_b { "HIT" } else { "MISS" }, "{scope}");
        assert_eq!(purge(r#""all""#).await, 200);
    }
    let unknown = r#"{"purges": [{"scope": {"url": "http://elsewhere.test/"}}]}"#;
    assert_eq!(edge.control(Method::POST, "/v1/purges", &[], unknown.to_owned()).await.status, 404);
    let broken = edge.control(Method::POST, "/v1/purges", &[], "{".to_owned()).await;
    assert_eq!(broken.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_purge_leaves_a_stand_in() {
    let broken = Arc::new(AtomicBool::new(false));
    let breaks = broken.clone();
    let origin = Origin::start(move |_, _| {
        let broken = breaks.load(Ordering::SeqCst);
        async move {
            match broken {
                true => said(500, &[], "broken"),
                false => said(200, &[("cache-control", "max-age=60, stale-if-error=60")], "good"),
            }
        }
    })
    .await;
    let edge = Edge::start(&origin).await;
    edge.get("/", &[]).await;
    let purge = r#"{"purges": [{"scope": "all", "mode": "soft"}]}"#;
    assert_eq!(edge.control(Method::POST, "/v1/purges", &[], purge.to_owned()).await.status, 200);
    broken.store(true, Ordering::SeqCst);
    assert_eq!(edge.get("/", &[]).await.text(), "good");
    assert_eq!(origin.requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_cut_short_is_never_kept_nor_passed_off_as_whole() {
    let origin = Origin::raw_in_turn(&[
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 1000\r\n\r\nonly the beginning",
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nonly \r\n",
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 5\r\n\r\nwhole",
    ])
    .await;
    let edge = Edge::start(&origin).await;
    for _ in 0..2 {
        let cut = edge.get("/", &[]).await;
        assert!(cut.body.is_err(), "{:?}", cut.body);
    }
    assert_eq!(edge.get("/", &[]).await.text(), "whole");
    assert_eq!(edge.get("/", &[]).await.field("x-cache-status"), "HIT");
    assert_eq!(origin.requests(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_survives_a_restart() {
    let origin = counting(&[("cache-control", "max-age=600")]).await;
    let dir = TempDir::new().unwrap();
    let config = support::fleet(origin.address, &dir, None);
    let edge = Edge::with(config.clone(), dir).await;
    // One-hit wonders may stay off the disk: ask twice.
    for _ in 0..3 {
        assert_eq!(edge.get("/kept", &[]).await.text(), "answer 1");
    }
    edge.daemon.stop(std::time::Instant::now() + support::PATIENCE).await;
    let dir = edge.into_dir().await;
    let edge = Edge::with(config, dir).await;
    let kept = edge.get("/kept", &[]).await;
    assert_eq!((kept.text(), kept.field("x-cache-status")), ("answer 1", "HIT"));
    assert_eq!(origin.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_nobodys_answer_with_it() {
    let released = Arc::new(tokio::sync::Notify::new());
    let release = released.clone();
    let started = Arc::new(AtomicU64::new(0));
    let origin = Origin::start(move |number, _| {
        let release = release.clone();
        async move {
            release.notified().await;
            said(200, &[("cache-control", "max-age=60")], format!("answer {number}"))
        }
    })
    .await;
    let edge = Arc::new(Edge::start(&origin).await);
    let leader = tokio::spawn({
        let edge = edge.clone();
        async move { edge.get("/", &[]).await }
    });
    edge.until("the leader's fetch has begun", |_| origin.requests() == 1).await;
    let follower = tokio::spawn({
        let (edge, started) = (edge.clone(), started.clone());
        async move {
            started.fetch_add(1, Ordering::SeqCst);
            edge.get("/", &[]).await.text().to_owned()
        }
    });
    edge.until("the follower waits", |edge| {
        started.load(Ordering::SeqCst) == 1 && edge.metric("nearside_edge_connections", &[]) == 2
    })
    .await;
    leader.abort();
    released.notify_one();
    assert_eq!(follower.await.unwrap(), "answer 1");
    assert_eq!(origin.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_arrive_whole_and_stream() {
    let body: Vec<u8> = (0..5_000_000usize).map(|at| (at / 255 + at) as u8).collect();
    let whole = bytes::Bytes::from(body);
    let sent = whole.clone();
    let origin = Origin::start(move |_, _| {
        let sent = sent.clone();
        async move { said(200, &[("cache-control", "max-age=60")], sent) }
    })
    .await;
    let edge = Edge::start_tls(&origin).await;
    for _ in 0..2 {
        assert!(edge.get("/", &[]).await.body.unwrap() == whole, "over HTTP/1.1");
        let tls = edge.connect_tls(support::HOST, &["h2"]).await.unwrap();
        let reply = get_h2(tls, &["/"]).await.remove(0);
        assert!(reply.body.unwrap() == whole, "over h2");
    }
    let part = edge.get("/", &[("range", "bytes=3000000-3999999")]).await;
    assert!(part.body.unwrap() == whole[3_000_000..4_000_000]);
    assert_eq!(origin.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_says_so_answers_later_gets() {
    let fields = &[("cache-control", "max-age=60"), ("content-location", "/form")];
    let origin = counting(fields).await;
    let edge = Edge::start(&origin).await;
    assert_eq!(edge.get("/form", &[]).await.text(), "answer 1");
    let posted = edge.send(Method::POST, "/form", &[], "x").await;
    assert_eq!((posted.text(), posted.field("x-cache-status")), ("answer 2", "BYPASS"));
    let hit = edge.get("/form", &[]).await;
    assert_eq!((hit.text(), hit.field("x-cache-status")), ("answer 2", "HIT"));
    assert_eq!(edge.send(Method::POST, "/form", &[], "x").await.text(), "answer 3");
    assert_eq!(origin.requests(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_other_than_asked_for_is_not_kept() {
    let origin = Origin::start(|_, asked| async move {
        let fields = [("cache-control", "max-age=60"), ("etag", "\"v\""), ("accept-ranges", "bytes")];
        match asked.headers().get("range") {
            // Whatever the range.
            Some(_) => {
                let mut part = said(206, &fields, "cde");
                part.headers_mut().insert("content-range", "bytes 2-4/26".parse().unwrap());
                part
            }
            None => said(200, &fields, "abcdefghijklmnopqrstuvwxyz"),
        }
    })
    .await;
    let edge = Edge::start(&origin).await;
    let part = edge.get("/", &[("range", "bytes=2-4")]).await;
    assert_eq!((part.status.as_u16(), part.text()), (206, "cde"));
    assert_eq!(part.field("content-range"), "bytes 2-4/26");
    let all = edge.get("/", &[("range", "bytes=0-")]).await;
    assert_eq!((all.status.as_u16(), all.text()), (206, "abcdefghijklmnopqrstuvwxyz"));
    assert_eq!(
        edge.get("/", &[]).await.field("x-cache-status"),
        "HIT",
        "a part is never taken for the whole"
    );
    assert_eq!(edge.get("/", &[("range", "bytes=2-4")]).await.text(), "cde");
    assert_eq!(origin.requests(), 2);
}

/// What home sends: a purge, and what it knows of the journal.
async fn purge_from_home(edge: &Edge, sequence: u64, path: &str, journal: [u64; 3]) -> serde_json::Value {
    let [acknowledged, newest, trimmed] = journal;
    let message = serde_json::json!({
        "purges": [{ "sequence": sequence, "scope": { "url": format!("http://{}{path}", support::HOST) } }],
        "journal": { "acknowledged": acknowledged, "newest": newest, "trimmed": trimmed },
    });
    let answer = edge.control(Method::POST, "/v1/purges", &[], message.to_string()).await;
    assert_eq!(answer.status, 200);
    serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap()["through"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_edge_goes_on_from_the_newest_purge_of_its_fleet() {
    let origin = counting(&[("cache-control", "max-age=60")]).await;
    let edge = Edge::start(&origin).await;
    assert_eq!(purge_from_home(&edge, 1, "/a", [0, 100_000, 0]).await, 100_000);
    assert_eq!(edge.get("/a", &[]).await.text(), "answer 1");
    assert_eq!(purge_from_home(&edge, 100_001, "/a", [100_000, 100_001, 1]).await, 100_001);
    assert_eq!(edge.get("/a", &[]).await.text(), "answer 2");
    assert_eq!(edge.metric("nearside_edge_cache_purge_orders_total", &[]), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_with_content_takes_no_purge_as_applied_that_it_may_need() {
    let origin = counting(&[("cache-control", "max-age=60"), ("etag", "\"v\"")]).await;
    let edge = Edge::start(&origin).await;
    edge.get("/a", &[]).await;
    // It began empty: what was acknowledged under its name came before. What came later it needs.
    assert_eq!(purge_from_home(&edge, 5003, "/b", [5000, 5003, 0]).await, 5000);
    assert_eq!(purge_from_home(&edge, 5001, "/a", [5000, 5003, 0]).await, 5001);
    assert_eq!(purge_from_home(&edge, 5002, "/c", [5000, 5003, 0]).await, 5003);
    assert_eq!(edge.get("/a", &[]).await.text(), "answer 2");
    // Away for longer than the journal reaches: everything is stale.
    assert_eq!(edge.get("/a", &[]).await.field("x-cache-status"), "HIT");
    assert_eq!(purge_from_home(&edge, 9001, "/c", [5003, 9001, 9000]).await, 9001);
    let stale = edge.get("/a", &[]).await;
    assert!(stale.field("cache-status").contains("fwd=stale"), "{:?}", stale.headers);
    assert_eq!(origin.requests(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_whose_purge_journal_is_lost_is_not_trusted() {
    let origin = counting(&[("cache-control", "max-age=60")]).await;
    let edge = Edge::start(&origin).await;
    edge.get("/a", &[]).await;
    edge.get("/a", &[]).await;
    let config = edge.config.clone();
    edge.daemon.stop(std::time::Instant::now() + support::PATIENCE).await;
    let dir = edge.into_dir().await;
    std::fs::remove_file(dir.path().join("cache/purges")).unwrap();
    let edge = Edge::with(config, dir).await;
    assert_eq!(edge.get("/a", &[]).await.field("x-cache-status"), "MISS");
    assert_eq!((origin.requests(), edge.requests("miss")), (2, 1));
}
