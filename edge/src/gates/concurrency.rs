//! How much one client may have under way: requests in flight, from their head to the last byte of their answer.
//!
//! A place is held by the response's body, so that a client gives it back by reading or leaving. The table holds
//! clients with requests in flight only: connections and their streams bound it.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::Arc,
};

use http::{StatusCode, header};
use nearside_fleet::config::gates::{self, Acting};
use parking_lot::Mutex;

use super::{Finding, who};

/// Locks of the table.
const SHARDS: usize = 64;

/// See the module.
pub struct ConcurrencyGate {
    requests_max: u32,
    ipv6_prefix: u8,
    flights: Arc<Flights>,
    /// How it acts.
    pub acting: Acting,
}

struct Flights {
    hashes: RandomState,
    shards: Box<[Mutex<HashMap<IpAddr, u32>>]>,
}

/// A place among a client's requests, given back when dropped.
pub struct Flight {
    flights: Arc<Flights>,
    client: IpAddr,
}

impl ConcurrencyGate {
    /// As configured; what is under way counts on.
    pub fn new(gate: &gates::ConcurrencyGate, last: Option<&ConcurrencyGate>) -> Self {
        let fresh = || {
            let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
            Arc::new(Flights { hashes: RandomState::new(), shards })
        };
        // Other prefixes are other clients: what is under way gives its places back to the old table.
        let last = last.filter(|last| last.ipv6_prefix == gate.ipv6_prefix);
        ConcurrencyGate {
            requests_max: gate.requests_max,
            ipv6_prefix: gate.ipv6_prefix,
            flights: last.map_or_else(fresh, |last| last.flights.clone()),
            acting: gate.acting,
        }
    }

    /// Takes a place. With the finding comes the place that was taken all the same: who only detects goes on with it.
    pub fn take(&self, client: IpAddr) -> (Flight, Result<(), Box<Finding>>) {
        let client = who::network(client, self.ipv6_prefix);
        let count = {
            let mut shard = self.flights.shard(client).lock();
            let count = shard.entry(client).or_default();
            *count += 1;
            *count
        };
        let flight = Flight { flights: self.flights.clone(), client };
        if count <= self.requests_max {
            return (flight, Ok(()));
        }
        let mut finding = Finding::new(StatusCode::TOO_MANY_REQUESTS, format!("{count} requests at once"));
        finding.fields.insert(header::RETRY_AFTER, 1.into());
        (flight, Err(finding))
    }
}

impl Flights {
    fn shard(&self, client: IpAddr) -> &Mutex<HashMap<IpAddr, u32>> {
        &self.shards[self.hashes.hash_one(client) as usize % SHARDS]
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut shard = self.flights.shard(self.client).lock();
        if let Some(count) = shard.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_a_clients_own_and_come_back() {
        let written = gates::ConcurrencyGate { requests_max: 2, ipv6_prefix: 64, acting: Acting::default() };
        let gate = ConcurrencyGate::new(&written, None);
        let [one, two]: [IpAddr; 2] = ["2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()];
        let (first, good) = gate.take(one);
        assert!(good.is_ok());
        let (_second, good) = gate.take(two);
        assert!(good.is_ok());
        assert!(gate.take(one).1.is_err(), "one /64 is one client");
        assert!(gate.take("192.0.2.1".parse().unwrap()).1.is_ok());
        drop(first);
        let reloaded = ConcurrencyGate::new(&written, Some(&gate));
        let (_third, good) = reloaded.take(one);
        assert!(good.is_ok());
        assert!(reloaded.take(one).1.is_err());
        drop((_second, _third));
        assert!(gate.flights.shards.iter().all(|shard| shard.lock().is_empty()));
    }
}
