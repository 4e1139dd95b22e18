//! Setting up a fleet in the store: what is checked first, then users, roles and the first floor.

use std::time::Duration;

use zeroize::Zeroizing;

use super::survey::{FleetContent, clocks};
use crate::console::{AdminError, notice, own_command};
use crate::fleet::ipc;
use crate::os::clock;
use spa_knock_core::crypto::random;
use spa_knock_core::knock::Timestamp;
use spa_knock_fleet::FleetName;
use spa_knock_fleet::client::{
    EndpointReport, KeyRange, Login, Patience, RangeRequest, StoreClient, StoreError, StoreFault,
};
use spa_knock_fleet::floor;
use spa_knock_fleet::init::{self, SetupEffect, SetupRequest, StoreRole};
use spa_knock_fleet::keys::{KeySpace, StoreKey};
use spa_knock_fleet::rollback::WentBack;

/// Whether the store has users and passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreAuth {
    /// It has, and the login was accepted.
    Enabled,
    /// It has not: anyone with a client certificate can write everything.
    Missing,
}

/// Whether knocks can have been accepted for the server id before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerPast {
    /// No daemon has run here, and there is no key with which a knock could have been signed.
    Unused,
    /// They can.
    Used,
}

/// Checks version, certificate and quorum at each endpoint. Endpoints that do not answer cause a warning if another one
/// does.
///
/// # Errors
/// If none answers, or one rejects us.
pub(crate) fn check_endpoints(
    client: &StoreClient,
    space: &KeySpace,
    user: &str,
) -> Result<StoreAuth, AdminError> {
    let reports = client.inspect(&space.path(&StoreKey::Floor), Patience::BACKGROUND);
    let (mut auth, mut silent) = (None, Vec::new());
    for report in reports {
        match first_error(report) {
            None => auth = Some(StoreAuth::Enabled),
            Some(error) => match error.fault() {
                StoreFault::NoAuthentication => auth = Some(StoreAuth::Missing),
                StoreFault::Timeout(_) | StoreFault::Connection(_) | StoreFault::Unavailable(_) => {
                    silent.push(error);
                }
                _ => return Err(rejected(&error, user)),
            },
        }
    }
    let Some(auth) = auth else {
        let lines: Vec<_> = silent.iter().map(ToString::to_string).collect();
        return Err(AdminError::run(format_args!(
            "{}\nhint: check that etcd runs and has a majority, and that its firewall admits this host",
            lines.join("\n")
        )));
    };
    silent.iter().for_each(|error| notice(format_args!("warning: {error}")));
    Ok(auth)
}

fn first_error(report: EndpointReport) -> Option<StoreError> {
    let errors = [report.version.err(), report.quorum.err(), report.status.err()];
    let mut errors = errors.into_iter().flatten();
    let first = errors.next()?;
    // The version is served without a login, so it alone can be the only one that succeeds.
    Some(errors.find(|error| *error.fault() == StoreFault::NoAuthentication).unwrap_or(first))
}

/// An error with a hint for someone who sets up a fleet.
fn rejected(error: &StoreError, user: &str) -> AdminError {
    let endpoint = error.endpoint();
    match error.fault() {
        StoreFault::WrongPassword => AdminError::run(format_args!(
            "store {endpoint}: password of etcd user {user} rejected\nhint: nothing was changed; repeat the command with the right password"
        )),
        StoreFault::WentBack(WentBack::Cluster { .. }) => AdminError::run(format_args!(
            "store {endpoint}: belongs to another cluster than the endpoint before it\nhint: name the members of one etcd cluster"
        )),
        _ => AdminError::run(error),
    }
}

/// The id of the cluster, after checking that it has no key of this fleet.
///
/// # Errors
/// If the store does not answer, or has a key of the fleet.
pub(crate) fn check_new(client: &StoreClient, fleet: &FleetName) -> Result<u64, AdminError> {
    let space = KeySpace::new(fleet);
    let found = client.range(&RangeRequest::new(space.everything()).limit(1), Patience::BACKGROUND)?;
    if found.kvs.is_empty() {
        return Ok(found.header.cluster_id);
    }
    let start = String::from_utf8_lossy(space.everything().start()).into_owned();
    Err(AdminError::run(format_args!(
        "fleet {fleet}: exists already in this store\nhint: to add this server to it: {}; for another fleet, choose another --name; to delete it with all its clients: etcdctl del --prefix {start}",
        own_command("fleet join")
    )))
}

/// The first floor of a fleet, at or below which no knock is accepted.
///
/// A knock that a member has accepted while it ran alone is in its own replay memory, but in no other one: another member
/// would accept a copy. Such a knock has a timestamp of up to one window after that member's clock. So the floor is above
/// all of them, and knocks are refused for that time. Only for a server id that can't have been used, the floor is in the
/// past: no daemon has run here, and without a client there is no key that another host could have, too.
pub(crate) fn first_floor(now: Timestamp, window: Duration, past: ServerPast) -> Timestamp {
    match past {
        ServerPast::Unused => now.minus(window.saturating_mul(2)),
        ServerPast::Used => floor::above_everything(now, &[], window),
    }
}

