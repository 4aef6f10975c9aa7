//! The certificates of all sites, seen from both sides: as home has them, and as each PoP shows them in a handshake.
//!
//! The handshake is a real one, to the PoP's own listener, with the site's name: what it shows is what clients are shown,
//! whatever home or the node believe. Certificates that end soon are told of; nothing is renewed here.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use nearside_fleet::config::{Config, Pop, Site, SiteTls};
use nearside_node::unverified::AnyCertificate;
use rustls::{ClientConfig, pki_types::ServerName};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    acme::Acme,
    events::{Event, Kind},
    home::seconds,
    journal::{Journal, JournalError},
    pair::{self, Pair},
    serve::Controller,
};

/// For connection and handshake: twice round the world over a bad line.
const HANDSHAKE: Duration = Duration::from_secs(4);
/// Handshakes at once.
const HANDSHAKES_AT_ONCE: usize = 32;
/// Handshakes in one call: a thousand sites at five PoPs. Beyond it `site` is to be asked for.
const HANDSHAKES_MAX: usize = 5_000;
/// How often the ends of certificates are looked at.
const LOOK: Duration = Duration::from_secs(3_600);
/// Days before the end of a certificate at which somebody is told, again each time.
pub const TOLD_DAYS: [u64; 4] = [14, 7, 3, 1];
/// A life shorter than this has its share of those days: one of six days is told of in its last two.
const LIFE_DAYS: u64 = 42;
const DAY: u64 = 86_400;

/// A site's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Which site.
    pub site: String,
    /// Where it comes from: `files`, `fleet`, `acme`, `import`.
    pub source: String,
    /// Names the site has.
    pub hosts: Vec<String>,
    /// Who issued it; `None`: there is none yet.
    pub issuer: Option<String>,
    /// Start of its life, seconds since the epoch.
    pub not_before: Option<u64>,
    /// End of its life.
    pub not_after: Option<u64>,
    /// Whole days until then; negative once it is over.
    pub days_left: Option<i64>,
    /// SHA-256 of the leaf.
    pub fingerprint: Option<String>,
    /// When home orders the next one; 0: as soon as it can.
    pub renewal: Option<u64>,
    /// What is wrong.
    pub trouble: Option<String>,
    /// What PoPs show.
    pub pops: Vec<Shown>,
}

/// What a PoP showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Which.
    pub pop: String,
    /// Where it was asked.
    pub address: SocketAddr,
    /// SHA-256 of the leaf it showed.
    pub fingerprint: Option<String>,
    /// Why it showed none.
    pub error: Option<String>,
}

impl Certificate {
    /// Whether nothing about it needs anybody.
    pub fn is_well(&self) -> bool {
        let shown = |shown: &Shown| shown.fingerprint.is_some() && shown.fingerprint == self.fingerprint;
        self.trouble.is_none() && self.pops.iter().all(shown)
    }
}

/// Every site with TLS, or one, as home has it. Reads files.
///
/// # Errors
/// [`JournalError`].
pub fn at_home(
    journal: &Journal,
    acme: &Acme,
    config: &Config,
    site: Option<&str>,
    now: u64,
) -> Result<Vec<Certificate>, JournalError> {
    let mut out = Vec::new();
    for found in config.sites.values().filter(|found| site.is_none_or(|site| found.name == site)) {
        let Some(tls) = &found.tls else { continue };
        let source = match tls {
            SiteTls::Files { .. } => "files",
            SiteTls::FleetCa => "fleet",
            SiteTls::Acme(_) => "acme",
            SiteTls::Import => "import",
        };
        let chain = match tls {
            SiteTls::Files { certificate, .. } => std::fs::read_to_string(certificate)
                .map(Some)
                .map_err(|error| format!("{}: {error}", certificate.display())),
            _ => Ok(journal.certificate(&found.name)?.map(|kept| kept.chain)),
        };
        let mut entry = describe(found, source, chain, now);
        if let SiteTls::Acme(wishes) = tls {
            entry.renewal = Some(acme.due(found)?.max(acme.may_try(&found.name, wishes)?));
            if let Some(reason) = journal.acme_trouble(&found.name)? {
                entry.trouble =
                    Some(entry.trouble.map_or(reason.clone(), |trouble| format!("{trouble}; {reason}")));
            }
        }
        out.push(entry);
    }
    Ok(out)
}

fn describe(site: &Site, source: &str, chain: Result<Option<String>, String>, now: u64) -> Certificate {
    let mut entry = Certificate {
        site: site.name.clone(),
        source: source.to_owned(),
        hosts: site.hosts.clone(),
        issuer: None,
        not_before: None,
        not_after: None,
        days_left: None,
        fingerprint: None,
        renewal: None,
        trouble: None,
        pops: Vec::new(),
    };
    let leaf = chain.and_then(|chain| {
        let chain = chain.ok_or("it has none yet")?;
        pair::describe(pair::read_chain(&chain)?.first().ok_or("it is empty")?)
    });
    match leaf {
        Err(reason) => entry.trouble = Some(reason),
        Ok(leaf) => {
            entry.trouble = leaf.serves(&site.hosts, now).err();
            if entry.trouble.is_none() && level(&leaf, now) > 0 {
                entry.trouble = Some("it ends soon".to_owned());
            }
            let signed = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
            entry.days_left = Some((signed(leaf.not_after) - signed(now)).div_euclid(signed(DAY)));
            (entry.not_before, entry.not_after) = (Some(leaf.not_before), Some(leaf.not_after));
            (entry.issuer, entry.fingerprint) = (Some(leaf.issuer), Some(leaf.fingerprint));
        }
    }
    entry
}

