//! Runs of addresses with a record number: what every source of geography is read as.
//!
//! Keys are left-aligned for both families (see [`crate::prefix`]), so that one arithmetic serves
//! both. A source yields its ranges in order, IPv4 first, without overlaps.

use crate::prefix::{Family, Prefix, mask};

/// Addresses `first..=last` of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) family: Family,
    pub(crate) first: u128,
    /// All bits behind the family's are set.
    pub(crate) last: u128,
    pub(crate) record: u32,
}

impl Range {
    pub(crate) fn of(prefix: Prefix, record: u32) -> Self {
        let first = prefix.key();
        Self { family: prefix.family(), first, last: first | !mask(prefix.len()), record }
    }
}

/// Makes nested networks a sequence of ranges without overlaps.
///
/// Inside a network that lies in another one, the record is `combine(outer, inner)`; of equal
/// networks the later counts as the inner one.
pub(crate) fn flatten(
    networks: impl IntoIterator<Item = (Prefix, u32)>,
    combine: impl Fn(u32, u32) -> u32,
) -> Vec<Range> {
    let mut sorted: Vec<(Prefix, u32)> = networks.into_iter().collect();
    sorted.sort_by_key(|&(prefix, _)| prefix);
    let mut flattened = Flattened { flat: Vec::with_capacity(sorted.len() * 2), at: Some(0) };
    // Networks around the current position, innermost last.
    let mut around: Vec<Range> = Vec::new();
    for (prefix, record) in sorted {
        let mut range = Range::of(prefix, record);
        while let Some(outer) = around.last().copied() {
            if outer.family == range.family && outer.last >= range.first {
                range.record = combine(outer.record, record);
                flattened.emit_until(outer, range.first.checked_sub(1));
                break;
            }
            flattened.emit_until(outer, Some(outer.last));
            around.pop();
        }
        flattened.at = Some(range.first);
        around.push(range);
    }
    while let Some(inner) = around.pop() {
        flattened.emit_until(inner, Some(inner.last));
    }
    flattened.flat
}

struct Flattened {
    flat: Vec<Range>,
    /// Everything before is done; `None` behind the last address of a family.
    at: Option<u128>,
}

impl Flattened {
    /// Emits what a network still has from here up to `last`, if anything.
    fn emit_until(&mut self, network: Range, last: Option<u128>) {
        if let (Some(first), Some(last)) = (self.at, last)
            && first <= last
        {
            self.flat.push(Range { first, last, ..network });
            self.at = last.checked_add(1);
        }
    }
}

/// Splits `first..=last` into prefixes, largest first where alignment allows.
pub(crate) fn cover(family: Family, first: u128, last: u128, mut emit: impl FnMut(Prefix)) {
    let mut at = first;
    loop {
        // At most as large as the address is aligned, and as what is left.
        let left = (last - at).checked_add(1);
        let bits = left.map_or(128, |size| 127 - size.leading_zeros()).min(at.trailing_zeros());
        emit(Prefix::from_key(family, at, (128 - bits) as u8));
        let step = 1u128.checked_shl(bits);
        match step.and_then(|step| at.checked_add(step)) {
            Some(next) if next <= last => at = next,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn shown(ranges: &[Range]) -> Vec<String> {
        let mut shown = Vec::new();
        for range in ranges {
            cover(range.family, range.first, range.last, |net| {
                shown.push(format!("{net}={}", range.record));
            });
        }
        shown
    }

    #[test]
    fn inner_networks_interrupt_outer_ones() {
        let nets = [("10.0.0.0/8", 1), ("10.0.0.0/10", 2), ("10.128.0.0/9", 3), ("::/0", 4)];
        let flat = flatten(nets.map(|(net, record)| (prefix(net), record)), |_, inner| inner);
        assert_eq!(shown(&flat), ["10.0.0.0/10=2", "10.64.0.0/10=1", "10.128.0.0/9=3", "::/0=4"]);
    }

    proptest! {
        #[test]
        fn flattened_is_what_the_longest_says(
            nets in prop::collection::vec((0u8..=8, any::<u8>()), 0..16),
            smallest in any::<bool>(),
        ) {
            let nets: Vec<(Prefix, u32)> = nets.iter().zip(0..).map(|(&(len, bits), record)| {
                (Prefix::containing(std::net::Ipv4Addr::new(bits, 0, 0, 0).into(), len), record)
            }).collect();
            let flat = flatten(nets.clone(), |outer, inner| if smallest { outer.min(inner) } else { inner });
            for pair in flat.windows(2) {
                prop_assert!(pair[0].last < pair[1].first);
            }
            for bits in 0..=255u8 {
                let addr = std::net::Ipv4Addr::new(bits, 1, 2, 3).into();
                let around = nets.iter().filter(|(net, _)| net.contains(addr));
                let expected = if smallest {
                    around.map(|&(_, record)| record).min()
                } else {
                    around.max_by_key(|(net, _)| net.len()).map(|&(_, record)| record)
                };
                let key = crate::prefix::key_of(addr);
                let found = flat.iter().find(|r| r.first <= key && key <= r.last).map(|r| r.record);
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn covers_exactly(first in any::<u128>(), size in any::<u128>(), shift in 0u32..128) {
            let last = first.saturating_add(size >> shift);
            let mut next = Some(first);
            cover(Family::V6, first, last, |net| {
                assert_eq!(Some(net.key()), next);
                next = (net.key() | !mask(net.len())).checked_add(1);
            });
            prop_assert_eq!(next, last.checked_add(1));
        }
    }
}
