//! Drills against what strangers do to a front end: slow clients, floods of frames, ambiguous requests, and against
//! what operators do: change everything under load.
//!
//! Each attacks one PoP of a real fleet while other clients go on; not one of their requests may fail. What the attack
//! cost in memory is printed. Success is counted, never timed.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use socket2::{Domain, Socket, Type};

use crate::{
    fleet::{Certificate, Fleet, SOON},
    wait,
};

const HOST: &str = "www.cdn.test";

/// For what takes one of the edge's own deadlines, of at most 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients of an attack: more than any one client may have connections, so they come from several addresses.
const ATTACKERS: usize = 2000;
const ATTACKERS_PER_ADDRESS: usize = 500;

/// What one attacking connection may cost in resident memory, beside what the kernel holds for its socket.
const COST_BYTES_MAX: u64 = 64 << 10;

/// Requests of another client on one connection: fewer than an edge ends connections after.
const REQUESTS_KEPT: u64 = 1000;

/// Requests that other clients must get done during an attack.
const VISITS: u64 = 300;

/// Half-sent heads and half-begun handshakes, thousands of them, a byte now and then.
pub fn slowloris() {
    let mut fleet = Fleet::started();
    let (pid, before) = (fleet.process("fra").pid(), memory(&mut fleet));
    let visitors = Visitors::start(&fleet);
    let mut attackers: Vec<TcpStream> = (0..ATTACKERS)
        .map(|nth| {
            let port = if nth % 4 == 0 { 8443 } else { 8080 };
            let mut stream = from_address(&fleet, nth, port).expect("a connection");
            let start: &[u8] =
                if port == 8443 { b"\x16\x03\x01\x02\x00\x01" } else { b"GET /hello HTTP/1.1\r\nHost: www" };
            stream.write_all(start).expect("the first bytes are taken");
            stream
        })
        .collect();
    wait::until("all attackers are in", SOON, || {
        let open = fleet.metric("fra", "nearside_edge_connections", &[]);
        if open >= ATTACKERS as f64 { Ok(()) } else { Err(open) }
    });
    let peak = resident(pid);
    visitors.go_on(VISITS);
    wait::until("deadlines have ended them all", PATIENCE, || {
        for stream in &mut attackers {
            // Sooner or later the edge has closed it.
            let _closed = stream.write(b"x");
        }
        let ended = turned(&fleet, "head_timeout") + turned(&fleet, "handshake_timeout");
        if ended >= ATTACKERS as f64 { Ok(()) } else { Err(ended) }
    });
    visitors.go_on(VISITS);
    tell("slowloris", visitors.stop(), before, peak, ATTACKERS);
}

