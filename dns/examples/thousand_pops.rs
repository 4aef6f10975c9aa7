//! Compiles a synthetic fleet of a thousand PoPs against a city-like database and says what it cost.
//!
//! `cargo run --release -p nearside-dns --example thousand_pops -- [FILE.mmdb]...`; without files, a generated
//! database of 400,000 networks at 100,000 places, and the built-in table. Three fleets: by distance and by hash;
//! the same with a bias on every PoP, no two alike; rules before distance, in ten services that share one map.
#![allow(clippy::unwrap_used, reason = "a benchmark ends where it can't go on")]

use std::{collections::BTreeMap, fmt::Write, path::PathBuf, time::Instant};

use mmdb_writer::{Value, Writer, ipnet::IpNet};
use nearside_dns::steering::{HealthView, Steering, Table, open_geo_with};
use nearside_fleet::{Files, config::Config};

const POPS: usize = 1000;
const NETWORKS: u32 = 400_000;
const PLACES: usize = 100_000;

fn main() {
    let files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let directory = tempfile::tempdir().unwrap();
    let generated = directory.path().join("city.mmdb");
    if files.is_empty() {
        std::fs::write(&generated, city_like()).unwrap();
    }
    for (kind, config) in [
        ("plain", fleet(Bias::None, "[service.near]\n[service.hash]\nstrategy = \"hash\"\n")),
        ("bias", fleet(Bias::Each, "[service.near]\n[service.hash]\nstrategy = \"hash\"\n")),
        ("rules", fleet(Bias::None, &rules())),
    ] {
        if files.is_empty() {
            measure(&format!("{kind}, generated database"), &config, std::slice::from_ref(&generated));
            measure(&format!("{kind}, built-in table"), &config, &[]);
        } else {
            measure(&format!("{kind}, given databases"), &config, &files);
        }
    }
}

/// Whether PoPs pull clients from afar.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bias {
    None,
    Each,
}

/// Ten services alike: fifty rules by country and subdivision, distance for the rest.
fn rules() -> String {
    let countries =
        ["NA-US", "EU-DE", "EU-FR", "SA-BR", "AS-IN", "AS-JP", "OC-AU", "AF-ZA", "NA-CA", "EU-GB"];
    let mut text = String::new();
    for service in 0..10 {
        write!(text, "[service.s{service}]\nstrategy = \"rules\"\n").unwrap();
        for number in 0..50 {
            let when = match number % 5 {
                0 => format!("NA-US-{}", ["CA", "TX", "NY", "WA", "FL"][number / 10]),
                _ => countries[number / 5].to_owned(),
            };
            writeln!(text, "[[service.s{service}.rule]]\nwhen = [\"{when}\"]\npops = [\"p{number}\"]")
                .unwrap();
        }
    }
    text
}

fn measure(name: &str, config: &Config, databases: &[PathBuf]) {
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let geo = open_geo_with(&config.geoip, databases).unwrap();
    let opened = begun.elapsed();
    let steering = Steering::compile(config, &geo).unwrap();
    let compiled = begun.elapsed() - opened;
    let cpu = cpu_seconds() - cpu;
    let begun = Instant::now();
    let table = Table::build(&steering, &HealthView::default());
    println!(
        "{name}: {POPS} PoPs, {} services: opened in {opened:.2?}, compiled in {compiled:.2?}, both in {cpu:.2} s of \
         CPU, maps {} KiB, table in {:.2?}",
        config.services.len(),
        steering.bytes() / 1024,
        begun.elapsed()
    );
    drop(table);
}

/// User and system time of this process as the kernel tells it, in its ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// PoPs all over the land-ish latitudes.
fn fleet(bias: Bias, services: &str) -> Config {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut text = "version = 1\nfleet = \"big\"\n".to_owned();
    for number in 0..POPS {
        let (north, east) = (rng.f64() * 120.0 - 50.0, rng.f64() * 360.0 - 180.0);
        let (a, b) = (number / 250, number % 250);
        text += &format!(
            "[pop.p{number}]\nlocation = [{north:.3}, {east:.3}]\nipv4 = \"10.9.{a}.{b}\"\nipv6 = \"2001:db8::{number}\"\n"
        );
        if bias == Bias::Each {
            writeln!(text, "bias_km = {}", number / 2).unwrap();
        }
    }
    text += services;
    let path = std::path::Path::new("/nearside.toml");
    nearside_fleet::spec::parse(path, &text, &Files::beside(path)).unwrap().config
}

/// Networks of 8 to 24 bits, each at one of many places: what makes a city database expensive.
fn city_like() -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(2);
    let places: Vec<(f32, f32)> =
        (0..PLACES).map(|_| (rng.f32() * 120.0 - 50.0, rng.f32() * 360.0 - 180.0)).collect();
    let mut writer = Writer::new("Test-City");
    for number in 0..NETWORKS {
        // Spread over the address space without overlaps: 2^24 / 400,000 leaves room for a /24 to a /20 each.
        let address = (number * 41) << 8;
        let network = IpNet::new(std::net::Ipv4Addr::from_bits(address).into(), rng.u8(20..=24)).unwrap();
        let (latitude, longitude) = places[rng.usize(..PLACES)];
        let record: BTreeMap<String, Value> = [
            ("latitude".to_owned(), Value::from(latitude)),
            ("longitude".to_owned(), Value::from(longitude)),
        ]
        .into();
        writer.insert_value(network, Value::Map(record)).unwrap();
    }
    writer.to_bytes().unwrap()
}
