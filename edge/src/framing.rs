//! Decides whether the bytes of an HTTP/1 message may be believed, before they are parsed.
//!
//! Parsers are laxer than a cache in front of other people's origins may be: hyper drops a `Content-Length`
//! that came with a `Transfer-Encoding`, takes `gzip, chunked`, repeated lengths and bare LF as line
//! ends. Two parties that read such a message differently are what request smuggling lives on
//! (RFC 9112 section 11.2), so these checks refuse what others would repair.
//!
//! For requests the guard alone says where a message ends ([`Guard::follow`]); the head between is then parsed by
//! httparse, and a disagreement between the two can only refuse too much. An origin's responses are parsed by hyper: a
//! refusal is told to it in the one way it can't overlook, the offending byte and all that follows become NUL, which is
//! legal nowhere in a head or in chunk framing ([`Guard::inspect`]). hyper then fails the response and closes the
//! connection.
//!
//! Cost: each head byte is looked at twice by memchr-like loops; body bytes are skipped by count.

use std::fmt;

/// Bytes kept of a line that has not ended yet. The limits of heads are smaller and answer first (431 or 414); this one
/// only bounds memory if they should not.
const LINE_BYTES_MAX: usize = 128 * 1024;

/// Bytes of a chunk-size line with its extensions. Extensions have no use left; long ones are a
/// memory attack on naive recipients (RFC 9112 section 7.1.1 asks for a limit).
const CHUNK_LINE_BYTES_MAX: usize = 256;

/// Why a message was refused. The names are metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A line ended in LF alone (RFC 9112 section 2.2 lets us refuse).
    BareLf,
    /// A CR that no LF follows.
    BareCr,
    /// A NUL byte in a head.
    Nul,
    /// A header line that begins with a space or tab (RFC 9112 section 5.2).
    FoldedLine,
    /// A space between field name and colon (RFC 9112 section 5.1).
    SpaceBeforeColon,
    /// A header line without a colon or with an empty name.
    NoColon,
    /// `Content-Length` and `Transfer-Encoding` in one message.
    LengthAndEncoding,
    /// Two `Content-Length` lines, or a list in one.
    RepeatedLength,
    /// A `Content-Length` that is no plain decimal number.
    BadLength,
    /// `Transfer-Encoding` that is not exactly `chunked`, once.
    BadEncoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    EncodingInOldVersion,
    /// Chunk framing that is not `HEX [;ext] CRLF data CRLF`.
    BadChunk,
    /// A line or head longer than any limit of ours.
    TooLong,
}

impl Violation {
    /// All of them, for metrics that resolve their handles ahead.
    pub const ALL: [Violation; 13] = [
        Violation::BareLf,
        Violation::BareCr,
        Violation::Nul,
        Violation::FoldedLine,
        Violation::SpaceBeforeColon,
        Violation::NoColon,
        Violation::LengthAndEncoding,
        Violation::RepeatedLength,
        Violation::BadLength,
        Violation::BadEncoding,
        Violation::EncodingInOldVersion,
        Violation::BadChunk,
        Violation::TooLong,
    ];

    /// The metric label.
    pub fn name(self) -> &'static str {
        match self {
            Violation::BareLf => "bare_lf",
            Violation::BareCr => "bare_cr",
            Violation::Nul => "nul",
            Violation::FoldedLine => "folded_line",
            Violation::SpaceBeforeColon => "space_before_colon",
            Violation::NoColon => "no_colon",
            Violation::LengthAndEncoding => "length_and_encoding",
            Violation::RepeatedLength => "repeated_length",
            Violation::BadLength => "bad_length",
            Violation::BadEncoding => "bad_encoding",
            Violation::EncodingInOldVersion => "encoding_in_old_version",
            Violation::BadChunk => "bad_chunk",
            Violation::TooLong => "too_long",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose messages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Requests from clients, one after the other.
    Requests,
    /// Responses from an origin. Their bodies are not followed: which responses have one depends on
    /// the request (RFC 9112 section 6.3), so the pool says when a head is due ([`Guard::expect_head`]).
    Responses,
}

/// Where in the stream of messages the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// First line of a message, or the empty line that may precede it (RFC 9112 section 2.2).
    Start,
    /// Header lines.
    Fields,
    /// So many bytes of a body with a length.
    Body(u64),
    /// A chunk-size line.
    ChunkSize,
    /// So many bytes of chunk data.
    ChunkData(u64),
    /// The CRLF after chunk data; how many of its bytes are still due.
    ChunkEnd(u8),
    /// Trailer lines.
    Trailers,
    /// Bytes nobody frames: a tunnel, or an origin's body.
    Opaque,
    /// After a violation: nothing that follows means anything.
    Refused,
}

