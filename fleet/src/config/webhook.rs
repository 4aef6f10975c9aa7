//! Webhooks of home: who is told of events, and how.

use std::path::PathBuf;

/// The kinds of events that a webhook may ask for. Home raises these and no others: a test there holds the two together.
pub const EVENTS: &[&str] = &[
    "pop-down",
    "node-unreachable",
    "node-refusing",
    "clock-wrong",
    "disk-trouble",
    "purge-lag",
    "certificate-expiring",
    "certificate-failed",
    "publish-refused",
    "publish-rolled-back",
    "node-revoked",
    "backup-failed",
];

/// `[controller.webhook.NAME]`. Its files stay at home: they are not part of snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its key in the fleet file.
    pub name: super::Id,
    /// Where it is.
    pub address: WebhookAddress,
    /// What is sent.
    pub format: WebhookFormat,
    /// A file whose first line the requests are signed with.
    pub secret_file: Option<PathBuf>,
    /// PEM bundle that replaces the system's roots.
    pub ca: Option<PathBuf>,
    /// Of [`EVENTS`]; empty: all.
    pub events: Vec<String>,
}

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookAddress {
    /// As written.
    Url(WebhookUrl),
    /// In the first line of a file: many services' addresses are secrets.
    File(PathBuf),
}

/// A URL that is posted to.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    /// Over TLS.
    pub scheme: super::Scheme,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl std::fmt::Debug for WebhookUrl {
    /// Without its path, which may be what lets one in.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/…", self.host, self.port)
    }
}

impl std::str::FromStr for WebhookUrl {
    type Err = ();

    /// `https://host[:port]/path?query` or the same with `http`; nothing else (no user, no fragment).
    fn from_str(text: &str) -> Result<Self, ()> {
        let (scheme, rest, port) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (super::Scheme::Https, rest, 443),
            (_, Some(rest)) => (super::Scheme::Http, rest, 80),
            _ => return Err(()),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let is_clean = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let (host, port) = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, ""))) => (host, port),
            Some(Some((host, rest))) => {
                (host, rest.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or(())?)
            }
            Some(None) => return Err(()),
            None => match authority.split_once(':') {
                Some((host, written)) => (host, written.parse().map_err(|_| ())?),
                None => (authority, port),
            },
        };
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        let is_host = !host.is_empty() && host.len() <= 253 && host.bytes().all(named);
        (is_host && is_clean).then(|| WebhookUrl { scheme, host: host.to_owned(), port, path }).ok_or(())
    }
}

/// What a webhook is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookFormat {
    /// A message of a Lark or Feishu bot, signed as theirs are.
    Lark,
    /// A message of Slack and of what speaks like it.
    Slack,
    /// The event as home's API shows it.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url: WebhookUrl = "https://hooks.test/a?b=c".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("hooks.test", 443, "/a?b=c"));
        let url: WebhookUrl = "http://[::1]:8080".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("::1", 8080, "/"));
        for bad in
            ["ftp://a/", "https://", "https://a b/", "https://u@a/", "https://a:x/", "https://a/#b", "a.test"]
        {
            assert_eq!(bad.parse::<WebhookUrl>().err(), Some(()), "{bad}");
        }
        assert!(!format!("{:?}", "https://a.test/secret".parse::<WebhookUrl>().unwrap()).contains("secret"));
    }
}
