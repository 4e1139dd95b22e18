//! Grants that all members open: what this member has granted is published, and what others have granted is opened here for
//! the rest of its time.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::fleet::ipc::{self, ToStore};
use spa_knock_core::auth::{Access, AccessTarget, Authorized, Effect, KnockId};
use spa_knock_core::knock::{ActionName, ClientName, Now, Steady};
use spa_knock_fleet::grants::{ReceivedGrants, SharedGrant};
use spa_knock_fleet::keys::KeySpace;
use spa_knock_fleet::seal::FleetKey;

/// The grants in the store.
pub(crate) struct MemberGrants {
    key: FleetKey,
    space: KeySpace,
    held: ReceivedGrants,
    /// While everything is read again: the grants that were found.
    found: Option<BTreeSet<KnockId>>,
}

/// What a change in the store means for the firewall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GrantChange {
    /// Open this for the rest of its time.
    Open(KnockId, SharedGrant, Duration),
    /// Close these before their time is over, if they are open for this client and action.
    Close { client: ClientName, action: ActionName, accesses: Vec<Access> },
}

impl MemberGrants {
    /// No grants are known yet.
    pub(crate) fn new(key: FleetKey, space: KeySpace) -> Self {
        Self { key, space, held: ReceivedGrants::default(), found: None }
    }

    /// The message that publishes what a knock has opened; none if that is nothing that other members could open.
    pub(crate) fn publish(&mut self, authorized: &Authorized, now: Now) -> Option<ToStore> {
        let context = authorized.context();
        let (_, id) = context.knock();
        let (mut addresses, mut ports) = (Vec::new(), Vec::new());
        for effect in authorized.effects() {
            let Effect::Open(grants) = effect else { continue };
            for access in grants.iter().map(spa_knock_core::auth::Grant::access) {
                if let (AccessTarget::Ports(range), None) = (access.target, access.link) {
                    push_new(&mut addresses, access.from);
                    push_new(&mut ports, range);
                }
            }
        }
        if addresses.is_empty() {
            return None;
        }
        let (_, timestamp) = context.moment();
        let grant = SharedGrant {
            client: context.client().clone(),
            action: context.action()?.clone(),
            addresses,
            ports,
            seconds: context.seconds(),
            timestamp,
        };
        // A client that knocks again and again has one entry in the store for the same access, and not one for each knock.
        let is_replaced = |held: &SharedGrant| {
            held.client == grant.client
                && held.action == grant.action
                && held.addresses == grant.addresses
                && held.ports == grant.ports
        };
        let replaced = self.held.open(now.steady).filter(|(_, held)| is_replaced(&held.grant));
        let replaces = replaced.map(|(id, _)| ipc::hex(id)).collect();
        let sealed = grant.seal(&self.key, &self.space, id);
        let sealed = sealed.inspect_err(|error| log::error!("grant: not published: {error}")).ok()?;
        let seconds = grant.seconds;
        // So that it is not opened a second time when the store reports it.
        self.held.insert(id, grant, now.steady);
        Some(ToStore::Publish { id: ipc::hex(&id), seconds, sealed: ipc::hex(&sealed), replaces })
    }

    /// All grants follow.
    pub(crate) fn begin(&mut self) {
        self.found = Some(BTreeSet::new());
    }

    /// A grant was written or deleted.
    ///
    /// # Errors
    /// Why a grant is not opened.
    pub(crate) fn apply(
        &mut self,
        id: KnockId,
        value: Option<&[u8]>,
        lease_left: Option<u64>,
        now: Now,
        window: Duration,
    ) -> Result<Option<GrantChange>, String> {
        let Some(value) = value else { return Ok(self.remove(id, now.steady)) };
        if let Some(found) = &mut self.found {
            found.insert(id);
        }
        if self.held.contains(&id) {
            return Ok(None);
        }
        let grant = SharedGrant::open(&self.key, &self.space, id, value, now.wall, window)
            .map_err(|fault| fault.to_string())?;
        let held = match lease_left {
            None => self.held.insert(id, grant, now.steady),
            Some(left) => self.held.insert_found(id, grant, Duration::from_secs(left), now.steady),
        };
        let open = |left| GrantChange::Open(id, held.grant.clone(), left);
        Ok(held.remaining(now.steady).map(open))
    }

