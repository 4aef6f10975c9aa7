//! Builds a [`Base`] from a configuration, aside, and refuses it with every mistake that was found.
//!
//! Nothing here touches what serves. Zones are read anew each time (a master file costs milliseconds);
//! the steering is compiled again only if what it is made of has changed, because a city database costs
//! half a second and tens of megabytes while it lasts. Invariant: a refusal names the file, line and column
//! of everything a person wrote wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use nearside_fleet::config::{Config, Geoip, Pop, Service, Zone as ZoneConfig};
use nearside_node::{
    Refusal,
    certificate::{CertificateError, load},
};
use nearside_zones::{Binding, Bindings, Finding, Name, Zone, Zones, master};
use rustls::sign::CertifiedKey;
use tracing::info;

use crate::{
    answer::{Identity, Limits, TailoredService, cookie::CookieKeys},
    clock,
    health::{exec::ExecPolicy, peers, plan::Plan},
    rrl::{Rrl, RrlConfig},
    steering::{self, Steering},
    transport::{stats::Stats, tcp},
    view::Base,
};

/// A base, and what else a configuration asks for.
pub struct Staged {
    /// What the next view is made of.
    pub base: Arc<Base>,
    /// What is probed from now on.
    pub plan: Plan,
    /// What the encrypted listeners show, where there are any.
    pub certificate: Option<Arc<CertifiedKey>>,
    /// Files read that the fleet file does not name: `$INCLUDE`d ones.
    pub also_read: Vec<PathBuf>,
    /// What is odd about the zones but no reason to refuse them.
    pub warnings: Vec<String>,
}

/// Stages configurations, one after the other; remembers the last steering.
pub struct Stage {
    cookies: CookieKeys,
    exec: ExecPolicy,
    last: Mutex<Option<(Ingredients, Arc<Steering>)>>,
}

/// All that a steering is made of: while this is equal, it need not be compiled again.
#[derive(PartialEq)]
struct Ingredients {
    geoip: Geoip,
    pops: Vec<Pop>,
    services: Vec<Service>,
    /// Length and modification time of each database.
    databases: Vec<Option<(u64, SystemTime)>>,
}

impl Stage {
    /// A stage with cookie secrets of its own, on a node that runs these programs for checks. Cookies outlive reloads, not the process: a client whose
    /// cookie is forgotten gets a new one with its next answer (RFC 7873 section 5.2.4).
    pub fn new(exec: ExecPolicy) -> Self {
        let mut secret = [0; 16];
        if aws_lc_rs::rand::fill(&mut secret).is_err() {
            // The kernel has no randomness: cookies are then only as good as this.
            secret = fastrand::u128(..).to_ne_bytes();
        }
        Stage { cookies: CookieKeys::new(secret), exec, last: Mutex::new(None) }
    }

    /// Builds everything `config` asks for. Reads files; may take a second.
    ///
    /// # Errors
    /// [`Refusal`] with every mistake in zones, databases and checks.
    pub fn build(&self, config: &Arc<Config>, node: &str, stats: &Stats) -> Result<Staged, Refusal> {
        let mut reasons = Vec::new();
        let mut warnings = Vec::new();
        let mut also_read = Vec::new();
        let mut zones = Vec::new();
        for zone in config.zones.values() {
            match read_zone(config, zone, &mut also_read) {
                Ok((zone, findings)) => {
                    zones.push(Arc::new(zone));
                    warnings.extend(findings.iter().map(Finding::to_string));
                }
                Err(found) => reasons.extend(found),
            }
        }
        let mut plan = Plan::new(config, &self.exec).unwrap_or_else(|errors| {
            reasons.extend(errors.iter().map(ToString::to_string));
            Plan::default()
        });
        plan.peers = peers::of_config(config, node);
        let certificate = certificate(config, node).unwrap_or_else(|error| {
            reasons.push(error.to_string());
            None
        });
        let steering = self.steering(config).map_err(|reason| reasons.push(reason)).ok();
        let Some(steering) = steering.filter(|_| reasons.is_empty()) else {
            return Err(Refusal::all(reasons));
        };
        let alpn = |service: &Service| TailoredService::new(service.alpn.iter().map(String::as_str));
        let base = Base {
            config: Arc::clone(config),
            zones: Zones::new(zones),
            steering,
            services: config.services.values().map(alpn).collect(),
            slots: stats.slots(config),
            identity: identity(config, node),
            limits: limits(),
            cookies: self.cookies.clone(),
            rrl: rate_limit(config, node),
        };
        Ok(Staged { base: Arc::new(base), plan, certificate, also_read, warnings })
    }

    fn steering(&self, config: &Config) -> Result<Arc<Steering>, String> {
        let ingredients = Ingredients::of(config);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_of, steering)) = &*last
            && *made_of == ingredients
        {
            return Ok(Arc::clone(steering));
        }
        let started = std::time::Instant::now();
        let geo = steering::open_geo(&config.geoip).map_err(|error| error.to_string())?;
        let steering = Arc::new(Steering::compile(config, &geo).map_err(|error| error.to_string())?);
        info!(milliseconds = started.elapsed().as_millis(), "compiled the maps");
        *last = Some((ingredients, Arc::clone(&steering)));
        Ok(steering)
    }
}

