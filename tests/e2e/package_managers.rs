//! The client as uv, pipx, pip and npm install and start it: it knocks as if it had been started directly.
//!
//! `scripts/test-packages` installs the packages. Each file in the directory `$SPA_KNOCK_LAUNCHERS` is a program that starts
//! the client in one way.

use std::fs;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::{Daemon, Lab, SERVER_ID, SERVER4, SOON, Site, limited, open_ssh, within};

/// The ways to start the client. Prints a line if there are none.
fn launchers() -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os("SPA_KNOCK_LAUNCHERS") else {
        println!("skipped: scripts/test-packages runs it");
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["npm", "npx", "pip", "pipx", "uvx"]);
    found
}

/// A client's machine, with a server whose port 22 is closed.
struct Home {
    lab: Lab,
    site: Site,
    _daemon: Daemon,
}

impl Home {
    fn new() -> Option<Self> {
        let lab = Lab::new()?;
        lab.server.echo(22);
        let site = Site::new("", &open_ssh(30));
        let daemon = Daemon::start(&lab.server, &site);
        assert!(!lab.client.reaches(SERVER4, 22), "the port is closed");
        // Its knocks get no reply, because the daemon does not know it.
        site.add_key("unknown");
        Some(Self { lab, site, _daemon: daemon })
    }

