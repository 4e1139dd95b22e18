//! The firewall as the daemon uses it: closes the gate and keeps it closed, opens for grants, gives signs of life.

pub(crate) mod boot;
pub(crate) mod config;
pub(crate) mod console_grants;
pub(crate) mod lock;
pub(crate) mod state;
pub(crate) mod takeover;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use crate::config::BackendKind;
use crate::firewall::{
    ActiveGrant, Backend, Enforcement, FinishedRequest, FirewallError, FirewallMode, FirewallRequest,
    GateSpec, RequestId, RequestResult,
};
use crate::os::clock;
use crate::os::files::FileError;
use crate::os::net::proc_net::{self, TcpConnection};
use boot::BootGate;
use spa_knock_core::auth::{AccessTarget, AuditRecord, Grant};
use spa_knock_core::knock::{ClientName, PortRange, PortSpec, Protocol};
use state::GateState;

/// Between two signs of life. A failsafe waits for at least three of them.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// After somebody else has changed our table: what he does in one go is mended in one.
const MEND_AFTER: Duration = Duration::from_millis(100);
/// After our table could not be loaded: until it is, every port may be open.
const MEND_AGAIN: Duration = Duration::from_secs(1);

/// What the sets for connections that are older than the gate can take.
const OLDER_MAX: usize = 65_536;

/// How far what was begun has come.
pub(crate) enum RevocationProgress {
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

/// What a config says of the gate.
pub(crate) trait GateConfig {
    /// What it consists of, with the connections that there are now.
    fn gate(&self, enforcing: Enforcement) -> GateSpec;

    /// What loads it.
    fn backend(&self) -> BackendKind;

    /// The folder that remembers what is to become of it.
    fn state_dir(&self) -> &Path;

    /// Whose rules close the ports.
    fn mode(&self) -> FirewallMode {
        FirewallMode::Guard
    }
}

/// The firewall, and what is to become of the gate.
pub(crate) struct Gate {
    firewall: Box<dyn Backend>,
    gate_state: GateState,
    /// When the next sign of life is due.
    alive: Duration,
    /// When our table is to be loaded again.
    mend: Option<Duration>,
    unremembered: Option<FileError>,
    /// Whose knocks alone confirm a trial; none = those of any client.
    confirmer: Option<ClientName>,
    /// What the next boot closes.
    boot: BootGate,
    /// Whether our table is loaded and this process looks after it.
    tended: bool,
}

impl Drop for Gate {
    /// A start that fails after the table is loaded leaves nothing open that only a daemon would close.
    fn drop(&mut self) {
        if self.tended
            && let Err(error) = self.suspend()
        {
            log::error!("{error}; grants that only a daemon closes may stay open until the next start");
        }
    }
}

impl Gate {
    pub(crate) fn new(firewall: Box<dyn Backend>, gate_state: GateState) -> Self {
        Self {
            firewall,
            gate_state,
            alive: clock::steady(),
            mend: None,
            unremembered: None,
            confirmer: None,
            boot: BootGate::default(),
            tended: false,
        }
    }

    /// From now on only this client's knocks confirm a trial; none = those of any client. Returns who did before.
    pub(crate) const fn set_confirmer(&mut self, client: Option<ClientName>) -> Option<ClientName> {
        std::mem::replace(&mut self.confirmer, client)
    }

    /// What is to become of the gate.
    pub(crate) const fn gate_state(&self) -> GateState {
        self.gate_state
    }

    /// Closes the gate as a config says it, unless it is off.
    ///
    /// # Errors
    /// When the firewall does not take it; nothing has changed then.
    pub(crate) fn load(&mut self, config: &impl GateConfig) -> Result<(), FirewallError> {
        let enforcing = match self.gate_state {
            GateState::Open => return Ok(()),
            GateState::NeverClosed | GateState::Closed => Enforcement::Permanent,
            GateState::Trial(until) => Enforcement::Trial(until.saturating_sub(clock::boot())),
        };
        let gate = config.gate(enforcing);
        self.firewall.load(&gate)?;
        self.tended = true;
        // A trial is over with this boot.
        if enforcing == Enforcement::Permanent {
            self.boot.remember(config.state_dir(), config.backend(), &gate);
        }
        Ok(())
    }

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

    /// A knock has worked: a gate on trial stays closed.
    fn confirm(&mut self, config: &impl GateConfig) {
        if matches!(self.gate_state, GateState::Trial(_)) {
            match self.set_state(GateState::Closed, config) {
                Ok(()) => log::info!("gate: a knock has worked; it stays closed"),
                Err(error) => log::error!("gate: the knock that worked does not confirm it: {error}"),
            }
        }
    }

