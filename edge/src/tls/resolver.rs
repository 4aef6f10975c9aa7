//! Chooses the certificate for a handshake: the read half.
//!
//! Exact name, then wildcard. A client that names nobody (health probes by address) gets the default;
//! one that names a host we have no certificate for is refused (rustls' alert is `access_denied`) rather than
//! shown somebody else's certificate. Readers load one immutable [`Table`]; reloads swap it whole.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use nearside_node::certificate::Served;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// Every certificate that is served, by host name.
#[derive(Default)]
pub struct Table {
    exact: HashMap<Box<str>, Arc<Served>>,
    /// By what follows the `*`, dot included.
    wildcard: HashMap<Box<str>, Arc<Served>>,
    default: Option<Arc<Served>>,
    /// By site.
    pub(super) sites: HashMap<Box<str>, Arc<Served>>,
}

impl Table {
    /// Adds a site's certificate. The first one added is the default.
    pub(super) fn insert(&mut self, site: &str, hosts: &[String], served: &Arc<Served>) {
        for host in hosts {
            match host.strip_prefix('*') {
                Some(suffix) => self.wildcard.insert(suffix.into(), served.clone()),
                None => self.exact.insert(host.as_str().into(), served.clone()),
            };
        }
        self.sites.insert(site.into(), served.clone());
        self.default.get_or_insert_with(|| served.clone());
    }

    /// The certificate for a server name (`None`: the client named nobody).
    pub fn find(&self, name: Option<&str>) -> Option<&Arc<Served>> {
        let Some(name) = name else { return self.default.as_ref() };
        self.exact.get(name).or_else(|| {
            let dot = name.find('.')?;
            self.wildcard.get(&name[dot..])
        })
    }

    /// Certificates by site, for reports and metrics.
    pub fn by_site(&self) -> impl Iterator<Item = (&str, &Arc<Served>)> {
        self.sites.iter().map(|(site, served)| (&**site, served))
    }
}

/// rustls' way to ask for a certificate.
#[derive(Default)]
pub struct Resolver {
    table: ArcSwap<Table>,
    /// Handshakes for names without a certificate.
    pub refused: AtomicU64,
}

impl Resolver {
    /// The table of now.
    pub fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// From the next handshake on, this one.
    pub fn swap(&self, table: Arc<Table>) {
        self.table.store(table);
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls hands out names lower-cased and without a final dot.
        match self.table.load().find(hello.server_name()) {
            Some(served) => Some(served.key.clone()),
            None => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}
