//! What is wrong in a real fleet is told once, over a restart of home too, and is over when it is over.
//!
//! Takes half a minute: home looks at every node every 8 to 15 seconds, and a PoP has to go and to come back.

use std::time::Duration;

use nearside_tests::{
    fleet::{Fleet, SOON},
    wait,
};
use serde_json::Value;

/// Two looks of home and a few checks.
const TOLD: Duration = Duration::from_secs(60);

fn events(fleet: &Fleet) -> Value {
    let asked = fleet.nearside(&["events", "--json"]);
    assert_eq!(asked.code, Some(0), "{asked:?}");
    serde_json::from_str(&asked.stdout).unwrap_or_else(|error| panic!("{error}: {asked:?}"))
}

fn states(events: &Value, kind: &str) -> Vec<String> {
    let all = events["events"].as_array().into_iter().flatten();
    let of_kind = all.filter(|event| event["kind"] == kind && event["subject"] == "fra");
    let mut states: Vec<String> =
        of_kind.map(|event| event["state"].as_str().unwrap_or("?").to_owned()).collect();
    states.reverse();
    states
}

#[test]
fn a_pop_that_is_down_is_told_once_and_is_over_when_it_is_back() {
    let mut fleet = Fleet::governed();
    fleet.wait_all_up();
    assert_eq!(fleet.nearside(&["events", "--open"]).code, Some(0), "nothing is wrong");
    fleet.process("fra").kill();
    let wait_states = |fleet: &Fleet, expected: &[&str]| {
        wait::until(&format!("the events of fra are {expected:?}"), TOLD, || {
            let found = events(fleet);
            if states(&found, "pop-down") == expected { Ok(()) } else { Err(found.to_string()) }
        });
    };
    wait_states(&fleet, &["raised"]);
    let open = fleet.nearside(&["events", "--open"]);
    assert_eq!(open.code, Some(1), "{open:?}");
    assert!(open.stdout.contains("pop-down fra") && open.stdout.contains("2 of 2 DNS nodes"), "{open:?}");
    let status = fleet.nearside(&["status"]);
    assert!(status.stdout.contains("wrong: nearside events"), "{status:?}");

    fleet.process("controller").kill();
    fleet.start_controller();
    fleet.start("fra");
    fleet.wait_serving("fra");
    wait_states(&fleet, &["raised", "cleared"]);

    // A bad edit is told with its place, and is over with the next good one.
    fleet.edit(&fleet.zone_file(), "192.0.2.80", "192.0.2.999");
    let refused = |fleet: &Fleet, is: bool| {
        wait::until("home tells of the refusal", SOON, || {
            let found = events(fleet);
            let open = found["open"].as_array().into_iter().flatten();
            let told = open.filter(|open| open["kind"] == "publish-refused").count();
            if (told == 1) == is { Ok(()) } else { Err(found.to_string()) }
        });
    };
    refused(&fleet, true);
    fleet.edit(&fleet.zone_file(), "192.0.2.999", "192.0.2.81");
    refused(&fleet, false);
}
