//! dnsload: asks one DNS server one name, as fast as it answers or at a fixed rate, and counts.
//!
//! Closed loop by default: every socket keeps a batch of queries outstanding and replaces each answered
//! one. With `--rate` it is an open loop: queries leave on schedule whatever the server does, and latency
//! counts from the moment a query was due, so a stalled server cannot hide its stall.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use nearside_bench::{
    histogram::Histogram,
    query::{self, QUERY_BYTES_MAX, Subnets},
};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

/// Load a DNS server for a bounded time.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  dnsload 127.0.10.1:5353 www.cdn.test --subnets random\n  \
    dnsload 127.0.10.1:5353 www.cdn.test --rate 50000 --seconds 10 --json"
)]
struct Args {
    /// Server, address and port (loopback only).
    server: SocketAddr,
    /// Name to ask for.
    name: String,
    /// Numeric query type.
    #[arg(long, default_value_t = 1)]
    qtype: u16,
    /// How long to send.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Client subnets in the queries.
    #[arg(long, value_enum, default_value = "none")]
    subnets: Subnets,
    /// Sockets, each with a source port of its own.
    #[arg(long, default_value_t = 16)]
    sockets: usize,
    /// Queries per second in all (open loop); without it, as fast as answers come.
    #[arg(long)]
    rate: Option<f64>,
    /// Seed of the random subnets.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Datagrams per system call, and queries a socket keeps outstanding in the closed loop.
const BATCH: usize = 32;
/// Different queries prepared ahead; a power of two, and enough that no cache of the server's holds them all.
const QUERIES: usize = 1 << 16;
/// A query unanswered for so long is lost, and replaced.
const LOST_AFTER: Duration = Duration::from_millis(300);

/// One source port and what it waits for.
struct Port {
    socket: UdpSocket,
    next_id: u16,
    outstanding: usize,
    /// When the query of each id left (or was due); `None`: not outstanding.
    sent: Vec<Option<Instant>>,
    last_heard: Instant,
}

#[derive(Default)]
struct Counts {
    sent: u64,
    answered: u64,
    noerror: u64,
    empty: u64,
    strange: u64,
    lost: u64,
}

struct Load {
    queries: Vec<Vec<u8>>,
    cursor: usize,
    counts: Counts,
    latency: Histogram,
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Vec<[u8; 1232]>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dnsload: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    if !args.server.ip().is_loopback() {
        return Err(format!("{} is not a loopback address: load goes nowhere else", args.server));
    }
    let mut rng = fastrand::Rng::with_seed(args.seed);
    let queries: Result<Vec<_>, _> =
        (0..QUERIES).map(|_| query::build(&args.name, args.qtype, args.subnets, &mut rng)).collect();
    let mut ports = (0..args.sockets.clamp(1, 1024))
        .map(|_| Port::open(args.server))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|error| format!("cannot open a socket to {}: {error}", args.server))?;
    let mut load = Load {
        queries: queries?,
        cursor: 0,
        counts: Counts::default(),
        latency: Histogram::default(),
        headers: MultiHeaders::preallocate(BATCH, None),
        buffers: vec![[0; 1232]; BATCH],
    };
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(args.seconds);
    let outcome = match args.rate {
        None => load.closed(&mut ports, end),
        Some(rate) => load.open(&mut ports, start, end, rate),
    };
    outcome.map_err(|error| format!("{}: {error}", args.server))?;
    load.print(start.elapsed().as_secs_f64(), args.json);
    Ok(())
}

impl Port {
    fn open(server: SocketAddr) -> io::Result<Self> {
        let local = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(local)?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        let last_heard = Instant::now();
        Ok(Self { socket, next_id: 0, outstanding: 0, sent: vec![None; 1 << 16], last_heard })
    }
}

impl Load {
    fn closed(&mut self, ports: &mut [Port], end: Instant) -> io::Result<()> {
        let mut now = Instant::now();
        while now < end {
            for port in ports.iter_mut() {
                self.receive(port)?;
                now = Instant::now();
                if port.outstanding > 0 && now - port.last_heard > LOST_AFTER {
                    self.give_up(port);
                }
                let missing = BATCH - port.outstanding;
                // Half a batch at least: a generator that answers singly would unbatch the server.
                if missing >= BATCH / 2 {
                    self.send(port, missing, |_| now)?;
                }
            }
        }
        self.drain(ports)
    }

