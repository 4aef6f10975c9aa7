//! Other PoPs between this one and the origin, so that the whole fleet asks the origin once.
//!
//! A shield is chosen by consistent hash of the cache key with bounded load, alike at every edge; if that is this edge
//! itself, or none answers, the origin is asked from here. Only GET and HEAD without content go through: what must
//! reach the origin once is not passed around. A request that came from another edge never goes to a shield, so
//! there is no path longer than edge, shield, origin, and no loop.
//!
//! **Purges.** An edge that was purged must not be filled again by a shield that was not yet. It says with its
//! request which purge of the fleet's sequence is the newest it has seen, durable or not; a shield that is behind says
//! so instead of answering, and the origin is asked. Purges of one edge alone (through its own control interface) have no number: purge
//! the shields first.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, Method, Request, Response, request::Parts};
use nearside_fleet::config;
use nearside_node::{
    identity::RevokedList,
    tls::{Credentials, node_host},
};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    body::{FetchBody, SendBody},
    choose::{self, By, Candidate, Repeat, Standing, hash_of},
    circuit::{Admit, Breaker},
    error::FetchError,
    exchange::Origin,
    group::{For, Origins},
    storage::SetupError,
    trust::Trust,
};
use crate::rules::{ORDERS, VARIANT};

/// The newest purge of the fleet's sequence that the asking edge has seen.
pub const PURGED: HeaderName = HeaderName::from_static("nearside-purged");

/// What this edge's rules decided of a request, for a shield that does not apply them again.
#[derive(Clone)]
pub struct Orders {
    /// In words of [`crate::rules::ORDERS`].
    pub orders: HeaderValue,
    /// The variant.
    pub variant: Option<HeaderValue>,
}

/// What a shield says that will not answer, and why: [`BEHIND`].
pub const REFUSED: HeaderName = HeaderName::from_static("nearside-shield");

/// The shield has not seen all purges that the asking edge has.
pub const BEHIND: HeaderValue = HeaderValue::from_static("behind");

/// Percent of its fair share that a shield may have under way. Low values spread load and make the origin be asked by
/// more than one shield; this one moves keys only when a shield is far busier than the others.
const LOAD_MAX_PERCENT: u32 = 200;

/// Shields that one request asks. The second is where the key goes while the first is down, at every edge.
const ATTEMPTS_MAX: usize = 2;

/// A PoP of ours answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What a shield may take longer than the origin that it asks, so that its own 504 comes first.
const GRACE: Duration = Duration::from_secs(2);

/// Requests at once to one shield.
const CONNECTIONS_MAX: usize = 1024;

/// What this edge needs to know to fetch through others.
#[derive(Clone)]
pub struct Fleet {
    /// This node's name.
    pub node: String,
    /// By which edges know each other.
    pub credentials: Arc<Credentials>,
    /// Identities that are refused, as the fleet's CA says.
    pub revoked: Option<Arc<RevokedList>>,
    /// All PoPs.
    pub pops: Arc<std::collections::BTreeMap<String, config::Pop>>,
}

/// Counted for metrics.
#[derive(Default)]
pub struct ShieldStats {
    /// Requests that a shield answered.
    pub answered: AtomicU64,
    /// Requests that went to the origin because no shield answered.
    pub fell_back: AtomicU64,
    /// Answers refused by a shield that had missed a purge.
    pub behind: AtomicU64,
}

struct Shield {
    name: String,
    seed: u64,
    /// `None`: this edge.
    origin: Option<Arc<Origin>>,
    under_way: Arc<AtomicU32>,
    breaker: Arc<Mutex<Breaker>>,
}

/// The shields of a site.
pub struct Shields {
    members: Vec<Shield>,
    circuit: config::Circuit,
    /// For metrics.
    pub stats: Arc<ShieldStats>,
}

/// Marks a response that a shield gave, not an origin.
#[derive(Clone, Copy, Debug)]
pub struct ByShield;

impl Shields {
    /// Of a site's settings; connections and what is known of shields are kept from `last` where nothing changed. `None`
    /// for a site without shields.
    ///
    /// # Errors
    /// [`SetupError`] of an address that makes no origin.
    pub fn new(
        site: &config::Site,
        fleet: &Fleet,
        head_deadline: Duration,
        last: Option<&Shields>,
    ) -> Result<Option<Shields>, SetupError> {
        let trust = Trust::Fleet(fleet.credentials.clone());
        let mut members = Vec::new();
        for pop in site.shields.iter().filter_map(|name| fleet.pops.get(name)) {
            let known = last.and_then(|last| last.members.iter().find(|shield| shield.name == pop.name));
            let origin = match settings(pop, head_deadline).filter(|_| pop.name != fleet.node) {
                None => None,
                Some(settings) => {
                    let kept = known.and_then(|shield| shield.origin.as_ref());
                    Some(match kept.filter(|origin| origin.serves(&settings, &trust, None)) {
                        Some(origin) => origin.clone(),
                        None => Origin::new(settings, trust.clone(), None)?,
                    })
                }
            };
            members.push(Shield {
                name: pop.name.clone(),
                seed: hash_of(&pop.name),
                origin,
                under_way: known.map_or_else(Arc::default, |shield| shield.under_way.clone()),
                breaker: known.map_or_else(Arc::default, |shield| shield.breaker.clone()),
            });
        }
        let stats = last.map_or_else(Arc::default, |last| last.stats.clone());
        let circuit = config::Circuit { failures: 2, ..config::Circuit::default() };
        Ok((!members.is_empty()).then_some(Shields { members, circuit, stats }))
    }

