//! Reads certificates and decides which may be served: the write half.
//!
//! A certificate is served only if its key matches, it parses, and today is between its dates. One that
//! fails is refused loudly, and the site keeps the last good one for as long as that is valid itself: an
//! operator who replaces two files in the wrong order must not take a site down. Host names that the
//! certificate does not cover are a warning: browsers will complain, but the operator may know better.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use nearside_fleet::config;
use nearside_node::certificate::{Served, load};

use super::resolver::Table;

/// A problem with one site's certificate, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The site.
    pub site: String,
    /// What is wrong and what was done about it.
    pub message: String,
    /// Whether a certificate was refused, or only looks wrong.
    pub severity: Severity,
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The certificate is not served.
    Refused,
    /// It is served all the same.
    Warning,
}

/// Loads the certificates of all sites. Where one is refused, `last` is searched for the site's last good
/// one.
pub fn load_table<'a>(
    sites: impl Iterator<Item = &'a config::Site>,
    last: Option<&Table>,
    now: SystemTime,
) -> (Table, Vec<Problem>) {
    let now_secs = epoch_secs(now);
    let mut table = Table::default();
    let mut problems = Vec::new();
    for site in sites {
        let Some(tls) = &site.tls else { continue };
        let mut problem = |severity, message| {
            problems.push(Problem { site: site.name.clone(), message, severity });
        };
        let loaded = match tls {
            config::SiteTls::Files { certificate, key } => {
                load(certificate, key, now_secs).map_err(|error| error.to_string())
            }
            config::SiteTls::FleetCa | config::SiteTls::Acme(_) | config::SiteTls::Import => {
                Err("no certificate was published for it yet".to_owned())
            }
        };
        match loaded {
            Ok(served) => {
                let missing: Vec<&str> = site
                    .hosts
                    .iter()
                    .map(String::as_str)
                    .filter(|host| !covers_pattern(&served, host))
                    .collect();
                if !missing.is_empty() {
                    let message = format!("the certificate is not for {}", missing.join(", "));
                    problem(Severity::Warning, message);
                }
                table.insert(&site.name, &site.hosts, &Arc::new(served));
            }
            Err(reason) => {
                let kept = last.and_then(|last| last.sites.get(site.name.as_str()));
                match kept.filter(|kept| kept.not_after_secs > now_secs) {
                    Some(kept) => {
                        table.insert(&site.name, &site.hosts, kept);
                        problem(Severity::Refused, format!("{reason}; the last good certificate is kept"));
                    }
                    None => {
                        problem(Severity::Refused, format!("{reason}; its hosts are not served over TLS"))
                    }
                }
            }
        }
    }
    (table, problems)
}

fn covers_pattern(served: &Served, host: &str) -> bool {
    match host.strip_prefix('*') {
        Some(_) => served.names.iter().any(|name| name == host),
        None => served.covers(host),
    }
}

fn epoch_secs(now: SystemTime) -> i64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW as u64)
    }

    /// Writes a certificate for `names`, valid from `from` to `to` seconds around [`NOW`].
    fn write(dir: &TempDir, stem: &str, names: &[&str], from: i64, to: i64) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let date = |secs: i64| {
            let days = secs.div_euclid(86_400);
            let base = rcgen::date_time_ymd(1970, 1, 1);
            base + Duration::from_secs((days * 86_400) as u64)
        };
        params.not_before = date(NOW + from);
        params.not_after = date(NOW + to);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let paths = (dir.path().join(format!("{stem}.pem")), dir.path().join(format!("{stem}.key")));
        std::fs::write(&paths.0, certificate.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    const MONTH: i64 = 30 * 86_400;

    fn site(name: &str, hosts: &[&str], files: (PathBuf, PathBuf)) -> config::Site {
        config::Site {
            name: name.to_owned(),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            origins: vec![config::Origin::at(config::Scheme::Http, "192.0.2.1", 80)],
            tls: Some(config::SiteTls::Files { certificate: files.0, key: files.1 }),
            cache: config::SiteCache { object_bytes_max: 1, ..config::SiteCache::default() },
            ..config::Site::default()
        }
    }

    #[test]
    fn names_are_found_exactly_then_by_wildcard_then_not_at_all() {
        let dir = TempDir::new().unwrap();
        let a = site("a", &["a.test"], write(&dir, "a", &["a.test"], -MONTH, MONTH));
        let b = site("b", &["*.b.test"], write(&dir, "b", &["*.b.test"], -MONTH, MONTH));
        let (table, problems) = load_table([&a, &b].into_iter(), None, now());
        assert_eq!(problems, []);
        assert_eq!(table.find(Some("a.test")).unwrap().names, ["a.test"]);
        assert_eq!(table.find(Some("x.b.test")).unwrap().names, ["*.b.test"]);
        assert!(table.find(Some("b.test")).is_none());
        assert!(table.find(Some("x.y.b.test")).is_none());
        assert_eq!(table.find(None).unwrap().names, ["a.test"]);
    }

    #[test]
    fn bad_certificates_are_refused_with_what_to_do_and_the_last_good_one_is_kept() {
        let dir = TempDir::new().unwrap();
        let good = write(&dir, "good", &["a.test"], -MONTH, MONTH);
        let (last, _) = load_table([&site("a", &["a.test"], good.clone())].into_iter(), None, now());
        let other = write(&dir, "other", &["a.test"], -MONTH, MONTH);
        let expired = write(&dir, "expired", &["a.test"], -2 * MONTH, -MONTH);
        let future = write(&dir, "future", &["a.test"], MONTH, 2 * MONTH);
        let cut = dir.path().join("cut.pem");
        std::fs::write(&cut, &std::fs::read(&good.0).unwrap()[..200]).unwrap();
        for (files, expected) in [
            ((good.0.clone(), other.1), "is not the key of"),
            (expired, "expired at"),
            (future, "not valid before"),
            ((cut, good.1.clone()), "cut.pem"),
            ((dir.path().join("none.pem"), good.1.clone()), "read "),
        ] {
            let site = site("a", &["a.test"], files);
            let (table, problems) = load_table([&site].into_iter(), Some(&last), now());
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].severity, Severity::Refused);
            assert!(problems[0].message.contains(expected), "{}", problems[0].message);
            assert!(problems[0].message.contains("last good"), "{}", problems[0].message);
            assert!(table.find(Some("a.test")).is_some());
            let (table, _) = load_table([&site].into_iter(), None, now());
            assert!(table.find(Some("a.test")).is_none());
        }
    }

    #[test]
    fn hosts_the_certificate_does_not_name_are_a_warning() {
        let dir = TempDir::new().unwrap();
        let site = site("a", &["a.test", "b.test"], write(&dir, "a", &["a.test"], -MONTH, MONTH));
        let (table, problems) = load_table([&site].into_iter(), None, now());
        assert_eq!(problems[0].severity, Severity::Warning);
        assert!(problems[0].message.contains("b.test"));
        assert!(table.find(Some("b.test")).is_some());
    }

    #[test]
    fn a_wildcard_is_one_label() {
        let dir = TempDir::new().unwrap();
        let (pem, key) = write(&dir, "w", &["*.b.test"], -MONTH, MONTH);
        let served = load(&pem, &key, NOW).unwrap();
        assert!(served.covers("x.b.test"));
        for host in ["b.test", ".b.test", "x.y.b.test", "xb.test"] {
            assert!(!served.covers(host), "{host}");
        }
    }
}
