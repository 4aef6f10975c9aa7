//! What each gate costs a request: `gate <name> <µs>`, one line each. `scripts/bench gates` runs it in a release build.
//!
//!     gate_bench                    all gates, timed: the median of several rounds
//!     gate_bench waf 100000         one gate so often, for instruction counts: `valgrind --tool=callgrind
//!                                   --toggle-collect='gate_bench::run'`, with a shorter list of networks
//!     gate_bench compile            what a list of a million networks costs to read, in time and memory
//!
//! Requests are let in: a refusal costs a formatted answer more, and no cache or origin. Clients and URLs change from
//! one request to the next, so that what is measured is not one hot line of a table.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Request};
use nearside_edge::{
    gates::{Building, Gates, Lists},
    place::{self, Places, Seen},
};
use nearside_fleet::config::{
    self, Geoip, Match, Secret, SecretHeader, Site,
    gates::{self, Acting, NetworkGate, Others, Per, PlaceGate, RateGate, SecretGate, WafFamily, WafGate},
};
use nearside_geoip::{list, map::Builder};

/// What a browser sends with an ordinary URL.
const FIELDS: [(&str, &str); 7] = [
    ("host", "www.example.org"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "https://www.example.org/shop/tents?page=3"),
    ("cookie", "session=8f14e45fceea167a5a36dedd4bea2543; theme=dark"),
];

const URLS: [&str; 4] = [
    "/shop/acme/blue-tent-4711?color=blue&size=XL&utm_source=newsletter&utm_campaign=spring_2026",
    "/search?q=O%27Brien+%26+Sons+waterproof+tent&page=2&sort=price",
    "/static/img/2026/05/tent.8f14e45f.webp?w=640&h=480&q=80",
    "/api/v2/users/4711/orders?fields=id,name,date&filter[status]=open&page[number]=3",
];

const NETWORKS: u32 = 1_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("compile") => compile(),
        Some(name) => {
            let count = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(100_000);
            run(&case(name, NETWORKS / 10), count);
        }
        None => {
            for name in CASES {
                println!("gate {name} {:.3}", microseconds(&case(name, NETWORKS)));
            }
        }
    }
}

/// In the order in which a request meets them.
const CASES: [&str; 5] = ["secret", "network", "place", "rate-limit", "waf"];

struct Case {
    gates: Arc<Gates>,
    places: Arc<Places>,
    shows_secret: bool,
}

fn case(name: &str, count: u32) -> Case {
    let asked = match name {
        "secret" => secret(),
        "network" => network(count),
        "place" => place(),
        "rate-limit" => rate_limit(),
        "waf" => waf(),
        _ => panic!("gates are {CASES:?}"),
    };
    let site = Site { name: "www".to_owned(), gates: asked, ..config::Site::default() };
    let places = Places::compile(&Geoip::default(), place::asked(&site)).unwrap();
    let mut lists = Lists::default();
    let mut with = Building { places: &places, lists: &mut lists, last: None, workers: 1 };
    let gates = Gates::build(&site, &mut with).unwrap().unwrap();
    Case { gates, places, shows_secret: name == "secret" }
}

const ACTING: Acting = Acting { mode: gates::Mode::Enforce, log: false };

fn secret() -> gates::Gates {
    let values = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"];
    let values = values.map(|text| Secret(text.to_owned())).to_vec();
    let header = SecretHeader { name: "x-front".to_owned(), values };
    gates::Gates { secret: Some(SecretGate { header, acting: ACTING }), ..gates::Gates::default() }
}

fn network(count: u32) -> gates::Gates {
    let file = std::env::temp_dir().join(format!("nearside-gate-bench-{}", std::process::id()));
    std::fs::write(&file, networks(count)).unwrap();
    let network = NetworkGate {
        allow: Vec::new(),
        deny: Vec::new(),
        allow_files: Vec::new(),
        deny_files: vec![file],
        others: Others::Allow,
        acting: ACTING,
    };
    gates::Gates { network: Some(network), ..gates::Gates::default() }
}

