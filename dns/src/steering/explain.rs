//! Why a client gets the answer it gets, as data; words and JSON are made of it elsewhere.
//!
//! Decides nothing: list, scope and answer are the ones the query path would give, asked of the same
//! [`Steering`] and the same rules as [`Table`](super::Table). Only what no query needs (distances, the place, who
//! knew it, the answer without the first PoP) is worked out here, slowly.

use std::net::IpAddr;

use nearside_fleet::config::{Match, Strategy};
use nearside_geoip::{
    database::DatabaseError,
    geo::{Geo, Spot},
    map::special,
    place::Coordinates,
    prefix::Prefix,
};
use serde::Serialize;

use super::{
    AddressState, Basis, Chosen, Client, HealthView, PopId, ServiceId, Steering,
    order::{Order, coordinates, labels},
    part,
    table::ServiceHealth,
};

/// Everything about one client of one service.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The service.
    pub service: String,
    /// `nearest`, `rules`, `ordered`, `weighted` or `hash`.
    pub strategy: &'static str,
    /// The address that decided.
    pub decided_by: IpAddr,
    /// The resolver that the deciding address stands in for (`[[geoip.resolver]]`).
    pub stands_for: Option<IpAddr>,
    /// The special-purpose block of the client subnet, if that is why the resolver decided.
    pub special: Option<String>,
    /// The rule that matched, if any.
    pub rule: Option<MatchedRule>,
    /// Where the deciding address is, for people: `EU DE BY (48.14, 11.58) AS3320`.
    pub place: String,
    /// City, where a database names it.
    pub city: Option<String>,
    /// The smallest network around the deciding address that a source names.
    pub network: String,
    /// Who knew the place: database files, the built-in table, an operator's network.
    pub sources: Vec<String>,
    /// The list, best first.
    pub candidates: Vec<CandidateShown>,
    /// SCOPE PREFIX-LENGTH of the answer.
    pub scope: u8,
    /// The A answer.
    pub ipv4: AnswerShown,
    /// The AAAA answer.
    pub ipv6: AnswerShown,
    /// Both answers if the first PoP of the A answer (else of the AAAA answer) died now.
    pub if_first_died: Option<[AnswerShown; 2]>,
}

/// A rule of the service.
#[derive(Clone, Debug, Serialize)]
pub struct MatchedRule {
    /// Its position, from 1.
    pub number: usize,
    /// What it asks: `continent AF or country IN`.
    pub when: String,
}

/// One PoP of the list.
#[derive(Clone, Debug, Serialize)]
pub struct CandidateShown {
    /// Its name.
    pub pop: String,
    /// Great-circle distance from the place; `None` if that is unknown.
    pub distance_km: Option<f64>,
    /// Subtracted from the distance.
    pub bias_km: f64,
    /// State of each address.
    pub addresses: Vec<AddressShown>,
    /// Where the PoP is busy: how much of it is offered.
    pub offer: Option<OfferShown>,
}

/// How much of a busy PoP is offered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OfferShown {
    /// Percent of the client networks.
    pub percent: f64,
    /// Whether this client's network is among them.
    pub here: bool,
    /// The load it last told; `None`: none of late.
    pub load: Option<f64>,
    /// The service's threshold.
    pub above: f64,
}

/// One address of a PoP.
#[derive(Clone, Debug, Serialize)]
pub struct AddressShown {
    /// The address.
    pub address: IpAddr,
    /// Up, down or drained.
    pub state: AddressState,
    /// Why.
    pub reason: String,
}

/// An answer of one family.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnswerShown {
    /// In the order they are served.
    pub addresses: Vec<IpAddr>,
    /// Names of the PoPs they belong to.
    pub pops: Vec<String>,
    /// Seconds.
    pub ttl: u32,
    /// Healthy PoPs, all down, or no address of this family.
    pub basis: Basis,
}

