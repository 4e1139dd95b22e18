//! Knocks that an SSH key signs: keys in a real ssh-agent, and what the client does without a signature.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::{
    CLIENT4, CLIENT6, Counter, Daemon, Lab, NatLab, ROUTER4, SERVER_ID, SERVER4, SERVER6, SigningCounter,
    Site, SshAgent, limited, open_ssh, public_key,
};

/// A knock at `server` with this key file.
fn knock(site: &Site, agent: &SshAgent, key: &Path, server: IpAddr, args: &[&str]) -> Command {
    let mut command = site.client();
    command.arg("--key").arg(key).arg(server.to_string()).arg("open-ssh").args(args);
    command.env("SSH_AUTH_SOCK", agent.socket());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn granted(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(output));
    text(output)
}

fn failed(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
    text(output)
}

#[test]
fn a_key_of_each_kind_in_an_agent_opens_the_port() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for (kind, name) in [
        ("ed25519", None),
        ("ecdsa", None),
        ("ed25519-sk", Some("ED25519-SK")),
        ("ecdsa-sk", Some("ECDSA-SK")),
    ] {
        let (agent, public) = SshAgent::with_key(kind);
        let site = Site::new("", &open_ssh(2));
        let key = site.sign_with("", &open_ssh(2), &public);
        let _daemon = Daemon::start(&lab.server, &site);
        assert!(!lab.client.reaches(SERVER4, 22));
        let printed = granted(&lab.client.output(&mut knock(&site, &agent, &key, SERVER4, &[])));
        assert!(lab.client.reaches(SERVER4, 22), "{kind}");
        let fingerprint = public_key(&public).fingerprint();
        let expected =
            name.map(|name| format!("spa-knock: Confirm user presence for key {name} {fingerprint}\n"));
        assert_eq!(printed.contains("Confirm user presence"), name.is_some(), "{printed}");
        assert!(printed.contains(&expected.unwrap_or_default()), "{printed}");
        // No key file, no agent: one of them alone is not enough.
        let mut without_agent = knock(&site, &agent, &key, SERVER4, &[]);
        failed(&lab.client.output(without_agent.env_remove("SSH_AUTH_SOCK")), 5);
        let unsigned = site.key_path("laptop");
        failed(&lab.client.output(&mut knock(&site, &agent, &unsigned, SERVER4, &["--timeout", "500ms"])), 3);
        lab.client.wait_until_closed(SERVER4, 22);
    }
}

#[test]
fn a_public_key_file_selects_the_key_and_a_private_key_is_not_read() {
    let Some(lab) = Lab::new() else { return };
    let (agent, public) = SshAgent::with_key("ed25519");
    let other = agent.generate("other", "ed25519");
    let site = Site::new("", &open_ssh(2));
    let signed = site.sign_with("", &open_ssh(2), &public);
    let _daemon = Daemon::start(&lab.server, &site);
    // A key file for servers of both versions names no key.
    let plain = site.key_path("laptop");
    let private = agent.path("id");
    fs::remove_file(&private).unwrap();
    fs::create_dir(&private).unwrap();
    for file in [&public, &private] {
        let args = ["--sign", file.to_str().unwrap()];
        for key in [&plain, &signed] {
            granted(&lab.client.output(&mut knock(&site, &agent, key, SERVER4, &args)));
        }
    }
    granted(&lab.client.output(&mut knock(&site, &agent, &signed, SERVER4, &["--sign", "agent"])));

    let args = ["--sign", other.to_str().unwrap()];
    let printed = failed(&lab.client.output(&mut knock(&site, &agent, &signed, SERVER4, &args)), 5);
    let keys = [&public, &other].map(|path| public_key(path).fingerprint().to_string());
    assert!(keys.iter().all(|key| printed.contains(key)), "{printed}");
    let printed =
        failed(&lab.client.output(&mut knock(&site, &agent, &plain, SERVER4, &["--sign", "agent"])), 5);
    assert!(printed.contains("has no line `ssh-key: SHA256:…`"), "{printed}");
    let printed = failed(&lab.client.output(&mut knock(&site, &agent, &signed, SERVER4, &["--ports"])), 2);
    assert!(printed.contains("--ports: a port sequence cannot carry the signature"), "{printed}");
}

