//! Holds the operator's papers against what they describe: docs/metrics.md, the alerts, the dashboard.

use std::{collections::BTreeSet, fs, path::Path};

use nearside_tests::{curl, fleet::Fleet};

/// Every program's scrape names exactly the families that the manual explains.
#[test]
fn the_manual_explains_every_metric_and_no_other() {
    let fleet = Fleet::governed();
    // Families of events that have not happened yet have no lines: make them happen.
    fleet.http("fra", "/hello").send();
    fleet.wait_all_up();
    let home = fleet.state_dir("home");
    let address = fs::read_to_string(home.join("controller.addr")).expect("the controller is up");
    let address = address.trim().parse().expect("an address");
    let operator = |file: &str| home.join("operator").join(file).to_string_lossy().into_owned();
    let controller = curl::Request::at(address, "https", "controller.node.nearside.internal", "/metrics")
        .ca(&home.join("operator/ca.pem"))
        .with(["--cert", &operator("cert.pem"), "--key", &operator("key.pem")]);
    let node = |node| curl::Request::socket(&fleet.state_dir(node).join("control.sock"), "/metrics");
    let mut seen = BTreeSet::new();
    for scrape in [controller, node("ns1"), node("fra")] {
        let response = scrape.send();
        assert_eq!(response.status, 200, "{response:?}");
        seen.extend(families(&response.body));
    }
    let explained = explained();
    let missing: Vec<_> = seen.difference(&explained).collect();
    let surplus: Vec<_> = explained.difference(&seen).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "not explained: {missing:?}; no longer there: {surplus:?}"
    );
}

/// Alerts and dashboard ask for nothing that is not explained, so for nothing that is not there.
#[test]
fn alerts_and_dashboard_ask_for_known_metrics() {
    let explained: BTreeSet<String> = explained().into_iter().map(|(name, _)| name).collect();
    for file in ["etc/prometheus/nearside.rules.yml", "etc/grafana/nearside.json"] {
        let text = read(file);
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let asked: BTreeSet<&str> = words
            .filter(|word| ["nearside_", "process_"].iter().any(|prefix| word.starts_with(prefix)))
            .collect();
        assert!(asked.len() > 10, "{file} asks for {asked:?} only: was it found?");
        for name in asked {
            let endings = ["", "_total", "_bucket", "_info"];
            let family = endings.iter().filter_map(|ending| name.strip_suffix(ending));
            assert!(family.into_iter().any(|family| explained.contains(family)), "{file} asks for {name}");
        }
    }
}

/// Names and types of a scrape.
fn families(scrape: &str) -> Vec<(String, String)> {
    let lines = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// Names and types of the manual: rows that begin with a name in code.
fn explained() -> BTreeSet<(String, String)> {
    let manual = read("docs/metrics.md");
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.filter(|(name, _)| name.contains('_') && name.starts_with(['n', 'p']))
        .filter_map(|(name, rest)| Some((name.to_owned(), rest.split_once(" |")?.0.to_owned())))
        .filter(|(_, kind)| ["counter", "gauge", "histogram", "info"].contains(&kind.as_str()))
        .collect()
}

fn read(file: &str) -> String {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a member of the workspace");
    fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}
