//! Several DNS nodes' opinions of one address, merged: down only if enough of them say so.
//!
//! One node's broken uplink makes everything look dead from there. A check with `views = N` therefore takes
//! an address down only where at least N nodes see it down; a node that hears too few others goes by its own
//! opinion, so that a lone survivor still fails over. Pure: what was heard, and how old it is, comes in.
//!
//! Invariant, property-tested: no verdict changes sooner than [`Merged::unchanged_for`] says, whatever the
//! nodes see next, fall silent, or come back.

use std::time::Duration;

/// Every node is asked this often. A node that was silent can be heard again no sooner.
pub const ROUND: Duration = Duration::from_secs(2);

/// What was heard longer ago than this does not count any more: four lost rounds.
pub const HEARD_MAX: Duration = Duration::from_secs(10);

/// One node's opinion of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// Whether it passes there.
    pub up: bool,
    /// No sooner than this can that node change its mind.
    pub unchanged_for: Duration,
}

/// What is known beside one's own opinion.
#[derive(Clone, Copy, Debug)]
pub struct Others<'a> {
    /// Opinions of those heard of late.
    pub heard: &'a [Opinion],
    /// Until the first of them counts as silent, should nothing more be heard.
    pub heard_for: Duration,
    /// How many more there are: silent, or without an opinion yet.
    pub missing: usize,
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Whether clients are given the address.
    pub up: bool,
    /// No sooner than this can that change.
    pub unchanged_for: Duration,
    /// How many see it down.
    pub down: usize,
    /// How many there are to count.
    pub views: usize,
}

/// Merges opinions: down if at least `needed` say so.
pub fn merge(own: Opinion, others: Others<'_>, needed: usize) -> Merged {
    let all = || std::iter::once(&own).chain(others.heard);
    let views = 1 + others.heard.len();
    let down = all().filter(|opinion| !opinion.up).count();
    if views < needed {
        // Others who come back can take the decision; to overrule "up" there must be enough of them.
        let overruled =
            if own.up { others.heard.len() + others.missing >= needed } else { others.missing > 0 };
        let unchanged_for = if overruled { own.unchanged_for.min(ROUND) } else { own.unchanged_for };
        return Merged { up: own.up, unchanged_for, down, views };
    }
    let up = down < needed;
    // The verdict falls when `turns` of those that hold it have turned: as soon as the last of them can.
    let (turns, newcomers) = if up { (needed - down, others.missing) } else { (down - needed + 1, 0) };
    let mut holding: Vec<Duration> =
        all().filter(|opinion| opinion.up == up).map(|opinion| opinion.unchanged_for).collect();
    holding.extend(std::iter::repeat_n(ROUND, newcomers));
    holding.sort_unstable();
    let mut unchanged_for = holding.get(turns - 1).copied().unwrap_or(Duration::MAX);
    // Silence takes views away. Only "up" by everyone's and one's own opinion does not rest on any.
    if !(up && own.up) {
        unchanged_for = unchanged_for.min(others.heard_for);
    } else {
        // Left alone, one's own opinion decides, and it may have turned by then.
        unchanged_for = unchanged_for.min(own.unchanged_for.max(others.heard_for));
    }
    Merged { up, unchanged_for, down, views }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opinion(up: bool, seconds: u64) -> Opinion {
        Opinion { up, unchanged_for: Duration::from_secs(seconds) }
    }

    fn of(own: Opinion, heard: &[Opinion], missing: usize, needed: usize) -> (bool, u64) {
        let others = Others { heard, heard_for: Duration::from_secs(8), missing };
        let merged = merge(own, others, needed);
        (merged.up, merged.unchanged_for.as_secs())
    }

    #[test]
    fn one_node_s_bad_uplink_takes_nothing_down() {
        let (up, down) = (opinion(true, 30), opinion(false, 20));
        assert!(of(down, &[up, up], 0, 2).0);
        assert!(of(up, &[down, up], 0, 2).0);
        assert!(!of(down, &[up, down], 0, 2).0);
        assert!(!of(up, &[down, down], 0, 2).0, "overruled");
    }

    #[test]
    fn with_too_few_views_the_own_one_decides() {
        assert_eq!(of(opinion(false, 20), &[], 1, 2), (false, 2));
        // One silent peer can't overrule alone.
        assert_eq!(of(opinion(true, 20), &[], 1, 2), (true, 20));
        assert_eq!(of(opinion(true, 20), &[], 0, 2), (true, 20));
    }

    #[test]
    fn a_verdict_lasts_as_long_as_enough_of_those_who_hold_it() {
        // Two must turn: the slower of the two quickest.
        assert_eq!(of(opinion(true, 10), &[opinion(true, 30), opinion(true, 20)], 0, 2), (true, 10));
        assert_eq!(of(opinion(true, 30), &[opinion(true, 30), opinion(true, 20)], 0, 2), (true, 30));
        // One of two is enough to bring it back.
        assert_eq!(of(opinion(false, 5), &[opinion(false, 7)], 0, 2), (false, 5));
    }

    /// Every verdict that could hold at `time`, if nodes turn, fall silent and come back as they may.
    fn possible(own: Opinion, others: Others<'_>, needed: usize, time: Duration) -> Vec<bool> {
        let may = |opinion: &Opinion| {
            let mut seen = vec![Some(opinion.up)];
            if opinion.unchanged_for < time {
                seen.push(Some(!opinion.up));
            }
            seen
        };
        let mut nodes: Vec<Vec<Option<bool>>> = vec![may(&own)];
        for heard in others.heard {
            let mut seen = may(heard);
            if others.heard_for < time {
                seen.push(None);
            }
            nodes.push(seen);
        }
        let back = if ROUND < time { vec![None, Some(true), Some(false)] } else { vec![None] };
        nodes.extend(std::iter::repeat_n(back, others.missing));
        let mut worlds: Vec<Vec<Option<bool>>> = vec![vec![]];
        for node in nodes {
            worlds = worlds
                .into_iter()
                .flat_map(|world| {
                    node.iter().map(move |&seen| world.iter().copied().chain([seen]).collect::<Vec<_>>())
                })
                .collect();
        }
        let verdict = |world: Vec<Option<bool>>| {
            let own = world[0].unwrap();
            let seen: Vec<bool> = world.into_iter().flatten().collect();
            if seen.len() < needed { own } else { seen.iter().filter(|up| !**up).count() < needed }
        };
        worlds.into_iter().map(verdict).collect()
    }

    proptest! {
        #[test]
        fn never_changes_sooner_than_it_said(
            own in (any::<bool>(), 0u64..20),
            heard in proptest::collection::vec((any::<bool>(), 0u64..20), 0..4),
            heard_for in 0u64..10, missing in 0usize..3, needed in 2usize..5,
        ) {
            let own = opinion(own.0, own.1);
            let heard: Vec<Opinion> = heard.into_iter().map(|(up, seconds)| opinion(up, seconds)).collect();
            let others = Others { heard: &heard, heard_for: Duration::from_secs(heard_for), missing };
            let merged = merge(own, others, needed);
            let time = merged.unchanged_for.min(Duration::from_secs(1000));
            for verdict in possible(own, others, needed, time) {
                prop_assert_eq!(verdict, merged.up, "{:?}", merged);
            }
        }
    }
}
