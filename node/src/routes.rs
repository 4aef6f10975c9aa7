//! The endpoints every node has, and who may use them.
//!
//! `/metrics`, `/health`, `/v1/status` are read by anyone who reaches the listener; everything else needs a
//! role. What is not known here goes to the daemon. [`ROUTES`] and the daemon's own table are the only places where roles meet
//! endpoints.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{Method, StatusCode};
use nearside_fleet::report::{self, Report};

use crate::{
    apply::Applier,
    control::{
        ControlRequest, ControlResponse,
        server::{self, Handler},
        table::{self, Access, Found, Route},
    },
    daemon::Daemon,
    enrolled::Enrolment,
    metrics::{self, Metrics},
    renewal::Renewal,
    snapshots::Snapshots,
};

/// An identity this near to its end is told of: renewal has failed for a while by then.
const IDENTITY_WARNING_SECS: i64 = 7 * 86_400;

/// The endpoints of a node.
#[derive(Debug)]
pub struct Routes<D: Daemon> {
    inner: Arc<Inner<D>>,
}

impl<D: Daemon> Clone for Routes<D> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

#[derive(Debug)]
struct Inner<D: Daemon> {
    node: String,
    version: String,
    started: SystemTime,
    applier: Arc<Applier<D>>,
    enrolment: Arc<Enrolment>,
    snapshots: Arc<Snapshots<D>>,
    renewal: Renewal,
    metrics: Metrics,
}

/// The endpoints of every node.
pub const ROUTES: &[Route<()>] = &[
    route(Method::GET, "/metrics", Access::Public, "OpenMetrics"),
    route(Method::GET, "/health", Access::Public, "Whether the node serves"),
    route(Method::GET, "/v1/status", Access::Public, "What the node says of itself"),
    route(Method::GET, "/v1/snapshot", Access::Read, "The accepted snapshot, as home signed it"),
    route(Method::PUT, "/v1/files/{sha256}", Access::Change, "Keeps a file that a snapshot will name"),
    route(Method::GET, "/v1/identity/csr", Access::Change, "A signing request for a new key of this node"),
    route(Method::PUT, "/v1/identity/certificate", Access::Change, "Takes the certificate for that key"),
    route(Method::GET, "/v1/identity/revoked", Access::Read, "The list of revoked identities"),
    route(Method::PUT, "/v1/identity/revoked", Access::Change, "Takes a newer list of revoked identities"),
    route(Method::POST, "/v1/snapshots", Access::Change, "Takes a signed snapshot, or refuses it whole"),
];

/// A row of a table of endpoints.
pub const fn route(method: Method, path: &'static str, least: Access, summary: &'static str) -> Route<()> {
    Route { method, path, least, summary, handler: () }
}

impl<D: Daemon> Routes<D> {
    /// The endpoints of `node`.
    pub fn new(
        node: &str,
        version: &str,
        applier: Arc<Applier<D>>,
        enrolment: Arc<Enrolment>,
        snapshots: Arc<Snapshots<D>>,
        renewal: Renewal,
        metrics: Metrics,
    ) -> Self {
        let (node, version, started) = (node.to_owned(), version.to_owned(), SystemTime::now());
        Self {
            inner: Arc::new(Inner {
                node,
                version,
                started,
                applier,
                enrolment,
                snapshots,
                renewal,
                metrics,
            }),
        }
    }

    /// The node's registry.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// A handler of every endpoint.
    pub fn handler(self) -> Handler {
        server::handler(move |request| {
            let inner = Arc::clone(&self.inner);
            async move { inner.answer(request).await }
        })
    }

    /// A handler of `/metrics` alone.
    pub fn scrape_handler(self) -> Handler {
        server::handler(move |request| {
            let inner = Arc::clone(&self.inner);
            async move {
                match (&request.method, request.path.as_str()) {
                    (&Method::GET, "/metrics") => inner.scrape(),
                    _ => ControlResponse::error(StatusCode::NOT_FOUND, "only GET /metrics is served here"),
                }
            }
        })
    }
}

