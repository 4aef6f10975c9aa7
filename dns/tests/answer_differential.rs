//! The answer function against a slow path that shares nothing with it but the records.
//!
//! The slow path reads queries with hickory-proto, looks names up by going through every record of
//! the zone as RFC 1034 section 4.3.2 tells it, and writes messages without compression. Both
//! answers are decoded by hickory-proto and must mean the same, for random zones and random
//! queries. The seed is printed; `NEARSIDE_SEED` repeats a run.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the finding")]

use std::{net::SocketAddr, path::Path, sync::Arc};

use hickory_proto::op::Message;
use nearside_dns::{
    answer::{Context, Identity, Limits, Scratch, Transport, Verdict, respond},
    health::state::Moment,
    steering::Table,
};
use nearside_zones::{Bindings, Name, Record, Rtype, Zone, Zones, master};

type Labels = Vec<Vec<u8>>;
/// Owner, type, TTL, data.
type Row = (Vec<u8>, u16, u32, Vec<u8>);

fn labels(name: &Name) -> Labels {
    name.labels().map(<[u8]>::to_ascii_lowercase).collect()
}

fn name_of(labels: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in labels {
        wire.push(label.len() as u8);
        wire.extend(label);
    }
    wire.push(0);
    wire
}

/// The zone as its records, nothing precomputed.
struct Slow {
    origin: Labels,
    records: Vec<Record>,
}

#[derive(Default)]
struct SlowAnswer {
    rcode: u16,
    authoritative: bool,
    sections: [Vec<Row>; 3],
}

impl Slow {
    fn set(&self, owner: &[Vec<u8>], rtype: Rtype) -> Vec<&Record> {
        let mut set: Vec<&Record> =
            self.records.iter().filter(|r| r.rtype == rtype && labels(&r.owner) == owner).collect();
        let mut seen: Vec<Vec<u8>> = Vec::new();
        set.retain(|record| {
            let plain = matches!(rtype, Rtype::A | Rtype::AAAA | Rtype::TXT);
            let data = if plain { record.rdata.to_vec() } else { record.rdata.to_ascii_lowercase() };
            let new = !seen.contains(&data);
            seen.push(data);
            new
        });
        set
    }

    fn exists(&self, name: &[Vec<u8>]) -> bool {
        self.records.iter().any(|record| labels(&record.owner).ends_with(name))
    }

    fn put(
        &self,
        answer: &mut SlowAnswer,
        section: usize,
        owner: &[Vec<u8>],
        set: &[&Record],
        ttl: Option<u32>,
    ) {
        let smallest = set.iter().map(|record| record.ttl).min().unwrap_or(0);
        for record in set {
            let row = (name_of(owner), record.rtype.0, ttl.unwrap_or(smallest), record.rdata.to_vec());
            answer.sections[section].push(row);
        }
    }

    fn negative(&self, answer: &mut SlowAnswer) {
        let soa = self.set(&self.origin, Rtype::SOA);
        let minimum = u32::from_be_bytes(*soa[0].rdata.last_chunk::<4>().unwrap());
        self.put(answer, 1, &self.origin, &soa, Some(soa[0].ttl.min(minimum)));
    }

    fn answer(&self, qname: &Labels, qtype: Rtype) -> SlowAnswer {
        let mut answer = SlowAnswer { authoritative: true, ..SlowAnswer::default() };
        let mut name = qname.clone();
        let mut passed: Vec<Labels> = Vec::new();
        let mut dnames: Vec<Labels> = Vec::new();
        loop {
            if !name.ends_with(&self.origin) {
                return answer;
            }
            if passed.contains(&name) || passed.len() == 16 {
                return answer;
            }
            match self.find(&name, qtype) {
                Found::Referral(cut) => {
                    answer.authoritative = !passed.is_empty();
                    self.refer(&mut answer, &cut);
                    return answer;
                }
                Found::NxDomain => {
                    answer.rcode = 3;
                    self.negative(&mut answer);
                    return answer;
                }
                Found::Dname(owner) => {
                    let set = self.set(&owner, Rtype::DNAME);
                    if !dnames.contains(&owner) {
                        self.put(&mut answer, 0, &owner, &set, None);
                        dnames.push(owner.clone());
                    }
                    let target = Name::from_wire(&set[0].rdata).unwrap();
                    let mut next = name[..name.len() - owner.len()].to_vec();
                    next.extend(labels(&target));
                    if name_of(&next).len() > 255 {
                        answer.rcode = 6;
                        return answer;
                    }
                    answer.sections[0].push((name_of(&name), 5, set[0].ttl, name_of(&next)));
                    if qtype == Rtype::CNAME {
                        return answer;
                    }
                    passed.push(std::mem::replace(&mut name, next));
                }
                Found::Node(node) => {
                    let set = self.set(&node, qtype);
                    if !set.is_empty() {
                        self.put(&mut answer, 0, &name, &set, None);
                        return answer;
                    }
                    let alias = self.set(&node, Rtype::CNAME);
                    let Some(first) = alias.first() else {
                        self.negative(&mut answer);
                        return answer;
                    };
                    self.put(&mut answer, 0, &name, &alias, None);
                    let next = labels(&Name::from_wire(&first.rdata).unwrap());
                    passed.push(std::mem::replace(&mut name, next));
                }
            }
        }
    }

