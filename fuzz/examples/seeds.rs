//! Recreates the seeds of `fuzz/` and `core/fuzz/` from the output of the code and from files of the project. Run in
//! `fuzz/`:
//! `RUSTFLAGS='--cfg fuzzing' cargo run --example seeds`

use std::path::Path;
use std::time::Duration;

use etherparse::{PacketBuilder, PacketBuilderStep, UdpHeader, VlanId};
use serde_json::Value;
use spa_knock::fuzzing::{append_acceptance, report, write_journal};
use spa_knock_core::auth::Authentic;
use spa_knock_core::crypto::checksum;
use spa_knock_core::knock::{AddressPolicy, Knock, ReplyWanted, Timestamp};
use spa_knock_core::wire::{Datagram, Envelope};
use spa_knock_core_fuzz::RECORD;
use spa_knock_core_fuzz::script::{Copied, Sealed, Step};
use spa_knock_core_fuzz::site::{self, NOW, SOURCES};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const VECTORS: &str = include_str!("../../core/tests/vectors/protocol-v1.json");
const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// The first byte of an input whose checksums are corrected; 0 leaves them unchanged.
const SEALED: u8 = 1;
/// The nonce of the second knock of a script.
const OTHER: u8 = 2;

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn main() {
    let targets = [
        ("core/fuzz/seeds/checks", scripts()),
        ("core/fuzz/seeds/keyfile", key_files()),
        ("fuzz/seeds/access", access_configs()),
        ("fuzz/seeds/config", configs()),
        ("fuzz/seeds/datagram", scripts()),
        ("fuzz/seeds/frame", frames()),
        ("fuzz/seeds/fwknop", packets_of_fwknop()),
        ("fuzz/seeds/journal", journals()),
        ("fuzz/seeds/knockd", knockd_configs()),
        ("fuzz/seeds/lease", leases()),
        ("fuzz/seeds/logged", log_lines()),
        ("fuzz/seeds/matcher", knocks()),
        ("fuzz/seeds/message", messages()),
        ("fuzz/seeds/request", requests()),
    ];
    for (target, seeds) in targets {
        let folder = Path::new(TOP).join(target);
        std::fs::create_dir_all(&folder).expect("a folder");
        for (name, bytes) in seeds {
            std::fs::write(folder.join(name), bytes).expect("a file");
        }
    }
}

fn log_lines() -> Seeds {
    let head = "Nov  4 14:20:24 bastion kernel: [12345.678901] knock: IN=eth0 OUT= MAC=52:54:00:12:34:56:52:54:00:65:43:21:08:00";
    let v4 = "SRC=10.77.0.2 DST=10.77.0.1 LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=54321 DF";
    let v6 = "SRC=fd77:0000:0000:0000:0000:0000:0000:0002 DST=fd77:0000:0000:0000:0000:0000:0000:0001 LEN=80 TC=0 HOPLIMIT=64 FLOWLBL=1 OPT ( )";
    let tcp = "PROTO=TCP SPT=40000 DPT=7000 SEQ=1 ACK=0 WINDOW=64240 RES=0x00 SYN URGP=0 OPT (020405B4) UID=0 GID=0 MARK=0x1 ";
    let udp = "PROTO=UDP SPT=40000 DPT=7000 LEN=8 ";
    let icmp = format!("PROTO=ICMP TYPE=3 CODE=1 [{v4} {udp}] ");
    let iso = "2026-11-24T14:20:24.123456+00:00 bastion kernel: IN=eth0 OUT=lan0 MACSRC=52:54:00:65:43:21 MACDST=52:54:00:12:34:56 MACPROTO=0800 VPROTO=8100 VID=7";
    let other = "Nov 24 14:20:24 bastion sshd[7]: Invalid user kernel: IN=eth0 OUT=";
    [
        ("syn", format!("{head} {v4} {tcp}\n")),
        ("empty", format!("{head} {v6} {udp}\n")),
        ("error", format!("{head} {v4} {icmp}\n")),
        ("long-time", format!("{iso} {v4} {tcp}\n{iso} {v6} {udp}\n")),
        (
            "other",
            format!(
                "{other} {v4} {tcp}\nNov 24 14:20:24 bastion kern.warn kernel: IN=eth0 OUT= {v4} {udp}\n"
            ),
        ),
    ]
    .map(|(name, text)| (name, text.into_bytes()))
    .into()
}

