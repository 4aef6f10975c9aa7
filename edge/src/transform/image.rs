//! Images: what may be asked for, what a source is by its header, and the work itself.
//!
//! JPEG, PNG and WebP are read; JPEG, PNG, WebP and AVIF are written. Everything is held to limits before it is
//! believed: a header that announces more than [`PIXELS_MAX`] is not decoded, decoders may allocate [`ALLOC_BYTES_MAX`],
//! and a job looks at its deadline between its steps. Orientation is applied, then all metadata is gone, places and cameras with
//! it. A colour profile other than sRGB is kept, where the format written can hold it here (JPEG, PNG); such images
//! become neither WebP nor AVIF. Animations are not touched, and 16 bits per channel become 8.

use std::{
    io::Cursor,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fast_image_resize as fir;
use http::{HeaderMap, header};
use image::{
    DynamicImage, ImageDecoder, ImageEncoder, ImageFormat, ImageReader, Limits, metadata::Orientation,
};
use nearside_fleet::config::transform::{Images, WrittenAs};

use super::accept::weight;

/// Pixels of a source, by its header. The largest telephones' pictures; 24 MB a million in the worst case.
pub const PIXELS_MAX: u64 = 50_000_000;
/// Longest side of what is made, pixels: that of WebP.
pub const SIDE_MAX: u32 = 16_383;
/// What a decoder may allocate: [`PIXELS_MAX`] of four bytes and some.
const ALLOC_BYTES_MAX: u64 = 256 << 20;
/// Pixels that are made into AVIF: half a second each million. Larger ones become WebP, or stay what they are.
const AVIF_PIXELS_MAX: u64 = 2_000_000;
/// Of 1 (thorough) to 10 (quick).
const AVIF_SPEED: u8 = 9;
/// A job that has not ended so long after it was ordered ends at its next step.
pub const JOB_MAX: Duration = Duration::from_secs(20);

/// How an image fits the box that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Inside, never enlarged (the default).
    ScaleDown,
    /// Inside, enlarged if it is smaller.
    Contain,
    /// All of the box is covered; what is outside is cut off, evenly.
    Cover,
}

/// What was asked for in a query: one of few combinations, because sizes and qualities are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Pixels across; `None`: as the other side has it.
    pub width: Option<u32>,
    /// Pixels down.
    pub height: Option<u32>,
    /// How it fits them.
    pub fit: Fit,
    /// 1 to 100.
    pub quality: u8,
    /// Whether the quality was asked for.
    pub has_quality: bool,
}

impl Asked {
    /// Whether anything was asked for: else the best format is all that is left to make.
    pub fn is_anything(&self) -> bool {
        self.width.is_some() || self.height.is_some() || self.has_quality
    }
}

/// A query that asks for what may not be asked for, or in a way that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAsk;

/// Extensions of paths whose queries are read. Others' parameters are their origin's.
const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Reads what a target asks for. Gives it with the query that is left for the origin; `None`: the path is no image's.
///
/// # Errors
/// [`BadAsk`] for sizes and qualities that are not listed, values that are none, and parameters that are given twice.
pub fn asked(
    settings: &Images,
    path: &str,
    query: Option<&str>,
) -> Result<Option<(Asked, Option<String>)>, BadAsk> {
    let extension = path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map_or("", |(_, end)| end);
    if !EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension)) {
        return Ok(None);
    }
    let (mut width, mut height, mut fit, mut quality) = (None, None, None, None);
    let mut rest: Vec<&str> = Vec::new();
    for parameter in query.into_iter().flat_map(|query| query.split('&')) {
        match parameter.split_once('=') {
            Some(("w", value)) => once(&mut width, listed(value, &settings.widths))?,
            Some(("h", value)) => once(&mut height, listed(value, &settings.heights))?,
            Some(("q", value)) => once(&mut quality, listed(value, &settings.qualities))?,
            Some(("fit", value)) => once(&mut fit, fit_of(value))?,
            _ => rest.push(parameter),
        }
    }
    let asked = Asked {
        width,
        height,
        fit: fit.unwrap_or(Fit::ScaleDown),
        quality: quality.map_or(settings.quality, |quality| quality.min(100) as u8),
        has_quality: quality.is_some(),
    };
    let rest = Some(rest.join("&")).filter(|rest| !rest.is_empty());
    Ok(Some((asked, rest)))
}

