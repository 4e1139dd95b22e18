//! Finds the changes that a firewall refuses, when it accepts or refuses several of them together.

use crate::firewall::FirewallError;

/// Applies all changes together. If that fails, applies each half separately, down to single changes, so that a failing
/// change fails alone. `report` receives the outcome of each change.
pub(super) fn apply<T>(
    changes: &[T],
    attempt: &mut impl FnMut(&[T]) -> Result<(), FirewallError>,
    report: &mut impl FnMut(&T, Result<(), FirewallError>),
) {
    let outcome = if changes.is_empty() { Ok(()) } else { attempt(changes) };
    match outcome {
        Err(error) if changes.len() > 1 && !concerns_all(&error) => {
            let (one, other) = changes.split_at(changes.len().div_ceil(2));
            apply(one, attempt, report);
            apply(other, attempt, report);
        }
        outcome => changes.iter().for_each(|change| report(change, outcome.clone())),
    }
}

/// Whether the error concerns the firewall itself and not the change.
const fn concerns_all(error: &FirewallError) -> bool {
    matches!(error, FirewallError::Gone | FirewallError::Locked | FirewallError::NotAllowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcomes of `count` changes, of which the `bad` ones fail, and the number of attempts.
    fn outcomes(count: usize, bad: &[usize], error: &FirewallError) -> (Vec<bool>, usize) {
        let changes: Vec<usize> = (0..count).collect();
        let (mut outcomes, mut tries) = (vec![None; count], 0);
        let mut attempt = |some: &[usize]| {
            tries += 1;
            if some.iter().any(|change| bad.contains(change)) { Err(error.clone()) } else { Ok(()) }
        };
        apply(&changes, &mut attempt, &mut |change, outcome| {
            assert!(outcomes[*change].replace(outcome.is_ok()).is_none(), "reported once");
        });
        (outcomes.into_iter().map(Option::unwrap).collect(), tries)
    }

    #[test]
    fn a_failing_change_fails_alone() {
        let error = FirewallError::Other("line 3 failed".to_owned());
        for bad in [&[][..], &[0], &[4], &[1, 6], &[0, 1, 2, 3, 4, 5, 6]] {
            let (outcomes, _) = outcomes(7, bad, &error);
            let failed: Vec<usize> = (0..7).filter(|change| !outcomes[*change]).collect();
            assert_eq!(failed, bad);
        }
        assert_eq!(outcomes(256, &[], &error).1, 1);
        assert!(outcomes(256, &[77], &error).1 <= 17);
        assert_eq!(outcomes(0, &[], &error), (vec![], 0));
    }

    #[test]
    fn an_error_of_the_firewall_itself_is_not_retried() {
        for error in [FirewallError::Gone, FirewallError::Locked] {
            assert_eq!(outcomes(7, &[3], &error), (vec![false; 7], 1));
        }
    }
}
