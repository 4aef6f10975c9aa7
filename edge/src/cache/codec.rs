//! How an object's head is written to disk, and read back without trust.
//!
//! Little-endian, length-prefixed, one version for the whole directory. Whoever reads it has checked a checksum
//! already; a head that still does not parse is an error, never a panic.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::policy::{
    CacheKey, Content, Meta, Timestamp,
    meta::{EntityTag, Reuse, Validators},
    vary::Vary,
};

/// Largest head that is written to disk, bytes: a response head past it is stored in memory only.
pub const HEAD_BYTES_MAX: usize = 256 * 1024;

/// Where a head stopped making sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored head ends or errs in its {0}")]
pub struct Malformed(pub &'static str);

/// Appends `key` and `meta`.
pub fn write_head(out: &mut Vec<u8>, key: &CacheKey, meta: &Meta) {
    put_bytes(out, key.as_str().as_bytes());
    out.put_u16_le(meta.status.as_u16());
    out.put_u32_le(meta.headers.len() as u32);
    for (name, value) in &meta.headers {
        put_bytes(out, name.as_str().as_bytes());
        put_bytes(out, value.as_bytes());
    }
    out.put_u64_le(meta.request_time.millis());
    out.put_u64_le(meta.response_time.millis());
    put_duration(out, meta.initial_age);
    put_duration(out, meta.lifetime);
    out.put_u64_le(meta.date_secs);
    put_duration(out, meta.stale_while_revalidate);
    put_duration(out, meta.stale_if_error);
    out.put_u8(match meta.reuse {
        Reuse::Freely => 0,
        Reuse::WhileFresh => 1,
        Reuse::AfterValidation => 2,
    });
    out.put_u8(u8::from(meta.immutable));
    out.put_u32_le(meta.vary.fields.len() as u32);
    for (name, value) in &meta.vary.fields {
        put_bytes(out, name.as_str().as_bytes());
        put_option(out, value.as_deref(), put_bytes);
    }
    put_option(out, meta.validators.etag.as_ref(), |out, tag| {
        out.put_u8(u8::from(tag.weak));
        put_bytes(out, &tag.opaque);
    });
    put_option(out, meta.validators.last_modified_secs, |out, secs| out.put_u64_le(secs));
    out.put_u8(u8::from(meta.validators.last_modified_is_strong));
    match &meta.content {
        Content::Whole { length } => {
            out.put_u8(0);
            put_option(out, *length, |out, length| out.put_u64_le(length));
        }
        Content::Part { first, last, complete_length } => {
            out.put_u8(1);
            out.put_u64_le(*first);
            out.put_u64_le(*last);
            put_option(out, *complete_length, |out, length| out.put_u64_le(length));
        }
        Content::HeadOnly => out.put_u8(2),
    }
}

/// Reads what [`write_head`] wrote. Field values share `from`'s memory: cloning the head costs no copy of them.
///
/// # Errors
/// [`Malformed`], naming the part.
pub fn read_head(from: Bytes) -> Result<(CacheKey, Meta), Malformed> {
    let mut input = Input(from);
    let key = input.bytes("key")?;
    let key = std::str::from_utf8(&key).ok().and_then(CacheKey::parse).ok_or(Malformed("key"))?;
    let status = StatusCode::from_u16(input.u16("status")?).map_err(|_| Malformed("status"))?;
    let fields = input.count("fields")?;
    let mut headers = HeaderMap::with_capacity(fields);
    for _ in 0..fields {
        let name = input.name("field name")?;
        let value = HeaderValue::from_maybe_shared(input.bytes("field value")?);
        headers.append(name, value.map_err(|_| Malformed("field value"))?);
    }
    Ok((
        key,
        Meta {
            status,
            headers,
            request_time: Timestamp::from_millis(input.u64("request time")?),
            response_time: Timestamp::from_millis(input.u64("response time")?),
            initial_age: input.duration("age")?,
            lifetime: input.duration("lifetime")?,
            date_secs: input.u64("date")?,
            stale_while_revalidate: input.duration("stale-while-revalidate")?,
            stale_if_error: input.duration("stale-if-error")?,
            reuse: match input.u8("reuse")? {
                0 => Reuse::Freely,
                1 => Reuse::WhileFresh,
                2 => Reuse::AfterValidation,
                _ => return Err(Malformed("reuse")),
            },
            immutable: input.flag("immutable")?,
            vary: input.vary()?,
            validators: input.validators()?,
            content: input.content()?,
        },
    ))
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn put_duration(out: &mut Vec<u8>, duration: Duration) {
    out.put_u64_le(duration.as_secs());
    out.put_u32_le(duration.subsec_nanos());
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

struct Input(Bytes);

impl Input {
    fn need(&self, bytes: usize, part: &'static str) -> Result<(), Malformed> {
        if self.0.remaining() < bytes { Err(Malformed(part)) } else { Ok(()) }
    }

    fn u8(&mut self, part: &'static str) -> Result<u8, Malformed> {
        self.need(1, part)?;
        Ok(self.0.get_u8())
    }

    fn u16(&mut self, part: &'static str) -> Result<u16, Malformed> {
        self.need(2, part)?;
        Ok(self.0.get_u16_le())
    }

    fn u32(&mut self, part: &'static str) -> Result<u32, Malformed> {
        self.need(4, part)?;
        Ok(self.0.get_u32_le())
    }

    fn u64(&mut self, part: &'static str) -> Result<u64, Malformed> {
        self.need(8, part)?;
        Ok(self.0.get_u64_le())
    }

    fn bytes(&mut self, part: &'static str) -> Result<Bytes, Malformed> {
        let length = self.u32(part)? as usize;
        self.need(length, part)?;
        Ok(self.0.split_to(length))
    }

    /// A number of things of at least a byte each: never more than there are bytes left.
    fn count(&mut self, part: &'static str) -> Result<usize, Malformed> {
        let count = self.u32(part)? as usize;
        self.need(count, part)?;
        Ok(count)
    }

    fn flag(&mut self, part: &'static str) -> Result<bool, Malformed> {
        match self.u8(part)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed(part)),
        }
    }

    fn name(&mut self, part: &'static str) -> Result<HeaderName, Malformed> {
        HeaderName::from_bytes(&self.bytes(part)?).map_err(|_| Malformed(part))
    }

    fn duration(&mut self, part: &'static str) -> Result<Duration, Malformed> {
        let secs = self.u64(part)?;
        match self.u32(part)? {
            nanos if nanos < 1_000_000_000 => Ok(Duration::new(secs, nanos)),
            _ => Err(Malformed(part)),
        }
    }

    fn vary(&mut self) -> Result<Vary, Malformed> {
        let count = self.count("vary")?;
        let mut fields = Vec::with_capacity(count);
        for _ in 0..count {
            let name = self.name("vary")?;
            let value =
                if self.flag("vary")? { Some(self.bytes("vary")?.to_vec().into_boxed_slice()) } else { None };
            fields.push((name, value));
        }
        Ok(Vary { fields: fields.into_boxed_slice() })
    }

    fn validators(&mut self) -> Result<Validators, Malformed> {
        let part = "validators";
        let etag = if self.flag(part)? {
            Some(EntityTag { weak: self.flag(part)?, opaque: self.bytes(part)?.to_vec().into_boxed_slice() })
        } else {
            None
        };
        let last_modified_secs = if self.flag(part)? { Some(self.u64(part)?) } else { None };
        Ok(Validators { etag, last_modified_secs, last_modified_is_strong: self.flag(part)? })
    }

    fn content(&mut self) -> Result<Content, Malformed> {
        let part = "content";
        match self.u8(part)? {
            0 => Ok(Content::Whole { length: if self.flag(part)? { Some(self.u64(part)?) } else { None } }),
            1 => {
                let (first, last) = (self.u64(part)?, self.u64(part)?);
                let complete_length = if self.flag(part)? { Some(self.u64(part)?) } else { None };
                Ok(Content::Part { first, last, complete_length })
            }
            2 => Ok(Content::HeadOnly),
            _ => Err(Malformed(part)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::policy::Target;

    /// A key under site `s`.
    pub fn key(path: &str) -> CacheKey {
        let target = Target::new("a.test", path, None, &nearside_fleet::config::QueryKey::Keep);
        CacheKey::new("s", None, &target)
    }

    /// A storable head over `length` bytes.
    pub fn meta(length: Option<u64>) -> Meta {
        let mut headers = HeaderMap::new();
        headers.insert("etag", HeaderValue::from_static("\"v1\""));
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        Meta {
            status: StatusCode::OK,
            headers,
            request_time: Timestamp::from_millis(1_000_001),
            response_time: Timestamp::from_millis(1_000_009),
            initial_age: Duration::from_millis(1500),
            lifetime: Duration::from_secs(3600),
            date_secs: 1000,
            stale_while_revalidate: Duration::from_secs(10),
            stale_if_error: Duration::ZERO,
            reuse: Reuse::WhileFresh,
            immutable: true,
            vary: Vary::default(),
            validators: Validators {
                etag: Some(EntityTag { weak: false, opaque: (*b"v1").into() }),
                last_modified_secs: Some(77),
                last_modified_is_strong: true,
            },
            content: Content::Whole { length },
        }
    }

    #[test]
    fn a_head_reads_back_as_written() {
        let mut part = meta(None);
        part.content = Content::Part { first: 0, last: 9, complete_length: Some(100) };
        part.vary = Vary {
            fields: vec![
                (HeaderName::from_static("accept"), None),
                (HeaderName::from_static("accept-language"), Some((*b"de").into())),
            ]
            .into(),
        };
        for meta in [meta(Some(5)), meta(None), part] {
            let mut written = Vec::new();
            write_head(&mut written, &key("/x"), &meta);
            assert_eq!(read_head(written.into()), Ok((key("/x"), meta)));
        }
    }

    #[test]
    fn a_head_cut_anywhere_is_malformed() {
        let mut written = Vec::new();
        write_head(&mut written, &key("/x"), &meta(Some(5)));
        for end in 0..written.len() {
            assert!(read_head(Bytes::copy_from_slice(&written[..end])).is_err(), "cut at {end}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(at in 0usize..200, byte: u8) {
            let mut written = Vec::new();
            write_head(&mut written, &key("/x"), &meta(Some(5)));
            if let Some(place) = written.get_mut(at) {
                *place = byte;
            }
            let _ = read_head(written.into());
        }
    }
}
