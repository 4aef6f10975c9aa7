//! What looks like an attack: patterns over normalised parts of a request.
//!
//! Patterns are one `RegexSet`, one pass in time linear in the input, but for those that would multiply its states: they
//! are looked for one by one. The operator's own are a set of their own. Each part (the path, every name and value of
//! the query, a few fields) is normalised by [`normal`] and looked at by itself, so that a finding has a place and can
//! be excluded there. Findings add up to a score (each pattern once); a score from the threshold on is objected to:
//! strong signs do that alone, weak ones only together.
//!
//! What this is not: request content is not looked at, answers are not, nothing is learned. [`patterns`] says what is
//! looked for; docs/gates.md, which part of the OWASP Core Rule Set that is.

pub mod normal;
pub mod patterns;

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use nearside_fleet::config::gates::{self, Acting, WafFamily, WafInput};
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use self::{
    normal::{Normal, Oddity, Plus, normalise},
    patterns::{AGENT, HEADERS, PATH, PATTERNS, QUERY},
};
use super::{Finding, Judgement};
use crate::policy::key::normal_path;

/// Bytes of all compiled patterns; above it a set of own patterns is refused.
const COMPILED_BYTES_MAX: usize = 16 << 20;

/// Bytes of the lazily built automaton, per thread that uses it.
const AUTOMATON_BYTES_MAX: usize = 8 << 20;

/// Bytes of a part that are looked at; a longer path is refused before, a longer query is a finding.
const PART_BYTES_MAX: usize = 16 * 1024;

/// Names and values of a query that are looked at; more of them is a finding.
const PARAMETERS_MAX: usize = 256;

/// Findings that are named in a log line.
const NAMED_MAX: usize = 8;

/// How encoded objects of Java and Python begin, which letters and digits are enough for.
const ENCODED: [&[u8]; 2] = [b"rO0AB", b"gASV"];

/// What is looked at among request fields besides the agent, unless the operator adds to it.
const FIELDS: [HeaderName; 2] = [header::REFERER, HeaderName::from_static("x-forwarded-for")];

/// See the module.
pub struct WafGate {
    /// With the numbers of their rules.
    sets: Vec<(RegexSet, Vec<usize>)>,
    apart: Vec<(Regex, usize)>,
    rules: Vec<Rule>,
    excludes: Vec<Exclude>,
    threshold: u32,
    query_bytes_max: usize,
    /// Looked at for everything.
    headers: Vec<HeaderName>,
    /// Whether a part of letters, digits and dashes may match: own patterns are not known here.
    has_own: bool,
    protocol: bool,
    /// How it acts.
    pub acting: Acting,
}

struct Rule {
    id: String,
    family: &'static str,
    inputs: u8,
    score: u32,
}

struct Exclude {
    id: Option<String>,
    path: Option<String>,
    parameter: Option<String>,
}

/// What has been found in one request.
struct Found<'w> {
    gate: &'w WafGate,
    path: &'w str,
    score: u32,
    /// By number of the rule: each counts once.
    seen: Vec<usize>,
    named: String,
}

