//! Every key of the fleet file, by section. The reader refuses others, `docs/fleet-file.md` explains these:
//! a test holds the two together.

pub(crate) const TOP: &[&str] = &[
    "version",
    "fleet",
    "geoip",
    "pop",
    "dns",
    "check",
    "service",
    "zone",
    "site",
    "controller",
    "acme",
    "ticket_keys",
    "shared_limits",
];
pub(crate) const GEOIP: &[&str] = &["databases", "network", "resolver"];
pub(crate) const NETWORK: &[&str] = &["network", "country", "continent", "subdivision", "location"];
pub(crate) const RESOLVER: &[&str] = &["network", "place_as"];
pub(crate) const LOCATION: &[&str] = &["latitude", "longitude"];
pub(crate) const POP: &[&str] = &[
    "location",
    "ipv4",
    "ipv6",
    "http",
    "https",
    "http3",
    "shield",
    "control",
    "metrics",
    "bias_km",
    "memory",
    "cache_dir",
    "disk",
    "workers",
    "proxy_protocol",
    "h2c",
    "limits",
];
pub(crate) const PROXY_PROTOCOL: &[&str] = &["listen", "from"];
pub(crate) const POP_LIMITS: &[&str] = &[
    "connections_max",
    "connections_per_client_max",
    "handshake_timeout",
    "download_rate_min",
    "upload_rate_min",
    "rate_window",
];
pub(crate) const DNS: &[&str] =
    &["listen", "encrypted", "id", "version", "rate_limit", "control", "metrics", "workers"];
pub(crate) const ENCRYPTED: &[&str] = &["tls", "https", "quic", "certificate", "key"];
pub(crate) const CHECK: &[&str] = &[
    "type", "port", "host", "path", "status", "body", "verify", "ca", "command", "family", "interval",
    "timeout", "rise", "fall", "views",
];
pub(crate) const SERVICE: &[&str] = &[
    "pops",
    "strategy",
    "weights",
    "rule",
    "checks",
    "answers",
    "candidates",
    "ttl",
    "all_down",
    "alpn",
    "shed_above",
];
pub(crate) const RULE: &[&str] = &["when", "pops"];
pub(crate) const TTL: &[&str] = &["min", "max"];
pub(crate) const ZONE: &[&str] = &["file", "names"];
pub(crate) const SITE: &[&str] = &[
    "hosts",
    "origin",
    "balance",
    "shields",
    "tls",
    "http3",
    "http3_max_age",
    "cache",
    "https",
    "hsts",
    "server",
    "limits",
    "gates",
    "price_per_gb",
    "compress",
    "images",
    "rule",
    "split",
    "error_pages",
    "request_id_from",
    "code",
];
pub(crate) const GATES: &[&str] =
    &["secret", "network", "place", "rate", "concurrency", "waf", "bandwidth", "signed", "jwt"];
pub(crate) const GATE_SECRET: &[&str] = &["name", "values", "mode", "log"];
pub(crate) const GATE_NETWORK: &[&str] =
    &["allow", "deny", "allow_files", "deny_files", "others", "mode", "log"];
pub(crate) const GATE_PLACE: &[&str] = &["allow", "deny", "others", "status", "page", "mode", "log"];
pub(crate) const GATE_RATE: &[&str] =
    &["name", "per", "rate", "burst", "path", "ipv6_prefix", "shared", "mode", "log"];
pub(crate) const GATE_CONCURRENCY: &[&str] = &["requests", "ipv6_prefix", "mode", "log"];
pub(crate) const GATE_WAF: &[&str] =
    &["families", "threshold", "headers", "query_max", "rule", "exclude", "mode", "log"];
