//! The store of a real edge against kills, lies, purges and restarts: the drills that need no disk of their own, in short.

use nearside_tests::drills::cache;

#[test]
fn kill_9_under_load_shows_no_wrong_byte_and_nothing_purged() {
    // A hundred in a thorough run: `NEARSIDE_KILL_ROUNDS=100 scripts/drill kill-9`.
    cache::kill_times(3);
}

#[test]
fn no_lie_of_an_origin_is_stored() {
    cache::lying_origin();
}

#[test]
fn a_purge_covers_fetches_under_way() {
    cache::purge_during_fetch();
}

#[test]
fn a_restart_keeps_what_was_asked_for() {
    cache::restart_keeps_cache();
}

#[test]
fn memory_stays_within_its_bound_under_a_hostile_mix() {
    cache::memory_stays_bounded();
}
