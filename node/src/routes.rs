//! The endpoints every node has, and who may use them.
//!
//! `/metrics`, `/health`, `/v1/status` are read by anyone who reaches the listener; everything else needs a
//! role. What is not known here goes to the daemon. One table, `Access`, is the only place where roles meet endpoints.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::{
    apply::Applier,
    control::{
        ControlRequest, ControlResponse, Role,
        server::{self, Handler},
    },
    daemon::Daemon,
    metrics::{self, Metrics},
};

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
    metrics: Metrics,
}

/// What a request needs to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Anyone who reaches the listener.
    Public,
    /// Any role of the fleet.
    Fleet,
    /// Controller, operator, or the local socket.
    Change,
}

impl Access {
    fn of(method: &Method, path: &str) -> Self {
        match (method, path) {
            (&Method::GET, "/metrics" | "/health" | "/v1/status") => Self::Public,
            (&Method::GET, _) => Self::Fleet,
            _ => Self::Change,
        }
    }

    fn allows(self, role: &Role) -> bool {
        match self {
            Self::Public => true,
            Self::Fleet => role.may_read(),
            Self::Change => role.may_change(),
        }
    }
}

impl<D: Daemon> Routes<D> {
    /// The endpoints of `node`.
    pub fn new(node: &str, version: &str, applier: Arc<Applier<D>>, metrics: Metrics) -> Self {
        let (node, version, started) = (node.to_owned(), version.to_owned(), SystemTime::now());
        Self { inner: Arc::new(Inner { node, version, started, applier, metrics }) }
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
        if !Access::of(&request.method, &request.path).allows(&request.role) {
            self.metrics.node.control_refused.inc();
            return ControlResponse::error(
                StatusCode::FORBIDDEN,
                "this needs a client certificate of the fleet with a role that may do it, or the control \
                 socket in the node's state directory",
            );
        }
        match (&request.method, request.path.as_str()) {
            (&Method::GET, "/metrics") => self.scrape(),
            (&Method::GET, "/health") => self.health(),
            (&Method::GET, "/v1/status") => ControlResponse::ok(&self.report()),
            _ => self.applier.daemon().control(request).await,
        }
    }

    fn scrape(&self) -> ControlResponse {
        let body = Bytes::from(self.metrics.encode());
        ControlResponse { status: StatusCode::OK, content_type: metrics::CONTENT_TYPE, body }
    }

    /// The node's report. Times are seconds since the epoch.
    fn report(&self) -> serde_json::Value {
        let seconds =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let status = self.applier.status();
        serde_json::json!({
            "node": self.node,
            "kind": D::KIND.program(),
            "version": self.version,
            "started": seconds(self.started),
            "healthy": self.applier.daemon().health().is_ok(),
            "serving": status.serving.map(|serving| serde_json::json!({
                "fleet": serving.config.fleet,
                "source": serving.source.to_string(),
                "since": seconds(serving.since),
            })),
            "refused": status.refused.map(|refused| serde_json::json!({
                "source": refused.source.to_string(),
                "at": seconds(refused.at),
                "reasons": refused.refusal.reasons,
            })),
            "program": self.applier.daemon().report(),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_do_what() {
        let node = Role::Node("fra".into());
        let table = [
            (Method::GET, "/metrics", &Role::Anonymous, true),
            (Method::GET, "/v1/status", &Role::Anonymous, true),
            (Method::GET, "/v1/snapshot", &Role::Anonymous, false),
            (Method::GET, "/v1/explain", &Role::Anonymous, false),
            (Method::POST, "/v1/purges", &Role::Anonymous, false),
            (Method::GET, "/v1/snapshot", &node, true),
            (Method::POST, "/v1/snapshots", &node, false),
            (Method::POST, "/v1/purges", &Role::Operator, true),
            (Method::POST, "/v1/snapshots", &Role::Controller, true),
            (Method::DELETE, "/v1/drains/fra", &Role::Local, true),
            // A change can't be had by another method on a public path.
            (Method::POST, "/v1/status", &Role::Anonymous, false),
        ];
        for (method, path, role, allowed) in table {
            assert_eq!(Access::of(&method, path).allows(role), allowed, "{method} {path} as {role:?}");
        }
    }
}
