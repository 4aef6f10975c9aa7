//! Bearer tokens: what they may and until when. The tokens themselves are nowhere, only their hashes.

use nearside_fleet::Sha256;
use nearside_node::control::TokenRole;
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{Journal, JournalError, json, text};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS token (name TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, role TEXT NOT NULL,
    sites TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER, used INTEGER);
";

/// A token, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: TokenRole,
    /// For which sites, a deployer's.
    pub sites: Vec<String>,
    /// When it was made, seconds since the epoch.
    pub created: u64,
    /// When it ends.
    pub expires: Option<u64>,
    /// When it was last shown, to the minute.
    pub used: Option<u64>,
}

impl Journal {
    /// Every token with its hash, by name.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn tokens(&self) -> Result<Vec<(Sha256, Token)>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT hash, name, role, sites, created, expires, used FROM token ORDER BY name",
        )?;
        let read = |row: &rusqlite::Row<'_>| {
            let token = Token {
                name: row.get(1)?,
                role: json(row, 2)?,
                sites: json(row, 3)?,
                created: row.get(4)?,
                expires: row.get(5)?,
                used: row.get(6)?,
            };
            Ok((json(row, 0)?, token))
        };
        Ok(query.query_map([], read)?.collect::<Result<_, _>>()?)
    }

    /// Keeps a new token.
    ///
    /// # Errors
    /// [`JournalError`], also where its name is taken.
    pub fn keep_token(&self, hash: &Sha256, token: &Token) -> Result<(), JournalError> {
        let Token { name, role, sites, created, expires, used } = token;
        let values = params![name, text(hash)?, text(role)?, text(sites)?, created, expires, used];
        self.connection.lock().execute("INSERT INTO token VALUES (?, ?, ?, ?, ?, ?, ?)", values)?;
        Ok(())
    }

    /// Notes that a token was shown.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn token_used(&self, name: &str, at: u64) -> Result<(), JournalError> {
        self.connection.lock().execute("UPDATE token SET used = ? WHERE name = ?", params![at, name])?;
        Ok(())
    }

    /// Forgets a token. `false`: there was none.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn remove_token(&self, name: &str) -> Result<bool, JournalError> {
        Ok(self.connection.lock().execute("DELETE FROM token WHERE name = ?", [name])? > 0)
    }
}
