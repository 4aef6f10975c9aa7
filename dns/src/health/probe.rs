//! Asks one address whether it is alive: `tcp`, `http`, `https`, and `exec` through [`super::exec`].
//!
//! A [`Prober`] is made once per check and used for every address the check looks at. It opens a fresh
//! connection each time, because a kept one would not notice that new clients are refused. It decides
//! nothing: a [`Finding`] goes to [`super::state`], which counts. Failures are sentences a person
//! understands, since `explain` and the log repeat them word for word.
//!
//! HTTP is hyper's client connection, not a hand-written GET: a body match must see through chunked
//! coding, 1xx responses and split reads, and hyper's parser already carries the limits for that.

use std::{
    convert::Infallible,
    fs,
    future::{self, Future},
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Body as _, client::conn::http1};
use hyper_util::rt::TokioIo;
use nearside_fleet::config::{Check, HttpProbe, Probe, Verify};
use nearside_node::unverified::AnyCertificate;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::exec::{self, ExecPolicy};

/// Bytes of a body that are searched for the check's substring: a health page is small, and a large one
/// must not be fetched every few seconds.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a body that may say how busy its edge is. What an edge of ours says takes under a hundred.
const LOAD_BODY_BYTES_MAX: u64 = 4096;

/// Loads beyond this are not believed: ours are at most a few times 1.
const LOAD_MAX: f64 = 1000.0;

/// Bytes hyper buffers for a response head; what is larger is no health page.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What one probe found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// `Err`: why the address counts as failed, in words.
    pub result: Result<(), String>,
    /// When the served certificate expires, seconds since the Unix epoch; `https` only.
    pub certificate_expires: Option<i64>,
    /// How busy the edge says it is, 1 being all it has; `http` and `https` only, where the answer is JSON.
    pub load: Option<f64>,
}

/// What a probe learns on its way, whether or not it comes to its end.
#[derive(Default)]
struct Seen {
    certificate_expires: Option<i64>,
    /// The answer is as the check wants it; what is still read does not change that.
    passed: bool,
    load: Option<f64>,
}

/// Why a check can't be carried out at all. Refuses the configuration that names it.
#[derive(Debug, thiserror::Error)]
pub enum ProberError {
    /// The CA file of the check can't be used.
    #[error("check `{check}`: {path}: {reason}")]
    Ca {
        /// The check.
        check: String,
        /// Its CA file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The program must not be run here.
    #[error("check `{check}`: {reason}")]
    Exec {
        /// The check.
        check: String,
        /// Why not.
        reason: String,
    },
    /// The host name can't be sent as SNI.
    #[error("check `{check}`: `{host}` is not a host name")]
    Host {
        /// The check.
        check: String,
        /// Its host.
        host: String,
    },
    /// The operating system has no roots, or rustls refuses its own defaults.
    #[error("check `{check}`: {reason}")]
    Tls {
        /// The check.
        check: String,
        /// What rustls or the system said.
        reason: String,
    },
}

/// A check, ready to be carried out against any address.
#[derive(Clone)]
pub struct Prober {
    kind: Kind,
    port: u16,
    timeout: Duration,
}

#[derive(Clone)]
enum Kind {
    Tcp,
    Http(HttpProbe),
    Https(HttpProbe, TlsConnector),
    Exec(Arc<[String]>),
}

impl Prober {
    /// Prepares a check: reads its CA file and builds its TLS settings. Blocks on the disk.
    ///
    /// # Errors
    /// [`ProberError`] if the check names a file, host or program that can't be used.
    pub fn new(check: &Check, exec: &ExecPolicy) -> Result<Prober, ProberError> {
        let kind = match &check.probe {
            Probe::Tcp => Kind::Tcp,
            Probe::Exec { command } => {
                let program = command.first().map_or("", String::as_str);
                let refused = |reason| ProberError::Exec { check: check.name.clone(), reason };
                exec.judge(program).map_err(refused)?;
                Kind::Exec(command.as_slice().into())
            }
            Probe::Http(http) => Kind::Http(http.clone()),
            Probe::Https { http, verify } => {
                if let Some(host) = &http.host
                    && ServerName::try_from(host.as_str()).is_err()
                {
                    return Err(ProberError::Host { check: check.name.clone(), host: host.clone() });
                }
                Kind::Https(http.clone(), TlsConnector::from(Arc::new(client_config(&check.name, verify)?)))
            }
        };
        Ok(Prober { kind, port: check.port, timeout: check.timeout })
    }

