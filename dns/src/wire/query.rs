//! Bytes → query.
//!
//! [`Query::parse`] looks at every octet: sections are walked to the end, so that a message with
//! something behind it, or with less in it than its counts say, is never taken for a query.
//!
//! All of it is inlined into the answer. A [`Query`] is wide and made of narrow pieces; copied from function to
//! function while those are still on their way to the cache, it cost a sixth of an answer.

#![allow(clippy::result_large_err, reason = "a refusal is as rare as it is short-lived, and never boxed")]

use nearside_zones::{NameBuf, Rtype};

use super::{Edns, HEADER_BYTES, flags};

/// A query that may be answered.
#[derive(Clone, Copy, Debug)]
pub struct Query<'q> {
    /// Header and question as sent: their octets begin the answer.
    pub head: &'q [u8],
    /// Message id.
    pub id: u16,
    /// Flags as sent.
    pub flags: u16,
    /// Type asked for.
    pub rtype: Rtype,
    /// Class asked for.
    pub class: u16,
    /// The OPT record.
    pub edns: Option<Edns<'q>>,
    /// Whether there is a question: none is only good for asking for a cookie (RFC 7873 section 5.4).
    pub asks: bool,
}

/// What is sent to a query that is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing: less than a header, or a response.
    Drop,
    /// FORMERR.
    FormErr,
    /// NOTIMP: another opcode.
    NotImp,
    /// BADVERS: EDNS past version 0.
    BadVers,
    /// NOTAUTH: signed with a key nobody here knows (RFC 8945 section 5.2.1).
    NotAuth,
}

/// A refused message, with what of it can be echoed.
#[derive(Clone, Copy, Debug)]
pub struct Reject<'q> {
    /// Why.
    pub refusal: Refusal,
    /// The header (if there is one), and the question where it could be read.
    pub head: &'q [u8],
    /// The OPT record where it could be read: then the refusal carries one too.
    pub edns: Option<Edns<'q>>,
    /// The signature, where that is what it is refused for.
    pub tsig: Option<Tsig<'q>>,
}

/// What of a query's signature goes into the answer that refuses its key (RFC 8945 section 5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tsig<'q> {
    /// Name of the key, wire form, not compressed.
    pub key: &'q [u8],
    /// Name of the algorithm, the same.
    pub algorithm: &'q [u8],
    /// Time signed and fudge.
    pub time: &'q [u8; 8],
    /// Original id.
    pub id: &'q [u8; 2],
}

impl<'q> Tsig<'q> {
    /// RFC 8945 section 4.2. `None`: malformed.
    fn parse(record: &Raw<'q>) -> Option<Self> {
        const CLASS_ANY: u16 = 255;
        let (algorithm, rest) = record.data.split_at_checked(skip_name(record.data)?)?;
        let (time, rest) = rest.split_first_chunk::<8>()?;
        let (mac_bytes, rest) = rest.split_first_chunk::<2>()?;
        let (_mac, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*mac_bytes)))?;
        let (id, rest) = rest.split_first_chunk::<2>()?;
        let (&[_, _, high, low], other) = rest.split_first_chunk::<4>()?;
        let whole = other.len() == usize::from(u16::from_be_bytes([high, low]));
        let plain = algorithm.len() <= NAME_BYTES_MAX && !ends_in_pointer(algorithm);
        (record.class == CLASS_ANY && whole && plain).then_some(Self {
            key: record.owner,
            algorithm,
            time,
            id,
        })
    }

    /// Whether the key's name stands in the query as it is, so that it can be said again.
    fn is_plain(&self) -> bool {
        self.key.len() <= NAME_BYTES_MAX && !ends_in_pointer(self.key)
    }
}

/// Types that are only mechanisms: nothing to look up, and nothing we do.
const TKEY: u16 = 249;
const TSIG: u16 = 250;

/// Records behind the question that are looked at. RFC-abiding queries carry an OPT and perhaps a
/// signature; past this a message is noise.
const RECORDS_MAX: u32 = 16;

/// Octets of a name (RFC 1035 section 2.3.4).
const NAME_BYTES_MAX: usize = 255;

