//! List × health → answer: rebuilt whenever health says something new, never per query.
//!
//! The rules of fail-over live here: which of a list's PoPs are named, what happens when none is
//! up, and how long the answer may be kept. Each address family is decided by itself: where a PoP's
//! IPv6 is down and its IPv4 up, AAAA goes to the next PoP with a live IPv6 address.
//!
//! **TTL.** Everything the decision looked at bounds it: the chosen addresses (they may go down) and
//! the preferred ones passed over (they may come back). PoPs behind the chosen ones were not
//! looked at and do not matter.
//!
//! **All down.** By default the whole list is served in order of preference, as if all were up: a
//! check may be wrong, and an address that may not work is better than none. Drained PoPs stay
//! out even then, as long as anything else is left: their operator knew more than a check does.
//!
//! **Busy.** A PoP that is not offered to a part of a list's clients ([`super::part`]) is passed over for them
//! while another one of the list is up, and does not make an answer shorter-lived: nothing is wrong with what was
//! answered when a share changes, so a share waits for answers to expire and not the other way round. Parts that
//! are answered alike share a row: a list without a busy PoP has one.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::{net::IpAddr, time::Duration};

use nearside_fleet::config::{AllDown, Service};
use nearside_geoip::prefix::Family;

use super::{
    AddressHealth, AddressState, HealthView, ListId, PopId, ServiceId, ServicePlan, Steering,
    order::name_hash, part,
};

/// Every answer every service can give under one state of health.
#[derive(Debug, Default)]
pub struct Table {
    services: Box<[ServiceAnswers]>,
}

/// One service's answers, by row.
#[derive(Debug)]
struct ServiceAnswers {
    ipv4: Box<[Chosen<Ipv4Addr>]>,
    ipv6: Box<[Chosen<Ipv6Addr>]>,
    rows: Rows,
}

/// Where a [`ListId`] is answered.
#[derive(Debug)]
enum Rows {
    /// A row per list.
    List,
    /// The service sheds, and nobody is busy: a row per list, whatever the part.
    Whole,
    /// Row of each part of each list.
    Part(Box<[u32]>),
}

impl Rows {
    #[inline]
    fn of(&self, list: ListId) -> usize {
        match self {
            Self::List => list.0 as usize,
            Self::Whole => part::split(list).0.0 as usize,
            Self::Part(rows) => rows[list.0 as usize] as usize,
        }
    }
}

/// The addresses of one family that answer one list's clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen<A> {
    /// What goes into the answer, nearest PoP first. Empty: NOERROR without an answer.
    pub addresses: Box<[A]>,
    /// The PoPs they belong to, in the same order, each once.
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
    /// No PoP of the list has an address of this family.
    NoFamily,
}

/// Lists of one service and family that nobody healthy serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllDownAt {
    /// The service.
    pub service: ServiceId,
    /// Which answers.
    pub family: Family,
    /// How many of its lists.
    pub lists: usize,
    /// Of how many.
    pub of: usize,
}

#[cfg(test)]
impl Table {
    /// One service with one list that is answered so.
    pub(crate) fn of(ipv4: Chosen<Ipv4Addr>, ipv6: Chosen<Ipv6Addr>) -> Self {
        let (ipv4, ipv6) = (Box::new([ipv4]), Box::new([ipv6]));
        Self { services: Box::new([ServiceAnswers { ipv4, ipv6, rows: Rows::List }]) }
    }
}

impl Table {
    /// Works out every answer. Microseconds per list; a fleet has a few dozen lists per service.
    pub fn build(steering: &Steering, health: &HealthView) -> Self {
        let answers = steering.services.iter().map(|plan| {
            let health = ServiceHealth::new(steering, plan, health);
            let (kinds, rows) = health.rows(&plan.plan.lists, plan.sheds);
            let row = |&(list, part): &(usize, u32)| (&plan.plan.lists[list], part);
            ServiceAnswers {
                ipv4: kinds
                    .iter()
                    .map(row)
                    .map(|(list, part)| health.choose(&health.ipv4, list, part))
                    .collect(),
                ipv6: kinds
                    .iter()
                    .map(row)
                    .map(|(list, part)| health.choose(&health.ipv6, list, part))
                    .collect(),
                rows,
            }
        });
        Self { services: answers.collect() }
    }

    /// The A answer of a service for a list.
    ///
    /// `service` and `list` must come from the [`super::Steering`] the table was built from.
    #[inline]
    pub fn ipv4(&self, service: ServiceId, list: ListId) -> &Chosen<Ipv4Addr> {
        let answers = &self.services[service.0 as usize];
        &answers.ipv4[answers.rows.of(list)]
    }

    /// The AAAA answer of a service for a list.
    ///
    /// `service` and `list` must come from the [`super::Steering`] the table was built from.
    #[inline]
    pub fn ipv6(&self, service: ServiceId, list: ListId) -> &Chosen<Ipv6Addr> {
        let answers = &self.services[service.0 as usize];
        &answers.ipv6[answers.rows.of(list)]
    }

