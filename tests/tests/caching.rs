//! The edge's side of the tour: one fetch, then hits; over TLS and HTTP/2; certificates replaced under load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use nearside_tests::{
    fleet::{Certificate, Fleet, POPS},
    wait,
};

/// A fleet of which only the edges run.
fn edges() -> Fleet {
    let mut fleet = Fleet::new();
    for (pop, _) in POPS {
        fleet.start(pop);
    }
    for (pop, _) in POPS {
        fleet.wait_serving(pop);
    }
    fleet
}

#[test]
fn the_first_request_is_a_miss_the_next_a_hit_and_the_origin_is_asked_once() {
    let fleet = edges();
    let miss = fleet.http("fra", "/hello").send();
    assert_eq!((miss.status, miss.header("x-cache-status")), (200, "MISS"), "{miss:?}");
    let hit = fleet.http("fra", "/hello").send();
    assert_eq!((hit.status, hit.header("x-cache-status")), (200, "HIT"), "{hit:?}");
    assert!(hit.header("cache-status").contains("hit"), "RFC 9211: {hit:?}");
    assert!(hit.header("age").parse::<u64>().is_ok(), "RFC 9111 section 5.1: {hit:?}");
    assert_eq!(miss.body, hit.body);
    assert_eq!(fleet.origin.of("/hello"), 1);
    // Every PoP keeps its own.
    assert_eq!(fleet.http("nyc", "/hello").send().header("x-cache-status"), "MISS");
    assert_eq!(fleet.origin.of("/hello"), 2);
}

#[test]
fn the_same_object_is_a_hit_over_tls_and_http_2() {
    let fleet = edges();
    let miss = fleet.https("fra", "/hello").http2().send();
    assert_eq!((miss.exit, miss.version.as_str(), miss.status), (0, "2", 200), "{miss:?}");
    let hit = fleet.https("fra", "/hello").http2().send();
    assert_eq!(hit.header("x-cache-status"), "HIT", "{hit:?}");
    let one = fleet.https("fra", "/hello").with(["--http1.1"]).send();
    assert_eq!((one.version.as_str(), one.header("x-cache-status")), ("1.1", "HIT"), "{one:?}");
    assert_eq!(fleet.origin.of("/hello"), 1);
}

#[test]
fn what_must_not_be_stored_is_fetched_every_time() {
    let fleet = edges();
    for _ in 0..2 {
        let response = fleet.http("fra", "/uncacheable/x").send();
        assert_eq!(response.status, 200);
        assert_ne!(response.header("x-cache-status"), "HIT");
    }
    assert_eq!(fleet.origin.of("/uncacheable/x"), 2);
}

#[test]
fn a_large_object_arrives_whole_and_survives_a_restart_on_disk() {
    let mut fleet = edges();
    let first = fleet.http("fra", "/large").send();
    assert_eq!((first.status, first.body.len()), (200, 3 << 20));
    assert_eq!(fleet.http("fra", "/large").send().header("x-cache-status"), "HIT");
    fleet.process("fra").signal("TERM");
    fleet.process("fra").wait_end(nearside_tests::fleet::SOON * 2);
    fleet.start("fra");
    fleet.wait_serving("fra");
    let again = fleet.http("fra", "/large").send();
    assert_eq!((again.header("x-cache-status"), again.body.len()), ("HIT", 3 << 20), "{:?}", again.headers);
    assert_eq!(fleet.origin.of("/large"), 1);
}

#[test]
fn the_health_endpoint_answers_on_every_listener_for_any_host() {
    let fleet = edges();
    for request in [
        fleet.http("fra", "/.well-known/nearside/health").with(["-H", "Host: whatever.example"]),
        fleet.https("fra", "/.well-known/nearside/health"),
    ] {
        let response = request.send();
        assert_eq!(response.status, 200, "{response:?}");
        assert!(serde_json::from_str::<serde_json::Value>(&response.body).is_ok(), "{response:?}");
    }
    assert_eq!(fleet.origin.total(), 0, "it never reaches an origin");
}

#[test]
fn a_certificate_is_replaced_under_load_without_a_failed_request() {
    let fleet = Arc::new(edges());
    let fingerprint =
        |fleet: &Fleet| fleet.status("fra")["program_report"]["certificates"]["www"]["sha256"].clone();
    let before = fingerprint(&fleet);
    assert!(before.is_string(), "{}", fleet.status("fra"));
    let stop = Arc::new(AtomicBool::new(false));
    let client = thread::spawn({
        let (fleet, stop) = (Arc::clone(&fleet), Arc::clone(&stop));
        move || {
            let mut served = 0;
            while !stop.load(Ordering::Relaxed) {
                let response = fleet.https("fra", "/hello").send();
                assert_eq!((response.exit, response.status), (0, 200), "{response:?}");
                served += 1;
            }
            served
        }
    });
    fleet.write_certificate(Certificate::Good);
    wait::until("the new certificate is served", nearside_tests::fleet::SOON, || {
        let now = fingerprint(&fleet);
        if now != before { Ok(()) } else { Err(now) }
    });
    stop.store(true, Ordering::Relaxed);
    assert!(client.join().expect("no request failed") > 0);
}

#[test]
fn a_bad_certificate_is_refused_and_the_last_good_one_serves_on() {
    let fleet = edges();
    for (how, word) in [(Certificate::WrongKey, "key"), (Certificate::Expired, "expired")] {
        fleet.write_certificate(how);
        fleet.wait_status("fra", &format!("tells of the certificate: {how:?}"), |status| {
            let told = format!(
                "{}{}",
                status["refused"]["reasons"], status["program_report"]["certificate_problems"]
            );
            told.to_lowercase().contains(word)
        });
        let response = fleet.https("fra", "/hello").send();
        assert_eq!((response.exit, response.status), (0, 200), "{response:?}");
        fleet.write_certificate(Certificate::Good);
        fleet.wait_status("fra", "is content again", |status| {
            let problems = &status["program_report"]["certificate_problems"];
            status["refused"].is_null() && problems.as_array().is_none_or(Vec::is_empty)
        });
    }
}
