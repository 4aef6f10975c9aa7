//! What each gate costs a request: `gate <name> <µs>`, one line each. `scripts/bench gates` runs it in a release build.
//!
//!     gate_bench                    all gates, timed: the median of several rounds
//!     gate_bench waf 100000         one gate so often, for instruction counts: `valgrind --tool=callgrind
//!                                   --toggle-collect='gate_bench::run'`, with a shorter list of networks
//!     gate_bench networks           the list of networks that `network` is measured with
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

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Request, Uri};
use nearside_edge::{
    gates::{Building, Gates, Lists},
    place::{self, Places, Seen},
};
use nearside_fleet::{
    config::{
        self, Geoip, Match, Secret, SecretHeader, Site,
        gates::{
            self, Acting, NetworkGate, Others, Per, PlaceGate, RateGate, SecretGate, WafFamily, WafGate,
        },
        tokens::{Algorithm, Jwt, JwtKeys, Signed, TokenSource},
    },
    signing::{self, Grant, Keys},
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
        Some("networks") => print!("{}", networks(NETWORKS)),
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
const CASES: [&str; 8] =
    ["secret", "network", "place", "rate-limit", "waf", "waf-hostile", "signed-url", "jwt"];

struct Case {
    gates: Arc<Gates>,
    places: Arc<Places>,
    brings: Brings,
    urls: Vec<String>,
    /// Whether it takes a thousand times as long as others.
    is_slow: bool,
}

/// What a request has that its gate takes off, so that it is put on again for each.
enum Brings {
    Nothing,
    Field(&'static str, HeaderValue),
    Target(Uri),
}

fn case(name: &str, count: u32) -> Case {
    let asked = match name {
        "secret" => secret(),
        "network" => network(count),
        "place" => place(),
        "rate-limit" => rate_limit(),
        "waf" | "waf-hostile" => waf(),
        "signed-url" => signed_url(),
        "jwt" => jwt(),
        _ => panic!("gates are {CASES:?}"),
    };
    let site = Site { name: "www".to_owned(), gates: asked, ..config::Site::default() };
    let places = Places::compile(&Geoip::default(), place::asked(&site)).unwrap();
    let mut lists = Lists::default();
    let mut with = Building { places: &places, lists: &mut lists, last: None, workers: 1 };
    let gates = Gates::build(&site, &mut with).unwrap().unwrap();
    let brings = match name {
        "secret" => Brings::Field("x-front", HeaderValue::from_static("fedcba9876543210fedcba9876543210")),
        "signed-url" => Brings::Target(signed_target()),
        "jwt" => Brings::Field("authorization", token()),
        _ => Brings::Nothing,
    };
    let urls = if name == "waf-hostile" { hostile() } else { URLS.map(str::to_owned).to_vec() };
    Case { gates, places, brings, urls, is_slow: matches!(name, "jwt" | "waf-hostile") }
}

/// What somebody sends who wants patterns to be slow: 8 KiB of beginnings without ends, differing all the time.
fn hostile() -> Vec<String> {
    let pieces = [
        "%27",
        "+or+",
        "select+",
        "+from+",
        "union+",
        "/*",
        "*/",
        "%3C",
        "a+on",
        "%22",
        "(",
        "..",
        "/",
        "%24%7B",
        "%7B%7B",
        ":-",
        "x=",
        ";",
        "%7C",
        "+1",
        "case+when+",
        "then+",
        "j+a+v+a+",
        "%250a",
        "ab",
        "%5B",
        "-",
        "etc/",
        "9",
    ];
    let mut rng = fastrand::Rng::with_seed(2);
    (0..16)
        .map(|_| {
            let mut url = "/search?q=".to_owned();
            while url.len() < 8000 {
                url += pieces[rng.usize(..pieces.len())];
            }
            url
        })
        .collect()
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

/// Where [`signed_url`] and [`jwt`] find what they verify with.
fn file(name: &str, content: &str) -> std::path::PathBuf {
    let file = std::env::temp_dir().join(format!("nearside-gate-bench-{name}-{}", std::process::id()));
    std::fs::write(&file, content).unwrap();
    file
}

const URL_KEYS: &str = "k1 cJ4eAZ2iH1nGSMCK3rkMmmIxtLwk6TXKbZZa4CJxDVM=\n";
const DAY: Duration = Duration::from_secs(86_400);

fn signed_url() -> gates::Gates {
    let signed = Signed {
        keys: file("urls", URL_KEYS),
        paths: vec!["/private/".to_owned()],
        unsigned_query: vec!["t".to_owned()],
        cookie: "ns-access".to_owned(),
        life_max: 7 * DAY,
        acting: ACTING,
    };
    gates::Gates { signed: Some(signed), ..gates::Gates::default() }
}

fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn signed_target() -> Uri {
    let keys = Keys::parse(URL_KEYS).unwrap();
    let grant = Grant { expires: unix_now() + DAY.as_secs(), from: None };
    let (path, query) = ("/private/films/2026/tent-4711.mp4", "v=2&quality=1080p");
    let query = signing::sign_url(&keys, None, "www", path, Some(query), &grant, &|_| false);
    format!("{path}?{}", query.unwrap()).parse().unwrap()
}

/// A key that signs tokens, in the form of PKCS #8, the same in every run.
fn issuer() -> EcdsaKeyPair {
    static DOCUMENT: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let document = DOCUMENT.get_or_init(|| {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        pair.to_pkcs8v1().unwrap().as_ref().to_vec()
    });
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document).unwrap()
}

fn jwt() -> gates::Gates {
    let pair = issuer();
    let point = pair.public_key().as_ref();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    let set = format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"k1","x":"{x}","y":"{y}"}}]}}"#);
    let jwt = Jwt {
        paths: vec!["/".to_owned()],
        sources: vec![TokenSource::Authorization],
        algorithms: vec![Algorithm::Es256],
        keys: JwtKeys::File(file("keys", &set)),
        issuers: vec!["https://id.example.org/".to_owned()],
        audiences: vec!["www".to_owned()],
        leeway: Duration::ZERO,
        claims: vec![("sub".to_owned(), "x-user".to_owned())],
        forward: false,
        shared: false,
        acting: ACTING,
    };
    gates::Gates { jwt: Some(jwt), ..gates::Gates::default() }
}

