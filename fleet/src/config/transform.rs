//! What an edge makes of a site's responses before they leave: smaller encodings, other images, what its own code says.
//!
//! A part of [`super::Config`] by itself; how it is done is the edge's.

use std::{path::PathBuf, time::Duration};

/// `[site.NAME.compress]`, and what else is made of stored responses. The default makes nothing of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SiteTransform {
    /// Content codings; `None`: what the origin sends.
    pub compress: Option<Compress>,
    /// Images; `None`: what the origin sends.
    pub images: Option<Images>,
    /// Code of its own; `None`: there is none.
    pub code: Option<Code>,
}

/// `[site.NAME.compress]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Compress {
    /// In order of preference where a client has none; never empty.
    pub codings: Vec<Coding>,
    /// Media types, lower case, without parameters; `text/*` stands for all of a kind.
    pub types: Vec<String>,
    /// Shorter content is sent as it is, bytes.
    pub bytes_min: u64,
    /// Longer content is sent as it is, bytes.
    pub bytes_max: u64,
}

impl Default for Compress {
    fn default() -> Self {
        Compress {
            codings: vec![Coding::Brotli, Coding::Zstd, Coding::Gzip],
            types: COMPRESSIBLE.iter().map(|name| (*name).to_owned()).collect(),
            // Below it a packet is saved by no coding.
            bytes_min: 1024,
            // About three seconds of one core at the better level: what is larger belongs precompressed at the origin.
            bytes_max: 8 << 20,
        }
    }
}

/// `[site.NAME.images]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// What images become where a client says that it can read it, in order of preference where it has none; may be empty.
    pub formats: Vec<WrittenAs>,
    /// Values of `w` that may be asked for, pixels.
    pub widths: Vec<u32>,
    /// Values of `h` that may be asked for, pixels.
    pub heights: Vec<u32>,
    /// Values of `q` that may be asked for, 1 to 100.
    pub qualities: Vec<u32>,
    /// Quality where none is asked for.
    pub quality: u8,
    /// Larger sources are sent as they are, bytes.
    pub bytes_max: u64,
    /// How long a request waits before it gets the original.
    pub wait: Duration,
}

impl Default for Images {
    fn default() -> Self {
        Images {
            formats: vec![WrittenAs::Avif, WrittenAs::Webp],
            widths: Vec::new(),
            heights: Vec::new(),
            qualities: Vec::new(),
            quality: 75,
            // A telephone's largest JPEG is half of it.
            bytes_max: 20 << 20,
            // What a person takes for a slow page, and not yet for a broken one.
            wait: Duration::from_secs(2),
        }
    }
}

/// `[site.NAME.code]`: a WebAssembly module that is asked about requests and responses.
#[derive(Clone, Debug, PartialEq)]
pub struct Code {
    /// The module.
    pub module: PathBuf,
    /// What becomes of a request whose call ends early.
    pub on_error: OnError,
    /// Instructions of a call, about one each.
    pub fuel: u64,
    /// Time of a call.
    pub time: Duration,
    /// Memory of a call, bytes.
    pub memory_bytes_max: u64,
}

/// What becomes of a request, or response, when code at the edge ends early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It goes on as it came (the default).
    #[default]
    Open,
    /// It is refused.
    Closed,
}

/// A format that images are made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrittenAs {
    /// AVIF.
    Avif,
    /// WebP, lossy.
    Webp,
}

impl WrittenAs {
    /// As `Accept` and `Content-Type` say it.
    pub fn media_type(self) -> &'static str {
        match self {
            WrittenAs::Avif => "image/avif",
            WrittenAs::Webp => "image/webp",
        }
    }
}

/// A content coding that edges can make (RFC 9110 section 8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
    /// `gzip`.
    Gzip,
}

impl Coding {
    /// All of them, in the order in which they are told to origins.
    pub const ALL: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    /// As `Content-Encoding` says it.
    pub fn token(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
            Coding::Gzip => "gzip",
        }
    }
}

/// Types that are compressed where the fleet file names none: text in all its forms, and what is known to shrink.
pub const COMPRESSIBLE: [&str; 15] = [
    "text/*",
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/manifest+json",
    "application/xml",
    "application/xhtml+xml",
    "application/rss+xml",
    "application/atom+xml",
    "application/geo+json",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "font/ttf",
    "font/otf",
    "image/svg+xml",
];

/// Whether content of a media type (lower case, without parameters) is compressed by its own format: another coding would
/// cost time and make it no smaller.
pub fn is_compressed_media(media: &str) -> bool {
    let (kind, name) = media.split_once('/').unwrap_or((media, ""));
    match kind {
        "video" | "audio" => true,
        "image" => !matches!(name, "svg+xml" | "bmp" | "x-icon" | "vnd.microsoft.icon"),
        "font" => matches!(name, "woff" | "woff2"),
        "application" => matches!(
            name,
            "gzip"
                | "zip"
                | "zstd"
                | "x-gzip"
                | "x-bzip2"
                | "x-xz"
                | "x-7z-compressed"
                | "x-rar-compressed"
                | "vnd.rar"
                | "java-archive"
                | "pdf"
                | "epub+zip"
                | "font-woff"
                | "font-woff2"
        ),
        _ => false,
    }
}
