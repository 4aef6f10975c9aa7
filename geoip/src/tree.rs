//! Walks the search tree of an `.mmdb` file from its first network to its last.
//!
//! The maxminddb crate's own walk builds a lookup result per network, at three times the cost of all
//! else that compiling does with one; and compiling wants of each only where it begins, how long it is
//! and where its record lies. What a record *says* is left to the crate. The format is MaxMind DB 2.0,
//! section "Binary Search Tree": nodes of two records of 24, 28 or 32 bits; a record below the number of nodes
//! is a node, equal to it is nothing, above it is data.
//!
//! Files come from the outside: a tree deeper than an address, or one that points outside the file, is
//! an error. One that shares nodes may list 2^128 networks: how many are wanted is the caller's to say.

use crate::prefix::mask;

/// Bytes between the tree and the data; what a record points to counts from their start.
const SEPARATOR_BYTES: u32 = 16;

/// Levels of the tree above the IPv4 networks of a file for both families.
const V4_DEPTH: u8 = 96;

/// The search tree of one file.
#[derive(Clone, Copy)]
pub(crate) struct Tree<'a> {
    bytes: &'a [u8],
    size: RecordSize,
    nodes: u32,
    /// Bits of an address: 32 or 128.
    bits: u8,
    /// Node of ::/96. Files repeat it where addresses carry IPv4 ones: those are no networks of their own.
    v4_start: Option<u32>,
}

/// Bits of a record: half a node.
#[derive(Clone, Copy)]
enum RecordSize {
    B24,
    B28,
    B32,
}

/// A network that has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// First address in the topmost bits. In a file for both families the IPv4 networks are in ::/96.
    pub(crate) key: u128,
    /// Bits of `key` that count.
    pub(crate) len: u8,
    /// Of its record, from the start of the data.
    pub(crate) offset: u32,
}

/// A search tree that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Records of a size the format does not have.
    #[error("its records have {0} bits, which no MMDB file has")]
    RecordSize(u16),
    /// Longer than the file.
    #[error("its search tree is longer than the file")]
    Short,
    /// A path of more bits than an address.
    #[error("its search tree does not end")]
    Endless,
    /// A record behind the data.
    #[error("its search tree points outside the file")]
    Outside,
}

impl<'a> Tree<'a> {
    /// Finds the tree in a file.
    ///
    /// # Errors
    /// [`TreeError::RecordSize`], [`TreeError::Short`].
    pub(crate) fn new(file: &'a [u8], metadata: &maxminddb::Metadata) -> Result<Self, TreeError> {
        let (size, node_bytes) = match metadata.record_size {
            24 => (RecordSize::B24, 6),
            28 => (RecordSize::B28, 7),
            32 => (RecordSize::B32, 8),
            other => return Err(TreeError::RecordSize(other)),
        };
        let length =
            usize::try_from(metadata.node_count).ok().and_then(|nodes| nodes.checked_mul(node_bytes));
        let bytes = length.and_then(|length| file.get(..length)).ok_or(TreeError::Short)?;
        let bits = if metadata.ip_version == 4 { 32 } else { 128 };
        let mut tree = Self { bytes, size, nodes: metadata.node_count, bits, v4_start: None };
        if bits == 128 {
            let mut node = 0;
            for _ in 0..V4_DEPTH {
                if node < tree.nodes {
                    node = tree.children(node)[0];
                }
            }
            tree.v4_start = Some(node).filter(|&node| node > 0 && node < tree.nodes);
        }
        Ok(tree)
    }

    /// Whether the file is for both families.
    pub(crate) fn has_both_families(&self) -> bool {
        self.bits == 128
    }

    /// All networks with data, in order.
    pub(crate) fn networks(self) -> Networks<'a> {
        let mut pending = Vec::with_capacity(usize::from(self.bits) + 1);
        pending.push((0, 0));
        Networks { tree: self, pending, key: 0 }
    }

    /// Both records of a node below [`Tree::nodes`].
    #[inline]
    fn children(&self, node: u32) -> [u32; 2] {
        let at = node as usize;
        let byte = |of: &[u8], i: usize| u32::from(of[i]);
        match self.size {
            RecordSize::B24 => {
                let node = &self.bytes[at * 6..at * 6 + 6];
                [0, 3].map(|i| byte(node, i) << 16 | byte(node, i + 1) << 8 | byte(node, i + 2))
            }
            RecordSize::B28 => {
                // The middle byte holds the topmost four bits of both.
                let node = &self.bytes[at * 7..at * 7 + 7];
                let low = |i: usize| byte(node, i) << 16 | byte(node, i + 1) << 8 | byte(node, i + 2);
                [byte(node, 3) >> 4 << 24 | low(0), (byte(node, 3) & 0xf) << 24 | low(4)]
            }
            RecordSize::B32 => {
                let node = &self.bytes[at * 8..at * 8 + 8];
                let word = |i: usize| byte(node, i) << 24 | byte(node, i + 1) << 16 | byte(node, i + 2) << 8;
                [word(0) | byte(node, 3), word(4) | byte(node, 7)]
            }
        }
    }
}

