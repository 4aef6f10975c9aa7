//! Statistics: known requests give known figures, over restarts of edges and of home.

use nearside_tests::{
    fleet::{Fleet, SOON},
    wait,
};
use serde_json::Value;

fn stats(fleet: &Fleet, arguments: &[&str]) -> Value {
    let asked = fleet.nearside(&[&["stats", "--since", "2h", "--json"], arguments].concat());
    assert_eq!(asked.code, Some(0), "{asked:?}");
    serde_json::from_str(&asked.stdout).unwrap_or_else(|error| panic!("{error}: {asked:?}"))
}

/// Waits until the figures satisfy: a body's bytes are counted when its connection is through with it.
fn wait_stats(fleet: &Fleet, arguments: &[&str], what: &str, satisfies: impl Fn(&Value) -> bool) -> Value {
    wait::until(what, SOON, || {
        let found = stats(fleet, arguments);
        if satisfies(&found) { Ok(found) } else { Err(found.to_string()) }
    })
}

#[test]
fn known_requests_give_known_figures_and_none_counts_twice() {
    let mut fleet = Fleet::governed_after(|fleet| {
        let text = std::fs::read_to_string(fleet.fleet_file()).unwrap();
        let text =
            text.replace("[controller]\n", "[controller]\nprice_per_gb = 1000000.0\ncurrency = \"EUR\"\n");
        assert!(text.contains("EUR"), "{text}");
        std::fs::write(fleet.fleet_file(), text).unwrap();
    });
    let hello = fleet.http("fra", "/hello?token=secret").send();
    assert_eq!(hello.status, 200);
    for _ in 0..4 {
        assert_eq!(fleet.http("fra", "/hello?token=secret").send().header("x-cache-status"), "HIT");
    }
    fleet.http("fra", "/uncacheable/x").send();
    fleet.http("nyc", "/hello").send();
    fleet.http("nyc", "/hello").send();

    let of_www = ["www"];
    let found = wait_stats(&fleet, &of_www, "all that was asked is counted", |found| {
        found["totals"]["requests"] == 8 && found["totals"]["bytes_out"].as_u64() > Some(0)
    });
    let totals = &found["totals"];
    assert_eq!(totals["outcomes"], serde_json::json!({"hit": 5, "miss": 3}), "{found:#}");
    assert_eq!(totals["statuses"], serde_json::json!({"2xx": 8}));
    assert_eq!(totals["hit_ratio"], 5.0 / 8.0);
    assert_eq!(totals["origin_requests"], 3);
    assert!(totals["latency_ms"]["p50"].as_f64() > Some(0.0), "{totals}");
    let (out, origin) = (totals["bytes_out"].as_u64().unwrap(), totals["bytes_origin"].as_u64().unwrap());
    assert!(origin > 0 && out > origin, "{totals}");
    assert_eq!(totals["bytes_saved"], out - origin);
    let money = totals["money_saved"].as_f64().unwrap();
    assert!((money - (out - origin) as f64 / 1000.0).abs() < 1e-6, "{totals}");
    assert_eq!(found["pops"]["fra"]["requests"], 6);
    assert_eq!(found["pops"]["nyc"]["requests"], 2);
    assert_eq!(
        found["top"][0],
        serde_json::json!({"site": "www", "path": "/hello", "requests": 7}),
        "{found:#}"
    );
    assert!(!found.to_string().contains("secret"), "queries are nobody's business");
    let points = found["series"].as_array().unwrap();
    assert_eq!(points.iter().map(|point| point["requests"].as_u64().unwrap()).sum::<u64>(), 8);
    assert_eq!(stats(&fleet, &["www", "--pop", "nyc"])["totals"]["requests"], 2);

    // Home is away; what was counted meanwhile comes when it is back, and what it had does not come again.
    fleet.process("controller").kill();
    fleet.http("fra", "/hello?token=secret").send();
    fleet.start_controller();
    wait_stats(&fleet, &of_www, "what home missed is there", |found| found["totals"]["requests"] == 9);

    // An edge starts anew and counts from 0: what it had counted stays, what it counts adds.
    fleet.process("fra").signal("TERM");
    fleet.process("fra").wait_end(SOON * 2);
    fleet.start("fra");
    fleet.wait_serving("fra");
    wait::until("fra serves again", SOON, || {
        let response = fleet.http("fra", "/other").send();
        if response.status == 200 { Ok(()) } else { Err(format!("{response:?}")) }
    });
    let found =
        wait_stats(&fleet, &of_www, "both lives are there", |found| found["totals"]["requests"] == 10);
    assert_eq!(found["away"], serde_json::json!([]));

    let drawn = fleet.nearside(&["stats", "www"]);
    for text in ["10 requests", "EUR", "/hello", "requests", "nyc"] {
        assert!(drawn.stdout.contains(text), "{text} in {}", drawn.stdout);
    }
    assert!(!drawn.stdout.contains('\x1b'), "no colours where nobody looks");
}
