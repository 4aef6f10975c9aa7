//! The store as a whole: fills and their readers, purges, restarts, bounds.
//!
//! Long, because every test drives a store through the same few functions at the top.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::task::JoinHandle;

use super::{
    codec::tests::{key, meta},
    *,
};

const NOW: Timestamp = Timestamp::from_secs(5000);
const MIB: u64 = 1 << 20;
/// Nothing here takes that long; a test that does has hung.
const DEADLINE: Duration = Duration::from_secs(20);

fn in_memory(memory_bytes_max: u64) -> Arc<Cache> {
    Cache::open(Options { dir: None, memory_bytes_max, disk_bytes_max: 0 }).unwrap()
}

fn on_disk(dir: &std::path::Path) -> Arc<Cache> {
    open(dir, 32 * MIB, 64 * MIB)
}

fn open(dir: &std::path::Path, memory_bytes_max: u64, disk_bytes_max: u64) -> Arc<Cache> {
    let cache = Cache::open(Options { dir: Some(dir.to_owned()), memory_bytes_max, disk_bytes_max }).unwrap();
    assert!(cache.is_storing_on_disk(), "no disk tier");
    cache
}

/// Bytes that tell where they come from.
pub(super) fn content(seed: u64, length: u64) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length as usize];
    random.fill(&mut bytes);
    bytes.into()
}

fn lead(cache: &Arc<Cache>, path: &str) -> Lease {
    match cache.join(&key(path), 0) {
        Join::Lead(lease) => lease,
        other => panic!("{path}: not the leader but {other:?}"),
    }
}

async fn store_with(cache: &Arc<Cache>, path: &str, meta: policy::Meta, bytes: &Bytes) -> Arc<Object> {
    let (mut filler, object) = cache.alone(&key(path)).start(meta, Keep::Always);
    for piece in bytes.chunks(50_000) {
        filler.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    filler.finish().await.unwrap();
    object
}

async fn store(cache: &Arc<Cache>, path: &str, bytes: &Bytes) -> Arc<Object> {
    store_with(cache, path, meta(Some(bytes.len() as u64)), bytes).await
}

async fn read(object: &Arc<Object>, span: Option<Span>) -> Result<Bytes, BodyError> {
    object.body(span).collect().await.map(|body| body.to_bytes())
}

async fn get(cache: &Arc<Cache>, path: &str) -> Option<Bytes> {
    let found = cache.lookup(&key(path)).await;
    match found.first() {
        Some(found) => Some(read(&found.object, None).await.expect("a found object reads to its end")),
        None => None,
    }
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("waited too long for {what}"));
}

fn reader(object: &Arc<Object>) -> JoinHandle<Result<Bytes, BodyError>> {
    let object = Arc::clone(object);
    let body = object.body(None);
    tokio::spawn(async move { body.collect().await.map(|body| body.to_bytes()) })
}

fn purge_of(scope: Scope, kind: Kind) -> Order {
    Order { scope, kind, sequence: None }
}

