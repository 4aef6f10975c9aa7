//! Names of subdivisions → ISO 3166-2 codes, for databases that only have names.
//!
//! The flat schema's `state1` is an English name, rules are written with codes. Only the United
//! States and Canada are here: the countries large enough for several PoPs whose states operators
//! steer by. Elsewhere a flat database yields no subdivision, and rules on one do not match.

use crate::place::{Country, Subdivision};

/// United States: (name, code), sorted by name.
#[rustfmt::skip]
const STATES: [(&str, &str); 51] = [
    ("Alabama", "AL"), ("Alaska", "AK"), ("Arizona", "AZ"), ("Arkansas", "AR"),
    ("California", "CA"), ("Colorado", "CO"), ("Connecticut", "CT"), ("Delaware", "DE"),
    ("District of Columbia", "DC"), ("Florida", "FL"), ("Georgia", "GA"), ("Hawaii", "HI"),
    ("Idaho", "ID"), ("Illinois", "IL"), ("Indiana", "IN"), ("Iowa", "IA"), ("Kansas", "KS"),
    ("Kentucky", "KY"), ("Louisiana", "LA"), ("Maine", "ME"), ("Maryland", "MD"),
    ("Massachusetts", "MA"), ("Michigan", "MI"), ("Minnesota", "MN"), ("Mississippi", "MS"),
    ("Missouri", "MO"), ("Montana", "MT"), ("Nebraska", "NE"), ("Nevada", "NV"),
    ("New Hampshire", "NH"), ("New Jersey", "NJ"), ("New Mexico", "NM"), ("New York", "NY"),
    ("North Carolina", "NC"), ("North Dakota", "ND"), ("Ohio", "OH"), ("Oklahoma", "OK"),
    ("Oregon", "OR"), ("Pennsylvania", "PA"), ("Rhode Island", "RI"), ("South Carolina", "SC"),
    ("South Dakota", "SD"), ("Tennessee", "TN"), ("Texas", "TX"), ("Utah", "UT"), ("Vermont", "VT"),
    ("Virginia", "VA"), ("Washington", "WA"), ("West Virginia", "WV"), ("Wisconsin", "WI"),
    ("Wyoming", "WY"),
];

/// Canada: (name, code), sorted by name.
#[rustfmt::skip]
const PROVINCES: [(&str, &str); 13] = [
    ("Alberta", "AB"), ("British Columbia", "BC"), ("Manitoba", "MB"), ("New Brunswick", "NB"),
    ("Newfoundland and Labrador", "NL"), ("Northwest Territories", "NT"), ("Nova Scotia", "NS"),
    ("Nunavut", "NU"), ("Ontario", "ON"), ("Prince Edward Island", "PE"), ("Quebec", "QC"),
    ("Saskatchewan", "SK"), ("Yukon", "YT"),
];

/// Code of a state or province; `None` elsewhere and for names not in the list.
pub(crate) fn by_name(country: Country, name: &str) -> Option<Subdivision> {
    let table: &[(&str, &str)] = match country.code() {
        "US" => &STATES,
        "CA" => &PROVINCES,
        _ => return None,
    };
    let at = table.binary_search_by_key(&name, |row| row.0).ok()?;
    Subdivision::new(table[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_name_in_its_country() {
        for (code, table) in [("US", &STATES[..]), ("CA", &PROVINCES[..])] {
            let country = Country::new(code).unwrap();
            for (name, code) in table {
                assert_eq!(by_name(country, name).unwrap().code(), *code);
            }
        }
        assert_eq!(by_name(Country::new("US").unwrap(), "Ontario"), None);
        assert_eq!(by_name(Country::new("GE").unwrap(), "Georgia"), None);
    }
}
