//! Domain names: owned ([`Name`]) for what is kept, and [`NameBuf`] for what is looked up.
//!
//! Both hold uncompressed wire format (RFC 1035 section 3.1) and are valid by construction: labels
//! of 1 to 63 octets, 255 octets in all, the root label last. A `Name` keeps the case it was
//! written in and compares without it (RFC 4343); a `NameBuf` is lower case, lives in fixed
//! storage and knows where each label starts, so that a lookup neither allocates nor folds case.
//!
//! Lower-casing whole wire octets is sound because a length octet is at most 63 and `A` is 65.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

/// Octets of a label, without its length octet (RFC 1035 section 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;
/// Octets of a name on the wire, length octets and root label included (RFC 1035 section 2.3.4).
pub const NAME_BYTES_MAX: usize = 255;
/// Labels of a name without the root: each takes at least two octets of 254.
pub const LABELS_MAX: usize = 127;

/// Why a text or an octet string is not a domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Two dots in a row, a leading dot, or nothing at all.
    #[error("an empty label")]
    EmptyLabel,
    /// A label is longer than [`LABEL_BYTES_MAX`].
    #[error("a label of more than 63 octets")]
    LongLabel,
    /// The name is longer than [`NAME_BYTES_MAX`].
    #[error("a name of more than 255 octets")]
    LongName,
    /// A backslash is not followed by a character or by three digits up to 255.
    #[error("a bad escape: expected \\ and a character, or \\ and three digits up to 255")]
    BadEscape,
    /// A relative name where there is no origin to complete it.
    #[error("a relative name where no origin is known")]
    NoOrigin,
    /// Wire octets that end early, run on, or hold a compression pointer.
    #[error("malformed wire octets")]
    BadWire,
}

/// A domain name in wire format, in the case it was written in.
///
/// `Eq`, `Hash` and `Ord` ignore ASCII case; `Ord` is the canonical order of RFC 4034 section 6.1,
/// which puts every name directly before the names below it.
#[derive(Clone)]
pub struct Name {
    wire: Box<[u8]>,
}

impl Name {
    /// The root.
    pub fn root() -> Self {
        Self { wire: Box::from([0u8]) }
    }

    /// Takes exactly one uncompressed name.
    ///
    /// # Errors
    /// [`NameError`] if `wire` is anything else.
    pub fn from_wire(wire: &[u8]) -> Result<Self, NameError> {
        let mut position = 0;
        loop {
            let length = usize::from(*wire.get(position).ok_or(NameError::BadWire)?);
            if length > LABEL_BYTES_MAX {
                return Err(NameError::BadWire);
            }
            position += 1 + length;
            if length == 0 {
                break;
            }
        }
        if position != wire.len() {
            return Err(NameError::BadWire);
        }
        if wire.len() > NAME_BYTES_MAX {
            return Err(NameError::LongName);
        }
        Ok(Self { wire: wire.into() })
    }

    /// Reads presentation format (RFC 1035 section 5.1, escapes included): a name without a final
    /// dot is completed with `origin`, and `@` is `origin` itself.
    ///
    /// # Errors
    /// [`NameError`]; [`NameError::NoOrigin`] if the text is relative and `origin` is `None`.
    pub fn parse(text: &[u8], origin: Option<&Name>) -> Result<Self, NameError> {
        if text == b"@" {
            return origin.cloned().ok_or(NameError::NoOrigin);
        }
        if text == b"." {
            return Ok(Self::root());
        }
        let mut wire = vec![0u8];
        let mut start = 0;
        let mut rest = text.iter().copied();
        let mut absolute = false;
        while let Some(byte) = rest.next() {
            let octet = match byte {
                b'.' => {
                    close_label(&mut wire, start)?;
                    start = wire.len();
                    wire.push(0);
                    absolute = true;
                    continue;
                }
                b'\\' => unescape(&mut rest)?,
                other => other,
            };
            absolute = false;
            wire.push(octet);
            if wire.len() - start > LABEL_BYTES_MAX + 1 {
                return Err(NameError::LongLabel);
            }
            if wire.len() > NAME_BYTES_MAX {
                return Err(NameError::LongName);
            }
        }
        if !absolute {
            close_label(&mut wire, start)?;
            wire.extend_from_slice(&origin.ok_or(NameError::NoOrigin)?.wire);
        }
        if wire.len() > NAME_BYTES_MAX {
            return Err(NameError::LongName);
        }
        Ok(Self { wire: wire.into() })
    }

