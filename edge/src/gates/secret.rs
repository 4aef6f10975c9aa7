//! A secret that requests carry: what an edge behind another front asks of whoever asks it.
//!
//! Every good value is compared with, whichever fits, in time that depends on lengths alone. The field ends here: it
//! goes neither to the origin nor into a cache key.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, HeaderName, StatusCode};
use nearside_fleet::config::gates::{self, Acting};

use super::{Finding, Judgement};

/// See the module.
pub struct SecretGate {
    name: HeaderName,
    values: Vec<Box<[u8]>>,
    /// How it acts.
    pub acting: Acting,
}

impl SecretGate {
    /// As configured. The fleet file's reader has checked the field's name.
    pub fn new(gate: &gates::SecretGate) -> Self {
        SecretGate {
            name: HeaderName::from_bytes(gate.header.name.as_bytes()).unwrap_or(http::header::AUTHORIZATION),
            values: gate.header.values.iter().map(|value| value.0.as_bytes().into()).collect(),
            acting: gate.acting,
        }
    }

    /// Whether exactly one field has a good value: of two, who is behind might believe the other.
    pub fn judge(&self, headers: &HeaderMap) -> Judgement {
        let mut lines = headers.get_all(&self.name).iter();
        let shown = match (lines.next(), lines.next()) {
            (Some(shown), None) => shown.as_bytes(),
            (None, _) => return Err(Finding::new(StatusCode::FORBIDDEN, "no secret")),
            (Some(_), Some(_)) => return Err(Finding::new(StatusCode::FORBIDDEN, "two secrets")),
        };
        // No early end: which of the values fits, or how much of one, is nobody's business.
        let good = self.values.iter().fold(false, |good, value| {
            let fits = verify_slices_are_equal(value, shown).is_ok();
            good | fits
        });
        if good { Ok(()) } else { Err(Finding::new(StatusCode::FORBIDDEN, "another secret")) }
    }

    /// Takes the field off.
    pub fn strip(&self, headers: &mut HeaderMap) {
        headers.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearside_fleet::config::{Secret, SecretHeader};

    #[test]
    fn one_good_value_and_no_other() {
        let values = ["0123456789abcdef", "fedcba9876543210"].map(|text| Secret(text.to_owned()));
        let header = SecretHeader { name: "x-front".to_owned(), values: values.into() };
        let gate = SecretGate::new(&gates::SecretGate { header, acting: Acting::default() });
        let judged = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-front", line.parse().unwrap());
            }
            let judged = gate.judge(&headers).is_ok();
            gate.strip(&mut headers);
            assert!(headers.is_empty());
            judged
        };
        assert!(judged(&["0123456789abcdef"]) && judged(&["fedcba9876543210"]));
        for bad in
            [&[][..], &[""], &["0123456789abcde"], &["0123456789abcdef0"], &["0123456789abcdef"; 2], &["x"]]
        {
            assert!(!judged(bad), "{bad:?}");
        }
    }
}
