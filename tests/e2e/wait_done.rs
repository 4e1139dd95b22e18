//! `--wait-done`: the client waits until the command has finished, and fails if the command has failed.

use std::process::Output;
use std::time::{Duration, Instant};

use crate::net::{Daemon, Lab, SERVER4, Site};

const ACTIONS: &str = r#"
[action.slow]
run = ["/bin/sh", "-c", "sleep 1"]

[action.bad]
run = ["/bin/sh", "-c", "exit 3"]

[action.endless]
run = ["/bin/sleep", "60"]
timeout = "1s"

[action.lamp]
run = ["/bin/true"]
undo = ["/bin/true"]
for = "1m"

[action.open]
open = ["tcp/22"]
for = "5s"

[action.nothing]
close = "open"

[client.laptop]
key = "laptop.key"
allow = ["slow", "bad", "endless", "lamp", "nothing"]
"#;

fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_client_that_waits_for_a_command_reports_its_result() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", ACTIONS);
    let _daemon = Daemon::start(&lab.server, &site);
    let run = |args: &[&str]| lab.client.output(&mut site.knock(SERVER4, args));

    let (code, text) = outcome(&run(&["slow"]));
    assert_eq!((code, text.as_str()), (Some(0), "spa-knock: 10.77.0.1: slow started\n"));
    let start = Instant::now();
    let (code, text) = outcome(&run(&["--wait-done", "slow"]));
    assert_eq!((code, text.as_str()), (Some(0), "spa-knock: 10.77.0.1: slow done\n"));
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());

    let (code, text) = outcome(&run(&["--wait-done", "bad"]));
    assert_eq!(code, Some(1));
    assert!(text.starts_with("spa-knock: 10.77.0.1: bad failed: exit status 3\nhint: "), "{text}");
    let (code, text) = outcome(&run(&["--wait-done", "endless"]));
    assert_eq!(code, Some(1));
    assert!(text.starts_with("spa-knock: 10.77.0.1: endless failed: timed out\n"), "{text}");
    let (code, text) = outcome(&run(&["--wait-done", "--timeout", "300ms", "endless"]));
    assert_eq!(code, Some(3));
    assert!(text.contains("endless started; the server did not report its end within 300ms"), "{text}");

    let (code, text) = outcome(&run(&["--wait-done", "lamp"]));
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "spa-knock: 10.77.0.1: lamp done; it will be undone in 1m\n")
    );
    let (code, text) = outcome(&run(&["--wait-done", "nothing"]));
    assert_eq!(code, Some(0));
    assert!(text.contains("nothing: the server reports no command to wait for"), "{text}");
    let json = run(&["-o", "json", "slow"]);
    assert!(String::from_utf8_lossy(&json.stdout).starts_with("{\"result\":\"started\","), "{json:?}");
}
