//! Address → small number, with the exact prefix for which that holds.
//!
//! A map has a visible life: a [`Builder`] takes prefixes and values, [`Builder::finish`] collapses
//! them, and what comes out, the [`Map`], is never changed and cannot fail. Inside, it is a binary
//! trie of 8-byte nodes below a 16-bit root table per family. Equal siblings are one leaf, equal
//! subtrees are one node, so that a city database steering to a few PoPs is a few megabytes.
//!
//! **Scope.** The depth of a leaf is the longest prefix around the address for which the value is
//! the same *and* the shortest that is a single leaf: leaves tile the address space, so scopes never
//! overlap, and a leaf's sibling always differs from it somewhere, so scopes are maximal. Where
//! the whole family has one value, the scope is 0 and truthful. A scope may be longer than the
//! source prefix of the query it answers; RFC 7871 section 7.2.1 allows that, and a cache then
//! keeps the answer for the source prefix alone.
//!
//! **IPv6 addresses that carry an IPv4 one** are where that IPv4 address is: the IPv4 trie is
//! grafted into the IPv6 one below ::ffff:0:0/96 (RFC 4291 section 2.5.5.2), 64:ff9b::/96
//! (RFC 6052) and 2002::/16 (RFC 3056), the same nodes, so that values and scopes follow (+96,
//! +96, +16). Teredo (2001::/32, RFC 4380 section 4) hides the client, inverted, in the last 32
//! bits; its leaf is a mark, resolved on lookup, and its scope is 96 more. What a caller pushes
//! inside these four is ignored.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashTable;

use crate::prefix::{Family, Prefix, mask};

/// Largest value a leaf can hold: 26 bits, less one for the Teredo mark. Root entries keep the depth
/// (5 bits) beside the value and the leaf bit.
pub const VALUE_MAX: u32 = (1 << VALUE_BITS) - 2;

const VALUE_BITS: u32 = 26;
const VALUE_MASK: u32 = (1 << VALUE_BITS) - 1;
/// Leaf of 2001::/32: the value depends on the last 32 bits.
const TEREDO: u32 = VALUE_MASK;
/// Set in a reference to a leaf; the rest is depth (root entries only) and value.
const LEAF: u32 = 1 << 31;

/// Bits resolved by the root table. 16 bits are 256 KiB per family and spare half of an IPv4 walk;
/// 24 would be 64 MiB.
const ROOT_BITS: u8 = 16;
const ROOT_LEN: usize = 1 << ROOT_BITS;

/// Networks whose addresses end in an IPv4 address, as it is: (key, length).
const GRAFTS: [(u128, u8); 3] = [(0xffff << 32, 96), (0x0064_ff9b << 96, 96), (0x2002 << 112, 16)];
/// 2001::/32.
const TEREDO_NET: (u128, u8) = (0x2001_0000 << 96, 32);

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The value.
    pub value: u32,
    /// Length of the prefix around the address that has it.
    pub scope: u8,
}

/// An immutable address → value table. Lookups are a few nanoseconds and take no lock.
pub struct Map {
    root4: Box<[u32]>,
    root6: Box<[u32]>,
    nodes: Box<[[u32; 2]]>,
    top4: u32,
    top6: u32,
}

impl Map {
    /// Value and scope of an address, embedded IPv4 addresses resolved.
    #[inline]
    pub fn lookup(&self, addr: IpAddr) -> Hit {
        match addr {
            IpAddr::V4(v4) => self.lookup_v4(v4.to_bits()),
            IpAddr::V6(v6) => self.lookup_v6(v6.to_bits()),
        }
    }

    /// Value and scope of an IPv4 address.
    #[inline]
    pub fn lookup_v4(&self, addr: u32) -> Hit {
        let mut at = self.root4[(addr >> 16) as usize];
        if at & LEAF != 0 {
            return root_hit(at);
        }
        let mut rest = addr << 16;
        let mut depth = ROOT_BITS;
        loop {
            at = self.nodes[at as usize][(rest >> 31) as usize];
            rest <<= 1;
            depth += 1;
            if at & LEAF != 0 {
                return Hit { value: at & VALUE_MASK, scope: depth };
            }
        }
    }

