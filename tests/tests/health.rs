//! Checks that run programs, and DNS nodes that ask each other, on real nodes under a real home.

use std::fs;

use nearside_tests::{
    fleet::{Fleet, NEIGHBOURS, SOON},
    process, wait,
};

const GERMAN: &str = NEIGHBOURS[0].1;

/// What a node says of one address under one check.
fn target(status: &serde_json::Value, check: &str, address: &str) -> Option<serde_json::Value> {
    let targets = status["program_report"]["health"].as_array()?;
    targets.iter().find(|target| target["check"] == check && target["address"] == address).cloned()
}

fn wait_target(fleet: &Fleet, node: &str, address: &str, is: &str, reason: &str) -> String {
    let what = format!("{node} sees {address} {is} ({reason:?})");
    wait::until(&what, SOON, || {
        let status = fleet.status(node);
        let Some(target) = target(&status, "reach", address) else { return Err(status.to_string()) };
        let why = target["reason"].as_str().unwrap_or_default().to_owned();
        if target["status"] == is && why.contains(reason) { Ok(why) } else { Err(target.to_string()) }
    })
}

/// An exec check beside the https one.
fn add_check(fleet: &Fleet, more: &str) {
    let file = fleet.fleet_file();
    let program = fleet.exec_dir().join("reach");
    // Generous, since each probe is a process and the machine may be busy.
    let check = format!(
        "[check.reach]\ntype = \"exec\"\ncommand = [\"{}\", \"{{address}}\", \"{{port}}; touch $0.pwned\"]\n\
         port = 8443\nfamily = \"ipv4\"\ninterval = \"1s\"\ntimeout = \"800ms\"\nrise = 1\nfall = 2\n{more}\n[service.www]",
        program.display()
    );
    fleet.edit(&file, "[service.www]", &check);
    fleet.edit(&file, "checks = \"edge\"", "checks = [\"edge\", \"reach\"]");
}

/// Fails where a file named after the node that runs it and the address says so: that node's bad uplink.
const UPLINK: &str = r#"
read -r line < "/proc/$PPID/cmdline"
case "$line" in
    *--nodens1*) node=ns1 ;;
    *) node=ns2 ;;
esac
[ ! -e "$0.$node-all" ] || { echo "$node reaches nobody" >&2; exit 1; }
[ ! -e "$0.$node-$1" ] || { echo "$node does not reach $1" >&2; exit 1; }
"#;

/// Longer than most: a silent peer counts for ten seconds, and that has to pass.
#[test]
fn a_pop_goes_when_two_nodes_agree_and_not_for_one_bad_uplink() {
    let mut fleet = Fleet::governed_after(|fleet| {
        fleet.write_program("reach", UPLINK);
        add_check(fleet, "views = 2");
    });
    let frankfurt = fleet.address("fra");
    let mark = |what: &str| fleet.exec_dir().join(format!("reach.{what}"));
    let (ns2_none, ns2_fra) = (mark("ns2-all"), mark(&format!("ns2-{frankfurt}")));
    let ns1_fra = mark(&format!("ns1-{frankfurt}"));
    for node in ["ns1", "ns2"] {
        fleet.wait_status(node, "hears the other", |status| {
            status["program_report"]["peers"][0]["counts"] == true
        });
        assert!(fleet.metric(node, "nearside_dns_peer_heard", &[]) >= 1.0);
    }

    // One node reaches nobody: it says so, and offers every PoP all the same.
    fs::write(&ns2_none, "").expect("a file");
    for (pop, _) in NEIGHBOURS {
        wait_target(&fleet, "ns2", &fleet.address(pop), "down", "ns2 reaches nobody");
        wait_target(&fleet, "ns1", &fleet.address(pop), "up", "");
    }
    for (pop, client) in NEIGHBOURS {
        fleet.wait_steered("ns2", client, pop);
    }
    let explained = fleet.nearside(&["explain", "www.cdn.test", "A", "--client", GERMAN]);
    assert!(explained.stdout.contains("fra"), "{explained:?}");
    fleet.wait_status("ns2", "says whom it believes", |status| {
        let seen = status["program_report"]["seen"].to_string();
        seen.contains("ns1 sees it up, down in 1 of 2 views, 2 needed")
    });
    assert_eq!(fleet.metric("ns2", "nearside_dns_all_down_total", &[]), 0.0);

    // Both see Frankfurt down: it goes, at both.
    fs::remove_file(&ns2_none).expect("it was there");
    fs::write(&ns2_fra, "").expect("a file");
    fs::write(&ns1_fra, "").expect("a file");
    for server in ["ns1", "ns2"] {
        fleet.wait_steered(server, GERMAN, "nyc");
    }
    fs::remove_file(&ns1_fra).expect("it was there");
    for server in ["ns1", "ns2"] {
        fleet.wait_steered(server, GERMAN, "fra");
    }
    wait_target(&fleet, "ns2", &frankfurt, "down", "ns2 does not reach");

    // The other dies: what is left goes by its own probes.
    fleet.process("ns1").kill();
    fleet.wait_steered("ns2", GERMAN, "nyc");
    fleet.wait_status("ns2", "decides alone", |status| {
        let report = &status["program_report"];
        report["peers"][0]["counts"] == false
            && report["seen"].to_string().contains("1 of 2 views heard: this node decides")
    });
    assert_eq!(fleet.metric("ns2", "nearside_dns_peer_heard", &[]), 0.0);
}

