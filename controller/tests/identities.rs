//! Home and a node's own renewal, over real TLS: identities that have ended, that are revoked, that come from elsewhere.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::Method;
use nearside_controller::{
    client::{Peer, SharedClient},
    home::{self, DATABASE, Home},
    identities::Identities,
    journal::Journal,
};
use nearside_node::{
    ControlRequest, ControlResponse,
    control::server::{Server, handler},
    enrolled::Enrolment,
    metrics::Metrics,
    renewal::{self, Renewal},
    state::StateDir,
    tls,
};

const DAY: Duration = Duration::from_secs(86_400);
const ANSWER: Duration = Duration::from_secs(10);

struct Fleet {
    _temp: tempfile::TempDir,
    state: StateDir,
    enrolment: Arc<Enrolment>,
    address: SocketAddr,
}

/// A home that was initialised so long ago, and the node fra with the identity from then.
async fn fleet(age: Duration) -> Fleet {
    tls::install_provider();
    let temp = tempfile::tempdir().unwrap();
    let fleet_file = temp.path().join("nearside.toml");
    let text = "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\nipv4 = \"192.0.2.1\"\n";
    fs::write(&fleet_file, text).unwrap();
    let config = nearside_fleet::load(&fleet_file).unwrap().config;
    let state = StateDir::open(temp.path().join("home")).unwrap();
    let node = StateDir::open(temp.path().join("fra")).unwrap();
    let made = state.subdir("identities").unwrap();
    home::init(&state, &made, &config, SystemTime::now() - age).unwrap();
    fs::rename(made.path("fra"), node.path("identity")).unwrap();

    let enrolment = Arc::new(Enrolment::new("fra", Some(node.clone())));
    let renewal = Arc::new(Renewal::new("fra", Some(node.clone()), Arc::clone(&enrolment)));
    let answer = move |request: ControlRequest| {
        let renewal = Arc::clone(&renewal);
        async move {
            match (&request.method, request.path.as_str()) {
                (&Method::GET, "/v1/identity/csr") => renewal.csr().await,
                (&Method::PUT, "/v1/identity/certificate") => renewal.certificate(request.body).await,
                (&Method::PUT, "/v1/identity/revoked") => renewal.revoked(request.body).await,
                (&Method::GET, "/v1/identity/revoked") => renewal.revoked_list(),
                _ => ControlResponse::ok(&request.who),
            }
        }
    };
    let server = Server::new(handler(answer), Metrics::new("test", "0").node)
        .judged_by(renewal::judge(Arc::clone(&enrolment)));
    let (address, accepting) = server.tcp("127.0.0.1:0".parse().unwrap(), enrolment.tls()).await.unwrap();
    tokio::spawn(accepting);
    Fleet { _temp: temp, state, enrolment, address }
}

impl Fleet {
    fn home(&self) -> (Arc<Journal>, Arc<Identities>) {
        let journal = Arc::new(Journal::open(&self.state.path(DATABASE)).unwrap());
        let home = Home::open(self.state.clone()).unwrap();
        let identities = Identities::open(home, Arc::clone(&journal), SystemTime::now()).unwrap();
        (journal, identities)
    }

    fn peer(&self, tls: SharedClient) -> Peer {
        Peer { name: "fra".to_owned(), address: self.address, tls }
    }

    async fn answers(&self, tls: SharedClient) -> bool {
        self.peer(tls).ask(Method::GET, "/", Bytes::new(), ANSWER).await.is_ok()
    }
}

#[tokio::test]
async fn an_identity_that_ended_while_home_was_dark_is_renewed() {
    let fleet = fleet(DAY * 100).await;
    let (journal, identities) = fleet.home();
    assert!(!fleet.answers(identities.client()).await, "its certificate ended 40 days ago");
    let mut open = fleet.peer(identities.forgiving()).connect().await.unwrap();
    identities.renew("fra", &mut open, SystemTime::now()).await.unwrap();
    assert!(fleet.enrolment.identity().unwrap().made_here);
    assert!(fleet.answers(identities.client()).await);
    let register = journal.identities().unwrap();
    assert_eq!(register.iter().filter(|one| one.name == "node:fra").count(), 2);
}

#[tokio::test]
async fn what_ended_and_was_revoked_or_is_unknown_is_not_renewed() {
    let fleet = fleet(DAY * 100).await;
    let (journal, identities) = fleet.home();
    journal.revoke_identities("node:fra", 1, "stolen").unwrap();
    assert!(
        !fleet.answers(identities.forgiving()).await,
        "revoked, and the list does not name what has ended"
    );

    let unknown = self::fleet(DAY * 100).await;
    fs::remove_file(unknown.state.path(DATABASE)).unwrap();
    let (_, identities) = unknown.home();
    assert!(!unknown.answers(identities.forgiving()).await, "home does not know that it ever signed it");
}

#[tokio::test]
async fn a_node_in_use_is_renewed_once_and_its_key_stays_there() {
    let fleet = fleet(DAY).await;
    let (journal, identities) = fleet.home();
    let mut open = fleet.peer(identities.client()).connect().await.unwrap();
    identities.renew("fra", &mut open, SystemTime::now()).await.unwrap();
    let renewed = fleet.enrolment.identity().unwrap();
    let report = nearside_fleet::report::Identity {
        serial: String::new(),
        not_after: u64::try_from(renewed.not_after).unwrap(),
        made_here: renewed.made_here,
        revocations: 0,
    };
    assert!(!Identities::is_due(&report, SystemTime::now() + DAY * 14));
    assert!(Identities::is_due(&report, SystemTime::now() + DAY * 16));
    // A list that home does not know of, as after a restore: taken over, and the number goes on after it.
    identities.revoke("operator", "left", SystemTime::now()).unwrap();
    let mut open = fleet.peer(identities.client()).connect().await.unwrap();
    identities.exchange_revoked(&mut open, 0, SystemTime::now()).await.unwrap();
    assert_eq!(fleet.enrolment.identity().unwrap().revoked.as_ref().unwrap().number, 1);
    drop((journal, identities));
    for end in ["", "-wal", "-shm"] {
        let _not_there = fs::remove_file(fleet.state.path(format!("{DATABASE}{end}")));
    }
    let (journal, identities) = fleet.home();
    assert_eq!(identities.revocations(), 0);
    let mut open = fleet.peer(identities.client()).connect().await.unwrap();
    identities.exchange_revoked(&mut open, 1, SystemTime::now()).await.unwrap();
    assert_eq!(identities.revocations(), 2);
    let register = journal.identities().unwrap();
    assert_eq!(register.iter().filter(|one| one.revoked.is_some()).count(), 1, "{register:?}");
}
