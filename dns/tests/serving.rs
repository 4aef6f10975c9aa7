//! A running server as its clients and its operator see it: answers, fail-over, drains, reloads, its end.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod server;

use std::{
    io::{Read, Write},
    net::{IpAddr, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType::{self, A, AAAA, NS, SOA, TXT},
};
use server::{Fleet, addresses, eventually, frame, query, read_frame, replace, scope};

const GERMAN: Option<(&str, u8)> = Some(("203.0.113.0", 24));
const AMERICAN: Option<(&str, u8)> = Some(("198.51.100.0", 25));
const SINGAPOREAN: Option<(&str, u8)> = Some(("2001:db8:5::", 48));

#[test]
fn answers_by_place_with_exact_scopes_over_udp_and_tcp() {
    let fleet = Fleet::new();
    let _pops = ["fra", "nyc", "sin"].map(|name| fleet.serve_pop(name));
    let node = fleet.start();
    for (subnet, pop, length) in [(GERMAN, "fra", 24), (AMERICAN, "nyc", 25), (SINGAPOREAN, "sin", 48)] {
        let answer = node.ask("www.cdn.test", A, subnet);
        assert_eq!((addresses(&answer), scope(&answer)), (vec![fleet.pop(pop)], Some(length)), "{pop}");
        assert!(answer.metadata.authoritative);
        assert!((1..=60).contains(&answer.answers[0].ttl));
        let mut stream = node.connect();
        stream.write_all(&frame(&query(9, "www.cdn.test", A, subnet))).unwrap();
        let over_tcp = Message::from_vec(&read_frame(&mut stream).unwrap()).unwrap();
        assert_eq!((addresses(&over_tcp), scope(&over_tcp)), (addresses(&answer), scope(&answer)));
    }
    assert_eq!(node.addresses("cdn.test", AAAA, SINGAPOREAN), ["2001:db8:51::1".parse::<IpAddr>().unwrap()]);
    let plain = node.ask("www.cdn.test", A, None);
    assert_eq!(
        (plain.answers.len(), plain.edns.is_none()),
        (1, true),
        "the source decides, no EDNS is echoed"
    );

    let still = node.ask("static.cdn.test", A, GERMAN);
    assert_eq!((addresses(&still), scope(&still)), (vec!["192.0.2.80".parse().unwrap()], Some(0)));
    let missing = node.ask("missing.cdn.test", A, GERMAN);
    assert_eq!((missing.metadata.response_code, scope(&missing)), (ResponseCode::NXDomain, Some(0)));
    assert_eq!(missing.authorities[0].record_type(), SOA);
    assert_eq!(missing.authorities[0].ttl, 60, "the smaller of SOA TTL and minimum");
    for (name, rtype) in [("cdn.test", SOA), ("cdn.test", NS), ("text.cdn.test", TXT), ("a.wild.cdn.test", A)]
    {
        assert_eq!(node.ask(name, rtype, None).answers.len(), 1, "{name} {rtype}");
    }
    assert_eq!(node.ask("other.test", A, None).metadata.response_code, ResponseCode::Refused);
    assert!(node.metric("nearside_dns_queries_total", &["outcome=\"no_name\"", "transport=\"udp\""]) >= 1.0);
    assert!(node.metric("nearside_dns_tailored_total", &["service=\"www\"", "transport=\"tcp\""]) >= 3.0);
}

#[test]
fn a_dead_pop_leaves_the_answers_and_returns() {
    let fleet = Fleet::new();
    let fra = fleet.serve_pop("fra");
    let _others = ["nyc", "sin"].map(|name| fleet.serve_pop(name));
    let node = fleet.start();
    let answered = || node.addresses("www.cdn.test", A, GERMAN);
    assert_eq!(answered(), [fleet.pop("fra")]);
    drop(fra);
    eventually("nyc takes over", || answered() == [fleet.pop("nyc")]);
    let address = format!("address=\"{}\"", fleet.pop("fra"));
    assert_eq!(node.metric("nearside_dns_address_up", &[&address]), 0.0);
    let explained = explain(&fleet, &["--state-dir", fleet.path("state").to_str().unwrap()]);
    assert!(explained.contains("DOWN (web: down since"), "{explained}");
    assert!(explained.contains("connection refused"), "{explained}");
    assert!(explained.contains("as ns1 sees it now"), "{explained}");
    let _fra = fleet.serve_pop("fra");
    eventually("fra returns", || answered() == [fleet.pop("fra")]);
    let offline = explain(&fleet, &[]);
    assert!(offline.contains("nothing was probed"), "{offline}");
}

fn explain(fleet: &Fleet, more: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_nearside-dns"))
        .args(["explain", "www.cdn.test", "A", "--client", "203.0.113.0/24", "--fleet"])
        .arg(fleet.fleet_file())
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn all_down_serves_everyone_in_order_and_says_so() {
    let fleet = Fleet::new();
    let node = fleet.start();
    let everyone = ["fra", "nyc", "sin"].map(|name| fleet.pop(name));
    assert_eq!(node.addresses("www.cdn.test", A, GERMAN), everyone, "nearest first, dead or not");
    assert!(node.metric("nearside_dns_all_down_total", &["service=\"www\"", "pop=\"fra\""]) >= 1.0);
    node.wait_log("all down");
    let explained = explain(&fleet, &["--state-dir", fleet.path("state").to_str().unwrap()]);
    assert!(explained.contains("ALL DOWN"), "{explained}");
}

#[test]
fn states_survive_a_restart() {
    let fleet = Fleet::new();
    let fra = fleet.serve_pop("fra");
    let _others = ["nyc", "sin"].map(|name| fleet.serve_pop(name));
    let mut node = fleet.start();
    drop(fra);
    eventually("nyc takes over", || node.addresses("www.cdn.test", A, GERMAN) == [fleet.pop("nyc")]);
    node.signal("TERM");
    assert!(node.wait_end().success());
    // Back while nobody looked: one good probe is fewer than `rise`.
    let _fra = fleet.serve_pop("fra");
    let node = fleet.start();
    assert!(!node.log().contains("found up") || !node.log().contains(&fleet.pop("fra").to_string()));
    eventually("fra returns", || node.addresses("www.cdn.test", A, GERMAN) == [fleet.pop("fra")]);
    node.wait_log("up again");
}

#[test]
fn a_drain_moves_clients_survives_a_restart_and_is_lifted() {
    let fleet = Fleet::new();
    let _pops = ["fra", "nyc", "sin"].map(|name| fleet.serve_pop(name));
    let mut node = fleet.start();
    let (status, body) = node.control("POST", "/v1/drains", r#"{"pop":"oops"}"#);
    assert_eq!(status, 404, "{body}");
    assert!(body.contains("fra, nyc, sin"), "{body}");
    let (status, body) =
        node.control("POST", "/v1/drains", r#"{"pop":"fra","seconds":3600,"reason":"disk"}"#);
    assert_eq!(status, 200, "{body}");
    eventually("fra leaves", || node.addresses("www.cdn.test", A, GERMAN) == [fleet.pop("nyc")]);
    node.signal("TERM");
    assert!(node.wait_end().success());
    let node = fleet.start();
    assert_eq!(node.addresses("www.cdn.test", A, GERMAN), [fleet.pop("nyc")]);
    assert_eq!(node.metric("nearside_dns_drained", &["pop=\"fra\""]), 1.0);
    assert_eq!(node.control("DELETE", "/v1/drains/fra", "").0, 200);
    assert_eq!(node.control("DELETE", "/v1/drains/fra", "").0, 404);
    eventually("fra returns", || node.addresses("www.cdn.test", A, GERMAN) == [fleet.pop("fra")]);
}

#[test]
fn good_edits_go_live_and_bad_ones_are_refused_with_their_place() {
    let fleet = Fleet::new();
    let node = fleet.start();
    let answered = || node.addresses("static.cdn.test", A, None);
    let edited = Instant::now();
    fleet.write_zone("192.0.2.81", 8);
    eventually("the new zone", || answered() == ["192.0.2.81".parse::<IpAddr>().unwrap()]);
    assert!(edited.elapsed() < Duration::from_secs(2), "live after {:?}", edited.elapsed());

    replace(
        &fleet.path("cdn.test.zone"),
        "$ORIGIN cdn.test.\n$TTL 300\n@ SOA ns1 host 9 1 1 1 1\n@ NS ns1\nns1 A 300.1.1.1\n",
    );
    node.wait_log("cdn.test.zone:5:");
    assert_eq!(answered(), ["192.0.2.81".parse::<IpAddr>().unwrap()]);
    fleet.write_zone("192.0.2.82", 10);
    eventually("the mended zone", || answered() == ["192.0.2.82".parse::<IpAddr>().unwrap()]);

    fleet.write_fleet("\n[service.other]\nstratgy = \"nearest\"\n");
    node.wait_log("strategy");
    assert!(node.log().contains("nearside.toml:"), "{}", node.log());
    std::fs::write(fleet.path("cut.mmdb"), b"half a database").unwrap();
    fleet.write_fleet("\n[geoip]\ndatabases = \"cut.mmdb\"\n");
    node.wait_log("cut.mmdb");
    assert!(node.metric("nearside_node_reloads_refused_total", &[]) >= 3.0);
    assert_eq!(answered(), ["192.0.2.82".parse::<IpAddr>().unwrap()]);
    fleet.write_fleet("\n[service.other]\nchecks = []\n");
    let bound = r#"names = { "@" = "www", "www" = "www", "static" = "other" }"#;
    let text = std::fs::read_to_string(fleet.fleet_file()).unwrap();
    let names = text.lines().find(|line| line.starts_with("names")).unwrap();
    fleet.write_zone_without_static(11);
    replace(&fleet.fleet_file(), &text.replace(names, bound));
    let fra = [fleet.pop("fra")];
    eventually("the good fleet file", || node.addresses("static.cdn.test", A, GERMAN) == fra);
}

#[test]
fn not_one_answer_is_lost_or_mixed_while_zones_and_fleet_file_change() {
    let fleet = Fleet::new();
    let node = fleet.start();
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, answered, dns) = (Arc::clone(&stop), Arc::clone(&answered), node.dns);
            thread::spawn(move || {
                let socket = UdpSocket::bind((dns.ip(), 0)).unwrap();
                socket.connect(dns).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut room = [0; 4096];
                let mut id = 0_u16;
                while !stop.load(Ordering::Relaxed) {
                    id = id.wrapping_add(1);
                    socket.send(&query(id, "static.cdn.test", A, GERMAN)).unwrap();
                    let bytes = socket.recv(&mut room).expect("an answer to every query");
                    let answer = Message::from_vec(&room[..bytes]).unwrap();
                    assert_eq!(answer.metadata.id, id);
                    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
                    let addresses = addresses(&answer);
                    assert_eq!(addresses.len(), 1);
                    assert!(addresses[0].to_string().starts_with("192.0.2."), "{addresses:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..40_u32 {
        fleet.write_zone(&format!("192.0.2.{}", round % 200), 100 + round);
        if round % 4 == 0 {
            fleet.write_fleet(&format!("\n[service.s{round}]\nchecks = []\n"));
        }
        node.signal("HUP");
        thread::sleep(Duration::from_millis(50));
    }
    let reloads = node.metric("nearside_node_reloads_total", &[]);
    assert!(reloads >= 3.0, "{reloads} reloads");
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no client saw a wrong answer");
    }
    assert!(answered.load(Ordering::Relaxed) > 1000);
}

#[test]
fn pipelined_queries_in_odd_pieces_are_answered_in_order() {
    let fleet = Fleet::new();
    let node = fleet.start();
    let mut stream = node.connect();
    let mut bytes = Vec::new();
    for id in 0..300 {
        bytes.extend(frame(&query(id, "static.cdn.test", A, None)));
    }
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        for piece in bytes.chunks(37) {
            writer.write_all(piece).unwrap();
        }
    });
    for id in 0..300 {
        let answer = Message::from_vec(&read_frame(&mut stream).unwrap()).unwrap();
        assert_eq!((answer.metadata.id, answer.answers.len()), (id, 1));
    }
    sender.join().unwrap();
}

#[test]
fn connections_past_the_limit_of_a_client_are_turned_away() {
    let fleet = Fleet::new();
    let node = fleet.start();
    let mut kept = Vec::new();
    for _ in 0..nearside_dns::transport::tcp::CONNECTIONS_PER_CLIENT_MAX {
        let mut stream = node.connect();
        stream.write_all(&frame(&query(1, "static.cdn.test", A, None))).unwrap();
        read_frame(&mut stream).unwrap();
        kept.push(stream);
    }
    let mut one_more = node.connect();
    // Closed at once: by an end or a reset, before or after the query.
    let _ = one_more.write_all(&frame(&query(1, "static.cdn.test", A, None)));
    assert!(read_frame(&mut one_more).is_err());
    assert_eq!(node.metric("nearside_dns_connections_refused_total", &[]), 1.0);
    drop(kept);
    eventually("room again", || {
        let mut stream = node.connect();
        let _ = stream.write_all(&frame(&query(1, "static.cdn.test", A, None)));
        read_frame(&mut stream).is_ok()
    });
}

#[test]
fn garbage_is_counted_and_survived() {
    let fleet = Fleet::new();
    let node = fleet.start();
    let mut random = fastrand::Rng::with_seed(7);
    let socket = UdpSocket::bind((node.dns.ip(), 0)).unwrap();
    let whole = query(7, "www.cdn.test", RecordType::A, GERMAN);
    for round in 0..3000 {
        let mut packet = whole.clone();
        if round % 3 == 0 {
            packet = (0..random.usize(0..600)).map(|_| random.u8(..)).collect();
        } else {
            for _ in 0..random.usize(1..6) {
                let at = random.usize(0..packet.len());
                packet[at] = random.u8(..);
            }
            packet.truncate(random.usize(0..=packet.len()));
        }
        socket.send_to(&packet, node.dns).unwrap();
    }
    let mut stream = node.connect();
    for bytes in [0_usize, 1, 11, 12, 500] {
        let garbage: Vec<u8> = (0..bytes).map(|_| random.u8(..)).collect();
        stream.write_all(&frame(&garbage)).unwrap();
    }
    assert_eq!(node.addresses("static.cdn.test", A, None).len(), 1);
    assert!(node.metric("nearside_dns_queries_total", &["outcome=\"malformed\""]) > 0.0);
    assert!(node.metric("nearside_dns_queries_total", &["outcome=\"dropped\""]) > 0.0);
    assert_eq!(node.metric("nearside_dns_panics_total", &[]), 0.0);
}

#[test]
fn told_to_stop_it_ends_connections_and_itself() {
    let fleet = Fleet::new();
    let mut node = fleet.start();
    let mut idle = node.connect();
    idle.write_all(&frame(&query(1, "static.cdn.test", A, None))).unwrap();
    read_frame(&mut idle).unwrap();
    node.signal("TERM");
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0, "an idle connection is closed, not reset");
    assert!(node.wait_end().success());
}

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let fleet = Fleet::new();
    let _holder = UdpSocket::bind(fleet.dns()).unwrap();
    let mut node = fleet.spawn();
    assert_eq!(node.wait_end().code(), Some(1));
    eventually("the message", || {
        let log = node.log();
        log.contains(&fleet.dns().to_string()) && log.contains("ss -lntup") && log.contains("UDP")
    });
}

#[test]
fn check_finds_every_mistake_and_a_broken_database_is_refused() {
    let fleet = Fleet::new();
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nearside-dns"));
        let output = command.args(["check", "--fleet"]).arg(fleet.fleet_file()).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let (code, text) = check();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("3 PoPs"), "{text}");

    std::fs::write(fleet.path("short.mmdb"), b"\x00\x01\xab\xcd\xefMaxMind.com\xe1").unwrap();
    fleet.write_fleet("\n[geoip]\ndatabases = \"short.mmdb\"\n");
    let (code, text) = check();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("short.mmdb"), "{text}");

    fleet.write_fleet("");
    std::fs::write(fleet.path("cdn.test.zone"), "@ SOA oops\n").unwrap();
    let (code, text) = check();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("cdn.test.zone:1:"), "{text}");
}

