//! Fills the sections of an answer: zone lookup, the decision of a service, size rules.
//!
//! What does not fit ends in TC where the client needs it (RFC 2181 section 9, RFC 9471) and is
//! left out in silence where it does not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nearside_geoip::prefix::Family;
use nearside_zones::{
    Binding, End, Link, NameBuf, RrSet, Rtype, Zone,
    tree::{CHAIN_MAX, Node},
};

use crate::{
    challenge::{self, Held},
    rrl::Kind,
    steering::{Basis, Client, ServiceId},
    wire::{Data, Ede, Full, Message, Owner, Query, Section},
};

use super::{Context, Reply, TailoredService, Verdict};

const CLASS_IN: u16 = 1;
const CLASS_CHAOS: u16 = 3;

/// Parameter keys of HTTPS records (RFC 9460 section 14.3.2).
mod param {
    pub const ALPN: u16 = 1;
    pub const IPV4HINT: u16 = 4;
    pub const IPV6HINT: u16 = 6;
}

/// Answers a query that parsed.
pub(super) fn write(
    context: &Context<'_>,
    query: &Query<'_>,
    name: &mut NameBuf,
    source: IpAddr,
    message: &mut Message<'_>,
) -> Reply {
    if !query.asks {
        // RFC 7873 section 5.4: the cookie in the OPT record is all that was wanted.
        return Reply::new(Verdict::NoError);
    }
    match query.class {
        CLASS_IN => {}
        CLASS_CHAOS => return chaos(context, query, name, message),
        _ => return Reply::because(Verdict::Refused, Ede::NotSupported, "only class IN is served"),
    }
    if matches!(query.rtype, Rtype::AXFR | Rtype::IXFR) {
        return Reply::because(Verdict::Refused, Ede::Prohibited, "zone transfers are not allowed");
    }
    let Some(zone) = context.zones.find(name, query.rtype) else {
        return Reply::because(Verdict::Refused, Ede::NotAuthoritative, "not a zone of this server");
    };
    if let Some(mut reply) = challenged(context, query, zone, name, message) {
        reply.kind = Kind::Answer(hash(name.wire()));
        return reply;
    }
    let mut chain = Chain::new(message, context, query.rtype);
    let end = zone.lookup(name, query.rtype, |link, target| chain.link(link, target));
    let Chain { links, fits, owner, held, .. } = chain;
    if !fits {
        return Reply { truncated: true, authoritative: true, ..Reply::new(Verdict::NoError) };
    }
    if let Some(held) = held {
        let reply = positive(write_challenge(message, Owner::At(owner), held, None));
        return Reply { kind: Kind::Answer(hash(name.wire())), ..reply };
    }
    let end = match (end, context.challenges) {
        // RFC 8020: no name exists below one that does not, and resolvers that ask label by label (RFC 9156) would stop.
        (End::NxDomain, Some(challenges)) if challenges.lets_exist(name) => End::NoData,
        (end, _) => end,
    };
    let mut answer = Answer { context, query, zone, message, owner, links };
    let mut reply = answer.end(end, source);
    if context.rrl.is_none() {
        return reply;
    }
    reply.kind = match reply.verdict {
        Verdict::NxDomain => Kind::NxDomain(id(zone)),
        Verdict::NoData | Verdict::Referral => Kind::Empty(id(zone)),
        _ => Kind::Answer(hash(name.wire())),
    };
    reply
}

/// Zones by address: stable for as long as a view lives, which is all rate limiting needs.
fn id(zone: &Zone) -> u64 {
    std::ptr::from_ref(zone) as u64
}

