//! UDP sockets for QUIC: one per worker and address, each datagram to the worker that knows its connection.
//!
//! With SO_REUSEPORT alone the kernel picks a socket by both addresses and ports. A client that moves (another network, a
//! NAT that forgot) would then meet a worker that knows nothing of it, and start over. So the worker's number is in the
//! first two octets of every connection ID we give out, and a classic BPF program of ten instructions picks the socket by
//! them. A client's first datagrams carry an ID of its own making: random, so they spread, and the same for all of
//! one attempt, so they meet.
//!
//! Where the kernel refuses the program, sockets are picked by address as said: a move then ends the connection with
//! a stateless reset, and the client begins anew.

use std::{io, net::SocketAddr, net::UdpSocket};

use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};
use quinn::{ConnectionId, ConnectionIdGenerator};
use socket2::{Domain, Protocol, Socket, Type};

/// Octets of a connection ID: two for the worker, six that can't be guessed.
const ID_BYTES: usize = 8;

/// Bytes asked of the kernel for each direction of a socket: 100 ms of 300 Mbit/s, before which a busy worker comes
/// round. The kernel gives at most `net.core.rmem_max` and `wmem_max`.
const BUFFER_BYTES: usize = 4 << 20;

/// Which of an address' sockets an endpoint has, and how many there are.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Counted from 0, in the order in which they were bound.
    pub index: usize,
    /// All of them.
    pub of: usize,
}

impl ConnectionIdGenerator for Place {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = random().to_be_bytes();
        let steering = steering(u16::from_be_bytes([id[0], id[1]]), *self);
        id[..2].copy_from_slice(&steering.to_be_bytes());
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// A number like `random` that the program takes to `place`.
fn steering(random: u16, place: Place) -> u16 {
    let of = u16::try_from(place.of).unwrap_or(u16::MAX).max(1);
    let index = u16::try_from(place.index).unwrap_or(0);
    // Rounded down to a multiple; the last, incomplete round is left out.
    let round = (random / of).min(u16::MAX / of - 1);
    round * of + index
}

/// From the kernel's generator: connection IDs must not be guessed (RFC 9000 section 5.1), nor keys.
pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        // The generator has no way to fail once TLS works; a predictable ID is still a unique one.
        return fastrand::u64(..);
    }
    u64::from_be_bytes(bytes)
}

/// Binds `workers` sockets to one address.
///
/// # Errors
/// Why the address can't be had.
pub fn bind(mut address: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    let mut sockets = Vec::new();
    for _ in 0..workers {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if sockets.is_empty() && address.port() != 0 {
            // As for TCP: without SO_REUSEPORT a second edge on this address is found out.
            let alone = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
            if address.is_ipv6() {
                alone.set_only_v6(true)?;
            }
            alone.bind(&address.into())?;
        }
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Less than was asked for is no reason not to serve.
        let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(BUFFER_BYTES);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    if let Some(first) = sockets.first().filter(|_| workers > 1)
        && let Err(error) = steer(first, workers)
    {
        tracing::warn!(%address, %error, "QUIC clients that change their address will have to begin anew");
    }
    Ok(sockets)
}

/// Attaches the program to the group of sockets that `socket` belongs to.
fn steer(socket: &UdpSocket, workers: usize) -> io::Result<()> {
    let mut program = program(u32::try_from(workers).unwrap_or(u32::MAX));
    let length = u16::try_from(program.len()).unwrap_or(0);
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    setsockopt(socket, AttachReusePortCbpf, &filter).map_err(io::Error::from)
}

/// Reads the two octets at the start of the destination connection ID, from behind the first octet in a short header,
/// from behind version and length in a long one (RFC 8999 section 5), and returns their remainder.
fn program(workers: u32) -> [libc::sock_filter; 7] {
    let op = |code: u32, jump_true, jump_false, k| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt: jump_true,
        jf: jump_false,
        k,
    };
    let (load_byte, load_half) =
        (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, libc::BPF_LD | libc::BPF_H | libc::BPF_ABS);
    [
        op(load_byte, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, 0x80),
        op(load_half, 0, 0, 6),
        op(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        op(load_half, 0, 0, 1),
        op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, workers),
        op(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_id_names_its_worker() {
        for of in [1, 2, 3, 7, 64, 255, 1024] {
            for index in [0, of / 2, of - 1] {
                let mut place = Place { index, of };
                for random in [0, 1, 254, 255, 256, 32_767, 65_534, 65_535] {
                    assert_eq!(usize::from(steering(random, place)) % of, index, "{random} of {of}");
                }
                let id = place.generate_cid();
                assert_eq!(usize::from(u16::from_be_bytes([id[0], id[1]])) % of, index);
            }
        }
    }

    #[test]
    fn the_kernel_takes_datagrams_where_their_connection_is() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let address = sockets[0].local_addr().unwrap();
        for socket in &sockets {
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        for (index, socket) in sockets.iter().enumerate() {
            let id = Place { index, of: 3 }.generate_cid();
            let short = [&[0x40][..], &id, &[0; 20]].concat();
            let long = [&[0xc0, 0, 0, 0, 1, 8][..], &id, &[0; 20]].concat();
            for datagram in [short, long] {
                // From a new port each time: the address decides nothing.
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.send_to(&datagram, address).unwrap();
                let mut read = [0; 64];
                let length = socket.recv(&mut read).unwrap();
                assert_eq!(read[..length], datagram);
            }
        }
    }
}
