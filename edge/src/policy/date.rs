//! HTTP-dates (RFC 9110 §5.6.7): three forms in, one form out.
//!
//! Read as RFC 9111 §4.2 asks of caches: names without regard to case, any zone other than `GMT`
//! invalid. Nothing else is forgiven: an expiry that has to be guessed is no
//! expiry. The name of the day is checked to be one, not to be the right one.

use std::{
    str,
    time::{Duration, SystemTime},
};

use http::HeaderValue;

use super::time::Timestamp;

const SECS_PER_DAY: i64 = 86_400;
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// Reads an HTTP-date as seconds since the epoch, negative before it.
///
/// `now` places the two-digit years of the RFC 850 form: one that seems more than 50 years ahead
/// is the most recent past year with those digits.
pub fn parse(value: &[u8], now: Timestamp) -> Option<i64> {
    let text = str::from_utf8(value.trim_ascii()).ok()?.to_ascii_lowercase();
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        [name, month, "", day, clock, year] if short_day(name) => {
            instant(digits(year, 4)?, month_of(month)?, digits(day, 1)?, clock)
        }
        [name, day, month, year, clock, zone] => {
            if !short_day(name.strip_suffix(',')?) || zone != "gmt" {
                return None;
            }
            instant(digits(year, 4)?, month_of(month)?, digits(day, 2)?, clock)
        }
        [name, date, clock, zone] => {
            if !DAYS.contains(&name.strip_suffix(',')?) || zone != "gmt" {
                return None;
            }
            let mut date = date.split('-');
            let (day, month, year) = (date.next()?, date.next()?, date.next()?);
            if date.next().is_some() {
                return None;
            }
            let (day, month) = (digits(day, 2)?, month_of(month)?);
            century(digits(year, 2)?, month, day, clock, now)
        }
        [name, month, day, clock, year] if short_day(name) => {
            instant(digits(year, 4)?, month_of(month)?, digits(day, 2)?, clock)
        }
        _ => None,
    }
}

/// Writes the preferred form (IMF-fixdate).
pub fn format(secs: u64) -> HeaderValue {
    // The form has four digits for the year; httpdate panics past 9999.
    const END_OF_9999: u64 = 253_402_300_799;
    let text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(secs.min(END_OF_9999)));
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

fn short_day(name: &str) -> bool {
    DAYS.iter().any(|day| day.get(..3) == Some(name))
}

fn month_of(name: &str) -> Option<i64> {
    Some(MONTHS.iter().position(|month| *month == name)? as i64 + 1)
}

/// Exactly `count` digits.
fn digits(text: &str, count: usize) -> Option<i64> {
    let all_digits = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits { text.parse().ok() } else { None }
}

fn century(year: i64, month: i64, day: i64, clock: &str, now: Timestamp) -> Option<i64> {
    const FIFTY_YEARS_SECS: i64 = 50 * 31_556_952;
    let now_secs = now.secs() as i64;
    let this_century = 1970 + now_secs / 31_556_952;
    let this_century = this_century - this_century % 100;
    // The nearest reading that isn't more than 50 years ahead.
    for century in [this_century + 100, this_century, this_century - 100] {
        if let Some(secs) = instant(century + year, month, day, clock)
            && secs <= now_secs.saturating_add(FIFTY_YEARS_SECS)
        {
            return Some(secs);
        }
    }
    None
}

fn instant(year: i64, month: i64, day: i64, clock: &str) -> Option<i64> {
    let mut clock = clock.split(':');
    let (hour, minute, second) = (clock.next()?, clock.next()?, clock.next()?);
    let (hour, minute, second) = (digits(hour, 2)?, digits(minute, 2)?, digits(second, 2)?);
    // 60 is a leap second.
    if clock.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if day < 1 || day > longest {
        return None;
    }
    // Days since the epoch, counting years from March so that the leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(days * SECS_PER_DAY + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_795_000_000); // November 2026

    #[test]
    fn all_three_forms_are_one_instant() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "sun, 06 nov 1994 08:49:37 gmt",
            "SUN, 06 NOV 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun Nov 06 08:49:37 1994",
            "Mon, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), Some(784_111_777), "{text}");
        }
    }

    #[test]
    fn what_must_be_guessed_is_invalid() {
        for text in [
            "",
            "0",
            "-1",
            "784111777",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sunday, 06-Nov-94 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "06 Nov 1994 08:49:37 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), None, "{text}");
        }
        assert_eq!(parse(b"Sun, 06 Nov \xff994 08:49:37 GMT", NOW), None);
    }

    #[test]
    fn two_digit_years_are_at_most_fifty_years_ahead() {
        assert_eq!(
            parse(b"Monday, 01-Jan-70 00:00:00 GMT", NOW),
            parse(b"Wed, 01 Jan 2070 00:00:00 GMT", NOW)
        );
        assert_eq!(
            parse(b"Monday, 01-Jan-80 00:00:00 GMT", NOW),
            parse(b"Tue, 01 Jan 1980 00:00:00 GMT", NOW)
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        for secs in [0, 951_782_400, 951_868_799, 4_102_444_800, 253_402_300_799] {
            assert_eq!(parse(format(secs).as_bytes(), NOW), Some(secs as i64));
        }
        assert_eq!(format(u64::MAX), format(253_402_300_799));
        assert!(parse(b"Mon, 01 Jan 0001 00:00:00 GMT", NOW).is_some_and(|secs| secs < 0));
    }
}
