//! Reloads of a running daemon after a change of config, clients or keys.

use super::facts::DaemonFacts;
use super::status::show;
use crate::config::ServerConfig;
use crate::console::{AdminError, notice};
use crate::control::words::unexpected;
use crate::control::{self, AskResult, Request, Response};

/// The result of a change that a running daemon has loaded.
const APPLIED: &str = "applied by the running daemon";

/// Makes a running daemon load the change of `subject`, and reports whether it did.
///
/// # Errors
/// When a daemon runs and does not load the change: it continues with the previous state.
pub(crate) fn request_reload(config: &ServerConfig, subject: &str) -> Result<(), AdminError> {
    let response = control::ask(&config.control, &Request::Reload {}).map_err(|failure| {
        AdminError::run(format_args!(
            "{subject}: changed, but the running daemon could not be reached: {}",
            failure.text()
        ))
    })?;
    match response {
        AskResult::Reply(Response::Done) => {
            notice(format_args!("{subject}: {APPLIED}"));
            Ok(())
        }
        AskResult::Reply(Response::DoneBut { remark }) => {
            notice(format_args!("{subject}: {APPLIED}\nwarning: {remark}"));
            Ok(())
        }
        AskResult::Reply(Response::Failed { reason }) => Err(AdminError::run(format_args!(
            "{subject}: changed, but the running daemon did not load the change: {reason}"
        ))),
        AskResult::Reply(_) => Err(AdminError::run(format_args!(
            "{subject}: changed, but the daemon sent an unexpected response"
        ))),
        AskResult::NoDaemon => {
            notice(format_args!(
                "{subject}: no daemon listens at {}; this takes effect when the daemon starts",
                config.control.display()
            ));
            Ok(())
        }
    }
}

/// `spa-knockd reload`: makes the running daemon reload config, clients and keys.
///
/// # Errors
/// When no daemon runs, or it keeps the old config.
pub(crate) fn reload(facts: &DaemonFacts) -> Result<(), AdminError> {
    let remark = match facts.require(&Request::Reload {})? {
        Response::Done => String::new(),
        Response::DoneBut { remark } => format!("\nwarning: {remark}"),
        Response::Failed { reason } => {
            return Err(AdminError::run(format_args!(
                "not reloaded; the old config remains active: {reason}"
            )));
        }
        other => return Err(unexpected(other)),
    };
    // The ports, because a port that is no longer protected is open now. The reload has succeeded even without them.
    let gate = show::gate_line(facts).map(|line| format!("; gate {line}")).unwrap_or_default();
    notice(format_args!("reloaded{gate}{remark}"));
    Ok(())
}
