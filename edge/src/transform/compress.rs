//! Content codings: what is worth coding, and the coders.
//!
//! Never decodes: what an origin sends coded is kept and sent as it came. Entity tags of what was coded here are weak
//! (RFC 9110 section 8.8.1): the coders' levels differ between the first minutes and later, and from PoP to PoP, so
//! equal tags must not promise equal bytes. Ranges are therefore served of the uncoded content alone.

use std::io::{self, Write};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use nearside_fleet::config::transform::{Coding, Compress, is_compressed_media};

use crate::policy::{Content, Meta};

/// How much work is put into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// While a client waits: about 100 MB per second and core.
    Fast,
    /// In the background, once: 5 to 20 MB per second.
    Better,
}

/// Fields that say something of the very bytes (RFC 9530, RFC 9421, RFC 1864): content that has them stays as it is.
const OF_THE_BYTES: [HeaderName; 5] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("signature"),
];

/// Coded content that is not at least a twentieth smaller is not worth keeping.
const WORTHWHILE_PERCENT: usize = 95;

/// Brotli's and zstd's window, 4 MiB: RFC 9659 allows 8 MiB, small clients pay for each.
const WINDOW_LOG: i32 = 22;

/// Whether a stored response's form is ours to change, and whether it has content at all.
pub fn may_be_transformed(meta: &Meta) -> bool {
    meta.status == StatusCode::OK
        && !matches!(meta.content, Content::Part { .. })
        && !meta.headers.contains_key(header::CONTENT_ENCODING)
        && !forbids(&meta.headers)
        && !OF_THE_BYTES.iter().any(|name| meta.headers.contains_key(name))
}

/// `no-transform`, of a response (RFC 9111 section 5.2.2.6) or a request (section 5.2.1.6).
pub fn forbids(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CACHE_CONTROL).iter();
    let mut directives = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    directives.any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

/// The media type without parameters, lower case.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    let (line, None) = (lines.next()?.to_str().ok()?, lines.next()) else { return None };
    Some(line.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Whether clients' `Accept-Encoding` has a say in how this response is sent.
pub fn concerns(settings: &Compress, meta: &Meta, length: Option<u64>) -> bool {
    let fits = length.is_none_or(|length| (settings.bytes_min..=settings.bytes_max).contains(&length));
    fits && may_be_transformed(meta)
        && media_type(&meta.headers).is_some_and(|media| is_listed(settings, &media))
}

fn is_listed(settings: &Compress, media: &str) -> bool {
    let matches = |listed: &String| match listed.strip_suffix('*') {
        Some(kind) => media.starts_with(kind),
        None => listed == media,
    };
    !is_compressed_media(media) && settings.types.iter().any(matches)
}

/// Codes `content`; `None` where that gains nothing.
///
/// # Errors
/// Those of the coder: none is known for whole content in memory.
pub fn code(coding: Coding, level: Level, content: &[u8]) -> io::Result<Option<Bytes>> {
    let coded = match coding {
        Coding::Gzip => gzip(level, content),
        Coding::Brotli => brotli(level, content),
        Coding::Zstd => zstd(level, content),
    }?;
    let is_worthwhile = coded.len() <= content.len() / 100 * WORTHWHILE_PERCENT;
    // Its own size: what a coder's buffer had too much would be kept as long as the object.
    Ok(is_worthwhile.then(|| Bytes::from(coded.into_boxed_slice())))
}

fn gzip(level: Level, content: &[u8]) -> io::Result<Vec<u8>> {
    let level = match level {
        Level::Fast => flate2::Compression::new(1),
        Level::Better => flate2::Compression::new(9),
    };
    let mut coder = flate2::write::GzEncoder::new(Vec::with_capacity(content.len() / 3), level);
    coder.write_all(content)?;
    coder.finish()
}

/// Quality 10 and 11 cost ten times as much as 9 for a few percent.
fn brotli(level: Level, mut content: &[u8]) -> io::Result<Vec<u8>> {
    let params = brotli::enc::BrotliEncoderParams {
        quality: if level == Level::Fast { 4 } else { 9 },
        lgwin: WINDOW_LOG,
        size_hint: content.len(),
        ..brotli::enc::BrotliEncoderParams::default()
    };
    let mut coded = Vec::with_capacity(content.len() / 3);
    brotli::BrotliCompress(&mut content, &mut coded, &params)?;
    Ok(coded)
}

fn zstd(level: Level, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut coder = zstd::bulk::Compressor::new(if level == Level::Fast { 3 } else { 15 })?;
    coder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(WINDOW_LOG as u32))?;
    coder.compress(content)
}

