//! `[[site.NAME.rule]]`, `[site.NAME.split.NAME]` and `[site.NAME.error_pages]`.
//!
//! [`when`] reads conditions, [`then`] what happens, [`check`] finds what only shows between rules.

mod check;
mod then;
mod when;

use std::collections::BTreeMap;

use super::{
    check_name, is_name, keys, once,
    reader::{Section, integer, number},
};
use crate::{
    config::{
        Network, Origin,
        rules::{ErrorPages, RULES_MAX, SiteRule, Split},
    },
    fields,
    files::Role,
};

/// Arms of one split.
const ARMS_MAX: usize = 16;

/// Splits of one site: each is worked out once per request at most.
const SPLITS_MAX: usize = 16;

/// What the rules of a site may name.
pub(super) struct Names<'a> {
    pub origins: &'a [Origin],
    pub splits: &'a [Split],
    /// Host names the site serves.
    pub hosts: &'a [String],
}

/// Reads the rules of a site, in order.
pub(super) fn rules(site: &Section<'_>, names: &Names<'_>) -> Vec<SiteRule> {
    let sections = site.repeated("rule", keys::SITE_RULE);
    if sections.len() > RULES_MAX {
        let message = format!("{}: {} rules, at most {RULES_MAX}", site.name("rule"), sections.len());
        site.doc.mistake(site.place_of("rule"), message);
        return Vec::new();
    }
    let mut seen = BTreeMap::new();
    let mut read = Vec::with_capacity(sections.len());
    for section in &sections {
        if let Some(rule) = rule(section, names) {
            once(&mut seen, section, "name", rule.name.clone());
            read.push((section, rule));
        }
    }
    check::all(site, &read, names);
    read.into_iter().map(|(_, rule)| rule).collect()
}

fn rule(section: &Section<'_>, names: &Names<'_>) -> Option<SiteRule> {
    section.required("name", "a name for the rule");
    let name = section
        .read("name", super::NAME, |value| value.as_str().filter(|name| is_name(name)).map(str::to_owned))?;
    let (when, not) = when::when(section, names);
    let continues = section.read("continue", "true or false", |value| value.as_bool()).unwrap_or(false);
    let then = section.section("then", keys::THEN).map(|then| then::then(&then, names)).unwrap_or_default();
    Some(SiteRule { name, when, not, then, continues })
}

/// Reads the splits of a site.
pub(super) fn splits(site: &Section<'_>) -> Vec<Split> {
    let named = site.named("split", keys::SPLIT);
    if named.len() > SPLITS_MAX {
        let message = format!("{}: {} splits, at most {SPLITS_MAX}", site.name("split"), named.len());
        site.doc.mistake(site.place_of("split"), message);
    }
    named.into_iter().filter_map(|(name, section)| split(name, &section)).collect()
}

fn split(name: String, section: &Section<'_>) -> Option<Split> {
    check_name(section, &name);
    section.required("arms", "arms with their percentages, like { a = 90, b = 10 }");
    let mut arms: Vec<(String, u32)> = Vec::new();
    for (arm, _, value) in section.entries("arms") {
        let share = number(value.get_ref()).filter(|share| (0.0..=100.0).contains(share));
        match share.filter(|_| is_name(arm)) {
            // Hundredths of a percent: finer is noise.
            Some(share) => arms.push((arm.to_owned(), (share * 100.0).round() as u32)),
            None => {
                section.doc.expected(value, &section.name("arms"), "names with percentages from 0 to 100")
            }
        }
    }
    let whole: u32 = arms.iter().map(|(_, share)| share).sum();
    if section.value("arms").is_some() && (whole != 10_000 || !(2..=ARMS_MAX).contains(&arms.len())) {
        let message = format!(
            "{}: expected 2 to {ARMS_MAX} arms that add up to 100, read {} with {}",
            section.name("arms"),
            arms.len(),
            f64::from(whole) / 100.0
        );
        section.doc.mistake(section.place_of("arms"), message);
    }
    arms.sort();
    let cookie = section.read("cookie", "the name of a cookie", |value| {
        value.as_str().filter(|name| fields::is_name(name)).map(str::to_owned)
    });
    let set_cookie = section.read("set_cookie", "true or false", |value| value.as_bool()).unwrap_or(false);
    if set_cookie && cookie.is_none() {
        section.doc.mistake(
            section.place_of("set_cookie"),
            format!("{}: goes with `cookie`", section.name("set_cookie")),
        );
    }
    let header = |key: &str, may: fn(&str) -> Result<(), &'static str>| {
        let name = section.string(key)?.to_ascii_lowercase();
        then::field_name(section, section.place_of(key), key, &name, may)
    };
    let request_header = header("request_header", fields::may_change_request);
    let response_header = header("response_header", fields::may_change_response);
    Some(Split { name, arms, cookie, set_cookie, request_header, response_header })
}

/// Reads `[site.NAME.error_pages]`.
pub(super) fn error_pages(site: &Section<'_>) -> ErrorPages {
    let mut pages = ErrorPages::default();
    let Some(section) = site.section("error_pages", keys::ERROR_PAGES) else { return pages };
    section.required(
        "pages",
        "files by status or class, like { \"404\" = \"404.html\", \"5xx\" = \"5xx.html\" }",
    );
    for (key, span, value) in section.entries("pages") {
        let class = match key {
            "4xx" => Some(4),
            "5xx" => Some(5),
            _ => None,
        };
        let status = key.parse::<u16>().ok().filter(|status| (400..600).contains(status));
        if class.is_none() && status.is_none() {
            let message = format!(
                "{}: read `{key}`, expected a status from 400 to 599, \"4xx\" or \"5xx\"",
                section.name("pages")
            );
            section.doc.mistake(span, message);
            continue;
        }
        let Some(path) = section.path_of(value, "pages", Role::Content) else { continue };
        pages.of_class.extend(class.map(|class| (class, path.clone())));
        pages.of_status.extend(status.map(|status| (status, path)));
    }
    pages.replace_origin =
        section.read("replace_origin", "true or false", |value| value.as_bool()).unwrap_or(false);
    pages
}

/// Reads `request_id_from`.
pub(super) fn request_id_from(site: &Section<'_>) -> Vec<Network> {
    let networks = "networks like \"192.0.2.0/24\", host bits zero, or addresses";
    let read = site.list("request_id_from", networks, |value| when::network(value.get_ref().as_str()?));
    read.unwrap_or_default()
}

/// A status, one of a range.
fn status(section: &Section<'_>, key: &str, good: std::ops::Range<u16>) -> Option<u16> {
    section.read(key, &format!("a status from {} to {}", good.start, good.end - 1), |value| {
        integer(value).and_then(|status| u16::try_from(status).ok()).filter(|status| good.contains(status))
    })
}

#[cfg(test)]
mod tests;
