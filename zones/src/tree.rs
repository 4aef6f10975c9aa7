//! The immutable label tree of a zone, and what a name in it answers.
//!
//! [`Zone::build`] checks records as a whole (see [`crate::check`]) and freezes them into nodes,
//! one per name, empty non-terminals included. [`Zone::lookup`] walks from the apex down, one hash
//! lookup per label, so that zone cuts, DNAMEs and the closest encloser are met in the order in
//! which RFC 1034 section 4.3.2 wants them; names below a cut or a DNAME are never reached.
//!
//! The query path cannot fail and does not allocate: whatever is odd in a zone (loops, endless
//! chains) ends in one of the outcomes of [`End`].
//!
//! Chains stay inside the zone. BIND goes on into other zones it serves, NSD, Knot and PowerDNS do
//! not, and a resolver asks for the target anyway.

use std::{fmt, hash::BuildHasher, sync::Arc};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use crate::{
    check::{self, Draft, Finding, Severity},
    name::{Name, NameBuf},
    record::{self, Record, RrSet, Rtype},
};

/// Aliases followed for one query. NSD and Knot stop near 20, BIND at 16 and below; a chain this
/// long is a mistake, and each link costs the client an answer of its own.
pub const CHAIN_MAX: usize = 16;

/// What a name is tailored with: which service decides, and for which types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The caller's number of the service.
    pub service: u32,
    /// Whether HTTPS records come from the service as well; else they are static like all others.
    pub https: bool,
}

impl Binding {
    /// Whether queries of this type are answered by the service.
    pub fn covers(self, rtype: Rtype) -> bool {
        matches!(rtype, Rtype::A | Rtype::AAAA) || (self.https && rtype == Rtype::HTTPS)
    }
}

/// Tailored names of one zone: absolute owner (`*` labels are wildcards) and its service.
pub type Bindings = std::collections::BTreeMap<Name, Binding>;

/// A zone that may not be served: everything that was found, errors and warnings.
#[derive(Clone, Debug)]
pub struct ZoneError {
    /// In the order of the file; at least one is an error.
    pub findings: Vec<Finding>,
}

impl fmt::Display for ZoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in
            self.findings.iter().filter(|finding| finding.severity() == Severity::Error).enumerate()
        {
            if index > 0 {
                f.write_str("\n")?;
            }
            finding.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ZoneError {}

/// One name of a zone.
#[derive(Debug)]
pub struct Node {
    /// In the case it was first written in.
    pub owner: Name,
    rrsets: Box<[RrSet]>,
    binding: Option<Binding>,
    /// An NS RRset away from the apex.
    cut: bool,
    dname: bool,
    /// Addresses of a cut's name servers that live at or below the apex.
    glue: Box<[Glue]>,
}

impl Node {
    /// The RRset of this type.
    pub fn rrset(&self, rtype: Rtype) -> Option<&RrSet> {
        self.rrsets.iter().find(|set| set.rtype == rtype)
    }

    /// All RRsets, by type.
    pub fn rrsets(&self) -> &[RrSet] {
        &self.rrsets
    }

    /// The service this name is bound to.
    pub fn binding(&self) -> Option<Binding> {
        self.binding
    }
}

/// One name server with addresses in this zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glue {
    node: u32,
    /// Whether it lies at or below the cut: then a referral without it is useless and a message
    /// that cannot hold it must say TC (RFC 9471 section 3.1).
    pub required: bool,
}

/// A step on the way to the end of an alias chain.
#[derive(Clone, Copy, Debug)]
pub enum Link<'z> {
    /// The current name has this CNAME; the chain goes on at its target.
    Cname(&'z RrSet),
    /// An ancestor of the current name has this DNAME: the CNAME from the current name to the
    /// target is to be synthesised, with the DNAME's TTL (RFC 6672 section 3.1).
    Dname {
        /// Owner of the DNAME.
        owner: &'z Name,
        /// The DNAME.
        rrset: &'z RrSet,
    },
}

