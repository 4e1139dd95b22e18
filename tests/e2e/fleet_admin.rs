//! `spa-knockd fleet` and `client --fleet`, with a real etcd on loopback, with TLS and authentication.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use spa_knock_core::knock::Timestamp;
use spa_knock_fleet::client::{KeyRange, Login, RangeRequest, StoreClient};
use spa_knock_fleet::floor;
use spa_knock_fleet::keys::{KeySpace, StoreKey};
use spa_knock_fleet::members::{MemberRecord, OwnRecord};
use zeroize::Zeroizing;

use crate::store_support::certificates::Certificates;
use crate::store_support::etcd::{self, Etcd, SLOW, client_of};
use crate::store_support::knocks::wall;

const SPA_KNOCKD: &str = env!("CARGO_BIN_EXE_spa-knockd");
const PASSWORD: &str = "pass word";
const ID: &str = "gate.example.org";

struct Store {
    members: Vec<Etcd>,
    certificates: Certificates,
    folder: tempfile::TempDir,
}

/// A server's directory, in which its config is.
struct Server(PathBuf);

/// How a command has ended.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Store {
    /// Three members of etcd, without authentication; nothing if there is no etcd here.
    fn new() -> Option<Self> {
        let program = etcd::program()?;
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::create(&folder.path().join("tls"));
        let members = Etcd::three(&program, folder.path(), &certificates);
        let store = Self { members, certificates, folder };
        store.members[0].wait_until_ready(&store.client(None));
        Some(store)
    }

    /// With a fleet whose first member is `b1`, and its join line.
    fn with_fleet() -> Option<(Self, Server, String)> {
        let store = Self::new()?;
        let server = store.server("b1");
        server.create_config();
        let done = store.init(&server, &["--enable-auth"], PASSWORD).succeeded();
        let line = done.out.trim().to_owned();
        Some((store, server, line))
    }

    fn client(&self, user: Option<&str>) -> StoreClient {
        let login =
            user.map(|user| Login { user: user.to_owned(), password: Zeroizing::new(PASSWORD.to_owned()) });
        client_of(&self.members, &self.certificates.identity("client"), login.as_ref())
    }

    fn server(&self, name: &str) -> Server {
        Server(self.folder.path().join(name))
    }

    fn urls(&self) -> String {
        self.members.iter().map(|member| member.url.as_str()).collect::<Vec<_>>().join(",")
    }

    /// The options for TLS, with this certificate.
    fn tls(&self, certificate: &str) -> Vec<String> {
        let file = |name: String| self.certificates.folder.join(name).to_str().unwrap().to_owned();
        let options = [("--ca", "ca.pem".to_owned()), ("--cert", format!("{certificate}.pem"))];
        let options = options.into_iter().chain([("--key", format!("{certificate}.key"))]);
        options.flat_map(|(option, name)| [option.to_owned(), file(name)]).collect()
    }

    fn init(&self, server: &Server, more: &[&str], password: &str) -> Ended {
        self.init_with("client", server, more, password)
    }

    fn init_with(&self, certificate: &str, server: &Server, more: &[&str], password: &str) -> Ended {
        let (tls, urls) = (self.tls(certificate), self.urls());
        let mut args = vec!["fleet", "init", "--name", "prod", "--member", "b1", "--endpoints", &urls];
        args.extend(tls.iter().map(String::as_str));
        args.extend(more);
        server.run(&args, password)
    }

    fn join(&self, server: &Server, more: &[&str], line: &str) -> Ended {
        let tls = self.tls("client");
        let mut args = vec!["fleet", "join"];
        args.extend(tls.iter().map(String::as_str));
        args.extend(more);
        server.run(&args, line)
    }

    /// All keys of the fleet, without its prefix, with their values.
    fn keys(&self) -> BTreeMap<String, Vec<u8>> {
        let space = space();
        let (_, found) = self.client(Some("root")).read_all(&space.everything(), SLOW).unwrap();
        let start = space.everything().start().len();
        found
            .into_iter()
            .map(|found| (String::from_utf8(found.key[start..].to_vec()).unwrap(), found.value))
            .collect()
    }

    fn floor(&self) -> Timestamp {
        floor::parse_value(&self.keys()["floor"]).unwrap()
    }
}

