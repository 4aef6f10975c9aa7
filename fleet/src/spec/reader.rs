//! Reads values out of a spanned TOML table, and collects what is wrong with them.
//!
//! A [`Section`] hands out typed values by key. A value that does not fit is a [`Mistake`] at its place and
//! reads as "absent", so that one mistake does not hide the next: all of them are told in one go. Keys that
//! are not in the section's table of keys ([`super::keys`]) are mistakes too.

use std::{
    cell::RefCell,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{
    files::{Files, NamedFile, Role},
    mistake::Mistake,
    units,
};

/// A value with its place.
pub(crate) type Value<'d> = &'d Spanned<DeValue<'d>>;

/// The text being read and the mistakes found in it so far.
pub(crate) struct Document<'d> {
    pub file: &'d Path,
    pub text: &'d str,
    /// Where the files it names really are.
    pub paths: &'d Files,
    mistakes: RefCell<Vec<Mistake>>,
    warnings: RefCell<Vec<Mistake>>,
    files: RefCell<Vec<NamedFile>>,
}

impl<'d> Document<'d> {
    pub fn new(file: &'d Path, text: &'d str, paths: &'d Files) -> Self {
        Self {
            file,
            text,
            paths,
            mistakes: RefCell::default(),
            warnings: RefCell::default(),
            files: RefCell::default(),
        }
    }

    /// Records a mistake at `span`.
    pub fn mistake(&self, span: Range<usize>, message: impl std::fmt::Display) {
        self.push(Mistake::at(self.file, self.text, span.start, message));
    }

    /// Records a mistake that was made elsewhere.
    pub fn push(&self, mistake: Mistake) {
        self.mistakes.borrow_mut().push(mistake);
    }

    /// Records something that works but is probably not meant.
    pub fn warn(&self, span: Range<usize>, message: impl std::fmt::Display) {
        self.warnings.borrow_mut().push(Mistake::at(self.file, self.text, span.start, message));
    }

    /// Mistakes by place, warnings by place, files named.
    pub fn finish(self) -> (Vec<Mistake>, Vec<Mistake>, Vec<NamedFile>) {
        let sorted = |cell: RefCell<Vec<Mistake>>| {
            let mut list = cell.into_inner();
            list.sort_by_key(|mistake| (mistake.line, mistake.column));
            list.dedup();
            list
        };
        (sorted(self.mistakes), sorted(self.warnings), self.files.into_inner())
    }

    /// The text that a value was written as, shortened.
    pub fn written(&self, value: Value<'_>) -> String {
        let text = self.text.get(value.span()).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        match line.char_indices().nth(WRITTEN_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None if line.len() < text.len() => format!("{line} …"),
            None => line.to_owned(),
        }
    }

    /// A named reference: `name` must be one of `valid`.
    pub fn reference<'n>(
        &self,
        value: Value<'_>,
        place: &str,
        kind: &str,
        valid: impl IntoIterator<Item = &'n str> + Clone,
    ) -> Option<String> {
        let Some(name) = value.get_ref().as_str() else {
            self.expected(value, place, &format!("the name of a {kind}"));
            return None;
        };
        if valid.clone().into_iter().any(|known| known == name) {
            return Some(name.to_owned());
        }
        let message = format!("{place}: there is no {kind} `{name}`");
        let mut mistake = Mistake::at(self.file, self.text, value.span().start, message);
        mistake = mistake.suggest(name, valid.clone());
        if mistake.nearest.is_none() {
            let known: Vec<&str> = valid.into_iter().collect();
            mistake.message += &match known.as_slice() {
                [] => format!("; no {kind} is defined"),
                known => format!("; defined are: {}", known.join(", ")),
            };
        }
        self.push(mistake);
        None
    }

    /// Records that `value` is not what `place` wants.
    pub fn expected(&self, value: Value<'_>, place: &str, expected: &str) {
        self.mistake(value.span(), format!("{place}: read {}, expected {expected}", self.written(value)));
    }
}

/// How much of a wrong value a message repeats.
const WRITTEN_CHARS_MAX: usize = 60;

/// One table of the document.
pub(crate) struct Section<'d> {
    pub doc: &'d Document<'d>,
    /// As in `[site.www]`, without the brackets; empty for the top level.
    pub place: String,
    table: &'d DeTable<'d>,
    span: Range<usize>,
}