/// Where a lookup ends.
#[derive(Clone, Copy, Debug)]
pub enum End<'z> {
    /// This RRset, with the current name as its owner.
    Answer(&'z RrSet),
    /// The name exists; type ANY was asked (RFC 8482: the caller picks what to show).
    Any(&'z Node),
    /// The service decides.
    Tailored(Binding, &'z Node),
    /// The name is at or below this cut.
    Referral(&'z Node),
    /// The name exists, the type does not.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// A DNAME's target makes the name too long (RFC 6672 section 2.2: YXDOMAIN). The DNAME has
    /// been handed out as a link.
    YxDomain,
    /// The chain left the zone, came back to a name it had passed, or reached [`CHAIN_MAX`]: the
    /// links are all there is to say.
    Chain,
}

/// One zone, immutable.
pub struct Zone {
    origin: Name,
    /// Lower-case wire octets of the origin, and its labels: asked for at every lookup.
    origin_lower: Box<[u8]>,
    origin_labels: usize,
    nodes: Vec<Node>,
    children: Children,
    negative_ttl: u32,
    serial: u32,
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zone").field("origin", &self.origin).field("names", &self.nodes.len()).finish()
    }
}

/// Index of the apex in `Zone::nodes`.
const APEX: u32 = 0;

impl Zone {
    /// Checks the records of a zone as a whole and freezes them.
    ///
    /// Returns the zone and the warnings.
    ///
    /// # Errors
    /// [`ZoneError`] with everything found, if one finding at least is an error.
    pub fn build(
        origin: Name,
        records: Vec<Record>,
        bindings: &Bindings,
    ) -> Result<(Self, Vec<Finding>), ZoneError> {
        let (draft, findings) = check::gather(&origin, records, bindings);
        if findings.iter().any(|finding| finding.severity() == Severity::Error) {
            return Err(ZoneError { findings });
        }
        Ok((Self::freeze(origin, draft, bindings), findings))
    }

    fn freeze(origin: Name, draft: Draft, bindings: &Bindings) -> Self {
        let mut zone = Self {
            nodes: vec![Node::empty(origin.clone())],
            origin_lower: origin.to_lower().wire().into(),
            origin_labels: origin.labels().count(),
            origin,
            children: Children::default(),
            negative_ttl: 0,
            serial: 0,
        };
        for (owner, sets) in draft {
            let index = zone.plant(&owner);
            let is_apex = index == APEX;
            let node = &mut zone.nodes[index as usize];
            node.owner = owner;
            node.rrsets = sets
                .into_iter()
                .map(|(rtype, set)| RrSet::new(rtype, set.ttl, set.data.iter().map(|(data, _)| &**data)))
                .collect();
            node.cut = !is_apex && node.rrset(Rtype::NS).is_some();
            node.dname = node.rrset(Rtype::DNAME).is_some();
        }
        for (owner, binding) in bindings {
            let index = zone.plant(owner);
            zone.nodes[index as usize].binding = Some(*binding);
        }
        let (negative_ttl, serial) = match zone.nodes[0].rrset(Rtype::SOA) {
            Some(soa) => soa_times(soa),
            None => (0, 0),
        };
        zone.negative_ttl = negative_ttl;
        zone.serial = serial;
        for index in 0..zone.nodes.len() {
            zone.nodes[index].glue = zone.glue_of(index);
        }
        zone
    }

    /// The node of `owner`, made with all nodes above it if it is new.
    fn plant(&mut self, owner: &Name) -> u32 {
        let key = NameBuf::from(owner);
        let mut node = APEX;
        for depth in (0..key.label_count().saturating_sub(self.origin_labels)).rev() {
            let label = key.label(depth);
            node = match self.children.find(node, label) {
                Some(child) => child,
                None => {
                    let child = self.nodes.len() as u32;
                    let mut name = owner.clone();
                    for _ in 0..depth {
                        name = name.parent().unwrap_or(name);
                    }
                    self.nodes.push(Node::empty(name));
                    self.children.insert(node, label, child);
                    child
                }
            };
        }
        node
    }

    fn glue_of(&self, index: usize) -> Box<[Glue]> {
        let node = &self.nodes[index];
        if !node.cut {
            return Box::default();
        }
        let mut glue: Vec<Glue> = Vec::new();
        for rdata in node.rrset(Rtype::NS).into_iter().flatten() {
            let Some(server) = record::target(Rtype::NS, rdata) else { continue };
            let Some(found) = self.exact(&server) else { continue };
            let host = &self.nodes[found as usize];
            if host.rrset(Rtype::A).is_none() && host.rrset(Rtype::AAAA).is_none() {
                continue;
            }
            let required = server.is_subdomain_of(&node.owner);
            glue.push(Glue { node: found, required });
        }
        // What the client cannot do without comes first: it is written while there is room.
        glue.sort_by_key(|glue| !glue.required);
        glue.into()
    }

    fn exact(&self, name: &Name) -> Option<u32> {
        if !name.is_subdomain_of(&self.origin) {
            return None;
        }
        let key = NameBuf::from(name);
        (0..key.label_count() - self.origin_labels)
            .rev()
            .try_fold(APEX, |node, depth| self.children.find(node, key.label(depth)))
    }

    /// The zone's name.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// The node at the origin.
    pub fn apex(&self) -> &Node {
        &self.nodes[0]
    }

    /// TTL of negative answers: the smaller of the SOA's TTL and its minimum (RFC 2308 section 5).
    pub fn negative_ttl(&self) -> u32 {
        self.negative_ttl
    }

    /// Serial of the SOA.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Every name of the zone, in no particular order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that holds a glue address.
    pub fn glue_node(&self, glue: Glue) -> &Node {
        &self.nodes[glue.node as usize]
    }

    /// The glue of a cut: servers at or below it first.
    pub fn glue<'z>(&'z self, cut: &'z Node) -> &'z [Glue] {
        &cut.glue
    }

    /// Answers `name`, which is at or below the origin.
    ///
    /// Every alias on the way is handed to `link` in order, with the name it leads to; on return
    /// `name` holds the name the outcome is about.
    pub fn lookup<'z>(
        &'z self,
        name: &mut NameBuf,
        rtype: Rtype,
        mut link: impl FnMut(Link<'z>, &NameBuf),
    ) -> End<'z> {
        let mut passed = Passed::default();
        loop {
            let alias = match self.step(name, rtype) {
                Step::End(end) => return end,
                Step::Cname(set) => Link::Cname(set),
                Step::Dname(node, set) => Link::Dname { owner: &node.owner, rrset: set },
            };
            passed.add(name);
            let (set, kept) = match alias {
                Link::Cname(set) => (set, 0),
                Link::Dname { owner, rrset } => (rrset, name.label_count() - owner.labels().count()),
            };
            let fits = name.substitute(kept, set.first()).is_ok();
            link(alias, name);
            if !fits {
                return End::YxDomain;
            }
            if !self.holds(name) || passed.is_full() || passed.has(name) {
                return End::Chain;
            }
        }
    }

    fn holds(&self, name: &NameBuf) -> bool {
        name.label_count()
            .checked_sub(self.origin_labels)
            .is_some_and(|depth| name.suffix(depth) == &*self.origin_lower)
    }

    fn step<'z>(&'z self, name: &NameBuf, rtype: Rtype) -> Step<'z> {
        let mut node = &self.nodes[0];
        let mut index = APEX;
        let below = name.label_count().saturating_sub(self.origin_labels);
        for depth in (0..below).rev() {
            if node.cut {
                return Step::End(End::Referral(node));
            }
            if node.dname
                && let Some(set) = node.rrset(Rtype::DNAME)
            {
                return Step::Dname(node, set);
            }
            match self.children.find(index, name.label(depth)) {
                Some(child) => index = child,
                None => return self.wildcard(index, rtype),
            }
            node = &self.nodes[index as usize];
        }
        // The parent side of a cut owns DS and nothing else (RFC 4035 section 3.1.4.1).
        if node.cut && rtype != Rtype::DS {
            return Step::End(End::Referral(node));
        }
        node.answer(rtype)
    }

    /// RFC 4592 section 3.3: only the wildcard directly below the closest encloser counts.
    fn wildcard(&self, closest_encloser: u32, rtype: Rtype) -> Step<'_> {
        match self.children.find(closest_encloser, b"*") {
            Some(source) => self.nodes[source as usize].answer(rtype),
            None => Step::End(End::NxDomain),
        }
    }
}

