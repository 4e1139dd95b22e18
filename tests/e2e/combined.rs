//! Knock sequences of knockd and knock datagrams in one daemon: both open ports and close them, and the status lists
//! the addresses that still use knock sequences.

use std::net::IpAddr;
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::net::{
    CLIENT4, CLIENT6, Daemon, Lab, SERVER4, SERVER6, SOON, Site, assert_on_time, limited, open_ssh, within,
};

const SEQUENCE: [&str; 3] = ["7000", "8000:udp", "9000"];
const SSH: &str = "[open SSH]\nsequence = 7000,8000:udp,9000\ntcpflags = syn\nseq_timeout = 5\n";

/// A site with `open-ssh` for knock datagrams, and these doors of knockd. `DIR` stands for the site's directory.
fn site(doors: &str) -> Site {
    let site = Site::new("", "");
    write_doors(&site, doors);
    site.write_config("", &with_legacy(&site));
    site
}

fn with_legacy(site: &Site) -> String {
    format!("{}\n[legacy]\nknockd = \"{}\"\n", open_ssh(2), site.path("knockd.conf").display())
}

fn write_doors(site: &Site, doors: &str) {
    let text = doors.replace("DIR", site.folder().to_str().unwrap());
    fs::write(site.path("knockd.conf"), text).unwrap();
}

fn send_sequence(lab: &Lab, server: IpAddr, ports: &[&str]) {
    let mut command = limited(env!("CARGO_BIN_EXE_spa-knock"));
    command.args(["legacy", &server.to_string()]).args(ports);
    assert!(lab.client.output(&mut command).status.success());
}

