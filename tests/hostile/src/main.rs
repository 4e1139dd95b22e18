//! A watcher that somebody has taken over. It does what the real one does until it is confined, through the same
//! functions, then what it must still be able to do, and then tries all that it must not. One line each on standard
//! error; `tests/e2e/hostile.rs` starts it as the keeper would, and reads them.
#![allow(clippy::disallowed_methods, reason = "takes its orders from the command line, as no watcher does")]

#[macro_use]
mod call;
mod bystander;
mod crowd;
mod isolated;
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

use target::Target;
use trials::Kind;

/// Longer than everything takes, also where many others compute.
const LIFETIME_S: u32 = 300;

/// Which walls stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walls {
    /// None, and root's rights: shows that the trials could succeed.
    None,
    /// The other user alone: shows that a file trial does not fail for its permissions.
    User,
    /// Landlock alone.
    Files,
    /// Resource limits alone.
    Limits,
    /// seccomp alone.
    Calls,
    /// All of them, as around the real watcher.
    All,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let [_, walls, source, port, scratch] = words.as_slice() else { return ExitCode::FAILURE };
    match run(walls, source, port, scratch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(walls: &str, source: &str, port: &str, scratch: &str) -> io::Result<()> {
    // SAFETY: a call without memory. Whatever hangs ends.
    unsafe { libc::alarm(LIFETIME_S) };
    let channel = Channel::from_stdin()?;
    signals::ignore_all()?;
    let port = port.parse().map_err(io::Error::other)?;
    let mut capture: Box<dyn Capture> = match source {
        "socket" => Box::new(Socket::new(UdpPort::from_stdout()?, port)),
        "any" => Box::new(PcapLive::open(None, port, None).map_err(io::Error::other)?),
        interface => Box::new(PcapLive::open(Some(interface), port, None).map_err(io::Error::other)?),
    };
    let identity = privileges::unprivileged("nobody")?;
    let target = Target::new(&channel, &*capture, source, scratch, bystander::start(identity)?);

    match walls {
        "none" => isolated::run(&target, Walls::None, identity, &channel),
        "user" => isolated::run(&target, Walls::User, identity, &channel),
        "files" => isolated::run(&target, Walls::Files, identity, &channel),
        "limits" => isolated::run(&target, Walls::Limits, identity, &channel),
        "calls" => attack(Walls::Calls, identity, &channel, &mut *capture, &target)?,
        "all" => attack(Walls::All, identity, &channel, &mut *capture, &target)?,
        "all, and a crowd" => {
            build(Walls::All, identity, &channel)?;
            crowd::fits();
        }
        "all, and a foreign call" => {
            build(Walls::All, identity, &channel)?;
            sweep::call_of_another_architecture();
        }
        _ => return Err(io::Error::other("no such walls")),
    }
    println("done");
    wait_for_the_end(&channel)
}

/// In this very process, as where seccomp stands there is no other.
fn attack(
    walls: Walls,
    identity: Option<Identity>,
    channel: &Channel,
    capture: &mut dyn Capture,
    target: &Target,
) -> io::Result<()> {
    build(walls, identity, channel)?;
    works::all(channel, capture);
    for (name, attempt) in trials::of(target, &Kind::ALL) {
        println(&trials::line(name, attempt(target)));
    }
    sweep::every_other_call();
    Ok(())
}

/// As in `src/watcher/native.rs`, or a part of it.
fn build(walls: Walls, identity: Option<Identity>, channel: &Channel) -> io::Result<()> {
    // The channel and one source.
    let waited_for = 2;
    if walls == Walls::None {
        return Ok(());
    }
    privileges::confine(identity)?;
    match walls {
        Walls::None | Walls::User => {}
        Walls::Files => println(&format!("landlock {}", sandbox::close_files())),
        Walls::Limits => sandbox::close_descriptors(waited_for)?,
        Walls::Calls => sandbox::close_calls(channel)?,
        Walls::All => {
            let landlock = sandbox::enter(channel, waited_for)?;
            println(&format!("landlock {landlock}"));
        }
    }
    Ok(())
}

/// Until the keeper closes the channel, so that it can look at this process before.
fn wait_for_the_end(channel: &Channel) -> io::Result<()> {
    let mut buffer = [0; 512];
    loop {
        poll::readable(&[channel.as_fd()], Duration::from_secs(10))?;
        if channel.try_recv(&mut buffer)? == ReceiveResult::Closed {
            // What cannot be closed any more closes with the process.
            std::process::exit(0);
        }
    }
}

/// A line on standard error, in one write.
fn println(line: &str) {
    let line = format!("{line}\n");
    // If nobody can be told, the line is missing there, which is a failure too.
    let _ = call!(SYS_write, libc::STDERR_FILENO, line.as_ptr(), line.len());
}
