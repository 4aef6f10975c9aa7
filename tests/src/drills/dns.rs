//! Drills of the DNS nodes: nobody left to answer with, stalls, restarts, broken databases, reloads without end.

use std::{
    fs,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{
        Name, RData, RecordType,
        rdata::opt::{ClientSubnet, EdnsOption},
    },
};

use crate::{
    fleet::{Fleet, NEIGHBOURS, POPS, SOON},
    wait,
};

/// Every PoP dies: the list is served all the same, in order of distance, and metric and log say so.
pub fn all_down() {
    let mut fleet = Fleet::started();
    for (pop, _) in POPS {
        fleet.process(pop).kill();
    }
    let (_, german) = NEIGHBOURS[0];
    wait::until("ns1 says that all PoPs are down", SOON, || {
        let answer = fleet.dig("ns1", &format!("www.cdn.test A +subnet={german}"));
        assert_eq!(answer.status, "NOERROR", "{}", answer.text);
        assert!(!answer.data("A").is_empty(), "never without an answer:\n{}", answer.text);
        match fleet.metric("ns1", "nearside_dns_all_down_total", &[]) {
            0.0 => Err(answer.text),
            _ => Ok(()),
        }
    });
    let answer = fleet.dig("ns1", &format!("www.cdn.test A +subnet={german}"));
    assert_eq!(answer.address(), fleet.address("fra"), "the nearest comes first:\n{}", answer.text);
    fleet.start("sin");
    fleet.wait_steered("ns1", german, "sin");
}

/// A PoP stalls again and again, each time too short to count: the answers never change.
pub fn flap() {
    let mut fleet = Fleet::started();
    let (_, german) = NEIGHBOURS[0];
    let frankfurt = fleet.address("fra");
    for _ in 0..8 {
        fleet.process("fra").signal("STOP");
        // One probe of 300 ms can fail in this time; two are needed.
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            let answer = fleet.dig("ns1", &format!("www.cdn.test A +subnet={german}"));
            assert_eq!(answer.address(), frankfurt, "{}", answer.text);
        }
        fleet.process("fra").signal("CONT");
        fleet.wait_serving("fra");
        let until = Instant::now() + Duration::from_millis(700);
        while Instant::now() < until {
            let answer = fleet.dig("ns1", &format!("www.cdn.test A +subnet={german}"));
            assert_eq!(answer.address(), frankfurt, "{}", answer.text);
        }
    }
}

/// A DNS node is killed and started while a PoP is dead: not one of its answers names the dead PoP.
pub fn restart_while_down() {
    let mut fleet = Fleet::started();
    let (_, german) = NEIGHBOURS[0];
    fleet.process("fra").kill();
    fleet.wait_steered("ns1", german, "nyc");
    for signal in ["TERM", "KILL"] {
        fleet.process("ns1").signal(signal);
        fleet.process("ns1").wait_end(SOON);
        fleet.start("ns1");
        let dead = fleet.address("fra");
        wait::until("ns1 answers again", SOON, || {
            let answer = fleet.dig("ns1", &format!("www.cdn.test A +subnet={german}"));
            assert!(!answer.data("A").contains(&dead.as_str()), "a dead PoP was offered:\n{}", answer.text);
            if answer.data("A").is_empty() { Err(answer.text) } else { Ok(()) }
        });
        fleet.wait_steered("ns1", german, "nyc");
    }
}

/// The fleet file comes to name a database that was cut short: refused by name, the map stays.
pub fn truncated_mmdb() {
    let mut fleet = Fleet::started();
    let (database, fleet_file) = (fleet.path("city.mmdb"), fleet.fleet_file());
    fs::write(&database, b"\x00\x01\x02 cut short").expect("a file");
    let named = format!("fleet = \"test\"\n[geoip]\ndatabases = \"{}\"\n", database.display());
    fleet.edit(&fleet_file, "fleet = \"test\"\n", &named);
    fleet.process("ns1").wait_for("city.mmdb", SOON);
    for (pop, client) in NEIGHBOURS {
        let answer = fleet.dig("ns1", &format!("www.cdn.test A +subnet={client}"));
        assert_eq!(answer.address(), fleet.address(pop), "{}", answer.text);
    }
    fleet.edit(&fleet_file, &named, "fleet = \"test\"\n");
    fleet.edit(&fleet_file, "location = [50.11, 8.68]", "location = [-50.11, 8.68]");
    fleet.wait_steered("ns1", NEIGHBOURS[0].1, "nyc");
}

