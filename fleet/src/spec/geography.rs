//! `[geoip]`, `[pop.NAME]` and `[dns.NAME]`: places and the machines that stand there.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    check_name, front, keys, once,
    reader::{Section, Value, members, number},
};
use crate::{
    config::{DnsEncrypted, DnsNode, Geoip, Id, Location, NetworkPlace, Pop, ResolverPlace},
    files::Role,
};

/// An address and port, for messages.
const SOCKET: &str = "an address and port like \"192.0.2.1:443\" or \"[2001:db8::1]:443\"";
/// Half the way round the globe: a larger bias decides everything, or nothing.
const BIAS_KM_MAX: f64 = 20_038.0;
/// Of `id` and `version`: NSID rides in every answer that asks for it, and UDP answers are small.
const SAID_BYTES_MAX: usize = 63;
/// More workers than any machine this runs on has cores.
const WORKERS_MAX: i64 = 256;
/// Beyond it a limit limits nobody.
const RATE_LIMIT_MAX: i64 = 1000;
const MIB: u64 = 1 << 20;
/// Default memory tier: a quarter of the smallest machine this is meant for (1 GB).
const MEMORY_DEFAULT: u64 = 256 * MIB;
const DISK_DEFAULT: u64 = 10 << 30;

pub(super) fn geoip(top: &Section<'_>) -> Geoip {
    let Some(section) = top.section("geoip", keys::GEOIP) else { return Geoip::default() };
    let databases = match section.value("databases") {
        Some(value) => members(value)
            .into_iter()
            .filter_map(|value| section.path_of(value, "databases", Role::Database))
            .collect(),
        None => Vec::new(),
    };
    let networks = section.repeated("network", keys::NETWORK).iter().filter_map(network).collect();
    let resolvers = section.repeated("resolver", keys::RESOLVER).iter().filter_map(resolver).collect();
    Geoip { databases, networks, resolvers }
}

fn resolver(section: &Section<'_>) -> Option<ResolverPlace> {
    section.required("network", "the resolvers' network, like \"192.0.2.0/24\"");
    section.required("place_as", "an address or a network like \"203.0.113.0/24\"");
    let network = section
        .read("network", "a network like \"192.0.2.0/24\", host bits zero", |value| prefix(value.as_str()?));
    let place_as = section.read("place_as", "an address, or a network like \"203.0.113.0/24\"", |value| {
        let text = value.as_str()?;
        text.parse().ok().or_else(|| prefix(text).map(|(address, _)| address))
    });
    let (network, length) = network?;
    Some(ResolverPlace { network, length, place_as: place_as? })
}

fn network(section: &Section<'_>) -> Option<NetworkPlace> {
    section.required("network", "a network like \"192.0.2.0/24\"");
    let (network, length) =
        section.read("network", "a network like \"192.0.2.0/24\", host bits zero", |value| {
            prefix(value.as_str()?)
        })?;
    let code = |key, expected: &str, length: std::ops::RangeInclusive<usize>| {
        section.read(key, expected, |value| {
            let text = value.as_str()?.to_ascii_uppercase();
            (length.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric()))
                .then_some(text)
        })
    };
    Some(NetworkPlace {
        network,
        length,
        country: code("country", "a country code of two letters (ISO 3166-1)", 2..=2),
        continent: code("continent", "one of AF AN AS EU NA OC SA", 2..=2)
            .filter(|code| known_continent(section, code)),
        subdivision: code("subdivision", "a subdivision code without its country (ISO 3166-2)", 1..=3),
        location: section.value("location").and_then(|value| location(section, value)),
    })
}

fn known_continent(section: &Section<'_>, code: &str) -> bool {
    let known = CONTINENTS.contains(&code);
    if !known {
        let message =
            format!("{}: read {code}, expected one of {}", section.name("continent"), CONTINENTS.join(" "));
        section.doc.mistake(section.place_of("continent"), message);
    }
    known
}

