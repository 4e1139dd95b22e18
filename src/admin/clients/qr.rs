//! Draws a text as a QR code on a terminal: two modules per character. Light modules are drawn, since most terminals
//! are dark. The text is a secret, so all buffers are wiped.

use qrcodegen_no_heap::{QrCode, QrCodeEcc, Version};
use zeroize::Zeroizing;

use crate::console::Color;

/// Light modules around the code: ISO/IEC 18004 requires four.
const QUIET: i32 = 4;

/// The lines of a QR code; `None` for a text of more than about 2,900 bytes.
pub(crate) fn drawn(text: &str) -> Option<Zeroizing<String>> {
    let length = Version::MAX.buffer_len();
    let mut buffer = Zeroizing::new(vec![0; length]);
    let mut code = Zeroizing::new(vec![0; length]);
    let code = QrCode::encode_text(
        text,
        &mut buffer,
        &mut code,
        QrCodeEcc::Low,
        Version::MIN,
        Version::MAX,
        None,
        true,
    )
    .ok()?;
    // With colors, light modules are light on every terminal.
    let (begin, end) = match Color::of(&std::io::stdout()) {
        Color::On => ("\x1b[40;97m", "\x1b[0m"),
        Color::Off => ("", ""),
    };
    let (from, to) = (QUIET.saturating_neg(), code.size().saturating_add(QUIET));
    // Allocated in one piece: a growing string would leave copies in memory. A character has at most three bytes.
    let side = usize::try_from(to.saturating_sub(from)).ok()?;
    let row = side.saturating_mul(3).saturating_add(16);
    let mut lines = Zeroizing::new(String::with_capacity(row.saturating_mul(side)));
    let mut y = from;
    while y < to {
        lines.push_str(begin);
        for x in from..to {
            // Modules outside the code are light.
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

    /// The text that a decoder reads from the lines on a dark terminal, each module four pixels wide.
    fn decoded(lines: &str) -> String {
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
    fn an_independent_decoder_reads_the_qr_code() {
        for text in
            ["spa-knock-AAAA".to_owned(), "x".repeat(100), "otpauth://totp/a:b?secret=GEZDGNBV".repeat(3)]
        {
            assert_eq!(decoded(&drawn(&text).unwrap()), text);
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_not_drawn() {
        assert!(drawn(&"x".repeat(3_000)).is_none());
    }
}
