//! Heads of HTTP/1 messages: a request's bytes to fields, a response's fields to bytes.
//!
//! Pure. The request's bytes have passed the framing guard, which alone decides where a message ends; httparse only
//! says what the head means, and where the two disagree the request is refused. What the content behind a
//! response head looks like on the wire is decided here too (RFC 9112 section 6.3), and whether the connection outlives
//! it (section 9.3).

use std::{cell::RefCell, mem::MaybeUninit, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header};

use crate::listen::limits;

/// What a request head says, besides the request itself, about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manners {
    /// 1.0 or 1.1.
    pub version: Version,
    /// HEAD: no content follows, whatever the head says.
    pub is_head: bool,
    /// Whether the client wants to send another request (RFC 9112 section 9.3).
    pub keeps: bool,
    /// Whether it waits for `100 Continue` (RFC 9110 section 10.1.1).
    pub expects: bool,
    /// Whether it takes trailers (RFC 9110 section 10.1.4).
    pub takes_trailers: bool,
    /// Whether it asks for another protocol.
    pub upgrades: bool,
}

/// Why a head is refused before any request is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// More header lines than are taken, or a longer head.
    TooLarge,
    /// Not HTTP/1.
    Malformed,
}

impl BadHead {
    /// What the client is told.
    pub fn status(self) -> StatusCode {
        match self {
            BadHead::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            BadHead::Malformed => StatusCode::BAD_REQUEST,
        }
    }
}

/// Reads a whole request head. Field values share its memory.
///
/// # Errors
/// [`BadHead`].
pub fn parse(head: &Bytes) -> Result<(Request<()>, Manners), BadHead> {
    let mut fields = [const { MaybeUninit::uninit() }; limits::HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed.parse_with_uninit_headers(head, &mut fields).map_err(|error| match error {
        httparse::Error::TooManyHeaders => BadHead::TooLarge,
        _ => BadHead::Malformed,
    })?;
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(BadHead::Malformed);
    };
    // The guard has seen the head's end, and nothing behind it.
    if status != httparse::Status::Complete(head.len()) {
        return Err(BadHead::Malformed);
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| BadHead::Malformed)?;
    *request.uri_mut() =
        Uri::from_maybe_shared(head.slice_ref(target.as_bytes())).map_err(|_| BadHead::Malformed)?;
    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    *request.version_mut() = version;
    let mut manners = Manners {
        version,
        is_head: *request.method() == Method::HEAD,
        keeps: version == Version::HTTP_11,
        expects: false,
        takes_trailers: false,
        upgrades: false,
    };
    let headers = request.headers_mut();
    headers.reserve(parsed.headers.len());
    let mut closes = false;
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadHead::Malformed)?;
        let value =
            HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(|_| BadHead::Malformed)?;
        if name == header::CONNECTION {
            closes |= lists(&value, b"close");
            manners.keeps |= lists(&value, b"keep-alive");
            manners.upgrades |= lists(&value, b"upgrade");
        } else if name == header::EXPECT {
            manners.expects =
                version == Version::HTTP_11 && value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        } else if name == header::TE {
            manners.takes_trailers |= lists(&value, b"trailers");
        }
        headers.append(name, value);
    }
    manners.keeps &= !closes;
    manners.upgrades &= version == Version::HTTP_11 && headers.contains_key(header::UPGRADE);
    Ok((request, manners))
}

/// Whether a comma-separated list has `token`, in any case.
fn lists(value: &HeaderValue, token: &[u8]) -> bool {
    value.as_bytes().split(|&byte| byte == b',').any(|member| member.trim_ascii().eq_ignore_ascii_case(token))
}

/// How the end of a response's content is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// By an empty chunk.
    Chunked,
    /// By the connection's end.
    Close,
}

/// Decides how content of `length` bytes (`None`: unknown) is framed, and says so in `headers`, which may have
/// been made for another connection: nothing of the framing they name stays, but the length that a HEAD or 304 tells.
pub fn frame(status: StatusCode, headers: &mut HeaderMap, length: Option<u64>, manners: Manners) -> Ends {
    headers.remove(header::TRANSFER_ENCODING);
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
        return Ends::None;
    }
    if manners.is_head || status == StatusCode::NOT_MODIFIED {
        return Ends::None;
    }
    if let Some(length) = length {
        // What is told must be what is sent.
        if told(headers) != Some(length) {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        return Ends::Length(length);
    }
    if let Some(length) = told(headers) {
        return Ends::Length(length);
    }
    headers.remove(header::CONTENT_LENGTH);
    if manners.version == Version::HTTP_11 {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        return Ends::Chunked;
    }
    Ends::Close
}

fn told(headers: &HeaderMap) -> Option<u64> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let line = lines.next()?;
    if lines.next().is_some() {
        return None;
    }
    std::str::from_utf8(line.as_bytes()).ok()?.parse().ok()
}

