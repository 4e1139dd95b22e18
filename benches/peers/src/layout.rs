//! How the page writes numbers and paragraphs.

/// Width of a paragraph.
const COLUMNS: usize = 120;

/// Breaks the lines of paragraphs, but not of tables, lists and blocks.
pub(crate) fn wrapped(text: &str) -> String {
    let (mut result, mut in_block) = (String::new(), false);
    for line in text.lines() {
        in_block ^= line.starts_with("```");
        let is_fixed = in_block || line.starts_with(['|', '<', '!', '-', '#', '`']);
        let mut columns = 0;
        for word in line.split(if is_fixed { '\n' } else { ' ' }) {
            let width = word.chars().count();
            if columns > 0 && columns + 1 + width > COLUMNS {
                result.push('\n');
                columns = 0;
            } else if columns > 0 {
                result.push(' ');
                columns += 1;
            }
            result.push_str(word);
            columns += width;
        }
        result.push('\n');
    }
    result
}

/// Each text once, in the order of its first occurrence.
pub(crate) fn titles<'a>(all: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
    let mut titles: Vec<&String> = Vec::new();
    for title in all {
        if !titles.contains(&title) {
            titles.push(title);
        }
    }
    titles
}

/// KiB as MiB.
pub(crate) fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1_024.0)
}

/// A number with commas between thousands.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
