//! Certificates from other people's ACME clients: pushed by a hook, or found in a directory.
//!
//! What comes is checked as [`crate::pair`] does and kept only if it is better than what is in force: never one that does not
//! cover the site, is over, or ends earlier, unless the operator says so in as many words.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use nearside_fleet::config::{Config, Site, SiteTls};

use crate::{
    events::{Event, Kind},
    home::seconds,
    journal::{Issued, Journal},
    pair::{self, PEM_BYTES_MAX},
    serve::Controller,
};

/// How often the directory is looked at: other people's clients renew every few weeks.
const LOOK: Duration = Duration::from_secs(5);
/// Files of the directory that are looked at.
const FILES_MAX: usize = 4_000;
/// Directories deep: certbot keeps one per name.
const DEPTH_MAX: usize = 2;

/// Whether one that ends earlier than the one in force is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// It is refused.
    Refuse,
    /// The operator wants it.
    Take,
}

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the journal now.
    New,
    /// It was there.
    Known,
}

/// Keeps a certificate for a site, if it is good and better.
///
/// # Errors
/// Exactly what is wrong with it.
pub fn import(
    journal: &Journal,
    config: &Config,
    site: &str,
    (chain, key): (&str, &str),
    earlier: Earlier,
    now: u64,
) -> Result<Taken, String> {
    let known = || config.sites.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let found =
        config.sites.get(site).ok_or_else(|| format!("there is no site {site}; there are: {}", known()))?;
    if found.tls != Some(SiteTls::Import) {
        return Err(format!(
            "site {site} takes no certificate from outside: say tls = {{ issuer = \"import\" }} for it"
        ));
    }
    let new = pair::examine(chain, key)?;
    new.serves(&found.hosts, now)?;
    let issued = Issued {
        hosts: found.hosts.clone(),
        chain: chain.to_owned(),
        key: key.to_owned(),
        not_before: new.not_before,
        not_after: new.not_after,
    };
    if let Some(kept) = journal.certificate(site).map_err(|error| error.to_string())? {
        if kept == issued {
            return Ok(Taken::Known);
        }
        let old = pair::examine(&kept.chain, &kept.key).ok();
        let covers = old.as_ref().is_some_and(|old| old.serves(&found.hosts, now).is_ok());
        if covers && kept.not_after > issued.not_after && earlier == Earlier::Refuse {
            let days = (kept.not_after - issued.not_after) / 86_400;
            return Err(format!(
                "the certificate in force ends {days} days later than this one; `--replace` takes this one all the same"
            ));
        }
    }
    journal.keep_certificate(site, &issued).map_err(|error| error.to_string())?;
    tracing::info!(site, issuer = new.issuer, not_after = new.not_after, "took a certificate from outside");
    Ok(Taken::New)
}

/// Follows the directory of the fleet file, if it names one, until cancelled.
pub async fn follow(controller: Arc<Controller>) {
    let mut seen = Vec::new();
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        let Some(desk) = controller.desk() else { continue };
        let Some(dir) = desk.config.controller.as_ref().and_then(|home| home.certificates.clone()) else {
            continue;
        };
        let sites =
            sites(&desk.config).map(|site| (site.name.clone(), site.hosts.clone())).collect::<Vec<_>>();
        let files = stamps(&dir);
        let state = (files, sites);
        if seen.first() == Some(&state) {
            continue;
        }
        let reading = state.0.iter().map(|(path, ..)| path.clone()).collect::<Vec<_>>();
        // Hundreds of files and keys: not on the threads that answer.
        let read = tokio::task::spawn_blocking(move || pairs(&reading)).await;
        let now = seconds(SystemTime::now());
        let mut taken = false;
        for site in sites_of(&desk.config) {
            taken |= take(&controller, &desk.config, site, read.as_deref().unwrap_or_default(), now);
        }
        seen = vec![state];
        if taken {
            let _refusals_are_logged = controller.publish("import").await;
        }
    }
}

fn sites(config: &Config) -> impl Iterator<Item = &Site> {
    config.sites.values().filter(|site| site.tls == Some(SiteTls::Import))
}

fn sites_of(config: &Config) -> Vec<&Site> {
    sites(config).collect()
}

/// Takes the best of what was found for a site. `true`: it is new.
fn take(controller: &Controller, config: &Config, site: &Site, found: &[(String, String)], now: u64) -> bool {
    let good = found.iter().filter_map(|(chain, key)| {
        let pair = pair::examine(chain, key).ok()?;
        pair.serves(&site.hosts, now).ok()?;
        Some((pair.not_after, chain, key))
    });
    let Some((_, chain, key)) = good.max_by_key(|(not_after, ..)| *not_after) else {
        if controller.journal().certificate(&site.name).ok().flatten().is_none() {
            let message =
                format!("site {}: no certificate in the watched directory covers its hosts now", site.name);
            controller.events().raise(Event::new(Kind::CertificateFailed, site.name.clone(), message));
        }
        return false;
    };
    match import(controller.journal(), config, &site.name, (chain, key), Earlier::Refuse, now) {
        Ok(taken) => {
            controller.events().clear(Kind::CertificateFailed, &site.name);
            taken == Taken::New
        }
        Err(reason) => {
            // What was pushed ends later: the directory is behind, which is nobody's trouble.
            tracing::debug!(site = site.name, reason, "nothing better in the watched directory");
            false
        }
    }
}

