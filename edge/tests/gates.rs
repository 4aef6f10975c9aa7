//! Gates over a whole edge: who is let in, what the others are told, and what is counted.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use nearside_fleet::config::{
    Config, Match, Secret, SecretHeader,
    front::{Network, ProxyProtocol},
    gates::{
        Acting, Bandwidth, ConcurrencyGate, Gates, Mode, NetworkGate, Others, Per, PlaceGate, RateGate,
        SecretGate, WafFamily, WafGate,
    },
};
use support::{Certificate, Edge, HOST, Origin, get_h2, said, talk};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

const ENFORCE: Acting = Acting { mode: Mode::Enforce, log: true };
const DETECT: Acting = Acting { mode: Mode::Detect, log: true };

/// An edge whose clients may say where they are, by a PROXY header.
async fn edge_with(origin: &Origin, gates: Gates) -> Edge {
    let dir = TempDir::new().unwrap();
    let certificate = Certificate::write(&dir);
    let mut config = support::fleet(origin.address, &dir, Some(&certificate));
    config.sites.get_mut("www").unwrap().gates = gates;
    Edge::with(config, dir).await
}

/// The same where every connection begins with a PROXY header.
async fn edge_behind(origin: &Origin, dir: TempDir, gates: Gates) -> Edge {
    let mut config = support::fleet(origin.address, &dir, None);
    config.sites.get_mut("www").unwrap().gates = gates;
    let from = vec![Network { address: "127.0.0.0".parse().unwrap(), length: 8 }];
    config.pops.get_mut("fra").unwrap().front.proxy_protocol = vec![ProxyProtocol { listen: None, from }];
    Edge::with(config, dir).await
}

