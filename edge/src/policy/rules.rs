//! What a site adds to the RFCs: the fleet file's `[site.NAME.cache]`, digested once per reload.
//!
//! Where the origin is silent, the site's defaults speak. A rule's `ttl` speaks in the origin's place,
//! because an operator wrote it for just these responses; even so, nothing here makes storable
//! what `no-store` or `private` forbid, or spares the validation that `no-cache` asks for.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use nearside_fleet::config::{CacheRule, QueryKey, SetCookie, SiteCache};

use super::key;

/// The caching rules of one site.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Lifetime of responses whose origin gives none; `None`: RFC 9111 and nothing more.
    pub default_ttl: Option<Duration>,
    /// The same for errors that may be kept.
    pub negative_ttl: Option<Duration>,
    /// `stale-while-revalidate` where the origin gives none.
    pub stale_while_revalidate: Duration,
    /// `stale-if-error` where the origin gives none.
    pub stale_if_error: Duration,
    /// Largest object that is stored, bytes.
    pub object_bytes_max: u64,
    /// Whether the query is part of the key, and how.
    pub query: QueryKey,
    /// Requests with one of these cookies pass.
    pub bypass_cookies: Vec<String>,
    /// What becomes of responses that set a cookie.
    pub set_cookie: SetCookie,
    /// Request fields that tell responses apart, beside those of `Vary`.
    pub key_headers: Vec<HeaderName>,
    /// What differs for some paths and statuses.
    pub exceptions: Vec<Exception>,
}

/// One `[[site.NAME.cache.rule]]`, with its `Cache-Control` ready to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Exception {
    rule: CacheRule,
    client_cache_control: Option<HeaderValue>,
}

impl Exception {
    /// Whether the rule goes by the extension, and the response is a page that only was asked for by such a name:
    /// `/account/x.css` answered with the account is how strangers' pages get into caches.
    fn is_deceived(&self, headers: &HeaderMap) -> bool {
        let names = &self.rule.extensions;
        !names.is_empty() && is_page(headers) && !names.iter().any(|name| PAGES.contains(&name.as_str()))
    }

    fn matches(&self, path: &str, status: StatusCode) -> bool {
        let rule = &self.rule;
        let in_path = rule.path.as_ref().is_none_or(|start| {
            let path_is = |path: &str| path.starts_with(start.as_str());
            // `/static/..%2Faccount` is the account to an origin that decodes first: it must be in both ways.
            path_is(path) && as_decoded(path).is_none_or(|path| path_is(&path))
        });
        let in_statuses = rule.statuses.is_empty() || rule.statuses.contains(&status.as_u16());
        let in_extensions = rule.extensions.is_empty()
            || extension(path)
                .is_some_and(|found| rule.extensions.iter().any(|e| e.eq_ignore_ascii_case(found)));
        in_path && in_statuses && in_extensions
    }
}

impl Rules {
    /// Whether a request with these fields must have nothing to do with the cache.
    pub fn bypasses(&self, headers: &HeaderMap) -> bool {
        !self.bypass_cookies.is_empty()
            && headers.get_all(header::COOKIE).iter().any(|line| {
                let pairs = line.as_bytes().split(|byte| *byte == b';');
                let mut names = pairs
                    .map(|pair| pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii());
                names.any(|name| self.bypass_cookies.iter().any(|cookie| cookie.as_bytes() == name))
            })
    }

    /// Lifetime in place of whatever the origin says in `headers`. Rules by extension don't hold for pages of HTML
    /// under other names.
    pub fn ttl(&self, path: &str, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        let holds =
            |exception: &&Exception| exception.matches(path, status) && !exception.is_deceived(headers);
        let mut matching = self.exceptions.iter().filter(holds);
        matching.find_map(|exception| exception.rule.ttl)
    }

    /// Lifetime where the origin says nothing.
    pub fn default_lifetime(&self, status: StatusCode) -> Option<Duration> {
        let is_error = status.is_client_error() || status.is_server_error();
        if is_error { self.negative_ttl } else { self.default_ttl }
    }

    /// Puts the site's `Cache-Control` for clients in place of the origin's. `status` is the stored
    /// one, also where a 206 or 304 is made of it. Whatever else would tell clients a lifetime goes.
    pub fn for_client(&self, path: &str, status: StatusCode, headers: &mut HeaderMap) {
        let mut matching = self.exceptions.iter().filter(|exception| exception.matches(path, status));
        if let Some(value) = matching.find_map(|exception| exception.client_cache_control.as_ref()) {
            headers.insert(header::CACHE_CONTROL, value.clone());
            headers.remove(header::EXPIRES);
            headers.remove(header::PRAGMA);
        }
    }
}

/// Extensions under which pages of HTML are expected.
const PAGES: [&str; 6] = ["html", "htm", "xhtml", "shtml", "php", "asp"];

