//! Clients with a use count or with one-time passwords: uses and passwords stay used after restarts, and each refusal
//! states its reason.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use spa_knock_core::crypto::{KeyFile, OtpSeed, OtpStep};
use spa_knock_core::knock::Timestamp;

use super::strace::Strace;
use crate::net::{Daemon, Lab, SERVER_ID, SERVER4, Site, open_ssh, within};

/// Runs `spa-knockd client` with these arguments.
fn client(site: &Site, args: &[&str]) -> Output {
    site.admin(&[&["client"], args].concat()).output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Exit code and standard error.
fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn refused(output: &Output, reason: &str) {
    let (code, text) = outcome(output);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(reason), "{text}");
}

#[test]
fn a_visitor_with_one_use_knocks_successfully_only_once_even_if_the_daemon_is_killed() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let token = printed(&client(&site, &["add", "visitor", "--allow", "open-ssh", "--uses", "1", "--token"]));
    let knock = || {
        let mut command = site.client();
        command.env("SPA_KNOCK_KEY", token.trim()).args([
            "--server-id",
            SERVER_ID,
            &SERVER4.to_string(),
            "open-ssh",
        ]);
        lab.client.output(&mut command)
    };
    let show = || printed(&client(&site, &["show", "visitor"]));
    assert!(show().contains("\nuses: 0 of 1 used, 1 left\n"), "{}", show());
    let first = knock();
    assert!(first.status.success(), "{}", outcome(&first).1);
    // Kill the daemon as soon as the reply has arrived.
    daemon.kill9();
    assert!(show().contains("\nuses: 1 of 1 used, 0 left\n"), "{}", show());
    let mut next = Daemon::start(&lab.server, &site);
    refused(&knock(), "key has no uses left");
    refused(&knock(), "the uses of this client");
    // A new visitor with the same name starts with no uses.
    next.kill9();
    assert!(client(&site, &["revoke", "visitor"]).status.success());
    printed(&client(&site, &["add", "visitor", "--allow", "open-ssh", "--uses", "1"]));
    assert!(show().contains("\nuses: 0 of 1 used, 1 left\n"), "{}", show());
}

#[test]
fn a_code_and_a_use_are_on_the_disk_before_the_port_opens() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let daemon = Daemon::start(&lab.server, &site);
    let key = site.path("visitor.key");
    let args = ["add", "visitor", "--allow", "open-ssh", "--uses", "3", "--otp", "-o", key.to_str().unwrap()];
    printed(&client(&site, &args));
    let text = std::fs::read_to_string(site.path("keys").join("visitor.otp")).unwrap();
    let Ok(seed) = OtpSeed::parse(&text) else { panic!("no seed file") };
    let log = site.path("calls");
    let calls = "trace=pwrite64,fsync,rename,renameat,renameat2,sendto,sendmsg";
    let strace = Strace::attach(daemon.id(), &["-f", "-y", "-s", "9999", "-e", calls], &log);
    let granted = lab.client.output(&mut knock(&site, &key, &["--otp", &code(&seed, 0)]));
    assert!(granted.status.success(), "{}", outcome(&granted).1);
    drop(strace);
    let log = std::fs::read_to_string(log).unwrap();
    // A separate thread flushes. Each line begins with the thread id.
    let lines: Vec<&str> =
        log.lines().map(|line| line.split_once(' ').map_or(line, |(_, call)| call.trim_start())).collect();
    let next = |from: usize, what: &dyn Fn(&str) -> bool| {
        let found = lines.iter().skip(from).position(|line| what(line));
        from + found.unwrap_or_else(|| panic!("missing after line {from}:\n{log}")) + 1
    };
    let journal = |line: &str| line.starts_with("pwrite64(") && line.contains("replay.journal");
    let mut at = next(0, &journal);
    at = next(at, &journal);
    at = next(at, &|line| line.starts_with("fsync(") && line.contains("/uses.new"));
    at = next(at, &|line| line.starts_with("rename") && line.contains("/uses\""));
    at = next(at, &|line| line.starts_with("fsync(") && line.contains("/state>"));
    let opened = lines.iter().position(|line| line.starts_with("send") && line.contains("NETLINK")).unwrap();
    assert!(opened >= at, "the port opens after the records are on the disk:\n{log}");
}

/// The code of the time step `off` steps from now.
fn code(seed: &OtpSeed, off: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let step = OtpStep::of(Timestamp::default().plus(now)).plus(off);
    format!("{:06}", seed.code(step))
}

fn knock(site: &Site, key: &Path, args: &[&str]) -> Command {
    let mut command = site.client();
    command.arg("--key").arg(key).arg(SERVER4.to_string()).arg("open-ssh").args(args);
    command
}