/// Clients that ask for a large object and read nothing, or hardly anything.
pub fn slow_readers() {
    let mut fleet = Fleet::new();
    let limits = "\n[pop.fra.limits]\nrate_window = \"2s\"\ndownload_rate_min = \"256KiB\"\n\n[pop.nyc]";
    fleet.edit(&fleet.fleet_file(), "\n[pop.nyc]", limits);
    fleet.start_nodes();
    assert_eq!(fleet.http("fra", "/large").send().status, 200, "it is cached from here on");
    let (pid, before) = (fleet.process("fra").pid(), memory(&mut fleet));
    let visitors = Visitors::start(&fleet);
    let request = format!("GET /large HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut readers: Vec<TcpStream> = (0..ATTACKERS)
        .map(|nth| {
            let mut stream = from_address(&fleet, nth, 8080).expect("a connection");
            stream.write_all(request.as_bytes()).expect("the request is taken");
            stream.set_nonblocking(true).expect("non-blocking");
            stream
        })
        .collect();
    visitors.go_on(VISITS);
    let peak = resident(pid);
    let tricklers = readers.split_off(ATTACKERS / 2);
    let trickle = thread::spawn(move || {
        let mut some = [0; 4096];
        let mut left: Vec<TcpStream> = tricklers;
        let mut cut = 0;
        while !left.is_empty() {
            left.retain_mut(|stream| match stream.read(&mut some) {
                Ok(0) => false,
                Ok(_) => true,
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            });
            cut = ATTACKERS - ATTACKERS / 2 - left.len();
            thread::sleep(Duration::from_millis(20));
        }
        cut
    });
    wait::until("the silent and the slow are cut off", PATIENCE, || {
        let (silent, slow) = (turned(&fleet, "write_stall"), turned(&fleet, "download_rate_min"));
        let most = ATTACKERS as f64 * 0.9;
        if silent + slow >= most { Ok(()) } else { Err(format!("{silent} silent, {slow} slow")) }
    });
    drop(readers);
    visitors.go_on(VISITS);
    assert_eq!(trickle.join().expect("the slow readers end"), ATTACKERS - ATTACKERS / 2);
    tell("slow-readers", visitors.stop(), before, peak, ATTACKERS);
}

/// Floods of HTTP/2 frames: streams reset at once, headers without an end, errors that make the server reset.
pub fn rapid_reset() {
    let mut fleet = Fleet::started();
    let (pid, before) = (fleet.process("fra").pid(), memory(&mut fleet));
    let visitors = Visitors::start(&fleet);
    const CONNECTIONS: usize = 20;
    for (what, flood) in FLOODS {
        for _ in 0..CONNECTIONS {
            let sent = flood(&mut h2(&fleet));
            // None gets anywhere near what it would send: the connection ends first.
            assert!(sent < FRAMES_MAX, "{what}: {sent} frames were taken");
        }
        visitors.go_on(VISITS / 3);
    }
    tell("rapid-reset", visitors.stop(), before, resident(pid), CONNECTIONS);
}

/// What a flood sends if nobody stops it.
const FRAMES_MAX: usize = 100_000;

/// Sends frames until the connection ends; how many were taken.
type Flood = fn(&mut H2) -> usize;

const FLOODS: &[(&str, Flood)] = &[
    ("rapid reset (CVE-2023-44487)", |h2| {
        h2.flood(|nth, bytes| {
            let stream = (2 * nth + 1) as u32;
            frame(bytes, HEADERS, END_HEADERS | END_STREAM, stream, &request_block());
            frame(bytes, RST_STREAM, 0, stream, &8u32.to_be_bytes());
        })
    }),
    ("made you reset (CVE-2025-8671)", |h2| {
        h2.flood(|nth, bytes| {
            let stream = (2 * nth + 1) as u32;
            frame(bytes, HEADERS, END_HEADERS | END_STREAM, stream, &request_block());
            // An increment of zero is a stream error (RFC 9113 section 6.9).
            frame(bytes, WINDOW_UPDATE, 0, stream, &[0; 4]);
        })
    }),
    ("headers without an end", |h2| {
        h2.flood(|nth, bytes| match nth {
            0 => frame(bytes, HEADERS, END_STREAM, 1, &request_block()),
            // Literal fields without indexing, a kilobyte each.
            _ => frame(bytes, CONTINUATION, 0, 1, &literal_field(1000)),
        })
    }),
    ("headers without an end or a field", |h2| {
        h2.flood(|nth, bytes| match nth {
            0 => frame(bytes, HEADERS, END_STREAM, 1, &request_block()),
            _ => frame(bytes, CONTINUATION, 0, 1, &[]),
        })
    }),
];

/// Requests that two readers could take apart differently: each is refused or read one way, and what was hidden in it
/// never reaches the origin. Responses, likewise: a client gets an error, and the next one its own answer.
pub fn smuggling_table() {
    let mut fleet = Fleet::new();
    let ambiguous = ambiguous_origin(&fleet);
    let file = fleet.fleet_file();
    let site = format!(
        "[site.ambiguous]\nhosts = [\"{AMBIGUOUS}\"]\norigin = \"http://{ambiguous}\"\n\n[controller]"
    );
    fleet.edit(&file, "[controller]", &site);
    fleet.start_nodes();
    let visitors = Visitors::start(&fleet);
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: www.cdn.test\r\n\r\n";
    let post = |fields: &str, rest: &str| {
        format!("POST /uncacheable HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n{rest}")
    };
    let get = |line: &str, fields: &str| format!("{line}\r\nHost: {HOST}\r\n{fields}\r\n{hidden}");
    let line = "GET /uncacheable HTTP/1.1";
    let table = [
        (
            "length and encoding",
            post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{hidden}")),
        ),
        (
            "encoding and length",
            post("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", &format!("0\r\n\r\n{hidden}")),
        ),
        ("two lengths", post("Content-Length: 0\r\nContent-Length: 48\r\n", hidden)),
        ("a list of lengths", post("Content-Length: 0, 48\r\n", hidden)),
        ("a signed length", post("Content-Length: +0\r\n", hidden)),
        ("a length in hex", post("Content-Length: 0x0\r\n", hidden)),
        ("a length with a space", post("Content-Length: 4 8\r\n", hidden)),
        ("an empty length", post("Content-Length:\r\n", hidden)),
        ("an encoding that is not chunked", post("Transfer-Encoding: xchunked\r\n", hidden)),
        (
            "chunked, then identity",
            post("Transfer-Encoding: chunked, identity\r\n", &format!("0\r\n\r\n{hidden}")),
        ),
        (
            "chunked twice",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                &format!("0\r\n\r\n{hidden}"),
            ),
        ),
        (
            "an encoding with a vertical tab",
            post("Transfer-Encoding: \x0bchunked\r\n", &format!("0\r\n\r\n{hidden}")),
        ),
        ("a space before the colon", post("Transfer-Encoding : chunked\r\n", &format!("0\r\n\r\n{hidden}"))),
        ("a folded field", post("X: y\r\n Transfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{hidden}"))),
        ("a bare line feed", post("X: y\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{hidden}"))),
        (
            "a bare carriage return",
            post("X: y\rTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{hidden}")),
        ),
        ("a NUL", post("X: y\0z\r\n", hidden)),
        ("a chunk size with a sign", post("Transfer-Encoding: chunked\r\n", &format!("+0\r\n\r\n{hidden}"))),
        (
            "a chunk size past 64 bits",
            post("Transfer-Encoding: chunked\r\n", &format!("10000000000000000\r\n\r\n{hidden}")),
        ),
        (
            "a chunk that ends in a line feed",
            post("Transfer-Encoding: chunked\r\n", &format!("1\nx\r\n0\r\n\r\n{hidden}")),
        ),
        (
            "an encoding in 1.0",
            format!(
                "POST /uncacheable HTTP/1.0\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        ("two hosts", get(line, "Host: elsewhere.test\r\n")),
        ("no version", get("GET /uncacheable", "")),
        ("a version of the future", get("GET /uncacheable HTTP/9.9", "")),
        ("two spaces", get("GET  /uncacheable HTTP/1.1", "")),
        ("a request line with a bare carriage return", get("GET /uncacheable\rHTTP/1.1", "")),
    ];
    let cases = table.len();
    for (what, request) in table {
        let answer = talk(fleet.at("fra", 8080), request.as_bytes());
        assert!(
            answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5") || answer.is_empty(),
            "{what}: {answer}"
        );
        assert_eq!(
            answer.matches("HTTP/1.1 ").count().max(1),
            1,
            "{what}: the connection ends there\n{answer}"
        );
        assert_eq!(fleet.origin.of("/smuggled"), 0, "{what}: it reached the origin");
    }
    ask_ambiguous_origin(&fleet);
    visitors.go_on(VISITS / 3);
    let done = visitors.stop();
    println!(
        "smuggling-table: {cases} requests and {} responses refused, {done} requests of others served",
        RESPONSES.len()
    );
}

