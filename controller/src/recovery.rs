//! After a restore: finds out how far the fleet is ahead of home's journal, before home gives any number.
//!
//! A journal restored from a backup does not know the snapshots and purges that were made after it. A number given twice would be lost:
//! a node takes a snapshot or a purge whose number it has seen for one it has. So home asks every node first, and goes
//! on after the newest number that any of them has seen. Edges that lack purges which home no longer knows purge softly all
//! they hold, as after a long absence. Where a node can't be asked, it may have seen more: numbers then leap, and every edge purges
//! softly. No purge is lost, none is skipped; the price is revalidation, and only where something could be missed.
//!
//! [`decide`] is pure; [`recover`] asks.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::Method;
use nearside_fleet::{
    purge::{Acknowledged, Purges},
    report::Report,
};
use nearside_node::state::StateDir;

use crate::{
    client::{ClientError, Peer, json},
    home::{DATABASE, Home},
    identities::Identities,
    journal::{Journal, restored::Restored},
    nodes::Kind,
    serve::StartError,
};

/// How long home waits for nodes to answer, before it goes on without them.
const ASK_FOR: Duration = Duration::from_secs(30);
/// Between tries.
const AGAIN: Duration = Duration::from_secs(1);
/// For one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How far purges' numbers leap where an edge could not be asked: four thousand million orders since the backup are not.
const PURGE_LEAP: u64 = 1 << 32;
/// How far snapshots' numbers leap where a node could not be asked: a publish a minute for two months.
const SNAPSHOT_LEAP: u64 = 100_000;

/// What a node said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub node: String,
    /// The snapshot it serves.
    pub snapshot: u64,
    /// All purges up to this one are in force there; `None`: it is no edge.
    pub purges: Option<u64>,
}

/// From where home goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoOn {
    /// After this snapshot.
    pub snapshot: u64,
    /// After this purge.
    pub purge: u64,
    /// Where each edge stands.
    pub edges: Vec<(String, u64)>,
}

/// Decides from where to go on: `snapshot` and `purge` are the journal's own last numbers, `silent` how many nodes did not answer.
pub fn decide(how: Restored, snapshot: u64, purge: u64, seen: &[Seen], silent: usize) -> GoOn {
    let newest_snapshot = seen.iter().map(|one| one.snapshot).fold(snapshot, u64::max);
    let newest_purge = seen.iter().filter_map(|one| one.purges).fold(purge, u64::max);
    let edges = seen.iter().filter_map(|one| Some((one.node.clone(), one.purges?))).collect();
    // Where home has worked with the old journal, the same number may mean two purges, whoever answers.
    let (past_snapshot, past_purge) = match (how, silent) {
        (Restored::FromBackup, 0) => (newest_snapshot, newest_purge),
        _ => (newest_snapshot + SNAPSHOT_LEAP, newest_purge + PURGE_LEAP),
    };
    GoOn { snapshot: past_snapshot, purge: past_purge, edges }
}

