//! Takes and sends datagrams many at a time: the only module here that talks to the kernel by itself.
//!
//! [`Batch`] owns every buffer it shows to the kernel and rebuilds the pointers before each call, so
//! that no pointer outlives the borrow it came from. It knows nothing of DNS: bytes in, bytes out, a
//! source address for each. Everything above goes through [`Batch::receive`], [`Batch::parts`],
//! [`Batch::reply`] and [`Batch::send`]; another way to move packets (AF_XDP) would replace this file alone.
//!
//! A socket bound to a wildcard address must answer from the address that was asked: there the local
//! address travels as a control message (`IP_PKTINFO`, `IPV6_PKTINFO`) from each datagram to its reply.
#![allow(unsafe_code)]

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd,
    ptr,
};

/// Datagrams taken per `recvmmsg`. Past 32 the batch no longer fits L1 beside the answer templates and
/// throughput falls.
pub const BATCH: usize = 32;

/// Bytes kept of a query. A query that an answer could be written for fits the EDNS limit most
/// implementations use (RFC 9715: 1232 to 1400); what is longer is cut here and fails to parse.
pub const QUERY_BYTES_MAX: usize = 2048;

/// Bytes of a reply: the largest UDP payload this server ever writes, whatever a client offers.
pub const REPLY_BYTES_MAX: usize = 4096;

/// Room for one `IP_PKTINFO` or `IPV6_PKTINFO` control message (header, 20 bytes of payload, alignment).
const CONTROL_BYTES: usize = 64;

/// Receives one at a time, after a batch held only one datagram, before a whole batch is tried again:
/// `recvmmsg` asks the kernel a second time to learn that nothing more waits, which at low load is the
/// greater part of its cost.
const SINGLES: u32 = 8;

/// Whether the socket is bound to a wildcard address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// To one address: replies leave from it by themselves.
    One,
    /// To all of them: replies carry the address that was asked.
    Any,
}

/// A control message buffer, aligned as `cmsghdr` must be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Buffers for one batch of datagrams and their replies. About 200 KiB, allocated once per thread.
pub struct Batch {
    queries: Box<[[u8; QUERY_BYTES_MAX]; BATCH]>,
    replies: Box<[[u8; REPLY_BYTES_MAX]; BATCH]>,
    names: Box<[libc::sockaddr_storage; BATCH]>,
    controls: Box<[Control; BATCH]>,
    query_bytes: [usize; BATCH],
    reply_bytes: [usize; BATCH],
    name_bytes: [libc::socklen_t; BATCH],
    control_bytes: [usize; BATCH],
    bound: Bound,
    singles_left: u32,
}

/// One datagram and the room for its reply.
pub struct Parts<'a> {
    /// The datagram.
    pub query: &'a [u8],
    /// Who sent it; `None` for a family this server does not speak.
    pub source: Option<SocketAddr>,
    /// Where the reply is written; then [`Batch::reply`] says how much of it counts.
    pub reply: &'a mut [u8; REPLY_BYTES_MAX],
}

/// What became of a batch of replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Handed to the kernel.
    pub sent: usize,
    /// Refused by the kernel (no route, a full send buffer): lost, as a datagram may be.
    pub lost: usize,
}

impl Batch {
    /// Buffers for a socket bound so.
    pub fn new(bound: Bound) -> Batch {
        // SAFETY: `sockaddr_storage` is plain bytes; all zeroes is a valid value (AF_UNSPEC).
        let name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Batch {
            queries: Box::new([[0; QUERY_BYTES_MAX]; BATCH]),
            replies: Box::new([[0; REPLY_BYTES_MAX]; BATCH]),
            names: Box::new([name; BATCH]),
            controls: Box::new([Control([0; CONTROL_BYTES]); BATCH]),
            query_bytes: [0; BATCH],
            reply_bytes: [0; BATCH],
            name_bytes: [0; BATCH],
            control_bytes: [0; BATCH],
            bound,
            singles_left: SINGLES,
        }
    }

