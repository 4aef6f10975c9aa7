//! Says what a client would be answered, and why.
//!
//! An [`Explanation`] is made from a [`View`] like any answer: the query is really answered, by the code
//! that serves, and the reasons are gathered around it. So it can be wrong about *why*, never about *what*.
//! It reads the databases itself and is slow; nothing on the query path uses it.

mod ask;
mod text;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{
        Name, RecordType,
        rdata::opt::{ClientSubnet, EdnsCode, EdnsOption},
    },
};
use nearside_geoip::geo::Geo;
use serde::Serialize;

pub use ask::{AskError, Door, HealthMessage, ask};

use crate::{
    answer::{Scratch, Transport},
    clock,
    steering::{self, Client, ServiceId},
    view::View,
};

/// What is to be explained.
#[derive(Clone, Debug)]
pub struct Question {
    /// The name asked for; a final dot is not needed.
    pub name: String,
    /// `A`, `AAAA`, `HTTPS`, or any other type.
    pub rtype: String,
    /// The client: an address, or a client subnet with its length.
    pub client: IpAddr,
    /// `Some`: the query carries a client subnet of this length; `None`: it comes from the client itself.
    pub length: Option<u8>,
}

/// Why a question can't be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Not a domain name.
    #[error("`{0}` is not a domain name")]
    Name(String),
    /// Not a record type.
    #[error("`{0}` is not a record type (A, AAAA, HTTPS, MX, …)")]
    Rtype(String),
    /// A database is damaged.
    #[error("{0}")]
    Database(String),
    /// The server's own answer did not parse: a bug.
    #[error("the server's own answer does not parse: {0}")]
    Answer(String),
}

/// The answer and its reasons.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The name asked for.
    pub name: String,
    /// The type asked for.
    pub rtype: String,
    /// Who asked: an address, or a subnet.
    pub client: String,
    /// How the states below were learned.
    pub health: String,
    /// What is sent.
    pub answer: Answer,
    /// Why; `None` where the zone file alone decides.
    pub steering: Option<steering::Explanation>,
}

/// What is sent.
#[derive(Debug, PartialEq, Serialize)]
pub struct Answer {
    /// `NOERROR`, `NXDOMAIN`, …
    pub rcode: String,
    /// The answer section in presentation format, without TTLs.
    pub records: Vec<String>,
    /// TTL of the answer, seconds.
    pub ttl: Option<u32>,
    /// Prefix length the answer holds for; `None` where the query had no client subnet.
    pub scope: Option<u8>,
}

/// Reads an address, or a subnet with its length.
///
/// # Errors
/// What was expected.
pub fn parse_client(text: &str) -> Result<(IpAddr, Option<u8>), String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is not an IP address"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match length.map(str::parse::<u8>) {
        None => Ok((address, None)),
        Some(Ok(length)) if length <= most => Ok((address, Some(length))),
        Some(_) => Err(format!("expected a prefix length of 0 to {most} after the /")),
    }
}

/// Explains a question under a view. `health` says where the view's states come from. Slow: opens no
/// file, but reads through the geography.
///
/// # Errors
/// [`ExplainError`] if the question makes no sense or a database is damaged.
pub fn explain(
    view: &View,
    geo: &Geo,
    question: &Question,
    health: &str,
) -> Result<Explanation, ExplainError> {
    let name = Name::from_ascii(&question.name).map_err(|_| ExplainError::Name(question.name.clone()))?;
    let rtype: RecordType = question
        .rtype
        .to_ascii_uppercase()
        .parse()
        .map_err(|_| ExplainError::Rtype(question.rtype.clone()))?;
    let query = build_query(name.clone(), rtype, question)?;
    let (answer, service) = send(view, &query, question.client)?;
    let client = Client {
        subnet: question.length.map(|length| (masked(question.client, length), length)),
        source: question.client,
    };
    let reasons = |service| view.base.steering.explain(geo, &view.health, service, client);
    let steering =
        service.map(reasons).transpose().map_err(|error| ExplainError::Database(error.to_string()))?;
    let client = match question.length {
        Some(length) => format!("{}/{length}", question.client),
        None => question.client.to_string(),
    };
    Ok(Explanation {
        name: name.to_string().trim_end_matches('.').to_owned(),
        rtype: rtype.to_string(),
        client,
        health: health.to_owned(),
        answer,
        steering,
    })
}

/// The query as it would arrive.
fn build_query(mut name: Name, rtype: RecordType, question: &Question) -> Result<Vec<u8>, ExplainError> {
    name.set_fqdn(true);
    let mut message = Message::query();
    message.add_query(Query::query(name, rtype));
    if let Some(length) = question.length {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        let subnet = ClientSubnet::new(masked(question.client, length), length, 0);
        edns.options_mut().insert(EdnsOption::Subnet(subnet));
        message.set_edns(edns);
    }
    message.to_vec().map_err(|error| ExplainError::Answer(error.to_string()))
}

/// An address without the bits past `length`: RFC 7871 wants them zero.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

/// Answers a query as the server does, over a stream so that nothing is cut.
fn send(view: &View, query: &[u8], client: IpAddr) -> Result<(Answer, Option<ServiceId>), ExplainError> {
    let mut room = vec![0; 65_535];
    let outcome = view.respond(
        &mut Scratch::default(),
        query,
        SocketAddr::new(client, 53),
        Transport::Stream,
        clock::now(),
        &mut room,
    );
    let message =
        Message::from_vec(&room[..outcome.bytes]).map_err(|error| ExplainError::Answer(error.to_string()))?;
    let scope = message.edns.as_ref().and_then(|edns| match edns.option(EdnsCode::Subnet) {
        Some(EdnsOption::Subnet(subnet)) => Some(subnet.scope_prefix()),
        _ => None,
    });
    let record = |record: &hickory_proto::rr::Record| {
        format!("{} {} {}", record.name, record.record_type(), record.data)
    };
    let answer = Answer {
        rcode: format!("{:?}", message.metadata.response_code).to_ascii_uppercase(),
        records: message.answers.iter().map(record).collect(),
        ttl: message.answers.iter().map(|record| record.ttl).min(),
        scope,
    };
    Ok((answer, outcome.service))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_addresses_or_subnets() {
        assert_eq!(parse_client("2001:db8::/32"), Ok(("2001:db8::".parse().unwrap(), Some(32))));
        assert_eq!(parse_client("192.0.2.1"), Ok(("192.0.2.1".parse().unwrap(), None)));
        assert!(parse_client("192.0.2.1/33").unwrap_err().contains("0 to 32"));
        assert!(parse_client("example").unwrap_err().contains("not an IP address"));
    }

    #[test]
    fn a_subnet_is_sent_without_its_host_bits() {
        let masked_text = |text: &str, length| masked(text.parse().unwrap(), length).to_string();
        assert_eq!(masked_text("192.0.2.77", 24), "192.0.2.0");
        assert_eq!(masked_text("192.0.2.77", 0), "0.0.0.0");
        assert_eq!(masked_text("192.0.2.77", 32), "192.0.2.77");
        assert_eq!(masked_text("2001:db8::1", 32), "2001:db8::");
    }
}
