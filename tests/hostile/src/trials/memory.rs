//! Memory that is executable, shared, or more than a watcher needs; and objects made from memory.

use std::ptr::null;

use super::Trial;
use crate::call::Outcome;

const PAGE: usize = 4096;
const OURS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const WRITABLE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const FUTEX_LOCK_PI: i32 = 6;
const FUTEX_CMP_REQUEUE_PI: i32 = 12;

/// Trials that the limit on memory denies.
pub(super) const MORE: &[Trial] = &[
    ("a gigabyte of memory", |_| map(1 << 30, WRITABLE, OURS)),
    ("a gigabyte that grows downwards", |_| map(1 << 30, WRITABLE, OURS | libc::MAP_GROWSDOWN)),
    ("a terabyte that is only read", |_| map(1 << 40, libc::PROT_READ, OURS | libc::MAP_NORESERVE)),
    ("a gigabyte by mremap", |_| {
        let page = map(PAGE, WRITABLE, OURS)?;
        call!(SYS_mremap, page, PAGE, 1 << 30, libc::MREMAP_MAYMOVE)
    }),
];

pub(super) const TRIALS: &[Trial] = &[
    ("mmap executable memory", |_| map(PAGE, libc::PROT_READ | libc::PROT_EXEC, OURS)),
    ("mmap writable and executable memory", |_| map(PAGE, WRITABLE | libc::PROT_EXEC, OURS)),
    ("mmap shared", |_| map(PAGE, WRITABLE, libc::MAP_SHARED | libc::MAP_ANONYMOUS)),
    ("mmap a descriptor", |_| {
        call!(SYS_mmap, 0, PAGE, libc::PROT_READ, libc::MAP_PRIVATE, libc::STDERR_FILENO, 0)
            .or_else(not_mappable)
    }),
    ("mprotect memory executable", |_| {
        call!(SYS_mprotect, map(PAGE, WRITABLE, OURS)?, PAGE, libc::PROT_READ | libc::PROT_EXEC)
    }),
    ("mprotect code writable", |_| {
        let code = (crate::main as *const ()).addr() & !(PAGE - 1);
        call!(SYS_mprotect, code, PAGE, WRITABLE | libc::PROT_EXEC)
    }),
    ("pkey_mprotect memory executable", |_| {
        call!(SYS_pkey_mprotect, map(PAGE, WRITABLE, OURS)?, PAGE, libc::PROT_READ | libc::PROT_EXEC, -1)
    }),
    ("mremap to a fixed address", |_| {
        let (from, to) = (map(PAGE, WRITABLE, OURS)?, map(PAGE, WRITABLE, OURS)?);
        call!(SYS_mremap, from, PAGE, PAGE, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, to)
    }),
    ("remap_file_pages", |_| call!(SYS_remap_file_pages, 0, 0, 0, 0, 0)),
    ("merge memory with others' (KSM)", |_| {
        call!(SYS_madvise, map(PAGE, WRITABLE, OURS)?, PAGE, libc::MADV_MERGEABLE)
    }),
    ("page memory out", |_| call!(SYS_madvise, map(PAGE, WRITABLE, OURS)?, PAGE, libc::MADV_PAGEOUT)),
    ("ask which pages are in memory", |_| {
        let mut resident = 0_u8;
        call!(SYS_mincore, map(PAGE, WRITABLE, OURS)?, PAGE, &raw mut resident)
    }),
    ("keep memory from being paged out", |_| call!(SYS_mlock, map(PAGE, WRITABLE, OURS)?, PAGE)),
    ("keep all memory from being paged out", |_| call!(SYS_mlockall, -1)),
    ("secret memory", |_| call!(SYS_memfd_secret, 0)),
    ("the memory policy", |_| call!(SYS_set_mempolicy, 0, null::<u8>(), 0)),
    ("shared memory of System V", |_| call!(SYS_shmget, 0x7370_6b6e, PAGE, 0)),
    ("attach shared memory", |_| call!(SYS_shmat, -1, null::<u8>(), 0)),
    ("a message queue of System V", |_| call!(SYS_msgget, 0x7370_6b6e, 0)),
    ("a semaphore of System V", |_| call!(SYS_semget, 0x7370_6b6e, 1, 0)),
    ("a message queue of POSIX", |_| call!(SYS_mq_open, c"spa-knock".as_ptr(), 0, 0, null::<u8>())),
    ("a lock with priority inheritance", |_| {
        let lock = 0_u32;
        call!(SYS_futex, &raw const lock, FUTEX_LOCK_PI, 0, null::<u8>(), null::<u8>(), 0)
    }),
    ("a private lock with priority inheritance", |_| {
        let lock = 0_u32;
        let operation = FUTEX_CMP_REQUEUE_PI | libc::FUTEX_PRIVATE_FLAG;
        call!(SYS_futex, &raw const lock, operation, 1, 0, &raw const lock, 0)
    }),
    ("wait for several locks", |_| call!(SYS_futex_waitv, null::<u8>(), 0, 0, null::<u8>(), 0)),
    ("memory barriers in other processes", |_| call!(SYS_membarrier, 0, 0, 0)),
];

fn map(length: usize, protection: i32, flags: i32) -> Outcome {
    call!(SYS_mmap, 0, length, protection, flags, -1, 0)
}

/// A pipe cannot be mapped: mapping one that is only open for writing fails with EACCES.
fn not_mappable(errno: i32) -> Outcome {
    if errno == libc::EACCES { Ok(0) } else { Err(errno) }
}
