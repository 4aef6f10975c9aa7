//! A daemon for tests: its state is the text of one zone file, and it refuses any that says BAD.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Instant,
};

use crate::{ControlRequest, ControlResponse, Daemon, Desired, Kind, Refusal, Route, Staging, StartError};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct TestDaemon {
    pub(crate) serving: Mutex<Option<String>>,
}

impl TestDaemon {
    pub(crate) fn serves(&self) -> Option<String> {
        self.serving.lock().unwrap().clone()
    }
}

impl Daemon for TestDaemon {
    type Staged = String;
    const KIND: Kind = Kind::Dns;
    const ROUTES: &'static [Route<()>] = &[];

    fn stage(&self, desired: &Desired) -> Result<Staging<String>, Refusal> {
        let zone = desired.config.zones.values().next().ok_or_else(|| Refusal::new("no zone"))?;
        let include = zone.file.with_extension("include");
        let also_read = vec![include.clone()];
        let text = fs::read_to_string(&zone.file)
            .map_err(|e| Refusal::new(format!("{}: {e}", zone.file.display())))?;
        let text = text + &fs::read_to_string(include).unwrap_or_default();
        assert!(!text.contains("PANIC"), "a bug in staging");
        if text.contains("BAD") {
            return Err(Refusal::new(format!("{}:1:1: read BAD", zone.file.display())).having_read(also_read));
        }
        Ok(Staging { staged: text, also_read })
    }

    fn swap(&self, staged: String) {
        *self.serving.lock().unwrap() = Some(staged);
    }

    async fn start(self: Arc<Self>) -> Result<(), StartError> {
        Ok(())
    }

    fn report(&self) -> serde_json::Value {
        serde_json::json!({ "zone": self.serves() })
    }

    fn health(&self) -> Result<(), String> {
        self.serves().map(|_| ()).ok_or_else(|| "nothing to serve".to_owned())
    }

    async fn control(&self, request: ControlRequest) -> ControlResponse {
        ControlResponse::ok(&request.path)
    }

    async fn stop(&self, _deadline: Instant) {}
}

/// Writes `nearside.toml` with one zone file of this text into a directory.
pub(crate) fn write_fleet(dir: &Path, zone: &str) -> std::path::PathBuf {
    let fleet = dir.join("nearside.toml");
    fs::create_dir_all(dir.join("zones")).unwrap();
    fs::write(dir.join("zones/cdn.test.zone"), zone).unwrap();
    let text = "version = 1\nfleet = \"test\"\n[dns.ns1]\nlisten = \"127.0.0.1:5353\"\n\
                [zone.\"cdn.test\"]\nfile = \"zones/cdn.test.zone\"\n";
    fs::write(&fleet, text).unwrap();
    fleet
}
