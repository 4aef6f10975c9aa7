//! `[site.NAME.gates]` and `[shared_limits]`: who may ask a site, how often, how much at once.
//!
//! A gate that was mistaken is told of and left out of what is read; since every mistake refuses the whole file, no
//! site is ever served without a gate that was meant.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use super::{
    edge::is_host,
    geography::prefix,
    keys, origin,
    reader::{Section, members},
    steering::condition,
    tokens,
};
use crate::{
    config::{
        Match, Network,
        gates::{
            Acting, Bandwidth, ConcurrencyGate, Gates, Mode, NetworkGate, Others, Per, PlaceGate, RateGate,
            SecretGate, SharedLimits, WafExclude, WafFamily, WafGate, WafInput, WafRule,
        },
    },
    files::Role,
};

/// Networks written in the fleet file itself; more belong into a file.
const NETWORKS_MAX: usize = 4096;
/// Files of networks of one site.
const FILES_MAX: usize = 16;
/// Buckets that one request is counted in.
const RATES_MAX: usize = 16;
/// Requests that may come at once; more is no limit.
const BURST_MAX: i64 = 100_000_000;
/// Requests in flight of one client.
const REQUESTS_MAX: i64 = 1 << 20;
/// Below it a megabyte takes a quarter of an hour, and connections are held for nothing.
const RATE_BYTES_MIN: u64 = 1024;
/// Patterns of the operator's own, and exclusions.
const WAF_RULES_MAX: usize = 256;
/// Bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 4096;
const DAY: Duration = Duration::from_secs(86_400);

const NETWORKS: &str = "networks like \"192.0.2.0/24\", host bits zero, or addresses";
const PLACES: &str = "continents (\"EU\"), countries (\"EU-DE\"), subdivisions (\"NA-US-CA\") or \"AS64500\"";
const RATE: &str = "requests and a time, like \"100/s\", \"600/m\", \"1000/h\", \"5000/d\" or \"10/30s\"";
const PER: &str = "\"client\", \"site\", \"path\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"";

/// Reads `gates` of a site.
pub(super) fn gates(site: &Section<'_>, shares: bool) -> Gates {
    let Some(section) = site.section("gates", keys::GATES) else { return Gates::default() };
    Gates {
        secret: section.section("secret", keys::GATE_SECRET).and_then(|inner| secret(&inner)),
        network: section.section("network", keys::GATE_NETWORK).map(|inner| network(&inner)),
        place: section.section("place", keys::GATE_PLACE).map(|inner| place(&inner)),
        rates: rates(&section, shares),
        concurrency: section.section("concurrency", keys::GATE_CONCURRENCY).and_then(|inner| {
            inner.required("requests", "requests of one client in flight");
            Some(ConcurrencyGate {
                requests_max: inner
                    .integer("requests", 1, REQUESTS_MAX)
                    .and_then(|n| u32::try_from(n).ok())?,
                ipv6_prefix: ipv6_prefix(&inner),
                acting: acting(&inner),
            })
        }),
        waf: section.section("waf", keys::GATE_WAF).map(|inner| waf(&inner)),
        bandwidth: section.section("bandwidth", keys::GATE_BANDWIDTH).map(|inner| bandwidth(&inner)),
        signed: tokens::signed(&section),
        jwt: tokens::jwt(&section),
    }
}

pub(super) fn acting(section: &Section<'_>) -> Acting {
    let mode = section.word("mode", &[("enforce", Mode::Enforce), ("detect", Mode::Detect)]);
    let log = section.read("log", "true or false", |value| value.as_bool());
    Acting { mode: mode.unwrap_or_default(), log: log.unwrap_or_default() }
}

fn ipv6_prefix(section: &Section<'_>) -> u8 {
    section.integer("ipv6_prefix", 32, 128).and_then(|bits| u8::try_from(bits).ok()).unwrap_or(64)
}

fn secret(section: &Section<'_>) -> Option<SecretGate> {
    Some(SecretGate { header: origin::secret_header_of(section)?, acting: acting(section) })
}