enum Step<'z> {
    End(End<'z>),
    Cname(&'z RrSet),
    Dname(&'z Node, &'z RrSet),
}

impl Node {
    fn empty(owner: Name) -> Self {
        Self { owner, rrsets: Box::default(), binding: None, cut: false, dname: false, glue: Box::default() }
    }

    fn answer(&self, rtype: Rtype) -> Step<'_> {
        if let Some(binding) = self.binding
            && binding.covers(rtype)
        {
            return Step::End(End::Tailored(binding, self));
        }
        if rtype == Rtype::ANY && (!self.rrsets.is_empty() || self.binding.is_some()) {
            return Step::End(End::Any(self));
        }
        if let Some(set) = self.rrset(rtype) {
            return Step::End(End::Answer(set));
        }
        match self.rrset(Rtype::CNAME) {
            Some(set) => Step::Cname(set),
            None => Step::End(End::NoData),
        }
    }
}

fn soa_times(soa: &RrSet) -> (u32, u32) {
    // Five 32-bit fields end the data: serial, refresh, retry, expire, minimum (RFC 1035 3.3.13).
    let field = |from_end: usize| {
        let data = soa.first();
        data.len()
            .checked_sub(from_end)
            .and_then(|start| data[start..].first_chunk::<4>())
            .map_or(0, |octets| u32::from_be_bytes(*octets))
    };
    (soa.ttl.min(field(4)), field(20))
}

