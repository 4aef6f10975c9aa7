//! What rules do to one request, all of them together.
//!
//! Whatever of it changes what the origin is asked, or how its answer is kept, is digested into one *variant*
//! ([`VARIANT`]): stored responses carry the variant they were fetched under as part of their secondary key, and answer no
//! request of another. Purges and invalidations are by URL and meet all variants.
//!
//! A shield does not apply rules again: it is told in [`ORDERS`] what the edge decided whose client it is.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use nearside_fleet::config::QueryKey;
use smallvec::SmallVec;

use super::cors::Sharing;

/// Request field that holds the variant: of edges among each other, and of what is stored.
pub const VARIANT: HeaderName = HeaderName::from_static("nearside-variant");

/// Request field that tells a shield what was decided.
pub const ORDERS: HeaderName = HeaderName::from_static("nearside-orders");

/// A change of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is gone.
    Remove(HeaderName),
    /// In place of what is there.
    Set(HeaderName, HeaderValue),
    /// Beside what is there.
    Add(HeaderName, HeaderValue),
}

impl Change {
    fn apply(&self, fields: &mut HeaderMap) {
        match self {
            Change::Remove(name) => drop(fields.remove(name)),
            Change::Set(name, value) => drop(fields.insert(name.clone(), value.clone())),
            Change::Add(name, value) => drop(fields.append(name.clone(), value.clone())),
        }
    }
}

/// An answer that a rule makes.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its content.
    pub body: bytes::Bytes,
    /// Whether it is a refusal, which has an error page.
    pub is_refusal: bool,
    /// Whether it answers a preflight, and so has its fields of sharing already.
    pub is_preflight: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// The rules that matched, in order.
    pub matched: SmallVec<[u16; 4]>,
    /// Request fields that decided: what is cached on the way to the client must know.
    pub vary: SmallVec<[HeaderName; 2]>,
    /// The answer, where the origin is not asked.
    pub made: Option<Made>,
    /// The cache has no part in it.
    pub bypass: bool,
    /// Lifetime in place of the origin's.
    pub ttl: Option<Duration>,
    /// `Cache-Control` for the client.
    pub client_cache_control: Option<HeaderValue>,
    /// How the query is part of the key.
    pub query: Option<QueryKey>,
    /// Another path.
    pub path: Option<String>,
    /// Another query; empty: none.
    pub new_query: Option<String>,
    /// Origins in order of preference.
    pub origins: Option<Arc<[usize]>>,
    /// Bytes per second.
    pub throttle: Option<u64>,
    /// To purge by.
    pub tags: Vec<String>,
    /// The variant; `None`: the one of requests that no rule changes.
    pub variant: Option<HeaderValue>,
    /// Random cookies that clients are given.
    pub set_cookies: Vec<HeaderValue>,
    /// Request fields for the origin of what the cache has no part in.
    pub of_passes: Vec<(HeaderName, HeaderValue)>,
    pub(super) request: Vec<Change>,
    pub(super) response: Vec<Change>,
    pub(super) cors: Option<Arc<Sharing>>,
    pub(super) origin_names: Vec<String>,
    pub(super) same_content: bool,
    /// What joins the key.
    pub(super) key: Vec<u8>,
    pub(super) keyed_splits: SmallVec<[usize; 2]>,
    pub(super) arm_headers: SmallVec<[(usize, HeaderName, HeaderValue); 2]>,
    pub(super) response_arms: SmallVec<[(HeaderName, HeaderValue); 2]>,
}

/// Bytes of the digest that tells variants apart: nobody finds two inputs of one digest.
const VARIANT_BYTES: usize = 16;

impl Effects {
    /// Adds to the key. Lengths are written too: no two lists share a spelling.
    pub(super) fn joins(&mut self, kind: &str, name: &str, value: &[u8]) {
        for part in [kind.as_bytes(), name.as_bytes(), value] {
            self.key.extend_from_slice(&(part.len() as u32).to_be_bytes());
            self.key.extend_from_slice(part);
        }
    }