    fn prepare(&self, mut command: Command, launcher: &Path, args: &[&str]) -> Command {
        command.arg(launcher).args(args).env_remove("SPA_KNOCK_KEY").env("HOME", self.site.folder());
        for (name, folder) in [("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "client-state")] {
            command.env(name, self.site.path(folder));
        }
        command.current_dir(self.site.folder()).stdin(Stdio::null());
        command
    }

    /// A command that starts the client in its usual environment, for at most 30 s.
    fn client(&self, launcher: &Path, args: &[&str]) -> Command {
        self.prepare(limited("env"), launcher, args)
    }

    fn output(&self, launcher: &Path, args: &[&str]) -> Output {
        self.lab.client.output(&mut self.client(launcher, args))
    }

    /// What it prints, with bytes on its standard input.
    fn output_with_input(&self, launcher: &Path, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.client(launcher, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.lab.client.spawn(&mut command);
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Starts a client that waits for a reply, in a process group of its own. Returns the launcher and the client.
    fn start_one_that_waits(&self, launcher: &Path) -> (Killed, Pid) {
        let key = self.key("unknown");
        let args = ["--key", &key, "--timeout", "60s", &SERVER4.to_string(), "open-ssh"];
        // A shell that starts the tests in the background ignores Ctrl-C, and so would the client.
        let mut env = Command::new("env");
        env.arg("--default-signal");
        let mut command = self.prepare(env, launcher, &args);
        command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        let launcher = Killed(self.lab.client.spawn(&mut command));
        let mut client = None;
        assert!(within(SOON, || {
            client = process_of("spa-knock", &key);
            client.is_some()
        }));
        (launcher, client.unwrap())
    }

    fn key(&self, name: &str) -> String {
        self.site.key_path(name).display().to_string()
    }
}

/// A process group that is killed when dropped.
struct Killed(Child);

impl Killed {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().try_into().unwrap())
    }

    /// How the launcher ends.
    fn end(&mut self) -> Option<ExitStatus> {
        let mut status = None;
        within(SOON, || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(-self.pid().as_raw()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// The process that runs a program with this name and has an argument.
fn process_of(name: &str, argument: &str) -> Option<Pid> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |process: &i32| {
        let folder = format!("/proc/{process}");
        let program = fs::read_link(format!("{folder}/exe")).unwrap_or_default();
        let line = fs::read(format!("{folder}/cmdline")).unwrap_or_default();
        program.file_name().is_some_and(|file| file == name)
            && line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    };
    processes.find(is_it).map(Pid::from_raw)
}

fn has_exited(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.is_empty() || stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_client_of_each_package_manager_opens_the_port() {
    for launcher in launchers() {
        let Some(home) = Home::new() else { return };
        let server = SERVER4.to_string();
        let output = home.output(&launcher, &["--key", &home.key("laptop"), &server, "open-ssh"]);
        assert_eq!(output.status.code(), Some(0), "{launcher:?}: {}", text(&output));
        assert!(text(&output).contains(": open-ssh granted to "), "{launcher:?}: {}", text(&output));
        assert!(home.lab.client.reaches(SERVER4, 22), "{launcher:?}");
    }
}

#[test]
fn each_exit_code_is_passed_on() {
    for launcher in launchers() {
        let Some(home) = Home::new() else { return };
        let (laptop, unknown, server) = (home.key("laptop"), home.key("unknown"), SERVER4.to_string());
        let missing = home.key("missing");
        for (code, args) in [
            (1, &["--key", &laptop, &server, "no-such-action"][..]),
            (2, &["--no-such-option"]),
            (3, &["--key", &unknown, "--timeout", "300ms", &server, "open-ssh"]),
            (4, &["--key", &laptop, "203.0.113.1", "open-ssh"]),
            (5, &["--key", &missing, &server, "open-ssh"]),
        ] {
            let output = home.output(&launcher, args);
            assert_eq!(output.status.code(), Some(code), "{launcher:?}: {args:?}: {}", text(&output));
        }
    }
}

#[test]
fn a_key_arrives_from_standard_input_and_from_the_environment() {
    for launcher in launchers() {
        let Some(home) = Home::new() else { return };
        let (key, server) = (fs::read(home.site.key_path("laptop")).unwrap(), SERVER4.to_string());
        let output = home.output_with_input(&launcher, &["--key", "-", &server, "open-ssh"], &key);
        assert_eq!(output.status.code(), Some(0), "{launcher:?}: {}", text(&output));
        let mut command = home.client(&launcher, &[&server, "open-ssh"]);
        command.env("SPA_KNOCK_KEY", String::from_utf8(key).unwrap());
        let output = home.lab.client.output(&mut command);
        assert_eq!(output.status.code(), Some(0), "{launcher:?}: {}", text(&output));
    }
}

#[test]
fn arguments_are_passed_on_unchanged() {
    for launcher in launchers() {
        let Some(home) = Home::new() else { return };
        let key = home.key("schlüssel 'a' \"b\" $(id) `id` \\ 🔑 *");
        fs::copy(home.key("laptop"), &key).unwrap();
        let output = home.output(&launcher, &["--key", &key, &SERVER4.to_string(), "open-ssh"]);
        assert_eq!(output.status.code(), Some(0), "{launcher:?}: {}", text(&output));
        let output = home.output(&launcher, &["--key", &home.key("ключ"), &SERVER4.to_string(), "open-ssh"]);
        assert!(text(&output).contains("ключ"), "{launcher:?}: {}", text(&output));
    }
}

#[test]
fn a_connection_through_standard_input_and_output_keeps_every_byte() {
    for launcher in launchers() {
        let Some(home) = Home::new() else { return };
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
        let (key, server) = (home.key("laptop"), SERVER4.to_string());
        let args = ["connect", "--server-id", SERVER_ID, "--key", &key, &server, "open-ssh", &server, "22"];
        let mut command = home.client(&launcher, &args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = home.lab.client.spawn(&mut command);
        let mut stdin = child.stdin.take().unwrap();
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert_eq!(
            output.status.code(),
            Some(0),
            "{launcher:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.stdout, bytes, "{launcher:?}");
    }
}

#[test]
fn the_end_of_the_launcher_is_the_end_of_the_client() {
    for launcher in launchers() {
        let Some(home) = Home::new() else { return };
        // npx starts a shell, which does not pass on SIGTERM; `timeout` and systemd signal the whole process group, as a
        // terminal does after Ctrl-C.
        let is_npx = launcher.ends_with("npx");
        for (signal, number, whole_group) in [(Signal::SIGTERM, 15, is_npx), (Signal::SIGINT, 2, true)] {
            let (mut process, client) = home.start_one_that_waits(&launcher);
            let sign = if whole_group { -1 } else { 1 };
            kill(Pid::from_raw(sign * process.pid().as_raw()), signal).unwrap();
            assert!(within(SOON, || has_exited(client)), "{launcher:?}: {signal}: the client still runs");
            let status = process.end().unwrap_or_else(|| panic!("{launcher:?}: {signal}: it still runs"));
            let expected = status.signal() == Some(number) || status.code() == Some(128 + number);
            assert!(expected, "{launcher:?}: {signal}: {status}");
        }
    }
}