/// Names a chain has passed, as hashes: two names that share one of 64 bits would end a chain a
/// link early, which harms nobody; that every loop is seen is what counts.
#[derive(Default)]
struct Passed {
    hashes: [u64; CHAIN_MAX],
    count: usize,
}

impl Passed {
    fn hash(name: &NameBuf) -> u64 {
        // FNV-1a: no state to set up, and names here are short.
        name.wire().iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    fn add(&mut self, name: &NameBuf) {
        if let Some(slot) = self.hashes.get_mut(self.count) {
            *slot = Self::hash(name);
            self.count += 1;
        }
    }

    fn has(&self, name: &NameBuf) -> bool {
        self.hashes[..self.count].contains(&Self::hash(name))
    }

    fn is_full(&self) -> bool {
        self.count == CHAIN_MAX
    }
}

/// (parent, lower-case label) → child, for the whole zone in one table.
#[derive(Default)]
struct Children {
    table: HashTable<Child>,
    hasher: DefaultHashBuilder,
}

struct Child {
    parent: u32,
    index: u32,
    label: Box<[u8]>,
}

impl Children {
    fn find(&self, parent: u32, label: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((parent, label));
        self.table
            .find(hash, |child| child.parent == parent && *child.label == *label)
            .map(|child| child.index)
    }

    fn insert(&mut self, parent: u32, label: &[u8], index: u32) {
        let hash = self.hasher.hash_one((parent, label));
        let hasher = &self.hasher;
        self.table.insert_unique(hash, Child { parent, index, label: label.into() }, |child| {
            hasher.hash_one((child.parent, &*child.label))
        });
    }
}

/// The zones of a server.
#[derive(Clone, Debug, Default)]
pub struct Zones {
    by_origin: HashMap<Box<[u8]>, Arc<Zone>>,
    /// Labels of the deepest origin: longer names need not be tried whole.
    labels_max: usize,
}

impl Zones {
    /// A set; of zones with the same origin the last stays.
    pub fn new(zones: impl IntoIterator<Item = Arc<Zone>>) -> Self {
        let mut set = Self::default();
        for zone in zones {
            set.labels_max = set.labels_max.max(zone.origin.labels().count());
            set.by_origin.insert(zone.origin.to_lower().wire().into(), zone);
        }
        set
    }

    /// The deepest zone at or above `name` that answers for `rtype`: DS at an apex is the
    /// business of the zone above, if that is served here too (RFC 4035 section 3.1.4.1).
    pub fn find(&self, name: &NameBuf, rtype: Rtype) -> Option<&Arc<Zone>> {
        let labels = name.label_count();
        let mut own_apex = None;
        for index in labels.saturating_sub(self.labels_max)..=labels {
            let Some(zone) = self.by_origin.get(name.suffix(index)) else { continue };
            if rtype == Rtype::DS && index == 0 && labels > 0 {
                own_apex = Some(zone);
                continue;
            }
            return Some(zone);
        }
        own_apex
    }

    /// The zone of exactly this origin.
    pub fn by_origin(&self, origin: &Name) -> Option<&Arc<Zone>> {
        self.by_origin.get(origin.to_lower().wire())
    }

    /// Every zone.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Zone>> {
        self.by_origin.values()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.by_origin.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_origin.is_empty()
    }
}
