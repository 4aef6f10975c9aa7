//! Where something is: codes, coordinates, and the distance between two points.
//!
//! [`Place`] is small and `Copy`: a city database has a million of them in hand while it is compiled.
//! What a place does not say is `None`, never an empty string; what its country code implies
//! (continent, an approximate point) is worked out on demand and never stored as if it were known.

use std::{fmt, str::FromStr};

use crate::country;

/// Mean radius of the Earth in km (IUGG). The ellipsoid differs from it by 0.3 %, far less than
/// what geolocation is off by.
const EARTH_RADIUS_KM: f64 = 6371.0088;

/// A continent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Continent {
    /// AF
    Africa,
    /// AN
    Antarctica,
    /// AS
    Asia,
    /// EU
    Europe,
    /// NA
    NorthAmerica,
    /// OC
    Oceania,
    /// SA
    SouthAmerica,
}

impl Continent {
    /// All of them, by code.
    pub const ALL: [Self; 7] = [
        Self::Africa,
        Self::Antarctica,
        Self::Asia,
        Self::Europe,
        Self::NorthAmerica,
        Self::Oceania,
        Self::SouthAmerica,
    ];

    /// Two-letter code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Africa => "AF",
            Self::Antarctica => "AN",
            Self::Asia => "AS",
            Self::Europe => "EU",
            Self::NorthAmerica => "NA",
            Self::Oceania => "OC",
            Self::SouthAmerica => "SA",
        }
    }

    /// A point among its people, for records that name only a continent. Good for choosing between
    /// PoPs oceans apart, nothing finer.
    pub const fn centroid(self) -> Coordinates {
        let (latitude, longitude) = match self {
            Self::Africa => (6.0, 18.0),
            Self::Antarctica => (-77.85, 166.67),
            Self::Asia => (27.0, 95.0),
            Self::Europe => (49.5, 14.0),
            Self::NorthAmerica => (36.0, -92.0),
            Self::Oceania => (-30.0, 150.0),
            Self::SouthAmerica => (-15.0, -57.0),
        };
        Coordinates { latitude, longitude }
    }
}

/// Text that is not the code it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct CodeError {
    text: String,
    expected: &'static str,
}

impl FromStr for Continent {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        Self::ALL.into_iter().find(|c| c.code().eq_ignore_ascii_case(text)).ok_or_else(|| CodeError {
            text: text.to_owned(),
            expected: "a continent code (AF AN AS EU NA OC SA)",
        })
    }
}

impl fmt::Display for Continent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An ISO 3166-1 alpha-2 code of a country there is, or XK.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

impl Country {
    /// From a code in either case; `None` for codes no country has, such as `ZZ`, which databases
    /// use for "unknown".
    pub fn new(code: &str) -> Option<Self> {
        let code: [u8; 2] = code.as_bytes().try_into().ok()?;
        let code = code.map(|b| b.to_ascii_uppercase());
        country::country(code).map(|row| Self(*row.0))
    }

    /// The code, upper case.
    pub fn code(&self) -> &str {
        // Only ASCII letters of the table get here.
        std::str::from_utf8(&self.0).unwrap_or("??")
    }

    /// Continent, as MaxMind counts them.
    pub fn continent(self) -> Continent {
        country::country(self.0).map_or(Continent::Antarctica, |row| row.1)
    }

    /// A point among its people; for large countries the population-weighted one.
    pub fn centroid(self) -> Coordinates {
        let (latitude, longitude) = country::country(self.0).map_or((0.0, 0.0), |r| (r.2, r.3));
        Coordinates { latitude, longitude }
    }

    /// Every country.
    pub fn all() -> impl Iterator<Item = Self> {
        country::COUNTRIES.iter().map(|row| Self(*row.0))
    }
}

