//! What rules may know of a request.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Method, header};
use percent_encoding::percent_decode_str;

use crate::place::Seen;

/// See the module. All of it as the request came: what one rule changes no other sees.
#[derive(Clone)]
pub struct Facts<'a> {
    /// `http` or `https`, as the client came.
    pub scheme: &'static str,
    /// Normalised, without port.
    pub host: &'a str,
    /// Normalised.
    pub path: &'a str,
    /// Normalised escapes, nothing left out.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// The client and where it is.
    pub seen: &'a Seen<'a>,
    /// Seconds since the epoch.
    pub now_secs: i64,
    /// Random: a cookie that puts the client into an arm for good.
    pub fresh: u128,
}

impl Facts<'_> {
    /// What follows the last dot of the path's last segment.
    pub fn extension(&self) -> Option<&str> {
        let name = self.path.rsplit('/').next()?;
        name.rsplit_once('.').map(|(_, extension)| extension)
    }

    /// The values of a field, one a line.
    pub fn fields(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        self.headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii())
    }

    /// The values of a cookie: one, from a client that is honest.
    pub fn cookies<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f [u8]> {
        cookies(self.headers, name)
    }

    /// The values of a query parameter, decoded.
    pub fn parameters<'f>(&'f self, name: &'f str) -> impl Iterator<Item = Cow<'f, [u8]>> {
        let parameters = self.query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty());
        parameters.filter_map(move |parameter| {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let is_wanted = key == name || decoded(key).as_ref() == name.as_bytes();
            is_wanted.then(|| decoded(value))
        })
    }
}

/// The values of a cookie in request fields (RFC 6265 section 4.2).
pub fn cookies<'f>(headers: &'f HeaderMap, name: &'f str) -> impl Iterator<Item = &'f [u8]> {
    let pairs =
        headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        (&pair[..at] == name.as_bytes()).then(|| &pair[at + 1..])
    })
}

/// As forms encode: `+` is a space.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        return Cow::Owned(percent_decode_str(&text.replace('+', " ")).collect());
    }
    percent_decode_str(text).into()
}
