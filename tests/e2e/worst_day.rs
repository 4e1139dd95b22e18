//! The worst day of a server: whatever is full, missing, late or broken, the gate stays as documented and the admin gets
//! in. Each row damages one thing; after it `gate off`, `revoke` and `let-in` work, and the messages name cause and fix.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use std::{fs, thread};

use spa_knock_core::knock::ReplyStatus;

use crate::net::{CLIENT4, Daemon, Lab, Mounts, NEIGHBOUR4, SERVER4, Site, ask, full, knock, open_ssh};

/// The backends that have a gate.
const BACKENDS: [&str; 2] = ["nftables", "iptables"];

/// One row: what is damaged, and what is documented about it.
struct Row {
    name: &'static str,
    /// Done before the daemon starts.
    prepare: fn(&Stage),
    /// Damages it, seen by every process in `mounts`.
    damage: fn(&Stage),
    /// Whether `gate off` is remembered for the next start.
    remembered: bool,
    /// Whether a running daemon still grants knocks.
    grants: bool,
    /// What the words of `gate off` contain.
    words: &'static [&'static str],
}

/// Nothing to prepare, all is remembered and granted.
const FINE: Row = Row {
    name: "nothing",
    prepare: |_| {},
    damage: |_| {},
    remembered: true,
    grants: true,
    words: &["gate: off"],
};

const ROWS: [Row; 8] = [
    FINE,
    Row {
        name: "config with an unknown key",
        damage: |stage| append(&stage.site.path("spa-knockd.toml"), "x = 1\n"),
        words: &["unknown key", "last-good.toml", "gate: off"],
        ..FINE
    },
    Row {
        name: "config without its syntax",
        damage: |stage| append(&stage.site.path("spa-knockd.toml"), "[[[\n"),
        words: &["last-good.toml", "gate: off"],
        ..FINE
    },
    Row {
        name: "key for others to read",
        damage: |stage| chmod(&stage.site.key_path("laptop"), 0o644),
        ..FINE
    },
    Row {
        name: "state folder read-only",
        damage: |stage| {
            // What the daemon has open already stays writable.
            let state = stage.site.path("state");
            stage.mounts.mount(&["--bind", state.to_str().unwrap()], &state);
            stage.mounts.mount(&["-o", "remount,bind,ro"], &state);
        },
        remembered: false,
        words: &["read-only", "only until the daemon or the host starts again", "hint: make"],
        ..FINE
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
        remembered: false,
        words: &["no space left", "only until the daemon or the host starts again", "hint: make"],
        ..FINE
    },
    Row {
        name: "state folder gone",
        damage: |stage| fs::remove_dir_all(stage.site.path("state")).unwrap(),
        ..FINE
    },
    Row {
        name: "state folder for all to write",
        damage: |stage| chmod(&stage.site.path("state"), 0o777),
        ..FINE
    },
];

/// A lab with a site that a daemon has run at, and the mounts that damage is done in.
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

    /// The same command inside the mounts.
    fn inside(&self, command: &Command) -> Command {
        let [nsenter, entrance] = self.mounts.words();
        let mut inside = Command::new(nsenter);
        inside.arg(entrance).arg(command.get_program()).args(command.get_args());
        inside
    }

    fn start(&self) -> Daemon {
        Daemon::start_command(&self.lab.server, self.inside(&Daemon::command(&self.site)))
    }

    /// `spa-knockd` with these words; what it printed. It must succeed.
    fn admin(&self, words: &[&str]) -> String {
        self.try_admin(words, true)
    }

    /// The same; it must succeed or fail.
    fn try_admin(&self, words: &[&str], succeeds: bool) -> String {
        let Output { status, stdout, stderr } =
            self.lab.server.output(&mut self.inside(&self.site.admin(words)));
        let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        assert_eq!(status.success(), succeeds, "{}: {words:?}: {text}", self.row);
        text
    }

    /// Whether a knock of `laptop` is answered.
    fn knocks(&self) -> bool {
        ask(&self.lab.client.udp(CLIENT4), SERVER4, &self.site.key("laptop").good()).is_some()
    }

    fn is_open(&self) -> bool {
        self.lab.client.reaches(SERVER4, 22)
    }
}