fn token() -> HeaderValue {
    let head = jsonwebtoken::Header {
        kid: Some("k1".to_owned()),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
    };
    let expires = unix_now() + DAY.as_secs();
    let claims = serde_json::json!({
        "iss": "https://id.example.org/", "aud": "www", "exp": expires, "sub": "user-4711", "scope": "films:read",
    });
    let document = issuer().to_pkcs8v1().unwrap();
    let key = jsonwebtoken::EncodingKey::from_ec_der(document.as_ref());
    format!("Bearer {}", jsonwebtoken::encode(&head, &claims, &key).unwrap()).parse().unwrap()
}

/// So many lookups; the requests are made before.
#[inline(never)]
fn run(case: &Case, count: usize) {
    let mut requests: Vec<Request<()>> = case
        .urls
        .iter()
        .map(|url| {
            let mut headers = HeaderMap::new();
            for (name, value) in FIELDS {
                headers.insert(name, value.parse().unwrap());
            }
            let mut request = Request::get(&**url).body(()).unwrap();
            *request.headers_mut() = headers;
            request
        })
        .collect();
    let now = Instant::now();
    let mut address = 0x5b40_0000u32;
    let of = requests.len();
    for number in 0..count {
        address = address.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // 11.0.0.0/8: nobody's on the list.
        let client = IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 | address >> 14));
        let request = &mut requests[number % of];
        match &case.brings {
            Brings::Nothing => {}
            Brings::Field(name, value) => drop(request.headers_mut().insert(*name, value.clone())),
            Brings::Target(target) => *request.uri_mut() = target.clone(),
        }
        let seen = Seen::new(&case.places, client);
        match case.gates.admit(request, &seen, now) {
            Ok(admitted) => drop(black_box(admitted)),
            // What looks like an attack may be taken for one.
            Err(denied) if case.urls.len() != URLS.len() => drop(black_box(denied)),
            Err(denied) => panic!("{} refused {}", denied.gate().name(), request.uri()),
        }
    }
}

/// The median of rounds, one request.
fn microseconds(case: &Case) -> f64 {
    const ROUNDS: usize = 9;
    let count = if case.is_slow { 2_000 } else { 200_000 };
    run(case, count / 10);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            run(case, count);
            began.elapsed().as_secs_f64() * 1e6 / count as f64
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
