//! Which PoP is best for a client: what the fleet's DNS nodes answer for its network, as a question one can ask.
//!
//! Steering knows places and health, and it lives in the DNS nodes; so it is asked there, with an ordinary query that
//! carries the client's network (RFC 7871), and nothing is decided twice. Answers are kept by network for as long as they
//! say. For programs that choose a server for somebody whose resolver they can't rely on.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{
        Name, RData, RecordType,
        rdata::opt::{ClientSubnet, EdnsOption},
    },
};
use nearside_fleet::config::Config;
use parking_lot::Mutex;
use tokio::{net::UdpSocket, sync::Semaphore, time::timeout};

/// Networks whose answers are kept: about 100 bytes each.
const KEPT_MAX: usize = 16_384;
/// Queries under way.
const ASKED_AT_ONCE: usize = 64;
/// DNS nodes asked for one answer.
const TRIES_MAX: usize = 3;
/// For one DNS node: twice round the world.
const ANSWER: Duration = Duration::from_millis(700);
/// Longest an answer is kept, whatever it says.
const TTL_MAX: Duration = Duration::from_secs(300);
/// Largest answer: what is asked for with EDNS.
const ANSWER_BYTES_MAX: usize = 1_232;
/// How much of a client's address is shown: as public resolvers do (RFC 7871 section 11.1).
const V4_BITS: u8 = 24;
/// The same of the other family.
const V6_BITS: u8 = 56;

/// The best PoP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    /// Its name.
    pub pop: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// For how long this holds.
    pub ttl: Duration,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Not a name.
    #[error("{0:?} is not a domain name")]
    Name(String),
    /// No DNS node says a PoP.
    #[error("{0}")]
    NoPop(String),
    /// No DNS node answers.
    #[error("no DNS node answers: {0}")]
    Unreachable(String),
}

/// Asks, and remembers.
#[derive(Debug)]
pub struct Router {
    kept: Mutex<HashMap<(String, IpAddr), (String, Instant)>>,
    asking: Semaphore,
}

impl Default for Router {
    fn default() -> Self {
        Self { kept: Mutex::default(), asking: Semaphore::new(ASKED_AT_ONCE) }
    }
}

impl Router {
    /// The best PoP for a client of a name.
    ///
    /// # Errors
    /// [`RouteError`].
    pub async fn best(&self, config: &Config, name: &str, client: IpAddr) -> Result<Best, RouteError> {
        let client = client.to_canonical();
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let asked = Name::from_ascii(format!("{name}.")).map_err(|_| RouteError::Name(name.clone()))?;
        let key = (name, network(client));
        if let Some((pop, ttl)) = self.known(&key, Instant::now()) {
            return found(config, &pop, ttl);
        }
        // Never closed.
        let _permit = self.asking.acquire().await;
        let mut last = RouteError::Unreachable("the fleet has none".to_owned());
        for server in servers(config).into_iter().take(TRIES_MAX) {
            match ask(server, &asked, client).await {
                Ok((addresses, ttl)) => {
                    let Some(pop) = pop_of(config, &addresses) else {
                        last = RouteError::NoPop(format!("{} is not answered with a PoP", key.0));
                        continue;
                    };
                    let ttl = ttl.min(TTL_MAX);
                    self.keep(key, &pop, ttl, Instant::now());
                    return found(config, &pop, ttl);
                }
                Err(error) => last = RouteError::Unreachable(format!("{server}: {error}")),
            }
        }
        Err(last)
    }

    fn known(&self, key: &(String, IpAddr), now: Instant) -> Option<(String, Duration)> {
        let kept = self.kept.lock();
        let (pop, until) = kept.get(key)?;
        let left = until.checked_duration_since(now)?;
        Some((pop.clone(), left))
    }

    fn keep(&self, key: (String, IpAddr), pop: &str, ttl: Duration, now: Instant) {
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, (_, until)| *until > now);
        }
        // Full of answers that still hold: the next ask is answered all the same, only not from here.
        if kept.len() < KEPT_MAX {
            kept.insert(key, (pop.to_owned(), now + ttl));
        }
    }
}

fn found(config: &Config, pop: &str, ttl: Duration) -> Result<Best, RouteError> {
    let known = config.pops.get(pop);
    let known = known.ok_or_else(|| RouteError::NoPop(format!("{pop} has left the fleet")))?;
    let v4 = known.ipv4.iter().copied().map(IpAddr::from);
    let v6 = known.ipv6.iter().copied().map(IpAddr::from);
    Ok(Best { pop: pop.to_owned(), addresses: v4.chain(v6).collect(), ttl })
}

fn pop_of(config: &Config, addresses: &[IpAddr]) -> Option<String> {
    let is_of = |pop: &nearside_fleet::config::Pop, address: &IpAddr| match address {
        IpAddr::V4(v4) => pop.ipv4.contains(v4),
        IpAddr::V6(v6) => pop.ipv6.contains(v6),
    };
    let first = addresses.first()?;
    config.pops.values().find(|pop| is_of(pop, first)).map(|pop| pop.name.clone())
}

