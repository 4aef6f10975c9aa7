//! `when = { … }`: conditions, all of which must hold.

use std::net::IpAddr;

use toml::de::DeValue;

use super::{
    super::{
        edge::is_host,
        geography::prefix,
        keys,
        reader::{Section, Value, integer, members},
    },
    Names,
};
use crate::{
    config::{
        Match, Network,
        rules::{Condition, LIST_MAX, Test, TimeWindow},
    },
    countries, fields,
    glob::Glob,
    mistake::Mistake,
    patterns,
};

const PATHS: &str =
    "paths like \"/static/*\" or \"*.css\", where `*` is anything and `?` one character but `/`";
const CONTINENTS: [&str; 7] = ["AF", "AN", "AS", "EU", "NA", "OC", "SA"];
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// The conditions of a rule, and those of which none may hold.
pub(super) fn when(rule: &Section<'_>, names: &Names<'_>) -> (Vec<Condition>, Vec<Vec<Condition>>) {
    let Some(section) = rule.section("when", keys::RULE_WHEN) else { return (Vec::new(), Vec::new()) };
    let not = section.repeated("not", keys::RULE_NOT);
    let groups = not.iter().map(|group| {
        let read = conditions(group, names);
        if read.is_empty() {
            group.doc.mistake(
                group.span(),
                format!("[{}]: says nothing: the rule would never match", group.place),
            );
        }
        read
    });
    let groups = groups.collect();
    (conditions(&section, names), groups)
}

fn conditions(section: &Section<'_>, names: &Names<'_>) -> Vec<Condition> {
    let mut found = Vec::new();
    let mut take = |condition: Option<Condition>| found.extend(condition);
    take(texts(section, "path", PATHS, |value| glob(section, "path", value)).map(Condition::Path));
    take(
        texts(section, "path_regex", "regular expressions", |value| regex(section, "path_regex", value))
            .map(Condition::PathRegex),
    );
    take(
        texts(section, "extension", "extensions like \"css\"", |value| {
            let extension = value.get_ref().as_str()?.trim_start_matches('.').to_ascii_lowercase();
            let is_good = !extension.is_empty()
                && extension.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
            is_good.then_some(Some(extension))
        })
        .map(Condition::Extension),
    );
    take(
        texts(section, "method", "methods like \"GET\"", |value| {
            let method = value.get_ref().as_str()?;
            (fields::is_name(method) && method.bytes().all(|byte| !byte.is_ascii_lowercase()))
                .then(|| Some(method.to_owned()))
        })
        .map(Condition::Method),
    );
    take(
        texts(section, "host", "host names that the site serves", |value| {
            let host = value.get_ref().as_str()?.trim_end_matches('.').to_ascii_lowercase();
            if !is_host(host.strip_prefix("*.").unwrap_or(&host)) {
                return None;
            }
            let known = names.hosts.iter().any(|served| may_be(served, &host));
            if !known {
                let message =
                    format!("{}: the site does not serve {host}: this never holds", section.name("host"));
                let mistake = Mistake::at(section.doc.file, section.doc.text, value.span().start, message);
                section.doc.push(mistake.suggest(&host, names.hosts.iter().map(String::as_str)));
            }
            Some(Some(host))
        })
        .map(Condition::Host),
    );
    take(
        section
            .word("scheme", &[("http", "http"), ("https", "https")])
            .map(|s| Condition::Scheme(s.to_owned())),
    );
    for (name, tests) in subjects(section, "header", fields::is_name) {
        take(Some(Condition::Header(name.to_ascii_lowercase(), tests)));
    }
    for (name, tests) in subjects(section, "cookie", fields::is_name) {
        take(Some(Condition::Cookie(name, tests)));
    }
    for (name, tests) in subjects(section, "query", |name| !name.is_empty()) {
        take(Some(Condition::Query(name, tests)));
    }
    for condition in places(section) {
        take(Some(condition));
    }
    for (name, _, value) in section.entries("split") {
        take(split(section, name, value, names));
    }
    take(section.section("time", keys::RULE_TIME).map(|time| Condition::Time(window(&time))));
    found
}

/// A list of texts, each read by `read`: `None` is "not what is expected", `Some(None)` was told already.
fn texts<'d, T>(
    section: &Section<'d>,
    key: &str,
    expected: &str,
    mut read: impl FnMut(Value<'d>) -> Option<Option<T>>,
) -> Option<Vec<T>> {
    let found = section.list(key, expected, &mut read)?;
    if found.is_empty() && members(section.value(key)?).is_empty() {
        section
            .doc
            .mistake(section.place_of(key), format!("{}: an empty list never holds", section.name(key)));
    }
    if found.len() > LIST_MAX {
        let message = format!("{}: {} values, at most {LIST_MAX}", section.name(key), found.len());
        section.doc.mistake(section.place_of(key), message);
    }
    let found: Vec<T> = found.into_iter().flatten().collect();
    (!found.is_empty()).then_some(found)
}

