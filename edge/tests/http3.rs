//! HTTP/3 over real sockets: a client on quinn and h3 against a whole edge.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3_quinn::OpenStreams;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use nearside_edge::listen::{Speaks, limits};
use nearside_fleet::config::Http3;
use nearside_node::Daemon;
use quinn::crypto::rustls::QuicClientConfig;
use support::{Certificate, Edge, HOST, Origin, PATIENCE, fleet, said};
use tempfile::TempDir;
use tokio::sync::Notify;

type Stream = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// An edge that speaks HTTP/3 for its site.
async fn start(origin: &Origin) -> Edge {
    let dir = TempDir::new().unwrap();
    let certificate = Certificate::write(&dir);
    let mut config = fleet(origin.address, &dir, Some(&certificate));
    config.pops.get_mut("fra").unwrap().http3 = true;
    config.sites.get_mut("www").unwrap().http3 = Http3::On { max_age: Duration::from_secs(60) };
    Edge::with(config, dir).await
}

fn address(edge: &Edge) -> SocketAddr {
    let listening = edge.daemon.listening();
    listening.into_iter().find(|&(_, speaks)| speaks == Speaks::Quic).unwrap().0
}

/// A client's connection.
struct Client {
    endpoint: quinn::Endpoint,
    quic: quinn::Connection,
    requests: SendRequest<OpenStreams, Bytes>,
    /// Whether the server has told us to leave.
    driver: tokio::task::JoinHandle<h3::error::ConnectionError>,
}

/// What was answered.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Client {
    async fn connect(edge: &Edge) -> Client {
        Client::with(edge, quinn::TransportConfig::default()).await.unwrap()
    }

    async fn with(edge: &Edge, transport: quinn::TransportConfig) -> Result<Client, quinn::ConnectionError> {
        let tls = edge.client_config(&["h3"]);
        let mut config =
            quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from((*tls).clone()).unwrap()));
        config.transport_config(Arc::new(transport));
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(config);
        let quic = endpoint.connect(address(edge), HOST).unwrap().await?;
        let mut builder = h3::client::builder();
        builder.send_grease(false);
        let (mut connection, requests) =
            builder.build::<_, _, Bytes>(h3_quinn::Connection::new(quic.clone())).await.unwrap();
        let driver = tokio::spawn(async move { std::future::poll_fn(|cx| connection.poll_close(cx)).await });
        Ok(Client { endpoint, quic, requests, driver })
    }

    async fn open(&self, request: Request<()>) -> Stream {
        self.requests.clone().send_request(request).await.unwrap()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply, h3::error::StreamError> {
        let mut stream = self.open(request(method, path, fields)).await;
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body)).await?;
        }
        stream.finish().await?;
        read(&mut stream).await
    }

    async fn get(&self, path: &str) -> Reply {
        within(self.send(Method::GET, path, &[], b"")).await.unwrap()
    }
}

