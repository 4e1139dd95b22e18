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

mod answers;
mod argument;
mod closing;
mod copies;
mod fresh;
mod grant;
mod hints;
mod keeper;
mod key_limit;
mod opened;
mod order;
mod otp;
mod pairs;
mod plain;
mod policy;
mod rate;
mod record;
mod rejection;
mod replay;
mod selectors;
mod sequences;
mod tally;
mod template;
mod told;
mod touched;
mod undo;
mod uses;
mod watcher;

pub use argument::{ArgumentPattern, Arguments, InvalidArgumentPattern};
pub use closing::{Failsafe, InvalidPacketMark, Mode, PacketMark};
pub use grant::{Grant, Passage, Way};
pub use keeper::{Accepted, Answer, Bill, Keeper, Outcome, Refusal, Verdict};
pub use key_limit::KeyLimit;
pub use opened::Skew;
pub use order::{Command, Effect, Order, Ticket, Undoing};
pub use otp::{OtpFault, OtpPause};
pub use plain::PlainDoor;
pub use policy::{Action, Client, ClientRules, KeyAge, Part, Policy, Term, Uses};
pub use rate::{InvalidRate, Rate, RecentActs};
pub use record::{Cause, Event, Explanation, Record, Via};
pub use rejection::{Reason, Rejection};
pub use replay::{Acceptance, KnockId, Lane, NotNew, ReplayMemory};
pub use tally::{Ending, Tally};
pub use template::{InvalidTemplate, Placeholder, Template};
pub use touched::Sequence;
pub use undo::undo_is_of;
pub use uses::UseCounts;
pub use watcher::{Authentic, Counts, Dropped, WatchedKey, Watcher};
