//! Where a test may kill home between two steps; nothing at all in a release.

/// Ends the process on the spot, as a power cut would, if a test asked for that at this point. The point is in the variable
/// `NEARSIDE_CRASH_AT`, and only builds with debug assertions look at it.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    if std::env::var_os("NEARSIDE_CRASH_AT").is_some_and(|wanted| wanted == name) {
        tracing::warn!(name, "is killed here, as was asked");
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn point(_name: &str) {}