    /// Everything was read. Returns what must be closed, because the store does not have it any more.
    pub(crate) fn complete(&mut self, now: Steady) -> Vec<GrantChange> {
        let Some(found) = self.found.take() else { return Vec::new() };
        self.held.missing_from(&found).into_iter().filter_map(|id| self.remove(id, now)).collect()
    }

    /// Forgets grants of this client and action for one of these addresses, because they were revoked here. Returns the
    /// message that withdraws them everywhere.
    pub(crate) fn withdraw(
        &mut self,
        client: &ClientName,
        action: Option<&ActionName>,
        addresses: &[IpAddr],
        now: Steady,
    ) -> Option<ToStore> {
        let is_meant = |grant: &SharedGrant| {
            grant.client == *client
                && Some(&grant.action) == action
                && grant.addresses.iter().any(|prefix| addresses.contains(&prefix.first()))
        };
        let ids: Vec<_> =
            self.held.open(now).filter(|(_, held)| is_meant(&held.grant)).map(|(id, _)| *id).collect();
        for id in &ids {
            self.held.remove(*id, now);
        }
        (!ids.is_empty()).then(|| ToStore::Withdraw { ids: ids.iter().map(|id| ipc::hex(id)).collect() })
    }

    /// What the deletion of a grant closes: all that no other grant of its client and action still opens.
    fn remove(&mut self, id: KnockId, now: Steady) -> Option<GrantChange> {
        let removed = self.held.remove(id, now)?;
        let is_still_open = |access: &Access| {
            self.held.open(now).any(|(_, held)| {
                let SharedGrant { client, action, .. } = &held.grant;
                *client == removed.client
                    && *action == removed.action
                    && accesses(&held.grant).contains(access)
            })
        };
        let closed: Vec<_> = accesses(&removed).into_iter().filter(|access| !is_still_open(access)).collect();
        let SharedGrant { client, action, .. } = removed;
        (!closed.is_empty()).then_some(GrantChange::Close { client, action, accesses: closed })
    }
}

