//! When a certificate is renewed, and when a failed attempt is made again: pure arithmetic over seconds since the epoch.
//!
//! Renewal goes by the authority's suggested window (RFC 9773), else after two thirds of the life; a site's own place within
//! it is fixed by its name and certificate, so that a fleet's certificates do not all fall due at once and a restart moves
//! nothing. Failures are paced by the public limits, never by hope.

use crate::journal::acme::{Cost, Failed};

/// What is known of a certificate in force.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Start of its life.
    pub not_before: u64,
    /// End of its life.
    pub not_after: u64,
    /// The window its authority suggests.
    pub window: Option<(u64, u64)>,
    /// Fixes the place within a window; any hash of site and certificate.
    pub salt: u64,
}

/// First pause after a failure; it doubles.
const PAUSE_SECS: u64 = 60;
/// Longest pause: an authority that was down for a week is asked daily.
const PAUSE_SECS_MAX: u64 = 86_400;
/// The same where it failed on our side: nobody else is bothered, and what is mended should be seen.
const PAUSE_HERE_SECS: u64 = 10;
const PAUSE_HERE_SECS_MAX: u64 = 600;
/// Failed validations per hour and name at one authority. The best known allows five; one is left to the operator's hand.
const VALIDATIONS_MAX: usize = 4;
const HOUR_SECS: u64 = 3_600;
/// Renewals of one life are spread over this part of it: three days of ninety.
const SPREAD: u64 = 30;

/// When a certificate is renewed.
pub fn renewal(known: &Known) -> u64 {
    let within = |span: u64| share(known.salt, span);
    match known.window {
        Some((start, end)) => start + within(end.saturating_sub(start)),
        None => {
            let life = known.not_after.saturating_sub(known.not_before);
            known.not_before + life / 3 * 2 - within(life / SPREAD)
        }
    }
}

/// Who wants an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The clock.
    Itself,
    /// An operator, who has mended something.
    Hand,
}

/// When to try again after these failures, oldest first; 0: now. `salt` spreads those that failed together. An operator's
/// attempts keep the authority's limits, and wait for nothing else.
pub fn retry(failures: &[Failed], salt: u64, by: By) -> u64 {
    let Some(last) = failures.last() else { return 0 };
    let (first, longest) = match last.cost {
        Cost::Nothing => (PAUSE_HERE_SECS, PAUSE_HERE_SECS_MAX),
        Cost::Asked | Cost::Validated => (PAUSE_SECS, PAUSE_SECS_MAX),
    };
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(16);
    let pause = (first << doublings).min(longest);
    // Up to a tenth later, never earlier.
    let paced = last.at + pause + share(salt, pause / 10);
    let validated: Vec<u64> =
        failures.iter().filter(|failed| failed.cost == Cost::Validated).map(|failed| failed.at).collect();
    let limited = match validated.len().checked_sub(VALIDATIONS_MAX) {
        Some(oldest) => validated[oldest] + HOUR_SECS,
        None => 0,
    };
    match by {
        By::Itself => paced.max(limited),
        By::Hand => limited,
    }
}

/// The part of a span that a salt stands for.
fn share(salt: u64, span: u64) -> u64 {
    ((u128::from(salt) * u128::from(span)) >> 64) as u64
}

/// A well-mixed number of some text, the same in every process.
pub fn salt(text: &str) -> u64 {
    let hash = nearside_fleet::Sha256::of(text.as_bytes()).to_string();
    u64::from_str_radix(hash.get(..16).unwrap_or_default(), 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn the_authoritys_window_comes_before_two_thirds_of_the_life() {
        let known = |window, salt| Known { not_before: 1_000 * DAY, not_after: 1_090 * DAY, window, salt };
        assert_eq!(renewal(&known(None, 0)), 1_060 * DAY);
        assert_eq!(renewal(&known(None, u64::MAX)), 1_057 * DAY + 1);
        assert_eq!(renewal(&known(Some((500 * DAY, 502 * DAY)), 0)), 500 * DAY);
        assert_eq!(renewal(&known(Some((500 * DAY, 502 * DAY)), 1 << 63)), 501 * DAY);
        let short = Known { not_before: 0, not_after: 6 * DAY, window: None, salt: u64::MAX };
        assert!((DAY * 3..=DAY * 4).contains(&renewal(&short)), "lives of six days too");
    }

    #[test]
    fn pauses_double_up_to_a_day() {
        let failures =
            |count: u64, cost| (0..count).map(|at| Failed { at: at * 10, cost }).collect::<Vec<_>>();
        let pause = |count, cost| retry(&failures(count, cost), 0, By::Itself) - (count - 1) * 10;
        assert_eq!(retry(&[], 0, By::Itself), 0);
        let asked = |count| pause(count, Cost::Asked);
        assert_eq!([1, 2, 3, 11, 12, 60].map(asked), [60, 120, 240, 61_440, DAY, DAY]);
        assert_eq!([1, 2, 9].map(|count| pause(count, Cost::Nothing)), [10, 20, 600]);
        assert_eq!(retry(&failures(1, Cost::Asked), u64::MAX, By::Itself), 65, "jitter");
        assert_eq!(retry(&failures(9, Cost::Asked), 0, By::Hand), 0, "an operator waits for limits alone");
    }

    #[test]
    fn an_hour_never_sees_a_fifth_failed_validation() {
        for by in [By::Itself, By::Hand] {
            // Tries as soon as it may, for ten hours.
            let mut failures: Vec<Failed> = Vec::new();
            let mut now = 1_000_000;
            while now < 1_000_000 + 10 * HOUR_SECS {
                failures.push(Failed { at: now, cost: Cost::Validated });
                now = retry(&failures, 0, by).max(now + 1);
            }
            assert!(failures.len() > 5);
            for window in failures.windows(VALIDATIONS_MAX + 1) {
                assert!(window[VALIDATIONS_MAX].at - window[0].at >= HOUR_SECS, "{window:?}");
            }
        }
    }

    #[test]
    fn salts_are_spread_and_stable() {
        assert_eq!(salt("www"), salt("www"));
        assert!(salt("www").abs_diff(salt("wwx")) > 1 << 32);
    }
}
