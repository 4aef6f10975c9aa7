//! `[acme]`, and what a site says of certificates that come from elsewhere than a file or the fleet's CA.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use super::Id;

/// `[acme]`: authorities that give certificates to home, and home alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Acme {
    /// In order of preference; each name once.
    pub directories: Vec<Directory>,
    /// Who is asked about names outside our zones; `None`: the system's resolver.
    pub resolver: Option<SocketAddr>,
}

impl Acme {
    /// The directory of this name.
    pub fn directory(&self, name: &str) -> Option<&Directory> {
        self.directories.iter().find(|directory| directory.name == name)
    }
}

/// `[acme.directory.NAME]`: one authority.
#[derive(Clone, Debug, PartialEq)]
pub struct Directory {
    /// Its name in the fleet file.
    pub name: Id,
    /// Its directory, an https URL.
    pub url: String,
    /// Whom its TLS certificate is verified against; `None`: the system's roots.
    pub ca: Option<PathBuf>,
    /// Mail addresses of the account.
    pub contact: Vec<String>,
    /// Names that CAA records know it by; empty: those it says itself.
    pub caa: Vec<String>,
    /// What ties the account to one that was made on a web page.
    pub eab: Option<Eab>,
}

/// External account binding (RFC 8555 section 7.3.4).
#[derive(Clone, Debug, PartialEq)]
pub struct Eab {
    /// Key identifier.
    pub kid: String,
    /// A file with the MAC key, base64url.
    pub key_file: PathBuf,
}

/// How a site's certificates are ordered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SiteAcme {
    /// Names of directories, tried in this order; all of them are defined.
    pub directories: Vec<Id>,
    /// Where the challenges of hosts in foreign zones are answered: host → name in a zone of ours, to which
    /// `_acme-challenge.HOST` is an alias. A host that is not here is followed through the DNS.
    pub delegation: BTreeMap<String, String>,
    /// What pair is made for each certificate.
    pub key: KeyKind,
}

/// Kinds of pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// P-256: small, fast, known to every client of the last ten years.
    #[default]
    Ecdsa,
    /// 2048 bits, for clients older than that.
    Rsa,
}
