//! Closes the protected ports and opens them for single addresses: nftables, iptables or no firewall at all.

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
pub use settings::{EarlyDrop, Failsafe, FirewallMode, HealthPort, InvalidPacketMark, PacketMark};

use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::os::net::proc_net::TcpConnection;
use spa_knock_core::auth::{Access, AuditEvent, AuditRecord, Grant, KeyAge, LiveHint};
use spa_knock_core::knock::{ActionName, ClientName, PortRange};

/// A firewall that this daemon controls in part.
pub trait Backend {
    /// Closes the gate: from now on only a grant opens a protected port. Active grants stay. A second call applies what
    /// has changed, each table in one transaction.
    ///
    /// # Errors
    /// When the firewall refuses. With nftables, its one table is then unchanged; with iptables, some of its tables may
    /// have changed.
    fn load(&mut self, gate: &GateSpec) -> Result<(), FirewallError>;

    /// Opens each grant for its time; an active grant is renewed. All or none, except that iptables decides per IP
    /// version.
    ///
    /// # Errors
    /// When the firewall refuses. With nftables, nothing has been opened then. With iptables, the grants of one IP
    /// version may be open until they expire.
    fn grant(&mut self, grants: &[Grant]) -> Result<(), FirewallError>;

    /// Calls [`Self::grant`] for each list, or does the same in one transaction where that is faster. The outcomes are
    /// in the order of the lists.
    fn grant_all(&mut self, lists: &[Vec<Grant>]) -> Vec<Result<(), FirewallError>> {
        lists.iter().map(|grants| self.grant(grants)).collect()
    }

    /// Revokes these grants. What another client holds as well stays open for that client. Returns the revoked grants.
    ///
    /// # Errors
    /// When the firewall refuses. All of them are still open then; with iptables, those of one IP version may be
    /// closed.
    fn close(&mut self, which: &dyn Fn(&ActiveGrant) -> bool) -> Result<Vec<ActiveGrant>, FirewallError>;

    /// Makes the kernel match the grant records: closes what only the kernel has and opens what only the records have.
    /// Before the first load, adopts the kernel's grants into the records instead.
    ///
    /// # Errors
    /// When the kernel cannot be read completely, or refuses.
    fn reconcile(&mut self) -> Result<(), FirewallError> {
        Ok(())
    }

    /// All active grants, once for each holder.
    fn live(&self) -> Vec<ActiveGrant>;

    /// Sends a heartbeat, which restarts the countdown of the failsafe.
    ///
    /// # Errors
    /// When the firewall refuses.
    fn heartbeat(&mut self) -> Result<(), FirewallError>;

    /// Whether the loaded gate drops datagrams to the knock port that have no live hint.
    fn filters_hints(&self) -> bool {
        false
    }

    /// Whether the loaded gate drops datagrams without a live hint, and does not have the hints of these epochs.
    fn lacks_hints(&self, _epochs: &RangeInclusive<u64>) -> bool {
        false
    }

    /// Makes these the live hints, those of all keys in these epochs, where [`Self::filters_hints`].
    ///
    /// # Errors
    /// When the firewall refuses. Datagrams with some of these hints may be dropped then.
    fn admit_hints(
        &mut self,
        _hints: &[LiveHint],
        _epochs: RangeInclusive<u64>,
    ) -> Result<(), FirewallError> {
        Ok(())
    }

    /// Descriptor that is readable when someone may have changed the firewall; `None` where changes cannot be
    /// monitored.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Whether another program has removed rules of ours since the last call.
    fn modified_externally(&mut self) -> bool;

    /// Removes everything that is ours. All ports are open then.
    ///
    /// # Errors
    /// When the firewall refuses.
    fn remove(&mut self) -> Result<(), FirewallError>;

    /// Time until `expire` or `modified_externally` must be called; `None` where the kernel closes grants and reports
    /// changes.
    fn time_to_deadline(&self) -> Option<Duration> {
        None
    }

    /// Closes expired grants, where the kernel does not.
    ///
    /// # Errors
    /// When the firewall refuses; the call is due again shortly afterwards.
    fn expire(&mut self) -> Result<(), FirewallError> {
        Ok(())
    }

    /// Queues a request where it takes long; `None` where `grant` and `close` act immediately. `ended` returns its
    /// outcome. Requests are processed in order.
    fn queue(&mut self, _request: &FirewallRequest) -> Option<Result<RequestId, FirewallError>> {
        None
    }

    /// Returns the requests that have finished since the last call, and starts the next ones in the queue.
    fn ended(&mut self) -> Vec<FinishedRequest> {
        Vec::new()
    }

    /// Waits until the queue is empty.
    fn settle(&mut self) {}

