//! Where a challenge is answered, and which CAA records count: our own zones first, then the DNS.
//!
//! A name in a zone of ours is looked up in the zone files as home has them; what is delegated away or foreign is asked for
//! through a resolver.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use nearside_fleet::config::Config;
use nearside_zones::{Bindings, End, NameBuf, Rtype, Zone, Zones, master, name::Name};

use super::{
    caa::{self, Issuer},
    dns::{self, Type},
    failure::Failure,
};

const CAA: Rtype = Rtype(257);
/// Delegations that are followed: one is usual.
const DELEGATIONS_MAX: usize = 8;
/// What is put before a host (RFC 8555 section 8.4).
const PREFIX: &str = "_acme-challenge";

/// What home knows of names.
#[derive(Clone, Debug)]
pub struct Names {
    zones: Zones,
    resolvers: Vec<SocketAddr>,
}

/// What a zone of ours says of a name.
enum Ours {
    /// It is in none of ours, or delegated away.
    Foreign,
    /// These records.
    Records(Vec<Vec<u8>>),
    /// None of that type.
    Nothing,
}

impl Names {
    /// Reads the zones of a configuration that was checked. Costs as much as the zone files.
    pub fn load(config: &Config) -> Self {
        let zones = config.zones.values().filter_map(|zone| {
            let origin = Name::parse(zone.origin.as_bytes(), Some(&Name::root())).ok()?;
            let loaded = master::load(&zone.file, &origin).ok()?;
            Zone::build(origin, loaded.records, &Bindings::new()).ok().map(|(zone, _)| Arc::new(zone))
        });
        let resolvers = match config.acme.resolver {
            Some(resolver) => vec![resolver],
            None => dns::system_resolvers(),
        };
        Self { zones: Zones::new(zones), resolvers }
    }

    /// The name at which a host's challenge is answered by our DNS nodes.
    ///
    /// # Errors
    /// [`Failure::Here`], saying which alias is to be made.
    pub async fn place(&self, host: &str, delegation: &BTreeMap<String, String>) -> Result<String, Failure> {
        let base = host.strip_prefix("*.").unwrap_or(host);
        let challenge = format!("{PREFIX}.{base}");
        if let Some(target) = delegation.get(base) {
            return match self.follow(target) {
                Some(end) if end == *target => Ok(end),
                _ => Err(Failure::Here(format!(
                    "the delegation of {base} leads to {target}, which is in no zone of ours, or an alias there"
                ))),
            };
        }
        let mut name = challenge.clone();
        for _ in 0..DELEGATIONS_MAX {
            let next = match self.follow(&name) {
                Some(end) if end == name => return Ok(end),
                Some(end) => end,
                None => {
                    let answer = dns::resolve(&self.resolvers, &name, Type::Cname).await;
                    let answer = answer
                        .map_err(|reason| Failure::Here(format!("{host} is in no zone of ours: {reason}")))?;
                    let Some(target) = answer.targets().pop() else { break };
                    target
                }
            };
            name = next;
        }
        let zone = self.zones.iter().next().map_or_else(String::new, |zone| zone.origin().to_string());
        Err(Failure::Here(format!(
            "{host} is in no zone of ours: let {challenge} be a CNAME to a name in one, such as {}.acme.{zone}",
            base.replace('.', "-")
        )))
    }

    /// The end of a name's aliases, as far as our zones tell, lower case; `None`: the name is foreign or delegated away.
    fn follow(&self, name: &str) -> Option<String> {
        let name = Name::parse(name.as_bytes(), Some(&Name::root())).ok()?;
        let mut buffer = NameBuf::from(&name);
        let zone = self.zones.find(&buffer, Rtype::TXT)?;
        let mut links = 0;
        let mut by_wildcard = false;
        let end = zone.lookup(&mut buffer, Rtype::TXT, |_, _| links += 1);
        if matches!(end, End::Referral(_)) && links == 0 {
            return None;
        }
        // A wildcard's alias is not the challenge's: what is set at the name itself comes before it.
        if links > 0 {
            by_wildcard = !zone
                .nodes()
                .iter()
                .any(|node| node.owner.to_lower() == name.to_lower() && !node.rrsets().is_empty());
        }
        let end = if by_wildcard { name.to_lower().to_string() } else { buffer.to_name().to_string() };
        Some(end.trim_end_matches('.').to_owned())
    }

