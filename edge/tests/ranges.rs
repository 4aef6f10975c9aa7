//! Ranges on a miss: which bytes the origin is asked for, what the client gets, and that generations never mix.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use parking_lot::Mutex;
use support::{Asked, Edge, Origin, Said, said};

const MIB: usize = 1 << 20;

/// Content of one generation: no two of its megabytes are alike, and no two generations.
fn content(generation: u64, length: usize) -> Bytes {
    (0..length).map(|at| (at / 7 + at / MIB + generation as usize * 101) as u8).collect::<Vec<_>>().into()
}

/// A file at an origin: its generation, and what was asked of it.
struct File {
    generation: AtomicU64,
    length: usize,
    asked: Mutex<Vec<String>>,
    etag: fn(u64) -> String,
    /// The content of the newest generation: made once, since making 24 MiB takes a busy machine longer than an
    /// edge waits for an origin's first byte.
    made: Mutex<(u64, Bytes)>,
}

impl File {
    fn new(length: usize, etag: fn(u64) -> String) -> Arc<File> {
        let made = Mutex::new((1, content(1, length)));
        Arc::new(File { generation: AtomicU64::new(1), length, asked: Mutex::default(), etag, made })
    }

    fn content(&self) -> Bytes {
        let generation = self.generation.load(Ordering::SeqCst);
        let mut made = self.made.lock();
        if made.0 != generation {
            *made = (generation, content(generation, self.length));
        }
        made.1.clone()
    }

    /// The ranges asked for since the last look; "whole" where none was.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }

    /// Answers as RFC 9110 sections 13.1.5 and 14.2 want it, one range at a time.
    fn answer(&self, asked: &Asked) -> Said {
        let field = |name: &str| asked.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let etag = (self.etag)(self.generation.load(Ordering::SeqCst));
        let content = self.content();
        let range = field("range");
        self.asked.lock().push(range.clone().unwrap_or_else(|| "whole".to_owned()));
        let fields = [("cache-control", "max-age=60"), ("etag", etag.as_str())];
        let range = range.filter(|_| field("if-range").is_none_or(|tag| tag == etag));
        let Some(range) = range else { return said(200, &fields, content) };
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let end = content.len() - 1;
        let (first, last) = match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) => (first, last.min(end)),
            (Ok(first), Err(_)) => (first, end),
            (Err(_), Ok(suffix)) => (content.len() - suffix, end),
            _ => panic!("{range}"),
        };
        let span = format!("bytes {first}-{last}/{}", content.len());
        let fields = [fields[0], fields[1], ("content-range", span.as_str())];
        said(206, &fields, content.slice(first..=last))
    }
}

async fn serve(file: &Arc<File>) -> (Origin, Edge) {
    let served = file.clone();
    let origin = Origin::start(move |_, asked| {
        let served = served.clone();
        async move { served.answer(&asked) }
    })
    .await;
    let edge = Edge::start(&origin).await;
    (origin, edge)
}

fn strong(generation: u64) -> String {
    format!("\"g{generation}\"")
}

fn weak(generation: u64) -> String {
    format!("W/\"g{generation}\"")
}