/// Whether it is HTML by its `Content-Type`.
fn is_page(headers: &HeaderMap) -> bool {
    let types = headers.get_all(header::CONTENT_TYPE).iter();
    let mut types = types.map(|value| {
        let media = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        media.trim_ascii().to_ascii_lowercase()
    });
    types.any(|media| matches!(media.as_slice(), b"text/html" | b"application/xhtml+xml"))
}

/// The path as an origin sees it that takes encoded separators for separators; `None`: there are none.
pub(crate) fn as_decoded(path: &str) -> Option<String> {
    let has_separators = path.contains("%2F") || path.contains("%5C");
    has_separators.then(|| key::without_dot_segments(&path.replace("%2F", "/").replace("%5C", "/")))
}

/// Whether a response is a page of HTML under a name that is none of a page's.
pub(super) fn is_disguised(path: &str, headers: &HeaderMap) -> bool {
    extension(path).is_some_and(|found| !PAGES.iter().any(|page| page.eq_ignore_ascii_case(found)))
        && is_page(headers)
}

/// What follows the last dot of the last segment.
fn extension(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    name.rsplit_once('.').map(|(_, extension)| extension)
}

impl From<&SiteCache> for Rules {
    fn from(site: &SiteCache) -> Rules {
        let exception = |rule: &CacheRule| Exception {
            rule: rule.clone(),
            client_cache_control: rule.client_cache_control.as_deref().and_then(|text| text.parse().ok()),
        };
        Rules {
            default_ttl: site.default_ttl,
            negative_ttl: site.negative_ttl,
            stale_while_revalidate: site.stale_while_revalidate,
            stale_if_error: site.stale_if_error,
            object_bytes_max: site.object_bytes_max,
            query: site.query.clone(),
            bypass_cookies: site.bypass_cookies.clone(),
            set_cookie: site.set_cookie,
            key_headers: site.key_headers.iter().filter_map(|name| name.parse().ok()).collect(),
            exceptions: site.rules.iter().map(exception).collect(),
        }
    }
}

impl Default for Rules {
    /// What RFC 9111 allows, and nothing more.
    fn default() -> Rules {
        Rules::from(&SiteCache { object_bytes_max: u64::MAX, ..SiteCache::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_by_path_extension_and_status() {
        let rule = CacheRule {
            path: Some("/static/".into()),
            extensions: vec!["css".into(), "js".into()],
            statuses: vec![200],
            ttl: Some(Duration::from_secs(9)),
            client_cache_control: None,
        };
        let all = CacheRule { ttl: Some(Duration::from_secs(1)), ..CacheRule::default() };
        let rules = Rules::from(&SiteCache { rules: vec![rule, all], ..SiteCache::default() });
        for (path, status, secs) in [
            ("/static/a.css", 200, 9),
            ("/static/b/a.min.JS", 200, 9),
            ("/static/a.css", 404, 1),
            ("/static/a.css/b", 200, 1),
            ("/static/css", 200, 1),
            ("/static/..%2Faccount/a.css", 200, 1),
            ("/static/%5C..%5C..%5Caccount.css", 200, 1),
            ("/static/b%2Fa.css", 200, 9),
            ("/a.css", 200, 1),
        ] {
            let ttl = rules.ttl(path, StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
            assert_eq!(ttl, Some(Duration::from_secs(secs)), "{path} {status}");
        }
    }

    #[test]
    fn a_page_is_no_style_sheet() {
        let rule = |extension: &str| CacheRule {
            extensions: vec![extension.into()],
            ttl: Some(Duration::from_secs(9)),
            ..CacheRule::default()
        };
        let rules =
            Rules::from(&SiteCache { rules: vec![rule("css"), rule("html")], ..SiteCache::default() });
        for (path, content_type, holds) in [
            ("/account/x.css", Some("text/html; charset=utf-8"), false),
            ("/account/x.css", Some("TEXT/HTML"), false),
            ("/account/x.css", Some("application/xhtml+xml"), false),
            ("/account%2Fx.css", Some("text/html"), false),
            ("/account;x.css", Some("text/html"), false),
            ("/x.css", Some("text/css"), true),
            ("/x.css", None, true),
            ("/x.html", Some("text/html"), true),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(content_type.map(|text| (header::CONTENT_TYPE, HeaderValue::from_static(text))));
            let ttl = rules.ttl(path, StatusCode::OK, &headers);
            assert_eq!(ttl.is_some(), holds, "{path} {content_type:?}");
        }
    }

    #[test]
    fn cookies_bypass_by_their_exact_name() {
        let rules = Rules::from(&SiteCache { bypass_cookies: vec!["sid".into()], ..SiteCache::default() });
        for (cookie, bypasses) in [
            ("sid=1", true),
            ("a=b; sid", true),
            ("a=b;sid=", true),
            ("xsid=1", false),
            ("a=sid", false),
            ("SID=1", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(header::COOKIE, HeaderValue::from_static("first=1"));
            headers.append(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
            assert_eq!(rules.bypasses(&headers), bypasses, "{cookie}");
        }
    }
}