fn ran(site: &Site) -> Vec<String> {
    fs::read_to_string(site.path("ran")).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn status(site: &Site, args: &[&str]) -> String {
    let output = site.admin(&[&["status"], args].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_knock_sequence_opens_a_port_only_for_its_source_and_the_kernel_closes_it_even_after_a_kill() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&format!("{SSH}open = tcp/22\nfor = 3s\n"));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(daemon.log().contains("can be replayed"), "{}", daemon.log());
    for (server, client) in [(SERVER4, CLIENT4), (SERVER6, CLIENT6)] {
        assert!(!lab.client.reaches(server, 22), "closed without a knock");
        let sent = Instant::now();
        send_sequence(&lab, server, &SEQUENCE);
        assert!(within(SOON, || lab.client.reaches(server, 22)), "open after the knock");
        let granted = Instant::now();
        assert!(!lab.neighbor.reaches(server, 22), "closed for everyone else");
        if client == CLIENT6 {
            // The port opens before the record is written.
            assert!(within(SOON, || site.audit_of("granted").len() == 2), "{}", daemon.log());
            daemon.kill9();
        }
        assert_on_time((sent, granted), lab.client.wait_until_closed(server, 22), 3);
    }
    let granted = site.audit_of("granted");
    assert_eq!(granted.len(), 2);
    for (record, address) in granted.iter().zip([CLIENT4, CLIENT6]) {
        assert_eq!(record["via"], "knockd");
        assert_eq!((&record["client"], &record["action"]), (&"knockd".into(), &"open-ssh".into()));
        assert_eq!((&record["address"], &record["seconds"]), (&address.to_string().into(), &3.into()));
    }
}

#[test]
fn knock_datagrams_and_sequences_work_together_and_the_status_lists_users_of_sequences() {
    let Some(lab) = Lab::new() else { return };
    let door = format!("[options]\nlogfile = DIR/log\n{SSH}command = echo open %IP% >> DIR/ran\n");
    let site = site(&door);
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    assert!(status(&site, &[]).contains(
        "legacy     1 knockd door, opened 0 times by knock sequences; in the last 24 h by no one\n"
    ));
    let output = lab.client.output(&mut site.knock(SERVER4, &["open-ssh"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for n in 1..=3 {
        send_sequence(&lab, if n == 3 { SERVER6 } else { SERVER4 }, &SEQUENCE);
        assert!(within(SOON, || ran(&site).len() == n), "{:?}", ran(&site));
    }
    assert!(fs::read_to_string(site.path("log")).unwrap().contains("10.77.0.2: open SSH: OPEN SESAME"));
    assert!(within(SOON, || site.audit_of("done").len() == 3));
    assert!(site.audit_of("done").iter().all(|record| record["via"] == "knockd"));
    let json: Value = serde_json::from_str(&status(&site, &["--json"])).unwrap();
    let expected = serde_json::json!({
        "legacy": { "doors": 1, "opened": 3, "addresses": 2, "other_openings": 0,
            "users": [{"address": "10.77.0.2", "opened": 2}, {"address": "fd77::2", "opened": 1}],
        },
    });
    assert_eq!(json["legacy"], expected["legacy"]);
    assert!(status(&site, &[]).contains("in the last 24 h by 10.77.0.2 (2x), fd77::2 (1x)\n"));
    let page = status(&site, &["--prometheus"]);
    assert!(page.contains("\nspa_knock_legacy_opened_total 3\n"), "{page}");
}

#[test]
fn a_reload_of_knockd_conf_applies_or_keeps_all_doors_and_open_ones_are_closed_after_removal() {
    let Some(lab) = Lab::new() else { return };
    let notes = "command = echo open %IP% >> DIR/ran\nstop_command = echo close %IP% >> DIR/ran\n";
    let site = site(&format!("[a]\nsequence = 7000\ncmd_timeout = 1\n{notes}"));
    let daemon = Daemon::start(&lab.server, &site);
    write_doors(&site, "[a]\nsequence = 7001\ninvalid\n");
    daemon.reload();
    assert!(daemon.log().contains("knockd.conf:3:1: config: line 3: syntax error"), "{}", daemon.log());
    send_sequence(&lab, SERVER4, &["7000"]);
    assert!(within(SOON, || ran(&site).len() == 2), "the old ones still open");
    write_doors(&site, &format!("[a]\nsequence = 7001\ncmd_timeout = 2\n{notes}"));
    daemon.reload();
    send_sequence(&lab, SERVER4, &["7000", "7001"]);
    assert!(within(SOON, || ran(&site).len() == 3), "only the new ones open");
    thread::sleep(Duration::from_millis(200));
    // Without [legacy] there are no doors of knockd, but open ones are closed on time.
    site.write_config("", &open_ssh(2));
    daemon.reload();
    assert_eq!(daemon.children().len(), 1, "only the watcher for knock datagrams");
    assert!(within(SOON, || ran(&site).len() == 4), "{:?}", ran(&site));
    assert_eq!(ran(&site)[2..], ["open 10.77.0.2", "close 10.77.0.2"]);
    assert_eq!(site.audit_of("expired").len(), 2);
}

#[test]
fn the_next_daemon_runs_stop_commands_of_its_knockd_doors_and_reports_all_others() {
    let Some(lab) = Lab::new() else { return };
    let notes = "command = echo open %IP% >> DIR/ran\nstop_command = echo close %IP% >> DIR/ran\n";
    let site = site(&format!("[a]\nsequence = 7000\ncmd_timeout = 2\n{notes}"));
    for (closes, rest) in [(true, None), (false, Some(open_ssh(2)))] {
        let before = ran(&site).len();
        let mut daemon = Daemon::start(&lab.server, &site);
        send_sequence(&lab, SERVER4, &["7000"]);
        assert!(within(SOON, || ran(&site).len() == before + 1), "it opens");
        thread::sleep(Duration::from_millis(200));
        daemon.terminate();
        if let Some(rest) = rest {
            site.write_config("", &rest);
        }
        let mut daemon = Daemon::start(&lab.server, &site);
        match closes {
            true => assert!(within(SOON, || ran(&site).len() == before + 2), "{:?}", ran(&site)),
            // A file alone is not enough to run a command.
            false => {
                assert!(
                    daemon.log().contains("not run: no section has this stop command"),
                    "{}",
                    daemon.log()
                );
                thread::sleep(Duration::from_secs(3));
                assert_eq!(ran(&site).len(), before + 1);
                assert_eq!(
                    std::fs::read_dir(site.path("state/legacy/undo")).unwrap().count(),
                    1,
                    "the file is kept"
                );
            }
        }
        daemon.terminate();
    }
}

#[test]
fn without_legacy_there_is_neither_a_second_watcher_nor_a_directory() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let daemon = Daemon::start(&lab.server, &site);
    assert_eq!(daemon.children().len(), 1);
    assert!(!site.path("state/legacy").exists());
    assert!(!status(&site, &[]).contains("legacy"));
}

#[test]
fn a_knock_sequence_opens_a_port_while_the_gate_is_on_trial_and_does_not_confirm_it() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&format!("{SSH}open = tcp/22\nfor = 30s\n"));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(lab.server.output(&mut site.admin(&["gate", "on", "--confirm", "5s"])).status.success());
    send_sequence(&lab, SERVER4, &SEQUENCE);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "open after the knock");
    assert!(!lab.neighbor.reaches(SERVER4, 22), "closed for everyone else");
    assert!(within(Duration::from_secs(7), || daemon.log().contains("not confirmed in time")));
    assert!(within(SOON, || lab.neighbor.reaches(SERVER4, 22)), "the trial is over");
}

