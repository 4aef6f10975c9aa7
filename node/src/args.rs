//! The arguments and exit codes that all programs share.
//!
//! [`ServeArgs`] is flattened into each program's `serve` command, so that the three daemons are started
//! alike. What a program adds (a subcommand, a filter) stays in that program.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};

/// The work was done.
pub const OK: ExitCode = ExitCode::SUCCESS;

/// The work was understood and failed: `check` found mistakes, a publish was refused.
pub fn failed() -> ExitCode {
    ExitCode::from(1)
}

/// The command line made no sense. clap exits with the same number.
pub fn usage() -> ExitCode {
    ExitCode::from(2)
}

/// Whoever should do the work could not be reached.
pub fn unreachable() -> ExitCode {
    ExitCode::from(3)
}

/// The work was done in part: not every PoP has it yet.
pub fn partial() -> ExitCode {
    ExitCode::from(4)
}

/// Where daemons keep their state unless told otherwise; the node's name is appended.
pub const STATE_ROOT: &str = "/var/lib/nearside";

/// `serve --fleet FILE --node NAME [--state-dir DIR]`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The fleet file
    #[arg(long, value_name = "FILE", env = "NEARSIDE_FLEET")]
    pub fleet: PathBuf,

    /// Which node of the fleet file this is
    #[arg(long, value_name = "NAME", env = "NEARSIDE_NODE")]
    pub node: String,

    /// Where the last good state, the identity and the control socket live [default: /var/lib/nearside/NODE]
    #[arg(long, value_name = "DIR", env = "NEARSIDE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// How logs are written, and how much of them
    #[command(flatten)]
    pub logs: LogArgs,
}

impl ServeArgs {
    /// The state directory that was asked for, or the default one of this node.
    pub fn state_dir(&self) -> PathBuf {
        match &self.state_dir {
            Some(dir) => dir.clone(),
            None => PathBuf::from(STATE_ROOT).join(&self.node),
        }
    }
}

/// `--log-format` and `--log-level`, of every program.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// One line of text, or one JSON object, per event
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,nearside_node=debug`
    #[arg(long, value_name = "LEVEL", env = "NEARSIDE_LOG", default_value = "info", global = true)]
    pub log_level: String,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors: one JSON object per line.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        serve: ServeArgs,
    }

    #[test]
    fn state_directory_defaults_to_the_node_s_own() {
        let cli = Cli::parse_from(["x", "--fleet", "f.toml", "--node", "fra"]);
        assert_eq!(cli.serve.state_dir(), PathBuf::from("/var/lib/nearside/fra"));
        let cli = Cli::parse_from(["x", "--fleet", "f.toml", "--node", "fra", "--state-dir", "/s"]);
        assert_eq!(cli.serve.state_dir(), PathBuf::from("/s"));
    }

    #[test]
    fn a_missing_fleet_file_argument_is_a_usage_error() {
        let error = Cli::try_parse_from(["x", "--node", "fra"]).err().expect("must fail");
        assert_eq!(error.exit_code(), 2);
    }
}
