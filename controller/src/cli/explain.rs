//! `nearside explain`: why a client is answered so.

use std::process::ExitCode;

use nearside_node::args;

use super::{Failure, HomeArgs, QUICK, failed};
use crate::api::encode;

pub(super) async fn explain(
    at: &HomeArgs,
    name: &str,
    rtype: &str,
    client: &str,
) -> Result<ExitCode, Failure> {
    let path = format!("/v1/explain?name={}&type={}&client={}", encode(name), encode(rtype), encode(client));
    let explanation: serde_json::Value = at.peer()?.get(&path, QUICK).await?;
    match explanation.get("text").and_then(|text| text.as_str()).filter(|_| !at.json) {
        Some(text) => println!("{}", text.trim_end()),
        None => println!("{}", serde_json::to_string_pretty(&explanation).map_err(failed)?),
    }
    Ok(args::OK)
}
