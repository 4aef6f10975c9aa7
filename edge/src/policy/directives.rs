//! `Cache-Control` (RFC 9111 §5.2): bytes to directives, without ever failing.
//!
//! Names are compared without regard to case. Arguments may be tokens or quoted strings, whatever
//! the directive asks to be generated (§5.2). Directives we don't know are skipped whatever they
//! look like; a quoted string hides the commas in it only where it is a well-formed argument, so that
//! a stray quote can't swallow a `no-store` behind it.
//!
//! A lifetime that is no number is [`Delta::Invalid`], which counts as none left (§4.2.1). So does
//! one with space around its `=`: it isn't what the grammar allows, and guessing would make a
//! response fresher than its origin said. Of several, the first counts (§4.2.1).

use http::{HeaderMap, HeaderName, header};

/// The largest delta-seconds: what an overflow counts as (RFC 9111 §1.2.2).
pub const DELTA_SECS_MAX: u64 = 1 << 31;

/// An argument in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Delta {
    /// The directive isn't there.
    #[default]
    Absent,
    /// So many seconds, at most [`DELTA_SECS_MAX`].
    Secs(u64),
    /// It is there, but says no number of seconds.
    Invalid,
}

impl Delta {
    /// The seconds, where they could be read.
    pub fn secs(self) -> Option<u64> {
        match self {
            Delta::Secs(secs) => Some(secs),
            Delta::Absent | Delta::Invalid => None,
        }
    }

    /// Whether the directive was there at all.
    pub fn is_present(self) -> bool {
        self != Delta::Absent
    }

    fn first(&mut self, delta: Delta) {
        if *self == Delta::Absent {
            *self = delta;
        }
    }
}

/// What `no-cache` or `private` covers (RFC 9111 §5.2.2.4, §5.2.2.7).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Covers {
    /// The directive isn't there.
    #[default]
    Nothing,
    /// These fields.
    Fields(Vec<HeaderName>),
    /// The whole response.
    Response,
}

impl Covers {
    /// Adds another occurrence; the whole response is more than any of its fields.
    fn widen(&mut self, other: Covers) {
        match (&mut *self, other) {
            (_, Covers::Nothing) | (Covers::Response, _) => {}
            (Covers::Fields(fields), Covers::Fields(more)) => fields.extend(more),
            (covers, other) => *covers = other,
        }
    }
}

/// The directives of a response.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ResponseDirectives {
    /// §5.2.2.5
    pub no_store: bool,
    /// §5.2.2.4
    pub no_cache: Covers,
    /// §5.2.2.7
    pub private: Covers,
    /// §5.2.2.9
    pub public: bool,
    /// §5.2.2.2
    pub must_revalidate: bool,
    /// §5.2.2.8
    pub proxy_revalidate: bool,
    /// §5.2.2.3
    pub must_understand: bool,
    /// RFC 8246
    pub immutable: bool,
    /// §5.2.2.1
    pub max_age: Delta,
    /// §5.2.2.10
    pub s_maxage: Delta,
    /// RFC 5861 §3
    pub stale_while_revalidate: Delta,
    /// RFC 5861 §4
    pub stale_if_error: Delta,
}

/// The directives of a request (RFC 9111 §5.2.1). All of them are wishes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RequestDirectives {
    /// §5.2.1.4, or `Pragma: no-cache` where there is no `Cache-Control` (§5.4).
    pub no_cache: bool,
    /// §5.2.1.5
    pub no_store: bool,
    /// §5.2.1.7
    pub only_if_cached: bool,
    /// §5.2.1.1
    pub max_age: Delta,
    /// §5.2.1.3
    pub min_fresh: Delta,
    /// §5.2.1.2; without argument: [`u64::MAX`], any staleness.
    pub max_stale: Delta,
    /// RFC 5861 §4
    pub stale_if_error: Delta,
}

/// A directive's argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// No `=`.
    None,
    /// A token or the content of a quoted string.
    Value(Vec<u8>),
    /// Something after `=` that is neither, or space around it.
    Malformed,
}

impl Argument {
    fn delta(&self) -> Delta {
        match self {
            Argument::Value(value) => delta_seconds(value).map_or(Delta::Invalid, Delta::Secs),
            Argument::None | Argument::Malformed => Delta::Invalid,
        }
    }

    fn covers(&self) -> Covers {
        match self {
            Argument::Value(value) => field_names(value),
            Argument::None | Argument::Malformed => Covers::Response,
        }
    }
}