    /// Whether a probe is a process.
    pub fn is_exec(&self) -> bool {
        matches!(self.kind, Kind::Exec(_))
    }

    /// Probes one address once. Takes no longer than the check's timeout; cancelling closes the
    /// connection.
    pub async fn probe(&self, address: IpAddr) -> Finding {
        if let Kind::Exec(command) = &self.kind {
            // Keeps the time itself: what it started must be ended, not just forgotten.
            let result = exec::probe(command, address, self.port, self.timeout).await;
            return Finding { result, certificate_expires: None, load: None };
        }
        let mut seen = Seen::default();
        let probing = self.attempt(SocketAddr::new(address, self.port), &mut seen);
        let result = match timeout(self.timeout, probing).await {
            Ok(result) => result,
            Err(_) if seen.passed => Ok(()),
            Err(_) => Err(format!("timed out after {}", Seconds(self.timeout))),
        };
        Finding { result, certificate_expires: seen.certificate_expires, load: seen.load }
    }

    async fn attempt(&self, address: SocketAddr, seen: &mut Seen) -> Result<(), String> {
        let stream = TcpStream::connect(address).await.map_err(|error| in_words(&error))?;
        match &self.kind {
            Kind::Tcp | Kind::Exec(_) => Ok(()),
            Kind::Http(http) => exchange(stream, http, address, 80, seen).await,
            Kind::Https(http, connector) => {
                let name = match &http.host {
                    Some(host) => ServerName::try_from(host.clone()).map_err(|error| error.to_string())?,
                    None => ServerName::from(address.ip()),
                };
                let stream = connector
                    .connect(name, stream)
                    .await
                    .map_err(|error| format!("TLS handshake failed: {}", in_words(&error)))?;
                seen.certificate_expires =
                    stream.get_ref().1.peer_certificates().and_then(<[_]>::first).and_then(not_after);
                exchange(stream, http, address, 443, seen).await
            }
        }
    }
}

/// One GET and the judgement of its answer.
async fn exchange<S>(
    stream: S,
    http: &HttpProbe,
    address: SocketAddr,
    default_port: u16,
    seen: &mut Seen,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let host = match &http.host {
        Some(host) => host.clone(),
        None if address.port() == default_port && address.is_ipv4() => address.ip().to_string(),
        None if address.port() == default_port => format!("[{}]", address.ip()),
        None => address.to_string(),
    };
    let request = http::Request::get(&http.path)
        .header(http::header::HOST, host)
        .header(
            http::header::USER_AGENT,
            concat!("nearside-dns/", env!("CARGO_PKG_VERSION"), " health check"),
        )
        .header(http::header::ACCEPT, "*/*")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("the request can't be built: {error}"))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| no_http(&error))?;
    let judge = async move {
        let response = sender.send_request(request).await.map_err(|error| no_http(&error))?;
        judge(response, http, seen).await
    };
    drive(connection, judge).await
}

/// Runs `exchange` while `connection` moves its bytes. The connection may be over first: what it read
/// still reaches the exchange through hyper's channels, so only the exchange ends this.
pub(super) async fn drive<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    exchange: impl Future<Output = T>,
) -> T {
    let driver = async {
        // An error here is also the exchange's, which words it.
        let _ = connection.await;
        future::pending::<Infallible>().await
    };
    tokio::select! {
        result = exchange => result,
        never = driver => match never {},
    }
}