fn network(section: &Section<'_>) -> NetworkGate {
    let list = |key: &str| {
        let read = section.list(key, NETWORKS, |value| {
            let text = value.get_ref().as_str()?;
            let host = |address: IpAddr| (address, if address.is_ipv4() { 32 } else { 128 });
            text.parse().ok().map(host).or_else(|| prefix(text))
        });
        at_most(section, key, read.unwrap_or_default(), NETWORKS_MAX)
    };
    let files = |key: &str| -> Vec<PathBuf> {
        let values = section.value(key).map(members).unwrap_or_default();
        let named = values.into_iter().filter_map(|value| section.path_of(value, key, Role::Content));
        at_most(section, key, named.collect(), FILES_MAX)
    };
    let (allow, deny): (Vec<Network>, Vec<Network>) = (list("allow"), list("deny"));
    for both in deny.iter().filter(|network| allow.contains(network)) {
        let message = format!(
            "{}: {}/{} is in `allow` too, which would never count",
            section.name("deny"),
            both.0,
            both.1
        );
        section.doc.mistake(section.place_of("deny"), message);
    }
    shadowed(section, "allow", &allow, &deny);
    shadowed(section, "deny", &deny, &allow);
    let has = |keys: [&str; 2]| keys.iter().any(|key| section.value(key).is_some());
    let others = others(section, has(["allow", "allow_files"]), has(["deny", "deny_files"]));
    NetworkGate {
        allow,
        deny,
        allow_files: files("allow_files"),
        deny_files: files("deny_files"),
        others,
        acting: acting(section),
    }
}

/// A network inside another one of the same list, with nothing of the other list between them, changes nothing.
fn shadowed(section: &Section<'_>, key: &str, list: &[Network], other: &[Network]) {
    let covers = |outer: &Network, inner: &Network| outer != inner && contains(outer, inner);
    for inner in list {
        let Some(outer) = list.iter().filter(|outer| covers(outer, inner)).max_by_key(|outer| outer.1) else {
            continue;
        };
        if !other.iter().any(|between| covers(outer, between) && covers(between, inner)) {
            let (name, place) = (section.name(key), section.place_of(key));
            let message =
                format!("{name}: {}/{} is within {}/{} already", inner.0, inner.1, outer.0, outer.1);
            section.doc.warn(place, message);
        }
    }
}

fn contains(outer: &Network, inner: &Network) -> bool {
    outer.1 <= inner.1
        && match (outer.0, inner.0) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(32 - u32::from(outer.1)).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(128 - u32::from(outer.1)).unwrap_or(0) == 0
            }
            _ => false,
        }
}

/// Whoever lists only whom to allow means nobody else.
fn others(section: &Section<'_>, allows: bool, denies: bool) -> Others {
    if !allows && !denies {
        let message = format!("[{}]: names nobody; expected `allow`, `deny` or both", section.place);
        section.doc.mistake(section.span(), message);
    }
    let unsaid = if allows && !denies { Others::Deny } else { Others::Allow };
    let others =
        section.word("others", &[("allow", Others::Allow), ("deny", Others::Deny)]).unwrap_or(unsaid);
    let useless = match others {
        Others::Allow => allows && !denies,
        Others::Deny => denies && !allows,
    };
    if useless {
        let message = format!("{}: with this nothing that is listed matters", section.name("others"));
        section.doc.mistake(section.place_of("others"), message);
    }
    others
}

fn place(section: &Section<'_>) -> PlaceGate {
    let list = |key: &str| {
        let read = section.list(key, PLACES, |value| {
            condition(value.get_ref().as_str()?).filter(|found| !matches!(found, Match::Network(..)))
        });
        read.unwrap_or_default()
    };
    let (allow, deny) = (list("allow"), list("deny"));
    for both in deny.iter().filter(|place| allow.contains(place)) {
        let message =
            format!("{}: {both:?} is in `allow` too, which would never count", section.name("deny"));
        section.doc.mistake(section.place_of("deny"), message);
    }
    let others = others(section, section.value("allow").is_some(), section.value("deny").is_some());
    let status = section.read("status", "403 or 451", |value| {
        let status = super::reader::integer(value)?;
        [403, 451].contains(&status).then_some(status as u16)
    });
    PlaceGate {
        allow,
        deny,
        others,
        status: status.unwrap_or(403),
        page: section.path("page", Role::Content),
        acting: acting(section),
    }
}

