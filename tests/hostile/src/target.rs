//! What there is to attack: descriptors, processes, files.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};

use spa_knock::capture::Capture;
use spa_knock::os::net::seqpacket::Channel;

use crate::bystander::Bystander;

/// All of it.
pub(crate) struct Target {
    /// The channel to the keeper.
    pub(crate) channel: i32,
    /// The capture socket, or the UDP socket.
    pub(crate) source: i32,
    /// Which of the two.
    pub(crate) is_capture: bool,
    pub(crate) keeper: i32,
    /// A process of the same user.
    pub(crate) bystander: Bystander,
    /// A folder with files in which this user may do everything.
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
            // SAFETY: a call without arguments.
            keeper: unsafe { libc::getppid() },
            bystander,
            scratch: scratch.to_owned(),
        }
    }

    /// A file in the scratch folder.
    pub(crate) fn file(&self, name: &str) -> CString {
        CString::new(format!("{}/{name}", self.scratch)).unwrap_or_default()
    }
}
