//! Everything known about where addresses are, joined: operator's networks, databases, built-in table.
//!
//! [`Geo::compile`] walks all sources at once, in order of address, and asks its caller for a value
//! per *distinct combination of records*, not per network: a million cities cost a million
//! decisions, whatever the number of networks. [`Geo::locate`] answers for a single address and
//! says who knew it.
//!
//! Precedence: inside an operator's network only the operator is heard, whatever finer networks
//! the databases have, since that is what a person means who writes it; of nested operator's networks
//! the finer one wins. Elsewhere each attribute comes from the first database that has it, unless it
//! contradicts the country already known ([`Place::or`]). The built-in table is heard only where
//! no database places addresses. What databases say of special-purpose blocks is not heard: they cannot
//! know, and some give 192.168.0.0/16 to the country of a registry.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use hashbrown::HashMap;

use crate::{
    builtin,
    database::{self, Database, DatabaseError, Places},
    map::{Builder, Map, SPECIAL, VALUE_MAX, embedded_v4, special},
    place::Place,
    prefix::{Family, Prefix},
    range::{Range, cover, flatten},
};

/// All sources of geography.
#[derive(Debug, Default)]
pub struct Geo {
    operator: Vec<(Prefix, Place)>,
    databases: Vec<Database>,
}

/// What [`Geo::compile`]'s caller decides on: all addresses that are alike in every source.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spot {
    /// Where they are.
    pub place: Place,
    /// The smallest label of the networks around them.
    pub label: Option<u32>,
    /// Whether they can be anywhere.
    pub reach: Reach,
}

/// Whether an address means one host or one in every network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// An ordinary address.
    #[default]
    Global,
    /// In a block of [`SPECIAL`] that no operator's network places. Nothing is said of its place.
    Special,
}

/// What is known of one address.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// Where it is.
    pub place: Place,
    /// City, for people.
    pub city: Option<String>,
    /// The smallest network around the address that one of the sources names.
    pub network: Prefix,
    /// Who knew, in order of precedence; empty if nobody did.
    pub sources: Vec<Source>,
}

/// Who placed an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operator's network.
    Operator(Prefix),
    /// This database file.
    Database(PathBuf),
    /// The embedded country table.
    Builtin,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Operator(network) => write!(f, "operator's network {network}"),
            Self::Database(path) => write!(f, "{}", path.display()),
            Self::Builtin => write!(f, "built-in country table of {}", builtin::date()),
        }
    }
}

impl Geo {
    /// Opens databases, in order of precedence. Without any that places addresses, the built-in table is
    /// the last source.
    ///
    /// # Errors
    /// Whatever is wrong with the first unusable file.
    pub fn open<P: AsRef<Path>>(
        databases: &[P],
        operator: Vec<(Prefix, Place)>,
    ) -> Result<Self, DatabaseError> {
        let databases = databases.iter().map(|path| Database::open(path.as_ref()));
        Ok(Self { operator, databases: databases.collect::<Result<_, _>>()? })
    }

    /// The open databases, in order of precedence.
    pub fn databases(&self) -> &[Database] {
        &self.databases
    }

    fn needs_builtin(&self) -> bool {
        self.databases.iter().all(|database| database.places() == Places::No)
    }

    /// What is known of one address, and who knew it. Slow (the built-in table is read through):
    /// for `explain`, not for queries.
    ///
    /// # Errors
    /// A database turned out to be damaged.
    pub fn locate(&self, addr: IpAddr) -> Result<Located, DatabaseError> {
        if let IpAddr::V6(v6) = addr
            && let Some((inner, offset)) = embedded_v4(v6)
        {
            let located = self.locate(IpAddr::V4(inner))?;
            let network = Prefix::containing(addr, offset + located.network.len());
            return Ok(Located { network, ..located });
        }
        let around = self.operator.iter().filter(|(network, _)| network.contains(addr));
        // Of equal networks the later one, as in `compile`.
        if let Some(&(network, place)) = around.max_by_key(|(network, _)| network.len()) {
            let sources = vec![Source::Operator(network)];
            return Ok(Located { place, city: None, network, sources });
        }
        let mut located = Located {
            place: Place::default(),
            city: None,
            network: special(addr).unwrap_or(Prefix::all(Family::of(addr))),
            sources: Vec::new(),
        };
        if special(addr).is_some() {
            return Ok(located);
        }
        for database in &self.databases {
            let Some(found) = database.lookup(addr)? else { continue };
            located.add(found, Source::Database(database.path().to_owned()));
        }
        if self.needs_builtin() {
            located.add(builtin_lookup(addr), Source::Builtin);
        }
        Ok(located)
    }

