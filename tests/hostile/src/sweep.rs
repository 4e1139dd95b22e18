//! Every system call that is not named elsewhere, by its number.

use crate::call::raw;
use crate::println;

/// Above all numbers that any kernel has: they have reached some 470.
const END: libc::c_long = 1024;
/// Calls of the x32 ABI have this bit (asm/unistd.h), and could be meant by it past a list of plain numbers.
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;

/// What the walls let through, if only in some ways. The other ways are trials of their own.
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

/// uretprobe and uprobe, in no library yet. Newer kernels ask no seccomp filter about them, and end whoever makes them
/// but for a probe that root has set.
#[cfg(target_arch = "x86_64")]
const TRACERS: [libc::c_long; 2] = [335, 336];

/// Makes all others; one line for those that are denied, one each for those that are not.
pub(crate) fn every_other_call() {
    let others = (0..END).filter(|number| !LISTED.contains(number));
    #[cfg(target_arch = "x86_64")]
    let others = others.filter(|number| !TRACERS.contains(number)).chain((0..END).map(|number| X32 | number));
    let mut denied = 0;
    for number in others {
        // Nothing that these stand for exists: no descriptor, no address, no process.
        match raw(number, [-1; 6]) {
            Err(libc::EPERM) => denied += 1,
            outcome => println(&format!("ALLOWED call {number:#x} ({outcome:?})")),
        }
    }
    println(&format!("denied {denied} other calls by number EPERM"));
}

/// getpid through the door for 32-bit programs; does not return where that is shut.
pub(crate) fn call_of_another_architecture() {
    #[cfg(target_arch = "x86_64")]
    {
        const GETPID: u64 = 20;
        let returned: u64;
        // SAFETY: the call takes no arguments and changes nothing; some kernels clear r8 to r11 on the way.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("rax") GETPID => returned,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        println(&format!("ALLOWED a call of another architecture ({returned})"));
    }
}