/// What a head said about the body that follows it.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    old_version: bool,
    interim: bool,
}

/// What the front of a message's bytes is: see [`Guard::follow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes of a head that goes on.
    Head(usize),
    /// So many bytes, the last of a head.
    HeadEnd(usize),
    /// So many bytes of content.
    Content(usize),
    /// So many bytes around content: chunk sizes, trailers.
    Around(usize),
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentFraming {
    /// The next message.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Follows the messages of one connection.
pub struct Guard {
    side: Side,
    at: At,
    framing: Framing,
    /// The beginning of a line that came without its end.
    partial: Vec<u8>,
    /// Whether the one empty line allowed before a message was used.
    skipped_empty: bool,
}

impl Guard {
    /// A guard at the start of a connection.
    pub fn new(side: Side) -> Self {
        Guard {
            side,
            at: match side {
                Side::Requests => At::Start,
                // Anything before the first request was sent is hyper's to refuse.
                Side::Responses => At::Opaque,
            },
            framing: Framing::default(),
            partial: Vec::new(),
            skipped_empty: false,
        }
    }

    /// The next byte begins a response head.
    pub fn expect_head(&mut self) {
        if self.at != At::Refused {
            self.at = At::Start;
            self.framing = Framing::default();
            self.partial.clear();
            self.skipped_empty = false;
        }
    }

    /// Takes the next step through `bytes`, which are not empty and begin where the last step ended: for who keeps the
    /// bytes and interprets one message at a time. What follows a message is not looked at before it is stepped into.
    ///
    /// # Errors
    /// The violation. No further step may be taken then.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        let before = self.at;
        let taken = self.step(bytes).inspect_err(|_| self.at = At::Refused)?;
        Ok(match before {
            At::Start | At::Fields if self.at == At::Fields => Step::Head(taken),
            // The empty line before a message, or the beginning of its first line.
            At::Start => Step::Head(taken),
            At::Fields => Step::HeadEnd(taken),
            At::Body(_) | At::ChunkData(_) | At::Opaque | At::Refused => Step::Content(taken),
            At::ChunkSize | At::ChunkEnd(_) | At::Trailers => Step::Around(taken),
        })
    }

    /// What follows the head that has just ended.
    pub fn content(&self) -> ContentFraming {
        match (self.framing.chunked, self.framing.length) {
            (true, _) => ContentFraming::Chunked,
            (false, None | Some(0)) => ContentFraming::None,
            (false, Some(length)) => ContentFraming::Length(length),
        }
    }

    /// Whether the connection is between messages.
    pub fn is_idle(&self) -> bool {
        self.at == At::Start && self.partial.is_empty()
    }

    /// Looks at what was just read. On a violation the offending rest of `bytes` is overwritten.
    ///
    /// # Errors
    /// The violation, once; later calls overwrite everything and return `Ok`.
    pub fn inspect(&mut self, bytes: &mut [u8]) -> Result<(), Violation> {
        if self.at == At::Refused {
            bytes.fill(0);
            return Ok(());
        }
        let mut position = 0;
        while position < bytes.len() {
            match self.step(&bytes[position..]) {
                Ok(taken) => position += taken,
                Err(violation) => {
                    self.at = At::Refused;
                    self.partial = Vec::new();
                    bytes[position..].fill(0);
                    return Err(violation);
                }
            }
        }
        Ok(())
    }

    /// Takes one line or one run of body bytes off the front of `bytes`; returns its length.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        match self.at {
            At::Opaque | At::Refused => Ok(bytes.len()),
            At::Body(left) => {
                let taken = skip(left, bytes.len());
                self.at = match left - taken as u64 {
                    0 => self.after_message(),
                    left => At::Body(left),
                };
                Ok(taken)
            }
            At::ChunkData(left) => {
                let taken = skip(left, bytes.len());
                self.at = match left - taken as u64 {
                    0 => At::ChunkEnd(2),
                    left => At::ChunkData(left),
                };
                Ok(taken)
            }
            At::ChunkEnd(due) => {
                let expected = if due == 2 { b'\r' } else { b'\n' };
                if bytes[0] != expected {
                    return Err(Violation::BadChunk);
                }
                self.at = if due == 2 { At::ChunkEnd(1) } else { At::ChunkSize };
                Ok(1)
            }
            At::Start | At::Fields | At::ChunkSize | At::Trailers => self.step_line(bytes),
        }
    }

    fn step_line(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
            if self.partial.len() + bytes.len() > LINE_BYTES_MAX {
                return Err(Violation::TooLong);
            }
            // A NUL or a bare CR in an unfinished line is found when the line ends; hyper can't act
            // on the line before that either.
            self.partial.extend_from_slice(bytes);
            return Ok(bytes.len());
        };
        let taken = end + 1;
        if self.partial.is_empty() {
            self.line(&bytes[..end])?;
        } else {
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&bytes[..end]);
            self.line(&line)?;
            // Kept for the next torn line of this head; dropped with the head.
            line.clear();
            if self.at != At::Start {
                self.partial = line;
            }
        }
        Ok(taken)
    }

    /// Judges a line without its LF.
    fn line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let Some((b'\r', line)) = line.split_last() else {
            return Err(if self.at == At::ChunkSize { Violation::BadChunk } else { Violation::BareLf });
        };
        for &byte in line {
            if byte == b'\r' {
                return Err(Violation::BareCr);
            }
            if byte == 0 {
                return Err(Violation::Nul);
            }
        }
        match self.at {
            At::Start => self.first_line(line),
            At::Fields if line.is_empty() => self.end_of_head(),
            At::Fields => self.field(line),
            At::ChunkSize => self.chunk_size(line),
            At::Trailers if line.is_empty() => {
                self.at = self.after_message();
                Ok(())
            }
            // A trailer must not change framing, but it is not read as framing by anyone here
            // either; only its shape matters.
            At::Trailers => field_name(line).map(|_| ()),
            At::Body(_) | At::ChunkData(_) | At::ChunkEnd(_) | At::Opaque | At::Refused => Ok(()),
        }
    }

    fn first_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        if line.is_empty() {
            if std::mem::replace(&mut self.skipped_empty, true) {
                return Err(Violation::NoColon);
            }
            return Ok(());
        }
        self.framing = Framing::default();
        match self.side {
            Side::Requests => self.framing.old_version = line.ends_with(b" HTTP/1.0"),
            Side::Responses => {
                self.framing.old_version = line.starts_with(b"HTTP/1.0 ");
                // `HTTP/1.1 1xx`; 101 is final and ends the messages of this connection.
                self.framing.interim = line.get(8..10) == Some(b" 1") && line.get(10..12) != Some(b"01");
            }
        }
        self.at = At::Fields;
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        let (name, value) = field_name(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.framing.chunked {
                return Err(Violation::LengthAndEncoding);
            }
            if self.framing.length.is_some() {
                return Err(Violation::RepeatedLength);
            }
            self.framing.length = Some(decimal(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.framing.old_version {
                return Err(Violation::EncodingInOldVersion);
            }
            if self.framing.length.is_some() {
                return Err(Violation::LengthAndEncoding);
            }
            // RFC 9112 section 6.1: codings other than chunked would have to be undone here, and
            // chunked must not be applied twice.
            if self.framing.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Violation::BadEncoding);
            }
            self.framing.chunked = true;
        }
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<(), Violation> {
        self.at = match self.side {
            Side::Responses if self.framing.interim => At::Start,
            Side::Responses => At::Opaque,
            Side::Requests if self.framing.chunked => At::ChunkSize,
            Side::Requests => match self.framing.length {
                None | Some(0) => self.after_message(),
                Some(length) => At::Body(length),
            },
        };
        Ok(())
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), Violation> {
        if line.len() > CHUNK_LINE_BYTES_MAX {
            return Err(Violation::BadChunk);
        }
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        // Sixteen hex digits are a u64; nobody sends the seventeenth in good faith.
        if digits == 0 || digits > 16 {
            return Err(Violation::BadChunk);
        }
        let rest = line[digits..].trim_ascii_start();
        if !rest.is_empty() && rest[0] != b';' || (rest.is_empty() && digits != line.len()) {
            return Err(Violation::BadChunk);
        }
        let size = line[..digits].iter().fold(0u64, |size, &digit| {
            size << 4 | u64::from((digit as char).to_digit(16).unwrap_or_default())
        });
        self.at = if size == 0 { At::Trailers } else { At::ChunkData(size) };
        Ok(())
    }

    fn after_message(&mut self) -> At {
        self.partial = Vec::new();
        self.skipped_empty = false;
        match self.side {
            Side::Requests => At::Start,
            Side::Responses => At::Opaque,
        }
    }
}

