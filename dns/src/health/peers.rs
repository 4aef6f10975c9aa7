//! Asks the fleet's other DNS nodes what they see, for checks with `views`.
//!
//! `GET /v1/health-view` on their control listeners, with this node's identity and only over mutual TLS: an
//! opinion counts, so it must be known whose it is. A node that does not answer just does not count
//! ([`super::quorum`]). Each node tells its own opinion, never the merged one: an echo is no second view.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nearside_fleet::config::{Config, Id};
use nearside_node::{identity::Identity, state::StateDir, tls};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet, time::Instant};
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

use super::{
    Health, jittered,
    plan::Key,
    quorum::{HEARD_MAX, Opinion, ROUND},
    state::Moment,
};
use crate::clock;

/// A whole conversation; less than a round, so that rounds don't pile up.
const ASK_TIMEOUT: Duration = Duration::from_millis(1500);

/// Nodes asked at once; more than any fleet has DNS nodes, and a bound on sockets if not.
const ASKED_AT_ONCE: usize = 32;

/// Bytes of an answer: ten thousand addresses at 100 bytes each, and room.
const VIEW_BYTES_MAX: usize = 4 << 20;

/// The identity is read again this often: it is renewed while we run.
const IDENTITY_AGE_MAX: Duration = Duration::from_secs(60);

/// What `GET /v1/health-view` answers: this node's own opinions.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OwnView {
    /// Every address that was probed at least once.
    pub checks: Vec<OwnOpinion>,
}

/// One of them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnOpinion {
    /// The check.
    pub check: Id,
    /// The address.
    pub address: IpAddr,
    /// Whether it passes.
    pub up: bool,
    /// For so long it can't change.
    pub unchanged_ms: u64,
}

/// The other DNS nodes.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<Id, Peer>);

#[derive(Debug)]
struct Peer {
    control: SocketAddr,
    /// When it was last asked with success, and what it said of addresses that we probe too.
    heard: Option<(Moment, HashMap<Key, PeerOpinion>)>,
    /// Whether its silence was said aloud.
    silent: bool,
}

#[derive(Clone, Copy, Debug)]
struct PeerOpinion {
    up: bool,
    until: Moment,
}

/// One of the other nodes, for reports.
#[derive(Clone, Debug, Serialize)]
pub struct PeerReport {
    /// Its name.
    pub node: Id,
    /// Where it is asked.
    pub control: SocketAddr,
    /// When it last answered, milliseconds since the Unix epoch.
    pub heard: Option<Moment>,
    /// Whether its opinions count now.
    pub counts: bool,
}

impl Peers {
    /// Takes the nodes of a configuration over; what was heard of those that stay is kept.
    pub(super) fn replace(&mut self, mut wanted: BTreeMap<Id, SocketAddr>) {
        self.0.retain(|name, peer| wanted.remove(name).is_some_and(|control| control == peer.control));
        let new = |(name, control)| (name, Peer { control, heard: None, silent: false });
        self.0.extend(wanted.into_iter().map(new));
    }

    /// What is said of a target by those heard of late, by name, each as of `until`; how long the first of
    /// them is still heard; how many say nothing.
    pub(super) fn of(&self, key: &Key, now: Moment, until: Moment) -> (Vec<(&Id, Opinion)>, Duration, usize) {
        let (mut said, mut heard_for) = (Vec::new(), HEARD_MAX);
        for (name, peer) in &self.0 {
            let Some((at, opinions)) = peer.heard.as_ref().filter(|(at, _)| now.since(*at) <= HEARD_MAX)
            else {
                continue;
            };
            let Some(opinion) = opinions.get(key) else { continue };
            heard_for = heard_for.min(at.plus(HEARD_MAX).since(until));
            said.push((name, Opinion { up: opinion.up, unchanged_for: opinion.until.since(until) }));
        }
        let missing = self.0.len() - said.len();
        (said, heard_for, missing)
    }

    pub(super) fn report(&self, now: Moment) -> Vec<PeerReport> {
        let report = |(name, peer): (&Id, &Peer)| {
            let heard = peer.heard.as_ref().map(|(at, _)| *at);
            let counts = heard.is_some_and(|at| now.since(at) <= HEARD_MAX);
            PeerReport { node: name.clone(), control: peer.control, heard, counts }
        };
        self.0.iter().map(report).collect()
    }
}

/// The other DNS nodes of a configuration that can be asked; none where no check wants them.
pub fn of_config(config: &Config, own: &str) -> BTreeMap<Id, SocketAddr> {
    if config.checks.values().all(|check| check.views < 2) {
        return BTreeMap::new();
    }
    let others = config.dns.values().filter(|node| node.name != own);
    others.filter_map(|node| Some((node.name.clone(), node.control?))).collect()
}

