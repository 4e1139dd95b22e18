//! The resources that a process has used, as counted by the kernel.

use std::fs;
use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, sysconf};

/// The counts of a process: in total, or since an earlier moment.
pub(crate) struct Load {
    process: Pid,
    /// CPU time in user mode and in the kernel.
    pub(crate) cpu: Duration,
    /// Number of voluntary context switches: the process has waited for something.
    pub(crate) switches: u64,
    /// Number of write system calls, to any file.
    pub(crate) writes: u64,
    /// Number of bytes written to disks.
    pub(crate) disk: u64,
}

impl Load {
    /// The counts now.
    pub(crate) fn of(process: Pid) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();
        let field = |text: &str, name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let (status, io, stat) = (read("status"), read("io"), read("stat"));
        // utime and stime are fields 14 and 15 of proc_pid_stat(5); field 2 ends with the last parenthesis.
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

    /// The difference between now and these counts.
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
