//! Cross-origin resource sharing (the Fetch standard, section 3.2): preflights answered here, fields on the rest.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use nearside_fleet::config::rules::Cors;

/// Longest list of a preflight that is echoed, bytes.
const ECHO_BYTES_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Sharing {
    config: Cors,
    any: bool,
    methods: HeaderValue,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
}

const ALL_OF_THEM: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

impl Sharing {
    pub(super) fn new(config: &Cors) -> Sharing {
        let list = |names: &[String]| super::value(&names.join(", "));
        let listed = |names: &[String]| (!names.is_empty()).then(|| list(names));
        Sharing {
            any: config.origins.iter().any(|origin| origin == "*"),
            methods: list(&config.methods),
            headers: listed(&config.headers),
            expose: listed(&config.expose),
            max_age: config.max_age.map(|age| age.as_secs().into()),
            config: config.clone(),
        }
    }

    /// The value of `Access-Control-Allow-Origin` for a request.
    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        if self.any {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = origin?;
        let text = origin.to_str().ok()?;
        self.config.origins.iter().any(|allowed| is_allowed(allowed, text)).then(|| origin.clone())
    }

    /// Puts the fields on a response; `request` are the fields of the request.
    pub fn dress(&self, request: &HeaderMap, response: &mut HeaderMap) {
        for name in &ALL_OF_THEM {
            response.remove(name);
        }
        if !self.any {
            response.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = self.allowed(request.get(header::ORIGIN)) else { return };
        response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.config.credentials {
            response.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    /// The fields of the answer to a preflight. What is not allowed is told by leaving it out.
    pub fn preflight(&self, request: &HeaderMap) -> HeaderMap {
        let mut response = HeaderMap::new();
        self.dress(request, &mut response);
        response.remove(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        response.append(
            header::VARY,
            HeaderValue::from_static("Access-Control-Request-Method, Access-Control-Request-Headers"),
        );
        if !response.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            return response;
        }
        let asked =
            |name: HeaderName| request.get(name).filter(|value| value.len() <= ECHO_BYTES_MAX).cloned();
        let methods = match self.config.methods.is_empty() {
            true => asked(header::ACCESS_CONTROL_REQUEST_METHOD),
            false => Some(self.methods.clone()),
        };
        // With credentials, `*` would be a field of that name: what is asked for is repeated.
        let headers = match self.config.headers.iter().any(|name| name == "*") {
            true => asked(header::ACCESS_CONTROL_REQUEST_HEADERS),
            false => self.headers.clone(),
        };
        let fields = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, headers),
            (header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                response.insert(name, value);
            }
        }
        response
    }
}

/// Whether an origin is the one that is allowed; `*.` stands for one label. Compared without regard to case, as hosts are.
fn is_allowed(allowed: &str, origin: &str) -> bool {
    match allowed.split_once("*.") {
        None => allowed.eq_ignore_ascii_case(origin),
        Some((scheme, suffix)) => {
            let origin = origin.to_ascii_lowercase();
            let label = origin.strip_prefix(scheme).and_then(|rest| rest.split_once('.'));
            label.is_some_and(|(label, rest)| {
                !label.is_empty()
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
                    && rest == suffix
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sharing(origins: &[&str], credentials: bool) -> Sharing {
        Sharing::new(&Cors {
            origins: origins.iter().map(ToString::to_string).collect(),
            headers: vec!["*".into()],
            expose: vec!["x-total".into()],
            credentials,
            ..Cors::default()
        })
    }

    fn request(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn only_named_origins_are_let_in() {
        for (allowed, origin, expected) in [
            ("https://a.test", "https://a.test", true),
            ("https://a.test", "https://A.test", true),
            ("https://a.test", "http://a.test", false),
            ("https://a.test", "https://a.test.evil.test", false),
            ("https://*.a.test", "https://x.a.test", true),
            ("https://*.a.test", "https://a.test", false),
            ("https://*.a.test", "https://x.y.a.test", false),
            ("https://*.a.test", "https://evil.test/.a.test", false),
            ("https://*.a.test", "https://evil@x.a.test", false),
            ("https://*.a.test:8443", "https://x.a.test:8443", true),
            ("https://a.test", "null", false),
        ] {
            assert_eq!(is_allowed(allowed, origin), expected, "{allowed} {origin}");
        }
    }

    #[test]
    fn responses_say_whom_they_are_for() {
        let sharing = sharing(&["https://a.test"], true);
        let mut fields = request(&[("access-control-allow-origin", "*")]);
        sharing.dress(&request(&[("origin", "https://a.test")]), &mut fields);
        assert_eq!(fields["access-control-allow-origin"], "https://a.test");
        assert_eq!(fields["access-control-allow-credentials"], "true");
        assert_eq!(
            (&fields["vary"], &fields["access-control-expose-headers"]),
            (&"Origin".parse().unwrap(), &"x-total".parse().unwrap())
        );
        sharing.dress(&request(&[("origin", "https://b.test")]), &mut fields);
        assert!(!fields.contains_key("access-control-allow-origin"));
        let mut open = HeaderMap::new();
        self::sharing(&["*"], false).dress(&HeaderMap::new(), &mut open);
        assert_eq!(
            (open["access-control-allow-origin"].to_str().unwrap(), open.contains_key("vary")),
            ("*", false)
        );
    }

    #[test]
    fn preflights_are_told_what_they_ask_for_if_it_is_allowed() {
        let sharing = sharing(&["https://a.test"], false);
        let ask = [
            ("origin", "https://a.test"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a, x-b"),
        ];
        let told = sharing.preflight(&request(&ask));
        assert_eq!(told["access-control-allow-methods"], "PUT");
        assert_eq!(told["access-control-allow-headers"], "x-a, x-b");
        let told = sharing.preflight(&request(&[("origin", "https://b.test"), ask[1]]));
        assert!(!told.contains_key("access-control-allow-methods") && told.contains_key("vary"));
    }
}
