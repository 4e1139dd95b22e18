//! Operations on files and folders; file permissions allow all of them.

use std::ptr::null;

use super::Trial;

/// Trials that Landlock denies too.
pub(super) const TRIALS: &[Trial] = &[
    ("open a file to read", |t| call!(SYS_openat, libc::AT_FDCWD, t.file("file").as_ptr(), libc::O_RDONLY)),
    ("open a file to write", |t| call!(SYS_openat, libc::AT_FDCWD, t.file("file").as_ptr(), libc::O_WRONLY)),
    ("open a file to append", |t| {
        let flags = libc::O_WRONLY | libc::O_APPEND;
        call!(SYS_openat, libc::AT_FDCWD, t.file("file").as_ptr(), flags)
    }),
    ("open a file with openat2", |t| {
        let how = [0_u64; 3];
        call!(SYS_openat2, libc::AT_FDCWD, t.file("file").as_ptr(), how.as_ptr(), size_of_val(&how))
    }),
    ("open a folder", |t| {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        call!(SYS_openat, libc::AT_FDCWD, t.file("").as_ptr(), flags)
    }),
    ("create a file", |t| {
        let flags = libc::O_WRONLY | libc::O_CREAT;
        call!(SYS_openat, libc::AT_FDCWD, t.file("created").as_ptr(), flags, 0o600)
    }),
    ("truncate a file", |t| call!(SYS_truncate, t.file("file").as_ptr(), 0)),
    ("execve", |_| {
        call!(SYS_execve, c"/bin/true".as_ptr(), [c"true".as_ptr(), null()].as_ptr(), null::<u8>())
    }),
    ("execveat", |_| {
        let argv = [c"true".as_ptr(), null()];
        call!(SYS_execveat, libc::AT_FDCWD, c"/bin/true".as_ptr(), argv.as_ptr(), null::<u8>(), 0)
    }),
    ("remove a file", |t| call!(SYS_unlinkat, libc::AT_FDCWD, t.file("remove").as_ptr(), 0)),
    ("remove a folder", |t| {
        call!(SYS_unlinkat, libc::AT_FDCWD, t.file("folder").as_ptr(), libc::AT_REMOVEDIR)
    }),
    ("rename a file", |t| {
        let (from, to) = (t.file("rename"), t.file("renamed"));
        call!(SYS_renameat2, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), 0)
    }),
    ("link a file", |t| {
        let (from, to) = (t.file("file"), t.file("linked"));
        call!(SYS_linkat, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), 0)
    }),
    ("make a symbolic link", |t| {
        call!(SYS_symlinkat, t.file("file").as_ptr(), libc::AT_FDCWD, t.file("symlink").as_ptr())
    }),
    ("make a folder", |t| call!(SYS_mkdirat, libc::AT_FDCWD, t.file("made").as_ptr(), 0o700)),
    ("make a FIFO", |t| {
        call!(SYS_mknodat, libc::AT_FDCWD, t.file("fifo").as_ptr(), libc::S_IFIFO | 0o600, 0)
    }),
];

/// Trials that Landlock does not cover.
pub(super) const ONLY_CALLS: &[Trial] = &[
    #[cfg(target_arch = "x86_64")]
    ("open", |t| call!(SYS_open, t.file("file").as_ptr(), libc::O_RDWR)),
    #[cfg(target_arch = "x86_64")]
    ("creat", |t| call!(SYS_creat, t.file("by-creat").as_ptr(), 0o600)),
    #[cfg(target_arch = "x86_64")]
    ("rename", |t| call!(SYS_rename, t.file("file").as_ptr(), t.file("file").as_ptr())),
    #[cfg(target_arch = "x86_64")]
    ("unlink", |t| call!(SYS_unlink, t.file("nothing").as_ptr())),
    #[cfg(target_arch = "x86_64")]
    ("symlink", |t| call!(SYS_symlink, c"/".as_ptr(), t.file("by-symlink").as_ptr())),
    ("list a folder", |t| {
        let mut entries = [0_u8; 512];
        call!(SYS_getdents64, t.channel, entries.as_mut_ptr(), entries.len())
    }),
    ("look at a file", |t| {
        let mut status = [0_u8; 256];
        call!(SYS_statx, libc::AT_FDCWD, t.file("file").as_ptr(), 0, libc::STATX_ALL, status.as_mut_ptr())
    }),
    ("look at a file with newfstatat", |t| {
        let mut status = [0_u8; 256];
        call!(SYS_newfstatat, libc::AT_FDCWD, t.file("file").as_ptr(), status.as_mut_ptr(), 0)
    }),
    ("ask whether a file is readable", |t| {
        call!(SYS_faccessat, libc::AT_FDCWD, t.file("file").as_ptr(), libc::R_OK)
    }),
    ("read a link", |_| {
        let mut target = [0_u8; 64];
        call!(SYS_readlinkat, libc::AT_FDCWD, c"/proc/self/exe".as_ptr(), target.as_mut_ptr(), 64)
    }),
    ("change to a folder", |t| call!(SYS_chdir, t.file("").as_ptr())),
    ("change the root folder", |t| call!(SYS_chroot, t.file("").as_ptr())),
    ("change a file's mode", |t| call!(SYS_fchmodat, libc::AT_FDCWD, t.file("file").as_ptr(), 0o666)),
    ("change a file's owner", |t| call!(SYS_fchownat, libc::AT_FDCWD, t.file("file").as_ptr(), -1, -1, 0)),
    ("change a file's times", |t| {
        call!(SYS_utimensat, libc::AT_FDCWD, t.file("file").as_ptr(), null::<u8>(), 0)
    }),
    ("change a file's attributes", |t| {
        call!(SYS_setxattr, t.file("file").as_ptr(), c"user.x".as_ptr(), c"".as_ptr(), 0, 0)
    }),
    ("ask for a file system's state", |_| {
        let mut state = [0_u8; 256];
        call!(SYS_statfs, c"/".as_ptr(), state.as_mut_ptr())
    }),
    ("mount", |_| {
        let at = c"/nonexistent".as_ptr();
        call!(SYS_mount, c"none".as_ptr(), at, c"tmpfs".as_ptr(), 0, null::<u8>())
    }),
    ("unmount", |_| call!(SYS_umount2, c"/nonexistent".as_ptr(), 0)),
    ("pivot_root", |_| call!(SYS_pivot_root, c"/nonexistent".as_ptr(), c"/nonexistent".as_ptr())),
    ("move_mount", |_| call!(SYS_move_mount, -1, c"".as_ptr(), -1, c"".as_ptr(), 0)),
    ("mount_setattr", |_| call!(SYS_mount_setattr, -1, c"".as_ptr(), 0, null::<u8>(), 0)),
];
