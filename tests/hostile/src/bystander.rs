//! Another process of the watcher's user, for it to attack. It has an abstract socket and may be traced.

use std::io::{self, PipeWriter, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use spa_knock::os::process::privileges::Identity;

/// That process.
pub(crate) struct Bystander {
    /// Its number.
    pub(crate) process: i32,
    /// The name of its socket, without the NUL in front.
    pub(crate) socket: String,
}

/// Starts it and waits until it is there; it ends when the keeper closes the channel.
pub(crate) fn start(identity: Option<Identity>) -> io::Result<Bystander> {
    let socket = format!("spa-knock-bystander-{}", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&socket)?)?;
    let (mut there, is_there) = io::pipe()?;
    // SAFETY: there is one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => stand_by(identity, &listener, is_there),
        process => {
            drop(is_there);
            there.read_exact(&mut [0]).map(|()| Bystander { process, socket })
        }
    }
}

fn stand_by(identity: Option<Identity>, _listener: &UnixListener, mut is_there: PipeWriter) -> ! {
    // SAFETY: calls without memory.
    unsafe {
        if let Some(Identity { uid, gid }) = identity {
            libc::setgroups(0, std::ptr::null());
            libc::setresgid(gid, gid, gid);
            libc::setresuid(uid, uid, uid);
        }
        libc::prctl(libc::PR_SET_DUMPABLE, 1);
        // The watcher's end is to be seen there.
        libc::close(libc::STDERR_FILENO);
    }
    // Not by PR_SET_PDEATHSIG: Landlock would keep the watcher's signal from it.
    let mut channel = libc::pollfd { fd: libc::STDIN_FILENO, events: 0, revents: 0 };
    let told = is_there.write_all(&[1]);
    drop(is_there);
    while told.is_ok() && channel.revents & libc::POLLHUP == 0 {
        // SAFETY: one element, which is writable.
        unsafe { libc::poll(&raw mut channel, 1, -1) };
    }
    std::process::exit(0)
}
