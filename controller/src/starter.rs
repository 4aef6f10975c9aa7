//! The first fleet file of somebody who answered a few questions, and its zone file. Pure: text from answers.
//!
//! What comes out passes `nearside check` as it is: [`Answers::written`] parses it before it is anybody's.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use nearside_fleet::Files;

use crate::cities;

/// A machine that serves.
#[derive(Clone, Debug, PartialEq)]
pub struct PopAnswer {
    /// Its name.
    pub name: String,
    /// Its public addresses, one at least.
    pub addresses: Vec<IpAddr>,
    /// Degrees north and east.
    pub place: (f64, f64),
}

impl std::str::FromStr for PopAnswer {
    type Err = String;

    /// `NAME=ADDRESS[,ADDRESS]@PLACE`; a place is a city, or degrees north and east as `50.1,8.7`.
    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected NAME=ADDRESS@PLACE, such as fra=198.51.100.10@frankfurt or \
                                fra=198.51.100.10,2001:db8::10@50.1,8.7";
        let (name, rest) = text.split_once('=').ok_or(EXPECTED)?;
        let (addresses, place) = rest.split_once('@').ok_or(EXPECTED)?;
        Ok(PopAnswer {
            name: name.trim().to_owned(),
            addresses: self::addresses(addresses)?,
            place: self::place(place)?,
        })
    }
}

/// A DNS node: its name and its public addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// Its name; its host name is this below the domain.
    pub name: String,
    /// Its public addresses, one at least.
    pub addresses: Vec<IpAddr>,
}

impl std::str::FromStr for DnsAnswer {
    type Err = String;

    /// `NAME=ADDRESS[,ADDRESS]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').ok_or("expected NAME=ADDRESS, such as ns1=198.51.100.10")?;
        Ok(DnsAnswer { name: name.trim().to_owned(), addresses: addresses(rest)? })
    }
}

/// Addresses, by commas or spaces.
///
/// # Errors
/// Which one is none, in words.
pub fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let parts = text.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty());
    let parsed: Result<Vec<IpAddr>, String> =
        parts.map(|part| part.parse().map_err(|_| format!("{part:?} is no address"))).collect();
    parsed.and_then(|all| if all.is_empty() { Err("expected an address".to_owned()) } else { Ok(all) })
}

/// A city, or degrees north and east.
///
/// # Errors
/// In words, with names that are near.
pub fn place(text: &str) -> Result<(f64, f64), String> {
    let text = text.trim();
    if let Some(found) = cities::place(text) {
        return Ok(found);
    }
    let degrees: Vec<f64> =
        text.split([',', ' ']).filter(|part| !part.is_empty()).filter_map(|part| part.parse().ok()).collect();
    if let [north, east] = degrees[..] {
        let is_place = (-90.0..=90.0).contains(&north) && (-180.0..=180.0).contains(&east);
        return if is_place {
            Ok((north, east))
        } else {
            Err("expected degrees north (-90 to 90) and east (-180 to 180)".to_owned())
        };
    }
    let first = text.chars().next().map(|letter| letter.to_ascii_uppercase());
    let near: Vec<&str> = cities::names().filter(|name| name.chars().next() == first).collect();
    Err(format!(
        "{text:?} is no city known here and no place in degrees (50.1,8.7); known are {}",
        if near.is_empty() {
            "Amsterdam, Frankfurt, New York, Singapore and a hundred others".to_owned()
        } else {
            near.join(", ")
        }
    ))
}

/// What a first fleet file is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// The fleet's name.
    pub name: String,
    /// The domain that the DNS nodes answer for, without a final dot.
    pub domain: String,
    /// Machines that serve, one at least.
    pub pops: Vec<PopAnswer>,
    /// Machines that answer DNS; empty: the first two PoPs do.
    pub dns: Vec<DnsAnswer>,
    /// Where the content comes from.
    pub origin: String,
}

/// Two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The fleet file.
    pub fleet: String,
    /// Path of the zone file, relative to the fleet file.
    pub zone_path: String,
    /// The zone file.
    pub zone: String,
}

