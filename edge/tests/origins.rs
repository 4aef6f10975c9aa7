//! Several origins, and one that is difficult: failover, circuits, checks, budgets, HTTP/2, secrets, redirects.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nearside_fleet::config::{
    self, Balance, Config, Http2, Match, OriginCheck, OriginRule, Secret, SecretHeader, Spread, TlsVersion,
};
use nearside_node::Daemon as _;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use support::{Certificate, Edge, Origin, at, fleet, said};
use tempfile::TempDir;
use tokio::net::TcpListener;

const STORE: &[(&str, &str)] = &[("cache-control", "max-age=60")];

/// A fleet whose site has these origins.
fn several(origins: &[SocketAddr], dir: &TempDir) -> Config {
    let mut config = fleet(origins[0], dir, None);
    let site = config.sites.get_mut("www").unwrap();
    site.origins = origins.iter().map(|&origin| at(origin)).collect();
    site.balance = Some(Balance::default());
    config
}

fn balance(config: &mut Config) -> &mut Balance {
    config.sites.get_mut("www").unwrap().balance.as_mut().unwrap()
}

fn origin(config: &mut Config, position: usize) -> &mut config::Origin {
    &mut config.sites.get_mut("www").unwrap().origins[position]
}

/// An address that refuses connections.
fn closed() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn says(text: &'static str) -> Origin {
    Origin::start(move |_, _| async move { said(200, STORE, text) }).await
}

async fn answers(status: u16) -> Origin {
    Origin::start(move |_, _| async move { said(status, &[], format!("status {status}")) }).await
}

async fn hangs() -> Origin {
    Origin::start(|_, _| std::future::pending()).await
}

