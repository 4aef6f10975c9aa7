//! What a site adds to the RFCs: the fleet file's `[site.NAME.cache]`, digested once per reload.
//!
//! Rules only ever speak where the origin is silent. They never extend what a directive forbids.

use std::time::Duration;

use nearside_fleet::config::{QueryKey, SiteCache};

/// The caching rules of one site.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Lifetime of responses whose origin gives none; `None`: RFC 9111 and nothing more.
    pub default_ttl: Option<Duration>,
    /// `stale-while-revalidate` where the origin gives none.
    pub stale_while_revalidate: Duration,
    /// `stale-if-error` where the origin gives none.
    pub stale_if_error: Duration,
    /// Largest object that is stored, bytes.
    pub object_bytes_max: u64,
    /// Whether the query is part of the key, and how.
    pub query: QueryKey,
}

impl From<&SiteCache> for Rules {
    fn from(site: &SiteCache) -> Rules {
        Rules {
            default_ttl: site.default_ttl,
            stale_while_revalidate: site.stale_while_revalidate,
            stale_if_error: site.stale_if_error,
            object_bytes_max: site.object_bytes_max,
            query: site.query.clone(),
        }
    }
}

impl Default for Rules {
    /// What RFC 9111 allows, and nothing more.
    fn default() -> Rules {
        Rules {
            default_ttl: None,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            object_bytes_max: u64::MAX,
            query: QueryKey::Keep,
        }
    }
}
