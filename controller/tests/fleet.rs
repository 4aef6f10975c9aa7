//! The controller against nodes that keep everything in memory: publish, refuse, offline, replay, drain.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use nearside_controller::{
    home,
    journal::Drain,
    nodes::{Kind, Phase},
    serve::Controller,
};
use nearside_fleet::purge::{Mode, Scope};
use nearside_node::{metrics::Metrics, state::StateDir, tls};

use support::{Fake, fake, free, until};

const ZONE: &str = "@ 60 IN SOA ns h 1 60 60 60 60\n@ 60 IN NS ns\nns 60 IN A 192.0.2.53\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_brought_to_the_desired_state_and_kept_there() {
    tls::install_provider();
    let temp = tempfile::tempdir().unwrap();
    let (fra, nyc, ns1) = (free(), free(), free());
    let text = format!(
        "version = 1\nfleet = \"test\"\n\
         [pop.fra]\nlocation = [50.1, 8.6]\nipv4 = \"192.0.2.1\"\ncontrol = \"{fra}\"\n\
         [pop.nyc]\nlocation = [40.7, -74.0]\nipv4 = \"192.0.2.2\"\ncontrol = \"{nyc}\"\n\
         [dns.ns1]\nlisten = \"192.0.2.3:53\"\ncontrol = \"{ns1}\"\n\
         [service.web]\nchecks = []\n[zone.\"a.test\"]\nfile = \"a.zone\"\nnames = {{ www = \"web\" }}\n\
         [site.s]\nhosts = \"www.a.test\"\norigin = \"http://192.0.2.9\"\ntls = \"fleet\"\n"
    );
    let fleet_file = temp.path().join("nearside.toml");
    fs::write(&fleet_file, &text).unwrap();
    fs::write(temp.path().join("a.zone"), ZONE).unwrap();
    let state = StateDir::open(temp.path().join("home")).unwrap();
    let identities = state.subdir("identities").unwrap();
    let config = nearside_fleet::load(&fleet_file).unwrap().config;
    home::init(&state, &identities, &config, SystemTime::now()).unwrap();
    let ids = identities.root().to_path_buf();
    let (edge, dns) = (fake(&ids, "fra", fra).await, fake(&ids, "ns1", ns1).await);

    let controller = Controller::open(state, fleet_file.clone(), &Metrics::new("test", "0")).unwrap();
    let following = tokio::spawn(Arc::clone(&controller).follow());
    let has = |fake: &Fake| fake.memory.lock().unwrap().snapshot;
    until("both have snapshot 1", || has(&edge) == Some(1) && has(&dns) == Some(1)).await;
    let phase = |node: &str| {
        let status = controller.status().unwrap();
        status.nodes.into_iter().find(|status| status.node == node).map(|status| status.phase)
    };
    until("nyc is unreachable", || phase("nyc") == Some(Phase::Unreachable)).await;

    // A bad edit is refused with its place; the next good one goes out by itself.
    fs::write(temp.path().join("a.zone"), format!("{ZONE}www 60 IN A 1.2.3.400\n")).unwrap();
    until("the bad edit is shown", || {
        controller.status().unwrap().refused.iter().any(|reason| reason.contains("a.zone:4:"))
    })
    .await;
    assert_eq!(has(&dns), Some(1), "the last published state stays");
    fs::write(temp.path().join("a.zone"), format!("{ZONE}txt 60 IN TXT \"x\"\n")).unwrap();
    until("snapshot 2", || has(&edge) == Some(2) && has(&dns) == Some(2)).await;
    assert!(controller.status().unwrap().refused.is_empty());

    // A node that refuses says why, and is not asked to go back.
    dns.memory.lock().unwrap().refuse = Some("a.zone:5:1: not to my taste".to_owned());
    fs::write(&fleet_file, format!("{text}stale = 1\n").replace("stale = 1", "# a comment")).unwrap();
    until("ns1 refuses", || phase("ns1") == Some(Phase::Refusing)).await;
    let status = controller.status().unwrap();
    let refusing = status.nodes.iter().find(|status| status.node == "ns1").unwrap();
    assert!(refusing.error.as_ref().unwrap().contains("not to my taste"), "{refusing:?}");
    assert_eq!(has(&dns), Some(2));
    dns.memory.lock().unwrap().refuse = None;

    // A purge reaches who is there now and the other when it comes.
    let order = controller.purge(&[Scope::All, Scope::Site("s".into())], Mode::Hard, "test").await.unwrap();
    assert!(order.settled(2, Duration::from_secs(20)).await, "who is away is not waited for");
    let told = order.outcome();
    let outcome = |pop: &str| told.iter().find(|told| told.pop == pop).unwrap();
    assert!(outcome("fra").error.is_none(), "{told:?}");
    assert!(outcome("nyc").error.is_some(), "{told:?}");
    assert_eq!(edge.memory.lock().unwrap().purges, [1, 2]);
    let late = fake(&ids, "nyc", nyc).await;
    until("nyc has the snapshot and both purges, once", || {
        has(&late) == Some(3) && late.memory.lock().unwrap().purges == [1, 2]
    })
    .await;

    // Drains go to DNS nodes and are lifted there.
    let drain = Drain { pop: "fra".into(), until: None, reason: "disk".into() };
    controller.drain(&drain, "test").unwrap();
    until("ns1 drains fra", || dns.memory.lock().unwrap().drains.contains_key("fra")).await;
    assert!(controller.undrain("fra", "test").unwrap());
    until("ns1 takes fra back", || dns.memory.lock().unwrap().drains.is_empty()).await;
    assert!(
        controller.drain(&Drain { pop: "xyz".into(), ..drain }, "test").unwrap_err().contains("fra, nyc")
    );
    until("all are current", || controller.settled()).await;
    assert_eq!(controller.nodes(Kind::Edge).len(), 2);
    following.abort();
    for fake in [edge, dns, late] {
        fake.task.abort();
    }
}