fn once<T>(slot: &mut Option<T>, read: Option<T>) -> Result<(), BadAsk> {
    let is_first = slot.is_none();
    *slot = Some(read.ok_or(BadAsk)?);
    if is_first { Ok(()) } else { Err(BadAsk) }
}

fn listed(text: &str, list: &[u32]) -> Option<u32> {
    let is_plain = (1..=5).contains(&text.len())
        && !text.starts_with('0')
        && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_plain)?;
    list.contains(&number).then_some(number)
}

fn fit_of(text: &str) -> Option<Fit> {
    match text {
        "scale-down" => Some(Fit::ScaleDown),
        "contain" => Some(Fit::Contain),
        "cover" => Some(Fit::Cover),
        _ => None,
    }
}

/// The formats that a client names in `Accept` and the site writes, best first. `image/*` and `*/*` are no promise: every
/// client says them.
pub fn accepted(settings: &Images, headers: &HeaderMap) -> Vec<WrittenAs> {
    let mut found: Vec<(u16, WrittenAs)> = Vec::new();
    for &format in &settings.formats {
        let lines = headers.get_all(header::ACCEPT).iter();
        let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        let weights = members.filter_map(|member| {
            let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let is_it = parts.next()?.eq_ignore_ascii_case(format.media_type().as_bytes());
            weight(parts).filter(|weight| is_it && *weight > 0)
        });
        if let Some(weight) = weights.max() {
            found.push((weight, format));
        }
    }
    // Stable: between equals the site's order stays.
    found.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    found.into_iter().map(|(_, format)| format).collect()
}

/// What a source is, by its header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the pixels as they are stored, before they are turned.
    pub width: u32,
    /// The same.
    pub height: u32,
    /// Its format.
    pub format: Source,
    /// Several pictures in one.
    pub is_animated: bool,
}

/// A format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// WebP.
    Webp,
}

/// Why nothing was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmade {
    /// No format that is read, whatever its `Content-Type` says; or damaged.
    #[error("no image, or a damaged one")]
    Unreadable,
    /// More pixels than are decoded.
    #[error("too many pixels")]
    TooLarge,
    /// Animated, with colours that the format can't hold here, or no smaller than it was.
    #[error("better as it is")]
    Useless,
    /// Its time was up.
    #[error("it took too long")]
    Late,
}

/// Looks at a source's header. Decodes no pixels.
///
/// # Errors
/// [`Unmade::Unreadable`], [`Unmade::TooLarge`].
pub fn look(content: &[u8]) -> Result<Header, Unmade> {
    let (format, known) = match image::guess_format(content) {
        Ok(ImageFormat::Jpeg) => (Source::Jpeg, ImageFormat::Jpeg),
        Ok(ImageFormat::Png) => (Source::Png, ImageFormat::Png),
        Ok(ImageFormat::WebP) => (Source::Webp, ImageFormat::WebP),
        _ => return Err(Unmade::Unreadable),
    };
    let is_animated = match format {
        Source::Jpeg => false,
        // `acTL` stands before the first `IDAT` (PNG third edition, section 11.3.6.1).
        Source::Png => {
            let idat = find(content, b"IDAT").unwrap_or(content.len());
            find(&content[..idat], b"acTL").is_some()
        }
        // Bit 1 of the flags of `VP8X` (RFC 9649 section 2.7.1.1).
        Source::Webp => {
            content.get(12..16) == Some(b"VP8X") && content.get(20).is_some_and(|flags| flags & 2 != 0)
        }
    };
    let mut reader = ImageReader::with_format(Cursor::new(content), known);
    reader.limits(limits());
    let (width, height) = reader.into_dimensions().map_err(|_| Unmade::Unreadable)?;
    if width == 0 || height == 0 {
        return Err(Unmade::Unreadable);
    }
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(Unmade::TooLarge);
    }
    Ok(Header { width, height, format, is_animated })
}

