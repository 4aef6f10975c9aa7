//! Record data: tokens → wire format.
//!
//! Types the `domain` crate can read go through its scanners, fed by [`Fields`]; the few common
//! ones it cannot are described as a row of fields in [`layout`]; every type can be written in the
//! form of RFC 3597 (`\# 4 c0000201`).

use std::fmt;

use domain::{
    base::{
        CharStr, iana,
        rdata::ComposeRecordData,
        scan::{ConvertSymbols, EntrySymbol, Scanner, ScannerError, Symbol},
    },
    dep::octseq::str::Str,
    rdata::ZoneRecordData,
};

use crate::{name::Name, record::Rtype};

use super::token::Token;

/// Octets of data in one record.
const RDATA_BYTES_MAX: usize = 65_535;

/// Where and why data was not understood.
#[derive(Debug)]
pub(super) struct Failed {
    /// Index of the token; `None` if one is missing at the end.
    pub token: Option<usize>,
    pub expected: String,
}

/// Reads the data of one record.
pub(super) fn read(rtype: Rtype, tokens: &[Token<'_>], origin: &Name) -> Result<Vec<u8>, Failed> {
    let seconds = soa_seconds(rtype, tokens);
    let mut fields = Fields { tokens, seconds: &seconds, next: 0, origin, text: String::new() };
    let generic = fields.tokens.first().is_some_and(|token| !token.quoted && token.text == b"\\#");
    let read = match layout(rtype) {
        Some(layout) if !generic => fields.row(layout),
        _ => fields.through_domain(rtype),
    };
    let failed = |fields: &Fields<'_, '_>, expected: String| Failed {
        // The token before `next` is the one a scanner choked on.
        token: fields.next.checked_sub(1).filter(|index| *index < tokens.len()),
        expected,
    };
    let data = match read {
        Ok(data) => data,
        Err(Unread::Missing) => {
            let expected = if tokens.is_empty() { "data" } else { "more data" };
            return Err(Failed { token: None, expected: expected.into() });
        }
        Err(Unread::Extra) => {
            return Err(Failed {
                token: Some(fields.next.min(tokens.len().saturating_sub(1))),
                expected: "the end of the record".into(),
            });
        }
        Err(Unread::Expected(expected)) => return Err(failed(&fields, expected)),
    };
    if fields.next < tokens.len() {
        return Err(Failed { token: Some(fields.next), expected: "the end of the record".into() });
    }
    if data.len() > RDATA_BYTES_MAX {
        return Err(failed(&fields, "at most 65535 octets of data".into()));
    }
    if generic && let Err(expected) = well_formed(rtype, &data) {
        return Err(Failed { token: Some(0), expected });
    }
    Ok(data)
}

/// The five times of a SOA may have units (`1h`), which the `domain` scanner does not know.
fn soa_seconds(rtype: Rtype, tokens: &[Token<'_>]) -> Vec<Option<String>> {
    if rtype != Rtype::SOA {
        return Vec::new();
    }
    tokens
        .iter()
        .enumerate()
        .map(
            |(index, token)| {
                if index < 3 {
                    None
                } else {
                    super::seconds(token.ascii()).map(|seconds| seconds.to_string())
                }
            },
        )
        .collect()
}

/// Data in RFC 3597 form must still be what its type says, where lookup relies on it.
fn well_formed(rtype: Rtype, data: &[u8]) -> Result<(), String> {
    let fits = match rtype {
        Rtype::A => data.len() == 4,
        Rtype::AAAA => data.len() == 16,
        Rtype::NS
        | Rtype::CNAME
        | Rtype::DNAME
        | Rtype::PTR
        | Rtype::MD
        | Rtype::MF
        | Rtype::MB
        | Rtype::MG
        | Rtype::MR => Name::from_wire(data).is_ok(),
        Rtype::MX => data.get(2..).is_some_and(|name| Name::from_wire(name).is_ok()),
        Rtype::SRV => data.get(6..).is_some_and(|name| Name::from_wire(name).is_ok()),
        Rtype::SOA => names_end(data, 2).is_some_and(|end| data.len() == end + 20),
        Rtype::MINFO => names_end(data, 2) == Some(data.len()),
        _ => true,
    };
    if fits { Ok(()) } else { Err(format!("octets that make a {rtype} record")) }
}

/// Where a row of uncompressed names ends.
fn names_end(data: &[u8], names: usize) -> Option<usize> {
    let mut end = 0;
    for _ in 0..names {
        loop {
            let length = usize::from(*data.get(end)?);
            end += 1 + length;
            if length == 0 {
                break;
            }
            if length > crate::name::LABEL_BYTES_MAX {
                return None;
            }
        }
    }
    Some(end)
}

/// A field of a type that is not in the `domain` crate.
#[derive(Clone, Copy)]
enum Field {
    U8,
    U16,
    Name,
    Text,
    /// Octets without a length before them, to the end of the record (URI).
    Rest,
    Hex,
    Base64,
    /// Two hexadecimal digits, so many times, between dashes (EUI48, EUI64).
    Dashed(usize),
    /// Four groups of hexadecimal digits between colons (NID, L64).
    Groups,
    Ipv4,
    /// The whole of LOC.
    Location,
}

fn layout(rtype: Rtype) -> Option<&'static [Field]> {
    use Field::{Base64, Dashed, Groups, Hex, Ipv4, Location, Name, Rest, Text, U8, U16};
    Some(match rtype.0 {
        18 | 21 | 36 | 107 => &[U16, Name], // AFSDB, RT, KX, LP
        19 => &[Text],                      // X25
        23 => &[Name],                      // NSAP-PTR
        26 => &[U16, Name, Name],           // PX
        29 => &[Location],                  // LOC
        37 => &[U16, U16, U8, Base64],      // CERT, with numbers
        49 => &[Base64],                    // DHCID
        53 => &[U8, U8, U8, Hex],           // SMIMEA
        32769 => &[U16, U8, U8, Hex],       // DLV
        104 | 106 => &[U16, Groups],        // NID, L64
        105 => &[U16, Ipv4],                // L32
        108 => &[Dashed(6)],                // EUI48
        109 => &[Dashed(8)],                // EUI64
        256 => &[U16, U16, Rest],           // URI
        32768 => &[U16, U8, U8, Hex],       // TA
        _ => return None,
    })
}

/// A scanner's reason.
#[derive(Debug)]
enum Unread {
    Missing,
    Extra,
    Expected(String),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("more data"),
            Self::Extra => f.write_str("the end of the record"),
            Self::Expected(expected) => f.write_str(expected),
        }
    }
}

