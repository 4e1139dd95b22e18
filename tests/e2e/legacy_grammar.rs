//! Generated configs: Debian's knockd and this grammar accept the same ones, read the same from them, and refuse the others
//! with the same message. knockd has no option that checks a config, so it is started for each one, in a network namespace
//! with nothing but a loopback interface, and stopped when it listens.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{fs, iter};

use nix::sys::signal::Signal;
use spa_knock::legacy::knockd::{Config, Door, DoorTarget, FlagTest, ShellCommand};

use crate::net::{Namespace, full, is_root, limited, signal_limited};

/// The number of configs in a normal and in a full run.
const CONFIGS: (usize, usize) = (100, 1_000);

/// What is read from a config.
#[derive(Debug, PartialEq)]
struct ReadConfig {
    syslog: bool,
    doors: Vec<ReadDoor>,
}

/// What is read from a section. A key that is not set has its default.
#[derive(Debug, PartialEq)]
struct ReadDoor {
    name: String,
    sequence: Option<String>,
    sequence_timeout: i32,
    command_timeout: i32,
    flags: FlagTest,
    target: Option<DoorTarget>,
    /// Start and stop commands, each followed by that of IPv6.
    commands: [Option<String>; 4],
}

const COMMANDS: [&str; 4] = ["start_command", "start_command_6", "stop_command", "stop_command_6"];

impl From<&Door> for ReadDoor {
    fn from(door: &Door) -> Self {
        let knocks = door.sequence.as_ref().map(|sequence| {
            let knocks = sequence.knocks().iter();
            knocks.map(|knock| format!("{}:{}", knock.port, knock.protocol.as_str())).collect::<Vec<_>>()
        });
        let text = |command: &ShellCommand| String::from_utf8_lossy(command.text()).into_owned();
        let commands = [&door.start, &door.start_6, &door.stop, &door.stop_6];
        Self {
            name: door.name.clone(),
            sequence: knocks.map(|knocks| knocks.join(",")),
            sequence_timeout: door.sequence_timeout,
            command_timeout: door.command_timeout,
            flags: door.flags,
            target: door.target.clone(),
            commands: commands.map(|command| command.as_ref().map(text)),
        }
    }
}

fn ours(text: &str) -> Result<ReadConfig, String> {
    let config = Config::read(text.as_bytes()).map_err(|error| error.to_string())?;
    let doors = config.doors.iter().map(ReadDoor::from).collect();
    Ok(ReadConfig { syslog: config.options.syslog, doors })
}

/// What knockd logs about the config with `-D`, or its error.
fn knockds(namespace: &Namespace, config: &Path) -> Result<ReadConfig, String> {
    let mut command = limited("knockd");
    command.args(["-i", "lo", "-v", "-D", "-c"]).arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = namespace.spawn(&mut command);
    let mut read = ReadConfig { syslog: false, doors: Vec::new() };
    let mut listens = false;
    for line in BufReader::new(child.stdout.take().unwrap()).split(b'\n') {
        let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
        if line.starts_with("listening on ") {
            listens = true;
            signal_limited(&child, Signal::SIGTERM);
        } else {
            note(&line, &mut read);
        }
    }
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    child.wait().unwrap();
    if listens { Ok(read) } else { Err(error.lines().next().unwrap_or_default().to_owned()) }
}

/// One line of knockd's log.
fn note(line: &str, read: &mut ReadConfig) {
    let Some(text) = line.strip_prefix("config: ") else { return };
    if let Some(section) = text.strip_prefix("new section: '") {
        let name = section.strip_suffix('\'').unwrap();
        if name != "options" {
            read.doors.push(ReadDoor::from(&Door::new(name.chars().take(127).collect())));
        }
        return;
    }
    if text == "usesyslog" {
        read.syslog = true;
        return;
    }
    let Some(door) = read.doors.last_mut() else { return };
    if let Some(flag) = text.strip_prefix("tcp flag: ") {
        door.flags = door.flags.with(flag.as_bytes()).unwrap();
        return;
    }
    let Some(rest) = text.strip_prefix(&format!("{}: ", door.name)) else { return };
    let Some((key, value)) = rest.split_once(": ") else { return };
    match key {
        "sequence" => door.sequence = Some(value.to_owned()),
        "seq_timeout" => door.sequence_timeout = value.parse().unwrap(),
        "cmd_timeout" => door.command_timeout = value.parse().unwrap(),
        "target" => door.target = DoorTarget::read(value),
        _ => {
            let place = COMMANDS.iter().position(|command| *command == key).expect(line);
            door.commands[place] = Some(value.to_owned());
        }
    }
}

/// A generator of configs (xorshift, Marsaglia 2003).
struct Author(u64);

