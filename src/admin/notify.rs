//! Telling a running daemon that its config, clients or keys have changed.

use super::facts::Facts;
use crate::config::ServerConfig;
use crate::console::{Failure, tell};
use crate::control::words::unexpected;
use crate::control::{self, Answer, Heard, Question};

/// Has a running daemon take up what has changed of `subject`, and says whether it has.
///
/// # Errors
/// When one runs and does not: it goes on as before.
pub(crate) fn tell_daemon(config: &ServerConfig, subject: &str) -> Result<(), Failure> {
    let heard = control::ask(&config.control, &Question::Reload {}).map_err(|failure| {
        Failure::run(format_args!(
            "{subject}: changed, but the running daemon was not reached: {}",
            failure.text()
        ))
    })?;
    match heard {
        Heard::Answer(Answer::Done) => {
            tell(format_args!("{subject}: the running daemon has taken this up"));
            Ok(())
        }
        Heard::Answer(Answer::DoneBut { remark }) => {
            tell(format_args!("{subject}: the running daemon has taken this up\nwarning: {remark}"));
            Ok(())
        }
        Heard::Answer(Answer::Failed { reason }) => Err(Failure::run(format_args!(
            "{subject}: changed, but the running daemon goes on as before: {reason}"
        ))),
        Heard::Answer(_) => {
            Err(Failure::run(format_args!("{subject}: changed, but the daemon's answer makes no sense")))
        }
        Heard::Nobody => {
            tell(format_args!(
                "{subject}: no daemon answers at {}; one takes this up when it starts",
                config.control.display()
            ));
            Ok(())
        }
    }
}

/// `spa-knockd reload`: has the running daemon load config, clients and keys again.
///
/// # Errors
/// When none runs, or it goes on with what it had.
pub(crate) fn reload(facts: &Facts) -> Result<(), Failure> {
    match facts.require(&Question::Reload {})? {
        Answer::Done => {
            tell("reloaded");
            Ok(())
        }
        Answer::DoneBut { remark } => {
            tell(format_args!("reloaded\nwarning: {remark}"));
            Ok(())
        }
        Answer::Failed { reason } => {
            Err(Failure::run(format_args!("not reloaded, the old config stays in force: {reason}")))
        }
        other => Err(unexpected(other)),
    }
}
