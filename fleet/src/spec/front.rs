//! What PoPs and sites say of connections in front: `proxy_protocol`, `h2c`, `limits`, `https`, `hsts`, `server`.

use std::{net::SocketAddr, time::Duration};

use super::{geography::prefix, keys, reader::Section};
use crate::config::front::{
    FrontLimits, Hsts, Network, PlainHttp, PopFront, ProxyProtocol, ServerField, SiteFront, SiteLimits,
    TlsVersion,
};

const DAY: Duration = Duration::from_secs(86_400);
/// Browsers' lists want a year and subdomains (hstspreload.org).
const PRELOAD_AGE_MIN: Duration = Duration::from_secs(365 * 86_400);
/// As many sockets as a process may be given.
const CONNECTIONS_MAX: i64 = 1 << 20;
/// Of `Server`: a name and a version.
const SERVER_BYTES_MAX: usize = 128;

const NETWORKS: &str = "networks like \"192.0.2.0/24\", host bits zero, or addresses";

pub(super) fn pop(section: &Section<'_>, listeners: &[SocketAddr]) -> PopFront {
    let proxies = section.repeated("proxy_protocol", keys::PROXY_PROTOCOL);
    let proxy_protocol = proxies.iter().filter_map(|inner| proxy_protocol(inner, listeners)).collect();
    let h2c = section.read("h2c", "true or false", |value| value.as_bool()).unwrap_or(false);
    PopFront { proxy_protocol, h2c, limits: limits(section) }
}

fn proxy_protocol(section: &Section<'_>, listeners: &[SocketAddr]) -> Option<ProxyProtocol> {
    section.required("from", NETWORKS);
    let listen: Option<SocketAddr> = section.parse("listen", "one of this PoP's `http` and `https`");
    if let Some(listen) = listen.filter(|listen| !listeners.contains(listen)) {
        let message = format!("{}: {listen} is not among this PoP's listeners", section.name("listen"));
        section.doc.mistake(section.place_of("listen"), message);
    }
    let from = section.list("from", NETWORKS, |value| {
        let text = value.get_ref().as_str()?;
        let host = |address: std::net::IpAddr| (address, if address.is_ipv4() { 32 } else { 128 });
        let (address, length) = text.parse().ok().map(host).or_else(|| prefix(text))?;
        Some(Network { address, length })
    })?;
    // A listener that was mistaken must not make the entry mean all of them.
    (section.value("listen").is_none() || listen.is_some()).then_some(ProxyProtocol { listen, from })
}

fn limits(section: &Section<'_>) -> FrontLimits {
    let mut limits = FrontLimits::default();
    let Some(inner) = section.section("limits", keys::POP_LIMITS) else { return limits };
    let count = |key, default| {
        let read = inner.integer(key, 1, CONNECTIONS_MAX);
        read.and_then(|count| usize::try_from(count).ok()).unwrap_or(default)
    };
    limits.connections_max = count("connections_max", limits.connections_max);
    limits.connections_per_client_max =
        count("connections_per_client_max", limits.connections_per_client_max);
    let second = Duration::from_secs(1);
    limits.handshake_timeout =
        inner.duration("handshake_timeout", limits.handshake_timeout, second, 60 * second);
    limits.download_rate_min = inner.bytes("download_rate_min", limits.download_rate_min);
    limits.upload_rate_min = inner.bytes("upload_rate_min", limits.upload_rate_min);
    limits.rate_window = inner.duration("rate_window", limits.rate_window, second, 3600 * second);
    limits
}

pub(super) fn site(section: &Section<'_>) -> SiteFront {
    let plain = section.word("https", &[("optional", PlainHttp::Serve), ("redirect", PlainHttp::Redirect)]);
    let plain = plain.unwrap_or_default();
    if plain == PlainHttp::Redirect && section.value("tls").is_none() {
        let message = format!("{}: goes with `tls`: there is nowhere to redirect to", section.name("https"));
        section.doc.mistake(section.place_of("https"), message);
    }
    SiteFront {
        plain,
        hsts: hsts(section),
        server: server(section),
        tls_version_min: TlsVersion::V12,
        limits: site_limits(section),
    }
}

/// `min_version` of `[site.NAME.tls]`.
pub(super) fn tls_version_min(tls: &Section<'_>) -> TlsVersion {
    tls.word("min_version", &[("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)]).unwrap_or_default()
}

fn hsts(section: &Section<'_>) -> Option<Hsts> {
    let inner = section.section("hsts", keys::HSTS)?;
    inner.required("max_age", "how long, like \"365d\"; \"0s\" takes it back");
    let flag = |key| inner.read(key, "true or false", |value| value.as_bool()).unwrap_or(false);
    let hsts = Hsts {
        max_age: inner.duration("max_age", PRELOAD_AGE_MIN, Duration::ZERO, 3650 * DAY),
        include_subdomains: flag("include_subdomains"),
        preload: flag("preload"),
    };
    if hsts.preload && (!hsts.include_subdomains || hsts.max_age < PRELOAD_AGE_MIN) {
        let message = format!(
            "{}: browsers' lists want `include_subdomains` and a `max_age` of at least 365d",
            inner.name("preload")
        );
        inner.doc.mistake(inner.place_of("preload"), message);
    }
    Some(hsts)
}

fn server(section: &Section<'_>) -> ServerField {
    let expected = "up to 128 printable ASCII characters; \"\" sends no Server";
    let text = section.read("server", expected, |value| {
        let text = value.as_str()?;
        let legal = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        (legal && text.len() <= SERVER_BYTES_MAX && text.trim() == text).then(|| text.to_owned())
    });
    match text {
        None => ServerField::Origin,
        Some(text) if text.is_empty() => ServerField::Absent,
        Some(text) => ServerField::Text(text),
    }
}

fn site_limits(section: &Section<'_>) -> SiteLimits {
    let mut limits = SiteLimits::default();
    let Some(inner) = section.section("limits", keys::SITE_LIMITS) else { return limits };
    let count = |key| inner.integer(key, 1, CONNECTIONS_MAX).and_then(|count| usize::try_from(count).ok());
    limits.body_bytes_max = inner.bytes("body_max", limits.body_bytes_max);
    limits.connections_max = count("connections_max");
    limits.requests_max = count("requests_max");
    limits
}