    fn refer(&self, answer: &mut SlowAnswer, cut: &Labels) {
        let servers = self.set(cut, Rtype::NS);
        self.put(answer, 1, cut, &servers, None);
        let hosts: Vec<Labels> =
            servers.iter().map(|ns| labels(&Name::from_wire(&ns.rdata).unwrap())).collect();
        for below in [true, false] {
            for host in hosts.iter().filter(|host| host.ends_with(cut) == below) {
                for rtype in [Rtype::A, Rtype::AAAA] {
                    if host.ends_with(&self.origin) {
                        let set = self.set(host, rtype);
                        self.put(answer, 2, host, &set, None);
                    }
                }
            }
        }
    }

    fn find(&self, name: &Labels, qtype: Rtype) -> Found {
        for depth in (0..=name.len() - self.origin.len()).rev() {
            let above = name[depth..].to_vec();
            let is_name = depth == 0;
            let has = |rtype| !self.set(&above, rtype).is_empty();
            if above != self.origin && has(Rtype::NS) && !(is_name && qtype == Rtype::DS) {
                return Found::Referral(above);
            }
            if !is_name && has(Rtype::DNAME) {
                return Found::Dname(above);
            }
        }
        if self.exists(name) {
            return Found::Node(name.clone());
        }
        let encloser = (1..name.len()).map(|depth| &name[depth..]).find(|above| self.exists(above)).unwrap();
        let mut wildcard = vec![b"*".to_vec()];
        wildcard.extend(encloser.to_vec());
        if self.exists(&wildcard) { Found::Node(wildcard) } else { Found::NxDomain }
    }

    fn respond(&self, query: &[u8]) -> Vec<u8> {
        let query = Message::from_vec(query).unwrap();
        let question = &query.queries[0];
        let qname: Labels = question.name().iter().map(<[u8]>::to_ascii_lowercase).collect();
        let answer = self.answer(&qname, Rtype(u16::from(question.query_type())));
        let mut out = Vec::new();
        out.extend(query.metadata.id.to_be_bytes());
        let mut flags = 0x8000 | answer.rcode;
        flags |= if answer.authoritative { 0x0400 } else { 0 };
        flags |= if query.metadata.recursion_desired { 0x0100 } else { 0 };
        out.extend(flags.to_be_bytes());
        let additional = answer.sections[2].len() + usize::from(query.edns.is_some());
        for count in [1, answer.sections[0].len(), answer.sections[1].len(), additional] {
            out.extend((count as u16).to_be_bytes());
        }
        out.extend(name_of(&question.name().iter().map(<[u8]>::to_vec).collect::<Vec<_>>()));
        out.extend(u16::from(question.query_type()).to_be_bytes());
        out.extend([0, 1]);
        for (owner, rtype, ttl, data) in answer.sections.iter().flatten() {
            out.extend(owner);
            out.extend(rtype.to_be_bytes());
            out.extend([0, 1]);
            out.extend(ttl.to_be_bytes());
            out.extend((data.len() as u16).to_be_bytes());
            out.extend(data);
        }
        if let Some(edns) = &query.edns {
            let dnssec_ok = if edns.flags().dnssec_ok { 0x80 } else { 0 };
            out.extend([0, 0, 41, 0x04, 0xd0, 0, 0, dnssec_ok, 0, 0, 0]);
        }
        out
    }
}

enum Found {
    Referral(Labels),
    Dname(Labels),
    Node(Labels),
    NxDomain,
}

const LABELS: [&str; 5] = ["a", "b", "c", "*", "Dd"];

fn random_name(random: &mut fastrand::Rng, origin: &str) -> String {
    let depth = random.usize(0..4);
    let mut name = String::new();
    for _ in 0..depth {
        name.push_str(LABELS[random.usize(0..LABELS.len())]);
        name.push('.');
    }
    name.push_str(origin);
    name
}

fn random_zone(random: &mut fastrand::Rng) -> String {
    let mut text =
        String::from("@ 300 SOA ns.example.org. h.example.org. 1 2 3 4 60\n@ 300 NS ns.example.org.\n");
    for _ in 0..random.usize(1..14) {
        let owner = random_name(random, "z.test.");
        let ttl = random.u32(1..1000);
        let target =
            if random.u8(0..6) == 0 { "x.example.org.".into() } else { random_name(random, "z.test.") };
        let line = match random.u8(0..9) {
            0 | 1 => format!("A 192.0.2.{}", random.u8(..)),
            2 => format!("AAAA 2001:db8::{}", random.u8(1..99)),
            3 => format!("TXT \"{}\"", random.u32(..)),
            4 | 5 => format!("CNAME {target}"),
            6 => format!("DNAME {target}"),
            7 => format!("NS {target}"),
            _ => format!("MX 10 {target}"),
        };
        text.push_str(&format!("{owner} {ttl} {line}\n"));
    }
    text
}