impl Ingredients {
    fn of(config: &Config) -> Ingredients {
        let stamp = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.len(), metadata.modified().ok()?))
        };
        Ingredients {
            geoip: config.geoip.clone(),
            pops: config.pops.values().cloned().collect(),
            services: config.services.values().cloned().collect(),
            databases: config.geoip.databases.iter().map(stamp).collect(),
        }
    }
}

/// What this server says of itself (RFC 5001, RFC 4892); `check` and `explain` are no node and say nothing.
fn identity(config: &Config, node: &str) -> Identity {
    let Some(node) = config.dns.get(node) else { return Identity::default() };
    let text = |said: &Option<String>| said.as_deref().map(Box::from);
    let nsid = node.id.as_ref().map(|id| id.as_bytes().into());
    Identity { nsid, version: text(&node.version), id: text(&node.id) }
}

fn limits() -> Limits {
    let keepalive_100ms = u16::try_from(tcp::IDLE_TIMEOUT.as_millis() / 100).unwrap_or(u16::MAX);
    Limits { keepalive_100ms, ..Limits::default() }
}

/// Reads and checks one zone. Files beyond the one the fleet file names are added to `also_read`.
fn read_zone(
    config: &Config,
    zone: &ZoneConfig,
    also_read: &mut Vec<PathBuf>,
) -> Result<(Zone, Vec<Finding>), Vec<String>> {
    let origin = absolute(&zone.origin).map_err(|error| vec![format!("zone `{}`: {error}", zone.origin)])?;
    let bindings = bindings(config, zone, &origin).map_err(|error| vec![error])?;
    let mut files: Vec<PathBuf> = Vec::new();
    let loaded = master::read(&zone.file, &origin, &mut |path: &Path| {
        files.push(path.to_path_buf());
        fs::read(path)
    });
    // Watched even where the zone is broken: the mistake may be mended there.
    also_read.extend(files.into_iter().filter(|file| *file != zone.file));
    let records = loaded.map_err(|error| vec![error.to_string()])?.records;
    Zone::build(origin, records, &bindings).map_err(|error| {
        error.findings.iter().filter(|finding| is_error(finding)).map(ToString::to_string).collect()
    })
}

fn is_error(finding: &Finding) -> bool {
    finding.severity() == nearside_zones::Severity::Error
}

/// A name of the fleet file, where the final dot is left out.
fn absolute(text: &str) -> Result<Name, nearside_zones::NameError> {
    Name::parse(text.as_bytes(), Some(&Name::root()))
}

/// The tailored names of a zone with the numbers of their services.
fn bindings(config: &Config, zone: &ZoneConfig, origin: &Name) -> Result<Bindings, String> {
    let mut bindings = Bindings::new();
    for (name, service) in &zone.names {
        let place = || format!("zone `{}`, name `{name}`", zone.origin);
        let owner =
            Name::parse(name.as_bytes(), Some(origin)).map_err(|error| format!("{}: {error}", place()))?;
        let found = config.services.iter().enumerate().find(|(_, (key, _))| *key == service);
        let Some((number, (_, service))) = found else {
            return Err(format!("{}: there is no service `{service}`", place()));
        };
        let service = Binding { service: number as u32, https: !service.alpn.is_empty() };
        bindings.insert(owner, service);
    }
    Ok(bindings)
}
/// Off unless asked for: no limit fits both a lone resolver and a farm. A reload starts with full buckets.
fn rate_limit(config: &Config, node: &str) -> Option<Rrl> {
    let per_second = config.dns.get(node)?.rate_limit?;
    Some(Rrl::new(RrlConfig { per_second, ..RrlConfig::default() }, fastrand::u64(..)))
}

/// The certificate of the encrypted listeners; `None`: there are none.
fn certificate(config: &Config, node: &str) -> Result<Option<Arc<CertifiedKey>>, CertificateError> {
    let encrypted = config.dns.get(node).and_then(|node| node.encrypted.as_ref());
    let Some(encrypted) = encrypted else { return Ok(None) };
    let now_secs = i64::try_from(clock::now().0 / 1000).unwrap_or(i64::MAX);
    load(&encrypted.certificate, &encrypted.key, now_secs).map(|served| Some(served.key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample;

    #[test]
    fn says_of_itself_what_the_fleet_file_says() {
        let mut config = (*sample::view().base.config).clone();
        let named = identity(&config, "ns1");
        assert_eq!((named.id.as_deref(), named.nsid.as_deref()), (Some("ns1"), Some(&b"ns1"[..])));
        assert_eq!(named.version, None, "unsaid unless written");
        let node = config.dns.get_mut("ns1").unwrap();
        (node.id, node.version) = (None, Some("7".into()));
        let hidden = identity(&config, "ns1");
        assert_eq!((hidden.id, hidden.nsid, hidden.version.as_deref()), (None, None, Some("7")));
    }
}
