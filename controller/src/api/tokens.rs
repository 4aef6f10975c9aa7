//! `GET`, `POST /v1/tokens`, `DELETE /v1/tokens/{name}`; and what a deployer's token may name.

use std::time::SystemTime;

use http::StatusCode;
use nearside_fleet::{config::Config, purge::Scope};
use nearside_node::{
    ControlResponse,
    control::{Grant, TokenRole},
};
use serde::{Deserialize, Serialize};

use super::{failed, table::Call};
use crate::{home::seconds, journal::token::Token, tokens::TokenError};

/// Longest life of a token: what is to last longer has a certificate.
const LIFE_SECONDS_MAX: u64 = 2 * 366 * 86_400;

/// Body of `POST /v1/tokens`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: TokenRole,
    /// For which sites, a deployer's.
    #[serde(default)]
    pub sites: Vec<String>,
    /// How long it is good.
    pub expires_seconds: u64,
}

/// Answer to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// What was made.
    #[serde(flatten)]
    pub made: Token,
    /// The token, shown this once.
    pub token: String,
}

/// Answer to `GET /v1/tokens`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenList {
    /// By name; ended ones too.
    pub tokens: Vec<Token>,
}

/// Lists them.
pub(super) async fn list(call: Call) -> ControlResponse {
    ControlResponse::ok(&TokenList { tokens: call.controller.tokens().list() })
}

/// Makes one.
pub(super) async fn create(call: Call) -> ControlResponse {
    let asked: TokenRequest = match call.request.json() {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let bad = |message: String| ControlResponse::error(StatusCode::BAD_REQUEST, message);
    if !(1..=LIFE_SECONDS_MAX).contains(&asked.expires_seconds) {
        return bad(format!("expires_seconds must be 1 to {LIFE_SECONDS_MAX}, two years"));
    }
    let known: Vec<String> =
        call.controller.with_config(|config| config.sites.keys().cloned().collect()).unwrap_or_default();
    if let Some(site) = asked.sites.iter().find(|site| !known.contains(site)) {
        return bad(format!("there is no site {site}; there are: {}", known.join(", ")));
    }
    let now = seconds(SystemTime::now());
    let expires = now + asked.expires_seconds;
    match call.controller.tokens().create(&asked.name, asked.role, &asked.sites, Some(expires), now) {
        Ok((made, token)) => {
            let sites = made.sites.join(", ");
            call.audit(&format!("made token {} for a {} {sites}", made.name, made.role));
            ControlResponse::ok(&TokenAnswer { made, token })
        }
        Err(TokenError::Wrong(reason)) => bad(reason),
        Err(taken @ TokenError::Taken(_)) => ControlResponse::error(StatusCode::CONFLICT, taken),
        Err(error) => failed(&error),
    }
}

/// Ends one.
pub(super) async fn revoke(call: Call) -> ControlResponse {
    match call.controller.tokens().revoke(&call.parameter) {
        Ok(true) => {
            call.audit(&format!("revoked token {}", call.parameter));
            ControlResponse::ok(&serde_json::json!({}))
        }
        Ok(false) => ControlResponse::error(StatusCode::NOT_FOUND, "there is no such token"),
        Err(error) => failed(&error),
    }
}

impl Call {
    /// Refuses what the caller's token does not cover: a deployer's names sites, everybody else may name all.
    ///
    /// # Errors
    /// A 403 that says what it may name.
    pub fn confine(&self, scopes: &[Scope]) -> Result<(), ControlResponse> {
        let Some(grant) = self.request.role.token().filter(|grant| grant.role == TokenRole::Deployer) else {
            return Ok(());
        };
        let outside = self
            .controller
            .with_config(|config| outside(grant, config, scopes))
            .unwrap_or_else(|| Some("nothing was published yet, so no URL belongs to a site".to_owned()));
        outside.map_or(Ok(()), |reason| Err(ControlResponse::error(StatusCode::FORBIDDEN, reason)))
    }

    /// [`Call::confine`] for URLs.
    ///
    /// # Errors
    /// A 403.
    pub fn confine_urls<'u>(&self, urls: impl IntoIterator<Item = &'u str>) -> Result<(), ControlResponse> {
        let scopes: Vec<Scope> = urls.into_iter().map(|url| Scope::Url(url.to_owned())).collect();
        self.confine(&scopes)
    }
}

