//! Splits: which arm a client is in, always the same.
//!
//! A client is told by the value of a cookie, else by its network. Its hash with the names of site and split picks a point
//! of ten thousand; arms lie beside each other in the order of their names. Where shares change, clients move between
//! neighbours only, and no more of them than the shares moved.

use std::{
    hash::Hasher,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use http::{HeaderName, HeaderValue};
use nearside_fleet::config::rules::Split;
use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use super::{Facts, effects::Effects, facts};

/// How long a cookie that was given is kept.
const COOKIE_AGE_SECS: u32 = 365 * 86_400;

/// Points that shares are counted in.
const POINTS: u64 = 10_000;

/// A client's arms, by split; made as they are asked for.
pub(super) struct Arms(SmallVec<[usize; 4]>);

/// See the module.
pub(super) struct Splits(Vec<Ready>);

struct Ready {
    site: String,
    config: Split,
    values: Vec<HeaderValue>,
    request_header: Option<HeaderName>,
    response_header: Option<HeaderName>,
}

impl Splits {
    pub(super) fn build(site: &str, splits: &[Split]) -> Splits {
        let parsed = |name: &Option<String>| name.as_ref().and_then(|name| name.parse().ok());
        let ready = splits.iter().map(|split| Ready {
            site: site.to_owned(),
            values: split.arms.iter().map(|(arm, _)| super::value(arm)).collect(),
            request_header: parsed(&split.request_header),
            response_header: parsed(&split.response_header),
            config: split.clone(),
        });
        Splits(ready.collect())
    }

    /// Whether every request has to do with them, rules or none.
    pub(super) fn always(&self) -> bool {
        let tells = |split: &Ready| {
            split.request_header.is_some() || split.response_header.is_some() || split.config.set_cookie
        };
        self.0.iter().any(tells)
    }

    /// A split's number and those of its arms.
    pub(super) fn find(&self, name: &str, arms: &[String]) -> Option<(usize, Vec<usize>)> {
        let split = self.number(name)?;
        let known = &self.0[split].config.arms;
        Some((
            split,
            known.iter().enumerate().filter(|(_, (arm, _))| arms.contains(arm)).map(|(at, _)| at).collect(),
        ))
    }

    pub(super) fn number(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|split| split.config.name == name)
    }

    /// A client's arm of a split.
    pub(super) fn arm(&self, split: usize, facts: &Facts<'_>) -> usize {
        let split = &self.0[split];
        let cookie =
            split.config.cookie.as_deref().and_then(|name| facts::cookies(facts.headers, name).next());
        match cookie {
            Some(value) => split.arm_of(value),
            None if split.config.set_cookie => split.arm_of(fresh(facts).as_bytes()),
            None => split.arm_of(&network(facts.seen.client())),
        }
    }

    /// A client's arms of all splits. One that is given a cookie is in the arm of that cookie from this request on.
    pub(super) fn arms(&self, facts: &Facts<'_>, effects: &mut Effects) -> Arms {
        let mut arms = SmallVec::new();
        for (number, split) in self.0.iter().enumerate() {
            let arm = self.arm(number, facts);
            arms.push(arm);
            let value = || split.values[arm].clone();
            effects.arm_headers.extend(split.request_header.clone().map(|name| (number, name, value())));
            effects.response_arms.extend(split.response_header.clone().map(|name| (name, value())));
            let Some(cookie) = split.config.cookie.as_deref() else { continue };
            if split.config.set_cookie && facts::cookies(facts.headers, cookie).next().is_none() {
                effects.set_cookies.extend(give(cookie, facts));
            }
        }
        Arms(arms)
    }
}

impl Ready {
    fn arm_of(&self, identity: &[u8]) -> usize {
        // Fixed keys: every edge, and every start of it, has to find the same.
        let mut hasher = SipHasher13::new_with_keys(0x6e65_6172_7369_6465, 0x7370_6c69_7473_2d31);
        for part in [self.site.as_bytes(), self.config.name.as_bytes(), identity] {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        let point = (hasher.finish() % POINTS) as u32;
        let mut through = 0;
        let within = self.config.arms.iter().position(|(_, share)| {
            through += share;
            point < through
        });
        within.unwrap_or(0)
    }
}

/// The value of a cookie that a client is given.
fn fresh(facts: &Facts<'_>) -> String {
    format!("{:032x}", facts.fresh)
}

fn give(name: &str, facts: &Facts<'_>) -> Option<HeaderValue> {
    let (value, secure) = (fresh(facts), if facts.scheme == "https" { "; Secure" } else { "" });
    let text = format!("{name}={value}; Path=/; Max-Age={COOKIE_AGE_SECS}; SameSite=Lax; HttpOnly{secure}");
    HeaderValue::try_from(text).ok()
}

impl Arms {
    /// Of a split, by its number.
    pub(super) fn of(&self, split: usize) -> usize {
        self.0.get(split).copied().unwrap_or(0)
    }
}

impl Splits {
    /// The name of an arm.
    pub(super) fn arm_name(&self, split: usize, arm: usize) -> &str {
        self.0.get(split).and_then(|split| split.config.arms.get(arm)).map_or("", |(name, _)| name)
    }
}

/// What is one client to a split without cookies: addresses change within it as phones move and leases end.
fn network(client: IpAddr) -> Vec<u8> {
    match client {
        IpAddr::V4(address) => Ipv4Addr::from(u32::from(address) & !0xff).octets().to_vec(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 80 << 80).octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(arms: &[(&str, u32)]) -> Splits {
        let split = Split {
            name: "x".into(),
            arms: arms.iter().map(|&(arm, share)| (arm.to_owned(), share)).collect(),
            cookie: Some("c".into()),
            set_cookie: true,
            request_header: None,
            response_header: None,
        };
        Splits::build("s", &[split])
    }

    #[test]
    fn shares_are_kept_and_changing_them_moves_no_more_than_it_must() {
        let (before, after) = (splits(&[("a", 9000), ("b", 1000)]), splits(&[("a", 8000), ("b", 2000)]));
        let (mut in_b, mut moved, mut back) = (0, 0, 0);
        for number in 0..20_000u32 {
            let (one, two) =
                (before.0[0].arm_of(&number.to_be_bytes()), after.0[0].arm_of(&number.to_be_bytes()));
            in_b += u32::from(one == 1);
            moved += u32::from(one == 0 && two == 1);
            back += u32::from(one == 1 && two == 0);
        }
        assert!((1800..2200).contains(&in_b), "{in_b}");
        assert!((1800..2200).contains(&moved) && back == 0, "{moved} {back}");
    }

    #[test]
    fn neighbours_are_one_network() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("192.0.2.200"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:ffff::2"));
        assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
    }
}
