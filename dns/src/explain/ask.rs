//! Learns the health of now from a running server, so that a person's `explain` tells what clients get.
//!
//! [`HealthMessage`] is a [`HealthView`] in JSON; a server puts it into its `GET /v1/status`, which both its
//! doors answer: the Unix socket in its state directory and the control address.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nearside_fleet::report::Report;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::steering::{CheckHealth, Drain, HealthView, Offer};

/// The whole conversation must be over by then: the server is near, and its status is made at once.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a status: ten thousand addresses, each told twice in 300 bytes, or 4 KiB where an `exec` check says much.
const STATUS_BYTES_MAX: usize = 64 << 20;

/// The control socket in a node's state directory.
const SOCKET: &str = "control.sock";

/// Where a running server is asked.
#[derive(Clone, Debug)]
pub enum Door {
    /// Through the control socket of this state directory.
    StateDir(PathBuf),
    /// At this control address, in the clear.
    Control(SocketAddr),
}

/// Why a server did not tell.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It can't be reached.
    #[error("{door}: {source}; is the server running?")]
    Unreachable {
        /// Where it was asked.
        door: String,
        /// What the system says.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("{door}: no answer within {} s", TIMEOUT.as_secs())]
    TimedOut {
        /// Where it was asked.
        door: String,
    },
    /// It answered something else.
    #[error("{door}: {what}")]
    Unexpected {
        /// Where it was asked.
        door: String,
        /// What is wrong with the answer.
        what: String,
    },
}