/// The client's network, host bits zero.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) & (u32::MAX << (32 - V4_BITS))).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & (u128::MAX << (128 - V6_BITS))).into(),
    }
}

/// Where DNS nodes answer, a random one first.
fn servers(config: &Config) -> Vec<SocketAddr> {
    let reached = |node: &nearside_fleet::config::DnsNode| {
        let listen = node.listen.first()?;
        match (listen.ip().is_unspecified(), node.control) {
            (false, _) => Some(*listen),
            // It listens everywhere; home knows one of its addresses.
            (true, Some(control)) => Some(SocketAddr::new(control.ip(), listen.port())),
            (true, None) => None,
        }
    };
    let mut servers: Vec<SocketAddr> = config.dns.values().filter_map(reached).collect();
    fastrand::shuffle(&mut servers);
    servers
}

async fn ask(server: SocketAddr, name: &Name, client: IpAddr) -> Result<(Vec<IpAddr>, Duration), String> {
    let (first, second) = match client {
        IpAddr::V4(_) => (RecordType::A, RecordType::AAAA),
        IpAddr::V6(_) => (RecordType::AAAA, RecordType::A),
    };
    let answered = ask_for(server, name, first, client).await?;
    // A PoP may have no address of the client's family.
    if answered.0.is_empty() { ask_for(server, name, second, client).await } else { Ok(answered) }
}

async fn ask_for(
    server: SocketAddr,
    name: &Name,
    rtype: RecordType,
    client: IpAddr,
) -> Result<(Vec<IpAddr>, Duration), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let id = fastrand::u16(..);
    let query = query(id, name, rtype, client).map_err(|error| words(&error))?;
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let exchange = async {
        let socket = UdpSocket::bind(any).await?;
        // Only this server's datagrams are taken.
        socket.connect(server).await?;
        socket.send(&query).await?;
        let mut buffer = [0; ANSWER_BYTES_MAX];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let message = Message::from_vec(&buffer[..length]).ok();
            if let Some(message) = message.filter(|message| message.metadata.id == id) {
                return Ok::<_, std::io::Error>(message);
            }
        }
    };
    let answered = timeout(ANSWER, exchange).await.map_err(|_| format!("no answer within {ANSWER:?}"))?;
    let message = answered.map_err(|error| words(&error))?;
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(read(&message)),
        code => Err(format!("answered {code}")),
    }
}

fn query(
    id: u16,
    name: &Name,
    rtype: RecordType,
    client: IpAddr,
) -> Result<Vec<u8>, hickory_proto::ProtoError> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.add_query(Query::query(name.clone(), rtype));
    let bits = if client.is_ipv4() { V4_BITS } else { V6_BITS };
    let mut edns = Edns::new();
    edns.set_max_payload(ANSWER_BYTES_MAX as u16);
    edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(network(client), bits, 0)));
    message.edns = Some(edns);
    message.to_vec()
}

/// Addresses, and how long they hold.
fn read(message: &Message) -> (Vec<IpAddr>, Duration) {
    let mut addresses = Vec::new();
    let ttl = message.answers.iter().map(|record| record.ttl).min().unwrap_or(0);
    for record in &message.answers {
        match &record.data {
            RData::A(a) => addresses.push(a.0.into()),
            RData::AAAA(aaaa) => addresses.push(aaaa.0.into()),
            _ => {}
        }
    }
    (addresses, Duration::from_secs(ttl.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_its_network() {
        assert_eq!(network("198.51.100.77".parse().unwrap()), "198.51.100.0".parse::<IpAddr>().unwrap());
        let v6: IpAddr = "2001:db8:1:2ff::1".parse().unwrap();
        assert_eq!(network(v6), "2001:db8:1:200::".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn answers_are_kept_for_their_time_and_in_bounds() {
        let (router, now) = (Router::default(), Instant::now());
        let key = |at: u32| ("a.test".to_owned(), IpAddr::from(Ipv4Addr::from(at << 8)));
        router.keep(key(1), "fra", Duration::from_secs(10), now);
        let later = now + Duration::from_secs(4);
        assert_eq!(router.known(&key(1), later), Some(("fra".to_owned(), Duration::from_secs(6))));
        assert_eq!(router.known(&key(1), now + Duration::from_secs(11)), None);
        for at in 0..KEPT_MAX as u32 + 100 {
            router.keep(key(at), "nyc", Duration::from_secs(10), now);
        }
        assert_eq!(router.kept.lock().len(), KEPT_MAX);
        // What is over makes room.
        router.keep(key(1 << 20), "sin", Duration::from_secs(10), now + Duration::from_secs(20));
        assert_eq!(router.kept.lock().len(), 1);
    }
}
