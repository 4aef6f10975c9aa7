//! Conformance scripts: one line per exchange, run against the real `nearside-edge` from outside.
//!
//! A case is a title and lines. Each line says what the client sends, what the origin answers
//! should it be asked, and what the client must get:
//!
//! ```text
//! GET | Accept: a/b -> 200 | Cache-Control: max-age=60 => #1 | !Age
//! GET => #1 | Age: 0
//! ```
//!
//! Without `->` the origin must not be asked; with it, it must be. `~>` is a request that the edge makes behind
//! the client's back. After `=>`: `#n` is the body of the case's n-th origin answer, a number is a status
//! (else 200, or the origin's own status where it is asked), `Name: value` a field that must be there, `Name` one that must be there with any
//! value, `!Name` one that must not, `Name ~ text` one that holds the text, `saw Name: value` and `saw !Name`
//! speak of the request the origin got. `@body text` is a body; as an answer, `@raw text` is everything the
//! origin sends before it closes, `@close` closes without an answer, `@short n` declares n bytes more than it
//! sends, `@until-close` declares no length, `@chunked` frames by chunks, `@cut` leaves out the last one. `{now-60}` is an HTTP-date, `{base}` the case's path, `{host}` the authority.
//! `@absolute http://host GET` sends the target in absolute form.
//! Each case has a path of its own, so that cases share an edge and nothing else.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a harness fails by panicking")]

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use tempfile::TempDir;

/// Longest anything may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest message read.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// The host of the one site.
const HOST: &str = "conformance.test";

/// An edge and its origin. Both end with it.
pub struct Bench {
    edge: Child,
    address: SocketAddr,
    metrics: SocketAddr,
    origin: Arc<Origin>,
    cases: AtomicUsize,
    _dir: TempDir,
}

/// A name and a value.
type Field = (String, String);
type Fields = Vec<Field>;

#[derive(Default)]
struct Origin {
    cases: Mutex<HashMap<String, Stage>>,
}

/// What the origin knows of one case.
#[derive(Default)]
struct Stage {
    next: Option<Answer>,
    answered: usize,
    seen: Vec<Message>,
}

#[derive(Clone, Default)]
struct Answer {
    status: u16,
    fields: Fields,
    marks: HashMap<String, String>,
}

/// A request or a response.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Request line or status line.
    pub line: String,
    /// As received.
    pub fields: Fields,
    /// Without framing; what came of it.
    pub body: String,
    /// Whether the body came whole.
    pub whole: bool,
    /// Fields behind the body.
    pub trailers: Fields,
    /// Status lines of interim responses before it, each with its fields.
    pub interim: Vec<String>,
}

