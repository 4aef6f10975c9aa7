//! Records as they are written ([`Record`]) and as they are served ([`RrSet`]).
//!
//! Data is uncompressed wire format. Which names inside it a message may compress is a matter of
//! the type alone: [`compressible`] says so for the types of RFC 1035 and for nothing else
//! (RFC 3597 section 4).

use std::{fmt, path::Path, str::FromStr, sync::Arc};

use domain::base::iana;

use crate::name::Name;

/// A record type by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rtype(pub u16);

#[allow(missing_docs, reason = "the names are the IANA registry's")]
impl Rtype {
    pub const A: Self = Self(1);
    pub const NS: Self = Self(2);
    pub const MD: Self = Self(3);
    pub const MF: Self = Self(4);
    pub const CNAME: Self = Self(5);
    pub const SOA: Self = Self(6);
    pub const MB: Self = Self(7);
    pub const MG: Self = Self(8);
    pub const MR: Self = Self(9);
    pub const PTR: Self = Self(12);
    pub const HINFO: Self = Self(13);
    pub const MINFO: Self = Self(14);
    pub const MX: Self = Self(15);
    pub const TXT: Self = Self(16);
    pub const AAAA: Self = Self(28);
    pub const SRV: Self = Self(33);
    pub const DNAME: Self = Self(39);
    pub const OPT: Self = Self(41);
    pub const DS: Self = Self(43);
    pub const RRSIG: Self = Self(46);
    pub const NSEC: Self = Self(47);
    pub const DNSKEY: Self = Self(48);
    pub const SVCB: Self = Self(64);
    pub const HTTPS: Self = Self(65);
    pub const IXFR: Self = Self(251);
    pub const AXFR: Self = Self(252);
    pub const MAILB: Self = Self(253);
    pub const MAILA: Self = Self(254);
    pub const ANY: Self = Self(255);
}

impl Rtype {
    /// Whether this number names no data but a question or a mechanism: 0, OPT and 128 to 255
    /// (RFC 6895 section 3.1). Such records have no place in a zone.
    pub fn is_meta(self) -> bool {
        self.0 == 0 || self == Self::OPT || (128..=255).contains(&self.0)
    }
}

impl fmt::Display for Rtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&iana::Rtype::from_int(self.0), f)
    }
}

impl FromStr for Rtype {
    type Err = ();

    /// Reads a mnemonic or `TYPE` and a number (RFC 3597 section 5), in any case.
    fn from_str(text: &str) -> Result<Self, ()> {
        iana::Rtype::from_str(text).map(|rtype| Self(rtype.to_int())).map_err(|_| ())
    }
}

/// Where a record was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// One record of a master file; the class is IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Owner name.
    pub owner: Name,
    /// Type.
    pub rtype: Rtype,
    /// Seconds, at most 2^31 - 1 (RFC 2181 section 8).
    pub ttl: u32,
    /// Uncompressed data, at most 65,535 octets.
    pub rdata: Box<[u8]>,
    /// Where it stands.
    pub place: Place,
}

/// All data of one type at one name, under one TTL (RFC 2181 section 5).
///
/// One allocation: every item is its length in two octets and its data, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RrSet {
    /// Type.
    pub rtype: Rtype,
    /// Seconds.
    pub ttl: u32,
    count: u16,
    items: Box<[u8]>,
}

impl RrSet {
    /// Gathers data of one type. More than 65,535 items are cut off (no message could hold them).
    pub fn new<'a>(rtype: Rtype, ttl: u32, data: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut items = Vec::new();
        let mut count = 0u16;
        for rdata in data {
            let (Ok(length), Some(next)) = (u16::try_from(rdata.len()), count.checked_add(1)) else {
                continue;
            };
            items.extend_from_slice(&length.to_be_bytes());
            items.extend_from_slice(rdata);
            count = next;
        }
        Self { rtype, ttl, count, items: items.into() }
    }

    /// How many records.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The data of each record, in the order of the file.
    pub fn iter(&self) -> Rdatas<'_> {
        Rdatas { rest: &self.items }
    }

    /// The first item; empty if there is none.
    pub fn first(&self) -> &[u8] {
        self.iter().next().unwrap_or(&[])
    }
}

impl<'a> IntoIterator for &'a RrSet {
    type Item = &'a [u8];
    type IntoIter = Rdatas<'a>;

    fn into_iter(self) -> Rdatas<'a> {
        self.iter()
    }
}

/// Iterator of [`RrSet::iter`].
#[derive(Clone, Debug)]
pub struct Rdatas<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Rdatas<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<2>()?;
        let (item, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        self.rest = rest;
        Some(item)
    }
}

/// Where names stand in data that a message may compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// Octets before the first name.
    pub offset: usize,
    /// Names in a row from there; the rest is plain octets.
    pub names: usize,
}

/// The compressible names of a type: those of RFC 1035 only (RFC 3597 section 4).
pub fn compressible(rtype: Rtype) -> Option<Embedded> {
    let (offset, names) = match rtype {
        Rtype::NS | Rtype::MD | Rtype::MF | Rtype::CNAME | Rtype::MB | Rtype::MG | Rtype::MR | Rtype::PTR => {
            (0, 1)
        }
        Rtype::SOA | Rtype::MINFO => (0, 2),
        Rtype::MX => (2, 1),
        _ => return None,
    };
    Some(Embedded { offset, names })
}

/// The host name that records of this type point at, for checks and additional data.
pub fn target(rtype: Rtype, rdata: &[u8]) -> Option<Name> {
    let octets = match rtype {
        Rtype::NS | Rtype::CNAME | Rtype::DNAME => rdata,
        Rtype::MX => rdata.get(2..)?,
        Rtype::SRV => rdata.get(6..)?,
        _ => return None,
    };
    Name::from_wire(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rrset_gives_back_its_items_in_order() {
        let set = RrSet::new(Rtype::TXT, 5, [&b"\x01a"[..], b"", b"\x02bc"]);
        assert_eq!(set.len(), 3);
        assert_eq!(set.iter().collect::<Vec<_>>(), [&b"\x01a"[..], b"", b"\x02bc"]);
    }

    #[test]
    fn types_read_and_write_both_spellings() {
        assert_eq!("https".parse(), Ok(Rtype::HTTPS));
        assert_eq!("TYPE65280".parse(), Ok(Rtype(65280)));
        assert_eq!("TYPE1".parse(), Ok(Rtype::A));
        assert_eq!(Rtype(65280).to_string(), "TYPE65280");
        assert_eq!("NONSENSE".parse::<Rtype>(), Err(()));
        assert!(Rtype::ANY.is_meta() && Rtype(0).is_meta() && !Rtype::HTTPS.is_meta());
    }

    #[test]
    fn only_rfc_1035_types_are_compressed() {
        assert_eq!(compressible(Rtype::MX), Some(Embedded { offset: 2, names: 1 }));
        for not in [Rtype::SRV, Rtype::DNAME, Rtype::HTTPS, Rtype(17), Rtype(18)] {
            assert_eq!(compressible(not), None);
        }
    }
}
