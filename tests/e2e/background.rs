//! `knockd -d`, and `fwknopd` without `-f`: daemons in the background.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::{Daemon, Lab, within};

/// A program that reads the output of another one, such as ssh or a script, waits until no process has it any more.
#[test]
fn a_daemon_in_the_background_does_not_keep_the_pipes_of_its_caller_open() {
    let Some(lab) = Lab::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (name, text) in [
        ("knockd.conf", "[a]\nsequence = 7000\n".to_owned()),
        ("fwknopd.conf", format!("FWKNOP_RUN_DIR {};\n", path("run"))),
        ("access.conf", "SOURCE ANY\nKEY one\nHMAC_KEY two\n".to_owned()),
    ] {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    let [knockd, fwknopd, access, doors, packets] =
        ["knockd.conf", "fwknopd.conf", "access.conf", "doors", "packets"].map(&path);
    let cases: &[&[&str]] = &[
        &["knockd", "-d", "-i", "lan0", "-c", &knockd, "--state-dir", &doors],
        #[cfg(feature = "fwknop")]
        &["fwknopd", "-i", "lan0", "-c", &fwknopd, "-a", &access, "--state-dir", &packets],
    ];
    for args in cases {
        let pid_file = path("pid");
        let mut command = Command::new(Daemon::PROGRAM);
        command.args(*args).args(["-p", &pid_file]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = lab.server.spawn(&mut command);
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        let output = receiver.recv_timeout(Duration::from_secs(20));
        let pid = fs::read_to_string(&pid_file).unwrap().trim_end().parse().map(Pid::from_raw).unwrap();
        let is_running = kill(pid, None).is_ok();
        let _ = kill(pid, Signal::SIGTERM);
        let Output { status, stdout, stderr } = output.expect("the pipes are closed").unwrap();
        assert!(
            status.success() && is_running,
            "{args:?}: {}",
            String::from_utf8_lossy(&[stdout, stderr].concat())
        );
        assert!(within(Duration::from_secs(10), || !fs::exists(&pid_file).unwrap()), "{args:?}");
    }
}
