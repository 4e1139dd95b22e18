//! The decisions: every check that a knock must pass, as two pure state machines. Time and bytes are arguments,
//! verdicts are data. These are the files to audit.
//!
//! ```text
//! watcher   hints    2. whose is it?        keeper   opened   4. it opens    5. its time is ours
//!           watcher  3. who signed it?               replay   6. it is new   7. it is used up
//!           key_limit   a key costs only so much     order    8. the client may do that → Order
//!           copies      copies stop
//!           pairs       who touched what             touched  4. and 5. of a port sequence
//!           selectors   whom that may be
//!           sequences   in turn
//!                                                    answers 10. the answer  record 11. the audit log
//! ```

mod counters;
mod unauthenticated;

mod grant;
mod keeper;
mod policy;
mod record;
mod rejection;
pub(crate) mod watcher;

pub use counters::{KnockCounters, KnockResult};
pub use grant::{Grant, Passage, Way};
pub use keeper::authorization::{Command, Effect, Order, Ticket, Undoing};
pub use keeper::opened::Skew;
pub use keeper::otp::{OtpError, OtpPause};
pub use keeper::proof::Sequence;
pub use keeper::replay::{Acceptance, AlreadyAccepted, KnockId, ReplayDomain, ReplayMemory};
pub use keeper::uses::UseCounts;
pub use keeper::{Accepted, Answer, Keeper, Outcome, Refusal, Uncommitted, Verdict};
pub use policy::argument::{ArgumentPattern, Arguments, InvalidArgumentPattern};
pub use policy::key_limit::KeyLimit;
pub use policy::rate::{InvalidRate, Rate, RecentActs};
pub use policy::template::{InvalidTemplate, Placeholder, Template};
pub use policy::undo::undo_is_of;
pub use policy::{Action, Client, ClientRules, KeyAge, Part, Policy, Term, Uses};
pub use record::{Cause, Event, Explanation, Record, Via};
pub use rejection::{Reason, Rejection};
pub use unauthenticated::PlainDoor;
pub use watcher::authenticate::{Authentic, Counts, Dropped, WatchedKey, Watcher};
