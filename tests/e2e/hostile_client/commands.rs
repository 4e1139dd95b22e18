//! One client keeps starting commands; another client's command still runs immediately.

use std::fs;
use std::time::Duration;

use spa_knock_core::knock::{Argument, Knock, ReplyStatus};

use crate::net::{CLIENT4, Daemon, Key, Lab, SERVER4, Site, ask_patiently, knock, within};

const SOON: Duration = Duration::from_secs(5);

/// `wait` runs for 60 s, `note` writes a file, `lamp` has one undo task per argument, and the undo task of `stick`
/// hangs. Two clients are allowed to use all of them.
fn site() -> Site {
    let site = Site::new("", "");
    let (noted, undone) = (site.path("noted"), site.path("undone"));
    let rest = format!(
        "[firewall]\nbackend = \"none\"\n\
         [action.wait]\nrun = [\"/bin/sleep\", \"60\"]\ntimeout = \"1m\"\n\
         [action.note]\nrun = [\"/usr/bin/touch\", \"{}\"]\n\
         [action.lamp]\nrun = [\"/bin/true\"]\nundo = [\"/usr/bin/touch\", \"{}-{{client}}-{{argument}}\"]\n\
         for = \"1s\"\nmax = \"1h\"\n\
         [action.stick]\nrun = [\"/bin/true\"]\nundo = [\"/bin/sleep\", \"60{{argument}}\"]\nfor = \"3s\"\ntimeout = \"1m\"\n\
         [client.laptop]\nkey = \"laptop.key\"\nallow = [\"wait\", \"note\", \"lamp\", \"stick\"]\n\
         [client.evil]\nkey = \"evil.key\"\nallow = [\"wait\", \"note\", \"lamp\", \"stick\"]\n",
        noted.display(),
        undone.display()
    );
    site.write_config("", &rest);
    site.add_key("evil");
    site
}

/// The status of the reply to a knock with this argument and this requested time in seconds.
fn reply_status(lab: &Lab, key: &Key, action: &str, argument: &str, seconds: u32) -> ReplyStatus {
    let argument: Argument = argument.parse().unwrap();
    let datagram = key.seal(&Knock { argument, seconds, ..knock(action) });
    let bytes = ask_patiently(&lab.client.udp(CLIENT4), SERVER4, datagram.as_bytes());
    key.open(&bytes.expect("a reply"), &datagram).status
}

fn reasons(site: &Site, client: &str) -> Vec<String> {
    let failed = site.audit_of("failed").into_iter().filter(|record| record["client"] == client);
    failed.map(|record| record["detail"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn one_client_that_uses_all_its_command_slots_does_not_keep_another_client_waiting() {
    let Some(lab) = Lab::new() else { return };
    let site = site();
    let _daemon = Daemon::start(&lab.server, &site);
    let [laptop, evil] = ["laptop", "evil"].map(|name| site.key(name));
    let refused =
        (0..90).filter(|_| reply_status(&lab, &evil, "wait", "", 0) == ReplyStatus::ActionFailed).count();
    assert_eq!(reply_status(&lab, &laptop, "note", "", 0), ReplyStatus::Done);
    assert!(within(SOON, || site.path("noted").exists()), "{:?}", site.audit());
    assert_eq!(refused, 90 - 4 - 16);
    let reasons_of_evil = reasons(&site, "evil");
    assert!(
        reasons_of_evil[0].contains("4 commands of this client are already running and 16 are waiting"),
        "{}",
        reasons_of_evil[0]
    );
    assert_eq!(reasons(&site, "laptop"), Vec::<String>::new());
}

#[test]
fn one_client_that_uses_all_its_undo_tasks_does_not_prevent_those_of_another_client() {
    let Some(lab) = Lab::new() else { return };
    let site = site();
    let _daemon = Daemon::start(&lab.server, &site);
    let [laptop, evil] = ["laptop", "evil"].map(|name| site.key(name));
    let mut refused = 0;
    for number in 0..60 {
        // The limit on running commands must not be the reason for the refusal.
        while reply_status(&lab, &evil, "lamp", &number.to_string(), 600) == ReplyStatus::ActionFailed {
            if reasons(&site, "evil").iter().any(|reason| reason.contains("32 tasks of client evil")) {
                refused += 1;
                break;
            }
        }
    }
    assert_eq!(refused, 60 - 32, "{:?}", reasons(&site, "evil"));
    assert_eq!(reply_status(&lab, &laptop, "lamp", "a", 1), ReplyStatus::Done);
    assert!(within(SOON, || site.path("undone-laptop-a").exists()), "{:?}", site.audit());
}

#[test]
fn undo_tasks_of_one_client_that_hang_do_not_delay_those_of_another() {
    let Some(lab) = Lab::new() else { return };
    let site = site();
    let _daemon = Daemon::start(&lab.server, &site);
    let [laptop, evil] = ["laptop", "evil"].map(|name| site.key(name));
    let mut planned = 0;
    for number in 0..24 {
        planned += u32::from(reply_status(&lab, &evil, "stick", &number.to_string(), 0) == ReplyStatus::Done);
    }
    // On a slow host the first undo tasks take the client's slots before the last knock is sent.
    assert!(planned >= 8, "{planned}");
    let running = || {
        let tasks = fs::read_dir(site.path("state/undo")).unwrap().flatten();
        tasks.filter(|task| task.path().extension().is_some_and(|extension| extension == "started")).count()
    };
    assert!(within(SOON, || running() == 4), "{}", running());
    assert_eq!(reply_status(&lab, &laptop, "lamp", "b", 1), ReplyStatus::Done);
    assert!(within(SOON, || site.path("undone-laptop-b").exists()), "{:?}", site.audit());
    // The task of the other client is one of them until the daemon knows that it has ended.
    assert!(
        within(SOON, || running() == 4),
        "no more tasks of one client run at the same time: {}",
        running()
    );
}
