//! The audit log and the daemon's log when the disk is full, read-only, slow or missing, when a file has been moved,
//! and when no process reads standard error. Knocks still work, and lost records and lines are counted.

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
    CLIENT4, Daemon, Key, Lab, Mounts, NO_LIMITS, SERVER4, SOON, Site, ask, ask_patiently, knock, limited,
    open_ssh, within,
};

fn status(site: &Site) -> Value {
    let output = site.admin(&["status", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A site whose audit log is in a separate folder.
fn site(server: &str) -> Site {
    let site = Site::new(&format!("{NO_LIMITS}{server}"), &open_ssh(30));
    let config = site.path("spa-knockd.toml");
    let text = fs::read_to_string(&config).unwrap().replace("/audit.jsonl", "/log/audit.jsonl");
    fs::write(&config, text).unwrap();
    site
}

/// The status of the reply to a valid knock.
fn reply_status(lab: &Lab, key: &Key) -> Option<ReplyStatus> {
    let knock = key.seal(&knock("open-ssh"));
    let reply = ask_patiently(&lab.client.udp(CLIENT4), SERVER4, knock.as_bytes())?;
    Some(key.open(&reply, &knock).status)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn an_unwritable_audit_log_blocks_no_knock_is_reported_and_is_completed_later() {
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
            "is a directory, not a file",
        ),
        (
            "a link",
            |_, folder| symlink("/dev/null", folder.join("audit.jsonl")).unwrap(),
            "is a symbolic link",
        ),
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
            scope.spawn(move || check_unwritable_log(row));
        }
    });
}

fn check_unwritable_log((what, break_it, reason): (&str, fn(&Mounts, &Path), &str)) {
    let Some(lab) = Lab::new() else { return };
    let site = site("");
    let (mounts, folder) = (Mounts::new(), site.path("log"));
    fs::create_dir(&folder).unwrap();
    break_it(&mounts, &folder);
    let [nsenter, entrance] = mounts.nsenter();
    let inside = || {
        let mut command = Command::new(&nsenter);
        command.arg(&entrance).arg(Daemon::PROGRAM);
        command
    };
    let mut command = inside();
    command.args(Daemon::arguments(&site));
    let daemon = Daemon::start_command(&lab.server, command);
    let key = site.key("laptop");
    assert_eq!(reply_status(&lab, &key), Some(ReplyStatus::Granted), "{what}");
    assert!(within(SOON, || status(&site)["audit"]["error"].is_string()), "{what}: {}", status(&site));
    let state = status(&site)["audit"].clone();
    assert!(state["error"].as_str().unwrap().contains(reason), "{what}: {state}");
    assert_eq!((&state["waiting"], &state["lost"]), (&1.into(), &0.into()), "{what}");
    assert!(daemon.log().contains("audit log: cannot be written: "), "{what}: {}", daemon.log());
    if matches!(what, "full" | "read-only") {
        for (required, message, clean) in [
            ("", "warning", true),
            ("audit-required = true\n", "knocks that cannot be recorded are refused", false),
        ] {
            let config = site.path(&format!("required-{clean}.toml"));
            let toml = fs::read_to_string(site.path("spa-knockd.toml")).unwrap();
            fs::write(&config, toml.replace("[server]\n", &format!("[server]\n{required}"))).unwrap();
            let mut check = inside();
            let output = lab.server.output(check.args(["check", "-c"]).arg(&config));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("cannot be written") && text.contains(message), "{what}: {text}");
            assert_eq!(output.status.success(), clean, "{what}: {text}");
        }
    }
    // Repair the audit log.
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
fn an_audit_log_is_rotated_and_a_moved_file_or_folder_is_created_again() {
    let Some(lab) = Lab::new() else { return };
    let site = site("audit-size = \"64KiB\"\naudit-files = 2\n");
    let daemon = Daemon::start(&lab.server, &site);
    let (key, log) = (site.key("laptop"), site.path("log/audit.jsonl"));
    let socket = lab.client.udp(CLIENT4);
    for _ in 0..600 {
        assert!(ask_patiently(&socket, SERVER4, &key.good()).is_some());
    }
    let length = |name: &str| fs::metadata(site.path(name)).map_or(0, |file| file.len());
    assert!(within(SOON, || length("log/audit.jsonl.1") > 60 << 10), "the log is rotated");
    assert!(within(SOON, || status(&site)["audit"]["waiting"] == 0));
    assert!(length("log/audit.jsonl.1") <= 64 << 10 && length("log/audit.jsonl") <= 64 << 10);
    assert!(!site.path("log/audit.jsonl.2").exists());
    assert!(lines(&log).iter().all(|line| line["server"] == "bastion.test"));

    for (what, from) in [("file", "log/audit.jsonl"), ("folder", "log")] {
        fs::rename(site.path(from), site.path(&format!("moved-{what}"))).unwrap();
        // The daemon checks once per second whether the file exists.
        assert!(within(SOON, || reply_status(&lab, &key).is_some() && log.exists()), "{what}");
        assert!(within(SOON, || lines(&log).iter().any(|line| line["event"] == "granted")), "{what}");
    }
    // A folder that other users can write to is reported, but used.
    fs::set_permissions(site.path("log"), fs::Permissions::from_mode(0o777)).unwrap();
    daemon.reload();
    drop(daemon);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(daemon.log().contains("mode 0777 allows others to change it"), "{}", daemon.log());
    assert_eq!(reply_status(&lab, &key), Some(ReplyStatus::Granted));
}

