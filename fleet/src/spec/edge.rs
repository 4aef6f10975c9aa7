//! `[site.NAME]` and `[controller]`: what edges serve, and the machine at home.
//!
//! Where content comes from is read by [`super::origin`].

use std::{collections::BTreeMap, time::Duration};

use toml::de::DeValue;

use super::{
    check_name, front, gates, keys, once, origin,
    reader::{Section, Value, integer, members},
    rules, transform,
};
use crate::{
    config::{
        CacheRule, Controller, Http3, Id, KEY_HEADERS, Pop, PublishOn, QueryKey, Service, SetCookie, Site,
        SiteCache, SiteTls, Zone,
        front::{TicketKeys, TlsVersion},
    },
    files::Role,
};

const DAY: Duration = Duration::from_secs(86_400);
/// What clients remember can't be taken back where no TCP connection reaches them.
const HTTP3_MAX_AGE_MAX: Duration = Duration::from_secs(30 * 86_400);

pub(super) fn sites(top: &Section<'_>, pops: &BTreeMap<Id, Pop>) -> BTreeMap<Id, Site> {
    let (mut sites, mut hosts) = (BTreeMap::new(), BTreeMap::new());
    let shares = top.value("shared_limits").is_some();
    for (name, section) in top.named("site", keys::SITE) {
        check_name(&section, &name);
        if let Some(site) = site(name.clone(), &section, pops, shares) {
            for host in &site.hosts {
                once(&mut hosts, &section, "hosts", host.clone());
            }
            sites.insert(name, site);
        }
    }
    sites
}

fn site(name: Id, section: &Section<'_>, pops: &BTreeMap<Id, Pop>, shares: bool) -> Option<Site> {
    section.required("hosts", "host names like \"www.example.org\"");
    let hosts = section
        .list("hosts", "host names like \"www.example.org\" or \"*.example.org\"", |value| {
            let host = value.get_ref().as_str()?.trim_end_matches('.').to_ascii_lowercase();
            is_host(host.strip_prefix("*.").unwrap_or(&host)).then_some(host)
        })
        .unwrap_or_default();
    let origins = origin::origins(section);
    let balance = origin::balance(section, &origins);
    let mut front = front::site(section);
    let tls = tls(section, &mut front.tls_version_min);
    let http3 = http3(section, tls.is_some());
    // Objects in storage have no query: `?1`, `?2`, … must not each be fetched and kept.
    let in_storage = origins.iter().any(|origin| origin.storage.is_some());
    let cache = cache(section, if in_storage { QueryKey::Ignore } else { QueryKey::Keep });
    let shields = shields(section, pops);
    let gates = gates::gates(section, shares);
    let price_per_gb = section.number("price_per_gb", 0.0, PRICE_MAX);
    let transform = transform::site(section);
    let splits = rules::splits(section);
    let rules = rules::rules(section, &rules::Names { origins: &origins, splits: &splits, hosts: &hosts });
    let (error_pages, request_id_from) = (rules::error_pages(section), rules::request_id_from(section));
    Some(Site {
        name,
        hosts,
        origins,
        balance,
        shields,
        tls,
        http3,
        cache,
        front,
        gates,
        price_per_gb,
        transform,
        rules,
        splits,
        error_pages,
        request_id_from,
    })
}

/// PoPs that other edges can reach: a shield without a listener or an address would never be asked.
fn shields(section: &Section<'_>, pops: &BTreeMap<Id, Pop>) -> Vec<Id> {
    let known =
        pops.values().filter(|pop| pop.shield.is_some() && !(pop.ipv4.is_empty() && pop.ipv6.is_empty()));
    let known: Vec<&str> = known.map(|pop| pop.name.as_str()).collect();
    let expected = match known.is_empty() {
        true => "PoPs that have `shield` and an address; none has".to_owned(),
        false => format!("PoPs that have `shield` and an address, of {}", known.join(", ")),
    };
    let named = section.list("shields", &expected, |value| {
        value.get_ref().as_str().filter(|name| known.contains(name)).map(str::to_owned)
    });
    let mut shields = named.unwrap_or_default();
    shields.sort();
    shields.dedup();
    shields
}

