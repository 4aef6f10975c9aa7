//! Purges in the journal: many orders, and the acknowledgements that came meanwhile, in one synced commit.
//!
//! A commit costs a wait for the disk, whatever it holds, so whoever orders purges at the same time shares one. How orders are
//! gathered is [`crate::purge`]'s business.

use nearside_fleet::purge::{Mode, Purge, Scope};
use rusqlite::params;

use super::{Journal, JournalError, audit, json, text};

/// Purges kept for edges that are away: some 20 MB, weeks of a busy site. An edge that was away for longer purges softly
/// all it holds.
pub const PURGES_KEPT: u64 = 100_000;
/// Scopes that the audit log names of one order; the rest is a number.
const AUDITED_MAX: usize = 5;

/// Purges that are asked for and have no numbers yet.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// What to purge; at least one.
    pub scopes: Vec<Scope>,
    /// How.
    pub mode: Mode,
    /// When, seconds since the epoch.
    pub issued: u64,
    /// Who asked, for the audit log.
    pub who: String,
    /// From where.
    pub from: Option<std::net::IpAddr>,
}

impl Ordered {
    fn audit_entry(&self) -> audit::Entry {
        let from = self.from.map(|from| from.to_string());
        audit::Entry { from, ..audit::Entry::done(self.issued, &self.who, &self.audited()) }
    }

    fn audited(&self) -> String {
        let named: Vec<String> = self.scopes.iter().take(AUDITED_MAX).map(ToString::to_string).collect();
        match self.scopes.len() - named.len() {
            0 => format!("purged {}", named.join(", ")),
            more => format!("purged {} and {more} more", named.join(", ")),
        }
    }
}

impl Journal {
    /// Numbers the purges of all orders and keeps them, audit and acknowledgements (edge, sequence) included, all or none.
    /// Returns each order's purges.
    ///
    /// # Errors
    /// [`JournalError`]; nothing is kept then.
    pub fn commit_purges(
        &self,
        orders: &[Ordered],
        applied: &[(String, u64)],
    ) -> Result<Vec<Vec<Purge>>, JournalError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        let mut out = Vec::with_capacity(orders.len());
        let mut newest = 0;
        for order in orders {
            let mode = text(&order.mode)?;
            let mut purges = Vec::with_capacity(order.scopes.len());
            let mut insert =
                transaction.prepare_cached("INSERT INTO purge (scope, mode, issued) VALUES (?, ?, ?)")?;
            for scope in &order.scopes {
                insert.execute(params![text(scope)?, mode, order.issued])?;
                newest = u64::try_from(transaction.last_insert_rowid()).unwrap_or(0);
                purges.push(Purge { sequence: Some(newest), scope: scope.clone(), mode: order.mode });
            }
            audit::write(&transaction, &order.audit_entry())?;
            out.push(purges);
        }
        if newest > PURGES_KEPT {
            transaction.execute("DELETE FROM purge WHERE sequence <= ?", [newest - PURGES_KEPT])?;
        }
        for (node, sequence) in applied {
            transaction.execute("INSERT OR REPLACE INTO applied VALUES (?, ?)", params![node, sequence])?;
        }
        transaction.commit()?;
        Ok(out)
    }

    /// Purges after a sequence, oldest first, at most `count`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn purges_after(&self, sequence: u64, count: usize) -> Result<Vec<Purge>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT sequence, scope, mode FROM purge WHERE sequence > ? ORDER BY sequence LIMIT ?",
        )?;
        let purges = query.query_map(params![sequence, count], |row| {
            Ok(Purge { sequence: Some(row.get(0)?), scope: json(row, 1)?, mode: json(row, 2)? })
        })?;
        Ok(purges.collect::<Result<_, _>>()?)
    }

    /// The last sequence given, whether its purge is kept or not; 0 before the first.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn last_purge(&self) -> Result<u64, JournalError> {
        let connection = self.connection.lock();
        let last = "SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'purge'";
        Ok(connection.query_row(last, [], |row| row.get(0))?)
    }

    /// Up to which sequence purges are no longer kept; 0: all are.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn trimmed(&self) -> Result<u64, JournalError> {
        let last = self.last_purge()?;
        let connection = self.connection.lock();
        let first: Option<u64> =
            connection.query_row("SELECT MIN(sequence) FROM purge", [], |row| row.get(0))?;
        Ok(first.map_or(last, |first| first - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(scopes: &[Scope], mode: Mode) -> Ordered {
        Ordered { scopes: scopes.to_vec(), mode, issued: 5, who: "test".to_owned(), from: None }
    }

    #[test]
    fn purges_and_acknowledgements_outlive_the_process() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("j.db");
        let journal = Journal::open(&path).unwrap();
        let orders = [
            ordered(&[Scope::All, Scope::Site("s".into())], Mode::Soft),
            ordered(&[Scope::Tag { tag: "v1".into(), site: None }], Mode::Hard),
        ];
        let kept = journal.commit_purges(&orders, &[]).unwrap();
        let numbers: Vec<Vec<u64>> =
            kept.iter().map(|purges| purges.iter().filter_map(|purge| purge.sequence).collect()).collect();
        assert_eq!(numbers, [vec![1, 2], vec![3]], "each order gets its own, in order");
        assert!(journal.commit_purges(&[], &[("fra".into(), 1)]).unwrap().is_empty());
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        let left = journal.purges_after(journal.applied("fra").unwrap(), 10).unwrap();
        assert_eq!(left, [kept[0][1].clone(), kept[1][0].clone()]);
        assert_eq!(journal.applied("nyc").unwrap(), 0);
        assert_eq!((journal.last_purge().unwrap(), journal.trimmed().unwrap()), (3, 0));
    }

    #[test]
    fn old_purges_are_trimmed_and_their_numbers_not_given_again() {
        let temp = tempfile::tempdir().unwrap();
        let journal = Journal::open(&temp.path().join("j.db")).unwrap();
        let scopes = vec![Scope::All; PURGES_KEPT as usize];
        journal.commit_purges(&[ordered(&scopes, Mode::Hard)], &[]).unwrap();
        assert_eq!(journal.trimmed().unwrap(), 0);
        journal.commit_purges(&[ordered(&scopes[..2], Mode::Hard)], &[]).unwrap();
        assert_eq!((journal.trimmed().unwrap(), journal.last_purge().unwrap()), (2, PURGES_KEPT + 2));
        assert_eq!(journal.purges_after(0, 1).unwrap()[0].sequence, Some(3));
    }

    #[test]
    fn the_audit_log_names_a_few_of_a_thousand() {
        let urls: Vec<Scope> = (0..1000).map(|at| Scope::Url(format!("https://a.test/{at}"))).collect();
        let text = ordered(&urls, Mode::Hard).audited();
        assert!(text.ends_with(", https://a.test/4 and 995 more"), "{text}");
        assert_eq!(ordered(&[Scope::All], Mode::Hard).audited(), "purged everything");
    }
}
