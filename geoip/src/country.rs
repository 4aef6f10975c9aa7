//! What is known of a country from its code alone: continent, and one point that stands for it.
//!
//! Tables without coordinates (the built-in one) still have to say which PoP is nearest. The
//! point is the middle of the *people*, judged by hand to about a degree, not of the land: for
//! small countries the capital or the weighted middle of the large cities; for large ones (US, CA,
//! RU, AU, BR, CN, IN, AR, KZ, ID, CL, DZ, EG, SE, NO, FI) the population-weighted point, so that the US
//! is in Missouri rather than Kansas, Canada in Ontario, Russia on the Volga, Australia in New South Wales. Who needs
//! better than "the right part of the continent" brings a city database.
//!
//! Codes are ISO 3166-1 alpha-2, with XK for Kosovo (user-assigned, in use in every database).
//! Continents follow MaxMind's: Turkey, Cyprus and the Caucasus are AS, Russia is EU, the whole
//! of Central America and the Caribbean is NA.

use crate::place::Continent::{self, Africa, Antarctica, Asia, Europe, NorthAmerica, Oceania, SouthAmerica};

/// (code, continent, degrees north, degrees east), sorted by code.
#[rustfmt::skip]
pub(crate) const COUNTRIES: [(&[u8; 2], Continent, f32, f32); 250] = [
    (b"AD", Europe, 42.51, 1.52), (b"AE", Asia, 25.07, 55.19), (b"AF", Asia, 34.53, 69.17),
    (b"AG", NorthAmerica, 17.12, -61.85), (b"AI", NorthAmerica, 18.22, -63.05),
    (b"AL", Europe, 41.33, 19.82), (b"AM", Asia, 40.18, 44.51), (b"AO", Africa, -8.84, 13.23),
    (b"AQ", Antarctica, -77.85, 166.67), (b"AR", SouthAmerica, -34.60, -60.50),
    (b"AS", Oceania, -14.28, -170.70), (b"AT", Europe, 48.00, 15.40),
    (b"AU", Oceania, -34.50, 147.80), (b"AW", NorthAmerica, 12.52, -70.03),
    (b"AX", Europe, 60.10, 19.94), (b"AZ", Asia, 40.41, 49.00), (b"BA", Europe, 44.20, 17.90),
    (b"BB", NorthAmerica, 13.10, -59.61), (b"BD", Asia, 23.81, 90.41), (b"BE", Europe, 50.85, 4.35),
    (b"BF", Africa, 12.37, -1.52), (b"BG", Europe, 42.60, 24.20), (b"BH", Asia, 26.22, 50.58),
    (b"BI", Africa, -3.38, 29.36), (b"BJ", Africa, 6.50, 2.40),
    (b"BL", NorthAmerica, 17.90, -62.85), (b"BM", NorthAmerica, 32.29, -64.78),
    (b"BN", Asia, 4.89, 114.94), (b"BO", SouthAmerica, -16.90, -66.20),
    (b"BQ", NorthAmerica, 12.15, -68.27), (b"BR", SouthAmerica, -20.50, -45.50),
    (b"BS", NorthAmerica, 25.05, -77.35), (b"BT", Asia, 27.47, 89.64),
    (b"BV", Antarctica, -54.42, 3.36), (b"BW", Africa, -24.65, 25.91),
    (b"BY", Europe, 53.90, 27.57), (b"BZ", NorthAmerica, 17.50, -88.20),
    (b"CA", NorthAmerica, 46.50, -81.00), (b"CC", Asia, -12.19, 96.83),
    (b"CD", Africa, -4.33, 18.00), (b"CF", Africa, 4.39, 18.56), (b"CG", Africa, -4.26, 15.24),
    (b"CH", Europe, 47.20, 8.10), (b"CI", Africa, 5.60, -4.20), (b"CK", Oceania, -21.21, -159.78),
    (b"CL", SouthAmerica, -33.90, -71.00), (b"CM", Africa, 4.00, 10.60),
    (b"CN", Asia, 32.50, 114.50), (b"CO", SouthAmerica, 5.40, -74.60),
    (b"CR", NorthAmerica, 9.95, -84.10), (b"CU", NorthAmerica, 22.60, -80.80),
    (b"CV", Africa, 14.93, -23.51), (b"CW", NorthAmerica, 12.12, -68.93),
    (b"CX", Asia, -10.42, 105.68), (b"CY", Asia, 35.00, 33.30), (b"CZ", Europe, 49.85, 15.20),
    (b"DE", Europe, 50.70, 9.60), (b"DJ", Africa, 11.59, 43.15), (b"DK", Europe, 55.75, 11.50),
    (b"DM", NorthAmerica, 15.30, -61.39), (b"DO", NorthAmerica, 18.60, -70.00),
    (b"DZ", Africa, 36.20, 3.10), (b"EC", SouthAmerica, -1.60, -79.20),
    (b"EE", Europe, 59.20, 25.20), (b"EG", Africa, 30.04, 31.24), (b"EH", Africa, 27.15, -13.20),
    (b"ER", Africa, 15.32, 38.93), (b"ES", Europe, 40.20, -3.40), (b"ET", Africa, 9.02, 38.75),
    (b"FI", Europe, 61.00, 24.70), (b"FJ", Oceania, -18.12, 178.40),
    (b"FK", SouthAmerica, -51.70, -57.85), (b"FM", Oceania, 6.92, 158.16),
    (b"FO", Europe, 62.01, -6.77), (b"FR", Europe, 47.60, 2.60), (b"GA", Africa, 0.39, 9.45),
    (b"GB", Europe, 52.40, -1.50), (b"GD", NorthAmerica, 12.05, -61.75),
    (b"GE", Asia, 41.80, 44.30), (b"GF", SouthAmerica, 4.92, -52.31), (b"GG", Europe, 49.46, -2.54),
    (b"GH", Africa, 5.90, -0.80), (b"GI", Europe, 36.14, -5.35),
    (b"GL", NorthAmerica, 64.18, -51.72), (b"GM", Africa, 13.45, -16.58),
    (b"GN", Africa, 9.64, -13.58), (b"GP", NorthAmerica, 16.24, -61.53),
    (b"GQ", Africa, 3.75, 8.78), (b"GR", Europe, 38.20, 23.40), (b"GS", Antarctica, -54.28, -36.51),
    (b"GT", NorthAmerica, 14.63, -90.55), (b"GU", Oceania, 13.47, 144.79),
    (b"GW", Africa, 11.86, -15.60), (b"GY", SouthAmerica, 6.80, -58.16),
    (b"HK", Asia, 22.32, 114.17), (b"HM", Antarctica, -53.08, 73.50),
    (b"HN", NorthAmerica, 14.80, -87.20), (b"HR", Europe, 45.70, 16.00),
    (b"HT", NorthAmerica, 18.60, -72.30), (b"HU", Europe, 47.40, 19.30),
    (b"ID", Asia, -6.60, 108.50), (b"IE", Europe, 53.20, -6.90), (b"IL", Asia, 32.00, 34.85),
    (b"IM", Europe, 54.15, -4.48), (b"IN", Asia, 21.80, 78.80), (b"IO", Asia, -7.31, 72.42),
    (b"IQ", Asia, 33.31, 44.37), (b"IR", Asia, 34.50, 51.60), (b"IS", Europe, 64.14, -21.90),
    (b"IT", Europe, 43.30, 11.60), (b"JE", Europe, 49.19, -2.11),
    (b"JM", NorthAmerica, 18.00, -76.80), (b"JO", Asia, 31.95, 35.93), (b"JP", Asia, 35.50, 137.80),
    (b"KE", Africa, -1.10, 36.90), (b"KG", Asia, 42.60, 74.20), (b"KH", Asia, 11.60, 104.90),
    (b"KI", Oceania, 1.33, 172.98), (b"KM", Africa, -11.70, 43.26),
    (b"KN", NorthAmerica, 17.30, -62.72), (b"KP", Asia, 39.04, 125.76),
    (b"KR", Asia, 36.90, 127.50), (b"KW", Asia, 29.35, 47.97), (b"KY", NorthAmerica, 19.30, -81.38),
    (b"KZ", Asia, 46.00, 72.50), (b"LA", Asia, 17.97, 102.63), (b"LB", Asia, 33.89, 35.50),
    (b"LC", NorthAmerica, 14.00, -60.99), (b"LI", Europe, 47.14, 9.52), (b"LK", Asia, 6.95, 79.95),
    (b"LR", Africa, 6.31, -10.80), (b"LS", Africa, -29.32, 27.48), (b"LT", Europe, 55.00, 24.40),
    (b"LU", Europe, 49.61, 6.13), (b"LV", Europe, 56.95, 24.11), (b"LY", Africa, 32.60, 14.50),
    (b"MA", Africa, 33.50, -7.10), (b"MC", Europe, 43.74, 7.42), (b"MD", Europe, 47.05, 28.75),
    (b"ME", Europe, 42.44, 19.26), (b"MF", NorthAmerica, 18.07, -63.08),
    (b"MG", Africa, -18.90, 47.50), (b"MH", Oceania, 7.10, 171.38), (b"MK", Europe, 41.90, 21.45),
    (b"ML", Africa, 12.65, -7.95), (b"MM", Asia, 18.50, 96.20), (b"MN", Asia, 47.90, 106.90),
    (b"MO", Asia, 22.20, 113.55), (b"MP", Oceania, 15.19, 145.75),
    (b"MQ", NorthAmerica, 14.61, -61.05), (b"MR", Africa, 18.08, -15.97),
    (b"MS", NorthAmerica, 16.79, -62.21), (b"MT", Europe, 35.90, 14.47),
    (b"MU", Africa, -20.20, 57.50), (b"MV", Asia, 4.18, 73.51), (b"MW", Africa, -14.60, 34.40),
    (b"MX", NorthAmerica, 20.60, -100.60), (b"MY", Asia, 3.40, 102.00),
    (b"MZ", Africa, -21.50, 34.50), (b"NA", Africa, -22.00, 17.00),
    (b"NC", Oceania, -22.27, 166.45), (b"NE", Africa, 13.52, 2.11),
    (b"NF", Oceania, -29.04, 167.95), (b"NG", Africa, 7.80, 5.80),
    (b"NI", NorthAmerica, 12.20, -86.20), (b"NL", Europe, 52.15, 5.00),
    (b"NO", Europe, 60.40, 9.90), (b"NP", Asia, 27.60, 85.20), (b"NR", Oceania, -0.53, 166.93),
    (b"NU", Oceania, -19.06, -169.92), (b"NZ", Oceania, -38.60, 174.90),
    (b"OM", Asia, 23.40, 58.20), (b"PA", NorthAmerica, 8.98, -79.52),
    (b"PE", SouthAmerica, -11.40, -76.60), (b"PF", Oceania, -17.55, -149.57),
    (b"PG", Oceania, -7.80, 146.30), (b"PH", Asia, 13.40, 121.70), (b"PK", Asia, 30.30, 71.50),
    (b"PL", Europe, 51.90, 19.20), (b"PM", NorthAmerica, 46.78, -56.18),
    (b"PN", Oceania, -25.07, -130.10), (b"PR", NorthAmerica, 18.38, -66.20),
    (b"PS", Asia, 31.80, 34.90), (b"PT", Europe, 39.90, -8.60), (b"PW", Oceania, 7.45, 134.53),
    (b"PY", SouthAmerica, -25.30, -57.20), (b"QA", Asia, 25.29, 51.53),
    (b"RE", Africa, -21.10, 55.50), (b"RO", Europe, 45.50, 25.40), (b"RS", Europe, 44.60, 20.60),
    (b"RU", Europe, 55.60, 46.00), (b"RW", Africa, -1.95, 30.06), (b"SA", Asia, 23.90, 44.80),
    (b"SB", Oceania, -9.43, 159.96), (b"SC", Africa, -4.62, 55.45), (b"SD", Africa, 15.55, 32.53),
    (b"SE", Europe, 59.00, 16.00), (b"SG", Asia, 1.30, 103.82), (b"SH", Africa, -15.94, -5.72),
    (b"SI", Europe, 46.10, 14.80), (b"SJ", Europe, 78.22, 15.64), (b"SK", Europe, 48.60, 18.70),
    (b"SL", Africa, 8.45, -13.10), (b"SM", Europe, 43.94, 12.46), (b"SN", Africa, 14.72, -17.20),
    (b"SO", Africa, 2.05, 45.32), (b"SR", SouthAmerica, 5.84, -55.17), (b"SS", Africa, 4.85, 31.60),
    (b"ST", Africa, 0.34, 6.73), (b"SV", NorthAmerica, 13.70, -89.15),
    (b"SX", NorthAmerica, 18.04, -63.06), (b"SY", Asia, 34.60, 36.70),
    (b"SZ", Africa, -26.45, 31.35), (b"TC", NorthAmerica, 21.77, -72.25),
    (b"TD", Africa, 12.11, 15.04), (b"TF", Antarctica, -49.35, 70.22), (b"TG", Africa, 6.20, 1.20),
    (b"TH", Asia, 14.20, 100.70), (b"TJ", Asia, 38.56, 68.77), (b"TK", Oceania, -9.20, -171.85),
    (b"TL", Asia, -8.56, 125.57), (b"TM", Asia, 37.95, 58.38), (b"TN", Africa, 36.20, 10.20),
    (b"TO", Oceania, -21.14, -175.20), (b"TR", Asia, 39.60, 32.60),
    (b"TT", NorthAmerica, 10.55, -61.40), (b"TV", Oceania, -8.52, 179.20),
    (b"TW", Asia, 24.30, 120.90), (b"TZ", Africa, -6.20, 36.80), (b"UA", Europe, 49.30, 31.50),
    (b"UG", Africa, 0.35, 32.58), (b"UM", Oceania, 19.28, 166.65),
    (b"US", NorthAmerica, 38.60, -91.00), (b"UY", SouthAmerica, -34.70, -56.10),
    (b"UZ", Asia, 40.70, 67.50), (b"VA", Europe, 41.90, 12.45),
    (b"VC", NorthAmerica, 13.16, -61.22), (b"VE", SouthAmerica, 10.10, -67.40),
    (b"VG", NorthAmerica, 18.43, -64.62), (b"VI", NorthAmerica, 18.34, -64.93),
    (b"VN", Asia, 15.50, 106.50), (b"VU", Oceania, -17.73, 168.32),
    (b"WF", Oceania, -13.28, -176.18), (b"WS", Oceania, -13.83, -171.77),
    (b"XK", Europe, 42.66, 21.16), (b"YE", Asia, 15.00, 44.60), (b"YT", Africa, -12.78, 45.23),
    (b"ZA", Africa, -27.60, 28.50), (b"ZM", Africa, -14.60, 28.30), (b"ZW", Africa, -18.60, 30.80),
];

