//! The purges of late, in memory and as they are sent.
//!
//! Fifty couriers ask for the same few purges within milliseconds; the journal is asked only for edges that were away. Pure.

use std::{collections::VecDeque, sync::Arc};

use nearside_fleet::purge::{self, Purge};

/// Purges held: forty seconds at a hundred a second, far longer than a round trip.
const RECENT_MAX: usize = 4_096;
/// Bytes of JSON held.
const RECENT_BYTES_MAX: usize = 8 << 20;

/// A run of purges, ready to be sent.
#[derive(Debug)]
pub struct Parcel {
    /// Number of the first.
    pub first: u64,
    /// Number of the last.
    pub last: u64,
    purges: Vec<Arc<str>>,
}

/// See the module.
#[derive(Debug)]
pub struct Recent {
    /// Number of the front, or of the next one.
    first: u64,
    purges: VecDeque<Arc<str>>,
    bytes: usize,
}

impl Recent {
    /// Empty, where `newest` was the last number given.
    pub fn from(newest: u64) -> Self {
        Self { first: newest + 1, purges: VecDeque::new(), bytes: 0 }
    }

    /// Takes purges, whose numbers follow one another.
    pub fn push(&mut self, purges: &[Purge]) {
        for purge in purges {
            let Some(sequence) = purge.sequence else { continue };
            if sequence != self.first + self.purges.len() as u64 {
                *self = Self::from(sequence - 1);
            }
            let json = written(purge);
            self.bytes += json.len();
            self.purges.push_back(json);
            while self.purges.len() > RECENT_MAX || self.bytes > RECENT_BYTES_MAX {
                let Some(gone) = self.purges.pop_front() else { break };
                self.bytes -= gone.len();
                self.first += 1;
            }
        }
    }

    /// What follows `sequence`, within bounds. The outer `None`: that is not all held here. The inner one: nothing follows.
    pub fn after(&self, sequence: u64, count_max: usize, bytes_max: usize) -> Option<Option<Parcel>> {
        let skipped = usize::try_from((sequence + 1).checked_sub(self.first)?).ok()?;
        let rest = self.purges.iter().skip(skipped).take(count_max);
        Some(gather(sequence + 1, rest.cloned(), bytes_max))
    }
}

impl Parcel {
    /// Of purges as the journal gives them, from the first on, within `bytes_max` but at least one.
    pub fn of(purges: &[Purge], bytes_max: usize) -> Option<Parcel> {
        let first = purges.first()?.sequence?;
        gather(first, purges.iter().map(written), bytes_max)
    }

    /// The body of `POST /v1/purges` to an edge.
    pub fn message(&self, journal: &purge::Journal) -> String {
        let bytes: usize = self.purges.iter().map(|purge| purge.len() + 1).sum();
        let mut out = String::with_capacity(bytes + 128);
        out.push_str("{\"purges\":[");
        for (at, purge) in self.purges.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push_str(purge);
        }
        // Plain numbers: writing them can't fail.
        let journal = serde_json::to_string(journal).unwrap_or_default();
        out.push_str("],\"journal\":");
        out.push_str(&journal);
        out.push('}');
        out
    }
}

fn gather(first: u64, purges: impl Iterator<Item = Arc<str>>, bytes_max: usize) -> Option<Parcel> {
    let mut bytes = 0;
    let mut taken: Vec<Arc<str>> = Vec::new();
    for purge in purges {
        bytes += purge.len();
        if bytes > bytes_max && !taken.is_empty() {
            break;
        }
        taken.push(purge);
    }
    let last = first + (taken.len() as u64).checked_sub(1)?;
    Some(Parcel { first, last, purges: taken })
}

fn written(purge: &Purge) -> Arc<str> {
    // Our own type: enums of strings and numbers.
    serde_json::to_string(purge).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use nearside_fleet::purge::{Mode, Purges, Scope};

    use super::*;

    fn purge(sequence: u64, bytes: usize) -> Purge {
        let scope = Scope::Url(format!("https://a.test/{}", "x".repeat(bytes)));
        Purge { sequence: Some(sequence), scope, mode: Mode::Hard }
    }

    #[test]
    fn what_is_sent_is_what_an_edge_reads() {
        let mut recent = Recent::from(6);
        let purges = [purge(7, 1), purge(8, 2), purge(9, 3)];
        recent.push(&purges);
        let parcel = recent.after(7, 1000, 1 << 20).unwrap().unwrap();
        assert_eq!((parcel.first, parcel.last), (8, 9));
        let journal = purge::Journal { acknowledged: 7, newest: 9, trimmed: 0 };
        let read: Purges = serde_json::from_str(&parcel.message(&journal)).unwrap();
        assert_eq!(read, Purges { purges: purges[1..].to_vec(), journal: Some(journal) });
        assert!(recent.after(9, 1000, 1 << 20).unwrap().is_none(), "nothing follows the last");
        assert!(recent.after(5, 1000, 1 << 20).is_none(), "the journal has to be asked");
    }

    #[test]
    fn messages_and_memory_are_bounded() {
        let mut recent = Recent::from(0);
        let purges: Vec<Purge> = (1..=5_000).map(|at| purge(at, 4_000)).collect();
        recent.push(&purges);
        assert!(recent.bytes <= RECENT_BYTES_MAX && recent.purges.len() <= RECENT_MAX);
        assert!(recent.after(0, 1000, 1 << 20).is_none(), "the oldest left");
        let parcel = recent.after(4_000, 1000, 100_000).unwrap().unwrap();
        assert!(parcel.purges.len() < 26 && parcel.first == 4_001, "{parcel:?}");
        let parcel = recent.after(4_000, 10, 1 << 20).unwrap().unwrap();
        assert_eq!(parcel.last, 4_010);
        // One that is longer than a message goes alone.
        assert_eq!(recent.after(4_000, 10, 1).unwrap().unwrap().last, 4_001);
        assert_eq!(Parcel::of(&purges[10..], 100_000).unwrap().first, 11);
        assert!(Parcel::of(&[], 100_000).is_none());
    }
}
