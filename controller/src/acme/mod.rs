//! Certificates from public authorities, ordered by home for all PoPs.
//!
//! [`due`] says when, [`account`] as whom, [`order`] how; [`names`] and [`caa`] where challenges go and whether an authority may
//! issue, [`challenge`] puts them on the DNS nodes through [`dns`]. An attempt goes through a site's authorities in their
//! order until one issues. What is issued is kept in the journal and published as any other certificate is.
//!
//! Invariant: no authority is told to look before every DNS node answers, and no order is made twice.

pub mod account;
pub mod caa;
pub mod challenge;
mod crash;
pub mod dns;
pub mod due;
pub mod failure;
pub mod follow;
pub mod http;
pub mod names;
pub mod order;
pub mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use instant_acme::{RevocationReason, RevocationRequest};
use nearside_fleet::{
    Sha256,
    config::{
        Config, Site, SiteTls,
        acme::{Directory, SiteAcme},
    },
};
use parking_lot::Mutex;
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tokio::sync::{Notify, Semaphore};

use self::{
    challenge::{Challenges, DnsNode},
    crash::point,
    due::{By, Known},
    failure::Failure,
    names::Names,
    order::Ordering,
};
use crate::{
    home::seconds,
    journal::{
        Issued, Journal, JournalError,
        acme::{Cost, Failed, Order, Step},
    },
    pair,
};

/// Sites that are seen to at once: authorities count requests per second, and one slow validation must not hold all others.
const AT_ONCE: usize = 4;

/// What orders certificates.
#[derive(Debug)]
pub struct Acme {
    journal: Arc<Journal>,
    challenges: Challenges,
    turns: Semaphore,
    /// One attempt per site at a time.
    sites: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Orders whose challenges must stay.
    busy: Mutex<BTreeSet<i64>>,
    wake: Notify,
    issued: Counter,
    failures: Counter,
}

/// What an attempt works with: a configuration as it was published, and the DNS nodes of it.
#[derive(Clone, Debug)]
pub struct Desk {
    /// The configuration.
    pub config: Config,
    /// Who answers challenges.
    pub nodes: Vec<DnsNode>,
}

/// Why a site's orders failed at all its authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One per authority that was tried.
    pub reasons: Vec<String>,
    /// Whether none was tried: all are to be left alone for now.
    pub waits: bool,
}

impl Acme {
    /// On a journal.
    pub fn new(journal: Arc<Journal>) -> Self {
        Self {
            challenges: Challenges::new(Arc::clone(&journal)),
            journal,
            turns: Semaphore::new(AT_ONCE),
            sites: Mutex::default(),
            busy: Mutex::default(),
            wake: Notify::new(),
            issued: Counter::default(),
            failures: Counter::default(),
        }
    }

