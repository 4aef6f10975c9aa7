//! DNS cookies (RFC 7873) in the interoperable form of RFC 9018.
//!
//! A server cookie is version 1, three zero octets, a time, and SipHash-2-4 over the client's
//! cookie, these eight octets and the client's address. Every server of a fleet that holds the same
//! secret accepts it. Two secrets are kept, so that one can be replaced while its cookies live.

use std::net::IpAddr;

use crate::health::state::Moment;

/// Seconds a cookie is accepted after it was made (RFC 9018 section 4.3).
const AGE_MAX: u32 = 3600;
/// Seconds it may be ahead of our clock: servers of one fleet do not agree to the second.
const AHEAD_MAX: u32 = 300;
/// Past this age a cookie that is still good is replaced by a new one.
const RENEW_AFTER: u32 = 1800;

/// The secrets cookies are made from.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieKeys {
    current: [u8; 16],
    previous: Option<[u8; 16]>,
}

impl std::fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieKeys(..)")
    }
}

/// What a client's cookie is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// It was made here for this address, not long ago: the address is not forged.
    Good,
    /// There is none yet, it is too old, or it is not ours.
    Unknown,
}

impl CookieKeys {
    /// Makes cookies from `current`; nothing else is accepted yet.
    pub fn new(current: [u8; 16]) -> Self {
        Self { current, previous: None }
    }

    /// The keys after `next` takes over: cookies of the one before stay good.
    pub fn rotated(&self, next: [u8; 16]) -> Self {
        Self { current: next, previous: Some(self.current) }
    }

    /// Judges a cookie and gives the server's half to send back.
    pub fn answer(&self, client: &[u8; 8], server: &[u8], address: IpAddr, now: Moment) -> (Worth, [u8; 16]) {
        // RFC 9018 section 4.3: 32 bits of seconds, compared as serial numbers.
        let seconds = (now.0 / 1000) as u32;
        if let Ok(old) = <[u8; 16]>::try_from(server)
            && old[..4] == [1, 0, 0, 0]
        {
            let made = u32::from_be_bytes([old[4], old[5], old[6], old[7]]);
            let age = seconds.wrapping_sub(made);
            let in_time = age <= AGE_MAX || made.wrapping_sub(seconds) <= AHEAD_MAX;
            let ours = |key: &[u8; 16]| same(&cookie(key, client, made, address), &old);
            if in_time && ours(&self.current) {
                let fresh = age <= RENEW_AFTER;
                return (
                    Worth::Good,
                    if fresh { old } else { cookie(&self.current, client, seconds, address) },
                );
            }
            if in_time && self.previous.as_ref().is_some_and(ours) {
                return (Worth::Good, cookie(&self.current, client, seconds, address));
            }
        }
        (Worth::Unknown, cookie(&self.current, client, seconds, address))
    }
}

/// Equality whose time does not tell how much of a guess was right.
fn same(a: &[u8; 16], b: &[u8; 16]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

fn cookie(key: &[u8; 16], client: &[u8; 8], seconds: u32, address: IpAddr) -> [u8; 16] {
    let mut cookie = [0u8; 16];
    cookie[0] = 1;
    cookie[4..8].copy_from_slice(&seconds.to_be_bytes());
    let mut hashed = [0u8; 32];
    hashed[..8].copy_from_slice(client);
    hashed[8..16].copy_from_slice(&cookie[..8]);
    let length = match address {
        IpAddr::V4(v4) => {
            hashed[16..20].copy_from_slice(&v4.octets());
            20
        }
        IpAddr::V6(v6) => {
            hashed[16..].copy_from_slice(&v6.octets());
            32
        }
    };
    cookie[8..].copy_from_slice(&siphash_2_4(key, &hashed[..length]).to_le_bytes());
    cookie
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012), as RFC 9018 asks for it; the standard library's
/// hasher is not promised to be it.
fn siphash_2_4(key: &[u8; 16], data: &[u8]) -> u64 {
    let word = |octets: &[u8]| {
        let mut padded = [0u8; 8];
        padded[..octets.len()].copy_from_slice(octets);
        u64::from_le_bytes(padded)
    };
    let (k0, k1) = (word(&key[..8]), word(&key[8..]));
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let chunks = data.chunks_exact(8);
    let last = word(chunks.remainder()) | (data.len() as u64) << 56;
    for m in chunks.map(word).chain([last]) {
        v[3] ^= m;
        round(&mut v);
        round(&mut v);
        v[0] ^= m;
    }
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1000)
    }

    #[test]
    fn siphash_agrees_with_its_authors() {
        // Appendix A of the SipHash paper.
        let key: [u8; 16] = std::array::from_fn(|i| i as u8);
        let data: [u8; 15] = std::array::from_fn(|i| i as u8);
        assert_eq!(siphash_2_4(&key, &data), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn the_example_of_rfc_9018_appendix_a1() {
        let key = 0xe5e9_73e5_a6b2_a43f_48e7_dc84_9e37_bfcf_u128.to_be_bytes();
        let client = 0x2464_c4ab_cf10_c957_u64.to_be_bytes();
        let made = cookie(&key, &client, 1_559_731_985, "198.51.100.100".parse().unwrap());
        assert_eq!(u128::from_be_bytes(made), 0x0100_0000_5cf7_9f11_1f81_30c3_eee2_9480_u128);
    }

    #[test]
    fn cookies_age_and_survive_one_rotation() {
        let client = [7; 8];
        let address = "192.0.2.1".parse().unwrap();
        let keys = CookieKeys::new([1; 16]);
        let (worth, first) = keys.answer(&client, &[], address, at(1_000_000));
        assert_eq!(worth, Worth::Unknown);
        assert_eq!(keys.answer(&client, &first, address, at(1_000_100)), (Worth::Good, first));
        let (worth, renewed) = keys.answer(&client, &first, address, at(1_003_000));
        assert!(worth == Worth::Good && renewed != first);
        assert_eq!(keys.answer(&client, &first, address, at(1_003_601)).0, Worth::Unknown);
        assert_eq!(keys.answer(&client, &first, address, at(999_600)).0, Worth::Unknown);
        assert_eq!(
            keys.answer(&client, &first, "192.0.2.2".parse().unwrap(), at(1_000_100)).0,
            Worth::Unknown
        );
        let next = keys.rotated([2; 16]);
        assert_eq!(next.answer(&client, &first, address, at(1_000_100)).0, Worth::Good);
        assert_eq!(next.rotated([3; 16]).answer(&client, &first, address, at(1_000_100)).0, Worth::Unknown);
    }
}
