//! The one spelling that patterns are written for.
//!
//! Decoded, up to [`ROUNDS_MAX`] times while that changes anything: percent-encoding, `%uXXXX`, two-byte spellings of
//! ASCII that no UTF-8 has (overlong), and the HTML entities that hide tags. Then whitespace and SQL comments become one
//! space, line ends one line end. What no client writes by accident on the way is an [`Oddity`].

use std::borrow::Cow;

use smallvec::SmallVec;

/// Servers that decode more often than that are broken by themselves.
const ROUNDS_MAX: usize = 3;

/// A normalised text.
pub struct Normal<'t> {
    /// See the module.
    pub text: Cow<'t, [u8]>,
    /// What was odd about its spelling.
    pub odd: SmallVec<[Oddity; 2]>,
}

/// What a `+` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plus {
    /// A space, as in queries.
    Space,
    /// Itself.
    Itself,
}

/// An odd spelling, found without a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// A null byte.
    Null,
    /// An overlong spelling of ASCII.
    Overlong,
    /// Encoded more than [`ROUNDS_MAX`] times.
    Deep,
    /// A query longer than the site takes.
    Long,
    /// More parameters than are looked at.
    Many,
}

impl Oddity {
    /// All of them, in the order of their numbers.
    pub const ALL: [Oddity; 5] = [Oddity::Null, Oddity::Overlong, Oddity::Deep, Oddity::Long, Oddity::Many];

    /// As patterns have one.
    pub fn id(self) -> &'static str {
        match self {
            Oddity::Null => "protocol-null",
            Oddity::Overlong => "protocol-overlong",
            Oddity::Deep => "protocol-encoding",
            Oddity::Long => "protocol-long",
            Oddity::Many => "protocol-parameters",
        }
    }

    /// What it adds.
    pub fn score(self) -> u32 {
        match self {
            // URLs within URLs within URLs exist.
            Oddity::Deep => 3,
            Oddity::Null | Oddity::Overlong | Oddity::Long | Oddity::Many => 5,
        }
    }
}

/// Normalises a part of a request; what needs nothing is not copied.
pub fn normalise(bytes: &[u8], plus: Plus) -> Normal<'_> {
    let mut odd = SmallVec::new();
    let mut text = Cow::Borrowed(bytes);
    if plus == Plus::Space && bytes.contains(&b'+') {
        text = bytes.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect::<Vec<u8>>().into();
    }
    for round in 0..=ROUNDS_MAX {
        let Some(decoded) = decode(&text, &mut odd) else { break };
        if round == ROUNDS_MAX {
            note(&mut odd, Oddity::Deep);
            break;
        }
        text = Cow::Owned(decoded);
    }
    if text.contains(&0) {
        note(&mut odd, Oddity::Null);
    }
    if needs_squash(&text) {
        text = Cow::Owned(squash(&text));
    }
    Normal { text, odd }
}

fn note(odd: &mut SmallVec<[Oddity; 2]>, oddity: Oddity) {
    if !odd.contains(&oddity) {
        odd.push(oddity);
    }
}

/// One round; `None`: there is nothing to decode.
fn decode(text: &[u8], odd: &mut SmallVec<[Oddity; 2]>) -> Option<Vec<u8>> {
    if !text.iter().any(|&byte| byte == b'%' || byte == b'&') {
        return None;
    }
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    let mut changed = false;
    while at < text.len() {
        let rest = &text[at..];
        let found = match rest[0] {
            b'%' => percent(rest),
            b'&' => entity(rest),
            _ => None,
        };
        match found {
            Some((byte, length)) => {
                changed = true;
                out.push(byte);
                at += length;
            }
            None => {
                out.push(rest[0]);
                at += 1;
            }
        }
    }
    if !changed {
        return None;
    }
    overlong(&mut out, odd);
    Some(out)
}

fn hex(bytes: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(bytes).ok()?;
    bytes.iter().all(u8::is_ascii_hexdigit).then(|| u32::from_str_radix(text, 16).ok())?
}

/// `%XX` and `%uXXXX`. What is beyond Latin-1 is no part of any pattern.
fn percent(rest: &[u8]) -> Option<(u8, usize)> {
    if matches!(rest.get(1), Some(b'u' | b'U')) {
        let code = hex(rest.get(2..6)?)?;
        // Full-width forms of ASCII, which databases fold.
        let code = if (0xff01..=0xff5e).contains(&code) { code - 0xfee0 } else { code };
        return Some((u8::try_from(code).unwrap_or(b'?'), 6));
    }
    Some((hex(rest.get(1..3)?)? as u8, 3))
}

