//! Everything an answer is made from, as one immutable value that is swapped whole.
//!
//! A [`Base`] lives as long as a configuration: zones, maps, what services and we say of ourselves. A
//! [`View`] is a base under one state of health and lives for a second at most. A reload makes a new base,
//! a flip only a new table; either way a reader sees the old answer or the new one, never a mixture.

use std::{net::SocketAddr, sync::Arc};

use nearside_fleet::config::Config;
use nearside_zones::Zones;

use crate::{
    answer::{
        self, Context, Identity, Limits, Outcome, Scratch, TailoredService, Transport, cookie::CookieKeys,
    },
    challenge::Challenges,
    health::state::Moment,
    rrl::Rrl,
    steering::{HealthView, Steering, Table},
    transport::stats::SlotTable,
};

/// What one configuration and its files make.
pub struct Base {
    /// The configuration itself, for `explain` and names.
    pub config: Arc<Config>,
    /// The zones served.
    pub zones: Zones,
    /// Address → ordered list of PoPs, for each service.
    pub steering: Arc<Steering>,
    /// What HTTPS records say, by service.
    pub services: Box<[TailoredService]>,
    /// Where each service's answers are counted.
    pub slots: SlotTable,
    /// Who we are.
    pub identity: Identity,
    /// Sizes.
    pub limits: Limits,
    /// Secrets of DNS cookies: this process's own.
    pub cookies: CookieKeys,
    /// Response rate limiting; `None`: there is none.
    pub rrl: Option<Rrl>,
}

/// One state of the server.
pub struct View {
    /// What changes with the configuration.
    pub base: Arc<Base>,
    /// List × health → answer.
    pub table: Table,
    /// What the table was built from, for `explain`.
    pub health: HealthView,
    /// TXT records that home has set; `None`: there are none.
    pub challenges: Option<Arc<Challenges>>,
}

impl View {
    /// A base under a state of health. Costs as much as the table: lists × services.
    pub fn new(base: Arc<Base>, health: HealthView) -> View {
        let table = Table::build(&base.steering, &health);
        View { base, table, health, challenges: None }
    }

    /// The same with these challenges in its answers.
    pub fn with_challenges(self, challenges: &Arc<Challenges>) -> View {
        View { challenges: (!challenges.is_empty()).then(|| Arc::clone(challenges)), ..self }
    }

    /// Answers one query; see [`answer::respond`].
    #[inline]
    pub fn respond(
        &self,
        scratch: &mut Scratch,
        query: &[u8],
        source: SocketAddr,
        transport: Transport,
        now: Moment,
        out: &mut [u8],
    ) -> Outcome {
        let base = &*self.base;
        let context = Context {
            zones: &base.zones,
            steer: &|service, client| base.steering.lookup(service, client),
            table: &self.table,
            services: &base.services,
            identity: &base.identity,
            limits: base.limits,
            cookies: Some(&base.cookies),
            rrl: base.rrl.as_ref(),
            challenges: self.challenges.as_deref(),
        };
        answer::respond(&context, scratch, query, source, transport, now, out)
    }
}

#[cfg(test)]
pub(crate) mod sample {
    //! A small fleet to test with: one zone, `www.cdn.test` tailored, `static.cdn.test` not.

    use std::fs;

    use super::*;
    use crate::{health::exec::ExecPolicy, stage::Stage, transport::stats::Stats};

    const FLEET: &str = r#"
version = 1
fleet = "test"
[pop.fra]
location = [50.11, 8.68]
ipv4 = "192.0.2.10"
[pop.nyc]
location = [40.71, -74.01]
ipv4 = "192.0.2.20"
[dns.ns1]
listen = "127.0.0.1:5353"
[check.web]
type = "tcp"
port = 80
[service.www]
checks = "web"
[zone."cdn.test"]
file = "cdn.test.zone"
names = { www = "www" }
"#;

    const ZONE: &str = "\
$ORIGIN cdn.test.
$TTL 300
@ SOA ns1 hostmaster 1 3600 600 604800 60
@ NS ns1
ns1 A 192.0.2.1
static A 192.0.2.2
";

    /// Stages the sample through real files.
    pub fn view() -> View {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nearside.toml");
        fs::write(&file, FLEET).unwrap();
        fs::write(dir.path().join("cdn.test.zone"), ZONE).unwrap();
        let config = Arc::new(nearside_fleet::load(&file).unwrap().config);
        let staged = Stage::new(ExecPolicy::Refused).build(&config, "ns1", &Stats::default()).unwrap();
        View::new(staged.base, HealthView::default())
    }

    /// `name A` in wire form.
    pub fn query(id: u16, name: &str) -> Vec<u8> {
        let mut wire = id.to_be_bytes().to_vec();
        wire.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.extend([0, 0, 1, 0, 1]);
        wire
    }
}
