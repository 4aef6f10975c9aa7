//! Session tickets that resume on any core and at any PoP: an own [`ProducesTickets`].
//!
//! A ticket is the key's name, a random nonce, and the session's state under AES-256-GCM, the name bound in. Keys come
//! from the fleet's seeds ([`TicketSeeds`]) and change with every epoch; tickets of the epoch before are taken, and
//! those of the one after, made by an edge whose clock is ahead. One lock-free load per ticket; the edge that
//! first sees a new epoch derives its three keys.
//!
//! Who has a ticket key can read what TLS 1.2 sessions said that were begun under it. TLS 1.3 sessions agree on
//! fresh keys when they resume (`psk_dhe_ke`), theirs stay safe.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use nearside_fleet::tickets::{EPOCH, FILE_BYTES_MAX, SeedsError, TicketSeeds, epoch};
use rustls::server::ProducesTickets;

/// Bytes of a key's name.
const NAME_BYTES: usize = 16;

/// Bytes of a ticket: a session's state with a client's certificate chain would be the longest; rustls' states
/// have a few hundred.
const TICKET_BYTES_MAX: usize = 16 << 10;

/// Makes and opens tickets.
pub struct Tickets {
    ring: ArcSwap<Ring>,
    /// Tickets that no key of ours opens: expired, of another fleet, or forged.
    pub unknown: AtomicU64,
    now_secs: fn() -> u64,
}

/// The seeds, and the keys of one epoch and its neighbours.
struct Ring {
    seeds: TicketSeeds,
    epoch: u64,
    /// Of this epoch, the one before, the next.
    keys: [Key; 3],
}

struct Key {
    name: [u8; NAME_BYTES],
    aead: LessSafeKey,
}

impl Ring {
    /// # Errors
    /// `None` where the library takes no key of the right length, which it does.
    fn new(seeds: TicketSeeds, epoch: u64) -> Option<Self> {
        let key = |epoch| {
            let key = seeds.key(epoch);
            let aead = UnboundKey::new(&AES_256_GCM, &key.secret).ok()?;
            Some(Key { name: key.name, aead: LessSafeKey::new(aead) })
        };
        let keys = [key(epoch)?, key(epoch.saturating_sub(1))?, key(epoch.saturating_add(1))?];
        Some(Ring { seeds, epoch, keys })
    }
}

impl Tickets {
    /// With seeds of its own, which end with the process.
    ///
    /// # Errors
    /// [`SeedsError::Random`].
    pub fn new() -> Result<Arc<Self>, SeedsError> {
        Self::with(TicketSeeds::generate()?, now_secs)
    }

    fn with(seeds: TicketSeeds, now_secs: fn() -> u64) -> Result<Arc<Self>, SeedsError> {
        let ring = Ring::new(seeds, epoch(now_secs())).ok_or(SeedsError::Random)?;
        Ok(Arc::new(Tickets { ring: ArcSwap::from_pointee(ring), unknown: AtomicU64::new(0), now_secs }))
    }

    /// From now on these seeds. Tickets made under others still open only where a key is in both.
    pub fn set(&self, seeds: TicketSeeds) {
        if self.ring.load().seeds == seeds {
            return;
        }
        if let Some(ring) = Ring::new(seeds, epoch((self.now_secs)())) {
            self.ring.store(Arc::new(ring));
        }
    }

