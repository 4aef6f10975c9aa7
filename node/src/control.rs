//! Control requests and answers, free of HTTP machinery.
//!
//! [`ControlRequest`] is what reaches a program after [`server`] has read it within bounds and the caller's
//! [`Role`] is known; [`ControlResponse`] is what it answers. Errors are JSON: `{"error": "…"}`.

pub mod server;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

/// Who asks, from the subject of the client's certificate or from the door it came through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The controller (`CN=controller`).
    Controller,
    /// A person (`CN=operator`).
    Operator,
    /// Another node of the fleet (`CN=node:NAME`).
    Node(String),
    /// Through the Unix socket: file permissions are the authority.
    Local,
    /// Plain HTTP: may read metrics, health and status.
    Anonymous,
}

impl Role {
    /// The role a certificate's common name gives; `None`: a name that gives none.
    pub fn from_common_name(name: &str) -> Option<Self> {
        match name {
            "controller" => Some(Self::Controller),
            "operator" => Some(Self::Operator),
            _ => {
                let node = name.strip_prefix("node:")?;
                (!node.is_empty()).then(|| Self::Node(node.to_owned()))
            }
        }
    }

    /// Whether this caller may change anything.
    pub fn may_change(&self) -> bool {
        matches!(self, Self::Controller | Self::Operator | Self::Local)
    }

    /// Whether this caller may read more than metrics, health and status.
    pub fn may_read(&self) -> bool {
        !matches!(self, Self::Anonymous)
    }
}

/// One request, read whole.
#[derive(Clone, Debug)]
pub struct ControlRequest {
    /// Who asks.
    pub role: Role,
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
    /// Its body.
    pub body: Bytes,
}

impl ControlResponse {
    /// JSON of anything.
    pub fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Self { status, content_type: "application/json", body: body.into() }
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
        Self { status, content_type: "application/json", body: body.into() }
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
        assert!(!Role::Node("fra".into()).may_change());
        assert!(!Role::Anonymous.may_read());
    }
}
