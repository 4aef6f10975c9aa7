//! `origin` and `[site.NAME.balance]`: where a site's content comes from, and how one of several is chosen.
//!
//! `origin` is a URL, a table, or a list of either; it always reads as a list of origins.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use toml::de::DeValue;

use super::{
    edge::is_host,
    geography::prefix,
    keys, once,
    reader::{Section, Value, members},
    steering::{WHEN, condition, status_range},
    storage,
};
use crate::{
    config::{
        Balance, Circuit, Eject, FailoverOn, Http2, Network, Origin, OriginCheck, OriginRule, Scheme, Secret,
        SecretHeader, Spread, TlsVersion, UrlPrefix,
    },
    files::Role,
};

/// Origins of one site: more are a cluster, which has a balancer of its own.
const ORIGINS_MAX: usize = 64;
/// Connections to one origin from one PoP.
const CONNECTIONS_MAX: i64 = 4096;
/// Networks of `allow_networks`, fields of `request_headers`, prefixes of `follow_redirects`.
const LIST_MAX: usize = 64;
const DAY: Duration = Duration::from_secs(86_400);

const URL: &str = "a URL like \"https://origin.example.org\" or \"http://192.0.2.1:8080\", without a path";

/// Reads `origin` of a site.
pub(super) fn origins(section: &Section<'_>) -> Vec<Origin> {
    let Some(value) = section.required("origin", URL) else { return Vec::new() };
    let written = members(value);
    if written.is_empty() {
        section.doc.expected(value, &section.name("origin"), "at least one origin");
    }
    if written.len() > ORIGINS_MAX {
        section.doc.mistake(value.span(), format!("{}: at most {ORIGINS_MAX}", section.name("origin")));
    }
    let (mut origins, mut names) = (Vec::new(), BTreeMap::new());
    for value in written {
        let origin = match value.get_ref() {
            DeValue::Table(table) => {
                let place = format!("{}.origin", section.place);
                table_origin(&Section::open(section.doc, place, table, value.span(), keys::ORIGIN))
            }
            DeValue::String(text) => match url(text) {
                Some((scheme, host, port)) => Some(Origin::at(scheme, &host, port)),
                None => {
                    section.doc.expected(value, &section.name("origin"), URL);
                    None
                }
            },
            _ => {
                section.doc.expected(value, &section.name("origin"), URL);
                None
            }
        };
        if let Some(origin) = origin {
            once(&mut names, section, "origin", origin.name.clone());
            origins.push(origin);
        }
    }
    if !origins.is_empty() && origins.iter().all(|origin| origin.backup) {
        section.doc.mistake(value.span(), format!("{}: all are backups", section.name("origin")));
    }
    origins
}

