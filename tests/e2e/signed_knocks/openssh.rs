//! Key pairs made by ssh-keygen, read from its private key files (PROTOCOL.key of OpenSSH).

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::ssh::SshKey;
use crate::net::limited;

/// Makes a key pair without a passphrase.
pub(super) fn generate(folder: &Path, kind: &str) -> SshKey {
    let file = folder.join(kind);
    run(limited("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-C", "test", "-f"]).arg(&file));
    let text = std::fs::read_to_string(&file).unwrap();
    let base64: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    let key = read(&STANDARD.decode(base64).unwrap());
    let public = std::fs::read_to_string(file.with_extension("pub")).unwrap();
    assert_eq!(public.parse(), Ok(key.public.clone()));
    key
}

/// The fingerprint that ssh-keygen prints for it.
pub(super) fn fingerprint(folder: &Path, kind: &str) -> String {
    let line = run(limited("ssh-keygen").arg("-lf").arg(folder.join(kind)));
    line.split_whitespace().nth(1).unwrap().to_owned()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn read(file: &[u8]) -> SshKey {
    let mut rest = file.strip_prefix(b"openssh-key-v1\0").expect("a private key of OpenSSH");
    // Cipher, derivation and its options, the number of keys, and the public key.
    for _ in 0..3 {
        string(&mut rest);
    }
    rest = &rest[4..];
    string(&mut rest);
    let mut private = &string(&mut rest)[8..];
    match string(&mut private) {
        b"ssh-ed25519" => {
            string(&mut private);
            SshKey::from_seed(&string(&mut private)[..32])
        }
        b"ecdsa-sha2-nistp256" => {
            string(&mut private);
            let point = string(&mut private);
            let scalar = string(&mut private);
            let digits = scalar.strip_prefix(&[0]).unwrap_or(scalar);
            let mut padded = vec![0; 32 - digits.len()];
            padded.extend(digits);
            SshKey::from_scalar(&padded, point)
        }
        other => panic!("{}", String::from_utf8_lossy(other)),
    }
}

fn string<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let (string, rest) = rest.split_at(u32::from_be_bytes(*length).try_into().unwrap());
    *bytes = rest;
    string
}
