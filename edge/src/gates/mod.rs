//! Gates: who may ask a site, how often, and how much at once.
//!
//! Asked in a fixed order, cheapest first, each only of what the ones before it let in:
//!
//! ```text
//! secret → network → place → rate → concurrency → waf → signed URL → token
//! ```
//!
//! [`Gates`] are the gates of one site, compiled when a configuration is loaded; [`Gates::admit`] asks them and never
//! waits. What a gate finds is a [`Finding`]; here, and nowhere else, it becomes a refusal or (in `detect` mode) a
//! count, and a log line where one was asked for. Requests of other edges of the fleet are not asked again: the edge
//! that their client came to has done it.

pub mod bandwidth;
pub mod buckets;
pub mod concurrency;
pub mod cookies;
pub mod explain;
pub mod jwks;
pub mod jwt;
pub mod network;
pub mod paths;
pub mod place;
pub mod rate;
pub mod secret;
pub mod shared;
pub mod signed;
pub mod stats;
pub mod waf;
pub mod who;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use nearside_fleet::config::{self, gates::Acting, gates::Mode};

pub use self::{network::Lists, stats::GateStats};
use crate::{
    place::{Places, Seen},
    policy::status::CacheStatus,
    request::{Answer, Body, deliver},
    stats::Outcome,
};

/// A gate. The names are metric labels; the order is that in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// A secret that requests carry.
    Secret,
    /// Networks of clients.
    Network,
    /// Places of clients.
    Place,
    /// How often is asked.
    Rate,
    /// How much at once.
    Concurrency,
    /// What looks like an attack.
    Waf,
    /// Signatures of URLs and cookies.
    Signed,
    /// JSON Web Tokens.
    Jwt,
}

impl Gate {
    /// All of them, in the order of their numbers.
    pub const ALL: [Gate; 8] = [
        Gate::Secret,
        Gate::Network,
        Gate::Place,
        Gate::Rate,
        Gate::Concurrency,
        Gate::Waf,
        Gate::Signed,
        Gate::Jwt,
    ];

    /// The metric label.
    pub fn name(self) -> &'static str {
        match self {
            Gate::Secret => "secret",
            Gate::Network => "network",
            Gate::Place => "place",
            Gate::Rate => "rate",
            Gate::Concurrency => "concurrency",
            Gate::Waf => "waf",
            Gate::Signed => "signed",
            Gate::Jwt => "jwt",
        }
    }

    /// `detail` of `Cache-Status`, which a refused client sees.
    pub fn detail(self) -> &'static str {
        match self {
            Gate::Secret => "gate-secret",
            Gate::Network => "gate-network",
            Gate::Place => "gate-place",
            Gate::Rate => "gate-rate",
            Gate::Concurrency => "gate-concurrency",
            Gate::Waf => "gate-waf",
            Gate::Signed => "gate-signed",
            Gate::Jwt => "gate-jwt",
        }
    }
}

/// Why a gate objects to a request, and what the client is told if that counts.
#[derive(Debug)]
pub struct Finding {
    /// The answer's status.
    pub status: StatusCode,
    /// For the log; never shown to the client, never with a secret in it.
    pub why: String,
    /// Fields of the answer besides the usual ones.
    pub fields: HeaderMap,
    /// HTML to show; `None`: a line of text.
    pub page: Option<bytes::Bytes>,
}

impl Finding {
    /// A plain refusal.
    pub fn new(status: StatusCode, why: impl Into<String>) -> Box<Self> {
        Box::new(Finding { status, why: why.into(), fields: HeaderMap::new(), page: None })
    }
}

/// What a gate says: nothing, or why not.
pub type Judgement = Result<(), Box<Finding>>;

/// The gates of one site.
pub struct Gates {
    site: String,
    stats: Arc<GateStats>,
    secret: Option<secret::SecretGate>,
    network: Option<network::NetworkGate>,
    place: Option<place::PlaceGate>,
    rates: Option<rate::RateGates>,
    concurrency: Option<concurrency::ConcurrencyGate>,
    waf: Option<waf::WafGate>,
    bandwidth: Option<bandwidth::BandwidthGate>,
    signed: Option<signed::SignedGate>,
    jwt: Option<jwt::JwtGate>,
}

