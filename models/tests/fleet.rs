//! The model of a fleet, and fleets in which one rule is broken.

use spa_knock_models::fleet::{
    ACCEPTED, ACTS, COLLECTED, FLOOR, Fleet, HEALED, ONCE, REFUSED, UNKNOWN, Variant,
};
use spa_knock_models::{Extent, check};

#[test]
fn a_sound_fleet_violates_nothing() {
    let findings = check("fleet", Fleet::new(Variant::Sound), Extent::All);
    assert!(findings.violated.is_empty(), "{:?}", findings.violated());
    let mut possible = [ACTS[0], ACTS[1], ACTS[2], ACCEPTED, COLLECTED, REFUSED];
    possible.sort_unstable();
    assert_eq!(findings.found, possible);
}

fn violated(name: &str, variant: Variant) -> Vec<&'static str> {
    check(name, Fleet::new(variant), Extent::UntilFailure).violated()
}

#[test]
fn every_broken_rule_is_found() {
    for (variant, property) in [
        (Variant::AlwaysWon, ONCE),
        (Variant::GarbageWithoutFloor, ONCE),
        (Variant::FloorByHighestClock, HEALED),
        (Variant::MedianIsTheHigher, HEALED),
        (Variant::ActsOnUnknown, UNKNOWN),
        (Variant::ClaimWithoutFloor, FLOOR),
        (Variant::AcceptsWithoutFloor, ONCE),
        (Variant::AcceptsByOwnClock, ONCE),
        (Variant::AcceptKeepsAttempts, ONCE),
        (Variant::RestoreSeenByRevision, ONCE),
        (Variant::ForgetsStore, ONCE),
        (Variant::AttemptsRepeat, ONCE),
        (Variant::GrantWithClaim, UNKNOWN),
    ] {
        let name = format!("fleet, {variant:?}");
        let found = violated(&name, variant);
        println!("==== {property} {found:?}");
    }
}

#[test]
fn probe() {
    use spa_knock_models::fleet::Faults;
    for (name, skews, any) in [("B3", vec![5], 3), ("B2", vec![5,-3], 2), ("A", vec![1,-1,-3,5],1)] {
        let model = Fleet { variant: Variant::Sound, skews, faults: Faults { any, ..Faults::ALL} };
        let findings = check(name, model, Extent::All);
        println!("{:?} {:?}", findings.violated(), findings.found);
    }
}
