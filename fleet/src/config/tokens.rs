//! `[site.NAME.gates.signed]` and `[site.NAME.gates.jwt]`: paths that only those with a signature or a token may fetch.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::gates::Acting;

/// `[site.NAME.gates.signed]`: addresses and cookies signed with [`crate::signing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// File with the secrets.
    pub keys: PathBuf,
    /// Starts of the paths that need a signature; never empty.
    pub paths: Vec<String>,
    /// Parameters that clients may add to a signed address.
    pub unsigned_query: Vec<String>,
    /// Name of the cookie that may stand for a signature.
    pub cookie: String,
    /// How far ahead a signature may end.
    pub life_max: Duration,
    /// How it acts.
    pub acting: Acting,
}

/// `[site.NAME.gates.jwt]`: JSON Web Tokens (RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// Starts of the paths that need a token; never empty.
    pub paths: Vec<String>,
    /// Where a token is looked for, in this order; never empty.
    pub sources: Vec<TokenSource>,
    /// Algorithms that are taken; never empty, and all of them fit the keys.
    pub algorithms: Vec<Algorithm>,
    /// What tokens are verified with.
    pub keys: JwtKeys,
    /// `iss` must be one of these; empty: it is not looked at.
    pub issuers: Vec<String>,
    /// `aud` must name one of these; empty: a token for any audience is taken.
    pub audiences: Vec<String>,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// Claims that the origin is told, by header name, lower case.
    pub claims: Vec<(String, String)>,
    /// Whether the origin gets the token itself.
    pub forward: bool,
    /// Whether what is fetched with [`Jwt::claims`] may be kept and given to others that are let through.
    pub shared: bool,
    /// How it acts.
    pub acting: Acting,
}

/// Where a token may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// `Authorization: Bearer` (RFC 6750 section 2.1).
    Authorization,
    /// A cookie of this name.
    Cookie(String),
    /// A parameter of this name (RFC 6750 section 2.3).
    Query(String),
}

/// What tokens are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtKeys {
    /// A JWK set (RFC 7517) in a file.
    File(PathBuf),
    /// A JWK set that the issuer publishes.
    Url {
        /// Where, `https`.
        url: String,
        /// CA for it, in place of the system's.
        ca: Option<PathBuf>,
        /// How often it is fetched anew.
        refresh: Duration,
    },
    /// One secret for HMAC, the content of a file.
    Secret(PathBuf),
}

/// A signature algorithm (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA with P-256.
    Es256,
    /// ECDSA with P-384.
    Es384,
    /// Ed25519.
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
}

impl Algorithm {
    /// All, by the names that tokens and fleet files use.
    pub const NAMED: [(&'static str, Algorithm); 12] = [
        ("ES256", Algorithm::Es256),
        ("ES384", Algorithm::Es384),
        ("EdDSA", Algorithm::EdDsa),
        ("RS256", Algorithm::Rs256),
        ("RS384", Algorithm::Rs384),
        ("RS512", Algorithm::Rs512),
        ("PS256", Algorithm::Ps256),
        ("PS384", Algorithm::Ps384),
        ("PS512", Algorithm::Ps512),
        ("HS256", Algorithm::Hs256),
        ("HS384", Algorithm::Hs384),
        ("HS512", Algorithm::Hs512),
    ];

    /// Whether who verifies could sign as well.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512)
    }
}

impl Jwt {
    /// The file with a secret, if there is one.
    pub fn secret_file(&self) -> Option<&Path> {
        match &self.keys {
            JwtKeys::Secret(file) => Some(file),
            JwtKeys::File(_) | JwtKeys::Url { .. } => None,
        }
    }
}
