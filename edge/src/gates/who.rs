//! Who is counted: a client's address, or what a request carries, as one number.
//!
//! Hashes are keyed by this process, so that nobody outside can choose which buckets meet. What edges share is named by
//! [`Who::name`] instead, which is the same everywhere and tells nothing about a token.

use std::{
    borrow::Cow,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv6Addr},
};

use http::{HeaderMap, HeaderName, header};
use nearside_fleet::Sha256;
use percent_encoding::percent_decode_str;

/// Bytes of a token that count; the rest of a longer one is cut.
const TOKEN_BYTES_MAX: usize = 1024;

/// Who has a bucket.
pub enum Per {
    /// The client's address.
    Client,
    /// The site.
    Site,
    /// The path.
    Path,
    /// A field's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(String),
    /// A query parameter's value.
    Query(String),
}

/// What stands for one who is counted.
pub enum Who<'r> {
    /// All alike.
    All,
    /// A network that stands for one client.
    Client(IpAddr),
    /// What a request carries.
    Token(Cow<'r, [u8]>),
}

impl Per {
    /// Of a request. Without what is asked for, it is its client.
    pub fn of<'r>(
        &self,
        headers: &'r HeaderMap,
        path: &'r str,
        query: Option<&'r str>,
        client: IpAddr,
        ipv6_prefix: u8,
    ) -> Who<'r> {
        let token = match self {
            Per::Client => None,
            Per::Site => return Who::All,
            Per::Path => Some(Cow::Borrowed(path.as_bytes())),
            Per::Header(name) => headers.get(name).map(|value| Cow::Borrowed(value.as_bytes())),
            Per::Cookie(name) => cookie(headers, name).map(|value| Cow::Borrowed(value.as_bytes())),
            Per::Query(name) => query.and_then(|query| parameter(query, name)),
        };
        match token.filter(|token| !token.is_empty()) {
            Some(Cow::Borrowed(token)) => {
                Who::Token(Cow::Borrowed(&token[..token.len().min(TOKEN_BYTES_MAX)]))
            }
            Some(Cow::Owned(mut token)) => {
                token.truncate(TOKEN_BYTES_MAX);
                Who::Token(Cow::Owned(token))
            }
            None => Who::Client(network(client, ipv6_prefix)),
        }
    }
}

impl Who<'_> {
    /// Its number among those that `gate` counts.
    pub fn number(&self, hashes: &RandomState, gate: usize) -> u64 {
        match self {
            Who::All => hashes.hash_one((gate, 0u8)),
            Who::Client(IpAddr::V4(v4)) => hashes.hash_one((gate, 1u8, v4.to_bits())),
            Who::Client(IpAddr::V6(v6)) => hashes.hash_one((gate, 2u8, v6.to_bits())),
            Who::Token(token) => hashes.hash_one((gate, 3u8, token)),
        }
    }

    /// Its name among edges.
    pub fn name(&self) -> Sha256 {
        match self {
            Who::All => Sha256::of(b"all"),
            Who::Client(client) => Sha256::of(format!("client {client}").as_bytes()),
            Who::Token(token) => Sha256::of(&[b"token ", &token[..]].concat()),
        }
    }
}

/// What stands for one client: its IPv4 address, or so many bits of its IPv6 one. `client` is canonical.
pub fn network(client: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

/// The first cookie of a name (RFC 6265 section 5.4).
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value.trim_matches('"'))
}

/// The first query parameter of a name, decoded: `%61` and `a` are one token.
fn parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let found = pairs.find(|(known, _)| *known == name || percent_decode_str(known).eq(name.bytes()));
    found.map(|(_, value)| percent_decode_str(value).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(per: &Per, query: &str, cookies: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, cookies.parse().unwrap());
        headers.insert("x-key", "k1".parse().unwrap());
        let client: IpAddr = "2001:db8:1:2:3::4".parse().unwrap();
        match per.of(&headers, "/p", Some(query), client, 64) {
            Who::All => "all".to_owned(),
            Who::Client(client) => client.to_string(),
            Who::Token(token) => String::from_utf8_lossy(&token).into_owned(),
        }
    }

    #[test]
    fn requests_are_counted_by_what_they_carry_or_by_their_client() {
        assert_eq!(who(&Per::Client, "", "a=b"), "2001:db8:1:2::");
        assert_eq!(who(&Per::Site, "", "a=b"), "all");
        assert_eq!(who(&Per::Path, "", "a=b"), "/p");
        assert_eq!(who(&Per::Header("x-key".parse().unwrap()), "", "a=b"), "k1");
        assert_eq!(who(&Per::Header("x-other".parse().unwrap()), "", "a=b"), "2001:db8:1:2::");
        assert_eq!(who(&Per::Cookie("session".to_owned()), "", "a=b; session=\"s1\""), "s1");
        assert_eq!(who(&Per::Cookie("session".to_owned()), "", "xsession=s1; session="), "2001:db8:1:2::");
        let query = Per::Query("token".to_owned());
        for spelled in ["token=t1", "a=b&token=%741&token=t2", "%74oken=t1"] {
            assert_eq!(who(&query, spelled, "a=b"), "t1", "{spelled}");
        }
    }

    #[test]
    fn names_and_numbers_tell_kinds_apart() {
        let hashes = RandomState::new();
        let token = Who::Token(Cow::Borrowed(b"192.0.2.1"));
        let client = Who::Client("192.0.2.1".parse().unwrap());
        assert_ne!(token.name(), client.name());
        assert_ne!(token.number(&hashes, 0), client.number(&hashes, 0));
        assert_ne!(client.number(&hashes, 0), client.number(&hashes, 1));
        assert_eq!(client.number(&hashes, 1), client.number(&hashes, 1));
    }
}