#[tokio::test]
async fn what_is_stored_is_found_whole_and_in_ranges_on_both_tiers() {
    let dir = tempfile::tempdir().unwrap();
    for cache in [in_memory(32 * MIB), on_disk(dir.path())] {
        for length in [0, 1, 1000, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1, MIB, 3 * MIB, 3 * MIB + 77] {
            let bytes = content(length, length);
            for (path, declared) in [("/declared", Some(length)), ("/open", None)] {
                store_with(&cache, path, meta(declared), &bytes).await;
                let found = cache.lookup(&key(path)).await;
                assert_eq!(found.len(), 1, "{path} {length}");
                let object = &found[0].object;
                assert_eq!(object.length(), Some(length));
                assert!(read(object, None).await.unwrap() == bytes, "{path} {length}");
                for span in [0..1, 500..1500, length / 2..length, length.saturating_sub(3)..u64::MAX] {
                    let expected =
                        bytes.slice((span.start.min(length)) as usize..span.end.min(length) as usize);
                    assert!(
                        read(object, Some(span.clone())).await.unwrap() == expected,
                        "{path} {length} {span:?}"
                    );
                }
                let presence = cache.presence(&key(path), NOW).await.unwrap();
                assert_eq!((presence.extent, presence.bytes), (Extent::Cached, length), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn many_readers_share_one_fetch_and_stream_while_it_arrives() {
    let dir = tempfile::tempdir().unwrap();
    for cache in [in_memory(64 * MIB), on_disk(dir.path())] {
        let bytes = content(1, 5 * MIB + 123);
        let lease = lead(&cache, "/x");
        let waiters: Vec<_> = (0..50)
            .map(|_| match cache.join(&key("/x"), 0) {
                Join::Follow(waiter) => waiter,
                other => panic!("{other:?}"),
            })
            .collect();
        let (mut filler, object) = lease.start(meta(Some(bytes.len() as u64)), Keep::WhileRead);
        let mut readers = vec![reader(&object)];
        for waiter in waiters {
            assert_eq!(waiter.wait(DEADLINE).await, Outcome::Ready);
            let found = cache.lookup(&key("/x")).await;
            readers.push(reader(&found[0].object));
        }
        // The first bytes reach a reader long before the last are there.
        filler.write(bytes.slice(..10)).await.unwrap();
        let mut early = object.body(None);
        let first = early.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, bytes.slice(..10));
        drop(early);
        for piece in bytes.slice(10..).chunks(70_001) {
            filler.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        filler.finish().await.unwrap();
        for reader in readers {
            assert!(reader.await.unwrap().unwrap() == bytes);
        }
        assert_eq!(cache.metrics().fills.read(), 1);
        assert_eq!(cache.metrics().collapsed.read(), 50);
        assert_eq!(cache.metrics().fill_bytes.read(), 0, "all pins given back");
    }
}

#[tokio::test]
async fn a_slow_reader_holds_nobody_and_still_gets_everything() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 4 * MIB, 64 * MIB);
    let bytes = content(2, 20 * MIB);
    let (mut filler, object) = lead(&cache, "/big").start(meta(Some(bytes.len() as u64)), Keep::WhileRead);
    let slow = object.body(None);
    for piece in bytes.chunks(100_000) {
        filler.write(Bytes::copy_from_slice(piece)).await.unwrap();
        let (resident, pinned) = cache.memory.bytes();
        assert!(resident + pinned <= 4 * MIB + 2 * BLOCK_BYTES, "{resident} + {pinned}");
    }
    filler.finish().await.unwrap();
    assert!(slow.collect().await.unwrap().to_bytes() == bytes);
}

#[tokio::test]
async fn the_last_reader_leaving_ends_the_fill() {
    let cache = in_memory(32 * MIB);
    let (mut filler, object) = lead(&cache, "/x").start(meta(Some(4 * MIB)), Keep::WhileRead);
    let (one, two) = (object.body(None), object.body(None));
    filler.write(content(1, 1000)).await.unwrap();
    drop(one);
    assert!(tokio::time::timeout(Duration::from_millis(20), filler.abandoned()).await.is_err());
    drop(two);
    tokio::time::timeout(DEADLINE, filler.abandoned()).await.unwrap();
    assert_eq!(filler.write(content(1, 10)).await, Err(FillError::Abandoned));
    drop(filler);
    assert!(get(&cache, "/x").await.is_none());
    assert_eq!(cache.metrics().fill_bytes.read(), 0);
}

#[tokio::test]
async fn a_fill_goes_on_unread_when_nearly_done_or_asked_for() {
    let cache = in_memory(32 * MIB);
    for (path, keep, first) in [("/nearly", Keep::WhileRead, 3 * MIB), ("/asked", Keep::Always, MIB)] {
        let bytes = content(3, 4 * MIB);
        let (mut filler, object) = lead(&cache, path).start(meta(Some(4 * MIB)), keep);
        let body = object.body(None);
        filler.write(bytes.slice(..first as usize)).await.unwrap();
        drop(body);
        filler.write(bytes.slice(first as usize..)).await.unwrap();
        filler.finish().await.unwrap();
        assert!(get(&cache, path).await.unwrap() == bytes);
    }
}

#[tokio::test]
async fn a_dying_origin_resets_readers_and_commits_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut weak = meta(Some(4 * MIB));
    weak.validators.etag = None;
    for cache in [in_memory(32 * MIB), on_disk(dir.path())] {
        let (mut filler, object) = lead(&cache, "/x").start(weak.clone(), Keep::WhileRead);
        let reader = reader(&object);
        filler.write(content(1, 2 * MIB)).await.unwrap();
        drop(filler);
        assert_eq!(reader.await.unwrap(), Err(BodyError::FillFailed));
        assert!(cache.lookup_with_gaps(&key("/x")).await.is_empty());
        // A body shorter than declared is no better.
        let (mut filler, object) = lead(&cache, "/x").start(weak.clone(), Keep::WhileRead);
        let reader = self::reader(&object);
        filler.write(content(1, 4 * MIB - 1)).await.unwrap();
        assert_eq!(filler.finish().await, Err(FillError::TooShort));
        assert_eq!(reader.await.unwrap(), Err(BodyError::FillFailed));
        assert!(cache.lookup_with_gaps(&key("/x")).await.is_empty());
        // Nor is a longer one.
        let (mut filler, _object) = lead(&cache, "/x").start(meta(Some(3)), Keep::WhileRead);
        assert_eq!(filler.write(content(1, 4)).await, Err(FillError::TooLong));
        drop(filler);
        assert!(get(&cache, "/x").await.is_none());
    }
    let files = walk(&dir.path().join("files"));
    until("files to go", async || walk(&dir.path().join("files")).is_empty()).await;
    assert!(files.len() <= 2);
}

fn walk(dir: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn waiters_learn_how_the_leader_fared() {
    let cache = in_memory(MIB);
    let follow = || match cache.join(&key("/x"), 0) {
        Join::Follow(waiter) => waiter,
        other => panic!("{other:?}"),
    };
    let lease = lead(&cache, "/x");
    let waiter = follow();
    drop(lease);
    assert_eq!(waiter.wait(DEADLINE).await, Outcome::Retry);
    let lease = lead(&cache, "/x");
    let waiter = follow();
    lease.fail();
    assert_eq!(waiter.wait(DEADLINE).await, Outcome::Failed);
    let lease = lead(&cache, "/x");
    assert_eq!(follow().wait(Duration::from_millis(5)).await, Outcome::TimedOut);
    // Another hint is another fetch.
    assert!(matches!(cache.join(&key("/x"), 7), Join::Lead(_)));
    let waiter = follow();
    lease.pass(Duration::from_secs(60));
    assert_eq!(waiter.wait(DEADLINE).await, Outcome::Pass);
    assert!(matches!(cache.join(&key("/x"), 0), Join::Pass(_)), "remembered: nobody queues");
}

#[tokio::test]
async fn a_purge_covers_fetches_begun_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let tagged = || {
        let mut meta = meta(Some(2 * MIB));
        meta.headers.insert("surrogate-key", "red blue".parse().unwrap());
        meta
    };
    let bytes = content(9, 2 * MIB);
    for cache in [in_memory(32 * MIB), on_disk(dir.path())] {
        let scopes = [
            Scope::Key(key("/x").as_str().into()),
            Scope::Pattern { site: "s".into(), pattern: "a.test/*".into() },
            Scope::Tag { site: None, tag: "blue".into() },
            Scope::Site("s".into()),
            Scope::All,
        ];
        for scope in scopes {
            let purge = purge_of(scope.clone(), Kind::Hard);
            // Before the head.
            let lease = lead(&cache, "/x");
            cache.purge(purge.clone(), NOW).await.unwrap();
            if !matches!(scope, Scope::Tag { .. }) {
                assert!(
                    matches!(cache.join(&key("/x"), 0), Join::Lead(_)),
                    "nobody follows a fetch from before"
                );
            }
            let (mut filler, object) = lease.start(tagged(), Keep::Always);
            let reader = reader(&object);
            filler.write(bytes.clone()).await.unwrap();
            filler.finish().await.unwrap();
            assert!(reader.await.unwrap().unwrap() == bytes, "who asked before is served");
            assert!(cache.lookup_with_gaps(&key("/x")).await.is_empty(), "{scope:?} before the head");
            // During the body, and after.
            for half in [MIB, 2 * MIB] {
                let (mut filler, _object) = cache.alone(&key("/x")).start(tagged(), Keep::Always);
                filler.write(bytes.slice(..half as usize)).await.unwrap();
                assert_eq!(cache.lookup(&key("/x")).await.len(), 1, "{scope:?}");
                cache.purge(purge.clone(), NOW).await.unwrap();
                assert!(cache.lookup_with_gaps(&key("/x")).await.is_empty(), "{scope:?}");
                filler.write(bytes.slice(half as usize..)).await.unwrap();
                filler.finish().await.unwrap();
                assert!(cache.lookup_with_gaps(&key("/x")).await.is_empty(), "{scope:?} during the body");
            }
            store_with(&cache, "/x", tagged(), &bytes).await;
            assert!(get(&cache, "/x").await.is_some(), "{scope:?}: what is fetched after it is stored");
            cache.invalidate(&key("/x"), NOW);
            assert!(get(&cache, "/x").await.is_none());
        }
    }
}

#[tokio::test]
async fn a_soft_purge_makes_stale_until_revalidated() {
    let cache = in_memory(MIB);
    store(&cache, "/x", &content(1, 100)).await;
    cache.purge(purge_of(Scope::Site("s".into()), Kind::Soft), NOW).await.unwrap();
    let found = cache.lookup(&key("/x")).await;
    assert_eq!(found[0].stale_since, Some(NOW));
    let mut renewed = meta(Some(100));
    renewed.date_secs = 2000;
    let object = lead(&cache, "/x").update(&found[0], renewed);
    assert_eq!(object.meta().date_secs, 2000);
    let found = cache.lookup(&key("/x")).await;
    assert_eq!((found.len(), found[0].stale_since, found[0].object.meta().date_secs), (1, None, 2000));
    assert_eq!(get(&cache, "/x").await.unwrap(), content(1, 100));
}

#[tokio::test]
async fn variants_are_told_apart_replaced_and_capped() {
    let cache = in_memory(8 * MIB);
    let variant = |value: &str| {
        let mut meta = meta(None);
        meta.vary =
            policy::vary::Vary { fields: [(http::header::ACCEPT, Some(value.as_bytes().into()))].into() };
        meta
    };
    for n in 0..3 * VARIANTS_MAX {
        store_with(&cache, "/x", variant(&n.to_string()), &content(n as u64, 100)).await;
    }
    assert_eq!(cache.lookup(&key("/x")).await.len(), VARIANTS_MAX);
    for n in 0..5 {
        store_with(&cache, "/y", variant("same"), &content(n, 100)).await;
    }
    assert_eq!(cache.lookup(&key("/y")).await.len(), 1);
    assert_eq!(get(&cache, "/y").await.unwrap(), content(4, 100));
}

#[tokio::test]
async fn a_restart_keeps_what_was_asked_for_twice() {
    let dir = tempfile::tempdir().unwrap();
    let lengths = [10, 100_000, 3 * MIB + 5];
    {
        let cache = on_disk(dir.path());
        for length in lengths {
            store(&cache, &format!("/{length}"), &content(length, length)).await;
            get(&cache, &format!("/{length}")).await.unwrap();
        }
        store(&cache, "/once", &content(1, 500)).await;
        until("the writer", async || {
            cache.disk.as_ref().unwrap().flush();
            true
        })
        .await;
    }
    let cache = on_disk(dir.path());
    for length in lengths {
        assert!(get(&cache, &format!("/{length}")).await.unwrap() == content(length, length), "{length}");
    }
    assert!(get(&cache, "/once").await.is_none(), "one-hit wonders don't reach the disk");
    // A planned stop writes those too.
    store(&cache, "/once", &content(1, 500)).await;
    cache.close();
    drop(cache);
    let cache = on_disk(dir.path());
    assert_eq!(get(&cache, "/once").await.unwrap(), content(1, 500));
    assert_eq!(cache.presence(&key("/3145733"), NOW).await.unwrap().extent, Extent::Cached);
}

#[tokio::test]
async fn what_was_purged_stays_purged_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for (n, scope) in [
        Scope::Key(key("/x").as_str().into()),
        Scope::Pattern { site: "s".into(), pattern: "*/x".into() },
        Scope::Tag { site: Some("s".into()), tag: "t".into() },
        Scope::Site("s".into()),
        Scope::All,
    ]
    .into_iter()
    .enumerate()
    {
        let mut meta = meta(None);
        meta.headers.insert("cache-tag", "t".parse().unwrap());
        {
            let cache = on_disk(dir.path());
            store_with(&cache, "/x", meta.clone(), &content(1, 1000)).await;
            cache.close();
        }
        {
            let cache = on_disk(dir.path());
            assert!(get(&cache, "/x").await.is_some(), "{scope:?}");
            let order = Order { scope: scope.clone(), kind: Kind::Hard, sequence: Some(n as u64 + 1) };
            cache.purge(order, NOW).await.unwrap();
        }
        let cache = on_disk(dir.path());
        assert!(get(&cache, "/x").await.is_none(), "{scope:?}");
        assert_eq!(cache.purge_sequence(), n as u64 + 1);
        cache.sweep_to(sweep::Depth::Disk);
        assert_eq!(cache.purges.records(), 0, "swept away");
        drop(cache);
        assert!(get(&on_disk(dir.path()), "/x").await.is_none(), "{scope:?} after the sweep");
    }
}

#[tokio::test]
async fn a_torn_or_damaged_copy_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    {
        let cache = on_disk(dir.path());
        store(&cache, "/small", &content(1, 5000)).await;
        store(&cache, "/big", &content(2, 2 * MIB)).await;
        cache.close();
    }
    for path in walk(&dir.path().join("files")).into_iter().chain(walk(&dir.path().join("segments"))) {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 3000).unwrap();
    }
    let cache = on_disk(dir.path());
    assert!(get(&cache, "/small").await.is_none());
    assert!(get(&cache, "/big").await.is_none());
    assert_eq!(cache.metrics().damaged.read(), 2);
    store(&cache, "/big", &content(2, 2 * MIB)).await;
    assert!(get(&cache, "/big").await.unwrap() == content(2, 2 * MIB));
}