    /// Works out what follows from all of it.
    pub(super) fn settle(&mut self) {
        for (split, name, value) in std::mem::take(&mut self.arm_headers) {
            // An arm that the origin is told without the key knowing would be served to the others.
            match self.keyed_splits.contains(&split) {
                true => self.request.push(Change::Set(name, value)),
                false => self.of_passes.push((name, value)),
            }
        }
        self.variant = self.digest();
    }

    fn digest(&self) -> Option<HeaderValue> {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut is_any = false;
        let mut add = |kind: u8, part: &[u8]| {
            is_any = true;
            context.update(&[kind]);
            context.update(&(part.len() as u32).to_be_bytes());
            context.update(part);
        };
        if !self.key.is_empty() {
            add(0, &self.key);
        }
        if let Some(ttl) = self.ttl {
            add(1, &ttl.as_millis().to_be_bytes());
        }
        if !self.same_content {
            self.origin_names.iter().for_each(|name| add(2, name.as_bytes()));
        }
        self.tags.iter().for_each(|tag| add(3, tag.as_bytes()));
        for change in &self.request {
            match change {
                Change::Remove(name) => add(4, name.as_str().as_bytes()),
                Change::Set(name, value) => {
                    add(5, name.as_str().as_bytes());
                    add(6, value.as_bytes());
                }
                Change::Add(name, value) => {
                    add(7, name.as_str().as_bytes());
                    add(8, value.as_bytes());
                }
            }
        }
        if !is_any {
            return None;
        }
        let mut text = String::with_capacity(2 * VARIANT_BYTES);
        for byte in &context.finish().as_ref()[..VARIANT_BYTES] {
            text.push_str(&format!("{byte:02x}"));
        }
        HeaderValue::try_from(text).ok()
    }

    /// Makes of a client's request fields those that the rest of the way sees.
    pub fn change_request(&self, fields: &mut HeaderMap) {
        self.request.iter().for_each(|change| change.apply(fields));
    }

    /// Puts on a response what rules say of it. `request` are the request's fields as the client sent them, as far as
    /// rules leave them.
    pub fn dress(&self, request: &HeaderMap, status: StatusCode, fields: &mut HeaderMap) {
        if let Some(value) = self.client_cache_control.as_ref().filter(|_| status.as_u16() < 400) {
            fields.insert(header::CACHE_CONTROL, value.clone());
            fields.remove(header::EXPIRES);
            fields.remove(header::PRAGMA);
        }
        if let Some(cors) = self.cors.as_ref().filter(|_| status != StatusCode::SWITCHING_PROTOCOLS)
            && self.made.as_ref().is_none_or(|made| !made.is_preflight)
        {
            cors.dress(request, fields);
        }
        self.response.iter().for_each(|change| change.apply(fields));
        for (name, value) in &self.response_arms {
            fields.insert(name.clone(), value.clone());
        }
        for name in &self.vary {
            fields.append(header::VARY, HeaderValue::from(name.clone()));
        }
        for cookie in &self.set_cookies {
            fields.append(header::SET_COOKIE, cookie.clone());
            // Of this client alone.
            fields.append(header::CACHE_CONTROL, HeaderValue::from_static("private"));
        }
    }

