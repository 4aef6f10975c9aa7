//! Where cities are that machines stand in, so that nobody has to look coordinates up.
//!
//! Cities with large exchanges and data centres, by their English names. Degrees to a tenth: eight kilometres, where
//! distances between PoPs are hundreds.

/// The place of a city: degrees north and east. Spaces, dashes and capitals don't matter.
pub fn place(name: &str) -> Option<(f64, f64)> {
    let wanted = plain(name);
    CITIES
        .iter()
        .find(|(city, ..)| plain(city) == wanted)
        .map(|&(_, latitude, longitude)| (latitude, longitude))
}

/// Every name, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    CITIES.iter().map(|(name, ..)| *name)
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

const CITIES: &[(&str, f64, f64)] = &[
    ("Accra", 5.6, -0.2),
    ("Amsterdam", 52.4, 4.9),
    ("Athens", 38.0, 23.7),
    ("Atlanta", 33.7, -84.4),
    ("Auckland", -36.8, 174.8),
    ("Bangkok", 13.8, 100.5),
    ("Barcelona", 41.4, 2.2),
    ("Beijing", 39.9, 116.4),
    ("Belgrade", 44.8, 20.5),
    ("Berlin", 52.5, 13.4),
    ("Bogota", 4.7, -74.1),
    ("Boston", 42.4, -71.1),
    ("Bratislava", 48.1, 17.1),
    ("Brisbane", -27.5, 153.0),
    ("Brussels", 50.8, 4.4),
    ("Bucharest", 44.4, 26.1),
    ("Budapest", 47.5, 19.0),
    ("Buenos Aires", -34.6, -58.4),
    ("Cairo", 30.0, 31.2),
    ("Cape Town", -33.9, 18.4),
    ("Chennai", 13.1, 80.3),
    ("Chicago", 41.9, -87.6),
    ("Copenhagen", 55.7, 12.6),
    ("Dallas", 32.8, -96.8),
    ("Delhi", 28.6, 77.2),
    ("Denver", 39.7, -105.0),
    ("Doha", 25.3, 51.5),
    ("Dubai", 25.2, 55.3),
    ("Dublin", 53.3, -6.3),
    ("Dusseldorf", 51.2, 6.8),
    ("Falkenstein", 50.5, 12.4),
    ("Frankfurt", 50.1, 8.7),
    ("Geneva", 46.2, 6.1),
    ("Hamburg", 53.6, 10.0),
    ("Hanoi", 21.0, 105.8),
    ("Helsinki", 60.2, 24.9),
    ("Hillsboro", 45.5, -122.9),
    ("Ho Chi Minh City", 10.8, 106.6),
    ("Hong Kong", 22.3, 114.2),
    ("Houston", 29.8, -95.4),
    ("Istanbul", 41.0, 29.0),
    ("Jakarta", -6.2, 106.8),
    ("Johannesburg", -26.2, 28.0),
    ("Karachi", 24.9, 67.0),
    ("Kuala Lumpur", 3.1, 101.7),
    ("Kyiv", 50.5, 30.5),
    ("Lagos", 6.5, 3.4),
    ("Las Vegas", 36.2, -115.1),
    ("Lima", -12.0, -77.0),
    ("Lisbon", 38.7, -9.1),
    ("Ljubljana", 46.1, 14.5),
    ("London", 51.5, -0.1),
    ("Los Angeles", 34.1, -118.2),
    ("Luxembourg", 49.6, 6.1),
    ("Madrid", 40.4, -3.7),
    ("Manchester", 53.5, -2.2),
    ("Manila", 14.6, 121.0),
    ("Marseille", 43.3, 5.4),
    ("Melbourne", -37.8, 145.0),
    ("Mexico City", 19.4, -99.1),
    ("Miami", 25.8, -80.2),
    ("Milan", 45.5, 9.2),
    ("Montreal", 45.5, -73.6),
    ("Moscow", 55.8, 37.6),
    ("Mumbai", 19.1, 72.9),
    ("Munich", 48.1, 11.6),
    ("Nairobi", -1.3, 36.8),
    ("New York", 40.7, -74.0),
    ("Newark", 40.7, -74.2),
    ("Nuremberg", 49.5, 11.1),
    ("Osaka", 34.7, 135.5),
    ("Oslo", 59.9, 10.8),
    ("Paris", 48.9, 2.4),
    ("Perth", -32.0, 115.9),
    ("Phoenix", 33.4, -112.1),
    ("Portland", 45.5, -122.7),
    ("Prague", 50.1, 14.4),
    ("Riga", 56.9, 24.1),
    ("Rio de Janeiro", -22.9, -43.2),
    ("Riyadh", 24.7, 46.7),
    ("Roubaix", 50.7, 3.2),
    ("Salt Lake City", 40.8, -111.9),
    ("San Francisco", 37.8, -122.4),
    ("San Jose", 37.3, -121.9),
    ("Santiago", -33.4, -70.7),
    ("Sao Paulo", -23.6, -46.6),
    ("Seattle", 47.6, -122.3),
    ("Seoul", 37.6, 127.0),
    ("Shanghai", 31.2, 121.5),
    ("Shenzhen", 22.5, 114.1),
    ("Singapore", 1.3, 103.8),
    ("Sofia", 42.7, 23.3),
    ("Stockholm", 59.3, 18.1),
    ("Strasbourg", 48.6, 7.8),
    ("Sydney", -33.9, 151.2),
    ("Taipei", 25.0, 121.5),
    ("Tallinn", 59.4, 24.8),
    ("Tel Aviv", 32.1, 34.8),
    ("Tokyo", 35.7, 139.7),
    ("Toronto", 43.7, -79.4),
    ("Vancouver", 49.3, -123.1),
    ("Vienna", 48.2, 16.4),
    ("Vilnius", 54.7, 25.3),
    ("Warsaw", 52.2, 21.0),
    ("Washington", 38.9, -77.0),
    ("Zurich", 47.4, 8.5),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cities_are_on_the_globe_in_order_and_found_however_they_are_written() {
        assert_eq!(place("new-york"), Some((40.7, -74.0)));
        assert_eq!(place("sao paulo"), place("Sao Paulo"));
        assert_eq!(place("atlantis"), None);
        assert!(CITIES.is_sorted_by(|a, b| a.0 < b.0));
        assert!(CITIES.iter().all(|(_, north, east)| north.abs() <= 90.0 && east.abs() <= 180.0));
    }
}
