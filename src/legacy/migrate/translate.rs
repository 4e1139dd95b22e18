//! Translates the doors of a `knockd.conf` into the text of a `spa-knockd.toml` with an action for each door.

use std::collections::BTreeSet;
use std::time::Duration;

use super::rules::{self, IptablesRule};
use super::shell;
use crate::config::{quoted, written};
use crate::console::own_command;
use crate::legacy::knockd::{Config, Door, ShellCommand};
use spa_knock_core::knock::{ActionName, PortRange, ServerId};

/// How long a grant lasts if the door had no stop command, so that only another door closed it.
const NEVER_CLOSED: Duration = Duration::from_secs(3_600);
/// The longest grant that the config allows.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// How long a command may run. knockd has no limit; this is the largest `timeout` of an action.
const COMMAND_MAX: Duration = Duration::from_secs(3_600);

/// The generated config and the remarks about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TranslatedConfig {
    /// The text of a `spa-knockd.toml`.
    pub(super) text: String,
    /// Human-readable: settings that were left out or have changed.
    pub(super) remarks: Vec<String>,
    /// The actions that clients can be allowed.
    pub(super) actions: Vec<ActionName>,
}

/// The effect of the action that replaces a door.
enum DoorEffect {
    Open { ports: Vec<PortRange>, term: Duration },
    Close(Vec<PortRange>),
    Run { start: String, undo: Option<(String, Duration)> },
}

struct Translation<'a> {
    door: &'a Door,
    remarks: Vec<String>,
}

/// Translates the doors of `config` for the server `id`. `from` is the name of the file, for the heading.
pub(super) fn migrate(config: &Config, id: &ServerId, from: &str) -> TranslatedConfig {
    let mut remarks = remarks_on_options(config);
    let mut translated: Vec<(ActionName, &Door, DoorEffect)> = Vec::new();
    let mut names = BTreeSet::new();
    for door in &config.doors {
        let mut translation = Translation { door, remarks: Vec::new() };
        let effect = translation.translate();
        remarks.append(&mut translation.remarks);
        if let Some(effect) = effect
            && let Some(name) = action_name(&door.name, &mut names)
        {
            translated.push((name, door, effect));
        }
    }
    let openings: Vec<(ActionName, Vec<PortRange>)> = translated.iter().filter_map(opening).collect();
    let mut sections = vec![head(config, id, from, &openings)];
    for (name, door, effect) in &translated {
        sections.push(format!(
            "# [{}]\n[action.{name}]\n{}",
            shown(&door.name),
            body(door, effect, &openings, &mut remarks)
        ));
    }
    let actions = translated.into_iter().map(|(name, ..)| name).collect();
    TranslatedConfig { text: sections.join("\n"), remarks, actions }
}

fn opening((name, _, effect): &(ActionName, &Door, DoorEffect)) -> Option<(ActionName, Vec<PortRange>)> {
    match effect {
        DoorEffect::Open { ports, .. } => Some((name.clone(), ports.clone())),
        _ => None,
    }
}

/// Remarks on the keys of `[options]` that have no equivalent.
fn remarks_on_options(config: &Config) -> Vec<String> {
    let options = &config.options;
    [
        ("LogFile", options.log_file.is_some()),
        ("UseSyslog", options.syslog),
        ("PidFile", options.pid_file.is_some()),
    ]
    .into_iter()
    .filter(|(_, is_set)| *is_set)
    .map(|(key, _)| match key {
        "PidFile" => "PidFile: not needed; the service manager tracks the process".to_owned(),
        _ => format!("{key}: not translated; `audit` in [server] sets where knocks are recorded"),
    })
    .collect()
}

fn head(config: &Config, id: &ServerId, from: &str, openings: &[(ActionName, Vec<PortRange>)]) -> String {
    let mut text = format!(
        "# The doors of {} as actions, which need an authenticated knock instead of a knock sequence.\n\
         # Review this file and run `{}` before you use it. To allow a client to use an action, run\n\
         # `{}`.\n\n\
         [server]\nid = {}\n",
        shown(from),
        own_command("check"),
        own_command("client add NAME --allow ACTION"),
        quoted(id.as_str())
    );
    // libpcap accepts names that no interface can have.
    let names: Vec<String> =
        config.options.interfaces.iter().filter(|name| is_interface(name)).map(|name| quoted(name)).collect();
    if !names.is_empty() {
        text.push_str(&format!("interfaces = [{}]\n", names.join(", ")));
    }
    text.push_str("\n[firewall]\n");
    let protected = merged(openings.iter().flat_map(|(_, ports)| ports.iter().copied()).collect());
    if protected.is_empty() {
        text.push_str("backend = \"none\"                       # all actions only run commands\n");
    } else {
        text.push_str(&format!(
            "# Closed to everyone without a grant. Your own rules that closed these ports must now accept them.\n\
             protect = [{}]\n",
            list(&protected)
        ));
    }
    text
}

fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

fn body(
    door: &Door,
    effect: &DoorEffect,
    openings: &[(ActionName, Vec<PortRange>)],
    remarks: &mut Vec<String>,
) -> String {
    match effect {
        DoorEffect::Open { ports, term } => {
            format!("open = [{}]\nfor = {}\n", list(ports), quoted(&written(*term)))
        }
        DoorEffect::Close(ports) => match openings.iter().find(|(_, opened)| opened == ports) {
            Some((opened, _)) => format!("close = \"{opened}\"\n"),
            None => {
                remarks.push(about(
                    door,
                    "kept as a command, because no door in this file opens what it closes",
                ));
                remarks.push(about(door, &limited()));
                run(&both(door.start.as_ref(), door.start_6.as_ref()), None)
            }
        },
        DoorEffect::Run { start, undo } => run(start, undo.as_ref()),
    }
}

fn run(start: &str, undo: Option<&(String, Duration)>) -> String {
    let mut text = format!("run = [{}]\ntimeout = {}\n", argv(start), quoted(&written(COMMAND_MAX)));
    if let Some((stop, term)) = undo {
        text.push_str(&format!("undo = [{}]\nfor = {}\n", argv(stop), quoted(&written(*term))));
    }
    text
}

impl Translation<'_> {
    fn translate(&mut self) -> Option<DoorEffect> {
        self.remark_what_is_left_out();
        if let Some(opening) = &self.door.opening {
            return Some(DoorEffect::Open { ports: merged(opening.ports.clone()), term: opening.term });
        }
        let Door { start, start_6, stop, stop_6, .. } = self.door;
        let commands = [start, start_6, stop, stop_6].into_iter().flatten();
        if commands.clone().any(|command| std::str::from_utf8(command.text()).is_err()) {
            return self.leave_out("a command is not UTF-8 text");
        }
        if [start, start_6].into_iter().flatten().all(|command| command.text().is_empty()) {
            return self.leave_out("it has no command and only writes to the log");
        }
        if let Some(effect) = self.as_rule() {
            return Some(effect);
        }
        self.remark("kept as a command, because it is not the addition or removal of one rule for %IP%");
        self.remark(&limited());
        let undo = match (stop, stop_6) {
            (None, None) => None,
            (stop, stop_6) => self.term().map(|term| (both(stop.as_ref(), stop_6.as_ref()), term)),
        };
        let start = both(start.as_ref(), start_6.as_ref());
        Some(DoorEffect::Run { start, undo })
    }

    /// The effect of the commands on the firewall, if they do the same for both IP versions.
    fn as_rule(&mut self) -> Option<DoorEffect> {
        let Door { start, start_6, stop, stop_6, .. } = self.door;
        let start = start.as_ref().or(start_6.as_ref())?;
        let rule = rules::read(&text(start))?;
        let start_6 = self.door.start_6.as_ref().unwrap_or(start);
        if rules::read(&text(start_6)).as_ref() != Some(&rule) {
            return None;
        }
        let stops: Vec<&ShellCommand> = [stop, stop_6].into_iter().flatten().collect();
        match rule {
            IptablesRule::Close(ports) => stops.is_empty().then(|| DoorEffect::Close(merged(ports))),
            IptablesRule::Open(ports) if stops.is_empty() => {
                let term = written(NEVER_CLOSED);
                self.remark(&format!("had no Stop_Command; it now closes after {term} (see `for`)"));
                Some(DoorEffect::Open { ports: merged(ports), term: NEVER_CLOSED })
            }
            IptablesRule::Open(ports) => {
                if !stops.iter().all(|stop| rules::closes(&text(stop), &ports)) {
                    return None;
                }
                let term = self.term().unwrap_or(LONGEST);
                Some(DoorEffect::Open { ports: merged(ports), term })
            }
        }
    }

    /// Time between the start command and the stop command. `None` if the stop command never runs.
    fn term(&mut self) -> Option<Duration> {
        match self.door.stop_after() {
            None => {
                self.remark("Cmd_Timeout is negative, so it was never closed");
                None
            }
            Some(after) if after.is_zero() => {
                self.remark("Cmd_Timeout is 0; changed to 1s, the minimum");
                Some(Duration::from_secs(1))
            }
            Some(after) if after > LONGEST => {
                self.remark("Cmd_Timeout is over a year; changed to 365d, the maximum");
                Some(LONGEST)
            }
            Some(after) => Some(after),
        }
    }

    fn remark_what_is_left_out(&mut self) {
        if self.door.target.is_some() {
            self.remark("Target is not translated; a knock may be sent to any address of this host");
        }
        if !self.door.sources.is_empty() {
            self.remark("Source is not translated; anyone who has the key can knock from any address");
        }
        if self.door.one_time.is_some() {
            self.remark("One_Time_Sequences is not needed; every knock is valid only once");
        }
    }

    fn leave_out(&mut self, reason: &str) -> Option<DoorEffect> {
        self.remark(&format!("omitted: {reason}"));
        None
    }

    fn remark(&mut self, text: &str) {
        self.remarks.push(about(self.door, text));
    }
}

