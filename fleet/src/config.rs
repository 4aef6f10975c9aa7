//! What the fleet file means: typed, immutable, validated once.
//!
//! [`Config`] is the only form the programs read. Nothing in it is a string that still has to be
//! understood: names are resolved to indices or keys of the same `Config`, addresses are parsed,
//! durations are [`Duration`]s, paths are absolute. It is built from the fleet file by
//! [`crate::load()`], which reports every mistake with line and column; it is never changed in place.

pub mod acme;
pub mod backup;
pub mod front;
pub mod gates;
mod rollout;
pub mod rules;
mod storage;
pub mod tokens;
pub mod transform;
pub mod webhook;

pub use self::rollout::Rollout;
pub use self::storage::{BucketStyle, Storage, StorageKind};

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use self::{
    front::{PopFront, SiteFront, TicketKeys},
    gates::{Gates, SharedLimits},
};

/// Name of a PoP, check, service, zone, site or DNS node: 1 to 63 of `a-z 0-9 - _ .`.
pub type Id = String;

/// The whole fleet, as one value.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The fleet's name; part of every snapshot, so that two fleets' messages never mix.
    pub fleet: String,
    /// Where addresses are.
    pub geoip: Geoip,
    /// Points of presence by name.
    pub pops: BTreeMap<Id, Pop>,
    /// DNS nodes by name (`[dns.NAME]`).
    pub dns: BTreeMap<Id, DnsNode>,
    /// Health checks by name.
    pub checks: BTreeMap<Id, Check>,
    /// Services by name: what a tailored name is answered with.
    pub services: BTreeMap<Id, Service>,
    /// Zones by origin, lower case, without the final dot (`cdn.test`; the root is `.`).
    pub zones: BTreeMap<String, Zone>,
    /// Sites by name.
    pub sites: BTreeMap<Id, Site>,
    /// The machine at home, if there is one.
    pub controller: Option<Controller>,
    /// Authorities that home orders certificates from.
    pub acme: acme::Acme,
    /// Keys of TLS session tickets.
    pub ticket_keys: TicketKeys,
    /// Where edges share what they count, if they do.
    pub shared_limits: Option<SharedLimits>,
}

/// Sources of geography, in order of precedence: operator's networks, then databases.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Geoip {
    /// `.mmdb` files, joined: for each attribute the first that knows it wins. Empty: the built-in table.
    pub databases: Vec<PathBuf>,
    /// The operator's own knowledge: these networks are where it says.
    pub networks: Vec<NetworkPlace>,
    /// Resolvers that stand for clients elsewhere.
    pub resolvers: Vec<ResolverPlace>,
}

/// `[[geoip.resolver]]`: where a resolver's address decides, another decides in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolverPlace {
    /// Network of the resolvers, host bits zero.
    pub network: IpAddr,
    /// Prefix length in bits.
    pub length: u8,
    /// Their clients are steered as this address is.
    pub place_as: IpAddr,
}

/// `[[geoip.network]]`: a network the operator places by hand.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkPlace {
    /// Network address, host bits zero.
    pub network: IpAddr,
    /// Prefix length in bits.
    pub length: u8,
    /// ISO 3166-1 alpha-2, upper case.
    pub country: Option<String>,
    /// Two-letter continent code (AF AN AS EU NA OC SA).
    pub continent: Option<String>,
    /// ISO 3166-2 subdivision without the country (`CA` for California).
    pub subdivision: Option<String>,
    /// Degrees north and degrees east.
    pub location: Option<Location>,
}

/// A point on the globe in decimal degrees (WGS 84).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Location {
    /// Degrees north, -90 to 90.
    pub latitude: f64,
    /// Degrees east, -180 to 180.
    pub longitude: f64,
}

