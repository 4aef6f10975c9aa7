//! tlsload: TLS handshakes against one server, each followed by one GET, as fast as one core can.
//!
//! Full handshakes by default; `--resume` offers the session of an earlier connection. Certificates are
//! not verified: the cost that is measured is the server's, and the server is ours.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use nearside_bench::{histogram::Histogram, unverified};
use rustls::{ClientConfig, HandshakeKind, client::Resumption, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

/// Open TLS connections one after the other, each for one request.
#[derive(Parser, Clone)]
#[command(
    version,
    after_help = "Example:\n  tlsload 127.0.20.1:8443 www.cdn.test /index.html --resume --json"
)]
struct Args {
    /// Server, address and port (loopback only).
    server: SocketAddr,
    /// Host name for SNI and the Host header.
    host: String,
    /// Path of the request.
    path: String,
    /// How long to go on.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Connections at a time.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Offer session resumption.
    #[arg(long)]
    resume: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Default)]
struct Counts {
    done: u64,
    resumed: u64,
    failed: u64,
    latency: Histogram,
    last_error: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    if !args.server.ip().is_loopback() {
        eprintln!("tlsload: {} is not a loopback address: load goes nowhere else", args.server);
        return ExitCode::FAILURE;
    }
    let connector = TlsConnector::from(Arc::new(client_config(args.resume)));
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    let mut workers = JoinSet::new();
    for _ in 0..args.connections.clamp(1, 4096) {
        workers.spawn(worker(args.clone(), connector.clone(), end));
    }
    let mut total = Counts::default();
    while let Some(Ok(counts)) = workers.join_next().await {
        total.done += counts.done;
        total.resumed += counts.resumed;
        total.failed += counts.failed;
        total.latency.add(&counts.latency);
        total.last_error = counts.last_error.or(total.last_error);
    }
    print(&args, &total);
    if total.done == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn worker(args: Args, connector: TlsConnector, end: Instant) -> Counts {
    let mut counts = Counts::default();
    while Instant::now() < end {
        let start = Instant::now();
        match once(&args, &connector).await {
            Ok(kind) => {
                counts.done += 1;
                counts.resumed += u64::from(kind == Some(HandshakeKind::Resumed));
                counts.latency.record(start.elapsed());
            }
            Err(error) => {
                counts.failed += 1;
                counts.last_error = Some(error.to_string());
                tokio::task::yield_now().await;
            }
        }
    }
    counts
}

async fn once(args: &Args, connector: &TlsConnector) -> std::io::Result<Option<HandshakeKind>> {
    let name = ServerName::try_from(args.host.clone()).map_err(std::io::Error::other)?;
    let tcp = TcpStream::connect(args.server).await?;
    tcp.set_nodelay(true)?;
    let mut tls = connector.connect(name, tcp).await?;
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", args.path, args.host);
    tls.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(4096);
    // A peer that closes without close_notify has still answered; the status line decides.
    let _ = tls.read_to_end(&mut answer).await;
    if !answer.starts_with(b"HTTP/1.1 200") {
        let line = String::from_utf8_lossy(answer.split(|b| *b == b'\r').next().unwrap_or(&[])).into_owned();
        return Err(std::io::Error::other(format!("answered {line:?}")));
    }
    Ok(tls.get_ref().1.handshake_kind())
}

fn client_config(resume: bool) -> ClientConfig {
    let mut config = unverified::client_config();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = if resume { Resumption::in_memory_sessions(256) } else { Resumption::disabled() };
    config
}

fn print(args: &Args, counts: &Counts) {
    let micros = |share| counts.latency.percentile(share).as_secs_f64() * 1e6;
    let (p50, p99) = (micros(0.5), micros(0.99));
    let Counts { done, resumed, failed, last_error, .. } = counts;
    if args.json {
        let report = serde_json::json!({
            "done": done, "resumed": resumed, "failed": failed, "p50_us": p50, "p99_us": p99, "error": last_error,
        });
        println!("{report}");
    } else {
        println!("{done} requests ({resumed} resumed), {failed} failed, p50 {p50:.0} us, p99 {p99:.0} us");
        if let Some(error) = last_error {
            println!("last failure: {error}");
        }
    }
}