#[tokio::test]
async fn ranges_are_fetched_by_chunks_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(5, 6 * MIB + 1000);
    let length = bytes.len() as u64;
    {
        let cache = on_disk(dir.path());
        let asked = Object::chunks_around(MIB + 5..MIB + 10, Some(length));
        assert_eq!(asked, MIB..2 * MIB);
        let (mut filler, object) =
            lead(&cache, "/r").start_part(meta(Some(length)), asked.clone(), Keep::WhileRead);
        filler.write(bytes.slice(asked.start as usize..asked.end as usize)).await.unwrap();
        filler.finish().await.unwrap();
        assert!(cache.lookup(&key("/r")).await.is_empty(), "not offered as a whole");
        assert_eq!(cache.lookup_with_gaps(&key("/r")).await.len(), 1);
        assert!(
            read(&object, Some(MIB + 5..MIB + 10)).await.unwrap()
                == bytes.slice(MIB as usize + 5..MIB as usize + 10)
        );
        assert_eq!(read(&object, Some(0..10)).await, Err(BodyError::Missing));
        assert!(object.has(MIB..2 * MIB) && !object.has(0..10));
        let presence = cache.presence(&key("/r"), NOW).await.unwrap();
        assert_eq!((presence.extent, presence.bytes, presence.length), (Extent::Partial, MIB, Some(length)));
        cache.disk.as_ref().unwrap().flush();
    }
    let cache = on_disk(dir.path());
    let object = Arc::clone(&cache.lookup_with_gaps(&key("/r")).await[0].object);
    let leases = object.claim(0..length);
    let spans: Vec<_> = leases.iter().map(RangeLease::span).collect();
    assert_eq!(spans, [0..MIB, 2 * MIB..length]);
    assert!(object.claim(0..length).is_empty(), "each gap is fetched once");
    let reader = reader(&object);
    for lease in leases {
        let span = lease.span();
        let mut filler = lease.start(Keep::WhileRead);
        filler.write(bytes.slice(span.start as usize..span.end as usize)).await.unwrap();
        filler.finish().await.unwrap();
    }
    assert!(reader.await.unwrap().unwrap() == bytes);
    assert!(get(&cache, "/r").await.unwrap() == bytes);
}

