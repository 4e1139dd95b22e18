//! Attempts to regain privileges and to escape from the sandbox.

use std::ptr::null;

use super::Trial;

/// READ_IMPLIES_EXEC of personality(2): readable memory becomes executable.
const READ_IMPLIES_EXEC: i32 = 0x040_0000;

pub(super) const TRIALS: &[Trial] = &[
    ("setuid(0)", |_| call!(SYS_setuid, 0)),
    ("setgid(0)", |_| call!(SYS_setgid, 0)),
    ("setresuid(0, 0, 0)", |_| call!(SYS_setresuid, 0, 0, 0)),
    ("setresgid(0, 0, 0)", |_| call!(SYS_setresgid, 0, 0, 0)),
    ("setreuid(0, 0)", |_| call!(SYS_setreuid, 0, 0)),
    ("setgroups", |_| call!(SYS_setgroups, 0, null::<u8>())),
    ("setfsuid(0)", |_| call!(SYS_setfsuid, 0)),
    ("capset", |_| {
        // Version 3 of capset(2). It requests no capabilities, which any process is allowed to do.
        let (head, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
        call!(SYS_capset, head.as_ptr(), none.as_ptr())
    }),
    ("unshare a user namespace", |_| call!(SYS_unshare, libc::CLONE_NEWUSER)),
    ("unshare a network namespace", |_| call!(SYS_unshare, libc::CLONE_NEWNET)),
    ("unshare a mount namespace", |_| call!(SYS_unshare, libc::CLONE_NEWNS)),
    ("setns", |_| call!(SYS_setns, -1, 0)),
    ("prctl: dumpable again", |_| call!(SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0)),
    ("prctl: allow tracing by any process", |_| call!(SYS_prctl, libc::PR_SET_PTRACER, -1, 0, 0, 0)),
    ("prctl: keep capabilities", |_| call!(SYS_prctl, libc::PR_SET_KEEPCAPS, 1, 0, 0, 0)),
    ("prctl: ambient capabilities", |_| {
        call!(SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    }),
    ("prctl: secure bits", |_| call!(SYS_prctl, libc::PR_GET_SECUREBITS, 0, 0, 0, 0)),
    ("prctl: the memory map", |_| call!(SYS_prctl, libc::PR_SET_MM, 0, 0, 0, 0)),
    ("prctl: another name", |_| call!(SYS_prctl, libc::PR_SET_NAME, c"spa-knockd".as_ptr(), 0, 0, 0)),
    ("prctl: a signal when the keeper exits", |_| call!(SYS_prctl, libc::PR_SET_PDEATHSIG, 0, 0, 0, 0)),
    ("prctl: speculation", |_| {
        call!(SYS_prctl, libc::PR_GET_SPECULATION_CTRL, libc::PR_SPEC_STORE_BYPASS, 0, 0, 0)
    }),
    ("prctl: seccomp", |_| call!(SYS_prctl, libc::PR_SET_SECCOMP, 2, null::<u8>(), 0, 0)),
    ("seccomp", |_| call!(SYS_seccomp, 1, 0, null::<u8>())),
    ("landlock_create_ruleset", |_| call!(SYS_landlock_create_ruleset, null::<u8>(), 0, 1)),
    ("landlock_restrict_self", |_| call!(SYS_landlock_restrict_self, -1, 0)),
    ("personality", |_| call!(SYS_personality, READ_IMPLIES_EXEC)),
    ("raise a limit", |_| {
        let none = [0_u64; 2];
        call!(SYS_prlimit64, 0, libc::RLIMIT_CORE, none.as_ptr(), null::<u8>())
    }),
    ("a signal handler", |_| call!(SYS_rt_sigaction, libc::SIGUSR1, null::<u8>(), null::<u8>(), 8)),
    #[cfg(target_arch = "x86_64")]
    ("arch_prctl", |_| {
        // ARCH_GET_FS.
        let mut base = 0_u64;
        call!(SYS_arch_prctl, 0x1003, &raw mut base)
    }),
    #[cfg(target_arch = "x86_64")]
    ("I/O ports", |_| call!(SYS_ioperm, 0x80, 1, 1)),
    #[cfg(target_arch = "x86_64")]
    ("all I/O ports", |_| call!(SYS_iopl, 3)),
    #[cfg(target_arch = "x86_64")]
    ("segments", |_| call!(SYS_modify_ldt, 0, null::<u8>(), 0)),
];
