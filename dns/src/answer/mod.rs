//! One query in, one answer out: **pure**, without allocation, lock or clock.
//!
//! [`respond`] is the whole interface. It reads a [`Context`] of borrowed parts (the caller's view
//! owns them and swaps them whole), writes the answer into the caller's buffer and says in an
//! [`Outcome`] what became of the query: exactly one [`Verdict`] each, for the caller to count.
//! Input that cannot be answered is a verdict like any other; nothing here fails.
//!
//! [`Scratch`] is what one worker needs again and again; it carries nothing from one query to the
//! next.

pub mod cookie;
mod sections;

use std::net::{IpAddr, SocketAddr};

use nearside_zones::{NameBuf, Zones};

use crate::{
    challenge::Challenges,
    health::state::Moment,
    rrl::{Decision, Kind, Rrl},
    steering::{Client, PopId, ServiceId, Steered, Table},
    wire::{self, Ede, Edns, Message, Names, Opt, PLAIN_UDP_BYTES, Query, Rcode, Refusal, Reject, flags},
};

use cookie::{CookieKeys, Worth};

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
    /// Secrets of DNS cookies; `None`: the option is ignored, as a server without cookies does.
    pub cookies: Option<&'a CookieKeys>,
    /// Response rate limiting; `None`: there is none.
    pub rrl: Option<&'a Rrl>,
    /// TXT records that home has set; `None`: there are none, and nothing looks for them.
    pub challenges: Option<&'a Challenges>,
}

/// Storage one worker reuses for every query.
#[derive(Default)]
pub struct Scratch {
    name: NameBuf,
    names: Names,
}

/// What became of a query: the rcode of its answer, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the rcodes")]
pub enum Verdict {
    /// Nothing is sent: shorter than a header, or itself a response.
    Dropped,
    /// Response rate limiting: nothing is sent, or an empty truncated answer (see [`crate::rrl`]).
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
    NotAuth,
    BadVers,
    BadCookie,
}

impl Verdict {
    fn rcode(self) -> Rcode {
        match self {
            Self::NoError | Self::NoData | Self::Referral | Self::Dropped | Self::RateLimited => {
                Rcode::NOERROR
            }
            Self::NxDomain => Rcode::NXDOMAIN,
            Self::FormErr => Rcode::FORMERR,
            Self::ServFail => Rcode::SERVFAIL,
            Self::NotImp => Rcode::NOTIMP,
            Self::Refused => Rcode::REFUSED,
            Self::YxDomain => Rcode::YXDOMAIN,
            Self::NotAuth => Rcode::NOTAUTH,
            Self::BadVers => Rcode::BADVERS,
            Self::BadCookie => Rcode::BADCOOKIE,
        }
    }
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
    /// The first PoP it named.
    pub pop: Option<PopId>,
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
    let Scratch { name, names } = scratch;
    let worker = Worker { context, source: source.ip(), transport, now };
    match Query::parse(query, name) {
        Ok(query) => worker.answer(&query, name, names, out),
        Err(reject) => worker.refuse(&reject, names, out),
    }
}

/// What is known before the query is read.
struct Worker<'a> {
    context: &'a Context<'a>,
    source: IpAddr,
    transport: Transport,
    now: Moment,
}

/// What is said beside the sections.
#[derive(Clone, Copy, Debug)]
struct Reply {
    verdict: Verdict,
    authoritative: bool,
    truncated: bool,
    /// SCOPE PREFIX-LENGTH: 0 unless a service decided (RFC 7871 section 7.2.1).
    scope: u8,
    error: Option<(Ede, &'static str)>,
    service: Option<ServiceId>,
    pop: Option<PopId>,
    all_down: bool,
    kind: Kind,
}

impl Reply {
    fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            authoritative: false,
            truncated: false,
            scope: 0,
            error: None,
            service: None,
            pop: None,
            all_down: false,
            kind: Kind::Error,
        }
    }

    fn because(verdict: Verdict, code: Ede, text: &'static str) -> Self {
        Self { error: Some((code, text)), ..Self::new(verdict) }
    }
}