#[tokio::test]
async fn an_interrupted_download_keeps_its_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(6, 8 * MIB);
    {
        let cache = on_disk(dir.path());
        let (mut filler, _object) = lead(&cache, "/d").start(meta(Some(8 * MIB)), Keep::Always);
        filler.write(bytes.slice(..5 * MIB as usize + 10)).await.unwrap();
        drop(filler);
        assert!(get(&cache, "/d").await.is_none());
    }
    let cache = on_disk(dir.path());
    let object = Arc::clone(&cache.lookup_with_gaps(&key("/d")).await[0].object);
    assert!(read(&object, Some(0..5 * MIB)).await.unwrap() == bytes.slice(..5 * MIB as usize));
    let missing: Vec<_> = object.claim(0..8 * MIB).iter().map(RangeLease::span).collect();
    assert_eq!((missing.len(), missing[0].clone()), (1, 5 * MIB..8 * MIB));
}

#[tokio::test]
async fn what_cannot_be_stored_still_streams_at_its_readers_pace() {
    let cache = in_memory(8 * MIB);
    let bytes = content(8, 20 * MIB);
    let (filler, object) = lead(&cache, "/huge").start(meta(Some(20 * MIB)), Keep::WhileRead);
    let readers = [reader(&object), reader(&object)];
    let body = http_body_util::Full::new(bytes.clone());
    tokio::time::timeout(DEADLINE, fill::drive(filler, body)).await.unwrap().unwrap();
    for reader in readers {
        assert!(reader.await.unwrap().unwrap() == bytes);
    }
    assert!(get(&cache, "/huge").await.is_none());
    drop(object);
    let metrics = cache.metrics();
    assert_eq!((metrics.fill_bytes.read(), metrics.fills_unstored.read()), (0, 1));
}