#[test]
fn a_profile_sets_the_key_and_the_agent() {
    let Some(lab) = Lab::new() else { return };
    let (agent, public) = SshAgent::with_key("ed25519");
    let site = Site::new("", &open_ssh(2));
    site.sign_with("", &open_ssh(2), &public);
    let _daemon = Daemon::start(&lab.server, &site);
    let profile = site.path("profile.toml");
    fs::write(
        &profile,
        format!(
            "[server.home]\naddress = \"{SERVER4}\"\naction = \"open-ssh\"\nkey = \"keys/laptop.key\"\nsign = \"{}\"\nagent = \"{}\"\n",
            public.display(),
            agent.socket().display()
        ),
    )
    .unwrap();
    let mut command = site.client();
    command.arg("--config").arg(&profile).arg("home").env("SSH_AUTH_SOCK", "/nonexistent");
    granted(&lab.client.output(&mut command));
}

#[test]
fn without_a_signature_nothing_is_sent_and_the_exit_code_is_5() {
    let Some(lab) = Lab::new() else { return };
    let (agent, public) = SshAgent::with_key("ed25519");
    let site = Site::new("", &open_ssh(2));
    let key = site.sign_with("", &open_ssh(2), &public);
    let arrived = Counter::new(&lab.server);
    let run = || lab.client.output(&mut knock(&site, &agent, &key, SERVER4, &[]));

    let mut unset = knock(&site, &agent, &key, SERVER4, &[]);
    let printed = failed(&lab.client.output(unset.env_remove("SSH_AUTH_SOCK")), 5);
    assert!(printed.contains("$SSH_AUTH_SOCK is not set"), "{printed}");
    let mut gone = knock(&site, &agent, &key, SERVER4, &[]);
    let printed = failed(&lab.client.output(gone.env("SSH_AUTH_SOCK", "/nonexistent/socket")), 5);
    assert!(printed.contains("cannot be reached") && printed.contains("\nhint: start an agent"), "{printed}");

    // Destination constraints, which only some keys of an agent have: it refuses.
    agent.ssh_add(&["-d"], &public);
    fs::write(agent.path("known_hosts"), format!("host.example {}", fs::read_to_string(&public).unwrap()))
        .unwrap();
    let hosts = agent.path("known_hosts");
    agent.add("id", &["-H", hosts.to_str().unwrap(), "-h", "host.example"]);
    let printed = failed(&run(), 5);
    assert!(
        printed.contains("refused to sign with the key SHA256:") && printed.contains("ssh-add -h"),
        "{printed}"
    );

    agent.ssh_add(&["-d"], &public);
    let printed = failed(&run(), 5);
    assert!(
        printed.contains("does not have the key SHA256:") && printed.contains("`ssh-add FILE`"),
        "{printed}"
    );

    // An agent that hangs.
    kill(agent.id(), Signal::SIGSTOP).unwrap();
    let printed = failed(&run(), 5);
    assert!(printed.contains("no answer within 2 s"), "{printed}");
    kill(agent.id(), Signal::SIGCONT).unwrap();
    assert_eq!(arrived.packets(), 0);
}

#[test]
fn a_signature_that_takes_too_long_is_not_used_and_the_user_learns_what_is_awaited() {
    let Some(lab) = Lab::new() else { return };
    let (agent, public) = SshAgent::with_key("ed25519");
    let site = Site::new("", &open_ssh(2));
    let key = site.sign_with("", &open_ssh(2), &public);
    let arrived = Counter::new(&lab.server);
    // Lists the keys of the real agent, and never signs.
    let socket = agent.path("slow");
    let listener = UnixListener::bind(&socket).unwrap();
    let to = agent.socket();
    thread::spawn(move || {
        use std::io::Read as _;
        let (mut client, _) = listener.accept().unwrap();
        let mut agent = std::os::unix::net::UnixStream::connect(to).unwrap();
        let mut request = [0; 5];
        client.read_exact(&mut request).unwrap();
        agent.write_all(&request).unwrap();
        let mut length = [0; 4];
        agent.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length).try_into().unwrap()];
        agent.read_exact(&mut answer).unwrap();
        client.write_all(&length).unwrap();
        client.write_all(&answer).unwrap();
        // Until the client closes the connection.
        let _ = client.read_to_end(&mut Vec::new());
    });
    let mut command = knock(&site, &agent, &key, SERVER4, &[]);
    let printed = failed(&lab.client.output(command.env("SSH_AUTH_SOCK", &socket)), 5);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[0], "spa-knock: waiting for ssh-agent; it may be asking for confirmation");
    assert!(lines[1].contains("within 20 s; nothing was sent"), "{printed}");
    assert_eq!(arrived.packets(), 0);
}