#[test]
fn each_one_time_password_opens_once_and_every_refusal_states_the_reason() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let key = site.path("admin.key");
    let file = key.to_str().unwrap();
    let shown = printed(&client(&site, &["add", "admin", "--allow", "open-ssh", "--otp", "-o", file]));
    let seed_file = site.path("keys").join("admin.otp");
    assert_eq!(seed_file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&seed_file).unwrap();
    let Ok(seed) = OtpSeed::parse(&text) else { panic!("no seed file") };
    let base32 = text.lines().find_map(|line| line.strip_prefix("seed: ")).unwrap();
    assert!(
        shown.contains(&format!("otpauth://totp/{SERVER_ID}:admin?")) && shown.contains(base32),
        "{shown}"
    );
    assert!(shown.contains('█'), "the seed is also shown as a QR code");

    let ask = |args: &[&str]| lab.client.output(&mut knock(&site, &key, args));
    let used = "one-time password already used: wait for the next one";
    refused(&ask(&[]), "one-time password required");
    refused(&ask(&["--otp", &code(&seed, -10)]), "check the clocks");
    // A code of the future gets the same reply as a wrong one. Otherwise a thief of the key could wait until it is
    // valid.
    refused(&ask(&["--otp", &code(&seed, 10)]), "one-time password is wrong");
    assert!(!lab.client.reaches(SERVER4, 22));
    let current = code(&seed, 0);
    let granted = ask(&["--otp", &current]);
    assert!(granted.status.success(), "{}", outcome(&granted).1);
    assert!(lab.client.reaches(SERVER4, 22));
    refused(&ask(&["--otp", &current]), used);
    daemon.kill9();
    let mut next = Daemon::start(&lab.server, &site);
    refused(&ask(&["--otp", &current]), used);
    // Two simultaneous knocks with the same code.
    let next_code = code(&seed, 1);
    let both: Vec<Output> = std::thread::scope(|scope| {
        let one = || scope.spawn(|| lab.client.output(&mut knock(&site, &key, &["--otp", &next_code])));
        [one(), one()].map(|knock| knock.join().unwrap()).into()
    });
    assert_eq!(both.iter().filter(|output| output.status.success()).count(), 1);
    both.iter().filter(|output| !output.status.success()).for_each(|output| refused(output, used));
    // Guessing: the valid codes above have reset the count of wrong ones.
    let wrong =
        (0..).map(|n| format!("{n:06}")).find(|n| (-40..40).all(|off| code(&seed, off) != *n)).unwrap();
    for _ in 0..5 {
        refused(&ask(&["--otp", &wrong]), "one-time password is wrong");
    }
    let paused = "too many wrong one-time passwords: wait ";
    refused(&ask(&["--otp", &code(&seed, 1)]), paused);
    // The file is written in the background.
    let written =
        || std::fs::read_to_string(site.path("state/otp-pauses")).is_ok_and(|text| text.contains("admin 1 "));
    assert!(within(Duration::from_secs(10), written));
    next.kill9();
    let _last = Daemon::start(&lab.server, &site);
    refused(&ask(&["--otp", &code(&seed, 1)]), paused);
    let reasons: Vec<_> =
        site.audit_of("refused").iter().map(|record| record["detail"].to_string()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("too many wrong")), "{reasons:?}");
    assert!(!site.audit().iter().any(|record| record.to_string().contains(&current)), "no code in the log");

    assert!(client(&site, &["revoke", "admin"]).status.success());
    assert!(!seed_file.exists());
}

#[test]
fn a_key_is_handed_over_as_a_file_or_a_token_and_a_derived_key_is_accepted() {
    let Some(_lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let line = printed(&client(&site, &["add", "a", "--allow", "open-ssh", "--token"]));
    assert_eq!(line.lines().count(), 1);
    let file = site.path("b.key");
    printed(&client(&site, &["add", "b", "--allow", "open-ssh", "-o", file.to_str().unwrap()]));
    let read = |text: &str| {
        let Ok(key) =
            KeyFile::parse(text).map_err(drop).or_else(|()| KeyFile::from_token(text).map_err(drop))
        else {
            panic!("no key")
        };
        key.to_text().to_string()
    };
    let stored = |name: &str| std::fs::read_to_string(site.key_path(name)).unwrap();
    assert_eq!(read(line.trim()), stored("a"));
    assert_eq!(read(&std::fs::read_to_string(&file).unwrap()), stored("b"));
    let picture = printed(&client(&site, &["rotate", "a", "--qr"]));
    assert!(picture.lines().count() > 20 && !picture.contains("spa-knock-"), "{picture}");

    let root = site.path("root.key");
    let mut keygen = site.client();
    assert!(keygen.args(["keygen", "-o"]).arg(&root).status().unwrap().success());
    let mut derive = site.client();
    derive.args(["derive", "--server-id", SERVER_ID, "--key"]).arg(&root);
    let derived = site.path("derived.key");
    std::fs::write(&derived, derive.output().unwrap().stdout).unwrap();
    std::fs::set_permissions(&derived, PermissionsExt::from_mode(0o600)).unwrap();
    let derived = derived.to_str().unwrap();
    let added = client(&site, &["add", "c", "--allow", "open-ssh", "--key", derived]);
    assert_eq!(printed(&added), "", "the client already has a derived key, so nothing is printed");
    let twice = client(&site, &["add", "d", "--allow", "open-ssh", "--key", derived]);
    assert_eq!(twice.status.code(), Some(5));
    assert!(outcome(&twice).1.contains("client c already uses this secret"));
}

#[test]
fn an_imported_token_works_immediately_and_a_mistyped_one_is_not_stored() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let token = printed(&client(&site, &["add", "tablet", "--allow", "open-ssh", "--token"]));
    let stored_key = site.path("config/spa-knock").join(format!("{SERVER_ID}.key"));
    let import = |text: &str| {
        let mut import = site.client();
        let mut child = lab.client.spawn(
            import
                .args(["import", "-"])
                .stdin(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped()),
        );
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let end = token.trim_end().len() - 1;
    let wrong = if token.as_bytes()[end] == b'A' { "B" } else { "A" };
    let mistyped = import(&format!("{}{wrong}\n", &token[..end]));
    assert_eq!(mistyped.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&mistyped.stderr).contains("token: checksum: "), "{mistyped:?}");
    assert!(!stored_key.exists());

    assert!(import(&token).status.success());
    let mut knock = site.client();
    knock.arg("--key").arg(&stored_key).args([&SERVER4.to_string(), "open-ssh"]);
    let output = lab.client.output(&mut knock);
    assert!(output.status.success(), "{output:?}");
    assert!(lab.client.reaches(SERVER4, 22));
}
