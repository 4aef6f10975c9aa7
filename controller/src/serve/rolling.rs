//! Runs a rollout: tells the pure machine ([`crate::rollout`]) what is seen, does what it says, keeps how far it is.
//!
//! A snapshot that goes out in waves is journaled as such together with itself, so home may die at any moment: at the
//! next start the wave under way is watched from the beginning, and a rollout whose gate had failed is taken back. Taking
//! back is a new signed snapshot with the content before, for all nodes at once: those that were not reached yet have
//! that content already.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Controller, NotPublished, PublishOutcome};
use crate::{
    bundle::{self, Content, Draft, How, Published},
    events::{Event, Kind as EventKind},
    journal::publications::{Outcome, Publication, Waves},
    nodes::{CLOSE_LOOK, Kind, Target},
    rollout::{self, Plan, Rollout, Sight, Sights, Step},
};

/// How often a rollout under way is judged; its nodes are looked at every second.
const JUDGE: Duration = Duration::from_millis(250);
/// Pause before taking back is tried again, if home's disk or journal fails.
const RETRY: Duration = Duration::from_secs(5);
/// Who does what nobody asked for.
pub(super) const ITSELF: &str = "controller";

/// A rollout under way.
#[derive(Debug)]
pub(super) struct Rolling {
    rollout: Rollout,
    from: Arc<Target>,
    to: Arc<Target>,
    /// Why it is to be taken back: a gate failed before home stopped.
    failed: Option<String>,
}

/// A rollout under way, as it is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// The snapshot.
    pub number: u64,
    /// The one that the others keep until their wave.
    pub from: u64,
    /// The wave that was let go last, from 1.
    pub wave: usize,
    /// Who is in which wave.
    pub waves: Vec<Vec<String>>,
    /// How long each is watched.
    pub watch_seconds: u64,
    /// For how long each node that has it has been watched.
    pub watched_seconds: BTreeMap<String, u64>,
}

impl Controller {
    /// Goes on where home stopped. To be called once, before anything is published.
    pub(super) fn take_up(self: &Arc<Self>) {
        let newest = self.journal.publications(1).ok().and_then(|mut newest| newest.pop());
        let Some(publication) = newest else { return };
        let number = publication.number;
        let Ok(Some(signed)) = self.journal.snapshot(number) else { return };
        self.counters.snapshot.set(i64::try_from(number).unwrap_or(i64::MAX));
        match bundle::kept(&self.home, &self.journal, &self.fleet_file, number) {
            Ok((_, config)) => {
                self.aim(&config);
                self.inner.lock().config = Some(config);
            }
            Err(error) => tracing::error!("what was published can't be read: {error}"),
        }
        let target = Arc::new(Target { number, signed });
        match publication.outcome {
            Outcome::Rolling => self.begin(target, &publication),
            Outcome::Failed => {
                // Nobody is given it any more, whatever comes between.
                self.hold_back(target, &publication);
            }
            Outcome::Sent | Outcome::Done => self.target_all(target),
        }
    }

    /// Aims at what was published just now.
    pub(super) fn aim_at(&self, published: &Published) {
        let target = Arc::new(Target { number: published.number, signed: published.signed.clone() });
        match published.publication.outcome {
            Outcome::Rolling if published.new => self.begin(target, &published.publication),
            _ => self.target_all(target),
        }
    }

    /// All nodes are to have it.
    fn target_all(&self, target: Arc<Target>) {
        *self.rolling.lock() = None;
        self.counters.rolling.set(0);
        self.desired.send_modify(|desired| {
            (desired.newest, desired.look) = (Some(target), None);
            desired.held.clear();
        });
    }

