//! Drills of home and many edges: a network that is cut, and home gone altogether.
//!
//! What must hold in the end: every node that lives is at home's newest state, and whatever was purged meanwhile is fetched
//! anew at every PoP, whoever was away when.

use std::{fs, time::Duration};

use crate::{
    fleet::{Fleet, NEIGHBOURS},
    partition::Cut,
    visitor, wait,
};

/// Edges unless `NEARSIDE_DRILL_EDGES` says otherwise.
const EDGES: u8 = 50;
/// For fifty processes on two cores to agree, timeouts of silent connections and pauses between tries included.
const CONVERGED: Duration = Duration::from_secs(120);

fn edges() -> u8 {
    let asked = std::env::var("NEARSIDE_DRILL_EDGES").ok().and_then(|edges| edges.parse().ok());
    asked.unwrap_or(EDGES).clamp(4, 100)
}

/// Fifty edges, half of them cut off from home.
pub fn partition() {
    partition_of(edges());
}

/// Fifty edges, and no home.
pub fn home_dark() {
    home_dark_of(edges());
}

/// Every second edge and a DNS node are cut off from home, which purges and publishes. They serve on; after the cut
/// every purge is in force and every node is at the newest snapshot.
///
/// # Panics
/// Where it is not so.
pub fn partition_of(edges: u8) {
    let mut fleet = Fleet::crowd(edges);
    let nodes = Fleet::crowd_names(edges);
    let pops: Vec<String> = nodes.iter().filter(|name| !name.starts_with("ns")).cloned().collect();
    let (cut_off, reached): (Vec<_>, Vec<_>) =
        pops.iter().cloned().enumerate().partition(|(at, _)| at % 2 == 1);
    let cut_off: Vec<String> = cut_off.into_iter().map(|(_, name)| name).collect();
    let reached: Vec<String> = reached.into_iter().map(|(_, name)| name).collect();
    let paths = ["/purged/by-url", "/purged/by-list", "/purged-too/by-prefix", "/kept"];
    for pop in &pops {
        paths.iter().for_each(|path| store(&fleet, pop, path));
    }
    let mut silent = cut_off.clone();
    silent.push("ns2".to_owned());
    let cut = Cut::from_home(&mut fleet, &silent);

    // Told in time, and told apart.
    let purge = fleet.nearside(&["purge", &url(paths[0]), "--wait", "3s", "--json"]);
    assert_eq!(purge.code, Some(4), "some have it, some get it later: {purge:?}");
    let told: serde_json::Value = serde_json::from_str(&purge.stdout).expect("JSON");
    let state = |pop: &String| {
        let told = told["pops"].as_array().into_iter().flatten().find(|told| told["pop"] == pop.as_str());
        told.map(|told| told["state"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    for pop in &reached {
        assert_eq!(state(pop), "acknowledged", "{pop}: {told}");
    }
    for pop in &cut_off {
        assert_ne!(state(pop), "acknowledged", "{pop}: {told}");
    }
    // Far more than fit into one message, the one that counts among them.
    let mut list: Vec<String> = (0..1_500).map(|at| url(&format!("/other/{at}"))).collect();
    list.insert(700, url(paths[1]));
    fs::write(fleet.path("changed.txt"), list.join("\n")).expect("a file");
    let file = fleet.path("changed.txt").display().to_string();
    assert_eq!(fleet.nearside(&["purge", "--from", &file, "--wait", "1s"]).code, Some(4));
    let prefix = url("/purged-too/");
    assert_eq!(fleet.nearside(&["purge", "--prefix", &prefix, "--wait", "1s"]).code, Some(4));
    fleet.edit(&fleet.zone_file(), "192.0.2.80", "192.0.2.81");
    wait_static(&fleet, "ns1", "192.0.2.81");
    for pop in &reached {
        assert_purged(&fleet, pop, &paths[..3]);
        assert_eq!(status_of(&fleet, pop, paths[3]), "HIT", "{pop}: only what was named");
    }
    if cut.leaves_clients() {
        for pop in &cut_off {
            assert_eq!(fleet.http(pop, paths[3]).send().status, 200, "{pop} serves on without home");
        }
        assert_eq!(
            fleet.dig("ns2", "static.cdn.test A").data("A"),
            ["192.0.2.80"],
            "ns2 has not heard of it"
        );
    }

    drop(cut);
    fleet.wait_current(&nodes, CONVERGED);
    for pop in &cut_off {
        assert_purged(&fleet, pop, &paths[..3]);
        assert_eq!(status_of(&fleet, pop, paths[3]), "HIT", "{pop}: nothing but what was purged");
    }
    wait_static(&fleet, "ns2", "192.0.2.81");
    let after = fleet.nearside(&["purge", &url(paths[3])]);
    assert_eq!(after.code, Some(0), "all have it at once again: {after:?}");
}

/// Home dies with a purge under way to an edge that is down. Nodes reboot, an edge dies and returns, answers follow; home
/// returns with an edit that nobody has seen, and the purge.
///
/// # Panics
/// Where it is not so.
pub fn home_dark_of(edges: u8) {
    let mut fleet = Fleet::crowd(edges);
    let nodes = Fleet::crowd_names(edges);
    let pops: Vec<String> = nodes.iter().filter(|name| !name.starts_with("ns")).cloned().collect();
    for pop in &pops {
        store(&fleet, pop, "/purged");
        store(&fleet, pop, "/kept");
    }
    let last = pops.last().expect("edges").clone();
    // A planned stop keeps what memory alone holds, so that there is something to purge when it comes back.
    fleet.process(&last).signal("TERM");
    fleet.process(&last).wait_end(CONVERGED);
    let purge = fleet.nearside(&["purge", &url("/purged"), "--wait", "5s"]);
    assert_eq!(purge.code, Some(4), "{purge:?}");
    fleet.process("controller").kill();
    fleet.edit(&fleet.zone_file(), "192.0.2.80", "192.0.2.81");
    assert_eq!(fleet.nearside(&["status"]).code, Some(3), "nobody to ask");

    // Half the fleet reboots from what it has accepted, the one that missed a purge among it.
    let mut rebooted: Vec<String> = pops.iter().step_by(2).cloned().collect();
    rebooted.extend(["ns1", "ns3"].map(str::to_owned));
    rebooted.retain(|name| *name != last);
    for node in &rebooted {
        fleet.process(node).signal("TERM");
    }
    for node in &rebooted {
        fleet.process(node).wait_end(CONVERGED);
        fleet.start(node);
    }
    fleet.start(&last);
    rebooted.push(last.clone());
    for node in &rebooted {
        fleet.wait_serving(node);
        fleet.wait_follows_home(node);
    }
    fleet.wait_all_up();
    assert_eq!(fleet.http(&last, "/purged").send().status, 200, "it can't know of the purge");
    let (_, german) = NEIGHBOURS[0];
    fleet.process("fra").kill();
    for server in ["ns1", "ns2"] {
        fleet.wait_steered(server, german, "nyc");
    }
    fleet.start("fra");
    fleet.wait_serving("fra");
    fleet.wait_all_up();
    for server in ["ns1", "ns2", "ns3"] {
        assert_eq!(fleet.dig(server, "static.cdn.test A").data("A"), ["192.0.2.80"]);
    }

    fleet.start_controller();
    fleet.wait_current(&nodes, CONVERGED);
    for server in ["ns1", "ns2", "ns3"] {
        wait_static(&fleet, server, "192.0.2.81");
    }
    assert_purged(&fleet, &last, &["/purged"]);
    for pop in pops.iter().filter(|pop| *pop != "fra") {
        assert_eq!(status_of(&fleet, pop, "/kept"), "HIT", "{pop} has kept what it had");
    }
    let after = fleet.nearside(&["purge", "--all"]);
    assert_eq!(after.code, Some(0), "{after:?}");
    for pop in &pops {
        assert_eq!(status_of(&fleet, pop, "/kept"), "MISS", "{pop}");
    }
}

fn url(path: &str) -> String {
    format!("http://www.cdn.test{path}")
}

fn status_of(fleet: &Fleet, pop: &str, path: &str) -> String {
    let got =
        visitor::get(fleet.at(pop, 8080), path, &[]).unwrap_or_else(|error| panic!("{pop}{path}: {error}"));
    assert_eq!(got.status, 200, "{pop}{path}");
    got.header("x-cache-status").to_owned()
}

/// Asks until it is a hit.
fn store(fleet: &Fleet, pop: &str, path: &str) {
    wait::until("it is stored", CONVERGED, || match status_of(fleet, pop, path).as_str() {
        "HIT" => Ok(()),
        other => Err(format!("{pop}{path}: {other}")),
    });
}

fn assert_purged(fleet: &Fleet, pop: &str, paths: &[&str]) {
    for path in paths {
        assert_eq!(status_of(fleet, pop, path), "MISS", "{pop}{path} was purged");
    }
}

fn wait_static(fleet: &Fleet, server: &str, address: &str) {
    wait::until("the edit is live", CONVERGED, || {
        let answer = fleet.dig(server, "static.cdn.test A");
        if answer.data("A") == [address] { Ok(()) } else { Err(answer.text) }
    });
}
