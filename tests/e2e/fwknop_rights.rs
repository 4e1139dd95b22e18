//! Compares what `access.conf` permits according to this project with what Debian's fwknopd does. `tests/fwknop/` has the
//! configs, the packets for each, and intended differences.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, thread};

use spa_knock_fwknop::{
    AccessConfig, Arrival, ConfigFiles, ConfigProblem, Content, Denial, Digest, Expiry, ForwardSource,
    Forwarding, Message, NatTarget, Port, Rights, ServerSettings, Stanza, Transport, WireText, parse_access,
    parse_server,
};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::net::{Daemon, Lab, Namespace, SERVER4, SOON, limited, within};

const PACKETS: &str = include_str!("../fwknop/packets.txt");
/// The addresses that packets come from and go to.
const ADDRESSES: [&str; 6] =
    ["192.0.2.1/32", "192.0.2.7/32", "198.51.100.7/32", "198.51.100.9/32", "10.1.2.3/32", "203.0.113.200/32"];
/// The source of packets that are not authentic. What fwknopd logs about one follows all that it logs about earlier
/// packets.
const BARRIER: &str = "203.0.113.200";
/// By how much an expiry may be later than expected, for the same reason.
const LATE: u64 = 8;
/// Its chains for source addresses.
const SOURCE_CHAINS: [&str; 2] = ["FWKNOP_POSTROUTING", "FWKNOP_MASQUERADE"];
/// Number of configs that are tested in parallel.
const WORKERS: usize = 4;

/// One packet and what happens with it.
struct Case {
    line: &'static str,
    request: &'static str,
    fields: BTreeMap<&'static str, &'static str>,
    ours: &'static str,
    theirs: &'static str,
}

/// The cases by config.
fn cases() -> BTreeMap<&'static str, Vec<Case>> {
    let mut configs: BTreeMap<&str, Vec<Case>> = BTreeMap::new();
    let mut name = "";
    for line in PACKETS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(config) = line.strip_prefix('[') {
            name = config.strip_suffix(']').unwrap();
            continue;
        }
        let (packet, outcome) = line.split_once(" => ").unwrap();
        let (ours, theirs) = match outcome.split_once(" | fwknopd: ") {
            Some((ours, theirs)) => (ours, theirs.split_once(" (").expect("a reason").0),
            None => (outcome, outcome),
        };
        let mut words = packet.split(' ');
        let request = words.next().unwrap();
        let fields = words.map(|word| word.split_once('=').unwrap()).collect();
        configs.entry(name).or_default().push(Case { line, request, fields, ours, theirs });
    }
    configs
}

/// A copy of one of the configs, in which `DIR` is its own directory.
struct Config(TempDir);

impl Config {
    fn copy(name: &str) -> Self {
        let scratch = tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fwknop/configs").join(name);
        copy(&source, scratch.path(), scratch.path().to_str().unwrap());
        Self(scratch)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The settings, and the stanzas or the problems.
    fn parse(&self) -> (ServerSettings, Result<AccessConfig, Vec<ConfigProblem>>) {
        let (settings, _) = parse_server(&self.path("fwknopd.conf"), &mut PlainFiles).unwrap();
        let access = parse_access(&self.path("access.conf"), &settings, &mut PlainFiles);
        (settings, access)
    }

    /// Debian's fwknopd with this config.
    fn fwknopd(&self) -> Command {
        let run = self.path("run");
        let settings = self.path("fwknopd-with-directory.conf");
        let text = fs::read_to_string(self.path("fwknopd.conf")).unwrap();
        fs::write(&settings, format!("{text}FWKNOP_RUN_DIR {};\n", run.display())).unwrap();
        set_mode(&settings);
        let mut command = Command::new("fwknopd");
        command.arg("-c").arg(settings).arg("-a").arg(self.path("access.conf")).arg("-f");
        command.env("TZ", "UTC").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        command
    }
}

fn copy(source: &Path, target: &Path, top: &str) {
    for entry in fs::read_dir(source).unwrap() {
        let (path, target) =
            (entry.as_ref().unwrap().path(), target.join(entry.as_ref().unwrap().file_name()));
        if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&path, &target, top);
        } else {
            fs::write(&target, fs::read_to_string(&path).unwrap().replace("DIR", top)).unwrap();
            set_mode(&target);
        }
    }
}

