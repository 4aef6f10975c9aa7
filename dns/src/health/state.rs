//! Turns samples of one check at one address into "up" or "down", and says how soon that could change.
//!
//! Pure: samples and the time come in, states go out; no socket, no clock, no disk. A state flips only
//! after `fall` failures (or `rise` successes) in a row. Two invariants hold, and are property-tested:
//! no state flips earlier than its thresholds allow, and [`State::earliest_change`] is never later than
//! a flip that really follows. The second is what makes a TTL truthful: an answer that lives no longer
//! than the earliest possible change of anything it was decided by is never older than that change
//! (the rule gdnsd introduced; there it is the monitor's `ttl` calculation).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since the Unix epoch on a clock that never runs backwards while the
/// process lives (see [`crate::clock`]). Wall time, so that a state can be kept across a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// Further away than anything that is waited for: "it cannot change by itself".
    pub const NEVER: Moment = Moment(u64::MAX);

    /// This long after `self`; saturates.
    pub fn plus(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to `self`; zero where `self` is the earlier one.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A probe starts this much sooner or later than its interval says, so that the probes of many nodes
/// and checks do not march in step. A part of the interval, in percent.
pub const JITTER_PERCENT: u32 = 5;

/// A state older than this is not taken up again after a restart: the first probe decides instead.
/// An hour covers an upgrade or a reboot; beyond it "up" is a memory, not a measurement.
pub const RESTORE_AGE_MAX: Duration = Duration::from_secs(3600);

/// When a state flips. From `[check.NAME]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes in a row that bring an address up; at least 1.
    pub rise: u32,
    /// Failures in a row that bring it down; at least 1.
    pub fall: u32,
    /// From the start of one probe to the start of the next, before jitter.
    pub interval: Duration,
}

impl Thresholds {
    /// The shortest time between the starts of two probes: the interval less its jitter.
    pub fn interval_min(&self) -> Duration {
        self.interval * (100 - JITTER_PERCENT) / 100
    }
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When the probe was started: the schedule counts from here.
    pub started: Moment,
    /// When it was over.
    pub ended: Moment,
    /// `Err` holds a sentence a person understands (`connection refused`).
    pub result: Result<(), String>,
}

/// Whether an address is offered to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not probed yet. Counts as up: there is no evidence against it.
    Unknown,
    /// Passed its last `rise` probes, or failed fewer than `fall` since.
    Up,
    /// Failed its last `fall` probes, or passed fewer than `rise` since.
    Down,
}

impl Status {
    /// Whether the address may be given to clients.
    pub fn is_up(self) -> bool {
        self != Status::Down
    }
}

/// One check at one address, as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The verdict.
    pub status: Status,
    /// Since when it holds.
    pub since: Moment,
    /// Samples in a row that contradict the verdict, newest last; below the threshold by construction.
    pub against: u32,
    /// Start of the newest probe that ended; `None`: the next one decides.
    pub probed: Option<Moment>,
    /// What the newest failure said; kept while the address is down or failing, for `explain`.
    pub reason: Option<String>,
}

/// What [`State::apply`] changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The verdict stands.
    None,
    /// The address came up (or was found up by the first probe).
    Up,
    /// The address went down (or was found down by the first probe).
    Down,
}

impl State {
    /// Never probed.
    pub fn unknown(now: Moment) -> State {
        State { status: Status::Unknown, since: now, against: 0, probed: None, reason: None }
    }

    /// Takes a state from before a restart up again, unless it is older than [`RESTORE_AGE_MAX`] or
    /// from the future (a clock that was set back): then the first probe decides.
    pub fn restored(self, now: Moment) -> State {
        let usable = self
            .probed
            .is_some_and(|probed| probed <= now && self.since <= now && now.since(probed) <= RESTORE_AGE_MAX);
        if usable && self.status != Status::Unknown { self } else { State::unknown(now) }
    }

    /// Keeps the verdict until the next sample, which then decides at once: for a check that was edited,
    /// whose old samples say nothing about the new one.
    pub fn reconsider(&mut self) {
        (self.probed, self.against) = (None, 0);
    }

