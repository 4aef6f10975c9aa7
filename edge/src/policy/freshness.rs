//! How old a response is, and how long it stays fresh (RFC 9111 §4.2).
//!
//! Pure arithmetic over fields and the two moments of the exchange. What is missing is never
//! invented in the response's favour: an invalid lifetime is zero, an invalid `Date` is the moment of
//! arrival, and a heuristic applies only where the origin named no expiry at all and the status allows
//! it. An age takes the larger of what `Date` and `Age` tell.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::{
    date,
    directives::{DELTA_SECS_MAX, Delta, ResponseDirectives, delta_seconds},
    structured,
    time::Timestamp,
};

/// The part of the time since the last modification that a response stays fresh without an explicit
/// lifetime: the fraction RFC 9111 §4.2.2 names as typical.
const HEURISTIC_DIVISOR: u64 = 10;

/// Longest heuristic lifetime. Past a day a guess needs an operator's decision (`default_ttl`).
const HEURISTIC_SECS_MAX: u64 = 86_400;

/// The directives and the expiry that govern a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Governing {
    /// From the targeted field where it is valid (RFC 9213 §2.2), else from `Cache-Control`.
    pub directives: ResponseDirectives,
    /// Which of the two.
    pub by: GovernedBy,
}

/// Which field governs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GovernedBy {
    /// `CDN-Cache-Control`: `Cache-Control` and `Expires` are not looked at.
    Targeted,
    /// `Cache-Control` and `Expires`.
    CacheControl,
}

/// A lifetime, and who set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Counted from age zero.
    pub lifetime: Duration,
    /// Where it comes from.
    pub source: Source,
}

/// Where a lifetime comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `s-maxage`, `max-age` or `Expires`, valid or not.
    Explicit,
    /// The site's rule.
    Rule,
    /// §4.2.2.
    Heuristic,
    /// Nobody: zero.
    Nobody,
}

impl Governing {
    /// Finds the field that governs, and reads it.
    pub fn read(headers: &HeaderMap) -> Governing {
        match structured::targeted(headers) {
            Some(directives) => Governing { directives, by: GovernedBy::Targeted },
            None => Governing { directives: ResponseDirectives::read(headers), by: GovernedBy::CacheControl },
        }
    }

    /// Whether an expiry is named, even an unreadable one (RFC 9111 §3).
    pub fn names_expiry(&self, headers: &HeaderMap) -> bool {
        self.directives.s_maxage.is_present()
            || self.directives.max_age.is_present()
            || self.expires_counts(headers)
    }

    fn expires_counts(&self, headers: &HeaderMap) -> bool {
        self.by == GovernedBy::CacheControl && headers.contains_key(header::EXPIRES)
    }

    /// The freshness lifetime (§4.2.1): `s-maxage`, else `max-age`, else `Expires`, else the site's
    /// rule, else a heuristic.
    pub fn lifetime(
        &self,
        headers: &HeaderMap,
        status: StatusCode,
        rule: Option<Duration>,
        response_time: Timestamp,
    ) -> Lifetime {
        for delta in [self.directives.s_maxage, self.directives.max_age] {
            match delta {
                Delta::Absent => {}
                Delta::Secs(secs) => return explicit(secs),
                Delta::Invalid => return explicit(0),
            }
        }
        let date = date_secs(headers, response_time);
        if self.expires_counts(headers) {
            // Of several lines the first counts; one that is no date is in the past (§5.3).
            let expires =
                headers.get(header::EXPIRES).and_then(|value| date::parse(value.as_bytes(), response_time));
            let ahead = expires.map_or(0, |expires| expires.saturating_sub(date as i64));
            return explicit(u64::try_from(ahead).unwrap_or(0).min(DELTA_SECS_MAX));
        }
        let nobody = Lifetime { lifetime: Duration::ZERO, source: Source::Nobody };
        if !(self.directives.public || is_heuristically_cacheable(status)) {
            return nobody;
        }
        if let Some(lifetime) = rule {
            return Lifetime { lifetime, source: Source::Rule };
        }
        let modified = headers.get(header::LAST_MODIFIED);
        match modified.and_then(|value| date::parse(value.as_bytes(), response_time)) {
            Some(modified) => {
                let unchanged = u64::try_from((date as i64).saturating_sub(modified)).unwrap_or(0);
                let secs = (unchanged / HEURISTIC_DIVISOR).min(HEURISTIC_SECS_MAX);
                Lifetime { lifetime: Duration::from_secs(secs), source: Source::Heuristic }
            }
            None => nobody,
        }
    }
}

fn explicit(secs: u64) -> Lifetime {
    Lifetime { lifetime: Duration::from_secs(secs), source: Source::Explicit }
}

/// Statuses whose responses may be kept without an explicit lifetime: RFC 9110 §15.1, and 451
/// (RFC 7725 §3). 206 is among them, but only as the part it is.
pub fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 451 | 501)
}

/// `Date` in seconds since the epoch; where it is missing or no date, the moment of arrival
/// (RFC 9110 §6.6.1).
pub fn date_secs(headers: &HeaderMap, response_time: Timestamp) -> u64 {
    let date = headers.get(header::DATE).and_then(|value| date::parse(value.as_bytes(), response_time));
    date.map_or(response_time.secs(), |secs| u64::try_from(secs).unwrap_or(0))
}

