//! What was purged, and when: consulted at every lookup, journaled before it is acknowledged.
//!
//! A purge does not search the store. It is a record "invalid if its fetch began before tick T"; ticks are
//! one counter shared with fetches, so clocks stepping back can't revive anything, and a fetch begun before a purge
//! carries an older tick than it. An object remembers up to which tick it was checked, so a lookup pays
//! for a purge once. The store's sweep removes what is covered and then lets the records go.
//!
//! It does not know objects, only their ticks, keys and tags. Invariant: a record is forgotten only
//! after everything it covers has been removed from the durable index.
//!
//! Long, because table and journal are one thing: the journal's lines are the table's changes, and neither is
//! understood without the other. A quarter of it is tests.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use http::HeaderMap;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::policy::{CacheKey, Timestamp};

/// Patterns kept per site; past it the older half is widened to the whole site. A lookup after a purge tries
/// each once: 256 globs cost some 10 µs.
pub const PATTERNS_MAX: usize = 256;
/// Tags kept; past it everything stored before is purged. About 100 bytes each.
pub const TAGS_MAX: usize = 65_536;
/// URLs kept; past it everything stored before is purged. About 150 bytes each.
pub const URLS_MAX: usize = 65_536;
/// Sites kept.
pub const SITES_MAX: usize = 4096;
/// Sequence numbers remembered past the first missing one.
pub const AHEAD_MAX: usize = 1024;
/// Tags taken from one response.
pub const TAGS_PER_OBJECT_MAX: usize = 256;
/// The journal is rewritten from the table when it is longer than this.
const JOURNAL_BYTES_MAX: u64 = 16 << 20;

/// What a purge does to what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Never served again.
    Hard,
    /// Stale from now on: revalidated, or served where stale responses may be.
    Soft,
}

/// What a purge covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One key ([`CacheKey::as_str`]): all its variants and ranges.
    Key(String),
    /// All URLs of a site whose `host/path?query` matches; `*` stands for any run of characters.
    Pattern {
        /// The site's name.
        site: String,
        /// `*`-pattern over host, path and query: `*/img/*`.
        pattern: String,
    },
    /// All responses that carry a tag in `Surrogate-Key` or `Cache-Tag`.
    Tag {
        /// Only this site's; `None`: of all sites.
        site: Option<String>,
        /// The tag, compared exactly.
        tag: String,
    },
    /// A whole site.
    Site(String),
    /// Everything.
    All,
}

/// One purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What it covers.
    pub scope: Scope,
    /// What it does.
    pub kind: Kind,
    /// Its number in the fleet's sequence; `None`: a purge of this node only.
    pub sequence: Option<u64>,
}

/// What became of an [`Order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// In force, and durable.
    Now,
    /// Its sequence was applied earlier: nothing done.
    Before,
}

/// Why a purge is not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// In force, but it would be forgotten by a restart: send it again.
    #[error("purge is in force but could not be journaled: {0}")]
    NotDurable(#[source] io::Error),
    /// Too far ahead of the missing sequence.
    #[error("purge {got} refused: {missing} has to come first")]
    TooFarAhead {
        /// Sequence of the order.
        got: u64,
        /// First sequence not seen yet.
        missing: u64,
    },
    /// The key of a [`Scope::Key`] is none.
    #[error("purge of {0:?}: not a cache key")]
    NotAKey(String),
}

/// What the table says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// No purge covers it.
    Valid,
    /// A soft purge does, since then.
    StaleSince(Timestamp),
    /// A hard purge does.
    Gone,
}

/// The object in question.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its key.
    pub key: &'a CacheKey,
    /// Its tags.
    pub tags: &'a [Box<str>],
    /// Tick at which its fetch began.
    pub birth: u64,
}

/// Latest hard and soft purge of one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Marks {
    hard: u64,
    soft: u64,
    soft_at_ms: u64,
}

impl Marks {
    fn set(&mut self, kind: Kind, tick: u64, at: Timestamp) {
        match kind {
            Kind::Hard => self.hard = self.hard.max(tick),
            Kind::Soft if tick > self.soft => (self.soft, self.soft_at_ms) = (tick, at.millis()),
            Kind::Soft => {}
        }
    }

    fn latest(&self) -> u64 {
        self.hard.max(self.soft)
    }
}

#[derive(Debug, Default)]
struct Site {
    whole: Marks,
    patterns: Vec<(Box<str>, Marks)>,
    tags: HashMap<Box<str>, Marks>,
}

