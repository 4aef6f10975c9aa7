//! Nodes that speak the real control protocol over mutual TLS but keep everything in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, StatusCode};
use nearside_fleet::{
    Sha256,
    purge::{Acknowledged, Purges},
    snapshot::{PublicKey, Signed},
};
use nearside_node::{
    ControlRequest, ControlResponse,
    control::server::{Server, SharedTls, handler},
    identity::Identity,
    metrics::Metrics,
};
use serde_json::{Value, json};

#[derive(Default)]
pub struct Memory {
    /// Numbers and hashes of the fleet files of all it took, in order.
    pub took: Vec<(u64, Sha256)>,
    /// With this fleet file, every request ends with an error.
    pub errs_with: Option<Sha256>,
    pub requests: u64,
    pub errors: u64,
    pub files: BTreeSet<String>,
    pub snapshot: Option<u64>,
    pub refuse: Option<String>,
    pub purges: Vec<u64>,
    pub drains: BTreeMap<String, Value>,
}

pub type Shared = Arc<Mutex<Memory>>;

fn answer(memory: &Shared, node: &str, key: &PublicKey, request: &ControlRequest) -> ControlResponse {
    let mut memory = memory.lock().unwrap();
    match (&request.method, request.path.as_str()) {
        (&Method::GET, "/v1/status") => {
            memory.requests += 20;
            let errs = memory.took.last().is_some_and(|(_, hash)| memory.errs_with == Some(*hash));
            memory.errors += if errs { 20 } else { 0 };
            ControlResponse::ok(&json!({
                "node": node, "program": "test", "version": "0", "started": 0, "now": 0, "enrolled": true,
                "serving": { "source": "snapshot", "snapshot": memory.snapshot, "since": 0 },
                "program_report": { "traffic": {
                    "requests": memory.requests, "errors": memory.errors, "fetches": 0, "failures": 0
                } },
            }))
        }
        (&Method::PUT, path) => {
            let hash = path.rsplit('/').next().unwrap().to_owned();
            assert_eq!(Sha256::of(&request.body).to_string(), hash, "what is sent is what was promised");
            memory.files.insert(hash);
            ControlResponse::ok(&json!({}))
        }
        (&Method::POST, "/v1/snapshots") => {
            let signed: Signed = request.json().unwrap();
            let snapshot = signed.verify(key, Some("test"), memory.snapshot).unwrap();
            let needed: BTreeSet<String> =
                snapshot.files_for(node).map(|file| file.sha256.to_string()).collect();
            let missing: Vec<&String> = needed.iter().filter(|hash| !memory.files.contains(*hash)).collect();
            if !missing.is_empty() {
                return ControlResponse::json(StatusCode::CONFLICT, &json!({ "missing": missing }));
            }
            if let Some(reason) = &memory.refuse {
                return ControlResponse::json(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    &json!({ "reasons": [reason] }),
                );
            }
            memory.snapshot = Some(snapshot.number);
            let fleet = snapshot.files.iter().find(|file| file.path == snapshot.fleet_file).unwrap();
            memory.took.push((snapshot.number, fleet.sha256));
            ControlResponse::ok(&json!({}))
        }
        (&Method::POST, "/v1/purges") => {
            let purges: Purges = request.json().unwrap();
            memory.purges.extend(purges.purges.iter().filter_map(|purge| purge.sequence));
            ControlResponse::ok(&Acknowledged { through: *memory.purges.last().unwrap() })
        }
        (&Method::GET, "/v1/drains") => ControlResponse::ok(&memory.drains),
        (&Method::POST, "/v1/drains") => {
            let body: Value = request.json().unwrap();
            memory.drains.insert(body["pop"].as_str().unwrap().to_owned(), body);
            ControlResponse::ok(&json!({}))
        }
        (&Method::DELETE, path) => {
            memory.drains.remove(path.trim_start_matches("/v1/drains/"));
            ControlResponse::ok(&json!({}))
        }
        _ => ControlResponse::not_found(),
    }
}

pub struct Fake {
    pub memory: Shared,
    pub task: tokio::task::JoinHandle<()>,
}

/// A node with its identity from `identities`, listening on `address`.
pub async fn fake(identities: &Path, node: &str, address: SocketAddr) -> Fake {
    let dir = identities.join(node);
    let key: PublicKey = fs::read_to_string(dir.join("snapshot.pub")).unwrap().parse().unwrap();
    let tls = SharedTls::default();
    tls.store(Some(Identity::read(&dir).unwrap().credentials.server_config().unwrap()));
    let memory = Shared::default();
    let (shared, name) = (Arc::clone(&memory), node.to_owned());
    let handler = handler(move |request: ControlRequest| {
        let response = answer(&shared, &name, &key, &request);
        async move { response }
    });
    let server = Server::new(handler, Metrics::new("test", "0").node);
    let (_, accepting) = server.tcp(address, tls).await.unwrap();
    Fake { memory, task: tokio::spawn(accepting) }
}

/// Waits for a condition, at most twenty seconds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
