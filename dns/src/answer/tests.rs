//! The rules of the answer, one by one: what hickory-proto reads in what was written.

use std::{net::IpAddr, path::Path, sync::Arc};

use hickory_proto::op::Message as Decoded;
use nearside_zones::{Binding, Bindings, Name, Rtype, Zone, master};

use super::*;
use crate::{
    rrl::RrlConfig,
    steering::{Basis, Chosen, ListId},
};

const ZONE: &str = "
$TTL 300
@      SOA ns1 h 7 3600 900 604800 60
       NS  ns1
ns1    A   192.0.2.53
static A   192.0.2.1
to     CNAME www
long   TXT (\"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\"
            \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\"
            \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\"
            \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\"
            \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\")
sub    NS  ns.sub
       NS  ns1
ns.sub A   192.0.2.54
www    TXT \"static beside tailored\"
";

/// A server with one tailored name, `www.cdn.test`.
struct Server {
    zones: Zones,
    table: Table,
    services: Vec<TailoredService>,
    identity: Identity,
    cookies: Option<CookieKeys>,
    rrl: Option<Rrl>,
    challenges: Option<Challenges>,
    limits: Limits,
    scope: u8,
}

fn chosen<A>(addresses: Vec<A>, basis: Basis) -> Chosen<A> {
    Chosen { addresses: addresses.into(), pops: Box::default(), ttl: 20, basis }
}

fn server() -> Server {
    server_with(&["192.0.2.80", "192.0.2.81"], &["2001:db8::80"], Basis::Healthy)
}

fn server_with(v4: &[&str], v6: &[&str], basis: Basis) -> Server {
    let origin: Name = "cdn.test".parse().unwrap();
    let mut zone = ZONE.to_string();
    for host in 0..40 {
        zone.push_str(&format!("many NS ns{host}.many\nns{host}.many A 192.0.2.{host}\n"));
    }
    let loaded = master::read(Path::new("z"), &origin, &mut |_| Ok(zone.clone().into_bytes())).unwrap();
    let bindings: Bindings = [("www.cdn.test".parse().unwrap(), Binding { service: 0, https: true })].into();
    let zone = Zone::build(origin, loaded.records, &bindings).unwrap().0;
    Server {
        zones: Zones::new([Arc::new(zone)]),
        table: Table::of(
            chosen(v4.iter().map(|a| a.parse().unwrap()).collect(), basis),
            chosen(v6.iter().map(|a| a.parse().unwrap()).collect(), basis),
        ),
        services: vec![TailoredService::new(["h2", "h3"])],
        identity: Identity::default(),
        cookies: None,
        rrl: None,
        challenges: None,
        limits: Limits::default(),
        scope: 17,
    }
}

impl Server {
    fn raw(&self, query: &[u8], transport: Transport) -> (Outcome, Vec<u8>) {
        let steer = |_, client: Client| {
            assert_eq!(client.source, "198.51.100.7".parse::<IpAddr>().unwrap());
            let scope = if client.subnet.is_some_and(|(_, length)| length == 0) { 0 } else { self.scope };
            Steered { list: ListId(0), scope }
        };
        let context = Context {
            zones: &self.zones,
            steer: &steer,
            table: &self.table,
            services: &self.services,
            identity: &self.identity,
            limits: self.limits,
            cookies: self.cookies.as_ref(),
            rrl: self.rrl.as_ref(),
            challenges: self.challenges.as_ref(),
        };
        let mut out = vec![0; 65_535];
        let source = "198.51.100.7:53".parse().unwrap();
        let outcome = respond(
            &context,
            &mut Scratch::default(),
            query,
            source,
            transport,
            Moment(1_700_000_000_000),
            &mut out,
        );
        out.truncate(outcome.bytes);
        (outcome, out)
    }

    fn ask(&self, query: &[u8], transport: Transport) -> (Outcome, Decoded) {
        let (outcome, out) = self.raw(query, transport);
        assert!(outcome.bytes > 0, "{outcome:?}");
        (outcome, Decoded::from_vec(&out).unwrap())
    }
}

/// A query with an OPT record that holds these options; `None`: without one.
fn query(name: &str, rtype: u16, options: Option<&[(u16, &[u8])]>) -> Vec<u8> {
    query_of_class(name, rtype, 1, options, 1232)
}

fn query_of_class(
    name: &str,
    rtype: u16,
    class: u16,
    options: Option<&[(u16, &[u8])]>,
    payload: u16,
) -> Vec<u8> {
    let mut packet = vec![0xbe, 0xef, 0x01, 0x10, 0, 1, 0, 0, 0, 0, 0, u8::from(options.is_some())];
    packet.extend(name.parse::<Name>().unwrap().wire());
    packet.extend(rtype.to_be_bytes());
    packet.extend(class.to_be_bytes());
    if let Some(options) = options {
        packet.extend([0, 0, 41]);
        packet.extend(payload.to_be_bytes());
        packet.extend([0, 0, 0, 0]);
        let length: usize = options.iter().map(|(_, data)| 4 + data.len()).sum();
        packet.extend((length as u16).to_be_bytes());
        for (code, data) in options {
            packet.extend(code.to_be_bytes());
            packet.extend((data.len() as u16).to_be_bytes());
            packet.extend(*data);
        }
    }
    packet
}

/// The option's data in the answer's OPT record, found by walking the last record.
fn option(out: &[u8], code: u16) -> Option<Vec<u8>> {
    let opt = (0..out.len()).rev().find(|&at| {
        out[at..].starts_with(&[0, 0, 41])
            && out
                .get(at + 9..at + 11)
                .is_some_and(|l| usize::from(u16::from_be_bytes([l[0], l[1]])) == out.len() - at - 11)
    })?;
    let mut rest = &out[opt + 11..];
    while let Some((head, after)) = rest.split_first_chunk::<4>() {
        let (data, after) = after.split_at(usize::from(u16::from_be_bytes([head[2], head[3]])));
        if u16::from_be_bytes([head[0], head[1]]) == code {
            return Some(data.to_vec());
        }
        rest = after;
    }
    None
}

fn texts(records: &[hickory_proto::rr::Record]) -> Vec<String> {
    records.iter().map(|r| format!("{} {} {} {}", r.name, r.ttl, r.data.record_type(), r.data)).collect()
}

const SUBNET: &[u8] = &[0, 1, 20, 0, 203, 0, 112];

#[test]
fn tailored_names_answer_with_the_scope_of_the_decision() {
    let server = server();
    let (outcome, out) = server.raw(&query("wWw.cdn.test", 1, Some(&[(8, SUBNET)])), Transport::Udp);
    assert_eq!(
        (outcome.verdict, outcome.service, outcome.client_subnet),
        (Verdict::NoError, Some(ServiceId(0)), true)
    );
    assert_eq!(option(&out, 8).unwrap(), [0, 1, 20, 17, 203, 0, 112]);
    let message = Decoded::from_vec(&out).unwrap();
    assert!(
        message.metadata.authoritative
            && message.metadata.recursion_desired
            && message.metadata.checking_disabled
    );
    assert_eq!(texts(&message.answers), ["wWw.cdn.test. 20 A 192.0.2.80", "wWw.cdn.test. 20 A 192.0.2.81"]);
    let (_, message) = server.ask(&query("www.cdn.test", 28, None), Transport::Udp);
    assert_eq!(texts(&message.answers), ["www.cdn.test. 20 AAAA 2001:db8::80"]);
    assert!(message.edns.is_none(), "no OPT where the query had none");
    let (_, message) = server.ask(&query("to.cdn.test", 1, None), Transport::Udp);
    assert_eq!(message.answers.len(), 3);
    assert_eq!(texts(&message.answers)[1], "www.cdn.test. 20 A 192.0.2.80");
}

#[test]
fn source_length_zero_and_family_zero_are_answered_with_scope_zero() {
    for subnet in [&[0, 1, 0, 0][..], &[0, 2, 0, 0], &[0, 0, 0, 0]] {
        let (outcome, out) = server().raw(&query("www.cdn.test", 1, Some(&[(8, subnet)])), Transport::Udp);
        assert_eq!(outcome.verdict, Verdict::NoError);
        assert_eq!(option(&out, 8).unwrap(), subnet);
    }
}

#[test]
fn static_negative_and_refused_answers_echo_the_subnet_with_scope_zero() {
    for (name, rtype, verdict) in [
        ("static.cdn.test", 1, Verdict::NoError),
        ("static.cdn.test", 28, Verdict::NoData),
        ("none.cdn.test", 1, Verdict::NxDomain),
        ("x.sub.cdn.test", 1, Verdict::Referral),
        ("www.cdn.test", 16, Verdict::NoError),
        ("www.cdn.test", 15, Verdict::NoData),
        ("other.test", 1, Verdict::Refused),
    ] {
        let (outcome, out) = server().raw(&query(name, rtype, Some(&[(8, SUBNET)])), Transport::Udp);
        assert_eq!(outcome.verdict, verdict, "{name}");
        assert_eq!(option(&out, 8).as_deref(), Some(SUBNET), "{name}");
        let (_, without) = server().raw(&query(name, rtype, Some(&[])), Transport::Udp);
        assert_eq!(option(&without, 8), None, "{name}");
    }
}

#[test]
fn https_records_come_from_the_same_decision() {
    let (_, out) = server().raw(&query("www.cdn.test", 65, Some(&[(8, SUBNET)])), Transport::Udp);
    let data = b"\x00\x01\x00\x00\x01\x00\x06\x02h2\x02h3\x00\x04\x00\x08\xc0\x00\x02\x50\xc0\x00\x02\x51\x00\x06\x00\x10\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80";
    assert!(out.windows(data.len()).any(|window| window == data));
    assert_eq!(option(&out, 8).unwrap()[3], 17);
}

#[test]
fn a_missing_family_is_no_data_for_everyone_and_all_down_says_so() {
    let server = server_with(&["192.0.2.80"], &[], Basis::NoFamily);
    let (outcome, out) = server.raw(&query("www.cdn.test", 28, Some(&[(8, SUBNET)])), Transport::Udp);
    assert_eq!((outcome.verdict, option(&out, 8).unwrap()[3]), (Verdict::NoData, 0));
    let message = Decoded::from_vec(&out).unwrap();
    assert_eq!(message.authorities[0].ttl, 20, "no longer than the decision holds");
    let server = server_with(&[], &[], Basis::AllDown);
    let (outcome, out) = server.raw(&query("www.cdn.test", 1, Some(&[(8, SUBNET)])), Transport::Udp);
    assert_eq!(
        (outcome.verdict, option(&out, 8).unwrap()[3]),
        (Verdict::NoData, 17),
        "other clients may have more"
    );
    let server = server_with(&["192.0.2.80"], &["::1"], Basis::AllDown);
    let (outcome, out) = server.raw(&query("www.cdn.test", 1, Some(&[])), Transport::Udp);
    assert!(outcome.all_down && outcome.verdict == Verdict::NoError);
    assert_eq!(&option(&out, 15).unwrap()[2..], b"no PoP of this service is healthy");
}

#[test]
fn edns_is_answered_by_its_rfc() {
    let server = server();
    let mut later = query("static.cdn.test", 1, Some(&[(8, SUBNET)]));
    let opt = later.windows(3).rposition(|window| window == [0, 0, 41]).unwrap();
    later[opt + 6] = 1;
    let (outcome, message) = server.ask(&later, Transport::Udp);
    assert_eq!(outcome.verdict, Verdict::BadVers);
    let edns = message.edns.unwrap();
    assert_eq!((edns.rcode_high(), edns.version(), edns.max_payload()), (1, 0, 1232));
    let (outcome, message) =
        server.ask(&query("static.cdn.test", 1, Some(&[(65_001, b"?")])), Transport::Udp);
    assert_eq!((outcome.verdict, message.edns.is_some()), (Verdict::NoError, true));
    let (outcome, message) =
        server.ask(&query("static.cdn.test", 1, Some(&[(8, &[0, 1, 24, 0, 1])])), Transport::Udp);
    assert_eq!((outcome.verdict, message.edns.is_some()), (Verdict::FormErr, true));
}

#[test]
fn nsid_and_chaos_say_what_the_operator_allows() {
    let mut server = server();
    let asked = query("static.cdn.test", 1, Some(&[(3, b"")]));
    assert_eq!(option(&server.raw(&asked, Transport::Udp).1, 3), None);
    let version = query_of_class("version.bind", 16, 3, None, 0);
    assert_eq!(server.raw(&version, Transport::Udp).0.verdict, Verdict::Refused);
    server.identity =
        Identity { nsid: Some(b"ns1"[..].into()), version: Some("nearside".into()), id: Some("ns1".into()) };
    assert_eq!(option(&server.raw(&asked, Transport::Udp).1, 3).as_deref(), Some(&b"ns1"[..]));
    let (_, message) = server.ask(&version, Transport::Udp);
    assert_eq!(texts(&message.answers), ["version.bind. 0 TXT nearside"]);
    assert_eq!(u16::from(message.answers[0].dns_class), 3);
    let (_, message) = server.ask(&query_of_class("HOSTNAME.bind", 16, 3, Some(&[]), 512), Transport::Udp);
    assert_eq!(texts(&message.answers), ["HOSTNAME.bind. 0 TXT ns1"]);
    assert_eq!(
        server.raw(&query_of_class("cdn.test", 1, 4, None, 0), Transport::Udp).0.verdict,
        Verdict::Refused
    );
}

#[test]
fn keepalive_is_for_streams() {
    let asked = query("static.cdn.test", 1, Some(&[(11, b"")]));
    assert_eq!(option(&server().raw(&asked, Transport::Udp).1, 11), None);
    assert_eq!(option(&server().raw(&asked, Transport::Stream).1, 11), Some(vec![0, 100]));
}

#[test]
fn sizes_end_in_tc_on_datagrams_only() {
    let server = server();
    let (outcome, message) = server.ask(&query("long.cdn.test", 16, None), Transport::Udp);
    assert!(outcome.truncated && message.metadata.truncation && message.answers.is_empty());
    for (payload, fits) in [(511, false), (560, true), (4096, true)] {
        let (_, message) =
            server.ask(&query_of_class("long.cdn.test", 16, 1, Some(&[]), payload), Transport::Udp);
        assert_eq!(message.metadata.truncation, !fits, "{payload}");
        assert!(message.edns.is_some());
    }
    let (_, message) = server.ask(&query("long.cdn.test", 16, None), Transport::Stream);
    assert!(!message.metadata.truncation && message.answers.len() == 1);
}

#[test]
fn a_referral_without_all_its_glue_says_tc() {
    let server = server();
    let (outcome, message) = server.ask(&query("x.sub.cdn.test", 1, None), Transport::Udp);
    assert_eq!((outcome.verdict, message.metadata.truncation), (Verdict::Referral, false));
    assert_eq!(
        texts(&message.additionals),
        ["ns.sub.cdn.test. 300 A 192.0.2.54", "ns1.cdn.test. 300 A 192.0.2.53"]
    );
    assert!(!message.metadata.authoritative);
    let (_, message) = server.ask(&query("x.many.cdn.test", 1, Some(&[])), Transport::Udp);
    assert!(message.metadata.truncation && message.additionals.len() < 40);
    let (_, message) = server.ask(&query("x.many.cdn.test", 1, Some(&[])), Transport::Stream);
    assert!(!message.metadata.truncation && message.additionals.len() == 40);
}

#[test]
fn negative_answers_carry_the_smaller_ttl() {
    let (_, message) = server().ask(&query("none.cdn.test", 1, None), Transport::Udp);
    assert_eq!(message.authorities[0].ttl, 60);
}

#[test]
fn any_is_answered_minimally() {
    let (_, message) = server().ask(&query("cdn.test", 255, None), Transport::Udp);
    assert_eq!(message.answers.len(), 1);
    let mut bare = server();
    let origin: Name = "cdn.test".parse().unwrap();
    let text = "@ 60 SOA a b 1 2 3 4 5\n@ 60 NS ns.example.org.\n";
    let loaded = master::read(Path::new("z"), &origin, &mut |_| Ok(text.into())).unwrap();
    let bindings: Bindings = [("w.cdn.test".parse().unwrap(), Binding { service: 0, https: false })].into();
    bare.zones = Zones::new([Arc::new(Zone::build(origin, loaded.records, &bindings).unwrap().0)]);
    let (_, message) = bare.ask(&query("w.cdn.test", 255, None), Transport::Udp);
    assert_eq!(texts(&message.answers), ["w.cdn.test. 5 HINFO RFC8482 "]);
}

#[test]
fn transfers_are_refused_with_a_reason() {
    for rtype in [251, 252] {
        let (outcome, out) = server().raw(&query("cdn.test", rtype, Some(&[])), Transport::Stream);
        assert_eq!(outcome.verdict, Verdict::Refused);
        assert_eq!(option(&out, 15).unwrap()[..2], [0, 18]);
    }
    let (_, out) = server().raw(&query("other.test", 1, Some(&[])), Transport::Udp);
    assert_eq!(option(&out, 15).unwrap()[..2], [0, 20]);
}

#[test]
fn cookies_are_given_taken_and_exempt_from_limits() {
    let mut server = server();
    server.cookies = Some(CookieKeys::new([9; 16]));
    let (_, out) = server.raw(&query("static.cdn.test", 1, Some(&[(10, b"clientck")])), Transport::Udp);
    let cookie = option(&out, 10).unwrap();
    assert_eq!((cookie.len(), &cookie[..8]), (24, &b"clientck"[..]));
    let mut bare = query("x.test", 1, Some(&[(10, b"clientck")]));
    bare[5] = 0;
    let question = 12.."x.test".len() + 2 + 12 + 4;
    bare.drain(question);
    let (outcome, out) = server.raw(&bare, Transport::Udp);
    assert_eq!((outcome.verdict, option(&out, 10).map(|c| c.len())), (Verdict::NoError, Some(24)));

    server.rrl = Some(Rrl::new(RrlConfig { per_second: 1, slip: 1, ..RrlConfig::default() }, 3));
    let plain = query("static.cdn.test", 1, Some(&[]));
    let verdicts: Vec<Verdict> = (0..6).map(|_| server.raw(&plain, Transport::Udp).0.verdict).collect();
    assert_eq!(verdicts[..4], [Verdict::NoError; 4]);
    assert_eq!(verdicts[4..], [Verdict::RateLimited; 2]);
    let (outcome, message) = server.ask(&plain, Transport::Udp);
    assert!(outcome.truncated && message.metadata.truncation && message.answers.is_empty());
    let known = query("static.cdn.test", 1, Some(&[(10, &cookie)]));
    assert_eq!(server.raw(&known, Transport::Udp).0.verdict, Verdict::NoError);
    let new = query("static.cdn.test", 1, Some(&[(10, b"clientck")]));
    let (outcome, out) = server.raw(&new, Transport::Udp);
    assert_eq!(outcome.verdict, Verdict::BadCookie);
    assert_eq!(option(&out, 10).unwrap().len(), 24);
    assert_eq!(server.raw(&plain, Transport::Stream).0.verdict, Verdict::NoError);
}

#[test]
fn nothing_is_sent_to_responses_and_scraps() {
    let mut response = query("static.cdn.test", 1, None);
    response[2] |= 0x80;
    for packet in [&response[..], &[], &[0; 11]] {
        assert_eq!(server().raw(packet, Transport::Udp).0.bytes, 0);
    }
}

#[test]
fn other_opcodes_are_not_implemented_with_the_question_echoed() {
    let mut update = query("cdn.test", 6, Some(&[]));
    update[2] = 0x28;
    let (outcome, message) = server().ask(&update, Transport::Udp);
    assert_eq!((outcome.verdict, message.queries.len(), message.edns.is_some()), (Verdict::NotImp, 1, true));
}

/// A query signed with key `k.test`, algorithm `hmac-sha256`, and a made-up MAC of 32 octets.
fn signed(options: Option<&[(u16, &[u8])]>, key: &[u8]) -> Vec<u8> {
    let mut packet = query("static.cdn.test", 1, options);
    packet[11] += 1;
    packet.extend(key);
    packet.extend([0, 250, 0, 255, 0, 0, 0, 0]);
    let mut data = b"\x0bhmac-sha256\x00\x00\x00\x65\x00\x00\x01\x01\x2c\x00\x20".to_vec();
    data.extend([7; 32]);
    data.extend(b"\xbe\xef\x00\x00\x00\x00");
    packet.extend((data.len() as u16).to_be_bytes());
    packet.extend(data);
    packet
}

#[test]
fn a_signed_query_learns_that_its_key_is_unknown() {
    // RFC 8945 section 5.2.1: NOTAUTH and BADKEY, unsigned; key, algorithm, time and id as they came.
    let refusal = b"\x01k\x04test\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x1d\x0bhmac-sha256\x00\
        \x00\x00\x65\x00\x00\x01\x01\x2c\x00\x00\xbe\xef\x00\x11\x00\x00";
    for options in [None, Some(&[][..])] {
        let packet = signed(options, b"\x01k\x04test\x00");
        let (outcome, out) = server().raw(&packet, Transport::Udp);
        assert_eq!(outcome.verdict, Verdict::NotAuth);
        assert_eq!(out[3] & 15, 9);
        assert!(out.ends_with(refusal), "{out:?}");
        assert_eq!(out[11], 1 + u8::from(options.is_some()), "counted");
        Decoded::from_vec(&out).unwrap();
    }
    // A name of the longest kind, beside a question: still within 512 octets, or left out.
    let label = [&[63][..], &[b'x'; 63]].concat();
    let long = [&label[..], &label, &label, &[61], &[b'x'; 61], &[0]].concat();
    let (outcome, out) = server().raw(&signed(None, &long), Transport::Udp);
    assert_eq!((outcome.verdict, out[11]), (Verdict::NotAuth, 1));
    assert!(out.len() <= 512);
}

#[test]
fn transfers_and_notifications_are_refused_and_say_so() {
    for rtype in [251u16, 252] {
        for transport in [Transport::Udp, Transport::Stream] {
            let (outcome, message) = server().ask(&query("cdn.test", rtype, Some(&[])), transport);
            assert_eq!((outcome.verdict, outcome.truncated), (Verdict::Refused, false));
            assert!(message.answers.is_empty() && !message.metadata.authoritative);
        }
    }
    let mut notify = query("cdn.test", 6, None);
    notify[2] |= 4 << 3;
    let (outcome, out) = server().raw(&notify, Transport::Udp);
    assert_eq!((outcome.verdict, out[2] >> 3 & 15, out[3] & 15), (Verdict::NotImp, 4, 4));
}

#[test]
fn padding_is_for_encrypted_transports() {
    for transport in [Transport::Udp, Transport::Stream] {
        let (_, out) = server().raw(&query("static.cdn.test", 1, Some(&[(12, &[0; 8])])), transport);
        assert!(option(&out, 12).is_none() && out.len() < 100, "{out:?}");
    }
}

fn challenge(name: &str, values: &[&str]) -> Option<Challenges> {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    let lasts = crate::challenge::LIFE_MAX;
    Some(Challenges::default().with(&name.parse().unwrap(), &values, lasts, Moment(0)).unwrap())
}

/// Rcode, AA, and the answer section's records as `name type ttl data`.
fn said(server: &Server, name: &str, rtype: Rtype) -> String {
    let (_, answer) = server.ask(&query(name, rtype.0, None), Transport::Udp);
    let mut text = format!("{:?}{}", answer.response_code, if answer.authoritative { " aa" } else { "" });
    for record in &answer.answers {
        text.push_str(&format!(", {} {} {} {}", record.name, record.record_type(), record.ttl, record.data));
    }
    text
}

#[test]
fn a_challenge_is_answered_at_names_that_exist_and_at_names_that_do_not() {
    let mut server = server();
    let asked = [
        ("_acme-challenge.deep.new.cdn.test", Rtype::TXT),
        ("_acme-challenge.deep.new.cdn.test", Rtype::A),
        ("deep.new.cdn.test", Rtype::NS),
        ("new.cdn.test", Rtype::A),
        ("other.cdn.test", Rtype::A),
    ];
    let none: Vec<String> = asked.iter().map(|(name, rtype)| said(&server, name, *rtype)).collect();
    assert!(none.iter().all(|said| said == "NXDomain aa"), "{none:?}");
    server.challenges = challenge("_acme-challenge.deep.new.cdn.test", &["one", "two"]);
    let with: Vec<String> = asked.iter().map(|(name, rtype)| said(&server, name, *rtype)).collect();
    let name = "_acme-challenge.deep.new.cdn.test.";
    assert_eq!(with[0], format!("NoError aa, {name} TXT 0 one, {name} TXT 0 two"));
    assert_eq!(with[1..4], ["NoError aa"; 3], "the name and all above it exist");
    assert_eq!(with[4], "NXDomain aa");

    server.challenges = challenge("_acme-challenge.cdn.test", &["apex"]);
    assert_eq!(
        said(&server, "_ACME-Challenge.cdn.test", Rtype::TXT),
        "NoError aa, _ACME-Challenge.cdn.test. TXT 0 apex"
    );
    server.challenges = challenge("www.cdn.test", &["beside"]);
    assert_eq!(
        said(&server, "www.cdn.test", Rtype::TXT),
        "NoError aa, www.cdn.test. TXT 0 beside, www.cdn.test. TXT 0 static beside tailored"
    );
    assert!(said(&server, "www.cdn.test", Rtype::A).contains("192.0.2.80"));
}

#[test]
fn a_challenge_is_found_through_an_alias_and_never_below_a_cut() {
    let mut server = server();
    server.challenges = challenge("www.cdn.test", &["here"]);
    assert_eq!(
        said(&server, "to.cdn.test", Rtype::TXT),
        "NoError aa, to.cdn.test. CNAME 300 www.cdn.test., www.cdn.test. TXT 0 here"
    );
    server.challenges = challenge("to.cdn.test", &["instead"]);
    assert_eq!(said(&server, "to.cdn.test", Rtype::TXT), "NoError aa, to.cdn.test. TXT 0 instead");
    assert!(said(&server, "to.cdn.test", Rtype::A).contains("CNAME 300 www.cdn.test."));
    server.challenges = challenge("_acme-challenge.sub.cdn.test", &["not ours"]);
    assert_eq!(said(&server, "_acme-challenge.sub.cdn.test", Rtype::TXT), "NoError");
}
