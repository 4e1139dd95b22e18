//! The signature of a recorded knock in the armored form of OpenSSH (PROTOCOL.sshsig).

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use spa_knock_core::crypto::KeeperKeys;
use spa_knock_core::crypto::ssh::{PublicKey, RawSignature, SIGNATURE_NAMESPACE};
use spa_knock_core::wire::Envelope;

use super::write;
use crate::net::limited;

/// Whether `ssh-keygen -Y verify` accepts the signature of a datagram as one of this key.
pub(super) fn verify(folder: &Path, datagram: &[u8], keys: &KeeperKeys, key: &PublicKey, valid: bool) {
    let body = Envelope::read(datagram).unwrap().open_signed(keys).unwrap();
    let (message, signature) = body.evidence(key, keys.message.as_ref().unwrap()).unwrap();
    let allowed = write(folder, "allowed", format!("laptop {key}\n").as_bytes());
    let armored = write(folder, "signature", armored(key, &signature).as_bytes());
    let message = write(folder, "message", message.as_bytes());
    let output = limited("ssh-keygen")
        .args(["-Y", "verify", "-I", "laptop", "-n", SIGNATURE_NAMESPACE, "-f"])
        .arg(allowed)
        .arg("-s")
        .arg(armored)
        .stdin(Stdio::from(File::open(message).unwrap()))
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert_eq!(output.status.success(), valid, "{text}");
    let verdict =
        if valid { "Good \"knock@spa-knock\" signature for laptop" } else { "Signature verification failed" };
    assert!(text.contains(verdict), "{text}");
}

fn armored(key: &PublicKey, signature: &RawSignature) -> String {
    let mut blob = b"SSHSIG\0\0\0\x01".to_vec();
    for string in [key.blob(), SIGNATURE_NAMESPACE.as_bytes(), b"", b"sha512", &of_openssh(key, signature)] {
        put(&mut blob, string);
    }
    let base64 = STANDARD.encode(blob);
    let lines: Vec<&str> =
        base64.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"))
}

/// The signature as an agent would return it.
fn of_openssh(key: &PublicKey, signature: &RawSignature) -> Vec<u8> {
    let raw = signature.to_bytes();
    let mut numbers = raw[..64].to_vec();
    if key.kind().is_ecdsa() {
        numbers.clear();
        for number in raw[..64].chunks(32) {
            let digits = &number[number.iter().position(|digit| *digit != 0).unwrap()..];
            let sign = if digits[0] >= 0x80 { vec![0] } else { vec![] };
            put(&mut numbers, &[sign.as_slice(), digits].concat());
        }
    }
    let mut blob = Vec::new();
    put(&mut blob, key.kind().algorithm().as_bytes());
    put(&mut blob, &numbers);
    blob.extend(&raw[64..]);
    assert_eq!(RawSignature::from_agent(key.kind(), &blob), Ok(*signature));
    blob
}

fn put(bytes: &mut Vec<u8>, string: &[u8]) {
    bytes.extend(u32::try_from(string.len()).unwrap().to_be_bytes());
    bytes.extend(string);
}