    /// Whether any list of a service has addresses of this family, healthy or not: where none has,
    /// an empty answer is the same for every client.
    pub fn has_family(&self, service: ServiceId, family: Family) -> bool {
        let answers = &self.services[service.0 as usize];
        match family {
            Family::V4 => answers.ipv4.iter().any(|chosen| chosen.basis != Basis::NoFamily),
            Family::V6 => answers.ipv6.iter().any(|chosen| chosen.basis != Basis::NoFamily),
        }
    }

    /// Services with lists that nobody healthy serves, to be said aloud.
    pub fn all_down(&self) -> impl Iterator<Item = AllDownAt> {
        fn count<A>(chosen: &[Chosen<A>]) -> usize {
            chosen.iter().filter(|chosen| chosen.basis == Basis::AllDown).count()
        }
        let both = self.services.iter().zip((0..).map(ServiceId)).flat_map(|(answers, service)| {
            [
                (service, Family::V4, count(&answers.ipv4), answers.ipv4.len()),
                (service, Family::V6, count(&answers.ipv6), answers.ipv6.len()),
            ]
        });
        both.filter(|&(_, _, lists, _)| lists > 0).map(|(service, family, lists, of)| AllDownAt {
            service,
            family,
            lists,
            of,
        })
    }
}

/// Health of every PoP's addresses, for one service; by [`PopId`].
#[derive(Clone)]
pub(super) struct ServiceHealth<'a> {
    service: &'a Service,
    pub(super) ipv4: Vec<Vec<(Ipv4Addr, AddressHealth)>>,
    pub(super) ipv6: Vec<Vec<(Ipv6Addr, AddressHealth)>>,
    /// What [`AllDown::Pops`] names.
    last_resort: Vec<PopId>,
    /// PoPs that are offered to a part of their clients only.
    busy: Vec<Busy>,
}

/// One of them.
#[derive(Clone, Copy)]
struct Busy {
    pop: PopId,
    seed: u64,
    /// Parts it is offered to.
    offered: u32,
}

impl<'a> ServiceHealth<'a> {
    pub(super) fn new(steering: &Steering, plan: &'a ServicePlan, view: &HealthView) -> Self {
        let service = &plan.service;
        let last_resort = match &service.all_down {
            AllDown::Pops(names) => names,
            AllDown::All | AllDown::NoData => &Vec::new(),
        };
        let last_resort = last_resort.iter().filter_map(|name| {
            steering.pops.iter().position(|pop| pop.name == *name).map(|at| PopId(at as u32))
        });
        let last_resort: Vec<PopId> = last_resort.collect();
        let rule_pops = plan.plan.lists.iter().flatten();
        let mut used = vec![false; steering.pops.len()];
        for pop in rule_pops.chain(&last_resort) {
            used[pop.0 as usize] = true;
        }
        let mut health = Self {
            service,
            ipv4: vec![Vec::new(); steering.pops.len()],
            ipv6: vec![Vec::new(); steering.pops.len()],
            last_resort,
            busy: Vec::new(),
        };
        for (at, pop) in steering.pops.iter().enumerate().filter(|&(at, _)| used[at]) {
            let of = |addr: IpAddr| view.address(service, &pop.name, addr);
            health.ipv4[at] = pop.ipv4.iter().map(|&addr| (addr, of(addr.into()))).collect();
            health.ipv6[at] = pop.ipv6.iter().map(|&addr| (addr, of(addr.into()))).collect();
            // Without offers nothing is looked up: a thousand PoPs would be a thousand names to copy.
            if plan.sheds
                && !view.offers.is_empty()
                && let Some(offer) = view.offers.get(&(service.name.clone(), pop.name.clone()))
            {
                let (pop, seed) = (PopId(at as u32), name_hash(&pop.name));
                health.busy.push(Busy { pop, seed, offered: part::offered(offer.share) });
            }
        }
        health
    }

    /// Rows, each a list and one of the parts it answers, and where every part of every list finds its row.
    fn rows(&self, lists: &[Box<[PopId]>], sheds: bool) -> (Vec<(usize, u32)>, Rows) {
        let whole = (0..lists.len()).map(|list| (list, 0));
        if !sheds {
            return (whole.collect(), Rows::List);
        }
        if self.busy.is_empty() {
            return (whole.collect(), Rows::Whole);
        }
        let mut kinds = Vec::with_capacity(lists.len());
        let mut rows = Vec::with_capacity(lists.len() * part::PARTS as usize);
        for (number, list) in lists.iter().enumerate() {
            let busy: Vec<&Busy> = self.busy.iter().filter(|busy| list.contains(&busy.pop)).collect();
            // Who is passed over, and its row. A list has few busy PoPs: at most a few dozen kinds of parts.
            let mut seen: Vec<(Vec<bool>, u32)> = Vec::new();
            for part in 0..part::PARTS {
                let passed: Vec<bool> =
                    busy.iter().map(|busy| !part::is_offered(busy.seed, part, busy.offered)).collect();
                let row = match seen.iter().find(|(kind, _)| *kind == passed) {
                    Some((_, row)) => *row,
                    None => {
                        kinds.push((number, part));
                        let row = kinds.len() as u32 - 1;
                        seen.push((passed, row));
                        row
                    }
                };
                rows.push(row);
            }
        }
        (kinds, Rows::Part(rows.into()))
    }

