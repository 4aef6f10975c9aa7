//! Home and its authority: home is killed while it orders, and no order is made twice.

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::Value;

use crate::{
    fleet::{Fleet, SOON},
    pebble::{Options, Pebble},
    process, wait,
};

/// For an order with everything that goes wrong on purpose.
const ORDERED: Duration = Duration::from_secs(60);
/// Last byte of the authority's address.
pub const AUTHORITY: u8 = 50;

/// A governed fleet whose site orders its certificate from a pebble, with one PoP and both DNS nodes running unless told
/// otherwise.
#[derive(Debug)]
pub struct Ordering {
    /// The fleet.
    pub fleet: Fleet,
    /// The authority.
    pub pebble: Pebble,
}

impl Ordering {
    /// Everything but the nodes. `tls` is what the site says, `acme` what follows the directory of pebble in the fleet file.
    pub fn prepared(tls: &str, acme: &str) -> Self {
        Self::asking(tls, acme, 10, |fleet| fleet.dns("ns1"), |_| {})
    }

    /// The same with a share of nonces refused, an authority that asks somebody else, and more changes before home sees the
    /// fleet file.
    pub fn asking(
        tls: &str,
        acme: &str,
        nonces: u8,
        dns: impl Fn(&Fleet) -> std::net::SocketAddr,
        change: impl FnOnce(&Fleet),
    ) -> Self {
        let mut pebble = None;
        let fleet = Fleet::enrolled_after(|fleet| {
            let listen = fleet.block.socket(AUTHORITY, 14_000);
            let options = Options { listen, dns: dns(fleet), nonces_refused: nonces, binding: None };
            let started = Pebble::start(&fleet.path("pebble"), options);
            write(fleet, &started, tls, acme);
            change(fleet);
            pebble = Some(started);
        });
        Self { fleet, pebble: pebble.expect("it was started") }
    }

    /// With the nodes running.
    pub fn started(tls: &str, acme: &str) -> Self {
        let mut this = Self::prepared(tls, acme);
        for node in ["fra", "ns1", "ns2"] {
            this.start(node);
        }
        this
    }

    /// Starts a node and waits until it follows home.
    pub fn start(&mut self, node: &str) {
        self.fleet.start(node);
        self.fleet.wait_serving(node);
        self.fleet.wait_follows_home(node);
    }

    /// What `nearside certs` says of the site.
    pub fn certificate(&self) -> Value {
        let said = self.fleet.nearside(&["certs", "--json"]);
        let said: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
        said["certificates"][0].clone()
    }

    /// Waits until `fra` shows a certificate of the authority that is not `before`; its fingerprint.
    pub fn wait_served(&self, before: &str) -> String {
        wait::until("a certificate of the authority is served", ORDERED, || {
            let certificate = self.certificate();
            let own = certificate["fingerprint"].as_str().unwrap_or_default();
            let shown = certificate["pops"].as_array().cloned().unwrap_or_default();
            let served = shown.iter().any(|pop| pop["pop"] == "fra" && pop["fingerprint"] == own);
            let pebbles = certificate["issuer"].as_str().is_some_and(|issuer| issuer.starts_with("Pebble"));
            match served && pebbles && !own.is_empty() && own != before {
                true => Ok(own.to_owned()),
                false => Err(format!("{certificate}\n{}", self.pebble.output())),
            }
        })
    }

    /// Kills home some times, each after it has lived for a while, and starts it again.
    ///
    /// # Panics
    /// Where more than `orders` were made.
    pub fn kill_home(&mut self, times: usize, orders: usize) {
        for _ in 0..times {
            std::thread::sleep(Duration::from_millis(fastrand::u64(20..1_200)));
            self.fleet.process("controller").kill();
            assert!(self.pebble.orders() <= orders, "{}", self.pebble.output());
            self.fleet.start_controller();
        }
    }

    /// Waits until no DNS node answers a challenge any more.
    pub fn wait_withdrawn(&self, name: &str) {
        for server in ["ns1", "ns2"] {
            wait::until("challenges are withdrawn", SOON, || {
                let answer = self.fleet.dig(server, &format!("{name} TXT"));
                if answer.data("TXT").is_empty() { Ok(()) } else { Err(answer.text) }
            });
        }
    }
}

/// The fleet file of such a fleet: checks without TLS, since there is no certificate at first.
fn write(fleet: &Fleet, pebble: &Pebble, tls: &str, acme: &str) {
    let file = fleet.fleet_file();
    fleet.edit(&file, "type = \"https\"\nport = 8443", "type = \"http\"\nport = 8080");
    fleet.edit(&file, "tls = { certificate = \"tls/www.pem\", key = \"tls/www.key\" }", tls);
    append(
        &file,
        &format!(
            "\n[acme.directory.pebble]\nurl = \"{}\"\nca = \"{}\"\ncontact = \"ops@cdn.test\"\n{acme}\n",
            pebble.url(),
            pebble.ca().display()
        ),
    );
}

fn append(file: &Path, text: &str) {
    let before = fs::read_to_string(file).expect("the fleet file");
    fs::write(file, before + text).expect("the fleet file");
}

/// Home is killed again and again while it orders and renews; it ends with one order each, nothing left in the DNS.
pub fn killed() {
    let mut ordering = Ordering::started("tls = { issuer = \"acme\" }", "");
    ordering.kill_home(KILLS, 1);
    let first = ordering.wait_served("");
    assert_eq!(ordering.pebble.orders(), 1, "{}", ordering.pebble.output());
    while ordering.pebble.orders() < 2 {
        // Whoever asked hears nothing more when home is killed.
        let (fleet_file, home) = (ordering.fleet.fleet_file(), ordering.fleet.state_dir("home"));
        let mut renew = Command::new(process::binary("nearside"));
        renew.args(["cert", "renew", "www", "--fleet"]).arg(fleet_file).arg("--state-dir").arg(home);
        ordering.fleet.run("renew", &mut renew);
        ordering.kill_home(1, 2);
    }
    ordering.kill_home(KILLS, 2);
    ordering.wait_served(&first);
    assert_eq!(ordering.pebble.orders(), 2, "{}", ordering.pebble.output());
    ordering.wait_withdrawn("_acme-challenge.cdn.test");
}

/// Kills per order. An order takes some seconds: a few drills hit every part of it.
const KILLS: usize = 8;