/// The site whose origin answers ambiguously.
const AMBIGUOUS: &str = "ambiguous.cdn.test";

/// What follows each of its answers on the same connection: whoever takes it for one was fooled.
const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nCache-Control: max-age=60\r\n\r\npoison";

/// Answers that two readers could take apart differently.
const RESPONSES: &[(&str, &str)] = &[
    (
        "length and encoding",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        "encoding and length",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ),
    ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi"),
    ("one length twice", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi"),
    ("a signed length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi"),
    ("a length in words", "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nhi"),
    ("another encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("an encoding in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi"),
    ("a NUL", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nhi"),
    ("a folded field", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nhi"),
    ("a space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi"),
    ("no HTTP at all", "SSH-2.0-OpenSSH_9.2\r\n"),
];

/// Each answer is an error to the client, is not kept, and leaves nothing for who asks next.
fn ask_ambiguous_origin(fleet: &Fleet) {
    let ask = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {AMBIGUOUS}\r\nConnection: close\r\n\r\n");
        talk(fleet.at("fra", 8080), request.as_bytes())
    };
    for (number, (what, _)) in RESPONSES.iter().enumerate() {
        for turn in ["first", "again"] {
            let answer = ask(&format!("/response/{number}"));
            assert!(answer.starts_with("HTTP/1.1 502 "), "{what}, {turn}: {answer}");
            assert!(!answer.contains("poison"), "{what}, {turn}: {answer}");
            let next = ask(&format!("/fine/{number}/{turn}"));
            let own = format!("fine /fine/{number}/{turn}");
            assert!(next.starts_with("HTTP/1.1 200 ") && next.ends_with(&own), "after {what}: {next}");
        }
    }
    let failures = fleet.metric("fra", "nearside_edge_origin_failures_total", &["site=\"ambiguous\""]);
    assert_eq!(
        failures,
        2.0 * RESPONSES.len() as f64,
        "the origin was asked each time, and each answer was counted"
    );
    // Clear in itself: what comes after it is nobody's.
    for turn in 0..4 {
        let path = format!("/followed/{turn}");
        let answer = ask(&path);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&format!("fine {path}")), "{answer}");
    }
}

/// Answers `/response/N` with the Nth of [`RESPONSES`] and what poisons, `/followed/…` properly and with what poisons,
/// the rest properly; keeps its connections. Gives its address.
fn ambiguous_origin(fleet: &Fleet) -> SocketAddr {
    let address = fleet.block.socket(32, 9000);
    let listener = TcpListener::bind(address).expect("the origin's address is free");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // An edge that goes away is its own business.
            thread::spawn(move || drop(answer_ambiguously(stream)));
        }
    });
    address
}