/// Makes the fields of the uncoded response those of the coded one.
pub fn dress(coding: Coding, fields: &mut HeaderMap) {
    fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.token()));
    fields.remove(header::ACCEPT_RANGES);
    fields.remove(header::CONTENT_LENGTH);
    weaken(fields);
}

/// Makes the entity tag a weak one, if there is one.
pub fn weaken(fields: &mut HeaderMap) {
    let Some(etag) = fields.get(header::ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/")) else {
        return;
    };
    if let Ok(weak) = HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat()) {
        fields.insert(header::ETAG, weak);
    }
}

/// Adds `name` to `Vary`, where it is not yet (RFC 9110 section 12.5.5).
pub fn vary_by(name: &'static str, fields: &mut HeaderMap) {
    let is_there = fields.get_all(header::VARY).iter().any(|line| {
        let mut names = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|known| known == b"*" || known.eq_ignore_ascii_case(name.as_bytes()))
    });
    if !is_there {
        fields.append(header::VARY, HeaderValue::from_static(name));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn decode(coding: Coding, coded: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        match coding {
            Coding::Gzip => {
                flate2::read::GzDecoder::new(coded).read_to_end(&mut content).unwrap();
            }
            Coding::Brotli => {
                brotli::Decompressor::new(coded, 4096).read_to_end(&mut content).unwrap();
            }
            Coding::Zstd => content = zstd::stream::decode_all(coded).unwrap(),
        }
        content
    }

    #[test]
    fn every_coder_gives_back_what_it_was_given_and_the_better_level_is_smaller() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut words = || format!("{} ", random.u32(..).leading_zeros() * 7919 + u32::from(random.u8(..4)));
        let content: Vec<u8> = (0..40_000).flat_map(|_| words().into_bytes()).collect();
        for coding in Coding::ALL {
            let [fast, better] = [Level::Fast, Level::Better]
                .map(|level| code(coding, level, &content).unwrap().expect("smaller"));
            assert!(better.len() <= fast.len() && fast.len() < content.len(), "{coding:?}");
            assert_eq!(decode(coding, &fast), content);
            assert_eq!(decode(coding, &better), content);
        }
    }

    #[test]
    fn what_does_not_shrink_is_not_kept() {
        let mut random = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(20_000).collect();
        for coding in Coding::ALL {
            assert_eq!(code(coding, Level::Fast, &noise).unwrap(), None);
            assert_eq!(code(coding, Level::Fast, b"").unwrap().map(|coded| coded.len()), None, "{coding:?}");
        }
    }

    #[test]
    fn fields_of_what_was_coded() {
        let mut fields = HeaderMap::new();
        for (name, value) in
            [("etag", "\"a\""), ("accept-ranges", "bytes"), ("content-length", "9"), ("vary", "origin")]
        {
            fields.insert(name, HeaderValue::from_static(value));
        }
        dress(Coding::Brotli, &mut fields);
        vary_by("Accept-Encoding", &mut fields);
        vary_by("accept-encoding", &mut fields);
        assert_eq!(fields[header::ETAG], "W/\"a\"");
        assert_eq!(fields[header::CONTENT_ENCODING], "br");
        assert!(!fields.contains_key(header::ACCEPT_RANGES) && !fields.contains_key(header::CONTENT_LENGTH));
        assert_eq!(fields.get_all(header::VARY).iter().collect::<Vec<_>>(), ["origin", "Accept-Encoding"]);
        weaken(&mut fields);
        assert_eq!(fields[header::ETAG], "W/\"a\"");
    }

    #[test]
    fn no_transform_is_found_among_others() {
        for (value, expected) in [
            ("public, No-Transform , max-age=1", true),
            ("no-transform", true),
            ("max-age=1", false),
            ("x-no-transform", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static(value))]);
            assert_eq!(forbids(&headers), expected, "{value}");
        }
    }
}
