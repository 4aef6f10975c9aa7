//! Signed requests to an authority that instant-acme has no call for.
//!
//! Accounts from a key that was journaled before (with contact and external binding), the account's list of orders, key
//! rollover to a journaled key, and renewal information: each lets home be killed at any moment without losing track. JWS
//! as RFC 8555 section 6.2 wants them: ES256, HS256 for the binding.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as B64, Engine};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{failure::Failure, http::Http};

/// Nonces are refused now and then, by some authorities on purpose (RFC 8555 section 6.5).
const NONCE_TRIES: usize = 10;
/// Pages of a list of orders that are read: the newest order is on one of them for any account that is not abused.
const PAGES_MAX: usize = 20;
/// Orders of a list that are looked at.
const ORDERS_MAX: usize = 100;

/// What an authority's directory says, as far as it is used here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    new_nonce: String,
    new_account: String,
    key_change: Option<String>,
    renewal_info: Option<String>,
    #[serde(default)]
    meta: Meta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    caa_identities: Vec<String>,
}

impl Directory {
    /// Names that CAA records know the authority by.
    pub fn caa_identities(&self) -> &[String] {
        &self.meta.caa_identities
    }

    /// Whether it says when certificates should be renewed (RFC 9773).
    pub fn has_renewal_info(&self) -> bool {
        self.renewal_info.is_some()
    }
}

/// An account's pair.
pub struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// A new pair as PKCS#8, base64url.
    ///
    /// # Errors
    /// In words, where the system has no randomness.
    pub fn generate() -> Result<String, Failure> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        made.map(|made| B64.encode(made.as_ref())).map_err(|_| Failure::Here("no key can be made".to_owned()))
    }

    /// Reads what [`Signer::generate`] made.
    ///
    /// # Errors
    /// In words, where it is damaged.
    pub fn read(pkcs8: &str) -> Result<Self, Failure> {
        let damaged = || Failure::Here("the account's key is damaged".to_owned());
        let bytes = B64.decode(pkcs8).map_err(|_| damaged())?;
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &bytes).map_err(|_| damaged())?;
        Ok(Self { pair, random: SystemRandom::new() })
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({ "crv": "P-256", "kty": "EC", "x": B64.encode(x), "y": B64.encode(y) })
    }

    fn sign(&self, text: &str) -> Result<Vec<u8>, Failure> {
        let signed = self.pair.sign(&self.random, text.as_bytes());
        let signed = signed.map_err(|_| Failure::Here("the account's key does not sign".to_owned()))?;
        Ok(signed.as_ref().to_vec())
    }

    /// A flattened JWS; `payload` `None` is the empty one of POST-as-GET.
    fn jws(&self, protected: &Value, payload: Option<&Value>) -> Result<Value, Failure> {
        let (protected, payload) = encoded(protected, payload);
        let signature = self.sign(&format!("{protected}.{payload}"))?;
        Ok(json!({ "protected": protected, "payload": payload, "signature": B64.encode(signature) }))
    }
}

fn encoded(protected: &Value, payload: Option<&Value>) -> (String, String) {
    (
        B64.encode(protected.to_string()),
        payload.map_or(String::new(), |payload| B64.encode(payload.to_string())),
    )
}

/// Who signs: an account that exists, or a bare key.
#[derive(Clone, Copy, Debug)]
enum As<'a> {
    Account(&'a str),
    Key,
}

/// An external account binding, its key decoded.
#[derive(Clone)]
pub struct Binding {
    /// Key identifier.
    pub kid: String,
    /// MAC key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Binding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Binding({})", self.kid)
    }
}

/// An authority, its directory read.
#[derive(Clone, Debug)]
pub struct Wire {
    /// How it is reached.
    pub http: Http,
    /// What it offers.
    pub directory: Directory,
}

/// When an authority suggests to renew (RFC 9773 section 4.2), seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Not before.
    pub start: u64,
    /// Not after.
    pub end: u64,
}

