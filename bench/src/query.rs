//! DNS queries as bytes, and the little that a load generator reads of an answer.
//!
//! Written by hand so that building one costs less than answering it. Every query carries EDNS with a
//! UDP size of 1232; client subnets are drawn the way public resolvers send them (RFC 7871 section 11.1:
//! /24 for IPv4, /56 for IPv6).

use fastrand::Rng;

/// Which client subnets the queries carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Subnets {
    /// No client subnet option.
    None,
    /// Seven of eight a random unicast IPv4 /24, one of eight a random IPv6 /56.
    Random,
}

/// Longest query built here.
pub const QUERY_BYTES_MAX: usize = 320;

/// Writes the query for `name` (dotted, without escapes) into a new buffer; the id is zero.
///
/// # Errors
/// Says what is wrong with `name`.
pub fn build(name: &str, qtype: u16, subnets: Subnets, rng: &mut Rng) -> Result<Vec<u8>, String> {
    let mut query = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.trim_end_matches('.').split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err(format!("{name:?} is not a domain name: label {label:?} is empty or over 63 bytes"));
        }
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&qtype.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    query.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0]);
    match subnets {
        Subnets::None => query.extend_from_slice(&[0, 0]),
        Subnets::Random if rng.u8(..8) == 0 => {
            query.extend_from_slice(&[0, 15, 0, 8, 0, 11, 0, 2, 56, 0]);
            query.push(0x20 | rng.u8(..8));
            query.extend((0..6).map(|_| rng.u8(..)));
        }
        Subnets::Random => {
            query.extend_from_slice(&[0, 11, 0, 8, 0, 7, 0, 1, 24, 0]);
            query.push(unicast_first_octet(rng));
            query.extend([rng.u8(..), rng.u8(..)]);
        }
    }
    if query.len() > QUERY_BYTES_MAX {
        return Err(format!("{name:?} is longer than a domain name may be"));
    }
    Ok(query)
}

fn unicast_first_octet(rng: &mut Rng) -> u8 {
    loop {
        match rng.u8(1..224) {
            10 | 127 => {}
            octet => return octet,
        }
    }
}

/// What is read of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Message id.
    pub id: u16,
    /// Response code of the header.
    pub rcode: u8,
    /// Records in the answer section.
    pub answers: u16,
}

/// Reads the header of an answer; `None` if it is none.
pub fn read(bytes: &[u8]) -> Option<Answer> {
    if bytes.len() < 12 || bytes[2] & 0x80 == 0 {
        return None;
    }
    Some(Answer {
        id: u16::from_be_bytes([bytes[0], bytes[1]]),
        rcode: bytes[3] & 0x0f,
        answers: u16::from_be_bytes([bytes[6], bytes[7]]),
    })
}

#[cfg(test)]
mod tests {
    use hickory_proto::{op::Message, serialize::binary::BinDecodable};

    use super::*;

    #[test]
    fn queries_are_what_another_implementation_reads() {
        let mut rng = Rng::with_seed(7);
        for _ in 0..1_000 {
            let query = build("www.bench.test", 1, Subnets::Random, &mut rng).unwrap();
            let message = Message::from_bytes(&query).unwrap();
            assert_eq!(message.queries[0].name().to_utf8(), "www.bench.test.");
            assert!(message.edns.is_some());
        }
    }

    #[test]
    fn a_query_is_no_answer() {
        let mut bytes = build("a.test", 1, Subnets::None, &mut Rng::with_seed(1)).unwrap();
        assert_eq!(read(&bytes), None);
        bytes[2] |= 0x80;
        bytes[3] = 3;
        assert_eq!(read(&bytes), Some(Answer { id: 0, rcode: 3, answers: 0 }));
        assert_eq!(read(&bytes[..11]), None);
    }

    #[test]
    fn bad_names_are_refused() {
        for name in ["", "a..b", &"x".repeat(64)] {
            assert!(build(name, 1, Subnets::None, &mut Rng::with_seed(1)).is_err(), "{name:?}");
        }
    }
}
