//! Wraps lines that are wider than the terminal, at spaces. A command that can be copied stays on one line.

/// The narrowest terminal that lines are wrapped for.
const WIDTH_MIN: usize = 40;

/// Programs that messages name in commands.
const PROGRAMS: [&str; 24] = [
    "apt",
    "chmod",
    "chown",
    "editcap",
    "firewall-cmd",
    "ip",
    "ip6tables",
    "ip6tables-legacy",
    "iptables",
    "iptables-legacy",
    "journalctl",
    "mkdir",
    "nft",
    "rm",
    "sed",
    "spa-knock",
    "spa-knockd",
    "ss",
    "sysctl",
    "systemctl",
    "tcpdump",
    "timedatectl",
    "ufw",
    "useradd",
];

/// Returns the text wrapped for a terminal of this many columns; unchanged without a terminal.
pub(crate) fn wrapped(text: &str, width: Option<usize>) -> String {
    let Some(width) = width.filter(|width| *width >= WIDTH_MIN) else { return text.to_owned() };
    text.split_inclusive('\n').map(|line| wrapped_line(line, width)).collect()
}

fn wrapped_line(line: &str, width: usize) -> String {
    if columns(line) <= width {
        return line.to_owned();
    }
    let indent = indent(line).min(width / 2);
    let start = line.len().saturating_sub(line.trim_start().len());
    let (mut text, mut used) = (line.get(..start).unwrap_or_default().to_owned(), start);
    for unit in units(line.trim_start()) {
        let length = columns(&unit);
        if used > indent && used.saturating_add(columns(unit.trim_end())) > width {
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent));
            used = indent;
        }
        text.push_str(&unit);
        used = used.saturating_add(length);
    }
    text
}

/// The lines of a table's cell. A word that is wider stays whole.
pub(crate) fn fill(cell: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in cell.split(' ') {
        match lines.last_mut() {
            Some(line) if columns(line).saturating_add(1).saturating_add(columns(word)) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Splits a line into what is never broken: words, with the space after them, and whole commands.
fn units(line: &str) -> Vec<String> {
    let mut units: Vec<String> = Vec::new();
    let mut command: Option<UnitEnd> = None;
    let mut may_begin = true;
    for word in line.split_inclusive(' ') {
        let bare = word.trim_end();
        match (command, units.last_mut()) {
            (Some(_), Some(unit)) => unit.push_str(word),
            _ => {
                units.push(word.to_owned());
                command = UnitEnd::of(bare, may_begin);
            }
        }
        command = command.filter(|end| !end.is_reached(bare));
        may_begin = bare.ends_with([':', ';', ',']) || matches!(bare, "or" | "run");
    }
    units
}

/// Where a command in a message ends.
#[derive(Debug, Clone, Copy)]
enum UnitEnd {
    Backtick,
    Punctuation,
}

impl UnitEnd {
    /// The end of the command that begins with this word, if one does.
    fn of(word: &str, may_begin: bool) -> Option<Self> {
        if word.starts_with('`') {
            Some(Self::Backtick)
        } else if may_begin && PROGRAMS.contains(&word) {
            Some(Self::Punctuation)
        } else {
            None
        }
    }

    fn is_reached(self, word: &str) -> bool {
        match self {
            Self::Backtick => word.trim_start_matches('`').contains('`'),
            Self::Punctuation => word.ends_with([',', ';', ':']),
        }
    }
}

/// The indent of continuation lines: where the second column of a table begins, else two columns more than the line.
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

/// The number of columns that a text takes; colors (ECMA-48, SGR) take none.
pub(crate) fn columns(text: &str) -> usize {
    let (mut count, mut chars) = (0_usize, text.trim_end_matches('\n').chars());
    while let Some(next) = chars.next() {
        if next == '\x1b' {
            // Up to and including its last letter.
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
    fn a_long_line_is_wrapped_at_spaces_and_continues_in_its_column() {
        let text =
            "  gate       \x1b[32mon\x1b[0m; tcp/22, tcp/443, udp/5000-5010 closed without a grant\nshort\n";
        let expected = "  gate       \x1b[32mon\x1b[0m; tcp/22, tcp/443,\n             udp/5000-5010 closed without\n             a grant\nshort\n";
        assert_eq!(wrapped(text, Some(42)), expected);
        for width in [None, Some(20), Some(200)] {
            assert_eq!(wrapped(text, width), text);
        }
    }

    #[test]
    fn a_command_and_a_long_word_are_never_broken() {
        let command = "nft insert rule inet filter input tcp dport 22 accept";
        for whole in [format!("hint: {command}\n"), format!("  {command}\n")] {
            assert_eq!(wrapped(&whole, Some(40)), whole.replace("hint: ", "hint:\n  "));
        }
        let hint =
            format!("hint: first name it in firewall.protect, or it is open to everyone; then: {command}\n");
        let expected = format!(
            "hint: first name it in firewall.protect,\n  or it is open to everyone; then:\n  {command}\n"
        );
        assert_eq!(wrapped(&hint, Some(40)), expected);
        let quoted = "hint: change the entry by hand, then run `spa-knockd client show laptop`\n";
        let expected = "hint: change the entry by hand, then run\n  `spa-knockd client show laptop`\n";
        assert_eq!(wrapped(quoted, Some(40)), expected);
        let long = format!("warning: {} end\n", "x".repeat(60));
        assert_eq!(wrapped(&long, Some(40)), format!("warning:\n  {}\n  end\n", "x".repeat(60)));
    }

    #[test]
    fn a_cell_is_filled_up_to_its_width() {
        assert_eq!(fill("a bc def", 4), ["a bc", "def"]);
        assert_eq!(fill("a longword b", 4), ["a", "longword", "b"]);
        assert_eq!(fill("", 4), [""]);
    }
}
