//! Bytes ↔ query, answer ↔ bytes: in place, without allocation.
//!
//! [`Query::parse`] reads a whole message or says which rcode refuses it; [`Message`] writes an
//! answer front to back into the caller's buffer, compresses names and takes back an RRset that
//! does not fit. Neither knows what a zone is.
//!
//! The grammar is RFC 1035 section 4 and RFC 6891. A query that a resolver or a test tool sends in
//! good faith always parses; everything else is refused by the narrowest rule that names it.

mod edns;
mod message;
mod query;

pub use edns::{ClientSubnet, Cookie, Ede, Edns};
pub(crate) use message::answer_flags;
pub use message::{Data, Full, Message, Names, Opt, Owner, Section};
pub use query::{Query, Refusal, Reject, Tsig};

/// Octets of the header (RFC 1035 section 4.1.1).
pub const HEADER_BYTES: usize = 12;
/// Largest UDP message to a client that does not speak EDNS (RFC 1035 section 2.3.4).
pub const PLAIN_UDP_BYTES: usize = 512;

/// Response codes (RFC 1035 section 4.1.1, RFC 6895 section 2.3); past 15 they need an OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rcode(pub u16);

#[allow(missing_docs, reason = "the names are the IANA registry's")]
impl Rcode {
    pub const NOERROR: Self = Self(0);
    pub const FORMERR: Self = Self(1);
    pub const SERVFAIL: Self = Self(2);
    pub const NXDOMAIN: Self = Self(3);
    pub const NOTIMP: Self = Self(4);
    pub const REFUSED: Self = Self(5);
    pub const YXDOMAIN: Self = Self(6);
    pub const NOTAUTH: Self = Self(9);
    pub const BADVERS: Self = Self(16);
    pub const BADCOOKIE: Self = Self(23);
}

/// Header flags, as they stand in octets 2 and 3.
pub mod flags {
    /// A response.
    pub const QR: u16 = 0x8000;
    /// Authoritative answer.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired: copied from the query.
    pub const RD: u16 = 0x0100;
    /// Checking disabled: copied from the query (RFC 4035 section 3.1.6).
    pub const CD: u16 = 0x0010;
    /// The four bits of the opcode.
    pub const OPCODE: u16 = 0x7800;
}
