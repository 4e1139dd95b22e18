//! Taking a client out of the running daemon, whatever its files and the config look like.

use super::event_loop::Daemon;
use crate::config::client_keys::LoadedClient;
use crate::control::Response;
use crate::gate::Revocation;

impl Daemon {
    /// Drops the client of this name or fingerprint: its knocks are refused from now on, also after a restart, and its
    /// grants are closed.
    pub(super) fn drop_client(&mut self, wanted: &str) -> Response {
        // What still waits is decided while its client is known, and closed below.
        self.act_at_last();
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
                remarks.push(format!("the next start does not know of it: {error}"));
            }
            self.keeper.replace_policy(self.setup.policy());
            match self.supervisor.reconfigure(&self.setup) {
                Ok(old) => self.drain_retired(old),
                // Its knocks still reach the keeper, which refuses them.
                Err(failure) => {
                    remarks.push(format!("the watcher still passes its knocks on: {}", failure.text()))
                }
            }
            self.prune_use_counts();
        }
        // Also of a client that is not configured any more.
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
}
