//! Preconditions against what is stored (RFC 9110 §13, RFC 9111 §4.3.2), and entity tags.
//!
//! A cache evaluates `If-None-Match` and, only where that is absent, `If-Modified-Since`.
//! `If-Match` and `If-Unmodified-Since` are not for caches to judge: such requests go to the origin
//! with all they carry. `If-Range` belongs to [`super::range`].

use http::{HeaderMap, Method, header};

use super::{
    date,
    decide::Precondition,
    meta::{EntityTag, Meta, Validators},
    time::Timestamp,
};

impl EntityTag {
    /// Reads an `ETag` field.
    pub fn parse(value: &[u8]) -> Option<EntityTag> {
        let value = value.trim_ascii();
        let (weak, opaque) = match value.strip_prefix(b"W/") {
            Some(opaque) => (true, opaque),
            None => (false, value),
        };
        let quoted = opaque.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        let well_formed = quoted.is_some_and(|tag| tag.iter().all(|byte| is_etagc(*byte)));
        (!opaque.is_empty()).then(|| EntityTag { weak: weak || !well_formed, opaque: opaque.into() })
    }

    /// A strong tag of these very bytes.
    pub fn of(content: &[u8]) -> EntityTag {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content);
        // 128 bits tell apart whatever is stored under one URL.
        let digits: String = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        EntityTag { weak: false, opaque: format!("\"{digits}\"").into_bytes().into() }
    }

    /// Weak comparison (RFC 9110 §8.8.3.2): the same content for most purposes.
    pub fn matches_weakly(&self, other: &EntityTag) -> bool {
        self.opaque == other.opaque
    }

    /// Strong comparison: the same bytes.
    pub fn matches_strongly(&self, other: &EntityTag) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }
}

impl Validators {
    /// Reads `ETag` and `Last-Modified`.
    pub fn read(headers: &HeaderMap, date_secs: u64, now: Timestamp) -> Validators {
        let etag = headers.get(header::ETAG).and_then(|value| EntityTag::parse(value.as_bytes()));
        let modified =
            headers.get(header::LAST_MODIFIED).and_then(|value| date::parse(value.as_bytes(), now));
        let last_modified_secs = modified.and_then(|secs| u64::try_from(secs).ok());
        // Whoever changes a file twice within one second leaves the date alone (§8.8.2.2).
        let last_modified_is_strong = last_modified_secs.is_some_and(|modified| modified < date_secs);
        Validators { etag, last_modified_secs, last_modified_is_strong }
    }

    /// Whether nothing identifies the representation.
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified_secs.is_none()
    }

    /// Whether both name the same bytes, by strong entity tags or, where neither has a tag, strong dates.
    /// Only then may parts of the two be combined (RFC 9110 §15.3.7.3).
    pub fn same_bytes(&self, other: &Validators) -> bool {
        match (&self.etag, &other.etag) {
            (Some(ours), Some(theirs)) => ours.matches_strongly(theirs),
            (None, None) => {
                let strong = self.last_modified_is_strong && other.last_modified_is_strong;
                strong && self.last_modified_secs == other.last_modified_secs
            }
            _ => false,
        }
    }
}

/// What the request's preconditions make of a stored response that would otherwise answer it.
pub fn evaluate(method: &Method, headers: &HeaderMap, stored: &Meta, now: Timestamp) -> Precondition {
    let applies = matches!(*method, Method::GET | Method::HEAD) && stored.status.is_success();
    if !applies {
        return Precondition::Proceed;
    }
    let holds = if headers.contains_key(header::IF_NONE_MATCH) {
        none_matches(headers, stored.validators.etag.as_ref())
    } else {
        modified_since(headers, stored, now)
    };
    if holds { Precondition::Proceed } else { Precondition::NotModified }
}

/// Whether the request carries conditions a cache must leave to the origin.
pub fn is_for_the_origin(headers: &HeaderMap) -> bool {
    headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_UNMODIFIED_SINCE)
}

