//! Which PoPs, in which order, for one place: the strategies.
//!
//! An [`Order`] turns what is known of a client into a list of PoPs, best first, and interns it: places
//! by the million end in a few dozen lists, and only the number of a list goes into the map.
//!
//! How long a list is. Lists that come from geography or hashing hold the best `candidates` PoPs,
//! and of each address family as well the best `candidates` that have it, so that AAAA does not run
//! dry where the nearest PoPs are IPv4 only. Lists a person wrote (`ordered`, a rule's `pops`) are kept
//! whole: every PoP in them was meant.

use std::collections::HashMap;

use nearside_fleet::config::{Id, Match, Pop, Rule, Service, Strategy};
use nearside_geoip::{
    geo::Spot,
    place::{Continent, Coordinates, Country, Place, Subdivision},
    prefix::Prefix,
};

use super::{BUCKETS, CompileError, ListId, PopId};

/// Ordered PoP lists, each once.
#[derive(Debug, Default)]
pub(super) struct Lists {
    lists: Vec<Box<[PopId]>>,
    numbers: HashMap<Box<[PopId]>, ListId>,
}

impl Lists {
    pub(super) fn intern(&mut self, list: &[PopId]) -> ListId {
        if let Some(&number) = self.numbers.get(list) {
            return number;
        }
        let number = ListId(self.lists.len() as u32);
        self.lists.push(list.into());
        self.numbers.insert(list.into(), number);
        number
    }

    pub(super) fn into_lists(self) -> Box<[Box<[PopId]>]> {
        self.lists.into_boxed_slice()
    }

    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }
}

/// One PoP of a service, prepared for ranking.
struct Candidate {
    id: PopId,
    unit: [f32; 3],
    bias_km: f32,
    /// Stable over renumbering: made of the name.
    seed: u64,
    has_v4: bool,
    has_v6: bool,
}

impl Candidate {
    fn new(id: PopId, pop: &Pop) -> Self {
        Self {
            id,
            unit: coordinates(pop).unit(),
            bias_km: pop.bias_km as f32,
            seed: name_hash(&pop.name),
            has_v4: !pop.ipv4.is_empty(),
            has_v6: !pop.ipv6.is_empty(),
        }
    }
}

/// Where a PoP is.
pub(super) fn coordinates(pop: &Pop) -> Coordinates {
    let (latitude, longitude) = (pop.location.latitude as f32, pop.location.longitude as f32);
    Coordinates { latitude, longitude }
}

/// A service's strategy, ready to be asked.
pub(super) struct Order<'a> {
    service: &'a Service,
    pops: Vec<Candidate>,
    rules: Vec<PreparedRule>,
    /// Some PoP has a bias: then kilometres are needed, else any measure that grows with them does.
    biased: bool,
    /// List of a point already ranked: databases repeat coordinates, and a thousand PoPs are not
    /// ranked for nothing.
    by_point: HashMap<[u32; 2], ListId>,
    scratch: Vec<(f32, u32)>,
    lists: Lists,
}

struct PreparedRule {
    when: Vec<Condition>,
    pops: Vec<PopId>,
}

/// What a rule asks of a place. Networks are not here: they are labels of the map's walk.
enum Condition {
    Continent(Continent),
    Country(Country),
    Subdivision(Country, Subdivision),
    Asn(u32),
}

impl Condition {
    fn holds(&self, place: &Place) -> bool {
        match *self {
            Self::Continent(continent) => place.continent() == Some(continent),
            Self::Country(country) => place.country == Some(country),
            Self::Subdivision(country, subdivision) => {
                place.country == Some(country) && place.subdivision == Some(subdivision)
            }
            Self::Asn(asn) => place.asn == Some(asn),
        }
    }
}

impl<'a> Order<'a> {
    /// Prepares a service's PoPs and rules. `all` are the fleet's PoPs in order of name.
    pub(super) fn new(all: &[Pop], service: &'a Service) -> Result<Self, CompileError> {
        let id = |name: &Id| match all.binary_search_by(|pop| pop.name.cmp(name)) {
            Ok(at) => Ok(PopId(at as u32)),
            Err(_) => Err(CompileError::Pop { service: service.name.clone(), pop: name.clone() }),
        };
        let mut pops = Vec::with_capacity(service.pops.len());
        for name in &service.pops {
            let id = id(name)?;
            pops.push(Candidate::new(id, &all[id.0 as usize]));
        }
        let mut rules = Vec::new();
        if let Strategy::Rules(written) = &service.strategy {
            for rule in written {
                let when = conditions(service, rule)?;
                let pops = rule.pops.iter().map(id).collect::<Result<_, _>>()?;
                rules.push(PreparedRule { when, pops });
            }
        }
        Ok(Self {
            biased: pops.iter().any(|pop| pop.bias_km != 0.0),
            service,
            pops,
            rules,
            by_point: HashMap::new(),
            scratch: Vec::new(),
            lists: Lists::default(),
        })
    }

