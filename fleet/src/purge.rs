//! A purge as it travels from home to the edges, and what an edge answers.
//!
//! A purge means "invalid if stored before it came". Each has a number in the fleet's one sequence; an edge
//! applies every number once, in any order, and says up to which it has all.

use serde::{Deserialize, Serialize};

/// Purges in one message: an edge that was away catches up in pages.
pub const PURGES_MAX: usize = 1_000;
/// Bytes of a URL, prefix or tag.
pub const TEXT_BYTES_MAX: usize = 8_192;

/// One purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Purge {
    /// Its number in the fleet's sequence, from 1; `None`: an order to this one edge (through its socket).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// What it covers.
    pub scope: Scope,
    /// What it does.
    #[serde(default)]
    pub mode: Mode,
}

/// What a purge covers. In JSON `{"url": "…"}`, `{"prefix": "…"}`, `{"tag": {"tag": "…", "site": "…"}}`,
/// `{"site": "…"}` or `"all"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One absolute URL, with all its variants and ranges.
    Url(String),
    /// All URLs that begin so; `*` stands for any run of characters.
    Prefix(String),
    /// All responses with this tag in `Surrogate-Key` or `Cache-Tag`.
    Tag {
        /// The tag, compared exactly.
        tag: String,
        /// Only of this site; `None`: of all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
    },
    /// All of one site, by its name in the fleet file.
    Site(String),
    /// Everything.
    All,
}

/// What a purge does to what it covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Never served again.
    #[default]
    Hard,
    /// Stale from now on: revalidated, or served where stale responses may be.
    Soft,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) => write!(f, "{url}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Tag { tag, site: None } => write!(f, "tag {tag}"),
            Self::Tag { tag, site: Some(site) } => write!(f, "tag {tag} of site {site}"),
            Self::Site(site) => write!(f, "site {site}"),
            Self::All => write!(f, "everything"),
        }
    }
}

/// Body of `POST /v1/purges`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Purges {
    /// In order of their sequence; at most [`PURGES_MAX`].
    pub purges: Vec<Purge>,
    /// What home knows of the sequence, so that an edge that has lost its own place in it finds it again.
    /// `None`: an order to this one edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Journal>,
}

/// Home's journal of purges, as one edge is told of it.
///
/// An edge that holds nothing can't hold anything stale: it goes on from `newest`. One that began with nothing,
/// and has had no purge since, goes on from `acknowledged`: all up to there came before it began. One that lacks purges
/// that home has no more purges softly all it holds, and goes on from `trimmed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// All up to this one were acknowledged by this edge, or by who bore its name before.
    pub acknowledged: u64,
    /// The last one.
    pub newest: u64,
    /// All up to this one are no longer in the journal.
    pub trimmed: u64,
}

/// Answer to [`Purges`], given once all of them are in force and journaled. Where it is less than what was sent, the edge
/// lacks earlier ones: home goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// Every sequence up to this one is in force here.
    pub through: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_what_is_documented() {
        let scopes = [
            (Scope::Url("https://a.test/x".into()), r#"{"url":"https://a.test/x"}"#),
            (Scope::Prefix("https://a.test/i/".into()), r#"{"prefix":"https://a.test/i/"}"#),
            (Scope::Tag { tag: "t".into(), site: None }, r#"{"tag":{"tag":"t"}}"#),
            (Scope::Site("www".into()), r#"{"site":"www"}"#),
            (Scope::All, r#""all""#),
        ];
        for (scope, json) in scopes {
            assert_eq!(serde_json::to_string(&scope).unwrap(), json);
            assert_eq!(serde_json::from_str::<Scope>(json).unwrap(), scope);
        }
        let purge: Purge = serde_json::from_str(r#"{"sequence":3,"scope":"all","mode":"soft"}"#).unwrap();
        assert_eq!(purge, Purge { sequence: Some(3), scope: Scope::All, mode: Mode::Soft });
        assert!(serde_json::from_str::<Purge>(r#"{"scope":"all","hard":true}"#).is_err());
    }
}
