//! List × health → answer: rebuilt whenever health says something new, never per query.
//!
//! The rules of fail-over live here: which of a list's PoPs are named, what happens when none is
//! up, and how long the answer may be kept.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{ListId, PopId, ServiceId};

/// Every answer every service can give under one state of health.
#[derive(Debug, Default)]
pub struct Table {
    services: Box<[ServiceAnswers]>,
}

/// One service's answers, by [`ListId`].
#[derive(Debug)]
struct ServiceAnswers {
    ipv4: Box<[Chosen<Ipv4Addr>]>,
    ipv6: Box<[Chosen<Ipv6Addr>]>,
}

/// The addresses of one family that answer one list's clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen<A> {
    /// What goes into the answer, nearest PoP first. Empty: NOERROR without an answer.
    pub addresses: Box<[A]>,
    /// The PoPs they belong to, in the same order.
    pub pops: Box<[PopId]>,
    /// Seconds; no longer than anything consulted is sure to stay, within the service's bounds.
    pub ttl: u32,
    /// Why these.
    pub basis: Basis,
}

/// Why a [`Chosen`] is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Healthy PoPs of the list.
    Healthy,
    /// None of the list's addresses of this family is up: the service's `all_down` decided.
    AllDown,
    /// No PoP of the service has an address of this family.
    NoFamily,
}

impl Table {
    /// The A answer of a service for a list.
    ///
    /// `service` and `list` must come from the [`super::Steering`] the table was built from.
    #[inline]
    pub fn ipv4(&self, service: ServiceId, list: ListId) -> &Chosen<Ipv4Addr> {
        &self.services[service.0 as usize].ipv4[list.0 as usize]
    }

    /// The AAAA answer of a service for a list.
    ///
    /// `service` and `list` must come from the [`super::Steering`] the table was built from.
    #[inline]
    pub fn ipv6(&self, service: ServiceId, list: ListId) -> &Chosen<Ipv6Addr> {
        &self.services[service.0 as usize].ipv6[list.0 as usize]
    }
}