/// How many of the days at which somebody is told are behind: 0, none.
fn level(leaf: &Pair, now: u64) -> u32 {
    let life = leaf.not_after.saturating_sub(leaf.not_before);
    let left = leaf.not_after.saturating_sub(now);
    let told = |days: u64| (days * DAY).min(life * days / LIFE_DAYS);
    TOLD_DAYS.iter().filter(|days| left <= told(**days)).count() as u32
}

/// Asks every PoP for every certificate.
pub async fn ask_pops(config: &Config, certificates: &mut [Certificate]) {
    let mut asking = JoinSet::new();
    let at_once = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    let client = client();
    for (index, certificate) in certificates.iter().enumerate() {
        let Some(host) = certificate.hosts.first() else { continue };
        // A name that only a wildcard covers.
        let host = host.strip_prefix("*.").map_or(host.clone(), |rest| format!("certificate-check.{rest}"));
        for pop in config.pops.values() {
            let Some(address) = listener(pop).filter(|_| asking.len() < HANDSHAKES_MAX) else { continue };
            let (pop, host, at_once, client) =
                (pop.name.clone(), host.clone(), Arc::clone(&at_once), Arc::clone(&client));
            asking.spawn(async move {
                // Closed by nobody.
                let _turn = at_once.acquire().await;
                let shown = match timeout(HANDSHAKE, handshake(&client, address, &host)).await {
                    Ok(shown) => shown,
                    Err(_elapsed) => Err(format!("no handshake within {HANDSHAKE:?}")),
                };
                let (fingerprint, error) = match shown {
                    Ok(leaf) => (Some(nearside_fleet::Sha256::of(&leaf).to_string()), None),
                    Err(reason) => (None, Some(reason)),
                };
                (index, Shown { pop, address, fingerprint, error })
            });
        }
    }
    while let Some(done) = asking.join_next().await {
        // A panic there is our bug; that PoP is missing from the list.
        if let Ok((index, shown)) = done {
            certificates[index].pops.push(shown);
        }
    }
    for certificate in certificates {
        certificate.pops.sort_by(|one, other| one.pop.cmp(&other.pop));
    }
}

/// Where a PoP's TLS is reached: its first listener, at its public address where it listens on every one.
fn listener(pop: &Pop) -> Option<SocketAddr> {
    let first = pop.https.first()?;
    if !first.ip().is_unspecified() {
        return Some(*first);
    }
    let public = pop.ipv4.first().map(|ip| IpAddr::V4(*ip));
    let public = public.or_else(|| pop.ipv6.first().map(|ip| IpAddr::V6(*ip)))?;
    Some(SocketAddr::new(public, first.port()))
}

async fn handshake(client: &Arc<ClientConfig>, address: SocketAddr, host: &str) -> Result<Vec<u8>, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::clone(client)).connect(name, stream).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    leaf.map(|leaf| leaf.to_vec()).ok_or_else(|| "showed no certificate".to_owned())
}

/// A client that takes whatever it is shown: what is shown is the question.
fn client() -> Arc<ClientConfig> {
    nearside_node::tls::install_provider();
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(AnyCertificate::verifier())
        .with_no_client_auth();
    Arc::new(config)
}

/// Tells of certificates that end soon, until cancelled.
pub async fn watch_ends(controller: Arc<Controller>) {
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        let Some(desk) = controller.desk() else { continue };
        let now = seconds(SystemTime::now());
        // A journal that fails is told by whatever needs it next.
        let Ok(all) = at_home(controller.journal(), controller.acme(), &desk.config, None, now) else {
            continue;
        };
        forget_gone(&controller, &all);
        for certificate in all {
            let (Some(not_before), Some(not_after)) = (certificate.not_before, certificate.not_after) else {
                continue;
            };
            let leaf = Pair {
                names: Vec::new(),
                issuer: String::new(),
                not_before,
                not_after,
                fingerprint: String::new(),
                renewal_id: None,
            };
            match level(&leaf, now) {
                0 => controller.events().clear(Kind::CertificateExpiring, &certificate.site),
                level => {
                    let days = certificate.days_left.unwrap_or(0);
                    let message = format!("the certificate of site {} ends in {days} days", certificate.site);
                    let event = Event::new(Kind::CertificateExpiring, certificate.site, message);
                    controller.events().raise(event.at_level(level));
                }
            }
        }
    }
}

/// Ends what is told of sites that are no longer served over TLS.
fn forget_gone(controller: &Controller, all: &[Certificate]) {
    let own = [Kind::CertificateExpiring, Kind::CertificateFailed];
    let known = |site: &str| all.iter().any(|certificate| certificate.site == site);
    for open in controller.events().open().unwrap_or_default() {
        if own.contains(&open.kind) && !known(&open.subject) {
            controller.events().clear(open.kind, &open.subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(life_days: u64) -> Pair {
        Pair {
            names: Vec::new(),
            issuer: String::new(),
            not_before: 0,
            not_after: life_days * DAY,
            fingerprint: String::new(),
            renewal_id: None,
        }
    }

    #[test]
    fn ends_are_told_of_four_times() {
        let left = |days: u64| level(&leaf(90), (90 - days) * DAY);
        assert_eq!([15, 14, 8, 7, 3, 2, 1, 0].map(left), [0, 1, 1, 2, 3, 3, 4, 4]);
        let short = |days: u64| level(&leaf(6), (6 - days) * DAY);
        assert_eq!([3, 2, 1].map(short), [0, 1, 2], "lives of six days have a share of it");
    }
}
