//! Queries and cookies to the checks of signed addresses: two lines, the query and the cookie's value.
//!
//! What must hold: no panic; nothing that was not signed is let in.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use nearside_fleet::signing::{self, Asking, Keys};

fuzz_target!(|data: &[u8]| {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        let line = Keys::new_line("k").expect("a random source");
        Keys::parse(&line).expect("what was made")
    });
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (query, cookie) = text.split_once('\n').unwrap_or((text, ""));
    let asking = Asking { client: [192, 0, 2, 1].into(), now: 1_800_000_000, life_max: 3600 };
    let unsigned = |name: &str| name == "t";
    assert!(signing::check_url(keys, "s", "/a", Some(query), &unsigned, &asking).is_err());
    assert!(signing::check_cookie(keys, "s", "/a", cookie, &asking).is_err());
    let _ = signing::without_ours(Some(query));
    let _ = Keys::parse(text);
});
