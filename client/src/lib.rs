//! Asks a Nearside fleet where a user should download a file from: for site backends.
//!
//! [`Client::locate`] finds the PoP that is nearest to the user and healthy, and whether it holds the file. If it does, the URL is
//! the PoP's; if not, the PoP is told to fetch it and the URL is the source's. Answers are kept by the user's network. Whatever goes
//! wrong, the URL is the source's, in time: this never fails and never panics. After a failure nobody is asked for a while, so
//! that a dead controller costs one timeout, not one per page.
//!
//! ```no_run
//! # async fn page() -> Result<(), nearside_client::SetupError> {
//! let settings = nearside_client::Settings {
//!     controller: "home.example.net:9443".to_owned(),
//!     ca: std::fs::read("ca.pem").unwrap_or_default(),
//!     credentials: nearside_client::Credentials::Token("…".to_owned()),
//!     name: "www.example.org".to_owned(),
//!     pop_url: "https://{pop}.dl.example.org".to_owned(),
//!     source_url: "https://origin.example.org".to_owned(),
//!     ..Default::default()
//! };
//! let client = nearside_client::Client::new(settings)?;
//! let link = client.locate([198, 51, 100, 7].into(), "/files/setup.exe").await.url;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod ask;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::ask::Asker;

/// Answers kept; some hundred bytes each.
const KEPT_MAX: usize = 10_000;
/// What is not there yet may be soon: kept no longer.
const ABSENT_KEPT_MAX: Duration = Duration::from_secs(2);

/// How the fleet is asked, and what URLs look like.
#[derive(Clone)]
pub struct Settings {
    /// HOST:PORT of the controller's API.
    pub controller: String,
    /// The fleet's CA, PEM.
    pub ca: Vec<u8>,
    /// Who asks.
    pub credentials: Credentials,
    /// A name that the fleet's DNS answers with PoPs.
    pub name: String,
    /// What comes before the path at a PoP; `{pop}` stands for its name.
    pub pop_url: String,
    /// The same at the source.
    pub source_url: String,
    /// For how long an answer is kept.
    pub keep: Duration,
    /// For one question, all in all.
    pub timeout: Duration,
    /// Without questions after a failure.
    pub pause: Duration,
    /// What to do with a file that is not at the PoP yet.
    pub absent: Absent,
}

/// Who asks.
#[derive(Clone)]
pub enum Credentials {
    /// A deployer's token.
    Token(String),
    /// Chain and key of an identity of the fleet, PEM.
    Certificate {
        /// Leaf first.
        chain: Vec<u8>,
        /// Its key.
        key: Vec<u8>,
    },
}

/// Where a file that is not at the PoP yet is downloaded from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Absent {
    /// From the source, until the PoP has it.
    #[default]
    FromSource,
    /// From the PoP, which fetches it while it serves it.
    FromPop,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            controller: String::new(),
            ca: Vec::new(),
            credentials: Credentials::Token(String::new()),
            name: String::new(),
            pop_url: String::new(),
            source_url: String::new(),
            keep: Duration::from_secs(30),
            timeout: Duration::from_secs(1),
            pause: Duration::from_secs(5),
            absent: Absent::default(),
        }
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The CA or the identity is no PEM of what it should be.
    #[error("{0}")]
    Pem(String),
    /// They don't fit together.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Where to download from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The URL to give to the user.
    pub url: String,
    /// Whether the PoP holds the file.
    pub state: State,
    /// The PoP nearest to the user; `None` where nobody could be asked.
    pub pop: Option<String>,
    /// Why nobody could be asked.
    pub error: Option<String>,
}

/// Whether the PoP holds the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Whole.
    Cached,
    /// Some of it.
    Partial,
    /// Nothing of it.
    Absent,
    /// Nobody could be asked.
    #[serde(skip)]
    Failed,
    /// The PoP could not be asked.
    #[serde(other)]
    Unknown,
}

/// A fleet, as a site's backend sees it. Share it.
pub struct Client {
    settings: Settings,
    asker: Asker,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    answers: HashMap<(IpAddr, String), (Instant, Located)>,
    quiet_until: Option<Instant>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("controller", &self.settings.controller).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that has asked nobody yet.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let asker = Asker::new(&settings)?;
        Ok(Self { settings, asker, kept: Mutex::default() })
    }

    /// Where the user at an address should download a path (`/files/x`) from. Takes no longer than the timeout. Cancel-safe.
    pub async fn locate(&self, user: IpAddr, path: &str) -> Located {
        let key = (network(user), path.to_owned());
        let failed = |error: String| Located {
            url: self.url(&self.settings.source_url, path),
            state: State::Failed,
            pop: None,
            error: Some(error),
        };
        {
            let (kept, now) = (self.kept.lock(), Instant::now());
            if let Some((until, located)) = kept.answers.get(&key)
                && *until > now
            {
                return located.clone();
            }
            if kept.quiet_until.is_some_and(|until| until > now) {
                return failed("not asked: the last question failed".to_owned());
            }
        }
        let wanted = self.url(&self.settings.pop_url, path);
        let asked = self.asker.ask(&self.settings.name, user, &wanted);
        let answer = match tokio::time::timeout(self.settings.timeout, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return self.pause(failed(error)),
            Err(_elapsed) => {
                return self.pause(failed(format!("no answer within {:?}", self.settings.timeout)));
            }
        };
        let state = answer.cached.map_or(State::Unknown, |cached| cached.state);
        let at_pop = match state {
            State::Cached => true,
            State::Partial | State::Absent => self.settings.absent == Absent::FromPop,
            State::Unknown | State::Failed => false,
        };
        let url = match answer.url.filter(|_| at_pop) {
            Some(url) => url,
            None => self.url(&self.settings.source_url, path),
        };
        let located = Located { url, state, pop: Some(answer.pop), error: None };
        self.keep(key, &located, Instant::now());
        located
    }

    fn url(&self, base: &str, path: &str) -> String {
        format!("{}{path}", base.trim_end_matches('/'))
    }

    fn pause(&self, located: Located) -> Located {
        self.kept.lock().quiet_until = Some(Instant::now() + self.settings.pause);
        located
    }

    fn keep(&self, key: (IpAddr, String), located: &Located, now: Instant) {
        let keep = match located.state {
            State::Cached => self.settings.keep,
            _ => self.settings.keep.min(ABSENT_KEPT_MAX),
        };
        let mut kept = self.kept.lock();
        if kept.answers.len() >= KEPT_MAX {
            kept.answers.retain(|_, (until, _)| *until > now);
        }
        if kept.answers.len() < KEPT_MAX {
            kept.answers.insert(key, (now + keep, located.clone()));
        }
    }
}

/// The part of an address by which users are told apart: /24, or /56 of IPv6.
fn network(user: IpAddr) -> IpAddr {
    match user.to_canonical() {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) & 0xffff_ff00).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & (u128::MAX << 72)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_a_network_are_alike() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(network(ip("198.51.100.7")), network(ip("::ffff:198.51.100.200")));
        assert_ne!(network(ip("198.51.100.7")), network(ip("198.51.101.7")));
        assert_eq!(network(ip("2001:db8:0:1ff::1")), ip("2001:db8:0:100::"));
    }
}
