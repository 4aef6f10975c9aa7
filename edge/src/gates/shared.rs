//! Limits that the edges of a fleet share, through a Redis. No request ever waits for it.
//!
//! Each edge decides by what it knows. What it admitted is noted in its site's [`Ledger`]; every `interval` the notes go to
//! Redis in one pipeline, which adds them to the bucket of the fleet and answers how far from full that is; the local
//! bucket learns it. A bucket of the fleet holds everything that was ever admitted, so what edges let in too much
//! before they heard of each other is paid back: with `E` edges, a burst `B`, a rate `R` and `Δ` = interval + round trip, no
//! client gets more than `B + R·t + (E−1)·(B + R·Δ)` in any time `t` (docs/gates.md has the argument).
//!
//! While Redis is away local limits go on, each edge by itself with the whole limit: most clients reach one edge, and a
//! share of the limit would refuse them for an outage that is not theirs. Notes of that time are dropped: added up later
//! they would count as if made at once.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nearside_fleet::{Sha256, config::gates::SharedLimits};
use nearside_node::state::read_bounded;
use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo,
    aio::MultiplexedConnection,
};

use super::buckets::Flow;
use crate::request::Edge;

/// Buckets that one site tells of in one interval; what comes above is limited here alone, and counted.
pub const NOTED_MAX: usize = 10_000;

/// Buckets in one pipeline: an exchange holds no more of either side's time than a few milliseconds.
const PIPELINE_MAX: usize = 500;

/// Pause after the first attempt to connect that failed; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long nothing is said to Redis before it is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(1);

/// How often somebody looks whether there is anything to share.
const IDLE: Duration = Duration::from_millis(500);

const PASSWORD_BYTES_MAX: u64 = 4096;

/// Adds microseconds to a bucket, by Redis' own clock, and answers how many it lacks of being full. The key is
/// forgotten when it would be full.
const SCRIPT: &str = "local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = tonumber(redis.call('GET', KEYS[1]) or '0')
if full < now then full = now end
full = full + tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1000)
return math.floor(full - now)";

/// Where the Redis is, and what to say to it.
#[derive(Clone, PartialEq)]
pub struct Settings {
    limits: SharedLimits,
    password: Option<String>,
    /// What all keys of this fleet begin with.
    prefix: String,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the password.
    ///
    /// # Errors
    /// Its file can't be read, in words.
    pub fn load(fleet: &str, limits: &SharedLimits) -> Result<Self, String> {
        let read = |path: &std::path::PathBuf| {
            let bytes = read_bounded(path, PASSWORD_BYTES_MAX).map_err(|error| error.to_string())?;
            let bytes = bytes.ok_or_else(|| format!("{}: there is no such file", path.display()))?;
            Ok::<String, String>(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        let password = limits.password_file.as_ref().map(read).transpose()?;
        Ok(Settings { limits: limits.clone(), password, prefix: format!("nearside:{fleet}:") })
    }

    async fn connect(&self) -> redis::RedisResult<(MultiplexedConnection, String)> {
        let mut login = RedisConnectionInfo::default().set_db(i64::from(self.limits.database));
        if let Some(username) = &self.limits.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        let address = ConnectionAddr::Tcp(self.limits.host.clone(), self.limits.port);
        let client = redis::Client::open(address.into_connection_info()?.set_redis_settings(login))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.limits.timeout))
            .set_response_timeout(Some(self.limits.timeout));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let script = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async(&mut connection).await?;
        Ok((connection, script))
    }
}

/// What was admitted since the last exchange, of one site.
#[derive(Default)]
pub struct Ledger {
    noted: Mutex<HashMap<u64, Noted>>,
    untold: AtomicU64,
}

/// One bucket's part of it.
pub struct Noted {
    /// Its name among edges.
    name: String,
    token_ns: u64,
    count: u32,
}

impl Ledger {
    /// A token was taken from a bucket; `who` is asked for its name once an interval.
    pub fn note(&self, shared: &str, number: u64, flow: Flow, who: impl FnOnce() -> Sha256) {
        let mut noted = self.noted.lock();
        if let Some(known) = noted.get_mut(&number) {
            known.count = known.count.saturating_add(1);
        } else if noted.len() < NOTED_MAX {
            // Half of the hash is as good a name, and half as long.
            let name = format!("{shared}:{:.32}", who().to_string());
            noted.insert(number, Noted { name, token_ns: flow.token_ns, count: 1 });
        } else {
            self.untold.fetch_add(1, Relaxed);
        }
    }

    /// It was given back.
    pub fn take_back(&self, number: u64) {
        if let Some(known) = self.noted.lock().get_mut(&number) {
            known.count = known.count.saturating_sub(1);
        }
    }

    /// What is to be told, which is then told.
    fn drain(&self) -> Vec<(u64, Noted)> {
        let mut noted = std::mem::take(&mut *self.noted.lock());
        noted.retain(|_, noted| noted.count > 0);
        noted.into_iter().collect()
    }

    /// Nanoseconds that a bucket owes and that nobody was told of yet.
    fn owed_ns(&self, number: u64) -> u64 {
        let noted = self.noted.lock();
        noted.get(&number).map_or(0, |noted| u64::from(noted.count).saturating_mul(noted.token_ns))
    }