fn configs() -> Seeds {
    let read = |file: &str| std::fs::read_to_string(Path::new(TOP).join(file)).expect("a file");
    let shipped = read("packaging/spa-knockd.toml");
    let laptop = "[client.laptop]\nkey = \"laptop.key\"\nallow = [\"open-ssh\"]\n";
    let phone = "[client.phone]\nkey = '/k/phone.key'\nallow = ['web']\nsource = ['listed', 'exact']\nrate = '10/m'\ngrant-prefix = ['/24', '/64']\nexpires = 2027-01-31T18:00:00+01:00\nprevious = { key = 'old.key', until = 2027-01-31T12:00:00Z }\n";
    let full = "[server]\nid = 'bastion'\ninterfaces = ['eth0', 'wg0']\ncapture = 'udp'\nport = 4_000\nwindow = '2m'\nreply = false\nstate_dir = '/s'\nkeys_dir = '/k'\ncontrol = '/c'\nuser = 'nobody'\naudit = 'journal'\n[firewall]\nbackend = 'nftables'\nmode = 'set'\nfailsafe = { after = '10m', allow = ['203.0.113.0/24', '2001:db8::/32'] }\nprotect = ['tcp/22', 'udp/51820-51830']\npublished = ['tcp/8080']\n[action]\nopen-ssh = { open = ['tcp/22'], for = '30s', max = '10m', once = true }\nports = { open = 'argument', allow-ports = ['tcp/8000-8999'], for = '1m' }\nshut = { close = 'open-ssh' }\n[action.inside]\nforward = { from = 'tcp/15432', to = ['10.0.0.5:5432', '[fd00::5]:5432'] }\nfor = '1h'\n[action.web]\nrun = ['/usr/bin/systemctl', 'restart', '{argument}']\ntimeout = '5s'\nundo = ['/usr/bin/systemctl', 'stop', '{argument}']\nfor = '1m'\n";
    let broken = "tests/cmd/spa-knockd/bad-config.in";
    let broken = [read(&format!("{broken}/bad.toml")), read(&format!("{broken}/clients.d/phone.toml"))];
    [
        ("shipped", vec![shipped.as_str(), laptop]),
        ("full", vec![full, laptop, phone]),
        ("broken", broken.iter().map(String::as_str).collect()),
    ]
    .map(|(name, texts)| (name, texts.join("#####\n").into_bytes()))
    .into()
}

/// One of fwknop's config files with every variable, one with errors, and one that includes itself.
fn access_configs() -> Seeds {
    let full = "%include /i\nSOURCE 10.0.0.0/8,192.0.2.7,10.1.0.0/255.255.0.0\nDESTINATION ANY\nKEY one\nHMAC_KEY two\nHMAC_DIGEST_TYPE SHA512\nOPEN_PORTS tcp/22,udp/53\nRESTRICT_PORTS tcp/80\nREQUIRE_USERNAME alice\nREQUIRE_SOURCE_ADDRESS Y\nFW_ACCESS_TIMEOUT 60\nMAX_FW_TIMEOUT 90\nACCESS_EXPIRE 01/31/2030\nENCRYPTION_MODE CBC\n";
    let more = "SOURCE ANY\nKEY_BASE64 YmFy\nHMAC_KEY_BASE64 Zm9v\nENABLE_CMD_EXEC Y\nCMD_EXEC_USER daemon\nENABLE_CMD_SUDO_EXEC N\nCMD_CYCLE_OPEN /bin/a $IP $PORT\nCMD_CYCLE_CLOSE NONE\nCMD_CYCLE_TIMER 9\nFORCE_NAT 192.168.1.10 22\nFORCE_MASQUERADE Y\nACCESS_EXPIRE_EPOCH 1900000000\n";
    let server = "PCAP_INTF eth0;\nPCAP_FILTER udp port 62201 or tcp dst port 80;\nENABLE_SPA_PACKET_AGING Y;\nMAX_SPA_PACKET_AGE 60;\nENABLE_SPA_OVER_HTTP Y;\nENABLE_X_FORWARDED_FOR Y;\nENABLE_TCP_SERVER Y;\nTCPSERV_PORT 62201;\nENABLE_IPT_FORWARDING Y;\nENABLE_NAT_DNS N;\nFWKNOP_RUN_DIR /run;\nACCESS_FILE $FWKNOP_RUN_DIR/a;\n";
    let broken = "KEY early\nSOURCE 10.0.0\nKEY\nOPEN_PORTS tcp/0\n%include_keys /i\nGPG_DECRYPT_ID x\n";
    let joined = |texts: &[&str]| texts.join("#####\n").into_bytes();
    vec![
        ("full", joined(&[&format!("{full}{more}"), server, "SOURCE ANY\nKEY x\nHMAC_KEY y\n"])),
        ("broken", joined(&[broken, "ENABLE_NFQ_CAPTURE Y\nUDPSERV_PORT x\n", "KEY k\nOTHER o\n"])),
        ("itself", joined(&["%include /i\n", "", "SOURCE ANY\nKEY a\nHMAC_KEY b\n%include /i\n"])),
    ]
}

