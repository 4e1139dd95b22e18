//! `spa-knock connect` as a process: each way of the connection ends for itself, nothing is lost, nothing spins.
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

/// The client in an empty home, knocking at this port and connecting to that one.
fn connect(knock: u16, more: &[&str], host: &str, door: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spa-knock"));
    command.env_clear().env("HOME", "/nonexistent").env("SPA_KNOCK_KEY", KEY).arg("connect");
    command.args(["--server-id", "bastion", "--port", &knock.to_string()]).args(more);
    command.args(["127.0.0.1", "open-ssh", host, &door.to_string()]);
    command
}

/// What a TCP server does with the one connection that it takes.
fn door<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (u16, JoinHandle<T>) {
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

/// Runs it with this input.
fn output(mut command: Command, input: &[u8]) -> Output {
    let mut child = piped(&mut command);
    // It may end before it has read that.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[test]
fn the_end_of_the_input_is_told_and_the_answer_still_heard() {
    let (knock, answered) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = door(|mut stream| {
        let heard = to_end(&stream);
        thread::sleep(Duration::from_millis(200));
        stream.write_all(b"heard to the end").unwrap();
        heard
    });
    let output = output(connect(knock, &[], "127.0.0.1", port), b"question");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("heard to the end", ""));
    assert_eq!(served.join().unwrap(), b"question");
    answered.join().unwrap();
}

/// Says hello and no more, then hears to the end.
fn polite(mut stream: TcpStream) -> Vec<u8> {
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    to_end(&stream)
}

#[test]
fn the_end_of_the_answer_is_told_to_a_pipe_and_more_can_still_be_sent() {
    let (knock, answered) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = door(polite);
    let mut child = piped(&mut connect(knock, &[], "127.0.0.1", port));
    assert_eq!(to_end(child.stdout.take().unwrap()), b"hello");
    assert!(child.try_wait().unwrap().is_none(), "it lives on for what is sent");
    child.stdin.take().unwrap().write_all(b"still there").unwrap();
    assert_eq!(served.join().unwrap(), b"still there");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    answered.join().unwrap();
}

#[test]
fn the_end_of_the_answer_is_told_to_a_socket_that_is_input_and_output_at_once() {
    let (knock, answered) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = door(polite);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = connect(knock, &[], "127.0.0.1", port);
    let input = OwnedFd::from(theirs.try_clone().unwrap());
    let mut child = command.stdin(input).stdout(OwnedFd::from(theirs)).spawn().unwrap();
    // It holds the other end open, too.
    drop(command);
    assert_eq!(to_end(&ours), b"hello");
    (&ours).write_all(b"still there").unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    assert_eq!(served.join().unwrap(), b"still there");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    answered.join().unwrap();
}

#[test]
fn what_comes_and_goes_is_not_changed_and_not_lost() {
    let (knock, answered) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = door(|stream| {
        // An echo, so that both ways are full at the same time.
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
    answered.join().unwrap();
}

#[test]
fn it_ends_when_nobody_reads_its_output_any_more() {
    let (knock, answered) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = door(|mut stream| while stream.write_all(&[0; 4096]).is_ok() {});
    let mut child = piped(&mut connect(knock, &[], "127.0.0.1", port));
    let mut some = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    served.join().unwrap();
    answered.join().unwrap();
}

#[test]
fn what_the_other_side_did_not_take_is_told() {
    let (knock, answered) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = door(|mut stream| {
        stream.write_all(b"enough").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
    });
    let output = output(connect(knock, &[], "127.0.0.1", port), &vec![7; 10_000_000]);
    served.join().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stderr).starts_with("spa-knock: connection: "), "{output:?}");
    answered.join().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn it_sleeps_while_nothing_comes() {
    let (knock, answered) = server(ReplyStatus::Granted, Duration::ZERO);
    let (port, served) = door(|mut stream| {
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
    assert!(ticks() - before <= 1, "60 ticks are all there were");
    drop(child.stdin.take());
    served.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    answered.join().unwrap();
}

#[test]
fn exit_codes_pass_through() {
    // Below 1024: no test beside this one is given it.
    let closed = 1;
    for (status, host, code, told) in [
        (ReplyStatus::NotAllowed, "127.0.0.1", 1, "open-ssh refused: not allowed"),
        (ReplyStatus::Granted, "127.0.0.1", 3, "tcp port 1 did not accept within 300ms"),
    ] {
        let (knock, answered) = server(status, Duration::ZERO);
        let output = output(connect(knock, &["--timeout", "300ms"], host, closed), b"");
        assert_eq!(output.status.code(), Some(code));
        assert!(text(&output.stderr).contains(told), "{}", text(&output.stderr));
        answered.join().unwrap();
    }
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let unanswered = output(connect(port, &["--timeout", "100ms"], "127.0.0.1", closed), b"");
    assert_eq!(unanswered.status.code(), Some(3));
}

#[test]
fn a_name_that_leads_nowhere_is_told_before_anything_is_sent() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let output = output(connect(socket.local_addr().unwrap().port(), &[], "no-such-host.invalid", 22), b"");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 512]).is_err(), "nothing was sent");
}

/// As much at once as makes the test's own part small.
const PIECE: u64 = 256 << 10;

fn pour(mut to: impl Write, bytes: u64) -> std::io::Result<()> {
    let piece = vec![7; PIECE as usize];
    (0..bytes / PIECE).try_for_each(|_| to.write_all(&piece))
}

fn drain(mut from: impl Read) -> u64 {
    let mut piece = vec![0; PIECE as usize];
    let lengths = std::iter::from_fn(|| from.read(&mut piece).ok().filter(|&length| length > 0));
    lengths.map(|length| length as u64).sum()
}

/// The time in which a command takes so many bytes from its input to a TCP port.
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

/// The same the other way. There is no input: nc would not end its output before that has ended.
fn download(command: &mut Command, bytes: u64) -> Duration {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    assert_eq!(drain(child.stdout.take().unwrap()), bytes);
    let time = start.elapsed();
    assert!(child.wait().unwrap().success());
    time
}

/// With `SPA_KNOCK_FULL=1`, and where there is a `nc` that knows `-N`. The figure of `connect` has the knock in it.
#[test]
fn it_moves_as_much_as_nc_does() {
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
        println!("no nc here");
        return;
    }
    let source = |stream: TcpStream| pour(stream, BYTES).unwrap();
    let mut best = [Duration::MAX; 4];
    for _ in 0..5 {
        let (port, served) = door(drain);
        best[0] = best[0].min(upload(&mut nc(port), BYTES, served));
        let (knock, answered) = server(ReplyStatus::Granted, Duration::ZERO);
        let (port, served) = door(drain);
        best[1] = best[1].min(upload(&mut connect(knock, &[], "127.0.0.1", port), BYTES, served));
        answered.join().unwrap();
        let (port, served) = door(source);
        best[2] = best[2].min(download(&mut nc(port), BYTES));
        served.join().unwrap();
        let (knock, answered) = server(ReplyStatus::Granted, Duration::ZERO);
        let (port, served) = door(source);
        best[3] = best[3].min(download(&mut connect(knock, &[], "127.0.0.1", port), BYTES));
        served.join().unwrap();
        answered.join().unwrap();
    }
    let rates = best.map(|time| (BYTES as f64 / time.as_secs_f64() / 1e6).round());
    println!(
        "MB/s on loopback, best of 5: sending nc {} connect {}, receiving nc {} connect {}",
        rates[0], rates[1], rates[2], rates[3]
    );
    assert!(rates[1] > 0.8 * rates[0] && rates[3] > 0.8 * rates[2], "{rates:?}");
}
