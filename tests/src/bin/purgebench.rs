//! purgebench: how fast a purge is in force at fifty edges; see `scripts/bench purge`.
//!
//! Real processes: home, three DNS nodes, the edges, all on this machine. Orders go over the API, on connections that are kept, as a
//! deploy pipeline sends them.

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark prints, and ends where it can't go on"
)]

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use nearside_tests::fleet::Fleet;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const SERVER_NAME: &str = "controller.node.nearside.internal";
/// Purges one after another, for the fan-out.
const SINGLE: usize = 200;
/// Orders a second, and for how long.
const RATE: u32 = 100;
const SUSTAINED: Duration = Duration::from_secs(20);

struct Api {
    address: String,
    tls: tokio_rustls::TlsConnector,
}

impl Api {
    fn of(fleet: &Fleet) -> Self {
        let home = fleet.state_dir("home");
        let read = |file: &str| fs::read(home.join("operator").join(file)).expect("the operator's identity");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&read("ca.pem")) {
            roots.add(certificate.expect("PEM")).expect("a CA");
        }
        let chain = CertificateDer::pem_slice_iter(&read("cert.pem")).collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(&read("key.pem")).expect("a key");
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("TLS")
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
                .expect("an identity");
        let address = fs::read_to_string(home.join("controller.addr")).expect("home listens");
        Self { address: address.trim().to_owned(), tls: Arc::new(config).into() }
    }

    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(&self.address).await.expect("home is there");
        stream.set_nodelay(true).expect("an option");
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        let stream = self.tls.connect(name, stream).await.expect("a handshake");
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        send
    }
}

/// Orders purges; what home says of each PoP.
async fn purge(open: &mut SendRequest<Full<Bytes>>, urls: impl Iterator<Item = String>) -> Value {
    let scopes: Vec<Value> = urls.map(|url| json!({ "url": url })).collect();
    let body = json!({ "scopes": scopes, "wait_seconds": 60 }).to_string();
    let request = http::Request::post("/v1/purges").header("host", SERVER_NAME).body(Full::from(body));
    open.ready().await.expect("the connection is open");
    let response = open.send_request(request.expect("a request")).await.expect("an answer");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).expect("JSON")
}

fn url(at: usize) -> String {
    format!("http://www.cdn.test/bench/{at}")
}

/// Milliseconds by PoP; panics where one has not acknowledged.
fn milliseconds(answer: &Value) -> Vec<f64> {
    let pops = answer["pops"].as_array().expect("PoPs");
    pops.iter()
        .map(|pop| {
            assert_eq!(pop["state"], "acknowledged", "{pop}");
            pop["ms"].as_f64().expect("a number")
        })
        .collect()
}

fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

fn main() {
    let edges = std::env::var("NEARSIDE_BENCH_EDGES").ok().and_then(|edges| edges.parse().ok()).unwrap_or(50);
    let fleet = Fleet::crowd(edges);
    let api = Api::of(&fleet);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        single(&api).await;
        let mut open = api.connect().await;
        let began = Instant::now();
        let mut each = milliseconds(&purge(&mut open, (0..1_000).map(|at| url(1_000_000 + at))).await);
        println!(
            "purge 1000 URLs in one call ms {:.1} (slowest PoP {:.1})",
            millis(began),
            quantile(&mut each, 1.0)
        );
        sustained(&api).await;
    });
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// One after another.
async fn single(api: &Api) {
    let mut open = api.connect().await;
    let (mut every, mut slowest) = (Vec::new(), Vec::new());
    for at in 0..SINGLE {
        let mut each = milliseconds(&purge(&mut open, std::iter::once(url(at))).await);
        slowest.push(quantile(&mut each, 1.0));
        every.extend(each);
    }
    let (median, p99) = (quantile(&mut every, 0.5), quantile(&mut every, 0.99));
    println!("purge fan-out median ms {median:.1} p99 {p99:.1} (one PoP)");
    println!(
        "purge fan-out median ms {:.1} p99 {:.1} (all PoPs)",
        quantile(&mut slowest, 0.5),
        quantile(&mut slowest, 0.99)
    );
}

/// Orders at a fixed rate, each waited for on a connection of its own, whatever became of those before.
async fn sustained(api: &Api) {
    let (asked, mut free) = tokio::sync::mpsc::unbounded_channel();
    let mut connections = Vec::new();
    for _ in 0..64 {
        connections.push(api.connect().await);
    }
    connections.into_iter().for_each(|open| asked.send(open).expect("open"));
    let start = Instant::now();
    let orders = RATE as usize * SUSTAINED.as_secs() as usize;
    let mut waiting = Vec::with_capacity(orders);
    for at in 0..orders {
        let due = start + Duration::from_secs_f64(at as f64 / f64::from(RATE));
        tokio::time::sleep_until(due.into()).await;
        let mut open = free.recv().await.expect("a connection");
        let back = asked.clone();
        waiting.push(tokio::spawn(async move {
            let answer = purge(&mut open, std::iter::once(url(2_000_000 + at))).await;
            let took = due.elapsed().as_secs_f64() * 1e3;
            drop(back.send(open));
            milliseconds(&answer);
            took
        }));
    }
    let mut took = Vec::with_capacity(orders);
    for order in waiting {
        took.push(order.await.expect("an order"));
    }
    let rate = orders as f64 / start.elapsed().as_secs_f64();
    let (median, p99) = (quantile(&mut took, 0.5), quantile(&mut took, 0.99));
    println!("purge sustained {rate:.1}/s of {RATE}/s, at all PoPs after median ms {median:.1} p99 {p99:.1}");
}