#[test]
fn a_check_s_program_is_run_without_a_shell_bounded_in_time_and_words() {
    let mut fleet = Fleet::new();
    let program = fleet.write_program(
        "reach",
        r#"
[ "$2" = '8443; touch $0.pwned' ] || { echo "words were read: $2" >&2; exit 2; }
if [ -e "$0.talks" ]; then head -c 300000 /dev/zero | tr '\0' x >&2; exit 3; fi
if [ -e "$0.hangs" ]; then sleep 600 & echo $! >> "$0.pids"; wait; fi
"#,
    );
    add_check(&fleet, "");
    fleet.start("fra");
    fleet.start("ns1");
    fleet.wait_serving("ns1");
    let frankfurt = fleet.address("fra");
    wait_target(&fleet, "ns1", &frankfurt, "up", "");

    fs::write(program.with_extension("talks"), "").expect("a file");
    let reason = wait_target(&fleet, "ns1", &frankfurt, "down", "exit code 3: xxxx");
    assert!((4000..4500).contains(&reason.len()), "{} bytes", reason.len());
    fs::remove_file(program.with_extension("talks")).expect("it was there");
    wait_target(&fleet, "ns1", &frankfurt, "up", "");

    fs::write(program.with_extension("hangs"), "").expect("a file");
    wait_target(&fleet, "ns1", &frankfurt, "down", "killed after 800 ms");
    fs::remove_file(program.with_extension("hangs")).expect("it was there");
    wait_target(&fleet, "ns1", &frankfurt, "up", "");
    let pids = fs::read_to_string(program.with_extension("pids")).expect("it hung");
    for pid in pids.lines() {
        // Killed with the group that it was started in; a zombie may wait for init.
        wait::until(&format!("{pid} is gone"), SOON, || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") || !stat.contains("sleep") {
                Ok(())
            } else {
                Err(stat)
            }
        });
    }
    assert!(!program.with_extension("pwned").exists() && !fleet.exec_dir().join("0.pwned").exists());
    assert!(fleet.metric("ns1", "nearside_dns_probe_duration_seconds_count", &["reach"]) > 4.0);
}

#[test]
fn a_node_without_an_exec_dir_refuses_programs() {
    let mut fleet = Fleet::new();
    add_check(&fleet, "");
    let process = fleet.start("ns1");
    let status = process.wait_end(SOON);
    assert_eq!(status.code(), Some(1), "{}", process.output());
    assert!(process.output().contains("started without --exec-dir"), "{}", process.output());
    // Whoever only reads the file need not run anything.
    let checked = process::run(
        std::process::Command::new(process::binary("nearside-dns"))
            .arg("check")
            .arg("--fleet")
            .arg(fleet.fleet_file()),
    );
    assert_eq!(checked.code, Some(0), "{checked:?}");
}
