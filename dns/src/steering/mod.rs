//! Which PoPs a client is sent to: the only place where geography meets health.
//!
//! Two halves with different lives. [`Steering`] is compiled once per configuration and set of
//! databases: for each service, address → [`ListId`], the number of an interned ordered list of
//! PoPs. [`Table`] is rebuilt whenever health says something new: ([`ListId`], family) →
//! [`Chosen`], the addresses and TTL of an answer. A query is one lookup in each. Neither half
//! does I/O or reads a clock, and nothing on the query path can fail or allocate.
//!
//! In the order it is used: [`open_geo`], [`Steering::compile`], [`Steering::service`],
//! [`Table::build`], [`Steering::lookup`], [`Table::ipv4`], [`Table::ipv6`].
//!
//! **Scope.** Two addresses inside one returned scope are always steered alike (RFC 7871 section
//! 7.2.1), whatever the strategy. By geography (`nearest`, `rules`) the scope is the leaf of the map:
//! exact and maximal. `ordered` sends everyone the same way: scope 0. By hash (`hash`, `weighted`) the
//! client's /24 or /48 is the unit, fixed, so that a client keeps its PoP whatever source length its
//! resolver sends: the scope is 24 or 48. Private and other special-purpose clients are steered by the
//! resolver's own address, and the scope is their whole block: the map keeps those blocks apart from
//! their neighbours. A resolver's address may stand for another (`[[geoip.resolver]]`): that touches only
//! answers without a scope, or with that of a special-purpose block. Where a service has a single list, its scope is 0 for everybody.
//!
//! **Shedding** ([`part`]). Where a service has `shed_above`, a network's part is decided beside its list, by a hash
//! of the scope prefix itself, so that scopes stay exact; those wider than a unit are narrowed to it.

mod diff;
mod explain;
mod health_view;
mod order;
mod part;
mod table;

pub use diff::{Diff, Move, ServiceDiff, diff_geo};
pub use explain::{AddressShown, AnswerShown, CandidateShown, Explanation, MatchedRule, OfferShown};
pub use health_view::{AddressHealth, AddressState, CheckHealth, Drain, HealthView, Offer};
pub use table::{AllDownAt, Basis, Chosen, Table};

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use nearside_fleet::config::{Config, Geoip, Id, Pop, Service, Strategy};
use nearside_geoip::{
    database::DatabaseError,
    geo::{Geo, Reach},
    map::{Builder, Map, embedded_v4, special},
    place::{CodeError, Coordinates, Place},
    prefix::{Family, Prefix, PrefixError},
};

use order::{Order, bucket};

/// Number of a service: its position in the (sorted) `Config::services`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// Number of an ordered PoP list within one service; of a list and a part of its clients
/// ([`part::PARTS`] per list) where the service sheds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListId(pub u32);

/// Number of a PoP: its position in the (sorted) `Config::pops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PopId(pub u32);

/// Who asks, as far as the query tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Address and source prefix length of the client subnet option, already validated.
    pub subnet: Option<(IpAddr, u8)>,
    /// Where the query came from: the resolver.
    pub source: IpAddr,
}

/// Where a client is sent, and for whom else that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steered {
    /// The list that serves it.
    pub list: ListId,
    /// Prefix length for which the same list holds: the SCOPE PREFIX-LENGTH of the answer when
    /// the query had a client subnet. Exact; may exceed the query's source prefix length, which
    /// RFC 7871 section 7.2.1 allows and caches understand. 0 without a subnet and for source
    /// length 0 (section 7.1.2: the client's address is not to be used, so the resolver's is).
    pub scope: u8,
}

/// Parts of a hashed service's clients that move together. 65,536 lists of 4 bytes are 256 KiB, and
/// a share of 1/6 is met within 1 % (one standard deviation).
const BUCKETS: usize = 1 << 16;

/// Bits of an IPv4 and an IPv6 client that hashing looks at: what resolvers send at most
/// (RFC 7871 section 11.1 recommends 24 and 56; 48 is what a site is given).
const HASH_BITS_V4: u8 = 24;
const HASH_BITS_V6: u8 = 48;

/// First 48 bits of ::/48 (::1, IPv4-mapped) and 64:ff9b::/48 (NAT64).
const SHARED_SITES: [u64; 2] = [0, 0x0064_ff9b_0000];

/// Map value of special-purpose blocks; lists follow it.
const SPECIAL: u32 = 0;

