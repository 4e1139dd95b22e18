use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::capture::CaptureKind;
use crate::config::{Audit, BackendKind, Interfaces, MetricsPlace};
use spa_knock_core::auth::{Action, ActionPart, Arguments, Term, Touch, Uses};
use spa_knock_core::knock::{ActionName, AddressPolicy, KnockRange, Timestamp};

const MINIMAL: &str = "[server]\nid = 'a'\n";
const OPEN: &str = "[server]\nid = 'a'\n[action.o]\nopen = ['tcp/22']\nfor = '30s'\n";

fn source(file: &str, text: &str) -> ConfigText {
    ConfigText { file: PathBuf::from(file), text: text.to_owned() }
}

fn problems(text: &str) -> String {
    match read(&source("f", text), &[]) {
        Ok(_) => "valid".to_owned(),
        Err(errors) => errors.to_string(),
    }
}

fn problems_with(text: &str, clients: &[(&str, &str)]) -> String {
    let clients: Vec<_> = clients.iter().map(|(file, text)| source(file, text)).collect();
    match read(&source("f", text), &clients) {
        Ok(_) => "valid".to_owned(),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn missing_values_get_their_defaults() {
    let config = read(&source("f", MINIMAL), &[]).unwrap();
    assert_eq!(config.id.as_str(), "a");
    assert_eq!(config.interfaces, Interfaces::Any);
    assert_eq!(config.capture, CaptureKind::Pcap);
    assert_eq!(config.port, 62_201);
    assert_eq!(config.window, Duration::from_secs(30));
    assert!(config.reply);
    assert_eq!(config.state_dir, Path::new("/var/lib/spa-knock"));
    assert_eq!(config.keys_dir, Path::new("/etc/spa-knock/keys"));
    assert_eq!(config.control, Path::new("/run/spa-knock/control.sock"));
    assert_eq!(config.metrics, None);
    assert_eq!(config.health, None);
    assert_eq!(config.user, "spa-knock");
    assert_eq!(config.audit.to, Audit::File("/var/log/spa-knock/audit.jsonl".into()));
    assert_eq!((config.audit.size, config.audit.files, config.audit.required), (64 << 20, 4, false));
    assert_eq!(config.backend, BackendKind::Nftables);
    assert!(config.protect.is_empty() && config.actions.is_empty() && config.clients.is_empty());
}

#[test]
fn every_value_is_read() {
    let text = "
[server]
id = 'bastion.example.org'
interfaces = ['eth0', 'wg0']
capture = 'udp'
port = 4_000
window = '2m'
reply = false
state_dir = '/s'
keys_dir = '/k'
control = '/c'
metrics = '[::1]:9842'
health = '[::]:8080'
health-from = ['10.0.0.0/16', 'fd00::5']
user = 'watcher'
audit = 'journal'
[firewall]
backend = 'nftables'
mode = 'guard'
failsafe = 'closed'
protect = ['tcp/22', 'udp/51820', 'tcp/22']
[action.open-ssh]
open = ['tcp/22']
for = '30s'
max = '10m'
once = false
[action.web]
run = ['/usr/bin/systemctl', 'restart', '{argument}']
timeout = '5s'
[client.laptop]
key = 'laptop.key'
allow = ['open-ssh', 'web']
[client.phone]
key = '/elsewhere/phone.key'
allow = ['open-ssh']
source = ['listed']
rate = '10/m'
expires = 2027-01-31
";
    let config = read(&source("f", text), &[]).unwrap();
    assert_eq!(config.interfaces, Interfaces::Named(vec!["eth0".to_owned(), "wg0".to_owned()]));
    assert_eq!((config.capture, config.port, config.reply), (CaptureKind::Udp, 4_000, false));
    assert_eq!(config.window, Duration::from_secs(120));
    assert_eq!(config.metrics, Some(MetricsPlace::Tcp("[::1]:9842".parse().unwrap())));
    let health = config.health.as_ref().unwrap();
    assert_eq!(health.address, "[::]:8080".parse().unwrap());
    assert_eq!(health.from, ["10.0.0.0/16", "fd00::5"].map(|prefix| prefix.parse().unwrap()));
    assert_eq!((config.user.as_str(), &config.audit.to), ("watcher", &Audit::Journal));
    assert_eq!(config.protect.len(), 2);
    let action = |name: &str| config.actions[&name.parse::<ActionName>().unwrap()].clone();
    assert_eq!(
        action("open-ssh"),
        Action {
            parts: vec![ActionPart::Open { ports: vec!["tcp/22".parse().unwrap()], uses: Uses::Many }],
            term: Some(Term { usual: Duration::from_secs(30), max: Duration::from_secs(600) }),
        }
    );
    let argv = ["/usr/bin/systemctl", "restart", "{argument}"].map(|word| word.parse().unwrap());
    let (argv, timeout) = (argv.to_vec(), Duration::from_secs(5));
    let web = ActionPart::Run { argv, timeout, undo: None, arguments: Arguments::default() };
    assert_eq!(action("web"), Action { parts: vec![web], term: None });
    let client = |name: &str| config.clients[&name.parse::<ClientName>().unwrap()].clone();
    let laptop = client("laptop");
    assert_eq!(laptop.key, Path::new("/k/laptop.key"));
    assert_eq!(laptop.rules.allow.len(), 2);
    assert!(laptop.rules.sources.into_iter().eq([AddressPolicy::Observed, AddressPolicy::Exact]));
    let phone = client("phone");
    assert_eq!(phone.key, Path::new("/elsewhere/phone.key"));
    assert!(phone.rules.sources.into_iter().eq([AddressPolicy::Listed]));
    assert_eq!(phone.rules.rate, Some("10/m".parse().unwrap()));
    assert_eq!(phone.rules.expires, Some(Timestamp::from_millis(1_801_353_600_000)));
    assert_eq!(config.places.of(&["client", "phone", "rate"]).to_string(), "f:37:8");
    assert_eq!(config.places.of(&["client", "phone", "uses"]).to_string(), "f:33:9");
}

#[test]
fn a_ports_section_enables_port_sequences_if_packets_are_captured() {
    let ports = |server: &str, text: &str| {
        let text = format!("[server]\nid = 'a'\n{server}\n{text}");
        read(&source("f", &text), &[])
            .map(|config| config.ports.map(KnockRange::low))
            .map_err(|error| error.to_string())
    };
    assert_eq!(ports("", ""), Ok(None));
    assert_eq!(ports("", "[ports]"), Ok(Some(20_480)));
    assert_eq!(ports("", "[ports]\nlow = 40960"), Ok(Some(40_960)));
    assert_eq!(
        ports("capture = 'udp'", "[ports]\nlow = 40960").unwrap_err(),
        "f:4:2: ports: capture = \"udp\" receives only packets to the knock port\n\
         hint: use capture = \"pcap\", set packet-log to the firewall's log, or remove [ports]"
    );
}

#[test]
fn a_fleet_without_a_store_allows_only_what_a_copied_knock_cannot_misuse() {
    const FLEET: &str = "[server]\nid = 'a'\n[fleet]\nstore = 'none'\n";
    const EXACT: &str = "[client.c]\nkey = 'c.key'\nallow = ['o']\nsource = ['exact']\n";
    const SSH: &str = "[action.o]\nopen = ['tcp/22']\nfor = '1m'\n";
    let cases = [
        (format!("{SSH}{EXACT}"), "valid"),
        (
            format!("[action.o]\nforward = {{ from = 'tcp/1', to = '10.0.0.5:1' }}\nfor = '1m'\n{EXACT}"),
            "valid",
        ),
        (
            format!("{SSH}[client.c]\nkey = 'c.key'\nallow = ['o']\n"),
            "f:8:9: client.c.source: a copy of a knock could open another address (fleet.store is \"none\")\n\
             hint: set source = [\"exact\"]",
        ),
        (
            format!("{SSH}{EXACT}uses = 3\notp = 'c.otp'\n"),
            "f:12:8: client.c.uses: each member counts on its own (fleet.store is \"none\")\n\
             hint: remove it, or use a store\n\
             f:13:7: client.c.otp: each member accepts a code once (fleet.store is \"none\")\n\
             hint: remove it, or use a store",
        ),
        (
            format!("[action.o]\nopen = ['tcp/22']\nonce = true\nfor = '1m'\n{EXACT}"),
            "f:7:8: action.o.once: each member would admit a connection (fleet.store is \"none\")\n\
             hint: remove it, or use a store",
        ),
        (
            format!("[action.o]\nrun = ['/bin/a']\n{EXACT}"),
            "f:6:7: action.o.run: each member would run the command for a copy of the knock (fleet.store is \"none\")\n\
             hint: remove it, or use a store",
        ),
        (
            format!("[ports]\n{SSH}{EXACT}"),
            "f:5:2: ports: the members of a fleet without a store would each accept a copy (fleet.store is \"none\")\n\
             hint: remove this section",
        ),
    ];
    for (rest, expected) in cases {
        assert_eq!(problems(&format!("{FLEET}{rest}")), expected, "{rest}");
        assert_eq!(problems(&format!("{MINIMAL}{rest}")), "valid", "{rest}");
    }
    let missing = "hint: add store = \"etcd\" (the members accept each knock once, together), or \"none\" (servers that share id and keys, but no memory)";
    assert_eq!(problems(&format!("{MINIMAL}[fleet]\n")), format!("f:3:2: fleet.store: missing\n{missing}"));
    assert_eq!(
        problems(&format!("{MINIMAL}[fleet]\nstore = 'redis'\n")),
        "f:4:9: fleet.store: not one of: none, etcd"
    );
}

#[test]
fn max_defaults_to_the_actions_duration() {
    let config = read(&source("f", OPEN), &[]).unwrap();
    let action = config.actions.values().next().unwrap();
    assert!(action.term.is_some_and(|term| term.usual == term.max));
}

#[test]
fn hints_are_filtered_with_a_socket_and_nftables_unless_that_is_turned_off() {
    for (text, is_filtered) in [
        ("", false),
        ("capture = 'udp'", true),
        ("capture = 'udp'\n[firewall]\nhint-filter = true", true),
        ("capture = 'udp'\n[firewall]\nhint-filter = false", false),
        ("capture = 'udp'\n[firewall]\nbackend = 'iptables'", false),
        ("capture = 'udp'\n[firewall]\nbackend = 'none'", false),
        ("[firewall]\nhint-filter = false", false),
    ] {
        let config = read(&source("f", &format!("[server]\nid = 'b'\n{text}")), &[]).unwrap();
        assert_eq!(config.hint_filter, is_filtered, "{text}");
    }
}

#[test]
fn an_invalid_value_in_a_section_is_reported_with_its_location() {
    let cases = [
        (
            "[firewall]\nhint-filter = 1",
            "f:4:15: firewall.hint-filter: expected true or false, found an integer",
        ),
        (
            "[firewall]\nhint-filter = true",
            "f:4:15: firewall.hint-filter: only possible with capture = \"udp\" and backend = \"nftables\"\n\
             hint: remove it; with capture = \"pcap\", libpcap sees datagrams before any rule of the firewall",
        ),
        (
            "capture = 'udp'\n[firewall]\nbackend = 'iptables'\nhint-filter = true",
            "f:6:15: firewall.hint-filter: only possible with capture = \"udp\" and backend = \"nftables\"\n\
             hint: remove it, or use backend = \"nftables\"",
        ),
        (
            "capture = 'udp'\n[firewall]\nprotect = ['udp/60000-63000', 'udp/1-100']",
            "f:5:11: firewall.protect: udp/60000-63000 would drop every knock: udp/62201 is the knock port, and capture is \"udp\"\n\
             hint: leave the knock port out; split a range around it",
        ),
        (
            "port = 53\ncapture = 'udp'\n[firewall]\npublished = ['udp/53']",
            "f:6:13: firewall.published: udp/53 would drop every knock: udp/53 is the knock port, and capture is \"udp\"\n\
             hint: leave the knock port out; split a range around it",
        ),
        ("port = 0", "f:3:8: server.port: not a number from 1 to 65535"),
        ("port = 65536", "f:3:8: server.port: not a number from 1 to 65535"),
        ("window = '999ms'", "f:3:10: server.window: must be from 1s to 10m"),
        ("window = '11m'", "f:3:10: server.window: must be from 1s to 10m"),
        ("reply = 1", "f:3:9: server.reply: expected true or false, found an integer"),
        ("capture = 'tap'", "f:3:11: server.capture: not one of: pcap, udp"),
        ("interfaces = []", "f:3:14: server.interfaces: must not be empty"),
        (
            "interfaces = ['any', 'eth0']",
            "f:3:14: server.interfaces: \"any\" means all interfaces and must be the only entry",
        ),
        (
            "interfaces = ['a/b']",
            "f:3:15: server.interfaces: an interface name is 1 to 15 characters of A-Z, a-z, 0-9 and . _ @ : -",
        ),
        (
            "interfaces = ['abcdefghijklmnop']",
            "f:3:15: server.interfaces: an interface name is 1 to 15 characters of A-Z, a-z, 0-9 and . _ @ : -",
        ),
        ("state_dir = 'state'", "f:3:13: server.state_dir: not an absolute path"),
        (
            "keys_dir = '/a/../b'",
            "f:3:12: server.keys_dir: path contains '..'\nhint: write the path without '..'",
        ),
        ("audit = 'audit.log'", "f:3:9: server.audit: not an absolute path"),
        (
            "audit-size = 64",
            "f:3:14: server.audit-size: not a size\nhint: write it like \"512KiB\", \"64MiB\" or \"1GiB\"",
        ),
        ("audit-size = '1KiB'", "f:3:14: server.audit-size: must be from 64KiB to 1TiB"),
        ("audit-files = 1", "f:3:15: server.audit-files: not a number from 2 to 100"),
        (
            "audit = ''\naudit-required = true",
            "f:4:18: server.audit-required: no audit log is configured\nhint: set audit = \"/var/log/spa-knock/audit.jsonl\"",
        ),
        (
            "metrics = '0.0.0.0:9842'",
            "f:3:11: server.metrics: 0.0.0.0 is not a loopback address; metrics are served only to this host\n\
             hint: use \"127.0.0.1:9842\", and an encrypted tunnel or proxy for other hosts",
        ),
        (
            "metrics = '[::ffff:127.0.0.1]:9842'",
            "f:3:11: server.metrics: ::ffff:127.0.0.1 is not a loopback address; metrics are served only to this host\n\
             hint: use \"127.0.0.1:9842\", and an encrypted tunnel or proxy for other hosts",
        ),
        (
            "metrics = 'localhost:9842'",
            "f:3:11: server.metrics: neither an address with a port nor a path\nhint: write it like \"127.0.0.1:9842\" or \"/run/spa-knock/metrics.sock\"",
        ),
        ("metrics = '127.0.0.1:0'", "f:3:11: server.metrics: port must not be 0"),
        (
            "health = '10.0.0.5:8080'",
            "f:3:10: server.health: needs health-from: everyone else must not reach this port\n\
             hint: add health-from = [\"10.0.0.0/16\"] (the addresses of the load balancer)",
        ),
        (
            "health-from = ['10.0.0.0/16']",
            "f:3:15: server.health-from: has no effect without health\n\
             hint: add health = \"10.0.0.5:8080\" (an address of this host)",
        ),
        (
            "health-from = ['10.0.0.0/16']\nhealth = '8080'",
            "f:4:10: server.health: not an address with a port\n\
             hint: write it like \"10.0.0.5:8080\", \"[2001:db8::5]:8080\" or \"0.0.0.0:8080\"",
        ),
        ("health-from = ['10.0.0.0/16']\nhealth = '10.0.0.5:0'", "f:4:10: server.health: port must not be 0"),
        (
            "health = '10.0.0.5:0'\nhealth-from = ['10.0.0.0/16', '10.0.3.0/24']",
            "f:3:10: server.health: port must not be 0\n\
             f:4:15: server.health-from: 10.0.3.0/24 overlaps another prefix\nhint: keep only the larger one",
        ),
        (
            "health = '10.0.0.5:8080'\nhealth-from = ['10.0.0.0/16']\n[firewall]\nprotect = ['tcp/22', 'tcp/8000-8999']",
            "f:3:10: server.health: tcp/8000-8999 is closed without a grant, but health checks do not knock\n\
             hint: use another port, or remove this one from [firewall]",
        ),
        (
            "health = '10.0.0.5:8080'\nhealth-from = ['10.0.0.0/16']\n[firewall]\npublished = ['tcp/8080']",
            "f:3:10: server.health: tcp/8080 is closed without a grant, but health checks do not knock\n\
             hint: use another port, or remove this one from [firewall]",
        ),
        (
            "health = '0.0.0.0:9842'\nhealth-from = ['10.0.0.0/16']\nmetrics = '127.0.0.1:9842'",
            "f:3:10: server.health: metrics use this address\nhint: use another port",
        ),
        ("user = ''", "f:3:8: server.user: not a user name"),
        ("prot = 1", "f:3:1: server.prot: unknown key\nhint: did you mean 'port'?"),
        ("[firewall]\nbackend = 'pf'", "f:4:11: firewall.backend: not one of: nftables, iptables, none"),
        (
            "[firewall]\nbackend = 'iptables'\nmode = 'set'",
            "f:5:8: firewall.mode: backend \"iptables\" does not support this mode\n\
             hint: use mode = \"guard\" or \"mark\", or backend = \"nftables\"",
        ),
        (
            "[firewall]\nmode = 'mark'\nmark = '0x30'",
            "f:5:8: firewall.mark: not a single bit in hexadecimal, such as \"0x10000000\"",
        ),
        (
            "[firewall]\nmode = 'mark'\npublished = ['tcp/80']",
            "f:5:13: firewall.published: mode \"mark\" closes nothing, and a container engine's own rules accept these \
             ports\n\
             hint: use mode = \"guard\", or publish the ports on 127.0.0.1 and use an action with `forward`",
        ),
        (
            "[firewall]\nbackend = 'iptables'\n[action.o]\nopen = ['tcp/22']\nfor = '1h'\nmax = '30d'",
            "f:8:7: action.o.max: a grant lasts at most 24 days with backend \"iptables\"",
        ),
        ("[firewall]\nmode = 'sets'", "f:4:8: firewall.mode: not one of: guard, mark, set"),
        (
            "[firewall]\nfailsafe = { after = '10m' }",
            "f:4:1: firewall.failsafe.allow: missing\n\
             hint: add allow = [\"203.0.113.0/24\"] (the addresses admitted then; \"any\" admits everyone)",
        ),
        (
            "[firewall]\nfailsafe = { after = '5s', allow = ['203.0.113.1/24'] }",
            "f:4:22: firewall.failsafe.after: must be from 30s to 7d\n\
             f:4:37: firewall.failsafe.allow: address has bits set beyond its prefix length: use the first address of the range",
        ),
        (
            "[firewall]\nfailsafe = { after = '10m', allow = ['203.0.113.0/24', '203.0.113.7'] }",
            "f:4:37: firewall.failsafe.allow: 203.0.113.7 overlaps another prefix\nhint: keep only the larger one",
        ),
        ("[firewall]\nfailsafe = 'open'", "f:4:12: firewall.failsafe: not one of: closed"),
        (
            "[firewall]\nprotect = ['tcp/8000-8999', 'tcp/8080']",
            "f:4:11: firewall.protect: tcp/8000-8999 and tcp/8080 overlap\nhint: combine them into one range",
        ),
        (
            "[firewall]\nprotect = ['tcp/22', 'ssh']",
            "f:4:22: firewall.protect: expected a port such as tcp/22 or udp/51820, from 1 to 65535",
        ),
        ("[ports]\nlow = 0", "f:4:7: ports.low: not a number from 1 to 57344"),
        ("[ports]\nlow = 57345", "f:4:7: ports.low: not a number from 1 to 57344"),
        (
            "[legacy]",
            "f:3:2: legacy.knockd: missing\nhint: add knockd = \"/etc/knockd.conf\" (the file that defines the doors), or fwknop = \"/etc/fwknop/access.conf\"",
        ),
        (
            "[legacy]\nknockd = '/k'\nlog = 'journal'",
            "f:5:7: legacy.log: has moved to [server]\nhint: set packet-log in [server] to the same value; [legacy] only configures knockd's doors",
        ),
        ("packet-log = 'kern.log'", "f:3:14: server.packet-log: not an absolute path"),
        (
            "packet-log-prefix = 'knock: '",
            "f:3:21: server.packet-log-prefix: has no effect without packet-log\nhint: add packet-log = \"/var/log/kern.log\"",
        ),
        (
            "packet-log = 'journal'\npacket-log-prefix = 'ä'",
            "f:4:21: server.packet-log-prefix: a rule's log prefix has at most 127 printable ASCII characters",
        ),
        ("[legacy]\nknockd = 'k'", "f:4:10: legacy.knockd: not an absolute path"),
        (
            "capture = 'udp'\n[legacy]\nknockd = '/k'",
            "f:4:2: legacy: capture = \"udp\" receives only packets to the knock port\nhint: use capture = \"pcap\", set packet-log to the firewall's log, or remove [legacy]",
        ),
        (
            "per-key-limit = { burst = 7, rate = '4/s' }",
            "f:3:27: server.per-key-limit.burst: not a number from 8 to 100000",
        ),
        (
            "per-key-limit = { burst = 128 }",
            "f:3:1: server.per-key-limit.rate: missing\nhint: add rate = \"4/s\" (knocks accepted in the long run)",
        ),
        ("[sever]", "f:3:2: sever: unknown key\nhint: did you mean 'server'?"),
        (
            "action = 1",
            "f:3:1: server.action: unknown key\nhint: known keys: id, interfaces, capture, packet-log, packet-log-prefix, port, metrics, health, health-from, address, window, grants, reply, state_dir, keys_dir, control, per-key-limit, user, audit, audit-size, audit-files, audit-required",
        ),
    ];
    let is_legacy = |line: &str| line.contains("[legacy]");
    for (line, message) in cases.into_iter().filter(|(line, _)| cfg!(feature = "legacy") || !is_legacy(line))
    {
        assert_eq!(problems(&format!("{MINIMAL}{line}\n")), message);
    }
    let no_id = "hint: add id = \"NAME\" (the name that clients use for this server, e.g. its host name)";
    assert_eq!(problems("[server]\n"), format!("f:1:2: server.id: missing\n{no_id}"));
    assert_eq!(problems(""), format!("f: server.id: missing\n{no_id}"));
    assert_eq!(
        problems("[server]\nid = 'A'"),
        "f:2:6: server.id: a server id is 1 to 64 characters of a-z, 0-9, '.', '_', ':' and '-'"
    );
}

#[test]
fn an_invalid_action_is_reported_with_its_location() {
    let form = "hint: write it like \"30s\", \"5m\" or \"2h\"";
    let cases = [
        (
            "x = 1",
            "f:3:9: action.a: the action has no effect\nhint: add an effect, e.g. open = [\"tcp/22\"] or run = [\"/usr/bin/true\"]\n\
             f:4:1: action.a.x: unknown key\nhint: known keys: open, run, forward, close, for, max, timeout, undo, \
             allow-arguments, allow-ports, once",
        ),
        ("open = []\nfor = '1s'", "f:4:8: action.a.open: must not be empty"),
        (
            "open = ['tcp/22']",
            "f:3:9: action.a: `for` is missing\nhint: add for = \"30s\" (how long it lasts)",
        ),
        ("open = ['tcp/22']\nfor = '30x'", &format!("f:5:7: action.a.for: not a duration\n{form}")),
        ("open = ['tcp/22']\nfor = 30", &format!("f:5:7: action.a.for: not a duration\n{form}")),
        ("open = ['tcp/22']\nfor = '0s'", "f:5:7: action.a.for: must be from 1s to 365d"),
        ("open = ['tcp/22']\nfor = '366d'", "f:5:7: action.a.for: must be from 1s to 365d"),
        (
            "open = ['tcp/22']\nfor = '1m'\nmax = '30s'",
            "f:6:7: action.a.max: must not be shorter than `for` (1m)",
        ),
        (
            "open = ['tcp/22-23']\nfor = '1m'\nonce = true",
            "f:4:8: action.a.open: a port range cannot be opened with `once`\nhint: list single ports, or remove `once`",
        ),
        ("run = ['/bin/true']\nonce = true", "f:5:8: action.a.once: has no effect without `open`"),
        (
            "open = ['tcp/22']\nfor = '1m'\ntimeout = '1s'",
            "f:6:11: action.a.timeout: has no effect without `run`\n\
             hint: set the duration of a grant with `for`",
        ),
        (
            "open = 'argument'\nfor = '1m'",
            "f:4:8: action.a.open: `allow-ports` is missing\nhint: add allow-ports = [\"tcp/8000-8999\"] (the ports that clients can request)",
        ),
        (
            "open = ['tcp/22']\nallow-ports = ['tcp/8000-8999']\nfor = '1m'",
            "f:5:15: action.a.allow-ports: has no effect unless `open` is \"argument\"\nhint: set open = \"argument\"",
        ),
        ("open = 'tcp/22'\nfor = '1m'", "f:4:8: action.a.open: expected a list, found a string"),
        (
            "forward = { from = 'tcp/1', to = 'x' }\nfor = '10m'",
            "f:4:34: action.a.forward.to: not a target\n\
             hint: write it like 10.0.0.5:5432, [fd00::5]:5432 or, for a port of this host, :8080",
        ),
        (
            "forward = { from = 'tcp/1', to = ['10.0.0.5:1', '10.0.0.6:1'] }\nfor = '10m'",
            "f:4:49: action.a.forward.to: second target for the same IP version",
        ),
        (
            "forward = { from = 'tcp/1', to = '127.0.0.1:80' }",
            "f:3:9: action.a: `for` is missing\nhint: add for = \"30s\" (how long it lasts)\n\
             f:4:34: action.a.forward.to: not a target\n\
             hint: write it like 10.0.0.5:5432, [fd00::5]:5432 or, for a port of this host, :8080",
        ),
        ("close = 'open-ssh'", "f:4:9: action.a.close: no such action: open-ssh"),
        ("close = 'a'", "f:4:9: action.a.close: action a opens nothing that can be closed"),
        ("run = []", "f:4:7: action.a.run: must not be empty"),
        (
            "run = ['true']",
            "f:4:8: action.a.run: the program is not an absolute path\nhint: write the full path; commands run without a shell and without PATH",
        ),
        (
            "run = ['/bin/{argument}']",
            "f:4:8: action.a.run: the program cannot contain a placeholder\nhint: use placeholders only in the arguments",
        ),
        (
            "run = ['/bin/echo', '{ip}']",
            "f:4:21: action.a.run: unknown placeholder {ip} (known: {address}, {port}, {client}, {action}, {argument}, \
             {seconds})",
        ),
        (
            "run = ['/bin/a', '{']",
            "f:4:18: action.a.run: unmatched brace (write {{ or }} for a literal brace)",
        ),
        (
            "run = ['/bin/a']\nundo = ['/bin/b']",
            "f:3:9: action.a: `for` is missing\nhint: add for = \"30s\" (how long it lasts)",
        ),
        (
            "run = ['/bin/a']\nundo = ['b', '{c}']\nfor = '1m'\nmax = '1s'",
            "f:5:9: action.a.undo: the program is not an absolute path\nhint: write the full path; commands run without a shell and without PATH\n\
             f:5:14: action.a.undo: unknown placeholder {c} (known: {address}, {port}, {client}, {action}, {argument}, \
             {seconds})\nf:7:7: action.a.max: must not be shorter than `for` (1m)",
        ),
        (
            "run = ['/bin/a']\nfor = '1m'",
            "f:5:7: action.a.for: has no effect because nothing in this action has a duration\n\
             hint: add undo = [...] to undo `run` after this time, or use timeout = \"10s\" to limit how long it runs",
        ),
        (
            "open = ['tcp/22']\nfor = '1m'\nundo = ['/bin/a']",
            "f:6:8: action.a.undo: has no effect without `run`\nhint: remove `undo`: grants expire automatically",
        ),
        (
            "run = ['/bin/a', '{seconds}']",
            "f:3:9: action.a: `for` is missing; it determines {seconds}\n\
             hint: add for = \"30s\" (the value of {seconds}); max = \"1h\" allows clients to request more",
        ),
        (
            "run = ['/bin/a']\nallow-arguments = ['a']",
            "f:5:19: action.a.allow-arguments: has no effect because no command contains {argument}\n\
             hint: use it in a command: run = [\"/usr/bin/systemctl\", \"restart\", \"{argument}\"]",
        ),
        (
            "run = ['/bin/a', '{argument}']\nallow-arguments = ['a b', 'c']",
            "f:5:20: action.a.allow-arguments: not an argument: only A-Z a-z 0-9 . _ : / @ % + = , - and *, at most \
             80, no leading -",
        ),
        ("run = ['/bin/a']\ntimeout = '2h'", "f:5:11: action.a.timeout: must be from 1s to 1h"),
    ];
    for (lines, message) in cases {
        assert_eq!(problems(&format!("{MINIMAL}[action.a]\n{lines}\n")), message);
    }
    assert_eq!(
        problems(&format!("{MINIMAL}[action.Open]\nrun = ['/bin/a']\n")),
        "f:3:9: action.Open: an action name is 1 to 32 characters of a-z, 0-9, '_' and '-'"
    );
    assert_eq!(
        problems(&format!("{OPEN}[firewall]\nbackend = 'none'\n")),
        "f:4:8: action.o.open: cannot open anything with firewall.backend = \"none\""
    );
}

#[test]
fn an_invalid_client_is_reported_with_its_location() {
    let key_hint = "hint: name a file in keys_dir or an absolute path, without '..'";
    let instant_hint = "hint: write a time as 2027-01-31 or 2027-01-31T18:00:00+01:00, without quotes";
    let cases = [
        (
            "allow = ['o']",
            "f:6:9: client.c.key: missing\nhint: add key = \"NAME.key\" (its key file in keys_dir)",
        ),
        (
            "key = 'c.key'",
            "f:6:9: client.c.allow: missing\nhint: add allow = [\"ACTION\"] (the actions that it can request)",
        ),
        ("key = 'c.key'\nallow = []", "f:8:9: client.c.allow: must not be empty"),
        (
            "key = 'c.key'\nallow = ['o', 'p']",
            "f:8:15: client.c.allow: no such action: p\nhint: defined actions: o",
        ),
        ("allow = ['o']\nkey = '../c.key'", &format!("f:8:7: client.c.key: not a key file name\n{key_hint}")),
        ("allow = ['o']\nkey = ''", &format!("f:8:7: client.c.key: not a key file name\n{key_hint}")),
        (
            "allow = ['o']\nkey = 'k'\nsource = ['any']",
            "f:9:11: client.c.source: not one of: exact, observed, listed",
        ),
        (
            "allow = ['o']\nkey = 'k'\nrate = '10'",
            "f:9:8: client.c.rate: expected a rate such as 10/m: 1 to 10000 per second (s), minute (m), hour (h) or day (d)",
        ),
        (
            "allow = ['o']\nkey = 'k'\nexpires = 2027-01-31T10:00:00",
            &format!("f:9:11: client.c.expires: neither a date nor a time with an offset\n{instant_hint}"),
        ),
        (
            "allow = ['o']\nkey = 'k'\nexpires = '2027-01-31'",
            &format!("f:9:11: client.c.expires: neither a date nor a time with an offset\n{instant_hint}"),
        ),
        (
            "allow = ['o']\nkey = 'k'\notp = '../c.otp'",
            "f:9:7: client.c.otp: not a key file name\nhint: name a file in keys_dir or an absolute path, without '..'",
        ),
        (
            "allow = ['o']\nkey = 'k'\nuses = 0",
            "f:9:8: client.c.uses: not a number from 1 to 9223372036854775807",
        ),
        (
            "allow = ['o']\nkey = 'k'\nalow = []",
            "f:9:1: client.c.alow: unknown key\nhint: did you mean 'allow'?",
        ),
    ];
    for (lines, message) in cases {
        assert_eq!(problems(&format!("{OPEN}[client.c]\n{lines}\n")), message);
    }
}

#[test]
fn a_client_file_defines_the_client_with_the_name_of_the_file() {
    let laptop = "[client.laptop]\nkey = 'l.key'\nallow = ['o']\n";
    let main = source("/e/f", OPEN);
    let config = read(&main, &[source("/e/clients.d/laptop.toml", laptop)]).unwrap();
    assert_eq!(config.clients.values().next().unwrap().defined_in, Path::new("/e/clients.d/laptop.toml"));
    let cases = [
        (
            "d/phone.toml",
            laptop,
            "d/phone.toml:1:9: client.laptop: does not match the file name\n\
             hint: rename the file to laptop.toml, or the table to [client.phone]",
        ),
        (
            "d/phone.toml",
            "",
            "d/phone.toml: client: missing\nhint: a file in clients.d must contain one table, [client.phone]",
        ),
        (
            "d/laptop.toml",
            "[client.laptop]\nkey = 'l.key'\nallow = ['o']\n[server]\nid = 'b'\n",
            "d/laptop.toml:4:2: server: unknown key\nhint: known keys: client",
        ),
        (
            "d/laptop.toml",
            "[client.laptop]\nkey = 'l.key'\nallow = ['p']\n",
            "d/laptop.toml:3:10: client.laptop.allow: no such action: p\nhint: defined actions: o",
        ),
        (
            "d/console.toml",
            "[client.console]\nkey = 'l.key'\nallow = ['o']\n",
            "d/console.toml:1:9: client.console: name is reserved for grants from the console (spa-knockd let-in)\n\
             hint: choose another name for this client",
        ),
    ];
    for (file, text, message) in cases {
        assert_eq!(problems_with(OPEN, &[(file, text)]), message);
    }
}

#[test]
fn a_client_defined_twice_is_reported_with_both_locations() {
    let client = "[client.laptop]\nkey = 'l.key'\nallow = ['o']\n";
    assert_eq!(
        problems_with(&format!("{OPEN}{client}"), &[("d/laptop.toml", client)]),
        "d/laptop.toml:1:9: client.laptop: defined twice, first at f:6:9\nhint: remove one of the two"
    );
}

#[test]
fn all_problems_of_all_files_are_reported_in_the_order_of_their_locations() {
    let main = "[server]\nid = 'A'\nport = 0\n[action.a]\nfor = 1\n[client.c]\nallow = ['a', 'b']\n";
    let problems = problems_with(
        main,
        &[("d/x.toml", "[client.x\n"), ("d/y.toml", "[client.y]\nkey = 'y'\nallow = 1\n")],
    );
    let places: Vec<_> = problems
        .lines()
        .filter(|line| !line.starts_with("hint: "))
        .filter_map(|l| l.split(": ").next())
        .collect();
    assert_eq!(
        places,
        ["d/x.toml:1:10", "d/y.toml:3:9", "f:2:6", "f:3:8", "f:4:9", "f:6:9", "f:7:15"],
        "{problems}"
    );
}

#[test]
fn a_syntax_error_in_the_config_causes_no_errors_in_client_files() {
    let client = "[client.laptop]\nkey = 'l.key'\nallow = ['o']\n";
    let problems = problems_with("[server\n", &[("d/laptop.toml", client)]);
    assert!(problems.starts_with("f:1:8: ") && problems.lines().count() == 1, "{problems}");
}

#[test]
fn client_files_that_do_not_end_in_toml_are_ignored() {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("spa-knockd.toml");
    let folder = scratch.path().join(CLIENTS_FOLDER);
    let write =
        |path: &Path, text: &str| files::create_new(path, files::FileMode::Private, text.as_bytes()).unwrap();
    let missing =
        "spa-knockd.toml: no such file or directory\nhint: run `spa-knockd init` to create a config";
    assert!(load(&config).unwrap_err().to_string().ends_with(missing));
    write(&config, OPEN);
    assert!(load(&config).unwrap().clients.is_empty(), "without the folder there are no clients");
    files::create_folder(&folder, files::FileMode::Private).unwrap();
    write(&folder.join("laptop.toml"), "[client.laptop]\nkey = 'l.key'\nallow = ['o']\n");
    write(&folder.join("laptop.toml~"), "rubbish");
    write(&folder.join("README"), "rubbish");
    assert_eq!(load(&config).unwrap().clients.len(), 1);
}

proptest! {
    #[test]
    fn any_text_is_accepted_or_refused(
        text in "([a-z]{1,3} = |\\[(server|action\\.a|client\\.b)\\]\n|id|open|for|key|allow|=|'30s'|\\[|\\]|\n|-|\\{|.){0,60}",
    ) {
        let _ = problems_with(&text, &[("d/x.toml", &text)]);
    }

    #[test]
    fn any_value_of_any_key_is_accepted_or_refused(
        section in prop::sample::select(vec!["server", "firewall", "action.a", "client.a"]),
        key in prop::sample::select(vec![
            "id", "interfaces", "port", "window", "audit", "backend", "failsafe", "protect", "open", "run", "for", "max",
            "once", "timeout", "key", "allow", "source", "rate", "expires",
        ]),
        value in prop::sample::select(vec![
            "1", "-1", "0x10", "1.5", "true", "''", "'30s'", "'999999999999999999y'", "[]", "[[]]", "['tcp/22', 1]", "{}",
            "2027-01-31", "07:32:00", "9999-12-31T23:59:59-23:59", "['{']", "'\\u0000'", "\"\\u0000\"", "99999999999999999999",
        ]),
    ) {
        let _ = problems(&format!("[{section}]\n{key} = {value}\n"));
    }
}

#[test]
fn a_public_key_is_read_or_refused_at_its_place() {
    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAw1DInpu1AUJNxvw21MVAnXYFO1LNSH4KXDra/jnQ1i";
    const SMALL: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let client = |lines: &str| {
        format!(
            "{MINIMAL}[action.o]\nopen=['tcp/22']\nfor='30s'\n[client.a]\nkey='a.key'\nallow=['o']\n{lines}"
        )
    };
    let text = client(&format!(
        "public_key = '{ED25519} me@laptop'\nprevious = {{ key = 'b.key', until = 2030-01-01 }}"
    ));
    let config = read(&ConfigText { file: PathBuf::from("f"), text }, &[]).unwrap();
    let entry = config.clients.values().next().unwrap();
    let signing = entry.signing.as_ref().unwrap();
    assert_eq!((signing.public_key.to_string().as_str(), signing.touch), (ED25519, Touch::Present));
    assert_eq!(entry.previous.as_ref().unwrap().public_key, None);

    let cases = [
        (
            format!("public_key = '{SMALL}'"),
            "client.a.public_key: not a valid key: its point is not on the curve, not canonical or of small order",
        ),
        (
            "public_key = 'ssh-ed25519'".to_owned(),
            "client.a.public_key: expected a public key such as ssh-ed25519 AAAA…",
        ),
        (
            "public_key = 'ssh-rsa AAAA'".to_owned(),
            "client.a.public_key: this kind of key cannot sign knocks (use ssh-ed25519, ecdsa-sha2-nistp256, sk-ssh-ed25519@openssh.com or sk-ecdsa-sha2-nistp256@openssh.com)",
        ),
        (
            format!("public_key = 'ecdsa-sha2-nistp256 {}'", &ED25519[12..]),
            "client.a.public_key: the text names another algorithm than the key itself",
        ),
        (
            format!("public_key = '{ED25519}'\ntouch = 'pin'"),
            "client.a.touch: not for a key of kind ssh-ed25519\nhint: remove it; only FIDO keys (sk-…) state that someone is present",
        ),
        (
            "touch = 'pin'".to_owned(),
            "client.a.touch: without a public_key, nothing is signed\nhint: add public_key, or remove `touch`",
        ),
        (format!("public_key = '{ED25519}'\ntouch = 'twice'"), "client.a.touch: not one of: present, pin"),
        (
            format!("previous = {{ key = 'b.key', until = 2030-01-01, public_key = '{ED25519}' }}"),
            "client.a.previous.public_key: the client itself has no public_key, so its previous key needs none\nhint: remove it, or add public_key to the client",
        ),
    ];
    for (lines, message) in cases {
        let found = problems(&client(&lines));
        assert!(found.contains(message), "{lines}: {found}");
    }
}