/// The first scope that a deployer may not name, in words.
fn outside(grant: &Grant, config: &Config, scopes: &[Scope]) -> Option<String> {
    let own = |site: &str| grant.sites.iter().any(|own| own == site);
    let allowed = |scope: &&Scope| match scope {
        Scope::Url(url) => host_of_url(url).and_then(|host| site_of(config, &host)).is_some_and(own),
        Scope::Prefix(prefix) => site_of(config, &host_of_prefix(prefix)).is_some_and(own),
        Scope::Tag { site, .. } => site.as_deref().is_some_and(own),
        Scope::Site(site) => own(site),
        Scope::All => false,
    };
    let scope = scopes.iter().find(|scope| !allowed(scope))?;
    let hosts: Vec<&str> = grant
        .sites
        .iter()
        .filter_map(|site| config.sites.get(site))
        .flat_map(|site| site.hosts.iter().map(String::as_str))
        .collect();
    Some(format!(
        "token {} may not name {scope}: it is for site {} alone (hosts {}), by URL, prefix, site, or tag with its site",
        grant.token,
        grant.sites.join(", "),
        hosts.join(", "),
    ))
}

/// As edges read a URL.
fn host_of_url(url: &str) -> Option<String> {
    Some(url.parse::<http::Uri>().ok()?.host()?.to_ascii_lowercase())
}

/// As edges read a prefix: up to the first slash, without a port.
fn host_of_prefix(prefix: &str) -> String {
    let rest = prefix.split_once("://").map_or(prefix, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    host.split(':').next().unwrap_or(host).to_ascii_lowercase()
}

/// The site that edges serve a host by: an exact name before a `*.` of one label.
fn site_of<'c>(config: &'c Config, host: &str) -> Option<&'c str> {
    let named = |wanted: &str| {
        let site = config.sites.values().find(|site| site.hosts.iter().any(|name| name == wanted))?;
        Some(site.name.as_str())
    };
    // A client's `*` is a name like any other to a table of names, and no host.
    if host.contains('*') {
        return None;
    }
    named(host).or_else(|| named(&format!("*{}", &host[host.find('.')?..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployer_names_its_own_sites_alone() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("nearside.toml");
        let text = "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\nipv4 = \"192.0.2.1\"\n\
            [site.www]\nhosts = [\"www.a.test\", \"*.img.test\"]\norigin = \"http://192.0.2.9\"\n\
            [site.other]\nhosts = \"b.img.test\"\norigin = \"http://192.0.2.9\"\n";
        std::fs::write(&file, text).unwrap();
        let config = nearside_fleet::load(&file).unwrap().config;
        let grant = Grant { token: "ci".into(), role: TokenRole::Deployer, sites: vec!["www".into()] };
        let tag = |site: Option<&str>| Scope::Tag { tag: "t".into(), site: site.map(str::to_owned) };
        let url = |text: &str| Scope::Url(text.into());
        let prefix = |text: &str| Scope::Prefix(text.into());
        for own in [
            url("https://www.a.test/x"),
            url("http://WWW.a.test:8080/"),
            url("https://a.img.test/x"),
            prefix("https://www.a.test/img/"),
            tag(Some("www")),
            Scope::Site("www".into()),
        ] {
            assert_eq!(outside(&grant, &config, std::slice::from_ref(&own)), None, "{own}");
        }
        for other in [
            url("https://b.img.test/x"),
            url("https://unknown.test/"),
            url("https://www.a.test@b.img.test/x"),
            url("https://x.a.img.test/"),
            prefix("https://b.img.test/"),
            prefix("https://www.a.test@b.img.test/"),
            prefix("https://*.img.test/"),
            tag(None),
            tag(Some("other")),
            Scope::Site("other".into()),
            Scope::All,
        ] {
            let told = outside(&grant, &config, &[url("https://www.a.test/x"), other.clone()]);
            assert!(told.unwrap().contains("site www alone (hosts www.a.test, *.img.test)"), "{other}");
        }
    }
}
