//! Response rate limiting: what a forged source address can be made to receive.
//!
//! Answers that are alike (same client network, same kind) share a bucket of tokens; past it, one
//! in `slip` goes out as an empty truncated answer, which a real client takes as "ask by TCP" and
//! which is no larger than the query, and the rest is dropped. Clients with a good cookie and
//! queries over streams are never limited: their address is not forged.
//!
//! The table is fixed in size and lock-free. Two networks that fall into one slot evict each other
//! and start with a full bucket: an attacker with many forged networks is limited less, a bystander
//! is never limited for another's traffic. Updates race benignly: a lost one is a token more.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::health::state::Moment;

/// Slots of the table: 512 KiB. A server under attack sees far fewer networks a second.
const SLOTS: usize = 1 << 16;
/// Seconds of tokens a bucket holds: short bursts of a large resolver pass.
const BURST_SECONDS: u32 = 4;
/// Tokens are counted in sixteenths, so that low rates refill evenly.
const TOKEN: u32 = 16;

/// What the operator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RrlConfig {
    /// Answers of one kind to one network per second, at most 1000.
    pub per_second: u16,
    /// Every how many limited answers one is sent truncated; 0: none is.
    pub slip: u8,
    /// Bits of an IPv4 network.
    pub ipv4_bits: u8,
    /// Bits of an IPv6 network.
    pub ipv6_bits: u8,
}

impl Default for RrlConfig {
    /// Generous: a /24 of clients behind one resolver asks far less of one kind.
    fn default() -> Self {
        Self { per_second: 500, slip: 2, ipv4_bits: 24, ipv6_bits: 56 }
    }
}

/// What alike means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A positive answer: by the name it is about.
    Answer(u64),
    /// A referral or an empty answer: by zone.
    Empty(u64),
    /// A name that does not exist: by zone, so that random names share a bucket.
    NxDomain(u64),
    /// FORMERR, REFUSED and the like: all alike.
    Error,
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send it.
    Pass,
    /// Send an empty truncated one instead.
    Slip,
    /// Send nothing.
    Drop,
}

/// The table. Shared by all workers.
pub struct Rrl {
    config: RrlConfig,
    /// Tag of 24 bits, seconds of 16 bits, tokens of 16 bits, limited answers of 8 bits.
    slots: Box<[AtomicU64]>,
    seed: u64,
}

impl std::fmt::Debug for Rrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rrl").field("config", &self.config).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    seconds: u16,
    tokens: u16,
    limited: u8,
}

impl Slot {
    fn unpack(word: u64) -> Self {
        Self {
            tag: (word >> 40) as u32,
            seconds: (word >> 24) as u16,
            tokens: (word >> 8) as u16,
            limited: word as u8,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.tag) << 40
            | u64::from(self.seconds) << 24
            | u64::from(self.tokens) << 8
            | u64::from(self.limited)
    }
}

impl Rrl {
    /// An empty table; `seed` is random, so that nobody can aim at a slot.
    pub fn new(config: RrlConfig, seed: u64) -> Self {
        let per_second = config.per_second.clamp(1, 1000);
        let slots = std::iter::repeat_with(|| AtomicU64::new(0)).take(SLOTS).collect();
        Self { config: RrlConfig { per_second, ..config }, slots, seed }
    }

    /// Takes a token for one answer.
    pub fn decide(&self, source: IpAddr, kind: Kind, now: Moment) -> Decision {
        let hash = self.hash(source, kind);
        let slot = &self.slots[hash as usize % SLOTS];
        let tag = (hash >> 40) as u32;
        let seconds = (now.0 / 1000) as u16;
        let rate = u32::from(self.config.per_second) * TOKEN;
        // At most 1000 * 16 * 4 = 64,000: fits 16 bits.
        let full = rate * BURST_SECONDS;
        let mut state = Slot::unpack(slot.load(Ordering::Relaxed));
        if state.tag != tag {
            state = Slot { tag, seconds, tokens: full as u16, limited: 0 };
        }
        let elapsed = u32::from(seconds.wrapping_sub(state.seconds));
        if elapsed > 0 {
            state.tokens = (u32::from(state.tokens) + rate * elapsed.min(BURST_SECONDS)).min(full) as u16;
            state.seconds = seconds;
        }
        let decision = match state.tokens.checked_sub(TOKEN as u16) {
            Some(left) => {
                state.tokens = left;
                Decision::Pass
            }
            None => {
                state.limited = state.limited.wrapping_add(1);
                match state.limited.checked_rem(self.config.slip) {
                    Some(0) => Decision::Slip,
                    _ => Decision::Drop,
                }
            }
        };
        slot.store(state.pack(), Ordering::Relaxed);
        decision
    }

    fn hash(&self, source: IpAddr, kind: Kind) -> u64 {
        let network = match source {
            IpAddr::V4(v4) => {
                let host = 32 - u32::from(self.config.ipv4_bits.min(32));
                u64::from(v4.to_bits()).checked_shr(host).unwrap_or(0)
            }
            IpAddr::V6(v6) => {
                // Networks longer than /64 are one customer's.
                let host = 64 - u32::from(self.config.ipv6_bits.min(64));
                ((v6.to_bits() >> 64) as u64).checked_shr(host).unwrap_or(0) ^ 1 << 63
            }
        };
        let (class, what) = match kind {
            Kind::Answer(name) => (1, name),
            Kind::Empty(zone) => (2, zone),
            Kind::NxDomain(zone) => (3, zone),
            Kind::Error => (4, 0),
        };
        mix(mix(mix(self.seed, network), what), class)
    }
}

/// Finaliser of SplitMix64: every bit of the input moves every bit of the result.
fn mix(state: u64, value: u64) -> u64 {
    let mut z = (state ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn passed(rrl: &Rrl, source: &str, kind: Kind, now: u64, count: usize) -> (usize, usize, usize) {
        let mut tally = (0, 0, 0);
        for _ in 0..count {
            match rrl.decide(address(source), kind, Moment(now)) {
                Decision::Pass => tally.0 += 1,
                Decision::Slip => tally.1 += 1,
                Decision::Drop => tally.2 += 1,
            }
        }
        tally
    }

    #[test]
    fn a_network_gets_its_rate_and_every_second_slip() {
        let rrl = Rrl::new(RrlConfig { per_second: 10, ..RrlConfig::default() }, 1);
        assert_eq!(passed(&rrl, "192.0.2.1", Kind::Error, 100_000, 60), (40, 10, 10));
        assert_eq!(passed(&rrl, "192.0.2.200", Kind::Error, 101_000, 20), (10, 5, 5), "same /24");
        assert_eq!(passed(&rrl, "192.0.3.1", Kind::Error, 101_000, 20), (20, 0, 0), "another network");
        assert_eq!(passed(&rrl, "192.0.2.1", Kind::NxDomain(7), 101_000, 20), (20, 0, 0), "another kind");
        assert_eq!(passed(&rrl, "192.0.2.1", Kind::Error, 200_000, 60).0, 40, "full again, not fuller");
    }

    #[test]
    fn without_slip_the_rest_is_dropped() {
        let rrl = Rrl::new(RrlConfig { per_second: 1, slip: 0, ..RrlConfig::default() }, 1);
        assert_eq!(passed(&rrl, "2001:db8::1", Kind::Answer(1), 5_000, 10), (4, 0, 6));
        assert_eq!(passed(&rrl, "2001:db8:0:0:ffff::1", Kind::Answer(1), 5_000, 10), (0, 0, 10), "same /56");
    }
}
