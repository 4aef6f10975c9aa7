//! JSON Web Tokens: who brings one that fits is let in, and the origin is told what it says; 401 for the rest.
//!
//! Algorithms are pinned by the site and bound to the kind of key (RFC 8725 section 3.1); a token without end is
//! refused, and one with extensions that must be understood (`crit`, RFC 7515 section 4.1.11), too. Errors follow RFC 6750
//! section 3. A preflight of CORS carries no credentials by design and is let through.
//!
//! What a client itself sends under the names of headers that carry claims is dropped on every path of the site:
//! an origin must be able to believe them.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use nearside_fleet::config::{
    gates::Acting,
    tokens::{self, Jwt, TokenSource},
};
use serde_json::{Map, Value};

use super::{
    Finding, cookies,
    jwks::{Fetched, Keyring},
    paths::Paths,
    set_query,
};

/// Longer ones are none; the largest in use have 2 to 4 KiB.
const TOKEN_BYTES_MAX: usize = 8192;
/// Keys that are tried for a token that names none.
const TRIED_MAX: usize = 8;
/// Longest claim that is passed on, bytes.
const CLAIM_BYTES_MAX: usize = 1024;

/// The gate of one site.
pub struct JwtGate {
    realm: String,
    paths: Paths,
    sources: Vec<TokenSource>,
    keys: Keyring,
    validation: Validation,
    claims: Vec<(String, HeaderName)>,
    forward: bool,
    shared: bool,
    /// How it acts.
    pub acting: Acting,
}

/// What the origin is told of a token.
#[derive(Debug, Default)]
pub struct Told(Vec<(HeaderName, HeaderValue)>);

