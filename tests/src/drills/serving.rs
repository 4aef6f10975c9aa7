//! Drills that a visitor would notice: a dead PoP, a bad edit, a new certificate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use crate::{
    fleet::{Certificate, Fleet, NEIGHBOURS, SOON},
    wait,
};

/// Germany's nearest PoP dies: New York takes over at both DNS nodes, Frankfurt comes back when it does.
pub fn pop_dies() {
    let mut fleet = Fleet::started();
    let (_, german) = NEIGHBOURS[0];
    fleet.process("fra").kill();
    for server in ["ns1", "ns2"] {
        fleet.wait_steered(server, german, "nyc");
        let other = fleet.dig(server, &format!("www.cdn.test A +subnet={}", NEIGHBOURS[2].1));
        assert_eq!(other.address(), fleet.address("sin"), "others stay where they were\n{}", other.text);
    }
    assert_eq!(fleet.http("nyc", "/hello").send().status, 200, "the PoP that took over serves");
    fleet.start("fra");
    fleet.wait_serving("fra");
    for server in ["ns1", "ns2"] {
        fleet.wait_steered(server, german, "fra");
    }
}

/// A slip in the fleet file, then one in the zone file: refused with file, line and column; nothing changes.
pub fn bad_config() {
    let mut fleet = Fleet::started();
    let (fleet_file, zone_file) = (fleet.fleet_file(), fleet.zone_file());
    fleet.edit(&fleet_file, "ttl = { min", "tll = { min");
    for node in ["ns1", "ns2", "fra"] {
        fleet.process(node).wait_for("unknown key `tll`", SOON);
        let output = fleet.process(node).output();
        assert!(output.contains("nearside.toml:"), "the place is told:\n{output}");
    }
    still_serves(&fleet);
    fleet.edit(&fleet_file, "tll = { min", "ttl = { min");
    fleet.edit(&zone_file, "static  IN A    192.0.2.80", "static  IN A    192.0.2.800");
    fleet.process("ns1").wait_for("cdn.test.zone:", SOON);
    still_serves(&fleet);
    assert_eq!(fleet.dig("ns1", "static.cdn.test A").data("A"), ["192.0.2.80"], "the last good zone stays");
    fleet.edit(&zone_file, "192.0.2.800", "192.0.2.81");
    wait::until("the mended zone is live", SOON, || {
        match fleet.dig("ns1", "static.cdn.test A").data("A")[..] {
            ["192.0.2.81"] => Ok(()),
            _ => Err("not yet"),
        }
    });
}

fn still_serves(fleet: &Fleet) {
    for (pop, client) in NEIGHBOURS {
        let answer = fleet.dig("ns1", &format!("www.cdn.test A +subnet={client}"));
        assert_eq!(answer.address(), fleet.address(pop), "{}", answer.text);
    }
    assert_eq!(fleet.http("fra", "/hello").send().status, 200);
}

/// The certificate changes under clients that open a new connection for every request.
pub fn cert_swap() {
    let fleet = Arc::new(Fleet::started());
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = ["fra", "nyc", "sin"]
        .into_iter()
        .map(|pop| {
            let (fleet, stop, done) = (fleet.clone(), stop.clone(), done.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let response = fleet.https(pop, "/hello").send();
                    assert_eq!(response.status, 200, "{pop}: {response:?}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let before: Vec<String> = ["fra", "nyc", "sin"].map(|pop| fleet.served_certificate(pop)).into();
    for _ in 0..3 {
        let (old, seen) = (fleet.served_certificate("fra"), done.load(Ordering::Relaxed));
        fleet.write_certificate(Certificate::Good);
        wait::until("all PoPs serve the new certificate", SOON, || {
            let served: Vec<String> = ["fra", "nyc", "sin"].map(|pop| fleet.served_certificate(pop)).into();
            let new = served.iter().all(|certificate| *certificate != old && *certificate == served[0]);
            let used = done.load(Ordering::Relaxed) > seen;
            if new && used { Ok(()) } else { Err(format!("{served:?}")) }
        });
    }
    assert!(before.iter().all(|certificate| *certificate != fleet.served_certificate("fra")));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("not one request failed");
    }
}
