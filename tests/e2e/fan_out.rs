//! One knock at several servers simultaneously: `--all`, `addresses = "all"` and groups.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use spa_knock_core::crypto::{KeyFile, KeyOwner, RootSecret, Secret};
use tempfile::TempDir;

use crate::net::{
    CLIENT4, CLIENT6, Daemon, Lab, Mounts, Namespace, NatLab, SERVER_ID, Site, full, limited, open_ssh,
};

/// What a server does with the client's knock for `open-ssh`.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Grants,
    Refuses,
    /// Drops every packet.
    Dead,
}

use Kind::{Dead, Grants, Refuses};

/// A server of the fleet, with an id of its own: `b1`, `b2` and so on.
struct Server {
    space: Namespace,
    site: Site,
    _daemon: Option<Daemon>,
}

/// A client with a root key and a profile `bastions` for its servers, each on a network of its own.
struct Fleet {
    client: Namespace,
    servers: Vec<Server>,
    home: TempDir,
}

impl Fleet {
    fn new(kinds: &[Kind], group: &str) -> Option<Self> {
        // Only for the check whether this user can create namespaces.
        Lab::new()?;
        let client = Namespace::new();
        let cable = |server: &Namespace, number: usize| {
            server.cable(
                ("lan0", &[&format!("10.78.{number}.1/24"), &format!("fd78:0:0:{number}::1/64")]),
                &client,
                (
                    &format!("eth{number}"),
                    &[&format!("10.78.{number}.2/24"), &format!("fd78:0:0:{number}::2/64")],
                ),
            );
        };
        let home = home();
        let servers: Vec<_> =
            (1..).zip(kinds).map(|(number, kind)| server(&home, number, *kind, &cable)).collect();
        let fleet = Self { client, servers, home };
        fleet.profile(group);
        Some(fleet)
    }

    /// Replaces the profiles: the group with these settings, and one for each server.
    fn profile(&self, group: &str) {
        let names: Vec<_> = (1..=self.servers.len()).map(|number| format!("\"b{number}\"")).collect();
        let mut text = format!("[server.bastions]\nservers = [{}]\n{group}\n", names.join(", "));
        for number in 1..=self.servers.len() {
            text.push_str(&format!("[server.b{number}]\naddress = \"10.78.{number}.1\"\n"));
        }
        self.write_profile(&text);
    }

