//! `--dry-run` for several servers: prints what would be sent to each.

use serde::Serialize;

use super::outcome::{ServerOutcome, Subject, rank, with_names};
use super::request::{FanOut, Member};
use crate::client::failure::ClientError;
use crate::client::knock::dry_run::{DryRun, NOTHING_SENT, each};
use crate::client::report::Reporter;

/// All knocks in JSON.
#[derive(Serialize)]
struct DryRuns<'a> {
    result: &'static str,
    server: &'a str,
    servers: Vec<DryRunAtServer<'a>>,
}

/// One knock, or why there would be none.
#[derive(Serialize)]
#[serde(untagged)]
enum DryRunAtServer<'a> {
    Knock(Box<DryRun<'a>>),
    Failure(ServerOutcome),
}

/// Prints what the requested knocks would contain.
///
/// # Errors
/// If there would be none.
pub(in crate::client) fn print(request: &FanOut, report: &Reporter) -> Result<(), ClientError> {
    let (mut servers, mut text, mut failures) = (Vec::new(), String::new(), Vec::new());
    for member in &request.members {
        match knocks_of(member) {
            Ok(dry_runs) => {
                for dry_run in dry_runs {
                    text.push_str(&dry_run.text());
                    text.push('\n');
                    servers.push(DryRunAtServer::Knock(Box::new(dry_run)));
                }
            }
            Err(failure) => {
                let subject = Subject { typed: &request.server, member: &member.name, address: None };
                let failure = with_names(subject, &failure);
                servers.push(DryRunAtServer::Failure(ServerOutcome::failure(subject, &failure)));
                failures.push(failure);
            }
        }
    }
    if text.is_empty() {
        let deciding = failures.into_iter().min_by_key(|failure| rank(failure.cause()));
        return deciding.map_or(Ok(()), Err);
    }
    failures.iter().for_each(|failure| report.note(failure.reason()));
    text.push_str(NOTHING_SENT);
    report.product(&text, &DryRuns { result: "dry-run", server: &request.server, servers })
}

fn knocks_of(member: &Member) -> Result<Vec<DryRun<'_>>, ClientError> {
    each(member.request.as_ref().map_err(Clone::clone)?)
}
