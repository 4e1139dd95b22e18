//! A text as a QR code on a terminal: two modules a character, light ones drawn, as terminals are dark more often than
//! not. The buffers are ours to wipe: what is drawn is a secret.

use std::io::IsTerminal;

use qrcodegen_no_heap::{QrCode, QrCodeEcc, Version};
use zeroize::Zeroizing;

/// Light modules around it: ISO/IEC 18004 wants four.
const QUIET: i32 = 4;

/// The lines of a QR code; nothing for a text that is too long for one (over 2,900 bytes).
pub(crate) fn drawn(text: &str) -> Option<Zeroizing<String>> {
    let length = Version::MAX.buffer_len();
    let mut room = Zeroizing::new(vec![0; length]);
    let mut code = Zeroizing::new(vec![0; length]);
    let code = QrCode::encode_text(
        text,
        &mut room,
        &mut code,
        QrCodeEcc::Low,
        Version::MIN,
        Version::MAX,
        None,
        true,
    )
    .ok()?;
    // Whatever the terminal's colours are, light is light there.
    let (begin, end) = if std::io::stdout().is_terminal() { ("\x1b[40;97m", "\x1b[0m") } else { ("", "") };
    let (from, to) = (QUIET.saturating_neg(), code.size().saturating_add(QUIET));
    // Room for everything at once: a growing string would leave copies behind. A character has three bytes at most.
    let side = usize::try_from(to.saturating_sub(from)).ok()?;
    let row = side.saturating_mul(3).saturating_add(16);
    let mut lines = Zeroizing::new(String::with_capacity(row.saturating_mul(side)));
    let mut y = from;
    while y < to {
        lines.push_str(begin);
        for x in from..to {
            // Outside of it, everything is light.
            let lower = y.saturating_add(1);
            lines.push(match (code.get_module(x, y), code.get_module(x, lower) || lower >= to) {
                (false, false) => '█',
                (false, true) => '▀',
                (true, false) => '▄',
                (true, true) => ' ',
            });
        }
        lines.push_str(end);
        lines.push('\n');
        y = y.saturating_add(2);
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a camera reads of the lines on a dark terminal, each module four pixels wide.
    fn seen(lines: &str) -> String {
        let rows: Vec<Vec<char>> = lines.lines().map(|line| line.chars().collect()).collect();
        let side = rows[0].len();
        let light = |x: usize, y: usize| match rows.get(y / 2).map(|row| row[x]) {
            Some('█') => true,
            Some('▀') => y.is_multiple_of(2),
            Some('▄') => !y.is_multiple_of(2),
            _ => false,
        };
        let grey = |x: usize, y: usize| if light(x / 4, y / 4) { 255 } else { 0 };
        let mut picture = rqrr::PreparedImage::prepare_from_greyscale(side * 4, side * 4, grey);
        let codes = picture.detect_grids();
        assert_eq!(codes.len(), 1);
        codes[0].decode().unwrap().1
    }

    #[test]
    fn what_is_drawn_is_read_by_another_program() {
        for text in
            ["spa-knock-AAAA".to_owned(), "x".repeat(100), "otpauth://totp/a:b?secret=GEZDGNBV".repeat(3)]
        {
            assert_eq!(seen(&drawn(&text).unwrap()), text);
        }
    }

    #[test]
    fn what_is_too_long_is_not_drawn() {
        assert!(drawn(&"x".repeat(3_000)).is_none());
    }
}
