//! Drills of the edge's store: kills, disks that are full or fail, origins that lie, purges that race, restarts.
//!
//! One edge alone in front of an origin whose every byte is known ([`crate::files`]). Whatever breaks, no client gets a wrong
//! byte, and nothing that was purged comes back.

use std::{
    collections::HashMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    files::{self, Files},
    fleet::{Fleet, SOON},
    process::{self, Process},
    visitor::{self, Got},
    wait,
};

/// The one edge.
const POP: &str = "fra";
/// Its site's host.
const HOST: &str = "www.cdn.test";
const MIB: usize = 1 << 20;

/// One edge and its origin.
struct Rig {
    fleet: Fleet,
    files: Files,
    pop: SocketAddr,
    cache_dir: PathBuf,
}

impl Rig {
    /// Not started yet; `changes` are made to its fleet file.
    fn new(changes: &[(&str, &str)]) -> Rig {
        let fleet = Fleet::new();
        let (old, new) = (fleet.block.socket(30, 9000), fleet.block.socket(31, 9000));
        let files = Files::start(new);
        let rig =
            Rig { pop: fleet.block.socket(21, 8080), cache_dir: fleet.path("cache").join(POP), fleet, files };
        rig.change(&format!("http://{old}"), &format!("http://{new}"));
        for (from, to) in changes {
            rig.change(from, to);
        }
        rig
    }

    fn started(changes: &[(&str, &str)]) -> Rig {
        let mut rig = Rig::new(changes);
        rig.start();
        rig
    }

    fn change(&self, from: &str, to: &str) {
        self.fleet.edit(&self.fleet.fleet_file(), from, to);
    }

    /// Has the cache in another directory.
    fn move_cache(&mut self, to: &Path) {
        self.change(&self.cache_dir.display().to_string(), &to.display().to_string());
        to.clone_into(&mut self.cache_dir);
    }

    fn start(&mut self) {
        self.fleet.start(POP);
        self.fleet.wait_serving(POP);
    }

    /// Starts it with `env`, its cache's disk failing as `FAIL_FILE` says: gives that file.
    fn start_on_failing_disk(&mut self) -> PathBuf {
        let (shim, source, fails) =
            (self.fleet.path("failing_disk.so"), self.fleet.path("failing_disk.c"), self.fleet.path("fails"));
        fs::write(&source, include_str!("failing_disk.c")).expect("a file");
        let mut cc = Command::new("cc");
        let built =
            process::run(cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(&source).arg("-ldl"));
        assert_eq!(built.code, Some(0), "{built:?}");
        fs::write(&fails, "0").expect("a file");
        let mut command = Command::new(process::binary("nearside-edge"));
        command.arg("serve").arg("--fleet").arg(self.fleet.fleet_file()).args(["--node", POP]);
        command.arg("--state-dir").arg(self.fleet.state_dir(POP));
        command.env("LD_PRELOAD", &shim).env("FAIL_DIR", &self.cache_dir).env("FAIL_FILE", &fails);
        self.fleet.run(POP, &mut command);
        self.fleet.wait_serving(POP);
        fails
    }

    fn edge(&mut self) -> &mut Process {
        self.fleet.process(POP)
    }

    /// As a power cut would end it.
    fn kill(&mut self) {
        self.edge().kill();
    }

    /// As an operator would.
    fn stop(&mut self) {
        self.edge().signal("TERM");
        self.edge().wait_end(SOON);
    }

    fn get(&self, path: &str) -> io::Result<Got> {
        visitor::get(self.pop, path, &[])
    }

