//! The sites of this edge, by host name: one immutable table per configuration, swapped whole.
//!
//! What outlives a reload is carried over: counters by the site's name, origin connections while the
//! origin's settings are the same.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use nearside_fleet::{config, config::front::TlsVersion};
use nearside_geoip::prefix::Prefix;

use crate::{
    alt_svc::{AltSvc, Quic},
    code::Code,
    gates::{Building, Gates, Lists, shared::Settings},
    listen::share::Share,
    origin::{
        Credentials, Origins, Secret, Trust,
        shield::{Fleet, Shields},
    },
    place::{self, Places},
    policy::Rules,
    request::{frontage::Frontage, hooks, pages::Pages},
    rules::{Rulebook, VARIANT},
    stats::SiteStats,
};

/// One site, ready to serve.
pub struct Site {
    /// Its name in the fleet file.
    pub name: String,
    /// Where its content comes from.
    pub origins: Origins,
    /// The PoPs it is fetched through, if this edge knows how.
    pub shields: Option<Shields>,
    /// Its caching rules.
    pub rules: Rules,
    /// Its counters.
    pub stats: Arc<SiteStats>,
    /// Its host names, as configured.
    pub hosts: Vec<String>,
    /// What its clients are told of HTTP/3.
    pub http3: AltSvc,
    /// What it asks of connections, as configured.
    pub front: config::front::SiteFront,
    /// What it says about connections.
    pub frontage: Frontage,
    /// Its share of the edge.
    pub share: Arc<Share>,
    /// Where clients are, for whoever asks.
    pub places: Arc<Places>,
    /// Who may ask, if not everybody.
    pub gates: Option<Arc<Gates>>,
    /// What is made of its stored responses, as configured.
    pub transform: config::transform::SiteTransform,
    /// What it does to requests that meet conditions, if anything.
    pub rulebook: Option<Arc<Rulebook>>,
    /// What people see of errors, if it is more than a line.
    pub pages: Option<Pages>,
    /// Whose `X-Request-Id` is believed.
    pub request_id_from: Vec<Prefix>,
    /// Its own code, if there is any.
    pub code: Option<Arc<Code>>,
}

/// All sites by host.
#[derive(Default)]
pub struct Sites {
    exact: HashMap<Box<str>, Arc<Site>>,
    /// By what follows the `*`, dot included.
    wildcard: HashMap<Box<str>, Arc<Site>>,
    by_name: BTreeMap<String, Arc<Site>>,
    /// Where this edge speaks TLS, for redirects.
    pub https_port: Option<u16>,
    differ_in_tls: bool,
    /// Of their gates.
    lists: Lists,
    /// Where the fleet shares what gates count, if it does.
    pub shared: Option<Arc<Settings>>,
}

impl Sites {
    /// Builds the table of `configured`, carrying over from `last` what still fits.
    ///
    /// # Errors
    /// One line per origin whose trust can't be set up, or why clients can't be placed.
    pub fn build(
        configured: &BTreeMap<String, config::Site>,
        geoip: &config::Geoip,
        fleet: Option<&Fleet>,
        last: Option<&Sites>,
        workers: usize,
        quic: Quic,
    ) -> Result<Sites, Vec<String>> {
        let mut sites = Sites::default();
        let mut mistakes = Vec::new();
        let places = Places::compile(geoip, configured.values().flat_map(place::asked))
            .map_err(|error| vec![format!("rules by place: {error}")])?;
        let mut lists = Lists::after(last.map(|last| &last.lists));
        for (name, site) in configured {
            let last = last.and_then(|last| last.by_name.get(name));
            let last_gates = last.and_then(|last| last.gates.as_deref());
            let mut with = Building { places: &places, lists: &mut lists, last: last_gates, workers };
            let gates = Gates::build(site, &mut with);
            if let Err(error) = &gates {
                mistakes.push(format!("site {name}: gates: {error}"));
            }
            match Site::build(site, &places, fleet, last, workers, quic) {
                Ok(built) => sites.insert(Arc::new(Site { gates: gates.ok().flatten(), ..built })),
                Err(error) => mistakes.push(format!("site {name}: {error}")),
            }
        }
        lists.settle();
        sites.lists = lists;
        if mistakes.is_empty() { Ok(sites) } else { Err(mistakes) }
    }

