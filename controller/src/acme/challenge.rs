//! Puts challenges on all DNS nodes, makes sure that each answers them, takes them off again.
//!
//! What is to be out is in the journal before any node has it, so a challenge is withdrawn whatever becomes of home. A
//! node's word that it was set is not enough: each is asked over DNS, as the authority will.
//!
//! Invariant: a name's values on the nodes are those of all orders that are under way for it, never those of one alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use nearside_fleet::config;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::dns::{self, Recursion, Type};
use crate::{
    client::{Peer, json},
    home::seconds,
    journal::{Journal, JournalError, acme::Out},
};

/// How long nodes keep a challenge if nobody withdraws it: longer than the slowest validation, within what they take.
const LIFE: Duration = Duration::from_secs(1_800);
/// A node's control listener answers from memory.
const QUICK: Duration = Duration::from_secs(5);
/// How long all nodes are given to answer a challenge. A node that restarts takes some seconds; one that takes longer is down,
/// and an authority that asked it would count a failure.
const CONFIRM_MAX: Duration = Duration::from_secs(20);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(300);

/// A DNS node, as challenges see it.
#[derive(Clone, Debug)]
pub struct DnsNode {
    /// Its name.
    pub name: String,
    /// How it is told; `None`: it has no control address.
    pub peer: Option<Peer>,
    /// Where it answers DNS.
    pub asked: Option<SocketAddr>,
}

impl DnsNode {
    /// Where a node answers: its first listener; where that is every address, at that of its control listener.
    pub fn address(node: &config::DnsNode) -> Option<SocketAddr> {
        let first = node.listen.first()?;
        match first.ip().is_unspecified() {
            true => Some(SocketAddr::new(node.control?.ip(), first.port())),
            false => Some(*first),
        }
    }
}

/// What puts challenges on the nodes.
#[derive(Clone, Debug)]
pub struct Challenges {
    journal: Arc<Journal>,
    /// Held from reading what is wanted to the nodes' having it, so that an older set never follows a newer one.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Challenges {
    /// On a journal.
    pub fn new(journal: Arc<Journal>) -> Self {
        Self { journal, turn: Arc::default() }
    }

    /// Puts an order's challenges (name and value) on all nodes and returns when every one answers them.
    ///
    /// # Errors
    /// Every node that does not, and why; the challenges may be on the others.
    pub async fn publish(
        &self,
        nodes: &[DnsNode],
        number: i64,
        values: &[(String, String)],
    ) -> Result<(), String> {
        if nodes.is_empty() {
            return Err("the fleet has no DNS node to answer the challenge".to_owned());
        }
        let until = seconds(SystemTime::now() + LIFE);
        let out = values.iter().map(|(name, value)| Out {
            number,
            name: name.clone(),
            value: value.clone(),
            until,
        });
        self.journal.keep_acme_challenges(&out.collect::<Vec<_>>()).map_err(|error| error.to_string())?;
        let names: BTreeSet<&str> = values.iter().map(|(name, _)| name.as_str()).collect();
        let deadline = Instant::now() + CONFIRM_MAX;
        let mut missing: Vec<DnsNode> = nodes.to_vec();
        loop {
            let wanted = {
                let _turn = self.turn.lock().await;
                let wanted = self.wanted(&names).map_err(|error| error.to_string())?;
                (each(&missing, &wanted, tell).await, wanted)
            };
            let (told, wanted) = wanted;
            let reached: Vec<DnsNode> =
                missing.iter().filter(|node| !told.contains_key(&node.name)).cloned().collect();
            let mut troubles = told;
            troubles.extend(each(&reached, &wanted, confirm).await);
            missing.retain(|node| troubles.contains_key(&node.name));
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let troubles = troubles.into_iter().map(|(node, reason)| format!("{node}: {reason}"));
                return Err(format!(
                    "not every DNS node answers the challenge, so the authority was not asked to look: {}",
                    troubles.collect::<Vec<_>>().join("; ")
                ));
            }
            sleep(AGAIN).await;
        }
    }

    /// Takes off all nodes what orders that are not `busy` have there. What a node that is away has is over by itself soon;
    /// until then it is tried again at each call.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn withdraw(&self, nodes: &[DnsNode], busy: impl Fn(i64) -> bool) -> Result<(), JournalError> {
        let _turn = self.turn.lock().await;
        let out = self.journal.acme_challenges()?;
        let over: Vec<&Out> = out.iter().filter(|out| !busy(out.number)).collect();
        let names: BTreeSet<&str> = over.iter().map(|out| out.name.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let mut wanted: BTreeMap<String, Vec<String>> =
            names.iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
        for out in out.iter().filter(|out| busy(out.number)) {
            if let Some(values) = wanted.get_mut(&out.name) {
                values.push(out.value.clone());
            }
        }
        let troubles = each(nodes, &wanted, tell).await;
        for (node, reason) in &troubles {
            tracing::warn!(
                node,
                reason,
                "may still answer a challenge that is over; it forgets it by itself"
            );
        }
        let now = seconds(SystemTime::now());
        for out in over.iter().filter(|out| troubles.is_empty() || out.until <= now) {
            self.journal.forget_acme_challenge(out.number, &out.name)?;
        }
        Ok(())
    }

    fn wanted(&self, names: &BTreeSet<&str>) -> Result<BTreeMap<String, Vec<String>>, JournalError> {
        let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for out in self.journal.acme_challenges()?.into_iter().filter(|out| names.contains(out.name.as_str()))
        {
            let values = wanted.entry(out.name).or_default();
            if !values.contains(&out.value) {
                values.push(out.value);
            }
        }
        Ok(wanted)
    }
}