impl Server {
    fn config(&self) -> PathBuf {
        self.0.join("spa-knockd.toml")
    }

    fn run(&self, args: &[&str], input: &str) -> Ended {
        let mut child = Command::new(SPA_KNOCKD)
            .args(args)
            .arg("-c")
            .arg(self.config())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that fails early does not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        Ended { code: output.status.code(), out, err }
    }

    fn create_config(&self) {
        fs::create_dir_all(&self.0).unwrap();
        self.run(&["init", "--id", ID], "").succeeded();
    }

    /// Every file with its content.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        found
    }

    /// The line of the config with the id of the cluster.
    fn cluster(&self) -> String {
        let config = self.text("spa-knockd.toml");
        config.lines().find(|line| line.starts_with("cluster = ")).unwrap().to_owned()
    }

    /// Writes a file of the fleet into the state directory, as the daemon does.
    fn write_state(&self, file: &str, text: &str) {
        let path = self.0.join("state/fleet").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for folder in ["state/fleet", "state/fleet/clients.d", "state/fleet/keys"] {
            let _ = fs::set_permissions(self.0.join(folder), fs::Permissions::from_mode(0o700));
        }
    }

    /// Removes the section `[fleet]`, and the files of the fleet but those for TLS.
    fn leave(&self) {
        let config = self.text("spa-knockd.toml");
        fs::write(self.config(), config.split("\n# Made by `fleet").next().unwrap()).unwrap();
        for file in ["fleet.key", "login", "admin-login"] {
            let _ = fs::remove_file(self.0.join("fleet").join(file));
        }
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }
}

impl Ended {
    fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self
    }

    /// Checks that it has failed with this code, and that the error contains this text and a hint.
    fn failed(&self, code: i32, text: &str) {
        assert!(self.err.contains(text) && self.err.contains("hint: "), "{text}: {}", self.err);
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert!(!self.err.contains(PASSWORD), "the password is printed");
    }
}