    fn insert(&mut self, site: Arc<Site>) {
        for host in &site.hosts {
            match host.strip_prefix('*') {
                Some(suffix) => self.wildcard.insert(suffix.into(), site.clone()),
                None => self.exact.insert(host.as_str().into(), site.clone()),
            };
        }
        self.differ_in_tls |= site.front.tls_version_min > TlsVersion::V12;
        self.by_name.insert(site.name.clone(), site);
    }

    /// The site of a host: lower case, without port or final dot.
    pub fn find(&self, host: &str) -> Option<&Arc<Site>> {
        self.exact.get(host).or_else(|| {
            let dot = host.find('.')?;
            self.wildcard.get(&host[dot..])
        })
    }

    /// Whether the version of TLS depends on the site.
    pub fn differ_in_tls(&self) -> bool {
        self.differ_in_tls
    }

    /// All of them, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.by_name.values()
    }
}

impl Site {
    fn build(
        site: &config::Site,
        places: &Arc<Places>,
        fleet: Option<&Fleet>,
        last: Option<&Arc<Site>>,
        workers: usize,
        quic: Quic,
    ) -> Result<Site, String> {
        let load = |origin: &config::Origin| -> Result<Credentials, String> {
            let trust = Trust::load(origin.ca.as_deref()).map_err(|error| error.to_string())?;
            let secret = origin.storage.as_ref().map(Secret::load).transpose();
            Ok(Credentials { trust, secret: secret.map_err(|error| error.to_string())? })
        };
        let credentials = site.origins.iter().map(load).collect::<Result<Vec<_>, _>>();
        let credentials = credentials.map_err(|error| format!("origin: {error}"))?;
        let origins = Origins::new(site, credentials, places, last.map(|last| &last.origins))
            .map_err(|error| format!("origin: {error}"))?;
        let shields = match fleet {
            Some(fleet) => {
                let known = last.and_then(|last| last.shields.as_ref());
                let shields = Shields::new(site, fleet, origins.head_deadline(), known);
                shields.map_err(|error| format!("shield: {error}"))?
            }
            None => None,
        };
        if fleet.is_none() && !site.shields.is_empty() {
            tracing::warn!(site = site.name, "this node has no identity: shields are not used");
        }
        let last_rules = last.and_then(|last| last.rulebook.as_deref());
        let rulebook =
            Rulebook::build(site, places, last_rules, workers).map_err(|error| format!("rules: {error}"))?;
        let mut rules = Rules::from(&site.cache);
        if rulebook.is_some() {
            // What rules make of requests tells stored responses apart.
            rules.key_headers.push(VARIANT);
        }
        let networks =
            site.request_id_from.iter().filter_map(|&(address, length)| Prefix::new(address, length).ok());
        let last_code = last.and_then(|last| last.code.as_ref());
        let code = site.transform.code.as_ref().map(|code| Code::load(code, last_code)).transpose();
        let code = code.map_err(|error| format!("code: {error}"))?;
        if code.is_some() {
            rules.key_headers.push(hooks::KEY);
        }
        Ok(Site {
            name: site.name.clone(),
            origins,
            shields,
            rules,
            rulebook,
            pages: Pages::build(&site.error_pages).map_err(|error| format!("error pages: {error}"))?,
            request_id_from: networks.collect(),
            stats: last.map_or_else(|| SiteStats::new(workers), |last| last.stats.clone()),
            hosts: site.hosts.clone(),
            http3: AltSvc::new(site.http3, quic),
            front: site.front.clone(),
            frontage: Frontage::from(&site.front),
            share: last.map_or_else(Arc::default, |last| last.share.clone()),
            places: places.clone(),
            gates: None,
            transform: site.transform.clone(),
            code,
        })
    }
}