#[test]
fn a_challenge_is_live_when_it_is_acknowledged_survives_a_reload_and_ends() {
    let fleet = Fleet::new();
    let mut node = fleet.start();
    let texts = || {
        let answer = node.ask("_acme-challenge.new.cdn.test", RecordType::TXT, None);
        answer.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>()
    };
    let path = "/v1/challenges/_acme-challenge.new.cdn.test";
    assert_eq!(node.control("PUT", path, r#"{"values":["one","two"],"seconds":600}"#).0, 200);
    assert_eq!(texts(), ["one", "two"], "at once");
    assert_eq!(node.metric("nearside_dns_challenges", &[]), 1.0);
    fleet.write_zone("192.0.2.81", 8);
    let moved = ["192.0.2.81".parse::<IpAddr>().unwrap()];
    eventually("the new zone", || node.addresses("static.cdn.test", A, None) == moved);
    assert_eq!(texts(), ["one", "two"], "a reload does not lose it");
    let (_, listed) = node.control("GET", "/v1/challenges", "");
    assert!(
        listed.starts_with(r#"{"_acme-challenge.new.cdn.test":{"values":["one","two"],"until":"#),
        "{listed}"
    );
    assert_eq!(node.control("DELETE", path, "").0, 200);
    assert_eq!(texts(), [""; 0], "gone at once");
    assert_eq!(node.control("DELETE", path, "").0, 404);
    assert_eq!(node.control("PUT", path, r#"{"values":["short"],"seconds":1}"#).0, 200);
    eventually("it ends by itself", || texts().is_empty());
    for (path, body, status, reason) in [
        (path, r#"{"values":[],"seconds":600}"#, 400, "expected 1 to 16 values"),
        (path, r#"{"values":["x"],"seconds":3601}"#, 400, "seconds must be 1 to 3600"),
        ("/v1/challenges/_acme-challenge.example.org", r#"{"values":["x"],"seconds":9}"#, 422, "in no zone"),
        ("/v1/challenges/a%2fb", r#"{"values":["x"],"seconds":9}"#, 400, "is not the name of a challenge"),
    ] {
        let (said, message) = node.control("PUT", path, body);
        assert!(said == status && message.contains(reason), "{path} {body}: {said} {message}");
    }
    node.signal("TERM");
    assert!(node.wait_end().success());
}