impl<D: Daemon> Inner<D> {
    async fn answer(&self, request: ControlRequest) -> ControlResponse {
        let path = request.path.clone();
        let (route, parameter) = match table::find(ROUTES.iter().chain(D::ROUTES), &request.method, &path) {
            Found::Route(route, parameter) => (route, parameter),
            Found::OtherMethods(methods) => return table::other_methods(&methods),
            Found::Nothing => return ControlResponse::not_found(),
        };
        if !route.least.allows(&request.role) {
            self.metrics.node.control_refused.inc();
            return ControlResponse::error(
                StatusCode::FORBIDDEN,
                "this needs a client certificate of the fleet with a role that may do it, or the control \
                 socket in the node's state directory",
            );
        }
        match (&route.method, route.path) {
            (&Method::GET, "/metrics") => self.scrape(),
            (&Method::GET, "/health") => self.health(),
            (&Method::GET, "/v1/status") => self.status(),
            (&Method::GET, "/v1/snapshot") => self.snapshots.accepted(),
            (&Method::POST, "/v1/snapshots") => self.snapshots.receive(request.body).await,
            (&Method::PUT, "/v1/files/{sha256}") => {
                self.snapshots.receive_file(parameter.unwrap_or_default(), request.body.clone()).await
            }
            (&Method::GET, "/v1/identity/csr") => self.renewal.csr().await,
            (&Method::PUT, "/v1/identity/certificate") => self.renewal.certificate(request.body).await,
            (&Method::GET, "/v1/identity/revoked") => self.renewal.revoked_list(),
            (&Method::PUT, "/v1/identity/revoked") => self.renewal.revoked(request.body).await,
            _ => self.applier.daemon().control(request).await,
        }
    }

    fn scrape(&self) -> ControlResponse {
        let body = Bytes::from(self.metrics.encode());
        ControlResponse::new(StatusCode::OK, metrics::CONTENT_TYPE, body)
    }

    fn report(&self) -> Option<Report> {
        let status = self.applier.status();
        let serving = status.serving?;
        Some(Report {
            node: self.node.clone(),
            program: D::KIND.program().to_owned(),
            version: self.version.clone(),
            started: seconds(self.started),
            now: seconds(SystemTime::now()),
            enrolled: self.enrolment.identity().is_some(),
            identity: self.enrolment.identity().map(|identity| report::Identity {
                serial: hex(&identity.serial),
                not_after: u64::try_from(identity.not_after).unwrap_or(0),
                made_here: identity.made_here,
                revocations: identity.revoked.as_ref().map_or(0, |list| list.number),
            }),
            serving: report::Serving {
                source: (&serving.source).into(),
                snapshot: serving.source.snapshot(),
                since: seconds(serving.since),
            },
            refused: status.refused.map(|refused| report::Refused {
                snapshot: refused.source.snapshot(),
                reasons: refused.refusal.reasons,
                at: seconds(refused.at),
            }),
            unwell: self.applier.daemon().health().err(),
            warnings: self.warnings(),
            program_report: self.applier.daemon().report(),
        })
    }

    /// What an operator should look at though the node serves.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.snapshots.keeps() {
            warnings.push("the state directory can't be written: nothing survives a restart".to_owned());
        }
        if let Some(identity) = self.enrolment.identity() {
            let left = identity.not_after - i64::try_from(seconds(SystemTime::now())).unwrap_or(i64::MAX);
            if left < IDENTITY_WARNING_SECS {
                warnings.push(format!("the node's identity ends in {} days", left.max(0) / 86_400));
            }
        }
        if let Err(reason) = self.applier.daemon().health() {
            warnings.push(format!("not serving: {reason}"));
        }
        warnings
    }

    fn status(&self) -> ControlResponse {
        match self.report() {
            Some(report) => ControlResponse::ok(&report),
            None => ControlResponse::error(StatusCode::SERVICE_UNAVAILABLE, "nothing is served yet"),
        }
    }

    fn health(&self) -> ControlResponse {
        match self.applier.daemon().health() {
            Ok(()) => ControlResponse::ok(&serde_json::json!({ "status": "serving" })),
            Err(reason) => {
                let body = serde_json::json!({ "status": "not serving", "reason": reason });
                ControlResponse::json(StatusCode::SERVICE_UNAVAILABLE, &body)
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Role;

    #[test]
    fn who_may_do_what() {
        let node = Role::Node("fra".into());
        let table = [
            (Method::GET, "/metrics", &Role::Anonymous, true),
            (Method::GET, "/v1/status", &Role::Anonymous, true),
            (Method::GET, "/v1/snapshot", &Role::Anonymous, false),
            (Method::GET, "/v1/snapshot", &node, true),
            (Method::POST, "/v1/snapshots", &node, false),
            (Method::POST, "/v1/snapshots", &Role::Operator, true),
            (Method::POST, "/v1/snapshots", &Role::Controller, true),
        ];
        for (method, path, role, allowed) in table {
            let Found::Route(route, _) = table::find(ROUTES, &method, path) else { panic!("{path}") };
            assert_eq!(route.least.allows(role), allowed, "{method} {path} as {role:?}");
        }
        // A change can't be had by another method on a public path.
        assert!(matches!(table::find(ROUTES, &Method::POST, "/v1/status"), Found::OtherMethods(_)));
    }

    #[test]
    fn the_document_describes_every_endpoint_and_no_other() {
        let document = include_str!("../../docs/openapi-nodes.json");
        let document = serde_json::from_str(document).unwrap();
        assert_eq!(table::differences(ROUTES, &document, "node"), [""; 0]);
    }
}
