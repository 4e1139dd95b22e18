//! Names of the places of the client's files in help and messages, which differ between systems.

use clap::Command;
use clap::builder::StyledStr;

/// Texts of the help, and what replaces them on Windows.
const ON_WINDOWS: [(&str, &str); 6] = [
    ("~/.config/spa-knock/", r"%APPDATA%\spa-knock\"),
    ("~/.local/state/spa-knock/", r"%LOCALAPPDATA%\spa-knock\"),
    ("replace ~/.config and ~/.local/state", "replace %APPDATA% and %LOCALAPPDATA%"),
    (
        "A key file must be owned by you or by root, and no one else may have access to it (mode 0600). Its directory \
         must not be writable by others.",
        "A key file must belong to you, and its access list must allow only you, Administrators and SYSTEM. Others must \
         not be able to replace files in its directory. ~ is %USERPROFILE%.",
    ),
    (" (mode 0600)", ""),
    ("owned by you or by root", "your own"),
];

/// Why a key cannot be saved if the environment does not name the place.
pub(super) const NO_CONFIG_FOLDER: &str = if cfg!(windows) {
    "%APPDATA%: not set; there is no directory to save the key in"
} else {
    "$HOME: not set; there is no home directory to save the key in"
};

/// How to save a root key.
pub(super) const SAVE_ROOT_KEY: &str = if cfg!(windows) {
    r"save its text as %USERPROFILE%\.knock.key, accessible to you alone"
} else {
    "save its text as ~/.knock.key, with mode 0600"
};

/// The command line with the help of this system.
pub(super) fn named(command: Command) -> Command {
    if cfg!(windows) { on_windows(command) } else { command }
}

fn on_windows(mut command: Command) -> Command {
    let texts = [
        command.get_about(),
        command.get_long_about(),
        command.get_after_help(),
        command.get_after_long_help(),
    ]
    .map(replaced);
    let setters = [Command::about, Command::long_about, Command::after_help, Command::after_long_help];
    for (text, set) in texts.into_iter().zip(setters) {
        if let Some(text) = text {
            command = set(command, text);
        }
    }
    command
        .mut_args(|arg| {
            let (short, long) = (replaced(arg.get_help()), replaced(arg.get_long_help()));
            let arg = if let Some(short) = short { arg.help(short) } else { arg };
            if let Some(long) = long { arg.long_help(long) } else { arg }
        })
        .mut_subcommands(on_windows)
}

fn replaced(text: Option<&StyledStr>) -> Option<String> {
    let text = text?.to_string();
    Some(ON_WINDOWS.iter().fold(text, |text, (unix, windows)| text.replace(unix, windows)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::client::args::Cli;

    fn help(command: Command) -> String {
        let mut pages = command.clone().render_long_help().to_string();
        for subcommand in command.get_subcommands() {
            pages.push_str(&subcommand.clone().render_long_help().to_string());
        }
        pages
    }

    #[test]
    fn on_windows_the_help_names_the_places_of_windows_and_no_mode() {
        let (unix, windows) = (help(Cli::command()), help(on_windows(Cli::command())));
        for text in ["~/.config", "~/.local", "0600", "root, and"] {
            assert!(unix.contains(text), "{text}");
            assert!(!windows.contains(text), "{text}");
        }
        for text in [
            r"%APPDATA%\spa-knock\SERVER.key          key for one server",
            r"%APPDATA%\spa-knock\config.toml",
            r"%LOCALAPPDATA%\spa-knock\ ",
            "must belong to you",
        ] {
            assert!(windows.contains(text), "{text}: {windows}");
        }
    }
}
