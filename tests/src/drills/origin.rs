//! Drills that the origins of a site cause: one dies, hangs, answers 500, and comes back, all under load.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    curl,
    fleet::{Fleet, SOON},
    process, wait,
};

/// Last byte of the origins' addresses; the first is preferred.
const ORIGINS: [u8; 3] = [31, 32, 33];
/// In the place of an origin's number: all of the site.
const SITE: usize = ORIGINS.len();
/// Requests at once: as many may be under way at an origin when it dies.
const CLIENTS: usize = 8;
/// Requests in each phase.
const PHASE: u64 = 300;

/// What the clients saw.
#[derive(Default)]
struct Seen {
    good: AtomicU64,
    /// Broken off after the head had come: can't be repeated.
    cut: AtomicU64,
    bad: AtomicU64,
}

struct Drill {
    fleet: Fleet,
    seen: Arc<Seen>,
    /// Tells the clients to end.
    stop: Arc<AtomicBool>,
}

impl Drop for Drill {
    /// Where the drill fails, too.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Three real origins; the preferred one is killed, stopped, made to fail, and recovers each time.
pub fn failover() {
    let mut drill = Drill::start();
    let address = drill.edge();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (stop, seen) = (drill.stop.clone(), drill.seen.clone());
            thread::spawn(move || ask_until(client, address, &stop, &seen))
        })
        .collect();
    let started = Instant::now();
    drill.go_on("all are well");
    assert_eq!(drill.metric("origin_circuit_closed", 0), 1.0);

    drill.fleet.process("origin-0").kill();
    drill.go_on("the first is dead");
    drill.wait("its circuit is open", |drill| drill.metric("origin_circuit_closed", 0) == 0.0);
    drill.start_origin(0);
    drill.wait_well();

    drill.fleet.process("origin-0").signal("STOP");
    drill.go_on("the first hangs");
    drill.wait("its circuit is open", |drill| drill.metric("origin_circuit_closed", 0) == 0.0);
    drill.fleet.process("origin-0").signal("CONT");
    drill.wait_well();

    let ejections = drill.metric("origin_ejections_total", SITE);
    drill.tell_origin(0, "/_fail");
    drill.go_on("the first answers 500");
    drill.wait("it is ejected for that", |drill| {
        drill.metric("origin_ejections_total", SITE) > ejections && drill.metric("origin_ejected", 0) == 1.0
    });
    drill.tell_origin(0, "/_mend");
    drill.wait_well();

    drill.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client ends");
    }
    drill.judge(started.elapsed());
}

impl Drill {
    fn start() -> Drill {
        let fleet = Fleet::new();
        let mut origins = String::new();
        for (number, last) in ORIGINS.into_iter().enumerate() {
            origins += &format!(
                "[[site.www.origin]]\nname = \"origin-{number}\"\nurl = \"http://{}\"\nfirst_byte_timeout = \"500ms\"\n",
                fleet.block.socket(last, 9000),
            );
        }
        let balance = "[site.www.balance]\nfailover_on = [\"connect\", \"timeout\", \"closed\", \"5xx\"]\n\
                       circuit = { open = \"200ms\", open_max = \"1s\" }\neject = { time = \"500ms\" }\n\n[controller]";
        let file = fleet.fleet_file();
        let only = format!("origin = \"http://{}\"\n", fleet.block.socket(30, 9000));
        fleet.edit(&file, &only, "");
        fleet.edit(&file, "[controller]", &format!("{origins}{balance}"));
        let mut drill = Drill { fleet, seen: Arc::default(), stop: Arc::default() };
        for number in 0..ORIGINS.len() {
            drill.start_origin(number);
        }
        drill.fleet.start("fra");
        drill.fleet.wait_serving("fra");
        drill
    }

    fn edge(&self) -> SocketAddr {
        self.fleet.block.socket(21, 8080)
    }

    fn origin(&self, number: usize) -> SocketAddr {
        self.fleet.block.socket(ORIGINS[number], 9000)
    }

    fn start_origin(&mut self, number: usize) {
        let at = self.origin(number);
        let mut command = Command::new(process::binary("demo-origin"));
        self.fleet.run(&format!("origin-{number}"), command.arg(at.to_string()));
        wait::until("the origin listens", SOON, || TcpStream::connect(at).map(drop));
    }

    fn tell_origin(&self, number: usize, path: &str) {
        let told = curl::Request::at(self.origin(number), "http", "o.test", path).send();
        assert_eq!(told.status, 200, "{told:?}");
    }