    /// The wire octets, root label included.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The labels from the left, without the root.
    pub fn labels(&self) -> Labels<'_> {
        Labels { rest: &self.wire }
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.wire.len() == 1
    }

    /// Whether the first label is `*` (RFC 4592 section 2.1.1).
    pub fn is_wildcard(&self) -> bool {
        self.wire.starts_with(b"\x01*")
    }

    /// The name one label up; the root has none.
    pub fn parent(&self) -> Option<Name> {
        let length = usize::from(self.wire[0]);
        (length > 0).then(|| Self { wire: self.wire[1 + length..].into() })
    }

    /// Whether this name is `other` or below it.
    pub fn is_subdomain_of(&self, other: &Name) -> bool {
        let mut rest = &self.wire[..];
        while rest.len() > other.wire.len() {
            rest = &rest[1 + usize::from(rest[0])..];
        }
        rest.eq_ignore_ascii_case(&other.wire)
    }

    /// The same name in lower case.
    pub fn to_lower(&self) -> Name {
        Self { wire: self.wire.to_ascii_lowercase().into() }
    }
}

fn close_label(wire: &mut [u8], start: usize) -> Result<(), NameError> {
    let length = wire.len() - start - 1;
    if length == 0 {
        return Err(NameError::EmptyLabel);
    }
    // At most 63: `parse` refuses the 64th octet as it arrives.
    wire[start] = length as u8;
    Ok(())
}

fn unescape(rest: &mut impl Iterator<Item = u8>) -> Result<u8, NameError> {
    let first = rest.next().ok_or(NameError::BadEscape)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut value = u32::from(first - b'0');
    for _ in 0..2 {
        let digit = rest.next().filter(u8::is_ascii_digit).ok_or(NameError::BadEscape)?;
        value = value * 10 + u32::from(digit - b'0');
    }
    u8::try_from(value).map_err(|_| NameError::BadEscape)
}

impl FromStr for Name {
    type Err = NameError;

    /// Reads an absolute name; the final dot may be left out.
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text.as_bytes(), Some(&Self::root()))
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.wire.eq_ignore_ascii_case(&other.wire)
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in &*self.wire {
            state.write_u8(byte.to_ascii_lowercase());
        }
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        let mut ours: Vec<&[u8]> = self.labels().collect();
        let mut theirs: Vec<&[u8]> = other.labels().collect();
        loop {
            match (ours.pop(), theirs.pop()) {
                (None, None) => return Ordering::Equal,
                (None, Some(_)) => return Ordering::Less,
                (Some(_), None) => return Ordering::Greater,
                (Some(a), Some(b)) => {
                    let lower = |label: &[u8]| label.to_ascii_lowercase();
                    match lower(a).cmp(&lower(b)) {
                        Ordering::Equal => {}
                        unequal => return unequal,
                    }
                }
            }
        }
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_presentation(&self.wire, f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn write_presentation(wire: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if wire.len() <= 1 {
        return f.write_str(".");
    }
    for label in (Labels { rest: wire }) {
        for &byte in label {
            match byte {
                b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => {
                    write!(f, "\\{}", char::from(byte))?
                }
                0x21..=0x7e => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "\\{byte:03}")?,
            }
        }
        f.write_str(".")?;
    }
    Ok(())
}

/// The labels of a name, from the left, without the root.
#[derive(Clone, Debug)]
pub struct Labels<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.rest.split_first()?;
        if length == 0 {
            return None;
        }
        let (label, rest) = rest.split_at_checked(usize::from(length))?;
        self.rest = rest;
        Some(label)
    }
}

/// A lower-case name in fixed storage, with the start of each label.
///
/// Made once per worker and set anew for every query: nothing here allocates.
#[derive(Clone)]
pub struct NameBuf {
    wire: [u8; NAME_BYTES_MAX],
    starts: [u8; LABELS_MAX],
    length: u8,
    labels: u8,
}

