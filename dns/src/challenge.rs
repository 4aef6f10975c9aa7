//! ACME challenges: TXT records that home sets for a while and no zone file knows (RFC 8555 section 8.4).
//!
//! A [`Challenges`] is immutable and part of a view; setting or withdrawing one makes the next. Pure: the time comes in.
//! A challenge adds a TXT RRset to its name, and lets that name and those above it exist; it changes nothing else that
//! the zone answers, least of all what a wildcard covers. Nothing is kept on disk: home sets it again.
//!
//! Invariant: none outlives its time by more than a view does, whatever becomes of home.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nearside_zones::{Name, NameBuf};
use serde::Serialize;

use crate::health::state::Moment;

/// Names with a challenge at once: a thousand sites that are all issued in one night, at some 100 bytes each.
pub const NAMES_MAX: usize = 1_000;
/// Values of one name: an apex with its wildcard takes two (RFC 8555 section 8.4), a few accounts at a time some more.
pub const VALUES_MAX: usize = 16;
/// Octets of a value: one character-string (RFC 1035 section 3.3.14). A key authorization's digest takes 43.
pub const VALUE_BYTES_MAX: usize = 255;
/// The longest time that can be asked for. A validation takes seconds, a patient authority some minutes.
pub const LIFE_MAX: Duration = Duration::from_secs(3_600);
/// TTL of the records, seconds: good for the question at hand and no other (RFC 2181 section 8). With a second, an
/// authority's resolver could still hold the last order's value when the next one is validated.
pub const TTL_SECS: u32 = 0;

/// Why a challenge is not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// No value, or too many.
    #[error("expected 1 to {VALUES_MAX} values, read {0}")]
    Values(usize),
    /// A value that is no text of ours.
    #[error("value {0} must be 1 to {VALUE_BYTES_MAX} printable ASCII characters")]
    Value(usize),
    /// Too long a life, or none.
    #[error("seconds must be 1 to {}", LIFE_MAX.as_secs())]
    Life,
    /// Too many names.
    #[error("there are challenges at {NAMES_MAX} names already; withdraw some")]
    Full,
}

/// The values of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// TXT data in wire form, each one character-string.
    pub data: Box<[Box<[u8]>]>,
    /// When it ends by itself.
    pub until: Moment,
}

/// One name's challenge, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What TXT is answered with.
    pub values: Vec<String>,
    /// When it ends by itself, milliseconds since the epoch.
    pub until: Moment,
}

/// All challenges of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenges {
    /// By lower-case wire name.
    names: BTreeMap<Box<[u8]>, Held>,
    /// The names above those, which exist because of them (RFC 8020).
    above: BTreeSet<Box<[u8]>>,
}

impl Challenges {
    /// These, with all values of `name` replaced.
    ///
    /// # Errors
    /// [`ChallengeError`]; nothing is changed then.
    pub fn with(
        &self,
        name: &Name,
        values: &[String],
        lasts: Duration,
        now: Moment,
    ) -> Result<Self, ChallengeError> {
        if !(1..=VALUES_MAX).contains(&values.len()) {
            return Err(ChallengeError::Values(values.len()));
        }
        let legal = |value: &String| {
            (1..=VALUE_BYTES_MAX).contains(&value.len())
                && value.bytes().all(|byte| (32..127).contains(&byte))
        };
        if let Some(wrong) = values.iter().position(|value| !legal(value)) {
            return Err(ChallengeError::Value(wrong + 1));
        }
        if lasts.is_zero() || lasts > LIFE_MAX {
            return Err(ChallengeError::Life);
        }
        let key: Box<[u8]> = name.to_lower().wire().into();
        let mut names = self.names.clone();
        names.retain(|_, held| held.until > now);
        if names.len() >= NAMES_MAX && !names.contains_key(&key) {
            return Err(ChallengeError::Full);
        }
        let data = values.iter().map(|value| character_string(value)).collect();
        names.insert(key, Held { data, until: now.plus(lasts) });
        Ok(Self::of(names))
    }

    /// These without the ones at `name`; `None`: there are none.
    pub fn without(&self, name: &Name) -> Option<Self> {
        let mut names = self.names.clone();
        names.remove(name.to_lower().wire())?;
        Some(Self::of(names))
    }

    /// These without the ones that are over; `None`: all are in force.
    pub fn expired(&self, now: Moment) -> Option<Self> {
        let over = self.names.values().any(|held| held.until <= now);
        over.then(|| {
            let names = self.names.iter().filter(|(_, held)| held.until > now);
            Self::of(names.map(|(name, held)| (name.clone(), held.clone())).collect())
        })
    }

