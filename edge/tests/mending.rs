//! A stored copy that turns out damaged midway: the client gets the right bytes all the same, or a response that breaks off.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use nearside_node::Daemon;
use support::{Asked, Edge, Origin, Said, said};

const MIB: usize = 1 << 20;

fn content() -> Bytes {
    (0..3 * MIB).map(|at| (at / 5 + at / MIB) as u8).collect::<Vec<_>>().into()
}

/// How the origin tells the state of its content, and whether it knows ranges.
#[derive(Clone, Copy)]
struct Habits {
    etag: &'static str,
    knows_ranges: bool,
}

async fn origin(habits: Habits) -> Origin {
    let content = content();
    Origin::start(move |_, asked: Asked| {
        let said = answer(habits, &content, &asked);
        async move { said }
    })
    .await
}

fn answer(habits: Habits, content: &Bytes, asked: &Asked) -> Said {
    let fields = [("cache-control", "max-age=60"), ("etag", habits.etag)];
    let range = asked.headers().get("range").filter(|_| habits.knows_ranges);
    let Some(range) = range else { return said(200, &fields, content.clone()) };
    let (first, last) = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (first, last) = (first.parse::<usize>().unwrap(), last.parse().unwrap_or(content.len() - 1));
    let span = format!("bytes {first}-{last}/{}", content.len());
    said(206, &[fields[0], fields[1], ("content-range", &span)], content.slice(first..=last))
}

/// The one content file below a cache directory.
fn content_file(dir: &Path) -> PathBuf {
    let buckets = std::fs::read_dir(dir.join("cache/files")).unwrap().flatten();
    let mut files = buckets.flat_map(|bucket| std::fs::read_dir(bucket.path()).unwrap().flatten());
    files.next().unwrap().path()
}

/// An edge that has the content on disk, from an earlier process, with a byte of its second chunk flipped.
async fn damaged(origin: &Origin) -> Edge {
    let edge = Edge::start(origin).await;
    edge.get("/file", &[]).await;
    edge.until("it is stored", |edge| edge.metric("nearside_edge_cache_objects_stored_total", &[]) == 1)
        .await;
    let config = edge.config.clone();
    edge.daemon.stop(std::time::Instant::now() + support::PATIENCE).await;
    let dir = edge.into_dir().await;
    let path = content_file(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[MIB + MIB / 2] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    Edge::with(config, dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_is_asked_of_the_origin_midway() {
    for knows_ranges in [true, false] {
        let origin = origin(Habits { etag: "\"one\"", knows_ranges }).await;
        let edge = damaged(&origin).await;
        let whole = edge.get("/file", &[]).await;
        assert_eq!(whole.field("x-cache-status"), "HIT", "so it began");
        assert!(whole.body.unwrap() == content(), "and went on without a wrong byte");
        assert_eq!(origin.requests(), 2);
        assert_eq!(edge.metric("nearside_edge_cache_mended_total", &[]), 1);
        assert_eq!(edge.metric("nearside_edge_cache_damaged_total", &[]), 1);
        // The damaged copy is gone: the next one is stored anew.
        assert_eq!(edge.get("/file", &[]).await.field("x-cache-status"), "MISS");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_mended_to_its_own_end() {
    let origin = origin(Habits { etag: "\"one\"", knows_ranges: true }).await;
    let edge = damaged(&origin).await;
    let (first, last) = (MIB - 10, 2 * MIB + 10);
    let part = edge.get("/file", &[("range", &format!("bytes={first}-{last}"))]).await;
    assert_eq!(part.status, 206);
    assert!(part.body.unwrap() == content().slice(first..=last));
    assert_eq!(edge.metric("nearside_edge_cache_mended_total", &[]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_strong_entity_tag_the_response_breaks_off() {
    let origin = origin(Habits { etag: "W/\"one\"", knows_ranges: true }).await;
    let edge = damaged(&origin).await;
    let whole = edge.get("/file", &[]).await;
    assert!(whole.body.is_err(), "what the origin has now may be something else");
    assert_eq!(origin.requests(), 1);
    assert_eq!(edge.metric("nearside_edge_cache_mended_total", &[]), 0);
    assert!(edge.get("/file", &[]).await.body.unwrap() == content(), "the next request begins anew");
}
