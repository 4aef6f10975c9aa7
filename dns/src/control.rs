//! The control requests only a DNS node knows: drains, explain, what peers ask.
//!
//! | request | does |
//! |---|---|
//! | `GET /v1/drains` | lists the drains in force |
//! | `POST /v1/drains` `{"pop": "fra", "seconds": 3600, "reason": "new disk"}` | takes a PoP out of the answers; without `seconds` until lifted |
//! | `DELETE /v1/drains/{pop}` | lifts a drain; 404 if there is none |
//! | `GET /v1/challenges` | lists the ACME challenges in force |
//! | `PUT /v1/challenges/{name}` `{"values": ["…"], "seconds": 600}` | answers TXT at a name with these; home alone may |
//! | `DELETE /v1/challenges/{name}` | withdraws them; 404 if there are none |
//! | `GET /v1/health-view` | tells what this node sees of each address, for the other DNS nodes |
//! | `GET /v1/explain?name=&type=&client=` | explains an answer under the health of now |
//!
//! Who may ask is the node's business; here only what is asked is judged.

use std::time::Duration;

use http::{Method, StatusCode};
use nearside_node::{Access, ControlRequest, ControlResponse, Role, Route, routes::route};
use nearside_zones::{End, Name, NameBuf, Rtype};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::{
    explain::{self, Question},
    server::Server,
    steering,
};

/// Longest drain that can be asked for, a year: beyond it, "until lifted" is meant.
const DRAIN_SECONDS_MAX: u64 = 366 * 24 * 3600;

/// Explanations made at once: each holds the databases in memory while it lasts.
const EXPLAINED_AT_ONCE: usize = 1;

/// What comes before the name of a challenge.
const CHALLENGES: &str = "/v1/challenges/";

static EXPLAINING: Semaphore = Semaphore::const_new(EXPLAINED_AT_ONCE);

/// The endpoints a DNS node has beside every node's.
pub const ROUTES: &[Route<()>] = &[
    route(Method::GET, "/v1/drains", Access::Read, "The drains in force"),
    route(Method::POST, "/v1/drains", Access::Change, "Takes a PoP out of the answers"),
    route(Method::DELETE, "/v1/drains/{pop}", Access::Change, "Lifts a drain"),
    route(Method::GET, "/v1/challenges", Access::Read, "The ACME challenges in force"),
    route(Method::PUT, "/v1/challenges/{name}", Access::Change, "Answers TXT at a name, for home alone"),
    route(Method::DELETE, "/v1/challenges/{name}", Access::Change, "Withdraws a challenge"),
    route(Method::GET, "/v1/health-view", Access::Read, "What this node sees itself, for its peers"),
    route(Method::GET, "/v1/explain", Access::Read, "Why a client is answered so"),
];

/// Body of `POST /v1/drains`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainRequest {
    pop: String,
    seconds: Option<u64>,
    #[serde(default)]
    reason: String,
}

/// Answers one request.
pub async fn answer(server: &Server, request: &ControlRequest) -> ControlResponse {
    match (&request.method, request.path.as_str()) {
        (&Method::GET, "/v1/drains") => ControlResponse::ok(&server.health().drains()),
        (&Method::POST, "/v1/drains") => drain(server, request),
        (&Method::DELETE, path) if path.starts_with("/v1/drains/") => {
            undrain(server, path.trim_start_matches("/v1/drains/"))
        }
        (&Method::GET, "/v1/challenges") => ControlResponse::ok(&server.challenges().report()),
        (&Method::PUT | &Method::DELETE, path) if path.starts_with(CHALLENGES) => {
            challenge(server, request, &path[CHALLENGES.len()..])
        }
        (&Method::GET, "/v1/health-view") => ControlResponse::ok(&server.health().own_view()),
        (&Method::GET, "/v1/explain") => explain(server, request).await,
        _ => ControlResponse::not_found(),
    }
}

/// The answer to `GET /v1/explain`.
#[derive(Serialize)]
struct Explained {
    #[serde(flatten)]
    explanation: explain::Explanation,
    text: String,
}

