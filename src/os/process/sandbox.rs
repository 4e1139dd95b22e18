//! The walls around a process that reads strangers' bytes: no file, no socket, no program, no new descriptor, and of
//! system calls only those that waiting, receiving and passing on take. `tests/e2e/hostile.rs` runs against them.

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

/// SIOCGIFFLAGS of netdevice(7): libpcap asks whether an interface is still up.
const SIOCGIFFLAGS: u64 = 0x8913;
/// PACKET_STATISTICS of packet(7): how many frames the ring had no room for.
const PACKET_STATISTICS: u64 = 6;
const STDIN: u64 = 0;
const STDERR: u64 = 2;

/// Builds the walls, for good. Sending stays possible on `channel` alone, writing on standard error alone, waiting
/// for at most so many descriptors. Returns which Landlock this kernel has, for the log.
///
/// # Errors
/// When the kernel does not take the second or third. The process must end then.
pub fn enter(channel: &impl AsFd, waited_for: usize) -> io::Result<ABI> {
    let landlock = close_files();
    close_descriptors(waited_for)?;
    close_calls(channel)?;
    Ok(landlock)
}

/// Landlock, as far as this kernel has it: no file of any kind, no TCP and UDP, no socket of others, no signal.
#[must_use]
pub fn close_files() -> ABI {
    effective(all_closed().and_then(RulesetCreated::restrict_self))
}

/// What the kernel does not know yet is left out; nothing of it is needed.
fn all_closed() -> Result<RulesetCreated, RulesetError> {
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

/// Landlock for who only reads: no file but in these folders, and there only to read.
#[must_use]
pub fn only_read_in(folders: &[PathBuf]) -> ABI {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let restricted = all_closed()
        .and_then(|rules| rules.add_rules(path_beneath_rules(folders, reading)))
        .and_then(RulesetCreated::restrict_self);
    effective(restricted)
}

/// No descriptor besides those that are open. The limit is not 0, as poll(2) takes no more of them than it.
///
/// # Errors
/// When the system refuses.
pub fn close_descriptors(waited_for: usize) -> io::Result<()> {
    let limit = u64::try_from(waited_for).map_err(io::Error::other)?;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
    Ok(())
}

/// seccomp: what is not listed fails, and ends a build that is meant for tests.
///
/// # Errors
/// When the kernel does not take it.
pub fn close_calls(channel: &impl AsFd) -> io::Result<()> {
    let channel = u64::try_from(channel.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    filter(channel).and_then(|program| apply_filter(&program)).map_err(io::Error::other)
}

fn filter(channel: u64) -> Result<BpfProgram, Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let denied = if cfg!(debug_assertions) {
        SeccompAction::KillProcess
    } else {
        SeccompAction::Errno(libc::EPERM.unsigned_abs())
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        always().into_iter().map(|call| (call, Vec::new())).collect();
    for (call, ways) in sometimes(channel) {
        rules.insert(call, ways.into_iter().map(rule).collect::<Result<_, _>>()?);
    }
    Ok(SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?.try_into()?)
}

/// Calls that may be made with any arguments: waiting, receiving, memory, the end.
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

/// Calls that may be made in these ways alone; all of a way must be so.
fn sometimes(channel: u64) -> Vec<(i64, Vec<ArgumentRules>)> {
    vec![
        (libc::SYS_sendto, vec![vec![Must::Be(0, channel), Must::BeNull(4)]]),
        (libc::SYS_write, vec![vec![Must::Be(0, STDERR)]]),
        // Through a Unix socket a descriptor could come in; these may be such.
        (libc::SYS_recvmsg, vec![[STDIN, STDERR, channel].map(|unix| Must::NotBe(0, unix)).into()]),
        // Why a capture failed, and how much it lost. SO_PEERPIDFD would be a handle on the keeper.
        (
            libc::SYS_getsockopt,
            vec![
                vec![Must::Be(1, bits(libc::SOL_SOCKET)), Must::Be(2, bits(libc::SO_ERROR))],
                vec![Must::Be(1, bits(libc::SOL_PACKET)), Must::Be(2, PACKET_STATISTICS)],
            ],
        ),
        (libc::SYS_ioctl, vec![vec![Must::Be(1, SIOCGIFFLAGS)]]),
        // For the heap: not to be run, not of a file, not shared.
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
        // Not the ones that lend priorities, in which kernels have had holes (CVE-2014-3153).
        (
            libc::SYS_futex,
            [libc::FUTEX_WAIT, libc::FUTEX_WAKE, libc::FUTEX_WAIT_BITSET, libc::FUTEX_WAKE_BITSET]
                .map(|operation| vec![Must::Have(1, bits(operation), bits(libc::FUTEX_CMD_MASK))])
                .into(),
        ),
        // Others name a process: how long the keeper computes tells what it does.
        (
            libc::SYS_clock_gettime,
            [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC].map(|clock| vec![Must::Be(0, bits(clock))]).into(),
        ),
    ]
}

/// A way to make a call.
type ArgumentRules = Vec<Must>;

/// What the argument at this place must be. Kernels read 32 bits of all of these but a pointer.
enum Must {
    Be(u8, u64),
    NotBe(u8, u64),
    /// These bits of those in the mask that follows.
    Have(u8, u64, u64),
    BeNull(u8),
}

fn rule(way: ArgumentRules) -> Result<SeccompRule, Error> {
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
    let conditions: Result<_, _> = way.into_iter().map(condition).collect();
    Ok(SeccompRule::new(conditions?)?)
}

fn bits(value: i32) -> u64 {
    value.cast_unsigned().into()
}
