//! `nearside explain`: why a client is answered so, by DNS or over HTTP.

use std::{net::IpAddr, process::ExitCode};

use clap::{Args, Subcommand};
use http::Method;
use nearside_node::args;

use super::{Failure, HomeArgs, QUICK, failed};
use crate::{
    api::{encode, explain_http::ExplainHttp},
    client::json,
};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct ExplainArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// The name
    #[arg(required = true)]
    name: Option<String>,
    /// The record type
    #[arg(default_value = "A")]
    rtype: String,
    /// The client's address or subnet
    #[arg(long, value_name = "IP[/LEN]", required = true)]
    client: Option<String>,
}

#[derive(Subcommand)]
enum What {
    /// Says what would become of a request at a PoP's edge, and why, without sending it
    #[command(after_help = "Examples:\n  \
        nearside explain http https://www.example.org/a.css --client 198.51.100.7\n  \
        nearside explain http https://www.example.org/ -H 'Cookie: beta=1' -X HEAD --client 2001:db8::1 --pop fra")]
    Http(HttpArgs),
}

#[derive(Args)]
struct HttpArgs {
    /// The URL, with scheme and host
    url: String,
    /// A field of the request
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The method
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    method: Option<String>,
    /// The client's address
    #[arg(long, value_name = "IP")]
    client: IpAddr,
    /// Whose edge is asked [default: the first that answers]
    #[arg(long)]
    pop: Option<String>,
}

pub(super) async fn explain(at: &HomeArgs, args: ExplainArgs) -> Result<ExitCode, Failure> {
    let explanation: serde_json::Value = match args.what {
        Some(What::Http(asked)) => {
            let field = |line: &String| match line.split_once(':') {
                Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
                None => Err(failed(format!("{line:?}: expected a field like 'Accept: text/html'"))),
            };
            let headers = asked.headers.iter().map(field).collect::<Result<_, _>>()?;
            let HttpArgs { url, method, client, pop, .. } = asked;
            let body = json(&ExplainHttp { url, method, headers, client, pop });
            at.peer()?.ask(Method::POST, "/v1/explain/http", body, QUICK).await?.good()?.json()?
        }
        None => {
            let (name, client) = (args.name.unwrap_or_default(), args.client.unwrap_or_default());
            let (name, rtype, client) = (encode(&name), encode(&args.rtype), encode(&client));
            let path = format!("/v1/explain?name={name}&type={rtype}&client={client}");
            at.peer()?.get(&path, QUICK).await?
        }
    };
    match explanation.get("text").and_then(|text| text.as_str()).filter(|_| !at.json) {
        Some(text) => println!("{}", text.trim_end()),
        None => println!("{}", serde_json::to_string_pretty(&explanation).map_err(failed)?),
    }
    Ok(args::OK)
}