impl Message {
    /// All values of a field, joined as a list.
    pub fn field(&self, name: &str) -> Option<String> {
        let same = self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let values: Vec<&str> = same.map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The status of a response.
    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

impl Bench {
    /// Starts both, with `rules` as the site's cache settings in the fleet file's own syntax.
    pub fn with(rules: &str) -> Bench {
        // Tests run as processes: an address of this process is an address of this test's.
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let own = Ipv4Addr::new(127, 64 | (a & 63), b, c.max(1));
        let listener = TcpListener::bind((own, 0)).unwrap();
        let origin = Arc::new(Origin::default());
        let origin_address = listener.local_addr().unwrap();
        let answering = origin.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let origin = answering.clone();
                thread::spawn(move || origin.serve(stream));
            }
        });
        let address = TcpListener::bind((own, 0)).unwrap().local_addr().unwrap();
        let metrics = TcpListener::bind((own, 0)).unwrap().local_addr().unwrap();
        let dir = TempDir::new().unwrap();
        let fleet = format!(
            "version = 1\nfleet = \"conformance\"\n[pop.one]\nlocation = [50.0, 8.0]\nhttp = \"{address}\"\nmetrics = \"{metrics}\"\n\
             workers = 1\nmemory = \"64MiB\"\n[site.www]\nhosts = \"{HOST}\"\norigin = \"http://{origin_address}\"\n\
             [site.www.cache]\n{rules}\n"
        );
        let file = dir.path().join("nearside.toml");
        std::fs::write(&file, fleet).unwrap();
        let edge = Command::new(env!("CARGO_BIN_EXE_nearside-edge"))
            .args(["serve", "--node", "one", "--log-level", "error", "--fleet"])
            .arg(&file)
            .arg("--state-dir")
            .arg(dir.path().join("state"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let bench = Bench { edge, address, metrics, origin, cases: AtomicUsize::new(0), _dir: dir };
        let deadline = Instant::now() + PATIENCE;
        while bench.send("GET", "/.well-known/nearside/health", &[], "").map_or(0, |reply| reply.status())
            != 200
        {
            assert!(Instant::now() < deadline, "the edge serves within {PATIENCE:?}");
            thread::sleep(Duration::from_millis(10));
        }
        bench
    }

    /// One exchange on a connection of its own; `None`: there was no answer.
    pub fn send(&self, method: &str, path: &str, fields: &[Field], body: &str) -> Option<Message> {
        self.ask(self.address, method, path, fields, body)
    }

    fn ask(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        fields: &[Field],
        body: &str,
    ) -> Option<Message> {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            write!(head, "Host: {HOST}\r\n").ok()?;
        }
        for (name, value) in fields {
            write!(head, "{name}: {value}\r\n").ok()?;
        }
        if !body.is_empty() || !matches!(method, "GET" | "HEAD" | "OPTIONS") {
            write!(head, "Content-Length: {}\r\n", body.len()).ok()?;
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).ok()?;
        let mut reader = Reader { stream, bytes: Vec::new() };
        let mut interim = Vec::new();
        loop {
            let mut reply = reader.head()?;
            if (100..200).contains(&reply.status()) {
                interim.push(format!("{} {:?}", reply.line, reply.fields));
                continue;
            }
            let bodiless = method == "HEAD" || matches!(reply.status(), 204 | 304);
            if bodiless {
                reply.whole = true
            } else {
                reader.body(&mut reply, true)
            }
            reply.interim = interim;
            return Some(reply);
        }
    }

    fn fetches_under_way(&self) -> Option<u64> {
        let text = self.ask(self.metrics, "GET", "/metrics", &[], "")?.body;
        let line = text.lines().find_map(|line| line.strip_prefix("nearside_edge_cache_fetches "))?;
        line.trim().parse::<f64>().ok().map(|count| count as u64)
    }

    /// Runs all cases of `scripts`, separated by empty lines, and says of all that fail what failed.
    pub fn run(&self, scripts: &str) {
        let cases: Vec<String> = scripts.split("\n\n").map(str::to_owned).collect();
        self.run_all(cases);
    }

    /// Runs cases that a table made.
    pub fn run_all(&self, cases: impl IntoIterator<Item = String>) {
        let mut failed = String::new();
        let (mut count, mut failures) = (0, 0);
        for case in cases.into_iter().filter(|case| !case.trim().is_empty()) {
            count += 1;
            let number = self.cases.fetch_add(1, Ordering::Relaxed);
            if let Err(reason) = self.case(&format!("/case-{number}"), &case) {
                failures += 1;
                let _ = writeln!(failed, "\n{}\n    {reason}", case.trim());
            }
        }
        assert!(count > 0, "no cases");
        assert!(failed.is_empty(), "{failures} of {count} cases failed:\n{failed}");
    }

    fn case(&self, base: &str, script: &str) -> Result<(), String> {
        self.origin.cases.lock().unwrap().insert(base.to_owned(), Stage::default());
        let lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
        for line in lines.filter(|line| !line.starts_with("# ")) {
            let line = expand(line, base);
            self.step(base, &line).map_err(|reason| format!("at: {line}\n    {reason}"))?;
        }
        Ok(())
    }

