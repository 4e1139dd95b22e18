//! `spa-knockd explain`: takes packets of a capture through the daemon's own checks, and says what stopped each. Changes
//! nothing. What reads strangers' bytes here gives root up first, as the watcher does.

mod candidates;
mod pipeline;

mod causes;
mod finding;
mod note;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use super::args::Explain;
use crate::capture::Trace;
use crate::config::Interfaces;
use crate::config::setup::Setup;
use crate::console::{AdminError, notice, print};
use crate::os::process::signals::Signals;
use crate::os::process::{privileges, sandbox};
use crate::os::{files, poll};
use candidates::Candidates;
use finding::PacketFinding;
use pipeline::Pipeline;

/// How long nothing need come before Ctrl-C is looked at anyway.
const TICK: Duration = Duration::from_secs(10);
/// Frames taken from one interface before the others have their turn.
const BATCH: usize = 256;

/// Explains a file, or what comes in.
///
/// # Errors
/// When the config or a key is bad, or what is to be explained cannot be read.
pub(crate) fn explain(path: &Path, asked: &Explain) -> Result<(), AdminError> {
    let setup = Setup::load(path)?;
    let mut suspects = Candidates::of(&setup.config, &asked.ids)?;
    if asked.live {
        suspects.unbounded();
    }
    let pipeline = Pipeline::new(&setup, suspects);
    let traces = match &asked.file {
        Some(file) => vec![Trace::read(file).map_err(AdminError::run)?],
        None => watch(&setup)?,
    };
    let signals = Signals::listen().map_err(|error| AdminError::run(format_args!("signals: {error}")))?;
    confine(&setup)?;
    let mut desk = Session { pipeline, json: asked.json };
    if asked.live {
        desk.explain_live(traces, signals)
    } else {
        let read = traces.into_iter().try_for_each(|mut trace| desk.explain_file(&mut trace, &signals));
        notice(desk.pipeline.tally());
        read
    }
}

fn watch(setup: &Setup) -> Result<Vec<Trace>, AdminError> {
    let config = &setup.config;
    let names: Vec<Option<&str>> = match &config.interfaces {
        Interfaces::Any => vec![None],
        Interfaces::Named(names) => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    names
        .into_iter()
        .map(|name| Trace::watch(name, config.port, config.ports).map_err(AdminError::run))
        .collect()
}

/// Everything is open: from here on nothing needs root.
fn confine(setup: &Setup) -> Result<(), AdminError> {
    let identity = privileges::unprivileged(&setup.config.user)
        .map_err(|error| AdminError::run(format_args!("server.user: {}", files::io_error_text(&error))))?;
    privileges::confine(identity)
        .map_err(|error| AdminError::run(format_args!("giving up rights: {error}")))?;
    // Where the kernel cannot do it, the user that it runs as now has to be enough.
    let _ = sandbox::close_files();
    Ok(())
}

/// Where findings are written down.
struct Session {
    pipeline: Pipeline,
    json: bool,
}

impl Session {
    fn explain_live(&mut self, mut traces: Vec<Trace>, mut signals: Signals) -> Result<(), AdminError> {
        notice("explaining what comes in; Ctrl-C ends it");
        while !signals.stop() {
            let mut fds: Vec<BorrowedFd<'_>> = vec![signals.as_fd()];
            fds.extend(traces.iter().filter_map(Trace::descriptor));
            poll::readable(&fds, TICK).map_err(|error| {
                AdminError::run(format_args!("waiting: {}", files::io_error_text(&error)))
            })?;
            signals.drain();
            traces.iter_mut().try_for_each(|trace| self.explain_all(trace, BATCH))?;
        }
        notice(self.pipeline.tally());
        Ok(())
    }

    /// All frames of a file, unless a signal ends it.
    fn explain_file(&mut self, trace: &mut Trace, signals: &Signals) -> Result<(), AdminError> {
        loop {
            if signals.stop() {
                return Err(AdminError::run("stopped by a signal; what follows was not looked at"));
            }
            let Some(frame) = trace.take().map_err(AdminError::run)? else { return Ok(()) };
            let finding = self.pipeline.explain(&frame);
            self.print(&finding)?;
        }
    }

    fn print(&self, finding: &PacketFinding) -> Result<(), AdminError> {
        print(&if self.json { finding.to_json() } else { finding.to_string() + "\n" })
    }

    /// All frames that there are, but no more than so many.
    fn explain_all(&mut self, trace: &mut Trace, most: usize) -> Result<(), AdminError> {
        for _ in 0..most {
            let Some(frame) = trace.take().map_err(AdminError::run)? else { return Ok(()) };
            let finding = self.pipeline.explain(&frame);
            // An interface also carries what nobody meant for us.
            if finding.is_about_knocks() {
                self.print(&finding)?;
            }
        }
        Ok(())
    }
}
