//! Drills of the DNS nodes: nobody left to answer with, stalls, restarts, broken databases, reloads without end.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
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

/// German networks by the built-in table, a /16 each.
fn german_networks() -> impl Iterator<Item = Ipv4Addr> {
    let blocks = [(79, 192), (84, 128), (87, 128), (91, 0)];
    blocks
        .into_iter()
        .flat_map(|(first, second)| (second..=second + 63).map(move |n| Ipv4Addr::new(first, n, 0, 0)))
}

/// A PoP gets more requests than it can bear: both DNS nodes offer it to fewer networks, whose clients get the next
/// one. When the flood is over, everybody comes back.
pub fn shed() {
    let mut fleet = Fleet::new();
    fleet.edit(&fleet.fleet_file(), "max = \"30s\" }", "max = \"2s\" }\nshed_above = 0.3");
    fleet.start_nodes();
    let at_frankfurt = |fleet: &Fleet, server: &str| -> Vec<Ipv4Addr> {
        let socket = UdpSocket::bind((fleet.dns(server).ip(), 0)).expect("a socket");
        socket.connect(fleet.dns(server)).expect("a peer");
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
        let (frankfurt, next) = (fleet.address("fra"), fleet.address("nyc"));
        let here = |network: &Ipv4Addr| {
            let answer = exchange(&socket, 7, *network, 16);
            let address = answer.answers.iter().find_map(address).expect("an address");
            assert!([&frankfurt, &next].contains(&&address), "{network}: {address}");
            address == frankfurt
        };
        german_networks().filter(here).collect()
    };
    let share = |fleet: &Fleet, server: &str, pop: &str| {
        fleet.metric(server, "nearside_dns_offered_share", &[&format!("pop=\"{pop}\"")])
    };
    let all: Vec<Ipv4Addr> = german_networks().collect();
    for server in ["ns1", "ns2"] {
        assert_eq!(at_frankfurt(&fleet, server), all, "at rest, everybody is at the nearest");
        assert_eq!(share(&fleet, server, "fra"), 1.0);
    }

    let stop = Arc::new(AtomicBool::new(false));
    let flood: Vec<_> = (0..2)
        .map(|_| {
            let (stop, pop) = (stop.clone(), fleet.block.socket(21, 8080));
            thread::spawn(move || pelt(pop, &stop))
        })
        .collect();
    for server in ["ns1", "ns2"] {
        wait::until(&format!("{server} sheds Frankfurt"), SOON, || {
            let (load, share) =
                (fleet.metric(server, "nearside_dns_load", &["fra"]), share(&fleet, server, "fra"));
            if share < 1.0 { Ok(()) } else { Err(format!("load {load}, share {share}")) }
        });
    }
    let explained = fleet.command(
        "nearside-dns",
        &[
            "explain",
            "--fleet",
            "nearside.toml",
            "--state-dir",
            "state/ns1",
            "www.cdn.test",
            "A",
            "--client",
            "91.0.0.0/16",
        ],
    );
    assert!(explained.stdout.contains("busy: offered to"), "{explained:?}");
    stop.store(true, Ordering::Relaxed);
    let requests: u64 = flood.into_iter().map(|thread| thread.join().expect("requests were answered")).sum();
    for server in ["ns1", "ns2"] {
        let (offered, left) = (share(&fleet, server, "fra"), at_frankfurt(&fleet, server));
        let part = left.len() as f64 / all.len() as f64;
        eprintln!(
            "shed: {server} offers Frankfurt to {offered:.2} of networks, {} of {} got it",
            left.len(),
            all.len()
        );
        assert!((part - offered).abs() < 0.12, "{part} of the networks, offered {offered}");
        assert_eq!(share(&fleet, server, "sin"), 1.0, "others are left alone");
    }
    let begun = Instant::now();
    for server in ["ns1", "ns2"] {
        // Slowly: half as much again each half minute.
        wait::until(&format!("{server} offers Frankfurt to all again"), Duration::from_secs(240), || {
            match share(&fleet, server, "fra") {
                1.0 => Ok(()),
                share => Err(share.to_string()),
            }
        });
        let server_sees = || if at_frankfurt(&fleet, server) == all { Ok(()) } else { Err("not all") };
        wait::until("everybody is back at the nearest", SOON, server_sees);
    }
    eprintln!("shed: {requests} requests flooded, all networks back after {:?}", begun.elapsed());
}

