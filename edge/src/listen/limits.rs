//! What clients may use, by name.
//!
//! Every number here bounds memory, sockets or time that a stranger could take. Refusals are counted
//! under the limit's name ([`crate::stats::Turned`]). Those that operators change are in the fleet file
//! ([`FrontLimits`], and per site [`super::share`]); [`Admission`] holds the ones of now.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use nearside_fleet::config::front::FrontLimits;
use parking_lot::Mutex;

use super::share::Taken;
use crate::stats::{FrontStats, Turned};

/// Handshakes under way, per worker. One costs 150 µs of CPU: more than this is a second of queue, and
/// clients that wait longer give up and try again, which makes it worse.
pub const HANDSHAKES_MAX: usize = 4_096;

/// From a head's first byte to its last.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two requests. Longer than origins' and browsers' own limits gains nothing.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Between two bytes of a request body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client that has closed its sending side may wait for the origin. It can't be told from one that has left:
/// scripts that half-close get their answer from all but the slowest origins, and nobody's fetch ends soon.
pub const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client may send ahead while the origin is asked for its last request, before it has to wait.
pub const AHEAD_BYTES_MAX: usize = 4096;

/// A client that takes no byte for this long has gone, or wants to hold our memory.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Header lines of a request. Browsers send under 30.
pub const HEADERS_MAX: usize = 100;

/// Bytes of a request head.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Bytes of a request target (RFC 9110 section 4.1 asks for at least 8000).
pub const TARGET_BYTES_MAX: usize = 16 * 1024;

/// Requests on one connection. Renewing a connection now and then spreads clients over workers again
/// and frees whatever it accumulated.
pub const REQUESTS_MAX: u64 = 10_000;

/// Streams at once on an h2 connection.
pub const STREAMS_MAX: u32 = 128;

/// Streams of one direction an HTTP/3 client may have open: control, two for QPACK, and some of no meaning to us.
pub const UNI_STREAMS_MAX: u32 = 8;

/// Bytes of an HTTP/3 frame that is no DATA: h3 keeps it whole. A head past [`HEAD_BYTES_MAX`] but within this is
/// answered (431), a longer one is not read.
pub const H3_FRAME_BYTES_MAX: u64 = 64 * 1024;

/// Request heads of one HTTP/3 connection that are read at a time: what slow ones hold is this times
/// [`H3_FRAME_BYTES_MAX`].
pub const H3_HEADS_MAX: usize = 8;

/// Bytes of a response given to QUIC at once: a client must take so much within [`WRITE_STALL_TIMEOUT`], 1.1 KB/s.
pub const H3_SEND_BYTES: usize = 32 * 1024;

/// Bytes of responses that a QUIC connection keeps until the client has confirmed them: 100 ms at 84 Mbit/s. What
/// its flow control does not allow yet is not taken at all.
pub const QUIC_SEND_BYTES: u64 = 1024 * 1024;

/// Bytes of a QUIC handshake that came out of order. A ClientHello is 2 KB with post-quantum keys.
pub const QUIC_CRYPTO_BYTES: usize = 16 * 1024;

/// QUIC connections whose first datagram is not decided over yet, per worker and address.
pub const QUIC_INCOMING_MAX: usize = 1024;

/// Bytes of further datagrams kept for each of them; 64 times this for all.
pub const QUIC_INCOMING_BYTES: u64 = 16 * 1024;

/// Handshakes under way above which QUIC clients prove their address first (RFC 9000 section 8.1.2): one round trip
/// more for them, and nothing for who made its address up.
pub const QUIC_RETRY_ABOVE: usize = 128;

/// Streams an h2 client may have reset before we accepted them: rapid reset (CVE-2023-44487).
pub const PENDING_RESETS_MAX: usize = 32;

/// Streams we had to reset for the client's errors: MadeYouReset (CVE-2025-8671).
pub const ERROR_RESETS_MAX: usize = 128;

