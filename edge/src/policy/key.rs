//! The primary key, and the one spelling of a request's target (RFC 3986 §6.2.2, RFC 9111 §2).
//!
//! A [`Target`] is made once per request. The key, the site's rules and the request that goes to
//! the origin all read the same [`Target`], so that no two of them can be told different stories.
//! Query parameters that are not part of the key do not reach the origin of a stored response either:
//! otherwise whoever asks first chooses what everyone gets.
//!
//! Normalised: percent-encoded unreserved characters are decoded, other encodings get upper case
//! digits, dot segments are removed; in paths, characters that no URI may hold are encoded (`\`, which
//! some origins take for `/`, among them). `%2F` stays encoded, empty segments stay, a `%` that encodes
//! nothing stays as it is: they mean something to origins.

use std::fmt;

use nearside_fleet::config::QueryKey;

/// A request's host, path and query in their canonical spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: Box<str>,
    path: Box<str>,
    query: Option<Box<str>>,
}

impl Target {
    /// Normalises `host` (without port and brackets kept as given), `path` and `query`.
    pub fn new(host: &str, path: &str, query: Option<&str>, keyed: &QueryKey) -> Target {
        Target { host: normal_host(host), path: normal_path(path), query: canonical_query(query, keyed) }
    }

    /// Host name or address literal: lower case, without final dot.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Absolute path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Canonical query, without `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Path and query as they go to the origin.
    pub fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.to_string(),
        }
    }
}

/// The primary cache key: site, scheme where it matters, host, path, canonical query.
///
/// One string, compared exactly: `site SP [scheme] SP host path ["?" query]`. A site's name and a
/// normalised host hold no space, a path starts with `/`, so no two keys share a spelling. What is made of a stored response
/// lies under that response's key, followed by a space and what it is: no request can spell that.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey {
    text: Box<str>,
    host_at: u32,
    path_at: u32,
    /// Where the key of the source ends; the text's end, for what came from an origin.
    source_end: u32,
}

impl CacheKey {
    /// The key of `target` at `site`. `scheme` is given where http and https differ.
    pub fn new(site: &str, scheme: Option<&str>, target: &Target) -> CacheKey {
        let scheme = scheme.unwrap_or("");
        let query_bytes = target.query.as_ref().map_or(0, |query| query.len() + 1);
        let capacity = site.len() + scheme.len() + target.host.len() + target.path.len() + query_bytes + 2;
        let mut text = String::with_capacity(capacity);
        text.push_str(site);
        text.push(' ');
        text.push_str(scheme);
        text.push(' ');
        let host_at = text.len() as u32;
        text.push_str(&target.host);
        let path_at = text.len() as u32;
        text.push_str(&target.path);
        if let Some(query) = &target.query {
            text.push('?');
            text.push_str(query);
        }
        let source_end = text.len() as u32;
        CacheKey { text: text.into_boxed_str(), host_at, path_at, source_end }
    }

    /// The key of what was made of the response under this key. `made` says what it is; without spaces.
    pub fn derived(&self, made: &str) -> CacheKey {
        let text = format!("{} {made}", self.source()).into_boxed_str();
        CacheKey { text, ..*self }
    }

    /// Whether it is of something made here.
    pub fn is_derived(&self) -> bool {
        (self.source_end as usize) < self.text.len()
    }

    /// The key of the response that it was made of: itself, for what came from an origin. Purges go by it.
    pub fn source(&self) -> &str {
        &self.text[..self.source_end as usize]
    }

    /// Reads back what [`CacheKey::as_str`] gave; `None` where it is no key.
    pub fn parse(text: &str) -> Option<CacheKey> {
        let (site, rest) = text.split_once(' ')?;
        let (scheme, rest) = rest.split_once(' ')?;
        let host_at = site.len() + scheme.len() + 2;
        let path_at = host_at + rest.find('/')?;
        let source_end = text[path_at..].find(' ').map_or(text.len(), |space| path_at + space);
        Some(CacheKey {
            text: text.into(),
            host_at: u32::try_from(host_at).ok()?,
            path_at: u32::try_from(path_at).ok()?,
            source_end: u32::try_from(source_end).ok()?,
        })
    }