/// `[pop.NAME]`: one point of presence.
#[derive(Clone, Debug, PartialEq)]
pub struct Pop {
    /// Its key in [`Config::pops`].
    pub name: Id,
    /// Where it is; distances start here.
    pub location: Location,
    /// Addresses put into A answers.
    pub ipv4: Vec<Ipv4Addr>,
    /// Addresses put into AAAA answers.
    pub ipv6: Vec<Ipv6Addr>,
    /// Plain HTTP listeners of its edge.
    pub http: Vec<SocketAddr>,
    /// TLS listeners of its edge (HTTP/1.1 and HTTP/2 by ALPN).
    pub https: Vec<SocketAddr>,
    /// Whether HTTP/3 is spoken on UDP at the addresses and ports of `https`.
    pub http3: bool,
    /// Where its edge serves other edges, which show their identities: what makes it a shield.
    pub shield: Option<SocketAddr>,
    /// Control listener of its edge (mutual TLS once the node has an identity).
    pub control: Option<SocketAddr>,
    /// Separate plain listener for `/metrics` only.
    pub metrics: Option<SocketAddr>,
    /// Subtracted from every distance to this PoP, in km: positive attracts, negative repels.
    pub bias_km: f64,
    /// Memory tier, bytes.
    pub memory_bytes_max: u64,
    /// Disk tier directory; `None` keeps everything in memory.
    pub cache_dir: Option<PathBuf>,
    /// Disk tier, bytes.
    pub disk_bytes_max: u64,
    /// Worker threads of the edge; `None`: one per core.
    pub workers: Option<usize>,
    /// What it asks of connections.
    pub front: PopFront,
}

/// `[dns.NAME]`: one authoritative server.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsNode {
    /// Its key in [`Config::dns`].
    pub name: Id,
    /// UDP and TCP listeners.
    pub listen: Vec<SocketAddr>,
    /// Encrypted listeners, if there are any.
    pub encrypted: Option<DnsEncrypted>,
    /// What `id.server` and NSID say; `None`: both go unanswered.
    pub id: Option<String>,
    /// What `version.bind` says; `None`: it is refused.
    pub version: Option<String>,
    /// Answers of one kind to one client network per second over UDP, at most 1000; `None`: no limit.
    pub rate_limit: Option<u16>,
    /// Control listener.
    pub control: Option<SocketAddr>,
    /// Separate plain listener for `/metrics` only.
    pub metrics: Option<SocketAddr>,
    /// Worker threads; `None`: one per core.
    pub workers: Option<usize>,
}

/// `[dns.NAME.encrypted]`: DNS over TLS, HTTPS and QUIC, all with one certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsEncrypted {
    /// DNS over TLS (RFC 7858), TCP.
    pub tls: Vec<SocketAddr>,
    /// DNS over HTTPS (RFC 8484), TCP; path `/dns-query`.
    pub https: Vec<SocketAddr>,
    /// DNS over QUIC (RFC 9250), UDP.
    pub quic: Vec<SocketAddr>,
    /// Chain, leaf first.
    pub certificate: PathBuf,
    /// PKCS#8, SEC1 or PKCS#1 key.
    pub key: PathBuf,
}

/// What a probe speaks.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// Connect, and that is all.
    Tcp,
    /// One GET in the clear.
    Http(HttpProbe),
    /// One GET over TLS; SNI is [`HttpProbe::host`].
    Https {
        /// The request and what is expected of its answer.
        http: HttpProbe,
        /// Whether the certificate is verified.
        verify: Verify,
    },
    /// A program of the node's own, run without a shell; exit code 0 is healthy.
    Exec {
        /// The program's absolute path, then its arguments; `{address}` and `{port}` are filled in.
        command: Vec<String>,
    },
}

/// How a probe judges a PoP's certificate.
#[derive(Clone, Debug, PartialEq)]
pub enum Verify {
    /// Not at all (the default: a health check asks whether clients are served, not by whom).
    No,
    /// Against the operating system's roots.
    System,
    /// Against this PEM file.
    Ca(PathBuf),
}

