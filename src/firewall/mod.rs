//! What closes ports and opens them for one address.

mod grant_table;
mod settings;

mod background;
mod found;
mod iptables;
mod kind;
mod nftables;
mod none;
mod text;

pub use background::BackgroundFirewall;
pub use found::{GateKind, LoadedGates};
pub use iptables::Iptables;
pub use nftables::{Nftables, prefix_from_json};
pub use none::NoFirewall;
pub use settings::{Failsafe, FirewallMode, InvalidPacketMark, PacketMark};

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::os::net::proc_net::TcpConnection;
use spa_knock_core::auth::{Access, AuditEvent, AuditRecord, Grant, KeyAge};
use spa_knock_core::knock::{ActionName, ClientName, PortRange};

/// A firewall that can be ours in part.
pub trait Backend {
    /// Closes the gate: from now on only a grant opens a protected port. Live grants stay. Loading it again
    /// takes over what has changed, each table in one step.
    ///
    /// # Errors
    /// When the firewall does not take it. Of nftables' one table nothing has changed then, of iptables' several some
    /// may have.
    fn load(&mut self, gate: &GateSpec) -> Result<(), FirewallError>;

    /// Lets each address in to its door for its time; a live grant starts anew. All of them or none; with iptables, of
    /// each IP version.
    ///
    /// # Errors
    /// When the firewall does not take them: with nftables none is open then that was not before. With iptables those
    /// of one IP version may be, for their time.
    fn grant(&mut self, grants: &[Grant]) -> Result<(), FirewallError>;

    /// Does the same for each list on its own, where that is quicker in one transaction. The outcomes are in the order of
    /// the lists.
    fn grant_all(&mut self, lists: &[Vec<Grant>]) -> Vec<Result<(), FirewallError>> {
        lists.iter().map(|grants| self.grant(grants)).collect()
    }

    /// Ends these grants before their time; what another client holds too stays open for it. Returns what was ended.
    ///
    /// # Errors
    /// When the firewall does not do it; all of it is open then, but with iptables maybe for that of one IP version.
    fn close(&mut self, which: &dyn Fn(&ActiveGrant) -> bool) -> Result<Vec<ActiveGrant>, FirewallError>;

    /// Brings the books and the kernel together: what only the kernel has is closed, what only the books have opens
    /// again. Before the first load, what the kernel has is taken into the books.
    ///
    /// # Errors
    /// When the kernel cannot be read as a whole, or does not do it.
    fn reconcile(&mut self) -> Result<(), FirewallError> {
        Ok(())
    }

    /// All live grants, once for each who holds them.
    fn live(&self) -> Vec<ActiveGrant>;

    /// A sign of life: a failsafe that waits for the daemon's death waits anew.
    ///
    /// # Errors
    /// When the firewall does not take it.
    fn heartbeat(&mut self) -> Result<(), FirewallError>;

    /// Readable when somebody has changed the firewall, where that can be told.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Whether somebody else has taken away something of ours since this was last asked.
    fn modified_externally(&mut self) -> bool;

    /// Takes away all that is ours. What was granted is open, as everything is.
    ///
    /// # Errors
    /// When the firewall does not do it.
    fn remove(&mut self) -> Result<(), FirewallError>;

    /// In what time `expire` or `modified_externally` has something to do; none where the kernel closes and reports.
    fn time_to_deadline(&self) -> Option<Duration> {
        None
    }

    /// Closes what is over, where the kernel does not.
    ///
    /// # Errors
    /// When the firewall does not do it; it is due again a little later.
    fn expire(&mut self) -> Result<(), FirewallError> {
        Ok(())
    }

    /// Queues a request where it takes long; `None` where `grant` and `close` do it right away. `ended` reports its end.
    /// Requests are done in their order.
    fn queue(&mut self, _request: &FirewallRequest) -> Option<Result<RequestId, FirewallError>> {
        None
    }

    /// The requests that have ended since the last call. What is queued goes on with this call.
    fn ended(&mut self) -> Vec<FinishedRequest> {
        Vec::new()
    }

    /// Waits until all that is queued has ended.
    fn settle(&mut self) {}

    /// Whether the kernel closes by itself what is opened; else only a daemon does.
    fn kernel_closes(&self) -> bool {
        true
    }