    /// Value and scope of an IPv6 address, embedded IPv4 addresses resolved.
    #[inline]
    pub fn lookup_v6(&self, addr: u128) -> Hit {
        let mut at = self.root6[(addr >> 112) as usize];
        if at & LEAF != 0 {
            return root_hit(at);
        }
        let mut rest = addr << 16;
        let mut depth = ROOT_BITS;
        loop {
            at = self.nodes[at as usize][(rest >> 127) as usize];
            rest <<= 1;
            depth += 1;
            if at & LEAF != 0 {
                break;
            }
        }
        match at & VALUE_MASK {
            TEREDO => self.lookup_teredo(addr),
            value => Hit { value, scope: depth },
        }
    }

    #[cold]
    fn lookup_teredo(&self, addr: u128) -> Hit {
        let hit = self.lookup_v4(!(addr as u32));
        Hit { value: hit.value, scope: hit.scope + 96 }
    }

    /// Every leaf of a family in order of address. Those of IPv6 leave out the networks that carry
    /// IPv4 addresses: they repeat the IPv4 leaves.
    pub fn leaves(&self, family: Family) -> Leaves<'_> {
        let top = match family {
            Family::V4 => self.top4,
            Family::V6 => self.top6,
        };
        Leaves { map: self, stack: vec![(top, Prefix::all(family))] }
    }

    /// Nodes below the root tables, both families.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.root4) + size_of_val(&*self.root6)
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map").field("nodes", &self.nodes()).field("bytes", &self.bytes()).finish()
    }
}

#[inline]
fn root_hit(at: u32) -> Hit {
    Hit { value: at & VALUE_MASK, scope: ((at & !LEAF) >> VALUE_BITS) as u8 }
}

/// Iterator of [`Map::leaves`].
pub struct Leaves<'a> {
    map: &'a Map,
    stack: Vec<(u32, Prefix)>,
}

impl Iterator for Leaves<'_> {
    type Item = (Prefix, u32);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((at, prefix)) = self.stack.pop() {
            if prefix.family() == Family::V6 && carries_v4(prefix) {
                continue;
            }
            if at & LEAF != 0 {
                return Some((prefix, at & VALUE_MASK));
            }
            // A node has halves: no reference at full depth is one.
            if let Some([low, high]) = prefix.children() {
                let [left, right] = self.map.nodes[at as usize];
                self.stack.push((right, high));
                self.stack.push((left, low));
            }
        }
        None
    }
}

fn carries_v4(prefix: Prefix) -> bool {
    let exact = (prefix.key(), prefix.len());
    exact == TEREDO_NET || GRAFTS.contains(&exact)
}

/// The IPv4 address inside an IPv6 one, and the length of what stands before it: a prefix of the
/// IPv4 address that many bits longer is the prefix of the IPv6 one.
///
/// For Teredo the address is a prefix of nothing in particular; a scope of 96 plus the IPv4 one is
/// correct because the bits before it are then all fixed.
pub fn embedded_v4(addr: Ipv6Addr) -> Option<(Ipv4Addr, u8)> {
    let bits = addr.to_bits();
    let within = |(key, len): (u128, u8)| bits & mask(len) == key;
    if within(TEREDO_NET) {
        return Some((Ipv4Addr::from_bits(!(bits as u32)), 96));
    }
    let &(_, len) = GRAFTS.iter().find(|&&net| within(net))?;
    Some((Ipv4Addr::from_bits((bits >> (96 - u32::from(len))) as u32), len))
}

/// Blocks whose addresses mean another host in every network (RFC 6890): no database can place
/// them, and a resolver's own place is the best guess for them.
///
/// Documentation and benchmarking blocks are left out: no client has such an address, so whatever
/// a database or an operator says of them may stand.
pub const SPECIAL: [(IpAddr, u8); 12] = [
    (v4(0, 0, 0, 0), 8),
    (v4(10, 0, 0, 0), 8),
    (v4(100, 64, 0, 0), 10),
    (v4(127, 0, 0, 0), 8),
    (v4(169, 254, 0, 0), 16),
    (v4(172, 16, 0, 0), 12),
    (v4(192, 168, 0, 0), 16),
    (v6(0, 0), 128),
    (v6(0, 1), 128),
    (v6(0xfc00, 0), 7),
    (v6(0xfe80, 0), 10),
    (v6(0xfec0, 0), 10),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(first: u16, last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last))
}

