//! One query in, one answer out: **pure**, without allocation, lock or clock.
//!
//! [`respond`] is the whole interface. It reads a [`Context`] of borrowed parts (the caller's view
//! owns them and swaps them whole), writes the answer into the caller's buffer and says in an
//! [`Outcome`] what became of the query: exactly one [`Verdict`] each, for the caller to count.
//! Input that cannot be answered is a verdict like any other; nothing here fails.
//!
//! [`Scratch`] is what one worker needs again and again; it carries nothing from one query to the
//! next.

use std::net::SocketAddr;

use nearside_zones::{NameBuf, Zones};

use crate::{
    health::state::Moment,
    steering::{Client, ServiceId, Steered, Table},
};

/// How the query came in: decides sizes, truncation and cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams: the answer is cut at [`Limits::udp_bytes_max`] or what the client offers, the smaller.
    Udp,
    /// A stream, plain or encrypted: answers up to 65,535 octets.
    Stream,
}

/// Sizes the operator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest UDP answer, octets; 1232 fits the IPv6 minimum MTU (RFC 9715 section 3).
    pub udp_bytes_max: u16,
    /// Idle timeout told to clients on streams, in units of 100 ms (RFC 7828).
    pub keepalive_100ms: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { udp_bytes_max: 1232, keepalive_100ms: 100 }
    }
}

/// What the server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// NSID (RFC 5001); `None`: the option is not answered.
    pub nsid: Option<Box<[u8]>>,
    /// `version.bind` and `version.server`, class CHAOS; `None`: refused.
    pub version: Option<Box<str>>,
    /// `id.server` and `hostname.bind`, class CHAOS (RFC 4892); `None`: refused.
    pub id: Option<Box<str>>,
}

/// What an HTTPS record of a tailored name says beside its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TailoredService {
    /// ALPN ids in wire form, each with its length octet; empty: no HTTPS record.
    pub alpn: Box<[u8]>,
}

impl TailoredService {
    /// From ALPN ids; ids that are empty or past 255 octets are left out.
    pub fn new<'a>(alpn: impl IntoIterator<Item = &'a str>) -> Self {
        let mut wire = Vec::new();
        for id in alpn {
            if let (Ok(length), false) = (u8::try_from(id.len()), id.is_empty()) {
                wire.push(length);
                wire.extend_from_slice(id.as_bytes());
            }
        }
        Self { alpn: wire.into() }
    }
}

/// Everything an answer is made from.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The zones served.
    pub zones: &'a Zones,
    /// `Steering::lookup`.
    pub steer: &'a (dyn Fn(ServiceId, Client) -> Steered + Sync),
    /// Lists × health, as of now.
    pub table: &'a Table,
    /// By [`ServiceId`].
    pub services: &'a [TailoredService],
    /// Who we are.
    pub identity: &'a Identity,
    /// Sizes.
    pub limits: Limits,
}

/// Storage one worker reuses for every query.
#[derive(Default)]
pub struct Scratch {
    name: NameBuf,
}

/// What became of a query: the rcode of its answer, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the rcodes")]
pub enum Verdict {
    /// Nothing is sent: shorter than a header, or itself a response.
    Dropped,
    /// Nothing is sent: response rate limiting.
    RateLimited,
    NoError,
    /// NOERROR without an answer.
    NoData,
    /// A delegation.
    Referral,
    NxDomain,
    FormErr,
    ServFail,
    NotImp,
    Refused,
    YxDomain,
    BadVers,
    BadCookie,
}

/// What [`respond`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Octets of `out` to send; 0: send nothing.
    pub bytes: usize,
    /// The one thing to count.
    pub verdict: Verdict,
    /// Whether the answer says TC.
    pub truncated: bool,
    /// Whether a service decided, and which.
    pub service: Option<ServiceId>,
    /// Whether all PoPs of the service were down.
    pub all_down: bool,
    /// Whether the query carried a client subnet.
    pub client_subnet: bool,
}

/// Answers one query.
///
/// `out` should hold [`Limits::udp_bytes_max`] octets for UDP and 65,535 for streams; a shorter one
/// only means an earlier TC.
pub fn respond(
    context: &Context<'_>,
    scratch: &mut Scratch,
    query: &[u8],
    source: SocketAddr,
    transport: Transport,
    now: Moment,
    out: &mut [u8],
) -> Outcome {
    let _ = (context, scratch, query, source, transport, now, out);
    Outcome {
        bytes: 0,
        verdict: Verdict::Dropped,
        truncated: false,
        service: None,
        all_down: false,
        client_subnet: false,
    }
}
