//! Patterns over paths and hosts as people write them: `*` is anything, slashes included; `?` is one character that
//! is no slash.
//!
//! Pure, without a regular expression engine, so that what a pattern means and captures is the same wherever it is
//! asked: when a fleet file is checked, and at the edge. Every `*` takes the least it can, from the left; the last
//! takes what remains.

/// Longest pattern, bytes. A path is no longer than a few hundred.
pub const GLOB_BYTES_MAX: usize = 512;

/// Most `*` of a pattern: as many as there are captures to name, `$1` to `$9`.
pub const STARS_MAX: usize = 9;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Glob {
    text: Box<str>,
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn new(text: &str) -> Result<Glob, &'static str> {
        if text.is_empty() || text.len() > GLOB_BYTES_MAX {
            return Err("a pattern has 1 to 512 bytes");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "patterns are compared with the percent-encoded spelling: write \"/%C3%A9\" for \"/é\"",
            );
        }
        if text.matches('*').count() > STARS_MAX {
            return Err("a pattern has at most nine `*`");
        }
        if text.contains("**") {
            return Err("one `*` already matches slashes");
        }
        Ok(Glob { text: text.into() })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has neither `*` nor `?`: it is compared as it is.
    pub fn is_literal(&self) -> bool {
        !self.text.bytes().any(is_wild)
    }

    /// What every text that matches begins with.
    pub fn prefix(&self) -> &str {
        &self.text[..self.text.bytes().position(is_wild).unwrap_or(self.text.len())]
    }

    /// What every text that matches ends with.
    pub fn suffix(&self) -> &str {
        &self.text[self.text.bytes().rposition(is_wild).map_or(0, |at| at + 1)..]
    }

    /// Whether it is its prefix and one final `*`.
    pub fn is_prefix(&self) -> bool {
        self.prefix().len() + 1 == self.text.len() && self.text.ends_with('*')
    }

    /// Whether a text matches. Costs at most its length times the pattern's.
    pub fn matches(&self, text: &str) -> bool {
        self.walk(text, |_, _| {})
    }

    /// The spans that the `*` took, if the text matches.
    pub fn captures(&self, text: &str) -> Option<Vec<(usize, usize)>> {
        let mut spans = Vec::new();
        self.walk(text, |start, end| spans.push((start, end))).then_some(spans)
    }

    fn walk(&self, text: &str, mut star: impl FnMut(usize, usize)) -> bool {
        let (pattern, text) = (self.text.as_bytes(), text.as_bytes());
        let mut pieces = pattern.split(|&byte| byte == b'*');
        let first = pieces.next().unwrap_or_default();
        if !begins(text, first) {
            return false;
        }
        let mut at = first.len();
        let mut pieces = pieces.peekable();
        if pieces.peek().is_none() {
            return at == text.len();
        }
        while let Some(piece) = pieces.next() {
            let is_last = pieces.peek().is_none();
            let found = if is_last {
                let start = text.len().checked_sub(piece.len()).filter(|&start| start >= at);
                start.filter(|&start| begins(&text[start..], piece))
            } else {
                (at..=text.len().saturating_sub(piece.len())).find(|&start| begins(&text[start..], piece))
            };
            let Some(start) = found else { return false };
            star(at, start);
            at = start + piece.len();
        }
        true
    }

    /// The same as a regular expression over bytes.
    pub fn to_regex(&self) -> String {
        let mut out = String::from("(?s-u)^");
        for character in self.text.chars() {
            match character {
                '*' => out.push_str(".*"),
                '?' => out.push_str("[^/]"),
                character => {
                    if !character.is_ascii_alphanumeric() && character != '/' {
                        out.push('\\');
                    }
                    out.push(character);
                }
            }
        }
        out.push('$');
        out
    }

    /// Whether whatever matches `other` matches this one too, as far as that shows: where both are the same, or this
    /// one is the beginning of the other with a `*`.
    pub fn covers(&self, other: &Glob) -> bool {
        self == other
            || (self.is_prefix() && other.prefix().starts_with(self.prefix()))
            || (other.is_literal() && self.matches(&other.text))
    }
}

fn is_wild(byte: u8) -> bool {
    matches!(byte, b'*' | b'?')
}

fn begins(text: &[u8], piece: &[u8]) -> bool {
    text.len() >= piece.len()
        && piece.iter().zip(text).all(|(&wanted, &byte)| wanted == byte || (wanted == b'?' && byte != b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(pattern: &str, text: &str) -> Option<Vec<String>> {
        let spans = Glob::new(pattern).unwrap().captures(text)?;
        Some(spans.into_iter().map(|(start, end)| text[start..end].to_owned()).collect())
    }

    #[test]
    fn stars_take_the_least_and_the_last_one_the_rest() {
        let some = |taken: &[&str]| Some(taken.iter().map(ToString::to_string).collect::<Vec<_>>());
        for (pattern, text, expected) in [
            ("/a", "/a", some(&[])),
            ("/a", "/a/", None),
            ("/a/*", "/a/", some(&[""])),
            ("/a/*", "/a/b/c", some(&["b/c"])),
            ("/a/*/c/*", "/a/b/c/c/d", some(&["b", "c/d"])),
            ("*.css", "/x/y.css", some(&["/x/y"])),
            ("*.css", "/x.css/y", None),
            ("/a*a", "/a", None),
            ("/a*a", "/aa", some(&[""])),
            ("/?/x", "/a/x", some(&[])),
            ("/?/x", "///x", None),
            ("*", "", some(&[""])),
            ("/*b*", "/bb", some(&["", "b"])),
        ] {
            assert_eq!(captured(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_covers_what() {
        let covers = |one: &str, other: &str| Glob::new(one).unwrap().covers(&Glob::new(other).unwrap());
        assert!(
            covers("/a/*", "/a/b/*") && covers("/a/*", "/a/x") && covers("*", "/x*y") && covers("/a?", "/ab")
        );
        assert!(!covers("/a/b/*", "/a/*") && !covers("/a/*", "/a*") && !covers("*.css", "*.js"));
    }

    proptest::proptest! {
        #[test]
        fn captures_put_back_make_the_text(pattern in "[ab/*?]{1,8}", text in "[ab/]{0,12}") {
            let Ok(glob) = Glob::new(&pattern) else { return Ok(()) };
            if let Some(spans) = glob.captures(&text) {
                assert_eq!(spans.len(), pattern.matches('*').count());
                let mut at = 0;
                for (start, end) in spans {
                    assert!(at <= start && start <= end);
                    at = end;
                }
                assert!(text.starts_with(glob.prefix().split('?').next().unwrap_or("")));
            }
        }

        #[test]
        fn the_regular_expression_agrees(pattern in "[ab/.*?]{1,8}", text in "[ab/.]{0,12}") {
            let Ok(glob) = Glob::new(&pattern) else { return Ok(()) };
            let regex = regex::bytes::Regex::new(&glob.to_regex()).unwrap();
            assert_eq!(glob.matches(&text), regex.is_match(text.as_bytes()), "{pattern} {text}");
        }
    }
}
