//! Numbers that must not be given again: what the fleet has seen of a journal that was lost.

use rusqlite::{OptionalExtension, params};

use super::{Journal, JournalError};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS restored (how TEXT NOT NULL, at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS snapshot_floor (number INTEGER NOT NULL);
";

/// How it is known that this journal is older than the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// `nearside restore` has just put it there, nothing was ordered since.
    FromBackup,
    /// A node knew of more: somebody put an older journal in place, and home has worked with it since.
    FoundOut,
}

impl Journal {
    /// Notes that numbers of this journal may have been given before. What was found out is not forgotten for less.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn mark_restored(&self, how: Restored, at: u64) -> Result<(), JournalError> {
        let how = match how {
            Restored::FromBackup => "backup",
            Restored::FoundOut => "found",
        };
        let connection = self.connection.lock();
        connection.execute("DELETE FROM restored WHERE how = ?", [how])?;
        connection.execute("INSERT INTO restored VALUES (?, ?)", params![how, at])?;
        Ok(())
    }

    /// Whether that is so, and not yet put right.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn restored(&self) -> Result<Option<Restored>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached("SELECT how FROM restored ORDER BY how DESC LIMIT 1")?;
        let how: Option<String> = query.query_row([], |row| row.get(0)).optional()?;
        Ok(how.map(|how| if how == "backup" { Restored::FromBackup } else { Restored::FoundOut }))
    }

    /// Goes on after `snapshot` and `purge`, the newest numbers that any node has seen, all at once: the purges up to there are
    /// no longer kept, and each edge stands where it says.
    ///
    /// # Errors
    /// [`JournalError`]; nothing has changed then.
    pub fn go_on_after(
        &self,
        snapshot: u64,
        purge: u64,
        edges: &[(String, u64)],
    ) -> Result<(), JournalError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM purge", [])?;
        transaction.execute("DELETE FROM sqlite_sequence WHERE name = 'purge'", [])?;
        transaction.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('purge', ?)", [purge])?;
        transaction.execute("DELETE FROM applied", [])?;
        for (edge, through) in edges {
            transaction.execute("INSERT INTO applied VALUES (?, ?)", params![edge, through])?;
        }
        transaction.execute("DELETE FROM snapshot_floor", [])?;
        transaction.execute("INSERT INTO snapshot_floor VALUES (?)", [snapshot])?;
        transaction.execute("DELETE FROM restored", [])?;
        transaction.commit()?;
        Ok(())
    }

    /// The largest number that a snapshot of this journal has, or has been passed over; 0 before the first.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn newest_number(&self) -> Result<u64, JournalError> {
        let floor = self.snapshot_floor()?;
        let connection = self.connection.lock();
        let newest: u64 =
            connection.query_row("SELECT COALESCE(MAX(number), 0) FROM snapshot", [], |row| row.get(0))?;
        Ok(newest.max(floor))
    }

    /// The next snapshot's number is past this one.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn snapshot_floor(&self) -> Result<u64, JournalError> {
        let connection = self.connection.lock();
        Ok(connection
            .query_row("SELECT COALESCE(MAX(number), 0) FROM snapshot_floor", [], |row| row.get(0))?)
    }

    /// Makes a consistent copy of a whole database, ours or another, in a new file, while it is written to.
    ///
    /// # Errors
    /// [`JournalError`], also where the file is there.
    pub fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<(), JournalError> {
        let connection = rusqlite::Connection::open(from)?;
        connection.busy_timeout(super::BUSY)?;
        connection.execute("VACUUM INTO ?", [to.to_string_lossy()])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nearside_fleet::purge::{Mode, Scope};

    use super::*;
    use crate::journal::purge::Ordered;

    #[test]
    fn numbers_go_on_after_what_the_fleet_has_seen() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("j.db");
        let journal = Journal::open(&path).unwrap();
        let order = Ordered {
            scopes: vec![Scope::All; 3],
            mode: Mode::Hard,
            issued: 1,
            who: "test".into(),
            from: None,
        };
        journal.commit_purges(std::slice::from_ref(&order), &[("fra".into(), 3)]).unwrap();
        assert_eq!(journal.restored().unwrap(), None);
        journal.mark_restored(Restored::FoundOut, 1).unwrap();
        journal.mark_restored(Restored::FromBackup, 2).unwrap();
        assert_eq!(journal.restored().unwrap(), Some(Restored::FoundOut), "less is not enough");
        journal.go_on_after(7, 9, &[("fra".into(), 9), ("nyc".into(), 2)]).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.restored().unwrap(), None);
        assert_eq!((journal.last_purge().unwrap(), journal.trimmed().unwrap()), (9, 9));
        assert_eq!((journal.applied("fra").unwrap(), journal.applied("nyc").unwrap()), (9, 2));
        assert_eq!(journal.snapshot_floor().unwrap(), 7);
        let purges = journal.commit_purges(&[order], &[]).unwrap();
        assert_eq!(purges[0][0].sequence, Some(10));
        assert_eq!((journal.last_purge().unwrap(), journal.trimmed().unwrap()), (12, 9));
    }
}