fn space() -> KeySpace {
    KeySpace::new(&"prod".parse().unwrap())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_fleet_is_set_up_once_and_another_server_joins_with_the_printed_line() {
    let Some(store) = Store::new() else { return };
    let b1 = store.server("b1");
    store.init(&b1, &["--enable-auth"], PASSWORD).failed(5, "no such file or directory");
    b1.create_config();
    let before = b1.text("spa-knockd.toml");
    let done = store.init(&b1, &["--enable-auth"], PASSWORD).succeeded();
    let line = done.out.trim();
    assert!(line.starts_with("spa-knock-fleet-") && !done.err.contains(line), "{}", done.err);
    assert!(done.err.contains("which is a secret"), "{}", done.err);
    assert!(b1.text("spa-knockd.toml").starts_with(&before), "the rest of the config stays the same");
    assert_eq!(mode(&b1.0.join("fleet")), 0o700);
    for file in ["ca.pem", "cert.pem", "key.pem", "login", "admin-login", "fleet.key"] {
        assert_eq!(mode(&b1.0.join("fleet").join(file)), 0o600, "{file}");
    }
    assert_eq!(store.keys().keys().collect::<Vec<_>>(), ["floor"]);
    assert!(store.floor() < wall(), "a server id that was never used accepts knocks immediately");

    store.init(&b1, &[], PASSWORD).failed(1, "has a section [fleet] already");
    let other = store.server("other");
    other.create_config();
    let before = other.files();
    store.init(&other, &[], PASSWORD).failed(1, "fleet prod: exists already in this store");
    assert_eq!(other.files(), before);

    let b2 = store.server("b2");
    store.join(&b2, &["--member", "b2"], line).succeeded();
    for file in ["fleet.key", "login"] {
        assert_eq!(b2.text(&format!("fleet/{file}")), b1.text(&format!("fleet/{file}")), "{file}");
    }
    assert!(!b2.0.join("fleet/admin-login").exists());
    assert!(b2.text("spa-knockd.toml").contains(&format!("id = \"{ID}\"")));
    store.join(&b2, &["--member", "b3"], line).failed(1, "member b2 of fleet prod already");
    for server in [&b1, &b2] {
        let shown = server.run(&["fleet", "status", "--json"], "").succeeded().out;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!((&shown["fleet"], &shown["went_back"]), (&"prod".into(), &Value::Null));
        assert!(shown["store"].as_array().unwrap().iter().all(|one| one["problem"].is_null()), "{shown}");
    }
    let checked = b2.run(&["check"], "").out;
    assert!(
        checked.contains("fleet: 3 endpoints of the store answer") || checked.contains("problem"),
        "{checked}"
    );
    assert!(!checked.contains("fleet: a trial claim failed"), "{checked}");
    assert!(!checked.contains("fleet: the login of this member can change"), "{checked}");
}

#[test]
fn a_server_that_has_run_alone_refuses_the_knocks_that_it_can_have_accepted() {
    let Some((store, _, line)) = Store::with_fleet() else { return };
    let b2 = store.server("b2");
    b2.create_config();
    fs::write(b2.0.join("state/replay.journal"), "").unwrap();
    let before = wall();
    let done = store.join(&b2, &["--member", "b2"], &line).succeeded();
    assert!(done.err.contains("knocks are accepted in 1m 30s"), "{}", done.err);
    let after = before.plus(std::time::Duration::from_secs(90));
    assert!(store.floor() >= after, "{:?} {after:?}", store.floor());
}

#[test]
fn a_server_whose_daemon_runs_is_neither_set_up_nor_joined() {
    let Some((store, b1, line)) = Store::with_fleet() else { return };
    let b2 = store.server("b2");
    b2.create_config();
    let lock = fs::File::create(b2.0.join("state/lock")).unwrap();
    lock.lock().unwrap();
    let before = b2.files();
    store.join(&b2, &["--member", "b2"], &line).failed(1, "the daemon runs");
    store.init(&b2, &[], PASSWORD).failed(1, "the daemon runs");
    assert_eq!(b2.files(), before);
    drop(lock);
    store.join(&b2, &["--member", "b2"], &line).succeeded();
    // As the daemon does with a client of the fleet that does not reach it.
    let lock = fs::File::open(b1.0.join("state/lock")).or_else(|_| fs::File::create(b1.0.join("state/lock")));
    let lock = lock.unwrap();
    lock.lock().unwrap();
    let added = b1.run(&["client", "add", "c", "--allow", "open-ssh", "--fleet", "--token"], "").succeeded();
    assert!(added.err.contains("the daemon of this server has not received it"), "{}", added.err);
}

/// Writes the record of a live member whose clock is this much behind.
fn publish(store: &Store, member: &str, behind: u64, digest: &str) {
    let record = MemberRecord {
        version: "0.1.0".to_owned(),
        address: "gate.example.org:62201".to_owned(),
        clock: wall().as_millis() - behind * 1_000,
        policy_revision: 7,
        policy_digest: digest.to_owned(),
    };
    let mut own = OwnRecord::new(&space(), &member.parse().unwrap());
    own.publish(&store.client(Some("root")), &record).unwrap();
}

#[test]
fn members_with_a_wrong_clock_or_another_policy_are_reported_and_their_names_are_taken() {
    let Some((mut store, b1, line)) = Store::with_fleet() else { return };
    for (member, behind, digest) in [("b1", 0, "x"), ("b2", 0, "x"), ("b3", 40, "y")] {
        publish(&store, member, behind, digest);
    }
    let listed = b1.run(&["fleet", "members"], "").succeeded().out;
    let line_of = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line_of("b1 (this server)").contains("ok") && line_of("b2").contains("same"), "{listed}");
    assert!(line_of("b3").contains(" s behind") && line_of("b3").contains("differs"), "{listed}");
    let listed = b1.run(&["fleet", "members", "--json"], "").succeeded().out;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let offset = listed[2]["clock_offset_seconds"].as_i64().unwrap();
    assert!((-42..=-38).contains(&offset), "{listed}");
    assert_eq!((&listed[2]["policy_same"], &listed[1]["policy_same"]), (&false.into(), &true.into()));
    let shown = b1.run(&["fleet", "status"], "").succeeded().out;
    assert!(shown.starts_with("fleet prod: 3 members (b3 is "), "{shown}");

    let checked = b1.run(&["check"], "").out;
    for warning in [
        "fleet: the clock of member b3 is off the others' by",
        "fleet: member b3 has other actions, ports or clients than b1",
        // Of etcd 3.4.23.
        "fleet: the store enforces no rights in nested transactions",
    ] {
        let is_old = etcd_is_old();
        assert!(checked.contains(warning) || (!is_old && warning.contains("nested")), "{warning}: {checked}");
    }
    assert!(!checked.contains("member b2 has"), "{checked}");
    let b4 = store.server("b4");
    store.join(&b4, &["--member", "b2"], &line).failed(1, "member b2: is live at gate.example.org:62201");
    assert!(b4.files().is_empty());

    let config = b1.text("spa-knockd.toml");
    let urls: Vec<_> = store.members[1..].iter().map(|member| format!(", \"{}\"", member.url)).collect();
    fs::write(b1.config(), config.replace(&urls.concat(), "")).unwrap();
    let checked = b1.run(&["check"], "").out;
    assert!(checked.contains("fleet: 1 endpoint of the store answers"), "{checked}");
    fs::write(b1.config(), config).unwrap();
    store.members[2].kill();
    let url = store.members[2].url.clone();
    let checked = b1.run(&["check"], "").out;
    assert!(checked.contains("warning: ") && checked.contains(&format!("store {url}: ")), "{checked}");
    assert!(!checked.contains("fleet: a trial claim failed"), "{checked}");
    store.members.iter_mut().for_each(Etcd::kill);
    let checked = b1.run(&["check"], "");
    assert_eq!(checked.code, Some(1), "{}", checked.out);
    let problems = checked.out.split("warning: ").next().unwrap();
    assert!(problems.contains(&format!("fleet: store {url}: ")), "{}", checked.out);
}

