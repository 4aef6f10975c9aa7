//! The secondary key (RFC 9111 §4.1): which stored variant answers a request.
//!
//! Two requests match if every field named by the stored `Vary` has the same meaning in both.
//! Meaning is judged only as far as the field's own syntax allows: several lines are one list,
//! space around the commas of a list is nothing; the preferences of `Accept`, `Accept-Charset`,
//! `Accept-Encoding` and `Accept-Language` are sets of weighted members without regard to case or
//! order. A field unknown to us keeps its case, its order and its parameters.
//! What can't be matched safely (`*`, a name that is none, too many names) is never stored.

use std::hash::BuildHasher;

use http::{HeaderMap, HeaderName, header};

use super::directives::quoted_string;

/// Most fields a response may vary by. Sites use one to three; each costs a comparison per variant.
const FIELDS_MAX: usize = 16;

/// Most variants a store should keep under one key: past that, the oldest goes. Every lookup
/// compares them one by one, and strangers choose the request fields that make new ones.
pub const VARIANTS_MAX: usize = 64;

/// Longest normalised value kept, in bytes. Longer ones make the response not worth storing.
const VALUE_BYTES_MAX: usize = 4096;

/// One field and its normalised value; `None`: the request did not have it.
pub type Selecting = (HeaderName, Option<Box<[u8]>>);

/// The fields a stored response was selected by, with the storing request's normalised values.
///
/// Compared exactly, never by hash: request fields are chosen by strangers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Vary {
    /// In ascending order of name, each once.
    pub fields: Box<[Selecting]>,
}

/// What makes a response impossible to select again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmatchable;

impl Vary {
    /// The secondary key of a response to a request with these fields: those its `Vary` names, and
    /// those the site adds (`also`).
    ///
    /// # Errors
    /// [`Unmatchable`] for `*`, names that are no field names, more than 16 of them, or a value
    /// too long to keep.
    pub fn new(response: &HeaderMap, also: &[HeaderName], request: &HeaderMap) -> Result<Vary, Unmatchable> {
        let mut names: Vec<HeaderName> = also.to_vec();
        for line in response.get_all(header::VARY) {
            for name in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if name.is_empty() {
                    continue;
                }
                if name == b"*" {
                    return Err(Unmatchable);
                }
                names.push(HeaderName::from_bytes(name).map_err(|_| Unmatchable)?);
            }
        }
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        if names.len() > FIELDS_MAX {
            return Err(Unmatchable);
        }
        let mut fields = Vec::with_capacity(names.len());
        for name in names {
            let value = normal_value(&name, request);
            if value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
                return Err(Unmatchable);
            }
            fields.push((name, value));
        }
        Ok(Vary { fields: fields.into_boxed_slice() })
    }

    /// A hash of what this variant's fields are in a request: requests with different hashes would not
    /// be answered by one response, so they need not wait for each other. Keyed by `state`.
    pub fn hint(&self, request: &HeaderMap, state: &impl BuildHasher) -> u64 {
        let values = self.fields.iter().map(|(name, _)| normal_value(name, request));
        state.hash_one(values.collect::<Vec<_>>())
    }

    /// The value of a field that it is selected by; `None`: the field plays no part, or was not there.
    pub fn value(&self, name: &HeaderName) -> Option<&[u8]> {
        let field = self.fields.iter().find(|(known, _)| known == name);
        field.and_then(|(_, value)| value.as_deref())
    }

    /// Whether a request with these fields is answered by this variant.
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.fields.iter().all(|(name, value)| normal_value(name, request) == *value)
    }
}

/// A field's value in the spelling that all of its equals share; `None` where it is absent.
fn normal_value(name: &HeaderName, headers: &HeaderMap) -> Option<Box<[u8]>> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?.as_bytes();
    let members = lines.fold(members(first), |mut all, line| {
        all.extend(members(line.as_bytes()));
        all
    });
    let negotiates =
        [header::ACCEPT, header::ACCEPT_CHARSET, header::ACCEPT_ENCODING, header::ACCEPT_LANGUAGE]
            .contains(name);
    let value = if negotiates { preferences(name, &members) } else { members.join(&b","[..]) };
    Some(value.into_boxed_slice())
}

/// The members of a list: split at commas outside quoted strings, trimmed, empty ones dropped.
fn members(line: &[u8]) -> Vec<&[u8]> {
    let mut members = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < line.len() {
        match line[at] {
            b',' => {
                members.push(&line[start..at]);
                at += 1;
                start = at;
            }
            b'"' => {
                let rest = quoted_string(&line[at..]).map(|(_, rest)| rest.len());
                at = rest.map_or(at + 1, |rest| line.len() - rest);
            }
            _ => at += 1,
        }
    }
    members.push(&line[start..]);
    members.into_iter().map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()).collect()
}

/// Weighted members, lower case, without order: `br;q=1.0, GZIP` is `br,gzip`.
fn preferences(name: &HeaderName, members: &[&[u8]]) -> Vec<u8> {
    let mut weighted: Vec<Vec<u8>> = members.iter().map(|member| preference(name, member)).collect();
    weighted.sort();
    weighted.dedup();
    weighted.join(&b","[..])
}

