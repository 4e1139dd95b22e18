//! `spa-knockd client revoke` locks a client out even if something else is broken, and reports the result.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use spa_knock_core::knock::ReplyStatus;

use crate::doors::{self, knock_at};
use crate::net::{
    CLIENT4, Daemon, Key, Lab, NEIGHBOR4, SERVER_ID, SERVER4, Site, ask, knock, open_ssh, within,
};

/// Runs `spa-knockd` with these arguments. Returns whether it succeeded, and its output.
fn admin(lab: &Lab, site: &Site, args: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = lab.server.output(&mut site.admin(args));
    (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

/// Adds a client with its own file and returns its key.
fn add_client(lab: &Lab, site: &Site, name: &str) -> Key {
    let file = site.path(&format!("{name}.handed-over"));
    let (done, text) = admin(
        lab,
        site,
        &["client", "add", name, "--allow", "open-ssh", "--source", "observed", "-o", file.to_str().unwrap()],
    );
    assert!(done, "{text}");
    Key::read(&file, SERVER_ID)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn fingerprint(lab: &Lab, site: &Site, name: &str) -> String {
    let (_, text) = admin(lab, site, &["client", "show", name]);
    text.lines().find_map(|line| line.strip_prefix("fingerprint: ")).unwrap().to_owned()
}

#[test]
fn a_lost_key_can_be_revoked_immediately_although_another_key_or_the_config_is_broken() {
    let Some(lab) = Lab::new() else { return };
    let good = open_ssh(30);
    for (row, by_fingerprint) in [("key", false), ("config", false), ("syntax", true), ("key", true)] {
        let site = Site::new("", &good);
        lab.server.echo_once(22);
        let mut daemon = Daemon::start(&lab.server, &site);
        let [evil, phone] = ["evil", "phone"].map(|name| add_client(&lab, &site, name));
        let name = if by_fingerprint { fingerprint(&lab, &site, "evil") } else { "evil".to_owned() };
        let socket = lab.client.udp(CLIENT4);
        assert!(ask(&socket, SERVER4, &evil.good()).is_some() && lab.client.reaches(SERVER4, 22));
        match row {
            "key" => chmod(&site.key_path("laptop"), 0o644),
            "config" => site.write_config("", &format!("{good}x = 1\n")),
            _ => site.write_config("", &format!("{good}[[[\n")),
        }
        let (done, text) = admin(&lab, &site, &["client", "revoke", &name]);
        assert!(done && text.contains("client evil: revoked"), "{row}: {text}");
        assert!(text.contains("the running daemon refuses its knocks now; 1 grant revoked"), "{row}: {text}");
        assert!(!lab.client.reaches(SERVER4, 22), "{row}: its grant is closed");
        assert_eq!(ask(&socket, SERVER4, &evil.good()), None, "{row}: the key is refused");
        assert!(!site.path("clients.d/evil.toml").exists() && !site.key_path("evil").exists(), "{row}");
        // Other clients still work, also after a restart.
        assert!(ask(&lab.neighbor.udp(NEIGHBOR4), SERVER4, &phone.good()).is_some(), "{row}");
        site.write_config("", &good);
        chmod(&site.key_path("laptop"), 0o600);
        assert!(daemon.terminate().success());
        let _daemon = Daemon::start(&lab.server, &site);
        assert_eq!(ask(&socket, SERVER4, &evil.good()), None, "{row}: after a restart");
        assert!(!site.path("state/revoked").exists(), "{row}: the list of revoked keys is empty");
        admin(&lab, &site, &["gate", "off"]);
    }
}

#[test]
fn a_revoked_client_of_the_config_file_stays_locked_out_until_it_is_removed_or_has_another_key() {
    let Some(lab) = Lab::new() else { return };
    let good = open_ssh(30);
    let site = Site::new("", &good);
    let mut daemon = Daemon::start(&lab.server, &site);
    let (done, text) = admin(&lab, &site, &["client", "revoke", "laptop"]);
    assert!(done && text.contains("remove [client.laptop] from"), "{text}");
    let socket = lab.client.udp(CLIENT4);
    let refused = || ask(&socket, SERVER4, &site.key("laptop").good()).is_none();
    assert!(refused());
    daemon.reload();
    assert!(refused(), "after a reload");
    assert!(daemon.terminate().success());
    let (_, text) = admin(&lab, &site, &["check"]);
    assert!(text.contains("client.laptop: its key is revoked"), "{text}");
    let daemon = Daemon::start(&lab.server, &site);
    assert!(refused(), "after a restart");
    assert!(daemon.log().contains("its key is revoked"), "{}", daemon.log());
    site.add_key("laptop");
    daemon.reload();
    assert!(!refused(), "with another key");
    assert!(within(Duration::from_secs(2), || !site.path("state/revoked").exists()));
}

#[test]
fn a_client_revoked_without_a_daemon_loses_its_grants_in_the_kernel_and_in_restored_gates() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for (backend, broken) in [
        ("nftables", "spa-knockd.toml"),
        ("nftables", "clients.d/evil.toml"),
        ("iptables", "spa-knockd.toml"),
        ("iptables", "clients.d/evil.toml"),
    ] {
        let rest = open_ssh(60).replace("[firewall]", &format!("[firewall]\nbackend = \"{backend}\""));
        let site = Site::new("", &rest);
        let mut daemon = Daemon::start(&lab.server, &site);
        let [evil, phone] = ["evil", "phone"].map(|name| add_client(&lab, &site, name));
        assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &evil.good()).is_some());
        assert!(ask(&lab.neighbor.udp(NEIGHBOR4), SERVER4, &phone.good()).is_some());
        assert!(daemon.terminate().success());
        assert!(lab.client.reaches(SERVER4, 22) && lab.neighbor.reaches(SERVER4, 22));
        let broken = site.path(broken);
        fs::write(&broken, fs::read_to_string(&broken).unwrap() + "x = 1\n").unwrap();
        let row = format!("{backend}, {}", broken.display());
        let (done, text) = admin(&lab, &site, &["client", "revoke", "evil"]);
        assert!(done && text.contains("client evil: revoked"), "{row}: {text}");
        assert!(text.contains("1 grant revoked"), "{row}: {text}");
        assert!(!lab.client.reaches(SERVER4, 22) && lab.neighbor.reaches(SERVER4, 22), "{row}");
        for args in [&["restore-gate"][..], &["gate", "off"], &["gate", "on"]] {
            admin(&lab, &site, args);
            let is_open = args == ["gate", "off"];
            assert_eq!(lab.client.reaches(SERVER4, 22), is_open, "{row}: {args:?}");
        }
        admin(&lab, &site, &["gate", "off"]);
    }
}

