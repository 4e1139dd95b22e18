//! The clock of one member, which a test sets while the member runs.
//!
//! libfaketime reads its settings from files and the environment, which the sandboxed processes of a daemon cannot do.
//! Here a library of a few lines adds an offset that is in a page of memory shared with the test. `/etc/ld.so.preload`, in
//! a mount namespace of the member alone, puts it into all of its processes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::net::Mounts;

/// Adds the milliseconds in the file to the wall clock, and to no other clock.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t none, *offset = &none;
static int (*kernel)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    kernel = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int file = open(OFFSET_FILE, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *page = mmap(0, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) offset = page;
    close(file);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    if (!kernel) begin();
    int result = kernel(id, now);
    if (result == 0 && id == CLOCK_REALTIME) {
        int64_t late = *offset, nanos = now->tv_nsec + late % 1000 * 1000000;
        now->tv_sec += late / 1000 + (nanos >= 1000000000) - (nanos < 0);
        now->tv_nsec = (nanos + 1000000000) % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}
"#;

/// How far a clock is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClockOffset {
    /// Not at all.
    None,
    /// It is fast.
    Ahead(Duration),
    /// It is slow.
    Behind(Duration),
}

/// The clock of all processes that are started through its entrance.
pub(super) struct MemberClock {
    mounts: Mounts,
    offset: File,
}

impl MemberClock {
    /// A clock that is right. Its files are in this folder.
    pub(super) fn new(folder: &Path) -> Self {
        let [source, library, offset, etc] =
            ["clock.c", "clock.so", "clock-offset", "etc"].map(|name| folder.join(name));
        fs::write(&source, LIBRARY).unwrap();
        fs::write(&offset, 0_i64.to_ne_bytes()).unwrap();
        let define = format!("-DOFFSET_FILE=\"{}\"", offset.display());
        let compiler = ["cc", "-shared", "-fPIC", "-O1", &define, "-o"];
        run(Command::new(compiler[0]).args(&compiler[1..]).args([&library, &source]));
        run(Command::new("cp").arg("-a").arg("/etc").arg(&etc));
        fs::write(etc.join("ld.so.preload"), format!("{}\n", library.display())).unwrap();
        let mounts = Mounts::new();
        mounts.mount(&["--bind", etc.to_str().unwrap()], Path::new("/etc"));
        Self { mounts, offset: File::options().write(true).open(offset).unwrap() }
    }

    /// Sets the clock, also for processes that run.
    pub(super) fn set(&self, offset: ClockOffset) {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap();
        let millis = match offset {
            ClockOffset::None => 0,
            ClockOffset::Ahead(duration) => millis(duration),
            ClockOffset::Behind(duration) => -millis(duration),
        };
        self.offset.write_all_at(&millis.to_ne_bytes(), 0).unwrap();
    }

    /// A command that runs this program with this clock.
    pub(super) fn command(&self, program: &Path) -> Command {
        let [nsenter, entrance] = self.mounts.nsenter();
        let mut command = Command::new(nsenter);
        command.arg(entrance).arg(program);
        command
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_clock_of_a_running_process_is_set_and_the_clock_of_the_machine_is_not() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    use std::time::{SystemTime, UNIX_EPOCH};

    if !crate::net::is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let clock = MemberClock::new(folder.path());
    // A process that prints the time whenever it reads a line.
    let script = "while read line; do echo ${EPOCHREALTIME%.*}; done";
    let mut command = clock.command(Path::new("/bin/bash"));
    let mut child =
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut ask, mut answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut now = || {
        writeln!(ask).unwrap();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        line.trim().parse::<i64>().unwrap()
    };
    let minute = Duration::from_secs(60);
    for (offset, seconds) in [
        (ClockOffset::None, 0),
        (ClockOffset::Ahead(minute), 60),
        (ClockOffset::Behind(minute), -60),
        (ClockOffset::None, 0),
    ] {
        clock.set(offset);
        let true_now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let difference = now() - i64::try_from(true_now).unwrap() - seconds;
        assert!((-1..=1).contains(&difference), "{offset:?}: {difference} s");
    }
    drop(ask);
    child.wait().unwrap();
}
