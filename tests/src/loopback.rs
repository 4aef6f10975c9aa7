//! A block of loopback addresses nobody else uses while the test runs.
//!
//! PoPs differ by address and share their ports, as in the real world, so ports alone can't keep parallel
//! tests apart. Each test takes a /24 of 127.64.0.0/10 and holds it by a listening socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// The port that marks a block as taken.
const LOCK_PORT: u16 = 8999;

/// 127.A.B.0/24 until it is dropped.
#[derive(Debug)]
pub struct Block {
    second: u8,
    third: u8,
    _held: TcpListener,
}

impl Block {
    /// Takes a free block.
    ///
    /// # Panics
    /// Where a thousand blocks are taken.
    pub fn take() -> Self {
        for _ in 0..1000 {
            let (second, third) = (fastrand::u8(64..128), fastrand::u8(..));
            if let Ok(held) = TcpListener::bind((Ipv4Addr::new(127, second, third, 254), LOCK_PORT)) {
                return Self { second, third, _held: held };
            }
        }
        panic!("no free block in 127.64.0.0/10");
    }

    /// The address ending in `last`.
    pub fn ip(&self, last: u8) -> IpAddr {
        Ipv4Addr::new(127, self.second, self.third, last).into()
    }

    /// A socket address in the block.
    pub fn socket(&self, last: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(last), port)
    }
}