impl ResponseDirectives {
    /// Reads all `Cache-Control` lines.
    pub fn read(headers: &HeaderMap) -> ResponseDirectives {
        let mut directives = ResponseDirectives::default();
        for line in headers.get_all(header::CACHE_CONTROL) {
            each(line.as_bytes(), |name, argument| directives.apply(name, &argument));
        }
        directives
    }

    /// Notes one directive; `name` is lower case.
    pub fn apply(&mut self, name: &[u8], argument: &Argument) {
        match name {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache.widen(argument.covers()),
            b"private" => self.private.widen(argument.covers()),
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"immutable" => self.immutable = true,
            b"max-age" => self.max_age.first(argument.delta()),
            b"s-maxage" => self.s_maxage.first(argument.delta()),
            b"stale-while-revalidate" => self.stale_while_revalidate.first(argument.delta()),
            b"stale-if-error" => self.stale_if_error.first(argument.delta()),
            _ => {}
        }
    }
}

impl RequestDirectives {
    /// Reads all `Cache-Control` lines, or `Pragma` where there are none.
    pub fn read(headers: &HeaderMap) -> RequestDirectives {
        let mut directives = RequestDirectives::default();
        if !headers.contains_key(header::CACHE_CONTROL) {
            for line in headers.get_all(header::PRAGMA) {
                each(line.as_bytes(), |name, _| directives.no_cache |= name == b"no-cache");
            }
            return directives;
        }
        for line in headers.get_all(header::CACHE_CONTROL) {
            each(line.as_bytes(), |name, argument| directives.apply(name, &argument));
        }
        directives
    }

    fn apply(&mut self, name: &[u8], argument: &Argument) {
        match name {
            b"no-cache" => self.no_cache = true,
            b"no-store" => self.no_store = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => self.max_age.first(argument.delta()),
            b"min-fresh" => self.min_fresh.first(argument.delta()),
            b"max-stale" if *argument == Argument::None => self.max_stale.first(Delta::Secs(u64::MAX)),
            b"max-stale" => self.max_stale.first(argument.delta()),
            b"stale-if-error" => self.stale_if_error.first(argument.delta()),
            _ => {}
        }
    }
}

/// delta-seconds: digits only; too many of them are [`DELTA_SECS_MAX`] (RFC 9111 §1.2.2).
pub fn delta_seconds(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let secs = text.iter().fold(0u64, |secs, digit| {
        secs.saturating_mul(10).saturating_add(u64::from(digit - b'0')).min(DELTA_SECS_MAX)
    });
    Some(secs)
}

/// A list of field names. One that can't be read covers the whole response: the stricter meaning.
pub fn field_names(list: &[u8]) -> Covers {
    let mut fields = Vec::new();
    for name in list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
        match HeaderName::from_bytes(name) {
            Ok(name) => fields.push(name),
            Err(_) => return Covers::Response,
        }
    }
    if fields.is_empty() { Covers::Response } else { Covers::Fields(fields) }
}

/// Calls `visit` with each directive of one line: its name in lower case, and its argument.
fn each(line: &[u8], mut visit: impl FnMut(&[u8], Argument)) {
    let mut rest = line;
    while !rest.is_empty() {
        let name_end = rest.iter().position(|byte| matches!(byte, b',' | b'=')).unwrap_or(rest.len());
        let (name, after) = rest.split_at(name_end);
        let (argument, next) = match after.strip_prefix(b"=") {
            Some(after) => argument(after),
            None => (Argument::None, after),
        };
        rest = next.strip_prefix(b",").unwrap_or(next);
        let spaced = argument != Argument::None && name.trim_ascii_end().len() != name.len();
        let name = name.trim_ascii().to_ascii_lowercase();
        if !name.is_empty() {
            visit(&name, if spaced { Argument::Malformed } else { argument });
        }
    }
}

/// Reads what follows `=`, up to the comma that ends the directive.
fn argument(text: &[u8]) -> (Argument, &[u8]) {
    if let Some((value, rest)) = quoted_string(text) {
        let gap = rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
        let (between, rest) = rest.split_at(gap);
        let clean = between.trim_ascii().is_empty();
        return (if clean { Argument::Value(value) } else { Argument::Malformed }, rest);
    }
    let end = text.iter().position(|byte| *byte == b',').unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    let value = value.trim_ascii_end();
    let token = !value.is_empty() && value.iter().all(|byte| is_token(*byte));
    (if token { Argument::Value(value.to_vec()) } else { Argument::Malformed }, rest)
}

