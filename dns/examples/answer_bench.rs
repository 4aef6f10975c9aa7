//! What one answer costs: nanoseconds per call of `respond`, by kind of query.
//!
//! `cargo run --release -p nearside-dns --example answer_bench [--rounds N] [FLEET]`; the fleet file is the
//! demo's by default, with the built-in country table. Each case runs over 4,096 prepared queries
//! with random client subnets; the best of many rounds is printed, because everything else on
//! the machine only ever adds. Answers are counted as the UDP workers do it. `scripts/bench answer` runs it
//! under callgrind and prints instructions.

use std::{
    error::Error,
    hint::black_box,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use nearside_dns::{
    answer::{Context, Identity, Limits, Scratch, TailoredService, Transport, cookie::CookieKeys, respond},
    clock,
    steering::{HealthView, Steering, Table, open_geo},
    transport::stats::{Counters, SlotTable, Stats},
};
use nearside_zones::{Binding, Name, Rtype, Zone, Zones, master};

/// Queries per case: random enough to miss the branch predictor, small enough for L2.
const QUERIES: usize = 4096;
const ROUNDS: usize = 500;

fn query(name: &str, rtype: Rtype, options: Option<&[u8]>) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut packet = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(options.is_some())];
    packet.extend(name.parse::<Name>()?.wire());
    packet.extend(rtype.0.to_be_bytes());
    packet.extend([0, 1]);
    if let Some(options) = options {
        packet.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0]);
        packet.extend(u16::try_from(options.len())?.to_be_bytes());
        packet.extend(options);
    }
    Ok(packet)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).peekable();
    let rounds = match args.next_if(|arg| arg == "--rounds") {
        Some(_) => args.next().ok_or("--rounds takes a number")?.parse()?,
        None => ROUNDS,
    };
    let fleet = args.next();
    let fleet =
        fleet.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../etc/demo/nearside.toml").into());
    let loaded = nearside_fleet::load(Path::new(&fleet))
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let config = loaded.config;
    let steering = Steering::compile(&config, &open_geo(&config.geoip)?)?;
    let table = Table::build(&steering, &HealthView::default());
    let services: Vec<TailoredService> = config
        .services
        .values()
        .map(|service| TailoredService::new(service.alpn.iter().map(String::as_str)))
        .collect();
    let mut zones = Vec::new();
    let mut tailored = None;
    for zone in config.zones.values() {
        let origin: Name = zone.origin.parse()?;
        let mut bindings = nearside_zones::Bindings::new();
        for (name, service) in &zone.names {
            let owner = Name::parse(name.as_bytes(), Some(&origin))?;
            let id = steering.service(service).ok_or("a service that does not exist")?;
            let https = services.get(id.0 as usize).is_some_and(|service| !service.alpn.is_empty());
            tailored = Some(owner.clone()).filter(|owner| !owner.is_wildcard()).or(tailored);
            bindings.insert(owner, Binding { service: id.0, https });
        }
        let records = master::load(&zone.file, &origin)?.records;
        zones.push(Arc::new(Zone::build(origin, records, &bindings)?.0));
    }
    let zones = Zones::new(zones);
    let tailored = tailored.ok_or("the fleet has no tailored name")?.to_string();
    let origin = zones.iter().next().ok_or("the fleet has no zone")?.origin().to_string();
    let cookies = CookieKeys::new([7; 16]);
    let identity = Identity::default();
    let context = Context {
        zones: &zones,
        steer: &|service, client| steering.lookup(service, client),
        table: &table,
        services: &services,
        identity: &identity,
        limits: Limits::default(),
        cookies: Some(&cookies),
        rrl: None,
        challenges: None,
    };

    let mut random = fastrand::Rng::with_seed(7);
    let mut subnet = || {
        let [a, b, c] = [random.u8(1..224), random.u8(..), random.u8(..)];
        [0, 8, 0, 7, 0, 1, 24, 0, a, b, c]
    };
    let none = format!("none.{origin}");
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut cases: Vec<(&str, Vec<Vec<u8>>)> = Vec::new();
    for (case, name, rtype) in [
        ("geo-a", &tailored, Rtype::A),
        ("geo-aaaa", &tailored, Rtype::AAAA),
        ("geo-https", &tailored, Rtype::HTTPS),
    ] {
        let queries = (0..QUERIES).map(|_| query(name, rtype, Some(&subnet())));
        cases.push((case, queries.collect::<Result<_, _>>()?));
    }
    for (case, name, rtype, options) in [
        ("geo-plain", &tailored, Rtype::A, None),
        ("static-soa", &origin, Rtype::SOA, Some(&[][..])),
        ("static-ns", &origin, Rtype::NS, Some(&[][..])),
        ("nxdomain", &none, Rtype::A, Some(&[][..])),
        ("cookie", &tailored, Rtype::A, Some(&cookie[..])),
    ] {
        cases.push((case, vec![query(name, rtype, options)?; QUERIES]));
    }
    let stats = Stats::default();
    let slots = stats.slots(&config);
    let counters = stats.worker(std::net::UdpSocket::bind("127.0.0.1:0")?);
    println!("queries {}", QUERIES * rounds);
    for (case, queries) in &cases {
        println!("{case:<12} {:6.1} ns/answer", measure(&context, &counters, &slots, queries, rounds));
    }
    Ok(())
}

/// Nanoseconds per query, best round. Never inlined: callgrind counts between its entry and its return.
#[inline(never)]
fn measure(
    context: &Context<'_>,
    counters: &Counters,
    slots: &SlotTable,
    queries: &[Vec<u8>],
    rounds: usize,
) -> f64 {
    let source: SocketAddr = ([198, 51, 100, 7], 5353).into();
    let mut scratch = Scratch::default();
    let mut out = [0u8; 4096];
    let mut best = Duration::MAX;
    let now = clock::now();
    for _ in 0..rounds {
        let start = Instant::now();
        for query in queries {
            let outcome = respond(context, &mut scratch, query, source, Transport::Udp, now, &mut out);
            counters.count(&outcome, slots);
            assert!(black_box(outcome).bytes > 0);
        }
        best = best.min(start.elapsed());
    }
    best.as_secs_f64() * 1e9 / queries.len() as f64
}
