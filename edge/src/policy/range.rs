//! Ranges of bytes (RFC 9110 §14): what is asked for, what can be answered, what a 206 holds.
//!
//! A `Range` that can't be read, has another unit or is abusive is ignored: the answer is the whole,
//! as the RFC allows at any time. 416 is for readable ranges that all lie past the end.
//! Parts are combined only within one generation: the same strong validator
//! (RFC 9110 §15.3.7.3, RFC 9111 §3.4); [`super::meta::Validators::same_bytes`] says so.

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    date,
    meta::{Content, EntityTag, Meta},
    time::Timestamp,
};

/// Most ranges read from one request. Beyond it the whole is sent: nobody needs them, and each
/// costs a part's head (RFC 9110 §17.15).
const SPECS_MAX: usize = 64;

/// Most parts of a multipart answer, after coalescing. Beyond it the whole is sent.
const PARTS_MAX: usize = 16;

/// Ranges closer than this are sent as one: a part's own head is about as long (RFC 9110 §14.2).
const GAP_BYTES_MAX: u64 = 80;

/// One member of a `Range` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spec {
    /// `first-last` or `first-`.
    From {
        /// First byte's position.
        first: u64,
        /// Last byte's position, inclusive; `None`: to the end.
        last: Option<u64>,
    },
    /// `-length`: the last so many bytes.
    Suffix(u64),
}

/// Positions of bytes, both inclusive; `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub first: u64,
    /// Last byte.
    pub last: u64,
}

/// How much of a representation to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it, with the stored status.
    Whole,
    /// 206: one span as it is, several as `multipart/byteranges`.
    Parts(Vec<Span>),
    /// 416 with [`unsatisfied`].
    Unsatisfiable,
}

impl Span {
    /// Bytes in it.
    pub fn bytes(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Whether `other` lies inside.
    pub fn contains(self, other: Span) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Both as one, where they touch or overlap.
    pub fn joined(self, other: Span) -> Option<Span> {
        let touches =
            self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1);
        touches.then(|| Span { first: self.first.min(other.first), last: self.last.max(other.last) })
    }

    /// `Content-Range` of a part of so many bytes.
    pub fn content_range(self, length: u64) -> HeaderValue {
        self.content_range_of(Some(length))
    }

    /// As [`Span::content_range`], where the length of the whole may not be known.
    pub fn content_range_of(self, length: Option<u64>) -> HeaderValue {
        let length = length.map_or_else(|| "*".to_owned(), |length| length.to_string());
        value(format!("bytes {}-{}/{length}", self.first, self.last))
    }
}

/// `Content-Range` of a 416.
pub fn unsatisfied(length: u64) -> HeaderValue {
    value(format!("bytes */{length}"))
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("bytes */*"))
}

/// Reads `Range`; `None`: absent, or to be ignored.
pub fn parse(headers: &HeaderMap) -> Option<Vec<Spec>> {
    let mut lines = headers.get_all(header::RANGE).iter();
    let (line, None) = (lines.next()?.as_bytes().trim_ascii(), lines.next()) else { return None };
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let (unit, set) = (&line[..equals], &line[equals + 1..]);
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let mut specs = Vec::new();
    for member in set.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
    {
        if specs.len() == SPECS_MAX {
            return None;
        }
        specs.push(spec(member)?);
    }
    (!specs.is_empty()).then_some(specs)
}

fn spec(member: &[u8]) -> Option<Spec> {
    let dash = member.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (&member[..dash], &member[dash + 1..]);
    if first.is_empty() {
        return Some(Spec::Suffix(position(last)?));
    }
    let first = position(first)?;
    let last = if last.is_empty() { None } else { Some(position(last)?) };
    if last.is_some_and(|last| last < first) {
        return None;
    }
    Some(Spec::From { first, last })
}

