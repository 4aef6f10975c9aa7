//! `then = { … }`: what happens to a request that a rule matches.

use std::{ops::Range, time::Duration};

use super::{
    super::{
        edge, keys,
        reader::{Section, Value, integer, members},
    },
    Names, status,
};
use crate::{
    config::rules::{Cors, Fields, Key, Rewrite, RuleAnswer, RuleBody, Then},
    fields,
    files::Role,
    mistake::Mistake,
    template::{Piece, Template},
};

const DAY: Duration = Duration::from_secs(86_400);
/// Below it a response is a dribble that only holds a connection.
const THROTTLE_MIN: u64 = 1024;
/// Text in the fleet file; more is a file of its own.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// Fields, tags and so on of one rule.
const ENTRIES_MAX: usize = 64;
/// A tag travels in a header field.
const TAG_BYTES_MAX: usize = 128;

type May = fn(&str) -> Result<(), &'static str>;

pub(super) fn then(section: &Section<'_>, names: &Names<'_>) -> Then {
    let mut then = Then {
        request_headers: changes(section, "request_headers", fields::may_change_request, names),
        response_headers: changes(section, "response_headers", fields::may_change_response, names),
        cors: section.section("cors", keys::RULE_CORS).map(|inner| cors(&inner)),
        rewrite: section.section("rewrite", keys::RULE_REWRITE).map(|inner| rewrite(&inner, names)),
        origins: origins(section, names),
        same_content: section.read("same_content", "true or false", |value| value.as_bool()).unwrap_or(false),
        throttle: section.value("throttle").map(|_| section.bytes("throttle", THROTTLE_MIN)),
        tags: section
            .list("tags", "tags of 1 to 128 printable characters without space or comma", |value| {
                let tag = value.get_ref().as_str()?;
                let is_good = tag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
                ((1..=TAG_BYTES_MAX).contains(&tag.len()) && is_good).then(|| tag.to_owned())
            })
            .unwrap_or_default(),
        answer: answer(section, names),
        ..Then::default()
    };
    if let Some(inner) = section.section("cache", keys::RULE_CACHE) {
        cache(&inner, names, &mut then);
    }
    if then.throttle.is_some_and(|rate| rate < THROTTLE_MIN) {
        let message =
            format!("{}: expected at least {THROTTLE_MIN} bytes per second", section.name("throttle"));
        section.doc.mistake(section.place_of("throttle"), message);
    }
    if then.same_content && then.origins.is_empty() {
        section.doc.mistake(
            section.place_of("same_content"),
            format!("{}: goes with `origin`", section.name("same_content")),
        );
    }
    if then.tags.len() > ENTRIES_MAX {
        section
            .doc
            .mistake(section.place_of("tags"), format!("{}: at most {ENTRIES_MAX}", section.name("tags")));
    }
    then
}

fn cache(section: &Section<'_>, names: &Names<'_>, then: &mut Then) {
    then.ttl = section.value("ttl").map(|_| section.duration("ttl", DAY, Duration::ZERO, 365 * DAY));
    then.client_cache_control = section.read("client_cache_control", "a Cache-Control value", |value| {
        let text = value.as_str()?;
        text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()).then(|| text.to_owned())
    });
    then.bypass = section.read("bypass", "true or false", |value| value.as_bool()).unwrap_or(false);
    then.query = section.value("query").map(|_| edge::query(section, crate::config::QueryKey::Keep));
    then.key = section.section("key", keys::RULE_KEY).map(|inner| key(&inner, names)).unwrap_or_default();
    if then.bypass && (then.ttl.is_some() || then.query.is_some() || then.key != Key::default()) {
        let message =
            format!("{}: what passes the cache has no `ttl` there, nor a key", section.name("bypass"));
        section.doc.mistake(section.place_of("bypass"), message);
    }
}

