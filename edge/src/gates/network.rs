//! Lists of networks: who is let in or refused by address.
//!
//! Inline networks and files become one [`Map`]: the most specific network decides, of the same one in both lists the
//! refusal. A million networks are one lookup of nanoseconds, as one is. [`Lists`] keeps what was compiled while the
//! files say the same, so that a reload of something else costs a hash of them.

use std::{collections::HashMap, fs, io::Read as _, net::IpAddr, path::Path, sync::Arc};

use http::StatusCode;
use nearside_fleet::{
    Sha256, config,
    config::gates::{self, Acting, Others},
};
use nearside_geoip::{list, map, map::Map, prefix::Prefix};

use super::{Finding, Judgement};

/// Bytes of one file: a million IPv6 networks and their comments.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

const ALLOWED: u32 = 0;
const DENIED: u32 = 1;

/// See the module.
pub struct NetworkGate {
    map: Arc<Map>,
    /// How it acts.
    pub acting: Acting,
}

/// Compiled lists by the hash of what they were compiled from.
#[derive(Default)]
pub struct Lists {
    last: HashMap<Sha256, Arc<Map>>,
    now: HashMap<Sha256, Arc<Map>>,
}

impl Lists {
    /// For the configuration after one with these.
    pub fn after(last: Option<&Lists>) -> Self {
        Lists { last: last.map(|lists| lists.now.clone()).unwrap_or_default(), now: HashMap::new() }
    }

    /// Lets go of what only the last configuration had.
    pub fn settle(&mut self) {
        self.last.clear();
    }

    fn of(&mut self, key: Sha256, compile: impl FnOnce() -> Result<Map, String>) -> Result<Arc<Map>, String> {
        let known = self.now.get(&key).or_else(|| self.last.get(&key)).cloned();
        let map = match known {
            Some(map) => map,
            None => Arc::new(compile()?),
        };
        self.now.insert(key, map.clone());
        Ok(map)
    }
}

impl NetworkGate {
    /// Reads the files and compiles, or finds it compiled.
    ///
    /// # Errors
    /// A file that can't be read or is no list, with its line.
    pub fn build(gate: &gates::NetworkGate, lists: &mut Lists) -> Result<Self, String> {
        let read = |files: &[std::path::PathBuf]| -> Result<Vec<(String, String)>, String> {
            files.iter().map(|file| Ok((file.display().to_string(), text(file)?))).collect()
        };
        let (allow, deny) = (read(&gate.allow_files)?, read(&gate.deny_files)?);
        let mut written = format!("{:?}{:?}{:?}", gate.others, gate.allow, gate.deny);
        for (kind, files) in [("allow", &allow), ("deny", &deny)] {
            for (_, text) in files {
                written += &format!("{kind}{}", Sha256::of(text.as_bytes()));
            }
        }
        let map = lists.of(Sha256::of(written.as_bytes()), || {
            let mut builder = map::Builder::new(match gate.others {
                Others::Allow => ALLOWED,
                Others::Deny => DENIED,
            });
            // Of equal networks the later counts: refusals come last.
            for (inline, files, value) in [(&gate.allow, &allow, ALLOWED), (&gate.deny, &deny, DENIED)] {
                for network in inline {
                    builder.push(prefix(*network)?, value);
                }
                for (name, text) in files {
                    let networks = list::parse(text).map_err(|error| format!("{name}: {error}"))?;
                    networks.into_iter().for_each(|network| builder.push(network, value));
                }
            }
            Ok(builder.finish())
        })?;
        Ok(NetworkGate { map, acting: gate.acting })
    }

    /// Looks a client up. IPv6 addresses that carry an IPv4 one (mapped, NAT64, 6to4) count as that.
    pub fn judge(&self, client: IpAddr) -> Judgement {
        let hit = self.map.lookup(client);
        if hit.value == ALLOWED {
            return Ok(());
        }
        let network = Prefix::containing(client, hit.scope);
        Err(Finding::new(StatusCode::FORBIDDEN, format!("within {network}")))
    }
}

fn prefix((address, length): config::Network) -> Result<Prefix, String> {
    Prefix::new(address, length).map_err(|error| error.to_string())
}

fn text(file: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: cannot be read: {error}", file.display());
    let mut text = String::new();
    let opened = fs::File::open(file).map_err(failed)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{}: longer than {FILE_BYTES_MAX} bytes", file.display()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(allow: &[&str], deny: &[&str], others: Others) -> gates::NetworkGate {
        let networks = |texts: &[&str]| -> Vec<config::Network> {
            texts
                .iter()
                .map(|text| text.parse::<Prefix>().unwrap())
                .map(|net| (net.addr(), net.len()))
                .collect()
        };
        gates::NetworkGate {
            allow: networks(allow),
            deny: networks(deny),
            allow_files: Vec::new(),
            deny_files: Vec::new(),
            others,
            acting: Acting::default(),
        }
    }

    fn lets_in(gate: &NetworkGate, client: &str) -> bool {
        gate.judge(client.parse().unwrap()).is_ok()
    }

    #[test]
    fn the_most_specific_network_decides() {
        let written = gate(&["10.1.0.0/16", "2001:db8::/32"], &["10.0.0.0/8", "10.1.2.0/24"], Others::Allow);
        let gate = NetworkGate::build(&written, &mut Lists::default()).unwrap();
        assert!(lets_in(&gate, "192.0.2.1"));
        assert!(!lets_in(&gate, "10.2.0.1"));
        assert!(lets_in(&gate, "10.1.0.1"));
        assert!(!lets_in(&gate, "10.1.2.1"));
        assert!(!lets_in(&gate, "::ffff:10.1.2.1"), "an IPv4 client on an IPv6 socket");
        assert!(lets_in(&gate, "2001:db9::1"));
    }

    #[test]
    fn files_are_read_and_kept_while_they_say_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("office");
        fs::write(&file, "192.0.2.0/24 # here\n").unwrap();
        let written = gates::NetworkGate { allow_files: vec![file.clone()], ..gate(&[], &[], Others::Deny) };
        let mut lists = Lists::default();
        let first = NetworkGate::build(&written, &mut lists).unwrap();
        assert!(lets_in(&first, "192.0.2.9") && !lets_in(&first, "192.0.3.9") && !lets_in(&first, "::1"));
        let mut next = Lists::after(Some(&lists));
        let second = NetworkGate::build(&written, &mut next).unwrap();
        assert!(Arc::ptr_eq(&first.map, &second.map), "nothing has changed");
        fs::write(&file, "192.0.3.0/24\n").unwrap();
        let third = NetworkGate::build(&written, &mut Lists::after(Some(&next))).unwrap();
        assert!(lets_in(&third, "192.0.3.9") && !lets_in(&third, "192.0.2.9"));
        fs::write(&file, "192.0.3.0/24\nnobody\n").unwrap();
        let error = NetworkGate::build(&written, &mut Lists::default()).err().unwrap();
        assert!(error.contains("office: line 2"), "{error}");
        fs::remove_file(&file).unwrap();
        assert!(NetworkGate::build(&written, &mut Lists::default()).is_err());
    }

    #[test]
    fn of_equal_networks_the_refusal_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("both");
        fs::write(&file, "192.0.2.0/24\n").unwrap();
        let written = gates::NetworkGate {
            allow_files: vec![file.clone()],
            deny_files: vec![file],
            ..gate(&[], &[], Others::Allow)
        };
        assert!(!lets_in(&NetworkGate::build(&written, &mut Lists::default()).unwrap(), "192.0.2.9"));
    }
}
