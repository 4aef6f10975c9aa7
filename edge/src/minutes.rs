//! The last hour, minute by minute: what home fetches to keep.
//!
//! Once a minute, and when home asks for what is of now, the counters' growth since the last time becomes a numbered piece. Nothing here is
//! touched by a request. A piece is never changed once it has its number, so whoever has the number has the piece.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nearside_fleet::stats::{Piece, Pieces, SiteMinute, Sums};
use parking_lot::Mutex;

use crate::{request::Edge, stats::SiteStats};

/// Minutes kept for a home that is away.
const MINUTES_MAX: u64 = 60;
/// Sites times pieces kept, some 2 KB each: an hour of 200 sites, less of more.
const ROWS_MAX: usize = 12_000;
/// Sites times pieces in one answer: a few megabytes.
const ANSWER_ROWS_MAX: usize = 2_000;
/// Pieces closer together than this are not made, however often home asks.
const APART_MIN: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug)]
pub struct Minutes {
    life: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Totals at the last piece.
    last: HashMap<String, Sums>,
    pieces: VecDeque<Piece>,
    rows: usize,
    number: u64,
    closed: Instant,
}

impl Minutes {
    /// None yet.
    pub fn new() -> Arc<Self> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let inner = Inner {
            last: HashMap::new(),
            pieces: VecDeque::new(),
            rows: 0,
            number: 0,
            closed: Instant::now(),
        };
        let life = u64::try_from(started.as_millis()).unwrap_or_default();
        Arc::new(Minutes { life, inner: Mutex::new(inner) })
    }

    /// Makes a piece of what was counted since the last one, for a minute. `false`: the last one is too young.
    fn close<'s>(
        &self,
        sites: impl Iterator<Item = (&'s str, &'s SiteStats)>,
        minute: u64,
        now: Instant,
    ) -> bool {
        let mut inner = self.inner.lock();
        let seconds = now.saturating_duration_since(inner.closed);
        if seconds < APART_MIN {
            return false;
        }
        inner.closed = now;
        let mut piece = Piece { minute, seconds: seconds.as_secs_f64(), ..Piece::default() };
        let mut totals = HashMap::new();
        for (name, stats) in sites {
            let total = stats.totals();
            let sums = grown(&total, inner.last.get(name));
            let top = stats.take_top();
            if !sums.is_empty() {
                piece.sites.insert(name.to_owned(), SiteMinute { sums, top });
            }
            totals.insert(name.to_owned(), total);
        }
        inner.last = totals;
        inner.number += 1;
        piece.number = inner.number;
        inner.rows += piece.sites.len();
        inner.pieces.push_back(piece);
        while inner.rows > ROWS_MAX
            || inner.pieces.front().is_some_and(|oldest| oldest.minute + MINUTES_MAX < minute)
        {
            let Some(gone) = inner.pieces.pop_front() else { break };
            inner.rows -= gone.sites.len();
        }
        true
    }

    /// What came after a number of this life; everything for who knows another life.
    pub fn after(&self, life: u64, number: u64) -> Pieces {
        let inner = self.inner.lock();
        let after = if life == self.life { number } else { 0 };
        let mut answer = Pieces { life: self.life, ..Pieces::default() };
        let mut rows = 0;
        for piece in inner.pieces.iter().filter(|piece| piece.number > after) {
            rows += piece.sites.len();
            if rows > ANSWER_ROWS_MAX && !answer.pieces.is_empty() {
                answer.more = true;
                break;
            }
            answer.pieces.push(piece.clone());
        }
        answer
    }
}

