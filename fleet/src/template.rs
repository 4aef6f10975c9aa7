//! Texts with holes: `https://new.example.org/$1{?query}`, filled in for each request.
//!
//! Pure. What may be in a hole is for whoever fills it in; here only the spelling is read.

/// Longest template, bytes.
pub const TEMPLATE_BYTES_MAX: usize = 2048;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Text(String),
    /// `$1` to `$9`: what a `*` or a group of the rule's path took.
    Capture(usize),
    /// `{scheme}`
    Scheme,
    /// `{host}`
    Host,
    /// `{path}`, with its `/`.
    Path,
    /// `{query}`, without `?`.
    Query,
    /// `{?query}`: with `?`, or nothing where there is none.
    WithQuery,
    /// `{country}`: of the client, upper case, or nothing.
    Country,
    /// `{split.NAME}`: the client's arm.
    Split(String),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Template {
    /// In order.
    pub pieces: Vec<Piece>,
}

/// The words in braces.
pub const HOLES: &str = "{scheme}, {host}, {path}, {query}, {?query}, {country}, {split.NAME} and $1 to $9";

impl Template {
    /// Reads a template. `$$` is a dollar sign, `{{` a brace.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn new(text: &str) -> Result<Template, String> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(format!("at most {TEMPLATE_BYTES_MAX} bytes"));
        }
        if text.bytes().any(|byte| byte.is_ascii_control() || !byte.is_ascii()) {
            return Err("printable ASCII only".to_owned());
        }
        let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['$', '{']) {
            literal.push_str(&rest[..at]);
            let hole = &rest[at..];
            let doubled = &hole[..1];
            if hole[1..].starts_with(doubled) {
                literal.push_str(doubled);
                rest = &hole[2..];
                continue;
            }
            let (piece, length) = Template::hole(hole)?;
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            pieces.push(piece);
            rest = &hole[length..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Template { pieces })
    }

    fn hole(text: &str) -> Result<(Piece, usize), String> {
        if let Some(rest) = text.strip_prefix('$') {
            let digit = rest.bytes().next().filter(|byte| (b'1'..=b'9').contains(byte));
            let digit = digit.ok_or("after `$` comes a digit from 1 to 9, or `$$` for a dollar sign")?;
            return Ok((Piece::Capture(usize::from(digit - b'0')), 2));
        }
        let end = text.find('}').ok_or("a `{` without `}`; `{{` stands for a brace")?;
        let piece = match &text[1..end] {
            "scheme" => Piece::Scheme,
            "host" => Piece::Host,
            "path" => Piece::Path,
            "query" => Piece::Query,
            "?query" => Piece::WithQuery,
            "country" => Piece::Country,
            word => match word.strip_prefix("split.") {
                Some(name) => Piece::Split(name.to_owned()),
                None => return Err(format!("{{{word}}} means nothing; there are {HOLES}")),
            },
        };
        Ok((piece, end + 1))
    }

    /// The text, if it has no holes.
    pub fn as_text(&self) -> Option<&str> {
        match &self.pieces[..] {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The largest capture it names; 0: none.
    pub fn captures(&self) -> usize {
        let captures = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Capture(number) => Some(*number),
            _ => None,
        });
        captures.max().unwrap_or(0)
    }

    /// Fills the holes.
    pub fn fill(&self, mut hole: impl FnMut(&Piece, &mut String)) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                piece => hole(piece, &mut out),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_read_and_filled() {
        let template = Template::new("https://{host}/$1/{{x}$$5{?query}").unwrap();
        assert_eq!(template.captures(), 1);
        let filled = template.fill(|piece, out| match piece {
            Piece::Host => out.push_str("a.test"),
            Piece::Capture(1) => out.push_str("one"),
            Piece::WithQuery => out.push_str("?q"),
            other => panic!("{other:?}"),
        });
        assert_eq!(filled, "https://a.test/one/{x}$5?q");
        assert_eq!(Template::new("plain").unwrap().as_text(), Some("plain"));
    }

    #[test]
    fn what_is_no_hole_is_told() {
        for bad in ["$", "$0", "$x", "{host", "{hots}", "é", "a\nb"] {
            assert!(Template::new(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ -~é]{0,40}") {
            let _ = Template::new(&text);
        }
    }
}
