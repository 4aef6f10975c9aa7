//! Which paths a gate guards, as every origin may read them.
//!
//! A gate by path must not be walked around by another spelling of the path. Paths are compared in the one normal
//! form, and besides as origins read them that decode `%2F` and `%5C`, take `\` for `/`, or merge slashes: a path is
//! guarded if any reading of it is. What this costs: `/a%2F..%2Fprivate/x` is guarded at origins that would never have
//! taken it for `/private/x`. Letter case counts: an origin for which it does not needs a gate on `/`.

use crate::policy;

/// Starts of paths.
#[derive(Clone, Debug)]
pub struct Paths(Vec<Box<str>>);

impl Paths {
    /// Of configured starts, each beginning with `/`.
    pub fn new(starts: &[String]) -> Self {
        Paths(starts.iter().map(|start| policy::normal_path(start)).collect())
    }

    /// Whether a path as it was sent is guarded.
    pub fn guard(&self, sent: &str) -> bool {
        if self.0.iter().any(|start| &**start == "/") {
            return true;
        }
        let path = policy::normal_path(sent);
        if self.begin(&path) {
            return true;
        }
        if !(path.contains("//") || path.contains("%2F") || path.contains("%5C")) {
            return false;
        }
        let decoded = path.replace("%2F", "/").replace("%5C", "/");
        self.begin(&policy::normal_path(&decoded)) || self.begin(&policy::normal_path(&merged(&decoded)))
    }

    fn begin(&self, path: &str) -> bool {
        self.0.iter().any(|start| path.starts_with(&**start) || is_directory_of(path, start))
    }
}

/// `/private` is the start `/private/` to servers that redirect to it or answer with it.
fn is_directory_of(path: &str, start: &str) -> bool {
    start.strip_suffix('/').is_some_and(|directory| directory == path)
}

/// Runs of slashes as one.
fn merged(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !out.ends_with('/') {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_leads_around_a_gate() {
        let paths = Paths::new(&["/private/".to_owned()]);
        for guarded in [
            "/private/",
            "/private/x",
            "/private",
            "/%70rivate/x",
            "/a/../private/x",
            "/a/%2e%2e/private/x",
            "//private/x",
            "/a//../../private/x",
            "/a%2F..%2Fprivate/x",
            "/a%2f%2e%2e%2fprivate%2fx",
            "/a%5C..%5Cprivate%5Cx",
            "\\private\\x",
            "/%2Fprivate/x",
            "/./private/x",
            "/private%2Fx",
        ] {
            assert!(paths.guard(guarded), "{guarded}");
        }
        for free in [
            "/",
            "/public/private/x",
            "/privateer",
            "/private.html",
            "/a/private/../b", // The origin is sent the normal form, `/a/private/x`.
            "/a//../private/x",
            "/%252Fprivate/",
        ] {
            assert!(!paths.guard(free), "{free}");
        }
        assert!(Paths::new(&["/".to_owned()]).guard("*"));
    }
}
