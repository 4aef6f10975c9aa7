//! End to end: the real binaries, real clients, real peers.
