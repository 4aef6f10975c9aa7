//! How fast answers are sent: pieces of a body, each at its time.
//!
//! A throttled body is cut into pieces of about an eighth of a second and never offered as a file, so that no loop that
//! sends files is busy with it; between two pieces its task sleeps. A [`Line`] gives out times in the order in which
//! they are asked for: responses that share a client's line share it evenly.

use std::{
    collections::HashMap,
    future::Future as _,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::Frame;
use nearside_fleet::config::gates;
use parking_lot::Mutex;
use tokio::time::Sleep;

use super::who;

/// A piece is never smaller: each costs a wake-up and a packet.
const PIECE_BYTES_MIN: u64 = 4 * 1024;

/// Nor larger: what a body gives at once.
const PIECE_BYTES_MAX: u64 = 128 * 1024;

/// Settings of a site, and its clients' lines.
pub struct BandwidthGate {
    per_response: Option<u64>,
    per_client: Option<u64>,
    after_bytes: u64,
    ipv6_prefix: u8,
    lines: Arc<Mutex<HashMap<IpAddr, Arc<Line>>>>,
}

/// Gives out times at which bytes may leave.
struct Line {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

/// Paces one body.
pub struct Throttle {
    own: Option<Line>,
    shared: Option<SharedLine>,
    piece_bytes: u64,
    /// Bytes that are not paced yet.
    free_bytes: u64,
    rest: Bytes,
    /// Bytes of `rest` whose time was given out.
    due_bytes: usize,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// A client's line, forgotten with the last response that uses it. Those of one client: as many as it has responses.
struct SharedLine {
    lines: Arc<Mutex<HashMap<IpAddr, Arc<Line>>>>,
    client: IpAddr,
    line: Arc<Line>,
}

impl BandwidthGate {
    /// As configured. Lines begin anew: whoever is being served keeps the pace it began with.
    pub fn new(gate: &gates::Bandwidth) -> Self {
        BandwidthGate {
            per_response: gate.per_response,
            per_client: gate.per_client,
            after_bytes: gate.after_bytes,
            ipv6_prefix: gate.ipv6_prefix,
            lines: Arc::default(),
        }
    }

    /// Of one response to a client.
    pub fn throttle(&self, client: IpAddr, now: Instant) -> Throttle {
        let client = who::network(client, self.ipv6_prefix);
        let line = |bytes_per_second| Line { bytes_per_second, free_at: Mutex::new(now) };
        let shared = self.per_client.map(|rate| {
            let line = self.lines.lock().entry(client).or_insert_with(|| Arc::new(line(rate))).clone();
            SharedLine { lines: self.lines.clone(), client, line }
        });
        let slowest = self.per_response.into_iter().chain(self.per_client).min().unwrap_or(u64::MAX);
        Throttle {
            own: self.per_response.map(line),
            shared,
            piece_bytes: (slowest / 8).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX),
            free_bytes: self.after_bytes,
            rest: Bytes::new(),
            due_bytes: 0,
            sleep: None,
        }
    }
}

impl Line {
    /// When `bytes` may leave; the next ones after them.
    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let takes = Duration::from_nanos(
            (u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1))) as u64,
        );
        let mut free_at = self.free_at.lock();
        let at = (*free_at).max(now);
        *free_at = at + takes;
        at
    }
}

impl Throttle {
    /// Of one response alone.
    pub fn own(bytes_per_second: u64, now: Instant) -> Throttle {
        Throttle {
            own: Some(Line { bytes_per_second, free_at: Mutex::new(now) }),
            shared: None,
            piece_bytes: (bytes_per_second / 8).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX),
            free_bytes: 0,
            rest: Bytes::new(),
            due_bytes: 0,
            sleep: None,
        }
    }

    /// Holds the response to the slower of its own pace and this one.
    pub fn slow_to(&mut self, bytes_per_second: u64, now: Instant) {
        let slower = self.own.as_ref().map_or(u64::MAX, |own| own.bytes_per_second).min(bytes_per_second);
        self.own = Some(Line { bytes_per_second: slower, free_at: Mutex::new(now) });
        self.piece_bytes = self.piece_bytes.min((slower / 8).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX));
    }

    /// The next frame of `source`, when it is due.
    pub fn poll<E>(
        &mut self,
        cx: &mut Context<'_>,
        mut source: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            if self.due_bytes > 0 {
                let piece = self.rest.split_to(std::mem::take(&mut self.due_bytes));
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if !self.rest.is_empty() {
                let now = Instant::now();
                let at = self.due(now);
                if at > now {
                    self.sleep = Some(Box::pin(tokio::time::sleep_until(at.into())));
                }
                continue;
            }
            match ready!(source(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
    }

    /// Cuts the next piece, and asks when it may leave.
    fn due(&mut self, now: Instant) -> Instant {
        let whole = self.rest.len() as u64;
        if self.free_bytes > 0 {
            let bytes = whole.min(self.free_bytes);
            self.free_bytes -= bytes;
            self.due_bytes = bytes as usize;
            return now;
        }
        let bytes = whole.min(self.piece_bytes);
        self.due_bytes = bytes as usize;
        let own = self.own.as_ref().map_or(now, |line| line.reserve(bytes, now));
        let shared = self.shared.as_ref().map_or(now, |shared| shared.line.reserve(bytes, now));
        own.max(shared)
    }

    /// Bytes that the source gave and that have not been sent.
    pub fn held_bytes(&self) -> u64 {
        self.rest.len() as u64
    }
}

impl Drop for SharedLine {
    fn drop(&mut self) {
        let mut lines = self.lines.lock();
        // The table's own, and this one. Clones are made under the same lock.
        if Arc::strong_count(&self.line) == 2
            && lines.get(&self.client).is_some_and(|line| Arc::ptr_eq(line, &self.line))
        {
            lines.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_of_one_client_share_its_line_evenly_and_leave_nothing() {
        let written = gates::Bandwidth {
            per_response: None,
            per_client: Some(8 * 8192),
            after_bytes: 0,
            ipv6_prefix: 64,
        };
        let gate = BandwidthGate::new(&written);
        let now = Instant::now();
        let client = "192.0.2.1".parse().unwrap();
        let mut both = [gate.throttle(client, now), gate.throttle(client, now)];
        let mut sent = [0u64; 2];
        let mut last = now;
        for turn in 0..32 {
            let throttle = &mut both[turn % 2];
            throttle.rest = Bytes::from_static(&[0; 100_000]);
            last = throttle.due(now);
            sent[turn % 2] += throttle.due_bytes as u64;
        }
        assert_eq!(sent, [16 * 8192; 2]);
        assert_eq!(last - now, Duration::from_millis(31 * 125), "an eighth of a second each");
        drop(both);
        assert!(gate.lines.lock().is_empty());
    }

    #[test]
    fn what_is_free_is_not_paced() {
        let written = gates::Bandwidth {
            per_response: Some(1 << 20),
            per_client: None,
            after_bytes: 50_000,
            ipv6_prefix: 64,
        };
        let now = Instant::now();
        let mut throttle = BandwidthGate::new(&written).throttle("::1".parse().unwrap(), now);
        throttle.rest = Bytes::from_static(&[0; 100_000]);
        assert_eq!((throttle.due(now), throttle.due_bytes), (now, 50_000));
        throttle.rest = Bytes::from_static(&[0; 400_000]);
        assert_eq!((throttle.due(now), throttle.due_bytes), (now, 128 * 1024));
        assert_eq!(throttle.due(now), now + Duration::from_millis(125));
    }
}