/// Files with the time and length they were last changed with, in order.
fn stamps(dir: &Path) -> Vec<(PathBuf, Option<SystemTime>, u64)> {
    let mut found = Vec::new();
    let mut open = vec![(dir.to_path_buf(), 0)];
    while let Some((dir, depth)) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten().take(FILES_MAX) {
            // Follows symlinks: certbot's `live` is made of them.
            let Ok(meta) = std::fs::metadata(entry.path()) else { continue };
            if meta.is_dir() && depth < DEPTH_MAX {
                open.push((entry.path(), depth + 1));
            } else if meta.is_file() && meta.len() <= PEM_BYTES_MAX as u64 && found.len() < FILES_MAX {
                found.push((entry.path(), meta.modified().ok(), meta.len()));
            }
        }
    }
    found.sort();
    found
}

/// Chains and keys that belong together, whatever their files are called.
fn pairs(files: &[PathBuf]) -> Vec<(String, String)> {
    let (mut chains, mut keys) = (BTreeMap::new(), BTreeMap::new());
    for path in files {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
        if text.contains("-----BEGIN CERTIFICATE-----") {
            chains.entry(dir.clone()).or_insert_with(Vec::new).push(text.clone());
        }
        if text.contains("PRIVATE KEY-----") {
            keys.entry(dir).or_insert_with(Vec::new).push(text);
        }
    }
    let mut out = Vec::new();
    for (dir, chains) in &chains {
        for chain in chains {
            let key = keys.get(dir).into_iter().flatten().find(|key| pair::examine(chain, key).is_ok());
            out.extend(key.map(|key| (chain.clone(), key.clone())));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::pair::tests::made;

    const NOW: u64 = 1_790_000_000;

    fn fleet(temp: &tempfile::TempDir) -> (Journal, Config) {
        let text = "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\n\
            [site.s]\nhosts = [\"a.test\", \"www.a.test\"]\norigin = \"http://192.0.2.9\"\ntls = \"import\"\n\
            [site.o]\nhosts = \"o.test\"\norigin = \"http://192.0.2.9\"\ntls = \"fleet\"\n";
        let file = temp.path().join("nearside.toml");
        fs::write(&file, text).unwrap();
        let config = nearside_fleet::load(&file).unwrap().config;
        (Journal::open(&temp.path().join("j.db")).unwrap(), config)
    }

    #[test]
    fn only_what_is_good_and_better_is_taken() {
        let temp = tempfile::tempdir().unwrap();
        let (journal, config) = fleet(&temp);
        let (chain, key) = made(&["a.test", "*.a.test"], 2020, 2090);
        let (later, later_key) = made(&["a.test", "*.a.test"], 2020, 2099);
        let (small, small_key) = made(&["a.test"], 2020, 2099);
        let (old, old_key) = made(&["a.test", "*.a.test"], 2020, 2021);
        let push = |site: &str, chain: &str, key: &str, earlier| {
            import(&journal, &config, site, (chain, key), earlier, NOW)
        };
        let refused =
            |site: &str, chain: &str, key: &str| push(site, chain, key, Earlier::Refuse).unwrap_err();
        assert!(refused("x", &chain, &key).contains("there are: o, s"));
        assert!(refused("o", &chain, &key).contains("issuer = \"import\""));
        assert!(refused("s", &small, &small_key).contains("not for www.a.test"));
        assert!(refused("s", &old, &old_key).contains("expired"));
        assert!(refused("s", &chain, &later_key).contains("is not that of the certificate"));
        assert_eq!(push("s", &later, &later_key, Earlier::Refuse), Ok(Taken::New));
        assert_eq!(push("s", &later, &later_key, Earlier::Refuse), Ok(Taken::Known));
        assert!(
            refused("s", &chain, &key).contains("ends 3287 days later"),
            "{}",
            refused("s", &chain, &key)
        );
        assert_eq!(push("s", &chain, &key, Earlier::Take), Ok(Taken::New));
        assert_eq!(journal.certificate("s").unwrap().unwrap().chain, chain);
    }

    #[test]
    fn pairs_are_found_in_any_layout() {
        let temp = tempfile::tempdir().unwrap();
        let (chain, key) = made(&["a.test"], 2020, 2090);
        let (other, other_key) = made(&["b.test"], 2020, 2090);
        for (path, text) in [
            ("a.test.crt", &chain),
            ("a.test.key", &key),
            ("b.test.crt", &other),
            ("b.test.key", &other_key),
            ("live/b.test/fullchain.pem", &other),
            ("live/b.test/privkey.pem", &other_key),
            ("too/deep/to/see.pem", &chain),
        ] {
            let path = temp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let files: Vec<PathBuf> = stamps(temp.path()).into_iter().map(|(path, ..)| path).collect();
        assert_eq!(files.len(), 6, "{files:?}");
        let mut found = pairs(&files);
        found.sort();
        let mut expected = vec![(chain, key), (other.clone(), other_key.clone()), (other, other_key)];
        expected.sort();
        assert_eq!(found, expected);
    }
}
