//! A fleet CA for tests, and identities of it.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

use crate::{identity, tls};

/// A CA of one test.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test fleet CA");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes `ca.pem`, `cert.pem`, `key.pem` for a common name into a directory.
    pub(crate) fn write_identity(&self, dir: &Path, common_name: &str) {
        let node = common_name.strip_prefix("node:").unwrap_or(common_name);
        let mut params = CertificateParams::new(vec![tls::node_host(node)]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        fs::create_dir_all(dir).unwrap();
        let [ca_file, cert_file, key_file] = identity::files(dir);
        fs::write(ca_file, self.0.pem()).unwrap();
        fs::write(cert_file, certificate.pem()).unwrap();
        fs::write(key_file, key.serialize_pem()).unwrap();
    }
}