    /// Turns all of it into a map: `value` decides once per distinct combination of records.
    ///
    /// `labels` are networks the caller tells apart; where they nest, the smaller label is meant.
    ///
    /// # Errors
    /// A database turned out to be damaged.
    ///
    /// # Panics
    /// If `value` yields more than [`VALUE_MAX`].
    pub fn compile(
        &self,
        labels: &[(Prefix, u32)],
        value: impl FnMut(&Spot) -> u32,
    ) -> Result<Map, DatabaseError> {
        let mut cursors = Vec::with_capacity(4 + self.databases.len());
        // A source that is empty would only be asked a million times for nothing.
        if !labels.is_empty() {
            let ranges = flatten(labels.iter().copied(), u32::min);
            cursors.push(Cursor::new(Feed::Labels(ranges.into_iter())));
        }
        if !self.operator.is_empty() {
            let ranges = self.operator_ranges().into_iter();
            cursors.push(Cursor::new(Feed::Operator(ranges, &self.operator)));
        }
        for database in &self.databases {
            cursors.push(Cursor::new(Feed::Database(Box::new(database.ranges()?))));
        }
        if self.needs_builtin() {
            cursors.push(Cursor::new(Feed::Builtin(builtin::ranges())));
        }
        let blocks = SPECIAL.map(|(addr, len)| (Prefix::containing(addr, len), 0));
        cursors.push(Cursor::new(Feed::Special(flatten(blocks, |_, inner| inner).into_iter())));

        let mut walk = Walk { decisions: Decisions::new(value, cursors.len()), cursors };
        let nowhere = (walk.decisions.value)(&Spot::default());
        let mut builder = Builder::new(nowhere);
        walk.family(Family::V4, nowhere, &mut builder)?;
        builder.finish_v4();
        walk.family(Family::V6, nowhere, &mut builder)?;
        drop(walk);
        Ok(builder.finish())
    }

    fn operator_ranges(&self) -> Vec<Range> {
        let numbered = self.operator.iter().zip(0..).map(|(&(network, _), number)| (network, number));
        flatten(numbered, |_, inner| inner)
    }
}

impl Located {
    /// Takes what a source of lower precedence adds.
    fn add(&mut self, found: database::Found, source: Source) {
        if found.network.len() > self.network.len() {
            self.network = found.network;
        }
        let joined = self.place.or(&found.place);
        if joined != self.place {
            self.place = joined;
            self.sources.push(source);
            if joined.country == found.place.country {
                self.city = self.city.take().or(found.city);
            }
        }
    }
}

/// The built-in table's range around an address, as the largest network inside it.
fn builtin_lookup(addr: IpAddr) -> database::Found {
    let (family, key) = (Family::of(addr), crate::prefix::key_of(addr));
    let mut from = 0;
    let mut until = u128::MAX;
    let mut place = Place::default();
    for range in builtin::ranges().filter(|range| range.family == family) {
        if range.last < key {
            // At most the last address of the family, and then nothing follows.
            from = range.last.saturating_add(1);
        } else if range.first > key {
            until = range.first - 1;
            break;
        } else {
            (from, until) = (range.first, range.last);
            place.country = builtin::country(range.record);
            break;
        }
    }
    let mut network = Prefix::all(family);
    cover(family, from, until, |part| {
        if part.contains(addr) {
            network = part;
        }
    });
    database::Found { place, city: None, network }
}

/// One source, read along.
struct Cursor<'a> {
    feed: Feed<'a>,
    current: Option<Range>,
    /// Whether `current` was ever filled.
    started: bool,
}

