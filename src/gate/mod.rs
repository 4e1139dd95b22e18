//! The decisions: every check that a knock must pass, as pure state machines. Time and bytes are arguments,
//! verdicts are data.

mod policy;
mod rate;
mod template;

pub use policy::{Action, Client, ClientRules, Policy};
pub use rate::{InvalidRate, Rate};
pub use template::{InvalidTemplate, Placeholder, Template};