    /// Waits for at least one datagram, as long as the socket's read timeout, and takes what is there.
    ///
    /// # Errors
    /// `WouldBlock` when the timeout passed; `ConnectionRefused` and its like when an ICMP error for an
    /// earlier reply came back; `Interrupted`. None of them is a reason to stop.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let vlen = if self.singles_left > 0 { 1 } else { BATCH };
        self.reply_bytes = [0; BATCH];
        let mut vectors = [EMPTY_VECTOR; BATCH];
        let mut headers = [EMPTY_HEADER; BATCH];
        for i in 0..vlen {
            vectors[i] =
                libc::iovec { iov_base: self.queries[i].as_mut_ptr().cast(), iov_len: QUERY_BYTES_MAX };
            let header = &mut headers[i].msg_hdr;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut self.names[i]).cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            if self.bound == Bound::Any {
                header.msg_control = self.controls[i].0.as_mut_ptr().cast();
                header.msg_controllen = CONTROL_BYTES as _;
            }
        }
        let count = if vlen == 1 {
            self.singles_left -= 1;
            // SAFETY: `headers[0]` points at one iovec, one name and (if any) one control buffer, all
            // owned by `self` or this frame, of the lengths given, and alive until the call returns.
            let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut headers[0].msg_hdr, 0) };
            headers[0].msg_len = u32::try_from(read).map_err(|_| io::Error::last_os_error())?;
            1
        } else {
            // SAFETY: as above, for each of the first `vlen` headers; no timeout is passed.
            let read = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    BATCH as u32,
                    libc::MSG_WAITFORONE,
                    ptr::null_mut(),
                )
            };
            let count = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
            if count == 1 {
                self.singles_left = SINGLES;
            }
            count
        };
        for (i, header) in headers.iter().enumerate().take(count) {
            self.query_bytes[i] = header.msg_len as usize;
            self.name_bytes[i] = header.msg_hdr.msg_namelen;
            self.control_bytes[i] = if self.bound == Bound::Any { turn_control(&header.msg_hdr) } else { 0 };
        }
        Ok(count)
    }

    /// Datagram `i` of the batch just received.
    pub fn parts(&mut self, i: usize) -> Parts<'_> {
        Parts {
            query: &self.queries[i][..self.query_bytes[i]],
            source: read_name(&self.names[i], self.name_bytes[i]),
            reply: &mut self.replies[i],
        }
    }

    /// Says that the first `bytes` of reply `i` are to be sent; 0 (the default) sends nothing.
    pub fn reply(&mut self, i: usize, bytes: usize) {
        self.reply_bytes[i] = bytes.min(REPLY_BYTES_MAX);
    }

    /// Sends what [`Batch::reply`] announced of the first `count` datagrams. A reply the kernel refuses
    /// is skipped, so that one unreachable client never costs the others theirs.
    pub fn send(&mut self, socket: &UdpSocket, count: usize) -> Sent {
        let mut vectors = [EMPTY_VECTOR; BATCH];
        let mut headers = [EMPTY_HEADER; BATCH];
        let mut filled = 0;
        for i in (0..count).filter(|&i| self.reply_bytes[i] > 0) {
            vectors[filled] =
                libc::iovec { iov_base: self.replies[i].as_mut_ptr().cast(), iov_len: self.reply_bytes[i] };
            let header = &mut headers[filled].msg_hdr;
            header.msg_iov = &raw mut vectors[filled];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut self.names[i]).cast();
            header.msg_namelen = self.name_bytes[i];
            if self.control_bytes[i] > 0 {
                header.msg_control = self.controls[i].0.as_mut_ptr().cast();
                header.msg_controllen = self.control_bytes[i] as _;
            }
            filled += 1;
        }
        let mut done = 0;
        let mut sent = 0;
        while done < filled {
            match send_some(socket, &mut headers[done..filled]) {
                Ok(taken) => (done, sent) = (done + taken, sent + taken),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => done += 1,
            }
        }
        Sent { sent, lost: filled - sent }
    }
}

/// No buffer.
const EMPTY_VECTOR: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

/// No datagram.
// SAFETY: `mmsghdr` is pointers and integers; all zeroes means null pointers of length zero.
const EMPTY_HEADER: libc::mmsghdr = unsafe { mem::zeroed() };

