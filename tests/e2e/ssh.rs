//! A real OpenSSH server behind the gate.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::net::{
    CLIENT4, Daemon, Lab, Namespace, SERVER4, Site, ask, limited, open_ssh, signal_limited, within,
};

/// `sshd` with its own host key and config; killed when dropped.
pub(crate) struct Sshd(Child);

impl Sshd {
    /// Starts sshd. Creates its keys and config in `folder`, and `user`, the key for logging in.
    pub(crate) fn start(namespace: &Namespace, folder: &Path) -> Self {
        Self::start_command(namespace, folder, Command::new("/usr/sbin/sshd"))
    }

    /// The same with a command of the test's own, which gets the arguments of `sshd`.
    pub(crate) fn start_command(namespace: &Namespace, folder: &Path, mut command: Command) -> Self {
        // The folder for privilege separation, which packages create at boot.
        fs::create_dir_all("/run/sshd").unwrap();
        for name in ["host", "user"] {
            let keygen = ["-q", "-t", "ed25519", "-N", "", "-f"];
            let status = Command::new("ssh-keygen").args(keygen).arg(folder.join(name)).status().unwrap();
            assert!(status.success());
        }
        let at = folder.display();
        let config = format!(
            "Port 22\nHostKey {at}/host\nAuthorizedKeysFile {at}/user.pub\nPidFile none\nUsePAM no\nStrictModes no\n\
             PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             MaxStartups 200\nSubsystem sftp internal-sftp\n"
        );
        fs::write(folder.join("sshd_config"), config).unwrap();
        command.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(namespace.spawn(&mut command))
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A login that echoes its input; terminated when dropped.
struct Session {
    ssh: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// `ssh` with a connection timeout of 2 s.
    fn command(folder: &Path) -> Command {
        let mut command = limited("ssh");
        let at = folder.display();
        command.args(["-F", "none", "-i"]).arg(folder.join("user"));
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=2",
            "StrictHostKeyChecking=no",
            &format!("UserKnownHostsFile={at}/known_hosts"),
        ] {
            command.args(["-o", option]);
        }
        command.arg(format!("root@{SERVER4}"));
        command
    }

    fn start(namespace: &Namespace, folder: &Path) -> Self {
        let mut command = Self::command(folder);
        command.arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut ssh = namespace.spawn(&mut command);
        let (input, output) = (ssh.stdin.take().unwrap(), BufReader::new(ssh.stdout.take().unwrap()));
        Self { ssh, input, output }
    }

    /// Whether a line is echoed. A session that hangs is killed by `limited`, and then the result is false.
    fn is_alive(&mut self) -> bool {
        let mut line = String::new();
        self.input.write_all(b"alive\n").is_ok()
            && self.output.read_line(&mut line).is_ok()
            && line == "alive\n"
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        signal_limited(&self.ssh, Signal::SIGTERM);
        let _ = self.ssh.wait();
    }
}

#[test]
fn an_ssh_session_older_than_the_daemon_survives_its_first_start() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let _sshd = Sshd::start(&lab.server, site.folder());
    assert!(within(Duration::from_secs(5), || lab.client.reaches(SERVER4, 22)), "sshd listens");
    let mut session = Session::start(&lab.client, site.folder());
    assert!(session.is_alive());

    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(SERVER4, 22), "no new connection without a knock");
    assert!(session.is_alive(), "the old session stays");
    daemon.kill9();
    let _next = Daemon::start(&lab.server, &site);
    assert!(session.is_alive(), "also after a restart");
}

#[test]
fn ssh_logs_in_after_a_knock_and_the_session_outlasts_the_grant() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(3));
    let _sshd = Sshd::start(&lab.server, site.folder());
    assert!(within(Duration::from_secs(5), || lab.client.reaches(SERVER4, 22)), "sshd listens");
    let _daemon = Daemon::start(&lab.server, &site);
    let login = |lab: &Lab| lab.client.output(Session::command(site.folder()).arg("true")).status.success();
    assert!(!login(&lab), "no login without a knock");

    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    let mut session = Session::start(&lab.client, site.folder());
    assert!(session.is_alive());
    lab.client.wait_until_closed(SERVER4, 22);
    assert!(session.is_alive(), "the session outlasts the grant");
    assert!(!login(&lab), "no other login succeeds");
}
