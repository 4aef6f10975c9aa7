//! What clients meet before any cache: hosts, TLS, limits, forwarding, tunnels, drain.

#![allow(clippy::unwrap_used, reason = "what a test's origin does is part of the test")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use http_body_util::BodyExt;
use nearside_node::Daemon;
use support::{Certificate, Edge, HOST, Origin, exchange, get_h2, request, said, talk, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// An origin that answers with the request's head as it came.
async fn mirror() -> Origin {
    Origin::start(|_, asked| async move {
        let mut text = format!("{} {}\n", asked.method(), asked.uri());
        for (name, value) in asked.headers() {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
        }
        let body = asked.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        text.push_str(&format!("\n{}", String::from_utf8_lossy(&body)));
        said(200, &[("cache-control", "no-store")], text)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_answered_for_any_host_and_tells_of_the_drain() {
    let origin = mirror().await;
    let edge = Edge::start(&origin).await;
    for host in [HOST, "unknown.test", "127.0.0.1"] {
        let reply = edge.get("/.well-known/nearside/health", &[("host", host)]).await;
        assert_eq!(reply.status, 200);
        assert!(
            reply.text().starts_with("{\"status\":\"ok\",\"node\":\"fra\",\"load\":"),
            "{}",
            reply.text()
        );
        assert_eq!(reply.field("cache-control"), "no-store");
    }
    assert_eq!(origin.requests(), 0);
    assert_eq!(edge.metric("nearside_edge_requests_total", &["site=\"\"", "cache=\"local\"", "2xx"]), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_hosts_are_misdirected() {
    let origin = mirror().await;
    let edge = Edge::start(&origin).await;
    let reply = edge.get("/", &[("host", "www.elsewhere.test")]).await;
    assert_eq!(reply.status, 421);
    assert!(reply.field("cache-status").ends_with("detail=unknown-host"), "{:?}", reply.headers);
    assert_eq!(edge.get("/", &[("host", "deep.www.cdn.test")]).await.status, 421, "a wildcard is one label");
    assert_eq!(edge.get("/", &[("host", "IMG.cdn.test:8080")]).await.status, 200);
    assert_eq!(origin.requests(), 1);
    assert_eq!(edge.metric("nearside_edge_requests_total", &["site=\"\"", "4xx"]), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origin_is_told_the_truth_about_the_client() {
    let origin = mirror().await;
    let edge = Edge::start(&origin).await;
    let reply = edge
        .get(
            "/a/../b?q=1",
            &[
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-proto", "gopher"),
                ("x-real-ip", "6.6.6.6"),
                ("forwarded", "for=6.6.6.6"),
                ("connection", "x-private"),
                ("x-private", "1"),
                ("te", "trailers"),
                ("x-kept", "yes"),
                ("cdn-loop", "other"),
            ],
        )
        .await;
    let seen = reply.text();
    assert!(seen.starts_with("GET /b?q=1\n"), "{seen}");
    assert!(!seen.contains("6.6.6.6") && !seen.contains("gopher") && !seen.contains("x-private"), "{seen}");
    for line in [
        "host: www.cdn.test\n",
        "x-forwarded-for: 127.0.0.1\n",
        "x-forwarded-proto: http\n",
        "x-forwarded-host: www.cdn.test\n",
        "forwarded: for=127.0.0.1;host=\"www.cdn.test\";proto=http\n",
        "cdn-loop: other\n",
        "cdn-loop: nearside-test-fra\n",
        "via: 1.1 ",
        "x-kept: yes\n",
    ] {
        assert!(seen.contains(line), "{line:?} in {seen}");
    }
    assert!(!seen.contains("te: "), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_has_been_here_is_refused() {
    let origin = mirror().await;
    let edge = Edge::start(&origin).await;
    let reply = edge.get("/", &[("cdn-loop", "other, nearside-test-fra; v=1")]).await;
    assert_eq!(reply.status, 508);
    assert!(reply.field("cache-status").contains("detail=loop"));
    assert_eq!(origin.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_have_defined_answers() {
    let origin = mirror().await;
    let edge = Edge::start(&origin).await;
    assert_eq!(edge.send(Method::TRACE, "/", &[], "").await.status, 405);
    let connect =
        talk(edge.http(), b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nConnection: close\r\n\r\n")
            .await;
    assert!(connect.starts_with("HTTP/1.1 405 "), "{connect}");
    let star =
        talk(edge.http(), b"OPTIONS * HTTP/1.1\r\nHost: www.cdn.test\r\nConnection: close\r\n\r\n").await;
    assert!(star.starts_with("HTTP/1.1 204 ") && star.contains("allow: GET"), "{star}");
    let get_star =
        talk(edge.http(), b"GET * HTTP/1.1\r\nHost: www.cdn.test\r\nConnection: close\r\n\r\n").await;
    assert!(get_star.starts_with("HTTP/1.1 400 "), "{get_star}");
    assert_eq!(edge.send(Method::GET, "/", &[("expect", "200-ok")], "").await.status, 417);
    assert_eq!(origin.requests(), 0);
    assert!(edge.send(Method::OPTIONS, "/x", &[], "").await.text().starts_with("OPTIONS /x"));
    let unknown = Method::from_bytes(b"FROB").unwrap();
    assert!(edge.send(unknown, "/x", &[], "").await.text().starts_with("FROB /x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_to_the_origin_after_a_hundred() {
    let origin = mirror().await;
    let edge = Edge::start(&origin).await;
    let mut stream = tokio::net::TcpStream::connect(edge.http()).await.unwrap();
    let head = "POST /up HTTP/1.1\r\nHost: www.cdn.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    tokio::time::timeout(support::PATIENCE, stream.read_exact(&mut interim)).await.unwrap().unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK") && rest.ends_with("\n\nhello"), "{rest}");
    assert!(!rest.contains("expect:"), "{rest}");
    assert_eq!(edge.requests("pass"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_origin_is_a_502_with_a_reason() {
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let dir = tempfile::TempDir::new().unwrap();
    let config = support::fleet(gone, &dir, None);
    let edge = Edge::with(config, dir).await;
    let reply = edge.get("/", &[]).await;
    assert_eq!(reply.status, 502);
    assert!(reply.field("cache-status").contains("detail=origin-connect"), "{:?}", reply.headers);
    assert_eq!(edge.metric("nearside_edge_origin_connections_failed_total", &[]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_origin_is_a_504() {
    let origin = Origin::start(|_, _| std::future::pending()).await;
    let dir = tempfile::TempDir::new().unwrap();
    let mut config = support::fleet(origin.address, &dir, None);
    config.sites.get_mut("www").unwrap().origins[0].first_byte_timeout = Duration::from_millis(50);
    let edge = Edge::with(config, dir).await;
    let reply = edge.get("/", &[]).await;
    assert_eq!(reply.status, 504);
    assert!(reply.field("cache-status").contains("detail=origin-first-byte-timeout"));
    assert_eq!(origin.requests(), 1, "what may have reached the origin is not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn origin_connections_are_kept_and_capped() {
    let busy = Arc::new(AtomicU64::new(0));
    let most = Arc::new(AtomicU64::new(0));
    let (now, peak) = (busy.clone(), most.clone());
    let origin = Origin::start(move |_, _| {
        let (now, peak) = (now.clone(), peak.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            said(200, &[("cache-control", "no-store")], "x")
        }
    })
    .await;
    let dir = tempfile::TempDir::new().unwrap();
    let mut config = support::fleet(origin.address, &dir, None);
    config.sites.get_mut("www").unwrap().origins[0].connections_max = 3;
    let edge = Arc::new(Edge::with(config, dir).await);
    let clients: Vec<_> = (0..40)
        .map(|number| {
            let edge = edge.clone();
            tokio::spawn(async move { edge.get(&format!("/{number}"), &[]).await.status })
        })
        .collect();
    for client in clients {
        assert_eq!(client.await.unwrap(), 200);
    }
    assert!(most.load(Ordering::SeqCst) <= 3);
    assert!(origin.connections() <= 6, "{} connections for 40 requests", origin.connections());
    assert!(edge.metric("nearside_edge_origin_connections_reused_total", &[]) >= 34);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_proves_dead_costs_one_retry_of_a_get_and_none_of_a_post() {
    // Promises to keep the connection and closes it after each response.
    let origin =
        Origin::raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nCache-Control: no-store\r\n\r\nx").await;
    let edge = Edge::start(&origin).await;
    for _ in 0..5 {
        assert_eq!(edge.get("/", &[]).await.status, 200);
        assert_eq!(edge.send(Method::POST, "/", &[], "").await.status, 200);
    }
    assert_eq!(origin.requests(), 10, "each request was seen once");
}

#[tokio::test(flavor = "multi_thread")]
async fn h2_and_http11_over_tls_by_alpn() {
    let origin = mirror().await;
    let edge = Edge::start_tls(&origin).await;
    let tls = edge.connect_tls(HOST, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let replies = get_h2(tls, &["/one", "/two"]).await;
    assert!(replies[0].text().starts_with("GET /one\n") && replies[1].text().starts_with("GET /two\n"));
    assert!(replies[0].text().contains("x-forwarded-proto: https\n"), "{}", replies[0].text());
    let mut tls = edge.connect_tls(HOST, &["http/1.1"]).await.unwrap();
    tls.write_all(b"GET /three HTTP/1.1\r\nHost: www.cdn.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    tls.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("GET /three\n"), "{text}");
    assert_eq!(edge.metric("nearside_edge_handshakes_total", &[]), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_without_a_certificate_are_refused_and_foreign_hosts_misdirected() {
    let origin = mirror().await;
    let edge = Edge::start_tls(&origin).await;
    let refused = edge.connect_tls("www.elsewhere.test", &[]).await.unwrap_err();
    assert!(refused.to_string().contains("alert"), "{refused}");
    assert_eq!(edge.metric("nearside_edge_handshakes_unknown_name_total", &[]), 1);
    let mut tls = edge.connect_tls(HOST, &["http/1.1"]).await.unwrap();
    let text = "GET / HTTP/1.1\r\nHost: www.elsewhere.test\r\n\r\nGET / HTTP/1.1\r\nHost: img.cdn.test\r\nConnection: close\r\n\r\n";
    tls.write_all(text.as_bytes()).await.unwrap();
    let mut answers = String::new();
    tls.read_to_string(&mut answers).await.unwrap();
    assert!(answers.starts_with("HTTP/1.1 421 "), "{answers}");
    assert!(answers.contains("detail=misdirected") && answers.contains("HTTP/1.1 200 OK"), "{answers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_resume_on_any_worker() {
    let origin = mirror().await;
    let edge = Edge::start_tls(&origin).await;
    let config = edge.client_config(&["http/1.1"]);
    for _ in 0..6 {
        let mut tls = edge.connect_with(config.clone(), HOST).await.unwrap();
        let text = "GET / HTTP/1.1\r\nHost: www.cdn.test\r\nConnection: close\r\n\r\n";
        tls.write_all(text.as_bytes()).await.unwrap();
        tls.read_to_end(&mut Vec::new()).await.unwrap();
    }
    assert_eq!(edge.metric("nearside_edge_handshakes_resumed_total", &[]), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_sites_are_swapped_without_losing_a_request() {
    let origin = mirror().await;
    let edge = Arc::new(Edge::start_tls(&origin).await);
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (edge, stop, served) = (edge.clone(), stop.clone(), served.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let reply = exchange(edge.http(), Method::GET, "/", &[], "").await;
                    assert_eq!(reply.status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // A connection that outlives all swaps.
    let mut old = edge.connect_tls(HOST, &["http/1.1"]).await.unwrap();
    let first = edge.fingerprint();
    for round in 0..5 {
        let certificate = Certificate::write(&edge.dir);
        let mut config = edge.config.clone();
        let site = config.sites.get_mut("www").unwrap();
        site.tls = Some(nearside_fleet::config::SiteTls::Files {
            certificate: certificate.chain,
            key: certificate.key,
        });
        site.origins[0].connections_max = 10 + round;
        edge.reload(config).unwrap();
        let before = served.load(Ordering::Relaxed);
        // The new certificate verifies only against itself.
        edge.connect_tls(HOST, &[]).await.unwrap();
        until("requests go on", || served.load(Ordering::Relaxed) > before + 3).await;
    }
    assert_ne!(edge.fingerprint(), first);
    old.write_all(b"GET /old HTTP/1.1\r\nHost: www.cdn.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(edge.metric("nearside_edge_requests_total", &["5xx"]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_come_and_go_and_a_taken_address_refuses_the_configuration() {
    let origin = mirror().await;
    let edge = Edge::start(&origin).await;
    let first = edge.http();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = edge.config.clone();
    config.pops.get_mut("fra").unwrap().http = vec![taken.local_addr().unwrap()];
    let refusal = edge.reload(config.clone()).unwrap_err();
    assert!(refusal.to_string().contains("another program has it"), "{refusal}");
    assert_eq!(exchange(first, Method::GET, "/", &[], "").await.status, 200, "the old one serves on");
    let free = taken.local_addr().unwrap();
    drop(taken);
    edge.reload(config).unwrap();
    assert_eq!(exchange(free, Method::GET, "/", &[], "").await.status, 200);
    until("the old address is closed", || std::net::TcpStream::connect(first).is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_under_way_and_closes_the_rest() {
    let origin = Origin::start(|_, _| async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        said(200, &[("cache-control", "no-store")], "finished")
    })
    .await;
    let edge = Arc::new(Edge::start_tls(&origin).await);
    let idle = edge.connect_tls(HOST, &["h2"]).await.unwrap();
    let under_way = tokio::spawn(exchange(edge.http(), Method::GET, "/", &[], ""));
    until("the request is at the origin", || origin.requests() == 1).await;
    let deadline = Instant::now() + support::PATIENCE;
    edge.daemon.stop(deadline).await;
    assert!(Instant::now() < deadline, "nothing was left to wait for");
    let reply = under_way.await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.text()), (200, "finished"));
    assert_eq!(reply.field("connection"), "close");
    assert_eq!(edge.metric("nearside_edge_connections", &[]), 0);
    assert!(edge.daemon.health().is_err());
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_are_tunnelled_after_the_origins_101() {
    let origin = Origin::start(|_, mut asked| async move {
        if asked.uri().path() == "/refused" {
            return said(403, &[("cache-control", "no-store")], "no");
        }
        assert_eq!(asked.headers()["upgrade"], "websocket");
        let upgrade = hyper::upgrade::on(&mut asked);
        tokio::spawn(async move {
            let mut tunnel = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 64];
            while let Ok(read @ 1..) = tunnel.read(&mut buffer).await {
                tunnel.write_all(&buffer[..read]).await.unwrap();
            }
        });
        said(101, &[("upgrade", "websocket"), ("connection", "upgrade")], "")
    })
    .await;
    let edge = Edge::start(&origin).await;
    let mut stream = tokio::net::TcpStream::connect(edge.http()).await.unwrap();
    let head = |path| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: www.cdn.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
    };
    stream.write_all(head("/chat").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("upgrade: websocket"), "{answer}");
    // Bytes that are no HTTP at all, bare LF and NUL among them.
    for message in [&b"\x81\x05hello\n"[..], b"\0\0GET / HTTP/1.1\n\n"] {
        stream.write_all(message).await.unwrap();
        let mut echo = vec![0; message.len()];
        tokio::time::timeout(support::PATIENCE, stream.read_exact(&mut echo)).await.unwrap().unwrap();
        assert_eq!(echo, message);
    }
    assert_eq!(edge.metric("nearside_edge_connections", &[]), 1, "a tunnel counts as a connection");
    drop(stream);
    edge.until("the tunnel is gone", |edge| edge.metric("nearside_edge_connections", &[]) == 0).await;
    let refused = talk(
        edge.http(),
        head("/refused")
            .replace(
                "\r\n\r\n",
                "\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: www.cdn.test\r\nConnection: close\r\n\r\n",
            )
            .as_bytes(),
    )
    .await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_h2_connection_carries_many_requests_at_once() {
    let origin = mirror().await;
    let edge = Edge::start_tls(&origin).await;
    let tls = edge.connect_tls(HOST, &["h2"]).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(tls),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let streams: Vec<_> = (0..50)
        .map(|number| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let mut asked = request(Method::GET, "/", &[], "");
                *asked.uri_mut() = format!("https://{HOST}/{number}").parse().unwrap();
                asked.headers_mut().remove("host");
                let reply = support::Reply::read(sender.send_request(asked).await.unwrap()).await;
                assert!(reply.text().starts_with(&format!("GET /{number}\n")));
            })
        })
        .collect();
    for stream in streams {
        stream.await.unwrap();
    }
    assert_eq!(edge.metric("nearside_edge_connections_accepted_total", &[]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_in_the_clear_is_spoken_only_where_configured() {
    let origin =
        Origin::start(|_, _| async { said(200, &[("cache-control", "max-age=60")], "content") }).await;
    let edge = Edge::start(&origin).await;
    let refused = talk(edge.http(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 "), "{refused}");
    let mut config = edge.config.clone();
    config.pops.get_mut("fra").unwrap().front.h2c = true;
    edge.reload(config).unwrap();
    let stream = TcpStream::connect(edge.http()).await.unwrap();
    let replies = get_h2(stream, &["/one", "/two"]).await;
    assert!(replies.iter().all(|reply| reply.status == 200 && reply.text() == "content"));
    assert_eq!(
        edge.get("/one", &[]).await.field("x-cache-status"),
        "HIT",
        "HTTP/1 is spoken there as before"
    );
}