fn rates(section: &Section<'_>, shares: bool) -> Vec<RateGate> {
    let mut names = BTreeSet::new();
    let mut rates = Vec::new();
    for (inner, number) in section.repeated("rate", keys::GATE_RATE).into_iter().zip(1..) {
        let Some(gate) = rate(&inner, number, shares) else { continue };
        if !names.insert(gate.name.clone()) {
            let message = format!("{}: there are two of the name {:?}", inner.name("name"), gate.name);
            inner.doc.mistake(inner.place_of("name"), message);
        }
        rates.push(gate);
    }
    at_most(section, "rate", rates, RATES_MAX)
}

fn rate(section: &Section<'_>, number: usize, shares: bool) -> Option<RateGate> {
    section.required("rate", RATE);
    let name = section.read("name", "1 to 32 of a-z, 0-9, `-` and `_`", |value| {
        let name = value.as_str()?;
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        ((1..=32).contains(&name.len()) && name.bytes().all(legal)).then(|| name.to_owned())
    });
    let shared = section.read("shared", "true or false", |value| value.as_bool()).unwrap_or(false);
    if shared && !shares {
        let message = format!("{}: there is no [shared_limits] to share it through", section.name("shared"));
        section.doc.mistake(section.place_of("shared"), message);
    }
    let per = match section.value("per") {
        None => Per::Client,
        Some(_) => section.read("per", PER, |value| per(value.as_str()?))?,
    };
    let (count, period) = section.read("rate", RATE, |value| flow(value.as_str()?))?;
    let burst = section.integer("burst", 1, BURST_MAX).and_then(|burst| u32::try_from(burst).ok());
    Some(RateGate {
        name: name.unwrap_or_else(|| format!("rate-{number}")),
        per,
        count,
        period,
        burst: burst.unwrap_or(count),
        path: path(section)?,
        ipv6_prefix: ipv6_prefix(section),
        shared,
        acting: acting(section),
    })
}

/// `Some(None)`: not written. A path that was mistaken must not make the gate mean all paths.
fn path(section: &Section<'_>) -> Option<Option<String>> {
    let Some(_) = section.value("path") else { return Some(None) };
    let read = section.read("path", "the start of a path, like \"/api/\"", |value| {
        value.as_str().filter(|path| path.starts_with('/')).map(str::to_owned)
    });
    read.map(Some)
}

fn per(text: &str) -> Option<Per> {
    let token = |name: &str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        ((1..=256).contains(&name.len()) && name.bytes().all(legal)).then(|| name.to_owned())
    };
    match text.split_once(':') {
        None => match text {
            "client" => Some(Per::Client),
            "site" => Some(Per::Site),
            "path" => Some(Per::Path),
            _ => None,
        },
        Some(("header", name)) => token(name).map(|name| Per::Header(name.to_ascii_lowercase())),
        Some(("cookie", name)) => token(name).map(Per::Cookie),
        Some(("query", name)) => token(name).map(Per::Query),
        Some(_) => None,
    }
}

/// `COUNT/TIME`, where a time is a unit or a duration up to a day.
fn flow(text: &str) -> Option<(u32, Duration)> {
    let (count, time) = text.split_once('/')?;
    let count: u32 = count.trim().parse().ok()?;
    let time = time.trim();
    let period = match time {
        "s" | "m" | "h" | "d" => crate::units::duration(&format!("1{time}"))?,
        longer => crate::units::duration(longer)?,
    };
    let fine = (1..=BURST_MAX).contains(&i64::from(count)) && period <= DAY && !period.is_zero();
    // A token each nanosecond is as fine as buckets count.
    (fine && period.as_nanos() >= u128::from(count)).then_some((count, period))
}

