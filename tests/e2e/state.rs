//! The replay memory after a daemon has stopped, been killed or lost power.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::net::{CLIENT4, Daemon, Key, Lab, SERVER4, Site, ask, knock, open_ssh};

/// A knock of a client whose clock is ahead by less than the window.
fn from_a_fast_clock(key: &Key, seconds: u64) -> Vec<u8> {
    let mut knock = knock("open-ssh");
    knock.timestamp = knock.timestamp.plus(Duration::from_secs(seconds));
    key.seal(&knock).as_bytes().to_vec()
}

fn reset(site: &Site) -> std::process::Output {
    site.admin(&["state", "reset"]).output().unwrap()
}

fn state(site: &Site, name: &str) -> std::path::PathBuf {
    site.path("state").join(name)
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_knock_from_a_fast_clock_is_not_accepted_again_after_any_kind_of_stop() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let laptop = site.key("laptop");
    let mut accepted: Vec<Vec<u8>> = Vec::new();
    for stop in ["kill -9", "SIGTERM", "kill -9", "SIGTERM"] {
        let mut daemon = Daemon::start(&lab.server, &site);
        for old in &accepted {
            assert!(!lab.gets_reply(old), "not accepted again before {stop}");
        }
        let fast = from_a_fast_clock(&laptop, 20);
        assert!(lab.gets_reply(&fast), "the next knock is accepted immediately");
        accepted.push(fast);
        match stop {
            "SIGTERM" => assert!(daemon.terminate().success()),
            _ => daemon.kill9(),
        }
    }
    // A reply is sent before the audit record is written, so a record may be missing after a kill.
    assert!(site.audit_of("granted").len() <= accepted.len());
}

#[test]
fn after_a_power_loss_no_knock_is_accepted_that_may_have_been_accepted_before() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let laptop = site.key("laptop");
    let fast = from_a_fast_clock(&laptop, 25);
    {
        let mut daemon = Daemon::start(&lab.server, &site);
        assert!(lab.gets_reply(&fast));
        daemon.kill9();
    }
    // A power loss can leave any content in the journal. Here it is as empty as when the daemon started.
    let text = fs::read_to_string(state(&site, "replay.lease")).unwrap();
    assert!(text.contains("end open"));
    fs::write(state(&site, "replay.journal"), []).unwrap();
    let boot = site.path("boot_id");
    fs::write(&boot, "00000000-1111-2222-3333-444444444444\n").unwrap();
    let daemon = Daemon::start_command(&lab.server, in_another_boot(&boot, &site));
    assert!(daemon.log().contains("power was lost"), "{}", daemon.log());
    assert!(!lab.gets_reply(&fast));
    assert!(
        !lab.gets_reply(&from_a_fast_clock(&laptop, 25)),
        "no other knock that the lease covers is accepted either"
    );
}

fn in_another_boot(boot: &Path, site: &Site) -> Command {
    let mut command = Command::new("unshare");
    let script = format!(
        "mount --bind {} /proc/sys/kernel/random/boot_id && exec {} run -c {}",
        boot.display(),
        env!("CARGO_BIN_EXE_spa-knockd"),
        site.path("spa-knockd.toml").display()
    );
    command.args(["--mount", "sh", "-c", &script]);
    command
}

#[test]
fn a_damaged_state_is_refused_with_a_hint_and_after_the_reset_no_knock_is_accepted_again() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let laptop = site.key("laptop");
    let fast = from_a_fast_clock(&laptop, 20);
    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(lab.gets_reply(&fast));
    assert!(stderr(&reset(&site)).contains("stop it first"));
    assert!(daemon.terminate().success());

    let [journal, lease] = ["replay.journal", "replay.lease"].map(|name| state(&site, name));
    let good = [&journal, &lease].map(|path| fs::read(path).unwrap());
    let mut flipped = good[0].clone();
    flipped[60] ^= 1;
    let spoil: [(&str, &dyn Fn()); 5] = [
        ("a flipped bit", &|| fs::write(&journal, &flipped).unwrap()),
        ("no lease", &|| fs::remove_file(&lease).unwrap()),
        ("no journal", &|| fs::remove_file(&journal).unwrap()),
        ("half a lease", &|| fs::write(&lease, &good[1][..20]).unwrap()),
        ("an empty journal", &|| fs::write(&journal, []).unwrap()),
    ];
    for (what, spoil) in spoil {
        fs::write(&journal, &good[0]).unwrap();
        fs::write(&lease, &good[1]).unwrap();
        spoil();
        let output = lab.server.output(&mut Daemon::command(&site));
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert!(stderr(&output).contains("hint: run spa-knockd state reset"), "{what}: {}", stderr(&output));
        let check = site.admin(&["check"]).output().unwrap();
        let text = String::from_utf8(check.stdout).unwrap();
        assert!(text.contains("hint: run spa-knockd state reset"), "{what}: {text}");
        let output = reset(&site);
        assert!(output.status.success(), "{what}: {}", stderr(&output));
        let mut daemon = Daemon::start(&lab.server, &site);
        assert!(!lab.gets_reply(&fast), "{what}");
        assert!(daemon.terminate().success());
    }
    assert_eq!(site.audit_of("granted").len(), 1);
}

#[test]
fn with_a_truncated_journal_no_knock_that_the_lease_covers_is_accepted() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let fast = from_a_fast_clock(&site.key("laptop"), 20);
    Daemon::start(&lab.server, &site);
    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(lab.gets_reply(&fast));
    daemon.kill9();
    let journal = state(&site, "replay.journal");
    let whole = fs::read(&journal).unwrap();
    for cut in [1, 47, 48, 49, 96, 97] {
        fs::write(&journal, &whole[..whole.len() - cut]).unwrap();
        let mut daemon = Daemon::start(&lab.server, &site);
        assert!(!lab.gets_reply(&fast), "{cut} bytes shorter");
        daemon.kill9();
    }
}

#[test]
fn a_knock_that_cannot_be_recorded_does_not_act_and_the_daemon_keeps_running() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("per-key-limit = { burst = 1000, rate = \"100/s\" }", &open_ssh(1));
    lab.server.echo(22);
    let laptop = site.key("laptop");
    // A disk with space for little more than an empty journal.
    let mut command = Command::new("unshare");
    let script = format!(
        "mount -t tmpfs -o size=24k,mode=0700 none {} && exec {} run -c {}",
        site.path("state").display(),
        env!("CARGO_BIN_EXE_spa-knockd"),
        site.path("spa-knockd.toml").display()
    );
    command.args(["--mount", "sh", "-c", &script]);
    let mut daemon = Daemon::start_command(&lab.server, command);
    for _ in 0..600 {
        assert!(lab.gets_reply(&laptop.good()), "a reply in any case");
    }
    let failed = site.audit_of("failed");
    assert!(!failed.is_empty(), "{}", daemon.log());
    assert!(failed[0]["detail"].as_str().unwrap().contains("replay state"), "{}", failed[0]);
    lab.client.wait_until_closed(SERVER4, 22);
    let knock = laptop.seal(&knock("open-ssh"));
    let reply = ask(&lab.client.udp(CLIENT4), SERVER4, knock.as_bytes()).unwrap();
    assert_eq!(laptop.open(&reply, &knock).status, spa_knock_core::knock::ReplyStatus::ActionFailed);
    assert!(!lab.client.reaches(SERVER4, 22), "an unrecorded knock does not act");
    assert!(daemon.terminate().success());
}
