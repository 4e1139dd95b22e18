//! One client starts commands without end; another client's command runs immediately.

use std::fs;
use std::time::Duration;

use spa_knock_core::knock::{Argument, Knock, ReplyStatus};

use crate::net::{CLIENT4, Daemon, Key, Lab, SERVER4, Site, ask_patiently, knock, within};

const SOON: Duration = Duration::from_secs(5);

/// `wait` runs for 60 s, `note` writes a file, `lamp` has an undo task of its argument's own; two clients may do all.
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

/// How a knock with this argument that asks for so many seconds is answered.
fn answer(lab: &Lab, key: &Key, action: &str, argument: &str, seconds: u32) -> ReplyStatus {
    let argument: Argument = argument.parse().unwrap();
    let datagram = key.seal(&Knock { argument, seconds, ..knock(action) });
    let bytes = ask_patiently(&lab.client.udp(CLIENT4), SERVER4, datagram.as_bytes());
    key.open(&bytes.expect("an answer"), &datagram).status
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
    let refused = (0..90).filter(|_| answer(&lab, &evil, "wait", "", 0) == ReplyStatus::ActionFailed).count();
    assert_eq!(answer(&lab, &laptop, "note", "", 0), ReplyStatus::Done);
    assert!(within(SOON, || site.path("noted").exists()), "{:?}", site.audit());
    assert_eq!(refused, 90 - 4 - 16);
    let said = reasons(&site, "evil");
    assert!(said[0].contains("4 commands of one client run and 16 wait already"), "{}", said[0]);
    assert_eq!(reasons(&site, "laptop"), Vec::<String>::new());
}

#[test]
fn one_client_that_uses_all_its_undo_tasks_does_not_keep_another_client_from_its_own() {
    let Some(lab) = Lab::new() else { return };
    let site = site();
    let _daemon = Daemon::start(&lab.server, &site);
    let [laptop, evil] = ["laptop", "evil"].map(|name| site.key(name));
    let mut refused = 0;
    for number in 0..60 {
        // Its own commands must not be what stops it.
        while answer(&lab, &evil, "lamp", &number.to_string(), 600) == ReplyStatus::ActionFailed {
            if reasons(&site, "evil").iter().any(|reason| reason.contains("32 of client evil")) {
                refused += 1;
                break;
            }
        }
    }
    assert_eq!(refused, 60 - 32, "{:?}", reasons(&site, "evil"));
    assert_eq!(answer(&lab, &laptop, "lamp", "a", 1), ReplyStatus::Done);
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
        planned += u32::from(answer(&lab, &evil, "stick", &number.to_string(), 0) == ReplyStatus::Done);
    }
    // On a slow host the first undo tasks take the client's slots before the last knock is sent.
    assert!(planned >= 8, "{planned}");
    let begun = || {
        let tasks = fs::read_dir(site.path("state/undo")).unwrap().flatten();
        tasks.filter(|task| task.path().extension().is_some_and(|word| word == "started")).count()
    };
    assert!(within(SOON, || begun() == 4), "{}", begun());
    assert_eq!(answer(&lab, &laptop, "lamp", "b", 1), ReplyStatus::Done);
    assert!(within(SOON, || site.path("undone-laptop-b").exists()), "{:?}", site.audit());
    assert_eq!(begun(), 4, "no more of one client run at a time");
}
