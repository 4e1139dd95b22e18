//! knock(1): packets to one port after another, for servers with knock sequences. Also runs under the name `knock`.

mod port;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::{Args, Parser};

use super::failure::{ClientError, ExitCause};
use super::knock::route::{FamilyFilter, resolve};
use crate::legacy::knockd::{OneTimeList, SequencePort};
use crate::os::files::{self, FileMode, io_error_text};
use crate::os::net::tcp_knock;
use port::Udp;
use spa_knock_core::knock::Protocol;

/// The file with the names of services (services(5)).
const SERVICES: &str = "/etc/services";
/// The content of a UDP knock.
const DATAGRAM: [u8; 1] = [0];

const ABOUT: &str = "Knock at one port after another, as knock(1) does";

const LONG_ABOUT: &str = "\
Sends one packet to each PORT, in this order: a TCP SYN, or a UDP datagram of one zero byte if the port ends in \
':udp'. The program does not wait for a reply and does not resend, so it cannot report whether a port has opened.

Anyone who observes a knock sequence can replay it. If the server runs spa-knockd, knock with a key instead: \
`spa-knock SERVER ACTION`.";

const AFTER_HELP: &str = "\
Ports:
  7000              TCP
  7000:udp          UDP, in upper or lower case; anything else after the colon means TCP
  ssh, domain:udp   service names from /etc/services

One-time sequences:
  --one-time knocks the first line of FILE that is neither empty nor a comment, e.g.
  7000,8000:udp,9000. When all of it is sent, its first character becomes '#', as in the
  server's file (One_Time_Sequences), which must contain the same lines. If a packet was
  lost, mark the line in the server's file too, or remove the '#' here.

Exit codes:
  0  everything was sent; whether it arrived is unknown
  2  invalid usage; nothing was sent
  4  name not resolved, no route, or blocked by a rule of this host; the rest was not sent
  5  the one-time file cannot be read or written, or has no unused sequence
  Under the name knock, all failures and --help exit with 1.

Examples:
  spa-knock legacy server 7000 8000 9000
  spa-knock legacy -v -d 200 server 2222:udp 3333:tcp 4444:udp
  spa-knock legacy -u -6 server 123 1234
  spa-knock legacy --one-time ~/.knock.sequences server
  ln -s spa-knock /usr/local/bin/knock && knock server 7000 8000 9000";

/// The arguments of knock(1).
#[derive(Args)]
#[command(about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER_HELP, infer_long_args = true, version)]
pub(super) struct LegacyArgs {
    /// Server: a host name or an address
    #[arg(value_name = "SERVER")]
    host: String,
    /// Ports to knock at, in this order: PORT or PORT:udp
    #[arg(value_name = "PORT[:PROTOCOL]", required_unless_present = "one_time")]
    ports: Vec<String>,
    /// Send all knocks over UDP, whatever their suffix is
    #[arg(short, long)]
    udp: bool,
    /// Wait this many milliseconds after each knock
    #[arg(short, long, value_name = "MS", default_value = "0", allow_hyphen_values = true, value_parser = delay)]
    delay: Duration,
    /// Use IPv4 only
    #[arg(short = '4', long, overrides_with = "ipv6")]
    ipv4: bool,
    /// Use IPv6 only
    #[arg(short = '6', long, overrides_with = "ipv4")]
    ipv6: bool,
    /// Print each knock
    #[arg(short, long)]
    verbose: bool,
    /// Knock the next unused sequence in FILE, then mark it as used
    #[arg(long, value_name = "FILE", conflicts_with = "ports")]
    one_time: Option<PathBuf>,
}

/// The command line under the name `knock`.
#[derive(Parser)]
#[command(name = "knock", arg_required_else_help = true)]
struct KnockCommandLine {
    #[command(flatten)]
    legacy: LegacyArgs,
}

