//! Several edges with identities of one fleet: an object is fetched from the origin once, whoever asks for it
//! where, and nothing that a shield does wrong reaches a client.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Instant,
};

use http::Method;
use nearside_edge::listen::Speaks;
use nearside_fleet::config::Config;
use nearside_node::{
    identity,
    state::StateDir,
    tls::{Credentials, node_host},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::ServerName;
use serde_json::json;
use support::{Edge, Origin, fleet, said};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The CA of a fleet.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test fleet CA");
        Ca(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A state directory with the identity of this common name.
    fn state(&self, dir: &TempDir, common_name: &str) -> StateDir {
        let node = common_name.strip_prefix("node:").unwrap_or(common_name);
        let mut params = CertificateParams::new(vec![node_host(node)]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let state = StateDir::open(dir.path().join(format!("state-{node}"))).unwrap();
        let identity = state.path(identity::DIR);
        std::fs::create_dir_all(&identity).unwrap();
        let [ca, cert, key_file] = identity::files(&identity);
        std::fs::write(ca, self.0.pem()).unwrap();
        std::fs::write(cert, certificate.pem()).unwrap();
        std::fs::write(key_file, key.serialize_pem()).unwrap();
        state
    }
}

/// A port that is free now on an address.
fn free(address: Ipv4Addr) -> SocketAddr {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap()
}

/// Edges `a` and `b`, which are shields, and `c` and `d`, which are not.
struct Fleet {
    edges: BTreeMap<&'static str, Edge>,
    ca: Ca,
    shields: [SocketAddr; 2],
}

impl Fleet {
    async fn start(origin: &Origin) -> Fleet {
        let ca = Ca::new();
        let shields = [free(Ipv4Addr::new(127, 0, 71, 1)), free(Ipv4Addr::new(127, 0, 71, 2))];
        let mut edges = BTreeMap::new();
        for node in ["a", "b", "c", "d"] {
            let dir = TempDir::new().unwrap();
            let config = Fleet::config(origin, &dir, shields);
            let state = ca.state(&dir, &format!("node:{node}"));
            edges.insert(node, Edge::of_node(node, config, dir, Some(state)).await);
        }
        Fleet { edges, ca, shields }
    }

    fn config(origin: &Origin, dir: &TempDir, shields: [SocketAddr; 2]) -> Config {
        let mut config = fleet(origin.address, dir, None);
        let pop = config.pops.remove("fra").unwrap();
        for node in ["a", "b", "c", "d"] {
            let mut pop = pop.clone();
            pop.name = node.to_owned();
            config.pops.insert(node.to_owned(), pop);
        }
        for (node, listen) in ["a", "b"].into_iter().zip(shields) {
            let pop = config.pops.get_mut(node).unwrap();
            let std::net::IpAddr::V4(address) = listen.ip() else { unreachable!("of the test") };
            (pop.ipv4, pop.shield) = (vec![address], Some(listen));
        }
        config.sites.get_mut("www").unwrap().shields = vec!["a".to_owned(), "b".to_owned()];
        config
    }

    fn answered(&self) -> u64 {
        self.edges
            .values()
            .map(|edge| edge.metric("nearside_edge_shield_requests_total", &["answered"]))
            .sum()
    }
}

async fn cacheable(number: u64) -> support::Said {
    said(200, &[("cache-control", "max-age=60")], format!("content {number}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_fetched_once_for_all_edges_and_both_hops_are_told() {
    let origin = Origin::start(|number, _| cacheable(number)).await;
    let fleet = Fleet::start(&origin).await;
    for object in 0..8u64 {
        let mut bodies = Vec::new();
        for edge in fleet.edges.values() {
            let reply = edge.get(&format!("/{object}"), &[]).await;
            assert_eq!(reply.status, 200);
            bodies.push(reply.text().to_owned());
        }
        assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
        assert_eq!(origin.requests(), object + 1, "each object once");
    }
    // Of the four that asked, c and d went through a shield each time; a or b too, whichever was not chosen.
    assert_eq!(fleet.answered(), 8 * 3);
    let reply = fleet.edges["c"].get("/new", &[]).await;
    let hops: Vec<&str> =
        reply.headers.get_all("cache-status").iter().map(|hop| hop.to_str().unwrap()).collect();
    let [shield, edge] = hops[..] else { panic!("{hops:?}") };
    assert!(shield.starts_with("Nearside-a; fwd=") || shield.starts_with("Nearside-b; fwd="), "{hops:?}");
    assert!(edge.starts_with("Nearside; fwd=uri-miss; fwd-status=200"), "{hops:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_shield_is_replaced_and_without_any_the_origin_is_asked() {
    let origin = Origin::start(|number, _| cacheable(number)).await;
    let mut fleet = Fleet::start(&origin).await;
    let stopped = fleet.edges.remove("a").unwrap();
    nearside_node::Daemon::stop(&*stopped.daemon, Instant::now()).await;
    for object in 0..8u64 {
        assert_eq!(fleet.edges["c"].get(&format!("/{object}"), &[]).await.status, 200);
        assert_eq!(fleet.edges["d"].get(&format!("/{object}"), &[]).await.status, 200);
    }
    assert_eq!(origin.requests(), 8, "the second shield stands in for the first, for everyone");
    let stopped = fleet.edges.remove("b").unwrap();
    nearside_node::Daemon::stop(&*stopped.daemon, Instant::now()).await;
    assert_eq!(fleet.edges["c"].get("/alone", &[]).await.status, 200);
    assert!(fleet.edges["c"].metric("nearside_edge_shield_requests_total", &["fell_back"]) >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shield_that_missed_a_purge_is_not_believed() {
    let origin = Origin::start(|number, _| cacheable(number)).await;
    let fleet = Fleet::start(&origin).await;
    assert_eq!(fleet.edges["c"].get("/page", &[]).await.text(), "content 1");
    // Home's purge reaches c before it reaches the shields.
    let purge = json!({ "purges": [{ "sequence": 1, "scope": "all" }], "journal": { "acknowledged": 0, "newest": 1, "trimmed": 0 } });
    let purged = fleet.edges["c"].control(Method::POST, "/v1/purges", &[], purge.to_string()).await;
    assert!(purged.status.is_success(), "{}", purged.status);
    assert_eq!(fleet.edges["c"].get("/page", &[]).await.text(), "content 2", "not the shield's old one");
    assert!(fleet.edges["c"].metric("nearside_edge_shield_requests_total", &["behind"]) >= 1);
    for shield in ["a", "b"] {
        fleet.edges[shield].control(Method::POST, "/v1/purges", &[], purge.to_string()).await;
    }
    let before = fleet.answered();
    assert_eq!(fleet.edges["c"].get("/other", &[]).await.status, 200);
    assert_eq!(fleet.answered(), before + 1, "believed again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_address_and_scheme_reach_the_origin_and_content_does_not_go_round() {
    let origin = Origin::start(|_, asked| async move {
        let field =
            |name: &str| asked.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
        let text = format!(
            "{} {} {}",
            field("x-forwarded-for"),
            field("x-forwarded-proto"),
            field("nearside-purged")
        );
        said(200, &[("cache-control", "no-store")], text)
    })
    .await;
    let fleet = Fleet::start(&origin).await;
    for object in 0..4 {
        let reply = fleet.edges["c"].get(&format!("/{object}"), &[("x-forwarded-for", "6.6.6.6")]).await;
        assert_eq!(reply.text(), "127.0.0.1 http -");
    }
    let before = fleet.answered();
    let posted = fleet.edges["c"].send(Method::POST, "/form", &[], "content").await;
    assert_eq!((posted.status.as_u16(), fleet.answered()), (200, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_applied_once_and_shields_keep_what_they_make_apart() {
    let origin = Origin::start(|number, asked| async move {
        let field =
            |name: &str| asked.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
        let text = format!("{number} {} {} {}", asked.uri(), field("x-arm"), field("nearside-orders"));
        said(200, &[("cache-control", "max-age=1")], text)
    })
    .await;
    let fleet = Fleet::start(&origin).await;
    let text = "version = 1\nfleet = \"x\"\n[site.www]\nhosts = \"www.cdn.test\"\norigin = \"http://o.test\"\n\
                [[site.www.rule]]\nname = \"all\"\ncontinue = true\n\
                then = { rewrite = { path = \"/r{path}\" }, cache = { ttl = \"1h\" }, tags = \"t\" }\n\
                [[site.www.rule]]\nname = \"beta\"\nwhen = { cookie = { beta = true } }\n\
                then = { request_headers = { add = { x-arm = \"beta\" }, remove = \"cookie\" } }\n";
    let file = std::path::Path::new("/f/f.toml");
    let loaded = nearside_fleet::spec::parse(file, text, &nearside_fleet::Files::beside(file)).unwrap();
    for edge in fleet.edges.values() {
        let mut config = edge.config.clone();
        config.sites.get_mut("www").unwrap().rules = loaded.config.sites["www"].rules.clone();
        edge.reload(config).unwrap();
    }
    for object in 0..4u64 {
        let path = format!("/{object}");
        let mut bodies = Vec::new();
        for edge in fleet.edges.values() {
            let plain = edge.get(&path, &[]).await;
            let beta = edge.get(&path, &[("cookie", "beta=1")]).await;
            assert!(beta.field("cache-status").contains("ttl=3"), "an hour: {beta:?}");
            bodies.push((plain.text().to_owned(), beta.text().to_owned()));
        }
        let (first, second) = (2 * object + 1, 2 * object + 2);
        let expected = (format!("{first} /r/{object} - -"), format!("{second} /r/{object} beta -"));
        assert!(bodies.iter().all(|body| *body == expected), "{bodies:?}");
    }
    assert_eq!(origin.requests(), 8, "each variant once for all edges");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_of_the_fleet_get_past_the_handshake() {
    let origin = Origin::start(|number, _| cacheable(number)).await;
    let fleet = Fleet::start(&origin).await;
    let dir = TempDir::new().unwrap();
    let stranger = Ca::new().state(&dir, "node:c");
    let operator = fleet.ca.state(&dir, "operator");
    for state in [stranger, operator] {
        let [_, cert, key] = identity::files(&state.path(identity::DIR));
        let [ca, ..] = identity::files(&fleet.ca.state(&dir, "node:x").path(identity::DIR));
        let config = Credentials::read(&ca, &cert, &key).unwrap().client_config().unwrap();
        let stream = TcpStream::connect(fleet.shields[0]).await.unwrap();
        let name = ServerName::try_from(node_host("a")).unwrap();
        let mut answer = Vec::new();
        if let Ok(mut stream) = tokio_rustls::TlsConnector::from(config).connect(name, stream).await {
            // In TLS 1.3 a client knows of its refusal with the first read.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: www.cdn.test\r\n\r\n").await;
            let _ = stream.read_to_end(&mut answer).await;
        }
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(origin.requests(), 0);
    let speaking: Vec<Speaks> =
        fleet.edges["c"].daemon.listening().into_iter().map(|(_, speaks)| speaks).collect();
    assert!(!speaking.contains(&Speaks::Fleet), "only shields listen for others");
}
