//! The drills of home and many edges, with a few of them. `scripts/drill partition home-dark` runs them with fifty.

use nearside_tests::drills::home;

#[test]
fn a_network_that_is_cut_loses_no_purge() {
    home::partition_of(6);
}

#[test]
fn nobody_needs_home_to_serve_reboot_and_fail_over() {
    home::home_dark_of(6);
}