/// What a grant opens.
fn accesses(grant: &SharedGrant) -> Vec<Access> {
    let pairs = grant.addresses.iter().flat_map(|from| grant.ports.iter().map(move |ports| (*from, *ports)));
    pairs.map(|(from, ports)| Access::new(from, AccessTarget::Ports(ports))).collect()
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if !list.contains(&value) {
        list.push(value);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make times")]
mod tests {
    use super::*;
    use spa_knock_core::crypto::Secret;
    use spa_knock_core::knock::Timestamp;

    const WINDOW: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Now {
        Now {
            wall: Timestamp::from_millis(1_700_000_000_000 + seconds * 1_000),
            steady: Steady::from_duration(Duration::from_secs(seconds)),
        }
    }

    struct Other {
        key: FleetKey,
        space: KeySpace,
    }

    impl Other {
        fn new() -> Self {
            let space = KeySpace::new(&"prod".parse().unwrap());
            Self { key: FleetKey::new(&Secret::from_bytes(&[3; 32]), &space), space }
        }

        fn grants(&self) -> MemberGrants {
            MemberGrants::new(self.key.clone(), self.space.clone())
        }

        fn sealed(&self, id: u8, ports: &str, seconds: u64) -> Vec<u8> {
            let grant = SharedGrant {
                client: "laptop".parse().unwrap(),
                action: "open-ssh".parse().unwrap(),
                addresses: vec!["192.0.2.7".parse().unwrap()],
                ports: vec![ports.parse().unwrap()],
                seconds: 30,
                timestamp: at(seconds).wall,
            };
            grant.seal(&self.key, &self.space, [id; 12]).unwrap()
        }
    }

    fn closed(change: Option<GrantChange>) -> usize {
        match change {
            Some(GrantChange::Close { accesses, .. }) => accesses.len(),
            _ => 0,
        }
    }

    #[test]
    fn a_grant_of_another_member_is_opened_one_time_for_the_rest_of_its_time() {
        let other = Other::new();
        let mut grants = other.grants();
        let sealed = other.sealed(1, "tcp/22", 0);
        let mut apply = |id: u8, lease, now| grants.apply([id; 12], Some(&sealed), lease, at(now), WINDOW);
        let Ok(Some(GrantChange::Open(_, _, left))) = apply(1, None, 0) else { panic!("not opened") };
        assert_eq!(left, Duration::from_secs(30));
        assert_eq!(apply(1, None, 5), Ok(None), "known");
        assert!(apply(2, None, 5).is_err(), "sealed for another knock");
        let mut found = other.grants();
        let found = found.apply([1; 12], Some(&sealed), Some(17), at(23), WINDOW).unwrap();
        let Some(GrantChange::Open(_, _, left)) = found else { panic!("not opened") };
        assert_eq!(left, Duration::from_secs(7));
    }

    #[test]
    fn a_deleted_grant_closes_what_no_other_one_opens() {
        let other = Other::new();
        let mut grants = other.grants();
        for (id, now) in [(1, 0), (2, 20)] {
            let sealed = other.sealed(id, "tcp/22", now);
            grants.apply([id; 12], Some(&sealed), None, at(now), WINDOW).unwrap();
        }
        assert_eq!(closed(grants.apply([1; 12], None, None, at(25), WINDOW).unwrap()), 0, "renewed");
        assert_eq!(closed(grants.apply([2; 12], None, None, at(25), WINDOW).unwrap()), 1);
        assert_eq!(closed(grants.apply([2; 12], None, None, at(25), WINDOW).unwrap()), 0);
        let sealed = other.sealed(3, "tcp/22", 30);
        grants.apply([3; 12], Some(&sealed), None, at(30), WINDOW).unwrap();
        assert_eq!(closed(grants.apply([3; 12], None, None, at(60), WINDOW).unwrap()), 0, "over");
    }

    #[test]
    fn after_everything_was_read_grants_that_are_gone_are_closed() {
        let other = Other::new();
        let mut grants = other.grants();
        let [first, second] = [(1, "tcp/22"), (2, "tcp/80")].map(|(id, ports)| other.sealed(id, ports, 0));
        grants.apply([1; 12], Some(&first), None, at(0), WINDOW).unwrap();
        grants.apply([2; 12], Some(&second), None, at(0), WINDOW).unwrap();
        grants.begin();
        grants.apply([2; 12], Some(&second), Some(39), at(1), WINDOW).unwrap();
        let closed = grants.complete(at(1).steady);
        assert!(matches!(&closed[..], [GrantChange::Close { accesses, .. }] if accesses.len() == 1));
        assert!(grants.complete(at(1).steady).is_empty());
    }

    #[test]
    fn what_is_revoked_here_is_withdrawn_everywhere() {
        let other = Other::new();
        let mut grants = other.grants();
        grants.apply([1; 12], Some(&other.sealed(1, "tcp/22", 0)), None, at(0), WINDOW).unwrap();
        let client: ClientName = "laptop".parse().unwrap();
        let action: ActionName = "open-ssh".parse().unwrap();
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let mut withdraw = |address| grants.withdraw(&client, Some(&action), &[address], at(1).steady);
        assert!(withdraw("192.0.2.8".parse().unwrap()).is_none());
        let Some(ToStore::Withdraw { ids }) = withdraw(address) else { panic!("not withdrawn") };
        assert_eq!(ids, ["01".repeat(12)]);
        assert!(withdraw(address).is_none(), "one time");
    }
}
