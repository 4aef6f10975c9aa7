//! drill: rehearses failures against real processes; see `scripts/drill`.

#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use nearside_tests::drills::{ALL, Drill};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!("usage: drill [--list] [NAME…]\n\nexample: drill pop-dies shield-once");
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        for drill in ALL {
            println!("{:<22} {}", drill.name, drill.what);
        }
        return ExitCode::SUCCESS;
    }
    for name in &arguments {
        if !ALL.iter().any(|drill| drill.name == name) {
            let known: Vec<&str> = ALL.iter().map(|drill| drill.name).collect();
            eprintln!("drill: there is no drill {name:?}; there are: {}", known.join(" "));
            return ExitCode::from(2);
        }
    }
    let chosen = |drill: &&Drill| arguments.is_empty() || arguments.iter().any(|name| name == drill.name);
    let mut failed = 0;
    for drill in ALL.iter().filter(chosen) {
        let start = std::time::Instant::now();
        let outcome = std::panic::catch_unwind(drill.run);
        let word = if outcome.is_ok() { "ok" } else { "failed" };
        failed += u32::from(outcome.is_err());
        println!("drill {} {word} {:.1}", drill.name, start.elapsed().as_secs_f64());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
