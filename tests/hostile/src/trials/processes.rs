//! New processes, and other processes: the keeper, and one of the same user.

use std::ptr::{null, null_mut};

use super::Trial;
use crate::call::Outcome;

/// What the limit on processes denies, too.
pub(super) const NEW: &[Trial] = &[
    ("clone", |_| call!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)),
    ("clone as vfork does", |_| call!(SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0)),
    ("clone3", |_| {
        // Of 64 bytes, the first version; the signal at the end stands at the fifth.
        let arguments = [0, 0, 0, 0, u64::from(libc::SIGCHLD.cast_unsigned()), 0, 0, 0];
        call!(SYS_clone3, arguments.as_ptr(), size_of_val(&arguments))
    }),
    #[cfg(target_arch = "x86_64")]
    ("fork", |_| call!(SYS_fork)),
];

pub(super) const TRIALS: &[Trial] = &[
    ("clone a thread", |_| call!(SYS_clone, libc::CLONE_THREAD, 0, 0, 0, 0)),
    ("signal the keeper (kill)", |t| call!(SYS_kill, t.keeper, 0)),
    ("signal everybody", |_| call!(SYS_kill, -1, 0)),
    ("signal the keeper (tgkill)", |t| call!(SYS_tgkill, t.keeper, t.keeper, 0)),
    ("signal the keeper (tkill)", |t| call!(SYS_tkill, t.keeper, 0)),
    ("signal the keeper (rt_sigqueueinfo)", |t| call!(SYS_rt_sigqueueinfo, t.keeper, 0, null::<u8>())),
    ("signal a process (pidfd_send_signal)", |_| call!(SYS_pidfd_send_signal, -1, 0, null::<u8>(), 0)),
    ("ptrace the keeper", |t| call!(SYS_ptrace, libc::PTRACE_SEIZE, t.keeper, 0, 0)),
    ("ptrace a process of the same user", |t| {
        call!(SYS_ptrace, libc::PTRACE_SEIZE, t.bystander.process, 0, 0)
    }),
    ("be traced", |_| call!(SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0)),
    ("read the keeper's memory", |t| peek(t.keeper)),
    ("read the memory of a process of the same user", |t| peek(t.bystander.process)),
    ("write the keeper's memory", |t| {
        let none = libc::iovec { iov_base: null_mut(), iov_len: 0 };
        call!(SYS_process_vm_writev, t.keeper, &raw const none, 1, &raw const none, 1, 0)
    }),
    ("advise on another's memory", |_| call!(SYS_process_madvise, -1, null::<u8>(), 0, 0, 0)),
    ("release another's memory", |_| call!(SYS_process_mrelease, -1, 0)),
    ("move the keeper's pages", |t| {
        call!(SYS_move_pages, t.keeper, 0, null::<u8>(), null::<u8>(), null::<u8>(), 0)
    }),
    ("compare oneself with the keeper", |t| call!(SYS_kcmp, t.keeper, t.bystander.process, 99, 0, 0)),
    ("the keeper's locks", |t| {
        let (mut head, mut length) = (0_u64, 0_u64);
        call!(SYS_get_robust_list, t.keeper, &raw mut head, &raw mut length)
    }),
    ("the keeper's time on the processor", |t| {
        // clock_getcpuclockid(3): the number's complement, and 2 for time on the processor.
        let mut time = [0_i64; 2];
        call!(SYS_clock_gettime, (!t.keeper << 3) | 2, time.as_mut_ptr())
    }),
    ("the keeper's limits", |t| {
        let mut limits = [0_u64; 2];
        call!(SYS_prlimit64, t.keeper, libc::RLIMIT_CORE, null::<u8>(), limits.as_mut_ptr())
    }),
    ("the keeper's priority", |t| call!(SYS_getpriority, libc::PRIO_PROCESS, t.keeper)),
    ("change a priority", |t| call!(SYS_setpriority, 99, t.bystander.process, 0)),
    ("change where the keeper runs", |t| call!(SYS_sched_setaffinity, t.keeper, 0, null::<u8>())),
    ("change how the keeper is scheduled", |t| call!(SYS_sched_setscheduler, t.keeper, -1, null::<u8>())),
    ("change an input priority", |_| call!(SYS_ioprio_set, 99, 0, 0)),
    ("who the keeper is", |_| call!(SYS_getppid)),
    ("wait for children", |_| call!(SYS_wait4, -1, null::<u8>(), libc::WNOHANG, null::<u8>())),
    ("another process group", |_| call!(SYS_setpgid, 0, 0)),
    ("another session", |_| match call!(SYS_setsid) {
        // Who leads a group already is denied even where nothing forbids it.
        Err(libc::EPERM) => call!(SYS_getsid, 0),
        outcome => outcome,
    }),
];

fn peek(process: i32) -> Outcome {
    let mut byte = 0_u8;
    let ours = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // An address that no process has anything at: the right to look is checked before.
    let theirs = libc::iovec { iov_base: std::ptr::without_provenance_mut(1), iov_len: 1 };
    call!(SYS_process_vm_readv, process, &raw const ours, 1, &raw const theirs, 1, 0)
}
