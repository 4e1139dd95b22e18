//! The client: its command line, knocking, waiting for the answer, keys.

mod args;
mod connect;
mod knock;

mod completions;
mod doctor;
mod failure;
mod fwknop;
mod keys;
mod legacy;
mod ports;
mod relay;
mod report;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Command, Knocking};
use failure::Failure;
use knock::Knocked;
use knock::request::Intent;
use report::Report;

use crate::knock::ReplyWanted;
use crate::manual;
use crate::os::env;

/// Runs the command line of `spa-knock`.
#[must_use]
pub fn main() -> ExitCode {
    let args = env::args();
    if legacy::is_called(&args) {
        return legacy::main(&args);
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Also the help, which is no error and has code 0.
            let _ = error.print();
            if let Some(hint) = fwknop::hint(&error) {
                Report::PLAIN.hint(hint);
            }
            return u8::try_from(error.exit_code()).unwrap_or(2).into();
        }
    };
    let report = Report::new(&cli.knock);
    let done = match cli.command {
        Some(command) => run(command),
        None => knock(cli.knock, &report),
    };
    done.map_or_else(|failure| report.failure(&failure), |()| ExitCode::SUCCESS)
}

fn knock(said: Knocking, report: &Report) -> Result<(), Failure> {
    let dry_run = said.dry_run;
    let intent = Intent::new(said)?;
    if dry_run {
        return match intent.ports {
            None => knock::dry_run::tell(&intent, report),
            Some(through) => ports::knock::tell(&intent, through, report),
        };
    }
    let (knocked, mut again) = carry_out(&intent, report)?;
    if let (Some(port), Some(patience)) = (intent.wait, intent.patience) {
        let doors: Vec<_> = knocked
            .servers
            .iter()
            .map(|server| {
                let mut door = *server;
                door.set_port(port);
                door
            })
            .collect();
        report.detail(|| format!("{}: waiting for tcp port {port}", knock::listed(&doors)));
        knock::wait::for_connection(&doors, patience, again.as_deref_mut(), report)?;
    }
    report.success(&knocked.text, &knocked.success);
    Ok(())
}

/// A knock that can be made again, if it had no answer.
type Again<'a> = Option<Box<dyn knock::wait::KnockAgain + 'a>>;

/// Knocks as it is meant: with a datagram, or by ports.
fn carry_out<'a>(intent: &'a Intent, report: &'a Report) -> Result<(Knocked, Again<'a>), Failure> {
    match (intent.ports, intent.reply) {
        (Some(through), _) => {
            let (knocked, toucher) = ports::knock::knock(intent, through, report)?;
            Ok((knocked, Some(Box::new(toucher))))
        }
        (None, ReplyWanted::No) => {
            let (knocked, others) = knock::unanswered::knock(intent, report)?;
            Ok((knocked, Some(Box::new(others))))
        }
        (None, ReplyWanted::Yes) => Ok((knock::knock(intent, report)?, None)),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Keygen { output, client } => keys::commands::keygen(output.as_deref(), client),
        Command::Derive { key, server_id } => keys::commands::derive(key.as_deref(), server_id),
        Command::Show { file, key } => keys::commands::show(file.or(key).as_deref()),
        Command::Connect(said) => connect::connect(said),
        Command::Import { token } => keys::import::import(token),
        Command::Doctor(said) => doctor::examine(said),
        Command::Legacy(said) => legacy::knock(&said),
        Command::Completions { shell } => report::print(completions::script(shell).as_bytes()),
        Command::Man => report::print(manual::page(Cli::command(), manual::Section::Commands).as_bytes()),
    }
}
