//! ssh that knocks automatically: the README's recipes for `~/.ssh/config`, with the real ssh, scp and rsync, against a
//! real sshd behind the gate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::net::{Daemon, Lab, SERVER4, Site, full, limited, open_ssh, within};
use crate::ssh::Sshd;

/// A lab with an sshd behind a closed gate, and a client whose ssh config contains a recipe of the README for `server`.
struct Office {
    lab: Lab,
    site: Site,
    _sshd: Sshd,
    _daemon: Daemon,
}

impl Office {
    /// Uses the recipe of the README that contains `text`.
    fn new(text: &str) -> Option<Self> {
        let lab = Lab::new()?;
        let site = Site::new("", &open_ssh(30));
        let sshd = Sshd::start(&lab.server, site.folder());
        assert!(within(Duration::from_secs(5), || lab.client.reaches(SERVER4, 22)), "sshd listens");
        let daemon = Daemon::start(&lab.server, &site);
        assert!(!lab.client.reaches(SERVER4, 22));

        let folder = site.path("config").join("spa-knock");
        fs::create_dir_all(&folder).unwrap();
        let key = site.key_path("laptop");
        let profile = format!("[server.server]\naddress = \"{SERVER4}\"\nkey = \"{}\"\n", key.display());
        fs::write(folder.join("config.toml"), profile).unwrap();
        let at = site.folder().display();
        let rest = format!(
            "Match all\n    HostName {SERVER4}\n    User root\n    IdentityFile {at}/user\n    BatchMode yes\n    ConnectTimeout 5\n    \
             StrictHostKeyChecking no\n    UserKnownHostsFile {at}/known_hosts\n    LogLevel ERROR\n"
        );
        fs::write(site.path("ssh_config"), format!("{}\n{rest}", recipe(text))).unwrap();
        Some(Self { lab, site, _sshd: sshd, _daemon: daemon })
    }

    /// A program that finds `spa-knock` in its PATH. The caller adds arguments such as `-F` for the ssh config.
    fn command(&self, program: &str) -> Command {
        let mut command = limited(program);
        let here = Path::new(env!("CARGO_BIN_EXE_spa-knock")).parent().unwrap();
        let path = format!("{}:{}", here.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("HOME", self.site.folder()).env_remove("SPA_KNOCK_KEY");
        for (name, folder) in [("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "client-state")] {
            command.env(name, self.site.path(folder));
        }
        command.stdin(Stdio::null());
        command
    }

    fn ssh(&self, args: &[&str]) -> Command {
        let mut command = self.command("ssh");
        command.arg("-F").arg(self.site.path("ssh_config")).args(args);
        command
    }

    fn run(&self, mut command: Command) -> Output {
        self.lab.client.output(&mut command)
    }

    /// Creates a file of incompressible bytes.
    fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.site.path(name);
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let content: Vec<u8> = (0..bytes / 8)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_ne_bytes()
            })
            .collect();
        fs::write(&path, content).unwrap();
        path
    }
}

/// The fenced block of the guide to ssh that contains `text`.
fn recipe(text: &str) -> String {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/ssh.md");
    let guide = fs::read_to_string(guide).unwrap();
    let block = guide.split("```").skip(1).step_by(2).find(|block| block.contains(text)).expect(text);
    block.split_once('\n').unwrap().1.to_owned()
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn ssh_with_proxy_command_logs_in_through_a_closed_port_and_returns_the_exit_code() {
    let Some(office) = Office::new("ProxyCommand spa-knock connect") else { return };
    let output = office.run(office.ssh(&["server", "echo hello; exit 7"]));
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "a successful knock prints nothing");
}

#[test]
fn ssh_with_match_exec_logs_in_through_a_closed_port() {
    let Some(office) = Office::new("Match originalhost") else { return };
    let output = office.run(office.ssh(&["server", "echo hello"]));
    assert_success(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n");
}

#[test]
fn ssh_exits_with_the_clients_message_when_the_knock_is_refused() {
    let Some(office) = Office::new("ProxyCommand spa-knock connect") else { return };
    let config = office.site.path("ssh_config");
    let wrong = fs::read_to_string(&config).unwrap().replace("open-ssh", "open-shs");
    fs::write(&config, wrong).unwrap();
    let output = office.run(office.ssh(&["server", "true"]));
    assert_eq!(output.status.code(), Some(255));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("spa-knock: server: open-shs refused: "), "{text}");
}

#[test]
fn files_go_both_ways_with_scp_and_rsync() {
    let Some(office) = Office::new("ProxyCommand spa-knock connect") else { return };
    let size = if full() { 100_000_000 } else { 4_000_000 };
    let sent = office.file("sent", size);
    let (there, back) = (office.site.path("there"), office.site.path("back"));
    let remote = format!("server:{}", there.display());
    for (from, to) in [(sent.to_str().unwrap(), remote.as_str()), (&remote, back.to_str().unwrap())] {
        let start = std::time::Instant::now();
        let mut scp = office.command("scp");
        scp.arg("-q").arg("-F").arg(office.site.path("ssh_config")).args([from, to]);
        assert_success(&office.run(scp));
        println!("scp: {size} bytes in {:?}", start.elapsed());
    }
    assert!(fs::read(&sent).unwrap() == fs::read(&back).unwrap(), "all bytes are copied back unchanged");

    if Command::new("rsync").arg("--version").output().is_err() {
        println!("skipped: rsync is not installed");
        return;
    }
    let mut rsync = office.command("rsync");
    let remote_shell = format!("ssh -F {}", office.site.path("ssh_config").display());
    let target = format!("server:{}", office.site.path("by-rsync").display());
    rsync.args(["--rsh", &remote_shell]).args([sent.to_str().unwrap(), &target]);
    assert_success(&office.run(rsync));
    assert!(fs::read(&sent).unwrap() == fs::read(office.site.path("by-rsync")).unwrap());
}

#[test]
fn many_simultaneous_connections_all_log_in() {
    let Some(office) = Office::new("ProxyCommand spa-knock connect") else { return };
    let many = if full() { 50 } else { 8 };
    let children: Vec<_> = (0..many)
        .map(|number| {
            let mut ssh = office.ssh(&["server", &format!("echo {number}")]);
            office.lab.client.spawn(ssh.stdout(Stdio::piped()).stderr(Stdio::piped()))
        })
        .collect();
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{number}\n"), "{output:?}");
    }
    println!("simultaneous ssh logins: {many}");
}