/// The whole block of [`SPECIAL`] an address lies in. An embedded IPv4 address counts as itself.
pub fn special(addr: IpAddr) -> Option<Prefix> {
    if let IpAddr::V6(v6) = addr
        && let Some((inner, _)) = embedded_v4(v6)
    {
        return special(IpAddr::V4(inner));
    }
    SPECIAL.iter().map(|&(net, len)| Prefix::containing(net, len)).find(|net| net.contains(addr))
}

/// Takes prefixes and values, in any order; of two that overlap, the more specific one wins, of two
/// equal ones, the later.
pub struct Builder {
    default: u32,
    families: [Entries; 2],
    forest: Forest,
    /// The IPv4 tree, once there is one.
    top4: Option<u32>,
}

/// What was pushed for one family.
#[derive(Default)]
struct Entries {
    list: Vec<Entry>,
    /// Whether something came out of order: then nothing may be merged early, and the list is
    /// sorted in the end.
    shuffled: bool,
}

/// The key is kept in halves: a `u128` is aligned to 16 bytes and would make 32 of these 24, at the
/// moment of a load when memory is highest.
#[derive(Clone, Copy)]
struct Entry {
    high: u64,
    low: u64,
    value: u32,
    len: u8,
    /// Merged from halves, so more specific than a pushed entry of the same prefix.
    merged: bool,
}

impl Entry {
    fn key(self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    fn last(self) -> u128 {
        self.key() | !mask(self.len)
    }

    fn is_low_half_of_pair_with(self, high: Self) -> bool {
        self.len == high.len
            && self.len > 0
            && self.value == high.value
            && self.key() ^ high.key() == 1 << (128 - u32::from(self.len))
    }
}

impl Entries {
    fn push(&mut self, entry: Entry) {
        if self.list.last().is_some_and(|last| entry.key() <= last.last()) {
            self.shuffled = true;
        }
        self.list.push(entry);
        // Neighbours of one value become one entry at once: a city database of millions of
        // networks then never stands here in full.
        while !self.shuffled
            && let [.., low, high] = self.list[..]
            && low.is_low_half_of_pair_with(high)
        {
            self.list.pop();
            self.list.pop();
            self.list.push(Entry { len: low.len - 1, merged: true, ..low });
        }
    }

    fn sort(&mut self) {
        if self.shuffled {
            self.list.sort_by_key(|entry| (entry.key(), entry.len, entry.merged));
        }
    }
}

impl Builder {
    /// Starts a map in which every address has this value.
    ///
    /// # Panics
    /// If the value is above [`VALUE_MAX`]: values are numbers the caller gave out itself.
    pub fn new(default: u32) -> Self {
        assert!(default <= VALUE_MAX, "map value {default} is above {VALUE_MAX}");
        Self { default, families: Default::default(), forest: Forest::default(), top4: None }
    }

    /// Gives a network a value.
    ///
    /// # Panics
    /// If the value is above [`VALUE_MAX`]: values are numbers the caller gave out itself.
    pub fn push(&mut self, prefix: Prefix, value: u32) {
        assert!(value <= VALUE_MAX, "map value {value} is above {VALUE_MAX}");
        debug_assert!(prefix.family() == Family::V6 || self.top4.is_none(), "the IPv4 tree is grown");
        self.families[prefix.family() as usize].push(Entry {
            high: (prefix.key() >> 64) as u64,
            low: prefix.key() as u64,
            value,
            len: prefix.len(),
            merged: false,
        });
    }

    /// Collapses the IPv4 networks, of which no more may come: what they took is free for the IPv6 ones.
    pub(crate) fn finish_v4(&mut self) -> u32 {
        if let Some(top4) = self.top4 {
            return top4;
        }
        let mut v4 = std::mem::take(&mut self.families[Family::V4 as usize]);
        v4.sort();
        let top4 = self.forest.grow(&v4.list, &[], 0, self.default);
        self.top4 = Some(top4);
        top4
    }