/// Numeric entities, and the named ones that make tags.
fn entity(rest: &[u8]) -> Option<(u8, usize)> {
    const NAMED: [(&[u8], u8); 11] = [
        (b"&lt;", b'<'),
        (b"&gt;", b'>'),
        (b"&quot;", b'"'),
        (b"&apos;", b'\''),
        (b"&lpar;", b'('),
        (b"&rpar;", b')'),
        (b"&colon;", b':'),
        (b"&sol;", b'/'),
        (b"&Tab;", b'\t'),
        (b"&NewLine;", b'\n'),
        (b"&equals;", b'='),
    ];
    if rest.get(1) == Some(&b'#') {
        let is_hex = matches!(rest.get(2), Some(b'x' | b'X'));
        let start = if is_hex { 3 } else { 2 };
        let is_digit = |byte: &&u8| if is_hex { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() };
        // Leading zeros are a way to hide; a dozen is enough of them.
        let length = rest[start..].iter().take(12).take_while(is_digit).count();
        let digits = std::str::from_utf8(&rest[start..start + length]).ok()?;
        let code = u32::from_str_radix(digits, if is_hex { 16 } else { 10 }).ok()?;
        let end = start + length;
        let end = if rest.get(end) == Some(&b';') { end + 1 } else { end };
        return u8::try_from(code).ok().map(|byte| (byte, end));
    }
    NAMED.iter().find(|(name, _)| rest.starts_with(name)).map(|&(name, byte)| (byte, name.len()))
}

/// `C0 AF` and the like: ASCII in two bytes, which RFC 3629 section 3 forbids and careless decoders take.
fn overlong(text: &mut Vec<u8>, odd: &mut SmallVec<[Oddity; 2]>) {
    let is_overlong = |pair: &[u8]| matches!(pair, [0xc0 | 0xc1, 0x80..=0xbf]);
    if !text.windows(2).any(is_overlong) {
        return;
    }
    note(odd, Oddity::Overlong);
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if at + 1 < text.len() && is_overlong(&text[at..at + 2]) {
            out.push((text[at] & 0x03) << 6 | text[at + 1] & 0x3f);
            at += 2;
        } else {
            out.push(text[at]);
            at += 1;
        }
    }
    *text = out;
}

fn needs_squash(text: &[u8]) -> bool {
    text.iter().any(|&byte| byte < b' ' || byte == 0x7f || byte == 0xa0)
        || text.windows(2).any(|pair| matches!(pair, b"  " | b"/*"))
}

/// Runs of blanks, control characters and SQL comments as one space, or one line end if they hold one. Conditional
/// comments (`/*!`) are code and stay.
fn squash(text: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let (blank, length) = match rest[0] {
            b'\r' | b'\n' => (Some(b'\n'), 1),
            b' ' | 0x7f | 0xa0 => (Some(b' '), 1),
            byte if byte < b' ' => (Some(b' '), 1),
            b'/' if rest.starts_with(b"/*") && rest.get(2) != Some(&b'!') => {
                match rest[2..].windows(2).position(|pair| pair == b"*/") {
                    Some(end) => (Some(b' '), end + 4),
                    None => (None, 1),
                }
            }
            _ => (None, 1),
        };
        match (blank, out.last_mut()) {
            (Some(blank), Some(last)) if matches!(last, b' ' | b'\n') => *last = (*last).min(blank),
            (Some(blank), _) => out.push(blank),
            (None, _) => out.push(rest[0]),
        }
        at += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(written: &str) -> String {
        String::from_utf8_lossy(&normalise(written.as_bytes(), Plus::Space).text).into_owned()
    }

    #[test]
    fn spellings_of_one_text_are_one() {
        for written in [
            "<script>",
            "%3Cscript%3e",
            "%253Cscript%253E",
            "%25253Cscript%25253E",
            "%u003Cscript%uff1e",
            "%26lt;script%26gt;",
            "%26%2360;script%26%23x0003e;",
            "%c0%bcscript%3e",
        ] {
            assert_eq!(text(written), "<script>", "{written}");
        }
        assert_eq!(text("a+b%20%09c"), "a b c");
        assert_eq!(text("un/**/ion/* x */select"), "un ion select");
        assert_eq!(text("/*!50000union*/"), "/*!50000union*/");
        assert_eq!(text("a%0d%0aSet-Cookie"), "a\nSet-Cookie");
        assert_eq!(text("100%"), "100%");
        assert_eq!(text("R&D &co %zz %u12"), "R&D &co %zz %u12");
    }

    #[test]
    fn what_is_odd_is_told() {
        let odd = |written: &str| normalise(written.as_bytes(), Plus::Itself).odd.to_vec();
        assert_eq!(odd("a%00b"), [Oddity::Null]);
        assert_eq!(odd("%c0%ae%c0%ae/"), [Oddity::Overlong]);
        assert_eq!(odd("%2525252541"), [Oddity::Deep]);
        assert_eq!(odd("%E4%F6%FC caf%C3%A9"), [], "Latin-1 and UTF-8 are ordinary");
        assert_eq!(odd("%252541"), []);
    }

    proptest::proptest! {
        #[test]
        fn anything_is_normalised(bytes: Vec<u8>) {
            let text = normalise(&bytes, Plus::Space).text;
            proptest::prop_assert!(text.len() <= bytes.len());
        }
    }
}