fn http3(section: &Section<'_>, has_tls: bool) -> Http3 {
    let max_age = section.duration("http3_max_age", DAY, Duration::ZERO, HTTP3_MAX_AGE_MAX);
    match section.read("http3", "true or false", |value| value.as_bool()) {
        None => Http3::Never,
        Some(false) => Http3::Off,
        Some(true) if has_tls => Http3::On { max_age },
        Some(true) => {
            let message =
                format!("{}: HTTP/3 needs a certificate, and there is no `tls`", section.name("http3"));
            section.doc.mistake(section.place_of("http3"), message);
            Http3::Never
        }
    }
}

/// Holds what HTTPS records promise against what edges do: a record that names `h3` where nobody speaks it costs each
/// of its clients an attempt (RFC 9460 section 7.1.2 lets them try what is listed).
pub(super) fn promises(
    top: &Section<'_>,
    pops: &BTreeMap<Id, Pop>,
    services: &BTreeMap<Id, Service>,
    zones: &BTreeMap<String, Zone>,
    sites: &BTreeMap<Id, Site>,
) {
    let find = |host: &str| {
        let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let serves = |wanted: &str| sites.values().find(|site| site.hosts.iter().any(|host| host == wanted));
        serves(host).or_else(|| serves(&wildcard?))
    };
    for (written, section) in top.named("zone", keys::ZONE) {
        let origin = written.trim_end_matches('.').to_ascii_lowercase();
        let Some(zone) = zones.get(&origin) else { continue };
        for (name, _, value) in section.entries("names") {
            let name = name.to_ascii_lowercase();
            let Some(service) = zone.names.get(&name).and_then(|service| services.get(service)) else {
                continue;
            };
            let host = if name == "@" { origin.clone() } else { format!("{name}.{origin}") };
            let Some(site) = find(&host) else { continue };
            let promised = service.alpn.iter().any(|id| id == "h3");
            let on = matches!(site.http3, Http3::On { .. });
            let without = service.pops.iter().find(|pop| pops.get(*pop).is_some_and(|pop| !pop.http3));
            let (place, served_by) = (section.name("names"), &service.name);
            match (promised, on, without) {
                (true, false, _) => section.doc.mistake(
                    value.span(),
                    format!(
                        "{place}: {host}: service `{served_by}` announces \"h3\", but site `{}` has no `http3 = true`",
                        site.name
                    ),
                ),
                (true, true, Some(pop)) => section.doc.mistake(
                    value.span(),
                    format!("{place}: {host}: service `{served_by}` announces \"h3\", but PoP `{pop}` has no `http3 = true`"),
                ),
                (false, true, None) if !service.alpn.is_empty() => section.doc.warn(
                    value.span(),
                    format!(
                        "{place}: {host}: site `{}` and all PoPs speak HTTP/3, but `alpn` of service `{served_by}` \
                         does not list \"h3\": clients learn it from Alt-Svc only",
                        site.name
                    ),
                ),
                _ => {}
            }
        }
    }
}

pub(super) fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// Directory beside the fleet file where a snapshot lays the certificates that home issued.
pub const FLEET_CA_DIR: &str = "fleet-ca";

/// The file in it that holds the keys of TLS session tickets.
pub const TICKET_KEYS_FILE: &str = "tickets.keys";

/// The file that is named, or the one that home laid beside the fleet file.
pub(super) fn ticket_keys(top: &Section<'_>) -> TicketKeys {
    if top.value("ticket_keys").is_some() {
        return top.path("ticket_keys", Role::Key);
    }
    let laid = top.doc.paths.real(&format!("{FLEET_CA_DIR}/{TICKET_KEYS_FILE}"));
    laid.exists().then_some(laid)
}

/// Where home's certificate was laid beside the fleet file it is used; else it was not published yet.
fn from_home(section: &Section<'_>, issuer: SiteTls) -> SiteTls {
    let site = section.place.strip_prefix("site.").unwrap_or(&section.place);
    let file = |end: &str| section.doc.paths.real(&format!("{FLEET_CA_DIR}/{site}.{end}"));
    let (certificate, key) = (file("cert.pem"), file("key.pem"));
    if certificate.exists() && key.exists() { SiteTls::Files { certificate, key } } else { issuer }
}

const TLS: &str = "\"fleet\", \"acme\", \"import\" or { certificate = \"chain.pem\", key = \"key.pem\" }";