fn find(content: &[u8], chunk: &[u8]) -> Option<usize> {
    content.windows(chunk.len()).position(|window| window == chunk)
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(ALLOC_BYTES_MAX);
    limits
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The image.
    pub content: Bytes,
    /// Its media type.
    pub media_type: &'static str,
}

/// Makes what was asked for of `content`, in the first of `formats` that it can have. Blocks for as long as that takes.
///
/// # Errors
/// [`Unmade`].
pub fn make(content: &[u8], asked: Asked, formats: &[WrittenAs], deadline: Instant) -> Result<Made, Unmade> {
    let header = look(content)?;
    if header.is_animated {
        return Err(Unmade::Useless);
    }
    let in_time = || if Instant::now() < deadline { Ok(()) } else { Err(Unmade::Late) };
    in_time()?;
    let (pixels, profile) = decode(content, header)?;
    in_time()?;
    let (width, height) = size(pixels.width(), pixels.height(), asked);
    let is_resized = (width, height) != (pixels.width(), pixels.height());
    let pixels = if is_resized { resize(&pixels, width, height, asked.fit)? } else { pixels };
    in_time()?;
    let area = u64::from(width) * u64::from(height);
    let can_be =
        |format: &&WrittenAs| profile.is_none() && (**format != WrittenAs::Avif || area <= AVIF_PIXELS_MAX);
    let made = match formats.iter().find(can_be) {
        Some(WrittenAs::Avif) => Made { content: avif(&pixels, asked.quality)?, media_type: "image/avif" },
        Some(WrittenAs::Webp) => Made { content: webp(&pixels, asked.quality)?, media_type: "image/webp" },
        // Another loss for nothing that anybody asked for.
        None if !asked.is_anything() => return Err(Unmade::Useless),
        None => again(&pixels, header.format, profile, asked.quality)?,
    };
    // A size that was asked for is that, however large it comes out; another format has to pay.
    if !is_resized && made.content.len() >= content.len() { Err(Unmade::Useless) } else { Ok(made) }
}

/// Upright pixels of 8 bits in three or four channels, and a profile that matters.
fn decode(content: &[u8], header: Header) -> Result<(DynamicImage, Option<Vec<u8>>), Unmade> {
    let known = match header.format {
        Source::Jpeg => ImageFormat::Jpeg,
        Source::Png => ImageFormat::Png,
        Source::Webp => ImageFormat::WebP,
    };
    let mut reader = ImageReader::with_format(Cursor::new(content), known);
    reader.limits(limits());
    let unreadable = |_| Unmade::Unreadable;
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    let profile = decoder.icc_profile().ok().flatten().filter(|profile| !is_srgb(profile));
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let pixels = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    let mut pixels = match pixels.color().has_alpha() {
        true => DynamicImage::ImageRgba8(pixels.into_rgba8()),
        false => DynamicImage::ImageRgb8(pixels.into_rgb8()),
    };
    pixels.apply_orientation(orientation);
    Ok((pixels, profile))
}

/// Profiles name themselves, in ASCII or in UTF-16.
fn is_srgb(profile: &[u8]) -> bool {
    find(profile, b"sRGB").is_some() || find(profile, b"s\0R\0G\0B").is_some()
}

/// Width and height of what is made.
fn size(width: u32, height: u32, asked: Asked) -> (u32, u32) {
    if let (Fit::Cover, Some(wanted_width), Some(wanted_height)) = (asked.fit, asked.width, asked.height) {
        return (wanted_width, wanted_height);
    }
    let across = asked.width.map(|wanted| f64::from(wanted) / f64::from(width));
    let down = asked.height.map(|wanted| f64::from(wanted) / f64::from(height));
    let ratio = across.unwrap_or(f64::INFINITY).min(down.unwrap_or(f64::INFINITY));
    let ratio = match asked.fit {
        _ if ratio.is_infinite() => 1.0,
        Fit::ScaleDown => ratio.min(1.0),
        Fit::Contain | Fit::Cover => ratio,
    };
    let scaled = |side: u32| ((f64::from(side) * ratio).round() as u32).clamp(1, SIDE_MAX);
    (scaled(width), scaled(height))
}