enum Feed<'a> {
    Labels(std::vec::IntoIter<Range>),
    Operator(std::vec::IntoIter<Range>, &'a [(Prefix, Place)]),
    Database(Box<database::Ranges<'a>>),
    Builtin(builtin::Ranges),
    Special(std::vec::IntoIter<Range>),
}

/// The record of a source that says nothing.
const NOTHING: u32 = u32::MAX;

impl<'a> Cursor<'a> {
    fn new(feed: Feed<'a>) -> Self {
        Self { feed, current: None, started: false }
    }

    fn advance(&mut self) -> Result<(), DatabaseError> {
        self.started = true;
        self.current = match &mut self.feed {
            Feed::Labels(ranges) | Feed::Operator(ranges, _) | Feed::Special(ranges) => ranges.next(),
            Feed::Builtin(ranges) => ranges.next(),
            Feed::Database(ranges) => ranges.next()?,
        };
        Ok(())
    }

    /// The record at a position, and the last address up to which it is that.
    #[inline]
    fn at(&mut self, family: Family, key: u128) -> Result<(u32, u128), DatabaseError> {
        while !self.started || self.current.is_some_and(|r| (r.family, r.last) < (family, key)) {
            self.advance()?;
        }
        Ok(match self.current {
            Some(range) if range.family != family => (NOTHING, u128::MAX),
            Some(range) if range.first > key => (NOTHING, range.first - 1),
            Some(range) => (range.record, range.last),
            None => (NOTHING, u128::MAX),
        })
    }
}

/// All sources side by side.
struct Walk<'a, F> {
    cursors: Vec<Cursor<'a>>,
    decisions: Decisions<F>,
}

impl<F: FnMut(&Spot) -> u32> Walk<'_, F> {
    /// Pushes every run of addresses that is not simply `nowhere`.
    fn family(&mut self, family: Family, nowhere: u32, builder: &mut Builder) -> Result<(), DatabaseError> {
        let mut records = vec![NOTHING; self.cursors.len()];
        let mut at = 0;
        loop {
            // Mostly one source changes from network to network while the others stand still: until one of
            // those moves, only that one is asked.
            let (mut finest, mut last, mut others) = (0, u128::MAX, u128::MAX);
            for (i, (cursor, record)) in self.cursors.iter_mut().zip(&mut records).enumerate() {
                let until;
                (*record, until) = cursor.at(family, at)?;
                if until < last {
                    (finest, last, others) = (i, until, last);
                } else {
                    others = others.min(until);
                }
            }
            loop {
                let value = self.decisions.decide(&records, &self.cursors);
                if value != nowhere {
                    cover(family, at, last, |prefix| builder.push(prefix, value));
                }
                match last.checked_add(1) {
                    Some(next) => at = next,
                    None => return Ok(()),
                }
                if at > others {
                    break;
                }
                let (record, until) = self.cursors[finest].at(family, at)?;
                records[finest] = record;
                last = until.min(others);
            }
        }
    }
}

/// Values already decided, by combination of records.
struct Decisions<F> {
    value: F,
    /// Where one source alone says something: per source, by its record.
    alone: Vec<Vec<u32>>,
    joined: HashMap<Box<[u32]>, u32>,
}

/// Not decided yet; above [`VALUE_MAX`].
const UNDECIDED: u32 = u32::MAX;
const _: () = assert!(UNDECIDED > VALUE_MAX);

impl<F: FnMut(&Spot) -> u32> Decisions<F> {
    fn new(value: F, sources: usize) -> Self {
        Self { value, alone: vec![Vec::new(); sources], joined: HashMap::new() }
    }

