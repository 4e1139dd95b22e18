//! Closes descriptors that the parent process left open, so that neither this process nor its commands inherit them.

use std::os::fd::RawFd;

use crate::os::files;

/// Closes all descriptors except the three standard streams. Must be called before this process opens any.
pub fn close_inherited() {
    let number = |path: std::path::PathBuf| path.file_name()?.to_str()?.parse::<RawFd>().ok();
    // Without /proc, they are unknown. Our own descriptors are close-on-exec in any case.
    let open = files::list(std::path::Path::new("/proc/self/fd")).unwrap_or_default();
    for descriptor in open.into_iter().filter_map(number).filter(|&descriptor| descriptor > 2) {
        // The descriptor used for listing is already closed.
        let _ = nix::unistd::close(descriptor);
    }
}
