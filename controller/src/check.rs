//! Checks everything the fleet file names, as the nodes will: zones, certificates, databases' presence.
//!
//! [`check`] is what `nearside check` shows and what every publish passes first. It finds all mistakes, each
//! with its place; it changes nothing.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use nearside_fleet::{
    Loaded,
    config::{Config, Match, SiteTls},
    tickets::{self, TicketSeeds},
};
use nearside_geoip::{
    list,
    place::{Continent, Country},
};
use nearside_node::state::read_bounded;
use nearside_zones::{Binding, Bindings, Zone, check::Severity, master, name::Name};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::home::seconds;

/// A certificate that ends sooner than this is warned of.
const EXPIRY_WARNING_SECONDS: i64 = 14 * 86_400;

/// What was found.
#[derive(Debug, Default)]
pub struct Checked {
    /// The fleet file's meaning, if it has one.
    pub loaded: Option<Loaded>,
    /// What must be mended, each `file:line:column: …`, the fleet file's with the line and a caret.
    pub mistakes: Vec<String>,
    /// What works but is probably not meant.
    pub warnings: Vec<String>,
    /// Files that zone files include.
    pub included: Vec<PathBuf>,
}

/// Checks a fleet file and all it names.
pub fn check(fleet_file: &Path, now: SystemTime) -> Checked {
    let mut out = Checked::default();
    let loaded = match nearside_fleet::load(fleet_file) {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            out.mistakes.extend(mistakes.iter().map(nearside_fleet::Mistake::with_source));
            return out;
        }
    };
    out.warnings.extend(loaded.warnings.iter().map(ToString::to_string));
    let absent = loaded.absent(fleet_file);
    out.mistakes.extend(absent.iter().map(ToString::to_string));
    zones(&loaded.config, &mut out);
    certificates(&loaded.config, now, &mut out);
    ticket_keys(&loaded.config, &mut out);
    gates(&loaded.config, &mut out);
    modules(&loaded.config, &mut out);
    out.loaded = Some(loaded);
    out
}

fn zones(config: &Config, out: &mut Checked) {
    for zone in config.zones.values().filter(|zone| zone.file.exists()) {
        // The fleet file's reader has parsed the origin already.
        let Ok(origin) = Name::parse(zone.origin.as_bytes(), Some(&Name::root())) else { continue };
        let loaded = match master::load(&zone.file, &origin) {
            Ok(loaded) => loaded,
            Err(error) => {
                out.mistakes.push(error.to_string());
                continue;
            }
        };
        out.included.extend(loaded.files.iter().filter(|file| **file != zone.file).cloned());
        let mut bindings = Bindings::new();
        for (name, service) in &zone.names {
            let https = config.services.get(service).is_some_and(|service| !service.alpn.is_empty());
            let parsed =
                if name == "@" { Ok(origin.clone()) } else { Name::parse(name.as_bytes(), Some(&origin)) };
            if let Ok(name) = parsed {
                bindings.insert(name, Binding { service: 0, https });
            }
        }
        let findings = match Zone::build(origin, loaded.records, &bindings) {
            Ok((_, findings)) => findings,
            Err(error) => error.findings,
        };
        let file = zone.file.display();
        for finding in findings {
            let line =
                if finding.place.is_some() { finding.to_string() } else { format!("{file}: {finding}") };
            match finding.severity() {
                Severity::Error => out.mistakes.push(line),
                Severity::Warning => out.warnings.push(line),
            }
        }
    }
}

/// Lists of networks and codes of places, as edges will read them.
fn gates(config: &Config, out: &mut Checked) {
    for (site, gates) in config.sites.values().map(|site| (&site.name, &site.gates)) {
        let files = gates.network.iter().flat_map(|gate| gate.allow_files.iter().chain(&gate.deny_files));
        // One that is missing is told of already.
        for file in files.filter(|file| file.exists()) {
            out.mistakes.extend(list_mistake(file));
        }
        let places = gates.place.iter().flat_map(|gate| gate.allow.iter().chain(&gate.deny));
        let bad = places.filter_map(place_mistake);
        out.mistakes.extend(bad.map(|mistake| format!("site {site}: gates: place: {mistake}")));
    }
}