/// Puts a restored journal right, before the controller opens it; returns at once where there is nothing to do. Takes half a
/// minute at most.
///
/// # Errors
/// [`StartError`].
pub async fn recover(state: &StateDir, fleet_file: &Path) -> Result<(), StartError> {
    let home = Home::open(state.clone())?;
    let journal = Arc::new(Journal::open(&state.path(DATABASE))?);
    let Some(how) = journal.restored()? else { return Ok(()) };
    let identities = Identities::open(home, Arc::clone(&journal), SystemTime::now())?;
    // A fleet file that is broken now names nobody: as good as nobody answering.
    let config = nearside_fleet::load(fleet_file).map(|loaded| loaded.config);
    let mut asked: Vec<(Peer, Kind)> = Vec::new();
    let mut silent = usize::from(config.is_err());
    if let Ok(config) = &config {
        let pops = config.pops.values().map(|pop| (&pop.name, pop.control, Kind::Edge));
        let dns = config.dns.values().map(|node| (&node.name, node.control, Kind::Dns));
        for (name, control, kind) in pops.chain(dns) {
            match control {
                Some(address) => asked.push((peer(&identities, name, address), kind)),
                None => silent += 1,
            }
        }
    }
    tracing::warn!(nodes = asked.len(), "home was restored: asking every node how far it is");
    let deadline = Instant::now() + ASK_FOR;
    let asking: Vec<_> =
        asked.into_iter().map(|(peer, kind)| tokio::spawn(ask_until(peer, kind, deadline))).collect();
    let mut seen = Vec::new();
    for one in asking {
        match one.await {
            Ok(Some(one)) => seen.push(one),
            _ => silent += 1,
        }
    }
    let go_on = decide(how, journal.newest_number()?, journal.last_purge()?, &seen, silent);
    journal.go_on_after(go_on.snapshot, go_on.purge, &go_on.edges)?;
    tracing::warn!(
        answered = seen.len(),
        silent,
        snapshot = go_on.snapshot,
        purge = go_on.purge,
        "home goes on after these numbers"
    );
    let what = format!("restored: goes on after snapshot {} and purge {}", go_on.snapshot, go_on.purge);
    journal.audit(crate::home::seconds(SystemTime::now()), "controller", &what)?;
    Ok(())
}

fn peer(identities: &Identities, name: &str, address: SocketAddr) -> Peer {
    Peer { name: name.to_owned(), address, tls: identities.forgiving() }
}

async fn ask_until(peer: Peer, kind: Kind, deadline: Instant) -> Option<Seen> {
    loop {
        match ask(&peer, kind).await {
            Ok(seen) => return Some(seen),
            Err(error) if Instant::now() + AGAIN >= deadline => {
                tracing::warn!(node = peer.name, %error, "does not say how far it is");
                return None;
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

async fn ask(peer: &Peer, kind: Kind) -> Result<Seen, ClientError> {
    let mut connection = peer.connect().await?;
    let report: Report =
        connection.ask(Method::GET, "/v1/status", Bytes::new(), ANSWER).await?.good()?.json()?;
    let purges = match kind {
        Kind::Dns => None,
        Kind::Edge => {
            // No purge and no word of home's journal: the edge says where it stands and changes nothing.
            let message = json(&Purges { purges: Vec::new(), journal: None });
            let answer = connection.ask(Method::POST, "/v1/purges", message, ANSWER).await?;
            Some(answer.good()?.json::<Acknowledged>()?.through)
        }
    };
    Ok(Seen { node: peer.name.clone(), snapshot: report.serving.snapshot.unwrap_or(0), purges })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(node: &str, snapshot: u64, purges: Option<u64>) -> Seen {
        Seen { node: node.to_owned(), snapshot, purges }
    }

    #[test]
    fn home_goes_on_after_the_newest_that_anybody_has_seen() {
        let nodes = [seen("fra", 7, Some(12)), seen("nyc", 6, Some(9)), seen("ns1", 8, None)];
        let go_on = decide(Restored::FromBackup, 5, 9, &nodes, 0);
        assert_eq!((go_on.snapshot, go_on.purge), (8, 12));
        assert_eq!(go_on.edges, [("fra".to_owned(), 12), ("nyc".to_owned(), 9)]);
        let nothing_lost = decide(Restored::FromBackup, 8, 12, &nodes, 0);
        assert_eq!((nothing_lost.snapshot, nothing_lost.purge), (8, 12));
    }

    #[test]
    fn numbers_leap_past_whatever_a_silent_node_may_have_seen() {
        let nodes = [seen("fra", 7, Some(12))];
        for (how, silent) in [(Restored::FromBackup, 1), (Restored::FoundOut, 0), (Restored::FoundOut, 3)] {
            let go_on = decide(how, 5, 9, &nodes, silent);
            assert_eq!(
                (go_on.snapshot, go_on.purge),
                (7 + SNAPSHOT_LEAP, 12 + PURGE_LEAP),
                "{how:?} {silent}"
            );
        }
        let nobody = decide(Restored::FromBackup, 0, 0, &[], 1);
        assert!(nobody.purge >= PURGE_LEAP && nobody.edges.is_empty());
    }
}
