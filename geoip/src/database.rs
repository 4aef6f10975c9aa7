//! Reads `.mmdb` files: MaxMind's nested schema and the flat one, told apart by looking.
//!
//! A [`Database`] is a file read whole into memory, never mapped: a mapped file that is truncated in
//! place kills the process. It answers two questions: what is known of one address, for `explain`, and
//! what is known of all of them, in order, for compiling. Every decoded record becomes a
//! [`Place`]; records are decoded once per distinct offset, since a city database names each of
//! its hundred thousand places many times.
//!
//! Files come from the outside. Whatever is wrong with one is a [`DatabaseError`] with its path;
//! the time spent on one that folds back on itself is bounded by [`NETWORKS_MAX`].

use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use maxminddb::{LookupResult, MaxMindDbError, Reader, WithinOptions};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::{
    place::{Continent, Coordinates, Country, Place, Subdivision},
    prefix::{Family, Prefix, addr_of, mask},
    range::Range,
    subdivision,
    tree::{Network, Networks, Tree},
};

pub use crate::tree::TreeError;

/// Largest file read, bytes. The largest city databases sold are half of it; a path to something else
/// must not fill the memory.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Most networks one database may list. The largest ones have some ten million; a search tree
/// that shares nodes in a malformed file can list 2^128.
const NETWORKS_MAX: u32 = 1 << 26;

/// Records looked at to recognise a schema: some are empty or sparse.
const SAMPLE: usize = 256;

/// One `.mmdb` file.
pub struct Database {
    path: PathBuf,
    file: File,
    reader: Reader<File>,
    schema: Schema,
    places: Places,
}

/// The bytes of a file, for the crate that reads records and for the walk over the tree.
#[derive(Clone)]
struct File(Arc<Vec<u8>>);

impl AsRef<[u8]> for File {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

type Record<'a> = LookupResult<'a, File>;

/// How records are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// MaxMind's: `country.iso_code`, `location.latitude`.
    Nested,
    /// One level: `country_code`, `latitude`. MaxMind's ASN databases are this as well.
    Flat,
}

/// Whether a database places addresses at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// Country, continent or coordinates are among its keys.
    Yes,
    /// It knows AS numbers only.
    No,
}

/// Why a database is of no use.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", path.display())]
pub struct DatabaseError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub cause: DatabaseCause,
}

/// What is wrong with a database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseCause {
    /// It could not be read.
    #[error("cannot read it: {0}")]
    Read(#[source] io::Error),
    /// It is larger than [`FILE_BYTES_MAX`] allows.
    #[error("{bytes} bytes is more than the {FILE_BYTES_MAX} a database may have; is this the right file?")]
    TooLarge {
        /// Size of the file.
        bytes: u64,
    },
    /// Not an MMDB file, or a broken one.
    #[error("not a valid MMDB file (truncated or damaged?): {0}")]
    Malformed(#[source] MaxMindDbError),
    /// A valid file without a single record.
    #[error("database of type {database_type:?} has no records")]
    Empty {
        /// From its metadata.
        database_type: String,
    },
    /// Records that say nothing of places.
    #[error(
        "database of type {database_type:?} has neither MaxMind's keys (country, continent, location, \
         autonomous_system_number) nor flat ones (country_code, latitude, longitude); its records have {keys}"
    )]
    UnknownSchema {
        /// From its metadata.
        database_type: String,
        /// Keys of its first records.
        keys: Keys,
    },
    /// A search tree that is none.
    #[error("not a valid MMDB file (truncated or damaged?): {0}")]
    Tree(#[from] TreeError),
    /// A search tree that folds back on itself.
    #[error("lists more than {NETWORKS_MAX} networks; its search tree is damaged")]
    TooManyNetworks,
}

/// Names for an error message, comma-separated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(pub BTreeSet<String>);

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no keys at all");
        }
        f.write_str(&self.0.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
    }
}

/// What a database says of one address.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The record, decoded; default where the database has none.
    pub place: Place,
    /// Name of the city, for people.
    pub city: Option<String>,
    /// The network around the address that has this record, or none.
    pub network: Prefix,
}

