//! Damaged servers: if something is full, missing, late or broken, the gate works as documented and the administrator
//! can get in. Each row damages one thing. Then `gate off`, `revoke` and `let-in` must work, and the messages must name
//! the cause and the fix.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use std::{fs, thread};

use spa_knock_core::knock::ReplyStatus;

use crate::net::{CLIENT4, Daemon, Lab, Mounts, NEIGHBOR4, SERVER4, Site, ask, full, knock, open_ssh};

/// The backends with a gate.
const BACKENDS: [&str; 2] = ["nftables", "iptables"];

/// One row: the damage, and its documented consequences.
struct Row {
    name: &'static str,
    /// Called before the daemon starts.
    prepare: fn(&Stage),
    /// Does the damage, which is visible to all processes in `mounts`.
    damage: fn(&Stage),
    /// Whether `gate off` is stored for the next start.
    stored: bool,
    /// Whether a running daemon still grants knocks.
    grants: bool,
    /// Texts in the output of `gate off`.
    messages: &'static [&'static str],
}

/// No damage: everything is stored and granted.
const INTACT: Row = Row {
    name: "nothing",
    prepare: |_| {},
    damage: |_| {},
    stored: true,
    grants: true,
    messages: &["gate: off"],
};

const ROWS: [Row; 8] = [
    INTACT,
    Row {
        name: "config with an unknown key",
        damage: |stage| append(&stage.site.path("spa-knockd.toml"), "x = 1\n"),
        messages: &["unknown key", "last-good.toml", "gate: off"],
        ..INTACT
    },
    Row {
        name: "config with a syntax error",
        damage: |stage| append(&stage.site.path("spa-knockd.toml"), "[[[\n"),
        messages: &["last-good.toml", "gate: off"],
        ..INTACT
    },
    Row {
        name: "key that others can read",
        damage: |stage| chmod(&stage.site.key_path("laptop"), 0o644),
        ..INTACT
    },
    Row {
        name: "state folder read-only",
        damage: |stage| {
            // Files that the daemon has already opened stay writable.
            let state = stage.site.path("state");
            stage.mounts.mount(&["--bind", state.to_str().unwrap()], &state);
            stage.mounts.mount(&["-o", "remount,bind,ro"], &state);
        },
        stored: false,
        messages: &["read-only", "only until the daemon or the host restarts", "hint: make"],
        ..INTACT
    },
    Row {
        name: "state folder full",
        prepare: |stage| {
            let state = stage.site.path("state");
            stage.mounts.mount(&["-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs"], &state);
        },
        damage: |stage| {
            let fill =
                format!("head -c 65m /dev/zero > {}/filler || true", stage.site.path("state").display());
            stage.mounts.run("sh", &["-c", &fill]);
        },
        stored: false,
        messages: &["no space left", "only until the daemon or the host restarts", "hint: make"],
        ..INTACT
    },
    Row {
        name: "state folder removed",
        damage: |stage| fs::remove_dir_all(stage.site.path("state")).unwrap(),
        ..INTACT
    },
    Row {
        name: "state folder that others can write to",
        damage: |stage| chmod(&stage.site.path("state"), 0o777),
        ..INTACT
    },
];

/// A lab with a site where a daemon has run, and the mounts for the damage.
struct Stage<'l> {
    lab: &'l Lab,
    site: Site,
    mounts: Mounts,
    row: String,
}

impl<'l> Stage<'l> {
    fn new(lab: &'l Lab, backend: &str, row: &str) -> Self {
        let rest = open_ssh(30).replace("[firewall]", &format!("[firewall]\nbackend = \"{backend}\""));
        let row = format!("{row}, {backend}");
        Self { lab, site: Site::new("", &rest), mounts: Mounts::new(), row }
    }

    /// The same command in the mount namespace.
    fn inside(&self, command: &Command) -> Command {
        let [nsenter, entrance] = self.mounts.nsenter();
        let mut inside = Command::new(nsenter);
        inside.arg(entrance).arg(command.get_program()).args(command.get_args());
        inside
    }

