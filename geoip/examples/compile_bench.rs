//! Compiles databases into a map for six PoPs and says what it cost: time (on the wall, and of the CPU, which a
//! busy machine does not stretch), memory at its peak and with the map alone, lookups.
//!
//! `cargo run --release -p nearside-geoip --example compile_bench -- [FILE.mmdb]...`; without files,
//! the built-in table.

use std::{collections::HashMap, hint::black_box, time::Instant};

use nearside_geoip::{
    geo::{Geo, Reach},
    map::Map,
    place::{Coordinates, Place},
};

const POPS: [(&str, f32, f32); 6] = [
    ("fra", 50.11, 8.68),
    ("nyc", 40.71, -74.01),
    ("sfo", 37.62, -122.38),
    ("sin", 1.35, 103.82),
    ("syd", -33.87, 151.21),
    ("gru", -23.55, -46.63),
];

/// Top three by distance, as a number per distinct order.
struct Orders {
    units: Vec<[f32; 3]>,
    numbers: HashMap<[usize; 3], u32>,
    asked: usize,
}

impl Orders {
    fn of(&mut self, place: &Place) -> u32 {
        self.asked += 1;
        let Some(point) = place.point() else { return 0 };
        let from = point.unit();
        let near = |i: usize| self.units[i].iter().zip(from).map(|(a, b)| a * b).sum::<f32>();
        let mut order: Vec<usize> = (0..self.units.len()).collect();
        order.sort_by(|&a, &b| near(b).total_cmp(&near(a)));
        let next = self.numbers.len() as u32 + 2;
        *self.numbers.entry([order[0], order[1], order[2]]).or_insert(next)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let start = Watch::start();
    let geo = Geo::open(&files, Vec::new())?;
    println!("open     {start}");
    for database in geo.databases() {
        println!("         {} {:?}", database.database_type(), database.schema());
    }
    let units = POPS.map(|(_, latitude, longitude)| Coordinates { latitude, longitude }.unit());
    let mut orders = Orders { units: units.to_vec(), numbers: HashMap::new(), asked: 0 };
    let start = Watch::start();
    let map = geo.compile(&[], |spot| match spot.reach {
        Reach::Global => orders.of(&spot.place),
        Reach::Special => 1,
    })?;
    println!("compile  {start}: {} decisions, {} lists", orders.asked, orders.numbers.len());
    println!("map      {} nodes, {:.1} MB", map.nodes(), map.bytes() as f64 / 1e6);
    println!("peak     {}", memory("VmHWM:"));
    drop(geo);
    println!("resident {}", memory("VmRSS:"));
    lookups(&map);
    Ok(())
}

/// Time on the wall and of the CPU since it was made.
struct Watch {
    wall: Instant,
    cpu: f64,
}

impl Watch {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_seconds() }
    }
}

impl std::fmt::Display for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wall = self.wall.elapsed().as_secs_f64();
        write!(f, "{wall:.2} s, {:.2} s of CPU", cpu_seconds() - self.cpu)
    }
}

/// User and system time of this process as the kernel tells it, in its ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may hold spaces; times are the 12th and 13th field behind it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn lookups(map: &Map) {
    const ROUNDS: u32 = 4_000_000;
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let addrs: Vec<u64> = (0..1 << 16).map(|_| next()).collect();
    let start = Instant::now();
    for i in 0..ROUNDS as usize {
        black_box(map.lookup_v4(addrs[i & 0xffff] as u32));
    }
    println!("lookup4  {:?}", start.elapsed() / ROUNDS);
    let start = Instant::now();
    for i in 0..ROUNDS as usize {
        // Within 2000::/3, where networks are.
        let addr = 0x2u128 << 124 | u128::from(addrs[i & 0xffff] >> 3) << 64;
        black_box(map.lookup_v6(addr));
    }
    println!("lookup6  {:?}", start.elapsed() / ROUNDS);
}

/// Resident memory as the kernel tells it.
fn memory(which: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(which));
    line.map_or("unknown".to_owned(), |line| line.trim().to_owned())
}
