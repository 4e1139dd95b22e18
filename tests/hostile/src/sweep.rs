//! Tries every system call number that no other trial uses.

use crate::call::raw;
use crate::println;

/// Higher than the system call numbers of all kernels, which have reached about 470.
const END: libc::c_long = 1024;
/// Bit of the x32 ABI's system call numbers (asm/unistd.h). Such numbers could bypass a list of ordinary numbers.
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;

/// Calls that the sandbox allows, some only with certain arguments. Their other arguments are separate trials.
const LISTED: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_getsockname,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_rseq,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_sendto,
    libc::SYS_write,
    libc::SYS_recvmsg,
    libc::SYS_getsockopt,
    libc::SYS_ioctl,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
];

/// uretprobe and uprobe, which libc does not define yet. Newer kernels do not apply seccomp filters to them. They kill
/// a process that makes these calls, except at a probe that root has set.
#[cfg(target_arch = "x86_64")]
const TRACERS: [libc::c_long; 2] = [335, 336];

/// Makes all other calls. Prints one line for all that are denied, and one line for each that is not.
pub(crate) fn every_other_call() {
    let others = (0..END).filter(|number| !LISTED.contains(number));
    #[cfg(target_arch = "x86_64")]
    let others = others.filter(|number| !TRACERS.contains(number)).chain((0..END).map(|number| X32 | number));
    let mut denied = 0;
    for number in others {
        // The arguments are invalid: there is no such descriptor, address or process.
        match raw(number, [-1; 6]) {
            Err(libc::EPERM) => denied += 1,
            outcome => println(&format!("ALLOWED call {number:#x} ({outcome:?})")),
        }
    }
    println(&format!("denied {denied} other calls by number EPERM"));
}

/// Calls getpid through the entry for 32-bit programs. Does not return if that is blocked.
pub(crate) fn call_of_another_architecture() {
    #[cfg(target_arch = "x86_64")]
    {
        const GETPID: u64 = 20;
        let returned: u64;
        // SAFETY: the call has no arguments and changes nothing; some kernels clear r8 to r11.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("rax") GETPID => returned,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        println(&format!("ALLOWED a call of another architecture ({returned})"));
    }
}
