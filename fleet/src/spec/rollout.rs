//! Reads `canary`, `waves` and `watch` of `[controller]`.

use std::{collections::BTreeMap, time::Duration};

use super::reader::{Section, integer};
use crate::config::{Id, Rollout};

/// Waves beyond this many only take longer.
const WAVES_MAX: usize = 10;
const WATCH: Duration = Duration::from_secs(30);
const WATCH_MIN: Duration = Duration::from_secs(1);
const WATCH_MAX: Duration = Duration::from_secs(86_400);

/// `None` where the section has none of the keys: snapshots go to all nodes at once.
pub(super) fn rollout<P, D>(
    section: &Section<'_>,
    pops: &BTreeMap<Id, P>,
    dns: &BTreeMap<Id, D>,
) -> Option<Rollout> {
    let given = ["canary", "waves", "watch"].map(|key| section.value(key).is_some());
    if given == [false; 3] {
        return None;
    }
    let nodes = || pops.keys().chain(dns.keys()).map(String::as_str);
    let canary = section.list("canary", "the name of a PoP or DNS node", |value| {
        section.doc.reference(value, &section.name("canary"), "PoP or DNS node", nodes().collect::<Vec<_>>())
    });
    let waves = section.list("waves", "a share from 1 to 100, percent", |value| {
        u8::try_from(integer(value.get_ref())?).ok().filter(|percent| (1..=100).contains(percent))
    });
    let waves = waves.unwrap_or_default();
    if waves.len() > WAVES_MAX || !waves.is_sorted_by(|a, b| a < b) {
        let message = format!(
            "{}: expected at most {WAVES_MAX} shares, each above the one before",
            section.name("waves")
        );
        section.doc.mistake(section.place_of("waves"), message);
    }
    let watch = given[2].then(|| section.duration("watch", WATCH, WATCH_MIN, WATCH_MAX));
    Some(Rollout { canary: canary.unwrap_or_default(), waves, watch })
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use crate::{Files, config::Rollout};

    const FLEET: &str = "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\nipv4 = \"192.0.2.1\"\n\
        [dns.ns1]\nlisten = \"192.0.2.3:53\"\n[controller]\nlisten = \"127.0.0.1:9443\"\n";

    fn read(more: &str) -> Result<Option<Rollout>, String> {
        let file = Path::new("/nearside.toml");
        let loaded = crate::spec::parse(file, &format!("{FLEET}{more}"), &Files::beside(file));
        let rollout = |loaded: crate::Loaded| loaded.config.controller.unwrap().rollout;
        loaded.map(rollout).map_err(|mistakes| mistakes[0].to_string())
    }

    #[test]
    fn a_rollout_is_read_and_its_mistakes_are_told() {
        assert_eq!(read(""), Ok(None));
        let whole =
            read("canary = [\"fra\", \"ns1\"]\nwaves = [10, 100]\nwatch = \"1m\"\n").unwrap().unwrap();
        assert_eq!(whole.canary, ["fra", "ns1"]);
        assert_eq!((whole.waves, whole.watch), (vec![10, 100], Some(Duration::from_secs(60))));
        assert_eq!(read("canary = \"fra\"\n").unwrap().unwrap().watch, None);
        assert!(read("canary = \"fro\"\n").unwrap_err().contains("no PoP or DNS node `fro`"));
        assert!(read("waves = [50, 25]\n").unwrap_err().contains("above the one before"));
        assert!(read("waves = [0]\n").unwrap_err().contains("from 1 to 100"));
        assert!(read("watch = \"0s\"\n").unwrap_err().contains("1s"));
    }
}
