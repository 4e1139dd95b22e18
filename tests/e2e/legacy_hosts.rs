//! Doors in special environments: a bridge, a container without root, a log file that is a symbolic link, a command
//! that is not UTF-8.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use tempfile::TempDir;

use crate::net::{CLIENT4, Daemon, HitKind, Lab, SERVER4, SOON, hit_ports, within};

/// `spa-knockd knockd` in its own directory; killed when dropped.
struct Host {
    folder: TempDir,
    child: Option<Child>,
}

impl Host {
    /// Writes the config. `@` in it stands for the directory.
    fn new(config: &[u8]) -> Self {
        let folder = tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap();
        let host = Self { folder, child: None };
        let name = host.folder.path().to_str().unwrap().as_bytes().to_vec();
        let text: Vec<u8> = config.split(|&byte| byte == b'@').collect::<Vec<_>>().join(&name[..]);
        fs::write(host.path("knockd.conf"), text).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self, lab: &Lab, args: &[&str], out: Stdio) {
        let mut command = Command::new(Daemon::PROGRAM);
        command.arg("knockd").arg("-c").arg(self.path("knockd.conf")).args(args);
        command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null());
        self.child = Some(lab.server.spawn(&mut command));
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_default()
    }

    fn wait_for(&self, name: &str, text: &str) {
        let shown = || String::from_utf8_lossy(&self.read(name)).into_owned();
        assert!(within(SOON, || shown().contains(text)), "no {text} in {name}: {}", shown());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn knock(lab: &Lab) {
    hit_ports(&lab.client, CLIENT4, SERVER4, HitKind::Syn, &[7000, 8000, 9000]);
}

const DOOR: &[u8] = b"[options]\nlogfile = @/log\n[a]\nsequence = 7000,8000,9000\ntcpflags = syn\n";

#[test]
fn each_packet_on_a_bridge_is_used_once() {
    let Some(lab) = Lab::new() else { return };
    lab.server.ip("link add vmbr0 type bridge");
    lab.server.ip("addr flush dev lan0");
    lab.server.ip("link set lan0 master vmbr0");
    lab.server.ip(&format!("addr add {SERVER4}/24 dev vmbr0"));
    lab.server.ip("link set vmbr0 up");
    for interfaces in [&["-i", "any"][..], &["-i", "lan0", "-i", "vmbr0"]] {
        let mut host = Host::new(DOOR);
        let state = host.path("state").to_str().unwrap().to_owned();
        host.start(&lab, &[interfaces, &["--state-dir", &state]].concat(), Stdio::null());
        host.wait_for("log", "starting up");
        let opened = || String::from_utf8_lossy(&host.read("log")).contains("OPEN SESAME");
        assert!(
            within(SOON, || {
                knock(&lab);
                within(Duration::from_secs(1), opened)
            }),
            "{interfaces:?}: {}",
            String::from_utf8_lossy(&host.read("log"))
        );
    }
}

#[test]
fn a_command_that_is_not_utf_8_runs_byte_for_byte() {
    let Some(lab) = Lab::new() else { return };
    let mut host = Host::new(&[DOOR, b"start_command = echo h\xF4te %IP% >@/ran\n"].concat());
    let state = host.path("state").to_str().unwrap().to_owned();
    host.start(&lab, &["-i", "lan0", "--state-dir", &state], Stdio::null());
    host.wait_for("log", "starting up");
    knock(&lab);
    assert!(within(SOON, || host.read("ran") == b"h\xF4te 10.77.0.2\n"), "{:?}", host.read("ran"));
}

#[test]
fn a_state_directory_is_needed_only_for_state_and_the_error_names_its_option() {
    let Some(lab) = Lab::new() else { return };
    let as_user = |host: &Host, args: &[&str]| {
        chown(host.folder.path(), Some(65_534), Some(65_534)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.args([
            "--inh-caps=-all,+net_raw",
            "--ambient-caps=-all,+net_raw",
            "--bounding-set=-all,+net_raw",
        ]);
        command.arg(Daemon::PROGRAM).args(["knockd", "-i", "lan0", "-c"]).arg(host.path("knockd.conf"));
        command.args(args).stdin(Stdio::null());
        command
    };
    // Only root can write here.
    let state = tempfile::tempdir().unwrap();
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let state = state.path().join("state").to_str().unwrap().to_owned();

    let mut host = Host::new(&[DOOR, b"start_command = echo %IP% >@/ran\n"].concat());
    let mut command = as_user(&host, &["--state-dir", &state]);
    host.child = Some(lab.server.spawn(command.stdout(Stdio::null()).stderr(Stdio::null())));
    host.wait_for("log", "starting up");
    knock(&lab);
    host.wait_for("ran", "10.77.0.2");
    assert!(!Path::new(&state).exists());

    let closing = b"start_command = true\nstop_command = true\n";
    let host = Host::new(&[DOOR, closing].concat());
    let output = lab.server.output(&mut as_user(&host, &["--state-dir", &state]));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("permission denied\nhint: use --state-dir to name a directory"), "{errors}");
}

#[test]
fn a_log_file_can_be_a_link_created_by_root_or_a_standard_stream() {
    let Some(lab) = Lab::new() else { return };
    let config = |log: &str| [format!("[options]\nlogfile = {log}\n").as_bytes(), &DOOR[26..]].concat();
    let state = |host: &Host| host.path("state").to_str().unwrap().to_owned();
    for log in ["/dev/stdout", "/proc/self/fd/1"] {
        let mut host = Host::new(&config(log));
        let folder = state(&host);
        host.start(&lab, &["-i", "lan0", "--state-dir", &folder], Stdio::piped());
        let mut out = host.child.as_mut().unwrap().stdout.take().unwrap();
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            let length = out.read(&mut buffer).unwrap();
            sender.send(String::from_utf8_lossy(&buffer[..length]).into_owned()).unwrap();
        });
        let line = receiver.recv_timeout(SOON).expect("a line");
        assert!(line.contains("starting up, listening on lan0"), "{log}: {line}");
    }
    let mut host = Host::new(&config("@/link"));
    symlink(host.path("target"), host.path("link")).unwrap();
    let folder = state(&host);
    host.start(&lab, &["-i", "lan0", "--state-dir", &folder], Stdio::null());
    host.wait_for("target", "starting up");

    // A link that another user could have created is refused with an error.
    let host = Host::new(&config("@/link"));
    symlink(host.path("target"), host.path("link")).unwrap();
    fs::set_permissions(host.folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new(Daemon::PROGRAM);
    command.args(["knockd", "-i", "nothing0", "-c"]).arg(host.path("knockd.conf"));
    let scratch = tempfile::tempdir().unwrap();
    let output = lab.server.output(command.arg("--state-dir").arg(scratch.path().join("state")));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("/link: is a symbolic link, which is not followed"), "{errors}");
    assert!(!host.path("target").exists());
}
