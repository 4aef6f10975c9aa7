//! What a rule does: compiled from `then`, and added to a request's effects with the holes of its templates filled.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use nearside_fleet::{
    config::{
        self, QueryKey,
        rules::{Condition, Fields, RuleAnswer, SiteRule},
    },
    glob::Glob,
    template::{Piece, Template},
};
use regex::bytes::Regex;

use super::{
    Facts, Unusable,
    cors::Sharing,
    effects::{Change, Effects, Made},
    split::{Arms, Splits},
};

/// Where `$1` to `$9` come from.
pub(super) struct Captures {
    globs: Vec<Glob>,
    regexes: Vec<Regex>,
}

impl Captures {
    pub(super) fn build(rule: &SiteRule) -> Result<Captures, Unusable> {
        let mut captures = Captures { globs: Vec::new(), regexes: Vec::new() };
        for condition in &rule.when {
            match condition {
                Condition::Path(globs) => captures.globs.clone_from(globs),
                Condition::PathRegex(all) => {
                    captures.regexes = all.iter().map(|text| super::regex(text)).collect::<Result<_, _>>()?;
                }
                _ => {}
            }
        }
        Ok(captures)
    }

    /// Of the first pattern that matches.
    fn of<'p>(&self, path: &'p str, number: usize) -> &'p str {
        if let Some(spans) = self.globs.iter().find_map(|glob| glob.captures(path)) {
            return spans.get(number - 1).map_or("", |&(start, end)| &path[start..end]);
        }
        let found = self.regexes.iter().find_map(|regex| regex.captures(path.as_bytes()));
        let taken = found.and_then(|found| found.get(number).map(|span| span.range()));
        // A path is ASCII: every range is one of characters.
        taken.and_then(|range| path.get(range)).unwrap_or("")
    }
}

/// What holes are filled with.
pub(super) struct Filling<'f> {
    pub(super) facts: &'f Facts<'f>,
    pub(super) splits: &'f Splits,
    pub(super) arms: &'f Arms,
    pub(super) country: &'static str,
}

impl Filling<'_> {
    fn fill(&self, template: &Template, captures: &Captures) -> String {
        let facts = self.facts;
        template.fill(|piece, out| match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Capture(number) => out.push_str(captures.of(facts.path, *number)),
            Piece::Scheme => out.push_str(facts.scheme),
            Piece::Host => out.push_str(facts.host),
            Piece::Path => out.push_str(facts.path),
            Piece::Query => out.push_str(facts.query.unwrap_or("")),
            Piece::WithQuery => {
                if let Some(query) = facts.query {
                    out.push('?');
                    out.push_str(query);
                }
            }
            Piece::Country => out.push_str(self.country),
            Piece::Split(name) => {
                let split = self.splits.number(name);
                out.push_str(split.map_or("", |split| self.splits.arm_name(split, self.arms.of(split))));
            }
        })
    }
}

/// A value that is ready, or one to be filled in.
enum Value {
    Ready(HeaderValue),
    Holes(Template),
}

/// A change of a field.
enum Edit {
    Remove(HeaderName),
    Set(HeaderName, Value),
    Add(HeaderName, Value),
}

fn edits(fields: &Fields) -> Vec<Edit> {
    let name = |text: &String| text.parse::<HeaderName>().ok();
    let value = |template: &Template| match template.as_text().map(HeaderValue::from_str) {
        Some(Ok(ready)) => Value::Ready(ready),
        _ => Value::Holes(template.clone()),
    };
    let removed = fields.remove.iter().filter_map(|text| Some(Edit::Remove(name(text)?)));
    let set = fields.set.iter().filter_map(|(text, template)| Some(Edit::Set(name(text)?, value(template))));
    let added =
        fields.add.iter().filter_map(|(text, template)| Some(Edit::Add(name(text)?, value(template))));
    removed.chain(set).chain(added).collect()
}

fn fill(edits: &[Edit], filling: &Filling<'_>, captures: &Captures, into: &mut Vec<Change>) {
    let filled = |value: &Value| match value {
        Value::Ready(value) => Some(value.clone()),
        // What is no value of a field is left out: paths and countries always are one.
        Value::Holes(template) => HeaderValue::try_from(filling.fill(template, captures)).ok(),
    };
    into.extend(edits.iter().filter_map(|edit| {
        Some(match edit {
            Edit::Remove(name) => Change::Remove(name.clone()),
            Edit::Set(name, value) => Change::Set(name.clone(), filled(value)?),
            Edit::Add(name, value) => Change::Add(name.clone(), filled(value)?),
        })
    }));
}

/// What joins the key, by rule.
#[derive(Default)]
struct Keyed {
    headers: Vec<HeaderName>,
    cookies: Vec<String>,
    country: bool,
    splits: Vec<usize>,
}

