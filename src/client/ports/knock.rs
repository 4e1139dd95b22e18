//! A knock by ports from its first packet to its last. Packets carry nothing: a TCP connection is begun and given up, or
//! an empty UDP datagram is sent. It needs no right that others do not have.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;

use super::schedule::{address, beats, choose, ports};
use super::used_steps::UsedSteps;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::knock::nat_cache::NatCache;
use crate::client::knock::plan::Claim;
use crate::client::knock::request::{KnockRequest, ThroughPorts};
use crate::client::knock::route::Route;
use crate::client::knock::wait::KnockAgain;
use crate::client::knock::{KnockSuccess, addresses, named, plan};
use crate::client::report::{Reporter, Success};
use crate::os::clock;
use crate::os::files::io_error_text;
use spa_knock_core::crypto::KeySet;
use spa_knock_core::knock::{Protocol, SLICES, Steady, TimeStep};

/// How long a connection may take to be refused before it is given up; its first packet has left by then.
const PATIENCE: Duration = Duration::from_millis(1);

/// What would be sent, as scripts get it.
#[derive(Serialize)]
struct PortDryRun<'a> {
    result: &'static str,
    server: &'a str,
    address: IpAddr,
    server_id: &'a str,
    key: String,
    fingerprint: String,
    action: &'a str,
    policy: &'static str,
    addresses: Vec<String>,
    protocol: &'static str,
    ports: [u16; SLICES],
    wait_ms: u64,
    good_until: String,
}

/// A knock by ports that is meant.
pub(in crate::client) struct PortKnocker<'a> {
    request: &'a KnockRequest,
    report: &'a Reporter,
    through: ThroughPorts,
    keys: KeySet,
    steps: UsedSteps,
    /// The address that is knocked at; all of the server's where a port is waited for.
    ways: Vec<PortRoute>,
    /// When the next step begins; none before the first.
    next: Option<Steady>,
}

/// One address of the server.
struct PortRoute {
    route: Route,
    claim: Claim,
    /// The address that is signed.
    signed: Option<IpAddr>,
}

/// Knocks as it is meant. The same can be done again in the next step.
pub(in crate::client) fn knock<'a>(
    request: &'a KnockRequest,
    through: ThroughPorts,
    report: &'a Reporter,
) -> Result<(KnockSuccess, PortKnocker<'a>), ClientError> {
    let mut knocker = PortKnocker::new(request, through, report)?;
    let used = knocker.steps.read();
    let (step, wait) = knocker.choose();
    if !wait.is_zero() {
        let seconds = wait.as_millis().div_ceil(1_000);
        let now = TimeStep::of(clock::wall());
        let why = if knocker.ways.iter().any(|way| used.contains(now, way.signed, &request.action)) {
            "each half minute is good for one knock like this"
        } else {
            "this half minute is nearly over"
        };
        report.note(&format!("{}: {why}; waiting {seconds} s", request.server));
        sleep(wait);
    }
    knocker.touch_all(step)?;
    Ok((knocker.sent(), knocker))
}

/// Says what a knock as it is meant would be.
pub(in crate::client) fn print_dry_run(
    request: &KnockRequest,
    through: ThroughPorts,
    report: &Reporter,
) -> Result<(), ClientError> {
    let knocker = PortKnocker::new(request, through, report)?;
    let (step, wait) = knocker.choose();
    let Some(way) = knocker.ways.first() else { return Err(nowhere(request)) };
    let rehearsal = PortDryRun {
        result: "dry-run",
        server: &request.server,
        address: way.route.server.ip(),
        server_id: request.target.id.as_str(),
        key: request.key.origin.to_string(),
        fingerprint: knocker.keys.fingerprint.to_string(),
        action: request.action.as_str(),
        policy: way.claim.policy.as_str(),
        addresses: named(way.claim),
        protocol: match through.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        },
        ports: knocker.ports(way, step),
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        good_until: clock::rfc3339(step.good_until()),
    };
    report.product(&rehearsal.text(), &rehearsal)
}

impl<'a> PortKnocker<'a> {
    fn new(
        request: &'a KnockRequest,
        through: ThroughPorts,
        report: &'a Reporter,
    ) -> Result<Self, ClientError> {
        let keys = request.key.keys(&request.target.id);
        let learnt = NatCache::new(request.state.as_deref(), keys.fingerprint);
        let (mut ways, mut failed) = (Vec::new(), None);
        for server in addresses(request)? {
            let way = Route::to(server).map_err(|error| unsent(server.ip(), &error)).and_then(|route| {
                let claim = plan(request, &learnt, &route).first_claim();
                let signed = address(claim, route.own)?;
                report.detail(|| format!("{}: own address {}", server.ip(), route.own));
                Ok(PortRoute { route, claim, signed })
            });
            match way {
                Ok(way) => ways.push(way),
                Err(failure) => failed = Some(failure),
            }
            // Without an answer nothing shows that another address is needed, unless a port is waited for.
            if !ways.is_empty() && request.patience.is_none() {
                break;
            }
        }
        if ways.is_empty() {
            return Err(failed.unwrap_or_else(|| nowhere(request)));
        }
        let steps = UsedSteps::new(request.state.as_deref(), keys.fingerprint);
        Ok(Self { request, report, through, keys, steps, ways, next: None })
    }