    fn step(&self, base: &str, line: &str) -> Result<(), String> {
        let (exchange, wanted) = line.split_once(" => ").ok_or("no =>")?;
        let (request, answer, behind) = match (exchange.split_once(" -> "), exchange.split_once(" ~> ")) {
            (Some((request, answer)), _) => (request, Some(answer), false),
            (_, Some((request, answer))) => (request, Some(answer), true),
            _ => (exchange, None, false),
        };
        let answer = answer.map(Answer::parse).transpose()?;
        let asked_before = self.stage(base, |stage| {
            stage.next = answer.clone();
            stage.seen.len()
        });
        let (target, fields, body) = parse_request(request)?;
        let (authority, target) =
            match target.strip_prefix("@absolute ").and_then(|rest| rest.split_once(' ')) {
                Some((authority, target)) => (authority, target),
                None => ("", target.as_str()),
            };
        let (method, suffix) = target.split_once(' ').unwrap_or((target, ""));
        let path = format!("{authority}{base}{suffix}");
        let reply = self.send(method, &path, &fields, &body).ok_or("no answer")?;
        let asked = || self.stage(base, |stage| stage.seen.len()) - asked_before;
        if behind {
            let deadline = Instant::now() + PATIENCE;
            while asked() == 0 && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(2));
            }
            // What the origin said is stored a moment later.
            while self.fetches_under_way() != Some(0) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(2));
            }
        }
        match (answer.is_some(), asked()) {
            (true, 0) => return Err(format!("the origin was not asked; {}", describe(&reply))),
            (false, 1..) => return Err(format!("the origin was asked; {}", describe(&reply))),
            _ => {}
        }
        let saw = self.stage(base, |stage| stage.seen.last().cloned()).unwrap_or_default();
        let own = answer.filter(|_| !behind).map_or(200, |answer| answer.status);
        check(wanted, &reply, &saw, own, base).map_err(|reason| {
            format!("{reason}\n    {}\n    the origin saw {} {:?}", describe(&reply), saw.line, saw.fields)
        })
    }

    fn stage<T>(&self, base: &str, look: impl FnOnce(&mut Stage) -> T) -> T {
        look(self.origin.cases.lock().unwrap().get_mut(base).unwrap())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.edge.kill();
        let _ = self.edge.wait();
    }
}

fn describe(reply: &Message) -> String {
    format!("the client got {} {:?} {:?}", reply.line, reply.fields, reply.body)
}

/// `{now±secs}`, `{base}` and `{host}`.
fn expand(line: &str, base: &str) -> String {
    let mut text = line.replace("{base}", base).replace("{host}", HOST);
    while let Some(start) = text.find("{now") {
        let end = start + text[start..].find('}').unwrap();
        let offset: i64 = text[start + 4..end].parse().unwrap_or(0);
        let now = SystemTime::now();
        let shift = Duration::from_secs(offset.unsigned_abs());
        let date = httpdate::fmt_http_date(if offset < 0 { now - shift } else { now + shift });
        text.replace_range(start..=end, &date);
    }
    text
}

fn parse_request(text: &str) -> Result<(String, Fields, String), String> {
    let mut parts = text.split(" | ").map(str::trim);
    let target = parts.next().unwrap_or_default().to_owned();
    let (mut fields, mut body) = (Vec::new(), String::new());
    for part in parts {
        match part.strip_prefix("@body ") {
            Some(text) => text.clone_into(&mut body),
            None => fields.push(field(part)?),
        }
    }
    Ok((target, fields, body))
}

fn field(text: &str) -> Result<Field, String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("no field: {text}"))?;
    Ok((name.to_owned(), value.strip_prefix(' ').unwrap_or(value).to_owned()))
}

