//! Which rules a request may match, without trying them one by one.
//!
//! Conditions look at few things: the path, the host, one field. For each thing there is a table from its values to the
//! rules that want them. A request's value is looked up once; what comes out is a set of rules, as bits, and the sets of
//! all things are intersected. Values are found by hash; paths by hash of what patterns begin or end with; what begins
//! and ends with a `*`, and regular expressions, all at once in one pass of one automaton.
//!
//! Not known here: places, splits, times, and what must *not* hold. Those are tried for the rules that remain.

use hashbrown::HashMap;
use http::{HeaderName, header};
use nearside_fleet::{
    config::rules::{Condition, RuleAnswer, SiteRule, Test},
    glob::Glob,
    patterns,
};
use regex::bytes::RegexSet;
use smallvec::{SmallVec, smallvec};

use super::{Facts, Unusable};

/// Words of a set that need no allocation: 1,024 rules, which is as many as a site may have.
const WORDS: usize = 16;

/// A set of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bits(SmallVec<[u64; WORDS]>);

impl Bits {
    fn none(rules: usize) -> Bits {
        Bits(smallvec![0; rules.div_ceil(64)])
    }

    fn all(rules: usize) -> Bits {
        let mut bits = Bits::none(rules);
        (0..rules).for_each(|number| bits.set(number));
        bits
    }

    fn set(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    fn clear(&mut self, number: usize) {
        self.0[number / 64] &= !(1 << (number % 64));
    }

    pub(super) fn has(&self, number: usize) -> bool {
        self.0[number / 64] >> (number % 64) & 1 == 1
    }

    fn keep(&mut self, other: &Bits) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine &= theirs);
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(super) fn either(one: &Bits, other: &Bits) -> Bits {
        Bits(one.0.iter().zip(&other.0).map(|(one, other)| one | other).collect())
    }

    /// Those in one and not in the other, the first of them.
    fn first_without(&self, other: &Bits) -> Option<usize> {
        let words = self.0.iter().zip(&other.0).map(|(mine, theirs)| mine & !theirs).enumerate();
        let mut words = words.filter(|(_, word)| *word != 0);
        words.next().map(|(at, word)| at * 64 + word.trailing_zeros() as usize)
    }

    /// Ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(at, &word)| {
            std::iter::successors(Some(word), |word| (*word != 0).then(|| word & (word - 1)))
                .take_while(|word| *word != 0)
                .map(move |word| at * 64 + word.trailing_zeros() as usize)
        })
    }
}

/// Request fields that were looked at, and for which rule first.
pub(super) type Looks<'i> = SmallVec<[(&'i HeaderName, usize); 4]>;

/// Rules that one value stands for; mostly one.
type Wanting = SmallVec<[u16; 4]>;

/// Whether a condition is one that the index decides.
pub(super) fn knows(condition: &Condition) -> bool {
    !matches!(condition, Condition::Place(_) | Condition::Split(..) | Condition::Time(_))
}

/// See the module.
pub(super) struct Index {
    all: Bits,
    paths: Option<Paths>,
    tables: Vec<Table>,
}

impl Index {
    pub(super) fn build(rules: &[SiteRule]) -> Result<Index, Unusable> {
        let mut paths = Paths::new(rules.len());
        let mut tables: Vec<Table> = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            for condition in &rule.when {
                if let Condition::Path(globs) = condition {
                    paths.add(number, globs);
                } else if let Some(thing) = Thing::of(condition)? {
                    let at = tables.iter().position(|table| table.thing == thing).unwrap_or_else(|| {
                        tables.push(Table::new(thing, rules.len()));
                        tables.len() - 1
                    });
                    tables[at].add(number, condition);
                    if !matches!(rule.then.answer, Some(RuleAnswer::Block { .. })) {
                        tables[at].untold.clear(number);
                    }
                }
            }
        }
        // What is cheap to look at, and shuts out much, comes first: fields of the request last.
        tables.sort_by_key(|table| table.thing.cost());
        tables.iter_mut().try_for_each(Table::finish)?;
        let paths = (!paths.is_empty()).then_some(paths).map(Paths::finish).transpose()?;
        Ok(Index { all: Bits::all(rules.len()), paths, tables })
    }

    /// The rules whose known conditions hold. `looks` is told which request fields were looked at, and the first rule for
    /// whose sake.
    pub(super) fn allowed<'i>(&'i self, facts: &Facts<'_>, looks: &mut Looks<'i>) -> Bits {
        let mut allowed = self.all.clone();
        if let Some(paths) = &self.paths {
            allowed.keep(&paths.wanting(facts.path));
        }
        for table in &self.tables {
            if allowed.is_empty() {
                break;
            }
            if allowed.first_without(&table.without).is_none() {
                continue;
            }
            if let Some(name) = table.thing.field()
                && let Some(first) = allowed.first_without(&table.untold)
            {
                looks.push((name, first));
            }
            allowed.keep(&table.wanting(facts));
        }
        allowed
    }
}

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Thing {
    Extension,
    Method,
    Host,
    Scheme,
    PathRegex,
    Query(String),
    Header(HeaderName),
    Cookie(String),
}

