//! Drills of trust: an identity is stolen and revoked, home burns down and is made anew of a backup.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    curl,
    fleet::{DNS, Fleet, POPS, SOON},
    process, wait,
};

/// A machine's identity is copied and used from elsewhere; once it is revoked, nobody takes it: not home, not a shield, no
/// node; and what it could read is replaced. The machine then gets a new one.
pub fn revoked_node() {
    let mut fleet = Fleet::governed_after(|fleet| {
        let (control, at) = (format!("control = \"{}:8953\"\n", fleet.address("fra")), fleet.at("fra", 8444));
        fleet.edit(&fleet.fleet_file(), &control, &format!("{control}shield = \"{at}\"\n"));
        fleet.edit(&fleet.fleet_file(), "[site.www]\n", "[site.www]\nshields = [\"fra\"]\n");
    });
    for (node, _) in POPS.into_iter().chain(DNS) {
        fleet.wait_status(node, "has an identity of its own making", |status| {
            status["identity"]["made_here"] == true
        });
    }
    let stolen = fleet.path("stolen");
    copy_dir(&fleet.state_dir("sin").join("identity"), &stolen);
    let thief = Thief { fleet: &fleet, stolen };
    for identity in ["carried", "renewed"] {
        for (door, answer) in thief.tries(identity) {
            assert_eq!(answer.exit, 0, "a stolen identity works at {door} until it is revoked: {answer:?}");
        }
    }
    let ticket_key = fleet.status("nyc")["program_report"]["ticket_key"].clone();

    let revoked = fleet.nearside(&["node", "revoke", "sin", "--reason", "stolen"]);
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    for identity in ["carried", "renewed"] {
        wait::until(&format!("nobody takes the {identity} identity"), SOON, || {
            let taken: Vec<_> =
                thief.tries(identity).into_iter().filter(|(_, answer)| answer.exit == 0).collect();
            if taken.is_empty() { Ok(()) } else { Err(format!("{taken:?}")) }
        });
    }
    let node = |name: &str| node_of(&fleet, name);
    wait::until("home refuses it, and says so", SOON, || {
        let sin = node("sin");
        let told = sin["error"].as_str().unwrap_or_default().to_ascii_lowercase();
        if sin["phase"] == "unreachable" && told.contains("revoked") { Ok(()) } else { Err(sin.to_string()) }
    });
    wait::until("keys of session tickets are new", SOON, || {
        let now = fleet.status("nyc")["program_report"]["ticket_key"].clone();
        if now == ticket_key { Err(now.to_string()) } else { Ok(()) }
    });
    let snapshot = curl::Request::socket(&fleet.state_dir("nyc").join("control.sock"), "/v1/snapshot").send();
    assert!(snapshot.body.contains("sealed_for") && !snapshot.body.contains("\\\"sin\\\""), "{snapshot:?}");
    // The others go on: through each other, and under home.
    assert_eq!(fleet.http("nyc", "/hello").send().status, 200);
    let purge = fleet.nearside(&["purge", "--all", "--wait", "5s"]);
    assert_eq!(purge.code, Some(4), "all but sin: {purge:?}");

    let added = fleet.nearside(&["node", "add", "sin"]);
    assert_eq!(added.code, Some(0), "{added:?}");
    let bundle = fleet.state_dir("home").join("identities/sin.tar");
    let identity = fleet.state_dir("sin").join("identity");
    let thief = thief.stolen;
    fleet.process("sin").kill();
    fs::remove_dir_all(&identity).expect("the old identity goes");
    fs::create_dir_all(&identity).expect("a directory");
    let unpacked = process::run(Command::new("tar").arg("-xf").arg(&bundle).arg("-C").arg(&identity));
    assert_eq!(unpacked.code, Some(0), "{unpacked:?}");
    fleet.start("sin");
    fleet.wait_serving("sin");
    assert_eq!(fleet.nearside(&["publish"]).code, Some(0));
    wait_current(&fleet);
    assert_eq!(fleet.https("sin", "/hello").send().status, 200, "it has the site's key again");
    let thief = Thief { fleet: &fleet, stolen: thief };
    for (door, answer) in thief.tries("renewed") {
        assert_ne!(answer.exit, 0, "the stolen one is still refused at {door}: {answer:?}");
    }
}

