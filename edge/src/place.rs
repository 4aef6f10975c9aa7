//! Where clients are, as far as sites ask: compiled when a configuration is loaded, looked up in nanoseconds.
//!
//! [`Places`] knows every condition that any rule or gate of any site names, and for each address which of them hold;
//! nothing is compiled where nobody asks. [`Seen`] is one client, looked up once however many ask, and not at all where
//! nobody does. [`Rules`] are the rules of one site that choose its origins. Networks are compared directly: there are
//! few.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use nearside_fleet::config::{Geoip, Match, OriginRule, Site, Spread};
use nearside_geoip::{
    geo::Geo,
    map::Map,
    place::{Continent, Coordinates, Country, Place, Subdivision},
    prefix::Prefix,
};

/// Distinct conditions on places, of all sites together: every country and a few hundred networks' ASNs. Each costs a bit
/// per distinct combination.
const CONDITIONS_MAX: usize = 1024;

/// See the module.
#[derive(Default)]
pub struct Places {
    conditions: Vec<Match>,
    /// Which conditions hold, by the map's values; one bit each.
    sets: Vec<Box<[u64]>>,
    map: Option<Map>,
}

impl Places {
    /// Compiles what is asked for; networks are passed over.
    ///
    /// # Errors
    /// An unusable database, a code that does not exist, or too many conditions.
    pub fn compile<'a>(geoip: &Geoip, asked: impl Iterator<Item = &'a Match>) -> Result<Arc<Places>, String> {
        let mut conditions: Vec<Match> = Vec::new();
        for condition in asked {
            if !matches!(condition, Match::Network(..)) && !conditions.contains(condition) {
                conditions.push(condition.clone());
            }
        }
        if conditions.is_empty() {
            return Ok(Arc::default());
        }
        if conditions.len() > CONDITIONS_MAX {
            return Err(format!(
                "{} places in the rules of sites; at most {CONDITIONS_MAX}",
                conditions.len()
            ));
        }
        let read: Vec<Condition> = conditions.iter().map(Condition::read).collect::<Result<_, _>>()?;
        let geo = open(geoip)?;
        let mut numbers: HashMap<Box<[u64]>, u32> = HashMap::new();
        let map = geo.compile(&[], |spot| {
            let mut set = vec![0u64; read.len().div_ceil(64)];
            for (bit, condition) in read.iter().enumerate() {
                set[bit / 64] |= u64::from(condition.holds(&spot.place)) << (bit % 64);
            }
            let number = numbers.len() as u32;
            *numbers.entry(set.into()).or_insert(number)
        });
        let map = map.map_err(|error| error.to_string())?;
        let mut sets = vec![Box::default(); numbers.len()];
        for (set, number) in numbers {
            sets[number as usize] = set;
        }
        Ok(Arc::new(Places { conditions, sets, map: Some(map) }))
    }

    /// Which bit of a client's set stands for a condition; `None` for networks, and for what nobody asked.
    pub fn bit(&self, condition: &Match) -> Option<usize> {
        self.conditions.iter().position(|known| known == condition)
    }

    /// What `verdict` says of every combination of conditions there is, by [`Seen::number`]. It is given which bits hold.
    pub fn decide(&self, verdict: impl Fn(&dyn Fn(usize) -> bool) -> bool) -> Box<[bool]> {
        let nowhere: [Box<[u64]>; 1] = [Box::default()];
        let sets = if self.sets.is_empty() { &nowhere[..] } else { &self.sets };
        sets.iter().map(|set| verdict(&|bit| is_set(set, bit))).collect()
    }

    fn set(&self, address: IpAddr) -> &[u64] {
        self.sets.get(self.number(address)).map_or(&[], |set| set)
    }

    fn number(&self, address: IpAddr) -> usize {
        self.map.as_ref().map_or(0, |map| map.lookup(address).value as usize)
    }
}

fn is_set(set: &[u64], bit: usize) -> bool {
    set.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
}

/// Every place that a site asks for.
pub fn asked(site: &Site) -> impl Iterator<Item = &Match> {
    let rules = match site.balance.as_ref().map(|balance| &balance.strategy) {
        Some(Spread::Rules(rules)) => &rules[..],
        _ => &[],
    };
    let gate = site.gates.place.iter().flat_map(|gate| gate.allow.iter().chain(&gate.deny));
    rules.iter().flat_map(|rule| &rule.when).chain(gate).chain(crate::rules::places_asked(site))
}

/// A client, and where it is as soon as somebody asks.
pub struct Seen<'p> {
    places: &'p Places,
    client: IpAddr,
    /// [`UNSEEN`] until it was looked up. Atomic only so that it may be held while something is waited for.
    number: AtomicU32,
}

/// No value of a map: those have 26 bits.
const UNSEEN: u32 = u32::MAX;

impl<'p> Seen<'p> {
    /// Nothing is looked up yet. An IPv4-mapped address is the IPv4 one from here on.
    pub fn new(places: &'p Places, client: IpAddr) -> Self {
        Seen { places, client: client.to_canonical(), number: AtomicU32::new(UNSEEN) }
    }

    /// The client's address.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// Which combination of conditions holds for it.
    pub fn number(&self) -> usize {
        let known = self.number.load(Relaxed);
        if known != UNSEEN {
            return known as usize;
        }
        let number = self.places.number(self.client);
        self.number.store(number as u32, Relaxed);
        number
    }