/// The request of an `http` or `https` probe.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    /// `Host` header and SNI; `None`: the address.
    pub host: Option<String>,
    /// Absolute path, with query if any.
    pub path: String,
    /// Inclusive range of healthy statuses.
    pub status: (u16, u16),
    /// A substring the first 64 KiB of the body must contain.
    pub body: Option<String>,
}

/// Which of a PoP's addresses a check connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeFamily {
    /// Every published address is probed and judged by itself (the default).
    Each,
    /// IPv4 addresses are probed; IPv6 addresses share the fate of the PoP's first IPv4 address.
    /// For DNS nodes without an IPv6 uplink.
    Ipv4,
    /// The other way round.
    Ipv6,
}

/// `[check.NAME]`: how a PoP shows that it is alive.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Its key in [`Config::checks`].
    pub name: Id,
    /// What is spoken.
    pub probe: Probe,
    /// Port on the PoP's address.
    pub port: u16,
    /// Which addresses are probed.
    pub family: ProbeFamily,
    /// Time from the start of one probe to the next, before jitter.
    pub interval: Duration,
    /// After this a probe has failed. Less than `interval`.
    pub timeout: Duration,
    /// Successes in a row that bring a PoP up.
    pub rise: u32,
    /// Failures in a row that bring it down.
    pub fall: u32,
    /// DNS nodes that must see an address down before it is; 1: each goes by its own probes.
    pub views: u32,
}

/// How a service orders its PoPs for a client.
#[derive(Clone, Debug, PartialEq)]
pub enum Strategy {
    /// By great-circle distance less the PoP's bias.
    Nearest,
    /// The order written in `pops`: the first healthy one serves everyone.
    Ordered,
    /// At random in proportion to the weights, stable per scope prefix. Same order as `pops`.
    Weighted(Vec<u32>),
    /// Consistent hash of the scope prefix.
    Hash,
    /// First matching rule; a client that matches none is served by `nearest`.
    Rules(Vec<Rule>),
}

/// One `[[service.NAME.rule]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Matches if any of these does.
    pub when: Vec<Match>,
    /// PoPs in order of preference, keys of [`Config::pops`]; never empty.
    pub pops: Vec<Id>,
}

/// What a rule looks at.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    /// Two-letter continent code.
    Continent(String),
    /// ISO 3166-1 alpha-2.
    Country(String),
    /// Country and ISO 3166-2 subdivision (`NA-US-CA`, `US-CA`).
    Subdivision {
        /// ISO 3166-1 alpha-2.
        country: String,
        /// Subdivision without the country.
        subdivision: String,
    },
    /// Autonomous system number.
    Asn(u32),
    /// Address and prefix length.
    Network(IpAddr, u8),
}

/// What a service answers when none of its PoPs is healthy.
#[derive(Clone, Debug, PartialEq)]
pub enum AllDown {
    /// The whole list in order of preference, said aloud (the default).
    All,
    /// NOERROR without an answer.
    NoData,
    /// These PoPs.
    Pops(Vec<Id>),
}

/// `[service.NAME]`: PoPs, an order, checks. Bound to names in `[zone.NAME.names]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its key in [`Config::services`].
    pub name: Id,
    /// Keys of [`Config::pops`]; never empty.
    pub pops: Vec<Id>,
    /// How they are ordered.
    pub strategy: Strategy,
    /// Keys of [`Config::checks`]; a PoP's address is up while all of them are.
    pub checks: Vec<Id>,
    /// PoPs put into one answer.
    pub answers: usize,
    /// PoPs kept per place, in order: the depth of fail-over before "all down". At least `answers`.
    pub candidates: usize,
    /// Bounds of an answer's TTL.
    pub ttl_min: Duration,
    /// Bounds of an answer's TTL.
    pub ttl_max: Duration,
    /// When nothing is up.
    pub all_down: AllDown,
    /// ALPN ids of the HTTPS record (`h2`, `h3`); empty: no HTTPS record is generated.
    pub alpn: Vec<String>,
    /// Load (1: all an edge has) above which a PoP is offered to fewer client networks; `None`: load is no
    /// reason.
    pub shed_above: Option<f64>,
}