/// Runs something for every node at once; what went wrong, by node.
async fn each<F, R>(
    nodes: &[DnsNode],
    wanted: &BTreeMap<String, Vec<String>>,
    run: F,
) -> BTreeMap<String, String>
where
    F: Fn(DnsNode, BTreeMap<String, Vec<String>>) -> R,
    R: Future<Output = Result<(), String>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for node in nodes {
        let (name, running) = (node.name.clone(), run(node.clone(), wanted.clone()));
        tasks.spawn(async move { (name, running.await) });
    }
    let mut troubles = BTreeMap::new();
    // A panic there is our bug; the confirmation that follows finds what is missing.
    while let Some(Ok((name, done))) = tasks.join_next().await {
        if let Err(reason) = done {
            troubles.insert(name, reason);
        }
    }
    troubles
}

/// Makes a node's values of these names the wanted ones.
async fn tell(node: DnsNode, wanted: BTreeMap<String, Vec<String>>) -> Result<(), String> {
    let peer = node.peer.ok_or("has no control address")?;
    let mut connection = peer.connect().await.map_err(|error| error.to_string())?;
    for (name, values) in wanted {
        let path = format!("/v1/challenges/{name}");
        let (method, body) = match values.is_empty() {
            true => (Method::DELETE, Bytes::new()),
            false => (Method::PUT, json(&serde_json::json!({ "values": values, "seconds": LIFE.as_secs() }))),
        };
        let gone = method == Method::DELETE;
        let answer = connection.ask(method, &path, body, QUICK).await.map_err(|error| error.to_string())?;
        if !(gone && answer.status == StatusCode::NOT_FOUND) {
            answer.good().map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Asks a node as an authority would.
async fn confirm(node: DnsNode, wanted: BTreeMap<String, Vec<String>>) -> Result<(), String> {
    let asked = node.asked.ok_or("answers DNS nowhere")?;
    for (name, values) in wanted {
        let texts = dns::ask(asked, &name, Type::Txt, Recursion::No).await?.texts();
        if let Some(missing) = values.iter().find(|value| !texts.contains(value)) {
            return Err(format!("{asked} answers TXT {name} without {missing}"));
        }
    }
    Ok(())
}
