//! A server whose name has several addresses: one that does not reply delays the client, but does not stop it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::net::{CLIENT4, CLIENT6, Daemon, Lab, Mounts, Site, limited, open_ssh};

/// Addresses in the client's network that no host has.
const DEAD4: &str = "10.77.0.3";
const DEAD6: &str = "fd77::99";

/// A lab in which the client resolves `server.test` to these addresses.
struct Office {
    lab: Lab,
    site: Site,
    mounts: Mounts,
    _daemon: Daemon,
}

impl Office {
    fn new(addresses: &[&str]) -> Option<Self> {
        let lab = Lab::new()?;
        let site = Site::new("", &open_ssh(30));
        lab.server.echo(22);
        let daemon = Daemon::start(&lab.server, &site);
        let mounts = Mounts::new();
        let mut hosts = String::from("127.0.0.1 localhost\n");
        for address in addresses {
            hosts.push_str(&format!("{address} server.test\n"));
        }
        for (name, text) in [("hosts", hosts.as_str()), ("nsswitch.conf", "hosts: files\n")] {
            let file = site.path(name);
            fs::write(&file, text).unwrap();
            mounts.mount(&["--bind", file.to_str().unwrap()], &Path::new("/etc").join(name));
        }
        Some(Self { lab, site, mounts, _daemon: daemon })
    }

    fn command(&self, args: &[&str]) -> Command {
        let [nsenter, entrance] = self.mounts.nsenter();
        let mut command = limited(&nsenter);
        command.arg(entrance).arg(env!("CARGO_BIN_EXE_spa-knock")).args(args);
        command.arg("--key").arg(self.site.key_path("laptop"));
        command.env_remove("SPA_KNOCK_KEY").env("HOME", self.site.folder());
        for (name, folder) in [("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "client-state")] {
            command.env(name, self.site.path(folder));
        }
        command
    }

    /// Runs the client, which must succeed within its own timeout of 3 s.
    fn succeeds(&self, args: &[&str]) -> String {
        let output = self.lab.client.output(&mut self.command(args));
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        stderr(&output)
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_dead_ipv6_address_does_not_prevent_a_knock_at_the_ipv4_address() {
    let Some(office) = Office::new(&[DEAD6, "10.77.0.1"]) else { return };
    let text = office.succeeds(&["-v", "server.test", "open-ssh"]);
    assert!(text.contains("server.test: resolved to fd77::99, 10.77.0.1\n"), "{text}");
    assert!(text.contains("granted to 10.77.0.2 for 30s"), "{text}");
    let [granted] = &office.site.audit_of("granted")[..] else { panic!("{:?}", office.site.audit()) };
    assert_eq!(granted["address"], CLIENT4.to_string());
}

#[test]
fn the_second_ipv4_address_is_knocked_at_when_the_first_does_not_reply() {
    let Some(office) = Office::new(&[DEAD4, "10.77.0.1"]) else { return };
    let text = office.succeeds(&["-v", "--wait", "22", "server.test", "open-ssh"]);
    assert!(text.contains("server.test: resolved to 10.77.0.3, 10.77.0.1\n"), "{text}");
    assert_eq!(office.site.audit().len(), 1, "{:?}", office.site.audit());
}

#[test]
fn an_address_that_replies_is_the_only_one_that_is_knocked_at() {
    let Some(office) = Office::new(&["fd77::1", "10.77.0.1", DEAD4]) else { return };
    // On a busy machine a reply can take so long that the next address is knocked at too.
    let knocked_at_one = (0..5).any(|_| {
        let text = office.succeeds(&["-v", "server.test", "open-ssh"]);
        text.matches("knocking at").count() == 1 && text.contains("granted to fd77::2")
    });
    assert!(knocked_at_one);
    assert!(office.site.audit_of("granted").iter().any(|record| record["address"] == CLIENT6.to_string()));
}

#[test]
fn a_connection_is_made_to_the_address_that_replied() {
    let Some(office) = Office::new(&[DEAD6, DEAD4, "10.77.0.1"]) else { return };
    for more in [&[][..], &["--no-reply"]] {
        let args = [&["connect", "server.test", "open-ssh", "server.test", "22"], more].concat();
        let mut command = office.command(&args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // With `--no-reply`, each address takes one second.
        command.args(["--timeout", if more.is_empty() { "3s" } else { "10s" }]);
        let mut child = office.lab.client.spawn(&mut command);
        child.stdin.take().unwrap().write_all(b"hello").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert_eq!(output.stdout, b"hello", "{args:?}");
    }
}

#[test]
fn when_all_addresses_are_silent_or_refuse_the_message_names_them() {
    let Some(office) = Office::new(&[DEAD6, DEAD4]) else { return };
    let mut command = office.command(&["--timeout", "800ms", "server.test", "open-ssh"]);
    let output = office.lab.client.output(&mut command);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("no reply from fd77::99, 10.77.0.3 port 62201 within 800ms"),
        "{output:?}"
    );
    drop(office);

    let Some(office) = Office::new(&["fd77::1", "10.77.0.1"]) else { return };
    let output = office.lab.client.output(&mut office.command(&["server.test", "no-such-action"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no-such-action refused: unknown action"), "{output:?}");
    // A knock over IPv6 for this IPv4 address would be refused, so the IPv6 address is not knocked at.
    office.succeeds(&["--source", "10.77.0.2", "server.test", "open-ssh"]);
}

#[test]
fn doctor_checks_each_address_and_names_the_one_to_remove() {
    let Some(office) = Office::new(&[DEAD6, "10.77.0.1"]) else { return };
    let mut command = office.command(&["doctor", "--timeout", "500ms", "server.test"]);
    let output = office.lab.client.output(&mut command);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("no reply from fd77::99 port 62201 within 500ms"), "{text}");
    assert!(text.contains("hint: remove fd77::99 from server.test"), "{text}");
    assert!(text.contains("ok     knock    10.77.0.1: got a reply"), "{text}");
}
