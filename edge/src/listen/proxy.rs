//! The PROXY protocol, versions 1 and 2: who the client of a load balancer's connection is.
//!
//! [`parse`] is pure and strict; [`read`] takes exactly the header's bytes off a connection, so that what follows (a
//! TLS handshake, a request) is left untouched. Who may send a header is decided by the listener: nobody
//! else's is ever looked at. The specification is HAProxy's `proxy-protocol.txt`; sections are its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Section 2.1: "a 108-byte buffer is always enough" for version 1, its final zero included.
const LINE_BYTES_MAX: usize = 107;

/// Of a version 2 header after its first 16 bytes: addresses (at most 216, of UNIX sockets) and a page of TLVs, which
/// are skipped. Known senders stay below 300.
const REST_BYTES_MAX: usize = 4096;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const PREFIX: &[u8] = b"PROXY ";
/// What tells version 2 from 1, and the bytes of a version 2 header before its addresses.
const FIRST_BYTES: usize = 12;
const FIXED_BYTES: usize = 16;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Of this client, who connected to that address.
    Client {
        /// The client.
        source: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
    /// Nothing: the balancer's own connection (health checks), or one it can't tell of. The socket's addresses count.
    Nothing,
}

/// What is not a header, by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// Neither version's beginning.
    #[error("no PROXY header")]
    Signature,
    /// A version 1 line that is not one.
    #[error("a PROXY line that can't be read")]
    Line,
    /// A version 1 line without an end.
    #[error("a PROXY line longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    /// A version or command of the future.
    #[error("an unknown PROXY version or command")]
    Version,
    /// A family or transport that no web client has.
    #[error("a PROXY header of no TCP connection")]
    Family,
    /// Shorter than its addresses, or longer than any.
    #[error("a PROXY header whose length is not one")]
    Length,
}

/// How far [`parse`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header, and how many bytes it took.
    Header(Said, usize),
    /// Good so far; at least so many more bytes are needed, all of them the header's.
    More(usize),
}

/// Reads a header from the beginning of `bytes`.
///
/// # Errors
/// [`Bad`]: nothing that follows can be trusted.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Bad> {
    let known = bytes.len().min(FIRST_BYTES);
    if bytes[..known] == SIGNATURE[..known] && known > 0 {
        return binary(bytes);
    }
    let known = bytes.len().min(PREFIX.len());
    if bytes[..known] != PREFIX[..known] {
        return Err(Bad::Signature);
    }
    line(bytes)
}

/// Version 1 (section 2.1): one line of text.
fn line(bytes: &[u8]) -> Result<Parsed, Bad> {
    let end = bytes.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n');
    let Some(end) = end else {
        return match bytes.len() {
            0..FIRST_BYTES => Ok(Parsed::More(FIRST_BYTES - bytes.len())),
            FIRST_BYTES..LINE_BYTES_MAX => Ok(Parsed::More(1)),
            _ => Err(Bad::LineTooLong),
        };
    };
    let text = bytes[..end].strip_suffix(b"\r").and_then(|text| std::str::from_utf8(text).ok());
    let rest = text.and_then(|text| text.strip_prefix("PROXY ")).ok_or(Bad::Line)?;
    if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        return Ok(Parsed::Header(Said::Nothing, end + 1));
    }
    let fields: Vec<&str> = rest.splitn(6, ' ').collect();
    let [family, source, destination, source_port, destination_port] = fields[..] else {
        return Err(Bad::Line);
    };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    // "no leading zero", and nothing but digits.
    let port = |text: &str| -> Option<u16> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse().ok().filter(|_| plain)
    };
    let socket = |ip, number| Some(SocketAddr::new(address(ip)?, port(number)?));
    let source = socket(source, source_port).ok_or(Bad::Line)?;
    let destination = socket(destination, destination_port).ok_or(Bad::Line)?;
    Ok(Parsed::Header(Said::Client { source, destination }, end + 1))
}

/// Version 2 (section 2.2).
fn binary(bytes: &[u8]) -> Result<Parsed, Bad> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else {
        return Ok(Parsed::More(FIXED_BYTES - bytes.len()));
    };
    let (version, command, family) = (fixed[12] >> 4, fixed[12] & 15, fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if version != 2 || command > 1 {
        return Err(Bad::Version);
    }
    if length > REST_BYTES_MAX {
        return Err(Bad::Length);
    }
    let Some(rest) = rest.get(..length) else { return Ok(Parsed::More(length - rest.len())) };
    let header = |said| Ok(Parsed::Header(said, FIXED_BYTES + length));
    // LOCAL: whatever follows is to be skipped. AF_UNSPEC and UNSPEC: the sender does not know.
    if command == 0 || family == 0 {
        return header(Said::Nothing);
    }
    match family {
        0x11 => {
            let (parts, _) = rest.split_first_chunk::<12>().ok_or(Bad::Length)?;
            let &[a, b, c, d, e, f, g, h, sp0, sp1, dp0, dp1] = parts;
            let source = (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([sp0, sp1])).into();
            let destination = (Ipv4Addr::new(e, f, g, h), u16::from_be_bytes([dp0, dp1])).into();
            header(Said::Client { source, destination })
        }
        0x21 => {
            let (source, rest) = rest.split_first_chunk::<16>().ok_or(Bad::Length)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(Bad::Length)?;
            let (&[sp0, sp1, dp0, dp1], _) = rest.split_first_chunk::<4>().ok_or(Bad::Length)?;
            let source = (Ipv6Addr::from(*source), u16::from_be_bytes([sp0, sp1])).into();
            let destination = (Ipv6Addr::from(*destination), u16::from_be_bytes([dp0, dp1])).into();
            header(Said::Client { source, destination })
        }
        _ => Err(Bad::Family),
    }
}