fn resize(pixels: &DynamicImage, width: u32, height: u32, fit: Fit) -> Result<DynamicImage, Unmade> {
    let kind = if pixels.color().has_alpha() { fir::PixelType::U8x4 } else { fir::PixelType::U8x3 };
    let source = fir::images::ImageRef::new(pixels.width(), pixels.height(), pixels.as_bytes(), kind)
        .map_err(|_| Unmade::Unreadable)?;
    let mut resized = fir::images::Image::new(width, height, kind);
    let options =
        fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom));
    let options = if fit == Fit::Cover { options.fit_into_destination(None) } else { options };
    fir::Resizer::new().resize(&source, &mut resized, &options).map_err(|_| Unmade::Unreadable)?;
    let buffer = resized.into_vec();
    let image = match kind {
        fir::PixelType::U8x4 => {
            image::RgbaImage::from_raw(width, height, buffer).map(DynamicImage::ImageRgba8)
        }
        _ => image::RgbImage::from_raw(width, height, buffer).map(DynamicImage::ImageRgb8),
    };
    image.ok_or(Unmade::Unreadable)
}

fn avif(pixels: &DynamicImage, quality: u8) -> Result<Bytes, Unmade> {
    // One thread: the pool says how many there are.
    let encoder = ravif::Encoder::new()
        .with_quality(f32::from(quality))
        .with_speed(AVIF_SPEED)
        .with_bit_depth(ravif::BitDepth::Eight)
        .with_num_threads(Some(1));
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    let encoded = match pixels {
        DynamicImage::ImageRgba8(image) => {
            let pixels: Vec<ravif::RGBA8> =
                image.pixels().map(|p| ravif::RGBA8::new(p[0], p[1], p[2], p[3])).collect();
            encoder.encode_rgba(ravif::Img::new(&pixels[..], width, height))
        }
        other => {
            let image = other.to_rgb8();
            let pixels: Vec<ravif::RGB8> =
                image.pixels().map(|p| ravif::RGB8::new(p[0], p[1], p[2])).collect();
            encoder.encode_rgb(ravif::Img::new(&pixels[..], width, height))
        }
    };
    encoded.map(|encoded| encoded.avif_file.into()).map_err(|_| Unmade::Unreadable)
}

fn webp(pixels: &DynamicImage, quality: u8) -> Result<Bytes, Unmade> {
    let (width, height) = (pixels.width(), pixels.height());
    let encoder = match pixels.color().has_alpha() {
        true => webp::Encoder::from_rgba(pixels.as_bytes(), width, height),
        false => webp::Encoder::from_rgb(pixels.as_bytes(), width, height),
    };
    let encoded = encoder.encode_simple(false, f32::from(quality)).map_err(|_| Unmade::Unreadable)?;
    Ok(Bytes::copy_from_slice(&encoded))
}

/// In the format that it came in.
fn again(
    pixels: &DynamicImage,
    format: Source,
    profile: Option<Vec<u8>>,
    quality: u8,
) -> Result<Made, Unmade> {
    let mut content = Vec::new();
    let media_type = match format {
        Source::Jpeg => {
            let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut content, quality);
            keep_profile(&mut encoder, profile)?;
            encoder.encode_image(&pixels.to_rgb8()).map_err(|_| Unmade::Unreadable)?;
            "image/jpeg"
        }
        Source::Png => {
            let mut encoder = image::codecs::png::PngEncoder::new(&mut content);
            keep_profile(&mut encoder, profile)?;
            pixels.write_with_encoder(encoder).map_err(|_| Unmade::Unreadable)?;
            "image/png"
        }
        Source::Webp if profile.is_some() => return Err(Unmade::Useless),
        Source::Webp => return Ok(Made { content: webp(pixels, quality)?, media_type: "image/webp" }),
    };
    Ok(Made { content: content.into(), media_type })
}