/// Who a certificate that home publishes may come from. What a site says of its orders is read by [`super::acme`].
fn issuers() -> [(&'static str, SiteTls); 3] {
    [("fleet", SiteTls::FleetCa), ("acme", SiteTls::Acme(Box::default())), ("import", SiteTls::Import)]
}

fn issuer(word: &str) -> Option<SiteTls> {
    issuers().into_iter().find(|(known, _)| *known == word).map(|(_, issuer)| issuer)
}

fn tls(section: &Section<'_>, version_min: &mut TlsVersion) -> Option<SiteTls> {
    match section.value("tls")?.get_ref() {
        DeValue::String(word) if issuer(word).is_some() => {
            issuer(word).map(|issuer| from_home(section, issuer))
        }
        DeValue::Table(_) => {
            let inner = section.section("tls", keys::TLS)?;
            *version_min = front::tls_version_min(&inner);
            if let Some(issuer) = inner.word("issuer", &issuers()) {
                for key in ["certificate", "key"].iter().filter(|key| inner.value(key).is_some()) {
                    inner
                        .doc
                        .mistake(inner.place_of(key), format!("{}: not beside `issuer`", inner.name(key)));
                }
                return Some(from_home(section, issuer));
            }
            if inner.value("issuer").is_some() {
                return None;
            }
            inner.required("certificate", "the path of a PEM chain, leaf first");
            inner.required("key", "the path of a PEM private key");
            let (certificate, key) =
                (inner.path("certificate", Role::Certificate), inner.path("key", Role::Key));
            Some(SiteTls::Files { certificate: certificate?, key: key? })
        }
        _ => section.read("tls", TLS, |_| None),
    }
}

/// `unsaid` is how the query is part of the key where the file does not say it.
fn cache(section: &Section<'_>, unsaid: QueryKey) -> SiteCache {
    let mut cache = SiteCache { query: unsaid.clone(), ..SiteCache::default() };
    let Some(inner) = section.section("cache", keys::CACHE) else { return cache };
    let stale = |key| inner.duration(key, Duration::ZERO, Duration::ZERO, 365 * DAY);
    cache.default_ttl = ttl(&inner, "default_ttl");
    cache.negative_ttl = ttl(&inner, "negative_ttl");
    cache.stale_while_revalidate = stale("stale_while_revalidate");
    cache.stale_if_error = stale("stale_if_error");
    cache.object_bytes_max = inner.bytes("object_max", cache.object_bytes_max);
    cache.query = query(&inner, unsaid);
    cache.bypass_cookies = inner.list("bypass_cookies", "names of cookies", cookie_name).unwrap_or_default();
    let set_cookie = [("refuse", SetCookie::Refuse), ("strip", SetCookie::Strip), ("keep", SetCookie::Keep)];
    cache.set_cookie = inner.word("set_cookie", &set_cookie).unwrap_or(cache.set_cookie);
    let header = format!("one of {}", KEY_HEADERS.join(", "));
    cache.key_headers = inner.list("key_headers", &header, key_header).unwrap_or_default();
    cache.rules = inner.repeated("rule", keys::CACHE_RULE).iter().filter_map(cache_rule).collect();
    cache
}

fn ttl(section: &Section<'_>, key: &str) -> Option<Duration> {
    section.value(key).map(|_| section.duration(key, Duration::ZERO, Duration::ZERO, 365 * DAY))
}

fn cookie_name(value: Value<'_>) -> Option<String> {
    let name = value.get_ref().as_str()?;
    let legal = name.bytes().all(|byte| byte.is_ascii_graphic() && !b"=;,\"".contains(&byte));
    (!name.is_empty() && legal).then(|| name.to_owned())
}

fn key_header(value: Value<'_>) -> Option<String> {
    let name = value.get_ref().as_str()?.to_ascii_lowercase();
    KEY_HEADERS.contains(&name.as_str()).then_some(name)
}

fn cache_rule(section: &Section<'_>) -> Option<CacheRule> {
    let rule = CacheRule {
        path: section.read("path", "the start of a path, like \"/static/\"", |value| {
            value.as_str().filter(|path| path.starts_with('/')).map(str::to_owned)
        }),
        extensions: section
            .list("extensions", "extensions like \"css\"", |value| {
                let extension = value.get_ref().as_str()?.trim_start_matches('.').to_ascii_lowercase();
                (!extension.is_empty() && !extension.contains('/')).then_some(extension)
            })
            .unwrap_or_default(),
        statuses: section
            .list("status", "statuses from 200 to 599", |value| {
                integer(value.get_ref())
                    .and_then(|status| u16::try_from(status).ok())
                    .filter(|status| (200..600).contains(status))
            })
            .unwrap_or_default(),
        ttl: ttl(section, "ttl"),
        client_cache_control: section.read("client_cache_control", "a Cache-Control value", |value| {
            let text = value.as_str()?;
            text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()).then(|| text.to_owned())
        }),
    };
    if section.value("ttl").or(section.value("client_cache_control")).is_none() {
        let message = format!("[{}]: expected `ttl`, `client_cache_control` or both", section.place);
        section.doc.mistake(section.span(), message);
    }
    // A condition that was mistaken must not make the rule match more than was meant.
    let meant = |key: &str, read: bool| section.value(key).is_none() || read;
    let sound = meant("path", rule.path.is_some())
        && meant("extensions", !rule.extensions.is_empty())
        && meant("status", !rule.statuses.is_empty());
    sound.then_some(rule)
}

