//! The DNS side of the tour: who is nearest, what else a zone answers, what happens when a PoP dies.

use std::time::Duration;

use nearside_tests::{
    fleet::{Fleet, NEIGHBOURS, SOON},
    process, wait,
};

#[test]
fn every_continent_gets_its_own_pop_with_a_scope_from_both_servers() {
    let fleet = Fleet::started();
    for server in ["ns1", "ns2"] {
        for (pop, client) in NEIGHBOURS {
            let answer = fleet.dig(server, &format!("www.cdn.test A +subnet={client}"));
            assert_eq!(answer.status, "NOERROR", "{}", answer.text);
            assert_eq!(answer.data("A"), [fleet.address(pop)], "{}", answer.text);
            assert!(answer.flags.contains(&"aa".to_owned()), "{}", answer.text);
            // RFC 7871 section 7.2.1: a tailored answer says for which network it holds.
            let scope = answer.scope.unwrap_or_else(|| panic!("no scope:\n{}", answer.text));
            assert!((1..=32).contains(&scope), "{}", answer.text);
        }
    }
    assert!(fleet.metric("ns1", "nearside_dns_queries_total", &[]) >= 3.0);
}

#[test]
fn without_a_client_subnet_the_source_decides_and_none_is_echoed() {
    let fleet = Fleet::started();
    let answer = fleet.dig("ns1", "www.cdn.test A +nosubnet");
    assert_eq!(answer.status, "NOERROR", "{}", answer.text);
    assert_eq!(answer.data("A").len(), 1, "{}", answer.text);
    assert_eq!(answer.scope, None, "RFC 7871 section 7.2.1: never where the query has none");
}

#[test]
fn a_zone_answers_everything_else_properly() {
    let fleet = Fleet::started();
    let ask = |arguments: &str| fleet.dig("ns1", arguments);

    let aaaa = ask("www.cdn.test AAAA +subnet=91.64.0.0/16");
    assert_eq!(aaaa.data("AAAA"), ["2001:db8:20::21"], "{}", aaaa.text);
    let tcp = ask("www.cdn.test A +tcp +subnet=165.21.0.0/16");
    assert_eq!(tcp.data("A"), [fleet.address("sin")], "{}", tcp.text);
    let apex = ask("cdn.test A +subnet=12.0.0.0/8");
    assert_eq!(apex.data("A"), [fleet.address("nyc")], "{}", apex.text);

    let soa = ask("cdn.test SOA");
    assert!(soa.data("SOA")[0].starts_with("ns1.cdn.test. hostmaster.cdn.test. 1 "), "{}", soa.text);
    let mut ns = ask("cdn.test NS").data("NS").into_iter().map(str::to_owned).collect::<Vec<_>>();
    ns.sort();
    assert_eq!(ns, ["ns1.cdn.test.", "ns2.cdn.test."]);
    assert_eq!(ask("static.cdn.test A").data("A"), ["192.0.2.80"]);

    let absent = ask("absent.cdn.test A");
    assert_eq!(absent.status, "NXDOMAIN", "{}", absent.text);
    // RFC 2308 section 3: the SOA's TTL in a negative answer is the smaller of its own and the minimum.
    assert_eq!((absent.authority[0].rtype.as_str(), absent.authority[0].ttl), ("SOA", 60), "{}", absent.text);
    let no_data = ask("static.cdn.test AAAA");
    assert_eq!((no_data.status.as_str(), no_data.records.len()), ("NOERROR", 0), "{}", no_data.text);
    assert_eq!(ask("www.elsewhere.test A").status, "REFUSED");
}

