//! The keys of all scenes, and the datagrams that are made with them.

use std::sync::LazyLock;

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use spa_knock_core::crypto::ssh::{PublicKey, RawSignature};
use spa_knock_core::crypto::{KeySet, PairSecret, Secret};
use spa_knock_core::knock::Knock;
use spa_knock_core::wire::{Datagram, PADDING_MAX, UnsignedKnock};

use super::scene::{CLIENTS, Scene, Sender, Signer};

/// The keys of each client: the current one, and the one before, first those of version 1 and then those of version 2.
static KEYS: LazyLock<Vec<KeySet>> = LazyLock::new(|| {
    let server = "bastion".parse().expect("a server id");
    (0..2 * CLIENTS as u8)
        .map(|number| PairSecret::new(Secret::from_bytes(&[number + 1; 32])))
        .flat_map(|secret| [secret.keys(&server), secret.signed_keys(&server)])
        .collect()
});

/// The SSH key of each client, and of a thief of their pair secrets.
static SSH_KEYS: LazyLock<Vec<(Ed25519KeyPair, PublicKey)>> = LazyLock::new(|| {
    let key = |number: u8| {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[number + 1; 32]).expect("a seed");
        let strings = [b"ssh-ed25519".as_slice(), pair.public_key().as_ref()];
        let length = |string: &[u8]| u32::try_from(string.len()).expect("short").to_be_bytes();
        let blob = strings.map(|string| [&length(string), string].concat()).concat();
        (pair, PublicKey::from_blob(&blob).expect("a public key"))
    };
    (0..=CLIENTS as u8).map(key).collect()
});

/// The public key of a client.
pub(super) fn public_key(client: usize) -> PublicKey {
    SSH_KEYS[client].1.clone()
}

impl Scene {
    pub(super) fn keys(&self, sender: Sender) -> &'static KeySet {
        let place = sender.client * 2 + usize::from(sender.is_previous);
        &KEYS[place * 2 + usize::from(self.clients[sender.client].is_signed)]
    }

    /// The datagram with this knock.
    pub(super) fn datagram(&self, sender: Sender, knock: &Knock, nonce: u8, signer: Signer) -> Datagram {
        let keys = self.keys(sender).client();
        let padding = nonce % (PADDING_MAX + 1);
        if !self.clients[sender.client].is_signed {
            return Datagram::seal_with(knock, &keys, [nonce; 12], padding).expect("a datagram");
        }
        let (pair, public) = &SSH_KEYS[if signer == Signer::Client { sender.client } else { CLIENTS }];
        let unsigned = UnsignedKnock::with(knock, &keys, public, [nonce; 12], padding).expect("a knock");
        let signature = pair.sign(&unsigned.message().signed_data());
        let signature = RawSignature::read(public.kind(), signature.as_ref()).expect("a signature");
        unsigned.seal(&signature, &keys).expect("a datagram")
    }
}
