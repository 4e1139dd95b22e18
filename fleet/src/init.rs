//! Setting up a fleet in the store: users, roles and rights, and the first floor. And whether the rights are as they must
//! be, for `check`.

use serde_json::{Value, json};
use spa_knock_core::auth::ReplayDomain;
use spa_knock_core::crypto::{Fingerprint, RandomError, random};
use spa_knock_core::knock::Timestamp;
use zeroize::Zeroizing;

use crate::claim::{ClaimOutcome, Claimant, Claimer, KnockClaim};
use crate::client::{
    Compare, KeyRange, Login, Patience, StoreClient, StoreError, StoreFault, Txn, TxnOp, encode,
};
use crate::floor;
use crate::keys::{ClaimKey, KeySpace, StoreKey};
use crate::names::FleetName;

/// What a member writes. It reads everything of its fleet.
const MEMBER_WRITES: [&str; 6] = ["claim/", "grant/", "member/", "floor", "otp/", "uses/"];

/// A request of the administrator, with what it is for.
pub struct SetupRequest {
    /// The path of the gateway.
    pub path: &'static str,
    /// What it does, for the administrator.
    pub purpose: String,
    /// Wiped: it may contain a password.
    body: Zeroizing<Vec<u8>>,
}

/// Whether a request has changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetupEffect {
    /// It was carried out.
    Done,
    /// It had been carried out before.
    Existed,
}

/// Who uses the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreRole {
    /// Reads everything of the fleet; writes all but the policy.
    Member,
    /// Reads and writes everything of the fleet.
    Admin,
}

impl StoreRole {
    /// The role's name in etcd.
    #[must_use]
    pub fn name(self, fleet: &FleetName) -> String {
        match self {
            Self::Member => format!("spa-knock-{fleet}-member"),
            Self::Admin => format!("spa-knock-{fleet}-admin"),
        }
    }
}

impl SetupRequest {
    fn new(path: &'static str, purpose: String, body: &Value) -> Self {
        Self { path, purpose, body: Zeroizing::new(body.to_string().into_bytes()) }
    }

    fn with_password(path: &'static str, purpose: String, login: &Login) -> Self {
        // Text is always serialized.
        Self { path, purpose, body: login.body().unwrap_or_default() }
    }

    /// Sends it. What exists already is not an error.
    ///
    /// # Errors
    /// If the store does not answer in time, or rejects it.
    pub fn send(&self, client: &StoreClient) -> Result<SetupEffect, StoreError> {
        match client.administer(self.path, &self.body) {
            Ok(_) => Ok(SetupEffect::Done),
            Err(error) if *error.fault() == StoreFault::Exists => Ok(SetupEffect::Existed),
            Err(error) => Err(error),
        }
    }
}

/// Creates both roles of a fleet, with their rights.
#[must_use]
pub fn roles(fleet: &FleetName) -> Vec<SetupRequest> {
    let space = KeySpace::new(fleet);
    let [member, admin] = [StoreRole::Member, StoreRole::Admin].map(|role| role.name(fleet));
    let mut requests = vec![add_role(&member), add_role(&admin)];
    requests.push(permit(&member, "READ", &space.everything(), "everything of the fleet"));
    for part in MEMBER_WRITES {
        requests.push(permit(&member, "READWRITE", &space.part(part), part));
    }
    requests.push(permit(&admin, "READWRITE", &space.everything(), "everything of the fleet"));
    requests
}

/// Creates a user with a password and a role. A user that exists keeps its password: then use [`set_password`], too.
#[must_use]
pub fn user(fleet: &FleetName, login: &Login, role: StoreRole) -> Vec<SetupRequest> {
    let name = &login.user;
    let role = role.name(fleet);
    vec![
        SetupRequest::with_password("/v3/auth/user/add", format!("creates user {name}"), login),
        SetupRequest::new(
            "/v3/auth/user/grant",
            format!("gives user {name} the role {role}"),
            &json!({"user": name, "role": role}),
        ),
    ]
}

/// Changes the password of a user.
#[must_use]
pub fn set_password(login: &Login) -> SetupRequest {
    let purpose = format!("changes the password of user {}", login.user);
    SetupRequest::with_password("/v3/auth/user/changepw", purpose, login)
}

/// Enables authentication in a store that has none: with the user `root`, which etcd demands.
#[must_use]
pub fn enable_authentication(root_password: &Zeroizing<String>) -> Vec<SetupRequest> {
    let root = Login { user: "root".to_owned(), password: root_password.clone() };
    vec![
        SetupRequest::with_password("/v3/auth/user/add", "creates user root".to_owned(), &root),
        SetupRequest::new(
            "/v3/auth/user/grant",
            "gives user root the role root".to_owned(),
            &json!({"user": "root", "role": "root"}),
        ),
        SetupRequest::new("/v3/auth/enable", "enables authentication".to_owned(), &json!({})),
    ]
}