impl Database {
    /// Reads a file and recognises its schema.
    ///
    /// # Errors
    /// Every [`DatabaseCause`] but [`DatabaseCause::TooManyNetworks`].
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let fail = |cause| DatabaseError { path: path.to_owned(), cause };
        let bytes = std::fs::metadata(path).map_err(|e| fail(DatabaseCause::Read(e)))?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(fail(DatabaseCause::TooLarge { bytes }));
        }
        let file = File(Arc::new(std::fs::read(path).map_err(|e| fail(DatabaseCause::Read(e)))?));
        let reader = Reader::from_source(file.clone()).map_err(|e| fail(e.into()))?;
        let (schema, places) = recognise(&reader).map_err(fail)?;
        Ok(Self { path: path.to_owned(), file, reader, schema, places })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `database_type` of its metadata.
    pub fn database_type(&self) -> &str {
        &self.reader.metadata().database_type
    }

    /// When it was made, seconds since 1970.
    pub fn build_epoch(&self) -> u64 {
        self.reader.metadata().build_epoch
    }

    /// How its records are laid out.
    pub fn schema(&self) -> Schema {
        self.schema
    }

    /// Whether it places addresses, or knows their AS only.
    pub fn places(&self) -> Places {
        self.places
    }

    /// What it says of an address; `None` if it is about the other family only.
    ///
    /// # Errors
    /// [`DatabaseCause::Malformed`].
    pub fn lookup(&self, addr: IpAddr) -> Result<Option<Found>, DatabaseError> {
        if addr.is_ipv6() && self.reader.metadata().ip_version == 4 {
            return Ok(None);
        }
        let found = (|| -> Result<_, MaxMindDbError> {
            let result = self.reader.lookup(addr)?;
            let network = result.network()?;
            // ::/96 is where the format keeps IPv4: what stands there is not about IPv6.
            if addr.is_ipv6() && self.keeps_v4_at(addr)? {
                return Ok(None);
            }
            let place = decode(self.schema, &result)?;
            let city = match self.schema {
                Schema::Nested => result.decode_path(&maxminddb::path!["city", "names", "en"])?,
                Schema::Flat => result.decode_path(&maxminddb::path!["city"])?,
            };
            // An IPv6 file without an IPv4 subtree answers IPv4 addresses with an IPv6 network.
            let network = match network.ip() {
                ip if ip.is_ipv4() == addr.is_ipv4() => Prefix::containing(ip, network.prefix()),
                _ => Prefix::all(Family::of(addr)),
            };
            Ok(Some(Found { place: place.unwrap_or_default(), city, network }))
        })();
        found.map_err(|cause| self.fail(cause))
    }

    /// Whether an IPv6 address lies in the file's IPv4 part, if it has one.
    fn keeps_v4_at(&self, addr: IpAddr) -> Result<bool, MaxMindDbError> {
        let inside = Prefix::containing(addr, 96) == Prefix::containing(Ipv6Addr::UNSPECIFIED.into(), 96);
        let v4 = self.reader.lookup(Ipv4Addr::UNSPECIFIED.into())?;
        Ok(inside && v4.network()?.is_ipv4())
    }

    /// Everything it has, in order.
    pub(crate) fn ranges(&self) -> Result<Ranges<'_>, DatabaseError> {
        let tree = Tree::new(self.file.as_ref(), self.reader.metadata()).map_err(|e| self.fail(e))?;
        Ok(Ranges {
            database: self,
            both_families: tree.has_both_families(),
            networks: tree.networks(),
            left: NETWORKS_MAX,
            numbers: hashbrown::HashMap::default(),
            places: Vec::new(),
            chunk: Vec::with_capacity(CHUNK + 1),
            at: 0,
        })
    }

    fn fail(&self, cause: impl Into<DatabaseCause>) -> DatabaseError {
        DatabaseError { path: self.path.clone(), cause: cause.into() }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("path", &self.path)
            .field("database_type", &self.database_type())
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl From<MaxMindDbError> for DatabaseCause {
    fn from(error: MaxMindDbError) -> Self {
        match error {
            MaxMindDbError::Io(error) => Self::Read(error),
            other => Self::Malformed(other),
        }
    }
}

/// Networks taken from the tree at a time: what is done with one waits for memory, what is done with many
/// waits for all of them at once. 256 ranges are 16 KiB.
const CHUNK: usize = 256;

/// Reads a database from its first network to its last.
pub(crate) struct Ranges<'a> {
    database: &'a Database,
    networks: Networks<'a>,
    both_families: bool,
    /// Networks that may still come.
    left: u32,
    /// Offset of a record → its number.
    numbers: hashbrown::HashMap<u32, u32, OffsetHash>,
    places: Vec<Place>,
    chunk: Vec<Range>,
    /// The next one of `chunk`.
    at: usize,
}