impl<'q> Query<'q> {
    /// Reads a message; the lower-case question name goes to `name`.
    ///
    /// # Errors
    /// [`Reject`] with what to send instead of an answer.
    #[inline(always)]
    pub fn parse(packet: &'q [u8], name: &mut NameBuf) -> Result<Self, Reject<'q>> {
        let Some((header, body)) = packet.split_first_chunk::<HEADER_BYTES>() else {
            return Err(Reject { refusal: Refusal::Drop, head: &[], edns: None, tsig: None });
        };
        let word = |index: usize| u16::from_be_bytes([header[index], header[index + 1]]);
        let flags = word(2);
        if flags & flags::QR != 0 {
            return Err(Reject { refusal: Refusal::Drop, head: &[], edns: None, tsig: None });
        }
        let bare = &packet[..HEADER_BYTES];
        let (questions, answers, authorities, additionals) = (word(4), word(6), word(8), word(10));
        let refuse = |refusal, head, edns| Err(Reject { refusal, head, edns, tsig: None });
        let opcode_refusal = (flags & flags::OPCODE != 0).then_some(Refusal::NotImp);
        let form_error = opcode_refusal.unwrap_or(Refusal::FormErr);
        if questions > 1 {
            return refuse(form_error, bare, None);
        }
        let mut rest = body;
        let (mut rtype, mut class) = (Rtype(0), 0);
        if questions == 1 {
            let Some(asked) = question(&mut rest, name) else { return refuse(form_error, bare, None) };
            (rtype, class) = asked;
        }
        let head = &packet[..packet.len() - rest.len()];
        let records = u32::from(answers) + u32::from(authorities) + u32::from(additionals);
        // A question brings no answer; only IXFR brings an authority section (RFC 1995 section 3).
        let odd_sections = answers > 0 || (authorities > 0 && rtype != Rtype::IXFR) || records > RECORDS_MAX;
        if odd_sections && opcode_refusal.is_none() {
            return refuse(Refusal::FormErr, head, None);
        }
        let first_additional = u32::from(answers) + u32::from(authorities);
        let behind = Behind::parse(&mut rest, records.min(RECORDS_MAX), first_additional);
        let edns = behind.edns;
        if let Some(refusal) = opcode_refusal {
            return refuse(refusal, head, edns);
        }
        if let Some(edns) = edns.filter(|edns| edns.version > 0 && !behind.several) {
            return refuse(Refusal::BadVers, head, Some(edns));
        }
        if behind.malformed || !rest.is_empty() {
            return refuse(Refusal::FormErr, head, edns);
        }
        if let Some(tsig) = behind.tsig {
            let tsig = Some(tsig).filter(Tsig::is_plain);
            return Err(Reject { refusal: Refusal::NotAuth, head, edns, tsig });
        }
        let asks_for_cookie = edns.is_some_and(|edns| edns.cookie.is_some());
        if questions == 0 && !asks_for_cookie {
            return refuse(Refusal::FormErr, bare, edns);
        }
        if matches!(rtype, Rtype::OPT | Rtype(TKEY) | Rtype(TSIG)) {
            return refuse(Refusal::FormErr, head, edns);
        }
        Ok(Self { head, id: word(0), flags, rtype, class, edns, asks: questions == 1 })
    }
}

/// The question: an uncompressed name (there is nothing before it to point at), type and class.
fn question(rest: &mut &[u8], name: &mut NameBuf) -> Option<(Rtype, u16)> {
    let length = name.set(rest).ok()?;
    let (&[type_high, type_low, class_high, class_low], after) = rest[length..].split_first_chunk::<4>()?;
    *rest = after;
    Some((Rtype(u16::from_be_bytes([type_high, type_low])), u16::from_be_bytes([class_high, class_low])))
}

/// What stands behind the question.
#[derive(Default)]
struct Behind<'q> {
    edns: Option<Edns<'q>>,
    several: bool,
    tsig: Option<Tsig<'q>>,
    malformed: bool,
}

impl<'q> Behind<'q> {
    #[inline(always)]
    fn parse(rest: &mut &'q [u8], records: u32, first_additional: u32) -> Self {
        let mut behind = Self::default();
        for index in 0..records {
            let Some(record) = Raw::parse(rest) else {
                behind.malformed = true;
                break;
            };
            match record.rtype {
                Rtype::OPT => behind.opt(&record, index >= first_additional),
                // RFC 8945 section 5.1: the last record, or the message is malformed.
                Rtype(TSIG) => {
                    behind.tsig = Tsig::parse(&record).filter(|_| index + 1 == records);
                    behind.malformed |= behind.tsig.is_none();
                }
                _ => {}
            }
        }
        behind
    }

    #[inline(always)]
    fn opt(&mut self, record: &Raw<'q>, in_additional: bool) {
        if self.edns.is_some() {
            self.several = true;
            self.malformed = true;
            return;
        }
        match Edns::parse(record.class, record.ttl, record.data) {
            Ok(edns) => self.edns = Some(edns),
            Err(_) => {
                self.malformed = true;
                // The client speaks EDNS all the same: the refusal says so (RFC 6891 section 7).
                let [_, version, flags, _] = record.ttl.to_be_bytes();
                self.edns = Some(Edns {
                    payload: record.class,
                    version,
                    dnssec_ok: flags & 0x80 != 0,
                    ..Edns::default()
                });
            }
        }
        // RFC 6891 section 6.1.2: the owner is the root, the place the additional section.
        self.malformed |= record.owner != [0] || !in_additional;
    }
}

