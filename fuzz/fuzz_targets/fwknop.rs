//! The whole path of a packet of fwknop: length and alphabet, HMAC, decryption, message, rights. Only what was sealed with
//! a key is authentic, under that key alone and unchanged; a message is read again as it is written; and no message has
//! more rights than its stanza.
//!
//! The two lowest bits of the first byte of an input are its form: 0 is a payload, 1 a plaintext that is sealed with a
//! valid key, 2 the same with the digest that belongs to it, and 3 the same with one changed byte afterwards. The other
//! bits choose the digest of the HMAC.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};
use spa_knock_fwknop::{
    Arrival, CipherKey, ConfigFiles, Content, Digest, HmacKey, Message, Rights, ServerSettings, Stanza,
    WireText, parse_access,
};
use zeroize::Zeroizing;

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
const ACCESS: &str = "SOURCE ANY\nKEY key\nHMAC_KEY hmac-key\nOPEN_PORTS tcp/22,udp/53\nMAX_FW_TIMEOUT 90\n\
                      SOURCE 203.0.113.0/24\nKEY key\nHMAC_KEY hmac-key\nRESTRICT_PORTS tcp/80\nREQUIRE_USERNAME alice\n";

static HMAC_KEYS: LazyLock<[HmacKey; 7]> =
    LazyLock::new(|| Digest::ALL.map(|digest| HmacKey::new(digest, b"hmac-key")));
static CIPHER_KEY: LazyLock<CipherKey> = LazyLock::new(|| CipherKey::new(b"key").expect("short"));

thread_local! {
    static STANZAS: Vec<Stanza> =
        match parse_access(Path::new("access.conf"), &ServerSettings::default(), &mut OneFile) {
            Ok(access) => access.stanzas,
            Err(problems) => panic!("{problems:?}"),
        };
}

struct OneFile;

impl ConfigFiles for OneFile {
    fn read(&mut self, _: &Path) -> Result<Zeroizing<String>, String> {
        Ok(Zeroizing::new(ACCESS.to_owned()))
    }

    fn list(&mut self, _: &Path) -> Result<Vec<PathBuf>, String> {
        Ok(Vec::new())
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((form, rest)) = input.split_first() else { return };
    if form % 4 == 0 {
        return check_forged(rest);
    }
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let plain = match form % 4 {
        1 => text.to_owned(),
        _ => format!("{text}:{}", STANDARD_NO_PAD.encode(Sha256::digest(text))),
    };
    let which = usize::from(form / 4) % HMAC_KEYS.len();
    let mut wire = CIPHER_KEY.seal(&plain, &[7; 8], &HMAC_KEYS[which]).into_bytes();
    if form % 4 == 3 {
        let at = plain.len() * 31 % wire.len();
        wire[at] ^= 1 << (plain.len() % 7);
        return check_forged(&wire);
    }
    check_sealed(&plain, &wire, which);
});

/// What was not sealed with a key is not authentic.
fn check_forged(payload: &[u8]) {
    let Some(text) = WireText::parse(payload) else { return };
    assert_eq!(text.as_str().as_bytes(), payload);
    for key in &*HMAC_KEYS {
        assert!(key.verify(text).is_none(), "forged: {}", text.as_str());
    }
}

fn check_sealed(plain: &str, wire: &[u8], which: usize) {
    let Some(text) = WireText::parse(wire) else {
        assert!(!(140..=475).contains(&wire.len()), "a sealed text of {} bytes is refused", wire.len());
        return;
    };
    let verified: Vec<_> = HMAC_KEYS.iter().map(|key| key.verify(text)).collect();
    assert!(verified.iter().enumerate().all(|(at, sealed)| sealed.is_some() == (at == which)));
    let sealed = verified[which].expect("verified");
    let opened = CIPHER_KEY.open(sealed);
    let is_printable = plain.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    assert_eq!(opened.as_ref().map(|text| text.as_str()), is_printable.then_some(plain));
    let Some(Ok(message)) = opened.map(|text| Message::parse(&text)) else { return };
    // It can be longer than what it was read from: fields that are ignored, a timeout of zero.
    if !(matches!(message.content, Content::Command(_)) || message.timeout == Some(0)) {
        assert_eq!(Message::parse(&message.to_text(1, Digest::Sha256)), Ok(message.clone()));
    }
    STANZAS.with(|stanzas| stanzas.iter().for_each(|stanza| check_rights(stanza, &message)));
}

fn check_rights(stanza: &Stanza, message: &Message) {
    let server = ServerSettings::default();
    let arrival = Arrival { source: SOURCE, destination: IpAddr::from([192, 0, 2, 1]), time: 1_700_000_000 };
    let Ok(rights) = stanza.rights(&server, message, arrival) else { return };
    assert!(message.time.abs_diff(arrival.time) <= 120, "too old");
    assert!(stanza.user.as_ref().is_none_or(|user| *user == message.user));
    let Rights::Open { address, ports, seconds } = rights else {
        panic!("no stanza forwards or runs commands: {rights:?}");
    };
    assert!(seconds <= stanza.timeout_max);
    assert_eq!(address, if message.allow.is_unspecified() { SOURCE } else { message.allow.into() });
    assert!(!ports.is_empty());
    for port in &ports {
        assert!(stanza.open_ports.as_ref().is_none_or(|open| open.contains(port)), "{port}");
        assert!(!stanza.restrict_ports.contains(port), "{port}");
    }
}