    fn start(&self) -> Daemon {
        Daemon::start_command(&self.lab.server, self.inside(&Daemon::command(&self.site)))
    }

    /// Runs `spa-knockd` with these arguments, which must succeed, and returns its output.
    fn admin(&self, args: &[&str]) -> String {
        self.try_admin(args, true)
    }

    /// Like `admin`, for a command that must succeed or must fail.
    fn try_admin(&self, args: &[&str], succeeds: bool) -> String {
        let Output { status, stdout, stderr } =
            self.lab.server.output(&mut self.inside(&self.site.admin(args)));
        let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        assert_eq!(status.success(), succeeds, "{}: {args:?}: {text}", self.row);
        text
    }

    /// Whether a knock of `laptop` gets a reply.
    fn knocks(&self) -> bool {
        ask(&self.lab.client.udp(CLIENT4), SERVER4, &self.site.key("laptop").good()).is_some()
    }

    fn is_open(&self) -> bool {
        self.lab.client.reaches(SERVER4, 22)
    }
}

#[test]
fn gate_off_opens_the_ports_despite_any_damage_with_and_without_a_daemon() {
    on_each_row(|stage, row, runs| {
        let text = stage.admin(&["gate", "off"]);
        assert!(stage.is_open(), "{}: {text}", stage.row);
        assert_clean(stage);
        for message in row.messages {
            assert!(text.contains(message), "{}: {message:?} is not in {text}", stage.row);
        }
        assert_eq!(text.contains("also after a restart"), row.stored, "{}: {text}", stage.row);
        if runs {
            thread::sleep(Duration::from_millis(300));
            assert!(stage.is_open(), "{}: still open", stage.row);
        }
    });
}

#[test]
fn a_running_daemon_grants_knocks_as_documented_despite_any_damage() {
    on_each_row(|stage, row, runs| {
        if runs {
            let knock = stage.site.key("laptop").seal(&knock("open-ssh"));
            let reply = ask(&stage.lab.neighbor.udp(NEIGHBOR4), SERVER4, knock.as_bytes());
            let reply = reply.unwrap_or_else(|| panic!("{}: no reply", stage.row));
            let granted = stage.site.key("laptop").open(&reply, &knock).status == ReplyStatus::Granted;
            assert_eq!(granted, row.grants, "{}", stage.row);
            assert_eq!(stage.lab.neighbor.reaches(SERVER4, 22), row.grants, "{}", stage.row);
        }
    });
}

#[test]
fn a_client_can_be_revoked_despite_any_damage_with_and_without_a_daemon() {
    on_each_row(|stage, row, runs| {
        // The client is in the config file, so a revocation that cannot be stored is a failure.
        let text = stage.try_admin(&["client", "revoke", "laptop"], row.stored);
        assert!(!stage.is_open(), "{}: {text}", stage.row);
        assert!(text.contains("remove [client.laptop] from"), "{}: {text}", stage.row);
        let lasts = text.contains("also after a restart");
        assert_eq!(lasts, row.stored, "{}: {text}", stage.row);
        assert_eq!(
            text.contains("the next start will accept it again"),
            !row.stored,
            "{}: {text}",
            stage.row
        );
        if runs {
            assert!(!stage.knocks(), "{}: the key is refused", stage.row);
        }
    });
}

#[test]
fn an_address_can_be_let_in_from_the_console_despite_any_damage_with_and_without_a_daemon() {
    on_each_row(|stage, _, _| {
        assert!(!stage.lab.neighbor.reaches(SERVER4, 22), "{}", stage.row);
        let text = stage.admin(&["let-in", &NEIGHBOR4.to_string(), "--for", "1m"]);
        assert!(text.contains("10.77.1.2: let in to tcp/22 for 1m"), "{}: {text}", stage.row);
        assert!(stage.lab.neighbor.reaches(SERVER4, 22), "{}: {text}", stage.row);
    });
}