fn bandwidth(section: &Section<'_>) -> Bandwidth {
    let rate = |key: &str| {
        let bytes = section.value(key).map(|_| section.bytes(key, RATE_BYTES_MIN));
        if bytes.is_some_and(|bytes| bytes < RATE_BYTES_MIN) {
            let message = format!("{}: expected at least {RATE_BYTES_MIN} bytes a second", section.name(key));
            section.doc.mistake(section.place_of(key), message);
        }
        bytes
    };
    let (per_response, per_client) = (rate("per_response"), rate("per_client"));
    if per_response.or(per_client).is_none() {
        let message = format!("[{}]: expected `per_response`, `per_client` or both", section.place);
        section.doc.mistake(section.span(), message);
    }
    Bandwidth {
        per_response,
        per_client,
        after_bytes: section.bytes("after", 0),
        ipv6_prefix: ipv6_prefix(section),
    }
}

fn waf(section: &Section<'_>) -> WafGate {
    let families = match section.value("families") {
        None => WafFamily::ALL.iter().map(|(_, family)| *family).collect(),
        Some(_) => {
            let words: Vec<&str> = WafFamily::ALL.iter().map(|(word, _)| *word).collect();
            let expected = format!("some of {}", words.join(", "));
            let family = |word: &str| WafFamily::ALL.iter().find(|(known, _)| *known == word);
            let read = section.list("families", &expected, |value| {
                family(value.get_ref().as_str()?).map(|(_, family)| *family)
            });
            let mut families = read.unwrap_or_default();
            families.sort();
            families.dedup();
            families
        }
    };
    let mut ids = BTreeMap::new();
    let rules: Vec<WafRule> = section
        .repeated("rule", keys::GATE_WAF_RULE)
        .iter()
        .filter_map(|inner| {
            let rule = waf_rule(inner)?;
            super::once(&mut ids, inner, "id", rule.id.clone());
            Some(rule)
        })
        .collect();
    if families.is_empty() && rules.is_empty() {
        section.doc.mistake(section.span(), format!("[{}]: looks for nothing", section.place));
    }
    let excludes = section.repeated("exclude", keys::GATE_WAF_EXCLUDE);
    let size = section.bytes("query_max", 8192);
    if !(64..=16_384).contains(&size) {
        let message = format!("{}: expected 64 bytes to 16 KiB", section.name("query_max"));
        section.doc.mistake(section.place_of("query_max"), message);
    }
    WafGate {
        families,
        threshold: section.integer("threshold", 1, 1000).and_then(|n| u32::try_from(n).ok()).unwrap_or(5),
        headers: section
            .list("headers", "names of request headers", |value| {
                origin::field_name(value.get_ref().as_str()?)
            })
            .unwrap_or_default(),
        query_bytes_max: usize::try_from(size).unwrap_or(8192),
        rules: at_most(section, "rule", rules, WAF_RULES_MAX),
        excludes: at_most(
            section,
            "exclude",
            excludes.iter().filter_map(waf_exclude).collect(),
            WAF_RULES_MAX,
        ),
        acting: acting(section),
    }
}

fn waf_rule(section: &Section<'_>) -> Option<WafRule> {
    section.required("id", "a name for the pattern");
    section.required("pattern", "a regular expression");
    let id = section.read("id", "1 to 64 printable characters without spaces", |value| {
        let id = value.as_str()?;
        ((1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()))
            .then(|| id.to_owned())
    });
    let pattern = section.read("pattern", "a regular expression of at most 4096 bytes", |value| {
        value.as_str().filter(|text| (1..=PATTERN_BYTES_MAX).contains(&text.len())).map(str::to_owned)
    });
    let words = [("path", WafInput::Path), ("query", WafInput::Query), ("headers", WafInput::Headers)];
    let inputs = section.list("in", "some of \"path\", \"query\", \"headers\"", |value| {
        let word = value.get_ref().as_str()?;
        words.iter().find(|(known, _)| *known == word).map(|(_, input)| *input)
    });
    Some(WafRule {
        id: id?,
        pattern: pattern?,
        inputs: inputs.unwrap_or_else(|| vec![WafInput::Path, WafInput::Query]),
        score: section.integer("score", 1, 1000).and_then(|n| u32::try_from(n).ok()).unwrap_or(5),
    })
}

