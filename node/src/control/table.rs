//! Endpoints as a table: method, path, the least a caller must be, what it does.
//!
//! Every program's endpoints are such tables, so that a request is judged in one place and `docs/openapi*.json` can be
//! held against what is served. What a handler is, is the program's business; nothing here runs one.

use std::collections::BTreeSet;

use http::{HeaderValue, Method, StatusCode, header};

use super::{ControlResponse, Role, TokenRole};

/// The least a caller must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone who reaches the listener.
    Public,
    /// Any role of the fleet, any token but a deployer's.
    Read,
    /// A deployer's token, for its own sites; operators and home.
    Deploy,
    /// Controller, operator (a certificate or a token), or the local socket.
    Change,
}

impl Access {
    /// Whether a caller may.
    pub fn allows(self, role: &Role) -> bool {
        match self {
            Self::Public => true,
            Self::Read => role.may_read(),
            Self::Deploy => role.may_change() || role.token().is_some_and(|t| t.role == TokenRole::Deployer),
            Self::Change => role.may_change(),
        }
    }

    /// As the documents say it (`x-nearside-access`).
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::Change => "change",
        }
    }
}

/// One endpoint.
#[derive(Clone, Debug)]
pub struct Route<H> {
    /// `GET`, `POST`, `PUT` or `DELETE`; `HEAD` comes as `GET`.
    pub method: Method,
    /// `/v1/drains/{pop}`: a part in braces stands for one part of the path that is not empty.
    pub path: &'static str,
    /// The least a caller must be.
    pub least: Access,
    /// What it does, in one line.
    pub summary: &'static str,
    /// What answers it.
    pub handler: H,
}

/// What a table says of a request.
#[derive(Debug)]
pub enum Found<'t, 'p, H> {
    /// The endpoint, and what stood in the place of braces.
    Route(&'t Route<H>, Option<&'p str>),
    /// The path is one, by these methods only.
    OtherMethods(Vec<&'t Method>),
    /// No such path.
    Nothing,
}

/// Looks a request up. Tables are short: O(length).
pub fn find<'t, 'p, H: 't>(
    table: impl IntoIterator<Item = &'t Route<H>>,
    method: &Method,
    path: &'p str,
) -> Found<'t, 'p, H> {
    let mut others = Vec::new();
    for route in table {
        let Some(parameter) = matched(route.path, path) else { continue };
        if route.method == *method {
            return Found::Route(route, parameter);
        }
        others.push(&route.method);
    }
    if others.is_empty() { Found::Nothing } else { Found::OtherMethods(others) }
}

/// 405 with `Allow` (RFC 9110 section 15.5.6).
pub fn other_methods(allowed: &[&Method]) -> ControlResponse {
    let mut names: Vec<&str> = allowed.iter().map(|method| method.as_str()).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    let names = names.join(", ");
    let response =
        ControlResponse::error(StatusCode::METHOD_NOT_ALLOWED, format!("this endpoint takes {names}"));
    match HeaderValue::from_str(&names) {
        Ok(value) => response.with(header::ALLOW, value),
        Err(_) => response,
    }
}

/// Whether a path is one of a pattern: `Some` with what stood in braces.
fn matched<'p>(pattern: &str, path: &'p str) -> Option<Option<&'p str>> {
    let (mut parts, mut found) = (path.split('/'), None);
    for expected in pattern.split('/') {
        let part = parts.next()?;
        if expected.starts_with('{') {
            found = Some(part).filter(|part| !part.is_empty());
            found?;
        } else if expected != part {
            return None;
        }
    }
    parts.next().is_none().then_some(found)
}

/// How a table and an OpenAPI document differ, in words; `tag` picks the document's operations. Empty: they say the same.
pub fn differences<H>(table: &[Route<H>], document: &serde_json::Value, tag: &str) -> Vec<String> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let row = |method: &str, path: &str, least: &str, summary: &str| {
        format!("{} {path} ({least}): {summary}", method.to_ascii_uppercase())
    };
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            if operation["tags"].as_array().is_some_and(|tags| tags.iter().any(|name| *name == *tag)) {
                let (least, summary) = (text(&operation["x-nearside-access"]), text(&operation["summary"]));
                documented.insert(row(method, path, &least, &summary));
            }
        }
    }
    let served: BTreeSet<String> = table
        .iter()
        .map(|route| row(route.method.as_str(), route.path, route.least.name(), route.summary))
        .collect();
    let undocumented = served.difference(&documented).map(|row| format!("not in the document: {row}"));
    undocumented.chain(documented.difference(&served).map(|row| format!("not served: {row}"))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::Grant;

    #[test]
    fn requests_are_found_or_told_what_there_is() {
        let route = |method, path| Route { method, path, least: Access::Read, summary: "", handler: () };
        let table = [
            route(Method::GET, "/v1/drains"),
            route(Method::POST, "/v1/drains"),
            route(Method::DELETE, "/v1/drains/{pop}"),
        ];
        assert!(matches!(find(&table, &Method::GET, "/v1/drains"), Found::Route(_, None)));
        assert!(matches!(find(&table, &Method::DELETE, "/v1/drains/fra"), Found::Route(_, Some("fra"))));
        for path in ["/v1/drain", "/v1/drains/fra/x", "/v1/drains//", "/v1", ""] {
            assert!(matches!(find(&table, &Method::GET, path), Found::Nothing), "{path}");
        }
        let Found::OtherMethods(methods) = find(&table, &Method::PUT, "/v1/drains") else { panic!() };
        let refused = other_methods(&methods);
        assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(refused.headers, [(header::ALLOW, HeaderValue::from_static("GET, POST, HEAD"))]);
    }

    #[test]
    fn who_may_do_what() {
        let token =
            |role| Role::Token(Arc::new(Grant { token: "t".into(), role, sites: vec!["www".into()] }));
        let (deployer, reader) = (token(TokenRole::Deployer), token(TokenRole::Reader));
        let (node, operator) = (Role::Node("fra".into()), token(TokenRole::Operator));
        let all = [Access::Public, Access::Read, Access::Deploy, Access::Change];
        for (role, may) in [
            (&Role::Anonymous, [true, false, false, false]),
            (&node, [true, true, false, false]),
            (&reader, [true, true, false, false]),
            (&deployer, [true, false, true, false]),
            (&operator, [true; 4]),
            (&Role::Operator, [true; 4]),
            (&Role::Controller, [true; 4]),
            (&Role::Local, [true; 4]),
        ] {
            assert_eq!(all.map(|access| access.allows(role)), may, "{role:?}");
        }
    }
}