/// Everything decided by configuration and geography.
#[derive(Debug)]
pub struct Steering {
    /// By [`PopId`].
    pops: Box<[Pop]>,
    /// By [`ServiceId`].
    services: Box<[ServicePlan]>,
    names: HashMap<Id, ServiceId>,
    resolvers: Option<Resolvers>,
}

/// Resolvers that stand for clients elsewhere.
#[derive(Debug)]
struct Resolvers {
    /// 0, or 1 more than the position in `places`.
    map: Map,
    places: Box<[IpAddr]>,
}

#[derive(Debug)]
struct ServicePlan {
    service: Service,
    plan: Arc<Plan>,
    /// Whether lists come with a part of their clients.
    sheds: bool,
}

/// How clients of one or more services find their list.
#[derive(Debug)]
struct Plan {
    how: How,
    /// By [`ListId`].
    lists: Box<[Box<[PopId]>]>,
    /// For who cannot be placed, resolver included.
    default: ListId,
}

#[derive(Debug)]
enum How {
    /// Everyone has list 0.
    Same,
    /// By geography: [`SPECIAL`], or 1 more than the list.
    Place(Map),
    /// By hash of the client's prefix: list per bucket.
    Bucket(Box<[ListId]>),
}

/// Why a configuration cannot be steered by.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A database is unusable.
    #[error("database {0}")]
    Database(#[from] DatabaseError),
    /// A continent, country or subdivision that does not exist.
    #[error("{place}: {cause}")]
    Code {
        /// Where it is written.
        place: String,
        /// What was read and expected.
        cause: CodeError,
    },
    /// A network that is none.
    #[error("{place}: {cause}")]
    Network {
        /// Where it is written.
        place: String,
        /// What was read and expected.
        cause: PrefixError,
    },
    /// A PoP that the configuration does not have.
    #[error("service {service:?} names PoP {pop:?}, which does not exist")]
    Pop {
        /// The service.
        service: Id,
        /// The name.
        pop: Id,
    },
}

/// Opens the databases of a configuration and takes in the operator's networks.
///
/// Databases stay in memory as long as the [`Geo`] lives: drop it after [`Steering::compile`].
///
/// # Errors
/// An unusable database, a code or network that does not exist.
pub fn open_geo(config: &Geoip) -> Result<Geo, CompileError> {
    open_geo_with(config, &config.databases)
}

/// Like [`open_geo`], with other databases in place of the configured ones.
///
/// # Errors
/// As [`open_geo`].
pub fn open_geo_with(config: &Geoip, databases: &[std::path::PathBuf]) -> Result<Geo, CompileError> {
    let mut operator = Vec::with_capacity(config.networks.len());
    for written in &config.networks {
        let place = || format!("geoip network {}/{}", written.network, written.length);
        let network = Prefix::new(written.network, written.length)
            .map_err(|cause| CompileError::Network { place: place(), cause })?;
        let bad = |cause| CompileError::Code { place: place(), cause };
        operator.push((
            network,
            Place {
                continent: written.continent.as_deref().map(str::parse).transpose().map_err(bad)?,
                country: written.country.as_deref().map(str::parse).transpose().map_err(bad)?,
                subdivision: written.subdivision.as_deref().map(str::parse).transpose().map_err(bad)?,
                coordinates: written.location.and_then(|l| Coordinates::new(l.latitude, l.longitude)),
                asn: None,
            },
        ));
    }
    Ok(Geo::open(databases, operator)?)
}

impl Steering {
    /// Decides for every address and service once. Services with the same PoPs, strategy and number of
    /// candidates share one map. A city database takes about a second per distinct map.
    ///
    /// # Errors
    /// A damaged database, or a configuration that was not validated.
    pub fn compile(config: &Config, geo: &Geo) -> Result<Self, CompileError> {
        // In order of name, as `BTreeMap` keeps them: positions are ids, and names can be searched.
        let pops: Box<[Pop]> = config.pops.values().cloned().collect();
        let mut services: Vec<ServicePlan> = Vec::with_capacity(config.services.len());
        for service in config.services.values() {
            let alike = services.iter().find(|other| {
                other.service.pops == service.pops
                    && other.service.strategy == service.strategy
                    && other.service.candidates == service.candidates
            });
            let plan = match alike {
                Some(other) => other.plan.clone(),
                None => Arc::new(Plan::compile(&pops, service, geo)?),
            };
            let sheds = service.shed_above.is_some();
            services.push(ServicePlan { service: service.clone(), plan, sheds });
        }
        let names = config.services.keys().cloned().zip((0..).map(ServiceId)).collect();
        let resolvers = Resolvers::new(&config.geoip)?;
        Ok(Self { pops, services: services.into_boxed_slice(), names, resolvers })
    }

