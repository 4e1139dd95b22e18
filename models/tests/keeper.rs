//! The model of one server's keeper, and keepers in which one rule is broken.

use spa_knock_models::keeper::{ACCEPTS_AFTER_LOSS, ACTS, Keeper, ONCE, STARTS, Variant, WAITS};
use spa_knock_models::{Extent, check};

#[test]
fn a_sound_keeper_violates_nothing() {
    let findings = check("keeper", Keeper { variant: Variant::Sound }, Extent::All);
    assert!(findings.violated.is_empty(), "{:?}", findings.violated());
    assert_eq!(findings.found, [ACCEPTS_AFTER_LOSS, WAITS, ACTS]);
}

#[test]
fn every_broken_rule_of_a_keeper_is_found() {
    for (variant, property) in [
        (Variant::ActsBeforeRecord, ONCE),
        (Variant::LeaseNotAwaited, ONCE),
        (Variant::LeaseInForceEarly, ONCE),
        (Variant::LoweredLeaseForgets, ONCE),
        (Variant::FloorNotRaised, ONCE),
        (Variant::CleanBeforeSync, ONCE),
        (Variant::LeaseBeforeJournal, ONCE),
        (Variant::LeaseBeforeJournal, STARTS),
        (Variant::ServesBeforeLease, ONCE),
        (Variant::RewriteForgets, ONCE),
    ] {
        let findings = check(&format!("keeper, {variant:?}"), Keeper { variant }, Extent::Until(property));
        assert!(findings.violated().contains(&property), "{variant:?}: {property}");
    }
}
