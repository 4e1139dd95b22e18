//! The audit log and the daemon's log when the disk is full, read-only, slow or not there, when a file has been moved,
//! and when standard error is not read: knocks work as before, and what is lost is counted.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe, write};
use serde_json::Value;
use spa_knock_core::knock::ReplyStatus;

use crate::net::{
    CLIENT4, Daemon, Key, Lab, Mounts, NO_LIMITS, SERVER4, Site, ask, ask_patiently, knock, limited,
    open_ssh, within,
};

const SOON: Duration = Duration::from_secs(20);

fn status(site: &Site) -> Value {
    let output = site.admin(&["status", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A site whose audit log is in a folder of its own.
fn site(server: &str) -> Site {
    let site = Site::new(&format!("{NO_LIMITS}{server}"), &open_ssh(30));
    let config = site.path("spa-knockd.toml");
    let text = fs::read_to_string(&config).unwrap().replace("/audit.jsonl", "/log/audit.jsonl");
    fs::write(&config, text).unwrap();
    site
}

/// What is answered to a good knock.
fn answer(lab: &Lab, key: &Key) -> Option<ReplyStatus> {
    let knock = key.seal(&knock("open-ssh"));
    let answer = ask_patiently(&lab.client.udp(CLIENT4), SERVER4, knock.as_bytes())?;
    Some(key.open(&answer, &knock).status)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn an_audit_log_that_cannot_be_written_keeps_no_one_out_is_named_and_is_made_up_for() {
    type Break = fn(&Mounts, &Path);
    let rows: [(&str, Break, &str); 6] = [
        (
            "full",
            |mounts, folder| {
                mounts.mount(&["-t", "tmpfs", "-o", "size=4k,mode=0700", "none"], folder);
                mounts.run("sh", &["-c", &format!("head -c 4096 /dev/zero >{}/other", folder.display())]);
            },
            "no space left",
        ),
        (
            "read-only",
            |mounts, folder| {
                mounts.mount(&["-t", "tmpfs", "-o", "ro,mode=0700", "none"], folder);
            },
            "read-only file system",
        ),
        (
            "a FIFO",
            |_, folder| {
                nix::unistd::mkfifo(&folder.join("audit.jsonl"), nix::sys::stat::Mode::S_IRWXU).unwrap();
            },
            "is not a regular file",
        ),
        (
            "a folder",
            |_, folder| fs::create_dir(folder.join("audit.jsonl")).unwrap(),
            "is a folder, not a file",
        ),
        ("a link", |_, folder| symlink("/dev/null", folder.join("audit.jsonl")).unwrap(), "is a link"),
        (
            "a foreign file",
            |_, folder| {
                fs::write(folder.join("audit.jsonl"), "").unwrap();
                chown(folder.join("audit.jsonl"), Some(4_711), None).unwrap();
            },
            "permission denied",
        ),
    ];
    std::thread::scope(|scope| {
        for row in rows {
            scope.spawn(move || cannot_be_written(row));
        }
    });
}

fn cannot_be_written((what, break_it, reason): (&str, fn(&Mounts, &Path), &str)) {
    let Some(lab) = Lab::new() else { return };
    let site = site("");
    let (mounts, folder) = (Mounts::new(), site.path("log"));
    fs::create_dir(&folder).unwrap();
    break_it(&mounts, &folder);
    let [nsenter, entrance] = mounts.words();
    let inside = || {
        let mut command = Command::new(&nsenter);
        command.arg(&entrance).arg(Daemon::PROGRAM);
        command
    };
    let mut command = inside();
    command.args(Daemon::words(&site));
    let daemon = Daemon::start_command(&lab.server, command);
    let key = site.key("laptop");
    assert_eq!(answer(&lab, &key), Some(ReplyStatus::Granted), "{what}");
    assert!(within(SOON, || status(&site)["audit"]["error"].is_string()), "{what}: {}", status(&site));
    let state = status(&site)["audit"].clone();
    assert!(state["error"].as_str().unwrap().contains(reason), "{what}: {state}");
    assert_eq!((&state["waiting"], &state["lost"]), (&1.into(), &0.into()), "{what}");
    assert!(daemon.log().contains("audit log: cannot be written: "), "{what}: {}", daemon.log());
    if matches!(what, "full" | "read-only") {
        for (required, words, clean) in [
            ("", "warning", true),
            ("audit-required = true\n", "no knock acts that is not in the audit log", false),
        ] {
            let config = site.path(&format!("required-{clean}.toml"));
            let text = fs::read_to_string(site.path("spa-knockd.toml")).unwrap();
            fs::write(&config, text.replace("[server]\n", &format!("[server]\n{required}"))).unwrap();
            let mut check = inside();
            let output = lab.server.output(check.args(["check", "-c"]).arg(&config));
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("cannot be written") && said.contains(words), "{what}: {said}");
            assert_eq!(output.status.success(), clean, "{what}: {said}");
        }
    }
    // Repaired.
    let in_daemon = format!("/proc/{}/root{}", daemon.id(), folder.display());
    match what {
        "full" => mounts.run("rm", &[&format!("{}/other", folder.display())]),
        "read-only" => mounts.run("mount", &["-o", "remount,rw", folder.to_str().unwrap()]),
        _ => mounts.run("sh", &["-c", &format!("rm -r {}/audit.jsonl", folder.display())]),
    };
    let log = Path::new(&in_daemon).join("audit.jsonl");
    assert!(within(SOON, || lines(&log).iter().any(|line| line["event"] == "granted")), "{what}");
    assert!(within(SOON, || status(&site)["audit"]["error"].is_null()), "{what}");
    assert!(within(SOON, || daemon.log().contains("audit log: can be written again")), "{what}");
}

#[test]
fn an_audit_log_is_rotated_and_a_file_or_folder_that_is_moved_away_is_made_again() {
    let Some(lab) = Lab::new() else { return };
    let site = site("audit-size = \"64KiB\"\naudit-files = 2\n");
    let daemon = Daemon::start(&lab.server, &site);
    let (key, log) = (site.key("laptop"), site.path("log/audit.jsonl"));
    let socket = lab.client.udp(CLIENT4);
    for _ in 0..600 {
        assert!(ask_patiently(&socket, SERVER4, &key.good()).is_some());
    }
    let length = |name: &str| fs::metadata(site.path(name)).map_or(0, |file| file.len());
    assert!(within(SOON, || length("log/audit.jsonl.1") > 60 << 10), "it is rotated");
    assert!(within(SOON, || status(&site)["audit"]["waiting"] == 0));
    assert!(length("log/audit.jsonl.1") <= 64 << 10 && length("log/audit.jsonl") <= 64 << 10);
    assert!(!site.path("log/audit.jsonl.2").exists());
    assert!(lines(&log).iter().all(|line| line["server"] == "bastion.test"));

    for (what, from) in [("file", "log/audit.jsonl"), ("folder", "log")] {
        fs::rename(site.path(from), site.path(&format!("moved-{what}"))).unwrap();
        // It is looked for once a second.
        assert!(within(SOON, || answer(&lab, &key).is_some() && log.exists()), "{what}");
        assert!(within(SOON, || lines(&log).iter().any(|line| line["event"] == "granted")), "{what}");
    }
    // A folder that others may write to is named, and used.
    fs::set_permissions(site.path("log"), fs::Permissions::from_mode(0o777)).unwrap();
    daemon.reload();
    drop(daemon);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(daemon.log().contains("mode 0777 lets others change it"), "{}", daemon.log());
    assert_eq!(answer(&lab, &key), Some(ReplyStatus::Granted));
}

#[test]
fn logrotate_takes_the_file_and_the_daemon_goes_on_in_another_one() {
    let Some(lab) = Lab::new() else { return };
    let site = site("");
    let _daemon = Daemon::start(&lab.server, &site);
    let (key, log) = (site.key("laptop"), site.path("log/audit.jsonl"));
    assert!(answer(&lab, &key).is_some());
    assert!(within(SOON, || !lines(&log).is_empty()));
    let shipped = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/logrotate")).unwrap();
    let config = site.path("logrotate.conf");
    fs::write(&config, shipped.replace("/var/log/spa-knock", site.path("log").to_str().unwrap())).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let output =
        limited("logrotate").args(["-f", "-s"]).arg(site.path("logrotate.state")).arg(&config).output();
    let output = output.unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rotated = || -> Vec<_> {
        let names = fs::read_dir(site.path("log")).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|name| *name != log).collect()
    };
    assert_eq!(rotated().len(), 1, "{:?}", rotated());
    assert!(within(SOON, || answer(&lab, &key).is_some() && !lines(&log).is_empty()));
    assert!(!lines(&rotated()[0]).is_empty(), "what was written is kept, and not compressed yet");
}

#[test]
fn what_must_be_recorded_is_refused_while_it_cannot_be_and_what_is_lost_is_counted() {
    let Some(lab) = Lab::new() else { return };
    let required = "audit-required = true\nmetrics = \"127.0.0.1:9842\"\n";
    let site = site(required);
    fs::create_dir_all(site.path("log/audit.jsonl")).unwrap();
    let daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    assert!(within(SOON, || status(&site)["audit"]["error"].is_string()));
    let knock = key.seal(&knock("open-ssh"));
    let reply = key.open(&ask(&lab.client.udp(CLIENT4), SERVER4, knock.as_bytes()).unwrap(), &knock);
    assert_eq!(
        (reply.status, reply.text.as_str()),
        (ReplyStatus::ActionFailed, "the server cannot record it now")
    );
    assert!(!lab.server.nft("list set inet spa_knock grants4").contains("expires"), "nothing is open");

    // The same where it is not required: knocks act, and more than can wait is lost.
    site.write_config(&format!("{NO_LIMITS}metrics = \"127.0.0.1:9842\"\n"), &open_ssh(30));
    let config = site.path("spa-knockd.toml");
    let text = fs::read_to_string(&config).unwrap().replace("/audit.jsonl", "/log/audit.jsonl");
    fs::write(&config, text).unwrap();
    daemon.reload();
    let socket = lab.client.udp(CLIENT4);
    for _ in 0..1_100 {
        assert!(ask_patiently(&socket, SERVER4, &key.good()).is_some());
    }
    let state = status(&site)["audit"].clone();
    assert_eq!(state["waiting"], 1_024, "{state}");
    let lost = state["lost"].as_u64().unwrap();
    assert!(lost > 0, "{state}");
    let page = site.admin(&["status", "--prometheus"]).output().unwrap().stdout;
    let page = String::from_utf8_lossy(&page).into_owned();
    assert!(page.contains(&format!("\nspa_knock_audit_lost_total {lost}\n")), "{page}");
    assert!(page.contains("\nspa_knock_audit_up 0\n"), "{page}");

    fs::remove_dir(site.path("log/audit.jsonl")).unwrap();
    let log = site.path("log/audit.jsonl");
    let noted = || {
        lines(&log)
            .iter()
            .filter(|line| line["event"] == "lost")
            .filter_map(|line| line["count"].as_u64())
            .sum::<u64>()
    };
    assert!(within(SOON, || noted() == lost), "{} of {lost}", noted());
    assert!(within(SOON, || daemon.log().contains("audit log: can be written again")));
    assert_eq!(answer(&lab, &key), Some(ReplyStatus::Granted));
    let refused = |line: &Value| line["reason"] == "audit-unavailable" && line["action"] == "open-ssh";
    assert!(lines(&log).iter().any(refused), "{:?}", lines(&log).first());
}

/// A daemon whose standard error no one reads; ended when dropped.
struct Ended(Child);

impl Ended {
    fn stops(&mut self) -> bool {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        within(SOON, || self.0.try_wait().unwrap().is_some())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pipe that takes nothing more: its end to read, and its end to write.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (read, full) = pipe().unwrap();
    let flags = OFlag::from_bits_truncate(fcntl(&full, FcntlArg::F_GETFL).unwrap());
    fcntl(&full, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
    while write(&full, &[b'x'; 4096]).is_ok() {}
    while write(&full, b"x").is_ok() {}
    fcntl(&full, FcntlArg::F_SETFL(flags)).unwrap();
    (read, full)
}

#[test]
fn a_standard_error_that_is_not_read_holds_no_knock_up_and_lost_lines_are_counted() {
    for audit in ["file", "journal"] {
        let Some(lab) = Lab::new() else { return };
        let site = site("");
        if audit == "journal" {
            let config = site.path("spa-knockd.toml");
            let text = fs::read_to_string(&config).unwrap();
            let file = format!("{}/log/audit.jsonl", site.folder().display());
            fs::write(&config, text.replace(&file, "journal")).unwrap();
        }
        let (read, full) = full_pipe();
        let mut command = Daemon::command(&site);
        let mut child = Ended(lab.server.spawn(command.stdout(Stdio::null()).stderr(Stdio::from(full))));
        // The daemon alone has the pipe's end.
        drop(command);
        // No line says that it is ready.
        assert!(within(SOON, || site.admin(&["status"]).output().unwrap().status.success()), "it starts");
        let (key, socket) = (site.key("laptop"), lab.client.udp(CLIENT4));
        let mut slowest = Duration::ZERO;
        for _ in 0..1_200 {
            let begun = Instant::now();
            assert!(ask_patiently(&socket, SERVER4, &key.good()).is_some(), "{audit}");
            slowest = slowest.max(begun.elapsed());
        }
        println!("{audit}: the slowest of 1200 answers took {slowest:?}");
        let now = status(&site);
        let lost = now["log"]["lost"].as_u64().unwrap();
        assert!(lost > 0, "{audit}: {now}");
        let lost_records = now["audit"]["lost"].as_u64().unwrap();
        assert_eq!(lost_records > 0, audit == "journal", "{now}");

        // Somebody reads again.
        let mut reader = File::from(read);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                copy.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        let says = |word: &str| String::from_utf8_lossy(&heard.lock().unwrap()).contains(word);
        let knocks = || ask_patiently(&socket, SERVER4, &key.good()).is_some();
        assert!(within(SOON, || knocks() && says("lines of the log are lost")), "{audit}");
        if audit == "journal" {
            assert!(within(SOON, || knocks() && says("\"event\":\"lost\"")), "{audit}");
        }
        assert!(child.stops(), "{audit}: it stops");
    }
}

#[test]
fn a_daemon_whose_standard_error_is_not_read_stops_when_it_must() {
    let Some(lab) = Lab::new() else { return };
    let site = site("");
    let (_read, full) = full_pipe();
    let mut command = Daemon::command(&site);
    let mut child = Ended(lab.server.spawn(command.stdout(Stdio::null()).stderr(Stdio::from(full))));
    assert!(within(SOON, || site.admin(&["status"]).output().unwrap().status.success()), "it starts");
    let begun = Instant::now();
    assert!(child.stops(), "it stops");
    println!("stopped after {:?}", begun.elapsed());
}
