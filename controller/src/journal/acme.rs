//! Orders at public authorities in the journal: accounts, orders, challenges that are out, failures, renewal.
//!
//! Each step of an order is written before it is done, so that home may be killed at any moment: what it finds here tells what
//! may have happened. Times are seconds since the epoch. It decides nothing; that is [`crate::acme`]'s business.

use rusqlite::{OptionalExtension, Row, params};

use super::{Issued, Journal, JournalError, json, text};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS acme_account (url TEXT PRIMARY KEY, key TEXT NOT NULL, next_key TEXT, id TEXT);
CREATE TABLE IF NOT EXISTS acme_order (number INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, hosts TEXT NOT NULL,
    directory TEXT NOT NULL, key TEXT NOT NULL, begun INTEGER NOT NULL, step TEXT NOT NULL, url TEXT, error TEXT);
CREATE TABLE IF NOT EXISTS acme_challenge (number INTEGER NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
    until INTEGER NOT NULL, PRIMARY KEY (number, name, value));
CREATE TABLE IF NOT EXISTS acme_failure (site TEXT NOT NULL, directory TEXT NOT NULL, at INTEGER NOT NULL,
    cost TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS acme_certificate (site TEXT PRIMARY KEY, directory TEXT NOT NULL, sha256 TEXT NOT NULL,
    window_start INTEGER, window_end INTEGER, look INTEGER NOT NULL, revoked INTEGER NOT NULL DEFAULT 0);
";

/// Failures kept per site and directory: more than count within any limit.
const FAILURES_MAX: u64 = 64;
/// Orders that are over and are kept to be looked at.
const ORDERS_KEPT: u64 = 1_000;

/// An account at an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The authority's directory.
    pub url: String,
    /// Its pair, PKCS#8 in base64url.
    pub key: String,
    /// The pair it is being given.
    pub next_key: Option<String>,
    /// Its own URL, once it is known to exist.
    pub id: Option<String>,
}

/// How far an order is: each step is written down before it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Its pair is made.
    New,
    /// The authority is being asked; whether it was is not known.
    Ordering,
    /// The authority has it.
    Ordered,
    /// Challenges are being put on the DNS nodes.
    Publishing,
    /// All DNS nodes answer them; the authority is being told to look.
    Validating,
    /// The certificate is being asked for.
    Finalizing,
    /// The certificate is kept.
    Done,
    /// Over without one.
    Failed,
}

/// One order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its number here.
    pub number: i64,
    /// For which site.
    pub site: String,
    /// For which names.
    pub hosts: Vec<String>,
    /// At which authority: the URL of its directory.
    pub directory: String,
    /// The pair of the certificate to be, PEM.
    pub key: String,
    /// When it was begun.
    pub begun: u64,
    /// How far it is.
    pub step: Step,
    /// Its URL, once known.
    pub url: Option<String>,
}

/// A challenge that may be on DNS nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Out {
    /// Of which order.
    pub number: i64,
    /// At which name.
    pub name: String,
    /// With which value.
    pub value: String,
    /// When nodes forget it by themselves.
    pub until: u64,
}

/// An attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// When.
    pub at: u64,
    /// What it cost.
    pub cost: Cost,
}

/// What a failed attempt cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cost {
    /// Nothing: it failed on our side.
    Nothing,
    /// The authority was asked.
    Asked,
    /// It was asked to validate, which it counts.
    Validated,
}

/// Where a site's certificate came from, and when its authority wants it renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The name of the directory.
    pub directory: String,
    /// Hash of the chain, so that a certificate from elsewhere is not taken for this one.
    pub sha256: String,
    /// The suggested window.
    pub window: Option<(u64, u64)>,
    /// When to ask for the window again.
    pub look: u64,
    /// Whether it was revoked.
    pub revoked: bool,
}

