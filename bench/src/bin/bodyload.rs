//! bodyload: many clients that read large bodies, all at full speed or all slowly.
//!
//! By default each client sends one GET when all are connected, and reads to the end: a thundering herd. With
//! `--total-mbit` clients share that rate evenly and begin again when a body ends, until `--seconds` are over.
//! One thread, so that it can be pinned; prints one JSON object.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::Barrier,
    task::JoinSet,
};

/// Have many clients read one path.
#[derive(Parser, Clone)]
#[command(
    version,
    after_help = "Examples:\n  bodyload 127.0.62.1:8080 www.bench.test /104857600/herd --clients 1000\n  \
                  bodyload 127.0.62.1:8080 www.bench.test /52428800/slow --clients 300 --total-mbit 900 --seconds 10"
)]
struct Args {
    /// Server, address and port.
    server: SocketAddr,
    /// Host header.
    host: String,
    /// Path to GET.
    path: String,
    /// Clients at once.
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Rate of all clients together; without it each reads as fast as it can.
    #[arg(long)]
    total_mbit: Option<f64>,
    /// How long slow clients go on.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

/// What a slow client takes from its socket ten times a second fits twice: a server must wait for it.
const TICK: Duration = Duration::from_millis(100);
/// Longest silence before a client counts as failed.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// How it went for one client.
#[derive(Default)]
struct Read {
    first_byte: Duration,
    total: Duration,
    bytes: u64,
    failed: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Arc::new(Args::parse());
    let barrier = Arc::new(Barrier::new(args.clients));
    let until = Instant::now() + Duration::from_secs_f64(args.seconds);
    let mut clients = JoinSet::new();
    for _ in 0..args.clients {
        let (args, barrier) = (args.clone(), barrier.clone());
        clients.spawn(async move {
            match args.total_mbit {
                None => all_at_once(&args, &barrier).await,
                Some(mbit) => slowly(&args, mbit * 125_000.0 / args.clients as f64, until).await,
            }
        });
    }
    let mut reads = Vec::new();
    while let Some(read) = clients.join_next().await {
        reads.push(read.unwrap_or(Read { failed: true, ..Read::default() }));
    }
    report(&reads);
    ExitCode::SUCCESS
}

fn report(reads: &[Read]) {
    let good: Vec<&Read> = reads.iter().filter(|read| !read.failed).collect();
    let millis = |pick: fn(&Read) -> Duration, share: f64| {
        let mut all: Vec<Duration> = good.iter().map(|read| pick(read)).collect();
        all.sort_unstable();
        let at = ((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1));
        all.get(at).copied().unwrap_or_default().as_secs_f64() * 1000.0
    };
    let report = serde_json::json!({
        "done": good.len(),
        "failed": reads.len() - good.len(),
        "bytes": reads.iter().map(|read| read.bytes).sum::<u64>(),
        "first_byte_ms": { "median": millis(|read| read.first_byte, 0.5), "max": millis(|read| read.first_byte, 1.0) },
        "total_ms": { "median": millis(|read| read.total, 0.5), "max": millis(|read| read.total, 1.0) },
    });
    #[allow(clippy::print_stdout, reason = "its result")]
    {
        println!("{report}");
    }
}

async fn connect(args: &Args, receive_bytes: Option<u32>) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.connect(args.server).await
}

fn request(args: &Args) -> String {
    format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", args.path, args.host)
}

async fn all_at_once(args: &Args, barrier: &Barrier) -> Read {
    let connected = connect(args, None).await;
    barrier.wait().await;
    let began = Instant::now();
    let mut read = Read { failed: true, ..Read::default() };
    let Ok(mut stream) = connected else { return read };
    if stream.write_all(request(args).as_bytes()).await.is_err() {
        return read;
    }
    let mut buffer = vec![0; 256 * 1024];
    let Some((mut left, inside)) = head(&mut stream, &mut buffer).await else { return read };
    read.first_byte = began.elapsed();
    read.bytes += inside;
    left -= inside;
    while left > 0 {
        match tokio::time::timeout(SILENCE_MAX, stream.read(&mut buffer)).await {
            Ok(Ok(bytes)) if bytes > 0 => {
                read.bytes += bytes as u64;
                left = left.saturating_sub(bytes as u64);
            }
            _ => return read,
        }
    }
    read.total = began.elapsed();
    read.failed = false;
    read
}

/// Body after body at `rate` bytes per second, a little at each tick.
async fn slowly(args: &Args, rate: f64, until: Instant) -> Read {
    let per_tick = (rate * TICK.as_secs_f64()) as usize;
    let mut read = Read { failed: true, ..Read::default() };
    let Ok(mut stream) = connect(args, Some(2 * per_tick as u32)).await else { return read };
    let mut buffer = vec![0; per_tick.max(4096)];
    // Not all in the same moment.
    tokio::time::sleep(TICK.mul_f64(fastrand::f64())).await;
    let mut ticks = tokio::time::interval(TICK);
    let mut left = 0u64;
    while Instant::now() < until {
        if left == 0 {
            if stream.write_all(request(args).as_bytes()).await.is_err() {
                return read;
            }
            let Some((length, inside)) = head(&mut stream, &mut buffer).await else { return read };
            left = length - inside;
            read.bytes += inside;
        }
        ticks.tick().await;
        let mut owed = (per_tick as u64).min(left);
        while owed > 0 {
            let take = buffer.len().min(owed as usize);
            match tokio::time::timeout(SILENCE_MAX, stream.read(&mut buffer[..take])).await {
                Ok(Ok(bytes)) if bytes > 0 => {
                    owed -= bytes as u64;
                    left -= bytes as u64;
                    read.bytes += bytes as u64;
                }
                _ => return read,
            }
        }
    }
    read.failed = false;
    read
}

/// Reads a 200's head. Gives its content's length, and how much of that came with it.
async fn head(stream: &mut TcpStream, buffer: &mut [u8]) -> Option<(u64, u64)> {
    let mut filled = 0;
    loop {
        let read = tokio::time::timeout(SILENCE_MAX, stream.read(buffer.get_mut(filled..)?)).await;
        match read {
            Ok(Ok(bytes)) if bytes > 0 => filled += bytes,
            _ => return None,
        }
        if let Some(end) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
            let text = std::str::from_utf8(&buffer[..end]).ok()?.to_ascii_lowercase();
            let length =
                text.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse().ok()?;
            return text.starts_with("http/1.1 200").then_some((length, (filled - end - 4) as u64));
        }
    }
}
