//! h3load: GETs over HTTP/3 in a closed loop, so many streams at a time on so many connections.
//!
//! What h2load is for HTTP/2 (Debian's has no HTTP/3). Certificates are not verified: the cost that is measured is the
//! server's, and the server is ours. The client's own cost is not small: the server's CPU per request is the figure.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use clap::Parser;
use h3::client::SendRequest;
use h3_quinn::OpenStreams;
use http::Request;
use nearside_bench::{histogram::Histogram, unverified};
use quinn::crypto::rustls::QuicClientConfig;
use tokio::task::JoinSet;

/// Ask for one path again and again over HTTP/3.
#[derive(Parser, Clone)]
#[command(
    version,
    after_help = "Example:\n  h3load 127.0.20.1:8443 www.cdn.test /index.html -c 8 -m 16 --json"
)]
struct Args {
    /// Server, address and port (loopback only).
    server: SocketAddr,
    /// Host name for SNI and :authority.
    host: String,
    /// Path of the requests.
    path: String,
    /// How long to go on.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Connections.
    #[arg(short, long, default_value_t = 8)]
    connections: usize,
    /// Streams at a time on each.
    #[arg(short = 'm', long, default_value_t = 16)]
    streams: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Bytes a stream may be ahead of its reader: larger than any body that is asked for in numbers.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

#[derive(Default)]
struct Counts {
    done: u64,
    failed: u64,
    bytes: u64,
    latency: Histogram,
    last_error: Option<String>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    if !args.server.ip().is_loopback() {
        eprintln!("h3load: {} is not a loopback address: load goes nowhere else", args.server);
        return ExitCode::FAILURE;
    }
    let total = match run(&args).await {
        Ok(total) => total,
        Err(error) => {
            eprintln!("h3load: {error}");
            return ExitCode::FAILURE;
        }
    };
    let micros = |share| total.latency.percentile(share).as_secs_f64() * 1e6;
    let (p50, p99) = (micros(0.5), micros(0.99));
    let Counts { done, failed, bytes, last_error, .. } = &total;
    if args.json {
        let report = serde_json::json!({
            "done": done, "failed": failed, "bytes": bytes, "p50_us": p50, "p99_us": p99, "error": last_error,
        });
        println!("{report}");
    } else {
        println!("{done} done, {failed} failed, {bytes} bytes; p50 {p50:.0} us, p99 {p99:.0} us");
        if let Some(error) = last_error {
            println!("last error: {error}");
        }
    }
    if *done == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn run(args: &Args) -> Result<Counts, Failure> {
    let mut tls = unverified::client_config();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(STREAM_WINDOW_BYTES.into());
    config.transport_config(Arc::new(transport));
    let mut endpoint = quinn::Endpoint::client(SocketAddr::new(args.server.ip(), 0))?;
    endpoint.set_default_client_config(config);
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    let mut workers = JoinSet::new();
    for _ in 0..args.connections.clamp(1, 1024) {
        let quic = endpoint.connect(args.server, &args.host)?.await?;
        let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(quic)).await?;
        tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        for _ in 0..args.streams.clamp(1, 128) {
            workers.spawn(worker(args.clone(), requests.clone(), end));
        }
    }
    let mut total = Counts::default();
    while let Some(counts) = workers.join_next().await {
        let counts = counts?;
        total.done += counts.done;
        total.failed += counts.failed;
        total.bytes += counts.bytes;
        total.latency.add(&counts.latency);
        total.last_error = counts.last_error.or(total.last_error);
    }
    Ok(total)
}

async fn worker(args: Args, mut requests: SendRequest<OpenStreams, Bytes>, end: Instant) -> Counts {
    let mut counts = Counts::default();
    while Instant::now() < end {
        let start = Instant::now();
        match once(&args, &mut requests).await {
            Ok(bytes) => {
                counts.done += 1;
                counts.bytes += bytes;
                counts.latency.record(start.elapsed());
            }
            Err(error) => {
                counts.failed += 1;
                counts.last_error = Some(error.to_string());
                break;
            }
        }
    }
    counts
}

async fn once(args: &Args, requests: &mut SendRequest<OpenStreams, Bytes>) -> Result<u64, Failure> {
    let request = Request::get(format!("https://{}{}", args.host, args.path)).body(())?;
    let mut stream = requests.send_request(request).await?;
    stream.finish().await?;
    let status = stream.recv_response().await?.status();
    let mut bytes = 0;
    while let Some(data) = stream.recv_data().await? {
        bytes += data.remaining() as u64;
    }
    if status.is_success() { Ok(bytes) } else { Err(format!("answered {status}").into()) }
}
