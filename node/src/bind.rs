//! Words for a socket that could not be bound.
//!
//! The operating system says "Address already in use"; an operator needs to know which address, whose it
//! is, and what to do about it.

use std::{io, net::SocketAddr};

/// Explains why `what` (`"UDP"`, `"HTTP"`, `"control"`) could not listen on `address`, and what to do.
pub fn explain(what: &str, address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another program has it: find it with `ss -lntup 'sport = :{port}'`, stop it, or give this node \
             another address in the fleet file"
        ),
        io::ErrorKind::PermissionDenied if port < 1024 => format!(
            "ports below 1024 need CAP_NET_BIND_SERVICE (the systemd unit grants it), or \
             `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "{} is not an address of this machine: check `ip address`, and that --node names the node that \
             runs here",
            address.ip()
        ),
        _ => "check the address in the fleet file".to_owned(),
    };
    format!("can't listen on {address} ({what}): {error}; {advice}")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = TcpListener::bind(address).expect_err("it is taken");
        let text = explain("HTTP", address, &error);
        assert!(text.contains(&address.to_string()) && text.contains("ss -lntup"), "{text}");
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let address: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let text = explain("HTTP", address, &io::ErrorKind::AddrNotAvailable.into());
        assert!(text.contains("not an address of this machine"), "{text}");
    }
}
