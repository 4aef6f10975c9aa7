//! Which PoPs a client is sent to: the only place where geography meets health.
//!
//! Two halves with different lives. [`Steering`] is compiled once per configuration and set of
//! databases: for each service, address → [`ListId`], the number of an interned ordered list of
//! PoPs. [`Table`] is rebuilt whenever health says something new: ([`ListId`], family) →
//! [`Chosen`], the addresses and TTL of an answer. A query is one lookup in each. Neither half
//! does I/O or reads a clock, and nothing on the query path can fail or allocate.
//!
//! The rest of the interface, in the order it is used: `Steering::compile(&Config, &Geo)`,
//! `Steering::service(name) -> Option<ServiceId>`, `Table::build(&Steering, &HealthView)`,
//! `Steering::lookup(ServiceId, Client) -> Steered`, [`Table::ipv4`], [`Table::ipv6`].
//!
//! Invariant: two addresses inside one returned scope are always steered alike
//! (RFC 7871 section 7.2.1), whatever the strategy.

mod health_view;
mod table;

pub use health_view::{AddressHealth, AddressState, CheckHealth, Drain, HealthView};
pub use table::{Basis, Chosen, Table};

use std::net::IpAddr;

/// Number of a service: its position in the (sorted) `Config::services`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// Number of an ordered PoP list within one service.
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
    /// RFC 7871 section 7.2.1 allows and caches understand. 0 for source length 0.
    pub scope: u8,
}
