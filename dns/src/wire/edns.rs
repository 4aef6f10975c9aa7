//! The OPT record of a query: what the client offers and asks for (RFC 6891).
//!
//! Unknown options and flags are ignored, known ones are held to their RFC: a client that sends a
//! malformed one learns it by FORMERR instead of getting an answer to something it did not ask.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) mod option {
    pub const NSID: u16 = 3;
    pub const CLIENT_SUBNET: u16 = 8;
    pub const COOKIE: u16 = 10;
    pub const KEEPALIVE: u16 = 11;
    pub const PADDING: u16 = 12;
    pub const EDE: u16 = 15;
}

/// What the OPT record of a query says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edns<'q> {
    /// UDP payload the client can take, octets, as sent: below 512 means 512.
    pub payload: u16,
    /// Version; we speak 0.
    pub version: u8,
    /// DNSSEC OK: copied into the answer (RFC 3225 section 3).
    pub dnssec_ok: bool,
    /// Client subnet (RFC 7871).
    pub client_subnet: Option<ClientSubnet<'q>>,
    /// Cookie (RFC 7873).
    pub cookie: Option<Cookie<'q>>,
    /// The server's name is asked for (RFC 5001).
    pub nsid: bool,
    /// The idle timeout is asked for (RFC 7828).
    pub keepalive: Option<u16>,
    /// The client pads (RFC 7830).
    pub padding: bool,
}

/// A valid client subnet option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSubnet<'q> {
    /// FAMILY as sent: 1, 2, or 0 with nothing behind it (what `dig +subnet=0` sends).
    pub family: u16,
    /// SOURCE PREFIX-LENGTH.
    pub source: u8,
    /// The address octets as sent, `source` bits rounded up: echoed as they are.
    pub octets: &'q [u8],
}

impl<'q> ClientSubnet<'q> {
    /// RFC 7871 section 6: scope 0 in a query, as few octets as the length needs, no bit behind it.
    #[inline(always)]
    fn parse(data: &'q [u8]) -> Option<Self> {
        let (&[family_high, family_low, source, scope], octets) = data.split_first_chunk::<4>()?;
        let family = u16::from_be_bytes([family_high, family_low]);
        let bits_max = match family {
            0 => 0,
            1 => 32,
            2 => 128,
            _ => return None,
        };
        if scope != 0 || source > bits_max || octets.len() != usize::from(source).div_ceil(8) {
            return None;
        }
        let stray = match source % 8 {
            0 => 0,
            kept => octets.last().copied().unwrap_or(0) & (0xff >> kept),
        };
        (stray == 0).then_some(Self { family, source, octets })
    }

    /// The address, host bits zero; `None` for family 0.
    #[inline]
    pub fn address(&self) -> Option<IpAddr> {
        // Shifted together and not copied: what is written in octets is slow to be read as a word.
        match self.family {
            1 => {
                let bits = self.octets.iter().fold(0, |bits, &octet| bits << 8 | u32::from(octet));
                let missing = 32 - 8 * self.octets.len() as u32;
                Some(IpAddr::V4(Ipv4Addr::from_bits(bits.checked_shl(missing).unwrap_or(0))))
            }
            2 => {
                let bits = self.octets.iter().fold(0, |bits, &octet| bits << 8 | u128::from(octet));
                let missing = 128 - 8 * self.octets.len() as u32;
                Some(IpAddr::V6(Ipv6Addr::from_bits(bits.checked_shl(missing).unwrap_or(0))))
            }
            _ => None,
        }
    }
}

/// A well-formed cookie option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie<'q> {
    /// The client's half.
    pub client: [u8; 8],
    /// The server's half as the client remembers it; empty at first.
    pub server: &'q [u8],
}

impl<'q> Cookie<'q> {
    /// RFC 7873 section 5.2.2: 8 octets, or 16 to 40.
    #[inline(always)]
    fn parse(data: &'q [u8]) -> Option<Self> {
        let (client, server) = data.split_first_chunk::<8>()?;
        (server.is_empty() || (8..=32).contains(&server.len())).then_some(Self { client: *client, server })
    }
}

