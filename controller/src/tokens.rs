//! Bearer tokens for those who have no certificate: deploy pipelines, dashboards.
//!
//! A token is 256 random bits and is shown once, when it is made. Home keeps its SHA-256: no salt and no slow hash are
//! needed where nothing can be guessed. Looking one up compares with every token in constant time. It does not know
//! endpoints; what a role may is the table's business.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nearside_fleet::Sha256;
use nearside_node::control::{Grant, TokenRole};
use parking_lot::RwLock;

use crate::journal::{Journal, JournalError, token::Token};

/// What tokens begin with, so that scanners for leaked secrets find them.
pub const PREFIX: &str = "nearside_";
/// Tokens there may be: every lookup compares with all.
pub const TOKENS_MAX: usize = 1_000;
/// Bytes of a token's name.
const NAME_BYTES_MAX: usize = 64;
/// Sites of one token.
const SITES_MAX: usize = 100;
/// How exact "last used" is, seconds: a write per token and minute at most.
const USED_EVERY: u64 = 60;

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// What was asked for can't be.
    #[error("{0}")]
    Wrong(String),
    /// A name is taken.
    #[error("there is a token {0} already; revoke it first, or choose another name")]
    Taken(String),
    /// It could not be kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Random,
}

/// The tokens, in memory and in the journal.
#[derive(Debug)]
pub struct Tokens {
    journal: Arc<Journal>,
    kept: RwLock<Vec<(Sha256, Token)>>,
}

impl Tokens {
    /// Reads them from the journal.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(journal: Arc<Journal>) -> Result<Self, JournalError> {
        let kept = RwLock::new(journal.tokens()?);
        Ok(Self { journal, kept })
    }

    /// Makes one that ends at `expires`. Returns it, and how it is shown, this once.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn create(
        &self,
        name: &str,
        role: TokenRole,
        sites: &[String],
        expires: Option<u64>,
        now: u64,
    ) -> Result<(Token, String), TokenError> {
        check(name, role, sites)?;
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| TokenError::Random)?;
        let shown = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
        let token =
            Token { name: name.to_owned(), role, sites: sites.to_vec(), created: now, expires, used: None };
        let mut kept = self.kept.write();
        // Ended ones stay in the list until their name is wanted again, so that people see what ended.
        if let Some(at) = kept.iter().position(|(_, other)| other.name == name) {
            if !ended(&kept[at].1, now) {
                return Err(TokenError::Taken(name.to_owned()));
            }
            self.journal.remove_token(name)?;
            kept.remove(at);
        }
        if kept.len() >= TOKENS_MAX {
            return Err(TokenError::Wrong(format!("there are {TOKENS_MAX} tokens already; revoke some")));
        }
        let hash = Sha256::of(shown.as_bytes());
        self.journal.keep_token(&hash, &token)?;
        kept.push((hash, token.clone()));
        Ok((token, shown))
    }

    /// What a token gives; `None`: it is none, or has ended.
    pub fn find(&self, shown: &str, now: u64) -> Option<Arc<Grant>> {
        let hash = Sha256::of(shown.as_bytes()).to_string();
        let kept = self.kept.read();
        let mut found = None;
        // All of them, whichever it is: how long it takes says nothing.
        for (other, token) in kept.iter() {
            let equal = aws_lc_rs::constant_time::verify_slices_are_equal(
                other.to_string().as_bytes(),
                hash.as_bytes(),
            );
            if equal.is_ok() {
                found = Some(token);
            }
        }
        let token = found.filter(|token| !ended(token, now))?;
        let grant = Grant { token: token.name.clone(), role: token.role, sites: token.sites.clone() };
        let stale = token.used.is_none_or(|used| used + USED_EVERY <= now);
        drop(kept);
        if stale {
            self.used(&grant.token, now);
        }
        Some(Arc::new(grant))
    }

    fn used(&self, name: &str, now: u64) {
        for (_, token) in self.kept.write().iter_mut().filter(|(_, token)| token.name == name) {
            token.used = Some(now);
        }
        if let Err(error) = self.journal.token_used(name, now) {
            tracing::warn!(%error, token = name, "its last use was not noted");
        }
    }

    /// All of them, ended ones too.
    pub fn list(&self) -> Vec<Token> {
        self.kept.read().iter().map(|(_, token)| token.clone()).collect()
    }

    /// Ends one now. `false`: there was none.
    ///
    /// # Errors
    /// [`JournalError`]; it is good until the next start then.
    pub fn revoke(&self, name: &str) -> Result<bool, JournalError> {
        let mut kept = self.kept.write();
        let was = self.journal.remove_token(name)?;
        kept.retain(|(_, token)| token.name != name);
        Ok(was)
    }
}

