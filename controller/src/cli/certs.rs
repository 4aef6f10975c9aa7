//! `nearside certs` and `nearside cert …`.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use nearside_node::args;

use super::{Failure, HomeArgs, LONG, failed, publish};
use crate::{
    api::{
        certificates::{CertificatesAnswer, PushRequest, Reason, RenewRequest, RevokeRequest, RotateRequest},
        encode,
    },
    certs::Certificate,
    client::json,
    serve::PublishOutcome,
};

/// How long a publish waits for the nodes.
const SETTLE: Duration = Duration::from_secs(30);
/// An authority validates and signs in minutes at worst.
const ORDER: Duration = Duration::from_secs(110);

#[derive(Args)]
pub(super) struct CertsArgs {
    /// Only this site's
    site: Option<String>,
}

#[derive(Subcommand)]
pub(super) enum CertCommand {
    /// Renews now and publishes
    #[command(
        after_help = "Examples:\n  nearside cert renew          # all of the fleet's CA\n  nearside cert renew www"
    )]
    Renew {
        /// Only this site's, whoever issues it
        site: Option<String>,
    },
    /// Publishes a certificate from another ACME client, for a site with `issuer = "import"`
    #[command(after_help = "Examples:\n  \
        nearside cert push www --cert fullchain.pem --key privkey.pem\n  \
        lego … renew --renew-hook 'nearside cert push www --cert \"$LEGO_CERT_PATH\" --key \"$LEGO_CERT_KEY_PATH\"'")]
    Push {
        /// Which site
        site: String,
        /// PEM chain, the site's own certificate first
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
        /// PEM private key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Take it though it ends earlier than the one in force
        #[arg(long)]
        replace: bool,
    },
    /// Revokes a certificate that home ordered, and orders another
    #[command(after_help = "Examples:\n  nearside cert revoke www --reason key-compromise")]
    Revoke {
        /// Which site
        site: String,
        /// What the authority is told
        #[arg(long, value_enum, default_value_t = Reason::Unspecified)]
        reason: Reason,
    },
    /// Gives our account at an authority another key; certificates get a new one at each renewal anyway
    #[command(after_help = "Examples:\n  nearside cert rotate-key letsencrypt")]
    RotateKey {
        /// Which [acme.directory.NAME]
        directory: String,
    },
}

pub(super) async fn cert(at: &HomeArgs, command: CertCommand) -> Result<ExitCode, Failure> {
    match command {
        CertCommand::Renew { site } => {
            let body = json(&RenewRequest { site });
            let answer = at.peer()?.ask(Method::POST, "/v1/certificates/renew", body, ORDER).await?;
            let outcome: PublishOutcome = answer.good()?.json()?;
            publish::settle(at, &outcome, SETTLE).await
        }
        CertCommand::Push { site, cert, key, replace } => {
            let read = |path: &PathBuf| {
                fs::read_to_string(path).map_err(|error| failed(format!("{}: {error}", path.display())))
            };
            let body = json(&PushRequest { chain: read(&cert)?, key: read(&key)?, replace });
            let path = format!("/v1/certificates/{}", encode(&site));
            let answer = at.peer()?.ask(Method::PUT, &path, body, LONG).await?;
            let outcome: PublishOutcome = answer.good()?.json()?;
            publish::settle(at, &outcome, SETTLE).await
        }
        CertCommand::Revoke { site, reason } => {
            let body = json(&RevokeRequest { site: site.clone(), reason });
            let _: serde_json::Value = at.post("/v1/certificates/revoke", body).await?;
            println!(
                "the certificate of {site} is revoked; another is being ordered: `nearside certs {site}`"
            );
            Ok(args::OK)
        }
        CertCommand::RotateKey { directory } => {
            let body = json(&RotateRequest { directory: directory.clone() });
            let _: serde_json::Value = at.post("/v1/certificates/rotate-key", body).await?;
            println!("our account at {directory} has a new key");
            Ok(args::OK)
        }
    }
}

pub(super) async fn certs(at: &HomeArgs, what: &CertsArgs) -> Result<ExitCode, Failure> {
    let path = match &what.site {
        Some(site) => format!("/v1/certificates?site={}", encode(site)),
        None => "/v1/certificates".to_owned(),
    };
    let answer = at.peer()?.ask(Method::GET, &path, Bytes::new(), LONG).await?;
    let answer: CertificatesAnswer = answer.good()?.json()?;
    if at.json {
        println!("{}", serde_json::to_string_pretty(&answer).map_err(failed)?);
    } else {
        answer.certificates.iter().for_each(print);
    }
    let well = answer.certificates.iter().all(Certificate::is_well);
    Ok(if well { args::OK } else { args::failed() })
}

fn print(certificate: &Certificate) {
    let Certificate { site, source, hosts, issuer, days_left, fingerprint, .. } = certificate;
    let days = days_left.map_or("no certificate".to_owned(), |days| format!("{days} days left"));
    let issuer = issuer.as_ref().map_or(String::new(), |issuer| format!(", issued by {issuer}"));
    println!("{site}: {days}, from {source}{issuer}");
    println!("  for {}", hosts.join(", "));
    if let Some(fingerprint) = fingerprint {
        println!("  SHA-256 {fingerprint}");
    }
    for shown in &certificate.pops {
        let said = match (&shown.fingerprint, &shown.error) {
            (Some(got), _) if Some(got) == fingerprint.as_ref() => "serves it".to_owned(),
            (Some(got), _) => format!("serves another: {got}"),
            (None, error) => format!("serves none: {}", error.as_deref().unwrap_or("no answer")),
        };
        println!("  {:<16} {said}", shown.pop);
    }
    if let Some(trouble) = &certificate.trouble {
        println!("  ! {}", trouble.replace('\n', "\n    "));
    }
}