fn key(key: &Section<'_>, names: &Names<'_>) -> Key {
    let names_of = |list: &str, expected: &str| {
        let read = key.list(list, expected, |value| {
            value.get_ref().as_str().filter(|name| fields::is_name(name)).map(str::to_owned)
        });
        read.unwrap_or_default()
    };
    let found = Key {
        headers: names_of("headers", "names of request fields")
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        cookies: names_of("cookies", "names of cookies"),
        country: key.read("country", "true or false", |value| value.as_bool()).unwrap_or(false),
        splits: key
            .value("splits")
            .map(members)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|value| {
                let valid = names.splits.iter().map(|split| split.name.as_str());
                key.doc.reference(value, &key.name("splits"), "split", valid)
            })
            .collect(),
    };
    for name in ["cookie", "authorization", "user-agent"] {
        if found.headers.iter().any(|header| header == name) {
            let message = format!(
                "{}: `{name}` tells visitors apart: everything would be kept once for each of them; key by a cookie, \
                 or match it with `when` and change something",
                key.name("headers")
            );
            key.doc.mistake(key.place_of("headers"), message);
        }
    }
    found
}

/// Tells of a name that is none, or whose field may not be changed.
pub(super) fn field_name(
    section: &Section<'_>,
    span: Range<usize>,
    key: &str,
    name: &str,
    may: May,
) -> Option<String> {
    if !fields::is_name(name) {
        section.doc.mistake(span, format!("{}: {name:?} is no field name", section.name(key)));
        return None;
    }
    if let Err(reason) = may(name) {
        section.doc.mistake(span, format!("{}: `{name}` may not be changed: {reason}", section.name(key)));
        return None;
    }
    Some(name.to_owned())
}

fn changes(section: &Section<'_>, key: &str, may: May, names: &Names<'_>) -> Fields {
    let Some(inner) = section.section(key, keys::RULE_FIELDS) else { return Fields::default() };
    let values = |list: &str| -> Vec<(String, Template)> {
        let mut found = Vec::new();
        for (name, span, value) in inner.entries(list) {
            let name = field_name(&inner, span, list, &name.to_ascii_lowercase(), may);
            for value in members(value) {
                let read = template(&inner, list, value, names);
                found.extend(name.clone().zip(read));
            }
        }
        found
    };
    let (set, add) = (values("set"), values("add"));
    let mut remove = Vec::new();
    for value in inner.value("remove").map(members).unwrap_or_default() {
        match value.get_ref().as_str() {
            Some(name) => {
                remove.extend(field_name(&inner, value.span(), "remove", &name.to_ascii_lowercase(), may))
            }
            None => inner.doc.expected(value, &inner.name("remove"), "names of fields"),
        }
    }
    if set.len() + add.len() + remove.len() > ENTRIES_MAX {
        inner.doc.mistake(inner.span(), format!("[{}]: at most {ENTRIES_MAX} fields", inner.place));
    }
    if key == "response_headers" && set.iter().any(|(name, _)| name == "vary")
        || remove.iter().any(|name| name == "vary")
    {
        inner.doc.mistake(
            inner.span(),
            format!("[{}]: `vary` may only be added to: what it says already is true", inner.place),
        );
    }
    Fields { remove, set, add }
}

/// A template whose splits exist.
fn template(section: &Section<'_>, key: &str, value: Value<'_>, names: &Names<'_>) -> Option<Template> {
    let Some(text) = value.get_ref().as_str() else {
        section.doc.expected(value, &section.name(key), "a text");
        return None;
    };
    match Template::new(text) {
        Err(reason) => {
            section.doc.mistake(value.span(), format!("{}: {text:?}: {reason}", section.name(key)));
            None
        }
        Ok(template) => {
            for piece in &template.pieces {
                let Piece::Split(name) = piece else { continue };
                if !names.splits.iter().any(|split| &split.name == name) {
                    let message = format!("{}: the site has no split `{name}`", section.name(key));
                    let mistake =
                        Mistake::at(section.doc.file, section.doc.text, value.span().start, message);
                    section
                        .doc
                        .push(mistake.suggest(name, names.splits.iter().map(|split| split.name.as_str())));
                }
            }
            Some(template)
        }
    }
}

