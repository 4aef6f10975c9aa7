//! `nearside events`: what is wrong now, and what was told.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use nearside_node::args;

use super::{Failure, HomeArgs, QUICK, duration, failed, status::clock};
use crate::{api::events::EventsAnswer, events::State};

#[derive(Args)]
pub(super) struct EventsArgs {
    /// How far back
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    since: Duration,
    /// Only what holds now; the exit code is 1 if anything does
    #[arg(long)]
    open: bool,
}

pub(super) async fn events(at: &HomeArgs, what: &EventsArgs) -> Result<ExitCode, Failure> {
    let path = format!("/v1/events?since={}", what.since.as_secs());
    let mut answer: EventsAnswer = at.peer()?.get(&path, QUICK).await?;
    if what.open {
        answer.events.clear();
    }
    if at.json {
        println!("{}", serde_json::to_string_pretty(&answer).map_err(failed)?);
    } else {
        print(&answer, what.open);
    }
    Ok(if what.open && !answer.open.is_empty() { args::failed() } else { args::OK })
}

fn print(answer: &EventsAnswer, only_open: bool) {
    if answer.open.is_empty() {
        println!("nothing is wrong");
    }
    for open in &answer.open {
        let (severity, kind) = (open.severity.name(), open.kind.name());
        println!("{severity:<8} {kind} {} since {}", open.subject, clock(open.since));
        println!("  {}", open.message.replace('\n', "\n  "));
    }
    if only_open || answer.events.is_empty() {
        return;
    }
    println!();
    for entry in answer.events.iter().rev() {
        let (state, kind) = (entry.state, entry.kind.name());
        let muted = if entry.muted { " (not sent: it changes too often)" } else { "" };
        println!("{} {:<8} {kind} {}{muted}", clock(entry.at), state.name(), entry.subject);
        if state != State::Repeated {
            println!("  {}", entry.message.replace('\n', "\n  "));
        }
    }
}
