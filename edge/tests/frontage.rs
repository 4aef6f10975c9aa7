//! What the fleet file says of connections: redirects, HSTS, TLS versions, session tickets, PROXY protocol, limits.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::{io::Write, net::SocketAddr, path::Path, process::Stdio, sync::Arc, time::Duration};

use http::Method;
use http_body_util::BodyExt;
use nearside_fleet::{
    config::{
        Config,
        front::{Hsts, Network, PlainHttp, ProxyProtocol, ServerField, TlsVersion},
    },
    tickets::TicketSeeds,
};
use rustls::version;
use support::{Certificate, Edge, HOST, Origin, get_h2, said, talk, until};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

/// An origin that tells who it was told the client is.
async fn telling() -> Origin {
    Origin::start(|_, asked| async move {
        let client = asked.headers()["x-forwarded-for"].to_str().unwrap().to_owned();
        let content = asked.into_body().collect().await;
        let status = if content.is_ok() { 200 } else { 400 };
        said(status, &[("cache-control", "no-store"), ("server", "origin/1")], format!("for {client}\n"))
    })
    .await
}

/// An edge with TLS whose configuration is changed first.
async fn edge_with(origin: &Origin, change: impl FnOnce(&mut Config)) -> Edge {
    let dir = TempDir::new().unwrap();
    let certificate = Certificate::write(&dir);
    let mut config = support::fleet(origin.address, &dir, Some(&certificate));
    change(&mut config);
    Edge::with(config, dir).await
}

fn www(config: &mut Config) -> &mut nearside_fleet::config::front::SiteFront {
    &mut config.sites.get_mut("www").unwrap().front
}

