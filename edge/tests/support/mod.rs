//! A whole edge in the test's process, an origin that says what the test wants, and a client.
//!
//! Ports are the system's choice, so that tests run side by side. Everything ends with the test.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a harness fails by panicking")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nearside_edge::{daemon::EdgeDaemon, listen::Speaks};
use nearside_fleet::config::{self, Config};
use nearside_node::{
    Context, ControlRequest, ControlResponse, Daemon, Desired, Role, Source, metrics::Metrics,
    state::StateDir,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Longest any condition or exchange may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The host of the one site.
pub const HOST: &str = "www.cdn.test";

/// What an origin was asked.
pub type Asked = Request<Incoming>;

/// What an origin answers.
pub type Said = Response<BoxBody<Bytes, std::io::Error>>;

/// An origin that answers by a function and counts.
pub struct Origin {
    pub address: SocketAddr,
    requests: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl Origin {
    /// Answers every request by `say`, given its number, from 1.
    pub async fn start<F, R>(say: F) -> Origin
    where
        F: Fn(u64, Asked) -> R + Send + Sync + 'static,
        R: Future<Output = Said> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, opened) = (requests.clone(), connections.clone());
        let say = Arc::new(say);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::SeqCst);
                let (say, counted) = (say.clone(), counted.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
                        let said = say(number, request);
                        async move { Ok::<_, Infallible>(said.await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        Origin { address, requests, connections }
    }

    /// Answers every connection with these bytes once a request head has come, then closes it.
    pub async fn raw(answer: &str) -> Origin {
        Origin::raw_in_turn(&[answer]).await
    }

    /// As [`Origin::raw`], with the next answer for each connection; the last one stays.
    pub async fn raw_in_turn(answers: &[&str]) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, opened) = (requests.clone(), connections.clone());
        let answers: Vec<Vec<u8>> = answers.iter().map(|answer| answer.as_bytes().to_vec()).collect();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let number = opened.fetch_add(1, Ordering::SeqCst) as usize;
                let answer = answers[number.min(answers.len() - 1)].clone();
                let counted = counted.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    let _ = stream.write_all(&answer).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Origin { address, requests, connections }
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A whole response.
pub fn said(status: u16, fields: &[(&str, &str)], body: impl Into<Bytes>) -> Said {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(Full::new(body.into()).map_err(|never| match never {}).boxed()).unwrap()
}

/// The current time as an HTTP-date, `ago` seconds earlier.
pub fn date(ago: u64) -> String {
    httpdate::fmt_http_date(std::time::SystemTime::now() - Duration::from_secs(ago))
}

/// A self-signed certificate for [`HOST`] on disk.
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Certificate {
    /// Writes one to `dir`, in place of the last if there is one.
    pub fn write(dir: &TempDir) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![HOST.to_owned(), "*.cdn.test".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (chain, key_path) = (dir.path().join("site.pem"), dir.path().join("site.key"));
        std::fs::write(&chain, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        Certificate { chain, key: key_path }
    }
}

/// A fleet of one PoP and one site.
pub fn fleet(origin: SocketAddr, dir: &TempDir, certificate: Option<&Certificate>) -> Config {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let pop = config::Pop {
        name: "fra".to_owned(),
        location: config::Location { latitude: 50.0, longitude: 8.0 },
        ipv4: Vec::new(),
        ipv6: Vec::new(),
        http: vec![any],
        https: certificate.iter().map(|_| any).collect(),
        http3: false,
        shield: None,
        control: None,
        metrics: None,
        bias_km: 0.0,
        memory_bytes_max: 64 << 20,
        cache_dir: Some(dir.path().join("cache")),
        disk_bytes_max: 256 << 20,
        workers: Some(2),
        front: config::front::PopFront::default(),
    };
    let site = config::Site {
        name: "www".to_owned(),
        hosts: vec![HOST.to_owned(), "*.cdn.test".to_owned()],
        origins: vec![at(origin)],
        tls: certificate.map(|certificate| config::SiteTls::Files {
            certificate: certificate.chain.clone(),
            key: certificate.key.clone(),
        }),
        cache: config::SiteCache { object_bytes_max: 1 << 30, ..config::SiteCache::default() },
        ..config::Site::default()
    };
    Config {
        fleet: "test".to_owned(),
        geoip: config::Geoip::default(),
        pops: BTreeMap::from([("fra".to_owned(), pop)]),
        dns: BTreeMap::new(),
        checks: BTreeMap::new(),
        services: BTreeMap::new(),
        zones: BTreeMap::new(),
        sites: BTreeMap::from([("www".to_owned(), site)]),
        controller: None,
        acme: Default::default(),
        ticket_keys: None,
        shared_limits: None,
    }
}

/// An origin at an address, with deadlines that a test can wait for.
pub fn at(address: SocketAddr) -> config::Origin {
    config::Origin {
        connect_timeout: Duration::from_secs(2),
        first_byte_timeout: Duration::from_secs(2),
        between_bytes_timeout: Duration::from_secs(2),
        ..config::Origin::at(config::Scheme::Http, &address.ip().to_string(), address.port())
    }
}

/// An edge in this process.
pub struct Edge {
    pub daemon: Arc<EdgeDaemon>,
    pub config: Config,
    pub dir: TempDir,
    metrics: Metrics,
}

impl Edge {
    /// An edge in front of `origin`, plain HTTP only.
    pub async fn start(origin: &Origin) -> Edge {
        let dir = TempDir::new().unwrap();
        let config = fleet(origin.address, &dir, None);
        Edge::with(config, dir).await
    }

    /// An edge in front of `origin`, with TLS as well.
    pub async fn start_tls(origin: &Origin) -> Edge {
        let dir = TempDir::new().unwrap();
        let certificate = Certificate::write(&dir);
        let config = fleet(origin.address, &dir, Some(&certificate));
        Edge::with(config, dir).await
    }

    /// An edge of this configuration.
    pub async fn with(config: Config, dir: TempDir) -> Edge {
        Edge::of_node("fra", config, dir, None).await
    }

    /// The edge of a node of this configuration.
    pub async fn of_node(node: &str, config: Config, dir: TempDir, state: Option<StateDir>) -> Edge {
        nearside_node::tls::install_provider();
        let metrics = Metrics::new("nearside-edge", "test");
        let context = Context { node: node.to_owned(), state, metrics: metrics.clone() };
        let daemon = Arc::new(EdgeDaemon::new(context));
        let edge = Edge { daemon: daemon.clone(), config: config.clone(), dir, metrics };
        edge.reload(config).unwrap();
        daemon.start().await.unwrap();
        edge
    }

    /// Stages and swaps a configuration.
    pub fn reload(&self, config: Config) -> Result<(), nearside_node::Refusal> {
        let desired = Desired {
            config: Arc::new(config),
            fleet_file: PathBuf::from("nearside.toml"),
            source: Source::Local,
        };
        self.daemon.swap(self.daemon.stage(&desired)?.staged);
        Ok(())
    }

    fn address(&self, speaks: Speaks) -> SocketAddr {
        self.daemon.listening().into_iter().find(|&(_, spoken)| spoken == speaks).unwrap().0
    }

    /// Lets go of the edge and keeps its directory, for another one to start from.
    pub async fn into_dir(self) -> TempDir {
        self.dir
    }

    /// Where plain HTTP is spoken.
    pub fn http(&self) -> SocketAddr {
        self.address(Speaks::Http)
    }

    /// Where TLS is spoken.
    pub fn https(&self) -> SocketAddr {
        self.address(Speaks::Https)
    }

    /// GETs `path` on a connection of its own.
    pub async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        self.send(Method::GET, path, fields, "").await
    }

    /// Sends any request on a connection of its own.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        body: &'static str,
    ) -> Reply {
        exchange(self.http(), method, path, fields, body).await
    }

    /// The value of a counter or gauge whose line begins with `name` and holds all `labels`; 0 where
    /// there is none.
    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.metrics.encode();
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or("");
            rest.starts_with(['{', ' ']) && labels.iter().all(|label| line.contains(label))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }

    /// Requests of the site by how they met the cache.
    pub fn requests(&self, cache: &str) -> u64 {
        self.metric("nearside_edge_requests_total", &["site=\"www\"", &format!("cache=\"{cache}\"")])
    }

    /// Waits until `condition` holds.
    pub async fn until(&self, what: &str, condition: impl Fn(&Edge) -> bool) {
        until(what, || condition(self)).await;
    }

    /// Asks the control interface as an operator.
    pub async fn control(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: String,
    ) -> ControlResponse {
        let request = ControlRequest {
            role: Role::Operator,
            who: "operator".to_owned(),
            from: None,
            method,
            path: path.to_owned(),
            query: query.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            body: body.into(),
        };
        self.daemon.control(request).await
    }

    /// A TLS connection with these protocols offered; certificates are verified against the site's own.
    pub async fn connect_tls(&self, name: &str, alpn: &[&str]) -> std::io::Result<Tls> {
        self.connect_with(self.client_config(alpn), name).await
    }

    /// SHA-256 of the site's certificate, as reported.
    pub fn fingerprint(&self) -> String {
        self.daemon.report()["certificates"]["www"]["sha256"].as_str().unwrap().to_owned()
    }

    /// A line of the report.
    pub fn daemon_report(&self, key: &str) -> serde_json::Value {
        self.daemon.report()[key].clone()
    }

    /// A TLS connection by a client that may remember sessions.
    pub async fn connect_with(&self, config: Arc<ClientConfig>, name: &str) -> std::io::Result<Tls> {
        let stream = TcpStream::connect(self.https()).await?;
        let connector = tokio_rustls::TlsConnector::from(config);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        connector.connect(name, stream).await
    }

    /// A client that trusts the site's certificate of now.
    pub fn client_config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        self.client_config_of(rustls::DEFAULT_VERSIONS, alpn)
    }

    /// The same with these versions of TLS alone.
    pub fn client_config_of(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&str],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let pem = std::fs::read(self.dir.path().join("site.pem")).unwrap();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// A connection of either kind.
