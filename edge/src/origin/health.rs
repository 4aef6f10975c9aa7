//! How well the origins of a site are: their checks, their circuits, their ejections, as one state. Pure, no clock.
//!
//! What happened comes in ([`Health::answered`], [`Health::checked`]), what changed goes out ([`Change`]), for logs
//! and metrics. Invariant: never more origins are ejected at once than the configured share.

use std::time::{Duration, Instant};

use nearside_fleet::config;

use super::{
    choose::Standing,
    circuit::{Admit, Breaker, Stand},
    outlier::Outlier,
};

/// How a request to an origin ended, as far as that says something about the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// An answer.
    Answer,
    /// An answer that says that something is wrong there (5xx).
    Error,
    /// None.
    Silence,
    /// Nothing that the origin is to blame for.
    Nothing,
}

/// What active checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// No check has ended yet, or there are none: counts as up.
    Unknown,
    /// Up.
    Up,
    /// Down.
    Down,
}

impl Checked {
    /// As metrics and the control API say it.
    pub fn name(self) -> &'static str {
        match self {
            Checked::Unknown => "unknown",
            Checked::Up => "up",
            Checked::Down => "down",
        }
    }
}

/// What is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its checks pass (again).
    Up,
    /// Its checks fail.
    Down,
    /// It did not answer: it is left alone.
    Opened,
    /// It answers again.
    Closed,
    /// Too many of its answers were errors: left out for so long.
    Ejected(Duration),
}

/// One origin's state.
#[derive(Clone, Debug)]
pub struct Member {
    checked: Checked,
    /// Checks in a row that contradict it.
    against: u32,
    /// What the last check that failed said.
    reason: Option<String>,
    breaker: Breaker,
    outlier: Outlier,
}

/// What of it people are shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// By its checks.
    pub checked: Checked,
    /// Why they fail.
    pub reason: Option<String>,
    /// Its circuit.
    pub circuit: Stand,
    /// For how much longer it is ejected.
    pub ejected_for: Option<Duration>,
    /// All of it as one.
    pub standing: Standing,
}