/// Modules of code at the edge, as far as can be told without compiling them: edges do that, and refuse what they can't.
fn modules(config: &Config, out: &mut Checked) {
    /// The binary format, version 1 of core WebAssembly. A component says something else where the version stands.
    const BEGINNING: &[u8] = b"\0asm\x01\0\0\0";
    /// What an edge takes.
    const MODULE_BYTES_MAX: u64 = 4 << 20;
    for site in config.sites.values() {
        let Some(code) = &site.transform.code else { continue };
        let place = || format!("{}: site {}: code", code.module.display(), site.name);
        match read_bounded(&code.module, MODULE_BYTES_MAX) {
            Ok(Some(bytes)) if !bytes.starts_with(BEGINNING) => {
                out.mistakes.push(format!("{}: is no core WebAssembly module in binary form", place()));
            }
            // One that is missing is told of already.
            Ok(_) => {}
            Err(error) => out.mistakes.push(format!("{}: {error}", place())),
        }
    }
}

fn list_mistake(file: &Path) -> Option<String> {
    let bytes = match read_bounded(file, nearside_fleet::snapshot::FILE_BYTES_MAX) {
        Ok(bytes) => bytes.unwrap_or_default(),
        Err(error) => return Some(error.to_string()),
    };
    let parsed = list::parse(&String::from_utf8_lossy(&bytes));
    parsed.err().map(|error| format!("{}: {error}", file.display()))
}

fn place_mistake(place: &Match) -> Option<String> {
    let (country, continent) = match place {
        Match::Country(country) | Match::Subdivision { country, .. } => (Some(country), None),
        Match::Continent(continent) => (None, Some(continent)),
        Match::Asn(_) | Match::Network(..) => (None, None),
    };
    let country = country.and_then(|code| code.parse::<Country>().err());
    let continent = continent.and_then(|code| code.parse::<Continent>().err());
    country.or(continent).map(|error| error.to_string())
}

fn ticket_keys(config: &Config, out: &mut Checked) {
    // One that is missing is told of already.
    let Some(path) = config.ticket_keys.as_ref().filter(|path| path.exists()) else { return };
    let read = read_bounded(path, tickets::FILE_BYTES_MAX).map_err(|error| error.to_string());
    let text = read.map(|bytes| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned());
    let seeds = text
        .and_then(|text| TicketSeeds::parse(&text).map_err(|error| format!("{}: {error}", path.display())));
    out.mistakes.extend(seeds.err());
}

fn certificates(config: &Config, now: SystemTime, out: &mut Checked) {
    let now = i64::try_from(seconds(now)).unwrap_or(i64::MAX);
    for site in config.sites.values() {
        let Some(SiteTls::Files { certificate, key }) = &site.tls else { continue };
        if !certificate.exists() || !key.exists() {
            continue;
        }
        match certificate_of(certificate, key) {
            Err(reason) => out.mistakes.push(reason),
            Ok(leaf) => {
                let file = certificate.display();
                if leaf.not_after <= now {
                    out.mistakes
                        .push(format!("{file}: expired {} days ago", (now - leaf.not_after) / 86_400));
                } else if leaf.not_after - now < EXPIRY_WARNING_SECONDS {
                    out.warnings.push(format!("{file}: expires in {} days", (leaf.not_after - now) / 86_400));
                }
                if leaf.not_before > now {
                    out.mistakes.push(format!("{file}: not valid yet (is this machine's clock right?)"));
                }
                for host in site.hosts.iter().filter(|host| !covers(&leaf.names, host)) {
                    out.warnings.push(format!("{file}: does not cover {host}, a host of site {}", site.name));
                }
            }
        }
    }
}

/// What is read of a leaf.
struct Leaf {
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

/// Reads chain and key, and proves that they belong together.
fn certificate_of(certificate: &Path, key: &Path) -> Result<Leaf, String> {
    let file = certificate.display();
    let read =
        CertificateDer::pem_file_iter(certificate).and_then(|chain| chain.collect::<Result<Vec<_>, _>>());
    let chain = read.map_err(|error| format!("{file}: expected a PEM certificate chain: {error}"))?;
    let first = chain.first().ok_or_else(|| format!("{file}: holds no certificate"))?;
    let (_, leaf) = X509Certificate::from_der(first).map_err(|error| format!("{file}: {error}"))?;
    let mut names = Vec::new();
    if let Ok(Some(extension)) = leaf.subject_alternative_name() {
        for name in &extension.value.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push(name.to_ascii_lowercase());
            }
        }
    }
    let (not_before, not_after) =
        (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("{}: expected a PEM private key: {error}", key.display()))?;
    let signer = any_supported_type(&private).map_err(|error| format!("{}: {error}", key.display()))?;
    let pair = CertifiedKey::new(chain.clone(), Arc::clone(&signer));
    pair.keys_match()
        .map_err(|_| format!("{file}: the key in {} is not this certificate's", key.display()))?;
    Ok(Leaf { names, not_before, not_after })
}