impl Thing {
    fn of(condition: &Condition) -> Result<Option<Thing>, Unusable> {
        Ok(Some(match condition {
            Condition::Extension(_) => Thing::Extension,
            Condition::Method(_) => Thing::Method,
            Condition::Host(_) => Thing::Host,
            Condition::Scheme(_) => Thing::Scheme,
            Condition::PathRegex(_) => Thing::PathRegex,
            Condition::Query(name, _) => Thing::Query(name.clone()),
            Condition::Header(name, _) => {
                Thing::Header(name.parse().map_err(|_| format!("{name:?} is no field name"))?)
            }
            Condition::Cookie(name, _) => Thing::Cookie(name.clone()),
            Condition::Path(_) | Condition::Place(_) | Condition::Split(..) | Condition::Time(_) => {
                return Ok(None);
            }
        }))
    }

    fn cost(&self) -> u8 {
        match self {
            Thing::Scheme | Thing::Method => 0,
            Thing::Host | Thing::Extension => 1,
            Thing::PathRegex => 2,
            Thing::Query(_) => 3,
            Thing::Header(_) => 4,
            Thing::Cookie(_) => 5,
        }
    }

    /// The request field, where it is one.
    fn field(&self) -> Option<&HeaderName> {
        match self {
            Thing::Header(name) => Some(name),
            Thing::Cookie(_) => Some(&header::COOKIE),
            _ => None,
        }
    }
}

/// Rules by the values of one thing.
struct Table {
    thing: Thing,
    /// Rules that do not look at it.
    without: Bits,
    /// Those, and rules that block: a refusal is kept by nobody, and what is let in need not say by what it was.
    untold: Bits,
    equals: HashMap<Box<[u8]>, Wanting>,
    present: Wanting,
    absent: Wanting,
    patterns: Vec<String>,
    of_pattern: Vec<u16>,
    regexes: Option<RegexSet>,
}

impl Table {
    fn new(thing: Thing, rules: usize) -> Table {
        Table {
            thing,
            without: Bits::all(rules),
            untold: Bits::all(rules),
            equals: HashMap::new(),
            present: Wanting::new(),
            absent: Wanting::new(),
            patterns: Vec::new(),
            of_pattern: Vec::new(),
            regexes: None,
        }
    }

    fn add(&mut self, number: usize, condition: &Condition) {
        self.without.clear(number);
        let rule = number as u16;
        match condition {
            Condition::Extension(values) | Condition::Method(values) | Condition::Host(values) => {
                values.iter().for_each(|value| self.wants(value.as_bytes(), rule));
            }
            Condition::Scheme(value) => self.wants(value.as_bytes(), rule),
            Condition::PathRegex(all) => all.iter().for_each(|pattern| self.pattern(pattern, rule)),
            Condition::Header(_, tests) | Condition::Cookie(_, tests) | Condition::Query(_, tests) => {
                for test in tests {
                    match test {
                        Test::Present => self.present.push(rule),
                        Test::Absent => self.absent.push(rule),
                        Test::Equals(value) => self.wants(value.as_bytes(), rule),
                        Test::Regex(pattern) => self.pattern(pattern, rule),
                    }
                }
            }
            Condition::Path(_) | Condition::Place(_) | Condition::Split(..) | Condition::Time(_) => {}
        }
    }

    fn wants(&mut self, value: &[u8], rule: u16) {
        self.equals.entry(value.into()).or_default().push(rule);
    }

    fn pattern(&mut self, pattern: &str, rule: u16) {
        self.patterns.push(pattern.to_owned());
        self.of_pattern.push(rule);
    }

    fn finish(&mut self) -> Result<(), Unusable> {
        let patterns = std::mem::take(&mut self.patterns);
        if !patterns.is_empty() {
            self.regexes = Some(patterns::set(&patterns)?);
        }
        Ok(())
    }

    fn wanting(&self, facts: &Facts<'_>) -> Bits {
        let mut bits = self.without.clone();
        match &self.thing {
            Thing::Scheme => self.of_value(facts.scheme.as_bytes(), &mut bits),
            Thing::Method => self.of_value(facts.method.as_str().as_bytes(), &mut bits),
            Thing::Host => {
                self.of_value(facts.host.as_bytes(), &mut bits);
                if let Some((_, rest)) = facts.host.split_once('.') {
                    let wildcard: SmallVec<[u8; 64]> = b"*.".iter().chain(rest.as_bytes()).copied().collect();
                    self.of_value(&wildcard, &mut bits);
                }
            }
            Thing::Extension => {
                if let Some(extension) = facts.extension() {
                    let lower: SmallVec<[u8; 16]> =
                        extension.bytes().map(|byte| byte.to_ascii_lowercase()).collect();
                    self.of_value(&lower, &mut bits);
                }
            }
            Thing::PathRegex => self.of_value(facts.path.as_bytes(), &mut bits),
            Thing::Header(name) => self.of_values(facts.fields(name), &mut bits),
            Thing::Cookie(name) => self.of_values(facts.cookies(name), &mut bits),
            Thing::Query(name) => self.of_values(facts.parameters(name), &mut bits),
        }
        bits
    }