    /// GETs a file and compares every byte. Gives its version and how it met the cache.
    fn get_right(&self, path: &str) -> (u64, String) {
        let got = self.get(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(got.status, 200, "{path}: {:?}", got.headers);
        let version = check(path, 0, &got);
        (version, got.header("x-cache-status").to_owned())
    }

    fn purge(&self, scope: &str) -> Got {
        let socket = self.fleet.state_dir(POP).join("control.sock");
        let json = format!(r#"{{"purges": [{{"scope": {scope}}}]}}"#);
        visitor::control(&socket, "POST", "/v1/purges", &json).expect("the control socket answers")
    }

    fn cached(&self, path: &str) -> String {
        let socket = self.fleet.state_dir(POP).join("control.sock");
        let got = visitor::control(&socket, "GET", &format!("/v1/cached?url=http://{HOST}{path}"), "");
        let json: serde_json::Value = serde_json::from_slice(&got.expect("an answer").body).expect("JSON");
        json["state"].as_str().unwrap_or_default().to_owned()
    }

    /// A counter or level of the store.
    fn count(&self, name: &str) -> u64 {
        let total = self.fleet.metric(POP, &format!("nearside_edge_cache_{name}_total"), &[]);
        (total + self.fleet.metric(POP, &format!("nearside_edge_cache_{name}"), &[])) as u64
    }

    fn requests(&self, cache: &str) -> u64 {
        let labels = ["site=\"www\"", &format!("cache=\"{cache}\"")];
        self.fleet.metric(POP, "nearside_edge_requests_total", &labels) as u64
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Rig) -> bool) {
        wait::until(what, SOON, || if holds(self) { Ok(()) } else { Err("not yet") });
    }
}

/// Compares a body that begins at byte `from` with what its version of the path is. Gives the version.
fn check(path: &str, from: usize, got: &Got) -> u64 {
    let version = got.header("x-version").parse().unwrap_or_else(|_| panic!("{path}: {:?}", got.headers));
    let mut right = vec![0; got.body.len()];
    files::content(path, version, from, &mut right);
    assert!(got.body == right, "{path} version {version}: wrong bytes; {:?}", got.headers);
    version
}

fn say(text: &str) {
    eprintln!("  {text}");
}

// -- kill-9

/// How often the edge is killed; a hundred in a thorough run.
const KILL_ROUNDS: &str = "NEARSIDE_KILL_ROUNDS";
const PATHS: usize = 60;
const CLIENTS: usize = 4;

/// What the clients of a killed edge hold it to.
struct Trial {
    pop: SocketAddr,
    socket: PathBuf,
    files: Files,
    paths: Vec<String>,
    /// By path: the oldest version that may be served, since all before were purged with an acknowledgement.
    floor: Mutex<HashMap<String, u64>>,
    checked: AtomicU64,
    bytes: AtomicU64,
    purges: AtomicU64,
}

impl Trial {
    fn floor(&self, path: &str) -> u64 {
        self.floor.lock().expect("no client panicked").get(path).copied().unwrap_or(0)
    }