impl Default for NameBuf {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes `name` to `target` in lower case. `around` is what the name is the start of: where there is enough of it,
/// and nearly always there is, octets are taken by sixteen. What is written in small pieces is slow to be read
/// in large ones, and the labels are hashed next.
#[inline]
fn lower(name: &[u8], around: &[u8], target: &mut [u8; NAME_BYTES_MAX]) {
    const BLOCK: usize = 16;
    let mut at = 0;
    while at < name.len()
        && let Some(from) = around.get(at..at + BLOCK)
        && let Some(to) = target.get_mut(at..at + BLOCK)
    {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.to_ascii_lowercase();
        }
        at += BLOCK;
    }
    let at = at.min(name.len());
    for (to, from) in target[at..].iter_mut().zip(&name[at..]) {
        *to = from.to_ascii_lowercase();
    }
}

impl NameBuf {
    /// The root.
    pub fn new() -> Self {
        Self { wire: [0; NAME_BYTES_MAX], starts: [0; LABELS_MAX], length: 1, labels: 0 }
    }

    /// Copies the name at the start of `octets` in lower case and returns how many octets it took.
    ///
    /// # Errors
    /// [`NameError`] on a compression pointer, a reserved label type, a name past 255 octets or
    /// the end of `octets`; the buffer then holds the root.
    pub fn set(&mut self, octets: &[u8]) -> Result<usize, NameError> {
        self.length = 1;
        self.labels = 0;
        let mut position = 0usize;
        let mut labels = 0usize;
        loop {
            let length = usize::from(*octets.get(position).ok_or(NameError::BadWire)?);
            if length == 0 {
                break;
            }
            if length > LABEL_BYTES_MAX {
                self.wire[0] = 0;
                return Err(NameError::BadWire);
            }
            // One octet is left for the root label.
            if position + 1 + length >= NAME_BYTES_MAX {
                self.wire[0] = 0;
                return Err(NameError::LongName);
            }
            // In range: position is below 254 and every label takes two octets at least.
            self.starts[labels] = position as u8;
            labels += 1;
            position += 1 + length;
        }
        let end = position + 1;
        lower(&octets[..end], octets, &mut self.wire);
        self.length = end as u8;
        self.labels = labels as u8;
        Ok(end)
    }

    /// The lower-case wire octets, root label included.
    pub fn wire(&self) -> &[u8] {
        &self.wire[..usize::from(self.length)]
    }

    /// How many labels, the root not counted.
    pub fn label_count(&self) -> usize {
        usize::from(self.labels)
    }

    /// The wire octets from label `index` (counted from the left) to the end; at
    /// [`Self::label_count`] that is the root.
    pub fn suffix(&self, index: usize) -> &[u8] {
        let start = if index < self.label_count() { self.starts[index] } else { self.length - 1 };
        &self.wire[usize::from(start)..usize::from(self.length)]
    }

    /// Label `index` from the left, without its length octet.
    pub fn label(&self, index: usize) -> &[u8] {
        let suffix = self.suffix(index);
        &suffix[1..=usize::from(suffix[0])]
    }

    /// Replaces everything from label `kept` on by the wire octets `target` (RFC 6672 section 2.2).
    ///
    /// # Errors
    /// [`NameError::LongName`] if the result is past 255 octets; the name is then as it was.
    /// [`NameError::BadWire`] if `target` is not a name; this one is then the root.
    pub fn substitute(&mut self, kept: usize, target: &[u8]) -> Result<(), NameError> {
        let prefix = usize::from(self.length) - self.suffix(kept).len();
        let total = prefix + target.len();
        if total > NAME_BYTES_MAX {
            return Err(NameError::LongName);
        }
        let mut octets = [0u8; NAME_BYTES_MAX];
        octets[..prefix].copy_from_slice(&self.wire[..prefix]);
        octets[prefix..total].copy_from_slice(target);
        self.set(&octets[..total]).map(|_| ())
    }

    /// An owned copy, in lower case.
    pub fn to_name(&self) -> Name {
        Name { wire: self.wire().into() }
    }
}

impl From<&Name> for NameBuf {
    fn from(name: &Name) -> Self {
        let mut buffer = Self::new();
        // A `Name` is valid wire format, which is all `set` asks for.
        let _ = buffer.set(&name.wire);
        buffer
    }
}

