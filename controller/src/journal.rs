//! What home must not forget, in SQLite: snapshots, purges, acknowledgements, drains, certificates, audit.
//!
//! One connection behind a lock; every call is a few rows and, where it writes, one synced commit, so it is
//! made from async code directly. Content of files is not here but in `files/`, by hash. It decides
//! nothing.

pub mod acme;
pub mod audit;
pub mod identity;
pub mod publications;
pub mod purge;
pub mod restored;
pub mod token;

use std::path::Path;

use nearside_fleet::{Sha256, snapshot::Signed};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

mod events;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS snapshot (number INTEGER PRIMARY KEY, created INTEGER NOT NULL, content TEXT NOT NULL,
    signed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sealed (plain TEXT NOT NULL, path TEXT NOT NULL, node TEXT NOT NULL, key TEXT NOT NULL,
    sealed TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (plain, path, node, key));
CREATE TABLE IF NOT EXISTS purge (sequence INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL,
    mode TEXT NOT NULL, issued INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS applied (node TEXT PRIMARY KEY, sequence INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS drain (pop TEXT PRIMARY KEY, until INTEGER, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS certificate (site TEXT PRIMARY KEY, hosts TEXT NOT NULL, chain TEXT NOT NULL,
    key TEXT NOT NULL, not_before INTEGER NOT NULL, not_after INTEGER NOT NULL);
";

/// How long a write waits for another process's.
const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// Why the journal failed.
#[derive(Debug, thiserror::Error)]
#[error("the journal: {0}")]
pub struct JournalError(#[from] rusqlite::Error);

/// A certificate home issued for a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Hosts it is for.
    pub hosts: Vec<String>,
    /// PEM chain, leaf first.
    pub chain: String,
    /// PEM key.
    pub key: String,
    /// Start of its life, seconds since the epoch.
    pub not_before: u64,
    /// End of its life.
    pub not_after: u64,
}

/// A PoP taken out of the answers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Drain {
    /// Which.
    pub pop: String,
    /// When it ends by itself, seconds since the epoch; `None`: when it is lifted.
    pub until: Option<u64>,
    /// Why, in words; may be empty.
    pub reason: String,
}

/// The journal. Calls may come from any thread.
#[derive(Debug)]
pub struct Journal {
    connection: Mutex<Connection>,
}

impl Journal {
    /// Opens or makes the database.
    ///
    /// # Errors
    /// [`JournalError`] if it can't be read, written, or is none.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // The command line opens it beside the controller.
        connection.busy_timeout(BUSY)?;
        // An acknowledged purge must survive a power cut: every commit is synced.
        connection.pragma_update(None, "synchronous", "FULL")?;
        for schema in [
            SCHEMA,
            audit::SCHEMA,
            identity::SCHEMA,
            restored::SCHEMA,
            token::SCHEMA,
            acme::SCHEMA,
            events::SCHEMA,
            publications::SCHEMA,
        ] {
            connection.execute_batch(schema)?;
        }
        audit::migrate(&connection)?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// The newest snapshot: number, hash of its content, signed form.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn newest(&self) -> Result<Option<(u64, String, Signed)>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection
            .prepare_cached("SELECT number, content, signed FROM snapshot ORDER BY number DESC LIMIT 1")?;
        Ok(query.query_row([], |row| Ok((row.get(0)?, row.get(1)?, json(row, 2)?))).optional()?)
    }

    /// What a file was sealed to before for a node's key, so that the same content is the same snapshot.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn sealed(
        &self,
        plain: &Sha256,
        path: &str,
        node: &str,
        key: &str,
    ) -> Result<Option<(Sha256, u64)>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT sealed, bytes FROM sealed WHERE plain = ? AND path = ? AND node = ? AND key = ?",
        )?;
        let found: Option<(String, u64)> = query
            .query_row(params![plain.to_string(), path, node, key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(found.and_then(|(hash, bytes)| Some((hash.parse().ok()?, bytes))))
    }

    /// What a sealed file was sealed from, and for which key.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn sealed_from(&self, sealed: &Sha256) -> Result<Option<(Sha256, String)>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached("SELECT plain, key FROM sealed WHERE sealed = ?")?;
        let found: Option<(String, String)> =
            query.query_row([sealed.to_string()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        Ok(found.and_then(|(plain, key)| Some((plain.parse().ok()?, key))))
    }

    /// Remembers what a file was sealed to.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_sealed(
        &self,
        plain: &Sha256,
        path: &str,
        node: &str,
        key: &str,
        sealed: &Sha256,
        bytes: u64,
    ) -> Result<(), JournalError> {
        let values = params![plain.to_string(), path, node, key, sealed.to_string(), bytes];
        self.connection.lock().execute("INSERT OR REPLACE INTO sealed VALUES (?, ?, ?, ?, ?, ?)", values)?;
        Ok(())
    }

    /// Up to which sequence a node has acknowledged; 0 before the first.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn applied(&self, node: &str) -> Result<u64, JournalError> {
        let connection = self.connection.lock();
        let found =
            connection.query_row("SELECT sequence FROM applied WHERE node = ?", [node], |row| row.get(0));
        Ok(found.optional()?.unwrap_or(0))
    }

    /// Drains in force at `now`; those that are over are forgotten.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn drains(&self, now: u64) -> Result<Vec<Drain>, JournalError> {
        let connection = self.connection.lock();
        connection.execute("DELETE FROM drain WHERE until <= ?", [now])?;
        let mut query = connection.prepare_cached("SELECT pop, until, reason FROM drain ORDER BY pop")?;
        let drains = query
            .query_map([], |row| Ok(Drain { pop: row.get(0)?, until: row.get(1)?, reason: row.get(2)? }))?;
        Ok(drains.collect::<Result<_, _>>()?)
    }

    /// Drains a PoP, or changes its drain.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn drain(&self, drain: &Drain) -> Result<(), JournalError> {
        let values = params![drain.pop, drain.until, drain.reason];
        self.connection.lock().execute("INSERT OR REPLACE INTO drain VALUES (?, ?, ?)", values)?;
        Ok(())
    }

    /// Lifts a drain. `false`: there was none.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn undrain(&self, pop: &str) -> Result<bool, JournalError> {
        Ok(self.connection.lock().execute("DELETE FROM drain WHERE pop = ?", [pop])? > 0)
    }

    /// The certificate issued for a site.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn certificate(&self, site: &str) -> Result<Option<Issued>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT hosts, chain, key, not_before, not_after FROM certificate WHERE site = ?",
        )?;
        let read = |row: &rusqlite::Row<'_>| {
            let (not_before, not_after) = (row.get(3)?, row.get(4)?);
            Ok(Issued { hosts: json(row, 0)?, chain: row.get(1)?, key: row.get(2)?, not_before, not_after })
        };
        Ok(query.query_row([site], read).optional()?)
    }

    /// Keeps a site's certificate in place of the one before.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_certificate(&self, site: &str, issued: &Issued) -> Result<(), JournalError> {
        let values = params![
            site,
            text(&issued.hosts)?,
            issued.chain,
            issued.key,
            issued.not_before,
            issued.not_after
        ];
        self.connection
            .lock()
            .execute("INSERT OR REPLACE INTO certificate VALUES (?, ?, ?, ?, ?, ?)", values)?;
        Ok(())
    }
}

fn text(value: &impl serde::Serialize) -> Result<String, rusqlite::Error> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn json<T: serde::de::DeserializeOwned>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_ends_by_itself() {
        let temp = tempfile::tempdir().unwrap();
        let journal = Journal::open(&temp.path().join("j.db")).unwrap();
        journal.drain(&Drain { pop: "fra".into(), until: Some(10), reason: String::new() }).unwrap();
        journal.drain(&Drain { pop: "nyc".into(), until: None, reason: "disk".into() }).unwrap();
        assert_eq!(journal.drains(9).unwrap().len(), 2);
        assert_eq!(journal.drains(10).unwrap().len(), 1);
        assert!(journal.undrain("nyc").unwrap());
        assert!(!journal.undrain("nyc").unwrap());
    }
}
