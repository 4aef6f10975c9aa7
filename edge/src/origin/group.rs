//! The origins of a site: one, or several as one.
//!
//! [`Origins::fetch`] asks them in the order that [`super::choose`] gives, lets [`super::health`] know how each
//! request ended, and goes on to the next one where that cannot do harm: a request that was never sent may go
//! anywhere; a GET or HEAD that got no answer (or, where the fleet file says so, a 5xx) is asked again of
//! another origin, within a budget. Nothing else is ever asked twice.
//!
//! A site with one origin and no `balance` goes straight to it: no choice, no health, no lock.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{Method, Request, Response, request::Parts};
use nearside_fleet::config::{self, Spread};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    body::{FetchBody, SendBody},
    budget::Budget,
    choose::{self, ATTEMPTS_MAX, By, Candidate, Order, Repeat, hash_of},
    circuit::Admit,
    error::FetchError,
    exchange::{Failed, Origin},
    health::{self, Change, Ending, Health, Shown},
    storage::{Secret, SetupError},
    trust::Trust,
};
use crate::place::{Places, Rules};

/// What of a request decides which origin it goes to.
pub struct For<'a> {
    /// The cache key.
    pub key: &'a str,
    /// Who asks.
    pub client: IpAddr,
    /// The origins that a rule of the site names, by their positions; no others are asked.
    pub listed: Option<&'a [usize]>,
}

/// What an origin's settings name by file.
pub struct Credentials {
    /// By whom it is trusted.
    pub trust: Trust,
    /// What its storage is asked with.
    pub secret: Option<Secret>,
}

/// See the module.
#[derive(Clone)]
pub enum Origins {
    /// The only one, without a balance.
    One(Arc<Origin>),
    /// Several, or one with a balance.
    Several(Arc<Group>),
}

impl Origins {
    /// Of a site's settings; what has not changed since `last` is kept, with its connections and what is known
    /// of its health. `credentials` are the origins' own, in their order.
    ///
    /// # Errors
    /// [`SetupError`] where what is said of storage makes no address.
    pub fn new(
        site: &config::Site,
        credentials: Vec<Credentials>,
        places: &Arc<Places>,
        last: Option<&Origins>,
    ) -> Result<Origins, SetupError> {
        let kept = |settings: &config::Origin, known: &Credentials| {
            let serves = |origin: &&Arc<Origin>| origin.serves(settings, &known.trust, known.secret.as_ref());
            last.and_then(|last| last.iter().find(serves).cloned())
        };
        let origins: Vec<Arc<Origin>> = site
            .origins
            .iter()
            .zip(credentials)
            .map(|(settings, known)| match kept(settings, &known) {
                Some(origin) => Ok(origin),
                None => Origin::new(settings.clone(), known.trust, known.secret),
            })
            .collect::<Result<_, _>>()?;
        Ok(match (&site.balance, &origins[..]) {
            (None, [only]) => Origins::One(only.clone()),
            (balance, _) => {
                let balance = balance.clone().unwrap_or_default();
                Origins::Several(Arc::new(Group::new(&site.name, balance, origins, places, last)))
            }
        })
    }

    /// All of them, as configured.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Origin>> {
        let (one, several) = match self {
            Origins::One(origin) => (Some(origin), &[][..]),
            Origins::Several(group) => (None, &group.members[..]),
        };
        one.into_iter().chain(several.iter().map(|member| &member.origin))
    }

    /// Those that are chosen from.
    pub fn group(&self) -> Option<&Arc<Group>> {
        match self {
            Origins::One(_) => None,
            Origins::Several(group) => Some(group),
        }
    }

    /// The longest a fetch may take to its response head, everything included.
    pub fn head_deadline(&self) -> Duration {
        let attempts = match self {
            Origins::One(_) => 1,
            Origins::Several(group) => group.members.len().min(ATTEMPTS_MAX) as u32,
        };
        self.iter().map(|origin| origin.head_deadline()).max().unwrap_or_default() * attempts
    }

    /// Sends a request whose target is in origin form and whose `Host` is the client's.
    ///
    /// # Errors
    /// Every [`FetchError`]: of the origin that was asked last, or of the one whose answer was worth most.
    pub async fn fetch(
        &self,
        request: Request<SendBody>,
        asked: &For<'_>,
    ) -> Result<Response<FetchBody>, FetchError> {
        let (head, body) = request.into_parts();
        match self {
            Origins::One(origin) => origin.send(&head, body).await.map_err(|failed| failed.error),
            Origins::Several(group) => group.fetch(&head, body, asked).await,
        }
    }
}

/// One origin of several.
pub struct Member {
    /// The origin.
    pub origin: Arc<Origin>,
    under_way: Arc<AtomicU32>,
    seed: u64,
}

/// Requests under way at an origin: one more until dropped.
pub struct Load(Arc<AtomicU32>);