impl Wire {
    /// Reads the directory.
    ///
    /// # Errors
    /// [`Failure::Unavailable`].
    pub async fn open(http: Http, url: &str) -> Result<Self, Failure> {
        let unavailable = |error: &dyn std::fmt::Display| Failure::Unavailable(format!("{url}: {error}"));
        let request = Request::builder().uri(url).body(Full::<Bytes>::default());
        let request = request.map_err(|error| unavailable(&error))?;
        let answer = http.send(request).await.map_err(Failure::Unavailable)?;
        if !answer.status().is_success() {
            return Err(unavailable(&format!("answered {}", answer.status())));
        }
        let directory = serde_json::from_slice(answer.body());
        let directory = directory.map_err(|error| unavailable(&format!("is no ACME directory: {error}")))?;
        Ok(Self { http, directory })
    }

    async fn nonce(&self) -> Result<String, Failure> {
        let failed = |reason: String| Failure::Unavailable(format!("asking for a nonce: {reason}"));
        let request = Request::builder()
            .method(Method::HEAD)
            .uri(&self.directory.new_nonce)
            .body(Full::<Bytes>::default());
        let answer =
            self.http.send(request.map_err(|error| failed(error.to_string()))?).await.map_err(failed)?;
        let nonce = answer.headers().get("replay-nonce").and_then(|nonce| nonce.to_str().ok());
        nonce.map(str::to_owned).ok_or_else(|| failed("the answer has none".to_owned()))
    }

    /// One signed request; asked again where its nonce was refused, which no authority counts as done.
    async fn post(
        &self,
        signer: &Signer,
        by: As<'_>,
        url: &str,
        payload: Option<&Value>,
    ) -> Result<http::Response<Bytes>, Failure> {
        let mut last = None;
        for _ in 0..NONCE_TRIES {
            let mut protected = json!({ "alg": "ES256", "nonce": self.nonce().await?, "url": url });
            match by {
                As::Account(id) => protected["kid"] = json!(id),
                As::Key => protected["jwk"] = signer.jwk(),
            }
            let body = signer.jws(&protected, payload)?.to_string();
            let request = Request::builder()
                .method(Method::POST)
                .uri(url)
                .header(header::CONTENT_TYPE, "application/jose+json")
                .header(header::USER_AGENT, concat!("nearside/", env!("CARGO_PKG_VERSION")))
                .body(Full::new(Bytes::from(body)))
                .map_err(|error| Failure::Unavailable(error.to_string()))?;
            let answer = self.http.send(request).await.map_err(Failure::Unavailable)?;
            if answer.status().is_success() {
                return Ok(answer);
            }
            let (kind, failure) = problem(answer.status(), answer.body());
            if !kind.ends_with(":badNonce") {
                return Err(failure);
            }
            last = Some(failure);
        }
        Err(last.unwrap_or_else(|| Failure::Unavailable("every nonce was refused".to_owned())))
    }