    fn of_values<T: AsRef<[u8]>>(&self, values: impl Iterator<Item = T>, bits: &mut Bits) {
        let mut is_there = false;
        for value in values {
            is_there = true;
            self.of_value(value.as_ref(), bits);
        }
        let wanting = if is_there { &self.present } else { &self.absent };
        wanting.iter().for_each(|&rule| bits.set(usize::from(rule)));
    }

    fn of_value(&self, value: &[u8], bits: &mut Bits) {
        for &rule in self.equals.get(value).into_iter().flatten() {
            bits.set(usize::from(rule));
        }
        let matches = self.regexes.iter().flat_map(|regexes| regexes.matches(value).into_iter());
        matches.for_each(|pattern| bits.set(usize::from(self.of_pattern[pattern])));
    }
}

/// Patterns that are found by what they begin or end with, those of one length together.
type ByLength = Vec<(usize, HashMap<Box<[u8]>, Vec<Entry>>)>;

struct Entry {
    /// What is still to be compared; `None`: nothing.
    glob: Option<Glob>,
    rule: u16,
}

/// Rules by path.
struct Paths {
    without: Bits,
    exact: HashMap<Box<[u8]>, Wanting>,
    prefixes: ByLength,
    suffixes: ByLength,
    /// Those that begin and end with something wild.
    loose: Vec<(Glob, u16)>,
    of_loose: Option<RegexSet>,
    /// Not yet known by which end to find them.
    open: Vec<(Glob, u16)>,
}

impl Paths {
    fn new(rules: usize) -> Paths {
        Paths {
            without: Bits::all(rules),
            exact: HashMap::new(),
            prefixes: Vec::new(),
            suffixes: Vec::new(),
            loose: Vec::new(),
            of_loose: None,
            open: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.open.is_empty()
    }

    fn add(&mut self, number: usize, globs: &[Glob]) {
        self.without.clear(number);
        for glob in globs {
            match glob.is_literal() {
                true => self.exact.entry(glob.as_str().as_bytes().into()).or_default().push(number as u16),
                false => self.open.push((glob.clone(), number as u16)),
            }
        }
    }

    /// Each pattern goes where it has the least company: a thousand that begin alike are told apart by their ends.
    fn finish(mut self) -> Result<Paths, Unusable> {
        let open = std::mem::take(&mut self.open);
        let (mut begins, mut ends) = (HashMap::<&str, usize>::new(), HashMap::<&str, usize>::new());
        for (glob, _) in &open {
            *begins.entry(glob.prefix()).or_default() += 1;
            *ends.entry(glob.suffix()).or_default() += 1;
        }
        let company = |of: &HashMap<&str, usize>, text: &str| {
            // A slash alone begins every path.
            if text.len() < 2 { usize::MAX } else { of.get(text).copied().unwrap_or(usize::MAX) }
        };
        for (glob, rule) in &open {
            let (before, after) = (company(&begins, glob.prefix()), company(&ends, glob.suffix()));
            let rest = if glob.is_prefix() { None } else { Some(glob.clone()) };
            if glob.is_prefix() || before <= after && before < usize::MAX {
                put(&mut self.prefixes, glob.prefix(), Entry { glob: rest, rule: *rule });
            } else if after < usize::MAX {
                put(&mut self.suffixes, glob.suffix(), Entry { glob: rest, rule: *rule });
            } else {
                self.loose.push((glob.clone(), *rule));
            }
        }
        if !self.loose.is_empty() {
            let patterns: Vec<String> = self.loose.iter().map(|(glob, _)| glob.to_regex()).collect();
            self.of_loose = Some(patterns::set(&patterns)?);
        }
        Ok(self)
    }

    fn wanting(&self, path: &str) -> Bits {
        let bytes = path.as_bytes();
        let mut bits = self.without.clone();
        for &rule in self.exact.get(bytes).into_iter().flatten() {
            bits.set(usize::from(rule));
        }
        let mut found = |entries: Option<&Vec<Entry>>| {
            for entry in entries.into_iter().flatten() {
                if entry.glob.as_ref().is_none_or(|glob| glob.matches(path)) {
                    bits.set(usize::from(entry.rule));
                }
            }
        };
        for (length, table) in &self.prefixes {
            found(bytes.get(..*length).and_then(|start| table.get(start)));
        }
        for (length, table) in &self.suffixes {
            let at = bytes.len().checked_sub(*length);
            found(at.and_then(|at| table.get(&bytes[at..])));
        }
        if let Some(loose) = &self.of_loose {
            for pattern in loose.matches(bytes) {
                bits.set(usize::from(self.loose[pattern].1));
            }
        }
        bits
    }
}

fn put(tables: &mut ByLength, text: &str, entry: Entry) {
    let at = tables.iter().position(|(length, _)| *length == text.len()).unwrap_or_else(|| {
        tables.push((text.len(), HashMap::new()));
        tables.len() - 1
    });
    tables[at].1.entry(text.as_bytes().into()).or_default().push(entry);
}
