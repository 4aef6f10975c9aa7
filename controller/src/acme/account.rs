//! Accounts at authorities: made once, kept in the journal, given new keys.
//!
//! A key is journaled before the authority hears of it: a registration that was interrupted finds the account it made, a
//! rollover that was interrupted finds out which key counts.

use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD as B64, Engine};
use nearside_fleet::config::acme::{Directory, Eab};
use nearside_node::state::read_bounded;
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::{
    crash::point,
    failure::Failure,
    http::Http,
    wire::{Binding, Signer, Wire},
};
use crate::journal::{Journal, acme::Account};

/// A file with a MAC key.
const EAB_BYTES_MAX: u64 = 4 << 10;

/// An account, ready to be used.
pub struct Opened {
    /// What orders.
    pub account: instant_acme::Account,
    /// What instant-acme has no call for.
    pub wire: Wire,
    /// Its pair.
    pub signer: Signer,
    /// Its URL.
    pub id: String,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({})", self.id)
    }
}

/// Opens the account at an authority, and makes it first where there is none.
///
/// # Errors
/// [`Failure`].
pub async fn open(journal: &Journal, directory: &Directory) -> Result<Opened, Failure> {
    let http = Http::new(directory.ca.as_deref()).map_err(Failure::Here)?;
    let wire = Wire::open(http.clone(), &directory.url).await?;
    let mut kept = match journal.acme_account(&directory.url)? {
        Some(kept) => kept,
        None => {
            let account =
                Account { url: directory.url.clone(), key: Signer::generate()?, next_key: None, id: None };
            journal.keep_acme_account(&account)?;
            account
        }
    };
    point("account-key");
    settle(journal, &wire, &mut kept).await?;
    let signer = Signer::read(&kept.key)?;
    let id = match kept.id.clone() {
        Some(id) => id,
        None => {
            let binding = directory.eab.as_ref().map(binding).transpose()?;
            let id = wire.register(&signer, &directory.contact, binding.as_ref(), false).await?;
            point("account-made");
            kept.id = Some(id.clone());
            journal.keep_acme_account(&kept)?;
            tracing::info!(directory = directory.name, account = id, "has an account");
            id
        }
    };
    let pkcs8 =
        B64.decode(&kept.key).map_err(|_| Failure::Here("the account's key is damaged".to_owned()))?;
    let account = instant_acme::Account::builder_with_http(Box::new(http))
        .from_parts(id.clone(), PrivatePkcs8KeyDer::from(pkcs8), directory.url.clone())
        .await?;
    Ok(Opened { account, wire, signer, id })
}

/// Finds out which key counts after a rollover that was interrupted.
async fn settle(journal: &Journal, wire: &Wire, kept: &mut Account) -> Result<(), Failure> {
    let Some(next) = kept.next_key.take() else { return Ok(()) };
    match wire.register(&Signer::read(&next)?, &[], None, true).await {
        Ok(id) => (kept.key, kept.id) = (next, Some(id)),
        // The authority never heard of the new key: the old one counts.
        Err(Failure::Unknown(_) | Failure::Refused(_)) => {}
        Err(failure) => return Err(failure),
    }
    Ok(journal.keep_acme_account(kept)?)
}

/// Gives the account another key.
///
/// # Errors
/// [`Failure`]; whichever key the authority then knows is found out at the next use.
pub async fn rotate(journal: &Journal, directory: &Directory) -> Result<(), Failure> {
    let opened = open(journal, directory).await?;
    let next = Signer::generate()?;
    let Some(mut kept) = journal.acme_account(&directory.url)? else {
        return Err(Failure::Here("the account is gone from the journal".to_owned()));
    };
    kept.next_key = Some(next.clone());
    journal.keep_acme_account(&kept)?;
    opened.wire.change_key(&opened.signer, &Signer::read(&next)?, &opened.id).await?;
    point("account-key-changed");
    (kept.key, kept.next_key) = (next, None);
    Ok(journal.keep_acme_account(&kept)?)
}

/// Forgets that an account exists: the authority does not know it any more. Its key stays.
///
/// # Errors
/// [`Failure::Here`].
pub fn forget(journal: &Journal, url: &str) -> Result<(), Failure> {
    if let Some(kept) = journal.acme_account(url)? {
        journal.keep_acme_account(&Account { id: None, ..kept })?;
    }
    Ok(())
}

fn binding(eab: &Eab) -> Result<Binding, Failure> {
    let wrong =
        |reason: &dyn std::fmt::Display| Failure::Here(format!("{}: {reason}", eab.key_file.display()));
    let text = read_bounded(&eab.key_file, EAB_BYTES_MAX).map_err(|error| wrong(&error))?;
    let text = String::from_utf8(text.ok_or_else(|| wrong(&"is missing"))?).map_err(|error| wrong(&error))?;
    let text = text.trim().trim_end_matches('=');
    // Some authorities hand out the other alphabet.
    let key = B64.decode(text).or_else(|_| BASE64_STANDARD_NO_PAD.decode(text));
    let key = key.map_err(|_| wrong(&"is not base64url"))?;
    if key.is_empty() {
        return Err(wrong(&"is empty"));
    }
    Ok(Binding { kid: eab.kid.clone(), key })
}
