//! The client: its command line, knocking, waiting for the answer, keys.

mod cli;
mod code;
mod connecting;
mod doctor;
mod exchange;
mod failure;
mod import;
mod intent;
mod keyring;
mod keys;
mod knocking;
mod learnt;
mod legacy;
mod plan;
mod refusal;
mod rehearsal;
mod relay;
mod report;
mod route;
mod sequence;
mod sntp;
mod steps;
mod target;
mod touching;
mod wait;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use cli::{Cli, Command, Knocking};
use failure::Failure;
use intent::Intent;
use knocking::Knocked;
use report::Report;

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
            None => rehearsal::tell(&intent, report),
            Some(through) => touching::tell(&intent, through, report),
        };
    }
    let knocked = carry_out(&intent, report)?;
    if let Some(port) = intent.wait {
        let mut door = knocked.server;
        door.set_port(port);
        report.detail(|| format!("{}: waiting for tcp port {port}", door.ip()));
        wait::for_connection(&[door], intent.timeout, report)?;
    }
    report.success(&knocked.text, &knocked.success);
    Ok(())
}

/// Knocks as it is meant: with a datagram, or by ports.
fn carry_out(intent: &Intent, report: &Report) -> Result<Knocked, Failure> {
    match intent.ports {
        None => knocking::knock(intent, report),
        Some(through) => touching::knock(intent, through, report),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Keygen { output, client } => keyring::keygen(output.as_deref(), client),
        Command::Derive { key, server_id } => keyring::derive(key.as_deref(), server_id),
        Command::Show { key } => keyring::show(key.as_deref()),
        Command::Connect(said) => connecting::connect(said),
        Command::Import { token } => import::import(token),
        Command::Doctor(said) => doctor::examine(said),
        Command::Legacy(said) => legacy::knock(&said),
        Command::Completions { shell } => {
            report::print(manual::completions(Cli::command(), shell).as_bytes())
        }
        Command::Man => report::print(manual::page(Cli::command(), manual::Section::Commands).as_bytes()),
    }
}