/// Runs the program under the name `knock`: if anything fails it exits with 1, as knock(1) does.
pub(super) fn main(args: &[OsString]) -> ExitCode {
    let called = match KnockCommandLine::try_parse_from(args) {
        Ok(called) => called,
        Err(error) => {
            // If the output is closed, the exit code stays the same.
            let _ = error.print();
            return u8::from(error.kind() != clap::error::ErrorKind::DisplayVersion).into();
        }
    };
    match knock(&called.legacy) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "knock: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the program was started through a link named `knock`.
pub(super) fn is_called(args: &[OsString]) -> bool {
    args.first().and_then(|name| Path::new(name).file_stem()).is_some_and(|name| name == "knock")
}

/// Knocks the ports on the command line, or a one-time sequence.
pub(super) fn knock(args: &LegacyArgs) -> Result<(), ClientError> {
    match &args.one_time {
        Some(file) => once(args, file),
        None => {
            let udp = if args.udp { Udp::Always } else { Udp::AsGiven };
            // Without the file, only port numbers can be used.
            let services = files::read_text(Path::new(SERVICES)).unwrap_or_default();
            let knocks: Result<Vec<_>, _> =
                args.ports.iter().map(|argument| port::read(argument, udp, &services)).collect();
            // All ports are parsed before the first packet: part of a sequence is useless.
            send_all(args, &knocks?)
        }
    }
}

/// Knocks the next unused sequence of a file, then marks it. In the opposite order, a network failure would use up a
/// sequence that the server keeps waiting for.
fn once(args: &LegacyArgs, file: &Path) -> Result<(), ClientError> {
    let list = OneTimeList::read(&files::read_bytes(file)?);
    let (Some(sequence), Some(used)) = (list.current(), list.used()) else {
        return Err(ClientError::new(
            ExitCause::Files,
            format!("{}: no unused sequence left", file.display()),
        )
        .hint("add new sequences, also to the server's file"));
    };
    send_all(args, sequence.knocks())?;
    files::replace(file, FileMode::Private, &used).map_err(|error| {
        ClientError::from(error)
            .hint("replace the first character of the used line with #: the server has used this sequence, so the next knock would fail")
    })
}

fn send_all(args: &LegacyArgs, knocks: &[SequencePort]) -> Result<(), ClientError> {
    let family = match (args.ipv4, args.ipv6) {
        (true, _) => FamilyFilter::V4,
        (_, true) => FamilyFilter::V6,
        _ => FamilyFilter::Any,
    };
    for knock in knocks {
        // Resolved for each knock, as in knock(1): in a sequence that takes hours, the address may change.
        let address = resolve(&args.host, knock.port, family, None)?;
        let Some(address) = address.first() else { continue };
        if args.verbose {
            let protocol = knock.protocol.as_str();
            let _ = writeln!(io::stdout(), "hitting {protocol} {}:{}", address.ip(), knock.port);
        }
        send(knock.protocol, *address).map_err(|error| {
            let knock = format!("{}/{}", knock.protocol.as_str(), knock.port);
            ClientError::new(
                ExitCause::Network,
                format!("{}: {knock} not sent: {}", args.host, io_error_text(&error)),
            )
        })?;
        sleep(args.delay);
    }
    Ok(())
}

fn send(protocol: Protocol, address: SocketAddr) -> io::Result<()> {
    match protocol {
        Protocol::Tcp => tcp_knock::send(address),
        Protocol::Udp => {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            UdpSocket::bind(any)?.send_to(&DATAGRAM, address).map(drop)
        }
    }
}

fn delay(text: &str) -> Result<Duration, String> {
    match text.parse::<i64>() {
        Ok(ms) => u64::try_from(ms).map(Duration::from_millis).map_err(|_| "must not be negative".to_owned()),
        Err(_) => Err("must be a number of milliseconds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<LegacyArgs, clap::Error> {
        KnockCommandLine::try_parse_from(line.split_whitespace()).map(|called| called.legacy)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        KnockCommandLine::command().debug_assert();
    }

    #[test]
    fn options_may_be_anywhere_and_may_be_abbreviated() {
        for line in [
            "knock -u -d 5 -v h 1 2:udp",
            "knock h 1 --ud 2:udp --delay=5 --verb",
            "knock h -uvd5 1 2:udp",
            "knock -4 -6 h 1 2:udp -uv -d 5",
        ] {
            let legacy = parse(line).ok().unwrap();
            assert_eq!((legacy.host.as_str(), legacy.ports.join(" ").as_str()), ("h", "1 2:udp"), "{line}");
            assert!(legacy.udp && legacy.verbose && legacy.delay == Duration::from_millis(5), "{line}");
        }
        let legacy = parse("knock -4 h 1 -6").ok().unwrap();
        assert_eq!((legacy.ipv4, legacy.ipv6), (false, true), "the last one takes effect");
    }

    #[test]
    fn an_invalid_command_line_is_rejected() {
        for line in [
            "knock",
            "knock h",
            "knock -d -1 h 1",
            "knock -d x h 1",
            "knock --one-time f h 1",
            "knock -x h 1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_program_name_decides() {
        for (name, called) in
            [("knock", true), ("/usr/bin/knock", true), ("spa-knock", false), ("knockd", false)]
        {
            assert_eq!(is_called(&[name.into()]), called, "{name}");
        }
    }
}
