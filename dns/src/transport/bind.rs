//! Takes the addresses a node listens on: one TCP listener and one UDP socket per worker for each.
//!
//! Every socket is had before any query is answered, so that a node either has all its addresses or says
//! which one it could not have. UDP workers share a port through `SO_REUSEPORT`, with which a second
//! process of the same user could silently take half of the queries: so the port is first taken without
//! it, which fails if anybody holds it.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tracing::warn;

use super::batch::{self, Bound};

/// How long a worker waits for a datagram before it looks whether it shall stop.
pub const RECEIVE_TIMEOUT: Duration = Duration::from_millis(200);

/// Bytes the kernel may queue for one socket: 50 ms of 400,000 queries per second at 200 bytes each,
/// the pause of a page fault storm or of a reload on the same core. The kernel grants
/// `net.core.rmem_max` at most.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Connections the kernel keeps waiting to be accepted.
const BACKLOG: i32 = 1024;

/// Tries to find a port that is free for both protocols, where port 0 was asked for.
const FREE_PORT_TRIES: usize = 32;

/// The sockets of one listen address.
#[derive(Debug)]
pub struct Listener {
    /// The address, with the port that was chosen where 0 was asked for.
    pub address: SocketAddr,
    /// Whether it is a wildcard.
    pub bound: Bound,
    /// One per worker.
    pub udp: Vec<UdpSocket>,
    /// Non-blocking.
    pub tcp: TcpListener,
}

/// Takes every address for `workers` workers.
///
/// # Errors
/// In words: which address could not be had, why, and what to do.
pub fn bind(addresses: &[SocketAddr], workers: usize) -> Result<Vec<Listener>, String> {
    addresses.iter().map(|&address| bind_one(address, workers)).collect()
}

fn bind_one(address: SocketAddr, workers: usize) -> Result<Listener, String> {
    let mut tries = if address.port() == 0 { FREE_PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let tcp = bind_tcp(address)
            .map_err(|error| nearside_node::bind::explain("DNS over TCP", address, &error))?;
        let taken = tcp.local_addr().map_err(|error| format!("{address}: {error}"))?;
        match bind_udp_all(taken, workers) {
            Ok(udp) => {
                let bound = if taken.ip().is_unspecified() { Bound::Any } else { Bound::One };
                return Ok(Listener { address: taken, bound, udp, tcp });
            }
            // The port that is free for TCP may not be for UDP.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(error) => return Err(nearside_node::bind::explain("DNS over UDP", taken, &error)),
        }
    }
}

fn bind_udp_all(address: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    drop(UdpSocket::from(open_udp(address, Sharing::Alone)?));
    (0..workers)
        .map(|_| {
            let socket = open_udp(address, Sharing::Port)?;
            socket.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
            let socket = UdpSocket::from(socket);
            if address.ip().is_unspecified() {
                batch::receive_local_address(&socket, address.ip())?;
            }
            if let Err(error) = batch::ignore_path_mtu(&socket, address.ip()) {
                warn!(%address, %error, "path MTU discovery stays on: forged ICMP may fragment answers");
            }
            Ok(socket)
        })
        .collect()
}

/// Whether other sockets may have the same port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Port,
}

fn open_udp(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // `[::]` means IPv6 alone: 0.0.0.0 is listed beside it, and neither takes the other's port.
        socket.set_only_v6(true)?;
    }
    if sharing == Sharing::Port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a previous process in TIME_WAIT must not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_and_strangers_do_not_get_it() {
        let mut listeners = bind(&["127.0.0.1:0".parse().unwrap()], 3).unwrap();
        let listener = listeners.pop().unwrap();
        assert_eq!(listener.udp.len(), 3);
        assert!(listener.udp.iter().all(|socket| socket.local_addr().unwrap() == listener.address));
        assert_eq!(listener.tcp.local_addr().unwrap(), listener.address);
        let error = bind(&[listener.address], 1).unwrap_err();
        assert!(error.contains(&listener.address.to_string()), "{error}");
        assert!(error.contains("ss -lntup"), "{error}");
    }

    #[test]
    fn a_udp_port_that_others_would_share_is_still_taken() {
        let holder = open_udp("127.0.0.1:0".parse().unwrap(), Sharing::Port).unwrap();
        let address = holder.local_addr().unwrap().as_socket().unwrap();
        let error = bind(&[address], 2).unwrap_err();
        assert!(error.contains("UDP"), "{error}");
    }
}
