//! Whole-zone rules: what a set of records must be to be a zone.
//!
//! [`gather`] sorts records into RRsets and looks at the whole; it repairs nothing silently. What
//! would make the zone answer wrongly is an error and keeps it from being served; what is only
//! unwise is a warning. The lookup stays correct for every zone with warnings alone: names below a
//! cut or a DNAME are simply never reached.

use std::{collections::BTreeMap, fmt};

use crate::{
    name::Name,
    record::{self, Place, Record, Rtype},
    tree::Bindings,
};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The zone is served as the rule says.
    Warning,
    /// The zone is not served.
    Error,
}

/// Something about a zone that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where the record stands; `None` if it is about what is missing or about a tailored name.
    pub place: Option<Place>,
    /// What it is.
    pub rule: Rule,
}

impl Finding {
    /// How bad.
    pub fn severity(&self) -> Severity {
        self.rule.severity()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.rule),
            None => self.rule.fmt(f),
        }
    }
}

/// The rules, each with the name it is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant means")]
pub enum Rule {
    #[error("zone {0}: no SOA record at the apex; expected exactly one")]
    NoSoa(Name),
    #[error("{0}: a second SOA record; a zone has exactly one")]
    ManySoa(Name),
    #[error("{0}: a SOA record below the apex; it belongs to the zone's own name only")]
    SoaBelowApex(Name),
    #[error("zone {0}: no NS record at the apex; expected at least one")]
    NoNs(Name),
    #[error("{owner} is outside the zone {zone}; expected a name at or below it (is a final dot too many?)")]
    OutOfZone { owner: Name, zone: Name },
    #[error("{owner} {rtype}: a CNAME cannot stand beside other data (RFC 1034 section 3.6.2)")]
    CnameAndOther { owner: Name, rtype: Rtype },
    #[error("{0}: a second CNAME; a name is an alias of one other name")]
    ManyCname(Name),
    #[error("{0}: a second DNAME (RFC 6672 section 2.4)")]
    ManyDname(Name),
    #[error("{owner}: type {rtype} is for questions, not for data")]
    MetaType { owner: Name, rtype: Rtype },
    #[error("{0} is tailored and has a static {1} record; remove one of the two")]
    TailoredAndStatic(Name, Rtype),
    #[error("{0} is tailored and a CNAME; remove one of the two")]
    TailoredCname(Name),
    #[error("tailored name {name} is outside the zone {zone}")]
    TailoredOutOfZone { name: Name, zone: Name },
    #[error("tailored name {name} is not reached: {above} above it is delegated or a DNAME")]
    TailoredOccluded { name: Name, above: Name },
    #[error(
        "{owner} {rtype}: TTL {read} differs from {kept} of the same RRset; {kept} is used for all (RFC 2181 section 5.2)"
    )]
    TtlDiffers { owner: Name, rtype: Rtype, read: u32, kept: u32 },
    #[error("{owner} {rtype}: the same record again; dropped")]
    Duplicate { owner: Name, rtype: Rtype },
    #[error(
        "{owner} is not reached: {above} above it is delegated; only addresses of its name servers belong here"
    )]
    BelowCut { owner: Name, above: Name },
    #[error("{owner} is not reached: {above} above it is a DNAME (RFC 6672 section 2.4)")]
    BelowDname { owner: Name, above: Name },
    #[error(
        "{owner}: name server {server} lies inside this zone and has no address; delegation cannot work without"
    )]
    MissingGlue { owner: Name, server: Name },
    #[error("{owner} {rtype}: {target} is a CNAME; expected a name with addresses (RFC 2181 section 10.3)")]
    TargetIsCname { owner: Name, rtype: Rtype, target: Name },
    #[error("{owner} {rtype}: {target} lies inside this zone and has no address")]
    TargetWithoutAddress { owner: Name, rtype: Rtype, target: Name },
    #[error("{owner}: {rtype} at a wildcard has no defined meaning (RFC 4592 sections 4.2 and 4.4)")]
    OddWildcard { owner: Name, rtype: Rtype },
    #[error("{owner}: {rtype} beside a delegation is not reached; it belongs to the zone below")]
    BesideCut { owner: Name, rtype: Rtype },
}

