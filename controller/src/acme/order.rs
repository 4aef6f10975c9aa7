//! One order at one authority, from its first step or from wherever it stood when home was killed.
//!
//! The authority's word decides what is next; the journal only tells which order that is, and with which key. Every step is
//! journaled before it is taken and may be taken twice, but for one: asking for a new order. Where it is not known whether
//! that was done, the account's list of orders is read first.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Identifier, NewOrder,
    OrderStatus,
};
use nearside_fleet::config::acme::{Directory, KeyKind, SiteAcme};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use tokio::time::{Instant, sleep};

use super::{
    account::Opened,
    caa::Issuer,
    challenge::{Challenges, DnsNode},
    crash::point,
    failure::Failure,
    names::Names,
};
use crate::{
    home::seconds,
    journal::{
        Issued, Journal,
        acme::{Order, Step},
    },
    pair,
};

/// How long an authority is given to validate. Some look from several places with retries of their own.
const VALIDATE_MAX: Duration = Duration::from_secs(300);
/// How long it is given to sign.
const SIGN_MAX: Duration = Duration::from_secs(120);
/// Pause between two looks: first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Requests whose nonce was refused are asked again, which is what the error says to do.
const NONCE_TRIES: usize = 8;

/// Everything an order needs.
#[derive(Debug)]
pub struct Ordering<'o> {
    /// Memory.
    pub journal: &'o Arc<Journal>,
    /// The authority.
    pub directory: &'o Directory,
    /// Our account there.
    pub opened: &'o Opened,
    /// Where challenges go.
    pub names: &'o Names,
    /// What puts them there.
    pub challenges: &'o Challenges,
    /// And onto whom.
    pub nodes: &'o [DnsNode],
    /// What the site says.
    pub wishes: &'o SiteAcme,
    /// What the certificate replaces (RFC 9773 section 5).
    pub replaces: Option<String>,
}

/// Makes a pair for a certificate, PEM.
///
/// # Errors
/// [`Failure::Here`].
pub fn new_key(kind: KeyKind) -> Result<String, Failure> {
    let made = match kind {
        KeyKind::Ecdsa => KeyPair::generate(),
        KeyKind::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
    };
    made.map(|pair| pair.serialize_pem()).map_err(|error| Failure::Here(format!("making a key: {error}")))
}

/// Tries something again for as long as only its nonce is refused.
macro_rules! with_nonce {
    ($call:expr) => {{
        let mut tries = 0;
        loop {
            tries += 1;
            match $call {
                Err(instant_acme::Error::Api(problem))
                    if tries < NONCE_TRIES
                        && problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:badNonce") => {}
                done => break done.map_err(Failure::from),
            }
        }
    }};
}