    /// Number of a service.
    pub fn service(&self, name: &str) -> Option<ServiceId> {
        self.names.get(name).copied()
    }

    /// Name of a PoP.
    pub fn pop_name(&self, pop: PopId) -> &str {
        &self.pops[pop.0 as usize].name
    }

    /// The PoPs of a list, best first.
    pub fn list(&self, service: ServiceId, list: ListId) -> &[PopId] {
        let ServicePlan { plan, sheds, .. } = &self.services[service.0 as usize];
        let list = if *sheds { part::split(list).0 } else { list };
        &plan.lists[list.0 as usize]
    }

    /// The list for a client. A few nanoseconds, no allocation.
    ///
    /// `service` must come from this value.
    #[inline]
    pub fn lookup(&self, service: ServiceId, client: Client) -> Steered {
        let ServicePlan { plan, sheds, .. } = &self.services[service.0 as usize];
        if *sheds {
            return self.lookup_part(plan, client);
        }
        match client.subnet {
            Some((addr, len)) if len > 0 => match plan.at(addr) {
                (Some(list), scope) => Steered { list, scope },
                (None, scope) => Steered { list: plan.by_resolver(self.stand_in(client.source)), scope },
            },
            _ => Steered { list: plan.by_resolver(self.stand_in(client.source)), scope: 0 },
        }
    }

    /// [`Steering::lookup`] of a service that sheds: the list and the part of its clients.
    fn lookup_part(&self, plan: &Plan, client: Client) -> Steered {
        let by_resolver = || plan.part_by_resolver(self.stand_in(client.source));
        match client.subnet {
            Some((addr, len)) if len > 0 => match plan.part_at(addr) {
                (Some(list), scope) => Steered { list, scope },
                (None, scope) => Steered { list: by_resolver(), scope },
            },
            _ => Steered { list: by_resolver(), scope: 0 },
        }
    }

    /// The address that a resolver's clients are steered by: its own, unless the operator knows better.
    #[inline]
    fn stand_in(&self, source: IpAddr) -> IpAddr {
        let Some(resolvers) = &self.resolvers else { return source };
        match resolvers.map.lookup(source).value.checked_sub(1) {
            Some(place) => resolvers.places[place as usize],
            None => source,
        }
    }

    /// Bytes held by maps and buckets, shared ones counted once.
    pub fn bytes(&self) -> usize {
        let mut seen: Vec<*const Plan> = Vec::new();
        let mut bytes = 0;
        for service in &self.services {
            let plan = Arc::as_ptr(&service.plan);
            if !seen.contains(&plan) {
                seen.push(plan);
                bytes += match &service.plan.how {
                    How::Same => 0,
                    How::Place(map) => map.bytes(),
                    How::Bucket(buckets) => size_of_val(&**buckets),
                };
            }
        }
        bytes
    }
}

impl Resolvers {
    /// `None`: every resolver stands for itself.
    fn new(config: &Geoip) -> Result<Option<Self>, CompileError> {
        if config.resolvers.is_empty() {
            return Ok(None);
        }
        let mut map = Builder::new(0);
        for (written, number) in config.resolvers.iter().zip(1..) {
            let network = Prefix::new(written.network, written.length).map_err(|cause| {
                let place = format!("geoip resolver {}/{}", written.network, written.length);
                CompileError::Network { place, cause }
            })?;
            map.push(network, number);
        }
        let places = config.resolvers.iter().map(|written| written.place_as).collect();
        Ok(Some(Self { map: map.finish(), places }))
    }
}

impl Plan {
    fn compile(pops: &[Pop], service: &Service, geo: &Geo) -> Result<Self, CompileError> {
        let mut order = Order::new(pops, service)?;
        match &service.strategy {
            Strategy::Ordered => {
                let default = order.as_written();
                Ok(Self { how: How::Same, lists: order.into_lists().into_lists(), default })
            }
            Strategy::Weighted(weights) => Ok(Self::buckets(order, Some(weights))),
            Strategy::Hash => Ok(Self::buckets(order, None)),
            Strategy::Nearest | Strategy::Rules(_) => {
                let labels = order::labels(service)?;
                let map = geo.compile(&labels, |spot| match spot.reach {
                    // Unless a rule names the network, such as the operator's own private one.
                    Reach::Special if order.rule(spot).is_none() => SPECIAL,
                    Reach::Special | Reach::Global => order.of_spot(spot).0 + 1,
                })?;
                let default = order.of_spot(&Default::default());
                // One list for everybody, and special blocks need no telling apart either.
                let how = if order.lists().len() == 1 { How::Same } else { How::Place(map) };
                Ok(Self { how, lists: order.into_lists().into_lists(), default })
            }
        }
    }

