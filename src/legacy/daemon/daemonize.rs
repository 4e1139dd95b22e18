//! `-d`: the daemon goes on in the background, once it listens.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::console::AdminError;
use crate::os::files;
use crate::os::net::seqpacket::{Channel, ReceiveResult};
use crate::os::process::daemonize;

/// The process in the background, and who waits for it to be ready.
pub(in crate::legacy) struct Background(Option<Channel>);

impl Background {
    /// Whether this is the process in the background.
    pub(in crate::legacy) fn is_here() -> bool {
        daemonize::is_here()
    }

    /// Starts that process with the same words, and waits until it listens or ends.
    pub(in crate::legacy) fn start(words: &[OsString]) -> ExitCode {
        let started = Channel::pair().and_then(|(ours, theirs)| {
            let child = daemonize::start(words, theirs)?;
            Ok((ours, child))
        });
        let (channel, mut child) = match started {
            Ok(started) => started,
            Err(error) => {
                return AdminError::run(format_args!("-d: {}", files::io_error_text(&error))).exit();
            }
        };
        match channel.recv(&mut [0; 16]) {
            Ok(ReceiveResult::Message(_)) => ExitCode::SUCCESS,
            // It has said why.
            _ => child.wait().map_or(ExitCode::FAILURE, |_| ExitCode::FAILURE),
        }
    }

    /// A session of its own, and the root folder.
    pub(in crate::legacy) fn enter() -> Self {
        let channel = Channel::from_stdin().ok();
        daemonize::detach(Path::new("/"));
        Self(channel)
    }

    /// Tells who waits, and lets go of the terminal.
    pub(in crate::legacy) fn ready(self) {
        if let Some(channel) = self.0 {
            let _ = channel.send(b"ready");
        }
        daemonize::close_streams();
    }
}
