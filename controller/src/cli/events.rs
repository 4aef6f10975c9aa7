//! `nearside events`: what is wrong now, and what was told. `nearside webhook`: to whom.

use std::{process::ExitCode, time::Duration};

use bytes::Bytes;
use clap::{Args, Subcommand};
use nearside_node::args;

use super::{Failure, HomeArgs, QUICK, duration, failed, status::clock};
use crate::{
    api::{
        encode,
        events::{EventsAnswer, WebhooksAnswer},
    },
    events::State,
};

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

#[derive(Subcommand)]
pub(super) enum WebhookCommand {
    /// Shows how each is doing
    List,
    /// Sends one a message of no consequence; ends with 1 and the reason if it is not taken
    Test {
        /// Its name in the fleet file
        name: String,
    },
}

pub(super) async fn webhook(at: &HomeArgs, command: WebhookCommand) -> Result<ExitCode, Failure> {
    match command {
        WebhookCommand::List => {
            let answer: WebhooksAnswer = at.peer()?.get("/v1/webhooks", QUICK).await?;
            if at.json {
                println!("{}", serde_json::to_string_pretty(&answer).map_err(failed)?);
                return Ok(args::OK);
            }
            if answer.webhooks.is_empty() {
                println!("nobody is told: add a [controller.webhook.NAME] to {}", at.fleet.display());
            }
            for hook in answer.webhooks {
                let error = hook.error.map_or(String::new(), |error| format!(": {error}"));
                println!("{:<16} {} told, {} given up{error}", hook.name, hook.delivered, hook.given_up);
            }
        }
        WebhookCommand::Test { name } => {
            let path = format!("/v1/webhooks/{}/test", encode(&name));
            let _: serde_json::Value = at.post(&path, Bytes::new()).await?;
            at.done(&serde_json::json!({ "webhook": name }), &format!("{name} took it"));
        }
    }
    Ok(args::OK)
}