/// Home is lost with everything on it and made of a backup that is older than what the fleet has seen: numbers go on, no purge is
/// lost, nothing is purged that need not be.
pub fn home_restored() {
    let mut fleet = Fleet::governed();
    let phrase = fleet.path("phrase");
    fs::write(&phrase, "a phrase that nobody guesses\n").expect("a file");
    let phrase = phrase.display().to_string();
    let file = fleet.path("home.age").display().to_string();
    assert_eq!(fleet.nearside(&["purge", "http://www.cdn.test:8080/before"]).code, Some(0));
    let made = fleet.nearside(&["backup", &file, "--passphrase-file", &phrase]);
    assert_eq!(made.code, Some(0), "while the controller runs: {made:?}");

    // What the backup does not know: two snapshots, three purges, of which fra misses two.
    for (from, to) in [("192.0.2.80", "192.0.2.81"), ("192.0.2.81", "192.0.2.82")] {
        fleet.edit(&fleet.zone_file(), from, to);
        wait_answer(&fleet, to);
    }
    assert_eq!(fleet.nearside(&["purge", "--tag", "x"]).code, Some(0));
    wait_current(&fleet);
    for (pop, _) in POPS {
        for path in ["/hello", "/other"] {
            fleet.http(pop, path).send();
            assert_eq!(fleet.http(pop, path).send().header("x-cache-status"), "HIT", "{pop} {path}");
        }
    }
    fleet.process("fra").signal("TERM");
    fleet.process("fra").wait_end(SOON * 2);
    for path in ["/hello", "/more"] {
        let purge = fleet.nearside(&["purge", &format!("http://www.cdn.test:8080{path}"), "--wait", "2s"]);
        assert_eq!(purge.code, Some(4), "{purge:?}");
    }
    let before = fleet.status("nyc")["serving"]["snapshot"].as_u64().expect("a snapshot");

    // Fire.
    fleet.process("controller").kill();
    fs::rename(fleet.state_dir("home"), fleet.path("ashes")).expect("home is gone");
    let restored = fleet.nearside(&["restore", &file, "--passphrase-file", &phrase]);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    let again = fleet.nearside(&["restore", &file, "--passphrase-file", &phrase]);
    assert_eq!(again.code, Some(1), "a home is never overwritten: {again:?}");
    fleet.start("fra");
    fleet.wait_serving("fra");
    assert_eq!(fleet.http("fra", "/hello").send().header("x-cache-status"), "HIT", "it missed that purge");
    fleet.start_controller();
    wait_current(&fleet);
    let after = fleet.status("nyc")["serving"]["snapshot"].as_u64().expect("a snapshot");
    assert!(after > before, "snapshot {after} follows {before}");
    assert_ne!(
        fleet.http("fra", "/hello").send().header("x-cache-status"),
        "HIT",
        "what fra missed and home forgot is not served"
    );
    for pop in ["nyc", "sin"] {
        let kept = fleet.http(pop, "/other").send();
        assert_eq!(kept.header("x-cache-status"), "HIT", "{pop} missed nothing, so it keeps what it has");
    }
    // Home commands as before.
    fleet.http("fra", "/other").send();
    assert_eq!(fleet.nearside(&["purge", "http://www.cdn.test:8080/other"]).code, Some(0));
    for (pop, _) in POPS {
        assert_eq!(fleet.http(pop, "/other").send().header("x-cache-status"), "MISS", "{pop}");
    }
    fleet.edit(&fleet.zone_file(), "192.0.2.82", "192.0.2.83");
    wait_answer(&fleet, "192.0.2.83");
    let log = fleet.nearside(&["audit"]).stdout;
    assert!(log.contains("restored: goes on after snapshot"), "{log}");
}

/// Somebody with the files of another machine's identity directory.
struct Thief<'f> {
    fleet: &'f Fleet,
    stolen: PathBuf,
}

impl Thief<'_> {
    /// Every door of the fleet, tried with one of the stolen identities.
    fn tries(&self, which: &str) -> Vec<(String, curl::Response)> {
        let (cert, key) = match which {
            "carried" => ("cert.pem", "key.pem"),
            _ => ("renewed.pem", "renewed.pem"),
        };
        let file = |name: &str| self.stolen.join(name).display().to_string();
        let (cert, key) = (file(cert), file(key));
        let ask = |at, host: &str, path: &str| {
            curl::Request::at(at, "https", host, path)
                .ca(&self.stolen.join("ca.pem"))
                .with(["--cert", &cert, "--key", &key])
                .send()
        };
        let home = fs::read_to_string(self.fleet.state_dir("home").join("controller.addr"));
        let home = home.expect("the controller is up").trim().parse().expect("an address");
        let mut tried =
            vec![("home".to_owned(), ask(home, "controller.node.nearside.internal", "/v1/status"))];
        for node in ["fra", "nyc", "ns1"] {
            let host = format!("{node}.node.nearside.internal");
            tried.push((node.to_owned(), ask(self.fleet.at(node, 8953), &host, "/v1/snapshot")));
        }
        let shield = ask(self.fleet.at("fra", 8444), "fra.node.nearside.internal", "/hello");
        tried.push(("the shield".to_owned(), shield));
        tried
    }
}

fn wait_answer(fleet: &Fleet, address: &str) {
    for (server, _) in DNS {
        wait::until(&format!("{server} answers {address}"), SOON, || {
            let answer = fleet.dig(server, "static.cdn.test A");
            if answer.data("A") == [address] { Ok(()) } else { Err(answer.text) }
        });
    }
}

/// Waits until every node has the newest snapshot, every edge every purge.
fn wait_current(fleet: &Fleet) {
    wait::until("all are current", SOON, || {
        let status = fleet.nearside(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap_or_default();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let is_current = |node: &serde_json::Value| {
            let has_purges = node["kind"] == "dns" || node["purges"] == status["purges"];
            node["phase"] == "current" && node["snapshot"] == status["snapshot"] && has_purges
        };
        let all = nodes.len() == POPS.len() + DNS.len() && nodes.iter().all(is_current);
        if all { Ok(()) } else { Err(status.to_string()) }
    });
}

fn node_of(fleet: &Fleet, name: &str) -> serde_json::Value {
    let status = fleet.nearside(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap_or_default();
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    nodes.into_iter().find(|node| node["node"] == name).unwrap_or_default()
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}
