//! The circuit breaker of one origin: pure states, no clock.
//!
//! **Closed**: requests go through; so many in a row without an answer open it. **Open**: none goes through, so that
//! clients don't wait for what will not come and an origin that recovers is left alone. **Half-open**, when
//! the time is over: one request at a time tries; an answer closes the circuit, another failure opens
//! it for twice as long.
//!
//! Invariant: while it is not closed, at most one request is under way that was let through since it opened.

use std::time::{Duration, Instant};

use nearside_fleet::config;

/// What the breaker says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Go on.
    Yes,
    /// Go on: whether the origin answers again is judged by this request. Its end must be told.
    Trial,
    /// Not now.
    No,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// Requests go through.
    Closed,
    /// None does.
    Open,
    /// One tries, or may.
    HalfOpen,
}

impl Stand {
    /// As metrics and the control API say it.
    pub fn name(self) -> &'static str {
        match self {
            Stand::Closed => "closed",
            Stand::Open => "open",
            Stand::HalfOpen => "half-open",
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    /// Failures in a row while closed.
    failures: u32,
    open: Option<Opened>,
}

#[derive(Clone, Copy, Debug)]
struct Opened {
    until: Instant,
    /// How long it was opened for.
    time: Duration,
    is_trying: bool,
}

impl Breaker {
    /// Where it stands now.
    pub fn stand(&self, now: Instant) -> Stand {
        match self.open {
            None => Stand::Closed,
            Some(opened) if now < opened.until => Stand::Open,
            Some(_) => Stand::HalfOpen,
        }
    }

    /// Whether a request would go through; nothing is taken.
    pub fn would_admit(&self, now: Instant) -> Admit {
        match self.open {
            None => Admit::Yes,
            Some(opened) if now < opened.until || opened.is_trying => Admit::No,
            Some(_) => Admit::Trial,
        }
    }

    /// Lets a request through, or not. Every [`Admit::Trial`] ends with [`Breaker::succeeded`],
    /// [`Breaker::failed`] or [`Breaker::given_up`].
    pub fn admit(&mut self, now: Instant) -> Admit {
        let admit = self.would_admit(now);
        if let (Admit::Trial, Some(opened)) = (admit, &mut self.open) {
            opened.is_trying = true;
        }
        admit
    }

    /// A request had an answer. True: that closed it.
    pub fn succeeded(&mut self, admitted: Admit) -> bool {
        self.failures = 0;
        // What was sent before it opened says nothing about now.
        admitted == Admit::Trial && self.open.take().is_some()
    }

    /// A request had no answer. True: that opened it.
    pub fn failed(&mut self, admitted: Admit, settings: &config::Circuit, now: Instant) -> bool {
        match (&mut self.open, admitted) {
            (Some(opened), Admit::Trial) => {
                let time = (opened.time * 2).min(settings.open_max);
                *opened = Opened { until: now + time, time, is_trying: false };
                false
            }
            (Some(_), _) => false,
            (None, _) => {
                self.failures = self.failures.saturating_add(1);
                let opens = settings.failures > 0 && self.failures >= settings.failures;
                if opens {
                    self.failures = 0;
                    let time = settings.open;
                    self.open = Some(Opened { until: now + time, time, is_trying: false });
                }
                opens
            }
        }
    }

    /// A request ended without saying anything about the origin: its client left, or its body failed.
    pub fn given_up(&mut self, admitted: Admit) {
        if let (Admit::Trial, Some(opened)) = (admitted, &mut self.open) {
            opened.is_trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: config::Circuit =
        config::Circuit { failures: 3, open: Duration::from_secs(1), open_max: Duration::from_secs(8) };

    #[test]
    fn it_opens_tries_backs_off_and_closes() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for expected in [false, false, true] {
            assert_eq!(breaker.admit(start), Admit::Yes);
            assert_eq!(breaker.failed(Admit::Yes, &SETTINGS, start), expected);
        }
        assert_eq!((breaker.admit(start), breaker.stand(start)), (Admit::No, Stand::Open));
        // An answer to what was sent before changes nothing.
        assert!(!breaker.succeeded(Admit::Yes));
        assert_eq!(breaker.admit(at(1)), Admit::Trial);
        assert_eq!((breaker.admit(at(1)), breaker.stand(at(1))), (Admit::No, Stand::HalfOpen));
        breaker.failed(Admit::Trial, &SETTINGS, at(1));
        assert_eq!((breaker.admit(at(2)), breaker.admit(at(3))), (Admit::No, Admit::Trial));
        breaker.given_up(Admit::Trial);
        assert_eq!(breaker.admit(at(3)), Admit::Trial);
        assert!(breaker.succeeded(Admit::Trial));
        assert_eq!((breaker.admit(at(3)), breaker.stand(at(3))), (Admit::Yes, Stand::Closed));
    }

    proptest! {
        /// An origin that is dead in a stretch of time, asked by requests that take a while: never two trials at once,
        /// waits within bounds, and closed again soon after it recovered.
        #[test]
        fn a_dead_origin_is_asked_ever_less_and_found_again(
            dies in 0u64..50, dead_for in 1u64..200, takes in 1u64..5, every in 1u64..4,
        ) {
            let start = Instant::now();
            let at = |tenths: u64| start + Duration::from_millis(tenths * 100);
            let (mut breaker, mut under_way) = (Breaker::default(), Vec::<(u64, Admit, bool)>::new());
            let (recovers, mut closed_again, mut asked_dead) = (dies + dead_for, None, 0u64);
            for now in 0..(recovers + 200) {
                under_way.retain(|&(ends, admitted, answered)| {
                    if ends > now {
                        return true;
                    }
                    if answered { breaker.succeeded(admitted); } else { breaker.failed(admitted, &SETTINGS, at(now)); }
                    false
                });
                if now % every == 0 {
                    let admitted = breaker.admit(at(now));
                    if admitted != Admit::No {
                        let answered = now < dies || now >= recovers;
                        asked_dead += u64::from(!answered);
                        under_way.push((now + takes, admitted, answered));
                    }
                }
                let trials = under_way.iter().filter(|(_, admitted, _)| *admitted == Admit::Trial).count();
                prop_assert!(trials <= 1);
                if now >= recovers && breaker.stand(at(now)) == Stand::Closed && closed_again.is_none() {
                    closed_again = Some(now);
                }
            }
            let closed_again = closed_again.expect("it closes");
            prop_assert!(closed_again <= recovers + 80 + 2 * takes + every, "{closed_again} {recovers}");
            // Three in a row, what was under way meanwhile, then trials at 1, 2, 4, 8, 8 … seconds.
            let trials = 5 + dead_for / 10;
            prop_assert!(asked_dead <= 3 + 2 * takes + trials, "{asked_dead}");
        }
    }
}