    fn decide(&mut self, records: &[u32], cursors: &[Cursor<'_>]) -> u32 {
        let mut speaking = records.iter().enumerate().filter(|&(_, &record)| record != NOTHING);
        let (first, second) = (speaking.next(), speaking.next());
        if let (Some((source, &record)), None) = (first, second) {
            let known = &mut self.alone[source];
            let at = record as usize;
            if known.len() <= at {
                known.resize(at + 1, UNDECIDED);
            }
            if known[at] == UNDECIDED {
                known[at] = (self.value)(&spot(records, cursors));
            }
            return known[at];
        }
        if let Some(&value) = self.joined.get(records) {
            return value;
        }
        let value = (self.value)(&spot(records, cursors));
        self.joined.insert(records.into(), value);
        value
    }
}

/// Joins what the sources say of one run of addresses.
fn spot(records: &[u32], cursors: &[Cursor<'_>]) -> Spot {
    let mut spot = Spot::default();
    let mut operator = false;
    for (&record, cursor) in records.iter().zip(cursors) {
        if record == NOTHING {
            continue;
        }
        match &cursor.feed {
            Feed::Labels(_) => spot.label = Some(record),
            Feed::Operator(_, places) => {
                spot.place = places[record as usize].1;
                operator = true;
            }
            Feed::Database(ranges) if !operator => spot.place = spot.place.or(ranges.place(record)),
            Feed::Builtin(_) if !operator => {
                let country = builtin::country(record);
                spot.place = spot.place.or(&Place { country, ..Place::default() });
            }
            Feed::Special(_) if !operator => {
                spot.place = Place::default();
                spot.reach = Reach::Special;
            }
            Feed::Database(_) | Feed::Builtin(_) | Feed::Special(_) => {}
        }
    }
    spot
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use mmdb_writer::{IpVersion, RecordSize, Writer, ipnet::IpNet};
    use serde::Serialize;

    use super::*;
    use crate::place::{Continent, Coordinates, Country};

    /// Addresses tried per differential test, over both families.
    const SAMPLES: u32 = 500_000;

    #[derive(Serialize)]
    struct FlatRecord {
        country_code: &'static str,
        latitude: f32,
        longitude: f32,
    }

    #[derive(Serialize)]
    struct AsnRecord {
        autonomous_system_number: u32,
    }

    #[derive(Serialize)]
    struct Code {
        #[serde(skip_serializing_if = "Option::is_none")]
        iso_code: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'static str>,
    }

    #[derive(Serialize)]
    struct NestedLocation {
        latitude: f64,
        longitude: f64,
    }

    #[derive(Serialize)]
    struct NestedRecord {
        continent: Code,
        country: Code,
        location: NestedLocation,
        subdivisions: Vec<Code>,
    }

    const COUNTRIES: [&str; 8] = ["DE", "FR", "US", "BR", "JP", "AU", "ZA", "IN"];

    fn flat(number: usize) -> FlatRecord {
        let country_code = COUNTRIES[number % 8];
        let point = Country::new(country_code).unwrap().centroid();
        FlatRecord { country_code, latitude: point.latitude, longitude: point.longitude }
    }

    fn nested(number: usize) -> NestedRecord {
        let country = COUNTRIES[number % 8];
        let point = Country::new(country).unwrap().centroid();
        NestedRecord {
            continent: Code { iso_code: None, code: Some(Country::new(country).unwrap().continent().code()) },
            country: Code { iso_code: Some(country), code: None },
            location: NestedLocation { latitude: point.latitude.into(), longitude: point.longitude.into() },
            subdivisions: vec![Code { iso_code: Some("NW"), code: None }],
        }
    }

    /// Random networks of both families, many of them neighbours or nested.
    fn networks(rng: &mut fastrand::Rng, count: usize, version: IpVersion) -> Vec<IpNet> {
        let mut nets = Vec::new();
        while nets.len() < count {
            let v4 = Ipv4Addr::from_bits(rng.u32(..) & 0x1f3f_ffff);
            let v6 = Ipv6Addr::from_bits(0x2 << 124 | u128::from(rng.u64(..) & 0x01f0_ff3f_ffff_ffff) << 64);
            nets.push(match version {
                IpVersion::V6 if rng.bool() => IpNet::new(v6.into(), rng.u8(12..=56)).unwrap(),
                _ => IpNet::new(v4.into(), rng.u8(8..=28)).unwrap(),
            });
        }
        nets
    }

    fn write<R: Serialize>(
        dir: &tempfile::TempDir,
        name: &str,
        writer: Writer,
        nets: Vec<IpNet>,
        record: impl Fn(usize) -> R,
    ) -> PathBuf {
        let mut writer = writer;
        for (number, net) in nets.into_iter().enumerate() {
            writer.insert(net, &record(number)).unwrap();
        }
        let path = dir.path().join(name);
        std::fs::write(&path, writer.to_bytes().unwrap()).unwrap();
        path
    }

    /// Any address, those near network borders more often.
    fn sample(rng: &mut fastrand::Rng) -> IpAddr {
        match rng.u8(0..8) {
            0 => Ipv4Addr::from_bits(rng.u32(..)).into(),
            1..4 => Ipv4Addr::from_bits(rng.u32(..) & 0x1f3f_ffff).into(),
            4 => Ipv6Addr::from_bits(0x2 << 124 | rng.u128(..) >> 4).into(),
            5 => Ipv6Addr::from_bits(rng.u128(..) >> rng.u8(0..120)).into(),
            _ => {
                let head = u128::from(rng.u64(..) & 0x01f0_ff3f_ffff_ffff) << 64;
                Ipv6Addr::from_bits(0x2 << 124 | head | u128::from(rng.u64(..))).into()
            }
        }
    }

    /// Gives every distinct spot a number, so that a map can be asked what it was decided on.
    #[derive(Default)]
    struct Recorder(Vec<Spot>);

    impl Recorder {
        fn number(&mut self, spot: &Spot) -> u32 {
            let known = self.0.iter().position(|s| s == spot);
            known.unwrap_or_else(|| {
                self.0.push(*spot);
                self.0.len() - 1
            }) as u32
        }
    }

    /// Every sampled address: map = what the sources say one by one, for the whole scope.
    fn differential(geo: &Geo, seed: u64, samples: u32) {
        let mut recorder = Recorder::default();
        let map = geo.compile(&[], |spot| recorder.number(spot)).unwrap();
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..samples {
            let addr = sample(&mut rng);
            let hit = map.lookup(addr);
            let located = geo.locate(addr).unwrap();
            let spot = recorder.0[hit.value as usize];
            assert_eq!(spot.place, located.place, "{addr} (seed {seed})");
            let by_operator = matches!(located.sources[..], [Source::Operator(_)]);
            let expected = special(addr).is_some() && !by_operator;
            assert_eq!(spot.reach == Reach::Special, expected, "{addr} (seed {seed})");
            // The sources' own network has one place all over, so the map's scope holds it, unless
            // a block that means something else lies inside.
            let scope = Prefix::containing(addr, hit.scope);
            let other = ["2002::/16", "2001::/32", "64:ff9b::/96"].map(|net| net.parse().unwrap());
            let blocks = SPECIAL.map(|(block, len)| Prefix::containing(block, len));
            let finer = geo.operator.iter().map(|(net, _)| net);
            let cut = other
                .iter()
                .chain(&blocks)
                .chain(finer)
                .any(|&net| located.network.covers(net) || net.covers(located.network));
            assert!(cut || scope.covers(located.network), "{addr}: {scope} {}", located.network);
        }
    }

    #[test]
    fn map_equals_plain_lookups_flat() {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = fastrand::Rng::with_seed(1);
        let v4 = Writer::builder("v4").ip_version(IpVersion::V4).build();
        let v6 = Writer::builder("v6").record_size(RecordSize::Bits28).build();
        let nets = networks(&mut rng, 20_000, IpVersion::V4);
        let (v4_nets, v6_nets) = (nets, networks(&mut rng, 20_000, IpVersion::V6));
        let v6_nets = v6_nets.into_iter().filter(|net| net.addr().is_ipv6()).collect();
        let files = [write(&dir, "v4.mmdb", v4, v4_nets, flat), write(&dir, "v6.mmdb", v6, v6_nets, flat)];
        differential(&Geo::open(&files, vec![]).unwrap(), 2, SAMPLES);
    }

    #[test]
    fn map_equals_plain_lookups_nested_joined_with_asn() {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = fastrand::Rng::with_seed(3);
        let nets = networks(&mut rng, 10_000, IpVersion::V6);
        let asn_nets = networks(&mut rng, 10_000, IpVersion::V6);
        let files = [
            write(&dir, "asn.mmdb", Writer::new("ASN"), asn_nets, |number| AsnRecord {
                autonomous_system_number: 64500 + number as u32 % 4,
            }),
            write(&dir, "city.mmdb", Writer::new("City"), nets, nested),
        ];
        let here = Place { country: Country::new("IS"), ..Place::default() };
        let there = Place { country: Country::new("NZ"), ..Place::default() };
        let operator = vec![
            ("16.0.0.0/6".parse().unwrap(), here),
            ("17.1.0.0/16".parse().unwrap(), there),
            ("2001::/16".parse().unwrap(), here),
        ];
        let geo = Geo::open(&files, operator).unwrap();
        assert_eq!(geo.databases()[0].places(), Places::No);
        assert_eq!(geo.databases()[1].schema(), database::Schema::Nested);
        differential(&geo, 4, SAMPLES);
    }

    #[test]
    fn builtin_map_equals_the_table() {
        let mut recorder = Recorder::default();
        let map = Geo::default().compile(&[], |spot| recorder.number(spot)).unwrap();
        let ranges: Vec<Range> = builtin::ranges().collect();
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..SAMPLES {
            let addr = sample(&mut rng);
            if let IpAddr::V6(v6) = addr
                && embedded_v4(v6).is_some()
            {
                continue;
            }
            let at = (Family::of(addr), crate::prefix::key_of(addr));
            let next = ranges.partition_point(|range| (range.family, range.last) < at);
            let range = ranges.get(next).filter(|range| (range.family, range.first) <= at);
            let country = range.and_then(|range| builtin::country(range.record));
            let spot = recorder.0[map.lookup(addr).value as usize];
            assert_eq!(spot.place.country, country, "{addr}");
        }
        assert!(map.bytes() < 16 << 20, "{} bytes", map.bytes());
    }

    #[test]
    fn labels_split_places() {
        let dir = tempfile::tempdir().unwrap();
        let net = |text: &str| text.parse::<Prefix>().unwrap();
        let file = write(&dir, "a.mmdb", Writer::new("A"), vec!["11.0.0.0/8".parse().unwrap()], flat);
        let geo = Geo::open(&[file], vec![]).unwrap();
        let labels = [(net("11.1.0.0/16"), 3), (net("11.1.2.0/24"), 5), (net("11.1.3.0/24"), 1)];
        let mut recorder = Recorder::default();
        let map = geo.compile(&labels, |spot| recorder.number(spot)).unwrap();
        let label = |addr: &str| recorder.0[map.lookup(addr.parse().unwrap()).value as usize].label;
        assert_eq!(label("11.2.0.1"), None);
        assert_eq!(label("11.1.9.1"), Some(3));
        // Inside a network of a smaller label, a larger one adds nothing.
        assert_eq!(label("11.1.2.1"), Some(3));
        assert_eq!(label("11.1.3.1"), Some(1));
    }

    #[test]
    fn says_who_knew() {
        let dir = tempfile::tempdir().unwrap();
        let file = write(&dir, "a.mmdb", Writer::new("A"), vec!["11.0.0.0/8".parse().unwrap()], flat);
        let at = Coordinates { latitude: 64.1, longitude: -21.9 };
        let place = Place { coordinates: Some(at), ..Place::default() };
        let geo = Geo::open(&[&file], vec![("11.1.0.0/16".parse().unwrap(), place)]).unwrap();
        let located = geo.locate("11.1.2.3".parse().unwrap()).unwrap();
        assert_eq!(located.sources, [Source::Operator("11.1.0.0/16".parse().unwrap())]);
        let located = geo.locate("::ffff:11.2.2.3".parse().unwrap()).unwrap();
        assert_eq!(located.sources, [Source::Database(file)]);
        assert_eq!(located.place.continent(), Some(Continent::Europe));
        assert_eq!(located.network.len(), 96 + 8);
        let nowhere = geo.locate("9.9.9.9".parse().unwrap()).unwrap();
        assert_eq!((nowhere.sources, nowhere.place.is_known()), (vec![], false));
        let builtin = Geo::default().locate("87.128.0.1".parse().unwrap()).unwrap();
        assert_eq!(builtin.sources, [Source::Builtin]);
        assert_eq!(builtin.place.country, Country::new("DE"));
    }
}
