//! `[check.NAME]`, `[service.NAME]` and `[zone."ORIGIN"]`: who is alive, who answers, under which name.

use std::{collections::BTreeMap, time::Duration};

use toml::de::DeValue;

use super::{
    check_name,
    geography::{CONTINENTS, prefix},
    keys,
    reader::{Section, Value, integer, members},
};
use crate::{
    config::{
        AllDown, Check, HttpProbe, Id, Match, Pop, Probe, ProbeFamily, Rule, Service, Strategy, Verify, Zone,
    },
    files::Role,
};

/// The path that an edge answers itself, whatever the host.
const HEALTH_PATH: &str = "/.well-known/nearside/health";
/// Enough to see a flapping link through; beyond, fail-over takes minutes.
const THRESHOLD_MAX: i64 = 100;
/// DNS nodes that must agree: more than a small team runs.
const VIEWS_MAX: i64 = 16;
/// RFC 2181 section 8 allows more; an answer that lives for a week can't follow anything.
const TTL_MAX: Duration = Duration::from_secs(7 * 86_400);
/// PoPs in one answer: 12 IPv4 and IPv6 hints beside each other still fit a UDP answer.
const ANSWERS_MAX: i64 = 12;
/// PoPs kept per place.
const CANDIDATES_MAX: i64 = 64;
const CANDIDATES_DEFAULT: i64 = 3;
/// Probes and the edge's own work make a load of a few hundredths without a single client.
const SHED_ABOVE_MIN: f64 = 0.05;

pub(super) fn checks(top: &Section<'_>) -> BTreeMap<Id, Check> {
    let mut checks = BTreeMap::new();
    for (name, section) in top.named("check", keys::CHECK) {
        check_name(&section, &name);
        checks.insert(name.clone(), check(name, &section));
    }
    checks
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Https,
    Http,
    Tcp,
    Exec,
}

fn check(name: Id, section: &Section<'_>) -> Check {
    let kinds = [("https", Kind::Https), ("http", Kind::Http), ("tcp", Kind::Tcp), ("exec", Kind::Exec)];
    let kind = section.word("type", &kinds).unwrap_or(Kind::Https);
    for key in ["host", "path", "status", "body"].iter().filter(|_| !matches!(kind, Kind::Http | Kind::Https))
    {
        misplaced(section, key, "http or https");
    }
    for key in ["verify", "ca"].iter().filter(|_| kind != Kind::Https) {
        misplaced(section, key, "https");
    }
    if kind != Kind::Exec {
        misplaced(section, "command", "exec");
    }
    if kind == Kind::Tcp {
        section.required("port", "the port to connect to");
    }
    let port = section.integer("port", 1, 65_535).and_then(|port| u16::try_from(port).ok());
    let probe = match kind {
        Kind::Tcp => Probe::Tcp,
        Kind::Exec => Probe::Exec { command: command(section) },
        Kind::Http => Probe::Http(http_probe(section)),
        Kind::Https => Probe::Https { http: http_probe(section), verify: verify(section) },
    };
    let interval = section.duration(
        "interval",
        Duration::from_secs(10),
        Duration::from_millis(100),
        Duration::from_secs(3_600),
    );
    let timeout_default = Duration::from_secs(3).min(interval / 2);
    let timeout =
        section.duration("timeout", timeout_default, Duration::from_millis(10), Duration::from_secs(600));
    if timeout >= interval {
        let message = format!("{} must be shorter than the interval", section.name("timeout"));
        section.doc.mistake(section.place_of("timeout"), message);
    }
    let threshold = |key, default| {
        section.integer(key, 1, THRESHOLD_MAX).and_then(|count| u32::try_from(count).ok()).unwrap_or(default)
    };
    Check {
        probe,
        port: port.unwrap_or(if matches!(kind, Kind::Https | Kind::Exec) { 443 } else { 80 }),
        family: section
            .word(
                "family",
                &[("each", ProbeFamily::Each), ("ipv4", ProbeFamily::Ipv4), ("ipv6", ProbeFamily::Ipv6)],
            )
            .unwrap_or(ProbeFamily::Each),
        interval,
        timeout,
        rise: threshold("rise", 2),
        fall: threshold("fall", 3),
        views: section.integer("views", 1, VIEWS_MAX).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        name,
    }
}

const COMMAND: &str =
    "an absolute path and arguments, like [\"/usr/lib/nearside/check\", \"{address}\", \"{port}\"]";

