//! `/v1/certificates`: what is in force, and what is done about it.

use std::time::SystemTime;

use http::StatusCode;
use instant_acme::RevocationReason;
use nearside_node::ControlResponse;
use serde::{Deserialize, Serialize};

use super::{failed, published, table::Call};
use crate::{
    certs::{self, Certificate},
    home::seconds,
    import::{self, Earlier, Taken},
    serve::PublishOutcome,
};

/// Body of `POST /v1/certificates/renew`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// Which site; absent: all that have their certificate from the fleet's CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

/// Body of `PUT /v1/certificates/{site}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushRequest {
    /// PEM chain, the site's own certificate first.
    pub chain: String,
    /// PEM private key.
    pub key: String,
    /// Take it though it ends earlier than the one in force.
    #[serde(default)]
    pub replace: bool,
}

/// Body of `POST /v1/certificates/revoke`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// Which site.
    pub site: String,
    /// Why.
    #[serde(default)]
    pub reason: Reason,
}

/// Reasons an authority may be given (RFC 5280 section 5.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// None is given.
    #[default]
    Unspecified,
    /// Somebody else may have the key.
    KeyCompromise,
    /// Another certificate takes its place.
    Superseded,
    /// The names are no longer served.
    CessationOfOperation,
}

/// Body of `POST /v1/certificates/rotate-key`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// Which `[acme.directory.NAME]`.
    pub directory: String,
}

/// Answer to `GET /v1/certificates`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificatesAnswer {
    /// One per site with TLS.
    pub certificates: Vec<Certificate>,
}

/// All certificates, with what PoPs show.
pub(super) async fn list(call: Call) -> ControlResponse {
    let Some(desk) = call.controller.desk() else { return not_yet() };
    let now = seconds(SystemTime::now());
    let site = call.request.parameter("site");
    let found = certs::at_home(call.controller.journal(), call.controller.acme(), &desk.config, site, now);
    let mut certificates = match found {
        Ok(certificates) => certificates,
        Err(error) => return failed(&error),
    };
    if certificates.is_empty() && site.is_some() {
        return ControlResponse::error(StatusCode::NOT_FOUND, "there is no such site with TLS");
    }
    certs::ask_pops(&desk.config, &mut certificates).await;
    ControlResponse::ok(&CertificatesAnswer { certificates })
}

/// Issues anew and publishes.
pub(super) async fn renew(call: Call) -> ControlResponse {
    match call.request.json::<RenewRequest>() {
        Ok(asked) => published(call.controller.renew(asked.site.as_deref(), &call.request.who).await),
        Err(refused) => refused,
    }
}

/// Takes one from outside and publishes it.
pub(super) async fn push(call: Call) -> ControlResponse {
    let asked: PushRequest = match call.request.json() {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let (controller, who, site) = (call.controller, call.request.who, call.parameter);
    let Some(desk) = controller.desk() else { return not_yet() };
    let earlier = if asked.replace { Earlier::Take } else { Earlier::Refuse };
    let now = seconds(SystemTime::now());
    let both = (asked.chain.as_str(), asked.key.as_str());
    let taken = import::import(controller.journal(), &desk.config, &site, both, earlier, now);
    published(match taken {
        Err(reason) => Err(vec![reason]),
        Ok(Taken::New) => {
            controller.note(&who, &format!("pushed a certificate for {site}"));
            controller.publish(&who).await
        }
        Ok(Taken::Known) => controller.publish(&who).await,
    })
}

/// Revokes, and orders another at once.
pub(super) async fn revoke(call: Call) -> ControlResponse {
    let asked: RevokeRequest = match call.request.json() {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let (controller, who) = (call.controller, call.request.who);
    let Some(desk) = controller.desk() else { return not_yet() };
    let reason = match asked.reason {
        Reason::Unspecified => RevocationReason::Unspecified,
        Reason::KeyCompromise => RevocationReason::KeyCompromise,
        Reason::Superseded => RevocationReason::Superseded,
        Reason::CessationOfOperation => RevocationReason::CessationOfOperation,
    };
    match controller.acme().revoke(&desk.config, &asked.site, reason).await {
        Ok(()) => {
            controller.note(&who, &format!("revoked the certificate of {}", asked.site));
            // It is due from now on.
            controller.acme().wake();
            ControlResponse::ok(&serde_json::json!({}))
        }
        Err(failure) => refused(&failure),
    }
}

/// Gives an account another key.
pub(super) async fn rotate(call: Call) -> ControlResponse {
    let asked: RotateRequest = match call.request.json() {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let (controller, who) = (call.controller, call.request.who);
    let Some(desk) = controller.desk() else { return not_yet() };
    let Some(directory) = desk.config.acme.directory(&asked.directory) else {
        let known: Vec<&str> = desk.config.acme.directories.iter().map(|known| known.name.as_str()).collect();
        let message = format!("there is no directory {}; there are: {}", asked.directory, known.join(", "));
        return refused(&message);
    };
    match controller.acme().rotate_key(directory).await {
        Ok(()) => {
            controller.note(&who, &format!("changed the account key at {}", asked.directory));
            ControlResponse::ok(&serde_json::json!({}))
        }
        Err(failure) => refused(&failure),
    }
}

fn not_yet() -> ControlResponse {
    refused(&"nothing was published yet")
}

fn refused(reason: &dyn std::fmt::Display) -> ControlResponse {
    published(Err::<PublishOutcome, _>(vec![reason.to_string()]))
}