    /// Begins a rollout, or goes on with it.
    fn begin(&self, to: Arc<Target>, publication: &Publication) {
        let number = to.number;
        let Some(mut rolling) = self.prepare(&to, publication) else {
            tracing::warn!(number, "there is no snapshot to compare it with: sent to all nodes at once");
            self.journal_outcome(number, Outcome::Sent, "");
            return self.target_all(to);
        };
        match self.journal.rollout(number) {
            Ok(Some(before)) => {
                rolling.rollout = before;
                rolling.rollout.resume(self.began.elapsed());
                tracing::info!(
                    number,
                    wave = rolling.rollout.wave + 1,
                    "the rollout goes on; the wave is watched anew"
                );
            }
            _ => {
                tracing::info!(number, waves = ?rolling.rollout.plan.waves, "the rollout begins");
                self.keep(&rolling.rollout);
            }
        }
        self.counters.rolling.set(1);
        *self.rolling.lock() = Some(rolling);
        self.retarget();
    }

    /// A rollout whose nodes are held where they are: it failed, and is about to be taken back.
    fn hold_back(&self, to: Arc<Target>, publication: &Publication) {
        if let Some(mut rolling) = self.prepare(&to, publication) {
            if let Ok(Some(before)) = self.journal.rollout(to.number) {
                rolling.rollout = before;
            }
            rolling.failed = Some(publication.told.clone());
            *self.rolling.lock() = Some(rolling);
            self.retarget();
        }
    }

    fn prepare(&self, to: &Arc<Target>, publication: &Publication) -> Option<Rolling> {
        let before = self.journal.publications(2).ok()?.into_iter().find(|one| one.number < to.number)?;
        let from = before.number;
        let signed = self.journal.snapshot(from).ok()??;
        let known = |config: &nearside_fleet::config::Config, node: &String| {
            config.pops.contains_key(node) || config.dns.contains_key(node)
        };
        let old = bundle::kept(&self.home, &self.journal, &self.fleet_file, from).ok();
        let names =
            |kind| -> Vec<String> { self.nodes(kind).iter().map(|node| node.peer().name.clone()).collect() };
        let (edges, dns) = (names(Kind::Edge), names(Kind::Dns));
        let newcomers = edges.iter().chain(&dns);
        let newcomers = newcomers.filter(|node| old.as_ref().is_some_and(|(_, config)| !known(config, node)));
        let newcomers = newcomers.cloned().collect();
        let Waves { canary, percents, watch_seconds } = publication.waves.clone().unwrap_or_default();
        let percents = if percents.is_empty() { rollout::WAVES.to_vec() } else { percents };
        let waves = rollout::waves(&edges, &dns, &canary, &percents, to.number);
        let watch = watch_seconds.map_or(rollout::WATCH, Duration::from_secs);
        let plan = Plan { from, to: to.number, newcomers, waves, watch };
        let rollout = Rollout::new(plan, self.began.elapsed(), &self.sights(to.number));
        Some(Rolling {
            rollout,
            from: Arc::new(Target { number: from, signed }),
            to: Arc::clone(to),
            failed: None,
        })
    }

    /// Tells the nodes' tasks what follows from how far the rollout is.
    fn retarget(&self) {
        let rolling = self.rolling.lock();
        let Some(Rolling { rollout, from, to, .. }) = &*rolling else { return };
        let nodes = rollout.plan.waves.iter().flatten();
        let held = nodes.filter_map(|node| match rollout.target(node) {
            Some(number) if number == to.number => None,
            Some(_) => Some((node.clone(), Some(Arc::clone(from)))),
            None => Some((node.clone(), None)),
        });
        let held: BTreeMap<_, _> = held.collect();
        self.desired.send_modify(|desired| {
            (desired.newest, desired.held, desired.look) = (Some(Arc::clone(to)), held, Some(CLOSE_LOOK));
        });
    }