/// A part of a request.
#[derive(Clone, Copy)]
enum Part<'r> {
    Path,
    Parameter(&'r str),
    Field(&'r HeaderName),
}

impl WafGate {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// An own pattern that is none, or all of them together too large, in words.
    pub fn new(asked: &gates::WafGate) -> Result<Self, String> {
        let mut rules = Vec::new();
        let (mut together, mut own_texts, mut apart) = (Listed::default(), Listed::default(), Vec::new());
        for pattern in PATTERNS.iter().filter(|pattern| asked.families.contains(&pattern.family)) {
            if pattern.apart {
                let built = RegexBuilder::new(pattern.text).case_insensitive(true).unicode(false).build();
                apart.push((built.map_err(|error| format!("waf: {error}"))?, rules.len()));
            } else {
                together.add(pattern.text, rules.len());
            }
            rules.push(Rule {
                id: pattern.id.to_owned(),
                family: word(pattern.family),
                inputs: pattern.inputs,
                score: pattern.score,
            });
        }
        for own in &asked.rules {
            if PATTERNS.iter().any(|pattern| pattern.id == own.id) {
                return Err(format!("waf rule {}: a built-in pattern has that id", own.id));
            }
            regex(&[&own.pattern]).map_err(|error| format!("waf rule {}: {error}", own.id))?;
            own_texts.add(&own.pattern, rules.len());
            let inputs = own.inputs.iter().fold(0, |inputs, input| {
                inputs
                    | match input {
                        WafInput::Path => PATH,
                        WafInput::Query => QUERY,
                        WafInput::Headers => HEADERS | AGENT,
                    }
            });
            rules.push(Rule { id: own.id.clone(), family: "own", inputs, score: own.score });
        }
        for id in asked.excludes.iter().filter_map(|exclude| exclude.id.as_ref()) {
            let known = rules.iter().any(|rule| rule.id == *id)
                || WafFamily::ALL.iter().any(|(word, _)| word == id)
                || PATTERNS.iter().any(|pattern| pattern.id == id)
                || Oddity::ALL.iter().any(|oddity| oddity.id() == id);
            if !known {
                return Err(format!("waf exclude: there is no pattern or family {id:?}"));
            }
        }
        let exclude = |exclude: &gates::WafExclude| Exclude {
            id: exclude.id.clone(),
            path: exclude.path.clone(),
            parameter: exclude.parameter.clone(),
        };
        Ok(WafGate {
            sets: [together, own_texts].into_iter().filter_map(Listed::built).collect::<Result<_, _>>()?,
            apart,
            has_own: !asked.rules.is_empty(),
            protocol: asked.families.contains(&WafFamily::Protocol),
            rules,
            excludes: asked.excludes.iter().map(exclude).collect(),
            threshold: asked.threshold,
            query_bytes_max: asked.query_bytes_max,
            headers: asked.headers.iter().filter_map(|name| name.parse().ok()).collect(),
            acting: asked.acting,
        })
    }

    /// Looks at a request.
    pub fn judge(&self, uri: &Uri, headers: &HeaderMap) -> Judgement {
        let mut found =
            Found { gate: self, path: uri.path(), score: 0, seen: Vec::new(), named: String::new() };
        found.part(Part::Path, uri.path().as_bytes(), Plus::Itself, PATH);
        if let Some(query) = uri.query() {
            found.query(query);
        }
        if let Some(agent) = headers.get(header::USER_AGENT) {
            found.part(Part::Field(&header::USER_AGENT), agent.as_bytes(), Plus::Itself, AGENT | HEADERS);
        }
        for name in &FIELDS {
            for value in headers.get_all(name) {
                found.part(Part::Field(name), value.as_bytes(), Plus::Itself, HEADERS);
            }
        }
        for name in &self.headers {
            for value in headers.get_all(name) {
                found.part(Part::Field(name), value.as_bytes(), Plus::Itself, HEADERS | QUERY);
            }
        }
        if found.score < self.threshold {
            return Ok(());
        }
        Err(Finding::new(StatusCode::FORBIDDEN, format!("score {}: {}", found.score, found.named)))
    }

    /// Whether nothing built in could match: such parts are most of what is asked.
    fn is_harmless(&self, bytes: &[u8], inputs: u8) -> bool {
        !self.has_own
            && inputs & AGENT == 0
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
            && !ENCODED.iter().any(|start| bytes.starts_with(start))
    }
}

impl Found<'_> {
    fn query(&mut self, query: &str) {
        if query.len() > self.gate.query_bytes_max {
            self.odd(Part::Parameter(""), Oddity::Long);
        }
        let query = &query.as_bytes()[..query.len().min(PART_BYTES_MAX)];
        for (number, pair) in query.split(|&byte| byte == b'&').enumerate() {
            if number == PARAMETERS_MAX {
                return self.odd(Part::Parameter(""), Oddity::Many);
            }
            let equals = pair.iter().position(|&byte| byte == b'=');
            let (name, value) = equals.map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
            let named = std::str::from_utf8(name).unwrap_or_default();
            self.part(Part::Parameter(named), name, Plus::Space, QUERY);
            self.part(Part::Parameter(named), value, Plus::Space, QUERY);
        }
    }

    fn part(&mut self, part: Part<'_>, bytes: &[u8], plus: Plus, inputs: u8) {
        if self.gate.is_harmless(bytes, inputs) {
            return;
        }
        let Normal { text, odd } = normalise(&bytes[..bytes.len().min(PART_BYTES_MAX)], plus);
        for oddity in odd {
            self.odd(part, oddity);
        }
        let gate = self.gate;
        for (set, numbers) in &gate.sets {
            // Most parts match nothing, which is found without asking what did.
            if set.is_match(&text) {
                for at in set.matches(&text) {
                    self.matched(part, numbers[at], inputs);
                }
            }
        }
        for (regex, number) in &gate.apart {
            if gate.rules[*number].inputs & inputs != 0 && regex.is_match(&text) {
                self.matched(part, *number, inputs);
            }
        }
    }

    fn matched(&mut self, part: Part<'_>, number: usize, inputs: u8) {
        let gate = self.gate;
        let rule = &gate.rules[number];
        if rule.inputs & inputs == 0
            || self.seen.contains(&number)
            || self.is_excluded(part, &rule.id, rule.family)
        {
            return;
        }
        self.seen.push(number);
        self.name(&rule.id, part);
        self.score = self.score.saturating_add(rule.score);
    }

    fn odd(&mut self, part: Part<'_>, oddity: Oddity) {
        // Numbered after the rules.
        let number = self.gate.rules.len() + oddity as usize;
        if !self.gate.protocol
            || self.seen.contains(&number)
            || self.is_excluded(part, oddity.id(), word(WafFamily::Protocol))
        {
            return;
        }
        self.seen.push(number);
        self.name(oddity.id(), part);
        self.score = self.score.saturating_add(oddity.score());
    }

    fn name(&mut self, id: &str, part: Part<'_>) {
        if self.seen.len() > NAMED_MAX {
            return;
        }
        let comma = if self.named.is_empty() { "" } else { ", " };
        let _ = match part {
            Part::Path => write!(self.named, "{comma}{id} in path"),
            Part::Parameter(name) => write!(self.named, "{comma}{id} in query parameter {name:.40?}"),
            Part::Field(name) => write!(self.named, "{comma}{id} in {name}"),
        };
    }

    fn is_excluded(&self, part: Part<'_>, id: &str, family: &str) -> bool {
        self.gate.excludes.iter().any(|exclude| {
            let of_id = exclude.id.as_ref().is_none_or(|known| known == id || known == family);
            let of_parameter = exclude.parameter.as_ref().is_none_or(|known| match part {
                Part::Parameter(name) => name == known,
                Part::Path | Part::Field(_) => false,
            });
            let of_path =
                || exclude.path.as_ref().is_none_or(|start| normal_path(self.path).starts_with(&**start));
            of_id && of_parameter && of_path()
        })
    }
}

