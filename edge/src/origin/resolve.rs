//! Where an origin's name leads: looked up again at intervals, kept while lookups fail, never where names may not lead.
//!
//! The system's resolver gives no TTLs, so the interval is configured (30 s by default). Lookups happen
//! beside requests: only the first one, and those after a long failure, are waited for.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nearside_fleet::config::Network;
use nearside_geoip::prefix::Prefix;
use parking_lot::Mutex;

use super::error::FetchError;

/// Addresses tried at most; a name with hundreds is a mistake or an attack on our sockets.
const ADDRESSES_MAX: usize = 8;

/// For how long the last known addresses of a name stand in for lookups that fail. An hour is more than most outages
/// of a resolver last; beyond it they may be someone else's.
const STALE_MAX: Duration = Duration::from_secs(3600);

/// After a failed lookup, the next one is not before this.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// A name or address as configured, and where it leads.
pub struct Resolver {
    host: String,
    port: u16,
    interval: Duration,
    allowed: Vec<Prefix>,
    known: Mutex<Option<Known>>,
    is_refreshing: AtomicBool,
}

#[derive(Clone)]
struct Known {
    addresses: Arc<[SocketAddr]>,
    looked_up: Instant,
    next: Instant,
}

impl Resolver {
    /// Knows nothing yet, but for an address that was written as one: its author meant it, whatever it is.
    pub fn new(host: &str, port: u16, interval: Duration, allowed: &[Network]) -> Self {
        let now = Instant::now();
        let literal = host.parse::<IpAddr>().ok().map(|address| Known {
            addresses: Arc::new([SocketAddr::new(address, port)]),
            looked_up: now,
            next: now,
        });
        let allowed = allowed.iter().filter_map(|&(address, length)| Prefix::new(address, length).ok());
        Resolver {
            host: host.to_owned(),
            port,
            interval: if literal.is_some() { Duration::MAX } else { interval },
            allowed: allowed.collect(),
            known: Mutex::new(literal),
            is_refreshing: AtomicBool::new(false),
        }
    }

    fn is_literal(&self) -> bool {
        self.interval == Duration::MAX
    }

    /// Whether the name still leads to `peer`, as far as is known.
    pub fn leads_to(&self, peer: SocketAddr) -> bool {
        self.is_literal() || self.known.lock().as_ref().is_none_or(|known| known.addresses.contains(&peer))
    }

    /// Looks up again, beside whatever is going on, if it is time.
    pub fn refresh_if_due(self: &Arc<Self>) {
        if self.is_literal() {
            return;
        }
        let now = Instant::now();
        let is_due = self.known.lock().as_ref().is_some_and(|known| now >= known.next);
        if is_due && !self.is_refreshing.swap(true, Ordering::AcqRel) {
            let resolver = Arc::clone(self);
            tokio::spawn(async move {
                // A failure is logged, and told to whoever needs a connection once the old addresses are too old.
                let _ = resolver.look_up(system).await;
                resolver.is_refreshing.store(false, Ordering::Release);
            });
        }
    }

    /// Addresses to connect to, best first.
    ///
    /// # Errors
    /// [`FetchError::Resolve`], [`FetchError::ForbiddenAddress`].
    pub async fn addresses(&self) -> Result<Arc<[SocketAddr]>, FetchError> {
        let known = self.known.lock().clone();
        match known {
            Some(known) if self.is_literal() || known.looked_up.elapsed() < self.interval + STALE_MAX => {
                Ok(known.addresses)
            }
            _ => self.look_up(system).await,
        }
    }

    async fn look_up<F>(&self, ask: impl FnOnce(String, u16) -> F) -> Result<Arc<[SocketAddr]>, FetchError>
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        let found = ask(self.host.clone(), self.port).await;
        let now = Instant::now();
        match self.sort(found) {
            Ok(addresses) => {
                let addresses: Arc<[SocketAddr]> = addresses.into();
                let mut known = self.known.lock();
                let moved = known.as_ref().is_some_and(|known| !same(&known.addresses, &addresses));
                if moved {
                    tracing::info!(host = self.host, ?addresses, "origin has other addresses");
                }
                let next = now + self.interval;
                *known = Some(Known { addresses: addresses.clone(), looked_up: now, next });
                Ok(addresses)
            }
            Err(error) => {
                tracing::warn!(%error, "origin's name was not resolved");
                let mut known = self.known.lock();
                if let Some(known) = known.as_mut() {
                    known.next = now + FAILED_PAUSE.max(self.interval / 10);
                }
                Err(error)
            }
        }
    }

    fn sort(&self, found: io::Result<Vec<SocketAddr>>) -> Result<Vec<SocketAddr>, FetchError> {
        let fail = |cause| FetchError::Resolve { host: self.host.clone(), cause: Arc::new(cause) };
        let mut refused = None;
        let mut allowed = found.map_err(fail)?;
        allowed.retain(|address| {
            let is_allowed = self.may_lead_to(address.ip());
            if !is_allowed {
                refused = Some(address.ip());
            }
            is_allowed
        });
        let addresses = interleave(allowed);
        match (addresses.is_empty(), refused) {
            (false, _) => Ok(addresses),
            (true, Some(address)) => Err(FetchError::ForbiddenAddress { host: self.host.clone(), address }),
            (true, None) => Err(fail(io::Error::new(io::ErrorKind::NotFound, "no address"))),
        }
    }

    /// Whether this name may lead there. `localhost` is what it says (RFC 6761 section 6.3).
    fn may_lead_to(&self, address: IpAddr) -> bool {
        let is_local = self.host == "localhost" || self.host.ends_with(".localhost");
        let plain = address.to_canonical();
        self.allowed.iter().any(|network| network.contains(plain))
            || (is_local && plain.is_loopback())
            || !is_forbidden(address)
    }
}