impl JwtGate {
    /// Reads the keys, or prepares to fetch them.
    ///
    /// # Errors
    /// In words.
    pub fn build(site: &str, asked: &Jwt, last: Option<&JwtGate>) -> Result<Self, String> {
        let mut validation = Validation {
            algorithms: asked.algorithms.iter().copied().map(algorithm).collect(),
            leeway: asked.leeway.as_secs(),
            validate_nbf: true,
            ..Validation::default()
        };
        if !asked.issuers.is_empty() {
            validation.set_issuer(&asked.issuers);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        validation.validate_aud = !asked.audiences.is_empty();
        if validation.validate_aud {
            validation.set_audience(&asked.audiences);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        let claims = asked.claims.iter().map(|(claim, name)| {
            let name = HeaderName::try_from(name.as_str()).map_err(|error| format!("{name}: {error}"))?;
            Ok((claim.clone(), name))
        });
        Ok(JwtGate {
            realm: site.to_owned(),
            paths: Paths::new(&asked.paths),
            sources: asked.sources.clone(),
            keys: Keyring::build(&asked.keys, last.map(|last| &last.keys))?,
            validation,
            claims: claims.collect::<Result<_, String>>()?,
            forward: asked.forward,
            shared: asked.shared,
            acting: asked.acting,
        })
    }

    /// The set of keys that is fetched, if it is.
    pub fn fetched(&self) -> Option<std::sync::Arc<Fetched>> {
        match &self.keys {
            Keyring::Fetched(fetched) => Some(fetched.clone()),
            Keyring::Fixed(_) => None,
        }
    }

    /// Whether what the origin answers on a path is for the client alone that asked.
    pub fn is_private(&self, path: &str) -> bool {
        !self.claims.is_empty() && !self.shared && self.paths.guard(path)
    }

    /// Judges a request.
    ///
    /// # Errors
    /// Why it is not let in.
    pub fn judge<B>(&self, request: &Request<B>) -> Result<Told, Box<Finding>> {
        if !self.paths.guard(request.uri().path()) || is_preflight(request) {
            return Ok(Told::default());
        }
        let Some(token) = self.token(request) else { return Err(self.finding("token-missing", None)) };
        if !self.keys.is_ready() {
            let mut finding = Finding::new(StatusCode::SERVICE_UNAVAILABLE, "keys-not-fetched-yet");
            finding.fields.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            return Err(finding);
        }
        let claims = self.verify(token).map_err(|(why, words)| self.finding(why, Some(words)))?;
        let told = self
            .claims
            .iter()
            .filter_map(|(claim, name)| Some((name.clone(), claims.get(claim).and_then(written)?)));
        Ok(Told(told.collect()))
    }

    /// What the token says, or why it is not taken: for the log and for the client.
    fn verify(&self, token: &str) -> Result<Map<String, Value>, (&'static str, &'static str)> {
        let malformed = ("token-malformed", "The token can't be read");
        if token.len() > TOKEN_BYTES_MAX {
            return Err(malformed);
        }
        let head = jsonwebtoken::decode_header(token).map_err(|_| malformed)?;
        if head.crit.is_some() {
            return Err(("token-critical", "The token has extensions that are not understood"));
        }
        if !self.validation.algorithms.contains(&head.alg) {
            return Err(("token-algorithm", "The token's algorithm is not taken"));
        }
        let keys = self.keys.keys();
        let mut found = ("token-key", "The token's key is not known");
        for key in keys.candidates(head.kid.as_deref(), head.alg).take(TRIED_MAX) {
            match jsonwebtoken::decode::<Map<String, Value>>(token, key, &self.validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) => found = words(error.kind()),
            }
            // Whatever else is wrong with it, this key has signed it.
            if found.0 != "token-signature" {
                return Err(found);
            }
        }
        if found.0 == "token-key" || head.kid.is_none() {
            self.keys.miss();
        }
        Err(found)
    }

    fn token<'r, B>(&'r self, request: &'r Request<B>) -> Option<&'r str> {
        let headers = request.headers();
        self.sources.iter().find_map(|source| match source {
            TokenSource::Authorization => bearer(headers),
            TokenSource::Cookie(name) => cookies::values(headers, name).next(),
            TokenSource::Query(name) => find_parameter(request.uri().query()?, name),
        })
    }

    #[cold]
    fn finding(&self, why: &'static str, words: Option<&str>) -> Box<Finding> {
        let mut finding = Finding::new(StatusCode::UNAUTHORIZED, why);
        let error = words.map_or_else(String::new, |words| {
            format!(", error=\"invalid_token\", error_description=\"{words}\"")
        });
        // A site's name is letters, digits and hyphens.
        if let Ok(value) = HeaderValue::try_from(format!("Bearer realm=\"{}\"{error}", self.realm)) {
            finding.fields.insert(header::WWW_AUTHENTICATE, value);
        }
        finding
    }

    /// Puts what the token says in place of whatever the client said under these names, and takes the token out unless
    /// the origin is to have it.
    pub fn strip<B>(&self, request: &mut Request<B>, told: Told) {
        for (_, name) in &self.claims {
            request.headers_mut().remove(name);
        }
        let guarded = self.paths.guard(request.uri().path());
        for (name, value) in told.0 {
            request.headers_mut().insert(name, value);
        }
        if self.forward || !guarded {
            return;
        }
        for source in &self.sources {
            match source {
                TokenSource::Authorization if bearer(request.headers()).is_some() => {
                    request.headers_mut().remove(header::AUTHORIZATION);
                }
                TokenSource::Authorization => {}
                TokenSource::Cookie(name) => cookies::remove(request.headers_mut(), name),
                TokenSource::Query(name) => {
                    let Some(query) = request.uri().query() else { continue };
                    let is = |piece: &&str| piece.split('=').next() == Some(name);
                    if query.split('&').any(|piece| is(&piece)) {
                        let rest: Vec<&str> = query.split('&').filter(|piece| !is(piece)).collect();
                        let left = (!rest.is_empty()).then(|| rest.join("&"));
                        set_query(request, left.as_deref());
                    }
                }
            }
        }
    }
}

/// One of these that is there twice is ambiguous, so it is none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let line = lines.next()?.to_str().ok()?;
    let (scheme, token) = line.split_once(' ')?;
    (lines.next().is_none() && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
}

fn find_parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .find_map(|piece| piece.split_once('=').filter(|(found, _)| *found == name))
        .map(|(_, v)| v)
}