/// Patterns of one set, with the numbers of their rules.
#[derive(Default)]
struct Listed<'t> {
    texts: Vec<&'t str>,
    numbers: Vec<usize>,
}

impl<'t> Listed<'t> {
    fn add(&mut self, text: &'t str, number: usize) {
        self.texts.push(text);
        self.numbers.push(number);
    }

    /// `None`: there are none.
    fn built(self) -> Option<Result<(RegexSet, Vec<usize>), String>> {
        let built = || regex(&self.texts).map_err(|error| format!("waf: {error}"));
        (!self.texts.is_empty()).then(|| Ok((built()?, self.numbers.clone())))
    }
}

fn word(family: WafFamily) -> &'static str {
    WafFamily::ALL.iter().find(|(_, known)| *known == family).map_or("", |(word, _)| word)
}

fn regex(texts: &[&str]) -> Result<RegexSet, regex::Error> {
    RegexSetBuilder::new(texts)
        .case_insensitive(true)
        .unicode(false)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(AUTOMATON_BYTES_MAX)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearside_fleet::config::gates::{WafExclude, WafRule};

    const ORDINARY: &str = include_str!("../../../tests/corpus/ordinary-urls.txt");
    const ATTACKS: &str = include_str!("../../../tests/corpus/attacks.txt");

    fn asked() -> gates::WafGate {
        gates::WafGate {
            families: WafFamily::ALL.iter().map(|(_, family)| *family).collect(),
            threshold: 5,
            headers: Vec::new(),
            query_bytes_max: 8192,
            rules: Vec::new(),
            excludes: Vec::new(),
            acting: Acting::default(),
        }
    }

    fn judged(gate: &WafGate, uri: &str) -> Result<(), String> {
        judged_with(gate, uri, &[])
    }

    fn judged_with(gate: &WafGate, uri: &str, fields: &[(&str, &str)]) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.insert(
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0".parse().unwrap(),
        );
        for (name, value) in fields {
            headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        gate.judge(&uri.parse().unwrap(), &headers).map_err(|finding| finding.why)
    }

    #[test]
    fn ordinary_urls_are_let_in_but_for_one_in_a_thousand() {
        let gate = WafGate::new(&asked()).unwrap();
        let urls: Vec<&str> = ORDINARY.lines().filter(|line| !line.is_empty()).collect();
        assert!(urls.len() >= 2000, "{}", urls.len());
        let wrong: Vec<(&str, String)> =
            urls.iter().filter_map(|url| Some((*url, judged(&gate, url).err()?))).collect();
        eprintln!("{} of {} ordinary URLs are refused: {wrong:?}", wrong.len(), urls.len());
        assert!(wrong.len() * 1000 <= urls.len(), "{} of {}: {wrong:#?}", wrong.len(), urls.len());
    }

    #[test]
    fn attacks_of_every_class_are_found() {
        let gate = WafGate::new(&asked()).unwrap();
        let (mut class, mut all, mut missed) = ("", 0, Vec::new());
        for line in ATTACKS.lines().filter(|line| !line.is_empty()) {
            if let Some(name) = line.strip_prefix("# ") {
                class = name;
                continue;
            }
            all += 1;
            let found = match line.split_once(": ").filter(|(name, _)| !name.starts_with('/')) {
                Some((name, value)) => judged_with(&gate, "/", &[(name, value)]),
                None => judged(&gate, line),
            };
            if found.is_ok() {
                missed.push((class, line));
            }
        }
        assert!(all >= 150, "{all}");
        assert!(missed.is_empty(), "{} of {all}: {missed:#?}", missed.len());
    }

    #[test]
    fn weak_signs_count_together_and_exclusions_take_them_away() {
        let strict = WafGate::new(&asked()).unwrap();
        let query = "/search?q=1%27+or+%271%27=%271&x=1";
        assert!(judged(&strict, query).unwrap_err().contains("sql-tautology in query parameter \"q\""));
        let excluding = |id: Option<&str>, path: Option<&str>, parameter: Option<&str>| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            let exclude = WafExclude { id: own(id), path: own(path), parameter: own(parameter) };
            WafGate::new(&gates::WafGate { excludes: vec![exclude], ..asked() }).unwrap()
        };
        assert!(judged(&excluding(Some("sql"), None, None), query).is_ok());
        assert!(judged(&excluding(Some("sql"), Some("/search"), Some("q")), query).is_ok());
        assert!(judged(&excluding(None, None, Some("q")), query).is_ok());
        assert!(judged(&excluding(Some("xss"), None, None), query).is_err());
        assert!(judged(&excluding(None, None, Some("x")), query).is_err());
        assert!(judged(&excluding(None, Some("/other"), None), query).is_err());
        assert!(
            judged(&excluding(None, Some("/search"), None), "/other/%2e%2e/search?q=%3Cscript%3E").is_ok()
        );
    }

    #[test]
    fn own_patterns_are_looked_for_where_they_say() {
        let own = WafRule {
            id: "old".to_owned(),
            pattern: "old-admin".to_owned(),
            inputs: vec![WafInput::Path],
            score: 5,
        };
        let with =
            |rule: WafRule| WafGate::new(&gates::WafGate { families: vec![], rules: vec![rule], ..asked() });
        let gate = with(own.clone()).unwrap();
        assert!(judged(&gate, "/OLD%2dadmin").is_err());
        assert!(judged(&gate, "/x?a=old-admin").is_ok());
        assert!(judged(&gate, "/x?a=%3Cscript%3E").is_ok(), "no built-in family was asked for");
        let bad = |pattern: &str, id: &str| {
            with(WafRule { pattern: pattern.to_owned(), id: id.to_owned(), ..own.clone() }).err().unwrap()
        };
        assert!(bad("(", "x").contains("waf rule x"), "{}", bad("(", "x"));
        assert!(bad("(?:a{1000}){1000}", "x").contains("size limit"), "{}", bad("(?:a{1000}){1000}", "x"));
        assert!(bad("x", "sql-tautology").contains("built-in"));
        let unknown = WafExclude { id: Some("sqll".to_owned()), path: None, parameter: None };
        assert!(WafGate::new(&gates::WafGate { excludes: vec![unknown], ..asked() }).is_err());
    }

    #[test]
    fn nothing_built_in_matches_what_is_taken_for_harmless() {
        let gate = WafGate::new(&asked()).unwrap();
        let mut rng = fastrand::Rng::with_seed(11);
        let words =
            "select union script etc passwd or and drop table sleep cat id sqlmap alert javascript git";
        let words: Vec<&str> = words.split(' ').collect();
        for _ in 0..5000 {
            let text: Vec<&str> = (0..rng.usize(1..6)).map(|_| words[rng.usize(..words.len())]).collect();
            let text = text.join(if rng.bool() { "-" } else { "" });
            let (set, numbers) = &gate.sets[0];
            let together = set.matches(text.as_bytes()).into_iter().map(|at| numbers[at]);
            let apart = gate.apart.iter().filter(|(regex, _)| regex.is_match(text.as_bytes()));
            let matched = together.chain(apart.map(|(_, number)| *number));
            let of_queries = matched.filter(|&rule| gate.rules[rule].inputs & !AGENT != 0);
            assert_eq!(of_queries.count(), 0, "{text}");
        }
    }

    #[test]
    fn floods_of_parameters_and_long_queries_are_findings() {
        let gate = WafGate::new(&asked()).unwrap();
        let many = format!("/?{}", "a=b&".repeat(300));
        assert!(judged(&gate, &many).unwrap_err().contains("protocol-parameters"));
        let long = format!("/?a={}", "b".repeat(9000));
        assert!(judged(&gate, &long).unwrap_err().contains("protocol-long"));
        assert!(judged(&gate, &format!("/?a={}", "b".repeat(8000))).is_ok());
    }
}