async fn system(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    tokio::net::lookup_host((host.as_str(), port)).await.map(Iterator::collect)
}

fn same(left: &[SocketAddr], right: &[SocketAddr]) -> bool {
    left.len() == right.len() && left.iter().all(|address| right.contains(address))
}

/// Addresses behind which machines answer that a name under someone else's control must not reach:
/// loopback (our own control listener), link-local ones (cloud metadata services live there), the metadata
/// addresses outside that range, whatever notation carries them; and those that are no host at all.
/// Private networks are not among them: that is where many an origin is.
fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_forbidden_v4(v4),
        IpAddr::V6(v6) => {
            const AWS_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
            let embedded = v6.to_ipv4_mapped().or_else(|| nat64(v6));
            embedded.is_some_and(is_forbidden_v4)
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.is_unspecified()
                || v6 == AWS_METADATA
        }
    }
}

fn is_forbidden_v4(address: Ipv4Addr) -> bool {
    const ALIBABA_METADATA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
    address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        // All of 0.0.0.0/8: systems take it for themselves (RFC 1122 section 3.2.1.3).
        || address.octets()[0] == 0
        || address == ALIBABA_METADATA
}

/// The IPv4 address inside the well-known NAT64 prefix (RFC 6052).
fn nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        _ => None,
    }
}

/// Alternates the families, the resolver's first choice first (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    first.reverse();
    second.reverse();
    let mut mixed = Vec::new();
    while mixed.len() < ADDRESSES_MAX && (!first.is_empty() || !second.is_empty()) {
        mixed.extend(first.pop());
        mixed.extend(second.pop());
    }
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_and_metadata_services_are_out_of_reach_in_every_notation() {
        for address in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fd00:ec2::254",
            "fe80::1",
            "100.100.100.200",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "224.0.0.1",
        ] {
            assert!(is_forbidden(address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1"] {
            assert!(!is_forbidden(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn families_alternate_from_the_resolvers_first_choice() {
        let parse = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let [a, b, c] = [parse("[2001:db8::1]:1"), parse("[2001:db8::2]:1"), parse("192.0.2.1:1")];
        assert_eq!(interleave(vec![a, b, c]), [a, c, b]);
        assert_eq!(interleave(vec![c, a, b]), [c, a, b]);
    }

    #[tokio::test]
    async fn what_a_name_may_lead_to_is_said_in_the_fleet_file() {
        let answer = |text: &str| {
            let address: SocketAddr = text.parse().unwrap();
            move |_, _| async move { Ok(vec![address]) }
        };
        let second = Duration::from_secs(1);
        let plain = Resolver::new("o.test", 80, second, &[]);
        let refused = plain.look_up(answer("127.0.0.1:80")).await;
        assert!(matches!(refused, Err(FetchError::ForbiddenAddress { .. })), "{refused:?}");
        let allowed = Resolver::new("o.test", 80, second, &[("127.0.0.0".parse().unwrap(), 8)]);
        assert!(allowed.look_up(answer("127.0.0.1:80")).await.is_ok());
        assert!(allowed.look_up(answer("169.254.169.254:80")).await.is_err());
        let local = Resolver::new("localhost", 80, second, &[]);
        assert!(local.look_up(answer("[::1]:80")).await.is_ok());
        assert!(local.look_up(answer("169.254.169.254:80")).await.is_err());
        // Written as an address, it is what it is.
        let literal = Resolver::new("127.0.0.1", 80, second, &[]);
        assert_eq!(literal.addresses().await.unwrap()[..], ["127.0.0.1:80".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_name_that_moves_is_followed_and_one_that_fails_stays() {
        let resolver = Resolver::new("o.test", 80, Duration::from_secs(3600), &[]);
        let [old, new]: [SocketAddr; 2] = ["192.0.2.1:80", "192.0.2.2:80"].map(|text| text.parse().unwrap());
        resolver.look_up(|_, _| async move { Ok(vec![old]) }).await.unwrap();
        assert!(resolver.leads_to(old) && !resolver.leads_to(new));
        let failed = resolver.look_up(|_, _| async { Err(io::Error::other("no resolver")) }).await;
        assert!(failed.is_err());
        assert_eq!(resolver.addresses().await.unwrap()[..], [old]);
        resolver.look_up(|_, _| async move { Ok(vec![new]) }).await.unwrap();
        assert_eq!(resolver.addresses().await.unwrap()[..], [new]);
        assert!(!resolver.leads_to(old));
    }
}
