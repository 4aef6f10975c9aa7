//! What only shows between the parts of a rule, or between rules: captures that nothing takes, rules that no request
//! reaches, redirects that lead to themselves, sets that grow too large.

use std::collections::{BTreeMap, BTreeSet};

use super::{super::reader::Section, Names};
use crate::{
    config::rules::{Condition, RuleAnswer, SUBJECTS_MAX, SiteRule, Test, Then},
    glob::Glob,
    patterns,
    template::{Piece, Template},
};

type Read<'a, 'd> = [(&'a Section<'d>, SiteRule)];

pub(super) fn all(site: &Section<'_>, rules: &Read<'_, '_>, names: &Names<'_>) {
    for (section, rule) in rules {
        captures(section, rule);
        effects(section, rule);
        redirects_to_itself(section, rule, names);
    }
    unreachable(rules);
    subjects(site, rules);
    sets(site, rules);
}

fn tell(section: &Section<'_>, message: impl std::fmt::Display) {
    section.doc.mistake(section.span(), format!("[{}] {message}", section.place));
}

/// Captures are those of the rule's own paths, and all of these take them.
fn captures(section: &Section<'_>, rule: &SiteRule) {
    let then = &rule.then;
    let mut templates: Vec<&Template> = Vec::new();
    for fields in [&then.request_headers, &then.response_headers] {
        templates.extend(fields.set.iter().chain(&fields.add).map(|(_, template)| template));
    }
    templates.extend(then.rewrite.iter().flat_map(|rewrite| rewrite.path.iter().chain(&rewrite.query)));
    if let Some(RuleAnswer::Redirect { to, .. }) = &then.answer {
        templates.push(to);
    }
    let wanted = templates.iter().map(|template| template.captures()).max().unwrap_or(0);
    if wanted == 0 {
        return;
    }
    let taken = rule.when.iter().filter_map(|condition| match condition {
        Condition::Path(globs) => globs.iter().map(|glob| glob.as_str().matches('*').count()).min(),
        Condition::PathRegex(all) => {
            all.iter().map(|text| patterns::one(text).map_or(0, |regex| regex.captures_len() - 1)).min()
        }
        _ => None,
    });
    // The first of the two is the one that captures.
    let taken: Vec<usize> = taken.collect();
    let has = taken.first().copied().unwrap_or(0);
    if taken.len() > 1 {
        tell(
            section,
            format_args!(
                "rule `{}`: ${wanted}: with both `path` and `path_regex`, which one takes it?",
                rule.name
            ),
        );
    } else if wanted > has {
        let from = if taken.is_empty() {
            "there is no `path` to take it from"
        } else {
            "not every pattern takes so many"
        };
        tell(section, format_args!("rule `{}`: ${wanted}: {from}", rule.name));
    }
}

/// Whether what a rule does can happen at all.
fn effects(section: &Section<'_>, rule: &SiteRule) {
    let Then { answer, .. } = &rule.then;
    if answer.is_some() && rule.continues {
        tell(
            section,
            format_args!("rule `{}`: answers the request: there is nothing to `continue`", rule.name),
        );
    }
    let on_the_way = Then {
        response_headers: rule.then.response_headers.clone(),
        client_cache_control: rule.then.client_cache_control.clone(),
        cors: rule.then.cors.clone(),
        throttle: rule.then.throttle,
        answer: answer.clone(),
        ..Then::default()
    };
    if answer.is_some() && rule.then != on_the_way {
        tell(
            section,
            format_args!(
                "rule `{}`: answers the request: what it says of cache, key, request fields, origin, path and tags has no effect",
                rule.name
            ),
        );
    }
    if rule.continues && rule.then == Then::default() {
        tell(section, format_args!("rule `{}`: does nothing: expected something in `then`", rule.name));
    }
    let has_preflights = rule.when.iter().all(|condition| match condition {
        Condition::Method(methods) => methods.iter().any(|method| method == "OPTIONS"),
        _ => true,
    });
    if rule.then.cors.is_some() && !has_preflights {
        tell(
            section,
            format_args!("rule `{}`: `cors` answers preflights, and `method` leaves OPTIONS out", rule.name),
        );
    }
}

