//! The mistakes that a user of the README can make, one row each: the exit code and the message.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use spa_knock_core::crypto::{KeyFile, KeyOwner, RootSecret, Secret};

use crate::net::{Daemon, Lab, NatLab, SERVER_ID, SERVER4, Site, limited, open_ssh};

/// Offset of the wrong clock in seconds.
const HOUR: &str = "+3600";

/// One mistake.
struct Row {
    mistake: &'static str,
    command: Command,
    code: i32,
    /// Texts that the message must contain: the cause, or the next thing to check.
    message: &'static [&'static str],
}

fn row(mistake: &'static str, command: Command, code: i32, message: &'static [&'static str]) -> Row {
    Row { mistake, command, code, message }
}

/// `spa-knock --key FILE` with these arguments and a short timeout.
fn knock(site: &Site, key: PathBuf, args: &[&str]) -> Command {
    let mut command = site.client();
    command.args(["--timeout", "400ms", "--key"]).arg(key).args(args);
    command
}

/// The same with a clock that is one hour off, if `faketime` is installed.
fn an_hour_off(site: &Site, args: &[&str]) -> Option<Command> {
    limited("faketime").arg("--version").output().ok().filter(|output| output.status.success()).or_else(
        || {
            println!("skipped: faketime is not installed");
            None
        },
    )?;
    let knock = knock(site, site.key_path("laptop"), args);
    let mut command = limited("faketime");
    command.args(["-f", HOUR]).arg(env!("CARGO_BIN_EXE_spa-knock"));
    // Without `timeout`, which faketime would affect too.
    command.args(knock.get_args().skip_while(|arg| *arg != "--timeout"));
    for (name, value) in knock.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    Some(command)
}

/// Creates a root secret, and the pair secret that the server has for it under its id. Returns the root key file.
fn root_key(site: &Site) -> PathBuf {
    let root = RootSecret::new(Secret::generate().unwrap());
    let id = SERVER_ID.parse().unwrap();
    let pair = KeyFile {
        client: None,
        holder: KeyOwner::Pair { secret: root.pair(&id), server: id },
        address: None,
        port: None,
        ssh_key: None,
    };
    let file =
        KeyFile { client: None, holder: KeyOwner::Root(root), address: None, port: None, ssh_key: None };
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
    let unknown = site.path("unknown.key");
    fs::rename(site.key_path("unknown"), &unknown).unwrap();
    let mut import = site.client();
    import.args(["import", "spa-knock-AFIBAAECAwQFBgcICQoLDA0ODxAREhMUFRYX"]);
    let mut no_key = site.client();
    no_key.args([server, "open-ssh"]);
    let mut misspelled = site.client();
    let profile = site.path("profile.toml");
    fs::write(&profile, "[server.home]\nadress = \"10.77.0.1\"\n").unwrap();
    misspelled.arg("--config").arg(profile).args(["home", "open-ssh"]);

    let mut rows = vec![
        row(
            "a wrong key",
            knock(site, unknown, &[server, "open-ssh"]),
            3,
            &["no reply from 10.77.0.1", "wrong key or server id: you used key ", "spa-knockd client show"],
        ),
        row(
            "a server name that does not exist",
            knock(site, key(), &["no-such-host.invalid", "open-ssh"]),
            4,
            &["no-such-host.invalid: cannot be resolved", "hint: check the name"],
        ),
        row(
            "a name that is not the server id, with a root key",
            knock(site, root.clone(), &[server, "open-ssh"]),
            3,
            &["wrong key or server id", "server id 10.77.0.1;"],
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
            &["no action is given", "hint: name an action", "spa-knock 10.77.0.1 open-ssh"],
        ),
        row(
            "a key that others can read",
            knock(site, open, &[server, "open-ssh"]),
            5,
            &["mode 0644 allows others to access it", "hint: chmod 600 "],
        ),
        row("no key", no_key, 5, &["no key: ", "hint: create one with `spa-knock keygen"]),
        row("a truncated token", import, 5, &["token: length: ", "hint: copy it again"]),
        row(
            "a misspelled profile",
            misspelled,
            5,
            &["profile.toml:2:1: adress: unknown name (known: address,"],
        ),
        row(
            "waiting for a port that the action does not open",
            knock(site, key(), &[server, "open-ssh", "--wait", "23"]),
            3,
            &["knocked, but tcp port 23 did not accept", "hint: check that the service is running"],
        ),
    ];
    rows.extend(an_hour_off(site, &[server, "open-ssh"]).map(|command| {
        row(
            "a clock an hour off",
            command,
            3,
            &["the clocks differ by more than", "the time here is ", "date -u"],
        )
    }));
    rows
}

#[test]
fn every_mistake_causes_a_message_with_the_cause_or_the_next_thing_to_check() {
    let Some(lab) = Lab::new() else { return };
    let added = "[client.of-root]\nkey = \"of-root.key\"\nallow = [\"open-ssh\"]\n";
    let site = Site::new("", &(open_ssh(5) + added));
    site.add_key("unknown");
    let root = root_key(&site);
    let mut daemon = Daemon::start(&lab.server, &site);
    let good = lab.client.output(&mut knock(
        &site,
        root.clone(),
        &[&SERVER4.to_string(), "open-ssh", "--server-id", SERVER_ID],
    ));
    assert!(good.status.success(), "a knock without a mistake works: {good:?}");
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
            &["no reply from 10.77.0.1", "spa-knockd is not running there"],
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
            &["nothing could be sent to 10.77.0.1", "hint: a firewall on this host blocks it"],
        ),
    );
}

#[test]
fn blocked_udp_is_among_the_listed_causes_of_no_reply() {
    let Some(lab) = NatLab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    lab.router.nft("add table ip f");
    lab.router.nft("add chain ip f f { type filter hook forward priority 0 ; }");
    lab.router.nft("add rule ip f f udp dport 62201 drop");
    let command = knock(&site, site.key_path("laptop"), &[&SERVER4.to_string(), "open-ssh"]);
    let message = &["UDP port 62201 is filtered", "tcpdump -ni any udp port 62201"];
    check(&lab.client, row("UDP is blocked on the path", command, 3, message));
}

fn check(client: &crate::net::Namespace, mut row: Row) {
    let output = client.output(&mut row.command);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(row.code), "{}: {text}", row.mistake);
    for expected in row.message {
        assert!(text.contains(expected), "{}: no {expected:?} in:\n{text}", row.mistake);
    }
    assert!(text.starts_with("spa-knock: "), "{}: {text}", row.mistake);
}
