//! A model of the whole cache for tests: a map, a scripted origin and a clock, driven by scripts.
//!
//! The model does what the request path does with this module's decisions, in the plainest way. A
//! script is one action per line:
//!
//! ```text
//! origin 200 {cache-control: max-age=60 | etag: "a"} body=text delay=2
//! origin down | origin timeout        the origin's next answer
//! GET /path?q {accept: x} -> 200 HIT body=1 age=30 {etag: "a" | !x-absent}
//! saw GET {if-none-match: "a" | !range}   the last request that reached the origin
//! fetches 2                            requests that reached the origin so far
//! wait 30                              seconds pass
//! purge /path                          soft: stale from now on
//! ```
//!
//! An answer's body is the number of the request that got it, unless given. `Date` is true unless
//! given (`date: -` sends none). `@60` and `@-60` in a value are HTTP-dates relative to now.
//! An unexpected request to the origin fails the script, and so does an answer nobody asked for.

use std::{collections::HashMap, collections::VecDeque, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use nearside_fleet::config::QueryKey;

use super::{
    Asked, CacheKey, Candidate, Content, Failure, Forward, Meta, Plan, Precondition, Range, Request,
    Revalidate, Rules, Serve, StalePermit, Target, Timestamp, Validated, Verdict, date,
    headers::{downstream, from_store, not_modified, upstream, upstream_pass, upstream_refresh},
    invalidate, judge, origin_failed, plan,
    range::{self, Extent},
    serve,
    status::{CACHE_STATUS, CacheStatus, Outcome, X_CACHE_STATUS},
};

const HOST: &str = "a.test";

/// What the script says the origin does next.
enum Scripted {
    Answer { status: StatusCode, fields: String, body: Option<String>, delay: u64 },
    Fails(Failure),
}

/// An answer of the origin as it arrived.
struct Arrived {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

struct Stored {
    meta: Meta,
    body: String,
    stale_since: Option<Timestamp>,
}

/// What a client got.
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

/// The model.
pub struct Sim {
    now: Timestamp,
    rules: Rules,
    store: HashMap<CacheKey, Vec<Stored>>,
    origin: VecDeque<Scripted>,
    seen: Vec<(Method, HeaderMap)>,
    line: String,
}

/// Runs a script under the given rules.
pub fn run_with(rules: Rules, script: &str) {
    let mut sim = Sim {
        now: Timestamp::from_secs(1_795_000_000),
        rules,
        store: HashMap::new(),
        origin: VecDeque::new(),
        seen: Vec::new(),
        line: String::new(),
    };
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        sim.line = format!("{line:?} in\n{script}\n");
        sim.step(line);
    }
    assert!(sim.origin.is_empty(), "the origin was not asked for all it had to say:\n{script}");
}

/// Runs a script under the RFCs alone.
pub fn run(script: &str) {
    run_with(Rules::default(), script);
}

impl Sim {
    fn step(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "origin" => self.script_origin(rest),
            "wait" => self.now = self.now.plus(Duration::from_secs(rest.parse().unwrap())),
            "saw" => self.check_seen(rest),
            "fetches" => assert_eq!(self.seen.len().to_string(), rest, "fetches at {}", self.line),
            "purge" => {
                let now = self.now;
                let key = CacheKey::new("site", None, &target(rest));
                self.store
                    .entry(key)
                    .or_default()
                    .iter_mut()
                    .for_each(|stored| stored.stale_since = Some(now));
            }
            method => self.client(method, rest),
        }
    }

    fn script_origin(&mut self, text: &str) {
        match text {
            "down" => self.origin.push_back(Scripted::Fails(Failure::Unreachable)),
            "timeout" => self.origin.push_back(Scripted::Fails(Failure::Timeout)),
            text => {
                let (words, fields) = words_and_fields(text);
                let status = words[0].parse().unwrap();
                let option = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
                self.origin.push_back(Scripted::Answer {
                    status,
                    fields,
                    body: option("body=").map(str::to_owned),
                    delay: option("delay=").map_or(0, |secs| secs.parse().unwrap()),
                });
            }
        }
    }

    fn check_seen(&self, text: &str) {
        let (words, fields) = words_and_fields(text);
        let (method, headers) = self.seen.last().expect("the origin saw nothing");
        assert_eq!([method.as_str()], words[..], "method at {}", self.line);
        self.check_fields(headers, &fields);
    }

    fn client(&mut self, method: &str, rest: &str) {
        let (request, wanted) = rest.split_once("->").unwrap_or((rest, ""));
        let (words, fields) = words_and_fields(request);
        let path = words.first().map_or("/", String::as_str);
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let headers = self.fields(&fields);
        let got = self.request(&method, path, &headers);
        let (words, fields) = words_and_fields(wanted);
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word.as_str(), ""));
            let text = |name: HeaderName| {
                got.headers.get(name).map_or("-", |value| value.to_str().unwrap()).to_owned()
            };
            let (actual, expected) = match name {
                "age" => (text(header::AGE), value),
                "body" => (got.body.clone(), value),
                word if word.parse::<u16>().is_ok() => (got.status.as_str().to_owned(), word),
                word => (text(X_CACHE_STATUS), word),
            };
            assert_eq!(actual, expected, "{name} at {}{:?}", self.line, got.headers);
        }
        self.check_fields(&got.headers, &fields);
    }

    fn check_fields(&self, headers: &HeaderMap, wanted: &str) {
        for field in wanted.split('|').map(str::trim).filter(|field| !field.is_empty()) {
            if let Some(name) = field.strip_prefix('!') {
                assert!(!headers.contains_key(name), "{name} is there at {}{headers:?}", self.line);
                continue;
            }
            let (name, value) = field.split_once(':').unwrap();
            let values: Vec<&str> = headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect();
            assert_eq!(values.join(", "), self.dates(value.trim()), "{name} at {}", self.line);
        }
    }

    fn fields(&self, text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in text.split('|').map(str::trim).filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once(':').unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(&self.dates(value.trim())).unwrap());
        }
        headers
    }

    fn dates(&self, value: &str) -> String {
        match value.strip_prefix('@').and_then(|offset| offset.parse::<i64>().ok()) {
            Some(offset) => {
                date::format((self.now.secs() as i64 + offset) as u64).to_str().unwrap().to_owned()
            }
            None => value.to_owned(),
        }
    }

    /// One exchange with the origin.
    fn ask(&mut self, method: &Method, headers: HeaderMap) -> Result<Arrived, Failure> {
        let headers_seen = headers;
        self.seen.push((method.clone(), headers_seen));
        match self.origin.pop_front().unwrap_or_else(|| panic!("the origin was asked at {}", self.line)) {
            Scripted::Fails(failure) => Err(failure),
            Scripted::Answer { status, fields, body, delay } => {
                let mut headers = self.fields(&fields);
                self.now = self.now.plus(Duration::from_secs(delay));
                match headers.get(header::DATE).map(HeaderValue::as_bytes) {
                    None => drop(headers.insert(header::DATE, date::format(self.now.secs()))),
                    Some(b"-") => drop(headers.remove(header::DATE)),
                    Some(_) => {}
                }
                let body = body.unwrap_or_else(|| self.seen.len().to_string());
                Ok(Arrived { status, headers, body })
            }
        }
    }

    /// The request path.
    fn request(&mut self, method: &Method, path: &str, headers: &HeaderMap) -> Got {
        let rules = self.rules.clone();
        let target = target(path);
        let key = CacheKey::new("site", None, &target);
        let request = Request::new(method, headers).under(&rules);
        let stored = self.store.get(&key).map_or(&[][..], Vec::as_slice);
        let candidates: Vec<Candidate<'_>> = stored.iter().map(Stored::candidate).collect();
        match plan(&request, &candidates, self.now) {
            Plan::Serve(serve) => {
                let outcome = if serve.ttl_secs > 0 { Outcome::Hit } else { Outcome::Stale };
                let status = CacheStatus::hit(outcome, serve.ttl_secs);
                self.deliver(&request, &stored[serve.index], &serve, status)
            }
            Plan::ServeAndRefresh(serve, revalidate) => {
                let status = CacheStatus::hit(Outcome::Updating, serve.ttl_secs);
                let got = self.deliver(&request, &stored[serve.index], &serve, status);
                let sent = upstream_refresh(headers, &revalidate.conditions);
                self.forward(&request, &key, path, sent, Some(&revalidate), revalidate.forward);
                got
            }
            Plan::Revalidate(revalidate) => {
                let sent = upstream(headers, &revalidate.conditions, revalidate.range);
                self.forward(&request, &key, path, sent, Some(&revalidate), revalidate.forward)
            }
            Plan::Fetch(fetch) => {
                let sent = upstream(headers, &HeaderMap::new(), fetch.range);
                self.forward(&request, &key, path, sent, None, fetch.forward)
            }
            Plan::Pass(forward) => self.forward(&request, &key, path, upstream_pass(headers), None, forward),
            Plan::GatewayTimeout => error(StatusCode::GATEWAY_TIMEOUT),
        }
    }

    fn forward(
        &mut self,
        request: &Request<'_>,
        key: &CacheKey,
        path: &str,
        sent: HeaderMap,
        validating: Option<&Revalidate>,
        why: Forward,
    ) -> Got {
        let request_time = self.now;
        let arrived = self.ask(request.method, sent);
        let uri = format!("http://{HOST}{path}");
        let mut entries = self.store.remove(key).unwrap_or_default();
        let asked = Asked {
            request,
            rules: &self.rules,
            uri: &uri,
            request_time,
            response_time: self.now,
            validating: validating
                .map(|revalidate| (entries[revalidate.index].candidate(), revalidate.stale)),
        };
        let arrived = match arrived {
            Ok(arrived) => arrived,
            Err(failure) => {
                let got = match origin_failed(&asked, failure) {
                    Ok(Verdict::ServeStale) => self.serve_stale(request, &entries, validating, why, None),
                    Ok(verdict) => panic!("{verdict:?}"),
                    Err(status) => error(status),
                };
                self.store.insert(key.clone(), entries);
                return got;
            }
        };
        let verdict = judge(&asked, arrived.status, &arrived.headers);
        let own: Uri = uri.parse().unwrap();
        let untrue =
            invalidate::targets(request.method, arrived.status, &own, &arrived.headers, &QueryKey::Keep);
        for target in untrue {
            let invalid = CacheKey::new("site", None, &target);
            self.store.remove(&invalid);
            if invalid == *key {
                entries.clear();
            }
        }
        let got = match verdict {
            Verdict::Store(meta) => {
                let got =
                    self.pass_on(request, &arrived, Some(&meta), request_time, validating.is_some(), why);
                if let Some(revalidate) = validating {
                    entries.remove(revalidate.index);
                }
                entries.retain(|stored| stored.meta.vary != meta.vary);
                entries.push(Stored { meta: *meta, body: arrived.body.clone(), stale_since: None });
                got
            }
            Verdict::Pass { validated, .. } => {
                if let (Some(revalidate), Validated::Remove) = (validating, validated) {
                    entries.remove(revalidate.index);
                }
                self.pass_on(request, &arrived, None, request_time, validating.is_some(), why)
            }
            Verdict::Update { meta, validated } => {
                let index = validating.unwrap().index;
                entries[index].meta = *meta;
                entries[index].stale_since = None;
                let serve = serve(request, &entries[index].meta, index, self.now);
                let status = CacheStatus::forwarded(Outcome::Revalidated, why, Some(arrived.status));
                let got = self.deliver(request, &entries[index], &serve, status);
                if validated == Validated::Remove {
                    entries.remove(index);
                }
                got
            }
            Verdict::AskAgain => {
                entries.remove(validating.unwrap().index);
                self.store.insert(key.clone(), entries);
                let sent = upstream(request.headers, &HeaderMap::new(), Range::Dropped);
                return self.forward(request, key, path, sent, None, why);
            }
            Verdict::ServeStale => self.serve_stale(request, &entries, validating, why, Some(arrived.status)),
        };
        self.store.insert(key.clone(), entries);
        got
    }

    fn serve_stale(
        &self,
        request: &Request<'_>,
        entries: &[Stored],
        validating: Option<&Revalidate>,
        why: Forward,
        status: Option<StatusCode>,
    ) -> Got {
        let revalidate = validating.unwrap();
        let StalePermit { erring, silent } = revalidate.stale;
        assert!(self.now < erring.max(silent));
        let stored = &entries[revalidate.index];
        let serve = serve(request, &stored.meta, revalidate.index, self.now);
        self.deliver(request, stored, &serve, CacheStatus::forwarded(Outcome::Stale, why, status))
    }

    /// An answer from the store.
    fn deliver(&self, request: &Request<'_>, stored: &Stored, serve: &Serve, status: CacheStatus) -> Got {
        let mut headers = from_store(&stored.meta, serve);
        label(&mut headers, status);
        if serve.precondition == Precondition::NotModified {
            return Got {
                status: StatusCode::NOT_MODIFIED,
                headers: not_modified(headers),
                body: String::new(),
            };
        }
        self.extent(request, &stored.meta, &stored.body, headers)
    }

    /// An answer of the origin, which just arrived.
    fn pass_on(
        &self,
        request: &Request<'_>,
        arrived: &Arrived,
        stored: Option<&Meta>,
        request_time: Timestamp,
        was_stored: bool,
        why: Forward,
    ) -> Got {
        let mut headers = downstream(&arrived.headers, request_time, self.now);
        let outcome = match (why, was_stored) {
            (Forward::Method | Forward::Bypass, _) => Outcome::Bypass,
            (_, true) => Outcome::Expired,
            (_, false) => Outcome::Miss,
        };
        let mut status = CacheStatus::forwarded(outcome, why, Some(arrived.status));
        status.stored = stored.is_some();
        label(&mut headers, status);
        let Some(meta) = stored else {
            return Got { status: arrived.status, headers, body: arrived.body.clone() };
        };
        if serve(request, meta, 0, self.now).precondition == Precondition::NotModified {
            return Got {
                status: StatusCode::NOT_MODIFIED,
                headers: not_modified(headers),
                body: String::new(),
            };
        }
        if matches!(meta.content, Content::Part { .. }) {
            return Got { status: arrived.status, headers, body: arrived.body.clone() };
        }
        self.extent(request, meta, &arrived.body, headers)
    }

    /// The part of a stored body that was asked for.
    fn extent(&self, request: &Request<'_>, meta: &Meta, body: &str, mut headers: HeaderMap) -> Got {
        let cut = |first: u64, last: u64| body[first as usize..=last as usize].to_owned();
        if let Content::Part { first, complete_length, .. } = meta.content {
            let span = range::within_part(request.headers, meta, self.now).unwrap();
            let length = complete_length.map_or("*".to_owned(), |length| length.to_string());
            let range = format!("bytes {}-{}/{length}", span.first, span.last);
            headers.insert(header::CONTENT_RANGE, range.parse().unwrap());
            let body = cut(span.first - first, span.last - first);
            return Got { status: StatusCode::PARTIAL_CONTENT, headers, body };
        }
        let length = body.len() as u64;
        match range::extent(request.method, request.headers, meta, length, self.now) {
            Extent::Whole => {
                let body = if *request.method == Method::HEAD { String::new() } else { body.to_owned() };
                Got { status: meta.status, headers, body }
            }
            Extent::Parts(spans) => {
                if let [span] = spans[..] {
                    headers.insert(header::CONTENT_RANGE, span.content_range(length));
                }
                let parts: Vec<String> = spans.iter().map(|span| cut(span.first, span.last)).collect();
                Got { status: StatusCode::PARTIAL_CONTENT, headers, body: parts.join("+") }
            }
            Extent::Unsatisfiable => {
                headers.insert(header::CONTENT_RANGE, range::unsatisfied(length));
                Got { status: StatusCode::RANGE_NOT_SATISFIABLE, headers, body: String::new() }
            }
        }
    }
}

impl Stored {
    fn candidate(&self) -> Candidate<'_> {
        Candidate { meta: &self.meta, stale_since: self.stale_since }
    }
}

fn target(path: &str) -> Target {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    Target::new(HOST, path, query, &QueryKey::Keep)
}

fn label(headers: &mut HeaderMap, status: CacheStatus) {
    headers.append(CACHE_STATUS, status.value());
    headers.insert(X_CACHE_STATUS, HeaderValue::from_static(status.outcome.word()));
}

fn error(status: StatusCode) -> Got {
    Got { status, headers: HeaderMap::new(), body: String::new() }
}

/// Words outside braces, and what is between all braces, joined by `|`.
fn words_and_fields(text: &str) -> (Vec<String>, String) {
    let (mut outside, mut fields) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}').expect("an open brace in the script");
        outside.push_str(before);
        fields.push(inside);
        rest = after;
    }
    outside.push_str(rest);
    (outside.split_whitespace().map(str::to_owned).collect(), fields.join("|"))
}
