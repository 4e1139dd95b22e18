//! The client of other systems and processors, run here, against a daemon of this one: Windows in Wine, 64-bit ARM in
//! qemu. `scripts/test-platforms` builds these clients and names them in the environment; without them, only this
//! machine's own client runs.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use spa_knock_core::crypto::KeyFile;

use crate::net::{
    BOTH, Daemon, Lab, Namespace, NatLab, ROUTER4, SERVER_ID, SERVER4, SOON, Site, SshAgent, open_ssh, within,
};

/// Programs to test, and what runs them.
const CLIENTS: [(&str, &[&str]); 2] = [
    ("SPA_KNOCK_WINDOWS_CLIENT", &["/usr/lib/wine/wine64", "/usr/bin/wine64", "/usr/bin/wine"]),
    ("SPA_KNOCK_AARCH64_CLIENT", &["/usr/bin/qemu-aarch64-static", "/usr/bin/qemu-aarch64"]),
];

/// In Wine, one process owns the sockets of all others, so its programs run in one namespace at a time.
static WINE: Mutex<()> = Mutex::new(());

/// A client, and what runs it here.
struct Client {
    name: &'static str,
    runner: Option<&'static str>,
    program: PathBuf,
    wine: Option<Wine>,
}

/// The use of Wine.
struct Wine {
    folder: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Client {
    /// This machine's own client, and those that the environment names.
    fn all() -> Vec<Self> {
        let own = PathBuf::from(env!("CARGO_BIN_EXE_spa-knock"));
        let mut clients = vec![Self { name: "this machine", runner: None, program: own, wine: None }];
        for (variable, runners) in CLIENTS {
            let Some(program) = std::env::var_os(variable).map(PathBuf::from) else {
                println!("skipped: {variable} is not set");
                continue;
            };
            let runner = runners.iter().copied().find(|runner| Path::new(runner).exists());
            let runner =
                runner.unwrap_or_else(|| panic!("{variable} is set, but none of {runners:?} is there"));
            let wine = variable.contains("WINDOWS").then(Wine::new);
            clients.push(Self { name: variable, runner: Some(runner), program, wine });
        }
        clients
    }

    /// The client with the site's folder as its home. It is killed after 30 s.
    fn command(&self, site: &Site, args: &[&str]) -> Command {
        self.command_within(30, site, args)
    }

    /// The same, with a time limit in seconds.
    fn command_within(&self, seconds: u64, site: &Site, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", &seconds.to_string()]).args(self.runner).arg(&self.program);
        command.args(args).env_remove("SPA_KNOCK_KEY");
        for (name, folder) in [("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "client-state")] {
            let folder = site.path(folder);
            fs::create_dir_all(&folder).unwrap();
            chmod(&folder, 0o700);
            command.env(name, self.path(&folder));
        }
        match &self.wine {
            Some(wine) => {
                command.env("WINEPREFIX", &wine.folder).env("WINEDEBUG", "-all");
            }
            None => {
                command.env("HOME", site.folder());
            }
        }
        command.stdin(Stdio::null());
        command
    }

    /// A path as the client names it.
    fn path(&self, path: &Path) -> String {
        let path = path.to_str().unwrap();
        if self.wine.is_some() { format!("Z:{}", path.replace('/', "\\")) } else { path.to_owned() }
    }

    /// Runs a command, and returns its exit code and its output.
    fn run(&self, namespace: &Namespace, site: &Site, args: &[&str]) -> Done {
        Done::of(namespace.output(&mut self.command(site, args)), self.name)
    }

    /// The same, with text on standard input.
    fn run_with(&self, namespace: &Namespace, site: &Site, args: &[&str], input: &[u8]) -> Done {
        let mut command = self.command(site, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = namespace.spawn(&mut command);
        child.stdin.take().unwrap().write_all(input).unwrap();
        Done::of(child.wait_with_output().unwrap(), self.name)
    }

    /// A knock with `laptop`'s key at an address.
    fn knock(&self, namespace: &Namespace, site: &Site, server: IpAddr, args: &[&str]) -> Done {
        let (key, server) = (self.path(&site.key_path("laptop")), server.to_string());
        let args: Vec<_> =
            ["--key", &key, "--server-id", SERVER_ID, &server].iter().chain(args).copied().collect();
        self.run(namespace, site, &args)
    }
}

impl Wine {
    /// Prepares Wine, which takes a quarter of a minute at the first time.
    fn new() -> Self {
        let alone = WINE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wine");
        fs::create_dir_all(&folder).unwrap();
        let wine = Self { folder, _alone: alone };
        if !wine.folder.join("system.reg").exists() {
            let mut boot = Command::new("wineboot");
            boot.arg("--init").env("WINEPREFIX", &wine.folder).env("WINEDEBUG", "-all");
            boot.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            assert!(boot.status().expect("wineboot").success());
        }
        wine.stop();
        wine
    }

    /// Ends the process that owns the sockets; the next program starts another one, in its namespace.
    fn stop(&self) {
        let mut stop = Command::new("wineserver");
        let status = stop.args(["-k", "-w"]).env("WINEPREFIX", &self.folder).stderr(Stdio::null()).status();
        assert!(status.is_ok(), "{status:?}");
    }
}

impl Drop for Wine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a command has printed.
struct Done {
    code: i32,
    stdout: String,
    stderr: String,
    client: &'static str,
}

impl Done {
    fn of(output: Output, client: &'static str) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
        let code = output.status.code().unwrap_or(-1);
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr), client }
    }

    /// Asserts the exit code, and that standard error contains these texts.
    fn assert(&self, code: i32, texts: &[&str]) -> &Self {
        assert_eq!(self.code, code, "{}: {} {}", self.client, self.stdout, self.stderr);
        for text in texts {
            assert!(self.stderr.contains(text), "{}: {text}: {}", self.client, self.stderr);
        }
        self
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn each_client_creates_imports_and_shows_keys_and_refuses_those_that_others_can_access() {
    let Some(lab) = Lab::new() else { return };
    let here = &lab.client;
    for client in Client::all() {
        let site = Site::new("", &open_ssh(5));
        let folder = site.path("made");
        fs::create_dir(&folder).unwrap();
        chmod(&folder, 0o700);
        let root = folder.join("root.key");
        let named = client.path(&root);
        client
            .run(here, &site, &["keygen", "-o", &named, "--client", "laptop"])
            .assert(0, &[&named, "written"]);
        client
            .run(here, &site, &["keygen", "-o", &named])
            .assert(5, &["already exists and is not overwritten"]);
        let shown = client.run(here, &site, &["show", &named]);
        assert!(shown.assert(0, &[]).stdout.contains("root\nclient       laptop\n"), "{}", shown.stdout);

        // What an editor of Windows makes of it.
        let text = fs::read_to_string(&root).unwrap();
        fs::write(&root, format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
        client.run(here, &site, &["show", &named]).assert(0, &[]);

        // Wine shows the access of others on this system as an access list.
        let (others, fix, replace) = match client.wine {
            Some(_) => (
                "its access list allows others to access it: Everyone (S-1-1-0)",
                "\" /inheritance:r /remove:g \"*S-1-1-0\" /grant:r \"*S-1-5-21-",
                "its access list allows others to replace files in this directory: Everyone (S-1-1-0)",
            ),
            None => (
                "mode 0644 allows others to access it",
                "hint: chmod 600 ",
                "mode 0777 allows others to replace files in this directory",
            ),
        };
        chmod(&root, 0o644);
        let refused = client.run(here, &site, &["show", &named]);
        refused.assert(5, &[&format!("key file {named}: "), others, fix]);
        assert!(!refused.stderr.contains("secret"), "{}", refused.stderr);
        chmod(&root, 0o600);
        chmod(&folder, 0o777);
        client.run(here, &site, &["show", &named]).assert(5, &[replace, &client.path(&folder)]);
        chmod(&folder, 0o700);

        let pair = fs::read_to_string(site.key_path("laptop")).unwrap();
        let token = KeyFile::parse(&pair).unwrap().to_token().unwrap();
        let pasted = format!("{}  \r\n", *token);
        let imported = client.run_with(here, &site, &["import"], pasted.as_bytes());
        let file = site.path("config").join("spa-knock").join(format!("{SERVER_ID}.key"));
        imported.assert(0, &[&format!("key file {}: written", client.path(&file)), SERVER_ID]);
        assert_eq!(fs::read_to_string(&file).unwrap(), pair);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o007, 0, "nobody else can read it");
        client.run_with(here, &site, &["import"], token.as_bytes()).assert(5, &["to replace it"]);
    }
}

#[test]
fn each_client_knocks_over_both_ip_versions_and_exits_with_every_code() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for client in Client::all() {
        let site = Site::new("", &open_ssh(4));
        let mut daemon = Daemon::start(&lab.server, &site);
        let knock = |server, args: &[&str]| client.knock(&lab.client, &site, server, args);

        let planned = knock(SERVER4, &["--dry-run", "open-ssh"]);
        assert!(planned.assert(0, &[]).stdout.contains("open-ssh"), "{}", planned.stdout);
        assert!(site.audit().is_empty(), "a dry run sends nothing");
        for (own, server) in BOTH {
            assert!(!lab.client.reaches(server, 22));
            knock(server, &["open-ssh"]).assert(0, &[&format!("open-ssh granted to {own} for 4s")]);
            assert!(lab.client.reaches(server, 22), "{}: {server}", client.name);
            lab.client.wait_until_closed(server, 22);
        }
        let json = knock(SERVER4, &["open-ssh", "--output", "json", "--wait", "22"]);
        assert!(json.assert(0, &[]).stdout.starts_with(r#"{"result":"granted","#), "{}", json.stdout);

        knock(SERVER4, &["open-web"]).assert(1, &["open-web refused: "]);
        knock(SERVER4, &[]).assert(2, &["no action is given"]);
        knock(SERVER4, &["open-ssh", "--wait", "23", "--timeout", "1s"])
            .assert(3, &["tcp port 23 did not accept"]);
        let unresolved = client.run(
            &lab.client,
            &site,
            &["--key", &client.path(&site.key_path("laptop")), "no-such-host.invalid", "open-ssh"],
        );
        unresolved.assert(4, &["no-such-host.invalid: ", "hint: check the name"]);
        client.run(&lab.client, &site, &["10.77.0.1", "open-ssh"]).assert(5, &["no key: "]);
        daemon.terminate();
        // The host reports that the port is closed; that is no reply.
        knock(SERVER4, &["open-ssh", "--timeout", "1500ms"])
            .assert(3, &["no reply from 10.77.0.1 port 62201 within 1s 500ms"]);
    }
}

#[test]
fn each_client_behind_a_nat_knocks_twice_and_later_once() {
    let Some(lab) = NatLab::new() else { return };
    lab.server.echo(22);
    for client in Client::all() {
        let site = Site::new("", &open_ssh(3));
        let _daemon = Daemon::start(&lab.server, &site);
        for count in 1..=2 {
            let knocked = client.knock(&lab.client, &site, SERVER4, &["open-ssh"]);
            knocked.assert(0, &[&format!("granted to {ROUTER4}")]);
            assert!(lab.client.reaches(SERVER4, 22), "{}", client.name);
            assert_eq!(site.audit_of("granted").len(), count);
            lab.client.wait_until_closed(SERVER4, 22);
        }
        let refused: Vec<_> =
            site.audit().into_iter().filter(|record| record["event"] == "refused").collect();
        assert!(refused.len() <= 1, "the address is known at the second time: {refused:?}");
    }
}

#[test]
fn each_client_opens_a_port_with_a_port_sequence_and_waits_for_it() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for client in Client::all() {
        let site = Site::new("", &format!("[ports]\n{}", open_ssh(5)));
        // Sequences of the time step in which the daemon starts are refused, so the client waits for the next one.
        let _daemon = Daemon::start(&lab.server, &site);
        let (key, server) = (client.path(&site.key_path("laptop")), SERVER4.to_string());
        let args = [
            &["--key", &key, "--server-id", SERVER_ID, &server, "open-ssh"][..],
            &["--ports", "--wait", "22", "--timeout", "70s"],
        ];
        let mut command = client.command_within(100, &site, &args.concat());
        Done::of(lab.client.output(&mut command), client.name).assert(0, &[]);
        let [granted] = &site.audit_of("granted")[..] else { panic!("{}: {:?}", client.name, site.audit()) };
        assert_eq!(granted["via"], "ports");
        lab.client.wait_until_closed(SERVER4, 22);
    }
}

/// The client as ssh's ProxyCommand, with pipes.
fn connect(lab: &Lab, client: &Client, site: &Site) -> Child {
    let key = client.path(&site.key_path("laptop"));
    let server = SERVER4.to_string();
    let args = ["connect", "--key", &key, "--server-id", SERVER_ID, &server, "open-ssh", &server, "22"];
    let mut command = client.command(site, &args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    lab.client.spawn(&mut command)
}

#[test]
fn each_client_relays_data_in_both_directions_for_ssh() {
    const LENGTH: usize = 1_000_000;
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for client in Client::all() {
        let site = Site::new("", &open_ssh(5));
        let _daemon = Daemon::start(&lab.server, &site);
        let mut child = connect(&lab, &client, &site);
        let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        // First a dialog, then more than all buffers hold.
        for text in [&b"hello\r\n"[..], b"\x00\xff\x1a\n"] {
            input.write_all(text).unwrap();
            let mut echo = vec![0; text.len()];
            output.read_exact(&mut echo).unwrap();
            assert_eq!(echo, text, "{}", client.name);
        }
        let sent: Vec<u8> = (0..LENGTH).map(|at| (at % 251).try_into().unwrap()).collect();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || input.write_all(&copy));
        let mut received = vec![0; LENGTH];
        output.read_exact(&mut received).unwrap();
        assert!(received == sent, "{}: all bytes come back unchanged", client.name);
        // The end of the input is passed on: the echo ends, and with it the output and the client.
        writer.join().unwrap().unwrap();
        let mut rest = Vec::new();
        output.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
        Done::of(child.wait_with_output().unwrap(), client.name).assert(0, &[]);
    }
}

#[test]
fn each_client_ends_when_the_server_ends_the_connection() {
    let Some(lab) = Lab::new() else { return };
    for client in Client::all() {
        let listener = lab.server.enter(|| std::net::TcpListener::bind("0.0.0.0:22")).unwrap();
        let site = Site::new("", &open_ssh(5));
        let _daemon = Daemon::start(&lab.server, &site);
        let mut child = connect(&lab, &client, &site);
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(b"goodbye").unwrap();
        drop(stream);
        // As ssh does, this test keeps the client's input open until it has seen the end of the output.
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "goodbye", "{}", client.name);
        drop(child.stdin.take());
        let ended = within(SOON, || child.try_wait().unwrap().is_some());
        assert!(ended, "{}", client.name);
    }
}

#[test]
fn each_clients_doctor_finds_no_problem_and_names_one() {
    let Some(lab) = Lab::new() else { return };
    for client in Client::all() {
        let site = Site::new("", &open_ssh(5));
        let mut daemon = Daemon::start(&lab.server, &site);
        let (key, server) = (client.path(&site.key_path("laptop")), SERVER4.to_string());
        let args = ["doctor", "--key", &key, "--server-id", SERVER_ID, &server];
        let healthy = client.run(&lab.client, &site, &args);
        healthy.assert(0, &[]);
        for line in ["ok     key ", "ok     IPv4 ", "ok     knock ", "ok     clock ", "ok     address "] {
            assert!(healthy.stdout.contains(line), "{}: {line}: {}", client.name, healthy.stdout);
        }
        assert!(!healthy.stdout.contains("FAIL"), "{}: {}", client.name, healthy.stdout);
        daemon.terminate();
        let silent = client.run(&lab.client, &site, &args);
        assert!(silent.assert(3, &["1 problem found"]).stdout.contains("FAIL   knock"), "{}", silent.stdout);
    }
}

/// The named pipe of Windows' ssh-agent, in Wine. Requests reach an agent of this machine through a port on loopback.
struct AgentPipe(Child);

impl AgentPipe {
    fn start(lab: &Lab, windows: &Client, agent: &SshAgent) -> Self {
        let program =
            std::env::var_os("SPA_KNOCK_AGENT_PIPE").expect("scripts/test-platforms builds the pipe");
        let listener = lab.client.enter(|| TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let socket = agent.socket();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(here), Ok(there)) = (stream, UnixStream::connect(&socket)) else { return };
                let (mut requests, mut to_agent) = (here.try_clone().unwrap(), there.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut requests, &mut to_agent));
                let (mut replies, mut to_pipe) = (there, here);
                thread::spawn(move || std::io::copy(&mut replies, &mut to_pipe));
            }
        });
        let wine = windows.wine.as_ref().expect("Wine");
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "60"]).args(windows.runner).arg(program).arg(port);
        command.env("WINEPREFIX", &wine.folder).env("WINEDEBUG", "-all");
        let mut pipe = lab.client.spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
        let mut line = [0; 5];
        pipe.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ready");
        Self(pipe)
    }
}

