//! `nearside node` and `nearside operator`: who belongs to the fleet.
//!
//! Adding works on home's state directory, where the CA's key is, with or without a running controller. Revoking asks the
//! controller, because the nodes have to be told.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Subcommand;
use nearside_node::{args, state::StateDir};

use super::{Failure, HomeArgs, QUICK, duration, failed, status::clock};
use crate::{
    api::identities::{IdentityList, RevokeAnswer, RevokeRequest},
    archive,
    client::json,
    home::{DATABASE, Home, seconds},
    identities::{self, NODE_LIFE},
    journal::{Journal, identity::Registered},
};

#[derive(Subcommand)]
pub(super) enum NodeCommand {
    /// Makes an identity for a node of the fleet file, as one file to copy, and says what to type there
    #[command(after_help = "Examples:\n  nearside node add fra\n  nearside node add fra --out /media/usb")]
    Add {
        /// The PoP or DNS node
        name: String,
        /// Where the file goes [default: <STATE_DIR>/identities]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Even though it has one: what it was sent so far it can then no longer read
        #[arg(long)]
        again: bool,
    },
    /// Lists identities: whose, until when, which are revoked
    List,
    /// Refuses a node from now on, everywhere: its machine or its identity was stolen
    #[command(after_help = "Examples:\n  nearside node revoke fra --reason \"machine was stolen\"")]
    Revoke {
        /// Which
        name: String,
        /// For the audit log, and whoever reads it
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Revokes a node that leaves the fleet for good, and forgets its keys at home
    Remove {
        /// Which
        name: String,
    },
}

#[derive(Subcommand)]
pub(super) enum OperatorCommand {
    /// Makes a certificate for a person: a directory for `nearside --identity`, or for curl
    #[command(after_help = "Examples:\n  nearside operator add alice --expires 90d --out ./alice")]
    Add {
        /// Who, as the audit log will name them
        name: String,
        /// How long it is good; it is not renewed by itself
        #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = duration)]
        expires: Duration,
        /// Where the directory goes [default: <STATE_DIR>/operators/<NAME>]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Refuses a person from now on, everywhere
    Revoke {
        /// Whom
        name: String,
        /// For the audit log
        #[arg(long, default_value = "")]
        reason: String,
    },
}

pub(super) async fn node(at: &HomeArgs, command: &NodeCommand) -> Result<ExitCode, Failure> {
    match command {
        NodeCommand::Add { name, out, again } => add(at, name, out.as_deref(), *again),
        NodeCommand::List => list(at).await,
        NodeCommand::Revoke { name, reason } => {
            revoke(at, &format!("node:{name}"), reason).await?;
            println!(
                "Site certificates that {name} had the keys of, from public authorities or files, have to be replaced \
                 by you;\nthose of the fleet's CA and the keys of TLS session tickets were. `nearside node add {name}` \
                 gives it a new identity."
            );
            Ok(args::OK)
        }
        NodeCommand::Remove { name } => {
            revoke(at, &format!("node:{name}"), "removed").await?;
            let state = StateDir::open(&at.state_dir).map_err(failed)?;
            let _not_there = fs::remove_dir_all(state.path(format!("identities/{name}")));
            let _not_there = fs::remove_file(state.path(format!("identities/{name}.tar")));
            println!("now remove [pop.{name}] or [dns.{name}] from {}", at.fleet.display());
            Ok(args::OK)
        }
    }
}

pub(super) async fn operator(at: &HomeArgs, command: &OperatorCommand) -> Result<ExitCode, Failure> {
    match command {
        OperatorCommand::Add { name, expires, out } => {
            let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
            if name.is_empty() || !name.chars().all(plain) {
                return Err(failed(format!("{name:?} is no name: letters, digits and `-`")));
            }
            let state = StateDir::open(&at.state_dir).map_err(failed)?;
            let (home, journal) = open(&state)?;
            let dir = out.clone().unwrap_or_else(|| state.path(format!("operators/{name}")));
            let dir = StateDir::open(dir).map_err(failed)?;
            let common_name = format!("operator:{name}");
            let now = SystemTime::now();
            let made =
                identities::make(&home, &journal, &dir, &common_name, now, *expires).map_err(failed)?;
            audited(&journal, &made);
            println!(
                "made {}: ca.pem, cert.pem, key.pem, good until {}",
                dir.root().display(),
                clock(made.not_after)
            );
            println!(
                "give it to {name}, who says `nearside --identity DIR --controller ADDRESS:PORT status`"
            );
            Ok(args::OK)
        }
        OperatorCommand::Revoke { name, reason } => {
            revoke(at, &format!("operator:{name}"), reason).await?;
            Ok(args::OK)
        }
    }
}

fn add(at: &HomeArgs, name: &str, out: Option<&Path>, again: bool) -> Result<ExitCode, Failure> {
    let loaded = nearside_fleet::load(&at.fleet).map_err(|mistakes| {
        failed(mistakes.iter().map(nearside_fleet::Mistake::with_source).collect::<Vec<_>>().join("\n"))
    })?;
    let config = loaded.config;
    let unit = match (config.pops.contains_key(name), config.dns.contains_key(name)) {
        (true, _) => "nearside-edge",
        (_, true) => "nearside-dns",
        _ => {
            let known: Vec<&str> = config.pops.keys().chain(config.dns.keys()).map(String::as_str).collect();
            let (file, known) = (at.fleet.display(), known.join(", "));
            return Err(failed(format!(
                "{file} has no [pop.{name}] and no [dns.{name}]: write it there first; it has: {known}"
            )));
        }
    };
    let state = StateDir::open(&at.state_dir).map_err(failed)?;
    let (home, journal) = open(&state)?;
    let common_name = format!("node:{name}");
    let register = journal.identities().map_err(failed)?;
    let now = SystemTime::now();
    let is_good = |one: &Registered| one.revoked.is_none() && one.not_after > seconds(now);
    if !again && register.iter().any(|one| one.name == common_name && is_good(one)) {
        return Err(failed(format!(
            "{name} has an identity. If its machine is lost or stolen: `nearside node revoke {name}`, then this again; if its \
             disk was replaced: `nearside node add {name} --again`"
        )));
    }
    let bundles = state.subdir("identities").map_err(failed)?;
    let dir = bundles.subdir(name).map_err(failed)?;
    // A sealing pair of its own with every identity: what an old one opened stays closed to it, and the other way round.
    state.remove(format!("seal/{name}.pub")).map_err(failed)?;
    let made = identities::make(&home, &journal, &dir, &common_name, now, NODE_LIFE);
    let made = made.map_err(failed)?;
    home.node_keys(&bundles, name).map_err(failed)?;
    audited(&journal, &made);
    let file =
        out.map_or_else(|| bundles.root().to_path_buf(), Path::to_path_buf).join(format!("{name}.tar"));
    let packed = archive::pack_dir(dir.root())
        .map_err(|error| failed(format!("{}: {error}", dir.root().display())))?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written =
        options.open(&file).and_then(|mut file| file.write_all(&packed).and_then(|()| file.sync_all()));
    written.map_err(|error| failed(format!("{}: {error}", file.display())))?;
    fs::remove_dir_all(dir.root()).map_err(failed)?;
    println!("made {}, good until {}", file.display(), clock(made.not_after));
    println!(
        "copy it to {name}, and there, as root:\n\n    \
         install -d -m 700 /var/lib/nearside/{name}/identity\n    \
         tar -xf {name}.tar -C /var/lib/nearside/{name}/identity && rm {name}.tar\n    \
         chown -R --reference=/var/lib/nearside/{name}/. /var/lib/nearside/{name}/identity\n    \
         systemctl restart {unit}@{name}\n\n\
         then here: rm {}\n\
         Home renews it with a key made there as soon as it reaches the node. `nearside publish` then seals for it what it\n\
         needs.",
        file.display()
    );
    Ok(args::OK)
}

fn open(state: &StateDir) -> Result<(Home, Journal), Failure> {
    let home = Home::open(state.clone()).map_err(failed)?;
    Ok((home, Journal::open(&state.path(DATABASE)).map_err(failed)?))
}

fn audited(journal: &Journal, made: &Registered) {
    let what = format!("made an identity for {}", made.name);
    if let Err(error) = journal.audit(seconds(SystemTime::now()), "local", &what) {
        eprintln!("warning: not written to the audit log: {error}");
    }
}

async fn revoke(at: &HomeArgs, name: &str, reason: &str) -> Result<(), Failure> {
    let asked = RevokeRequest { name: name.to_owned(), reason: reason.to_owned() };
    let answer: RevokeAnswer = at.post("/v1/identities/revoke", json(&asked)).await?;
    if at.json {
        println!("{}", serde_json::to_string_pretty(&answer).map_err(failed)?);
        return Ok(());
    }
    match answer.revoked {
        0 => println!("all identities of {name} were revoked before"),
        1 => println!("revoked the identity of {name}"),
        count => println!("revoked {count} identities of {name}"),
    }
    println!("home refuses them now, every other node as soon as home reaches it (`nearside status`)");
    if let Some(reason) = answer.publish {
        println!("new keys were not published yet, because what is on disk is refused:\n{reason}");
    }
    Ok(())
}

async fn list(at: &HomeArgs) -> Result<ExitCode, Failure> {
    let list: IdentityList = at.peer()?.get("/v1/identities", QUICK).await?;
    if at.json {
        println!("{}", serde_json::to_string_pretty(&list).map_err(failed)?);
        return Ok(args::OK);
    }
    println!("{:<24} {:<34} {:<20} {:<7} REVOKED", "NAME", "SERIAL", "UNTIL", "KEY");
    let now = seconds(SystemTime::now());
    for one in list.identities.iter().filter(|one| one.not_after > now) {
        let made = match one.made {
            crate::journal::identity::Provenance::There => "its own",
            _ => "carried",
        };
        let revoked = one.revoked.map_or(String::new(), |at| format!("{} {}", clock(at), one.reason));
        println!("{:<24} {:<34} {:<20} {made:<7} {revoked}", one.name, one.serial, clock(one.not_after));
    }
    Ok(args::OK)
}