/// Hands as many of `headers` to the kernel as it takes; at least one on success.
fn send_some(socket: &UdpSocket, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL;
    if let [only] = headers {
        // SAFETY: the header points at buffers its caller keeps alive and does not touch meanwhile.
        let wrote = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const only.msg_hdr, flags) };
        return if wrote < 0 { Err(io::Error::last_os_error()) } else { Ok(1) };
    }
    // SAFETY: as above, for each header of the slice.
    let taken =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as u32, flags) };
    match usize::try_from(taken) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(taken) => Ok(taken),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Turns the control message that says where a datagram arrived into the one that says where its
/// reply leaves from, in place. Returns its length, 0 where there is none.
fn turn_control(header: &libc::msghdr) -> usize {
    // SAFETY: `header` was filled by the kernel; its control buffer is alive and aligned;
    // CMSG_FIRSTHDR returns null or a pointer to a whole `cmsghdr` within `msg_controllen`.
    let Some(first) = (unsafe { libc::CMSG_FIRSTHDR(header).as_mut() }) else { return 0 };
    let (length, level, kind) = (first.cmsg_len, first.cmsg_level, first.cmsg_type);
    if level == libc::IPPROTO_IP
        && kind == libc::IP_PKTINFO
        // SAFETY: CMSG_LEN only computes.
        && length >= unsafe { libc::CMSG_LEN(mem::size_of::<libc::in_pktinfo>() as u32) } as usize
    {
        // SAFETY: the length was checked; the data of a control message may be unaligned, so it is
        // read and written as such.
        unsafe {
            let data = libc::CMSG_DATA(first).cast::<libc::in_pktinfo>();
            let mut info = data.read_unaligned();
            // For a unicast datagram this is the address asked; the interface is routing's choice.
            info.ipi_spec_dst = info.ipi_addr;
            info.ipi_ifindex = 0;
            data.write_unaligned(info);
            return libc::CMSG_SPACE(mem::size_of::<libc::in_pktinfo>() as u32) as usize;
        }
    }
    if level == libc::IPPROTO_IPV6
        && kind == libc::IPV6_PKTINFO
        // SAFETY: CMSG_LEN only computes.
        && length >= unsafe { libc::CMSG_LEN(mem::size_of::<libc::in6_pktinfo>() as u32) } as usize
    {
        // SAFETY: as above.
        unsafe {
            let data = libc::CMSG_DATA(first).cast::<libc::in6_pktinfo>();
            let mut info = data.read_unaligned();
            // A link-local address means nothing without its interface; any other is routed.
            if !Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local() {
                info.ipi6_ifindex = 0;
            }
            data.write_unaligned(info);
            return libc::CMSG_SPACE(mem::size_of::<libc::in6_pktinfo>() as u32) as usize;
        }
    }
    0
}

/// Reads a socket address the kernel wrote; `None` for an unknown family or a short one.
fn read_name(name: &libc::sockaddr_storage, bytes: libc::socklen_t) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET if bytes as usize >= mem::size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family says which type this is; `sockaddr_storage` is at least as large and
            // as aligned.
            let v4 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let address = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(address, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 if bytes as usize >= mem::size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let v6 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddr::V6(SocketAddrV6::new(address, port, v6.sin6_flowinfo, v6.sin6_scope_id)))
        }
        _ => None,
    }
}

/// Asks the kernel to tell, with each datagram, which local address it was sent to.
///
/// # Errors
/// What `setsockopt` says.
pub fn receive_local_address(socket: &UdpSocket, local: IpAddr) -> io::Result<()> {
    match local {
        IpAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        IpAddr::V6(_) => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}

/// Sends every datagram as large as the interface takes it, whatever ICMP says of the path: a forged
/// "fragmentation needed" must not make answers travel in fragments, which can be replaced (RFC 9715).
///
/// # Errors
/// What `setsockopt` says.
pub fn ignore_path_mtu(socket: &UdpSocket, local: IpAddr) -> io::Result<()> {
    match local {
        IpAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
        IpAddr::V6(_) => {
            set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT)
        }
    }
}