pub(crate) const GATE_WAF_RULE: &[&str] = &["id", "pattern", "in", "score"];
pub(crate) const GATE_WAF_EXCLUDE: &[&str] = &["id", "path", "parameter"];
pub(crate) const GATE_BANDWIDTH: &[&str] = &["per_response", "per_client", "after", "ipv6_prefix"];
pub(crate) const SHARED_LIMITS: &[&str] = &["redis", "username", "password_file", "interval", "timeout"];
pub(crate) const SITE_RULE: &[&str] = &["name", "when", "then", "continue"];
pub(crate) const RULE_WHEN: &[&str] = &[
    "path",
    "path_regex",
    "extension",
    "method",
    "host",
    "scheme",
    "header",
    "cookie",
    "query",
    "country",
    "continent",
    "subdivision",
    "asn",
    "client",
    "split",
    "time",
    "not",
];
/// As [`RULE_WHEN`], without another `not`.
pub(crate) const RULE_NOT: &[&str] = &[
    "path",
    "path_regex",
    "extension",
    "method",
    "host",
    "scheme",
    "header",
    "cookie",
    "query",
    "country",
    "continent",
    "subdivision",
    "asn",
    "client",
    "split",
    "time",
];
pub(crate) const RULE_TIME: &[&str] = &["from", "until", "weekdays", "hours", "offset"];
pub(crate) const THEN: &[&str] = &[
    "cache",
    "request_headers",
    "response_headers",
    "cors",
    "rewrite",
    "origin",
    "same_content",
    "throttle",
    "tags",
    "redirect",
    "respond",
    "block",
];
pub(crate) const RULE_CACHE: &[&str] = &["ttl", "client_cache_control", "bypass", "query", "key"];
pub(crate) const RULE_KEY: &[&str] = &["headers", "cookies", "country", "splits"];
pub(crate) const RULE_FIELDS: &[&str] = &["set", "add", "remove"];
pub(crate) const RULE_CORS: &[&str] = &["origins", "methods", "headers", "expose", "credentials", "max_age"];
pub(crate) const RULE_REWRITE: &[&str] = &["path", "query"];
pub(crate) const RULE_REDIRECT: &[&str] = &["to", "status"];
pub(crate) const RULE_RESPOND: &[&str] = &["status", "body", "file", "content_type"];
pub(crate) const SPLIT: &[&str] = &["arms", "cookie", "set_cookie", "request_header", "response_header"];
pub(crate) const ERROR_PAGES: &[&str] = &["pages", "replace_origin"];
pub(crate) const HSTS: &[&str] = &["max_age", "include_subdomains", "preload"];
pub(crate) const SITE_LIMITS: &[&str] = &["body_max", "connections_max", "requests_max"];
pub(crate) const ORIGIN: &[&str] = &[
    "url",
    "name",
    "weight",
    "backup",
    "host_header",
    "sni",
    "tls_min",
    "http2",
    "connections_max",
    "connect_timeout",
    "first_byte_timeout",
    "between_bytes_timeout",
    "ca",
    "resolve_interval",
    "allow_networks",
    "secret_header",
    "request_headers",
    "follow_redirects",
    "s3",
    "azure",
];
pub(crate) const S3: &[&str] =
    &["bucket", "region", "style", "access_key_id", "secret_file", "prefix", "index"];
pub(crate) const AZURE: &[&str] =
    &["account", "container", "path_style", "key_file", "sas_file", "prefix", "index"];
pub(crate) const SECRET_HEADER: &[&str] = &["name", "values"];
pub(crate) const BALANCE: &[&str] = &[
    "strategy",
    "rule",
    "load_max",
    "failover_on",
    "retry_budget",
    "retries_min",
    "check",
    "eject",
    "circuit",
];
pub(crate) const BALANCE_RULE: &[&str] = &["when", "origins"];
pub(crate) const BALANCE_CHECK: &[&str] = &["path", "host", "status", "interval", "timeout", "rise", "fall"];
pub(crate) const EJECT: &[&str] = &["failures", "ratio", "requests_min", "time", "time_max", "share_max"];
pub(crate) const CIRCUIT: &[&str] = &["failures", "open", "open_max"];
pub(crate) const GATE_SIGNED: &[&str] =
    &["keys", "paths", "unsigned_query", "cookie", "life_max", "mode", "log"];
pub(crate) const GATE_JWT: &[&str] = &[
    "paths",
    "from",
    "algorithms",
    "jwks_file",
    "jwks_url",
    "ca",
    "refresh",
    "secret_file",
    "issuer",
    "audience",
    "leeway",
    "claims",
    "forward",
    "shared",
    "mode",
    "log",
];
pub(crate) const TLS: &[&str] =
    &["certificate", "key", "issuer", "min_version", "directories", "delegation", "key_type"];
pub(crate) const CACHE: &[&str] = &[
    "default_ttl",
    "negative_ttl",
    "stale_while_revalidate",
    "stale_if_error",
    "object_max",
    "query",
    "bypass_cookies",
    "set_cookie",
    "key_headers",
    "rule",
];
pub(crate) const CACHE_RULE: &[&str] = &["path", "extensions", "status", "ttl", "client_cache_control"];
pub(crate) const COMPRESS: &[&str] = &["codings", "types", "min", "max"];
pub(crate) const CODE: &[&str] = &["module", "on_error", "fuel", "time", "memory"];
pub(crate) const IMAGES: &[&str] = &["formats", "widths", "heights", "qualities", "quality", "max", "wait"];
pub(crate) const QUERY: &[&str] = &["only", "except"];
pub(crate) const CONTROLLER: &[&str] = &[
    "listen",
    "metrics",
    "publish",
    "canary",
    "waves",
    "watch",
    "certificates",
    "backup",
    "webhook",
    "price_per_gb",
    "currency",
];
pub(crate) const ACME: &[&str] = &["directories", "resolver", "directory"];
pub(crate) const ACME_DIRECTORY: &[&str] = &["url", "contact", "ca", "caa", "eab_kid", "eab_key_file"];
pub(crate) const BACKUP: &[&str] = &["directory", "recipient", "every", "keep"];
pub(crate) const WEBHOOK: &[&str] = &["url", "url_file", "format", "secret_file", "ca", "events"];