/// Whether etcd is older than the release that enforces rights in nested transactions.
fn etcd_is_old() -> bool {
    let Some(program) = etcd::program() else { return false };
    let output = Command::new(program).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap().contains("etcd Version: 3.4.2")
}

#[test]
fn init_changes_nothing_when_a_check_fails() {
    let Some(mut store) = Store::new() else { return };
    let server = store.server("b1");
    server.create_config();
    let before = server.files();
    let auth = ["--enable-auth"];
    let named = store.init_with("named", &server, &auth, PASSWORD);
    named.failed(1, "the client certificate has a CommonName");
    store.init(&server, &[], PASSWORD).failed(1, "the store has no authentication");
    store.init(&server, &auth, "").failed(2, "standard input: empty");
    store
        .init(&server, &["--enable-auth", "--user", "admin"], PASSWORD)
        .failed(2, "etcd demands the user root");
    assert_eq!(server.files(), before);

    // A fleet of another name enables authentication; its administrator must not set up fleets.
    let first = store.server("first");
    first.create_config();
    let (tls, urls) = (store.tls("client"), store.urls());
    let mut args =
        vec!["fleet", "init", "--name", "test", "--member", "a", "--endpoints", &urls, "--enable-auth"];
    args.extend(tls.iter().map(String::as_str));
    first.run(&args, PASSWORD).succeeded();
    store.init(&server, &[], "wrong").failed(1, "password of etcd user root rejected");
    let login = first.text("fleet/admin-login");
    let password = login.lines().nth(1).unwrap().strip_prefix("password: ").unwrap();
    let denied = store.init(&server, &["--user", "spa-knock-test-admin"], password);
    denied.failed(1, "permission denied");
    assert_eq!(server.files(), before);

    fs::create_dir(server.0.join("fleet")).unwrap();
    fs::write(server.0.join("fleet/login"), "").unwrap();
    store.init(&server, &[], PASSWORD).failed(1, "remains from another fleet or an earlier try");
    fs::remove_file(server.0.join("fleet/login")).unwrap();
    store.members.iter_mut().for_each(Etcd::kill);
    store.init(&server, &[], PASSWORD).failed(1, "check that etcd runs");
    assert_eq!(server.files(), before);
    store.members.iter_mut().for_each(Etcd::start);
    store.members[0].wait_until_ready(&store.client(Some("root")));
    store.init(&server, &[], PASSWORD).succeeded();
}

