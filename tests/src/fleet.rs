//! A whole fleet on loopback: two DNS nodes, three PoPs, an origin, files to edit.
//!
//! Every fleet has its own block of addresses and its own directory, so fleets run beside each other.
//! Nodes are standalone unless the fleet is [`Fleet::governed`] by home.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::{
    curl,
    dig::{self, Answer},
    loopback::Block,
    origin::{self, Counts},
    process::{self, Finished, Process},
    wait,
};

/// The PoPs, by the last byte of their addresses.
pub const POPS: [(&str, u8); 3] = [("fra", 21), ("nyc", 22), ("sin", 23)];
/// The DNS nodes.
pub const DNS: [(&str, u8); 2] = [("ns1", 11), ("ns2", 12)];
/// Last byte of the origin's address.
const ORIGIN: u8 = 30;
/// Last byte of the controller's address.
const CONTROLLER: u8 = 40;

/// Last byte of the third DNS node's address, in a crowd.
const THIRD: u8 = 13;
/// Before the last bytes of a crowd's further PoPs: `e04` is at 104.
const CROWD: u8 = 100;

/// For a process to start, a state to be taken: generous, since machines are slow and tests many.
pub const SOON: Duration = Duration::from_secs(20);

/// A fleet and its files.
#[derive(Debug)]
pub struct Fleet {
    /// Its addresses.
    pub block: Block,
    /// What the origin was asked.
    pub origin: Counts,
    /// Before the directory: processes end, and show their logs, while it is still there.
    processes: BTreeMap<String, Process>,
    /// Kept so that certificates can be issued again.
    ca: Ca,
    dir: tempfile::TempDir,
}

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca")
    }
}

