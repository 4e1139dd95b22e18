//! Revokes a client in the running daemon, even if the config or the client's files are invalid.

use super::event_loop::Daemon;
use crate::config::client_keys::LoadedClient;
use crate::control::Response;
use crate::gate::Revocation;

impl Daemon {
    /// Revokes the client with this name or fingerprint: its knocks are refused from now on, also after a restart, and
    /// its grants are revoked.
    pub(super) fn drop_client(&mut self, wanted: &str) -> Response {
        // Waiting knocks are finished while their client is known; their grants are revoked below.
        self.finish_waiting();
        let is_meant = |client: &LoadedClient| {
            client.name.as_str() == wanted
                || client.key_sets().any(|keys| keys.fingerprint.to_string() == wanted)
        };
        let (meant, others) = std::mem::take(&mut self.setup.clients).into_iter().partition(is_meant);
        self.setup.clients = others;
        let meant: Vec<LoadedClient> = meant;
        let fingerprints: Vec<String> =
            meant.iter().flat_map(LoadedClient::key_sets).map(|keys| keys.fingerprint.to_string()).collect();
        let mut remarks = Vec::new();
        if !meant.is_empty() {
            self.setup.revoked.extend(&fingerprints);
            if let Err(error) = self.setup.revoked.join_with(&self.setup.config.state_dir) {
                remarks.push(format!("the revocation is lost at the next start: {error}"));
            }
            self.keeper.replace_policy(self.setup.policy());
            match self.supervisor.reconfigure(&self.setup) {
                Ok(old) => self.drain_retired(old),
                // The keeper refuses the knocks that the old watcher still passes on.
                Err(failure) => remarks.push(format!(
                    "the watcher still passes on its knocks, and the keeper refuses them: {}",
                    failure.text()
                )),
            }
            self.readmit_hints();
            self.prune_use_counts();
            self.prune_signatures();
        }
        // Includes grants of a client that is no longer configured.
        let names: Vec<_> = meant.iter().map(|client| client.name.to_string()).collect();
        let holds = |name: &str| name == wanted || names.iter().any(|dropped| dropped == name);
        let ended = self.executor.end_for(&|name| holds(name.as_str()));
        let Revocation { records, failures } = self.note_ended(ended);
        remarks.extend(failures);
        let closed = u64::try_from(records.len()).unwrap_or(u64::MAX);
        for name in &names {
            log::warn!("client {name}: revoked; its knocks are refused from now on");
        }
        remarks.iter().for_each(|remark| log::error!("client {wanted}: {remark}"));
        Response::Dropped { clients: names, fingerprints, closed, remarks }
    }

    /// Removes the counts of clients that do not exist any more or are revoked: the status would advise to give them a new
    /// key.
    pub(super) fn prune_signatures(&mut self) {
        let Self { signatures, setup, .. } = self;
        signatures.retain(|name, _| setup.clients.iter().any(|client| client.name == *name));
    }
}