/// An answer without the origin.
enum Answering {
    Redirect { status: StatusCode, to: Template, by_url: bool },
    Respond { status: StatusCode, content_type: HeaderValue, body: bytes::Bytes },
    Block { status: StatusCode },
}

/// One thing that a rule does, for people.
pub type Act = String;

/// What a rule does.
pub struct Acts {
    ttl: Option<std::time::Duration>,
    client_cache_control: Option<HeaderValue>,
    bypass: bool,
    query: Option<QueryKey>,
    keyed: Keyed,
    request: Vec<Edit>,
    response: Vec<Edit>,
    cors: Option<Arc<Sharing>>,
    path: Option<Template>,
    new_query: Option<Template>,
    origins: Option<Arc<[usize]>>,
    origin_names: Vec<String>,
    same_content: bool,
    throttle: Option<u64>,
    tags: Vec<String>,
    answering: Option<Answering>,
}

impl Acts {
    pub(super) fn build(rule: &SiteRule, site: &config::Site, splits: &Splits) -> Result<Acts, Unusable> {
        let then = &rule.then;
        let status = |status: u16| StatusCode::from_u16(status).map_err(|error| error.to_string());
        let by_url = |condition: &Condition| {
            matches!(
                condition,
                Condition::Path(_)
                    | Condition::PathRegex(_)
                    | Condition::Extension(_)
                    | Condition::Host(_)
                    | Condition::Scheme(_)
                    | Condition::Query(..)
            )
        };
        let answering = match &then.answer {
            None => None,
            Some(RuleAnswer::Block { status: code }) => Some(Answering::Block { status: status(*code)? }),
            Some(RuleAnswer::Redirect { status: code, to }) => Some(Answering::Redirect {
                status: status(*code)?,
                to: to.clone(),
                by_url: rule.when.iter().chain(rule.not.iter().flatten()).all(by_url),
            }),
            Some(RuleAnswer::Respond { status: code, body, content_type }) => Some(Answering::Respond {
                status: status(*code)?,
                content_type: super::value(content_type),
                body: super::body(body)?,
            }),
        };
        let origins: Option<Arc<[usize]>> = (!then.origins.is_empty()).then(|| then.origins.clone().into());
        let named = |position: &usize| site.origins.get(*position).map(|origin| origin.name.clone());
        Ok(Acts {
            ttl: then.ttl,
            client_cache_control: then.client_cache_control.as_deref().map(super::value),
            bypass: then.bypass,
            query: then.query.clone(),
            keyed: Keyed {
                headers: then.key.headers.iter().filter_map(|name| name.parse().ok()).collect(),
                cookies: then.key.cookies.clone(),
                country: then.key.country,
                splits: then.key.splits.iter().filter_map(|name| splits.number(name)).collect(),
            },
            request: edits(&then.request_headers),
            response: edits(&then.response_headers),
            cors: then.cors.as_ref().map(|cors| Arc::new(Sharing::new(cors))),
            path: then.rewrite.as_ref().and_then(|rewrite| rewrite.path.clone()),
            new_query: then.rewrite.as_ref().and_then(|rewrite| rewrite.query.clone()),
            origin_names: then.origins.iter().filter_map(named).collect(),
            origins,
            same_content: then.same_content,
            throttle: then.throttle,
            tags: then.tags.clone(),
            answering,
        })
    }

    /// Adds it to what earlier rules do.
    pub(super) fn add_to(&self, effects: &mut Effects, filling: &Filling<'_>, captures: &Captures) {
        let facts = filling.facts;
        effects.ttl = effects.ttl.or(self.ttl);
        effects.bypass |= self.bypass;
        effects.throttle = effects.throttle.or(self.throttle);
        if effects.client_cache_control.is_none() {
            effects.client_cache_control.clone_from(&self.client_cache_control);
        }
        if effects.query.is_none() {
            effects.query.clone_from(&self.query);
        }
        if effects.cors.is_none() {
            effects.cors.clone_from(&self.cors);
        }
        if effects.origins.is_none() && self.origins.is_some() {
            effects.origins.clone_from(&self.origins);
            effects.origin_names.clone_from(&self.origin_names);
            effects.same_content = self.same_content;
        }
        effects
            .tags
            .extend(self.tags.iter().filter(|tag| !effects.tags.contains(tag)).cloned().collect::<Vec<_>>());
        self.add_key(effects, filling);
        fill(&self.request, filling, captures, &mut effects.request);
        fill(&self.response, filling, captures, &mut effects.response);
        if effects.path.is_none() {
            effects.path = self.path.as_ref().map(|path| filling.fill(path, captures));
        }
        if effects.new_query.is_none() {
            effects.new_query = self.new_query.as_ref().map(|query| filling.fill(query, captures));
        }
        if let Some(cors) = &self.cors
            && super::is_preflight(facts.method, facts.headers)
        {
            let made = Made { status: StatusCode::NO_CONTENT, is_preflight: true, ..Made::default() };
            effects.made.get_or_insert(Made { headers: cors.preflight(facts.headers), ..made });
        }
        if effects.made.is_none() {
            effects.made = self.answering.as_ref().and_then(|answering| answering.make(filling, captures));
        }
    }

