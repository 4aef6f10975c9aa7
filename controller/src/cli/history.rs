//! `nearside history` and `nearside diff`: what was published, and what differs.

use std::process::ExitCode;

use nearside_node::args;

use super::{Failure, HomeArgs, LONG, QUICK, failed, status::clock};
use crate::{
    api::{encode, publish::History},
    diff::{Diff, Side},
    history::{Change, Told, What},
    journal::publications::Outcome,
};

pub(super) async fn history(at: &HomeArgs, number: Option<u64>, count: usize) -> Result<ExitCode, Failure> {
    if let Some(number) = number {
        let told: Told = at.peer()?.get(&format!("/v1/history/{number}"), QUICK).await?;
        if at.json {
            println!("{}", serde_json::to_string_pretty(&told).map_err(failed)?);
        } else {
            print_one(&told);
        }
        return Ok(args::OK);
    }
    let history: History = at.peer()?.get(&format!("/v1/history?count={count}"), LONG).await?;
    if at.json {
        println!("{}", serde_json::to_string_pretty(&history).map_err(failed)?);
        return Ok(args::OK);
    }
    println!("{:>8}  {:<20} {:<12} {:<11} {:<12} NOTE", "SNAPSHOT", "WHEN", "WHO", "OUTCOME", "FILES");
    for told in &history.snapshots {
        let one = &told.publication;
        println!(
            "{:>8}  {:<20} {:<12} {:<11} {:<12} {}",
            one.number,
            clock(one.created),
            one.who,
            one.outcome,
            summary(told.changes.as_deref()),
            note(told)
        );
    }
    Ok(args::OK)
}

/// `1+ 2~ 0-`: added, changed, removed.
fn summary(changes: Option<&[Change]>) -> String {
    let Some(changes) = changes else { return "-".to_owned() };
    let count = |what| changes.iter().filter(|change| change.what == what).count();
    format!("{}+ {}~ {}-", count(What::Added), count(What::Changed), count(What::Removed))
}

fn note(told: &Told) -> String {
    let one = &told.publication;
    let back = one.rollback_of.map(|number| format!("repeats {number}"));
    let failed = (one.outcome == Outcome::Failed).then(|| one.told.clone());
    let note = (!one.note.is_empty()).then(|| one.note.clone());
    let all: Vec<String> = [back, note, failed].into_iter().flatten().collect();
    all.join("; ").replace('\n', " ")
}

fn print_one(told: &Told) {
    let one = &told.publication;
    println!("snapshot {} of {} by {}: {}", one.number, clock(one.created), one.who, one.outcome);
    let note = note(told);
    if !note.is_empty() {
        println!("{note}");
    }
    match &told.changes {
        None => println!("the snapshot before is no longer kept: what changed is not known"),
        Some(changes) if changes.is_empty() => println!("no file changed"),
        Some(changes) => changes.iter().for_each(print_change),
    }
}

fn print_change(change: &Change) {
    let print = |side: &Option<String>| side.clone().unwrap_or_else(|| "-".to_owned());
    let sealed = match change.sealed {
        true => format!(" sealed for {}", change.nodes.join(", ")),
        false => String::new(),
    };
    println!(
        "{:<8} {} {} → {}{sealed}",
        change.what,
        change.path,
        print(&change.before),
        print(&change.after)
    );
}

pub(super) async fn diff(at: &HomeArgs, from: Option<Side>, to: Option<Side>) -> Result<ExitCode, Failure> {
    let side =
        |name: &str, side: Option<Side>| side.map(|side| format!("{name}={}", encode(&side.to_string())));
    let query: Vec<String> = [side("from", from), side("to", to)].into_iter().flatten().collect();
    let diff: Diff = at.peer()?.get(&format!("/v1/diff?{}", query.join("&")), LONG).await?;
    if at.json {
        println!("{}", serde_json::to_string_pretty(&diff).map_err(failed)?);
        return Ok(args::OK);
    }
    if diff.files.is_empty() {
        println!("{} and {} are the same", diff.from, diff.to);
    }
    for file in &diff.files {
        match &file.text {
            Some(text) if !text.is_empty() => print!("{text}"),
            _ => print_change(&file.change),
        }
    }
    Ok(args::OK)
}
