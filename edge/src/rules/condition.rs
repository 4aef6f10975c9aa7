//! One condition, tried by itself: for what the index does not know, and for what must not hold.

use std::sync::Arc;

use http::HeaderName;
use nearside_fleet::{
    config::{
        Match,
        rules::{Condition, Test, TimeWindow},
    },
    glob::Glob,
};
use nearside_geoip::prefix::Prefix;
use regex::bytes::Regex;

use super::{Facts, Unusable, split::Splits};
use crate::place::Places;

/// See the module.
pub(super) enum Tried {
    Path(Vec<Glob>),
    PathRegex(Vec<Regex>),
    Extension(Vec<String>),
    Method(Vec<String>),
    Host(Vec<String>),
    Scheme(String),
    Header(HeaderName, Vec<Asked>),
    Cookie(String, Vec<Asked>),
    Query(String, Vec<Asked>),
    Place { bits: Vec<usize>, networks: Vec<Prefix> },
    Split(usize, Vec<usize>),
    Time(TimeWindow),
}

/// What is asked of a value.
pub(super) enum Asked {
    Present,
    Absent,
    Equals(Vec<u8>),
    Regex(Regex),
}

impl Asked {
    fn build(test: &Test) -> Result<Asked, Unusable> {
        Ok(match test {
            Test::Present => Asked::Present,
            Test::Absent => Asked::Absent,
            Test::Equals(text) => Asked::Equals(text.clone().into_bytes()),
            Test::Regex(pattern) => Asked::Regex(super::regex(pattern)?),
        })
    }

    /// Of a value that is there.
    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Asked::Present => true,
            Asked::Absent => false,
            Asked::Equals(wanted) => wanted == value,
            Asked::Regex(regex) => regex.is_match(value),
        }
    }
}

/// Whether any of what is asked holds for any of the values.
fn any<T: AsRef<[u8]>>(asked: &[Asked], values: impl Iterator<Item = T>) -> bool {
    let mut is_there = false;
    for value in values {
        is_there = true;
        if asked.iter().any(|asked| asked.holds(value.as_ref())) {
            return true;
        }
    }
    !is_there && asked.iter().any(|asked| matches!(asked, Asked::Absent))
}

impl Tried {
    pub(super) fn build(
        condition: &Condition,
        places: &Arc<Places>,
        splits: &Splits,
    ) -> Result<Tried, Unusable> {
        let asked = |tests: &[Test]| tests.iter().map(Asked::build).collect::<Result<Vec<_>, _>>();
        Ok(match condition {
            Condition::Path(globs) => Tried::Path(globs.clone()),
            Condition::PathRegex(all) => {
                Tried::PathRegex(all.iter().map(|text| super::regex(text)).collect::<Result<_, _>>()?)
            }
            Condition::Extension(all) => Tried::Extension(all.clone()),
            Condition::Method(all) => Tried::Method(all.clone()),
            Condition::Host(all) => Tried::Host(all.clone()),
            Condition::Scheme(scheme) => Tried::Scheme(scheme.clone()),
            Condition::Header(name, tests) => {
                let name = name.parse().map_err(|_| format!("{name:?} is no field name"))?;
                Tried::Header(name, asked(tests)?)
            }
            Condition::Cookie(name, tests) => Tried::Cookie(name.clone(), asked(tests)?),
            Condition::Query(name, tests) => Tried::Query(name.clone(), asked(tests)?),
            Condition::Place(all) => Tried::Place {
                bits: all.iter().filter_map(|place| places.bit(place)).collect(),
                networks: all
                    .iter()
                    .filter_map(|place| match place {
                        Match::Network(address, length) => Prefix::new(*address, *length).ok(),
                        _ => None,
                    })
                    .collect(),
            },
            Condition::Split(name, arms) => {
                let (split, arms) =
                    splits.find(name, arms).ok_or_else(|| format!("there is no split {name}"))?;
                Tried::Split(split, arms)
            }
            Condition::Time(window) => Tried::Time(window.clone()),
        })
    }

    pub(super) fn holds(&self, facts: &Facts<'_>, splits: &Splits) -> bool {
        match self {
            Tried::Path(globs) => globs.iter().any(|glob| glob.matches(facts.path)),
            Tried::PathRegex(all) => all.iter().any(|regex| regex.is_match(facts.path.as_bytes())),
            Tried::Extension(all) => facts
                .extension()
                .is_some_and(|found| all.iter().any(|extension| extension.eq_ignore_ascii_case(found))),
            Tried::Method(all) => all.iter().any(|method| method == facts.method.as_str()),
            Tried::Host(all) => all.iter().any(|host| is_host(host, facts.host)),
            Tried::Scheme(scheme) => scheme == facts.scheme,
            Tried::Header(name, asked) => any(asked, facts.fields(name)),
            Tried::Cookie(name, asked) => any(asked, facts.cookies(name)),
            Tried::Query(name, asked) => any(asked, facts.parameters(name)),
            Tried::Place { bits, networks } => {
                networks.iter().any(|network| network.contains(facts.seen.client()))
                    || bits.iter().any(|&bit| facts.seen.holds(bit))
            }
            Tried::Split(split, arms) => arms.contains(&splits.arm(*split, facts)),
            Tried::Time(window) => window.holds(facts.now_secs),
        }
    }
}

/// Whether a host is the one that is wanted; `*.` stands for one label.
pub(super) fn is_host(wanted: &str, host: &str) -> bool {
    match wanted.strip_prefix('*') {
        Some(suffix) => host.find('.').is_some_and(|dot| &host[dot..] == suffix),
        None => wanted == host,
    }
}