    pub(super) fn lists(&self) -> &Lists {
        &self.lists
    }

    pub(super) fn into_lists(self) -> Lists {
        self.lists
    }

    /// The rule that decides for a spot, by its position.
    pub(super) fn rule(&self, spot: &Spot) -> Option<usize> {
        let by_network = spot.label.map_or(usize::MAX, |label| label as usize);
        let holds = |rule: &PreparedRule| rule.when.iter().any(|c| c.holds(&spot.place));
        let by_place = self.rules.iter().position(holds).unwrap_or(usize::MAX);
        let first = by_network.min(by_place);
        (first < self.rules.len()).then_some(first)
    }

    /// The list for everything that is alike in every source.
    pub(super) fn of_spot(&mut self, spot: &Spot) -> ListId {
        match self.rule(spot) {
            Some(rule) => self.lists.intern(&self.rules[rule].pops),
            None => self.nearest(spot.place.point()),
        }
    }

    /// The order written down.
    pub(super) fn as_written(&mut self) -> ListId {
        let written: Vec<PopId> = self.pops.iter().map(|pop| pop.id).collect();
        self.lists.intern(&written)
    }

    /// By distance less bias; ties, and clients nobody can place, in the order written.
    fn nearest(&mut self, point: Option<Coordinates>) -> ListId {
        let key = point.map_or([u32::MAX; 2], |p| [p.latitude.to_bits(), p.longitude.to_bits()]);
        if let Some(&list) = self.by_point.get(&key) {
            return list;
        }
        self.scratch.clear();
        let from = point.map(Coordinates::unit);
        for (pop, position) in self.pops.iter().zip(0..) {
            let cost = match from {
                None => 0.0,
                Some(unit) if self.biased => arc_km(chord_squared(unit, pop.unit)) - pop.bias_km,
                Some(unit) => chord_squared(unit, pop.unit),
            };
            self.scratch.push((cost, position));
        }
        let list = self.best();
        self.by_point.insert(key, list);
        list
    }

    /// Rendezvous hashing (Thaler and Ravishankar, 1998): each PoP draws a number for the bucket,
    /// the best draw wins. A PoP that comes or goes moves only its own share. With weights, a draw is
    /// divided by the weight after -ln, which makes shares proportional; weight 0 takes no part.
    pub(super) fn of_bucket(&mut self, bucket: u32, weights: Option<&[u32]>) -> ListId {
        self.scratch.clear();
        for (pop, position) in self.pops.iter().zip(0u32..) {
            let draw = mix(pop.seed ^ mix(u64::from(bucket)));
            // In (0, 1]: never 0, whose logarithm is not a number to sort by.
            let uniform = ((draw >> 11) + 1) as f64 / (1u64 << 53) as f64;
            let weight = weights.map_or(1, |w| w.get(position as usize).copied().unwrap_or(0));
            if weight > 0 {
                self.scratch.push(((-uniform.ln() / f64::from(weight)) as f32, position));
            }
        }
        self.best()
    }

    /// Interns the cheapest of `scratch`, as many as the module's header says.
    fn best(&mut self) -> ListId {
        let keep = self.service.candidates.max(1);
        let cheaper = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if self.scratch.len() > keep {
            // Selecting before sorting: of a thousand PoPs only a handful is ever looked at.
            self.scratch.select_nth_unstable_by(keep - 1, cheaper);
            let (top, rest) = self.scratch.split_at(keep);
            let short = |has: fn(&Candidate) -> bool| {
                let count =
                    |part: &[(f32, u32)]| part.iter().filter(|(_, at)| has(&self.pops[*at as usize])).count();
                count(top) < keep && count(rest) > 0
            };
            if short(|pop| pop.has_v4) || short(|pop| pop.has_v6) {
                self.scratch.sort_unstable_by(cheaper);
                let (mut v4, mut v6, mut any) = (0, 0, 0);
                self.scratch.retain(|(_, at)| {
                    let pop = &self.pops[*at as usize];
                    let wanted = any < keep || pop.has_v4 && v4 < keep || pop.has_v6 && v6 < keep;
                    any += 1;
                    v4 += usize::from(pop.has_v4);
                    v6 += usize::from(pop.has_v6);
                    wanted
                });
            } else {
                self.scratch.truncate(keep);
            }
        }
        self.scratch.sort_unstable_by(cheaper);
        let list: Vec<PopId> = self.scratch.iter().map(|(_, at)| self.pops[*at as usize].id).collect();
        self.lists.intern(&list)
    }
}

