//! Tells webhooks of events, in order, until they have heard or a day has passed.
//!
//! One task per webhook, so that a slow one delays nobody. The queue is the journal itself: a webhook has a place in it, kept
//! when a message was taken, so a restart goes on where it was (and tells at most one event twice; its number says so). What
//! a message looks like is [`mod@format`]'s, how it is sent [`post`]'s.

pub mod format;
pub mod post;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use nearside_fleet::config::{
    Config,
    webhook::{Webhook, WebhookAddress},
};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    events::{Entry, Kind, State},
    home::seconds,
    journal::Journal,
};

/// First pause after a message that was not taken; doubles.
const BACKOFF: Duration = Duration::from_millis(500);
/// The longest: a service that comes back is told within it.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// An event this old is passed over: what it says is no longer news, and later ones wait behind it.
const GIVE_UP_SECONDS: u64 = 24 * 3_600;
/// Events read from the journal at a time.
const BATCH: usize = 100;
/// When the journal fails, it is asked again after this.
const JOURNAL_PAUSE: Duration = Duration::from_secs(10);

/// How a webhook is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStatus {
    /// Its name.
    pub name: String,
    /// Messages taken by it since home started.
    pub delivered: u64,
    /// Messages passed over since then.
    pub given_up: u64,
    /// Why the last try failed; `None`: it did not.
    pub error: Option<String>,
}

/// Counters of all webhooks.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Messages taken.
    pub delivered: Counter,
    /// Tries that failed.
    pub failed: Counter,
}

/// All webhooks of the fleet file.
#[derive(Debug)]
pub struct Webhooks {
    journal: Arc<Journal>,
    /// For the metrics.
    pub counters: Counters,
    running: Mutex<BTreeMap<String, Running>>,
}

#[derive(Debug)]
struct Running {
    hook: Arc<Webhook>,
    fleet: String,
    status: Arc<Mutex<HookStatus>>,
    task: JoinHandle<()>,
}

impl Webhooks {
    /// None yet.
    pub fn new(journal: Arc<Journal>) -> Self {
        Webhooks { journal, counters: Counters::default(), running: Mutex::default() }
    }

    /// Starts what is new, ends what is gone, restarts what has changed. `events` wakes the tasks.
    pub fn apply(&self, config: &Config, events: &watch::Receiver<u64>) {
        let none = BTreeMap::new();
        let wanted = config.controller.as_ref().map_or(&none, |controller| &controller.webhooks);
        let mut running = self.running.lock();
        running.retain(|name, running| {
            let stays = wanted.get(name) == Some(&*running.hook) && running.fleet == config.fleet;
            if !stays {
                running.task.abort();
            }
            stays
        });
        let names: Vec<&str> = wanted.keys().map(String::as_str).collect();
        // A place kept too long is one row.
        if let Err(error) = self.journal.forget_webhooks_but(&names) {
            tracing::warn!(%error, "places of webhooks that are gone are kept");
        }
        for (name, hook) in wanted {
            running.entry(name.clone()).or_insert_with(|| {
                let status = Arc::new(Mutex::new(HookStatus { name: name.clone(), ..HookStatus::default() }));
                let teller = Teller {
                    hook: Arc::new(hook.clone()),
                    fleet: config.fleet.clone(),
                    journal: Arc::clone(&self.journal),
                    counters: self.counters.clone(),
                    status: Arc::clone(&status),
                };
                let (hook, fleet) = (Arc::clone(&teller.hook), config.fleet.clone());
                let task = tokio::spawn(teller.run(events.clone()));
                Running { hook, fleet, status, task }
            });
        }
    }

    /// How each is doing, by name.
    pub fn status(&self) -> Vec<HookStatus> {
        self.running.lock().values().map(|running| running.status.lock().clone()).collect()
    }

