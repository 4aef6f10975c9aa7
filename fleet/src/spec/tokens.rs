//! Reads `signed` and `jwt` of a site's gates.

use std::time::Duration;

use super::{gates::acting, keys, reader::Section};
use crate::{
    config::tokens::{Algorithm, Jwt, JwtKeys, Signed, TokenSource},
    fields,
    files::Role,
    signing,
};

const DAY: Duration = Duration::from_secs(86_400);
const PATHS: &str = "starts of paths like \"/private/\"";
/// Longer ones are a mistake, not a life.
const LIFE_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Issuers ask not to be fetched from more often, and a withdrawn key should not live longer.
const REFRESH_MIN: Duration = Duration::from_secs(60);
const LEEWAY_MAX: Duration = Duration::from_secs(300);

pub(super) fn signed(gates: &Section<'_>) -> Option<Signed> {
    let section = gates.section("signed", keys::GATE_SIGNED)?;
    section.required("keys", "the path of a file with lines of NAME BASE64");
    let unsigned_query = section.list("unsigned_query", "names of parameters", |value| {
        let name = value.get_ref().as_str()?;
        let legal = !name.starts_with(signing::PREFIX) && is_parameter(name);
        legal.then(|| name.to_owned())
    });
    let cookie = section.read("cookie", "a cookie's name", |value| {
        value.as_str().filter(|name| fields::is_name(name)).map(str::to_owned)
    });
    Some(Signed {
        paths: paths(&section),
        unsigned_query: unsigned_query.unwrap_or_default(),
        cookie: cookie.unwrap_or_else(|| "ns-access".to_owned()),
        life_max: section.duration("life_max", 7 * DAY, Duration::from_secs(1), LIFE_MAX),
        acting: acting(&section),
        keys: section.path("keys", Role::Key)?,
    })
}

pub(super) fn jwt(gates: &Section<'_>) -> Option<Jwt> {
    let section = gates.section("jwt", keys::GATE_JWT)?;
    let keys = jwt_keys(&section);
    section.required("algorithms", "algorithms like \"ES256\"");
    let algorithms = algorithms(&section, keys.as_ref());
    let sources = section.list("from", "\"authorization\", \"cookie:NAME\" or \"query:NAME\"", |value| {
        match value.get_ref().as_str()?.split_once(':') {
            None if value.get_ref().as_str() == Some("authorization") => Some(TokenSource::Authorization),
            Some(("cookie", name)) if fields::is_name(name) => Some(TokenSource::Cookie(name.to_owned())),
            Some(("query", name)) if is_parameter(name) => Some(TokenSource::Query(name.to_owned())),
            _ => None,
        }
    });
    let sources = sources.filter(|sources| !sources.is_empty());
    let texts = |key, expected| {
        let read = section.list(key, expected, |value| {
            value.get_ref().as_str().filter(|text| !text.is_empty()).map(str::to_owned)
        });
        read.unwrap_or_default()
    };
    let flag = |key| section.read(key, "true or false", |value| value.as_bool()).unwrap_or(false);
    let jwt = Jwt {
        paths: paths(&section),
        sources: sources.unwrap_or_else(|| vec![TokenSource::Authorization]),
        issuers: texts("issuer", "what tokens say in `iss`"),
        audiences: texts("audience", "what tokens say in `aud`"),
        leeway: section.duration("leeway", Duration::from_secs(30), Duration::ZERO, LEEWAY_MAX),
        claims: claims(&section),
        forward: flag("forward"),
        shared: flag("shared"),
        acting: acting(&section),
        algorithms,
        keys: keys?,
    };
    if jwt.issuers.is_empty() && matches!(jwt.keys, JwtKeys::Url { .. }) {
        let message =
            format!("{}: any issuer's token is taken that these keys verify", section.name("issuer"));
        section.doc.warn(section.span(), message);
    }
    if jwt.shared && jwt.claims.is_empty() {
        let message = format!("{}: says nothing without `claims`", section.name("shared"));
        section.doc.warn(section.place_of("shared"), message);
    }
    Some(jwt)
}