impl std::error::Error for Unread {}

impl ScannerError for Unread {
    fn custom(message: &'static str) -> Self {
        Self::Expected(match message.strip_prefix("expected ") {
            Some(expected) => expected.to_string(),
            None => format!("well-formed data ({message})"),
        })
    }

    fn end_of_entry() -> Self {
        Self::Missing
    }

    fn short_buf() -> Self {
        Self::Expected("shorter data".into())
    }

    fn trailing_tokens() -> Self {
        Self::Extra
    }
}

/// The data tokens of an entry, as the `domain` crate's scanners read them.
struct Fields<'a, 't> {
    tokens: &'a [Token<'t>],
    /// Replacements of SOA times, by token.
    seconds: &'a [Option<String>],
    next: usize,
    origin: &'a Name,
    text: String,
}

impl<'a, 't> Fields<'a, 't> {
    fn take(&mut self) -> Result<Token<'a>, Unread> {
        let token = self.tokens.get(self.next).ok_or(Unread::Missing)?;
        let text = match self.seconds.get(self.next) {
            Some(Some(seconds)) => seconds.as_bytes(),
            _ => token.text,
        };
        self.next += 1;
        Ok(Token { text, ..token.clone() })
    }

    fn through_domain(&mut self, rtype: Rtype) -> Result<Vec<u8>, Unread> {
        let number = iana::Rtype::from_int(rtype.0);
        let data =
            ZoneRecordData::<Vec<u8>, domain::base::Name<Vec<u8>>>::scan(number, self).map_err(|unread| {
                match unread {
                    Unread::Expected(message) if message.contains("unknown record type") => {
                        Unread::Expected(format!(
                            "data in the form of RFC 3597, `\\# LENGTH HEX`: {rtype} has no other form here"
                        ))
                    }
                    other => other,
                }
            })?;
        let mut wire = Vec::new();
        // Writing to a Vec cannot fail; the crate's signature has to allow for fixed buffers.
        data.compose_rdata(&mut wire).map_err(|_| Unread::Expected("shorter data".into()))?;
        Ok(wire)
    }

    fn row(&mut self, layout: &[Field]) -> Result<Vec<u8>, Unread> {
        let mut wire = Vec::new();
        for field in layout {
            self.field(*field, &mut wire)?;
        }
        Ok(wire)
    }

    fn number(&mut self, max: u32) -> Result<u32, Unread> {
        let token = self.take()?;
        token
            .ascii()
            .parse::<u32>()
            .ok()
            .filter(|number| *number <= max)
            .ok_or_else(|| Unread::Expected(format!("a number from 0 to {max}")))
    }

    fn field(&mut self, field: Field, wire: &mut Vec<u8>) -> Result<(), Unread> {
        match field {
            Field::U8 => wire.push(self.number(u32::from(u8::MAX))? as u8),
            Field::U16 => wire.extend((self.number(u32::from(u16::MAX))? as u16).to_be_bytes()),
            Field::Name => {
                let name = self.take_name()?;
                wire.extend_from_slice(name.wire());
            }
            Field::Text => {
                let text = self.take_text()?;
                wire.push(text.len() as u8);
                wire.extend(text);
            }
            Field::Rest => wire.extend(self.take()?.octets().map_err(|e| Unread::Expected(e.into()))?),
            Field::Hex => wire.extend(self.convert_entry(domain::utils::base16::SymbolConverter::new())?),
            Field::Base64 => wire.extend(self.convert_entry(domain::utils::base64::SymbolConverter::new())?),
            Field::Dashed(count) => {
                let token = self.take()?;
                let expected = || {
                    Unread::Expected(format!("{count} octets as two hexadecimal digits each, between dashes"))
                };
                let groups: Vec<&str> = token.ascii().split('-').collect();
                if groups.len() != count || groups.iter().any(|group| group.len() != 2) {
                    return Err(expected());
                }
                for group in groups {
                    wire.push(u8::from_str_radix(group, 16).map_err(|_| expected())?);
                }
            }
            Field::Groups => {
                let token = self.take()?;
                let expected = || Unread::Expected("four groups of hexadecimal digits between colons".into());
                let groups: Vec<&str> = token.ascii().split(':').collect();
                if groups.len() != 4 {
                    return Err(expected());
                }
                for group in groups {
                    wire.extend(u16::from_str_radix(group, 16).map_err(|_| expected())?.to_be_bytes());
                }
            }
            Field::Ipv4 => {
                let address: std::net::Ipv4Addr =
                    self.take()?.ascii().parse().map_err(|_| Unread::Expected("an IPv4 address".into()))?;
                wire.extend(address.octets());
            }
            Field::Location => self.location(wire)?,
        }
        Ok(())
    }

    /// RFC 1876: `d [m [s]] N|S d [m [s]] E|W alt[m] [size [horizontal [vertical]]]`.
    fn location(&mut self, wire: &mut Vec<u8>) -> Result<(), Unread> {
        let latitude = self.angle(90, [b'N', b'S'])?;
        let longitude = self.angle(180, [b'E', b'W'])?;
        let altitude = self.metres("an altitude in metres", -100_000.0, 42_849_672.95)?;
        let mut sizes = [0x12u8, 0x16, 0x13];
        for size in &mut sizes {
            if self.next >= self.tokens.len() {
                break;
            }
            let centimetres = self.metres("a size in metres", 0.0, 90_000_000.0)?;
            *size = exponent(centimetres);
        }
        wire.push(0);
        wire.extend(sizes);
        wire.extend(latitude.to_be_bytes());
        wire.extend(longitude.to_be_bytes());
        wire.extend(((altitude + 10_000_000) as u32).to_be_bytes());
        Ok(())
    }

    /// Thousandths of an arc second, offset by 2^31.
    fn angle(&mut self, degrees_max: u32, marks: [u8; 2]) -> Result<u32, Unread> {
        let expected = || {
            Unread::Expected(format!(
                "degrees up to {degrees_max}, minutes, seconds, then {} or {}",
                char::from(marks[0]),
                char::from(marks[1])
            ))
        };
        let mut thousandths = 0u64;
        for (index, unit) in [3_600_000u64, 60_000, 1_000, 0].into_iter().enumerate() {
            let token = self.take()?;
            if index > 0
                && let [letter] = token.text
                && let Some(mark) = marks.iter().position(|m| *m == letter.to_ascii_uppercase())
            {
                if thousandths > u64::from(degrees_max) * 3_600_000 {
                    return Err(expected());
                }
                let offset = thousandths as u32;
                return Ok(if mark == 0 { (1 << 31) + offset } else { (1 << 31) - offset });
            }
            let value: f64 = token.ascii().parse().map_err(|_| expected())?;
            let limit = if index == 0 { f64::from(degrees_max) } else { 59.999_5 };
            let whole = index == 2 || value.fract() == 0.0;
            if unit == 0 || !(0.0..=limit).contains(&value) || !whole {
                return Err(expected());
            }
            thousandths += (value * unit as f64).round() as u64;
        }
        Err(expected())
    }

    fn metres(&mut self, expected: &str, min: f64, max: f64) -> Result<i64, Unread> {
        let token = self.take()?;
        let text = token.ascii().trim_end_matches(['m', 'M']);
        let value: f64 = text.parse().map_err(|_| Unread::Expected(expected.into()))?;
        if !(min..=max).contains(&value) {
            return Err(Unread::Expected(expected.into()));
        }
        Ok((value * 100.0).round() as i64)
    }

    fn take_name(&mut self) -> Result<Name, Unread> {
        let token = self.take()?;
        Name::parse(token.text, Some(self.origin))
            .map_err(|error| Unread::Expected(format!("a domain name (this is {error})")))
    }

    fn take_text(&mut self) -> Result<Vec<u8>, Unread> {
        let octets = self.take()?.octets().map_err(|e| Unread::Expected(e.into()))?;
        if octets.len() > 255 {
            return Err(Unread::Expected("a string of at most 255 octets".into()));
        }
        Ok(octets)
    }
}