fn cors(section: &Section<'_>) -> Cors {
    const ORIGINS: &str = "origins like \"https://app.example.org\" or \"https://*.example.org\", or \"*\"";
    section.required("origins", ORIGINS);
    let names = |key: &str, expected: &str| {
        let read = section.list(key, expected, |value| {
            value.get_ref().as_str().filter(|name| fields::is_name(name)).map(str::to_owned)
        });
        read.unwrap_or_default()
    };
    let cors = Cors {
        origins: section
            .list("origins", ORIGINS, |value| {
                let text = value.get_ref().as_str()?.to_ascii_lowercase();
                (text == "*" || is_web_origin(&text)).then_some(text)
            })
            .unwrap_or_default(),
        methods: names("methods", "methods"),
        headers: names("headers", "names of request fields, or \"*\""),
        expose: names("expose", "names of response fields"),
        credentials: section.read("credentials", "true or false", |value| value.as_bool()).unwrap_or(false),
        max_age: section.value("max_age").map(|_| section.duration("max_age", DAY, Duration::ZERO, 7 * DAY)),
    };
    if cors.credentials && cors.origins.iter().any(|origin| origin == "*") {
        let message = format!(
            "{}: any page in the world could read what its visitor may see; name the origins",
            section.name("credentials")
        );
        section.doc.mistake(section.place_of("credentials"), message);
    }
    cors
}

fn is_web_origin(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().is_ok()),
        None => (rest, true),
    };
    port && edge::is_host(host.strip_prefix("*.").unwrap_or(host))
}

fn rewrite(section: &Section<'_>, names: &Names<'_>) -> Rewrite {
    let read = |key: &str| section.value(key).and_then(|value| template(section, key, value, names));
    let rewrite = Rewrite { path: read("path"), query: read("query") };
    let starts = rewrite.path.as_ref().and_then(|path| path.pieces.first());
    let is_absolute = match starts {
        Some(Piece::Text(text)) => text.starts_with('/'),
        Some(Piece::Path) | None => true,
        Some(_) => false,
    };
    if !is_absolute || rewrite.path.as_ref().is_some_and(|path| path.pieces.is_empty()) {
        section
            .doc
            .mistake(section.place_of("path"), format!("{}: a path begins with `/`", section.name("path")));
    }
    let literal = |piece: &Piece| matches!(piece, Piece::Text(text) if text.contains(['?', '#']));
    if rewrite.path.iter().any(|path| path.pieces.iter().any(literal)) {
        section.doc.mistake(
            section.place_of("path"),
            format!("{}: the query is said by `query`", section.name("path")),
        );
    }
    if section.value("path").or(section.value("query")).is_none() {
        section.doc.mistake(section.span(), format!("[{}]: expected `path`, `query` or both", section.place));
    }
    rewrite
}

fn origins(section: &Section<'_>, names: &Names<'_>) -> Vec<usize> {
    let mut found = Vec::new();
    for value in section.value("origin").map(members).unwrap_or_default() {
        let valid = names.origins.iter().map(|origin| origin.name.as_str());
        let name = section.doc.reference(value, &section.name("origin"), "origin", valid);
        let position = names.origins.iter().position(|origin| Some(&origin.name) == name.as_ref());
        found.extend(position.filter(|position| !found.contains(position)));
    }
    found
}

fn answer(section: &Section<'_>, names: &Names<'_>) -> Option<RuleAnswer> {
    let said: Vec<&str> =
        ["redirect", "respond", "block"].into_iter().filter(|key| section.value(key).is_some()).collect();
    if said.len() > 1 {
        let message =
            format!("[{}]: one of {} only: each of them answers the request", section.place, said.join(", "));
        section.doc.mistake(section.place_of(said[1]), message);
    }
    match *said.first()? {
        "redirect" => redirect(&section.section("redirect", keys::RULE_REDIRECT)?, names),
        "respond" => respond(&section.section("respond", keys::RULE_RESPOND)?),
        _ => status(section, "block", 400..600).map(|status| RuleAnswer::Block { status }),
    }
}

fn redirect(section: &Section<'_>, names: &Names<'_>) -> Option<RuleAnswer> {
    const STATUSES: [i64; 5] = [301, 302, 303, 307, 308];
    section.required("to", "where to, like \"https://new.example.org{path}{?query}\"");
    let to = template(section, "to", section.value("to")?, names)?;
    if let Err(reason) = is_safe_target(&to) {
        section.doc.mistake(section.place_of("to"), format!("{}: {reason}", section.name("to")));
    }
    let status = section.read("status", "one of 301, 302, 303, 307, 308", |value| {
        integer(value)
            .filter(|status| STATUSES.contains(status))
            .and_then(|status| u16::try_from(status).ok())
    });
    Some(RuleAnswer::Redirect { status: status.unwrap_or(302), to })
}