fn answer_ambiguously(mut stream: TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(line) = lines.next() {
        let line = line?;
        for field in lines.by_ref() {
            if field?.is_empty() {
                break;
            }
        }
        let path = line.split(' ').nth(1).unwrap_or_default();
        let number = path.strip_prefix("/response/").and_then(|number| number.parse::<usize>().ok());
        let fine = format!("fine {path}");
        let proper = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\r\n{fine}",
            fine.len()
        );
        let answer = match number.and_then(|number| RESPONSES.get(number)) {
            Some((_, bytes)) => format!("{bytes}{POISON}"),
            None if path.starts_with("/followed/") => proper + POISON,
            None => proper,
        };
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// Sites, origins' settings, limits and certificates change without pause under load; no request is lost.
pub fn config_swap_storm() {
    let mut fleet = Fleet::started();
    let visitors = Visitors::start(&fleet);
    const ROUNDS: u32 = 12;
    let file = fleet.fleet_file();
    for round in 1..=ROUNDS {
        let reloads = fleet.metric("fra", "nearside_node_reloads_total", &[]);
        let text = std::fs::read_to_string(&file).expect("the fleet file");
        let text = text.split("\n# storm\n").next().expect("what was there before").to_owned();
        let origin = fleet.origin_address();
        let storm = format!(
            "\n# storm\n[site.storm]\nhosts = [\"round-{round}.cdn.test\"]\n[site.storm.origin]\nurl = \"http://{origin}\"\n\
             connections_max = {}\nfirst_byte_timeout = \"{}s\"\n[site.storm.limits]\nrequests_max = {}\n\
             [pop.fra.limits]\nconnections_max = {}\ndownload_rate_min = \"{round}\"\n",
            10 + round,
            20 + round,
            50 + round,
            1000 + round
        );
        let new = file.with_extension("new");
        std::fs::write(&new, text + &storm).expect("a file");
        std::fs::rename(new, &file).expect("a rename");
        if round % 2 == 0 {
            fleet.write_certificate(Certificate::Good);
        }
        wait::until("the change is live", SOON, || {
            let now = fleet.metric("fra", "nearside_node_reloads_total", &[]);
            let host = format!("round-{round}.cdn.test");
            let answer = get_plain(fleet.at("fra", 8080), &host, "/hello");
            if now > reloads && answer.as_ref().is_ok_and(|status| *status == 200) {
                return Ok(());
            }
            Err(format!("{reloads} → {now}, {answer:?}"))
        });
        visitors.go_on(20);
    }
    let refused = fleet.metric("fra", "nearside_node_reloads_refused_total", &[]);
    let done = visitors.stop();
    assert!(fleet.process("fra").runs());
    println!(
        "config-swap-storm: {ROUNDS} changes, {done} requests, none lost ({refused} states refused on the way)"
    );
}

/// Makes requests until told to stop, counting them.
type Visit = Box<dyn Fn(&AtomicBool, &AtomicU64) + Send>;

/// Other clients: two over plain HTTP, two over TLS, one of each keeping its connection.
struct Visitors {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Visitors {
    fn start(fleet: &Fleet) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (plain, secure) = (fleet.at("fra", 8080), fleet.at("fra", 8443));
        let tls = Arc::new(client(fleet, &[b"http/1.1"]));
        let visit = |visit: Visit| {
            let (stop, done) = (stop.clone(), done.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    visit(&stop, &done);
                }
            })
        };
        let once = |done: &AtomicU64, status: io::Result<u16>| {
            assert_eq!(status.expect("an answer"), 200);
            done.fetch_add(1, Ordering::Relaxed);
        };
        let fresh_tls = tls.clone();
        let threads = vec![
            visit(Box::new(move |_, done| once(done, get_plain(plain, HOST, "/hello")))),
            visit(Box::new(move |_, done| {
                let mut stream = connect_tls(secure, &fresh_tls).expect("a handshake");
                once(done, get(&mut stream, HOST, "/hello"));
            })),
            visit(Box::new(move |stop, done| {
                let mut stream = TcpStream::connect(plain).expect("a connection");
                for _ in (0..REQUESTS_KEPT).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    once(done, get(&mut stream, HOST, "/hello"));
                }
            })),
            visit(Box::new(move |stop, done| {
                let mut stream = connect_tls(secure, &tls).expect("a handshake");
                for _ in (0..REQUESTS_KEPT).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    once(done, get(&mut stream, HOST, "/hello"));
                }
            })),
        ];
        Visitors { stop, done, threads }
    }

    /// Returns when they have got so many more requests done.
    fn go_on(&self, more: u64) {
        let from = self.done.load(Ordering::Relaxed);
        wait::until("other clients go on", PATIENCE, || {
            assert!(self.threads.iter().all(|thread| !thread.is_finished()), "a request of theirs failed");
            let done = self.done.load(Ordering::Relaxed);
            if done >= from + more { Ok(()) } else { Err(done) }
        });
    }

    /// Ends them; how many requests they got done, all of them well.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("not one request of theirs failed");
        }
        self.done.load(Ordering::Relaxed)
    }
}

