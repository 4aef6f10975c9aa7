//! DNS over TLS, HTTPS and QUIC, and signed queries, as `kdig` and `dig` speak them.

use std::process::Command;

use nearside_tests::{
    fleet::{Fleet, NEIGHBOURS, SOON},
    process, wait,
};

/// Octets that padded answers are a multiple of (RFC 8467 section 4.1).
const BLOCK_BYTES: usize = 468;

/// What kdig prints, or nothing where it is not installed.
fn kdig(fleet: &Fleet, port: u16, arguments: &str) -> String {
    let mut kdig = Command::new("kdig");
    kdig.arg(format!("@{}", fleet.dns("ns1").ip())).args(["-p", &port.to_string(), "+retry=0", "+timeout=5"]);
    process::run(kdig.args(arguments.split_whitespace())).stdout
}

/// `;; Received 468 B`
fn received_bytes(text: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix(";; Received "));
    let bytes = line.and_then(|rest| rest.split(' ').next()?.parse().ok());
    bytes.unwrap_or_else(|| panic!("kdig does not say what it received:\n{text}"))
}

#[test]
fn every_encrypted_transport_answers_alike_and_pads_for_who_pads() {
    let mut fleet = Fleet::new();
    let ip = fleet.dns("ns1").ip();
    let encrypted = format!(
        "[dns.ns1.encrypted]\ntls = \"{ip}:8530\"\nhttps = \"{ip}:8443\"\nquic = \"{ip}:8530\"\n\
         certificate = \"tls/www.pem\"\nkey = \"tls/www.key\"\n\n[check.edge]"
    );
    fleet.edit(&fleet.fleet_file(), "[check.edge]", &encrypted);
    fleet.edit(&fleet.fleet_file(), "checks = \"edge\"\n", "");
    fleet.start("ns1");
    fleet.wait_serving("ns1");
    let ways = [(8530, "+tls"), (8443, "+https=/dns-query"), (8530, "+quic")];
    for (port, way) in ways {
        for (pop, client) in NEIGHBOURS {
            let address = fleet.address(pop);
            let asked = format!("{way} www.cdn.test A +subnet={client}");
            let plain = wait::until(&format!("{way} answers"), SOON, || {
                let text = kdig(&fleet, port, &format!("{asked} +nopadding"));
                if text.contains(&format!("IN\tA\t{address}")) { Ok(text) } else { Err(text) }
            });
            assert!(received_bytes(&plain) < BLOCK_BYTES && !plain.contains("PADDING"), "{way}: {plain}");
            assert!(plain.contains("CLIENT-SUBNET"), "{way}: {plain}");
            let padded = kdig(&fleet, port, &format!("{asked} +padding=128"));
            assert!(padded.contains(&format!("IN\tA\t{address}")), "{way}: {padded}");
            assert_eq!(received_bytes(&padded), BLOCK_BYTES, "{way}: {padded}");
        }
        // A longer answer fills more than one block, and is whole.
        let long = kdig(&fleet, port, &format!("{way} cdn.test SOA +padding=600"));
        assert_eq!(received_bytes(&long) % BLOCK_BYTES, 0, "{way}: {long}");
        let refused = kdig(&fleet, port, &format!("{way} cdn.test AXFR"));
        assert!(!refused.contains("IN\tSOA"), "{way}: {refused}");
    }
    // In the clear nobody learns anything from a length.
    let clear = kdig(&fleet, 5353, "+tcp www.cdn.test A +padding=128");
    assert!(received_bytes(&clear) < BLOCK_BYTES && !clear.contains("PADDING"), "{clear}");
    assert!(fleet.metric("ns1", "nearside_dns_queries_total", &["transport=\"tcp\""]) >= 18.0);
}

#[test]
fn a_key_nobody_knows_is_refused_as_such() {
    let mut fleet = Fleet::new();
    fleet.edit(&fleet.fleet_file(), "checks = \"edge\"\n", "");
    fleet.start("ns1");
    fleet.wait_serving("ns1");
    for arguments in
        ["static.cdn.test A", "cdn.test AXFR", "+tcp static.cdn.test A", "+noedns static.cdn.test A"]
    {
        let answer =
            fleet.dig("ns1", &format!("{arguments} -y hmac-sha256:key.test:bmVhcnNpZGUgaXMgbm90IGEga2V5"));
        assert!(
            answer.text.contains("NOTAUTH") || answer.text.contains("BADKEY"),
            "{arguments}: {}",
            answer.text
        );
        assert!(
            answer.text.contains("BADKEY") || answer.text.contains("bad key"),
            "{arguments}: {}",
            answer.text
        );
        assert!(answer.records.is_empty(), "{arguments}: {}", answer.text);
    }
    assert!(fleet.metric("ns1", "nearside_dns_queries_total", &["rcode=\"NOTAUTH\""]) >= 3.0);
    let refused = fleet.dig("ns1", "cdn.test AXFR");
    assert!(refused.text.contains("Transfer failed"), "{}", refused.text);
    let single = fleet.dig("ns1", "cdn.test IXFR=1");
    assert!(single.text.contains("Transfer failed"), "{}", single.text);
    let notify = fleet.dig("ns1", "cdn.test SOA +opcode=notify");
    assert_eq!(notify.status, "NOTIMP", "{}", notify.text);
}
