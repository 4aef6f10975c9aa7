//! Why an attempt failed, as far as it decides what is done next.

use instant_acme::{Error, Problem};

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// On our side: a DNS node, a zone, the disk. No other authority would help; the order stays open.
    #[error("{0}")]
    Here(String),
    /// The authority does not answer, or wants to be left alone. The order stays open; another authority may help.
    #[error("{0}")]
    Unavailable(String),
    /// The authority, or what it is told by CAA, says no. The order is over; another authority may help.
    #[error("{0}")]
    Refused(String),
    /// The authority knows nothing of the order or the account.
    #[error("{0}")]
    Unknown(String),
}

impl Failure {
    /// Adds what was being done.
    #[must_use]
    pub fn during(self, doing: &str) -> Self {
        match self {
            Self::Here(reason) => Self::Here(format!("{doing}: {reason}")),
            Self::Unavailable(reason) => Self::Unavailable(format!("{doing}: {reason}")),
            Self::Refused(reason) => Self::Refused(format!("{doing}: {reason}")),
            Self::Unknown(reason) => Self::Unknown(format!("{doing}: {reason}")),
        }
    }

    /// What a problem document means (RFC 8555 section 6.7).
    pub fn of_problem(kind: &str, status: u16, words: String) -> Self {
        let kind = kind.rsplit(':').next().unwrap_or_default();
        match kind {
            // All of these are over by themselves, or by asking again.
            "badNonce" | "serverInternal" | "rateLimited" | "orderNotReady" => Self::Unavailable(words),
            "accountDoesNotExist" => Self::Unknown(words),
            _ if status == 404 => Self::Unknown(words),
            _ if status == 429 || status >= 500 => Self::Unavailable(words),
            _ => Self::Refused(words),
        }
    }
}

impl From<&Problem> for Failure {
    fn from(problem: &Problem) -> Self {
        let kind = problem.r#type.as_deref().unwrap_or_default();
        Self::of_problem(kind, problem.status.unwrap_or_default(), problem.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => Self::from(&problem),
            Error::Crypto | Error::KeyRejected => Self::Here(error.to_string()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<crate::journal::JournalError> for Failure {
    fn from(error: crate::journal::JournalError) -> Self {
        Self::Here(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_told_from_what_does_not() {
        let of = |kind: &str, status| {
            Failure::of_problem(&format!("urn:ietf:params:acme:error:{kind}"), status, String::new())
        };
        let table = [
            ("rateLimited", 429, Failure::Unavailable(String::new())),
            ("badNonce", 400, Failure::Unavailable(String::new())),
            ("serverInternal", 500, Failure::Unavailable(String::new())),
            ("whatever", 503, Failure::Unavailable(String::new())),
            ("accountDoesNotExist", 400, Failure::Unknown(String::new())),
            ("malformed", 404, Failure::Unknown(String::new())),
            ("caa", 403, Failure::Refused(String::new())),
            ("dns", 400, Failure::Refused(String::new())),
            ("rejectedIdentifier", 400, Failure::Refused(String::new())),
        ];
        for (kind, status, expected) in table {
            assert_eq!(of(kind, status), expected, "{kind}");
        }
    }
}
