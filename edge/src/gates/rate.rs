//! Rate limits: token buckets per client, key, path or site, and what clients are told of them.
//!
//! The decision is made here and now, from [`super::buckets`]. Where a limit is the fleet's, what was admitted is noted
//! for [`super::shared`], which tells other edges later and learns from them; no request waits for that.
//!
//! Clients are told by the `RateLimit` fields (draft-ietf-httpapi-ratelimit-headers): the policy is what a bucket holds
//! (`q`) and how long an empty one takes to fill (`w`); `r` is what is left, `t` when it is full again.

use std::{fmt::Write as _, hash::RandomState, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use nearside_fleet::config::gates::{self, Acting};
use smallvec::SmallVec;

use super::{
    Finding,
    buckets::{Buckets, Flow, Took},
    shared::Ledger,
    who::Per,
};
use crate::place::Seen;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

const SECOND_NS: u64 = 1_000_000_000;

/// The rate limits of one site.
pub struct RateGates {
    gates: Vec<RateGate>,
    policy: HeaderValue,
    by_path: bool,
    state: Arc<State>,
}

struct RateGate {
    name: String,
    per: Per,
    flow: Flow,
    path: Option<String>,
    ipv6_prefix: u8,
    /// Where the fleet shares it: what edges call its buckets.
    shared: Option<Arc<str>>,
    acting: Acting,
}

/// What goes on across reloads.
struct State {
    buckets: Buckets,
    hashes: RandomState,
    began: Instant,
    ledger: Ledger,
}

/// What a client is told of the limits its request counted in.
#[derive(Debug, Default)]
pub struct Told(SmallVec<[(u16, u32, u32); 2]>);

impl RateGates {
    /// As configured; buckets go on where they were.
    pub fn new(site: &str, asked: &[gates::RateGate], last: Option<&RateGates>) -> Option<Self> {
        if asked.is_empty() {
            return None;
        }
        let gates: Vec<RateGate> = asked.iter().map(|gate| RateGate::new(site, gate)).collect();
        let mut policy = String::new();
        for (gate, written) in gates.iter().zip(asked) {
            let comma = if policy.is_empty() { "" } else { ", " };
            let seconds = gate.flow.full_ns.div_ceil(SECOND_NS);
            let _ = write!(policy, "{comma}\"{}\";q={};w={seconds}", gate.name, written.burst);
        }
        let fresh = || {
            let (hashes, began) = (RandomState::new(), Instant::now());
            Arc::new(State { buckets: Buckets::default(), hashes, began, ledger: Ledger::default() })
        };
        Some(RateGates {
            by_path: gates.iter().any(|gate| gate.path.is_some() || matches!(gate.per, Per::Path)),
            policy: HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("")),
            gates,
            state: last.map_or_else(fresh, |last| last.state.clone()),
        })
    }

    /// Takes a token from every bucket that the request counts in, and tells `object` of each that is empty; where
    /// that is a refusal, what was taken is given back.
    ///
    /// # Errors
    /// What `object` makes of an empty bucket.
    pub fn take<E>(
        &self,
        (uri, headers): (&Uri, &HeaderMap),
        seen: &Seen<'_>,
        now: Instant,
        mut object: impl FnMut(Acting, Box<Finding>) -> Result<(), E>,
    ) -> Result<Told, E> {
        let now_ns = self.state.at(now);
        let normal = self.by_path.then(|| crate::policy::key::normal_path(uri.path()));
        let path = normal.as_deref().unwrap_or_default();
        let mut told = Told::default();
        let mut taken: SmallVec<[(usize, u64); 4]> = SmallVec::new();
        for (index, gate) in self.gates.iter().enumerate() {
            if gate.path.as_deref().is_some_and(|start| !path.starts_with(start)) {
                continue;
            }
            let who = gate.per.of(headers, path, uri.query(), seen.client(), gate.ipv6_prefix);
            let number = who.number(&self.state.hashes, index);
            match self.state.buckets.take(number, gate.flow, now_ns) {
                Took::Token { left, full_in_ns } => {
                    taken.push((index, number));
                    told.0.push((index as u16, clamp(left), clamp(full_in_ns.div_ceil(SECOND_NS))));
                    if let Some(shared) = &gate.shared {
                        self.state.ledger.note(shared, number, gate.flow, || who.name());
                    }
                }
                Took::Nothing { next_in_ns } => {
                    if let Err(refusal) = object(gate.acting, self.finding(index, next_in_ns)) {
                        self.give_back(&taken);
                        return Err(refusal);
                    }
                }
            }
        }
        Ok(told)
    }

    fn give_back(&self, taken: &[(usize, u64)]) {
        for &(index, number) in taken {
            let gate = &self.gates[index];
            self.state.buckets.give_back(number, gate.flow);
            if gate.shared.is_some() {
                self.state.ledger.take_back(number);
            }
        }
    }

    fn finding(&self, index: usize, next_in_ns: u64) -> Box<Finding> {
        let gate = &self.gates[index];
        let seconds = next_in_ns.div_ceil(SECOND_NS).max(1);
        let mut finding = Finding::new(StatusCode::TOO_MANY_REQUESTS, format!("rate {}", gate.name));
        finding.fields.insert(header::RETRY_AFTER, seconds.into());
        finding.fields.insert(POLICY, self.policy.clone());
        if let Ok(value) = HeaderValue::try_from(format!("\"{}\";r=0;t={seconds}", gate.name)) {
            finding.fields.insert(LIMIT, value);
        }
        finding
    }

    /// Puts what a client is told on a response.
    pub fn tell(&self, told: &Told, headers: &mut HeaderMap) {
        if told.0.is_empty() {
            return;
        }
        let mut text = String::with_capacity(48 * told.0.len());
        for &(index, left, full_in) in &told.0 {
            let comma = if text.is_empty() { "" } else { ", " };
            let name = &self.gates[usize::from(index)].name;
            let _ = write!(text, "{comma}\"{name}\";r={left};t={full_in}");
        }
        headers.insert(POLICY, self.policy.clone());
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(LIMIT, value);
        }
    }

    /// What is known of a bucket of the fleet: it lacks `debt_ns` of being full.
    pub fn learn(&self, number: u64, debt_ns: u64, now: Instant) {
        self.state.buckets.learn(number, self.state.at(now).saturating_add(debt_ns));
    }

    /// What was admitted from buckets that the fleet shares.
    pub fn ledger(&self) -> &Ledger {
        &self.state.ledger
    }

    /// Buckets that were forgotten before they were full.
    pub fn displaced(&self) -> u64 {
        self.state.buckets.displaced()
    }
}

