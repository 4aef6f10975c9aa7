//! Drills of the desired state: bad snapshots that go back by themselves, forged and replayed ones, wrong clocks, full disks.
//!
//! Each ends with every live node at the right state and no purge lost.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use nearside_fleet::{
    Sha256,
    snapshot::{Signed, SigningKey, Snapshot},
};
use serde_json::Value;

use super::cache::Mount;
use crate::{
    curl,
    fleet::{DNS, Fleet, POPS, SOON},
    process, wait,
};

/// A node that was refused is tried again within fifteen seconds; machines are slow.
const TRIED_AGAIN: Duration = Duration::from_secs(40);

fn say(text: &str) {
    eprintln!("  {text}");
}

/// The fleet as home sees it.
fn home(fleet: &Fleet) -> Value {
    let status = fleet.nearside(&["status", "--json"]);
    serde_json::from_str(&status.stdout).unwrap_or_else(|_| panic!("no status: {status:?}"))
}

fn node(status: &Value, name: &str) -> Value {
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    nodes.into_iter().find(|node| node["node"] == name).unwrap_or_else(|| panic!("no {name} in {status}"))
}

/// Waits until every node has the newest snapshot and every edge all purges.
fn wait_right(fleet: &Fleet) {
    wait::until("every node is right and no purge is lost", TRIED_AGAIN, || {
        let status = home(fleet);
        let right = |node: &Value| {
            let purged = node["kind"] == "dns" || node["purges"] == status["purges"];
            node["phase"] == "current" && node["snapshot"] == status["snapshot"] && purged
        };
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        if nodes.len() == POPS.len() + DNS.len() && nodes.iter().all(right) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

/// Caches a page at every PoP, so that a purge has something to do.
fn cache_page(fleet: &Fleet, path: &str) {
    for (pop, _) in POPS {
        fleet.http(pop, path).send();
        assert_eq!(fleet.http(pop, path).send().header("x-cache-status"), "HIT", "{pop}");
    }
}

fn purge(fleet: &Fleet, path: &str) -> process::Finished {
    fleet.nearside(&["purge", &format!("http://www.cdn.test:8080{path}")])
}

/// A fleet that publishes when told to.
fn by_command() -> Fleet {
    Fleet::governed_after(|fleet| {
        fleet.edit(&fleet.fleet_file(), "[controller]\n", "[controller]\npublish = \"command\"\n");
    })
}

fn snapshots_of(fleet: &Fleet) -> Vec<u64> {
    let nodes = POPS.into_iter().chain(DNS);
    nodes.map(|(node, _)| fleet.status(node)["serving"]["snapshot"].as_u64().unwrap_or(0)).collect()
}

/// A snapshot that sends visitors to a dead origin goes to Frankfurt alone, and back; the mended one goes everywhere.
pub fn canary() {
    let fleet = by_command();
    let origin = fleet.origin_address().port().to_string();
    assert_eq!(snapshots_of(&fleet), [1; 5]);
    cache_page(&fleet, "/kept");
    fleet.edit(&fleet.fleet_file(), &format!(":{origin}\""), ":1\"");
    let diff = fleet.nearside(&["diff"]);
    assert!(diff.stdout.contains(":1\"\n") && diff.stdout.contains("\n-origin = "), "{diff:?}");
    let outcome = thread::scope(|scope| {
        let publish = scope
            .spawn(|| fleet.nearside(&["publish", "--canary", "fra", "--watch", "60s", "-m", "new origin"]));
        let mut asked = 0;
        while !publish.is_finished() {
            // Visitors at every PoP; only Frankfurt's come to harm.
            for (pop, _) in POPS {
                let response = fleet.http(pop, &format!("/page{asked}")).send();
                assert!(pop == "fra" || response.status == 200, "{pop}: {response:?}");
            }
            asked += 1;
            if asked == 2 {
                assert_eq!(purge(&fleet, "/kept").code, Some(0), "purges go on meanwhile");
            }
            assert!(asked < 2000, "never taken back");
        }
        say(&format!("taken back after {asked} visits"));
        publish.join().expect("the command runs")
    });
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stdout.contains("snapshot 2 was taken back: fra "), "{outcome:?}");
    wait_right(&fleet);
    assert_eq!(snapshots_of(&fleet), [3; 5], "the same again, under a new number");
    assert_eq!(fleet.http("fra", "/after").send().status, 200);
    for (pop, _) in POPS {
        assert_eq!(fleet.http(pop, "/kept").send().header("x-cache-status"), "MISS", "{pop}");
    }
    let history = fleet.nearside(&["history"]);
    assert!(
        history.stdout.contains("new origin; fra ") && history.stdout.contains("repeats 1"),
        "{history:?}"
    );
    let status = fleet.nearside(&["status"]);
    assert!(status.stdout.contains("snapshot 3 repeats 1: snapshot 2 was taken back: fra "), "{status:?}");
    let events = fleet.nearside(&["events"]);
    assert!(events.stdout.contains("publish-rolled-back"), "{events:?}");

    fleet.edit(&fleet.fleet_file(), ":1\"", &format!(":{origin}\""));
    fleet.edit(&fleet.zone_file(), "192.0.2.80", "192.0.2.81");
    let good = fleet.nearside(&["publish", "--canary", "fra,ns1", "--waves", "100", "--watch", "1s"]);
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(good.stderr.contains("wave 1 of 3: fra, ns1"), "{good:?}");
    wait_right(&fleet);
    assert_eq!(snapshots_of(&fleet), [4; 5]);
    let back = fleet.nearside(&["rollback", "1", "-m", "the address was right"]);
    assert_eq!(back.code, Some(0), "{back:?}");
    wait_right(&fleet);
    assert_eq!(fleet.dig("ns2", "static.cdn.test A").data("A"), ["192.0.2.80"]);
}

/// Asks a node as an operator, whose certificate is good.
fn as_operator(fleet: &Fleet, node: &str, path: &str) -> curl::Request {
    let file = |name: &str| fleet.state_dir("home").join("operator").join(name);
    let text = |name: &str| file(name).to_string_lossy().into_owned();
    let host = format!("{node}.node.nearside.internal");
    curl::Request::at(fleet.at(node, 8953), "https", &host, path).ca(&file("ca.pem")).with([
        "--cert",
        &text("cert.pem"),
        "--key",
        &text("key.pem"),
    ])
}

/// Posts a signed snapshot to a node; what it says.
fn post(fleet: &Fleet, node: &str, signed: &Signed) -> curl::Response {
    let body = fleet.path("snapshot.json");
    fs::write(&body, serde_json::to_vec(signed).expect("JSON")).expect("a file");
    let body = format!("@{}", body.display());
    as_operator(fleet, node, "/v1/snapshots").with(["--data-binary", &body]).send()
}

/// The snapshot a node has accepted.
fn accepted(fleet: &Fleet, node: &str) -> (Signed, Snapshot) {
    let response = as_operator(fleet, node, "/v1/snapshot").send();
    let signed: Signed = serde_json::from_str(&response.body).unwrap_or_else(|_| panic!("{response:?}"));
    let snapshot = serde_json::from_str(&signed.snapshot).expect("a snapshot");
    (signed, snapshot)
}

/// The nodes that somebody bothers in drills: one of each kind.
const BOTHERED: [&str; 2] = ["fra", "ns1"];

/// Somebody with an operator's certificate, and without home's key, sends snapshots; with it, files that lie.
pub fn forged_snapshot() {
    let fleet = Fleet::governed();
    cache_page(&fleet, "/hello");
    let (thief, _) = SigningKey::generate().expect("a key");
    let home_key = fs::read_to_string(fleet.state_dir("home").join("snapshot.key")).expect("home's key");
    let home_key = SigningKey::from_text(&home_key).expect("home's key");
    for node in BOTHERED {
        let (_, now) = accepted(&fleet, node);
        let next = Snapshot { number: now.number + 1, ..now.clone() };
        let good = home_key.sign(&next).expect("a signature");
        let mut flipped = good.clone();
        flipped.snapshot = flipped.snapshot.replacen(
            &format!("\"number\":{}", next.number),
            &format!("\"number\":{}", next.number + 8),
            1,
        );
        let mut torn = good.clone();
        let first = if torn.signature.starts_with('A') { "B" } else { "A" };
        torn.signature.replace_range(..1, first);
        let foreign =
            home_key.sign(&Snapshot { fleet: "other".to_owned(), ..next.clone() }).expect("a signature");
        let refused = fleet.metric(node, "nearside_node_reloads_refused_total", &[]);
        let cases = [
            ("another key", thief.sign(&next).expect("a signature"), "not one of this fleet"),
            ("a changed number", flipped, "not one of this fleet"),
            ("a changed signature", torn, "not one of this fleet"),
            ("another fleet's", foreign, "belongs to"),
        ];
        let count = cases.len();
        for (what, signed, reason) in cases {
            let response = post(&fleet, node, &signed);
            assert_eq!(response.status, 422, "{node}, {what}: {response:?}");
            assert!(response.body.contains(reason), "{node}, {what}: {response:?}");
        }
        assert_eq!(fleet.metric(node, "nearside_node_reloads_refused_total", &[]), refused + count as f64);
        // Properly signed, but the file is not what its name says: it is not kept, so the snapshot is not taken.
        let hash = Sha256::of(b"what it should be");
        let lie = as_operator(&fleet, node, &format!("/v1/files/{hash}"))
            .with(["-X", "PUT", "--data-binary", "what it is"])
            .send();
        assert_eq!(lie.status, 400, "{lie:?}");
        let mut with_lie = next.clone();
        let fleet_file = with_lie.files.iter_mut().find(|file| file.path == next.fleet_file);
        fleet_file.expect("a fleet file").sha256 = hash;
        let response = post(&fleet, node, &home_key.sign(&with_lie).expect("a signature"));
        assert_eq!(response.status, 409, "{response:?}");
        assert!(response.body.contains(&hash.to_string()), "{response:?}");
        assert_eq!(accepted(&fleet, node).1, now, "{node} has what it had");
        assert!(fleet.status(node)["refused"].is_null(), "a stranger does not change what is shown");
    }
    assert_eq!(purge(&fleet, "/hello").code, Some(0));
    fleet.edit(&fleet.zone_file(), "192.0.2.80", "192.0.2.81");
    wait::until("home's next one is live", SOON, || {
        let answer = fleet.dig("ns1", "static.cdn.test A");
        if answer.data("A") == ["192.0.2.81"] { Ok(()) } else { Err(answer.text) }
    });
    wait_right(&fleet);
    for (pop, _) in POPS {
        assert_eq!(fleet.http(pop, "/hello").send().header("x-cache-status"), "MISS", "{pop}");
    }
}

/// Old snapshots, properly signed, are posted by somebody with a good certificate: while home is there, while it is
/// dark, after restarts, and after a rollback, which is new though what it says is old.
pub fn replayed_snapshot() {
    let mut fleet = by_command();
    let old: Vec<Signed> = BOTHERED.iter().map(|node| accepted(&fleet, node).0).collect();
    cache_page(&fleet, "/hello");
    assert_eq!(purge(&fleet, "/hello").code, Some(0));
    fleet.edit(&fleet.zone_file(), "192.0.2.80", "192.0.2.81");
    assert_eq!(fleet.nearside(&["publish"]).code, Some(0));
    wait_right(&fleet);
    let newer: Vec<Signed> = BOTHERED.iter().map(|node| accepted(&fleet, node).0).collect();
    let replay = |fleet: &Fleet, old: &[Signed], when: &str| {
        for (node, signed) in BOTHERED.iter().zip(old) {
            let response = post(fleet, node, signed);
            assert_eq!(response.status, 422, "{node}, {when}: {response:?}");
            assert!(response.body.contains("is not newer than"), "{node}, {when}: {response:?}");
        }
        assert_eq!(fleet.dig("ns1", "static.cdn.test A").data("A"), ["192.0.2.81"], "{when}");
    };
    replay(&fleet, &old, "while home is there");
    fleet.process("controller").kill();
    for node in BOTHERED {
        fleet.process(node).kill();
        fleet.start(node);
        fleet.wait_serving(node);
    }
    replay(&fleet, &old, "after a restart, home dark");
    fleet.start_controller();
    assert_eq!(fleet.nearside(&["rollback"]).code, Some(0));
    wait_right(&fleet);
    assert_eq!(fleet.dig("ns1", "static.cdn.test A").data("A"), ["192.0.2.80"], "home may go back");
    for (node, signed) in BOTHERED.iter().zip(&newer) {
        assert_eq!(post(&fleet, node, signed).status, 422, "{node}: what was taken back does not return");
    }
    assert_eq!(fleet.http("fra", "/hello").send().header("x-cache-status"), "MISS");
    wait_right(&fleet);
}

/// The library that shifts a process's clock.
fn faketime() -> Option<PathBuf> {
    let lib = Path::new("/usr/lib");
    let triples =
        fs::read_dir(lib).ok()?.flatten().map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    triples.chain([lib.join("faketime/libfaketimeMT.so.1")]).find(|path| path.exists())
}

/// Starts a process again with its wall clock shifted; what measures time is left alone.
fn shifted(command: &mut Command, library: &Path, by: &str) {
    command.env("LD_PRELOAD", library).env("FAKETIME", by).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command.env("DONT_FAKE_MONOTONIC", "1");
}

/// Two nodes, then home, with clocks a year off: they serve, what can be reached takes snapshots and purges, what can't
/// says that it is about clocks; all is right once the clocks are.
pub fn wrong_clock() {
    let Some(library) = faketime() else {
        return say("skipped: faketime is not installed");
    };
    let mut fleet = by_command();
    cache_page(&fleet, "/hello");
    for (pop, by) in [("fra", "-365d"), ("nyc", "+365d")] {
        fleet.process(pop).kill();
        let mut command = fleet.serve(pop);
        shifted(&mut command, &library, by);
        fleet.run(pop, &mut command);
        fleet.wait_serving(pop);
        fleet.http(pop, "/hello").send();
    }
    fleet.edit(&fleet.zone_file(), "192.0.2.80", "192.0.2.81");
    fleet.nearside(&["publish", "--wait", "5s"]);
    purge(&fleet, "/hello");
    for pop in ["fra", "nyc"] {
        assert_eq!(fleet.http(pop, "/other").send().status, 200, "{pop} serves");
        assert_eq!(fleet.https(pop, "/other").send().status, 200, "{pop} serves over TLS");
        told_of_clock(&fleet, pop);
    }
    assert_eq!(fleet.dig("ns1", "static.cdn.test A").data("A"), ["192.0.2.81"], "the others go on");
    for pop in ["fra", "nyc"] {
        fleet.process(pop).kill();
        fleet.start(pop);
        fleet.wait_serving(pop);
    }
    wait_right(&fleet);
    for (pop, _) in POPS {
        assert_eq!(
            fleet.http(pop, "/hello").send().header("x-cache-status"),
            "MISS",
            "{pop}: the purge is not lost"
        );
    }

    say("home, a year behind");
    let snapshots = snapshots_of(&fleet);
    fleet.process("controller").kill();
    let mut command = fleet.serve_controller();
    shifted(&mut command, &library, "-365d");
    fleet.run("controller", &mut command).wait_for("is a clock wrong", SOON);
    fleet.wait_all_up();
    for (pop, _) in POPS {
        assert_eq!(fleet.http(pop, "/other").send().status, 200, "{pop} serves without home");
    }
    assert_eq!(snapshots_of(&fleet), snapshots, "nobody was led astray");
    fleet.process("controller").kill();
    fleet.start_controller();
    fleet.edit(&fleet.zone_file(), "192.0.2.81", "192.0.2.82");
    assert_eq!(fleet.nearside(&["publish"]).code, Some(0));
    assert_eq!(purge(&fleet, "/other").code, Some(0));
    wait_right(&fleet);
    assert_eq!(fleet.dig("ns2", "static.cdn.test A").data("A"), ["192.0.2.82"]);
    assert_eq!(fleet.http("sin", "/other").send().header("x-cache-status"), "MISS");
}

/// Home reaches a node whose clock is wrong and says how far it is off, or says that this may be why it does not.
fn told_of_clock(fleet: &Fleet, name: &str) {
    wait::until("home tells of the clock", TRIED_AGAIN, || {
        let status = home(fleet);
        let node = node(&status, name);
        let reached = node["phase"] == "current" && node["purges"] == status["purges"];
        let off = node["clock_ahead_seconds"].as_i64().unwrap_or(0).abs() > 300 * 86_400;
        let error = node["error"].as_str().unwrap_or_default();
        let told = node["phase"] == "unreachable" && error.contains("is a clock wrong");
        if told || (reached && off) {
            say(&format!("{name}: {} {error}", node["phase"]));
            return Ok(());
        }
        Err(node.to_string())
    });
}

/// The disk of an edge's state fills up: a snapshot is refused whole and home says why; the last one serves on, over a
/// restart too; the next try after there is room succeeds.
pub fn node_disk_full() {
    let mut fleet = Fleet::enrolled_after(|fleet| {
        fleet.edit(&fleet.fleet_file(), "[controller]\n", "[controller]\npublish = \"command\"\n");
    });
    let state = fleet.state_dir("nyc");
    let aside = fleet.path("nyc-identity");
    fs::rename(state.join("identity"), &aside).expect("a rename");
    let small = match Mount::tmpfs(&state, 2 << 20) {
        Ok(mount) => mount,
        Err(reason) => {
            return say(&format!("skipped: no small file system can be mounted here: {}", reason.trim()));
        }
    };
    fs::create_dir_all(state.join("identity")).expect("a directory");
    for entry in fs::read_dir(&aside).expect("an identity") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), state.join("identity").join(entry.file_name())).expect("a copy");
    }
    fleet.start_nodes();
    wait_right(&fleet);
    cache_page(&fleet, "/hello");

    let filler = state.join("filler");
    let _full = fs::write(&filler, vec![1; 4 << 20]);
    let text: String =
        (0..4000).map(|number| format!("t{number} IN TXT \"some text to fill a disk with\"\n")).collect();
    fleet.edit(&fleet.zone_file(), "192.0.2.80\n", &format!("192.0.2.81\n{text}"));
    let published = fleet.nearside(&["publish"]);
    assert_eq!(published.code, Some(1), "{published:?}");
    assert!(published.stdout.contains("No space left on device"), "{published:?}");
    let status = home(&fleet);
    let full = node(&status, "nyc");
    assert_eq!(
        (&full["phase"], &full["cause"], &full["snapshot"]),
        (&"refusing".into(), &"node".into(), &1.into()),
        "{full}"
    );
    for name in ["fra", "sin", "ns1", "ns2"] {
        assert_eq!(node(&status, name)["snapshot"], 2, "{status}");
    }
    assert_eq!(purge(&fleet, "/hello").code, Some(0), "purges are kept with the cache");
    assert_eq!(fleet.https("nyc", "/other").send().status, 200);
    fleet.process("nyc").kill();
    fleet.start("nyc");
    fleet.wait_serving("nyc");
    assert_eq!(
        fleet.status("nyc")["serving"]["snapshot"],
        1,
        "the last good state outlives a restart on a full disk"
    );
    assert_eq!(fleet.https("nyc", "/other").send().status, 200);
    say("full: refused whole, told at home, served on over a restart");

    fs::remove_file(&filler).expect("room");
    wait_right(&fleet);
    assert_eq!(fleet.status("nyc")["serving"]["snapshot"], 2);
    assert_eq!(fleet.http("nyc", "/hello").send().header("x-cache-status"), "MISS");
    fleet.process("nyc").kill();
    drop(small);
}