impl Load {
    fn new(under_way: &Arc<AtomicU32>) -> Self {
        under_way.fetch_add(1, Relaxed);
        Load(under_way.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Counters of a group, read by metrics.
#[derive(Default)]
pub struct GroupStats {
    /// Requests that went on to another origin.
    pub failovers: AtomicU64,
    /// Those that would have, had the budget allowed it.
    pub budget_exhausted: AtomicU64,
    /// Circuits opened.
    pub opened: AtomicU64,
    /// Ejections.
    pub ejected: AtomicU64,
}

/// Several origins as one.
pub struct Group {
    site: String,
    balance: config::Balance,
    members: Vec<Member>,
    health: Mutex<Health>,
    rules: Option<Rules>,
    requests: AtomicU64,
    counted: AtomicU64,
    budget: Mutex<Budget>,
    /// For metrics.
    pub stats: Arc<GroupStats>,
}

impl Group {
    fn new(
        site: &str,
        balance: config::Balance,
        origins: Vec<Arc<Origin>>,
        places: &Arc<Places>,
        last: Option<&Origins>,
    ) -> Self {
        let last = last.and_then(Origins::group);
        let known = |origin: &Arc<Origin>| {
            let position = last?.members.iter().position(|member| Arc::ptr_eq(&member.origin, origin))?;
            Some((last?, position))
        };
        let health = origins.iter().map(|origin| match known(origin) {
            // What other checks found is not what these would.
            Some((last, _)) if last.balance.check != balance.check => health::Member::default(),
            Some((last, position)) => last.health.lock().member(position),
            None => health::Member::default(),
        });
        let health = Mutex::new(Health::new(&balance, health.collect()));
        let members = origins.into_iter().map(|origin| Member {
            under_way: known(&origin)
                .map_or_else(Arc::default, |(last, position)| last.members[position].under_way.clone()),
            seed: hash_of(&origin.settings().name),
            origin,
        });
        let rules = match &balance.strategy {
            Spread::Rules(rules) => Some(Rules::new(rules, places)),
            _ => None,
        };
        Group {
            site: site.to_owned(),
            members: members.collect(),
            health,
            rules,
            requests: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            budget: Mutex::new(Budget::new(balance.retry_budget_percent, balance.retries_min)),
            stats: last.map_or_else(Arc::default, |last| last.stats.clone()),
            balance,
        }
    }

    /// As configured.
    pub fn balance(&self) -> &config::Balance {
        &self.balance
    }

    /// Each origin, its requests under way, how it is.
    pub fn shown(&self) -> Vec<(&Arc<Origin>, u32, Shown)> {
        let now = Instant::now();
        let health = self.health.lock();
        self.members
            .iter()
            .enumerate()
            .map(|(position, member)| {
                (&member.origin, member.under_way.load(Relaxed), health.shown(position, now))
            })
            .collect()
    }

    /// One of them, by its place in the configuration.
    pub fn origin(&self, position: usize) -> Option<&Arc<Origin>> {
        self.members.get(position).map(|member| &member.origin)
    }

    /// Notes how a check ended.
    pub fn checked(&self, position: usize, result: Result<(), String>) {
        let Some(check) = &self.balance.check else { return };
        let reason = result.as_ref().err().cloned();
        let change = self.health.lock().checked(position, result, check);
        self.say(position, change, reason.as_deref().unwrap_or(""));
    }

    fn order(&self, asked: &For<'_>, repeat: Repeat) -> Order {
        let now = Instant::now();
        let health = self.health.lock();
        let candidates: SmallVec<[Candidate; 4]> = self
            .members
            .iter()
            .enumerate()
            .map(|(position, member)| Candidate {
                weight: member.origin.settings().weight,
                is_backup: member.origin.settings().backup,
                under_way: member.under_way.load(Relaxed),
                standing: health.standing(position, now),
                seed: member.seed,
            })
            .collect();
        drop(health);
        let by = match &self.balance.strategy {
            _ if asked.listed.is_some() => asked.listed.map_or(By::Position, By::Listed),
            Spread::Ordered => By::Position,
            Spread::Weighted => By::Chance(fastrand::u64(..)),
            Spread::Hash => {
                By::Key { hash: hash_of(asked.key), load_max_percent: self.balance.load_max_percent }
            }
            Spread::Rules(_) => {
                let rule = self.rules.as_ref().and_then(|rules| rules.of(asked.client));
                rule.map_or(By::Position, By::Listed)
            }
        };
        choose::order(&candidates, by, repeat)
    }

    async fn fetch(
        &self,
        head: &Parts,
        body: SendBody,
        asked: &For<'_>,
    ) -> Result<Response<FetchBody>, FetchError> {
        self.requests.fetch_add(1, Relaxed);
        let is_harmless = matches!(head.method, Method::GET | Method::HEAD) && body.is_empty();
        let order = self.order(asked, if is_harmless { Repeat::Can } else { Repeat::Cannot });
        let mut body = Some(body);
        let mut held = None;
        let mut last = FetchError::CircuitOpen;
        for (attempt, &position) in order.iter().enumerate() {
            let Some(sending) = body.take() else { break };
            let Some(attempted) = self.attempt(position, head, sending).await else {
                // Somebody else's trial came first.
                body = is_harmless.then_some(SendBody::Empty);
                continue;
            };
            let is_last = attempt + 1 == order.len();
            match attempted {
                Ok(response) => {
                    let goes_on = is_harmless && !is_last && self.balance.failover_on.errors;
                    if !goes_on || !is_error(&response) || !self.may_repeat() {
                        return Ok(response);
                    }
                    // As good an answer as any, if nobody has a better one.
                    held = Some(response);
                    body = Some(SendBody::Empty);
                }
                Err(Failed { error, unsent }) => {
                    let is_allowed = self.goes_on(&error);
                    body = match unsent {
                        // What no origin has seen costs none of them anything: no budget.
                        Some(unsent) if is_allowed => Some(unsent),
                        None if is_allowed && is_harmless && !is_last && self.may_repeat() => {
                            Some(SendBody::Empty)
                        }
                        _ => None,
                    };
                    last = error;
                }
            }
            if body.is_some() && !is_last {
                self.stats.failovers.fetch_add(1, Relaxed);
                tracing::debug!(
                    site = self.site,
                    origin = self.members[position].origin.settings().name,
                    "request goes on to the next origin"
                );
            }
        }
        held.ok_or(last)
    }

    /// One try at one origin. `None`: its circuit is open after all.
    async fn attempt(
        &self,
        position: usize,
        head: &Parts,
        body: SendBody,
    ) -> Option<Result<Response<FetchBody>, Failed>> {
        let member = self.members.get(position)?;
        let admitted = self.health.lock().admit(position, Instant::now());
        if admitted == Admit::No {
            return None;
        }
        let mut under_trial = UnderWay { group: self, position, admitted, is_told: false };
        let load = Load::new(&member.under_way);
        let result = member.origin.send(head, body).await;
        let (ending, reason) = match &result {
            Ok(response) if response.status().is_server_error() => (Ending::Error, "5xx"),
            Ok(_) => (Ending::Answer, ""),
            Err(failed) => (ending_of(&failed.error), failed.error.reason()),
        };
        under_trial.tell(ending, reason);
        Some(result.map(|response| response.map(|body| body.loading(load))))
    }

    fn goes_on(&self, error: &FetchError) -> bool {
        let on = &self.balance.failover_on;
        match error {
            FetchError::FirstByteTimeout(_) => on.timeout,
            FetchError::Closed(_) | FetchError::Malformed(_) => on.closed,
            error => error.is_unsent() && on.connect,
        }
    }

    fn may_repeat(&self) -> bool {
        let requests = self.requests.load(Relaxed);
        let before = self.counted.swap(requests, Relaxed);
        let may = self.budget.lock().take(requests.saturating_sub(before), Instant::now());
        if !may {
            self.stats.budget_exhausted.fetch_add(1, Relaxed);
        }
        may
    }

    /// A line per change, where it is noticed.
    fn say(&self, position: usize, change: Option<Change>, reason: &str) {
        let Some((change, member)) = change.zip(self.members.get(position)) else { return };
        let (site, origin) = (&self.site, &member.origin.settings().name);
        match change {
            Change::Up => tracing::info!(site, origin, "origin is up"),
            Change::Down => tracing::warn!(site, origin, reason, "origin is down: its checks fail"),
            Change::Closed => tracing::info!(site, origin, "origin answers again"),
            Change::Opened => {
                self.stats.opened.fetch_add(1, Relaxed);
                tracing::warn!(site, origin, reason, "origin does not answer: it is not asked for a while");
            }
            Change::Ejected(time) => {
                self.stats.ejected.fetch_add(1, Relaxed);
                tracing::warn!(site, origin, reason, ?time, "origin is left out: too many errors");
            }
        }
    }
}

/// A request at an origin whose end the health waits for. Dropped untold (its client left), it says nothing.
struct UnderWay<'a> {
    group: &'a Group,
    position: usize,
    admitted: Admit,
    is_told: bool,
}

impl UnderWay<'_> {
    fn tell(&mut self, ending: Ending, reason: &str) {
        self.is_told = true;
        let change = self.group.health.lock().answered(self.position, self.admitted, ending, Instant::now());
        self.group.say(self.position, change, reason);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.tell(Ending::Nothing, "");
        }
    }
}

fn is_error(response: &Response<FetchBody>) -> bool {
    matches!(response.status().as_u16(), 500 | 502 | 503 | 504)
}

fn ending_of(error: &FetchError) -> Ending {
    match error {
        // Ours to answer for: the queue, the client's body, a request that can't be written down.
        FetchError::QueueFull
        | FetchError::QueueTimeout(_)
        | FetchError::CircuitOpen
        | FetchError::Unsendable(_)
        | FetchError::RequestBody(_) => Ending::Nothing,
        FetchError::Storage(error) if error.is_the_clients() => Ending::Nothing,
        FetchError::Storage(_) => Ending::Error,
        _ => Ending::Silence,
    }
}
