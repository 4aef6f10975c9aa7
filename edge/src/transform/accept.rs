//! What a client can read: `Accept-Encoding` with its weights (RFC 9110 sections 12.4.2 and 12.5.3).
//!
//! Pure. A member that can't be read counts as not said; nothing in the field is an error. A client that says nothing gets
//! content as it is: everything would be acceptable, but the clients that say nothing are those that can read nothing else.

use http::{HeaderMap, HeaderValue, header};
use nearside_fleet::config::transform::Coding;

use crate::policy::vary::thousandths;

/// Weights in thousandths; 0: not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepts {
    /// In the order of [`Coding::ALL`].
    codings: [u16; 3],
    /// `None`: not spoken of, so acceptable where nothing better is.
    identity: Option<u16>,
}

impl Accepts {
    /// Reads a request's fields. Of a coding that is named twice, the last weight counts.
    pub fn read(headers: &HeaderMap) -> Accepts {
        let mut named: [Option<u16>; 3] = [None; 3];
        let (mut identity, mut others) = (None, None);
        let lines = headers.get_all(header::ACCEPT_ENCODING).iter();
        for member in lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
            let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let Some(weight) = weight(parts) else { continue };
            if name == b"*" {
                others = Some(weight);
            } else if name.eq_ignore_ascii_case(b"identity") {
                identity = Some(weight);
            } else if let Some(at) = Coding::ALL.iter().position(|coding| is_named(*coding, name)) {
                named[at] = Some(weight);
            }
        }
        Accepts {
            codings: named.map(|weight| weight.or(others).unwrap_or(0)),
            identity: identity.or(others.filter(|weight| *weight == 0)),
        }
    }

    /// The coding that the client likes best of `offered`, which are in our order; `None`: content as it is.
    pub fn choose(&self, offered: &[Coding]) -> Option<Coding> {
        let mut best: Option<(Coding, u16)> = None;
        for &coding in offered {
            let weight = self.codings[coding as usize];
            if weight > best.map_or(0, |(_, weight)| weight) {
                best = Some((coding, weight));
            }
        }
        best.filter(|(_, weight)| self.identity.is_none_or(|identity| *weight >= identity))
            .map(|(coding, _)| coding)
    }

    /// What origins are told in place of the client's own field: one of eight values, whatever clients write, so that a
    /// `Vary` on the field does not keep as many copies as there are browsers.
    pub fn upstream(&self) -> HeaderValue {
        HeaderValue::from_static(match self.codings.map(|weight| weight > 0) {
            [true, true, true] => "br, zstd, gzip",
            [true, true, false] => "br, zstd",
            [true, false, true] => "br, gzip",
            [true, false, false] => "br",
            [false, true, true] => "zstd, gzip",
            [false, true, false] => "zstd",
            [false, false, true] => "gzip",
            [false, false, false] => "identity",
        })
    }
}

/// RFC 9110 section 8.4.1.3: `x-gzip` is gzip.
fn is_named(coding: Coding, name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(coding.token().as_bytes())
        || (coding == Coding::Gzip && name.eq_ignore_ascii_case(b"x-gzip"))
}

/// The `q` among a member's parameters; `None` where it is no weight.
pub fn weight<'a>(parameters: impl Iterator<Item = &'a [u8]>) -> Option<u16> {
    for parameter in parameters {
        if let [b'q' | b'Q', b'=', weight @ ..] = parameter {
            return thousandths(weight);
        }
    }
    Some(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    fn accepts(lines: &[&str]) -> Accepts {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::ACCEPT_ENCODING, HeaderValue::from_str(line).unwrap());
        }
        Accepts::read(&headers)
    }

    #[test]
    fn the_best_weight_wins_and_our_order_decides_between_equals() {
        use Coding::{Brotli, Gzip, Zstd};
        for (lines, chosen, upstream) in [
            (&[][..], None, "identity"),
            (&[""], None, "identity"),
            (&["gzip, deflate, br, zstd"], Some(Brotli), "br, zstd, gzip"),
            (&["gzip, deflate"], Some(Gzip), "gzip"),
            (&["gzip", "zstd"], Some(Zstd), "zstd, gzip"),
            (&["x-gzip"], Some(Gzip), "gzip"),
            (&["GZIP;Q=0.5, Br ; q=0.4"], Some(Gzip), "br, gzip"),
            (&["br;q=0, gzip"], Some(Gzip), "gzip"),
            (&["*"], Some(Brotli), "br, zstd, gzip"),
            (&["*;q=0.5, br;q=0"], Some(Zstd), "zstd, gzip"),
            (&["gzip;q=0.5, identity"], None, "gzip"),
            (&["gzip;q=0.5, identity;q=0.5"], Some(Gzip), "gzip"),
            (&["identity;q=0, gzip;q=0.001"], Some(Gzip), "gzip"),
            (&["*;q=0, gzip;q=0.1"], Some(Gzip), "gzip"),
            (&["*;q=0"], None, "identity"),
            (&["identity;q=0"], None, "identity"),
            (&["compress, deflate"], None, "identity"),
        ] {
            let accepts = accepts(lines);
            assert_eq!(
                (accepts.choose(&OURS), accepts.upstream()),
                (chosen, upstream.parse().unwrap()),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn what_can_not_be_read_counts_as_not_said() {
        for line in [
            "gzip;q=2",
            "gzip;q=",
            "gzip;q=0.1234",
            "gzip;q=-1",
            ";;;",
            ",,,",
            "gz ip",
            "br;q=x;q=1",
            "\u{e9}",
        ] {
            assert_eq!(accepts(&[line]).choose(&OURS), None, "{line}");
        }
        assert_eq!(accepts(&["br;q=2, gzip"]).choose(&OURS), Some(Coding::Gzip));
    }

    proptest::proptest! {
        #[test]
        fn any_field_is_read(line in proptest::collection::vec(0x20u8..0x7f, 0..80)) {
            let line = String::from_utf8(line).unwrap();
            let accepts = accepts(&[&line]);
            if let Some(coding) = accepts.choose(&OURS) {
                proptest::prop_assert!(accepts.upstream().to_str().unwrap().contains(coding.token()));
            }
        }
    }
}