/// What gates are built with besides their settings.
pub struct Building<'b> {
    /// Of all sites.
    pub places: &'b Arc<Places>,
    /// Compiled lists of networks, kept from the last configuration where they have not changed.
    pub lists: &'b mut Lists,
    /// The same site's gates of the last configuration, whose counts go on.
    pub last: Option<&'b Gates>,
    /// Worker threads.
    pub workers: usize,
}

/// What was let in, and on which terms.
pub struct Admitted {
    gates: Arc<Gates>,
    client: IpAddr,
    at: Instant,
    told: rate::Told,
    flight: Option<concurrency::Flight>,
}

/// What holds for a response until its last byte is sent.
pub struct Terms {
    /// Its pace.
    pub throttle: Option<bandwidth::Throttle>,
    /// Its place among the client's.
    pub flight: Option<concurrency::Flight>,
}

impl Admitted {
    /// Puts its terms on the response: what is told of limits, the pace, and the place that is held until its end.
    pub fn dress(self, response: &mut Response<Body>) {
        if let Some(rates) = &self.gates.rates {
            rates.tell(&self.told, response.headers_mut());
        }
        let throttle = self.gates.bandwidth.as_ref().map(|gate| gate.throttle(self.client, self.at));
        if throttle.is_some() || self.flight.is_some() {
            response.body_mut().hold_terms(Terms { throttle, flight: self.flight });
        }
    }
}

/// A refusal.
pub struct Denied {
    gate: Gate,
    finding: Box<Finding>,
}

impl Gates {
    /// Compiles a site's gates; `None`: it has none.
    ///
    /// # Errors
    /// A file that can't be read or is no list, in words.
    pub fn build(site: &config::Site, with: &mut Building<'_>) -> Result<Option<Arc<Gates>>, String> {
        let asked = &site.gates;
        if asked.is_empty() {
            return Ok(None);
        }
        let network = asked.network.as_ref().map(|network| network::NetworkGate::build(network, with.lists));
        let place = asked.place.as_ref().map(|place| place::PlaceGate::build(place, with.places));
        let name = &site.name;
        let signed = asked.signed.as_ref().map(|signed| signed::SignedGate::build(name, signed));
        let last_jwt = with.last.and_then(|last| last.jwt.as_ref());
        let jwt = asked.jwt.as_ref().map(|jwt| jwt::JwtGate::build(name, jwt, last_jwt));
        Ok(Some(Arc::new(Gates {
            site: site.name.clone(),
            stats: with.last.map_or_else(|| GateStats::new(with.workers), |last| last.stats.clone()),
            secret: asked.secret.as_ref().map(secret::SecretGate::new),
            network: network.transpose()?,
            place: place.transpose()?,
            rates: rate::RateGates::new(
                &site.name,
                &asked.rates,
                with.last.and_then(|last| last.rates.as_ref()),
            ),
            concurrency: asked.concurrency.as_ref().map(|gate| {
                let last = with.last.and_then(|last| last.concurrency.as_ref());
                concurrency::ConcurrencyGate::new(gate, last)
            }),
            waf: asked.waf.as_ref().map(waf::WafGate::new).transpose()?,
            bandwidth: asked.bandwidth.as_ref().map(bandwidth::BandwidthGate::new),
            signed: signed.transpose()?,
            jwt: jwt.transpose()?,
        })))
    }

    /// What was found so far.
    pub fn stats(&self) -> &GateStats {
        &self.stats
    }

    /// Its rate limits, if it has some.
    pub fn rates(&self) -> Option<&rate::RateGates> {
        self.rates.as_ref()
    }

