//! A real `nearside-dns` on loopback addresses of its own, and real clients for it.
//!
//! Each [`Fleet`] takes a random 127.a.b.0/24, so that tests run in parallel on fixed ports.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{
        Name, RecordType,
        rdata::opt::{ClientSubnet, EdnsCode, EdnsOption},
    },
};
use tempfile::TempDir;

/// Long enough for a loaded machine, short enough to fail a test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `check` holds, or fails saying what did not come true.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A fleet file, its zone, and the addresses they use.
pub struct Fleet {
    pub dir: TempDir,
    net: String,
}

impl Fleet {
    /// Three PoPs with `http` checks on port 8080, networks placed by hand beside them, each with a
    /// neighbour elsewhere, so that its scope is its own length.
    pub fn new() -> Fleet {
        let net = format!("127.{}.{}", fastrand::u8(1..=254), fastrand::u8(1..=254));
        let fleet = Fleet { dir: tempfile::tempdir().unwrap(), net };
        fleet.write_zone("192.0.2.80", 7);
        fleet.write_fleet("");
        fleet
    }

    pub fn ip(&self, last: u8) -> IpAddr {
        format!("{}.{last}", self.net).parse().unwrap()
    }

    pub fn dns(&self) -> SocketAddr {
        SocketAddr::new(self.ip(1), 5353)
    }

    pub fn pop(&self, name: &str) -> IpAddr {
        self.ip(match name {
            "fra" => 10,
            "nyc" => 20,
            "sin" => 30,
            other => panic!("no PoP {other}"),
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn fleet_file(&self) -> PathBuf {
        self.path("nearside.toml")
    }

    /// Writes the fleet file, with `more` at its end.
    pub fn write_fleet(&self, more: &str) {
        let [dns, fra, nyc, sin] =
            [self.ip(1), self.pop("fra"), self.pop("nyc"), self.pop("sin")].map(|ip| ip.to_string());
        let text = format!(
            r#"
version = 1
fleet = "test"

[[geoip.network]]
network = "203.0.113.0/24"
country = "DE"
location = [50.1, 8.7]

[[geoip.network]]
network = "203.0.112.0/24"
country = "US"
location = [40.7, -74.0]

[[geoip.network]]
network = "198.51.100.128/25"
country = "DE"
location = [50.1, 8.7]

[[geoip.network]]
network = "2001:db8:4::/48"
country = "DE"
location = [50.1, 8.7]

[[geoip.network]]
network = "198.51.100.0/25"
country = "US"
location = [40.7, -74.0]

[[geoip.network]]
network = "2001:db8:5::/48"
country = "SG"
location = [1.3, 103.8]

[pop.fra]
location = [50.11, 8.68]
ipv4 = "{fra}"
ipv6 = "2001:db8:f::1"

[pop.nyc]
location = [40.71, -74.01]
ipv4 = "{nyc}"

[pop.sin]
location = [1.35, 103.82]
ipv4 = "{sin}"
ipv6 = "2001:db8:51::1"

[dns.ns1]
listen = "{dns}:5353"
control = "{dns}:8953"
workers = 2

[check.web]
type = "http"
port = 8080
path = "/health"
family = "ipv4"
interval = "200ms"
timeout = "100ms"
rise = 2
fall = 2

[service.www]
strategy = "nearest"
checks = "web"
ttl = {{ min = "1s", max = "1m" }}

[zone."cdn.test"]
file = "cdn.test.zone"
names = {{ "@" = "www", "www" = "www" }}
{more}"#
        );
        replace(&self.fleet_file(), &text);
    }

    /// Writes the zone with one static address at `static.cdn.test`.
    pub fn write_zone(&self, address: &str, serial: u32) {
        let ns = self.ip(1);
        let text = format!(
            "$ORIGIN cdn.test.\n$TTL 300\n\
             @ SOA ns1 hostmaster {serial} 3600 600 604800 60\n@ NS ns1\nns1 A {ns}\n\
             static A {address}\ntext TXT \"one\" \"two\"\n*.wild A 192.0.2.99\n"
        );
        replace(&self.path("cdn.test.zone"), &text);
    }

    /// Writes the zone without that name.
    pub fn write_zone_without_static(&self, serial: u32) {
        self.write_zone("192.0.2.1", serial);
        let path = self.path("cdn.test.zone");
        let text = fs::read_to_string(&path).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("static")).collect();
        replace(&path, &(kept.join("\n") + "\n"));
    }

    /// Starts the server and waits until it says that it serves.
    pub fn start(&self) -> Node {
        let node = self.spawn();
        node.wait_log("serving DNS over UDP and TCP");
        node
    }

    /// Starts the server.
    pub fn spawn(&self) -> Node {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nearside-dns"))
            .args(["serve", "--node", "ns1", "--fleet"])
            .arg(self.fleet_file())
            .arg("--state-dir")
            .arg(self.path("state"))
            .env("NO_COLOR", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let pipes: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for pipe in pipes {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let (text, heard) = &*log;
                    let mut text = text.lock().unwrap();
                    text.push_str(&line);
                    text.push('\n');
                    heard.notify_all();
                }
            });
        }
        Node { child, log, dns: self.dns(), socket: self.path("state").join("control.sock") }
    }