impl Answers {
    /// The files. `fleet_file`: where the first will be, for messages.
    ///
    /// # Errors
    /// Which answers can't be part of a fleet file, as the reader of fleet files says it.
    pub fn written(&self, fleet_file: &Path) -> Result<Written, Vec<String>> {
        let domain = self.domain.trim_end_matches('.').to_ascii_lowercase();
        let dns = self.dns_nodes();
        let zone_path = format!("zones/{domain}.zone");
        let fleet = self.fleet_text(&domain, &dns, &zone_path);
        let parsed = nearside_fleet::spec::parse(fleet_file, &fleet, &Files::beside(fleet_file));
        match parsed {
            Ok(_) => Ok(Written { fleet, zone: zone_text(&domain, &dns), zone_path }),
            Err(mistakes) => Err(mistakes.iter().map(ToString::to_string).collect()),
        }
    }

    /// Those that were named, or the first two PoPs.
    fn dns_nodes(&self) -> Vec<DnsAnswer> {
        if !self.dns.is_empty() {
            return self.dns.clone();
        }
        let named = |(index, pop): (usize, &PopAnswer)| DnsAnswer {
            name: format!("ns{}", index + 1),
            addresses: pop.addresses.clone(),
        };
        self.pops.iter().take(2).enumerate().map(named).collect()
    }

    fn fleet_text(&self, domain: &str, dns: &[DnsAnswer], zone_path: &str) -> String {
        let mut out = format!(
            "# The fleet {name}: everything its programs do follows from this file. Every key is explained in\n\
             # docs/fleet-file.md. `nearside check` finds every mistake, `nearside publish` makes it so everywhere.\n\
             version = 1\nfleet = {name}\n\n\
             # Points of presence: machines that serve, where they are, and which addresses clients get.\n",
            name = quoted(&self.name),
        );
        for pop in &self.pops {
            let (v4, v6): (Vec<&IpAddr>, Vec<&IpAddr>) =
                pop.addresses.iter().partition(|address| address.is_ipv4());
            out += &format!(
                "[pop.{}]\nlocation = [{}, {}]\n",
                pop.name,
                degrees(pop.place.0),
                degrees(pop.place.1)
            );
            for (key, addresses) in [("ipv4", v4), ("ipv6", v6)] {
                if !addresses.is_empty() {
                    out += &format!("{key} = {}\n", list(addresses.iter().map(ToString::to_string)));
                }
            }
            let sockets =
                |port| list(pop.addresses.iter().map(|&address| SocketAddr::new(address, port).to_string()));
            out += &format!("http = {}\nhttps = {}\n", sockets(80), sockets(443));
            out += "# Where home reaches it, over mutual TLS.\n";
            out += &format!("control = {}\n", quoted(&SocketAddr::new(pop.addresses[0], 8953).to_string()));
            out += "# What it keeps: add cache_dir = \"/var/cache/nearside\" and disk = \"20GB\" to keep it on disk too.\n\
                    memory = \"256MiB\"\n\n";
        }
        out += "# Authoritative DNS servers. Two or more, in different networks; they may share machines with PoPs.\n";
        for node in dns {
            let sockets =
                |port| list(node.addresses.iter().map(|&address| SocketAddr::new(address, port).to_string()));
            let control = SocketAddr::new(node.addresses[0], 8954).to_string();
            out +=
                &format!("[dns.{}]\nlisten = {}\ncontrol = {}\n\n", node.name, sockets(53), quoted(&control));
        }
        out += &format!(
            "# How a PoP shows that it is alive: GET https://ADDRESS/.well-known/nearside/health, every 10 s.\n\
             [check.alive]\n\n\
             # What names are answered with: the nearest PoPs that are alive.\n\
             [service.web]\nchecks = \"alive\"\n\n\
             # The zone, and which of its names are answered by a service. The zone file has the rest.\n\
             [zone.{zone}]\nfile = {file}\nnames = {{ www = \"web\" }}\n\n\
             # What is served for these hosts, and where it comes from. The certificate is the fleet's own, which\n\
             # browsers don't know: docs/operations.md says how to have one from a public authority.\n\
             [site.www]\nhosts = {hosts}\norigin = {origin}\ntls = \"fleet\"\n\n\
             # Home: this machine. Nodes never dial it.\n\
             [controller]\nlisten = \"127.0.0.1:9443\"\n",
            zone = quoted(domain),
            file = quoted(zone_path),
            hosts = quoted(&format!("www.{domain}")),
            origin = quoted(&self.origin),
        );
        out
    }
}

