//! What is counted of transformations: by what is made, and how that went.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use nearside_fleet::config::transform::{Coding, WrittenAs};

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A content coding.
    Coded(Coding),
    /// An image in this format.
    Image(WrittenAs),
    /// An image in the format that it came in.
    Resized,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] = [
        Kind::Coded(Coding::Brotli),
        Kind::Coded(Coding::Zstd),
        Kind::Coded(Coding::Gzip),
        Kind::Image(WrittenAs::Avif),
        Kind::Image(WrittenAs::Webp),
        Kind::Resized,
    ];

    /// The metrics' label.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Coded(coding) => coding.token(),
            Kind::Image(WrittenAs::Avif) => "avif",
            Kind::Image(WrittenAs::Webp) => "webp",
            Kind::Resized => "resized",
        }
    }

    fn index(self) -> usize {
        Kind::ALL.iter().position(|kind| *kind == self).unwrap_or(0)
    }
}

/// How making something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is stored.
    Made,
    /// It would have been no smaller.
    Useless,
    /// The source could not be read, or a coder failed.
    Failed,
    /// Too much was waiting: not begun.
    Busy,
    /// A request went without it, because it took too long.
    Late,
}

impl End {
    /// All of them.
    pub const ALL: [End; 5] = [End::Made, End::Useless, End::Failed, End::Busy, End::Late];

    /// The metrics' label.
    pub fn name(self) -> &'static str {
        match self {
            End::Made => "made",
            End::Useless => "useless",
            End::Failed => "failed",
            End::Busy => "busy",
            End::Late => "late",
        }
    }
}

/// Counters of one kind.
#[derive(Debug, Default)]
pub struct OfKind {
    ends: [AtomicU64; End::ALL.len()],
    /// Responses that went out so.
    pub served: AtomicU64,
    /// Bytes it was made of.
    pub input_bytes: AtomicU64,
    /// Bytes that were made.
    pub output_bytes: AtomicU64,
    /// Processor time, roughly: from begin to end of the work, microseconds.
    pub work_us: AtomicU64,
}

impl OfKind {
    /// How many ended so.
    pub fn ended(&self, end: End) -> u64 {
        self.ends[end as usize].load(Relaxed)
    }
}

/// All counters of an edge.
#[derive(Debug, Default)]
pub struct Stats([OfKind; Kind::ALL.len()]);

impl Stats {
    /// Those of a kind.
    pub fn of(&self, kind: Kind) -> &OfKind {
        &self.0[kind.index()]
    }

    /// One more ended so.
    pub fn ended(&self, kind: Kind, end: End) {
        self.of(kind).ends[end as usize].fetch_add(1, Relaxed);
    }

    /// Something was made of something.
    pub fn worked(&self, kind: Kind, input_bytes: usize, output_bytes: usize, time: Duration) {
        let of = self.of(kind);
        of.input_bytes.fetch_add(input_bytes as u64, Relaxed);
        of.output_bytes.fetch_add(output_bytes as u64, Relaxed);
        of.work_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }
}
