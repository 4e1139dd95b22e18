//! The accounts that run commands.

use nix::unistd::{Gid, Group, User};

use crate::os::process::privileges::Identity;
use spa_knock_fwknop::CommandUser;

/// The identity of an account by name. `None` if no user and no group is named: commands run as the daemon's user.
///
/// # Errors
/// The reason, if there is no such user or group, or only a group is named.
pub(super) fn identity_of(account: &CommandUser) -> Result<Option<Identity>, String> {
    let CommandUser { user, group } = account;
    let Some(name) = user else {
        return match group {
            None => Ok(None),
            Some(_) => Err("CMD_EXEC_GROUP: needs CMD_EXEC_USER".to_owned()),
        };
    };
    let user = User::from_name(name)
        .ok()
        .flatten()
        .ok_or_else(|| format!("CMD_EXEC_USER: there is no user {name:?}"))?;
    let gid = match group {
        // As fwknop does, a group is also found under the name of a user.
        Some(name) => group_of(name).ok_or_else(|| format!("CMD_EXEC_GROUP: there is no group {name:?}"))?,
        None => user.gid,
    };
    Ok(Some(Identity { uid: user.uid.as_raw(), gid: gid.as_raw() }))
}

fn group_of(name: &str) -> Option<Gid> {
    let group = Group::from_name(name).ok().flatten().map(|group| group.gid);
    group.or_else(|| User::from_name(name).ok().flatten().map(|user| user.gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(user: Option<&str>, group: Option<&str>) -> Result<Option<Identity>, String> {
        identity_of(&CommandUser { user: user.map(str::to_owned), group: group.map(str::to_owned) })
    }

    #[test]
    fn an_account_has_its_own_group_unless_another_is_named() {
        assert_eq!(account(None, None), Ok(None));
        assert_eq!(account(Some("root"), None), Ok(Some(Identity { uid: 0, gid: 0 })));
        let daemon = account(Some("daemon"), None).unwrap().unwrap();
        assert!(daemon.uid != 0 && daemon.gid != 0);
        assert_eq!(account(Some("daemon"), Some("root")), Ok(Some(Identity { gid: 0, ..daemon })));
        assert_eq!(
            account(Some("no-such-user"), None).unwrap_err(),
            "CMD_EXEC_USER: there is no user \"no-such-user\""
        );
        assert_eq!(
            account(Some("root"), Some("no-such-group")).unwrap_err(),
            "CMD_EXEC_GROUP: there is no group \"no-such-group\""
        );
        assert_eq!(account(None, Some("root")).unwrap_err(), "CMD_EXEC_GROUP: needs CMD_EXEC_USER");
    }
}