/// `Some(None)`: what is wrong was told.
fn glob(section: &Section<'_>, key: &str, value: Value<'_>) -> Option<Option<Glob>> {
    let text = value.get_ref().as_str()?;
    let told = |reason: &str| {
        section.doc.mistake(value.span(), format!("{}: {text:?}: {reason}", section.name(key)));
        Some(None)
    };
    if !text.starts_with(['/', '*']) {
        return told("a path begins with `/` or `*`");
    }
    if text.contains(['#', '\\']) || text.contains("/../") || text.contains("/./") {
        return told("no path is spelled so: it would never match");
    }
    let bytes = text.as_bytes();
    let escapes = (0..bytes.len()).filter(|&at| bytes[at] == b'%').filter_map(|at| text.get(at + 1..at + 3));
    for escape in escapes {
        let decoded = u8::from_str_radix(escape, 16).unwrap_or(b'%');
        let is_kept = !(decoded.is_ascii_alphanumeric() || b"-._~".contains(&decoded));
        if !is_kept || escape.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return told(
                "paths are compared in their normal spelling: upper case digits, and nothing encoded that need not be",
            );
        }
    }
    match Glob::new(text) {
        Ok(glob) => Some(Some(glob)),
        Err(reason) => told(reason),
    }
}

/// `Some(None)`: what is wrong was told.
fn regex(section: &Section<'_>, key: &str, value: Value<'_>) -> Option<Option<String>> {
    let text = value.get_ref().as_str()?;
    match patterns::one(text) {
        Ok(_) => Some(Some(text.to_owned())),
        Err(reason) => {
            section.doc.mistake(
                value.span(),
                format!("{}: the regular expression {text:?}: {reason}", section.name(key)),
            );
            Some(None)
        }
    }
}

/// Whether a request for a host that `served` stands for can be one for `host`.
fn may_be(served: &str, host: &str) -> bool {
    let rest = |name: &str| name.split_once('.').map(|(_, rest)| rest.to_owned());
    match (served.strip_prefix("*."), host.strip_prefix("*.")) {
        (Some(one), Some(other)) => one == other,
        (Some(suffix), None) => rest(host).as_deref() == Some(suffix),
        (None, Some(suffix)) => rest(served).as_deref() == Some(suffix),
        (None, None) => served == host,
    }
}

/// `header = { name = … }` and its like.
fn subjects(section: &Section<'_>, key: &str, is_good: impl Fn(&str) -> bool) -> Vec<(String, Vec<Test>)> {
    let mut found = Vec::new();
    for (name, span, value) in section.entries(key) {
        if !is_good(name) {
            section.doc.mistake(span, format!("{}: {name:?} is no name", section.name(key)));
            continue;
        }
        let tests: Vec<Test> =
            members(value).into_iter().filter_map(|value| test(section, key, value)).collect();
        if !tests.is_empty() {
            found.push((name.to_owned(), tests));
        }
    }
    found
}

fn test(section: &Section<'_>, key: &str, value: Value<'_>) -> Option<Test> {
    const EXPECTED: &str =
        "true (it is there), false (it is not), a value, { regex = \"…\" }, or a list of those";
    match value.get_ref() {
        DeValue::Boolean(true) => Some(Test::Present),
        DeValue::Boolean(false) => Some(Test::Absent),
        DeValue::String(text) => Some(Test::Equals(text.to_string())),
        DeValue::Table(table) if table.len() == 1 && table.contains_key("regex") => {
            let pattern = table.get("regex")?;
            match regex(section, key, pattern) {
                Some(pattern) => pattern.map(Test::Regex),
                None => {
                    section.doc.expected(pattern, &section.name(key), "a regular expression");
                    None
                }
            }
        }
        _ => {
            section.doc.expected(value, &section.name(key), EXPECTED);
            None
        }
    }
}

fn places(section: &Section<'_>) -> Vec<Condition> {
    let mut found = Vec::new();
    let mut take = |places: Option<Vec<Match>>| found.extend(places.map(Condition::Place));
    let code = |value: Value<'_>| value.get_ref().as_str().map(str::to_owned);
    take(texts(section, "country", "two-letter codes of countries like \"DE\"", |value| {
        let country = code(value)?;
        if !countries::is_country(&country) {
            let message =
                format!("{}: there is no country {country:?} in ISO 3166-1", section.name("country"));
            let mistake = Mistake::at(section.doc.file, section.doc.text, value.span().start, message);
            let near = countries::all().find(|known| known.eq_ignore_ascii_case(&country));
            section.doc.push(mistake.suggest(near.unwrap_or(&country), near));
        }
        Some(Some(Match::Country(country)))
    }));
    take(texts(section, "continent", "some of AF, AN, AS, EU, NA, OC, SA", |value| {
        code(value)
            .filter(|code| CONTINENTS.contains(&code.as_str()))
            .map(|code| Some(Match::Continent(code)))
    }));
    take(texts(section, "subdivision", "a country and its subdivision, like \"US-CA\"", |value| {
        let text = code(value)?;
        let (country, subdivision) = text.split_once('-')?;
        let is_good = (1..=3).contains(&subdivision.len())
            && subdivision.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        (is_good && countries::is_country(country)).then(|| {
            Some(Match::Subdivision { country: country.to_owned(), subdivision: subdivision.to_owned() })
        })
    }));
    take(texts(section, "asn", "numbers of autonomous systems like 64500", |value| {
        let number = integer(value.get_ref()).and_then(|number| u32::try_from(number).ok());
        number.filter(|number| *number > 0).map(|number| Some(Match::Asn(number)))
    }));
    take(texts(section, "client", "networks like \"192.0.2.0/24\", host bits zero, or addresses", |value| {
        let (address, length) = network(value.get_ref().as_str()?)?;
        Some(Some(Match::Network(address, length)))
    }));
    found
}

