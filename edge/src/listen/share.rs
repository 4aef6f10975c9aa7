//! A site's share of an edge: how many connections and requests of it may be open, so that one tenant's rush leaves
//! the others theirs.
//!
//! Counted only where the fleet file sets a limit: an edge of one tenant pays nothing. Counters belong to the site's
//! name and outlive reloads, so that a changed limit holds for what is open already.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// What of a site is limited. The names are metric labels, and keys of the fleet file's `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// TLS connections that named one of its hosts.
    Connections,
    /// Requests in flight.
    Requests,
    /// Bytes of a request's content.
    Body,
    /// How fast it comes; the PoP's limit, counted where it is met.
    UploadRate,
}

impl Limit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Limit; 4] = [Limit::Connections, Limit::Requests, Limit::Body, Limit::UploadRate];

    /// The metric label.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Connections => "connections_max",
            Limit::Requests => "requests_max",
            Limit::Body => "body_max",
            Limit::UploadRate => "upload_rate_min",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Share {
    taken: [AtomicUsize; 2],
    refused: [AtomicU64; Limit::ALL.len()],
}

impl Share {
    /// Takes a place among at most `max`. `Err`: there is none, which is counted. `None` in, `None` out: no limit.
    ///
    /// # Errors
    /// The limit that was met.
    pub fn take(self: &Arc<Self>, what: Place, max: Option<usize>) -> Result<Option<Taken>, Limit> {
        let Some(max) = max else { return Ok(None) };
        // Taken before it is judged, and given back by its drop either way.
        let before = self.taken[what as usize].fetch_add(1, Relaxed);
        let taken = Taken { share: self.clone(), what };
        if before < max {
            return Ok(Some(taken));
        }
        Err(self.refuse(what.limit()))
    }

    /// Counts a refusal.
    pub fn refuse(&self, limit: Limit) -> Limit {
        self.refused[limit as usize].fetch_add(1, Relaxed);
        limit
    }

    /// Refusals so far.
    pub fn refused(&self, limit: Limit) -> u64 {
        self.refused[limit as usize].load(Relaxed)
    }
}

/// What may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A connection.
    Connection,
    /// A request in flight.
    Request,
}

impl Place {
    fn limit(self) -> Limit {
        match self {
            Place::Connection => Limit::Connections,
            Place::Request => Limit::Requests,
        }
    }
}

/// A place, given back when dropped.
#[derive(Debug)]
pub struct Taken {
    share: Arc<Share>,
    what: Place,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.share.taken[self.what as usize].fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_refusals_counted() {
        let share = Arc::new(Share::default());
        let one = share.take(Place::Request, Some(2)).unwrap();
        let two = share.take(Place::Request, Some(2)).unwrap();
        assert_eq!(share.take(Place::Request, Some(2)).unwrap_err(), Limit::Requests);
        assert!(share.take(Place::Connection, Some(1)).unwrap().is_some(), "each has places of its own");
        drop(one);
        drop(share.take(Place::Request, Some(2)).unwrap());
        drop(two);
        assert!(share.take(Place::Request, None).unwrap().is_none());
        assert_eq!((share.refused(Limit::Requests), share.refused(Limit::Connections)), (1, 0));
        assert_eq!(share.taken[Place::Request as usize].load(Relaxed), 0);
    }
}
