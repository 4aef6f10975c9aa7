//! Behind Debian's unbound with client subnet: its cache must never hand a client another network's PoP.
//!
//! unbound keeps what we answer under the scope that we give it. A scope too wide (the default branch answered
//! with 0, as others do) shows here as a client that is served what was cached for somebody else. What is right
//! is asked of our own server, without a cache between.

use std::{fs, path::PathBuf, process::Command};

use nearside_tests::{
    dig,
    fleet::{Fleet, SOON},
    wait,
};

/// Networks of loopback as the operator places them; what is not among them is the default branch. The last
/// lies inside another, so that neighbouring scopes meet.
const NETWORKS: &[(&str, &str)] = &[
    ("127.1.0.0/16", "DE"),
    ("127.2.0.0/16", "US"),
    ("127.3.0.0/20", "SG"),
    ("127.1.128.0/17", "US"),
    ("127.1.200.0/24", "SG"),
];

/// One client in each network and on both sides of their edges, and some in none.
const CLIENTS: &[&str] = &[
    "127.1.0.1",
    "127.1.127.254",
    "127.1.128.1",
    "127.1.199.254",
    "127.1.200.7",
    "127.1.201.1",
    "127.1.255.254",
    "127.2.0.1",
    "127.2.77.7",
    "127.3.0.1",
    "127.3.15.254",
    "127.3.16.1",
    "127.3.255.1",
    "127.0.0.99",
    "127.9.9.9",
    "127.200.1.1",
];

/// Last byte of the resolver's address in the fleet's block.
const RESOLVER: u8 = 50;

/// Times every client asks, in an order shuffled anew.
const ROUNDS: usize = 12;

/// Where Debian puts it: not always on a user's PATH.
fn unbound() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.push("/usr/sbin".into());
    places.into_iter().map(|place| place.join("unbound")).find(|program| program.exists())
}

fn resolver_config(fleet: &Fleet) -> String {
    let address = fleet.block.ip(RESOLVER);
    let server = fleet.dns("ns1");
    format!(
        r#"
server:
    interface: {address}@5300
    outgoing-interface: {address}
    access-control: 127.0.0.0/8 allow
    module-config: "subnetcache validator iterator"
    send-client-subnet: 127.0.0.0/8
    client-subnet-always-forward: yes
    max-client-subnet-ipv4: 32
    do-not-query-localhost: no
    local-zone: "test." nodefault
    domain-insecure: "test."
    harden-referral-path: no
    qname-minimisation: no
    num-threads: 2
    so-reuseport: no
    use-syslog: no
    logfile: ""
    do-daemonize: no
    username: ""
    chroot: ""
    directory: "{dir}"
    pidfile: "{dir}/unbound.pid"
    trust-anchor-signaling: no
remote-control:
    control-enable: no
stub-zone:
    name: "cdn.test."
    stub-addr: {ip}@{port}
    stub-no-cache: no
"#,
        dir = fleet.path("unbound").display(),
        ip = server.ip(),
        port = server.port(),
    )
}

#[test]
fn no_client_of_a_caching_resolver_ever_gets_another_networks_pop() {
    let Some(program) = unbound() else {
        // scripts/test installs it; who runs the tests without may have no apt.
        eprintln!("SKIPPED, NOTHING WAS TESTED: unbound is not installed (apt-get install unbound)");
        return;
    };
    let mut fleet = Fleet::new();
    let mut networks = String::new();
    for (network, country) in NETWORKS {
        networks += &format!("\n[[geoip.network]]\nnetwork = \"{network}\"\ncountry = \"{country}\"\n");
    }
    fleet.edit(&fleet.fleet_file(), "\n[check.edge]", &format!("{networks}\n[check.edge]"));
    // Health has its own tests: here every PoP is up, and none has to run.
    fleet.edit(&fleet.fleet_file(), "checks = \"edge\"\n", "");
    fleet.start("ns1");
    fleet.wait_serving("ns1");

    fs::create_dir_all(fleet.path("unbound")).unwrap();
    let config = fleet.path("unbound/unbound.conf");
    fs::write(&config, resolver_config(&fleet)).unwrap();
    fleet.run("unbound", Command::new(program).args(["-d", "-p", "-c"]).arg(&config));
    let resolver = fleet.block.socket(RESOLVER, 5300);
    wait::until("unbound answers", SOON, || {
        let answer = dig::ask(resolver, "static.cdn.test A");
        if answer.data("A") == ["192.0.2.80"] { Ok(()) } else { Err(answer.text) }
    });

    let expected: Vec<(&str, String)> = CLIENTS
        .iter()
        .map(|client| {
            let answer = fleet.dig("ns1", &format!("www.cdn.test A +subnet={client}/32"));
            assert!(answer.scope.is_some_and(|scope| scope > 0), "{client}: scope 0\n{}", answer.text);
            (*client, answer.address().to_owned())
        })
        .collect();
    let mut pops: Vec<&str> = expected.iter().map(|(_, pop)| pop.as_str()).collect();
    pops.sort_unstable();
    pops.dedup();
    assert_eq!(pops.len(), 3, "every PoP has clients among these, or nothing is compared: {expected:?}");

    let asked_before = fleet.metric("ns1", "nearside_dns_queries_total", &[]);
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..ROUNDS {
        let mut order = expected.clone();
        rng.shuffle(&mut order);
        for (client, pop) in order {
            let answer = dig::ask(resolver, &format!("www.cdn.test A -b {client}"));
            assert_eq!(answer.status, "NOERROR", "round {round}, {client}, seed {seed}\n{}", answer.text);
            assert_eq!(
                answer.data("A"),
                [pop.as_str()],
                "round {round}, {client}, seed {seed}\n{}",
                answer.text
            );
        }
    }
    let asked = fleet.metric("ns1", "nearside_dns_queries_total", &[]) - asked_before;
    let answered = (ROUNDS * CLIENTS.len()) as f64;
    // Otherwise there was no cache between, and this has shown nothing.
    assert!(asked < answered / 2.0, "unbound asked {asked} times for {answered} answers");
}