    fn add_key(&self, effects: &mut Effects, filling: &Filling<'_>) {
        let facts = filling.facts;
        for name in &self.keyed.headers {
            for value in facts.fields(name) {
                effects.joins("header", name.as_str(), value);
            }
        }
        for name in &self.keyed.cookies {
            for value in facts.cookies(name) {
                effects.joins("cookie", name, value);
            }
        }
        if self.keyed.country {
            effects.joins("country", "", filling.country.as_bytes());
        }
        for &split in &self.keyed.splits {
            let arm = filling.arms.of(split);
            effects.joins("split", &split.to_string(), filling.splits.arm_name(split, arm).as_bytes());
            effects.keyed_splits.push(split);
        }
    }

    /// In words, for explanations.
    pub(super) fn say(&self) -> Vec<Act> {
        let mut said = Vec::new();
        let mut say = |is: bool, text: String| said.extend(is.then_some(text));
        say(self.bypass, "passes the cache".to_owned());
        say(self.ttl.is_some(), format!("lifetime at the edge {:?}", self.ttl.unwrap_or_default()));
        say(self.client_cache_control.is_some(), "Cache-Control for clients".to_owned());
        say(self.query.is_some(), format!("query in the key: {:?}", self.query));
        let keyed = &self.keyed;
        let joins = !keyed.headers.is_empty()
            || !keyed.cookies.is_empty()
            || keyed.country
            || !keyed.splits.is_empty();
        say(joins, "adds to the cache key".to_owned());
        say(!self.request.is_empty(), format!("changes {} request fields", self.request.len()));
        say(!self.response.is_empty(), format!("changes {} response fields", self.response.len()));
        say(self.cors.is_some(), "answers for cross-origin requests".to_owned());
        say(self.path.is_some() || self.new_query.is_some(), "rewrites the target".to_owned());
        say(self.origins.is_some(), format!("asks {}", self.origin_names.join(", then ")));
        say(self.throttle.is_some(), format!("at most {} bytes per second", self.throttle.unwrap_or(0)));
        say(!self.tags.is_empty(), format!("tags {}", self.tags.join(" ")));
        match &self.answering {
            Some(Answering::Redirect { status, .. }) => {
                said.push(format!("redirects with {}", status.as_u16()))
            }
            Some(Answering::Respond { status, .. }) => said.push(format!("answers with {}", status.as_u16())),
            Some(Answering::Block { status }) => said.push(format!("refuses with {}", status.as_u16())),
            None => {}
        }
        if said.is_empty() {
            said.push("nothing: no later rule is looked at".to_owned());
        }
        said
    }
}

impl Answering {
    /// `None`: the client would be sent to where it is.
    fn make(&self, filling: &Filling<'_>, captures: &Captures) -> Option<Made> {
        let facts = filling.facts;
        match self {
            Answering::Block { status } => {
                Some(Made { status: *status, is_refusal: true, ..Made::default() })
            }
            Answering::Respond { status, content_type, body } => {
                let mut headers = HeaderMap::new();
                if !matches!(status.as_u16(), 204 | 205 | 304) {
                    headers.insert(header::CONTENT_TYPE, content_type.clone());
                }
                Some(Made { status: *status, headers, body: body.clone(), ..Made::default() })
            }
            Answering::Redirect { status, to, by_url } => {
                let target = filling.fill(to, captures);
                let own = |target: &str| match facts.query {
                    Some(query) => target == format!("{}?{query}", facts.path),
                    None => target == facts.path,
                };
                let here = format!("{}://{}", facts.scheme, facts.host);
                if own(&target) || target.strip_prefix(&here).is_some_and(own) {
                    return None;
                }
                // A path that begins with two slashes would be another host to a browser, and backslashes are slashes.
                let target = match target.strip_prefix('/') {
                    Some(rest) if rest.starts_with(['/', '\\']) => {
                        format!("/{}", rest.trim_start_matches(['/', '\\']))
                    }
                    _ => target,
                };
                let mut headers = HeaderMap::new();
                headers.insert(header::LOCATION, HeaderValue::try_from(target.replace('#', "%23")).ok()?);
                // Permanent for an hour: an operator who takes it back is heard. What not only the URL decides is
                // nobody else's.
                let keep = match (*status, by_url) {
                    (_, false) => "private, no-cache",
                    (StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT, true) => "max-age=3600",
                    (_, true) => "no-cache",
                };
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
                Some(Made { status: *status, headers, ..Made::default() })
            }
        }
    }
}