/// What an h2 client may send ahead per stream. Requests rarely have bodies; 64 KiB × streams is what a
/// connection can make us hold.
pub const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// What it may send ahead on all streams together.
pub const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;

/// Bytes of an h2 stream's response that hyper takes from us before the client does.
pub const STREAM_SEND_BYTES: usize = 256 * 1024;

/// Largest h2 frame we send when the client allows it, and accept. One TLS record's worth.
pub const FRAME_BYTES: u32 = 16 * 1024;

/// Counts connections and holds them to their limits.
#[derive(Default)]
pub struct Admission {
    limits: ArcSwap<FrontLimits>,
    open: AtomicUsize,
    by_client: Mutex<HashMap<IpAddr, usize>>,
}

impl Admission {
    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The limits of now.
    pub fn limits(&self) -> arc_swap::Guard<Arc<FrontLimits>> {
        self.limits.load()
    }

    /// From the next connection on, these. Those that are open keep theirs.
    pub fn set_limits(&self, limits: FrontLimits) {
        self.limits.store(Arc::new(limits));
    }

    /// Takes a place for a connection of `client`, or counts why there is none.
    pub fn admit(self: &Arc<Self>, client: IpAddr, stats: &FrontStats) -> Option<Admitted> {
        let mut place = self.enter(stats)?;
        place.account(client, stats).then_some(place)
    }

    /// Takes a place for a connection whose client is not known yet, or counts why there is none.
    pub fn enter(self: &Arc<Self>, stats: &FrontStats) -> Option<Admitted> {
        let limits = self.limits.load_full();
        if self.open.fetch_add(1, Ordering::Relaxed) >= limits.connections_max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            stats.turned(Turned::Connections);
            return None;
        }
        Some(Admitted { admission: self.clone(), client: None, limits, share: None })
    }
}

/// A connection's place. Dropped with it.
pub struct Admitted {
    admission: Arc<Admission>,
    client: Option<IpAddr>,
    limits: Arc<FrontLimits>,
    share: Option<Taken>,
}

impl Admitted {
    /// Puts the connection on `client`'s account; `false`, counted: it is full.
    pub fn account(&mut self, client: IpAddr, stats: &FrontStats) -> bool {
        let client = accountable(client);
        let mut by_client = self.admission.by_client.lock();
        let count = by_client.entry(client).or_default();
        if *count >= self.limits.connections_per_client_max {
            drop(by_client);
            stats.turned(Turned::ConnectionsOfClient);
            return false;
        }
        *count += 1;
        self.client = Some(client);
        true
    }

    /// The limits that held when it came.
    pub fn limits(&self) -> &FrontLimits {
        &self.limits
    }

    /// Holds a place among its site's connections, too.
    pub fn hold(&mut self, share: Option<Taken>) {
        self.share = share;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
        let Some(client) = self.client else { return };
        let mut by_client = self.admission.by_client.lock();
        if let Some(count) = by_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                by_client.remove(&client);
            }
        }
    }
}

/// What stands for one client: its IPv4 address, or its IPv6 /64.
fn accountable(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_no_more_and_gets_it_back() {
        let admission = Arc::new(Admission::default());
        let stats = FrontStats::default();
        let greedy: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let other: IpAddr = "192.0.2.1".parse().unwrap();
        let most = admission.limits().connections_per_client_max;
        let mut places: Vec<_> = (0..most).map(|_| admission.admit(greedy, &stats).unwrap()).collect();
        assert!(admission.admit(neighbour, &stats).is_none(), "one /64 is one client");
        assert!(admission.admit(other, &stats).is_some());
        places.pop();
        assert!(admission.admit(neighbour, &stats).is_some());
        places.clear();
        assert_eq!(admission.open(), 0);
        assert!(admission.by_client.lock().is_empty());
        let refused = stats.all_turned().find(|&(why, _)| why == Turned::ConnectionsOfClient);
        assert_eq!(refused, Some((Turned::ConnectionsOfClient, 1)));
    }
}
