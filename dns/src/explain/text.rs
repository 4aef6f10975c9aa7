//! An [`Explanation`] for people: one fact per line, the reason beside it.

use std::fmt;

use super::{Answer, Explanation};
use crate::steering::{self, AddressState, AnswerShown, Basis, CandidateShown};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} asked by {}", self.name, self.rtype, self.client)?;
        match &self.steering {
            Some(steering) => write_reasons(f, steering, self.family())?,
            None => writeln!(f, "  decided by  the zone alone: the name is not tailored for this type")?,
        }
        writeln!(f, "  answer      {}", self.answer)?;
        if let Some(scope) = self.answer.scope {
            writeln!(f, "  scope       /{scope}: the answer holds for every client in that prefix")?;
        }
        if let Some(ttl) = self.answer.ttl {
            writeln!(
                f,
                "  TTL         {ttl} s: nothing it rests on can change sooner, within the service's bounds"
            )?;
        }
        if let Some(steering) = &self.steering {
            write_without(f, steering, self.family())?;
        }
        writeln!(f, "  health      {}", self.health)
    }
}

/// Which of the two answers is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    /// HTTPS records hint at both.
    Both,
}

impl Explanation {
    fn family(&self) -> Family {
        match self.rtype.as_str() {
            "A" => Family::V4,
            "AAAA" => Family::V6,
            _ => Family::Both,
        }
    }
}

/// The answers of the families asked for.
fn of_family<'a>(family: Family, v4: &'a AnswerShown, v6: &'a AnswerShown) -> Vec<&'a AnswerShown> {
    match family {
        Family::V4 => vec![v4],
        Family::V6 => vec![v6],
        Family::Both => vec![v4, v6],
    }
}

fn write_reasons(
    f: &mut fmt::Formatter<'_>,
    steering: &steering::Explanation,
    family: Family,
) -> fmt::Result {
    let city = steering.city.as_deref().map(|city| format!("{city}, ")).unwrap_or_default();
    write!(f, "  place       {city}{}", steering.place)?;
    match &*steering.sources {
        [] => writeln!(f, ": nobody knows where {} is", steering.decided_by)?,
        sources => writeln!(f, ": {} says so of {}", sources.join(" and "), steering.network)?,
    }
    if let Some(special) = &steering.special {
        let resolver = steering.stands_for.unwrap_or(steering.decided_by);
        writeln!(f, "              ({special} is no public network: the resolver {resolver} decides)")?;
    }
    if let Some(resolver) = &steering.stands_for {
        writeln!(f, "              ({resolver} is steered as {}: [[geoip.resolver]])", steering.decided_by)?;
    }
    let strategy = match steering.strategy {
        "nearest" => "nearest PoP first",
        "ordered" => "PoPs in the order written",
        "weighted" => "PoPs by weight, stable per network",
        "hash" => "PoPs by hash of the network",
        _ => "first matching rule, else nearest PoP first",
    };
    writeln!(f, "  decided by  service `{}`, {strategy}", steering.service)?;
    if let Some(rule) = &steering.rule {
        writeln!(f, "  rule        number {} matched: {}", rule.number, rule.when)?;
    }
    let answers = of_family(family, &steering.ipv4, &steering.ipv6);
    for answer in &answers {
        match answer.basis {
            Basis::Healthy => {}
            Basis::AllDown => {
                writeln!(f, "  ALL DOWN    no PoP of the list is up: the service's `all_down` decides")?
            }
            Basis::NoFamily => writeln!(f, "  no family   no PoP of the list has such an address")?,
        }
    }
    for (number, candidate) in steering.candidates.iter().enumerate() {
        let label = if number == 0 { "PoPs" } else { "" };
        write!(f, "  {label:<11} {}. ", number + 1)?;
        let answered = answers.iter().any(|answer| answer.pops.contains(&candidate.pop));
        write_candidate(f, candidate, answered, family)?;
    }
    Ok(())
}