/// Tells of rules that come after one that ends the list for all their requests.
fn unreachable(rules: &Read<'_, '_>) {
    for (position, (section, rule)) in rules.iter().enumerate() {
        let shadow =
            rules[..position].iter().find(|(_, earlier)| !earlier.continues && implies(rule, earlier));
        if let Some((_, earlier)) = shadow {
            let why = if earlier.when.is_empty() && earlier.not.is_empty() {
                "has no conditions"
            } else {
                "matches all of its requests"
            };
            tell(
                section,
                format_args!(
                    "rule `{}`: no request gets here: rule `{}` before it {why}, and does not `continue`",
                    rule.name, earlier.name
                ),
            );
        }
    }
}

/// Whether every request of `rule` is one of `earlier`, as far as that shows.
fn implies(rule: &SiteRule, earlier: &SiteRule) -> bool {
    let held = |wanted: &Condition| rule.when.iter().any(|condition| covers(wanted, condition));
    earlier.when.iter().all(held) && earlier.not.iter().all(|group| rule.not.contains(group))
}

/// Whether `wide` holds wherever `narrow` does.
fn covers(wide: &Condition, narrow: &Condition) -> bool {
    fn all_in<T: PartialEq>(wide: &[T], narrow: &[T]) -> bool {
        narrow.iter().all(|value| wide.contains(value))
    }
    fn tests(wide: &[Test], narrow: &[Test]) -> bool {
        let is_covered =
            |test: &Test| wide.contains(test) || (wide.contains(&Test::Present) && *test != Test::Absent);
        narrow.iter().all(is_covered)
    }
    match (wide, narrow) {
        (Condition::Path(wide), Condition::Path(narrow)) => {
            narrow.iter().all(|glob| wide.iter().any(|wide| wide.covers(glob)))
        }
        (Condition::PathRegex(wide), Condition::PathRegex(narrow))
        | (Condition::Extension(wide), Condition::Extension(narrow))
        | (Condition::Method(wide), Condition::Method(narrow))
        | (Condition::Host(wide), Condition::Host(narrow)) => all_in(wide, narrow),
        (Condition::Place(wide), Condition::Place(narrow)) => all_in(wide, narrow),
        (Condition::Header(one, wide), Condition::Header(other, narrow))
        | (Condition::Cookie(one, wide), Condition::Cookie(other, narrow))
        | (Condition::Query(one, wide), Condition::Query(other, narrow)) => {
            one == other && tests(wide, narrow)
        }
        (Condition::Split(one, wide), Condition::Split(other, narrow)) => {
            one == other && all_in(wide, narrow)
        }
        (wide, narrow) => wide == narrow,
    }
}

/// Finds redirects whose target they would redirect again. Where every `*` took an `x`, if it goes by more than the URL
/// it is left to the edge, which never sends a client to where it is.
fn redirects_to_itself(section: &Section<'_>, rule: &SiteRule, names: &Names<'_>) {
    let Some(RuleAnswer::Redirect { to, .. }) = &rule.then.answer else { return };
    let by_url = |condition: &Condition| {
        matches!(
            condition,
            Condition::Path(_) | Condition::Host(_) | Condition::Extension(_) | Condition::Scheme(_)
        )
    };
    if !rule.not.is_empty() || !rule.when.iter().all(by_url) {
        return;
    }
    let any = [Glob::new("/*").ok()];
    let globs: Vec<&Glob> = rule
        .when
        .iter()
        .find_map(|condition| match condition {
            Condition::Path(globs) => Some(globs.iter().collect()),
            _ => None,
        })
        .unwrap_or_else(|| any.iter().flatten().collect());
    let schemes: Vec<&str> =
        ["http", "https"].into_iter().filter(|scheme| matches_scheme(rule, scheme)).collect();
    let hosts = names.hosts.iter().map(|host| host.replace('*', "x"));
    let hosts: Vec<String> = hosts.filter(|host| matches_host(rule, host)).collect();
    for glob in globs {
        let path = glob.as_str().replace(['*', '?'], "x");
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        for (scheme, host) in schemes.iter().flat_map(|scheme| hosts.iter().map(move |host| (scheme, host))) {
            let Some(spans) = glob.captures(&path).filter(|_| matches(rule, &path, host, scheme)) else {
                continue;
            };
            let target = to.fill(|piece, out| match piece {
                Piece::Scheme => out.push_str(scheme),
                Piece::Host => out.push_str(host),
                Piece::Path => out.push_str(&path),
                Piece::Capture(number) => {
                    out.push_str(spans.get(number - 1).map_or("", |&(start, end)| &path[start..end]));
                }
                _ => {}
            });
            let (next_scheme, rest) = target.split_once("://").unwrap_or((scheme, ""));
            let (next_host, next_path) = match rest.find('/') {
                Some(at) => rest.split_at(at),
                None if rest.is_empty() => (host.as_str(), target.as_str()),
                None => (rest, "/"),
            };
            let next_host = next_host.split([':', '?']).next().unwrap_or(next_host);
            let next_path = next_path.split(['?', '#']).next().unwrap_or(next_path);
            if matches(rule, next_path, next_host, next_scheme) && hosts.iter().any(|host| host == next_host)
            {
                tell(
                    section,
                    format_args!(
                        "rule `{}`: leads to itself: {scheme}://{host}{path} is sent to {target}, which the rule matches again",
                        rule.name
                    ),
                );
                return;
            }
        }
    }
}

