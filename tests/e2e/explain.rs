//! `spa-knockd explain --live` while a daemon runs.

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spa_knock_core::knock::{Knock, Timestamp};

use crate::net::{CLIENT4, Daemon, Lab, SERVER4, Site, ask, knock, open_ssh, within};

#[test]
fn packets_are_explained_until_sigint() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let _daemon = Daemon::start(&lab.server, &site);
    let out = site.path("explained.jsonl");
    let mut command = Command::new(env!("CARGO_BIN_EXE_spa-knockd"));
    command.args(["explain", "--live", "--json", "-c"]).arg(site.path("spa-knockd.toml"));
    let file = std::fs::File::create(&out).unwrap();
    let stderr = std::fs::File::create(site.path("stderr")).unwrap();
    let mut live = lab.server.spawn(command.stdin(Stdio::null()).stdout(file).stderr(stderr));
    let messages = || std::fs::read_to_string(site.path("stderr")).unwrap();
    assert!(within(Duration::from_secs(60), || messages().contains("Ctrl-C")), "{}", messages());

    let socket = lab.client.udp(CLIENT4);
    let key = site.key("laptop");
    assert!(ask(&socket, SERVER4, &key.good()).is_some());
    let now = knock("open-ssh");
    let late = now.timestamp.as_millis() - 3 * 3_600_000;
    let late = key.seal(&Knock { timestamp: Timestamp::from_millis(late), ..now });
    assert_eq!(ask(&socket, SERVER4, late.as_bytes()), None);
    // Packets from unknown clients to other ports are not explained.
    socket.send_to(b"x", (SERVER4, 9)).unwrap();

    let lines = || std::fs::read_to_string(&out).unwrap();
    assert!(within(Duration::from_secs(20), || lines().lines().count() >= 2), "{}", lines());
    let changed = "warning: the config or a key has changed; explain continues with those of its start\n";
    assert!(!messages().contains(changed), "{}", messages());
    let added = lab.server.output(&mut site.admin(&["client", "add", "phone", "--allow", "open-ssh"]));
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    assert!(within(Duration::from_secs(10), || messages().contains(changed)), "{}", messages());
    kill(Pid::from_raw(live.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert!(live.wait().unwrap().success(), "{}", messages());
    let lines = lines();
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [good, late] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(
        (&good["check"], &good["client"], &good["action"]),
        (&"passed".into(), &"laptop".into(), &"open-ssh".into())
    );
    assert_eq!((&late["check"], &late["client"]), (&"unknown-hint".into(), &"laptop".into()));
    assert!(late["cause"].as_str().unwrap().contains("the clock of laptop is 3h behind"), "{late}");
    assert!(messages().contains("packets: "), "{}", messages());
}

#[test]
fn without_a_daemon_check_explain_and_status_report_that_no_knock_is_accepted() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let check = || String::from_utf8(lab.server.output(&mut site.admin(&["check"])).stdout).unwrap();
    assert!(!check().contains("no knock is accepted"), "the gate has never been on");
    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(!check().contains("no knock is accepted"), "the daemon is running");
    assert!(daemon.terminate().success());
    let checked = check();
    assert!(
        checked.contains("warning: ") && checked.contains("the daemon is not running, but the gate is on"),
        "{checked}"
    );
    let status = lab.server.output(&mut site.admin(&["status"]));
    let text = String::from_utf8(status.stderr).unwrap();
    assert!(!status.status.success() && text.contains("the gate is on, and no knock is accepted"), "{text}");
    assert!(text.contains("hint: systemctl start spa-knockd, or spa-knockd let-in ADDRESS"), "{text}");

    let mut command = Command::new(env!("CARGO_BIN_EXE_spa-knockd"));
    command.args(["explain", "--live", "-c"]).arg(site.path("spa-knockd.toml"));
    let stderr = std::fs::File::create(site.path("stderr")).unwrap();
    let mut live = lab.server.spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr));
    let messages = || std::fs::read_to_string(site.path("stderr")).unwrap();
    assert!(within(Duration::from_secs(60), || messages().contains("Ctrl-C")), "{}", messages());
    assert!(messages().contains("no daemon is running: nothing is granted"), "{}", messages());
    kill(Pid::from_raw(live.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert!(live.wait().unwrap().success(), "{}", messages());
}
