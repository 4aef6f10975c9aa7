//! Keeps the certificates of all sites current for as long as home runs: orders what is due, publishes what came.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::task::JoinSet;

use super::{Acme, due::By};
use crate::{
    events::{Event, Kind},
    home::seconds,
    serve::{Controller, PublishOutcome},
};

/// The longest sleep: clocks are set, machines sleep.
const LOOK: Duration = Duration::from_secs(600);
/// The shortest: whatever fails at once must not be tried in a tight loop.
const LOOK_MIN: Duration = Duration::from_secs(1);

/// Orders what is due until cancelled. Cancel-safe: orders go on where they stood.
pub async fn follow(controller: Arc<Controller>) {
    loop {
        let next = round(&controller).await;
        let now = seconds(SystemTime::now());
        let pause = Duration::from_secs(next.saturating_sub(now)).clamp(LOOK_MIN, LOOK);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = controller.acme().wake.notified() => {}
        }
    }
}

/// Sees to every site once. Returns when the next is due.
async fn round(controller: &Arc<Controller>) -> u64 {
    let Some(desk) = controller.desk() else { return u64::MAX };
    let acme = controller.acme();
    let mut attempts = JoinSet::new();
    for (site, wishes) in Acme::sites(&desk.config) {
        if let Err(failure) = acme.look(&desk.config, site).await {
            tracing::debug!(site = site.name, %failure, "no word on renewal");
        }
        if when(acme, site, wishes) > seconds(SystemTime::now()) {
            continue;
        }
        let (controller, desk) = (Arc::clone(controller), desk.clone());
        let (site, wishes) = (site.clone(), wishes.clone());
        attempts.spawn(async move {
            let made = controller.acme().attempt(&desk, &site, &wishes, By::Itself).await;
            tell(&controller, &site.name, made.as_ref().err());
            made.is_ok()
        });
    }
    let mut issued = false;
    while let Some(done) = attempts.join_next().await {
        // A panic there is our bug, and the order goes on where it stood.
        issued |= done.unwrap_or(false);
    }
    if issued {
        let _refusals_are_logged = controller.publish("acme").await;
    }
    acme.clean(&desk.nodes).await;
    Acme::sites(&desk.config).map(|(site, wishes)| when(acme, site, wishes)).min().unwrap_or(u64::MAX)
}

/// When a site is to be seen to; a journal that fails is told by whatever needs it next.
fn when(
    acme: &Acme,
    site: &nearside_fleet::config::Site,
    wishes: &nearside_fleet::config::acme::SiteAcme,
) -> u64 {
    let due = acme.due(site).unwrap_or(u64::MAX);
    due.max(acme.may_try(&site.name, wishes).unwrap_or(u64::MAX))
}

fn tell(controller: &Controller, site: &str, trouble: Option<&super::Trouble>) {
    match trouble {
        None => controller.events().clear(Kind::CertificateFailed, site),
        Some(trouble) if trouble.waits => {}
        Some(trouble) => {
            let message = format!("site {site} gets no certificate: {}", trouble.reasons.join("; "));
            controller.events().raise(Event::new(Kind::CertificateFailed, site, message));
        }
    }
}

/// Orders one site's certificate now, due or not, and publishes it.
///
/// # Errors
/// What each authority said, or what is wrong with what is on disk.
pub async fn now(controller: &Arc<Controller>, site: &str, who: &str) -> Result<PublishOutcome, Vec<String>> {
    let desk = controller.desk().ok_or_else(|| vec!["nothing was published yet".to_owned()])?;
    let found = Acme::sites(&desk.config).find(|(found, _)| found.name == site);
    let (site, wishes) = found
        .ok_or_else(|| vec![format!("site {site} does not order its certificate (issuer = \"acme\")")])?;
    let made = controller.acme().attempt(&desk, site, wishes, By::Hand).await;
    tell(controller, &site.name, made.as_ref().err());
    made.map_err(|trouble| trouble.reasons)?;
    controller.publish(who).await
}