/// Runs `check` on each row with each backend, with and without a daemon; if the run is not full, on half of them.
/// Before `check`, the gate is on with a grant of `laptop`, and the row's damage has been done.
fn on_each_row(check: impl Fn(&Stage, &Row, bool) + Sync) {
    if Lab::new().is_none() {
        return;
    }
    let check = &check;
    thread::scope(|scope| {
        for (shift, backend) in BACKENDS.into_iter().enumerate() {
            for runs in [true, false] {
                scope.spawn(move || {
                    let lab = Lab::new().expect("a lab, because the user is root");
                    lab.server.echo(22);
                    for (place, row) in ROWS.iter().enumerate() {
                        if !full() && (place + shift).is_multiple_of(2) != runs {
                            continue;
                        }
                        let stage = Stage::new(&lab, backend, &format!("{}, daemon {runs}", row.name));
                        (row.prepare)(&stage);
                        let mut daemon = stage.start();
                        assert!(!stage.is_open() && stage.knocks() && stage.is_open(), "{}", stage.row);
                        if !runs {
                            assert!(daemon.terminate().success());
                        }
                        (row.damage)(&stage);
                        check(&stage, row, runs);
                        drop(daemon);
                        lab.server.run("nft flush ruleset");
                    }
                });
            }
        }
    });
}

/// Asserts that none of our rules and sets is left in the kernel.
fn assert_clean(stage: &Stage) {
    let ruleset = stage.lab.server.nft("list ruleset");
    assert!(!ruleset.contains("spa_knock") && !ruleset.contains("SPA_KNOCK"), "{}: {ruleset}", stage.row);
}

fn append(path: &Path, text: &str) {
    let old = fs::read_to_string(path).unwrap();
    fs::write(path, old + text).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn gate_off_removes_the_gate_of_either_backend_even_if_the_config_names_another_one() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for (loaded, named) in [("nftables", "iptables"), ("iptables", "nftables"), ("nftables", "none")] {
        let stage = Stage::new(&lab, loaded, &format!("then {named}"));
        drop(stage.start());
        let rest = open_ssh(30).replace("[firewall]", &format!("[firewall]\nbackend = \"{named}\""));
        let rest = if named == "none" { "[firewall]\nbackend = \"none\"\n".to_owned() } else { rest };
        stage.site.write_config("", &rest);
        assert!(!stage.is_open(), "{}", stage.row);
        let text = stage.admin(&["gate", "off"]);
        assert!(stage.is_open() && text.contains("gate: off"), "{}: {text}", stage.row);
        assert_clean(&stage);
    }
}

#[test]
fn a_daemon_with_another_backend_takes_over_the_gate_and_knocks_work_immediately() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for (before, after) in [("nftables", "iptables"), ("iptables", "nftables")] {
        let stage = Stage::new(&lab, before, &format!("then {after}"));
        let mut daemon = stage.start();
        let rest = open_ssh(30).replace("[firewall]", &format!("[firewall]\nbackend = \"{after}\""));
        stage.site.write_config("", &rest);
        // In the order of the README: the gate is turned off and on by the old daemon, before the restart.
        stage.admin(&["gate", "off"]);
        stage.admin(&["gate", "on"]);
        assert!(!stage.is_open(), "{}", stage.row);
        let report = lab.server.output(&mut stage.site.admin(&["check"]));
        let report = String::from_utf8_lossy(&report.stdout).into_owned();
        assert!(report.contains("the gate of another backend is also loaded"), "{}: {report}", stage.row);
        assert!(daemon.terminate().success());
        let daemon = stage.start();
        assert!(daemon.log().contains("removed the gate of the other backend"), "{}", daemon.log());
        assert!(!stage.is_open(), "{}", stage.row);
        let status = stage.admin(&["status"]);
        assert!(!status.contains("another backend"), "{}: {status}", stage.row);
        assert!(stage.knocks() && stage.is_open(), "{}", stage.row);
        stage.admin(&["gate", "off"]);
        assert_clean(&stage);
    }
}