#[test]
fn a_dead_pop_leaves_the_answers_and_returns_with_its_service() {
    let mut fleet = Fleet::started();
    fleet.process("fra").kill();
    for server in ["ns1", "ns2"] {
        // The next nearest to Germany is New York.
        fleet.wait_steered(server, "91.64.0.0/16", "nyc");
    }
    let explained = fleet.command(
        "nearside-dns",
        &["explain", "--fleet", "nearside.toml", "www.cdn.test", "A", "--client", "91.64.0.0/16"],
    );
    assert_eq!(explained.code, Some(0), "{}", explained.stderr);
    assert!(explained.stdout.contains("fra") && explained.stdout.contains("nyc"), "{}", explained.stdout);

    fleet.start("fra");
    for server in ["ns1", "ns2"] {
        fleet.wait_steered(server, "91.64.0.0/16", "fra");
    }
}

#[test]
fn an_edge_that_is_told_to_stop_leaves_without_a_failed_request() {
    let mut fleet = Fleet::started();
    assert_eq!(fleet.http("fra", "/hello").send().status, 200);
    fleet.process("fra").signal("TERM");
    let status = fleet.process("fra").wait_end(Duration::from_secs(40));
    assert_eq!(status.code(), Some(0), "{}", fleet.process("fra").output());
    fleet.wait_steered("ns1", "91.64.0.0/16", "nyc");
}

#[test]
fn explain_says_why_in_words() {
    let fleet = Fleet::new();
    let explained = process::run(
        std::process::Command::new(process::binary("nearside-dns"))
            .args(["explain", "--fleet"])
            .arg(fleet.fleet_file())
            .args(["www.cdn.test", "A", "--client", "165.21.0.1"]),
    );
    assert_eq!(explained.code, Some(0), "{}", explained.stderr);
    for word in ["SG", "sin", "km"] {
        assert!(explained.stdout.contains(word), "no {word:?} in:\n{}", explained.stdout);
    }
}

#[test]
fn good_edits_are_live_within_two_seconds_and_bad_ones_name_their_place() {
    let mut fleet = Fleet::started();
    let two = Duration::from_secs(2);
    let started = std::time::Instant::now();
    fleet.edit(&fleet.zone_file(), "192.0.2.80", "192.0.2.81");
    wait::until("the edited zone is live", two, || {
        let answer = fleet.dig("ns1", "static.cdn.test A");
        if answer.data("A") == ["192.0.2.81"] { Ok(()) } else { Err(answer.text) }
    });
    println!("zone edit live after {:?}", started.elapsed());
    fleet.edit(&fleet.fleet_file(), "www = \"www\" }", "www = \"www\", img = \"www\" }");
    wait::until("the edited fleet file is live", two, || {
        let answer = fleet.dig("ns1", "img.cdn.test A +subnet=91.64.0.0/16");
        if answer.data("A").len() == 1 { Ok(()) } else { Err(answer.text) }
    });

    fleet.edit(&fleet.zone_file(), "static  IN A    192.0.2.81", "static  IN A    192.0.2.999");
    fleet.wait_status("ns1", "refuses the zone", |status| {
        status["refused"]["reasons"].to_string().contains("cdn.test.zone:10:")
    });
    assert_eq!(
        fleet.dig("ns1", "static.cdn.test A").data("A"),
        ["192.0.2.81"],
        "the last good one serves on"
    );
    fleet.edit(&fleet.zone_file(), "192.0.2.999", "192.0.2.82");
    fleet.wait_status("ns1", "takes the mended zone", |status| status["refused"].is_null());

    fleet.edit(&fleet.fleet_file(), "interval = ", "intervall = ");
    for node in ["ns1", "fra"] {
        fleet.wait_status(node, "refuses the fleet file", |status| {
            let reasons = status["refused"]["reasons"].to_string();
            reasons.contains("nearside.toml:")
                && reasons.contains("intervall")
                && reasons.contains("interval")
        });
        assert!(fleet.metric(node, "nearside_node_reloads_refused_total", &[]) >= 1.0);
    }
    assert_eq!(fleet.dig("ns1", "static.cdn.test A").data("A"), ["192.0.2.82"]);
    fleet.process("ns1").wait_for("intervall", SOON);
}