    /// The whole key: stable, for disk and journal.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The site's name.
    pub fn site(&self) -> &str {
        self.text.split(' ').next().unwrap_or("")
    }

    /// Normalised host.
    pub fn host(&self) -> &str {
        &self.text[self.host_at as usize..self.path_at as usize]
    }

    /// Normalised path, then `?` and the canonical query where there is one.
    pub fn path_and_query(&self) -> &str {
        &self.text[self.path_at as usize..self.source_end as usize]
    }

    /// Normalised path.
    pub fn path(&self) -> &str {
        self.path_and_query().split('?').next().unwrap_or("")
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn normal_host(host: &str) -> Box<str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-')) {
        return host.into();
    }
    let escaped = host.chars().filter(|c| !c.is_ascii_whitespace() && *c != '/');
    escaped.map(|c| c.to_ascii_lowercase()).collect::<String>().into_boxed_str()
}

/// The one spelling of a path; see the module.
pub fn normal_path(path: &str) -> Box<str> {
    let mut path = normal_escapes(path, |byte| !b"\"<>\\^`{|}".contains(&byte));
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    if path.contains("/.") && path.split('/').any(|segment| segment == "." || segment == "..") {
        path = without_dot_segments(&path);
    }
    path.into_boxed_str()
}

/// RFC 3986 §5.2.4 for an absolute path; nothing climbs above the root.
pub(super) fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut open = false;
    for segment in path.split('/').skip(1) {
        open = segment == "." || segment == "..";
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut clean = String::with_capacity(path.len());
    for segment in &kept {
        clean.push('/');
        clean.push_str(segment);
    }
    if open || clean.is_empty() {
        clean.push('/');
    }
    clean
}

