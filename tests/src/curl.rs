//! `curl`, asked as a visitor would, and its answer read.

use std::{net::SocketAddr, path::PathBuf, process::Command};

use crate::process;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    url: String,
    arguments: Vec<String>,
}

/// What curl got.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// curl's exit code; 0 is success.
    pub exit: i32,
    /// Status; 0 where there is no answer.
    pub status: u16,
    /// `1.1` or `2`.
    pub version: String,
    /// Header names (lower case) and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body, as text.
    pub body: String,
    /// curl's complaint.
    pub error: String,
}

impl Response {
    /// The first value of a header; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

impl Request {
    /// GET `scheme://host:port path` at a PoP's address, as if DNS had said so.
    pub fn at(pop: SocketAddr, scheme: &str, host: &str, path: &str) -> Self {
        let port = pop.port();
        let arguments = vec!["--resolve".to_owned(), format!("{host}:{port}:{}", pop.ip())];
        Self { url: format!("{scheme}://{host}:{port}{path}"), arguments }
    }

    /// GET through a node's control socket.
    pub fn socket(socket: &std::path::Path, path: &str) -> Self {
        let arguments = vec!["--unix-socket".to_owned(), socket.to_string_lossy().into_owned()];
        Self { url: format!("http://node{path}"), arguments }
    }

    /// Trusts this CA file.
    #[must_use]
    pub fn ca(self, path: &std::path::Path) -> Self {
        self.with(["--cacert", &path.to_string_lossy()])
    }

    /// Speaks HTTP/2 over TLS.
    #[must_use]
    pub fn http2(self) -> Self {
        self.with(["--http2"])
    }

    /// Any other arguments.
    #[must_use]
    pub fn with<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Sends it; ten seconds at most.
    pub fn send(&self) -> Response {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let body: PathBuf = dir.path().join("body");
        let mut curl = Command::new("curl");
        curl.args(["-q", "--silent", "--show-error", "--max-time", "10", "--dump-header", "-", "--output"]);
        curl.arg(&body).args(["--write-out", "\nNEARSIDE %{http_version} %{http_code}\n"]);
        curl.args(&self.arguments).arg(&self.url);
        let finished = process::run(&mut curl);
        let mut response =
            Response { exit: finished.code.unwrap_or(-1), error: finished.stderr, ..Response::default() };
        for line in finished.stdout.lines() {
            if let Some(last) = line.strip_prefix("NEARSIDE ") {
                let (version, status) = last.split_once(' ').unwrap_or_default();
                response.version = version.to_owned();
                response.status = status.trim().parse().unwrap_or_default();
            } else if line.starts_with("HTTP/") {
                // A new head (after a 1xx): what came before is not the answer.
                response.headers.clear();
            } else if let Some((name, value)) = line.split_once(':') {
                response.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        response.body =
            std::fs::read(&body).map(|body| String::from_utf8_lossy(&body).into_owned()).unwrap_or_default();
        response
    }
}
