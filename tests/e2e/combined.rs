//! Plain sequences and sealed knocks in one daemon: both open, what is open closes, and one sees who still knocks plainly.

use std::net::IpAddr;
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::net::{
    CLIENT4, CLIENT6, Daemon, Lab, SERVER4, SERVER6, Site, assert_on_time, limited, open_ssh, within,
};

const SOON: Duration = Duration::from_secs(5);
const SEQUENCE: [&str; 3] = ["7000", "8000:udp", "9000"];
const SSH: &str = "[open SSH]\nsequence = 7000,8000:udp,9000\ntcpflags = syn\nseq_timeout = 5\n";

/// `open-ssh` for sealed knocks, and these doors; `DIR` stands for the site's folder.
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

fn knock_plainly(lab: &Lab, server: IpAddr, ports: &[&str]) {
    let mut command = limited(env!("CARGO_BIN_EXE_spa-knock"));
    command.args(["legacy", &server.to_string()]).args(ports);
    assert!(lab.client.output(&mut command).status.success());
}

fn ran(site: &Site) -> Vec<String> {
    fs::read_to_string(site.path("ran")).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn status(site: &Site, words: &[&str]) -> String {
    let output = site.admin(&[&["status"], words].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_plain_sequence_opens_a_port_for_its_source_alone_and_the_kernel_closes_it_even_after_a_kill() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&format!("{SSH}open = tcp/22\nfor = 3s\n"));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(daemon.log().contains("sniffed and replayed"), "{}", daemon.log());
    for (server, client) in [(SERVER4, CLIENT4), (SERVER6, CLIENT6)] {
        assert!(!lab.client.reaches(server, 22), "closed without a knock");
        let asked = Instant::now();
        knock_plainly(&lab, server, &SEQUENCE);
        assert!(within(SOON, || lab.client.reaches(server, 22)), "open after the knock");
        let granted = Instant::now();
        assert!(!lab.neighbour.reaches(server, 22), "closed for everyone else");
        if client == CLIENT6 {
            daemon.kill9();
        }
        assert_on_time((asked, granted), lab.client.closing(server, 22), 3);
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
fn sealed_knocks_and_plain_sequences_work_side_by_side_and_status_tells_who_uses_the_latter() {
    let Some(lab) = Lab::new() else { return };
    let door = format!("[options]\nlogfile = DIR/log\n{SSH}command = echo open %IP% >> DIR/ran\n");
    let site = site(&door);
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    assert!(status(&site, &[]).contains("1 doors, opened 0x by plain sequences; in 24 h by nobody\n"));
    let output = lab.client.output(&mut site.knock(SERVER4, &["open-ssh"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for n in 1..=3 {
        knock_plainly(&lab, if n == 3 { SERVER6 } else { SERVER4 }, &SEQUENCE);
        assert!(within(SOON, || ran(&site).len() == n), "{:?}", ran(&site));
    }
    assert!(fs::read_to_string(site.path("log")).unwrap().contains("10.77.0.2: open SSH: OPEN SESAME"));
    assert!(within(SOON, || site.audit_of("done").len() == 3));
    assert!(site.audit_of("done").iter().all(|record| record["via"] == "knockd"));
    let json: Value = serde_json::from_str(&status(&site, &["--json"])).unwrap();
    assert_eq!(
        json["legacy"],
        serde_json::json!({
            "doors": 1, "opened": 3, "addresses": 2, "other_openings": 0,
            "users": [{"address": "10.77.0.2", "opened": 2}, {"address": "fd77::2", "opened": 1}],
        })
    );
    assert!(status(&site, &[]).contains("in 24 h by 10.77.0.2 (2x), fd77::2 (1x)\n"));
    let page = status(&site, &["--prometheus"]);
    assert!(page.contains("\nspa_knock_legacy_opened_total 3\n"), "{page}");
}

#[test]
fn a_reload_takes_up_other_doors_or_keeps_the_old_ones_and_what_is_open_is_closed_without_any() {
    let Some(lab) = Lab::new() else { return };
    let notes = "command = echo open %IP% >> DIR/ran\nstop_command = echo close %IP% >> DIR/ran\n";
    let site = site(&format!("[a]\nsequence = 7000\ncmd_timeout = 1\n{notes}"));
    let daemon = Daemon::start(&lab.server, &site);
    write_doors(&site, "[a]\nsequence = 7001\nnonsense\n");
    daemon.reload();
    assert!(daemon.log().contains("knockd.conf:3:1: config: line 3: syntax error"), "{}", daemon.log());
    knock_plainly(&lab, SERVER4, &["7000"]);
    assert!(within(SOON, || ran(&site).len() == 2), "the old doors stay");
    write_doors(&site, &format!("[a]\nsequence = 7001\ncmd_timeout = 2\n{notes}"));
    daemon.reload();
    knock_plainly(&lab, SERVER4, &["7000", "7001"]);
    assert!(within(SOON, || ran(&site).len() == 3), "the new ones alone");
    thread::sleep(Duration::from_millis(200));
    // Without [legacy] there is no door any more, but what is open is closed in time.
    site.write_config("", &open_ssh(2));
    daemon.reload();
    assert_eq!(daemon.children().len(), 1, "a watcher of sealed knocks alone");
    assert!(within(SOON, || ran(&site).len() == 4), "{:?}", ran(&site));
    assert_eq!(ran(&site)[2..], ["open 10.77.0.2", "close 10.77.0.2"]);
    assert_eq!(site.audit_of("expired").len(), 2);
}

#[test]
fn the_next_daemon_closes_what_its_doors_close_and_reports_the_rest() {
    let Some(lab) = Lab::new() else { return };
    let notes = "command = echo open %IP% >> DIR/ran\nstop_command = echo close %IP% >> DIR/ran\n";
    let site = site(&format!("[a]\nsequence = 7000\ncmd_timeout = 2\n{notes}"));
    for (closes, rest) in [(true, None), (false, Some(open_ssh(2)))] {
        let before = ran(&site).len();
        let mut daemon = Daemon::start(&lab.server, &site);
        knock_plainly(&lab, SERVER4, &["7000"]);
        assert!(within(SOON, || ran(&site).len() == before + 1), "it opens");
        thread::sleep(Duration::from_millis(200));
        daemon.terminate();
        if let Some(rest) = rest {
            site.write_config("", &rest);
        }
        let mut daemon = Daemon::start(&lab.server, &site);
        match closes {
            true => assert!(within(SOON, || ran(&site).len() == before + 2), "{:?}", ran(&site)),
            // A file alone makes no command.
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
                    "it is kept"
                );
            }
        }
        daemon.terminate();
    }
}

#[test]
fn without_legacy_there_is_neither_a_second_watcher_nor_a_folder() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let daemon = Daemon::start(&lab.server, &site);
    assert_eq!(daemon.children().len(), 1);
    assert!(!site.path("state/legacy").exists());
    assert!(!status(&site, &[]).contains("legacy"));
}

#[test]
fn a_plain_sequence_opens_while_the_gate_is_on_trial_and_does_not_confirm_it() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&format!("{SSH}open = tcp/22\nfor = 30s\n"));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(lab.server.output(&mut site.admin(&["gate", "on", "--confirm", "5s"])).status.success());
    knock_plainly(&lab, SERVER4, &SEQUENCE);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "open after the knock");
    assert!(!lab.neighbour.reaches(SERVER4, 22), "closed for everyone else");
    assert!(within(Duration::from_secs(7), || daemon.log().contains("nobody has confirmed it in time")));
    assert!(within(SOON, || lab.neighbour.reaches(SERVER4, 22)), "the trial is over");
}

