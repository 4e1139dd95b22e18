//! The rules at the start of iptables' chains that accept marked packets, in place of the chains that fwknopd adds there.
//! They are checked regularly, because other programs replace all rules.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::console::AdminError;
use crate::firewall::PacketMark;
use crate::os::poll::Polled;
use crate::os::process::spawn::{RunError, run_to_end};
use crate::os::worker::Worker;
use crate::os::{clock, files, host};
use spa_knock_core::knock::Steady;

/// How often the rules are checked.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How long one call of iptables may take.
const CALL_MAX: Duration = Duration::from_secs(10);
const COMMENT: &str = "spa-knock: packets with a grant";

/// The rules, and a thread that checks them.
pub(super) struct AcceptRules {
    mark: PacketMark,
    forwards: bool,
    /// The programs that this host has.
    programs: Vec<&'static str>,
    worker: Worker<Result<usize, String>>,
    due: Steady,
    /// Whether a failure has been logged and no check has succeeded since.
    is_failing: bool,
}

impl AcceptRules {
    /// Adds the rules that are missing.
    ///
    /// # Errors
    /// If iptables refuses, or a thread cannot be started.
    pub(super) fn open(mark: PacketMark, forwards: bool) -> Result<Self, AdminError> {
        let mut programs = vec!["iptables"];
        programs.extend(host::has_ipv6().then_some("ip6tables"));
        programs.retain(|program| host::program(program).is_some());
        let worker = Worker::start().map_err(|error| {
            AdminError::run(format_args!("worker thread: {}", files::io_error_text(&error)))
        })?;
        let due = clock::steady().plus(CHECK_EVERY);
        let rules = Self { mark, forwards, programs, worker, due, is_failing: false };
        ensure(&rules.programs, mark, forwards).map_err(AdminError::run)?;
        if rules.programs.is_empty() {
            log::warn!(
                "iptables not found: your own firewall must accept packets with the mark {mark}\n\
                 hint: nft insert rule inet filter input meta mark and {mark} == {mark} accept"
            );
        }
        Ok(rules)
    }

    /// Whether packets that are forwarded are accepted, too.
    pub(super) fn set_forwards(&mut self, forwards: bool) {
        self.forwards = forwards;
        self.due = clock::steady();
    }

    /// Starts a check if one is due, and logs the result of the last one.
    pub(super) fn run_due(&mut self) {
        for result in self.worker.finished() {
            match result {
                Ok(0) => self.is_failing = false,
                Ok(added) => {
                    self.is_failing = false;
                    log::warn!(
                        "iptables: rules that accept packets with a grant were missing; added {added}"
                    );
                }
                Err(reason) if !std::mem::replace(&mut self.is_failing, true) => log::error!("{reason}"),
                Err(_) => {}
            }
        }
        let now = clock::steady();
        if now >= self.due && self.worker.is_idle() {
            self.due = now.plus(CHECK_EVERY);
            let (programs, mark, forwards) = (self.programs.clone(), self.mark, self.forwards);
            self.worker.submit(move || ensure(&programs, mark, forwards));
        }
    }
}

impl fmt::Display for AcceptRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.programs.is_empty(), self.forwards) {
            (true, _) => f.write_str("which your own firewall must accept"),
            (false, false) => f.write_str("which a rule in INPUT accepts"),
            (false, true) => f.write_str("which rules in INPUT and FORWARD accept"),
        }
    }
}

impl Polled for AcceptRules {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.push(self.worker.descriptor());
    }

    fn deadline(&self) -> Option<Steady> {
        Some(self.due)
    }
}

/// Adds the rules that are missing; returns how many.
fn ensure(programs: &[&'static str], mark: PacketMark, forwards: bool) -> Result<usize, String> {
    let chains: &[&str] = if forwards { &["INPUT", "FORWARD"] } else { &["INPUT"] };
    let mut added = 0_usize;
    for program in programs {
        for chain in chains {
            match call(program, &["-C", chain], mark) {
                Ok(()) => continue,
                Err(RunError::Failed { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
            call(program, &["-I", chain, "1"], mark).map_err(|error| error.to_string())?;
            added = added.saturating_add(1);
        }
    }
    Ok(added)
}

/// Whether the rule for INPUT is there, and not the same without our comment, which the administrator has added: ours
/// stays when the daemon stops, and is gone after a reboot.
pub(crate) fn has_only_accept_rule(mark: PacketMark) -> bool {
    let has = |comment| call_with("iptables", &["-C", "INPUT"], mark, comment).is_ok();
    host::program("iptables").is_some() && has(&["-m", "comment", "--comment", COMMENT]) && !has(&[])
}

/// Calls iptables or ip6tables with the rule.
fn call(program: &str, order: &[&str], mark: PacketMark) -> Result<(), RunError> {
    call_with(program, order, mark, &["-m", "comment", "--comment", COMMENT])
}

fn call_with(program: &str, order: &[&str], mark: PacketMark, comment: &[&str]) -> Result<(), RunError> {
    let mask = format!("{mark}/{mark}");
    let args = [&["-w", "5"], order, &["-m", "mark", "--mark", &mask], comment, &["-j", "ACCEPT"]].concat();
    run_to_end(program, &args, "", CALL_MAX).map(drop)
}
