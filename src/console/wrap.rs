//! Lines that are longer than the terminal is wide, broken at spaces. Commands to copy stay in one line.

/// The narrowest terminal that lines are broken for.
const WIDTH_MIN: usize = 40;

/// The text with long lines broken, for a terminal of this many columns; unchanged where there is none.
pub(crate) fn wrapped(text: &str, width: Option<usize>) -> String {
    let Some(width) = width.filter(|width| *width >= WIDTH_MIN) else { return text.to_owned() };
    text.split_inclusive('\n').map(|line| broken(line, width)).collect()
}

fn broken(line: &str, width: usize) -> String {
    if columns(line) <= width || line.starts_with("hint: ") {
        return line.to_owned();
    }
    let indent = indent(line).min(width / 2);
    let (mut text, mut used) = (String::new(), 0_usize);
    for word in line.split_inclusive(' ') {
        let length = columns(word);
        if used > indent && used.saturating_add(columns(word.trim_end())) > width {
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent));
            used = indent;
        }
        text.push_str(word);
        used = used.saturating_add(length);
    }
    text
}

/// Where the second column of a table begins, else a little to the right of the line.
fn indent(line: &str) -> usize {
    let start = line.len().saturating_sub(line.trim_start().len());
    let gap = line.trim_start().split_once("  ").filter(|(name, _)| start > 0 && !name.contains(' '));
    match gap {
        Some((name, rest)) => {
            let spaces = rest.len().saturating_sub(rest.trim_start().len());
            start.saturating_add(name.len()).saturating_add(2).saturating_add(spaces)
        }
        None => start.saturating_add(2),
    }
}

/// How many columns it takes; colors (ECMA-48, SGR) take none.
fn columns(text: &str) -> usize {
    let (mut count, mut chars) = (0_usize, text.trim_end_matches('\n').chars());
    while let Some(next) = chars.next() {
        if next == '\x1b' {
            // Up to and with its last letter.
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            count = count.saturating_add(1);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_at_spaces_and_hang_under_their_column() {
        let text =
            "  gate       \x1b[32mon\x1b[0m; tcp/22, tcp/443, udp/5000-5010 closed without a grant\nshort\n";
        let expected = "  gate       \x1b[32mon\x1b[0m; tcp/22, tcp/443,\n             udp/5000-5010 closed without\n             a grant\nshort\n";
        assert_eq!(wrapped(text, Some(42)), expected);
        for width in [None, Some(20), Some(200)] {
            assert_eq!(wrapped(text, width), text);
        }
    }

    #[test]
    fn a_command_in_a_hint_and_a_long_word_stay_whole() {
        let hint = format!("hint: {}\n", "word ".repeat(30).trim_end());
        assert_eq!(wrapped(&hint, Some(40)), hint);
        let long = format!("warning: {} end\n", "x".repeat(60));
        assert_eq!(wrapped(&long, Some(40)), format!("warning:\n  {}\n  end\n", "x".repeat(60)));
    }
}
