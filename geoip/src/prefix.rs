//! An address with a length: one network of one family.
//!
//! [`Prefix`] never has host bits set and never mixes families: `::ffff:10.0.0.0/104` is an IPv6
//! prefix. What an IPv6 address that carries an IPv4 one means is decided in [`crate::map`].

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// 32 bits.
    V4,
    /// 128 bits.
    V6,
}

impl Family {
    /// Family of an address.
    pub fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Bits of an address.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A network: address with host bits zero, and length.
///
/// Ordered by family, then address, then length: a network comes right before what it contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    family: Family,
    /// The address in the topmost bits, for both families: bit 127 is the first bit.
    key: u128,
    len: u8,
}

/// Why something is not a [`Prefix`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not `ADDRESS/LENGTH`.
    #[error("{0:?} is not a network: expected ADDRESS/LENGTH such as 192.0.2.0/24 or 2001:db8::/32")]
    Form(String),
    /// The part before the slash.
    #[error("{0:?} is not an IPv4 or IPv6 address")]
    Address(String),
    /// Longer than an address of its family.
    #[error("length {len} is more than the {} bits of an {family} address", family.bits())]
    Length {
        /// As read.
        len: u32,
        /// Of the address.
        family: Family,
    },
    /// Bits behind the length are set.
    #[error("{addr}/{len} has bits set behind its length; did you mean {meant}?")]
    HostBits {
        /// As read.
        addr: IpAddr,
        /// As read.
        len: u8,
        /// The network that contains the address.
        meant: Prefix,
    },
}

impl Prefix {
    /// Checks length and host bits.
    ///
    /// # Errors
    /// [`PrefixError::Length`], [`PrefixError::HostBits`].
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let family = Family::of(addr);
        if len > family.bits() {
            return Err(PrefixError::Length { len: len.into(), family });
        }
        let meant = Self::containing(addr, len);
        if meant.key != key_of(addr) {
            return Err(PrefixError::HostBits { addr, len, meant });
        }
        Ok(meant)
    }

    /// The network of this length an address lies in; a length past the family's is the address.
    pub fn containing(addr: IpAddr, len: u8) -> Self {
        let family = Family::of(addr);
        let len = len.min(family.bits());
        Self { family, key: key_of(addr) & mask(len), len }
    }

    /// From a left-aligned key whose host bits are zero.
    pub(crate) const fn from_key(family: Family, key: u128, len: u8) -> Self {
        Self { family, key, len }
    }

    /// The address in the topmost bits, for both families.
    pub(crate) const fn key(self) -> u128 {
        self.key
    }

    /// Whole address space of a family.
    pub const fn all(family: Family) -> Self {
        Self { family, key: 0, len: 0 }
    }

    /// Family.
    pub const fn family(self) -> Family {
        self.family
    }

    /// First address.
    pub fn addr(self) -> IpAddr {
        addr_of(self.family, self.key)
    }

    /// Length in bits.
    #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a count of elements")]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// Last address.
    pub fn last(self) -> IpAddr {
        let inside = !mask(self.len) & mask(self.family.bits());
        addr_of(self.family, self.key | inside)
    }

    /// Whether an address of the same family lies inside.
    pub fn contains(self, addr: IpAddr) -> bool {
        Family::of(addr) == self.family && key_of(addr) & mask(self.len) == self.key
    }

    /// Whether all of `other` lies inside.
    pub fn covers(self, other: Self) -> bool {
        self.family == other.family && self.len <= other.len && other.key & mask(self.len) == self.key
    }

    /// The network one bit shorter; `None` for a whole family.
    pub fn parent(self) -> Option<Self> {
        let len = self.len.checked_sub(1)?;
        Some(Self { key: self.key & mask(len), len, ..self })
    }

    /// Its two halves, lower first; `None` for a single address.
    pub fn children(self) -> Option<[Self; 2]> {
        if self.len == self.family.bits() {
            return None;
        }
        let len = self.len + 1;
        let bit = 1 << (128 - u32::from(len));
        Some([Self { len, ..self }, Self { len, key: self.key | bit, ..self }])
    }

    /// Number of addresses as a float: 2^128 has no integer here, and people read these rounded.
    pub fn addresses(self) -> f64 {
        2f64.powi(i32::from(self.family.bits() - self.len))
    }
}

/// All bits of the first `len` of 128.
pub(crate) const fn mask(len: u8) -> u128 {
    if len == 0 { 0 } else { u128::MAX << (128 - len as u32) }
}

/// Left-aligned form of an address.
pub(crate) fn key_of(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Reverse of [`key_of`].
pub(crate) fn addr_of(family: Family, key: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits((key >> 96) as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(key)),
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr(), self.len)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let form = || PrefixError::Form(text.to_owned());
        let (addr, len) = text.split_once('/').ok_or_else(form)?;
        let addr: IpAddr = addr.parse().map_err(|_| PrefixError::Address(addr.to_owned()))?;
        if len.is_empty() || !len.bytes().all(|b| b.is_ascii_digit()) {
            return Err(form());
        }
        let family = Family::of(addr);
        let len: u32 = len.parse().map_err(|_| form())?;
        let short = u8::try_from(len).map_err(|_| PrefixError::Length { len, family })?;
        Self::new(addr, short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn reads_and_writes() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.1/32", "::/0", "2001:db8::/32", "::1/128"] {
            assert_eq!(prefix(text).to_string(), text);
        }
    }

    #[test]
    fn refuses_with_what_was_meant() {
        let error = "10.1.2.3/8".parse::<Prefix>().unwrap_err();
        assert_eq!(error.to_string(), "10.1.2.3/8 has bits set behind its length; did you mean 10.0.0.0/8?");
        assert!(matches!("10.0.0.0".parse::<Prefix>(), Err(PrefixError::Form(_))));
        assert!(matches!("10.0.0.0/".parse::<Prefix>(), Err(PrefixError::Form(_))));
        assert!(matches!("10.0.0.0/+8".parse::<Prefix>(), Err(PrefixError::Form(_))));
        assert!(matches!("10.0.0/8".parse::<Prefix>(), Err(PrefixError::Address(_))));
        assert!(matches!("10.0.0.0/33".parse::<Prefix>(), Err(PrefixError::Length { .. })));
        assert!(matches!("::/999".parse::<Prefix>(), Err(PrefixError::Length { len: 999, .. })));
    }

    #[test]
    fn family_tree() {
        let net = prefix("10.0.0.0/8");
        let [low, high] = net.children().unwrap();
        assert_eq!((low, high), (prefix("10.0.0.0/9"), prefix("10.128.0.0/9")));
        assert_eq!(high.parent(), Some(net));
        assert_eq!(net.last(), "10.255.255.255".parse::<IpAddr>().unwrap());
        assert!(net.covers(high) && !high.covers(net));
        assert!(net.contains("10.9.8.7".parse().unwrap()));
        assert!(!net.contains("::10.9.8.7".parse().unwrap()));
        assert_eq!(prefix("::/0").parent(), None);
        assert_eq!(prefix("::1/128").children(), None);
    }
}
