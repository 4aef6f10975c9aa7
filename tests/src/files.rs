//! An origin of files that shows every wrong byte, and that misbehaves where it is told to.
//!
//! `/files/NAME/BYTES` answers with content that follows from path and version alone ([`content`]), under a strong entity
//! tag, with ranges, tagged `Surrogate-Key: NAME`; [`Files::bump`] makes the next version of a path; `/heads/NAME/BYTES` adds a
//! field of 12 KB and `Vary: X-Variant`. Below `/lies/KIND/` it
//! lies: see [`Files`]. Written on sockets, since no HTTP library would send such things.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Bytes sent before a held body waits.
const HELD_AFTER: usize = 100_000;
/// Padding of a large head.
const HEAD_BYTES: usize = 12_000;
/// Longest hold: a drill that forgot one must not hang.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// The origin; clones share it. What it does below `/lies/`, each with 300,000 declared bytes unless said:
///
/// | path | lie |
/// |---|---|
/// | `short` | closes after half of the declared length |
/// | `long` | sends more than the declared length |
/// | `cut` | chunked, closes before the last chunk |
/// | `drip` | a byte every 20 ms, 40 of them; the truth otherwise |
/// | `stall` | stops halfway and keeps the connection |
/// | `part` | a 206 to a request without `Range` |
/// | `wrong-range` | a 206 of other bytes than were asked for |
/// | `change` | a new version with every request, 3 MiB |
/// | `garbage` | says `Content-Encoding: gzip` of what is none |
#[derive(Clone, Debug, Default)]
pub struct Files(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    versions: HashMap<String, u64>,
    asked: HashMap<String, u64>,
    held: HashMap<String, u64>,
}

