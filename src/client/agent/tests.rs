//! Agents that are slow, malicious, locked or not there.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use super::*;
use crate::client::keys::sources::Origin;
use spa_knock_core::crypto::{KeyFile, KeyOwner, PairSecret, Secret};
use spa_knock_core::knock::{AddressPolicy, Argument, Knock, ReplyWanted};
use spa_knock_core::wire::UnsignedKnock;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

fn key() -> PublicKey {
    KEY.parse().unwrap()
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn list_of(blobs: &[&[u8]]) -> Vec<u8> {
    let entries: Vec<u8> = blobs.iter().flat_map(|blob| [text(blob), text(b"a comment")].concat()).collect();
    let count = u32::try_from(blobs.len()).unwrap().to_be_bytes();
    text(&[&[12], count.as_slice(), &entries].concat())
}

fn signature(algorithm: &str, signature: &[u8], rest: &[u8]) -> Vec<u8> {
    let blob = [text(algorithm.as_bytes()), text(signature), rest.to_vec()].concat();
    text(&[&[14], text(&blob).as_slice()].concat())
}

/// An agent that sends these bytes after each request, and then closes the connection.
fn scripted(folder: &Path, answers: Vec<Vec<u8>>) -> PathBuf {
    let path = folder.join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for answer in answers {
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut request = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
            stream.read_exact(&mut request).unwrap();
            // The client may have closed the connection because of an earlier byte.
            let _ = stream.write_all(&answer);
        }
    });
    path
}

fn at(path: PathBuf) -> Signing {
    Signing::by(key().fingerprint(), None, Some(path))
}

/// What the knock of a client leads to at an agent with these answers.
fn sign(answers: Vec<Vec<u8>>) -> ClientError {
    let scratch = tempfile::tempdir().unwrap();
    let signing = at(scratch.path().join("agent"));
    scripted(scratch.path(), answers);
    signed_by(&signing)
}

/// What the knock of a client leads to, signed by this key.
fn signed_by(signing: &Signing) -> ClientError {
    let signer = match signing.open() {
        Ok(signer) => signer,
        Err(failure) => return failure,
    };
    let knock = Knock {
        timestamp: clock::wall(),
        reply: ReplyWanted::Yes,
        seconds: 0,
        otp: None,
        policy: AddressPolicy::Observed,
        ipv4: None,
        ipv6: None,
        action: "open-ssh".parse().unwrap(),
        argument: Argument::none(),
    };
    let pair = PairSecret::new(Secret::from_bytes(&[7; 32]));
    let keys = pair.signed_keys(&"a".parse().unwrap()).client();
    let unsigned = UnsignedKnock::new(&knock, &keys, signer.key()).unwrap();
    match signer.sign(unsigned.message(), (clock::steady(), knock.timestamp), &Reporter::SILENT) {
        Ok(signature) => {
            assert!(unsigned.seal(&signature, &keys).is_err(), "no such key has signed");
            signer.invalid()
        }
        Err(failure) => failure,
    }
}

#[test]
fn every_answer_that_is_not_the_expected_one_ends_with_exit_code_5_and_a_hint() {
    let blob = key().blob().to_vec();
    let good = || list_of(&[b"another", &blob]);
    let long = |length: u32| length.to_be_bytes().to_vec();
    for (answers, reason) in [
        // No list.
        (vec![], "closed the connection"),
        (vec![vec![]], "closed the connection"),
        (vec![vec![0, 0, 0]], "closed the connection"),
        (vec![vec![0, 0, 0, 9, 12]], "closed the connection"),
        (vec![long(0)], "its answer is malformed"),
        (vec![long((256 << 10) + 1)], "its answer is too long"),
        (vec![long(u32::MAX)], "its answer is too long"),
        (vec![text(&[5])], "refused to list its keys"),
        (vec![text(&[5, 0])], "its answer is malformed"),
        (vec![text(&[14, 0, 0, 0, 0])], "its answer has another type than expected"),
        (vec![text(&[12, 0, 0, 8, 1])], "its list has more than 2048 keys"),
        (vec![text(&[12, 0, 0, 0, 1])], "its answer is malformed"),
        (vec![text(&[12, 0, 0, 0, 0, 0])], "its answer is malformed"),
        (vec![list_of(&[])], "does not have the key SHA256:"),
        (vec![list_of(&[b"another", b""])], "does not have the key SHA256:"),
        // No signature.
        (vec![good()], "closed the connection"),
        (vec![good(), text(&[5])], "refused to sign with the key SHA256:"),
        (vec![good(), text(&[6])], "its answer has another type than expected"),
        (vec![good(), good()], "its answer has another type than expected"),
        (vec![good(), text(&[14, 0, 0, 0, 9])], "its answer is malformed"),
        (vec![good(), long((256 << 10) + 1)], "its answer is too long"),
        (
            vec![good(), signature("ssh-rsa", &[1; 64], &[])],
            "the signature is of another algorithm than the key",
        ),
        (vec![good(), signature("ssh-ed25519", &[1; 63], &[])], "wrong lengths"),
        (vec![good(), signature("ssh-ed25519", &[1; 64], &[0])], "followed by other bytes"),
        (vec![good(), signature("ssh-ed25519", &[0xFF; 64], &[])], "out of range"),
        (
            vec![good(), signature("ssh-ed25519", &[1; 64], &[])],
            "its signature is not one of the key SHA256:",
        ),
    ] {
        let failure = sign(answers);
        assert_eq!(failure.cause(), ExitCause::Files, "{failure}");
        assert!(failure.reason().starts_with("ssh-agent /"), "{failure}");
        assert!(failure.reason().contains(reason), "{failure}, not {reason}");
        assert!(!failure.advice().is_empty(), "{failure}");
    }
}