/// `[zone."ORIGIN"]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Its key in [`Config::zones`].
    pub origin: String,
    /// RFC 1035 master file.
    pub file: PathBuf,
    /// Tailored names, relative to the origin (`@` is the apex, `*.img` a wildcard) → service.
    pub names: BTreeMap<String, Id>,
}

/// `[site.NAME]`: what an edge serves for some host names. The default has neither hosts nor origins: what remains of a
/// site is added to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Site {
    /// Its key in [`Config::sites`].
    pub name: Id,
    /// Host names, lower case; `*.example.org` matches one label.
    pub hosts: Vec<String>,
    /// Where content comes from, in order of preference; never empty.
    pub origins: Vec<Origin>,
    /// How one of them is chosen, and what happens when it fails. There for a site with several; with one
    /// only where the fleet file asks for it.
    pub balance: Option<Balance>,
    /// PoPs through which the others fetch, so that the origin is asked once for the whole fleet.
    pub shields: Vec<Id>,
    /// Certificate, if the site is served over TLS.
    pub tls: Option<SiteTls>,
    /// Whether clients may use HTTP/3 for it.
    pub http3: Http3,
    /// Caching rules of the site.
    pub cache: SiteCache,
    /// What it asks of connections.
    pub front: SiteFront,
    /// Who may ask it, and how often.
    pub gates: Gates,
    /// What a gigabyte (10^9 bytes) from its origin costs, where it is not what the fleet's do.
    pub price_per_gb: Option<f64>,
    /// What is made of its stored responses.
    pub transform: transform::SiteTransform,
    /// What it does to requests that meet conditions, in order.
    pub rules: Vec<rules::SiteRule>,
    /// Its clients in arms.
    pub splits: Vec<rules::Split>,
    /// What people see of errors.
    pub error_pages: rules::ErrorPages,
    /// Whose `X-Request-Id` is believed; others get one of ours.
    pub request_id_from: Vec<Network>,
}

impl Site {
    /// Files with its secrets, which are sealed for the edges: of its certificate, its origins and its gates.
    pub fn secret_files(&self) -> Vec<&Path> {
        let tls = match &self.tls {
            Some(SiteTls::Files { key, .. }) => Some(key.as_path()),
            _ => None,
        };
        let storage = self.origins.iter().filter_map(|origin| Some(origin.storage.as_ref()?.secret_file()));
        let signed = self.gates.signed.iter().map(|signed| signed.keys.as_path());
        let jwt = self.gates.jwt.iter().filter_map(tokens::Jwt::secret_file);
        tls.into_iter().chain(storage).chain(signed).chain(jwt).collect()
    }
}

/// Whether clients may use HTTP/3 for a site, and what they are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http3 {
    /// They may not, and never could: nothing is said of it.
    #[default]
    Never,
    /// They may no longer: what they remember of it is cleared.
    Off,
    /// They may, at PoPs that speak it, and may remember that for so long.
    On {
        /// `ma` of `Alt-Svc`.
        max_age: Duration,
    },
}

/// Where a site's certificate comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum SiteTls {
    /// PEM files: chain (leaf first) and private key.
    Files {
        /// Chain, leaf first.
        certificate: PathBuf,
        /// PKCS#8, SEC1 or PKCS#1 key.
        key: PathBuf,
    },
    /// Issued by the fleet's own CA at home and published.
    FleetCa,
    /// Ordered by home from a public authority and published.
    Acme(Box<acme::SiteAcme>),
    /// Handed to home by somebody else's client, checked and published.
    Import,
}

/// Scheme of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS, certificate verified.
    Https,
}

/// A network: address with zero host bits, and prefix length.
pub type Network = (IpAddr, u8);

