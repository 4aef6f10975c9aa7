//! `nearside`: the operator's command line; see [`nearside_controller::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    nearside_controller::cli::main()
}