    /// Whether the kernel closes grants when they expire; otherwise only the daemon does.
    fn kernel_closes(&self) -> bool {
        true
    }

    /// Prepares for a time without calls of `expire`: closes all grants that only `expire` would close, until the next
    /// load.
    ///
    /// # Errors
    /// When the firewall refuses.
    fn suspend(&mut self) -> Result<(), FirewallError> {
        Ok(())
    }
}

/// A change of the active grants that may take long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirewallRequest {
    /// Opens these grants, all or none.
    Grant(Vec<Grant>),
    /// Revokes the grants of this client and action.
    Close(GrantOwner),
}

impl FirewallRequest {
    /// The grants to open.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        match self {
            Self::Grant(grants) => grants,
            Self::Close(_) => &[],
        }
    }
}

/// Selects what a client has opened with an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantOwner {
    /// The client.
    pub client: ClientName,
    /// The action.
    pub action: ActionName,
}

impl GrantOwner {
    /// Whether this grant belongs to the client and action.
    #[must_use]
    pub fn covers(&self, live: &ActiveGrant) -> bool {
        live.client == self.client && live.action == self.action
    }
}

/// Identifies a queued request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

/// Outcome of a request: the grants that it has revoked.
pub type RequestResult = Result<Vec<ActiveGrant>, FirewallError>;

/// A request that has finished.
#[derive(Debug)]
pub struct FinishedRequest {
    /// The id returned by [`Backend::queue`].
    pub id: RequestId,
    /// The request itself.
    pub request: FirewallRequest,
    /// How it ended.
    pub outcome: RequestResult,
}

/// An active grant and one of its holders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveGrant {
    /// What is open, and for which addresses.
    pub access: Access,
    /// The client whose knock opened it.
    pub client: ClientName,
    /// The action that opened it.
    pub action: ActionName,
    /// Time until it expires.
    pub left: Duration,
}

impl ActiveGrant {
    /// The audit record of its revocation.
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
            claim: None,
        }
    }
}

/// What the gate consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GateSpec {
    /// Ports that only a grant opens.
    pub protect: Vec<PortRange>,
    /// Ports of this host that another program's rules forward, such as published container ports, and that only a
    /// grant opens.
    pub published: Vec<PortRange>,
    /// Whose rules close the ports.
    pub mode: FirewallMode,
    /// For how long the ports stay closed.
    pub enforcement: Enforcement,
    /// Addresses that the kernel admits after the daemon has been dead for a configured time.
    pub failsafe: Option<Failsafe>,
    /// The knock port, if datagrams to it must be dropped silently because they are captured.
    pub silent_port: Option<u16>,
    /// The port for health checks of load balancers.
    pub health: Option<HealthPort>,
    /// The knock port, if a socket receives from it and datagrams without a live hint must be dropped silently.
    pub hinted_port: Option<u16>,
    /// Where those datagrams are dropped as early as possible.
    pub early: EarlyDrop,
    /// TCP connections that are older than the gate and must survive it.
    pub established: Vec<TcpConnection>,
    /// Whether packets of established connections pass the gate.
    pub sessions: EstablishedSessions,
}

/// Whether packets of established connections pass the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EstablishedSessions {
    /// Without a grant, too.
    #[default]
    Pass,
    /// Only while their address has a grant; then the administrator's rules decide.
    NeedGrant,
}

/// How long the gate stays closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enforcement {
    /// Until someone opens it.
    #[default]
    Permanent,
    /// On trial: the kernel opens it after this time.
    Trial(Duration),
}

/// Why the firewall could not be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirewallError {
    /// The program that loads the rules is not installed.
    #[error("firewall: nft not found\nhint: apt install nftables (or set firewall.backend = \"none\")")]
    NoProgram,
    /// This process lacks the permission.
    #[error("firewall: not allowed to change it (CAP_NET_ADMIN is missing)\nhint: run as root")]
    NotAllowed,
    /// The table does not exist, or no longer.
    #[error("firewall: table missing (was the ruleset flushed?)")]
    Gone,
    /// A set has no room left.
    #[error("firewall: the grant set is full")]
    Full,
    /// Another program holds the lock of iptables.
    #[error(
        "firewall: another program has held the lock /run/xtables.lock for 5 s\nhint: find it with fuser -v /run/xtables.lock"
    )]
    Locked,
    /// The client already holds as many grants as its limit allows.
    #[error("firewall: the client already holds its maximum number of grants ({0})")]
    TooMany(u32),
    /// A range of addresses or ports overlaps one that is already open.
    #[error(
        "firewall: these addresses and ports overlap existing grants\nhint: knock again after those have expired"
    )]
    Overlap,
    /// Anything else.
    #[error("firewall: {0}")]
    Other(String),
}
