//! The sandbox of a process that reads untrusted bytes: no files, sockets, programs or new descriptors, and only those
//! system calls that waiting, receiving and sending to the keeper need. `tests/e2e/hostile.rs` attacks it.

#[cfg(feature = "fleet")]
mod outgoing;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

#[cfg(feature = "fleet")]
pub use outgoing::{only_connect_to, restrict_calls_of_threads};

/// SIOCGIFFLAGS of netdevice(7): libpcap checks whether an interface is still up.
const SIOCGIFFLAGS: u64 = 0x8913;
/// PACKET_STATISTICS of packet(7): how many frames did not fit into the ring.
const PACKET_STATISTICS: u64 = 6;
const STDIN: u64 = 0;
const STDERR: u64 = 2;

/// Enters the sandbox, permanently. Sending stays possible only on `channel`, writing only to standard error, waiting
/// only for `waited_for` descriptors. Returns which Landlock version this kernel has, for the log.
///
/// # Errors
/// When the kernel refuses the descriptor limit or the system call filter. The process must exit then.
pub fn enter(channel: &impl AsFd, waited_for: usize) -> io::Result<ABI> {
    let landlock = deny_files();
    deny_new_descriptors(waited_for)?;
    restrict_calls(channel)?;
    Ok(landlock)
}

/// Landlock, as far as this kernel supports it: denies all files, TCP and UDP, sockets of other processes, and signals.
#[must_use]
pub fn deny_files() -> ABI {
    effective(all_denied().and_then(RulesetCreated::restrict_self))
}

/// Denies everything that Landlock can deny; what this kernel does not support is left out.
fn all_denied() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V10))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V10)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V10)))
        .and_then(Ruleset::create)
}

fn effective(restricted: Result<RestrictionStatus, RulesetError>) -> ABI {
    match restricted {
        Ok(status) if status.ruleset != RulesetStatus::NotEnforced => status.landlock.into(),
        _ => ABI::Unsupported,
    }
}

/// Landlock for a process that only reads: permits reading in these folders, and denies everything else.
#[must_use]
pub fn only_read_in(folders: &[PathBuf]) -> ABI {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let restricted = all_denied()
        .and_then(|rules| rules.add_rules(path_beneath_rules(folders, reading)))
        .and_then(RulesetCreated::restrict_self);
    effective(restricted)
}

/// Denies new descriptors. The limit is not 0, because poll(2) accepts at most that many descriptors.
///
/// # Errors
/// When the system refuses.
pub fn deny_new_descriptors(waited_for: usize) -> io::Result<()> {
    let limit = u64::try_from(waited_for).map_err(io::Error::other)?;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
    Ok(())
}

