//! udpecho: sends every datagram back with the QR bit set, in batches of 32.
//!
//! What the socket itself costs: no DNS server on this kernel can answer for less. Single-threaded, runs
//! until it is killed.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::UdpSocket,
    os::fd::AsRawFd,
    process::ExitCode,
};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

/// The batch of the server that this is compared with.
const BATCH: usize = 32;

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("usage: udpecho ADDRESS:PORT");
        return ExitCode::from(2);
    };
    match echo(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("udpecho: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn echo(address: &str) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    let fd = socket.as_raw_fd();
    let mut buffers = vec![[0u8; 1232]; BATCH];
    let mut received = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut sent = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut datagrams: Vec<(usize, Option<SockaddrStorage>)> = Vec::with_capacity(BATCH);
    loop {
        datagrams.clear();
        {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            match recvmmsg(fd, &mut received, &mut slices, MsgFlags::MSG_WAITFORONE, None) {
                Ok(messages) => datagrams.extend(messages.map(|message| (message.bytes, message.address))),
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        for (buffer, (length, _)) in buffers.iter_mut().zip(&datagrams) {
            if *length > 2 {
                buffer[2] |= 0x80;
            }
        }
        let slices: Vec<[IoSlice<'_>; 1]> = buffers
            .iter()
            .zip(&datagrams)
            .map(|(buffer, (length, _))| [IoSlice::new(&buffer[..*length])])
            .collect();
        let addresses: Vec<Option<SockaddrStorage>> = datagrams.iter().map(|(_, address)| *address).collect();
        if let Err(error) = sendmmsg(fd, &mut sent, &slices, &addresses, [], MsgFlags::empty()) {
            eprintln!("udpecho: {error}");
        }
    }
}