impl Ordering<'_> {
    /// Brings an order to its certificate. Returns it checked, not yet kept.
    ///
    /// # Errors
    /// [`Failure`]; unless it is [`Failure::Refused`] or [`Failure::Unknown`], the order may be driven on later.
    pub async fn drive(&self, order: &mut Order) -> Result<Issued, Failure> {
        let mut remote = match order.url.clone() {
            Some(url) => with_nonce!(self.opened.account.order(url.clone()).await)?,
            None => self.begin(order).await?,
        };
        let mut deadline = Instant::now() + VALIDATE_MAX + SIGN_MAX;
        let mut pause = LOOK.0;
        loop {
            match remote.state().status {
                OrderStatus::Pending => self.validate(order, &mut remote).await?,
                OrderStatus::Ready => {
                    self.finalize(order, &mut remote).await?;
                    deadline = Instant::now() + SIGN_MAX;
                }
                OrderStatus::Valid => return self.download(order, &mut remote).await,
                OrderStatus::Invalid => return Err(Failure::Refused(why(&mut remote).await)),
                OrderStatus::Processing => {
                    if Instant::now() >= deadline {
                        return Err(Failure::Unavailable("the authority takes too long to sign".to_owned()));
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LOOK.1);
                    with_nonce!(remote.refresh().await.map(drop))?;
                }
            }
        }
    }

    /// Asks for the order, unless it was asked for already.
    async fn begin(&self, order: &mut Order) -> Result<instant_acme::Order, Failure> {
        if order.step == Step::Ordering
            && let Some(url) = self.lost(order).await?
        {
            tracing::info!(site = order.site, url, "found the order that was interrupted");
            return self.known(order, url).await;
        }
        let issuer = Issuer { identities: self.identities(), account: &self.opened.id };
        for host in &order.hosts {
            self.names.allow(host, issuer).await?;
        }
        self.step(order, Step::Ordering)?;
        point("ordering");
        let identifiers: Vec<Identifier> = order.hosts.iter().cloned().map(Identifier::Dns).collect();
        let plain = NewOrder::new(&identifiers);
        let made = match self.replaces.as_deref().and_then(|id| id.split_once('.')) {
            Some((authority, serial)) => {
                let replaced = CertificateIdentifier {
                    authority_key_identifier: authority.into(),
                    serial: serial.into(),
                };
                let replacing = NewOrder::new(&identifiers).replaces(replaced);
                match with_nonce!(self.opened.account.new_order(&replacing).await) {
                    // What it replaces was replaced, or is not known there any more: that is no reason to have none.
                    Err(Failure::Refused(_)) => with_nonce!(self.opened.account.new_order(&plain).await),
                    made => made,
                }
            }
            None => with_nonce!(self.opened.account.new_order(&plain).await),
        };
        let made = match made {
            Ok(made) => made,
            Err(failure) => {
                // Only where the authority said no is it certain that there is no order.
                if matches!(failure, Failure::Refused(_) | Failure::Unknown(_)) {
                    self.step(order, Step::New)?;
                }
                return Err(failure.during("ordering"));
            }
        };
        point("ordered-not-kept");
        order.url = Some(made.url().to_owned());
        self.step(order, Step::Ordered)?;
        point("ordered");
        Ok(made)
    }

    /// The order that was made when home was killed between asking and keeping the answer.
    async fn lost(&self, order: &Order) -> Result<Option<String>, Failure> {
        let listed = self.opened.wire.orders(&self.opened.signer, &self.opened.id, &order.hosts).await?;
        for url in listed {
            if !self.journal.knows_acme_order(&url)? {
                return Ok(Some(url));
            }
        }
        Ok(None)
    }

    async fn known(&self, order: &mut Order, url: String) -> Result<instant_acme::Order, Failure> {
        order.url = Some(url.clone());
        self.step(order, Step::Ordered)?;
        point("ordered");
        with_nonce!(self.opened.account.order(url.clone()).await)
    }

    fn identities(&self) -> &[String] {
        match self.directory.caa.is_empty() {
            true => self.opened.wire.directory.caa_identities(),
            false => &self.directory.caa,
        }
    }

    /// Publishes what the authority wants to see, on all nodes, and only then tells it to look.
    async fn validate(&self, order: &mut Order, remote: &mut instant_acme::Order) -> Result<(), Failure> {
        let mut values = Vec::new();
        {
            let mut authorizations = remote.authorizations();
            while let Some(next) = authorizations.next().await {
                let mut authorization = next?;
                match authorization.status {
                    AuthorizationStatus::Pending => {}
                    AuthorizationStatus::Valid => continue,
                    other => return Err(Failure::Refused(format!("an authorization is {other:?}"))),
                }
                let host = authorization.identifier().to_string();
                let challenge = authorization.challenge(ChallengeType::Dns01);
                let challenge = challenge.ok_or_else(|| {
                    Failure::Refused(format!("{host}: the authority offers no dns-01 challenge"))
                })?;
                let name = self.names.place(&host, &self.wishes.delegation).await?;
                values.push((name, challenge.key_authorization().dns_value()));
            }
        }
        self.step(order, Step::Publishing)?;
        point("publishing");
        self.challenges.publish(self.nodes, order.number, &values).await.map_err(Failure::Here)?;
        point("published");
        self.step(order, Step::Validating)?;
        {
            let mut authorizations = remote.authorizations();
            while let Some(next) = authorizations.next().await {
                let mut authorization = next?;
                if authorization.status != AuthorizationStatus::Pending {
                    continue;
                }
                let Some(mut challenge) = authorization.challenge(ChallengeType::Dns01) else { continue };
                if challenge.status == ChallengeStatus::Pending {
                    with_nonce!(challenge.set_ready().await)?;
                    point("validating");
                }
            }
        }
        let deadline = Instant::now() + VALIDATE_MAX;
        let mut pause = LOOK.0;
        loop {
            with_nonce!(remote.refresh().await.map(drop))?;
            if remote.state().status != OrderStatus::Pending {
                point("validated");
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Failure::Unavailable("the authority takes too long to validate".to_owned()));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
    }

    /// Asks for the certificate of the key that was journaled with the order.
    async fn finalize(&self, order: &mut Order, remote: &mut instant_acme::Order) -> Result<(), Failure> {
        let failed = |error: rcgen::Error| Failure::Here(format!("making the request: {error}"));
        let key = KeyPair::from_pem(&order.key).map_err(failed)?;
        let mut params = CertificateParams::new(order.hosts.clone()).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(failed)?;
        self.step(order, Step::Finalizing)?;
        point("finalizing");
        with_nonce!(remote.finalize_csr(request.der()).await)
            .map_err(|failure| failure.during("finalizing"))?;
        point("finalized");
        Ok(())
    }

    /// Fetches the certificate and makes sure that it is the one that was asked for.
    async fn download(&self, order: &Order, remote: &mut instant_acme::Order) -> Result<Issued, Failure> {
        let chain = with_nonce!(remote.certificate().await)?;
        let chain =
            chain.ok_or_else(|| Failure::Unavailable("the authority gives no certificate".to_owned()))?;
        point("downloaded");
        let wrong =
            |reason: String| Failure::Refused(format!("what the authority issued can't be used: {reason}"));
        let read = pair::examine(&chain, &order.key).map_err(wrong)?;
        read.serves(&order.hosts, seconds(SystemTime::now()) + CLOCK_SKEW_SECS).map_err(wrong)?;
        let (not_before, not_after) = (read.not_before, read.not_after);
        Ok(Issued { hosts: order.hosts.clone(), chain, key: order.key.clone(), not_before, not_after })
    }

    fn step(&self, order: &mut Order, step: Step) -> Result<(), Failure> {
        order.step = step;
        Ok(self.journal.step_acme_order(order, None)?)
    }
}

/// Home's clock may be a little behind the authority's; one that is more is told of elsewhere.
const CLOCK_SKEW_SECS: u64 = 300;

/// What the authority says of an order that it refused.
async fn why(remote: &mut instant_acme::Order) -> String {
    let mut reasons: Vec<String> = remote.state().error.iter().map(ToString::to_string).collect();
    let mut authorizations = remote.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        // What is known is from before it was refused.
        if authorization.refresh().await.is_err() || authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let host = authorization.identifier().to_string();
        let errors = authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(errors.map(|error| format!("{host}: {error}")));
    }
    match reasons.is_empty() {
        true => "the authority calls the order invalid and does not say why".to_owned(),
        false => reasons.join("; "),
    }
}