/// seccomp: system calls that are not listed fail; in debug builds, they kill the process.
///
/// # Errors
/// When the kernel refuses.
pub fn restrict_calls(channel: &impl AsFd) -> io::Result<()> {
    let channel = u64::try_from(channel.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let mut conditional = conditional(channel);
    conditional.extend(memory_and_clocks());
    filter(&always(), conditional).and_then(|program| apply_filter(&program)).map_err(io::Error::other)
}

fn filter(always: &[i64], conditional: Vec<(i64, Vec<ArgumentRules>)>) -> Result<BpfProgram, Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let denied = if cfg!(debug_assertions) {
        SeccompAction::KillProcess
    } else {
        SeccompAction::Errno(libc::EPERM.unsigned_abs())
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = always.iter().map(|call| (*call, Vec::new())).collect();
    for (call, alternatives) in conditional {
        rules.insert(call, alternatives.into_iter().map(rule).collect::<Result<_, _>>()?);
    }
    Ok(SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?.try_into()?)
}

/// Calls permitted with any arguments: waiting, receiving, memory, exiting.
fn always() -> Vec<i64> {
    vec![
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
    ]
}

/// Calls permitted with one of these sets of conditions, all of which must hold.
fn conditional(channel: u64) -> Vec<(i64, Vec<ArgumentRules>)> {
    vec![
        (libc::SYS_sendto, vec![vec![Must::Be(0, channel), Must::BeNull(4)]]),
        (libc::SYS_write, vec![vec![Must::Be(0, STDERR)]]),
        // A Unix socket could deliver a descriptor, and these may be Unix sockets.
        (libc::SYS_recvmsg, vec![[STDIN, STDERR, channel].map(|unix| Must::NotBe(0, unix)).into()]),
        // For the reason of a failed capture, and its losses. SO_PEERPIDFD would provide a handle to the keeper.
        (
            libc::SYS_getsockopt,
            vec![
                vec![Must::Be(1, bits(libc::SOL_SOCKET)), Must::Be(2, bits(libc::SO_ERROR))],
                vec![Must::Be(1, bits(libc::SOL_PACKET)), Must::Be(2, PACKET_STATISTICS)],
            ],
        ),
        (libc::SYS_ioctl, vec![vec![Must::Be(1, SIOCGIFFLAGS)]]),
    ]
}

/// Conditional calls that every process needs.
fn memory_and_clocks() -> Vec<(i64, Vec<ArgumentRules>)> {
    vec![
        // For the heap: not executable, not of a file, not shared.
        (
            libc::SYS_mmap,
            vec![vec![
                Must::Have(2, 0, bits(libc::PROT_EXEC)),
                Must::Have(
                    3,
                    bits(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
                    bits(libc::MAP_TYPE | libc::MAP_ANONYMOUS),
                ),
            ]],
        ),
        (libc::SYS_mremap, vec![vec![Must::Be(3, bits(libc::MREMAP_MAYMOVE))]]),
        (
            libc::SYS_madvise,
            [libc::MADV_DONTNEED, libc::MADV_FREE].map(|advice| vec![Must::Be(2, bits(advice))]).into(),
        ),
        // Without the operations for priority inheritance, in which kernels have had holes (CVE-2014-3153).
        (
            libc::SYS_futex,
            [libc::FUTEX_WAIT, libc::FUTEX_WAKE, libc::FUTEX_WAIT_BITSET, libc::FUTEX_WAKE_BITSET]
                .map(|operation| vec![Must::Have(1, bits(operation), bits(libc::FUTEX_CMD_MASK))])
                .into(),
        ),
        // Other clocks belong to a process: the keeper's CPU time reveals what it does.
        (
            libc::SYS_clock_gettime,
            [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC].map(|clock| vec![Must::Be(0, bits(clock))]).into(),
        ),
    ]
}

/// Conditions for the arguments of a call.
type ArgumentRules = Vec<Must>;

/// A condition for the argument with this index. Kernels read 32 bits of all of these except a pointer.
enum Must {
    Be(u8, u64),
    NotBe(u8, u64),
    /// Value of the bits in the mask that follows.
    Have(u8, u64, u64),
    BeNull(u8),
}

fn rule(conditions: ArgumentRules) -> Result<SeccompRule, Error> {
    use SeccompCmpArgLen::{Dword, Qword};
    let condition = |must| {
        let (argument, length, operator, value) = match must {
            Must::Be(argument, value) => (argument, Dword, SeccompCmpOp::Eq, value),
            Must::NotBe(argument, value) => (argument, Dword, SeccompCmpOp::Ne, value),
            Must::Have(argument, value, mask) => (argument, Dword, SeccompCmpOp::MaskedEq(mask), value),
            Must::BeNull(argument) => (argument, Qword, SeccompCmpOp::Eq, 0),
        };
        SeccompCondition::new(argument, length, operator, value)
    };
    let conditions: Result<_, _> = conditions.into_iter().map(condition).collect();
    Ok(SeccompRule::new(conditions?)?)
}

fn bits(value: i32) -> u64 {
    value.cast_unsigned().into()
}
