//! Grants of the gate: created for knocks, which confirm a trial, and revoked. A missing table is reloaded first.

use super::state::GateState;
use super::{Gate, GateConfig};
use crate::console::own_command;
use crate::firewall::{
    ActiveGrant, FinishedRequest, FirewallError, FirewallMode, FirewallRequest, RequestId, RequestResult,
};
use spa_knock_core::auth::{AccessTarget, AuditRecord, Grant};
use spa_knock_core::knock::ClientName;

/// The progress of a firewall request.
pub(crate) enum FirewallProgress {
    /// The request is finished.
    Ended(RequestResult),
    /// The request is queued; `ended` will report its result.
    Queued(RequestId),
}

/// The result of revoking grants.
pub(crate) struct Revocation {
    /// Audit records of the revoked grants.
    pub(crate) records: Vec<AuditRecord>,
    /// The failures, as text.
    pub(crate) failures: Vec<String>,
}

impl Gate {
    /// Creates grants. Success confirms a gate on trial.
    ///
    /// # Errors
    /// When the firewall rejects the change.
    pub(crate) fn grant(&mut self, grants: &[Grant], config: &impl GateConfig) -> Result<(), FirewallError> {
        self.grant_unconfirmed(grants, config)?;
        if self.can_confirm(grants) {
            self.confirm(config);
        }
        Ok(())
    }

    /// Creates grants without confirming a gate on trial: they do not prove that a key still works.
    ///
    /// # Errors
    /// When the firewall rejects the change.
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
                log::warn!("firewall: table missing; reloading it with all active grants");
                self.load(config)?;
                self.firewall.grant(grants)
            }
            granted => granted,
        }
    }

    /// Starts the firewall request of a knock.
    pub(crate) fn begin(&mut self, request: FirewallRequest, config: &impl GateConfig) -> FirewallProgress {
        let is_off = self.gate_state == GateState::Open && matches!(request, FirewallRequest::Grant(_));
        let queued = if is_off { None } else { self.firewall.queue(&request) };
        match queued {
            Some(Ok(id)) => FirewallProgress::Queued(id),
            Some(Err(error)) => FirewallProgress::Ended(Err(error)),
            None => FirewallProgress::Ended(match request {
                FirewallRequest::Grant(grants) => self.grant(&grants, config).map(|()| Vec::new()),
                FirewallRequest::Close(opened) => self.close(&|live| opened.covers(live)),
            }),
        }
    }

    /// Returns the requests that have finished, with their results.
    pub(crate) fn ended(&mut self, config: &impl GateConfig) -> Vec<(RequestId, RequestResult)> {
        let (gone, mut ended): (Vec<_>, Vec<_>) =
            self.firewall.ended().into_iter().partition(|ended| ended.outcome == Err(FirewallError::Gone));
        if !gone.is_empty() {
            ended.extend(self.repeat(gone, config));
        }
        let confirms =
            |ended: &FinishedRequest| ended.outcome.is_ok() && self.can_confirm(ended.request.grants());
        if ended.iter().any(confirms) {
            self.confirm(config);
        }
        ended.into_iter().map(|ended| (ended.id, ended.outcome)).collect()
    }

    /// Reloads our table, and repeats the requests that found it missing.
    fn repeat(&mut self, gone: Vec<FinishedRequest>, config: &impl GateConfig) -> Vec<FinishedRequest> {
        log::warn!("firewall: table missing; reloading it with all active grants");
        let loaded = self.load(config);
        let lists: Vec<Vec<Grant>> = gone.iter().map(|ended| ended.request.grants().to_vec()).collect();
        let outcomes = match &loaded {
            Ok(()) => self.firewall.grant_all(&lists),
            Err(error) => vec![Err(error.clone()); lists.len()],
        };
        let repeated = gone.into_iter().zip(outcomes).map(|(ended, outcome)| {
            let outcome = match &ended.request {
                FirewallRequest::Grant(_) => outcome.map(|()| Vec::new()),
                FirewallRequest::Close(opened) => self.close(&|live| opened.covers(live)),
            };
            FinishedRequest { outcome, ..ended }
        });
        repeated.collect()
    }

    /// Waits until all requests have finished.
    pub(crate) fn settle(&mut self) {
        self.firewall.settle();
    }

    /// Confirms a gate on trial after a successful knock: it stays on.
    fn confirm(&mut self, config: &impl GateConfig) {
        if matches!(self.gate_state, GateState::Trial(_)) {
            match self.set_state(GateState::Closed, config) {
                Ok(()) => log::info!("gate: confirmed by a knock; it stays on"),
                Err(error) => {
                    log::error!("gate: a knock succeeded, but the trial cannot be confirmed: {error}")
                }
            }
        }
    }

    /// Whether the grants' client is one whose knocks confirm a trial.
    fn can_confirm(&self, grants: &[Grant]) -> bool {
        let is_named = |client: &ClientName| grants.iter().any(|grant| grant.client() == client);
        !grants.is_empty() && self.confirmer.as_ref().is_none_or(is_named)
    }

    /// Revokes grants and returns them.
    ///
    /// # Errors
    /// When the firewall rejects the change.
    pub(crate) fn close(
        &mut self,
        which: &dyn Fn(&ActiveGrant) -> bool,
    ) -> Result<Vec<ActiveGrant>, FirewallError> {
        self.firewall.close(which)
    }

    /// Revokes all matching grants of the kernel, including those missing in our grant table, for a client that must
    /// lose access. Grants in our table are revoked even if the kernel cannot be read.
    pub(crate) fn revoke(&mut self, which: &dyn Fn(&ActiveGrant) -> bool) -> Revocation {
        let mut failures = Vec::new();
        if let Err(error) = self.reconcile() {
            failures.push(format!("grants known only to the kernel could not be revoked: {error}"));
        }
        let closed = self.close(which).unwrap_or_else(|error| {
            failures.push(format!("grants could not be revoked: {error}"));
            Vec::new()
        });
        Revocation { records: closed.into_iter().map(ActiveGrant::record).collect(), failures }
    }

    /// Updates our grant table from the kernel. With the gate off, the kernel has no table of ours.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    fn reconcile(&mut self) -> Result<(), FirewallError> {
        match self.gate_state {
            GateState::Open => Ok(()),
            GateState::NeverClosed | GateState::Closed | GateState::Trial(_) => self.firewall.reconcile(),
        }
    }

    /// Returns all active grants.
    pub(crate) fn live(&self) -> Vec<ActiveGrant> {
        self.firewall.live()
    }
}

/// With the gate off, grants have no effect: ports are open or depend on the administrator's rules, and nothing is
/// forwarded.
fn grant_without_gate(grants: &[Grant], mode: FirewallMode) -> Result<(), FirewallError> {
    if matches!(mode, FirewallMode::Mark(_)) && !grants.is_empty() {
        let hint = own_command("gate on");
        let error = format!("no packet is marked while the gate is off\nhint: {hint}");
        return Err(FirewallError::Other(error));
    }
    let forwards = |grant: &Grant| match grant.access().target {
        AccessTarget::Forward { .. } | AccessTarget::Divert(_) | AccessTarget::Transit(_) => true,
        AccessTarget::Ports(_) | AccessTarget::Once(_) => false,
    };
    if grants.iter().any(forwards) {
        return Err(FirewallError::Other("nothing is forwarded while the gate is off".to_owned()));
    }
    Ok(())
}