/// `[site.NAME.origin]`, or one of `[[site.NAME.origin]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// What metrics, logs and rules call it; unique within its site.
    pub name: String,
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Its share beside the others, by weight or hash; 0: none while another is well.
    pub weight: u32,
    /// Asked only when no other is well.
    pub backup: bool,
    /// `Host` sent to the origin; `None`: the client's.
    pub host_header: Option<String>,
    /// Name asked for in the TLS handshake and verified in the certificate; `None`: [`Origin::host`].
    pub sni: Option<String>,
    /// Lowest version of TLS that is spoken.
    pub tls_min: TlsVersion,
    /// Whether HTTP/2 is spoken.
    pub http2: Http2,
    /// Requests at once from one PoP, so connections too: an HTTP/2 connection carries many.
    pub connections_max: usize,
    /// Limit for DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// From the request sent to the response head.
    pub first_byte_timeout: Duration,
    /// Between two reads of the body.
    pub between_bytes_timeout: Duration,
    /// PEM bundle that replaces the system's roots for this origin.
    pub ca: Option<PathBuf>,
    /// How long the addresses of its name are used before they are looked up again.
    pub resolve_interval: Duration,
    /// Networks its name may lead to although names may not lead there (loopback, link-local, metadata).
    pub allow_networks: Vec<Network>,
    /// By what the origin tells us from everyone else.
    pub secret_header: Option<SecretHeader>,
    /// Fields of clients that are passed on, lower case; `None`: all.
    pub request_headers: Option<Vec<String>>,
    /// Where redirects of this origin lead that are followed here.
    pub follow_redirects: Vec<UrlPrefix>,
    /// What is asked for there, where it is object storage and no web server.
    pub storage: Option<Storage>,
}

impl Origin {
    /// An origin of which nothing but its address was said.
    pub fn at(scheme: Scheme, host: &str, port: u16) -> Origin {
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        Origin {
            name: format!("{bracketed}:{port}"),
            scheme,
            host: host.to_owned(),
            port,
            weight: 1,
            backup: false,
            host_header: None,
            sni: None,
            tls_min: TlsVersion::Tls12,
            http2: Http2::No,
            connections_max: 64,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(30),
            between_bytes_timeout: Duration::from_secs(30),
            ca: None,
            resolve_interval: Duration::from_secs(30),
            allow_networks: Vec::new(),
            secret_header: None,
            request_headers: None,
            follow_redirects: Vec::new(),
            storage: None,
        }
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2.
    Tls12,
    /// 1.3.
    Tls13,
}

/// Whether HTTP/2 is spoken to an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2 {
    /// HTTP/1.1 alone.
    No,
    /// If the origin agrees in the TLS handshake (ALPN).
    Alpn,
    /// Without asking (RFC 9113 section 3.3), in the clear too.
    PriorKnowledge,
}

/// `secret_header` of an origin. While a secret is changed both values are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretHeader {
    /// Field name, lower case.
    pub name: String,
    /// The first is sent; all are accepted. Never empty.
    pub values: Vec<Secret>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The start of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPrefix {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host name or address, without brackets, lower case.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Start of the path, with its `/`.
    pub path: String,
}

/// `[site.NAME.balance]`: several origins as one.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// In which order they are asked.
    pub strategy: Spread,
    /// With [`Spread::Hash`]: requests under way at one origin, in percent of the average; more go to the next.
    pub load_max_percent: u32,
    /// What makes a request go on to the next origin.
    pub failover_on: FailoverOn,
    /// Requests that may be sent a second time, in percent of all.
    pub retry_budget_percent: u32,
    /// Such requests per second that are allowed however few requests there are.
    pub retries_min: u32,
    /// How origins are asked whether they are well, if they are.
    pub check: Option<OriginCheck>,
    /// When an origin that answers badly is left out for a while.
    pub eject: Eject,
    /// When an origin that does not answer is no longer asked.
    pub circuit: Circuit,
}