/// A user with a new password.
///
/// # Errors
/// If the system's random number generator fails.
pub(crate) fn new_login(fleet: &FleetName, role: StoreRole) -> Result<Login, AdminError> {
    let bytes = Zeroizing::new(random::<16>().map_err(AdminError::run)?);
    // The user has the name of its role.
    Ok(Login { user: role.name(fleet), password: Zeroizing::new(ipc::hex(&*bytes)) })
}

/// Creates roles and users. What remains of an earlier try is changed.
///
/// # Errors
/// If the store does not answer, or the user is not allowed to do this.
pub(crate) fn create_users(
    client: &StoreClient,
    fleet: &FleetName,
    member: &Login,
    admin: &Login,
) -> Result<(), AdminError> {
    for request in init::roles(fleet) {
        send(client, &request)?;
    }
    for (login, role) in [(member, StoreRole::Member), (admin, StoreRole::Admin)] {
        create_user(client, init::user(fleet, login, role), login)?;
    }
    Ok(())
}

/// Enables authentication, with this password for the user root.
///
/// # Errors
/// If the store does not answer, or rejects it.
pub(crate) fn enable_authentication(
    client: &StoreClient,
    password: &Zeroizing<String>,
) -> Result<(), AdminError> {
    let root = Login { user: "root".to_owned(), password: password.clone() };
    let mut requests = init::enable_authentication(password);
    let enable = requests.pop();
    create_user(client, requests, &root)?;
    enable.iter().try_for_each(|request| send(client, request).map(drop))
}

/// The first request creates the user; one that exists gets the new password.
fn create_user(client: &StoreClient, requests: Vec<SetupRequest>, login: &Login) -> Result<(), AdminError> {
    for (index, request) in requests.iter().enumerate() {
        if send(client, request)? == SetupEffect::Existed && index == 0 {
            send(client, &init::set_password(login))?;
        }
    }
    Ok(())
}

fn send(client: &StoreClient, request: &SetupRequest) -> Result<SetupEffect, AdminError> {
    request.send(client).map_err(|error| match error.fault() {
        StoreFault::Permission => AdminError::run(format_args!(
            "store {}: the etcd user is not allowed to do this: {}\nhint: use a user with the role root",
            error.endpoint(),
            request.purpose
        )),
        _ => AdminError::run(format_args!("{}: {error}", request.purpose)),
    })
}

/// Writes the first floor, which makes the fleet accept knocks.
///
/// # Errors
/// If the store does not answer, or has one already. It may then have been written or not.
pub(crate) fn create_floor(
    client: &StoreClient,
    fleet: &FleetName,
    first: Timestamp,
) -> Result<(), AdminError> {
    match init::create_floor(client, &KeySpace::new(fleet), first)? {
        SetupEffect::Done => Ok(()),
        SetupEffect::Existed => {
            Err(AdminError::run(format_args!("fleet {fleet}: another server has set it up at this moment")))
        }
    }
}

/// Raises the floor above every knock that a member can have accepted, and returns it.
///
/// # Errors
/// If the store does not answer, or has no floor.
pub(crate) fn raise_floor(
    client: &StoreClient,
    space: &KeySpace,
    content: &FleetContent,
    window: Duration,
) -> Result<Timestamp, AdminError> {
    let target = floor::above_everything(clock::wall(), &clocks(content), window);
    raise_floor_to(client, space, target)
}

/// Raises the floor to this time, or creates it, and returns the one that the store has then, which may be higher.
///
/// # Errors
/// If the store does not answer.
pub(crate) fn raise_floor_to(
    client: &StoreClient,
    space: &KeySpace,
    target: Timestamp,
) -> Result<Timestamp, AdminError> {
    let raise = || client.txn(&floor::raise(space, target), Patience::BACKGROUND);
    let mut response = raise()?;
    if !response.succeeded && floor::existing(&response).is_none() {
        init::create_floor(client, space, target)?;
        response = raise()?;
    }
    Ok(if response.succeeded { target } else { floor::existing(&response).unwrap_or(target).max(target) })
}

/// Removes the floor again, for a setup that has failed after it.
pub(crate) fn remove_floor(client: &StoreClient, fleet: &FleetName) {
    let path = KeySpace::new(fleet).path(&StoreKey::Floor);
    if let Err(error) = client.delete(KeyRange::one(path.as_str()), Patience::BACKGROUND) {
        notice(format_args!("warning: {error}\nhint: before the next try: etcdctl del {path}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_id_that_was_never_used_accepts_knocks_immediately() {
        let (now, window) = (Timestamp::from_millis(1_000_000), Duration::from_secs(30));
        let floor = |past| first_floor(now, window, past).as_millis();
        assert_eq!(floor(ServerPast::Unused), 940_000);
        // The latest knock that a server accepts has the timestamp now + window.
        assert_eq!(floor(ServerPast::Used), 1_090_000);
    }
}