/// The bytes `from..` of a version of a path, as many as `bytes` holds.
pub fn content(path: &str, version: u64, from: usize, bytes: &mut [u8]) {
    let mut seed = version.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in path.bytes() {
        seed = (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // Each 8 bytes follow from their place (splitmix64), so that any range can be made, and no two places are alike.
    let word = |index: usize| {
        let mut word = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    };
    let mut at = 0;
    while at < bytes.len() {
        let (index, inside) = ((from + at) / 8, (from + at) % 8);
        let take = (8 - inside).min(bytes.len() - at);
        bytes[at..at + take].copy_from_slice(&word(index)[inside..inside + take]);
        at += take;
    }
}

/// The path of a file.
pub fn path(name: &str, bytes: usize) -> String {
    format!("/files/{name}/{bytes}")
}

impl Files {
    /// Serves in threads for the rest of the process.
    ///
    /// # Panics
    /// Where the address can't be bound.
    pub fn start(address: SocketAddr) -> Files {
        let files = Files::default();
        let listener = TcpListener::bind(address).expect("the origin's address is free");
        let serving = files.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let files = serving.clone();
                // A client that goes away is its own business.
                thread::spawn(move || drop(files.serve(&stream)));
            }
        });
        files
    }

    /// The version of a path that is served now; versions begin with 1.
    pub fn version(&self, path: &str) -> u64 {
        self.state().versions.get(path).copied().unwrap_or(1)
    }

    /// Makes the next version of a path, and gives it.
    pub fn bump(&self, path: &str) -> u64 {
        let mut state = self.state();
        let version = state.versions.entry(path.to_owned()).or_insert(1);
        *version += 1;
        *version
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> u64 {
        self.state().asked.get(path).copied().unwrap_or(0)
    }

    /// All requests so far.
    pub fn total(&self) -> u64 {
        self.state().asked.values().sum()
    }

    /// From now on, bodies of a path stop midway until [`Files::release`].
    pub fn hold(&self, path: &str) {
        self.state().held.insert(path.to_owned(), 0);
    }

    /// Bodies of a path that stand still now.
    pub fn holding(&self, path: &str) -> u64 {
        self.state().held.get(path).copied().unwrap_or(0)
    }

    /// Lets held bodies go on, from now on without a stop.
    pub fn release(&self, path: &str) {
        self.state().held.remove(path);
        self.0.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(asked) = Asked::read(&mut reader)? {
            *self.state().asked.entry(asked.path.clone()).or_default() += 1;
            let goes_on = match asked.path.strip_prefix("/lies/").and_then(|rest| rest.split('/').next()) {
                Some(lie) => self.lie(lie, &asked, stream)?,
                None => self.answer(&asked, stream)?,
            };
            if !goes_on {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The truth. Whether the connection goes on.
    fn answer(&self, asked: &Asked, mut stream: &TcpStream) -> io::Result<bool> {
        let (name, length, more) = match asked.path.split('/').collect::<Vec<_>>()[..] {
            ["", "files", name, bytes] => (name, bytes.parse::<usize>().ok(), String::new()),
            ["", "heads", name, bytes] => {
                let padding = "p".repeat(HEAD_BYTES);
                (name, bytes.parse().ok(), format!("Vary: X-Variant\r\nX-Padding: {padding}\r\n"))
            }
            _ => ("", None, String::new()),
        };
        let Some(length) = length else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(true);
        };
        let version = self.version(&asked.path);
        let etag = format!("\"{version}\"");
        let common = format!(
            "Date: {}\r\nCache-Control: max-age=3600\r\nETag: {etag}\r\nX-Version: {version}\r\nSurrogate-Key: {name}\r\n{more}",
            date()
        );
        if asked.field("if-none-match") == Some(&etag) {
            write!(stream, "HTTP/1.1 304 Not Modified\r\n{common}\r\n")?;
            return Ok(true);
        }
        let range = asked.range(length).filter(|_| asked.field("if-range").is_none_or(|tag| tag == etag));
        let (first, end) = range.unwrap_or((0, length));
        let status = match range {
            Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {first}-{}/{length}", end - 1),
            None => "200 OK".to_owned(),
        };
        write!(stream, "HTTP/1.1 {status}\r\n{common}Content-Length: {}\r\n\r\n", end - first)?;
        self.send(&asked.path, version, first..end, stream)?;
        Ok(true)
    }

    fn send(
        &self,
        path: &str,
        version: u64,
        span: std::ops::Range<usize>,
        mut to: &TcpStream,
    ) -> io::Result<()> {
        let mut at = span.start;
        let mut buffer = vec![0; 64 * 1024];
        let mut may_hold = true;
        while at < span.end {
            if may_hold && at - span.start >= HELD_AFTER {
                may_hold = false;
                self.wait_while_held(path);
            }
            let take = buffer.len().min(span.end - at);
            content(path, version, at, &mut buffer[..take]);
            to.write_all(&buffer[..take])?;
            at += take;
        }
        Ok(())
    }

    fn wait_while_held(&self, path: &str) {
        let mut state = self.state();
        match state.held.get_mut(path) {
            Some(holding) => *holding += 1,
            None => return,
        }
        let is_held = |state: &mut State| state.held.contains_key(path);
        let (_state, expired) = self
            .0
            .changed
            .wait_timeout_while(state, HOLD_MAX, is_held)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!expired.timed_out(), "{path} was held and never released");
    }

    fn lie(&self, lie: &str, asked: &Asked, mut to: &TcpStream) -> io::Result<bool> {
        const LENGTH: usize = 300_000;
        let common = format!("Date: {}\r\nCache-Control: max-age=3600\r\n", date());
        let mut bytes = vec![0; LENGTH];
        content(&asked.path, 1, 0, &mut bytes);
        let declared = |status: &str, more: &str, length: usize| {
            format!("HTTP/1.1 {status}\r\n{common}{more}Content-Length: {length}\r\n\r\n")
        };
        match lie {
            "short" => {
                to.write_all(declared("200 OK", "", LENGTH).as_bytes())?;
                to.write_all(&bytes[..LENGTH / 2])?;
            }
            "long" => {
                to.write_all(declared("200 OK", "", LENGTH / 2).as_bytes())?;
                to.write_all(&bytes)?;
            }
            "cut" => {
                write!(to, "HTTP/1.1 200 OK\r\n{common}Transfer-Encoding: chunked\r\n\r\n")?;
                write!(to, "{LENGTH:x}\r\n")?;
                to.write_all(&bytes)?;
                to.write_all(b"\r\n")?;
            }
            "drip" => {
                to.write_all(declared("200 OK", "", 40).as_bytes())?;
                for byte in &bytes[..40] {
                    to.write_all(&[*byte])?;
                    thread::sleep(Duration::from_millis(20));
                }
                return Ok(true);
            }
            "stall" => {
                to.write_all(declared("200 OK", "", LENGTH).as_bytes())?;
                to.write_all(&bytes[..LENGTH / 2])?;
                // Until the other side has had enough.
                let mut rest = Vec::new();
                let _ended = io::Read::read_to_end(&mut &*to, &mut rest);
            }
            "part" => {
                let more = format!("ETag: \"p\"\r\nContent-Range: bytes 0-{}/{LENGTH}\r\n", LENGTH / 2 - 1);
                to.write_all(declared("206 Partial Content", &more, LENGTH / 2).as_bytes())?;
                to.write_all(&bytes[..LENGTH / 2])?;
                return Ok(true);
            }
            "wrong-range" => {
                let more = format!("ETag: \"w\"\r\nContent-Range: bytes 1000-1999/{LENGTH}\r\n");
                to.write_all(declared("206 Partial Content", &more, 1000).as_bytes())?;
                to.write_all(&bytes[1000..2000])?;
                return Ok(true);
            }
            "change" => {
                let (length, version) = (3 << 20, self.bump(&asked.path));
                let (status, (first, end)) = match asked.range(length) {
                    Some((first, end)) => (
                        format!("206 Partial Content\r\nContent-Range: bytes {first}-{}/{length}", end - 1),
                        (first, end),
                    ),
                    None => ("200 OK".to_owned(), (0, length)),
                };
                let more = format!("ETag: \"{version}\"\r\nX-Version: {version}\r\n");
                to.write_all(declared(&status, &more, end - first).as_bytes())?;
                self.send(&asked.path, version, first..end, to)?;
                return Ok(true);
            }
            "garbage" => {
                to.write_all(declared("200 OK", "Content-Encoding: gzip\r\n", LENGTH).as_bytes())?;
                to.write_all(&bytes)?;
                return Ok(true);
            }
            other => panic!("no lie is called {other:?}"),
        }
        Ok(false)
    }
}

struct Asked {
    path: String,
    fields: Vec<(String, String)>,
}

impl Asked {
    /// `None`: the other side has closed.
    fn read(from: &mut impl BufRead) -> io::Result<Option<Asked>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            lines.push(line.to_owned());
        }
        let mut lines = lines.into_iter();
        let Some(path) = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned)) else {
            return Ok(None);
        };
        let field = |line: String| {
            line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Ok(Some(Asked { path, fields: lines.filter_map(field).collect() }))
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first range asked for, as offsets.
    fn range(&self, length: usize) -> Option<(usize, usize)> {
        let (first, last) = self.field("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let first = first.parse().ok()?;
        let end = last.parse::<usize>().map_or(length, |last| (last + 1).min(length));
        (first < end).then_some((first, end))
    }
}

/// The time as an HTTP-date; a shared cache does not believe an origin without one.
fn date() -> String {
    let now = std::time::SystemTime::now();
    httpdate::fmt_http_date(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_of_a_content_is_the_same_bytes() {
        let mut whole = vec![0; 1000];
        content("/a", 1, 0, &mut whole);
        for (first, end) in [(0, 1), (3, 500), (8, 16), (999, 1000)] {
            let mut part = vec![0; end - first];
            content("/a", 1, first, &mut part);
            assert_eq!(part, whole[first..end]);
        }
        let mut other = vec![0; 1000];
        content("/a", 2, 0, &mut other);
        assert_ne!(other, whole);
    }
}
