//! What would change for clients if a database were replaced, before it is.
//!
//! Compiles the configuration with the old and with the new databases and walks both maps side by
//! side: every run of addresses whose list differs is a [`Move`]. Health has no part in it.

use nearside_fleet::config::Config;
use nearside_geoip::{
    geo::Geo,
    map::Map,
    prefix::{Family, Prefix},
};
use serde::Serialize;

use super::{CompileError, How, Plan, PopId, SPECIAL, Steering};

/// Moves kept per service, the largest networks first; counts are of all.
const MOVES_SHOWN_MAX: usize = 1000;

/// What moves, by service.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// Services that depend on geography; others cannot move.
    pub services: Vec<ServiceDiff>,
}

/// What moves in one service.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceDiff {
    /// The service.
    pub service: String,
    /// IPv4 addresses whose list differs.
    pub ipv4_addresses: f64,
    /// IPv6 /48s whose list differs, as a fraction where networks are smaller.
    pub ipv6_sites: f64,
    /// IPv4 addresses whose first PoP differs: those that would notice while all is healthy.
    pub ipv4_first: f64,
    /// The same in IPv6 /48s.
    pub ipv6_first: f64,
    /// How many networks that is.
    pub networks: usize,
    /// The largest of them, at most a thousand.
    pub moves: Vec<Move>,
}

/// A network that moves from one list to another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Move {
    /// The network.
    pub network: String,
    /// PoPs with the old databases, best first; empty: decided by the resolver's address.
    pub from: Vec<String>,
    /// PoPs with the new ones.
    pub to: Vec<String>,
}

/// Compares two sets of databases under one configuration. Seconds for city databases.
///
/// # Errors
/// As [`Steering::compile`].
pub fn diff_geo(config: &Config, old: &Geo, new: &Geo) -> Result<Diff, CompileError> {
    let old = Steering::compile(config, old)?;
    let new = Steering::compile(config, new)?;
    let mut services = Vec::new();
    for (before, after) in old.services.iter().zip(&new.services) {
        let name = before.service.name.clone();
        services.extend(diff_plans(&old, name, &before.plan, &after.plan));
    }
    Ok(Diff { services })
}

/// `None` if neither depends on geography.
fn diff_plans(steering: &Steering, service: String, old: &Plan, new: &Plan) -> Option<ServiceDiff> {
    let (Some(old_leaves), Some(new_leaves)) = (Leaves::of(old), Leaves::of(new)) else {
        return None;
    };
    if matches!((&old.how, &new.how), (How::Same, How::Same)) && old.lists == new.lists {
        return None;
    }
    let mut diff = ServiceDiff {
        service,
        ipv4_addresses: 0.0,
        ipv6_sites: 0.0,
        ipv4_first: 0.0,
        ipv6_first: 0.0,
        networks: 0,
        moves: Vec::new(),
    };
    let names = |list: &[PopId]| -> Vec<String> {
        list.iter().map(|&pop| steering.pop_name(pop).to_owned()).collect()
    };
    let mut moved: Vec<(Prefix, &[PopId], &[PopId])> = Vec::new();
    for family in [Family::V4, Family::V6] {
        side_by_side(old_leaves.in_order(family), new_leaves.in_order(family), |network, from, to| {
            let (from, to) = (old_leaves.list(from), new_leaves.list(to));
            if from == to {
                return;
            }
            diff.networks += 1;
            let first = if from.first() == to.first() { 0.0 } else { 1.0 };
            match family {
                Family::V4 => {
                    diff.ipv4_addresses += network.addresses();
                    diff.ipv4_first += first * network.addresses();
                }
                Family::V6 => {
                    let sites = network.addresses() / 2f64.powi(80);
                    diff.ipv6_sites += sites;
                    diff.ipv6_first += first * sites;
                }
            }
            moved.push((network, from, to));
        });
    }
    moved.sort_by_key(|(network, ..)| network.len());
    moved.truncate(MOVES_SHOWN_MAX);
    diff.moves = moved
        .into_iter()
        .map(|(network, from, to)| Move { network: network.to_string(), from: names(from), to: names(to) })
        .collect();
    Some(diff)
}

/// A plan's geography as leaves; a plan with one list is one leaf.
struct Leaves<'a> {
    map: Option<&'a Map>,
    plan: &'a Plan,
}

impl<'a> Leaves<'a> {
    /// `None` for plans that do not look at geography.
    fn of(plan: &'a Plan) -> Option<Self> {
        match &plan.how {
            How::Place(map) => Some(Self { map: Some(map), plan }),
            How::Same => Some(Self { map: None, plan }),
            How::Bucket(_) => None,
        }
    }

    fn in_order(&self, family: Family) -> Box<dyn Iterator<Item = (Prefix, u32)> + 'a> {
        match self.map {
            Some(map) => Box::new(map.leaves(family)),
            None => Box::new(std::iter::once((Prefix::all(family), SPECIAL + 1))),
        }
    }

    fn list(&self, value: u32) -> &'a [PopId] {
        match value.checked_sub(SPECIAL + 1) {
            Some(list) => &self.plan.lists[list as usize],
            None => &[],
        }
    }
}

/// Walks two tilings of one family and reports the smaller tile of each overlap.
fn side_by_side(
    mut a: impl Iterator<Item = (Prefix, u32)>,
    mut b: impl Iterator<Item = (Prefix, u32)>,
    mut overlap: impl FnMut(Prefix, u32, u32),
) {
    let (mut left, mut right) = (a.next(), b.next());
    while let (Some((net_a, value_a)), Some((net_b, value_b))) = (left, right) {
        // IPv6 leaves leave out networks that carry IPv4, a single leaf does not: tiles may be apart.
        let (next_a, next_b) = if net_a.covers(net_b) {
            overlap(net_b, value_a, value_b);
            (net_b.last() == net_a.last(), true)
        } else if net_b.covers(net_a) {
            overlap(net_a, value_a, value_b);
            (true, net_a.last() == net_b.last())
        } else {
            (net_a < net_b, net_b < net_a)
        };
        if next_a {
            left = a.next();
        }
        if next_b {
            right = b.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tilings_meet_in_their_smaller_tiles() {
        let net = |text: &str| text.parse::<Prefix>().unwrap();
        let a = [(net("0.0.0.0/1"), 1), (net("128.0.0.0/1"), 2)];
        let b = [(net("0.0.0.0/2"), 3), (net("64.0.0.0/2"), 4), (net("128.0.0.0/1"), 5)];
        let mut seen = Vec::new();
        side_by_side(a.into_iter(), b.into_iter(), |net, a, b| seen.push((net.to_string(), a, b)));
        let expected = [("0.0.0.0/2", 1, 3), ("64.0.0.0/2", 1, 4), ("128.0.0.0/1", 2, 5)];
        assert_eq!(seen, expected.map(|(net, a, b)| (net.to_owned(), a, b)));
    }
}