impl Ranges<'_> {
    /// The place behind a record number that was yielded, until there are no more.
    pub(crate) fn place(&self, record: u32) -> &Place {
        &self.places[record as usize]
    }

    /// The next range, if any.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Range>, DatabaseError> {
        if self.at == self.chunk.len() {
            self.refill().map_err(|cause| DatabaseError { path: self.database.path.clone(), cause })?;
        }
        let Some(&next) = self.chunk.get(self.at) else {
            // There may be another file to read through, and memory is never scarcer than now.
            self.numbers = hashbrown::HashMap::default();
            self.places = Vec::new();
            return Ok(None);
        };
        self.at += 1;
        Ok(Some(next))
    }

    fn refill(&mut self) -> Result<(), DatabaseCause> {
        self.at = 0;
        self.chunk.clear();
        while self.chunk.len() < CHUNK
            && let Some(network) = self.networks.next()?
        {
            self.left = self.left.checked_sub(1).ok_or(DatabaseCause::TooManyNetworks)?;
            self.push(&network);
        }
        for i in 0..self.chunk.len() {
            let range = self.chunk[i];
            let number = match self.numbers.get(&range.record) {
                Some(&number) => number,
                None => self.decode(&range)?,
            };
            self.chunk[i].record = number;
        }
        Ok(())
    }

    /// Puts a network into the chunk; its record is the offset as yet.
    fn push(&mut self, network: &Network) {
        let &Network { key, len, offset } = network;
        let range =
            |family, key: u128, len: u8| Range { family, first: key, last: key | !mask(len), record: offset };
        // The format keeps IPv4 below ::/96. A network around that is about both families, and is the
        // first one.
        let v4_len = if self.both_families { len.checked_sub(96) } else { Some(len) };
        match v4_len {
            Some(v4_len) if !self.both_families => self.chunk.push(range(Family::V4, key, v4_len)),
            Some(v4_len) if v4_len > 0 && key >> 32 == 0 => {
                self.chunk.push(range(Family::V4, key << 96, v4_len));
            }
            _ => {
                if key == 0 {
                    self.chunk.push(range(Family::V4, 0, 0));
                }
                self.chunk.push(range(Family::V6, key, len));
            }
        }
    }

    /// Reads a record that was not met before; gives it a number.
    #[cold]
    fn decode(&mut self, range: &Range) -> Result<u32, DatabaseCause> {
        // The crate finds records by address only. An IPv4 one it finds from ::/96 on, in files for both
        // families, and not from the root.
        let addr = addr_of(range.family, range.first);
        let record = self.database.reader.lookup(addr)?;
        if record.offset() != Some(range.record as usize) {
            return Err(TreeError::Outside.into());
        }
        let place = decode(self.database.schema, &record)?.unwrap_or_default();
        let number = self.places.len() as u32;
        self.places.push(place);
        self.numbers.insert(range.record, number);
        Ok(number)
    }
}

/// Hashes offsets into a file we hold. Neighbours stay neighbours: records that lie side by side are
/// named by networks side by side, and what is in the cache for one then serves the next.
#[derive(Clone, Copy, Default)]
struct OffsetHash(u64);

/// Records are longer than this many bits of an offset tell apart; two shorter ones only share a bucket.
const OFFSET_SHIFT: u32 = 4;

