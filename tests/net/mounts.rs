//! One mount namespace, held by a descriptor: whatever is mounted in it goes with it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::limited;

/// A mount namespace that tells no other of its mounts.
pub(crate) struct Mounts(File);

impl Mounts {
    /// One that has what there is.
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNS).expect("a new mount namespace");
            File::open("/proc/thread-self/ns/mnt").unwrap()
        };
        let mounts = Self(thread::spawn(make).join().expect("a namespace"));
        mounts.run("mount", &["--make-rprivate", "/"]);
        mounts
    }

    /// Mounts something there, as mount(8) is told with these words.
    pub(crate) fn mount(&self, words: &[&str], place: &Path) {
        self.run("mount", &[words, &[place.to_str().unwrap()]].concat());
    }

    /// What a command begins with that runs in there.
    pub(crate) fn words(&self) -> [String; 2] {
        // A descriptor of ours: the command must be started while this lives.
        let entrance = format!("--mount=/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd());
        ["nsenter".to_owned(), entrance]
    }

    /// Runs a program in there to its end, which must be good; what it printed.
    pub(crate) fn run(&self, program: &str, words: &[&str]) -> String {
        let [nsenter, entrance] = self.words();
        let output = limited(&nsenter).arg(entrance).arg(program).args(words).output().unwrap();
        assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