fn table_origin(section: &Section<'_>) -> Option<Origin> {
    section.required("url", URL);
    let (scheme, host, port) = section.read("url", URL, |value| url(value.as_str()?))?;
    let default = Origin::at(scheme, &host, port);
    let timeout = |key, default| section.duration(key, default, Duration::from_millis(10), DAY);
    let count = |key, low, high| section.integer(key, low, high).and_then(|n| u32::try_from(n).ok());
    if scheme == Scheme::Http {
        for key in ["sni", "tls_min", "ca"].iter().filter(|key| section.value(key).is_some()) {
            section.doc.mistake(section.place_of(key), format!("{} goes with https", section.name(key)));
        }
    }
    Some(Origin {
        scheme,
        host,
        port,
        name: section
            .read("name", "a short name", |value| {
                let name = value.as_str()?;
                ((1..=63).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()))
                    .then(|| name.to_owned())
            })
            .unwrap_or(default.name),
        weight: count("weight", 0, 1_000_000).unwrap_or(default.weight),
        backup: boolean(section, "backup").unwrap_or(default.backup),
        host_header: section.read("host_header", "a host name", |value| {
            let host = value.as_str()?.to_ascii_lowercase();
            is_host(host.split(':').next().unwrap_or_default()).then_some(host)
        }),
        sni: section.read("sni", "a host name", |value| {
            let host = value.as_str()?.to_ascii_lowercase();
            is_host(&host).then_some(host)
        }),
        tls_min: section
            .word("tls_min", &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)])
            .unwrap_or(default.tls_min),
        http2: http2(section, scheme),
        connections_max: count("connections_max", 1, CONNECTIONS_MAX)
            .map_or(default.connections_max, |count| count as usize),
        connect_timeout: timeout("connect_timeout", default.connect_timeout),
        first_byte_timeout: timeout("first_byte_timeout", default.first_byte_timeout),
        between_bytes_timeout: timeout("between_bytes_timeout", default.between_bytes_timeout),
        ca: section.path("ca", Role::Certificate),
        resolve_interval: section.duration(
            "resolve_interval",
            default.resolve_interval,
            Duration::from_secs(1),
            DAY,
        ),
        allow_networks: bounded(section, "allow_networks", "networks like \"127.0.0.0/8\"", |value| {
            prefix(value.get_ref().as_str()?) as Option<Network>
        })
        .unwrap_or_default(),
        secret_header: secret_header(section),
        request_headers: bounded(section, "request_headers", "names of request headers", |value| {
            field_name(value.get_ref().as_str()?)
        }),
        follow_redirects: bounded(
            section,
            "follow_redirects",
            "URLs that redirects may lead to, like \"https://files.example.org/public/\"",
            |value| url_prefix(value.get_ref().as_str()?),
        )
        .unwrap_or_default(),
        storage: storage::storage(section),
    })
}

fn boolean(section: &Section<'_>, key: &str) -> Option<bool> {
    section.read(key, "true or false", |value| match value {
        DeValue::Boolean(value) => Some(*value),
        _ => None,
    })
}

fn bounded<'d, T>(
    section: &Section<'d>,
    key: &str,
    expected: &str,
    read: impl FnMut(Value<'d>) -> Option<T>,
) -> Option<Vec<T>> {
    let found = section.list(key, expected, read)?;
    if found.len() > LIST_MAX {
        section.doc.mistake(section.place_of(key), format!("{}: at most {LIST_MAX}", section.name(key)));
    }
    Some(found)
}

/// `true` is by ALPN, which only TLS has.
fn http2(section: &Section<'_>, scheme: Scheme) -> Http2 {
    let read = section.read("http2", "true, false or \"prior-knowledge\"", |value| match value {
        DeValue::Boolean(true) => Some(Http2::Alpn),
        DeValue::Boolean(false) => Some(Http2::No),
        DeValue::String(word) if &**word == "prior-knowledge" => Some(Http2::PriorKnowledge),
        _ => None,
    });
    if read == Some(Http2::Alpn) && scheme == Scheme::Http {
        let message = format!(
            "{} = true goes with https; over http it is spoken without asking: \"prior-knowledge\"",
            section.name("http2")
        );
        section.doc.mistake(section.place_of("http2"), message);
    }
    read.unwrap_or(Http2::No)
}

/// A field name (RFC 9110 section 5.1) in lower case.
pub(super) fn field_name(text: &str) -> Option<String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    ((1..=256).contains(&text.len()) && text.bytes().all(is_token)).then(|| text.to_ascii_lowercase())
}

/// Fields that the exchange itself is made of; a secret under one of them would break it.
const NO_SECRET: &[&str] =
    &["host", "connection", "content-length", "transfer-encoding", "te", "upgrade", "trailer", "expect"];

fn secret_header(section: &Section<'_>) -> Option<SecretHeader> {
    secret_header_of(&section.section("secret_header", keys::SECRET_HEADER)?)
}