fn keep_profile(encoder: &mut impl ImageEncoder, profile: Option<Vec<u8>>) -> Result<(), Unmade> {
    match profile {
        Some(profile) => encoder.set_icc_profile(profile).map_err(|_| Unmade::Useless),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Images {
        Images { widths: vec![100, 200], heights: vec![50], ..Images::default() }
    }

    fn picture(width: u32, height: u32) -> DynamicImage {
        DynamicImage::ImageRgb8(image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 3) as u8, (y * 5) as u8, ((x * y) >> 4) as u8])
        }))
    }

    fn encoded(pixels: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut content = Cursor::new(Vec::new());
        pixels.write_to(&mut content, format).unwrap();
        content.into_inner()
    }

    fn plain(width: Option<u32>, height: Option<u32>, fit: Fit) -> Asked {
        Asked { width, height, fit, quality: 75, has_quality: false }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn queries_ask_for_listed_sizes_only() {
        let ask =
            |path: &str, query: &str| asked(&settings(), path, Some(query).filter(|query| !query.is_empty()));
        assert_eq!(ask("/a.css", "w=9"), Ok(None));
        assert_eq!(ask("/a.jpg/b", "w=9"), Ok(None));
        let unsized_ = plain(None, None, Fit::ScaleDown);
        assert_eq!(ask("/a.JPG", ""), Ok(Some((unsized_, None))));
        let both = plain(Some(100), Some(50), Fit::Cover);
        assert_eq!(ask("/x/a.png", "v=1&w=100&h=50&fit=cover&z"), Ok(Some((both, Some("v=1&z".into())))));
        for bad in [
            "w=101",
            "w=",
            "w=-1",
            "w=0100",
            "w=100&w=100",
            "h=100",
            "q=33",
            "fit=fill",
            "w=99999999999",
            "w=%31",
        ] {
            assert_eq!(ask("/a.jpeg", bad), Err(BadAsk), "{bad}");
        }
    }

    #[test]
    fn only_what_is_named_is_accepted() {
        use WrittenAs::{Avif, Webp};
        for (accept, expected) in [
            ("image/avif,image/webp,*/*", &[Avif, Webp][..]),
            ("image/webp;q=0.9, image/avif;q=0.8", &[Webp, Avif]),
            ("image/avif;q=0, IMAGE/WEBP", &[Webp]),
            ("image/*, */*", &[]),
            ("image/webp;q=x", &[]),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            assert_eq!(accepted(&settings(), &headers), expected, "{accept}");
        }
    }

    #[test]
    fn sizes_by_fit() {
        for (asked, expected) in [
            (plain(Some(100), None, Fit::ScaleDown), (100, 50)),
            (plain(None, Some(50), Fit::ScaleDown), (100, 50)),
            (plain(Some(800), None, Fit::ScaleDown), (400, 200)),
            (plain(Some(800), None, Fit::Contain), (800, 400)),
            (plain(Some(100), Some(100), Fit::Contain), (100, 50)),
            (plain(Some(100), Some(100), Fit::Cover), (100, 100)),
            (plain(None, None, Fit::Cover), (400, 200)),
        ] {
            assert_eq!(size(400, 200, asked), expected, "{asked:?}");
        }
        assert_eq!(size(10_000, 1, plain(Some(10), None, Fit::ScaleDown)), (10, 1), "never nothing");
    }

    #[test]
    fn every_format_is_read_and_written() {
        let alpha = DynamicImage::ImageRgba8(picture(120, 80).to_rgba8());
        for (content, own) in [
            (encoded(&picture(120, 80), ImageFormat::Jpeg), "image/jpeg"),
            (encoded(&alpha, ImageFormat::Png), "image/png"),
            (encoded(&alpha, ImageFormat::WebP), "image/webp"),
        ] {
            let asked = plain(Some(60), None, Fit::ScaleDown);
            let same = make(&content, asked, &[], soon()).unwrap();
            assert_eq!(same.media_type, own);
            let header = look(&same.content).unwrap();
            assert_eq!((header.width, header.height), (60, 40));
            let webp = make(&content, asked, &[WrittenAs::Webp], soon()).unwrap();
            assert_eq!((webp.media_type, look(&webp.content).unwrap().format), ("image/webp", Source::Webp));
            let avif = make(&content, asked, &[WrittenAs::Avif], soon()).unwrap();
            assert_eq!((avif.media_type, &avif.content[4..12]), ("image/avif", &b"ftypavif"[..]));
        }
    }

    /// A JPEG with an EXIF block that says how it is to be turned, and where it was taken.
    fn turned(orientation: u8) -> Vec<u8> {
        let jpeg = encoded(&picture(120, 80), ImageFormat::Jpeg);
        let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
        exif.extend(b"SECRET PLACE");
        let mut content = jpeg[..2].to_vec();
        content.extend([0xff, 0xe1]);
        content.extend(((exif.len() + 2) as u16).to_be_bytes());
        content.extend(&exif);
        content.extend(&jpeg[2..]);
        content
    }

    #[test]
    fn orientation_is_applied_and_metadata_is_gone() {
        let content = turned(6);
        assert!(find(&content, b"SECRET PLACE").is_some());
        let made = make(&content, plain(Some(40), None, Fit::ScaleDown), &[], soon()).unwrap();
        let header = look(&made.content).unwrap();
        assert_eq!((header.width, header.height), (40, 60), "turned upright");
        assert!(find(&made.content, b"SECRET PLACE").is_none() && find(&made.content, b"Exif").is_none());
    }

    #[test]
    fn other_colours_stay_in_formats_that_hold_them() {
        let mut content = Vec::new();
        let mut encoder = image::codecs::jpeg::JpegEncoder::new(&mut content);
        encoder.set_icc_profile(b"Display P3 profile".to_vec()).unwrap();
        encoder.encode_image(&picture(120, 80).to_rgb8()).unwrap();
        let made = make(&content, plain(Some(60), None, Fit::ScaleDown), &[WrittenAs::Webp], soon()).unwrap();
        assert_eq!(made.media_type, "image/jpeg");
        assert!(find(&made.content, b"Display P3").is_some());
        assert!(is_srgb(b"x sRGB IEC61966") && is_srgb(b"\0s\0R\0G\0B\0 ") && !is_srgb(b"Adobe RGB"));
    }

    #[test]
    fn hostile_images_are_refused_before_they_cost_anything() {
        let png = encoded(&picture(16, 16), ImageFormat::Png);
        // 60,000 × 60,000 pixels by its header, which is some bytes long.
        let mut bomb = png.clone();
        bomb[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        let crc = crc32fast::hash(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(look(&bomb), Err(Unmade::TooLarge));
        let asked = plain(Some(8), None, Fit::ScaleDown);
        for content in
            [&b""[..], b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"<svg/>"]
        {
            assert_eq!(make(content, asked, &[], soon()).unwrap_err(), Unmade::Unreadable, "{content:?}");
        }
        for content in
            [png, encoded(&picture(64, 64), ImageFormat::Jpeg), encoded(&picture(64, 64), ImageFormat::WebP)]
        {
            for cut in (0..content.len()).step_by(1 + content.len() / 40) {
                // A decoder may make do with what there is: no panic is all that is asked.
                let _ = make(&content[..cut], asked, &[], soon());
            }
        }
        let late = make(&turned(1), asked, &[], Instant::now()).unwrap_err();
        assert_eq!(late, Unmade::Late);
    }

    #[test]
    fn animations_and_what_gains_nothing_stay() {
        let mut animated = encoded(&picture(16, 16), ImageFormat::Png);
        let chunk = [&8u32.to_be_bytes()[..], b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]].concat();
        let crc = crc32fast::hash(&chunk[4..]).to_be_bytes();
        animated.splice(33..33, chunk.into_iter().chain(crc));
        assert!(look(&animated).unwrap().is_animated);
        let asked = plain(Some(8), None, Fit::ScaleDown);
        assert_eq!(make(&animated, asked, &[], soon()).unwrap_err(), Unmade::Useless);
        let small = encoded(&picture(120, 80), ImageFormat::Jpeg);
        let nothing = plain(None, None, Fit::ScaleDown);
        assert_eq!(make(&small, nothing, &[], soon()).unwrap_err(), Unmade::Useless, "nothing was asked for");
        let larger = Asked { quality: 100, has_quality: true, ..nothing };
        assert_eq!(make(&small, larger, &[], soon()).unwrap_err(), Unmade::Useless, "it would be larger");
        let smaller = Asked { quality: 10, has_quality: true, ..nothing };
        assert!(make(&small, smaller, &[], soon()).unwrap().content.len() < small.len());
    }
}
