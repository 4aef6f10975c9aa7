//! Control requests and answers, free of HTTP machinery.
//!
//! [`ControlRequest`] is what reaches a program after [`server`] has read it within bounds and the caller's
//! [`Role`] is known; [`ControlResponse`] is what it answers. Errors are JSON: `{"error": "…"}`.

pub mod server;
pub mod table;

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Who asks, from the subject of the client's certificate, from its token, or from the door it came through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The controller (`CN=controller`).
    Controller,
    /// A person (`CN=operator`, `CN=operator:NAME`).
    Operator,
    /// Another node of the fleet (`CN=node:NAME`).
    Node(String),
    /// Through the Unix socket: file permissions are the authority.
    Local,
    /// With a bearer token of the controller.
    Token(Arc<Grant>),
    /// Plain HTTP: may read metrics, health and status.
    Anonymous,
}

/// What a bearer token gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The token's name, never the token.
    pub token: String,
    /// What it may do.
    pub role: TokenRole,
    /// For which sites; only a deployer is bound to some.
    pub sites: Vec<String>,
}

/// What a bearer token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenRole {
    /// Everything.
    Operator,
    /// Purge, warm and ask what is cached, of its own sites.
    Deployer,
    /// Every `GET`.
    Reader,
}

impl std::fmt::Display for TokenRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Operator => "operator",
            Self::Deployer => "deployer",
            Self::Reader => "reader",
        })
    }
}

impl Role {
    /// The role a certificate's common name gives; `None`: a name that gives none.
    pub fn from_common_name(name: &str) -> Option<Self> {
        match name {
            "controller" => Some(Self::Controller),
            "operator" => Some(Self::Operator),
            _ if name.strip_prefix("operator:").is_some_and(|name| !name.is_empty()) => Some(Self::Operator),
            _ => {
                let node = name.strip_prefix("node:")?;
                (!node.is_empty()).then(|| Self::Node(node.to_owned()))
            }
        }
    }

    /// Whether this caller may change anything.
    pub fn may_change(&self) -> bool {
        match self {
            Self::Controller | Self::Operator | Self::Local => true,
            Self::Token(grant) => grant.role == TokenRole::Operator,
            Self::Node(_) | Self::Anonymous => false,
        }
    }

    /// What its token gives, where it came with one.
    pub fn token(&self) -> Option<&Grant> {
        match self {
            Self::Token(grant) => Some(grant),
            _ => None,
        }
    }

    /// Whether this caller may read more than metrics, health and status.
    pub fn may_read(&self) -> bool {
        match self {
            Self::Token(grant) => grant.role != TokenRole::Deployer,
            Self::Anonymous => false,
            Self::Controller | Self::Operator | Self::Node(_) | Self::Local => true,
        }
    }
}

/// One request, read whole.
#[derive(Clone, Debug)]
pub struct ControlRequest {
    /// What the caller may do.
    pub role: Role,
    /// Who it is, for the audit log: `operator:NAME`, `token:NAME`, `node:NAME`, `controller`, `local`, `anonymous`.
    pub who: String,
    /// From where, over TCP.
    pub from: Option<IpAddr>,
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: Method,
    /// Absolute path, as sent.
    pub path: String,
    /// Query parameters, decoded, in order.
    pub query: Vec<(String, String)>,
    /// The body, at most [`server::BODY_BYTES_MAX`].
    pub body: Bytes,
}

impl ControlRequest {
    /// First value of a query parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON of a known shape.
    ///
    /// # Errors
    /// A `400` that says at which line and column the body is wrong.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ControlResponse> {
        serde_json::from_slice(&self.body).map_err(|error| {
            ControlResponse::error(StatusCode::BAD_REQUEST, format!("the body does not parse: {error}"))
        })
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub struct ControlResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// Headers beyond those every answer has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Bytes,
}

impl ControlResponse {
    /// Any content.
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, headers: Vec::new(), body: body.into() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// JSON of anything.
    pub fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Self::new(status, "application/json", body)
            }
            Err(error) => Self::error(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }

    /// 200 with JSON.
    pub fn ok(value: &impl Serialize) -> Self {
        Self::json(StatusCode::OK, value)
    }

    /// `{"error": "…"}`.
    pub fn error(status: StatusCode, message: impl std::fmt::Display) -> Self {
        let body = serde_json::json!({ "error": message.to_string() }).to_string() + "\n";
        Self::new(status, "application/json", body)
    }

    /// 404: no such endpoint on this kind of node.
    pub fn not_found() -> Self {
        Self::error(StatusCode::NOT_FOUND, "no such endpoint on this node")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_come_from_common_names() {
        assert_eq!(Role::from_common_name("controller"), Some(Role::Controller));
        assert_eq!(Role::from_common_name("node:fra"), Some(Role::Node("fra".into())));
        assert_eq!(Role::from_common_name("node:"), None);
        assert_eq!(Role::from_common_name("fra"), None);
        assert_eq!(Role::from_common_name("operator:alice"), Some(Role::Operator));
        assert_eq!(Role::from_common_name("operator:"), None);
        assert!(!Role::Node("fra".into()).may_change());
        assert!(!Role::Anonymous.may_read());
    }
}
