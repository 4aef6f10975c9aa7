//! A plain HTTP/1.1 client that notices every missing byte: for drills that send thousands of requests.
//!
//! One connection per request, blocking, with a deadline. It speaks to PoPs over TCP and to nodes through their control
//! socket. It decodes chunked bodies and nothing else.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Longest silence of the other side.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A whole response.
#[derive(Clone, Debug, Default)]
pub struct Got {
    /// Its status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Its content.
    pub body: Vec<u8>,
}

impl Got {
    /// The first value of a field; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// GETs a path of the site `www.cdn.test` at a PoP.
///
/// # Errors
/// Where the response does not come, or not whole: `UnexpectedEof` is a body that was cut short.
pub fn get(pop: SocketAddr, path: &str, fields: &[(&str, &str)]) -> io::Result<Got> {
    read(&mut begin(pop, path, fields)?)
}

/// Asks as [`get`] does, and leaves the answer in the socket.
///
/// # Errors
/// Those of connecting and sending.
pub fn begin(pop: SocketAddr, path: &str, fields: &[(&str, &str)]) -> io::Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect_timeout(&pop, SILENCE_MAX)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("GET {path} HTTP/1.1\r\nHost: www.cdn.test\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(head.as_bytes())?;
    Ok(BufReader::new(stream))
}

/// Sends JSON to a node's control socket.
///
/// # Errors
/// Where no whole answer comes.
pub fn control(socket: &Path, method: &str, path: &str, json: &str) -> io::Result<Got> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{json}",
        json.len()
    );
    stream.write_all(head.as_bytes())?;
    read(&mut BufReader::new(stream))
}

/// Reads a response to its end.
///
/// # Errors
/// As [`get`].
pub fn read(from: &mut impl BufRead) -> io::Result<Got> {
    let mut got = read_head(from)?;
    let no_content = got.status == 304 || got.status == 204;
    if no_content {
        return Ok(got);
    }
    if got.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        got.body = read_chunks(from)?;
    } else if let Ok(length) = got.header("content-length").parse::<usize>() {
        got.body = vec![0; length];
        from.read_exact(&mut got.body)?;
    } else {
        from.read_to_end(&mut got.body)?;
    }
    Ok(got)
}

/// Reads a response head.
///
/// # Errors
/// `InvalidData` for what is none.
pub fn read_head(from: &mut impl BufRead) -> io::Result<Got> {
    let invalid =
        |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not a response: {line:?}"));
    let line = read_line(from)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let mut got = Got { status: status.ok_or_else(|| invalid(&line))?, ..Got::default() };
    loop {
        let line = read_line(from)?;
        if line.is_empty() {
            return Ok(got);
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid(&line))?;
        got.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(from)?;
        let bytes = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("not a chunk: {line:?}")))?;
        let start = body.len();
        body.resize(start + bytes, 0);
        from.read_exact(&mut body[start..])?;
        if !read_line(from)?.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if bytes == 0 {
            return Ok(body);
        }
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.take(64 * 1024).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