impl Default for Member {
    fn default() -> Self {
        Member {
            checked: Checked::Unknown,
            against: 0,
            reason: None,
            breaker: Breaker::default(),
            outlier: Outlier::default(),
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Health {
    eject: config::Eject,
    circuit: config::Circuit,
    members: Vec<Member>,
}

impl Health {
    /// Of these origins, whose states may be carried over from the last configuration.
    pub fn new(balance: &config::Balance, members: Vec<Member>) -> Self {
        Health { eject: balance.eject.clone(), circuit: balance.circuit.clone(), members }
    }

    /// One origin's state, for the next configuration.
    pub fn member(&self, position: usize) -> Member {
        self.members.get(position).cloned().unwrap_or_default()
    }

    /// How well an origin is.
    pub fn standing(&self, position: usize, now: Instant) -> Standing {
        let Some(member) = self.members.get(position) else { return Standing::Shut };
        match member.breaker.would_admit(now) {
            Admit::No => Standing::Shut,
            _ if member.checked == Checked::Down || member.outlier.is_ejected(now) => Standing::Doubtful,
            Admit::Trial => Standing::Trial,
            Admit::Yes => Standing::Good,
        }
    }

    /// For people.
    pub fn shown(&self, position: usize, now: Instant) -> Shown {
        let member = self.member(position);
        Shown {
            checked: member.checked,
            circuit: member.breaker.stand(now),
            ejected_for: member.outlier.ejected_until(now).map(|until| until - now),
            standing: self.standing(position, now),
            reason: member.reason,
        }
    }

    /// Lets a request through to an origin, or not. Its end must be told ([`Health::answered`]).
    pub fn admit(&mut self, position: usize, now: Instant) -> Admit {
        self.members.get_mut(position).map_or(Admit::No, |member| member.breaker.admit(now))
    }

    /// A request ended.
    pub fn answered(
        &mut self,
        position: usize,
        admitted: Admit,
        ending: Ending,
        now: Instant,
    ) -> Option<Change> {
        let spare = self.can_spare(position, now);
        let member = self.members.get_mut(position)?;
        let changed = match ending {
            Ending::Nothing => {
                member.breaker.given_up(admitted);
                return None;
            }
            Ending::Answer | Ending::Error => member.breaker.succeeded(admitted).then_some(Change::Closed),
            Ending::Silence => member.breaker.failed(admitted, &self.circuit, now).then_some(Change::Opened),
        };
        let is_bad = ending != Ending::Answer;
        if member.outlier.record(is_bad, &self.eject, now) && spare && changed.is_none() {
            return Some(Change::Ejected(member.outlier.eject(&self.eject, now)));
        }
        changed
    }

    /// Whether one more may be ejected.
    fn can_spare(&self, position: usize, now: Instant) -> bool {
        let out = |(other, member): &(usize, &Member)| *other != position && member.outlier.is_ejected(now);
        let ejected = self.members.iter().enumerate().filter(out).count() as u64;
        (ejected + 1) * 100 <= self.members.len() as u64 * u64::from(self.eject.share_max_percent)
    }

    /// A check ended. The first one decides at once.
    pub fn checked(
        &mut self,
        position: usize,
        result: Result<(), String>,
        check: &config::OriginCheck,
    ) -> Option<Change> {
        let member = self.members.get_mut(position)?;
        let (verdict, threshold) = match &result {
            Ok(()) => (Checked::Up, check.rise),
            Err(_) => (Checked::Down, check.fall),
        };
        if member.checked == verdict {
            member.against = 0;
            if let Err(reason) = result {
                member.reason = Some(reason);
            }
            return None;
        }
        member.against += 1;
        if member.checked != Checked::Unknown && member.against < threshold {
            return None;
        }
        let was = std::mem::replace(&mut member.checked, verdict);
        member.against = 0;
        member.reason = result.err();
        match (was, verdict) {
            (Checked::Unknown, Checked::Up) => None,
            (_, Checked::Down) => Some(Change::Down),
            _ => Some(Change::Up),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn health(count: usize) -> Health {
        let mut balance = config::Balance::default();
        balance.eject.failures = 0;
        Health::new(&balance, vec![Member::default(); count])
    }

    fn check() -> config::OriginCheck {
        config::OriginCheck {
            path: "/".to_owned(),
            host: None,
            status: (200, 399),
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
        }
    }

    #[test]
    fn unknown_counts_as_up_and_the_first_check_decides() {
        let (mut health, now, check) = (health(2), Instant::now(), check());
        assert_eq!(health.standing(0, now), Standing::Good);
        assert_eq!(health.checked(0, Err("no".into()), &check), Some(Change::Down));
        assert_eq!(health.standing(0, now), Standing::Doubtful);
        assert_eq!(health.checked(0, Ok(()), &check), None);
        assert_eq!(health.checked(0, Ok(()), &check), Some(Change::Up));
        assert_eq!(health.checked(0, Err("a".into()), &check), None);
        assert_eq!(health.checked(0, Ok(()), &check), None);
        for expected in [None, None, Some(Change::Down)] {
            assert_eq!(health.checked(0, Err("b".into()), &check), expected);
        }
        assert_eq!(health.shown(0, now).reason.as_deref(), Some("b"));
        assert_eq!(health.checked(1, Ok(()), &check), None);
    }

    #[test]
    fn silence_opens_the_circuit_and_errors_eject() {
        let (mut health, now) = (health(2), Instant::now());
        for expected in [None, None, None, None, Some(Change::Opened)] {
            let admitted = health.admit(0, now);
            assert_eq!(health.answered(0, admitted, Ending::Silence, now), expected);
        }
        assert_eq!((health.standing(0, now), health.admit(0, now)), (Standing::Shut, Admit::No));
        let later = now + Duration::from_secs(1);
        assert_eq!(health.standing(0, later), Standing::Trial);
        let trial = health.admit(0, later);
        assert_eq!(health.answered(0, trial, Ending::Answer, later), Some(Change::Closed));
        let endings: Vec<_> = (0..20).map(|_| health.answered(1, Admit::Yes, Ending::Error, now)).collect();
        assert_eq!(endings.last(), Some(&Some(Change::Ejected(Duration::from_secs(10)))));
        assert_eq!(health.standing(1, now), Standing::Doubtful);
    }

    proptest! {
        #[test]
        fn never_more_are_ejected_than_may_be(
            count in 1usize..8, share in 0u32..=100, steps in prop::collection::vec((0usize..8, 0u64..300), 100..600),
        ) {
            let mut balance = config::Balance::default();
            balance.eject.share_max_percent = share;
            balance.eject.requests_min = 3;
            balance.circuit.failures = 0;
            let mut health = Health::new(&balance, vec![Member::default(); count]);
            let mut now = Instant::now();
            for (position, pause) in steps {
                now += Duration::from_millis(pause);
                health.answered(position % count, Admit::Yes, Ending::Error, now);
                let out = (0..count).filter(|&one| health.standing(one, now) == Standing::Doubtful).count();
                prop_assert!(out as u32 * 100 <= count as u32 * share);
            }
        }
    }
}