    /// A healthy PoP.
    pub fn serve_pop(&self, name: &str) -> Pop {
        Pop::start(SocketAddr::new(self.pop(name), 8080))
    }
}

/// Replaces a file as editors and rsync do: by renaming a new one over it.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// A running server; killed when dropped.
pub struct Node {
    pub child: Child,
    log: Arc<(Mutex<String>, Condvar)>,
    pub dns: SocketAddr,
    socket: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of the server ---\n{}", self.log());
        }
    }
}

impl Node {
    pub fn log(&self) -> String {
        self.log.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn wait_log(&self, part: &str) {
        let (text, heard) = &*self.log;
        let deadline = Instant::now() + PATIENCE;
        let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
        while !text.contains(part) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !text.contains("ERROR nothing to serve"),
                "the log never said `{part}`"
            );
            text = heard.wait_timeout(text, left.min(Duration::from_millis(200))).unwrap().0;
        }
    }

    /// Waits for the end by itself.
    pub fn wait_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// One request through the control socket: status and body.
    pub fn control(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        // The doors open after the server began to answer.
        let mut connected = None;
        eventually("a control socket", || {
            connected = UnixStream::connect(&self.socket).ok();
            connected.is_some()
        });
        let mut stream = connected.unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Sum of all samples of a metric whose line contains every part.
    pub fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        let (status, text) = self.control("GET", "/metrics", "");
        assert_eq!(status, 200, "{text}");
        let lines = text
            .lines()
            .filter(|line| line.starts_with(name) && parts.iter().all(|part| line.contains(part)));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Asks over UDP, three times before giving up.
    pub fn ask(&self, name: &str, rtype: RecordType, subnet: Option<(&str, u8)>) -> Message {
        let query = query(fastrand::u16(..), name, rtype, subnet);
        let socket = UdpSocket::bind((self.dns.ip(), 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.connect(self.dns).unwrap();
        let mut room = [0; 4096];
        for _ in 0..3 {
            socket.send(&query).unwrap();
            if let Ok(bytes) = socket.recv(&mut room) {
                return Message::from_vec(&room[..bytes]).unwrap();
            }
        }
        panic!("no answer for {name} {rtype}")
    }

    /// The addresses of an A or AAAA answer.
    pub fn addresses(&self, name: &str, rtype: RecordType, subnet: Option<(&str, u8)>) -> Vec<IpAddr> {
        addresses(&self.ask(name, rtype, subnet))
    }

    /// A connection over TCP.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.dns).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

/// A query in wire form, with EDNS if there is a subnet.
pub fn query(id: u16, name: &str, rtype: RecordType, subnet: Option<(&str, u8)>) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = false;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), rtype));
    if let Some((address, length)) = subnet {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(address.parse().unwrap(), length, 0)));
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

pub fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

/// Scope of the answer; `None` if it has no client subnet.
pub fn scope(message: &Message) -> Option<u8> {
    match message.edns.as_ref()?.option(EdnsCode::Subnet)? {
        EdnsOption::Subnet(subnet) => Some(subnet.scope_prefix()),
        _ => None,
    }
}

/// Writes a message with its length before it.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    framed
}

/// Reads one framed message.
pub fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// An HTTP server that answers 200 to everything until it is dropped.
pub struct Pop {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Pop {
    pub fn start(address: SocketAddr) -> Pop {
        let listener = TcpListener::bind(address).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let mut request = [0; 2048];
                let _ = stream.read(&mut request);
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n");
            }
        });
        Pop { address, stop, thread: Some(thread) }
    }
}

impl Drop for Pop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