    /// Makes the account of this key, or finds the one it has. Returns its URL.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn register(
        &self,
        signer: &Signer,
        contact: &[String],
        binding: Option<&Binding>,
        only_existing: bool,
    ) -> Result<String, Failure> {
        let contact: Vec<String> = contact.iter().map(|mail| format!("mailto:{mail}")).collect();
        let mut payload = match only_existing {
            true => json!({ "onlyReturnExisting": true }),
            false => json!({ "termsOfServiceAgreed": true, "contact": contact }),
        };
        if let Some(binding) = binding.filter(|_| !only_existing) {
            let protected = json!({ "alg": "HS256", "kid": binding.kid, "url": self.directory.new_account });
            let (protected, bound) = encoded(&protected, Some(&signer.jwk()));
            let key = hmac::Key::new(hmac::HMAC_SHA256, &binding.key);
            let signature = B64.encode(hmac::sign(&key, format!("{protected}.{bound}").as_bytes()));
            payload["externalAccountBinding"] =
                json!({ "protected": protected, "payload": bound, "signature": signature });
        }
        let answer = self.post(signer, As::Key, &self.directory.new_account, Some(&payload)).await?;
        let url = answer.headers().get(header::LOCATION).and_then(|url| url.to_str().ok());
        url.map(str::to_owned).ok_or_else(|| Failure::Unavailable("the account has no URL".to_owned()))
    }

    /// URLs of the account's orders for exactly these names, of those the authority lists. Authorities that list none
    /// (RFC 8555 section 7.1.2.1 is widely left out) give the same order again to who asks for the same names.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn orders(
        &self,
        signer: &Signer,
        account: &str,
        hosts: &[String],
    ) -> Result<Vec<String>, Failure> {
        let json = |answer: &http::Response<Bytes>| {
            serde_json::from_slice::<Value>(answer.body()).unwrap_or_default()
        };
        let known = json(&self.post(signer, As::Account(account), account, None).await?);
        let Some(mut page) = known["orders"].as_str().map(str::to_owned) else { return Ok(Vec::new()) };
        let mut urls: Vec<String> = Vec::new();
        for _ in 0..PAGES_MAX {
            let answer = self.post(signer, As::Account(account), &page, None).await?;
            let listed = json(&answer);
            let listed = listed["orders"].as_array().into_iter().flatten();
            urls.extend(listed.filter_map(|url| url.as_str()).map(str::to_owned));
            match next_page(&answer) {
                Some(next) => page = next,
                None => break,
            }
        }
        let mut wanted: Vec<&str> = hosts.iter().map(String::as_str).collect();
        wanted.sort_unstable();
        let mut found = Vec::new();
        // The newest stand last in the lists of those who list.
        for url in urls.into_iter().rev().take(ORDERS_MAX) {
            let order = json(&self.post(signer, As::Account(account), &url, None).await?);
            let names = order["identifiers"].as_array().into_iter().flatten();
            let mut names: Vec<&str> = names.filter_map(|name| name["value"].as_str()).collect();
            names.sort_unstable();
            if names == wanted {
                found.push(url);
            }
        }
        Ok(found)
    }

    /// Gives an account another key (RFC 8555 section 7.3.5).
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn change_key(&self, old: &Signer, new: &Signer, account: &str) -> Result<(), Failure> {
        let url = self.directory.key_change.as_ref();
        let url = url.ok_or_else(|| Failure::Refused("this authority changes no keys".to_owned()))?;
        let protected = json!({ "alg": "ES256", "jwk": new.jwk(), "url": url });
        let inner = new.jws(&protected, Some(&json!({ "account": account, "oldKey": old.jwk() })))?;
        self.post(old, As::Account(account), url, Some(&inner)).await.map(drop)
    }

    /// When a certificate should be renewed, and after how many seconds to ask again; `None`: the authority does not say.
    ///
    /// # Errors
    /// [`Failure::Unavailable`].
    pub async fn renewal(&self, id: &str) -> Result<Option<(Window, u64)>, Failure> {
        let Some(base) = &self.directory.renewal_info else { return Ok(None) };
        let failed = |reason: String| Failure::Unavailable(format!("asking when to renew: {reason}"));
        let request = Request::builder()
            .uri(format!("{}/{id}", base.trim_end_matches('/')))
            .body(Full::<Bytes>::default());
        let answer =
            self.http.send(request.map_err(|error| failed(error.to_string()))?).await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(problem(answer.status(), answer.body()).1);
        }
        let again =
            answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let window = window(answer.body()).ok_or_else(|| failed("the answer has no window".to_owned()))?;
        Ok(Some((
            window,
            again.unwrap_or(RENEWAL_AGAIN_SECS).clamp(RENEWAL_AGAIN_SECS_MIN, RENEWAL_AGAIN_SECS_MAX),
        )))
    }
}

/// RFC 9773 section 4.3.2: six hours where the authority does not say; never more often than each minute, nor less than
/// daily, or a revocation that it announces is missed.
const RENEWAL_AGAIN_SECS: u64 = 6 * 3_600;
const RENEWAL_AGAIN_SECS_MIN: u64 = 60;
const RENEWAL_AGAIN_SECS_MAX: u64 = 86_400;

fn window(body: &[u8]) -> Option<Window> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let at = |key: &str| {
        let at: jiff::Timestamp = body["suggestedWindow"][key].as_str()?.parse().ok()?;
        u64::try_from(at.as_second()).ok()
    };
    let window = Window { start: at("start")?, end: at("end")? };
    (window.start < window.end).then_some(window)
}

/// The type of a problem document, and what it means.
fn problem(status: StatusCode, body: &[u8]) -> (String, Failure) {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let kind = document["type"].as_str().unwrap_or_default().to_owned();
    let detail = document["detail"].as_str().unwrap_or_default();
    let failure = Failure::of_problem(&kind, status.as_u16(), format!("{status}: {detail} ({kind})"));
    (kind, failure)
}

