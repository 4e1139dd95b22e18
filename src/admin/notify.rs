//! Telling a running daemon that its config, clients or keys have changed.

use super::facts::DaemonFacts;
use crate::config::ServerConfig;
use crate::console::{AdminError, notice};
use crate::control::words::unexpected;
use crate::control::{self, AskResult, Request, Response};

/// Has a running daemon take up what has changed of `subject`, and says whether it has.
///
/// # Errors
/// When one runs and does not: it goes on as before.
pub(crate) fn request_reload(config: &ServerConfig, subject: &str) -> Result<(), AdminError> {
    let heard = control::ask(&config.control, &Request::Reload {}).map_err(|failure| {
        AdminError::run(format_args!(
            "{subject}: changed, but the running daemon was not reached: {}",
            failure.text()
        ))
    })?;
    match heard {
        AskResult::Answer(Response::Done) => {
            notice(format_args!("{subject}: the running daemon has taken this up"));
            Ok(())
        }
        AskResult::Answer(Response::DoneBut { remark }) => {
            notice(format_args!("{subject}: the running daemon has taken this up\nwarning: {remark}"));
            Ok(())
        }
        AskResult::Answer(Response::Failed { reason }) => Err(AdminError::run(format_args!(
            "{subject}: changed, but the running daemon goes on as before: {reason}"
        ))),
        AskResult::Answer(_) => {
            Err(AdminError::run(format_args!("{subject}: changed, but the daemon's answer makes no sense")))
        }
        AskResult::Nobody => {
            notice(format_args!(
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
pub(crate) fn reload(facts: &DaemonFacts) -> Result<(), AdminError> {
    match facts.require(&Request::Reload {})? {
        Response::Done => {
            notice("reloaded");
            Ok(())
        }
        Response::DoneBut { remark } => {
            notice(format_args!("reloaded\nwarning: {remark}"));
            Ok(())
        }
        Response::Failed { reason } => {
            Err(AdminError::run(format_args!("not reloaded, the old config stays in force: {reason}")))
        }
        other => Err(unexpected(other)),
    }
}
