//! The drills of trust, as part of every change: they take seconds.

use nearside_tests::drills::trust;

#[test]
fn a_revoked_identity_opens_no_door() {
    trust::revoked_node();
}

#[test]
fn home_is_restored_and_no_purge_is_lost() {
    trust::home_restored();
}
