//! Bytes to an image's header, and to an image where that announces a small one.
//!
//! What must hold: no panic; what is accepted is within its limits; what is made of it can be read again.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use nearside_edge::transform::image::{Asked, Fit, PIXELS_MAX, look, make};

fuzz_target!(|data: &[u8]| {
    let Ok(header) = look(data) else { return };
    let pixels = u64::from(header.width) * u64::from(header.height);
    assert!((1..=PIXELS_MAX).contains(&pixels));
    if pixels > 1 << 16 {
        return;
    }
    let asked =
        Asked { width: Some(16), height: Some(16), fit: Fit::Cover, quality: 50, has_quality: true };
    if let Ok(made) = make(data, asked, &[], Instant::now() + Duration::from_secs(5)) {
        let made = look(&made.content).expect("what was made is an image");
        assert_eq!((made.width, made.height), (16, 16));
    }
});
