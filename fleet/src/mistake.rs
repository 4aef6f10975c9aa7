//! What is wrong with something a person wrote, where, and what was expected instead.
//!
//! A [`Mistake`] is a value: whoever shows it decides where it goes. Its `Display` is one line that stands
//! alone (`file:line:column: what was read, what was expected`), [`Mistake::with_source`] adds the line of the
//! file and a caret below the place.

use std::{fmt, path::PathBuf};

/// One mistake in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file it is in.
    pub file: PathBuf,
    /// Line, from 1; 0 where the whole file is meant.
    pub line: usize,
    /// Column in characters, from 1; 0 where the whole file is meant.
    pub column: usize,
    /// What was read and what was expected, one sentence.
    pub message: String,
    /// The nearest valid spelling, where one is near.
    pub nearest: Option<String>,
    /// The line of the file, for [`Mistake::with_source`].
    pub source_line: String,
}

impl Mistake {
    /// A mistake about the file as a whole (unreadable, not UTF-8).
    pub fn whole_file(file: impl Into<PathBuf>, message: impl fmt::Display) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            message: message.to_string(),
            nearest: None,
            source_line: String::new(),
        }
    }

    /// A mistake at the byte `offset` of `text`.
    pub fn at(file: impl Into<PathBuf>, text: &str, offset: usize, message: impl fmt::Display) -> Self {
        let offset = floor_char_boundary(text, offset);
        let start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[offset..].find('\n').map_or(text.len(), |newline| offset + newline);
        Self {
            file: file.into(),
            line: text[..offset].matches('\n').count() + 1,
            column: text[start..offset].chars().count() + 1,
            message: message.to_string(),
            nearest: None,
            source_line: text[start..end].trim_end_matches('\r').to_owned(),
        }
    }

    /// The same mistake with a suggestion, if one of `valid` is near to what was `read`.
    #[must_use]
    pub fn suggest<'a>(mut self, read: &str, valid: impl IntoIterator<Item = &'a str>) -> Self {
        self.nearest = nearest(read, valid).map(str::to_owned);
        self
    }

    /// The one-line form, then the source line with a caret below the place.
    pub fn with_source(&self) -> String {
        if self.line == 0 {
            return self.to_string();
        }
        let number = self.line.to_string();
        let blank = " ".repeat(number.len());
        let indent: String = self
            .source_line
            .chars()
            .take(self.column - 1)
            .map(|character| if character == '\t' { '\t' } else { ' ' })
            .collect();
        format!("{self}\n {blank} |\n {number} | {}\n {blank} | {indent}^", self.source_line)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Mistake {}

fn floor_char_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// The one of `valid` that `read` was most likely meant to be: at most a third of its letters differ.
pub fn nearest<'a>(read: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let read = read.to_lowercase();
    valid
        .into_iter()
        .map(|candidate| (distance(&read, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Longest word that is compared: the cost is quadratic, and nobody mistypes a paragraph.
const WORD_CHARS_MAX: usize = 64;

/// Edit distance in which swapping two neighbours is one edit (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(WORD_CHARS_MAX).collect();
    let b: Vec<char> = b.chars().take(WORD_CHARS_MAX).collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_line_column_and_caret() {
        let text = "a = 1\n\tbö = x\n";
        let mistake = Mistake::at("f.toml", text, text.find('x').unwrap(), "read x");
        assert_eq!(mistake.to_string(), "f.toml:2:7: read x");
        assert_eq!(mistake.with_source(), "f.toml:2:7: read x\n   |\n 2 | \tbö = x\n   | \t     ^");
    }

    #[test]
    fn offsets_past_the_end_and_inside_characters_are_places_too() {
        assert_eq!(Mistake::at("f", "é", 1, "m").column, 1);
        assert_eq!(Mistake::at("f", "ab", 99, "m").column, 3);
        assert_eq!(Mistake::at("f", "", 0, "m").line, 1);
    }

    #[test]
    fn the_nearest_word_is_near() {
        let keys = ["origin", "hosts", "tls", "cache"];
        assert_eq!(nearest("orgin", keys), Some("origin"));
        assert_eq!(nearest("Hsots", keys), Some("hosts"));
        assert_eq!(nearest("banana", keys), None);
    }
}