/// `name` and `values` of a section.
pub(super) fn secret_header_of(inner: &Section<'_>) -> Option<SecretHeader> {
    inner.required("name", "the name of a header");
    inner.required("values", "the secret, and the one before it while it is replaced");
    let name = inner.read("name", "the name of a header that HTTP itself does not use", |value| {
        field_name(value.as_str()?).filter(|name| !NO_SECRET.contains(&name.as_str()))
    });
    let mut values = Vec::new();
    for value in inner.value("values").map(members).unwrap_or_default() {
        let text = value.get_ref().as_str().unwrap_or_default();
        if (16..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            values.push(Secret(text.to_owned()));
        } else {
            // What was read is not repeated: it may be the secret, one character too long.
            let message =
                format!("{}: expected 16 to 256 printable ASCII characters, no spaces", inner.name("values"));
            inner.doc.mistake(value.span(), message);
        }
    }
    Some(SecretHeader { name: name?, values }).filter(|header| !header.values.is_empty())
}

fn scheme(text: &str) -> Option<(Scheme, u16)> {
    match text {
        "http" => Some((Scheme::Http, 80)),
        "https" => Some((Scheme::Https, 443)),
        _ => None,
    }
}

/// `scheme://host[:port]`; a path, query or user would be silently lost, so they are refused.
fn url(text: &str) -> Option<(Scheme, String, u16)> {
    let (word, rest) = text.split_once("://")?;
    let (scheme, default) = scheme(word)?;
    let (host, port) = authority(rest.strip_suffix('/').unwrap_or(rest), default)?;
    Some((scheme, host, port))
}

fn url_prefix(text: &str) -> Option<UrlPrefix> {
    let (word, rest) = text.split_once("://")?;
    let (scheme, default) = scheme(word)?;
    let (before, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = authority(before, default)?;
    let legal = path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\\".contains(&byte));
    let path = if path.is_empty() { "/" } else { path };
    legal.then(|| UrlPrefix { scheme, host, port, path: path.to_owned() })
}

fn authority(text: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, after)
        }
        None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None if port.is_empty() => default,
        None => return None,
    };
    (host.parse::<IpAddr>().is_ok() || is_host(host)).then(|| (host.to_ascii_lowercase(), port))
}