fn waf_exclude(section: &Section<'_>) -> Option<WafExclude> {
    let text = |key: &str| section.string(key).filter(|text| !text.is_empty());
    let exclude = WafExclude { id: text("id"), path: path(section)?, parameter: text("parameter") };
    if exclude.id.is_none() && exclude.path.is_none() && exclude.parameter.is_none() {
        let message = format!("[{}]: expected `id`, `path` or `parameter`", section.place);
        section.doc.mistake(section.span(), message);
        return None;
    }
    Some(exclude)
}

fn at_most<T>(section: &Section<'_>, key: &str, mut list: Vec<T>, max: usize) -> Vec<T> {
    if list.len() > max {
        section.doc.mistake(section.place_of(key), format!("{}: at most {max}", section.name(key)));
        list.truncate(max);
    }
    list
}

const REDIS: &str = "a URL like \"redis://10.8.0.1:6379/0\", without a password";

/// Reads `[shared_limits]`.
pub(super) fn shared(top: &Section<'_>) -> Option<SharedLimits> {
    let section = top.section("shared_limits", keys::SHARED_LIMITS)?;
    section.required("redis", REDIS);
    let (host, port, database) = section.read("redis", REDIS, |value| redis(value.as_str()?))?;
    let interval = section.duration(
        "interval",
        Duration::from_millis(100),
        Duration::from_millis(10),
        Duration::from_secs(10),
    );
    let timeout = section.duration(
        "timeout",
        Duration::from_secs(1),
        Duration::from_millis(10),
        Duration::from_secs(10),
    );
    Some(SharedLimits {
        host,
        port,
        database,
        username: section.string("username"),
        password_file: section.path("password_file", Role::Key),
        interval,
        timeout,
    })
}