pub(super) fn query(section: &Section<'_>, unsaid: QueryKey) -> QueryKey {
    let Some(value) = section.value("query") else { return unsaid };
    let words = [("keep", QueryKey::Keep), ("sort", QueryKey::Sort), ("ignore", QueryKey::Ignore)];
    if !value.get_ref().is_table() {
        return section.word("query", &words).unwrap_or(QueryKey::Keep);
    }
    let Some(inner) = section.section("query", keys::QUERY) else { return QueryKey::Keep };
    let names = |key| {
        inner.value(key).map(|value| {
            members(value)
                .into_iter()
                .filter_map(|value| {
                    let name = value.get_ref().as_str();
                    if name.is_none() {
                        inner.doc.expected(value, &inner.name(key), "names of query parameters");
                    }
                    name.map(str::to_owned)
                })
                .collect()
        })
    };
    match (names("only"), names("except")) {
        (Some(only), None) => QueryKey::Only(only),
        (None, Some(except)) => QueryKey::Except(except),
        _ => {
            inner.doc.mistake(inner.span(), format!("[{}]: expected either `only` or `except`", inner.place));
            QueryKey::Keep
        }
    }
}

/// A price above it is in another unit.
const PRICE_MAX: f64 = 1_000_000.0;

pub(super) fn controller<D>(
    top: &Section<'_>,
    pops: &BTreeMap<Id, Pop>,
    dns: &BTreeMap<Id, D>,
) -> Option<Controller> {
    let section = top.section("controller", keys::CONTROLLER)?;
    let socket = "an address and port like \"192.0.2.1:9443\"";
    section.required("listen", socket);
    let publish = section.word("publish", &[("change", PublishOn::Change), ("command", PublishOn::Command)]);
    Some(Controller {
        listen: section.parse("listen", socket)?,
        metrics: section.parse("metrics", socket),
        publish: publish.unwrap_or(PublishOn::Change),
        certificates: section.directory("certificates"),
        backup: super::backup::backup(&section),
        webhooks: super::webhook::webhooks(&section),
        price_per_gb: section.number("price_per_gb", 0.0, PRICE_MAX),
        currency: section.string("currency").unwrap_or_default(),
        rollout: super::rollout::rollout(&section, pops, dns),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::config::SiteTls;

    #[test]
    fn a_certificate_from_home_is_used_once_it_was_laid_beside_the_fleet_file() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("nearside.toml");
        let text = "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\nipv4 = \"192.0.2.1\"\n\
                    [site.s]\nhosts = \"a.test\"\norigin = \"http://192.0.2.9\"\ntls = \"fleet\"\n";
        fs::write(&file, text).unwrap();
        let tls = || crate::load(&file).unwrap().config.sites["s"].tls.clone();
        assert_eq!(tls(), Some(SiteTls::FleetCa));
        let dir = temp.path().join(super::FLEET_CA_DIR);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("s.cert.pem"), "").unwrap();
        assert_eq!(tls(), Some(SiteTls::FleetCa), "half of it is none");
        fs::write(dir.join("s.key.pem"), "").unwrap();
        let (certificate, key) = (dir.join("s.cert.pem"), dir.join("s.key.pem"));
        assert_eq!(tls(), Some(SiteTls::Files { certificate, key }));
    }
}
