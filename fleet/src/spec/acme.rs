//! Reads `[acme]`, and what sites with `issuer = "acme"` say of their orders.

use std::collections::BTreeMap;

use super::{
    check_name,
    edge::is_host,
    keys,
    reader::{Section, members},
};
use crate::{
    config::{
        Id, Site, SiteTls,
        acme::{Acme, Directory, Eab, KeyKind, SiteAcme},
    },
    files::Role,
};

/// Reads the section, and completes the sites that are served with certificates of it.
pub(super) fn acme(top: &Section<'_>, sites: &mut BTreeMap<Id, Site>) -> Acme {
    let section = top.section("acme", keys::ACME);
    let acme = section.as_ref().map(read).unwrap_or_default();
    for (name, site) in top.named("site", keys::SITE) {
        let Some(found) = sites.get_mut(&name) else { continue };
        let hosts = found.hosts.clone();
        let read = orders(&site, &acme, &hosts);
        // Where the certificate was laid beside the fleet file already, a node needs no more than that.
        if let (Some(SiteTls::Acme(orders)), Some(read)) = (&mut found.tls, read) {
            **orders = read;
        }
    }
    acme
}

fn read(section: &Section<'_>) -> Acme {
    let mut found = BTreeMap::new();
    // `named` calls a place by its key alone: this one is below `acme`.
    for (name, mut inner) in section.named("directory", keys::ACME_DIRECTORY) {
        inner.place = format!("acme.directory.{name}");
        check_name(&inner, &name);
        if let Some(directory) = directory(name.clone(), &inner) {
            found.insert(name, directory);
        }
    }
    let order = names(section, "directories", &found.keys().cloned().collect::<Vec<_>>());
    let order = order.unwrap_or_else(|| found.keys().cloned().collect());
    Acme {
        directories: order.iter().filter_map(|name| found.get(name).cloned()).collect(),
        resolver: section.parse("resolver", "an address and port like \"192.0.2.53:53\""),
    }
}