/// Row of a country code; `None` for codes no country has (`ZZ`, `EU`, `AP`).
pub(crate) fn country(code: [u8; 2]) -> Option<&'static (&'static [u8; 2], Continent, f32, f32)> {
    let [first, second] = code.map(|letter| usize::from(letter.wrapping_sub(b'A')));
    let at = *ROWS.get(first)?.get(second)?;
    COUNTRIES.get(usize::from(at))
}

/// Row by both letters, [`NO_ROW`] where there is none: a city database asks a million times.
static ROWS: [[u8; 26]; 26] = {
    let mut rows = [[NO_ROW; 26]; 26];
    let mut at = 0;
    while at < COUNTRIES.len() {
        let code = COUNTRIES[at].0;
        rows[(code[0] - b'A') as usize][(code[1] - b'A') as usize] = at as u8;
        at += 1;
    }
    rows
};
const NO_ROW: u8 = u8::MAX;
const _: () = assert!(COUNTRIES.len() <= NO_ROW as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_and_on_the_globe() {
        assert!(COUNTRIES.is_sorted_by(|a, b| a.0 < b.0));
        for (code, _, north, east) in &COUNTRIES {
            assert!((-90.0..=90.0).contains(north) && (-180.0..=180.0).contains(east), "{code:?}");
        }
    }

    #[test]
    fn knows_every_code_and_no_other() {
        assert_eq!(country(*b"DE").unwrap().1, Europe);
        assert_eq!(country(*b"ZW").unwrap().1, Africa);
        assert!(country(*b"ZZ").is_none());
        assert!(country(*b"de").is_none());
    }
}