    /// Whether a PoP is offered to a part of its clients.
    pub(super) fn is_offered(&self, pop: PopId, part: u32) -> bool {
        let busy = self.busy.iter().find(|busy| busy.pop == pop);
        busy.is_none_or(|busy| part::is_offered(busy.seed, part, busy.offered))
    }

    /// The same health, but for one PoP that is down for good.
    pub(super) fn without(&self, pop: PopId) -> Self {
        fn kill<A>(addresses: &mut [(A, AddressHealth)]) {
            for (_, health) in addresses {
                health.state = AddressState::Down;
            }
        }
        let mut health = self.clone();
        kill(&mut health.ipv4[pop.0 as usize]);
        kill(&mut health.ipv6[pop.0 as usize]);
        health
    }

    /// The answer of one family for one part of one list's clients.
    pub(super) fn choose<A: Copy>(
        &self,
        pops: &[Vec<(A, AddressHealth)>],
        list: &[PopId],
        part: u32,
    ) -> Chosen<A> {
        if !list.iter().any(|&pop| !pops[pop.0 as usize].is_empty()) {
            return Answer::new().finish(self.service, Basis::NoFamily);
        }
        let mut answer = self.healthy(pops, list, |pop| self.is_offered(pop, part));
        if answer.pops.is_empty() && !self.busy.is_empty() {
            // Better busy than dead.
            answer = self.healthy(pops, list, |_| true);
        }
        if !answer.pops.is_empty() {
            return answer.finish(self.service, Basis::Healthy);
        }
        match self.service.all_down {
            AllDown::NoData => return answer.finish(self.service, Basis::AllDown),
            AllDown::Pops(_) => {
                for &pop in &self.last_resort {
                    answer.add(pop, &pops[pop.0 as usize], |_| true);
                }
            }
            AllDown::All => {}
        }
        // Also where the last resort has no address of this family: one family down must not
        // become NODATA by accident.
        for wanted in [Willing::NotDrained, Willing::Anything] {
            if answer.pops.is_empty() {
                for &pop in list {
                    answer.add(pop, &pops[pop.0 as usize], |state| wanted.takes(state));
                }
            }
        }
        answer.finish(self.service, Basis::AllDown)
    }

    /// The first PoPs of a list that are up, among those that `offered` does not pass over.
    fn healthy<A: Copy>(
        &self,
        pops: &[Vec<(A, AddressHealth)>],
        list: &[PopId],
        offered: impl Fn(PopId) -> bool,
    ) -> Answer<A> {
        let mut answer = Answer::new();
        for &pop in list.iter().filter(|&&pop| offered(pop)) {
            answer.add(pop, &pops[pop.0 as usize], |state| state == AddressState::Up);
            if answer.pops.len() >= self.service.answers.max(1) {
                break;
            }
        }
        answer
    }
}

/// What is served when all is down.
#[derive(Clone, Copy)]
enum Willing {
    NotDrained,
    Anything,
}

impl Willing {
    fn takes(self, state: AddressState) -> bool {
        match self {
            Self::NotDrained => state != AddressState::Drained,
            Self::Anything => true,
        }
    }
}

/// An answer under construction.
struct Answer<A> {
    addresses: Vec<A>,
    pops: Vec<PopId>,
    /// Until something consulted may change.
    unchanged_for: Duration,
}

impl<A: Copy> Answer<A> {
    fn new() -> Self {
        Self { addresses: Vec::new(), pops: Vec::new(), unchanged_for: Duration::MAX }
    }

    /// Consults a PoP and takes those of its addresses whose state will do.
    fn add(&mut self, pop: PopId, addresses: &[(A, AddressHealth)], will_do: impl Fn(AddressState) -> bool) {
        let before = self.addresses.len();
        for (address, health) in addresses {
            self.unchanged_for = self.unchanged_for.min(health.unchanged_for);
            if will_do(health.state) {
                self.addresses.push(*address);
            }
        }
        if self.addresses.len() > before {
            self.pops.push(pop);
        }
    }

    fn finish(self, service: &Service, basis: Basis) -> Chosen<A> {
        // Not `clamp`: it panics on bounds that cross.
        let ttl = self.unchanged_for.min(service.ttl_max).max(service.ttl_min);
        Chosen {
            addresses: self.addresses.into(),
            pops: self.pops.into(),
            ttl: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
            basis,
        }
    }
}
