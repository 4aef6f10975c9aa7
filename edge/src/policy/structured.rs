//! `CDN-Cache-Control` (RFC 9213): a structured-field dictionary (RFC 9651 §4.2.2) to directives.
//!
//! Parsed by our own reader instead of the `sfv` crate: dictionaries only, nothing kept but the
//! handful of values a directive can have, and no dependency for a grammar of one page.
//! The grammar is strict on purpose (RFC 9213 §2.1): a field that breaks it anywhere is ignored as
//! a whole, and `Cache-Control` speaks again. Within a valid field, a directive whose value has the
//! wrong type is ignored by itself: `max-age="60"` is a string, hence no lifetime.

use http::{HeaderMap, HeaderName};

use super::directives::{Argument, DELTA_SECS_MAX, ResponseDirectives, is_token};

/// The targeted field this cache obeys.
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// Longest field read, in bytes; a longer one is ignored. Real ones are below 200.
const FIELD_BYTES_MAX: usize = 16 * 1024;

/// A dictionary member's value, as far as directives care.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Boolean(bool),
    Integer(i64),
    Text(Vec<u8>),
    Other,
}

/// Reads the targeted field; `None`: absent, empty or invalid, so that `Cache-Control` and
/// `Expires` count.
pub fn targeted(headers: &HeaderMap) -> Option<ResponseDirectives> {
    let mut lines = headers.get_all(CDN_CACHE_CONTROL).iter();
    let mut field = lines.next()?.as_bytes().to_vec();
    for line in lines {
        field.extend_from_slice(b", ");
        field.extend_from_slice(line.as_bytes());
    }
    let members = dictionary(&field)?;
    if members.is_empty() {
        return None;
    }
    let mut directives = ResponseDirectives::default();
    for (name, value) in &members {
        if let Some(argument) = argument(name, value) {
            directives.apply(name, &argument);
        }
    }
    Some(directives)
}

/// A member's value as its directive takes it; `None`: of the wrong type, or `?0`.
fn argument(name: &[u8], value: &Value) -> Option<Argument> {
    let wants_secs = matches!(name, b"max-age" | b"s-maxage" | b"stale-while-revalidate" | b"stale-if-error");
    let takes_fields = matches!(name, b"no-cache" | b"private");
    match value {
        Value::Integer(secs) if wants_secs => {
            let secs = u64::try_from(*secs).ok();
            Some(secs.map_or(Argument::Malformed, |secs| {
                Argument::Value(secs.min(DELTA_SECS_MAX).to_string().into_bytes())
            }))
        }
        Value::Boolean(true) if !wants_secs => Some(Argument::None),
        Value::Text(text) if takes_fields => Some(Argument::Value(text.clone())),
        _ => None,
    }
}

/// Parses a whole dictionary (RFC 9651 §4.2); of repeated keys the last counts, in the first's place.
fn dictionary(field: &[u8]) -> Option<Vec<(Vec<u8>, Value)>> {
    if field.len() > FIELD_BYTES_MAX {
        return None;
    }
    let mut input = Input { rest: field };
    let mut members: Vec<(Vec<u8>, Value)> = Vec::new();
    input.skip(b" ");
    while !input.rest.is_empty() {
        let name = input.key()?;
        let value = if input.eat(b'=') { input.item_or_list()? } else { Value::Boolean(true) };
        input.parameters()?;
        match members.iter_mut().find(|(known, _)| *known == name) {
            Some(member) => member.1 = value,
            None => members.push((name, value)),
        }
        input.skip(b" \t");
        if input.rest.is_empty() {
            return Some(members);
        }
        if !input.eat(b',') {
            return None;
        }
        input.skip(b" \t");
        if input.rest.is_empty() {
            return None;
        }
    }
    Some(members)
}

/// What is left to parse. Every method consumes what it read, or says `None`: the field is invalid.
struct Input<'a> {
    rest: &'a [u8],
}