#[test]
fn revoking_an_unknown_client_names_it_and_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    for runs in [false, true] {
        let _daemon = runs.then(|| Daemon::start(&lab.server, &site));
        let (done, text) = admin(&lab, &site, &["client", "revoke", "tablet"]);
        assert!(!done && text.contains("client tablet: no such client"), "{text}");
        assert!(text.contains("clients: laptop"), "{text}");
    }
}

#[test]
fn the_waiting_commands_of_a_removed_client_never_run_and_its_undo_tasks_run_immediately() {
    let Some(lab) = Lab::new() else { return };
    for by_command in [true, false] {
        let site = Site::new("", "");
        let (noted, undone, slow) = (site.path("noted"), site.path("undone"), site.path("slow"));
        let actions = format!(
            "[firewall]\nbackend = \"none\"\n\
             [action.wait]\nrun = [\"/bin/sleep\", \"3\"]\n\
             [action.note]\nrun = [\"/usr/bin/touch\", \"{}-{{client}}\"]\n\
             [action.lamp]\nrun = [\"/bin/true\"]\nundo = [\"/usr/bin/touch\", \"{}\"]\nfor = \"10m\"\nmax = \"10m\"\n\
             [action.slow]\nrun = [\"/bin/sh\", \"-c\", \"sleep 2; /usr/bin/touch {slow}\"]\nundo = [\"/bin/rm\", \"{slow}\"]\n\
             for = \"10m\"\nmax = \"10m\"\n",
            noted.display(),
            undone.display(),
            slow = slow.display()
        );
        let client = |name: &str| {
            format!(
                "[client.{name}]\nkey = \"{name}.key\"\nallow = [\"wait\", \"note\", \"lamp\", \"slow\"]\n"
            )
        };
        site.write_config("", &[&actions, &client("laptop"), &client("evil")].map(String::as_str).concat());
        site.add_key("evil");
        let daemon = Daemon::start(&lab.server, &site);
        let socket = lab.client.udp(CLIENT4);
        let [laptop, evil] = ["laptop", "evil"].map(|name| site.key(name));
        let knocks = |key: &Key, action: &str| {
            let reply = ask(&socket, SERVER4, key.seal(&knock(action)).as_bytes());
            assert!(reply.is_some(), "{action}: {}", daemon.log());
        };
        knocks(&evil, "lamp");
        knocks(&evil, "slow");
        for (key, action) in [(&evil, "wait"), (&laptop, "wait")].repeat(4) {
            knocks(key, action);
        }
        knocks(&evil, "note");
        knocks(&laptop, "note");
        if by_command {
            let (done, text) = admin(&lab, &site, &["client", "revoke", "evil"]);
            assert!(done, "{text}");
        } else {
            site.write_config("", &format!("{actions}{}", client("laptop")));
            daemon.reload();
        }
        let row = format!("by command: {by_command}");
        assert!(within(Duration::from_secs(2), || undone.exists()), "{row}: {}", daemon.log());
        let ran = |name: &str| site.path(&format!("noted-{name}")).exists();
        assert!(within(Duration::from_secs(10), || ran("laptop")), "{row}: {}", daemon.log());
        assert!(!ran("evil"), "{row}");
        // A command that was running when its client was removed is undone after it has finished.
        let undone_in_full =
            || !slow.exists() && fs::read_dir(site.path("state/undo")).unwrap().next().is_none();
        assert!(within(Duration::from_secs(5), undone_in_full), "{row}: {}", daemon.log());
        std::thread::sleep(Duration::from_millis(500));
        assert!(!slow.exists(), "{row}: {}", daemon.log());
        let dropped = site.audit_of("failed");
        let is_of_removed_client =
            |line: &Value| line["client"] == "evil" && line["reason"] == "client-removed";
        assert!(dropped.iter().all(is_of_removed_client), "{row}: {dropped:?}");
        assert!(dropped.iter().any(|line| line["action"] == "note"), "{row}: {dropped:?}");
    }
}