    /// Sends a request through a shield, or to the origin where none answers. `purged` is the newest purge of
    /// the fleet's sequence that this edge has seen.
    ///
    /// # Errors
    /// Those of [`Origins::fetch`].
    pub async fn fetch(
        &self,
        request: Request<SendBody>,
        asked: &For<'_>,
        origins: &Origins,
        purged: u64,
    ) -> Result<Response<FetchBody>, FetchError> {
        let may = matches!(*request.method(), Method::GET | Method::HEAD) && request.body().is_empty();
        if !may {
            return origins.fetch(request, asked).await;
        }
        let (head, body) = request.into_parts();
        let mut through = head.clone();
        through.headers.insert(PURGED, HeaderValue::from(purged));
        if let Some(told) = head.extensions.get::<Orders>() {
            through.headers.insert(ORDERS, told.orders.clone());
            through.headers.extend(told.variant.clone().map(|variant| (VARIANT, variant)));
        }
        for shield in self.order(asked.key) {
            // The one that is to ask the origin for all is this edge.
            let Some(origin) = &shield.origin else {
                return self.ask_origin(head, body, asked, origins).await;
            };
            if let Some(mut response) = self.ask(shield, origin, &through).await {
                response.extensions_mut().insert(ByShield);
                return Ok(response);
            }
        }
        self.stats.fell_back.fetch_add(1, Relaxed);
        self.ask_origin(head, body, asked, origins).await
    }

    async fn ask_origin(
        &self,
        head: Parts,
        body: SendBody,
        asked: &For<'_>,
        origins: &Origins,
    ) -> Result<Response<FetchBody>, FetchError> {
        origins.fetch(Request::from_parts(head, body), asked).await
    }

    fn order(&self, key: &str) -> SmallVec<[&Shield; ATTEMPTS_MAX]> {
        let now = Instant::now();
        let candidates: SmallVec<[Candidate; 8]> = self
            .members
            .iter()
            .map(|shield| Candidate {
                weight: 1,
                is_backup: false,
                under_way: shield.under_way.load(Relaxed),
                standing: match shield.breaker.lock().would_admit(now) {
                    Admit::Yes => Standing::Good,
                    Admit::Trial => Standing::Trial,
                    Admit::No => Standing::Shut,
                },
                seed: shield.seed,
            })
            .collect();
        let by = By::Key { hash: hash_of(key), load_max_percent: LOAD_MAX_PERCENT };
        let order = choose::order(&candidates, by, Repeat::Can);
        order.into_iter().take(ATTEMPTS_MAX).map(|position| &self.members[position]).collect()
    }

    /// `None`: this shield gives no answer; another way may.
    async fn ask(&self, shield: &Shield, origin: &Origin, head: &Parts) -> Option<Response<FetchBody>> {
        let admitted = shield.breaker.lock().admit(Instant::now());
        if admitted == Admit::No {
            return None;
        }
        let mut trial = Trial { shield, admitted, is_open: true };
        shield.under_way.fetch_add(1, Relaxed);
        let answer = origin.send(head, SendBody::Empty).await;
        shield.under_way.fetch_sub(1, Relaxed);
        trial.is_open = false;
        match answer {
            Ok(response) => {
                shield.breaker.lock().succeeded(admitted);
                if response.headers().get(&REFUSED) == Some(&BEHIND) {
                    self.stats.behind.fetch_add(1, Relaxed);
                    return None;
                }
                self.stats.answered.fetch_add(1, Relaxed);
                Some(response)
            }
            Err(failed) => {
                tracing::warn!(shield = shield.name, error = %failed.error, "shield gave no answer");
                let opened = shield.breaker.lock().failed(admitted, &self.circuit, Instant::now());
                if opened {
                    tracing::warn!(shield = shield.name, "shield left alone for a while");
                }
                None
            }
        }
    }
}

/// Gives a trial back whose request was dropped midway.
struct Trial<'a> {
    shield: &'a Shield,
    admitted: Admit,
    is_open: bool,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.shield.under_way.fetch_sub(1, Relaxed);
            self.shield.breaker.lock().given_up(self.admitted);
        }
    }
}

/// How a PoP is reached as a shield; `None` where it can't be.
fn settings(pop: &config::Pop, head_deadline: Duration) -> Option<config::Origin> {
    let v4 = pop.ipv4.first().map(|&address| IpAddr::V4(address));
    let address: IpAddr = v4.or_else(|| pop.ipv6.first().map(|&address| IpAddr::V6(address)))?;
    let listen: SocketAddr = pop.shield?;
    let at = config::Origin::at(config::Scheme::Https, &address.to_string(), listen.port());
    Some(config::Origin {
        name: format!("shield {}", pop.name),
        sni: Some(node_host(&pop.name)),
        tls_min: config::TlsVersion::Tls13,
        connections_max: CONNECTIONS_MAX,
        connect_timeout: CONNECT_TIMEOUT,
        first_byte_timeout: head_deadline + GRACE,
        ..at
    })
}
