//! `nearside token` and `nearside audit`: who may what, and who did what.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use clap::{Subcommand, ValueEnum};
use http::Method;
use nearside_node::{args, control::TokenRole};

use super::{Failure, HomeArgs, QUICK, duration, failed, status::clock};
use crate::{
    api::{
        audit::AuditAnswer,
        encode,
        tokens::{TokenAnswer, TokenList, TokenRequest},
    },
    client::json,
    home::seconds,
};

/// A role as it is typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum RoleName {
    /// Everything
    Operator,
    /// Purge, warm and ask what is cached, of its sites
    Deployer,
    /// Look at everything
    Reader,
}

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Makes a token and shows it, this once
    #[command(after_help = "Examples:\n  \
        nearside token create ci-www --role deployer --site www --expires 90d")]
    Create {
        /// Its name, for the list and the audit log
        name: String,
        /// What it may do
        #[arg(long, value_enum)]
        role: RoleName,
        /// A deployer's sites
        #[arg(long, value_name = "SITE")]
        site: Vec<String>,
        /// How long it is good
        #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = duration)]
        expires: Duration,
    },
    /// Lists tokens: what they may, until when, when they were last used
    List,
    /// Ends one now
    Revoke {
        /// Which
        name: String,
    },
}

pub(super) async fn token(at: &HomeArgs, command: &TokenCommand) -> Result<ExitCode, Failure> {
    match command {
        TokenCommand::Create { name, role, site, expires } => {
            let role = match role {
                RoleName::Operator => TokenRole::Operator,
                RoleName::Deployer => TokenRole::Deployer,
                RoleName::Reader => TokenRole::Reader,
            };
            let expires_seconds = expires.as_secs();
            let asked = TokenRequest { name: name.clone(), role, sites: site.clone(), expires_seconds };
            let made: TokenAnswer = at.post("/v1/tokens", json(&asked)).await?;
            if at.json {
                println!("{}", serde_json::to_string_pretty(&made).map_err(failed)?);
            } else {
                println!("{}", made.token);
                let until = made.made.expires.map_or("it is revoked".to_owned(), clock);
                eprintln!(
                    "this is shown once: keep it where the pipeline keeps its secrets; good until {until}"
                );
            }
        }
        TokenCommand::List => {
            let list: TokenList = at.peer()?.get("/v1/tokens", QUICK).await?;
            if at.json {
                println!("{}", serde_json::to_string_pretty(&list).map_err(failed)?);
                return Ok(args::OK);
            }
            println!("{:<24} {:<9} {:<20} {:<20} SITES", "NAME", "ROLE", "UNTIL", "LAST USED");
            for token in &list.tokens {
                let until = token.expires.map_or("-".to_owned(), clock);
                let used = token.used.map_or("never".to_owned(), clock);
                let sites = token.sites.join(" ");
                println!("{:<24} {:<9} {until:<20} {used:<20} {sites}", token.name, token.role);
            }
        }
        TokenCommand::Revoke { name } => {
            let path = format!("/v1/tokens/{}", encode(name));
            at.peer()?.ask(Method::DELETE, &path, Bytes::new(), QUICK).await?.good()?;
            println!("token {name} is good for nothing any more");
        }
    }
    Ok(args::OK)
}

pub(super) async fn audit(at: &HomeArgs, since: Option<Duration>, limit: usize) -> Result<ExitCode, Failure> {
    let since = since.map_or(0, |since| seconds(SystemTime::now()).saturating_sub(since.as_secs()));
    let path = format!("/v1/audit?since={since}&limit={limit}");
    let answer: AuditAnswer = at.peer()?.get(&path, QUICK).await?;
    if at.json {
        println!("{}", serde_json::to_string_pretty(&answer).map_err(failed)?);
        return Ok(args::OK);
    }
    for entry in answer.entries.iter().rev() {
        let from = entry.from.as_deref().map_or(String::new(), |from| format!(" from {from}"));
        let result = if entry.result == "done" { String::new() } else { format!(": {}", entry.result) };
        println!("{} {}{from} {}{result}", clock(entry.at), entry.who, entry.what);
    }
    Ok(args::OK)
}