/// `Age` in seconds: the first member of what may wrongly be a list; ignored where it is no number
/// (RFC 9111 §5.1).
pub fn age_secs(headers: &HeaderMap) -> Option<u64> {
    let lines = headers.get_all(header::AGE).iter();
    let mut members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    members.find(|member| !member.trim_ascii().is_empty()).and_then(|first| delta_seconds(first.trim_ascii()))
}

/// Age on arrival: `corrected_initial_age` of §4.2.3.
///
/// The apparent age is counted in whole seconds, the resolution of `Date`.
pub fn initial_age(headers: &HeaderMap, request_time: Timestamp, response_time: Timestamp) -> Duration {
    let apparent = response_time.secs().saturating_sub(date_secs(headers, response_time));
    let delay = response_time.since(request_time);
    let corrected = Duration::from_secs(age_secs(headers).unwrap_or(0)).saturating_add(delay);
    corrected.max(Duration::from_secs(apparent))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);

    fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn ago(secs: i64) -> String {
        date::format((NOW.secs() as i64 - secs) as u64).to_str().unwrap().to_owned()
    }

    fn lifetime(headers: &HeaderMap, status: u16) -> Lifetime {
        Governing::read(headers).lifetime(headers, StatusCode::from_u16(status).unwrap(), None, NOW)
    }

    fn secs(headers: &[(&'static str, &str)]) -> u64 {
        lifetime(&fields(headers), 200).lifetime.as_secs()
    }

    #[test]
    fn section_4_2_1_order_of_precedence() {
        let (past, soon) = (ago(60), ago(-60));
        assert_eq!(secs(&[("cache-control", "max-age=1, s-maxage=2"), ("expires", &soon)]), 2);
        assert_eq!(secs(&[("cache-control", "max-age=1"), ("expires", &soon)]), 1);
        assert_eq!(secs(&[("cache-control", "max-age=9"), ("expires", &past)]), 9);
        assert_eq!(secs(&[("cache-control", "max-age=9, s-maxage=x")]), 0);
        assert_eq!(secs(&[("expires", &soon)]), 60);
        assert_eq!(secs(&[("expires", &soon), ("date", &soon)]), 0);
        assert_eq!(secs(&[("expires", &soon), ("date", &past)]), 120);
        assert_eq!(secs(&[("expires", &soon), ("date", "nonsense")]), 60);
        assert_eq!(secs(&[("expires", &past)]), 0);
        assert_eq!(secs(&[("expires", "0"), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]), 0);
        assert_eq!(secs(&[("expires", &soon), ("expires", &past)]), 60);
    }

    #[test]
    fn rfc_9213_the_targeted_field_governs_alone() {
        let soon = ago(-60);
        let governed =
            [("cdn-cache-control", "max-age=5"), ("cache-control", "no-store"), ("expires", &soon)];
        assert_eq!(secs(&governed), 5);
        assert!(!Governing::read(&fields(&governed)).directives.no_store);
        assert_eq!(
            secs(&[("cdn-cache-control", "foo"), ("cache-control", "max-age=9"), ("expires", &soon)]),
            0
        );
        assert_eq!(secs(&[("cdn-cache-control", "Max-Age=5"), ("cache-control", "max-age=9")]), 9);
    }

    #[test]
    fn section_4_2_2_heuristics_only_where_allowed() {
        let modified = ago(1000);
        let headers = fields(&[("last-modified", &modified)]);
        for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 451, 501] {
            assert_eq!(
                lifetime(&headers, status),
                Lifetime { lifetime: Duration::from_secs(100), source: Source::Heuristic },
                "{status}"
            );
        }
        for status in [201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599] {
            assert_eq!(lifetime(&headers, status).source, Source::Nobody, "{status}");
        }
        let public = fields(&[("last-modified", &modified), ("cache-control", "public")]);
        assert_eq!(lifetime(&public, 302).source, Source::Heuristic);
        assert_eq!(secs(&[("last-modified", &ago(-1000))]), 0);
        assert_eq!(secs(&[("last-modified", &ago(1_000_000_000))]), HEURISTIC_SECS_MAX);
        assert_eq!(secs(&[]), 0);
    }

    #[test]
    fn section_5_1_odd_ages() {
        for (age, read) in [
            (vec!["60"], Some(60)),
            (vec!["60, 0"], Some(60)),
            (vec!["60", "0"], Some(60)),
            (vec![",60"], Some(60)),
            (vec!["007"], Some(7)),
            (vec!["-60"], None),
            (vec!["60.0"], None),
            (vec!["a, 60"], None),
            (vec!["a", "60"], None),
            (vec!["\"60\""], None),
            (vec![""], None),
            (vec!["99999999999999999999"], Some(DELTA_SECS_MAX)),
        ] {
            let lines: Vec<_> = age.iter().map(|age| ("age", *age)).collect();
            assert_eq!(age_secs(&fields(&lines)), read, "{age:?}");
        }
    }

    #[test]
    fn section_4_2_3_the_larger_age_counts() {
        let before = Timestamp::from_millis(NOW.millis() - 1500);
        let age = |headers: &[(&'static str, &str)]| initial_age(&fields(headers), before, NOW).as_millis();
        assert_eq!(age(&[]), 1500);
        assert_eq!(age(&[("date", &ago(100))]), 100_000);
        assert_eq!(age(&[("date", &ago(100)), ("age", "300")]), 301_500);
        assert_eq!(age(&[("date", &ago(100)), ("age", "10")]), 100_000);
        assert_eq!(age(&[("date", &ago(-100))]), 1500);
        assert_eq!(age(&[("date", "Thu, 01 Jan 1960 00:00:00 GMT")]), 1_795_000_000_000);
    }
}