/// Fetch's CORS preflight: no credentials are ever sent with it.
fn is_preflight<B>(request: &Request<B>) -> bool {
    *request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ORIGIN)
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// A claim as a header says it: texts, numbers and flags as they are, lists of texts with commas. Anything else, and
/// what no header can hold, is not passed on.
fn written(value: &Value) -> Option<HeaderValue> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Array(members) => {
            let texts: Option<Vec<&str>> = members.iter().map(Value::as_str).collect();
            texts.filter(|texts| texts.iter().all(|text| !text.contains(',')))?.join(",")
        }
        Value::Null | Value::Object(_) => return None,
    };
    let legal =
        text.len() <= CLAIM_BYTES_MAX && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    legal.then(|| HeaderValue::try_from(text).ok()).flatten()
}

fn words(kind: &ErrorKind) -> (&'static str, &'static str) {
    match kind {
        ErrorKind::ExpiredSignature => ("token-expired", "The token is over"),
        ErrorKind::ImmatureSignature => ("token-not-yet", "The token is not valid yet"),
        ErrorKind::InvalidIssuer => ("token-issuer", "The token is of another issuer"),
        ErrorKind::InvalidAudience => ("token-audience", "The token is for others"),
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => {
            ("token-claims", "The token lacks a claim")
        }
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => {
            ("token-signature", "The token's signature does not fit")
        }
        ErrorKind::InvalidToken | ErrorKind::Base64(_) | ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            ("token-malformed", "The token can't be read")
        }
        _ => ("token-signature", "The token's signature does not fit"),
    }
}