fn request(method: Method, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("https://{HOST}{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

async fn read(stream: &mut Stream) -> Result<Reply, h3::error::StreamError> {
    let head = stream.recv_response().await?;
    let mut body = Vec::new();
    while let Some(mut data) = stream.recv_data().await? {
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    let trailers = stream.recv_trailers().await?;
    let (parts, ()) = head.into_parts();
    Ok(Reply { status: parts.status, headers: parts.headers, body: body.into(), trailers })
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Bytes that differ at every place, cheap to make again.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|index| (index.wrapping_mul(2_654_435_761) >> 11) as u8).collect::<Vec<_>>().into()
}

#[tokio::test]
async fn requests_meet_the_same_cache_and_rules_as_over_tcp() {
    let origin = Origin::start(|_, asked| async move {
        assert_eq!(asked.headers()["host"], HOST);
        assert_eq!(asked.headers()["x-forwarded-proto"], "https");
        said(200, &[("cache-control", "max-age=60"), ("alt-svc", "h3=\":1\"")], "0123456789")
    })
    .await;
    let edge = start(&origin).await;
    let client = Client::connect(&edge).await;
    let first = client.get("/a").await;
    assert_eq!((first.status, &first.body[..]), (StatusCode::OK, &b"0123456789"[..]));
    assert!(first.headers.contains_key("date"));
    assert!(!first.headers.contains_key("alt-svc"), "said where it is not spoken yet");
    let hit = client.get("/a").await;
    assert_eq!(hit.headers["x-cache-status"], "HIT");
    let head = within(client.send(Method::HEAD, "/a", &[], b"")).await.unwrap();
    assert_eq!((&head.headers["content-length"], head.body.len()), (&"10".parse().unwrap(), 0));
    let part = within(client.send(Method::GET, "/a", &[("range", "bytes=2-4")], b"")).await.unwrap();
    assert_eq!((part.status, &part.body[..]), (StatusCode::PARTIAL_CONTENT, &b"234"[..]));
    assert_eq!(origin.requests(), 1);
    assert_eq!((edge.requests("hit"), edge.requests("miss")), (3, 1));
    assert_eq!(edge.metric("nearside_edge_http3_requests_total", &[]), 4);
    assert_eq!(edge.metric("nearside_edge_handshakes_total", &[]), 1);
}

#[tokio::test]
async fn other_protocols_are_told_where_it_is_spoken_and_when_no_longer() {
    let origin = Origin::start(|_, _| async { said(200, &[("cache-control", "max-age=60")], "x") }).await;
    let edge = start(&origin).await;
    let told = async |edge: &Edge| {
        let tls = edge.connect_tls(HOST, &["h2"]).await.unwrap();
        let reply = support::get_h2(tls, &["/"]).await.remove(0);
        reply.headers.get("alt-svc").map(|value| value.to_str().unwrap().to_owned())
    };
    let port = edge.https().port();
    assert_eq!(told(&edge).await, Some(format!("h3=\":{port}\"; ma=60")));
    assert!(!edge.get("/", &[]).await.headers.contains_key("alt-svc"), "in the clear");

    let mut config = edge.config.clone();
    config.sites.get_mut("www").unwrap().http3 = Http3::Off;
    edge.reload(config.clone()).unwrap();
    assert_eq!(told(&edge).await.as_deref(), Some("clear"));
    let client = Client::connect(&edge).await;
    assert_eq!(client.get("/").await.status, StatusCode::MISDIRECTED_REQUEST);

    config.sites.get_mut("www").unwrap().http3 = Http3::Never;
    edge.reload(config).unwrap();
    assert_eq!(told(&edge).await, None);
}

#[tokio::test]
async fn content_goes_to_the_origin_as_it_comes_with_its_trailers_back() {
    let origin = Origin::start(|_, asked| async move {
        let length = asked.headers().get("content-length").cloned();
        let body = asked.into_body().collect().await.unwrap().to_bytes();
        let mut response = said(200, &[], format!("{} {:08x}", body.len(), crc32fast::hash(&body)));
        response.headers_mut().extend(length.map(|length| (http::header::ETAG, length)));
        response
    })
    .await;
    let edge = start(&origin).await;
    let client = Client::connect(&edge).await;
    let body = pattern(3_000_000);
    let expected = format!("{} {:08x}", body.len(), crc32fast::hash(&body));
    let fields = [("content-length", "3000000")];
    for fields in [&[][..], &fields] {
        let reply = within(client.send(Method::POST, "/", fields, &body)).await.unwrap();
        assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, expected.as_bytes()));
    }
    let empty = within(client.send(Method::POST, "/", &[], b"")).await.unwrap();
    assert_eq!(&empty.body[..], b"0 00000000");
}

#[tokio::test]
async fn empty_frames_do_not_end_content() {
    let origin = Origin::start(|_, asked| async move {
        said(200, &[], asked.into_body().collect().await.unwrap().to_bytes())
    })
    .await;
    let edge = start(&origin).await;
    let client = Client::connect(&edge).await;
    let mut stream = client.open(request(Method::POST, "/", &[])).await;
    for part in ["", "", "abc", "", "def", ""] {
        stream.send_data(Bytes::from_static(part.as_bytes())).await.unwrap();
    }
    stream.finish().await.unwrap();
    assert_eq!(within(read(&mut stream)).await.unwrap().body, "abcdef");
}

#[tokio::test]
async fn a_body_of_another_length_than_declared_never_reaches_the_origin_whole() {
    let whole = Arc::new(AtomicU64::new(0));
    let seen = whole.clone();
    let origin = Origin::start(move |_, asked| {
        let seen = seen.clone();
        async move {
            if asked.into_body().collect().await.is_ok() {
                seen.fetch_add(1, Ordering::SeqCst);
            }
            said(200, &[], "")
        }
    })
    .await;
    let edge = start(&origin).await;
    let client = Client::connect(&edge).await;
    for (declared, body) in [("5", &b"abc"[..]), ("2", b"abc"), ("3", b"")] {
        let answer = within(client.send(Method::POST, "/", &[("content-length", declared)], body)).await;
        let refused = answer
            .as_ref()
            .map_or(true, |reply| reply.status.is_client_error() || reply.status.is_server_error());
        assert!(refused, "{declared}: {answer:?}");
    }
    assert_eq!(whole.load(Ordering::SeqCst), 0);
    assert_eq!(client.get("/").await.status, StatusCode::OK, "the connection goes on");
}