/// A walk under way.
pub(crate) struct Networks<'a> {
    tree: Tree<'a>,
    /// Upper halves still to be walked, with the length of their prefix; at most one per level.
    pending: Vec<(u32, u8)>,
    /// First address of the network seen last: it shares all bits but the last with the half that is next.
    key: u128,
}

impl Networks<'_> {
    /// The next network, if any.
    ///
    /// # Errors
    /// [`TreeError::Endless`], [`TreeError::Outside`].
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Network>, TreeError> {
        let tree = self.tree;
        while let Some((mut node, mut len)) = self.pending.pop() {
            if len > 0 {
                self.key = self.key & mask(len) | 1 << (128 - u32::from(len));
            }
            while node < tree.nodes && !self.repeats_v4(node) {
                if len == tree.bits {
                    return Err(TreeError::Endless);
                }
                let [low, high] = tree.children(node);
                len += 1;
                self.pending.push((high, len));
                node = low;
            }
            if node > tree.nodes {
                let offset = (node - tree.nodes).checked_sub(SEPARATOR_BYTES).ok_or(TreeError::Outside)?;
                return Ok(Some(Network { key: self.key, len, offset }));
            }
        }
        Ok(None)
    }

    /// Whether this node is the IPv4 part of the file, but not at its place.
    #[inline]
    fn repeats_v4(&self, node: u32) -> bool {
        self.tree.v4_start == Some(node) && self.key >> 32 != 0
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use maxminddb::{Reader, WithinOptions};
    use mmdb_writer::{IpVersion, RecordSize as Size, Writer, ipnet::IpNet};

    use super::*;
    use crate::prefix::key_of;

    fn written(size: Size, version: IpVersion) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut writer = Writer::builder("Test").record_size(size).ip_version(version).build();
        for _ in 0..300 {
            let record = [("n", rng.u32(..40).to_string())];
            let v4 = IpNet::new(std::net::Ipv4Addr::from_bits(rng.u32(..)).into(), rng.u8(4..=32)).unwrap();
            // Reserved networks cannot be written; whichever are taken, both walks must see the same.
            let _ = writer.insert(v4.trunc(), &std::collections::BTreeMap::from(record.clone()));
            if version == IpVersion::V6 {
                let addr = std::net::Ipv6Addr::from_bits(1 << 125 | rng.u128(..) >> 3);
                let v6 = IpNet::new(addr.into(), rng.u8(8..=128)).unwrap();
                let _ = writer.insert(v6.trunc(), &std::collections::BTreeMap::from(record));
            }
        }
        writer.to_bytes().unwrap()
    }

    #[test]
    fn sees_what_the_crate_sees() {
        for size in [Size::Bits24, Size::Bits28, Size::Bits32] {
            for version in [IpVersion::V4, IpVersion::V6] {
                let file = written(size, version);
                let reader = Reader::from_source(&file).unwrap();
                let tree = Tree::new(&file, reader.metadata()).unwrap();
                let mut networks = tree.networks();
                let mut count = 0;
                for expected in reader.networks(WithinOptions::default()).unwrap() {
                    let (expected, seen) = (expected.unwrap(), networks.next().unwrap().unwrap());
                    let network = expected.network().unwrap();
                    let (key, len) = match network.ip() {
                        IpAddr::V4(_) if version == IpVersion::V6 => {
                            (key_of(network.ip()) >> 96, network.prefix() + V4_DEPTH)
                        }
                        ip => (key_of(ip), network.prefix()),
                    };
                    assert_eq!((seen.key, seen.len), (key, len));
                    assert_eq!(Some(seen.offset as usize), expected.offset());
                    count += 1;
                }
                assert!(count > 200, "{count} networks");
                assert_eq!(networks.next(), Ok(None));
            }
        }
    }

    fn tree(bytes: &[u8], nodes: u32) -> Tree<'_> {
        Tree { bytes, size: RecordSize::B24, nodes, bits: 32, v4_start: None }
    }

    #[test]
    fn damaged_trees_are_errors() {
        // One node: the lower half is itself.
        assert_eq!(tree(&[0, 0, 0, 0, 0, 1], 1).networks().next(), Err(TreeError::Endless));
        // A record among the 16 bytes between tree and data.
        assert_eq!(tree(&[0, 0, 5, 0, 0, 1], 1).networks().next(), Err(TreeError::Outside));
        let mut networks = tree(&[0, 0, 17, 0, 0, 1], 1).networks();
        assert_eq!(networks.next(), Ok(Some(Network { key: 0, len: 1, offset: 0 })));
        assert_eq!(networks.next(), Ok(None));
    }
}
