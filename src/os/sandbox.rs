//! The walls around a process that reads strangers' bytes: no file, no socket, no program, and of system calls only
//! those that waiting, receiving and passing on take.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// SIOCGIFFLAGS of netdevice(7): libpcap asks whether an interface is still up.
const SIOCGIFFLAGS: u64 = 0x8913;
const STDERR: u64 = 2;

/// Builds the walls, for good. Sending stays possible on `channel` alone, writing on standard error alone. Returns
/// how much of the first wall this kernel has, for the log.
///
/// # Errors
/// When the kernel does not take the second. The process must end then.
pub fn enter(channel: &impl AsFd) -> io::Result<&'static str> {
    let files = close_files();
    let channel = u64::try_from(channel.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    filter_calls(channel).map_err(io::Error::other)?;
    Ok(files)
}

/// Landlock, as far as this kernel has it: no file of any kind, no TCP, no abstract socket of others, no signal.
fn close_files() -> &'static str {
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    match restricted.map(|status| status.ruleset) {
        Ok(RulesetStatus::FullyEnforced) => "full",
        Ok(RulesetStatus::PartiallyEnforced) => "partial",
        Ok(RulesetStatus::NotEnforced) | Err(_) => "none",
    }
}

/// seccomp: what is not listed fails, and ends a build that is meant for tests.
fn filter_calls(channel: u64) -> Result<(), seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let denied = if cfg!(debug_assertions) {
        SeccompAction::KillProcess
    } else {
        SeccompAction::Errno(libc::EPERM.unsigned_abs())
    };
    let program: BpfProgram =
        SeccompFilter::new(rules(channel)?, denied, SeccompAction::Allow, arch)?.try_into()?;
    apply_filter(&program)
}

fn rules(channel: u64) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        always().into_iter().map(|call| (call, Vec::new())).collect();
    let only =
        |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let no_address = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    let not_executable = SeccompCondition::new(
        2,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(u64::from(libc::PROT_EXEC.unsigned_abs())),
        0,
    )?;
    for (call, conditions) in [
        (libc::SYS_sendto, vec![only(0, channel)?, no_address]),
        (libc::SYS_write, vec![only(0, STDERR)?]),
        (libc::SYS_mmap, vec![not_executable]),
        (libc::SYS_ioctl, vec![only(1, SIOCGIFFLAGS)?]),
        // The standard library asks this before it closes a descriptor, in builds for tests.
        (libc::SYS_fcntl, vec![only(1, u64::from(libc::F_GETFD.unsigned_abs()))?]),
    ] {
        rules.insert(call, vec![SeccompRule::new(conditions)?]);
    }
    Ok(rules)
}

/// Calls that may be made with any arguments: waiting, receiving, memory, time, the end.
fn always() -> Vec<i64> {
    vec![
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_read,
        libc::SYS_getsockopt,
        libc::SYS_getsockname,
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_rseq,
        libc::SYS_clock_gettime,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
        libc::SYS_close,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]
}
