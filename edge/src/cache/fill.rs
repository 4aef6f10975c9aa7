//! One fetch per key, many readers: request collapsing and the fills it leads to.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Found,
    object::{Object, Span},
};
use crate::policy::Meta;

/// What [`super::Cache::join`] makes of a request.
#[derive(Debug)]
pub enum Join {
    /// Nobody fetches it: the caller must.
    Lead(Lease),
    /// Somebody does: wait for the head, then look up again.
    Follow(Waiter),
    /// The key's responses were not storable lately: fetch without waiting for anyone. The lease's answer may
    /// still be stored.
    Pass(Lease),
}

/// The right and duty to fetch a key. Dropped unused, those who wait are told to [`Outcome::Retry`].
#[derive(Debug)]
pub struct Lease {}

/// How a fetch that others waited for turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored or being stored: look up again.
    Ready,
    /// Not to be shared: fetch for yourself.
    Pass,
    /// The origin failed.
    Failed,
    /// The leader went away without an answer: join again.
    Retry,
    /// The bound on waiting passed: fetch for yourself.
    TimedOut,
}

/// Waits for a leader's response head.
#[derive(Debug)]
pub struct Waiter {}

/// Whether a fill goes on when nobody reads it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It ends with its last reader, unless it is nearly done.
    WhileRead,
    /// It completes: a refresh or a warming asked for it.
    Always,
}

/// Why a fill must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// The last reader left.
    #[error("nobody reads it any more")]
    Abandoned,
    /// More bytes than the head declared.
    #[error("the content is longer than declared")]
    TooLong,
    /// The end came before the declared length.
    #[error("the content is shorter than declared")]
    TooShort,
    /// The origin's body failed.
    #[error("the origin's body failed")]
    Origin,
}

#[allow(clippy::unimplemented)]
impl Lease {
    /// Begins storing: readers may start at once. Those who wait are told [`Outcome::Ready`]. The object is not
    /// found by anyone if a purge came since the lease was taken, but it can be read.
    pub fn start(self, meta: Meta, keep: Keep) -> (Filler, Arc<Object>) {
        let _ = (meta, keep);
        unimplemented!()
    }

    /// The answer is not to be stored: those who wait fetch for themselves, and for `uncollapsed` nobody waits.
    pub fn pass(self, uncollapsed: Duration) {
        let _ = uncollapsed;
        unimplemented!()
    }

    /// The origin failed.
    pub fn fail(self) {
        unimplemented!()
    }

    /// A 304 confirmed `validated`: `meta` is its head from now on, over the same content. Gives the new object.
    pub fn update(self, validated: &Found, meta: Meta) -> Arc<Object> {
        let _ = (validated, meta);
        unimplemented!()
    }
}

#[allow(clippy::unimplemented)]
impl Waiter {
    /// Waits for the head, at most `wait_max`. Cancel-safe.
    pub async fn wait(self, wait_max: Duration) -> Outcome {
        let _ = wait_max;
        unimplemented!()
    }
}

/// The writing end of an arriving object. Dropped unfinished, its readers are reset and nothing is stored.
#[derive(Debug)]
pub struct Filler {}

#[allow(clippy::unimplemented)]
impl Filler {
    /// Appends. Waits for the disk (or, where nothing can be stored, for readers); never for a slow client otherwise.
    ///
    /// # Errors
    /// [`FillError::TooLong`], [`FillError::Abandoned`].
    pub async fn write(&mut self, data: Bytes) -> Result<(), FillError> {
        let _ = data;
        unimplemented!()
    }

    /// Completes when the last reader has left and the fill is not worth finishing. Never before the first came.
    pub async fn abandoned(&self) {
        unimplemented!()
    }

    /// All bytes came: commits.
    ///
    /// # Errors
    /// [`FillError::TooShort`]; readers are reset, nothing is stored.
    pub async fn finish(self) -> Result<(), FillError> {
        unimplemented!()
    }
}

/// The right to fetch one missing stretch of a stored object, and its writing end.
#[derive(Debug)]
pub struct RangeLease {}

#[allow(clippy::unimplemented)]
impl RangeLease {
    /// What to ask the origin for.
    pub fn span(&self) -> Span {
        unimplemented!()
    }

    /// The origin answered 206 with exactly this span and the object's own strong validator: begin.
    /// Otherwise drop the lease: readers of the span are reset.
    pub fn start(self, keep: Keep) -> Filler {
        let _ = keep;
        unimplemented!()
    }
}

/// Feeds an origin's body to a filler until its end, its failure, or the last reader leaving. Spawn it: the
/// store owns the fill, not the client that caused it.
///
/// # Errors
/// As [`Filler::write`] and [`Filler::finish`], or [`FillError::Origin`].
pub async fn drive<B>(filler: Filler, body: B) -> Result<(), FillError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let _ = (filler, body);
    Err(FillError::Origin)
}