fn directory(name: Id, section: &Section<'_>) -> Option<Directory> {
    const URL: &str = "an https URL, like \"https://acme-v02.api.letsencrypt.org/directory\"";
    section.required("url", URL);
    let url = section.read("url", URL, |value| {
        let text = value.as_str()?;
        let host = text.strip_prefix("https://")?.split(['/', '?']).next()?;
        let legal = text.len() <= URL_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
        (legal && !host.is_empty() && !host.contains('@')).then(|| text.to_owned())
    });
    let contact = section.list("contact", "mail addresses like \"ops@example.org\"", |value| {
        let text = value.get_ref().as_str()?.trim_start_matches("mailto:");
        let (user, host) = text.split_once('@')?;
        let legal = text.bytes().all(|byte| byte.is_ascii_graphic() && !b",;<>\"".contains(&byte));
        (legal && !user.is_empty() && is_host(host)).then(|| text.to_owned())
    });
    let caa = section.list("caa", "names like \"letsencrypt.org\"", |value| {
        let text = value.get_ref().as_str()?.to_ascii_lowercase();
        is_host(&text).then_some(text)
    });
    let eab = match (section.value("eab_kid").is_some(), section.value("eab_key_file").is_some()) {
        (false, false) => None,
        (true, true) => {
            let kid = section.read("eab_kid", "a key identifier", |value| {
                let text = value.as_str()?;
                let legal =
                    (1..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
                legal.then(|| text.to_owned())
            });
            let key_file = section.path("eab_key_file", Role::Key);
            Some(Eab { kid: kid?, key_file: key_file? })
        }
        _ => {
            let message = format!("[{}]: `eab_kid` and `eab_key_file` go together", section.place);
            section.doc.mistake(section.span(), message);
            None
        }
    };
    let ca = section.path("ca", Role::Certificate);
    Some(Directory {
        name,
        url: url?,
        ca,
        contact: contact.unwrap_or_default(),
        caa: caa.unwrap_or_default(),
        eab,
    })
}

/// What a site's `tls` says of its orders; `None` for a site of another issuer.
fn orders(site: &Section<'_>, acme: &Acme, hosts: &[String]) -> Option<SiteAcme> {
    let known: Vec<Id> = acme.directories.iter().map(|directory| directory.name.clone()).collect();
    let value = site.value("tls")?;
    let none = |span| {
        if known.is_empty() {
            let message = format!("{}: there is no [acme.directory.NAME] to order from", site.name("tls"));
            site.doc.mistake(span, message);
        }
    };
    if value.get_ref().as_str() == Some("acme") {
        none(value.span());
        return Some(SiteAcme { directories: known, ..SiteAcme::default() });
    }
    if !value.get_ref().is_table() {
        return None;
    }
    let inner = site.section("tls", keys::TLS)?;
    if inner.value("issuer").and_then(|issuer| issuer.get_ref().as_str()) != Some("acme") {
        for key in ["directories", "delegation", "key_type"] {
            if let Some(value) = inner.value(key) {
                let message = format!("{}: goes with issuer = \"acme\"", inner.name(key));
                inner.doc.mistake(value.span(), message);
            }
        }
        return None;
    }
    none(inner.place_of("issuer"));
    let directories = names(&inner, "directories", &known).unwrap_or_else(|| known.clone());
    let mut delegation = BTreeMap::new();
    for (host, span, value) in inner.entries("delegation") {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let bare = |host: &str| host.strip_prefix("*.").unwrap_or(host).to_owned();
        if !hosts.iter().any(|known| bare(known) == host) {
            let message =
                format!("{}: {host:?} is none of the site's hosts (without `*.`)", inner.name("delegation"));
            inner.doc.mistake(span, message);
            continue;
        }
        let target = value.get_ref().as_str().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        match target.filter(|name| is_host(name)) {
            Some(target) => drop(delegation.insert(host, target)),
            None => inner.doc.expected(value, &inner.name("delegation"), "a name in a zone of ours"),
        }
    }
    let key = inner.word("key_type", &[("ecdsa", KeyKind::Ecdsa), ("rsa", KeyKind::Rsa)]).unwrap_or_default();
    Some(SiteAcme { directories, delegation, key })
}

/// A list of names of directories, each once; `None`: there is no list.
fn names(section: &Section<'_>, key: &str, known: &[Id]) -> Option<Vec<Id>> {
    let value = section.value(key)?;
    let mut found: Vec<Id> = Vec::new();
    for member in members(value) {
        let name =
            section.doc.reference(member, &section.name(key), "directory", known.iter().map(String::as_str));
        found.extend(name.filter(|name| !found.contains(name)));
    }
    Some(found)
}

/// Far longer than any directory's.
const URL_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Files, config::Config};

    fn read(text: &str) -> Result<Config, String> {
        let text = format!(
            "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\n\
             [site.s]\nhosts = [\"a.test\", \"*.a.test\", \"b.example\"]\norigin = \"http://192.0.2.9\"\n{text}\n"
        );
        let files = Files::beside(Path::new("/fleet/nearside.toml"));
        crate::spec::parse(Path::new("nearside.toml"), &text, &files)
            .map(|loaded| loaded.config)
            .map_err(|mistakes| format!("{mistakes:?}"))
    }

    const TWO: &str = "[acme]\ndirectories = [\"z\", \"a\"]\n[acme.directory.a]\nurl = \"https://a.test/dir\"\n\
                       [acme.directory.z]\nurl = \"https://z.test/dir\"\ncontact = \"mailto:ops@a.test\"\n\
                       eab_kid = \"k\"\neab_key_file = \"eab.key\"\n";

    fn site(config: &Config) -> SiteAcme {
        match &config.sites["s"].tls {
            Some(SiteTls::Acme(orders)) => (**orders).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_site_orders_from_all_directories_in_their_order_or_from_its_own() {
        let config = read(&format!("tls = \"acme\"\n{TWO}")).unwrap();
        assert_eq!(
            site(&config),
            SiteAcme { directories: vec!["z".into(), "a".into()], ..SiteAcme::default() }
        );
        let z = config.acme.directory("z").unwrap();
        assert_eq!(z.contact, ["ops@a.test"]);
        assert_eq!(z.eab, Some(Eab { kid: "k".into(), key_file: "/fleet/eab.key".into() }));
        let own = "tls = { issuer = \"acme\", directories = \"a\", key_type = \"rsa\", \
                   delegation = { \"b.example\" = \"B-example.acme.a.test.\" } }\n";
        let own = site(&read(&format!("{own}{TWO}")).unwrap());
        assert_eq!((own.directories, own.key), (vec!["a".to_owned()], KeyKind::Rsa));
        assert_eq!(own.delegation["b.example"], "b-example.acme.a.test");
    }

    #[test]
    fn mistakes_are_told() {
        for (text, expected) in [
            ("tls = \"acme\"", "there is no [acme.directory.NAME]"),
            ("tls = { issuer = \"acme\" }", "there is no [acme.directory.NAME]"),
            (
                "tls = { issuer = \"acme\", certificate = \"c\" }\n[acme.directory.a]\nurl = \"https://a\"",
                "not beside `issuer`",
            ),
            ("tls = { issuer = \"fleet\", key_type = \"rsa\" }", "goes with issuer"),
            (
                "tls = { issuer = \"acme\", directories = \"b\" }\n[acme.directory.a]\nurl = \"https://a\"",
                "there is no directory `b`",
            ),
            (
                "tls = { issuer = \"acme\", delegation = { \"c.test\" = \"x.a.test\" } }\n[acme.directory.a]\nurl = \"https://a\"",
                "none of the site's hosts",
            ),
            ("[acme.directory.a]\nurl = \"http://a\"", "[acme.directory.a] url: read"),
            ("[acme.directory.a]\nurl = \"https://a\"\neab_kid = \"k\"", "go together"),
            ("[acme.directory.a]\nurl = \"https://a\"\ncontact = \"nobody\"", "mail addresses"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