fn check(wanted: &str, reply: &Message, saw: &Message, own: u16, base: &str) -> Result<(), String> {
    let mut status = own;
    for want in wanted.split(" | ").map(str::trim) {
        if let Ok(number) = want.parse() {
            status = number;
        }
    }
    if reply.status() != status {
        return Err(format!("wanted {status}"));
    }
    for want in wanted.split(" | ").map(str::trim) {
        let (message, want) = want.strip_prefix("saw ").map_or((reply, want), |want| (saw, want));
        let holds = if want.parse::<u16>().is_ok() {
            true
        } else if let Some(number) = want.strip_prefix('#') {
            reply.body == format!("answer {number} of {base}") && reply.whole
        } else if let Some(body) = want.strip_prefix("@body") {
            message.body == body.trim() && message.whole
        } else if want == "@broken" {
            !reply.whole
        } else if let Some(line) = want.strip_prefix("@interim ") {
            reply.interim.iter().any(|interim| interim.contains(line))
        } else if want == "@no-interim" {
            reply.interim.is_empty()
        } else if let Some(line) = want.strip_prefix("@trailer ") {
            let (name, value) = field(line)?;
            reply.trailers.iter().any(|known| known.0.eq_ignore_ascii_case(&name) && known.1 == value)
        } else if want == "@no-trailers" {
            reply.trailers.is_empty()
        } else if let Some(method) = want.strip_prefix("@method ") {
            message.line.starts_with(&format!("{method} "))
        } else if let Some(name) = want.strip_prefix('!') {
            message.field(name).is_none()
        } else if let Some((name, part)) = want.split_once(" ~ ") {
            message.field(name).is_some_and(|value| value.contains(part))
        } else if let Some((name, from)) = want.split_once(" >= ") {
            let from: u64 = from.parse().map_err(|_| format!("no number: {want}"))?;
            let secs = message.field(name).and_then(|value| value.parse::<u64>().ok());
            // Slow machines may add seconds, not half a minute.
            secs.is_some_and(|secs| (from..from + 30).contains(&secs))
        } else if want.contains(':') {
            let (name, value) = field(want)?;
            message.field(&name).as_deref() == Some(value.as_str())
        } else {
            message.field(want).is_some()
        };
        if !holds {
            return Err(format!("wanted {want}"));
        }
    }
    Ok(())
}

impl Answer {
    fn parse(text: &str) -> Result<Answer, String> {
        let mut parts = text.split(" | ").map(str::trim);
        let status = parts.next().unwrap_or_default();
        let mut answer = Answer {
            status: status.parse().map_err(|_| format!("no status: {status}"))?,
            ..Answer::default()
        };
        for part in parts {
            match part.strip_prefix('@') {
                Some(mark) => {
                    let (name, value) = mark.split_once(' ').unwrap_or((mark, ""));
                    answer.marks.insert(name.to_owned(), value.to_owned());
                }
                None => answer.fields.push(field(part)?),
            }
        }
        Ok(answer)
    }