fn jwt_keys(section: &Section<'_>) -> Option<JwtKeys> {
    let given: Vec<&str> = ["jwks_file", "jwks_url", "secret_file"]
        .into_iter()
        .filter(|key| section.value(key).is_some())
        .collect();
    for key in ["refresh", "ca"] {
        if section.value(key).is_some() && given != ["jwks_url"] {
            let message = format!("{}: goes with `jwks_url`", section.name(key));
            section.doc.mistake(section.place_of(key), message);
        }
    }
    match given.as_slice() {
        ["jwks_file"] => section.path("jwks_file", Role::Content).map(JwtKeys::File),
        ["secret_file"] => section.path("secret_file", Role::Key).map(JwtKeys::Secret),
        ["jwks_url"] => {
            let url = section.read("jwks_url", "a URL like \"https://id.example.org/jwks.json\"", |value| {
                let text = value.as_str()?;
                let rest = text.strip_prefix("https://")?;
                let host = rest.split(['/', '?']).next()?;
                let legal = text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['#', '@']);
                (legal && !host.is_empty()).then(|| text.to_owned())
            });
            let ca = section.value("ca").and_then(|_| section.path("ca", Role::Certificate));
            let refresh = section.duration("refresh", Duration::from_secs(3600), REFRESH_MIN, DAY);
            Some(JwtKeys::Url { url: url?, ca, refresh })
        }
        _ => {
            let message =
                format!("[{}]: expected one of `jwks_file`, `jwks_url`, `secret_file`", section.place);
            section.doc.mistake(section.span(), message);
            None
        }
    }
}

/// A key set with public keys must not be taken for HMAC's secret: anybody could sign with it (RFC 8725 section 2.1).
fn algorithms(section: &Section<'_>, keys: Option<&JwtKeys>) -> Vec<Algorithm> {
    let names: Vec<&str> = Algorithm::NAMED.iter().map(|(name, _)| *name).collect();
    let wanted = match keys {
        Some(JwtKeys::Secret(_)) => Some(true),
        Some(_) => Some(false),
        None => None,
    };
    let fits = |algorithm: &Algorithm| wanted.is_none_or(|wanted| algorithm.is_symmetric() == wanted);
    let expected = match wanted {
        Some(true) => "one of HS256, HS384, HS512, which go with `secret_file`".to_owned(),
        Some(false) => format!("one of {}, which go with a key set", names[..9].join(", ")),
        None => format!("one of {}", names.join(", ")),
    };
    let read = section.list("algorithms", &expected, |value| {
        let name = value.get_ref().as_str()?;
        let (_, algorithm) = Algorithm::NAMED.iter().find(|(known, _)| *known == name)?;
        fits(algorithm).then_some(*algorithm)
    });
    let read = read.unwrap_or_default();
    if read.is_empty() && section.value("algorithms").is_some_and(|value| value.get_ref().is_array()) {
        let message = format!("{}: expected {expected}", section.name("algorithms"));
        section.doc.mistake(section.place_of("algorithms"), message);
    }
    read
}

fn claims(section: &Section<'_>) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    for (claim, span, value) in section.entries("claims") {
        let place = format!("[{}.claims] {claim}", section.place);
        let Some(header) = value.get_ref().as_str().filter(|name| fields::is_name(name)) else {
            section.doc.expected(value, &place, "the name of a request header, like \"X-User\"");
            continue;
        };
        let header = header.to_ascii_lowercase();
        let credentials = ["authorization", "cookie"].contains(&header.as_str());
        let free = match credentials {
            true => Err("it is for credentials"),
            false => fields::may_change_request(&header),
        };
        if let Err(reason) = free {
            section.doc.mistake(value.span(), format!("{place}: `{header}` is not for claims: {reason}"));
        } else if out.iter().any(|(_, known)| *known == header) {
            section.doc.mistake(span, format!("{place}: `{header}` has a claim already"));
        } else {
            out.push((claim.to_owned(), header));
        }
    }
    out
}

fn paths(section: &Section<'_>) -> Vec<String> {
    let read = section.list("paths", PATHS, |value| {
        value.get_ref().as_str().filter(|path| path.starts_with('/')).map(str::to_owned)
    });
    read.filter(|paths| !paths.is_empty()).unwrap_or_else(|| vec!["/".to_owned()])
}

fn is_parameter(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(legal)
}