impl Author {
    fn number(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    fn one_of<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.number(of.len())]
    }

    /// Whether this happens once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.number(times) == 0
    }

    fn config(&mut self) -> String {
        let mut text = String::new();
        if self.once_in(3) {
            let _ = writeln!(
                text,
                "[options]\n{}",
                self.one_of(&["", "UseSyslog", "  usesyslog\t", "LogFile ="])
            );
        }
        for _ in 0..self.number(4) {
            let name = self.one_of(&["a", "b", "open SSH", "a: b", "x]y", " padded ", "Options", "[x"]);
            let name = if self.once_in(15) { "n".repeat(self.number(300)) } else { name.to_owned() };
            let _ = writeln!(text, "{}[{name}]{}", self.space(), self.space());
            if !self.once_in(12) {
                let _ = writeln!(text, "{}", self.sequence());
            }
            for _ in 0..self.number(6) {
                let _ = writeln!(text, "{}", self.line());
            }
        }
        text
    }

    fn space(&mut self) -> &'static str {
        self.one_of(&["", "", "", " ", "\t", "  \t", "\r"])
    }

    /// A key in any case, with any space around it and its value.
    fn pair(&mut self, key: &str, value: &str) -> String {
        let key: String =
            key.chars().map(|c| if self.once_in(4) { c.to_ascii_uppercase() } else { c }).collect();
        let spaces: [&str; 4] = [(); 4].map(|()| self.space());
        format!("{}{key}{}={}{value}{}", spaces[0], spaces[1], spaces[2], spaces[3])
    }

    fn sequence(&mut self) -> String {
        let length = if self.once_in(12) { 30 + self.number(5) } else { 1 + self.number(5) };
        let knocks: Vec<String> = iter::repeat_with(|| self.knock()).take(length).collect();
        let value = knocks.join(",");
        self.pair("sequence", &value)
    }

    fn knock(&mut self) -> String {
        if !self.once_in(12) {
            let port = 1 + self.number(65_535);
            return format!("{port}{}", self.one_of(&["", "", ":tcp", ":udp", ":UDP", ":Tcp"]));
        }
        let port =
            self.one_of(&["", "0", "-1", "+7", " 8", "9 ", "x", "1x", "65535", "65536", "99999999999"]);
        format!("{port}{}", self.one_of(&["", ":udp", ":", ":icmp", ":udp:x", ": udp", ":tcp "]))
    }

    fn line(&mut self) -> String {
        if self.once_in(15) {
            let odd = [
                "",
                "# x",
                " # x",
                "; x",
                "key",
                "key = 1",
                "usesyslog",
                "sequence",
                "= 1",
                "include /x",
                "[",
                "[]",
            ];
            return self.one_of(&odd).to_owned();
        }
        let key = self.one_of(&[
            "sequence",
            "seq_timeout",
            "timeout",
            "tcpflags",
            "start_command",
            "command",
            "start_command_6",
            "command_6",
            "cmd_timeout",
            "stop_command",
            "stop_command_6",
            "target",
        ]);
        match key {
            "sequence" => self.sequence(),
            "seq_timeout" | "timeout" | "cmd_timeout" => {
                let value =
                    self.one_of(&["5", "0", "-3", "+4", "7s", "abc", "", " 9", "2147483647", "99999999999"]);
                self.pair(key, value)
            }
            "tcpflags" => {
                let flag = |author: &mut Self| {
                    let flags = ["syn", "!ack", "fin", "!rst", "psh", "urg", "ACK", "!Syn"];
                    let odd = ["x", "", " ack", "!", "!!syn", "syn "];
                    if author.once_in(15) { author.one_of(&odd) } else { author.one_of(&flags) }
                };
                let flags: Vec<&str> = (0..=self.number(3)).map(|_| flag(self)).collect();
                let value = flags.join(",");
                self.pair(key, &value)
            }
            "target" => {
                let value = self.one_of(&["127.0.0.1", "10.0.0.1", "::1", "fd77::1"]);
                self.pair(key, value)
            }
            _ => {
                let value =
                    self.one_of(&["/bin/true", "/bin/a %IP% \"b\" # c = d", "", "a\tb", "%IP%%IP%", "x\\"]);
                self.pair(key, value)
            }
        }
    }
}

#[test]
fn knockd_reads_the_same_from_every_generated_config() {
    if !is_root() {
        return;
    }
    let namespace = Namespace::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("knockd.conf");
    let number = if full() { CONFIGS.1 } else { CONFIGS.0 };
    // The same configs in each run, unless others are wanted.
    let seed = std::env::var("SPA_KNOCK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1).max(1);
    let (mut author, mut valid, start) = (Author(seed), 0, Instant::now());
    for count in 0..number {
        let text = author.config();
        fs::write(&path, &text).unwrap();
        let (ours, knockds) = (ours(&text), knockds(&namespace, &path));
        assert_eq!(ours, knockds, "config {count} of seed {seed}:\n{text}");
        valid += usize::from(ours.is_ok());
        assert!(start.elapsed() < Duration::from_secs(600), "{count} of {number}");
    }
    println!("{number} configs, {valid} of them valid, in {:?}", start.elapsed());
    assert!(valid > number / 4 && number - valid > number / 4, "{valid} of {number} are valid");
}