fn fra(config: &mut Config) -> &mut nearside_fleet::config::front::PopFront {
    &mut config.pops.get_mut("fra").unwrap().front
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_the_clear_are_redirected_but_health_acme_and_strangers() {
    let origin = telling().await;
    let edge = edge_with(&origin, |config| {
        let front = www(config);
        front.plain = PlainHttp::Redirect;
        let max_age = Duration::from_secs(31_536_000);
        front.hsts = Some(Hsts { max_age, include_subdomains: true, preload: true });
        front.server = ServerField::Text("here".to_owned());
    })
    .await;
    let reply = edge.get("/a?b=c", &[("host", "IMG.cdn.test")]).await;
    assert_eq!((reply.status.as_u16(), reply.field("location")), (301, "https://img.cdn.test/a?b=c"));
    assert_eq!((reply.field("server"), reply.field("strict-transport-security")), ("here", ""));
    assert!(!reply.field("date").is_empty());
    assert_eq!(edge.send(Method::POST, "/", &[], "x=1").await.status, 308);
    assert_eq!(edge.get("/.well-known/nearside/health", &[]).await.status, 200);
    assert_eq!(edge.get("/", &[("host", "www.elsewhere.test")]).await.status, 421);
    assert_eq!(origin.requests(), 0);
    assert_eq!(edge.get("/.well-known/acme-challenge/token", &[]).await.status, 200);
    assert_eq!(edge.metric("nearside_edge_requests_total", &["site=\"www\"", "cache=\"local\"", "3xx"]), 2);
    let replies = get_h2(edge.connect_tls(HOST, &["h2"]).await.unwrap(), &["/a"]).await;
    let hsts = "max-age=31536000; includeSubDomains; preload";
    assert_eq!((replies[0].status.as_u16(), replies[0].field("strict-transport-security")), (200, hsts));
    assert_eq!(replies[0].field("server"), "here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_wants_newer_tls_than_the_others_gets_it() {
    let origin = telling().await;
    let edge = edge_with(&origin, |config| www(config).tls_version_min = TlsVersion::V13).await;
    let with = |versions: &[&'static rustls::SupportedProtocolVersion]| {
        let mut client = edge.client_config_of(versions, &["http/1.1"]);
        Arc::make_mut(&mut client).resumption = rustls::client::Resumption::disabled();
        client
    };
    let refused = edge.connect_with(with(&[&version::TLS12]), HOST).await.unwrap_err();
    assert!(refused.to_string().to_lowercase().contains("version"), "{refused}");
    let failed = |edge: &Edge| edge.metric("nearside_edge_turned_away_total", &["handshake_failed"]);
    edge.until("it is counted", |edge| failed(edge) == 1).await;
    let tls = edge.connect_with(with(&[&version::TLS12, &version::TLS13]), HOST).await.unwrap();
    assert_eq!(tls.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let mut config = edge.config.clone();
    www(&mut config).tls_version_min = TlsVersion::V12;
    edge.reload(config).unwrap();
    edge.connect_with(with(&[&version::TLS12]), HOST).await.unwrap();
}

/// One connection by `openssl s_client`: what it says. `session` is written where `out`, else offered.
async fn s_client(address: SocketAddr, version: &str, out: bool, session: &Path) -> String {
    let (session, flag) = (session.to_owned(), if out { "-sess_out" } else { "-sess_in" });
    let version = version.to_owned();
    let run = move || {
        let mut child = std::process::Command::new("openssl")
            .args(["s_client", "-connect", &address.to_string(), "-servername", HOST, &version, flag])
            .arg(session)
            .args(["-ign_eof"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
        String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_begun_at_one_edge_resume_at_another_that_has_the_same_keys() {
    let origin = telling().await;
    let keys = TempDir::new().unwrap();
    let file = keys.path().join("tickets.keys");
    std::fs::write(&file, TicketSeeds::generate().unwrap().text()).unwrap();
    let shared = |config: &mut Config| config.ticket_keys = Some(file.clone());
    let (one, two) = (edge_with(&origin, shared).await, edge_with(&origin, shared).await);
    let stranger = edge_with(&origin, |_| ()).await;
    for version in ["-tls1_2", "-tls1_3"] {
        let session = keys.path().join("session.pem");
        let first = s_client(one.https(), version, true, &session).await;
        assert!(first.contains("New, TLSv1") && first.contains("200 OK"), "{version}\n{first}");
        let again = s_client(two.https(), version, false, &session).await;
        assert!(again.contains("Reused, TLSv1") && again.contains("200 OK"), "{version}\n{again}");
        let elsewhere = s_client(stranger.https(), version, false, &session).await;
        assert!(elsewhere.contains("New, TLSv1") && elsewhere.contains("200 OK"), "{version}\n{elsewhere}");
    }
    assert_eq!(one.metric("nearside_edge_handshakes_total", &[]), 2);
    assert_eq!(one.metric("nearside_edge_handshakes_resumed_total", &[]), 0);
    assert_eq!(two.metric("nearside_edge_handshakes_resumed_total", &[]), 2);
    assert_eq!(stranger.metric("nearside_edge_handshakes_resumed_total", &[]), 0);
    assert_eq!(stranger.metric("nearside_edge_tickets_unknown_total", &[]), 2);
    assert_eq!(one.daemon_report("ticket_key"), two.daemon_report("ticket_key"));
    // Keys from home arrive in a running edge.
    std::fs::write(&file, TicketSeeds::generate().unwrap().text()).unwrap();
    let before = one.daemon_report("ticket_key");
    one.reload(one.config.clone()).unwrap();
    assert_ne!(one.daemon_report("ticket_key"), before);
    std::fs::write(&file, "0 nonsense\n").unwrap();
    let refused = one.reload(one.config.clone()).unwrap_err();
    assert!(refused.reasons[0].contains("tickets.keys: line 1"), "{refused:?}");
}

/// A version 2 header for an IPv4 client.
fn binary_header(client: [u8; 4]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend(client);
    bytes.extend([198, 51, 100, 2, 0x30, 0x39, 1, 0xbb]);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_balancer_says_who_the_client_is_and_nobody_else_does() {
    let origin = telling().await;
    let loopback = Network { address: [127, 0, 0, 1].into(), length: 32 };
    let edge = edge_with(&origin, |config| {
        fra(config).proxy_protocol = vec![ProxyProtocol { listen: None, from: vec![loopback] }];
    })
    .await;
    let get = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let line = "PROXY TCP4 192.0.2.7 198.51.100.2 12345 80\r\n";
    let answer = talk(edge.http(), format!("{line}{get}").as_bytes()).await;
    assert!(answer.ends_with("for 192.0.2.7\n"), "{answer}");
    let answer = talk(edge.http(), &[&binary_header([192, 0, 2, 8])[..], get.as_bytes()].concat()).await;
    assert!(answer.ends_with("for 192.0.2.8\n"), "{answer}");
    let answer = talk(edge.http(), format!("PROXY UNKNOWN\r\n{get}").as_bytes()).await;
    assert!(answer.ends_with("for 127.0.0.1\n"), "{answer}");
    // TLS begins right after the header.
    let mut stream = TcpStream::connect(edge.https()).await.unwrap();
    stream.write_all(&binary_header([192, 0, 2, 9])).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(edge.client_config(&["h2"]));
    let tls = connector.connect(HOST.try_into().unwrap(), stream).await.unwrap();
    assert_eq!(get_h2(tls, &["/"]).await[0].text(), "for 192.0.2.9\n");
    // Without a header, a listed balancer is not served.
    assert_eq!(talk(edge.http(), get.as_bytes()).await, "");
    assert_eq!(edge.metric("nearside_edge_turned_away_total", &["proxy_header"]), 1);
    // From anywhere else it is a bad request: claims are not believed.
    let mut config = edge.config.clone();
    let elsewhere = Network { address: [10, 0, 0, 0].into(), length: 8 };
    fra(&mut config).proxy_protocol[0].from = vec![elsewhere];
    edge.reload(config).unwrap();
    let before = origin.requests();
    let answer = talk(edge.http(), format!("{line}{get}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(origin.requests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_a_balancer_have_their_own_share_of_connections() {
    let origin = telling().await;
    let loopback = Network { address: [127, 0, 0, 1].into(), length: 32 };
    let edge = edge_with(&origin, |config| {
        fra(config).proxy_protocol = vec![ProxyProtocol { listen: None, from: vec![loopback] }];
        fra(config).limits.connections_per_client_max = 2;
    })
    .await;
    let connect = async |client: [u8; 4]| {
        let mut stream = TcpStream::connect(edge.http()).await.unwrap();
        stream.write_all(&binary_header(client)).await.unwrap();
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.map(|_| (stream, first))
    };
    let one = connect([192, 0, 2, 1]).await.unwrap();
    let _two = connect([192, 0, 2, 1]).await.unwrap();
    assert!(connect([192, 0, 2, 1]).await.is_err(), "a third of the same client");
    assert_eq!(&connect([192, 0, 2, 2]).await.unwrap().1, b"HTTP/1.1 200");
    assert_eq!(edge.metric("nearside_edge_turned_away_total", &["connections_per_client_max"]), 1);
    drop(one);
    edge.until("the place is given back", |edge| edge.metric("nearside_edge_connections", &[]) < 3).await;
    connect([192, 0, 2, 1]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sites_rush_leaves_the_other_its_share() {
    let go = Arc::new(Notify::new());
    let held = go.clone();
    let origin = Origin::start(move |_, asked| {
        let held = held.clone();
        async move {
            if asked.uri().path().starts_with("/slow") {
                held.notified().await;
            }
            said(200, &[("cache-control", "no-store")], "x")
        }
    })
    .await;
    let edge = Arc::new(
        edge_with(&origin, |config| {
            let mut other = config.sites["www"].clone();
            (other.name, other.hosts) = ("other".to_owned(), vec!["other.test".to_owned()]);
            config.sites.insert("other".to_owned(), other);
            www(config).limits.requests_max = Some(2);
            www(config).limits.connections_max = Some(1);
        })
        .await,
    );
    let slow: Vec<_> = (0..2)
        .map(|number| {
            let edge = edge.clone();
            tokio::spawn(async move { edge.get(&format!("/slow/{number}"), &[]).await.status })
        })
        .collect();
    until("both are in flight", || origin.requests() == 2).await;
    let refused = edge.get("/quick", &[]).await;
    assert_eq!((refused.status.as_u16(), refused.field("retry-after")), (503, "1"));
    assert!(refused.field("cache-status").ends_with("detail=site-busy"), "{:?}", refused.headers);
    assert_eq!(edge.get("/quick", &[("host", "other.test")]).await.status, 200);
    // `notify_one` keeps a permit for a request that does not wait yet.
    go.notify_one();
    go.notify_one();
    for slow in slow {
        assert_eq!(slow.await.unwrap(), 200);
    }
    assert_eq!(edge.get("/quick", &[]).await.status, 200);
    let _first = edge.connect_tls(HOST, &["h2"]).await.unwrap();
    let mut second = edge.connect_tls(HOST, &["http/1.1"]).await.unwrap();
    let _ = second.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    let mut answer = Vec::new();
    let _ = second.read_to_end(&mut answer).await;
    assert_eq!(String::from_utf8_lossy(&answer), "");
    let refused = |limit| edge.metric("nearside_edge_site_refused_total", &["site=\"www\"", limit]);
    assert_eq!((refused("\"requests_max\""), refused("\"connections_max\"")), (1, 1));
    assert_eq!(edge.metric("nearside_edge_site_refused_total", &["site=\"other\""]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_has_a_limit_per_site_announced_or_not() {
    let origin = telling().await;
    let edge = edge_with(&origin, |config| www(config).limits.body_bytes_max = 4).await;
    assert_eq!(edge.send(Method::POST, "/", &[], "1234").await.status, 200);
    let reply = edge.send(Method::POST, "/", &[], "12345").await;
    assert_eq!(reply.status, 413);
    assert!(reply.field("cache-status").ends_with("detail=body-too-large"));
    assert_eq!(origin.requests(), 1);
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n"
    );
    let answer = talk(edge.http(), chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(edge.metric("nearside_edge_site_refused_total", &["site=\"www\"", "body_max"]), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_trickles_is_refused_before_its_pauses_are() {
    let origin = telling().await;
    let edge = edge_with(&origin, |config| {
        fra(config).limits.rate_window = Duration::from_millis(200);
        fra(config).limits.upload_rate_min = 1 << 20;
    })
    .await;
    let mut stream = TcpStream::connect(edge.http()).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut answer = Vec::new();
    let read = tokio::time::timeout(support::PATIENCE, reader.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(read.is_ok() && answer.starts_with("HTTP/1.1 408 "), "{answer}");
    drop(reader);
    trickle.await.unwrap();
    assert_eq!(edge.metric("nearside_edge_site_refused_total", &["site=\"www\"", "upload_rate_min"]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_too_slowly_is_cut_off_and_one_that_reads_is_not() {
    const BYTES: usize = 32 << 20;
    let origin =
        Origin::start(|_, _| async { said(200, &[("cache-control", "max-age=60")], vec![b'x'; BYTES]) })
            .await;
    let edge = edge_with(&origin, |config| {
        fra(config).limits.rate_window = Duration::from_millis(300);
        fra(config).limits.download_rate_min = 1 << 30;
    })
    .await;
    assert_eq!(edge.get("/", &[]).await.status, 200);
    for tls in [false, true] {
        let get = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let mut total = 0;
        // A little at a time: never a stall, always too slow.
        let mut trickle = async |stream: &mut (dyn support::Duplex + '_)| {
            stream.write_all(get.as_bytes()).await.unwrap();
            let mut some = vec![0; 64 << 10];
            loop {
                match stream.read(&mut some).await {
                    Ok(0) | Err(_) => break,
                    Ok(bytes) => total += bytes,
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tls {
            trickle(&mut edge.connect_tls(HOST, &["http/1.1"]).await.unwrap()).await;
        } else {
            trickle(&mut TcpStream::connect(edge.http()).await.unwrap()).await;
        }
        assert!(total < BYTES, "tls {tls}: it got all of it");
    }
    assert_eq!(edge.metric("nearside_edge_turned_away_total", &["download_rate_min"]), 2);
    let mut config = edge.config.clone();
    fra(&mut config).limits.download_rate_min = 0;
    edge.reload(config).unwrap();
    let whole = edge.get("/", &[]).await;
    assert_eq!(whole.body.unwrap().len(), BYTES);
}
