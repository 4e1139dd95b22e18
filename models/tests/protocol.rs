//! The model of the wire protocol: what holds against an attacker who has stolen this or that, and protocols in which one
//! rule is broken.

use spa_knock_models::protocol::{
    ACTS, CONCLUDES, ONCE, Protocol, ProtocolVariant, REPLIED, SECRET, SENT, Setting, Stolen, USABLE, Version,
};
use spa_knock_models::{Extent, check};

use ProtocolVariant as Broken;
use Stolen::{Agent, PairA, PairB, Root, WatcherOfA};

/// What the attacker can break.
fn violated(setting: Setting) -> Vec<&'static str> {
    let findings = check(&format!("protocol, {setting:?}"), Protocol { setting }, Extent::All);
    assert_eq!(findings.found, [ACTS, CONCLUDES]);
    findings.violated()
}

fn sorted<const N: usize>(mut names: [&'static str; N]) -> [&'static str; N] {
    names.sort_unstable();
    names
}

#[test]
fn version_1_holds_as_long_as_the_pair_secret_is_secret() {
    let with = |stolen| Setting { stolen, ..Setting::of(Version::V1) };
    for stolen in [&[][..], &[WatcherOfA], &[PairB], &[WatcherOfA, PairB]] {
        assert_eq!(violated(with(stolen)), [""; 0], "{stolen:?}");
    }
    for stolen in [&[PairA][..], &[Root]] {
        assert_eq!(violated(with(stolen)), sorted([SENT, ONCE, REPLIED, SECRET, USABLE]), "{stolen:?}");
    }
}

#[test]
fn version_2_holds_as_long_as_the_pair_secret_or_the_ssh_key_is_secret() {
    for same_ids in [false, true] {
        let with = |stolen| Setting { stolen, same_ids, ..Setting::of(Version::V2) };
        for stolen in [&[][..], &[WatcherOfA], &[PairB], &[Agent], &[Agent, PairB, WatcherOfA]] {
            assert_eq!(violated(with(stolen)), [""; 0], "{stolen:?}");
        }
        // Replies and content are only as secret as the pair secret.
        for stolen in [&[PairA][..], &[Root], &[PairA, PairB]] {
            assert_eq!(violated(with(stolen)), sorted([REPLIED, SECRET]), "{stolen:?}");
        }
        let all = sorted([SENT, ONCE, REPLIED, SECRET, USABLE]);
        assert_eq!(violated(with(&[PairA, Agent])), all);
    }
}

#[test]
fn every_broken_rule_of_the_protocol_is_found() {
    let (v1, v2) = (Setting::of(Version::V1), Setting::of(Version::V2));
    for (sound, stolen, variant, property) in [
        (v1, &[][..], Broken::KeysWithoutServer, SENT),
        (v2, &[], Broken::NonceForgotten, ONCE),
        (v1, &[], Broken::NonceForgotten, ONCE),
        (v1, &[WatcherOfA], Broken::SealKeyIsSignKey, SENT),
        (v1, &[WatcherOfA], Broken::SealKeyIsSignKey, SECRET),
        (v1, &[], Broken::ReplyWithoutNonce, REPLIED),
        (v1, &[WatcherOfA], Broken::NonceUnsealed, ONCE),
        (v2, &[PairA], Broken::Downgrade, SENT),
        (v2, &[PairA], Broken::SignatureUnchecked, SENT),
        (Setting { same_ids: true, ..v2 }, &[PairA, PairB], Broken::SignatureWithoutKeyId, SENT),
        (v2, &[PairA], Broken::SignatureWithoutNonce, ONCE),
        (v2, &[PairA], Broken::SignatureWithoutBody, SENT),
        (v2, &[PairA], Broken::RecordsBeforeSignature, USABLE),
    ] {
        let setting = Setting { stolen, variant, ..sound };
        let name = format!("protocol, {setting:?}");
        let findings = check(&name, Protocol { setting }, Extent::Until(property));
        assert!(findings.violated().contains(&property), "{variant:?}: {property}");
    }
}