/// Plaintexts and packets, with the form in the first byte.
fn packets_of_fwknop() -> Seeds {
    let vectors = std::fs::read_to_string(format!("{TOP}/fwknop/tests/vectors/fwknop-3.0.0.json"));
    let vectors: Value = serde_json::from_str(&vectors.expect("the vectors")).expect("JSON");
    let wire = ["wire", "packet", "spa"].iter().find_map(|name| vectors.pointer(&format!("/0/{name}")));
    let wire = wire.and_then(Value::as_str).unwrap_or("8AAAA").to_owned();
    let access = "1234567890123456:YWxpY2U:1700000000:3.0.0:1:MTI3LjAuMC4yLHRjcC8yMg";
    let nat =
        "1234567890123456:YWxpY2U:1700000000:3.0.0:4:MTI3LjAuMC4yLHRjcC8yMg:MTkyLjE2OC4xMC4yLDU1MDAw:30";
    let command = "1234567890123456:YWxpY2U:1700000000:3.0.0:0:MTI3LjAuMC4yLC9iaW4vZWNobyBoaSB0aGVyZQ";
    let form = |form: u8, text: &str| [&[form], text.as_bytes()].concat();
    vec![
        ("wire", form(0, &wire)),
        ("unsigned", form(1, access)),
        ("access", form(2, access)),
        ("nat", form(2 + 4, nat)),
        ("command", form(2 + 8, command)),
        ("flipped", form(3, access)),
    ]
}

fn requests() -> Seeds {
    let request = "GET /8ab-_Z HTTP/1.1\r\nHost: h\r\nUser-Agent: Fwknop/2.6.10\r\nX-Forwarded-For: 192.0.2.7, 10.0.0.1\r\n\r\n";
    let proxy = request.replace("/8ab", "http://example.org/8ab").replace("Fwknop", "curl");
    [(3, request), (0, request), (1, proxy.as_str())]
        .into_iter()
        .zip(["forwarded", "plain", "proxy"])
        .map(|((rules, text), name)| (name, [&[rules], text.as_bytes()].concat()))
        .collect()
}

/// A knockd.conf with every setting, its one-time file, and a config that uses every permitted irregularity.
fn knockd_configs() -> Seeds {
    let full = "[options]\nUseSyslog\nLogFile = /l\nPidFile = /p\nInterface = eth0\n[a]\nSequence = 7000,8000:udp,9000:tcp\nSeq_Timeout = 5\nTCPFlags = syn,!ack\nTarget = 10.77.0.1\nStart_Command = /bin/a %IP%\nStart_Command_6 = /bin/b %IP%\nCmd_Timeout = 10\nStop_Command = /bin/c\nStop_Command_6 =\n[b]\nOne_Time_Sequences = /s\nSource = 10.0.0.0/8,fd00::/8\nAllowDuplicates\nOpen = tcp/22\nFor = 30s\n";
    let lax = "# x\r\n [a b]\r\n\tSEQUENCE=+1x,-1,70:UDP:z,\r\ncommand = a\ncommand = b = \"c\" # d\ntimeout = x\n[options]\nlogfile =\n";
    let once = " 1,2,3\n#4,5\n\n70000\n6:udp,7\n";
    [("full", full), ("lax", lax), ("once", once)].map(|(name, text)| (name, text.into())).into()
}

