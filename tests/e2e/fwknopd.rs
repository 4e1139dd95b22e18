//! `spa-knockd fwknopd`: Debian's files and client unchanged, on a host whose iptables drop by default.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::{CLIENT4, Lab, Namespace, SERVER4, SOON, limited, within};

const KEYS: &str = "KEY a-key-of-fwknop\nHMAC_KEY another-key-for-hmac\n";

/// A directory with the daemon's files; the daemon is stopped when it is dropped.
pub(super) struct Host<'a> {
    server: &'a Namespace,
    folder: tempfile::TempDir,
    foreground: Option<Child>,
}

impl<'a> Host<'a> {
    /// A host that drops what no rule accepts.
    pub(super) fn new(server: &'a Namespace, access: &str, settings: &str) -> Self {
        server.run("iptables -P INPUT DROP");
        server.run("iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
        server.run("iptables -A INPUT -i lo -j ACCEPT");
        let host = Self { server, folder: tempfile::tempdir().unwrap(), foreground: None };
        host.write("access.conf", access);
        let run = host.path("run");
        host.write(
            "fwknopd.conf",
            &format!("PCAP_INTF lan0;\nFWKNOP_RUN_DIR {};\n{settings}\n", run.display()),
        );
        host
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        Command::new("chmod").arg("600").arg(self.path(name)).status().unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = limited(env!("CARGO_BIN_EXE_spa-knockd"));
        command.arg("fwknopd").arg("-c").arg(self.path("fwknopd.conf"));
        command.arg("-a").arg(self.path("access.conf")).arg("--state-dir").arg(self.path("state")).args(args);
        command
    }

    fn call(&self, args: &[&str]) -> Output {
        self.server.output(&mut self.command(args))
    }

    fn text(&self, args: &[&str]) -> (bool, String) {
        let Output { status, stdout, stderr } = self.call(args);
        (
            status.success(),
            format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)),
        )
    }

    /// Starts it in the foreground and waits until it is ready.
    pub(super) fn start(&mut self) {
        let log = fs::File::create(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_spa-knockd"));
        command
            .args(self.command(&["-f"]).get_args().skip(4))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.foreground = Some(self.server.spawn(&mut command));
        assert!(within(SOON, || self.log().contains("ready: ")), "{}", self.log());
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The process id of the daemon in the foreground.
    pub(super) fn id(&self) -> Pid {
        Pid::from_raw(self.foreground.as_ref().unwrap().id().try_into().unwrap())
    }

    fn kill9(&mut self) {
        let mut child = self.foreground.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        match self.foreground.take() {
            Some(mut child) => {
                let _ = kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM);
                let _ = child.wait();
            }
            None => drop(self.call(&["-K"])),
        }
        if std::thread::panicking() {
            eprintln!("log:\n{}", self.log());
        }
    }
}

fn send(lab: &Lab, host: &Host<'_>, args: &[&str]) {
    let mut command = limited("fwknop");
    command.env("HOME", host.folder.path()).args(["--no-save-args", "-D", "10.77.0.1"]);
    command.args(["--key-rijndael", "a-key-of-fwknop", "--key-hmac", "another-key-for-hmac"]).args(args);
    let output = lab.client.output(&mut command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_port_opens_behind_a_default_drop_policy_for_its_time_also_after_a_kill() {
    let Some(lab) = Lab::new() else { return };
    let access = format!("SOURCE ANY\n{KEYS}FW_ACCESS_TIMEOUT 3\n");
    let mut host = Host::new(&lab.server, &access, "");
    lab.server.echo(22);
    host.start();
    assert!(!lab.client.reaches(SERVER4, 22), "closed without a packet");
    send(&lab, &host, &["-A", "tcp/22", "-s"]);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "{}", host.log());
    assert!(!lab.neighbor.reaches(SERVER4, 22), "closed for everyone else");
    host.kill9();
    lab.client.wait_until_closed(SERVER4, 22);
    // An earlier packet opens nothing, and a rule that is gone is restored.
    host.start();
    lab.server.run("iptables -D INPUT 1");
    send(&lab, &host, &["-A", "tcp/22", "-a", "10.77.0.2"]);
    assert!(
        within(Duration::from_secs(20), || {
            send(&lab, &host, &["-A", "tcp/22", "-s"]);
            lab.client.reaches(SERVER4, 22)
        }),
        "{}",
        host.log()
    );
    assert!(
        host.log().contains(&format!("stanza-1 for {CLIENT4} from {CLIENT4}: granted for 3 s")),
        "{}",
        host.log()
    );
}

#[test]
fn it_runs_in_the_background_and_its_options_stop_reload_and_describe_it() {
    let Some(lab) = Lab::new() else { return };
    let access =
        format!("SOURCE 10.77.0.0/24\n{KEYS}OPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 2\nGPG_REMOTE_ID 0x1\n");
    let host = Host::new(&lab.server, &access, "ENABLE_NFQ_CAPTURE N;");
    lab.server.echo(22);
    assert_eq!(host.text(&["-S"]), (false, "fwknopd is not running\n".to_owned()));
    let (ok, text) = host.text(&["-K"]);
    assert!(!ok && text.contains("fwknopd is not running\n"), "{text}");
    let (ok, text) = host.text(&["-D", "--exit-parse-config"]);
    assert!(ok && text.contains("SOURCE                   10.77.0.0/255.255.255.0\n"), "{text}");
    assert!(text.contains("access.conf:6: GPG_REMOTE_ID: ") && !text.contains("a-key-of"), "{text}");

    let (ok, text) = host.text(&[]);
    assert!(ok, "{text}");
    let (ok, text) = host.text(&["-S"]);
    assert!(ok && text.starts_with("fwknopd is running (pid "), "{text}");
    let (ok, text) = host.text(&[]);
    assert!(!ok && text.contains("in use by another spa-knockd"), "{text}");
    send(&lab, &host, &["-A", "tcp/22", "-s"]);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)));
    let (ok, text) = host.text(&["--fw-list"]);
    let words: Vec<_> = text.split_whitespace().collect();
    assert!(ok && words.starts_with(&["STANZA", "FROM", "OPENS", "LEFT", "stanza-1", "10.77.0.2", "tcp/22"]));
    lab.client.wait_until_closed(SERVER4, 22);

    host.write("access.conf", "SOURCE ANY\nKEY only\n");
    let (ok, text) = host.text(&["-R"]);
    assert!(!ok && text.contains("access.conf:1:1: stanza: has no HMAC key"), "{text}");
    send(&lab, &host, &["-A", "tcp/22", "-s"]);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "the old stanza still applies");
    lab.client.wait_until_closed(SERVER4, 22);
    host.write("access.conf", &format!("SOURCE ANY\n{KEYS}OPEN_PORTS tcp/23\n"));
    assert_eq!(host.text(&["-R"]), (true, String::new()));
    std::thread::sleep(Duration::from_millis(500));
    send(&lab, &host, &["-A", "tcp/22", "-s"]);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!lab.client.reaches(SERVER4, 22), "only tcp/23 is permitted now");
    let (ok, text) = host.text(&["-K"]);
    assert!(ok && text.contains("fwknopd has stopped"), "{text}");
    assert_eq!(host.text(&["-S"]).1, "fwknopd is not running\n");
}