    /// The name of the key that makes tickets now, for reports.
    pub fn key_name(&self) -> String {
        self.ring().keys[0].name[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn ring(&self) -> arc_swap::Guard<Arc<Ring>> {
        let ring = self.ring.load();
        let epoch = epoch((self.now_secs)());
        if ring.epoch == epoch {
            return ring;
        }
        // Several workers may do this at once, with the same result; one that is overtaken by `set` must not undo it.
        if let Some(next) = Ring::new(ring.seeds.clone(), epoch) {
            self.ring.compare_and_swap(&ring, Arc::new(next));
        }
        self.ring.load()
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        // What every ticket has at least, whenever in its epoch it was made.
        u32::try_from(EPOCH.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let ring = self.ring();
        let key = &ring.keys[0];
        // Random nonces are good for 2^32 tickets of one key (NIST SP 800-38D section 8.3): 99,000 a second for an epoch.
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(NAME_BYTES + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let (nonce, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(key.name));
        let sealed = ticket.get_mut(NAME_BYTES + NONCE_LEN..)?;
        let tag = key.aead.seal_in_place_separate_tag(nonce, aad, sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let opened = open(&self.ring(), ticket);
        if opened.is_none() {
            self.unknown.fetch_add(1, Ordering::Relaxed);
        }
        opened
    }
}

fn open(ring: &Ring, ticket: &[u8]) -> Option<Vec<u8>> {
    if ticket.len() > TICKET_BYTES_MAX {
        return None;
    }
    let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
    // Names are no secret: which key it is may show in time.
    let key = ring.keys.iter().find(|key| key.name == *name)?;
    let mut plain = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = key.aead.open_in_place(nonce, Aad::from(*name), &mut plain).ok()?.len();
    plain.truncate(length);
    Some(plain)
}

/// Reads a file of seeds.
///
/// # Errors
/// What is wrong with it, in words that begin with its path and never quote it.
pub fn read(path: &Path) -> Result<TicketSeeds, String> {
    let words = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
    let bytes =
        nearside_node::state::read_bounded(path, FILE_BYTES_MAX).map_err(|error| error.to_string())?;
    let bytes = bytes.ok_or_else(|| words(&"is missing"))?;
    let text = String::from_utf8(bytes).map_err(|_| words(&"is not text"))?;
    TicketSeeds::parse(&text).map_err(|error| words(&error))
}

fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static NOW: std::cell::Cell<u64> = const { std::cell::Cell::new(1_800_000_000) };
    }

    fn tickets(seeds: &TicketSeeds) -> Arc<Tickets> {
        Tickets::with(seeds.clone(), || NOW.get()).unwrap()
    }

    #[test]
    fn another_edge_with_the_same_seeds_opens_it_and_nobody_else() {
        let seeds = TicketSeeds::generate().unwrap();
        let (fra, nyc) = (tickets(&seeds), tickets(&seeds));
        let ticket = fra.encrypt(b"state").unwrap();
        assert_eq!(nyc.decrypt(&ticket).unwrap(), b"state");
        assert_ne!(fra.encrypt(b"state").unwrap(), ticket, "no nonce twice");
        let stranger = tickets(&TicketSeeds::generate().unwrap());
        assert_eq!(stranger.decrypt(&ticket), None);
        assert_eq!((nyc.unknown.load(Ordering::Relaxed), stranger.unknown.load(Ordering::Relaxed)), (0, 1));
        stranger.set(seeds);
        assert_eq!(stranger.decrypt(&ticket).unwrap(), b"state");
    }

    #[test]
    fn a_damaged_ticket_is_no_ticket() {
        let fra = tickets(&TicketSeeds::generate().unwrap());
        let ticket = fra.encrypt(&[9; 200]).unwrap();
        for at in 0..ticket.len() {
            let mut damaged = ticket.clone();
            damaged[at] ^= 1;
            assert_eq!(fra.decrypt(&damaged), None, "byte {at}");
            assert_eq!(fra.decrypt(&ticket[..at]), None, "cut at {at}");
        }
        assert_eq!(fra.decrypt(&vec![0; TICKET_BYTES_MAX + 1]), None);
    }

    #[test]
    fn keys_change_with_the_epoch_and_the_last_one_is_still_taken() {
        let seeds = TicketSeeds::generate().unwrap();
        let (fra, start) = (tickets(&seeds), NOW.get());
        let (ticket, name) = (fra.encrypt(b"state").unwrap(), fra.key_name());
        NOW.set(start + EPOCH.as_secs());
        assert_ne!(fra.key_name(), name);
        assert!(fra.decrypt(&ticket).is_some(), "the epoch before");
        let ahead = fra.encrypt(b"ahead").unwrap();
        NOW.set(start + 2 * EPOCH.as_secs());
        assert!(fra.decrypt(&ticket).is_none(), "two epochs are too long");
        NOW.set(start);
        assert!(fra.decrypt(&ahead).is_some(), "made by a clock that is ahead");
    }
}
