//! What the fleet file says of the connections in front of an edge: limits, TLS, redirects, proxies before us.
//!
//! A part of [`super::Config`] by itself; what is behind an edge (origins, caching) is not here.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// A network: its address, host bits zero, and the prefix length in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Network address.
    pub address: IpAddr,
    /// Prefix length, bits.
    pub length: u8,
}

impl Network {
    /// Whether an address is in it. An IPv4-mapped IPv6 address counts as the IPv4 one.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.length.min(32));
                (u64::from(network.to_bits()) >> shift) == (u64::from(address.to_bits()) >> shift)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.length.min(128));
                network.to_bits().checked_shr(shift).unwrap_or(0)
                    == address.to_bits().checked_shr(shift).unwrap_or(0)
            }
            _ => false,
        }
    }
}

/// `[[pop.NAME.proxy_protocol]]`: load balancers that say in a PROXY header who the client is.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyProtocol {
    /// The listener this is about; `None`: all of the PoP's.
    pub listen: Option<SocketAddr>,
    /// Connections from here begin with the header; from elsewhere it is no header at all.
    pub from: Vec<Network>,
}

/// `[pop.NAME.limits]`: what the clients of one edge may use.
#[derive(Clone, Debug, PartialEq)]
pub struct FrontLimits {
    /// Connections in all.
    pub connections_max: usize,
    /// Connections of one client (an IPv4 address, an IPv6 /64).
    pub connections_per_client_max: usize,
    /// From accept to the end of the TLS handshake, PROXY header included.
    pub handshake_timeout: Duration,
    /// Bytes per second that a client has to take, over [`Self::rate_window`] of waiting for it; 0: any rate.
    pub download_rate_min: u64,
    /// Bytes per second of request content that a client has to send, measured alike; 0: any rate.
    pub upload_rate_min: u64,
    /// How long a client is waited for, all pauses added up, before its rate is judged.
    pub rate_window: Duration,
}

impl Default for FrontLimits {
    fn default() -> Self {
        FrontLimits {
            // At about 22 KB for an idle TLS one this is 350 MB: what a small server has.
            connections_max: 16_384,
            // An office behind one address opens hundreds; a thousand is an attack or a benchmark.
            connections_per_client_max: 1_024,
            handshake_timeout: Duration::from_secs(10),
            // A telephone at the edge of a cell still gets 2 KiB/s; who takes less holds a connection open.
            download_rate_min: 512,
            upload_rate_min: 512,
            rate_window: Duration::from_secs(60),
        }
    }
}

/// What a site does with requests in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PlainHttp {
    /// Serves them (the default).
    #[default]
    Serve,
    /// Sends them to the same address over TLS.
    Redirect,
}

/// `[site.NAME.hsts]`: `Strict-Transport-Security` (RFC 6797) on every response over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hsts {
    /// How long browsers insist on TLS.
    pub max_age: Duration,
    /// For the hosts below, too.
    pub include_subdomains: bool,
    /// Consent to browsers' built-in lists.
    pub preload: bool,
}

/// What `Server` says in a site's responses.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ServerField {
    /// What the origin says; `nearside` where the edge itself answers (the default).
    #[default]
    Origin,
    /// Nothing.
    Absent,
    /// This.
    Text(String),
}

/// The oldest TLS that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TlsVersion {
    /// RFC 5246, with forward secrecy and authenticated encryption only (the default).
    #[default]
    V12,
    /// RFC 8446.
    V13,
}

/// `[site.NAME.limits]`: what one tenant may use of an edge.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteLimits {
    /// Content of a request, bytes.
    pub body_bytes_max: u64,
    /// TLS connections whose handshake named one of the site's hosts; `None`: as many as the edge takes.
    pub connections_max: Option<usize>,
    /// Requests in flight, from the head read to the last byte sent; `None`: any number.
    pub requests_max: Option<usize>,
}

impl Default for SiteLimits {
    fn default() -> Self {
        // An upload larger than this belongs at the origin directly.
        SiteLimits { body_bytes_max: 1 << 30, connections_max: None, requests_max: None }
    }
}

/// What a site asks of the connections in front of it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SiteFront {
    /// Requests in the clear.
    pub plain: PlainHttp,
    /// Whether browsers are told to insist on TLS.
    pub hsts: Option<Hsts>,
    /// `Server`.
    pub server: ServerField,
    /// The oldest TLS its hosts speak.
    pub tls_version_min: TlsVersion,
    /// The tenant's share.
    pub limits: SiteLimits,
}

/// What a PoP asks of its connections.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PopFront {
    /// Load balancers in front of the edge.
    pub proxy_protocol: Vec<ProxyProtocol>,
    /// Whether HTTP/2 by prior knowledge is spoken in the clear, where `http` is.
    pub h2c: bool,
    /// What its clients may use.
    pub limits: FrontLimits,
}

/// Where the keys of TLS session tickets come from: a file of this form, one key per line,
/// `START BASE64`: seconds since the Unix epoch from which it is used, and 32 bytes. `None`: each edge makes its own.
pub type TicketKeys = Option<PathBuf>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses_and_no_others() {
        let network = |text: &str, length| Network { address: text.parse().unwrap(), length };
        for (network, inside, outside) in [
            (network("192.0.2.0", 24), "192.0.2.255", "192.0.3.0"),
            (network("192.0.2.7", 32), "192.0.2.7", "192.0.2.6"),
            (network("192.0.2.0", 24), "::ffff:192.0.2.9", "::ffff:192.0.3.9"),
            (network("0.0.0.0", 0), "203.0.113.1", "2001:db8::1"),
            (network("2001:db8::", 32), "2001:db8:ffff::1", "2001:db9::1"),
            (network("::", 0), "2001:db8::1", "192.0.2.1"),
        ] {
            assert!(network.contains(inside.parse().unwrap()), "{network:?} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?} {outside}");
        }
    }
}