/// What was added to a total. A counter that fell belongs to a site that was gone for a while, and began anew.
fn grown(total: &Sums, last: Option<&Sums>) -> Sums {
    let Some(last) = last else { return total.clone() };
    let less = |now: u64, then: u64| if now >= then { now - then } else { now };
    let requests = total.requests.iter().filter_map(|&(outcome, class, now)| {
        let then = last.requests.iter().find(|then| (then.0, then.1) == (outcome, class));
        let count = less(now, then.map_or(0, |then| then.2));
        (count > 0).then_some((outcome, class, count))
    });
    let latency = total.latency.iter().filter_map(|&(bucket, now)| {
        let then = last.latency.iter().find(|then| then.0 == bucket);
        let count = less(now, then.map_or(0, |then| then.1));
        (count > 0).then_some((bucket, count))
    });
    Sums {
        requests: requests.collect(),
        latency: latency.collect(),
        bytes_out: less(total.bytes_out, last.bytes_out),
        bytes_origin: less(total.bytes_origin, last.bytes_origin),
        origin_requests: less(total.origin_requests, last.origin_requests),
        origin_failures: less(total.origin_failures, last.origin_failures),
    }
}

/// Makes a piece of now.
pub fn close(minutes: &Minutes, edge: &Edge) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The tick at the end of a minute is for that minute.
    let minute = now.saturating_sub(EDGE).as_secs() / 60;
    let sites = edge.sites.load();
    let named = sites.iter().map(|site| (site.name.as_str(), &*site.stats));
    minutes.close(named.chain([("", &*edge.unknown)]), minute, Instant::now());
}

/// How far into a minute its beginning still counts as the end of the one before.
const EDGE: Duration = Duration::from_millis(500);

/// Makes a piece at the end of every minute, until the edge is gone.
pub async fn keep(minutes: Arc<Minutes>, edge: Weak<Edge>) {
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let into = Duration::from_nanos((now.as_nanos() % 60_000_000_000) as u64);
        tokio::time::sleep(Duration::from_secs(60) - into + Duration::from_millis(10)).await;
        let Some(edge) = edge.upgrade() else { return };
        close(&minutes, &edge);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::stats::Outcome;

    fn hit(stats: &SiteStats, times: u64) {
        for _ in 0..times {
            stats.here().responded(Outcome::Hit, http::StatusCode::OK, Duration::from_micros(100));
            stats.here().body_bytes.fetch_add(5, Relaxed);
        }
    }

    fn totals(pieces: &Pieces) -> Vec<u64> {
        pieces.pieces.iter().map(|piece| piece.sites.values().map(|site| site.sums.total()).sum()).collect()
    }

    #[test]
    fn pieces_are_what_was_added_and_each_is_handed_out_until_it_is_known() {
        let (minutes, stats) = (Minutes::new(), SiteStats::new(1));
        let mut now = Instant::now();
        let mut close = |stats: &SiteStats, minute| {
            now += Duration::from_secs(60);
            assert!(minutes.close([("www", stats)].into_iter(), minute, now));
        };
        hit(&stats, 3);
        close(&stats, 1);
        close(&stats, 2);
        hit(&stats, 4);
        close(&stats, 3);
        let all = minutes.after(0, 99);
        assert_eq!(totals(&all), [3, 0, 4], "another life's number means nothing");
        assert_eq!(all.pieces[2].sites["www"].sums.bytes_out, 20);
        assert_eq!(totals(&minutes.after(all.life, 1)), [0, 4]);
        assert_eq!(totals(&minutes.after(all.life, 3)), [0; 0]);
        let anew = SiteStats::new(1);
        hit(&anew, 2);
        close(&anew, 4);
        assert_eq!(totals(&minutes.after(all.life, 3)), [2], "a site that came back counts from 0");
        close(&anew, 4 + MINUTES_MAX + 1);
        assert_eq!(minutes.after(all.life, 0).pieces.len(), 1, "the rest is too old");
    }

    #[test]
    fn pieces_are_not_made_too_often() {
        let (minutes, stats) = (Minutes::new(), SiteStats::new(1));
        let now = Instant::now();
        assert!(minutes.close([("www", &*stats)].into_iter(), 1, now + Duration::from_secs(1)));
        assert!(!minutes.close([("www", &*stats)].into_iter(), 1, now + Duration::from_secs(1)));
    }
}