#[derive(Debug, Default)]
struct Table {
    all: Marks,
    sites: HashMap<Box<str>, Site>,
    tags: HashMap<Box<str>, Marks>,
    urls: HashMap<Box<str>, Marks>,
    site_tags: usize,
    /// All sequences up to here are applied.
    sequence: u64,
    ahead: BTreeSet<u64>,
}

/// One line of the journal.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Order { order: Order, tick: u64, at_ms: u64 },
    Sequence { applied: u64, ahead: Vec<u64> },
    Tick(u64),
}

/// The purges in force. Shared by all workers.
#[derive(Debug)]
pub struct Purges {
    table: RwLock<Table>,
    /// The last tick given to a fetch or a purge.
    ticks: AtomicU64,
    /// Tick of the newest purge: what was checked at it needs no look at the table.
    latest: AtomicU64,
    /// See [`Purges::seen`]. Raised before the tick of its purge is taken.
    seen: AtomicU64,
    widened: AtomicU64,
    journal: Option<Mutex<Journal>>,
    /// There is a journal that can't be used now, beside things stored that a later start may find again.
    is_cut_off: bool,
}

#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// After a failed append the end of the file is unknown: rewrite before appending.
    torn: bool,
}

impl Purges {
    /// Purges that end with the process: for a store without disk.
    pub fn in_memory() -> Purges {
        Purges {
            table: RwLock::default(),
            ticks: AtomicU64::new(1),
            latest: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            widened: AtomicU64::new(0),
            journal: None,
            is_cut_off: false,
        }
    }

    /// As [`Purges::in_memory`], for a store whose directory can't be used: what lies there may be found again by a later
    /// start, so a purge of this node alone is in force, and not acknowledged. The fleet's are: home sends again what the
    /// journal there does not know.
    pub fn cut_off() -> Purges {
        Purges { is_cut_off: true, ..Purges::in_memory() }
    }