    /// Whether the records of a host, and of the names above it, let an authority issue.
    ///
    /// # Errors
    /// [`Failure::Refused`] where they certainly do not.
    pub async fn allow(&self, host: &str, issuer: Issuer<'_>) -> Result<(), Failure> {
        for name in caa::climb(host) {
            let records = match self.ours(name) {
                Ours::Records(records) => records,
                Ours::Nothing => continue,
                Ours::Foreign => match dns::resolve(&self.resolvers, name, Type::Caa).await {
                    Ok(answer) => answer.caa(),
                    Err(reason) => {
                        tracing::debug!(host, reason, "CAA records can't be read; the authority will");
                        return Ok(());
                    }
                },
            };
            if !records.is_empty() {
                let judged = caa::judge(&records, host, issuer);
                return judged.map_err(|reason| {
                    Failure::Refused(format!("CAA records of {name} for {host}: {reason}"))
                });
            }
        }
        Ok(())
    }

    fn ours(&self, name: &str) -> Ours {
        let Ok(name) = Name::parse(name.as_bytes(), Some(&Name::root())) else { return Ours::Foreign };
        let mut buffer = NameBuf::from(&name);
        let Some(zone) = self.zones.find(&buffer, CAA) else { return Ours::Foreign };
        match zone.lookup(&mut buffer, CAA, |_, _| {}) {
            End::Answer(set) => Ours::Records(set.into_iter().map(<[u8]>::to_vec).collect()),
            // An alias may lead out of the zone, and a cut does: a resolver follows both.
            End::Referral(_) | End::Chain => Ours::Foreign,
            _ => Ours::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const ZONE: &str = "@ 60 SOA a b 1 2 3 4 5\n@ 60 NS ns.example.org.\n@ 60 CAA 0 issue \"ca.test\"\n\
        www 60 A 192.0.2.1\nclosed 60 CAA 0 issue \";\"\n_acme-challenge.www 60 CNAME www.acme\n\
        *.wild 60 CNAME www\nsub 60 NS ns.example.org.\n";

    fn names() -> Names {
        let origin: Name = "cdn.test".parse().unwrap();
        let loaded = master::read(Path::new("z"), &origin, &mut |_| Ok(ZONE.as_bytes().to_vec())).unwrap();
        let zone = Zone::build(origin, loaded.records, &Bindings::new()).unwrap().0;
        Names { zones: Zones::new([Arc::new(zone)]), resolvers: Vec::new() }
    }

    #[tokio::test]
    async fn a_challenge_is_placed_where_our_nodes_are_asked() {
        let delegation = BTreeMap::from([
            ("x.example".to_owned(), "x-example.acme.cdn.test".to_owned()),
            ("y.example".to_owned(), "elsewhere.example".to_owned()),
        ]);
        let names = names();
        for (host, expected) in [
            ("cdn.test", Ok("_acme-challenge.cdn.test")),
            ("*.cdn.test", Ok("_acme-challenge.cdn.test")),
            ("new.cdn.test", Ok("_acme-challenge.new.cdn.test")),
            ("www.cdn.test", Ok("www.acme.cdn.test")),
            ("a.wild.cdn.test", Ok("_acme-challenge.a.wild.cdn.test")),
            ("x.example", Ok("x-example.acme.cdn.test")),
            ("y.example", Err("no zone of ours")),
            ("z.example", Err("no zone of ours")),
            ("h.sub.cdn.test", Err("no zone of ours")),
        ] {
            match (names.place(host, &delegation).await, expected) {
                (Ok(place), Ok(expected)) => assert_eq!(place, expected, "{host}"),
                (Err(failure), Err(expected)) => {
                    assert!(failure.to_string().contains(expected), "{host}: {failure}")
                }
                (got, _) => panic!("{host}: {got:?}"),
            }
        }
    }

    #[tokio::test]
    async fn caa_records_of_our_zones_are_heeded() {
        let (names, identities) = (names(), ["ca.test".to_owned()]);
        let allowed = |identity: &'static str, host: &'static str| {
            let names = names.clone();
            let identities = [identity.to_owned()];
            async move { names.allow(host, Issuer { identities: &identities, account: "" }).await.is_ok() }
        };
        assert!(allowed("ca.test", "new.cdn.test").await);
        assert!(!allowed("other.test", "new.cdn.test").await, "inherited from above");
        assert!(!allowed("ca.test", "closed.cdn.test").await);
        let foreign = names.allow("foreign.example", Issuer { identities: &identities, account: "" }).await;
        assert_eq!(foreign, Ok(()), "nobody can be asked, so the authority will");
    }
}