impl Rule {
    /// How bad.
    pub fn severity(&self) -> Severity {
        match self {
            Self::NoSoa(_)
            | Self::ManySoa(_)
            | Self::SoaBelowApex(_)
            | Self::NoNs(_)
            | Self::OutOfZone { .. }
            | Self::CnameAndOther { .. }
            | Self::ManyCname(_)
            | Self::ManyDname(_)
            | Self::MetaType { .. }
            | Self::TailoredAndStatic(..)
            | Self::TailoredCname(_)
            | Self::TailoredOutOfZone { .. }
            | Self::TailoredOccluded { .. } => Severity::Error,
            Self::TtlDiffers { .. }
            | Self::Duplicate { .. }
            | Self::BelowCut { .. }
            | Self::BelowDname { .. }
            | Self::MissingGlue { .. }
            | Self::TargetIsCname { .. }
            | Self::TargetWithoutAddress { .. }
            | Self::OddWildcard { .. }
            | Self::BesideCut { .. } => Severity::Warning,
        }
    }
}

/// Records of a zone by owner and type, before it is frozen.
pub type Draft = BTreeMap<Name, BTreeMap<Rtype, DraftSet>>;

/// One RRset, with the place of each item.
#[derive(Clone, Debug)]
pub struct DraftSet {
    /// The smallest TTL read.
    pub ttl: u32,
    /// Distinct data in the order of the file.
    pub data: Vec<(Box<[u8]>, Place)>,
}

/// Sorts records into RRsets and applies every rule.
pub fn gather(origin: &Name, records: Vec<Record>, bindings: &Bindings) -> (Draft, Vec<Finding>) {
    let mut checks = Checks { origin, draft: Draft::new(), findings: Vec::new() };
    for record in records {
        checks.admit(record);
    }
    checks.apex();
    let owners: Vec<Name> = checks.draft.keys().cloned().collect();
    for owner in &owners {
        checks.single(owner);
        checks.occlusion(owner);
        checks.targets(owner);
    }
    for (name, binding) in bindings {
        checks.tailored(name, *binding);
    }
    checks.findings.sort_by(|a, b| a.place.cmp(&b.place));
    (checks.draft, checks.findings)
}

struct Checks<'a> {
    origin: &'a Name,
    draft: Draft,
    findings: Vec<Finding>,
}