    /// Sends one a message of no consequence, at once. `None`: there is no such webhook.
    pub async fn test(&self, name: &str) -> Option<Result<(), String>> {
        let (hook, fleet) = {
            let running = self.running.lock();
            let running = running.get(name)?;
            (Arc::clone(&running.hook), running.fleet.clone())
        };
        let now = seconds(SystemTime::now());
        let entry = Entry {
            number: 0,
            at: now,
            kind: Kind::Test,
            subject: name.to_owned(),
            state: State::Told,
            severity: Kind::Test.severity(),
            message: "a test: this webhook hears of events".to_owned(),
            muted: false,
        };
        Some(send(&hook, &fleet, &entry, now).await)
    }
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        self.running.lock().values().for_each(|running| running.task.abort());
    }
}

/// Tells one webhook.
struct Teller {
    hook: Arc<Webhook>,
    fleet: String,
    journal: Arc<Journal>,
    counters: Counters,
    status: Arc<Mutex<HookStatus>>,
}

impl Teller {
    async fn run(self, mut events: watch::Receiver<u64>) {
        loop {
            events.borrow_and_update();
            let name = &self.hook.name;
            let waiting =
                self.journal.webhook_place(name).and_then(|at| self.journal.events_after(at, BATCH));
            match waiting {
                Err(error) => {
                    tracing::error!(webhook = name, %error, "can't read what to tell");
                    tokio::time::sleep(JOURNAL_PAUSE).await;
                }
                Ok(waiting) if waiting.is_empty() => {
                    if events.changed().await.is_err() {
                        return;
                    }
                }
                Ok(waiting) => {
                    for entry in waiting {
                        if self.wants(&entry) {
                            self.tell(&entry).await;
                        }
                        if let Err(error) = self.journal.keep_webhook_place(name, entry.number) {
                            // Told again after a restart, perhaps; it has its number.
                            tracing::warn!(webhook = name, %error, "its place is not kept");
                            tokio::time::sleep(JOURNAL_PAUSE).await;
                        }
                    }
                }
            }
        }
    }

    fn wants(&self, entry: &Entry) -> bool {
        let events = &self.hook.events;
        !entry.muted && (events.is_empty() || events.iter().any(|kind| kind == entry.kind.name()))
    }

    /// Tries until it is taken, or too old.
    async fn tell(&self, entry: &Entry) {
        let mut pause = BACKOFF;
        loop {
            let now = seconds(SystemTime::now());
            let sent = send(&self.hook, &self.fleet, entry, now).await;
            let Err(error) = sent else {
                self.counters.delivered.inc();
                let mut status = self.status.lock();
                (status.delivered, status.error) = (status.delivered + 1, None);
                return;
            };
            self.counters.failed.inc();
            let known = self.status.lock().error.replace(error.clone());
            if known.as_ref() != Some(&error) {
                tracing::warn!(webhook = self.hook.name, %error, "an event was not taken; it is tried again");
            }
            if now.saturating_sub(entry.at) >= GIVE_UP_SECONDS {
                tracing::error!(
                    webhook = self.hook.name,
                    number = entry.number,
                    "an event is a day old: passed over"
                );
                self.status.lock().given_up += 1;
                return;
            }
            // Half to whole: receivers that fell over under a burst are not met by the next one together.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }
}

/// One try. Files are read each time, so that a new secret needs no publish.
async fn send(hook: &Webhook, fleet: &str, entry: &Entry, now: u64) -> Result<(), String> {
    let url = match &hook.address {
        WebhookAddress::Url(url) => url.clone(),
        WebhookAddress::File(path) => {
            let wrong = |()| format!("{}: the first line is no URL", path.display());
            post::first_line(path)?.parse().map_err(wrong)?
        }
    };
    let secret = hook.secret_file.as_ref().map(post::first_line).transpose()?;
    let message = format::message(hook.format, fleet, entry, secret.as_deref().map(str::as_bytes), now);
    let answer = post::post(&url, hook.ca.as_deref(), &message).await?;
    match format::refusal(hook.format, &answer) {
        None => Ok(()),
        Some(reason) => Err(format!("{}: {reason}", url.host)),
    }
}

#[cfg(test)]
mod tests;
