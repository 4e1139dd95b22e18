//! Steps 4 and 5: decrypts the body of a datagram and checks that its timestamp is within the window. A knock of version 2
//! is then verified ([`super::signature`]) before anything else in it is read. A port sequence ([`super::proof`]) leads
//! to the same result.

use std::time::Duration;

use super::fido_counters::FidoCounter;
use super::proof::ProvenSequence;
use super::replay::{KnockId, ReplayDomain};
use crate::auth::Authentic;
use crate::auth::policy::ClientKey;
use crate::crypto::DecryptionFailed;
use crate::crypto::ssh::{BadSignature, FidoData, MessagePrefix, PublicKey};
use crate::knock::{Knock, ReplyWanted, Timestamp};
use crate::wire::{Body, SignedBody, UnsupportedFormat, VerifiedBody};

/// A datagram with a valid tag whose body could be decrypted.
pub(in crate::auth) struct Decrypted(DecryptedKnock);

/// A decrypted datagram whose timestamp is within the window. In version 2, its signature is not verified.
pub(in crate::auth) struct FreshDatagram(DecryptedKnock);

struct DecryptedKnock {
    id: KnockId,
    body: DecryptedBody,
}

enum DecryptedBody {
    Unsigned(Body),
    Signed(Box<SignedBody>),
}

/// A fresh datagram; in version 2, of a client whose SSH key has signed it. Created only in this module.
pub(in crate::auth) struct VerifiedDatagram {
    id: KnockId,
    body: Body,
    /// The FIDO device's statement, and the counter in it.
    fido: Option<(FidoData, FidoCounter)>,
}

impl Decrypted {
    /// Step 4: decrypts the body.
    pub(in crate::auth) fn open(knock: &Authentic<'_>, client: &ClientKey) -> Result<Self, DecryptionFailed> {
        let envelope = knock.envelope();
        let body = match client.signer {
            None => DecryptedBody::Unsigned(envelope.open(&client.keys)?),
            Some(_) => DecryptedBody::Signed(Box::new(envelope.open_signed(&client.keys)?)),
        };
        Ok(Self(DecryptedKnock { id: *envelope.nonce, body }))
    }

    pub(in crate::auth) const fn id(&self) -> &KnockId {
        &self.0.id
    }

    /// Step 5: fresh, or how far the clocks differ and in which direction.
    pub(in crate::auth) fn check_time(self, now: Timestamp, window: Duration) -> Result<FreshDatagram, Skew> {
        let stamped = self.0.timestamp();
        let apart = stamped.distance(now);
        if apart <= window {
            Ok(FreshDatagram(self.0))
        } else if stamped < now {
            Err(Skew::Behind(apart))
        } else {
            Err(Skew::Ahead(apart))
        }
    }
}

impl DecryptedKnock {
    const fn timestamp(&self) -> Timestamp {
        match &self.body {
            DecryptedBody::Unsigned(body) => body.timestamp(),
            DecryptedBody::Signed(body) => body.timestamp(),
        }
    }
}

impl FreshDatagram {
    pub(in crate::auth) const fn id(&self) -> &KnockId {
        &self.0.id
    }

    pub(in crate::auth) const fn timestamp(&self) -> Timestamp {
        self.0.timestamp()
    }

    pub(in crate::auth) const fn reply(&self) -> ReplyWanted {
        match &self.0.body {
            DecryptedBody::Unsigned(body) => body.reply(),
            DecryptedBody::Signed(body) => body.reply(),
        }
    }

    /// The datagram of a client without a public key; `None` for one of version 2.
    pub(super) fn unsigned(self) -> Option<VerifiedDatagram> {
        match self.0.body {
            DecryptedBody::Unsigned(body) => Some(VerifiedDatagram { id: self.0.id, body, fido: None }),
            DecryptedBody::Signed(_) => None,
        }
    }

    /// Step 6b: verifies the signature of a client with a public key.
    pub(super) fn verify(
        &self,
        key: &PublicKey,
        prefix: Option<&MessagePrefix>,
    ) -> Result<VerifiedDatagram, BadSignature> {
        let (DecryptedBody::Signed(body), Some(prefix)) = (&self.0.body, prefix) else {
            return Err(BadSignature);
        };
        let VerifiedBody { body, fido } = body.verify(key, prefix)?;
        let fido = fido.map(|fido| (fido, FidoCounter::of(key.fingerprint(), fido.counter)));
        Ok(VerifiedDatagram { id: self.0.id, body, fido })
    }
}

impl VerifiedDatagram {
    pub(in crate::auth) const fn timestamp(&self) -> Timestamp {
        self.body.timestamp()
    }

    pub(super) fn fido(&self) -> Option<FidoData> {
        self.fido.map(|(fido, _)| fido)
    }

