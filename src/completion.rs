//! Shell completion for both programs. At each Tab, the shell runs the program again, and it prints what can follow: also
//! names that exist only on this machine, such as servers, actions, clients and grants. Reads files, never changes one.

use std::ffi::OsStr;

use clap::Command;
use clap::parser::ValueSource;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, EnvCompleter, Shells};
use clap_complete::{Shell, env};

use crate::os;

/// Set by the scripts of [`script`] when a shell asks for completions; its value is the shell.
const VARIABLE: &str = "SPA_KNOCK_COMPLETE";

/// Prints completions and exits if a shell asks for them. Returns otherwise. Must be called before anything else.
pub(crate) fn respond_to_shell(command: fn() -> Command) {
    let narrowed = || {
        // The scripts put the words of the command line after "--".
        let args = os::env::args();
        let words: Vec<_> = args.iter().skip_while(|arg| *arg != "--").skip(1).collect();
        narrowed(command(), &words)
    };
    CompleteEnv::with_factory(narrowed).var(VARIABLE).complete();
}

/// The script that makes a shell ask the program for completions.
pub(crate) fn script(command: &Command, shell: Shell) -> String {
    let name = command.get_name();
    let shells = Shells::builtins();
    let mut script = Vec::new();
    let completer: &dyn EnvCompleter = match shell {
        Shell::Elvish => &env::Elvish,
        Shell::Fish => &env::Fish,
        Shell::PowerShell => &env::Powershell,
        Shell::Zsh => &env::Zsh,
        // Bash, and a shell of a later version of the library, if it has a completer of that name.
        other => shells.completer(&other.to_string()).unwrap_or(&env::Bash),
    };
    // Writing to memory cannot fail.
    let _ = completer.write_registration(VARIABLE, name, name, name, &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if shell == Shell::Zsh {
        // Where zsh loads this file as a function at the first Tab, that Tab is completed, too.
        let function = name.replace('-', "_");
        script.push_str(&format!(
            "if [[ ${{funcstack[1]}} == _{name} ]]; then _clap_dynamic_completer_{function} \"$@\"; fi\n"
        ));
    }
    script
}

/// The candidates that continue a word.
pub(crate) fn candidates(
    word: &OsStr,
    values: impl IntoIterator<Item = impl Into<String>>,
) -> Vec<CompletionCandidate> {
    let Some(word) = word.to_str() else { return Vec::new() };
    let mut values: Vec<String> = values.into_iter().map(Into::into).collect();
    values.retain(|value| value.starts_with(word));
    values.sort();
    values.dedup();
    values.into_iter().map(CompletionCandidate::new).collect()
}

/// Hides what cannot follow these words, or only gets in the way: options unless the last word begins with a hyphen, and
/// subcommands after an argument that excludes them.
fn narrowed(command: Command, words: &[impl AsRef<OsStr>]) -> Command {
    let Some((last, before)) = words.split_last() else { return command };
    let excludes = command.is_args_conflicts_with_subcommands_set() && has_argument(&command, before);
    let command = if excludes {
        // Without the subcommands: hidden ones would be offered where nothing else fits.
        Command::new("arguments").args(command.get_arguments().cloned())
    } else {
        command
    };
    if last.as_ref().as_encoded_bytes().starts_with(b"-") { command } else { without_options(command) }
}

/// Whether these words contain an argument of the command itself, such as a server.
fn has_argument(command: &Command, words: &[impl AsRef<OsStr>]) -> bool {
    let words = words.iter().map(|word| word.as_ref().to_owned());
    let Ok(matches) = command.clone().ignore_errors(true).try_get_matches_from(words) else { return false };
    command
        .get_positionals()
        .any(|arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine))
}

fn without_options(command: Command) -> Command {
    command
        .disable_help_flag(true)
        .disable_version_flag(true)
        .mut_args(|arg| if arg.is_positional() { arg } else { arg.hide(true) })
        .mut_subcommands(without_options)
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction};
    use clap_complete::engine::{ArgValueCompleter, complete};

    use super::*;

    fn command() -> Command {
        let servers = |word: &OsStr| candidates(word, ["home", "bastion"]);
        Command::new("spa-outer")
            .args_conflicts_with_subcommands(true)
            .disable_help_subcommand(true)
            .arg(Arg::new("server").add(ArgValueCompleter::new(servers)))
            .arg(Arg::new("quiet").long("quiet").action(ArgAction::SetTrue))
            .subcommand(Command::new("doctor"))
            .subcommand(Command::new("secret").hide(true))
    }

    /// The completions of the last word.
    fn completions(words: &[&str]) -> Vec<String> {
        let mut command = narrowed(command(), words);
        let args = words.iter().map(Into::into).collect();
        let found = complete(&mut command, args, words.len() - 1, None).unwrap();
        found.iter().map(|candidate| candidate.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn names_and_subcommands_come_before_options_and_hidden_ones_do_not_appear() {
        assert_eq!(completions(&["spa-outer", ""]), ["doctor", "bastion", "home"]);
        assert_eq!(completions(&["spa-outer", "ho"]), ["home"]);
        assert_eq!(completions(&["spa-outer", "--q"]), ["--quiet"]);
        assert_eq!(completions(&["spa-outer", "home", "d"]), [""; 0]);
    }

    #[test]
    fn every_shell_gets_a_script_that_runs_the_program() {
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
            let script = script(&command(), shell);
            assert!(script.contains(VARIABLE) && script.contains("spa-outer"), "{shell}: {script}");
        }
    }
}
