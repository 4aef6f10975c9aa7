//! Which origins of a site a request asks, in order. Pure: members, key and chance come in, an order goes out.
//!
//! First come the origins that are well, in the order of the strategy, then backups, then those that are
//! called down or ejected: where nothing is well, everything is tried. An origin whose circuit is open is not
//! in the list; one whose circuit may be tried is, where it belongs, for requests that can go on to the next
//! one, and behind the rest for others.
//!
//! Weight and hash are one thing: rendezvous hashing (highest random weight), with chance in place of the key for
//! `weighted`. Removing an origin moves its own keys and no others; a list of at most 64 needs no ring.
//! Load is bounded as by Mirrokni, Thorup and Zadimoghaddam ("Consistent Hashing with Bounded Loads", 2016): an origin that
//! has its share times `load_max` under way is passed over until it has less.

use smallvec::SmallVec;

/// Origins that one request asks at most. Two that fail are bad luck; beyond three, clients have waited long enough.
pub const ATTEMPTS_MAX: usize = 3;

/// Positions of origins in order of preference.
pub type Order = SmallVec<[usize; ATTEMPTS_MAX]>;

/// How well an origin is, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing speaks against it.
    Good,
    /// It did not answer for a while; one request may find out.
    Trial,
    /// Its checks fail, or it is ejected.
    Doubtful,
    /// Its circuit is open.
    Shut,
}

/// An origin as far as choosing goes.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its share; 0: none while another is well.
    pub weight: u32,
    /// Only when no other is well.
    pub is_backup: bool,
    /// Requests under way.
    pub under_way: u32,
    /// How well it is.
    pub standing: Standing,
    /// Hash of its name: stands for it in the rendezvous.
    pub seed: u64,
}

/// How candidates of equal standing are ordered.
#[derive(Clone, Copy, Debug)]
pub enum By<'a> {
    /// As listed.
    Position,
    /// These positions as listed, and no others.
    Listed(&'a [usize]),
    /// At random by weight.
    Chance(u64),
    /// By this hash of the key and weight, with bounded load in percent.
    Key {
        /// Of the cache key.
        hash: u64,
        /// Percent of the fair share.
        load_max_percent: u32,
    },
}

/// Whether a request that fails can go on to the next origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It can.
    Can,
    /// It may reach one origin only.
    Cannot,
}

/// Orders `candidates` for a request; at most [`ATTEMPTS_MAX`], empty if every circuit is open.
pub fn order(candidates: &[Candidate], by: By<'_>, repeat: Repeat) -> Order {
    let mut ranked: SmallVec<[(Rank, usize); 8]> = SmallVec::new();
    let full = |position: usize| match by {
        By::Key { load_max_percent, .. } => is_full(candidates, position, load_max_percent),
        _ => false,
    };
    let mut rank = |position: usize, place: usize| {
        let Some(candidate) = candidates.get(position) else { return };
        let class = match (candidate.standing, repeat) {
            (Standing::Shut, _) => return,
            (Standing::Trial, Repeat::Can) | (Standing::Good, _) => 0,
            (Standing::Trial, Repeat::Cannot) => 2,
            (Standing::Doubtful, _) => 1,
        };
        let score = match by {
            By::Position | By::Listed(_) => place as f64,
            By::Chance(chance) => -score(chance, candidate),
            By::Key { hash, .. } => -score(hash, candidate),
        };
        ranked
            .push((Rank { class, is_backup: candidate.is_backup, is_full: full(position), score }, position));
    };
    match by {
        By::Listed(positions) => {
            positions.iter().enumerate().for_each(|(place, &position)| rank(position, place));
        }
        _ => (0..candidates.len()).for_each(|position| rank(position, position)),
    }
    ranked.sort_by(|(left, _), (right, _)| left.compare(right));
    ranked.into_iter().take(ATTEMPTS_MAX).map(|(_, position)| position).collect()
}

struct Rank {
    class: u8,
    is_backup: bool,
    is_full: bool,
    score: f64,
}

impl Rank {
    fn compare(&self, other: &Rank) -> std::cmp::Ordering {
        (self.class, self.is_backup, self.is_full)
            .cmp(&(other.class, other.is_backup, other.is_full))
            .then(self.score.total_cmp(&other.score))
    }
}