fn random_query(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut name = random_name(random, "z.test.");
    if random.bool() {
        name = name.to_ascii_uppercase();
    }
    let types = [1u16, 1, 28, 16, 2, 5, 6, 15, 39, 43, 65, 99];
    let mut packet = random.u16(..).to_be_bytes().to_vec();
    packet.extend([u8::from(random.bool()), 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend(name.parse::<Name>().unwrap().wire());
    packet.extend(types[random.usize(0..types.len())].to_be_bytes());
    packet.extend([0, 1]);
    if random.bool() {
        packet[11] = 1;
        packet.extend([0, 0, 41, 0x10, 0, 0, 0, if random.bool() { 0x80 } else { 0 }, 0, 0, 0]);
    }
    packet
}

fn seed() -> u64 {
    let seed = std::env::var("NEARSIDE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("NEARSIDE_SEED={seed}");
    seed
}

fn respond_to(zones: &Zones, query: &[u8], out: &mut [u8]) -> (usize, Verdict) {
    let (table, identity) = (Table::default(), Identity::default());
    let context = Context {
        zones,
        steer: &|_, _| unreachable!("no name is tailored here"),
        table: &table,
        services: &[],
        identity: &identity,
        limits: Limits::default(),
        cookies: None,
        rrl: None,
        challenges: None,
    };
    let source: SocketAddr = "192.0.2.1:5353".parse().unwrap();
    let outcome =
        respond(&context, &mut Scratch::default(), query, source, Transport::Stream, Moment(0), out);
    (outcome.bytes, outcome.verdict)
}

#[test]
fn both_paths_mean_the_same() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut out = vec![0; 65_535];
    let (mut zones_tried, mut verdicts) = (0, std::collections::HashSet::new());
    while zones_tried < 150 {
        let text = random_zone(&mut random);
        let origin: Name = "z.test".parse().unwrap();
        let loaded = master::read(Path::new("z"), &origin, &mut |_| Ok(text.clone().into_bytes())).unwrap();
        let Ok((zone, _)) = Zone::build(origin.clone(), loaded.records.clone(), &Bindings::new()) else {
            continue;
        };
        zones_tried += 1;
        let slow = Slow { origin: labels(&origin), records: loaded.records };
        let zones = Zones::new([Arc::new(zone)]);
        for _ in 0..150 {
            let query = random_query(&mut random);
            let (bytes, verdict) = respond_to(&zones, &query, &mut out);
            verdicts.insert(verdict);
            let fast = Message::from_vec(&out[..bytes]).unwrap();
            let slow = Message::from_vec(&slow.respond(&query)).unwrap();
            assert_eq!(fast, slow, "\nquery {query:02x?}\nzone\n{text}");
            let question = 12..query.len() - if query[11] == 1 { 11 } else { 0 };
            assert_eq!(out[question.clone()], query[question], "the question is echoed in its own case");
        }
    }
    for wanted in [Verdict::NoError, Verdict::NoData, Verdict::NxDomain, Verdict::Referral] {
        assert!(verdicts.contains(&wanted), "{wanted:?} never happened");
    }
}

#[test]
fn whatever_comes_in_a_message_or_nothing_goes_out() {
    let mut random = fastrand::Rng::with_seed(seed());
    let origin: Name = "z.test".parse().unwrap();
    let text = "@ 300 SOA ns h 1 2 3 4 60\n@ 300 NS ns\nns 300 A 192.0.2.1\n*.a 300 CNAME b.d\nd 300 DNAME a\nc 300 NS ns.c\nns.c 300 AAAA ::1\n";
    let loaded = master::read(Path::new("z"), &origin, &mut |_| Ok(text.into())).unwrap();
    let zones = Zones::new([Arc::new(Zone::build(origin, loaded.records, &Bindings::new()).unwrap().0)]);
    let mut out = vec![0; 65_535];
    let mut answered = 0;
    for _ in 0..40_000 {
        let mut query = random_query(&mut random);
        for _ in 0..random.usize(0..4) {
            let index = random.usize(0..query.len());
            query[index] = random.u8(..);
        }
        if random.u8(0..8) == 0 {
            query.truncate(random.usize(0..query.len()));
        }
        if random.u8(0..8) == 0 {
            let more = random.usize(1..40);
            query.extend(std::iter::repeat_with(|| random.u8(..)).take(more));
        }
        let (bytes, verdict) = respond_to(&zones, &query, &mut out);
        if bytes == 0 {
            assert_eq!(verdict, Verdict::Dropped);
            continue;
        }
        answered += 1;
        let message = Message::from_vec(&out[..bytes]);
        let message = message.unwrap_or_else(|e| panic!("{e}: {query:02x?} -> {:02x?}", &out[..bytes]));
        assert_eq!(message.metadata.id.to_be_bytes(), query[..2]);
        let tight = random.usize(0..80);
        let (short, _) = respond_to(&zones, &query, &mut out[..tight]);
        assert!(short <= tight);
    }
    assert!(answered > 10_000);
}