#[tokio::test]
async fn a_hundred_mebibytes_arrive_whole() {
    let body = pattern(100 << 20);
    let expected = crc32fast::hash(&body);
    let length = body.len();
    let origin = Origin::start(move |_, _| {
        let body = body.clone();
        async move { said(200, &[("cache-control", "max-age=60")], body) }
    })
    .await;
    let edge = start(&origin).await;
    let client = Client::connect(&edge).await;
    let mut stream = client.open(request(Method::GET, "/large", &[])).await;
    stream.finish().await.unwrap();
    let reply = tokio::time::timeout(Duration::from_secs(60), read(&mut stream)).await.unwrap().unwrap();
    assert_eq!((reply.body.len(), crc32fast::hash(&reply.body)), (length, expected));
    let part = within(client.send(Method::GET, "/large", &[("range", "bytes=-5000000")], b"")).await.unwrap();
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert!(part.body == reply.body.slice(length - 5_000_000..));
    assert_eq!(origin.requests(), 1);
}

#[tokio::test]
async fn what_is_malformed_is_refused_and_harms_no_other_stream() {
    let origin = Origin::start(|_, _| async { said(200, &[], "x") }).await;
    let edge = start(&origin).await;
    let client = Client::connect(&edge).await;
    for fields in [
        &[("connection", "close")][..],
        &[("transfer-encoding", "chunked")],
        &[("upgrade", "h2c")],
        &[("te", "gzip")],
        &[("content-length", "x")],
    ] {
        let answer = within(client.send(Method::GET, "/", fields, b"")).await;
        assert!(answer.is_err(), "{fields:?}: {answer:?}");
    }
    let mut other = request(Method::GET, "/", &[]);
    *other.uri_mut() = "https://other.test/".parse().unwrap();
    let mut stream = client.open(other).await;
    stream.finish().await.unwrap();
    assert_eq!(within(read(&mut stream)).await.unwrap().status, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(origin.requests(), 0);
    assert_eq!(client.get("/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn heads_have_their_limits() {
    let origin = Origin::start(|_, _| async { said(200, &[], "x") }).await;
    let edge = start(&origin).await;
    let client = Client::connect(&edge).await;
    let names: Vec<String> = (0..=limits::HEADERS_MAX).map(|index| format!("x-{index}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let reply = within(client.send(Method::GET, "/", &many, b"")).await.unwrap();
    assert_eq!(reply.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    // The client keeps to our SETTINGS; one that does not is met below, octet by octet.
    let (mut send, mut recv) = client.quic.open_bi().await.unwrap();
    let announced = [&[1][..], &(0x8000_0000_u32 | 0x10_0000).to_be_bytes(), &[0; 100]].concat();
    send.write_all(&announced).await.unwrap();
    let stopped = within(send.stopped()).await.unwrap();
    assert_eq!(stopped, Some(quinn::VarInt::from_u32(0x107)), "H3_EXCESSIVE_LOAD");
    assert!(within(recv.read_to_end(1024)).await.is_err() || stopped.is_some());
    edge.until("counted", |edge| {
        edge.metric("nearside_edge_turned_away_total", &["limit=\"h3_frame_max\""]) == 1
    })
    .await;
    assert_eq!(client.get("/").await.status, StatusCode::OK);
    assert_eq!(origin.requests(), 1);
}

#[tokio::test]
async fn many_streams_at_once_are_all_answered() {
    let origin = Origin::start(|_, asked| async move {
        said(200, &[("cache-control", "max-age=60")], asked.uri().path().to_owned())
    })
    .await;
    let edge = start(&origin).await;
    let client = Arc::new(Client::connect(&edge).await);
    let all = (0..500).map(|index| {
        let client = client.clone();
        tokio::spawn(async move {
            let path = format!("/{}", index % 50);
            let reply = client.get(&path).await;
            assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, path.as_bytes()));
        })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    assert_eq!(origin.requests(), 50);
}

#[tokio::test]
async fn a_slow_reader_takes_what_it_allows_and_no_more() {
    let body = pattern(8 << 20);
    let served = body.clone();
    let origin = Origin::start(move |_, _| {
        let body = served.clone();
        async move { said(200, &[("cache-control", "max-age=60")], body) }
    })
    .await;
    let edge = start(&origin).await;
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(16_384u32.into());
    let slow = Client::with(&edge, transport).await.unwrap();
    let mut stream = slow.open(request(Method::GET, "/", &[])).await;
    stream.finish().await.unwrap();
    stream.recv_response().await.unwrap();
    // It reads nothing yet. Others do not notice.
    let quick = Client::connect(&edge).await;
    assert_eq!(quick.get("/").await.body, body);
    assert_eq!(edge.metric("nearside_edge_body_bytes_total", &["site=\"www\""]), body.len() as u64);
    let mut read = Vec::new();
    while let Some(mut data) = within(stream.recv_data()).await.unwrap() {
        read.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    assert!(read == body);
}

#[tokio::test]
async fn a_client_that_cancels_frees_its_request() {
    let asked = Arc::new(Notify::new());
    let gone = Arc::new(AtomicBool::new(false));
    let (says, drops) = (asked.clone(), gone.clone());
    let origin = Origin::start(move |_, _| {
        struct Dropped(Arc<AtomicBool>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let (says, dropped) = (says.clone(), Dropped(drops.clone()));
        async move {
            says.notify_one();
            std::future::pending::<()>().await;
            drop(dropped);
            said(200, &[], "")
        }
    })
    .await;
    let edge = start(&origin).await;
    let client = Client::connect(&edge).await;
    let mut stream = client.open(request(Method::POST, "/", &[])).await;
    stream.finish().await.unwrap();
    within(asked.notified()).await;
    stream.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
    edge.until("counted", |edge| {
        edge.metric("nearside_edge_turned_away_total", &["limit=\"client_gone\""]) == 1
    })
    .await;
    support::until("the origin's connection is closed", || gone.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_the_next_client_and_the_last_goes_on() {
    let origin = Origin::start(|_, _| async { said(200, &[], "x") }).await;
    let edge = start(&origin).await;
    let before = Client::connect(&edge).await;
    let shown = |client: &Client| {
        let chain = client.quic.peer_identity().unwrap();
        chain.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().unwrap()[0].clone()
    };
    let old = shown(&before);
    Certificate::write(&edge.dir);
    edge.reload(edge.config.clone()).unwrap();
    let after = Client::connect(&edge).await;
    assert_ne!(shown(&after), old);
    assert_eq!(before.get("/").await.status, StatusCode::OK);
    assert_eq!(after.get("/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_moves_keeps_its_connection() {
    let origin = Origin::start(|_, _| async { said(200, &[("cache-control", "max-age=60")], "x") }).await;
    let edge = start(&origin).await;
    // Two workers: with each move the kernel's own choice would be wrong every other time.
    let client = Client::connect(&edge).await;
    assert_eq!(client.get("/").await.status, StatusCode::OK);
    for _ in 0..8 {
        client.endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        assert_eq!(client.get("/").await.status, StatusCode::OK);
    }
    assert_eq!(edge.metric("nearside_edge_handshakes_total", &[]), 1);
}

#[tokio::test]
async fn a_drain_loses_nothing() {
    let go = Arc::new(Notify::new());
    let asked = Arc::new(Notify::new());
    let (release, says) = (go.clone(), asked.clone());
    let body = pattern(2 << 20);
    let served = body.clone();
    let origin = Origin::start(move |_, _| {
        let (release, says, body) = (release.clone(), says.clone(), served.clone());
        async move {
            says.notify_one();
            release.notified().await;
            said(200, &[], body)
        }
    })
    .await;
    let edge = start(&origin).await;
    let client = Client::connect(&edge).await;
    let mut stream = client.open(request(Method::GET, "/", &[])).await;
    stream.finish().await.unwrap();
    within(asked.notified()).await;
    let daemon = edge.daemon.clone();
    let stopping = tokio::spawn(async move { daemon.stop(Instant::now() + PATIENCE).await });
    edge.until("draining", |edge| edge.daemon.health().is_err()).await;
    go.notify_one();
    let reply = within(read(&mut stream)).await.unwrap();
    assert_eq!(reply.body, body);
    assert!(reply.trailers.is_none());
    let end = within(client.driver).await.unwrap();
    assert!(end.is_h3_no_error(), "{end:?}");
    within(stopping).await.unwrap();
    assert_eq!(edge.metric("nearside_edge_connections", &[]), 0);
}

#[tokio::test]
async fn an_address_is_given_up_and_taken_again() {
    let origin = Origin::start(|_, _| async { said(200, &[], "x") }).await;
    let edge = start(&origin).await;
    let mut config = edge.config.clone();
    config.pops.get_mut("fra").unwrap().http3 = false;
    edge.reload(config).unwrap();
    assert!(edge.daemon.listening().iter().all(|&(_, speaks)| speaks != Speaks::Quic));
    edge.reload(edge.config.clone()).unwrap();
    let client = Client::connect(&edge).await;
    assert_eq!(client.get("/").await.status, StatusCode::OK);
}
