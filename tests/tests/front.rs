//! A real edge against floods, ambiguity and changes without pause: the drills of the front that take no deadline of its own.

use nearside_tests::drills::front;

#[test]
fn floods_of_frames_end_their_own_connections_alone() {
    front::rapid_reset();
}

#[test]
fn ambiguous_requests_never_reach_the_origin() {
    front::smuggling_table();
}

#[test]
fn no_request_is_lost_while_everything_changes() {
    front::config_swap_storm();
}
