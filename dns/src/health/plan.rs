//! Which addresses are probed by which checks: derived from a configuration, before anything is probed.
//!
//! [`Plan::new`] is the part of staging that can refuse (a CA file that can't be read); it touches no
//! running probe. A check that no service uses is not carried out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nearside_fleet::config::{AllDown, Check, Config, Id, Pop, ProbeFamily, Service, Strategy};

use super::{
    exec::ExecPolicy,
    probe::{Prober, ProberError},
    quorum::HEARD_MAX,
    shed::{LOAD_WINDOW, Limits},
    thresholds,
};
use crate::steering::{CheckHealth, HealthView};

/// One check at one address. Two PoPs that share an address share its state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Key of `Config::checks`.
    pub check: Id,
    /// A published address of a PoP.
    pub address: IpAddr,
}

/// What is to be probed at one address.
#[derive(Clone)]
pub struct Target {
    /// The check as configured.
    pub check: Check,
    /// How it is carried out.
    pub prober: Prober,
    /// The PoP the address belongs to, for people (the first one, should several share it).
    pub pop: Id,
}

/// Everything to be probed under one configuration.
#[derive(Default)]
pub struct Plan {
    /// What is probed.
    pub targets: BTreeMap<Key, Target>,
    /// Addresses that are not probed themselves and share another's fate (`family = "ipv4"`).
    pub shadows: BTreeMap<Key, Key>,
    /// The PoPs of the configuration: a drain of any other is forgotten.
    pub pops: BTreeSet<Id>,
    /// Control listeners of the other DNS nodes, where a check wants their views.
    pub peers: BTreeMap<Id, SocketAddr>,
    /// Services that offer a busy PoP to fewer.
    pub sheds: BTreeMap<Id, ShedPlan>,
}

/// One service that sheds.
#[derive(Clone, Debug, PartialEq)]
pub struct ShedPlan {
    /// When, and how patiently.
    pub limits: Limits,
    /// Its PoPs, and who tells of their load. Anything told by a check of the service counts.
    pub pops: BTreeMap<Id, Vec<Key>>,
}

impl ShedPlan {
    /// `None`: this service does not shed.
    fn new(config: &Config, service: &Service) -> Option<Self> {
        let above = service.shed_above?;
        let checks: Vec<&Check> = service.checks.iter().filter_map(|name| config.checks.get(name)).collect();
        // Answers live as long as a check can't change them, within the service's bounds; where DNS nodes are
        // asked for their views, those are part of it. Then an edge must notice, and be probed.
        let promised = |check: &&Check| {
            let own = thresholds(check).interval_min().saturating_mul(check.fall);
            if check.views > 1 { own.max(HEARD_MAX) } else { own }
        };
        let ttl = checks.iter().map(promised).min().unwrap_or(Duration::MAX);
        let ttl = ttl.min(service.ttl_max).max(service.ttl_min);
        let probed = checks.iter().map(|check| check.interval).max().unwrap_or_default();
        let keys = |pop: &Pop| -> Vec<Key> {
            let v4 = pop.ipv4.iter().map(|&address| IpAddr::V4(address));
            let addresses: Vec<IpAddr> =
                v4.chain(pop.ipv6.iter().map(|&address| IpAddr::V6(address))).collect();
            let of = |check: &&Check| {
                let check = check.name.clone();
                addresses.iter().map(move |&address| Key { check: check.clone(), address })
            };
            checks.iter().flat_map(of).collect()
        };
        let pops = pops_of(service).into_iter().filter_map(|pop| config.pops.get(pop));
        Some(Self {
            limits: Limits { above, lag: ttl + probed + LOAD_WINDOW },
            pops: pops.map(|pop| (pop.name.clone(), keys(pop))).collect(),
        })
    }
}

impl Plan {
    /// Plans the checks of every service. Reads CA files: blocks on the disk.
    ///
    /// # Errors
    /// Every check that can't be carried out.
    pub fn new(config: &Config, exec: &ExecPolicy) -> Result<Plan, Vec<ProberError>> {
        let mut plan = Plan { pops: config.pops.keys().cloned().collect(), ..Plan::default() };
        let mut errors = Vec::new();
        let mut probers: BTreeMap<&Id, Option<Prober>> = BTreeMap::new();
        for service in config.services.values() {
            plan.sheds.extend(ShedPlan::new(config, service).map(|shed| (service.name.clone(), shed)));
            for (name, check) in service.checks.iter().filter_map(|name| config.checks.get_key_value(name)) {
                let prober = probers
                    .entry(name)
                    .or_insert_with(|| Prober::new(check, exec).map_err(|error| errors.push(error)).ok());
                let Some(prober) = prober else { continue };
                for pop in pops_of(service).into_iter().filter_map(|pop| config.pops.get(pop)) {
                    plan.add(check, prober, pop);
                }
            }
        }
        if errors.is_empty() { Ok(plan) } else { Err(errors) }
    }