#[test]
fn the_daemon_continues_in_a_new_file_after_logrotate_has_renamed_the_old_one() {
    let Some(lab) = Lab::new() else { return };
    let site = site("");
    let _daemon = Daemon::start(&lab.server, &site);
    let (key, log) = (site.key("laptop"), site.path("log/audit.jsonl"));
    assert!(reply_status(&lab, &key).is_some());
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
    assert!(within(SOON, || reply_status(&lab, &key).is_some() && !lines(&log).is_empty()));
    assert!(!lines(&rotated()[0]).is_empty(), "the rotated file is kept, and not yet compressed");
}

#[test]
fn a_knock_that_must_be_recorded_is_refused_while_the_log_is_unwritable_and_lost_records_are_counted() {
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
        (ReplyStatus::ActionFailed, "the server cannot record the knock")
    );
    assert!(!lab.server.nft("list set inet spa_knock grants4").contains("expires"), "nothing is open");

    // Without `audit-required`, knocks act, and records that do not fit into the queue are lost.
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
    let recorded_as_lost = || {
        lines(&log)
            .iter()
            .filter(|line| line["event"] == "lost")
            .filter_map(|line| line["count"].as_u64())
            .sum::<u64>()
    };
    assert!(within(SOON, || recorded_as_lost() == lost), "{} of {lost}", recorded_as_lost());
    assert!(within(SOON, || daemon.log().contains("audit log: can be written again")));
    assert_eq!(reply_status(&lab, &key), Some(ReplyStatus::Granted));
    let refused = |line: &Value| line["reason"] == "audit-unavailable" && line["action"] == "open-ssh";
    assert!(lines(&log).iter().any(refused), "{:?}", lines(&log).first());
}

/// A daemon whose standard error no process reads; killed when dropped.
struct UnreadDaemon(Child);

impl UnreadDaemon {
    fn stops(&mut self) -> bool {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        within(SOON, || self.0.try_wait().unwrap().is_some())
    }
}

impl Drop for UnreadDaemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A full pipe: its read end and its write end.
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
fn an_unread_standard_error_delays_no_knock_and_lost_lines_are_counted() {
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
        let mut child =
            UnreadDaemon(lab.server.spawn(command.stdout(Stdio::null()).stderr(Stdio::from(full))));
        // Only the daemon holds the write end of the pipe.
        drop(command);
        // The log cannot show that the daemon is ready, so ask it for its status.
        assert!(
            within(SOON, || site.admin(&["status"]).output().unwrap().status.success()),
            "the daemon starts"
        );
        let (key, socket) = (site.key("laptop"), lab.client.udp(CLIENT4));
        let mut slowest = Duration::ZERO;
        for _ in 0..1_200 {
            let start = Instant::now();
            assert!(ask_patiently(&socket, SERVER4, &key.good()).is_some(), "{audit}");
            slowest = slowest.max(start.elapsed());
        }
        println!("{audit}: the slowest of 1200 replies took {slowest:?}");
        let now = status(&site);
        let lost = now["log"]["lost"].as_u64().unwrap();
        assert!(lost > 0, "{audit}: {now}");
        let lost_records = now["audit"]["lost"].as_u64().unwrap();
        assert_eq!(lost_records > 0, audit == "journal", "{now}");

        // Standard error is read again.
        let mut reader = File::from(read);
        let output = Arc::new(Mutex::new(Vec::new()));
        let thread_output = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                thread_output.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        let has_logged = |text: &str| String::from_utf8_lossy(&output.lock().unwrap()).contains(text);
        let knocks = || ask_patiently(&socket, SERVER4, &key.good()).is_some();
        assert!(within(SOON, || knocks() && has_logged("log lines lost")), "{audit}");
        if audit == "journal" {
            assert!(within(SOON, || knocks() && has_logged("\"event\":\"lost\"")), "{audit}");
        }
        assert!(child.stops(), "{audit}: the daemon stops");
    }
}

#[test]
fn a_daemon_whose_standard_error_is_not_read_stops_on_sigterm() {
    let Some(lab) = Lab::new() else { return };
    let site = site("");
    let (_read, full) = full_pipe();
    let mut command = Daemon::command(&site);
    let mut child = UnreadDaemon(lab.server.spawn(command.stdout(Stdio::null()).stderr(Stdio::from(full))));
    assert!(within(SOON, || site.admin(&["status"]).output().unwrap().status.success()), "the daemon starts");
    let start = Instant::now();
    assert!(child.stops(), "the daemon stops");
    println!("stopped after {:?}", start.elapsed());
}
