//! Rollouts over nodes that keep everything in memory: waves, a gate that fails, home that stops on the way, a month off.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::SystemTime};

use nearside_controller::{
    bundle::{Content, Draft, How},
    home,
    journal::publications::{Outcome, Waves},
    nodes::Phase,
    serve::{Controller, NotPublished},
};
use nearside_fleet::Sha256;
use nearside_node::{metrics::Metrics, state::StateDir, tls};

use support::{Fake, fake, free, until};

const NODES: [&str; 6] = ["e1", "e2", "e3", "e4", "ns1", "ns2"];

/// Home and its nodes.
struct Rig {
    temp: tempfile::TempDir,
    nodes: BTreeMap<&'static str, Fake>,
    addresses: BTreeMap<&'static str, std::net::SocketAddr>,
    controller: Arc<Controller>,
    following: tokio::task::JoinHandle<()>,
}

impl Rig {
    /// All nodes at snapshot 1.
    async fn new(controller_keys: &str) -> Self {
        tls::install_provider();
        let temp = tempfile::tempdir().unwrap();
        let addresses: BTreeMap<_, _> = NODES.map(|node| (node, free())).into();
        let mut text = "version = 1\nfleet = \"test\"\n".to_owned();
        for (last, (node, address)) in (1..).zip(&addresses) {
            let last: u8 = last;
            text += &match node.starts_with('e') {
                true => format!(
                    "[pop.{node}]\nlocation = [50.1, 8.6]\nipv4 = \"192.0.2.{last}\"\ncontrol = \"{address}\"\n"
                ),
                false => format!("[dns.{node}]\nlisten = \"192.0.2.{last}:53\"\ncontrol = \"{address}\"\n"),
            };
        }
        text += "[site.s]\nhosts = \"www.a.test\"\norigin = \"http://192.0.2.9\"\ntls = \"fleet\"\n";
        text +=
            &format!("[controller]\nlisten = \"127.0.0.1:9443\"\npublish = \"command\"\n{controller_keys}\n");
        let fleet_file = temp.path().join("nearside.toml");
        fs::write(&fleet_file, &text).unwrap();
        let state = StateDir::open(temp.path().join("home")).unwrap();
        let identities = state.subdir("identities").unwrap();
        let config = nearside_fleet::load(&fleet_file).unwrap().config;
        home::init(&state, &identities, &config, SystemTime::now()).unwrap();
        let mut nodes = BTreeMap::new();
        for (node, address) in &addresses {
            nodes.insert(*node, fake(identities.root(), node, *address).await);
        }
        let (controller, following) = start(&temp).await;
        let rig = Self { temp, nodes, addresses, controller, following };
        until("all have snapshot 1", || rig.all_have(1)).await;
        rig
    }

    fn all_have(&self, number: u64) -> bool {
        self.nodes.values().all(|node| node.memory.lock().unwrap().snapshot == Some(number))
    }

    /// Adds a line to the fleet file; the hash of it then.
    fn edit(&self, line: &str) -> Sha256 {
        let path = self.file();
        let text = fs::read_to_string(&path).unwrap() + line + "\n";
        fs::write(&path, &text).unwrap();
        Sha256::of(text.as_bytes())
    }

    fn file(&self) -> PathBuf {
        self.temp.path().join("nearside.toml")
    }

    async fn publish(&self, how: How) -> Result<u64, NotPublished> {
        let draft = Draft { content: Content::Disk, who: "test".into(), note: "a note".into(), how };
        self.controller.order(draft).await.map(|outcome| outcome.number)
    }

    fn outcome(&self, number: u64) -> (Outcome, String) {
        let publication = self.controller.journal().publication(number).unwrap().unwrap();
        (publication.outcome, publication.told)
    }

    /// Home dies and is started again.
    async fn restart(&mut self) {
        self.following.abort();
        let (controller, following) = start(&self.temp).await;
        (self.controller, self.following) = (controller, following);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.following.abort();
        self.nodes.values().for_each(|node| node.task.abort());
    }
}

