//! What rules cost a request: `rules <name> <µs>`, one line each. `scripts/bench rules` runs it in a release build.
//!
//!     rule_bench                    every case, timed: the median of several rounds
//!     rule_bench NAME 100000        one case so often, for instruction counts: `valgrind --tool=callgrind
//!                                   --toggle-collect='rule_bench::run'`
//!
//! Each case is a thousand rules, but `mixed-10`; paths and fields change from one request to the next, and one request
//! in eight matches the last rule there is.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{fmt::Write as _, hint::black_box, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use nearside_edge::{
    place::{self, Places, Seen},
    rules::{Facts, Rulebook},
};
use nearside_fleet::{Files, config};

const FIELDS: [(&str, &str); 7] = [
    ("host", "www.example.org"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "https://www.example.org/shop/tents?page=3"),
    ("cookie", "session=8f14e45fceea167a5a36dedd4bea2543; theme=dark"),
];

const PATHS: [&str; 8] = [
    "/shop/acme/blue-tent-4711",
    "/search",
    "/static/img/2026/05/tent.8f14e45f.webp",
    "/api/v2/users/4711/orders",
    "/",
    "/blog/2026/11/21/how-to-pitch-a-tent-in-the-rain",
    "/checkout/basket",
    "/last/999/x",
];

const CASES: [&str; 9] =
    ["mixed-10", "exact", "prefix", "suffix", "between", "regex", "header", "country", "mixed"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first() {
        Some(name) => {
            let count = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(100_000);
            run(&Case::new(name), count);
        }
        None => {
            for name in CASES {
                println!("rules {name} {:.3}", microseconds(&Case::new(name)));
            }
        }
    }
}

/// Conditions of rule `number`.
fn when(name: &str, number: usize) -> String {
    match name {
        "exact" => format!("path = \"/last/{number}/x\""),
        "prefix" => format!("path = \"/last/{number}/*\""),
        "suffix" => format!("path = \"*/{number}/x\""),
        "between" => format!("path = \"*t/{number}/*\""),
        "regex" => format!("path_regex = '^/last/0*{number}/[a-z]+$'"),
        "header" => format!("header = {{ x-tenant = \"{number}\" }}"),
        "country" => {
            format!("country = \"DE\", header = {{ x-tenant = \"{number}\" }}, not = {{ country = \"FR\" }}")
        }
        "mixed" | "mixed-10" => match number % 7 {
            0 => format!("path = \"/last/{number}/*\", method = \"GET\""),
            1 => format!("path = \"/a/{number}\""),
            2 => format!("path = \"*.ext{number}\", scheme = \"https\""),
            3 => format!("path_regex = '^/v[0-9]+/{number}/'"),
            4 => format!("header = {{ x-tenant = \"{number}\" }}"),
            5 => format!("cookie = {{ arm = \"{number}\" }}, continent = \"EU\""),
            _ => format!("header = {{ user-agent = {{ regex = \"Bot{number}/[0-9]\" }} }}"),
        },
        _ => panic!("cases are {CASES:?}"),
    }
}

struct Case {
    places: Arc<Places>,
    rulebook: Arc<Rulebook>,
    headers: HeaderMap,
}

impl Case {
    fn new(name: &str) -> Case {
        let rules = if name == "mixed-10" { 10 } else { 1000 };
        let mut text =
            "version = 1\nfleet = \"x\"\n[site.s]\nhosts = \"www.example.org\"\norigin = \"http://o.test\"\n"
                .to_owned();
        for number in 0..rules {
            let when = when(name, number);
            let _ = write!(
                text,
                "[[site.s.rule]]\nname = \"r{number}\"\nwhen = {{ {when} }}\nthen = {{ cache = {{ ttl = \"1h\" }} }}\n"
            );
        }
        let file = std::path::Path::new("/fleet/nearside.toml");
        let loaded = nearside_fleet::spec::parse(file, &text, &Files::beside(file)).unwrap();
        let site = &loaded.config.sites["s"];
        let places = Places::compile(&config::Geoip::default(), place::asked(site)).unwrap();
        let rulebook = Rulebook::build(site, &places, None, 1).unwrap().unwrap();
        let mut headers: HeaderMap = FIELDS
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        headers.insert("x-tenant", HeaderValue::from_static("999"));
        Case { places, rulebook, headers }
    }
}

/// Asks for so many requests; what is counted.
#[inline(never)]
fn run(case: &Case, count: usize) -> usize {
    let mut matched = 0;
    for number in 0..count {
        let seen = Seen::new(&case.places, std::net::Ipv4Addr::from(0x5b40_0000 + number as u32).into());
        let facts = Facts {
            scheme: "https",
            host: "www.example.org",
            path: PATHS[number % PATHS.len()],
            query: Some("color=blue&size=XL"),
            method: &Method::GET,
            headers: &case.headers,
            seen: &seen,
            now_secs: 1_795_262_400,
            fresh: 7,
        };
        matched += black_box(case.rulebook.decide(&facts)).map_or(0, |effects| effects.matched.len());
    }
    matched
}

/// Per request: the median of eleven rounds.
fn microseconds(case: &Case) -> f64 {
    const COUNT: usize = 20_000;
    run(case, COUNT);
    let mut rounds: Vec<f64> = (0..11)
        .map(|_| {
            let started = Instant::now();
            black_box(run(case, COUNT));
            started.elapsed().as_secs_f64() * 1e6 / COUNT as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}