#[test]
fn a_client_whose_grants_are_just_expiring_loses_all_of_them_when_revoked_without_a_daemon() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let mut daemon = Daemon::start(&lab.server, &site);
    add_client(&lab, &site, "evil");
    assert!(daemon.terminate().success());
    // Every few milliseconds one expires; some last an hour.
    let element = |n: u32| {
        let time = if n.is_multiple_of(4) { 3_600_000 } else { 1 + n };
        format!("10.1.{}.{} . tcp . 22 timeout {time}ms comment \"evil open-ssh\"", n / 256, n % 256)
    };
    let elements: Vec<String> = (0..4_000).map(element).collect();
    let path = site.path("elements.nft");
    fs::write(&path, format!("add element inet spa_knock grants4 {{ {} }}\n", elements.join(", "))).unwrap();
    lab.server.nft(&format!("-f {}", path.display()));
    let (done, text) = admin(&lab, &site, &["client", "revoke", "evil"]);
    assert!(done && text.contains(" grants revoked"), "{text}");
    assert_eq!(lab.server.nft("list set inet spa_knock grants4").matches("evil").count(), 0);
}

#[test]
fn a_client_revoked_without_a_daemon_loses_every_kind_of_grant_in_both_backends() {
    let Some(lab) = Lab::new() else { return };
    let actions = [
        ("one", "open = [\"tcp/22\"]\nfor = \"1m\""),
        ("range", "open = [\"tcp/8000-8010\"]\nfor = \"1m\""),
        ("once", "open = [\"tcp/23\"]\nonce = true\nfor = \"1m\""),
        ("inside", "forward = { from = \"tcp/15432\", to = \"10.77.1.2:5432\" }\nfor = \"1m\""),
        ("local", "forward = { from = \"tcp/80\", to = \":8080\" }\nfor = \"1m\""),
    ];
    for (backend, client) in [
        ("nftables", ""),
        ("nftables", "grant-prefix = [\"/24\", \"/64\"]"),
        ("iptables", ""),
        ("iptables", "grant-prefix = [\"/24\", \"/64\"]"),
    ] {
        let firewall = format!("backend = \"{backend}\"\nprotect = [\"tcp/22-23\", \"tcp/8000-8010\"]");
        let actions = if client.is_empty() { &actions[..] } else { &actions[..2] };
        let site = doors::site(&firewall, actions, client);
        let mut daemon = Daemon::start(&lab.server, &site);
        for (action, _) in actions {
            let status = knock_at(&lab.client, CLIENT4, SERVER4, &site, action, "");
            assert_eq!(status, ReplyStatus::Granted, "{backend} {client}: {action}: {}", daemon.log());
        }
        assert!(daemon.terminate().success());
        let programs: &[&str] = match backend {
            "nftables" => &["nft list table inet spa_knock"],
            _ => &["ipset save", "iptables-save"],
        };
        let left = || {
            let text: String = programs.iter().map(|program| lab.server.run(program)).collect();
            text.lines().filter(|line| line.contains("laptop")).count()
        };
        assert!(left() > 0, "{backend} {client}");
        let (done, text) = admin(&lab, &site, &["client", "revoke", "laptop"]);
        let is_counted = text.contains("grant revoked") || text.contains("grants revoked");
        assert!(done && is_counted, "{backend} {client}: {text}");
        assert_eq!(left(), 0, "{backend} {client}: {text}");
        admin(&lab, &site, &["gate", "off"]);
    }
}