/// The continents' codes, as MaxMind and octoDNS write them.
pub(super) const CONTINENTS: [&str; 7] = ["AF", "AN", "AS", "EU", "NA", "OC", "SA"];

/// `192.0.2.0/24`; host bits must be zero, because a network that is not one is a slip.
pub(super) fn prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
    let clean = match address {
        IpAddr::V4(v4) => length <= 32 && (length == 32 || v4.to_bits() & (u32::MAX >> length) == 0),
        IpAddr::V6(v6) => length <= 128 && (length == 128 || v6.to_bits() & (u128::MAX >> length) == 0),
    };
    clean.then_some((address, length))
}

fn location(section: &Section<'_>, value: Value<'_>) -> Option<Location> {
    let found = match value.get_ref().as_table() {
        Some(_) => {
            let inner = section.section("location", keys::LOCATION)?;
            inner.required("latitude", "degrees north");
            inner.required("longitude", "degrees east");
            let latitude = inner.number("latitude", -90.0, 90.0);
            let longitude = inner.number("longitude", -180.0, 180.0);
            return Some(Location { latitude: latitude?, longitude: longitude? });
        }
        None => match members(value).iter().map(|value| number(value.get_ref())).collect::<Vec<_>>()[..] {
            [Some(latitude), Some(longitude)] => Some(Location { latitude, longitude }),
            _ => None,
        },
    };
    let found =
        found.filter(|l| (-90.0..=90.0).contains(&l.latitude) && (-180.0..=180.0).contains(&l.longitude));
    if found.is_none() {
        section.doc.expected(
            value,
            &section.name("location"),
            "[latitude, longitude] in degrees north and east, like [50.11, 8.68]",
        );
    }
    found
}

pub(super) fn pops(top: &Section<'_>) -> BTreeMap<Id, Pop> {
    let (mut pops, mut addresses, mut sockets) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (name, section) in top.named("pop", keys::POP) {
        check_name(&section, &name);
        let pop = pop(name.clone(), &section);
        for address in &pop.ipv4 {
            once(&mut addresses, &section, "ipv4", IpAddr::V4(*address));
        }
        for address in &pop.ipv6 {
            once(&mut addresses, &section, "ipv6", IpAddr::V6(*address));
        }
        for (key, list) in [("http", &pop.http), ("https", &pop.https)] {
            for socket in list {
                listener(&mut sockets, &section, key, *socket);
            }
        }
        for (key, socket) in [("shield", pop.shield), ("control", pop.control), ("metrics", pop.metrics)] {
            if let Some(socket) = socket {
                listener(&mut sockets, &section, key, socket);
            }
        }
        pops.insert(name, pop);
    }
    pops
}

/// Two listeners on one address and port: a mistake where the address is one machine's. A wildcard address
/// (`0.0.0.0`) is every machine's own, so only a repetition within one section counts there.
fn listener(seen: &mut BTreeMap<String, String>, section: &Section<'_>, key: &str, socket: SocketAddr) {
    let scope = if socket.ip().is_unspecified() || socket.ip().is_loopback() && socket.ip().is_ipv6() {
        format!("{socket} of {}", section.place)
    } else {
        socket.to_string()
    };
    once(seen, section, key, scope);
}

fn pop(name: Id, section: &Section<'_>) -> Pop {
    let place = section.required("location", "[latitude, longitude], like [50.11, 8.68]");
    let location = place
        .and_then(|value| location(section, value))
        .unwrap_or(Location { latitude: 0.0, longitude: 0.0 });
    let (http, https): (Vec<SocketAddr>, Vec<SocketAddr>) =
        (section.parsed("http", SOCKET), section.parsed("https", SOCKET));
    let front = front::pop(section, &[&http[..], &https[..]].concat());
    Pop {
        location,
        ipv4: section.parsed("ipv4", "IPv4 addresses like \"192.0.2.1\""),
        ipv6: section.parsed("ipv6", "IPv6 addresses like \"2001:db8::1\""),
        http,
        https,
        http3: http3(section),
        shield: section.parse("shield", SOCKET),
        control: section.parse("control", SOCKET),
        metrics: section.parse("metrics", SOCKET),
        bias_km: section.number("bias_km", -BIAS_KM_MAX, BIAS_KM_MAX).unwrap_or(0.0),
        memory_bytes_max: section.bytes("memory", MEMORY_DEFAULT),
        cache_dir: section.directory("cache_dir"),
        disk_bytes_max: section.bytes("disk", DISK_DEFAULT),
        workers: workers(section),
        front,
        name,
    }
}

