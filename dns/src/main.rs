//! `nearside-dns`: see [`nearside_dns::cli`].

use std::process::ExitCode;

/// glibc's allocator ties on throughput but keeps the memory of compiled databases.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    nearside_dns::cli::main()
}