/// A network, or an address as one.
pub(super) fn network(text: &str) -> Option<Network> {
    let host = |address: IpAddr| (address, if address.is_ipv4() { 32 } else { 128 });
    text.parse().ok().map(host).or_else(|| prefix(text))
}

fn split(section: &Section<'_>, name: &str, value: Value<'_>, names: &Names<'_>) -> Option<Condition> {
    let Some(split) = names.splits.iter().find(|split| split.name == name) else {
        let message = format!("{}: the site has no split `{name}`", section.name("split"));
        let mistake = Mistake::at(section.doc.file, section.doc.text, value.span().start, message);
        section.doc.push(mistake.suggest(name, names.splits.iter().map(|split| split.name.as_str())));
        return None;
    };
    let arms = members(value).into_iter().filter_map(|value| {
        let valid = split.arms.iter().map(|(arm, _)| arm.as_str());
        section.doc.reference(value, &section.name("split"), "arm", valid)
    });
    Some(Condition::Split(name.to_owned(), arms.collect()))
}

fn window(section: &Section<'_>) -> TimeWindow {
    let offset_secs = section
        .read("offset", "an offset from UTC like \"+01:00\"", |value| offset(value.as_str()?))
        .unwrap_or(0);
    let moment = |key: &str| {
        section.read(key, "a day or a time like \"2026-12-24\" or \"2026-12-24T18:00\"", |value| {
            Some(moment(value.as_str()?)? - i64::from(offset_secs))
        })
    };
    let mut window = TimeWindow {
        from: moment("from"),
        until: moment("until"),
        offset_secs,
        minutes: section.read("hours", "hours like \"08:00-18:30\"", |value| {
            let (from, to) = value.as_str()?.split_once('-')?;
            let (from, to) = (minute(from)?, minute(to)?);
            (from != to && from < 24 * 60).then_some((from, to))
        }),
        ..TimeWindow::default()
    };
    let days = section.list("weekdays", "days, of mon, tue, wed, thu, fri, sat, sun", |value| {
        DAYS.iter().position(|day| value.get_ref().as_str() == Some(day))
    });
    for day in days.into_iter().flatten() {
        window.weekdays[day] = true;
    }
    if window.from.is_some() && window.until.is_some() && window.from >= window.until {
        section
            .doc
            .mistake(section.place_of("until"), format!("{}: is not after `from`", section.name("until")));
    }
    if ["from", "until", "hours", "weekdays"].iter().all(|key| section.value(key).is_none()) {
        section.doc.mistake(section.span(), format!("[{}]: says no time", section.place));
    }
    window
}

/// Minutes of the day in `HH:MM`; `24:00` is its end.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |text: &str| {
        (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
    };
    let (hours, minutes): (u16, u16) = (two(hours)?, two(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= 24 * 60).then_some(minute)
}

fn offset(text: &str) -> Option<i32> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return (text == "Z").then_some(0),
    };
    Some(sign * i32::from(minute(rest).filter(|minutes| *minutes <= 14 * 60)?) * 60)
}

/// Seconds since the epoch, as if in UTC.
fn moment(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let mut parts = date.split('-');
    let mut number = |digits: usize| {
        let part =
            parts.next().filter(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()))?;
        part.parse::<i64>().ok()
    };
    let (year, month, day) = (number(4)?, number(2)?, number(2)?);
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1970..=9999).contains(&year) {
        return None;
    }
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days =
        [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1];
    if !(1..=days).contains(&day) {
        return None;
    }
    // Howard Hinnant's days_from_civil: years begin in March, so that leap days come last.
    let (year, month) = (if month <= 2 { year - 1 } else { year }, (month + 9) % 12);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some((era * 146_097 + day_of_era - 719_468) * 86_400 + i64::from(minute(time)?) * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_offsets() {
        assert_eq!(moment("1970-01-01"), Some(0));
        assert_eq!(moment("2026-11-21T12:00"), Some(1_795_262_400));
        assert_eq!(moment("2024-02-29"), Some(1_709_164_800));
        for bad in ["2026-02-29", "2026-13-01", "26-01-01", "2026-01-01T25:00", "2026-1-1", "x"] {
            assert_eq!(moment(bad), None, "{bad}");
        }
        assert_eq!((offset("+01:30"), offset("-05:00"), offset("Z")), (Some(5400), Some(-18_000), Some(0)));
        assert_eq!((offset("01:00"), offset("+15:00"), offset("")), (None, None, None));
    }
}
