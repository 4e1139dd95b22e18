//! `spa-knock fwknop` and Debian's fwknopd: the packets of the client open its rules, as those of fwknop's own client do.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use regex::Regex;
use spa_knock_fwknop::{CipherKey, Digest, HmacKey, Message, WireText};
use tempfile::TempDir;

use crate::net::{Daemon, Lab, Namespace, SERVER_ID, SOON, Site, limited, open_ssh, within};

/// Accepts packets over UDP and TCP, and in HTTP requests.
const SETTINGS: &str = "PCAP_FILTER port 62201;\nENABLE_TCP_SERVER Y;\nENABLE_SPA_OVER_HTTP Y;\n";
/// `sesame` and `open` in base64.
const KEYS: &str = "KEY_BASE64 c2VzYW1l\nHMAC_KEY_BASE64 b3Blbg==\n";

/// Debian's fwknopd on `lan0`, in its own folder; killed when dropped.
struct Fwknopd<'a> {
    server: &'a Namespace,
    folder: TempDir,
    child: Child,
}

impl<'a> Fwknopd<'a> {
    /// Starts it with these settings and stanzas. `DIR` is replaced by its folder.
    fn start(server: &'a Namespace, settings: &str, stanzas: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let dir = folder.path().display().to_string();
        let conf = format!(
            "FWKNOP_RUN_DIR {dir};\nFWKNOP_PID_FILE {dir}/pid;\nDIGEST_FILE {dir}/digests;\nPCAP_INTF lan0;\nVERBOSE 1;\n{settings}"
        );
        for (name, text) in [("fwknopd.conf", conf.as_str()), ("access.conf", stanzas)] {
            fs::write(path(name), text.replace("DIR", &dir)).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let log = fs::File::create(path("log")).unwrap();
        let mut command = Command::new("fwknopd");
        command.args(["-f", "-c", &path("fwknopd.conf"), "-a", &path("access.conf"), "-r", &dir]);
        command.args(["-p", &path("pid"), "-d", &path("digests")]);
        let output = log.try_clone().unwrap();
        let child = server.spawn(command.stdin(Stdio::null()).stdout(output).stderr(log));
        let fwknopd = Self { server, folder, child };
        assert!(fwknopd.logs("Starting fwknopd main event loop"), "fwknopd starts");
        fwknopd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("log")).unwrap_or_default()).into_owned()
    }

    /// Whether a text appears in its log in time.
    fn logs(&self, text: &str) -> bool {
        within(SOON, || self.log().contains(text))
    }

    /// The rules of its chain for new connections.
    fn rules(&self) -> String {
        self.server.run("iptables -w -n -L FWKNOP_INPUT")
    }

    /// Whether a rule for an address and a port appears in time.
    fn opens(&self, address: &str, port: &str) -> bool {
        within(SOON, || is_open(&self.rules(), address, port))
    }
}

impl Drop for Fwknopd<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Whether a rule accepts a port (`tcp/22`) from an address.
fn is_open(rules: &str, address: &str, port: &str) -> bool {
    let (protocol, number) = port.split_once('/').unwrap();
    let number = match protocol {
        "tcp" => format!("tcp dpt:{number} "),
        _ => format!("udp dpt:{number} "),
    };
    rules.lines().any(|rule| {
        rule.contains("ACCEPT") && rule.contains(&format!(" {address} ")) && rule.contains(&number)
    })
}

/// A home folder with a `.fwknoprc`.
fn home(stanzas: &str) -> TempDir {
    let home = tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap();
    let path = home.path().join(".fwknoprc");
    fs::write(&path, stanzas).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    home
}

/// Runs a client program with this home folder.
fn run(lab: &Lab, program: &str, home: &Path, args: &[&str]) -> Output {
    let mut command = limited(program);
    command
        .args(args)
        .env("HOME", home)
        .env("LOGNAME", "alice")
        .env_remove("SPA_KNOCK_KEY")
        .stdin(Stdio::null());
    lab.client.output(&mut command)
}

/// Runs `spa-knock fwknop`, which must succeed, and returns what it prints to standard error.
fn send(lab: &Lab, home: &Path, args: &[&str]) -> String {
    let output = run(lab, env!("CARGO_BIN_EXE_spa-knock"), home, &[&["fwknop"], args].concat());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {message}");
    message
}

