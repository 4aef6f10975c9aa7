//! What was published: each snapshot with who, when and why, how far its rollout is, and what may go.
//!
//! A snapshot and all that is known of it are kept in one commit, so that a crash never leaves one whose rollout is
//! forgotten. It decides nothing: [`crate::rollout`] and [`crate::history`] do.

use std::collections::{BTreeMap, BTreeSet};

use nearside_fleet::{Sha256, snapshot::Signed};
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::{Journal, JournalError, json, text};
use crate::rollout::Rollout;

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS publication (number INTEGER PRIMARY KEY, who TEXT NOT NULL, note TEXT NOT NULL,
    source TEXT NOT NULL, rollback_of INTEGER, outcome TEXT NOT NULL, told TEXT NOT NULL, waves TEXT, rollout TEXT);
CREATE TABLE IF NOT EXISTS held (source TEXT PRIMARY KEY, number INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS served (node TEXT PRIMARY KEY, number INTEGER NOT NULL);
";

/// Sources remembered as not to be published by themselves; the older ones are forgotten.
const HELD_MAX: i64 = 100;

/// What became of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Sent to all nodes at once.
    Sent,
    /// On its way in waves.
    Rolling,
    /// The last wave was good.
    Done,
    /// A gate failed; all go back.
    Failed,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Sent => "sent",
            Self::Rolling => "rolling out",
            Self::Done => "rolled out",
            Self::Failed => "failed",
        })
    }
}

/// How a snapshot is to be rolled out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waves {
    /// Nodes that are given it first.
    #[serde(default)]
    pub canary: Vec<String>,
    /// Shares of the edges in percent, cumulative; empty: the usual ones.
    #[serde(default)]
    pub percents: Vec<u8>,
    /// How long each wave is watched; `None`: as usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch_seconds: Option<u64>,
}

/// A snapshot as history tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Its number.
    pub number: u64,
    /// When it was made, seconds since the epoch by home's clock.
    pub created: u64,
    /// Who made it.
    pub who: String,
    /// Why, in their words; may be empty.
    pub note: String,
    /// Hash of what people wrote in it: what home adds by itself does not change it.
    pub source: String,
    /// The number whose content it repeats.
    pub rollback_of: Option<u64>,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it failed.
    pub told: String,
    /// How it was to be rolled out; `None`: at once.
    pub waves: Option<Waves>,
}

/// A source that is not published by itself, because it was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The snapshot that had it.
    pub number: u64,
    /// Why it was taken back.
    pub reason: String,
}

const COLUMNS: &str = "SELECT snapshot.number, created, COALESCE(who, '-'), COALESCE(note, ''), COALESCE(source, ''), \
     rollback_of, COALESCE(outcome, '\"sent\"'), COALESCE(told, ''), waves FROM snapshot \
     LEFT JOIN publication ON publication.number = snapshot.number";

