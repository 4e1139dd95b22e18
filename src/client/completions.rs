//! Completion scripts: those that are made from the command line's definition, and the servers that this user has keys
//! and profiles for.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::args::Cli;
use crate::manual;

/// The names of key files, and of the profiles of `config.toml`, one a line.
const SERVERS: &str = r#"_spa_knock_servers() {
    local folder="${XDG_CONFIG_HOME:-$HOME/.config}/spa-knock"
    command ls -1 "$folder" 2>/dev/null | sed -n 's/\.key$//p'
    sed -n 's/^[[:space:]]*\[server\.\("\([^"]*\)"\|\([^]"]*\)\)\].*/\2\3/p' "$folder/config.toml" 2>/dev/null
}
"#;

/// The script for a shell.
pub(super) fn script(shell: Shell) -> String {
    let script = manual::completions(Cli::command(), shell);
    match shell {
        Shell::Bash => bash(&script),
        Shell::Zsh => zsh(&script),
        _ => script,
    }
}

/// The first word may also be a server, and the word behind some subcommands is one.
fn bash(script: &str) -> String {
    let mut lines = Vec::new();
    let mut in_knock = false;
    for line in script.lines() {
        let label = line.trim();
        if label.starts_with("spa__knock") && label.ends_with(')') {
            in_knock = ["spa__knock)", "spa__knock__subcmd__connect)", "spa__knock__subcmd__doctor)"]
                .contains(&label);
        }
        match line.strip_suffix('"').filter(|_| in_knock && label.starts_with("opts=\"")) {
            Some(options) => lines.push(format!("{options} $(_spa_knock_servers)\"")),
            None => lines.push(line.to_owned()),
        }
    }
    format!("{SERVERS}\n{}\n", lines.join("\n"))
}

/// Of the words of a knock only the first is completed; beside them the script would not find the subcommands.
fn zsh(script: &str) -> String {
    let mut lines = Vec::new();
    let mut options = Vec::new();
    let is_word = |line: &&str| {
        ["':server", "'::action", "'::argument", "'::surplus"].iter().any(|start| line.starts_with(start))
    };
    let mut top = true;
    for line in script.lines() {
        if top && is_word(&line) {
            continue;
        }
        if line == "\":: :_spa-knock_commands\" \\" {
            lines.push("\":: :_spa_knock_first_word\" \\".to_owned());
            top = false;
            continue;
        }
        if top && (line.starts_with('\'') || !options.is_empty()) {
            options.push(line);
        }
        if line == "        esac" {
            // Behind the name of a server come the options of a knock.
            let all = options.join("\n");
            lines.push(format!("            (*)\n_arguments \"${{_arguments_options[@]}}\" : \\\n{all}\n'*: :' \\\n&& ret=0\n;;"));
        }
        if line.starts_with("':server -- ") {
            lines.push(line.replace(":_default'", ":_spa_knock_server_names'"));
            continue;
        }
        lines.push(line.replace("$line[5]", "$line[1]"));
    }
    let mut text = lines.join("\n");
    let functions = format!(
        "{SERVERS}
_spa_knock_server_names() {{
    local -a servers
    local expl
    servers=(\"${{(@f)$(_spa_knock_servers)}}\")
    _wanted servers expl server compadd -a servers
}}

_spa_knock_first_word() {{
    _alternative 'servers:server:_spa_knock_server_names' 'commands:command:_spa-knock_commands'
}}

"
    );
    // Defined before the script's last lines, which run it.
    let at = text.find("_spa-knock() {").unwrap_or_default();
    text.insert_str(at, &functions);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_completed_with_servers_in_bash_and_zsh() {
        let zsh = script(Shell::Zsh);
        assert!(zsh.starts_with("#compdef spa-knock\n"));
        for part in [
            "\":: :_spa_knock_first_word\" \\\n",
            "words=($line[1] \"${words[@]}\")",
            "NAME of a profile:_spa_knock_server_names' \\\n",
        ] {
            assert!(zsh.contains(part), "{part}");
        }
        assert_eq!(zsh.matches("(*)\n_arguments ").count(), 1);
        assert_eq!(zsh.matches("\n'--wait=[").count(), 2, "before and behind the server");
        assert!(!zsh.contains("$line[5]") && !zsh.contains("'::surplus"));
        let bash = script(Shell::Bash);
        assert_eq!(bash.matches(" $(_spa_knock_servers)\"\n").count(), 3);
        assert!(bash.contains("completions man $(_spa_knock_servers)\"\n"));
    }
}