/// What `GET /v1/origins` says of one.
async fn shown(edge: &Edge, position: usize) -> serde_json::Value {
    let response = edge.control(Method::GET, "/v1/origins", &[], String::new()).await;
    let shown: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    shown["sites"][0]["origins"][position].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_origin_costs_no_client_anything_and_is_found_again() {
    let second = says("second").await;
    let (dir, dead) = (TempDir::new().unwrap(), closed());
    let mut config = several(&[dead, second.address], &dir);
    balance(&mut config).circuit.open = Duration::from_millis(50);
    let edge = Edge::with(config, dir).await;
    for number in 0..5 {
        let reply = edge.get(&format!("/{number}"), &[]).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (200, "second"));
    }
    assert_eq!(shown(&edge, 0).await["circuit"], "open");
    assert_eq!(edge.metric("nearside_edge_origin_circuit_closed", &[&dead.to_string()]), 0);
    assert_eq!(edge.metric("nearside_edge_origin_circuits_opened_total", &[]), 1);
    assert_eq!(edge.metric("nearside_edge_origin_failovers_total", &[]), 5);
    assert_eq!(edge.daemon.report()["origins_unwell"][0], format!("www/{dead}"));
    // What was never sent may go anywhere, whatever the method.
    assert_eq!(edge.send(Method::POST, "/post", &[], "content").await.text(), "second");
    // It comes back: a trial finds it, and it is preferred again.
    let listener = TcpListener::bind(dead).await.unwrap();
    tokio::spawn(serve_http1(listener, "first"));
    let mut number = 100;
    loop {
        number += 1;
        if edge.get(&format!("/{number}"), &[]).await.text() == "first" {
            break;
        }
        assert!(number < 1000, "it is never found again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(shown(&edge, 0).await["circuit"], "closed");
    assert_eq!(edge.metric("nearside_edge_origin_circuit_closed", &[&dead.to_string()]), 1);
}

async fn serve_http1(listener: TcpListener, text: &'static str) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(move |_: Request<Incoming>| async move {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(text.as_bytes()))))
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_without_an_answer_goes_on_and_a_post_never_does() {
    let (first, second) = (hangs().await, says("second").await);
    let dir = TempDir::new().unwrap();
    let mut config = several(&[first.address, second.address], &dir);
    origin(&mut config, 0).first_byte_timeout = Duration::from_millis(100);
    let edge = Edge::with(config, dir).await;
    assert_eq!(edge.get("/a", &[]).await.text(), "second");
    assert_eq!(edge.send(Method::HEAD, "/head", &[], "").await.status.as_u16(), 200);
    let before = second.requests();
    let reply = edge.send(Method::POST, "/post", &[], "content").await;
    assert_eq!(reply.status.as_u16(), 504);
    assert!(reply.field("cache-status").contains("detail=origin-first-byte-timeout"), "{reply:?}");
    assert_eq!((first.requests(), second.requests()), (3, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_count_like_silence() {
    let (first, second) = (Origin::raw("").await, says("second").await);
    let dir = TempDir::new().unwrap();
    let edge = Edge::with(several(&[first.address, second.address], &dir), dir).await;
    assert_eq!(edge.get("/a", &[]).await.text(), "second");
    let reply = edge.send(Method::POST, "/post", &[], "content").await;
    assert_eq!(reply.status.as_u16(), 502);
    assert_eq!((first.requests(), second.requests()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_go_on_where_the_fleet_file_says_so() {
    let (first, second) = (answers(503).await, says("second").await);
    let dir = TempDir::new().unwrap();
    let config = several(&[first.address, second.address], &dir);
    let edge = Edge::with(config.clone(), dir).await;
    assert_eq!(edge.get("/a", &[]).await.status.as_u16(), 503, "not by itself");
    let mut with = config;
    balance(&mut with).failover_on.errors = true;
    edge.reload(with.clone()).unwrap();
    assert_eq!(edge.get("/b", &[]).await.text(), "second");
    assert_eq!(edge.send(Method::POST, "/c", &[], "content").await.status.as_u16(), 503);
    // Where all fail, the last error is what the client gets.
    let third = answers(500).await;
    with.sites.get_mut("www").unwrap().origins[1] = at(third.address);
    edge.reload(with).unwrap();
    assert_eq!(edge.get("/d", &[]).await.text(), "status 500");
    assert_eq!((first.requests(), third.requests()), (4, 1));
    // An error that came is better than no answer at all.
    let mut config = edge.config.clone();
    balance(&mut config).failover_on.errors = true;
    config.sites.get_mut("www").unwrap().origins[1] = at(closed());
    edge.reload(config).unwrap();
    assert_eq!(edge.get("/e", &[]).await.text(), "status 503");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_retry_budget_holds() {
    let (first, second) = (answers(500).await, says("second").await);
    let dir = TempDir::new().unwrap();
    let mut config = several(&[first.address, second.address], &dir);
    let settings = balance(&mut config);
    (settings.retry_budget_percent, settings.retries_min, settings.failover_on.errors) = (20, 0, true);
    (settings.eject.ratio_percent, settings.eject.failures) = (0, 0);
    let edge = Edge::with(config, dir).await;
    let mut saved = 0;
    for number in 0..50 {
        saved += u64::from(edge.get(&format!("/{number}"), &[]).await.status.as_u16() == 200);
    }
    assert_eq!((first.requests(), second.requests(), saved), (50, 10, 10));
    assert_eq!(edge.metric("nearside_edge_origin_failovers_forbidden_total", &[]), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_of_many_errors_is_left_out_for_a_while() {
    let (first, second) = (answers(500).await, says("second").await);
    let dir = TempDir::new().unwrap();
    let mut config = several(&[first.address, second.address], &dir);
    balance(&mut config).eject.failures = 10;
    balance(&mut config).eject.time = Duration::from_millis(300);
    let edge = Edge::with(config, dir).await;
    for number in 0..10 {
        assert_eq!(edge.get(&format!("/{number}"), &[]).await.status.as_u16(), 500);
    }
    assert_eq!(edge.get("/out", &[]).await.text(), "second");
    assert_eq!(edge.metric("nearside_edge_origin_ejections_total", &[]), 1);
    assert!(shown(&edge, 0).await["ejected_for_seconds"].as_f64().unwrap() > 0.0);
    edge.until("it is asked again", |edge| edge.metric("nearside_edge_origin_ejected", &[]) == 0).await;
    assert_eq!(edge.get("/in", &[]).await.status.as_u16(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_take_an_origin_out_and_bring_it_back() {
    let is_well = Arc::new(AtomicBool::new(true));
    let well = is_well.clone();
    let first = Origin::start(move |_, request| {
        let status =
            if request.uri().path() == "/healthz" && !well.load(Ordering::SeqCst) { 500 } else { 200 };
        async move { said(status, STORE, "first") }
    })
    .await;
    let second = says("second").await;
    let dir = TempDir::new().unwrap();
    let mut config = several(&[first.address, second.address], &dir);
    balance(&mut config).check = Some(OriginCheck {
        path: "/healthz".to_owned(),
        host: Some("health.test".to_owned()),
        status: (200, 299),
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(50),
        rise: 1,
        fall: 2,
    });
    let edge = Edge::with(config, dir).await;
    assert_eq!(edge.get("/1", &[]).await.text(), "first", "unknown counts as up");
    is_well.store(false, Ordering::SeqCst);
    let up = |edge: &Edge| edge.metric("nearside_edge_origin_up", &[&first.address.to_string()]);
    edge.until("it is down", |edge| up(edge) == 0).await;
    assert_eq!(edge.get("/2", &[]).await.text(), "second");
    let down = shown(&edge, 0).await;
    assert_eq!((&down["check"], &down["reason"]), (&"down".into(), &"status 500".into()));
    is_well.store(true, Ordering::SeqCst);
    edge.until("it is up", |edge| up(edge) == 1).await;
    assert_eq!(edge.get("/3", &[]).await.text(), "first");
    // What is known of an origin outlives a reload.
    is_well.store(false, Ordering::SeqCst);
    edge.until("it is down", |edge| up(edge) == 0).await;
    let mut config = edge.config.clone();
    balance(&mut config).retries_min = 7;
    edge.reload(config).unwrap();
    assert_eq!(up(&edge), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hashing_sends_a_url_to_one_origin_and_weights_share() {
    let origins = [says("0").await, says("1").await, says("2").await];
    let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
    let dir = TempDir::new().unwrap();
    let mut config = several(&addresses, &dir);
    balance(&mut config).strategy = Spread::Hash;
    let edge = Edge::with(config.clone(), dir).await;
    let mut first = Vec::new();
    for number in 0..60 {
        first.push(edge.get(&format!("/{number}"), &[("cache-control", "no-cache")]).await.text().to_owned());
    }
    for (number, first) in first.iter().enumerate() {
        let again = edge.get(&format!("/{number}"), &[("cache-control", "no-cache")]).await;
        assert_eq!(again.text(), first);
    }
    assert!(origins.iter().all(|origin| origin.requests() >= 10), "{first:?}");
    balance(&mut config).strategy = Spread::Weighted;
    for (position, weight) in [8, 2, 0].into_iter().enumerate() {
        origin(&mut config, position).weight = weight;
    }
    edge.reload(config).unwrap();
    let before: Vec<u64> = origins.iter().map(Origin::requests).collect();
    for number in 100..200 {
        edge.get(&format!("/{number}"), &[]).await;
    }
    let asked: Vec<u64> =
        origins.iter().zip(before).map(|(origin, before)| origin.requests() - before).collect();
    assert!(asked[0] > asked[1] && asked[1] > 0 && asked[2] == 0, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_choose_by_the_client() {
    let (first, second) = (says("first").await, says("second").await);
    let dir = TempDir::new().unwrap();
    let mut config = several(&[first.address, second.address], &dir);
    let rule = |when, origins: &[usize]| OriginRule { when: vec![when], origins: origins.to_vec() };
    let loopback = Match::Network("127.0.0.0".parse().unwrap(), 8);
    balance(&mut config).strategy =
        Spread::Rules(vec![rule(Match::Country("DE".into()), &[0]), rule(loopback, &[1])]);
    let edge = Edge::with(config.clone(), dir).await;
    assert_eq!(edge.get("/a", &[]).await.text(), "second");
    // Loopback placed by hand: the rule by country decides.
    let network = config::NetworkPlace {
        network: "127.0.0.0".parse().unwrap(),
        length: 8,
        country: Some("DE".into()),
        continent: None,
        subdivision: None,
        location: None,
    };
    config.geoip.networks.push(network);
    edge.reload(config).unwrap();
    assert_eq!(edge.get("/b", &[]).await.text(), "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_is_said_and_stale_content_stands_in() {
    let is_gone = Arc::new(AtomicBool::new(false));
    let gone = is_gone.clone();
    let only = Origin::start(move |_, _| {
        let gone = gone.load(Ordering::SeqCst);
        async move {
            if gone {
                std::future::pending::<()>().await;
            }
            said(200, &[("cache-control", "max-age=0, stale-if-error=600"), ("etag", "\"a\"")], "old")
        }
    })
    .await;
    let dir = TempDir::new().unwrap();
    let mut config = several(&[only.address], &dir);
    origin(&mut config, 0).first_byte_timeout = Duration::from_millis(50);
    balance(&mut config).circuit.failures = 2;
    balance(&mut config).circuit.open = Duration::from_secs(60);
    let edge = Edge::with(config, dir).await;
    assert_eq!(edge.get("/kept", &[]).await.text(), "old");
    is_gone.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(edge.get("/other", &[]).await.status.as_u16(), 504);
    }
    let asked = only.requests();
    let reply = edge.get("/other", &[]).await;
    assert_eq!(reply.status.as_u16(), 503);
    assert!(reply.field("cache-status").contains("detail=origin-circuit-open"), "{reply:?}");
    let reply = edge.get("/kept", &[]).await;
    assert_eq!(reply.text(), "old");
    assert!(reply.field("cache-status").contains("detail=origin-circuit-open"), "{reply:?}");
    assert_eq!(only.requests(), asked, "it is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_two_generations_are_never_joined() {
    const LENGTH: usize = 3 << 20;
    let generation = |letter: u8| {
        Origin::start(move |_, request| async move {
            let tag = format!("\"{}\"", letter as char);
            let fields = |tag: &str| {
                vec![
                    ("cache-control".to_owned(), "max-age=60".to_owned()),
                    ("etag".to_owned(), tag.to_owned()),
                ]
            };
            let range = request.headers().get("range").and_then(|range| range.to_str().ok());
            let same = request.headers().get("if-range").is_none_or(|known| *known == *tag);
            let span = range.filter(|_| same).and_then(|range| {
                let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
                Some((
                    first.parse::<usize>().ok()?,
                    last.parse::<usize>().unwrap_or(LENGTH - 1).min(LENGTH - 1),
                ))
            });
            let mut fields = fields(&tag);
            let (status, bytes) = match span {
                Some((first, last)) => {
                    fields.push(("content-range".to_owned(), format!("bytes {first}-{last}/{LENGTH}")));
                    (206, last - first + 1)
                }
                None => (200, LENGTH),
            };
            let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
            said(status, &fields, vec![letter; bytes])
        })
    };
    let (first, second) = (generation(b'a').await, generation(b'b').await);
    let dir = TempDir::new().unwrap();
    let mut config = several(&[first.address, second.address], &dir);
    let edge = Edge::with(config.clone(), dir).await;
    let reply = edge.get("/large", &[("range", "bytes=0-9")]).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (206, "aaaaaaaaaa"));
    // The first is gone: what is missing comes from the other, of another generation.
    config.sites.get_mut("www").unwrap().origins[0] = at(closed());
    edge.reload(config).unwrap();
    let whole = edge.get("/large", &[]).await;
    let body = whole.body.clone().unwrap();
    assert_eq!((body.len(), whole.field("etag")), (LENGTH, "\"b\""));
    assert!(body.iter().all(|&byte| byte == b'b'), "one generation");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_knows_us_by_its_secret_and_gets_the_fields_it_wants() {
    let echo = Origin::start(|_, request| async move {
        let lines: Vec<String> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        said(200, &[], lines.join("\n"))
    })
    .await;
    let dir = TempDir::new().unwrap();
    let mut config = fleet(echo.address, &dir, None);
    let settings = origin(&mut config, 0);
    let values = ["new-secret-0123456", "old-secret-0123456"].map(|text| Secret(text.to_owned()));
    settings.secret_header = Some(SecretHeader { name: "x-cdn-secret".to_owned(), values: values.to_vec() });
    settings.request_headers = Some(vec!["accept".to_owned()]);
    settings.host_header = Some("inner.test".to_owned());
    let edge = Edge::with(config, dir).await;
    let fields =
        [("accept", "text/html"), ("x-cdn-secret", "forged"), ("x-odd", "1"), ("user-agent", "test")];
    let text = edge.get("/", &fields).await.text().to_owned();
    for expected in [
        "host: inner.test",
        "x-cdn-secret: new-secret-0123456",
        "accept: text/html",
        "cdn-loop: ",
        "x-forwarded-for: ",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    for absent in ["forged", "x-odd", "user-agent", "old-secret"] {
        assert!(!text.contains(absent), "{absent}\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_redirects_are_followed_and_others_are_not() {
    let files = Origin::start(|_, request| async move {
        let path = request.uri().path().to_owned();
        let cookie = request.headers().contains_key("cookie");
        match path.as_str() {
            "/public/again" => said(302, &[("location", "end")], ""),
            "/public/loop" => said(302, &[("location", "/public/loop")], ""),
            _ => said(
                200,
                STORE,
                format!("{path} cookie {cookie} {}", request.headers()["host"].to_str().unwrap()),
            ),
        }
    })
    .await;
    let to = files.address;
    let only = Origin::start(move |_, request| async move {
        let location = match request.uri().path() {
            "/listed" => format!("http://{to}/public/x?y"),
            "/twice" => format!("http://{to}/public/again"),
            "/loop" => format!("http://{to}/public/loop"),
            _ => format!("http://{to}/private"),
        };
        said(302, &[("location", &location), ("cache-control", "max-age=60")], "")
    })
    .await;
    let dir = TempDir::new().unwrap();
    let mut config = fleet(only.address, &dir, None);
    origin(&mut config, 0).follow_redirects.push(config::UrlPrefix {
        scheme: config::Scheme::Http,
        host: to.ip().to_string(),
        port: to.port(),
        path: "/public/".to_owned(),
    });
    let edge = Edge::with(config, dir).await;
    let reply = edge.get("/listed", &[("cookie", "a=b")]).await;
    assert_eq!(reply.text(), format!("/public/x cookie false {to}"));
    assert_eq!(edge.get("/twice", &[]).await.text(), format!("/public/end cookie false {to}"));
    assert_eq!(edge.get("/listed", &[]).await.status.as_u16(), 200);
    assert_eq!(files.requests(), 3, "stored under the key that was asked for");
    assert_eq!(edge.get("/other", &[]).await.status.as_u16(), 302);
    assert_eq!(edge.get("/loop", &[]).await.status.as_u16(), 302, "three times at most");
    assert_eq!(edge.send(Method::POST, "/listed", &[], "content").await.status.as_u16(), 302);
}

/// An origin over TLS that speaks HTTP/2 and HTTP/1.1, or HTTP/2 in the clear.
struct Modern {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
    /// Makes every connection say GOAWAY, once.
    leave: tokio::sync::broadcast::Sender<()>,
}

impl Modern {
    async fn start(tls: Option<Arc<ServerConfig>>) -> Modern {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (leave, _) = tokio::sync::broadcast::channel(4);
        let modern = Modern {
            address,
            connections: connections.clone(),
            requests: requests.clone(),
            leave: leave.clone(),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let requests = requests.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    requests.fetch_add(1, Ordering::SeqCst);
                    let text = format!("{:?} {}", request.version(), request.uri());
                    async move {
                        // Long enough for all that were sent together to be under way together.
                        tokio::time::sleep(Duration::from_millis(30)).await;
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                    }
                });
                let (connections, tls, mut left) = (connections.clone(), tls.clone(), leave.subscribe());
                tokio::spawn(async move {
                    let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    http2.max_concurrent_streams(40);
                    let Some(tls) = tls else {
                        connections.fetch_add(1, Ordering::SeqCst);
                        let _ = http2.serve_connection(TokioIo::new(stream), service).await;
                        return;
                    };
                    let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else {
                        return;
                    };
                    connections.fetch_add(1, Ordering::SeqCst);
                    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                        let http1 = hyper::server::conn::http1::Builder::new();
                        let _ = http1.serve_connection(TokioIo::new(stream), service).await;
                        return;
                    }
                    let mut connection =
                        std::pin::pin!(http2.serve_connection(TokioIo::new(stream), service));
                    loop {
                        tokio::select! {
                            _ = connection.as_mut() => return,
                            _ = left.recv() => connection.as_mut().graceful_shutdown(),
                        }
                    }
                });
            }
        });
        modern
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A server's TLS with a certificate for `www.cdn.test`, and the file a client trusts it by.
fn server_tls(
    dir: &TempDir,
    alpn: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (Arc<ServerConfig>, PathBuf) {
    nearside_node::tls::install_provider();
    let certificate = Certificate::write(dir);
    let chain = CertificateDer::from_pem_file(&certificate.chain).unwrap();
    let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
    let mut config = ServerConfig::builder_with_protocol_versions(versions)
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    (Arc::new(config), certificate.chain)
}

/// A fleet in front of an https origin that is found by address and named by SNI.
fn over_tls(address: SocketAddr, ca: PathBuf, dir: &TempDir, http2: Http2) -> Config {
    let mut config = fleet(address, dir, None);
    let settings = origin(&mut config, 0);
    settings.scheme = config::Scheme::Https;
    settings.sni = Some(support::HOST.to_owned());
    (settings.ca, settings.http2) = (Some(ca), http2);
    config
}

async fn get_at_once(edge: &Edge, prefix: &str, count: usize) -> Vec<support::Reply> {
    let paths: Vec<String> = (0..count).map(|number| format!("/{prefix}{number}")).collect();
    futures_util::future::join_all(paths.iter().map(|path| edge.get(path, &[]))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_origins_carry_many_requests_on_few_connections() {
    let dir = TempDir::new().unwrap();
    let (tls, ca) = server_tls(&dir, &["h2", "http/1.1"], rustls::ALL_VERSIONS);
    let modern = Modern::start(Some(tls)).await;
    let edge = Edge::with(over_tls(modern.address, ca, &dir, Http2::Alpn), dir).await;
    for reply in get_at_once(&edge, "a", 60).await {
        assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
        assert!(reply.text().starts_with("HTTP/2.0 https://www.cdn.test/a"), "{}", reply.text());
    }
    // Two workers; forty streams a connection.
    assert!((1..=4).contains(&modern.connections()), "{}", modern.connections());
    assert!(edge.metric("nearside_edge_origin_connections_http2", &[]) >= 1);
    assert_eq!(edge.send(Method::POST, "/post", &[], "content").await.status.as_u16(), 200);
    // The origin says goodbye: what it has begun ends, what comes later goes elsewhere.
    let before = modern.connections();
    let under_way = get_at_once(&edge, "b", 20);
    let leaving = async {
        support::until("some are under way", || modern.requests.load(Ordering::SeqCst) > 70).await;
        modern.leave.send(()).unwrap();
    };
    let (replies, ()) = tokio::join!(under_way, leaving);
    assert!(replies.iter().all(|reply| reply.status.as_u16() == 200), "{replies:?}");
    for reply in get_at_once(&edge, "c", 10).await {
        assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
    }
    assert!(modern.connections() > before);
    assert_eq!(edge.metric("nearside_edge_origin_failures_total", &[]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_by_agreement_or_by_prior_knowledge() {
    let dir = TempDir::new().unwrap();
    let (tls, ca) = server_tls(&dir, &["http/1.1"], rustls::ALL_VERSIONS);
    let old = Modern::start(Some(tls)).await;
    let edge = Edge::with(over_tls(old.address, ca, &dir, Http2::Alpn), dir).await;
    for path in ["/a", "/b", "/c"] {
        assert_eq!(edge.get(path, &[]).await.text(), format!("HTTP/1.1 {path}"));
    }
    assert!(old.connections() <= 2, "kept like any: {}", old.connections());
    let clear = Modern::start(None).await;
    let dir = TempDir::new().unwrap();
    let mut config = fleet(clear.address, &dir, None);
    origin(&mut config, 0).http2 = Http2::PriorKnowledge;
    let edge = Edge::with(config, dir).await;
    let text = edge.get("/a", &[]).await.text().to_owned();
    assert_eq!(text, "HTTP/2.0 http://www.cdn.test/a");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_count_as_connections_do() {
    let clear = Modern::start(None).await;
    let dir = TempDir::new().unwrap();
    let mut config = fleet(clear.address, &dir, None);
    let settings = origin(&mut config, 0);
    (settings.http2, settings.connections_max) = (Http2::PriorKnowledge, 3);
    let edge = Edge::with(config, dir).await;
    let most = Arc::new(AtomicU64::new(0));
    let asking = get_at_once(&edge, "a", 12);
    let watching = async {
        while clear.requests.load(Ordering::SeqCst) < 12 {
            most.fetch_max(edge.metric("nearside_edge_origin_waiting", &[]), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (replies, ()) = tokio::join!(asking, watching);
    assert!(replies.iter().all(|reply| reply.status.as_u16() == 200));
    assert!(most.load(Ordering::SeqCst) >= 1, "some waited for a slot");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_an_origin_is_verified_by_name_root_and_version() {
    let dir = TempDir::new().unwrap();
    let (tls, ca) = server_tls(&dir, &["http/1.1"], &[&rustls::version::TLS12]);
    let old = Modern::start(Some(tls)).await;
    let config = over_tls(old.address, ca, &dir, Http2::No);
    let edge = Edge::with(config.clone(), dir).await;
    assert_eq!(edge.get("/a", &[]).await.status.as_u16(), 200);
    let refused = async |change: &dyn Fn(&mut config::Origin)| {
        let mut config = config.clone();
        change(origin(&mut config, 0));
        edge.reload(config).unwrap();
        let reply = edge.get("/b", &[]).await;
        assert_eq!(reply.status.as_u16(), 502);
        assert!(reply.field("cache-status").contains("detail=origin-tls"), "{reply:?}");
    };
    refused(&|origin| origin.tls_min = TlsVersion::Tls13).await;
    refused(&|origin| origin.sni = Some("other.test".to_owned())).await;
    refused(&|origin| origin.ca = None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_may_not_lead_to_ourselves_unless_the_fleet_file_says_so() {
    let only = says("only").await;
    let dir = TempDir::new().unwrap();
    let mut config = fleet(only.address, &dir, None);
    // The machine's own name leads to loopback on many systems; `localhost` says what it is.
    origin(&mut config, 0).host = "localhost".to_owned();
    let edge = Edge::with(config, dir).await;
    assert_eq!(edge.get("/a", &[]).await.text(), "only");
}
