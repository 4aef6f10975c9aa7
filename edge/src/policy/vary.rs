//! The secondary key (RFC 9111 §4.1): which stored variant answers a request.

use http::HeaderName;

/// The fields a stored response was selected by, with the storing request's normalised values.
///
/// Compared exactly, never by hash: request fields are chosen by strangers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Vary {
    /// In ascending order of name, each once; `None`: the request did not have the field.
    pub fields: Box<[(HeaderName, Option<Box<[u8]>>)]>,
}