/// Upper case digits; unreserved characters decoded; what is not printable, or not `legal`, encoded.
fn normal_escapes(text: &str, legal: impl Fn(u8) -> bool) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let bytes = text.as_bytes();
    // Nearly all are what they should be already: looked at once, copied once.
    let stays =
        |byte: u8| byte.is_ascii_alphanumeric() || (byte.is_ascii_graphic() && byte != b'%' && legal(byte));
    if bytes.iter().all(|&byte| stays(byte)) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = match bytes[at..] {
            [b'%', high, low, ..] => hex(high).zip(hex(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        let (byte, encoded) = match escaped {
            Some(byte) => (byte, true),
            None => (bytes[at], false),
        };
        at += if encoded { 3 } else { 1 };
        let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        if unreserved || (!encoded && byte.is_ascii_graphic() && legal(byte)) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// The query as key and origin see it. `None`: there is none; an empty query stays empty under `Keep`.
fn canonical_query(query: Option<&str>, keyed: &QueryKey) -> Option<Box<str>> {
    let query = normal_escapes(query?, |_| true);
    let mut parameters: Vec<&str> = query.split('&').filter(|parameter| !parameter.is_empty()).collect();
    match keyed {
        QueryKey::Keep => return Some(query.into_boxed_str()),
        QueryKey::Ignore => return None,
        QueryKey::Sort => {}
        QueryKey::Only(names) => parameters.retain(|p| names.iter().any(|name| name == parameter_name(p))),
        QueryKey::Except(names) => parameters.retain(|p| !names.iter().any(|name| name == parameter_name(p))),
    }
    if parameters.is_empty() {
        return None;
    }
    // Stable: parameters of one name keep their order, which many origins read as an array.
    parameters.sort_by_key(|parameter| parameter_name(parameter));
    Some(parameters.join("&").into_boxed_str())
}

fn parameter_name(parameter: &str) -> &str {
    parameter.split('=').next().unwrap_or(parameter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> String {
        Target::new("h", path, None, &QueryKey::Keep).path().to_owned()
    }

    fn query(text: &str, keyed: &QueryKey) -> Option<String> {
        Target::new("h", "/", Some(text), keyed).query().map(str::to_owned)
    }

    #[test]
    fn one_spelling_per_path() {
        for (written, normal) in [
            ("/", "/"),
            ("", "/"),
            ("*", "/*"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/%2e%2E/x", "/x"),
            ("/a/%2e%2e%2fx", "/a/..%2Fx"),
            ("/%7euser/%41", "/~user/A"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2Fb", "/a%2Fb"),
            ("//a//b/", "//a//b/"),
            ("/100%", "/100%"),
            ("/%zz%4", "/%zz%4"),
            ("/%25%32%65", "/%252e"),
            ("/é", "/%C3%A9"),
            ("/a b\u{0}", "/a%20b%00"),
            ("/...", "/..."),
            ("/a\\..\\b", "/a%5C..%5Cb"),
            ("/a%5c..%5Cb", "/a%5C..%5Cb"),
            ("/a;b=c,d/", "/a;b=c,d/"),
            ("/{a}|^`\"<>", "/%7Ba%7D%7C%5E%60%22%3C%3E"),
        ] {
            assert_eq!(path(written), normal, "{written}");
        }
    }

    #[test]
    fn normalising_twice_changes_nothing() {
        for written in ["/a/../%2e/%2f//x%", "/%25%32%65", "/%252e%252e/", "/.%2e/..%2F.."] {
            let once = path(written);
            assert_eq!(path(&once), once, "{written}");
        }
    }

    #[test]
    fn the_query_by_the_sites_rule() {
        let only = QueryKey::Only(vec!["v".into(), "b".into()]);
        let except = QueryKey::Except(vec!["utm_source".into()]);
        for (keyed, written, canonical) in [
            (&QueryKey::Keep, "b=1&a=2", Some("b=1&a=2")),
            (&QueryKey::Keep, "", Some("")),
            (&QueryKey::Sort, "b=1&a=2&a=1", Some("a=2&a=1&b=1")),
            (&QueryKey::Sort, "&&", None),
            (&QueryKey::Ignore, "x=1", None),
            (&only, "v=2&x=1&b", Some("b&v=2")),
            (&only, "%76=2", Some("v=2")),
            (&only, "x=1", None),
            (&except, "utm_source=x&z=1&a=1", Some("a=1&z=1")),
        ] {
            assert_eq!(query(written, keyed).as_deref(), canonical, "{keyed:?} {written}");
        }
    }

    #[test]
    fn hosts_fold() {
        assert_eq!(Target::new("WWW.Example.ORG.", "/", None, &QueryKey::Keep).host(), "www.example.org");
    }

    #[test]
    fn a_key_reads_back() {
        let target = Target::new("a.test", "/x y", Some("q=1?2"), &QueryKey::Keep);
        let key = CacheKey::new("site", Some("https"), &target);
        assert_eq!(key.as_str(), "site https a.test/x%20y?q=1?2");
        assert_eq!(CacheKey::parse(key.as_str()), Some(key.clone()));
        assert_eq!(key.site(), "site");
        assert_eq!(key.host(), "a.test");
        assert_eq!(key.path(), "/x%20y");
        assert_eq!(key.path_and_query(), "/x%20y?q=1?2");
        assert_eq!(CacheKey::parse("nonsense"), None);
        let made = key.derived("br");
        assert_eq!(made.as_str(), "site https a.test/x%20y?q=1?2 br");
        assert_eq!(CacheKey::parse(made.as_str()), Some(made.clone()));
        assert_eq!((made.source(), made.path_and_query()), (key.as_str(), key.path_and_query()));
        assert_eq!(made.derived("gzip"), key.derived("gzip"), "of the source, not of what was made of it");
        assert_ne!(made, key);
    }
}
