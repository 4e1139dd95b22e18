//! `-d` of knockd, and fwknopd without `-f`: the daemon runs in the background. The foreground process waits until it listens.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::console::AdminError;
use crate::os::files;
use crate::os::net::seqpacket::{Channel, ReceiveResult};
use crate::os::process::daemonize;

/// The background process, and its channel to the foreground process, which waits until it is ready.
pub(in crate::legacy) struct Background(Option<Channel>);

impl Background {
    /// Whether this process is the background process.
    pub(in crate::legacy) fn is_here() -> bool {
        daemonize::is_background()
    }

    /// Starts the background process under this name and with the same arguments, and waits until it listens or exits.
    pub(in crate::legacy) fn start(name: &str, args: &[OsString]) -> ExitCode {
        let started = Channel::pair().and_then(|(ours, theirs)| {
            let child = daemonize::start(name, args, theirs)?;
            Ok((ours, child))
        });
        let (channel, mut child) = match started {
            Ok(started) => started,
            Err(error) => {
                return AdminError::run(format_args!("background process: {}", files::io_error_text(&error)))
                    .exit();
            }
        };
        match channel.recv(&mut [0; 16]) {
            Ok(ReceiveResult::Message(_)) => ExitCode::SUCCESS,
            // It has printed the reason.
            _ => child.wait().map_or(ExitCode::FAILURE, |_| ExitCode::FAILURE),
        }
    }

    /// Called in the background process: starts a new session and changes to the root directory.
    pub(in crate::legacy) fn enter() -> Self {
        let channel = Channel::from_stdin().ok();
        daemonize::detach(Path::new("/"));
        Self(channel)
    }

    /// Notifies the foreground process and detaches from the terminal.
    pub(in crate::legacy) fn ready(self) {
        if let Some(channel) = self.0 {
            let _ = channel.send(b"ready");
        }
        daemonize::close_streams();
    }
}