#[test]
fn a_packet_that_fwknopd_has_accepted_is_not_accepted_by_its_successor() {
    let Some(lab) = Lab::new() else { return };
    let access = format!("SOURCE ANY\n{KEYS}FW_ACCESS_TIMEOUT 2\nOPEN_PORTS tcp/22\n");
    let mut host = Host::new(&lab.server, &access, "");
    lab.server.echo(22);
    let packet = |name: &str| {
        let file = host.path(name);
        send(&lab, &host, &["-A", "tcp/22", "-s", "--test", "-B", file.to_str().unwrap()]);
        fs::read_to_string(file).unwrap().trim_end().to_owned()
    };
    let knock = |text: &str| {
        lab.client.udp(CLIENT4).send_to(text.as_bytes(), (SERVER4, 62201)).unwrap();
    };
    let (accepted, kept) = (packet("accepted"), packet("kept"));
    let mut theirs = Command::new("fwknopd");
    theirs.args(["-f", "-c"]).arg(host.path("fwknopd.conf")).arg("-a").arg(host.path("access.conf"));
    let log = fs::File::create(host.path("theirs")).unwrap();
    theirs.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut theirs = lab.server.spawn(&mut theirs);
    let log = || fs::read_to_string(host.path("theirs")).unwrap();
    assert!(within(SOON, || log().contains("Starting fwknopd")), "{}", log());
    std::thread::sleep(Duration::from_millis(500));
    knock(&accepted);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "{}", log());
    lab.client.wait_until_closed(SERVER4, 22);
    kill(Pid::from_raw(theirs.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    theirs.wait().unwrap();

    host.start();
    knock(&accepted);
    assert!(within(SOON, || host.log().contains(": replayed: ")), "{}", host.log());
    assert!(!lab.client.reaches(SERVER4, 22));
    knock(&kept);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "{}", host.log());
}

#[test]
fn it_does_not_start_beside_fwknopd_itself_or_with_keys_that_others_can_read() {
    let Some(lab) = Lab::new() else { return };
    let mut host = Host::new(&lab.server, &format!("SOURCE ANY\n{KEYS}"), "");
    let mode = |mode: &str, name: &str| {
        assert!(Command::new("chmod").arg(mode).arg(host.path(name)).status().unwrap().success());
    };
    mode("644", "access.conf");
    let (ok, text) = host.text(&[]);
    assert!(
        !ok && text.contains("access.conf: mode 0644 allows others to access it\nhint: chmod 600 "),
        "{text}"
    );
    mode("600", "access.conf");

    let fwknopd = |args: &[&str]| {
        let mut command = limited("fwknopd");
        command.arg("-c").arg(host.path("fwknopd.conf")).arg("-a").arg(host.path("access.conf")).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        lab.server.spawn(&mut command).wait().unwrap().success()
    };
    assert!(fwknopd(&[]));
    assert!(within(SOON, || host.path("run/fwknopd.pid").exists()));
    let (ok, text) = host.text(&[]);
    assert!(fwknopd(&["-K"]));
    let pid_file = host.path("run/fwknopd.pid");
    let expected = format!("{}: another fwknopd (pid ", pid_file.display());
    assert!(
        !ok && text.contains(&expected) && text.contains("hint: systemctl disable --now fwknop-server"),
        "{text}"
    );
    assert!(within(SOON, || !host.text(&[]).1.contains("another fwknopd")), "it has stopped");
    // The last attempt has started a daemon.
    assert!(host.text(&["-K"]).0);
    // fwknopd.conf contains no keys.
    Command::new("chmod").arg("644").arg(host.path("fwknopd.conf")).status().unwrap();
    host.start();
}
