//! The paths asked for most, in bounded memory: the space-saving sketch (Metwally, Agrawal, El Abbadi, 2005).
//!
//! A path that is not among those kept takes the place of the least, with its count: whatever was asked for more than one
//! time in [`ENTRIES_MAX`] is kept, and no count is too low. Counts of what is asked for less are too high by what they
//! took over.
//!
//! A linear scan over a few cache lines of hashes finds a path faster than a table would.

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use nearside_fleet::stats::PATH_BYTES_MAX;

/// Paths of a sketch: one of a site's busiest hundred is never lost.
const ENTRIES_MAX: usize = 128;
/// Paths of all sketches of the process, 20 MB at worst: past it, a new path takes the least one's place, or none.
const ALL_MAX: usize = 65_536;

static ALL: AtomicUsize = AtomicUsize::new(0);

/// See the module. Dropped, it gives back its part of [`ALL_MAX`].
#[derive(Debug, Default)]
pub struct Sketch {
    hashes: Vec<u64>,
    entries: Vec<(Box<str>, u64)>,
}

impl Sketch {
    /// A path was asked for so often.
    pub fn add(&mut self, path: &str, times: u64) {
        let path = &path[..path.floor_char_boundary(PATH_BYTES_MAX)];
        // Keyed per process, so that nobody can make paths that look alike.
        static KEY: OnceLock<RandomState> = OnceLock::new();
        let hash = KEY.get_or_init(RandomState::new).hash_one(path);
        let same = |&(at, &known): &(usize, &u64)| known == hash && &*self.entries[at].0 == path;
        if let Some((at, _)) = self.hashes.iter().enumerate().find(same) {
            self.entries[at].1 += times;
            return;
        }
        let is_room = self.entries.len() < ENTRIES_MAX && ALL.load(Relaxed) < ALL_MAX;
        if is_room {
            ALL.fetch_add(1, Relaxed);
            self.hashes.push(hash);
            self.entries.push((path.into(), times));
            return;
        }
        let least = self.entries.iter().enumerate().min_by_key(|(_, (_, count))| *count);
        if let Some((at, &(_, count))) = least {
            self.hashes[at] = hash;
            self.entries[at] = (path.into(), count + times);
        }
    }

    /// Adds what another has counted, without bound: for a moment.
    pub fn join(&mut self, mut other: Sketch) {
        self.hashes.append(&mut other.hashes);
        self.entries.append(&mut other.entries);
    }

    /// The busiest paths, most first.
    pub fn busiest(&mut self, count: usize) -> Vec<(String, u64)> {
        let mut joined: BTreeMap<&str, u64> = BTreeMap::new();
        for (path, times) in &self.entries {
            *joined.entry(path).or_default() += times;
        }
        let mut all: Vec<(String, u64)> =
            joined.into_iter().map(|(path, times)| (path.to_owned(), times)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all.truncate(count);
        all
    }
}

impl Drop for Sketch {
    fn drop(&mut self) {
        ALL.fetch_sub(self.entries.len(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_often_is_kept_whatever_else_is_asked_for() {
        let mut sketch = Sketch::default();
        for number in 0..50_000 {
            sketch.add(&format!("/rare/{number}"), 1);
            if number % 20 == 0 {
                sketch.add("/often", 1);
            }
        }
        let busiest = sketch.busiest(ENTRIES_MAX);
        let often = busiest.iter().find(|(path, _)| path == "/often").expect("it is kept");
        assert!(often.1 >= 2_500, "{often:?}");
        assert!(sketch.entries.len() <= ENTRIES_MAX);
    }

    #[test]
    fn long_paths_are_cut_between_characters() {
        let mut sketch = Sketch::default();
        sketch.add(&format!("/{}", "ä".repeat(PATH_BYTES_MAX)), 2);
        let busiest = sketch.busiest(1);
        assert_eq!((busiest[0].0.len(), busiest[0].1), (PATH_BYTES_MAX - 1, 2));
    }
}