fn command(section: &Section<'_>) -> Vec<String> {
    section.required("command", COMMAND);
    let words = section
        .list("command", COMMAND, |value| {
            // The kernel ends an argument at NUL.
            value.get_ref().as_str().filter(|word| !word.contains('\0')).map(str::to_owned)
        })
        .unwrap_or_default();
    let absolute = words.first().is_some_and(|program| program.starts_with('/') && !program.ends_with('/'));
    if section.value("command").is_some() && !absolute {
        let message = format!("{}: expected {COMMAND}", section.name("command"));
        section.doc.mistake(section.place_of("command"), message);
    }
    words
}

fn misplaced(section: &Section<'_>, key: &str, kinds: &str) {
    if section.value(key).is_some() {
        section.doc.mistake(section.place_of(key), format!("{} goes with type {kinds}", section.name(key)));
    }
}

/// `status`: one, or an inclusive range.
pub(super) fn status_range(section: &Section<'_>) -> Option<(u16, u16)> {
    section.read("status", "a status like 200 or a range like \"200-399\"", |value| match value {
        DeValue::Integer(_) => {
            u16::try_from(integer(value)?).ok().filter(|s| (100..600).contains(s)).map(|s| (s, s))
        }
        DeValue::String(text) => {
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
            (100 <= low && low <= high && high < 600).then_some((low, high))
        }
        _ => None,
    })
}

fn http_probe(section: &Section<'_>) -> HttpProbe {
    HttpProbe {
        host: section.string("host"),
        path: section
            .read("path", "a path that begins with /, without spaces", |value| {
                let path = value.as_str()?;
                (path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()))
                    .then(|| path.to_owned())
            })
            .unwrap_or_else(|| HEALTH_PATH.to_owned()),
        status: status_range(section).unwrap_or((200, 399)),
        body: section.string("body"),
    }
}

fn verify(section: &Section<'_>) -> Verify {
    if let Some(ca) = section.path("ca", Role::Certificate) {
        return Verify::Ca(ca);
    }
    section.word("verify", &[("no", Verify::No), ("system", Verify::System)]).unwrap_or(Verify::No)
}

pub(super) fn services(
    top: &Section<'_>,
    pops: &BTreeMap<Id, Pop>,
    checks: &BTreeMap<Id, Check>,
) -> BTreeMap<Id, Service> {
    let mut services = BTreeMap::new();
    for (name, section) in top.named("service", keys::SERVICE) {
        check_name(&section, &name);
        if let Some(service) = service(name.clone(), &section, pops, checks) {
            services.insert(name, service);
        }
    }
    services
}

fn service(
    name: Id,
    section: &Section<'_>,
    pops: &BTreeMap<Id, Pop>,
    checks: &BTreeMap<Id, Check>,
) -> Option<Service> {
    let members = match section.value("pops") {
        Some(_) => references(section, "pops", "pop", pops),
        None => pops.keys().cloned().collect(),
    };
    if members.is_empty() {
        section.doc.mistake(section.place_of("pops"), format!("{}: has no PoPs", section.name("pops")));
    }
    let answers = section.integer("answers", 1, ANSWERS_MAX).unwrap_or(1) as usize;
    let candidates = section.integer("candidates", 1, CANDIDATES_MAX);
    if candidates.is_some_and(|candidates| candidates < answers as i64) {
        let message = format!("{} must be at least `answers`", section.name("candidates"));
        section.doc.mistake(section.place_of("candidates"), message);
    }
    if section.value("checks").is_none() {
        section.doc.warn(
            section.span(),
            format!("[{}]: no checks, so a dead PoP stays in its answers", section.place),
        );
    }
    let candidates = (candidates.unwrap_or(CANDIDATES_DEFAULT) as usize).max(answers);
    let (ttl_min, ttl_max) = ttl(section);
    let named = references(section, "checks", "check", checks);
    Some(Service {
        strategy: strategy(section, &members, pops)?,
        shed_above: shed_above(section, named.iter().filter_map(|name| checks.get(name))),
        checks: named,
        answers,
        candidates,
        ttl_min,
        ttl_max,
        all_down: all_down(section, pops),
        alpn: alpn(section),
        pops: members,
        name,
    })
}

/// Loads come with the answers of `http` and `https` checks; without one there is nothing to go by.
fn shed_above<'c>(section: &Section<'_>, mut checks: impl Iterator<Item = &'c Check>) -> Option<f64> {
    let above = section.number("shed_above", SHED_ABOVE_MIN, 1.0)?;
    if !checks.any(|check| matches!(check.probe, Probe::Http(_) | Probe::Https { .. })) {
        let message = format!(
            "{}: no http or https check of this service, so no load is known",
            section.name("shed_above")
        );
        section.doc.warn(section.place_of("shed_above"), message);
    }
    Some(above)
}