impl Checks<'_> {
    fn find(&mut self, place: Option<Place>, rule: Rule) {
        self.findings.push(Finding { place, rule });
    }

    fn admit(&mut self, record: Record) {
        let Record { owner, rtype, ttl, rdata, place } = record;
        if !owner.is_subdomain_of(self.origin) {
            let zone = self.origin.clone();
            return self.find(Some(place), Rule::OutOfZone { owner, zone });
        }
        if rtype.is_meta() {
            return self.find(Some(place), Rule::MetaType { owner, rtype });
        }
        let sets = self.draft.entry(owner.clone()).or_default();
        let set = sets.entry(rtype).or_insert_with(|| DraftSet { ttl, data: Vec::new() });
        // Signatures of different RRsets share a name and a type, and each has its own TTL.
        let differs = set.ttl != ttl && rtype != Rtype::RRSIG;
        let before = set.ttl;
        set.ttl = set.ttl.min(ttl);
        let kept = set.ttl;
        let duplicate = set.data.iter().any(|(data, _)| same_data(rtype, data, &rdata));
        if !duplicate {
            set.data.push((rdata, place.clone()));
        }
        if differs {
            let read = ttl.max(before);
            self.find(Some(place.clone()), Rule::TtlDiffers { owner: owner.clone(), rtype, read, kept });
        }
        if duplicate {
            self.find(Some(place), Rule::Duplicate { owner, rtype });
        }
    }

    fn set(&self, owner: &Name, rtype: Rtype) -> Option<&DraftSet> {
        self.draft.get(owner)?.get(&rtype)
    }

    fn place(&self, owner: &Name, rtype: Rtype, item: usize) -> Option<Place> {
        Some(self.set(owner, rtype)?.data.get(item)?.1.clone())
    }

    fn apex(&mut self) {
        let origin = self.origin.clone();
        match self.set(&origin, Rtype::SOA).map(|set| set.data.len()) {
            None => self.find(None, Rule::NoSoa(origin.clone())),
            Some(1) => {}
            Some(_) => {
                let place = self.place(&origin, Rtype::SOA, 1);
                self.find(place, Rule::ManySoa(origin.clone()));
            }
        }
        if self.set(&origin, Rtype::NS).is_none() {
            self.find(None, Rule::NoNs(origin));
        }
    }

    /// Rules about one name by itself.
    fn single(&mut self, owner: &Name) {
        let types: Vec<Rtype> = self.draft[owner].keys().copied().collect();
        let has = |rtype| types.contains(&rtype);
        let is_apex = owner == self.origin;
        if !is_apex && has(Rtype::SOA) {
            self.find(self.place(owner, Rtype::SOA, 0), Rule::SoaBelowApex(owner.clone()));
        }
        if has(Rtype::CNAME) {
            // The records of DNSSEC may stand beside a CNAME (RFC 4034 section 3, RFC 4035 section 2.5).
            for &rtype in types.iter().filter(|t| !matches!(**t, Rtype::CNAME | Rtype::RRSIG | Rtype::NSEC)) {
                let rule = Rule::CnameAndOther { owner: owner.clone(), rtype };
                self.find(self.place(owner, rtype, 0), rule);
            }
        }
        for (rtype, rule) in
            [(Rtype::CNAME, Rule::ManyCname(owner.clone())), (Rtype::DNAME, Rule::ManyDname(owner.clone()))]
        {
            if let Some(place) = self.place(owner, rtype, 1) {
                self.find(Some(place), rule);
            }
        }
        if owner.is_wildcard() {
            for rtype in [Rtype::NS, Rtype::DNAME].into_iter().filter(|t| has(*t)) {
                let rule = Rule::OddWildcard { owner: owner.clone(), rtype };
                self.find(self.place(owner, rtype, 0), rule);
            }
        }
        if !is_apex && has(Rtype::NS) {
            // Addresses here are glue; DS and denial belong to the parent side.
            let fit = [Rtype::NS, Rtype::DS, Rtype::A, Rtype::AAAA, Rtype::RRSIG, Rtype::NSEC];
            for &rtype in types.iter().filter(|t| !fit.contains(t)) {
                let rule = Rule::BesideCut { owner: owner.clone(), rtype };
                self.find(self.place(owner, rtype, 0), rule);
            }
        }
    }

    /// The highest cut or DNAME strictly above `name`, and which of the two.
    fn barrier(&self, name: &Name) -> Option<(Name, Rtype)> {
        let mut found = None;
        let mut above = name.parent();
        while let Some(ancestor) = above.filter(|ancestor| ancestor.is_subdomain_of(self.origin)) {
            if ancestor != *self.origin && self.set(&ancestor, Rtype::NS).is_some() {
                found = Some((ancestor.clone(), Rtype::NS));
            } else if self.set(&ancestor, Rtype::DNAME).is_some() {
                found = Some((ancestor.clone(), Rtype::DNAME));
            }
            above = ancestor.parent();
        }
        found
    }

    fn occlusion(&mut self, owner: &Name) {
        let Some((above, kind)) = self.barrier(owner) else { return };
        let Some((&rtype, _)) = self.draft[owner]
            .iter()
            .find(|(rtype, _)| kind == Rtype::DNAME || !matches!(**rtype, Rtype::A | Rtype::AAAA))
        else {
            return;
        };
        let owner_name = owner.clone();
        let rule = match kind {
            Rtype::NS => Rule::BelowCut { owner: owner_name, above },
            _ => Rule::BelowDname { owner: owner_name, above },
        };
        self.find(self.place(owner, rtype, 0), rule);
    }

    /// Rules about the hosts that NS and MX records name.
    fn targets(&mut self, owner: &Name) {
        if self.barrier(owner).is_some() {
            return;
        }
        let is_cut = owner != self.origin && self.set(owner, Rtype::NS).is_some();
        for rtype in [Rtype::NS, Rtype::MX] {
            let items = self.set(owner, rtype).map(|set| set.data.clone()).unwrap_or_default();
            for (data, place) in items {
                let Some(target) = record::target(rtype, &data).filter(|t| !t.is_root()) else { continue };
                if !target.is_subdomain_of(self.origin) {
                    continue;
                }
                let owner = owner.clone();
                if self.set(&target, Rtype::CNAME).is_some() {
                    self.find(Some(place), Rule::TargetIsCname { owner, rtype, target });
                } else if self.has_address(&target) {
                } else if rtype == Rtype::NS && is_cut && target.is_subdomain_of(&owner) {
                    self.find(Some(place), Rule::MissingGlue { owner, server: target });
                } else if self.barrier(&target).is_none() {
                    self.find(Some(place), Rule::TargetWithoutAddress { owner, rtype, target });
                }
            }
        }
    }

    /// Whether the zone has an address for this name, a wildcard's included.
    fn has_address(&self, name: &Name) -> bool {
        let addressed =
            |name: &Name| self.set(name, Rtype::A).is_some() || self.set(name, Rtype::AAAA).is_some();
        if addressed(name) {
            return true;
        }
        let mut above = name.parent();
        while let Some(ancestor) = above.filter(|ancestor| ancestor.is_subdomain_of(self.origin)) {
            if Name::parse(b"*", Some(&ancestor)).is_ok_and(|wildcard| addressed(&wildcard)) {
                return true;
            }
            above = ancestor.parent();
        }
        false
    }

    fn tailored(&mut self, name: &Name, binding: crate::tree::Binding) {
        if !name.is_subdomain_of(self.origin) {
            let zone = self.origin.clone();
            return self.find(None, Rule::TailoredOutOfZone { name: name.clone(), zone });
        }
        if let Some((above, _)) = self.barrier(name) {
            return self.find(None, Rule::TailoredOccluded { name: name.clone(), above });
        }
        if name != self.origin && self.set(name, Rtype::NS).is_some() {
            let above = name.clone();
            return self.find(None, Rule::TailoredOccluded { name: name.clone(), above });
        }
        for rtype in [Rtype::A, Rtype::AAAA, Rtype::HTTPS].into_iter().filter(|t| binding.covers(*t)) {
            if let Some(place) = self.place(name, rtype, 0) {
                self.find(Some(place), Rule::TailoredAndStatic(name.clone(), rtype));
            }
        }
        if let Some(place) = self.place(name, Rtype::CNAME, 0) {
            self.find(Some(place), Rule::TailoredCname(name.clone()));
        }
    }
}

/// Whether two items of one type are the same record: names inside compare without case.
fn same_data(rtype: Rtype, a: &[u8], b: &[u8]) -> bool {
    let plain = match rtype {
        Rtype::NS | Rtype::CNAME | Rtype::DNAME | Rtype::PTR => 0,
        Rtype::MX => 2,
        Rtype::SRV => 6,
        _ => return a == b,
    };
    match (a.split_at_checked(plain), b.split_at_checked(plain)) {
        (Some((a, a_name)), Some((b, b_name))) => a == b && a_name.eq_ignore_ascii_case(b_name),
        _ => a == b,
    }
}
