//! Places: who is let in or refused by continent, country, subdivision or the network's operator.
//!
//! The same compiled map serves the rules of all sites and these gates: a client is looked up once. For every
//! combination of conditions that the map knows, the verdict is made ahead, so that a request costs an index.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use http::StatusCode;
use nearside_fleet::config::{
    Match,
    gates::{self, Acting, Others},
};

use super::{Finding, Judgement};
use crate::place::{Places, Seen};

/// Bytes of a page.
pub const PAGE_BYTES_MAX: u64 = 256 << 10;

/// See the module.
pub struct PlaceGate {
    /// Whether to refuse, by the map's values.
    denied: Box<[bool]>,
    status: StatusCode,
    page: Option<Bytes>,
    /// How it acts.
    pub acting: Acting,
}

impl PlaceGate {
    /// Of a configuration that `places` was compiled from.
    ///
    /// # Errors
    /// A page that can't be read.
    pub fn build(gate: &gates::PlaceGate, places: &Arc<Places>) -> Result<Self, String> {
        let listed = |list: &[Match], denies: bool| -> Vec<(u8, usize, bool)> {
            let known = list.iter().filter_map(|place| Some((rank(place), places.bit(place)?, denies)));
            known.collect()
        };
        // The most specific first; within a rank a refusal first, though a client is in one place only.
        let mut asks = listed(&gate.deny, true);
        asks.extend(listed(&gate.allow, false));
        asks.sort_by_key(|&(rank, _, _)| rank);
        let others = gate.others == Others::Deny;
        let denied = places.decide(|holds| {
            asks.iter().find(|&&(_, bit, _)| holds(bit)).map_or(others, |&(_, _, denies)| denies)
        });
        let page = gate.page.as_deref().map(read_page).transpose()?;
        let status = StatusCode::from_u16(gate.status).unwrap_or(StatusCode::FORBIDDEN);
        Ok(PlaceGate { denied, status, page, acting: gate.acting })
    }

    /// By where the client is.
    pub fn judge(&self, seen: &Seen<'_>) -> Judgement {
        if !self.denied.get(seen.number()).copied().unwrap_or_default() {
            return Ok(());
        }
        let mut finding = Finding::new(self.status, "by place");
        finding.page.clone_from(&self.page);
        Err(finding)
    }
}

/// Smaller is more specific.
fn rank(place: &Match) -> u8 {
    match place {
        Match::Network(..) => 0,
        Match::Asn(_) => 1,
        Match::Subdivision { .. } => 2,
        Match::Country(_) => 3,
        Match::Continent(_) => 4,
    }
}

fn read_page(path: &Path) -> Result<Bytes, String> {
    let read = nearside_node::state::read_bounded(path, PAGE_BYTES_MAX);
    let bytes = read.map_err(|error| error.to_string())?;
    bytes.map(Bytes::from).ok_or_else(|| format!("{}: there is no such file", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearside_fleet::config::Geoip;

    #[test]
    fn the_most_specific_place_decides() {
        let country = |code: &str| Match::Country(code.to_owned());
        let gate = gates::PlaceGate {
            allow: vec![country("DE")],
            deny: vec![Match::Continent("EU".to_owned()), country("SG")],
            others: Others::Allow,
            status: 451,
            page: None,
            acting: Acting::default(),
        };
        let conditions: Vec<&Match> = gate.allow.iter().chain(&gate.deny).collect();
        let places = Places::compile(&Geoip::default(), conditions.into_iter()).unwrap();
        let built = PlaceGate::build(&gate, &places).unwrap();
        let judged = |client: &str| {
            let judged = built.judge(&Seen::new(&places, client.parse().unwrap()));
            judged.map_err(|finding| finding.status.as_u16())
        };
        assert_eq!(judged("91.64.4.9"), Ok(()), "Germany, though in Europe");
        assert_eq!(judged("::ffff:91.64.4.9"), Ok(()));
        assert_eq!(judged("62.210.0.1"), Err(451), "France");
        assert_eq!(judged("165.21.0.1"), Err(451), "Singapore");
        assert_eq!(judged("127.0.0.1"), Ok(()), "nowhere");
        let strict = gates::PlaceGate { deny: Vec::new(), others: Others::Deny, ..gate };
        let strict = PlaceGate::build(&strict, &places).unwrap();
        assert!(
            strict.judge(&Seen::new(&places, "127.0.0.1".parse().unwrap())).is_err(),
            "nowhere is not Germany"
        );
        assert!(strict.judge(&Seen::new(&places, "91.64.4.9".parse().unwrap())).is_ok());
    }
}
