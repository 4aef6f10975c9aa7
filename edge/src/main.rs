//! `nearside-edge`, the program: everything is in the library.

use std::process::ExitCode;

/// glibc's allocator fragments under many small objects of many lifetimes; mimalloc costs twice the CPU on
/// TLS bulk.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    nearside_edge::cli::run()
}