fn ended(token: &Token, now: u64) -> bool {
    token.expires.is_some_and(|expires| expires <= now)
}

fn check(name: &str, role: TokenRole, sites: &[String]) -> Result<(), TokenError> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let wrong = |reason: String| Err(TokenError::Wrong(reason));
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
        return wrong(format!("{name:?} is no name: 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_`, `.`"));
    }
    match role {
        TokenRole::Deployer if sites.is_empty() => wrong("a deployer needs at least one site".to_owned()),
        TokenRole::Deployer if sites.len() > SITES_MAX => wrong(format!("at most {SITES_MAX} sites")),
        TokenRole::Operator | TokenRole::Reader if !sites.is_empty() => wrong(format!(
            "only a deployer is bound to sites, not a{}",
            if role == TokenRole::Operator { "n operator" } else { " reader" }
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(dir: &std::path::Path) -> Tokens {
        Tokens::open(Arc::new(Journal::open(&dir.join("j.db")).unwrap())).unwrap()
    }

    #[test]
    fn a_token_is_found_until_it_ends_or_is_revoked_over_restarts_too() {
        let temp = tempfile::tempdir().unwrap();
        let ours = tokens(temp.path());
        let www = ["www".to_owned()];
        let (_, shown) = ours.create("ci", TokenRole::Deployer, &www, Some(100), 10).unwrap();
        let (_, other) = ours.create("all", TokenRole::Operator, &[], None, 10).unwrap();
        assert!(shown.starts_with(PREFIX) && shown.len() == PREFIX.len() + 43, "{shown}");
        assert_eq!(ours.find(&shown, 20).unwrap().sites, www);
        assert_eq!(ours.find(&other, 20).unwrap().role, TokenRole::Operator);
        for wrong in ["", PREFIX, &shown[..50], &format!("{shown}x")] {
            assert!(ours.find(wrong, 20).is_none(), "{wrong}");
        }
        let bytes = std::fs::read(temp.path().join("j.db-wal")).unwrap();
        assert!(!bytes.windows(20).any(|window| window == &shown.as_bytes()[9..29]), "only hashes are kept");
        drop(ours);
        let ours = tokens(temp.path());
        assert_eq!(ours.find(&shown, 99).unwrap().token, "ci");
        assert_eq!(ours.list()[1].used, Some(99));
        assert!(ours.find(&shown, 100).is_none(), "it has ended");
        assert!(matches!(ours.create("ci", TokenRole::Reader, &[], None, 99), Err(TokenError::Taken(_))));
        ours.create("ci", TokenRole::Reader, &[], None, 100).unwrap();
        assert!(ours.revoke("all").unwrap());
        assert!(!ours.revoke("all").unwrap());
        assert!(ours.find(&other, 20).is_none());
        assert_eq!(tokens(temp.path()).list().len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_not_made() {
        let temp = tempfile::tempdir().unwrap();
        let ours = tokens(temp.path());
        let www = ["www".to_owned()];
        for (name, role, sites) in [
            ("", TokenRole::Reader, &[][..]),
            ("a b", TokenRole::Reader, &[]),
            ("x", TokenRole::Deployer, &[]),
            ("x", TokenRole::Reader, &www),
        ] {
            assert!(
                matches!(ours.create(name, role, sites, None, 1), Err(TokenError::Wrong(_))),
                "{name} {role}"
            );
        }
        assert!(ours.list().is_empty());
    }
}
