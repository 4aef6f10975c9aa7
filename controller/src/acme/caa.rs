//! Whether CAA records let an authority issue (RFC 8659, RFC 8657), asked before the authority asks.
//!
//! A refusal found here costs nothing; one found by the authority counts against its limits. So only what is certain refuses:
//! a resolver that fails, or an authority whose name nobody told us, leaves the judgement to the authority.

/// The properties that matter (RFC 8659 sections 4.2 to 4.4).
const KNOWN: [&str; 5] = ["issue", "issuewild", "iodef", "contactemail", "contactphone"];

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Property {
    critical: bool,
    tag: String,
    value: String,
}

/// Who wants to issue.
#[derive(Clone, Copy, Debug)]
pub struct Issuer<'a> {
    /// Names CAA records know the authority by; empty: not known.
    pub identities: &'a [String],
    /// URL of our account.
    pub account: &'a str,
}

/// The names whose records may decide over a host: itself, then each above it (RFC 8659 section 3).
pub fn climb(host: &str) -> impl Iterator<Item = &str> {
    let base = host.strip_prefix("*.").unwrap_or(host);
    std::iter::successors(Some(base), |name| name.split_once('.').map(|(_, above)| above))
        .filter(|name| !name.is_empty())
}

/// Judges the records of the first name that has any; `records` is not empty.
///
/// # Errors
/// Why the authority may not issue.
pub fn judge(records: &[Vec<u8>], host: &str, issuer: Issuer<'_>) -> Result<(), String> {
    let properties: Vec<Property> = records.iter().filter_map(|record| parse(record)).collect();
    let unknown =
        properties.iter().find(|property| property.critical && !KNOWN.contains(&property.tag.as_str()));
    if let Some(unknown) = unknown {
        return Err(format!("a critical property `{}` that nobody here understands", unknown.tag));
    }
    let of = |tag: &str| properties.iter().filter(|property| property.tag == tag).collect::<Vec<_>>();
    let wild = of("issuewild");
    let decides = if host.starts_with("*.") && !wild.is_empty() { wild } else { of("issue") };
    if decides.is_empty() {
        return Ok(());
    }
    if decides.iter().any(|property| admits(&property.value, issuer)) {
        return Ok(());
    }
    let named: Vec<String> =
        decides.iter().map(|property| format!("{} {:?}", property.tag, property.value)).collect();
    if issuer.identities.is_empty() && decides.iter().any(|property| !domain(&property.value).is_empty()) {
        return Ok(());
    }
    Err(format!("only {} may issue, not {}", named.join(", "), issuer.identities.join(" or ")))
}

fn domain(value: &str) -> String {
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether one `issue` value admits us (RFC 8659 section 4.2, RFC 8657 sections 3 and 4).
fn admits(value: &str, issuer: Issuer<'_>) -> bool {
    let wanted = domain(value);
    let ours = issuer.identities.iter().any(|identity| identity.eq_ignore_ascii_case(&wanted));
    if wanted.is_empty() || !ours {
        return false;
    }
    value.split(';').skip(1).filter_map(|parameter| parameter.trim().split_once('=')).all(|(key, value)| {
        match key.trim().to_ascii_lowercase().as_str() {
            "accounturi" => value.trim() == issuer.account,
            "validationmethods" => value.split(',').any(|method| method.trim() == "dns-01"),
            // Parameters are between the authority and the domain's owner.
            _ => true,
        }
    })
}

/// Flags, length of the tag, tag, value (RFC 8659 section 4.1); `None` for a record that is none, which nobody can heed.
fn parse(wire: &[u8]) -> Option<Property> {
    let (&flags, rest) = wire.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (tag, value) = rest.split_at_checked(usize::from(length))?;
    Some(Property {
        critical: flags & 0x80 != 0,
        tag: std::str::from_utf8(tag).ok()?.to_ascii_lowercase(),
        value: String::from_utf8_lossy(value).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(flags: u8, tag: &str, value: &str) -> Vec<u8> {
        [&[flags, tag.len() as u8], tag.as_bytes(), value.as_bytes()].concat()
    }

    #[test]
    fn names_are_climbed_to_the_top() {
        assert_eq!(climb("*.a.b.test").collect::<Vec<_>>(), ["a.b.test", "b.test", "test"]);
    }

    #[test]
    fn properties_decide_as_the_rfcs_say() {
        let identities = ["ca.test".to_owned()];
        let account = "https://ca.test/acct/1";
        let known = Issuer { identities: &identities, account };
        let table: [(&[Vec<u8>], &str, bool); 14] = [
            (&[record(0, "issue", "ca.test")], "a.test", true),
            (&[record(0, "ISSUE", "CA.test ; x=y")], "a.test", true),
            (&[record(0, "issue", "other.test")], "a.test", false),
            (&[record(0, "issue", "other.test"), record(0, "issue", "ca.test")], "a.test", true),
            (&[record(0, "issue", ";")], "a.test", false),
            (&[record(0, "iodef", "mailto:x@a.test")], "a.test", true),
            (&[record(0, "issue", "ca.test"), record(0, "issuewild", ";")], "*.a.test", false),
            (&[record(0, "issue", ";"), record(0, "issuewild", "ca.test")], "*.a.test", true),
            (&[record(0, "issue", ";"), record(0, "issuewild", "ca.test")], "a.test", false),
            (&[record(0, "issue", "ca.test")], "*.a.test", true),
            (&[record(128, "future", "x"), record(0, "issue", "ca.test")], "a.test", false),
            (&[record(0, "issue", "ca.test; accounturi=https://ca.test/acct/1")], "a.test", true),
            (&[record(0, "issue", "ca.test; accounturi=https://ca.test/acct/2")], "a.test", false),
            (&[record(0, "issue", "ca.test; validationmethods=http-01")], "a.test", false),
        ];
        for (records, host, allowed) in table {
            assert_eq!(judge(records, host, known).is_ok(), allowed, "{host}: {records:?}");
        }
        let nobody = Issuer { identities: &[], account };
        assert!(judge(&[record(0, "issue", "other.test")], "a.test", nobody).is_ok(), "not certain");
        assert!(judge(&[record(0, "issue", ";")], "a.test", nobody).is_err(), "nobody may");
        assert_eq!(parse(&[0, 9, b'x']), None);
    }
}