/// `Link: <URL>;rel="next"` (RFC 8288).
fn next_page(answer: &http::Response<Bytes>) -> Option<String> {
    let links = answer.headers().get_all(header::LINK).iter().filter_map(|link| link.to_str().ok());
    links.flat_map(|links| links.split(',')).find_map(|link| {
        let (url, rel) = link.split_once(';')?;
        let url = url.trim().strip_prefix('<')?.strip_suffix('>')?;
        rel.contains("rel=\"next\"").then(|| url.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_signature_verifies_over_what_is_sent() {
        let signer = Signer::read(&Signer::generate().unwrap()).unwrap();
        let jws = signer.jws(&json!({ "alg": "ES256" }), None).unwrap();
        let text = format!("{}.", jws["protected"].as_str().unwrap());
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, signer.pair.public_key().as_ref());
        let signature = B64.decode(jws["signature"].as_str().unwrap()).unwrap();
        public.verify(text.as_bytes(), &signature).unwrap();
        assert!(Signer::read("AAAA").is_err());
    }

    #[test]
    fn windows_and_pages_are_read() {
        let body =
            br#"{"suggestedWindow": {"start": "2026-01-02T04:00:00Z", "end": "2026-01-03T04:00:00Z"}}"#;
        assert_eq!(window(body), Some(Window { start: 1_767_326_400, end: 1_767_412_800 }));
        assert_eq!(
            window(
                br#"{"suggestedWindow": {"start": "2026-01-04T04:00:00Z", "end": "2026-01-03T04:00:00Z"}}"#
            ),
            None
        );
        let answer = http::Response::builder()
            .header("link", "<https://a/index>;rel=\"index\", <https://a/2>;rel=\"next\"")
            .body(Bytes::new())
            .unwrap();
        assert_eq!(next_page(&answer).as_deref(), Some("https://a/2"));
    }

    /// A scripted authority on loopback: answers each path with one status line, headers and body. Returns its port and the
    /// CA to trust, in a file.
    async fn scripted(
        script: impl Fn(u16, &str) -> String + Send + 'static,
    ) -> (u16, tempfile::NamedTempFile) {
        use std::io::Write as _;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        nearside_node::tls::install_provider();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut ca = tempfile::NamedTempFile::new().unwrap();
        ca.write_all(certificate.pem().as_bytes()).unwrap();
        let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private.into())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let (mut read, mut room) = (Vec::new(), [0; 4096]);
                while !read.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut room).await {
                        Ok(bytes @ 1..) => read.extend_from_slice(&room[..bytes]),
                        _ => break,
                    }
                }
                let head = String::from_utf8_lossy(&read).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let _gone = stream.write_all(script(port, path).as_bytes()).await;
                let _gone = stream.shutdown().await;
            }
        });
        (port, ca)
    }

    fn ok(headers: &str, body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn an_authority_is_asked_when_to_renew() {
        let (port, ca) = scripted(|port, path| match path {
            "/dir" => ok(
                "",
                &json!({
                    "newNonce": "https://localhost/n", "newAccount": "https://localhost/a", "newOrder": "https://localhost/o",
                    "renewalInfo": format!("https://localhost:{port}/info/"),
                    "meta": { "caaIdentities": ["ca.test"] },
                })
                .to_string(),
            ),
            "/info/aki.serial" => ok(
                "Retry-After: 5\r\n",
                r#"{"suggestedWindow": {"start": "2026-01-02T04:00:00Z", "end": "2026-01-03T04:00:00Z"}}"#,
            ),
            _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
        })
        .await;
        let url = format!("https://localhost:{port}/dir");
        let wire = Wire::open(Http::new(Some(ca.path())).unwrap(), &url).await.unwrap();
        assert_eq!(wire.directory.caa_identities(), ["ca.test"]);
        let window = Window { start: 1_767_326_400, end: 1_767_412_800 };
        assert_eq!(wire.renewal("aki.serial").await, Ok(Some((window, RENEWAL_AGAIN_SECS_MIN))));
        assert!(matches!(wire.renewal("another").await, Err(Failure::Unknown(_))));

        let other = rcgen::KeyPair::generate().unwrap();
        let stranger =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&other).unwrap();
        std::fs::write(ca.path(), stranger.pem()).unwrap();
        let wrong = Wire::open(Http::new(Some(ca.path())).unwrap(), &url).await.unwrap_err();
        assert!(matches!(wrong, Failure::Unavailable(_)), "{wrong}");
    }
}
