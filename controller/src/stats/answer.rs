//! From cells to what is shown: totals, a series, by site and PoP, bytes and money saved. Pure.

use std::collections::BTreeMap;

use nearside_fleet::stats::{OUTCOMES, Sums};
use serde::{Deserialize, Serialize};

use super::store::{Cell, LEVELS, Level, Wanted};

/// Points of a series: as many as a wide terminal has columns.
pub const POINTS_MAX: u64 = 240;

/// Figures of a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Clients' requests.
    pub requests: u64,
    /// Of those that could have been hits, the part that was.
    pub hit_ratio: Option<f64>,
    /// By how they met the cache.
    pub outcomes: BTreeMap<String, u64>,
    /// By status class, `2xx`.
    pub statuses: BTreeMap<String, u64>,
    /// Bytes of bodies to clients.
    pub bytes_out: u64,
    /// Bytes of bodies from origins.
    pub bytes_origin: u64,
    /// The difference: what origins did not have to send.
    pub bytes_saved: u64,
    /// What that would have cost; `None` without a price.
    pub money_saved: Option<f64>,
    /// Requests to origins.
    pub origin_requests: u64,
    /// Those without an answer.
    pub origin_failures: u64,
    /// Milliseconds to a response head that half, 90 %, 95 % and 99 % of requests did not exceed.
    pub latency_ms: Option<Latency>,
}

/// Percentiles, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
}

/// One point of a series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When it begins, seconds since the epoch.
    pub at: u64,
    /// Requests.
    pub requests: u64,
    /// As in [`Figures`].
    pub hit_ratio: Option<f64>,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Bytes from origins.
    pub bytes_origin: u64,
    /// Requests to origins.
    pub origin_requests: u64,
    /// Answers of class 5.
    pub errors: u64,
    /// 95th percentile, milliseconds.
    pub p95_ms: Option<f64>,
}

/// A path asked for often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopPath {
    /// Of which site.
    pub site: String,
    /// Without its query.
    pub path: String,
    /// About how often: a path that is not always among the busiest counts while it is.
    pub requests: u64,
}

/// `GET /v1/stats` of the controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatsAnswer {
    /// Where it begins, seconds since the epoch: where a step begins.
    pub from: u64,
    /// Where it ends.
    pub until: u64,
    /// Seconds of a point.
    pub step: u64,
    /// What prices are in.
    pub currency: String,
    /// All together.
    pub totals: Figures,
    /// By time; steps in which nothing was counted are not in it.
    pub series: Vec<Point>,
    /// By site; the empty name: requests that no site serves.
    pub sites: BTreeMap<String, Figures>,
    /// By PoP.
    pub pops: BTreeMap<String, Figures>,
    /// Busiest paths.
    pub top: Vec<TopPath>,
    /// PoPs that did not hand out what is of now.
    pub away: Vec<String>,
}

/// Which level answers, where it begins, and how long a point is. `asked`: seconds of a point, if somebody cares.
pub fn plan(wanted: &Wanted, now: u64, asked: Option<u64>) -> (Level, u64, u64) {
    let length = wanted.until.saturating_sub(wanted.from).max(1);
    // Days of minutes are many cells: a coarser level says the same.
    let fine = match asked {
        Some(asked) => LEVELS.iter().rposition(|level| level.step <= asked).unwrap_or(0),
        None => LEVELS.iter().position(|level| length / level.step <= POINTS_MAX).unwrap_or(LEVELS.len() - 1),
    };
    let kept = |level: &Level| wanted.from + level.kept >= now;
    let level = LEVELS[fine..].iter().find(|level| kept(level)).unwrap_or(&LEVELS[LEVELS.len() - 1]);
    let step = asked.unwrap_or(level.step).max(length / POINTS_MAX).div_ceil(level.step) * level.step;
    (*level, wanted.from - wanted.from % level.step, step.max(level.step))
}

/// Sums cells up as they come.
#[derive(Debug, Default)]
pub struct Summary {
    sites: BTreeMap<String, Sums>,
    pops: BTreeMap<String, BTreeMap<String, Sums>>,
    points: BTreeMap<u64, Sums>,
}

impl Summary {
    /// Adds a cell to the point of `step` seconds that it is in.
    pub fn add(&mut self, cell: Cell, step: u64) {
        let Cell { at, site, pop, sums } = cell;
        self.points.entry(at - at % step).or_default().add(&sums);
        self.pops.entry(pop).or_default().entry(site.clone()).or_default().add(&sums);
        self.sites.entry(site).or_default().add(&sums);
    }