/// Prints what an attack cost, and holds it to its bound.
fn tell(what: &str, done: u64, before: u64, peak: u64, attackers: usize) {
    let grown = peak.saturating_sub(before);
    // The allocator keeps some of what other clients used, whatever the attack does.
    let bound = attackers as u64 * COST_BYTES_MAX + (32 << 20);
    println!(
        "{what}: {done} requests of others, none failed; memory grew by {} KiB ({} KiB before) for {attackers} attackers, bound {} KiB",
        grown >> 10,
        before >> 10,
        bound >> 10
    );
    assert!(grown <= bound, "{what}: memory grew by {grown} bytes, at most {bound} may be");
}

fn turned(fleet: &Fleet, limit: &str) -> f64 {
    fleet.metric("fra", "nearside_edge_turned_away_total", &[&format!("limit=\"{limit}\"")])
}

/// Resident memory of the attacked edge, once it is warm.
fn memory(fleet: &mut Fleet) -> u64 {
    for _ in 0..20 {
        assert_eq!(get_plain(fleet.at("fra", 8080), HOST, "/hello").expect("an answer"), 200);
    }
    resident(fleet.process("fra").pid())
}

/// Resident memory of a process, bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// A connection of the `nth` attacker, with a small receive buffer.
fn from_address(fleet: &Fleet, nth: usize, port: u16) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let address: IpAddr = fleet.block.ip(100 + u8::try_from(nth / ATTACKERS_PER_ADDRESS).unwrap_or(0));
    socket.set_recv_buffer_size(4096)?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    socket.connect(&fleet.at("fra", port).into())?;
    Ok(socket.into())
}

