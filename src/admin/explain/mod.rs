//! `spa-knockd explain`: runs the daemon's own checks on the packets of a capture, and reports which check stops each.
//! Changes nothing. Drops root before it parses untrusted bytes, as the watcher does.

mod candidates;
mod changes;
mod pipeline;

mod causes;
mod finding;
#[cfg_attr(not(feature = "fwknop"), path = "fwknop_absent.rs")]
mod fwknop;
mod note;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use super::args::Explain;
use crate::capture::Trace;
use crate::config::Interfaces;
use crate::config::setup::Setup;
use crate::console::{AdminError, notice, print, print_lines};
use crate::control;
use crate::os::process::signals::Signals;
use crate::os::process::{privileges, sandbox};
use crate::os::{clock, files, poll};
use candidates::Candidates;
use changes::ConfigChanges;
use finding::PacketFinding;
use fwknop::FwknopRecognizer;
use pipeline::Pipeline;

/// The longest wait for packets before Ctrl-C is checked.
const TICK: Duration = Duration::from_secs(10);
/// Keys and config are read once, as root.
const CHANGED: &str = "warning: the config or a key has changed; explain continues with those of its start\nhint: press Ctrl-C, and start it again";
/// The maximum number of frames read from one interface before the next.
const BATCH: usize = 256;

/// Explains a capture file, or packets as they arrive.
///
/// # Errors
/// When the config or a key is invalid, or the packets cannot be read.
pub(crate) fn explain(path: &Path, args: &Explain) -> Result<(), AdminError> {
    let setup = Setup::load(path)?;
    let mut candidates = Candidates::of(&setup.config, &args.ids)?;
    if args.live {
        // A third of a second, and longer on a slow or busy machine.
        notice("preparing the search for wrong clocks and keys: knock after the next line");
        candidates.prepare_live(clock::wall());
    }
    let fwknop = FwknopRecognizer::of(&setup.config)?;
    let ports: Vec<u16> = fwknop.port().into_iter().chain([setup.config.port]).collect();
    let pipeline = Pipeline::new(&setup, candidates, fwknop);
    let traces = match &args.file {
        Some(file) => vec![Trace::read(file).map_err(AdminError::run)?],
        None => watch(&setup, &ports)?,
    };
    let signals = Signals::listen().map_err(|error| AdminError::run(format_args!("signals: {error}")))?;
    let has_daemon = control::is_open(&setup.config.control);
    let changes = if args.live { ConfigChanges::watch(&setup) } else { None };
    confine(&setup)?;
    let mut session = Session { pipeline, json: args.json, has_daemon };
    if args.live {
        session.explain_live(traces, signals, changes)
    } else {
        let read = traces.into_iter().try_for_each(|mut trace| session.explain_file(&mut trace, &signals));
        notice(session.pipeline.tally());
        read
    }
}

fn watch(setup: &Setup, ports: &[u16]) -> Result<Vec<Trace>, AdminError> {
    let config = &setup.config;
    let names: Vec<Option<&str>> = match &config.interfaces {
        Interfaces::Any => vec![None],
        Interfaces::Named(names) => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    names.into_iter().map(|name| Trace::watch(name, ports, config.ports).map_err(AdminError::run)).collect()
}

/// Drops root. All files and sockets are open by now.
fn confine(setup: &Setup) -> Result<(), AdminError> {
    let identity = privileges::unprivileged(&setup.config.user)
        .map_err(|error| AdminError::run(format_args!("server.user: {}", files::io_error_text(&error))))?;
    privileges::confine(identity)
        .map_err(|error| AdminError::run(format_args!("dropping privileges: {error}")))?;
    // If the kernel does not support it, the unprivileged user is enough.
    let _ = sandbox::deny_files();
    Ok(())
}

/// Prints the findings.
struct Session {
    pipeline: Pipeline,
    json: bool,
    has_daemon: bool,
}

impl Session {
    fn explain_live(
        &mut self,
        mut traces: Vec<Trace>,
        mut signals: Signals,
        mut changes: Option<ConfigChanges>,
    ) -> Result<(), AdminError> {
        if !self.has_daemon {
            notice(
                "warning: no daemon is running: nothing is granted, and no knock gets a reply\nhint: systemctl start spa-knockd",
            );
        }
        notice("explaining packets as they arrive, with the present config and keys; press Ctrl-C to stop");
        while !signals.stop() {
            let mut fds: Vec<BorrowedFd<'_>> = vec![signals.as_fd()];
            fds.extend(traces.iter().filter_map(Trace::descriptor));
            fds.extend(changes.as_ref().map(AsFd::as_fd));
            poll::readable(&fds, TICK).map_err(|error| {
                AdminError::run(format_args!("waiting: {}", files::io_error_text(&error)))
            })?;
            signals.drain();
            if changes.as_mut().is_some_and(ConfigChanges::is_report_due) {
                notice(CHANGED);
            }
            traces.iter_mut().try_for_each(|trace| self.explain_arrived(trace, BATCH))?;
        }
        notice(self.pipeline.tally());
        Ok(())
    }

    /// Explains all frames of a file, unless a signal stops it.
    fn explain_file(&mut self, trace: &mut Trace, signals: &Signals) -> Result<(), AdminError> {
        loop {
            if signals.stop() {
                return Err(AdminError::run("stopped by a signal; the remaining packets were not explained"));
            }
            let Some(frame) = trace.take().map_err(AdminError::run)? else { return Ok(()) };
            let finding = self.pipeline.explain(&frame);
            self.print(&finding)?;
        }
    }

    fn print(&self, finding: &PacketFinding) -> Result<(), AdminError> {
        if self.json { print(&finding.to_json()) } else { print_lines(&format!("{finding}\n")) }
    }

    /// Explains the frames that have arrived, up to a maximum number.
    fn explain_arrived(&mut self, trace: &mut Trace, most: usize) -> Result<(), AdminError> {
        for _ in 0..most {
            let Some(frame) = trace.take().map_err(AdminError::run)? else { return Ok(()) };
            let finding = self.pipeline.explain(&frame);
            // An interface also carries unrelated packets.
            if finding.is_about_knocks() {
                self.print(&finding)?;
            }
        }
        Ok(())
    }
}