    /// A view in which every address has just passed: for `explain` without a running server.
    pub fn all_up(&self) -> HealthView {
        let up = |check: &Check| {
            let unchanged_for = thresholds(check).interval_min().saturating_mul(check.fall);
            CheckHealth { up: true, unchanged_for, reason: "taken to be up".into() }
        };
        let probed = self.targets.iter().map(|(key, target)| (key, up(&target.check)));
        let shadows = self
            .shadows
            .iter()
            .filter_map(|(key, leader)| self.targets.get(leader).map(|target| (key, up(&target.check))));
        let checks =
            probed.chain(shadows).map(|(key, health)| ((key.check.clone(), key.address), health)).collect();
        HealthView { checks, ..HealthView::default() }
    }

    fn add(&mut self, check: &Check, prober: &Prober, pop: &Pop) {
        let key = |address| Key { check: check.name.clone(), address };
        let v4 = pop.ipv4.iter().map(|&address| IpAddr::V4(address));
        let v6 = pop.ipv6.iter().map(|&address| IpAddr::V6(address));
        let leader = match check.family {
            ProbeFamily::Each => None,
            ProbeFamily::Ipv4 => pop.ipv4.first().map(|&address| IpAddr::V4(address)),
            ProbeFamily::Ipv6 => pop.ipv6.first().map(|&address| IpAddr::V6(address)),
        };
        for address in v4.chain(v6) {
            // A PoP without the family that is to be probed is probed as it is: better than not at all.
            if let Some(leader) = leader
                && leader.is_ipv4() != address.is_ipv4()
            {
                self.shadows.insert(key(address), key(leader));
                continue;
            }
            self.targets.entry(key(address)).or_insert_with(|| Target {
                check: check.clone(),
                prober: prober.clone(),
                pop: pop.name.clone(),
            });
        }
    }
}

/// Every PoP a service may name.
pub fn pops_of(service: &Service) -> BTreeSet<&Id> {
    let mut pops: BTreeSet<&Id> = service.pops.iter().collect();
    if let Strategy::Rules(rules) = &service.strategy {
        pops.extend(rules.iter().flat_map(|rule| &rule.pops));
    }
    if let AllDown::Pops(others) = &service.all_down {
        pops.extend(others);
    }
    pops
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample;

    fn config() -> Config {
        let mut config = (*sample::view().base.config).clone();
        config.pops.get_mut("fra").unwrap().ipv6 = vec!["2001:db8::1".parse().unwrap()];
        config
    }

    fn key(address: &str) -> Key {
        Key { check: "web".into(), address: address.parse().unwrap() }
    }

    #[test]
    fn every_address_is_probed_once_however_many_services_ask() {
        let mut config = config();
        let twin = config.services["www"].clone();
        config.services.insert("twin".into(), twin);
        let plan = Plan::new(&config, &ExecPolicy::Refused).unwrap();
        let probed: Vec<&Key> = plan.targets.keys().collect();
        assert_eq!(probed, [&key("192.0.2.10"), &key("192.0.2.20"), &key("2001:db8::1")]);
        assert!(plan.shadows.is_empty());
        assert_eq!(plan.all_up().checks.len(), 3);
    }

    #[test]
    fn the_other_family_follows_the_first_address_unless_it_is_all_there_is() {
        let mut config = config();
        config.checks.get_mut("web").unwrap().family = ProbeFamily::Ipv4;
        let nyc = config.pops.get_mut("nyc").unwrap();
        nyc.ipv4.clear();
        nyc.ipv6 = vec!["2001:db8::2".parse().unwrap()];
        let plan = Plan::new(&config, &ExecPolicy::Refused).unwrap();
        let probed: Vec<&Key> = plan.targets.keys().collect();
        assert_eq!(probed, [&key("192.0.2.10"), &key("2001:db8::2")]);
        assert_eq!(plan.shadows, BTreeMap::from([(key("2001:db8::1"), key("192.0.2.10"))]));
        assert_eq!(plan.all_up().checks.len(), 3);
    }

    #[test]
    fn a_service_that_sheds_waits_for_answers_probes_and_averages() {
        let mut config = config();
        assert!(Plan::new(&config, &ExecPolicy::Refused).unwrap().sheds.is_empty());
        config.services.get_mut("www").unwrap().shed_above = Some(0.7);
        let shed = Plan::new(&config, &ExecPolicy::Refused).unwrap().sheds.remove("www").unwrap();
        // Three probes of 10 s, 5 % early, keep an answer; then one probe, then the edge's average.
        let lag = Duration::from_millis(3 * 9_500 + 10_000) + LOAD_WINDOW;
        assert_eq!(shed.limits, Limits { above: 0.7, lag });
        assert_eq!(shed.pops["fra"], [key("192.0.2.10"), key("2001:db8::1")]);
        config.services.get_mut("www").unwrap().ttl_max = Duration::from_secs(20);
        let shed = Plan::new(&config, &ExecPolicy::Refused).unwrap().sheds.remove("www").unwrap();
        assert_eq!(shed.limits.lag, Duration::from_secs(20 + 10) + LOAD_WINDOW);
    }

    #[test]
    fn a_check_that_no_service_uses_is_not_carried_out() {
        let mut config = config();
        config.services.get_mut("www").unwrap().checks.clear();
        assert!(Plan::new(&config, &ExecPolicy::Refused).unwrap().targets.is_empty());
    }
}
