//! The decisions: every check that a knock must pass, as two state machines without I/O. Times and bytes are arguments,
//! and verdicts are data. These are the files to audit.
//!
//! ```text
//! watcher/hints            2. whose knock it is     keeper/fresh          4. decryption    5. timestamp
//! watcher/authenticate     3. who signed it         keeper/replay         6. replay check  7. acceptance
//!                                                   keeper/signature      6. SSH signature (version 2)
//! policy/key_limit         limit for each key       keeper/authorization  8. the client is allowed to → Authorized
//! watcher/duplicates       duplicate datagrams      keeper/reply_cache   10. the reply
//! watcher/flow_table       port hits                record               11. the audit record
//! watcher/selectors        client of a sequence     keeper/proof          4. and 5. of a port sequence
//! watcher/sequence_queue   complete sequences       keeper/effects           what the action opens, closes and runs
//! ```

mod counters;
mod grant;
mod keeper;
#[cfg(feature = "member-grants")]
mod member_grant;
mod policy;
mod record;
mod rejection;
mod route;
#[cfg(feature = "unauthenticated-grants")]
mod unauthenticated;
pub(crate) mod watcher;

pub use counters::{KnockCounters, KnockResult};
pub use grant::{Access, AccessTarget, Grant};
pub use keeper::authorized::{Authorized, KnockContext};
pub use keeper::effects::{CommandLine, Effect, Undo};
pub use keeper::fido_counters::{CounterFell, CounterKey, FidoCounter};
pub use keeper::fresh::Skew;
pub use keeper::last_sources::{LastSource, LastSources};
pub use keeper::live_hints::{LiveHint, hint_epochs, live_hints};
pub use keeper::otp::{OtpError, OtpPause};
pub use keeper::proof::PortSequence;
pub use keeper::replay::{Acceptance, AlreadyAccepted, KnockId, ReplayDomain, ReplayMemory};
pub use keeper::uses::UseCounts;
pub use keeper::{Accepted, Decision, Judgment, Keeper, Outcome, PendingReply, Refusal, Uncommitted};
#[cfg(feature = "member-grants")]
pub use member_grant::GrantOfMember;
pub use policy::argument::{ArgumentPattern, Arguments, InvalidArgumentPattern};
pub use policy::key_limit::KeyLimit;
pub use policy::rate::{InvalidRate, Rate, RecentActs};
pub use policy::ssh_signer::{FidoFault, SshSigner, Touch};
pub use policy::template::{InvalidTemplate, Placeholder, Template};
pub use policy::undo::undo_is_of;
pub use policy::{Action, ActionPart, ClientKey, ClientRules, KeyAge, Policy, Term, Uses};
pub use record::{AuditCause, AuditEvent, AuditRecord, ClaimNote, Explanation, Via};
pub use rejection::{Reason, Rejection, SignatureFault};
pub use route::{SourceTranslation, TransitPort, TransitRoute};
#[cfg(feature = "unauthenticated-grants")]
pub use unauthenticated::UnauthenticatedGrant;
pub use watcher::authenticate::{Authentic, DatagramCounts, Dropped, Watcher};
pub use watcher::watched_key::WatchedKey;