    /// Collapses everything into a map. About 50 ns per entry.
    pub fn finish(mut self) -> Map {
        let top4 = self.finish_v4();
        let Self { default, families: [_, mut v6], mut forest, .. } = self;
        v6.sort();
        let teredo = if top4 & LEAF != 0 { top4 } else { LEAF | TEREDO };
        let mut grafts = GRAFTS.map(|(key, len)| Graft { key, len, at: top4 }).to_vec();
        grafts.push(Graft { key: TEREDO_NET.0, len: TEREDO_NET.1, at: teredo });
        grafts.sort_by_key(|graft| graft.key);
        let top6 = forest.grow(&v6.list, &grafts, 0, default);
        drop(v6);
        let nodes = forest.nodes.into_boxed_slice();
        Map { root4: root(&nodes, top4), root6: root(&nodes, top6), nodes, top4, top6 }
    }
}

/// A subtree that stands ready to be put at a prefix.
#[derive(Clone, Copy)]
struct Graft {
    key: u128,
    len: u8,
    at: u32,
}

/// Nodes under construction; each pair of children exists once.
#[derive(Default)]
struct Forest {
    nodes: Vec<[u32; 2]>,
    known: HashTable<u32>,
}

impl Forest {
    /// Builds the subtree of everything in the slices, which all lies below one prefix of length
    /// `depth` whose value is `value` where nothing says otherwise. Recursion is at most 128 deep.
    fn grow(&mut self, mut entries: &[Entry], grafts: &[Graft], depth: u8, mut value: u32) -> u32 {
        if let Some(graft) = grafts.first()
            && graft.len == depth
        {
            return graft.at;
        }
        while let Some((first, rest)) = entries.split_first()
            && first.len == depth
        {
            value = first.value;
            entries = rest;
        }
        if entries.is_empty() && grafts.is_empty() {
            return LEAF | value;
        }
        let bit = 1u128 << (127 - u32::from(depth));
        let (low, high) = entries.split_at(entries.partition_point(|entry| entry.key() & bit == 0));
        let (graft_low, graft_high) = grafts.split_at(grafts.partition_point(|graft| graft.key & bit == 0));
        let left = self.grow(low, graft_low, depth + 1, value);
        let right = self.grow(high, graft_high, depth + 1, value);
        self.join(left, right)
    }

    fn join(&mut self, left: u32, right: u32) -> u32 {
        if left == right && left & LEAF != 0 {
            return left;
        }
        let pair = [left, right];
        let nodes = &self.nodes;
        let entry =
            self.known.entry(hash(pair), |&at| nodes[at as usize] == pair, |&at| hash(nodes[at as usize]));
        match entry {
            hashbrown::hash_table::Entry::Occupied(known) => *known.get(),
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                // 2^31 nodes would be 16 GiB; the entries alone would be four times that.
                let at = self.nodes.len() as u32;
                vacant.insert(at);
                self.nodes.push(pair);
                at
            }
        }
    }
}