    fn of(names: BTreeMap<Box<[u8]>, Held>) -> Self {
        let mut above = BTreeSet::new();
        let mut buffer = NameBuf::new();
        for name in names.keys() {
            // Keys were names when they came in.
            if buffer.set(name).is_ok() {
                above.extend((1..=buffer.label_count()).map(|index| Box::from(buffer.suffix(index))));
            }
        }
        Self { names, above }
    }

    /// What is held at exactly this name.
    pub fn get(&self, name: &NameBuf) -> Option<&Held> {
        self.names.get(name.wire())
    }

    /// Whether a challenge lets this name exist: it is at it or below it.
    pub fn lets_exist(&self, name: &NameBuf) -> bool {
        self.names.contains_key(name.wire()) || self.above.contains(name.wire())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// At how many names.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// All of them, by name without the final dot.
    pub fn report(&self) -> BTreeMap<String, Report> {
        let text = |data: &[u8]| String::from_utf8_lossy(data.get(1..).unwrap_or_default()).into_owned();
        let said = self.names.iter().filter_map(|(name, held)| {
            let name = Name::from_wire(name).ok()?.to_string().trim_end_matches('.').to_owned();
            let values = held.data.iter().map(|data| text(data)).collect();
            Some((name, Report { values, until: held.until }))
        });
        said.collect()
    }
}

/// Length and octets (RFC 1035 section 3.3); the caller has checked that it fits.
fn character_string(value: &str) -> Box<[u8]> {
    let mut wire = Vec::with_capacity(1 + value.len());
    wire.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    wire.extend_from_slice(value.as_bytes());
    wire.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000_000);

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn buffer(text: &str) -> NameBuf {
        NameBuf::from(&name(text))
    }

    fn values(values: &[&str]) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_challenge_is_set_replaced_withdrawn_and_ends_by_itself() {
        let owner = name("_acme-challenge.WWW.cdn.test");
        let none = Challenges::default();
        let two = none.with(&owner, &values(&["a", "b"]), LIFE_MAX, NOW).unwrap();
        let held = two.get(&buffer("_ACME-challenge.www.cdn.test")).unwrap();
        assert_eq!(&held.data[..], [Box::from(&b"\x01a"[..]), Box::from(&b"\x01b"[..])]);
        assert!(none.is_empty(), "what serves is never changed in place");
        for (above, exists) in [("www.cdn.test", true), ("cdn.test", true), ("x.cdn.test", false)] {
            assert_eq!(two.lets_exist(&buffer(above)), exists, "{above}");
        }
        let one = two.with(&owner, &values(&["c"]), Duration::from_secs(5), NOW).unwrap();
        assert_eq!(one.report()["_acme-challenge.www.cdn.test"].values, ["c"]);
        assert_eq!(one.expired(NOW.plus(Duration::from_secs(4))), None);
        assert_eq!(one.expired(NOW.plus(Duration::from_secs(5))), Some(Challenges::default()));
        assert_eq!(one.without(&owner), Some(Challenges::default()));
        assert_eq!(none.without(&owner), None);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let (owner, none) = (name("a.test"), Challenges::default());
        let set = |values: &[String], lasts| none.with(&owner, values, lasts, NOW);
        let minute = Duration::from_secs(60);
        assert_eq!(set(&[], minute), Err(ChallengeError::Values(0)));
        assert_eq!(
            set(&vec!["x".into(); VALUES_MAX + 1], minute),
            Err(ChallengeError::Values(VALUES_MAX + 1))
        );
        assert_eq!(set(&["x".repeat(VALUE_BYTES_MAX + 1)], minute), Err(ChallengeError::Value(1)));
        assert_eq!(set(&["x".into(), "ä".into()], minute), Err(ChallengeError::Value(2)));
        assert_eq!(set(&["x".into()], Duration::ZERO), Err(ChallengeError::Life));
        assert_eq!(set(&["x".into()], LIFE_MAX + minute), Err(ChallengeError::Life));
        let mut full = none.clone();
        for index in 0..NAMES_MAX {
            full.names.insert(
                name(&format!("n{index}.test")).wire().into(),
                Held { data: Box::default(), until: NOW.plus(minute) },
            );
        }
        let more = |full: &Challenges, now| {
            full.with(&name("one.more"), &values(&["x"]), minute, now).map(|set| set.len())
        };
        assert_eq!(more(&full, NOW), Err(ChallengeError::Full));
        assert_eq!(more(&full, NOW.plus(minute)), Ok(1), "those that are over make room");
    }
}