    fn write_profile(&self, text: &str) {
        fs::write(self.home.path().join("config/spa-knock/config.toml"), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        client_of(&self.home, args)
    }

    fn run(&self, args: &[&str]) -> Output {
        self.client.output(&mut self.command(args))
    }
}

/// A home folder with a root key.
fn home() -> TempDir {
    let home = tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap();
    fs::create_dir_all(home.path().join("config/spa-knock")).unwrap();
    let holder = KeyOwner::Root(RootSecret::new(Secret::generate().unwrap()));
    let key = KeyFile { client: None, holder, address: None, port: None, ssh_key: None };
    write_key(&home.path().join(".knock.key"), &key.to_text());
    home
}

fn write_key(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn client_of(home: &TempDir, args: &[&str]) -> Command {
    with_home(limited(env!("CARGO_BIN_EXE_spa-knock")), home, args)
}

fn with_home(mut command: Command, home: &TempDir, args: &[&str]) -> Command {
    command.args(args).env_remove("SPA_KNOCK_KEY").env("HOME", home.path());
    for (name, folder) in [("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "state")] {
        command.env(name, home.path().join(folder));
    }
    command
}

/// A server with the id `b{number}` that knows the pair key for this id.
fn server(home: &TempDir, number: usize, kind: Kind, cable: &impl Fn(&Namespace, usize)) -> Server {
    let space = Namespace::new();
    cable(&space, number);
    let rest = match kind {
        Refuses => open_ssh(30).replace(
            "allow = [\"open-ssh\"]",
            "allow = [\"close-ssh\"]\n[action.close-ssh]\nclose = \"open-ssh\"",
        ),
        Grants | Dead => open_ssh(30),
    };
    let site = Site::new("", &rest);
    let id = format!("b{number}");
    let config = site.path("spa-knockd.toml");
    let text = fs::read_to_string(&config).unwrap().replace(SERVER_ID, &id);
    fs::write(&config, text).unwrap();
    let mut derive = client_of(home, &["derive", "--server-id", &id]);
    let derived = derive.output().unwrap();
    assert!(derived.status.success(), "{derived:?}");
    write_key(&site.key_path("laptop"), &String::from_utf8(derived.stdout).unwrap());
    space.echo(22);
    if kind == Dead {
        space.nft("add table inet hole");
        space.nft("add chain inet hole in { type filter hook input priority -300 ; policy drop ; }");
        return Server { space, site, _daemon: None };
    }
    let daemon = Daemon::start(&space, &site);
    Server { space, site, _daemon: Some(daemon) }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Name, result and exit code of each server.
fn results(output: &Output) -> Vec<(String, String, u64)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let servers = json(output)["servers"].as_array().unwrap().clone();
    servers
        .iter()
        .map(|server| (text(&server["server"]), text(&server["result"]), server["code"].as_u64().unwrap()))
        .collect()
}

fn expected(results: &[(&str, &str, u64)]) -> Vec<(String, String, u64)> {
    results.iter().map(|(name, result, code)| ((*name).to_owned(), (*result).to_owned(), *code)).collect()
}

#[test]
fn the_first_grant_ends_the_wait_for_a_dead_server_and_each_outcome_is_reported() {
    let Some(fleet) = Fleet::new(&[Dead, Refuses, Grants], "action = \"open-ssh\"") else { return };
    let text = stderr(&fleet.run(&["bastions"]));
    assert_eq!(
        text,
        "spa-knock: bastions: no reply yet from b1 (10.78.1.1): the knock was sent twice\n\
         spa-knock: bastions: open-ssh refused by b2 (10.78.2.1): not allowed (client cannot use action 'open-ssh')\n\
         spa-knock: bastions: open-ssh granted to 10.78.3.2 for 30s by b3 (10.78.3.1)\n"
    );
    assert!(fleet.client.reaches([10, 78, 3, 1].into(), 22));
    let quiet = fleet.run(&["-q", "bastions"]);
    assert_eq!((quiet.status.code(), stderr(&quiet).as_str()), (Some(0), ""));

    let mut times: Vec<_> = (0..20)
        .map(|_| {
            let start = Instant::now();
            let output = fleet.run(&["-o", "json", "bastions"]);
            let time = start.elapsed();
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            assert_eq!(
                results(&output),
                expected(&[("b1", "no-reply", 3), ("b2", "refused", 1), ("b3", "granted", 0)])
            );
            let value = json(&output);
            assert_eq!(value["result"], "granted");
            assert_eq!(value["server"], "bastions");
            assert_eq!(value["servers"][2]["server_address"], "10.78.3.1");
            assert_eq!(value["servers"][2]["address"], "10.78.3.2");
            time
        })
        .collect();
    times.sort();
    println!(
        "three servers, one dead, one refuses: min {:?}, median {:?}, max {:?}",
        times[0], times[10], times[19]
    );
    assert!(times[10] < Duration::from_secs(1), "{times:?}");
    if full() {
        assert!(times[10] < Duration::from_millis(350), "{times:?}");
    }
}

#[test]
fn without_a_grant_a_refusal_decides_the_exit_code_before_silence() {
    let Some(fleet) = Fleet::new(&[Dead, Refuses], "action = \"open-ssh\"") else { return };
    let output = fleet.run(&["--timeout", "600ms", "bastions"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "spa-knock: bastions: no reply from b1 (10.78.1.1) port 62201 within 600ms\n\
         spa-knock: bastions: open-ssh refused by b2 (10.78.2.1): not allowed (client cannot use action 'open-ssh')\n\
         hint: ask the server's administrator to check `allow` and `source` of this client\n"
    );
    let output = fleet.run(&["--timeout", "600ms", "-o", "json", "bastions"]);
    assert_eq!(json(&output)["result"], "refused");
    assert_eq!(results(&output), expected(&[("b1", "no-reply", 3), ("b2", "refused", 1)]));

    fleet.write_profile("[server.bastions]\nservers = [\"b2\", \"10.78.2.1\"]\naction = \"open-ssh\"\n[server.b2]\naddress = \"10.78.2.1\"\n[server.\"10.78.2.1\"]\nid = \"b2\"\n");
    let output = fleet.run(&["-o", "json", "bastions"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(results(&output), expected(&[("b2", "refused", 1), ("10.78.2.1", "refused", 1)]));

    fleet.write_profile("[server.bastions]\nservers = [\"b1\", \"none\"]\naction = \"open-ssh\"\n[server.b1]\naddress = \"10.78.1.1\"\n[server.none]\naddress = \"no-such-host.invalid\"\n");
    let output = fleet.run(&["--timeout", "600ms", "-o", "json", "bastions"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(results(&output), expected(&[("b1", "no-reply", 3), ("none", "error", 4)]));
}

#[test]
fn the_addresses_of_both_families_are_granted_with_one_command() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let _daemon = Daemon::start(&lab.server, &site);
    let mounts = Mounts::new();
    let mut hosts = "10.77.0.1 server.test\nfd77::1 server.test\n".to_owned();
    (1..=9).for_each(|number| hosts.push_str(&format!("10.77.0.{number} many.test\n")));
    for (name, text) in [("hosts", hosts.as_str()), ("nsswitch.conf", "hosts: files\n")] {
        let file = site.path(name);
        fs::write(&file, text).unwrap();
        mounts.mount(&["--bind", file.to_str().unwrap()], &Path::new("/etc").join(name));
    }
    let run = |args: &[&str]| {
        let [nsenter, entrance] = mounts.nsenter();
        let mut command = limited(&nsenter);
        command.arg(entrance).arg(env!("CARGO_BIN_EXE_spa-knock")).args(args);
        command.arg("--key").arg(site.key_path("laptop")).env("HOME", site.folder());
        for (name, folder) in [("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "client-state")] {
            command.env(name, site.path(folder));
        }
        lab.client.output(&mut command)
    };
    let output = run(&["--all", "server.test", "open-ssh"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut lines: Vec<_> = stderr(&output).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "spa-knock: server.test: open-ssh granted to 10.77.0.2 for 30s by 10.77.0.1",
            "spa-knock: server.test: open-ssh granted to fd77::2 for 30s by fd77::1"
        ]
    );
    let mut granted: Vec<_> = site
        .audit_of("granted")
        .iter()
        .map(|record| record["address"].as_str().unwrap().to_owned())
        .collect();
    granted.sort();
    assert_eq!(granted, [CLIENT4.to_string(), CLIENT6.to_string()]);
    let output = run(&["-4", "--all", "-o", "json", "server.test", "open-ssh"]);
    assert_eq!(results(&output), expected(&[("server.test", "granted", 0)]));

    let output = run(&["-4", "--all", "-o", "json", "many.test", "open-ssh"]);
    assert_eq!(
        stderr(&output),
        "spa-knock: many.test: has 9 addresses; only the first 8 get a knock\n",
        "{output:?}"
    );
    assert_eq!(results(&output).len(), 8);

    // An address that no one has does not disturb the other one.
    let folder = site.path("config/spa-knock");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), "[server.\"server.test\"]\naddresses = \"all\"\n").unwrap();
    lab.server.ip("addr del 10.77.0.1/24 dev lan0");
    let output = run(&["-o", "json", "server.test", "open-ssh"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut both = results(&output);
    both.sort();
    assert_eq!(both, expected(&[("server.test", "granted", 0), ("server.test", "no-reply", 3)]));

    // On a host without IPv6, it is no news that an IPv6 address cannot be reached.
    lab.server.ip("addr add 10.77.0.1/24 dev lan0");
    lab.client.ip("-6 addr flush dev eth0");
    let output = run(&["server.test", "open-ssh"]);
    assert_eq!(
        stderr(&output),
        "spa-knock: server.test: open-ssh granted to 10.77.0.2 for 30s by 10.77.0.1\n"
    );
    let mut both = results(&run(&["-o", "json", "server.test", "open-ssh"]));
    both.sort();
    assert_eq!(both, expected(&[("server.test", "error", 4), ("server.test", "granted", 0)]));
}

#[test]
fn a_broken_key_or_profile_of_one_server_is_its_own_outcome() {
    let Some(fleet) = Fleet::new(&[Grants, Grants], "action = \"open-ssh\"") else { return };
    let key = fleet.home.path().join("config/spa-knock/b1.key");
    fs::write(&key, "x").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let output = fleet.run(&["bastions"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stderr(&output);
    let broken = format!("spa-knock: bastions: b1: key file {}: mode 0644 allows others to ", key.display());
    assert!(text.starts_with(&broken), "{text}");
    assert!(text.contains("granted to 10.78.2.2 for 30s by b2 (10.78.2.1)\n"), "{text}");
    fs::remove_file(key).unwrap();

    fleet.write_profile("[server.bastions]\nservers = [\"b1\", \"b2\"]\naction = \"open-ssh\"\n[server.b1]\naddress = \"10.78.1.1\"\n[server.b2]\nport = 0\n");
    let output = fleet.run(&["-o", "json", "bastions"]);
    assert_eq!(results(&output), expected(&[("b1", "granted", 0), ("b2", "error", 5)]));
    let reason = json(&output)["servers"][1]["reason"].as_str().unwrap().to_owned();
    assert!(reason.ends_with("config.toml:7:8: a port is a number from 1 to 65535"), "{reason}");
    let alone = fleet.run(&["b1", "open-ssh"]);
    assert_eq!(alone.status.code(), Some(5), "for a single server, every problem in the file is an error");

    // A program that prints the key runs once for each server, one after the other.
    let script = fleet.home.path().join("print-key");
    let log = fleet.home.path().join("log");
    let key = fleet.home.path().join(".knock.key");
    let lines = format!(
        "#!/bin/sh\necho begin >> {0}\nsleep 0.2\ncat {1}\necho end >> {0}\n",
        log.display(),
        key.display()
    );
    fs::write(&script, lines).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let command = format!("key-command = [\"{}\"]", script.display());
    fleet.write_profile(&format!("[server.bastions]\nservers = [\"b1\", \"b2\"]\naction = \"open-ssh\"\n[server.b1]\naddress = \"10.78.1.1\"\n{command}\n[server.b2]\naddress = \"10.78.2.1\"\n{command}\n"));
    let output = fleet.run(&["-o", "json", "bastions"]);
    assert_eq!(results(&output), expected(&[("b1", "granted", 0), ("b2", "granted", 0)]));
    assert_eq!(fs::read_to_string(log).unwrap(), "begin\nend\nbegin\nend\n");
}

#[test]
fn connect_reaches_the_server_that_grants_even_if_it_is_the_last() {
    let Some(fleet) = Fleet::new(&[Dead, Refuses, Grants], "") else { return };
    for more in [&[][..], &["--no-reply", "--timeout", "10s"]] {
        let args = [&["connect"], more, &["bastions", "open-ssh", "bastions", "22"]].concat();
        let mut command = fleet.command(&args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = fleet.client.spawn(&mut command);
        child.stdin.take().unwrap().write_all(b"hello").unwrap();
        let output = child.wait_with_output().unwrap();
        println!("connect {more:?}: {:?}", start.elapsed());
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert_eq!((output.stdout.as_slice(), stderr(&output).as_str()), (&b"hello"[..], ""), "{args:?}");
    }
    // A server that has granted is no use if its port does not accept connections.
    let output = fleet.run(&["connect", "--timeout", "600ms", "bastions", "open-ssh", "bastions", "23"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("10.78.3.1: knocked, but tcp port 23 did not accept"), "{output:?}");
}

#[test]
fn the_wait_for_a_port_ends_at_the_first_server_that_accepts() {
    let Some(fleet) = Fleet::new(&[Dead, Grants, Grants], "action = \"open-ssh\"\nwait = 22") else { return };
    // This server grants, but its service does not answer.
    fleet.servers[1].space.nft("add table inet hole");
    fleet.servers[1].space.nft("add chain inet hole in { type filter hook input priority 10 ; }");
    fleet.servers[1].space.nft("add rule inet hole in tcp dport 22 drop");
    // Replies of the other one are lost until this one has granted, and its first one in any case.
    fleet.client.nft("add table ip hole");
    fleet.client.nft("add set ip hole granted { type inet_service ; flags dynamic ; size 8 ; }");
    fleet.client.nft("add chain ip hole in { type filter hook input priority 0 ; }");
    fleet.client.nft("add rule ip hole in ip saddr 10.78.2.1 udp sport 62201 add @granted { udp sport }");
    fleet.client.nft("add rule ip hole in ip saddr 10.78.3.1 udp sport 62201 udp sport != @granted drop");
    fleet.client.nft("add rule ip hole in ip saddr 10.78.3.1 udp sport 62201 numgen inc mod 2 0 drop");
    for more in [&[][..], &["--no-reply", "--timeout", "10s"]] {
        let output = fleet.run(&[&["-o", "json", "bastions"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let result = if more.is_empty() { "granted" } else { "sent" };
        assert_eq!(json(&output)["result"], result);
        let results = results(&output);
        // Without replies, a server can accept before the knock at another one was sent.
        let reason = &json(&output)["servers"][1]["reason"];
        let late = !more.is_empty() && reason.as_str().is_some_and(|reason| reason.ends_with(" yet"));
        if !late {
            assert_eq!(results[1], ("b2".into(), result.into(), 0));
        }
        assert_eq!(results[2], ("b3".into(), result.into(), 0));
        if more.is_empty() {
            assert_eq!(json(&output)["address"], "10.78.3.2", "the server that accepts decides the result");
        }
    }
    assert!(fleet.client.reaches([10, 78, 3, 1].into(), 22));
}

#[test]
fn keep_renews_the_grants_of_a_group_although_one_server_is_dead() {
    let Some(fleet) = Fleet::new(&[Grants, Dead, Grants], "action = \"open-ssh\"\nwait = 22") else { return };
    let mut command = fleet.command(&["keep", "--for", "3s", "bastions", "--", "sleep", "9"]);
    let start = Instant::now();
    let mut child = fleet.client.spawn(&mut command);
    // Longer than two grants.
    while start.elapsed() < Duration::from_secs(8) {
        std::thread::sleep(Duration::from_millis(500));
        if start.elapsed() > Duration::from_secs(1) {
            for number in [1, 3] {
                let time = start.elapsed();
                assert!(fleet.client.reaches([10, 78, number, 1].into(), 22), "b{number} after {time:?}");
            }
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn keep_has_a_schedule_for_each_server_of_a_group() {
    let Some(fleet) = Fleet::new(&[Grants, Grants], "action = \"open-ssh\"\nwait = 22") else { return };
    // The capture sees what a firewall drops, so nothing may leave the client.
    fleet.client.nft("add table inet hole");
    fleet.client.nft("add chain inet hole out { type filter hook output priority 0 ; }");
    fleet.client.nft("add rule inet hole out ip daddr 10.78.2.1 udp dport 62201 drop");
    let mut command = fleet.command(&["keep", "bastions", "--", "sleep", "8"]);
    command.stderr(Stdio::piped());
    let child = fleet.client.spawn(&mut command);
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(fleet.client.reaches([10, 78, 1, 1].into(), 22));
    assert!(!fleet.client.reaches([10, 78, 2, 1].into(), 22));
    fleet.client.nft("delete table inet hole");
    let start = Instant::now();
    // The grant of the other server, of 30 s, is renewed much later.
    while !fleet.client.reaches([10, 78, 2, 1].into(), 22) {
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    }
    println!("open at the second server after {:?}", start.elapsed());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn behind_a_nat_each_server_reports_the_address_that_it_sees() {
    let Some(lab) = NatLab::new() else { return };
    let home = home();
    let cable = |server: &Namespace, number: usize| {
        let wan = format!("wan{number}");
        server.cable(
            ("lan0", &[&format!("10.78.{number}.1/24")]),
            &lab.router,
            (&wan, &[&format!("10.78.{number}.2/24")]),
        );
        lab.router.nft(&format!("add rule ip nat out oifname {wan} masquerade"));
    };
    let servers: Vec<_> = (1..=2).map(|number| server(&home, number, Grants, &cable)).collect();
    let profile = "[server.bastions]\nservers = [\"b1\", \"b2\"]\naction = \"open-ssh\"\n[server.b1]\naddress = \"10.78.1.1\"\n[server.b2]\naddress = \"10.78.2.1\"\n";
    fs::write(home.path().join("config/spa-knock/config.toml"), profile).unwrap();
    for knocks in [2, 3] {
        let output = lab.client.output(&mut client_of(&home, &["-v", "-o", "json", "bastions"]));
        assert_eq!(results(&output), expected(&[("b1", "granted", 0), ("b2", "granted", 0)]), "{output:?}");
        for (number, server) in (1..).zip(&servers) {
            let granted = server.site.audit_of("granted");
            assert_eq!(granted.last().unwrap()["address"], format!("10.78.{number}.2"));
            // Two knocks at first, and one when the address is known.
            let mut ids: Vec<_> =
                server.site.audit().iter().map(|record| record["knock"].to_string()).collect();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), knocks, "{:?}", server.site.audit());
            let detail = format!("spa-knock: b{number} (10.78.{number}.1): ");
            assert!(stderr(&output).contains(&detail), "{output:?}");
        }
    }
}

#[test]
fn waiting_for_commands_fails_if_one_of_them_fails() {
    let Some(fleet) = Fleet::new(&[], "") else { return };
    let mut fleet = fleet;
    for (number, status) in [(1, 0), (2, 0), (3, 3)] {
        let space = Namespace::new();
        space.cable(
            ("lan0", &[&format!("10.78.{number}.1/24")]),
            &fleet.client,
            (&format!("eth{number}"), &[&format!("10.78.{number}.2/24")]),
        );
        let site = Site::new(
            "",
            &format!(
                "[action.work]\nrun = [\"/bin/sh\", \"-c\", \"sleep 0.{number}; exit {status}\"]\n[client.laptop]\nkey = \"laptop.key\"\nallow = [\"work\"]\n"
            ),
        );
        let config = site.path("spa-knockd.toml");
        let id = format!("b{number}");
        fs::write(&config, fs::read_to_string(&config).unwrap().replace(SERVER_ID, &id)).unwrap();
        let derived = client_of(&fleet.home, &["derive", "--server-id", &id]).output().unwrap();
        write_key(&site.key_path("laptop"), &String::from_utf8(derived.stdout).unwrap());
        let daemon = Daemon::start(&space, &site);
        fleet.servers.push(Server { space, site, _daemon: Some(daemon) });
    }
    let addresses = "[server.b1]\naddress = \"10.78.1.1\"\n[server.b2]\naddress = \"10.78.2.1\"\n[server.b3]\naddress = \"10.78.3.1\"\n";
    for (servers, code, last) in
        [("\"b1\", \"b2\"", 0, ("b2", "done", 0)), ("\"b1\", \"b3\"", 1, ("b3", "failed", 1))]
    {
        fleet.write_profile(&format!("[server.fleet]\nservers = [{servers}]\n{addresses}"));
        let output = fleet.run(&["--wait-done", "-o", "json", "fleet", "work"]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert_eq!(results(&output), expected(&[("b1", "done", 0), last]));
    }
    let output = fleet.run(&["--wait-done", "fleet", "work"]);
    assert!(
        stderr(&output).starts_with(
            "spa-knock: fleet: work done by b1 (10.78.1.1)\nspa-knock: fleet: work at b3 (10.78.3.1) failed: exit status 3\n"
        ),
        "{output:?}"
    );
}

#[test]
fn doctor_and_a_dry_run_cover_each_server_of_a_group() {
    let Some(fleet) = Fleet::new(&[Dead, Grants], "action = \"open-ssh\"") else { return };
    let output = fleet.run(&["doctor", "--timeout", "400ms", "bastions"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let at = |line: &str| text.find(line).unwrap_or_else(|| panic!("{line}: {text}"));
    assert!(at("ok     server   b1\n") < at("FAIL   knock"), "{text}");
    assert!(at("FAIL   knock") < at("ok     server   b2\n"), "{text}");
    assert!(text.contains("ok     knock    10.78.2.1: bastions: open-ssh granted to 10.78.2.2"), "{text}");

    let before = fleet.servers[1].site.audit().len();
    let output = fleet.run(&["--dry-run", "bastions"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "server       b1\n",
        "address      10.78.1.1 port 62201\n",
        "server id    b2\n",
        "addresses    10.78.2.2\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.ends_with("\n\nnothing was sent\n"), "{text}");
    assert_eq!(fleet.servers[1].site.audit().len(), before);
}

#[test]
fn only_simultaneous_knocks_start_threads() {
    let Some(fleet) = Fleet::new(&[Grants], "") else { return };
    let log = fleet.home.path().join("strace");
    for (args, has_threads) in [(&["b1", "open-ssh"][..], false), (&["--all", "b1", "open-ssh"], true)] {
        let mut command = limited("strace");
        command.args(["-f", "-q", "-e", "trace=clone,clone3", "-o"]).arg(&log);
        command.arg(env!("CARGO_BIN_EXE_spa-knock"));
        let output = fleet.client.output(&mut with_home(command, &fleet.home, args));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let calls = fs::read_to_string(&log).unwrap();
        assert_eq!(calls.contains("clone"), has_threads, "{args:?}: {calls}");
    }
}