/// Reads a header off a connection, and nothing after it. A version 1 line is read byte by byte once its first
/// twelve are there: balancers keep their connections, so it is once per many requests.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] with a [`Bad`], or the connection's own error.
pub async fn read<T: AsyncRead + Unpin>(stream: &mut T) -> io::Result<Said> {
    let mut bytes = Vec::with_capacity(64);
    loop {
        match parse(&bytes).map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))? {
            Parsed::Header(said, _) => return Ok(said),
            Parsed::More(more) => {
                let from = bytes.len();
                bytes.resize(from + more, 0);
                stream.read_exact(&mut bytes[from..]).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(source: &str, destination: &str) -> Said {
        Said::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    /// A version 2 header.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    fn v4_addresses() -> Vec<u8> {
        [&[192, 0, 2, 1][..], &[198, 51, 100, 2], &[0x30, 0x39], &[1, 0xbb]].concat()
    }

    fn v6_addresses() -> Vec<u8> {
        let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets().to_vec();
        [ip("2001:db8::1"), ip("2001:db8::2"), vec![0x30, 0x39, 1, 0xbb]].concat()
    }

    #[test]
    fn headers_say_who_the_client_is() {
        let with_tlvs = [v4_addresses(), vec![0x04, 0, 3, 0, 0, 0]].concat();
        for (bytes, expected) in [
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n".to_vec(),
                client("192.0.2.1:12345", "198.51.100.2:443"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n".to_vec(),
                client("[2001:db8::1]:12345", "[2001:db8::2]:443"),
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 0 65535\r\n".to_vec(),
                client("192.0.2.1:0", "198.51.100.2:65535"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Said::Nothing),
            (b"PROXY UNKNOWN ffff::1 whatever 9\r\n".to_vec(), Said::Nothing),
            (v2(0x21, 0x11, &v4_addresses()), client("192.0.2.1:12345", "198.51.100.2:443")),
            (v2(0x21, 0x11, &with_tlvs), client("192.0.2.1:12345", "198.51.100.2:443")),
            (v2(0x21, 0x21, &v6_addresses()), client("[2001:db8::1]:12345", "[2001:db8::2]:443")),
            (v2(0x20, 0x11, &v4_addresses()), Said::Nothing),
            (v2(0x20, 0x00, &[]), Said::Nothing),
            (v2(0x20, 0x31, &[]), Said::Nothing),
            (v2(0x21, 0x00, &[1, 2, 3]), Said::Nothing),
        ] {
            let length = bytes.len();
            assert_eq!(parse(&bytes), Ok(Parsed::Header(expected, length)), "{bytes:?}");
            let followed = [&bytes[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(
                parse(&followed),
                Ok(Parsed::Header(expected, length)),
                "what follows is not looked at"
            );
            // Read in pieces of just what is asked for, it ends exactly at its end.
            let mut have = 0;
            while let Ok(Parsed::More(more)) = parse(&bytes[..have]) {
                have += more;
                assert!(have <= length, "asked for more than the header");
            }
            assert_eq!(have, length);
        }
    }

    #[test]
    fn what_is_no_header_is_refused_by_reason() {
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat();
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Bad::Signature),
            (b"\x16\x03\x01\x02\x00\x01", Bad::Signature),
            (b"PROXYTCP4 1", Bad::Signature),
            (b"proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n", Bad::Signature),
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n", Bad::Line),
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n", Bad::Line),
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n", Bad::Line),
            (b"PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n", Bad::Line),
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n", Bad::Line),
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n", Bad::Line),
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n", Bad::Line),
            (b"PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n", Bad::Line),
            (b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", Bad::Line),
            (b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n", Bad::Line),
            (b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n", Bad::Line),
            (b"PROXY UNKNOWNX\r\n", Bad::Line),
            (b"PROXY \xff\xff\r\n", Bad::Line),
            (&long, Bad::LineTooLong),
            (&v2(0x11, 0x11, &v4_addresses()), Bad::Version),
            (&v2(0x22, 0x11, &v4_addresses()), Bad::Version),
            (&v2(0x21, 0x11, &v4_addresses()[..11]), Bad::Length),
            (&v2(0x21, 0x21, &v4_addresses()), Bad::Length),
            (&v2(0x21, 0x11, &[0; REST_BYTES_MAX + 1]), Bad::Length),
            (&v2(0x21, 0x12, &v4_addresses()), Bad::Family),
            (&v2(0x21, 0x31, &[0; 216]), Bad::Family),
        ] {
            assert_eq!(parse(bytes), Err(expected), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test]
    async fn nothing_after_the_header_is_taken() {
        let mut stream = &b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\nGET"[..];
        assert_eq!(read(&mut stream).await.unwrap(), client("192.0.2.1:1", "198.51.100.2:2"));
        assert_eq!(stream, b"GET");
        let mut cut = &b"PROXY TCP4 192.0.2.1"[..];
        assert_eq!(read(&mut cut).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_it_never_asks_for_more_than_a_header(bytes: Vec<u8>) {
            for prefix in [&b""[..], b"PROXY ", &SIGNATURE] {
                let bytes = [prefix, &bytes].concat();
                if let Ok(Parsed::More(more)) = parse(&bytes) {
                    proptest::prop_assert!(more > 0 && bytes.len() + more <= FIXED_BYTES + REST_BYTES_MAX);
                }
            }
        }
    }
}