impl Default for Balance {
    fn default() -> Self {
        Balance {
            strategy: Spread::Ordered,
            load_max_percent: 125,
            failover_on: FailoverOn { connect: true, timeout: true, closed: true, errors: false },
            retry_budget_percent: 10,
            retries_min: 3,
            check: None,
            eject: Eject::default(),
            circuit: Circuit::default(),
        }
    }
}

/// How the origins of a site are ordered for a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Spread {
    /// As written: the first that is well gets everything.
    Ordered,
    /// At random by weight.
    Weighted,
    /// By consistent hash of the cache key and weight, with bounded load.
    Hash,
    /// By the first rule that matches the client; as written where none does.
    Rules(Vec<OriginRule>),
}

/// One `[[site.NAME.balance.rule]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct OriginRule {
    /// Matches if any of these does.
    pub when: Vec<Match>,
    /// Positions in [`Site::origins`], in order of preference; never empty. No others are asked.
    pub origins: Vec<usize>,
}

/// What makes a GET or HEAD, or any request that was never sent, go on to the next origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailoverOn {
    /// No connection.
    pub connect: bool,
    /// No response within `first_byte_timeout`.
    pub timeout: bool,
    /// The connection ended before a response, or what came was none.
    pub closed: bool,
    /// 500, 502, 503 or 504.
    pub errors: bool,
}

/// `[site.NAME.balance.check]`.
#[derive(Clone, Debug, PartialEq)]
pub struct OriginCheck {
    /// What is fetched.
    pub path: String,
    /// `Host`; `None`: the origin's `host_header`, or its own name.
    pub host: Option<String>,
    /// Inclusive range of healthy statuses.
    pub status: (u16, u16),
    /// From the start of one check to that of the next, before jitter.
    pub interval: Duration,
    /// After this a check has failed.
    pub timeout: Duration,
    /// Successes in a row that bring an origin up.
    pub rise: u32,
    /// Failures in a row that bring it down.
    pub fall: u32,
}

/// `[site.NAME.balance.eject]`: outlier ejection.
#[derive(Clone, Debug, PartialEq)]
pub struct Eject {
    /// Errors in a row that eject; 0: never.
    pub failures: u32,
    /// Errors (no answer, or 5xx) in percent of requests in ten seconds that eject; 0: never.
    pub ratio_percent: u32,
    /// Fewer requests in ten seconds prove nothing.
    pub requests_min: u32,
    /// For how long the first time; the next time twice as long, and so on.
    pub time: Duration,
    /// At most.
    pub time_max: Duration,
    /// Of the origins, in percent, ejected at once at most.
    pub share_max_percent: u32,
}

impl Default for Eject {
    fn default() -> Self {
        Eject {
            failures: 5,
            ratio_percent: 50,
            requests_min: 20,
            time: Duration::from_secs(10),
            time_max: Duration::from_secs(300),
            share_max_percent: 50,
        }
    }
}

/// `[site.NAME.balance.circuit]`: circuit breaker.
#[derive(Clone, Debug, PartialEq)]
pub struct Circuit {
    /// Requests in a row without an answer that open it; 0: never.
    pub failures: u32,
    /// How long it stays open the first time; twice as long after each trial that fails.
    pub open: Duration,
    /// At most.
    pub open_max: Duration,
}

impl Default for Circuit {
    fn default() -> Self {
        Circuit { failures: 5, open: Duration::from_secs(1), open_max: Duration::from_secs(30) }
    }
}

