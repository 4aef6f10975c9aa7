//! Which addresses are probed by which checks: derived from a configuration, before anything is probed.
//!
//! [`Plan::new`] is the part of staging that can refuse (a CA file that can't be read); it touches no
//! running probe. A check that no service uses is not carried out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nearside_fleet::config::{AllDown, Check, Config, Id, Pop, ProbeFamily, Service, Strategy};

use super::probe::{Prober, ProberError};

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
}

impl Plan {
    /// Plans the checks of every service. Reads CA files: blocks on the disk.
    ///
    /// # Errors
    /// Every check that can't be carried out.
    pub fn new(config: &Config) -> Result<Plan, Vec<ProberError>> {
        let mut plan = Plan { pops: config.pops.keys().cloned().collect(), ..Plan::default() };
        let mut errors = Vec::new();
        let mut probers: BTreeMap<&Id, Option<Prober>> = BTreeMap::new();
        for service in config.services.values() {
            for (name, check) in service.checks.iter().filter_map(|name| config.checks.get_key_value(name)) {
                let prober = probers
                    .entry(name)
                    .or_insert_with(|| Prober::new(check).map_err(|error| errors.push(error)).ok());
                let Some(prober) = prober else { continue };
                for pop in pops_of(service).into_iter().filter_map(|pop| config.pops.get(pop)) {
                    plan.add(check, prober, pop);
                }
            }
        }
        if errors.is_empty() { Ok(plan) } else { Err(errors) }
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