impl Journal {
    /// The account at an authority.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn acme_account(&self, url: &str) -> Result<Option<Account>, JournalError> {
        let connection = self.connection.lock();
        let mut query =
            connection.prepare_cached("SELECT url, key, next_key, id FROM acme_account WHERE url = ?")?;
        let read = |row: &Row<'_>| {
            Ok(Account { url: row.get(0)?, key: row.get(1)?, next_key: row.get(2)?, id: row.get(3)? })
        };
        Ok(query.query_row([url], read).optional()?)
    }

    /// Keeps an account as it is now.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_acme_account(&self, account: &Account) -> Result<(), JournalError> {
        let values = params![account.url, account.key, account.next_key, account.id];
        self.connection.lock().execute("INSERT OR REPLACE INTO acme_account VALUES (?, ?, ?, ?)", values)?;
        Ok(())
    }

    /// Begins an order. Orders that are over make room.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn begin_acme_order(
        &self,
        site: &str,
        hosts: &[String],
        directory: &str,
        key: &str,
        now: u64,
    ) -> Result<Order, JournalError> {
        let connection = self.connection.lock();
        let values = params![site, text(&hosts)?, directory, key, now, text(&Step::New)?];
        connection.execute(
            "INSERT INTO acme_order (site, hosts, directory, key, begun, step) VALUES (?, ?, ?, ?, ?, ?)",
            values,
        )?;
        let number = connection.last_insert_rowid();
        connection.execute(
            "DELETE FROM acme_order WHERE number <= ? - ? AND step IN ('\"done\"', '\"failed\"')",
            params![number, ORDERS_KEPT],
        )?;
        Ok(Order {
            number,
            site: site.to_owned(),
            hosts: hosts.to_vec(),
            directory: directory.to_owned(),
            key: key.to_owned(),
            begun: now,
            step: Step::New,
            url: None,
        })
    }

    /// Orders that are not over, oldest first.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open_acme_orders(&self) -> Result<Vec<Order>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT number, site, hosts, directory, key, begun, step, url FROM acme_order
             WHERE step NOT IN ('\"done\"', '\"failed\"') ORDER BY number",
        )?;
        let orders = query.query_map([], |row| {
            Ok(Order {
                number: row.get(0)?,
                site: row.get(1)?,
                hosts: json(row, 2)?,
                directory: row.get(3)?,
                key: row.get(4)?,
                begun: row.get(5)?,
                step: json(row, 6)?,
                url: row.get(7)?,
            })
        })?;
        Ok(orders.collect::<Result<_, _>>()?)
    }

    /// Whether an order of ours has this URL.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn knows_acme_order(&self, url: &str) -> Result<bool, JournalError> {
        let connection = self.connection.lock();
        Ok(connection.prepare_cached("SELECT 1 FROM acme_order WHERE url = ?")?.exists([url])?)
    }

    /// Writes down the step an order is about to take, and what is known by then.
    ///
    /// # Errors
    /// [`JournalError`]; the step must not be taken then.
    pub fn step_acme_order(&self, order: &Order, error: Option<&str>) -> Result<(), JournalError> {
        let values = params![text(&order.step)?, order.url, error, order.number];
        self.connection
            .lock()
            .execute("UPDATE acme_order SET step = ?, url = ?, error = ? WHERE number = ?", values)?;
        Ok(())
    }

    /// Ends an order with its certificate: both are kept, or none.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn finish_acme_order(
        &self,
        order: &Order,
        issued: &Issued,
        directory: &str,
        sha256: &str,
        now: u64,
    ) -> Result<(), JournalError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        let (start, end) = (issued.not_before, issued.not_after);
        transaction.execute(
            "INSERT OR REPLACE INTO certificate VALUES (?, ?, ?, ?, ?, ?)",
            params![order.site, text(&issued.hosts)?, issued.chain, issued.key, start, end],
        )?;
        transaction.execute(
            "INSERT OR REPLACE INTO acme_certificate VALUES (?, ?, ?, NULL, NULL, ?, 0)",
            params![order.site, directory, sha256, now],
        )?;
        transaction.execute(
            "UPDATE acme_order SET step = ?, error = NULL WHERE number = ?",
            params![text(&Step::Done)?, order.number],
        )?;
        // Its other orders, at other authorities or for hosts it had before, are of no use any more.
        transaction.execute(
            "UPDATE acme_order SET step = ?, error = 'not needed any more'
             WHERE site = ? AND step NOT IN ('\"done\"', '\"failed\"')",
            params![text(&Step::Failed)?, order.site],
        )?;
        transaction.execute("DELETE FROM acme_failure WHERE site = ?", [&order.site])?;
        transaction.commit()?;
        Ok(())
    }

    /// Writes down challenges that are about to be put on DNS nodes.
    ///
    /// # Errors
    /// [`JournalError`]; they must not be put there then.
    pub fn keep_acme_challenges(&self, challenges: &[Out]) -> Result<(), JournalError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for Out { number, name, value, until } in challenges {
            let values = params![number, name, value, until];
            transaction.execute("INSERT OR REPLACE INTO acme_challenge VALUES (?, ?, ?, ?)", values)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Challenges that may be on DNS nodes.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn acme_challenges(&self) -> Result<Vec<Out>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection
            .prepare_cached("SELECT number, name, value, until FROM acme_challenge ORDER BY name, value")?;
        let read = |row: &Row<'_>| {
            Ok(Out { number: row.get(0)?, name: row.get(1)?, value: row.get(2)?, until: row.get(3)? })
        };
        Ok(query.query_map([], read)?.collect::<Result<_, _>>()?)
    }

    /// Forgets an order's challenges at a name: they are off all nodes, or over.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn forget_acme_challenge(&self, number: i64, name: &str) -> Result<(), JournalError> {
        let values = params![number, name];
        self.connection.lock().execute("DELETE FROM acme_challenge WHERE number = ? AND name = ?", values)?;
        Ok(())
    }

    /// Keeps a failed attempt.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_acme_failure(
        &self,
        site: &str,
        directory: &str,
        failed: Failed,
        reason: &str,
    ) -> Result<(), JournalError> {
        let connection = self.connection.lock();
        let values = params![site, directory, failed.at, text(&failed.cost)?, reason];
        connection.execute("INSERT INTO acme_failure VALUES (?, ?, ?, ?, ?)", values)?;
        connection.execute(
            "DELETE FROM acme_failure WHERE site = ?1 AND directory = ?2 AND rowid NOT IN
             (SELECT rowid FROM acme_failure WHERE site = ?1 AND directory = ?2 ORDER BY rowid DESC LIMIT ?3)",
            params![site, directory, FAILURES_MAX],
        )?;
        Ok(())
    }

    /// Failed attempts for a site at an authority since its last certificate, oldest first.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn acme_failures(&self, site: &str, directory: &str) -> Result<Vec<Failed>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT at, cost FROM acme_failure WHERE site = ? AND directory = ? ORDER BY rowid",
        )?;
        let read = |row: &Row<'_>| Ok(Failed { at: row.get(0)?, cost: json(row, 1)? });
        Ok(query.query_map([site, directory], read)?.collect::<Result<_, _>>()?)
    }

    /// Why the last attempt for a site failed; `None`: it did not.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn acme_trouble(&self, site: &str) -> Result<Option<String>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection
            .prepare_cached("SELECT reason FROM acme_failure WHERE site = ? ORDER BY rowid DESC LIMIT 1")?;
        Ok(query.query_row([site], |row| row.get(0)).optional()?)
    }

    /// Where a site's certificate came from; `None`: not from an authority.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn acme_origin(&self, site: &str) -> Result<Option<Origin>, JournalError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT directory, sha256, window_start, window_end, look, revoked FROM acme_certificate WHERE site = ?",
        )?;
        let read = |row: &Row<'_>| {
            let (start, end): (Option<u64>, Option<u64>) = (row.get(2)?, row.get(3)?);
            Ok(Origin {
                directory: row.get(0)?,
                sha256: row.get(1)?,
                window: start.zip(end),
                look: row.get(4)?,
                revoked: row.get(5)?,
            })
        };
        Ok(query.query_row([site], read).optional()?)
    }

    /// Keeps when a certificate should be renewed, and when to ask again.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_acme_window(
        &self,
        site: &str,
        window: Option<(u64, u64)>,
        look: u64,
    ) -> Result<(), JournalError> {
        let values = params![window.map(|(start, _)| start), window.map(|(_, end)| end), look, site];
        self.connection.lock().execute(
            "UPDATE acme_certificate SET window_start = ?, window_end = ?, look = ? WHERE site = ?",
            values,
        )?;
        Ok(())
    }

    /// Keeps that a site's certificate was revoked.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_acme_revoked(&self, site: &str) -> Result<(), JournalError> {
        self.connection.lock().execute("UPDATE acme_certificate SET revoked = 1 WHERE site = ?", [site])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(temp: &tempfile::TempDir) -> Journal {
        Journal::open(&temp.path().join("j.db")).unwrap()
    }

    #[test]
    fn an_order_and_its_challenges_outlive_the_process() {
        let temp = tempfile::tempdir().unwrap();
        let kept = journal(&temp);
        let hosts = ["a.test".to_owned(), "*.a.test".to_owned()];
        let mut order = kept.begin_acme_order("s", &hosts, "https://d", "KEY", 7).unwrap();
        (order.step, order.url) = (Step::Ordered, Some("https://d/1".into()));
        kept.step_acme_order(&order, None).unwrap();
        let out =
            Out { number: order.number, name: "_acme-challenge.a.test".into(), value: "x".into(), until: 9 };
        kept.keep_acme_challenges(&[out.clone(), out.clone()]).unwrap();
        drop(kept);
        let kept = journal(&temp);
        assert_eq!(kept.open_acme_orders().unwrap(), [order.clone()]);
        assert!(kept.knows_acme_order("https://d/1").unwrap());
        assert_eq!(kept.acme_challenges().unwrap(), [out]);
        let issued =
            Issued { hosts: hosts.to_vec(), chain: "C".into(), key: "K".into(), not_before: 1, not_after: 2 };
        let other = kept.begin_acme_order("s", &hosts[..1], "https://e", "KEY", 7).unwrap();
        kept.keep_acme_failure("s", "d", Failed { at: 3, cost: Cost::Validated }, "why").unwrap();
        assert_eq!(kept.acme_trouble("s").unwrap().as_deref(), Some("why"));
        kept.finish_acme_order(&order, &issued, "d", "hash", 8).unwrap();
        assert_eq!(kept.certificate("s").unwrap(), Some(issued));
        assert_eq!(kept.open_acme_orders().unwrap(), [], "{other:?} is of no use any more");
        assert_eq!(kept.acme_failures("s", "d").unwrap(), []);
        kept.keep_acme_window("s", Some((5, 6)), 10).unwrap();
        let origin = kept.acme_origin("s").unwrap().unwrap();
        assert_eq!((origin.window, origin.look, origin.revoked), (Some((5, 6)), 10, false));
    }

    #[test]
    fn failures_are_bounded() {
        let temp = tempfile::tempdir().unwrap();
        let kept = journal(&temp);
        for at in 0..FAILURES_MAX + 3 {
            kept.keep_acme_failure("s", "d", Failed { at, cost: Cost::Asked }, "").unwrap();
        }
        let failures = kept.acme_failures("s", "d").unwrap();
        assert_eq!((failures.len() as u64, failures[0].at), (FAILURES_MAX, 3));
    }
}