/// `[site.NAME.cache]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteCache {
    /// TTL where the origin gives none; `None`: what RFC 9111 allows, and nothing more.
    pub default_ttl: Option<Duration>,
    /// The same for errors that may be kept (404, 405, 410, 414, 451, 501).
    pub negative_ttl: Option<Duration>,
    /// `stale-while-revalidate` where the origin gives none.
    pub stale_while_revalidate: Duration,
    /// `stale-if-error` where the origin gives none.
    pub stale_if_error: Duration,
    /// Largest object that is stored, bytes.
    pub object_bytes_max: u64,
    /// Whether the query is part of the key, and how.
    pub query: QueryKey,
    /// A request that carries one of these cookies is neither answered from the cache nor stored.
    pub bypass_cookies: Vec<String>,
    /// What becomes of a response that sets a cookie and does not speak to shared caches.
    pub set_cookie: SetCookie,
    /// Request headers that join the key, of [`KEY_HEADERS`].
    pub key_headers: Vec<String>,
    /// What differs for some paths and statuses. For each of a rule's two effects, the first matching
    /// rule that has it counts.
    pub rules: Vec<CacheRule>,
}

/// Headers that may join the key: those of few values. One that tells visitors apart (`Cookie`,
/// `User-Agent`) would store everything once per visitor.
pub const KEY_HEADERS: &[&str] = &[
    "accept",
    "accept-encoding",
    "accept-language",
    "origin",
    "save-data",
    "sec-ch-ua-mobile",
    "x-forwarded-proto",
    "x-requested-with",
];

/// `[[site.NAME.cache.rule]]`: matches if everything it names does.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct CacheRule {
    /// Start of the path (`/static/`).
    pub path: Option<String>,
    /// What follows the last dot of the path's last segment, lower case; empty: anything.
    pub extensions: Vec<String>,
    /// Statuses; empty: any.
    pub statuses: Vec<u16>,
    /// Lifetime in place of the origin's. `no-store`, `private` and `no-cache` hold all the same.
    pub ttl: Option<Duration>,
    /// `Cache-Control` sent to clients in place of the origin's.
    pub client_cache_control: Option<String>,
}

impl Default for SiteCache {
    /// What RFC 9111 allows, and nothing more.
    fn default() -> Self {
        SiteCache {
            default_ttl: None,
            negative_ttl: None,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            object_bytes_max: 16 << 30,
            query: QueryKey::Keep,
            bypass_cookies: Vec::new(),
            set_cookie: SetCookie::Refuse,
            key_headers: Vec::new(),
            rules: Vec::new(),
        }
    }
}

/// What becomes of a response with `Set-Cookie` whose origin says nothing to shared caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetCookie {
    /// It is not stored (the default).
    Refuse,
    /// It is stored without the cookie: whoever caused the fetch gets that, nobody else does.
    Strip,
    /// It is stored as any other, and everybody gets the cookie.
    Keep,
}

/// How the query string enters the cache key.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryKey {
    /// As it is (the default).
    Keep,
    /// Parameters sorted by name; those of the same name keep their order.
    Sort,
    /// Left out.
    Ignore,
    /// Only these parameters, sorted.
    Only(Vec<String>),
    /// All but these, sorted.
    Except(Vec<String>),
}

/// `[controller]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Controller {
    /// HTTPS listener of the controller's API.
    pub listen: SocketAddr,
    /// Separate plain listener for `/metrics` only.
    pub metrics: Option<SocketAddr>,
    /// Directory at home where other people's ACME clients lay certificates.
    pub certificates: Option<PathBuf>,
    /// Whether a valid edit of the fleet file is published by itself.
    pub publish: PublishOn,
    /// Backups that it makes by itself.
    pub backup: Option<backup::Backup>,
    /// Who is told of events, by name.
    pub webhooks: BTreeMap<Id, webhook::Webhook>,
    /// What a gigabyte (10^9 bytes) from an origin costs, unless a site says otherwise.
    pub price_per_gb: Option<f64>,
    /// What prices are in; for display alone.
    pub currency: String,
    /// How snapshots are rolled out; `None`: to all nodes at once.
    pub rollout: Option<Rollout>,
}

/// When the controller publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishOn {
    /// As soon as a watched file changes and checks out (the default).
    Change,
    /// Only on `nearside publish`.
    Command,
}
