//! Targets and fields of requests to the gates that read them: patterns over normalised parts, and what is counted by.
//!
//! What must hold: no panic; a normalised text is no longer than what it was made of, and normalising it again finds
//! nothing odd that was not there but for deeper encodings.
#![no_main]

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue, Uri, header};
use libfuzzer_sys::fuzz_target;
use nearside_edge::gates::{
    waf::{
        WafGate,
        normal::{Plus, normalise},
    },
    who::Per,
};
use nearside_fleet::config::gates::{self, Acting, WafFamily};

static GATE: LazyLock<WafGate> = LazyLock::new(|| {
    let families = WafFamily::ALL.iter().map(|(_, family)| *family).collect();
    let asked = gates::WafGate {
        families,
        threshold: 5,
        headers: Vec::new(),
        query_bytes_max: 8192,
        rules: Vec::new(),
        excludes: Vec::new(),
        acting: Acting::default(),
    };
    WafGate::new(&asked).expect("the built-in patterns")
});

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (target, field) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    for plus in [Plus::Space, Plus::Itself] {
        let normal = normalise(target, plus);
        assert!(normal.text.len() <= target.len());
    }
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(field) {
        headers.insert(header::USER_AGENT, value.clone());
        headers.insert(header::COOKIE, value);
    }
    let Ok(uri) = Uri::try_from(target) else { return };
    let _ = GATE.judge(&uri, &headers);
    let client = "2001:db8::1".parse().expect("an address");
    for per in [Per::Cookie("s".to_owned()), Per::Query("t".to_owned()), Per::Path] {
        let _ = per.of(&headers, uri.path(), uri.query(), client, 64).name();
    }
});