pub trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Duplex for T {}

/// A client's TLS connection.
pub type Tls = tokio_rustls::client::TlsStream<TcpStream>;

/// A response read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// `Err`: it was cut short.
    pub body: Result<Bytes, String>,
}

impl Reply {
    /// A field as text, or nothing.
    pub fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }

    /// Reads a response whole.
    pub async fn read(response: Response<Incoming>) -> Reply {
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("a whole body in time");
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: body.map(|body| body.to_bytes()).map_err(|error| error.to_string()),
        }
    }
}

/// One exchange over HTTP/1.1 on a connection of its own. `Host` is the site's unless given.
pub async fn exchange(
    address: SocketAddr,
    method: Method,
    path: &str,
    fields: &[(&str, &str)],
    body: &'static str,
) -> Reply {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = request(method, path, fields, body);
    let response =
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("a head in time");
    Reply::read(response.unwrap()).await
}

/// A request in origin form.
pub fn request(
    method: Method,
    path: &str,
    fields: &[(&str, &str)],
    body: &'static str,
) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(method).uri(path);
    if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        builder = builder.header("host", HOST);
    }
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()
}

/// GETs over h2 on an established TLS connection.
pub async fn get_h2<T>(stream: T, paths: &[&str]) -> Vec<Reply>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut replies = Vec::new();
    for path in paths {
        let request = Request::get(format!("https://{HOST}{path}")).body(Full::new(Bytes::new())).unwrap();
        replies.push(Reply::read(sender.send_request(request).await.unwrap()).await);
    }
    replies
}

/// Sends bytes, reads until the edge closes or says nothing more for a while, returns all of it.
pub async fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A refused connection is closed by the edge; one that is not ends with `Connection: close`.
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("the edge closes the connection").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits until `condition` holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