fn clamp(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl RateGate {
    fn new(site: &str, gate: &gates::RateGate) -> Self {
        RateGate {
            per: match &gate.per {
                gates::Per::Client => Per::Client,
                gates::Per::Site => Per::Site,
                gates::Per::Path => Per::Path,
                // The fleet file's reader has checked the name.
                gates::Per::Header(name) => match HeaderName::from_bytes(name.as_bytes()) {
                    Ok(name) => Per::Header(name),
                    Err(_) => Per::Client,
                },
                gates::Per::Cookie(name) => Per::Cookie(name.clone()),
                gates::Per::Query(name) => Per::Query(name.clone()),
            },
            flow: Flow::new(gate.count, gate.period, gate.burst),
            path: gate.path.clone(),
            ipv6_prefix: gate.ipv6_prefix,
            shared: gate.shared.then(|| format!("{site}:{}", gate.name).into()),
            name: gate.name.clone(),
            acting: gate.acting,
        }
    }
}

impl State {
    /// Nanoseconds since the buckets were made, and an hour: nothing is before the beginning.
    fn at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX / 2).saturating_add(3600 * SECOND_NS)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::place::Places;

    fn gate(name: &str, per: gates::Per, count: u32, burst: u32) -> gates::RateGate {
        gates::RateGate {
            name: name.to_owned(),
            per,
            count,
            period: Duration::from_secs(60),
            burst,
            path: None,
            ipv6_prefix: 64,
            shared: false,
            acting: Acting::default(),
        }
    }

    fn take(gates: &RateGates, client: &str, uri: &str, now: Instant) -> Result<Told, Box<Finding>> {
        let places = Places::default();
        let seen = Seen::new(&places, client.parse().unwrap());
        gates.take((&uri.parse().unwrap(), &HeaderMap::new()), &seen, now, |_, finding| Err(finding))
    }

    #[test]
    fn clients_are_told_what_is_left_and_when_to_come_back() {
        let gates = RateGates::new("s", &[gate("each", gates::Per::Client, 60, 2)], None).unwrap();
        let now = Instant::now();
        let told = take(&gates, "192.0.2.1", "/", now).unwrap();
        let mut headers = HeaderMap::new();
        gates.tell(&told, &mut headers);
        assert_eq!(headers["ratelimit-policy"], "\"each\";q=2;w=2");
        assert_eq!(headers["ratelimit"], "\"each\";r=1;t=1");
        take(&gates, "::ffff:192.0.2.1", "/", now).unwrap();
        let refused = take(&gates, "192.0.2.1", "/", now).unwrap_err();
        assert_eq!(refused.status, 429);
        assert_eq!(refused.fields["retry-after"], "1");
        assert_eq!(refused.fields["ratelimit"], "\"each\";r=0;t=1");
        assert!(take(&gates, "192.0.2.2", "/", now).is_ok());
        assert!(take(&gates, "192.0.2.1", "/", now + Duration::from_secs(1)).is_ok());
        let again = RateGates::new("s", &[gate("each", gates::Per::Client, 60, 2)], Some(&gates)).unwrap();
        assert!(
            take(&again, "192.0.2.1", "/", now + Duration::from_secs(1)).is_err(),
            "a reload forgets nothing"
        );
    }

    #[test]
    fn a_refusal_gives_back_what_was_taken_before_it() {
        let gates = [gate("site", gates::Per::Site, 60, 3), gate("each", gates::Per::Client, 60, 1)];
        let gates = RateGates::new("s", &gates, None).unwrap();
        let now = Instant::now();
        assert!(take(&gates, "192.0.2.1", "/", now).is_ok());
        for _ in 0..10 {
            assert!(take(&gates, "192.0.2.1", "/", now).is_err());
        }
        assert!(
            take(&gates, "192.0.2.2", "/", now).is_ok(),
            "one client's refusals leave the site its tokens"
        );
        assert!(take(&gates, "192.0.2.3", "/", now).is_ok());
        assert!(take(&gates, "192.0.2.4", "/", now).is_err(), "the site's bucket is empty");
    }

    #[test]
    fn paths_are_compared_in_one_spelling() {
        let api = gates::RateGate { path: Some("/api/".to_owned()), ..gate("api", gates::Per::Client, 1, 1) };
        let gates = RateGates::new("s", &[api], None).unwrap();
        let now = Instant::now();
        assert!(take(&gates, "192.0.2.1", "/other", now).is_ok());
        assert!(take(&gates, "192.0.2.1", "/api/x", now).is_ok());
        for spelled in ["/api/y", "/%61pi/x", "/x/../api/x"] {
            assert!(take(&gates, "192.0.2.1", spelled, now).is_err(), "{spelled}");
        }
        assert!(take(&gates, "192.0.2.1", "/other", now).is_ok());
    }
}