#[test]
fn join_changes_nothing_when_the_line_or_the_config_is_wrong() {
    let Some((mut store, _, line)) = Store::with_fleet() else { return };
    let b2 = store.server("b2");
    let last = if line.ends_with('0') { '1' } else { '0' };
    let typo = format!("{}{last}", &line[..line.len() - 1]);
    for (text, reason) in [
        (typo.as_str(), "join line: checksum"),
        (&line[..line.len() - 3], "join line: length"),
        ("spa-knock-AAAA", "join line: a join line starts with"),
        ("", "standard input: empty"),
    ] {
        store.join(&b2, &["--member", "b2"], text).failed(2, reason);
    }
    store.join(&b2, &["--member", "B 2"], &line).failed(2, "--member: a member name is");
    let without_tls = b2.run(&["fleet", "join", "--member", "b2"], &line);
    without_tls.failed(2, "endpoints with https need certificates");
    let argument = b2.run(&["fleet", "join", &line], "");
    argument.failed(2, "an argument is a join line");
    assert!(!argument.err.contains(&line));
    assert!(b2.files().is_empty(), "{:?}", b2.files().keys());

    let other = store.server("other");
    fs::create_dir(&other.0).unwrap();
    other.run(&["init", "--id", "other.example.org"], "").succeeded();
    let before = other.files();
    store
        .join(&other, &["--member", "b2"], &line)
        .failed(1, "has the server id other.example.org, but the fleet has");
    assert_eq!(other.files(), before);

    store.members.iter_mut().for_each(Etcd::kill);
    store.join(&b2, &["--member", "b2"], &line).failed(1, "check that etcd runs");
    assert!(b2.files().is_empty(), "{:?}", b2.files().keys());
}