    fn choose(&self) -> (TimeStep, Duration) {
        let used = self.steps.read();
        choose(clock::wall(), self.through.gap, |step| {
            self.ways.iter().any(|way| used.contains(step, way.signed, &self.request.action))
        })
    }

    fn ports(&self, way: &PortRoute, step: TimeStep) -> [u16; SLICES] {
        ports(&self.keys.client(), step, way.signed, &self.request.action, self.through.knock_range)
    }

    /// Knocks at every address. One that nothing can be sent to is no failure: the others may be reached.
    fn touch_all(&mut self, step: TimeStep) -> Result<(), ClientError> {
        let begin = step.after().begin();
        let now = clock::wall();
        let left = if begin > now { begin.distance(now) } else { Duration::ZERO };
        self.next = Some(clock::steady().plus(left));
        let mut failed = None;
        let mut sent = false;
        for way in &self.ways {
            // First of all: whatever becomes of it, these ports have been seen.
            if let Err(error) = self.steps.store(self.steps.read(), step, way.signed, &self.request.action) {
                self.report.detail(|| format!("used steps are not remembered: {error}"));
            }
            let server = way.route.server.ip();
            self.report.detail(|| format!("{}: knocking at {server} {}", self.request.server, way.claim));
            match self.send_hits(way, self.ports(way, step)) {
                Ok(()) => sent = true,
                Err(failure) => failed = Some(failure),
            }
        }
        failed.filter(|_| !sent).map_or(Ok(()), Err)
    }

    /// Sends them all. One packet that cannot be sent is no failure: the others may be.
    fn send_hits(&self, way: &PortRoute, ports: [u16; SLICES]) -> Result<(), ClientError> {
        let server = way.route.server.ip();
        let mut sent = false;
        let mut failed = None;
        let mut due = clock::steady();
        // A socket that is not connected: what is refused must not keep the next one from leaving.
        let socket = UdpSocket::bind((unspecified(server), 0)).map_err(|error| unsent(server, &error))?;
        for beat in beats(ports, self.through.gap)? {
            due = due.plus(beat.after);
            sleep(due.since(clock::steady()));
            let mut to = way.route.server;
            to.set_port(beat.port);
            let touched = match self.through.protocol {
                Protocol::Tcp => begin_connection(to),
                Protocol::Udp => socket.send_to(&[], to).map(drop),
            };
            match touched {
                Ok(()) => sent = true,
                Err(error) => failed = Some(unsent(server, &error)),
            }
        }
        failed.filter(|_| !sent).map_or(Ok(()), Err)
    }

    fn sent(&self) -> KnockSuccess {
        let request = self.request;
        let whom = self.ways.first().map(|way| named(way.claim).join(",")).unwrap_or_default();
        let success = Success {
            result: "sent",
            action: request.action.to_string(),
            server: request.server.clone(),
            address: Some(whom).filter(|whom| !whom.is_empty()),
            seconds: None,
            server_time_ms: None,
            round_trip_ms: None,
        };
        let text = format!("{}: {} sent; this mode has no answer", request.server, request.action);
        let servers = self.ways.iter().map(|way| way.route.server).collect();
        KnockSuccess { servers, success, text }
    }
}

impl KnockAgain for PortKnocker<'_> {
    fn deadline(&self) -> Option<Steady> {
        self.next
    }

    fn notice(&self) -> Option<String> {
        let left = self.next?.since(clock::steady()).as_millis().div_ceil(1_000);
        Some(format!(
            "waiting for the next time step, to knock again in {left} s (a server accepts none from the step in which it has started)"
        ))
    }

    fn knock(&mut self) -> Result<(), ClientError> {
        let (step, wait) = self.choose();
        if !wait.is_zero() {
            // The clock was set back, or another process has used this step.
            self.next = Some(clock::steady().plus(wait));
            return Ok(());
        }
        self.report.note(&format!("{}: knocking again", self.request.server));
        self.touch_all(step)
    }
}

/// Sends a connection's first packet. Whether anybody takes it is no matter.
fn begin_connection(to: SocketAddr) -> io::Result<()> {
    match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::TimedOut | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn nowhere(request: &KnockRequest) -> ClientError {
    ClientError::new(ExitCause::Network, format!("{}: no address to knock at", request.target.host))
}

fn unsent(server: IpAddr, error: &io::Error) -> ClientError {
    ClientError::new(ExitCause::Network, format!("{server}: nothing could be sent: {}", io_error_text(error)))
}

impl PortDryRun<'_> {
    fn text(&self) -> String {
        let ports: Vec<String> = self.ports.iter().map(ToString::to_string).collect();
        let addresses = self.addresses.join(", ");
        let begin = if self.wait_ms == 0 { "now".to_owned() } else { format!("in {} ms", self.wait_ms) };
        let mut text = String::new();
        for (name, value) in [
            ("server", self.server),
            ("address", &self.address.to_string()),
            ("server id", self.server_id),
            ("key", &self.key),
            ("fingerprint", &self.fingerprint),
            ("action", self.action),
            ("policy", self.policy),
            ("addresses", if addresses.is_empty() { "none" } else { &addresses }),
            ("protocol", self.protocol),
            ("ports", &ports.join(" ")),
            ("begin", &begin),
            ("good until", &self.good_until),
        ] {
            text.push_str(&format!("{name:<12} {value}\n"));
        }
        text.push_str("nothing was sent\n");
        text
    }
}