fn limited() -> String {
    format!("commands had no time limit; each is now killed after {} (see `timeout`)", written(COMMAND_MAX))
}

fn about(door: &Door, text: &str) -> String {
    format!("[{}]: {text}", shown(&door.name))
}

/// Combines the commands of both IP versions into one.
fn both(of_both: Option<&ShellCommand>, of_6: Option<&ShellCommand>) -> String {
    match (of_both.map(text), of_6.map(text)) {
        (Some(command), None) => command,
        (command, Some(of_6)) => {
            let command = command.unwrap_or_default();
            format!("case %IP% in\n*:*)\n{of_6}\n;;\n*)\n{command}\n;;\nesac")
        }
        (None, None) => String::new(),
    }
}

/// A command as a list of TOML strings; run by `/bin/sh -c` if it needs a shell.
fn argv(command: &str) -> String {
    let words = shell::words(command).filter(|words| {
        words.first().is_some_and(|program| program.starts_with('/') && !program.contains("%IP%"))
    });
    let words = words.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), command.to_owned()]);
    let word =
        |word: &String| quoted(&word.replace('{', "{{").replace('}', "}}").replace("%IP%", "{address}"));
    words.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// The same ports, sorted, with overlapping ranges joined.
fn merged(mut ports: Vec<PortRange>) -> Vec<PortRange> {
    ports.sort_unstable();
    ports.dedup();
    let mut disjoint: Vec<PortRange> = Vec::new();
    for next in ports {
        match disjoint.last_mut().filter(|last| last.overlap(next)) {
            Some(last) => *last = last.joined(next),
            None => disjoint.push(next),
        }
    }
    disjoint
}

fn list(ports: &[PortRange]) -> String {
    ports.iter().map(|ports| format!("\"{ports}\"")).collect::<Vec<_>>().join(", ")
}

/// Derives the name of an action: `openSSH` → `open-ssh`. Appends a number if the name is taken.
fn action_name(door: &str, used: &mut BTreeSet<ActionName>) -> Option<ActionName> {
    /// Leaves room for a number at the end.
    const LENGTH_MAX: usize = 26;
    let mut name = String::new();
    let mut before = '-';
    for c in door.chars().take(LENGTH_MAX) {
        if c.is_ascii_uppercase() && before.is_ascii_lowercase() {
            name.push('-');
        }
        let c = if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        if c != '-' || before != '-' {
            name.push(c.to_ascii_lowercase());
        }
        before = c;
    }
    name.truncate(LENGTH_MAX);
    let name = name.trim_matches('-');
    let name = if name.is_empty() { "door" } else { name };
    let numbered = (2..).map(|number: u32| format!("{name}-{number}"));
    let names = std::iter::once(name.to_owned()).chain(numbered);
    let free = names.map_while(|name| name.parse::<ActionName>().ok()).find(|name| !used.contains(name))?;
    used.insert(free.clone());
    Some(free)
}

fn text(command: &ShellCommand) -> String {
    String::from_utf8_lossy(command.text()).into_owned()
}