/// Whether certificate names vouch for a host (RFC 6125 section 6.4.3: a wildcard is one whole label).
fn covers(names: &[String], host: &str) -> bool {
    names.iter().any(|name| match name.strip_prefix('*') {
        Some(suffix) if !host.starts_with('*') => host.find('.').is_some_and(|dot| &host[dot..] == suffix),
        _ => name == host,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_no_module_is_told_of() {
        let temp = tempfile::tempdir().unwrap();
        let (file, module) = (temp.path().join("nearside.toml"), temp.path().join("hook.wasm"));
        let text = "version = 1\nfleet = \"x\"\n[site.s]\nhosts = \"a.test\"\norigin = \"http://192.0.2.9\"\n\
                    code = { module = \"hook.wasm\" }\n";
        fs::write(&file, text).unwrap();
        for (bytes, expected) in
            [(&b"\0asm\x01\0\0\0"[..], false), (b"\0asm\x0d\0\x01\0", true), (b"(module)", true), (b"", true)]
        {
            fs::write(&module, bytes).unwrap();
            let mistakes = check(&file, SystemTime::now()).mistakes;
            let is_told = mistakes.iter().any(|line| line.contains("no core WebAssembly module"));
            assert_eq!(is_told, expected, "{bytes:?}: {mistakes:?}");
        }
    }

    #[test]
    fn every_kind_of_mistake_is_told_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("nearside.toml");
        let text = "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\nipv4 = \"192.0.2.1\"\n\
                    [service.web]\nchecks = []\n[zone.\"a.test\"]\nfile = \"a.zone\"\nnames = { www = \"web\" }\n\
                    [site.s]\nhosts = \"a.test\"\norigin = \"http://192.0.2.9\"\n\
                    tls = { certificate = \"c.pem\", key = \"k.pem\" }\n";
        fs::write(&file, text).unwrap();
        fs::write(temp.path().join("a.zone"), "@ 60 IN NS ns.a.test.\nwww 60 IN A 1.2.3.400\n").unwrap();
        let (one, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let params = rcgen::CertificateParams::new(vec!["b.test".to_owned()]).unwrap();
        fs::write(temp.path().join("c.pem"), params.self_signed(&one).unwrap().pem()).unwrap();
        fs::write(temp.path().join("k.pem"), other.serialize_pem()).unwrap();
        let checked = check(&file, SystemTime::now());
        let all = checked.mistakes.join("\n");
        assert!(all.contains("a.zone:2:"), "{all}");
        assert!(all.contains("is not this certificate's"), "{all}");

        fs::write(temp.path().join("k.pem"), one.serialize_pem()).unwrap();
        fs::write(temp.path().join("a.zone"), "@ 60 IN A 192.0.2.1\n").unwrap();
        let checked = check(&file, SystemTime::now());
        assert!(checked.mistakes.iter().any(|line| line.contains("no SOA")), "{:?}", checked.mistakes);
        assert!(
            checked.warnings.iter().any(|line| line.contains("does not cover a.test")),
            "{:?}",
            checked.warnings
        );

        fs::remove_file(temp.path().join("a.zone")).unwrap();
        let checked = check(&file, SystemTime::now());
        assert!(
            checked.mistakes.iter().any(|line| line.contains("nearside.toml:9:")),
            "{:?}",
            checked.mistakes
        );
    }

    #[test]
    fn lists_and_places_of_gates_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("nearside.toml");
        let text = "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\nipv4 = \"192.0.2.1\"\n\
                    [site.s]\nhosts = \"a.test\"\norigin = \"http://192.0.2.9\"\n\
                    [site.s.gates.network]\ndeny_files = \"bad.txt\"\n\
                    [site.s.gates.place]\ndeny = [\"EU-QQ\", \"EU-DE\"]\n";
        fs::write(&file, text).unwrap();
        fs::write(temp.path().join("bad.txt"), "# people\n192.0.2.0/24\n192.0.2.1/24\n").unwrap();
        let checked = check(&file, SystemTime::now());
        let all = checked.mistakes.join("\n");
        assert!(all.contains("bad.txt: line 3: 192.0.2.1/24 has bits set"), "{all}");
        assert!(all.contains("site s: gates: place:") && all.contains("QQ"), "{all}");
        assert_eq!(checked.mistakes.len(), 2, "{all}");
    }
}
