//! What a running daemon is asked: by root at the control socket, by who reads its metrics.

use std::time::Duration;

use super::event_loop::Daemon;
use crate::control::prometheus::exposition;
use crate::control::{Control, Request, Response as Reply, words as grants};
use crate::firewall::ActiveGrant;
use crate::gate::Revoked;
use crate::knock::ClientName;

impl Daemon {
    /// What root asks at the control socket.
    pub(super) fn answer_questions(&mut self) {
        let questions = self.control.as_mut().map(Control::questions).unwrap_or_default();
        for (asker, question) in questions {
            if question == (Request::Grants {}) {
                let lives = self.deeds.live();
                let Some(control) = self.control.as_mut() else { return };
                control.answer_grants(asker, Box::new(lives.into_iter().map(|live| grants::line(&live))));
                continue;
            }
            // The questions before this one may have taken long.
            if asker.has_gone() {
                log::warn!("control socket: not done, as nobody waits for it any more: {question:?}");
                continue;
            }
            let reply = self.reply(question);
            let Some(control) = self.control.as_mut() else { return };
            control.answer(asker, &reply);
        }
    }

    /// What is asked over HTTP.
    pub(super) fn tell_metrics(&mut self) {
        let Some(mut metrics) = self.metrics.take() else { return };
        metrics.run_due(&mut || exposition(&self.status()));
        self.metrics = Some(metrics);
    }

    fn known_client(&self, name: &str) -> Result<ClientName, String> {
        let known = self.setup.clients.iter().find(|client| client.name.as_str() == name);
        known
            .map(|client| client.name.clone())
            .ok_or_else(|| format!("client {name}: there is none of this name"))
    }

    fn reply(&mut self, question: Request) -> Reply {
        let done = |result: Result<(), String>| match result {
            Ok(()) => Reply::Done,
            Err(reason) => Reply::Failed { reason },
        };
        match question {
            Request::Reload {} => match self.reload() {
                Ok(None) => Reply::Done,
                Ok(Some(remark)) => Reply::DoneBut { remark },
                Err(reason) => Reply::Failed { reason },
            },
            Request::CheckReload {} => done(self.check_reload()),
            Request::Gate { to, trial_ms, by } => {
                let standing = crate::control::words::standing(to, trial_ms.map(Duration::from_millis));
                let confirmer = match by.map(|by| self.known_client(&by)).transpose() {
                    Ok(confirmer) => confirmer,
                    Err(reason) => return Reply::Failed { reason },
                };
                let before = self.deeds.gatehouse().set_confirmer(confirmer);
                let changed = self.deeds.gatehouse().set_state(standing, &self.setup);
                if changed.is_err() {
                    self.deeds.gatehouse().set_confirmer(before);
                }
                match &changed {
                    Ok(()) => log::info!("gate: {standing}"),
                    Err(error) => log::error!("gate: not {standing}: {error}"),
                }
                match (changed, self.deeds.gatehouse().unremembered()) {
                    (Ok(()), Some(error)) => Reply::DoneBut { remark: error.to_string() },
                    (changed, _) => done(changed.map_err(|error| error.to_string())),
                }
            }
            Request::Grants {} => {
                Reply::Grants { grants: self.deeds.live().iter().map(grants::line).collect() }
            }
            Request::Revoke { grant } => {
                let is_meant =
                    |live: &ActiveGrant| grant.as_ref().is_none_or(|grant| grants::number(live) == *grant);
                let Revoked { records, failures } = self.deeds.gatehouse().revoke(&is_meant);
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
            Request::Status {} => Reply::Status { status: Box::new(self.status()) },
            Request::PreviousUses { client } => {
                let count = client.parse().map_or(0, |client| self.keeper.previous_uses(&client));
                Reply::Count { count }
            }
        }
    }
}