impl Input<'_> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let here = self.peek() == Some(byte);
        if here {
            self.rest = &self.rest[1..];
        }
        here
    }

    fn skip(&mut self, set: &[u8]) {
        while self.peek().is_some_and(|byte| set.contains(&byte)) {
            self.rest = &self.rest[1..];
        }
    }

    fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> Vec<u8> {
        let end = self.rest.iter().position(|byte| !accept(*byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken.to_vec()
    }

    fn key(&mut self) -> Option<Vec<u8>> {
        let starts = self.peek().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'*');
        let part = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.' | b'*')
        };
        starts.then(|| self.take_while(part))
    }

    fn parameters(&mut self) -> Option<()> {
        while self.eat(b';') {
            self.skip(b" ");
            self.key()?;
            if self.eat(b'=') {
                self.bare_item()?;
            }
        }
        Some(())
    }

    fn item_or_list(&mut self) -> Option<Value> {
        if !self.eat(b'(') {
            return self.bare_item();
        }
        loop {
            self.skip(b" ");
            if self.eat(b')') {
                return Some(Value::Other);
            }
            self.bare_item()?;
            self.parameters()?;
            if !matches!(self.peek(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn bare_item(&mut self) -> Option<Value> {
        match self.peek()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b'*' | b'a'..=b'z' | b'A'..=b'Z' => {
                Some(Value::Text(self.take_while(|byte| is_token(byte) || matches!(byte, b':' | b'/'))))
            }
            b':' => self.bytes(),
            b'?' => self.boolean(),
            b'@' => {
                self.next();
                matches!(self.number()?, Value::Integer(_)).then_some(Value::Other)
            }
            b'%' => self.display_string(),
            _ => None,
        }
    }

    /// At most 15 digits, or 12 and a fraction of 1 to 3 (§4.2.4).
    fn number(&mut self) -> Option<Value> {
        let negative = self.eat(b'-');
        let whole = self.take_while(|byte| byte.is_ascii_digit());
        if whole.is_empty() {
            return None;
        }
        if self.eat(b'.') {
            let fraction = self.take_while(|byte| byte.is_ascii_digit());
            let fits = whole.len() <= 12 && (1..=3).contains(&fraction.len());
            return fits.then_some(Value::Other);
        }
        if whole.len() > 15 {
            return None;
        }
        let integer = whole.iter().fold(0i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        Some(Value::Integer(if negative { -integer } else { integer }))
    }

    fn string(&mut self) -> Option<Value> {
        self.next();
        let mut text = Vec::new();
        loop {
            match self.next()? {
                b'"' => return Some(Value::Text(text)),
                b'\\' => match self.next()? {
                    escaped @ (b'"' | b'\\') => text.push(escaped),
                    _ => return None,
                },
                byte @ b' '..=b'~' => text.push(byte),
                _ => return None,
            }
        }
    }

    fn bytes(&mut self) -> Option<Value> {
        self.next();
        self.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
        self.eat(b':').then_some(Value::Other)
    }

    fn boolean(&mut self) -> Option<Value> {
        self.next();
        match self.next()? {
            b'0' => Some(Value::Boolean(false)),
            b'1' => Some(Value::Boolean(true)),
            _ => None,
        }
    }

    fn display_string(&mut self) -> Option<Value> {
        self.next();
        if !self.eat(b'"') {
            return None;
        }
        loop {
            match self.next()? {
                b'"' => return Some(Value::Other),
                b'%' => {
                    for _ in 0..2 {
                        matches!(self.next()?, b'0'..=b'9' | b'a'..=b'f').then_some(())?;
                    }
                }
                b' '..=b'~' => {}
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::{
        super::directives::{Covers, Delta},
        *,
    };

    fn read(lines: &[&str]) -> Option<ResponseDirectives> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CDN_CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
        }
        targeted(&headers)
    }

    #[test]
    fn valid_fields() {
        for line in [
            "max-age=60",
            "  max-age=60  ",
            "max-age=60;a;b=1;c=\"x\"",
            "max-age=1, max-age=60",
            "foo=(1 \"a\" b;q=1.5), max-age=60",
            "foo=:aGk=:, bar=@1659578233, baz=%\"f%c3%bc\", max-age=60",
            "foo=a/b:c*, max-age=60",
            "foo=-1.234,\tmax-age=60",
            "foo=(), max-age=60",
        ] {
            assert_eq!(read(&[line]).map(|read| read.max_age), Some(Delta::Secs(60)), "{line}");
        }
        assert_eq!(read(&["no-store", "max-age=60"]).map(|read| read.no_store), Some(true));
    }

    #[test]
    fn invalid_or_empty_fields_are_ignored_as_a_whole() {
        for line in [
            "",
            " ",
            "max-age=60,",
            ",max-age=60",
            "max-age=60,,foo",
            "Max-Age=60",
            "max-age=60, FOO",
            "max-age =60",
            "max-age= 60",
            "max-age=",
            "max-age=60 foo",
            "max-age=60; =1",
            "max-age=1234567890123456",
            "max-age=60.",
            "max-age=1.2345",
            "max-age=\"60",
            "max-age=60, foo=?2",
            "max-age=60, foo=(a",
            "max-age=60, foo='a'",
            "max-age=60, foo=\"\\a\"",
            "max-age=60, &&",
        ] {
            assert_eq!(read(&[line]), None, "{line}");
        }
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn directives_of_the_wrong_type_are_ignored_by_themselves() {
        for line in ["max-age=\"60\"", "max-age=60.0", "max-age=a", "max-age", "max-age=?1", "max-age=(60)"] {
            let read = read(&[line]).unwrap();
            assert_eq!(read, ResponseDirectives::default(), "{line}");
        }
        for line in ["no-store=?0", "no-store=1", "no-store=\"a\"", "private=?0", "no-cache=1"] {
            assert_eq!(read(&[line]), Some(ResponseDirectives::default()), "{line}");
        }
    }

    #[test]
    fn negative_and_huge_lifetimes() {
        assert_eq!(read(&["max-age=-1"]).map(|read| read.max_age), Some(Delta::Invalid));
        let huge = read(&["max-age=999999999999999"]).map(|read| read.max_age);
        assert_eq!(huge, Some(Delta::Secs(DELTA_SECS_MAX)));
    }

    #[test]
    fn fields_of_private() {
        let read = read(&["private=\"set-cookie\", no-cache"]).unwrap();
        assert_eq!(read.private, Covers::Fields(vec![http::header::SET_COOKIE]));
        assert_eq!(read.no_cache, Covers::Response);
    }
}
