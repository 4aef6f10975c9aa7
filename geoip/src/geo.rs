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
//! no database places addresses.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use hashbrown::HashMap;

use crate::{
    builtin,
    database::{self, Database, DatabaseError, Places},
    map::{Builder, Map, SPECIAL, VALUE_MAX, embedded_v4},
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
    /// In a block of [`SPECIAL`] that neither operator nor database places.
    Special,
}

/// What is known of one address.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// Where it is.
    pub place: Place,
    /// City, for people.
    pub city: Option<String>,
    /// The network around the address for which all sources say this.
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
            network: Prefix::all(Family::of(addr)),
            sources: Vec::new(),
        };
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
        let mut cursors = vec![
            Cursor::new(Feed::Labels(flatten(labels.iter().copied(), u32::min).into_iter())),
            Cursor::new(Feed::Operator(self.operator_ranges().into_iter(), &self.operator)),
        ];
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
            let mut last = u128::MAX;
            for (cursor, record) in self.cursors.iter_mut().zip(&mut records) {
                let until;
                (*record, until) = cursor.at(family, at)?;
                last = last.min(until);
            }
            let value = self.decisions.decide(&records, &self.cursors);
            if value != nowhere {
                cover(family, at, last, |prefix| builder.push(prefix, value));
            }
            match last.checked_add(1) {
                Some(next) => at = next,
                None => return Ok(()),
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
            Feed::Special(_) if !operator && !spot.place.is_known() => spot.reach = Reach::Special,
            Feed::Database(_) | Feed::Builtin(_) | Feed::Special(_) => {}
        }
    }
    spot
}
