//! Failure drills: something breaks on purpose, the fleet must cope, and say so.
//!
//! A drill is a function that panics with what it saw when the fleet did not cope. Each has a fleet of its
//! own, so drills run in any order; each asserts what clients get *and* what an operator is told.

pub mod acme;
pub mod cache;
pub mod desired;
mod dns;
pub mod front;
pub mod home;
mod origin;
mod serving;
mod shield;
pub mod trust;

/// One drill.
#[derive(Clone, Copy, Debug)]
pub struct Drill {
    /// As typed.
    pub name: &'static str,
    /// What happens, in one line.
    pub what: &'static str,
    /// Panics if the fleet does not cope.
    pub run: fn(),
}

/// Every drill, in the order they run.
pub const ALL: &[Drill] = &[
    Drill { name: "pop-dies", what: "a PoP is killed, leaves the answers, returns", run: serving::pop_dies },
    Drill {
        name: "bad-config",
        what: "bad edits are refused with their place, service goes on",
        run: serving::bad_config,
    },
    Drill {
        name: "cert-swap",
        what: "a certificate is replaced while clients connect",
        run: serving::cert_swap,
    },
    Drill {
        name: "all-down",
        what: "every PoP dies; the whole list is served and said aloud",
        run: dns::all_down,
    },
    Drill {
        name: "flap",
        what: "a PoP stalls shorter than the fall threshold; answers stand still",
        run: dns::flap,
    },
    Drill {
        name: "shed",
        what: "a PoP is flooded, is offered to fewer networks, gets them back",
        run: dns::shed,
    },
    Drill {
        name: "restart-while-down",
        what: "a DNS node restarts while a PoP is dead, and never offers it",
        run: dns::restart_while_down,
    },
    Drill {
        name: "truncated-mmdb",
        what: "a cut database is refused, the old map stays",
        run: dns::truncated_mmdb,
    },
    Drill {
        name: "reload-storm",
        what: "zone, fleet file and database change without pause under load",
        run: dns::reload_storm,
    },
    Drill {
        name: "kill-9",
        what: "an edge is killed under load again and again; no wrong byte, nothing purged comes back",
        run: cache::kill_9,
    },
    Drill {
        name: "disk-full",
        what: "the cache's disk is full; clients notice nothing, the operator does",
        run: cache::disk_full,
    },
    Drill {
        name: "disk-errors",
        what: "the cache's disk fails or turns read-only; clients notice nothing",
        run: cache::disk_errors,
    },
    Drill {
        name: "lying-origin",
        what: "an origin lies about lengths, ranges and versions; no lie is stored",
        run: cache::lying_origin,
    },
    Drill {
        name: "purge-during-fetch",
        what: "a purge meets fetches under way, in every scope; they store nothing",
        run: cache::purge_during_fetch,
    },
    Drill {
        name: "restart-keeps-cache",
        what: "what was asked for is there at once after a restart, planned or not",
        run: cache::restart_keeps_cache,
    },
    Drill {
        name: "origin-failover",
        what: "origins die, hang and answer 500 under load; clients notice nothing",
        run: origin::failover,
    },
    Drill {
        name: "shield-once",
        what: "edges ask the origin once for all; purges, and shields that die and return",
        run: shield::once,
    },
    Drill {
        name: "partition",
        what: "half of fifty edges are cut off from home while it publishes and purges; no purge is lost",
        run: home::partition,
    },
    Drill {
        name: "home-dark",
        what: "home is gone: fifty edges and three DNS nodes serve, reboot, fail over; home returns",
        run: home::home_dark,
    },
    Drill {
        name: "slowloris",
        what: "thousands of half-sent heads and handshakes; others are served",
        run: front::slowloris,
    },
    Drill {
        name: "slow-readers",
        what: "thousands of clients that hardly read; others are served",
        run: front::slow_readers,
    },
    Drill {
        name: "rapid-reset",
        what: "floods of HTTP/2 frames end their own connections alone",
        run: front::rapid_reset,
    },
    Drill {
        name: "smuggling-table",
        what: "ambiguous requests never reach the origin, ambiguous responses no client",
        run: front::smuggling_table,
    },
    Drill {
        name: "canary",
        what: "a bad snapshot stops at the canary and goes back; a good one goes everywhere",
        run: desired::canary,
    },
    Drill {
        name: "forged-snapshot",
        what: "snapshots of another key, changed ones, another fleet's, lying files: none is taken",
        run: desired::forged_snapshot,
    },
    Drill {
        name: "replayed-snapshot",
        what: "old snapshots return, properly signed, home there or dark; none is taken",
        run: desired::replayed_snapshot,
    },
    Drill {
        name: "wrong-clock",
        what: "nodes and home are a year off; they serve, say so, and lose no purge",
        run: desired::wrong_clock,
    },
    Drill {
        name: "node-disk-full",
        what: "an edge has no room for a snapshot; it refuses it whole, serves on, heals",
        run: desired::node_disk_full,
    },
    Drill {
        name: "acme-killed",
        what: "home is killed while it orders a certificate; one order, one certificate, no challenge left",
        run: acme::killed,
    },
    Drill {
        name: "config-swap-storm",
        what: "sites, origins, limits and certificates change under load",
        run: front::config_swap_storm,
    },
    Drill {
        name: "revoked-node",
        what: "a stolen identity is revoked: home, shields and nodes refuse it, the node gets a new one",
        run: trust::revoked_node,
    },
    Drill {
        name: "home-restored",
        what: "home is lost and restored from an older backup; numbers go on, no purge is lost",
        run: trust::home_restored,
    },
];