#[tokio::test]
async fn a_reader_that_holds_others_back_is_cut_where_nothing_is_stored() {
    let cache = in_memory(8 * MIB);
    let bytes = content(8, 20 * MIB);
    let (filler, object) = lead(&cache, "/huge").start(meta(Some(20 * MIB)), Keep::WhileRead);
    let laggard = object.body(None);
    let quick = reader(&object);
    let body = http_body_util::Full::new(bytes.clone());
    fill::drive(filler, body).await.unwrap();
    assert!(quick.await.unwrap().unwrap() == bytes);
    assert_eq!(laggard.collect().await.unwrap_err(), BodyError::TooSlow);
    assert_eq!(cache.metrics().readers_cut.read(), 1);
}

#[tokio::test]
async fn an_unusable_directory_costs_the_disk_tier_only() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("precious"), "x").unwrap();
    let taken = dir.path().join("taken");
    let _holder = on_disk(&taken);
    for bad in [dir.path().join("file"), other, taken] {
        let options = Options { dir: Some(bad.clone()), memory_bytes_max: MIB, disk_bytes_max: 64 * MIB };
        let cache = Cache::open(options).unwrap();
        assert!(!cache.is_storing_on_disk(), "{}", bad.display());
        assert_eq!(cache.metrics().disk_errors.read(), 1);
        store(&cache, "/x", &content(1, 10)).await;
        assert_eq!(get(&cache, "/x").await.unwrap(), content(1, 10));
    }
}

