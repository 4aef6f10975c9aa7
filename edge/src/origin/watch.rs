//! Active checks: asks every origin that has a check, at its interval, whether it is well.
//!
//! One task keeps the times; each check is a task of its own, so many at once at most. What a check means is decided by
//! [`super::health`].

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::group::Group;
use crate::request::Edge;

/// Checks under way at once. Each is a connection of a few KB; more would come in bursts after a reload.
const CHECKS_AT_ONCE: usize = 64;

/// How often the sites are looked through for checks that are new: a reload is no reason to wait longer.
const LOOK: Duration = Duration::from_millis(500);

/// A check starts this much sooner or later than its interval says, in percent, so that PoPs do not march in step.
const JITTER_PERCENT: u64 = 5;

/// Runs until the edge is gone.
pub async fn run(edge: Weak<Edge>) {
    let at_once = Arc::new(Semaphore::new(CHECKS_AT_ONCE));
    let mut next: HashMap<(String, String), Instant> = HashMap::new();
    loop {
        let Some(edge) = edge.upgrade() else { return };
        let sites = edge.sites.load_full();
        drop(edge);
        let now = Instant::now();
        let mut soonest = now + LOOK;
        let mut seen = HashMap::new();
        for site in sites.iter() {
            let Some(group) = site.origins.group() else { continue };
            let Some(check) = &group.balance().check else { continue };
            for (position, origin) in site.origins.iter().enumerate() {
                let name = (site.name.clone(), origin.settings().name.clone());
                let due = next.get(&name).copied().unwrap_or(now);
                let due = if due > now {
                    due
                } else {
                    start(group, position, &at_once);
                    now + jittered(check.interval)
                };
                soonest = soonest.min(due);
                seen.insert(name, due);
            }
        }
        next = seen;
        tokio::time::sleep_until(soonest.into()).await;
    }
}

fn start(group: &Arc<Group>, position: usize, at_once: &Arc<Semaphore>) {
    // All of them busy: this one has its turn an interval later, as if it had been lost on the way.
    let Ok(permit) = at_once.clone().try_acquire_owned() else { return };
    let group = group.clone();
    tokio::spawn(async move {
        let Some(check) = &group.balance().check else { return };
        let Some(origin) = group.origin(position) else { return };
        let result = origin.check(check).await;
        group.checked(position, result);
        drop(permit);
    });
}

fn jittered(interval: Duration) -> Duration {
    let spread = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX) / 100 * JITTER_PERCENT;
    interval - Duration::from_micros(spread) + Duration::from_micros(fastrand::u64(0..=spread * 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_stay_near_their_interval() {
        let interval = Duration::from_secs(10);
        for _ in 0..1000 {
            let next = jittered(interval);
            assert!(next >= interval * 95 / 100 && next <= interval * 105 / 100, "{next:?}");
        }
    }
}