    /// What is shown of it. `price`: of a site's gigabyte.
    pub fn answer(self, price: impl Fn(&str) -> Option<f64>) -> StatsAnswer {
        let over_sites = |sites: &BTreeMap<String, Sums>| {
            let mut all = Sums::default();
            sites.values().for_each(|sums| all.add(sums));
            let mut figures = figures(&all);
            // Saved at one site is not lost at another.
            figures.bytes_saved = sites.values().map(saved).sum();
            let money: Vec<f64> = sites.iter().filter_map(|(site, sums)| money(sums, price(site))).collect();
            figures.money_saved = (!money.is_empty()).then(|| money.iter().sum());
            figures
        };
        let points = self.points.iter().map(|(&at, sums)| Point {
            at,
            requests: sums.total(),
            hit_ratio: sums.hit_ratio(),
            bytes_out: sums.bytes_out,
            bytes_origin: sums.bytes_origin,
            origin_requests: sums.origin_requests,
            errors: sums.count(|_, class| class == 5),
            p95_ms: sums.percentile_us(0.95).map(ms),
        });
        StatsAnswer {
            totals: over_sites(&self.sites),
            series: points.collect(),
            pops: self.pops.iter().map(|(pop, sites)| (pop.clone(), over_sites(sites))).collect(),
            sites: self
                .sites
                .iter()
                .map(|(site, sums)| {
                    let money_saved = money(sums, price(site));
                    (site.clone(), Figures { money_saved, ..figures(sums) })
                })
                .collect(),
            ..StatsAnswer::default()
        }
    }
}

fn figures(sums: &Sums) -> Figures {
    let mut outcomes = BTreeMap::new();
    let mut statuses = BTreeMap::new();
    for &(outcome, class, count) in &sums.requests {
        let name = OUTCOMES.get(usize::from(outcome)).copied().unwrap_or("other");
        *outcomes.entry(name.to_owned()).or_default() += count;
        *statuses.entry(format!("{class}xx")).or_default() += count;
    }
    let percentile = |part| sums.percentile_us(part).map(ms);
    let latency = || {
        Some(Latency {
            p50: percentile(0.5)?,
            p90: percentile(0.9)?,
            p95: percentile(0.95)?,
            p99: percentile(0.99)?,
        })
    };
    Figures {
        requests: sums.total(),
        hit_ratio: sums.hit_ratio(),
        outcomes,
        statuses,
        bytes_out: sums.bytes_out,
        bytes_origin: sums.bytes_origin,
        bytes_saved: saved(sums),
        money_saved: None,
        origin_requests: sums.origin_requests,
        origin_failures: sums.origin_failures,
        latency_ms: latency(),
    }
}

fn saved(sums: &Sums) -> u64 {
    sums.bytes_out.saturating_sub(sums.bytes_origin)
}

fn money(sums: &Sums, price_per_gb: Option<f64>) -> Option<f64> {
    Some(saved(sums) as f64 / 1e9 * price_per_gb?)
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(at: u64, site: &str, pop: &str, hits: u64, out: u64, origin: u64) -> Cell {
        let sums = Sums {
            requests: vec![(0, 2, hits), (3, 5, 1)],
            bytes_out: out,
            bytes_origin: origin,
            ..Sums::default()
        };
        Cell { at, site: site.into(), pop: pop.into(), sums }
    }

    #[test]
    fn what_is_saved_is_priced_by_site() {
        let mut summary = Summary::default();
        summary.add(cell(60, "www", "fra", 3, 3_000_000_000, 1_000_000_000), 3_600);
        summary.add(cell(120, "img", "fra", 1, 1_000, 5_000), 3_600);
        summary.add(cell(3_600, "www", "nyc", 0, 1_000_000_000, 0), 3_600);
        let answer = summary.answer(|site| (site == "www").then_some(0.5));
        assert_eq!(answer.sites["www"].money_saved, Some(1.5));
        assert_eq!((answer.sites["img"].money_saved, answer.sites["img"].bytes_saved), (None, 0));
        assert_eq!((answer.totals.money_saved, answer.totals.bytes_saved), (Some(1.5), 3_000_000_000));
        assert_eq!(answer.pops["nyc"].money_saved, Some(0.5));
        assert_eq!(answer.totals.hit_ratio, Some(4.0 / 7.0));
        let series: Vec<_> =
            answer.series.iter().map(|point| (point.at, point.requests, point.errors)).collect();
        assert_eq!(series, [(0, 6, 2), (3_600, 1, 1)]);
        assert_eq!(answer.totals.statuses["5xx"], 3);
    }

    #[test]
    fn a_level_is_as_fine_as_is_kept_and_can_be_shown() {
        const NOW: u64 = 2_000_000_000;
        let plan_of = |back: u64, length: u64, asked| {
            plan(&Wanted { from: NOW - back, until: NOW - back + length, ..Wanted::default() }, NOW, asked)
        };
        assert_eq!(plan_of(3_600, 3_600, None).0, LEVELS[0]);
        assert_eq!(plan_of(86_400, 86_400, None).0, LEVELS[1]);
        assert_eq!(plan_of(400 * 86_400, 400 * 86_400, None).0, LEVELS[2]);
        assert_eq!(plan_of(30 * 86_400, 3_600, None).0, LEVELS[1], "minutes of then are gone");
        let (level, from, step) = plan_of(86_400, 86_400, Some(600));
        assert_eq!((level, step, from % 60), (LEVELS[0], 600, 0));
        assert_eq!(plan_of(86_400, 86_400, Some(1)).2, 360, "no more points than are shown");
    }
}