impl Journal {
    /// Keeps a snapshot and what is known of it, both or neither.
    ///
    /// # Errors
    /// [`JournalError`], also where its number is taken.
    pub fn keep_snapshot(
        &self,
        publication: &Publication,
        content: &str,
        signed: &Signed,
    ) -> Result<(), JournalError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        let Publication { number, created, who, note, source, rollback_of, outcome, told, waves } =
            publication;
        let values = params![number, created, content, text(signed)?];
        transaction.execute("INSERT INTO snapshot VALUES (?, ?, ?, ?)", values)?;
        let waves = waves.as_ref().map(text).transpose()?;
        let values = params![number, who, note, source, rollback_of, text(outcome)?, told, waves];
        transaction.execute("INSERT INTO publication VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)", values)?;
        Ok(transaction.commit()?)
    }

    /// A kept snapshot.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn snapshot(&self, number: u64) -> Result<Option<Signed>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached("SELECT signed FROM snapshot WHERE number = ?")?;
        Ok(query.query_row([number], |row| json(row, 0)).optional()?)
    }

    /// What is known of a kept snapshot.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn publication(&self, number: u64) -> Result<Option<Publication>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(&format!("{COLUMNS} WHERE snapshot.number = ?"))?;
        Ok(query.query_row([number], read).optional()?)
    }

    /// The newest publications, newest first.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn publications(&self, count: usize) -> Result<Vec<Publication>, JournalError> {
        let connection = self.connection.lock();
        let sql = format!("{COLUMNS} ORDER BY snapshot.number DESC LIMIT ?");
        let mut query = connection.prepare_cached(&sql)?;
        let found = query.query_map([count], read)?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// Keeps what became of a snapshot.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_outcome(&self, number: u64, outcome: Outcome, told: &str) -> Result<(), JournalError> {
        let values = params![text(&outcome)?, told, number];
        self.connection
            .lock()
            .execute("UPDATE publication SET outcome = ?, told = ? WHERE number = ?", values)?;
        Ok(())
    }

    /// Keeps how far a rollout is.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_rollout(&self, rollout: &Rollout) -> Result<(), JournalError> {
        let values = params![text(rollout)?, rollout.plan.to];
        self.connection.lock().execute("UPDATE publication SET rollout = ? WHERE number = ?", values)?;
        Ok(())
    }

    /// How far the rollout of a snapshot was.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn rollout(&self, number: u64) -> Result<Option<Rollout>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection
            .prepare_cached("SELECT rollout FROM publication WHERE number = ? AND rollout IS NOT NULL")?;
        Ok(query.query_row([number], |row| json(row, 0)).optional()?)
    }

    /// Remembers not to publish a source by itself any more.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn hold(&self, source: &str, number: u64, reason: &str) -> Result<(), JournalError> {
        let connection = self.connection.lock();
        let values = params![source, number, reason];
        connection.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?)", values)?;
        connection
            .execute("DELETE FROM held WHERE rowid <= (SELECT MAX(rowid) FROM held) - ?", [HELD_MAX])?;
        Ok(())
    }

    /// Whether a source is not to be published by itself.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn held(&self, source: &str) -> Result<Option<Held>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached("SELECT number, reason FROM held WHERE source = ?")?;
        let held = |row: &rusqlite::Row<'_>| Ok(Held { number: row.get(0)?, reason: row.get(1)? });
        Ok(query.query_row([source], held).optional()?)
    }

    /// Publishes a source by itself again.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn release(&self, source: &str) -> Result<(), JournalError> {
        self.connection.lock().execute("DELETE FROM held WHERE source = ?", [source])?;
        Ok(())
    }

    /// Keeps which snapshot a node was seen with.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_served(&self, node: &str, number: u64) -> Result<(), JournalError> {
        let values = params![node, number];
        self.connection.lock().execute("INSERT OR REPLACE INTO served VALUES (?, ?)", values)?;
        Ok(())
    }

    /// Which snapshot each node was last seen with.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn served(&self) -> Result<BTreeMap<String, u64>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached("SELECT node, number FROM served")?;
        let served = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(served.collect::<Result<_, _>>()?)
    }

    /// Forgets snapshots, and what was sealed for none but them: `sealed` lists what stays.
    ///
    /// # Errors
    /// [`JournalError`]; nothing is forgotten then.
    pub fn forget_snapshots(
        &self,
        numbers: &BTreeSet<u64>,
        sealed: &BTreeSet<Sha256>,
    ) -> Result<(), JournalError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for number in numbers {
            transaction.execute("DELETE FROM snapshot WHERE number = ?", [number])?;
            transaction.execute("DELETE FROM publication WHERE number = ?", [number])?;
        }
        let known: Vec<String> = {
            let mut query = transaction.prepare("SELECT DISTINCT sealed FROM sealed")?;
            query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
        };
        let gone = |hash: &&String| hash.parse().is_ok_and(|hash: Sha256| !sealed.contains(&hash));
        for hash in known.iter().filter(gone) {
            transaction.execute("DELETE FROM sealed WHERE sealed = ?", [hash])?;
        }
        Ok(transaction.commit()?)
    }
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Publication> {
    let waves: Option<String> = row.get(8)?;
    Ok(Publication {
        number: row.get(0)?,
        created: row.get(1)?,
        who: row.get(2)?,
        note: row.get(3)?,
        source: row.get(4)?,
        rollback_of: row.get(5)?,
        outcome: json(row, 6)?,
        told: row.get(7)?,
        waves: waves.map(|_| json(row, 8)).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn publication(number: u64) -> Publication {
        Publication {
            number,
            created: 5,
            who: "operator".into(),
            note: "why".into(),
            source: format!("s{number}"),
            rollback_of: None,
            outcome: Outcome::Sent,
            told: String::new(),
            waves: Some(Waves { canary: vec!["fra".into()], ..Waves::default() }),
        }
    }

    #[test]
    fn history_outlives_the_process_and_older_journals_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("j.db");
        let signed = Signed { snapshot: "{}".into(), signature: "x".into() };
        {
            let journal = Journal::open(&path).unwrap();
            // As written before there was a history.
            let old = params![1, 3, "c", text(&signed).unwrap()];
            journal.connection.lock().execute("INSERT INTO snapshot VALUES (?, ?, ?, ?)", old).unwrap();
            journal.keep_snapshot(&publication(2), "d", &signed).unwrap();
            assert!(journal.keep_snapshot(&publication(2), "d", &signed).is_err(), "a number is given once");
            journal.keep_outcome(2, Outcome::Failed, "fra is down").unwrap();
            journal.hold("s2", 2, "fra is down").unwrap();
            journal.keep_served("fra", 2).unwrap();
        }
        let journal = Journal::open(&path).unwrap();
        let all = journal.publications(10).unwrap();
        assert_eq!(all.iter().map(|one| one.number).collect::<Vec<_>>(), [2, 1]);
        assert_eq!((all[0].outcome, all[0].told.as_str()), (Outcome::Failed, "fra is down"));
        assert_eq!(all[0].waves, publication(2).waves);
        assert_eq!((all[1].who.as_str(), all[1].created, all[1].outcome), ("-", 3, Outcome::Sent));
        assert_eq!(journal.held("s2").unwrap(), Some(Held { number: 2, reason: "fra is down".into() }));
        journal.release("s2").unwrap();
        assert_eq!(journal.held("s2").unwrap(), None);
        assert_eq!(journal.served().unwrap(), BTreeMap::from([("fra".to_owned(), 2)]));
        assert_eq!(journal.rollout(2).unwrap(), None);
    }
}
