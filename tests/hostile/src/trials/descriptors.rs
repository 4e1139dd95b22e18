//! New descriptors, and changes to existing ones.

use std::ptr::null;

use super::Trial;

/// TIOCSTI of ioctl_tty(2): inserts input into the terminal.
const TIOCSTI: libc::c_ulong = 0x5412;

/// Trials that the limit on descriptors denies too.
pub(super) const NEW: &[Trial] = &[
    ("dup", |t| call!(SYS_dup, t.source)),
    ("duplicate with fcntl", |t| call!(SYS_fcntl, t.source, libc::F_DUPFD_CLOEXEC, 0)),
    ("dup3 to another number", |t| match call!(SYS_dup3, t.source, 100, 0) {
        // The error for a number above the limit.
        Err(libc::EBADF) => Err(libc::EMFILE),
        outcome => outcome,
    }),
    ("a pipe", |_| {
        let mut pair = [0; 2];
        call!(SYS_pipe2, pair.as_mut_ptr(), 0)
    }),
    ("an event descriptor", |_| call!(SYS_eventfd2, 0, 0)),
    ("an epoll descriptor", |_| call!(SYS_epoll_create1, 0)),
    ("a timer descriptor", |_| call!(SYS_timerfd_create, libc::CLOCK_MONOTONIC, 0)),
    ("memfd_create", |_| call!(SYS_memfd_create, c"x".as_ptr(), 0)),
    ("pidfd_open of the keeper", |t| call!(SYS_pidfd_open, t.keeper, 0)),
    ("inotify", |_| call!(SYS_inotify_init1, 0)),
];

pub(super) const TRIALS: &[Trial] = &[
    #[cfg(target_arch = "x86_64")]
    ("dup2", |t| call!(SYS_dup2, t.source, libc::STDERR_FILENO)),
    ("dup3 to standard error's number", |t| call!(SYS_dup3, t.source, libc::STDERR_FILENO, 0)),
    ("F_DUPFD to standard error's number", |t| {
        call!(SYS_fcntl, t.source, libc::F_DUPFD, libc::STDERR_FILENO)
    }),
    ("close a descriptor", |_| call!(SYS_close, 99)),
    ("close a range of descriptors", |_| call!(SYS_close_range, 100, 200, 0)),
    ("a descriptor's flags", |t| call!(SYS_fcntl, t.source, libc::F_GETFD)),
    ("change a descriptor's flags", |_| call!(SYS_fcntl, libc::STDERR_FILENO, libc::F_SETFL, 0)),
    ("keep a descriptor open across exec", |t| call!(SYS_fcntl, t.source, libc::F_SETFD, 0)),
    ("send the keeper signals from a descriptor", |t| call!(SYS_fcntl, t.channel, libc::F_SETOWN, t.keeper)),
    ("pidfd_getfd", |t| {
        let keeper = call!(SYS_pidfd_open, t.keeper, 0).unwrap_or(-1);
        call!(SYS_pidfd_getfd, keeper, 0, 0)
    }),
    ("a signal descriptor", |_| {
        let none = 0_u64;
        call!(SYS_signalfd4, -1, &raw const none, 8, 0)
    }),
    ("fanotify", |_| call!(SYS_fanotify_init, 0, 0)),
    ("userfaultfd", |_| call!(SYS_userfaultfd, 0)),
    ("io_uring_setup", |_| {
        let mut parameters = [0_u64; 15];
        call!(SYS_io_uring_setup, 1, parameters.as_mut_ptr())
    }),
    ("io_uring_enter", |_| call!(SYS_io_uring_enter, -1, 0, 0, 0, null::<u8>(), 0)),
    ("io_setup", |_| {
        let mut context = 0_u64;
        call!(SYS_io_setup, 1, &raw mut context)
    }),
    ("open_by_handle_at", |_| call!(SYS_open_by_handle_at, -1, null::<u8>(), 0)),
    ("name_to_handle_at", |_| call!(SYS_name_to_handle_at, -1, c"".as_ptr(), null::<u8>(), null::<u8>(), 0)),
    ("open_tree", |_| call!(SYS_open_tree, -1, c"".as_ptr(), 0)),
    ("fsopen", |_| call!(SYS_fsopen, c"tmpfs".as_ptr(), 0)),
    ("type into the terminal (TIOCSTI)", |_| call!(SYS_ioctl, libc::STDERR_FILENO, TIOCSTI, c"x".as_ptr())),
    ("turn on signals from a descriptor (FIOASYNC)", |_| {
        let off = 0_i32;
        call!(SYS_ioctl, libc::STDERR_FILENO, libc::FIOASYNC, &raw const off)
    }),
    ("read from standard error", |_| call!(SYS_read, libc::STDERR_FILENO, null::<u8>(), 0)),
    ("writev on standard error", |_| call!(SYS_writev, libc::STDERR_FILENO, null::<u8>(), 0)),
    ("truncate standard error", |_| call!(SYS_ftruncate, libc::STDERR_FILENO, -1)),
    ("seek in standard error", |_| call!(SYS_lseek, libc::STDERR_FILENO, 0, libc::SEEK_SET)),
    ("change standard error's mode", |_| call!(SYS_fchmod, libc::STDERR_FILENO, 0o600)),
    ("change standard error's owner", |_| call!(SYS_fchown, libc::STDERR_FILENO, -1, -1)),
    ("copy_file_range", |_| {
        call!(SYS_copy_file_range, libc::STDERR_FILENO, null::<u8>(), libc::STDERR_FILENO, null::<u8>(), 1, 0)
    }),
    ("vmsplice", |_| call!(SYS_vmsplice, libc::STDERR_FILENO, null::<u8>(), 0, 0)),
    ("lock standard error", |_| call!(SYS_flock, libc::STDERR_FILENO, libc::LOCK_UN)),
];