    /// Whether the condition of a [`Places::bit`] holds for it.
    pub fn holds(&self, bit: usize) -> bool {
        self.places.sets.get(self.number()).is_some_and(|set| is_set(set, bit))
    }
}

/// The rules of one site.
pub struct Rules {
    places: Arc<Places>,
    rules: Vec<(Vec<Asks>, Vec<usize>)>,
}

enum Asks {
    /// A condition of [`Places`].
    Place(usize),
    Network(Prefix),
}

impl Rules {
    /// Of a configuration that `places` was compiled from.
    pub fn new(rules: &[OriginRule], places: &Arc<Places>) -> Self {
        let asks = |condition: &Match| match condition {
            Match::Network(address, length) => Prefix::new(*address, *length).ok().map(Asks::Network),
            place => places.bit(place).map(Asks::Place),
        };
        let rules = rules
            .iter()
            .map(|rule| (rule.when.iter().filter_map(asks).collect(), rule.origins.clone()))
            .collect();
        Rules { places: places.clone(), rules }
    }

    /// The origins for a client, by the first rule that matches.
    pub fn of(&self, client: IpAddr) -> Option<&[usize]> {
        let client = client.to_canonical();
        let set = self.places.set(client);
        let holds = |asks: &Asks| match asks {
            Asks::Place(bit) => is_set(set, *bit),
            Asks::Network(network) => network.contains(client),
        };
        self.rules.iter().find(|(when, _)| when.iter().any(holds)).map(|(_, origins)| &origins[..])
    }
}

/// What a rule asks of a place.
enum Condition {
    Continent(Continent),
    Country(Country),
    Subdivision(Country, Subdivision),
    Asn(u32),
}

impl Condition {
    fn read(condition: &Match) -> Result<Condition, String> {
        let bad = |cause: nearside_geoip::place::CodeError| cause.to_string();
        Ok(match condition {
            Match::Continent(code) => Condition::Continent(code.parse().map_err(bad)?),
            Match::Country(code) => Condition::Country(code.parse().map_err(bad)?),
            Match::Subdivision { country, subdivision } => {
                Condition::Subdivision(country.parse().map_err(bad)?, subdivision.parse().map_err(bad)?)
            }
            Match::Asn(asn) => Condition::Asn(*asn),
            Match::Network(..) => return Err("a network is no place".to_owned()),
        })
    }

    fn holds(&self, place: &Place) -> bool {
        match *self {
            Condition::Continent(continent) => place.continent() == Some(continent),
            Condition::Country(country) => place.country == Some(country),
            Condition::Subdivision(country, subdivision) => {
                place.country == Some(country) && place.subdivision == Some(subdivision)
            }
            Condition::Asn(asn) => place.asn == Some(asn),
        }
    }
}

/// Opens the databases of a configuration and takes in the operator's networks.
fn open(config: &Geoip) -> Result<Geo, String> {
    let mut operator = Vec::with_capacity(config.networks.len());
    for written in &config.networks {
        let bad = |cause: nearside_geoip::place::CodeError| cause.to_string();
        let network = Prefix::new(written.network, written.length).map_err(|error| error.to_string())?;
        let place = Place {
            continent: written.continent.as_deref().map(str::parse).transpose().map_err(bad)?,
            country: written.country.as_deref().map(str::parse).transpose().map_err(bad)?,
            subdivision: written.subdivision.as_deref().map(str::parse).transpose().map_err(bad)?,
            coordinates: written.location.and_then(|at| Coordinates::new(at.latitude, at.longitude)),
            asn: None,
        };
        operator.push((network, place));
    }
    Geo::open(&config.databases, operator).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(rules: Vec<OriginRule>) -> Site {
        let balance =
            nearside_fleet::config::Balance { strategy: Spread::Rules(rules), ..Default::default() };
        Site { name: "s".to_owned(), balance: Some(balance), ..Site::default() }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule =
            |when: &[Match], origins: &[usize]| OriginRule { when: when.into(), origins: origins.into() };
        let rules = vec![
            rule(&[Match::Network("91.64.3.0".parse().unwrap(), 24)], &[2]),
            rule(&[Match::Country("DE".into()), Match::Country("FR".into())], &[1, 0]),
            rule(&[Match::Continent("EU".into())], &[0]),
        ];
        let site = site(rules.clone());
        let places = Places::compile(&Geoip::default(), asked(&site)).unwrap();
        let rules = Rules::new(&rules, &places);
        let of = |client: &str| rules.of(client.parse().unwrap()).map(<[usize]>::to_vec);
        assert_eq!(of("91.64.3.9"), Some(vec![2]), "a network of Germany");
        assert_eq!(of("::ffff:91.64.3.9"), Some(vec![2]));
        assert_eq!(of("91.64.4.9"), Some(vec![1, 0]), "Germany");
        assert_eq!(of("165.21.0.1"), None, "Singapore");
        assert_eq!(of("127.0.0.1"), None);
    }

    #[test]
    fn nothing_is_compiled_for_sites_without_places() {
        let rules = vec![OriginRule {
            when: vec![Match::Network("192.0.2.0".parse().unwrap(), 24)],
            origins: vec![0],
        }];
        let site = site(rules.clone());
        let places = Places::compile(&Geoip::default(), asked(&site)).unwrap();
        assert!(places.map.is_none());
        assert_eq!(Rules::new(&rules, &places).of("192.0.2.1".parse().unwrap()), Some(&[0][..]));
    }
}
