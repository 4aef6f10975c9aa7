//! What an operator should be told of: raised once, repeated while it lasts, cleared when it is over.
//!
//! A *condition* (a PoP is down) holds until it is cleared; a *fact* (a publish was rolled back) is told once. Both are
//! known by kind and subject, and journaled before anybody hears of them, so that a restart neither repeats nor loses
//! one. Who is told, and how, is [`crate::webhooks`]'; whether something is wrong is decided by whoever raises it.
//!
//! Invariant: what is journaled unmuted is told to every webhook that wants it, in the order of its numbers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use nearside_fleet::units;
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    home::seconds,
    journal::{Journal, JournalError},
};

/// A condition that lasts is told again so often: a day's reminder drowns nothing and is not forgotten.
const REPEAT_SECONDS: u64 = 24 * 3_600;
/// The window in which changes of one condition are counted.
const FLAP_SECONDS: u64 = 3_600;
/// Changes to the bad within it that are told; what flaps more often is journaled and not sent until it settles.
const FLAPS_MAX: usize = 5;
/// A subject or message longer than this is cut: webhooks and terminals take no more.
const TEXT_BYTES_MAX: usize = 2_000;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident $name:literal $nature:ident $severity:ident),+ $(,)?) => {
        /// What happened. The names are used in the fleet file, in the API and by webhooks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[doc = $doc])+ $kind,)+ }

        impl Kind {
            /// All of them.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)+ }
            }

            /// Whether it lasts until it is cleared.
            pub fn nature(self) -> Nature {
                match self { $(Kind::$kind => Nature::$nature,)+ }
            }

            /// How bad it is.
            pub fn severity(self) -> Severity {
                match self { $(Kind::$kind => Severity::$severity,)+ }
            }
        }
    };
}

kinds! {
    /// Half of the DNS nodes or more see an address of a PoP down. Subject: the PoP.
    PopDown "pop-down" Condition Critical,
    /// Home has not reached a node for a minute. Subject: the node.
    NodeUnreachable "node-unreachable" Condition Warning,
    /// A node refuses the newest snapshot. Subject: the node.
    NodeRefusing "node-refusing" Condition Critical,
    /// A node's clock is more than five minutes from home's. Subject: the node.
    ClockWrong "clock-wrong" Condition Warning,
    /// A disk of a node fails. Subject: the node.
    DiskTrouble "disk-trouble" Condition Critical,
    /// An edge lacks purges for more than a minute. Subject: the node.
    PurgeLag "purge-lag" Condition Warning,
    /// A certificate ends soon. Subject: the site.
    CertificateExpiring "certificate-expiring" Condition Critical,
    /// A certificate could not be had or can't be used. Subject: the site.
    CertificateFailed "certificate-failed" Condition Critical,
    /// What is on disk was not published because of its mistakes. Subject: the fleet file.
    PublishRefused "publish-refused" Condition Warning,
    /// A rollout was stopped and taken back. Subject: the snapshot.
    PublishRolledBack "publish-rolled-back" Fact Critical,
    /// A node's identity was revoked. Subject: the node.
    NodeRevoked "node-revoked" Fact Notice,
    /// A backup of home failed. Subject: where it goes.
    BackupFailed "backup-failed" Condition Critical,
    /// Somebody tries a webhook. Subject: the webhook.
    Test "test" Fact Notice,
}

impl Kind {
    /// The kind of a name.
    pub fn of(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Kind::of(&name).ok_or_else(|| serde::de::Error::custom(format!("no kind of event: {name:?}")))
    }
}

/// Whether something lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Until it is cleared.
    Condition,
    /// It has happened.
    Fact,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know.
    Notice,
    /// Should be looked at.
    Warning,
    /// Clients suffer, or soon will.
    Critical,
}

impl Severity {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// What an entry of the journal says of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A condition has begun, or got worse.
    Raised,
    /// It still holds.
    Repeated,
    /// It is over.
    Cleared,
    /// A fact.
    Told,
}

impl State {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            State::Raised => "raised",
            State::Repeated => "repeated",
            State::Cleared => "cleared",
            State::Told => "told",
        }
    }

    /// The state of a name.
    pub fn of(name: &str) -> Option<State> {
        [State::Raised, State::Repeated, State::Cleared, State::Told]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// Something to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: Kind,
    /// Of what: with the kind, what it is known by.
    pub subject: String,
    /// In words, for a person.
    pub message: String,
    /// How far it has come: a condition of a higher level than before is told anew. 0 where it has no steps.
    pub level: u32,
}