/// How a certificate is to be wrong, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Good for a year.
    Good,
    /// Ended in 2020.
    Expired,
    /// With the key of another.
    WrongKey,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Fleet {
    /// Writes the files and starts the origin; no node runs yet.
    ///
    /// # Panics
    /// Where the disk or the loopback does not play along.
    pub fn new() -> Self {
        let block = Block::take();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let origin = origin::start(block.socket(ORIGIN, 9000));
        let fleet = Self { block, origin, dir, ca: Ca(new_ca()), processes: BTreeMap::new() };
        fs::create_dir_all(fleet.path("zones")).expect("a directory");
        fs::create_dir_all(fleet.path("tls")).expect("a directory");
        fs::write(fleet.path("tls/ca.pem"), fleet.ca.0.pem()).expect("a file");
        fleet.write_certificate(Certificate::Good);
        fs::write(fleet.zone_file(), ZONE).expect("a file");
        fs::write(fleet.fleet_file(), fleet.text()).expect("a file");
        fleet
    }

    /// The fleet with every node running and every PoP seen healthy by both DNS nodes.
    pub fn started() -> Self {
        let mut fleet = Self::new();
        fleet.start_nodes();
        fleet
    }

    /// Starts all nodes; returns when both DNS nodes see all PoPs up.
    pub fn start_nodes(&mut self) {
        for (name, _) in POPS {
            self.start(name);
        }
        for (name, _) in DNS {
            self.start(name);
        }
        for (name, _) in POPS.into_iter().chain(DNS) {
            self.wait_serving(name);
        }
        self.wait_all_up();
    }

    /// A fleet governed by home: identities made and copied, the controller running, every node at a snapshot.
    ///
    /// # Panics
    /// Where `nearside init` fails.
    pub fn governed() -> Self {
        Self::governed_after(|_| {})
    }

    /// [`Fleet::governed`], with its files changed first.
    ///
    /// # Panics
    /// Where `nearside init` fails.
    pub fn governed_after(change: impl FnOnce(&Self)) -> Self {
        let mut fleet = Self::enrolled_after(change);
        fleet.start_nodes();
        for (node, _) in POPS.into_iter().chain(DNS) {
            fleet.wait_follows_home(node);
        }
        fleet
    }

    /// With its files changed first: identities made and copied to every node of the fleet file, the controller running, no
    /// node yet.
    ///
    /// # Panics
    /// Where `nearside init` fails.
    pub fn enrolled_after(change: impl FnOnce(&Self)) -> Self {
        let mut fleet = Self::new();
        change(&fleet);
        let init = fleet.nearside(&["init"]);
        assert_eq!(init.code, Some(0), "{init:?}");
        for node in fs::read_dir(fleet.state_dir("home").join("identities")).expect("identities") {
            let node = node.expect("an entry");
            let to = fleet.path("state").join(node.file_name()).join("identity");
            fs::create_dir_all(&to).expect("a directory");
            for entry in fs::read_dir(node.path()).expect("an identity") {
                let entry = entry.expect("an entry");
                fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
            }
        }
        fleet.start_controller();
        fleet
    }

    /// A governed fleet with three DNS nodes and so many edges: those of [`POPS`], then `e04`, `e05` and so on, far from
    /// everybody. Health is asked for less often than elsewhere: fifty edges share the machine.
    ///
    /// # Panics
    /// Where `nearside init` fails.
    pub fn crowd(edges: u8) -> Self {
        let mut fleet = Self::enrolled_after(|fleet| fleet.add_crowd(edges));
        let names = Self::crowd_names(edges);
        for name in &names {
            fleet.start(name);
        }
        for name in &names {
            fleet.wait_serving(name);
        }
        for name in &names {
            fleet.wait_follows_home(name);
        }
        fleet.wait_all_up();
        fleet
    }

    /// Every node of [`Fleet::crowd`], edges first.
    pub fn crowd_names(edges: u8) -> Vec<String> {
        let named = POPS.iter().map(|(name, _)| (*name).to_owned());
        let further = (4..=edges).map(|at| format!("e{at:02}"));
        named.chain(further).chain(["ns1", "ns2", "ns3"].map(str::to_owned)).collect()
    }

    fn add_crowd(&self, edges: u8) {
        let file = self.fleet_file();
        let mut text = fs::read_to_string(&file).expect("the fleet file");
        let mut pops = String::new();
        for name in (4..=edges).map(|at| format!("e{at:02}")) {
            let ip = self.address(&name);
            pops += &format!(", \"{name}\"");
            text += &format!(
                "\n[pop.{name}]\nlocation = [-80.0, {}.0]\nipv4 = \"{ip}\"\nhttp = \"{ip}:8080\"\n\
                 control = \"{ip}:8953\"\nmemory = \"8MiB\"\ncache_dir = \"{}\"\ndisk = \"32MiB\"\nworkers = 1\n",
                i32::from(last(&name)) - 100,
                self.path("cache").join(&name).display(),
            );
        }
        let ip = self.address("ns3");
        text += &format!("\n[dns.ns3]\nlisten = \"{ip}:5353\"\ncontrol = \"{ip}:8953\"\nworkers = 1\n");
        for (from, to) in [
            ("\"fra\", \"nyc\", \"sin\"]", format!("\"fra\", \"nyc\", \"sin\"{pops}]")),
            ("type = \"https\"\nport = 8443", "type = \"http\"\nport = 8080".to_owned()),
            (
                "interval = \"300ms\"\ntimeout = \"140ms\"",
                "interval = \"2s\"\ntimeout = \"900ms\"".to_owned(),
            ),
        ] {
            assert!(text.contains(from), "the fleet file has no {from:?}");
            text = text.replace(from, &to);
        }
        fs::write(file, text).expect("a file");
    }

    /// Home's view of the fleet, as `nearside status --json` prints it; null while home does not answer.
    pub fn home_status(&self) -> serde_json::Value {
        serde_json::from_str(&self.nearside(&["status", "--json"]).stdout).unwrap_or_default()
    }

    /// Waits until home sees these nodes at the newest snapshot and, if they are edges, at the newest purge.
    pub fn wait_current(&self, nodes: &[String], at_most: Duration) {
        wait::until("every node is at the newest snapshot and purge", at_most, || {
            let status = self.home_status();
            let empty = Vec::new();
            let seen = status["nodes"].as_array().unwrap_or(&empty);
            let behind: Vec<String> = nodes
                .iter()
                .filter(|name| {
                    let node = seen.iter().find(|node| node["node"] == name.as_str());
                    node.is_none_or(|node| {
                        let has_purges = node["kind"] == "dns" || node["purges"] == status["purges"];
                        node["snapshot"] != status["snapshot"] || node["phase"] != "current" || !has_purges
                    })
                })
                .cloned()
                .collect();
            if behind.is_empty() { Ok(()) } else { Err(format!("{behind:?} are not:\n{status}")) }
        });
    }

    /// Waits until a node serves what home has published.
    pub fn wait_follows_home(&self, node: &str) {
        self.wait_status(node, "follows home", |status| status["serving"]["source"] == "snapshot");
    }

    /// The command that starts the controller.
    pub fn serve_controller(&self) -> Command {
        let mut command = Command::new(process::binary("nearside-controller"));
        command
            .arg("serve")
            .arg("--fleet")
            .arg(self.fleet_file())
            .arg("--state-dir")
            .arg(self.state_dir("home"));
        command
    }

    /// Starts the controller.
    pub fn start_controller(&mut self) {
        let mut command = self.serve_controller();
        self.run("controller", &mut command);
        wait::until("the controller answers", SOON, || {
            let status = self.nearside(&["status"]);
            if status.code == Some(0) { Ok(()) } else { Err(format!("{status:?}")) }
        });
    }

    /// Runs the operator's command line at home.
    pub fn nearside(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(process::binary("nearside"));
        command.args(arguments).arg("--fleet").arg(self.fleet_file());
        process::run(command.arg("--state-dir").arg(self.state_dir("home")))
    }

    /// Waits until both DNS nodes hand out every PoP to its own neighbours.
    pub fn wait_all_up(&self) {
        for (server, _) in DNS {
            for (pop, client) in NEIGHBOURS {
                self.wait_steered(server, client, pop);
            }
        }
    }

    /// Waits until a DNS node steers a client network to a PoP.
    pub fn wait_steered(&self, server: &str, client: &str, pop: &str) {
        let address = self.address(pop);
        wait::until(&format!("{server} steers {client} to {pop} ({address})"), SOON, || {
            let answer = self.dig(server, &format!("www.cdn.test A +subnet={client}"));
            if answer.data("A") == [address.as_str()] { Ok(()) } else { Err(answer.text) }
        });
    }

    /// The command that starts a node.
    pub fn serve(&self, node: &str) -> Command {
        let program = if node.starts_with("ns") { "nearside-dns" } else { "nearside-edge" };
        let mut command = Command::new(process::binary(program));
        command.arg("serve").arg("--fleet").arg(self.fleet_file()).args(["--node", node]);
        command.arg("--state-dir").arg(self.state_dir(node));
        if program == "nearside-dns" && self.exec_dir().exists() {
            command.arg("--exec-dir").arg(self.exec_dir());
        }
        command
    }

    /// Starts a node, in the foreground of nobody; see [`Fleet::wait_serving`].
    pub fn start(&mut self, node: &str) -> &mut Process {
        let mut command = self.serve(node);
        self.run(node, &mut command)
    }

    /// Where programs of `exec` checks lie; DNS nodes may run them if it is there when they start.
    pub fn exec_dir(&self) -> PathBuf {
        self.path("exec")
    }

    /// Writes a program for `exec` checks, a shell script.
    ///
    /// # Panics
    /// Where the disk does not play along.
    pub fn write_program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.exec_dir().join(name);
        fs::create_dir_all(self.exec_dir()).expect("a directory");
        fs::write(&path, format!("#!/bin/sh\n{script}")).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it may be run");
        path
    }

    /// Runs any command as a process of the fleet, under a name.
    pub fn run(&mut self, name: &str, command: &mut Command) -> &mut Process {
        let process = Process::start(name, command, &self.path(&format!("{name}.log")));
        self.processes.insert(name.to_owned(), process);
        self.process(name)
    }

    /// A running process.
    ///
    /// # Panics
    /// Where none of that name was started.
    pub fn process(&mut self, name: &str) -> &mut Process {
        self.processes.get_mut(name).unwrap_or_else(|| panic!("{name} was not started"))
    }

    /// Waits until a node answers that it serves.
    pub fn wait_serving(&mut self, node: &str) {
        let socket = self.state_dir(node).join("control.sock");
        let what = format!("{node} serves");
        wait::until(&what, SOON, || {
            let process = self.process(node);
            let output = process.output();
            assert!(process.runs(), "{node} ended:\n{output}");
            let response = curl::Request::socket(&socket, "/health").send();
            if response.status == 200 { Ok(()) } else { Err(format!("{response:?}\n{output}")) }
        });
    }

    /// A node's report.
    pub fn status(&self, node: &str) -> serde_json::Value {
        let response = curl::Request::socket(&self.state_dir(node).join("control.sock"), "/v1/status").send();
        serde_json::from_str(&response.body).unwrap_or_else(|_| panic!("{node} has no status: {response:?}"))
    }

    /// Waits until a node's report satisfies.
    pub fn wait_status(&self, node: &str, what: &str, satisfies: impl Fn(&serde_json::Value) -> bool) {
        wait::until(&format!("{node}: {what}"), SOON, || {
            let status = self.status(node);
            if satisfies(&status) { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// The sum of a metric over its labels; `labels` must all occur in a line (`rcode="NOERROR"`).
    pub fn metric(&self, node: &str, name: &str, labels: &[&str]) -> f64 {
        let response = curl::Request::socket(&self.state_dir(node).join("control.sock"), "/metrics").send();
        let lines = response.body.lines().filter(|line| !line.starts_with('#'));
        let values = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (metric, rest) = series.split_once('{').unwrap_or((series, ""));
            (metric == name && labels.iter().all(|label| rest.contains(label))).then_some(value)
        });
        values.filter_map(|value| value.parse::<f64>().ok()).sum()
    }

    /// Asks a DNS node.
    pub fn dig(&self, server: &str, arguments: &str) -> Answer {
        dig::ask(self.dns(server), arguments)
    }

    /// GET over plain HTTP at a PoP.
    pub fn http(&self, pop: &str, path: &str) -> curl::Request {
        curl::Request::at(self.block.socket(last(pop), 8080), "http", "www.cdn.test", path)
    }

    /// GET over TLS at a PoP, trusting the fleet's test CA.
    pub fn https(&self, pop: &str, path: &str) -> curl::Request {
        let at = self.block.socket(last(pop), 8443);
        curl::Request::at(at, "https", "www.cdn.test", path).ca(&self.path("tls/ca.pem"))
    }

    /// Fingerprint of the certificate that a PoP serves for the site, by a real handshake; empty where there
    /// is none.
    pub fn served_certificate(&self, pop: &str) -> String {
        let at = self.block.socket(last(pop), 8443);
        let script = format!(
            "openssl s_client -connect {at} -servername www.cdn.test </dev/null 2>/dev/null \
             | openssl x509 -noout -fingerprint -sha256"
        );
        process::run(Command::new("sh").args(["-c", &script])).stdout.trim().to_owned()
    }

    /// One request over TLS by `openssl s_client` with these further options, and all it prints.
    pub fn s_client(&self, pop: &str, options: &[&str]) -> String {
        let at = self.block.socket(last(pop), 8443);
        let request = "GET /hello HTTP/1.1\\r\\nHost: www.cdn.test\\r\\nConnection: close\\r\\n\\r\\n";
        let script = format!(
            "printf '{request}' | openssl s_client -connect {at} -servername www.cdn.test -ign_eof {} 2>/dev/null",
            options.join(" ")
        );
        process::run(Command::new("sh").args(["-c", &script])).stdout
    }

    /// Replaces text in the fleet file, as an editor does: a new file renamed over the old.
    ///
    /// # Panics
    /// Where the text is not there.
    pub fn edit(&self, file: &Path, from: &str, to: &str) {
        let text = fs::read_to_string(file).expect("the file can be read");
        assert!(text.contains(from), "{} has no {from:?}", file.display());
        let new = file.with_extension("new");
        fs::write(&new, text.replace(from, to)).expect("a file");
        fs::rename(new, file).expect("a rename");
    }

    /// Runs a program of the fleet to its end (`nearside-dns`, `check --fleet …`).
    pub fn command(&self, program: &str, arguments: &[&str]) -> Finished {
        process::run(Command::new(process::binary(program)).args(arguments).current_dir(self.dir.path()))
    }

    /// Issues the site's certificate anew; the serial tells it from the one before.
    ///
    /// # Panics
    /// Where the disk does not play along.
    pub fn write_certificate(&self, how: Certificate) {
        let (certificate, key) = self.issue(how);
        // The key first: a watcher that sees only one of the two must refuse, not serve a mismatch.
        for (name, text) in [("tls/www.key", key), ("tls/www.pem", certificate)] {
            let new = self.path(&format!("{name}.new"));
            fs::write(&new, text).expect("a file");
            fs::rename(new, self.path(name)).expect("a rename");
        }
    }

    fn issue(&self, how: Certificate) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params =
            CertificateParams::new(vec!["cdn.test".to_owned(), "www.cdn.test".to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, "www.cdn.test");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = match how {
            Certificate::Expired => rcgen::date_time_ymd(2020, 2, 1),
            Certificate::Good | Certificate::WrongKey => rcgen::date_time_ymd(2099, 1, 1),
        };
        let certificate = params.signed_by(&key, &self.ca.0).expect("a certificate");
        let key = if how == Certificate::WrongKey { KeyPair::generate().expect("a key") } else { key };
        (certificate.pem(), key.serialize_pem())
    }

    /// A file of the fleet's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The fleet file.
    pub fn fleet_file(&self) -> PathBuf {
        self.path("nearside.toml")
    }

    /// The zone file.
    pub fn zone_file(&self) -> PathBuf {
        self.path("zones/cdn.test.zone")
    }

    /// A node's state directory.
    pub fn state_dir(&self, node: &str) -> PathBuf {
        self.path("state").join(node)
    }

    /// The address of a node.
    pub fn address(&self, node: &str) -> String {
        self.block.ip(last(node)).to_string()
    }

    /// A port of a node.
    pub fn at(&self, node: &str, port: u16) -> SocketAddr {
        self.block.socket(last(node), port)
    }

    /// Where the origin serves.
    pub fn origin_address(&self) -> SocketAddr {
        self.block.socket(ORIGIN, 9000)
    }

    /// Where a DNS node answers.
    pub fn dns(&self, server: &str) -> SocketAddr {
        self.block.socket(last(server), 5353)
    }

    fn text(&self) -> String {
        let mut text = "version = 1\nfleet = \"test\"\n".to_owned();
        for ((name, last), location) in
            POPS.iter().zip(["[50.11, 8.68]", "[40.71, -74.01]", "[1.35, 103.82]"])
        {
            let ip = self.block.ip(*last);
            text += &format!(
                "\n[pop.{name}]\nlocation = {location}\nipv4 = \"{ip}\"\nipv6 = \"2001:db8:20::{last}\"\n\
                 http = \"{ip}:8080\"\nhttps = \"{ip}:8443\"\ncontrol = \"{ip}:8953\"\nmemory = \"8MiB\"\n\
                 cache_dir = \"{}\"\ndisk = \"32MiB\"\nworkers = 1\n",
                self.path("cache").join(name).display(),
            );
        }
        for (name, last) in DNS {
            let ip = self.block.ip(last);
            text +=
                &format!("\n[dns.{name}]\nlisten = \"{ip}:5353\"\ncontrol = \"{ip}:8953\"\nworkers = 1\n");
        }
        text += &format!(
            r#"
[check.edge]
type = "https"
port = 8443
family = "ipv4"
interval = "300ms"
timeout = "140ms"
rise = 2
fall = 2

[service.www]
pops = ["fra", "nyc", "sin"]
checks = "edge"
ttl = {{ min = "1s", max = "30s" }}

[zone."cdn.test"]
file = "zones/cdn.test.zone"
names = {{ "@" = "www", www = "www" }}

[site.www]
hosts = ["cdn.test", "www.cdn.test"]
origin = "http://{}"
tls = {{ certificate = "tls/www.pem", key = "tls/www.key" }}

[controller]
listen = "{}"
"#,
            self.block.socket(ORIGIN, 9000),
            self.block.socket(CONTROLLER, 9443),
        );
        text
    }
}

/// Client networks that the built-in country table places near each PoP: Germany, the United States,
/// Singapore.
pub const NEIGHBOURS: [(&str, &str); 3] =
    [("fra", "91.64.0.0/16"), ("nyc", "12.0.0.0/8"), ("sin", "165.21.0.0/16")];

const ZONE: &str = "\
$ORIGIN cdn.test.
$TTL 300
@       IN SOA  ns1 hostmaster ( 1 7200 900 1209600 60 )
        IN NS   ns1
        IN NS   ns2
        IN MX   10 mail
ns1     IN A    192.0.2.1
ns2     IN A    192.0.2.2
mail    IN A    192.0.2.25
static  IN A    192.0.2.80
";

fn last(node: &str) -> u8 {
    let known = POPS.iter().chain(&DNS).find(|(name, _)| *name == node).map(|(_, last)| *last);
    let of_crowd = || match node {
        "ns3" => Some(THIRD),
        _ => CROWD.checked_add(node.strip_prefix('e')?.parse().ok()?),
    };
    known.or_else(of_crowd).unwrap_or_else(|| panic!("there is no node {node}"))
}

fn new_ca() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test CA");
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA")
}