/// Mantissa and power of ten in half an octet each (RFC 1876 section 2).
fn exponent(centimetres: i64) -> u8 {
    let mut mantissa = centimetres.max(0) as u64;
    let mut power = 0u8;
    while mantissa > 9 {
        mantissa /= 10;
        power += 1;
    }
    ((mantissa as u8) << 4) | power.min(9)
}

impl Scanner for Fields<'_, '_> {
    type Octets = Vec<u8>;
    type OctetsBuilder = Vec<u8>;
    type Name = domain::base::Name<Vec<u8>>;
    type Error = Unread;

    fn has_space(&self) -> bool {
        self.tokens.get(self.next).is_some_and(|token| !token.joined)
    }

    fn continues(&mut self) -> bool {
        self.next < self.tokens.len()
    }

    fn scan_symbols<F>(&mut self, mut op: F) -> Result<(), Unread>
    where
        F: FnMut(Symbol) -> Result<(), Unread>,
    {
        let token = self.take()?;
        if token.text.is_empty() {
            return Err(Unread::Expected("something between the quotes".into()));
        }
        for symbol in token.symbols() {
            op(symbol.map_err(|e| Unread::Expected(e.into()))?)?;
        }
        Ok(())
    }

    fn scan_entry_symbols<F>(&mut self, mut op: F) -> Result<(), Unread>
    where
        F: FnMut(EntrySymbol) -> Result<(), Unread>,
    {
        while self.continues() {
            self.scan_symbols(|symbol| op(symbol.into()))?;
            op(EntrySymbol::EndOfToken)?;
        }
        Ok(())
    }