    /// Of one origin, or of the [`SITE`].
    fn metric(&self, name: &str, number: usize) -> f64 {
        let label = format!("origin=\"origin-{number}\"");
        let labels: &[&str] = if number < SITE { &[&label] } else { &[] };
        self.fleet.metric("fra", &format!("nearside_edge_{name}"), labels)
    }

    fn wait(&self, what: &str, holds: impl Fn(&Drill) -> bool) {
        wait::until(what, SOON, || {
            let origins =
                curl::Request::socket(&self.fleet.state_dir("fra").join("control.sock"), "/v1/origins");
            if holds(self) { Ok(()) } else { Err(origins.send().body) }
        });
        eprintln!("origin-failover: {what}");
    }

    /// The preferred origin has a closed circuit, is not left out, and is what is asked first.
    fn wait_well(&self) {
        self.wait("it is found again", |drill| drill.metric("origin_circuit_closed", 0) == 1.0);
        self.wait("it is not left out", |drill| drill.metric("origin_ejected", 0) == 0.0);
        self.wait("and preferred", Drill::prefers_first);
    }

    fn prefers_first(&self) -> bool {
        let before = self.metric("origin_requests_total", 0);
        let good = self.seen.good.load(Ordering::SeqCst);
        wait::until("some more are served", SOON, || {
            if self.seen.good.load(Ordering::SeqCst) >= good + 50 { Ok(()) } else { Err("not yet") }
        });
        self.metric("origin_requests_total", 0) >= before + 25.0
    }

    /// Lets the clients go on for a phase.
    fn go_on(&self, what: &str) {
        let good = self.seen.good.load(Ordering::SeqCst);
        wait::until(what, SOON, || {
            assert_eq!(self.seen.bad.load(Ordering::SeqCst), 0, "{what}: clients saw errors");
            match self.seen.good.load(Ordering::SeqCst) {
                now if now >= good + PHASE => Ok(()),
                now => Err(format!("{} of {PHASE}", now - good)),
            }
        });
        eprintln!("origin-failover: {what}: {PHASE} requests, no error");
    }

    fn judge(&self, took: Duration) {
        let [good, cut, bad] =
            [&self.seen.good, &self.seen.cut, &self.seen.bad].map(|count| count.load(Ordering::SeqCst));
        let asked: f64 = (0..ORIGINS.len()).map(|number| self.metric("origin_requests_total", number)).sum();
        let failovers = self.metric("origin_failovers_total", SITE);
        let forbidden = self.metric("origin_failovers_forbidden_total", SITE);
        eprintln!(
            "origin-failover: {good} served, {cut} cut, {bad} errors; {asked} requests to origins, {failovers} failovers, \
             {forbidden} forbidden"
        );
        assert_eq!(bad, 0, "clients saw errors");
        assert!(cut <= CLIENTS as u64, "{cut} cut: more than were under way at the kill");
        // A tenth, the floor, what was saved up; connections that were refused are requests that were not sent.
        let bound = (good + cut) as f64 * 1.1 + 3.0 * (took.as_secs_f64() + 10.0) + 100.0;
        assert!(asked <= bound, "{asked} requests to origins for {good} of clients");
    }
}

/// Asks for a page after the other that nobody has asked for.
fn ask_until(client: usize, edge: SocketAddr, stop: &AtomicBool, seen: &Seen) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let path = format!("/page/{client}/{number}");
        let answer = ask(edge, &path);
        let count = match answer.as_deref().map(|text| judge_answer(&path, text)) {
            Ok(Answer::Good) => &seen.good,
            Ok(Answer::Cut) => &seen.cut,
            _ => {
                eprintln!("origin-failover: {path}: {answer:?}");
                &seen.bad
            }
        };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

enum Answer {
    Good,
    Cut,
    Bad,
}

/// Good is the whole page of this path and no other; cut is the beginning of it.
fn judge_answer(path: &str, text: &str) -> Answer {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Answer::Bad };
    let expected = format!("Hello from the origin: {path}, fetch number ");
    match body.strip_prefix(&expected) {
        _ if !head.starts_with("HTTP/1.1 200 ") => Answer::Bad,
        Some(number) if number.ends_with('\n') => Answer::Good,
        Some(_) => Answer::Cut,
        None if expected.starts_with(body) => Answer::Cut,
        None => Answer::Bad,
    }
}

fn ask(edge: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(edge)?;
    stream.set_read_timeout(Some(SOON))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: www.cdn.test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // A body that is cut short shows in what is missing of it.
    let _ended = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
