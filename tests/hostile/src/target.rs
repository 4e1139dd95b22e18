//! The targets of the trials: descriptors, processes and files.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};

use spa_knock::capture::Capture;
use spa_knock::os::net::seqpacket::Channel;

use crate::bystander::Bystander;

/// All targets.
pub(crate) struct Target {
    /// The channel to the keeper.
    pub(crate) channel: i32,
    /// The capture socket or the UDP socket.
    pub(crate) source: i32,
    /// Whether `source` is a capture socket.
    pub(crate) is_capture: bool,
    pub(crate) keeper: i32,
    /// A process of the same user.
    pub(crate) bystander: Bystander,
    /// A folder in which this user has all permissions.
    scratch: String,
}

impl Target {
    pub(crate) fn new(
        channel: &Channel,
        capture: &dyn Capture,
        source: &str,
        scratch: &str,
        bystander: Bystander,
    ) -> Self {
        Self {
            channel: channel.as_fd().as_raw_fd(),
            source: capture.as_fd().as_raw_fd(),
            is_capture: source != "socket",
            // SAFETY: the call has no arguments.
            keeper: unsafe { libc::getppid() },
            bystander,
            scratch: scratch.to_owned(),
        }
    }

    /// Path of a file in the scratch folder.
    pub(crate) fn file(&self, name: &str) -> CString {
        CString::new(format!("{}/{name}", self.scratch)).unwrap_or_default()
    }
}
