//! The control socket: root asks in one line of JSON and is answered in one. Bounded in size, number and time, so that
//! nobody who may ask can hold the daemon up.

pub(crate) mod prometheus;
pub(crate) mod status;
pub(crate) mod words;

mod answering;
mod client;
mod listener;
mod request;

pub(crate) use client::{AskResult, ask};
pub(crate) use listener::{Control, is_open, listen};
pub(crate) use request::{GrantLine, OnOff, Request, Response};
