//! `GET /v1/stats`: what was counted, over any time.

use std::time::SystemTime;

use http::StatusCode;
use nearside_node::{ControlRequest, ControlResponse};

use super::table::Call;
use crate::{
    home::seconds,
    nodes::Kind,
    stats::{Now, Question, store::Wanted},
};

/// How far back an answer reaches unless asked: a day.
const SINCE_SECONDS: u64 = 86_400;
/// Paths in an answer unless asked, and at most.
const TOP: usize = 10;
const TOP_MAX: usize = 1_000;

/// `?since=SECONDS&until=SECONDS` (ago), `&site=`, `&pop=`, `&step=SECONDS`, `&top=COUNT`, `&now=1`: with the minute under way.
pub(super) async fn get(call: Call) -> ControlResponse {
    let question = match question(&call.request, seconds(SystemTime::now())) {
        Ok(question) => question,
        Err(message) => return ControlResponse::error(StatusCode::BAD_REQUEST, message),
    };
    let controller = &call.controller;
    let Some(config) = controller.config() else {
        return ControlResponse::error(StatusCode::SERVICE_UNAVAILABLE, "nothing was published yet");
    };
    let away = match call.request.parameter("now") {
        Some("1") => controller.stats().pull_all(controller.nodes(Kind::Edge), Now::Included).await,
        _ => Vec::new(),
    };
    match controller.stats().answer(question, &config).await {
        Ok(mut answer) => {
            answer.away = away;
            ControlResponse::ok(&answer)
        }
        Err(error) => ControlResponse::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn question(request: &ControlRequest, now: u64) -> Result<Question, String> {
    let number = |name: &str, default: u64| match request.parameter(name).map(str::parse::<u64>) {
        None => Ok(default),
        Some(Ok(number)) => Ok(number),
        Some(Err(_)) => Err(format!("{name}: expected a number")),
    };
    let (since, until) = (number("since", SINCE_SECONDS)?, number("until", 0)?);
    if since <= until {
        return Err("since: expected more than until: both are seconds ago".to_owned());
    }
    let step = number("step", 0)?;
    let top = number("top", TOP as u64)?;
    let text = |name: &str| request.parameter(name).map(str::to_owned);
    let wanted = Wanted {
        site: text("site"),
        pop: text("pop"),
        from: now.saturating_sub(since),
        // The second under way is part of it.
        until: now.saturating_sub(until) + 1,
    };
    let top = usize::try_from(top).unwrap_or(TOP_MAX).min(TOP_MAX);
    Ok(Question { wanted, step: (step > 0).then_some(step), top })
}