/// A position; too large ones saturate: they are past any end.
fn position(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// The part of a representation of `length` bytes that these ranges ask for.
pub fn resolve(specs: &[Spec], length: u64) -> Extent {
    if length == 0 && specs.iter().any(|spec| matches!(spec, Spec::Suffix(1..))) {
        // Satisfiable by the letter of §14.1.2, but no Content-Range can say "no bytes".
        return Extent::Whole;
    }
    let mut spans: Vec<Span> = specs.iter().filter_map(|spec| satisfy(*spec, length)).collect();
    if spans.is_empty() {
        return Extent::Unsatisfiable;
    }
    if spans.len() > 1 {
        spans = coalesced(spans);
    }
    if spans.len() > PARTS_MAX { Extent::Whole } else { Extent::Parts(spans) }
}

fn satisfy(spec: Spec, length: u64) -> Option<Span> {
    let end = length.checked_sub(1)?;
    match spec {
        Spec::From { first, last } => {
            (first <= end).then(|| Span { first, last: last.unwrap_or(end).min(end) })
        }
        Spec::Suffix(0) => None,
        Spec::Suffix(bytes) => Some(Span { first: length.saturating_sub(bytes), last: end }),
    }
}

/// Ascending, no two closer than [`GAP_BYTES_MAX`].
fn coalesced(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by_key(|span| span.first);
    let mut apart: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match apart.last_mut() {
            Some(before) if span.first <= before.last.saturating_add(GAP_BYTES_MAX) => {
                before.last = before.last.max(span.last);
            }
            _ => apart.push(span),
        }
    }
    apart
}

/// What to send of a stored whole representation of `length` bytes, the preconditions having
/// been met: `Range` counts only for GET, on a 200, and where `If-Range` holds.
pub fn extent(method: &Method, headers: &HeaderMap, stored: &Meta, length: u64, now: Timestamp) -> Extent {
    if *method != Method::GET || stored.status != StatusCode::OK {
        return Extent::Whole;
    }
    match parse(headers) {
        Some(specs) if if_range_holds(headers, stored, now) => resolve(&specs, length),
        _ => Extent::Whole,
    }
}

/// `If-Range` (§13.1.5): absent, or it names exactly the stored bytes by a strong validator.
pub fn if_range_holds(headers: &HeaderMap, stored: &Meta, now: Timestamp) -> bool {
    let mut lines = headers.get_all(header::IF_RANGE).iter();
    let Some(line) = lines.next() else { return true };
    if lines.next().is_some() {
        return false;
    }
    let line = line.as_bytes().trim_ascii();
    let validators = &stored.validators;
    if let Some(secs) = date::parse(line, now) {
        let ours = validators.last_modified_secs.map(|ours| i64::try_from(ours).unwrap_or(i64::MAX));
        return validators.last_modified_is_strong && ours == Some(secs);
    }
    match (EntityTag::parse(line), &validators.etag) {
        (Some(asked), Some(ours)) => asked.matches_strongly(ours),
        _ => false,
    }
}

/// The span of a stored part that answers the request, with the status 206: one range,
/// wholly inside. `None`: the origin must be asked.
pub fn within_part(headers: &HeaderMap, stored: &Meta, now: Timestamp) -> Option<Span> {
    let Content::Part { first, last, complete_length } = stored.content else { return None };
    if !if_range_holds(headers, stored, now) {
        return None;
    }
    let [spec] = parse(headers)?[..] else { return None };
    let part = Span { first, last };
    let asked = match (spec, complete_length) {
        (spec, Some(length)) => satisfy(spec, length)?,
        (Spec::From { first, last: Some(last) }, None) => Span { first, last },
        _ => return None,
    };
    part.contains(asked).then_some(asked)
}