    /// Begins what a knock asks of the firewall.
    pub(crate) fn begin(&mut self, request: FirewallRequest, config: &impl GateConfig) -> RevocationProgress {
        let is_off = self.gate_state == GateState::Open && matches!(request, FirewallRequest::Grant(_));
        let queued = if is_off { None } else { self.firewall.queue(&request) };
        match queued {
            Some(Ok(id)) => RevocationProgress::Queued(id),
            Some(Err(error)) => RevocationProgress::Ended(Err(error)),
            None => RevocationProgress::Ended(match request {
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

    /// Waits until all that was begun has ended.
    pub(crate) fn settle(&mut self) {
        self.firewall.settle();
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

    /// Whether these are grants of a client whose knocks confirm a trial.
    fn can_confirm(&self, grants: &[Grant]) -> bool {
        let is_named = |client: &ClientName| grants.iter().any(|grant| grant.client() == client);
        !grants.is_empty() && self.confirmer.as_ref().is_none_or(is_named)
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

    /// Opens or closes the gate, and remembers it; `unremembered` is why it could not be.
    ///
    /// # Errors
    /// When the firewall does not do it.
    pub(crate) fn set_state(
        &mut self,
        gate_state: GateState,
        config: &impl GateConfig,
    ) -> Result<(), FirewallError> {
        let before = std::mem::replace(&mut self.gate_state, gate_state);
        let changed = match gate_state {
            GateState::Open => self.firewall.remove().inspect(|()| self.tended = false),
            _ => self.load(config),
        };
        changed.inspect_err(|_| self.gate_state = before)?;
        // A full disk must not keep the admin from opening or closing it.
        self.unremembered = gate_state.write_for(config.state_dir(), self.confirmer.as_ref()).err();
        if let Some(error) = &self.unremembered {
            log::error!("gate: {gate_state} now, but not remembered for the next start: {error}");
        }
        Ok(())
    }

    /// Why the last change is not remembered.
    pub(crate) const fn unremembered(&self) -> Option<&FileError> {
        self.unremembered.as_ref()
    }

    /// What becomes of grants when this process ends.
    pub(crate) fn grants_at_the_end(&self) -> &'static str {
        match self.firewall.kernel_closes() {
            true => "grants stay until they expire",
            false => "grants are closed until the next start, as only a daemon ends them without ipset",
        }
    }

    /// This process looks after nothing any more: what only a daemon would close is closed until the next one starts.
    ///
    /// # Errors
    /// When the firewall does not do it.
    pub(crate) fn suspend(&mut self) -> Result<(), FirewallError> {
        self.tended = false;
        match self.firewall.suspend() {
            Err(FirewallError::Gone) | Ok(()) => Ok(()),
            failed => failed,
        }
    }

    /// Readable when somebody has changed the firewall, or when what was begun has ended.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.firewall.descriptor()
    }

    /// In what time `tend` has something to do.
    pub(crate) fn time_to_deadline(&self) -> Duration {
        let now = clock::steady();
        let trial = match self.gate_state {
            GateState::Trial(until) => Some(until.saturating_sub(clock::boot())),
            _ => None,
        };
        let mend = self.mend.map(|due| due.saturating_sub(now));
        trial
            .into_iter()
            .chain(mend)
            .chain(self.firewall.deadline())
            .fold(self.alive.saturating_sub(now), Duration::min)
    }

    /// Gives a sign of life, mends what somebody else has broken, and ends a trial that is over.
    pub(crate) fn run_due(&mut self, config: &impl GateConfig) {
        let now = clock::steady();
        match self.firewall.expire() {
            Ok(()) => {}
            // It is loaded again, without what is over.
            Err(FirewallError::Gone) => self.notice_loss(now),
            Err(error) => log::error!("{error}; what is over is still open, trying again"),
        }
        if self.firewall.modified_externally() && self.gate_state != GateState::Open {
            self.notice_loss(now.saturating_add(MEND_AFTER));
        }
        if self.mend.is_some_and(|due| now >= due) {
            self.mend = None;
            if let Err(error) = self.load(config) {
                log::error!("{error}; ports may be open; trying again");
                self.mend = Some(now.saturating_add(MEND_AGAIN));
            }
        }
        if matches!(self.gate_state, GateState::Trial(until) if clock::boot() >= until) {
            let effect = config.mode().when_off();
            log::warn!("gate: nobody has confirmed it in time; it is off again, and {effect}");
            if let Err(error) = self.set_state(GateState::Open, config) {
                log::error!("gate: {error}");
                // What is left of it lets all pass: the kernel has ended the trial.
                self.gate_state = GateState::Open;
            }
        }
        if now >= self.alive {
            self.alive = now.saturating_add(ALIVE_EVERY);
            match self.firewall.heartbeat() {
                Ok(()) | Err(FirewallError::Gone) => {}
                Err(error) => log::error!("firewall: no sign of life could be given: {error}"),
            }
        }
    }

    /// Our table is to be loaded again when this is due.
    fn notice_loss(&mut self, due: Duration) {
        if self.mend.is_none() {
            self.mend = Some(due);
            log::error!(
                "firewall: somebody else has changed our table (nft flush ruleset?); loading it again, with all live grants"
            );
        }
    }
}

/// The connections to such ports that stand now and must live on, from other hosts.
pub(crate) fn established_connections(is_guarded: impl Fn(PortRange) -> bool) -> Vec<TcpConnection> {
    let established = proc_net::established().unwrap_or_else(|error| {
        log::warn!("{error}: connections older than the gate may hang");
        Vec::new()
    });
    let guarded = |port| PortSpec::new(Protocol::Tcp, port).is_some_and(|door| is_guarded(door.into()));
    let established =
        established.into_iter().filter(|c| !c.local.ip().is_loopback() && guarded(c.local.port()));
    established.take(OLDER_MAX).collect()
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