/// Writes the first floor. A store without one grants nothing.
///
/// # Errors
/// If the store does not answer in time, or rejects it.
pub fn create_floor(
    client: &StoreClient,
    space: &KeySpace,
    now: Timestamp,
) -> Result<SetupEffect, StoreError> {
    let response = client.txn(&floor::create(space, now), Patience::BACKGROUND)?;
    // After a lost answer, the second try finds the floor of the first.
    Ok(if response.succeeded || floor::existing(&response) == Some(now) {
        SetupEffect::Done
    } else {
        SetupEffect::Existed
    })
}

/// What a member's user can do.
#[derive(Debug)]
pub struct RightsReport {
    /// A claim of a knock that does not exist, and its deletion: must be won.
    pub trial: ClaimOutcome,
    /// Whether the user could write the policy, which members must not.
    pub writes_policy: Result<bool, StoreError>,
    /// Whether they could in a nested transaction. Then this etcd enforces no rights at all inside of these: see
    /// [`NESTED_RIGHTS`].
    pub writes_policy_nested: Result<bool, StoreError>,
}

/// What to print if [`RightsReport::writes_policy_nested`] is true, but [`RightsReport::writes_policy`] is not.
pub const NESTED_RIGHTS: &str = "the store enforces no rights in nested transactions (CVE-2026-33343), not even a login: \
    anyone with a client certificate can write and delete every key\n\
    hint: install etcd 3.4.42, 3.5.28, 3.6.9 or later, and issue client certificates to members of the fleet alone";

/// Claims a knock that does not exist, deletes the claim again, and asks whether the user could write the policy.
///
/// # Errors
/// If the system's random number generator fails.
pub fn try_rights(
    client: &StoreClient,
    space: &KeySpace,
    claimant: &Claimant,
    now: Timestamp,
) -> Result<RightsReport, RandomError> {
    let key = ClaimKey {
        timestamp: now,
        // The key of no client: its fingerprint is a hash.
        fingerprint: Fingerprint::from_bytes([0; 8]),
        domain: ReplayDomain::Datagrams,
        id: random()?,
    };
    let claim = KnockClaim { key, attempt: random()?, code: None, uses: None };
    // Logs in, for which a claim's deadline may be too short on a busy host.
    let _ = client.inspect(&space.path(&StoreKey::Floor), Patience::BACKGROUND);
    let claimer = Claimer::new(client, space.clone(), claimant.clone());
    let mut trial = claimer.decide(vec![claim]).pop().unwrap_or(ClaimOutcome::Missing(StoreKey::Claim(key)));
    if trial.acts() {
        let path = space.path(&StoreKey::Claim(key));
        if let Err(error) = client.delete(KeyRange::one(path), Patience::BACKGROUND) {
            trial = ClaimOutcome::Unknown(error.fault().clone());
        }
    }
    let policy = policy_write(space);
    let writes_policy = is_permitted(client, &policy);
    let nested = Txn::unconditional(vec![TxnOp::Txn(policy)]);
    Ok(RightsReport { trial, writes_policy, writes_policy_nested: is_permitted(client, &nested) })
}

/// etcd checks rights before it compares, so a transaction that can't succeed shows them and changes nothing.
fn policy_write(space: &KeySpace) -> Txn {
    let path = format!("{}rights", String::from_utf8_lossy(space.part("policy/").start()));
    let never = [Compare::absent(path.as_str()), Compare::value_is(path.as_str(), "")];
    Txn { compare: never.to_vec(), success: vec![TxnOp::put(path, "")], failure: Vec::new() }
}

fn is_permitted(client: &StoreClient, txn: &Txn) -> Result<bool, StoreError> {
    match client.txn(txn, Patience::BACKGROUND) {
        Ok(_) => Ok(true),
        Err(error) if *error.fault() == StoreFault::Permission => Ok(false),
        Err(error) => Err(error),
    }
}

fn add_role(name: &str) -> SetupRequest {
    SetupRequest::new("/v3/auth/role/add", format!("creates role {name}"), &json!({"name": name}))
}

fn permit(role: &str, right: &str, range: &KeyRange, part: &str) -> SetupRequest {
    let permission =
        json!({"permType": right, "key": encode(range.start()), "range_end": encode(range.end())});
    SetupRequest::new(
        "/v3/auth/role/grant",
        format!("gives role {role} the right {right} on {part}"),
        &json!({"name": role, "perm": permission}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_write_all_but_the_policy() {
        let fleet: FleetName = "prod".parse().unwrap();
        let purposes: Vec<_> = roles(&fleet).into_iter().map(|request| request.purpose).collect();
        let written = |part| format!("gives role spa-knock-prod-member the right READWRITE on {part}");
        for part in MEMBER_WRITES {
            assert!(purposes.contains(&written(part)), "{part}");
        }
        assert!(!purposes.iter().any(|purpose| purpose.contains("policy")), "{purposes:?}");
        let login = Login { user: "a".to_owned(), password: Zeroizing::new("secret".to_owned()) };
        let requests = user(&fleet, &login, StoreRole::Member);
        assert_eq!(requests[0].purpose, "creates user a");
        assert_eq!(requests[0].body.as_slice(), br#"{"name":"a","password":"secret"}"#);
        assert_eq!(
            String::from_utf8(requests[1].body.to_vec()).unwrap(),
            r#"{"role":"spa-knock-prod-member","user":"a"}"#
        );
    }
}
