//! The desired state under attack and under failure, on real processes: the drills, as the gate runs them.

use nearside_tests::drills::desired;

#[test]
fn a_bad_snapshot_stops_at_the_canary_and_goes_back() {
    desired::canary();
}

#[test]
fn no_forged_snapshot_is_taken() {
    desired::forged_snapshot();
}

#[test]
fn no_replayed_snapshot_is_taken() {
    desired::replayed_snapshot();
}

#[test]
fn wrong_clocks_lose_nothing() {
    desired::wrong_clock();
}

#[test]
fn a_full_disk_keeps_the_last_good_state() {
    desired::node_disk_full();
}