fn skip(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

/// Splits a header line at its colon; the value comes without surrounding whitespace.
fn field_name(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if line[0] == b' ' || line[0] == b'\t' {
        return Err(Violation::FoldedLine);
    }
    let colon = line.iter().position(|&byte| byte == b':').ok_or(Violation::NoColon)?;
    let name = &line[..colon];
    match name.last() {
        None => Err(Violation::NoColon),
        Some(b' ' | b'\t') => Err(Violation::SpaceBeforeColon),
        Some(_) => Ok((name, line[colon + 1..].trim_ascii())),
    }
}

fn decimal(value: &[u8]) -> Result<u64, Violation> {
    if value.contains(&b',') {
        return Err(Violation::RepeatedLength);
    }
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Violation::BadLength);
    }
    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(Violation::BadLength)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` whole, then again one byte at a time: both must judge alike.
    fn judge(side: Side, bytes: &[u8]) -> Result<(), Violation> {
        let fresh = || {
            let mut guard = Guard::new(side);
            if side == Side::Responses {
                guard.expect_head();
            }
            guard
        };
        let whole = fresh().inspect(&mut bytes.to_vec());
        let mut guard = fresh();
        let torn = bytes.iter().try_for_each(|&byte| guard.inspect(&mut [byte]));
        assert_eq!(whole, torn, "torn differently: {:?}", String::from_utf8_lossy(bytes));
        whole
    }

    fn request(bytes: &str) -> Result<(), Violation> {
        judge(Side::Requests, bytes.as_bytes())
    }

    #[test]
    fn good_messages_pass_with_what_follows_them() {
        for good in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\n\0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n2;a=b\r\n\n\n\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
        ] {
            assert_eq!(request(good), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn every_violation_of_a_head_has_its_name() {
        let head = |line: &str| request(&format!("POST / HTTP/1.1\r\n{line}\r\n\r\n"));
        assert_eq!(
            head("Content-Length: 1\r\nTransfer-Encoding: chunked"),
            Err(Violation::LengthAndEncoding)
        );
        assert_eq!(
            head("Transfer-Encoding: chunked\r\nContent-Length: 1"),
            Err(Violation::LengthAndEncoding)
        );
        assert_eq!(head("Content-Length: 1\r\ncontent-length: 1"), Err(Violation::RepeatedLength));
        assert_eq!(head("Content-Length: 1, 1"), Err(Violation::RepeatedLength));
        for length in ["+1", "-1", "0x1", "", "1 1", "99999999999999999999"] {
            assert_eq!(head(&format!("Content-Length: {length}")), Err(Violation::BadLength), "{length}");
        }
        for coding in ["gzip, chunked", "chunked, chunked", "identity", "", "chunked;a", "xchunked"] {
            assert_eq!(
                head(&format!("Transfer-Encoding: {coding}")),
                Err(Violation::BadEncoding),
                "{coding}"
            );
        }
        assert_eq!(
            head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
            Err(Violation::BadEncoding)
        );
        assert_eq!(head("Host : a"), Err(Violation::SpaceBeforeColon));
        assert_eq!(head("A: b\r\n c"), Err(Violation::FoldedLine));
        assert_eq!(head("A: b\0c"), Err(Violation::Nul));
        assert_eq!(head("A: b\rc"), Err(Violation::BareCr));
        assert_eq!(head("A: b\nC: d"), Err(Violation::BareLf));
        assert_eq!(head("nothing"), Err(Violation::NoColon));
        assert_eq!(head(": a"), Err(Violation::NoColon));
        assert_eq!(
            request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Err(Violation::EncodingInOldVersion)
        );
    }

    #[test]
    fn chunk_framing_is_exact() {
        let chunks =
            |body: &str| request(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        for bad in [
            "1\na\r\n0\r\n\r\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\nab\r\n",
            " 1\r\na\r\n",
            "1 \r\na\r\n",
            "x\r\n",
            "0x1\r\na\r\n",
            "11111111111111111\r\n",
            "-1\r\n",
        ] {
            assert_eq!(chunks(bad), Err(Violation::BadChunk), "{bad:?}");
        }
        assert_eq!(chunks("0\r\nA: b\nC: d\r\n\r\n"), Err(Violation::BareLf));
    }

    #[test]
    fn what_follows_a_violation_is_overwritten() {
        let mut guard = Guard::new(Side::Requests);
        let mut bytes = b"GET / HTTP/1.1\r\nA : b\r\n\r\nGET /smuggled".to_vec();
        assert_eq!(guard.inspect(&mut bytes), Err(Violation::SpaceBeforeColon));
        assert!(bytes.starts_with(b"GET / HTTP/1.1\r\n\0\0"));
        let mut later = b"GET / HTTP/1.1".to_vec();
        assert_eq!(guard.inspect(&mut later), Ok(()));
        assert_eq!(later, vec![0; 14]);
    }

    #[test]
    fn responses_are_judged_by_head_and_interim_ones_do_not_end_it() {
        let response = |text: &str| judge(Side::Responses, text.as_bytes());
        assert_eq!(response("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\n"), Ok(()));
        assert_eq!(
            response(
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            Err(Violation::LengthAndEncoding)
        );
        assert_eq!(response("HTTP/1.1 200 OK\nA: b\r\n\r\n"), Err(Violation::BareLf));
        assert_eq!(
            response("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Err(Violation::EncodingInOldVersion)
        );
    }
}