/// Doors of a knockd.conf, and packets that open them or nearly do.
fn knocks() -> Seeds {
    let doors = "[a]\nsequence=1,2,3\ntcpflags=syn\ntimeout=3\n[b]\nsequence=1,2\n[c]\nsequence=9:udp\ntarget=10.77.0.100\n#####\n";
    let packets = |packets: &[[u8; 6]]| [doors.as_bytes(), &packets.concat()].concat();
    let syn = |pause, port| [pause, 0, 0, port, 2, 0];
    vec![
        ("opens", packets(&[syn(1, 0), syn(1, 1), syn(1, 2), [1, 1, 1, 5, 0, 0]])),
        ("late", packets(&[syn(1, 0), syn(255, 1), [0, 0, 0, 2, 2, 1]])),
        ("wrong", packets(&[syn(1, 0), syn(1, 0), syn(1, 0), [1, 0, 0, 1, 16, 0], syn(1, 2)])),
    ]
}

fn scripts() -> Seeds {
    let honest = rest(&knock());
    let observed = rest(&Knock { policy: AddressPolicy::Observed, ipv4: None, ..knock() });
    let listed = rest(&Knock { policy: AddressPolicy::Listed, ipv6: "2001:db8::1".parse().ok(), ..knock() });
    let run = |action: &str, argument: &str| {
        let (action, argument) = (action.parse().expect("a name"), argument.parse().expect("an argument"));
        rest(&Knock { action, argument, seconds: 60, ..knock() })
    };
    let (once, ports) = (run("once", ""), run("ports", "tcp/8000-8010"));
    let (inside, shut) = (run("inside", ""), run("shut", ""));
    let (lamp, stamp) = (run("lamp", "on:50%"), run("touch", ""));
    let sealed = |nonce, rest| Sealed { nonce, skew: 0, off: 0, padding: 5, version: 1, flags: 1, rest };
    let copy = |source, flip, by| Step::Copy(source, Copied { which: 0, at: 30, flip, by });
    let vectors = vectors();
    let vector = |at: usize| (hex(&vectors[at]["knock"]["body"]), hex(&vectors[at]["knock"]["datagram"]));
    let (longest, foreign) = vector(0);
    let (argued, _) = vector(3);
    let (later, unsupported) =
        (Sealed { version: 2, ..sealed(3, &honest) }, Sealed { flags: 3, ..sealed(4, &honest) });
    let early = Sealed { skew: -31_000, ..sealed(5, &honest) };
    let misnamed = Sealed { off: 1, ..sealed(6, &observed) };
    vec![
        (
            "resent",
            script(&[
                Step::Knock(0, sealed(1, &honest)),
                copy(0, 0, 0),
                copy(0, 0, 0),
                copy(2, 0, 0),
                Step::Pass(11_000, 11_000),
                copy(0, 0, 0),
            ]),
        ),
        (
            "forged",
            script(&[
                Step::Knock(2, sealed(1, &honest)),
                copy(0, 1, 0),
                copy(0, 1, 1),
                copy(0, 1, 2),
                copy(0, 0, 2),
                Step::Raw(0, &foreign),
            ]),
        ),
        (
            "killed",
            script(&[
                Step::Knock(0, sealed(1, &honest)),
                Step::Restart(50),
                copy(0, 0, 0),
                Step::Pass(90_000, 60_000),
                Step::Knock(0, sealed(OTHER, &honest)),
                Step::Restart(0),
                copy(0, 0, 0),
            ]),
        ),
        (
            "reloaded",
            script(&[
                Step::Knock(0, sealed(1, &honest)),
                Step::Reload(1),
                copy(0, 0, 2),
                Step::Reload(0),
                copy(0, 0, 0),
                Step::Reload(2),
                Step::Knock(3, sealed(OTHER, &listed)),
                Step::Reload(3),
                Step::Knock(0, sealed(3, &lamp)),
            ]),
        ),
        (
            // With the same nonce again: the knock consumed by it must stay consumed.
            "returned",
            script(&[
                Step::Knock(0, sealed(1, &honest)),
                Step::Reload(1),
                Step::Reload(0),
                Step::Knock(1, Sealed { skew: 1_000, ..sealed(1, &honest) }),
                Step::Restart(0),
                Step::Copy(0, Copied { which: 1, at: 0, flip: 0, by: 0 }),
            ]),
        ),
        ("run", script(&[Step::Knock(0, sealed(1, &lamp)), Step::Knock(0, sealed(OTHER, &stamp))])),
        (
            "opened",
            script(&[
                Step::Knock(0, sealed(1, &once)),
                Step::Knock(0, sealed(OTHER, &ports)),
                Step::Knock(1, sealed(3, &inside)),
                Step::Knock(0, sealed(4, &shut)),
            ]),
        ),
        (
            "refused",
            script(&[
                Step::Knock(0, sealed(1, &longest[10..])),
                Step::Knock(3, sealed(OTHER, &argued[10..])),
                Step::Knock(0, later),
                Step::Knock(0, unsupported),
                Step::Knock(0, early),
                Step::Knock(1, misnamed),
            ]),
        ),
    ]
}

