//! A host that takes over another one's address: same id, same keys, another replay memory.

use std::fs;
use std::time::Duration;

use crate::net::{Daemon, Key, Lab, Site, knock, open_ssh};

const WINDOW: &str = "window = \"3s\"";

fn datagram(key: &Key) -> Vec<u8> {
    key.seal(&knock("open-ssh")).as_bytes().to_vec()
}

/// A standby host, and the knocks that the active one has accepted.
struct Pair {
    twin: Site,
    key: Key,
    accepted: [Vec<u8>; 2],
}

impl Pair {
    fn new(lab: &Lab) -> Self {
        let [site, twin] = [(), ()].map(|()| Site::new(WINDOW, &open_ssh(2)));
        let key = site.key("laptop");
        fs::copy(site.key_path("laptop"), twin.key_path("laptop")).unwrap();
        let mut standby = Daemon::start(&lab.server, &twin);
        assert!(
            standby.terminate().success(),
            "the first start refuses older knocks for a reason of its own"
        );
        let mut active = Daemon::start(&lab.server, &site);
        let accepted = [datagram(&key), datagram(&key)];
        assert!(accepted.iter().all(|knock| lab.gets_reply(knock)));
        assert!(active.terminate().success());
        Self { twin, key, accepted }
    }
}

fn take_over(lab: &Lab, site: &Site) -> String {
    let output = lab.server.output(&mut site.admin(&["takeover"]));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("takeover: accepting only knocks with a timestamp after 2"), "{text}");
    text
}

/// The first copy is accepted, which shows what the command prevents for the second one.
#[test]
fn a_running_daemon_refuses_what_the_other_host_has_accepted_also_after_a_kill() {
    let Some(lab) = Lab::new() else { return };
    let Pair { twin, key, accepted: [copied, late] } = Pair::new(&lab);
    let mut standby = Daemon::start(&lab.server, &twin);
    assert!(lab.gets_reply(&copied));
    take_over(&lab, &twin);
    assert!(!lab.gets_reply(&late));
    assert!(!lab.gets_reply(&datagram(&key)), "for one window, no knock is accepted");
    standby.kill9();
    let standby = Daemon::start(&lab.server, &twin);
    assert!(!lab.gets_reply(&late));
    std::thread::sleep(Duration::from_secs(3));
    assert!(lab.gets_reply(&datagram(&key)));
    assert!(standby.log().contains("ready"), "{}", standby.log());
    assert_eq!(twin.audit_of("granted").len(), 2);
}

#[test]
fn without_a_daemon_the_next_one_refuses_what_the_other_host_has_accepted() {
    let Some(lab) = Lab::new() else { return };
    let Pair { twin, key, accepted: [copied, _] } = Pair::new(&lab);
    take_over(&lab, &twin);
    let standby = Daemon::start(&lab.server, &twin);
    assert!(!lab.gets_reply(&copied));
    std::thread::sleep(Duration::from_secs(3));
    assert!(lab.gets_reply(&datagram(&key)));
    assert!(standby.log().contains("ready"), "{}", standby.log());
}

#[test]
fn a_takeover_that_is_not_on_disk_fails_but_the_running_daemon_refuses_nevertheless() {
    let Some(lab) = Lab::new() else { return };
    let Pair { twin, accepted: [copied, _], .. } = Pair::new(&lab);
    let _standby = Daemon::start(&lab.server, &twin);
    // The next version of the journal cannot be written while a directory has its name.
    let next = twin.path("state").join("replay.journal.new");
    let _ = fs::remove_file(&next);
    fs::create_dir(&next).unwrap();
    let output = lab.server.output(&mut twin.admin(&["takeover"]));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("until this daemon ends: ")
            && text.contains("replay.journal.new: is a directory\nhint: make /"),
        "{text}"
    );
    assert!(!lab.gets_reply(&copied));
    fs::remove_dir(&next).unwrap();
    take_over(&lab, &twin);
}

#[test]
fn check_names_what_differs_from_the_other_hosts_policy() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let twin = Site::new("", &open_ssh(2));
    fs::copy(site.key_path("laptop"), twin.key_path("laptop")).unwrap();
    lab.server.echo(22);
    let policy = lab.server.output(&mut twin.admin(&["check", "--policy"]));
    let policy = String::from_utf8(policy.stdout).unwrap();
    assert!(policy.starts_with("spa-knock-policy 0.") && policy.contains("\nclient laptop "), "{policy}");
    let there = site.path("there");
    let against = || {
        let output = lab.server.output(&mut site.admin(&["check", "--against", there.to_str().unwrap()]));
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    fs::write(&there, &policy).unwrap();
    let (code, text) = against();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("ok: policy: equal to {}\n", there.display())), "{text}");

    // Another pair key, another action, another window: each is named, and nothing else.
    let changes: [(&str, &dyn Fn()); 3] = [
        ("client laptop: differs from the other server", &|| drop(site.add_key("laptop"))),
        ("action open-ssh: differs from the other server", &|| site.write_config("", &open_ssh(3))),
        ("server: differs from the other server", &|| site.write_config("window = \"31s\"", &open_ssh(2))),
    ];
    for (expected, change) in changes {
        change();
        let (code, text) = against();
        assert_eq!(code, Some(1), "{text}");
        assert_eq!(text.matches("the other server").count(), 1, "{text}");
        assert!(text.contains(expected) && text.contains("\n1 problem, "), "{text}");
        fs::copy(twin.key_path("laptop"), site.key_path("laptop")).unwrap();
        site.write_config("", &open_ssh(2));
    }
    fs::write(&there, policy.replace("client laptop", "client desktop")).unwrap();
    let (_, text) = against();
    assert!(text.contains("client laptop: missing on the other server"), "{text}");
    assert!(text.contains("client desktop: only on the other server"), "{text}");
    fs::write(&there, "rubbish").unwrap();
    let (code, text) = against();
    assert_eq!(code, Some(1));
    assert!(
        text.contains("there: not a policy\nhint: on the other server, run spa-knockd check --policy"),
        "{text}"
    );
}