fn algorithm(named: tokens::Algorithm) -> Algorithm {
    match named {
        tokens::Algorithm::Es256 => Algorithm::ES256,
        tokens::Algorithm::Es384 => Algorithm::ES384,
        tokens::Algorithm::EdDsa => Algorithm::EdDSA,
        tokens::Algorithm::Rs256 => Algorithm::RS256,
        tokens::Algorithm::Rs384 => Algorithm::RS384,
        tokens::Algorithm::Rs512 => Algorithm::RS512,
        tokens::Algorithm::Ps256 => Algorithm::PS256,
        tokens::Algorithm::Ps384 => Algorithm::PS384,
        tokens::Algorithm::Ps512 => Algorithm::PS512,
        tokens::Algorithm::Hs256 => Algorithm::HS256,
        tokens::Algorithm::Hs384 => Algorithm::HS384,
        tokens::Algorithm::Hs512 => Algorithm::HS512,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
    use jsonwebtoken::{EncodingKey, Header};
    use nearside_fleet::config::tokens::JwtKeys;
    use serde_json::json;

    use super::*;

    struct Issuer {
        dir: tempfile::TempDir,
        key: EncodingKey,
    }

    impl Issuer {
        fn new() -> Self {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            let point = pair.public_key().as_ref();
            let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let (x, y) = (coordinate(&point[1..33]), coordinate(&point[33..]));
            let set = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "x": x, "y": y}]});
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("jwks.json"), set.to_string()).unwrap();
            let document = pair.to_pkcs8v1().unwrap();
            Issuer { dir, key: EncodingKey::from_ec_der(document.as_ref()) }
        }

        fn asked(&self) -> Jwt {
            Jwt {
                paths: vec!["/members/".to_owned()],
                sources: vec![
                    TokenSource::Authorization,
                    TokenSource::Cookie("token".to_owned()),
                    TokenSource::Query("token".to_owned()),
                ],
                algorithms: vec![tokens::Algorithm::Es256],
                keys: JwtKeys::File(self.dir.path().join("jwks.json")),
                issuers: vec!["https://id.test/".to_owned()],
                audiences: vec!["www".to_owned()],
                leeway: Duration::from_secs(5),
                claims: vec![
                    ("sub".to_owned(), "x-user".to_owned()),
                    ("groups".to_owned(), "x-groups".to_owned()),
                ],
                forward: false,
                shared: false,
                acting: Acting::default(),
            }
        }

        fn gate(&self) -> JwtGate {
            JwtGate::build("www", &self.asked(), None).unwrap()
        }

        fn token(&self, kid: Option<&str>, claims: &Value) -> String {
            let mut head = Header::new(Algorithm::ES256);
            head.kid = kid.map(str::to_owned);
            jsonwebtoken::encode(&head, claims, &self.key).unwrap()
        }
    }

    fn claims() -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        json!({"iss": "https://id.test/", "aud": ["www", "api"], "exp": now + 60, "sub": "u1", "groups": ["a", "b"]})
    }

    fn with(change: impl FnOnce(&mut Map<String, Value>)) -> Value {
        let mut claims = claims();
        change(claims.as_object_mut().unwrap());
        claims
    }

    fn request(target: &str, fields: &[(&str, String)]) -> Request<()> {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        request.body(()).unwrap()
    }

    fn bearer_of(token: &str) -> Vec<(&'static str, String)> {
        vec![("authorization", format!("Bearer {token}"))]
    }

    fn why(gate: &JwtGate, token: &str) -> String {
        let judged = gate.judge(&request("/members/a", &bearer_of(token)));
        judged.map_or_else(|finding| finding.why, |_| "good".to_owned())
    }

    #[test]
    fn tokens_are_taken_from_where_the_site_says_and_leave_only_claims() {
        let issuer = Issuer::new();
        let gate = issuer.gate();
        let token = issuer.token(Some("k1"), &claims());
        let spoofed = ("x-user", "root".to_owned());
        for (target, fields) in [
            ("/members/a?q=1", vec![("authorization", format!("bEARER {token}")), spoofed.clone()]),
            ("/members/a?q=1", vec![("cookie", format!("a=1; token={token}"))]),
            (&format!("/members/a?token={token}&q=1"), vec![]),
        ] {
            let mut request = request(target, &fields);
            let told = gate.judge(&request).unwrap();
            gate.strip(&mut request, told);
            assert_eq!(request.uri(), "/members/a?q=1");
            assert_eq!(request.headers()["x-user"], "u1");
            assert_eq!(request.headers()["x-groups"], "a,b");
            assert!(!request.headers().contains_key("authorization"));
            assert!(request.headers().get("cookie").is_none_or(|cookie| cookie == "a=1"));
        }
        let mut elsewhere = request("/public", &[spoofed, ("authorization", "Basic eDp5".to_owned())]);
        let told = gate.judge(&elsewhere).unwrap();
        gate.strip(&mut elsewhere, told);
        assert!(!elsewhere.headers().contains_key("x-user"), "nobody may pretend");
        assert!(elsewhere.headers().contains_key("authorization"), "not ours");
        assert!(gate.is_private("/members/a") && !gate.is_private("/public"));
    }

    #[test]
    fn whatever_does_not_fit_is_refused_with_its_reason() {
        let issuer = Issuer::new();
        let gate = issuer.gate();
        let now = jsonwebtoken::get_current_timestamp();
        let token = |claims: &Value| issuer.token(Some("k1"), claims);
        let set =
            |name: &'static str, value: Value| with(|claims| drop(claims.insert(name.to_owned(), value)));
        let without = |name: &'static str| with(|claims| drop(claims.remove(name)));
        assert_eq!(why(&gate, &token(&claims())), "good");
        assert_eq!(why(&gate, &issuer.token(None, &claims())), "good");
        for (claims, expected) in [
            (set("exp", json!(now - 6)), "token-expired"),
            (set("exp", json!("never")), "token-claims"),
            (set("exp", json!(-1)), "token-claims"),
            (without("exp"), "token-claims"),
            (set("nbf", json!(now + 60)), "token-not-yet"),
            (set("iss", json!("https://other.test/")), "token-issuer"),
            (without("iss"), "token-claims"),
            (set("aud", json!("api")), "token-audience"),
            (without("aud"), "token-claims"),
        ] {
            assert_eq!(why(&gate, &token(&claims)), expected, "{claims}");
        }
        assert_eq!(why(&gate, &token(&set("exp", json!(now - 2)))), "good", "leeway");
        assert_eq!(why(&gate, &issuer.token(Some("k2"), &claims())), "token-key");
        assert_eq!(why(&gate, &Issuer::new().token(Some("k1"), &claims())), "token-signature");
        assert_eq!(why(&gate, &Issuer::new().token(None, &claims())), "token-signature");
        let good = token(&claims());
        let parts: Vec<&str> = good.split('.').collect();
        let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let critical = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","crit":["x"]}"#);
        // Signed with the public key set as if it were a secret.
        let confused = fs::read(issuer.dir.path().join("jwks.json")).unwrap();
        let confused = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &claims(),
            &EncodingKey::from_secret(&confused),
        );
        for (token, expected) in [
            ("", "token-malformed"),
            ("a.b.c", "token-malformed"),
            (&format!("{unsigned}.{}.", parts[1]), "token-malformed"),
            (&format!("{critical}.{}.{}", parts[1], parts[2]), "token-critical"),
            (&confused.unwrap(), "token-algorithm"),
            (&format!("{}.{}.", parts[0], parts[1]), "token-signature"),
            (&format!("{good}x"), "token-malformed"),
            (&"a".repeat(TOKEN_BYTES_MAX + 1), "token-malformed"),
        ] {
            assert_eq!(why(&gate, token), expected, "{token:.40}");
        }
    }

    #[test]
    fn refusals_say_what_is_asked_for() {
        let issuer = Issuer::new();
        let gate = issuer.gate();
        let finding = gate.judge(&request("/members/a", &[])).unwrap_err();
        assert_eq!(finding.status, 401);
        assert_eq!(finding.fields["www-authenticate"], "Bearer realm=\"www\"");
        let over = issuer.token(Some("k1"), &with(|claims| drop(claims.insert("exp".to_owned(), json!(1)))));
        let finding = gate.judge(&request("/members/a", &bearer_of(&over))).unwrap_err();
        assert_eq!(
            finding.fields["www-authenticate"],
            "Bearer realm=\"www\", error=\"invalid_token\", error_description=\"The token is over\""
        );
        let mut twice = bearer_of(&issuer.token(Some("k1"), &claims()));
        twice.push(("authorization", "Bearer x".to_owned()));
        assert_eq!(gate.judge(&request("/members/a", &twice)).unwrap_err().why, "token-missing");
        let preflight =
            [("origin", "https://a.test".to_owned()), ("access-control-request-method", "GET".to_owned())];
        let mut preflight = request("/members/a", &preflight);
        *preflight.method_mut() = Method::OPTIONS;
        assert!(gate.judge(&preflight).is_ok());
    }

    #[test]
    fn a_secret_verifies_what_it_signed() {
        let issuer = Issuer::new();
        let file = issuer.dir.path().join("secret");
        let (secret, now) = ([7; 32], jsonwebtoken::get_current_timestamp());
        fs::write(&file, STANDARD.encode(secret) + "\n").unwrap();
        let asked = Jwt {
            keys: JwtKeys::Secret(file.clone()),
            algorithms: vec![tokens::Algorithm::Hs256],
            issuers: Vec::new(),
            audiences: Vec::new(),
            ..issuer.asked()
        };
        let gate = JwtGate::build("www", &asked, None).unwrap();
        let sign = |secret: &[u8]| {
            let claims = json!({"exp": now + 60, "aud": "anything"});
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret))
                .unwrap()
        };
        assert_eq!(why(&gate, &sign(&secret)), "good");
        assert_eq!(why(&gate, &sign(&[8; 32])), "token-signature");
        fs::write(&file, "c2hvcnQ=").unwrap();
        let mistake = JwtGate::build("www", &asked, None).err().unwrap();
        assert!(mistake.contains("at least 32 bytes") && !mistake.contains("c2hvcnQ"), "{mistake}");
    }

    #[test]
    fn claims_are_written_as_headers_can_hold_them() {
        for (value, expected) in [
            (json!("a b"), Some("a b")),
            (json!(7), Some("7")),
            (json!(true), Some("true")),
            (json!(["a", "b"]), Some("a,b")),
            (json!(["a,c", "b"]), None),
            (json!("a\r\nx: y"), None),
            (json!("\u{e9}"), None),
            (json!(null), None),
            (json!({"a": 1}), None),
            (json!("x".repeat(CLAIM_BYTES_MAX + 1)), None),
        ] {
            assert_eq!(written(&value).as_ref().map(|value| value.to_str().unwrap()), expected, "{value}");
        }
    }
}
