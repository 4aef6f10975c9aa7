//! Regular expressions that people write, compiled within bounds: the same at home, where they are checked, and at the
//! edge, where they are used.
//!
//! Over bytes, without Unicode tables: paths and fields are bytes, and `\w` is a hundred times smaller. Time is linear in
//! the text whatever the pattern is.

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use crate::config::rules::{REGEX_BYTES_MAX, REGEX_TEXT_MAX};

/// Bytes that all expressions over one thing (paths, or one field) may take compiled together.
pub const SET_BYTES_MAX: usize = 32 << 20;

/// Bytes of the states that such a set keeps while it is used; past them they are made again.
const STATES_BYTES_MAX: usize = 8 << 20;

/// Compiles one.
///
/// # Errors
/// In words: what is wrong with it, or that it is too large.
pub fn one(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > REGEX_TEXT_MAX {
        return Err(format!("{} bytes long, at most {REGEX_TEXT_MAX}", pattern.len()));
    }
    let built = RegexBuilder::new(pattern).unicode(false).size_limit(REGEX_BYTES_MAX).build();
    built.map_err(|error| said(&error, REGEX_BYTES_MAX))
}

/// Compiles several that are asked at once.
///
/// # Errors
/// As [`one`].
pub fn set(patterns: &[String]) -> Result<RegexSet, String> {
    let mut builder = RegexSetBuilder::new(patterns);
    builder.unicode(false).size_limit(SET_BYTES_MAX).dfa_size_limit(STATES_BYTES_MAX);
    builder.build().map_err(|error| said(&error, SET_BYTES_MAX))
}

fn said(error: &regex::Error, bytes_max: usize) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => format!("it takes more than {} KiB compiled", bytes_max >> 10),
        // The crate draws the pattern with carets below it; its last line says what is wrong.
        other => {
            other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_bounded_and_told_in_a_line() {
        assert!(one(r"^/a/(\d+)$").is_ok());
        assert!(one(r"(").unwrap_err().contains("unclosed group"));
        assert!(one(r"(\w{1000}){1000}").unwrap_err().contains("1024 KiB"));
        assert!(one(&"a".repeat(2000)).is_err());
        let many: Vec<String> = (0..1000).map(|n| format!("^/x{n}/")).collect();
        assert_eq!(set(&many).unwrap().matches(b"/x7/y").into_iter().collect::<Vec<_>>(), [7]);
    }
}
