//! Home: what it publishes is live everywhere, what it purges is gone everywhere, and nobody needs it to serve.

use std::time::Duration;

use nearside_tests::{
    fleet::{Fleet, POPS, SOON},
    process, wait,
};

#[test]
fn good_edits_are_published_bad_ones_stay_at_home_with_their_place() {
    let fleet = Fleet::governed();
    let two = Duration::from_secs(2);
    fleet.edit(&fleet.zone_file(), "192.0.2.80", "192.0.2.81");
    for server in ["ns1", "ns2"] {
        wait::until("the edit is live", two, || {
            let answer = fleet.dig(server, "static.cdn.test A");
            if answer.data("A") == ["192.0.2.81"] { Ok(()) } else { Err(answer.text) }
        });
    }
    let before = fleet.status("ns1")["serving"]["snapshot"].as_u64().unwrap();

    fleet.edit(&fleet.zone_file(), "192.0.2.81", "192.0.2.999");
    let refused = fleet.nearside(&["publish"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let told = format!("{}{}", refused.stdout, refused.stderr);
    assert!(told.contains("cdn.test.zone:10:"), "{told}");
    assert_eq!(fleet.status("ns1")["serving"]["snapshot"].as_u64(), Some(before));
    assert_eq!(fleet.dig("ns1", "static.cdn.test A").data("A"), ["192.0.2.81"]);

    fleet.edit(&fleet.zone_file(), "192.0.2.999", "192.0.2.82");
    fleet.wait_status("ns1", "has the mended zone", |status| {
        status["serving"]["snapshot"].as_u64().is_some_and(|number| number > before)
    });
}

#[test]
fn a_purge_is_a_miss_at_every_pop() {
    let fleet = Fleet::governed();
    for (pop, _) in POPS {
        for path in ["/hello", "/other"] {
            fleet.http(pop, path).send();
            assert_eq!(fleet.http(pop, path).send().header("x-cache-status"), "HIT");
        }
    }
    let purge = fleet.nearside(&["purge", "http://www.cdn.test:8080/hello"]);
    assert_eq!(purge.code, Some(0), "{purge:?}");
    for (pop, _) in POPS {
        assert_eq!(fleet.http(pop, "/hello").send().header("x-cache-status"), "MISS", "{pop}");
        assert_eq!(
            fleet.http(pop, "/other").send().header("x-cache-status"),
            "HIT",
            "{pop}: only what was named"
        );
    }
    assert_eq!(fleet.nearside(&["purge", "--all"]).code, Some(0));
    for (pop, _) in POPS {
        assert_eq!(fleet.http(pop, "/other").send().header("x-cache-status"), "MISS", "{pop}");
    }
}

#[test]
fn a_purge_missed_while_away_is_made_up_for() {
    let mut fleet = Fleet::governed();
    fleet.http("fra", "/hello").send();
    fleet.process("fra").signal("TERM");
    fleet.process("fra").wait_end(SOON * 2);
    let purge = fleet.nearside(&["purge", "http://www.cdn.test:8080/hello"]);
    assert_eq!(purge.code, Some(4), "one PoP did not acknowledge: {purge:?}");
    assert!(purge.stdout.contains("fra"), "{purge:?}");
    fleet.start("fra");
    fleet.wait_serving("fra");
    wait::until("the purge is replayed", SOON, || {
        let status = fleet.nearside(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap_or_default();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let node = nodes.into_iter().find(|node| node["node"] == "fra").unwrap_or_default();
        if node["purges"] == status["purges"] && node["phase"] == "current" {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    assert_eq!(fleet.http("fra", "/hello").send().header("x-cache-status"), "MISS");
}

#[test]
fn an_edge_that_was_away_for_longer_than_the_journal_reaches_doubts_all_it_holds() {
    let mut fleet = Fleet::governed();
    for path in ["/hello", "/other"] {
        fleet.http("fra", path).send();
        assert_eq!(fleet.http("fra", path).send().header("x-cache-status"), "HIT");
    }
    fleet.process("fra").signal("TERM");
    fleet.process("fra").wait_end(SOON);
    for path in ["/hello", "/a", "/b"] {
        let purge = fleet.nearside(&["purge", &format!("http://www.cdn.test{path}"), "--wait", "5s"]);
        assert_eq!(purge.code, Some(4), "{purge:?}");
    }
    // As after a hundred thousand more: home keeps only the last one.
    fleet.process("controller").kill();
    let database = fleet.state_dir("home").join("nearside.db").display().to_string();
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
                  c.execute('DELETE FROM purge WHERE sequence < 3'); c.commit()";
    let trimmed = process::run(std::process::Command::new("python3").args(["-c", script, &database]));
    assert_eq!(trimmed.code, Some(0), "{trimmed:?}");
    fleet.start_controller();
    fleet.start("fra");
    fleet.wait_serving("fra");
    fleet.wait_current(&["fra".to_owned()], SOON);
    // Nobody can say what was purged meanwhile, so nothing is served as it is: the origin is asked whether it still holds.
    for path in ["/hello", "/other"] {
        let asked = fleet.origin.of(path);
        assert_eq!(fleet.http("fra", path).send().status, 200);
        let what = format!("the origin is asked for {path}");
        wait::until(&what, SOON, || if fleet.origin.of(path) > asked { Ok(()) } else { Err("not yet") });
    }
    wait::until("what it holds is believed again", SOON, || {
        let got = fleet.http("fra", "/other").send();
        if got.header("x-cache-status") == "HIT" { Ok(()) } else { Err(format!("{got:?}")) }
    });
}

#[test]
fn what_is_warmed_is_there_and_home_knows_where() {
    let mut fleet = Fleet::governed();
    let urls: Vec<String> = (0..300).map(|at| format!("http://www.cdn.test/deploy/{at}")).collect();
    let list = fleet.path("urls.txt");
    std::fs::write(&list, format!("# a deploy\n{}\n", urls.join("\n"))).unwrap();
    let file = list.display().to_string();
    let warm = fleet.nearside(&["warm", &file, "--pop", "fra", "--pop", "nyc", "--json"]);
    assert_eq!(warm.code, Some(0), "{warm:?}");
    let told: serde_json::Value = serde_json::from_str(&warm.stdout).unwrap();
    for pop in 0..2 {
        assert_eq!(told["pops"][pop]["done"], 300, "{told}");
    }
    assert_eq!(fleet.http("nyc", "/deploy/299").send().header("x-cache-status"), "HIT");
    let states = |fleet: &Fleet| {
        let cached = fleet.nearside(&["cached", "http://www.cdn.test/deploy/7", "--json"]);
        let told: serde_json::Value = serde_json::from_str(&cached.stdout).unwrap_or_default();
        let pops = told["pops"].as_array().cloned().unwrap_or_default();
        let states: Vec<String> =
            pops.iter().map(|pop| pop["state"].as_str().unwrap_or_default().to_owned()).collect();
        (cached.code, states)
    };
    let owned = |states: [&str; 3]| states.map(str::to_owned).to_vec();
    assert_eq!(states(&fleet), (Some(0), owned(["cached", "cached", "absent"])));
    // Some can't be stored, and the command says which.
    let some = fleet.nearside(&[
        "warm",
        "http://www.cdn.test/uncacheable/x",
        "http://www.cdn.test/ok",
        "--pop",
        "sin",
    ]);
    assert_eq!(some.code, Some(4), "{some:?}");
    assert!(some.stdout.contains("/uncacheable/x: "), "{some:?}");
    let unknown = fleet.nearside(&["warm", "http://www.cdn.test/ok", "--pop", "xyz"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("there are: fra, nyc, sin"), "{unknown:?}");
    fleet.process("sin").kill();
    assert_eq!(states(&fleet), (Some(4), owned(["cached", "cached", "unknown"])));
}

#[test]
fn a_tls_session_begun_at_one_pop_resumes_at_another() {
    let mut fleet = Fleet::governed();
    let session = fleet.path("session.pem").display().to_string();
    for version in ["-tls1_3", "-tls1_2"] {
        let first = fleet.s_client("fra", &[version, "-sess_out", &session]);
        assert!(first.contains("New, TLSv1") && first.contains("200 OK"), "{first}");
        for pop in ["fra", "nyc", "sin"] {
            let again = fleet.s_client(pop, &[version, "-sess_in", &session]);
            assert!(again.contains("Reused, TLSv1") && again.contains("200 OK"), "{pop} {version}\n{again}");
        }
    }
    assert_eq!(fleet.metric("nyc", "nearside_edge_handshakes_resumed_total", &[]), 2.0);
    let key = |fleet: &Fleet, pop| fleet.status(pop)["program_report"]["ticket_key"].clone();
    assert!(key(&fleet, "fra").is_string(), "{}", fleet.status("fra"));
    assert_eq!(key(&fleet, "fra"), key(&fleet, "sin"));
    // Keys outlive home and the process.
    fleet.process("controller").kill();
    fleet.process("sin").kill();
    fleet.start("sin");
    fleet.wait_serving("sin");
    let again = fleet.s_client("sin", &["-tls1_2", "-sess_in", &session]);
    assert!(again.contains("Reused, TLSv1"), "{again}");
}

#[test]
fn home_may_be_dark() {
    let mut fleet = Fleet::governed();
    fleet.process("controller").kill();
    // Reboots without home: everything comes from what was accepted.
    for node in ["ns1", "fra"] {
        fleet.process(node).kill();
        fleet.start(node);
        fleet.wait_serving(node);
        fleet.wait_status(node, "serves the accepted snapshot", |status| {
            status["serving"]["source"] == "snapshot"
        });
    }
    fleet.wait_all_up();
    assert_eq!(fleet.https("fra", "/hello").send().status, 200);
    // An enrolled node does not follow its local file.
    fleet.edit(&fleet.zone_file(), "192.0.2.80", "192.0.2.90");
    fleet.process("ns1").wait_for("is ignored: this node is enrolled", SOON);
    assert_eq!(fleet.dig("ns1", "static.cdn.test A").data("A"), ["192.0.2.80"]);
    assert_eq!(fleet.nearside(&["status"]).code, Some(3), "nobody to ask");
    // Home returns, and so does its newest state.
    fleet.start_controller();
    wait::until("home catches up", SOON, || {
        let answer = fleet.dig("ns1", "static.cdn.test A");
        if answer.data("A") == ["192.0.2.90"] { Ok(()) } else { Err(answer.text) }
    });
}

#[test]
fn a_drained_pop_leaves_the_answers_and_comes_back() {
    let fleet = Fleet::governed();
    assert_eq!(fleet.nearside(&["drain", "fra"]).code, Some(0));
    for server in ["ns1", "ns2"] {
        fleet.wait_steered(server, "91.64.0.0/16", "nyc");
    }
    let explained = fleet.nearside(&["explain", "www.cdn.test", "A", "--client", "91.64.1.2"]);
    assert_eq!(explained.code, Some(0), "{explained:?}");
    assert!(explained.stdout.contains("drain"), "{explained:?}");
    assert_eq!(fleet.nearside(&["undrain", "fra"]).code, Some(0));
    fleet.wait_all_up();
}

#[test]
fn the_control_listener_takes_nothing_from_strangers() {
    let fleet = Fleet::governed();
    let url = format!("https://{}:8953/v1/status", fleet.address("fra"));
    let without = process::run(std::process::Command::new("curl").args(["-sk", "--max-time", "5", &url]));
    assert_ne!(without.code, Some(0), "no client certificate, no answer: {without:?}");
    let identity = fleet.state_dir("ns1").join("identity");
    let name = format!("fra.node.nearside.internal:8953:{}", fleet.address("fra"));
    let ask = |method: &str, path: &str| {
        process::run(
            std::process::Command::new("curl")
                .args([
                    "-s",
                    "--max-time",
                    "5",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code}",
                    "-X",
                    method,
                    "--resolve",
                    &name,
                ])
                .arg("--cacert")
                .arg(identity.join("ca.pem"))
                .arg("--cert")
                .arg(identity.join("cert.pem"))
                .arg("--key")
                .arg(identity.join("key.pem"))
                .arg(format!("https://fra.node.nearside.internal:8953{path}")),
        )
        .stdout
    };
    assert_eq!(ask("GET", "/v1/status"), "200", "a node may read");
    assert_eq!(ask("POST", "/v1/purges"), "403", "a node may not change");
    assert_eq!(ask("POST", "/v1/snapshots"), "403", "a node may not publish");
}