    fn open(&mut self, ports: &mut [Port], start: Instant, end: Instant, rate: f64) -> io::Result<()> {
        let gap = Duration::from_secs_f64(1.0 / rate.max(1.0));
        let (mut due, mut turn) = (start, 0);
        loop {
            let now = Instant::now();
            if now >= end {
                return self.drain(ports);
            }
            let late = ((now - due.min(now)).as_nanos() / gap.as_nanos().max(1)) as usize;
            if late > 0 {
                let count = late.min(BATCH);
                let first = due;
                let port = &mut ports[turn];
                self.send(port, count, |index| first + gap * index as u32)?;
                due += gap * count as u32;
                turn = (turn + 1) % ports.len();
            }
            for port in ports.iter_mut().filter(|port| port.outstanding > 0) {
                self.receive(port)?;
            }
        }
    }

    /// Sends `count` (at most a batch) queries; `stamp` says when each counts as sent.
    fn send(&mut self, port: &mut Port, count: usize, stamp: impl Fn(usize) -> Instant) -> io::Result<()> {
        let first = self.cursor;
        for index in 0..count {
            let query = &mut self.queries[(first + index) % QUERIES];
            query[..2].copy_from_slice(&port.next_id.wrapping_add(index as u16).to_be_bytes());
            debug_assert!(query.len() <= QUERY_BYTES_MAX);
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            (0..count).map(|index| [IoSlice::new(&self.queries[(first + index) % QUERIES])]).collect();
        let addresses = [None; BATCH];
        let sent = match sendmmsg(
            port.socket.as_raw_fd(),
            &mut self.headers,
            &slices,
            &addresses[..count],
            [],
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(results) => results.count(),
            Err(nix::Error::EAGAIN) => 0,
            Err(error) => return Err(error.into()),
        };
        for index in 0..sent {
            let slot = &mut port.sent[usize::from(port.next_id.wrapping_add(index as u16))];
            // An id comes round after 65,536 queries: what it waited for is lost.
            if slot.replace(stamp(index)).is_some() {
                self.counts.lost += 1;
                port.outstanding -= 1;
            }
        }
        port.next_id = port.next_id.wrapping_add(sent as u16);
        port.outstanding += sent;
        self.cursor = (first + sent) % QUERIES;
        self.counts.sent += sent as u64;
        Ok(())
    }

    fn receive(&mut self, port: &mut Port) -> io::Result<()> {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let lengths: Vec<usize> = match recvmmsg(
            port.socket.as_raw_fd(),
            &mut self.headers,
            &mut slices,
            MsgFlags::MSG_DONTWAIT,
            None,
        ) {
            Ok(results) => results.map(|message| message.bytes).collect(),
            Err(nix::Error::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let now = Instant::now();
        for (buffer, length) in self.buffers.iter().zip(&lengths) {
            let waiting = query::read(&buffer[..*length])
                .and_then(|answer| Some((answer, port.sent[usize::from(answer.id)].take()?)));
            let Some((answer, sent)) = waiting else {
                self.counts.strange += 1;
                continue;
            };
            port.outstanding -= 1;
            self.counts.answered += 1;
            self.counts.noerror += u64::from(answer.rcode == 0);
            self.counts.empty += u64::from(answer.answers == 0);
            self.latency.record(now.saturating_duration_since(sent));
        }
        port.last_heard = now;
        Ok(())
    }

    fn give_up(&mut self, port: &mut Port) {
        port.sent.iter_mut().for_each(|slot| *slot = None);
        self.counts.lost += port.outstanding as u64;
        port.outstanding = 0;
        port.last_heard = Instant::now();
    }

    /// Waits a little for what is still on its way.
    fn drain(&mut self, ports: &mut [Port]) -> io::Result<()> {
        let deadline = Instant::now() + LOST_AFTER;
        while Instant::now() < deadline && ports.iter().any(|port| port.outstanding > 0) {
            for port in ports.iter_mut() {
                self.receive(port)?;
            }
        }
        ports.iter_mut().for_each(|port| self.give_up(port));
        Ok(())
    }

    fn print(&self, seconds: f64, json: bool) {
        let Counts { sent, answered, noerror, empty, strange, lost } = self.counts;
        let micros = |share| self.latency.percentile(share).as_secs_f64() * 1e6;
        let (p50, p99, p999) = (micros(0.5), micros(0.99), micros(0.999));
        if json {
            let report = serde_json::json!({
                "seconds": seconds, "sent": sent, "answered": answered, "noerror": noerror, "empty": empty,
                "strange": strange, "lost": lost, "p50_us": p50, "p99_us": p99, "p999_us": p999,
            });
            println!("{report}");
        } else {
            println!("{sent} sent, {answered} answered ({:.0}/s), {lost} lost", answered as f64 / seconds);
            println!("{noerror} NOERROR, {empty} without an answer record, {strange} not understood");
            println!("latency p50 {p50:.0} us, p99 {p99:.0} us, p99.9 {p999:.0} us");
        }
    }
}