    /// Registers its metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("acme_issued", "Certificates that authorities issued", self.issued.clone());
        registry.register("acme_failures", "Attempts to order one that failed", self.failures.clone());
    }

    /// Looks again at once: the configuration changed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Sites that order, and what they say of it.
    pub fn sites(config: &Config) -> impl Iterator<Item = (&Site, &SiteAcme)> {
        config.sites.values().filter_map(|site| match &site.tls {
            Some(SiteTls::Acme(wishes)) => Some((site, &**wishes)),
            _ => None,
        })
    }

    /// When a site's certificate is to be ordered: now (0) where it has none for its hosts from an authority.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn due(&self, site: &Site) -> Result<u64, JournalError> {
        let Some(kept) = self.journal.certificate(&site.name)? else { return Ok(0) };
        // One that was begun is brought to its end, due or not.
        if self.journal.open_acme_orders()?.iter().any(|order| order.site == site.name) {
            return Ok(0);
        }
        let sha256 = Sha256::of(kept.chain.as_bytes()).to_string();
        let origin = self.journal.acme_origin(&site.name)?.filter(|origin| origin.sha256 == sha256);
        Ok(match origin {
            Some(origin) if kept.hosts == site.hosts && !origin.revoked => due::renewal(&Known {
                not_before: kept.not_before,
                not_after: kept.not_after,
                window: origin.window,
                salt: due::salt(&format!("{}{sha256}", site.name)),
            }),
            _ => 0,
        })
    }

    /// When the next attempt for a site may be made, as its failures at all its authorities say.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn may_try(&self, site: &str, wishes: &SiteAcme) -> Result<u64, JournalError> {
        let mut first = u64::MAX;
        for directory in &wishes.directories {
            let failures = self.journal.acme_failures(site, directory)?;
            first = first.min(due::retry(&failures, due::salt(site), By::Itself));
        }
        Ok(first)
    }

    /// Orders a site's certificate from the first of its authorities that issues it, and keeps it.
    ///
    /// # Errors
    /// [`Trouble`]: what each of them said.
    pub async fn attempt(
        &self,
        desk: &Desk,
        site: &Site,
        wishes: &SiteAcme,
        by: By,
    ) -> Result<Issued, Trouble> {
        let told = |error: JournalError| Trouble { reasons: vec![error.to_string()], waits: false };
        let before = self.journal.certificate(&site.name).map_err(told)?;
        let own = Arc::clone(self.sites.lock().entry(site.name.clone()).or_default());
        let _one = own.lock().await;
        // Whoever held the lock may have brought what is wanted: another order would be one too many.
        if let Some(kept) = self.journal.certificate(&site.name).map_err(told)? {
            let due = self.due(site).map_err(told)? <= seconds(SystemTime::now());
            let brought = before.as_ref() != Some(&kept);
            if !due && (brought || by == By::Itself) {
                return Ok(kept);
            }
        }
        // Closed by nobody.
        let _turn = self.turns.acquire().await;
        let names = Names::load(&desk.config);
        let mut trouble = Trouble { reasons: Vec::new(), waits: true };
        for directory in wishes.directories.iter().filter_map(|name| desk.config.acme.directory(name)) {
            let now = seconds(SystemTime::now());
            let failures = self.journal.acme_failures(&site.name, &directory.name).map_err(told)?;
            let again = due::retry(&failures, due::salt(&site.name), by);
            if again > now {
                trouble.reasons.push(format!(
                    "{}: failed lately, is asked again in {} s",
                    directory.name,
                    again - now
                ));
                continue;
            }
            trouble.waits = false;
            match self.at(desk, &names, site, wishes, directory).await {
                Ok(issued) => {
                    self.issued.inc();
                    return Ok(issued);
                }
                Err((failure, cost)) => {
                    self.failures.inc();
                    let reason = format!("{}: {failure}", directory.name);
                    tracing::warn!(site = site.name, "no certificate from {reason}");
                    let failed = Failed { at: seconds(SystemTime::now()), cost };
                    self.journal
                        .keep_acme_failure(&site.name, &directory.name, failed, &reason)
                        .map_err(told)?;
                    trouble.reasons.push(reason);
                    // What is wrong here is wrong for every authority.
                    if matches!(failure, Failure::Here(_)) {
                        break;
                    }
                }
            }
        }
        Err(trouble)
    }

    /// One attempt at one authority. With the failure comes what it cost.
    async fn at(
        &self,
        desk: &Desk,
        names: &Names,
        site: &Site,
        wishes: &SiteAcme,
        directory: &Directory,
    ) -> Result<Issued, (Failure, Cost)> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut order =
                self.order(site, wishes, directory).map_err(|failure| (failure, Cost::Nothing))?;
            let driven = {
                let _busy = self.busy(order.number);
                self.drive(desk, names, wishes, directory, &mut order).await
            };
            self.clean(&desk.nodes).await;
            let failure = match driven {
                Ok(issued) => return Ok(issued),
                Err(failure) => failure,
            };
            let cost = match failure {
                Failure::Here(_) => Cost::Nothing,
                Failure::Refused(_) if order.step >= Step::Validating => Cost::Validated,
                _ => Cost::Asked,
            };
            if matches!(failure, Failure::Refused(_) | Failure::Unknown(_)) {
                order.step = Step::Failed;
            }
            let kept = self.journal.step_acme_order(&order, Some(&failure.to_string()));
            kept.map_err(|error| (error.into(), cost))?;
            // The authority has forgotten the order, or us: once, all begins anew.
            if !matches!(failure, Failure::Unknown(_)) || tries > 1 {
                return Err((failure, cost));
            }
            account::forget(&self.journal, &directory.url).map_err(|failure| (failure, cost))?;
        }
    }

    /// Keeps an order's challenges out for as long as the guard lives.
    fn busy(&self, number: i64) -> Busy<'_> {
        self.busy.lock().insert(number);
        Busy { acme: self, number }
    }

    /// The order that is open for this site there, or a new one with a new key.
    fn order(&self, site: &Site, wishes: &SiteAcme, directory: &Directory) -> Result<Order, Failure> {
        for mut order in self.journal.open_acme_orders()? {
            if order.site != site.name || order.directory != directory.url {
                continue;
            }
            if order.hosts == site.hosts {
                return Ok(order);
            }
            order.step = Step::Failed;
            self.journal.step_acme_order(&order, Some("the site has other hosts now"))?;
        }
        let key = order::new_key(wishes.key)?;
        let now = seconds(SystemTime::now());
        Ok(self.journal.begin_acme_order(&site.name, &site.hosts, &directory.url, &key, now)?)
    }

    async fn drive(
        &self,
        desk: &Desk,
        names: &Names,
        wishes: &SiteAcme,
        directory: &Directory,
        order: &mut Order,
    ) -> Result<Issued, Failure> {
        let opened = account::open(&self.journal, directory).await?;
        let replaces = match opened.wire.directory.has_renewal_info() {
            true => self.renewal_id(&order.site, &directory.name)?,
            false => None,
        };
        let ordering = Ordering {
            journal: &self.journal,
            directory,
            opened: &opened,
            names,
            challenges: &self.challenges,
            nodes: &desk.nodes,
            wishes,
            replaces,
        };
        let issued = ordering.drive(order).await?;
        let sha256 = Sha256::of(issued.chain.as_bytes()).to_string();
        let now = seconds(SystemTime::now());
        self.journal.finish_acme_order(order, &issued, &directory.name, &sha256, now)?;
        order.step = Step::Done;
        tracing::info!(
            site = order.site,
            directory = directory.name,
            not_after = issued.not_after,
            "has a new certificate"
        );
        point("kept");
        Ok(issued)
    }

    /// What names a site's certificate to the authority it came from.
    fn renewal_id(&self, site: &str, directory: &str) -> Result<Option<String>, Failure> {
        let from_there = self.journal.acme_origin(site)?.is_some_and(|origin| origin.directory == directory);
        let kept = self.journal.certificate(site)?.filter(|_| from_there);
        Ok(kept.and_then(|kept| {
            let chain = pair::read_chain(&kept.chain).ok()?;
            pair::describe(chain.first()?).ok()?.renewal_id
        }))
    }

    /// Takes challenges of orders that are not under way off the nodes.
    pub async fn clean(&self, nodes: &[DnsNode]) {
        let busy = self.busy.lock().clone();
        if let Err(error) = self.challenges.withdraw(nodes, |number| busy.contains(&number)).await {
            tracing::warn!(%error, "challenges were not withdrawn");
        }
    }

    /// Asks the authority of a site's certificate when it wants it renewed, if it is time to ask. `true`: it was asked.
    ///
    /// # Errors
    /// [`Failure`]; it is asked again in an hour.
    pub async fn look(&self, config: &Config, site: &Site) -> Result<bool, Failure> {
        let now = seconds(SystemTime::now());
        let Some(origin) = self.journal.acme_origin(&site.name)?.filter(|origin| origin.look <= now) else {
            return Ok(false);
        };
        // If anything fails from here on, it is not tried at every look.
        self.journal.keep_acme_window(&site.name, origin.window, now + LOOK_AGAIN_SECS)?;
        let Some(directory) = config.acme.directory(&origin.directory) else { return Ok(false) };
        let Some(id) = self.renewal_id(&site.name, &origin.directory)? else { return Ok(false) };
        let opened = wire::Wire::open(
            http::Http::new(directory.ca.as_deref()).map_err(Failure::Here)?,
            &directory.url,
        )
        .await?;
        if let Some((window, again)) = opened.renewal(&id).await? {
            self.journal.keep_acme_window(&site.name, Some((window.start, window.end)), now + again)?;
        }
        Ok(true)
    }

    /// Revokes a site's certificate at the authority it came from.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn revoke(&self, config: &Config, site: &str, reason: RevocationReason) -> Result<(), Failure> {
        let here = |reason: &str| Failure::Here(format!("site {site}: {reason}"));
        let kept = self.journal.certificate(site)?.ok_or_else(|| here("has no certificate"))?;
        let sha256 = Sha256::of(kept.chain.as_bytes()).to_string();
        let origin = self.journal.acme_origin(site)?.filter(|origin| origin.sha256 == sha256);
        let origin = origin.ok_or_else(|| here("its certificate is not from an authority in [acme]"))?;
        let directory = config.acme.directory(&origin.directory);
        let directory =
            directory.ok_or_else(|| here(&format!("[acme.directory.{}] is gone", origin.directory)))?;
        let chain = pair::read_chain(&kept.chain).map_err(Failure::Here)?;
        let opened = account::open(&self.journal, directory).await?;
        let request = RevocationRequest { certificate: &chain[0], reason: Some(reason) };
        match opened.account.revoke(&request).await.map_err(Failure::from) {
            Err(failure) if !failure.to_string().contains("alreadyRevoked") => Err(failure),
            _ => Ok(self.journal.keep_acme_revoked(site)?),
        }
    }

    /// Gives our account at an authority another key.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn rotate_key(&self, directory: &Directory) -> Result<(), Failure> {
        account::rotate(&self.journal, directory).await
    }
}

/// An order that is under way. Its end wakes who follows: whoever asked for it may have gone away in the middle.
struct Busy<'a> {
    acme: &'a Acme,
    number: i64,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.acme.busy.lock().remove(&self.number);
        self.acme.wake();
    }
}

/// When asking about renewal failed, and where an authority does not tell.
const LOOK_AGAIN_SECS: u64 = 6 * 3_600;