fn frames() -> Seeds {
    let ip = udp(PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(4000, 62201));
    let ethernet = || PacketBuilder::ethernet2([1; 6], [2; 6]);
    let vlan = VlanId::try_new(5).expect("a tag");
    let mut options = udp(ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(4000, 62201));
    // A router alert (RFC 2113) behind a header of 24 bytes.
    options[14] = 0x46;
    options[17] += 4;
    options.splice(34..34, [0x94, 4, 0, 0]);
    let mut extended = udp(PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(4000, 62201));
    // Destination options, then hop-by-hop options in front of them, each filled with padding.
    for kind in [60, 0] {
        let next = std::mem::replace(&mut extended[6], kind);
        extended.splice(40..40, [next, 0, 1, 4, 0, 0, 0, 0]);
        extended[5] += 8;
    }
    let mut fragment = ip.clone();
    fragment[6] = 0x20;
    let mut tcp = Vec::new();
    let opening = PacketBuilder::ipv6([1; 16], [2; 16], 64).tcp(4000, 20_480, 1, 1_024).syn();
    opening.write(&mut tcp, &[]).expect("a frame");
    vec![
        ("options", options),
        ("vlan", udp(ethernet().single_vlan(vlan).ipv6([1; 16], [2; 16], 64).udp(4000, 62201))),
        ("two-vlans", udp(ethernet().double_vlan(vlan, vlan).ipv4([1; 4], [2; 4], 64).udp(4000, 62201))),
        ("extended", extended),
        ("cooked", [&[0; 14], [8, 0].as_slice(), &ip].concat()),
        ("cooked2", [&[8, 0, 0, 0, 0, 0, 0, 7], [0; 12].as_slice(), &ip].concat()),
        ("loopback", [&[2, 0, 0, 0], ip.as_slice()].concat()),
        ("raw", ip),
        ("first-fragment", fragment),
        ("syn", tcp),
    ]
}

fn journals() -> Seeds {
    const NUMBER: [u8; 8] = [7; 8];
    let window = Duration::from_secs(30);
    let [one, two] = [[1; 8], [2; 8]].map(spa_knock_core::crypto::Fingerprint::from_bytes);
    let mut memory = site::memory();
    let mut journal = write_journal(&memory, NUMBER);
    for (key, ahead, id) in [(one, 0, 1), (two, 10, 2), (one, 5, 3), (one, 70, 4)] {
        let timestamp = NOW.wall.plus(Duration::from_secs(ahead));
        let accepted = memory
            .accept(key, spa_knock_core::auth::ReplayDomain::Datagrams, timestamp, [id; 12], window)
            .expect("new");
        append_acceptance(&mut journal, &accepted, NUMBER);
    }
    let form = |form: u8, bytes: &[u8]| [&[form], bytes].concat();
    vec![
        ("appended", form(0, &journal)),
        ("rewritten", form(SEALED, &write_journal(&memory, NUMBER))),
        ("torn", form(0, &journal[..journal.len() - 50])),
        ("begun", form(0, &journal[..RECORD])),
    ]
}

fn key_files() -> Seeds {
    let example = include_str!("../../keys.example");
    let (before, _) = example.rsplit_once("secret:").expect("a secret");
    vec![
        ("example", example.into()),
        ("pair", format!("{before}secret: {SECRET}\n").into_bytes()),
        ("root", format!("spa-knock-key: 1\nkind: root\nclient: laptop\nsecret: {SECRET}\n").into_bytes()),
    ]
}