/// A GET by a client at an address; the whole answer.
async fn get_from(edge: &Edge, client: &str, path: &str) -> String {
    let (family, to) = if client.contains(':') { ("TCP6", "2001:db8::1") } else { ("TCP4", "192.0.2.1") };
    let head = format!(
        "PROXY {family} {client} {to} 5000 80\r\nGET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n"
    );
    talk(edge.http(), head.as_bytes()).await
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

async fn cached() -> Origin {
    Origin::start(|_, asked| async move {
        let shown = asked.headers().contains_key("x-front");
        said(200, &[("cache-control", "max-age=60")], format!("secret shown: {shown}"))
    })
    .await
}

fn gate_count(edge: &Edge, family: &str, gate: &str) -> u64 {
    edge.metric(&format!("nearside_edge_gate_{family}_total"), &["site=\"www\"", &format!("gate=\"{gate}\"")])
}

fn rate(name: &str, per: Per, count: u32, burst: u32) -> RateGate {
    RateGate {
        name: name.to_owned(),
        per,
        count,
        period: Duration::from_secs(3600),
        burst,
        path: None,
        ipv6_prefix: 64,
        shared: false,
        acting: ENFORCE,
    }
}

fn waf(acting: Acting) -> WafGate {
    WafGate {
        families: WafFamily::ALL.iter().map(|(_, family)| *family).collect(),
        threshold: 5,
        headers: Vec::new(),
        query_bytes_max: 8192,
        rules: Vec::new(),
        excludes: Vec::new(),
        acting,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_opens_and_goes_no_further() {
    let origin = cached().await;
    let values = ["0123456789abcdef-new", "0123456789abcdef-old"].map(|text| Secret(text.to_owned()));
    let secret = |acting| SecretGate {
        header: SecretHeader { name: "x-front".to_owned(), values: values.to_vec() },
        acting,
    };
    let edge = edge_with(&origin, Gates { secret: Some(secret(ENFORCE)), ..Gates::default() }).await;
    let refused = edge.get("/a", &[]).await;
    assert_eq!(refused.status, 403);
    assert!(refused.field("cache-status").contains("gate-secret"), "{refused:?}");
    assert_eq!(refused.field("cache-control"), "no-store");
    assert_eq!(edge.get("/a", &[("x-front", "0123456789abcdef")]).await.status, 403);
    for value in ["0123456789abcdef-new", "0123456789abcdef-old"] {
        let reply = edge.get("/a", &[("x-front", value)]).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (200, "secret shown: false"));
    }
    assert_eq!(origin.requests(), 1, "refused requests never reach the origin");
    assert_eq!(gate_count(&edge, "refused", "secret"), 2);
    assert_eq!(edge.send(Method::POST, "/a", &[], "content").await.status, 403);
    assert_eq!(edge.send(Method::HEAD, "/a", &[], "").await.text(), "");
    // Health checks carry no secret.
    assert_eq!(edge.get("/.well-known/nearside/health", &[]).await.status, 200);
    let mut config = edge.config.clone();
    config.sites.get_mut("www").unwrap().gates.secret = Some(secret(DETECT));
    edge.reload(config).unwrap();
    assert_eq!(edge.get("/a", &[]).await.status, 200);
    assert_eq!((gate_count(&edge, "refused", "secret"), gate_count(&edge, "would_refuse", "secret")), (4, 1));
    let replies = get_h2(edge.connect_tls(HOST, &["h2"]).await.unwrap(), &["/a"]).await;
    assert_eq!(replies[0].status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_exchanged_under_load_and_a_broken_one_changes_nothing() {
    let origin = cached().await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("abusers.txt");
    fs::write(&file, "# nobody yet\n").unwrap();
    let network = NetworkGate {
        allow: vec![("198.51.100.7".parse().unwrap(), 32)],
        deny: vec![("198.51.100.0".parse().unwrap(), 24)],
        allow_files: Vec::new(),
        deny_files: vec![file.clone()],
        others: Others::Allow,
        acting: ENFORCE,
    };
    let gates = Gates { network: Some(network), ..Gates::default() };
    let edge = Arc::new(edge_behind(&origin, dir, gates).await);
    assert_eq!(status(&get_from(&edge, "198.51.100.8", "/").await), "403");
    assert_eq!(status(&get_from(&edge, "198.51.100.7", "/").await), "200");
    assert_eq!(status(&get_from(&edge, "203.0.113.9", "/").await), "200");
    assert_eq!(status(&get_from(&edge, "2001:db8::9", "/").await), "200");
    // Always let in, and always refused, whatever is exchanged meanwhile.
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = [("198.51.100.7", "200"), ("198.51.100.8", "403"), ("203.0.113.200", "200")]
        .map(|(client, expected)| {
            let (edge, stop) = (edge.clone(), stop.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(status(&get_from(&edge, client, "/").await), expected, "{client}");
                    count += 1;
                }
                count
            })
        })
        .into();
    for round in 0..20 {
        let networks: String =
            (0..2000).map(|n| format!("10.{round}.{}.{}/32\n", n / 256, n % 256)).collect();
        fs::write(&file, format!("{networks}203.0.113.9\n2001:db8::/64\n")).unwrap();
        edge.reload(edge.config.clone()).unwrap();
        assert_eq!(status(&get_from(&edge, &format!("10.{round}.0.1"), "/").await), "403");
        assert_eq!(status(&get_from(&edge, &format!("10.{}.0.1", round + 1), "/").await), "200");
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    fs::write(&file, "203.0.113.9\n10.0.0.1/8\n").unwrap();
    let refusal = edge.reload(edge.config.clone()).unwrap_err().to_string();
    assert!(refusal.contains("abusers.txt: line 2") && refusal.contains("10.0.0.0/8"), "{refusal}");
    assert_eq!(status(&get_from(&edge, "203.0.113.9", "/").await), "403");
    assert_eq!(status(&get_from(&edge, "2001:db8::9", "/").await), "403");
    assert!(gate_count(&edge, "refused", "network") > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_refused_with_a_page() {
    let origin = cached().await;
    let dir = TempDir::new().unwrap();
    let page = dir.path().join("no.html");
    fs::write(&page, "<h1>not here</h1>").unwrap();
    let place = PlaceGate {
        allow: vec![Match::Country("DE".to_owned())],
        deny: vec![Match::Continent("EU".to_owned())],
        others: Others::Allow,
        status: 451,
        page: Some(page),
        acting: ENFORCE,
    };
    let edge = edge_behind(&origin, dir, Gates { place: Some(place), ..Gates::default() }).await;
    let refused = get_from(&edge, "62.210.0.1", "/").await;
    assert_eq!(status(&refused), "451");
    assert!(refused.contains("text/html") && refused.ends_with("<h1>not here</h1>"), "{refused}");
    assert_eq!(status(&get_from(&edge, "91.64.4.9", "/").await), "200", "Germany");
    assert_eq!(status(&get_from(&edge, "165.21.0.1", "/").await), "200", "Singapore");
    assert_eq!(gate_count(&edge, "refused", "place"), 1);
    let mut config = edge.config.clone();
    let gates = &mut config.sites.get_mut("www").unwrap().gates;
    gates.place.as_mut().unwrap().deny = vec![Match::Country("QQ".to_owned())];
    assert!(edge.reload(config).unwrap_err().to_string().contains("QQ"), "no such country");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let origin = cached().await;
    let keys =
        RateGate { path: Some("/api/".to_owned()), ..rate("keys", Per::Header("x-key".to_owned()), 60, 2) };
    let rates = vec![rate("each", Per::Client, 3600, 5), keys];
    let edge = edge_with(&origin, Gates { rates, ..Gates::default() }).await;
    let first = edge.get("/", &[]).await;
    assert_eq!(first.field("ratelimit-policy"), "\"each\";q=5;w=5, \"keys\";q=2;w=120");
    assert_eq!(first.field("ratelimit"), "\"each\";r=4;t=1");
    for _ in 0..2 {
        assert_eq!(edge.get("/api/x", &[("x-key", "k1")]).await.status, 200);
    }
    let refused = edge.get("/%61pi/x", &[("x-key", "k1")]).await;
    assert_eq!(refused.status, 429);
    assert!((1..=60).contains(&refused.field("retry-after").parse::<u32>().unwrap()), "{refused:?}");
    assert!(refused.field("ratelimit").starts_with("\"keys\";r=0;t="), "{refused:?}");
    assert_eq!(refused.field("cache-control"), "no-store");
    assert_eq!(edge.get("/api/x", &[("x-key", "k2")]).await.status, 200, "another key");
    // What the refused one took from the client's bucket was given back: one is left, or two by now.
    assert_eq!(edge.get("/", &[]).await.status, 200);
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(edge.get("/", &[]).await.status.as_u16());
    }
    assert!(answers.contains(&429), "{answers:?}");
    assert!(gate_count(&edge, "refused", "rate") >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_addresses_leaves_others_alone() {
    let origin = cached().await;
    let rates = vec![rate("each", Per::Client, 1, 3)];
    let edge = edge_behind(&origin, TempDir::new().unwrap(), Gates { rates, ..Gates::default() }).await;
    for _ in 0..3 {
        assert_eq!(status(&get_from(&edge, "203.0.113.1", "/").await), "200");
    }
    assert_eq!(status(&get_from(&edge, "203.0.113.1", "/").await), "429");
    for address in 0..400u32 {
        let client = format!("2001:db8:{:x}:{:x}::1", address / 16, address % 16);
        assert_eq!(status(&get_from(&edge, &client, "/").await), "200", "{client}");
    }
    // A /64 is one client.
    for (host, expected) in [(2, "200"), (3, "200"), (4, "429"), (5, "429")] {
        assert_eq!(status(&get_from(&edge, &format!("2001:db8::{host}"), "/").await), expected);
    }
    assert_eq!(status(&get_from(&edge, "203.0.113.1", "/").await), "429", "its debt is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_so_much_under_way_and_no_more() {
    let gate = Arc::new(Notify::new());
    let held = gate.clone();
    let origin = Origin::start(move |_, _| {
        let held = held.clone();
        async move {
            held.notified().await;
            said(200, &[("cache-control", "no-store")], "late")
        }
    })
    .await;
    let concurrency = ConcurrencyGate { requests_max: 2, ipv6_prefix: 64, acting: ENFORCE };
    let edge =
        Arc::new(edge_with(&origin, Gates { concurrency: Some(concurrency), ..Gates::default() }).await);
    let ask = |path: &'static str| {
        let edge = edge.clone();
        tokio::spawn(async move { edge.get(path, &[]).await.status.as_u16() })
    };
    let under_way = [ask("/1"), ask("/2")];
    support::until("both are under way", || origin.requests() == 2).await;
    let refused = edge.get("/3", &[]).await;
    assert_eq!((refused.status.as_u16(), refused.field("retry-after")), (429, "1"));
    gate.notify_one();
    gate.notify_one();
    for asked in under_way {
        assert_eq!(asked.await.unwrap(), 200);
    }
    let again = ask("/4");
    support::until("it is let in again", || origin.requests() == 3).await;
    gate.notify_one();
    assert_eq!(again.await.unwrap(), 200);
    assert_eq!(gate_count(&edge, "refused", "concurrency"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_are_paced_and_whole() {
    const BYTES: usize = 96 * 1024;
    let content: Vec<u8> = (0..BYTES).map(|n| (n * 7 % 251) as u8).collect();
    let sent = content.clone();
    let origin = Origin::start(move |_, _| {
        let sent = sent.clone();
        async move { said(200, &[("cache-control", "max-age=60")], sent) }
    })
    .await;
    let bandwidth =
        Bandwidth { per_response: Some(64 << 10), per_client: None, after_bytes: 32 << 10, ipv6_prefix: 64 };
    let edge = edge_with(&origin, Gates { bandwidth: Some(bandwidth), ..Gates::default() }).await;
    // 64 KiB at 64 KiB a second; the first piece of 8 KiB leaves at once.
    let slowest = Duration::from_millis(800);
    for round in ["from the origin", "from the store"] {
        let began = Instant::now();
        let reply = edge.get("/", &[]).await;
        assert!(reply.body.as_deref().is_ok_and(|body| *body == content[..]), "{round}");
        assert!(began.elapsed() >= slowest, "{round}: {:?}", began.elapsed());
    }
    let began = Instant::now();
    let replies = get_h2(edge.connect_tls(HOST, &["h2"]).await.unwrap(), &["/"]).await;
    assert!(replies[0].body.as_deref().is_ok_and(|body| *body == content[..]));
    assert!(began.elapsed() >= slowest);
    let began = Instant::now();
    let part = edge.get("/", &[("range", "bytes=100-16483")]).await;
    assert!(part.body.as_deref().is_ok_and(|body| *body == content[100..16484]), "within what is free");
    assert!(began.elapsed() < Duration::from_secs(5));
    // Who leaves takes nothing with it.
    let mut stream = TcpStream::connect(edge.http()).await.unwrap();
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let mut some = [0; 1024];
    assert!(stream.read(&mut some).await.unwrap() > 0);
    drop(stream);
    edge.until("all are served or gone", |edge| edge.metric("nearside_edge_connections", &[]) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attacks_are_refused_or_only_counted() {
    let origin = cached().await;
    let edge = edge_with(&origin, Gates { waf: Some(waf(ENFORCE)), ..Gates::default() }).await;
    let refused = edge.get("/search?q=1%27%20or%20%271%27=%271", &[]).await;
    assert_eq!(refused.status, 403);
    assert!(refused.field("cache-status").contains("gate-waf"), "{refused:?}");
    assert!(!refused.text().contains("sql"), "which pattern it was is nobody's business");
    assert_eq!(edge.get("/", &[("user-agent", "sqlmap/1.7")]).await.status, 403);
    assert_eq!(edge.get("/", &[("x-forwarded-for", "${jndi:ldap://x/a}")]).await.status, 403);
    for fine in ["/search?q=O%27Brien", "/search?q=select+a+gift+from+us", "/a/b.css?v=1", "/%E4%BD%A0"] {
        assert_eq!(edge.get(fine, &[]).await.status, 200, "{fine}");
    }
    assert_eq!(gate_count(&edge, "refused", "waf"), 3);
    let mut config: Config = edge.config.clone();
    config.sites.get_mut("www").unwrap().gates.waf = Some(waf(DETECT));
    edge.reload(config).unwrap();
    assert_eq!(edge.get("/search?q=%3Cscript%3E", &[]).await.status, 200);
    assert_eq!(gate_count(&edge, "would_refuse", "waf"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_get_a_defined_answer() {
    let origin = cached().await;
    let gates = Gates {
        rates: vec![
            rate("cookies", Per::Cookie("s".to_owned()), 1_000_000, 1_000_000),
            rate("tokens", Per::Query("t".to_owned()), 1_000_000, 1_000_000),
            rate("paths", Per::Path, 1_000_000, 1_000_000),
        ],
        waf: Some(waf(ENFORCE)),
        ..Gates::default()
    };
    let edge = edge_with(&origin, gates).await;
    let mut rng = fastrand::Rng::with_seed(5);
    let pieces = [
        "%", "%2", "%00", "%u", "%uFFFF", "&", "=", "&#", "&#x", ";", "/*", "*/", "/*!", "%c0", "%c0%80",
        "..", "//", "+", "'", "(", "%25", "%2525", "\u{80}", "a", "t=", "%ff",
    ];
    for _ in 0..300 {
        let mut part = |most: usize| -> String {
            (0..rng.usize(0..most)).map(|_| pieces[rng.usize(..pieces.len())]).collect()
        };
        let (path, query, cookie) = (part(8), part(200), part(40));
        let head = format!(
            "GET /{path}?{query} HTTP/1.1\r\nhost: {HOST}\r\ncookie: s={cookie}; ;;=;s\r\nconnection: close\r\n\r\n"
        );
        let answer = talk(edge.http(), head.as_bytes()).await;
        assert!(["200", "400", "403", "414", "431"].contains(&status(&answer)), "{head}\n{answer}");
    }
    assert_eq!(edge.get("/", &[]).await.status, 200);
}
