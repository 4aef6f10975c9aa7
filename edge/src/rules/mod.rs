//! Rules: what a site does to requests that meet conditions, in order.
//!
//! [`Rulebook`] is compiled once per configuration; [`Rulebook::decide`] is asked once per request and gives
//! [`Effects`], or nothing where no rule matches. Pure: [`Facts`] come in, effects go out; carrying them out is
//! `request`'s part. A site without rules has no rulebook, and costs a branch.
//!
//! What keeps a thousand rules cheap is in [`index`]: each thing that conditions look at (path, host, one field) is
//! looked at once and leaves the rules it allows, as bits; only what survives all of them is tried, in order, and
//! mostly that is the rule that matches.
//!
//! What keeps caching right is in [`effects`]: whatever a rule changes about what the origin is asked, or how the answer
//! is kept, makes a *variant*. Requests with other effects never share what is stored, whichever conditions led there.

mod condition;
mod cors;
pub mod effects;
mod facts;
mod index;
mod outcome;
mod split;
pub mod stats;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use nearside_fleet::{
    config::{
        self,
        rules::{Condition, RuleAnswer, RuleBody, SiteRule},
    },
    patterns,
};
use smallvec::SmallVec;

use self::{
    condition::Tried,
    index::{Bits, Index},
    split::Splits,
};
pub use self::{
    effects::{Effects, Made, ORDERS, VARIANT},
    facts::Facts,
    outcome::{Act, Acts},
    stats::RuleStats,
};
use crate::{place::Places, policy};

/// The rules of one site. See the module.
pub struct Rulebook {
    rules: Vec<Rule>,
    index: Index,
    splits: Splits,
    /// Counts of matches, by rule.
    pub stats: Arc<RuleStats>,
    /// Where clients' countries are read from, if any rule wants them.
    countries: Option<Countries>,
}

/// One rule, compiled.
struct Rule {
    name: String,
    /// What the index does not know: all of them hold.
    rest: Vec<Tried>,
    /// In none of these do all hold.
    not: Vec<Vec<Tried>>,
    /// Refuses something: of two readings of a path, either is enough.
    restricts: bool,
    /// Request fields that those look at, for `Vary`.
    varies_by: SmallVec<[HeaderName; 2]>,
    continues: bool,
    captures: outcome::Captures,
    acts: Acts,
}

/// Countries by the bits that stand for them.
struct Countries {
    bits: Vec<(usize, &'static str)>,
}

/// Why rules can't be used, in words.
pub type Unusable = String;

impl Rulebook {
    /// Compiles a site's rules; `None`: it has neither rules nor splits.
    ///
    /// # Errors
    /// A file that can't be read, an expression that does not fit: what checking the fleet file lets through only where
    /// the file changed since.
    pub fn build(
        site: &config::Site,
        places: &Arc<Places>,
        last: Option<&Rulebook>,
        workers: usize,
    ) -> Result<Option<Arc<Rulebook>>, Unusable> {
        if site.rules.is_empty() && site.splits.is_empty() {
            return Ok(None);
        }
        let index = Index::build(&site.rules)?;
        let splits = Splits::build(&site.name, &site.splits);
        let wants_country = site.rules.iter().any(wants_country);
        let countries = wants_country.then(|| Countries::of(places));
        let rules = site.rules.iter().map(|rule| Rule::build(rule, site, places, &splits));
        let rules: Vec<Rule> = rules.collect::<Result<_, _>>()?;
        let names = rules.iter().map(|rule| rule.name.clone()).collect();
        let stats = RuleStats::new(names, last.map(|last| &*last.stats), workers);
        Ok(Some(Arc::new(Rulebook { rules, index, splits, stats, countries })))
    }

    /// What becomes of a request; `None`: nothing.
    pub fn decide(&self, facts: &Facts<'_>) -> Option<Box<Effects>> {
        let matched = self.matching(facts);
        if matched.rules.is_empty() && matched.vary.is_empty() && !self.splits.always() {
            return None;
        }
        let mut effects = Box::new(Effects { vary: matched.vary, ..Effects::default() });
        let arms = self.splits.arms(facts, &mut effects);
        let country = self.country(facts);
        for &number in &matched.rules {
            let rule = &self.rules[usize::from(number)];
            let filling = outcome::Filling { facts, splits: &self.splits, arms: &arms, country };
            rule.acts.add_to(&mut effects, &filling, &rule.captures);
        }
        effects.matched = matched.rules;
        effects.settle();
        Some(effects)
    }