    /// Judges rollouts until cancelled.
    pub(super) async fn follow_rollouts(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(JUDGE).await;
            match self.judge() {
                None | Some(Step::Stay) => {}
                Some(Step::Advanced) => self.retarget(),
                Some(Step::Done) => self.rolled_out(),
                Some(Step::Failed(reason)) => {
                    while let Err(error) = self.take_back(&reason).await {
                        tracing::error!("a rollout can't be taken back, tried again: {error}");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        }
    }

    fn judge(&self) -> Option<Step> {
        let number = match self.rolling.lock().as_ref()? {
            Rolling { failed: Some(reason), .. } => return Some(Step::Failed(reason.clone())),
            rolling => rolling.to.number,
        };
        // Not under the lock: what nodes say is behind locks of their own.
        let sights = self.sights(number);
        let mut rolling = self.rolling.lock();
        let rollout = &mut rolling.as_mut()?.rollout;
        let step = rollout.observe(self.began.elapsed(), &sights);
        if step == Step::Advanced {
            let (wave, nodes) = (rollout.wave, rollout.plan.waves.get(rollout.wave));
            tracing::info!(number, wave = wave + 1, ?nodes, "the next wave is given the snapshot");
            self.keep(rollout);
        }
        Some(step)
    }

    fn keep(&self, rollout: &Rollout) {
        // Without it, a restart begins with the first wave again: slower, never wider than it was.
        if let Err(error) = self.journal.keep_rollout(rollout) {
            tracing::warn!(%error, "how far the rollout is, is not remembered");
        }
    }

    fn rolled_out(&self) {
        let Some(to) = self.rolling.lock().as_ref().map(|rolling| Arc::clone(&rolling.to)) else { return };
        tracing::info!(number = to.number, "rolled out");
        self.journal_outcome(to.number, Outcome::Done, "");
        self.audit(ITSELF, &format!("snapshot {} is rolled out", to.number));
        self.target_all(to);
        self.rolled.notify_one();
    }

    fn journal_outcome(&self, number: u64, outcome: Outcome, told: &str) {
        if let Err(error) = self.journal.keep_outcome(number, outcome, told) {
            tracing::error!(%error, number, "what became of the snapshot is not remembered");
        }
    }

    /// Takes back what is being rolled out: journals the reason, then makes the snapshot that repeats the one before.
    async fn take_back(self: &Arc<Self>, reason: &str) -> Result<PublishOutcome, NotPublished> {
        let _one = self.publishing.lock().await;
        let Some((from, to)) =
            self.rolling.lock().as_ref().map(|rolling| (rolling.from.number, rolling.to.number))
        else {
            return Err(NotPublished::Refused(vec!["nothing is being rolled out any more".to_owned()]));
        };
        tracing::error!(number = to, "rolled back: {reason}");
        self.fail(to, reason);
        let draft = Draft {
            content: Content::Rollback(from),
            who: ITSELF.to_owned(),
            note: format!("snapshot {to} was taken back: {reason}"),
            how: How::AtOnce,
        };
        let outcome = self.made(&draft).await?;
        self.counters.rollbacks.inc();
        let text = format!("{reason}; snapshot {} repeats {from} for all nodes", outcome.number);
        self.events.raise(Event::new(EventKind::PublishRolledBack, format!("snapshot {to}"), text));
        self.rolled.notify_one();
        Ok(outcome)
    }

    /// Remembers that a snapshot was taken back, so that its files are not published by themselves again.
    fn fail(&self, number: u64, reason: &str) {
        self.journal_outcome(number, Outcome::Failed, reason);
        let source = self.journal.publication(number).ok().flatten().map(|publication| publication.source);
        let held = source.filter(|source| !source.is_empty());
        if let Some(Err(error)) = held.map(|source| self.journal.hold(&source, number, reason)) {
            tracing::error!(%error, number, "that it was taken back is not remembered");
        }
    }

    /// Makes a new snapshot of what an older one said, for all nodes at once. Ends a rollout under way.
    ///
    /// # Errors
    /// [`NotPublished::Refused`]: there is none, or it can't be made any more.
    pub async fn rollback(
        self: &Arc<Self>,
        number: Option<u64>,
        who: &str,
        note: &str,
    ) -> Result<PublishOutcome, NotPublished> {
        let _one = self.publishing.lock().await;
        let refused = |reason: String| NotPublished::Refused(vec![reason]);
        let all =
            self.journal.publications(usize::from(u16::MAX)).map_err(|error| refused(error.to_string()))?;
        let newest = all.first().ok_or_else(|| refused("nothing was published yet".to_owned()))?;
        let to = number.or_else(|| before(&all)).ok_or_else(|| {
            refused("there is no snapshot before this one that said something else".to_owned())
        })?;
        let known = all.iter().find(|publication| publication.number == to);
        let known = known.ok_or_else(|| {
            refused(format!("there is no snapshot {to} (any more); `nearside history` lists what is kept"))
        })?;
        // Refused before anything changes, where it can't be made.
        bundle::kept(&self.home, &self.journal, &self.fleet_file, to).map_err(refused)?;
        let reason = if note.is_empty() { format!("{who} went back to {to}") } else { note.to_owned() };
        if known.source != newest.source {
            self.fail(newest.number, &reason);
        }
        let draft = Draft {
            content: Content::Rollback(to),
            who: who.to_owned(),
            note: note.to_owned(),
            how: How::AtOnce,
        };
        let outcome = self.made(&draft).await?;
        self.counters.rollbacks.inc();
        self.rolled.notify_one();
        Ok(outcome)
    }

    /// Everything known of the nodes, for judging the rollout of a snapshot.
    fn sights(&self, number: u64) -> Sights {
        let views: Vec<(String, BTreeMap<String, u32>)> = self
            .nodes(Kind::Dns)
            .iter()
            .filter_map(|node| Some((node.peer().name.clone(), node.sees_down()?)))
            .collect();
        let nodes = [Kind::Edge, Kind::Dns].map(|kind| self.nodes(kind));
        let sight = |node: &Arc<crate::nodes::Node>| {
            let name = node.peer().name.clone();
            let down = views.iter().filter_map(|(dns, view)| Some((dns.clone(), *view.get(&name)?)));
            let sight = Sight { down: down.collect(), ..node.sight(number) };
            (name, sight)
        };
        nodes.iter().flatten().map(sight).collect()
    }

    /// The rollout under way.
    pub fn rollout(&self) -> Option<RolloutStatus> {
        let rolling = self.rolling.lock();
        let rollout = &rolling.as_ref()?.rollout;
        let now = self.began.elapsed();
        let watched = rollout
            .plan
            .waves
            .iter()
            .flatten()
            .filter_map(|node| Some((node.clone(), now.saturating_sub(rollout.taken(node)?).as_secs())));
        Some(RolloutStatus {
            number: rollout.plan.to,
            from: rollout.plan.from,
            wave: rollout.wave + 1,
            waves: rollout.plan.waves.clone(),
            watch_seconds: rollout.plan.watch.as_secs(),
            watched_seconds: watched.collect(),
        })
    }
}

/// What `nearside rollback` without a number means: the newest one that said something else and was not taken back itself;
/// after a rollback, the one before what it repeats.
fn before(newest_first: &[Publication]) -> Option<u64> {
    let newest = newest_first.first()?;
    let said = newest.rollback_of.unwrap_or(newest.number);
    let good = |one: &&Publication| {
        one.number < said && one.source != newest.source && one.outcome != Outcome::Failed
    };
    newest_first.iter().find(good).map(|one| one.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_number_a_rollback_goes_to_what_was_good_before() {
        let one = |number, source: &str, outcome, rollback_of| Publication {
            number,
            created: 0,
            who: String::new(),
            note: String::new(),
            source: source.to_owned(),
            rollback_of,
            outcome,
            told: String::new(),
            waves: None,
        };
        let mut all = vec![one(1, "a", Outcome::Sent, None)];
        assert_eq!(before(&all), None);
        all.insert(0, one(2, "b", Outcome::Done, None));
        all.insert(0, one(3, "b", Outcome::Sent, None));
        assert_eq!(before(&all), Some(1), "a renewal says the same");
        all.insert(0, one(4, "c", Outcome::Failed, None));
        all.insert(0, one(5, "b", Outcome::Sent, Some(3)));
        assert_eq!(before(&all), Some(1), "neither what failed nor what it repeats");
        all.insert(0, one(6, "d", Outcome::Sent, None));
        assert_eq!(before(&all), Some(5));
    }
}