    /// What goes over the wire, and whether the connection may go on.
    fn bytes(&self, method: &str, default_body: &str) -> (Vec<u8>, bool) {
        if let Some(raw) = self.marks.get("raw") {
            return (raw.replace("\\r", "\r").replace("\\n", "\n").into_bytes(), false);
        }
        if self.marks.contains_key("close") {
            return (Vec::new(), false);
        }
        let body = self.marks.get("body").map_or(default_body, String::as_str);
        let mut bytes = String::new();
        for early in self.marks.get("early").iter().flat_map(|list| list.split(',')) {
            let _ = write!(
                bytes,
                "HTTP/1.1 {early} Early\r\nLink: </style.css>; rel=preload\r\nEarly-Field: 1\r\n\r\n"
            );
        }
        let version = if self.marks.contains_key("http10") { "1.0" } else { "1.1" };
        let _ = write!(bytes, "HTTP/{version} {} Whatever\r\n", self.status);
        let named = |name: &str| self.fields.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        for (name, value) in &self.fields {
            let _ = write!(bytes, "{name}: {value}\r\n");
        }
        if !named("date") && !self.marks.contains_key("undated") {
            let _ = write!(bytes, "Date: {}\r\n", httpdate::fmt_http_date(SystemTime::now()));
        }
        let bodiless = matches!(self.status, 204 | 304);
        if self.marks.contains_key("chunked") {
            let end = if self.marks.contains_key("cut") { "" } else { "0\r\nTrailing: 1\r\n\r\n" };
            let _ = write!(bytes, "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n{end}", body.len());
            return (bytes.into_bytes(), !self.marks.contains_key("cut"));
        }
        if self.marks.contains_key("until-close") {
            let _ = write!(bytes, "\r\n{body}");
            return (bytes.into_bytes(), false);
        }
        let short: usize = self.marks.get("short").and_then(|more| more.parse().ok()).unwrap_or(0);
        if !bodiless && !named("content-length") {
            let _ = write!(bytes, "Content-Length: {}\r\n", body.len() + short);
        }
        let _ = write!(bytes, "\r\n{}", if bodiless || method == "HEAD" { "" } else { body });
        (bytes.into_bytes(), short == 0 && version == "1.1")
    }
}

impl Origin {
    fn serve(&self, stream: TcpStream) {
        let mut writer = stream.try_clone().unwrap();
        let mut reader = Reader { stream, bytes: Vec::new() };
        while let Some(mut request) = reader.head() {
            reader.body(&mut request, false);
            let mut words = request.line.split(' ').map(str::to_owned);
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let base = format!("/{}", path.split(['/', '?']).nth(1).unwrap_or_default());
            let answer = {
                let mut cases = self.cases.lock().unwrap();
                let stage = cases.entry(base.clone()).or_default();
                stage.seen.push(request);
                let answer = stage.next.clone().unwrap_or(Answer { status: 299, ..Answer::default() });
                stage.answered += 1;
                answer.bytes(&method, &format!("answer {} of {base}", stage.answered))
            };
            let (bytes, goes_on) = answer;
            if writer.write_all(&bytes).is_err() || !goes_on {
                let _ = writer.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }
}

/// Reads messages off a connection.
struct Reader {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Reader {
    fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        assert!(self.bytes.len() < MESSAGE_BYTES_MAX, "message too long");
        match self.stream.read(&mut piece) {
            Ok(read) if read > 0 => {
                self.bytes.extend_from_slice(&piece[..read]);
                true
            }
            _ => false,
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.bytes.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).ok();
            }
            if !self.more() {
                return None;
            }
        }
    }

    fn head(&mut self) -> Option<Message> {
        let mut message = Message { line: self.line()?, ..Message::default() };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(message);
            }
            let (name, value) = line.split_once(':')?;
            message.fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn exactly(&mut self, count: usize, into: &mut Vec<u8>) -> bool {
        while self.bytes.len() < count && self.more() {}
        let there = count.min(self.bytes.len());
        into.extend(self.bytes.drain(..there));
        there == count
    }

    fn body(&mut self, message: &mut Message, is_response: bool) {
        let mut body = Vec::new();
        message.whole = if message.field("transfer-encoding").is_some() {
            loop {
                let Some(size) = self.line().and_then(|line| usize::from_str_radix(line.trim(), 16).ok())
                else {
                    break false;
                };
                if size == 0 {
                    while let Some(line) = self.line().filter(|line| !line.is_empty()) {
                        message.trailers.extend(field(&line));
                    }
                    break true;
                }
                if !self.exactly(size, &mut body) || self.line().is_none() {
                    break false;
                }
            }
        } else if let Some(length) = message.field("content-length") {
            self.exactly(length.parse().unwrap_or(usize::MAX), &mut body)
        } else if is_response {
            while self.more() {}
            body.append(&mut self.bytes);
            true
        } else {
            true
        };
        message.body = String::from_utf8_lossy(&body).into_owned();
    }
}