/// Credentials, and when they were read.
type Known = Option<(Instant, Arc<ClientConfig>)>;

impl Health {
    /// Asks every peer each [`ROUND`]. Runs until cancelled.
    pub async fn keep_asking(self: Arc<Self>) {
        let (mut known, mut warned) = (None, false);
        let at_once = Arc::new(Semaphore::new(ASKED_AT_ONCE));
        loop {
            let begun = Instant::now();
            let peers: Vec<(Id, SocketAddr)> =
                self.lock().peers.0.iter().map(|(name, peer)| (name.clone(), peer.control)).collect();
            if !peers.is_empty() {
                match credentials(self.state.as_ref(), &mut known) {
                    Some(tls) => self.ask_all(peers, &tls, &at_once).await,
                    None if !warned => {
                        warn!(
                            "checks have `views`, and this node has no identity to ask the other DNS nodes \
                             with: it goes by what it sees itself"
                        );
                        warned = true;
                    }
                    None => {}
                }
            }
            // Never sooner than a round: a silent node can't be heard again before.
            tokio::time::sleep_until(begun + jittered(ROUND).max(ROUND)).await;
        }
    }

    async fn ask_all(
        self: &Arc<Self>,
        peers: Vec<(Id, SocketAddr)>,
        tls: &Arc<ClientConfig>,
        at_once: &Arc<Semaphore>,
    ) {
        let mut asked = JoinSet::new();
        for (name, control) in peers {
            let (tls, at_once) = (Arc::clone(tls), Arc::clone(at_once));
            asked.spawn(async move {
                let _permit = at_once.acquire().await;
                let started = clock::now();
                let answer = tokio::time::timeout(ASK_TIMEOUT, ask(&name, control, tls)).await;
                let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
                (name, started, answer)
            });
        }
        while let Some(ended) = asked.join_next().await {
            let Ok((name, started, answer)) = ended else { continue };
            self.heard(&name, started, answer);
        }
    }

    /// Takes an answer in; `asked` is before it was made, so its promises are counted from there.
    fn heard(&self, name: &Id, asked: Moment, answer: Result<OwnView, String>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(peer) = inner.peers.0.get_mut(name) else { return };
        match answer {
            Ok(view) => {
                // Only what we probe ourselves is kept: a peer can't fill our memory.
                let known = |opinion: OwnOpinion| {
                    let key = Key { check: opinion.check, address: opinion.address };
                    let until = asked.plus(Duration::from_millis(opinion.unchanged_ms));
                    inner.entries.contains_key(&key).then_some((key, PeerOpinion { up: opinion.up, until }))
                };
                peer.heard = Some((asked, view.checks.into_iter().filter_map(known).collect()));
                if std::mem::take(&mut peer.silent) {
                    info!(node = name, "its view of health is heard again");
                }
            }
            Err(error) if !peer.silent => {
                peer.silent = true;
                warn!(node = name, error, "its view of health is not heard, and won't count");
            }
            Err(_) => {}
        }
    }

    /// What this node sees itself, for its peers.
    pub fn own_view(&self) -> OwnView {
        let now = clock::now();
        let inner = self.lock();
        let probed = inner.entries.iter().filter(|(_, entry)| entry.state.status != super::Status::Unknown);
        let own = |(key, entry): (&Key, &super::Entry)| OwnOpinion {
            check: key.check.clone(),
            address: key.address,
            up: entry.state.status.is_up(),
            unchanged_ms: u64::try_from(
                entry.state.earliest_change(&entry.thresholds).since(now).as_millis(),
            )
            .unwrap_or(u64::MAX),
        };
        OwnView { checks: probed.map(own).collect() }
    }

    /// The other nodes as they are heard.
    pub fn peers(&self) -> Vec<PeerReport> {
        self.lock().peers.report(clock::now())
    }
}

/// The identity for TLS, read again when it is old.
fn credentials(state: Option<&StateDir>, known: &mut Known) -> Option<Arc<ClientConfig>> {
    if let Some((read, tls)) = known
        && read.elapsed() < IDENTITY_AGE_MAX
    {
        return Some(Arc::clone(tls));
    }
    let identity = match Identity::of_state(state?) {
        Ok(identity) => identity?,
        Err(error) => {
            warn!(%error, "the other DNS nodes can't be asked with this identity");
            return known.as_ref().map(|(_, tls)| Arc::clone(tls));
        }
    };
    let tls = identity.credentials.client_config().ok()?;
    *known = Some((Instant::now(), Arc::clone(&tls)));
    Some(tls)
}