impl std::hash::BuildHasher for OffsetHash {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl std::hash::Hasher for OffsetHash {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, offset: u32) {
        // The table takes the bucket from the low bits, and the topmost to tell apart what shares one.
        let tag = u64::from(offset).wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xfe << 56;
        self.0 = self.0.rotate_left(32) ^ (tag | u64::from(offset >> OFFSET_SHIFT));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Looks at the first records until one shows a schema.
fn recognise(reader: &Reader<File>) -> Result<(Schema, Places), DatabaseCause> {
    let database_type = || reader.metadata().database_type.clone();
    let mut seen = BTreeSet::new();
    let mut keys = BTreeSet::new();
    let mut found: Option<(Schema, Places)> = None;
    for (result, _) in reader.networks(WithinOptions::default())?.zip(0..NETWORKS_MAX) {
        let result = result?;
        if !seen.insert(result.offset()) {
            continue;
        }
        // A record that is no map is described by having no keys.
        let record: HashMap<String, Shape> = result.decode().ok().flatten().unwrap_or_default();
        match schema_of(&record) {
            Some((schema, Places::Yes)) => return Ok((schema, Places::Yes)),
            other => found = found.or(other),
        }
        keys.extend(record.into_keys());
        if seen.len() >= SAMPLE {
            break;
        }
    }
    match found {
        Some(found) => Ok(found),
        None if seen.is_empty() => Err(DatabaseCause::Empty { database_type: database_type() }),
        None => Err(DatabaseCause::UnknownSchema { database_type: database_type(), keys: Keys(keys) }),
    }
}

fn schema_of(record: &HashMap<String, Shape>) -> Option<(Schema, Places)> {
    let has = |key: &str, shape: Shape| record.get(key) == Some(&shape);
    let nested = ["country", "registered_country", "continent", "location"];
    let flat = ["country_code", "continent_code", "latitude"];
    if nested.iter().any(|key| has(key, Shape::Map)) {
        Some((Schema::Nested, Places::Yes))
    } else if flat.iter().any(|key| has(key, Shape::Value)) {
        Some((Schema::Flat, Places::Yes))
    } else if has("autonomous_system_number", Shape::Value) {
        Some((Schema::Flat, Places::No))
    } else {
        None
    }
}

/// Whether a value has an inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Map,
    Value,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

macro_rules! plain_value {
    ($($visit:ident: $type:ty),* $(,)?) => {
        $(fn $visit<E>(self, _: $type) -> Result<Shape, E> {
            Ok(Shape::Value)
        })*
    };
}

impl<'de> serde::de::Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    plain_value! {
        visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_u128: u128, visit_f64: f64,
        visit_str: &str, visit_bytes: &[u8],
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Shape::Value)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Shape::Map)
    }
}

fn decode(schema: Schema, result: &Record<'_>) -> Result<Option<Place>, MaxMindDbError> {
    Ok(match schema {
        Schema::Nested => result.decode::<Nested<'_>>()?.map(|record| record.place()),
        Schema::Flat => result.decode::<Flat<'_>>()?.map(|record| record.place()),
    })
}

/// MaxMind's record, as much of it as steering needs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Nested<'a> {
    #[serde(borrow)]
    continent: NestedContinent<'a>,
    country: NestedCode<'a>,
    registered_country: NestedCode<'a>,
    subdivisions: Vec<NestedCode<'a>>,
    location: NestedLocation,
    autonomous_system_number: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NestedContinent<'a> {
    code: Option<&'a str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NestedCode<'a> {
    iso_code: Option<&'a str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NestedLocation {
    latitude: Option<Degrees>,
    longitude: Option<Degrees>,
}

impl Nested<'_> {
    fn place(&self) -> Place {
        // Where an address is used is not known of satellites and anycast; where it is registered is
        // then the better guess than nothing, unless a continent says otherwise.
        let country = self.country.iso_code.and_then(Country::new);
        let continent = self.continent.code.and_then(|code| code.parse::<Continent>().ok());
        let registered = self.registered_country.iso_code.and_then(Country::new);
        let registered = registered.filter(|c| continent.is_none_or(|known| known == c.continent()));
        Place {
            continent,
            country: country.or(registered),
            subdivision: self.subdivisions.first().and_then(|s| Subdivision::new(s.iso_code?)),
            coordinates: coordinates(self.location.latitude, self.location.longitude),
            asn: self.autonomous_system_number,
        }
    }
}

/// The flat record.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Flat<'a> {
    continent_code: Option<&'a str>,
    country_code: Option<&'a str>,
    region_code: Option<&'a str>,
    state1: Option<&'a str>,
    latitude: Option<Degrees>,
    longitude: Option<Degrees>,
    autonomous_system_number: Option<u32>,
}