    /// Reads the journal at `path`, or begins one. A torn last line was never acknowledged and is dropped; a line
    /// damaged elsewhere could have said anything, so everything stored before is purged: all up to `newest`, the
    /// largest tick of what is stored.
    ///
    /// # Errors
    /// Those of reading and creating the file.
    pub fn open(path: &Path, newest: u64) -> io::Result<Purges> {
        let mut purges = Purges::in_memory();
        purges.raise_ticks(newest);
        let mut text = Vec::new();
        match File::open(path) {
            Ok(mut file) => drop(file.read_to_end(&mut text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // What is stored has had a journal beside it from its first day.
        let is_missing = text.is_empty() && newest > 0;
        let damaged = purges.replay(&text) || is_missing;
        let table = purges.table.get_mut();
        let newest_seen = table.ahead.last().copied().unwrap_or(0).max(table.sequence);
        *purges.seen.get_mut() = newest_seen;
        if damaged {
            tracing::warn!(path = %path.display(), "purge journal is damaged: purging everything stored before");
            let tick = purges.next_tick();
            purges.mark(&Scope::All, Kind::Hard, tick, Timestamp::default());
        }
        // Rewritten whole: drops a torn line, and proves that the directory can be written.
        let lines = render(&purges.table.read(), purges.tick());
        let (file, bytes) = rewrite(path, &lines)?;
        purges.journal = Some(Mutex::new(Journal { path: path.to_owned(), file, bytes, torn: false }));
        Ok(purges)
    }

    fn replay(&mut self, text: &[u8]) -> bool {
        let complete = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let mut damaged = false;
        for line in text[..complete].split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            match parse_line(line) {
                Some(Line::Order { order, tick, at_ms }) => {
                    self.raise_ticks(tick);
                    self.mark(&order.scope, order.kind, tick, Timestamp::from_millis(at_ms));
                    self.table.get_mut().note_sequence(order.sequence);
                }
                Some(Line::Sequence { applied, ahead }) => {
                    let table = self.table.get_mut();
                    table.sequence = table.sequence.max(applied);
                    table.ahead.extend(ahead);
                    table.close_gaps();
                }
                Some(Line::Tick(tick)) => self.raise_ticks(tick),
                None => damaged = true,
            }
        }
        damaged
    }

    /// A tick for a fetch that begins now.
    pub fn next_tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The last tick given.
    pub fn tick(&self) -> u64 {
        self.ticks.load(Ordering::Acquire)
    }

    /// Makes sure that later ticks are past `tick`, which an earlier process gave.
    pub fn raise_ticks(&self, tick: u64) {
        self.ticks.fetch_max(tick, Ordering::AcqRel);
    }

    /// Tick of the newest purge. An object checked at it is valid still.
    pub fn latest(&self) -> u64 {
        self.latest.load(Ordering::Acquire)
    }

    /// Records widened so far because there were too many.
    pub fn widened(&self) -> u64 {
        self.widened.load(Ordering::Relaxed)
    }

    /// The last sequence up to which all purges of the fleet are applied.
    pub fn sequence(&self) -> u64 {
        self.table.read().sequence
    }

    /// The newest of the fleet's purges that may be in force, journaled or not, whatever is missing before it. A fetch
    /// that took its tick first and then reads this is covered by every purge past it, so content must come from
    /// where all up to here are applied. [`Purges::sequence`] is too low for that while a purge is on its way to the disk.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// Applies a purge and makes it durable. It is in force before this returns, whatever it returns but
    /// [`PurgeError::TooFarAhead`] and [`PurgeError::NotAKey`]. Waits for the disk: call it where that is allowed.
    ///
    /// # Errors
    /// [`PurgeError`].
    pub fn apply(&self, order: &Order, now: Timestamp) -> Result<Applied, PurgeError> {
        self.apply_all(std::slice::from_ref(order), now)
    }

    /// [`Purges::apply`] for many, with one wait for the disk. Tells what became of the last one. The first that is refused
    /// ends it: what came before is in force, and durable unless the disk says otherwise.
    ///
    /// # Errors
    /// [`PurgeError`].
    pub fn apply_all(&self, orders: &[Order], now: Timestamp) -> Result<Applied, PurgeError> {
        let applied = self.put_in_force(orders, now)?;
        if self.is_cut_off && orders.iter().any(|order| order.sequence.is_none()) {
            return Err(PurgeError::NotDurable(io::Error::other("the cache directory is not in use")));
        }
        Ok(applied)
    }

    fn put_in_force(&self, orders: &[Order], now: Timestamp) -> Result<Applied, PurgeError> {
        // Held over marking and appending: the journal's order is the order of ticks.
        let mut journal = self.journal.as_ref().map(Mutex::lock);
        let mut lines = Vec::with_capacity(orders.len());
        // Numbers that are marked and noted once they are durable.
        let mut marked: BTreeSet<u64> = BTreeSet::new();
        let mut next = self.sequence() + 1;
        let mut outcome = Ok(Applied::Before);
        for order in orders {
            match self.is_new(order, &marked, next) {
                Ok(true) => {}
                Ok(false) => {
                    outcome = Ok(Applied::Before);
                    continue;
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
            marked.extend(order.sequence);
            next += u64::from(order.sequence == Some(next));
            let tick = self.next_tick();
            self.mark(&order.scope, order.kind, tick, now);
            lines.push(Line::Order { order: order.clone(), tick, at_ms: now.millis() });
            outcome = Ok(Applied::Now);
        }
        if let Some(journal) = &mut journal
            && !lines.is_empty()
        {
            self.append(journal, &lines).map_err(PurgeError::NotDurable)?;
        }
        let mut table = self.table.write();
        marked.into_iter().for_each(|sequence| table.note_sequence(Some(sequence)));
        outcome
    }

    /// Whether an order is to be applied; `marked` are numbers that are applied and not noted yet, `next` the one that leaves
    /// no gap behind them. Raises [`Purges::seen`].
    fn is_new(&self, order: &Order, marked: &BTreeSet<u64>, next: u64) -> Result<bool, PurgeError> {
        if let Scope::Key(key) = &order.scope {
            CacheKey::parse(key).ok_or_else(|| PurgeError::NotAKey(key.clone()))?;
        }
        let Some(sequence) = order.sequence else { return Ok(true) };
        let table = self.table.read();
        if sequence <= table.sequence || table.ahead.contains(&sequence) || marked.contains(&sequence) {
            return Ok(false);
        }
        if sequence != next && table.ahead.len() + marked.range(next..).count() >= AHEAD_MAX {
            return Err(PurgeError::TooFarAhead { got: sequence, missing: table.sequence + 1 });
        }
        self.seen.fetch_max(sequence, Ordering::AcqRel);
        Ok(true)
    }

    /// Purges softly all that was stored before, and takes `sequence` as applied: for a node that was away longer than
    /// the fleet's purge journal reaches.
    ///
    /// # Errors
    /// [`PurgeError::NotDurable`].
    pub fn catch_up(&self, sequence: u64, now: Timestamp) -> Result<(), PurgeError> {
        self.seen.fetch_max(sequence, Ordering::AcqRel);
        self.put_in_force(&[Order { scope: Scope::All, kind: Kind::Soft, sequence: None }], now)?;
        self.skip_to(sequence)
    }

    /// Takes `sequence` as applied: nothing that is stored can be covered by what came up to it.
    ///
    /// # Errors
    /// [`PurgeError::NotDurable`].
    pub fn skip_to(&self, sequence: u64) -> Result<(), PurgeError> {
        if sequence <= self.sequence() {
            return Ok(());
        }
        self.seen.fetch_max(sequence, Ordering::AcqRel);
        let mut journal = self.journal.as_ref().map(Mutex::lock);
        let line = Line::Sequence { applied: sequence, ahead: Vec::new() };
        if let Some(journal) = &mut journal {
            self.append(journal, &[line]).map_err(PurgeError::NotDurable)?;
        }
        let mut table = self.table.write();
        table.sequence = table.sequence.max(sequence);
        table.close_gaps();
        Ok(())
    }

    /// Marks one key as purged without journaling it: an unsafe request made it untrue.
    pub fn invalidate(&self, key: &CacheKey, now: Timestamp) {
        let tick = self.next_tick();
        self.mark(&Scope::Key(key.as_str().to_owned()), Kind::Hard, tick, now);
    }

    fn append(&self, journal: &mut Journal, lines: &[Line]) -> io::Result<()> {
        if journal.torn || journal.bytes > JOURNAL_BYTES_MAX {
            let lines = render(&self.table.read(), self.tick());
            (journal.file, journal.bytes) = rewrite(&journal.path, &lines)?;
            journal.torn = false;
        }
        let text: String = lines.iter().map(line_text).collect();
        let written = journal.file.write_all(text.as_bytes()).and_then(|()| journal.file.sync_data());
        journal.torn = written.is_err();
        journal.bytes += text.len() as u64;
        written
    }

    fn mark(&self, scope: &Scope, kind: Kind, tick: u64, at: Timestamp) {
        let mut table = self.table.write();
        if table.mark(scope, kind, tick, at) == Widened::Yes {
            self.widened.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(?scope, "too many purge records: a wider scope is purged instead");
        }
        self.latest.fetch_max(tick, Ordering::AcqRel);
    }

    /// What the purges in force mean for an object. A read lock and a few map lookups; callers remember
    /// [`Purges::latest`] from before the call and skip it while that stands.
    pub fn check(&self, subject: &Subject<'_>) -> Validity {
        let table = self.table.read();
        let (mut hard, mut soft, mut soft_at) = (0, 0, 0);
        let mut see = |marks: &Marks| {
            hard = hard.max(marks.hard);
            if marks.soft > soft {
                (soft, soft_at) = (marks.soft, marks.soft_at_ms);
            }
        };
        see(&table.all);
        table.urls.get(subject.key.source()).into_iter().for_each(&mut see);
        for tag in subject.tags {
            table.tags.get(tag).into_iter().for_each(&mut see);
        }
        if let Some(site) = table.sites.get(subject.key.site()) {
            see(&site.whole);
            for tag in subject.tags {
                site.tags.get(tag).into_iter().for_each(&mut see);
            }
            let newer = site.patterns.iter().filter(|(_, marks)| marks.latest() > subject.birth);
            for (pattern, marks) in newer {
                if matches(pattern, subject.key.host(), subject.key.path_and_query()) {
                    see(marks);
                }
            }
        }
        match subject.birth {
            birth if hard > birth => Validity::Gone,
            birth if soft > birth => Validity::StaleSince(Timestamp::from_millis(soft_at)),
            _ => Validity::Valid,
        }
    }

    /// Forgets the records up to `tick`, and shortens the journal. The caller vouches that nothing they cover
    /// is left, neither in memory nor in the durable index, and that no fetch from before them is under way.
    ///
    /// # Errors
    /// Those of rewriting the journal; the old one stays.
    pub fn forget(&self, tick: u64) -> io::Result<()> {
        let mut journal = self.journal.as_ref().map(Mutex::lock);
        let mut table = self.table.write();
        let lives = |marks: &Marks| marks.latest() > tick;
        if !lives(&table.all) {
            table.all = Marks::default();
        }
        table.tags.retain(|_, marks| lives(marks));
        table.urls.retain(|_, marks| lives(marks));
        table.sites.retain(|_, site| {
            site.tags.retain(|_, marks| lives(marks));
            site.patterns.retain(|(_, marks)| lives(marks));
            lives(&site.whole) || !site.tags.is_empty() || !site.patterns.is_empty()
        });
        table.site_tags = table.sites.values().map(|site| site.tags.len()).sum();
        if let Some(journal) = &mut journal {
            let lines = render(&table, self.tick());
            drop(table);
            (journal.file, journal.bytes) = rewrite(&journal.path, &lines)?;
            journal.torn = false;
        }
        Ok(())
    }

    /// Number of records that a sweep would let go.
    pub fn records(&self) -> usize {
        let table = self.table.read();
        let patterns: usize = table.sites.values().map(|site| 1 + site.patterns.len()).sum();
        table.urls.len() + table.tags.len() + table.site_tags + patterns
    }
}

/// Whether a record had to be replaced by a wider one.
#[derive(PartialEq, Eq)]
enum Widened {
    Yes,
    No,
}

impl Table {
    fn mark(&mut self, scope: &Scope, kind: Kind, tick: u64, at: Timestamp) -> Widened {
        let site_full =
            |table: &Table, site: &str| table.sites.len() >= SITES_MAX && !table.sites.contains_key(site);
        let full = match scope {
            Scope::All => false,
            Scope::Key(key) => self.urls.len() >= URLS_MAX && !self.urls.contains_key(key.as_str()),
            Scope::Tag { site: None, .. } => self.tags.len() >= TAGS_MAX,
            Scope::Tag { site: Some(site), .. } => self.site_tags >= TAGS_MAX || site_full(self, site),
            Scope::Pattern { site, .. } | Scope::Site(site) => site_full(self, site),
        };
        if full {
            // All that the forgotten records covered is covered by this one.
            let kept = (self.sequence, std::mem::take(&mut self.ahead), self.all);
            *self = Table { sequence: kept.0, ahead: kept.1, all: kept.2, ..Table::default() };
            self.all.set(Kind::Hard, tick, at);
            return Widened::Yes;
        }
        match scope {
            Scope::All => self.all.set(kind, tick, at),
            Scope::Key(key) => self.urls.entry(key.as_str().into()).or_default().set(kind, tick, at),
            Scope::Tag { site: None, tag } => {
                self.tags.entry(tag.as_str().into()).or_default().set(kind, tick, at);
            }
            Scope::Tag { site: Some(site), tag } => {
                let site = self.sites.entry(site.as_str().into()).or_default();
                let before = site.tags.len();
                site.tags.entry(tag.as_str().into()).or_default().set(kind, tick, at);
                self.site_tags += site.tags.len() - before;
            }
            Scope::Site(site) => {
                self.sites.entry(site.as_str().into()).or_default().whole.set(kind, tick, at)
            }
            Scope::Pattern { site, pattern } => {
                return self
                    .sites
                    .entry(site.as_str().into())
                    .or_default()
                    .mark_pattern(pattern, kind, tick, at);
            }
        }
        Widened::No
    }

    fn note_sequence(&mut self, sequence: Option<u64>) {
        if let Some(sequence) = sequence {
            self.ahead.insert(sequence);
            self.close_gaps();
        }
    }

    fn close_gaps(&mut self) {
        while let Some(&first) = self.ahead.first() {
            if first > self.sequence + 1 {
                break;
            }
            self.sequence = self.sequence.max(first);
            self.ahead.pop_first();
        }
    }
}

impl Site {
    fn mark_pattern(&mut self, pattern: &str, kind: Kind, tick: u64, at: Timestamp) -> Widened {
        if let Some((_, marks)) = self.patterns.iter_mut().find(|(known, _)| **known == *pattern) {
            marks.set(kind, tick, at);
            return Widened::No;
        }
        let mut widened = Widened::No;
        if self.patterns.len() >= PATTERNS_MAX {
            for (_, old) in self.patterns.drain(..PATTERNS_MAX / 2) {
                self.whole.hard = self.whole.hard.max(old.hard);
                if old.soft > self.whole.soft {
                    (self.whole.soft, self.whole.soft_at_ms) = (old.soft, old.soft_at_ms);
                }
            }
            widened = Widened::Yes;
        }
        let mut marks = Marks::default();
        marks.set(kind, tick, at);
        self.patterns.push((pattern.into(), marks));
        widened
    }
}

/// Whether `host` followed by `path` matches `pattern`, in which `*` stands for any run of characters.
/// Linear backtracking to the last star only: no pattern is slow.
fn matches(pattern: &str, host: &str, path: &str) -> bool {
    let text: Vec<u8> = [host.as_bytes(), path.as_bytes()].concat();
    let pattern = pattern.as_bytes();
    let (mut at, mut in_pattern) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(in_pattern) {
            Some(b'*') => {
                star = Some((in_pattern, at));
                in_pattern += 1;
            }
            Some(&byte) if byte == text[at] => {
                at += 1;
                in_pattern += 1;
            }
            _ => match star {
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    in_pattern = star_at + 1;
                    at = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[in_pattern..].iter().all(|&byte| byte == b'*')
}

/// The tags of a response: `Surrogate-Key` (space-separated) and `Cache-Tag` (comma-separated).
/// At most [`TAGS_PER_OBJECT_MAX`], each at most 256 bytes; the rest is ignored.
pub fn tags(headers: &HeaderMap) -> Box<[Box<str>]> {
    let mut tags: Vec<Box<str>> = Vec::new();
    for (name, separator) in [("surrogate-key", ' '), ("cache-tag", ',')] {
        for value in headers.get_all(name) {
            let value = value.to_str().unwrap_or("");
            let found =
                value.split(separator).map(str::trim).filter(|tag| !tag.is_empty() && tag.len() <= 256);
            tags.extend(found.take(TAGS_PER_OBJECT_MAX.saturating_sub(tags.len())).map(Into::into));
        }
    }
    tags.into_boxed_slice()
}

/// The table as journal lines: what a reader of them would end up with.
fn render(table: &Table, tick: u64) -> Vec<Line> {
    let mut lines = vec![
        Line::Tick(tick),
        Line::Sequence { applied: table.sequence, ahead: table.ahead.iter().copied().collect() },
    ];
    let mut say = |scope: Scope, marks: &Marks| {
        for (kind, tick, at_ms) in [(Kind::Hard, marks.hard, 0), (Kind::Soft, marks.soft, marks.soft_at_ms)] {
            if tick > 0 {
                let order = Order { scope: scope.clone(), kind, sequence: None };
                lines.push(Line::Order { order, tick, at_ms });
            }
        }
    };
    say(Scope::All, &table.all);
    for (tag, marks) in &table.tags {
        say(Scope::Tag { site: None, tag: tag.to_string() }, marks);
    }
    for (key, marks) in &table.urls {
        say(Scope::Key(key.to_string()), marks);
    }
    for (name, site) in &table.sites {
        let name = name.to_string();
        say(Scope::Site(name.clone()), &site.whole);
        for (tag, marks) in &site.tags {
            say(Scope::Tag { site: Some(name.clone()), tag: tag.to_string() }, marks);
        }
        for (pattern, marks) in &site.patterns {
            say(Scope::Pattern { site: name.clone(), pattern: pattern.to_string() }, marks);
        }
    }
    lines
}

/// `crc32 SP json LF`: greppable, and a torn or damaged line is told from a whole one.
fn line_text(line: &Line) -> String {
    // Serialising plain enums of strings and numbers into a string can't fail.
    let json = serde_json::to_string(line).unwrap_or_default();
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
}

fn parse_line(line: &[u8]) -> Option<Line> {
    let (checksum, json) = line.split_at_checked(9)?;
    let checksum = std::str::from_utf8(checksum.strip_suffix(b" ")?).ok()?;
    let checksum = u32::from_str_radix(checksum, 16).ok()?;
    if crc32fast::hash(json) != checksum {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// Replaces the journal as a whole: written aside, synced, renamed, directory synced.
fn rewrite(path: &Path, lines: &[Line]) -> io::Result<(File, u64)> {
    let aside = path.with_extension("new");
    let text: String = lines.iter().map(line_text).collect();
    let mut file = File::create(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(&aside, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok((OpenOptions::new().append(true).open(path)?, text.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Target;

    const NOW: Timestamp = Timestamp::from_secs(1000);

    fn key(site: &str, path: &str) -> CacheKey {
        let target = Target::new("h.test", path, None, &nearside_fleet::config::QueryKey::Keep);
        CacheKey::new(site, None, &target)
    }

    fn order(scope: Scope, kind: Kind) -> Order {
        Order { scope, kind, sequence: None }
    }

    fn check(purges: &Purges, site: &str, path: &str, tag: &str, birth: u64) -> Validity {
        purges.check(&Subject { key: &key(site, path), tags: &[tag.into()], birth })
    }

    #[test]
    fn each_scope_covers_what_it_says_and_only_what_began_before() {
        let pattern = |pattern: &str| Scope::Pattern { site: "s".into(), pattern: pattern.into() };
        let tag = |site: Option<&str>| Scope::Tag { site: site.map(Into::into), tag: "t".into() };
        for (scope, site, path, object_tag, covered) in [
            (Scope::Key(key("s", "/a").as_str().into()), "s", "/a", "", true),
            (Scope::Key(key("s", "/a").as_str().into()), "s", "/b", "", false),
            (pattern("h.test/img/*"), "s", "/img/x.png", "", true),
            (pattern("*.png"), "s", "/img/x.png", "", true),
            (pattern("*.png"), "s", "/img/x.jpg", "", false),
            (pattern("*/img/*/big*"), "s", "/img/1/2/big.gif", "", true),
            (pattern("h.test/img/*"), "other", "/img/x.png", "", false),
            (tag(None), "s", "/a", "t", true),
            (tag(Some("s")), "s", "/a", "t", true),
            (tag(Some("other")), "s", "/a", "t", false),
            (tag(None), "s", "/a", "T", false),
            (Scope::Site("s".into()), "s", "/a", "", true),
            (Scope::Site("s".into()), "other", "/a", "", false),
            (Scope::All, "s", "/a", "", true),
        ] {
            let purges = Purges::in_memory();
            let before = purges.next_tick();
            purges.apply(&order(scope.clone(), Kind::Hard), NOW).unwrap();
            let after = purges.next_tick();
            let expected = if covered { Validity::Gone } else { Validity::Valid };
            assert_eq!(check(&purges, site, path, object_tag, before), expected, "{scope:?}");
            assert_eq!(check(&purges, site, path, object_tag, after), Validity::Valid, "{scope:?}");
        }
    }

    #[test]
    fn soft_is_stale_since_then_and_hard_wins() {
        let purges = Purges::in_memory();
        let birth = purges.next_tick();
        purges.apply(&order(Scope::Site("s".into()), Kind::Soft), NOW).unwrap();
        assert_eq!(check(&purges, "s", "/", "", birth), Validity::StaleSince(NOW));
        purges.apply(&order(Scope::All, Kind::Hard), NOW).unwrap();
        assert_eq!(check(&purges, "s", "/", "", birth), Validity::Gone);
    }

    #[test]
    fn an_acknowledged_purge_survives_a_torn_tail() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("purges");
        let purges = Purges::open(&path, 0).unwrap();
        let birth = purges.next_tick();
        let tag = Scope::Tag { site: None, tag: "t".into() };
        purges.apply(&Order { scope: tag, kind: Kind::Hard, sequence: Some(1) }, NOW).unwrap();
        drop(purges);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"0000abcd {\"Order\":{\"or").unwrap();
        let purges = Purges::open(&path, 0).unwrap();
        assert_eq!(check(&purges, "s", "/", "t", birth), Validity::Gone);
        assert_eq!(check(&purges, "s", "/", "u", birth), Validity::Valid);
        assert_eq!(purges.sequence(), 1);
        assert!(purges.next_tick() > birth + 1);
    }

    #[test]
    fn a_damaged_line_purges_everything_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("purges");
        let purges = Purges::open(&path, 0).unwrap();
        let birth = purges.next_tick();
        purges.apply(&order(Scope::Site("s".into()), Kind::Hard), NOW).unwrap();
        drop(purges);
        let text = fs::read_to_string(&path).unwrap().replace("\"s\"", "\"z\"");
        fs::write(&path, text).unwrap();
        assert_eq!(check(&Purges::open(&path, birth).unwrap(), "q", "/", "", birth), Validity::Gone);
    }

    #[test]
    fn sequences_apply_once_in_any_order() {
        let purges = Purges::in_memory();
        let order = |sequence| Order { scope: Scope::All, kind: Kind::Hard, sequence: Some(sequence) };
        for (sequence, applied, reached) in [
            (1, Applied::Now, 1),
            (3, Applied::Now, 1),
            (3, Applied::Before, 1),
            (2, Applied::Now, 3),
            (1, Applied::Before, 3),
        ] {
            assert_eq!(purges.apply(&order(sequence), NOW).unwrap(), applied);
            assert_eq!(purges.sequence(), reached);
        }
        purges.catch_up(900, NOW).unwrap();
        assert_eq!(purges.apply(&order(900), NOW).unwrap(), Applied::Before);
        assert_eq!(purges.apply(&order(901), NOW).unwrap(), Applied::Now);
    }

    #[test]
    fn many_at_once_are_each_applied_once_and_durable_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("purges");
        let purges = Purges::open(&path, 0).unwrap();
        let birth = purges.next_tick();
        let order = |sequence| {
            let scope = Scope::Key(key("s", &format!("/{sequence}")).as_str().into());
            Order { scope, kind: Kind::Hard, sequence: Some(sequence) }
        };
        // A page as home sends it is longer than what may be ahead of a gap.
        let page: Vec<Order> = (1..=2_000).map(order).collect();
        purges.apply_all(&page[..1_000], NOW).unwrap();
        assert_eq!(purges.sequence(), 1_000);
        // Sent again with what came meanwhile, and one twice.
        let again: Vec<Order> = page[500..].iter().chain(&page[1_999..]).cloned().collect();
        assert_eq!(purges.apply_all(&again, NOW).unwrap(), Applied::Before, "the last one came twice");
        assert_eq!((purges.sequence(), purges.seen(), purges.records()), (2_000, 2_000, 2_000));
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert_eq!(lines, 2 + 2_000, "one line each, after the two of a new journal");
        drop(purges);
        let purges = Purges::open(&path, 0).unwrap();
        assert_eq!(purges.sequence(), 2_000);
        assert_eq!(check(&purges, "s", "/1999", "", birth), Validity::Gone);
        // What is refused ends it; what came before stands.
        let far = [
            order(2_001),
            order(4_000),
            Order { scope: Scope::Key("?".into()), ..order(4_001) },
            order(4_002),
        ];
        assert!(matches!(purges.apply_all(&far, NOW), Err(PurgeError::NotAKey(_))));
        assert_eq!((purges.sequence(), purges.seen()), (2_001, 4_000));
    }

    #[test]
    fn too_many_patterns_widen_and_never_unpurge() {
        let purges = Purges::in_memory();
        let birth = purges.next_tick();
        for n in 0..PATTERNS_MAX * 3 {
            let scope = Scope::Pattern { site: "s".into(), pattern: format!("h.test/{n}/*") };
            purges.apply(&order(scope, Kind::Hard), NOW).unwrap();
        }
        assert!(purges.widened() > 0 && purges.records() <= PATTERNS_MAX + 1);
        assert_eq!(check(&purges, "s", "/0/x", "", birth), Validity::Gone);
        assert_eq!(check(&purges, "other", "/0/x", "", birth), Validity::Valid);
    }

    #[test]
    fn forgetting_empties_the_journal_but_keeps_ticks_and_sequence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("purges");
        let purges = Purges::open(&path, 0).unwrap();
        purges.apply(&Order { scope: Scope::All, kind: Kind::Hard, sequence: Some(1) }, NOW).unwrap();
        let tick = purges.tick();
        purges.forget(tick).unwrap();
        assert_eq!(check(&purges, "s", "/", "", 1), Validity::Valid);
        drop(purges);
        let purges = Purges::open(&path, 0).unwrap();
        assert_eq!((purges.sequence(), purges.records()), (1, 0));
        assert!(purges.next_tick() > tick);
    }

    #[test]
    fn without_its_directory_only_the_fleets_purges_are_acknowledged() {
        let purges = Purges::cut_off();
        let local = purges.apply(&order(Scope::All, Kind::Hard), NOW);
        assert!(matches!(local, Err(PurgeError::NotDurable(_))), "{local:?}");
        assert_eq!(check(&purges, "s", "/", "", 1), Validity::Gone, "in force");
        let of_fleet = Order { scope: Scope::All, kind: Kind::Hard, sequence: Some(1) };
        assert!(matches!(purges.apply(&of_fleet, NOW), Ok(Applied::Now)));
        assert_eq!(purges.sequence(), 1);
    }

    #[test]
    fn tags_come_from_both_fields() {
        let mut headers = HeaderMap::new();
        headers.append("surrogate-key", "a b  c".parse().unwrap());
        headers.append("cache-tag", "d, e f,".parse().unwrap());
        assert_eq!(tags(&headers).iter().map(|tag| &**tag).collect::<Vec<_>>(), ["a", "b", "c", "d", "e f"]);
    }
}
