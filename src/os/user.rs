//! Another user than root, for a process that needs none of root's rights any more.

use std::io;

use nix::unistd::{Gid, Uid, User, geteuid, setgroups, setresgid, setresuid};

/// A user by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// The user `name`, else `nobody`; none where this process is not root and can become nobody else.
///
/// # Errors
/// When there is neither.
pub fn unprivileged(name: &str) -> io::Result<Option<Identity>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in [name, "nobody"] {
        if let Some(user) = User::from_name(name)?.filter(|user| !user.uid.is_root()) {
            return Ok(Some(Identity { uid: user.uid.as_raw(), gid: user.gid.as_raw() }));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("neither a user {name} nor nobody, other than root")))
}

/// Becomes that user for good, without supplementary groups; with root's number go its capabilities. Descriptors
/// that are open stay so.
///
/// # Errors
/// When the system refuses, or root could be had back. The process must end then.
pub fn become_user(identity: Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    // Groups first: without root's number they could not be changed any more.
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(io::Error::other("root could be had back"));
    }
    Ok(())
}
