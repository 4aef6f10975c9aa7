//! PoPs an operator took out of the answers, and until when.
//!
//! Pure: the time comes in. A drain outlives restarts (the caller keeps [`Drains`] on disk as JSON) and
//! ends by itself when its time is over, so that a forgotten one does no lasting harm.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::state::Moment;

/// Bytes of a reason that are kept: it is repeated in logs, `explain` and reports.
pub const REASON_BYTES_MAX: usize = 200;

/// One PoP's drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// When it was ordered.
    pub since: Moment,
    /// When it ends by itself; `None`: when it is lifted.
    pub until: Option<Moment>,
    /// Who and why, in words; may be empty.
    pub reason: String,
}

/// All drains, by PoP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Drains(BTreeMap<String, Drain>);

impl Drains {
    /// Drains a PoP, or changes its drain; `false`: it was drained so already. A reason that is too long
    /// is cut.
    pub fn set(&mut self, pop: &str, now: Moment, lasts: Option<Duration>, reason: &str) -> bool {
        let mut cut = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(cut) {
            cut -= 1;
        }
        let (until, reason) = (lasts.map(|lasts| now.plus(lasts)), &reason[..cut]);
        let before = self.0.get(pop);
        let same = |drain: &&Drain| drain.reason == reason && is_same_end(drain.until, until);
        if before.filter(same).is_some() {
            return false;
        }
        let since = before.map_or(now, |drain| drain.since);
        self.0.insert(pop.to_owned(), Drain { since, until, reason: reason.to_owned() });
        true
    }

    /// Lifts a drain. `false`: there was none.
    pub fn lift(&mut self, pop: &str) -> bool {
        self.0.remove(pop).is_some()
    }

    /// Takes out the drains that are over and those `keep` does not want (PoPs that are gone), and says
    /// which.
    pub fn expire(&mut self, now: Moment, keep: impl Fn(&str) -> bool) -> Vec<String> {
        let over: Vec<String> = self
            .0
            .iter()
            .filter(|(pop, drain)| drain.until.is_some_and(|until| until <= now) || !keep(pop))
            .map(|(pop, _)| pop.clone())
            .collect();
        for pop in &over {
            self.0.remove(pop);
        }
        over
    }

    /// Every drain, by PoP.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Drain)> {
        self.0.iter().map(|(pop, drain)| (pop.as_str(), drain))
    }
}

/// Whether two ends mean the same: home repeats its drains in whole seconds left.
fn is_same_end(a: Option<Moment>, b: Option<Moment>) -> bool {
    /// Rounding at both ends of the journey.
    const APART_MAX: Duration = Duration::from_secs(2);
    match (a, b) {
        (Some(a), Some(b)) => a.since(b).max(b.since(a)) <= APART_MAX,
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_by_itself_and_when_the_pop_is_gone() {
        let mut drains = Drains::default();
        drains.set("fra", Moment(1000), Some(Duration::from_secs(10)), "disk");
        drains.set("nyc", Moment(1000), None, "");
        assert!(drains.expire(Moment(10_999), |_| true).is_empty());
        assert_eq!(drains.expire(Moment(11_000), |_| true), ["fra"]);
        assert_eq!(drains.expire(Moment(11_000), |pop| pop != "nyc"), ["nyc"]);
        assert!(!drains.lift("nyc"));
    }

    #[test]
    fn a_second_drain_moves_the_end_and_keeps_the_beginning() {
        let mut drains = Drains::default();
        assert!(drains.set("fra", Moment(0), None, "a"));
        assert!(!drains.set("fra", Moment(3), None, "a"), "repeated");
        drains.set("fra", Moment(5), Some(Duration::from_secs(1)), &"ä".repeat(200));
        let (_, drain) = drains.iter().next().unwrap();
        assert_eq!((drain.since, drain.until), (Moment(0), Some(Moment(1005))));
        assert_eq!(drain.reason.len(), REASON_BYTES_MAX);
        assert!(!drains.set("fra", Moment(6), Some(Duration::from_secs(2)), &"ä".repeat(100)), "rounded");
        let text = serde_json::to_string(&drains).unwrap();
        assert_eq!(serde_json::from_str::<Drains>(&text).unwrap(), drains);
    }
}