    fn convert_token<C: ConvertSymbols<Symbol, Unread>>(
        &mut self,
        mut convert: C,
    ) -> Result<Vec<u8>, Unread> {
        let mut octets = Vec::new();
        self.scan_symbols(|symbol| {
            octets.extend_from_slice(convert.process_symbol(symbol)?.unwrap_or_default());
            Ok(())
        })?;
        octets.extend_from_slice(convert.process_tail()?.unwrap_or_default());
        Ok(octets)
    }

    fn convert_entry<C: ConvertSymbols<EntrySymbol, Unread>>(
        &mut self,
        mut convert: C,
    ) -> Result<Vec<u8>, Unread> {
        let mut octets = Vec::new();
        while self.continues() {
            self.scan_symbols(|symbol| {
                octets.extend_from_slice(convert.process_symbol(symbol.into())?.unwrap_or_default());
                Ok(())
            })?;
        }
        octets.extend_from_slice(convert.process_tail()?.unwrap_or_default());
        Ok(octets)
    }

    fn scan_octets(&mut self) -> Result<Vec<u8>, Unread> {
        self.take()?.octets().map_err(|e| Unread::Expected(e.into()))
    }

    fn scan_svcb_octets(&mut self) -> Result<Vec<u8>, Unread> {
        let mut octets = self.scan_octets()?;
        if octets.last() == Some(&b'=') && self.tokens.get(self.next).is_some_and(|token| token.joined) {
            octets.extend(self.scan_octets()?);
        }
        Ok(octets)
    }