#[test]
fn gate_off_opens_the_ports_whatever_is_broken_with_and_without_a_daemon() {
    on_each_row(|stage, row, runs| {
        let text = stage.admin(&["gate", "off"]);
        assert!(stage.is_open(), "{}: {text}", stage.row);
        assert_clean(stage);
        for word in row.words {
            assert!(text.contains(word), "{}: {word:?} is not in {text}", stage.row);
        }
        assert_eq!(text.contains("also after a restart"), row.remembered, "{}: {text}", stage.row);
        if runs {
            thread::sleep(Duration::from_millis(300));
            assert!(stage.is_open(), "{}: the daemon closed it again", stage.row);
        }
    });
}

#[test]
fn a_running_daemon_answers_the_knocks_of_others_as_documented_whatever_is_broken() {
    on_each_row(|stage, row, runs| {
        if runs {
            let knock = stage.site.key("laptop").seal(&knock("open-ssh"));
            let answer = ask(&stage.lab.neighbour.udp(NEIGHBOUR4), SERVER4, knock.as_bytes());
            let answer = answer.unwrap_or_else(|| panic!("{}: no answer", stage.row));
            let granted = stage.site.key("laptop").open(&answer, &knock).status == ReplyStatus::Granted;
            assert_eq!(granted, row.grants, "{}", stage.row);
            assert_eq!(stage.lab.neighbour.reaches(SERVER4, 22), row.grants, "{}", stage.row);
        }
    });
}

#[test]
fn a_client_is_revoked_whatever_is_broken_with_and_without_a_daemon() {
    on_each_row(|stage, row, runs| {
        // Where nothing remembers it, that is a failure: the client is in the config itself.
        let text = stage.try_admin(&["client", "revoke", "laptop"], row.remembered);
        assert!(!stage.is_open(), "{}: {text}", stage.row);
        assert!(text.contains("remove [client.laptop] from"), "{}: {text}", stage.row);
        let lasts = text.contains("keeps it out, also after a restart");
        assert_eq!(lasts, row.remembered, "{}: {text}", stage.row);
        assert_eq!(
            text.contains("the next start accepts it again"),
            !row.remembered,
            "{}: {text}",
            stage.row
        );
        if runs {
            assert!(!stage.knocks(), "{}: its key still works", stage.row);
        }
    });
}

#[test]
fn an_address_is_let_in_from_the_console_whatever_is_broken_with_and_without_a_daemon() {
    on_each_row(|stage, _, _| {
        assert!(!stage.lab.neighbour.reaches(SERVER4, 22), "{}", stage.row);
        let text = stage.admin(&["let-in", &NEIGHBOUR4.to_string(), "--for", "1m"]);
        assert!(text.contains("10.77.1.2: let in to tcp/22 for 1m"), "{}: {text}", stage.row);
        assert!(stage.lab.neighbour.reaches(SERVER4, 22), "{}: {text}", stage.row);
    });
}

/// Runs `check` on each row with each backend, with and without a daemon; in full all of them, else half. Each begins
/// with the gate closed but for a grant of `laptop`, and the row's damage done.
fn on_each_row(check: impl Fn(&Stage, &Row, bool) + Sync) {
    if Lab::new().is_none() {
        return;
    }
    let check = &check;
    thread::scope(|scope| {
        for (shift, backend) in BACKENDS.into_iter().enumerate() {
            for runs in [true, false] {
                scope.spawn(move || {
                    let lab = Lab::new().expect("root has one");
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

/// Nothing of ours is left in the kernel.
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
fn gate_off_removes_the_gate_of_either_backend_whatever_the_config_names() {
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
fn a_daemon_with_another_backend_takes_the_gate_over_and_knocks_work_at_once() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for (before, after) in [("nftables", "iptables"), ("iptables", "nftables")] {
        let stage = Stage::new(&lab, before, &format!("then {after}"));
        let mut daemon = stage.start();
        let rest = open_ssh(30).replace("[firewall]", &format!("[firewall]\nbackend = \"{after}\""));
        stage.site.write_config("", &rest);
        // The order of the README's reader: the gate is switched before the restart, by the old daemon.
        stage.admin(&["gate", "off"]);
        stage.admin(&["gate", "on"]);
        assert!(!stage.is_open(), "{}", stage.row);
        let report = lab.server.output(&mut stage.site.admin(&["check"]));
        let report = String::from_utf8_lossy(&report.stdout).into_owned();
        assert!(report.contains("the gate of another backend is loaded too"), "{}: {report}", stage.row);
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