/// One conversation.
async fn ask(name: &str, control: SocketAddr, tls: Arc<ClientConfig>) -> Result<OwnView, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    // The certificate must be this node's: an address alone proves nothing.
    let server = tls::server_name(name).ok_or("its name is no host name")?;
    let stream = TcpStream::connect(control).await.map_err(|error| text(&error))?;
    let stream = TlsConnector::from(tls).connect(server, stream).await.map_err(|error| text(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let talk = async {
        let request = http::Request::get("/v1/health-view").header(http::header::HOST, tls::node_host(name));
        let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|error| text(&error))?;
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        if !response.status().is_success() {
            return Err(format!("answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), VIEW_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| text(&error))
    };
    super::probe::drive(connection, talk).await
}

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv4Addr, path::Path};

    use nearside_fleet::config::{Check, Probe, ProbeFamily};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::health::{
        exec::ExecPolicy,
        plan::{Plan, Target},
        probe::Prober,
    };

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn says(up: bool, check: &str) -> Result<OwnView, String> {
        let opinion = OwnOpinion { check: check.into(), address: HOME, up, unchanged_ms: 60_000 };
        Ok(OwnView { checks: vec![opinion] })
    }

    #[tokio::test]
    async fn a_peer_that_sees_it_up_keeps_an_address_in() {
        let closed = TcpListener::bind((HOME, 0)).await.unwrap().local_addr().unwrap().port();
        let check = Check {
            name: "web".into(),
            probe: Probe::Tcp,
            port: closed,
            family: ProbeFamily::Each,
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall: 1,
            views: 2,
        };
        let prober = Prober::new(&check, &ExecPolicy::Refused).unwrap();
        let key = Key { check: "web".into(), address: HOME };
        let target = Target { check, prober, pop: "fra".into() };
        let ns2: Id = "ns2".into();
        let health = Health::new(None);
        health.apply(Plan {
            targets: BTreeMap::from([(key, target)]),
            peers: BTreeMap::from([(ns2.clone(), SocketAddr::new(HOME, 1))]),
            ..Plan::default()
        });
        health.first_round().await;
        let seen = || health.view().checks[&("web".to_owned(), HOME)].clone();
        assert!(!seen().up);
        assert!(seen().reason.contains("1 of 2 views heard: this node decides"), "{}", seen().reason);
        assert!(seen().unchanged_for <= ROUND, "the other may be heard any moment");

        health.heard(&ns2, clock::now(), says(true, "web"));
        assert!(seen().up, "{}", seen().reason);
        assert!(seen().reason.contains("ns2 sees it up, down in 1 of 2 views"), "{}", seen().reason);
        assert!(!health.own_view().checks[0].up, "an echo is no second view");
        assert!(health.peers()[0].counts);

        health.heard(&ns2, clock::now(), says(false, "web"));
        assert!(!seen().up);
        health.heard(&ns2, clock::now(), says(true, "another"));
        assert!(!seen().up, "no opinion of this check: alone again");
        health.heard(&ns2, Moment(clock::now().0 - 11_000), says(true, "web"));
        assert!(!seen().up, "said too long ago");
        health.heard(&"stranger".to_owned(), clock::now(), says(true, "web"));
        assert!(!seen().up);
    }

    /// An identity of `node` in a directory, as home makes them.
    fn enrol(ca: &CertifiedIssuer<'static, KeyPair>, node: &str, dir: &Path) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![tls::node_host(node)]).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("node:{node}"));
        let certificate = params.signed_by(&key, ca).unwrap();
        fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
        fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
        fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
        Identity::read(dir).unwrap()
    }

    #[tokio::test]
    async fn a_view_comes_over_mutual_tls_from_the_node_it_is_asked_of_and_no_other() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let ns1 = enrol(&ca, "ns1", directories[0].path());
        let ns2 = enrol(&ca, "ns2", directories[1].path());
        let listener = TcpListener::bind((HOME, 0)).await.unwrap();
        let control = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(ns2.credentials.server_config().unwrap());
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                assert!(stream.get_ref().1.peer_certificates().is_some());
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /v1/health-view HTTP/1.1\r\n"));
                let body = serde_json::to_string(&says(true, "web").unwrap()).unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let client = ns1.credentials.client_config().unwrap();
        assert_eq!(ask("ns2", control, Arc::clone(&client)).await, says(true, "web"));
        let error = ask("ns3", control, client).await.unwrap_err();
        assert!(error.contains("certificate"), "{error}");
        server.abort();
    }
}
