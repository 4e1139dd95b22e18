//! New processes and attacks on existing ones: the keeper and a process of the same user.

use std::ptr::{null, null_mut};

use super::Trial;
use crate::call::Outcome;

/// Trials that the limit on processes denies too.
pub(super) const NEW: &[Trial] = &[
    ("clone", |_| call!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)),
    ("clone as vfork does", |_| call!(SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0)),
    ("clone3", |_| {
        // The first version, of 64 bytes. Its fifth field is the exit signal.
        let arguments = [0, 0, 0, 0, u64::from(libc::SIGCHLD.cast_unsigned()), 0, 0, 0];
        call!(SYS_clone3, arguments.as_ptr(), size_of_val(&arguments))
    }),
    #[cfg(target_arch = "x86_64")]
    ("fork", |_| call!(SYS_fork)),
];

pub(super) const TRIALS: &[Trial] = &[
    ("clone a thread", |_| call!(SYS_clone, libc::CLONE_THREAD, 0, 0, 0, 0)),
    ("signal the keeper (kill)", |t| call!(SYS_kill, t.keeper, 0)),
    ("signal all processes", |_| call!(SYS_kill, -1, 0)),
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
    ("advise on another process's memory", |_| call!(SYS_process_madvise, -1, null::<u8>(), 0, 0, 0)),
    ("release another process's memory", |_| call!(SYS_process_mrelease, -1, 0)),
    ("move the keeper's pages", |t| {
        call!(SYS_move_pages, t.keeper, 0, null::<u8>(), null::<u8>(), null::<u8>(), 0)
    }),
    ("compare the keeper with another process", |t| call!(SYS_kcmp, t.keeper, t.bystander.process, 99, 0, 0)),
    ("the keeper's locks", |t| {
        let (mut head, mut length) = (0_u64, 0_u64);
        call!(SYS_get_robust_list, t.keeper, &raw mut head, &raw mut length)
    }),
    ("the keeper's CPU time", |t| {
        // clock_getcpuclockid(3): the complement of the process id, and 2 for CPU time.
        let mut time = [0_i64; 2];
        call!(SYS_clock_gettime, (!t.keeper << 3) | 2, time.as_mut_ptr())
    }),
    ("the keeper's limits", |t| {
        let mut limits = [0_u64; 2];
        call!(SYS_prlimit64, t.keeper, libc::RLIMIT_CORE, null::<u8>(), limits.as_mut_ptr())
    }),
    ("the keeper's priority", |t| call!(SYS_getpriority, libc::PRIO_PROCESS, t.keeper)),
    ("change a priority", |t| call!(SYS_setpriority, 99, t.bystander.process, 0)),
    ("change the keeper's CPU affinity", |t| call!(SYS_sched_setaffinity, t.keeper, 0, null::<u8>())),
    ("change the keeper's scheduling", |t| call!(SYS_sched_setscheduler, t.keeper, -1, null::<u8>())),
    ("change an I/O priority", |_| call!(SYS_ioprio_set, 99, 0, 0)),
    ("the keeper's process id", |_| call!(SYS_getppid)),
    ("wait for children", |_| call!(SYS_wait4, -1, null::<u8>(), libc::WNOHANG, null::<u8>())),
    ("another process group", |_| call!(SYS_setpgid, 0, 0)),
    ("another session", |_| match call!(SYS_setsid) {
        // A process group leader gets EPERM even without a sandbox.
        Err(libc::EPERM) => call!(SYS_getsid, 0),
        outcome => outcome,
    }),
];

fn peek(process: i32) -> Outcome {
    let mut byte = 0_u8;
    let ours = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // No process has memory at this address; permission is checked first.
    let theirs = libc::iovec { iov_base: std::ptr::without_provenance_mut(1), iov_len: 1 };
    call!(SYS_process_vm_readv, process, &raw const ours, 1, &raw const theirs, 1, 0)
}