#[test]
fn grants_by_knock_sequences_are_revoked_when_the_section_is_removed() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&format!("{SSH}open = tcp/22\nfor = 30s\n"));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    send_sequence(&lab, SERVER4, &SEQUENCE);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "open after the knock");
    daemon.reload();
    assert!(lab.client.reaches(SERVER4, 22), "a reload closes nothing");
    site.write_config("", &open_ssh(2));
    daemon.reload();
    assert!(!lab.client.reaches(SERVER4, 22));
    assert_eq!(site.audit_of("revoked").len(), 1);
}

#[test]
fn a_killed_legacy_watcher_is_replaced_without_affecting_knock_datagrams() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&format!("{SSH}command = echo open %IP% >> DIR/ran\n"));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    let [knock_watcher, legacy_watcher] = daemon.children()[..] else { panic!("{:?}", daemon.children()) };
    kill(legacy_watcher, Signal::SIGKILL).unwrap();
    assert!(within(SOON, || daemon.log().contains("knock sequences: watching again")), "{}", daemon.log());
    assert!(daemon.children().contains(&knock_watcher));
    assert!(lab.client.output(&mut site.knock(SERVER4, &["open-ssh"])).status.success());
    send_sequence(&lab, SERVER4, &SEQUENCE);
    assert!(within(SOON, || ran(&site) == ["open 10.77.0.2"]), "{:?}", ran(&site));
}

#[test]
fn an_invalid_knockd_conf_prevents_the_start_and_check_reports_its_line() {
    let Some(lab) = Lab::new() else { return };
    let site = site("[a]\nsequence = 7000\ninvalid\n");
    for command in ["run", "check"] {
        let output = lab.server.output(&mut site.admin(&[command]));
        assert!(!output.status.success(), "{command}");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.contains("knockd.conf:3:1: config: line 3: syntax error"), "{command}: {text}");
    }
    lab.server.echo(22);
    assert!(lab.client.reaches(SERVER4, 22), "nothing has been closed");
}

#[test]
fn the_first_knockd_door_needs_a_restart_only_if_it_has_a_command() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    site.write_config("", &with_legacy(&site));
    write_doors(&site, &format!("{SSH}command = true\n"));
    daemon.reload();
    assert!(daemon.log().contains("these changes need a restart"), "{}", daemon.log());
    assert_eq!(daemon.children().len(), 1, "the old config remains in use");
    write_doors(&site, &format!("{SSH}open = tcp/22\nfor = 3s\n"));
    daemon.reload();
    send_sequence(&lab, SERVER4, &SEQUENCE);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "{}", daemon.log());
}

#[test]
fn one_time_sequences_open_once_each_in_addition_to_knock_datagrams_and_across_a_reload() {
    let Some(lab) = Lab::new() else { return };
    let site =
        site("[once]\none_time_sequences = DIR/list\ncommand = echo %IP% >> DIR/ran\n[b]\nsequence = 7000\n");
    fs::write(site.path("list"), " 5000,6000\n 5001,6001\n").unwrap();
    let daemon = Daemon::start(&lab.server, &site);
    for (n, sequence) in [["5000", "6000"], ["5001", "6001"]].iter().enumerate() {
        for _ in 0..2 {
            send_sequence(&lab, SERVER4, sequence);
            thread::sleep(Duration::from_millis(300));
        }
        assert!(within(SOON, || ran(&site).len() == n + 1), "{:?}", ran(&site));
        if n == 0 {
            daemon.reload();
        }
    }
    assert_eq!(fs::read_to_string(site.path("list")).unwrap(), "#5000,6000\n#5001,6001\n");
    assert_eq!(ran(&site).len(), 2);
}
