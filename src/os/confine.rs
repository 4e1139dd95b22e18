//! What a process gives up for good that reads strangers' bytes: root, capabilities, new rights, its core dumps.

use std::io;

use caps::CapSet;
use nix::sys::prctl::{set_dumpable, set_name, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
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

/// Gives all of it up: becomes `identity`, if there is one to become, and takes no rights any more, not even from
/// setuid programs. Descriptors that are open stay so.
///
/// # Errors
/// When the system refuses, or root could be had back. The process must end then.
pub fn confine(identity: Option<Identity>) -> io::Result<()> {
    if let Some(identity) = identity {
        // The bounding set outlives the change of user, and only root can clear it.
        caps::clear(None, CapSet::Bounding).map_err(io::Error::other)?;
        become_user(identity)?;
    }
    // For ps: it was started through /proc/self/exe, which says nothing. 15 bytes are all that fit.
    set_name(c"spa-knock-watch")?;
    // Memory that holds keys is for no debugger of the same user, and for no core file.
    set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_no_new_privs()?;
    Ok(())
}

/// Without supplementary groups; with root's number go its capabilities.
fn become_user(identity: Identity) -> io::Result<()> {
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