fn place() -> gates::Gates {
    let place = PlaceGate {
        allow: Vec::new(),
        deny: vec![Match::Country("IS".to_owned()), Match::Continent("AN".to_owned())],
        others: Others::Allow,
        status: 403,
        page: None,
        acting: ACTING,
    };
    gates::Gates { place: Some(place), ..gates::Gates::default() }
}

fn rate_limit() -> gates::Gates {
    let rate = RateGate {
        name: "each".to_owned(),
        per: Per::Client,
        count: 100_000_000,
        period: Duration::from_secs(3600),
        burst: 100_000_000,
        path: None,
        ipv6_prefix: 64,
        shared: false,
        acting: ACTING,
    };
    gates::Gates { rates: vec![rate], ..gates::Gates::default() }
}

fn waf() -> gates::Gates {
    let waf = WafGate {
        families: WafFamily::ALL.iter().map(|(_, family)| *family).collect(),
        threshold: 5,
        headers: Vec::new(),
        query_bytes_max: 8192,
        rules: Vec::new(),
        excludes: Vec::new(),
        acting: ACTING,
    };
    gates::Gates { waf: Some(waf), ..gates::Gates::default() }
}

/// So many lookups; the requests are made before.
#[inline(never)]
fn run(case: &Case, count: usize) {
    let mut requests: Vec<Request<()>> = URLS
        .iter()
        .map(|url| {
            let mut headers = HeaderMap::new();
            for (name, value) in FIELDS {
                headers.insert(name, value.parse().unwrap());
            }
            let mut request = Request::get(*url).body(()).unwrap();
            *request.headers_mut() = headers;
            request
        })
        .collect();
    let secret = http::HeaderValue::from_static("fedcba9876543210fedcba9876543210");
    let now = Instant::now();
    let mut address = 0x5b40_0000u32;
    let of = requests.len();
    for number in 0..count {
        address = address.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // 11.0.0.0/8: nobody's on the list.
        let client = IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 | address >> 14));
        let request = &mut requests[number % of];
        if case.shows_secret {
            // The gate takes it off.
            request.headers_mut().insert("x-front", secret.clone());
        }
        let seen = Seen::new(&case.places, client);
        match case.gates.admit(request, &seen, now) {
            Ok(admitted) => drop(black_box(admitted)),
            Err(denied) => panic!("{} refused {}", denied.gate().name(), request.uri()),
        }
    }
}

/// The median of rounds, one request.
fn microseconds(case: &Case) -> f64 {
    const ROUNDS: usize = 9;
    const COUNT: usize = 200_000;
    run(case, COUNT / 10);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            run(case, COUNT);
            began.elapsed().as_secs_f64() * 1e6 / COUNT as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

/// Networks of many lengths, none in 11.0.0.0/8.
fn networks(count: u32) -> String {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut text = String::with_capacity(count as usize * 20);
    for _ in 0..count {
        let length = [24, 28, 29, 30, 32, 32, 32, 32][rng.usize(..8)];
        let mut address = rng.u32(..);
        if address >> 24 == 11 {
            address ^= 0x8000_0000;
        }
        let address = Ipv4Addr::from_bits(address & u32::MAX << (32 - length));
        text += &format!("{address}/{length}\n");
    }
    text
}

fn compile() {
    let text = networks(NETWORKS);
    let began = Instant::now();
    let networks = list::parse(&text).unwrap();
    let parsed = began.elapsed();
    let began = Instant::now();
    let mut builder = Builder::new(0);
    networks.iter().for_each(|&network| builder.push(network, 1));
    let map = builder.finish();
    let compiled = began.elapsed();
    println!(
        "figure network-list {} networks, read in {:.0} ms, compiled in {:.0} ms, {:.1} MiB",
        networks.len(),
        parsed.as_secs_f64() * 1e3,
        compiled.as_secs_f64() * 1e3,
        map.bytes() as f64 / f64::from(1 << 20),
    );
}
