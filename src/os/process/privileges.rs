//! Drops privileges permanently. The process that reads untrusted bytes gives up root and all its privileges, child
//! processes, and all memory except a fixed amount; the process that decides gives up the privileges that its config
//! does not need.

use std::ffi::CStr;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_name, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::stat;
use nix::unistd::{Gid, SysconfVar, Uid, User, geteuid, setgroups, setresgid, setresuid, sysconf};
use rustix::thread::{CapabilitySets, set_capabilities};

use super::capabilities::{self, Capability, Need};
use crate::os::{files, host};

/// How much memory a process may map in addition to what it has when it is confined, in bytes. Libraries and capture
/// rings are mapped by then. Five times what 10,000 clients, their successors at a reload, and all remembered tags need
/// (24 MiB, `tests/hostile/src/crowd.rs`).
const EXTRA_MEMORY: u64 = 128 << 20;

/// A user and group by numeric id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

/// The user `name`, or else `nobody`; `None` if this process is not root and cannot change its user.
///
/// # Errors
/// When neither user exists.
pub fn unprivileged(name: &str) -> io::Result<Option<Identity>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in [name, "nobody"] {
        if let Some(user) = User::from_name(name)?.filter(|user| !user.uid.is_root()) {
            return Ok(Some(Identity { uid: user.uid.as_raw(), gid: user.gid.as_raw() }));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no unprivileged user named {name} or nobody exists"),
    ))
}

/// What this process needs to start and end a process that becomes `identity`; `None` if that keeps its user.
#[must_use]
pub fn need_of(identity: Option<Identity>) -> Option<Need> {
    identity.map(|_| Need {
        key: "server.user",
        purpose: "running the watcher as another user",
        capabilities: vec![
            Capability::SETUID,
            Capability::SETGID,
            // Without it, the bounding set would stay; the last one ends a watcher that hangs.
            Capability::SETPCAP,
            Capability::KILL,
        ],
    })
}

/// Sets the name that ps shows. A program that is started by its descriptor has only a number there.
///
/// # Errors
/// When the system refuses.
pub fn set_process_name(name: &CStr) -> io::Result<()> {
    set_name(name).map_err(io::Error::from)
}

/// Drops all privileges: becomes `identity`, if there is one, and can no longer gain privileges, not even from setuid
/// programs. Open descriptors stay open.
///
/// # Errors
/// When the system refuses, or root could be regained. The process must exit then.
pub fn confine(identity: Option<Identity>) -> io::Result<()> {
    drop_rights(identity)?;
    deny_new_processes()?;
    limit_memory(EXTRA_MEMORY)
}

/// The part of [`confine`] that precedes the start of threads: they inherit it.
///
/// # Errors
/// When the system refuses, or root could be regained. The process must exit then.
pub fn drop_rights(identity: Option<Identity>) -> io::Result<()> {
    if let Some(identity) = identity {
        // The bounding set survives the change of user, and only root can clear it.
        capabilities::bound(Capability::empty())?;
        become_user(identity)?;
    }
    // Without a change of user, these are all the privileges; with one, the inheritable set is left.
    capabilities::drop_all()?;
    disable_core_dumps()?;
    set_no_new_privs()?;
    Ok(())
}

/// No new process or thread. RLIMIT_FSIZE is unchanged, because standard error may be a file.
///
/// # Errors
/// When the system refuses.
pub fn deny_new_processes() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_NPROC, 0, 0)?;
    Ok(())
}

/// Drops all privileges that reading a log does not need: becomes `reader`, if this process is root and there is one,
/// and can no longer gain privileges.
///
/// # Errors
/// When the system refuses. The process must exit then.
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

/// The least privileged identity that can read the file at `path`: the user `nobody` in the file's group, or else its
/// owner. `None` if the file does not exist.
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

/// Limits memory to what this process has now and `extra` bytes: with RLIMIT_AS instead of RLIMIT_DATA, which does not
/// include shared memory and page tables. Reads a file.
///
/// # Errors
/// When the system refuses.
pub fn limit_memory(extra: u64) -> io::Result<()> {
    let sizes = files::read_text(Path::new("/proc/self/statm")).map_err(io::Error::other)?;
    let pages: Option<u64> = sizes.split_ascii_whitespace().next().and_then(|size| size.parse().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| u64::try_from(size).ok());
    let (Some(pages), Some(page)) = (pages, page) else {
        return Err(io::Error::other("cannot determine the size of this process"));
    };
    let limit = pages.saturating_mul(page).saturating_add(extra);
    setrlimit(Resource::RLIMIT_AS, limit, limit)?;
    Ok(())
}

/// The privileges that the deciding process needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredRights {
    /// All that it has, because the administrator's commands run with them.
    Everything,
    /// To change the firewall, to start and kill watchers, and to bind ports.
    Knocking {
        /// The lowest of them.
        lowest_port: u16,
    },
}

/// Drops what is not needed, also for all processes that are started later. Must be called before any thread is
/// started.
///
/// # Errors
/// When the system refuses.
pub fn retain_capabilities(needs: RequiredRights) -> io::Result<()> {
    disable_core_dumps()?;
    capabilities::clear_inheritable()?;
    let RequiredRights::Knocking { lowest_port } = needs else { return Ok(()) };
    set_no_new_privs()?;
    if !geteuid().is_root() {
        // It keeps the capabilities that it was given, passes none on, and cannot gain more.
        return Ok(());
    }
    let mut kept = Capability::NET_ADMIN
        // For the watcher: capturing, its user, its empty bounding set, and killing it.
        | Capability::NET_RAW
        | Capability::SETUID
        | Capability::SETGID
        | Capability::SETPCAP
        | Capability::KILL;
    if lowest_port < host::first_unprivileged_port() {
        kept |= Capability::NET_BIND_SERVICE;
    }
    capabilities::bound(kept)?;
    let sets = rustix::thread::capabilities(None)?;
    let kept = sets.permitted & kept;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, ..sets })?;
    Ok(())
}

/// Keeps keys in memory from debuggers of the same user and from core files.
fn disable_core_dumps() -> io::Result<()> {
    set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Becomes this user, without supplementary groups.
fn become_user(identity: Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let become_it = || {
        // Groups first: after the change of user, they can no longer be changed.
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    };
    become_it().map_err(|errno| match errno {
        // user_namespaces(7): ids that the namespace does not map are unavailable, and with a single id, setgroups(2)
        // is denied.
        Errno::EINVAL | Errno::EPERM => io::Error::other(format!(
            "{}: this user namespace has no user {uid} or no group {gid}\nhint: map more ids into it (/etc/subuid), or \
             run spa-knockd as a user that is not root",
            errno.desc().to_lowercase()
        )),
        errno => errno.into(),
    })?;
    if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(io::Error::other("root could be regained"));
    }
    Ok(())
}
