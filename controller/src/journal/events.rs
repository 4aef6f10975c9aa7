//! The journal's tables of events: what was told, what still holds, and how far each webhook has been told.
//!
//! Rows and transactions only; when something is told again is decided in [`crate::events`].

use rusqlite::{OptionalExtension, Transaction, params};

use super::{Journal, JournalError};
use crate::events::{Decision, Entry, Event, Kind, Open, State};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS event (number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, kind TEXT NOT NULL,
    subject TEXT NOT NULL, state TEXT NOT NULL, message TEXT NOT NULL, muted INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS event_of ON event (kind, subject, number);
CREATE TABLE IF NOT EXISTS condition (kind TEXT NOT NULL, subject TEXT NOT NULL, since INTEGER NOT NULL,
    told INTEGER NOT NULL, level INTEGER NOT NULL, muted INTEGER NOT NULL, message TEXT NOT NULL,
    PRIMARY KEY (kind, subject)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS webhook (name TEXT PRIMARY KEY, through INTEGER NOT NULL);
";

/// Events kept: years of a calm fleet, days of one on fire. A webhook that is further behind has missed the rest.
const EVENTS_KEPT: u64 = 10_000;

impl Journal {
    /// Asks `decide` about a condition or fact, with what is known of it, and writes down what it says, at once.
    /// `since` bounds what counts as recent. Returns the new event's number, if there is one.
    ///
    /// # Errors
    /// [`JournalError`]; nothing is written then.
    pub fn record_event(
        &self,
        event: &Event,
        now: u64,
        since: u64,
        decide: impl FnOnce(Option<&Open>, usize) -> Decision,
    ) -> Result<Option<u64>, JournalError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        let (kind, subject) = (event.kind.name(), event.subject.as_str());
        let open = open_of(&transaction, kind, subject)?;
        let recent = transaction
            .prepare_cached(
                "SELECT COUNT(*) FROM event WHERE kind = ? AND subject = ? AND at > ? AND state IN ('raised', 'told') \
                 AND muted = 0",
            )?
            .query_row(params![kind, subject, since], |row| row.get::<_, usize>(0))?;
        let decision = decide(open.as_ref(), recent);
        let number = match &decision {
            Decision::Nothing => None,
            Decision::Remember => {
                transaction.execute(
                    "UPDATE condition SET message = ?, level = MAX(level, ?) WHERE kind = ? AND subject = ?",
                    params![event.message, event.level, kind, subject],
                )?;
                None
            }
            Decision::Tell { state, muted, message } => {
                transaction.execute(
                    "INSERT INTO event (at, kind, subject, state, message, muted) VALUES (?, ?, ?, ?, ?, ?)",
                    params![now, kind, subject, state.name(), message, muted],
                )?;
                let number = u64::try_from(transaction.last_insert_rowid()).unwrap_or_default();
                match state {
                    State::Raised | State::Repeated => {
                        let since = open.as_ref().map_or(now, |open| open.since);
                        transaction.execute(
                            "INSERT OR REPLACE INTO condition VALUES (?, ?, ?, ?, ?, ?, ?)",
                            params![kind, subject, since, now, event.level, muted, event.message],
                        )?;
                    }
                    State::Cleared => {
                        transaction.execute(
                            "DELETE FROM condition WHERE kind = ? AND subject = ?",
                            params![kind, subject],
                        )?;
                    }
                    State::Told => {}
                }
                transaction
                    .execute("DELETE FROM event WHERE number <= ?", [number.saturating_sub(EVENTS_KEPT)])?;
                Some(number)
            }
        };
        transaction.commit()?;
        Ok(number)
    }

    /// Everything that holds now, by kind and subject.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn conditions(&self) -> Result<Vec<Open>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT kind, subject, since, told, level, muted, message FROM condition ORDER BY kind, subject",
        )?;
        let rows = query.query_map([], read_open)?;
        // A kind of a later version is not ours to show.
        Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Events after a number, oldest first, at most `count`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn events_after(&self, number: u64, count: usize) -> Result<Vec<Entry>, JournalError> {
        self.events(
            "SELECT number, at, kind, subject, state, message, muted FROM event WHERE number > ?1 \
             ORDER BY number LIMIT ?2",
            params![number, count],
        )
    }

    /// The newest events not older than `since`, newest first, at most `count`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn events_since(&self, since: u64, count: usize) -> Result<Vec<Entry>, JournalError> {
        self.events(
            "SELECT number, at, kind, subject, state, message, muted FROM event WHERE at >= ?1 \
             ORDER BY number DESC LIMIT ?2",
            params![since, count],
        )
    }

    fn events(&self, query: &str, values: impl rusqlite::Params) -> Result<Vec<Entry>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(query)?;
        let rows = query.query_map(values, |row| {
            let (kind, state): (String, String) = (row.get(2)?, row.get(4)?);
            let (Some(kind), Some(state)) = (Kind::of(&kind), State::of(&state)) else { return Ok(None) };
            Ok(Some(Entry {
                number: row.get(0)?,
                at: row.get(1)?,
                kind,
                subject: row.get(3)?,
                state,
                severity: kind.severity(),
                message: row.get(5)?,
                muted: row.get(6)?,
            }))
        })?;
        Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Up to which event a webhook has been told. One that is new begins with the next event.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn webhook_place(&self, name: &str) -> Result<u64, JournalError> {
        let connection = self.connection.lock();
        let newest = "SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'event'";
        connection.execute(&format!("INSERT OR IGNORE INTO webhook VALUES (?, ({newest}))"), [name])?;
        Ok(connection.query_row("SELECT through FROM webhook WHERE name = ?", [name], |row| row.get(0))?)
    }

    /// Keeps how far a webhook has been told.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_webhook_place(&self, name: &str, through: u64) -> Result<(), JournalError> {
        let connection = self.connection.lock();
        connection.execute("INSERT OR REPLACE INTO webhook VALUES (?, ?)", params![name, through])?;
        Ok(())
    }

    /// Forgets webhooks that the fleet file no longer names.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn forget_webhooks_but(&self, names: &[&str]) -> Result<(), JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached("SELECT name FROM webhook")?;
        let known: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for gone in known.iter().filter(|name| !names.contains(&name.as_str())) {
            connection.execute("DELETE FROM webhook WHERE name = ?", [gone])?;
        }
        Ok(())
    }
}

fn open_of(transaction: &Transaction<'_>, kind: &str, subject: &str) -> rusqlite::Result<Option<Open>> {
    let mut query = transaction.prepare_cached(
        "SELECT kind, subject, since, told, level, muted, message FROM condition WHERE kind = ? AND subject = ?",
    )?;
    Ok(query.query_row(params![kind, subject], read_open).optional()?.flatten())
}

fn read_open(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Open>> {
    let kind: String = row.get(0)?;
    let Some(kind) = Kind::of(&kind) else { return Ok(None) };
    Ok(Some(Open {
        kind,
        subject: row.get(1)?,
        severity: kind.severity(),
        since: row.get(2)?,
        told: row.get(3)?,
        level: row.get(4)?,
        muted: row.get(5)?,
        message: row.get(6)?,
    }))
}
