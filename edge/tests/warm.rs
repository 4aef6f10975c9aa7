//! Fetching ahead, asking what is there, and content that turns out too long to keep.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use http::Method;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use support::{Edge, Origin, Said, fleet, said};
use tempfile::TempDir;

async fn control(
    edge: &Edge,
    method: Method,
    path: &str,
    query: &[(&str, &str)],
    body: Value,
) -> (u16, Value) {
    let answer = edge.control(method, path, query, body.to_string()).await;
    (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or_default())
}

async fn cached(edge: &Edge, path: &str, fetch: &str) -> Value {
    let url = format!("http://{}{path}", support::HOST);
    control(edge, Method::GET, "/v1/cached", &[("url", &url), ("fetch", fetch)], Value::Null).await.1
}

/// Chunked: its length shows at its end.
fn undeclared(fields: &[(&str, &str)], length: usize) -> Said {
    let frames = (0..length.div_ceil(1000)).map(move |n| {
        let frame = vec![n as u8; 1000.min(length - n * 1000)];
        Ok::<_, std::io::Error>(http_body::Frame::data(bytes::Bytes::from(frame)))
    });
    let mut said = said(200, fields, "");
    *said.body_mut() = StreamBody::new(futures_util::stream::iter(frames)).boxed();
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_urls_is_fetched_ahead() {
    let origin = Origin::start(|_, asked| async move {
        match asked.uri().path() {
            "/private" => said(200, &[("cache-control", "private")], "mine"),
            "/missing" => said(500, &[], "broken"),
            path => said(200, &[("cache-control", "max-age=60")], path.to_owned()),
        }
    })
    .await;
    let edge = Edge::start(&origin).await;
    let mut urls: Vec<_> = (0..50).map(|n| format!("http://{}/{n}", support::HOST)).collect();
    urls.extend(["private", "missing"].map(|path| format!("http://{}/{path}", support::HOST)));
    let (status, told) = control(&edge, Method::POST, "/v1/warm", &[], json!({ "urls": urls })).await;
    assert_eq!((status, told["running"].as_u64()), (200, Some(8)), "{told}");
    edge.until("the list is through", |edge| {
        edge.metric("nearside_edge_cache_warmed_total", &[]) == 50
            && edge.metric("nearside_edge_cache_warm_failed_total", &[]) == 2
    })
    .await;
    let (_, told) = control(&edge, Method::GET, "/v1/warm", &[], Value::Null).await;
    assert_eq!(
        (told["done"].as_u64(), told["failed"].as_u64(), told["queued"].as_u64()),
        (Some(50), Some(2), Some(0))
    );
    assert_eq!(told["failures"].as_array().unwrap().len(), 2, "{told}");
    assert_eq!(edge.get("/7", &[]).await.field("x-cache-status"), "HIT");
    assert_eq!(origin.requests(), 52);
    // A job counts its own URLs alone, and jobs are found by name until many others came.
    let of_job = |name: &str, path: &str| {
        let body = json!({ "urls": [format!("http://{}{path}", support::HOST)], "job": name });
        let edge = &edge;
        async move { control(edge, Method::POST, "/v1/warm", &[], body).await }
    };
    for path in ["/7", "/job", "/private"] {
        assert_eq!(of_job("deploy", path).await.0, 200);
    }
    edge.until("the job is done", |edge| {
        edge.metric("nearside_edge_cache_warmed_total", &[]) == 52
            && edge.metric("nearside_edge_cache_warm_failed_total", &[]) == 3
    })
    .await;
    let job = |name: &'static str| {
        let edge = &edge;
        async move { control(edge, Method::GET, "/v1/warm", &[("job", name)], Value::Null).await }
    };
    let (_, told) = job("deploy").await;
    assert_eq!((told["done"].as_u64(), told["failed"].as_u64()), (Some(2), Some(1)), "{told}");
    for at in 0..nearside_edge::warm::JOBS_MAX as u64 {
        assert_eq!(of_job(&at.to_string(), "/7").await.0, 200);
        edge.until("it is done", |edge| edge.metric("nearside_edge_cache_warmed_total", &[]) == 53 + at)
            .await;
    }
    assert_eq!(job("deploy").await.0, 404, "forgotten");
    let elsewhere = json!({ "urls": ["http://elsewhere.test/"] });
    assert_eq!(control(&edge, Method::POST, "/v1/warm", &[], elsewhere).await.0, 404);
    let many =
        json!({ "urls": vec![format!("http://{}/", support::HOST); nearside_edge::warm::QUEUE_MAX + 1] });
    assert_eq!(control(&edge, Method::POST, "/v1/warm", &[], many).await.0, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_told_and_fetched_on_demand() {
    let origin =
        Origin::start(|_, _| async move { said(200, &[("cache-control", "max-age=60")], "content") }).await;
    let edge = Edge::start(&origin).await;
    let absent = cached(&edge, "/a", "0").await;
    assert_eq!((&absent["state"], &absent["fetching"]), (&json!("absent"), &json!(false)));
    assert_eq!(cached(&edge, "/a", "1").await["fetching"], true);
    edge.until("it is fetched", |edge| edge.metric("nearside_edge_cache_warmed_total", &[]) == 1).await;
    let there = cached(&edge, "/a", "1").await;
    assert_eq!((&there["state"], &there["fetching"]), (&json!("cached"), &json!(false)));
    assert_eq!((&there["bytes"], &there["length"]), (&json!(7), &json!(7)));
    assert_eq!(origin.requests(), 1);
    assert_eq!(edge.get("/a", &[]).await.field("x-cache-status"), "HIT");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_turns_out_too_long_streams_on_and_is_not_kept() {
    let origin = Origin::start(|_, asked| async move {
        let length = asked.uri().path()[1..].parse().unwrap();
        undeclared(&[("cache-control", "max-age=60")], length)
    })
    .await;
    let dir = TempDir::new().unwrap();
    let mut config = fleet(origin.address, &dir, None);
    config.sites.get_mut("www").unwrap().cache.object_bytes_max = 1_500_000;
    let edge = Edge::with(config, dir).await;
    for (length, second) in [(1_500_000, "HIT"), (1_500_001, "MISS"), (5_000_000, "MISS")] {
        let first = edge.get(&format!("/{length}"), &[]).await;
        assert_eq!((first.status.as_u16(), first.body.unwrap().len()), (200, length));
        edge.until("its fill has ended", |edge| edge.metric("nearside_edge_cache_fill_bytes", &[]) == 0)
            .await;
        let again = edge.get(&format!("/{length}"), &[]).await;
        assert_eq!((again.field("x-cache-status"), again.body.as_ref().unwrap().len()), (second, length));
    }
    assert_eq!(origin.requests(), 5);
    assert_eq!(edge.metric("nearside_edge_cache_objects_stored_total", &[]), 1);
    assert_eq!(edge.metric("nearside_edge_cache_fills_unstored_total", &[]), 4);
}
