//! Step 6b: the SSH signature of a knock of version 2, and how many signatures are verified. A thief of the pair secret
//! can make the keeper verify; only failures use tokens, and the address of the client's last grant has its own.

use std::collections::HashMap;
use std::net::IpAddr;

use super::fido_counters::CounterFell;
use super::fresh::{FreshDatagram, VerifiedDatagram};
use super::replay::ReplayMemory;
use crate::auth::policy::ClientKey;
use crate::auth::policy::key_limit::{KeyLimit, TokenBucket};
use crate::auth::policy::rate::Rate;
use crate::auth::policy::ssh_signer::FidoFault;
use crate::auth::rejection::{Rejection, SignatureFault};
use crate::crypto::ssh::BadSignature;
use crate::knock::{ClientName, Now, Steady};

/// Failed verifications of one client in a second.
const CLIENT: u16 = 50;
/// The same of all clients. The first failure of a client in [`KeyLimit::REST`] can exceed it.
const TOTAL: u16 = 1_000;
/// The same of one client from the address of its last grant.
const USUAL: u16 = 10;

/// Which signatures are verified now.
#[derive(Debug, Default)]
pub(in crate::auth) struct VerificationBudget {
    total: TokenBucket,
    clients: HashMap<ClientName, ClientBudget>,
}

#[derive(Debug, Default)]
struct ClientBudget {
    any: TokenBucket,
    usual: TokenBucket,
    /// The source of the client's last authorized knock.
    usual_source: Option<IpAddr>,
    /// Knocks that are recorded.
    signed: TokenBucket,
}

/// The bucket that a failure takes its token from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bucket {
    Usual,
    Any,
}

impl VerificationBudget {
    /// Step 6b: the datagram of a client that has signed it, or that needs no signature. A refusal has changed nothing but the
    /// number of failures.
    pub(in crate::auth) fn verify(
        &mut self,
        fresh: FreshDatagram,
        client: &ClientKey,
        replay: &ReplayMemory,
        source: IpAddr,
        now: Now,
    ) -> Result<VerifiedDatagram, Rejection> {
        let Some(signer) = &client.signer else {
            return fresh.unsigned().ok_or(Rejection::Signature(SignatureFault::Wrong));
        };
        let Some(bucket) = self.bucket(&client.name, source, now.steady) else {
            return Err(Rejection::Signature(SignatureFault::Unverified));
        };
        let verified = fresh
            .verify(&signer.public_key, client.keys.message.as_ref())
            .map_err(|BadSignature| SignatureFault::Wrong)
            .and_then(|verified| match verified.fido() {
                Some(fido) => signer.touch.check(fido).map(|()| verified).map_err(SignatureFault::from),
                None => Ok(verified),
            })
            .and_then(|verified| match verified.counter() {
                Some(counter) => replay
                    .check_counter(client.fingerprint, verified.timestamp(), counter)
                    .map(|()| verified)
                    .map_err(|CounterFell| SignatureFault::Counter),
                None => Ok(verified),
            });
        match verified {
            Err(fault) => {
                self.take(&client.name, bucket, now.steady);
                Err(Rejection::Signature(fault))
            }
            Ok(verified) => Ok(verified),
        }
    }

    /// Takes a token for a knock that is about to be recorded. Returns whether the client had one. Copies of a knock from
    /// elsewhere take none: an eavesdropper can send them.
    pub(in crate::auth) fn admit(&mut self, client: &ClientKey, now: Now) -> bool {
        let Some(signer) = &client.signer else { return true };
        self.clients.entry(client.name.clone()).or_default().signed.take(signer.limit, now.steady)
    }

    /// Notes that a client with a public key has been authorized from this address. Returns whether the last time was from
    /// another one.
    pub(in crate::auth) fn note_authorized(&mut self, client: &ClientName, source: IpAddr) -> bool {
        self.clients.entry(client.clone()).or_default().usual_source.replace(source) != Some(source)
    }

    /// The address that has tokens of its own.
    pub(in crate::auth) fn usual_source(&self, client: &ClientName) -> Option<IpAddr> {
        self.clients.get(client)?.usual_source
    }

    /// Forgets all clients except those for which `keep` is true.
    pub(in crate::auth) fn keep_only(&mut self, keep: impl Fn(&ClientName) -> bool) {
        self.clients.retain(|name, _| keep(name));
    }

    /// The bucket that has a token for a failure from this source.
    fn bucket(&self, client: &ClientName, source: IpAddr, now: Steady) -> Option<Bucket> {
        let of_client = self.clients.get(client);
        if let Some(budget) = of_client
            && budget.usual_source == Some(source)
            && budget.usual.has_token(limit(USUAL), now)
        {
            return Some(Bucket::Usual);
        }
        let has_own = of_client.is_none_or(|budget| budget.any.has_token(limit(CLIENT), now));
        // The thieves of other pair secrets keep no client out that had no failure recently.
        let has_rested = of_client.is_none_or(|budget| budget.any.has_rested(KeyLimit::REST, now));
        (has_own && (has_rested || self.total.has_token(limit(TOTAL), now))).then_some(Bucket::Any)
    }

    fn take(&mut self, client: &ClientName, bucket: Bucket, now: Steady) {
        let budget = self.clients.entry(client.clone()).or_default();
        let _ = match bucket {
            Bucket::Usual => budget.usual.take(limit(USUAL), now),
            Bucket::Any => budget.any.take(limit(CLIENT), now) && self.total.take(limit(TOTAL), now),
        };
    }
}

fn limit(per_second: u16) -> KeyLimit {
    KeyLimit::new(per_second.into(), Rate::a_second(per_second))
}

impl From<FidoFault> for SignatureFault {
    fn from(fault: FidoFault) -> Self {
        match fault {
            FidoFault::Presence => Self::Presence,
            FidoFault::Pin => Self::Pin,
        }
    }
}
