//! Panics in threads: code that waits for the result of a thread must get one, or it waits forever.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::failure::{ClientError, ExitCause};

/// Does the work of a thread. A panic, whose message has been printed by then, becomes an error about `object`.
pub(super) fn caught<T>(
    object: &str,
    work: impl FnOnce() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    // The work and all that it has changed are gone after a panic; what threads share are channels and read-only values.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panicked(object)))
}

/// The error about a thread that has panicked.
pub(super) fn panicked(object: &str) -> ClientError {
    ClientError::new(ExitCause::Network, format!("{object}: interrupted by an error in this program"))
        .hint("report it to the maintainers, with the line that contains \"panicked at\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_about_the_object_and_a_result_stays_as_it_is() {
        let failure = caught::<()>("home", || panic!("a bug")).unwrap_err();
        assert_eq!(failure.reason(), "home: interrupted by an error in this program");
        assert_eq!(caught("home", || Ok(1)).ok(), Some(1));
    }
}
