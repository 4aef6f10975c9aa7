//! A stored response: its head, and the content behind it.

use std::{ops::Range, sync::Arc};

use super::{body::Body, fill::RangeLease};
use crate::policy::Meta;

/// Bytes `start..end` of an object's content.
pub type Span = Range<u64>;

/// One stored (or arriving) response. Immutable: a revalidation makes a new one over the same content.
#[derive(Debug)]
pub struct Object {}

#[allow(clippy::unimplemented)]
impl Object {
    /// Its head.
    pub fn meta(&self) -> &Meta {
        unimplemented!()
    }

    /// Length of the whole content; `None` while a fill of undeclared length runs.
    pub fn length(&self) -> Option<u64> {
        unimplemented!()
    }

    /// Reads `span` (`None`: everything). Bytes not there yet are waited for while a fill brings them;
    /// bytes that no fill brings end the body with [`super::BodyError::Missing`]: see [`Object::claim`].
    pub fn body(self: &Arc<Self>, span: Option<Span>) -> Body {
        let _ = span;
        unimplemented!()
    }

    /// Whether all of `span` is there or being brought.
    pub fn has(&self, span: Span) -> bool {
        let _ = span;
        unimplemented!()
    }

    /// Takes the fetches that `span` still needs, widened to whole chunks: the caller asks its origin for each
    /// [`RangeLease::span`] (with `If-Range`). Chunks that others already fetch are not among them.
    pub fn claim(self: &Arc<Self>, span: Span) -> Vec<RangeLease> {
        let _ = span;
        unimplemented!()
    }
}
