//! Messages as terms: who made a part with which key over what, in place of its bytes.

/// A server. Each has a pair secret with the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Server {
    /// The one whose properties are checked.
    A,
    /// Another one.
    B,
}

/// The version of the protocol, which the key determines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Symmetric keys alone.
    V1,
    /// With a signature of the client's SSH key.
    V2,
}

/// The purpose of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// Names the key on the wire.
    Hint,
    /// Makes the tag of a datagram.
    Sign,
    /// Encrypts the body.
    Seal,
    /// Encrypts a reply.
    Reply,
}

/// A key: derived from the pair secret of the client and this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName {
    /// The server, unless keys are not bound to one.
    pub server: Server,
    /// The version.
    pub version: Version,
    /// The purpose.
    pub label: Label,
}

pub(crate) type Nonce = u8;
pub(crate) type Action = u8;

/// The signature of the client's SSH key over M: section 4 of version 2. A field is none in the variant that omits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature {
    /// The server id, which two servers can share.
    pub id: u8,
    /// `k_id`: of which pair secret.
    pub key_id: Option<(Server, Version)>,
    /// The hint.
    pub hint: KeyName,
    /// The nonce.
    pub nonce: Option<u8>,
    /// The body before the signature.
    pub action: Option<u8>,
}

/// The body of a knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Body {
    /// What the client asks for.
    pub action: u8,
    /// None in version 1.
    pub signature: Option<Signature>,
}

/// `AEAD(HMAC(key, nonce), nonce, hint, body)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sealed {
    /// The key.
    pub key: KeyName,
    /// The nonce.
    pub nonce: u8,
    /// The associated data.
    pub hint: KeyName,
    /// The plaintext.
    pub body: Body,
}

/// The tag at the end of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// The key.
    pub key: KeyName,
    /// What it covers.
    pub over: (KeyName, u8, Sealed),
}

/// A knock datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KnockMessage {
    /// The hint: the MAC of an epoch, which is always the same here.
    pub hint: KeyName,
    /// The nonce.
    pub nonce: u8,
    /// The encrypted body.
    pub sealed: Sealed,
    /// The tag.
    pub tag: Tag,
}

/// A reply: `AEAD(HMAC(key, its own nonce), its own nonce, the knock's nonce, granted)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyMessage {
    /// The key.
    pub key: KeyName,
    /// The associated data: the nonce of the knock.
    pub to: u8,
}