/// Finaliser of SplitMix64: pairs are trusted, small and dense, so that mixing is all it takes.
fn hash([left, right]: [u32; 2]) -> u64 {
    let mut x = (u64::from(left) << 32 | u64::from(right)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The root table of a tree: for every first 16 bits, the node below or the leaf around them.
fn root(nodes: &[[u32; 2]], top: u32) -> Box<[u32]> {
    let mut table = vec![0; ROOT_LEN].into_boxed_slice();
    fill(nodes, top, 0, &mut table);
    table
}

fn fill(nodes: &[[u32; 2]], at: u32, depth: u8, table: &mut [u32]) {
    if at & LEAF != 0 {
        table.fill(at | u32::from(depth) << VALUE_BITS);
    } else if depth == ROOT_BITS {
        table.fill(at);
    } else {
        let [left, right] = nodes[at as usize];
        let (low, high) = table.split_at_mut(table.len() / 2);
        fill(nodes, left, depth + 1, low);
        fill(nodes, right, depth + 1, high);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: the longest prefix wins, the latest of equal ones, without any trie.
    fn model(pushed: &[(Prefix, u32)], default: u32, addr: IpAddr) -> u32 {
        if let IpAddr::V6(v6) = addr
            && let Some((inner, _)) = embedded_v4(v6)
        {
            return model(pushed, default, inner.into());
        }
        let best = pushed.iter().filter(|(net, _)| net.contains(addr)).max_by_key(|(net, _)| net.len());
        best.map_or(default, |&(_, value)| value)
    }

    fn build(pushed: &[(Prefix, u32)], default: u32) -> Map {
        let mut builder = Builder::new(default);
        pushed.iter().for_each(|&(prefix, value)| builder.push(prefix, value));
        builder.finish()
    }

    /// Prefixes crowded into few bits, so that they nest, touch and repeat.
    fn crowded_prefix() -> impl Strategy<Value = Prefix> {
        (any::<bool>(), 0u8..=12, any::<u8>(), prop::sample::select(vec![0u128, 0x2001, 0x2002, 0x64]))
            .prop_map(|(v4, len, bits, head)| {
                if v4 {
                    let addr = Ipv4Addr::from_bits(u32::from(bits) << 22);
                    Prefix::containing(addr.into(), len + 2)
                } else {
                    let addr = Ipv6Addr::from_bits(head << 112 | u128::from(bits) << 104);
                    Prefix::containing(addr.into(), len + 12)
                }
            })
    }

    fn crowded_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits & 0x3fff_ffff).into()),
            (0u128..4, any::<u32>()).prop_map(|(head, low)| {
                let head = [0xffff << 32, 0x64_ff9b << 96, 0x2002 << 112, 0x2001 << 112][head as usize];
                Ipv6Addr::from_bits(head | u128::from(low) | u128::from(low & 0x3fff) << 86).into()
            }),
            any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits >> 2 | 0x2001 << 112).into()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn is_the_longest_prefix_match(
            pushed in prop::collection::vec((crowded_prefix(), 0u32..4), 0..24),
            sorted in any::<bool>(),
            addrs in prop::collection::vec(crowded_address(), 64),
        ) {
            let mut pushed = pushed;
            if sorted {
                pushed.sort_by_key(|&(prefix, _)| prefix);
            }
            let map = build(&pushed, 7);
            for addr in addrs {
                prop_assert_eq!(map.lookup(addr).value, model(&pushed, 7, addr), "{}", addr);
            }
        }

        #[test]
        fn scopes_are_exact_and_maximal(
            pushed in prop::collection::vec((crowded_prefix(), 0u32..3), 0..12),
            addrs in prop::collection::vec(crowded_address(), 16),
            inside in prop::collection::vec(any::<u128>(), 16),
        ) {
            let map = build(&pushed, 0);
            for addr in addrs {
                let hit = map.lookup(addr);
                let scope = Prefix::containing(addr, hit.scope);
                let sample = |net: Prefix, bits: u128| {
                    let width = if net.family() == Family::V4 { bits << 96 } else { bits };
                    crate::prefix::addr_of(net.family(), net.key() | (width & !mask(net.len())))
                };
                for &bits in &inside {
                    prop_assert_eq!(map.lookup(sample(scope, bits)), hit);
                }
                // Teredo's client is inverted and the bits before it are arbitrary: no parent there.
                if let Some(parent) = scope.parent() && !Prefix::from_key(Family::V6, TEREDO_NET.0, 32).covers(scope) {
                    let [low, high] = parent.children().unwrap();
                    let sibling = if low == scope { high } else { low };
                    let differs = leaves_of(&map, sibling).any(|value| value != hit.value);
                    prop_assert!(differs, "{} could be {}", scope, parent);
                }
            }
        }
    }

    /// Values inside a prefix, by stepping from scope to scope.
    fn leaves_of(map: &Map, net: Prefix) -> impl Iterator<Item = u32> {
        let last = crate::prefix::key_of(net.last());
        let mut at = Some(net.key());
        std::iter::from_fn(move || {
            let key = at.filter(|&key| key <= last)?;
            let hit = map.lookup(crate::prefix::addr_of(net.family(), key));
            at = key.checked_add(1 << (128 - u32::from(hit.scope).max(1)));
            Some(hit.value)
        })
        .take(4096)
    }

    #[test]
    fn one_value_is_scope_zero() {
        let map = build(&[("10.0.0.0/8".parse().unwrap(), 5)], 5);
        for addr in ["1.2.3.4", "::1", "2001::1", "2002::1", "::ffff:1.2.3.4"] {
            assert_eq!(map.lookup(addr.parse().unwrap()), Hit { value: 5, scope: 0 }, "{addr}");
        }
        assert_eq!(map.nodes(), 0);
    }

    #[test]
    fn embedded_addresses_take_value_and_scope_along() {
        let map = build(&[("198.51.100.0/24".parse().unwrap(), 1)], 0);
        let hit = |addr: &str| map.lookup(addr.parse().unwrap());
        assert_eq!(hit("198.51.100.9"), Hit { value: 1, scope: 24 });
        assert_eq!(hit("::ffff:198.51.100.9"), Hit { value: 1, scope: 120 });
        assert_eq!(hit("64:ff9b::198.51.100.9"), Hit { value: 1, scope: 120 });
        assert_eq!(hit("2002:c633:6409::1"), Hit { value: 1, scope: 40 });
        // 198.51.100.9 inverted is 39cc:9bf6.
        assert_eq!(hit("2001:0:4136:e378:8000:63bf:39cc:9bf6"), Hit { value: 1, scope: 120 });
        assert_eq!(hit("2001:0:4136:e378:8000:63bf:b9cc:9bf6"), Hit { value: 0, scope: 97 });
        assert_eq!(embedded_v4("2001:db8::1".parse().unwrap()), None);
        // Its neighbour 2001:1:: is native again.
        assert_eq!(hit("2001:1::"), Hit { value: 0, scope: 32 });
    }

    #[test]
    fn special_blocks_are_whole() {
        let block = |addr: &str| special(addr.parse().unwrap()).map(|net| net.to_string());
        assert_eq!(block("10.200.1.1").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(block("172.31.0.1").as_deref(), Some("172.16.0.0/12"));
        assert_eq!(block("172.32.0.1"), None);
        assert_eq!(block("fd00::1").as_deref(), Some("fc00::/7"));
        assert_eq!(block("::1").as_deref(), Some("::1/128"));
        assert_eq!(block("::ffff:192.168.1.1").as_deref(), Some("192.168.0.0/16"));
        assert_eq!(block("2a00::1"), None);
        for (net, len) in SPECIAL {
            assert!(Prefix::new(net, len).is_ok());
        }
    }

    #[test]
    fn leaves_tile_the_space() {
        let pushed: Vec<(Prefix, u32)> = ["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "::/0"]
            .into_iter()
            .zip(1..)
            .map(|(net, value)| (net.parse().unwrap(), value))
            .collect();
        let map = build(&pushed, 0);
        let sum: f64 = map.leaves(Family::V4).map(|(net, _)| net.addresses()).sum();
        assert_eq!(sum, 2f64.powi(32));
        for (net, value) in map.leaves(Family::V4).chain(map.leaves(Family::V6)) {
            assert_eq!(map.lookup(net.addr()), Hit { value, scope: net.len() });
            assert_eq!(map.lookup(net.last()), Hit { value, scope: net.len() });
        }
    }

    #[test]
    fn sorted_input_is_merged_as_it_comes() {
        let mut builder = Builder::new(0);
        for block in 0..1u32 << 16 {
            let addr = Ipv4Addr::from_bits(block << 16);
            builder.push(Prefix::containing(addr.into(), 16), 3);
        }
        assert_eq!(builder.families[0].list.len(), 1);
        // What was merged is more specific than a late wide one.
        builder.push("0.0.0.0/0".parse().unwrap(), 9);
        let map = builder.finish();
        assert_eq!(map.lookup_v4(1), Hit { value: 3, scope: 0 });
    }
}