impl Steering {
    /// Explains what a client of a service gets. Milliseconds; opens nothing, but `geo` must hold
    /// the databases this value was compiled from, or the place shown may differ from the one used.
    ///
    /// # Errors
    /// A database turned out to be damaged.
    pub fn explain(
        &self,
        geo: &Geo,
        health: &HealthView,
        service: ServiceId,
        client: Client,
    ) -> Result<Explanation, DatabaseError> {
        let plan = &self.services[service.0 as usize];
        let steered = self.lookup(service, client);
        let subnet = client.subnet.filter(|&(_, len)| len > 0).map(|(addr, _)| addr);
        // The map knows best whether the block was special: a database or an operator may place it.
        let passed_over = subnet.filter(|&addr| plan.plan.at(addr).0.is_none());
        let by_subnet = subnet.filter(|_| passed_over.is_none());
        let decided_by = by_subnet.unwrap_or_else(|| self.stand_in(client.source));
        let stands_for = by_subnet.is_none().then_some(client.source).filter(|&source| source != decided_by);
        let located = geo.locate(decided_by)?;
        let list = self.list(service, steered.list);
        let states = ServiceHealth::new(self, plan, health);
        let part = if plan.sheds { part::split(steered.list).1 } else { 0 };
        let ipv4 = states.choose(&states.ipv4, list, part);
        let ipv6 = states.choose(&states.ipv6, list, part);
        let first = ipv4.pops.first().or(ipv6.pops.first()).copied();
        let if_first_died = first.map(|pop| {
            let states = states.without(pop);
            [
                self.shown(&states.choose(&states.ipv4, list, part)),
                self.shown(&states.choose(&states.ipv6, list, part)),
            ]
        });
        let place = located.place;
        Ok(Explanation {
            service: plan.service.name.clone(),
            strategy: match plan.service.strategy {
                Strategy::Nearest => "nearest",
                Strategy::Ordered => "ordered",
                Strategy::Weighted(_) => "weighted",
                Strategy::Hash => "hash",
                Strategy::Rules(_) => "rules",
            },
            decided_by,
            stands_for,
            special: passed_over.and_then(special).map(|block| block.to_string()),
            rule: self.matched_rule(service, decided_by, place),
            place: place.to_string(),
            city: located.city,
            network: located.network.to_string(),
            sources: located.sources.iter().map(ToString::to_string).collect(),
            candidates: list
                .iter()
                .map(|&pop| {
                    let offer =
                        health.offers.get(&(plan.service.name.clone(), self.pop_name(pop).to_owned()));
                    let offer = offer.filter(|_| plan.sheds).map(|offer| OfferShown {
                        percent: (offer.share * 1000.0).round() / 10.0,
                        here: states.is_offered(pop, part),
                        load: offer.load,
                        above: offer.above,
                    });
                    CandidateShown { offer, ..self.candidate(pop, place.point(), &states) }
                })
                .collect(),
            scope: steered.scope,
            ipv4: self.shown(&ipv4),
            ipv6: self.shown(&ipv6),
            if_first_died,
        })
    }

    fn matched_rule(
        &self,
        service: ServiceId,
        addr: IpAddr,
        place: nearside_geoip::place::Place,
    ) -> Option<MatchedRule> {
        let service = &self.services[service.0 as usize].service;
        let Strategy::Rules(rules) = &service.strategy else { return None };
        let around = |network: &Prefix| {
            network.contains(addr)
                || matches!(addr, IpAddr::V6(v6) if nearside_geoip::map::embedded_v4(v6)
                    .is_some_and(|(inner, _)| network.contains(inner.into())))
        };
        // Compiled once already, so neither of these fails here.
        let labels = labels(service).ok()?;
        let label = labels.iter().filter(|(net, _)| around(net)).map(|&(_, rule)| rule).min();
        let order = Order::new(&self.pops, service).ok()?;
        let number = order.rule(&Spot { place, label, ..Spot::default() })?;
        let when: Vec<String> = rules[number].when.iter().map(in_words).collect();
        Some(MatchedRule { number: number + 1, when: when.join(" or ") })
    }

    fn candidate(&self, id: PopId, from: Option<Coordinates>, states: &ServiceHealth<'_>) -> CandidateShown {
        let pop = &self.pops[id.0 as usize];
        let v4 = states.ipv4[id.0 as usize].iter().map(|(addr, health)| (IpAddr::V4(*addr), health));
        let v6 = states.ipv6[id.0 as usize].iter().map(|(addr, health)| (IpAddr::V6(*addr), health));
        CandidateShown {
            pop: pop.name.clone(),
            distance_km: from.map(|point| point.distance_km(coordinates(pop)).round()),
            bias_km: pop.bias_km,
            addresses: v4
                .chain(v6)
                .map(|(address, health)| AddressShown {
                    address,
                    state: health.state,
                    reason: health.reason.to_string(),
                })
                .collect(),
            offer: None,
        }
    }

    fn shown<A: Copy + Into<IpAddr>>(&self, chosen: &Chosen<A>) -> AnswerShown {
        AnswerShown {
            addresses: chosen.addresses.iter().map(|&addr| addr.into()).collect(),
            pops: chosen.pops.iter().map(|&pop| self.pop_name(pop).to_owned()).collect(),
            ttl: chosen.ttl,
            basis: chosen.basis,
        }
    }
}

fn in_words(condition: &Match) -> String {
    match condition {
        Match::Continent(code) => format!("continent {code}"),
        Match::Country(code) => format!("country {code}"),
        Match::Subdivision { country, subdivision } => format!("subdivision {country}-{subdivision}"),
        Match::Asn(asn) => format!("AS{asn}"),
        Match::Network(addr, len) => format!("network {addr}/{len}"),
    }
}
