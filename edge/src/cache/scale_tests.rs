//! The store at size: many readers of one fill, many objects over a restart, and what never reaches the disk.
//!
//! Figures are printed, not asserted, but for bounds that hold on any machine.

use bytes::Bytes;
use http_body_util::BodyExt;

use super::{
    codec::tests::{key, meta},
    disk::Disk,
    tests::content,
    *,
};

const NOW: Timestamp = Timestamp::from_secs(5000);
const MIB: u64 = 1 << 20;
/// How many objects a restart finds; a million shows what it costs (in release mode).
const OBJECTS: &str = "NEARSIDE_OBJECTS";

fn open(dir: &std::path::Path, memory_bytes_max: u64, disk_bytes_max: u64) -> Arc<Cache> {
    let cache = Cache::open(Options { dir: Some(dir.to_owned()), memory_bytes_max, disk_bytes_max }).unwrap();
    assert!(cache.is_storing_on_disk(), "no disk tier");
    cache
}

fn disk(cache: &Cache) -> &Disk {
    cache.disk.as_ref().unwrap()
}

async fn store(cache: &Arc<Cache>, path: &str, bytes: &Bytes) {
    let (mut filler, _object) = cache.alone(&key(path)).start(meta(Some(bytes.len() as u64)), Keep::Always);
    filler.write(bytes.clone()).await.unwrap();
    filler.finish().await.unwrap();
}

/// Two hundred readers, one of four keeping up, the others standing still: what the fill holds stays the same.
#[tokio::test]
async fn a_fill_holds_the_same_memory_for_one_reader_and_for_200() {
    let mut held = Vec::new();
    for readers in [1usize, 200] {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path(), 4 * MIB, 64 * MIB);
        let bytes = content(9, 12 * MIB);
        let lease = cache.alone(&key("/big"));
        let (mut filler, object) = lease.start(meta(Some(bytes.len() as u64)), Keep::WhileRead);
        let mut quick: Vec<_> = (0..readers.div_ceil(4)).map(|_| (object.body(None), 0)).collect();
        let slow: Vec<_> = (quick.len()..readers).map(|_| object.body(None)).collect();
        let mut most = 0;
        for (at, piece) in bytes.chunks(BLOCK_BYTES as usize).enumerate() {
            filler.write(Bytes::copy_from_slice(piece)).await.unwrap();
            let written = ((at + 1) as u64 * BLOCK_BYTES).min(bytes.len() as u64);
            for (body, read) in &mut quick {
                while *read < written {
                    let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
                    assert!(data == bytes.slice(*read as usize..*read as usize + data.len()));
                    *read += data.len() as u64;
                }
            }
            let (resident, pinned) = cache.memory.bytes();
            assert!(resident + pinned <= 4 * MIB + 2 * BLOCK_BYTES, "{resident} + {pinned}");
            most = most.max(pinned);
        }
        filler.finish().await.unwrap();
        held.push(most);
        for body in slow.into_iter().take(3) {
            assert!(body.collect().await.unwrap().to_bytes() == bytes);
        }
    }
    assert_eq!(held[0], held[1], "bytes pinned for 1 reader and for 200");
    assert!(held[1] <= 2 * BLOCK_BYTES, "{held:?}");
}

#[tokio::test]
async fn what_is_asked_for_once_does_not_reach_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 32 * MIB, 64 * MIB);
    let path = |at: usize| format!("/{at}");
    for at in 0..500 {
        store(&cache, &path(at), &content(at as u64, 2000)).await;
    }
    disk(&cache).flush();
    let metrics = cache.metrics();
    assert_eq!((metrics.objects_stored.read(), metrics.disk_records.read()), (500, 0));
    for at in 0..10 {
        for _ in 0..3 {
            assert_eq!(cache.lookup(&key(&path(at))).await.len(), 1);
        }
    }
    disk(&cache).flush();
    assert_eq!(cache.metrics().disk_records.read(), 10, "once each");
}