/// How often zone and fleet file change; `NEARSIDE_STORM` in the environment sets another number.
const STORM_RELOADS: u32 = 60;

/// Zone and fleet file change without pause while a client counts: every query is answered, with an address
/// that was right before or is right after.
pub fn reload_storm() {
    let reloads = std::env::var("NEARSIDE_STORM").ok().and_then(|n| n.parse().ok()).unwrap_or(STORM_RELOADS);
    let fleet = Fleet::started();
    let stop = Arc::new(AtomicBool::new(false));
    let counting = {
        let (server, stop) = (fleet.dns("ns1"), stop.clone());
        let allowed: Vec<String> = POPS.iter().map(|(pop, _)| fleet.address(pop)).collect();
        thread::spawn(move || count(server, &allowed, &stop))
    };
    let taken = |fleet: &Fleet| fleet.metric("ns1", "nearside_node_reloads_total", &[]);
    let zone_file = fleet.zone_file();
    let (start, mut serial) = (taken(&fleet), 1);
    while taken(&fleet) - start < f64::from(reloads) {
        fleet.edit(&zone_file, &format!("( {serial} 7200"), &format!("( {} 7200", serial + 1));
        serial += 1;
        let (before, expired) = (taken(&fleet), Instant::now() + SOON);
        if serial % 3 == 0 {
            let (from, to) = if serial % 2 == 0 {
                ("max = \"30s\"", "max = \"31s\"")
            } else {
                ("max = \"31s\"", "max = \"30s\"")
            };
            let text = fs::read_to_string(fleet.fleet_file()).expect("a file");
            if text.contains(from) {
                fleet.edit(&fleet.fleet_file(), from, to);
            }
        }
        wait::until("a reload is taken", expired - Instant::now(), || {
            if taken(&fleet) > before { Ok(()) } else { Err("none yet") }
        });
    }
    wait::until("the last serial is live", SOON, || {
        let answer = fleet.dig("ns1", "cdn.test SOA");
        if answer.text.contains(&format!(" {serial} 7200")) { Ok(()) } else { Err(answer.text) }
    });
    stop.store(true, Ordering::Relaxed);
    let answered = counting.join().expect("not one query was lost or answered wrongly");
    assert!(answered > 1_000, "only {answered} queries in all that time");
    eprintln!("reload-storm: {answered} queries answered over {} reloads, none lost", taken(&fleet) - start);
}

/// Asks without pause, one query at a time; panics at the first that is lost or wrong. Returns how many.
fn count(server: std::net::SocketAddr, allowed: &[String], stop: &AtomicBool) -> u64 {
    let socket = UdpSocket::bind((server.ip(), 0)).expect("a socket");
    socket.connect(server).expect("a peer");
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
    let (mut answered, mut buffer) = (0u64, [0u8; 2048]);
    while !stop.load(Ordering::Relaxed) {
        let query = query(answered as u16);
        socket.send(&query).expect("a query leaves");
        let length =
            socket.recv(&mut buffer).unwrap_or_else(|error| panic!("query {answered} was lost: {error}"));
        let message = Message::from_vec(&buffer[..length]).expect("an answer is a DNS message");
        assert_eq!(message.metadata.id, answered as u16, "an answer to another query");
        assert_eq!(message.metadata.response_code, ResponseCode::NoError, "{message:?}");
        let addresses: Vec<String> = message.answers.iter().filter_map(address).collect();
        assert!(addresses.len() == 1 && allowed.contains(&addresses[0]), "{message:?}");
        answered += 1;
    }
    answered
}

fn address(record: &hickory_proto::rr::Record) -> Option<String> {
    match &record.data {
        RData::A(a) => Some(a.0.to_string()),
        _ => None,
    }
}

fn query(id: u16) -> Vec<u8> {
    let name = Name::from_ascii("www.cdn.test.").expect("a name");
    let mut message = Message::query();
    message.metadata.id = id;
    message.add_query(Query::query(name, RecordType::A));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    let network = std::net::Ipv4Addr::from((91 << 24) | (u32::from(id) << 8)).into();
    edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(network, 24, 0)));
    message.edns = Some(edns);
    message.to_vec().expect("a query")
}