/// Extended error codes (RFC 8914 section 4) this server gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs, reason = "the names are the IANA registry's")]
pub enum Ede {
    Other = 0,
    Prohibited = 18,
    NotAuthoritative = 20,
    NotSupported = 21,
}

/// Why an OPT record is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl<'q> Edns<'q> {
    /// Reads the fixed part and, for version 0, the options.
    #[inline(always)]
    pub(super) fn parse(class: u16, ttl: u32, data: &'q [u8]) -> Result<Self, Malformed> {
        let [_, version, flags, _] = ttl.to_be_bytes();
        let mut edns = Self { payload: class, version, dnssec_ok: flags & 0x80 != 0, ..Self::default() };
        if version != 0 {
            // What stands behind the version is not ours to judge (RFC 6891 section 6.1.3).
            return Ok(edns);
        }
        let mut rest = data;
        while !rest.is_empty() {
            let (&[code_high, code_low, length_high, length_low], after) =
                rest.split_first_chunk::<4>().ok_or(Malformed)?;
            let length = usize::from(u16::from_be_bytes([length_high, length_low]));
            let (data, after) = after.split_at_checked(length).ok_or(Malformed)?;
            rest = after;
            edns.option(u16::from_be_bytes([code_high, code_low]), data)?;
        }
        Ok(edns)
    }

    #[inline(always)]
    fn option(&mut self, code: u16, data: &'q [u8]) -> Result<(), Malformed> {
        match code {
            option::NSID => self.nsid = true,
            option::CLIENT_SUBNET => {
                let subnet = ClientSubnet::parse(data).ok_or(Malformed)?;
                // Two subnets would be two questions.
                if self.client_subnet.replace(subnet).is_some() {
                    return Err(Malformed);
                }
            }
            option::COOKIE => {
                let cookie = Cookie::parse(data).ok_or(Malformed)?;
                // RFC 7873 section 5.2: only the first counts.
                self.cookie = self.cookie.or(Some(cookie));
            }
            option::KEEPALIVE => self.keepalive = Some(data.len() as u16),
            option::PADDING => self.padding = true,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(data: &[u8]) -> Option<ClientSubnet<'_>> {
        ClientSubnet::parse(data)
    }

    #[test]
    fn client_subnets_are_exact_or_refused() {
        let good = subnet(&[0, 1, 20, 0, 192, 0, 16]).unwrap();
        assert_eq!((good.source, good.address()), (20, Some("192.0.16.0".parse().unwrap())));
        assert_eq!(subnet(&[0, 2, 0, 0]).unwrap().address(), Some("::".parse().unwrap()));
        assert_eq!(subnet(&[0, 0, 0, 0]).unwrap().address(), None);
        for bad in [
            &[0, 3, 8, 0, 1][..],          // family
            &[0, 0, 8, 0, 1],              // a length without a family
            &[0, 1, 33, 0, 1, 2, 3, 4, 0], // length
            &[0, 2, 129, 0],
            &[0, 1, 24, 24, 1, 2, 3],   // scope in a query
            &[0, 1, 24, 0, 1, 2],       // too few octets
            &[0, 1, 24, 0, 1, 2, 3, 0], // too many
            &[0, 1, 20, 0, 1, 2, 0x1f], // stray bits
            &[0, 1, 24],
        ] {
            assert_eq!(subnet(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn cookies_have_their_lengths() {
        for (length, fits) in
            [(0, false), (7, false), (8, true), (9, false), (15, false), (16, true), (40, true), (41, false)]
        {
            assert_eq!(Cookie::parse(&vec![1; length]).is_some(), fits, "{length}");
        }
    }

    #[test]
    fn a_later_version_hides_its_options() {
        let edns = Edns::parse(1400, 0x0001_8000, &[1, 2, 3]).unwrap();
        assert_eq!((edns.version, edns.dnssec_ok, edns.payload), (1, true, 1400));
        assert_eq!(Edns::parse(1400, 0, &[1, 2, 3]), Err(Malformed));
        assert!(Edns::parse(1400, 0x0000_7fff, &[0xff, 0xfe, 0, 1, 9]).is_ok());
    }
}
