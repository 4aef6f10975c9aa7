//! The name of a request: on every response, on the way to the origin, in the access log.
//!
//! 128 random bits, so that no two requests of a fleet share one; what a client says counts only where the fleet file
//! lists it as a proxy of ours, or it is another edge.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{listen::connection::Client, site::Site};

/// The field.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest one that is taken over, bytes.
const BYTES_MAX: usize = 128;

/// The request's name: one of ours, or the one it came with.
pub(super) fn of(site: Option<&Site>, client: &Client, headers: &HeaderMap) -> HeaderValue {
    let is_believed = client.node.is_some()
        || site.is_some_and(|site| {
            !site.request_id_from.is_empty()
                && site
                    .request_id_from
                    .iter()
                    .any(|network| network.contains(client.peer.ip().to_canonical()))
        });
    let told = headers.get(&REQUEST_ID).filter(|value| is_believed && is_good(value.as_bytes()));
    told.cloned().unwrap_or_else(fresh)
}

fn is_good(value: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(byte);
    (1..=BYTES_MAX).contains(&value.len()) && value.iter().all(plain)
}

fn fresh() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits = fastrand::u128(..);
    let mut text = [0; 32];
    for (at, digit) in text.iter_mut().enumerate() {
        *digit = DIGITS[(bits >> (4 * at) & 15) as usize];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_random_and_foreign_ones_plain() {
        let (one, other) = (fresh(), fresh());
        assert!(one != other && one.len() == 32 && is_good(one.as_bytes()));
        assert!(
            is_good(b"a-1_2.3:4")
                && !is_good(b"")
                && !is_good(b"a b")
                && !is_good(b"<b>")
                && !is_good(&[b'a'; 129])
        );
    }
}