impl Flat<'_> {
    fn place(&self) -> Place {
        let country = self.country_code.and_then(Country::new);
        let named = || subdivision::by_name(country?, self.state1?);
        Place {
            continent: self.continent_code.and_then(|code| code.parse().ok()),
            country,
            subdivision: self.region_code.and_then(Subdivision::new).or_else(named),
            coordinates: coordinates(self.latitude, self.longitude),
            asn: self.autonomous_system_number,
        }
    }
}

/// A coordinate, written as a double by MaxMind and as a float by others; the reader converts
/// neither into the other by itself.
#[derive(Clone, Copy)]
struct Degrees(f64);

impl<'de> Deserialize<'de> for Degrees {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DegreesVisitor)
    }
}

struct DegreesVisitor;

impl serde::de::Visitor<'_> for DegreesVisitor {
    type Value = Degrees;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a coordinate in degrees")
    }

    fn visit_f64<E>(self, degrees: f64) -> Result<Degrees, E> {
        Ok(Degrees(degrees))
    }

    fn visit_f32<E>(self, degrees: f32) -> Result<Degrees, E> {
        Ok(Degrees(degrees.into()))
    }
}

fn coordinates(latitude: Option<Degrees>, longitude: Option<Degrees>) -> Option<Coordinates> {
    Coordinates::new(latitude?.0, longitude?.0)
}

#[cfg(test)]
mod tests {
    use mmdb_writer::{Writer, ipnet::IpNet};

    use super::*;

    fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn written(record: &std::collections::BTreeMap<&str, &str>) -> Vec<u8> {
        let mut writer = Writer::new("Odd-Things");
        writer.insert("11.0.0.0/8".parse::<IpNet>().unwrap(), record).unwrap();
        writer.to_bytes().unwrap()
    }

    /// Reads all there is, as compiling would.
    fn read_through(path: &Path) -> Result<u32, DatabaseError> {
        let database = Database::open(path)?;
        database.lookup("11.0.0.1".parse().unwrap())?;
        database.lookup("2001:db8::1".parse().unwrap())?;
        let mut ranges = database.ranges()?;
        let mut count = 0;
        while ranges.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    #[test]
    fn a_database_of_neither_schema_says_what_it_has() {
        let (_dir, path) = file("odd.mmdb", &written(&[("colour", "red"), ("shape", "round")].into()));
        let error = Database::open(&path).unwrap_err().to_string();
        assert!(error.contains("odd.mmdb"), "{error}");
        assert!(error.contains("\"Odd-Things\""), "{error}");
        assert!(error.contains("colour, shape"), "{error}");
    }

    #[test]
    fn unusable_files_are_errors_with_their_path() {
        let missing = Database::open(Path::new("/nonexistent/x.mmdb")).unwrap_err();
        assert!(matches!(missing.cause, DatabaseCause::Read(_)));
        let (_dir, path) = file("text.mmdb", b"this is no database");
        let error = Database::open(&path).unwrap_err();
        assert!(matches!(error.cause, DatabaseCause::Malformed(_)));
        assert!(error.to_string().contains("text.mmdb"));
        let (_dir, path) = file("empty.mmdb", &Writer::new("None").to_bytes().unwrap());
        assert!(matches!(Database::open(&path).unwrap_err().cause, DatabaseCause::Empty { .. }));
    }

    #[test]
    fn truncation_and_damage_never_panic() {
        let good = written(&[("country_code", "DE")].into());
        let (_dir, path) = file("good.mmdb", &good);
        assert_eq!(read_through(&path).unwrap(), 1);
        for len in 0..good.len() {
            let (_dir, path) = file("cut.mmdb", &good[..len]);
            assert!(read_through(&path).is_err(), "cut to {len} bytes");
        }
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let mut bad = good.clone();
            for _ in 0..3 {
                let at = rng.usize(..bad.len());
                bad[at] = rng.u8(..);
            }
            let (_dir, path) = file("bad.mmdb", &bad);
            // Damage may hit what is never read; all that matters is that it returns.
            let _ = read_through(&path);
        }
    }
}
