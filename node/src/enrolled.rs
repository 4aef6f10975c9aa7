//! An enrolled node: its identity, and the desired state it takes from home.
//!
//! A node is enrolled while STATE/identity holds a certificate of the fleet's CA. Home may send it snapshots
//! from then on; once one was accepted, only snapshots govern it. Receiving them is [`crate::snapshots`]'
//! work; this module keeps who the node is and what it accepted.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwapOption;

use crate::{
    control::server::SharedTls,
    identity::{self, Identity},
    state::StateDir,
};

/// Who this node is, read again when the files change.
#[derive(Debug)]
pub struct Enrolment {
    node: String,
    state: Option<StateDir>,
    identity: ArcSwapOption<Identity>,
    tls: SharedTls,
}

impl Enrolment {
    /// Reads the identity of `node`, if it has one. One that can't be used is told and is no identity: the
    /// node serves, read-only to the outside.
    pub fn new(node: &str, state: Option<StateDir>) -> Self {
        let enrolment = Self {
            node: node.to_owned(),
            state,
            identity: ArcSwapOption::empty(),
            tls: SharedTls::default(),
        };
        enrolment.read_identity();
        enrolment
    }

    /// The TLS configuration of the control listener, kept up to date.
    pub fn tls(&self) -> SharedTls {
        Arc::clone(&self.tls)
    }

    /// The identity of now.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    /// The files to watch; none without a state directory.
    pub fn identity_files(&self) -> Vec<PathBuf> {
        self.state.iter().flat_map(|state| identity::watched(&state.path(identity::DIR))).collect()
    }

    /// Reads the identity again, and who is revoked. A bad or vanished one leaves the present one in place until the restart.
    pub fn read_identity(&self) {
        let Some(state) = &self.state else { return };
        let last = self.identity();
        let read = Identity::of_state(state).and_then(|identity| {
            let tls = identity.as_ref().map(|identity| identity.credentials.server_config()).transpose()?;
            Ok(identity.zip(tls))
        });
        match read {
            Ok(Some((identity, tls))) => {
                let is_same = |last: &Identity| {
                    last.credentials.chain == identity.credentials.chain && last.revoked == identity.revoked
                };
                if last.is_some_and(|last| is_same(&last)) {
                    return;
                }
                let expected = format!("node:{}", self.node);
                if identity.common_name != expected {
                    tracing::warn!(
                        "the identity is {}'s, this is {expected}: was the right directory copied?",
                        identity.common_name
                    );
                }
                tracing::info!(
                    identity = identity.common_name,
                    not_after = identity.not_after,
                    "enrolled: the control listener asks for client certificates of the fleet"
                );
                self.identity.store(Some(Arc::new(identity)));
                self.tls.store(Some(tls));
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the identity can't be used; the one before stays, if any"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::test_identities::Ca;

    #[test]
    fn an_identity_is_read_kept_and_renewed() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        let dir = state.path(identity::DIR);
        let enrolment = Enrolment::new("fra", Some(state));
        assert!(enrolment.identity().is_none(), "not enrolled");

        let ca = Ca::new();
        ca.write_identity(&dir, "node:fra");
        enrolment.read_identity();
        let first = enrolment.identity().expect("enrolled while running");
        assert_eq!(first.common_name, "node:fra");

        // Half a copy: the key of another certificate.
        let key = fs::read(dir.join(identity::KEY)).unwrap();
        ca.write_identity(&dir, "node:fra");
        fs::write(dir.join(identity::KEY), key).unwrap();
        enrolment.read_identity();
        let still = enrolment.identity().expect("the old one stays");
        assert_eq!(still.credentials.chain, first.credentials.chain);

        ca.write_identity(&dir, "node:fra");
        enrolment.read_identity();
        let renewed = enrolment.identity().expect("renewed");
        assert_ne!(renewed.credentials.chain, first.credentials.chain);
    }

    #[test]
    fn half_an_identity_is_told_by_its_file() {
        let temp = tempfile::tempdir().unwrap();
        Ca::new().write_identity(temp.path(), "node:fra");
        fs::remove_file(temp.path().join(identity::KEY)).unwrap();
        let error = Identity::read(temp.path()).expect_err("no key");
        assert!(error.to_string().contains(identity::KEY), "{error}");
    }
}