fn redis(text: &str) -> Option<(String, u16, u8)> {
    let rest = text.strip_prefix("redis://")?;
    let (authority, database) = match rest.split_once('/') {
        None | Some((_, "")) => (rest.trim_end_matches('/'), 0),
        Some((authority, number)) => (authority, number.parse().ok()?),
    };
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').unwrap_or(if port.is_empty() { "6379" } else { "" }))
        }
        None => authority.split_once(':').unwrap_or((authority, "6379")),
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (host.parse::<IpAddr>().is_ok() || is_host(host)).then(|| (host.to_ascii_lowercase(), port, database))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{files::Files, spec::parse};
    use std::path::Path;

    fn read(gates: &str) -> Result<Gates, Vec<String>> {
        let text = format!(
            "version = 1\nfleet = \"x\"\n[site.www]\nhosts = \"a.test\"\norigin = \"http://192.0.2.9\"\n{gates}\n"
        );
        let files = Files::beside(Path::new("/fleet/nearside.toml"));
        match parse(Path::new("nearside.toml"), &text, &files) {
            Ok(loaded) => Ok(loaded.config.sites["www"].gates.clone()),
            Err(mistakes) => Err(mistakes.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn a_site_without_gates_has_none() {
        assert!(read("").unwrap().is_empty());
    }

    #[test]
    fn gates_mean_what_they_say() {
        let gates = read(
            "[site.www.gates.secret]\nname = \"X-Edge\"\nvalues = [\"0123456789abcdef\"]\nmode = \"detect\"\n\
             [site.www.gates.network]\nallow = [\"10.0.0.0/8\", \"2001:db8::1\"]\nallow_files = \"office\"\n\
             [site.www.gates.place]\ndeny = [\"EU-DE\", \"AS64500\"]\nstatus = 451\npage = \"no.html\"\nlog = true\n\
             [[site.www.gates.rate]]\nrate = \"600/m\"\n\
             [[site.www.gates.rate]]\nname = \"keys\"\nrate = \"10/30s\"\nburst = 3\nper = \"header:X-Key\"\n\
             [site.www.gates.bandwidth]\nper_client = \"1MB\"",
        )
        .unwrap();
        let secret = gates.secret.unwrap();
        assert_eq!((secret.header.name.as_str(), secret.acting.mode), ("x-edge", Mode::Detect));
        let network = gates.network.unwrap();
        assert_eq!((network.others, network.allow.len()), (Others::Deny, 2), "only who is listed is let in");
        assert_eq!(network.allow_files, [Path::new("/fleet/office")]);
        let place = gates.place.unwrap();
        assert_eq!((place.others, place.status, place.acting.log), (Others::Allow, 451, true));
        let [first, second] = &gates.rates[..] else { panic!("two") };
        assert_eq!((first.count, first.period, first.burst), (600, Duration::from_secs(60), 600));
        assert_eq!((first.name.as_str(), &first.per, first.ipv6_prefix), ("rate-1", &Per::Client, 64));
        assert_eq!((second.burst, second.period), (3, Duration::from_secs(30)));
        assert_eq!(second.per, Per::Header("x-key".to_owned()));
    }

    #[test]
    fn mistakes_of_gates_are_told() {
        let cases = [
            ("[site.www.gates.secret]\nname = \"x\"\nvalues = [\"short\"]", "16 to 256 printable ASCII"),
            ("[site.www.gates.secret]\nname = \"host\"\nvalues = [\"0123456789abcdef\"]", "HTTP itself"),
            ("[site.www.gates.network]\n", "names nobody"),
            ("[site.www.gates.network]\nallow = \"10.0.0.1/8\"", "host bits zero"),
            (
                "[site.www.gates.network]\nallow = \"10.0.0.0/8\"\ndeny = \"10.0.0.0/8\"",
                "10.0.0.0/8 is in `allow` too",
            ),
            ("[site.www.gates.network]\ndeny = \"10.0.0.0/8\"\nothers = \"deny\"", "nothing that is listed"),
            ("[site.www.gates.place]\ndeny = \"DE\"", "expected continents"),
            ("[site.www.gates.place]\ndeny = \"192.0.2.0/24\"", "expected continents"),
            ("[site.www.gates.place]\ndeny = \"EU-DE\"\nstatus = 404", "expected 403 or 451"),
            ("[[site.www.gates.rate]]\nrate = \"0/s\"", "expected requests and a time"),
            ("[[site.www.gates.rate]]\nrate = \"10\"", "expected requests and a time"),
            ("[[site.www.gates.rate]]\nrate = \"10/2d\"", "expected requests and a time"),
            ("[[site.www.gates.rate]]\nrate = \"1/s\"\nburst = 0", "whole number from 1"),
            ("[[site.www.gates.rate]]\nrate = \"1/s\"\nper = \"moon\"", "\"cookie:NAME\""),
            ("[[site.www.gates.rate]]\nrate = \"1/s\"\nshared = true", "no [shared_limits]"),
            (
                "[[site.www.gates.rate]]\nname = \"a\"\nrate = \"1/s\"\n[[site.www.gates.rate]]\nname = \"a\"\nrate = \"1/s\"",
                "two of the name",
            ),
            ("[site.www.gates.concurrency]\nrequests = 0", "whole number from 1"),
            ("[site.www.gates.bandwidth]\n", "expected `per_response`"),
            ("[site.www.gates.bandwidth]\nper_client = 10", "at least 1024 bytes"),
            ("[site.www.gates.waf]\nfamilies = [\"sequel\"]", "expected some of sql"),
            ("[site.www.gates.waf]\nfamilies = []", "looks for nothing"),
            ("[[site.www.gates.waf.rule]]\nid = \"x\"", "pattern is missing"),
            ("[site.www.gates.waf]\nexclude = [{}]", "expected `id`, `path` or `parameter`"),
            ("[shared_limits]\nredis = \"redis://:secret@h\"", "without a password"),
            ("[site.www.gates.wafs]\n", "did you mean `waf`"),
        ];
        for (text, expected) in cases {
            let found = read(text).expect_err(text);
            assert!(found.iter().any(|mistake| mistake.contains(expected)), "{text}\n{found:?}");
        }
    }

    #[test]
    fn where_a_redis_is() {
        assert_eq!(redis("redis://10.8.0.1"), Some(("10.8.0.1".to_owned(), 6379, 0)));
        assert_eq!(redis("redis://Cache.test:7000/3"), Some(("cache.test".to_owned(), 7000, 3)));
        assert_eq!(redis("redis://[::1]:7000/"), Some(("::1".to_owned(), 7000, 0)));
        for bad in ["10.8.0.1", "rediss://h", "redis://", "redis://h:0", "redis://u:p@h", "redis://h/x"] {
            assert_eq!(redis(bad), None, "{bad}");
        }
    }
}
