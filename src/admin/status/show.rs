//! `spa-knockd status`: requests the status of the running daemon and prints it, once or every second.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::Duration;

use super::text;
use crate::admin::facts::DaemonFacts;
use crate::admin::grants;
use crate::console::wrap::wrapped;
use crate::console::{AdminError, Color, notice, print};
use crate::control::prometheus::exposition;
use crate::control::status::DaemonStatus;
use crate::control::words::unexpected;
use crate::control::{Request, Response};
use crate::gate::takeover;
use crate::os::process::signals::Signals;
use crate::os::{poll, terminal};

/// Interval between two requests of `--watch`.
const EVERY: Duration = Duration::from_secs(1);
/// Together with the status, this many grants fit a terminal of 24 lines.
const GRANTS_SHOWN: usize = 10;

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Human-readable.
    Text,
    /// One JSON object per line.
    Json,
    /// For Prometheus.
    Exposition,
}

/// Prints the status of the running daemon, once or every second.
///
/// # Errors
/// When no daemon responds.
pub(crate) fn show(facts: &DaemonFacts, form: Form, again: bool) -> Result<(), AdminError> {
    if form != Form::Exposition {
        report_other_gates(facts);
    }
    if again { watch(facts, form) } else { print(&once(facts, form)?) }
}

/// Warns of gates in the kernel that the daemon does not manage and cannot see.
fn report_other_gates(facts: &DaemonFacts) {
    for kind in takeover::other_gates(facts.backend) {
        notice(format_args!(
            "warning: the gate of another backend also keeps ports closed: {kind}\n\
             hint: to remove it: systemctl restart spa-knockd"
        ));
    }
}

/// Prints the status every second until Ctrl-C; on a terminal always in the same place. Terminal settings are not
/// changed, so nothing must be restored, however this process ends.
fn watch(facts: &DaemonFacts, form: Form) -> Result<(), AdminError> {
    let live = form == Form::Text && io::stdout().is_terminal();
    let mut signals = Signals::listen().map_err(|error| AdminError::run(format_args!("signals: {error}")))?;
    let mut first = true;
    while !signals.stop() {
        let mut page = once(facts, form)?;
        if form == Form::Text {
            let open = grants::text(&grants::live(facts)?, GRANTS_SHOWN, terminal::width());
            page = format!("{page}\n{open}");
        }
        print(&if live { frame(&page, first) } else { separate(&page, form) })?;
        first = false;
        poll::readable(&[signals.as_fd()], EVERY).map_err(|error| AdminError::run(error.to_string()))?;
        signals.drain();
    }
    Ok(())
}

fn once(facts: &DaemonFacts, form: Form) -> Result<String, AdminError> {
    let status = status(facts)?;
    Ok(match form {
        Form::Text => wrapped(&text::text(&status, Color::of(&io::stdout())), terminal::width()),
        Form::Json => format!("{}\n", serde_json::to_string(&status).map_err(AdminError::run)?),
        Form::Exposition => exposition(&status),
    })
}

/// The state of the gate and the ports that it closes, in one line.
///
/// # Errors
/// When no daemon responds.
pub(crate) fn gate_line(facts: &DaemonFacts) -> Result<String, AdminError> {
    Ok(text::gate(&status(facts)?, Color::of(&io::stderr())))
}

fn status(facts: &DaemonFacts) -> Result<DaemonStatus, AdminError> {
    match facts.require(&Request::Status {})? {
        Response::Status { status } => Ok(*status),
        other => Err(unexpected(other)),
    }
}

/// A page that replaces the previous one: ECMA-48's CUP, with ED and EL to erase the rest of that one.
fn frame(page: &str, first: bool) -> String {
    let start = if first { "\x1b[H\x1b[2J" } else { "\x1b[H" };
    format!("{start}{}\x1b[J", page.replace('\n', "\x1b[K\n"))
}

fn separate(page: &str, form: Form) -> String {
    if form == Form::Text { format!("{page}\n") } else { page.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_covers_the_previous_one() {
        assert_eq!(frame("a\nb\n", true), "\x1b[H\x1b[2Ja\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(frame("a\n", false), "\x1b[Ha\x1b[K\n\x1b[J");
    }
}