#[test]
fn ctrl_c_ends_the_wait_for_a_signature() {
    let Some(lab) = Lab::new() else { return };
    let (agent, public) = SshAgent::with_key("ed25519");
    let site = Site::new("", &open_ssh(2));
    let key = site.sign_with("", &open_ssh(2), &public);
    // Accepts connections, and is silent.
    let socket = agent.path("silent");
    let _listener = UnixListener::bind(&socket).unwrap();
    let arrived = Counter::new(&lab.server);
    let mut command = Command::new("env");
    // Tests may run in the background of a shell, which then ignores SIGINT.
    command.args(["--default-signal", env!("CARGO_BIN_EXE_spa-knock"), "-v", "--key"]).arg(&key);
    command.args([&SERVER4.to_string(), "open-ssh"]).env("HOME", site.folder());
    command.env("SSH_AUTH_SOCK", &socket).stderr(Stdio::piped());
    let mut child = lab.client.spawn(&mut command);
    // It prints its own address immediately before it asks the agent.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("own address")));
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().signal().map(Signal::try_from), Some(Ok(Signal::SIGINT)));
    assert_eq!(arrived.packets(), 0);
}

#[test]
fn a_key_that_the_server_does_not_know_is_named() {
    let Some(lab) = Lab::new() else { return };
    let (agent, public) = SshAgent::with_key("ed25519");
    let other = agent.generate("other", "ecdsa");
    agent.add("other", &[]);
    let site = Site::new("", &open_ssh(2));
    site.sign_with("", &open_ssh(2), &other);
    let key = site.key_file_for(&public_key(&public));
    let _daemon = Daemon::start(&lab.server, &site);
    let printed = failed(&lab.client.output(&mut knock(&site, &agent, &key, SERVER4, &[])), 1);
    let fingerprint = public_key(&public).fingerprint();
    assert!(
        printed.contains(&format!(
            "refused: signature refused (signature); the SSH key was {fingerprint}\nhint: "
        )),
        "{printed}"
    );
}

#[test]
fn a_touch_is_enough_for_both_addresses_of_a_server_and_other_keys_sign_for_each() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for (kind, signatures) in [("ed25519", 2), ("ed25519-sk", 1)] {
        knock_at_both_addresses(&lab, kind, signatures);
    }
}

fn knock_at_both_addresses(lab: &Lab, kind: &str, signatures: usize) {
    let (agent, public) = SshAgent::with_key(kind);
    let counter = SigningCounter::of(&agent);
    let site = Site::new("", &open_ssh(2));
    let key = site.sign_with("", &open_ssh(2), &public);
    let _daemon = Daemon::start(&lab.server, &site);
    // No host has the first address, so it is silent.
    let hosts = format!("fd77::99 both.test\n{SERVER4} both.test\n");
    let etc = site.path("hosts");
    fs::write(&etc, hosts).unwrap();
    let mounts = crate::net::Mounts::new();
    mounts.mount(&["--bind", etc.to_str().unwrap()], Path::new("/etc/hosts"));
    let [nsenter, mount] = mounts.nsenter();
    let run = |args: &[&str]| {
        let client = knock(&site, &agent, &key, SERVER4, &[]);
        let mut command = limited(&nsenter);
        command.arg(&mount).arg(env!("CARGO_BIN_EXE_spa-knock"));
        command.arg("--key").arg(&key).args(["both.test", "open-ssh", "--server-id", SERVER_ID]).args(args);
        for (name, value) in client.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.env("SSH_AUTH_SOCK", counter.socket());
        lab.client.output(&mut command)
    };
    let printed = granted(&run(&["-v"]));
    assert!(printed.contains(&format!("{CLIENT4}, {CLIENT6}")), "{printed}");
    assert!(lab.client.reaches(SERVER4, 22));
    // A signature that takes long may be one that a person confirms.
    let expected = if printed.contains("waiting for ssh-agent") { 1 } else { signatures };
    assert_eq!(counter.take(), expected, "{printed}");
    // Simultaneous knocks have one signature each.
    granted(&run(&["--all"]));
    assert_eq!(counter.take(), 2);
}