fn set_mode(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

struct PlainFiles;

impl ConfigFiles for PlainFiles {
    fn read(&mut self, path: &Path) -> Result<Zeroizing<String>, String> {
        fs::read_to_string(path).map(Zeroizing::new).map_err(|error| error.to_string())
    }

    fn list(&mut self, directory: &Path) -> Result<Vec<PathBuf>, String> {
        let entries = fs::read_dir(directory).map_err(|error| error.to_string())?;
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        Ok(paths)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Case {
    fn field(&self, name: &str, default: &'static str) -> &'static str {
        self.fields.get(name).copied().unwrap_or(default)
    }

    fn address(&self, name: &str, default: &'static str) -> IpAddr {
        self.field(name, default).parse().unwrap()
    }

    /// Which stanza's keys the packet is made with.
    fn key(&self) -> usize {
        self.field("key", "1").parse::<usize>().unwrap() - 1
    }

    fn message(&self) -> Message {
        let target = |name| {
            let (host, port) = self.fields.get(name)?.split_once(':').unwrap();
            Some(NatTarget { host: host.to_owned(), port: port.parse().unwrap() })
        };
        let content = match (self.request.strip_prefix("run:"), target("nat"), target("local")) {
            (Some(command), ..) => Content::Command(command.to_owned()),
            (_, Some(target), _) => Content::Nat(ports(self.request), target),
            (_, _, Some(target)) => Content::LocalNat(ports(self.request), target),
            _ => Content::Access(ports(self.request)),
        };
        Message {
            user: self.field("user", "alice").to_owned(),
            time: now().checked_add_signed(self.field("time", "0").parse().unwrap()).unwrap(),
            allow: self.field("allow", "192.0.2.7").parse().unwrap(),
            content,
            timeout: self.fields.get("for").map(|seconds| seconds.parse().unwrap()),
        }
    }

    /// What this project does with the packet.
    fn our_outcome(&self, settings: &ServerSettings, stanzas: &[Stanza], wire: &str) -> String {
        let arrival = Arrival {
            source: self.address("from", "192.0.2.7"),
            destination: self.address("to", "192.0.2.1"),
            time: now(),
        };
        let mut outcome = "denied: source".to_owned();
        for stanza in stanzas.iter().filter(|stanza| stanza.sources.contain(arrival.source)) {
            let Some(sealed) = stanza.hmac_key.verify(WireText::parse(wire.as_bytes()).unwrap()) else {
                continue;
            };
            let message = Message::parse(&stanza.key.open(sealed).unwrap()).unwrap();
            if stanza.expires.is_some_and(|expiry| seconds_of(expiry) <= arrival.time) {
                outcome = "denied: expired".to_owned();
                continue;
            }
            match stanza.rights(settings, &message, arrival) {
                Ok(rights) => return shown(&rights),
                Err(denial) => outcome = format!("denied: {}", reason(denial)),
            }
        }
        outcome
    }
}

fn ports(list: &str) -> Vec<Port> {
    let port = |text: &str| {
        let (transport, number) = text.split_once('/').unwrap();
        let transport = if transport == "tcp" { Transport::Tcp } else { Transport::Udp };
        Port { transport, number: number.parse().unwrap() }
    };
    list.split(',').map(port).collect()
}

/// The same ports in a fixed order.
fn listed(ports: &[Port]) -> String {
    let mut ports = ports.to_vec();
    ports.sort_by_key(|port| (port.to_string().starts_with("udp"), port.number));
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The time of an expiry in UTC.
fn seconds_of(expiry: Expiry) -> u64 {
    match expiry {
        Expiry::Epoch(seconds) => seconds,
        Expiry::Date(year, month, day) => {
            let output = limited("date").args(["-u", "+%s", "-d", &format!("{year}-{month}-{day}")]).output();
            String::from_utf8(output.unwrap().stdout).unwrap().trim().parse().unwrap()
        }
    }
}

fn shown(rights: &Rights) -> String {
    match rights {
        Rights::Open { address, ports, seconds } => format!("open {address} {} {seconds}", listed(ports)),
        Rights::Forward { address, forwarding, source, seconds } => {
            let what = match forwarding {
                Forwarding::Port(port, to) => format!("{port} to {to}"),
                Forwarding::Local(port, to) => format!("{port} to 192.0.2.1:{to}"),
                Forwarding::Host(host) => format!("all to {host}"),
                Forwarding::Direct(port, host) => format!("{port} of {host}"),
                Forwarding::Everywhere => "all to anywhere".to_owned(),
            };
            let source = match source {
                ForwardSource::Client => String::new(),
                ForwardSource::Masquerade => " masqueraded".to_owned(),
                ForwardSource::Address(address) => format!(" as {address}"),
            };
            format!("forward {address} {what}{source} {seconds}")
        }
        Rights::Command { command, rules } => {
            format!("run {command} as {}", rules.run_as.user.as_deref().unwrap_or("root"))
        }
        Rights::Cycle { open, close: None } => format!("run {open}"),
        Rights::Cycle { open, close: Some((close, seconds)) } => {
            format!("run {open} close {close} after {seconds}")
        }
    }
}

fn reason(denial: Denial) -> &'static str {
    match denial {
        Denial::Source | Denial::Destination => "source",
        Denial::Age => "age",
        Denial::Address => "address",
        Denial::User => "user",
        Denial::OpenPorts | Denial::RestrictPorts => "ports",
        Denial::Command => "command",
        Denial::Forwarding => "forwarding",
        Denial::HostName => "host name",
        Denial::ForwardV6 => "IPv6",
        Denial::ForwardOther => "another address",
    }
}

/// Debian's fwknopd, in a namespace of its own.
struct Fwknopd<'a> {
    namespace: &'a Namespace,
    log: PathBuf,
    child: Child,
}

impl<'a> Fwknopd<'a> {
    fn start(namespace: &'a Namespace, config: &Config) -> Self {
        let log = config.path("log");
        let file = fs::File::create(&log).unwrap();
        let mut command = config.fwknopd();
        let child = namespace.spawn(command.stdout(file.try_clone().unwrap()).stderr(file));
        let daemon = Self { namespace, log, child };
        let is_ready =
            || daemon.log().contains("fwknopd main event loop") || daemon.log().contains("UDP server");
        assert!(within(SOON, is_ready), "{}", daemon.log());
        daemon
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// What it does with a packet.
    fn outcome(&self, case: &Case, wire: &str, to: (IpAddr, u16), barrier: &str) -> String {
        for (table, chain) in
            [("filter", "FWKNOP_INPUT"), ("filter", "FWKNOP_FORWARD"), ("nat", "FWKNOP_PREROUTING")]
                .into_iter()
                .chain(SOURCE_CHAINS.map(|chain| ("nat", chain)))
        {
            // Not all chains exist with each config.
            let _ = self.namespace.output(limited("iptables").args(["-w", "5", "-t", table, "-F", chain]));
        }
        let before = self.log().len();
        self.send(to, &[(case.address("from", "192.0.2.7"), wire), (BARRIER.parse().unwrap(), barrier)]);
        let new = || self.log()[before..].to_owned();
        assert!(within(SOON, || new().contains(BARRIER)), "{}: {}", case.line, new());
        // The first line about the barrier may be in the middle of the last one about the packet.
        let log: Vec<String> =
            new().lines().filter(|line| !line.contains(BARRIER)).map(str::to_owned).collect();
        let log = log.join("\n");
        let is_expired = || {
            // It logs this only once for each stanza.
            let line = format!("(stanza #{}) Access stanza has expired", case.key() + 1);
            self.log().contains(&line).then(|| "denied: expired".to_owned())
        };
        self.rules().or_else(|| command(&log)).or_else(|| denial(&log)).or_else(is_expired).unwrap_or(log)
    }

    /// Sends from one thread, so that the packets keep their order.
    fn send(&self, to: (IpAddr, u16), packets: &[(IpAddr, &str)]) {
        self.namespace.enter(|| {
            for (from, payload) in packets {
                let socket = UdpSocket::bind(SocketAddr::new(*from, 0)).unwrap();
                socket.send_to(payload.as_bytes(), SocketAddr::from(to)).unwrap();
            }
        });
    }

    /// The access that its rules give, in the notation of outcomes.
    fn rules(&self) -> Option<String> {
        let list = |table: &str, chain: &str| {
            let args = ["-w", "5", "-t", table, "-S", chain];
            let output = self.namespace.output(limited("iptables").args(args));
            let text = String::from_utf8(output.stdout).unwrap();
            text.lines().filter(|line| line.contains("_exp_")).map(str::to_owned).collect::<Vec<_>>()
        };
        let after = |rule: &str, option: &str| {
            Some(rule.split_once(&format!("{option} "))?.1.split(' ').next()?.to_owned())
        };
        let seconds = |rule: &str| {
            let end: u64 = after(rule, "--comment").unwrap().strip_prefix("_exp_").unwrap().parse().unwrap();
            end - now()
        };
        let port = |rule: &String| {
            Some(ports(&format!("{}/{}", after(rule, "-p")?, after(rule, "--dport")?)).remove(0))
        };
        // All ports if a rule names none.
        let ports = |rules: &[String]| {
            rules
                .iter()
                .map(port)
                .collect::<Option<Vec<Port>>>()
                .map_or("all".to_owned(), |ports| listed(&ports))
        };
        let source = |rule: &str| after(rule, "-s").unwrap().trim_end_matches("/32").to_owned();
        let [input, forward, dnat] = [
            list("filter", "FWKNOP_INPUT"),
            list("filter", "FWKNOP_FORWARD"),
            list("nat", "FWKNOP_PREROUTING"),
        ];
        let translated = SOURCE_CHAINS.map(|chain| list("nat", chain)).concat();
        let as_source = translated.first().map_or(String::new(), |rule| match after(rule, "--to-source") {
            // fwknopd also fixes the source port.
            Some(address) => format!(" as {}", address.split(':').next().unwrap()),
            None => " masqueraded".to_owned(),
        });
        if let Some(rule) = dnat.first() {
            assert_eq!(input.len() + forward.len(), dnat.len(), "{input:?} {forward:?} {dnat:?}");
            let to = after(rule, "--to-destination").unwrap();
            let (source, ports, seconds) = (source(rule), ports(&dnat), seconds(rule));
            return Some(format!("forward {source} {ports} to {to}{as_source} {seconds}"));
        }
        if let Some(rule) = forward.first() {
            let (source, ports, seconds) = (source(rule), ports(&forward), seconds(rule));
            let to = match after(rule, "-d") {
                Some(host) => format!("of {}", host.trim_end_matches("/32")),
                None => "to anywhere".to_owned(),
            };
            return Some(format!("forward {source} {ports} {to}{as_source} {seconds}"));
        }
        let rule = input.first()?;
        Some(format!("open {} {} {}", source(rule), ports(&input), seconds(rule)))
    }
}

impl Drop for Fwknopd<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command that fwknopd has logged, in the notation of outcomes.
fn command(log: &str) -> Option<String> {
    let line = |text: &str| Some(log.split_once(text)?.1.lines().next()?.to_owned());
    if let Some(open) = line("Running CMD_CYCLE_OPEN command: ") {
        return Some(match line("Running CMD_CYCLE_CLOSE command in ") {
            Some(close) => {
                let (seconds, close) = close.split_once(" seconds: ").unwrap();
                format!("run {open} close {close} after {seconds}")
            }
            None => format!("run {open}"),
        });
    }
    let (command, rest) =
        line("Running command '")?.split_once("' ").map(|(a, b)| (a.to_owned(), b.to_owned()))?;
    let user = rest.split_once("user/group to ")?.1.split('/').next()?.to_owned();
    Some(format!("run {command} as {user}"))
}

/// The reason of the last stanza that denied the packet. fwknopd logs nothing if a stanza has the source, but not the
/// destination.
fn denial(log: &str) -> Option<String> {
    const REASONS: [(&str, &str); 9] = [
        ("No access data found for source IP", "source"),
        ("SPA data time difference is too great", "age"),
        ("Got 0.0.0.0 when valid source IP was required", "address"),
        ("does not match required username", "user"),
        ("protocol/ports was denied", "ports"),
        ("Command messages are not allowed", "command"),
        ("requested NAT access, but is not enabled", "forwarding"),
        ("NAT SPA message, but hostname is disabled", "host name"),
        ("Could not build CMD_CYCLE_OPEN command", "command"),
    ];
    let last = REASONS.into_iter().filter_map(|(text, reason)| Some((log.rfind(text)?, reason))).max();
    let reason = if log.is_empty() { Some("source") } else { last.map(|(_, reason)| reason) };
    reason.map(|reason| format!("denied: {reason}"))
}

/// An outcome in which times are relative to a packet's time.
fn relative(outcome: &str, time: u64) -> String {
    let word = |word: &str| match word.parse::<u64>() {
        Ok(seconds) if seconds > 1_000_000_000 => format!("TIME+{}", seconds - time),
        _ => word.to_owned(),
    };
    outcome.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Whether an outcome is the expected one. Its time may have become shorter while the rules were listed, and longer if
/// fwknopd was late.
fn is_expected(found: &str, expected: &str) -> bool {
    if found == expected {
        return true;
    }
    let split = |text: &str| {
        let (rest, seconds) = text.rsplit_once(' ')?;
        Some((rest.to_owned(), seconds.parse::<u64>().ok()?))
    };
    let (Some((found, seconds)), Some((expected, term))) = (split(found), split(expected)) else {
        return false;
    };
    let is_timed = found.starts_with("open") || found.starts_with("forward");
    is_timed && found == expected && (term.saturating_sub(LATE)..=term + LATE).contains(&seconds)
}

fn namespace() -> Namespace {
    let namespace = Namespace::new();
    for address in ADDRESSES {
        namespace.ip(&format!("addr add {address} dev lo"));
    }
    namespace
}

/// Compares all packets of a config. Returns the differences.
fn compare(name: &str, cases: &[Case]) -> Vec<String> {
    let config = Config::copy(name);
    let (settings, access) = config.parse();
    let stanzas = match access {
        Ok(access) => access.stanzas,
        Err(problems) => return compare_refusal(&config, &problems, cases),
    };
    let namespace = namespace();
    let daemon = Fwknopd::start(&namespace, &config);
    let port = *settings.ports.udp.as_ref().unwrap().start();
    let mut failures = Vec::new();
    for (number, case) in (1_u64..).zip(cases) {
        let seal = |key: usize, message: &Message, number: u64| {
            let text = message.to_text(number, Digest::Sha256);
            stanzas[key].key.seal(&text, &number.to_be_bytes(), &stanzas[key].hmac_key)
        };
        let message = case.message();
        let wire = seal(case.key(), &message, number);
        // Its last characters are wrong, so that no stanza's key verifies it.
        let barrier = seal(0, &message, number + 1_000);
        let barrier = format!("{}AAAA", &barrier[..barrier.len() - 4]);
        let ours = case.our_outcome(&settings, &stanzas, &wire);
        let theirs = daemon.outcome(case, &wire, (case.address("to", "192.0.2.1"), port), &barrier);
        let sides = [("this project", ours, case.ours), ("fwknopd", theirs, case.theirs)];
        for (side, found, expected) in sides {
            let found = relative(&found, message.time);
            if !is_expected(&found, expected) {
                failures.push(format!("[{name}] {}\n  {side}: {found}", case.line));
            }
        }
    }
    failures
}

/// A config that this project refuses as a whole.
fn compare_refusal(config: &Config, problems: &[ConfigProblem], cases: &[Case]) -> Vec<String> {
    let [case] = cases else { return vec![format!("{problems:?}")] };
    let dump = limited("true").status().map(|_| Dump::of(config)).unwrap();
    let theirs = if dump.stanzas.is_empty() { "refused" } else { "accepted" };
    let ours = format!("denied: {}", problems[0].reason);
    let is_same = ours.starts_with(case.ours) && theirs == case.theirs;
    if is_same { Vec::new() } else { vec![format!("{}\n  {ours}; fwknopd: {theirs}", case.line)] }
}

/// What `fwknopd -D` prints.
struct Dump {
    settings: BTreeMap<String, String>,
    stanzas: Vec<BTreeMap<String, String>>,
}

impl Dump {
    fn of(config: &Config) -> Self {
        let namespace = Namespace::new();
        let output = namespace.output(config.fwknopd().args(["-D", "--exit-parse-config"]));
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let (settings, access) = text.split_once("Current fwknopd access settings").unwrap_or((&text, ""));
        let entry = |line: &str, between: &str| {
            let (name, value) = line.split_once(between)?;
            let name = name.trim().rsplit(". ").next()?.to_owned();
            Some((name, value.trim().trim_matches('\'').to_owned()))
                .filter(|(_, value)| value != "<not set>" && value != "(null)")
        };
        let stanza = |part: &str| {
            let (source, rest) = part.split_once('\n').unwrap();
            let mut stanza: BTreeMap<_, _> = rest.lines().filter_map(|line| entry(line, ":  ")).collect();
            stanza.insert("SOURCE".to_owned(), source.split_once(":  ").unwrap().1.to_owned());
            stanza
        };
        Self {
            settings: settings.lines().filter_map(|line| entry(line, " =  ")).collect(),
            stanzas: access.split("\nSOURCE (").skip(1).map(stanza).collect(),
        }
    }
}

/// The fields of a stanza in the notation of the dump; those that fwknopd has not set are left out.
fn fields_of(stanza: &Stanza) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    let yes = |is_set: bool| Some(if is_set { "Yes" } else { "No" }.to_owned());
    let networks = |networks: &spa_knock_fwknop::Networks| {
        let list = networks.list().map(|list| list.map(|(a, m)| format!("{a}/{m}")).collect::<Vec<_>>());
        Some(list.map_or("ANY".to_owned(), |list| list.join(",")))
    };
    set("SOURCE", networks(&stanza.sources));
    set("DESTINATION", networks(&stanza.destinations).filter(|list| list != "ANY"));
    set("OPEN_PORTS", stanza.open_ports.as_ref().map(|ports| listed(ports)));
    set("RESTRICT_PORTS", Some(listed(&stanza.restrict_ports)).filter(|list| !list.is_empty()));
    set("FW_ACCESS_TIMEOUT", Some(stanza.timeout.to_string()));
    set("MAX_FW_TIMEOUT", Some(stanza.timeout_max.to_string()));
    set("ENABLE_CMD_EXEC", yes(stanza.commands.is_some()));
    set("CMD_EXEC_USER", stanza.commands.as_ref().and_then(|rules| rules.run_as.user.clone()));
    let cycle = stanza.cycle.as_ref();
    set("CMD_CYCLE_OPEN", cycle.map(|cycle| cycle.open.clone()));
    set("CMD_CYCLE_CLOSE", cycle.map(|cycle| cycle.close.clone().unwrap_or("NONE".to_owned())));
    // fwknopd has a timer without a command that closes, too, and does not use it.
    let timer = cycle.filter(|cycle| cycle.close.is_some()).map(|cycle| cycle.timer.to_string());
    set("CMD_CYCLE_TIMER", timer);
    set("REQUIRE_USERNAME", stanza.user.clone());
    set("REQUIRE_SOURCE_ADDRESS", yes(stanza.require_address));
    set("FORCE_NAT (ip)", stanza.nat.to.map(|(host, _)| host.to_string()));
    set("FORCE_NAT (port)", Some(stanza.nat.to.map_or(0, |(_, port)| port).to_string()));
    set("FORCE_SNAT (ip)", stanza.nat.source.map(|source| source.to_string()));
    set("FORCE_MASQUERADE", yes(stanza.nat.masquerade));
    set("DISABLE_DNAT", yes(stanza.nat.no_destination));
    set("FORWARD_ALL", yes(stanza.nat.forward_all));
    set("ACCESS_EXPIRE", stanza.expires.map(|expiry| seconds_of(expiry).to_string()));
    fields
}

/// A stanza of the dump in the notation of [`fields_of`].
fn normalized(stanza: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let closes = stanza.get("CMD_CYCLE_CLOSE").is_some_and(|close| close != "NONE");
    let field = |(name, value): (&String, &String)| {
        let value = match name.as_str() {
            "SOURCE" | "DESTINATION" => {
                let list: Vec<String> = value.split(',').map(|entry| masked(entry.trim())).collect();
                Some(list.join(",")).filter(|list| name == "SOURCE" || list != "ANY")
            }
            "OPEN_PORTS" | "RESTRICT_PORTS" => Some(listed(&ports(&value.replace(' ', "")))),
            "ACCESS_EXPIRE" => {
                let output =
                    limited("date").args(["-u", "+%s", "-d", &format!("{value} UTC")]).output().unwrap();
                Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
            }
            "CMD_CYCLE_TIMER" if !closes => None,
            // Keys are not printed; packets show that they are the same. GnuPG is not supported.
            "KEY"
            | "KEY_BASE64"
            | "KEY_LEN"
            | "HMAC_KEY"
            | "HMAC_KEY_BASE64"
            | "HMAC_KEY_LEN"
            | "HMAC_DIGEST_TYPE"
            | "ENABLE_CMD_SUDO_EXEC"
            | "FORCE_NAT (proto)" => None,
            name if name.starts_with("GPG_") => None,
            _ => Some(value.clone()),
        };
        value.map(|value| (name.clone(), value))
    };
    stanza.iter().filter_map(field).collect()
}

/// A network as address and mask.
fn masked(entry: &str) -> String {
    let (address, mask) = entry.split_once('/').unwrap_or((entry, "32"));
    let Ok(address) = address.parse::<Ipv4Addr>() else { return entry.to_owned() };
    let mask = mask.parse::<Ipv4Addr>().unwrap_or_else(|_| {
        let length: u32 = mask.parse().unwrap();
        Ipv4Addr::from(u32::MAX << (32 - length))
    });
    format!("{address}/{mask}")
}

#[test]
fn each_packet_has_the_same_effect_as_with_debians_fwknopd_except_where_the_case_has_a_reason() {
    if Lab::new().is_none() {
        return;
    }
    let cases = cases();
    let configs: Vec<(&&str, &Vec<Case>)> = cases.iter().collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((name, cases)) = configs.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let found = compare(name, cases);
                    failures.lock().unwrap().extend(found);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
    let count: usize = cases.values().map(Vec::len).sum();
    let different = cases.values().flatten().filter(|case| case.ours != case.theirs).count();
    println!("{count} packets for {} configs, {different} of them with an intended difference", cases.len());
}

#[test]
fn each_config_is_parsed_as_debians_fwknopd_parses_it() {
    if Lab::new().is_none() {
        return;
    }
    let mut compared = 0;
    for name in cases().keys() {
        let config = Config::copy(name);
        let (settings, access) = config.parse();
        let dump = Dump::of(&config);
        for (field, value) in [
            ("MAX_SPA_PACKET_AGE", settings.age_max.map(|age| age.to_string())),
            ("PCAP_INTF", settings.interface),
            ("ENABLE_UDP_SERVER", Some(if settings.udp_server { "Y" } else { "N" }.to_owned())),
            ("ENABLE_IPT_FORWARDING", Some(if settings.forwarding { "Y" } else { "N" }.to_owned())),
            ("ENABLE_IPT_LOCAL_NAT", Some(if settings.local_nat { "Y" } else { "N" }.to_owned())),
            ("ENABLE_NAT_DNS", Some(if settings.resolves_names { "Y" } else { "N" }.to_owned())),
        ] {
            // Without a value, the two have a different default, or the setting is off.
            if value.is_some() {
                assert_eq!(value.as_ref(), dump.settings.get(field), "{name}: {field}");
            }
        }
        let Ok(access) = access else { continue };
        assert_eq!(access.stanzas.len(), dump.stanzas.len(), "{name}");
        for (ours, theirs) in access.stanzas.iter().zip(&dump.stanzas) {
            let mut theirs = normalized(theirs);
            // Here, MAX_FW_TIMEOUT also limits FW_ACCESS_TIMEOUT.
            let seconds = |name: &str| theirs[name].parse::<u32>().unwrap();
            let limited = seconds("FW_ACCESS_TIMEOUT").min(seconds("MAX_FW_TIMEOUT"));
            theirs.insert("FW_ACCESS_TIMEOUT".to_owned(), limited.to_string());
            assert_eq!(fields_of(ours), theirs, "{name}, {}", ours.place);
            compared += theirs.len();
        }
    }
    println!("{compared} fields are the same");
    assert!(compared > 200);
}

/// Adds a firewall as it is usual with fwknop, and the rule that the translation asks for.
fn drop_by_default(namespace: &Namespace) {
    for rule in [
        "add table inet own",
        "add chain inet own input { type filter hook input priority 0 ; policy drop ; }",
        "add chain inet own forward { type filter hook forward priority 0 ; policy drop ; }",
        "add rule inet own input ct state established,related accept",
        "add rule inet own forward ct state established,related accept",
        "add rule inet own input meta l4proto ipv6-icmp accept",
        "add rule inet own input meta mark and 0x10000000 == 0x10000000 accept",
        "add rule inet own forward meta mark and 0x10000000 == 0x10000000 accept",
    ] {
        namespace.nft(rule);
    }
    namespace.sysctl("ipv4/ip_forward", "1");
}

/// Translates a config, and creates the clients with the commands in the translation. Returns the new config, or the
/// messages if there is none.
fn translate(namespace: &Namespace, config: &Config) -> Result<PathBuf, String> {
    let output = namespace.output(
        limited(Daemon::PROGRAM).args(["migrate", "--id", "bastion"]).arg(config.path("access.conf")),
    );
    if !output.status.success() {
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    let (top, file) = (config.0.path().display(), config.path("spa-knockd.toml"));
    let places = format!(
        "[server]\nuser = \"root\"\naudit = \"\"\nstate_dir = \"{top}/state\"\n\
         keys_dir = \"{top}/keys-of-clients\"\ncontrol = \"{top}/control\"\n"
    );
    let text = String::from_utf8(output.stdout).unwrap().replace("[server]\n", &places);
    fs::write(&file, &text).unwrap();
    set_mode(&file);
    for folder in ["state", "keys-of-clients"] {
        fs::create_dir(config.path(folder)).unwrap();
        fs::set_permissions(config.path(folder), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let clients: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("#   spa-knockd client add ")).collect();
    assert!(!clients.is_empty(), "{text}");
    for client in clients {
        let args = client.split(' ').map(|word| match word.strip_suffix(".key") {
            Some(_) => config.path(word).display().to_string(),
            None => word.to_owned(),
        });
        let mut command = limited(Daemon::PROGRAM);
        let output = namespace.output(command.arg("-c").arg(&file).args(["client", "add"]).args(args));
        assert!(output.status.success(), "{client}: {output:?}");
    }
    Ok(file)
}

#[test]
fn the_translation_of_each_config_passes_check() {
    if Lab::new().is_none() {
        return;
    }
    let namespace = namespace();
    drop_by_default(&namespace);
    // A socket gets no packets that the firewall drops: anyone who uses UDP server mode has this rule.
    namespace.nft("add rule inet own input udp dport 50000 accept");
    let mut translated = 0;
    for name in cases().keys() {
        let config = Config::copy(name);
        let file = match translate(&namespace, &config) {
            Ok(file) => file,
            Err(message) => {
                assert!(
                    *name == "router" && message.contains(": left out: $DST has no"),
                    "{name}: {message}"
                );
                continue;
            }
        };
        let output = namespace.output(limited(Daemon::PROGRAM).arg("check").arg("-c").arg(&file));
        let report = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {report}");
        translated += 1;
    }
    println!("{translated} translated configs pass check");
    assert!(translated >= 16, "{translated}");
}

#[test]
fn a_knock_opens_what_a_packet_of_fwknop_opened_and_nothing_else() {
    let Some(lab) = Lab::new() else { return };
    drop_by_default(&lab.server);
    let config = Config::copy("users");
    let text = fs::read_to_string(config.path("fwknopd.conf")).unwrap();
    fs::write(config.path("fwknopd.conf"), text.replace("PCAP_INTF lo", "PCAP_INTF lan0")).unwrap();
    let file = translate(&lab.server, &config).unwrap();
    let mut command = Command::new(Daemon::PROGRAM);
    command.arg("run").arg("-c").arg(file);
    let _daemon = Daemon::start_command(&lab.server, command);
    for port in [22, 80, 993] {
        lab.server.echo(port);
    }
    let knock = |client: &str, args: &[&str]| {
        let mut command = limited(env!("CARGO_BIN_EXE_spa-knock"));
        command
            .env_remove("SPA_KNOCK_KEY")
            .env("HOME", config.0.path())
            .arg("--key")
            .arg(config.path(client))
            .arg(SERVER4.to_string());
        lab.client.output(command.args(args))
    };
    let open = || [22, 80, 993].map(|port| lab.client.reaches(SERVER4, port));
    assert_eq!(open(), [false; 3]);
    let refused = knock("carol.key", &["open-port", "tcp/993"]);
    assert!(!refused.status.success(), "{refused:?}");
    let refused = knock("alice.key", &["open-port", "tcp/80"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert_eq!(open(), [false; 3]);
    let granted = knock("alice.key", &["open-port", "tcp/993"]);
    assert!(granted.status.success(), "{granted:?}");
    assert!(String::from_utf8_lossy(&granted.stderr).contains("for 30s"), "{granted:?}");
    assert_eq!(open(), [false, false, true]);
    let granted = knock("carol.key", &["open-tcp-80"]);
    assert!(String::from_utf8_lossy(&granted.stderr).contains("for 45s"), "{granted:?}");
    assert_eq!(open(), [false, true, true]);
}