    pub(super) fn counter(&self) -> Option<FidoCounter> {
        self.fido.map(|(_, counter)| counter)
    }
}

/// The difference between a knock's timestamp and the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skew {
    /// The timestamp is older than the window.
    Behind(Duration),
    /// The timestamp is further in the future than the window.
    Ahead(Duration),
}

/// A fresh knock, signed if it must be. Its content can be created only by the checks.
pub(in crate::auth) enum Fresh {
    /// A datagram.
    Datagram(VerifiedDatagram),
    /// A port sequence.
    Ports(ProvenSequence),
}

impl Fresh {
    pub(in crate::auth) const fn id(&self) -> &KnockId {
        match self {
            Self::Datagram(datagram) => &datagram.id,
            Self::Ports(sequence) => sequence.id(),
        }
    }

    pub(in crate::auth) const fn timestamp(&self) -> Timestamp {
        match self {
            Self::Datagram(datagram) => datagram.body.timestamp(),
            Self::Ports(sequence) => sequence.knock().timestamp,
        }
    }

    /// The content of the knock.
    pub(in crate::auth) const fn understand(&self) -> Result<&Knock, UnsupportedFormat> {
        match self {
            Self::Datagram(datagram) => datagram.body.understand(),
            Self::Ports(sequence) => Ok(sequence.knock()),
        }
    }

    /// The counter of the FIDO device that signed the knock.
    pub(in crate::auth) fn counter(&self) -> Option<FidoCounter> {
        match self {
            Self::Datagram(datagram) => datagram.counter(),
            Self::Ports(_) => None,
        }
    }

    /// The replay domain in which the knock is remembered.
    pub(in crate::auth) const fn replay_domain(&self) -> ReplayDomain {
        match self {
            Self::Datagram(_) => ReplayDomain::Datagrams,
            Self::Ports(_) => ReplayDomain::Ports,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{ClientRules, KeyAge, KeyLimit, SshSigner, Touch};
    use crate::crypto::{KeySet, PairSecret, Secret};
    use crate::knock::{PrefixLengths, open_ssh};
    use crate::wire::Datagram;

    /// A valid point: the base point of Ed25519.
    const POINT: [u8; 32] = {
        let mut point = [0x66; 32];
        point[0] = 0x58;
        point
    };

    fn public_key() -> PublicKey {
        let blob = [&[0, 0, 0, 11], b"ssh-ed25519".as_slice(), &[0, 0, 0, 32], &POINT].concat();
        PublicKey::from_blob(&blob).unwrap()
    }

    fn client(keys: &KeySet, signer: Option<SshSigner>) -> ClientKey {
        ClientKey {
            name: "laptop".parse().unwrap(),
            fingerprint: keys.fingerprint,
            keys: keys.keeper(),
            signer,
            age: KeyAge::Current,
            otp: None,
            rules: ClientRules {
                allow: [].into(),
                sources: [].into(),
                grant_prefix: PrefixLengths::SINGLE,
                rate: None,
                expires: None,
                uses: None,
                key_limit: None,
                grants: 64,
            },
        }
    }

    fn fresh(datagram: &Datagram, keys: &KeySet, signer: Option<SshSigner>) -> FreshDatagram {
        let knock = Authentic::from_watcher(keys.fingerprint, datagram.as_bytes()).unwrap();
        let decrypted =
            Decrypted::open(&knock, &client(keys, signer)).unwrap_or_else(|_| panic!("not sealed"));
        decrypted
            .check_time(Timestamp::from_millis(1_000), Duration::ZERO)
            .unwrap_or_else(|_| panic!("stale"))
    }

    #[test]
    fn a_datagram_of_the_other_version_than_its_client_needs_is_never_verified() {
        let server = "bastion".parse().unwrap();
        let keys = PairSecret::new(Secret::from_bytes(&[7; 32])).keys(&server);
        let knock = open_ssh(Timestamp::from_millis(1_000));
        let datagram = Datagram::seal(&knock, &keys.client()).unwrap();
        let key = public_key();
        let prefix = PairSecret::new(Secret::from_bytes(&[7; 32])).signed_keys(&server).keeper().message;
        assert!(prefix.is_some() && keys.keeper().message.is_none());

        let unsigned = fresh(&datagram, &keys, None);
        assert!(unsigned.verify(&key, prefix.as_ref()).is_err(), "it has no signature");
        assert!(unsigned.unsigned().is_some(), "its client needs none");

        let signer = SshSigner { public_key: key.clone(), touch: Touch::Present, limit: KeyLimit::UNLIMITED };
        let signed = fresh(&datagram, &keys, Some(signer));
        assert!(signed.verify(&key, None).is_err(), "its key has no messages to sign");
        assert!(signed.unsigned().is_none(), "a signature is never optional");
    }
}
