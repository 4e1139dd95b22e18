//! What our processes give up for good: the one that reads strangers' bytes root and all that belongs to it, children,
//! and all memory but a fair share; the one that decides the rights that its config does not need.

use std::ffi::CStr;
use std::io;
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_name, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::stat;
use nix::unistd::{Gid, SysconfVar, Uid, User, geteuid, setgroups, setresgid, setresuid, sysconf};

use super::capabilities;
use crate::os::{files, host};

/// What a process may map besides what it has when it is confined, in bytes; libraries and capture rings are there by
/// then. It is five times what 10,000 clients, their successors at a reload, and all tags that are remembered take
/// (24 MiB, `tests/hostile/src/crowd.rs`).
const ROOM: u64 = 128 << 20;

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

/// The capabilities that this process is missing to become `identity`; none where it stays who it is.
#[must_use]
pub fn lacking(identity: Option<Identity>) -> Vec<host::Capability> {
    let needed = [host::Capability::SetUid, host::Capability::SetGid, host::Capability::SetPcap];
    let is_missing = |capability: &host::Capability| host::has_capability(*capability) == Some(false);
    needed.into_iter().filter(|_| identity.is_some()).filter(is_missing).collect()
}

/// The name that ps shows: a program that is started by its descriptor has none but a number.
///
/// # Errors
/// When the system refuses.
pub fn set_process_name(name: &CStr) -> io::Result<()> {
    set_name(name).map_err(io::Error::from)
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
    // Without another user to become, these are all that there is to give up; with one, the inheritable set is left.
    capabilities::drop_all()?;
    disable_core_dumps()?;
    // No process, no thread. RLIMIT_FSIZE stays as it is: standard error may be a file.
    setrlimit(Resource::RLIMIT_NPROC, 0, 0)?;
    limit_memory()?;
    set_no_new_privs()?;
    Ok(())
}

/// Gives all up that reading a log does not take: becomes `reader`, if it is root and there is one, and takes no rights
/// any more.
///
/// # Errors
/// When the system refuses. The process must end then.
pub fn read_only(reader: Option<Identity>) -> io::Result<()> {
    set_process_name(c"spa-knock-log")?;
    if geteuid().is_root()
        && let Some(Identity { uid, gid }) = reader
    {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setgroups(&[gid])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    capabilities::drop_all()?;
    set_no_new_privs()?;
    Ok(())
}

/// Who can read the file at `path` with the least rights: nobody, in the file's group; where that is not enough, its
/// owner. None where it is not there.
#[must_use]
pub fn reader_of(path: &Path) -> Option<Identity> {
    const GROUP_READS: u32 = 0o040;
    const OTHERS_PASS: u32 = 0o001;
    let file = stat(path).ok()?;
    let nobody = User::from_name("nobody").ok()??;
    let folders = path.ancestors().skip(1);
    let is_open = |folder: &Path| stat(folder).is_ok_and(|folder| folder.st_mode & OTHERS_PASS != 0);
    let is_readable = file.st_gid != 0 && file.st_mode & GROUP_READS != 0 && folders.into_iter().all(is_open);
    let uid = if is_readable && !nobody.uid.is_root() { nobody.uid.as_raw() } else { file.st_uid };
    Some(Identity { uid, gid: file.st_gid })
}

/// RLIMIT_AS, and not RLIMIT_DATA, which neither shared memory nor page tables count towards.
fn limit_memory() -> io::Result<()> {
    let sizes = files::read_text(Path::new("/proc/self/statm")).map_err(io::Error::other)?;
    let pages: Option<u64> = sizes.split_ascii_whitespace().next().and_then(|size| size.parse().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| u64::try_from(size).ok());
    let (Some(pages), Some(page)) = (pages, page) else {
        return Err(io::Error::other("the size of this process is not known"));
    };
    let limit = pages.saturating_mul(page).saturating_add(ROOM);
    setrlimit(Resource::RLIMIT_AS, limit, limit)?;
    Ok(())
}

/// What the deciding process works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredRights {
    /// Whatever it has: the admin's commands run with its rights.
    Everything,
    /// To rule the firewall, to start and end watchers, and to bind this port.
    Knocking {
        /// The knock port.
        port: u16,
    },
}

/// Gives up what is not needed, also for all that is started from here. To be called before any thread is.
///
/// # Errors
/// When the system refuses.
pub fn retain_capabilities(needs: RequiredRights) -> io::Result<()> {
    /// Ports below this one are for the privileged.
    const UNPRIVILEGED_PORTS: u16 = 1024;
    disable_core_dumps()?;
    capabilities::clear_inheritable()?;
    let RequiredRights::Knocking { port } = needs else { return Ok(()) };
    set_no_new_privs()?;
    if !geteuid().is_root() {
        // What it has was given to it, is passed on to nobody, and nothing more can be had.
        return Ok(());
    }
    let mut kept = CapsHashSet::from([
        Capability::CAP_NET_ADMIN,
        // The watcher's captures, its other user, its empty bounding set, and its end.
        Capability::CAP_NET_RAW,
        Capability::CAP_SETUID,
        Capability::CAP_SETGID,
        Capability::CAP_SETPCAP,
        Capability::CAP_KILL,
    ]);
    if port < UNPRIVILEGED_PORTS {
        kept.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    for given_up in caps::read(None, CapSet::Bounding).map_err(io::Error::other)?.difference(&kept) {
        caps::drop(None, CapSet::Bounding, *given_up).map_err(io::Error::other)?;
    }
    let had = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    let kept: CapsHashSet = had.intersection(&kept).copied().collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Memory that holds keys is for no debugger of the same user, and for no core file.
fn disable_core_dumps() -> io::Result<()> {
    set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Without supplementary groups.
fn become_user(identity: Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let become_it = || {
        // Groups first: without root's number they could not be changed any more.
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    };
    become_it().map_err(|errno| match errno {
        // user_namespaces(7): a number that the namespace does not map cannot be had, and with a single number
        // setgroups(2) is denied.
        Errno::EINVAL | Errno::EPERM => io::Error::other(format!(
            "{}: this user namespace has no user {uid} or no group {gid}\nhint: map more ids into it (/etc/subuid), or \
             run spa-knockd as a user that is not root",
            errno.desc().to_lowercase()
        )),
        errno => errno.into(),
    })?;
    if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(io::Error::other("root could be had back"));
    }
    Ok(())
}
