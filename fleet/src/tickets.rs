//! Keys of TLS session tickets: the same on every edge, another one every [`EPOCH`].
//!
//! What travels are *seeds*, each with the moment from which it is used. The key of an epoch is derived from the seed
//! that is in force when the epoch begins, so rotation goes on where no new seed comes: home may be dark for any
//! time. A new seed is what makes old keys unrecoverable; home makes one when the last has come into use, and
//! sets its start so far ahead that every edge has it by then.
//!
//! Everything here is a pure function of seeds and time but [`TicketSeeds::renew`], which also needs randomness.

use std::time::Duration;

use aws_lc_rs::hkdf;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

/// How long one key makes tickets. Tickets are taken for one epoch more, so they live 12 to 24 hours.
pub const EPOCH: Duration = Duration::from_secs(12 * 3600);

/// Seeds of one file: home keeps three, a person may write some ahead.
pub const SEEDS_MAX: usize = 64;

/// Bytes of a file: [`SEEDS_MAX`] lines and generous comments.
pub const FILE_BYTES_MAX: u64 = 16 << 10;

/// Bytes of a seed, of a key and of a key's name.
const SEED_BYTES: usize = 32;
const NAME_BYTES: usize = 16;

/// Between a seed's making and its first use, epochs: 12 to 24 hours for edges that are away for a while.
const AHEAD_EPOCHS: u64 = 2;

/// Binds derived keys to their purpose.
const INFO: &[u8] = b"nearside ticket key 1";

/// The key of one epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey {
    /// Which key it is; the first bytes of its tickets, no secret.
    pub name: [u8; NAME_BYTES],
    /// The key.
    pub secret: [u8; SEED_BYTES],
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TicketKey({:02x?})", self.name)
    }
}

/// Seeds by the moment of their first use, ascending; never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketSeeds(Vec<(u64, [u8; SEED_BYTES])>);

impl std::fmt::Debug for TicketSeeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TicketSeeds({} seeds)", self.0.len())
    }
}

/// Why a text holds no seeds. Never quotes them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeedsError {
    /// A line that is none.
    #[error(
        "line {0}: expected a start in seconds since the Unix epoch and base64 of {SEED_BYTES} bytes, \
         like \"0 $(openssl rand -base64 32)\""
    )]
    Line(usize),
    /// Not ascending.
    #[error("line {0}: expected a later start than the line before")]
    Order(usize),
    /// None, or too many.
    #[error("expected 1 to {SEEDS_MAX} keys, read {0}")]
    Count(usize),
    /// The system gives no randomness.
    #[error("no randomness from the system")]
    Random,
}

/// The epoch of a moment, seconds since the Unix epoch.
pub fn epoch(now_secs: u64) -> u64 {
    now_secs / EPOCH.as_secs()
}

impl TicketSeeds {
    /// One random seed, in use from the beginning of time.
    ///
    /// # Errors
    /// [`SeedsError::Random`].
    pub fn generate() -> Result<Self, SeedsError> {
        Ok(TicketSeeds(vec![(0, random()?)]))
    }

    /// Reads lines of `START BASE64`; empty ones and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// [`SeedsError`] with the line.
    pub fn parse(text: &str) -> Result<Self, SeedsError> {
        let mut seeds: Vec<(u64, [u8; SEED_BYTES])> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (start, seed) = seed_line(line).ok_or(SeedsError::Line(number))?;
            if seeds.last().is_some_and(|(last, _)| *last >= start) {
                return Err(SeedsError::Order(number));
            }
            seeds.push((start, seed));
        }
        match seeds.len() {
            1..=SEEDS_MAX => Ok(TicketSeeds(seeds)),
            count => Err(SeedsError::Count(count)),
        }
    }

    /// What [`Self::parse`] reads.
    pub fn text(&self) -> String {
        let lines = self.0.iter().map(|(start, seed)| format!("{start} {}\n", BASE64.encode(seed)));
        "# TLS session ticket keys: START BASE64. Secret; the same on every edge.\n".to_owned()
            + &lines.collect::<String>()
    }

    /// The seeds as they should be now: with a new one where the last is in use, without those that no ticket
    /// needs. `None`: nothing is due.
    ///
    /// # Errors
    /// [`SeedsError::Random`].
    pub fn renew(&self, now_secs: u64) -> Result<Option<Self>, SeedsError> {
        let newest = self.0.last().map_or(0, |(start, _)| *start);
        if newest > now_secs {
            return Ok(None);
        }
        let now = epoch(now_secs);
        // Tickets of the epoch before are taken, and those of the one after by clocks that are ahead.
        let oldest_needed = now.saturating_sub(1) * EPOCH.as_secs();
        let first = self.0.iter().rposition(|(start, _)| *start <= oldest_needed).unwrap_or(0);
        let mut seeds = self.0[first..].to_vec();
        seeds.push(((now + AHEAD_EPOCHS) * EPOCH.as_secs(), random()?));
        Ok(Some(TicketSeeds(seeds)))
    }

    /// The key of an epoch.
    pub fn key(&self, epoch: u64) -> TicketKey {
        let begins = epoch.saturating_mul(EPOCH.as_secs());
        // Before the first seed's start there is nothing better than the first seed.
        let at = self.0.partition_point(|(start, _)| *start <= begins).saturating_sub(1);
        let seed = self.0.get(at).map_or([0; SEED_BYTES], |(_, seed)| *seed);
        let mut derived = [0; SEED_BYTES + NAME_BYTES];
        let (info, salt) = ([INFO, &epoch.to_be_bytes()], hkdf::Salt::new(hkdf::HKDF_SHA256, &[]));
        let filled =
            salt.extract(&seed).expand(&info, Length(derived.len())).and_then(|okm| okm.fill(&mut derived));
        // HKDF-SHA256 fails past 255 × 32 bytes only (RFC 5869 section 2.3).
        debug_assert!(filled.is_ok());
        let mut key = TicketKey { name: [0; NAME_BYTES], secret: [0; SEED_BYTES] };
        key.secret.copy_from_slice(&derived[..SEED_BYTES]);
        key.name.copy_from_slice(&derived[SEED_BYTES..]);
        key
    }
}

