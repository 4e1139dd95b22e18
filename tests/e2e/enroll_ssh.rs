//! Clients whose knocks an SSH key signs: enrolled from public key files and from a user's `authorized_keys`, with keys
//! that ssh-keygen has made and an ssh-agent holds; and what someone can do who copies everything from the server.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use std::{fs, os::unix::fs as unix, os::unix::fs::PermissionsExt};

use serde_json::Value;
use spa_knock_core::crypto::KeyFile;

use crate::net::{Daemon, Lab, Mounts, SERVER_ID, SERVER4, Site, SshAgent, limited, open_ssh, public_key};

/// The user whose keys are enrolled. Exists only in a mount namespace of the test.
const ALICE: u32 = 4_321;

/// Runs `spa-knockd client` with these arguments.
fn client(site: &Site, args: &[&str]) -> Output {
    site.admin(&[&["client"], args].concat()).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Standard output and standard error of a command that must have succeeded.
fn printed(output: &Output) -> (String, String) {
    assert!(output.status.success(), "{}", errors(output));
    (String::from_utf8_lossy(&output.stdout).into_owned(), errors(output))
}

/// Standard error of a command that must have failed with this code.
fn failed(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", errors(output));
    errors(output)
}

/// A knock with this key file and this agent.
fn knock(site: &Site, agent: &SshAgent, key: &Path, args: &[&str]) -> Command {
    let mut command = site.client();
    command.arg("--key").arg(key).arg(SERVER4.to_string()).args(args);
    command.env("SSH_AUTH_SOCK", agent.socket());
    command
}

/// What `ssh-keygen -l` prints for a public key, without its size and comment: fingerprint and kind.
fn listed_by_openssh(public: &Path) -> String {
    let output = Command::new("ssh-keygen").arg("-lf").arg(public).output().unwrap();
    let line = printed(&output).0;
    let words: Vec<_> = line.split_whitespace().collect();
    format!("{} {}", words[1], words.last().unwrap())
}

/// The names of the files of all clients.
fn client_files(site: &Site) -> Vec<String> {
    let mut names = Vec::new();
    for folder in ["keys", "clients.d"] {
        let entries = fs::read_dir(site.path(folder)).into_iter().flatten();
        names.extend(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
    }
    names.sort();
    names
}

#[test]
fn a_key_of_each_kind_is_enrolled_from_its_public_key_file_and_opens_the_port_through_its_agent() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    for kind in ["ed25519", "ecdsa", "ed25519-sk", "ecdsa-sk"] {
        let (agent, public) = SshAgent::with_key(kind);
        let file = public.to_str().unwrap();
        let (token, messages) =
            printed(&client(&site, &["add", kind, "--allow", "open-ssh", "--ssh-key", file, "--token"]));
        assert!(token.starts_with("spa-knock2-") && token.lines().count() == 1, "{token}");
        let openssh = listed_by_openssh(&public);
        let touch = if kind.ends_with("-sk") { ", touch: present" } else { "" };
        assert!(
            messages.contains(&format!("client {kind}: its SSH key signs each knock: {openssh}{touch}\n")),
            "{messages}"
        );
        let (shown, _) = printed(&client(&site, &["show", kind]));
        assert!(shown.contains(&format!("\nssh key: {openssh}{touch}\n")), "{shown}");
        let shown: Value =
            serde_json::from_str(&printed(&client(&site, &["show", kind, "--json"])).0).unwrap();
        let json = [&shown["ssh_key"], &shown["ssh_kind"]].map(|value| value.as_str().unwrap());
        assert_eq!(format!("{} ({})", json[0], json[1]), openssh);

        // The owner saves the token; `import` finds the key in the agent.
        let key = site.path("config/spa-knock").join(format!("{SERVER_ID}.key"));
        let _ = fs::remove_file(&key);
        let mut import = site.client();
        import.arg("import").arg(token.trim()).env("SSH_AUTH_SOCK", agent.socket());
        let (_, messages) = printed(&lab.client.output(&mut import));
        assert!(messages.contains("in the agent; it signs each knock"), "{messages}");
        let text = fs::read_to_string(&key).unwrap();
        assert!(text.starts_with("spa-knock-key: 2\n"), "older clients refuse it");
        printed(&lab.client.output(&mut knock(&site, &agent, &key, &["open-ssh"])));
        assert!(lab.client.reaches(SERVER4, 22));
        lab.client.wait_until_closed(SERVER4, 22);
    }
    let (list, _) = printed(&client(&site, &["list"]));
    assert!(list.contains("SSH KEY") && list.contains("(ECDSA-SK)"), "{list}");
    let check = lab.server.output(&mut site.admin(&["check"]));
    let check = String::from_utf8_lossy(&check.stdout).into_owned() + &errors(&check);
    assert!(check.contains("5 client keys loaded, with an SSH key: 4"), "{check}");
}

#[test]
fn a_public_key_that_cannot_be_used_is_refused_with_the_reason_and_nothing_changes() {
    let Some(_lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let agent = SshAgent::new();
    let [plain, rsa, fido] = ["ed25519", "rsa", "ed25519-sk"].map(|kind| agent.generate(kind, kind));
    let private = agent.path("ed25519");
    let two = agent.path("two.pub");
    fs::write(&two, [&plain, &fido].map(|path| fs::read_to_string(path).unwrap()).concat()).unwrap();
    let line = agent.path("line.pub");
    fs::write(&line, format!("restrict {}", fs::read_to_string(&plain).unwrap())).unwrap();
    let url = PathBuf::from("https://example.org/id_ed25519.pub");
    let text = PathBuf::from("ssh-ed25519 AAAA");
    let before = client_files(&site);
    let add = |args: &[&str]| client(&site, &[&["add", "phone", "--allow", "open-ssh"], args].concat());
    for (file, args, code, reason) in [
        (&private, &[][..], 5, "is a private key, which must stay with its owner\nhint: use its public key"),
        (&rsa, &[], 5, "this kind of key cannot sign knocks"),
        (&two, &[], 5, "has more than one key\nhint: pass one key; --ssh-keys-of USER"),
        (&site.path("none.pub"), &[], 5, "no such file or directory\nhint: name a file with a public key"),
        (&url, &[], 5, "no such file or directory\nhint: --ssh-key takes a file: fetch the key first"),
        (&text, &[], 5, "no such file or directory\nhint: --ssh-key takes a file; `-` reads the key"),
        (&line, &[], 5, "is a line of authorized_keys: options precede the key\nhint: remove the options"),
        (&plain, &["--touch", "pin"], 5, "(ED25519) is not a FIDO key"),
        (&plain, &["--touch", "present"], 5, "(ED25519) is not a FIDO key"),
        (&fido, &["--touch", "finger"], 2, "write present or pin"),
        (&plain, &["--ssh-keys-of", "root"], 2, "cannot be used with"),
    ] {
        let output = add(&[&["--ssh-key", file.to_str().unwrap()], args].concat());
        let text = failed(&output, code);
        assert!(text.contains(reason), "{file:?}: {text}");
        let secret = fs::read_to_string(&private).unwrap();
        assert!(!text.contains(secret.lines().nth(1).unwrap()) && output.stdout.is_empty());
    }
    failed(&add(&["--touch", "pin"]), 2);
    assert_eq!(client_files(&site), before);

    // From standard input, with a PIN, and written to a file.
    let mut command = site.admin(&["client", "add", "phone", "--allow", "open-ssh", "--touch", "pin"]);
    command.args(["--ssh-key", "-", "-o"]).arg(site.path("phone.key"));
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let line = format!("# mine\n{}", fs::read_to_string(&fido).unwrap());
    child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    let (_, messages) = printed(&child.wait_with_output().unwrap());
    assert!(messages.contains(", touch: pin\n"), "{messages}");
    let written = fs::read_to_string(site.path("clients.d/phone.toml")).unwrap();
    assert!(
        written.contains(&format!("\npublic_key = \"{}\"\ntouch = \"pin\"\n", public_key(&fido))),
        "{written}"
    );
    let same = ["--if-missing", "--touch", "pin", "--ssh-key", fido.to_str().unwrap()];
    assert!(printed(&add(&same)).1.contains("unchanged"));
    let other = add(&["--if-missing", "--ssh-key", plain.to_str().unwrap()]);
    let text = failed(&other, 1);
    assert!(text.contains("client phone: exists already, its SSH key: SHA256:"), "{text}");
    assert!(text.contains("\nhint: to replace its keys: "), "{text}");
    let text = failed(&add(&["--if-missing"]), 1);
    assert!(text.contains("\nhint: to require this SSH key, name it: --ssh-key FILE.pub"), "{text}");

    // A key that cannot ask for a PIN does not replace one that must.
    let text = failed(&client(&site, &["rotate", "phone", "--ssh-key", plain.to_str().unwrap()]), 5);
    assert!(text.contains("client phone: has touch = \"pin\", but SHA256:"), "{text}");
    assert!(text.contains("; or remove `touch` from ") && text.contains("phone.toml, then repeat"), "{text}");
    fs::write(site.path("clients.d/phone.toml"), written.replace("\"pin\"", "\"present\"")).unwrap();
    printed(&client(&site, &["rotate", "phone", "--ssh-key", plain.to_str().unwrap(), "--token"]));
    let rotated = fs::read_to_string(site.path("clients.d/phone.toml")).unwrap();
    assert!(!rotated.contains("\ntouch = "), "only FIDO keys have one: {rotated}");
}

/// A user with a home directory, known only in a mount namespace.
struct User {
    mounts: Mounts,
    home: PathBuf,
}

impl User {
    fn new(site: &Site) -> Self {
        let home = site.path("home");
        let ssh = home.join(".ssh");
        fs::create_dir_all(&ssh).unwrap();
        for folder in [&home, &ssh] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
            unix::chown(folder, Some(ALICE), Some(ALICE)).unwrap();
        }
        let passwd = site.path("passwd");
        let line = format!("alice:x:{ALICE}:{ALICE}::{}:/bin/sh\n", home.display());
        fs::write(&passwd, fs::read_to_string("/etc/passwd").unwrap() + &line).unwrap();
        let mounts = Mounts::new();
        mounts.mount(&["--bind", passwd.to_str().unwrap()], Path::new("/etc/passwd"));
        Self { mounts, home }
    }

    fn keys(&self) -> PathBuf {
        self.home.join(".ssh/authorized_keys")
    }

    fn authorize(&self, text: &str) {
        fs::write(self.keys(), text).unwrap();
        fs::set_permissions(self.keys(), fs::Permissions::from_mode(0o600)).unwrap();
        unix::chown(self.keys(), Some(ALICE), Some(ALICE)).unwrap();
    }

    /// Runs `spa-knockd client add NAME --allow open-ssh --ssh-keys-of alice` and these arguments.
    fn enroll(&self, site: &Site, name: &str, args: &[&str]) -> Output {
        let [nsenter, mounts] = self.mounts.nsenter();
        let mut command = limited(&nsenter);
        command.arg(mounts).arg(Daemon::PROGRAM).args(["client", "add", name, "--allow", "open-ssh"]);
        command.args(["--ssh-keys-of", "alice", "-c"]).arg(site.path("spa-knockd.toml")).args(args);
        command.output().unwrap()
    }
}

#[test]
fn each_usable_key_of_a_user_becomes_a_client_with_the_limits_of_its_line() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let agent = SshAgent::new();
    let kinds = ["ed25519", "ecdsa", "rsa", "ed25519-sk"];
    let [first, second, rsa, fido] = kinds.map(|kind| agent.generate(kind, kind));
    agent.add("ed25519", &[]);
    agent.add("ecdsa", &[]);
    let [one, two, three, four] =
        [&first, &second, &rsa, &fido].map(|path| fs::read_to_string(path).unwrap());
    let user = User::new(&site);
    user.authorize(&format!(
        "# alice\n\nrestrict,pty {one}from=\"192.0.2.1\" {one}{three}expiry-time=\"20200101\" {two}\
         no-touch-required {four}environment=\"A=\\\"b c\\\"\",expiry-time=\"20990131Z\" {two}verify-required {four}{one}"
    ));
    let (tokens, messages) =
        printed(&user.enroll(&site, "alice", &["--token", "--source", "exact,observed"]));
    let place = user.keys();
    let place = place.display();
    for (line, reason) in [
        (4, "option from is not supported for knocks"),
        (5, "this kind of key cannot sign knocks"),
        (6, "the key has expired"),
        (7, "option no-touch-required: a knock with a FIDO key always needs a touch"),
        (10, "the same key as in line 3"),
    ] {
        assert!(messages.contains(&format!("skipped: {place} line {line}: {reason}")), "{messages}");
    }
    assert_eq!(messages.matches("skipped: ").count(), 5, "{messages}");
    let names = ["alice-1", "alice-2", "alice-3"];
    let expected = [
        (&first, "expires: never", ""),
        (&second, "expires: 2099-01-31", ""),
        (&fido, "expires: never", ", touch: pin"),
    ];
    assert_eq!(tokens.lines().count(), 3);
    for ((name, token), (public, expires, touch)) in names.iter().zip(tokens.lines()).zip(expected) {
        let Ok(key) = KeyFile::from_token(token) else { panic!("{token}") };
        assert_eq!(key.client.unwrap().as_str(), *name);
        assert_eq!(key.ssh_key, Some(public_key(public).fingerprint()));
        let (shown, _) = printed(&client(&site, &["show", name]));
        assert!(shown.contains(&format!("\nssh key: {}{touch}\n", listed_by_openssh(public))), "{shown}");
        assert!(shown.contains(expires), "{shown}");
    }
    // Two of the keys are in the agent.
    for token in tokens.lines().take(2) {
        let key = site.path("one.key");
        let Ok(file) = KeyFile::from_token(token) else { panic!("{token}") };
        fs::write(&key, file.to_text().as_bytes()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        printed(&lab.client.output(&mut knock(&site, &agent, &key, &["open-ssh"])));
        fs::remove_file(&key).unwrap();
    }
    assert!(lab.client.reaches(SERVER4, 22));
    // It was read once: a later change has no effect.
    user.authorize("");
    let (shown, _) = printed(&client(&site, &["list", "--json"]));
    assert_eq!(shown.matches("SHA256:").count(), 3, "{shown}");

    // A single key becomes a client of the name itself, whose key can be written to a file.
    user.authorize(&format!("{two}\nnot a key\n"));
    let file = site.path("bob.key");
    let (keys, messages) = printed(&user.enroll(&site, "bob", &["-o", file.to_str().unwrap()]));
    assert!(keys.is_empty() && messages.contains("client bob: added"), "{messages}");
    printed(&lab.client.output(&mut knock(&site, &agent, &file, &["open-ssh"])));
}

#[test]
fn keys_of_a_user_are_added_completely_or_not_at_all() {
    let Some(_lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    fs::create_dir(site.path("clients.d")).unwrap();
    let agent = SshAgent::new();
    let [one, two] = ["ed25519", "ecdsa"].map(|kind| fs::read_to_string(agent.generate(kind, kind)).unwrap());
    let user = User::new(&site);
    let before = client_files(&site);
    let unchanged = |output: &Output, code, reason: &str| {
        let text = failed(output, code);
        assert!(text.contains(reason), "{text}");
        assert!(output.stdout.is_empty(), "no key is printed");
        assert_eq!(client_files(&site), before, "{text}");
    };
    let missing = "authorized_keys: no such file or directory";
    unchanged(&user.enroll(&site, "alice", &[]), 5, missing);
    user.authorize(&format!("# none\nfrom=\"192.0.2.1\" {one}cert-authority {two}"));
    unchanged(&user.enroll(&site, "alice", &[]), 5, "authorized_keys can sign knocks; nothing was changed");

    // Someone else can change or replace it.
    user.authorize(&format!("{one}{two}"));
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (path, changed, right) in [
        (user.keys(), 0o620, 0o600),
        (user.home.join(".ssh"), 0o777, 0o755),
        (user.home.clone(), 0o775, 0o755),
    ] {
        mode(&path, changed);
        unchanged(
            &user.enroll(&site, "alice", &[]),
            5,
            &format!("mode {changed:04o} allows others to change it"),
        );
        mode(&path, right);
        unix::chown(&path, Some(1), None).unwrap();
        let reason = format!("belongs to user 1, not to user {ALICE} or root\nhint: chown {ALICE} ");
        unchanged(&user.enroll(&site, "alice", &[]), 5, &reason);
        unix::chown(&path, Some(ALICE), None).unwrap();
    }

    // Of two clients, one cannot be added.
    unchanged(&user.enroll(&site, &"a".repeat(31), &[]), 2, "choose a shorter name");
    unchanged(&user.enroll(&site, "alice", &["-o", "key"]), 2, "user alice has 2 keys that can sign knocks");
    fs::write(site.path("keys/alice-2.key"), "").unwrap();
    let text = failed(&user.enroll(&site, "alice", &[]), 1);
    assert!(text.contains("alice-2.key remains from an earlier client"), "{text}");
    fs::remove_file(site.path("keys/alice-2.key")).unwrap();
    assert_eq!(client_files(&site), before);
    // The keys are written, but not the definitions.
    let folder = site.path("clients.d");
    user.mounts.mount(&["--bind", folder.to_str().unwrap()], &folder);
    user.mounts.mount(&["-o", "remount,bind,ro"], &folder);
    unchanged(&user.enroll(&site, "alice", &[]), 1, "read-only file system");
    user.mounts.run("umount", &[folder.to_str().unwrap()]);

    // The files of root are trusted, as are its links.
    unix::chown(user.keys(), Some(0), Some(0)).unwrap();
    let (keys, messages) = printed(&user.enroll(&site, "alice", &[]));
    assert_eq!(keys.matches("spa-knock-key: 2\nkind: pair\nclient: alice-").count(), 2, "{keys}");
    assert!(messages.contains("clients alice-1, alice-2: no daemon"), "{messages}");
}

#[test]
fn a_second_run_for_a_user_changes_nothing_or_adds_only_the_keys_without_a_client() {
    let Some(_lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let agent = SshAgent::new();
    let [one, two, three] = ["ed25519", "ecdsa", "ed25519-sk"]
        .map(|kind| fs::read_to_string(agent.generate(kind, kind)).unwrap());
    let user = User::new(&site);
    let keys_of = |name: &str, args: &[&str], expected: &[&str]| {
        let (keys, messages) = printed(&user.enroll(&site, name, args));
        let added: Vec<_> = keys.lines().filter_map(|line| line.strip_prefix("client: ")).collect();
        assert_eq!(added, expected, "{messages}");
        messages
    };
    let unchanged = |name: &str, args: &[&str], reason: &str| {
        let before = client_files(&site);
        let output = user.enroll(&site, name, args);
        let text = failed(&output, 1);
        assert!(text.contains(reason), "{text}");
        assert!(output.stdout.is_empty(), "no key is printed");
        assert_eq!(client_files(&site), before, "{text}");
    };
    user.authorize(&format!("{one}{two}"));
    keys_of("alice", &[], &["alice-1", "alice-2"]);
    let both = "clients alice-1, alice-2: exist already; nothing was changed\nhint: --if-missing adds only the keys of alice";
    unchanged("alice", &[], both);
    let before = client_files(&site);
    let messages = keys_of("alice", &["--if-missing"], &[]);
    for name in ["alice-1", "alice-2"] {
        assert!(messages.contains(&format!("client {name}: unchanged (exists already)\n")), "{messages}");
    }
    assert_eq!(client_files(&site), before);

    // A key belongs to a client wherever its line is; another one gets the next name.
    user.authorize(&format!("{three}{two}{one}"));
    unchanged("alice", &[], both);
    keys_of("alice", &["--if-missing"], &["alice-3"]);
    user.authorize(&format!("verify-required {three}"));
    let hint = "its SSH key: SHA256:";
    unchanged("alice", &["--if-missing"], hint);
    unchanged("alice", &["--if-missing"], "\nhint: set `touch = \"pin\"` in ");

    // The only key of a user has the name itself.
    user.authorize(&one);
    keys_of("bob", &["--if-missing"], &["bob"]);
    unchanged("bob", &[], "client bob: exists already; nothing was changed\n");
    user.authorize(&format!("{one}{two}"));
    unchanged("bob", &[], "client bob: exists already; nothing was changed\n");
    let file = site.path("bob-2.key");
    keys_of("bob", &["--if-missing", "-o", file.to_str().unwrap()], &[]);
    assert!(fs::read_to_string(file).unwrap().contains("\nclient: bob-2\n"));
}

#[test]
fn a_client_with_a_root_key_keeps_it_when_its_ssh_key_changes() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let (agent, first) = SshAgent::with_key("ed25519");
    let second = agent.generate("second", "ed25519-sk");
    agent.add("second", &[]);
    let [root, pair] = ["root.key", "pair.key"].map(|name| site.path(name));
    printed(&site.client().args(["keygen", "-o"]).arg(&root).output().unwrap());
    let mut derive = site.client();
    let derived = derive.args(["derive", "--server-id", SERVER_ID, "--key"]).arg(&root).output().unwrap();
    fs::write(&pair, printed(&derived).0).unwrap();
    fs::set_permissions(&pair, fs::Permissions::from_mode(0o600)).unwrap();
    let with_pair = |command: &str, args: &[&str]| {
        let key = ["--key", pair.to_str().unwrap()];
        client(&site, &[&[command, "phone"], &key, args].concat())
    };
    let knock = |signer: Option<&Path>| {
        let mut command = knock(&site, &agent, &root, &["open-ssh", "--server-id", SERVER_ID]);
        command.args(["--timeout", "1s"]);
        if let Some(signer) = signer {
            command.arg("--sign").arg(signer);
        }
        lab.client.output(&mut command)
    };
    printed(&with_pair("add", &["--allow", "open-ssh"]));
    printed(&knock(None));

    let entry = || fs::read_to_string(site.path("clients.d/phone.toml")).unwrap();
    let unchanged = |args: &[&str], code, reason: &str| {
        let before = (client_files(&site), entry());
        let text = failed(&with_pair("rotate", args), code);
        assert!(text.contains(reason), "{text}");
        assert_eq!((client_files(&site), entry()), before, "{text}");
    };
    let [one, two] = [&first, &second].map(|path| path.to_str().unwrap());
    unchanged(
        &[],
        5,
        "client phone: has this key already\nhint: to keep it and set another SSH key, add --ssh-key",
    );
    let overlap = "--overlap: not possible for a client that keeps its key";
    unchanged(&["--ssh-key", one, "--overlap", "1h"], 2, overlap);

    let (_, text) = printed(&with_pair("rotate", &["--ssh-key", one]));
    assert!(
        text.starts_with("client phone: keeps its key; knocks without a signature are refused\n"),
        "{text}"
    );
    assert!(
        text.contains("signs each knock from now on: SHA256:") && text.contains("\nhint: its owner"),
        "{text}"
    );
    failed(&knock(None), 3);
    printed(&knock(Some(&first)));
    unchanged(&["--ssh-key", one], 5, "client phone: has this key already");
    unchanged(&["--ssh-key", two, "--overlap", "1h"], 2, overlap);

    let (_, text) = printed(&with_pair("rotate", &["--ssh-key", two, "--overlap", "0s"]));
    assert!(text.contains("keeps its key; knocks of its previous SSH key are refused: SHA256:"), "{text}");
    let text = failed(&knock(Some(&first)), 1);
    assert!(text.contains("signature refused (signature)"), "{text}");
    lab.client.wait_until_closed(SERVER4, 22);
    printed(&knock(Some(&second)));
    assert!(lab.client.reaches(SERVER4, 22));
    assert!(!entry().contains("previous"), "{}", entry());
    let files = client_files(&site);
    assert_eq!(files.iter().filter(|name| name.starts_with("phone")).count(), 2, "{files:?}");

    // Another client cannot have the secret.
    let key = ["--key", pair.to_str().unwrap(), "--ssh-key", one];
    printed(&client(&site, &["add", "tablet", "--allow", "open-ssh"]));
    let text = failed(&client(&site, &[&["rotate", "tablet"], &key[..]].concat()), 5);
    assert!(text.contains("client phone already uses this secret"), "{text}");
    let stdin = ["rotate", "phone", "--key", "-", "--ssh-key", "-"];
    assert!(failed(&client(&site, &stdin), 2).contains("only one of them can be standard input"));
}

#[test]
fn a_client_that_gets_an_ssh_key_is_refused_without_a_signature_immediately_and_keeps_its_grants() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let (agent, public) = SshAgent::with_key("ed25519");
    let other = agent.generate("other", "ecdsa");
    agent.add("other", &[]);
    let [public, other] = [&public, &other].map(|path| path.to_str().unwrap());
    let [first, second, third, fourth] = [1, 2, 3, 4].map(|number| site.path(&format!("{number}.key")));
    let output = |file: &Path| ["-o".to_owned(), file.to_str().unwrap().to_owned()];
    let run = |args: &[&str], file: &Path| {
        let output = output(file);
        client(&site, &[args, &[&output[0], &output[1]]].concat())
    };
    printed(&run(&["add", "phone", "--allow", "open-ssh"], &first));
    printed(&lab.client.output(&mut knock(&site, &agent, &first, &["open-ssh"])));

    let text = failed(&run(&["rotate", "phone", "--ssh-key", public, "--overlap", "1h"], &second), 2);
    assert!(text.contains("--overlap: not possible for a client that gets its first SSH key"), "{text}");
    assert!(!second.exists());
    let (_, text) = printed(&run(&["rotate", "phone", "--ssh-key", public], &second));
    assert!(text.contains("the previous one is no longer valid\n"), "{text}");
    let is_silent = |key: &Path| {
        let args = ["open-ssh", "--timeout", "700ms"];
        failed(&lab.client.output(&mut knock(&site, &agent, key, &args)), 3);
    };
    is_silent(&first);
    assert!(lab.client.reaches(SERVER4, 22), "a reload keeps the grants of clients with a new key");
    printed(&lab.client.output(&mut knock(&site, &agent, &second, &["open-ssh"])));

    // With the same SSH key or another one, the previous pair secret stays valid for a time, with its own SSH key.
    let valid = |keys: &[&Path]| {
        for key in keys {
            printed(&lab.client.output(&mut knock(&site, &agent, key, &["open-ssh"])));
        }
    };
    printed(&run(&["rotate", "phone"], &third));
    valid(&[&second, &third]);
    let (_, text) = printed(&run(&["rotate", "phone", "--ssh-key", other], &fourth));
    assert!(text.contains("signs each knock from now on: SHA256:") && text.contains("(ECDSA)"), "{text}");
    valid(&[&third, &fourth]);
    is_silent(&second);
    let (shown, _) = printed(&client(&site, &["show", "phone"]));
    assert!(
        shown.contains(", with the SSH key SHA256:") && shown.contains("(ED25519), valid until"),
        "{shown}"
    );
    printed(&run(&["rotate", "phone", "--overlap", "0s"], &first.with_extension("last")));
    is_silent(&fourth);
    assert!(printed(&client(&site, &["show", "phone"])).0.contains("(ECDSA)\n"), "the SSH key is kept");
}

#[test]
fn a_derived_key_is_enrolled_only_with_the_ssh_key_that_its_owner_chose() {
    let Some(_lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let agent = SshAgent::new();
    let [own, other] = ["own", "other"].map(|name| agent.generate(name, "ed25519"));
    let own_private = agent.path("own").display().to_string();
    let key = site.key_file_for(&public_key(&own));
    // `laptop` has this secret already.
    let text = fs::read_to_string(&key).unwrap();
    let add = |args: &[&str]| {
        let key = key.to_str().unwrap();
        client(&site, &[&["add", "phone", "--allow", "open-ssh", "--key", key], args].concat())
    };
    let [own, other] = [&own, &other].map(|path| path.to_str().unwrap());
    let message = failed(&add(&["--ssh-key", own]), 5);
    assert!(message.contains("client laptop already uses this secret"), "{message}");
    let message = failed(&client(&site, &["add", "phone", "--allow", "open-ssh", "--key", &own_private]), 5);
    assert!(message.contains("is an SSH key, not a key of spa-knock\nhint: for the SSH key"), "{message}");
    let fresh = text.lines().map(|line| match line.starts_with("secret: ") {
        true => "secret: AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n".to_owned(),
        false => format!("{line}\n"),
    });
    fs::write(&key, fresh.collect::<String>()).unwrap();
    for args in [&[][..], &["--ssh-key", other]] {
        let message = failed(&add(args), 5);
        assert!(
            message.contains("which must sign its knocks\nhint: pass this key's public key file"),
            "{message}"
        );
    }
    assert_eq!(printed(&add(&["--ssh-key", own])).0, "");
    // An entry that has lost the line gets no key whose secret is enough.
    let entry = site.path("clients.d/phone.toml");
    let text = fs::read_to_string(&entry).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("public_key"));
    fs::write(&entry, lines.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let message = failed(&client(&site, &["rotate", "phone"]), 5);
    assert!(
        message.contains("but the client has no public_key\nhint: pass this key's public key file"),
        "{message}"
    );
    printed(&client(&site, &["rotate", "phone", "--ssh-key", own]));
    assert!(fs::read_to_string(&entry).unwrap().contains("public_key = "));
}

#[test]
fn a_copy_of_keys_and_config_opens_nothing_and_uses_nothing_up() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", "");
    let ran = site.path("ran");
    let rest = format!(
        "[firewall]\nprotect = [\"tcp/22\"]\n[action.open-ssh]\nopen = [\"tcp/22\"]\nfor = \"5s\"\n\
         [action.open-web]\nopen = [\"tcp/80\"]\nfor = \"5s\"\n[action.close]\nclose = \"open-ssh\"\n\
         [action.run]\nrun = [\"/usr/bin/touch\", \"{}\"]\n[ports]\nlow = 20480\n",
        ran.display()
    );
    site.write_config("", &rest);
    fs::remove_file(site.key_path("laptop")).unwrap();
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    let agent = SshAgent::new();
    let kinds = ["ed25519", "ecdsa", "ed25519-sk"];
    let actions = ["open-ssh", "open-web", "close", "run"];
    let owner = |kind: &str| site.path(&format!("{kind}.owner"));
    for kind in kinds {
        let public = agent.generate(kind, kind);
        agent.add(kind, &[]);
        let (file, public) = (owner(kind), public.to_str().unwrap().to_owned());
        let args = ["add", kind, "--allow", &actions.join(","), "--uses", "1", "--ssh-key", &public];
        printed(&client(&site, &[&args[..], &["-o", file.to_str().unwrap()]].concat()));
    }
    // The thief has all files, a key of their own, and no agent of the clients.
    let loot = site.path("loot");
    let copied = Command::new("cp").arg("-a").arg(site.path("keys")).arg(&loot).status().unwrap();
    assert!(copied.success());
    let (thief, public) = SshAgent::with_key("ed25519");
    for kind in kinds {
        let Ok(mut key) = KeyFile::parse(&fs::read_to_string(loot.join(format!("{kind}.key"))).unwrap())
        else {
            panic!("{kind}")
        };
        let [one, two] = ["one", "two"].map(|name| loot.join(name));
        key.ssh_key = None;
        fs::write(&one, key.to_text().as_bytes()).unwrap();
        key.ssh_key = Some(public_key(&public).fingerprint());
        fs::write(&two, key.to_text().as_bytes()).unwrap();
        for file in [&one, &two] {
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        for action in actions {
            for source in ["auto", "observed"] {
                let args = [action, "--timeout", "400ms", "--source", source];
                // A knock of version 1 gets no reply at all; one that another key signed is refused.
                failed(&lab.client.output(&mut knock(&site, &thief, &one, &args)), 3);
                let text = failed(&lab.client.output(&mut knock(&site, &thief, &two, &args)), 1);
                assert!(text.contains("signature refused (signature)"), "{text}");
            }
        }
        let args = ["open-ssh", "--ports", "--timeout", "400ms"];
        let _ = lab.client.output(&mut knock(&site, &thief, &one, &args));
    }
    assert!(!lab.client.reaches(SERVER4, 22) && !ran.exists());
    assert_eq!(site.audit_of("granted").len() + site.audit_of("done").len(), 0, "{:?}", site.audit());
    assert!(printed(&site.admin(&["grants"]).output().unwrap()).0.lines().count() <= 1);
    for kind in kinds {
        let (shown, _) = printed(&client(&site, &["show", kind]));
        assert!(shown.contains("uses: 0 of 1 used"), "{shown}");
        printed(&lab.client.output(&mut knock(&site, &agent, &owner(kind), &["open-ssh"])));
        assert!(lab.client.reaches(SERVER4, 22));
        // Nor can the thief close what the client has opened.
        let args = ["close", "--timeout", "400ms"];
        failed(&lab.client.output(&mut knock(&site, &thief, &loot.join("one"), &args)), 3);
        failed(&lab.client.output(&mut knock(&site, &thief, &loot.join("two"), &args)), 1);
        assert!(lab.client.reaches(SERVER4, 22));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!daemon.log().contains("panicked"));
}
