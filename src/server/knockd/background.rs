//! `-d`: the daemon goes on in the background, once it listens.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use super::super::console::Failure;
use crate::os::channel::{Channel, Received};
use crate::os::{background, files};

/// The process in the background, and who waits for it to be ready.
pub(super) struct Background(Option<Channel>);

impl Background {
    /// Whether this is the process in the background.
    pub(super) fn is_here() -> bool {
        background::is_here()
    }

    /// Starts that process with the same words, and waits until it listens or ends.
    pub(super) fn start(words: &[OsString]) -> ExitCode {
        let started = Channel::pair().and_then(|(ours, theirs)| {
            let child = background::start(words, theirs)?;
            Ok((ours, child))
        });
        let (channel, mut child) = match started {
            Ok(started) => started,
            Err(error) => return Failure::run(format_args!("-d: {}", files::plain(&error))).exit(),
        };
        match channel.recv(&mut [0; 16]) {
            Ok(Received::Message(_)) => ExitCode::SUCCESS,
            // It has said why.
            _ => child.wait().map_or(ExitCode::FAILURE, |_| ExitCode::FAILURE),
        }
    }

    /// A session of its own, and the root folder.
    pub(super) fn enter() -> Self {
        let channel = Channel::from_stdin().ok();
        background::detach(Path::new("/"));
        Self(channel)
    }

    /// Tells who waits, and lets go of the terminal.
    pub(super) fn ready(self) {
        if let Some(channel) = self.0 {
            let _ = channel.send(b"ready");
        }
        background::close_streams();
    }
}