fn write_candidate(
    f: &mut fmt::Formatter<'_>,
    candidate: &CandidateShown,
    answered: bool,
    family: Family,
) -> fmt::Result {
    write!(f, "{}", candidate.pop)?;
    if let Some(distance) = candidate.distance_km {
        write!(f, ", {distance:.0} km away")?;
    }
    if candidate.bias_km != 0.0 {
        write!(f, " (less {:.0} km of bias)", candidate.bias_km)?;
    }
    writeln!(f, "{}", if answered { ", answered" } else { "" })?;
    if let Some(offer) = &candidate.offer {
        let here = if offer.here { "this one is among them" } else { "this one is not" };
        let why = match offer.load {
            Some(load) if load > offer.above => format!("load {load:.2} > {:.2}", offer.above),
            Some(load) => format!("it was busy: load {load:.2} now, threshold {:.2}", offer.above),
            None => "it was busy, and tells no load now".to_owned(),
        };
        writeln!(f, "                 busy: offered to {} % of networks ({why}), {here}", offer.percent)?;
    }
    for shown in &candidate.addresses {
        let asked = match family {
            Family::V4 => shown.address.is_ipv4(),
            Family::V6 => shown.address.is_ipv6(),
            Family::Both => true,
        };
        if asked {
            write!(f, "                 {} ", shown.address)?;
            match shown.state {
                AddressState::Up => writeln!(f, "{}", shown.reason)?,
                AddressState::Down => writeln!(f, "DOWN ({})", shown.reason)?,
                AddressState::Drained => writeln!(f, "DRAINED ({})", shown.reason)?,
            }
        }
    }
    Ok(())
}

fn write_without(
    f: &mut fmt::Formatter<'_>,
    steering: &steering::Explanation,
    family: Family,
) -> fmt::Result {
    let Some([v4, v6]) = &steering.if_first_died else { return Ok(()) };
    // Where all are down already, one more death changes nothing.
    if of_family(family, &steering.ipv4, &steering.ipv6).iter().all(|answer| answer.basis != Basis::Healthy) {
        return Ok(());
    }
    let first = steering.ipv4.pops.first().or(steering.ipv6.pops.first());
    let first = first.map_or("the first PoP", String::as_str);
    for answer in of_family(family, v4, v6) {
        let addresses: Vec<String> = answer.addresses.iter().map(ToString::to_string).collect();
        if addresses.is_empty() {
            writeln!(f, "  if {first} died: no address")?;
        } else {
            writeln!(f, "  if {first} died: {} ({})", addresses.join(" "), answer.pops.join(" "))?;
        }
    }
    Ok(())
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.records.is_empty() {
            return write!(f, "{} without records", self.rcode);
        }
        f.write_str(&self.records.join("\n              "))
    }
}

impl fmt::Display for steering::Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Networks printed per service; JSON has more.
        const NETWORKS_PRINTED: usize = 10;
        if self.services.is_empty() {
            return writeln!(f, "no service depends on geography: nothing would move");
        }
        for service in &self.services {
            writeln!(f, "service {}: {} networks would move", service.service, service.networks)?;
            let part = service.ipv4_first / 2_f64.powi(32) * 100.0;
            writeln!(
                f,
                "  to another first PoP: {:.0} IPv4 addresses ({part:.2} %), {:.0} IPv6 /48 networks",
                service.ipv4_first, service.ipv6_first
            )?;
            writeln!(
                f,
                "  to another list:      {:.0} IPv4 addresses, {:.0} IPv6 /48 networks",
                service.ipv4_addresses, service.ipv6_sites
            )?;
            for moved in service.moves.iter().take(NETWORKS_PRINTED) {
                let list = |pops: &[String]| {
                    if pops.is_empty() { "by the resolver".to_owned() } else { pops.join(" ") }
                };
                writeln!(f, "    {} from {} to {}", moved.network, list(&moved.from), list(&moved.to))?;
            }
        }
        Ok(())
    }
}