impl fmt::Display for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_presentation(self.wire(), f)
    }
}

impl fmt::Debug for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn escapes_survive_both_ways() {
        let odd = name(r"a\.b\032c\\d\255.example.");
        assert_eq!(odd.wire(), b"\x08a.b c\\d\xff\x07example\x00");
        assert_eq!(odd.to_string(), r"a\.b\032c\\d\255.example.");
        assert_eq!(odd.labels().count(), 2);
    }

    #[test]
    fn limits_are_the_protocols() {
        let label = "a".repeat(63);
        assert!(Name::from_str(&label).is_ok());
        assert_eq!(Name::from_str(&format!("{label}a")), Err(NameError::LongLabel));
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(name(&longest).wire().len(), 255);
        assert_eq!(Name::from_str(&format!("{longest}a")), Err(NameError::LongName));
        for bad in ["", "..", "a..b", ".a", r"a\", r"a\25", r"a\256"] {
            assert!(Name::from_str(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn relative_names_need_an_origin() {
        let origin = name("cdn.test");
        assert_eq!(Name::parse(b"www", Some(&origin)).unwrap(), name("www.cdn.test."));
        assert_eq!(Name::parse(b"@", Some(&origin)).unwrap(), origin);
        assert_eq!(Name::parse(b"www", None), Err(NameError::NoOrigin));
        assert_eq!(Name::parse(b"www.", None).unwrap(), name("www"));
    }

    #[test]
    fn order_is_canonical() {
        // The list of RFC 4034 section 6.1.
        let sorted = [
            "example.",
            "a.example.",
            "yljkjljk.a.example.",
            "Z.a.example.",
            "zABC.a.EXAMPLE.",
            "z.example.",
            r"\001.z.example.",
            "*.z.example.",
            r"\200.z.example.",
        ];
        let mut names: Vec<Name> = sorted.iter().rev().map(|text| name(text)).collect();
        names.sort();
        assert_eq!(names, sorted.map(name));
    }

    #[test]
    fn ancestry_ignores_case_and_respects_labels() {
        assert!(name("A.Cdn.Test").is_subdomain_of(&name("cdn.test")));
        assert!(!name("xcdn.test").is_subdomain_of(&name("cdn.test")));
        assert!(name("cdn.test").is_subdomain_of(&Name::root()));
        assert_eq!(name("a.b").parent(), Some(name("b")));
        assert_eq!(Name::root().parent(), None);
    }

    #[test]
    fn substitution_keeps_the_left_labels() {
        let mut buffer = NameBuf::from(&name("a.b.old.test"));
        buffer.substitute(2, name("New.example").wire()).unwrap();
        assert_eq!(buffer.to_string(), "a.b.new.example.");
        let long = name(&format!("{0}.{0}.{0}.{1}", "x".repeat(63), "y".repeat(61)));
        assert_eq!(buffer.substitute(1, long.wire()), Err(NameError::LongName));
        assert_eq!(buffer.to_string(), "a.b.new.example.");
    }

    #[test]
    fn a_pointer_is_refused() {
        assert!(NameBuf::new().set(b"\x03www\xc0\x0c").is_err());
        assert!(NameBuf::new().set(b"\x03www").is_err());
        assert!(NameBuf::new().set(b"").is_err());
    }

    proptest! {
        #[test]
        fn any_octets_make_a_name_or_an_error(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = NameBuf::new();
            if let Ok(length) = buffer.set(&octets) {
                let owned = Name::from_wire(&octets[..length]).unwrap();
                prop_assert_eq!(owned.labels().count(), buffer.label_count());
                prop_assert_eq!(&buffer.to_name(), &owned);
                prop_assert_eq!(owned.to_string().parse::<Name>().unwrap(), owned);
            }
        }

        #[test]
        fn any_text_makes_a_name_or_an_error(text in "[a-z.\\\\0-9@*]{0,80}") {
            if let Ok(parsed) = text.parse::<Name>() {
                prop_assert!(parsed.wire().len() <= NAME_BYTES_MAX);
                prop_assert_eq!(Name::from_wire(parsed.wire()).unwrap(), parsed);
            }
        }
    }
}