/// A [`HealthView`] as JSON.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HealthMessage {
    checks: Vec<CheckMessage>,
    drains: Vec<DrainMessage>,
    /// Absent in the status of an older server.
    #[serde(default)]
    offers: Vec<OfferMessage>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct OfferMessage {
    service: String,
    pop: String,
    share: f64,
    load: Option<f64>,
    above: f64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct CheckMessage {
    check: String,
    address: IpAddr,
    up: bool,
    unchanged_ms: u64,
    reason: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct DrainMessage {
    pop: String,
    remaining_ms: Option<u64>,
    reason: String,
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<&HealthView> for HealthMessage {
    fn from(view: &HealthView) -> Self {
        let check = |((check, address), health): (&(String, IpAddr), &CheckHealth)| CheckMessage {
            check: check.clone(),
            address: *address,
            up: health.up,
            unchanged_ms: milliseconds(health.unchanged_for),
            reason: health.reason.to_string(),
        };
        let drain = |(pop, drain): (&String, &Drain)| DrainMessage {
            pop: pop.clone(),
            remaining_ms: drain.remaining.map(milliseconds),
            reason: drain.reason.to_string(),
        };
        let mut checks: Vec<CheckMessage> = view.checks.iter().map(check).collect();
        checks.sort_by(|a, b| (&a.check, a.address).cmp(&(&b.check, b.address)));
        let mut drains: Vec<DrainMessage> = view.drains.iter().map(drain).collect();
        drains.sort_by(|a, b| a.pop.cmp(&b.pop));
        let offer = |((service, pop), offer): (&(String, String), &Offer)| OfferMessage {
            service: service.clone(),
            pop: pop.clone(),
            share: offer.share,
            load: offer.load,
            above: offer.above,
        };
        let mut offers: Vec<OfferMessage> = view.offers.iter().map(offer).collect();
        offers.sort_by(|a, b| (&a.service, &a.pop).cmp(&(&b.service, &b.pop)));
        HealthMessage { checks, drains, offers }
    }
}

impl From<HealthMessage> for HealthView {
    fn from(message: HealthMessage) -> Self {
        let check = |check: CheckMessage| {
            let health = CheckHealth {
                up: check.up,
                unchanged_for: Duration::from_millis(check.unchanged_ms),
                reason: check.reason.into(),
            };
            ((check.check, check.address), health)
        };
        let drain = |drain: DrainMessage| {
            let remaining = drain.remaining_ms.map(Duration::from_millis);
            (drain.pop, Drain { remaining, reason: drain.reason.into() })
        };
        let offer = |offer: OfferMessage| {
            let OfferMessage { service, pop, share, load, above } = offer;
            ((service, pop), Offer { share, load, above })
        };
        HealthView {
            checks: message.checks.into_iter().map(check).collect::<HashMap<_, _>>(),
            drains: message.drains.into_iter().map(drain).collect(),
            offers: message.offers.into_iter().map(offer).collect(),
        }
    }
}

/// Asks a running server for its health. Also says in words who was asked.
///
/// # Errors
/// [`AskError`] if it can't be reached or answers something else.
pub async fn ask(door: &Door) -> Result<(HealthView, String), AskError> {
    let name = match door {
        Door::StateDir(dir) => dir.join(SOCKET).display().to_string(),
        Door::Control(address) => address.to_string(),
    };
    let asking = async {
        match door {
            Door::StateDir(dir) => fetch(UnixStream::connect(dir.join(SOCKET)), &name).await,
            Door::Control(address) => fetch(TcpStream::connect(address), &name).await,
        }
    };
    match tokio::time::timeout(TIMEOUT, asking).await {
        Ok(status) => parse(&status?, name),
        Err(_) => Err(AskError::TimedOut { door: name }),
    }
}

async fn fetch<S>(connecting: impl Future<Output = io::Result<S>>, door: &str) -> Result<Bytes, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let unexpected = |what: String| AskError::Unexpected { door: door.to_owned(), what };
    let stream =
        connecting.await.map_err(|source| AskError::Unreachable { door: door.to_owned(), source })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| unexpected(error.to_string()))?;
    // Its errors are the request's too.
    let driver = tokio::spawn(connection);
    let request = http::Request::get("/v1/status").header(http::header::HOST, "localhost");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| unexpected(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| unexpected(error.to_string()))?;
    if !response.status().is_success() {
        return Err(unexpected(format!("GET /v1/status answered {}", response.status())));
    }
    let body = Limited::new(response.into_body(), STATUS_BYTES_MAX).collect().await;
    driver.abort();
    body.map(http_body_util::Collected::to_bytes).map_err(|error| unexpected(error.to_string()))
}

/// The health in a status.
fn parse(status: &[u8], door: String) -> Result<(HealthView, String), AskError> {
    /// What is read of the program's own part.
    #[derive(Deserialize)]
    struct Program {
        seen: HealthMessage,
    }
    let parsed = serde_json::from_slice::<Report>(status).and_then(|report| {
        serde_json::from_value::<Program>(report.program_report).map(|program| (report.node, program))
    });
    match parsed {
        Ok((node, program)) => Ok((program.seen.into(), format!("as {node} sees it now ({door})"))),
        Err(error) => Err(AskError::Unexpected { door, what: format!("not a nearside-dns status: {error}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_survives_the_journey() {
        let mut view = HealthView::default();
        let health = CheckHealth {
            up: false,
            unchanged_for: Duration::from_millis(1500),
            reason: "connection refused".into(),
        };
        view.checks.insert(("web".into(), "192.0.2.1".parse().unwrap()), health);
        view.drains.insert("fra".into(), Drain { remaining: None, reason: "disk".into() });
        let offer = Offer { share: 0.5, load: Some(0.9), above: 0.8 };
        view.offers.insert(("web".into(), "fra".into()), offer);
        let message = HealthMessage::from(&view);
        let status = serde_json::json!({
            "node": "ns1", "program": "nearside-dns", "version": "1", "started": 1, "now": 2,
            "enrolled": false, "serving": { "source": "local", "since": 1 },
            "program_report": { "seen": message },
        });
        let (back, who) = parse(status.to_string().as_bytes(), "here".into()).unwrap();
        assert_eq!(who, "as ns1 sees it now (here)");
        assert_eq!(HealthMessage::from(&back), HealthMessage::from(&view));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_said_to_be() {
        let directory = tempfile::tempdir().unwrap();
        let error = ask(&Door::StateDir(directory.path().to_owned())).await.unwrap_err();
        assert!(matches!(error, AskError::Unreachable { .. }));
        assert!(error.to_string().contains("is the server running?"), "{error}");
    }
}