fn seed_line(line: &str) -> Option<(u64, [u8; SEED_BYTES])> {
    let (start, seed) = line.split_once(char::is_whitespace)?;
    let seed = BASE64.decode(seed.trim()).ok()?;
    Some((start.parse().ok()?, seed.try_into().ok()?))
}

fn random() -> Result<[u8; SEED_BYTES], SeedsError> {
    let mut seed = [0; SEED_BYTES];
    aws_lc_rs::rand::fill(&mut seed).map_err(|_| SeedsError::Random)?;
    Ok(seed)
}

/// Bytes to derive, as aws-lc-rs asks for it.
#[derive(Clone, Copy)]
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn a_text_is_read_as_it_was_written() {
        let seeds = TicketSeeds::generate().unwrap();
        let seeds = seeds.renew(20_000 * DAY).unwrap().unwrap();
        assert_eq!(TicketSeeds::parse(&seeds.text()).unwrap(), seeds);
        assert!(!format!("{seeds:?} {:?}", seeds.key(1)).contains(&seeds.text()[80..100]));
    }

    #[test]
    fn what_is_no_text_of_seeds_is_refused_with_its_line() {
        let seed = BASE64.encode([7; 32]);
        for (text, expected) in [
            (String::new(), SeedsError::Count(0)),
            ("# nothing\n\n".to_owned(), SeedsError::Count(0)),
            (format!("0 {seed}\n0 {seed}"), SeedsError::Order(2)),
            (format!("\nx {seed}"), SeedsError::Line(2)),
            ("0".to_owned(), SeedsError::Line(1)),
            (format!("0 {}", BASE64.encode([7; 31])), SeedsError::Line(1)),
            ((0..65).map(|at| format!("{at} {seed}\n")).collect(), SeedsError::Count(65)),
        ] {
            assert_eq!(TicketSeeds::parse(&text), Err(expected), "{text}");
        }
    }

    #[test]
    fn every_epoch_has_a_key_of_its_own_and_the_same_everywhere() {
        let seeds = TicketSeeds::generate().unwrap();
        let copy = TicketSeeds::parse(&seeds.text()).unwrap();
        let keys: Vec<_> = (0..100).map(|epoch| seeds.key(40_000 + epoch)).collect();
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(copy.key(40_000 + at as u64), *key);
            assert!(keys[..at].iter().all(|other| other.name != key.name && other.secret != key.secret));
        }
    }

    #[test]
    fn a_new_seed_changes_no_key_before_it_starts_and_every_one_after() {
        let now = 20_000 * DAY + 5;
        let old = TicketSeeds::generate().unwrap();
        let new = old.renew(now).unwrap().unwrap();
        let epoch = epoch(now);
        for same in [epoch - 1, epoch, epoch + 1] {
            assert_eq!(old.key(same), new.key(same));
        }
        assert_ne!(old.key(epoch + 2), new.key(epoch + 2));
        assert_eq!(new.renew(now + EPOCH.as_secs()).unwrap(), None, "its seed is not in use yet");
    }

    #[test]
    fn seeds_that_no_ticket_needs_are_forgotten() {
        let mut seeds = TicketSeeds::generate().unwrap();
        let mut now = 20_000 * DAY;
        for _ in 0..50 {
            now += EPOCH.as_secs();
            let before = seeds.clone();
            if let Some(renewed) = seeds.renew(now).unwrap() {
                seeds = renewed;
            }
            for epoch in [epoch(now) - 1, epoch(now), epoch(now) + 1] {
                assert_eq!(before.key(epoch), seeds.key(epoch), "tickets in use stay good");
            }
            assert!(seeds.0.len() <= 3, "{}", seeds.0.len());
        }
        assert!(seeds.0[0].0 > 0, "the first is gone");
    }
}