struct Raw<'q> {
    owner: &'q [u8],
    rtype: Rtype,
    class: u16,
    ttl: u32,
    data: &'q [u8],
}

impl<'q> Raw<'q> {
    #[inline(always)]
    fn parse(rest: &mut &'q [u8]) -> Option<Self> {
        let (owner, after) = rest.split_at_checked(skip_name(rest)?)?;
        let (fixed, after) = after.split_first_chunk::<10>()?;
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let (data, after) = after.split_at_checked(length)?;
        *rest = after;
        Some(Self {
            owner,
            rtype: Rtype(u16::from_be_bytes([fixed[0], fixed[1]])),
            class: u16::from_be_bytes([fixed[2], fixed[3]]),
            ttl: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            data,
        })
    }
}

/// Octets of a name that is only stepped over: labels, then the root or a pointer, never followed.
fn skip_name(octets: &[u8]) -> Option<usize> {
    let mut position = 0;
    loop {
        match *octets.get(position)? {
            0 => return Some(position + 1),
            0xc0.. => return (position + 2 <= octets.len()).then_some(position + 2),
            length @ 1..=63 => position += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// Whether a name that was stepped over is compressed: a pointer is where its labels end.
fn ends_in_pointer(name: &[u8]) -> bool {
    let mut position = 0;
    while let Some(&length @ 1..=63) = name.get(position) {
        position += 1 + usize::from(length);
    }
    name.get(position) != Some(&0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUESTION: &[u8] = b"\x03wWw\x03cdn\x04test\x00\x00\x01\x00\x01";
    const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";

    /// Key `k`, algorithm `h`, a MAC of two octets.
    const TSIG_RECORD: &[u8] = b"\x01k\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x15\x01h\x00\
        \x00\x00\x65\x00\x00\x01\x01\x2c\x00\x02\xaa\xbb\xab\xcd\x00\x00\x00\x00";

    fn packet(flags: u16, counts: [u16; 4], parts: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0xab, 0xcd];
        packet.extend(flags.to_be_bytes());
        for count in counts {
            packet.extend(count.to_be_bytes());
        }
        packet.extend(parts.concat());
        packet
    }

    fn refusal(packet: &[u8]) -> Option<(Refusal, usize, bool)> {
        Query::parse(packet, &mut NameBuf::new())
            .err()
            .map(|reject| (reject.refusal, reject.head.len(), reject.edns.is_some()))
    }

    #[test]
    fn a_plain_query_and_one_with_opt() {
        let mut name = NameBuf::new();
        let plain = packet(0x0100, [1, 0, 0, 0], &[QUESTION]);
        let query = Query::parse(&plain, &mut name).unwrap();
        assert_eq!((query.id, query.rtype, query.class, query.head.len()), (0xabcd, Rtype::A, 1, 30));
        assert_eq!(name.to_string(), "www.cdn.test.");
        let edns = packet(0x0100, [1, 0, 0, 1], &[QUESTION, OPT]);
        let query = Query::parse(&edns, &mut name).unwrap();
        assert_eq!(query.edns.map(|edns| (edns.payload, edns.dnssec_ok)), Some((1232, true)));
    }

    #[test]
    fn each_malformation_has_its_refusal() {
        let full = HEADER_BYTES + QUESTION.len();
        let opt_off_root = [b"\x01a", OPT].concat();
        let short_option = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x03\x00\x08\x00";
        let later = b"\x00\x00\x29\x04\xd0\x00\x01\x00\x00\x00\x00";
        let tsig = TSIG_RECORD;
        let cut_tsig = b"\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x00";
        let a = b"\x01x\x00\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00";
        for (what, packet, expected) in [
            ("short", b"\x00\x01".to_vec(), (Refusal::Drop, 0, false)),
            ("response", packet(0x8000, [1, 0, 0, 0], &[QUESTION]), (Refusal::Drop, 0, false)),
            ("update", packet(0x2800, [1, 0, 0, 0], &[QUESTION]), (Refusal::NotImp, full, false)),
            ("notify+opt", packet(0x2000, [1, 0, 0, 1], &[QUESTION, OPT]), (Refusal::NotImp, full, true)),
            ("status, empty", packet(0x1000, [0; 4], &[]), (Refusal::NotImp, 12, false)),
            ("opcode 15, garbage", packet(0x7800, [1, 9, 9, 9], &[b"\xc0"]), (Refusal::NotImp, 12, false)),
            ("no question", packet(0, [0; 4], &[]), (Refusal::FormErr, 12, false)),
            ("two questions", packet(0, [2, 0, 0, 0], &[QUESTION, QUESTION]), (Refusal::FormErr, 12, false)),
            (
                "pointer to itself",
                packet(0, [1, 0, 0, 0], &[b"\xc0\x0c\x00\x01\x00\x01"]),
                (Refusal::FormErr, 12, false),
            ),
            (
                "pointer after a label",
                packet(0, [1, 0, 0, 0], &[b"\x01a\xc0\x0c\x00\x01\x00\x01"]),
                (Refusal::FormErr, 12, false),
            ),
            ("cut question", packet(0, [1, 0, 0, 0], &[&QUESTION[..15]]), (Refusal::FormErr, 12, false)),
            (
                "trailing octet",
                packet(0, [1, 0, 0, 0], &[QUESTION, b"\x00"]),
                (Refusal::FormErr, full, false),
            ),
            ("missing additional", packet(0, [1, 0, 0, 1], &[QUESTION]), (Refusal::FormErr, full, false)),
            ("answer in a query", packet(0, [1, 1, 0, 0], &[QUESTION, a]), (Refusal::FormErr, full, false)),
            ("two OPT", packet(0, [1, 0, 0, 2], &[QUESTION, OPT, OPT]), (Refusal::FormErr, full, true)),
            (
                "OPT below the root",
                packet(0, [1, 0, 0, 1], &[QUESTION, &opt_off_root]),
                (Refusal::FormErr, full, true),
            ),
            (
                "cut option",
                packet(0, [1, 0, 0, 1], &[QUESTION, short_option]),
                (Refusal::FormErr, full, true),
            ),
            ("EDNS 1", packet(0, [1, 0, 0, 1], &[QUESTION, later]), (Refusal::BadVers, full, true)),
            ("signed", packet(0, [1, 0, 0, 1], &[QUESTION, tsig]), (Refusal::NotAuth, full, false)),
            (
                "cut signature",
                packet(0, [1, 0, 0, 1], &[QUESTION, cut_tsig]),
                (Refusal::FormErr, full, false),
            ),
            (
                "signed, then more",
                packet(0, [1, 0, 0, 2], &[QUESTION, tsig, OPT]),
                (Refusal::FormErr, full, true),
            ),
            ("floods of records", packet(0, [1, 0, 0, 999], &[QUESTION]), (Refusal::FormErr, full, false)),
        ] {
            assert_eq!(refusal(&packet), Some(expected), "{what}");
        }
        assert_eq!(refusal(&packet(0, [1, 0, 0, 2], &[QUESTION, a, OPT])), None, "an unknown additional");
    }

    #[test]
    fn a_signature_is_said_again_where_its_key_is_not_compressed() {
        let signed = |record: &[u8]| {
            let packet = packet(0, [1, 0, 0, 1], &[QUESTION, record]);
            let reject = Query::parse(&packet, &mut NameBuf::new()).err().unwrap();
            assert_eq!(reject.refusal, Refusal::NotAuth);
            reject.tsig.map(|tsig| (tsig.key.to_vec(), tsig.algorithm.to_vec(), tsig.id.to_vec()))
        };
        let plain = (b"\x01k\x00".to_vec(), b"\x01h\x00".to_vec(), b"\xab\xcd".to_vec());
        assert_eq!(signed(TSIG_RECORD), Some(plain));
        assert_eq!(signed(&[b"\xc0\x0c", &TSIG_RECORD[3..]].concat()), None);
        assert_eq!(signed(&[b"\x01k\xc0\x00", &TSIG_RECORD[3..]].concat()), None, "no root, a pointer to 0");
    }

    proptest! {
        #[test]
        fn random_octets_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Query::parse(&octets, &mut NameBuf::new());
        }

        #[test]
        fn damaged_queries_never_panic(flips in proptest::collection::vec((0usize..60, any::<u8>()), 0..6), cut in 0usize..60) {
            let mut octets = packet(0, [1, 0, 0, 1], &[QUESTION, b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x0b\x00\x08\x00\x07\x00\x01\x18\x00\xc0\x00\x02"]);
            for (index, value) in flips {
                let length = octets.len();
                octets[index % length] = value;
            }
            octets.truncate(octets.len() - cut.min(octets.len()));
            if let Ok(query) = Query::parse(&octets, &mut NameBuf::new()) {
                prop_assert!(query.head.len() <= octets.len());
            }
        }
    }
}
