//! Messages between the keeper and the store process: one JSON object each, over one channel. Both sides can parse any
//! bytes without failing. The store process may be compromised: what it sends can make the keeper refuse knocks, and can
//! make it accept a knock that another member has accepted, but opens nothing that no client has signed.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The version, which the store process reports first. The keeper rejects another one.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), ", store messages 1");
/// The largest message in bytes. Below the usual size of a socket's buffer.
pub(crate) const MESSAGE_MAX: usize = 160 << 10;
/// The largest file or sealed value in a message, in bytes. Values are written with two hex digits for each byte.
pub(crate) const CONTENT_MAX: usize = 64 << 10;

/// From the keeper. The first messages are settings, which end with [`ToStore::Start`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToStore {
    /// A member of etcd, with the addresses of its host name.
    Endpoint { url: String, addresses: Vec<std::net::SocketAddr> },
    /// The certificates for TLS, in PEM form: first all of the CA, then those of the member, then its key.
    Tls(TlsPart, SecretText),
    /// User and password.
    Login { user: String, password: SecretText },
    /// The settings are complete: switch to this user, enter the sandbox, and begin.
    Start(StartSettings),
    /// Claim a knock.
    Claim(ClaimMessage),
    /// Write a sealed grant, on a lease for this many seconds. `id` is the knock's. Those that it `replaces` are deleted
    /// after that.
    Publish { id: String, seconds: u32, sealed: String, replaces: Vec<String> },
    /// Delete these grants.
    Withdraw { ids: Vec<String> },
    /// What the member's record contains besides its clock.
    Describe { address: String, policy_revision: u64, policy_digest: String },
}

/// One part of the TLS files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TlsPart {
    Ca,
    Certificate,
    Key,
}

/// A text that is wiped, and has no readable `Debug`.
#[derive(Serialize, Deserialize)]
pub(crate) struct SecretText(pub(crate) Zeroizing<String>);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// The settings that are no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StartSettings {
    pub(crate) fleet: String,
    pub(crate) member: String,
    /// 32 hex digits.
    pub(crate) boot: String,
    pub(crate) window_ms: u64,
    /// What was seen of the store before ([`spa_knock_fleet::rollback::StoreMark`]).
    pub(crate) mark: Option<String>,
    /// The user to switch to; none = keep the user.
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) version: String,
}

/// A knock to claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClaimMessage {
    /// Identifies the answer.
    pub(crate) ticket: u64,
    /// The key in the store, without the fleet's prefix: `claim/…`.
    pub(crate) key: String,
    /// 32 hex digits.
    pub(crate) attempt: String,
    /// The seed (16 hex digits) and the time step of a one-time password.
    pub(crate) code: Option<(String, u64)>,
    /// The fingerprint, the count that the member knows, and the limit.
    pub(crate) uses: Option<(String, u64, u64)>,
}

/// From the store process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromStore {
    /// Its [`VERSION`]; always the first message.
    Version(String),
    /// It is confined and its threads run; the store may not have answered yet.
    Running { landlock: String },
    /// It cannot run, or not any more; the reason as human-readable text.
    Failed(String),
    /// What became of a claim, and how long the store took.
    Claimed { ticket: u64, outcome: OutcomeMessage, micros: u64 },
    /// All entries follow, up to [`FromStore::Complete`]. What is not among them is not in the store any more.
    Begin,
    /// A policy entry or a grant: its key without the fleet's prefix, and its value in hex digits; without a value, it was
    /// deleted. `lease_left` is only known for a grant that was found, not watched.
    Entry { key: String, value: Option<String>, lease_left: Option<u64> },
    /// Everything up to this revision is known.
    Complete { revision: u64 },
    /// How the store is; every second.
    Report(Box<StoreReport>),
}

/// What became of a claim. The texts are human-readable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OutcomeMessage {
    Won,
    Lost(String),
    BelowFloor,
    CodeUsed,
    /// All uses are used up.
    UsesGone,
    Missing(String),
    Unknown(String),
}

/// How the store is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreReport {
    /// To be kept on disk.
    pub(crate) mark: Option<String>,
    /// Why the store is not the one that was seen before.
    pub(crate) went_back: Option<String>,
    /// Time since the store last answered, in milliseconds; none = not yet.
    pub(crate) silent_ms: Option<u64>,
    /// Time since all changes of clients were last known; none = not yet. A store can answer claims and not this.
    pub(crate) watch_silent_ms: Option<u64>,
    pub(crate) endpoints: Vec<EndpointState>,
    pub(crate) out_of_space: bool,
    /// The live members, by name, this one included.
    pub(crate) members: Vec<MemberState>,
    /// How far the own clock is off the median if that is too much: then it neither counts nor raises the floor.
    pub(crate) own_clock_off_ms: Option<i64>,
    /// The highest floor seen, in milliseconds.
    pub(crate) floor_ms: u64,
}

/// One member of etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndpointState {
    pub(crate) url: String,
    /// Why it does not answer as it must.
    pub(crate) problem: Option<String>,
}

/// One live member of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberState {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) address: String,
    /// Its clock minus the median of all.
    pub(crate) offset_ms: i64,
    pub(crate) policy_revision: u64,
    pub(crate) policy_digest: String,
}

/// Encodes a message. The bytes may contain a secret.
pub(crate) fn to_bytes(message: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
    // Texts and numbers are always serialized.
    let _ = serde_json::to_writer(&mut *bytes, message);
    bytes
}

/// Decodes a message.
pub(crate) fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// Bytes as lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that hex digits mean.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(text.get(at..at.checked_add(2)?)?, 16).ok()).collect()
}

/// The bytes that exactly twice as many hex digits mean.
pub(crate) fn array_from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    from_hex(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written_and_any_bytes_are_none() {
        let claim = ClaimMessage {
            ticket: 7,
            key: "claim/0".to_owned(),
            attempt: "00".repeat(16),
            code: Some(("ab".repeat(8), 3)),
            uses: None,
        };
        let bytes = to_bytes(&ToStore::Claim(claim.clone()));
        let Some(ToStore::Claim(read_back)) = read(&bytes) else { panic!("not a claim") };
        assert_eq!(read_back, claim);
        let sent = FromStore::Claimed { ticket: 7, outcome: OutcomeMessage::Won, micros: 2_300 };
        assert_eq!(read::<FromStore>(&to_bytes(&sent)), Some(sent));
        for bytes in [&b""[..], b"{}", b"\xff", b"[[[[", b"{\"Claim\":{}}"] {
            assert!(read::<ToStore>(bytes).is_none());
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = ToStore::Login {
            user: "member".to_owned(),
            password: SecretText(Zeroizing::new("hunter2".to_owned())),
        };
        assert!(!format!("{secret:?}").contains("hunter2"));
        let Some(ToStore::Login { password, .. }) = read(&to_bytes(&secret)) else { panic!("not a login") };
        assert_eq!(*password.0, "hunter2");
    }

    #[test]
    fn hex_digits_are_read_as_written() {
        assert_eq!(from_hex(&hex(&[0, 10, 255])), Some(vec![0, 10, 255]));
        assert_eq!((from_hex("0"), from_hex("0g"), from_hex("ää")), (None, None, None));
        assert_eq!(array_from_hex::<2>("00ff"), Some([0, 255]));
        assert_eq!(array_from_hex::<3>("00ff"), None);
    }
}
