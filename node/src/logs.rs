//! Structured logs on standard error.
//!
//! One subscriber per process, installed once. No files and no rotation: the service manager keeps them.
//! Secrets are kept out where they are handled, not filtered here.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

use crate::args::{LogArgs, LogFormat};

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log-level {level:?} is not a level or a filter: {reason} (try info, debug, or info,nearside_dns=debug)"
)]
pub struct BadLevel {
    level: String,
    reason: String,
}

/// Installs the subscriber. A second call in one process (tests) leaves the first one in place.
///
/// # Errors
/// [`BadLevel`] if `--log-level` is neither a level nor a filter.
pub fn init(args: &LogArgs) -> Result<(), BadLevel> {
    let filter = EnvFilter::builder()
        .parse(&args.log_level)
        .map_err(|error| BadLevel { level: args.log_level.clone(), reason: error.to_string() })?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error here means that a subscriber is already installed, which is as good.
    let _already = match args.log_format {
        LogFormat::Text => {
            builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).compact().try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_levels_are_named() {
        let args = LogArgs { log_format: LogFormat::Text, log_level: "nearside=loudly".to_owned() };
        let error = init(&args).expect_err("must be refused");
        assert!(error.to_string().contains("loudly"), "{error}");
    }
}