    fn buckets(mut order: Order<'_>, weights: Option<&Vec<u32>>) -> Self {
        let weights = weights.filter(|weights| weights.iter().any(|&w| w > 0)).map(Vec::as_slice);
        let buckets: Box<[ListId]> =
            (0..BUCKETS as u32).map(|bucket| order.of_bucket(bucket, weights)).collect();
        let how = if order.lists().len() == 1 { How::Same } else { How::Bucket(buckets) };
        // Never used for a hash: every address, special ones too, has a bucket.
        Self { how, lists: order.into_lists().into_lists(), default: ListId(0) }
    }

    /// List and scope of an address; no list for special-purpose blocks.
    #[inline]
    fn at(&self, addr: IpAddr) -> (Option<ListId>, u8) {
        match &self.how {
            How::Same => (Some(ListId(0)), 0),
            How::Place(map) => {
                let hit = map.lookup(addr);
                (hit.value.checked_sub(SPECIAL + 1).map(ListId), hit.scope)
            }
            How::Bucket(buckets) => {
                let (prefix, scope) = hashed_prefix(addr);
                match special_scope(addr) {
                    Some(scope) => (None, scope),
                    None => (Some(buckets[bucket(prefix)]), scope),
                }
            }
        }
    }

    /// [`Plan::at`] with the part of the list's clients that the address belongs to; its unit is what the
    /// scope covers, so whoever shares the scope shares the part.
    fn part_at(&self, addr: IpAddr) -> (Option<ListId>, u8) {
        let (list, scope) = match self.how {
            // One list for everyone, but not one part.
            How::Same => match special_scope(addr) {
                Some(scope) => (None, scope),
                None => (Some(ListId(0)), hashed_prefix(addr).1),
            },
            How::Place(_) | How::Bucket(_) => self.at(addr),
        };
        let Some(list) = list else { return (None, scope) };
        let scope = part::narrowed(addr, scope);
        (Some(part::join(list, part::of(addr, scope))), scope)
    }

    /// [`Plan::by_resolver`] with the part of the list's clients.
    fn part_by_resolver(&self, source: IpAddr) -> ListId {
        match self.part_at(source) {
            (Some(list), _) => list,
            // A resolver within a private network is a client like any other of its block.
            (None, scope) => part::join(self.by_resolver(source), part::of(source, scope)),
        }
    }

    /// List by the resolver's own address.
    #[inline]
    fn by_resolver(&self, source: IpAddr) -> ListId {
        match &self.how {
            How::Bucket(buckets) => buckets[bucket(hashed_prefix(source).0)],
            How::Same | How::Place(_) => self.at(source).0.unwrap_or(self.default),
        }
    }
}

/// What hashing looks at, as a number, and its length as a scope.
fn hashed_prefix(addr: IpAddr) -> (u64, u8) {
    let v4 = |bits: u32| u64::from(bits >> (32 - HASH_BITS_V4));
    match addr {
        IpAddr::V4(addr) => (v4(addr.to_bits()), HASH_BITS_V4),
        IpAddr::V6(addr) => match embedded_v4(addr) {
            Some((inner, offset)) => (v4(inner.to_bits()), offset + HASH_BITS_V4),
            None => {
                let bits = (addr.to_bits() >> (128 - HASH_BITS_V6)) as u64;
                // Native addresses that share their /48 with such that carry IPv4 or stand for
                // themselves: nobody's, but a scope of 48 would claim those as well.
                let scope = if SHARED_SITES.contains(&bits) { 128 } else { HASH_BITS_V6 };
                // The top bit keeps them apart from all IPv4 numbers.
                (bits | 1 << 63, scope)
            }
        },
    }
}

/// Length of the special-purpose block around an address, in the address's own family.
fn special_scope(addr: IpAddr) -> Option<u8> {
    let block = special(addr)?;
    match (addr, block.family()) {
        (IpAddr::V6(v6), Family::V4) => Some(embedded_v4(v6)?.1 + block.len()),
        _ => Some(block.len()),
    }
}

#[cfg(test)]
mod tests;
