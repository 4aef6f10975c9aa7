//! A network that is cut between home and some nodes, and healed.
//!
//! The kernel drops every packet to and from the nodes' control ports, so connections that are open fall silent, as they do when
//! a line breaks. That needs `nft` and root; without them the nodes are stopped, which is silent too, only to everybody.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::{fleet::Fleet, process};

/// Port of every node's control listener in a test's fleet.
const CONTROL: u16 = 8953;

/// A cut that lasts until it is dropped.
#[derive(Debug)]
pub enum Cut {
    /// The name of the table that drops packets.
    Packets(String),
    /// Processes that are stopped.
    Stopped(Vec<u32>),
}

impl Cut {
    /// Cuts these nodes off from home.
    ///
    /// # Panics
    /// Where a node does not run.
    pub fn from_home(fleet: &mut Fleet, nodes: &[String]) -> Self {
        let addresses: Vec<String> = nodes.iter().map(|node| fleet.address(node)).collect();
        // One table per block of addresses, so that tests beside this one are not in the way.
        let table = format!("nearside_{}", fleet.block.ip(0).to_string().replace('.', "_"));
        let list = addresses.join(", ");
        let rules = format!(
            "table ip {table} {{\n chain cut {{\n  type filter hook output priority 0; policy accept;\n  \
             ip daddr {{ {list} }} tcp dport {CONTROL} drop\n  ip saddr {{ {list} }} tcp sport {CONTROL} drop\n }}\n}}\n"
        );
        if nft(&["-f", "-"], &rules) {
            return Self::Packets(table);
        }
        eprintln!("no nft, or not root: the nodes are stopped instead of cut off");
        nodes.iter().for_each(|node| fleet.process(node).signal("STOP"));
        Self::Stopped(nodes.iter().map(|node| fleet.process(node).pid()).collect())
    }

    /// Whether clients still reach the nodes.
    pub fn leaves_clients(&self) -> bool {
        matches!(self, Self::Packets(_))
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        match self {
            Self::Packets(table) => {
                assert!(
                    nft(&["delete", "table", "ip", table], "") || std::thread::panicking(),
                    "the cut stays"
                );
            }
            Self::Stopped(pids) => {
                for pid in pids {
                    process::run(Command::new("kill").args(["-CONT", &pid.to_string()]));
                }
            }
        }
    }
}

fn nft(arguments: &[&str], rules: &str) -> bool {
    let mut command = Command::new("nft");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        let mut path = path;
        path.push(":/usr/sbin:/sbin");
        command.env("PATH", path);
    }
    let Ok(mut child) = command.spawn() else { return false };
    // Without rights it may end before it reads.
    let _may_be_gone = child.stdin.take().map(|mut stdin| stdin.write_all(rules.as_bytes()));
    child.wait().is_ok_and(|status| status.success())
}