impl Drop for AgentPipe {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_client_for_windows_signs_with_a_key_of_the_agent_at_its_named_pipe() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let Some(client) = Client::all().into_iter().find(|client| client.wine.is_some()) else { return };
    for kind in ["ed25519", "ecdsa"] {
        let (agent, public) = SshAgent::with_key(kind);
        let site = Site::new("", &open_ssh(4));
        let key = site.sign_with("", &open_ssh(4), &public);
        let _daemon = Daemon::start(&lab.server, &site);
        let knock = || {
            let (key, server) = (client.path(&key), SERVER4.to_string());
            client.run(&lab.client, &site, &["--key", &key, "--server-id", SERVER_ID, &server, "open-ssh"])
        };
        knock().assert(5, &[r"\\.\pipe\openssh-ssh-agent", "hint: "]);
        assert!(site.audit().is_empty(), "without an agent, nothing is sent");
        let pipe = AgentPipe::start(&lab, &client, &agent);
        knock().assert(0, &["open-ssh granted to 10.77.0.2 for 4s"]);
        assert!(lab.client.reaches(SERVER4, 22), "{kind}");
        drop(pipe);
        if let Some(wine) = &client.wine {
            wine.stop();
        }
        lab.client.wait_until_closed(SERVER4, 22);
    }
}
