//! Keys that tokens are verified with: of a file, of a secret, or fetched from their issuer and kept.
//!
//! A set that is fetched is fetched again at its interval, and at once (but not more often than [`AGAIN_MIN`]) when a token
//! names a key that is not in it: issuers rotate keys without a word. While fetching fails, the last set goes on; before
//! the first one has come, nobody is let in. One task for all sets; requests never wait for it.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Limited};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{Jwk, JwkSet, KeyOperations, PublicKeyUse},
};
use nearside_fleet::config::{self, tokens::JwtKeys};

use crate::{
    origin::{Origin, SendBody, Trust},
    request::Edge,
};

/// Largest set: [`KEYS_MAX`] of the largest keys, with certificates.
const BYTES_MAX: u64 = 256 << 10;
/// Keys of a set; an issuer has two or three.
const KEYS_MAX: usize = 64;
/// Shortest secret for HMAC, bytes (RFC 7518 section 3.2, for HS256).
const SECRET_BYTES_MIN: usize = 32;
/// From the start of one fetch to that of the next, whoever asks for it.
const AGAIN_MIN: Duration = Duration::from_secs(60);
/// The same while there is no set yet: nobody can be let in.
const FIRST_AGAIN: Duration = Duration::from_secs(2);
/// A whole fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the sites are looked through.
const LOOK: Duration = Duration::from_millis(500);

/// One key.
pub struct Key {
    id: Option<String>,
    /// The one algorithm it says it is for.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// Keys of one issuer.
#[derive(Default)]
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a JWK set (RFC 7517 section 5). Keys for other uses, and of kinds we do not know, are left out.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_slice(text).map_err(|error| format!("no JWK set: {error}"))?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("{} keys, expected at most {KEYS_MAX}", set.keys.len()));
        }
        let keys: Vec<Key> = set.keys.iter().filter_map(Key::of).collect();
        if keys.is_empty() {
            return Err("no public key for signatures in it".to_owned());
        }
        Ok(KeySet(keys))
    }

    /// The keys that may have signed a token of this algorithm: those of its id, else, for a token that names none, all
    /// that fit.
    pub fn candidates<'s>(
        &'s self,
        id: Option<&'s str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'s DecodingKey> {
        let fits = move |key: &&Key| {
            key.key.family() == algorithm.family()
                && key.algorithm.is_none_or(|only| only == algorithm)
                && id.is_none_or(|id| key.id.as_deref() == Some(id))
        };
        self.0.iter().filter(fits).map(|key| &key.key)
    }
}

impl Key {
    fn of(jwk: &Jwk) -> Option<Key> {
        let common = &jwk.common;
        let for_signatures =
            common.public_key_use.as_ref().is_none_or(|only| *only == PublicKeyUse::Signature);
        let for_verifying =
            common.key_operations.as_ref().is_none_or(|only| only.contains(&KeyOperations::Verify));
        let key = DecodingKey::from_jwk(jwk).ok()?;
        // A secret has no business in a set that is published: whoever reads it could sign.
        let public = key.family() != AlgorithmFamily::Hmac;
        // An algorithm that is named and unknown (for encryption, say) is not one for any token.
        let algorithm = match common.key_algorithm {
            None => None,
            Some(named) => Some(named.to_string().parse().ok()?),
        };
        (for_signatures && for_verifying && public).then(|| Key { id: common.key_id.clone(), algorithm, key })
    }
}

/// Where a gate's keys come from.
#[derive(Clone)]
pub enum Keyring {
    /// They stay as they are until the next configuration.
    Fixed(Arc<KeySet>),
    /// They are fetched.
    Fetched(Arc<Fetched>),
}

impl Keyring {
    /// Reads what can be read; what must be fetched is carried over from `last` if it is the same.
    ///
    /// # Errors
    /// In words, without what a file with a secret holds.
    pub fn build(keys: &JwtKeys, last: Option<&Keyring>) -> Result<Self, String> {
        match keys {
            JwtKeys::File(path) => {
                let text = read(path)?;
                let set = KeySet::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
                Ok(Keyring::Fixed(Arc::new(set)))
            }
            JwtKeys::Secret(path) => {
                let text = read(path)?;
                let secret = STANDARD.decode(text.trim_ascii()).ok();
                let secret = secret.filter(|secret| secret.len() >= SECRET_BYTES_MIN).ok_or_else(|| {
                    format!("{}: expected base64 of at least {SECRET_BYTES_MIN} bytes", path.display())
                })?;
                let key = Key { id: None, algorithm: None, key: DecodingKey::from_secret(&secret) };
                Ok(Keyring::Fixed(Arc::new(KeySet(vec![key]))))
            }
            JwtKeys::Url { url, ca, refresh } => {
                let trust = Trust::load(ca.as_deref()).map_err(|error| error.to_string())?;
                match last {
                    Some(Keyring::Fetched(fetched)) if fetched.is(url, &trust, *refresh) => {
                        Ok(Keyring::Fetched(fetched.clone()))
                    }
                    _ => {
                        Fetched::new(url, trust, *refresh).map(|fetched| Keyring::Fetched(Arc::new(fetched)))
                    }
                }
            }
        }
    }

    /// The keys of now.
    pub fn keys(&self) -> Arc<KeySet> {
        match self {
            Keyring::Fixed(set) => set.clone(),
            Keyring::Fetched(fetched) => fetched.set.load_full(),
        }
    }

    /// Whether there are any yet.
    pub fn is_ready(&self) -> bool {
        match self {
            Keyring::Fixed(_) => true,
            Keyring::Fetched(fetched) => fetched.has_come.load(Ordering::Acquire),
        }
    }

