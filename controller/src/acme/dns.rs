//! Asks a DNS server one question: our own nodes whether a challenge is live, a resolver about foreign zones.
//!
//! UDP, and TCP where the answer is cut. It judges nothing but whether the answer is one.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
    serialize::binary::{BinEncodable, BinEncoder},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// For one try; a resolver that recurses takes a second.
const TRY: Duration = Duration::from_secs(2);
/// A datagram is lost now and then.
const TRIES: usize = 2;
/// Largest datagram taken; nothing larger is offered to be sent.
const DATAGRAM_BYTES_MAX: usize = 4096;
/// Resolvers of the system that are tried.
const SYSTEM_RESOLVERS_MAX: usize = 3;

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The rcode; only NOERROR and NXDOMAIN mean anything.
    pub rcode: ResponseCode,
    /// The answer section.
    pub records: Vec<Record>,
}

/// Types asked for here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Challenges.
    Txt,
    /// Who may issue.
    Caa,
    /// Where a challenge is delegated to.
    Cname,
}

/// Whether the server is to ask others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recursion {
    /// It is a resolver.
    Wanted,
    /// It is one of ours.
    No,
}

/// Asks a server.
///
/// # Errors
/// In words: no answer in time, or none that can be read, or one that failed (SERVFAIL, REFUSED).
pub async fn ask(
    server: SocketAddr,
    name: &str,
    rtype: Type,
    recursion: Recursion,
) -> Result<Answer, String> {
    let failed = |reason: &dyn std::fmt::Display| format!("{server}, asked for {name}: {reason}");
    let query = query(name, rtype, recursion).map_err(|error| failed(&error))?;
    let mut last = "no answer".to_owned();
    for _ in 0..TRIES {
        match timeout(TRY, exchange(server, &query)).await {
            Ok(Ok(message)) => {
                let rcode = message.metadata.response_code;
                if !matches!(rcode, ResponseCode::NoError | ResponseCode::NXDomain) {
                    return Err(failed(&rcode));
                }
                return Ok(Answer { rcode, records: message.answers });
            }
            Ok(Err(reason)) => last = reason,
            Err(_elapsed) => last = "no answer in time".to_owned(),
        }
    }
    Err(failed(&last))
}

/// Asks the resolvers in turn until one answers.
///
/// # Errors
/// In words, of the last.
pub async fn resolve(resolvers: &[SocketAddr], name: &str, rtype: Type) -> Result<Answer, String> {
    let mut last = "there is no resolver".to_owned();
    for resolver in resolvers {
        match ask(*resolver, name, rtype, Recursion::Wanted).await {
            Ok(answer) => return Ok(answer),
            Err(reason) => last = reason,
        }
    }
    Err(last)
}

/// The resolvers of this machine.
pub fn system_resolvers() -> Vec<SocketAddr> {
    resolvers_of(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn resolvers_of(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, 53)).take(SYSTEM_RESOLVERS_MAX).collect()
}

impl Answer {
    /// The texts of TXT records, each joined from its strings.
    pub fn texts(&self) -> Vec<String> {
        let texts = self.records.iter().filter_map(|record| match &record.data {
            RData::TXT(text) => Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned()),
            _ => None,
        });
        texts.collect()
    }

    /// Data of CAA records as on the wire.
    pub fn caa(&self) -> Vec<Vec<u8>> {
        let caa = self.records.iter().filter(|record| record.record_type() == RecordType::CAA);
        caa.filter_map(|record| {
            let mut wire = Vec::new();
            record.data.emit(&mut BinEncoder::new(&mut wire)).ok()?;
            Some(wire)
        })
        .collect()
    }

    /// Targets of the CNAMEs, in order, lower case, without the final dot.
    pub fn targets(&self) -> Vec<String> {
        let targets = self.records.iter().filter_map(|record| match &record.data {
            RData::CNAME(target) => Some(target.0.to_ascii().trim_end_matches('.').to_ascii_lowercase()),
            _ => None,
        });
        targets.collect()
    }
}

fn query(name: &str, rtype: Type, recursion: Recursion) -> Result<Vec<u8>, String> {
    let rtype = match rtype {
        Type::Txt => RecordType::TXT,
        Type::Caa => RecordType::CAA,
        Type::Cname => RecordType::CNAME,
    };
    let mut message = Message::query();
    message.metadata.id = fastrand::u16(..);
    message.metadata.recursion_desired = recursion == Recursion::Wanted;
    let owner =
        Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).map_err(|error| error.to_string())?;
    message.add_query(Query::query(owner, rtype));
    message.to_vec().map_err(|error| error.to_string())
}

async fn exchange(server: SocketAddr, query: &[u8]) -> Result<Message, String> {
    let words = |error: std::io::Error| error.to_string();
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(words)?;
    socket.connect(server).await.map_err(words)?;
    socket.send(query).await.map_err(words)?;
    let mut room = vec![0; DATAGRAM_BYTES_MAX];
    let message = loop {
        let bytes = socket.recv(&mut room).await.map_err(words)?;
        // Whoever guesses the port must guess the rest too; a late answer to another question is passed over.
        match belongs(&room[..bytes], query) {
            Some(message) => break message,
            None => continue,
        }
    };
    if !message.metadata.truncation {
        return Ok(message);
    }
    let mut stream = TcpStream::connect(server).await.map_err(words)?;
    let mut framed = u16::try_from(query.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await.map_err(words)?;
    let length = stream.read_u16().await.map_err(words)?;
    let mut body = vec![0; usize::from(length)];
    stream.read_exact(&mut body).await.map_err(words)?;
    belongs(&body, query).ok_or_else(|| "an answer to something else".to_owned())
}

/// The answer, if it is one to this query.
fn belongs(answer: &[u8], query: &[u8]) -> Option<Message> {
    let question = Message::from_vec(query).ok()?;
    let message = Message::from_vec(answer).ok()?;
    (message.metadata.id == question.metadata.id && message.queries == question.queries).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_from_the_systems_file() {
        let text = "# x\nnameserver 192.0.2.1\nsearch a\nnameserver  2001:db8::1\nnameserver bad\n";
        let expected: Vec<SocketAddr> =
            vec!["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(resolvers_of(text), expected);
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let one = query("a.test", Type::Txt, Recursion::No).unwrap();
        let other = query("b.test", Type::Txt, Recursion::No).unwrap();
        assert!(belongs(&one, &one).is_some());
        assert!(belongs(&other, &one).is_none());
        assert!(belongs(b"junk", &one).is_none());
    }
}