fn leases() -> Seeds {
    let boot = "2ad5dc35-3e1c-4d4b-9a3c-8f0d3f3c1c0e";
    let body = |end| format!("spa-knock lease 1\nboot {boot}\nuntil {}\nend {end}\n", NOW.wall.as_millis());
    let sum: String = checksum(&[body("open").as_bytes()]).iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        ("open", format!("\0{}sum {sum}\n", body("open")).into_bytes()),
        ("clean", format!("\u{1}{}", body("clean")).into_bytes()),
    ]
}

fn messages() -> Seeds {
    let text = |kind: u8, text: &str| {
        let length = u16::try_from(text.len()).expect("short");
        [&[kind], length.to_be_bytes().as_slice(), text.as_bytes()].concat()
    };
    let key = [&[3], site::keys().fingerprint.as_bytes().as_slice(), &[5; 96]].concat();
    let (window, low) = (30_000_u64.to_be_bytes(), 20_480_u16.to_be_bytes());
    let (step, address) = (59_844_395_u64.to_be_bytes(), [203, 0, 113, 9]);
    let mut sequence =
        [&[6], site::keys().fingerprint.as_bytes().as_slice(), &step, &[0; 10], &[0xFF; 2]].concat();
    sequence.extend([&address, 4_000_u16.to_be_bytes().as_slice(), &[8]].concat());
    sequence.extend((20_480..28_672_u16).step_by(1_024).flat_map(u16::to_be_bytes));
    // Signed, perhaps, but not encrypted: it must have no effect.
    let datagram: Vec<u8> = (0..=255).cycle().take(228).collect();
    let knock = Authentic::from_watcher(site::keys().fingerprint, &datagram).expect("as long as a knock");
    let [source, elsewhere] = [SOURCES[0], SOURCES[3]].map(|text| text.parse().expect("an address"));
    vec![
        ("watch", [[1, 1, 0].as_slice(), &62_201_u16.to_be_bytes(), &window, &low].concat()),
        ("interface", text(2, "eth0")),
        ("key", key),
        ("go", vec![4]),
        ("sequence", sequence),
        ("become", [&[5], 65_534_u32.to_be_bytes().as_slice(), &65_533_u32.to_be_bytes()].concat()),
        ("watching", vec![1]),
        ("failed", text(2, "watcher: no\npacket socket")),
        ("seen", [&[5, 1], (1..=10_u64).flat_map(u64::to_be_bytes).collect::<Vec<u8>>().as_slice()].concat()),
        ("lost", text(4, "eth0: The interface disappeared")),
        ("knock", shortened(report(knock, source, [192, 0, 2, 1].into(), 3))),
        ("knock6", shortened(report(knock, elsewhere, [0_u16; 8].into(), 0))),
    ]
}

/// A message without trailing zeros, which readers do not need.
fn shortened(mut message: Vec<u8>) -> Vec<u8> {
    let used = message.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    message.truncate(used);
    message
}

fn knock() -> Knock {
    Knock {
        timestamp: Timestamp::default(),
        reply: ReplyWanted::Yes,
        seconds: 0,
        otp: None,
        policy: AddressPolicy::Exact,
        ipv4: Some([203, 0, 113, 9].into()),
        ipv6: None,
        action: "open-ssh".parse().expect("a name"),
        argument: "".parse().expect("an argument"),
    }
}

/// The content of the knock's body after its timestamp, as written by the client's code.
fn rest(knock: &Knock) -> Vec<u8> {
    let keys = site::client();
    let datagram = Datagram::seal_with(knock, keys, [1; 12], 0).expect("sealed");
    let envelope = Envelope::read(datagram.as_bytes()).expect("a datagram");
    let mut sealed = envelope.sealed.to_vec();
    let body = keys.seal.open(envelope.nonce, envelope.hint, &mut sealed).expect("its own");
    shortened(body[10..].to_vec())
}

fn script(steps: &[Step<'_>]) -> Vec<u8> {
    let mut script = Vec::new();
    steps.iter().for_each(|step| step.write(&mut script));
    script
}

fn udp(builder: PacketBuilderStep<UdpHeader>) -> Vec<u8> {
    let mut frame = Vec::new();
    builder.write(&mut frame, b"knock").expect("a frame");
    frame
}

fn vectors() -> Vec<Value> {
    serde_json::from_str(VECTORS).expect("the vectors")
}

fn hex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().expect("hex");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex")).collect()
}
