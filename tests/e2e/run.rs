//! Actions that run a command.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::net::{CLIENT4, Daemon, Lab, SERVER4, SOON, Site, within};

/// Creates the script `act` in the site's folder.
fn script(site: &Site, text: &str) {
    let path = site.path("act");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A site whose action `act` runs the script `act` with these arguments.
fn site(args: &str, timeout: &str) -> Site {
    let site = Site::new("", "");
    let allowed = if args.contains("{argument}") { "allow-arguments = [\"A/*\"]\n" } else { "" };
    let rest = format!(
        "[firewall]\nbackend = \"none\"\n\n[action.act]\nrun = [\"{}\", {args}]\ntimeout = \"{timeout}\"\n{allowed}\n\
         [client.laptop]\nkey = \"laptop.key\"\nallow = [\"act\"]\n",
        site.path("act").display()
    );
    site.write_config("", &rest);
    site
}

#[test]
fn a_command_gets_its_placeholders_as_separate_arguments_without_a_shell() {
    let Some(lab) = Lab::new() else { return };
    let args =
        r#""{address}", "{client}", "{action}", "--argument={argument}", "{argument}", "$HOME; {{}}", """#;
    let site = site(args, "10s");
    let folder = site.folder().display();
    script(
        &site,
        &format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >{folder}/new && mv {folder}/new {folder}/args\n"),
    );
    let _daemon = Daemon::start(&lab.server, &site);

    // Arguments with a meaning for a shell are refused before a command is started.
    for argument in [format!("a;/usr/bin/touch {folder}/pwned"), "$(id)".to_owned(), "-x".to_owned()] {
        let output = lab.client.output(&mut site.knock(SERVER4, &["act", "--", &argument]));
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let argument = "A/z:0.9_@%+=,-".to_owned();
    let output = lab.client.output(&mut site.knock(SERVER4, &["act", &argument]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(within(SOON, || site.path("args").exists()), "the command ran");

    let text = fs::read_to_string(site.path("args")).unwrap();
    let received: Vec<&str> = text.lines().collect();
    let whole = format!("--argument={argument}");
    assert_eq!(received, [&CLIENT4.to_string(), "laptop", "act", &whole, &argument, "$HOME; {}", ""]);
    assert!(!site.path("pwned").exists());
    assert!(within(SOON, || site.audit_of("done").len() == 1), "{:?}", site.audit());
}

#[test]
fn a_command_and_its_child_processes_are_killed_at_the_timeout() {
    let Some(lab) = Lab::new() else { return };
    let site = site("\"{address}\"", "1s");
    let folder = site.folder().display();
    script(
        &site,
        &format!(
            "#!/bin/sh\ntrap '' TERM\nsleep 60 &\necho $$ $! >{folder}/new\nmv {folder}/new {folder}/pids\nwait\nsleep 60\n"
        ),
    );
    let _daemon = Daemon::start(&lab.server, &site);

    let start = Instant::now();
    lab.client.output(&mut site.knock(SERVER4, &["--timeout", "1s", "act"]));
    assert!(within(SOON, || site.path("pids").exists()), "the command runs");
    let pids = fs::read_to_string(site.path("pids")).unwrap();
    for pid in pids.split_whitespace() {
        assert!(within(Duration::from_secs(6), || has_exited(pid)), "process {pid} is killed at the timeout");
    }
    assert!(start.elapsed() >= Duration::from_secs(1), "not before the timeout");
    assert!(within(SOON, || site.audit_of("failed").len() == 1), "{:?}", site.audit());
}

/// Whether a process does not exist any more or is a zombie.
fn has_exited(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.is_empty() || stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']))
}

#[test]
fn a_failing_command_is_recorded_in_the_audit_log() {
    let Some(lab) = Lab::new() else { return };
    let site = site("\"{address}\"", "5s");
    script(&site, "#!/bin/sh\nexit 3\n");
    let _daemon = Daemon::start(&lab.server, &site);
    lab.client.output(&mut site.knock(SERVER4, &["act"]));
    assert!(within(SOON, || site.audit_of("failed").len() == 1), "{:?}", site.audit());
}
