//! The control socket: a request from root and its response are one line of JSON each. Size, number and time are
//! limited, so that no client can block the daemon.

pub(crate) mod prometheus;
pub(crate) mod status;
pub(crate) mod words;

mod answering;
mod client;
mod listener;
mod request;

pub(crate) use client::{AskResult, ask, ask_within};
pub(crate) use listener::{Control, is_open, listen};
pub(crate) use request::{GrantLine, OnOff, Request, Response};
