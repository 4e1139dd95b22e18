//! `spa-knockd grants` and `revoke`: lists active grants and revokes them.

use super::facts::DaemonFacts;
use crate::console::{AdminError, counted, notice, own_command, print, table};
use crate::control::words::unexpected;
use crate::control::{GrantLine, Request, Response};
use crate::os::terminal;

/// Prints the active grants, sorted by expiry.
///
/// # Errors
/// When no daemon responds.
pub(crate) fn list(facts: &DaemonFacts, json: bool) -> Result<(), AdminError> {
    let grants = live(facts)?;
    if json {
        let text = serde_json::to_string(&grants).map_err(AdminError::run)?;
        return print(&format!("{text}\n"));
    }
    print(&text(&grants, usize::MAX, terminal::width()))
}

/// Returns the active grants, sorted by expiry.
///
/// # Errors
/// When no daemon responds.
pub(crate) fn live(facts: &DaemonFacts) -> Result<Vec<GrantLine>, AdminError> {
    let mut grants = match facts.require(&Request::Grants {})? {
        Response::Grants { grants } => grants,
        other => return Err(unexpected(other)),
    };
    grants.sort_by(|a, b| (a.seconds, &a.grant).cmp(&(b.seconds, &b.grant)));
    Ok(grants)
}

/// A table of at most this many grants, and the number of the others.
pub(crate) fn text(grants: &[GrantLine], most: usize, width: Option<usize>) -> String {
    let mut rows = vec![["GRANT", "CLIENT", "ACTION", "FROM", "OPENS", "LEFT"].map(str::to_owned)];
    rows.extend(grants.iter().take(most).cloned().map(|grant| {
        let left = format!("{}s", grant.seconds);
        [grant.grant, grant.client, grant.action, grant.from, grant.opens, left]
    }));
    let mut text = table(&rows, width);
    let more = grants.len().saturating_sub(most);
    if more > 0 {
        text.push_str(&format!("and {more} more\n"));
    }
    text
}

/// Revokes one grant, or all of them.
///
/// # Errors
/// When there is no grant of this number, or no daemon responds.
pub(crate) fn revoke(facts: &DaemonFacts, grant: Option<String>) -> Result<(), AdminError> {
    match facts.require(&Request::Revoke { grant: grant.clone() })? {
        Response::Count { count: 0 } if grant.is_some() => Err(AdminError::run(format_args!(
            "grant {}: no such grant\nhint: `{}` lists the active grants",
            grant.unwrap_or_default(),
            own_command("grants")
        ))),
        Response::Count { count } => {
            notice(format_args!("{} revoked; established connections stay open", counted(count, "grant")));
            Ok(())
        }
        other => Err(unexpected(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_beyond_the_limit_are_counted() {
        let grant = |n: u64| GrantLine {
            grant: format!("{n:08x}"),
            client: "laptop".to_owned(),
            action: "open-ssh".to_owned(),
            from: "10.0.0.1".to_owned(),
            opens: "tcp/22".to_owned(),
            seconds: n,
        };
        let all: Vec<_> = (0..5).map(grant).collect();
        assert_eq!(text(&all, 5, None).lines().count(), 6);
        assert!(text(&all, 3, None).ends_with("and 2 more\n"));
    }
}
