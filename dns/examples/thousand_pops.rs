//! Compiles a synthetic fleet of a thousand PoPs against a city-like database and says what it cost.
//!
//! `cargo run --release -p nearside-dns --example thousand_pops -- [FILE.mmdb]...`; without files, a generated
//! database of 400,000 networks at 100,000 places, and the built-in table.
#![allow(clippy::unwrap_used, reason = "a benchmark ends where it can't go on")]

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use mmdb_writer::{Value, Writer, ipnet::IpNet};
use nearside_dns::steering::{HealthView, Steering, Table, open_geo_with};
use nearside_fleet::{Files, config::Config};

const POPS: usize = 1000;
const NETWORKS: u32 = 400_000;
const PLACES: usize = 100_000;

fn main() {
    let files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let config = fleet();
    if !files.is_empty() {
        return measure("given databases", &config, &files);
    }
    let directory = tempfile::tempdir().unwrap();
    let generated = directory.path().join("city.mmdb");
    std::fs::write(&generated, city_like()).unwrap();
    measure("generated database", &config, &[generated]);
    measure("built-in table", &config, &[]);
}

fn measure(name: &str, config: &Config, databases: &[PathBuf]) {
    let begun = Instant::now();
    let geo = open_geo_with(&config.geoip, databases).unwrap();
    let opened = begun.elapsed();
    let steering = Steering::compile(config, &geo).unwrap();
    let compiled = begun.elapsed() - opened;
    let begun = Instant::now();
    let table = Table::build(&steering, &HealthView::default());
    println!(
        "{name}: {POPS} PoPs, {} services: opened in {opened:?}, compiled in {compiled:?}, maps {} KiB, table in {:?}",
        config.services.len(),
        steering.bytes() / 1024,
        begun.elapsed()
    );
    drop(table);
}

/// PoPs all over the land-ish latitudes; one service by distance, one by hash.
fn fleet() -> Config {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut text = "version = 1\nfleet = \"big\"\n".to_owned();
    for number in 0..POPS {
        let (north, east) = (rng.f64() * 120.0 - 50.0, rng.f64() * 360.0 - 180.0);
        let (a, b) = (number / 250, number % 250);
        text += &format!(
            "[pop.p{number}]\nlocation = [{north:.3}, {east:.3}]\nipv4 = \"10.9.{a}.{b}\"\nipv6 = \"2001:db8::{number}\"\n"
        );
    }
    text += "[service.near]\n[service.hash]\nstrategy = \"hash\"\n";
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