/// A profile for the server, with this line.
fn profile(site: &Site, line: &str) -> PathBuf {
    let path = site.path("profile.toml");
    fs::write(&path, format!("[server.home]\naddress = \"{SERVER4}\"\naction = \"open-ssh\"\n{line}\n"))
        .unwrap();
    path
}

/// The terminal's side of a client: what it prints, after this answer.
fn on_terminal(lab: &NatLab, command: &Command, answer: &str) -> Output {
    let words: Vec<_> =
        command.get_args().skip(3).map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let mut script = limited("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = lab.client.spawn(&mut script);
    child.stdin.take().unwrap().write_all(format!("{answer}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    // A terminal has one stream.
    Output { status: output.status, stdout: Vec::new(), stderr: output.stdout }
}

#[test]
fn behind_a_nat_the_address_in_a_reply_is_signed_only_with_the_consent_of_the_user() {
    let Some(lab) = NatLab::new() else { return };
    let (agent, public) = SshAgent::with_key("ed25519");
    let counter = SigningCounter::of(&agent);
    let site = Site::new("", &open_ssh(2));
    let key = site.sign_with("", &open_ssh(2), &public);
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let command = |line: &str, args: &[&str]| {
        let mut command = site.client();
        command.arg("--config").arg(profile(&site, line)).arg("--key").arg(&key).arg("home").args(args);
        command.env("SSH_AUTH_SOCK", counter.socket());
        command
    };
    let run = |line: &str, args: &[&str]| lab.client.output(&mut command(line, args));
    let question = format!("the server sees you as {ROUTER4}; sign a knock for this address? [y/N] ");

    // No one can be asked.
    let printed = failed(&run("", &[]), 1);
    assert!(printed.contains(&format!("--source {ROUTER4}")), "{printed}");
    assert_eq!(counter.take(), 1);
    assert!(!lab.client.reaches(SERVER4, 22));
    granted(&run("", &["--source", &ROUTER4.to_string()]));
    assert_eq!(counter.take(), 1);
    // A grant alone stores nothing.
    failed(&run("", &[]), 1);
    counter.take();

    // Nor can a program that reads JSON, whose user has a terminal.
    let printed = failed(&on_terminal(&lab, &command("", &["--output", "json"]), "y"), 1);
    assert!(!printed.contains("[y/N]") && printed.contains("\nhint: "), "{printed}");
    assert!(printed.contains(&format!("\"observed\":\"{ROUTER4}\"")), "{printed}");
    assert_eq!(counter.take(), 1);

    let printed = failed(&on_terminal(&lab, &command("", &[]), "n"), 1);
    assert!(printed.contains(&question) && printed.contains("--source"), "{printed}");
    assert_eq!(counter.take(), 1);
    let printed = granted(&on_terminal(&lab, &command("", &[]), "y"));
    assert!(printed.contains(&question), "{printed}");
    assert_eq!(counter.take(), 2);
    // Confirmed and granted once: the next knock claims it immediately.
    granted(&run("", &[]));
    assert_eq!(counter.take(), 1);

    // The way of knocks without an SSH key, if the user wants it. What it learns is not what the user has confirmed.
    fs::remove_dir_all(site.path("client-state")).unwrap();
    granted(&run("learn = \"reply\"", &[]));
    assert_eq!(counter.take(), 2);
    granted(&run("learn = \"reply\"", &[]));
    assert_eq!(counter.take(), 1);
    failed(&run("", &[]), 1);
}

#[test]
fn without_a_reply_behind_a_nat_the_address_that_the_user_confirmed_is_signed() {
    let Some(lab) = NatLab::new() else { return };
    let (agent, public) = SshAgent::with_key("ed25519");
    let site = Site::new("", &open_ssh(2));
    let rest = open_ssh(2) + "source = [\"exact\"]\n";
    let key = site.sign_with("", &rest, &public);
    lab.server.echo(22);
    // Translation is certain only toward an address of the Internet.
    let public_address: IpAddr = "203.0.113.1".parse().unwrap();
    lab.server.ip("addr add 203.0.113.1/32 dev lan0");
    lab.router.ip("route add 203.0.113.1 via 10.77.0.1");
    let _daemon = Daemon::start(&lab.server, &site);
    let silent = || {
        let args = ["--no-reply", "--wait", "22", "--timeout", "2s"];
        lab.client.output(&mut knock(&site, &agent, &key, public_address, &args))
    };
    failed(&silent(), 3);
    let mut asked = site.client();
    asked.arg("--config").arg(profile(&site, "")).arg("--key").arg(&key).arg("home");
    asked.env("SSH_AUTH_SOCK", agent.socket());
    granted(&on_terminal(&lab, &asked, "y"));
    lab.client.wait_until_closed(SERVER4, 22);
    granted(&silent());
}

#[test]
fn keep_renews_a_grant_with_a_signature_each_time() {
    let Some(lab) = Lab::new() else { return };
    let (agent, public) = SshAgent::with_key("ed25519-sk");
    let counter = SigningCounter::of(&agent);
    let site = Site::new("", &open_ssh(3));
    let key = site.sign_with("", &open_ssh(3), &public);
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let mut command = site.client();
    command.args(["keep", "--key"]).arg(&key).args([&SERVER4.to_string(), "open-ssh", "--", "sleep", "7"]);
    command.env("SSH_AUTH_SOCK", counter.socket());
    let printed = granted(&lab.client.output(&mut command));
    assert!(lab.client.reaches(SERVER4, 22), "the last renewal is at most 3 s old");
    let name = format!("ED25519-SK {}", public_key(&public).fingerprint());
    assert!(printed.contains(&format!("warning: each renewal needs a touch of the key {name}")), "{printed}");
    let prompts = printed.matches(&format!("Confirm user presence for key {name}")).count();
    assert!(prompts >= 3 && prompts == counter.take(), "{printed}");
}

#[test]
fn connect_reaches_the_port_through_a_signed_knock() {
    let Some(lab) = Lab::new() else { return };
    let (agent, public) = SshAgent::with_key("ecdsa");
    let site = Site::new("", &open_ssh(2));
    let key = site.sign_with("", &open_ssh(2), &public);
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let mut command = site.client();
    command.args(["connect", "--key"]).arg(&key);
    command.args([&SERVER4.to_string(), "open-ssh", &SERVER4.to_string(), "22"]);
    command.env("SSH_AUTH_SOCK", agent.socket());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = lab.client.spawn(&mut command);
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    let output = child.wait_with_output().unwrap();
    granted(&output);
    assert_eq!(output.stdout, b"hello");
    granted(&lab.client.output(&mut knock(&site, &agent, &key, SERVER6, &["--wait", "22"])));
}

#[test]
fn doctor_finds_a_missing_key_and_a_dry_run_asks_for_no_signature() {
    let Some(lab) = Lab::new() else { return };
    let (agent, public) = SshAgent::with_key("ed25519");
    let counter = SigningCounter::of(&agent);
    let site = Site::new("", &open_ssh(2));
    let key = site.sign_with("", &open_ssh(2), &public);
    let _daemon = Daemon::start(&lab.server, &site);
    let fingerprint = public_key(&public).fingerprint();
    let doctor = || {
        let mut command = site.client();
        command.args(["doctor", "--key"]).arg(&key).arg(SERVER4.to_string());
        lab.client.output(command.env("SSH_AUTH_SOCK", counter.socket()))
    };
    let output = doctor();
    granted(&output);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains(&format!("ok     ssh key  ED25519 {fingerprint}, in ssh-agent /")), "{printed}");
    assert_eq!(counter.take(), 1);

    let dry_run = |form: &str, agent_line: &str| {
        let mut dry = knock(&site, &agent, &key, SERVER4, &["--dry-run", "--output", form]);
        let output = lab.client.output(dry.env("SSH_AUTH_SOCK", counter.socket()));
        granted(&output);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.contains(&fingerprint.to_string()) && printed.contains(agent_line), "{printed}");
        assert_eq!(counter.take(), 0);
        printed
    };
    let socket = counter.socket();
    let agent_name = format!("ssh-agent {}", socket.display());
    let has_it = format!("\nssh key      {fingerprint}\nagent        {agent_name}: has the key (ED25519)\n");
    dry_run("text", &has_it);
    dry_run("json", ",\"ssh_key_in_agent\":true,\"ssh_agent\":\"ssh-agent /");

    agent.ssh_add(&["-d"], &public);
    dry_run("text", &format!("\nagent        {agent_name}: does not have the key SHA256:"));
    dry_run("json", ",\"ssh_key_in_agent\":false,\"ssh_agent\":\"ssh-agent /");
    let output = doctor();
    failed(&output, 5);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        printed.contains(&format!("does not have the key {fingerprint}\nhint: add it with")),
        "{printed}"
    );
    assert!(printed.contains("skip   knock"), "{printed}");
}
