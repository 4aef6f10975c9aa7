//! `nearside backup` and `nearside restore`: home in one encrypted file.
//!
//! Both work on the state directory itself: a backup may be made while the controller runs, a restore only where there is
//! none yet.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::SystemTime,
};

use age::secrecy::SecretString;
use clap::Args;
use nearside_node::{args, state::StateDir};

use super::{Failure, HomeArgs, failed, status::clock};
use crate::{
    backup::{self, Lock, Unlock},
    home::{DATABASE, seconds},
    journal::Journal,
};

/// Shortest passphrase taken: whoever has the file can try at leisure.
const PASSPHRASE_CHARS_MIN: usize = 12;

#[derive(Args)]
pub(super) struct BackupArgs {
    /// Where it goes; must not be there yet
    file: PathBuf,
    /// Who can open it: an age recipient, `age1…`; may be repeated [default: a passphrase is asked for]
    #[arg(long, value_name = "AGE1…")]
    recipient: Vec<String>,
    /// A file with the passphrase in its first line
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct RestoreArgs {
    /// The backup
    file: PathBuf,
    /// A file with the age key that opens it, `AGE-SECRET-KEY-1…` [default: a passphrase is asked for]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A file with the passphrase in its first line
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    passphrase_file: Option<PathBuf>,
}

pub(super) fn backup(at: &HomeArgs, what: &BackupArgs) -> Result<ExitCode, Failure> {
    let lock = if what.recipient.is_empty() {
        let phrase = passphrase(what.passphrase_file.as_deref(), "a passphrase for the backup: ")?;
        if phrase.chars().count() < PASSPHRASE_CHARS_MIN {
            return Err(failed(format!(
                "a passphrase of at least {PASSPHRASE_CHARS_MIN} characters is needed"
            )));
        }
        Lock::Passphrase(SecretString::from(phrase))
    } else {
        let read = |text: &String| {
            text.parse::<age::x25519::Recipient>().map_err(|error| failed(format!("{text}: {error}")))
        };
        Lock::Recipients(what.recipient.iter().map(read).collect::<Result<_, _>>()?)
    };
    if !at.state_dir.join(DATABASE).exists() {
        return Err(failed(format!("{} is no state directory of a controller", at.state_dir.display())));
    }
    let state = StateDir::open(&at.state_dir).map_err(failed)?;
    let now = SystemTime::now();
    let made = backup::backup(&state, &what.file, &lock, now).map_err(failed)?;
    let journal = Journal::open(&state.path(DATABASE)).map_err(failed)?;
    journal.audit(seconds(now), "local", &format!("made backup {}", what.file.display())).map_err(failed)?;
    if at.json {
        println!("{}", serde_json::to_string_pretty(&made).map_err(failed)?);
        return Ok(args::OK);
    }
    let snapshot = made.snapshot.map_or("no snapshot".to_owned(), |number| format!("snapshot {number}"));
    let (file, count, purges) = (what.file.display(), made.files.len(), made.purges);
    println!("made {file}: {count} files, {snapshot}, purges up to {purges}");
    println!("it holds the CA and every key of home: keep it, and what opens it, apart");
    println!("the fleet file and the files it names are not in it: keep them in version control");
    Ok(args::OK)
}

pub(super) fn restore(at: &HomeArgs, what: &RestoreArgs) -> Result<ExitCode, Failure> {
    let unlock = match &what.key {
        Some(file) => {
            let text =
                fs::read_to_string(file).map_err(|error| failed(format!("{}: {error}", file.display())))?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            let read = |line: &str| {
                line.parse::<age::x25519::Identity>()
                    .map_err(|error| failed(format!("{}: not an age key: {error}", file.display())))
            };
            Unlock::Keys(lines.map(read).collect::<Result<_, _>>()?)
        }
        None => {
            let phrase = passphrase(what.passphrase_file.as_deref(), "the backup's passphrase: ")?;
            Unlock::Passphrase(SecretString::from(phrase))
        }
    };
    let made = backup::restore(&what.file, &at.state_dir, &unlock, SystemTime::now()).map_err(failed)?;
    let (dir, at_time) = (at.state_dir.display(), clock(made.made));
    println!("{dir} is home as it was at {at_time}: {} files, every one verified", made.files.len());
    println!(
        "next:\n  \
         1. make sure that the old home is off and stays off: two would command the fleet\n  \
         2. chown -R nearside: {dir}\n  \
         3. put the fleet file and the files it names in place; `nearside check`\n  \
         4. start nearside-controller: it asks every node how far it is, half a minute at most, and goes on after that\n  \
         5. `nearside status`; make a new backup"
    );
    Ok(args::OK)
}

/// A passphrase from a file, from the environment, or asked for.
fn passphrase(file: Option<&Path>, prompt: &str) -> Result<String, Failure> {
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    if let Some(file) = file {
        let text =
            fs::read_to_string(file).map_err(|error| failed(format!("{}: {error}", file.display())))?;
        return Ok(first(text));
    }
    if let Ok(text) = std::env::var("NEARSIDE_PASSPHRASE") {
        return Ok(text);
    }
    let is_terminal = io::stdin().is_terminal();
    if is_terminal {
        eprint!("{prompt}");
        io::stderr().flush().map_err(failed)?;
        echo("-echo");
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    if is_terminal {
        echo("echo");
        eprintln!();
    }
    read.map_err(failed)?;
    Ok(first(line))
}

/// Switches the terminal's echo. Where there is no `stty`, the passphrase is seen while it is typed, and no more.
fn echo(how: &str) {
    let _seen = Command::new("stty").arg(how).status();
}
