//! A stored head as bytes, for the disk tier: little endian, lengths first, a version in front.
//!
//! Reading trusts nothing: a torn, older or foreign record is [`Undecodable`], hence a miss. There is
//! no checksum here; the store has one around the whole record.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    meta::{Content, EntityTag, Meta, Reuse, Validators},
    time::Timestamp,
    vary::{Selecting, Vary},
};

/// Changes with every change of the layout; records of another version are misses.
const VERSION: u8 = 1;

/// Bytes that are no head of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a stored head of this version")]
pub struct Undecodable;

impl Meta {
    /// Appends the head's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.status.as_u16().to_le_bytes());
        put(out, self.request_time.millis());
        put(out, self.response_time.millis());
        for duration in [self.initial_age, self.lifetime, self.stale_while_revalidate, self.stale_if_error] {
            put(out, u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        }
        put(out, self.date_secs);
        out.push(match self.reuse {
            Reuse::Freely => 0,
            Reuse::WhileFresh => 1,
            Reuse::AfterValidation => 2,
        });
        out.push(u8::from(self.immutable));
        put_validators(out, &self.validators);
        match self.content {
            Content::Whole { length } => {
                out.push(0);
                put_option(out, length);
            }
            Content::Part { first, last, complete_length } => {
                out.push(1);
                put(out, first);
                put(out, last);
                put_option(out, complete_length);
            }
        }
        put(out, self.vary.fields.len() as u64);
        for (name, value) in &self.vary.fields {
            put_bytes(out, name.as_str().as_bytes());
            out.push(u8::from(value.is_some()));
            put_bytes(out, value.as_deref().unwrap_or_default());
        }
        put(out, self.headers.len() as u64);
        for (name, value) in &self.headers {
            put_bytes(out, name.as_str().as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }

    /// Reads what [`Meta::encode`] wrote; `bytes` must hold nothing else.
    ///
    /// # Errors
    /// [`Undecodable`] for anything but a complete head of this version.
    pub fn decode(bytes: &[u8]) -> Result<Meta, Undecodable> {
        let mut input = Input { rest: bytes };
        let meta = input.meta().ok_or(Undecodable)?;
        if input.rest.is_empty() { Ok(meta) } else { Err(Undecodable) }
    }
}

fn put(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_option(out: &mut Vec<u8>, number: Option<u64>) {
    out.push(u8::from(number.is_some()));
    put(out, number.unwrap_or(0));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_validators(out: &mut Vec<u8>, validators: &Validators) {
    put_option(out, validators.last_modified_secs);
    out.push(u8::from(validators.last_modified_is_strong));
    match &validators.etag {
        None => out.push(0),
        Some(etag) => {
            out.push(if etag.weak { 2 } else { 1 });
            put_bytes(out, &etag.opaque);
        }
    }
}

struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn option(&mut self) -> Option<Option<u64>> {
        let there = self.flag()?;
        let number = self.number()?;
        Some(there.then_some(number))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn millis(&mut self) -> Option<Duration> {
        self.number().map(Duration::from_millis)
    }

    fn name(&mut self) -> Option<HeaderName> {
        HeaderName::from_bytes(self.bytes()?).ok()
    }

    fn meta(&mut self) -> Option<Meta> {
        if self.byte()? != VERSION {
            return None;
        }
        let status = u16::from_le_bytes(self.take(2)?.try_into().ok()?);
        let status = StatusCode::from_u16(status).ok()?;
        let request_time = Timestamp::from_millis(self.number()?);
        let response_time = Timestamp::from_millis(self.number()?);
        let (initial_age, lifetime) = (self.millis()?, self.millis()?);
        let (stale_while_revalidate, stale_if_error) = (self.millis()?, self.millis()?);
        let date_secs = self.number()?;
        let reuse = match self.byte()? {
            0 => Reuse::Freely,
            1 => Reuse::WhileFresh,
            2 => Reuse::AfterValidation,
            _ => return None,
        };
        let immutable = self.flag()?;
        let validators = self.validators()?;
        let content = self.content()?;
        let vary = self.vary()?;
        let headers = self.headers()?;
        Some(Meta {
            status,
            headers,
            request_time,
            response_time,
            initial_age,
            lifetime,
            date_secs,
            stale_while_revalidate,
            stale_if_error,
            reuse,
            immutable,
            vary,
            validators,
            content,
        })
    }

    fn validators(&mut self) -> Option<Validators> {
        let last_modified_secs = self.option()?;
        let last_modified_is_strong = self.flag()?;
        let etag = match self.byte()? {
            0 => None,
            strength @ (1 | 2) => Some(EntityTag { weak: strength == 2, opaque: self.bytes()?.into() }),
            _ => return None,
        };
        Some(Validators { etag, last_modified_secs, last_modified_is_strong })
    }

    fn content(&mut self) -> Option<Content> {
        match self.byte()? {
            0 => Some(Content::Whole { length: self.option()? }),
            1 => {
                let (first, last) = (self.number()?, self.number()?);
                let complete_length = self.option()?;
                (first <= last).then_some(Content::Part { first, last, complete_length })
            }
            _ => None,
        }
    }

    fn vary(&mut self) -> Option<Vary> {
        let count = self.number()?;
        let mut fields: Vec<Selecting> = Vec::new();
        for _ in 0..count {
            let name = self.name()?;
            let there = self.flag()?;
            let value = self.bytes()?;
            fields.push((name, there.then(|| value.into())));
        }
        Some(Vary { fields: fields.into_boxed_slice() })
    }

    fn headers(&mut self) -> Option<HeaderMap> {
        let count = self.number()?;
        let mut headers = HeaderMap::new();
        for _ in 0..count {
            let name = self.name()?;
            let value = HeaderValue::from_bytes(self.bytes()?).ok()?;
            headers.try_append(name, value).ok()?;
        }
        Some(headers)
    }
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    fn sample(content: Content) -> Meta {
        let mut headers = HeaderMap::new();
        headers.append(header::SET_COOKIE, HeaderValue::from_static("a=1"));
        headers.append(header::SET_COOKIE, HeaderValue::from_static("b=2"));
        headers.append(header::CONTENT_TYPE, HeaderValue::from_bytes(b"text/\xff").unwrap());
        Meta {
            status: StatusCode::NOT_FOUND,
            headers,
            request_time: Timestamp::from_millis(1),
            response_time: Timestamp::from_millis(2),
            initial_age: Duration::from_millis(3),
            lifetime: Duration::from_millis(4),
            date_secs: 5,
            stale_while_revalidate: Duration::from_millis(6),
            stale_if_error: Duration::from_millis(7),
            reuse: Reuse::WhileFresh,
            immutable: true,
            vary: Vary {
                fields: Box::new([
                    (header::ACCEPT, None),
                    (header::ACCEPT_ENCODING, Some(b"gzip".as_slice().into())),
                ]),
            },
            validators: Validators {
                etag: Some(EntityTag { weak: true, opaque: b"\"x\"".as_slice().into() }),
                last_modified_secs: Some(8),
                last_modified_is_strong: true,
            },
            content,
        }
    }

    #[test]
    fn what_is_written_reads_back_and_nothing_less_does() {
        let part = Content::Part { first: 1, last: 9, complete_length: None };
        for content in [Content::Whole { length: None }, Content::Whole { length: Some(3) }, part] {
            let meta = sample(content);
            let mut bytes = Vec::new();
            meta.encode(&mut bytes);
            assert_eq!(Meta::decode(&bytes), Ok(meta));
            for end in 0..bytes.len() {
                assert_eq!(Meta::decode(&bytes[..end]), Err(Undecodable), "cut at {end}");
            }
            bytes.push(0);
            assert_eq!(Meta::decode(&bytes), Err(Undecodable));
        }
    }

    #[test]
    fn flipped_bytes_never_panic() {
        let mut bytes = Vec::new();
        sample(Content::Whole { length: Some(3) }).encode(&mut bytes);
        for at in 0..bytes.len() {
            for flip in [1u8, 0x80, 0xff] {
                bytes[at] ^= flip;
                let _ = Meta::decode(&bytes);
                bytes[at] ^= flip;
            }
        }
    }
}