/// Text from the file, escaped so that it stays on one line.
fn shown(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{ConfigText, ServerConfig, read};

    fn migrated(text: &str) -> (TranslatedConfig, ServerConfig) {
        let config = Config::read(text.as_bytes()).unwrap();
        let migrated = migrate(&config, &"bastion".parse().unwrap(), "/etc/knockd.conf");
        let source =
            ConfigText { file: PathBuf::from("/etc/spa-knock/spa-knockd.toml"), text: migrated.text.clone() };
        let config = read(&source, &[]).unwrap_or_else(|errors| panic!("{errors}\n{}", migrated.text));
        (migrated, config)
    }

    /// The body of the action that a door becomes, and the remarks.
    fn action(door: &str) -> (String, Vec<String>) {
        let (migrated, _) = migrated(&format!("[d]\nsequence = 1\n{door}"));
        let (_, body) = migrated.text.split_once("[action.d]\n").unwrap_or_default();
        (body.to_owned(), migrated.remarks)
    }

    #[test]
    fn the_translation_of_debians_default_config_loads() {
        let rule = |way| format!("/sbin/iptables -{way} INPUT -s %IP% -p tcp --dport 22 -j ACCEPT");
        let (open, close) = (rule("A"), rule("D"));
        let (migrated, config) = migrated(&format!(
            "[options]\n\tUseSyslog\n\tInterface = eth0\n\n[openSSH]\n\tsequence    = 7000,8000,9000\n\tseq_timeout = 5\n\
             \tcommand     = {open}\n\ttcpflags    = syn\n\n[closeSSH]\n\tsequence    = 9000,8000,7000\n\
             \tseq_timeout = 5\n\tcommand     = {close}\n\ttcpflags    = syn\n\n[openHTTPS]\n\
             \tsequence    = 12345,54321,24680,13579\n\tseq_timeout = 5\n\
             \tcommand     = /usr/local/sbin/knock_add -i -c INPUT -p tcp -d 443 -f %IP%\n\ttcpflags    = syn\n"
        ));
        assert_eq!(
            migrated.text,
            "# The doors of /etc/knockd.conf as actions, which need an authenticated knock instead of a knock sequence.\n\
             # Review this file and run `spa-knockd check` before you use it. To allow a client to use an action, run\n\
             # `spa-knockd client add NAME --allow ACTION`.\n\n\
             [server]\nid = \"bastion\"\ninterfaces = [\"eth0\"]\n\n[firewall]\n\
             # Closed to everyone without a grant. Your own rules that closed these ports must now accept them.\n\
             protect = [\"tcp/22\"]\n\n\
             # [openSSH]\n[action.open-ssh]\nopen = [\"tcp/22\"]\nfor = \"1h\"\n\n\
             # [closeSSH]\n[action.close-ssh]\nclose = \"open-ssh\"\n\n\
             # [openHTTPS]\n[action.open-https]\n\
             run = [\"/usr/local/sbin/knock_add\", \"-i\", \"-c\", \"INPUT\", \"-p\", \"tcp\", \"-d\", \"443\", \"-f\", \"{address}\"]\n\
             timeout = \"1h\"\n"
        );
        assert_eq!(
            migrated.remarks,
            [
                "UseSyslog: not translated; `audit` in [server] sets where knocks are recorded",
                "[openSSH]: had no Stop_Command; it now closes after 1h (see `for`)",
                "[openHTTPS]: kept as a command, because it is not the addition or removal of one rule for %IP%",
                "[openHTTPS]: commands had no time limit; each is now killed after 1h (see `timeout`)",
            ]
        );
        assert_eq!(config.actions.len(), 3);
    }

    #[test]
    fn an_action_does_what_its_door_did() {
        const COMMAND: &str =
            "[d]: kept as a command, because it is not the addition or removal of one rule for %IP%";
        const LIMITED: &str = "[d]: commands had no time limit; each is now killed after 1h (see `timeout`)";
        let rule =
            |program: &str, way: &str| format!("{program} -{way} INPUT -s %IP% -p tcp --dport 22 -j ACCEPT");
        let (open, close) = (rule("iptables", "A"), rule("iptables", "D"));
        let (open_6, close_6) = (rule("ip6tables", "A"), rule("ip6tables", "D"));
        for (door, body, remarks) in [
            (format!("command={open}\nstop_command={close}"), "open = [\"tcp/22\"]\nfor = \"10s\"\n", vec![]),
            (
                format!(
                    "command={open}\ncommand_6={open_6}\nstop_command={close}\nstop_command_6={close_6}\ncmd_timeout=90"
                ),
                "open = [\"tcp/22\"]\nfor = \"1m 30s\"\n",
                vec![],
            ),
            (
                format!("command={open}\nstop_command={close}\ncmd_timeout=0"),
                "open = [\"tcp/22\"]\nfor = \"1s\"\n",
                vec!["[d]: Cmd_Timeout is 0; changed to 1s, the minimum"],
            ),
            (
                format!("command={open}\nstop_command={close}\ncmd_timeout=-1"),
                "open = [\"tcp/22\"]\nfor = \"365d\"\n",
                vec!["[d]: Cmd_Timeout is negative, so it was never closed"],
            ),
            (
                "open = tcp/20-25, tcp/22, tcp/25-30, udp/53\nfor = 5m\nsource = 10.0.0.0/8".to_owned(),
                "open = [\"tcp/20-30\", \"udp/53\"]\nfor = \"5m\"\n",
                vec!["[d]: Source is not translated; anyone who has the key can knock from any address"],
            ),
            (
                format!("command={close}"),
                "run = [\"/bin/sh\", \"-c\", \"iptables -D INPUT -s {address} -p tcp --dport 22 -j ACCEPT\"]\ntimeout = \"1h\"\n",
                vec!["[d]: kept as a command, because no door in this file opens what it closes", LIMITED],
            ),
            (
                "command=/bin/a '{x}' %IP%\nstop_command=/bin/b; /bin/c \"$X\"\ncmd_timeout=7200".to_owned(),
                "run = [\"/bin/a\", \"{{x}}\", \"{address}\"]\ntimeout = \"1h\"\nundo = [\"/bin/sh\", \"-c\", \"/bin/b; /bin/c \\\"$X\\\"\"]\nfor = \"2h\"\n",
                vec![COMMAND, LIMITED],
            ),
            (
                "command=/bin/a\ncommand_6=/bin/b".to_owned(),
                "run = [\"/bin/sh\", \"-c\", \"case {address} in\\u000A*:*)\\u000A/bin/b\\u000A;;\\u000A*)\\u000A/bin/a\\u000A;;\\u000Aesac\"]\ntimeout = \"1h\"\n",
                vec![COMMAND, LIMITED],
            ),
            (
                "target=10.0.0.1\none_time_sequences=/x".to_owned(),
                "",
                vec![
                    "[d]: Target is not translated; a knock may be sent to any address of this host",
                    "[d]: One_Time_Sequences is not needed; every knock is valid only once",
                    "[d]: omitted: it has no command and only writes to the log",
                ],
            ),
        ] {
            assert_eq!(
                action(&door),
                (body.to_owned(), remarks.into_iter().map(str::to_owned).collect()),
                "{door}"
            );
        }
    }

    #[test]
    fn a_command_that_is_not_utf_8_is_left_out() {
        let config = Config::read(b"[d]\nsequence=1\ncommand=/bin/a \xff\n").unwrap();
        let migrated = migrate(&config, &"bastion".parse().unwrap(), "f");
        assert_eq!(migrated.remarks, ["[d]: omitted: a command is not UTF-8 text"]);
    }

    #[test]
    fn door_names_become_distinct_action_names() {
        let mut used = BTreeSet::new();
        for (door, action) in [
            ("openSSH", "open-ssh"),
            ("open ssh", "open-ssh-2"),
            ("opencloseSMTP", "openclose-smtp"),
            ("[x]", "x"),
            ("\u{fffd}", "door"),
            ("--", "door-2"),
            ("a_name-of-more-than-thirty-two-bytes", "a_name-of-more-than-thirty"),
        ] {
            assert_eq!(action_name(door, &mut used).unwrap().as_str(), action, "{door}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_translation_of_any_config_loads(lines in proptest::collection::vec(
            proptest::prop_oneof![
                "\\[[a-zA-Z \"\\\\]{1,9}\\]\nsequence = 1",
                "(start_|stop_)command(_6|) = (/bin/)?[a-z%IP{}$'\"\\\\ ;]{0,20}",
                "command = iptables -[AID] INPUT -s %IP% -p (tcp|udp) --dport [0-9]{1,5} -j ACCEPT",
                "stop_command = iptables -D INPUT -s %IP% -p (tcp|udp) --dport [0-9]{1,5} -j ACCEPT",
                "cmd_timeout = -?[0-9]{1,10}", "interface = [a-z0-9/ ]{0,20}",
            ], 0..12))
        {
            let text = format!("[options]\n{}", lines.join("\n"));
            if Config::read(text.as_bytes()).is_ok() {
                migrated(&text);
            }
        }
    }
}
