//! A mount namespace, held by a descriptor. Its mounts disappear with it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::limited;

/// A mount namespace whose mounts are invisible to all others.
pub(crate) struct Mounts(File);

impl Mounts {
    /// Creates one with a copy of all current mounts.
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNS).expect("a new mount namespace");
            File::open("/proc/thread-self/ns/mnt").unwrap()
        };
        let mounts = Self(thread::spawn(make).join().expect("a namespace"));
        mounts.run("mount", &["--make-rprivate", "/"]);
        mounts
    }

    /// Runs mount(8) in it with these arguments and this mount point.
    pub(crate) fn mount(&self, args: &[&str], place: &Path) {
        self.run("mount", &[args, &[place.to_str().unwrap()]].concat());
    }

    /// The program and argument that run the command after them in this namespace.
    pub(crate) fn nsenter(&self) -> [String; 2] {
        // The descriptor belongs to this process, so the command must be started while `self` exists.
        let entrance = format!("--mount=/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd());
        ["nsenter".to_owned(), entrance]
    }

    /// Runs a program in it, which must succeed, and returns its standard output.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let [nsenter, entrance] = self.nsenter();
        let output = limited(&nsenter).arg(entrance).arg(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
