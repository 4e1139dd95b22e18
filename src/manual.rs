//! What shells and man(1) know of a command line, made from its one definition.

use std::fmt::Write as _;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// What a page begins with: the quotation mark of programs, as far as this formatter has it.
const FIRST: &str = ".ie \\n(.g .ds Aq \\(aq";

const SECOND: &str = ".el .ds Aq '";

/// A section of the manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// 1: commands that anybody uses.
    Commands,
    /// 8: the admin's.
    #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "the client has no such page"))]
    Administration,
}

/// The script that completes a command line in a shell.
pub(crate) fn completions(mut command: Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name.clone(), &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    if shell != Shell::Bash {
        return script;
    }
    // clap_complete writes the hyphen of a program's name in two ways, so that no subcommand would be found.
    let [found, meant] =
        ["__subcmd__", "__"].map(|hyphen| format!("{}__subcmd__", name.replace('-', hyphen)));
    script.replace(&found, &meant)
}

/// The whole manual page: the command, then each of its subcommands under a heading of its own.
pub(crate) fn page(command: Command, section: Section) -> String {
    let mut command = command.disable_help_subcommand(true).term_width(usize::MAX);
    command.build();
    let number = match section {
        Section::Commands => "1",
        Section::Administration => "8",
    };
    let (name, version) = (command.get_name(), command.get_version().unwrap_or_default());
    // No date: the same source makes the same page.
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
        // Writing to memory does not fail.
        let _ = render(&man, &mut page);
    }
    let mut text = String::from_utf8_lossy(&page).into_owned();
    text.push_str(".SH COMMANDS\n");
    subcommands(&command, &mut text);
    if let Some(notes) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        text.push_str(".SH NOTES\n");
        verbatim(&notes.to_string(), &mut text);
    }
    tidy(&text)
}

/// The same without what each of the joined parts begins or ends with in vain.
fn tidy(text: &str) -> String {
    let mut tidy = String::with_capacity(text.len());
    let mut lines = text.lines().map(str::trim_end).peekable();
    let mut last = "";
    while let Some(line) = lines.next() {
        let again = matches!(line, FIRST | SECOND) && tidy.contains(line);
        let break_in_vain = line == ".br" && (last.is_empty() || lines.peek() == Some(&""));
        let vain = line == ".PP"
            && (last.starts_with(".SS")
                || last == ".PP"
                || lines.peek().is_none_or(|next| next.starts_with('.')));
        if again || break_in_vain || vain {
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
        let man = Man::new(sub.clone());
        let mut body = Vec::new();
        for render in
            [Man::render_synopsis_section, Man::render_description_section, Man::render_options_section]
        {
            // Writing to memory does not fail.
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

/// Lines as they are: their columns mean something.
fn verbatim(notes: &str, text: &mut String) {
    text.push_str(".nf\n");
    for line in notes.lines() {
        // A line that began with a dot would be an order.
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
    use clap::{Arg, CommandFactory as _};

    use super::*;

    #[test]
    fn a_page_has_every_command_and_option_once_and_keeps_the_columns_of_notes() {
        let inner = Command::new("inner").about("Does it").arg(Arg::new("x").long("exact").help("No more"));
        let command = Command::new("outer")
            .about("Does things")
            .subcommand(Command::new("hidden").hide(true))
            .subcommand(inner)
            .after_help(".dots   \\ and columns\n  ~/x");
        let page = page(command, Section::Commands);
        let page: Vec<_> = page.lines().collect();
        let count = |line: &str| page.iter().filter(|there| **there == line).count();
        assert_eq!(count(FIRST), 1);
        assert_eq!(count(".SS \"outer inner\""), 1);
        assert_eq!(page.iter().filter(|line| line.contains("hidden")).count(), 0);
        assert_eq!(page.iter().filter(|line| line.starts_with("\\fB\\-\\-exact")).count(), 1);
        assert_eq!(count("\\&.dots   \\e and columns"), 1);
        assert_eq!(count("  \\(ti/x"), 1);
    }

    #[test]
    fn the_bash_script_of_a_name_with_a_hyphen_finds_its_subcommands() {
        let command = Command::new("spa-outer").subcommand(Command::new("inner"));
        let script = completions(command, Shell::Bash);
        assert!(script.contains("cmd=\"spa__outer__subcmd__inner\"\n"));
        assert!(script.contains("\n        spa__outer__subcmd__inner)\n"), "{script}");
    }

    #[test]
    fn every_shell_gets_a_script() {
        #[derive(clap::Parser)]
        #[command(name = "outer")]
        struct Outer {
            /// What
            #[arg(long)]
            exact: bool,
        }
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
            assert!(completions(Outer::command(), shell).contains("exact"), "{shell}");
        }
    }
}
