//! Who did what, when, from where, and what became of it.
//!
//! Rows are only ever added, the oldest leave past [`AUDIT_MAX`]. A caller of the API is known by its address through
//! [`crate::audit`]; what home does by itself has none.

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::{Journal, JournalError};

/// Audit entries kept; about ten years of a busy team.
pub const AUDIT_MAX: i64 = 100_000;

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, seconds since the epoch.
    pub at: u64,
    /// Who: `operator:NAME`, `token:NAME`, `controller`, or what made home act (`change`, `renewal`).
    pub who: String,
    /// The caller's address, where it came over the network.
    pub from: Option<String>,
    /// What was done, or asked for.
    pub what: String,
    /// `done`, or why not.
    pub result: String,
}

impl Entry {
    /// Something that was done just now, for the caller that is being answered.
    pub fn done(at: u64, who: &str, what: &str) -> Self {
        let from = crate::audit::from().map(|from| from.to_string());
        Self { at, who: who.to_owned(), from, what: what.to_owned(), result: "done".to_owned() }
    }
}

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS audit (at INTEGER NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL,
    source TEXT, result TEXT NOT NULL DEFAULT 'done');
";

/// Brings a table of the first version to this one's columns.
pub(super) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    let known = "SELECT COUNT(*) FROM pragma_table_info('audit') WHERE name = 'result'";
    if connection.query_row(known, [], |row| row.get::<_, u64>(0))? == 0 {
        connection.execute_batch(
            "ALTER TABLE audit ADD COLUMN source TEXT;
             ALTER TABLE audit ADD COLUMN result TEXT NOT NULL DEFAULT 'done';",
        )?;
    }
    Ok(())
}

pub(super) fn write(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let Entry { at, who, from, what, result } = entry;
    connection.execute(
        "INSERT INTO audit (at, who, what, source, result) VALUES (?, ?, ?, ?, ?)",
        params![at, who, what, from, result],
    )?;
    let oldest = connection.last_insert_rowid() - AUDIT_MAX;
    connection.execute("DELETE FROM audit WHERE rowid <= ?", [oldest])?;
    Ok(())
}

impl Journal {
    /// Writes down what was done, by whom, and the address of the caller that is being answered.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn audit(&self, at: u64, who: &str, what: &str) -> Result<(), JournalError> {
        self.audit_entry(&Entry::done(at, who, what))
    }

    /// Writes a row.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn audit_entry(&self, entry: &Entry) -> Result<(), JournalError> {
        crate::audit::written();
        Ok(write(&self.connection.lock(), entry)?)
    }

    /// Rows from a moment on, newest first, at most `count`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn audit_since(&self, since: u64, count: usize) -> Result<Vec<Entry>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT at, who, source, what, result FROM audit WHERE at >= ? ORDER BY rowid DESC LIMIT ?",
        )?;
        let read = |row: &rusqlite::Row<'_>| {
            let (at, who, from) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(Entry { at, who, from, what: row.get(3)?, result: row.get(4)? })
        };
        Ok(query.query_map(params![since, count], read)?.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_say_who_and_from_where_and_old_journals_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("j.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(
            "CREATE TABLE audit (at INTEGER NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL);
             INSERT INTO audit VALUES (1, 'operator', 'published snapshot 1');",
        )
        .unwrap();
        drop(old);
        let journal = Journal::open(&path).unwrap();
        let home = Some(std::net::Ipv4Addr::LOCALHOST.into());
        let (_, wrote) =
            crate::audit::answering(home, async { journal.audit(2, "token:ci", "purged x") }).await;
        assert!(wrote);
        let refused = Entry {
            at: 3,
            who: "token:ci".into(),
            from: None,
            what: "POST /v1/publish".into(),
            result: "403".into(),
        };
        journal.audit_entry(&refused).unwrap();
        let rows = Journal::open(&path).unwrap().audit_since(0, 10).unwrap();
        assert_eq!(rows[0], refused);
        assert_eq!((rows[1].from.as_deref(), rows[1].result.as_str()), (Some("127.0.0.1"), "done"));
        assert_eq!((rows[2].from.as_deref(), rows[2].what.as_str()), (None, "published snapshot 1"));
        assert_eq!(journal.audit_since(3, 10).unwrap().len(), 1);
        assert_eq!(journal.audit_since(0, 1).unwrap(), [refused]);
    }
}