/// Reads `balance` of a site; several origins have one even where nothing is written.
pub(super) fn balance(site: &Section<'_>, origins: &[Origin]) -> Option<Balance> {
    let default = Balance::default();
    let Some(section) = site.section("balance", keys::BALANCE) else {
        return (origins.len() > 1).then_some(default);
    };
    let count = |key, low, high| section.integer(key, low, high).and_then(|n| u32::try_from(n).ok());
    Some(Balance {
        strategy: strategy(&section, origins),
        load_max_percent: count("load_max", 101, 1000).unwrap_or(default.load_max_percent),
        failover_on: failover_on(&section).unwrap_or(default.failover_on),
        retry_budget_percent: count("retry_budget", 0, 100).unwrap_or(default.retry_budget_percent),
        retries_min: count("retries_min", 0, 1000).unwrap_or(default.retries_min),
        check: section.section("check", keys::BALANCE_CHECK).map(|section| check(&section)),
        eject: section.section("eject", keys::EJECT).map_or(default.eject, |section| eject(&section)),
        circuit: section
            .section("circuit", keys::CIRCUIT)
            .map_or(default.circuit, |section| circuit(&section)),
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Ordered,
    Weighted,
    Hash,
    Rules,
}

fn strategy(section: &Section<'_>, origins: &[Origin]) -> Spread {
    let words = [
        ("ordered", Order::Ordered),
        ("weighted", Order::Weighted),
        ("hash", Order::Hash),
        ("rules", Order::Rules),
    ];
    let order = section.word("strategy", &words).unwrap_or(Order::Ordered);
    for (key, with, word) in [("rule", Order::Rules, "rules"), ("load_max", Order::Hash, "hash")] {
        if order != with && section.value(key).is_some() {
            let message = format!("{} goes with strategy = \"{word}\"", section.name(key));
            section.doc.mistake(section.place_of(key), message);
        }
    }
    match order {
        Order::Ordered => Spread::Ordered,
        Order::Weighted => Spread::Weighted,
        Order::Hash => Spread::Hash,
        Order::Rules => Spread::Rules(rules(section, origins)),
    }
}

fn rules(section: &Section<'_>, origins: &[Origin]) -> Vec<OriginRule> {
    if section.required("rule", "at least one [[site.NAME.balance.rule]]").is_none() {
        return Vec::new();
    }
    let mut rules = Vec::new();
    for rule in section.repeated("rule", keys::BALANCE_RULE) {
        rule.required("when", WHEN);
        let named = rule.required("origins", "names of the site's origins in order of preference");
        let when = rule.list("when", WHEN, |value| condition(value.get_ref().as_str()?)).unwrap_or_default();
        let mut found: Vec<usize> = Vec::new();
        for value in named.map(members).unwrap_or_default() {
            let valid = origins.iter().map(|origin| origin.name.as_str());
            let name = rule.doc.reference(value, &rule.name("origins"), "origin", valid);
            let position = origins.iter().position(|origin| Some(&origin.name) == name.as_ref());
            found.extend(position.filter(|position| !found.contains(position)));
        }
        if !when.is_empty() && !found.is_empty() {
            rules.push(OriginRule { when, origins: found });
        }
    }
    rules
}

fn failover_on(section: &Section<'_>) -> Option<FailoverOn> {
    let expected = "some of \"connect\", \"timeout\", \"closed\", \"5xx\"";
    let mut on = FailoverOn { connect: false, timeout: false, closed: false, errors: false };
    section.list("failover_on", expected, |value| {
        match value.get_ref().as_str()? {
            "connect" => on.connect = true,
            "timeout" => on.timeout = true,
            "closed" => on.closed = true,
            "5xx" => on.errors = true,
            _ => return None,
        }
        Some(())
    })?;
    Some(on)
}

fn check(section: &Section<'_>) -> OriginCheck {
    section.required("path", "a path that begins with /, without spaces");
    let interval = section.duration(
        "interval",
        Duration::from_secs(5),
        Duration::from_millis(100),
        Duration::from_secs(3_600),
    );
    let timeout = section.duration(
        "timeout",
        Duration::from_secs(2).min(interval / 2),
        Duration::from_millis(10),
        Duration::from_secs(600),
    );
    if timeout >= interval {
        let message = format!("{} must be shorter than the interval", section.name("timeout"));
        section.doc.mistake(section.place_of("timeout"), message);
    }
    let threshold = |key, default| {
        section.integer(key, 1, 100).and_then(|count| u32::try_from(count).ok()).unwrap_or(default)
    };
    OriginCheck {
        path: section
            .read("path", "a path that begins with /, without spaces", |value| {
                let path = value.as_str()?;
                let legal = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
                (path.starts_with('/') && legal).then(|| path.to_owned())
            })
            .unwrap_or_default(),
        host: section.read("host", "a host name", |value| {
            let host = value.as_str()?.to_ascii_lowercase();
            is_host(host.split(':').next().unwrap_or_default()).then_some(host)
        }),
        status: status_range(section).unwrap_or((200, 399)),
        interval,
        timeout,
        rise: threshold("rise", 2),
        fall: threshold("fall", 3),
    }
}

fn eject(section: &Section<'_>) -> Eject {
    let default = Eject::default();
    let count = |key, low, high| section.integer(key, low, high).and_then(|n| u32::try_from(n).ok());
    let time = section.duration("time", default.time, Duration::from_millis(100), DAY);
    Eject {
        failures: count("failures", 0, 1_000_000).unwrap_or(default.failures),
        ratio_percent: count("ratio", 0, 100).unwrap_or(default.ratio_percent),
        requests_min: count("requests_min", 1, 1_000_000).unwrap_or(default.requests_min),
        time,
        time_max: section.duration("time_max", default.time_max.max(time), time, DAY),
        share_max_percent: count("share_max", 0, 100).unwrap_or(default.share_max_percent),
    }
}

fn circuit(section: &Section<'_>) -> Circuit {
    let default = Circuit::default();
    let open = section.duration("open", default.open, Duration::from_millis(10), DAY);
    Circuit {
        failures: section
            .integer("failures", 0, 1_000_000)
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(default.failures),
        open,
        open_max: section.duration("open_max", default.open_max.max(open), open, DAY),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{config::Match, files::Files, spec};

    fn site(text: &str) -> Result<crate::config::Site, Vec<String>> {
        let text = format!("version = 1\nfleet = \"x\"\n[site.s]\nhosts = \"a.test\"\n{text}\n");
        let files = Files::beside(Path::new("/fleet/nearside.toml"));
        let loaded = spec::parse(Path::new("nearside.toml"), &text, &files);
        loaded
            .map(|loaded| loaded.config.sites["s"].clone())
            .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn one_origin_in_every_form_is_a_list_of_one_without_a_balance() {
        for text in ["origin = \"http://o.test\"", "[site.s.origin]\nurl = \"http://o.test/\""] {
            let site = site(text).unwrap();
            assert_eq!(site.origins, [Origin::at(Scheme::Http, "o.test", 80)], "{text}");
            assert_eq!(site.balance, None);
        }
        assert_eq!(site("origin = \"http://[2001:db8::1]:81\"").unwrap().origins[0].name, "[2001:db8::1]:81");
    }

    #[test]
    fn several_origins_keep_their_order_and_rules_name_them() {
        let site = site(
            "[[site.s.origin]]\nname = \"de\"\nurl = \"http://de.test\"\nweight = 3\n\
             [[site.s.origin]]\nurl = \"https://us.test\"\nbackup = true\nhttp2 = true\n\
             [site.s.balance]\nstrategy = \"rules\"\nfailover_on = [\"connect\", \"5xx\"]\n\
             [[site.s.balance.rule]]\nwhen = [\"EU-DE\"]\norigins = [\"us.test:443\", \"de\"]",
        )
        .unwrap();
        assert_eq!((site.origins[0].weight, site.origins[1].backup), (3, true));
        assert_eq!(site.origins[1].http2, Http2::Alpn);
        let balance = site.balance.unwrap();
        let rule = OriginRule { when: vec![Match::Country("DE".into())], origins: vec![1, 0] };
        assert_eq!(balance.strategy, Spread::Rules(vec![rule]));
        assert!(balance.failover_on.errors && !balance.failover_on.timeout);
    }

    #[test]
    fn mistakes_are_told_and_secrets_are_not_repeated() {
        let cases = [
            ("origin = []", "at least one origin"),
            ("origin = [\"http://a.test\", \"http://a.test\"]", "is already in"),
            ("[[site.s.origin]]\nurl = \"http://a.test\"\nbackup = true", "all are backups"),
            ("[site.s.origin]\nurl = \"http://a.test\"\nsni = \"b.test\"", "goes with https"),
            ("[site.s.origin]\nurl = \"http://a.test\"\nhttp2 = true", "\"prior-knowledge\""),
            ("origin = \"http://a.test\"\nbalance = { load_max = 120 }", "goes with strategy = \"hash\""),
            (
                "origin = \"http://a.test\"\nbalance = { strategy = \"rules\", rule = [{ when = \"EU\", origins = \"b\" }] }",
                "there is no origin `b`",
            ),
            ("origin = \"http://a.test\"\nbalance = { check = { interval = \"1s\" } }", "path is missing"),
            (
                "[site.s.origin]\nurl = \"http://a.test\"\nsecret_header = { name = \"Host\", values = \"0123456789abcdef\" }",
                "HTTP itself does not use",
            ),
        ];
        for (text, expected) in cases {
            let found = site(text).expect_err(text);
            assert!(found.iter().any(|mistake| mistake.contains(expected)), "{text}\n{found:?}");
        }
        let secret = "[site.s.origin]\nurl = \"http://a.test\"\nsecret_header = { name = \"x-s\", values = \"tooshort\" }";
        let found = site(secret).expect_err("too short");
        assert!(found.iter().all(|mistake| !mistake.contains("tooshort")), "{found:?}");
        let good = secret.replace("tooshort", "0123456789abcdef");
        assert!(!format!("{:?}", site(&good).unwrap()).contains("0123456789abcdef"));
    }
}