    /// Takes one sample in. The first sample of an unknown state decides at once; later ones count
    /// against the thresholds. A sample older than the newest one known is ignored.
    pub fn apply(&mut self, sample: &Sample, thresholds: &Thresholds) -> Change {
        if self.probed.is_some_and(|probed| sample.started < probed) {
            return Change::None;
        }
        let first = self.probed.replace(sample.started).is_none();
        let passed = sample.result.is_ok();
        match &sample.result {
            Err(reason) => self.reason = Some(reason.clone()),
            Ok(()) if self.status != Status::Down => self.reason = None,
            Ok(()) => {}
        }
        if self.status != Status::Unknown && passed == self.status.is_up() {
            self.against = 0;
            return Change::None;
        }
        self.against += 1;
        let needed = match self.status {
            _ if first => 1,
            Status::Unknown => 1,
            Status::Up => thresholds.fall,
            Status::Down => thresholds.rise,
        };
        if self.against < needed {
            return Change::None;
        }
        self.against = 0;
        self.since = sample.ended;
        if passed {
            (self.status, self.reason) = (Status::Up, None);
            return Change::Up;
        }
        self.status = Status::Down;
        Change::Down
    }

    /// The soonest moment at which the verdict could be another one, given that probes start no closer
    /// together than [`Thresholds::interval_min`]. May lie before the time of asking: "any moment now"
    /// (a deciding probe is under way or due).
    ///
    /// A probe may fail the instant it starts (a refused connection), so a timeout never pushes this
    /// out: with `n` more contrary samples needed, the `n`-th probe from the last one on decides.
    pub fn earliest_change(&self, thresholds: &Thresholds) -> Moment {
        let Some(probed) = self.probed else { return self.since };
        let needed = if self.status.is_up() { thresholds.fall } else { thresholds.rise };
        let missing = needed.saturating_sub(self.against).max(1);
        probed.plus(thresholds.interval_min().saturating_mul(missing))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: Thresholds = Thresholds { rise: 2, fall: 3, interval: Duration::from_secs(10) };

    fn sample(at_s: u64, ok: bool) -> Sample {
        let at = Moment(at_s * 1000);
        Sample { started: at, ended: at, result: if ok { Ok(()) } else { Err("connection refused".into()) } }
    }

    #[test]
    fn the_first_sample_decides() {
        let mut state = State::unknown(Moment(0));
        assert_eq!(state.apply(&sample(1, false), &T), Change::Down);
        assert_eq!(state.reason.as_deref(), Some("connection refused"));
        let mut state = State::unknown(Moment(0));
        assert_eq!(state.apply(&sample(1, true), &T), Change::Up);
        assert_eq!((state.status, state.since), (Status::Up, Moment(1000)));
    }

    #[test]
    fn fall_and_rise_count_samples_in_a_row() {
        let mut state = State::unknown(Moment(0));
        state.apply(&sample(0, true), &T);
        let run = [(10, false), (20, false), (30, true), (40, false), (50, false), (60, false)];
        let changes: Vec<Change> = run.iter().map(|&(at, ok)| state.apply(&sample(at, ok), &T)).collect();
        assert_eq!(changes[..5], [Change::None; 5]);
        assert_eq!(changes[5], Change::Down);
        assert_eq!(state.apply(&sample(70, true), &T), Change::None);
        assert_eq!(state.apply(&sample(80, true), &T), Change::Up);
        assert_eq!(state.reason, None);
    }

    #[test]
    fn a_late_sample_changes_nothing() {
        let mut state = State::unknown(Moment(0));
        state.apply(&sample(50, true), &Thresholds { fall: 1, ..T });
        assert_eq!(state.apply(&sample(40, false), &Thresholds { fall: 1, ..T }), Change::None);
        assert_eq!(state.status, Status::Up);
    }

    #[test]
    fn earliest_change_counts_what_is_missing() {
        let mut state = State::unknown(Moment(0));
        state.apply(&sample(100, true), &T);
        assert_eq!(state.earliest_change(&T), Moment(100_000 + 3 * 9_500));
        state.apply(&sample(110, false), &T);
        assert_eq!(state.earliest_change(&T), Moment(110_000 + 2 * 9_500));
        state.apply(&sample(120, false), &T);
        state.apply(&sample(130, false), &T);
        assert_eq!(state.status, Status::Down);
        assert_eq!(state.earliest_change(&T), Moment(130_000 + 2 * 9_500));
    }

    #[test]
    fn a_reconsidered_state_holds_until_the_next_sample_decides() {
        let mut state = State::unknown(Moment(0));
        state.apply(&sample(100, false), &T);
        state.reconsider();
        assert!(!state.status.is_up());
        assert!(state.earliest_change(&T) <= Moment(100_000), "any moment now");
        assert_eq!(state.apply(&sample(101, true), &T), Change::Up);
    }

    #[test]
    fn an_old_or_future_state_is_not_restored() {
        let mut state = State::unknown(Moment(0));
        state.apply(&sample(100, false), &T);
        let soon = Moment(100_000).plus(Duration::from_secs(60));
        assert_eq!(state.clone().restored(soon).status, Status::Down);
        let late = Moment(100_000).plus(RESTORE_AGE_MAX).plus(Duration::from_secs(1));
        assert_eq!(state.clone().restored(late).status, Status::Unknown);
        assert_eq!(state.restored(Moment(99_000)).status, Status::Unknown);
    }

    proptest! {
        /// Against the definition: the verdict after a history is decided by its last run of `fall`
        /// failures or `rise` successes, whichever ended later; else by the first sample.
        #[test]
        fn agrees_with_the_definition(
            rise in 1u32..5, fall in 1u32..5, history in proptest::collection::vec(any::<bool>(), 1..60)
        ) {
            let t = Thresholds { rise, fall, ..T };
            let mut state = State::unknown(Moment(0));
            for (i, &ok) in history.iter().enumerate() {
                state.apply(&sample(i as u64 * 10, ok), &t);
                let seen = &history[..=i];
                let last_run = |value: bool, length: u32| {
                    (0..=i).rev().find(|&end| end + 1 >= length as usize
                        && seen[end + 1 - length as usize..=end].iter().all(|&s| s == value))
                };
                let expected = match (last_run(true, rise), last_run(false, fall)) {
                    (None, None) => seen[0],
                    // The first sample decided; a run in its favour changes nothing.
                    (up, down) => up > down,
                };
                prop_assert_eq!(state.status.is_up(), expected, "after {:?}", seen);
            }
        }

        /// No flip ever comes sooner than what was promised at any time before it, whatever the
        /// samples, as long as probes keep their distance.
        #[test]
        fn never_changes_before_it_said(
            rise in 1u32..5, fall in 1u32..5,
            history in proptest::collection::vec((any::<bool>(), 0u64..1000, 0u64..3000), 2..60)
        ) {
            let t = Thresholds { rise, fall, ..T };
            let mut state = State::unknown(Moment(0));
            let mut started = Moment(1);
            let mut promises: Vec<Moment> = Vec::new();
            for (ok, late_ms, took_ms) in history {
                let ended = started.plus(Duration::from_millis(took_ms));
                let result = if ok { Ok(()) } else { Err("no".to_owned()) };
                let change = state.apply(&Sample { started, ended, result }, &t);
                if change != Change::None {
                    for promise in promises.drain(..) {
                        prop_assert!(promise <= ended, "promised {promise:?}, flipped {ended:?}");
                    }
                }
                promises.push(state.earliest_change(&t));
                started = started.plus(t.interval_min()).plus(Duration::from_millis(late_ms));
            }
        }

        /// What is written to disk is what comes back.
        #[test]
        fn survives_serialisation(history in proptest::collection::vec(any::<bool>(), 1..20)) {
            let mut state = State::unknown(Moment(0));
            for (i, &ok) in history.iter().enumerate() {
                state.apply(&sample(i as u64 * 10, ok), &T);
            }
            let text = serde_json::to_string(&state).unwrap();
            prop_assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        }
    }
}
