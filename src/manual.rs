//! Man pages, generated from the definition of the command line and the text of its help.

use std::fmt::Write as _;

use clap::{Arg, Command};
use clap_mangen::Man;

/// The first two lines of a page: the typewriter quotation mark, if the formatter supports it.
const FIRST: &str = ".ie \\n(.g .ds Aq \\(aq";

const SECOND: &str = ".el .ds Aq '";

/// Headings in the help, and the sections of the page that they become.
const HEADINGS: [(&str, &str); 4] = [
    ("Exit codes:", "EXIT STATUS"),
    ("Environment:", "ENVIRONMENT"),
    ("Files:", "FILES"),
    ("Examples:", "EXAMPLES"),
];

/// The order of these sections, with the section of everything else.
const TITLES: [&str; 5] = ["EXIT STATUS", "ENVIRONMENT", "FILES", "NOTES", "EXAMPLES"];

/// All pages.
const SEE_ALSO: [(&str, u8); 5] =
    [("spa-knock", 1), ("spa-knock-key", 5), ("spa-knockd.toml", 5), ("spa-knockd", 8), ("nft", 8)];

/// A section of the manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// 1: user commands.
    Commands,
    /// 8: commands of the administrator.
    #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "the client has no such page"))]
    Administration,
}

/// The whole man page: the command, then each subcommand under its own heading.
pub(crate) fn page(command: Command, section: Section) -> String {
    let mut command = command.disable_help_subcommand(true).term_width(usize::MAX);
    command.build();
    let number = match section {
        Section::Commands => "1",
        Section::Administration => "8",
    };
    let (name, version) = (command.get_name(), command.get_version().unwrap_or_default());
    // No date: the same source always produces the same page.
    let title =
        format!("{FIRST}\n{SECOND}\n.TH {} {number} \"\" \"{name} {version}\"\n", name.to_uppercase());
    let mut page = title.into_bytes();
    let man = Man::new(command.clone());
    for render in [
        Man::render_name_section,
        Man::render_synopsis_section,
        Man::render_description_section,
        Man::render_options_section,
    ] {
        // Writing to memory cannot fail.
        let _ = render(&man, &mut page);
    }
    let mut text = String::from_utf8_lossy(&page).into_owned();
    text.push_str(".SH COMMANDS\n");
    subcommands(&command, &mut text);
    let help = command.get_after_long_help().or_else(|| command.get_after_help());
    sections(&help.map(ToString::to_string).unwrap_or_default(), &mut text);
    text.push_str(".SH \"SEE ALSO\"\n");
    let others = SEE_ALSO.iter().filter(|(page, _)| *page != name);
    let others: Vec<String> = others.map(|(page, n)| format!(".BR {} ({n})", escaped(page))).collect();
    text.push_str(&others.join(" ,\n"));
    text.push('\n');
    tidy(&text)
}

/// Appends the help's blocks as sections, in the order of man-pages(7). A block begins after an empty line. Blocks with one
/// of the headings get their own section; all others are notes.
fn sections(help: &str, text: &mut String) {
    let blocks: Vec<&str> = help.split("\n\n").collect();
    for title in TITLES {
        let is_notes = title == "NOTES";
        let of_title = blocks.iter().filter_map(|block| match titled(block) {
            Some((found, body)) if found == title => Some(body.to_owned()),
            None if is_notes && !block.trim().is_empty() => Some((*block).to_owned()),
            _ => None,
        });
        for (number, body) in of_title.enumerate() {
            if number == 0 {
                let _ = writeln!(text, ".SH \"{title}\"");
            } else {
                text.push_str(".PP\n");
            }
            if body.contains('\n') || body.starts_with(' ') {
                verbatim(&body, text);
            } else {
                let _ = writeln!(text, "{}", escaped(&body));
            }
        }
    }
}

/// The section that a block of the help becomes, if it has one of the headings, and the block without the heading.
fn titled(block: &str) -> Option<(&'static str, &str)> {
    HEADINGS
        .iter()
        .find_map(|(heading, title)| Some((*title, block.strip_prefix(heading)?.trim_start_matches('\n'))))
}