/// Appends a final head. `closes`: the connection ends with this response.
pub fn write(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap, manners: Manners, closes: bool) {
    let is_old = manners.version == Version::HTTP_10;
    status_line(out, if is_old { b"HTTP/1.0 " } else { b"HTTP/1.1 " }, status);
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in headers {
        if name == header::CONNECTION && !switches {
            continue;
        }
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    if !headers.contains_key(header::DATE) {
        date(out);
    }
    if closes {
        out.extend_from_slice(b"connection: close\r\n");
    } else if is_old && !switches {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends an interim head (RFC 9110 section 15.2).
pub fn write_interim(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    status_line(out, b"HTTP/1.1 ", status);
    for (name, value) in headers {
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk and what comes with it.
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// The answer to what is no request: the connection ends with it.
pub fn write_refusal(out: &mut Vec<u8>, status: StatusCode) {
    status_line(out, b"HTTP/1.1 ", status);
    out.extend_from_slice(b"connection: close\r\ncontent-length: 0\r\n");
    date(out);
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, version: &[u8], status: StatusCode) {
    out.extend_from_slice(version);
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// `Date` as of now (RFC 9110 section 6.6.1): written once a second per thread.
fn date(out: &mut Vec<u8>) {
    thread_local! {
        static WRITTEN: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let secs = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    WRITTEN.with_borrow_mut(|(at, text)| {
        if *at != secs || text.is_empty() {
            (*at, *text) = (secs, httpdate::fmt_http_date(now));
        }
        field(out, b"date", text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manners(text: &str) -> Manners {
        parse(&Bytes::copy_from_slice(text.as_bytes())).unwrap().1
    }

    #[test]
    fn connections_are_kept_as_the_version_has_it() {
        let keeps =
            |version: &str, fields: &str| manners(&format!("GET / HTTP/{version}\r\n{fields}\r\n")).keeps;
        assert!(keeps("1.1", ""));
        assert!(!keeps("1.1", "Connection: close\r\n"));
        assert!(!keeps("1.1", "Connection: keep-alive\r\nConnection: x, Close\r\n"));
        assert!(!keeps("1.0", ""));
        assert!(keeps("1.0", "Connection: Keep-Alive\r\n"));
        assert!(!keeps("1.0", "Connection: close, keep-alive\r\n"));
    }

    #[test]
    fn an_old_client_waits_for_nothing_and_upgrades_nothing() {
        let asks = "Expect: 100-Continue\r\nConnection: upgrade\r\nUpgrade: x\r\nTE: gzip, trailers\r\n";
        let new = manners(&format!("POST / HTTP/1.1\r\n{asks}\r\n"));
        assert!(new.expects && new.upgrades && new.takes_trailers);
        let old = manners(&format!("POST / HTTP/1.0\r\n{asks}\r\n"));
        assert!(!old.expects && !old.upgrades);
        assert!(!manners("GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n").upgrades, "not for this connection");
    }

    #[test]
    fn what_is_no_head_is_refused() {
        let refused = |text: &str| parse(&Bytes::copy_from_slice(text.as_bytes())).map(|_| ()).unwrap_err();
        for bad in [
            "GET / HTTP/1.2\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET /\r\n\r\n",
            "G(T / HTTP/1.1\r\n\r\n",
            "GET /a\x01 HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nA(b): c\r\n\r\n",
            "GET / HTTP/1.1\r\nA: \x07\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n\r\nmore",
            "GET / HTTP/1.1\r\n",
        ] {
            assert_eq!(refused(bad), BadHead::Malformed, "{bad:?}");
        }
        let many = "A: b\r\n".repeat(limits::HEADERS_MAX + 1);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{many}\r\n")), BadHead::TooLarge);
    }

    #[test]
    fn content_is_framed_as_its_reader_understands() {
        let new = manners("GET / HTTP/1.1\r\n\r\n");
        let old = manners("GET / HTTP/1.0\r\n\r\n");
        let head = manners("HEAD / HTTP/1.1\r\n\r\n");
        let with = |length: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("gzip"));
            if let Some(length) = length {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            headers
        };
        let text = |headers: &HeaderMap, name: HeaderName| {
            headers.get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        for (status, told, length, manners, ends, written) in [
            (200, None, Some(5), new, Ends::Length(5), Some("5")),
            (200, Some("7"), Some(5), new, Ends::Length(5), Some("5")),
            (200, Some("7"), None, new, Ends::Length(7), Some("7")),
            (200, Some("x"), None, new, Ends::Chunked, None),
            (200, None, None, new, Ends::Chunked, None),
            (200, None, None, old, Ends::Close, None),
            (200, Some("7"), Some(0), head, Ends::None, Some("7")),
            (304, Some("7"), Some(0), new, Ends::None, Some("7")),
            (204, Some("7"), Some(0), new, Ends::None, None),
            (101, Some("7"), Some(0), new, Ends::None, None),
        ] {
            let mut headers = with(told);
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(frame(status, &mut headers, length, manners), ends, "{status} {told:?} {length:?}");
            assert_eq!(
                text(&headers, header::CONTENT_LENGTH).as_deref(),
                written,
                "{status} {told:?} {length:?}"
            );
            let encoding = (ends == Ends::Chunked).then_some("chunked");
            assert_eq!(text(&headers, header::TRANSFER_ENCODING).as_deref(), encoding);
        }
    }

    #[test]
    fn a_head_is_written_with_what_the_connection_adds() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("x"));
        headers.insert(header::ETAG, HeaderValue::from_static("\"a\""));
        headers.insert(header::DATE, HeaderValue::from_static("then"));
        let written = |manners, closes| {
            let mut out = Vec::new();
            write(&mut out, StatusCode::OK, &headers, manners, closes);
            String::from_utf8(out).unwrap()
        };
        let new = manners("GET / HTTP/1.1\r\n\r\n");
        let old = manners("GET / HTTP/1.0\r\n\r\n");
        assert_eq!(written(new, false), "HTTP/1.1 200 OK\r\netag: \"a\"\r\ndate: then\r\n\r\n");
        assert!(written(new, true).ends_with("\r\nconnection: close\r\n\r\n"));
        assert!(written(old, false).starts_with("HTTP/1.0 200 OK\r\n"));
        assert!(written(old, false).ends_with("\r\nconnection: keep-alive\r\n\r\n"));
    }
}
