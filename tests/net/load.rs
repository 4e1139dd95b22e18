//! What a process has cost so far, as the kernel counts it.

use std::fs;
use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, sysconf};

/// The counts of a process, from some moment on or since a moment.
pub(crate) struct Load {
    process: Pid,
    /// In user mode and in the kernel.
    pub(crate) cpu: Duration,
    /// How often it has waited for something and was woken.
    pub(crate) switches: u64,
    /// Calls that write, to anything.
    pub(crate) writes: u64,
    /// Bytes that had to go to a disk.
    pub(crate) disk: u64,
}

impl Load {
    /// What it is now.
    pub(crate) fn of(process: Pid) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();
        let field = |text: &str, name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let (status, io, stat) = (read("status"), read("io"), read("stat"));
        // utime and stime are fields 14 and 15 of proc_pid_stat(5); the second ends with the last parenthesis.
        let ticks: u64 = stat
            .rsplit(") ")
            .next()
            .unwrap()
            .split(' ')
            .skip(11)
            .take(2)
            .map(|n| n.parse::<u64>().unwrap())
            .sum();
        let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap().unsigned_abs();
        Self {
            process,
            cpu: Duration::from_millis(ticks * 1_000 / per_second),
            switches: field(&status, "voluntary_ctxt_switches"),
            writes: field(&io, "syscw"),
            disk: field(&io, "write_bytes"),
        }
    }

    /// What has come since.
    pub(crate) fn since(&self) -> Self {
        let now = Self::of(self.process);
        Self {
            process: self.process,
            cpu: now.cpu - self.cpu,
            switches: now.switches - self.switches,
            writes: now.writes - self.writes,
            disk: now.disk - self.disk,
        }
    }
}