/// Removes repeated preambles, and breaks and paragraphs without text, where parts were joined.
fn tidy(text: &str) -> String {
    let mut tidy = String::with_capacity(text.len());
    let mut lines = text.lines().map(str::trim_end).peekable();
    let mut last = "";
    while let Some(line) = lines.next() {
        let is_repeated = matches!(line, FIRST | SECOND) && tidy.contains(line);
        let is_empty_break = line == ".br" && (last.is_empty() || lines.peek() == Some(&""));
        let is_empty_paragraph = line == ".PP"
            && (last.starts_with(".SS")
                || last == ".PP"
                || lines.peek().is_none_or(|next| next.starts_with('.')));
        if is_repeated || is_empty_break || is_empty_paragraph {
            continue;
        }
        tidy.push_str(line);
        tidy.push('\n');
        last = line;
    }
    tidy
}

fn subcommands(command: &Command, text: &mut String) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        // The options that every command has are described once, above.
        let is_shared =
            |arg: &Arg| arg.is_global_set() || matches!(arg.get_id().as_str(), "help" | "version");
        let man = Man::new(sub.clone().mut_args(|arg| if is_shared(&arg) { arg.hide(true) } else { arg }));
        let mut body = Vec::new();
        for render in
            [Man::render_synopsis_section, Man::render_description_section, Man::render_options_section]
        {
            // Writing to memory cannot fail.
            let _ = render(&man, &mut body);
        }
        let name = sub.get_bin_name().unwrap_or_else(|| sub.get_name());
        let _ = writeln!(text, ".SS \"{}\"", escaped(name));
        for line in String::from_utf8_lossy(&body).lines() {
            match line {
                ".SH SYNOPSIS" | ".SH OPTIONS" | ".SH DESCRIPTION" => text.push_str(".PP\n"),
                _ => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        if let Some(notes) = sub.get_after_long_help().or_else(|| sub.get_after_help()) {
            text.push_str(".PP\n");
            verbatim(&notes.to_string(), text);
        }
        subcommands(sub, text);
    }
}

/// Appends lines unchanged, so that their columns stay aligned.
fn verbatim(notes: &str, text: &mut String) {
    text.push_str(".nf\n");
    for line in notes.lines() {
        // A line that begins with a dot or quote would be a request.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        let _ = writeln!(text, "{guard}{}", escaped(line));
    }
    text.push_str(".fi\n");
}

fn escaped(line: &str) -> String {
    line.replace('\\', "\\e").replace('-', "\\-").replace('~', "\\(ti").replace('…', "\\&...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_each_command_and_option_once_and_keeps_the_columns_of_notes() {
        let inner = Command::new("inner").about("Does it").arg(Arg::new("x").long("exact").help("No more"));
        let command = Command::new("outer")
            .about("Does things")
            .subcommand(Command::new("hidden").hide(true))
            .subcommand(inner)
            .after_help(".dots   \\ and columns\n  ~/x");
        let page = page(command, Section::Commands);
        let page: Vec<_> = page.lines().collect();
        let count = |line: &str| page.iter().filter(|other| **other == line).count();
        assert_eq!(count(FIRST), 1);
        assert_eq!(count(".SS \"outer inner\""), 1);
        assert_eq!(page.iter().filter(|line| line.contains("hidden")).count(), 0);
        assert_eq!(page.iter().filter(|line| line.starts_with("\\fB\\-\\-exact")).count(), 1);
        assert_eq!(count("\\&.dots   \\e and columns"), 1);
        assert_eq!(count("  \\(ti/x"), 1);
    }

    #[test]
    fn headings_of_the_help_become_sections_in_the_usual_order() {
        let help = "A note.\n\nExamples:\n  outer x\n\nExit codes:\n  0  success\n\nAnother note.";
        let page = page(Command::new("outer").about("Does things").after_help(help), Section::Commands);
        let titles: Vec<_> = page.lines().filter(|line| line.starts_with(".SH")).collect();
        let last = [".SH \"EXIT STATUS\"", ".SH \"NOTES\"", ".SH \"EXAMPLES\"", ".SH \"SEE ALSO\""];
        assert!(titles.ends_with(&last), "{titles:?}");
        assert!(page.contains(".SH \"NOTES\"\nA note.\n.PP\nAnother note.\n"), "{page}");
    }
}
