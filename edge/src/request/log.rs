//! The access log: one event per response, written when its last byte is sent or its client has gone.
//!
//! Off unless asked for (`--log-level info,access=debug`), and then free of secrets: the query is never
//! logged, it may carry signatures.

use std::time::Instant;

use super::{Answer, id::REQUEST_ID};
use crate::listen::connection::Client;

/// What is known of a request once its response head is.
pub struct Access {
    peer: std::net::IpAddr,
    scheme: &'static str,
    method: http::Method,
    host: String,
    path: String,
    status: u16,
    outcome: &'static str,
    request_id: String,
    started: Instant,
    head_us: u64,
}

impl Access {
    /// Whether anyone reads it.
    pub fn enabled() -> bool {
        tracing::enabled!(target: "access", tracing::Level::DEBUG)
    }

    /// Notes a response head.
    pub(super) fn new(
        client: &Client,
        method: &http::Method,
        host: &str,
        path: &str,
        answer: &Answer,
        started: Instant,
    ) -> Box<Self> {
        Box::new(Access {
            peer: client.peer.ip(),
            scheme: client.scheme(),
            method: method.clone(),
            host: host.to_owned(),
            path: path.to_owned(),
            status: answer.response.status().as_u16(),
            outcome: answer.outcome.name(),
            request_id: answer
                .response
                .headers()
                .get(REQUEST_ID)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .unwrap_or_default(),
            started,
            head_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
    }

    /// The response has ended.
    pub fn write(self, sent_bytes: u64) {
        tracing::debug!(
            target: "access",
            peer = %self.peer,
            scheme = self.scheme,
            method = %self.method,
            host = self.host,
            path = self.path,
            status = self.status,
            cache = self.outcome,
            request_id = self.request_id,
            bytes = sent_bytes,
            head_us = self.head_us,
            total_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        );
    }
}
