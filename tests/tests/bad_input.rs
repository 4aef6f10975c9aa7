//! What people and machines get wrong: each is told with what to do, and never ends what serves.

use std::{fs, net::TcpListener, time::Duration};

use nearside_tests::{
    fleet::{Certificate, Fleet, SOON},
    wait,
};

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let mut fleet = Fleet::new();
    let _taken = TcpListener::bind(fleet.block.socket(21, 8080)).unwrap();
    let ended = fleet.start("fra").wait_end(SOON);
    assert_eq!(ended.code(), Some(1));
    let output = fleet.process("fra").output();
    let address = fleet.block.socket(21, 8080).to_string();
    assert!(output.contains(&address) && output.contains("ss -lntup"), "{output}");

    let _taken = std::net::UdpSocket::bind(fleet.dns("ns1")).unwrap();
    let ended = fleet.start("ns1").wait_end(SOON);
    assert_eq!(ended.code(), Some(1));
    let output = fleet.process("ns1").output();
    assert!(output.contains(&fleet.dns("ns1").to_string()) && output.contains("ss -lntup"), "{output}");
}

#[test]
fn an_unwritable_state_directory_is_told_and_the_node_serves() {
    let mut fleet = Fleet::new();
    // A file in the way: root too is stopped by it.
    fs::write(fleet.path("state"), "in the way").unwrap();
    fleet.start("ns1").wait_for("state directory can't be written", SOON);
    wait::until("ns1 answers", SOON, || {
        let answer = fleet.dig("ns1", "static.cdn.test A");
        if answer.data("A") == ["192.0.2.80"] { Ok(()) } else { Err(answer.text) }
    });
    fleet.start("fra").wait_for("state directory can't be written", SOON);
    wait::until("fra serves", SOON, || {
        let response = fleet.http("fra", "/hello").send();
        if response.status == 200 { Ok(()) } else { Err(format!("{response:?}")) }
    });
}

#[test]
fn a_missing_or_truncated_database_names_the_file() {
    let mut fleet = Fleet::new();
    let with = "fleet = \"test\"\ngeoip.databases = [\"city.mmdb\"]\n";
    fleet.edit(&fleet.fleet_file(), "fleet = \"test\"\n", with);
    let check = fleet.command("nearside-dns", &["check", "--fleet", "nearside.toml"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(format!("{}{}", check.stdout, check.stderr).contains("city.mmdb"), "{check:?}");

    fs::write(fleet.path("city.mmdb"), b"not a database at all").unwrap();
    let ended = fleet.start("ns1").wait_end(SOON);
    assert_eq!(ended.code(), Some(1));
    let output = fleet.process("ns1").output();
    assert!(output.contains("city.mmdb"), "{output}");

    // With a good state kept, the same file is told of and the node serves.
    fleet.edit(&fleet.fleet_file(), with, "fleet = \"test\"\n");
    fleet.start("ns1");
    fleet.wait_serving("ns1");
    fleet.edit(&fleet.fleet_file(), "fleet = \"test\"\n", with);
    fleet.wait_status("ns1", "refuses", |status| {
        status["refused"]["reasons"].to_string().contains("city.mmdb")
    });
    fleet.process("ns1").signal("KILL");
    fleet.process("ns1").wait_end(SOON);
    fleet.start("ns1").wait_for("LAST GOOD STATE", SOON);
    fleet.wait_serving("ns1");
    assert_eq!(fleet.dig("ns1", "static.cdn.test A").data("A"), ["192.0.2.80"]);
}

#[test]
fn a_bad_certificate_at_the_start_is_named() {
    for (how, word) in [(Certificate::Expired, "expired"), (Certificate::WrongKey, "key")] {
        let fleet = Fleet::new();
        fleet.write_certificate(how);
        let check = fleet.command("nearside-edge", &["check", "--fleet", "nearside.toml"]);
        let told = format!("{}{}", check.stdout, check.stderr);
        assert_eq!(check.code, Some(1), "{told}");
        assert!(told.contains("www.") && told.to_lowercase().contains(word), "{told}");
    }
}

#[test]
fn mistakes_in_the_fleet_file_are_told_with_place_and_nearest_key() {
    let fleet = Fleet::new();
    fleet.edit(&fleet.fleet_file(), "origin = ", "orgin = ");
    for program in ["nearside-dns", "nearside-edge"] {
        let check = fleet.command(program, &["check", "--fleet", "nearside.toml"]);
        let told = format!("{}{}", check.stdout, check.stderr);
        assert_eq!(check.code, Some(1), "{told}");
        assert!(
            told.contains("nearside.toml:") && told.contains("orgin") && told.contains("origin"),
            "{told}"
        );
    }
}

#[test]
fn an_unknown_node_lists_those_there_are() {
    let mut fleet = Fleet::new();
    let mut command = std::process::Command::new(nearside_tests::process::binary("nearside-edge"));
    command.args(["serve", "--node", "atlantis", "--fleet"]).arg(fleet.fleet_file());
    command.arg("--state-dir").arg(fleet.path("x"));
    let process = fleet.run("atlantis", &mut command);
    assert_eq!(process.wait_end(SOON).code(), Some(1));
    assert!(process.output().contains("fra, nyc, sin"), "{}", process.output());
}

#[test]
fn two_nodes_do_not_share_a_state_directory() {
    let mut fleet = Fleet::new();
    fleet.start("fra");
    fleet.wait_serving("fra");
    let mut command = std::process::Command::new(nearside_tests::process::binary("nearside-edge"));
    command.args(["serve", "--node", "nyc", "--fleet"]).arg(fleet.fleet_file());
    command.arg("--state-dir").arg(fleet.state_dir("fra"));
    let second = fleet.run("second", &mut command);
    assert_eq!(second.wait_end(Duration::from_secs(10)).code(), Some(1));
    assert!(second.output().contains("can't share a state directory"), "{}", second.output());
    assert_eq!(fleet.http("fra", "/hello").send().status, 200, "the first serves on");
}

#[test]
fn help_and_versions_are_there() {
    let fleet = Fleet::new();
    for program in ["nearside-dns", "nearside-edge", "nearside-controller", "nearside"] {
        let version = fleet.command(program, &["--version"]);
        assert_eq!(version.code, Some(0), "{program}: {version:?}");
        assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version:?}");
        let help = fleet.command(program, &["--help"]);
        assert_eq!(help.code, Some(0));
        assert!(
            help.stdout.to_lowercase().contains("example"),
            "{program} --help has no examples:\n{}",
            help.stdout
        );
        assert_eq!(fleet.command(program, &["--no-such-flag"]).code, Some(2), "{program}");
    }
}
