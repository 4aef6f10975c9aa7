//! The controller's endpoints: one row each, with the least a caller must be.
//!
//! A row's handler lives where its subject does. A new endpoint is a row here, an operation in `docs/openapi.json` and a
//! section of `docs/control-api.md`; a test holds the first two together.

use std::{future::Future, pin::Pin, sync::Arc};

use http::Method;
use nearside_node::{Access, ControlRequest, ControlResponse, Route, metrics::Metrics};

use super::{
    audit, certificates, drains, events, explain, explain_http, identities, publish, purges, route, status,
    tokens, warm,
};
use crate::serve::Controller;

/// A request that was found in the table, from a caller that may make it.
#[derive(Debug)]
pub struct Call {
    /// What answers it.
    pub controller: Arc<Controller>,
    /// For `/metrics`.
    pub metrics: Metrics,
    /// The request.
    pub request: ControlRequest,
    /// What stood in the place of the braces.
    pub parameter: String,
}

/// What answers a call.
pub type Handle = fn(Call) -> Pin<Box<dyn Future<Output = ControlResponse> + Send>>;

const fn row(
    method: Method,
    path: &'static str,
    least: Access,
    summary: &'static str,
    handler: Handle,
) -> Route<Handle> {
    Route { method, path, least, summary, handler }
}

/// Every endpoint.
pub static ROUTES: &[Route<Handle>] = &[
    row(Method::GET, "/metrics", Access::Read, "OpenMetrics", |call| Box::pin(super::metrics(call))),
    row(Method::GET, "/v1/openapi.json", Access::Read, "This description", |call| {
        Box::pin(super::openapi(call))
    }),
    row(Method::GET, "/v1/status", Access::Read, "The whole fleet as home sees it", |call| {
        Box::pin(status(call))
    }),
    row(Method::POST, "/v1/publish", Access::Change, "Publishes what is on disk", |call| {
        Box::pin(publish::post(call))
    }),
    row(Method::POST, "/v1/rollback", Access::Change, "Goes back to an older snapshot", |call| {
        Box::pin(publish::rollback(call))
    }),
    row(Method::GET, "/v1/history", Access::Read, "What was published, by whom and why", |call| {
        Box::pin(publish::all(call))
    }),
    row(Method::GET, "/v1/history/{number}", Access::Read, "One snapshot and the files it changed", |call| {
        Box::pin(publish::one(call))
    }),
    row(Method::GET, "/v1/diff", Access::Read, "What differs between snapshots, or from the disk", |call| {
        Box::pin(publish::diff(call))
    }),
    row(Method::POST, "/v1/purges", Access::Deploy, "Purges at every PoP", |call| {
        Box::pin(purges::post(call))
    }),
    row(Method::GET, "/v1/purges/{number}", Access::Deploy, "How far a purge of late is", |call| {
        Box::pin(purges::progress(call))
    }),
    row(Method::POST, "/v1/warm", Access::Deploy, "Fetches URLs ahead", |call| Box::pin(warm::post(call))),
    row(Method::GET, "/v1/warm/{job}", Access::Deploy, "How far a warm job of late is", |call| {
        Box::pin(warm::progress(call))
    }),
    row(Method::GET, "/v1/cached", Access::Deploy, "Whether a URL is cached, by PoP", |call| {
        Box::pin(warm::cached(call))
    }),
    row(Method::GET, "/v1/route", Access::Deploy, "The best PoP for a client", |call| {
        Box::pin(route::get(call))
    }),
    row(Method::POST, "/v1/drains", Access::Change, "Takes a PoP out of all answers", |call| {
        Box::pin(drains::post(call))
    }),
    row(Method::DELETE, "/v1/drains/{pop}", Access::Change, "Lifts a drain", |call| {
        Box::pin(drains::delete(call))
    }),
    row(
        Method::GET,
        "/v1/certificates",
        Access::Read,
        "Certificates as home has them and as PoPs show them",
        |call| Box::pin(certificates::list(call)),
    ),
    row(
        Method::PUT,
        "/v1/certificates/{site}",
        Access::Change,
        "Takes a certificate from another ACME client",
        |call| Box::pin(certificates::push(call)),
    ),
    row(
        Method::POST,
        "/v1/certificates/revoke",
        Access::Change,
        "Revokes a certificate that home ordered",
        |call| Box::pin(certificates::revoke(call)),
    ),
    row(
        Method::POST,
        "/v1/certificates/rotate-key",
        Access::Change,
        "Gives an account at an authority another key",
        |call| Box::pin(certificates::rotate(call)),
    ),
    row(Method::POST, "/v1/certificates/renew", Access::Change, "Renews certificates now", |call| {
        Box::pin(certificates::renew(call))
    }),
    row(Method::GET, "/v1/events", Access::Read, "What is wrong now, and what was told", |call| {
        Box::pin(events::list(call))
    }),
    row(Method::GET, "/v1/stats", Access::Read, "What was counted, over any time", |call| {
        Box::pin(super::stats::get(call))
    }),
    row(Method::GET, "/v1/webhooks", Access::Read, "How webhooks are doing", |call| {
        Box::pin(events::webhooks(call))
    }),
    row(Method::POST, "/v1/webhooks/{name}/test", Access::Change, "Sends a webhook a test", |call| {
        Box::pin(events::test(call))
    }),
    row(Method::GET, "/v1/explain", Access::Read, "Asks a DNS node why a client is answered so", |call| {
        Box::pin(explain(call))
    }),
    row(
        Method::POST,
        "/v1/explain/http",
        Access::Read,
        "Asks an edge what would become of a request, and why",
        |call| Box::pin(explain_http::post(call)),
    ),
    row(Method::GET, "/v1/audit", Access::Change, "Who did what", |call| Box::pin(audit::list(call))),
    row(Method::GET, "/v1/identities", Access::Read, "The register of identities", |call| {
        Box::pin(identities::list(call))
    }),
    row(Method::POST, "/v1/identities/revoke", Access::Change, "Revokes all identities of a name", |call| {
        Box::pin(identities::revoke(call))
    }),
    row(Method::GET, "/v1/tokens", Access::Change, "The bearer tokens there are", |call| {
        Box::pin(tokens::list(call))
    }),
    row(Method::POST, "/v1/tokens", Access::Change, "Makes a bearer token", |call| {
        Box::pin(tokens::create(call))
    }),
    row(Method::DELETE, "/v1/tokens/{name}", Access::Change, "Ends a bearer token", |call| {
        Box::pin(tokens::revoke(call))
    }),
];

impl Call {
    /// Writes down what was done, by the caller.
    pub fn audit(&self, what: &str) {
        self.controller.audit(&self.request.who, what);
    }
}