#[test]
fn a_client_of_the_fleet_is_added_changed_and_revoked_in_the_store() {
    let Some((store, b1, line)) = Store::with_fleet() else { return };
    let key = b1.0.join("laptop.key");
    let output = key.to_str().unwrap();
    let add = ["client", "add", "laptop", "--allow", "open-ssh", "--uses", "3", "--otp"];
    b1.run(&add, "").failed(2, "does not count for a client that only this server has");
    let added = b1.run(&[&add[..], &["--fleet", "-o", output]].concat(), "").succeeded();
    assert!(added.err.contains("client laptop: changed in the fleet; no daemon runs here"), "{}", added.err);
    let kinds = |store: &Store| {
        let keys = store.keys().into_keys();
        keys.map(|key| key.rsplit_once('/').map_or(key.clone(), |(kind, _)| kind.to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(&store), ["floor", "otp", "policy/client", "uses"]);
    let uses = store.keys().into_iter().find(|(key, _)| key.starts_with("uses/")).unwrap();
    assert_eq!(uses.1, b"0000000000000000");
    let again = b1.run(&[&add[..], &["--fleet", "-o", &format!("{output}.2")]].concat(), "");
    again.failed(1, "client laptop: exists already in the fleet");
    assert!(!b1.0.join("laptop.key.2").exists(), "a key that is not valid is not left");

    let b2 = store.server("b2");
    store.join(&b2, &["--member", "b2"], &line).succeeded();
    let refused = b2.run(&["client", "add", "x", "--allow", "open-ssh", "--fleet", "--token"], "");
    refused.failed(1, "this server has no login of the fleet's administrator");

    let entry = |store: &Store| store.keys()["policy/client/laptop"].clone();
    let serial = |sealed: &[u8]| u64::from_be_bytes(sealed[1..9].try_into().unwrap());
    assert_eq!(serial(&entry(&store)), 1);
    b1.run(&["client", "set", "laptop", "--rate", "5/m", "--fleet"], "").succeeded();
    assert_eq!(serial(&entry(&store)), 2);
    b1.run(&["client", "rotate", "laptop", "--fleet", "--token"], "").succeeded();
    assert_eq!(serial(&entry(&store)), 3);
    b1.run(&["client", "set", "phone", "--rate", "5/m", "--fleet"], "")
        .failed(1, "no such client in the fleet");

    // As the daemon keeps it.
    let state = b1.0.join("state/fleet");
    let definition = "[client.laptop]\nkey = \"laptop.key\"\nallow = [\"open-ssh\"]\n";
    b1.write_state("clients.d/laptop.toml", definition);
    b1.write_state("keys/laptop.key", &b1.text("laptop.key"));
    for change in [&["set", "laptop", "--rate", "1/m"][..], &["rotate", "laptop", "--token"]] {
        b1.run(&[&["client"], change].concat(), "").failed(1, "is a client of the fleet");
    }
    let listed = b1.run(&["client", "list"], "").succeeded().out;
    assert!(listed.contains("laptop (fleet)"), "{listed}");

    let revoked = b1.run(&["client", "revoke", "laptop", "--fleet"], "").succeeded();
    assert!(revoked.err.contains("client laptop: revoked on all members"), "{}", revoked.err);
    // Both keys, in both versions that they can be used in.
    assert_eq!(
        kinds(&store),
        ["floor", "policy/revoked", "policy/revoked", "policy/revoked", "policy/revoked"]
    );
    b1.run(&["client", "revoke", "laptop", "--fleet"], "").failed(1, "no such client in the fleet");
    fs::remove_file(state.join("clients.d/laptop.toml")).unwrap();
    let reused = ["client", "add", "laptop", "--allow", "open-ssh", "--fleet", "--key", output];
    b1.run(&reused, "").failed(5, "was revoked in the fleet");
}

#[test]
fn a_store_that_went_back_is_accepted_only_after_a_confirmation_and_with_a_higher_floor() {
    let Some((store, b1, line)) = Store::with_fleet() else { return };
    let config = b1.text("spa-knockd.toml");
    let cluster = b1.cluster();
    let id = cluster.split('"').nth(1).unwrap();
    let wrong = config.replace(&cluster, "cluster = \"00000000000000ff\"");
    fs::write(b1.config(), &wrong).unwrap();
    fs::create_dir_all(b1.0.join("state/fleet")).unwrap();
    fs::write(b1.0.join("state/fleet/mark"), format!("{id} 00000000000fffff 0000000000000001\n")).unwrap();
    fs::set_permissions(b1.0.join("state/fleet"), fs::Permissions::from_mode(0o700)).unwrap();
    let grant = space().path(&StoreKey::Grant([1; 12]));
    store.client(Some("root")).put(&grant, b"x", 0, SLOW).unwrap();
    let shown = b1.run(&["fleet", "status"], "").succeeded().out;
    assert!(shown.contains("the store is another cluster"), "{shown}");

    let before = store.floor();
    let asked =
        Command::new("setsid").args([SPA_KNOCKD, "fleet", "accept-store", "-c"]).arg(b1.config()).output();
    let text = String::from_utf8(asked.unwrap().stderr).unwrap();
    assert!(text.contains("revision: ") && text.contains("no terminal for a confirmation"), "{text}");
    assert_eq!((b1.text("spa-knockd.toml"), store.floor()), (wrong, before));

    let now = wall();
    let accepted = b1.run(&["fleet", "accept-store", "--yes"], "").succeeded();
    assert!(accepted.err.contains("knocks are accepted in 1m 30s"), "{}", accepted.err);
    assert!(accepted.err.contains("fleet join-line"), "{}", accepted.err);
    assert!(store.floor() >= now.plus(std::time::Duration::from_secs(90)));
    assert!(b1.text("spa-knockd.toml").contains(&cluster));
    let mark = b1.text("state/fleet/mark");
    assert!(mark.starts_with(id) && !mark.contains("fffff"), "{mark}");
    assert!(mark.trim().ends_with(&floor::value(store.floor())), "{mark}");
    let left = RangeRequest::new(KeyRange::one(grant));
    assert!(store.client(Some("root")).range(&left, SLOW).unwrap().kvs.is_empty());
    let shown = b1.run(&["fleet", "status"], "").succeeded().out;
    assert!(!shown.contains("another cluster") && !shown.contains("went back"), "{shown}");
    let again = b1.run(&["fleet", "accept-store", "--yes"], "").succeeded();
    assert!(!again.err.contains("fleet join-line"), "earlier lines are still accepted: {}", again.err);
    assert_eq!(b1.run(&["fleet", "join-line"], "").succeeded().out.trim(), line);
}

#[test]
fn a_member_prints_the_join_line_again_as_its_config_has_it_now() {
    let Some((store, b1, line)) = Store::with_fleet() else { return };
    let printed = b1.run(&["fleet", "join-line"], "").succeeded();
    assert_eq!(printed.out, format!("{line}\n"));
    assert!(printed.err.contains("which is a secret") && !printed.err.contains(&line), "{}", printed.err);
    let b2 = store.server("b2");
    store.join(&b2, &["--member", "b2"], &line).succeeded();
    assert_eq!(b2.run(&["fleet", "join-line"], "").succeeded().out.trim(), line);

    let (config, cluster) = (b1.text("spa-knockd.toml"), b1.cluster());
    fs::write(b1.config(), config.replace(&cluster, "cluster = \"00000000000000ff\"")).unwrap();
    let other = b1.run(&["fleet", "join-line"], "").succeeded().out;
    let b3 = store.server("b3");
    let refused = store.join(&b3, &["--member", "b3"], &other);
    refused.failed(1, "print a new one on a member: spa-knockd fleet join-line");
    fs::write(b1.config(), config.replace(&cluster, "")).unwrap();
    b1.run(&["fleet", "join-line"], "").failed(1, "[fleet] has no cluster");
}

#[test]
fn what_remains_of_an_earlier_fleet_is_removed_by_a_command_that_succeeds() {
    let Some(store) = Store::new() else { return };
    let b1 = store.server("b1");
    b1.create_config();
    let old = |server: &Server| {
        let text = "00000000000000ff 0000000000000005 0000000000000001\n";
        server.write_state("mark", text);
        server.write_state("serials", "9 policy/client/laptop\n");
        server.write_state("clients.d/laptop.toml", "");
    };
    old(&b1);
    let before = b1.files();
    store.init(&b1, &[], PASSWORD).failed(1, "the store has no authentication");
    assert_eq!(b1.files(), before);
    let done = store.init(&b1, &["--enable-auth"], PASSWORD).succeeded();
    assert!(done.err.contains("removed: ") && done.err.contains("with 1 client"), "{}", done.err);
    assert!(!b1.0.join("state/fleet/serials").exists() && !b1.0.join("state/fleet/mark").exists());
    let line = done.out.trim();

    let b2 = store.server("b2");
    b2.create_config();
    old(&b2);
    let joined = store.join(&b2, &["--member", "b2"], line).succeeded();
    assert!(joined.err.contains("removed: "), "{}", joined.err);
    assert!(!b2.0.join("state/fleet/serials").exists());
    // A member that leaves and comes back keeps what it has seen of this fleet.
    let id = b1.cluster().split('"').nth(1).unwrap().to_owned();
    b2.write_state("mark", &format!("{id} 0000000000000005 0000000000000001\n"));
    b2.leave();
    let joined = b2.run(&["fleet", "join", "--member", "b2"], line).succeeded();
    assert!(!joined.err.contains("removed: "), "{}", joined.err);
    assert!(b2.0.join("state/fleet/mark").exists());
}

#[test]
fn the_way_out_of_a_wiped_store_is_printed_and_the_certificates_are_used_again() {
    let Some((store, b1, _)) = Store::with_fleet() else { return };
    store.init(&b1, &[], PASSWORD).failed(1, "shows the fleet; to leave it");
    store.client(Some("root")).delete(space().everything(), SLOW).unwrap();
    let refused = store.init(&b1, &[], PASSWORD);
    refused.failed(1, "the store has nothing of fleet prod");
    for text in ["fleet/fleet.key", "fleet/login", "fleet/admin-login", "remove the section [fleet]"] {
        assert!(refused.err.contains(text), "{text}: {}", refused.err);
    }
    b1.leave();
    let urls = store.urls();
    let args = ["fleet", "init", "--name", "prod", "--member", "b1", "--endpoints", &urls];
    fs::rename(b1.0.join("fleet/key.pem"), b1.0.join("key")).unwrap();
    let partial = b1.run(&args, PASSWORD);
    assert!(partial.code != Some(0) && partial.err.contains("key.pem: no such file"), "{}", partial.err);
    fs::rename(b1.0.join("key"), b1.0.join("fleet/key.pem")).unwrap();
    b1.run(&args, PASSWORD).succeeded();
    assert!(store.keys().contains_key("floor"));
}

#[test]
fn while_the_store_does_not_answer_a_revoked_client_is_refused_on_this_server_alone() {
    let Some((mut store, b1, _)) = Store::with_fleet() else { return };
    let config = b1.text("spa-knockd.toml");
    let config = config.replace("[firewall]\n", "[firewall]\nbackend = \"none\"\n");
    let config = config.replace("protect = [", "# ").replace("for = \"30s\"", "# ");
    let config = config.replace("open = [\"tcp/22\"]", "run = [\"/bin/true\"]");
    fs::write(b1.config(), config).unwrap();
    let output = b1.0.join("laptop.key");
    let add = ["client", "add", "laptop", "--allow", "open-ssh", "--fleet", "-o", output.to_str().unwrap()];
    b1.run(&add, "").succeeded();
    let listed = b1.run(&["client", "list"], "").succeeded();
    assert!(listed.err.contains("clients of the fleet appear when the daemon has started"), "{}", listed.err);
    let checked = b1.run(&["check"], "").out;
    assert!(checked.contains("0 clients (clients of the fleet appear"), "{checked}");
    assert!(!checked.contains("no one can knock"), "{checked}");
    // As the daemon keeps it.
    b1.write_state(
        "clients.d/laptop.toml",
        "[client.laptop]\nkey = \"laptop.key\"\nallow = [\"open-ssh\"]\n",
    );
    b1.write_state("keys/laptop.key", &b1.text("laptop.key"));
    assert!(!b1.run(&["client", "list"], "").succeeded().err.contains("clients of the fleet appear"));

    let revoke = ["client", "revoke", "laptop"];
    let is_refused =
        || fs::read_to_string(b1.0.join("state/revoked")).is_ok_and(|text| text.lines().count() > 1);
    let before = store.keys();
    b1.run(&revoke, "").failed(1, "client laptop: is a client of the fleet; refused on this server only");
    assert!(is_refused());
    fs::remove_file(b1.0.join("state/revoked")).unwrap();
    store.members.iter_mut().for_each(Etcd::kill);
    let revoked = b1.run(&[&revoke[..], &["--fleet"]].concat(), "");
    revoked.failed(1, "client laptop: refused on this server only");
    assert!(revoked.err.contains("client laptop: not revoked in the fleet: store https:"), "{}", revoked.err);
    assert!(is_refused());
    store.members.iter_mut().for_each(Etcd::start);
    store.members[0].wait_until_ready(&store.client(Some("root")));
    assert_eq!(store.keys(), before);
    b1.run(&[&revoke[..], &["--fleet"]].concat(), "").succeeded();
}
