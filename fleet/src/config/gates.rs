//! What the fleet file says of who may ask a site: `[site.NAME.gates]`.
//!
//! A part of [`super::Config`] by itself. The order in which gates are asked is the edge's and fixed; nothing here
//! decides it.

use std::{path::PathBuf, time::Duration};

use super::{
    Match, Network, SecretHeader,
    tokens::{Jwt, Signed},
};

/// `[site.NAME.gates]`: none of them is there unless it was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gates {
    /// Refuses whoever does not show a secret.
    pub secret: Option<SecretGate>,
    /// Refuses by the client's network.
    pub network: Option<NetworkGate>,
    /// Refuses by the place of the client's network.
    pub place: Option<PlaceGate>,
    /// Limit how often is asked; in order, all of them count.
    pub rates: Vec<RateGate>,
    /// Limits how much is asked at once.
    pub concurrency: Option<ConcurrencyGate>,
    /// Refuses what looks like an attack.
    pub waf: Option<WafGate>,
    /// How fast answers are sent.
    pub bandwidth: Option<Bandwidth>,
    /// Refuses addresses that are not signed.
    pub signed: Option<Signed>,
    /// Refuses requests without a token.
    pub jwt: Option<Jwt>,
}

impl Gates {
    /// Whether nothing is asked of any request.
    pub fn is_empty(&self) -> bool {
        *self == Gates::default()
    }
}

/// How a gate acts; every one has both keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acting {
    /// Whether what it finds is refused.
    pub mode: Mode,
    /// Whether what it finds is logged, one line each.
    pub log: bool,
}

/// What becomes of a request that a gate objects to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is refused.
    #[default]
    Enforce,
    /// It is counted, and goes on.
    Detect,
}

/// `[site.NAME.gates.secret]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretGate {
    /// The field, and the values that are good.
    pub header: SecretHeader,
    /// How it acts.
    pub acting: Acting,
}

/// What becomes of clients that nothing in a list names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They go on.
    Allow,
    /// They are refused.
    Deny,
}

/// `[site.NAME.gates.network]`. The most specific network decides, wherever it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkGate {
    /// Networks that go on.
    pub allow: Vec<Network>,
    /// Networks that are refused.
    pub deny: Vec<Network>,
    /// Files of networks that go on, one a line.
    pub allow_files: Vec<PathBuf>,
    /// Files of networks that are refused, one a line.
    pub deny_files: Vec<PathBuf>,
    /// All others.
    pub others: Others,
    /// How it acts.
    pub acting: Acting,
}

/// `[site.NAME.gates.place]`. The most specific place decides: network operator, subdivision, country, continent.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaceGate {
    /// Places that go on; never [`Match::Network`].
    pub allow: Vec<Match>,
    /// Places that are refused; never [`Match::Network`].
    pub deny: Vec<Match>,
    /// All others, and clients whose place is not known.
    pub others: Others,
    /// 403, or 451 (RFC 7725) where it is a law that wants it.
    pub status: u16,
    /// What is shown with it: an HTML document.
    pub page: Option<PathBuf>,
    /// How it acts.
    pub acting: Acting,
}

/// One `[[site.NAME.gates.rate]]`: a token bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct RateGate {
    /// What clients, metrics and logs call it; unique in the site.
    pub name: String,
    /// Who has a bucket of its own.
    pub per: Per,
    /// Requests that flow in during [`RateGate::period`].
    pub count: u32,
    /// How long [`RateGate::count`] takes to flow in.
    pub period: Duration,
    /// What a bucket holds: requests that may come at once.
    pub burst: u32,
    /// Start of the path of requests that count; `None`: all do.
    pub path: Option<String>,
    /// Bits of an IPv6 address that stand for one client.
    pub ipv6_prefix: u8,
    /// Whether the edges of the fleet share the bucket.
    pub shared: bool,
    /// How it acts.
    pub acting: Acting,
}