/// Sections by the heading that the document gives them, with their keys.
pub const SECTIONS: &[(&str, &[&str])] = &[
    ("top level", TOP),
    ("geoip", GEOIP),
    ("geoip.network", NETWORK),
    ("geoip.resolver", RESOLVER),
    ("pop.NAME", POP),
    ("pop.NAME.proxy_protocol", PROXY_PROTOCOL),
    ("pop.NAME.limits", POP_LIMITS),
    ("dns.NAME", DNS),
    ("dns.NAME.encrypted", ENCRYPTED),
    ("check.NAME", CHECK),
    ("service.NAME", SERVICE),
    ("service.NAME.rule", RULE),
    ("service.NAME.ttl", TTL),
    ("zone.ORIGIN", ZONE),
    ("site.NAME", SITE),
    ("site.NAME.origin", ORIGIN),
    ("site.NAME.origin.s3", S3),
    ("site.NAME.origin.azure", AZURE),
    ("site.NAME.origin.secret_header", SECRET_HEADER),
    ("site.NAME.balance", BALANCE),
    ("site.NAME.balance.rule", BALANCE_RULE),
    ("site.NAME.balance.check", BALANCE_CHECK),
    ("site.NAME.balance.eject", EJECT),
    ("site.NAME.balance.circuit", CIRCUIT),
    ("site.NAME.tls", TLS),
    ("site.NAME.hsts", HSTS),
    ("site.NAME.limits", SITE_LIMITS),
    ("site.NAME.gates", GATES),
    ("site.NAME.gates.secret", GATE_SECRET),
    ("site.NAME.gates.network", GATE_NETWORK),
    ("site.NAME.gates.place", GATE_PLACE),
    ("site.NAME.gates.rate", GATE_RATE),
    ("site.NAME.gates.concurrency", GATE_CONCURRENCY),
    ("site.NAME.gates.waf", GATE_WAF),
    ("site.NAME.gates.waf.rule", GATE_WAF_RULE),
    ("site.NAME.gates.waf.exclude", GATE_WAF_EXCLUDE),
    ("site.NAME.gates.bandwidth", GATE_BANDWIDTH),
    ("site.NAME.gates.signed", GATE_SIGNED),
    ("site.NAME.gates.jwt", GATE_JWT),
    ("shared_limits", SHARED_LIMITS),
    ("site.NAME.cache", CACHE),
    ("site.NAME.cache.rule", CACHE_RULE),
    ("site.NAME.compress", COMPRESS),
    ("site.NAME.images", IMAGES),
    ("site.NAME.rule", SITE_RULE),
    ("site.NAME.rule.when", RULE_WHEN),
    ("site.NAME.rule.when.time", RULE_TIME),
    ("site.NAME.rule.then", THEN),
    ("site.NAME.rule.then.cache", RULE_CACHE),
    ("site.NAME.rule.then.cache.key", RULE_KEY),
    ("site.NAME.rule.then.request_headers", RULE_FIELDS),
    ("site.NAME.rule.then.cors", RULE_CORS),
    ("site.NAME.rule.then.rewrite", RULE_REWRITE),
    ("site.NAME.rule.then.redirect", RULE_REDIRECT),
    ("site.NAME.rule.then.respond", RULE_RESPOND),
    ("site.NAME.split.NAME", SPLIT),
    ("site.NAME.error_pages", ERROR_PAGES),
    ("site.NAME.code", CODE),
    ("controller", CONTROLLER),
    ("controller.backup", BACKUP),
    ("controller.webhook.NAME", WEBHOOK),
    ("acme", ACME),
    ("acme.directory.NAME", ACME_DIRECTORY),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const MANUAL: &str = include_str!("../../../docs/fleet-file.md");

    /// Keys by heading, as the manual's tables list them.
    fn documented() -> BTreeMap<String, BTreeSet<&'static str>> {
        let mut sections: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        let mut heading = String::new();
        for line in MANUAL.lines() {
            if let Some(text) = line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")) {
                heading = text.to_lowercase();
            } else if let Some(key) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) {
                sections.entry(heading.clone()).or_default().insert(key);
            }
        }
        sections
    }

    #[test]
    fn the_manual_explains_every_key_and_no_other() {
        let mut documented = documented();
        for (section, keys) in SECTIONS {
            let found = documented.remove(&section.to_lowercase()).unwrap_or_default();
            assert_eq!(found, keys.iter().copied().collect(), "[{section}]");
        }
        assert!(documented.is_empty(), "the manual has sections that do not exist: {documented:?}");
    }
}
