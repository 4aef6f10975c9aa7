//! Offers a busy PoP to fewer client networks: how much of a PoP a service still hands out.
//!
//! Pure: loads and the time come in, a [`Share`] per service and PoP goes out. Steering turns a share into
//! networks by a stable hash ([`crate::steering`]); nothing here knows a client. The loads are what edges say
//! of themselves on their health page, where 1 is all they have.
//!
//! **Why it settles.** Load follows a share late: resolvers keep what they were told for a TTL, and an edge
//! reports an average. A step is therefore sized by what is measured (`share × target / load`), never by a
//! guess, and the next one waits until this one can be seen ([`Limits::lag`]). Down is quick: at once, and by
//! half if need be. Up is slow: after [`PATIENCE`] times as long, by half at most, and only as far as the load
//! measured would stay below the threshold. Between [`RAISE_BELOW`] and the threshold nothing moves. DNS nodes
//! don't talk about this: each scales the part of the clients that ask it, and a fraction of every part is the
//! same fraction of the whole. A share that was raised and had to be lowered again is raised ever later
//! ([`WARINESS`]): what a wrongly reported load can turn once does not turn for ever.
//!
//! **What it never does.** A share has a floor, or a PoP that got no client could never show that it has room.
//! A PoP sheds only while another one has room: where all are busy, nobody is moved about. A PoP that reports
//! no load keeps its clients.
//!
//! Invariant, simulated: with a constant demand that the fleet can carry, no PoP stays above its threshold, and
//! what turns to and fro does so ever more seldom.

use std::{collections::BTreeMap, time::Duration};

use nearside_fleet::config::Id;

use super::state::Moment;

/// The least that a PoP is offered: one network in 32. Enough to see whether it still is as busy.
pub const FLOOR: f64 = 1.0 / 32.0;

/// Part of the threshold that a step down aims at: the middle of the band in which nothing moves.
const LOWER_TO: f64 = 0.88;

/// The most that one step takes away. A load that can't exceed 1 hides how much too much it is.
const LOWER_BY_MOST: f64 = 0.5;

/// A load from here on says "all I have" and no more: steps down are then at least this large.
const SATURATED: f64 = 0.97;
const SATURATED_STEP: f64 = 0.6;

/// Part of the threshold below which a share grows again, and part that growing aims at. Far enough apart
/// from the threshold that a load that is reported 10 % wrong does not turn the direction.
pub const RAISE_BELOW: f64 = 0.75;
const RAISE_TO: f64 = 0.85;

/// The most that one step gives back.
const RAISE_BY_MOST: f64 = 1.5;

/// A step up waits so many times longer than a step down.
const PATIENCE: u32 = 3;

/// A share that turned from up to down waits so many times longer for the next step up, up to [`TURNS_MAX`] times; unless
/// the load is so low ([`CALM_BELOW`] of the threshold) that the largest step up would not reach the threshold.
const WARINESS: u32 = 4;
const TURNS_MAX: u8 = 3;
const CALM_BELOW: f64 = 0.5;

/// Part of the threshold below which a PoP has room for what others shed.
const ROOM_BELOW: f64 = 0.9;

/// Edges report the average of about so long.
pub const LOAD_WINDOW: Duration = Duration::from_secs(10);

/// How one service sheds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Load above which a PoP is offered to fewer.
    pub above: f64,
    /// Until the effect of a step is seen in the loads.
    pub lag: Duration,
}

/// What is known of one PoP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Whether clients are sent there at all.
    pub up: bool,
    /// What it says of itself: 0 idle, 1 all it has. `None`: nothing, or not of late.
    pub load: Option<f64>,
}

/// What one PoP is offered of one service's clients.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Share {
    /// [`FLOOR`] to 1.
    pub share: f64,
    /// No step down before.
    lower_at: Moment,
    /// No step up before.
    raise_at: Moment,
    /// No step up before, unless the load is low; and remembered so long, whole or not.
    #[serde(default)]
    wary_until: Moment,
    /// Steps down that came right after a step up.
    #[serde(default)]
    turns: u8,
    /// The last step was up.
    #[serde(default)]
    was_raised: bool,
}

impl Share {
    fn wariness(self, limits: &Limits, now: Moment) -> Moment {
        now.plus(limits.lag * PATIENCE * WARINESS.pow(self.turns.into()))
    }
}

/// The shares of every service that sheds. What is not in it is offered whole.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Shares(BTreeMap<Id, BTreeMap<Id, Share>>);