/// Asks an edge for the same small thing as fast as it answers, many requests in flight. Returns how many.
fn pelt(pop: std::net::SocketAddr, stop: &AtomicBool) -> u64 {
    const AT_ONCE: usize = 64;
    let mut connection = TcpStream::connect(pop).expect("the edge listens");
    connection.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let requests = "GET /hello HTTP/1.1\r\nHost: www.cdn.test\r\n\r\n".repeat(AT_ONCE);
    let (mut answered, mut buffer) = (0, vec![0; 64 * 1024]);
    while !stop.load(Ordering::Relaxed) {
        // An edge ends a connection after so many requests.
        if answered % 8000 == 0 && answered > 0 {
            connection = TcpStream::connect(pop).expect("the edge listens");
        }
        connection.write_all(requests.as_bytes()).expect("the edge reads");
        let mut heads = 0;
        let mut last = [0u8; 3];
        while heads < AT_ONCE {
            let count = connection.read(&mut buffer).expect("the edge answers");
            assert!(count > 0, "the edge hung up");
            let text = [&last[..], &buffer[..count]].concat();
            heads += text.windows(4).filter(|window| window == b"\r\n\r\n").count();
            last.copy_from_slice(&text[text.len() - 3..]);
        }
        answered += AT_ONCE as u64;
    }
    answered
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

/// How often something changes; `NEARSIDE_STORM` in the environment sets another number.
const STORM_RELOADS: u32 = 60;

/// Zone, fleet file and database change without pause while a client counts: every query is answered, with an
/// address that was right before or is right after, and each database is answered from.
pub fn reload_storm() {
    let reloads = std::env::var("NEARSIDE_STORM").ok().and_then(|n| n.parse().ok()).unwrap_or(STORM_RELOADS);
    let mut fleet = Fleet::started();
    let database = fleet.path("city.mmdb");
    let taken = |fleet: &Fleet| fleet.metric("ns1", "nearside_node_reloads_total", &[]);
    let before = taken(&fleet);
    place_germans(&database, 0);
    let named = format!("fleet = \"test\"\n[geoip]\ndatabases = \"{}\"\n", database.display());
    fleet.edit(&fleet.fleet_file(), "fleet = \"test\"\n", &named);
    wait::until(
        "the database is read",
        SOON,
        || if taken(&fleet) > before { Ok(()) } else { Err("not yet") },
    );
    let counts = Arc::new(Counts::default());
    let counting = {
        let (server, counts) = (fleet.dns("ns1"), counts.clone());
        let allowed = ["fra", "nyc"].map(|pop| fleet.address(pop));
        thread::spawn(move || count(server, &allowed, &counts))
    };
    wait::until("a first answer", SOON, || {
        if counts.answered.load(Ordering::Relaxed) > 0 { Ok(()) } else { Err("none yet") }
    });
    let (fleet_file, zone_file) = (fleet.fleet_file(), fleet.zone_file());
    let (begun, start, mut serial, mut ttl) = (Instant::now(), taken(&fleet), 1, 30);
    for number in 1..=reloads {
        let before = taken(&fleet);
        match number % 3 {
            0 => place_germans(&database, number),
            1 => {
                fleet.edit(&zone_file, &format!("( {serial} 7200"), &format!("( {} 7200", serial + 1));
                serial += 1;
            }
            _ => {
                let next = if ttl == 30 { 31 } else { 30 };
                fleet.edit(&fleet_file, &format!("max = \"{ttl}s\""), &format!("max = \"{next}s\""));
                ttl = next;
            }
        }
        // Not to wait until files have been quiet for a while, ten thousand times.
        fleet.process("ns1").signal("HUP");
        wait::until("a reload is taken", SOON, || {
            if taken(&fleet) > before { Ok(()) } else { Err(format!("none of change {number} yet")) }
        });
        wait::until("answers come from the newest database", SOON, || {
            let moved = counts.moved.load(Ordering::Relaxed);
            if moved == u64::from(number / 3) {
                Ok(())
            } else {
                Err(format!("moved {moved} times in {number}"))
            }
        });
    }
    wait::until("the last serial is live", SOON, || {
        let answer = fleet.dig("ns1", "cdn.test SOA");
        if answer.text.contains(&format!(" {serial} 7200")) { Ok(()) } else { Err(answer.text) }
    });
    counts.stop.store(true, Ordering::Relaxed);
    counting.join().expect("not one query was lost or answered wrongly");
    let answered = counts.answered.load(Ordering::Relaxed);
    assert!(answered > 1_000, "only {answered} queries in all that time");
    eprintln!(
        "reload-storm: {answered} queries answered over {} reloads in {:.0} s, {} to another PoP, none lost",
        taken(&fleet) - start,
        begun.elapsed().as_secs_f64(),
        reloads / 3
    );
}

/// Writes a database in which 91.0.0.0/8 is in Frankfurt after an even number of changes and in New York after an odd
/// one; the number makes each a file of its own.
fn place_germans(database: &std::path::Path, number: u32) {
    let record = |latitude: f32, longitude: f32| {
        let degrees = [("latitude", latitude), ("longitude", longitude)];
        let fields = degrees.map(|(key, degrees)| (key.to_owned(), mmdb_writer::Value::from(degrees)));
        mmdb_writer::Value::Map(fields.into_iter().collect())
    };
    let germans = if number.is_multiple_of(2) { record(50.11, 8.68) } else { record(40.71, -74.01) };
    let mut writer = mmdb_writer::Writer::new("Storm-City");
    writer
        .insert_value("91.0.0.0/8".parse::<mmdb_writer::ipnet::IpNet>().expect("a network"), germans)
        .expect("a record");
    let elsewhere = record(1.35, 103.82 + number as f32 / 1e4);
    writer
        .insert_value("92.0.0.0/8".parse::<mmdb_writer::ipnet::IpNet>().expect("a network"), elsewhere)
        .expect("a record");
    let new = database.with_extension("new");
    fs::write(&new, writer.to_bytes().expect("a database")).expect("a file");
    fs::rename(new, database).expect("a rename");
}

/// Between a client that asks and who judges it.
#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    answered: AtomicU64,
    /// How often an answer named another PoP than the one before.
    moved: AtomicU64,
}