fn preference(name: &HeaderName, member: &[u8]) -> Vec<u8> {
    // Parameters of media types may be quoted, and then case may matter: leave those as they are.
    if member.contains(&b'"') {
        return member.to_vec();
    }
    let member = member.to_ascii_lowercase();
    let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let item = parts.next().unwrap_or_default();
    let mut normal = match item {
        // RFC 9110 §8.4.1: recipients treat these as equal.
        b"x-gzip" if name == header::ACCEPT_ENCODING => b"gzip".to_vec(),
        b"x-compress" if name == header::ACCEPT_ENCODING => b"compress".to_vec(),
        item => item.to_vec(),
    };
    for part in parts.filter(|part| !part.is_empty()) {
        if let Some(weight) = part.strip_prefix(b"q=") {
            let weight = thousandths(weight);
            if weight != Some(1000) {
                normal.extend_from_slice(b";q=");
                normal.extend_from_slice(
                    weight.map_or(part.to_vec(), |w| w.to_string().into_bytes()).as_slice(),
                );
            }
        } else {
            normal.push(b';');
            normal.extend_from_slice(part);
        }
    }
    normal
}

/// A qvalue (RFC 9110 §12.4.2) in thousandths.
pub fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = match text {
        [whole] => (*whole, &[][..]),
        [whole, b'.', fraction @ ..] if fraction.len() <= 3 => (*whole, fraction),
        _ => return None,
    };
    let mut value = u16::from(match whole {
        b'0' | b'1' => whole - b'0',
        _ => return None,
    });
    for place in 0..3 {
        let digit = fraction.get(place).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u16::from(digit - b'0');
    }
    (value <= 1000).then_some(value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fields(name: &'static str, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn same(name: &'static str, stored: &[&str], presented: &[&str]) -> bool {
        let vary = Vary::new(&fields("vary", &[name]), &[], &fields(name, stored)).unwrap();
        vary.matches(&fields(name, presented))
    }

    #[test]
    fn spellings_that_mean_the_same() {
        for (name, stored, presented) in [
            ("foo", &["1"][..], &["1"][..]),
            ("foo", &["1, 2"], &["1,2"]),
            ("foo", &["1", "2"], &["1 ,\t2"]),
            ("foo", &["1", "", ",2,"], &["1,2"]),
            ("foo", &[], &[]),
            ("accept-encoding", &["gzip, br"], &["BR,gzip;q=1.0"]),
            ("accept-encoding", &["gzip;q=0.50"], &["x-gzip; q=0.5"]),
            ("accept-encoding", &["gzip", "br"], &["br, gzip, gzip"]),
            ("accept-language", &["de, en;q=0.8"], &["en;q=0.800,DE"]),
            ("accept", &["text/html, */*;q=0.1"], &["*/*;Q=0.1,Text/HTML;q=1"]),
        ] {
            assert!(same(name, stored, presented), "{name}: {stored:?} {presented:?}");
            assert!(same(name, presented, stored), "{name}: {presented:?} {stored:?}");
        }
    }

    #[test]
    fn spellings_that_may_differ() {
        for (name, stored, presented) in [
            ("foo", &["1"][..], &["2"][..]),
            ("foo", &["a"], &["A"]),
            ("foo", &["1"], &[]),
            ("foo", &[], &[""]),
            ("foo", &["1,2"], &["2,1"]),
            ("foo", &["1"], &["1,1"]),
            ("foo", &["a b"], &["a  b"]),
            ("foo", &["\"a, b\""], &["\"a,b\""]),
            ("accept-encoding", &["gzip"], &["gzip, br"]),
            ("accept-encoding", &["gzip"], &["gzip;q=0"]),
            ("accept-encoding", &[], &["identity"]),
            ("accept-language", &["de, en"], &["de, en;q=0.9"]),
            ("accept", &["text/html;level=1"], &["text/html"]),
        ] {
            assert!(!same(name, stored, presented), "{name}: {stored:?} {presented:?}");
            assert!(!same(name, presented, stored), "{name}: {presented:?} {stored:?}");
        }
    }

    #[test]
    fn names_in_any_case_order_and_number_of_lines() {
        let mut request = fields("foo", &["1"]);
        request.insert("bar", HeaderValue::from_static("2"));
        let one = Vary::new(&fields("vary", &["Foo, BAR"]), &[], &request);
        for lines in [&["bar,foo"][..], &["BAR", "foo"], &[" foo ,, bar, Foo,"]] {
            assert_eq!(Vary::new(&fields("vary", lines), &[], &request), one, "{lines:?}");
        }
        assert_eq!(Vary::new(&HeaderMap::new(), &[], &request), Ok(Vary::default()));
    }

    #[test]
    fn an_asterisk_anywhere_never_matches() {
        let too_many = (0..=FIELDS_MAX).map(|n| format!("f{n}")).collect::<Vec<_>>().join(",");
        for lines in
            [&["*"][..], &["foo, *"], &["*,foo"], &["foo", "*"], &["foo bar"], &["*foo bar"], &[&too_many]]
        {
            assert_eq!(
                Vary::new(&fields("vary", lines), &[], &HeaderMap::new()),
                Err(Unmatchable),
                "{lines:?}"
            );
        }
    }
}