#[test]
fn a_signature_needed_a_person_if_the_agent_took_long_or_the_key_is_in_a_fido_device() {
    let blob = key().blob().to_vec();
    for (pause, is_slow) in [(Duration::ZERO, false), (QUIET_TIME + Duration::from_millis(200), true)] {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        let list = list_of(&[&blob]);
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let signed = signature("ssh-ed25519", &[1; 64], &[]);
            for (answer, pause) in [(list, Duration::ZERO), (signed, pause)] {
                let mut length = [0; 4];
                stream.read_exact(&mut length).unwrap();
                let mut request = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
                stream.read_exact(&mut request).unwrap();
                thread::sleep(pause);
                stream.write_all(&answer).unwrap();
            }
        });
        let signing = at(path);
        assert!(!signing.needs_person());
        let start = clock::steady();
        let _ = signed_by(&signing);
        // A loaded machine can make the quick one slow, in the part of it that counts or in another one.
        if is_slow || clock::steady().since(start) < QUIET_TIME {
            assert_eq!(signing.needs_person(), is_slow);
        }
    }
    let fido = at("agent".into());
    fido.kind.set(PublicKeyKind::SkEd25519).unwrap();
    assert!(fido.needs_person());
}

#[test]
fn an_agent_that_does_not_answer_is_not_waited_for() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("agent");
    let _listener = UnixListener::bind(&path).unwrap();
    let start = clock::steady();
    let failure = at(path).open().err().unwrap();
    assert!(clock::steady().since(start) >= LIST_TIME);
    assert!(failure.reason().ends_with("no answer within 2 s"), "{failure}");
}

#[test]
fn without_an_agent_the_error_states_how_to_start_one() {
    let missing = Signing::by(key().fingerprint(), None, None).open().err().unwrap();
    assert!(missing.reason().starts_with("ssh-agent: $SSH_AUTH_SOCK is not set"), "{missing}");
    let gone = at("/nonexistent/agent".into()).open().err().unwrap();
    assert!(gone.reason().starts_with("ssh-agent /nonexistent/agent: cannot be reached"), "{gone}");
    for failure in [missing, gone] {
        assert_eq!(failure.cause(), ExitCause::Files);
        assert!(failure.advice().contains("ssh-add"), "{failure}");
    }
}

#[test]
fn the_key_file_and_the_public_key_file_decide_which_key_signs() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("id.pub");
    crate::os::files::create_new(&file, crate::os::files::FileMode::Public, KEY.as_bytes()).unwrap();
    let key_of = |ssh_key| Key {
        file: KeyFile {
            client: None,
            holder: KeyOwner::Pair {
                server: "a".parse().unwrap(),
                secret: PairSecret::new(Secret::from_bytes(&[7; 32])),
            },
            address: None,
            port: None,
            ssh_key,
        },
        origin: Origin::Environment,
    };
    let (this, other) = (key().fingerprint(), SshFingerprint::from_bytes([1; 32]));
    let by_file = || Some(SignChoice::File(file.clone()));
    for (choice, keyed, expected) in [
        (None, None, Ok(None)),
        (None, Some(other), Ok(Some(other))),
        (Some(SignChoice::Agent), Some(other), Ok(Some(other))),
        (Some(SignChoice::Agent), None, Err("has no line `ssh-key: SHA256:…`")),
        (by_file(), None, Ok(Some(this))),
        (by_file(), Some(this), Ok(Some(this))),
        (by_file(), Some(other), Err("is for the SSH key SHA256:AQEB")),
        (Some(SignChoice::File(scratch.path().join("none"))), None, Err("none.pub")),
    ] {
        let signing = Signing::new(choice, &key_of(keyed), None).map(|found| found.map(|found| found.wanted));
        match (signing, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(failure), Err(reason)) => {
                assert_eq!(failure.cause(), ExitCause::Files);
                assert!(failure.reason().contains(reason), "{failure}");
            }
            (Ok(_), Err(reason)) => panic!("no error: {reason}"),
            (Err(failure), Ok(_)) => panic!("{failure}"),
        }
    }
}