/// A hostile mix against a model: whatever is found is right, and the bounds hold all the time.
#[tokio::test]
async fn random_operations_agree_with_a_model_within_bounds() {
    let seed = std::env::var("NEARSIDE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("NEARSIDE_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let (memory_max, disk_max) = (3 * MIB, 24 * MIB);
    let mut cache = open(dir.path(), memory_max, disk_max);
    let mut model: HashMap<String, (u64, u64)> = HashMap::new();
    for step in 0..600_u64 {
        let path = format!("/{}", random.u32(..60));
        match random.u32(..100) {
            0..=39 => {
                let length =
                    *random.choice(&[0, 10, 3000, 90_000, 200_000, 300_000, MIB, 2 * MIB + 9]).unwrap();
                store_with(&cache, &path, meta(random.bool().then_some(length)), &content(step, length))
                    .await;
                model.insert(path, (step, length));
            }
            40..=89 => {
                let found = get(&cache, &path).await;
                let expected = model.get(&path).map(|&(seed, length)| content(seed, length));
                assert!(found.is_none() || found == expected, "{path} at step {step}");
            }
            90..=95 => {
                let scope = Scope::Key(key(&path).as_str().into());
                cache.purge(purge_of(scope, Kind::Hard), NOW).await.unwrap();
                model.remove(&path);
            }
            96 => {
                let scope = Scope::Pattern { site: "s".into(), pattern: format!("a.test{}*", &path[..2]) };
                cache.purge(purge_of(scope, Kind::Hard), NOW).await.unwrap();
                model.retain(|known, _| !known.starts_with(&path[..2]));
            }
            97 => cache.sweep_to(sweep::Depth::Disk),
            _ => {
                if random.bool() {
                    cache.close();
                }
                drop(cache);
                cache = open(dir.path(), memory_max, disk_max);
            }
        }
        let (resident, pinned) = cache.memory.bytes();
        assert!(resident + pinned <= memory_max, "{resident} + {pinned} bytes of memory at step {step}");
        assert!(cache.metrics().disk_bytes.read() <= disk_max);
    }
    cache.disk.as_ref().unwrap().flush();
    let bytes: u64 =
        walk(dir.path()).iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum();
    assert!(bytes <= disk_max, "{bytes} bytes on disk");
}