/// Asks without pause, one query at a time; panics at the first that is lost or wrong.
fn count(server: std::net::SocketAddr, allowed: &[String], counts: &Counts) {
    let socket = UdpSocket::bind((server.ip(), 0)).expect("a socket");
    socket.connect(server).expect("a peer");
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
    let mut last = None;
    while !counts.stop.load(Ordering::Relaxed) {
        let id = counts.answered.load(Ordering::Relaxed) as u16;
        let network = Ipv4Addr::from((91 << 24) | (u32::from(id) << 8));
        let message = exchange(&socket, id, network, 24);
        let addresses: Vec<String> = message.answers.iter().filter_map(address).collect();
        assert!(addresses.len() == 1 && allowed.contains(&addresses[0]), "{message:?}");
        if last.as_ref().is_some_and(|last| *last != addresses) {
            counts.moved.fetch_add(1, Ordering::Relaxed);
        }
        last = Some(addresses);
        counts.answered.fetch_add(1, Ordering::Relaxed);
    }
}

fn address(record: &hickory_proto::rr::Record) -> Option<String> {
    match &record.data {
        RData::A(a) => Some(a.0.to_string()),
        _ => None,
    }
}

fn query(id: u16, network: Ipv4Addr, bits: u8) -> Vec<u8> {
    let name = Name::from_ascii("www.cdn.test.").expect("a name");
    let mut message = Message::query();
    message.metadata.id = id;
    message.add_query(Query::query(name, RecordType::A));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(network.into(), bits, 0)));
    message.edns = Some(edns);
    message.to_vec().expect("a query")
}

/// Asks for the tailored name and reads the answer.
fn exchange(socket: &UdpSocket, id: u16, network: Ipv4Addr, bits: u8) -> Message {
    let mut buffer = [0u8; 2048];
    socket.send(&query(id, network, bits)).expect("a query leaves");
    let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("query {id} was lost: {error}"));
    let message = Message::from_vec(&buffer[..length]).expect("an answer is a DNS message");
    assert_eq!(message.metadata.id, id, "an answer to another query");
    assert_eq!(message.metadata.response_code, ResponseCode::NoError, "{message:?}");
    message
}
