//! `dig`, asked as an operator would, and its answer read.

use std::{net::SocketAddr, process::Command};

use crate::process;

/// What dig printed.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// `NOERROR`, `NXDOMAIN`, …; empty where nobody answered.
    pub status: String,
    /// Header flags (`qr aa rd`).
    pub flags: Vec<String>,
    /// The answer section: name, TTL, class, type, data.
    pub records: Vec<Record>,
    /// The authority section.
    pub authority: Vec<Record>,
    /// The scope of `CLIENT-SUBNET: a.b.c.d/source/scope`.
    pub scope: Option<u8>,
    /// Everything, for messages.
    pub text: String,
}

/// One record as printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Owner, with the final dot.
    pub name: String,
    /// Seconds.
    pub ttl: u32,
    /// `A`, `AAAA`, …
    pub rtype: String,
    /// The rest.
    pub data: String,
}

impl Answer {
    /// Data of the answer's records of one type, in order.
    pub fn data(&self, rtype: &str) -> Vec<&str> {
        self.records
            .iter()
            .filter(|record| record.rtype == rtype)
            .map(|record| record.data.as_str())
            .collect()
    }

    /// The first address; panics with all of it where there is none.
    ///
    /// # Panics
    /// Without an A or AAAA record.
    pub fn address(&self) -> &str {
        let record = self.records.iter().find(|record| record.rtype == "A" || record.rtype == "AAAA");
        &record.unwrap_or_else(|| panic!("no address:\n{}", self.text)).data
    }
}

/// Asks `server`; `arguments` as typed (`www.cdn.test A +subnet=…`). One try, two seconds.
pub fn ask(server: SocketAddr, arguments: &str) -> Answer {
    let mut dig = Command::new("dig");
    dig.arg(format!("@{}", server.ip())).args(["-p", &server.port().to_string(), "+tries=1", "+time=2"]);
    dig.args(arguments.split_whitespace());
    parse(process::run(&mut dig).stdout)
}

fn parse(text: String) -> Answer {
    let mut answer = Answer::default();
    let mut section = "";
    for line in text.lines() {
        if let Some((_, status)) = line.split_once("status: ") {
            answer.status = status.split(',').next().unwrap_or_default().to_owned();
        } else if let Some(flags) = line.strip_prefix(";; flags: ") {
            let flags = flags.split(';').next().unwrap_or_default();
            answer.flags = flags.split_whitespace().map(str::to_owned).collect();
        } else if let Some(subnet) = line.strip_prefix("; CLIENT-SUBNET: ") {
            answer.scope = subnet.trim().rsplit('/').next().and_then(|scope| scope.parse().ok());
        } else if line.starts_with(";; ") && line.ends_with("SECTION:") {
            section = if line.contains("ANSWER") {
                "answer"
            } else if line.contains("AUTHORITY") {
                "authority"
            } else {
                "other"
            };
        } else if let Some(record) = record(line) {
            match section {
                "answer" => answer.records.push(record),
                "authority" => answer.authority.push(record),
                _ => {}
            }
        }
    }
    answer.text = text;
    answer
}

fn record(line: &str) -> Option<Record> {
    if line.starts_with(';') {
        return None;
    }
    let mut words = line.split_whitespace();
    let (name, ttl, _class, rtype) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let data = words.collect::<Vec<_>>().join(" ");
    Some(Record { name: name.to_owned(), ttl: ttl.parse().ok()?, rtype: rtype.to_owned(), data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let text = "\n;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 1\n;; flags: qr aa rd; QUERY: 1, ANSWER: 1\n\
                    ;; OPT PSEUDOSECTION:\n; CLIENT-SUBNET: 91.64.0.0/16/10\n;; QUESTION SECTION:\n;www.cdn.test. IN A\n\n\
                    ;; ANSWER SECTION:\nwww.cdn.test.\t30\tIN\tA\t127.0.20.1\n";
        let answer = parse(text.to_owned());
        assert_eq!(answer.status, "NOERROR");
        assert_eq!(answer.flags, ["qr", "aa", "rd"]);
        assert_eq!(answer.scope, Some(10));
        assert_eq!(answer.address(), "127.0.20.1");
        assert_eq!(answer.records[0].ttl, 30);
    }
}