/// A list of names of another section's.
fn references<T>(section: &Section<'_>, key: &str, kind: &str, known: &BTreeMap<Id, T>) -> Vec<Id> {
    let Some(value) = section.value(key) else { return Vec::new() };
    let mut found: Vec<Id> = Vec::new();
    for value in members(value) {
        let valid = known.keys().map(String::as_str);
        if let Some(name) = section.doc.reference(value, &section.name(key), kind, valid) {
            if found.contains(&name) {
                section.doc.mistake(value.span(), format!("{}: `{name}` is named twice", section.name(key)));
            } else {
                found.push(name);
            }
        }
    }
    found
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Nearest,
    Ordered,
    Weighted,
    Hash,
    Rules,
}

fn strategy(section: &Section<'_>, members: &[Id], pops: &BTreeMap<Id, Pop>) -> Option<Strategy> {
    let orders = [
        ("nearest", Order::Nearest),
        ("ordered", Order::Ordered),
        ("weighted", Order::Weighted),
        ("hash", Order::Hash),
        ("rules", Order::Rules),
    ];
    let order = match section.value("strategy") {
        Some(_) => section.word("strategy", &orders)?,
        None => Order::Nearest,
    };
    if order != Order::Weighted {
        misplaced_strategy(section, "weights", "weighted");
    }
    if order != Order::Rules {
        misplaced_strategy(section, "rule", "rules");
    }
    Some(match order {
        Order::Nearest => Strategy::Nearest,
        Order::Ordered => Strategy::Ordered,
        Order::Hash => Strategy::Hash,
        Order::Weighted => Strategy::Weighted(weights(section, members)),
        Order::Rules => Strategy::Rules(rules(section, pops)),
    })
}

fn misplaced_strategy(section: &Section<'_>, key: &str, strategy: &str) {
    if section.value(key).is_some() {
        let message = format!("{} goes with strategy = \"{strategy}\"", section.name(key));
        section.doc.mistake(section.place_of(key), message);
    }
}

fn weights(section: &Section<'_>, members: &[Id]) -> Vec<u32> {
    section.required("weights", "a weight per PoP, like { fra = 3, nyc = 1 }");
    let mut weights: BTreeMap<&str, u32> = BTreeMap::new();
    for (pop, span, value) in section.entries("weights") {
        if !members.iter().any(|member| member == pop) {
            section.doc.mistake(
                span,
                format!("{}: `{pop}` is not among the service's pops", section.name("weights")),
            );
        }
        match integer(value.get_ref())
            .and_then(|weight| u32::try_from(weight).ok())
            .filter(|w| *w <= 1_000_000)
        {
            Some(weight) => drop(weights.insert(pop, weight)),
            None => section.doc.expected(value, &section.name("weights"), "a whole number from 0 to 1000000"),
        }
    }
    let list: Vec<u32> = members.iter().map(|pop| weights.get(pop.as_str()).copied().unwrap_or(1)).collect();
    if !list.is_empty() && list.iter().all(|weight| *weight == 0) {
        section.doc.mistake(section.place_of("weights"), format!("{}: all are 0", section.name("weights")));
    }
    list
}

fn rules(section: &Section<'_>, pops: &BTreeMap<Id, Pop>) -> Vec<Rule> {
    if section.required("rule", "at least one [[service.NAME.rule]]").is_none() {
        return Vec::new();
    }
    let mut rules = Vec::new();
    for rule in section.repeated("rule", keys::RULE) {
        rule.required("when", WHEN);
        rule.required("pops", "PoPs in order of preference");
        let when = rule.list("when", WHEN, |value| condition(value.get_ref().as_str()?)).unwrap_or_default();
        let pops = references(&rule, "pops", "pop", pops);
        if !when.is_empty() && !pops.is_empty() {
            rules.push(Rule { when, pops });
        }
    }
    rules
}

pub(super) const WHEN: &str =
    "continents (\"EU\"), countries (\"EU-DE\"), subdivisions (\"NA-US-CA\"), \"AS64500\" or networks";

