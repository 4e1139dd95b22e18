//! `spa-knock connect` as a process: each direction of the connection ends separately, no data is lost, and nothing
//! spins.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "a test"
)]

mod loopback;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use spa_knock_core::knock::ReplyStatus;

use loopback::{KEY, server, text};

/// The client without a home folder, which knocks at `knock` and connects to `port`.
fn connect(knock: u16, more: &[&str], host: &str, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spa-knock"));
    command.env_clear().env("HOME", "/nonexistent").env("SPA_KNOCK_KEY", KEY).arg("connect");
    command.args(["--server-id", "bastion", "--port", &knock.to_string()]).args(more);
    command.args(["127.0.0.1", "open-ssh", host, &port.to_string()]);
    command
}

/// A TCP server that passes its only connection to `serve`.
fn tcp_server<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (u16, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, thread::spawn(move || serve(listener.accept().unwrap().0)))
}

fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn to_end(mut source: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    source.read_to_end(&mut all).unwrap();
    all
}

/// Runs the command with this input.
fn output(mut command: Command, input: &[u8]) -> Output {
    let mut child = piped(&mut command);
    // The process may exit before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[test]
fn the_end_of_the_input_is_passed_on_and_the_output_is_still_received() {
    let (knock, served_knock) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = tcp_server(|mut stream| {
        let received = to_end(&stream);
        thread::sleep(Duration::from_millis(200));
        stream.write_all(b"received all").unwrap();
        received
    });
    let output = output(connect(knock, &[], "127.0.0.1", port), b"question");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("received all", ""));
    assert_eq!(served.join().unwrap(), b"question");
    served_knock.join().unwrap();
}

/// Sends `hello` and ends its output, then reads to the end.
fn greet(mut stream: TcpStream) -> Vec<u8> {
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    to_end(&stream)
}

#[test]
fn the_end_of_the_output_is_passed_on_to_a_pipe_and_more_input_can_still_be_sent() {
    let (knock, served_knock) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = tcp_server(greet);
    let mut child = piped(&mut connect(knock, &[], "127.0.0.1", port));
    assert_eq!(to_end(child.stdout.take().unwrap()), b"hello");
    assert!(child.try_wait().unwrap().is_none(), "it runs on for more input");
    child.stdin.take().unwrap().write_all(b"still there").unwrap();
    assert_eq!(served.join().unwrap(), b"still there");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    served_knock.join().unwrap();
}

#[test]
fn the_end_of_the_output_is_passed_on_to_a_socket_that_is_both_input_and_output() {
    let (knock, served_knock) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = tcp_server(greet);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = connect(knock, &[], "127.0.0.1", port);
    let input = OwnedFd::from(theirs.try_clone().unwrap());
    let mut child = command.stdin(input).stdout(OwnedFd::from(theirs)).spawn().unwrap();
    // It also holds the other end open.
    drop(command);
    assert_eq!(to_end(&ours), b"hello");
    (&ours).write_all(b"still there").unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    assert_eq!(served.join().unwrap(), b"still there");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    served_knock.join().unwrap();
}

#[test]
fn data_in_both_directions_is_neither_changed_nor_lost() {
    let (knock, served_knock) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = tcp_server(|stream| {
        // An echo server, so that both directions are full at the same time.
        std::io::copy(&mut &stream, &mut &stream).unwrap();
    });
    let sent: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_ne_bytes).collect();
    let mut child = piped(&mut connect(knock, &[], "127.0.0.1", port));
    let mut input = child.stdin.take().unwrap();
    let copy = sent.clone();
    let sending = thread::spawn(move || input.write_all(&copy).unwrap());
    assert!(to_end(child.stdout.take().unwrap()) == sent);
    sending.join().unwrap();
    served.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    served_knock.join().unwrap();
}

#[test]
fn it_exits_when_its_output_is_closed() {
    let (knock, served_knock) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = tcp_server(|mut stream| while stream.write_all(&[0; 4096]).is_ok() {});
    let mut child = piped(&mut connect(knock, &[], "127.0.0.1", port));
    let mut some = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    served.join().unwrap();
    served_knock.join().unwrap();
}

#[test]
fn input_that_the_other_side_did_not_read_is_an_error() {
    let (knock, served_knock) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = tcp_server(|mut stream| {
        stream.write_all(b"enough").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
    });
    let output = output(connect(knock, &[], "127.0.0.1", port), &vec![7; 10_000_000]);
    served.join().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stderr).starts_with("spa-knock: connection: "), "{output:?}");
    served_knock.join().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn it_sleeps_while_there_is_no_data() {
    let (knock, served_knock) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = tcp_server(|mut stream| {
        stream.write_all(b"!").unwrap();
        to_end(stream)
    });
    let mut child = piped(&mut connect(knock, &[], "127.0.0.1", port));
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        // utime and stime, the 14th and 15th of proc_pid_stat(5); the name before them has no space.
        stat.split(' ').skip(13).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>()
    };
    let before = ticks();
    thread::sleep(Duration::from_millis(600));
    assert!(ticks() - before <= 1, "60 ticks would be a busy loop");
    drop(child.stdin.take());
    served.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    served_knock.join().unwrap();
}