/// A share that has changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The service.
    pub service: Id,
    /// The PoP.
    pub pop: Id,
    /// Share before.
    pub from: f64,
    /// Share now.
    pub to: f64,
    /// The load that made it, where one is known.
    pub load: Option<f64>,
}

impl Shares {
    /// What a PoP is offered of a service; 1 where nothing is shed.
    pub fn of(&self, service: &str, pop: &str) -> f64 {
        self.0.get(service).and_then(|pops| pops.get(pop)).map_or(1.0, |share| share.share)
    }

    /// Every share below 1.
    pub fn iter(&self) -> impl Iterator<Item = (&Id, &Id, &Share)> {
        let all = self.0.iter();
        let all = all.flat_map(|(service, pops)| pops.iter().map(move |(pop, share)| (service, pop, share)));
        all.filter(|(_, _, share)| share.share < 1.0)
    }

    /// Forgets services and PoPs that are gone, and what a file on disk has out of bounds.
    pub fn retain(&mut self, keep: impl Fn(&str, &str) -> bool) {
        self.0.retain(|service, pops| {
            pops.retain(|pop, share| keep(service, pop) && (FLOOR..=1.0).contains(&share.share));
            !pops.is_empty()
        });
    }

    /// Lets what was read from disk be seen at work before anything moves: loads of before a restart are gone.
    pub fn settle(&mut self, service: &str, limits: &Limits, now: Moment) {
        for share in self.0.get_mut(service).into_iter().flat_map(BTreeMap::values_mut) {
            (share.lower_at, share.raise_at) = (now.plus(limits.lag), now.plus(limits.lag * PATIENCE));
        }
    }

    /// Judges the loads of one service as of `now`. May be called as often as one likes: steps keep their
    /// distance by themselves.
    pub fn judge(
        &mut self,
        service: &Id,
        limits: &Limits,
        seen: &BTreeMap<Id, Seen>,
        now: Moment,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        let shares = self.0.entry(service.clone()).or_default();
        for (pop, here) in seen {
            let before = shares.get(pop).copied();
            let others = seen.iter().filter(|(other, _)| *other != pop).map(|(_, there)| there);
            let room = others.clone().any(|there| has_room(there, limits));
            let Some(after) = step(before, here, room, limits, now) else {
                if before.is_some_and(|share| share.share >= 1.0 && now >= share.wary_until) {
                    shares.remove(pop);
                }
                continue;
            };
            let from = before.map_or(1.0, |share| share.share);
            if after.share != from {
                let (service, pop) = (service.clone(), pop.clone());
                steps.push(Step { service, pop, from, to: after.share, load: here.load });
            }
            if after.share < 1.0 || after.turns > 0 {
                shares.insert(pop.clone(), after);
            } else {
                shares.remove(pop);
            }
        }
        if shares.is_empty() {
            self.0.remove(service);
        }
        steps
    }
}

fn has_room(there: &Seen, limits: &Limits) -> bool {
    there.up && there.load.is_none_or(|load| load < ROOM_BELOW * limits.above)
}