    fn scan_ascii_str<F, T>(&mut self, op: F) -> Result<T, Unread>
    where
        F: FnOnce(&str) -> Result<T, Unread>,
    {
        let octets = self.scan_octets()?;
        self.text = String::from_utf8(octets)
            .ok()
            .filter(|text| text.is_ascii())
            .ok_or_else(|| Unread::Expected("ASCII characters".into()))?;
        op(&self.text)
    }

    fn scan_name(&mut self) -> Result<Self::Name, Unread> {
        let name = self.take_name()?;
        domain::base::Name::from_octets(name.wire().to_vec())
            .map_err(|_| Unread::Expected("a domain name".into()))
    }

    fn scan_charstr(&mut self) -> Result<CharStr<Vec<u8>>, Unread> {
        CharStr::from_octets(self.take_text()?)
            .map_err(|_| Unread::Expected("a string of at most 255 octets".into()))
    }

    fn scan_string(&mut self) -> Result<Str<Vec<u8>>, Unread> {
        Str::from_utf8(self.scan_octets()?).map_err(|_| Unread::Expected("UTF-8 text".into()))
    }

    fn scan_charstr_entry(&mut self) -> Result<Vec<u8>, Unread> {
        if !self.continues() {
            return Err(Unread::Missing);
        }
        let mut wire = Vec::new();
        while self.continues() {
            let text = self.take_text()?;
            wire.push(text.len() as u8);
            wire.extend(text);
        }
        Ok(wire)
    }

    fn scan_opt_unknown_marker(&mut self) -> Result<bool, Unread> {
        let marked = self.tokens.get(self.next).is_some_and(|token| !token.quoted && token.text == b"\\#");
        self.next += usize::from(marked);
        Ok(marked)
    }

    fn octets_builder(&mut self) -> Result<Vec<u8>, Unread> {
        Ok(Vec::new())
    }
}