async fn explain(server: &Server, request: &ControlRequest) -> ControlResponse {
    let bad = |message: &str| ControlResponse::error(StatusCode::BAD_REQUEST, message);
    let Some(name) = request.parameter("name") else { return bad("the parameter `name` is missing") };
    let client = request.parameter("client").map(explain::parse_client);
    let Some(Ok((client, length))) = client else {
        return bad("the parameter `client` must be an address or a subnet");
    };
    let question = Question {
        name: name.to_owned(),
        rtype: request.parameter("type").unwrap_or("A").to_owned(),
        client,
        length,
    };
    let Some(view) = server.view() else { return bad("nothing is served yet") };
    let Ok(_turn) = EXPLAINING.acquire().await else { return bad("nothing is explained any more") };
    // Databases are read from disk, a hundred megabytes and more: not on the threads that probe and answer.
    let explaining = tokio::task::spawn_blocking(move || {
        let geo = steering::open_geo(&view.base.config.geoip).map_err(|error| error.to_string())?;
        let explanation = explain::explain(&view, &geo, &question, "as this server sees it now");
        explanation.map_err(|error| error.to_string())
    });
    match explaining.await {
        Ok(Ok(explanation)) => {
            // The same again in words, so that who asks over the network shows what the command shows.
            let text = explanation.to_string();
            ControlResponse::ok(&Explained { explanation, text })
        }
        Ok(Err(error)) => bad(&error),
        Err(error) => ControlResponse::error(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn drain(server: &Server, request: &ControlRequest) -> ControlResponse {
    let asked: DrainRequest = match request.json() {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    if asked.seconds.is_some_and(|seconds| seconds == 0 || seconds > DRAIN_SECONDS_MAX) {
        let message = format!("seconds must be 1 to {DRAIN_SECONDS_MAX}, or left out: until lifted");
        return ControlResponse::error(StatusCode::BAD_REQUEST, message);
    }
    match server.health().drain(&asked.pop, asked.seconds.map(Duration::from_secs), &asked.reason) {
        Ok(()) => ControlResponse::ok(&server.health().drains()),
        Err(pop) => {
            let pops = server.view().map_or_else(String::new, |view| {
                let names: Vec<&str> = view.base.config.pops.keys().map(String::as_str).collect();
                names.join(", ")
            });
            ControlResponse::error(
                StatusCode::NOT_FOUND,
                format!("there is no PoP `{pop}`; there are: {pops}"),
            )
        }
    }
}

/// Body of `PUT /v1/challenges/{name}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChallengeRequest {
    values: Vec<String>,
    seconds: u64,
}

/// Whoever may set challenges gets certificates for every name of the zones: that is home's alone, and of those who may
/// read this machine's files anyway.
fn challenge(server: &Server, request: &ControlRequest, name: &str) -> ControlResponse {
    if !matches!(request.role, Role::Controller | Role::Local) {
        return ControlResponse::error(StatusCode::FORBIDDEN, "only the controller sets challenges");
    }
    let legal = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let parsed = Name::parse(name.as_bytes(), Some(&Name::root())).ok();
    let Some(owner) = parsed.filter(|owner| legal && !owner.is_root()) else {
        return ControlResponse::error(
            StatusCode::BAD_REQUEST,
            format!("{name:?} is not the name of a challenge"),
        );
    };
    if request.method == Method::DELETE {
        return match server.withdraw_challenge(&owner) {
            true => ControlResponse::ok(&serde_json::json!({})),
            false => {
                ControlResponse::error(StatusCode::NOT_FOUND, format!("there is no challenge at {name}"))
            }
        };
    }
    let asked: ChallengeRequest = match request.json() {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    if let Err(reason) = ours(server, &owner) {
        return ControlResponse::error(StatusCode::UNPROCESSABLE_ENTITY, reason);
    }
    match server.set_challenge(&owner, &asked.values, Duration::from_secs(asked.seconds)) {
        Ok(()) => ControlResponse::ok(&serde_json::json!({})),
        Err(error) => ControlResponse::error(StatusCode::BAD_REQUEST, error),
    }
}

/// Whether this node would be asked for a name.
fn ours(server: &Server, owner: &Name) -> Result<(), String> {
    let view = server.view().ok_or("nothing is served yet")?;
    let mut name = NameBuf::from(owner);
    let zone = view.base.zones.find(&name, Rtype::TXT);
    let zone = zone.ok_or_else(|| format!("{owner} is in no zone of this node"))?;
    let mut links = 0;
    match zone.lookup(&mut name, Rtype::TXT, |_, _| links += 1) {
        End::Referral(_) if links == 0 => Err(format!("{owner} is delegated to other servers")),
        _ => Ok(()),
    }
}

fn undrain(server: &Server, pop: &str) -> ControlResponse {
    if server.health().undrain(pop) {
        return ControlResponse::ok(&server.health().drains());
    }
    ControlResponse::error(StatusCode::NOT_FOUND, format!("`{pop}` is not drained"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_describes_every_endpoint_and_no_other() {
        let document = include_str!("../../docs/openapi-nodes.json");
        let document = serde_json::from_str(document).unwrap();
        assert_eq!(nearside_node::control::table::differences(ROUTES, &document, "dns"), [""; 0]);
    }
}
