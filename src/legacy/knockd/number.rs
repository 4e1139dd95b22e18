//! Parses numbers like C's `atoi`, because existing configs depend on it.

/// Parses optional blanks, an optional sign and digits, and ignores the rest. Without digits the result is 0. A number
/// out of the range of `long` becomes its limit; the result is the lower 32 bits of the `long` (as in glibc on 64
/// bits).
#[must_use]
pub(super) fn atoi(text: &[u8]) -> i32 {
    let text = trim_start(text);
    let (negative, digits) = match text.split_first() {
        Some((b'-', digits)) => (true, digits),
        Some((b'+', digits)) => (false, digits),
        _ => (false, text),
    };
    let mut number: i64 = 0;
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        let digit = i64::from(digit.saturating_sub(b'0'));
        number = number.saturating_mul(10);
        number = if negative { number.saturating_sub(digit) } else { number.saturating_add(digit) };
    }
    let [a, b, c, d, ..] = number.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

/// Removes blanks of the C locale from both ends.
#[must_use]
pub(super) fn trim(text: &[u8]) -> &[u8] {
    let text = trim_start(text);
    let end = text.iter().rposition(|byte| !is_blank(*byte)).map_or(0, |last| last.saturating_add(1));
    text.get(..end).unwrap_or_default()
}

fn trim_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_blank(*byte)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0B | 0x0C | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_parsed_as_by_atoi() {
        for (text, number) in [
            ("7000", 7000),
            (" \t+0007000", 7000),
            ("7000tcp", 7000),
            ("-1", -1),
            ("", 0),
            ("abc", 0),
            ("+-1", 0),
            ("- 1", 0),
            ("2147483648", i32::MIN),
            ("4294967296", 0),
            ("99999999999999999999", -1),
            ("-99999999999999999999", 0),
        ] {
            assert_eq!(atoi(text.as_bytes()), number, "{text}");
        }
    }

    #[test]
    fn blanks_at_both_ends_are_removed() {
        for (text, trimmed) in [("", ""), (" \t\r\n", ""), ("\x0B a b \x0C", "a b"), ("a", "a")] {
            assert_eq!(trim(text.as_bytes()), trimmed.as_bytes());
        }
    }
}