    /// The names of rules, by [`Effects::matched`].
    pub fn name(&self, number: u16) -> &str {
        self.rules.get(usize::from(number)).map_or("", |rule| &rule.name)
    }

    /// What a rule does, in words.
    pub fn says(&self, number: u16) -> Vec<String> {
        self.rules.get(usize::from(number)).map(|rule| rule.acts.say()).unwrap_or_default()
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are splits alone.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    fn country(&self, facts: &Facts<'_>) -> &'static str {
        let bits = self.countries.iter().flat_map(|countries| &countries.bits);
        bits.into_iter().find(|(bit, _)| facts.seen.holds(*bit)).map_or("", |(_, code)| code)
    }

    /// The rules that match, up to the first that ends the list.
    pub fn matching(&self, facts: &Facts<'_>) -> Matched {
        let mut matched = Matched::default();
        if self.rules.is_empty() {
            return matched;
        }
        let mut looks = index::Looks::new();
        let arms = &self.splits;
        // An origin that decodes separators first would see another path: a rule that lets through must mean both, one
        // that refuses either.
        let decoded = policy::rules::as_decoded(facts.path);
        let Some(decoded) = decoded else {
            let bits = self.index.allowed(facts, &mut looks);
            for number in bits.iter() {
                let Some(rule) = self.rules.get(number) else { break };
                matched.looks_at(rule);
                if rule.holds(facts, arms) && matched.takes(number, rule) {
                    break;
                }
            }
            matched.note(&looks);
            return matched;
        };
        let other = Facts { path: &decoded, ..facts.clone() };
        let (bits, other_bits) =
            (self.index.allowed(facts, &mut looks), self.index.allowed(&other, &mut looks));
        for number in Bits::either(&bits, &other_bits).iter() {
            let Some(rule) = self.rules.get(number) else { break };
            matched.looks_at(rule);
            let one = bits.has(number) && rule.holds(facts, arms);
            let two = other_bits.has(number) && rule.holds(&other, arms);
            let holds = if rule.restricts { one || two } else { one && two };
            if holds && matched.takes(number, rule) {
                break;
            }
        }
        matched.note(&looks);
        matched
    }
}

/// Rules that match a request.
pub struct Matched {
    /// In order.
    pub rules: SmallVec<[u16; 4]>,
    /// Request fields that decided.
    pub vary: SmallVec<[HeaderName; 2]>,
    /// The last rule that was looked at.
    end: usize,
}

impl Default for Matched {
    fn default() -> Self {
        Matched { rules: SmallVec::new(), vary: SmallVec::new(), end: usize::MAX }
    }
}

impl Matched {
    /// Notes the fields that were looked at on the way to what was decided.
    fn note(&mut self, looks: &index::Looks<'_>) {
        let end = self.end;
        for (name, _) in looks.iter().filter(|(_, first)| *first <= end) {
            self.varies_by(name);
        }
    }

    fn looks_at(&mut self, rule: &Rule) {
        rule.varies_by.iter().for_each(|name| self.varies_by(name));
    }

    fn varies_by(&mut self, name: &HeaderName) {
        if !self.vary.contains(name) {
            self.vary.push(name.clone());
        }
    }

    /// Whether it ends the list.
    fn takes(&mut self, number: usize, rule: &Rule) -> bool {
        self.rules.push(number as u16);
        if !rule.continues {
            self.end = number;
        }
        !rule.continues
    }
}

impl Rule {
    fn build(
        rule: &SiteRule,
        site: &config::Site,
        places: &Arc<Places>,
        splits: &Splits,
    ) -> Result<Rule, Unusable> {
        let tried = |condition: &Condition| Tried::build(condition, places, splits);
        let rest = rule.when.iter().filter(|condition| !index::knows(condition)).map(tried);
        let rest = rest.collect::<Result<_, _>>()?;
        let not = rule.not.iter().map(|group| group.iter().map(tried).collect::<Result<_, _>>());
        let not = not.collect::<Result<_, _>>()?;
        let is_block = matches!(rule.then.answer, Some(RuleAnswer::Block { .. }));
        // As for those of the index: what blocks need not be told.
        let varies_by = if is_block { SmallVec::new() } else { fields_of(rule, site) };
        Ok(Rule {
            name: rule.name.clone(),
            rest,
            not,
            restricts: is_block || rule.then.bypass,
            varies_by,
            continues: rule.continues,
            captures: outcome::Captures::build(rule)?,
            acts: Acts::build(rule, site, splits)?,
        })
    }

    /// Whether what the index does not know holds.
    fn holds(&self, facts: &Facts<'_>, splits: &Splits) -> bool {
        self.rest.iter().all(|tried| tried.holds(facts, splits))
            && !self.not.iter().any(|group| group.iter().all(|tried| tried.holds(facts, splits)))
    }
}

/// Request fields that conditions of a rule look at which the index does not know.
fn fields_of(rule: &SiteRule, site: &config::Site) -> SmallVec<[HeaderName; 2]> {
    let mut fields: SmallVec<[HeaderName; 2]> = SmallVec::new();
    let tried = rule.when.iter().filter(|condition| !index::knows(condition));
    for condition in tried.chain(rule.not.iter().flatten()) {
        let name = match condition {
            Condition::Header(name, _) => name.parse().ok(),
            Condition::Cookie(..) => Some(header::COOKIE),
            Condition::Split(name, _) => {
                let split = site.splits.iter().find(|split| &split.name == name);
                split.and_then(|split| split.cookie.as_ref()).map(|_| header::COOKIE)
            }
            _ => None,
        };
        fields.extend(name.filter(|name| !fields.contains(name)));
    }
    fields
}

/// Whether a rule needs to know the client's country.
fn wants_country(rule: &SiteRule) -> bool {
    use nearside_fleet::template::{Piece, Template};
    let names_it = |template: &Template| template.pieces.contains(&Piece::Country);
    let then = &rule.then;
    let fields = [&then.request_headers, &then.response_headers];
    let mut filled = fields.into_iter().flat_map(|fields| fields.set.iter().chain(&fields.add));
    then.key.country
        || filled.any(|(_, template)| names_it(template))
        || then.rewrite.iter().flat_map(|rewrite| rewrite.path.iter().chain(&rewrite.query)).any(names_it)
        || matches!(&then.answer, Some(RuleAnswer::Redirect { to, .. }) if names_it(to))
}

/// Every place that a site's rules ask for.
pub fn places_asked(site: &config::Site) -> impl Iterator<Item = &config::Match> {
    static ALL: std::sync::LazyLock<Vec<config::Match>> = std::sync::LazyLock::new(|| {
        nearside_fleet::countries::all().map(|code| config::Match::Country(code.to_owned())).collect()
    });
    let conditions = site.rules.iter().flat_map(|rule| rule.when.iter().chain(rule.not.iter().flatten()));
    let places = conditions.filter_map(|condition| match condition {
        Condition::Place(places) => Some(places),
        _ => None,
    });
    let countries = if site.rules.iter().any(wants_country) { &ALL[..] } else { &[] };
    places.flatten().chain(countries)
}

impl Countries {
    fn of(places: &Arc<Places>) -> Countries {
        let bit = |code: &'static str| Some((places.bit(&config::Match::Country(code.to_owned()))?, code));
        Countries { bits: nearside_fleet::countries::all().filter_map(bit).collect() }
    }
}

/// The content of a fixed response.
fn body(body: &RuleBody) -> Result<bytes::Bytes, Unusable> {
    match body {
        RuleBody::Text(text) => Ok(text.clone().into()),
        RuleBody::File(path) => read_bounded(path, config::rules::BODY_BYTES_MAX),
    }
}

/// A file that is kept in memory.
///
/// # Errors
/// In words: it can't be read, or is too large.
pub(crate) fn read_bounded(path: &std::path::Path, bytes_max: u64) -> Result<bytes::Bytes, String> {
    let words = |error: std::io::Error| format!("{}: {error}", path.display());
    let length = std::fs::metadata(path).map_err(words)?.len();
    if length > bytes_max {
        return Err(format!("{}: {length} bytes, at most {bytes_max}", path.display()));
    }
    Ok(std::fs::read(path).map_err(words)?.into())
}

/// A regular expression that the fleet file's reader has compiled already.
fn regex(pattern: &str) -> Result<regex::bytes::Regex, Unusable> {
    patterns::one(pattern).map_err(|error| format!("{pattern:?}: {error}"))
}

/// A value as a field takes it.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// Whether a request is a preflight (the Fetch standard).
fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests;