impl Event {
    /// An event without levels.
    pub fn new(kind: Kind, subject: impl Into<String>, message: impl Into<String>) -> Self {
        let message = cut(message.into());
        Event { kind, subject: cut(subject.into()), message, level: 0 }
    }

    /// The same at a level.
    pub fn at_level(self, level: u32) -> Self {
        Event { level, ..self }
    }
}

/// At a character's boundary.
fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}

/// A condition that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// What.
    pub kind: Kind,
    /// Of what.
    pub subject: String,
    /// How bad.
    pub severity: Severity,
    /// Since when, seconds since the epoch.
    pub since: u64,
    /// When it was last told.
    pub told: u64,
    /// Its level then.
    pub level: u32,
    /// Whether it was kept from webhooks because it changes too often.
    pub muted: bool,
    /// In words.
    pub message: String,
}

/// An entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number; they only grow.
    pub number: u64,
    /// When, seconds since the epoch.
    pub at: u64,
    /// What.
    pub kind: Kind,
    /// Of what.
    pub subject: String,
    /// What became of it.
    pub state: State,
    /// How bad.
    pub severity: Severity,
    /// In words.
    pub message: String,
    /// Whether it was kept from webhooks because it changes too often.
    pub muted: bool,
}

/// What is done about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it is known, or there was nothing to clear.
    Nothing,
    /// Its words are kept; nobody is told.
    Remember,
    /// It is journaled and, unless muted, told.
    Tell {
        /// As what.
        state: State,
        /// Whether webhooks are spared.
        muted: bool,
        /// In which words.
        message: String,
    },
}

/// Decides about something that is so. `recent`: how often it was told within [`FLAP_SECONDS`].
fn raised(event: &Event, open: Option<&Open>, recent: usize, now: u64) -> Decision {
    let message = event.message.clone();
    if event.kind.nature() == Nature::Fact {
        return Decision::Tell { state: State::Told, muted: recent >= FLAPS_MAX, message };
    }
    let muted = recent >= FLAPS_MAX;
    match open {
        None => Decision::Tell { state: State::Raised, muted, message },
        // It has settled in the bad: now they are told.
        Some(open) if open.muted && !muted => Decision::Tell { state: State::Raised, muted: false, message },
        Some(open) if event.level > open.level => {
            Decision::Tell { state: State::Raised, muted: false, message }
        }
        Some(open) if now.saturating_sub(open.told) >= REPEAT_SECONDS => {
            Decision::Tell { state: State::Repeated, muted: false, message }
        }
        Some(open) if open.message != message => Decision::Remember,
        Some(_) => Decision::Nothing,
    }
}

/// Decides about something that is no longer so.
fn cleared(open: Option<&Open>, now: u64) -> Decision {
    let Some(open) = open else { return Decision::Nothing };
    let lasted = units::write_duration(Duration::from_secs(now.saturating_sub(open.since)));
    let message = format!("over after {lasted}; it was: {}", open.message);
    Decision::Tell { state: State::Cleared, muted: open.muted, message: cut(message) }
}

/// The handle for whoever has something to tell. Calls never fail for the caller and take one commit at most.
#[derive(Debug)]
pub struct Events {
    journal: Arc<Journal>,
    newest: watch::Sender<u64>,
    /// Events journaled by this process.
    pub told: Counter,
}

impl Events {
    /// On a journal.
    pub fn new(journal: Arc<Journal>) -> Self {
        Events { journal, newest: watch::Sender::new(0), told: Counter::default() }
    }

    /// Something is so, or has happened. Said again while it lasts, it changes nothing but the words kept.
    pub fn raise(&self, event: Event) {
        self.raise_at(&event, seconds(SystemTime::now()));
    }

    /// Something is over, if it was so.
    pub fn clear(&self, kind: Kind, subject: &str) {
        self.clear_at(kind, subject, seconds(SystemTime::now()));
    }

