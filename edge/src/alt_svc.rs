//! What a site's clients are told of HTTP/3: the `Alt-Svc` field (RFC 7838).
//!
//! It says what is so at this PoP: HTTP/3 on UDP at the address and port the client has connected to, or that whatever
//! it remembers (from another PoP, from an earlier configuration) is over. Sites for which HTTP/3 was never spoken of
//! say nothing. An origin's own field never reaches clients over TLS: its alternatives are the origin's, not ours. In the
//! clear, where browsers take no notice of it, it is a field like any other unless the site has spoken of HTTP/3.

use std::{sync::OnceLock, time::Duration};

use http::{HeaderMap, HeaderValue, header};
use nearside_fleet::config::Http3;

/// Whether this PoP speaks QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quic {
    /// It does, at the ports of its TLS listeners.
    Spoken,
    /// It does not.
    Silent,
}

/// See the module.
#[derive(Debug)]
pub struct AltSvc {
    says: Says,
    /// The value for the port that was asked for first: there is hardly ever a second one.
    made: OnceLock<(u16, HeaderValue)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Nothing,
    Clear,
    Http3 { max_age: Duration },
}

impl AltSvc {
    /// Of a site's setting, at a PoP.
    pub fn new(site: Http3, quic: Quic) -> Self {
        let says = match (site, quic) {
            (Http3::Never, _) => Says::Nothing,
            (Http3::Off, _) | (Http3::On { .. }, Quic::Silent) => Says::Clear,
            (Http3::On { max_age }, Quic::Spoken) => Says::Http3 { max_age },
        };
        AltSvc { says, made: OnceLock::new() }
    }

    /// Whether the field is the site's own to set.
    pub fn speaks(&self) -> bool {
        self.says != Says::Nothing
    }

    /// Whether the site is served over HTTP/3 here.
    pub fn is_served(&self) -> bool {
        matches!(self.says, Says::Http3 { .. })
    }

    /// Writes it into the response to a client that came over TLS to this port.
    pub fn tell(&self, port: u16, fields: &mut HeaderMap) {
        let value = match self.says {
            Says::Nothing => return,
            Says::Clear => HeaderValue::from_static("clear"),
            Says::Http3 { max_age } => match self.made.get_or_init(|| (port, value(port, max_age))) {
                (made, value) if *made == port => value.clone(),
                _ => value(port, max_age),
            },
        };
        fields.insert(header::ALT_SVC, value);
    }
}

fn value(port: u16, max_age: Duration) -> HeaderValue {
    let text = format!("h3=\":{port}\"; ma={}", max_age.as_secs());
    // Digits and fixed characters only.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("clear"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(site: Http3, quic: Quic, ports: &[u16]) -> Vec<Option<String>> {
        let alt_svc = AltSvc::new(site, quic);
        let tell = |&port: &u16| {
            let mut fields = HeaderMap::new();
            alt_svc.tell(port, &mut fields);
            fields.get(header::ALT_SVC).map(|value| value.to_str().unwrap().to_owned())
        };
        ports.iter().map(tell).collect()
    }

    #[test]
    fn only_what_is_so_is_told() {
        let on = Http3::On { max_age: Duration::from_secs(60) };
        assert_eq!(
            told(on, Quic::Spoken, &[443, 8443, 443]),
            [443, 8443, 443].map(|port| Some(format!("h3=\":{port}\"; ma=60")))
        );
        assert_eq!(told(on, Quic::Silent, &[443]), [Some("clear".to_owned())]);
        assert_eq!(told(Http3::Off, Quic::Spoken, &[443]), [Some("clear".to_owned())]);
        assert_eq!(told(Http3::Never, Quic::Spoken, &[443]), [None]);
    }
}