#[test]
fn what_plain_sequences_have_opened_closes_when_the_section_goes() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&format!("{SSH}open = tcp/22\nfor = 30s\n"));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    knock_plainly(&lab, SERVER4, &SEQUENCE);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "open after the knock");
    daemon.reload();
    assert!(lab.client.reaches(SERVER4, 22), "a reload closes nothing");
    site.write_config("", &open_ssh(2));
    daemon.reload();
    assert!(!lab.client.reaches(SERVER4, 22));
    assert_eq!(site.audit_of("revoked").len(), 1);
}

#[test]
fn a_watcher_of_plain_sequences_that_is_killed_is_replaced_and_sealed_knocks_do_not_notice() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&format!("{SSH}command = echo open %IP% >> DIR/ran\n"));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    let [of_knocks, of_sequences] = daemon.children()[..] else { panic!("{:?}", daemon.children()) };
    kill(of_sequences, Signal::SIGKILL).unwrap();
    assert!(within(SOON, || daemon.log().contains("plain sequences: watching again")), "{}", daemon.log());
    assert!(daemon.children().contains(&of_knocks));
    assert!(lab.client.output(&mut site.knock(SERVER4, &["open-ssh"])).status.success());
    knock_plainly(&lab, SERVER4, &SEQUENCE);
    assert!(within(SOON, || ran(&site) == ["open 10.77.0.2"]), "{:?}", ran(&site));
}

#[test]
fn a_bad_file_keeps_the_daemon_from_starting_and_check_tells_its_line() {
    let Some(lab) = Lab::new() else { return };
    let site = site("[a]\nsequence = 7000\nnonsense\n");
    for word in ["run", "check"] {
        let output = lab.server.output(&mut site.admin(&[word]));
        assert!(!output.status.success(), "{word}");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("knockd.conf:3:1: config: line 3: syntax error"), "{word}: {said}");
    }
    lab.server.echo(22);
    assert!(lab.client.reaches(SERVER4, 22), "nothing has been closed");
}

#[test]
fn a_first_door_with_a_command_needs_a_restart_and_one_that_opens_a_port_does_not() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    site.write_config("", &with_legacy(&site));
    write_doors(&site, &format!("{SSH}command = true\n"));
    daemon.reload();
    assert!(daemon.log().contains("only a restart changes"), "{}", daemon.log());
    assert_eq!(daemon.children().len(), 1, "the old config stays");
    write_doors(&site, &format!("{SSH}open = tcp/22\nfor = 3s\n"));
    daemon.reload();
    knock_plainly(&lab, SERVER4, &SEQUENCE);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "{}", daemon.log());
}

#[test]
fn one_time_sequences_open_once_each_beside_sealed_knocks_and_across_a_reload() {
    let Some(lab) = Lab::new() else { return };
    let site =
        site("[once]\none_time_sequences = DIR/list\ncommand = echo %IP% >> DIR/ran\n[b]\nsequence = 7000\n");
    fs::write(site.path("list"), " 5000,6000\n 5001,6001\n").unwrap();
    let daemon = Daemon::start(&lab.server, &site);
    for (n, sequence) in [["5000", "6000"], ["5001", "6001"]].iter().enumerate() {
        for _ in 0..2 {
            knock_plainly(&lab, SERVER4, sequence);
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
