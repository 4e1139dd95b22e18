//! A compromised watcher. It starts and confines itself with the same functions as the real one. Then it does what a
//! watcher must still be able to do, and tries everything that it must not be able to do. It prints one line for each
//! attempt to standard error. `tests/e2e/hostile.rs` starts it as the keeper would and reads these lines.
#![allow(clippy::disallowed_methods, reason = "reads its command line, which a watcher does not")]

#[macro_use]
mod call;
mod bystander;
mod capacity;
mod isolated;
mod payloads;
mod sweep;
mod target;
mod trials;
mod works;

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use spa_knock::capture::{Capture, PcapLive, Socket};
use spa_knock::os::net::seqpacket::{Channel, ReceiveResult};
use spa_knock::os::net::udp::UdpPort;
use spa_knock::os::poll;
use spa_knock::os::process::privileges::{self, Identity};
use spa_knock::os::process::{sandbox, signals};

use payloads::Payloads;
use target::Target;
use trials::Kind;

/// Time limit of the program in seconds; enough for all trials on a busy machine.
const LIFETIME_S: u32 = 300;

/// The parts of the sandbox that are active.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sandbox {
    /// None, and with root's privileges: shows that the trials can succeed.
    None,
    /// Only the unprivileged user: shows that a file trial does not fail because of file permissions.
    User,
    /// Only Landlock.
    Files,
    /// Only resource limits.
    Limits,
    /// Only seccomp.
    Calls,
    /// All of them, as for the real watcher.
    All,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let [_, mode, source, port, scratch] = args.as_slice() else { return ExitCode::FAILURE };
    match run(mode, source, port, scratch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mode: &str, source: &str, port: &str, scratch: &str) -> io::Result<()> {
    // SAFETY: the call accesses no memory. The alarm kills a process that hangs.
    unsafe { libc::alarm(LIFETIME_S) };
    let channel = Channel::from_stdin()?;
    signals::ignore_all()?;
    let port = port.parse().map_err(io::Error::other)?;
    let mut capture: Box<dyn Capture> = match source {
        "socket" => Box::new(Socket::new(UdpPort::from_stdout()?, port)),
        "fwknop" => Box::new(Payloads::open(port).map_err(io::Error::other)?),
        "any" => Box::new(PcapLive::open(None, port, None).map_err(io::Error::other)?),
        interface => Box::new(PcapLive::open(Some(interface), port, None).map_err(io::Error::other)?),
    };
    let identity = privileges::unprivileged("nobody")?;
    let target = Target::new(&channel, &*capture, source, scratch, bystander::start(identity)?);

    match mode {
        "none" => isolated::run(&target, Sandbox::None, identity, &channel),
        "user" => isolated::run(&target, Sandbox::User, identity, &channel),
        "files" => isolated::run(&target, Sandbox::Files, identity, &channel),
        "limits" => isolated::run(&target, Sandbox::Limits, identity, &channel),
        "calls" => attack(Sandbox::Calls, identity, &channel, &mut *capture, &target)?,
        "all" => attack(Sandbox::All, identity, &channel, &mut *capture, &target)?,
        "all, with many clients" => {
            enter(Sandbox::All, identity, &channel)?;
            capacity::fill_watcher();
        }
        "all, with a foreign call" => {
            enter(Sandbox::All, identity, &channel)?;
            sweep::call_of_another_architecture();
        }
        _ => return Err(io::Error::other("unknown mode")),
    }
    println("done");
    wait_for_keeper(&channel)
}

/// Runs all trials in this process, because seccomp does not allow child processes.
fn attack(
    active: Sandbox,
    identity: Option<Identity>,
    channel: &Channel,
    capture: &mut dyn Capture,
    target: &Target,
) -> io::Result<()> {
    enter(active, identity, channel)?;
    works::all(channel, capture);
    for (name, attempt) in trials::of(target, &Kind::ALL) {
        println(&trials::line(name, attempt(target)));
    }
    sweep::every_other_call();
    Ok(())
}

/// Confines this process as `src/watcher/native.rs` does, or with only a part of the sandbox.
fn enter(active: Sandbox, identity: Option<Identity>, channel: &Channel) -> io::Result<()> {
    // The channel and the capture source.
    let polled = 2;
    if active == Sandbox::None {
        return Ok(());
    }
    privileges::confine(identity)?;
    match active {
        Sandbox::None | Sandbox::User => {}
        Sandbox::Files => println(&format!("landlock {}", sandbox::deny_files())),
        Sandbox::Limits => sandbox::deny_new_descriptors(polled)?,
        Sandbox::Calls => sandbox::restrict_calls(channel)?,
        Sandbox::All => {
            let landlock = sandbox::enter(channel, polled)?;
            println(&format!("landlock {landlock}"));
        }
    }
    Ok(())
}

/// Waits until the keeper closes the channel, so that the keeper can examine this process before it exits.
fn wait_for_keeper(channel: &Channel) -> io::Result<()> {
    let mut buffer = [0; 512];
    loop {
        poll::readable(&[channel.as_fd()], Duration::from_secs(10))?;
        if channel.try_recv(&mut buffer)? == ReceiveResult::Closed {
            // In the sandbox a descriptor can be closed only by exiting.
            std::process::exit(0);
        }
    }
}

/// Prints a line to standard error in a single write.
fn println(line: &str) {
    let line = format!("{line}\n");
    // If this fails, the line is missing, which the test reports as a failure.
    let _ = call!(SYS_write, libc::STDERR_FILENO, line.as_ptr(), line.len());
}