fn zone_text(domain: &str, dns: &[DnsAnswer]) -> String {
    let first = dns.first().map_or("ns1", |node| node.name.as_str());
    let mut out = format!(
        "; {domain}: what is the same for every client. The addresses of names that the fleet file binds to a\n\
         ; service are not here. Raise the serial with every change that secondaries shall notice.\n\
         $ORIGIN {domain}.\n$TTL 300\n\
         @       IN SOA  {first} hostmaster ( 1 7200 900 1209600 60 )\n"
    );
    for node in dns {
        out += &format!("        IN NS   {}\n", node.name);
    }
    for node in dns {
        for address in &node.addresses {
            let kind = if address.is_ipv4() { "A   " } else { "AAAA" };
            out += &format!("{:<7} IN {kind} {address}\n", node.name);
        }
    }
    out
}

/// With a point, so that it is a number of degrees to whoever reads it.
fn degrees(value: f64) -> String {
    format!("{value:?}")
}

/// As TOML wants it; what a basic string can't hold is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => out += &format!("\\u{:04x}", u32::from(letter)),
            letter => out.push(letter),
        }
    }
    out + "\""
}

fn list(items: impl Iterator<Item = String>) -> String {
    let quoted: Vec<String> = items.map(|item| quoted(&item)).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Answers {
        Answers {
            name: "example".into(),
            domain: "cdn.example.org.".into(),
            pops: vec![
                "fra=198.51.100.10,2001:db8::10@frankfurt".parse().unwrap(),
                "nyc=203.0.113.10@40.71,-74".parse().unwrap(),
            ],
            dns: Vec::new(),
            origin: "https://origin.example.org".into(),
        }
    }

    #[test]
    fn what_is_written_is_a_good_fleet() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("nearside.toml");
        let written = answers().written(&file).unwrap();
        std::fs::create_dir(temp.path().join("zones")).unwrap();
        std::fs::write(&file, &written.fleet).unwrap();
        std::fs::write(temp.path().join(&written.zone_path), &written.zone).unwrap();
        let checked = crate::check::check(&file, std::time::SystemTime::now());
        assert_eq!(checked.mistakes, [""; 0], "{}\n{}", written.fleet, written.zone);
        let config = checked.loaded.unwrap().config;
        assert_eq!(config.pops["fra"].ipv6.len(), 1);
        assert_eq!(config.dns.keys().collect::<Vec<_>>(), ["ns1", "ns2"]);
        assert_eq!(config.dns["ns1"].listen.len(), 2);
        assert_eq!(config.pops["nyc"].location.longitude, -74.0);
    }

    #[test]
    fn an_answer_that_fits_nowhere_is_told() {
        let bad = Answers { origin: "example.org".into(), ..answers() };
        assert!(bad.written(Path::new("x.toml")).unwrap_err()[0].contains("origin"));
        let evil = Answers { name: "a\"\n[site.x]".into(), ..answers() };
        assert!(evil.written(Path::new("x.toml")).is_err());
        assert!("fra=198.51.100.10".parse::<PopAnswer>().unwrap_err().contains("NAME=ADDRESS@PLACE"));
        assert!("fra=x@berlin".parse::<PopAnswer>().unwrap_err().contains("no address"));
        assert!(place("franfurt").unwrap_err().contains("Frankfurt"));
        assert!(place("91,0").is_err());
    }
}