fn matches(rule: &SiteRule, path: &str, host: &str, scheme: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    matches_host(rule, host)
        && matches_scheme(rule, scheme)
        && rule.when.iter().all(|condition| match condition {
            Condition::Path(globs) => globs.iter().any(|glob| glob.matches(path)),
            Condition::Extension(all) => extension.as_ref().is_some_and(|extension| all.contains(extension)),
            _ => true,
        })
}

fn matches_scheme(rule: &SiteRule, scheme: &str) -> bool {
    rule.when.iter().all(|condition| !matches!(condition, Condition::Scheme(wanted) if wanted != scheme))
}

fn matches_host(rule: &SiteRule, host: &str) -> bool {
    rule.when.iter().all(|condition| match condition {
        Condition::Host(hosts) => hosts.iter().any(|wanted| match wanted.strip_prefix("*.") {
            Some(suffix) => host.split_once('.').is_some_and(|(_, rest)| rest == suffix),
            None => wanted == host,
        }),
        _ => true,
    })
}

/// Fields, cookies and parameters that are looked for in every request.
fn subjects(site: &Section<'_>, rules: &Read<'_, '_>) {
    let mut looked_at = BTreeSet::new();
    for condition in rules.iter().flat_map(|(_, rule)| rule.when.iter().chain(rule.not.iter().flatten())) {
        match condition {
            Condition::Header(name, _) => drop(looked_at.insert(("header", name))),
            Condition::Cookie(name, _) => drop(looked_at.insert(("cookie", name))),
            Condition::Query(name, _) => drop(looked_at.insert(("query", name))),
            _ => {}
        }
    }
    if looked_at.len() > SUBJECTS_MAX {
        let message = format!(
            "{}: the rules look at {} different fields, cookies and parameters, at most {SUBJECTS_MAX}",
            site.name("rule"),
            looked_at.len()
        );
        site.doc.mistake(site.place_of("rule"), message);
    }
}

/// Expressions that are asked at once must fit together, too.
fn sets(site: &Section<'_>, rules: &Read<'_, '_>) {
    let mut sets: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    let mut paths: Vec<String> = Vec::new();
    for condition in rules.iter().flat_map(|(_, rule)| &rule.when) {
        match condition {
            Condition::PathRegex(all) => paths.extend(all.iter().cloned()),
            Condition::Header(name, tests)
            | Condition::Cookie(name, tests)
            | Condition::Query(name, tests) => {
                let kind = match condition {
                    Condition::Header(..) => "header",
                    Condition::Cookie(..) => "cookie",
                    _ => "query",
                };
                let regexes = tests.iter().filter_map(|test| match test {
                    Test::Regex(text) => Some(text.clone()),
                    _ => None,
                });
                sets.entry((kind, name)).or_default().extend(regexes);
            }
            _ => {}
        }
    }
    sets.insert(("path", ""), paths);
    for ((kind, name), patterns) in sets.into_iter().filter(|(_, patterns)| patterns.len() > 1) {
        if let Err(reason) = patterns::set(&patterns) {
            let message = format!(
                "{}: the {} regular expressions over {kind} {name} together: {reason}",
                site.name("rule"),
                patterns.len()
            );
            site.doc.mistake(site.place_of("rule"), message);
        }
    }
}
