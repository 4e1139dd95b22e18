//! Hosts whose own firewall drops by default: `init` on hosts with nftables, iptables, ufw and firewalld.
//!
//! ufw and firewalld run in a mount namespace with copies of their files, and in the network namespace of the test.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use spa_knock_core::knock::ReplyStatus;

use crate::doors::{INSIDE, enable_forwarding, knock_at, site};
use crate::net::{
    BOTH, Daemon, Lab, Mounts, SERVER_ID, SERVER4, SERVER6, Site, full, limited, still_echoes, within,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A host with its own firewall and a config written by `init`.
struct Host {
    lab: Lab,
    site: Site,
    mounts: Mounts,
    /// Other processes on the host, killed with it.
    services: Vec<Child>,
}

/// Loads rules from a string, as `nft -f` loads a file.
fn load(lab: &Lab, rules: &str) {
    let mut child = lab.server.spawn(limited("nft").args(["-f", "-"]).stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
}

impl Drop for Host {
    fn drop(&mut self) {
        for mut service in self.services.drain(..).rev() {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

impl Host {
    /// A host with a service on port 22, without a config.
    fn new() -> Option<Self> {
        let lab = Lab::new()?;
        lab.server.echo(22);
        let site = Site::new("", "");
        fs::remove_file(site.path("spa-knockd.toml")).unwrap();
        let mounts = Mounts::new();
        mounts.mount(&["-t", "tmpfs", "tmpfs"], "/run".as_ref());
        Some(Self { lab, site, mounts, services: Vec::new() })
    }

    /// Replaces a file or folder by a copy, for this host only.
    fn use_copy_of(&self, place: &str) {
        let copy = self.site.path(&place.replace('/', "-"));
        let output = limited("cp").args(["-a", place]).arg(&copy).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        self.mounts.mount(&["--bind", copy.to_str().unwrap()], place.as_ref());
    }

    /// Runs a shell command on this host.
    fn shell(&self, line: &str) -> Output {
        let [nsenter, entrance] = self.mounts.nsenter();
        self.lab.server.output(limited(&nsenter).arg(entrance).args(["sh", "-c", line]))
    }

    fn run(&self, line: &str) -> String {
        let output = self.shell(line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn serve(&mut self, program: &str, args: &[&str]) {
        let [nsenter, entrance] = self.mounts.nsenter();
        let mut command = Command::new(nsenter);
        command.arg(entrance).arg(program).args(args).stdout(Stdio::null()).stderr(Stdio::null());
        self.services.push(self.lab.server.spawn(&mut command));
    }

    /// Runs `init` and returns its messages.
    fn init(&self) -> String {
        let output = self.lab.server.output(&mut self.site.admin(&["init", "--id", SERVER_ID]));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn check(&self) -> String {
        let output = self.lab.server.output(&mut self.site.admin(&["check"]));
        String::from_utf8(output.stdout).unwrap()
    }

    fn config(&self) -> String {
        fs::read_to_string(self.site.path("spa-knockd.toml")).unwrap()
    }

    /// Runs the firewall commands that `init` prints, and adds a client.
    fn set_up(&self, backend: &str) {
        let messages = self.init();
        if backend != "nftables" {
            let config =
                self.config().replace("# backend = \"nftables\"", &format!("backend = \"{backend}\""));
            fs::write(self.site.path("spa-knockd.toml"), config).unwrap();
        }
        let text = self.check();
        assert!(text.contains("tcp/22 is ") || text.contains("INPUT of iptables drops"), "{text}");
        let commands: Vec<&str> = messages.lines().filter_map(firewall_command).collect();
        assert!(!commands.is_empty(), "{messages}");
        for command in commands {
            self.run(command);
        }
        let again = self.init();
        assert!(
            !again.lines().any(|line| firewall_command(line).is_some()),
            "no command is left to run: {again}"
        );
        let text = self.check();
        assert!(!text.contains("despite a grant") && !text.contains("open to everyone"), "{text}");
        let key = self.site.path("visitor.key");
        let add = ["client", "add", "visitor", "--allow", "open-ssh", "-o", key.to_str().unwrap()];
        let output = self.lab.server.output(&mut self.site.admin(&add));
        assert!(output.status.success(), "{output:?}");
    }

    /// Knocks and requests a grant for this time.
    fn knock(&self, server: std::net::IpAddr, seconds: &str) -> Output {
        let mut command = self.site.client();
        command.arg("--key").arg(self.site.path("visitor.key")).args(["--for", seconds]);
        self.lab.client.output(command.arg(server.to_string()).arg("open-ssh"))
    }

    /// Asserts that a knock opens port 22, that the port is closed before, and that it stays closed to others.
    fn assert_opens(&self, server: std::net::IpAddr, after: &str) {
        assert!(!self.lab.client.reaches(server, 22), "{after}: closed without a knock");
        let output = self.knock(server, "2s");
        assert!(output.status.success(), "{after}: {output:?}");
        let session = self.lab.client.connect_within(server, 22, Duration::from_secs(2));
        let mut session = session.unwrap_or_else(|| panic!("{after}: open"));
        assert!(!self.lab.neighbor.reaches(server, 22), "{after}: closed to others");
        let closed = self.lab.client.wait_until_closed(server, 22);
        assert!(closed.began > Instant::now() - PATIENCE, "{after}");
        assert!(still_echoes(&mut session), "{after}: the connection stays");
    }

    /// Asserts that knocks open a port after a start, after `reload` has reloaded the firewall's rules, and after a
    /// kill.
    fn assert_knocks_open(&self, reload: &str) {
        let mut daemon = Daemon::start(&self.lab.server, &self.site);
        assert!(
            !daemon.log().contains("drops") && !daemon.log().contains("despite a grant"),
            "{}",
            daemon.log()
        );
        self.assert_opens(SERVER4, "after the start");
        let text = self.check();
        assert!(!text.contains("despite a grant") && !text.contains("open to everyone"), "{text}");
        self.run(reload);
        self.assert_opens(SERVER6, "after a reload of the firewall");
        daemon.kill9();
        assert!(!self.lab.client.reaches(SERVER4, 22), "closed while no daemon runs");
        let _daemon = Daemon::start(&self.lab.server, &self.site);
        self.assert_opens(SERVER4, "after kill -9 and a restart");
    }

    fn gate(&self, to: &str) {
        let output = self.lab.server.output(&mut self.site.admin(&["gate", to]));
        assert!(output.status.success(), "{output:?}");
    }

    /// In mode `mark`: asserts that without our table, only the host's own rules decide.
    fn assert_only_host_rules_decide_without_ours(&self) {
        let daemon = Daemon::start(&self.lab.server, &self.site);
        self.gate("off");
        assert!(!self.lab.client.reaches(SERVER4, 22), "the host's default drop decides");
        let refused = self.knock(SERVER4, "1s");
        assert!(!refused.status.success(), "a grant that would open nothing is refused: {refused:?}");
        self.gate("on");
        let granted = self.knock(SERVER4, "30s");
        assert!(granted.status.success(), "{granted:?}");
        assert!(self.lab.client.reaches(SERVER4, 22));
        drop(daemon);
        // A grant ends when the rules that set the mark are removed.
        self.run("nft delete table inet spa_knock 2>/dev/null || iptables -t mangle -F PREROUTING");
        assert!(!self.lab.client.reaches(SERVER4, 22), "closed without our rules");
    }
}

#[test]
fn check_reports_ports_that_stay_closed_behind_a_default_drop() {
    let Some(host) = Host::new() else { return };
    host.run("iptables -P INPUT DROP");
    host.init();
    let guarding = host.config().replace("mode = \"mark\"", "mode = \"guard\"");
    fs::write(host.site.path("spa-knockd.toml"), guarding).unwrap();
    let _daemon = Daemon::start(&host.lab.server, &host.site);
    let message = "action.open-ssh.open: tcp/22 is dropped over IPv4 despite a grant: table ip filter, chain INPUT: policy drop";
    let text = host.check();
    assert!(text.contains(message) && !text.contains("no rule is known to drop"), "{text}");
}

/// The command for the host's firewall in a line printed by `init`, if there is one.
fn firewall_command(line: &str) -> Option<&str> {
    let line = line.strip_prefix("  ")?;
    let programs = ["sed ", "nft ", "iptables", "ip6tables", "firewall-cmd "];
    programs.iter().any(|program| line.starts_with(program)).then_some(line)
}

#[test]
fn an_nftables_host_that_drops_by_default_opens_ports_by_mark() {
    let Some(host) = Host::new() else { return };
    load(
        &host.lab,
        "table inet filter {\n chain input {\n type filter hook input priority 0; policy drop\n \
         ct state established,related accept\n iif lo accept\n meta l4proto { icmp, ipv6-icmp } accept\n }\n}\n",
    );
    host.set_up("nftables");
    assert!(host.config().contains("mode = \"mark\""));
    // Another rule sets a mark that includes other bits.
    load(
        &host.lab,
        "table inet other {\n chain pre {\n type filter hook prerouting priority mangle\n \
         meta mark set 0x10000001\n }\n}\n",
    );
    host.assert_knocks_open("true");
    host.run("nft delete table inet other");
    host.assert_only_host_rules_decide_without_ours();
}

/// A config in mode `mark` with every kind of grant, and rules that drop all packets except those with the mark.
fn every_kind(lab: &Lab, backend: &str) -> Site {
    enable_forwarding(lab);
    let chain = |hook: &str| {
        format!(
            " chain {hook} {{\n type filter hook {hook} priority 0; policy drop\n \
             ct state established,related accept\n iif lo accept\n meta l4proto {{ icmp, ipv6-icmp }} accept\n \
             meta mark & 0x10000000 == 0x10000000 accept\n }}\n"
        )
    };
    load(lab, &format!("table inet filter {{\n{}{}}}\n", chain("input"), chain("forward")));
    let mut actions = INSIDE.to_vec();
    actions.push(("range", "open = [\"tcp/8000-8009\"]\nfor = \"2s\""));
    let mut firewall = format!("backend = \"{backend}\"\nmode = \"mark\"\n");
    actions.push(("once", "open = [\"tcp/22\"]\nonce = true\nfor = \"20s\""));
    firewall += "protect = [\"tcp/23\"]\nfailsafe = { after = \"30s\", allow = [\"10.77.1.0/24\"] }\n";
    site(&firewall, &actions, "")
}

#[test]
fn every_kind_of_grant_sets_the_mark_and_ends_on_time() {
    for backend in ["nftables", "iptables"] {
        let Some(lab) = Lab::new() else { return };
        for port in [22, 23, 8000, 8009, 8080] {
            lab.server.echo(port);
        }
        lab.neighbor.echo(5432);
        let site = every_kind(&lab, backend);
        let mut daemon = Daemon::start(&lab.server, &site);
        for (from, to) in BOTH {
            let open = || [22, 80, 8000, 8009, 8080, 15432].map(|port| lab.client.reaches(to, port));
            assert_eq!(open(), [false; 6], "{backend} {to}: without a knock");
            for (action, ports) in [("range", vec![8000, 8009]), ("to-web", vec![80]), ("to-db", vec![15432])]
            {
                assert_eq!(
                    knock_at(&lab.client, from, to, &site, action, ""),
                    ReplyStatus::Granted,
                    "{action}"
                );
                for port in ports {
                    let stream = lab.client.connect_within(to, port, Duration::from_secs(2));
                    assert!(stream.is_some(), "{backend} {to}: {action} opens {port}");
                    assert!(!lab.neighbor.reaches(to, port), "{backend} {to}: {action} to others");
                }
                assert!(!lab.client.reaches(to, 8080), "{backend} {to}: {action} opens only what it names");
            }
            assert!(
                within(Duration::from_secs(5), || open() == [false; 6]),
                "{backend} {to}: closed on time"
            );
            assert_eq!(knock_at(&lab.client, from, to, &site, "once", ""), ReplyStatus::Granted);
            let first = lab.client.connect_within(to, 22, Duration::from_secs(5));
            assert!(
                first.is_some_and(|mut first| still_echoes(&mut first)),
                "{backend} {to}: the first connection"
            );
            assert!(!lab.client.reaches(to, 22), "{backend} {to}: the second connection");
        }
        if full() {
            daemon.kill9();
            let neighbor = || lab.neighbor.reaches(SERVER4, 23);
            assert!(!neighbor(), "{backend}: the failsafe waits");
            assert!(within(Duration::from_secs(40), neighbor), "{backend}: the failsafe sets the mark");
            assert!(!lab.client.reaches(SERVER4, 23), "{backend}: only for the addresses that it allows");
        }
    }
}

#[test]
fn an_iptables_host_that_drops_by_default_opens_ports_by_mark() {
    let cases = [("tables", "iptables"), ("tables", "nftables"), ("tables-legacy", "nftables")];
    for (tables, backend) in cases.into_iter().take(if full() { 3 } else { 1 }) {
        let Some(host) = Host::new() else { return };
        for program in ["ip", "ip6"].map(|version| format!("{version}{tables}")) {
            for rule in [
                "-P INPUT DROP",
                "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-A INPUT -i lo -j ACCEPT",
                "-A INPUT -p ipv6-icmp -j ACCEPT",
            ] {
                host.run(&format!("{program} {rule}"));
            }
        }
        host.set_up(backend);
        assert!(host.config().contains("mode = \"mark\""));
        host.assert_knocks_open("true");
        host.assert_only_host_rules_decide_without_ours();
    }
}

#[test]
fn a_host_with_ufw_opens_ports_by_mark_also_after_a_reload_of_ufw() {
    for backend in &["nftables", "iptables"][..if full() { 2 } else { 1 }] {
        let Some(host) = Host::new() else { return };
        host.use_copy_of("/etc/ufw");
        host.use_copy_of("/etc/default/ufw");
        host.run("ufw --force enable");
        host.set_up(backend);
        assert!(host.config().contains("mode = \"mark\""));
        host.assert_knocks_open("ufw reload");
        host.assert_only_host_rules_decide_without_ours();
    }
}

#[test]
fn a_port_that_ufw_allows_causes_no_false_alarm_and_is_guarded() {
    let Some(host) = Host::new() else { return };
    host.use_copy_of("/etc/ufw");
    host.use_copy_of("/etc/default/ufw");
    host.run("ufw --force enable && ufw allow 22/tcp");
    let messages = host.init();
    assert!(
        !host.config().contains("\nmode = ") && !messages.contains("ufw on this host drops"),
        "{messages}"
    );
    let text = host.check();
    assert!(!text.contains("despite a grant"), "{text}");
    // In mode `mark` no rule would close the port.
    let config = host.config().replace("# mode = \"guard\"", "mode = \"mark\"");
    fs::write(host.site.path("spa-knockd.toml"), config).unwrap();
    assert!(host.check().contains("firewall.mode: tcp/22 is open to everyone"), "{}", host.check());
}

/// A host with firewalld, whose zone does not allow port 22.
fn with_firewalld() -> Option<Host> {
    let mut host = Host::new()?;
    host.use_copy_of("/etc/firewalld");
    host.run("mkdir -p /run/dbus /run/firewalld");
    host.serve("dbus-daemon", &["--system", "--nofork", "--nopidfile"]);
    assert!(within(PATIENCE, || host.shell("test -S /run/dbus/system_bus_socket").status.success()));
    host.serve("firewalld", &["--nofork", "--nopid"]);
    assert!(within(PATIENCE, || host.shell("firewall-cmd --state").status.success()));
    host.run("firewall-cmd --permanent --remove-service=ssh && firewall-cmd --reload");
    Some(host)
}

#[test]
fn firewalld_allows_the_port_and_the_gate_closes_it() {
    let Some(host) = with_firewalld() else { return };
    assert!(!host.lab.client.reaches(SERVER4, 22));
    host.set_up("nftables");
    assert!(!host.config().contains("\nmode = "), "its rules cannot match a mark");
    host.assert_knocks_open("firewall-cmd --reload");
    let _daemon = Daemon::start(&host.lab.server, &host.site);
    host.gate("off");
    assert!(host.lab.client.reaches(SERVER4, 22), "only its zone decides, and it allows the port");
}

#[test]
fn a_host_with_firewalld_needs_no_change_for_a_forward_to_another_port() {
    let Some(host) = with_firewalld() else { return };
    host.init();
    let config = host
        .config()
        .replace("protect = [\"tcp/22\"]", "# protect = []")
        .replace("open = [\"tcp/22\"]", "forward = { from = \"tcp/2222\", to = \":22\" }");
    fs::write(host.site.path("spa-knockd.toml"), config).unwrap();
    let text = host.check();
    assert!(!text.contains("despite a grant"), "{text}");
    let key = host.site.path("visitor.key");
    let add = ["client", "add", "visitor", "--allow", "open-ssh", "-o", key.to_str().unwrap()];
    assert!(host.lab.server.output(&mut host.site.admin(&add)).status.success());
    let _daemon = Daemon::start(&host.lab.server, &host.site);
    let open = || [22, 2222].map(|port| host.lab.client.reaches(SERVER4, port));
    assert_eq!(open(), [false, false]);
    assert!(host.knock(SERVER4, "3s").status.success());
    assert_eq!(open(), [false, true]);
    assert!(!host.lab.neighbor.reaches(SERVER4, 2222));
    host.run("firewall-cmd --reload");
    assert!(within(PATIENCE, || open() == [false, false]), "closed on time after a reload");
}