    /// Asks the gates of a request, which loses what was meant for them alone. Never waits.
    ///
    /// # Errors
    /// The first refusal.
    pub fn admit<B>(
        self: &Arc<Self>,
        request: &mut Request<B>,
        seen: &Seen<'_>,
        now: Instant,
    ) -> Result<Admitted, Denied> {
        if let Some(gate) = &self.secret {
            let judgement = gate.judge(request.headers());
            self.act(Gate::Secret, gate.acting, judgement, request, seen)?;
            gate.strip(request.headers_mut());
        }
        if let Some(gate) = &self.network {
            self.act(Gate::Network, gate.acting, gate.judge(seen.client()), request, seen)?;
        }
        if let Some(gate) = &self.place {
            self.act(Gate::Place, gate.acting, gate.judge(seen), request, seen)?;
        }
        let mut admitted = Admitted {
            gates: self.clone(),
            client: seen.client(),
            at: now,
            told: rate::Told::default(),
            flight: None,
        };
        if let Some(rates) = &self.rates {
            let object = |acting, finding| self.act(Gate::Rate, acting, Err(finding), request, seen);
            admitted.told = rates.take((request.uri(), request.headers()), seen, now, object)?;
        }
        if let Some(gate) = &self.concurrency {
            let (flight, judgement) = gate.take(seen.client());
            self.act(Gate::Concurrency, gate.acting, judgement, request, seen)?;
            admitted.flight = Some(flight);
        }
        if let Some(gate) = &self.waf {
            self.act(Gate::Waf, gate.acting, gate.judge(request.uri(), request.headers()), request, seen)?;
        }
        if let Some(gate) = &self.signed {
            let judgement = gate.judge(request, seen.client(), unix_now());
            self.act(Gate::Signed, gate.acting, judgement, request, seen)?;
            gate.strip(request);
        }
        if let Some(gate) = &self.jwt {
            let (told, judgement) = match gate.judge(request) {
                Ok(told) => (told, Ok(())),
                Err(finding) => (jwt::Told::default(), Err(finding)),
            };
            self.act(Gate::Jwt, gate.acting, judgement, request, seen)?;
            gate.strip(request, told);
        }
        Ok(admitted)
    }

    /// Whether what the origin answers on a normalised path is for the client alone that asked.
    pub fn is_private(&self, path: &str) -> bool {
        self.jwt.as_ref().is_some_and(|gate| gate.is_private(path))
    }

    /// The keys of tokens, where they are fetched.
    pub fn fetched_keys(&self) -> Option<Arc<jwks::Fetched>> {
        self.jwt.as_ref()?.fetched()
    }

    /// Counts and logs what a gate found, and lets it be a refusal or not.
    #[inline]
    fn act<B>(
        &self,
        gate: Gate,
        acting: Acting,
        judgement: Judgement,
        request: &Request<B>,
        seen: &Seen<'_>,
    ) -> Result<(), Denied> {
        match judgement {
            Ok(()) => Ok(()),
            Err(finding) => {
                self.found(gate, acting, finding, (request.method(), request.uri(), seen.client()))
            }
        }
    }

    #[cold]
    fn found(
        &self,
        gate: Gate,
        acting: Acting,
        finding: Box<Finding>,
        (method, uri, client): (&Method, &Uri, IpAddr),
    ) -> Result<(), Denied> {
        self.stats.found(gate, acting.mode);
        if acting.log && self.stats.may_log(crate::request::now().secs()) {
            // The query is not logged: it may carry signatures.
            tracing::info!(
                target: "gate",
                site = self.site,
                gate = gate.name(),
                refused = acting.mode == Mode::Enforce,
                %client,
                %method,
                path = uri.path(),
                why = finding.why,
            );
        }
        match acting.mode {
            Mode::Enforce => Err(Denied { gate, finding }),
            Mode::Detect => Ok(()),
        }
    }
}

/// Seconds since the Unix epoch.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Gives a request another query.
fn set_query<B>(request: &mut Request<B>, query: Option<&str>) {
    let path = request.uri().path();
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut parts = request.uri().clone().into_parts();
    // Pieces of a target that was one are one.
    if let Ok(target) = target.parse::<PathAndQuery>() {
        parts.path_and_query = Some(target);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

impl Denied {
    /// The gate that refused.
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// What the client is told.
    pub fn answer(self, method: &Method) -> Answer {
        let Denied { gate, finding } = self;
        let Finding { status, fields, page, .. } = *finding;
        let (content, kind) = match page {
            Some(page) => (page, "text/html; charset=utf-8"),
            None => (format!("{status}\n{}\n", gate.detail()).into(), "text/plain; charset=utf-8"),
        };
        let length = content.len();
        let body = if *method == Method::HEAD { Body::empty() } else { Body::whole(content) };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CONTENT_LENGTH, length.into());
        // Who was refused may be let in a moment later, and another client now.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::SERVER, HeaderValue::from_static("nearside"));
        headers.extend(fields);
        let account =
            CacheStatus { detail: Some(gate.detail()), ..CacheStatus::hit(Outcome::Local.policy(), 0) };
        deliver::append_account(headers, &CacheStatus { ttl_secs: None, ..account });
        Answer { response, outcome: Outcome::Local }
    }
}
