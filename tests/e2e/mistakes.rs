//! Every mistake that can be made on the README's way, one row each: how it ends, and what is said about it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use spa_knock_core::crypto::{KeyFile, KeyOwner, RootSecret, Secret};

use crate::net::{Daemon, Lab, NatLab, SERVER_ID, SERVER4, Site, limited, open_ssh};

/// How far a clock is off in these rows.
const HOUR: &str = "+3600";

/// One mistake.
struct Row {
    mistake: &'static str,
    command: Command,
    code: i32,
    /// What the message must have in it: the cause, or the next thing to look at.
    says: &'static [&'static str],
}

fn row(mistake: &'static str, command: Command, code: i32, says: &'static [&'static str]) -> Row {
    Row { mistake, command, code, says }
}

/// `spa-knock --key FILE SERVER WORDS`, which does not wait long.
fn knock(site: &Site, key: PathBuf, words: &[&str]) -> Command {
    let mut command = site.client();
    command.args(["--timeout", "400ms", "--key"]).arg(key).args(words);
    command
}

/// The same with another clock, where `faketime` is there to make one.
fn an_hour_off(site: &Site, words: &[&str]) -> Option<Command> {
    limited("faketime").arg("--version").output().ok().filter(|output| output.status.success()).or_else(
        || {
            println!("no faketime here");
            None
        },
    )?;
    let knock = knock(site, site.key_path("laptop"), words);
    let mut command = limited("faketime");
    command.args(["-f", HOUR]).arg(env!("CARGO_BIN_EXE_spa-knock"));
    // Without the program's own limit, whose clock would be another, too.
    command.args(knock.get_args().skip_while(|word| *word != "--timeout"));
    for (name, value) in knock.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    Some(command)
}

/// A key for all servers that this one has been given the pair of, under its id.
fn root_key(site: &Site) -> PathBuf {
    let root = RootSecret::new(Secret::generate().unwrap());
    let id = SERVER_ID.parse().unwrap();
    let pair = KeyFile {
        client: None,
        holder: KeyOwner::Pair { secret: root.pair(&id), server: id },
        address: None,
        port: None,
    };
    let file = KeyFile { client: None, holder: KeyOwner::Root(root), address: None, port: None };
    let path = site.path("root.key");
    for (path, file) in [(&path, file), (&site.key_path("of-root"), pair)] {
        fs::write(path, file.to_text().as_bytes()).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    path
}

fn rows(site: &Site, root: PathBuf) -> Vec<Row> {
    let server = &SERVER4.to_string();
    let key = || site.key_path("laptop");
    let open = site.path("open.key");
    fs::copy(key(), &open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let stranger = site.path("stranger.key");
    fs::rename(site.key_path("stranger"), &stranger).unwrap();
    let mut import = site.client();
    import.args(["import", "spa-knock-AFIBAAECAwQFBgcICQoLDA0ODxAREhMUFRYX"]);
    let mut no_key = site.client();
    no_key.args([server, "open-ssh"]);
    let mut misspelt = site.client();
    let profile = site.path("profile.toml");
    fs::write(&profile, "[server.home]\nadress = \"10.77.0.1\"\n").unwrap();
    misspelt.arg("--config").arg(profile).args(["home", "open-ssh"]);

    let mut rows = vec![
        row(
            "a wrong key",
            knock(site, stranger, &[server, "open-ssh"]),
            3,
            &["no answer from 10.77.0.1", "wrong key or server id: this is key ", "spa-knockd client show"],
        ),
        row(
            "a server name that leads nowhere",
            knock(site, key(), &["no-such-host.invalid", "open-ssh"]),
            4,
            &["no-such-host.invalid: cannot be resolved", "hint: check the name"],
        ),
        row(
            "a name that is not the server's own, with a key for all servers",
            knock(site, root.clone(), &[server, "open-ssh"]),
            3,
            &["wrong key or server id", "at 10.77.0.1;"],
        ),
        row(
            "an action that the server does not have",
            knock(site, key(), &[server, "open-shs"]),
            1,
            &["open-shs refused: ", "hint: "],
        ),
        row(
            "no action",
            knock(site, key(), &[server]),
            2,
            &["no action is given", "hint: spa-knock 10.77.0.1 open-ssh"],
        ),
        row(
            "a key that others can read",
            knock(site, open, &[server, "open-ssh"]),
            5,
            &["mode 0644 lets others at it", "hint: chmod 600 "],
        ),
        row("no key", no_key, 5, &["no key: ", "hint: spa-knock keygen"]),
        row("a token that is cut off", import, 5, &["token: length: ", "hint: copy it again"]),
        row("a misspelt profile", misspelt, 5, &["profile.toml:2:1: unknown name (known: address,"]),
        row(
            "a port to wait for that the action does not open",
            knock(site, key(), &[server, "open-ssh", "--wait", "23"]),
            3,
            &["knocked, but tcp port 23 did not accept", "hint: check that the service runs"],
        ),
    ];
    rows.extend(an_hour_off(site, &[server, "open-ssh"]).map(|command| {
        row("a clock an hour off", command, 3, &["clocks apart by more than", "here it is ", "date -u"])
    }));
    rows
}

#[test]
fn every_mistake_ends_in_a_message_that_names_the_cause_or_the_next_thing_to_look_at() {
    let Some(lab) = Lab::new() else { return };
    let added = "[client.of-root]\nkey = \"of-root.key\"\nallow = [\"open-ssh\"]\n";
    let site = Site::new("", &(open_ssh(5) + added));
    site.add_key("stranger");
    let root = root_key(&site);
    let mut daemon = Daemon::start(&lab.server, &site);
    let good = lab.client.output(&mut knock(
        &site,
        root.clone(),
        &[&SERVER4.to_string(), "open-ssh", "--server-id", SERVER_ID],
    ));
    assert!(good.status.success(), "without a mistake it works: {good:?}");
    for row in rows(&site, root) {
        check(&lab.client, row);
    }

    let server = &SERVER4.to_string();
    daemon.kill9();
    check(
        &lab.client,
        row(
            "the daemon does not run",
            knock(&site, site.key_path("laptop"), &[server, "open-ssh"]),
            3,
            &["no answer from 10.77.0.1", "no spa-knockd runs there"],
        ),
    );

    lab.client.nft("add table ip f");
    lab.client.nft("add chain ip f o { type filter hook output priority 0 ; }");
    lab.client.nft("add rule ip f o udp dport 62201 drop");
    check(
        &lab.client,
        row(
            "UDP is blocked on this host",
            knock(&site, site.key_path("laptop"), &[server, "open-ssh"]),
            4,
            &["nothing could be sent to 10.77.0.1", "hint: a firewall of this host forbids it"],
        ),
    );
}

#[test]
fn udp_that_is_blocked_on_the_way_is_among_the_causes_of_silence() {
    let Some(lab) = NatLab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    lab.router.nft("add table ip f");
    lab.router.nft("add chain ip f f { type filter hook forward priority 0 ; }");
    lab.router.nft("add rule ip f f udp dport 62201 drop");
    let command = knock(&site, site.key_path("laptop"), &[&SERVER4.to_string(), "open-ssh"]);
    let says = &["UDP port 62201 is filtered", "tcpdump -ni any udp port 62201"];
    check(&lab.client, row("UDP is blocked on the way", command, 3, says));
}

fn check(client: &crate::net::Namespace, mut row: Row) {
    let output = client.output(&mut row.command);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(row.code), "{}: {told}", row.mistake);
    for text in row.says {
        assert!(told.contains(text), "{}: no {text:?} in:\n{told}", row.mistake);
    }
    assert!(told.starts_with("spa-knock: "), "{}: {told}", row.mistake);
}
