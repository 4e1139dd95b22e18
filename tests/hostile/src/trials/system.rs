//! Attacks on the system as a whole.

use std::ptr::null;

use super::Trial;

pub(super) const TRIALS: &[Trial] = &[
    ("bpf", |_| {
        // BPF_MAP_CREATE: an array (type 2) with 4-byte keys, 4-byte values and one entry.
        let map = [2_u32, 4, 4, 1, 0, 0, 0, 0];
        call!(SYS_bpf, 0, map.as_ptr(), size_of_val(&map))
    }),
    ("perf_event_open", |_| {
        // A software event, the CPU clock, in the first version of 64 bytes.
        let mut event = [0_u32; 16];
        event[..2].copy_from_slice(&[1, 64]);
        call!(SYS_perf_event_open, event.as_ptr(), 0, -1, -1, 0)
    }),
    ("keyctl", |_| call!(SYS_keyctl, 0, -3, 0, 0, 0)),
    ("add_key", |_| call!(SYS_add_key, c"user".as_ptr(), c"x".as_ptr(), c"x".as_ptr(), 1, -1)),
    ("request_key", |_| call!(SYS_request_key, c"none".as_ptr(), c"x".as_ptr(), null::<u8>(), 0)),
    ("the kernel's log", |_| call!(SYS_syslog, 10, null::<u8>(), 0)),
    ("reboot", |_| call!(SYS_reboot, 0, 0, 0, null::<u8>())),
    ("kexec_load", |_| call!(SYS_kexec_load, 0, 0, null::<u8>(), -1)),
    ("init_module", |_| call!(SYS_init_module, null::<u8>(), 0, c"".as_ptr())),
    ("finit_module", |_| call!(SYS_finit_module, -1, c"".as_ptr(), 0)),
    ("delete_module", |_| call!(SYS_delete_module, c"nonexistent".as_ptr(), 0)),
    ("swapon", |_| call!(SYS_swapon, c"/nonexistent".as_ptr(), 0)),
    ("swapoff", |_| call!(SYS_swapoff, c"/nonexistent".as_ptr())),
    ("acct", |_| call!(SYS_acct, c"/nonexistent".as_ptr())),
    ("quotactl", |_| call!(SYS_quotactl, -1, c"/nonexistent".as_ptr(), 0, null::<u8>())),
    ("sethostname", |_| call!(SYS_sethostname, null::<u8>(), -1)),
    ("settimeofday", |_| call!(SYS_settimeofday, null::<u8>(), null::<u8>())),
    ("clock_settime", |_| call!(SYS_clock_settime, 99, null::<u8>())),
    ("adjtimex", |_| {
        // Without a mode the call only reads.
        let mut state = [0_u64; 32];
        call!(SYS_adjtimex, state.as_mut_ptr())
    }),
    ("a timer", |_| {
        let mut timer = 0_i32;
        call!(SYS_timer_create, libc::CLOCK_MONOTONIC, null::<u8>(), &raw mut timer)
    }),
    ("an interval timer", |_| {
        let none = [0_u64; 4];
        call!(SYS_setitimer, libc::ITIMER_REAL, none.as_ptr(), null::<u8>())
    }),
    ("the system's name", |_| {
        let mut name = [0_u8; 512];
        call!(SYS_uname, name.as_mut_ptr())
    }),
    ("the system's load", |_| {
        let mut load = [0_u8; 256];
        call!(SYS_sysinfo, load.as_mut_ptr())
    }),
];