impl FromStr for Country {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        Self::new(text).ok_or_else(|| CodeError {
            text: text.to_owned(),
            expected: "an ISO 3166-1 alpha-2 country code",
        })
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The part of an ISO 3166-2 code behind the country: one to three letters or digits, upper case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subdivision([u8; 3]);

impl Subdivision {
    /// From `CA`, `BY`, `13`; `None` for anything longer, such as a name.
    pub fn new(code: &str) -> Option<Self> {
        let bytes = code.as_bytes();
        if bytes.is_empty() || bytes.len() > 3 || !bytes.iter().all(u8::is_ascii_alphanumeric) {
            return None;
        }
        let mut padded = [0; 3];
        padded[..bytes.len()].copy_from_slice(bytes);
        Some(Self(padded.map(|b| b.to_ascii_uppercase())))
    }

    /// The code.
    pub fn code(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(3);
        // Only ASCII letters and digits get here.
        std::str::from_utf8(&self.0[..len]).unwrap_or("???")
    }
}

impl FromStr for Subdivision {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        Self::new(text).ok_or_else(|| CodeError {
            text: text.to_owned(),
            expected: "a subdivision code (ISO 3166-2 without the country)",
        })
    }
}

impl fmt::Display for Subdivision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Subdivision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A point in decimal degrees (WGS 84). Single precision is two metres, and half the memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coordinates {
    /// Degrees north, -90 to 90.
    pub latitude: f32,
    /// Degrees east, -180 to 180.
    pub longitude: f32,
}

impl Coordinates {
    /// `None` unless both are numbers on the globe.
    pub fn new(latitude: f64, longitude: f64) -> Option<Self> {
        let on_globe = (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
        on_globe.then_some(Self { latitude: latitude as f32, longitude: longitude as f32 })
    }

    /// Great-circle distance in km, by the haversine formula: exact enough at every distance, the
    /// short ones included, where the law of cosines loses its digits.
    pub fn distance_km(self, other: Self) -> f64 {
        let (lat1, lat2) = (f64::from(self.latitude), f64::from(other.latitude));
        let d_lat = (lat2 - lat1).to_radians();
        let d_lon = (f64::from(other.longitude) - f64::from(self.longitude)).to_radians();
        let h = (d_lat / 2.0).sin().powi(2)
            + lat1.to_radians().cos() * lat2.to_radians().cos() * (d_lon / 2.0).sin().powi(2);
        2.0 * EARTH_RADIUS_KM * h.sqrt().min(1.0).asin()
    }

    /// Unit vector from the Earth's centre. The dot product of two grows as their distance shrinks:
    /// ranking a thousand PoPs by it needs no trigonometry.
    pub fn unit(self) -> [f32; 3] {
        let (lat, lon) = (f64::from(self.latitude).to_radians(), f64::from(self.longitude).to_radians());
        [lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()].map(|x| x as f32)
    }
}

/// Where an address is, as far as anybody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// Continent, if stated; [`Place::continent`] also asks the country.
    pub continent: Option<Continent>,
    /// Country.
    pub country: Option<Country>,
    /// First-level subdivision of the country.
    pub subdivision: Option<Subdivision>,
    /// Coordinates, if stated; [`Place::point`] also asks country and continent.
    pub coordinates: Option<Coordinates>,
    /// Autonomous system the address is announced by.
    pub asn: Option<u32>,
}

impl Place {
    /// Continent, stated or the country's.
    pub fn continent(&self) -> Option<Continent> {
        self.continent.or_else(|| self.country.map(Country::continent))
    }

    /// The best single point: coordinates, else the country's centroid, else the continent's.
    pub fn point(&self) -> Option<Coordinates> {
        self.coordinates
            .or_else(|| self.country.map(Country::centroid))
            .or_else(|| self.continent.map(Continent::centroid))
    }

    /// Whether it says where, be it only the continent. An AS number alone is not a place.
    pub fn is_known(&self) -> bool {
        self.point().is_some()
    }

