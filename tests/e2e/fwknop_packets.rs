//! Packets of fwknop that its client would never send, made with valid keys or without.

use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use spa_knock_core::crypto::random;
use spa_knock_fwknop::{CipherKey, Content, Digest, HmacKey, Message, Port, Transport};

/// The keys of `super::fwknop::KEYS`.
pub(super) const USUAL: PacketKeys = PacketKeys { cipher: "a-key-of-fwknop", hmac: "another-key-for-hmac" };
/// Those of another stanza.
pub(super) const OTHER: PacketKeys = PacketKeys { cipher: "a-second-key", hmac: "a-second-hmac-key" };

/// The keys of a stanza.
#[derive(Clone, Copy)]
pub(super) struct PacketKeys {
    pub(super) cipher: &'static str,
    pub(super) hmac: &'static str,
}

impl PacketKeys {
    /// A stanza with these keys.
    pub(super) fn stanza(&self, rest: &str) -> String {
        format!("SOURCE ANY\nKEY {}\nHMAC_KEY {}\n{rest}\n", self.cipher, self.hmac)
    }

    /// The payload of a packet with any plaintext.
    pub(super) fn seal(&self, plain: &str) -> Vec<u8> {
        let key = CipherKey::new(self.cipher.as_bytes()).unwrap();
        let hmac_key = HmacKey::new(Digest::Sha256, self.hmac.as_bytes());
        key.seal(plain, &random().unwrap(), &hmac_key).into_bytes()
    }

    /// A valid packet, made now: it asks for a TCP port for this address.
    pub(super) fn access(&self, allow: Ipv4Addr, port: u16) -> Vec<u8> {
        let content = Content::Access(vec![Port { transport: Transport::Tcp, number: port }]);
        self.seal(&text(allow, content, now()))
    }
}

/// The text of a message of this time, with a random number.
pub(super) fn text(allow: Ipv4Addr, content: Content, time: u64) -> String {
    let number = u64::from_be_bytes(random().unwrap()) % 10_000_000_000_000_000;
    let message = Message { user: "alice".to_owned(), time, allow, content, timeout: None };
    message.to_text(number, Digest::Sha256)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Texts of the alphabet, first character and lengths that packets have; half of them have the length of whole blocks
/// of ciphertext and an HMAC with SHA-256, so that only the hash rejects them.
pub(super) fn garbage(count: usize) -> Vec<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let garbage = |number: usize| {
        let length = if number.is_multiple_of(2) {
            let blocks = 5 + number / 2 % 14;
            (blocks * 16 * 4).div_ceil(3) - "U2FsdGVkX1".len() + 43
        } else {
            140 + number % 336
        };
        let bytes = random::<512>().unwrap();
        let mut text: Vec<u8> =
            bytes[..length].iter().map(|byte| ALPHABET[usize::from(*byte) % 64]).collect();
        text[0] = b"89+/"[number / 4 % 4];
        text
    };
    (0..count).map(garbage).collect()
}