impl<'d> Section<'d> {
    /// Opens `table`, and tells of keys that are not among `known`.
    pub fn open(
        doc: &'d Document<'d>,
        place: impl Into<String>,
        table: &'d DeTable<'d>,
        span: Range<usize>,
        known: &'static [&'static str],
    ) -> Self {
        let place = place.into();
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let within = if place.is_empty() { String::new() } else { format!(" in [{place}]") };
                let mut mistake = Mistake::at(
                    doc.file,
                    doc.text,
                    key.span().start,
                    format!("unknown key `{name}`{within}"),
                )
                .suggest(name, known.iter().copied());
                if mistake.nearest.is_none() {
                    mistake.message += &format!("; valid are: {}", known.join(", "));
                }
                doc.push(mistake);
            }
        }
        Self { doc, place, table, span }
    }

    /// `[place] key`, as messages call it.
    pub fn name(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("[{}] {key}", self.place) }
    }

    /// The raw value of `key`.
    pub fn value(&self, key: &str) -> Option<Value<'d>> {
        self.table.get(key)
    }

    /// The raw value of `key`, whose absence is a mistake.
    pub fn required(&self, key: &str, expected: &str) -> Option<Value<'d>> {
        let value = self.value(key);
        if value.is_none() {
            let message = format!("{} is missing, expected {expected}", self.name(key));
            self.doc.mistake(self.span.clone(), message);
        }
        value
    }

    /// Reads `key` with `read`, which answers `None` for a value that is not as `expected`.
    pub fn read<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'d DeValue<'d>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let found = read(value.get_ref());
        if found.is_none() {
            self.doc.expected(value, &self.name(key), expected);
        }
        found
    }

    /// A string.
    pub fn string(&self, key: &str) -> Option<String> {
        self.read(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// A duration within bounds.
    pub fn duration(&self, key: &str, default: Duration, low: Duration, high: Duration) -> Duration {
        let expected = format!(
            "a duration from {} to {}, like \"{}\"",
            units::write_duration(low),
            units::write_duration(high),
            units::write_duration(default.clamp(low, high)),
        );
        self.read(key, &expected, |value| {
            units::duration(value.as_str()?).filter(|duration| (low..=high).contains(duration))
        })
        .unwrap_or(default)
    }

    /// A size in bytes, a string with a unit or a bare number.
    pub fn bytes(&self, key: &str, default: u64) -> u64 {
        self.read(key, "a size like \"512MiB\" or \"10GB\"", |value| match value {
            DeValue::String(text) => units::bytes(text),
            DeValue::Integer(_) => integer(value).and_then(|number| u64::try_from(number).ok()),
            _ => None,
        })
        .unwrap_or(default)
    }

    /// A whole number within bounds.
    pub fn integer(&self, key: &str, low: i64, high: i64) -> Option<i64> {
        self.read(key, &format!("a whole number from {low} to {high}"), |value| {
            integer(value).filter(|number| (low..=high).contains(number))
        })
    }

    /// A number within bounds.
    pub fn number(&self, key: &str, low: f64, high: f64) -> Option<f64> {
        self.read(key, &format!("a number from {low} to {high}"), |value| {
            number(value).filter(|number| (low..=high).contains(number))
        })
    }

    /// A list whose members are each read by `read`; a single value stands for a list of one.
    pub fn list<T>(
        &self,
        key: &str,
        expected: &str,
        mut read: impl FnMut(Value<'d>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let mut found = Vec::new();
        for member in members(value) {
            match read(member) {
                Some(item) => found.push(item),
                None => self.doc.expected(member, &self.name(key), expected),
            }
        }
        Some(found)
    }

    /// A list of what parses from strings.
    pub fn parsed<T: std::str::FromStr>(&self, key: &str, expected: &str) -> Vec<T> {
        self.list(key, expected, |value| value.get_ref().as_str()?.parse().ok()).unwrap_or_default()
    }

    /// One thing that parses from a string.
    pub fn parse<T: std::str::FromStr>(&self, key: &str, expected: &str) -> Option<T> {
        self.read(key, expected, |value| value.as_str()?.parse().ok())
    }

    /// One of a few words.
    pub fn word<T: Clone>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let value = self.value(key)?;
        let read = value.get_ref().as_str().unwrap_or_default();
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == read) {
            return Some(meaning.clone());
        }
        let valid: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let message = format!(
            "{}: read {}, expected one of {}",
            self.name(key),
            self.doc.written(value),
            valid.join(", ")
        );
        let mistake = Mistake::at(self.doc.file, self.doc.text, value.span().start, message);
        self.doc.push(mistake.suggest(read, words.iter().map(|(word, _)| *word)));
        None
    }

    /// The real path of a file; it is noted as one that the fleet file names.
    pub fn path(&self, key: &str, role: Role) -> Option<PathBuf> {
        let value = self.value(key)?;
        self.path_of(value, key, role)
    }

    /// As [`Section::path`], of a value at hand.
    pub fn path_of(&self, value: Value<'d>, key: &str, role: Role) -> Option<PathBuf> {
        let Some(written) = value.get_ref().as_str().filter(|text| !text.is_empty() && !text.contains('\0'))
        else {
            self.doc.expected(value, &self.name(key), "the path of a file");
            return None;
        };
        let path = self.doc.paths.real(written);
        let place = Mistake::at(self.doc.file, self.doc.text, value.span().start, "");
        self.doc.files.borrow_mut().push(NamedFile {
            written: written.to_owned(),
            path: path.clone(),
            role,
            line: place.line,
            column: place.column,
        });
        Some(path)
    }

    /// A directory that the node itself writes to: on its own file system, wherever the fleet file came from.
    pub fn directory(&self, key: &str) -> Option<PathBuf> {
        self.read(key, "an absolute path, like \"/var/cache/nearside\"", |value| {
            let path = PathBuf::from(value.as_str()?);
            path.is_absolute().then_some(path)
        })
    }

    /// A subsection, if the key is there; `known` are its keys.
    pub fn section(&self, key: &str, known: &'static [&'static str]) -> Option<Section<'d>> {
        let value = self.value(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.doc.expected(value, &self.name(key), "a table");
            return None;
        };
        let place = if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) };
        Some(Section::open(self.doc, place, table, value.span(), known))
    }

    /// The named subsections below `key`: `[pop.fra]`, `[pop.nyc]`.
    pub fn named(&self, key: &str, known: &'static [&'static str]) -> Vec<(String, Section<'d>)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.doc.expected(value, &self.name(key), &format!("sections named [{key}.NAME]"));
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, value) in table.iter() {
            match value.get_ref().as_table() {
                Some(table) => {
                    let above =
                        if self.place.is_empty() { String::new() } else { format!("{}.", self.place) };
                    let place = format!("{above}{key}.{}", name.get_ref());
                    let section = Section::open(self.doc, place, table, name.span(), known);
                    found.push((name.get_ref().to_string(), section));
                }
                None => self.doc.expected(value, &format!("{key}.{}", name.get_ref()), "a table"),
            }
        }
        found
    }

    /// The entries of `[[key]]`.
    pub fn repeated(&self, key: &str, known: &'static [&'static str]) -> Vec<Section<'d>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let mut found = Vec::new();
        for member in members(value) {
            match member.get_ref().as_table() {
                Some(table) => {
                    let place =
                        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) };
                    found.push(Section::open(self.doc, place, table, member.span(), known));
                }
                None => self.doc.expected(member, &self.name(key), &format!("tables [[{key}]]")),
            }
        }
        found
    }

    /// Keys and values of a table with keys of the person's own choosing.
    pub fn entries(&self, key: &str) -> Vec<(&'d str, Range<usize>, Value<'d>)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        match value.get_ref().as_table() {
            Some(table) => table.iter().map(|(k, v)| (&**k.get_ref(), k.span(), v)).collect(),
            None => {
                self.doc.expected(value, &self.name(key), "a table");
                Vec::new()
            }
        }
    }

    /// Where the section stands.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Where `key` stands, or else the section.
    pub fn place_of(&self, key: &str) -> Range<usize> {
        self.value(key).map_or_else(|| self.span(), |value| value.span())
    }
}

/// A list's members; anything else stands for a list of one.
pub(crate) fn members<'d>(value: Value<'d>) -> Vec<Value<'d>> {
    match value.get_ref().as_array() {
        Some(array) => array.iter().collect(),
        None => vec![value],
    }
}

/// A whole number, if the value is one that fits 64 bits.
pub(crate) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
}

/// A finite number.
pub(crate) fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(float) => float.as_str().replace('_', "").parse().ok().filter(|n: &f64| n.is_finite()),
        _ => integer(value).map(|number| number as f64),
    }
}