/// Gets a range and compares it.
async fn get(edge: &Edge, file: &File, range: &str, first: usize, end: usize) -> String {
    let part = edge.get("/file", &[("range", range)]).await;
    assert_eq!(part.status, 206, "{range}: {:?}", part.headers);
    assert_eq!(part.field("content-range"), format!("bytes {first}-{}/{}", end - 1, file.length), "{range}");
    assert_eq!(part.field("content-length"), (end - first).to_string(), "{range}");
    assert!(part.body.as_ref().unwrap() == &file.content().slice(first..end), "{range}: other bytes");
    part.field("x-cache-status").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_on_a_range_fetches_its_chunks_only() {
    let file = File::new(6 * MIB + 1000, strong);
    let (origin, edge) = serve(&file).await;
    let (first, end) = (MIB + 5, MIB + 10);
    assert_eq!(get(&edge, &file, &format!("bytes={first}-{}", end - 1), first, end).await, "MISS");
    assert_eq!(file.asked(), [format!("bytes={MIB}-{}", 2 * MIB - 1)]);
    edge.until("the chunk is stored", |edge| {
        edge.metric("nearside_edge_cache_objects_stored_total", &[]) == 1
    })
    .await;
    // The same chunk again, the next ones, the end, the rest.
    assert_eq!(get(&edge, &file, "bytes=1048576-1048600", MIB, MIB + 25).await, "HIT");
    assert!(file.asked().is_empty());
    let (first, end) = (2 * MIB - 100, 3 * MIB + 1);
    assert_eq!(get(&edge, &file, &format!("bytes={first}-{}", end - 1), first, end).await, "MISS");
    assert_eq!(file.asked(), [format!("bytes={}-{}", 2 * MIB, 4 * MIB - 1)]);
    let length = file.length;
    assert_eq!(get(&edge, &file, "bytes=-10", length - 10, length).await, "MISS");
    assert_eq!(file.asked(), [format!("bytes={}-{}", 6 * MIB, length - 1)]);
    let whole = edge.get("/file", &[]).await;
    assert_eq!(whole.status, 200);
    assert!(whole.body.as_ref().unwrap() == &file.content());
    assert!(whole.field("cache-status").contains("fwd=partial"), "{:?}", whole.headers);
    assert_eq!(file.asked(), [format!("bytes=0-{}", MIB - 1), format!("bytes={}-{}", 4 * MIB, 6 * MIB - 1)]);
    let whole = edge.get("/file", &[]).await;
    assert!(whole.body.as_ref().unwrap() == &file.content());
    assert_eq!(whole.field("x-cache-status"), "HIT");
    assert_eq!(origin.requests(), 5);
    assert_eq!(edge.metric("nearside_edge_cache_gaps_filled_total", &[]), 4);
    assert_eq!((edge.requests("miss"), edge.requests("hit")), (4, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_of_something_with_gaps() {
    let file = File::new(4 * MIB, strong);
    let (_origin, edge) = serve(&file).await;
    get(&edge, &file, "bytes=0-9", 0, 10).await;
    // Until the first block is on disk, there is nothing that gaps could be filled of.
    edge.until("the chunk is stored", |edge| {
        edge.metric("nearside_edge_cache_objects_stored_total", &[]) == 1
    })
    .await;
    file.asked();
    let several = edge.get("/file", &[("range", "bytes=5-9, 0-6, 3145728-3145737")]).await;
    assert_eq!(several.status, 206);
    let boundary = several.field("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    let body = several.body.as_ref().unwrap();
    let mut expected = Vec::new();
    for (first, end) in [(0, 10), (3 * MIB, 3 * MIB + 10)] {
        expected.extend_from_slice(
            format!("\r\n--{boundary}\r\nContent-Range: bytes {first}-{}/{}\r\n\r\n", end - 1, file.length)
                .as_bytes(),
        );
        expected.extend_from_slice(&file.content()[first..end]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(body == &expected);
    assert_eq!(file.asked(), [format!("bytes={}-{}", 3 * MIB, 4 * MIB - 1)]);
    assert_eq!(edge.metric("nearside_edge_cache_gaps_filled_total", &[]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_never_mixes_with_the_old() {
    let file = File::new(4 * MIB, strong);
    let (_origin, edge) = serve(&file).await;
    get(&edge, &file, "bytes=0-9", 0, 10).await;
    edge.until("the chunk is stored", |edge| {
        edge.metric("nearside_edge_cache_objects_stored_total", &[]) == 1
    })
    .await;
    file.generation.store(2, Ordering::SeqCst);
    // The stored chunk is fresh, and what the origin said then.
    assert!(edge.get("/file", &[("range", "bytes=0-9")]).await.body.unwrap() == content(1, MIB).slice(0..10));
    // What needs another chunk gets all of it from the new one.
    let whole = edge.get("/file", &[]).await;
    assert!(whole.body.unwrap() == content(2, 4 * MIB));
    assert_eq!(edge.metric("nearside_edge_cache_generations_total", &[]), 1);
    get(&edge, &file, "bytes=0-9", 0, 10).await;
    file.generation.store(3, Ordering::SeqCst);
    assert!(edge.get("/file", &[]).await.body.unwrap() == content(2, 4 * MIB), "whole and fresh");
    assert_eq!(edge.metric("nearside_edge_cache_generations_total", &[]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_strong_validator_chunks_are_cut_and_only_small_parts_are_kept() {
    let file = File::new(3 * MIB, weak);
    let (_origin, edge) = serve(&file).await;
    let (first, end) = (MIB + 5, MIB + 10);
    let range = format!("bytes={first}-{}", end - 1);
    get(&edge, &file, &range, first, end).await;
    assert_eq!(file.asked(), [format!("bytes={MIB}-{}", 2 * MIB - 1)]);
    // Remembered: the next one is passed on as asked.
    get(&edge, &file, &range, first, end).await;
    assert_eq!(file.asked(), std::slice::from_ref(&range));
    assert_eq!(edge.metric("nearside_edge_cache_fills_total", &[]), 1);
    assert_eq!(edge.requests("miss"), 2);
    get(&edge, &file, &range, first, end).await;
    assert_eq!(edge.requests("hit"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_goes_on_after_a_restart_from_what_is_on_disk() {
    let file = File::new(24 * MIB, strong);
    let (origin, edge) = serve(&file).await;
    let (first, end) = (0, 20 * MIB);
    get(&edge, &file, &format!("bytes={first}-{}", end - 1), first, end).await;
    edge.until("the chunks are stored", |edge| {
        edge.metric("nearside_edge_cache_objects_stored_total", &[]) == 1
    })
    .await;
    file.asked();
    let config = edge.config.clone();
    use nearside_node::Daemon;
    edge.daemon.stop(std::time::Instant::now() + support::PATIENCE).await;
    let dir = edge.into_dir().await;
    let edge = Edge::with(config, dir).await;
    get(&edge, &file, "bytes=10485760-", 10 * MIB, 24 * MIB).await;
    assert_eq!(file.asked(), [format!("bytes={}-{}", 20 * MIB, 24 * MIB - 1)]);
    let whole = edge.get("/file", &[]).await;
    assert!(whole.body.unwrap() == file.content());
    assert!(file.asked().is_empty());
    assert_eq!(origin.requests(), 2);
    assert_eq!(edge.metric("nearside_edge_cache_gaps_filled_total", &[]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_at_once_with_others_is_fetched_once() {
    let file = File::new(8 * MIB, strong);
    let (_origin, edge) = serve(&file).await;
    let edge = Arc::new(edge);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let (edge, file) = (edge.clone(), file.clone());
            tokio::spawn(
                async move { get(&edge, &file, "bytes=3000000-4000000", 3_000_000, 4_000_001).await },
            )
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(file.asked(), [format!("bytes={}-{}", 2 * MIB, 4 * MIB - 1)]);
    assert_eq!(edge.requests("miss"), 1);
}