/// Sets an option that takes one `int`.
fn set_option(
    socket: &UdpSocket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option takes one `int`, which is given with its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Datagrams the kernel dropped because the receive buffer of `socket` was full, since it was made.
/// `None` where the kernel does not say (`SO_MEMINFO` came with Linux 4.12).
pub fn dropped(socket: &UdpSocket) -> Option<u64> {
    /// Index of the drop counter among the `SK_MEMINFO_*` values.
    const DROPS: usize = 8;
    let mut values = [0_u32; DROPS + 1];
    let mut bytes = mem::size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes into `values`, which is that large.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    (result == 0 && bytes as usize == mem::size_of_val(&values)).then(|| u64::from(values[DROPS]))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pair(bind: &str) -> (UdpSocket, UdpSocket, SocketAddr) {
        let server = UdpSocket::bind(bind).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let address = server.local_addr().unwrap();
        (server, client, address)
    }

    /// Answers everything with itself reversed until `want` datagrams were answered.
    fn serve(server: &UdpSocket, batch: &mut Batch, want: usize) {
        let mut answered = 0;
        while answered < want {
            let count = batch.receive(server).unwrap();
            for i in 0..count {
                let parts = batch.parts(i);
                let bytes = parts.query.len();
                assert!(parts.source.is_some());
                for (to, from) in parts.reply.iter_mut().zip(parts.query.iter().rev()) {
                    *to = *from;
                }
                batch.reply(i, bytes);
            }
            let sent = batch.send(server, count);
            assert_eq!(sent, Sent { sent: count, lost: 0 });
            answered += count;
        }
    }

    #[test]
    fn answers_single_and_many() {
        let (server, client, address) = pair("127.0.0.1:0");
        let mut batch = Batch::new(Bound::One);
        for round in 0..3_usize {
            let burst = 1 + round * 40;
            for n in 0..burst {
                client.send_to(&[n as u8, 1, 2], address).unwrap();
            }
            serve(&server, &mut batch, burst);
            let mut buffer = [0; 16];
            for n in 0..burst {
                let (bytes, from) = client.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..bytes], from), (&[2, 1, n as u8][..], address));
            }
        }
    }

    #[test]
    fn a_wildcard_socket_answers_from_the_address_asked() {
        let (server, client, address) = pair("0.0.0.0:0");
        receive_local_address(&server, address.ip()).unwrap();
        let mut batch = Batch::new(Bound::Any);
        for asked in ["127.0.0.7", "127.0.0.99"] {
            let asked = SocketAddr::new(asked.parse().unwrap(), address.port());
            client.connect(asked).unwrap();
            client.send(b"abc").unwrap();
            serve(&server, &mut batch, 1);
            let mut buffer = [0; 16];
            assert_eq!(client.recv(&mut buffer).unwrap(), 3, "a connected socket hears {asked} only");
        }
    }

    #[test]
    fn a_wildcard_ipv6_socket_answers() {
        let Ok(server) = UdpSocket::bind("[::]:0") else { return };
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let address = server.local_addr().unwrap();
        receive_local_address(&server, address.ip()).unwrap();
        let client = UdpSocket::bind("[::1]:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.connect(SocketAddr::new("::1".parse().unwrap(), address.port())).unwrap();
        client.send(b"abc").unwrap();
        serve(&server, &mut Batch::new(Bound::Any), 1);
        let mut buffer = [0; 16];
        assert_eq!(client.recv(&mut buffer).unwrap(), 3);
    }

    #[test]
    fn silence_and_no_reply() {
        let (server, client, address) = pair("127.0.0.1:0");
        server.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let mut batch = Batch::new(Bound::One);
        let error = batch.receive(&server).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        client.send_to(b"x", address).unwrap();
        let count = batch.receive(&server).unwrap();
        assert_eq!(batch.send(&server, count), Sent::default());
    }

    #[test]
    fn the_kernel_counts_drops() {
        let (server, client, address) = pair("127.0.0.1:0");
        let before = dropped(&server);
        assert_eq!(before, Some(0));
        for _ in 0..20_000 {
            client.send_to(&[0; 1000], address).unwrap();
        }
        assert!(dropped(&server) > before);
    }
}