/// `If-None-Match` (§13.1.2): true where none of its tags is ours.
fn none_matches(headers: &HeaderMap, ours: Option<&EntityTag>) -> bool {
    for line in headers.get_all(header::IF_NONE_MATCH) {
        if line.as_bytes().trim_ascii() == b"*" {
            return false;
        }
        let mut rest = line.as_bytes();
        while let Some((tag, after)) = next_tag(rest) {
            if ours.is_some_and(|ours| ours.matches_weakly(&tag)) {
                return false;
            }
            rest = after;
        }
    }
    true
}

/// The next entity tag of a list. Tags may hold commas; they have no escapes.
fn next_tag(list: &[u8]) -> Option<(EntityTag, &[u8])> {
    let start = list.iter().position(|byte| !matches!(byte, b',' | b' ' | b'\t'))?;
    let list = &list[start..];
    let prefix = if list.starts_with(b"W/\"") { 2 } else { 0 };
    let end = match list[prefix..].strip_prefix(b"\"") {
        Some(tag) => tag.iter().position(|byte| *byte == b'"').map(|length| prefix + length + 2),
        None => None,
    };
    let end = end.unwrap_or_else(|| list.iter().position(|byte| *byte == b',').unwrap_or(list.len()));
    let (tag, rest) = list.split_at(end);
    Some((EntityTag::parse(tag)?, rest))
}

/// `If-Modified-Since` (§13.1.3): true where it is absent or invalid. A stored response without
/// `Last-Modified` is compared by its `Date` (RFC 9111 §4.3.2).
fn modified_since(headers: &HeaderMap, stored: &Meta, now: Timestamp) -> bool {
    let mut lines = headers.get_all(header::IF_MODIFIED_SINCE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return true };
    let Some(since) = date::parse(line.as_bytes(), now) else { return true };
    let modified = stored.validators.last_modified_secs.unwrap_or(stored.date_secs);
    i64::try_from(modified).unwrap_or(i64::MAX) > since
}

fn is_etagc(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x7e | 0x80..)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);

    fn tag(text: &str) -> EntityTag {
        EntityTag::parse(text.as_bytes()).unwrap()
    }

    fn none(lines: &[&str], ours: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::IF_NONE_MATCH, HeaderValue::from_str(line).unwrap());
        }
        none_matches(&headers, ours.map(tag).as_ref())
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for lines in [
            &["\"a\""][..],
            &["W/\"a\""],
            &["\"b\", \"a\""],
            &["\"b\",W/\"a\" , \"c\""],
            &["\"b\"", "\"a\""],
            &[",,\"a\",,"],
            &["\"b, c\", \"a\""],
            &["b, \"a\""],
            &[" * "],
            &["\"b\"", "*"],
        ] {
            assert!(!none(lines, Some("\"a\"")), "{lines:?}");
            assert!(!none(lines, Some("W/\"a\"")), "{lines:?}");
        }
        for lines in [&["\"b\""][..], &["a"], &["\"A\""], &["\"b, \"a\""], &[""], &["w/\"a\""], &["\"*\""]] {
            assert!(none(lines, Some("\"a\"")), "{lines:?}");
        }
        assert!(none(&["\"a\""], None));
        assert!(!none(&["*"], None));
        assert!(!none(&["a, b"], Some("b")));
    }

    #[test]
    fn rfc_9110_section_8_8_3_2_comparisons() {
        for (one, other, strong, weak) in [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
            ("1", "1", false, true),
            ("\"a b\"", "\"a b\"", false, true),
        ] {
            assert_eq!(tag(one).matches_strongly(&tag(other)), strong, "{one} {other}");
            assert_eq!(tag(one).matches_weakly(&tag(other)), weak, "{one} {other}");
        }
        assert_eq!(EntityTag::parse(b""), None);
    }

    #[test]
    fn a_date_is_strong_when_it_is_older_than_its_second() {
        let mut headers = HeaderMap::new();
        headers.insert(header::LAST_MODIFIED, date::format(1000));
        assert!(Validators::read(&headers, 1001, NOW).last_modified_is_strong);
        assert!(!Validators::read(&headers, 1000, NOW).last_modified_is_strong);
        let (strong, weak) = (Validators::read(&headers, 1001, NOW), Validators::read(&headers, 1000, NOW));
        assert!(strong.same_bytes(&strong));
        assert!(!strong.same_bytes(&weak));
        assert!(!Validators::default().same_bytes(&Validators::default()));
    }
}