    /// Tokens that were taken and never told of, because too many had been.
    pub fn untold(&self) -> u64 {
        self.untold.load(Relaxed)
    }
}

/// What became of exchanges.
#[derive(Debug, Default)]
pub struct Stats {
    /// Whether the last one went well.
    pub up: AtomicBool,
    /// Exchanges that were answered.
    pub answered: AtomicU64,
    /// Exchanges and attempts to connect that failed.
    pub failed: AtomicU64,
}

/// Exchanges what sites share, as long as there is an edge.
pub async fn run(edge: Weak<Edge>) {
    let mut link: Option<(Arc<Settings>, MultiplexedConnection, String)> = None;
    let mut pause = PAUSE_MIN;
    let mut next_attempt = Instant::now();
    let mut last_heard = Instant::now();
    loop {
        let Some(alive) = edge.upgrade() else { return };
        let settings = alive.sites.load().shared.clone();
        let Some(settings) = settings else {
            link = None;
            alive.shared.up.store(false, Relaxed);
            forget(&alive);
            drop(alive);
            tokio::time::sleep(IDLE).await;
            continue;
        };
        if link.as_ref().is_some_and(|(current, ..)| **current != *settings) {
            link = None;
            next_attempt = Instant::now();
        }
        if link.is_none() && Instant::now() >= next_attempt {
            match settings.connect().await {
                Ok((connection, script)) => {
                    tracing::info!(host = settings.limits.host, "limits are shared");
                    link = Some((settings.clone(), connection, script));
                    pause = PAUSE_MIN;
                }
                Err(error) => {
                    alive.shared.failed.fetch_add(1, Relaxed);
                    tracing::warn!(%error, host = settings.limits.host, "limits are not shared: no connection");
                    next_attempt = Instant::now() + pause;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
        match &mut link {
            None => forget(&alive),
            Some((_, connection, script)) => {
                match exchange(&alive, &settings, connection, script, last_heard).await {
                    Ok(Said::Something) => last_heard = Instant::now(),
                    Ok(Said::Nothing) => {}
                    Err(error) => {
                        tracing::warn!(%error, "limits are not shared: an exchange failed");
                        alive.shared.failed.fetch_add(1, Relaxed);
                        link = None;
                        next_attempt = Instant::now() + pause;
                    }
                }
            }
        }
        alive.shared.up.store(link.is_some(), Relaxed);
        drop(alive);
        tokio::time::sleep(settings.limits.interval).await;
    }
}

/// Drops what was noted.
fn forget(edge: &Edge) {
    for site in edge.sites.load().iter() {
        if let Some(rates) = site.gates.as_ref().and_then(|gates| gates.rates()) {
            rates.ledger().drain();
        }
    }
}

async fn exchange(
    edge: &Edge,
    settings: &Settings,
    connection: &mut MultiplexedConnection,
    script: &str,
    last_heard: Instant,
) -> redis::RedisResult<Said> {
    let sites = edge.sites.load_full();
    let mut said = Said::Nothing;
    for site in sites.iter() {
        let Some(rates) = site.gates.as_ref().and_then(|gates| gates.rates()) else { continue };
        let noted = rates.ledger().drain();
        for part in noted.chunks(PIPELINE_MAX) {
            let mut pipe = redis::pipe();
            for (_, noted) in part {
                let owed_us = u64::from(noted.count).saturating_mul(noted.token_ns).div_ceil(1000);
                pipe.cmd("EVALSHA")
                    .arg(script)
                    .arg(1)
                    .arg(format!("{}{}", settings.prefix, noted.name))
                    .arg(owed_us);
            }
            let debts_us: Vec<u64> = pipe.query_async(connection).await?;
            let now = Instant::now();
            for ((number, _), debt_us) in part.iter().zip(debts_us) {
                let since_ns = rates.ledger().owed_ns(*number);
                rates.learn(*number, debt_us.saturating_mul(1000).saturating_add(since_ns), now);
            }
            edge.shared.answered.fetch_add(1, Relaxed);
            said = Said::Something;
        }
    }
    if said == Said::Nothing && last_heard.elapsed() >= SILENCE {
        redis::cmd("PING").query_async::<()>(connection).await?;
        said = Said::Something;
    }
    Ok(said)
}

/// Whether Redis was asked anything, and answered.
#[derive(Clone, Copy, PartialEq)]
enum Said {
    Something,
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_bounded_and_told_once() {
        let ledger = Ledger::default();
        let flow = Flow::new(1, Duration::from_secs(1), 1);
        for number in 0..NOTED_MAX as u64 + 5 {
            ledger.note("s:each", number, flow, || Sha256::of(&number.to_be_bytes()));
            ledger.note("s:each", number, flow, || panic!("a name is asked for once"));
            if number == NOTED_MAX as u64 - 1 {
                break;
            }
        }
        ledger.note("s:each", u64::MAX, flow, || Sha256::of(b"one too many"));
        assert_eq!(ledger.untold(), 1);
        ledger.take_back(7);
        ledger.take_back(8);
        ledger.take_back(8);
        assert_eq!(ledger.owed_ns(7), 1_000_000_000);
        let told = ledger.drain();
        assert_eq!(told.len(), NOTED_MAX - 1, "what was given back is not told");
        assert!(told.iter().all(|(_, noted)| noted.name.len() == "s:each:".len() + 32));
        assert!(ledger.drain().is_empty());
    }
}
