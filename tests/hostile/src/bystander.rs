//! Another process of the watcher's user, which the trials attack. It has an abstract socket and can be traced.

use std::io::{self, PipeWriter, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use spa_knock::os::process::privileges::Identity;

/// The process.
pub(crate) struct Bystander {
    /// Its process id.
    pub(crate) process: i32,
    /// The name of its socket, without the leading NUL.
    pub(crate) socket: String,
}

/// Starts the process and waits until it is ready. It exits when the keeper closes the channel.
pub(crate) fn start(identity: Option<Identity>) -> io::Result<Bystander> {
    let socket = format!("spa-knock-bystander-{}", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&socket)?)?;
    let (mut started, ready) = io::pipe()?;
    // SAFETY: this process has only one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => wait_for_attacks(identity, &listener, ready),
        process => {
            drop(ready);
            started.read_exact(&mut [0]).map(|()| Bystander { process, socket })
        }
    }
}

fn wait_for_attacks(identity: Option<Identity>, _listener: &UnixListener, mut ready: PipeWriter) -> ! {
    // SAFETY: none of these calls accesses memory of this process.
    unsafe {
        if let Some(Identity { uid, gid }) = identity {
            libc::setgroups(0, std::ptr::null());
            libc::setresgid(gid, gid, gid);
            libc::setresuid(uid, uid, uid);
        }
        libc::prctl(libc::PR_SET_DUMPABLE, 1);
        // Otherwise the reader of standard error would not see the watcher's exit.
        libc::close(libc::STDERR_FILENO);
    }
    // PR_SET_PDEATHSIG does not work here, because Landlock blocks signals of the watcher.
    let mut channel = libc::pollfd { fd: libc::STDIN_FILENO, events: 0, revents: 0 };
    let notified = ready.write_all(&[1]);
    drop(ready);
    while notified.is_ok() && channel.revents & libc::POLLHUP == 0 {
        // SAFETY: the array has one element, which is writable.
        unsafe { libc::poll(&raw mut channel, 1, -1) };
    }
    std::process::exit(0)
}