/// What a limit is counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Per {
    /// The client's address.
    Client,
    /// The whole site.
    Site,
    /// The path that is asked for.
    Path,
    /// The value of a header field, lower case; requests without it by the client's address.
    Header(String),
    /// The value of a cookie; requests without it by the client's address.
    Cookie(String),
    /// The value of a query parameter; requests without it by the client's address.
    Query(String),
}

/// `[site.NAME.gates.concurrency]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConcurrencyGate {
    /// Requests of one client in flight, until their last byte is sent.
    pub requests_max: u32,
    /// Bits of an IPv6 address that stand for one client.
    pub ipv6_prefix: u8,
    /// How it acts.
    pub acting: Acting,
}

/// `[site.NAME.gates.bandwidth]`: bytes per second of content.
#[derive(Clone, Debug, PartialEq)]
pub struct Bandwidth {
    /// Of each response.
    pub per_response: Option<u64>,
    /// Of all responses to one client.
    pub per_client: Option<u64>,
    /// Bytes at the start of each response that are sent as fast as they can be.
    pub after_bytes: u64,
    /// Bits of an IPv6 address that stand for one client.
    pub ipv6_prefix: u8,
}

/// `[site.NAME.gates.waf]`.
#[derive(Clone, Debug, PartialEq)]
pub struct WafGate {
    /// Families of built-in patterns that are looked for.
    pub families: Vec<WafFamily>,
    /// Score at which a request is refused.
    pub threshold: u32,
    /// Request fields that are looked at besides the usual ones, lower case.
    pub headers: Vec<String>,
    /// Longest query, bytes; more is a finding by itself.
    pub query_bytes_max: usize,
    /// Patterns of the operator's own.
    pub rules: Vec<WafRule>,
    /// What is not looked for, and where.
    pub excludes: Vec<WafExclude>,
    /// How it acts.
    pub acting: Acting,
}

/// A family of built-in patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WafFamily {
    /// SQL injection.
    Sql,
    /// Cross-site scripting.
    Xss,
    /// Path traversal, and files that nobody should ask for.
    Traversal,
    /// Shell and command injection.
    Shell,
    /// Expressions that servers evaluate: log4shell, templates, object graphs.
    Expression,
    /// Server-side requests: schemes and metadata addresses in parameters.
    Request,
    /// What breaks protocols: header injection, null bytes.
    Protocol,
    /// Tools that look for holes, by their user agent.
    Scanner,
}

impl WafFamily {
    /// All of them, with the words of the fleet file.
    pub const ALL: [(&'static str, WafFamily); 8] = [
        ("sql", WafFamily::Sql),
        ("xss", WafFamily::Xss),
        ("traversal", WafFamily::Traversal),
        ("shell", WafFamily::Shell),
        ("expression", WafFamily::Expression),
        ("request", WafFamily::Request),
        ("protocol", WafFamily::Protocol),
        ("scanner", WafFamily::Scanner),
    ];
}

/// One `[[site.NAME.gates.waf.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WafRule {
    /// What metrics, logs and exclusions call it; not a built-in pattern's.
    pub id: String,
    /// A regular expression over normalised text, without regard to case.
    pub pattern: String,
    /// Where it is looked for.
    pub inputs: Vec<WafInput>,
    /// What a match adds.
    pub score: u32,
}

/// A part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WafInput {
    /// The path.
    Path,
    /// Names and values of the query's parameters.
    Query,
    /// Request fields.
    Headers,
}

/// One `[[site.NAME.gates.waf.exclude]]`: matches if everything it names does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WafExclude {
    /// The pattern, or the family by its word; `None`: every one.
    pub id: Option<String>,
    /// Start of the path.
    pub path: Option<String>,
    /// Name of the query parameter.
    pub parameter: Option<String>,
}

/// `[shared_limits]`: where the edges of a fleet share what they count.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedLimits {
    /// Host name or address of the Redis.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Number of its database.
    pub database: u8,
    /// Who we are to it, if it asks.
    pub username: Option<String>,
    /// Holds the password.
    pub password_file: Option<PathBuf>,
    /// Between two exchanges of counts.
    pub interval: Duration,
    /// After which an exchange has failed.
    pub timeout: Duration,
}