    /// What holds now.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(&self) -> Result<Vec<Open>, JournalError> {
        self.journal.conditions()
    }

    /// Wakes with every event.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn raise_at(&self, event: &Event, now: u64) {
        let since = now.saturating_sub(FLAP_SECONDS);
        let decide = |open: Option<&Open>, recent| raised(event, open, recent, now);
        self.kept(event, self.journal.record_event(event, now, since, decide));
    }

    fn clear_at(&self, kind: Kind, subject: &str, now: u64) {
        let event = Event::new(kind, subject, String::new());
        let recorded = self.journal.record_event(&event, now, now, |open, _| cleared(open, now));
        self.kept(&event, recorded);
    }

    fn kept(&self, event: &Event, recorded: Result<Option<u64>, JournalError>) {
        match recorded {
            Ok(None) => {}
            Ok(Some(number)) => {
                self.told.inc();
                let (kind, subject, message) = (event.kind.name(), &event.subject, &event.message);
                match event.kind.severity() {
                    _ if message.is_empty() => tracing::info!(kind, subject, "over"),
                    Severity::Notice => tracing::info!(kind, subject, "{message}"),
                    Severity::Warning | Severity::Critical => tracing::warn!(kind, subject, "{message}"),
                }
                self.newest.send_replace(number);
            }
            // Said again by whoever watches; what can't be journaled is in the log at least.
            Err(error) => {
                tracing::error!(%error, kind = event.kind.name(), event.subject, "{}", event.message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> (tempfile::TempDir, Events) {
        let temp = tempfile::tempdir().unwrap();
        let journal = Journal::open(&temp.path().join("j.db")).unwrap();
        (temp, Events::new(Arc::new(journal)))
    }

    fn down(message: &str) -> Event {
        Event::new(Kind::PopDown, "fra", message)
    }

    fn told(events: &Events) -> Vec<(&'static str, bool)> {
        let entries = events.journal.events_after(0, 1000).unwrap();
        entries.iter().map(|entry| (entry.state.name(), entry.muted)).collect()
    }

    #[test]
    fn a_condition_is_told_once_repeated_daily_and_cleared_once() {
        let (_temp, events) = events();
        for now in [100, 105, 110] {
            events.raise_at(&down("refused"), now);
        }
        events.raise_at(&down("refused"), 100 + REPEAT_SECONDS);
        events.clear_at(Kind::PopDown, "fra", 200 + REPEAT_SECONDS);
        events.clear_at(Kind::PopDown, "fra", 201 + REPEAT_SECONDS);
        events.clear_at(Kind::PopDown, "nyc", 201 + REPEAT_SECONDS);
        assert_eq!(told(&events), [("raised", false), ("repeated", false), ("cleared", false)]);
        assert_eq!(events.open().unwrap(), []);
        let last = events.journal.events_since(0, 1).unwrap().remove(0);
        assert_eq!(last.message, "over after 1d1m40s; it was: refused");
    }

    #[test]
    fn a_restart_neither_repeats_nor_loses() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("j.db");
        for now in [100, 200] {
            let events = Events::new(Arc::new(Journal::open(&path).unwrap()));
            events.raise_at(&down("refused"), now);
            assert_eq!(told(&events), [("raised", false)]);
            assert_eq!(events.open().unwrap()[0].since, 100);
        }
    }

    #[test]
    fn what_gets_worse_is_told_anew_and_new_words_alone_are_not() {
        let (_temp, events) = events();
        let expiring = |days: u32, level| {
            Event::new(Kind::CertificateExpiring, "www", format!("{days} days left")).at_level(level)
        };
        events.raise_at(&expiring(14, 1), 100);
        events.raise_at(&expiring(13, 1), 101);
        assert_eq!(events.open().unwrap()[0].message, "13 days left");
        events.raise_at(&expiring(7, 2), 102);
        events.raise_at(&expiring(8, 1), 103);
        assert_eq!(told(&events), [("raised", false), ("raised", false)]);
    }

    #[test]
    fn what_flaps_is_sent_a_few_times_and_again_when_it_settles() {
        let (_temp, events) = events();
        for round in 0..20 {
            events.raise_at(&down("refused"), 100 + round * 10);
            events.clear_at(Kind::PopDown, "fra", 105 + round * 10);
        }
        let sent = told(&events).iter().filter(|(_, muted)| !muted).count();
        assert_eq!(sent, 2 * FLAPS_MAX);
        events.raise_at(&down("refused"), 400);
        assert_eq!(told(&events).last(), Some(&("raised", true)));
        events.raise_at(&down("refused"), 401 + FLAP_SECONDS);
        assert_eq!(told(&events).last(), Some(&("raised", false)), "it stays down: they are told");
    }

    #[test]
    fn a_fact_is_told_each_time_but_not_without_end() {
        let (_temp, events) = events();
        for now in 0..20 {
            events.raise_at(&Event::new(Kind::PublishRolledBack, "7", "too many errors"), 100 + now);
        }
        assert_eq!(told(&events).iter().filter(|(_, muted)| !muted).count(), FLAPS_MAX);
        assert_eq!(events.open().unwrap(), []);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::of(kind.name()), Some(kind));
        }
    }
}
