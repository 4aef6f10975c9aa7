//! Bytes to a PROXY header, versions 1 and 2.
//!
//! What must hold: no panic; it never asks for more than a header can have; what follows a header changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearside_edge::listen::proxy::{Parsed, parse};

fuzz_target!(|data: &[u8]| match parse(data) {
    Ok(Parsed::Header(said, length)) => {
        assert!(length <= data.len());
        assert_eq!(parse(&data[..length]), Ok(Parsed::Header(said, length)));
        for cut in 0..length {
            assert!(matches!(parse(&data[..cut]), Ok(Parsed::More(_))), "cut at {cut}");
        }
    }
    Ok(Parsed::More(more)) => assert!(more > 0 && data.len() + more <= 16 + 4096),
    Err(_) => {}
});