    /// A token names a key that is not among them.
    pub fn miss(&self) {
        if let Keyring::Fetched(fetched) = self {
            fetched.is_wanted.store(true, Ordering::Release);
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let words = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    if fs::metadata(path).map_err(|error| words(&error))?.len() > BYTES_MAX {
        return Err(words(&format!("expected at most {BYTES_MAX} bytes")));
    }
    fs::read(path).map_err(|error| words(&error))
}

/// A set that an issuer publishes.
pub struct Fetched {
    url: String,
    uri: Uri,
    refresh: Duration,
    trust: Trust,
    issuer: Arc<Origin>,
    set: ArcSwap<KeySet>,
    has_come: AtomicBool,
    is_wanted: AtomicBool,
}

impl Fetched {
    fn new(url: &str, trust: Trust, refresh: Duration) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let host = uri.host().ok_or_else(|| format!("{url}: names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let settings = config::Origin::at(config::Scheme::Https, host, uri.port_u16().unwrap_or(443));
        let issuer = Origin::new(settings, trust.clone(), None).map_err(|error| error.to_string())?;
        Ok(Fetched {
            url: url.to_owned(),
            uri,
            refresh,
            trust,
            issuer,
            set: ArcSwap::default(),
            has_come: AtomicBool::new(false),
            is_wanted: AtomicBool::new(false),
        })
    }

    fn is(&self, url: &str, trust: &Trust, refresh: Duration) -> bool {
        self.url == url && self.trust == *trust && self.refresh == refresh
    }

    /// When it is due, given when it was begun last.
    fn due(&self, begun: Option<Instant>, now: Instant) -> bool {
        let Some(begun) = begun else { return true };
        let again = match () {
            () if !self.has_come.load(Ordering::Acquire) => FIRST_AGAIN,
            () if self.is_wanted.load(Ordering::Acquire) => AGAIN_MIN.min(self.refresh),
            () => self.refresh,
        };
        now.duration_since(begun) >= again
    }

    async fn fetch(&self) {
        self.is_wanted.store(false, Ordering::Release);
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.try_fetch()).await;
        let result = fetched.unwrap_or_else(|_| Err(format!("no answer within {FETCH_TIMEOUT:?}")));
        match result.and_then(|text| KeySet::parse(&text)) {
            Ok(set) => {
                tracing::debug!(url = self.url, keys = set.0.len(), "fetched the keys of tokens");
                self.set.store(Arc::new(set));
                self.has_come.store(true, Ordering::Release);
            }
            Err(error) => {
                let kept = self.has_come.load(Ordering::Acquire);
                tracing::warn!(url = self.url, error, kept, "could not fetch the keys of tokens");
            }
        }
    }

    async fn try_fetch(&self) -> Result<Vec<u8>, String> {
        let target = self.uri.path_and_query().map_or("/", |target| target.as_str());
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        let request = Request::get(target)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "nearside-edge")
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .body(());
        let (head, ()) = request.map_err(|error| error.to_string())?.into_parts();
        let sent = self.issuer.send(&head, SendBody::Empty).await;
        let response = sent.map_err(|failed| failed.error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), BYTES_MAX as usize);
        Ok(body.collect().await.map_err(|error| error.to_string())?.to_bytes().to_vec())
    }
}

/// Fetches what is due, until the edge is gone.
pub async fn run(edge: Weak<Edge>) {
    let mut begun: HashMap<usize, Instant> = HashMap::new();
    loop {
        let Some(edge) = edge.upgrade() else { return };
        let sets: Vec<Arc<Fetched>> =
            edge.sites.load().iter().filter_map(|site| site.gates.as_ref()?.fetched_keys()).collect();
        drop(edge);
        let now = Instant::now();
        let number = |set: &Arc<Fetched>| Arc::as_ptr(set) as usize;
        begun.retain(|known, _| sets.iter().any(|set| number(set) == *known));
        for set in sets {
            if set.due(begun.get(&number(&set)).copied(), now) {
                begun.insert(number(&set), now);
                tokio::spawn(async move { set.fetch().await });
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;

    fn set(keys: &str) -> Result<KeySet, String> {
        KeySet::parse(format!(r#"{{"keys":[{keys}]}}"#).as_bytes())
    }

    #[test]
    fn keys_are_taken_for_what_they_say_they_are_for() {
        let of = |more: &str, id, algorithm| {
            let set = set(&format!("{P256}{more}}}, {P256},\"kid\":\"other\"}}")).unwrap();
            set.candidates(id, algorithm).count()
        };
        assert_eq!(of(r#","kid":"a""#, Some("a"), Algorithm::ES256), 1);
        assert_eq!(of(r#","kid":"a""#, None, Algorithm::ES256), 2);
        assert_eq!(of(r#","kid":"a""#, Some("b"), Algorithm::ES256), 0);
        assert_eq!(of(r#","kid":"a""#, Some("a"), Algorithm::RS256), 0);
        assert_eq!(of(r#","kid":"a","alg":"ES256""#, Some("a"), Algorithm::ES256), 1);
        assert_eq!(of(r#","kid":"a","alg":"ES384""#, Some("a"), Algorithm::ES256), 0);
        assert_eq!(of(r#","kid":"a","use":"enc""#, Some("a"), Algorithm::ES256), 0);
        assert_eq!(of(r#","kid":"a","use":"sig""#, Some("a"), Algorithm::ES256), 1);
        assert_eq!(of(r#","kid":"a","key_ops":["sign"]"#, Some("a"), Algorithm::ES256), 0);
        assert!(set(r#"{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}"#).is_err(), "a secret");
        assert!(set("").is_err());
        assert!(KeySet::parse(b"{").is_err());
        let many = vec![format!("{P256}}}"); KEYS_MAX + 1].join(",");
        assert!(set(&many).is_err());
    }
}