    /// Nobody will call `expire` from now on: what only it would close is closed until the next load.
    ///
    /// # Errors
    /// When the firewall does not do it.
    fn suspend(&mut self) -> Result<(), FirewallError> {
        Ok(())
    }
}

/// A change of the live grants that may take long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirewallRequest {
    /// Lets these in, all or none.
    Grant(Vec<Grant>),
    /// Ends these before their time.
    Close(GrantOwner),
}

impl FirewallRequest {
    /// What is to be let in.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        match self {
            Self::Grant(grants) => grants,
            Self::Close(_) => &[],
        }
    }
}

/// What a client has opened by an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantOwner {
    /// Whose it is.
    pub client: ClientName,
    /// By which action.
    pub action: ActionName,
}

impl GrantOwner {
    /// Whether this live grant is one of them.
    #[must_use]
    pub fn is_met_by(&self, live: &ActiveGrant) -> bool {
        live.client == self.client && live.action == self.action
    }
}

/// Names a request that was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

/// What a request came to: the grants that it has ended.
pub type RequestResult = Result<Vec<ActiveGrant>, FirewallError>;

/// A request that has ended.
#[derive(Debug)]
pub struct FinishedRequest {
    /// The name that it was given.
    pub id: RequestId,
    /// What was asked for.
    pub request: FirewallRequest,
    /// How it ended.
    pub outcome: RequestResult,
}

/// A live grant, as one client holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveGrant {
    /// What is open, for whom.
    pub access: Access,
    /// Whose knock opened it.
    pub client: ClientName,
    /// By which action.
    pub action: ActionName,
    /// For how long it still is.
    pub left: Duration,
}

impl ActiveGrant {
    /// The record of its end before its time.
    #[must_use]
    pub fn record(self) -> AuditRecord {
        AuditRecord {
            event: AuditEvent::Revoked,
            client: self.client,
            key: KeyAge::Current,
            action: Some(self.action),
            addresses: vec![self.access.from.first()],
            source: None,
            seconds: 0,
            reason: None,
            knock: None,
            via: None,
        }
    }
}

/// What the gate consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GateSpec {
    /// Ports that only a grant opens.
    pub protect: Vec<PortRange>,
    /// Ports of this host that lead inside by somebody else's rules, as containers' do, and that only a grant opens.
    pub published: Vec<PortRange>,
    /// Whose rules close them.
    pub mode: FirewallMode,
    /// For how long they are closed.
    pub enforcement: Enforcement,
    /// Whom the kernel lets in when nobody can knock any more.
    pub failsafe: Option<Failsafe>,
    /// The knock port, if datagrams to it are to be dropped without an answer because they are captured.
    pub silent_port: Option<u16>,
    /// Interfaces on which they are dropped as early as can be.
    pub early: Vec<String>,
    /// TCP connections that are older than the gate and must live on.
    pub established: Vec<TcpConnection>,
}

/// For how long the gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enforcement {
    /// Until somebody opens it.
    #[default]
    Permanent,
    /// On trial: the kernel opens it after this time by itself.
    Trial(Duration),
}

/// The firewall did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirewallError {
    /// The program that loads it is not there.
    #[error("firewall: nft not found\nhint: apt install nftables (or set firewall.backend = \"none\")")]
    NoProgram,
    /// We may not.
    #[error("firewall: not allowed to change it (CAP_NET_ADMIN is missing)\nhint: run as root")]
    NotAllowed,
    /// The table is not there (any more).
    #[error("firewall: our table is gone (was the ruleset flushed?)")]
    Gone,
    /// A set can take no more.
    #[error("firewall: the set of grants is full")]
    Full,
    /// Another program does not let us have it.
    #[error(
        "firewall: another program has held the lock /run/xtables.lock for 5 s\nhint: fuser -v /run/xtables.lock tells which"
    )]
    Locked,
    /// The client holds as many grants as it may.
    #[error("firewall: the client holds as many grants as it may ({0})")]
    TooMany(u32),
    /// A range of addresses or ports overlaps one that is open already.
    #[error(
        "firewall: these addresses and ports overlap others that are open\nhint: knock again when those are closed"
    )]
    Overlap,
    /// Anything else.
    #[error("firewall: {0}")]
    Other(String),
}
