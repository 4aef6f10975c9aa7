//! The embedded country table, so that a fleet steers before anybody has downloaded anything.
//!
//! 1.4 MB in the program, made by `scripts/geoip-builtin`, which also describes the format; licence,
//! credit and date are in `geoip/data/LICENSE.md`. It is never unpacked: [`ranges`] decodes it as it
//! goes, some milliseconds for all of it. Only the country is known, so points are centroids.

use crate::{place::Country, prefix::Family, range::Range};

const DATA: &[u8] = include_bytes!("../data/country.bin");
const MAGIC: &[u8] = b"NSGEO\0\0\x01";
const DATE: std::ops::Range<usize> = 8..18;
const COUNTRIES: usize = 18;

/// Day of the data, `YYYY-MM-DD`.
pub fn date() -> &'static str {
    DATA.get(DATE).and_then(|date| std::str::from_utf8(date).ok()).unwrap_or("unknown")
}

/// Country behind a record number of [`ranges`].
pub(crate) fn country(record: u32) -> Option<Country> {
    let at = COUNTRIES + 1 + 2 * record as usize;
    Country::new(std::str::from_utf8(DATA.get(at..at + 2)?).ok()?)
}

/// Every range with a country, IPv4 first, in order.
pub(crate) fn ranges() -> Ranges {
    let countries = if DATA.starts_with(MAGIC) { DATA[COUNTRIES] } else { 0 };
    let mut ranges = Ranges {
        rest: DATA.get(COUNTRIES + 1 + 2 * usize::from(countries)..).unwrap_or_default(),
        family: Family::V4,
        left: 0,
        position: Some(0),
    };
    ranges.left = ranges.length().unwrap_or(0);
    ranges
}

/// Iterator of [`ranges`].
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    rest: &'static [u8],
    family: Family,
    /// Ranges of this family not yet read.
    left: u32,
    /// Where the next range starts, left-aligned; `None` behind the last address.
    position: Option<u128>,
}

impl Ranges {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn length(&mut self) -> Option<u32> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    /// One country byte and the last address of its range.
    fn entry(&mut self, first: u128) -> Option<(u8, u128)> {
        let country = self.byte()?;
        let exponent = self.byte()?;
        let mut odd: u128 = 1;
        if exponent & 0x80 != 0 {
            let mut shift = 1;
            loop {
                let byte = self.byte()?;
                odd |= u128::from(byte & 0x7f).checked_shl(shift)?;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        let align = u32::from(128 - self.family.bits());
        let size = odd.checked_shl(u32::from(exponent & 0x7f) + align)?;
        // A range that ends with the address space wraps to zero: its last address is all ones.
        Some((country, first.wrapping_add(size).wrapping_sub(1)))
    }
}

impl Iterator for Ranges {
    type Item = Range;

    fn next(&mut self) -> Option<Range> {
        loop {
            if self.left == 0 {
                if self.family == Family::V6 {
                    return None;
                }
                self.family = Family::V6;
                self.left = self.length()?;
                self.position = Some(0);
                continue;
            }
            self.left -= 1;
            let first = self.position?;
            let (country, last) = self.entry(first)?;
            self.position = last.checked_add(1);
            if let Some(record) = country.checked_sub(1) {
                return Some(Range { family: self.family, first, last, record: record.into() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::addr_of;

    #[test]
    fn is_whole_and_in_order() {
        assert!(DATA.starts_with(MAGIC));
        assert!(DATA.len() <= 3 << 20, "{} bytes is too much to carry around", DATA.len());
        let all: Vec<Range> = ranges().collect();
        let count = |family| all.iter().filter(|range| range.family == family).count();
        assert!(count(Family::V4) > 200_000 && count(Family::V6) > 100_000);
        for pair in all.windows(2) {
            assert!(pair[0].family < pair[1].family || pair[0].last < pair[1].first, "{pair:?}");
        }
        let mut end = ranges();
        end.by_ref().for_each(drop);
        assert!(end.rest.is_empty(), "{} bytes behind the last range", end.rest.len());
        assert_eq!(date().len(), 10);
    }

    #[test]
    fn knows_well_known_networks() {
        let find = |addr: &str| {
            let addr: std::net::IpAddr = addr.parse().unwrap();
            let key = crate::prefix::key_of(addr);
            let family = Family::of(addr);
            let hit = ranges().find(|r| r.family == family && r.first <= key && key <= r.last)?;
            assert_eq!(addr_of(family, key), addr);
            country(hit.record).map(|c| c.to_string())
        };
        // Deutsche Telekom, Comcast, Singtel; Deutsche Telekom again.
        assert_eq!(find("87.128.0.1").as_deref(), Some("DE"));
        assert_eq!(find("73.0.0.1").as_deref(), Some("US"));
        assert_eq!(find("165.21.0.1").as_deref(), Some("SG"));
        assert_eq!(find("2003::1").as_deref(), Some("DE"));
        assert_eq!(find("10.0.0.1"), None);
    }
}