/// Reads the `Content-Range` of a 206: the span and the length of the whole, if it is known.
pub fn parse_content_range(headers: &HeaderMap) -> Option<(Span, Option<u64>)> {
    let mut lines = headers.get_all(header::CONTENT_RANGE).iter();
    let (line, None) = (lines.next()?.as_bytes().trim_ascii(), lines.next()) else { return None };
    let space = line.iter().position(|byte| *byte == b' ')?;
    let (unit, range) = (&line[..space], line[space + 1..].trim_ascii());
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let slash = range.iter().position(|byte| *byte == b'/')?;
    let (span, length) = (&range[..slash], &range[slash + 1..]);
    let dash = span.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (position(&span[..dash])?, position(&span[dash + 1..])?);
    let length = if length == b"*" { None } else { Some(position(length)?) };
    let possible = first <= last && length.is_none_or(|length| last < length);
    possible.then_some((Span { first, last }, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Option<Vec<Spec>> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(text).unwrap());
        parse(&headers)
    }

    fn of_100(text: &str) -> Extent {
        resolve(&range(text).unwrap(), 100)
    }

    fn parts(spans: &[(u64, u64)]) -> Extent {
        Extent::Parts(spans.iter().map(|(first, last)| Span { first: *first, last: *last }).collect())
    }

    #[test]
    fn satisfiable_ranges() {
        for (text, spans) in [
            ("bytes=0-9", &[(0, 9)][..]),
            ("BYTES=0-9", &[(0, 9)]),
            ("bytes=0-", &[(0, 99)]),
            ("bytes=90-999", &[(90, 99)]),
            ("bytes=99-99999999999999999999999999", &[(99, 99)]),
            ("bytes=-5", &[(95, 99)]),
            ("bytes=-500", &[(0, 99)]),
            ("bytes= 0-0 , -1,", &[(0, 0), (99, 99)]),
            ("bytes=0-9,5-15", &[(0, 15)]),
            ("bytes=95-99,0-1", &[(0, 1), (95, 99)]),
            ("bytes=0-1,500-", &[(0, 1)]),
            ("bytes=0-9,20-29", &[(0, 29)]),
        ] {
            assert_eq!(of_100(text), parts(spans), "{text}");
        }
    }

    #[test]
    fn ranges_past_the_end() {
        for text in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=100-,200-300"] {
            assert_eq!(of_100(text), Extent::Unsatisfiable, "{text}");
        }
        assert_eq!(resolve(&range("bytes=0-").unwrap(), 0), Extent::Unsatisfiable);
        assert_eq!(resolve(&range("bytes=-1").unwrap(), 0), Extent::Whole);
    }

    #[test]
    fn unreadable_ranges_are_ignored() {
        for text in [
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=a-b",
            "bytes=5-2",
            "bytes=-",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes =0-1",
            "items=0-1",
            "bytes=0-1, x",
            "bytes=0x1-2",
            "bytes:0-1",
        ] {
            assert_eq!(range(text), None, "{text}");
        }
        let many: Vec<_> = (0..=SPECS_MAX).map(|n| format!("{n}-{n}")).collect();
        assert_eq!(range(&format!("bytes={}", many.join(","))), None);
        let apart: Vec<_> = (0..=PARTS_MAX).map(|n| format!("{}-{}", n * 1000, n * 1000)).collect();
        let apart = range(&format!("bytes={}", apart.join(","))).unwrap();
        assert_eq!(resolve(&apart, 1_000_000), Extent::Whole);
    }

    #[test]
    fn content_ranges() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, HeaderValue::from_str(text).unwrap());
            parse_content_range(&headers)
        };
        let span = Span { first: 0, last: 9 };
        assert_eq!(read("bytes 0-9/10"), Some((span, Some(10))));
        assert_eq!(read("Bytes 0-9/*"), Some((span, None)));
        for text in
            ["bytes */10", "bytes 0-9", "bytes 0-9/9", "bytes 9-0/10", "bytes=0-9/10", "items 0-9/10", ""]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn spans_join_where_they_touch() {
        let span = |first, last| Span { first, last };
        assert_eq!(span(0, 4).joined(span(5, 9)), Some(span(0, 9)));
        assert_eq!(span(5, 9).joined(span(0, 6)), Some(span(0, 9)));
        assert_eq!(span(0, 3).joined(span(5, 9)), None);
    }
}