async fn start(temp: &tempfile::TempDir) -> (Arc<Controller>, tokio::task::JoinHandle<()>) {
    let state = StateDir::open(temp.path().join("home")).unwrap();
    let file = temp.path().join("nearside.toml");
    let controller = Controller::open(state, file, &Metrics::new("test", "0")).unwrap();
    let following = tokio::spawn(Arc::clone(&controller).follow());
    (controller, following)
}

fn waves(canary: &[&str], watch_seconds: u64) -> How {
    let canary = canary.iter().map(|node| (*node).to_owned()).collect();
    How::Waves(Waves { canary, percents: vec![100], watch_seconds: Some(watch_seconds) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_goes_to_the_canary_then_to_edges_then_to_dns_nodes() {
    let rig = Rig::new("").await;
    rig.edit("# better");
    assert_eq!(rig.publish(waves(&["e3"], 1)).await, Ok(2));
    let busy = rig.publish(How::AtOnce).await.unwrap_err();
    assert!(matches!(&busy, NotPublished::Busy(reason) if reason.contains("snapshot 2")), "{busy}");
    // Whatever moment is looked at: nobody has it whose wave was not let go.
    let order = [vec!["e3"], vec!["e1", "e2", "e4"], vec!["ns1"], vec!["ns2"]];
    until("it is rolled out", || {
        let has = |node: &str| rig.nodes[node].memory.lock().unwrap().snapshot == Some(2);
        let of_wave: Vec<bool> = order.iter().map(|wave| wave.iter().any(|node| has(node))).collect();
        let before = |wave: usize| order[wave].iter().all(|node| has(node));
        for wave in 1..order.len() {
            assert!(!of_wave[wave] || before(wave - 1), "wave {wave} before the one before it: {of_wave:?}");
        }
        let status = rig.controller.status().unwrap();
        assert_eq!(status.rollout.is_some(), rig.outcome(2).0 == Outcome::Rolling);
        assert!(status.nodes.iter().all(|node| node.lag().is_none_or(|lag| lag <= 1)), "{status:?}");
        status.rollout.is_none()
    })
    .await;
    assert_eq!(rig.outcome(2).0, Outcome::Done);
    assert!(rig.all_have(2));
    assert_eq!(rig.controller.journal().publication(2).unwrap().unwrap().note, "a note");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_at_the_canary_take_the_snapshot_back_everywhere() {
    let rig = Rig::new("canary = \"e2\"\nwatch = \"30s\"").await;
    let good = rig.nodes["e2"].memory.lock().unwrap().took[0].1;
    let bad = rig.edit("# worse");
    for node in rig.nodes.values() {
        node.memory.lock().unwrap().errs_with = Some(bad);
    }
    assert_eq!(rig.publish(How::AsConfigured).await, Ok(2));
    until("all are back", || rig.all_have(3)).await;
    for (name, node) in &rig.nodes {
        let took = node.memory.lock().unwrap().took.clone();
        let expected =
            if *name == "e2" { vec![(1, good), (2, bad), (3, good)] } else { vec![(1, good), (3, good)] };
        assert_eq!(took, expected, "{name}");
    }
    let (outcome, told) = rig.outcome(2);
    assert!(
        outcome == Outcome::Failed && told.contains("e2 answers") && told.contains("with an error"),
        "{told}"
    );
    let status = rig.controller.status().unwrap();
    let newest = status.newest.unwrap();
    assert_eq!((newest.number, newest.rollback_of, newest.who.as_str()), (3, Some(1), "controller"));
    assert!(newest.note.contains(&told) && status.rollout.is_none(), "{newest:?}");

    // What home does by itself does not bring it again; somebody who wants it may have it.
    assert_eq!(rig.controller.refresh("renewal").await.map(|outcome| outcome.new), Ok(false));
    for node in rig.nodes.values() {
        node.memory.lock().unwrap().errs_with = None;
    }
    assert_eq!(rig.publish(How::AtOnce).await, Ok(4));
    until("all have it at last", || rig.all_have(4)).await;
    // And back again by hand, to what was good before.
    let back = rig.controller.rollback(None, "test", "no, not that").await.unwrap();
    assert_eq!(back.number, 5);
    until("all are back again", || rig.all_have(5)).await;
    assert_eq!(rig.nodes["e1"].memory.lock().unwrap().took.last(), Some(&(5, good)));
    let gone = rig.controller.rollback(Some(77), "test", "").await.unwrap_err();
    assert!(gone.to_string().contains("no snapshot 77"), "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_outlives_home() {
    let mut rig = Rig::new("").await;
    rig.edit("# better");
    assert_eq!(rig.publish(waves(&["e1"], 2)).await, Ok(2));
    let has = |rig: &Rig, node: &str| rig.nodes[node].memory.lock().unwrap().snapshot;
    until("the canary has it", || has(&rig, "e1") == Some(2)).await;
    rig.restart().await;
    assert_eq!(has(&rig, "e2"), Some(1), "a restart lets nobody go");
    until("it goes on", || rig.outcome(2).0 == Outcome::Done && rig.all_have(2)).await;

    // Home dies between the verdict and the way back: it is taken back at the next start.
    rig.edit("# worse");
    assert_eq!(rig.publish(waves(&["e1"], 60)).await, Ok(3));
    until("the canary has it", || has(&rig, "e1") == Some(3)).await;
    rig.following.abort();
    rig.controller.journal().keep_outcome(3, Outcome::Failed, "e1 is down").unwrap();
    rig.restart().await;
    until("all are back", || rig.all_have(4)).await;
    assert_eq!(rig.controller.journal().publication(4).unwrap().unwrap().rollback_of, Some(2));
    assert!(rig.controller.status().unwrap().rollout.is_none());
    assert!(rig.nodes["e2"].memory.lock().unwrap().took.iter().all(|(number, _)| *number != 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_long_is_brought_to_the_present_by_one_contact() {
    let mut rig = Rig::new("").await;
    rig.nodes["e4"].task.abort();
    let before = Arc::clone(&rig.nodes["e4"].memory);
    // More than home keeps: the node's own snapshot and files are known to nobody else but by name.
    for number in 2..=110 {
        rig.edit(&format!("# {number}"));
        assert_eq!(rig.publish(How::AtOnce).await, Ok(number));
    }
    let kept: Vec<u64> =
        rig.controller.journal().publications(1000).unwrap().iter().map(|one| one.number).collect();
    assert!(kept.len() < 110 && kept.contains(&1) && !kept.contains(&2), "what e4 has is kept: {kept:?}");
    rig.restart().await;
    let away = |rig: &Rig| {
        let mut nodes = rig.controller.status().unwrap().nodes.into_iter();
        let found = nodes.find(|node| node.node == "e4");
        found.map(|node| (node.phase, node.snapshot, node.lag()))
    };
    // The last it was seen with, though home began anew since.
    until("home knows that it is away", || away(&rig) == Some((Phase::Unreachable, Some(1), Some(109))))
        .await;

    let identities = rig.temp.path().join("home/identities");
    let node = fake(&identities, "e4", rig.addresses["e4"]).await;
    {
        // It comes back without the files it had.
        let (mut memory, before) = (node.memory.lock().unwrap(), before.lock().unwrap());
        (memory.snapshot, memory.took) = (before.snapshot, before.took.clone());
    }
    rig.nodes.insert("e4", node);
    until("it has the newest", || away(&rig) == Some((Phase::Current, Some(110), Some(0)))).await;
    let took: Vec<u64> =
        rig.nodes["e4"].memory.lock().unwrap().took.iter().map(|(number, _)| *number).collect();
    assert_eq!(took, [1, 110], "one step, whatever lies between");
}
