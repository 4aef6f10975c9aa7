//! `POST /v1/publish`, `POST /v1/rollback`, `GET /v1/history`, `GET /v1/history/{number}`, `GET /v1/diff`.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use nearside_node::{ControlRequest, ControlResponse};
use serde::{Deserialize, Serialize};

use super::{failed, published, table::Call};
use crate::{
    bundle::{Content, Draft, How},
    diff::Side,
    history::{self, TOLD_MAX, Told},
    journal::publications::Waves,
    rollout::{WATCH_RANGE, WAVES_MAX},
    serve::{NotPublished, PublishOutcome},
};

/// A note: a few lines, not a document.
const NOTE_BYTES_MAX: usize = 4096;
/// Canaries named in one request; more are no canaries.
const CANARIES_MAX: usize = 64;
/// Publications told unless asked for more.
const TOLD: usize = 20;

/// Body of `POST /v1/publish`; may be left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// Why, for the history.
    #[serde(default)]
    pub note: String,
    /// To all nodes at once, whatever the fleet file says.
    #[serde(default)]
    pub at_once: bool,
    /// In these waves, whatever the fleet file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waves: Option<Waves>,
}

/// Body of `POST /v1/rollback`; may be left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// To which snapshot; absent: to what was good before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Why, for the history.
    #[serde(default)]
    pub note: String,
}

/// Answer to `GET /v1/history`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    /// Newest first.
    pub snapshots: Vec<Told>,
}

/// Publishes what is on disk.
pub(super) async fn post(call: Call) -> ControlResponse {
    let asked = match body::<PublishRequest>(&call.request) {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let how = match (asked.at_once, asked.waves) {
        (true, Some(_)) => return bad("expected `at_once` or `waves`, not both".to_owned()),
        (true, None) => How::AtOnce,
        (false, None) => How::AsConfigured,
        (false, Some(waves)) => match wrong_waves(&waves) {
            Some(reason) => return bad(reason),
            None => How::Waves(waves),
        },
    };
    if let Some(reason) = wrong_note(&asked.note) {
        return bad(reason);
    }
    let draft = Draft { content: Content::Disk, who: call.request.who.clone(), note: asked.note, how };
    answer(call.controller.order(draft).await)
}

/// Goes back to what an older snapshot said.
pub(super) async fn rollback(call: Call) -> ControlResponse {
    let asked = match body::<RollbackRequest>(&call.request) {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    if let Some(reason) = wrong_note(&asked.note) {
        return bad(reason);
    }
    answer(call.controller.rollback(asked.number, &call.request.who, &asked.note).await)
}

/// The newest publications.
pub(super) async fn all(call: Call) -> ControlResponse {
    let count = match call.request.parameter("count").map(str::parse::<usize>) {
        None => TOLD,
        Some(Ok(count)) if (1..=TOLD_MAX).contains(&count) => count,
        Some(_) => return bad(format!("count: expected a number from 1 to {TOLD_MAX}")),
    };
    let journal = Arc::clone(call.controller.journal());
    let told = tokio::task::spawn_blocking(move || history::history(&journal, count)).await;
    match told {
        Ok(Ok(snapshots)) => ControlResponse::ok(&History { snapshots }),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

/// One publication and the files it changed.
pub(super) async fn one(call: Call) -> ControlResponse {
    let told = call.parameter.parse().ok().map(|number| history::one(call.controller.journal(), number));
    match told {
        Some(Ok(Some(told))) => ControlResponse::ok(&told),
        Some(Err(error)) => failed(&error),
        Some(Ok(None)) | None => {
            ControlResponse::error(StatusCode::NOT_FOUND, "there is no such snapshot (any more)")
        }
    }
}

/// What differs between two snapshots, or from the files on disk.
pub(super) async fn diff(call: Call) -> ControlResponse {
    let side = |name: &str| call.request.parameter(name).map(str::parse::<Side>).transpose();
    let (from, to) = match (side("from"), side("to")) {
        (Ok(from), Ok(to)) => (from, to.unwrap_or(Side::Disk)),
        (Err(reason), _) | (_, Err(reason)) => return bad(reason),
    };
    let controller = call.controller;
    match tokio::task::spawn_blocking(move || controller.diff(from, to)).await {
        Ok(Ok(diff)) => ControlResponse::ok(&diff),
        Ok(Err(reason)) => published(Err(reason.lines().map(str::to_owned).collect())),
        Err(error) => failed(&error),
    }
}

fn answer(outcome: Result<PublishOutcome, NotPublished>) -> ControlResponse {
    match outcome {
        Err(NotPublished::Busy(reason)) => ControlResponse::error(StatusCode::CONFLICT, reason),
        outcome => published(outcome.map_err(NotPublished::reasons)),
    }
}

fn bad(reason: String) -> ControlResponse {
    ControlResponse::error(StatusCode::BAD_REQUEST, reason)
}

/// A body that may be left out.
fn body<T: Default + serde::de::DeserializeOwned>(request: &ControlRequest) -> Result<T, ControlResponse> {
    if request.body.is_empty() { Ok(T::default()) } else { request.json() }
}

fn wrong_note(note: &str) -> Option<String> {
    (note.len() > NOTE_BYTES_MAX).then(|| format!("note: expected at most {NOTE_BYTES_MAX} bytes"))
}

fn wrong_waves(waves: &Waves) -> Option<String> {
    if waves.canary.len() > CANARIES_MAX {
        return Some(format!("canary: expected at most {CANARIES_MAX} nodes"));
    }
    let shares = &waves.percents;
    let good = shares.iter().all(|share| (1..=100).contains(share)) && shares.is_sorted_by(|a, b| a < b);
    if !good || shares.len() > WAVES_MAX {
        return Some(format!(
            "percents: expected at most {WAVES_MAX} shares from 1 to 100, each above the one before"
        ));
    }
    let [low, high] = WATCH_RANGE;
    let outside = |seconds: &u64| !(low..=high).contains(&Duration::from_secs(*seconds));
    waves
        .watch_seconds
        .filter(outside)
        .map(|_| format!("watch_seconds: expected {} to {}", low.as_secs(), high.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_are_held_to_their_bounds() {
        let waves = |percents: &[u8], watch_seconds| Waves {
            canary: vec!["fra".into()],
            percents: percents.to_vec(),
            watch_seconds,
        };
        assert_eq!(wrong_waves(&waves(&[25, 100], Some(30))), None);
        assert_eq!(wrong_waves(&waves(&[], None)), None);
        assert!(wrong_waves(&waves(&[50, 50], None)).is_some());
        assert!(wrong_waves(&waves(&[0], None)).is_some());
        assert!(wrong_waves(&waves(&[101], None)).is_some());
        assert!(wrong_waves(&waves(&[], Some(0))).is_some());
        assert!(wrong_note(&"x".repeat(5000)).is_some());
    }
}
