//! `nearside sign`: addresses and cookies that edges let in. Asks nobody: the fleet file names the keys.

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Args;
use http::Uri;
use nearside_fleet::{
    config::{Site, front::Network, tokens::Signed},
    signing::{self, FILE_BYTES_MAX, Grant, Keys},
};
use nearside_node::{args, state::read_bounded};

use super::{Failure, HomeArgs, duration, failed};
use crate::home::seconds;

#[derive(Args)]
pub(super) struct SignArgs {
    /// The address; with --cookie the path whose whole tree is granted, like https://www.example.org/hls/7/
    #[arg(required_unless_present = "new_key")]
    url: Option<Uri>,
    /// For how long it is good
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    expires: Duration,
    /// Only for clients of this network
    #[arg(long, value_name = "IP/LEN", value_parser = network)]
    from: Option<Network>,
    /// Sign with this key [default: the first of the file]
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Print a Set-Cookie header for all paths below the address
    #[arg(long)]
    cookie: bool,
    /// Print a line with a new key for the site's file instead
    #[arg(long, value_name = "NAME", conflicts_with_all = ["url", "from", "key", "cookie"])]
    new_key: Option<String>,
}

fn network(text: &str) -> Result<Network, String> {
    let host =
        |address: std::net::IpAddr| Network { address, length: if address.is_ipv4() { 32 } else { 128 } };
    let read = text.parse().ok().map(host).or_else(|| signing::network(text));
    read.ok_or_else(|| "expected an address or a network like 192.0.2.0/24, host bits zero".to_owned())
}

pub(super) fn sign(at: &HomeArgs, asked: &SignArgs) -> Result<ExitCode, Failure> {
    if let Some(name) = &asked.new_key {
        let line = Keys::new_line(name).ok_or_else(|| {
            failed(format!(
                "{name}: expected 1 to 32 letters, digits, `-` or `_`, and a working random source"
            ))
        })?;
        print!("{line}");
        return Ok(args::OK);
    }
    let Some(url) = &asked.url else { return Ok(args::usage()) };
    let loaded = nearside_fleet::load(&at.fleet).map_err(|mistakes| {
        failed(mistakes.iter().map(nearside_fleet::Mistake::with_source).collect::<Vec<_>>().join("\n"))
    })?;
    let host =
        url.host().ok_or_else(|| failed(format!("{url}: expected a whole URL like https://host/path")))?;
    let site = find(loaded.config.sites.values(), &host.to_ascii_lowercase())
        .ok_or_else(|| failed(format!("no site of {} has the host {host}", at.fleet.display())))?;
    let signed = site.gates.signed.as_ref().ok_or_else(|| {
        failed(format!("site {} takes no signatures: it has no [site.{}.gates.signed]", site.name, site.name))
    })?;
    if asked.cookie && !url.path().ends_with('/') {
        let path = url.path();
        return Err(failed(format!("{path}: grants {path}0 as well; a path for a cookie ends with /")));
    }
    let keys = keys(&signed.keys)?;
    if asked.expires > signed.life_max {
        let most = nearside_fleet::units::write_duration(signed.life_max);
        return Err(failed(format!("site {} takes signatures that are good for at most {most}", site.name)));
    }
    let expires = seconds(SystemTime::now() + asked.expires);
    let grant = Grant { expires, from: asked.from };
    let made = match asked.cookie {
        true => cookie(&keys, site, signed, asked, url, &grant),
        false => address(&keys, site, signed, asked, url, &grant),
    };
    let made = made.ok_or_else(|| {
        let known: Vec<&str> = keys.names().collect();
        match &asked.key {
            Some(key) if !known.contains(&key.as_str()) => failed(format!(
                "there is no key {key} in {}; there are: {}",
                signed.keys.display(),
                known.join(", ")
            )),
            _ => failed(format!("{url}: is signed already, or holds a parameter that begins with ns-")),
        }
    })?;
    match at.json {
        true => {
            let what = if asked.cookie { "set_cookie" } else { "url" };
            println!("{}", serde_json::json!({ what: made, "expires": expires, "site": site.name }));
        }
        false => println!("{made}"),
    }
    Ok(args::OK)
}

fn address(
    keys: &Keys,
    site: &Site,
    signed: &Signed,
    asked: &SignArgs,
    url: &Uri,
    grant: &Grant,
) -> Option<String> {
    let unsigned = |name: &str| signed.unsigned_query.iter().any(|known| known == name);
    let key = asked.key.as_deref();
    let query = signing::sign_url(keys, key, &site.name, url.path(), url.query(), grant, &unsigned)?;
    let (scheme, authority) = (url.scheme_str().unwrap_or("https"), url.authority()?);
    Some(format!("{scheme}://{authority}{}?{query}", url.path()))
}

fn cookie(
    keys: &Keys,
    site: &Site,
    signed: &Signed,
    asked: &SignArgs,
    url: &Uri,
    grant: &Grant,
) -> Option<String> {
    let value = signing::sign_cookie(keys, asked.key.as_deref(), &site.name, url.path(), grant)?;
    let (path, life) = (url.path(), asked.expires.as_secs());
    let secure = if url.scheme_str() == Some("http") { "" } else { "; Secure" };
    Some(format!(
        "Set-Cookie: {}={value}; Path={path}; Max-Age={life}; HttpOnly; SameSite=Lax{secure}",
        signed.cookie
    ))
}

fn find<'s>(sites: impl Iterator<Item = &'s Site> + Clone, host: &str) -> Option<&'s Site> {
    let serves = |wanted: &str| sites.clone().find(|site| site.hosts.iter().any(|known| known == wanted));
    let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
    serves(host).or_else(|| serves(&wildcard?))
}

fn keys(path: &Path) -> Result<Keys, Failure> {
    let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(failed)?;
    let bytes = bytes.ok_or_else(|| failed(format!("{}: no such file", path.display())))?;
    Keys::parse(&String::from_utf8_lossy(&bytes))
        .map_err(|error| failed(format!("{}: {error}", path.display())))
}
