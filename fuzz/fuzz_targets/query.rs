//! Any datagram gets nothing, or a message that an independent decoder reads.
#![no_main]

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;
use nearside_dns::{
    answer::{Context, Identity, Limits, Scratch, Transport, cookie::CookieKeys, respond},
    health::state::Moment,
    steering::Table,
};
use nearside_zones::{Bindings, Name, Zone, Zones, master};

const ZONE: &[u8] = b"@ 300 SOA ns h 1 2 3 4 60\n@ 300 NS ns\nns 300 A 192.0.2.1\n*.a 300 CNAME b.d\n\
d 300 DNAME a\nc 300 NS ns.c\nns.c 300 AAAA ::1\nl 300 DNAME l\nt 300 TXT a b c\n* 300 MX 1 t\n";

static ZONES: LazyLock<Zones> = LazyLock::new(|| {
    let origin: Name = "z.test".parse().expect("a name");
    let loaded = master::read(Path::new("z"), &origin, &mut |_| Ok(ZONE.to_vec())).expect("a zone file");
    Zones::new([Arc::new(Zone::build(origin, loaded.records, &Bindings::new()).expect("a zone").0)])
});

fuzz_target!(|query: &[u8]| {
    let (table, cookies) = (Table::default(), CookieKeys::new([7; 16]));
    let identity = Identity { nsid: Some(b"n"[..].into()), version: Some("v".into()), id: Some("i".into()) };
    let context = Context {
        zones: &ZONES,
        steer: &|_, _| unreachable!("no name is tailored here"),
        table: &table,
        services: &[],
        identity: &identity,
        limits: Limits::default(),
        cookies: Some(&cookies),
        rrl: None,
        challenges: None,
    };
    let source = "192.0.2.1:53".parse().expect("an address");
    for (transport, bytes_max) in [(Transport::Udp, 4096), (Transport::Stream, 65_535)] {
        let mut out = vec![0; bytes_max];
        let outcome =
            respond(&context, &mut Scratch::default(), query, source, transport, Moment(0), &mut out);
        if outcome.bytes > 0 {
            Message::from_vec(&out[..outcome.bytes]).expect("an answer that decodes");
        }
    }
});
