//! `[site.NAME.compress]`, `[site.NAME.images]` and `[site.NAME.code]`: what an edge makes of stored responses.

use super::{
    keys,
    reader::{Section, integer},
};
use std::time::Duration;

use crate::config::transform::{
    Code, Coding, Compress, Images, OnError, SiteTransform, WrittenAs, is_compressed_media,
};
use crate::files::Role;

/// Largest content that may be compressed: a job holds it in memory twice.
const COMPRESS_BYTES_MAX: u64 = 64 << 20;
/// Instructions of a call: about 5 ms.
const FUEL: u64 = 5_000_000;
/// About a second: a worker's other requests wait as long.
const FUEL_MAX: i64 = 1_000_000_000;
/// Time of a call. Fuel ends it sooner where the machine is not busy.
const CODE_TIME: Duration = Duration::from_millis(50);
/// Memory of a call: Rust's smallest module begins with 1 MiB of stack.
const CODE_MEMORY_BYTES: u64 = 16 << 20;
/// Each worker has one call at a time.
const CODE_MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Largest source of an image.
const IMAGE_BYTES_MAX: u64 = 64 << 20;
/// Longest side that may be asked for: WebP's own limit.
const SIDE_MAX: i64 = 16_383;
/// Sizes of one kind. All combinations can be asked for, and each is kept: more would fill a store.
const SIZES_MAX: usize = 32;

pub(super) fn site(section: &Section<'_>) -> SiteTransform {
    SiteTransform { compress: compress(section), images: images(section), code: code(section) }
}

fn compress(section: &Section<'_>) -> Option<Compress> {
    let inner = section.section("compress", keys::COMPRESS)?;
    let unsaid = Compress::default();
    let codings = inner.list("codings", "codings: \"br\", \"zstd\", \"gzip\"", |value| {
        let word = value.get_ref().as_str()?;
        Coding::ALL.into_iter().find(|coding| coding.token() == word)
    });
    let types = inner.list("types", "media types like \"text/*\" or \"application/json\"", |value| {
        let text = value.get_ref().as_str()?.to_ascii_lowercase();
        is_media_type(&text).then_some(text)
    });
    for media in types.iter().flatten().filter(|media| is_compressed_media(media)) {
        let message = format!("{}: {media} is compressed already", inner.name("types"));
        inner.doc.mistake(inner.place_of("types"), message);
    }
    let empty =
        [("codings", codings.as_ref().map(Vec::is_empty)), ("types", types.as_ref().map(Vec::is_empty))];
    for (key, _) in empty.into_iter().filter(|(_, is_empty)| *is_empty == Some(true)) {
        inner.doc.mistake(inner.place_of(key), format!("{}: expected at least one", inner.name(key)));
    }
    let compress = Compress {
        codings: codings.unwrap_or(unsaid.codings),
        types: types.unwrap_or(unsaid.types),
        bytes_min: inner.bytes("min", unsaid.bytes_min),
        bytes_max: inner.bytes("max", unsaid.bytes_max),
    };
    if compress.bytes_max > COMPRESS_BYTES_MAX || compress.bytes_min > compress.bytes_max {
        let message = format!("{}: expected a size from `min` to 64MiB", inner.name("max"));
        inner.doc.mistake(inner.place_of("max"), message);
    }
    Some(compress)
}

fn images(section: &Section<'_>) -> Option<Images> {
    let inner = section.section("images", keys::IMAGES)?;
    let unsaid = Images::default();
    let formats =
        inner.list("formats", "formats: \"avif\", \"webp\"", |value| match value.get_ref().as_str()? {
            "avif" => Some(WrittenAs::Avif),
            "webp" => Some(WrittenAs::Webp),
            _ => None,
        });
    let numbers = |key, high| {
        let expected = format!("whole numbers from 1 to {high}");
        let read = inner.list(key, &expected, |value| {
            let number = integer(value.get_ref()).filter(|number| (1..=high).contains(number))?;
            u32::try_from(number).ok()
        });
        let numbers = read.unwrap_or_default();
        if numbers.len() > SIZES_MAX {
            let message = format!("{}: expected at most {SIZES_MAX}", inner.name(key));
            inner.doc.mistake(inner.place_of(key), message);
        }
        numbers
    };
    let quality = inner.integer("quality", 1, 100).and_then(|quality| u8::try_from(quality).ok());
    let images = Images {
        formats: formats.unwrap_or(unsaid.formats),
        widths: numbers("widths", SIDE_MAX),
        heights: numbers("heights", SIDE_MAX),
        qualities: numbers("qualities", 100),
        quality: quality.unwrap_or(unsaid.quality),
        bytes_max: inner.bytes("max", unsaid.bytes_max),
        wait: inner.duration("wait", unsaid.wait, Duration::from_millis(10), Duration::from_secs(30)),
    };
    if images.bytes_max > IMAGE_BYTES_MAX {
        inner.doc.mistake(inner.place_of("max"), format!("{}: expected at most 64MiB", inner.name("max")));
    }
    if images.formats.is_empty() && images.widths.is_empty() && images.heights.is_empty() {
        let message =
            format!("[{}]: neither `formats` nor `widths` nor `heights`: nothing would be made", inner.place);
        inner.doc.mistake(inner.span(), message);
    }
    Some(images)
}

fn code(section: &Section<'_>) -> Option<Code> {
    let inner = section.section("code", keys::CODE)?;
    inner.required("module", "the path of a WebAssembly module");
    let fuel = inner.integer("fuel", 1000, FUEL_MAX).and_then(|fuel| u64::try_from(fuel).ok());
    let memory_bytes_max = inner.bytes("memory", CODE_MEMORY_BYTES);
    if !(1 << 16..=CODE_MEMORY_BYTES_MAX).contains(&memory_bytes_max) {
        let message = format!("{}: expected a size from 64KiB to 256MiB", inner.name("memory"));
        inner.doc.mistake(inner.place_of("memory"), message);
    }
    Some(Code {
        on_error: inner
            .word("on_error", &[("open", OnError::Open), ("closed", OnError::Closed)])
            .unwrap_or_default(),
        fuel: fuel.unwrap_or(FUEL),
        time: inner.duration("time", CODE_TIME, Duration::from_millis(5), Duration::from_secs(1)),
        memory_bytes_max,
        module: inner.path("module", Role::Content)?,
    })
}

/// `type/subtype`, or `type/*`.
fn is_media_type(text: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    text.split_once('/').is_some_and(|(kind, name)| token(kind) && (name == "*" || token(name)))
}
