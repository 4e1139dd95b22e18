//! Serves requests to the running daemon: root's on the control socket, and HTTP requests for the metrics.

use std::time::Duration;

use super::event_loop::Daemon;
use crate::control::prometheus::exposition;
use crate::control::{Control, Request, Response as Reply, words as grants};
use crate::firewall::ActiveGrant;
use crate::gate::Revocation;
use spa_knock_core::knock::ClientName;

impl Daemon {
    /// Serves requests on the control socket.
    pub(super) fn serve_control(&mut self) {
        let requests = self.control.as_mut().map(Control::run_due).unwrap_or_default();
        for (requester, request) in requests {
            if request == (Request::Grants {}) {
                let lives = self.executor.live();
                let Some(control) = self.control.as_mut() else { return };
                control.respond_with_grants(
                    requester,
                    Box::new(lives.into_iter().map(|live| grants::line(&live))),
                );
                continue;
            }
            // Earlier requests may have taken a long time.
            if requester.has_gone() {
                log::warn!("control socket: client disconnected; request not executed: {request:?}");
                continue;
            }
            let reply = self.reply(request);
            let Some(control) = self.control.as_mut() else { return };
            control.respond(requester, &reply);
        }
    }

    /// Serves HTTP requests for the metrics.
    pub(super) fn serve_metrics(&mut self) {
        let Some(mut metrics) = self.metrics.take() else { return };
        metrics.run_due(&mut || exposition(&self.status()));
        self.metrics = Some(metrics);
    }

    fn known_client(&self, name: &str) -> Result<ClientName, String> {
        let known = self.setup.clients.iter().find(|client| client.name.as_str() == name);
        known.map(|client| client.name.clone()).ok_or_else(|| format!("client {name}: no such client"))
    }

    fn reply(&mut self, request: Request) -> Reply {
        let done = |result: Result<(), String>| match result {
            Ok(()) => Reply::Done,
            Err(reason) => Reply::Failed { reason },
        };
        match request {
            Request::Reload {} => match self.reload() {
                Ok(None) => Reply::Done,
                Ok(Some(remark)) => Reply::DoneBut { remark },
                Err(reason) => Reply::Failed { reason },
            },
            Request::CheckReload {} => done(self.check_reload()),
            Request::Gate { to, trial_ms, by } => {
                let gate_state = crate::control::words::gate_state(to, trial_ms.map(Duration::from_millis));
                let confirmer = match by.map(|by| self.known_client(&by)).transpose() {
                    Ok(confirmer) => confirmer,
                    Err(reason) => return Reply::Failed { reason },
                };
                let before = self.executor.gate().set_confirmer(confirmer);
                let changed = self.executor.gate().set_state(gate_state, &self.setup);
                if changed.is_err() {
                    self.executor.gate().set_confirmer(before);
                }
                match &changed {
                    Ok(()) => log::info!("gate: {gate_state}"),
                    Err(error) => log::error!("gate: could not be set to {gate_state}: {error}"),
                }
                match (changed, self.executor.gate().unremembered()) {
                    (Ok(()), Some(error)) => Reply::DoneBut { remark: error.to_string() },
                    (changed, _) => done(changed.map_err(|error| error.to_string())),
                }
            }
            Request::Grants {} => {
                Reply::Grants { grants: self.executor.live().iter().map(grants::line).collect() }
            }
            Request::Revoke { grant } => {
                let is_meant =
                    |live: &ActiveGrant| grant.as_ref().is_none_or(|grant| grants::number(live) == *grant);
                let Revocation { records, failures } = self.executor.gate().revoke(&is_meant);
                records.iter().for_each(|record| self.audit(record));
                match failures.is_empty() {
                    true => Reply::Count { count: u64::try_from(records.len()).unwrap_or(u64::MAX) },
                    false => done(Err(failures.join("\n"))),
                }
            }
            Request::DropClient { client } => self.drop_client(&client),
            Request::LetIn { address, ports, seconds } => self
                .let_in(&address, &ports, Duration::from_secs(seconds))
                .unwrap_or_else(|reason| Reply::Failed { reason }),
            Request::TakeOver {} => match self.take_over() {
                Ok(floor) => Reply::Floor { ms: floor.as_millis() },
                Err(reason) => Reply::Failed { reason },
            },
            Request::Status {} => Reply::Status { status: Box::new(self.status()) },
            Request::PreviousUses { client } => {
                let count = client.parse().map_or(0, |client| self.keeper.previous_uses(&client));
                Reply::Count { count }
            }
        }
    }
}
