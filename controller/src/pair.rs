//! A certificate chain and its private key as PEM: what they are, and what is wrong with them.
//!
//! Whatever comes from outside (an authority, a push, a watched directory) passes here before it is kept. Pure. That the
//! chain leads to a root somebody trusts is not judged: private authorities are welcome.

use std::sync::Arc;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as B64, Engine};
use nearside_fleet::Sha256;
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// Certificates in a chain; four are a long one already.
pub const CHAIN_MAX: usize = 10;
/// Bytes of a chain or a key.
pub const PEM_BYTES_MAX: usize = 256 << 10;

/// A chain whose key is known to be its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Names of the leaf, lower case.
    pub names: Vec<String>,
    /// Who issued the leaf: the common name, or all of it.
    pub issuer: String,
    /// Start of its life, seconds since the epoch.
    pub not_before: u64,
    /// End of its life.
    pub not_after: u64,
    /// SHA-256 of the leaf, as edges report it.
    pub fingerprint: String,
    /// Names it to its authority (RFC 9773 section 4.1); `None` for one without an authority key identifier.
    pub renewal_id: Option<String>,
}

/// Reads a chain, leaf first.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read_chain(chain: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if chain.len() > PEM_BYTES_MAX {
        return Err(format!("the chain is {} bytes long, expected at most {PEM_BYTES_MAX}", chain.len()));
    }
    let read = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = read.map_err(|error| format!("the chain is not PEM: {error}"))?;
    match chain.len() {
        0 => Err("the chain holds no certificate; expected PEM, the site's own certificate first".to_owned()),
        1..=CHAIN_MAX => Ok(chain),
        more => Err(format!("the chain holds {more} certificates, expected at most {CHAIN_MAX}")),
    }
}

/// What a leaf says, whoever has its key.
///
/// # Errors
/// In words, where it is no certificate.
pub fn describe(leaf: &[u8]) -> Result<Pair, String> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| format!("no certificate: {error}"))?;
    let names = parsed.subject_alternative_name().ok().flatten().map(|extension| {
        let names = extension.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        names.collect()
    });
    let common = parsed.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
    let authority = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| B64.encode(id.0)),
        _ => None,
    });
    let seconds = |at: i64| u64::try_from(at).unwrap_or(0);
    Ok(Pair {
        names: names.unwrap_or_default(),
        issuer: common.map_or_else(|| parsed.issuer().to_string(), str::to_owned),
        not_before: seconds(parsed.validity().not_before.timestamp()),
        not_after: seconds(parsed.validity().not_after.timestamp()),
        fingerprint: Sha256::of(leaf).to_string(),
        renewal_id: authority.map(|authority| format!("{authority}.{}", B64.encode(parsed.raw_serial()))),
    })
}

/// Reads both and proves that they belong together and the chain hangs together.
///
/// # Errors
/// What is wrong, in words.
pub fn examine(chain: &str, key: &str) -> Result<Pair, String> {
    let chain = read_chain(chain)?;
    if key.len() > PEM_BYTES_MAX {
        return Err(format!("the key is {} bytes long, expected at most {PEM_BYTES_MAX}", key.len()));
    }
    let pair = describe(&chain[0])?;
    for (below, above) in chain.iter().zip(&chain[1..]) {
        let (Ok((_, below)), Ok((_, above))) =
            (X509Certificate::from_der(below), X509Certificate::from_der(above))
        else {
            return Err("the chain holds something that is no certificate".to_owned());
        };
        if below.issuer().as_raw() != above.subject().as_raw() {
            return Err(format!(
                "the chain is out of order: {} was issued by {}, and {} follows",
                below.subject(),
                below.issuer(),
                above.subject()
            ));
        }
    }
    let private = PrivateKeyDer::from_pem_slice(key.as_bytes());
    let private = private.map_err(|error| format!("the key is no PEM private key: {error}"))?;
    let signer = any_supported_type(&private).map_err(|error| format!("the key can't be used: {error}"))?;
    let both = CertifiedKey::new(chain, Arc::clone(&signer));
    both.keys_match()
        .map_err(|_| format!("the key is not that of the certificate for {}", pair.names.join(", ")))?;
    Ok(pair)
}

impl Pair {
    /// Whether it can be served for these hosts now.
    ///
    /// # Errors
    /// Everything that speaks against it, in words.
    pub fn serves(&self, hosts: &[String], now: u64) -> Result<(), String> {
        let mut wrong = Vec::new();
        let missing: Vec<&str> = hosts.iter().map(String::as_str).filter(|host| !self.covers(host)).collect();
        if !missing.is_empty() {
            wrong.push(format!("it is for {}, not for {}", self.names.join(", "), missing.join(", ")));
        }
        if self.not_after <= now {
            wrong.push(format!("it expired {} days ago", (now - self.not_after) / 86_400));
        }
        if self.not_before > now {
            wrong.push("it is not valid yet (is this machine's clock right?)".to_owned());
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// Whether it vouches for a host, which may be a wildcard itself (RFC 6125 section 6.4.3).
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| {
            let one_label = |suffix: &str| host.split_once('.').is_some_and(|(_, rest)| rest == suffix);
            name == host
                || name.strip_prefix("*.").is_some_and(|suffix| !host.starts_with('*') && one_label(suffix))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A self-signed pair for some names, from one year to another.
    pub(crate) fn made(names: &[&str], from: i32, to: i32) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1));
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    const NOW: u64 = 1_790_000_000;

    #[test]
    fn what_fits_serves_and_what_does_not_is_told() {
        let hosts = ["a.test".to_owned(), "*.a.test".to_owned(), "b.a.test".to_owned()];
        let (chain, key) = made(&["a.test", "*.a.test"], 2020, 2099);
        let pair = examine(&chain, &key).unwrap();
        assert_eq!(pair.serves(&hosts, NOW), Ok(()));
        assert!(!pair.covers("c.b.a.test") && !pair.covers("*.b.a.test"));
        let (other_chain, other_key) = made(&["a.test"], 2020, 2021);
        let old = examine(&other_chain, &other_key).unwrap().serves(&hosts, NOW).unwrap_err();
        assert!(old.contains("not for *.a.test, b.a.test; it expired"), "{old}");
        for (chain, key, expected) in [
            (chain.as_str(), other_key.as_str(), "is not that of the certificate for a.test"),
            ("", key.as_str(), "holds no certificate"),
            (key.as_str(), key.as_str(), "holds no certificate"),
            (chain.as_str(), chain.as_str(), "no PEM private key"),
            (&format!("{chain}{other_chain}"), key.as_str(), ""),
        ] {
            match examine(chain, key) {
                // Self-signed certificates of one name issue each other, as far as names tell.
                Ok(_) => assert!(expected.is_empty()),
                Err(said) => assert!(said.contains(expected), "{said}"),
            }
        }
    }
}
