//! Which part of a list's clients a network belongs to, and which parts a busy PoP is offered to.
//!
//! Every network falls into one of [`PARTS`] parts by a hash of its scope prefix; a PoP that is offered to a
//! share of its clients ([`super::Offer`]) is passed over for the others. Each PoP orders the parts in a way of its
//! own, so that two busy PoPs don't shed the same networks, and loses them in that order: a smaller share is a
//! subset of a larger one, and only the difference moves. All of this is the same on every DNS node and after every
//! restart.
//!
//! Invariant: addresses that share a scope share a part. A leaf of the map may be a whole country's block, and
//! would move as one: scopes wider than a unit are narrowed to it, always, so that no network's scope depends on
//! how busy anybody is.

use std::net::IpAddr;

use nearside_geoip::{map::embedded_v4, prefix::Prefix};

use super::{ListId, order::mix};

/// Parts of a list's clients: shares are met within 0.2 %, and a list costs 1 KiB of the table while one of its
/// PoPs is busy.
pub(super) const PARTS: u32 = 256;

/// Bits of the widest networks that move as one. 65,536 of them share the IPv4 space; in IPv6, providers are given
/// a /32 each, the large ones more.
const UNIT_BITS_V4: u8 = 16;
const UNIT_BITS_V6: u8 = 32;

/// A list and a part as one number.
#[inline]
pub(super) fn join(list: ListId, part: u32) -> ListId {
    ListId(list.0 * PARTS + part)
}

/// The list and the part in a number.
#[inline]
pub(super) fn split(number: ListId) -> (ListId, u32) {
    (ListId(number.0 / PARTS), number.0 % PARTS)
}

/// A scope no wider than a unit.
#[inline]
pub(super) fn narrowed(addr: IpAddr, scope: u8) -> u8 {
    let unit = match addr {
        IpAddr::V4(_) => UNIT_BITS_V4,
        IpAddr::V6(v6) => embedded_v4(v6).map_or(UNIT_BITS_V6, |(_, offset)| offset + UNIT_BITS_V4),
    };
    scope.max(unit)
}

/// Part of the network around an address. IPv4 networks have the same one however they are carried.
#[inline]
pub(super) fn of(addr: IpAddr, scope: u8) -> u32 {
    let (addr, bits) = match addr {
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some((inner, offset)) if offset <= scope => (IpAddr::V4(inner), scope - offset),
            _ => (addr, scope),
        },
        IpAddr::V4(_) => (addr, scope),
    };
    let number = match Prefix::containing(addr, bits).addr() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()) << 32,
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            (bits >> 64) as u64 ^ mix(bits as u64)
        }
    };
    (mix(number ^ mix(u64::from(bits))) >> 56) as u32
}

/// How many parts a share is; never none.
pub(super) fn offered(share: f64) -> u32 {
    ((share * f64::from(PARTS)).round() as u32).clamp(1, PARTS)
}

/// Whether a PoP that is offered to so many parts is offered to this one. `seed` is the PoP's.
#[inline]
pub(super) fn is_offered(seed: u64, part: u32, offered: u32) -> bool {
    rank(seed, part) < offered
}

/// Place of a part in a PoP's order: a permutation, so that shares are met exactly. Odd factors and shifted
/// exclusive ors are each undone by another.
fn rank(seed: u64, part: u32) -> u32 {
    let keys = mix(seed).to_le_bytes();
    let mut x = part as u8;
    for [add, factor] in keys.as_chunks::<2>().0 {
        x = x.wrapping_add(*add).wrapping_mul(factor | 1);
        x ^= x >> 4;
    }
    u32::from(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pop_orders_all_parts_in_its_own_way() {
        let mut orders = Vec::new();
        for seed in [1, 2, 0xcbf2_9ce4_8422_2325] {
            let order: Vec<u32> = (0..PARTS).map(|part| rank(seed, part)).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..PARTS).collect::<Vec<_>>(), "every rank once");
            let half = |part: &u32| is_offered(seed, *part, PARTS / 2);
            let quarter: Vec<u32> = (0..PARTS).filter(|&part| is_offered(seed, part, PARTS / 4)).collect();
            assert!(quarter.iter().all(half), "less is a part of more");
            orders.push((0..PARTS).filter(half).collect::<Vec<_>>());
        }
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let both = orders[a].iter().filter(|part| orders[b].contains(part)).count();
            assert!((40..=88).contains(&both), "two halves meet in about a quarter: {both} of 256");
        }
    }

    #[test]
    fn shares_are_met_and_never_nothing() {
        assert_eq!([0.0, 1.0 / 32.0, 0.5, 0.999, 1.0].map(offered), [1, 8, 128, 256, 256]);
        let mut counts = [0u32; PARTS as usize];
        for number in 0..65_536u32 {
            let addr = std::net::Ipv4Addr::from_bits(number << 16);
            counts[of(addr.into(), 16) as usize] += 1;
        }
        // 256 each, give or take 16 (one standard deviation).
        assert!(counts.iter().all(|count| (170..=350).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_network_has_one_part_however_it_is_written() {
        let part = |text: &str, scope| of(text.parse().unwrap(), scope);
        assert_eq!(part("198.51.100.7", 24), part("198.51.100.200", 24));
        assert_eq!(part("198.51.100.7", 24), part("::ffff:198.51.100.7", 120));
        assert_eq!(part("198.51.100.7", 24), part("64:ff9b::198.51.100.7", 120));
        assert_eq!(part("2001:db8:1::1", 48), part("2001:db8:1:ffff::2", 48));
        assert_eq!(narrowed("9.1.2.3".parse().unwrap(), 8), 16);
        assert_eq!(narrowed("9.1.2.3".parse().unwrap(), 20), 20);
        assert_eq!(narrowed("2a00::1".parse().unwrap(), 12), 32);
        assert_eq!(narrowed("64:ff9b::1.2.3.4".parse().unwrap(), 100), 112);
    }
}