/// Nothing that a client writes may choose the host: the target is a path of this host, or names its host.
fn is_safe_target(to: &Template) -> Result<(), &'static str> {
    const UNSAFE: &str = "expected `/path`, {path}, or a URL whose scheme and host are written out (or {scheme}, {host}): \
                          else whoever makes the link could choose where it leads";
    let mut pieces = to.pieces.iter();
    let rest = match (pieces.next(), pieces.clone().next()) {
        (Some(Piece::Path), _) => return Ok(()),
        (Some(Piece::Text(text)), _) if text.starts_with('/') => {
            return if text.starts_with("//") || text.starts_with("/\\") { Err(UNSAFE) } else { Ok(()) };
        }
        (Some(Piece::Scheme), Some(Piece::Text(text))) => {
            pieces.next();
            text.strip_prefix("://").ok_or(UNSAFE)?
        }
        (Some(Piece::Text(text)), _) => {
            text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or(UNSAFE)?
        }
        _ => return Err(UNSAFE),
    };
    let after = match rest.find(['/', '?']) {
        // The whole authority is in the text.
        Some(at) => return if edge::is_host(authority(&rest[..at])) { Ok(()) } else { Err(UNSAFE) },
        None if rest.is_empty() => match (pieces.next(), pieces.next()) {
            (Some(Piece::Host), after) => after,
            _ => return Err(UNSAFE),
        },
        None if edge::is_host(authority(rest)) => pieces.next(),
        None => return Err(UNSAFE),
    };
    match after {
        None | Some(Piece::Path | Piece::WithQuery) => Ok(()),
        Some(Piece::Text(text)) if text.starts_with(['/', '?']) => Ok(()),
        Some(_) => Err(UNSAFE),
    }
}

/// Without port.
fn authority(text: &str) -> &str {
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => text,
    }
}

fn respond(section: &Section<'_>) -> Option<RuleAnswer> {
    let text = section.read("body", "a text of at most 64 KiB", |value| {
        value.as_str().filter(|text| text.len() <= TEXT_BYTES_MAX).map(str::to_owned)
    });
    let file = section.path("file", Role::Content);
    if section.value("body").is_some() && section.value("file").is_some() {
        section.doc.mistake(section.place_of("file"), format!("{}: not beside `body`", section.name("file")));
    }
    let content_type =
        section.read("content_type", "a media type like \"text/html; charset=utf-8\"", |value| {
            let text = value.as_str()?;
            let is_good =
                text.contains('/') && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
            is_good.then(|| text.to_owned())
        });
    let body = match file {
        Some(file) => RuleBody::File(file),
        None => RuleBody::Text(text.unwrap_or_default()),
    };
    let code = status(section, "status", 200..600).unwrap_or(200);
    if matches!(code, 204 | 205 | 304) && body != RuleBody::Text(String::new()) {
        section.doc.mistake(
            section.place_of("status"),
            format!("{}: {code} has no content", section.name("status")),
        );
    }
    let content_type = content_type.unwrap_or_else(|| "text/plain; charset=utf-8".to_owned());
    Some(RuleAnswer::Respond { status: code, body, content_type })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_client_chooses_where_a_redirect_leads() {
        for good in [
            "/new",
            "/new/$1",
            "{path}",
            "https://{host}{path}",
            "https://{host}/$1",
            "{scheme}://{host}/x",
            "https://new.example.org/$1{?query}",
            "https://new.example.org:8443/$1",
            "https://new.example.org{path}",
            "https://new.example.org{?query}",
            "https://new.example.org?x=$1",
        ] {
            assert_eq!(is_safe_target(&Template::new(good).unwrap()), Ok(()), "{good}");
        }
        for bad in [
            "",
            "$1",
            "//evil.test",
            "//$1",
            "/\\$1",
            "https://$1/",
            "https://new.example.org$1",
            "https://new.example.org.{query}/",
            "https://{host}$1",
            "https://{host}.evil.test/",
            "https://user@evil.test/",
            "https://{path}",
            "{query}",
            "javascript:alert(1)",
            "new/path",
        ] {
            assert!(is_safe_target(&Template::new(bad).unwrap()).is_err(), "{bad}");
        }
    }
}