    /// Takes from `other` what this one lacks. What describes a point inside another country than
    /// the one known here is left: half of one place and half of another is neither.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        let agree = match (self.country, other.country) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => {
                self.continent.is_none() || other.continent().is_none() || self.continent == other.continent()
            }
        };
        let asn = self.asn.or(other.asn);
        if !agree {
            return Self { asn, ..self };
        }
        Self {
            continent: self.continent.or(other.continent),
            country: self.country.or(other.country),
            subdivision: self.subdivision.or(other.subdivision),
            coordinates: self.coordinates.or(other.coordinates),
            asn,
        }
    }
}

impl fmt::Display for Place {
    /// `EU DE BY (48.14, 11.58) AS3320`; `unknown` where nothing is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::with_capacity(5);
        parts.extend(self.continent().map(|c| c.to_string()));
        parts.extend(self.country.map(|c| c.to_string()));
        parts.extend(self.subdivision.map(|s| s.to_string()));
        parts.extend(self.coordinates.map(|c| format!("({:.2}, {:.2})", c.latitude, c.longitude)));
        parts.extend(self.asn.map(|asn| format!("AS{asn}")));
        if parts.is_empty() { f.write_str("unknown") } else { f.write_str(&parts.join(" ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERLIN: Coordinates = Coordinates { latitude: 52.52, longitude: 13.405 };
    const NEW_YORK: Coordinates = Coordinates { latitude: 40.7128, longitude: -74.006 };

    #[test]
    fn distances_match_the_globe() {
        assert!((BERLIN.distance_km(NEW_YORK) - 6385.0).abs() < 5.0);
        assert_eq!(BERLIN.distance_km(BERLIN), 0.0);
        let pole = Coordinates { latitude: 90.0, longitude: 0.0 };
        let other = Coordinates { latitude: -90.0, longitude: 77.0 };
        assert!((pole.distance_km(other) - 20015.1).abs() < 0.5);
        // Across the date line the short way.
        let (fiji, samoa) = (Country::new("FJ").unwrap(), Country::new("WS").unwrap());
        assert!(fiji.centroid().distance_km(samoa.centroid()) < 1300.0);
    }

    #[test]
    fn dot_product_ranks_like_distance() {
        let dot = |a: [f32; 3], b: [f32; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let points: Vec<_> = Country::all().map(Country::centroid).collect();
        for a in &points {
            for pair in points.windows(2) {
                let (d1, d2) = (a.distance_km(pair[0]), a.distance_km(pair[1]));
                if (d1 - d2).abs() > 25.0 {
                    let closer = dot(a.unit(), pair[0].unit()) > dot(a.unit(), pair[1].unit());
                    assert_eq!(closer, d1 < d2);
                }
            }
        }
    }

    #[test]
    fn codes() {
        assert_eq!(Country::new("de").unwrap().to_string(), "DE");
        assert_eq!(Country::new("ZZ"), None);
        assert_eq!(Country::new("DEU"), None);
        assert_eq!(Country::new("US").unwrap().continent(), Continent::NorthAmerica);
        assert_eq!(Subdivision::new("ca").unwrap().code(), "CA");
        assert_eq!(Subdivision::new("California"), None);
        assert_eq!(
            "XX".parse::<Continent>().unwrap_err().to_string(),
            "\"XX\" is not a continent code (AF AN AS EU NA OC SA)"
        );
    }

    #[test]
    fn joins_only_what_agrees() {
        let de = Place { country: Country::new("DE"), ..Place::default() };
        let berlin = Place { coordinates: Some(BERLIN), asn: Some(3320), ..de };
        let us = Place {
            country: Country::new("US"),
            coordinates: Some(NEW_YORK),
            asn: Some(1),
            ..Place::default()
        };
        assert_eq!(de.or(&berlin), berlin);
        assert_eq!(de.or(&us), Place { asn: Some(1), ..de });
        assert_eq!(Place::default().or(&us), us);
        assert_eq!(berlin.to_string(), "EU DE (52.52, 13.40) AS3320");
    }
}