    /// One request of a random path or part of it. Failing is allowed, being wrong is not.
    fn visit(&self, path: &str, part: Option<(usize, usize)>) -> io::Result<()> {
        // Read before: a purge acknowledged from now on may be too late for this request.
        let floor = self.floor(path);
        let range = part.map(|(first, last)| format!("bytes={first}-{last}"));
        let fields: Vec<_> = range.iter().map(|range| ("Range", range.as_str())).collect();
        let got = visitor::get(self.pop, path, &fields)?;
        let from = match (got.status, part) {
            (206, Some((first, _))) => first,
            (200, _) => 0,
            _ => return Err(io::Error::other(format!("{path}: status {}", got.status))),
        };
        let version = check(path, from, &got);
        assert!(version >= floor, "{path}: version {version} came back after all before {floor} were purged");
        self.checked.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(got.body.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn visit_any(&self) -> io::Result<()> {
        // A few are asked for all the time, as everywhere.
        let at = if fastrand::bool() { fastrand::usize(..PATHS / 8) } else { fastrand::usize(..PATHS) };
        let length = length(at);
        let first = fastrand::usize(..length);
        let part = (fastrand::u8(..4) == 0).then(|| (first, fastrand::usize(first..length)));
        self.visit(&self.paths[at], part)
    }

    /// The origin changes something and purges it; what is acknowledged counts.
    fn purge_any(&self) -> io::Result<()> {
        let at = fastrand::usize(..PATHS);
        let path = &self.paths[at];
        let version = self.files.bump(path);
        let scope = match fastrand::u8(..4) {
            0 => format!(r#"{{"tag": {{"tag": "f{at}"}}}}"#),
            1 => format!(r#"{{"prefix": "http://{HOST}{path}"}}"#),
            _ => format!(r#"{{"url": "http://{HOST}{path}"}}"#),
        };
        let json = format!(r#"{{"purges": [{{"scope": {scope}}}]}}"#);
        let got = visitor::control(&self.socket, "POST", "/v1/purges", &json)?;
        assert_eq!(got.status, 200, "{}", got.text());
        self.floor.lock().expect("no client panicked").insert(path.clone(), version);
        self.purges.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// From 1 KiB to 3 MiB, on both sides of every limit of the store.
fn length(at: usize) -> usize {
    [1024, 5000, 100_000, 256 * 1024, 300_000, MIB, 3 * MIB + 17][at % 7] + at
}

/// The edge is killed under load again and again: whatever it serves afterwards is what the origin sent, and nothing that was
/// purged comes back.
pub fn kill_9() {
    kill_times(std::env::var(KILL_ROUNDS).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10));
}

/// [`kill_9`], this many times.
pub fn kill_times(rounds: usize) {
    let mut rig = Rig::started(&[("disk = \"32MiB\"", "disk = \"64MiB\"")]);
    let trial = Arc::new(Trial {
        pop: rig.pop,
        socket: rig.fleet.state_dir(POP).join("control.sock"),
        files: rig.files.clone(),
        paths: (0..PATHS).map(|at| files::path(&format!("f{at}"), length(at))).collect(),
        floor: Mutex::default(),
        checked: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        purges: AtomicU64::new(0),
    });
    let (mut kept, mut damaged) = (0, 0);
    for round in 1..=rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let mut load: Vec<_> = (0..CLIENTS).map(|_| spawn_until(&stop, &trial, Trial::visit_any)).collect();
        load.push(spawn_until(&stop, &trial, |trial| {
            thread::sleep(Duration::from_millis(fastrand::u64(..40)));
            trial.purge_any()
        }));
        let (seen, purged) = (trial.checked.load(Ordering::Relaxed), trial.purges.load(Ordering::Relaxed));
        wait::until("the edge is under load", SOON, || {
            assert!(
                !load.iter().any(thread::JoinHandle::is_finished),
                "round {round}: a client found something wrong"
            );
            let served = trial.checked.load(Ordering::Relaxed) > seen + 20;
            if served && trial.purges.load(Ordering::Relaxed) > purged { Ok(()) } else { Err("not yet") }
        });
        thread::sleep(Duration::from_millis(fastrand::u64(..300)));
        damaged += rig.count("damaged");
        rig.kill();
        stop.store(true, Ordering::Relaxed);
        for client in load {
            client.join().unwrap_or_else(|_| panic!("round {round}: a client found something wrong"));
        }
        rig.start();
        // Everything once, before anything else: what the dead process left.
        for path in &trial.paths {
            trial.visit(path, None).unwrap_or_else(|error| panic!("round {round}: {path}: {error}"));
        }
        kept += rig.requests("hit");
        if round % 10 == 0 || round == rounds {
            say(&format!(
                "{round} kills: {} responses ({} MB) checked, {} purges acknowledged, {kept} hits on what survived",
                trial.checked.load(Ordering::Relaxed),
                trial.bytes.load(Ordering::Relaxed) / 1_000_000,
                trial.purges.load(Ordering::Relaxed),
            ));
        }
    }
    assert!(kept > 0, "nothing survived {rounds} kills");
    assert_eq!(damaged + rig.count("damaged"), 0, "a kill tears nothing that is found again");
    no_orphans(&mut rig);
}

/// Repeats `act` until told to stop; errors are what a dying server owes.
fn spawn_until(
    stop: &Arc<AtomicBool>,
    trial: &Arc<Trial>,
    act: fn(&Trial) -> io::Result<()>,
) -> thread::JoinHandle<()> {
    let (stop, trial) = (stop.clone(), trial.clone());
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if act(&trial).is_err() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    })
}

/// After a start, no more content files lie on disk than the journal knows: what others there were is swept.
fn no_orphans(rig: &mut Rig) {
    rig.stop();
    let known = fs::read_dir(rig.cache_dir.join("files")).into_iter().flatten().flatten().count();
    let orphan = rig.cache_dir.join("files/ab/000000000fffffab");
    fs::create_dir_all(orphan.parent().expect("a parent")).expect("a directory");
    fs::write(&orphan, b"left over").expect("a file");
    rig.start();
    wait::until("orphans are swept", SOON, || if orphan.exists() { Err("still there") } else { Ok(()) });
    say(&format!("orphans swept; {known} buckets of content files stay"));
}

// -- disk-full

/// A small file system, gone with the drill.
pub(super) struct Mount(PathBuf);

impl Mount {
    /// A tmpfs at `at`. `Err`: why not here.
    pub(super) fn tmpfs(at: &Path, bytes: usize) -> Result<Mount, String> {
        fs::create_dir_all(at).expect("a directory");
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        let done = process::run(mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at));
        if done.code == Some(0) { Ok(Mount(at.to_owned())) } else { Err(done.stderr) }
    }

    /// An ext4 in a file, which its first error makes read-only. `Err`: why not here.
    fn ext4(image: &Path, at: &Path, bytes: usize) -> Result<Mount, String> {
        fs::create_dir_all(at).expect("a directory");
        let file = fs::File::create(image).expect("a file");
        file.set_len(bytes as u64).expect("a length");
        let run = |command: &mut Command| {
            let done = process::run(command);
            if done.code == Some(0) { Ok(()) } else { Err(done.stderr) }
        };
        let sbin = |name: &str| {
            if Path::new("/usr/sbin").join(name).exists() {
                format!("/usr/sbin/{name}")
            } else {
                name.to_owned()
            }
        };
        run(Command::new(sbin("mkfs.ext4")).args(["-q", "-F"]).arg(image))?;
        run(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(image).arg(at))?;
        Ok(Mount(at.to_owned()))
    }

    /// Has ext4 find an error: with `errors=remount-ro`, the file system is read-only from then on, open files included.
    fn turn_read_only(&self) -> Result<(), String> {
        let found =
            process::run(Command::new("findmnt").args(["-n", "-o", "SOURCE", "--target"]).arg(&self.0));
        let device = found.stdout.trim().rsplit('/').next().unwrap_or_default().to_owned();
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").map_err(|error| error.to_string())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _done = process::run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// The cache's file system is far smaller than configured, and others fill it too: clients notice nothing, the operator does.
pub fn disk_full() {
    let mut rig = Rig::new(&[("disk = \"32MiB\"", "disk = \"1GiB\"")]);
    let at = rig.fleet.path("small");
    let small = match Mount::tmpfs(&at, 24 * MIB) {
        Ok(mount) => mount,
        Err(reason) => {
            return say(&format!("skipped: no small file system can be mounted here: {}", reason.trim()));
        }
    };
    rig.move_cache(&at.join("cache"));
    rig.start();
    assert!(rig.count("disk_errors") == 0);
    for round in 0..3 {
        for at in 0..40 {
            rig.get_right(&files::path(&format!("r{round}-{at}"), length(at)));
        }
    }
    let (errors, unstored) = (rig.count("disk_errors"), rig.count("fills_unstored"));
    assert!(errors > 0 && unstored > 0, "{errors} errors, {unstored} fills that were not stored");
    rig.edge().wait_for("cache disk fails: serving without storing", SOON);
    say(&format!(
        "full: 120 objects served right, {errors} errors counted, {unstored} fills not stored, logged"
    ));
    // Someone else takes all that is left, then gives it back.
    let theirs = at.join("theirs");
    let _full = fs::write(&theirs, vec![1; 24 * MIB]);
    rig.get_right(&files::path("while-full", 2 * MIB));
    rig.get_right(&files::path("while-full-small", 2000));
    let purge = rig.purge(&format!(r#"{{"url": "http://{HOST}{}"}}"#, files::path("while-full-small", 2000)));
    assert!(purge.status == 200 || purge.status == 500, "{}", purge.text());
    let acknowledged = purge.status == 200;
    rig.files.bump(&files::path("while-full-small", 2000));
    assert_eq!(
        rig.get_right(&files::path("while-full-small", 2000)).0,
        2,
        "purged, acknowledged ({acknowledged}) or not"
    );
    fs::remove_file(&theirs).expect("their file");
    let mut number = 0;
    rig.until("the disk is used again", |rig| {
        let before = rig.count("objects_stored");
        let path = files::path(&format!("again-{number}"), 2 * MIB);
        number += 1;
        rig.get_right(&path);
        rig.count("objects_stored") > before && rig.get_right(&path).1 == "HIT"
    });
    say("space came back: stored again");
    rig.kill();
    rig.start();
    for at in 0..40 {
        rig.get_right(&files::path(&format!("r2-{at}"), length(at)));
    }
    rig.kill();
    drop(small);
}

// -- disk-errors

/// The disk answers EIO, then is read-only, under a running edge; then it is read-only at a start.
pub fn disk_errors() {
    let mut rig = Rig::new(&[]);
    let fails = rig.start_on_failing_disk();
    let set = |number: &str| {
        let new = fails.with_extension("new");
        fs::write(&new, number).expect("a file");
        fs::rename(new, &fails).expect("a rename");
    };
    for (name, number) in [("EIO", "5"), ("EROFS", "30"), ("ENOSPC", "28")] {
        let path = |at: usize| files::path(&format!("{name}-{at}"), length(at));
        for at in 0..14 {
            rig.get_right(&path(at));
            rig.get_right(&path(at));
        }
        rig.until("something is on disk", |rig| rig.count("disk_records") > 0 && rig.count("disk_bytes") > 0);
        let before = rig.count("disk_errors") + rig.count("damaged");
        set(number);
        // What is stored, and what is not.
        for at in 0..28 {
            rig.get_right(&path(at));
        }
        let purge = rig.purge(&format!(r#"{{"url": "http://{HOST}{}"}}"#, path(0)));
        assert_eq!(purge.status, 500, "not durable, so not acknowledged: {}", purge.text());
        rig.files.bump(&path(0));
        assert_eq!(rig.get_right(&path(0)).0, 2, "in force all the same");
        let after = rig.count("disk_errors") + rig.count("damaged");
        assert!(after > before, "{name} was counted");
        set("0");
        let purge = rig.purge(&format!(r#"{{"url": "http://{HOST}{}"}}"#, path(0)));
        assert_eq!(purge.status, 200, "the disk is back: {}", purge.text());
        let mut at = 0;
        rig.until("the disk is used again", |rig| {
            at += 1;
            let path = files::path(&format!("{name}-after-{at}"), 2 * MIB);
            let before = rig.count("objects_stored");
            rig.get_right(&path);
            rig.count("objects_stored") > before
        });
        say(&format!(
            "{name}: 42 requests answered right, {} errors counted, purges refused, used again",
            after - before
        ));
    }
    rig.edge().wait_for("cache disk fails: serving without storing", SOON);
    rig.kill();
    read_only_while_it_runs();
    read_only_at_a_start();
}

fn read_only_while_it_runs() {
    let mut rig = Rig::new(&[]);
    let at = rig.fleet.path("ext4");
    let disk = match Mount::ext4(&rig.fleet.path("ext4.image"), &at, 64 * MIB) {
        Ok(mount) => mount,
        Err(reason) => return say(&format!("skipped: no ext4 can be mounted here: {}", reason.trim())),
    };
    rig.move_cache(&at.join("cache"));
    rig.start();
    let path = |at: usize| files::path(&format!("e{at}"), length(at));
    for at in 0..14 {
        rig.get_right(&path(at));
        rig.get_right(&path(at));
    }
    if let Err(reason) = disk.turn_read_only() {
        rig.kill();
        return say(&format!("skipped: ext4 can't be made to fail here: {reason}"));
    }
    for at in 0..28 {
        rig.get_right(&path(at));
    }
    assert!(rig.count("disk_errors") > 0, "counted");
    rig.edge().wait_for("Read-only file system", SOON);
    rig.kill();
    drop(disk);
    say("an ext4 became read-only under a running edge: 28 requests answered right, counted, logged");
}

fn read_only_at_a_start() {
    let mut rig = Rig::new(&[]);
    let at = rig.fleet.path("ro");
    let disk = match Mount::tmpfs(&at, 64 * MIB) {
        Ok(mount) => mount,
        Err(reason) => return say(&format!("skipped: nothing can be mounted here: {}", reason.trim())),
    };
    rig.move_cache(&at.join("cache"));
    rig.start();
    let path = files::path("kept", 5000);
    rig.get_right(&path);
    rig.get_right(&path);
    rig.stop();
    let remount = |how: &str| {
        let done = process::run(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&at));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
    };
    remount("ro");
    rig.start();
    rig.edge().wait_for("cache directory is unusable: caching in memory only", SOON);
    assert_eq!(rig.get_right(&path).1, "MISS");
    assert_eq!(rig.get_right(&path).1, "HIT", "memory goes on");
    assert!(rig.count("disk_errors") > 0);
    // What lies on the disk may be found again by a later start: no purge can be vouched for.
    rig.files.bump(&path);
    let purge = rig.purge(&format!(r#"{{"url": "http://{HOST}{path}"}}"#));
    assert_eq!(purge.status, 500, "not durable, so not acknowledged: {}", purge.text());
    assert_eq!(rig.get_right(&path).0, 2, "in force all the same");
    rig.kill();
    remount("rw");
    rig.start();
    assert_eq!(rig.get_right(&path).1, "HIT", "the directory is in use again");
    rig.kill();
    drop(disk);
    say("read-only at a start: memory only, said so; used again at the next one");
}

// -- lying-origin

/// The origin lies in every way it can: nobody takes a lie for the truth, and none is stored.
pub fn lying_origin() {
    let rig = Rig::new(&[]);
    let url = format!("\"http://{}\"", rig.fleet.block.socket(31, 9000));
    rig.change(
        &format!("origin = {url}"),
        &format!("origin = {{ url = {url}, between_bytes_timeout = \"1s\" }}"),
    );
    let mut rig = rig;
    rig.start();
    let lie = |kind: &str| format!("/lies/{kind}/x");
    for kind in ["short", "cut", "stall"] {
        let path = lie(kind);
        for turn in 1..=2 {
            let got = rig.get(&path);
            let is_cut = got.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
            assert!(is_cut || got.as_ref().is_ok_and(|got| got.status >= 500), "{kind}: {got:?}");
            assert_eq!(rig.files.asked(&path), turn, "{kind}: asked again, so nothing was stored");
        }
        assert_eq!(rig.cached(&path), "absent", "{kind}");
        say(&format!("{kind}: the client's response breaks off, nothing is stored"));
    }
    assert!(rig.count("fills_failed") >= 6, "{}", rig.count("fills_failed"));
    // As long as declared is all that belongs to a response (RFC 9112 section 6.3).
    let got = rig.get(&lie("long")).expect("a response");
    assert_eq!((got.status, got.body.len()), (200, 150_000));
    assert_eq!(rig.get(&lie("long")).expect("a response").body, got.body);
    say("long: what exceeds the declared length is nobody's content");
    let got = rig.get(&lie("drip")).expect("a whole response, however slow");
    assert_eq!((got.status, got.body.len()), (200, 40));
    assert_eq!(rig.get(&lie("drip")).expect("a response").header("x-cache-status"), "HIT");
    say("drip: slow is no lie");
    let got = rig.get(&lie("part")).expect("a response");
    assert!(got.status == 206 || got.status >= 500, "a 206 never becomes a 200: {}", got.status);
    let again = rig.get(&lie("part")).expect("a response");
    assert!(again.status != 200, "nor the next time: {:?}", again.headers);
    say("part: a 206 nobody asked for stays one");
    let path = lie("wrong-range");
    let fields = [("Range", "bytes=0-99")];
    for _ in 0..2 {
        let got = visitor::get(rig.pop, &path, &fields).expect("a response");
        let is_honest = got.status >= 400 || got.header("content-range") == "bytes 1000-1999/300000";
        assert!(is_honest, "{} {:?}", got.status, got.headers);
        if got.status == 206 {
            let mut right = vec![0; 1000];
            files::content(&path, 1, 1000, &mut right);
            assert_eq!(got.body, right, "the bytes are those that Content-Range names");
        }
    }
    assert_eq!(rig.cached(&path), "absent");
    say("wrong-range: passed on as what it is, never stored as what was asked for");
    changing_content(&rig);
    for _ in 0..2 {
        let got = rig.get(&lie("garbage")).expect("a response");
        let mut right = vec![0; 300_000];
        files::content(&lie("garbage"), 1, 0, &mut right);
        assert_eq!((got.header("content-encoding"), got.body == right), ("gzip", true));
    }
    say("garbage: an encoding is the client's to undo; the bytes are the origin's");
    assert_eq!(rig.count("damaged"), 0);
    let (_, status) = rig.get_right(&files::path("honest", 100_000));
    assert_eq!(status, "MISS", "the honest are served as ever");
}

/// Ranges of something that is new with every request: each response is of one version.
fn changing_content(rig: &Rig) {
    let path = "/lies/change/x";
    for turn in 0..12 {
        let first = (turn % 3) * MIB + 100;
        let range = format!("bytes={first}-{}", first + MIB);
        let got = visitor::get(rig.pop, path, &[("Range", range.as_str())]).expect("a response");
        assert_eq!(got.status, 206, "{:?}", got.headers);
        check(path, first, &got);
        if turn % 4 == 3 {
            let got = rig.get(path).expect("a response");
            assert_eq!(got.body.len(), 3 * MIB);
            check(path, 0, &got);
        }
    }
    assert!(rig.count("generations") > 0, "generations were dropped");
    say("change: ranges and wholes, each of one version; old generations were dropped");
}

// -- purge-during-fetch

/// A purge comes while a fetch is under way: who asked before gets what was, nobody who asks after it does.
pub fn purge_during_fetch() {
    let rig = Rig::started(&[]);
    let scopes = |name: &str, path: &str| {
        [
            format!(r#"{{"url": "http://{HOST}{path}"}}"#),
            format!(r#"{{"prefix": "http://{HOST}/files/{name}"}}"#),
            format!(r#"{{"tag": {{"tag": "{name}"}}}}"#),
            r#"{"site": "www"}"#.to_owned(),
            r#""all""#.to_owned(),
        ]
    };
    for (kind, bytes) in [("small", 200_000), ("large", 3 * MIB)] {
        for number in 0..5 {
            let name = format!("{kind}-{number}");
            let path = files::path(&name, bytes);
            let scope = &scopes(&name, &path)[number];
            rig.files.hold(&path);
            let (pop, asked) = (rig.pop, path.clone());
            let early = thread::spawn(move || visitor::get(pop, &asked, &[]));
            rig.until("the origin is halfway", |rig| rig.files.holding(&path) == 1);
            // One more joins the fetch that is under way.
            let (asked, collapsed) = (path.clone(), rig.requests("collapsed") + rig.requests("hit"));
            let joined = thread::spawn(move || visitor::begin(pop, &asked, &[]));
            let mut joined = joined.join().expect("no panic").expect("a connection");
            let head = visitor::read_head(&mut joined).expect("a head: it reads what has come");
            assert_eq!(head.header("x-version"), "1");
            let version = rig.files.bump(&path);
            let purged = rig.purge(scope);
            assert_eq!(purged.status, 200, "{}", purged.text());
            // While the old fetch still runs: a new one, not a share in the old.
            let (asked, late_files) = (path.clone(), rig.files.clone());
            let late = thread::spawn(move || visitor::get(pop, &asked, &[]));
            rig.until("the origin is asked anew", |_| late_files.asked(&path) == 2);
            rig.files.release(&path);
            let early = early.join().expect("no panic").expect("a whole response");
            assert_eq!(check(&path, 0, &early), 1, "{scope}: asked before the purge");
            let late = late.join().expect("no panic").expect("a whole response");
            assert_eq!(check(&path, 0, &late), version, "{scope}: asked after the purge");
            rig.until("the new one is stored", |rig| rig.get_right(&path).1 == "HIT");
            for _ in 0..3 {
                assert_eq!(rig.get_right(&path).0, version, "{scope}: the old fetch stored nothing");
            }
            assert_eq!(rig.files.asked(&path), 2, "{scope}: two fetches, not more");
            assert!(rig.requests("collapsed") + rig.requests("hit") > collapsed);
        }
        say(&format!(
            "{kind}: five scopes; the old fetch was finished for who had asked, and stored nothing"
        ));
    }
    assert_eq!(rig.count("purge_orders"), 10);
}

// -- restart-keeps-cache

/// What an hour's visitors asked for is there at once after a planned restart; what was asked for twice also after a kill.
pub fn restart_keeps_cache() {
    let mut rig = Rig::started(&[
        ("disk = \"32MiB\"", "disk = \"256MiB\""),
        ("memory = \"8MiB\"", "memory = \"16MiB\""),
    ]);
    let path = |at: usize| files::path(&format!("k{at}"), length(at));
    let count = 120;
    let mut heads = HashMap::new();
    for at in 0..count {
        for _ in 0..2 {
            rig.get_right(&path(at));
        }
        let got = rig.get(&path(at)).expect("a response");
        heads.insert(at, (got.header("etag").to_owned(), got.header("date").to_owned()));
    }
    let ranged = files::path("ranged", 8 * MIB);
    let range = [("Range", "bytes=2097152-3145727")];
    visitor::get(rig.pop, &ranged, &range).expect("a part");
    rig.until("all is on disk", |rig| rig.count("disk_records") > count as u64);
    for how in ["planned", "killed", "planned"] {
        if how == "planned" {
            rig.stop();
        } else {
            rig.kill();
        }
        let asked = rig.files.total();
        let began = Instant::now();
        rig.start();
        let ready = began.elapsed();
        for at in 0..count {
            let got = rig.get(&path(at)).expect("a response");
            assert_eq!((got.status, got.header("x-cache-status")), (200, "HIT"), "{how}: {}", path(at));
            check(&path(at), 0, &got);
            assert_eq!(
                (got.header("etag"), got.header("date")),
                (heads[&at].0.as_str(), heads[&at].1.as_str())
            );
        }
        let got = visitor::get(rig.pop, &ranged, &range).expect("a part");
        assert_eq!((got.status, got.header("x-cache-status")), (206, "HIT"), "{how}: the part");
        check(&ranged, 2 * MIB, &got);
        assert_eq!(rig.files.total(), asked, "{how}: the origin was not asked once");
        assert_eq!(rig.requests("hit"), count as u64 + 1);
        assert_eq!(rig.count("damaged"), 0);
        say(&format!("{how}: serving after {:.1} s, {} hits, no fetch", ready.as_secs_f64(), count + 1));
    }
}

// -- memory

/// What a process may take besides its memory tier: threads, buffers of connections and of fills under way.
const BASE_BYTES: u64 = 48 << 20;

/// All that costs memory at once: many sizes, variants, large heads, readers that don't read, clients that leave. What the
/// process takes stays within its memory tier and a fifth, and a fixed base.
pub fn memory_stays_bounded() {
    const TIER_BYTES: u64 = 32 << 20;
    let mut rig = Rig::started(&[
        ("memory = \"8MiB\"", "memory = \"32MiB\""),
        ("disk = \"32MiB\"", "disk = \"64MiB\""),
    ]);
    let (pid, pop) = (rig.edge().pid(), rig.pop);
    let begins_with = resident_bytes(pid);
    let idle: Vec<_> = (0..40)
        .map(|at| {
            visitor::begin(pop, &files::path(&format!("slow-{}", at % 4), 8 * MIB), &[])
                .expect("a connection")
        })
        .collect();
    let clients: Vec<_> = (0..6)
        .map(|client| thread::spawn(move || (0..700).for_each(|at| visit_hostilely(pop, client, at))))
        .collect();
    let mut most = 0;
    while !clients.iter().all(thread::JoinHandle::is_finished) {
        most = most.max(resident_bytes(pid));
        thread::sleep(Duration::from_millis(20));
    }
    for client in clients {
        client.join().expect("every answer was right");
    }
    drop(idle);
    let evicted = rig.count("memory_evicted");
    let (most_mb, begins_mb) = (most / 1_000_000, begins_with / 1_000_000);
    say(&format!(
        "{most_mb} MB resident at most, {begins_mb} MB of them from the start; {evicted} objects left memory"
    ));
    assert!(evicted > 100, "the tier was full: {evicted} objects left it");
    let allowed = begins_with + TIER_BYTES + TIER_BYTES / 5 + BASE_BYTES;
    assert!(most <= allowed, "{most} bytes resident, {allowed} allowed");
}

fn visit_hostilely(pop: SocketAddr, client: usize, at: usize) {
    let length = [10, 700, 1500, 5000, 700, 20_000, 250, 3000, 90_000, 1000][(client + at) % 10];
    let path = files::path(&format!("h{client}-{at}"), length);
    match at % 5 {
        // A few URLs with ever new variants and heads of 12 KB.
        0 => {
            let path = format!("/heads/v{}/{length}", at % 50);
            let variant = format!("{client}-{at}");
            let got = visitor::get(pop, &path, &[("X-Variant", variant.as_str())]).expect("a response");
            check(&path, 0, &got);
        }
        // Leaves at once.
        1 => drop(visitor::begin(pop, &files::path(&format!("left{client}-{at}"), 400_000), &[])),
        _ => {
            let got = visitor::get(pop, &path, &[]).expect("a response");
            check(&path, 0, &got);
        }
    }
}

fn resident_bytes(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).expect("it runs");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
