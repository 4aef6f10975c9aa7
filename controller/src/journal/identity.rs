//! The register of identities: every certificate the fleet's CA has signed for a node, a person or home, and which are
//! revoked; and the number of the newest list of those.

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{Journal, JournalError};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS identity (serial TEXT PRIMARY KEY, name TEXT NOT NULL, issued INTEGER NOT NULL,
    not_after INTEGER NOT NULL, made TEXT NOT NULL, revoked INTEGER, reason TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS identity_name ON identity (name);
CREATE TABLE IF NOT EXISTS revocation (number INTEGER NOT NULL);
";

/// Identities kept: those that have ended leave a year later.
const KEPT_SECONDS: u64 = 366 * 86_400;

/// How home came to know an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// Its key was made at home and carried to where it is used.
    Home,
    /// Its key was made where it is used.
    There,
    /// A node showed it; it was made before there was a register.
    Seen,
    /// It stood on a list of revoked ones that a node has, from before this journal.
    Listed,
}

impl Provenance {
    fn text(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::There => "there",
            Self::Seen => "seen",
            Self::Listed => "listed",
        }
    }

    fn of(text: &str) -> Self {
        match text {
            "there" => Self::There,
            "seen" => Self::Seen,
            "listed" => Self::Listed,
            _ => Self::Home,
        }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Serial number of its certificate, in hex.
    pub serial: String,
    /// Common name: `node:NAME`, `operator:NAME`, `operator`, `controller`.
    pub name: String,
    /// When, seconds since the epoch.
    pub issued: u64,
    /// When it ends.
    pub not_after: u64,
    /// How home came to know it.
    pub made: Provenance,
    /// When it was revoked.
    pub revoked: Option<u64>,
    /// Why.
    pub reason: String,
}

impl Journal {
    /// Takes an identity into the register, unless it is there.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_identity(&self, one: &Registered) -> Result<(), JournalError> {
        let Registered { serial, name, issued, not_after, made, revoked, reason } = one;
        let connection = self.connection.lock();
        connection.execute(
            "INSERT OR IGNORE INTO identity VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![serial, name, issued, not_after, made.text(), revoked, reason],
        )?;
        connection
            .execute("DELETE FROM identity WHERE not_after < ?", [issued.saturating_sub(KEPT_SECONDS)])?;
        Ok(())
    }

    /// Takes a renewed identity into the register, unless its name was revoked meanwhile: `false`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_renewed(&self, one: &Registered) -> Result<bool, JournalError> {
        let Registered { serial, name, issued, not_after, made, .. } = one;
        // One statement: a revocation comes before it or after it.
        let kept = self.connection.lock().execute(
            "INSERT INTO identity SELECT ?1, ?2, ?3, ?4, ?5, NULL, ''
             WHERE NOT (SELECT COUNT(*) > 0 AND COUNT(*) = COUNT(revoked) FROM identity WHERE name = ?2)",
            params![serial, name, issued, not_after, made.text()],
        )?;
        Ok(kept > 0)
    }

    /// The register, by name, newest first.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn identities(&self) -> Result<Vec<Registered>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT serial, name, issued, not_after, made, revoked, reason FROM identity
             ORDER BY name, issued DESC, serial",
        )?;
        let read = |row: &rusqlite::Row<'_>| {
            let made: String = row.get(4)?;
            Ok(Registered {
                serial: row.get(0)?,
                name: row.get(1)?,
                issued: row.get(2)?,
                not_after: row.get(3)?,
                made: Provenance::of(&made),
                revoked: row.get(5)?,
                reason: row.get(6)?,
            })
        };
        Ok(query.query_map([], read)?.collect::<Result<_, _>>()?)
    }

    /// Whether a certificate is in the register, for that name, and not revoked.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn knows_identity(&self, serial: &str, name: &str) -> Result<bool, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT COUNT(*) FROM identity WHERE serial = ? AND name = ? AND revoked IS NULL",
        )?;
        Ok(query.query_row(params![serial, name], |row| row.get::<_, u64>(0))? > 0)
    }

    /// Whether all that a name ever had is revoked; not if it never had any.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn is_revoked(&self, name: &str) -> Result<bool, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT COUNT(*) > 0 AND COUNT(*) = COUNT(revoked) FROM identity WHERE name = ?",
        )?;
        Ok(query.query_row([name], |row| row.get(0))?)
    }

    /// Revokes all identities of a name. Returns how many that were.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn revoke_identities(&self, name: &str, at: u64, reason: &str) -> Result<usize, JournalError> {
        let connection = self.connection.lock();
        Ok(connection.execute(
            "UPDATE identity SET revoked = ?, reason = ? WHERE name = ? AND revoked IS NULL",
            params![at, reason, name],
        )?)
    }

    /// Number of the newest list of revoked identities; 0 before the first.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn revocations(&self) -> Result<u64, JournalError> {
        let connection = self.connection.lock();
        Ok(connection.query_row("SELECT COALESCE(MAX(number), 0) FROM revocation", [], |row| row.get(0))?)
    }

    /// Gives the next list a number past `past`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn next_revocations(&self, past: u64) -> Result<u64, JournalError> {
        let next = self.revocations()?.max(past) + 1;
        let connection = self.connection.lock();
        connection.execute("DELETE FROM revocation", [])?;
        connection.execute("INSERT INTO revocation VALUES (?)", [next])?;
        Ok(next)
    }
}