/// octoDNS-like codes always begin with the continent, so that `NA` is North America and never Namibia.
pub(super) fn condition(text: &str) -> Option<Match> {
    if let Some(found) = prefix(text) {
        return Some(Match::Network(found.0, found.1));
    }
    if let Some(Ok(number)) = text.strip_prefix("AS").map(str::parse) {
        return Some(Match::Asn(number));
    }
    let mut parts = text.split('-');
    let continent = parts.next().filter(|code| CONTINENTS.contains(code))?;
    let upper = |code: &str, length: std::ops::RangeInclusive<usize>| {
        length.contains(&code.len()) && code.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    };
    match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => Some(Match::Continent(continent.to_owned())),
        (Some(country), None, _) if upper(country, 2..=2) => Some(Match::Country(country.to_owned())),
        (Some(country), Some(subdivision), None) if upper(country, 2..=2) && upper(subdivision, 1..=3) => {
            Some(Match::Subdivision { country: country.to_owned(), subdivision: subdivision.to_owned() })
        }
        _ => None,
    }
}

fn ttl(section: &Section<'_>) -> (Duration, Duration) {
    let (min, max) = (Duration::from_secs(10), Duration::from_secs(300));
    let Some(ttl) = section.section("ttl", keys::TTL) else { return (min, max) };
    let bound =
        |key, default| whole_seconds(&ttl, key, ttl.duration(key, default, Duration::from_secs(1), TTL_MAX));
    let low = bound("min", min);
    let high = bound("max", max.max(low));
    if low > high {
        ttl.doc.mistake(ttl.place_of("min"), format!("[{}]: min is above max", ttl.place));
    }
    (low, high)
}

fn whole_seconds(section: &Section<'_>, key: &str, duration: Duration) -> Duration {
    if duration.subsec_millis() != 0 {
        section.doc.mistake(section.place_of(key), format!("{}: a TTL is whole seconds", section.name(key)));
    }
    duration
}

fn all_down(section: &Section<'_>, pops: &BTreeMap<Id, Pop>) -> AllDown {
    match section.value("all_down").map(|value| value.get_ref()) {
        None => AllDown::All,
        Some(DeValue::Array(_)) => AllDown::Pops(references(section, "all_down", "pop", pops)),
        Some(_) => section
            .read("all_down", "\"all\", \"nodata\" or a list of PoPs", |value| match value.as_str()? {
                "all" => Some(AllDown::All),
                "nodata" => Some(AllDown::NoData),
                _ => None,
            })
            .unwrap_or(AllDown::All),
    }
}

fn alpn(section: &Section<'_>) -> Vec<String> {
    section
        .list("alpn", "ALPN ids like \"h2\"", |value| {
            let id = value.get_ref().as_str()?;
            (matches!(id.len(), 1..=32) && id.bytes().all(|b| b.is_ascii_graphic() && b != b','))
                .then(|| id.to_owned())
        })
        .unwrap_or_default()
}

pub(super) fn zones(top: &Section<'_>, services: &BTreeMap<Id, Service>) -> BTreeMap<String, Zone> {
    let mut zones = BTreeMap::new();
    for (origin, section) in top.named("zone", keys::ZONE) {
        section.required("file", "the path of a master file");
        let file = section.path("file", Role::Zone);
        let names = section
            .entries("names")
            .into_iter()
            .filter_map(|(name, _, value)| bind(&section, name, value, services))
            .collect();
        let origin = match origin.trim_end_matches('.') {
            "" => ".".to_owned(),
            name => name.to_ascii_lowercase(),
        };
        if let Err(error) = origin.parse::<nearside_zones::Name>() {
            section.doc.mistake(
                section.span(),
                format!("[{}]: {origin:?} is not a domain name: {error}", section.place),
            );
        }
        let Some(file) = file else { continue };
        if zones.insert(origin.clone(), Zone { origin: origin.clone(), file, names }).is_some() {
            let message = format!("[{}]: the zone {origin} is there twice", section.place);
            section.doc.mistake(section.span(), message);
        }
    }
    zones
}

fn bind(
    section: &Section<'_>,
    name: &str,
    value: Value<'_>,
    services: &BTreeMap<Id, Service>,
) -> Option<(String, Id)> {
    let place = section.name("names");
    if name.is_empty() {
        section.doc.mistake(value.span(), format!("{place}: an empty name; the apex is \"@\""));
    }
    if name != "@" && name.parse::<nearside_zones::Name>().is_err() {
        section.doc.mistake(value.span(), format!("{place}: {name:?} is not a name relative to the zone"));
    }
    if name.ends_with('.') {
        let message = format!("{place}: {name:?} is relative to the zone; write it without the final dot");
        section.doc.mistake(value.span(), message);
    }
    let service = section.doc.reference(value, &place, "service", services.keys().map(String::as_str))?;
    Some((name.to_ascii_lowercase(), service))
}
