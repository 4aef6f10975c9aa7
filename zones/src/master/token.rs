//! Cuts a master file into entries and tokens, each with its line and column.
//!
//! Knows comments, quotes, parentheses and escapes (RFC 1035 section 5.1) and nothing of what
//! tokens mean. A token borrows the text as it was written, escapes and all.

use domain::base::scan::Symbol;

/// Tokens of one entry: a TXT record of 64 KiB in one-octet strings is the most a record can need.
pub(super) const TOKENS_MAX: usize = 65_536;

/// A word of an entry.
#[derive(Clone, Debug)]
pub(super) struct Token<'t> {
    /// As written, without the quotes.
    pub text: &'t [u8],
    pub quoted: bool,
    /// Directly after the token before, without white space (`key="value"`).
    pub joined: bool,
    pub line: u32,
    pub column: u32,
}

impl Token<'_> {
    /// The text if it is plain ASCII, else nothing: for numbers and mnemonics.
    pub fn ascii(&self) -> &str {
        if self.text.is_ascii() { str::from_utf8(self.text).unwrap_or("") } else { "" }
    }

    /// For messages.
    pub fn shown(&self) -> String {
        shown(self.text)
    }

    /// The characters with their escapes understood.
    pub fn symbols(&self) -> impl Iterator<Item = Result<Symbol, &'static str>> + '_ {
        let mut rest = self.text;
        std::iter::from_fn(move || {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            if byte != b'\\' {
                return Some(Ok(if byte.is_ascii() {
                    Symbol::Char(char::from(byte))
                } else {
                    Symbol::DecimalEscape(byte)
                }));
            }
            let symbol = escape(rest);
            rest = &rest[symbol.map_or(rest.len(), |(_, taken)| taken)..];
            Some(symbol.map(|(symbol, _)| symbol).ok_or(BAD_ESCAPE))
        })
    }

    /// The octets the text stands for.
    pub fn octets(&self) -> Result<Vec<u8>, &'static str> {
        self.symbols().map(|symbol| symbol.map(octet)).collect()
    }
}

const BAD_ESCAPE: &str = "\\ and a character, or \\ and three digits up to 255";

/// The octet of a symbol; characters here are ASCII by construction.
fn octet(symbol: Symbol) -> u8 {
    match symbol {
        Symbol::Char(char) => char as u8,
        Symbol::SimpleEscape(octet) | Symbol::DecimalEscape(octet) => octet,
    }
}

fn escape(rest: &[u8]) -> Option<(Symbol, usize)> {
    let &first = rest.first()?;
    if !first.is_ascii_digit() {
        let symbol = if (0x20..=0x7e).contains(&first) {
            Symbol::SimpleEscape(first)
        } else {
            Symbol::DecimalEscape(first)
        };
        return Some((symbol, 1));
    }
    let digits = rest.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let value = digits.iter().fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some((Symbol::DecimalEscape(u8::try_from(value).ok()?), 3))
}

fn shown(text: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 60;
    let cut = &text[..text.len().min(SHOWN_BYTES_MAX)];
    let mut shown: String = String::from_utf8_lossy(cut)
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    if cut.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// One logical line.
#[derive(Clone, Debug)]
pub(super) struct Entry<'t> {
    pub tokens: Vec<Token<'t>>,
    /// Starts with white space: the owner is the one of the record before.
    pub indented: bool,
    pub end_line: u32,
    pub end_column: u32,
}

/// A text that cannot even be cut.
#[derive(Clone, Debug)]
pub(super) struct Uncut {
    pub line: u32,
    pub column: u32,
    pub read: String,
    pub expected: &'static str,
}

/// Iterates over entries.
pub(super) struct Tokens<'t> {
    text: &'t [u8],
    position: usize,
    line: u32,
    column: u32,
}

impl<'t> Tokens<'t> {
    pub fn new(text: &'t [u8]) -> Self {
        // A byte order mark says nothing here and would be part of the first owner name.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Self { text, position: 0, line: 1, column: 1 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.position).copied()
    }

    fn advance(&mut self) {
        let Some(byte) = self.peek() else { return };
        self.position += 1;
        if byte == b'\n' {
            self.line += 1;
            self.column = 1;
        } else if byte & 0xc0 != 0x80 {
            // Continuation octets of UTF-8 do not move an editor's cursor.
            self.column += 1;
        }
    }

    fn uncut(&self, at: (u32, u32), read: &[u8], expected: &'static str) -> Uncut {
        Uncut { line: at.0, column: at.1, read: shown(read), expected }
    }

    /// The next entry that holds a token.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'t>>, Uncut> {
        loop {
            if self.peek().is_none() {
                return Ok(None);
            }
            let entry = self.entry()?;
            if !entry.tokens.is_empty() {
                return Ok(Some(entry));
            }
        }
    }

    fn entry(&mut self) -> Result<Entry<'t>, Uncut> {
        let mut tokens: Vec<Token<'t>> = Vec::new();
        let mut open: Vec<(u32, u32)> = Vec::new();
        let indented = matches!(self.peek(), Some(b' ' | b'\t'));
        let mut spaced = true;
        loop {
            let at = (self.line, self.column);
            let Some(byte) = self.peek() else {
                if let Some(&paren) = open.last() {
                    return Err(self.uncut(paren, b"(", "a `)` before the end of the file"));
                }
                return Ok(Entry { tokens, indented, end_line: at.0, end_column: at.1 });
            };
            match byte {
                b'\n' => {
                    self.advance();
                    if open.is_empty() {
                        return Ok(Entry { tokens, indented, end_line: at.0, end_column: at.1 });
                    }
                    spaced = true;
                }
                b' ' | b'\t' | b'\r' => {
                    self.advance();
                    spaced = true;
                }
                b';' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.advance();
                    }
                }
                b'(' => {
                    open.push(at);
                    self.advance();
                    if open.len() > 1 {
                        return Err(self.uncut(at, b"(", "no `(` inside another"));
                    }
                    spaced = true;
                }
                b')' => {
                    if open.pop().is_none() {
                        return Err(self.uncut(at, b")", "no `)`: none is open"));
                    }
                    self.advance();
                    spaced = true;
                }
                _ => {
                    if tokens.len() >= TOKENS_MAX {
                        return Err(self.uncut(at, b"", "at most 65536 words in a record"));
                    }
                    let mut token = if byte == b'"' { self.quoted()? } else { self.word() };
                    token.joined = !spaced;
                    tokens.push(token);
                    spaced = false;
                }
            }
        }
    }

    fn word(&mut self) -> Token<'t> {
        let (line, column, start) = (self.line, self.column, self.position);
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' | b')' | b'"' => break,
                b'\\' => {
                    self.advance();
                    if self.peek().is_some_and(|byte| byte != b'\n') {
                        self.advance();
                    }
                }
                _ => self.advance(),
            }
        }
        Token { text: &self.text[start..self.position], quoted: false, joined: false, line, column }
    }

    fn quoted(&mut self) -> Result<Token<'t>, Uncut> {
        let (line, column) = (self.line, self.column);
        self.advance();
        let start = self.position;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.advance();
                    if self.peek().is_some_and(|byte| byte != b'\n') {
                        self.advance();
                    }
                }
                Some(b'\n') | None => {
                    let read = &self.text[start - 1..self.position];
                    return Err(self.uncut((line, column), read, "a closing `\"` on the same line"));
                }
                Some(_) => self.advance(),
            }
        }
        let text = &self.text[start..self.position];
        self.advance();
        Ok(Token { text, quoted: true, joined: false, line, column })
    }
}