#[tokio::test]
async fn dropped_segments_leave_nothing_in_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), MIB, disk::DISK_BYTES_MIN);
    for at in 0..300 {
        let path = format!("/{at}");
        store(&cache, &path, &content(at, 100_000)).await;
        cache.lookup(&key(&path)).await;
        disk(&cache).flush();
    }
    assert!(cache.metrics().disk_evicted.read() > 0);
    disk(&cache).forget_lost_records(&cache.index);
    let mut known = 0;
    cache.index.each_shard(|keys| {
        for place in keys.iter().flat_map(|(_, variants)| variants).filter_map(Variant::packed) {
            assert!(disk(&cache).read_record_blocking(place.place).is_some());
            known += 1;
        }
    });
    assert!(known > 0 && known < 300, "{known}");
    assert_eq!(cache.metrics().damaged.read(), 0);
}

/// Resident bytes of this process.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

#[tokio::test]
async fn many_objects_are_there_at_once_after_a_restart() {
    let objects: u64 = std::env::var(OBJECTS).ok().and_then(|objects| objects.parse().ok()).unwrap_or(5_000);
    let dir = tempfile::tempdir().unwrap();
    let disk_bytes_max = (objects * 1024).max(64 * MIB);
    let body = content(1, 100);
    let cache = open(dir.path(), 16 * MIB, disk_bytes_max);
    for at in 0..objects {
        let path = format!("/a/path/of/usual/length/{at:08}.html");
        store(&cache, &path, &body).await;
        assert_eq!(cache.lookup(&key(&path)).await.len(), 1);
        if at % 4096 == 0 {
            disk(&cache).flush();
        }
    }
    disk(&cache).flush();
    assert_eq!(cache.metrics().disk_records.read(), objects);
    drop(cache);
    for how in ["a journal", "a snapshot"] {
        let before = resident_bytes();
        let began = Instant::now();
        let cache = open(dir.path(), 16 * MIB, disk_bytes_max);
        let took = began.elapsed();
        let each = resident_bytes().saturating_sub(before) / objects;
        println!("{objects} objects from {how}: {took:?}, {each} bytes of resident memory each");
        assert_eq!(cache.index.len() as u64, objects);
        for _ in 0..100 {
            let path = format!("/a/path/of/usual/length/{:08}.html", fastrand::u64(..objects));
            let found = cache.lookup(&key(&path)).await;
            assert!(found[0].object.whole() == Some(&body), "{path}");
        }
        disk(&cache).snapshot().unwrap();
    }
    let cache = open(dir.path(), 16 * MIB, disk_bytes_max);
    let order = Order { scope: Scope::All, kind: Kind::Hard, sequence: None };
    cache.purge_blocking(&[order], NOW).unwrap();
    drop(cache);
    let cache = open(dir.path(), 16 * MIB, disk_bytes_max);
    assert!(cache.lookup(&key("/a/path/of/usual/length/00000000.html")).await.is_empty());
}

/// What an origin's response head came in must not stay in memory as long as the response does.
#[tokio::test]
async fn a_stored_head_keeps_no_buffer_it_came_in() {
    let cache = open(tempfile::tempdir().unwrap().path(), 4 * MIB, 64 * MIB);
    let buffer = Bytes::from(vec![b'x'; 8192]);
    let mut meta = meta(Some(3));
    for name in ["x-one", "x-two"] {
        let value = http::HeaderValue::from_maybe_shared(buffer.slice(10..20)).unwrap();
        meta.headers.append(name, value);
    }
    let expected = meta.headers.clone();
    let (mut filler, object) = cache.alone(&key("/x")).start(meta, Keep::Always);
    filler.write(content(1, 3)).await.unwrap();
    filler.finish().await.unwrap();
    assert_eq!(object.meta().headers, expected);
    drop(expected);
    assert!(buffer.is_unique(), "a field value still refers to it");
}

#[tokio::test]
async fn what_comes_back_soon_after_it_left_memory_goes_to_disk_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), MIB, 64 * MIB);
    for at in 0..100 {
        store(&cache, &format!("/{at}"), &content(at, 50_000)).await;
    }
    disk(&cache).flush();
    assert_eq!(cache.metrics().disk_records.read(), 0);
    assert!(cache.lookup(&key("/0")).await.is_empty(), "it has left");
    store(&cache, "/0", &content(0, 50_000)).await;
    disk(&cache).flush();
    assert_eq!(cache.metrics().disk_records.read(), 1, "asked for twice");
}
