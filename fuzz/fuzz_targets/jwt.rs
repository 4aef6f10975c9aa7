//! Tokens and key sets to the gate of tokens: an empty line, then a JWK set; else a token.
//!
//! What must hold: no panic; a token that was not signed with the secret is not let in.
#![no_main]

use std::{sync::OnceLock, time::Duration};

use http::Request;
use libfuzzer_sys::fuzz_target;
use nearside_edge::gates::{jwks::KeySet, jwt::JwtGate};
use nearside_fleet::config::{
    gates::Acting,
    tokens::{Algorithm, Jwt, JwtKeys, TokenSource},
};

fn gate() -> JwtGate {
    let file = std::env::temp_dir().join(format!("nearside-fuzz-jwt-{}", std::process::id()));
    std::fs::write(&file, "cJ4eAZ2iH1nGSMCK3rkMmmIxtLwk6TXKbZZa4CJxDVM=").expect("a temporary file");
    let asked = Jwt {
        paths: vec!["/".to_owned()],
        sources: vec![TokenSource::Authorization],
        algorithms: vec![Algorithm::Hs256, Algorithm::Hs512],
        keys: JwtKeys::Secret(file.clone()),
        issuers: Vec::new(),
        audiences: Vec::new(),
        leeway: Duration::ZERO,
        claims: vec![("sub".to_owned(), "x-user".to_owned())],
        forward: false,
        shared: false,
        acting: Acting::default(),
    };
    let gate = JwtGate::build("s", &asked, None).expect("a secret");
    let _ = std::fs::remove_file(file);
    gate
}

fuzz_target!(|data: &[u8]| {
    static GATE: OnceLock<JwtGate> = OnceLock::new();
    if let Some(set) = data.strip_prefix(b"\n") {
        let _ = KeySet::parse(set);
        return;
    }
    let gate = GATE.get_or_init(gate);
    let value = [b"Bearer ", data].concat();
    if let Ok(request) = Request::get("/").header("authorization", value).body(()) {
        assert!(gate.judge(&request).is_err());
    }
});
