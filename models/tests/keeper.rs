//! The model of one server's keeper, and keepers in which one rule is broken.

use spa_knock_models::keeper::{ACCEPTS_AFTER_LOSS, ACTS, Keeper, Losses, ONCE, STARTS, Variant, WAITS};
use spa_knock_models::{Extent, check};

#[test]
fn a_sound_keeper_violates_nothing() {
    violates_nothing("keeper", Keeper::with(Variant::Sound));
}

#[test]
#[ignore = "takes minutes"]
fn a_sound_keeper_violates_nothing_if_the_clock_is_set_twice() {
    violates_nothing("keeper, two clock steps", Keeper { clock_steps: 2, ..Keeper::with(Variant::Sound) });
}

fn violates_nothing(name: &str, keeper: Keeper) {
    let findings = check(name, keeper, Extent::All);
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
        (Variant::MarkInsteadOfSync, ONCE),
        (Variant::LeaseRenamedUnsynced, ONCE),
        (Variant::LeaseRenamedUnsynced, STARTS),
        (Variant::JournalRenamedUnsynced, ONCE),
        (Variant::JournalRenamedUnsynced, STARTS),
        (Variant::LeaseInPlace, STARTS),
        (Variant::FloorByClock, ONCE),
        (Variant::CleanMarkKept, ONCE),
    ] {
        let name = format!("keeper, {variant:?}");
        let findings = check(&name, Keeper::with(variant), Extent::Until(property));
        assert!(findings.violated().contains(&property), "{variant:?}: {property}");
    }
}

#[test]
fn two_broken_rules_are_found_only_with_any_loss_and_with_clock_steps() {
    let violated = |name: &str, keeper| check(&format!("keeper, {name}"), keeper, Extent::All).violated();
    // A mark at the end of the journal would prove what is before it, if disks wrote in order.
    let in_order = |losses| Keeper { losses, clock_steps: 0, ..Keeper::with(Variant::MarkInsteadOfSync) };
    assert_eq!(violated("MarkInsteadOfSync, only the last is lost", in_order(Losses::Last)), [""; 0]);
    assert_eq!(violated("MarkInsteadOfSync, anything is lost", in_order(Losses::Any)), [ONCE]);
    // The clock would be a floor, if it were always right. With one step, it is found in the test above.
    let steady = Keeper { clock_steps: 0, ..Keeper::with(Variant::FloorByClock) };
    assert_eq!(violated("FloorByClock, no clock step", steady), [""; 0]);
}
