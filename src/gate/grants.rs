//! Grants through the gate: made for knocks, which confirm a trial, and ended before their time. A table that is missing
//! is loaded again first.

use super::state::GateState;
use super::{Gate, GateConfig};
use crate::firewall::{
    ActiveGrant, FinishedRequest, FirewallError, FirewallMode, FirewallRequest, RequestId, RequestResult,
};
use spa_knock_core::auth::{AccessTarget, AuditRecord, Grant};
use spa_knock_core::knock::ClientName;

/// How far what was begun has come.
pub(crate) enum FirewallProgress {
    /// It is over.
    Ended(RequestResult),
    /// `ended` will report it.
    Queued(RequestId),
}

/// What has come of ending grants before their time.
pub(crate) struct Revocation {
    /// What was ended; to be recorded.
    pub(crate) records: Vec<AuditRecord>,
    /// What could not be done; for people.
    pub(crate) failures: Vec<String>,
}

impl Gate {
    /// Lets these in. A grant that works confirms a gate on trial.
    ///
    /// # Errors
    /// When the firewall does not do it.
    pub(crate) fn grant(&mut self, grants: &[Grant], config: &impl GateConfig) -> Result<(), FirewallError> {
        self.grant_unconfirmed(grants, config)?;
        if self.can_confirm(grants) {
            self.confirm(config);
        }
        Ok(())
    }

    /// Lets these in, which says nothing about a gate on trial: that a key still works is not proven by it.
    ///
    /// # Errors
    /// When the firewall does not do it.
    pub(crate) fn grant_unconfirmed(
        &mut self,
        grants: &[Grant],
        config: &impl GateConfig,
    ) -> Result<(), FirewallError> {
        if self.gate_state == GateState::Open {
            return grant_without_gate(grants, config.mode());
        }
        match self.firewall.grant(grants) {
            Err(FirewallError::Gone) => {
                log::warn!("firewall: our table was gone; loading it again, with all live grants");
                self.load(config)?;
                self.firewall.grant(grants)
            }
            granted => granted,
        }
    }

    /// Begins what a knock asks of the firewall.
    pub(crate) fn begin(&mut self, request: FirewallRequest, config: &impl GateConfig) -> FirewallProgress {
        let is_off = self.gate_state == GateState::Open && matches!(request, FirewallRequest::Grant(_));
        let queued = if is_off { None } else { self.firewall.queue(&request) };
        match queued {
            Some(Ok(id)) => FirewallProgress::Queued(id),
            Some(Err(error)) => FirewallProgress::Ended(Err(error)),
            None => FirewallProgress::Ended(match request {
                FirewallRequest::Grant(grants) => self.grant(&grants, config).map(|()| Vec::new()),
                FirewallRequest::Close(opened) => self.close(&|live| opened.is_met_by(live)),
            }),
        }
    }

    /// What was begun and has ended.
    pub(crate) fn ended(&mut self, config: &impl GateConfig) -> Vec<(RequestId, RequestResult)> {
        let (gone, mut ended): (Vec<_>, Vec<_>) =
            self.firewall.ended().into_iter().partition(|ended| ended.outcome == Err(FirewallError::Gone));
        if !gone.is_empty() {
            ended.extend(self.begin_again(gone, config));
        }
        let confirms =
            |ended: &FinishedRequest| ended.outcome.is_ok() && self.can_confirm(ended.request.grants());
        if ended.iter().any(confirms) {
            self.confirm(config);
        }
        ended.into_iter().map(|ended| (ended.id, ended.outcome)).collect()
    }

    /// Loads our table again, and does what has found it gone.
    fn begin_again(&mut self, gone: Vec<FinishedRequest>, config: &impl GateConfig) -> Vec<FinishedRequest> {
        log::warn!("firewall: our table was gone; loading it again, with all live grants");
        let loaded = self.load(config);
        let lists: Vec<Vec<Grant>> = gone.iter().map(|ended| ended.request.grants().to_vec()).collect();
        let outcomes = match &loaded {
            Ok(()) => self.firewall.grant_all(&lists),
            Err(error) => vec![Err(error.clone()); lists.len()],
        };
        let again = gone.into_iter().zip(outcomes).map(|(ended, outcome)| {
            let outcome = match &ended.request {
                FirewallRequest::Grant(_) => outcome.map(|()| Vec::new()),
                FirewallRequest::Close(opened) => self.close(&|live| opened.is_met_by(live)),
            };
            FinishedRequest { outcome, ..ended }
        });
        again.collect()
    }

    /// Waits until all that was begun has ended.
    pub(crate) fn settle(&mut self) {
        self.firewall.settle();
    }

    /// A knock has worked: a gate on trial stays closed.
    fn confirm(&mut self, config: &impl GateConfig) {
        if matches!(self.gate_state, GateState::Trial(_)) {
            match self.set_state(GateState::Closed, config) {
                Ok(()) => log::info!("gate: a knock has worked; it stays closed"),
                Err(error) => log::error!("gate: the knock that worked does not confirm it: {error}"),
            }
        }
    }

    /// Whether these are grants of a client whose knocks confirm a trial.
    fn can_confirm(&self, grants: &[Grant]) -> bool {
        let is_named = |client: &ClientName| grants.iter().any(|grant| grant.client() == client);
        !grants.is_empty() && self.confirmer.as_ref().is_none_or(is_named)
    }

    /// Ends grants before their time; returns what was ended.
    ///
    /// # Errors
    /// When the firewall does not do it.
    pub(crate) fn close(
        &mut self,
        which: &dyn Fn(&ActiveGrant) -> bool,
    ) -> Result<Vec<ActiveGrant>, FirewallError> {
        self.firewall.close(which)
    }

    /// The same for all that the kernel has, also what is missing in the books: for who must not come in any more. What
    /// the books have is closed even where the kernel cannot be read.
    pub(crate) fn revoke(&mut self, which: &dyn Fn(&ActiveGrant) -> bool) -> Revocation {
        let mut failures = Vec::new();
        if let Err(error) = self.reconcile() {
            failures.push(format!("grants that only the kernel knows of could not be closed: {error}"));
        }
        let closed = self.close(which).unwrap_or_else(|error| {
            failures.push(format!("grants could not be closed: {error}"));
            Vec::new()
        });
        Revocation { records: closed.into_iter().map(ActiveGrant::record).collect(), failures }
    }

    /// Compares the books with what the kernel has. With the gate off there is no table of ours to compare them with.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    fn reconcile(&mut self) -> Result<(), FirewallError> {
        match self.gate_state {
            GateState::Open => Ok(()),
            GateState::NeverClosed | GateState::Closed | GateState::Trial(_) => self.firewall.reconcile(),
        }
    }

    /// All live grants.
    pub(crate) fn live(&self) -> Vec<ActiveGrant> {
        self.firewall.live()
    }
}

/// With the gate off, every port is open, or only the admin's rules open it; and nothing leads inside.
fn grant_without_gate(grants: &[Grant], mode: FirewallMode) -> Result<(), FirewallError> {
    if matches!(mode, FirewallMode::Mark(_)) && !grants.is_empty() {
        let error = "no packet is marked while the gate is off\nhint: spa-knockd gate on";
        return Err(FirewallError::Other(error.to_owned()));
    }
    if grants.iter().any(|grant| matches!(grant.access().target, AccessTarget::Forward { .. })) {
        return Err(FirewallError::Other("nothing leads inside while the gate is off".to_owned()));
    }
    Ok(())
}