/// Runs fwknop's own client, which must succeed.
fn send_with_fwknop(lab: &Lab, home: &Path, args: &[&str]) {
    let output = run(lab, "fwknop", home, &[args, &["--no-save-args"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn stanza(lines: &str) -> String {
    format!("[s]\nSPA_SERVER 10.77.0.1\nALLOW_IP 10.77.0.2\nACCESS tcp/22\n{KEYS}{lines}")
}

fn access(lines: &str) -> String {
    format!("SOURCE ANY\n{KEYS}FW_ACCESS_TIMEOUT 300\n{lines}")
}

#[test]
fn fwknopd_opens_for_packets_over_udp_tcp_and_http_as_for_those_of_fwknop() {
    let Some(lab) = Lab::new() else { return };
    let fwknopd = Fwknopd::start(&lab.server, SETTINGS, &access(""));
    let home = home(&stanza(""));
    let mut port = 7_000;
    for transport in ["udp", "tcp", "http"] {
        let mut logs = Vec::new();
        for client in ["spa-knock", "fwknop"] {
            port += 1;
            let requested = format!("tcp/{port}");
            let args = ["-n", "s", "-A", &requested, "-P", transport];
            let before = fwknopd.log().len();
            match client {
                "spa-knock" => {
                    let message = send(&lab, home.path(), &args);
                    let expected = format!(
                        "spa-knock: 10.77.0.1: packet sent to 10.77.0.1:62201 over {transport}; fwknopd sends no reply\n"
                    );
                    assert_eq!(message, expected);
                }
                _ => send_with_fwknop(&lab, home.path(), &args),
            }
            assert!(fwknopd.opens("10.77.0.2", &requested), "{client} {transport}");
            // It logs the rule after it has added it.
            assert!(within(SOON, || fwknopd.log()[before..].contains("Added access rule")));
            logs.push(comparable(&fwknopd.log()[before..], port));
        }
        assert_eq!(logs[0], logs[1], "{transport}: the same lines as for a packet of fwknop's client");
    }
}

/// What fwknopd logs about a packet, without what differs between two packets.
fn comparable(log: &str, port: u16) -> String {
    const FIELDS: [&str; 14] = [
        "Username:",
        "FKO Version:",
        "Message Type:",
        "Message String:",
        "Nat Access:",
        "Server Auth:",
        "Client Timeout:",
        "Digest Type:",
        "HMAC Type:",
        "Encryption Type:",
        "Encryption Mode:",
        "(stanza",
        // Not the rule for forwarding: for the second packet, it exists already.
        "Added access",
        "Added DNAT",
    ];
    let lines = log.lines().map(str::trim).filter(|line| FIELDS.iter().any(|field| line.starts_with(field)));
    let text = lines.collect::<Vec<_>>().join("\n").replace(&port.to_string(), "PORT");
    Regex::new(r"expires at \d+").unwrap().replace_all(&text, "expires at TIME").into_owned()
}

#[test]
fn fwknopd_accepts_every_digest_in_a_packet_and_in_its_hmac() {
    const DIGESTS: [&str; 7] = ["MD5", "SHA1", "SHA256", "SHA384", "SHA512", "SHA3_256", "SHA3_512"];
    let Some(lab) = Lab::new() else { return };
    // Each stanza has an HMAC key of its own: `key-0` to `key-6`.
    let (mut stanzas, mut rc) = (String::new(), String::new());
    for (number, digest) in DIGESTS.iter().enumerate() {
        let keys = format!("KEY sesame\nHMAC_KEY key-{number}\nHMAC_DIGEST_TYPE {digest}\n");
        stanzas += &format!("SOURCE ANY\n{keys}OPEN_PORTS tcp/{}\nFW_ACCESS_TIMEOUT 300\n", 7_000 + number);
        rc += &format!("[{digest}]\n{keys}DIGEST_TYPE {digest}\nACCESS tcp/{}\n", 7_000 + number);
    }
    let fwknopd = Fwknopd::start(&lab.server, "", &stanzas);
    let home = home(&format!("[default]\nSPA_SERVER 10.77.0.1\nALLOW_IP 10.77.0.2\n{rc}"));
    for (number, digest) in DIGESTS.iter().enumerate() {
        send(&lab, home.path(), &["-n", digest]);
        assert!(fwknopd.opens("10.77.0.2", &format!("tcp/{}", 7_000 + number)), "{digest}");
    }
}

#[test]
fn access_is_for_the_address_that_is_given_seen_or_resolved() {
    let Some(lab) = Lab::new() else { return };
    let fwknopd = Fwknopd::start(&lab.server, "", &access(""));
    let home = home(&stanza(""));
    lab.client.ip("addr add 10.77.0.3/24 dev eth0");
    // A web site on the server, which replies with the address that it sees.
    let site = lab.server.enter(|| TcpListener::bind("10.77.0.1:8080")).unwrap();
    thread::spawn(move || {
        for mut stream in site.incoming().flatten() {
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or_default();
            let is_known = request[..length].starts_with(b"GET /ip HTTP/1.");
            let (status, body) = match stream.peer_addr() {
                Ok(peer) if is_known => ("200 OK", format!("{}\n", peer.ip())),
                _ => ("404 Not Found", "192.0.2.99".to_owned()),
            };
            let reply = format!(
                "HTTP/1.0 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(reply.as_bytes());
        }
    });
    let url = "http://10.77.0.1:8080/ip";
    for (args, port, address) in [
        (&["-a", "10.77.0.9"][..], "tcp/7001", "10.77.0.9"),
        (&["-s"], "udp/7002", "10.77.0.2"),
        (&["--resolve-url", url], "tcp/7003", "10.77.0.2"),
        (&["-R", "--resolve-url", url, "--resolve-http-only"], "tcp/7004", "10.77.0.2"),
    ] {
        let message = send(&lab, home.path(), &[&["-n", "s", "-A", port], args].concat());
        assert!(fwknopd.opens(address, port), "{args:?}");
        let asks = message.contains(&format!("asking {url} for your public address\n"));
        assert_eq!(asks, args.contains(&url), "{message}");
    }
    for (url, args, reason) in [
        ("http://10.77.0.1:8080/no", &["--resolve-http-only"][..], "replied 'HTTP/1.0 404 Not Found'"),
        ("http://10.77.0.1:8080/no", &[], "wget failed: exit status: 8"),
        ("http://10.77.0.1:8081/ip", &["--resolve-http-only"], "connection refused"),
    ] {
        let args = [&["fwknop", "-n", "s", "--resolve-url", url], args].concat();
        let output = run(&lab, env!("CARGO_BIN_EXE_spa-knock"), home.path(), &args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{message}");
        assert!(message.contains(&format!("{url}: {reason}")), "{message}");
    }
}

#[test]
fn fwknopd_forwards_ports_as_for_packets_of_fwknop() {
    let Some(lab) = Lab::new() else { return };
    let settings = "ENABLE_IPT_FORWARDING Y;\nENABLE_IPT_LOCAL_NAT Y;\n";
    let fwknopd = Fwknopd::start(&lab.server, settings, &access(""));
    let home = home(&stanza(""));
    let mut port = 7_000;
    for args in [&["-N", "10.77.1.2:22"][..], &["-N", "10.77.1.2", "-f", "60"], &["--nat-local", "-f", "60"]]
    {
        let mut logs = Vec::new();
        for client in ["spa-knock", "fwknop"] {
            port += 1;
            let number = port.to_string();
            let args = [&["-n", "s", "-A", "tcp/22", "--nat-port", &number], args].concat();
            let before = fwknopd.log().len();
            match client {
                "spa-knock" => drop(send(&lab, home.path(), &args)),
                _ => send_with_fwknop(&lab, home.path(), &args),
            }
            let is_added = || fwknopd.log()[before..].contains("Added DNAT rule");
            assert!(within(SOON, is_added), "{client} {args:?}");
            let nat = lab.server.run("iptables -w -n -t nat -L FWKNOP_PREROUTING");
            assert!(nat.lines().any(|rule| rule.contains(&format!("tcp dpt:{number} "))), "{nat}");
            logs.push(comparable(&fwknopd.log()[before..], port));
        }
        assert_eq!(logs[0], logs[1], "{args:?}: the same lines as for a packet of fwknop's client");
    }
    let output = run(
        &lab,
        env!("CARGO_BIN_EXE_spa-knock"),
        home.path(),
        &["fwknop", "-n", "s", "-N", "10.77.1.2:22", "--nat-rand-port"],
    );
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let port =
        printed.strip_prefix("nat port: tcp/").and_then(|rest| rest.split(' ').next()).unwrap_or(&printed);
    assert_eq!(printed, format!("nat port: tcp/{port} of the server will lead to 10.77.1.2,22\n"));
    let is_forwarded =
        || lab.server.run("iptables -w -n -t nat -L FWKNOP_PREROUTING").contains(&format!("tcp dpt:{port} "));
    assert!(within(SOON, is_forwarded), "the printed port");
}

#[test]
fn fwknopd_runs_a_command_and_ends_access_after_the_requested_time() {
    let Some(lab) = Lab::new() else { return };
    let fwknopd = Fwknopd::start(&lab.server, "", &access("ENABLE_CMD_EXEC Y\n"));
    let home = home(&stanza(""));
    let (ran, longest) = (fwknopd.path("ran"), "x".repeat(60));
    let command = format!("/usr/bin/touch {}-{longest}", ran.display());
    send(&lab, home.path(), &["-n", "s", "-C", &command]);
    let file = PathBuf::from(format!("{}-{longest}", ran.display()));
    assert!(within(SOON, || file.exists()), "the command runs");

    send(&lab, home.path(), &["-n", "s", "-A", "tcp/7001", "-f", "2"]);
    send(&lab, home.path(), &["-n", "s", "-A", "tcp/7002"]);
    assert!(fwknopd.opens("10.77.0.2", "tcp/7002"));
    assert!(fwknopd.logs("tcp/7001, expires at"), "it is opened");
    let is_closed = || !is_open(&fwknopd.rules(), "10.77.0.2", "tcp/7001");
    assert!(within(SOON, is_closed), "after 2 s");
    assert!(is_open(&fwknopd.rules(), "10.77.0.2", "tcp/7002"), "after 300 s");
}

#[test]
fn the_requested_user_time_and_port_are_in_the_packet_that_is_sent() {
    let Some(lab) = Lab::new() else { return };
    let fwknopd = Fwknopd::start(&lab.server, "PCAP_FILTER udp;\n", &access("REQUIRE_USERNAME bob\n"));
    let home = home(&stanza(""));
    send(&lab, home.path(), &["-n", "s", "-A", "tcp/7001"]);
    assert!(
        fwknopd.logs("Username in SPA data (alice) does not match"),
        "the account's name is in the packet"
    );
    send(&lab, home.path(), &["-n", "s", "-A", "tcp/7001", "-U", "bob", "--time-offset-plus", "10min"]);
    assert!(fwknopd.logs("SPA data time difference is too great"));
    send(&lab, home.path(), &["-n", "s", "-A", "tcp/7001", "-U", "bob", "-r"]);
    assert!(fwknopd.opens("10.77.0.2", "tcp/7001"), "a random port and the right user");
}

#[test]
fn keys_come_from_standard_input_a_descriptor_a_key_file_or_the_command_line() {
    let Some(lab) = Lab::new() else { return };
    let fwknopd = Fwknopd::start(&lab.server, "", &access(""));
    let home = home("[s]\nSPA_SERVER 10.77.0.1\nALLOW_IP 10.77.0.2\n");
    for (name, key) in [("key", "sesame"), ("hmac", "open")] {
        let path = home.path().join(name);
        fs::write(&path, format!("# keys\nother: x\n10.77.0.1: {key}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let program = env!("CARGO_BIN_EXE_spa-knock");
    for (line, port) in [
        ("printf 'sesame\\nopen\\n' | SPA-KNOCK --use-hmac --stdin", "tcp/7001"),
        ("SPA-KNOCK --use-hmac --fd 5 5<<'END'\nsesame\nopen\nEND", "tcp/7002"),
        ("SPA-KNOCK -G ~/key --get-hmac-key ~/hmac", "tcp/7003"),
        ("SPA-KNOCK --key-rijndael sesame --key-base64-hmac b3Blbg", "tcp/7004"),
        ("echo open | SPA-KNOCK --use-hmac --key-base64-rijndael c2VzYW1l --fd 0", "tcp/7005"),
    ] {
        let line = line.replace("SPA-KNOCK", &format!("{program} fwknop -n s -A {port}"));
        let output = run(&lab, "bash", home.path(), &["-c", &line]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {message}");
        let is_warned = message.contains("other users of this host can see the key in the process list");
        assert_eq!(is_warned, line.contains("--key-"), "{message}");
        assert!(fwknopd.opens("10.77.0.2", port), "{line}");
    }
}

#[test]
fn keys_and_stanzas_that_spa_knock_writes_are_read_by_fwknop() {
    let Some(lab) = Lab::new() else { return };
    let home = home("[default]\nSPOOF_USER alice\n");
    let args = [
        "--key-gen",
        "--save-rc-stanza",
        "-n",
        "new",
        "-D",
        "10.77.0.1",
        "-A",
        "tcp/7001",
        "-a",
        "10.77.0.2",
    ];
    let message = send(&lab, home.path(), &args);
    assert!(message.ends_with(".fwknoprc: stanza [new] saved\n"), "{message}");
    let saved = fs::read_to_string(home.path().join(".fwknoprc")).unwrap();
    assert!(saved.starts_with("[default]\nSPOOF_USER alice\n\n[new]\n"), "{saved}");
    let keys: String =
        saved.lines().filter(|line| line.contains("KEY_BASE64")).map(|line| format!("{line}\n")).collect();
    let fwknopd = Fwknopd::start(&lab.server, "", &format!("SOURCE ANY\n{keys}"));
    send_with_fwknop(&lab, home.path(), &["-n", "new"]);
    assert!(fwknopd.opens("10.77.0.2", "tcp/7001"), "sent by fwknop");
    send(&lab, home.path(), &["-n", "new", "-A", "tcp/7002"]);
    assert!(fwknopd.opens("10.77.0.2", "tcp/7002"), "sent by spa-knock");
    let again = run(&lab, env!("CARGO_BIN_EXE_spa-knock"), home.path(), &[&["fwknop"], &args[..]].concat());
    let message = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(message.contains("there is already a stanza [new]"), "{message}");
    assert_eq!(fs::read_to_string(home.path().join(".fwknoprc")).unwrap(), saved, "unchanged");
}

#[test]
fn a_packet_reaches_fwknopd_through_an_http_proxy() {
    let Some(lab) = Lab::new() else { return };
    let fwknopd = Fwknopd::start(&lab.server, SETTINGS, &access(""));
    let home = home(&stanza(""));
    let proxy = lab.client.enter(|| TcpListener::bind("127.0.0.1:3128")).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = proxy.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let forwarded = request.replacen("GET http://10.77.0.1/", "GET /", 1);
            assert_ne!(forwarded, request, "a request for a proxy");
            let mut server = lab.client.enter(|| TcpStream::connect("10.77.0.1:62201")).unwrap();
            server.write_all(forwarded.as_bytes()).unwrap();
            stream.write_all(b"HTTP/1.1 504 Gateway Timeout\r\n\r\n").unwrap();
        });
        let message =
            send(&lab, home.path(), &["-n", "s", "-A", "tcp/7001", "-H", "http://127.0.0.1:3128", "-v"]);
        assert!(message.contains("the proxy replied 'HTTP/1.1 504 Gateway Timeout'"), "{message}");
        assert!(message.contains("packet sent to 127.0.0.1:3128 over http through the proxy"), "{message}");
    });
    assert!(fwknopd.opens("10.77.0.2", "tcp/7001"));
}

#[test]
fn a_packet_is_sent_over_ipv6_if_the_server_has_no_ipv4_address() {
    let Some(lab) = Lab::new() else { return };
    let home = home(&stanza(""));
    let socket = lab.server.enter(|| UdpSocket::bind("[fd77::1]:62201")).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    for server in ["fd77::1", "[fd77::1]"] {
        send(&lab, home.path(), &["-n", "s", "-D", server]);
        let mut packet = [0; 2000];
        let length = socket.recv(&mut packet).unwrap();
        assert!((200..220).contains(&length), "{length}");
    }
    let args = ["fwknop", "-n", "s", "-D", "fd77::1", "--server-resolve-ipv4"];
    let output = run(&lab, env!("CARGO_BIN_EXE_spa-knock"), home.path(), &args);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "spa-knock: fd77::1: has no IPv4 address\nhint: check the name: -D, or SPA_SERVER in the stanza\n"
    );
}

#[test]
fn an_imported_stanza_knocks_at_a_server_that_has_moved_to_spa_knockd() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let rc = site.path("rc");
    fs::write(&rc, stanza("FW_TIMEOUT 45\n")).unwrap();
    fs::set_permissions(&rc, fs::Permissions::from_mode(0o600)).unwrap();
    let stderr_of = |command: &mut Command| {
        let output = lab.client.output(command);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{message}");
        message
    };
    let message = stderr_of(site.client().args(["import", "--fwknoprc"]).arg(&rc));
    assert!(
        message.contains("spa-knock derive --key") && message.contains("spa-knockd client add"),
        "{message}"
    );
    // SPA_SERVER is an address, and the server has another id.
    let profiles = site.path("config/spa-knock/config.toml");
    let text = fs::read_to_string(&profiles)
        .unwrap()
        .replace("id = \"10.77.0.1\"", &format!("id = \"{SERVER_ID}\""));
    fs::write(&profiles, text).unwrap();
    let key = site.path("config/spa-knock/s.key");
    let derived =
        lab.client.output(site.client().args(["derive", "--server-id", SERVER_ID, "--key"]).arg(&key));
    let pair = site.path("alice.pair");
    fs::write(&pair, derived.stdout).unwrap();
    fs::set_permissions(&pair, fs::Permissions::from_mode(0o600)).unwrap();
    let pair = pair.display().to_string();
    let add = &mut site.admin(&["client", "add", "alice", "--allow", "open-ssh", "--key", &pair]);
    let add = lab.server.output(add);
    assert!(add.status.success(), "{}", String::from_utf8_lossy(&add.stderr));
    let _daemon = Daemon::start(&lab.server, &site);
    let granted = stderr_of(site.client().arg("s"));
    assert!(granted.contains("s: open-ssh granted to 10.77.0.2 for 45s"), "{granted}");
}

/// The packet that a client prints with `-T`, decrypted with these keys.
fn message(output: &Output, line_start: &str, key: &str, hmac_key: &str, digest: Digest) -> Message {
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.trim().strip_prefix(line_start));
    let wire = line.unwrap_or_else(|| panic!("{text}")).trim();
    let packet = WireText::parse(wire.as_bytes()).unwrap_or_else(|| panic!("{wire}"));
    let sealed = HmacKey::new(digest, hmac_key.as_bytes()).verify(packet);
    let sealed = sealed.unwrap_or_else(|| panic!("another HMAC key: {text}"));
    let text = CipherKey::new(key.as_bytes()).unwrap().open(sealed).expect("another key");
    Message::parse(&text).unwrap()
}

#[test]
fn both_clients_read_the_same_stanzas_and_options() {
    const START: &str = "[s]\nSPA_SERVER 10.77.0.1\nALLOW_IP 10.77.0.2\nACCESS tcp/22\n";
    let Some(lab) = Lab::new() else { return };
    let cases: &[(&str, &[&str], &str, &str)] = &[
        ("KEY sesame\nHMAC_KEY open\n", &[], "sesame", "open"),
        ("KEY open sesame  \nHMAC_KEY: a b\n", &[], "open", "a"),
        ("  KEY\tfoo#bar\nHMAC_KEY foo;bar x\n", &["--key-hmac", "x"], "foo", "x"),
        ("KEY \"foo\"\nHMAC_KEY 'x'\n", &[], "\"foo\"", "'x'"),
        ("KEY foo\nKEY_BASE64 YmFy\nHMAC_KEY_BASE64 eA\nHMAC_KEY y\n", &[], "foo", "y"),
        ("KEY_BASE64 YmFy\nHMAC_KEY_BASE64 eA==\n", &[], "bar", "x"),
        ("KEY foo\nKEY bar\nHMAC_KEY y\n# KEY x\n; KEY x\n[S]\nHMAC_KEY x\n", &[], "bar", "x"),
        (
            "KEY a\nHMAC_KEY b\nFW_TIMEOUT 30\nSPOOF_USER bob\n[default]\nFW_TIMEOUT 20\nKEY z\n",
            &[],
            "a",
            "b",
        ),
        ("KEY a\nHMAC_KEY b\nFW_TIMEOUT 30\n", &["-f", "60", "-U", "carol", "-A", "udp/53,tcp/1"], "a", "b"),
        ("KEY a\nHMAC_KEY b\n", &["-f", "0"], "a", "b"),
        ("KEY a\nHMAC_KEY b\nALLOW_IP source\n", &[], "a", "b"),
        ("KEY a\nHMAC_KEY b\nALLOW_IP source\n", &["-a", "192.0.2.7"], "a", "b"),
        ("KEY a\nHMAC_KEY b\n", &["-s", "-C", "ls -l /"], "a", "b"),
        ("KEY a\nHMAC_KEY b\nNAT_ACCESS 10.0.0.5:22\n", &["-A", "tcp/80"], "a", "b"),
        ("KEY a\nHMAC_KEY b\nNAT_ACCESS 10.0.0.5\nFW_TIMEOUT 9\n", &["--nat-port", "4444"], "a", "b"),
        ("KEY a\nHMAC_KEY b\nNAT_LOCAL Y\n", &["--nat-port", "4444"], "a", "b"),
        ("KEY a\nHMAC_KEY b\nNAT_LOCAL Y\nNAT_ACCESS 10.0.0.5,5\nFW_TIMEOUT 9\n", &[], "a", "b"),
        ("KEY a\nHMAC_KEY b\nNAT_PORT 4444\n", &[], "a", "b"),
        ("KEY a\nHMAC_KEY b\nTIME_OFFSET -60min\n", &[], "a", "b"),
        ("KEY a\nHMAC_KEY b\n", &["--time-offset-plus", "2days"], "a", "b"),
        ("KEY a\nHMAC_KEY b\nDIGEST_TYPE sha512\n", &["-m", "md5"], "a", "b"),
    ];
    for (lines, args, key, hmac_key) in cases {
        println!("{lines}{args:?}");
        let home = home(&format!("{START}{lines}"));
        let args = [&["-n", "s", "-T"], *args].concat();
        let ours =
            run(&lab, env!("CARGO_BIN_EXE_spa-knock"), home.path(), &[&["fwknop"], &args[..]].concat());
        let theirs = run(&lab, "fwknop", home.path(), &[&args[..], &["--no-save-args"]].concat());
        let mut ours = message(&ours, "packet ", key, hmac_key, Digest::Sha256);
        let theirs = message(&theirs, "Final SPA Data:", key, hmac_key, Digest::Sha256);
        assert!(ours.time.abs_diff(theirs.time) < 60, "{lines} {args:?}: {} {}", ours.time, theirs.time);
        ours.time = theirs.time;
        assert_eq!(ours, theirs, "{lines} {args:?}");
    }
}

#[test]
fn wget_gets_no_key_and_no_shell() {
    let Some(lab) = Lab::new() else { return };
    let home = home(&stanza(""));
    let wget = home.path().join("wget");
    fs::write(&wget, "#!/bin/sh\n{ printf '%s\\n' \"$@\"; env; cat; } >\"$HOME/got\"\necho 192.0.2.7\n")
        .unwrap();
    fs::set_permissions(&wget, fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = limited(env!("CARGO_BIN_EXE_spa-knock"));
    command.args([
        "fwknop",
        "-n",
        "s",
        "--resolve-url",
        "https://192.0.2.1/ip;id",
        "-u",
        "agent $(id)",
        "-T",
        "-w",
    ]);
    command.arg(&wget).args(["--key-base64-rijndael", "c2VzYW1l", "--stdin"]);
    command.env("HOME", home.path()).env("SPA_KNOCK_KEY", "a key").stdin(Stdio::null());
    let output = lab.client.output(&mut command);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        printed.contains("allow        192.0.2.7\n"),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let got = fs::read_to_string(home.path().join("got")).unwrap();
    let arguments: Vec<_> = got.lines().take(8).collect();
    assert_eq!(arguments, ["-q", "-O", "-", "-T", "10", "-U", "agent $(id)", "https://192.0.2.1/ip;id"]);
    assert!(got.contains("HOME=") && !got.contains("SPA_KNOCK_KEY") && !got.contains("c2VzYW1l"), "{got}");
}
