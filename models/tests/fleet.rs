//! The model of a fleet, and fleets in which one rule is broken.

use spa_knock_models::fleet::{
    ACCEPTED, ACTS, COLLECTED, FLOOR, Faults, Fleet, HEALED, ONCE, REFUSED, UNKNOWN, Variant,
};
use spa_knock_models::{Extent, check};

const SOUND: Variant = Variant::Sound;

#[test]
fn a_sound_fleet_violates_nothing_with_one_fault_and_any_clocks() {
    // Clocks that differ by window / 2, and one that is further behind or ahead.
    let fleet = Fleet { variant: SOUND, skews: vec![1, -3, 5], faults: Faults { any: 1, ..Faults::ALL } };
    violates_nothing("one fault", fleet);
}

#[test]
#[ignore = "takes minutes"]
fn a_sound_fleet_violates_nothing_with_one_fault_and_clocks_that_agree() {
    let fleet = Fleet { variant: SOUND, skews: vec![0, -1], faults: Faults { any: 1, ..Faults::ALL } };
    violates_nothing("one fault, clocks that agree", fleet);
}

#[test]
fn a_sound_fleet_violates_nothing_with_two_faults_and_a_clock_that_is_ahead() {
    let fleet = Fleet { variant: SOUND, skews: vec![5], faults: Faults { any: 2, ..Faults::ALL } };
    violates_nothing("two faults", fleet);
}

#[test]
#[ignore = "takes minutes"]
fn a_sound_fleet_violates_nothing_with_two_faults_and_a_clock_that_is_behind() {
    let fleet = Fleet { variant: SOUND, skews: vec![-3], faults: Faults { any: 2, ..Faults::ALL } };
    violates_nothing("two faults, behind", fleet);
}

#[test]
#[ignore = "takes minutes"]
fn a_sound_fleet_violates_nothing_with_three_faults_and_a_clock_that_is_ahead() {
    let fleet = Fleet { variant: SOUND, skews: vec![5], faults: Faults::ALL };
    violates_nothing("three faults", fleet);
}

fn violates_nothing(name: &str, fleet: Fleet) {
    let findings = check(&format!("fleet, {name}"), fleet, Extent::All);
    assert!(findings.violated.is_empty(), "{:?}", findings.violated());
    let mut possible = vec![ACTS[0], ACTS[1], ACTS[2], ACCEPTED, COLLECTED, REFUSED];
    possible.sort_unstable();
    assert_eq!(findings.found, possible);
}

#[test]
fn every_broken_rule_of_a_fleet_is_found() {
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
        let fleet = Fleet { variant, skews: vec![0, -3, 5], faults: Faults { any: 2, ..Faults::ALL } };
        let findings = check(&format!("fleet, {variant:?}"), fleet, Extent::Until(property));
        assert!(findings.violated().contains(&property), "{variant:?}: {property}");
    }
}
