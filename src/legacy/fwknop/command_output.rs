//! What commands print, as it is logged. The sender of a packet chooses how much that is, so only the beginning is.

use std::borrow::Cow;

/// How many characters are logged.
const OUTPUT_MAX: usize = 1_000;

/// The beginning of the output.
pub(super) fn shortened(output: &str) -> Cow<'_, str> {
    match output.char_indices().nth(OUTPUT_MAX) {
        Some((end, _)) => format!("{}…", output.get(..end).unwrap_or_default()).into(),
        None => output.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_of_a_long_output_is_logged() {
        assert_eq!(shortened("daemon\\n"), "daemon\\n");
        assert_eq!(shortened(&"ä".repeat(OUTPUT_MAX)), "ä".repeat(OUTPUT_MAX));
        assert_eq!(shortened(&"ä".repeat(OUTPUT_MAX + 1)), "ä".repeat(OUTPUT_MAX) + "…");
    }
}