/// Networks of a service's rules with the position of their rule.
pub(super) fn labels(service: &Service) -> Result<Vec<(Prefix, u32)>, CompileError> {
    let Strategy::Rules(rules) = &service.strategy else { return Ok(Vec::new()) };
    let mut labels = Vec::new();
    for (rule, number) in rules.iter().zip(0..) {
        for condition in &rule.when {
            if let Match::Network(addr, len) = *condition {
                let network = Prefix::new(addr, len).map_err(|cause| CompileError::Network {
                    place: format!("service {:?}, rule {}", service.name, number + 1),
                    cause,
                })?;
                labels.push((network, number));
            }
        }
    }
    Ok(labels)
}

fn conditions(service: &Service, rule: &Rule) -> Result<Vec<Condition>, CompileError> {
    let bad = |cause: nearside_geoip::place::CodeError| CompileError::Code {
        place: format!("service {:?}", service.name),
        cause,
    };
    let mut conditions = Vec::new();
    for condition in &rule.when {
        conditions.push(match condition {
            Match::Continent(code) => Condition::Continent(code.parse().map_err(bad)?),
            Match::Country(code) => Condition::Country(code.parse().map_err(bad)?),
            Match::Subdivision { country, subdivision } => {
                Condition::Subdivision(country.parse().map_err(bad)?, subdivision.parse().map_err(bad)?)
            }
            Match::Asn(asn) => Condition::Asn(*asn),
            Match::Network(..) => continue,
        });
    }
    Ok(conditions)
}

/// Square of the straight line through the Earth between two points of the unit sphere.
fn chord_squared(a: [f32; 3], b: [f32; 3]) -> f32 {
    let [x, y, z] = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
    x * x + y * y + z * z
}

/// Kilometres along the sphere between the ends of a chord, within 30 m up to 18,000 km: 2 R asin(chord / 2)
/// with the arcsine of Abramowitz and Stegun, 4.4.46. A thousand PoPs are ranked for each of a hundred thousand
/// places: no trigonometry there.
fn arc_km(chord_squared: f32) -> f32 {
    const DIAMETER_KM: f32 = 2.0 * 6371.009;
    const TERMS: [f32; 8] = [
        std::f32::consts::FRAC_PI_2,
        -0.214_598_8,
        0.088_978_99,
        -0.050_174_305,
        0.030_891_88,
        -0.017_088_126,
        0.006_670_09,
        -0.001_262_491_1,
    ];
    let half = (chord_squared.sqrt() / 2.0).min(1.0);
    // Near 0 the two terms of the formula cancel each other; there the arc is its own first terms.
    let arcsine = if half < 0.1 {
        half * (1.0 + half * half * (1.0 / 6.0 + half * half * (3.0 / 40.0)))
    } else {
        let polynomial = TERMS.iter().rev().fold(0.0, |sum, term| sum * half + term);
        std::f32::consts::FRAC_PI_2 - (1.0 - half).sqrt() * polynomial
    };
    DIAMETER_KM * arcsine
}

/// FNV-1a. Shares of hashed services hang on it: it must never change, on no node.
pub(super) fn name_hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Finaliser of SplitMix64. Must never change either.
pub(super) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Bucket of a hashed service's client prefix.
pub(super) fn bucket(prefix: u64) -> usize {
    // The top bits of a mixed number; BUCKETS is a power of two.
    (mix(prefix) >> (64 - BUCKETS.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arcs_are_great_circle_distances() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..100_000 {
            let mut point = || Coordinates {
                latitude: random.f32() * 180.0 - 90.0,
                longitude: random.f32() * 360.0 - 180.0,
            };
            let (a, mut b) = (point(), point());
            if random.bool() {
                // Neighbours, down to metres.
                let near = 10f32.powi(random.i32(-5..=0));
                b = Coordinates { latitude: (a.latitude + near).min(90.0), longitude: a.longitude + near };
            }
            let (exact, arc) = (a.distance_km(b), f64::from(arc_km(chord_squared(a.unit(), b.unit()))));
            // At the antipode a chord says little of the arc.
            let off_max = if exact > 18_000.0 { 5.0 } else { 0.03 };
            assert!((exact - arc).abs() < off_max, "{a:?} to {b:?}: {exact} km, not {arc}");
        }
    }
}
