//! Debian's pebble: an ACME authority that is strict, slow and refuses nonces on purpose.
//!
//! It keeps everything in memory and says in its log what it was asked, which is how tests count orders.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

use crate::{process::Process, wait};

/// For pebble to make its own CA and listen.
const START: Duration = Duration::from_secs(20);

/// How it is run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'o> {
    /// Where it listens; its management interface is one port above.
    pub listen: SocketAddr,
    /// Who it asks for challenges.
    pub dns: SocketAddr,
    /// Percent of good nonces that are refused.
    pub nonces_refused: u8,
    /// A key identifier and MAC key without which no account is made.
    pub binding: Option<(&'o str, &'o str)>,
}

/// A running pebble.
#[derive(Debug)]
pub struct Pebble {
    process: Process,
    listen: SocketAddr,
    ca: PathBuf,
}

impl Pebble {
    /// Starts it, with its files in `dir`.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start(dir: &Path, options: Options<'_>) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let ca = write_certificate(dir, options.listen.ip());
        let mut config = serde_json::json!({ "pebble": {
            "listenAddress": options.listen.to_string(),
            "managementListenAddress": SocketAddr::new(options.listen.ip(), options.listen.port() + 1).to_string(),
            "certificate": dir.join("cert.pem"), "privateKey": dir.join("key.pem"),
            "httpPort": 5002, "tlsPort": 5001, "ocspResponderURL": "",
            "externalAccountBindingRequired": options.binding.is_some(),
        } });
        if let Some((kid, key)) = options.binding {
            config["pebble"]["externalAccountMACKeys"] = serde_json::json!({ kid: key });
        }
        fs::write(dir.join("pebble.json"), config.to_string()).expect("a file");
        let mut command = Command::new("pebble");
        command.arg("-config").arg(dir.join("pebble.json")).arg("-strict");
        command.arg("-dnsserver").arg(options.dns.to_string());
        command.env("PEBBLE_WFE_NONCEREJECT", options.nonces_refused.to_string());
        // It sleeps before it validates, as real ones do, but not for its usual fifteen seconds.
        command.env("PEBBLE_VA_SLEEPTIME", "1").env("PEBBLE_AUTHZREUSE", "0");
        let mut process = Process::start("pebble", &mut command, &dir.join("pebble.log"));
        process.wait_for("ACME directory available at", START);
        wait::until("pebble listens", START, || {
            std::net::TcpStream::connect(options.listen).map(drop).map_err(|error| error.to_string())
        });
        Self { process, listen: options.listen, ca }
    }

    /// Its directory.
    pub fn url(&self) -> String {
        format!("https://{}/dir", self.listen)
    }

    /// What its own TLS certificate is verified against.
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// How often something stands in its log.
    pub fn said(&self, text: &str) -> usize {
        self.process.output().matches(text).count()
    }

    /// How many orders were made.
    pub fn orders(&self) -> usize {
        self.said("Added order \"")
    }

    /// How many times it was told to look at a challenge.
    pub fn validations(&self) -> usize {
        self.said("Pulled a task from the Tasks queue")
    }

    /// Everything it said.
    pub fn output(&self) -> String {
        self.process.output()
    }
}

/// A certificate for an address; the CA to trust.
fn write_certificate(dir: &Path, address: IpAddr) -> PathBuf {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "pebble's TLS");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.subject_alt_names = vec![SanType::IpAddress(address)];
    let leaf = params.signed_by(&key, &ca).expect("a certificate");
    fs::write(dir.join("cert.pem"), leaf.pem()).expect("a file");
    fs::write(dir.join("key.pem"), key.serialize_pem()).expect("a file");
    let path = dir.join("ca.pem");
    fs::write(&path, ca.pem()).expect("a file");
    path
}