    /// What a shield is told; `None`: nothing.
    pub fn orders(&self) -> Option<HeaderValue> {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.bypass.then(|| "bypass".to_owned()));
        parts.extend(self.query.as_ref().map(|_| "query".to_owned()));
        parts.extend(self.ttl.map(|ttl| format!("ttl={}", ttl.as_millis())));
        parts.extend(self.origin_names.iter().map(|name| format!("origin={}", escaped(name))));
        parts.extend(self.tags.iter().map(|tag| format!("tag={}", escaped(tag))));
        // Where there is a variant there are orders, so that it is believed.
        parts.extend(self.variant.as_ref().map(|_| "variant".to_owned()));
        (!parts.is_empty()).then(|| super::value(&parts.join(";")))
    }

    /// What another edge has decided, of its request's fields; `position` is that of an origin by its name. What is named
    /// and not known here (yet) is passed over.
    pub fn ordered(headers: &HeaderMap, position: impl Fn(&str) -> Option<usize>) -> Option<Box<Effects>> {
        let orders = headers.get(ORDERS)?.to_str().ok()?;
        let mut effects = Box::<Effects>::default();
        let mut listed: Vec<usize> = Vec::new();
        for part in orders.split(';') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match name {
                "bypass" => effects.bypass = true,
                // It is in its final spelling already.
                "query" => effects.query = Some(QueryKey::Keep),
                "ttl" => effects.ttl = value.parse().ok().map(Duration::from_millis),
                "origin" => listed.extend(position(&unescaped(value))),
                "tag" => effects.tags.push(unescaped(value)),
                "variant" => effects.variant = headers.get(VARIANT).cloned(),
                _ => {}
            }
        }
        effects.origins = (!listed.is_empty()).then(|| listed.into());
        Some(effects)
    }
}

fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn unescaped(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variant(effects: &Effects) -> Option<String> {
        effects.digest().map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn whatever_changes_what_is_kept_makes_a_variant() {
        let name = || HeaderName::from_static("x-a");
        let set = |value| Change::Set(name(), HeaderValue::from_static(value));
        let mut joined = Effects::default();
        joined.joins("header", "x", b"1");
        let mut other = Effects::default();
        other.joins("header", "", b"x1");
        let all = [
            joined,
            other,
            Effects { ttl: Some(Duration::from_secs(1)), ..Effects::default() },
            Effects { ttl: Some(Duration::from_secs(2)), ..Effects::default() },
            Effects { tags: vec!["a".into(), "b".into()], ..Effects::default() },
            Effects { tags: vec!["ab".into()], ..Effects::default() },
            Effects { origin_names: vec!["a".into()], ..Effects::default() },
            Effects { request: vec![Change::Remove(name())], ..Effects::default() },
            Effects { request: vec![set("1")], ..Effects::default() },
            Effects { request: vec![set("2")], ..Effects::default() },
            Effects {
                request: vec![Change::Add(name(), HeaderValue::from_static("1"))],
                ..Effects::default()
            },
        ];
        let mut variants: Vec<String> =
            all.iter().map(|effects| variant(effects).expect("a variant")).collect();
        variants.sort();
        variants.dedup();
        assert_eq!(variants.len(), all.len());
        let none = [
            Effects::default(),
            Effects { response: vec![set("1")], throttle: Some(1), bypass: true, ..Effects::default() },
            Effects { origin_names: vec!["a".into()], same_content: true, ..Effects::default() },
            Effects { path: Some("/x".into()), ..Effects::default() },
        ];
        assert!(none.iter().all(|effects| variant(effects).is_none()));
    }

    #[test]
    fn orders_are_read_back() {
        let mut effects = Effects {
            bypass: true,
            ttl: Some(Duration::from_millis(1500)),
            tags: vec!["a;b=c".into(), "d".into()],
            origin_names: vec!["o.test:80".into(), "gone".into()],
            ..Effects::default()
        };
        effects.variant = effects.digest();
        let mut headers = HeaderMap::new();
        headers.insert(ORDERS, effects.orders().unwrap());
        headers.insert(VARIANT, effects.variant.clone().unwrap());
        let read = Effects::ordered(&headers, |name| (name == "o.test:80").then_some(1)).unwrap();
        assert_eq!((read.bypass, read.ttl, &read.tags), (true, effects.ttl, &effects.tags));
        assert_eq!(read.origins.as_deref(), Some(&[1][..]));
        assert_eq!(read.variant, effects.variant);
        assert!(Effects::default().orders().is_none());
        assert!(Effects::ordered(&HeaderMap::new(), |_| None).is_none());
    }
}
