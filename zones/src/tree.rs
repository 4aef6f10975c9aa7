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
    /// The chain left the zone, came back to a name it had passed, reached [`CHAIN_MAX`] or was
    /// itself asked for: the links are all there is to say.
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
    /// Every alias on the way is handed to `link` in order, with the name it leads to (`None` if
    /// that would be too long, which ends in [`End::YxDomain`]); on return `name` holds the name the
    /// outcome is about.
    pub fn lookup<'z>(
        &'z self,
        name: &mut NameBuf,
        rtype: Rtype,
        mut link: impl FnMut(Link<'z>, Option<&NameBuf>),
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
            link(alias, fits.then_some(&*name));
            if !fits {
                return End::YxDomain;
            }
            // A synthesised CNAME is what a question for CNAME was after; NSD, Knot and BIND stop here.
            let answered = rtype == Rtype::CNAME;
            if answered || !self.holds(name) || passed.is_full() || passed.has(name) {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{check::Rule, master};

    const ZONE: &str = r#"
$TTL 300
@            SOA ns1 hostmaster 7 3600 900 604800 60
             NS  ns1
             NS  ns.example.org.
ns1          A   192.0.2.53
www          A   192.0.2.1
             AAAA 2001:db8::1
             TXT "hello"
alias        CNAME www
chain        CNAME alias
out          CNAME www.example.org.
lost         CNAME nowhere
loop1        CNAME loop2
loop2        CNAME loop1
self         CNAME self
deep.ent     A   192.0.2.2
*.wild       A   192.0.2.3
             TXT "wild"
blocked.wild TXT "no address"
a.ent.wild   A   192.0.2.4
*.wc         CNAME www
*.self       CNAME x.self
sub          NS  ns.sub
             NS  ns1
             DS  1 13 2 000102
ns.sub       A   192.0.2.54
below.sub    A   192.0.2.99
tosub        CNAME host.sub
old          DNAME new
             TXT "at the dname"
x.new        A   192.0.2.5
y.new        CNAME www
todname      CNAME x.old
dloop        DNAME dloop
"#;

    fn zone_of(text: &str, bindings: &Bindings) -> Result<(Zone, Vec<Finding>), ZoneError> {
        let origin: Name = "cdn.test".parse().unwrap();
        let loaded =
            master::read(Path::new("t.zone"), &origin, &mut |_| Ok(text.as_bytes().to_vec())).unwrap();
        Zone::build(origin, loaded.records, bindings)
    }

    fn bindings(names: &[&str]) -> Bindings {
        let binding = Binding { service: 3, https: true };
        names.iter().map(|name| (name.parse().unwrap(), binding)).collect()
    }

    /// What a lookup gives, in words: links, then the end.
    fn ask(zone: &Zone, name: &str, rtype: Rtype) -> String {
        let mut buffer = NameBuf::from(&name.parse::<Name>().unwrap());
        let mut said = String::new();
        let end = zone.lookup(&mut buffer, rtype, |link, target| {
            let kind = match link {
                Link::Cname(_) => "cname".to_string(),
                Link::Dname { owner, .. } => format!("dname({owner})"),
            };
            let target = target.map_or("-".into(), ToString::to_string);
            said.push_str(&format!("{kind} {target} "));
        });
        said.push_str(&match end {
            End::Answer(set) => format!("answer {} {}", set.rtype, set.len()),
            End::Any(node) => format!("any {}", node.owner),
            End::Tailored(binding, node) => format!("tailored {} {}", binding.service, node.owner),
            End::Referral(cut) => format!("referral {} glue {}", cut.owner, zone.glue(cut).len()),
            End::NoData => "nodata".into(),
            End::NxDomain => "nxdomain".into(),
            End::YxDomain => "yxdomain".into(),
            End::Chain => "chain".into(),
        });
        said
    }

    #[test]
    fn answers_by_rfc_1034_and_4592() {
        let (zone, _) = zone_of(ZONE, &Bindings::new()).unwrap();
        for (name, rtype, expected) in [
            ("www.cdn.test", Rtype::A, "answer A 1"),
            ("www.cdn.test", Rtype::MX, "nodata"),
            ("WWW.Cdn.TEST", Rtype::AAAA, "answer AAAA 1"),
            ("cdn.test", Rtype::NS, "answer NS 2"),
            ("cdn.test", Rtype::DS, "nodata"),
            ("www.cdn.test", Rtype::ANY, "any www.cdn.test."),
            ("no.cdn.test", Rtype::A, "nxdomain"),
            ("a.www.cdn.test", Rtype::A, "nxdomain"),
            ("ent.cdn.test", Rtype::A, "nodata"),
            ("ent.cdn.test", Rtype::ANY, "nodata"),
            ("x.ent.cdn.test", Rtype::A, "nxdomain"),
            ("alias.cdn.test", Rtype::A, "cname www.cdn.test. answer A 1"),
            ("alias.cdn.test", Rtype::CNAME, "answer CNAME 1"),
            ("alias.cdn.test", Rtype::ANY, "any alias.cdn.test."),
            ("chain.cdn.test", Rtype::TXT, "cname alias.cdn.test. cname www.cdn.test. answer TXT 1"),
            ("chain.cdn.test", Rtype::MX, "cname alias.cdn.test. cname www.cdn.test. nodata"),
            ("out.cdn.test", Rtype::A, "cname www.example.org. chain"),
            ("lost.cdn.test", Rtype::A, "cname nowhere.cdn.test. nxdomain"),
            ("loop1.cdn.test", Rtype::A, "cname loop2.cdn.test. cname loop1.cdn.test. chain"),
            ("self.cdn.test", Rtype::A, "cname self.cdn.test. chain"),
        ] {
            assert_eq!(ask(&zone, name, rtype), expected, "{name} {rtype}");
        }
    }

    #[test]
    fn wildcards_stand_in_below_the_closest_encloser_only() {
        let (zone, _) = zone_of(ZONE, &Bindings::new()).unwrap();
        for (name, rtype, expected) in [
            ("a.wild.cdn.test", Rtype::A, "answer A 1"),
            ("a.b.wild.cdn.test", Rtype::A, "answer A 1"),
            ("a.wild.cdn.test", Rtype::MX, "nodata"),
            ("wild.cdn.test", Rtype::A, "nodata"),
            ("*.wild.cdn.test", Rtype::A, "answer A 1"),
            ("x.*.wild.cdn.test", Rtype::A, "nxdomain"),
            ("blocked.wild.cdn.test", Rtype::A, "nodata"),
            ("x.blocked.wild.cdn.test", Rtype::A, "nxdomain"),
            ("ent.wild.cdn.test", Rtype::A, "nodata"),
            ("b.ent.wild.cdn.test", Rtype::A, "nxdomain"),
            ("q.wc.cdn.test", Rtype::A, "cname www.cdn.test. answer A 1"),
            ("q.self.cdn.test", Rtype::A, "cname x.self.cdn.test. cname x.self.cdn.test. chain"),
        ] {
            assert_eq!(ask(&zone, name, rtype), expected, "{name} {rtype}");
        }
    }

    #[test]
    fn cuts_refer_and_hide_what_is_below() {
        let (zone, _) = zone_of(ZONE, &Bindings::new()).unwrap();
        for (name, rtype, expected) in [
            ("sub.cdn.test", Rtype::A, "referral sub.cdn.test. glue 2"),
            ("sub.cdn.test", Rtype::NS, "referral sub.cdn.test. glue 2"),
            ("sub.cdn.test", Rtype::DS, "answer DS 1"),
            ("below.sub.cdn.test", Rtype::A, "referral sub.cdn.test. glue 2"),
            ("below.sub.cdn.test", Rtype::DS, "referral sub.cdn.test. glue 2"),
            ("ns.sub.cdn.test", Rtype::A, "referral sub.cdn.test. glue 2"),
            ("tosub.cdn.test", Rtype::A, "cname host.sub.cdn.test. referral sub.cdn.test. glue 2"),
        ] {
            assert_eq!(ask(&zone, name, rtype), expected, "{name} {rtype}");
        }
        let cut = zone.nodes().iter().find(|node| node.cut).unwrap();
        assert!(zone.glue(cut)[0].required && !zone.glue(cut)[1].required);
        assert_eq!(zone.glue_node(zone.glue(cut)[0]).owner.to_string(), "ns.sub.cdn.test.");
    }

    #[test]
    fn dnames_rewrite_what_is_below_and_only_that() {
        let (zone, _) = zone_of(ZONE, &Bindings::new()).unwrap();
        for (name, rtype, expected) in [
            ("old.cdn.test", Rtype::TXT, "answer TXT 1"),
            ("old.cdn.test", Rtype::DNAME, "answer DNAME 1"),
            ("old.cdn.test", Rtype::A, "nodata"),
            ("x.old.cdn.test", Rtype::A, "dname(old.cdn.test.) x.new.cdn.test. answer A 1"),
            ("x.old.cdn.test", Rtype::CNAME, "dname(old.cdn.test.) x.new.cdn.test. chain"),
            (
                "y.old.cdn.test",
                Rtype::A,
                "dname(old.cdn.test.) y.new.cdn.test. cname www.cdn.test. answer A 1",
            ),
            ("n.old.cdn.test", Rtype::A, "dname(old.cdn.test.) n.new.cdn.test. nxdomain"),
            (
                "todname.cdn.test",
                Rtype::A,
                "cname x.old.cdn.test. dname(old.cdn.test.) x.new.cdn.test. answer A 1",
            ),
            ("a.dloop.cdn.test", Rtype::A, "dname(dloop.cdn.test.) a.dloop.cdn.test. chain"),
        ] {
            assert_eq!(ask(&zone, name, rtype), expected, "{name} {rtype}");
        }
        let long = format!("{0}.{0}.{0}.{1}.old.cdn.test", "x".repeat(60), "y".repeat(55));
        let (zone, _) =
            zone_of(&ZONE.replace("DNAME new", "DNAME a.far.longer.name"), &Bindings::new()).unwrap();
        assert!(ask(&zone, &long, Rtype::A).ends_with("yxdomain"));
    }

    #[test]
    fn tailored_names_answer_three_types_and_keep_the_rest() {
        let (zone, _) = zone_of(
            "@ 60 SOA a b 1 2 3 4 5\n 60 NS ns.example.org.\n 60 MX 10 mail.example.org.\nwww 60 TXT x\nto 60 CNAME a.img",
            &bindings(&["cdn.test", "www.cdn.test", "*.img.cdn.test"]),
        )
        .unwrap();
        for (name, rtype, expected) in [
            ("cdn.test", Rtype::A, "tailored 3 cdn.test."),
            ("cdn.test", Rtype::HTTPS, "tailored 3 cdn.test."),
            ("cdn.test", Rtype::MX, "answer MX 1"),
            ("cdn.test", Rtype::SOA, "answer SOA 1"),
            ("www.cdn.test", Rtype::AAAA, "tailored 3 www.cdn.test."),
            ("www.cdn.test", Rtype::TXT, "answer TXT 1"),
            ("www.cdn.test", Rtype::MX, "nodata"),
            ("a.b.img.cdn.test", Rtype::A, "tailored 3 *.img.cdn.test."),
            ("a.img.cdn.test", Rtype::MX, "nodata"),
            ("a.img.cdn.test", Rtype::ANY, "any *.img.cdn.test."),
            ("img.cdn.test", Rtype::A, "nodata"),
            ("to.cdn.test", Rtype::A, "cname a.img.cdn.test. tailored 3 *.img.cdn.test."),
        ] {
            assert_eq!(ask(&zone, name, rtype), expected, "{name} {rtype}");
        }
        assert_eq!((zone.negative_ttl(), zone.serial()), (5, 1));
    }

    #[test]
    fn endless_chains_end() {
        let mut text = String::from("@ 60 SOA a b 1 2 3 4 5\n 60 NS ns.example.org.\n");
        for i in 0..40 {
            text.push_str(&format!("c{i} 60 CNAME c{}\n", i + 1));
        }
        // Each step makes the name longer until it no longer fits.
        text.push_str("grow 60 DNAME a.grow\n");
        let (zone, _) = zone_of(&text, &Bindings::new()).unwrap();
        let said = ask(&zone, "c0.cdn.test", Rtype::A);
        assert_eq!(said.matches("cname").count(), CHAIN_MAX);
        assert!(said.ends_with("chain"));
        assert!(ask(&zone, "x.grow.cdn.test", Rtype::A).ends_with("chain"));
    }

    #[test]
    fn each_rule_is_found_where_it_is_broken() {
        let good = "@ 60 SOA a b 1 2 3 4 5\n@ 60 NS ns.example.org.\n";
        type Wanted = fn(&Rule) -> bool;
        let broken: [(&str, Wanted); 12] = [
            ("x 60 A 192.0.2.1\nx 60 CNAME y", |r| matches!(r, Rule::CnameAndOther { .. })),
            ("x 60 CNAME a\nx 60 CNAME y", |r| matches!(r, Rule::ManyCname(_))),
            ("x 60 DNAME a\nx 60 DNAME y", |r| matches!(r, Rule::ManyDname(_))),
            ("x 60 SOA a b 1 2 3 4 5", |r| matches!(r, Rule::SoaBelowApex(_))),
            ("@ 60 SOA a b 2 2 3 4 5", |r| matches!(r, Rule::ManySoa(_))),
            ("www.example.org. 60 A 192.0.2.1", |r| matches!(r, Rule::OutOfZone { .. })),
            ("x 60 A 192.0.2.1\nx 30 A 192.0.2.2", |r| {
                matches!(r, Rule::TtlDiffers { read: 60, kept: 30, .. })
            }),
            ("x 60 A 192.0.2.1\nX 60 A 192.0.2.1", |r| matches!(r, Rule::Duplicate { .. })),
            ("s 60 NS ns.s", |r| matches!(r, Rule::MissingGlue { .. })),
            ("s 60 NS c\nc 60 CNAME d", |r| matches!(r, Rule::TargetIsCname { .. })),
            ("@ 60 MX 5 gone", |r| matches!(r, Rule::TargetWithoutAddress { .. })),
            ("d 60 DNAME e\nx.d 60 A 192.0.2.1", |r| matches!(r, Rule::BelowDname { .. })),
        ];
        for (text, wanted) in broken {
            let findings = match zone_of(&format!("{good}{text}"), &Bindings::new()) {
                Ok((_, warnings)) => warnings,
                Err(error) => error.findings,
            };
            let finding = findings.iter().find(|finding| wanted(&finding.rule));
            let place = finding.unwrap_or_else(|| panic!("{text}: {findings:?}")).place.as_ref();
            assert!(place.is_some_and(|place| place.line >= 3), "{text}: {findings:?}");
        }
        for (text, wanted) in [("", "no SOA"), ("@ 60 SOA a b 1 2 3 4 5", "no NS")] {
            assert!(zone_of(text, &Bindings::new()).unwrap_err().to_string().contains(wanted));
        }
    }

    #[test]
    fn tailored_names_clash_loudly() {
        let good = "@ 60 SOA a b 1 2 3 4 5\n@ 60 NS ns.example.org.\n";
        for (text, name, wanted) in [
            ("w 60 A 192.0.2.1", "w.cdn.test", "w.cdn.test. is tailored and has a static A record"),
            ("w 60 HTTPS 1 .", "w.cdn.test", "has a static HTTPS record"),
            ("w 60 CNAME x", "w.cdn.test", "is tailored and a CNAME"),
            ("s 60 NS ns.example.org.", "s.cdn.test", "delegated"),
            ("s 60 NS ns.example.org.", "a.s.cdn.test", "delegated"),
            ("s 60 DNAME example.org.", "a.s.cdn.test", "DNAME"),
            ("", "w.example.org", "outside the zone"),
        ] {
            let error = zone_of(&format!("{good}{text}"), &bindings(&[name])).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }

    #[test]
    fn equal_data_in_other_case_is_dropped_and_other_numbers_are_not() {
        let good = "@ 60 SOA a b 1 2 3 4 5\n@ 60 NS ns.example.org.\n";
        let text =
            format!("{good}@ 60 NS NS.example.org.\n@ 60 MX 65 m.example.org.\n@ 60 MX 97 m.example.org.");
        let (zone, warnings) = zone_of(&text, &Bindings::new()).unwrap();
        assert_eq!(warnings.len(), 1);
        assert_eq!(zone.apex().rrset(Rtype::NS).unwrap().len(), 1);
        assert_eq!(zone.apex().rrset(Rtype::MX).unwrap().len(), 2);
    }

    #[test]
    fn the_deepest_zone_answers_and_ds_belongs_to_the_parent() {
        let zone = |origin: &str, text: &str| {
            let origin: Name = origin.parse().unwrap();
            let text = format!("@ 60 SOA a b 1 2 3 4 5\n@ 60 NS ns.example.org.\n{text}");
            let loaded =
                master::read(Path::new("t"), &origin, &mut |_| Ok(text.as_bytes().to_vec())).unwrap();
            Arc::new(Zone::build(origin, loaded.records, &Bindings::new()).unwrap().0)
        };
        let zones = Zones::new([zone("cdn.test", "sub 60 NS ns.sub"), zone("sub.cdn.test", "")]);
        let found = |name: &str, rtype| {
            let name = NameBuf::from(&name.parse::<Name>().unwrap());
            zones.find(&name, rtype).map(|zone| zone.origin().to_string())
        };
        assert_eq!(found("a.SUB.cdn.test", Rtype::A).as_deref(), Some("sub.cdn.test."));
        assert_eq!(found("sub.cdn.test", Rtype::DS).as_deref(), Some("cdn.test."));
        assert_eq!(found("cdn.test", Rtype::DS).as_deref(), Some("cdn.test."));
        assert_eq!(found("x.cdn.test", Rtype::A).as_deref(), Some("cdn.test."));
        assert_eq!(found("test", Rtype::A), None);
        assert_eq!(found(".", Rtype::NS), None);
        assert_eq!(found("xcdn.test", Rtype::A), None);
    }
}
