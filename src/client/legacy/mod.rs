//! knock(1): packets to one port after another, for servers with plain sequences. Also under the name `knock`.

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

/// Where names of services stand (services(5)).
const SERVICES: &str = "/etc/services";
/// What a knock by UDP carries.
const DATAGRAM: [u8; 1] = [0];

const ABOUT: &str = "Knock at ports, one after another, as knock(1) does";

const LONG_ABOUT: &str = "\
Sends one packet to each PORT, in this order: a TCP SYN, or with ':udp' behind the port a UDP datagram of one zero \
byte. Nothing is waited for and nothing is sent twice, so that nobody can tell whether a door has opened.

Whoever sees such a sequence can repeat it. Where the server has spa-knockd, knock with a key: `spa-knock SERVER ACTION`.";

const AFTER_HELP: &str = "\
Ports:
  7000              TCP
  7000:udp          UDP, in upper or lower case; anything else behind the colon is TCP
  ssh, domain:udp   services of /etc/services

One-time sequences:
  With --one-time the first line of FILE that is neither empty nor a comment is knocked, e.g.
  7000,8000:udp,9000. When all of it is sent, its first character becomes '#', as in the
  server's file (One_Time_Sequences), which must have the same lines. If a knock was lost on
  the way, mark the server's line too, or take the '#' away here.

Exit codes:
  0  everything was sent; whether it arrived nobody knows
  2  wrong usage: nothing was sent
  4  name not resolved, no route, or a rule of this host forbids it: what follows was not sent
  5  the one-time file cannot be read or written, or is used up
  Under the name knock all of these but 0 are 1, as is --help.

Examples:
  spa-knock legacy server 7000 8000 9000
  spa-knock legacy -v -d 200 server 2222:udp 3333:tcp 4444:udp
  spa-knock legacy -u -6 server 123 1234
  spa-knock legacy --one-time ~/.knock.sequences server
  ln -s spa-knock /usr/local/bin/knock && knock server 7000 8000 9000";

/// What knock(1) may be told.
#[derive(Args)]
#[command(about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER_HELP, infer_long_args = true, version)]
pub(super) struct LegacyArgs {
    /// The server: a name or an address
    #[arg(value_name = "SERVER")]
    host: String,
    /// Where to knock, in this order: PORT or PORT:udp
    #[arg(value_name = "PORT[:PROTOCOL]", required_unless_present = "one_time")]
    ports: Vec<String>,
    /// Make all knocks UDP, whatever they say
    #[arg(short, long)]
    udp: bool,
    /// Wait so many milliseconds after each knock
    #[arg(short, long, value_name = "MS", default_value = "0", allow_hyphen_values = true, value_parser = delay)]
    delay: Duration,
    /// Use IPv4 only
    #[arg(short = '4', long, overrides_with = "ipv6")]
    ipv4: bool,
    /// Use IPv6 only
    #[arg(short = '6', long, overrides_with = "ipv4")]
    ipv6: bool,
    /// Say each knock
    #[arg(short, long)]
    verbose: bool,
    /// Knock the current sequence of FILE, and mark it as used
    #[arg(long, value_name = "FILE", conflicts_with = "ports")]
    one_time: Option<PathBuf>,
}

/// The program under its other name.
#[derive(Parser)]
#[command(name = "knock", arg_required_else_help = true)]
struct KnockCommandLine {
    #[command(flatten)]
    legacy: LegacyArgs,
}

/// Runs the program under the name `knock`: where nothing was sent it ends with 1, as knock(1) does.
pub(super) fn main(args: &[OsString]) -> ExitCode {
    let called = match KnockCommandLine::try_parse_from(args) {
        Ok(called) => called,
        Err(error) => {
            // A closed output is no reason to fail otherwise.
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

/// Knocks.
pub(super) fn knock(args: &LegacyArgs) -> Result<(), ClientError> {
    match &args.one_time {
        Some(file) => once(args, file),
        None => {
            let udp = if args.udp { Udp::Always } else { Udp::AsSaid };
            // A host without the file knows no names.
            let services = files::read_text(Path::new(SERVICES)).unwrap_or_default();
            let knocks: Result<Vec<_>, _> =
                args.ports.iter().map(|word| port::read(word, udp, &services)).collect();
            // All of them first: half a sequence helps nobody.
            send_all(args, &knocks?)
        }
    }
}

/// Knocks the current sequence of a file, then marks it. The other way round a network that is down would cost a
/// sequence, and the server would wait for it for ever.
fn once(args: &LegacyArgs, file: &Path) -> Result<(), ClientError> {
    let list = OneTimeList::read(&files::read_bytes(file)?);
    let (Some(sequence), Some(used)) = (list.current(), list.used()) else {
        return Err(ClientError::new(ExitCause::Files, format!("{}: no sequence is left", file.display()))
            .hint("write new ones, on the server too"));
    };
    send_all(args, sequence.knocks())?;
    files::replace(file, FileMode::Private, &used).map_err(|error| {
        ClientError::from(error)
            .hint("the server has used up this sequence: put a # before its line, or the next knock fails")
    })
}

fn send_all(args: &LegacyArgs, knocks: &[SequencePort]) -> Result<(), ClientError> {
    let family = match (args.ipv4, args.ipv6) {
        (true, _) => FamilyFilter::V4,
        (_, true) => FamilyFilter::V6,
        _ => FamilyFilter::Any,
    };
    for knock in knocks {
        // Resolved each time, as knock(1) does: who knocks for hours may be led elsewhere meanwhile.
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
        Err(_) => Err("not a number of milliseconds".to_owned()),
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
    fn options_stand_anywhere_and_may_be_cut_short() {
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
        assert_eq!((legacy.ipv4, legacy.ipv6), (false, true), "the last one counts");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
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
    fn only_the_name_counts() {
        for (name, called) in
            [("knock", true), ("/usr/bin/knock", true), ("spa-knock", false), ("knockd", false)]
        {
            assert_eq!(is_called(&[name.into()]), called, "{name}");
        }
    }
}