fn hash(octets: &[u8]) -> u64 {
    octets
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Whether a challenge answers questions of this type.
fn challengeable(rtype: Rtype) -> bool {
    matches!(rtype, Rtype::TXT | Rtype::ANY)
}

/// The answer of a challenge at the very name that was asked for, before what a wildcard or an alias says there. What the zone
/// has at that name goes with it; what lies below a cut is another server's to answer.
fn challenged(
    context: &Context<'_>,
    query: &Query<'_>,
    zone: &Zone,
    name: &NameBuf,
    message: &mut Message<'_>,
) -> Option<Reply> {
    let held = context.challenges?.get(name).filter(|_| challengeable(query.rtype))?;
    let mut links = 0;
    let end = zone.lookup(&mut name.clone(), Rtype::TXT, |_, _| links += 1);
    let beside = match end {
        End::Referral(_) if links == 0 => return None,
        End::Answer(set) if links == 0 => Some(set),
        _ => None,
    };
    Some(positive(write_challenge(message, Owner::QUESTION, held, beside)))
}

fn write_challenge(
    message: &mut Message<'_>,
    owner: Owner<'_>,
    held: &Held,
    beside: Option<&RrSet>,
) -> Result<(), Full> {
    let held = held.data.iter().map(|data| &**data);
    let data = held.chain(beside.into_iter().flatten());
    message.records(Section::Answer, owner, Rtype::TXT, challenge::TTL_SECS, data)
}

/// Aliases on their way into the answer section.
struct Chain<'c, 'm, 'z, 'x> {
    message: &'c mut Message<'m>,
    context: &'x Context<'x>,
    rtype: Rtype,
    /// The challenge that an alias led to: there the chain ends.
    held: Option<&'x Held>,
    /// Where the current name stands.
    owner: u16,
    links: usize,
    fits: bool,
    /// DNAMEs written: a chain may use one again, an answer holds it once.
    dnames: [Option<&'z RrSet>; CHAIN_MAX],
}

impl<'c, 'm, 'z, 'x> Chain<'c, 'm, 'z, 'x> {
    fn new(message: &'c mut Message<'m>, context: &'x Context<'x>, rtype: Rtype) -> Self {
        Self {
            message,
            context,
            rtype,
            held: None,
            owner: crate::wire::HEADER_BYTES as u16,
            links: 0,
            fits: true,
            dnames: [None; CHAIN_MAX],
        }
    }

    fn link(&mut self, link: Link<'z>, target: Option<&NameBuf>) {
        if !self.fits || self.held.is_some() {
            return;
        }
        match self.write(link, target) {
            Ok(Some(owner)) => self.owner = owner,
            // Past the reach of pointers an answer is far too long to be of use.
            Ok(None) | Err(Full) => self.fits = false,
        }
        self.links += 1;
        if let Some(challenges) = self.context.challenges.filter(|_| challengeable(self.rtype)) {
            self.held = target.and_then(|target| challenges.get(target));
        }
    }

    fn write(&mut self, link: Link<'z>, target: Option<&NameBuf>) -> Result<Option<u16>, Full> {
        let here = Owner::At(self.owner);
        match link {
            Link::Cname(set) => self.message.rrset(Section::Answer, here, set, set.ttl),
            Link::Dname { owner, rrset } => {
                let known = self.dnames.iter().flatten().any(|known| std::ptr::eq(*known, rrset));
                if !known {
                    self.message.rrset(Section::Answer, Owner::Wire(owner.wire()), rrset, rrset.ttl)?;
                    if let Some(slot) = self.dnames.iter_mut().find(|slot| slot.is_none()) {
                        *slot = Some(rrset);
                    }
                }
                match target {
                    Some(target) => self.message.cname(here, rrset.ttl, target.wire()),
                    None => Ok(Some(self.owner)),
                }
            }
        }
    }
}

/// The end of a lookup on its way into the message.
struct Answer<'c, 'm> {
    context: &'c Context<'c>,
    query: &'c Query<'c>,
    zone: &'c Zone,
    message: &'c mut Message<'m>,
    owner: u16,
    links: usize,
}

impl Answer<'_, '_> {
    fn end(&mut self, end: End<'_>, source: IpAddr) -> Reply {
        match end {
            End::Answer(set) => {
                let written = self.message.rrset(Section::Answer, Owner::At(self.owner), set, set.ttl);
                positive(written.map(|_| ()))
            }
            End::Any(node) => positive(self.any(node)),
            End::Tailored(binding, _) => self.tailored(binding, source),
            End::Referral(cut) => self.referral(cut),
            End::NoData => self.negative(Verdict::NoData, self.zone.negative_ttl()),
            End::NxDomain => self.negative(Verdict::NxDomain, self.zone.negative_ttl()),
            End::YxDomain => Reply { authoritative: true, ..Reply::new(Verdict::YxDomain) },
            End::Chain => Reply { authoritative: true, ..Reply::new(Verdict::NoError) },
        }
    }

    /// RFC 8482: one RRset, whichever; where a name has only tailored data, HINFO says why.
    fn any(&mut self, node: &Node) -> Result<(), Full> {
        let owner = Owner::At(self.owner);
        match node.rrsets().iter().find(|set| set.rtype != Rtype::RRSIG) {
            Some(set) => self.message.rrset(Section::Answer, owner, set, set.ttl).map(|_| ()),
            None => {
                let ttl = self.zone.negative_ttl();
                self.message.records(Section::Answer, owner, Rtype::HINFO, ttl, [b"\x07RFC8482\x00"])
            }
        }
    }

    /// SOA in the authority section, with the TTL of the negative answer (RFC 2308 section 5).
    fn negative(&mut self, verdict: Verdict, ttl: u32) -> Reply {
        let mut reply = Reply { authoritative: true, ..Reply::new(verdict) };
        if let Some(soa) = self.zone.apex().rrset(Rtype::SOA) {
            let owner = Owner::Wire(self.zone.origin().wire());
            reply.truncated = self.message.rrset(Section::Authority, owner, soa, ttl).is_err();
        }
        reply
    }

    fn referral(&mut self, cut: &Node) -> Reply {
        // AA speaks of the first owner name in the answer section (RFC 1035 section 4.1.1): after a
        // CNAME of ours it is ours.
        let mut reply = Reply { authoritative: self.links > 0, ..Reply::new(Verdict::Referral) };
        let Some(servers) = cut.rrset(Rtype::NS) else { return reply };
        let owner = Owner::Wire(cut.owner.wire());
        if self.message.rrset(Section::Authority, owner, servers, servers.ttl).is_err() {
            reply.truncated = true;
            return reply;
        }
        for glue in self.zone.glue(cut) {
            let host = self.zone.glue_node(*glue);
            for set in [Rtype::A, Rtype::AAAA].into_iter().filter_map(|rtype| host.rrset(rtype)) {
                let written =
                    self.message.rrset(Section::Additional, Owner::Wire(host.owner.wire()), set, set.ttl);
                if written.is_err() {
                    // RFC 9471 section 3.1: all glue of servers below the cut, or TC.
                    reply.truncated |= glue.required;
                }
            }
        }
        reply
    }

    fn tailored(&mut self, binding: Binding, source: IpAddr) -> Reply {
        let service = ServiceId(binding.service);
        let subnet = self
            .query
            .edns
            .as_ref()
            .and_then(|edns| edns.client_subnet)
            .map(|subnet| (subnet.address().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), subnet.source));
        let steered = (self.context.steer)(service, Client { subnet, source });
        let v4 = self.context.table.ipv4(service, steered.list);
        let v6 = self.context.table.ipv6(service, steered.list);
        let owner = Owner::At(self.owner);
        let section = Section::Answer;
        let (basis, ttl, written) = match self.query.rtype {
            Rtype::A => {
                let items = v4.addresses.iter().map(Ipv4Addr::octets);
                (
                    v4.basis,
                    v4.ttl,
                    self.message
                        .records(section, owner, Rtype::A, v4.ttl, items)
                        .map(|()| v4.addresses.len()),
                )
            }
            Rtype::AAAA => {
                let items = v6.addresses.iter().map(Ipv6Addr::octets);
                (
                    v6.basis,
                    v6.ttl,
                    self.message
                        .records(section, owner, Rtype::AAAA, v6.ttl, items)
                        .map(|()| v6.addresses.len()),
                )
            }
            _ => {
                let ttl = v4.ttl.min(v6.ttl);
                let basis = if v4.basis == Basis::NoFamily { v6.basis } else { v4.basis };
                let none = v4.addresses.is_empty() && v6.addresses.is_empty();
                let service = self.context.services.get(binding.service as usize);
                match service.filter(|service| !none && !service.alpn.is_empty()) {
                    Some(service) => {
                        (basis, ttl, self.https(service, &v4.addresses, &v6.addresses, ttl).map(|()| 1))
                    }
                    None => (basis, ttl, Ok(0)),
                }
            }
        };
        let mut reply = match written {
            Ok(0) => self.negative(Verdict::NoData, ttl.min(self.zone.negative_ttl())),
            Ok(_) => positive(Ok(())),
            Err(Full) => positive(Err(Full)),
        };
        reply.scope = if self.empty_everywhere(&reply, service) { 0 } else { steered.scope };
        reply.service = Some(service);
        reply.pop = match self.query.rtype {
            Rtype::A => v4.pops.first(),
            Rtype::AAAA => v6.pops.first(),
            _ => v4.pops.first().or(v6.pops.first()),
        }
        .copied();
        reply.all_down = basis == Basis::AllDown;
        if reply.all_down {
            reply.error = Some((Ede::Other, "no PoP of this service is healthy"));
        }
        reply
    }

    /// Whether a service answers nothing to any client, so that its answer is static after all.
    fn empty_everywhere(&self, reply: &Reply, service: ServiceId) -> bool {
        let table = self.context.table;
        reply.verdict == Verdict::NoData
            && match self.query.rtype {
                Rtype::A => !table.has_family(service, Family::V4),
                Rtype::AAAA => !table.has_family(service, Family::V6),
                _ => !table.has_family(service, Family::V4) && !table.has_family(service, Family::V6),
            }
    }

    /// RFC 9460 section 2.2: priority, target, parameters in the order of their keys.
    fn https(
        &mut self,
        service: &TailoredService,
        v4: &[Ipv4Addr],
        v6: &[Ipv6Addr],
        ttl: u32,
    ) -> Result<(), Full> {
        self.message.record(Owner::At(self.owner), Rtype::HTTPS, ttl, |data| {
            data.put(&[0, 1, 0])?;
            put_param(data, param::ALPN, std::iter::once(&*service.alpn))?;
            put_param(data, param::IPV4HINT, v4.iter().map(Ipv4Addr::octets))?;
            put_param(data, param::IPV6HINT, v6.iter().map(Ipv6Addr::octets))
        })
    }
}

/// Key, length, values; nothing at all without a value.
fn put_param<D: AsRef<[u8]>>(
    data: &mut Data<'_, '_>,
    key: u16,
    values: impl Iterator<Item = D> + Clone,
) -> Result<(), Full> {
    let length: usize = values.clone().map(|value| value.as_ref().len()).sum();
    if length == 0 {
        return Ok(());
    }
    data.put(&key.to_be_bytes())?;
    data.put(&u16::try_from(length).map_err(|_| Full)?.to_be_bytes())?;
    values.into_iter().try_for_each(|value| data.put(value.as_ref()))
}

fn positive(written: Result<(), Full>) -> Reply {
    Reply { authoritative: true, truncated: written.is_err(), ..Reply::new(Verdict::NoError) }
}

/// `version.bind` and its like (RFC 4892): TXT at names of class CHAOS, where the operator allows.
fn chaos(context: &Context<'_>, query: &Query<'_>, name: &NameBuf, message: &mut Message<'_>) -> Reply {
    let identity = context.identity;
    let text = match name.wire() {
        b"\x07version\x04bind\x00" | b"\x07version\x06server\x00" => identity.version.as_deref(),
        b"\x02id\x06server\x00" | b"\x08hostname\x04bind\x00" => identity.id.as_deref(),
        _ => None,
    };
    let Some(text) = text.filter(|_| matches!(query.rtype, Rtype::TXT | Rtype::ANY)) else {
        return Reply::because(Verdict::Refused, Ede::Prohibited, "nothing is said in class CHAOS here");
    };
    let written = message.chaos_txt(text);
    Reply {
        authoritative: true,
        truncated: written.is_err(),
        kind: Kind::Error,
        ..Reply::new(Verdict::NoError)
    }
}
