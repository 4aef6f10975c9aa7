//! A fleet CA for tests, and identities of it.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, RevokedCertParams,
    SerialNumber, date_time_ymd,
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

    /// Signs a request's key for a common name, issued later than every certificate of [`Ca::write_identity`].
    pub(crate) fn sign(&self, csr: &str, common_name: &str) -> String {
        static ISSUED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        let node = common_name.strip_prefix("node:").unwrap_or(common_name);
        let mut params = CertificateParams::new(vec![tls::node_host(node)]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let day = ISSUED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        params.not_before = date_time_ymd(2020, 1, day);
        let csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
        params.signed_by(&csr.public_key, &self.0).unwrap().pem()
    }

    /// A list of revoked serial numbers, DER.
    pub(crate) fn revoke(&self, number: u64, serials: &[&[u8]]) -> Vec<u8> {
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().der().to_vec()
    }
}