/// Compares an answer with what the check expects, and takes note of a load in it.
async fn judge(
    response: http::Response<hyper::body::Incoming>,
    http: &HttpProbe,
    seen: &mut Seen,
) -> Result<(), String> {
    let status = response.status().as_u16();
    let (least, most) = http.status;
    if !(least..=most).contains(&status) {
        let expected = if least == most { least.to_string() } else { format!("{least}-{most}") };
        return Err(format!("answered {status}, expected {expected}"));
    }
    let wanted = http.body.as_deref().unwrap_or_default();
    seen.passed = wanted.is_empty();
    let may_tell = may_tell_load(&response);
    let mut body = response.into_body();
    let mut read: Vec<u8> = Vec::new();
    while !seen.passed || may_tell {
        let Some(frame) = body.frame().await else { break };
        let frame = match frame {
            // Enough was read to know that it is healthy.
            Err(_) if seen.passed => return Ok(()),
            frame => frame.map_err(|error| format!("the body broke off: {error}"))?,
        };
        let Some(data) = frame.data_ref() else { continue };
        // A match may span two frames: search again from where one could begin.
        let from = read.len().saturating_sub(wanted.len());
        read.extend_from_slice(&data[..data.len().min(BODY_BYTES_MAX - read.len())]);
        seen.passed = seen.passed || contains(&read[from..], wanted.as_bytes());
        if !seen.passed && read.len() == BODY_BYTES_MAX {
            return Err(format!("`{wanted}` is not in the first {} KiB of the body", BODY_BYTES_MAX / 1024));
        }
    }
    if may_tell {
        seen.load = load_in(&read);
    }
    if seen.passed { Ok(()) } else { Err(format!("`{wanted}` is not in the body")) }
}

/// Whether an answer is small, whole and JSON: only then is its body read for a load.
fn may_tell_load(response: &http::Response<hyper::body::Incoming>) -> bool {
    let content_type =
        response.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.starts_with("application/json"))
        && response.body().size_hint().exact().is_some_and(|bytes| bytes <= LOAD_BODY_BYTES_MAX)
}

/// The `load` of a JSON object.
fn load_in(body: &[u8]) -> Option<f64> {
    #[derive(serde::Deserialize)]
    struct Told {
        load: f64,
    }
    let Told { load } = serde_json::from_slice(body).ok()?;
    (0.0..=LOAD_MAX).contains(&load).then_some(load)
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|window| window == wanted)
}

fn no_http(error: &hyper::Error) -> String {
    if let Some(io) = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>()) {
        return in_words(io);
    }
    if error.is_incomplete_message() {
        return "the connection was closed before an answer".to_owned();
    }
    format!("no valid HTTP answer: {error}")
}

/// An I/O error as a person would say it.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::ConnectionAborted => "connection aborted".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        io::ErrorKind::TimedOut => "timed out in the kernel".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        _ => error.to_string(),
    }
}

/// A duration as "2 s" or "300 ms".
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{} s", self.0.as_secs())
        } else {
            write!(f, "{} ms", self.0.as_millis())
        }
    }
}

/// When a certificate expires, seconds since the Unix epoch.
fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