/// Rendezvous score by weight (Efraimidis and Spirakis; Schindelhauer and Schomaker): highest is chosen with a
/// probability proportional to weight.
fn score(hash: u64, candidate: &Candidate) -> f64 {
    // 53 bits in (0, 1): what a double holds exactly.
    let unit = ((mix(hash ^ candidate.seed) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    if candidate.weight == 0 {
        // Behind all that have a weight, and among themselves by hash.
        return unit - 2.0;
    }
    f64::from(candidate.weight) / -unit.ln()
}

/// Whether one more request would be above its share of what would be under way then, times the bound.
fn is_full(candidates: &[Candidate], position: usize, load_max_percent: u32) -> bool {
    let taking = |candidate: &&Candidate| {
        candidate.standing == Standing::Good && candidate.is_backup == candidates[position].is_backup
    };
    let (weight, under_way) = candidates.iter().filter(taking).fold((0u64, 0u64), |(weight, load), one| {
        (weight + u64::from(one.weight), load + u64::from(one.under_way))
    });
    let own = &candidates[position];
    if weight == 0 || own.weight == 0 {
        return false;
    }
    let share = (under_way + 1) * u64::from(own.weight) * u64::from(load_max_percent);
    u64::from(own.under_way) >= share.div_ceil(weight * 100)
}

/// Finaliser of SplitMix64. All PoPs send a key to the same origin because of it: it must never change.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of a cache key or a name, the same on every PoP and in every release (FNV-1a, mixed).
pub fn hash_of(text: &str) -> u64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    mix(hash)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(count: usize) -> Vec<Candidate> {
        let member = |number: usize| Candidate {
            weight: 1,
            is_backup: false,
            under_way: 0,
            standing: Standing::Good,
            seed: hash_of(&format!("origin-{number}")),
        };
        (0..count).map(member).collect()
    }

    fn by_key(hash: u64) -> By<'static> {
        By::Key { hash, load_max_percent: 125 }
    }

    #[test]
    fn the_order_is_well_backup_doubtful_and_never_shut() {
        let mut list = members(5);
        list[0].standing = Standing::Doubtful;
        list[1].standing = Standing::Shut;
        list[2].is_backup = true;
        list[3].standing = Standing::Trial;
        assert_eq!(order(&list, By::Position, Repeat::Can)[..], [3, 4, 2]);
        assert_eq!(order(&list, By::Position, Repeat::Cannot)[..], [4, 2, 0]);
        assert_eq!(order(&list, By::Listed(&[1, 4, 0]), Repeat::Can)[..], [4, 0]);
        list.iter_mut().for_each(|member| member.standing = Standing::Shut);
        assert!(order(&list, By::Position, Repeat::Can).is_empty());
    }

    #[test]
    fn keys_and_chances_spread_by_weight() {
        let mut list = members(3);
        (list[0].weight, list[1].weight, list[2].weight) = (6, 3, 0);
        for by in [by_key as fn(u64) -> By<'static>, By::Chance] {
            let mut counts = [0u32; 3];
            for number in 0..20_000u64 {
                counts[order(&list, by(hash_of(&number.to_string())), Repeat::Can)[0]] += 1;
            }
            assert_eq!(counts[2], 0);
            let ratio = f64::from(counts[0]) / f64::from(counts[1]);
            assert!((1.8..2.2).contains(&ratio), "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn removing_an_origin_moves_its_own_keys_and_no_others(
            count in 2usize..12, gone in 0usize..12, weights in prop::collection::vec(1u32..10, 12),
            keys in prop::collection::vec(any::<u64>(), 1..200),
        ) {
            let gone = gone % count;
            let mut list = members(count);
            list.iter_mut().zip(weights).for_each(|(member, weight)| member.weight = weight);
            let mut without = list.clone();
            without[gone].standing = Standing::Shut;
            for key in keys {
                let before = order(&list, by_key(key), Repeat::Can);
                let after = order(&without, by_key(key), Repeat::Can);
                let expected: Vec<usize> = before.iter().copied().filter(|&position| position != gone).collect();
                prop_assert!(after.starts_with(&expected[..expected.len().min(after.len())]));
            }
        }

        /// However unfair the keys are, nobody gets more than its bound of what is under way.
        #[test]
        fn load_is_bounded(
            count in 1usize..10, load_max_percent in 101u32..300,
            weights in prop::collection::vec(1u32..5, 10),
            steps in prop::collection::vec((0u64..4, any::<bool>(), 0usize..10), 1..500),
        ) {
            let mut list = members(count);
            list.iter_mut().zip(weights).for_each(|(member, weight)| member.weight = weight);
            for (key, ends, which) in steps {
                let which = which % count;
                if ends && list[which].under_way > 0 {
                    list[which].under_way -= 1;
                    continue;
                }
                let by = By::Key { hash: hash_of(&key.to_string()), load_max_percent };
                let chosen = order(&list, by, Repeat::Can)[0];
                list[chosen].under_way += 1;
                let total: u64 = list.iter().map(|member| u64::from(member.under_way)).sum();
                let weight: u64 = list.iter().map(|member| u64::from(member.weight)).sum();
                let bound = (total * u64::from(list[chosen].weight) * u64::from(load_max_percent)).div_ceil(weight * 100);
                prop_assert!(u64::from(list[chosen].under_way) <= bound);
            }
        }
    }
}