impl Worker<'_> {
    fn answer(&self, query: &Query<'_>, name: &mut NameBuf, names: &mut Names, out: &mut [u8]) -> Outcome {
        let cookie = self.cookie(query.edns.as_ref());
        let opt = self.opt(query.edns.as_ref(), cookie);
        let limit = self.limit(query.edns.as_ref());
        let reserved = opt.as_ref().map_or(0, Opt::bytes);
        // A buffer that cannot hold the question has no answer.
        let Ok(mut message) = Message::begin(out, limit, reserved, query.head, names) else {
            return outcome(0, &Reply::new(Verdict::Dropped), query.edns.as_ref());
        };
        let mut reply = sections::write(self.context, query, name, self.source, &mut message);
        match self.limited(&reply, cookie) {
            Decision::Pass => {}
            Decision::Drop => return outcome(0, &Reply::new(Verdict::RateLimited), query.edns.as_ref()),
            Decision::Slip => {
                message.clear();
                // A client that speaks cookies proves itself with one round trip instead of a
                // connection (RFC 7873 section 5.2.3).
                let verdict = if cookie.is_some() { Verdict::BadCookie } else { Verdict::RateLimited };
                reply = Reply { truncated: cookie.is_none(), ..Reply::new(verdict) };
            }
        }
        let bytes = finish(message, query.flags, &reply, opt);
        outcome(bytes, &reply, query.edns.as_ref())
    }

    fn refuse(&self, reject: &Reject<'_>, names: &mut Names, out: &mut [u8]) -> Outcome {
        let verdict = match reject.refusal {
            Refusal::Drop => Verdict::Dropped,
            Refusal::FormErr => Verdict::FormErr,
            Refusal::NotImp => Verdict::NotImp,
            Refusal::BadVers => Verdict::BadVers,
            Refusal::NotAuth => Verdict::NotAuth,
        };
        let edns = reject.edns.as_ref();
        let reply = match verdict {
            Verdict::NotImp => Reply::because(verdict, Ede::NotSupported, "this opcode is not supported"),
            _ => Reply::new(verdict),
        };
        if verdict == Verdict::Dropped {
            return outcome(0, &reply, edns);
        }
        if self.limited(&reply, None) != Decision::Pass {
            return outcome(0, &Reply::new(Verdict::RateLimited), edns);
        }
        let opt = self.opt(edns, None);
        let limit = self.limit(edns);
        let reserved = opt.as_ref().map_or(0, Opt::bytes);
        // Names too long for a refusal that has to fit 512 octets: then without the key's.
        let room = limit.min(out.len()).saturating_sub(reject.head.len() + reserved);
        let key = reject.tsig.filter(|tsig| tsig.bytes() <= room);
        let reserved = reserved + key.map_or(0, |tsig| tsig.bytes());
        let flags = u16::from_be_bytes([reject.head[2], reject.head[3]]);
        match Message::begin(out, limit, reserved, reject.head, names) {
            Ok(mut message) => {
                if let Some(key) = key {
                    message.refuse_key(key);
                }
                outcome(finish(message, flags, &reply, opt), &reply, edns)
            }
            Err(_) => outcome(0, &Reply::new(Verdict::Dropped), edns),
        }
    }

    /// Octets of the whole message.
    fn limit(&self, edns: Option<&Edns<'_>>) -> usize {
        match (self.transport, edns) {
            (Transport::Stream, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => PLAIN_UDP_BYTES,
            // RFC 6891 section 6.2.3: a client that offers less than 512 takes 512.
            (Transport::Udp, Some(edns)) => {
                usize::from(edns.payload.min(self.context.limits.udp_bytes_max)).max(PLAIN_UDP_BYTES)
            }
        }
    }

    fn cookie(&self, edns: Option<&Edns<'_>>) -> Option<(Worth, [u8; 16])> {
        let cookie = edns?.cookie?;
        Some(self.context.cookies?.answer(&cookie.client, cookie.server, self.source, self.now))
    }

    fn opt<'e>(&'e self, edns: Option<&'e Edns<'e>>, cookie: Option<(Worth, [u8; 16])>) -> Option<Opt<'e>> {
        let query = edns?;
        let stream = self.transport == Transport::Stream;
        Some(Opt {
            query,
            payload: self.context.limits.udp_bytes_max,
            nsid: self.context.identity.nsid.as_deref().filter(|_| query.nsid),
            scope: 0,
            cookie: cookie.map(|(_, server)| server),
            // RFC 7828 section 3.2.2: said on streams only, to clients that ask.
            keepalive_100ms: (stream && query.keepalive.is_some())
                .then_some(self.context.limits.keepalive_100ms),
            error: None,
        })
    }

    fn limited(&self, reply: &Reply, cookie: Option<(Worth, [u8; 16])>) -> Decision {
        match self.context.rrl {
            Some(rrl)
                if self.transport == Transport::Udp
                    && cookie.is_none_or(|(worth, _)| worth != Worth::Good) =>
            {
                rrl.decide(self.source, reply.kind, self.now)
            }
            _ => Decision::Pass,
        }
    }
}

fn finish(message: Message<'_>, query_flags: u16, reply: &Reply, mut opt: Option<Opt<'_>>) -> usize {
    let mut flags = wire::answer_flags(query_flags);
    if reply.authoritative {
        flags |= flags::AA;
    }
    if reply.truncated {
        flags |= flags::TC;
    }
    if let Some(opt) = &mut opt {
        opt.scope = reply.scope;
        opt.error = reply.error;
    }
    message.finish(flags, reply.verdict.rcode(), opt.as_ref())
}

fn outcome(bytes: usize, reply: &Reply, edns: Option<&Edns<'_>>) -> Outcome {
    Outcome {
        bytes,
        verdict: reply.verdict,
        truncated: reply.truncated,
        service: reply.service,
        pop: reply.pop,
        all_down: reply.all_down,
        client_subnet: edns.is_some_and(|edns| edns.client_subnet.is_some()),
    }
}

#[cfg(test)]
mod tests;