#[test]
fn exit_codes_pass_through() {
    // Below 1024: the kernel assigns it to no other test.
    let closed = 1;
    for (status, host, code, message) in [
        (ReplyStatus::NotAllowed, "127.0.0.1", 1, "open-ssh refused: not allowed"),
        (ReplyStatus::Granted, "127.0.0.1", 3, "tcp port 1 did not accept a connection within 300ms"),
    ] {
        let (knock, served_knock) = server(status, Duration::ZERO);
        let output = output(connect(knock, &["--timeout", "300ms"], host, closed), b"");
        assert_eq!(output.status.code(), Some(code));
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
        served_knock.join().unwrap();
    }
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let without_reply = output(connect(port, &["--timeout", "100ms"], "127.0.0.1", closed), b"");
    assert_eq!(without_reply.status.code(), Some(3));
}

#[test]
fn a_host_that_is_the_name_of_the_profile_is_the_profiles_address() {
    let (knock, served_knock) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = tcp_server(|mut stream| stream.write_all(b"hello").unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let profile = scratch.path().join("config.toml");
    let lines = format!("[server.work]\naddress = \"127.0.0.1\"\nid = \"bastion\"\nport = {knock}\n");
    std::fs::write(&profile, lines).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_spa-knock"));
    command.env_clear().env("HOME", "/nonexistent").env("SPA_KNOCK_KEY", KEY).arg("connect");
    // As ssh writes %n, %h and %p.
    command.arg("--config").arg(&profile).args(["work", "open-ssh", "work", &port.to_string()]);
    let output = output(command, b"");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "hello"), "{output:?}");
    served.join().unwrap();
    served_knock.join().unwrap();
}

#[test]
fn an_unknown_host_name_is_an_error_before_anything_is_sent() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let output = output(connect(socket.local_addr().unwrap().port(), &[], "no-such-host.invalid", 22), b"");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 512]).is_err(), "nothing was sent");
}

/// Bytes per call: large enough that the test's own share of the time is small.
const CHUNK: u64 = 256 << 10;

fn pour(mut to: impl Write, bytes: u64) -> std::io::Result<()> {
    let chunk = vec![7; CHUNK as usize];
    (0..bytes / CHUNK).try_for_each(|_| to.write_all(&chunk))
}

fn drain(mut from: impl Read) -> u64 {
    let mut chunk = vec![0; CHUNK as usize];
    let lengths = std::iter::from_fn(|| from.read(&mut chunk).ok().filter(|&length| length > 0));
    lengths.map(|length| length as u64).sum()
}

/// The time in which a command moves this many bytes from its input to a TCP port.
fn upload(command: &mut Command, bytes: u64, served: JoinHandle<u64>) -> Duration {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let start = Instant::now();
    pour(&mut input, bytes).unwrap();
    drop(input);
    assert_eq!(served.join().unwrap(), bytes);
    let time = start.elapsed();
    assert!(child.wait().unwrap().success());
    time
}

/// The same in the other direction. There is no input: nc ends its output only after its input has ended.
fn download(command: &mut Command, bytes: u64) -> Duration {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    assert_eq!(drain(child.stdout.take().unwrap()), bytes);
    let time = start.elapsed();
    assert!(child.wait().unwrap().success());
    time
}

/// Runs with `SPA_KNOCK_FULL=1` if there is a `nc` that supports `-N`. The time of `connect` includes the knock.
#[test]
fn it_is_about_as_fast_as_nc() {
    const BYTES: u64 = 1 << 30;
    if std::env::var_os("SPA_KNOCK_FULL").is_none_or(|value| value != "1") {
        return;
    }
    let nc = |port: u16| {
        let mut nc = Command::new("timeout");
        nc.args(["60", "nc", "-N", "127.0.0.1", &port.to_string()]);
        nc
    };
    if Command::new("nc").arg("-h").output().is_err() {
        println!("skipped: no nc");
        return;
    }
    let source = |stream: TcpStream| pour(stream, BYTES).unwrap();
    let mut best = [Duration::MAX; 4];
    for _ in 0..5 {
        let (port, served) = tcp_server(drain);
        best[0] = best[0].min(upload(&mut nc(port), BYTES, served));
        let (knock, served_knock) = server(ReplyStatus::Granted, Duration::ZERO);
        let (port, served) = tcp_server(drain);
        best[1] = best[1].min(upload(&mut connect(knock, &[], "127.0.0.1", port), BYTES, served));
        served_knock.join().unwrap();
        let (port, served) = tcp_server(source);
        best[2] = best[2].min(download(&mut nc(port), BYTES));
        served.join().unwrap();
        let (knock, served_knock) = server(ReplyStatus::Granted, Duration::ZERO);
        let (port, served) = tcp_server(source);
        best[3] = best[3].min(download(&mut connect(knock, &[], "127.0.0.1", port), BYTES));
        served.join().unwrap();
        served_knock.join().unwrap();
    }
    let rates = best.map(|time| (BYTES as f64 / time.as_secs_f64() / 1e6).round());
    println!(
        "MB/s on loopback, best of 5: sending nc {} connect {}, receiving nc {} connect {}",
        rates[0], rates[1], rates[2], rates[3]
    );
    assert!(rates[1] > 0.8 * rates[0] && rates[3] > 0.8 * rates[2], "{rates:?}");
}