fn client_config(check: &str, verify: &Verify) -> Result<ClientConfig, ProberError> {
    let tls = |reason: String| ProberError::Tls { check: check.to_owned(), reason };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(error.to_string()))?;
    let mut config = match verify {
        Verify::No => builder
            .dangerous()
            .with_custom_certificate_verifier(AnyCertificate::verifier())
            .with_no_client_auth(),
        Verify::System => {
            let loaded = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            let (added, _) = roots.add_parsable_certificates(loaded.certs);
            if added == 0 {
                return Err(tls("the system has no root certificates (install ca-certificates)".into()));
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Verify::Ca(path) => builder.with_root_certificates(read_roots(check, path)?).with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would not show whether the key still fits the certificate.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn read_roots(check: &str, path: &Path) -> Result<RootCertStore, ProberError> {
    let bad = |reason: String| ProberError::Ca { check: check.to_owned(), path: path.to_path_buf(), reason };
    let pem = fs::read(path).map_err(|error| bad(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() { Err(bad("holds no certificate".into())) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use nearside_fleet::config::ProbeFamily;
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn check(probe: Probe, port: u16) -> Check {
        Check {
            name: "web".into(),
            probe,
            port,
            family: ProbeFamily::Each,
            interval: Duration::from_secs(10),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            views: 1,
        }
    }

    fn get(body: Option<&str>) -> HttpProbe {
        HttpProbe {
            host: Some("www.cdn.test".into()),
            path: "/health?x=1".into(),
            status: (200, 399),
            body: body.map(Into::into),
        }
    }

    async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                break;
            }
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    /// A server that answers one connection with the parts given, flushed one by one.
    async fn answering(parts: &'static [&'static [u8]]) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind((HOME, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await;
            for part in parts {
                stream.write_all(part).await.unwrap();
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
            head
        });
        (port, task)
    }

    async fn http(parts: &'static [&'static [u8]], body: Option<&str>) -> Result<(), String> {
        let (port, _server) = answering(parts).await;
        Prober::new(&check(Probe::Http(get(body)), port), &ExecPolicy::Refused)
            .unwrap()
            .probe(HOME)
            .await
            .result
    }

    #[tokio::test]
    async fn refused_closed_and_silent_are_told_apart() {
        let listener = TcpListener::bind((HOME, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tcp = Prober::new(&check(Probe::Tcp, port), &ExecPolicy::Refused).unwrap();
        assert_eq!(tcp.probe(HOME).await.result, Ok(()));
        let web = Prober::new(&check(Probe::Http(get(None)), port), &ExecPolicy::Refused).unwrap();
        assert_eq!(web.probe(HOME).await.result, Err("timed out after 500 ms".into()));
        drop(listener);
        assert_eq!(tcp.probe(HOME).await.result, Err("connection refused".into()));
        let closed = http(&[], None).await.unwrap_err();
        assert_eq!(closed, "the connection was closed before an answer");
    }

    #[tokio::test]
    async fn the_request_names_host_and_path() {
        let (port, server) = answering(&[b"HTTP/1.1 204 No Content\r\n\r\n"]).await;
        let prober = Prober::new(&check(Probe::Http(get(None)), port), &ExecPolicy::Refused).unwrap();
        assert_eq!(prober.probe(HOME).await.result, Ok(()));
        let head = server.await.unwrap();
        assert!(head.starts_with("GET /health?x=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("host: www.cdn.test\r\n"), "{head}");
    }

    #[tokio::test]
    async fn status_and_body_are_judged() {
        let refused = http(&[b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"], None).await;
        assert_eq!(refused, Err("answered 503, expected 200-399".into()));
        let parts: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nall i\r\n",
            b"5\r\ns wel\r\n1\r\nl\r\n0\r\n\r\n",
        ];
        assert_eq!(http(parts, Some("is well")).await, Ok(()));
        assert_eq!(http(parts, Some("is ill")).await, Err("`is ill` is not in the body".into()));
        let garbage = http(&[b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], None).await.unwrap_err();
        assert!(garbage.starts_with("no valid HTTP answer"), "{garbage}");
    }

    #[tokio::test]
    async fn a_load_is_taken_from_small_json_and_never_fails_a_check() {
        let load = async |parts: &'static [&'static [u8]], body: Option<&str>| {
            let (port, _server) = answering(parts).await;
            let check = Check { timeout: Duration::from_secs(5), ..check(Probe::Http(get(body)), port) };
            let found = Prober::new(&check, &ExecPolicy::Refused).unwrap().probe(HOME).await;
            (found.result.is_ok(), found.load)
        };
        const HEAD: &[u8] =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 30\r\n\r\n";
        const BODY: &[u8] = br#"{"status":"ok","load":0.625  }"#;
        assert_eq!(load(&[HEAD, BODY], None).await, (true, Some(0.625)));
        const START: &[u8] = BODY.split_at(5).0;
        const REST: &[u8] = BODY.split_at(5).1;
        assert_eq!(load(&[HEAD, START, REST], Some("ok")).await, (true, Some(0.625)));
        assert!(!load(&[HEAD, BODY], Some("ill")).await.0);
        // It broke off, says nothing, says nonsense, or is no JSON: healthy all the same.
        assert_eq!(load(&[HEAD, b"{"], None).await, (true, None));
        assert_eq!(load(&[HEAD, br#"{"status":"ok","load":-1.0   }"#], None).await, (true, None));
        assert_eq!(load(&[HEAD, br#"{"status":"ok","load":"high" }"#], None).await, (true, None));
        let text: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 30\r\n\r\n";
        assert_eq!(load(Box::leak(Box::new([text, BODY])), None).await, (true, None));
    }

    #[tokio::test]
    async fn an_answer_whose_load_never_comes_has_passed() {
        let listener = TcpListener::bind((HOME, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n";
            stream.write_all(head).await.unwrap();
            std::future::pending::<()>().await;
        });
        let prober = Prober::new(&check(Probe::Http(get(None)), port), &ExecPolicy::Refused).unwrap();
        let found = Finding { result: Ok(()), certificate_expires: None, load: None };
        assert_eq!(prober.probe(HOME).await, found);
        server.abort();
    }

    #[tokio::test]
    async fn an_endless_body_is_read_no_further_than_the_limit() {
        const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
        const FILLER: &[u8] = &[b'x'; 1_000_000];
        let listener = TcpListener::bind((HOME, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(HEAD).await.unwrap();
            // Fails once the prober has read enough and hangs up.
            let _ = stream.write_all(FILLER).await;
        });
        let prober = Prober::new(&check(Probe::Http(get(Some("y"))), port), &ExecPolicy::Refused).unwrap();
        let reason = prober.probe(HOME).await.result.unwrap_err();
        assert_eq!(reason, "`y` is not in the first 64 KiB of the body");
    }

    #[tokio::test]
    async fn https_reads_the_certificate_and_verifies_when_asked() {
        let made = rcgen::generate_simple_self_signed(vec!["www.cdn.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((HOME, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                read_head(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        fs::write(&ca, made.cert.pem()).unwrap();
        let probe = async |verify: Verify, host: &str| {
            let http = HttpProbe { host: Some(host.into()), ..get(None) };
            let prober =
                Prober::new(&check(Probe::Https { http, verify }, port), &ExecPolicy::Refused).unwrap();
            prober.probe(HOME).await
        };
        let any = probe(Verify::No, "other.test").await;
        assert_eq!(any.result, Ok(()));
        assert!(any.certificate_expires.is_some());
        assert_eq!(probe(Verify::Ca(ca.clone()), "www.cdn.test").await.result, Ok(()));
        let wrong = probe(Verify::Ca(ca), "other.test").await.result.unwrap_err();
        assert!(wrong.starts_with("TLS handshake failed"), "{wrong}");
    }

    #[test]
    fn a_bad_ca_file_or_host_refuses_the_check() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        fs::write(&path, "nothing").unwrap();
        let https =
            |http, verify| Prober::new(&check(Probe::Https { http, verify }, 443), &ExecPolicy::Refused);
        let error = https(get(None), Verify::Ca(path.clone())).err().unwrap().to_string();
        assert!(error.contains("ca.pem: holds no certificate"), "{error}");
        let http = HttpProbe { host: Some("not a host".into()), ..get(None) };
        assert!(https(http, Verify::No).err().unwrap().to_string().contains("is not a host name"));
    }
}
