//! No part of a key is disclosed: not in the logs, even with the most detailed level, not in /proc and not in the state
//! folder.

mod search;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spa_knock_core::knock::AddressPolicy;

use self::search::Secrets;
use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Key, Lab, NEIGHBOR4, SERVER_ID, SERVER4, SOON, Site, ask, knock, within,
};

fn site() -> Site {
    let site = Site::new("", "");
    let rest = "[firewall]\nprotect = [\"tcp/22\"]\n[action.open-ssh]\nopen = [\"tcp/22\"]\nfor = \"30s\"\n\
                [action.lamp]\nrun = [\"/bin/sh\", \"-c\", \"sleep 20\", \"{argument}\"]\nundo = [\"/bin/true\"]\n\
                for = \"1h\"\nmax = \"1h\"\n\
                [client.laptop]\nkey = \"laptop.key\"\nallow = [\"open-ssh\", \"lamp\"]\n";
    site.write_config("", rest);
    site
}

fn spa_knockd(site: &Site, args: &[&str]) -> Output {
    let output = site.admin(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Sends all kinds of knocks, so that the daemon writes all kinds of log lines.
fn knocks(lab: &Lab, key: &Key) {
    let socket = lab.client.udp(CLIENT4);
    // Half of them get no reply.
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut lamp = knock("lamp");
    lamp.argument = "bright".parse().unwrap();
    let mut stale = knock("open-ssh");
    stale.timestamp = stale.timestamp.minus(Duration::from_secs(300));
    let mut elsewhere = knock("open-ssh");
    (elsewhere.policy, elsewhere.ipv4) = (AddressPolicy::Exact, Some([10, 77, 0, 9].into()));
    for knock in [knock("open-ssh"), lamp, stale, elsewhere, knock("unknown")] {
        ask(&socket, SERVER4, key.seal(&knock).as_bytes());
    }
    let good = key.good();
    assert!(ask(&socket, SERVER4, &good).is_some());
    lab.neighbor.udp(NEIGHBOR4).send_to(&good, (SERVER4, KNOCK_PORT)).unwrap();
    ask(&socket, SERVER4, &key.signed_garbage());
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn no_part_of_a_key_is_found_in_logs_in_proc_or_in_the_state() {
    let Some(lab) = Lab::new() else { return };
    let site = site();
    let mut command = Daemon::command(&site);
    command.env("SPA_KNOCKD_LOG", "trace");
    let mut daemon = Daemon::start_command(&lab.server, command);
    let mut secrets = Secrets::default();
    secrets.add(&site.key_path("laptop"));
    let mut places: Vec<(String, Vec<u8>)> = Vec::new();
    let mut printed = |what: &str, output: Output| {
        places.push((format!("{what} on standard output"), output.stdout));
        places.push((format!("{what} on standard error"), output.stderr));
    };

    knocks(&lab, &site.key("laptop"));
    for (name, args) in [
        ("phone", ["client", "add", "phone", "--allow", "open-ssh"].as_slice()),
        ("phone-again", &["client", "rotate", "phone"]),
    ] {
        let path = site.path(&format!("{name}.key"));
        printed(&args.join(" "), spa_knockd(&site, &[args, &["-o", path.to_str().unwrap()]].concat()));
        secrets.add(&path);
        knocks(&lab, &Key::read(&path, SERVER_ID));
    }
    for args in [&["client", "list"][..], &["client", "show", "laptop"], &["status"], &["grants"]] {
        printed(&args.join(" "), lab.server.enter(|| spa_knockd(&site, args)));
    }
    daemon.reload();
    let first = daemon.watcher().unwrap();
    kill(first, Signal::SIGKILL).unwrap();
    assert!(within(SOON, || daemon.log().contains("watching again")));
    knocks(&lab, &site.key("laptop"));

    let runs = |process: &Pid| {
        fs::read_to_string(format!("/proc/{process}/comm"))
            .is_ok_and(|name| name == "sleep\n" || name == "sh\n")
    };
    let command = daemon.children().into_iter().find(runs).expect("a command that runs");
    let watcher = daemon.watcher().expect("a watcher");
    for (name, process) in [("keeper", daemon.id()), ("watcher", watcher), ("command", command)] {
        for file in ["environ", "cmdline"] {
            places.push((
                format!("{file} of the {name}"),
                fs::read(format!("/proc/{process}/{file}")).unwrap(),
            ));
        }
    }
    let mut read = |path: &Path| places.push((path.display().to_string(), fs::read(path).unwrap()));
    files(&site.path("state")).iter().for_each(|path| read(path));
    assert!(daemon.terminate().success());
    files(&site.path("state")).iter().for_each(|path| read(path));
    read(&site.path("audit.jsonl"));
    places.push(("the daemon's log".to_owned(), daemon.log_bytes()));

    for (place, content) in &places {
        assert_eq!(secrets.search(content), None, "{place}");
    }
    assert!(places.len() > 20, "enough places have been searched");
}