/// One PoP's next share; `None`: as before.
fn step(before: Option<Share>, here: &Seen, room: bool, limits: &Limits, now: Moment) -> Option<Share> {
    let start = Moment(0);
    let whole = Share {
        share: 1.0,
        lower_at: start,
        raise_at: start,
        wary_until: start,
        turns: 0,
        was_raised: false,
    };
    let share = before.unwrap_or(whole);
    if !here.up {
        // It will come back to what it was offered, and must be seen to bear that before it gets more.
        return before.map(|share| Share { raise_at: now.plus(limits.lag * PATIENCE), ..share });
    }
    let raise_at = now.plus(limits.lag * PATIENCE);
    let load = here.load.unwrap_or(0.0);
    if load > limits.above {
        if !room || now < share.lower_at {
            return None;
        }
        let mut factor = (LOWER_TO * limits.above / load).max(LOWER_BY_MOST);
        if load >= SATURATED {
            factor = factor.min(SATURATED_STEP);
        }
        let turns = (share.turns + u8::from(share.was_raised)).min(TURNS_MAX);
        let lowered = (share.share * factor).max(FLOOR);
        let lower_at = now.plus(limits.lag);
        let after = Share { share: lowered, lower_at, raise_at, turns, was_raised: false, ..share };
        return Some(Share { wary_until: after.wariness(limits, now), ..after });
    }
    if load >= RAISE_BELOW * limits.above || share.share >= 1.0 || now < share.raise_at {
        return None;
    }
    if load >= CALM_BELOW * limits.above && now < share.wary_until {
        return None;
    }
    let factor = (RAISE_TO * limits.above / load.max(f64::MIN_POSITIVE)).min(RAISE_BY_MOST);
    let wary_until = share.wariness(limits, now);
    Some(Share { share: (share.share * factor).min(1.0), raise_at, wary_until, was_raised: true, ..share })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { above: 0.8, lag: Duration::from_secs(50) };

    fn seen(loads: &[Option<f64>]) -> BTreeMap<Id, Seen> {
        loads.iter().enumerate().map(|(at, &load)| (format!("p{at}"), Seen { up: true, load })).collect()
    }

    fn web() -> Id {
        "web".into()
    }

    #[test]
    fn down_at_once_and_sized_by_the_load_then_a_pause() {
        let mut shares = Shares::default();
        let busy = seen(&[Some(0.9), Some(0.2)]);
        let steps = shares.judge(&web(), &LIMITS, &busy, Moment(1000));
        assert_eq!((steps.len(), &*steps[0].pop, steps[0].from), (1, "p0", 1.0));
        assert!((steps[0].to - 0.88 * 0.8 / 0.9).abs() < 1e-9, "{steps:?}");
        assert!(shares.judge(&web(), &LIMITS, &busy, Moment(50_999)).is_empty(), "not yet to be seen");
        assert_eq!(shares.judge(&web(), &LIMITS, &busy, Moment(51_000)).len(), 1);
        // All it has: how much too much is unknown.
        let mut full = Shares::default();
        full.judge(&web(), &LIMITS, &seen(&[Some(1.0), Some(0.2)]), Moment(0));
        assert_eq!(full.of("web", "p0"), 0.6);
        let mut flood = Shares::default();
        flood.judge(&web(), &LIMITS, &seen(&[Some(7.0), Some(0.2)]), Moment(0));
        assert_eq!(flood.of("web", "p0"), 0.5);
    }

    #[test]
    fn there_is_a_floor_and_the_way_back_is_slow() {
        let mut shares = Shares::default();
        let mut now = Moment(0);
        for _ in 0..50 {
            shares.judge(&web(), &LIMITS, &seen(&[Some(1.0), Some(0.2)]), now);
            now = now.plus(LIMITS.lag);
        }
        assert_eq!(shares.of("web", "p0"), FLOOR);
        let idle = seen(&[Some(0.01), Some(0.2)]);
        let mut steps = 0;
        let back = now;
        while shares.of("web", "p0") < 1.0 {
            now = now.plus(Duration::from_secs(1));
            steps += shares.judge(&web(), &LIMITS, &idle, now).len();
        }
        assert_eq!(steps, 9, "half as much again each time");
        assert!(now.since(back) >= LIMITS.lag * (3 * 8), "{:?}", now.since(back));
        assert_eq!(shares, Shares::default(), "nothing is kept of what is over");
    }

    #[test]
    fn nobody_sheds_without_a_load_or_with_nowhere_to_go() {
        let mut shares = Shares::default();
        for loads in [[None, None], [Some(0.9), Some(0.9)], [Some(0.9), Some(0.75)], [Some(0.8), Some(0.1)]] {
            assert!(shares.judge(&web(), &LIMITS, &seen(&loads), Moment(0)).is_empty(), "{loads:?}");
        }
        let mut down = seen(&[Some(0.9), Some(0.1)]);
        down.get_mut("p1").unwrap().up = false;
        assert!(shares.judge(&web(), &LIMITS, &down, Moment(0)).is_empty(), "who is down has no room");
        // One that does not say how busy it is may have room.
        assert_eq!(shares.judge(&web(), &LIMITS, &seen(&[Some(0.9), None]), Moment(0)).len(), 1);
    }

    #[test]
    fn what_is_gone_or_impossible_is_forgotten() {
        let text = r#"{"web":{"p0":{"share":0.5,"lower_at":0,"raise_at":0},"p1":{"share":0.5,"lower_at":0,
            "raise_at":0},"p2":{"share":7.0,"lower_at":0,"raise_at":0}},"old":{"p0":{"share":0.5,"lower_at":0,
            "raise_at":0}}}"#;
        let mut shares: Shares = serde_json::from_str(text).unwrap();
        shares.retain(|service, pop| service == "web" && pop != "p1");
        let left: Vec<_> =
            shares.iter().map(|(service, pop, share)| (&**service, &**pop, share.share)).collect();
        assert_eq!(left, [("web", "p0", 0.5)]);
        shares.settle("web", &LIMITS, Moment(0));
        assert!(shares.judge(&web(), &LIMITS, &seen(&[Some(0.9), None, None]), Moment(49_999)).is_empty());
    }

    /// A fleet under a constant demand: DNS nodes that don't know of each other, resolvers that keep what they
    /// were told for up to a TTL, edges that report an average, a little wrong.
    struct World {
        rng: fastrand::Rng,
        limits: Limits,
        names: Vec<Id>,
        nodes: Vec<Shares>,
        /// When each node looks at the loads next.
        looks: Vec<u64>,
        units: Vec<Unit>,
        /// Demand that each PoP can bear.
        capacity: Vec<f64>,
        /// What each PoP reports.
        reported: Vec<f64>,
        /// Noise of a report.
        wrong: f64,
        /// Steps taken: when, by which node, which PoP, up.
        steps: Vec<(u64, usize, usize, bool)>,
    }

    /// Clients behind one network.
    struct Unit {
        demand: f64,
        order: Vec<usize>,
        /// Draws of the hash, by PoP.
        draws: Vec<f64>,
        at: usize,
        until: u64,
    }

    const TTL_S: u64 = 30;

    impl World {
        /// `demand` is in parts of all capacity; `skew` puts more of it near the first PoP.
        fn new(seed: u64, nodes: usize, pops: usize, demand: f64, skew: f64, wrong: f64) -> Self {
            let mut rng = fastrand::Rng::with_seed(seed);
            let capacity: Vec<f64> = (0..pops).map(|_| 0.5 + rng.f64()).collect();
            let mut units: Vec<Unit> = (0..600)
                .map(|_| {
                    let mut order: Vec<usize> = (0..pops).collect();
                    rng.shuffle(&mut order);
                    if rng.f64() < skew {
                        let first = order.iter().position(|&pop| pop == 0).unwrap();
                        order.swap(0, first);
                    }
                    let draws = (0..pops).map(|_| rng.f64()).collect();
                    // Some networks are a hundred times as large as others.
                    Unit { demand: 10f64.powf(2.0 * rng.f64()), order, draws, at: 0, until: 0 }
                })
                .collect();
            let total: f64 = units.iter().map(|unit| unit.demand).sum();
            let bearable: f64 = capacity.iter().sum();
            for unit in &mut units {
                unit.demand *= demand * bearable / total;
                unit.until = rng.u64(0..TTL_S);
                unit.at = unit.order[0];
            }
            let looks = (0..nodes).map(|_| rng.u64(0..10)).collect();
            let nodes = vec![Shares::default(); nodes];
            let (names, reported) = ((0..pops).map(|pop| format!("p{pop}")).collect(), vec![0.0; pops]);
            Self { rng, limits: LIMITS, names, nodes, looks, units, capacity, reported, wrong, steps: vec![] }
        }

        fn loads(&self) -> Vec<f64> {
            let mut loads = vec![0.0; self.capacity.len()];
            for unit in &self.units {
                loads[unit.at] += unit.demand / self.capacity[unit.at];
            }
            loads
        }

        /// One second.
        fn tick(&mut self, now: u64) {
            let loads = self.loads();
            for (reported, load) in self.reported.iter_mut().zip(loads) {
                // A machine can't be more than busy, and reports the average of some seconds.
                *reported += (load.min(1.0) - *reported) / 5.0;
            }
            for node in 0..self.nodes.len() {
                if self.looks[node] > now {
                    continue;
                }
                self.looks[node] = now + self.rng.u64(9..=11);
                let noise = |rng: &mut fastrand::Rng, wrong: f64| 1.0 + wrong * (2.0 * rng.f64() - 1.0);
                let seen: BTreeMap<Id, Seen> = self
                    .reported
                    .iter()
                    .enumerate()
                    .map(|(pop, load)| {
                        let load = Some((load * noise(&mut self.rng, self.wrong)).min(1.0));
                        (self.names[pop].clone(), Seen { up: true, load })
                    })
                    .collect();
                for step in self.nodes[node].judge(&web(), &self.limits, &seen, Moment(now * 1000)) {
                    let pop = step.pop[1..].parse().unwrap();
                    self.steps.push((now, node, pop, step.to > step.from));
                }
            }
            for unit in self.units.iter_mut().filter(|unit| unit.until <= now) {
                let shares = &self.nodes[self.rng.usize(..self.nodes.len())];
                let offered = |&&pop: &&usize| unit.draws[pop] < shares.of("web", &self.names[pop]);
                // A list holds the three nearest.
                unit.at = *unit.order.iter().take(3).find(offered).unwrap_or(&unit.order[0]);
                unit.until = now + self.rng.u64(TTL_S / 3..=TTL_S);
            }
        }
    }

    #[test]
    fn busy_pops_are_relieved_and_shares_stop_moving() {
        let first = std::env::var("NEARSIDE_SEED").ok().and_then(|seed| seed.parse().ok());
        let first = first.unwrap_or_else(|| fastrand::u64(..1 << 32));
        for seed in first..first + 5 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (nodes, pops) = (rng.usize(1..=5), rng.usize(3..=7));
            // The first fleet has something to shed in any case.
            let (demand, skew) = match seed == first {
                true => (0.5, 0.6),
                false => (0.3 + 0.2 * rng.f64(), 0.6 * rng.f64()),
            };
            let wrong = 0.05 * rng.f64();
            let mut world = World::new(seed, nodes, pops, demand, skew, wrong);
            let what = format!("seed {seed}: {nodes} nodes, {pops} PoPs, demand {demand:.2}, skew {skew:.2}");
            const HOUR: u64 = 3600;
            for now in 0..2 * HOUR {
                world.tick(now);
                if now < HOUR {
                    continue;
                }
                for (pop, load) in world.loads().iter().enumerate() {
                    assert!(*load <= LIMITS.above * 1.1, "{what}: p{pop} still at {load:.2} after {now} s");
                }
            }
            // One network can be worth more than the band in which nothing moves: then no share is right, and each
            // turn back is waited for four times longer than the last.
            for node in 0..nodes {
                for pop in 0..pops {
                    let of = |step: &&(u64, usize, usize, bool)| (step.1, step.2) == (node, pop);
                    let all: Vec<_> = world.steps.iter().filter(of).collect();
                    let back = all.windows(2).filter(|pair| pair[0].3 && !pair[1].3).count();
                    assert!(back <= usize::from(TURNS_MAX) + 1, "{what}: ns{node} turns on p{pop}: {all:?}");
                    let late = all.iter().filter(|step| step.0 > HOUR).count();
                    assert!(late <= 6, "{what}: ns{node} has not settled on p{pop}: {all:?}");
                }
            }
        }
        // This one has something to shed, or nothing would be shown.
        let mut world = World::new(1, 3, 4, 0.45, 0.6, 0.03);
        (0..600).for_each(|now| world.tick(now));
        assert!(!world.steps.is_empty());
    }

    #[test]
    fn the_same_fleet_swings_where_steps_do_not_wait_for_their_effect() {
        // Otherwise the simulation could not tell a controller that settles from one that does not.
        let mut world = World::new(1, 3, 4, 0.45, 0.6, 0.03);
        world.limits.lag = Duration::from_millis(1);
        for now in 0..7200 {
            world.tick(now);
        }
        let turns = |node| {
            let steps: Vec<_> = world.steps.iter().filter(|step| (step.1, step.2) == (node, 0)).collect();
            steps.windows(2).filter(|pair| pair[0].3 != pair[1].3).count()
        };
        assert!((0..3).map(turns).sum::<usize>() >= 3, "{:?}", world.steps);
    }

    #[test]
    fn a_fleet_that_is_too_small_settles_too_and_relief_ends_with_the_rush() {
        let seed = fastrand::u64(..1 << 32);
        let mut world = World::new(seed, 3, 4, 1.5, 0.4, 0.03);
        for now in 0..3600 {
            world.tick(now);
        }
        let before = world.steps.len();
        for now in 3600..7200 {
            world.tick(now);
        }
        let late = &world.steps[before..];
        assert!(late.len() <= 12, "seed {seed}: never settles: {late:?}");
        for unit in &mut world.units {
            unit.demand /= 30.0;
        }
        for now in 7200..7200 + 3 * 3600 {
            world.tick(now);
        }
        assert!(
            world.nodes.iter().all(|shares| *shares == Shares::default()),
            "seed {seed}: {:?}",
            world.nodes
        );
        let turned = world.units.iter().filter(|unit| unit.at != unit.order[0]).count();
        assert_eq!(turned, 0, "seed {seed}: everybody is back at the nearest");
    }
}
