//! Certificates from a real ACME authority (Debian's pebble: strict, slow to validate, refusing nonces), ordered by a real home,
//! validated through real DNS nodes, shown by a real edge.

use std::{fs, process::Command, time::Duration};

use nearside_tests::{
    drills::acme::Ordering,
    fleet::{Fleet, SOON},
    process, wait,
};

const ACME: &str = "tls = { issuer = \"acme\" }";

/// Waits until `nearside certs` tells of trouble in these words.
fn wait_trouble(ordering: &Ordering, words: &str) {
    wait::until(&format!("trouble: {words}"), SOON * 2, || {
        let certificate = ordering.certificate();
        let trouble = certificate["trouble"].as_str().unwrap_or_default();
        if trouble.contains(words) { Ok(()) } else { Err(certificate.to_string()) }
    });
}

#[test]
fn apex_and_wildcard_in_one_order_then_renewed_and_revoked() {
    // A wildcard among the hosts: two values at one name.
    let wildcard = |fleet: &Fleet| fleet.edit(&fleet.fleet_file(), "\"www.cdn.test\"]", "\"*.cdn.test\"]");
    let mut ordering = Ordering::asking(ACME, "", 15, |fleet| fleet.dns("ns1"), wildcard);
    for node in ["fra", "ns1", "ns2"] {
        ordering.start(node);
    }
    let first = ordering.wait_served("");
    assert_eq!(ordering.pebble.orders(), 1, "{}", ordering.pebble.output());
    ordering.wait_withdrawn("_acme-challenge.cdn.test");
    let certificate = ordering.certificate();
    assert_eq!(certificate["hosts"], serde_json::json!(["cdn.test", "*.cdn.test"]));
    assert_eq!(certificate["trouble"], serde_json::Value::Null, "{certificate}");
    assert!(certificate["days_left"].as_i64().is_some_and(|days| days > 30), "{certificate}");
    // nyc and sin are not running, and that is said.
    let said = ordering.fleet.nearside(&["certs"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.contains("serves it") && said.stdout.contains("serves none"), "{said:?}");

    // It lasts over a restart of home, without another order.
    ordering.fleet.process("controller").kill();
    ordering.fleet.start_controller();
    assert_eq!(ordering.fleet.nearside(&["cert", "rotate-key", "pebble"]).code, Some(0));
    let renewed = ordering.fleet.nearside(&["cert", "renew", "www"]);
    assert!(renewed.stdout.contains("published snapshot"), "{renewed:?}");
    let second = ordering.wait_served(&first);
    assert_eq!(ordering.pebble.orders(), 2, "{}", ordering.pebble.output());

    let revoked = ordering.fleet.nearside(&["cert", "revoke", "www", "--reason", "superseded"]);
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    ordering.wait_served(&second);
    assert_eq!(ordering.pebble.orders(), 3, "another was ordered: {}", ordering.pebble.output());
    ordering.wait_withdrawn("_acme-challenge.cdn.test");
}

#[test]
fn an_authority_is_never_asked_to_look_before_every_dns_node_answers() {
    let mut ordering = Ordering::prepared(ACME, "");
    for node in ["fra", "ns1"] {
        ordering.start(node);
    }
    wait_trouble(&ordering, "not every DNS node answers the challenge");
    assert!(ordering.certificate()["trouble"].to_string().contains("ns2"));
    assert_eq!((ordering.pebble.orders(), ordering.pebble.validations()), (1, 0));
    let events = ordering.fleet.nearside(&["events", "--open"]);
    assert!(events.stdout.contains("certificate-failed www"), "{events:?}");
    wait::until("the other node has no challenge left", SOON, || {
        let answer = ordering.fleet.dig("ns1", "_acme-challenge.cdn.test TXT");
        if answer.data("TXT").is_empty() { Ok(()) } else { Err(answer.text) }
    });

    ordering.start("ns2");
    // Whether by this or by its own clock: the order that is open goes on.
    let _outcome = ordering.fleet.nearside(&["cert", "renew", "www"]);
    ordering.wait_served("");
    wait::until("it is over", SOON, || {
        let events = ordering.fleet.nearside(&["events", "--open"]);
        if events.stdout.contains("certificate-failed") { Err(events.stdout) } else { Ok(()) }
    });
}

#[test]
fn the_next_authority_is_asked_where_one_is_away_and_caa_records_are_heeded() {
    let dead = "caa = [\"pebble.test\"]\n[acme.directory.dead]\nurl = \"https://127.0.0.1:9/dir\"\nca = \"tls/ca.pem\"\n\
                [acme]\ndirectories = [\"dead\", \"pebble\"]\n";
    // Before home sees anything: a snapshot without the record would be enough to order.
    let refusing = |fleet: &Fleet| {
        let text = fs::read_to_string(fleet.zone_file()).expect("a file");
        fs::write(fleet.zone_file(), text + "@ IN CAA 0 issue \"other.test\"\n").expect("a file");
    };
    let mut ordering = Ordering::asking(ACME, dead, 10, |fleet| fleet.dns("ns1"), refusing);
    let zone = ordering.fleet.zone_file();
    for node in ["fra", "ns1", "ns2"] {
        ordering.start(node);
    }
    wait_trouble(&ordering, "CAA records of cdn.test");
    assert_eq!(ordering.pebble.orders(), 0, "a refusal that is certain costs no order");
    ordering.fleet.edit(&zone, "\"other.test\"", "\"pebble.test\"");
    wait::until("the edit is live", SOON, || {
        let answer = ordering.fleet.dig("ns1", "cdn.test CAA");
        if answer.text.contains("pebble.test") { Ok(()) } else { Err(answer.text) }
    });
    let _outcome = ordering.fleet.nearside(&["cert", "renew", "www"]);
    ordering.wait_served("");
    assert_eq!(ordering.pebble.orders(), 1);
    assert!(
        ordering.fleet.process("controller").output().contains("dead: "),
        "the first in order was asked first"
    );
}

#[test]
fn a_foreign_name_is_validated_where_its_challenge_is_delegated_to() {
    // The authority asks somebody else's server, which knows the alias, and follows it to ours.
    let resolver = |fleet: &Fleet| fleet.block.socket(60, 5300);
    let mut ordering = Ordering::asking(
        "tls = { issuer = \"acme\", delegation = { \"shop.example\" = \"shop-example.acme.cdn.test\" } }",
        "",
        0,
        resolver,
        |fleet| fleet.edit(&fleet.fleet_file(), "\"www.cdn.test\"]", "\"shop.example\"]"),
    );
    let fleet_file = ordering.fleet.fleet_file();
    foreign(&mut ordering.fleet);
    for node in ["fra", "ns1", "ns2"] {
        ordering.start(node);
    }
    ordering.wait_served("");
    assert_eq!(ordering.certificate()["hosts"], serde_json::json!(["cdn.test", "shop.example"]));
    ordering.wait_withdrawn("shop-example.acme.cdn.test");
    // Without being told, it is found through the DNS.
    let told =
        "tls = { issuer = \"acme\", delegation = { \"shop.example\" = \"shop-example.acme.cdn.test\" } }";
    ordering.fleet.edit(&fleet_file, told, ACME);
    let resolver =
        format!("[acme]\nresolver = \"{}\"\n[acme.directory.pebble]", ordering.fleet.block.socket(60, 5300));
    ordering.fleet.edit(&fleet_file, "[acme.directory.pebble]", &resolver);
    let published = ordering.fleet.nearside(&["publish"]);
    assert!(published.stdout.contains("snapshot"), "{published:?}");
    let renewed = ordering.fleet.nearside(&["cert", "renew", "www"]);
    assert!(renewed.stdout.contains("published snapshot"), "{renewed:?}");
}

/// The servers of `example`, and a resolver that knows where they and ours are.
fn foreign(fleet: &mut Fleet) {
    let dir = fleet.path("foreign");
    fs::create_dir_all(dir.join("zones")).expect("a directory");
    let (server, resolver) = (fleet.block.socket(61, 5353), fleet.block.socket(60, 5300));
    let zone = "@ 60 SOA ns h 1 7200 900 1209600 60\n@ 60 NS ns\nns 60 A 192.0.2.1\n\
                _acme-challenge.shop 60 CNAME shop-example.acme.cdn.test.\n";
    fs::write(dir.join("zones/example.zone"), zone).expect("a file");
    let text = format!(
        "version = 1\nfleet = \"foreign\"\n[dns.other]\nlisten = \"{server}\"\nworkers = 1\n\
         [zone.\"example\"]\nfile = \"zones/example.zone\"\n"
    );
    fs::write(dir.join("nearside.toml"), text).expect("a file");
    let mut dns = Command::new(process::binary("nearside-dns"));
    dns.arg("serve").arg("--fleet").arg(dir.join("nearside.toml")).args(["--node", "other"]);
    fleet.run("other", dns.arg("--state-dir").arg(dir.join("state")));
    let config = format!(
        "server:\n interface: {ip}@{port}\n outgoing-interface: {ip}\n access-control: 127.0.0.0/8 allow\n \
         do-not-query-localhost: no\n module-config: \"iterator\"\n local-zone: \"test.\" nodefault\n \
         local-zone: \"example.\" nodefault\n use-syslog: no\n logfile: \"\"\n chroot: \"\"\n username: \"\"\n \
         pidfile: \"\"\n directory: \"{dir}\"\n do-daemonize: no\n num-threads: 1\n cache-max-negative-ttl: 0\n\
         remote-control:\n control-enable: no\n\
         stub-zone:\n name: \"cdn.test.\"\n stub-addr: {ns1_ip}@{ns1_port}\n\
         stub-zone:\n name: \"example.\"\n stub-addr: {server_ip}@{server_port}\n",
        ip = resolver.ip(),
        port = resolver.port(),
        dir = dir.display(),
        ns1_ip = fleet.dns("ns1").ip(),
        ns1_port = fleet.dns("ns1").port(),
        server_ip = server.ip(),
        server_port = server.port(),
    );
    fs::write(dir.join("unbound.conf"), config).expect("a file");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut unbound = Command::new("unbound");
    unbound.env("PATH", format!("{path}:/usr/sbin")).arg("-d").arg("-c").arg(dir.join("unbound.conf"));
    fleet.run("resolver", &mut unbound);
    wait::until("the resolver answers", SOON, || {
        let answer = nearside_tests::dig::ask(resolver, "_acme-challenge.shop.example CNAME");
        if answer.data("CNAME").is_empty() { Err(answer.text) } else { Ok(()) }
    });
}

/// Every point between two steps of an order. Twenty starts of home take their time; drills kill it at random moments.
#[test]
fn home_killed_at_every_step_goes_on_without_a_second_order() {
    // No nonce is refused: an attempt that fails for it is made again only after a minute.
    let mut ordering = Ordering::asking(ACME, "", 0, |fleet| fleet.dns("ns1"), |_| {});
    for node in ["fra", "ns1", "ns2"] {
        ordering.start(node);
    }
    let mut served = ordering.wait_served("");
    let mut before = ordering.pebble.orders();
    for points in [
        &["ordering", "ordered-not-kept", "ordered", "publishing"][..],
        &["published", "validating", "validated", "finalizing"],
        &["finalized", "downloaded", "kept"],
    ] {
        for (index, point) in points.iter().enumerate() {
            ordering.fleet.process("controller").kill();
            let mut home = ordering.fleet.serve_controller();
            ordering.fleet.run("controller", home.env("NEARSIDE_CRASH_AT", point));
            if index == 0 {
                wait::until("home takes the order", SOON, || {
                    let asked = ordering.fleet.nearside(&["cert", "renew", "www"]);
                    // Killed in the middle: nobody answers any more.
                    if asked.stderr.contains("can't be reached")
                        && !ordering.fleet.process("controller").runs()
                    {
                        Ok(())
                    } else {
                        Err(format!("{asked:?}"))
                    }
                });
            }
            ordering.fleet.process("controller").wait_end(Duration::from_secs(100));
        }
        ordering.fleet.start_controller();
        served = ordering.wait_served(&served);
        before += 1;
        assert_eq!(ordering.pebble.orders(), before, "{points:?}\n{}", ordering.pebble.output());
        ordering.wait_withdrawn("_acme-challenge.cdn.test");
    }
}

#[test]
fn certificates_of_other_clients_are_taken_if_they_are_good_and_better() {
    let fleet = Fleet::governed_after(|fleet| {
        let (file, dir) = (fleet.fleet_file(), fleet.path("lego"));
        fs::create_dir_all(&dir).unwrap();
        for name in ["www.pem", "www.key"] {
            fs::copy(fleet.path("tls").join(name), dir.join(name)).unwrap();
        }
        fleet.edit(
            &file,
            "tls = { certificate = \"tls/www.pem\", key = \"tls/www.key\" }",
            "tls = \"import\"",
        );
        fleet.edit(&file, "[controller]\n", &format!("[controller]\ncertificates = \"{}\"\n", dir.display()));
    });
    // It is governed: the edges' own checks have seen it served, out of the watched directory.
    let certs = fleet.nearside(&["certs"]);
    assert_eq!(certs.code, Some(0), "{certs:?}");
    assert!(certs.stdout.contains("from import, issued by test CA"), "{certs:?}");
    let before = fleet.served_certificate("fra");
    fleet.write_certificate(nearside_tests::fleet::Certificate::Good);
    let push = |certificate: &str, key: &str| {
        let (certificate, key) = (fleet.path(certificate), fleet.path(key));
        fleet.nearside(&[
            "cert",
            "push",
            "www",
            "--cert",
            &certificate.to_string_lossy(),
            "--key",
            &key.to_string_lossy(),
        ])
    };
    let wrong = push("tls/www.pem", "lego/www.key");
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.stderr.contains("the key is not that of the certificate for cdn.test"), "{wrong:?}");
    let pushed = push("tls/www.pem", "tls/www.key");
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
    for pop in ["fra", "nyc", "sin"] {
        wait::until("the new one is served", SOON, || {
            let served = fleet.served_certificate(pop);
            if !served.is_empty() && served != before { Ok(()) } else { Err(served) }
        });
    }
    fleet.write_certificate(nearside_tests::fleet::Certificate::Expired);
    let expired = push("tls/www.pem", "tls/www.key");
    assert_eq!(expired.code, Some(1));
    assert!(expired.stderr.contains("it expired"), "{expired:?}");
}
