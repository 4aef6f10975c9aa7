//! The store against kill -9 and against a disk that is full: real processes, a real file system.

use std::{
    collections::HashMap,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};

use super::{
    Cache, Options,
    codec::tests::{key, meta},
    fill::{self, Keep},
    tests::content,
};
use crate::{
    policy::Timestamp,
    purge::{Kind, Order, Scope},
};

const MIB: u64 = 1 << 20;
const NOW: Timestamp = Timestamp::from_secs(5000);
const PATHS: u64 = 40;
/// Set for the process that is to be killed: where it works.
const VICTIM: &str = "NEARSIDE_KILL_DIR";
/// Rounds of killing; a hundred in a thorough run.
const ROUNDS: &str = "NEARSIDE_KILL_ROUNDS";

fn open(dir: &Path) -> Arc<Cache> {
    let options =
        Options { dir: Some(dir.join("cache")), memory_bytes_max: 4 * MIB, disk_bytes_max: 48 * MIB };
    Cache::open(options).unwrap()
}

/// Each stored body follows from its number, which its head carries.
async fn store(cache: &Arc<Cache>, path: u64, number: u64) {
    let length = [100, 5000, 150_000, 400_000, 2 * MIB + 5][(number % 5) as usize];
    let mut meta = meta(number.is_multiple_of(2).then_some(length));
    meta.headers.insert("x-number", number.into());
    meta.headers.insert("x-length", length.into());
    let (filler, object) = cache.alone(&key(&format!("/{path}"))).start(meta, Keep::Always);
    let pieces = Full::new(content(number, length));
    // At once: what can't be stored waits for its reader.
    let (filled, read) = tokio::join!(fill::drive(filler, pieces), object.body(None).collect());
    filled.unwrap();
    assert!(read.unwrap().to_bytes() == content(number, length));
}

/// What is found is exactly what was stored under some number: gives the number.
async fn check(cache: &Arc<Cache>, path: u64) -> Option<u64> {
    let found = cache.lookup(&key(&format!("/{path}"))).await;
    let object = &found.first()?.object;
    let field = |name: &str| object.meta().headers[name].to_str().unwrap().parse::<u64>().unwrap();
    let (number, length) = (field("x-number"), field("x-length"));
    let read = object.body(None).collect().await.unwrap().to_bytes();
    assert!(read == content(number, length), "/{path} number {number}: wrong bytes");
    Some(number)
}

/// Runs until it is killed: stores, reads, purges, and notes each purge once it is acknowledged.
#[tokio::test]
#[ignore = "the process that the_store_survives_kill_9 kills"]
async fn victim() {
    let Some(dir) = std::env::var_os(VICTIM) else { return };
    let dir = Path::new(&dir);
    let cache = open(dir);
    assert!(cache.is_storing_on_disk());
    let mut acknowledged =
        std::fs::File::options().append(true).create(true).open(dir.join("acknowledged")).unwrap();
    // Numbers grow from process to process.
    let from = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64;
    for number in from.. {
        let path = fastrand::u64(..PATHS);
        match fastrand::u64(..10) {
            0..5 => store(&cache, path, number).await,
            5..9 => drop(check(&cache, path).await),
            _ => {
                let scope = match fastrand::u64(..3) {
                    0 => Scope::Pattern { site: "s".into(), pattern: format!("a.test/{path}") },
                    _ => Scope::Key(key(&format!("/{path}")).as_str().into()),
                };
                cache.purge(Order { scope, kind: Kind::Hard, sequence: None }, NOW).await.unwrap();
                acknowledged.write_all(format!("{path} {number}\n").as_bytes()).unwrap();
            }
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_victim(dir: &Path) -> Killed {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "cache::crash_tests::victim", "--ignored"]);
    command.env(VICTIM, dir).stdout(Stdio::null()).stderr(Stdio::null());
    Killed(command.spawn().unwrap())
}

#[tokio::test]
async fn the_store_survives_kill_9() {
    let rounds = std::env::var(ROUNDS).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4);
    let dir = tempfile::tempdir().unwrap();
    let mut served = 0;
    for round in 0..rounds {
        let noted = dir.path().join("acknowledged");
        let bytes_of = || std::fs::metadata(&noted).map_or(0, |file| file.len());
        let before = bytes_of();
        let mut victim = start_victim(dir.path());
        // Until it works, then for a random while.
        let deadline = Instant::now() + Duration::from_secs(60);
        while bytes_of() == before {
            assert!(Instant::now() < deadline, "round {round}: the victim does not work");
            assert!(victim.0.try_wait().unwrap().is_none(), "round {round}: the victim ended by itself");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..400))).await;
        assert!(victim.0.try_wait().unwrap().is_none(), "round {round}: the victim ended by itself");
        drop(victim);
        let mut purged: HashMap<u64, u64> = HashMap::new();
        for line in std::fs::read_to_string(&noted).unwrap().lines() {
            if let Some((path, number)) = line.split_once(' ')
                && let (Ok(path), Ok(number)) = (path.parse(), number.parse())
            {
                purged.insert(path, number);
            }
        }
        let cache = open(dir.path());
        assert!(cache.is_storing_on_disk());
        for path in 0..PATHS {
            if let Some(number) = check(&cache, path).await {
                served += 1;
                let purged = purged.get(&path).copied().unwrap_or(0);
                assert!(number > purged, "round {round}: /{path} came back after its purge");
            }
        }
        assert_eq!(cache.metrics().damaged.read(), 0, "round {round}: a kill tears nothing that is served");
    }
    assert!(served > 0, "nothing survived {rounds} restarts");
}

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Result<SmallDisk, String> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        match mount {
            Ok(output) if output.status.success() => Ok(SmallDisk(dir)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_costs_storing_and_never_a_client() {
    let work = tokio::time::timeout(Duration::from_secs(60), fill_a_disk());
    work.await.expect("hangs on a full disk");
}

async fn fill_a_disk() {
    let disk = match SmallDisk::mount(20 * MIB) {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped: no small file system can be mounted here: {reason}"),
    };
    // Configured for far more than there is.
    let dir = disk.0.path();
    let cache = open(dir);
    assert!(cache.is_storing_on_disk());
    for number in 0..40 {
        // Asserts that its reader gets every byte.
        store(&cache, number % PATHS, 4 + 5 * number).await;
        check(&cache, number % PATHS).await;
    }
    let metrics = cache.metrics();
    assert!(metrics.disk_errors.read() > 0 && metrics.fills_unstored.read() > 0);
    assert!(!cache.is_storing_on_disk(), "paused");
    // Small things go on in memory.
    store(&cache, 1, 1000).await;
    assert_eq!(check(&cache, 1).await, Some(1000));
    drop(cache);
    let cache = open(dir);
    for path in 0..PATHS {
        check(&cache, path).await;
    }
}