fn get_plain(at: SocketAddr, host: &str, path: &str) -> io::Result<u16> {
    get(&mut TcpStream::connect(at)?, host, path)
}

/// One GET on a connection that stays usable: the status.
fn get(stream: &mut (impl Read + Write), host: &str, path: &str) -> io::Result<u16> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    stream.flush()?;
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)])?;
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| io::Error::other(text))
}

/// Sends bytes and reads until the end, or until nothing more comes.
fn talk(at: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    // The edge may have refused it, and closed, before all of it was sent.
    let _sent = stream.write_all(bytes);
    let _ended = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _cut = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn client(fleet: &Fleet, alpn: &[&[u8]]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(fleet.path("tls/ca.pem")).expect("the fleet's test CA");
    roots.add(ca).expect("a CA");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.expect("TLS 1.2 and 1.3").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn connect_tls(at: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Tls> {
    let name = ServerName::try_from(HOST).expect("a name");
    let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, TcpStream::connect(at)?);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// An HTTP/2 connection whose frames are written by hand.
struct H2(Tls);

fn h2(fleet: &Fleet) -> H2 {
    let mut tls =
        connect_tls(fleet.at("fra", 8443), &Arc::new(client(fleet, &[b"h2"]))).expect("a handshake");
    tls.sock.set_write_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut start, SETTINGS, 0, 0, &[]);
    tls.write_all(&start).expect("the preface is taken");
    H2(tls)
}

impl H2 {
    /// Sends what `next` makes, again and again, and reads whatever comes; how many were taken.
    fn flood(&mut self, next: impl Fn(usize, &mut Vec<u8>)) -> usize {
        for nth in 0..FRAMES_MAX {
            let mut bytes = Vec::new();
            next(nth, &mut bytes);
            if self.0.write_all(&bytes).and_then(|()| self.0.flush()).is_err() {
                return nth;
            }
            // What the edge says must not stop it from reading on; when it says GOAWAY, it is over.
            self.0.sock.set_nonblocking(true).expect("non-blocking");
            let mut some = [0; 16 << 10];
            let read = self.0.read(&mut some);
            self.0.sock.set_nonblocking(false).expect("blocking");
            match read {
                Ok(0) => return nth,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return nth,
            }
        }
        FRAMES_MAX
    }
}

/// Frame types and flags (RFC 9113 section 6).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a frame is small").to_be_bytes();
    bytes.extend_from_slice(&length[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// GET https://www.cdn.test/ in HPACK: three fields of the static table and the authority as a literal.
fn request_block() -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x84, 0x01, u8::try_from(HOST.len()).expect("a short name")];
    block.extend(HOST.bytes());
    block
}

/// `x: aaa…` as a literal without indexing, a new name.
fn literal_field(bytes: u16) -> Vec<u8> {
    let mut block = vec![0x00, 1, b'x', 0x7f];
    let mut rest = bytes - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    block.push(rest as u8);
    block.extend(std::iter::repeat_n(b'a', usize::from(bytes)));
    block
}
