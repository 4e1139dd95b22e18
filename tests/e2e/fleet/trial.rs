//! Three new servers become a fleet with a few commands.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::laboratory::{FleetLab, FleetSettings};
use super::network::Host;
use crate::net::{Daemon, Namespace, SOON, limited, within};

/// At most this many commands.
const COMMANDS: usize = 6;

/// Runs commands on new servers, and counts them.
struct Trial<'a> {
    lab: &'a FleetLab,
    commands: usize,
}

impl Trial<'_> {
    fn config(&self, host: Host) -> PathBuf {
        self.lab.folder().join("servers").join(host.name()).join("spa-knockd.toml")
    }

    /// Runs a command that reads this text. Returns what it prints.
    fn run(&mut self, host: Host, args: &[&str], input: &str) -> String {
        self.commands += 1;
        let text = self.lab.folder().join("input");
        fs::write(&text, input).unwrap();
        let mut command = limited(Daemon::PROGRAM);
        command.args(args).arg("-c").arg(self.config(host)).stdin(Stdio::from(File::open(&text).unwrap()));
        let output = self.lab.network.of(host).output(&mut command);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn start(&self, host: Host) -> Daemon {
        let mut command = std::process::Command::new(Daemon::PROGRAM);
        command.arg("run").arg("-c").arg(self.config(host));
        Daemon::start_command(self.lab.network.of(host), command)
    }
}

/// Whether the client program is let in.
fn knock(client: &Namespace, home: &Path, key: &Path, server: IpAddr) -> bool {
    let mut command = limited(env!("CARGO_BIN_EXE_spa-knock"));
    for name in ["HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"] {
        command.env(name, home);
    }
    command.arg("--key").arg(key).arg(server.to_string()).arg("open-ssh");
    client.output(&mut command).status.success()
}

#[test]
fn three_new_servers_become_a_fleet_with_five_commands() {
    let Some(lab) = FleetLab::with_empty_store(&FleetSettings::default()) else { return };
    let [first, others @ ..] = Host::MEMBERS;
    let mut trial = Trial { lab: &lab, commands: 0 };
    fs::create_dir(lab.folder().join("servers")).unwrap();
    let (endpoints, files) = (lab.endpoints(), lab.tls_files());
    let [ca, cert, key] = files.each_ref().map(|path| path.to_str().unwrap());
    let tls = ["--ca", ca, "--cert", cert, "--key", key];
    let laptop = lab.folder().join("laptop.key");

    trial.run(first, &["init", "--id", "gate.test"], "");
    let init =
        ["fleet", "init", "--name", "trial", "--member", "m1", "--enable-auth", "--endpoints", &endpoints];
    let line = trial.run(first, &[&init[..], &tls].concat(), "a new password");
    for host in others {
        trial.run(host, &[&["fleet", "join", "--member", &host.name()][..], &tls].concat(), &line);
    }
    let add = ["client", "add", "laptop", "--fleet", "--allow", "open-ssh", "-o", laptop.to_str().unwrap()];
    trial.run(first, &add, "");
    println!("{} commands, at most {COMMANDS} allowed", trial.commands);
    assert!(trial.commands <= COMMANDS);

    for host in Host::MEMBERS {
        lab.network.of(host).echo(22);
    }
    let daemons = Host::MEMBERS.map(|host| trial.start(host));
    let client = &lab.network.client;
    assert!(Host::MEMBERS.iter().all(|host| !client.reaches(host.address(), 22)), "closed before");
    // Until the store has answered.
    let logs = || daemons.each_ref().map(Daemon::log);
    let knocked = within(SOON, || knock(client, lab.folder(), &laptop, others[1].address()));
    assert!(knocked, "{:?}", logs());
    for host in Host::MEMBERS {
        assert!(within(SOON, || client.reaches(host.address(), 22)), "{host:?}: {:?}", logs());
    }
    let status = trial.run(others[0], &["fleet", "status"], "");
    println!("{status}");
    assert!(Host::MEMBERS.iter().all(|host| status.contains(&host.name())), "{status}");
}