fn http3(section: &Section<'_>) -> bool {
    let wanted = section.read("http3", "true or false", |value| value.as_bool()).unwrap_or(false);
    if wanted && section.value("https").is_none() {
        let message =
            format!("{}: HTTP/3 is spoken where `https` is, and there is none", section.name("http3"));
        section.doc.mistake(section.place_of("http3"), message);
    }
    wanted
}

fn workers(section: &Section<'_>) -> Option<usize> {
    section.integer("workers", 1, WORKERS_MAX).and_then(|count| usize::try_from(count).ok())
}

pub(super) fn dns(top: &Section<'_>) -> BTreeMap<Id, DnsNode> {
    let (mut nodes, mut sockets) = (BTreeMap::new(), BTreeMap::new());
    for (name, section) in top.named("dns", keys::DNS) {
        check_name(&section, &name);
        section.required("listen", SOCKET);
        let node = DnsNode {
            name: name.clone(),
            listen: section.parsed("listen", SOCKET),
            encrypted: encrypted(&section),
            id: said(&section, "id").unwrap_or_else(|| Some(name.clone())),
            version: said(&section, "version").flatten(),
            rate_limit: section
                .integer("rate_limit", 1, RATE_LIMIT_MAX)
                .and_then(|rate| u16::try_from(rate).ok()),
            control: section.parse("control", SOCKET),
            metrics: section.parse("metrics", SOCKET),
            workers: workers(&section),
        };
        let streams = [("control", node.control), ("metrics", node.metrics)];
        if let Some(encrypted) = &node.encrypted {
            // QUIC is UDP: it may share address and port with DNS over TLS, as port 853 does.
            for socket in encrypted.tls.iter().chain(&encrypted.https) {
                listener(&mut sockets, &section, "encrypted", *socket);
            }
        }
        for (key, socket) in node.listen.iter().map(|socket| ("listen", Some(*socket))).chain(streams) {
            if let Some(socket) = socket {
                listener(&mut sockets, &section, key, socket);
            }
        }
        nodes.insert(name, node);
    }
    nodes
}

/// What a server says of itself; `Some(None)`: nothing, on purpose.
fn said(section: &Section<'_>, key: &str) -> Option<Option<String>> {
    let expected = "up to 63 printable ASCII characters, or \"\" to say nothing";
    section.read(key, expected, |value| {
        let text = value.as_str()?;
        let fits = text.len() <= SAID_BYTES_MAX && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        fits.then(|| (!text.is_empty()).then(|| text.to_owned()))
    })
}

fn encrypted(section: &Section<'_>) -> Option<DnsEncrypted> {
    let inner = section.section("encrypted", keys::ENCRYPTED)?;
    inner.required("certificate", "the path of a PEM chain, leaf first");
    inner.required("key", "the path of a PEM private key");
    let (certificate, key) = (inner.path("certificate", Role::Certificate), inner.path("key", Role::Key));
    let [tls, https, quic] = ["tls", "https", "quic"].map(|key| inner.parsed(key, SOCKET));
    if tls.is_empty() && https.is_empty() && quic.is_empty() {
        let message = format!("[{}]: expected at least one of `tls`, `https`, `quic`", inner.place);
        inner.doc.mistake(inner.span(), message);
    }
    Some(DnsEncrypted { tls, https, quic, certificate: certificate?, key: key? })
}
