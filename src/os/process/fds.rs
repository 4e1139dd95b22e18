//! Descriptors that who started us left open. They are none of our business, and not that of the commands we start.

use std::os::fd::RawFd;

use crate::os::files;

/// Closes all but the three standard streams. To be called before anything of ours is open.
pub fn close_inherited() {
    let number = |path: std::path::PathBuf| path.file_name()?.to_str()?.parse::<RawFd>().ok();
    // Without /proc there is nothing to go by; what we open ourselves is closed on exec in any case.
    let open = files::list(std::path::Path::new("/proc/self/fd")).unwrap_or_default();
    for descriptor in open.into_iter().filter_map(number).filter(|&descriptor| descriptor > 2) {
        // The one that the list was read from is closed already.
        let _ = nix::unistd::close(descriptor);
    }
}
