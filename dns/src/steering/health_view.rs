//! What health says, as steering wants to hear it.
//!
//! Written by the health side, read when a [`super::Table`] is built. It holds per check and
//! address what the check thinks, and per PoP whether an operator drained it; how these combine
//! into the state of an address for a service is decided here, once. No clock: every duration
//! counts from the moment the view was made.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use nearside_fleet::config::{Id, Service};

/// Everything known about the health of the fleet at one moment.
#[derive(Clone, Debug, Default)]
pub struct HealthView {
    /// What each check says of each address it judges. An address that a service's check says
    /// nothing of counts as up, for as short a time as the service allows.
    pub checks: HashMap<(Id, IpAddr), CheckHealth>,
    /// PoPs an operator took out.
    pub drains: HashMap<Id, Drain>,
    /// Busy PoPs, by service and PoP: offered to a part of their clients. Others are offered to all.
    pub offers: HashMap<(Id, Id), Offer>,
}

/// How much of a busy PoP is offered.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Part of the client networks, above 0 and below 1.
    pub share: f64,
    /// What the PoP last said of its load; `None`: nothing of late.
    pub load: Option<f64>,
    /// The service's threshold.
    pub above: f64,
}

/// One check's opinion of one address.
#[derive(Clone, Debug)]
pub struct CheckHealth {
    /// Whether the address passes.
    pub up: bool,
    /// No sooner than this can [`CheckHealth::up`] change, if every probe from now on goes the
    /// other way.
    pub unchanged_for: Duration,
    /// In words, for `explain` and logs: `3 of 3 probes failed: connection refused`.
    pub reason: Arc<str>,
}

/// An operator's drain of one PoP.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Time left; `None`: until it is lifted by hand.
    pub remaining: Option<Duration>,
    /// Who and why, in words.
    pub reason: Arc<str>,
}

/// Whether an address may be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressState {
    /// Every check passes, or there is none.
    Up,
    /// Some check fails.
    Down,
    /// An operator said so; checks don't matter.
    Drained,
}

/// The state of one address for one service.
#[derive(Clone, Debug, PartialEq)]
pub struct AddressHealth {
    /// Whether it may be handed out.
    pub state: AddressState,
    /// No sooner than this can [`AddressHealth::state`] change by itself.
    pub unchanged_for: Duration,
    /// In words: the check that decided.
    pub reason: Arc<str>,
}

impl HealthView {
    /// Combines drains and the service's checks into the state of one address.
    ///
    /// Up while all checks are, so it can go down as soon as the quickest of them; down, it comes
    /// back no sooner than the slowest of the failing ones.
    pub fn address(&self, service: &Service, pop: &Id, address: IpAddr) -> AddressHealth {
        if let Some(drain) = self.drains.get(pop) {
            return AddressHealth {
                state: AddressState::Drained,
                unchanged_for: drain.remaining.unwrap_or(Duration::MAX),
                reason: drain.reason.clone(),
            };
        }
        let mut worst: Option<AddressHealth> = None;
        let mut up_for = Duration::MAX;
        let mut up_reason: Option<Arc<str>> = None;
        for check in &service.checks {
            let Some(health) = self.checks.get(&(check.clone(), address)) else {
                up_for = Duration::ZERO;
                continue;
            };
            if health.up {
                up_for = up_for.min(health.unchanged_for);
                up_reason.get_or_insert_with(|| health.reason.clone());
            } else if worst.as_ref().is_none_or(|w| w.unchanged_for < health.unchanged_for) {
                worst = Some(AddressHealth {
                    state: AddressState::Down,
                    unchanged_for: health.unchanged_for,
                    reason: format!("{check}: {}", health.reason).into(),
                });
            }
        }
        worst.unwrap_or_else(|| AddressHealth {
            state: AddressState::Up,
            unchanged_for: up_for,
            reason: up_reason.unwrap_or_else(|| {
                if service.checks.is_empty() { "not checked" } else { "not yet probed" }.into()
            }),
        })
    }
}