/// A quoted-string (RFC 9110 §5.6.4) at the start of `text`: its content, and what follows.
pub fn quoted_string(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = text.strip_prefix(b"\"")?;
    let mut value = Vec::new();
    loop {
        match rest {
            [b'"', after @ ..] => return Some((value, after)),
            [b'\\', byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
            [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

/// tchar (RFC 9110 §5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn response(lines: &[&str]) -> ResponseDirectives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
        }
        ResponseDirectives::read(&headers)
    }

    fn max_age(line: &str) -> Delta {
        response(&[line]).max_age
    }

    #[test]
    fn spellings_of_one_lifetime() {
        for line in [
            "max-age=60",
            "MAX-AGE=60",
            "Max-Age=\"60\"",
            "max-age=\"\\60\"",
            "max-age=0060",
            " \tmax-age=60\t ,",
            ",,max-age=60",
            "max-age=60, max-age=99",
            "foo, max-age=60",
            "foo=bar, max-age=60",
            "foo=\"max-age=1, bar\", max-age=60",
            "foo=\"\\\", max-age=1\", max-age=60",
            "foo=(bar;baz), ;;=, max-age=60",
            "foo bar, max-age=60",
            "fo\"o, max-age=60",
            "foo=\"unterminated, max-age=60",
            "amax-age=1, max-ages=2, max-age=60",
        ] {
            assert_eq!(max_age(line), Delta::Secs(60), "{line}");
        }
    }

    #[test]
    fn what_is_no_number_is_invalid() {
        for line in [
            "max-age",
            "max-age=",
            "max-age=\"\"",
            "max-age=a",
            "max-age=-1",
            "max-age=+60",
            "max-age=60.0",
            "max-age=6e1",
            "max-age=0x3c",
            "max-age='60'",
            "max-age=\"60\"x",
            "max-age=\" 60\"",
            "max-age =60",
            "max-age= 60",
            "max-age = 60",
            "max-age=60 60",
            "max-age=60; public",
            "max-age=60s",
            "max-age=a, max-age=60",
        ] {
            assert_eq!(max_age(line), Delta::Invalid, "{line}");
        }
    }

    #[test]
    fn overflow_is_two_to_the_31() {
        for line in ["max-age=2147483648", "max-age=2147483649", "max-age=99999999999999999999999999999999"] {
            assert_eq!(max_age(line), Delta::Secs(DELTA_SECS_MAX), "{line}");
        }
        assert_eq!(max_age("max-age=2147483647"), Delta::Secs(DELTA_SECS_MAX - 1));
    }

    #[test]
    fn a_stray_quote_hides_no_directive() {
        for line in ["a=\"b, no-store", "\", no-store", "a\"b\", no-store, \"c", "a=b\", no-store"] {
            assert!(response(&[line]).no_store, "{line}");
        }
        assert!(!response(&["a=\"b, no-store\""]).no_store);
    }

    #[test]
    fn no_cache_and_private_with_and_without_fields() {
        let fields = |names: &[&'static str]| {
            Covers::Fields(names.iter().map(|name| HeaderName::from_static(name)).collect())
        };
        for (line, covers) in [
            ("no-cache", Covers::Response),
            ("NO-CACHE", Covers::Response),
            ("no-cache=\"a\"", fields(&["a"])),
            ("no-cache=a", fields(&["a"])),
            ("no-cache=\" A ,b,\"", fields(&["a", "b"])),
            ("no-cache=\"a\", no-cache=b", fields(&["a", "b"])),
            ("no-cache=\"a\", no-cache", Covers::Response),
            ("no-cache, no-cache=\"a\"", Covers::Response),
            ("no-cache=\"\"", Covers::Response),
            ("no-cache=\"a b\"", Covers::Response),
            ("no-cache=", Covers::Response),
            ("max-age=1", Covers::Nothing),
        ] {
            assert_eq!(response(&[line]).no_cache, covers, "{line}");
            assert_eq!(response(&[&line.to_lowercase().replace("no-cache", "private")]).private, covers);
        }
    }

    #[test]
    fn several_lines_are_one_list() {
        let directives = response(&["public, max-age=1", "s-maxage=2", "max-age=3"]);
        assert!(directives.public);
        assert_eq!((directives.max_age, directives.s_maxage), (Delta::Secs(1), Delta::Secs(2)));
    }

    #[test]
    fn pragma_speaks_where_cache_control_is_silent() {
        let mut headers = HeaderMap::new();
        headers.insert(header::PRAGMA, HeaderValue::from_static("foo, No-Cache"));
        assert!(RequestDirectives::read(&headers).no_cache);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-stale"));
        let directives = RequestDirectives::read(&headers);
        assert!(!directives.no_cache);
        assert_eq!(directives.max_stale, Delta::Secs(u64::MAX));
    }
}
