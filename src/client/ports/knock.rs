//! Sends a port sequence. Its packets carry no data: a TCP connection is started and abandoned, or an empty UDP
//! datagram is sent. This needs no privileges.

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
use crate::client::knock::request::KnockRequest;
use crate::client::knock::route::Route;
use crate::client::knock::wait::KnockAgain;
use crate::client::knock::{KnockSuccess, addresses, named, plan};
use crate::client::ports::mode::PortMode;
use crate::client::report::{Reporter, Success};
use crate::os::clock;
use crate::os::files::io_error_text;
use spa_knock_core::crypto::{Fingerprint, PortKeys};
use spa_knock_core::knock::{Protocol, SLICES, Steady, TimeStep};

/// When a connection attempt is abandoned; its first packet has been sent by then.
const PATIENCE: Duration = Duration::from_millis(1);

/// What would be sent, in JSON.
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

/// A requested port sequence.
pub(in crate::client) struct PortKnocker<'a> {
    request: &'a KnockRequest,
    report: &'a Reporter,
    mode: PortMode,
    keys: PortKeys,
    fingerprint: Fingerprint,
    steps: UsedSteps,
    /// The address to knock at; all addresses of the server if the client waits for a port.
    targets: Vec<PortTarget>,
    /// When the next time step begins; none before the first knock.
    next: Option<Steady>,
}

/// One address of the server.
struct PortTarget {
    route: Route,
    claim: Claim,
    /// The address in the signed part; none under *observed*.
    signed: Option<IpAddr>,
}

/// Knocks as requested. The knock can be repeated in the next time step.
pub(in crate::client) fn knock<'a>(
    request: &'a KnockRequest,
    mode: PortMode,
    report: &'a Reporter,
) -> Result<(KnockSuccess, PortKnocker<'a>), ClientError> {
    let mut knocker = PortKnocker::new(request, mode, report)?;
    let used = knocker.steps.read();
    let (step, wait) = knocker.choose();
    if !wait.is_zero() {
        let seconds = wait.as_millis().div_ceil(1_000);
        let now = TimeStep::of(clock::wall());
        let reason =
            if knocker.targets.iter().any(|target| used.contains(now, target.signed, &request.action)) {
                "only one such knock is valid per 30-second time step"
            } else {
                "this time step is almost over"
            };
        report.note(&format!("{}: {reason}; waiting {seconds} s", request.server));
        sleep(wait);
    }
    knocker.send_all(step)?;
    Ok((knocker.sent(), knocker))
}

/// Prints what the requested knock would contain.
pub(in crate::client) fn print_dry_run(
    request: &KnockRequest,
    mode: PortMode,
    report: &Reporter,
) -> Result<(), ClientError> {
    let knocker = PortKnocker::new(request, mode, report)?;
    let (step, wait) = knocker.choose();
    let Some(target) = knocker.targets.first() else { return Err(nowhere(request)) };
    let dry_run = PortDryRun {
        result: "dry-run",
        server: &request.server,
        address: target.route.server.ip(),
        server_id: request.target.id.as_str(),
        key: request.key.origin.to_string(),
        fingerprint: knocker.fingerprint.to_string(),
        action: request.action.as_str(),
        policy: target.claim.policy.as_str(),
        addresses: named(target.claim),
        protocol: match mode.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        },
        ports: knocker.ports(target, step),
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        good_until: clock::rfc3339(step.valid_until()),
    };
    report.product(&dry_run.text(), &dry_run)
}

impl<'a> PortKnocker<'a> {
    fn new(request: &'a KnockRequest, mode: PortMode, report: &'a Reporter) -> Result<Self, ClientError> {
        let keys = request.keys();
        let fingerprint = keys.fingerprint;
        // `KnockRequest` refuses the option with an SSH key.
        let keys = keys.client().ports.ok_or_else(|| nowhere(request))?;
        let learned = NatCache::of(request, fingerprint);
        let (mut targets, mut failed) = (Vec::new(), None);
        for server in addresses(request)? {
            let target = Route::to(server).map_err(|error| unsent(server.ip(), &error)).and_then(|route| {
                let claim = plan(request, &learned, &route).first_claim();
                let signed = address(claim, route.own)?;
                report.detail(|| format!("{}: own address {}", server.ip(), route.own));
                Ok(PortTarget { route, claim, signed })
            });
            match target {
                Ok(target) => targets.push(target),
                Err(failure) => failed = Some(failure),
            }
            // Without a reply, nothing shows that another address is needed, unless the client waits for a port.
            if !targets.is_empty() && request.patience.is_none() {
                break;
            }
        }
        if targets.is_empty() {
            return Err(failed.unwrap_or_else(|| nowhere(request)));
        }
        let steps = UsedSteps::new(request.state.as_deref(), fingerprint);
        Ok(Self { request, report, mode, keys, fingerprint, steps, targets, next: None })
    }

    fn choose(&self) -> (TimeStep, Duration) {
        let used = self.steps.read();
        choose(clock::wall(), self.mode.gap, |step| {
            self.targets.iter().any(|target| used.contains(step, target.signed, &self.request.action))
        })
    }

    fn ports(&self, target: &PortTarget, step: TimeStep) -> [u16; SLICES] {
        ports(&self.keys, step, target.signed, &self.request.action, self.mode.knock_range)
    }

    /// Knocks at every address. Fails only if nothing can be sent to any of them.
    fn send_all(&mut self, step: TimeStep) -> Result<(), ClientError> {
        let begin = step.after().begin();
        let now = clock::wall();
        let left = if begin > now { begin.distance(now) } else { Duration::ZERO };
        self.next = Some(clock::steady().plus(left));
        let mut failed = None;
        let mut sent = false;
        for target in &self.targets {
            // Before sending: even if sending fails halfway, some of these ports have been observed.
            if let Err(error) = self.steps.store(self.steps.read(), step, target.signed, &self.request.action)
            {
                self.report.detail(|| format!("used time steps are not saved: {error}"));
            }
            let server = target.route.server.ip();
            self.report
                .detail(|| format!("{}: knocking at {server} ({})", self.request.server, target.claim));
            match self.send_hits(target, self.ports(target, step)) {
                Ok(()) => sent = true,
                Err(failure) => failed = Some(failure),
            }
        }
        failed.filter(|_| !sent).map_or(Ok(()), Err)
    }

    /// Sends all packets to one address. Fails only if none of them can be sent.
    fn send_hits(&self, target: &PortTarget, ports: [u16; SLICES]) -> Result<(), ClientError> {
        let server = target.route.server.ip();
        let mut sent = false;
        let mut failed = None;
        let mut due = clock::steady();
        // Not connected: otherwise an ICMP error for one packet would prevent the next one from being sent.
        let socket = UdpSocket::bind((unspecified(server), 0)).map_err(|error| unsent(server, &error))?;
        for beat in beats(ports, self.mode.gap)? {
            due = due.plus(beat.after);
            sleep(due.since(clock::steady()));
            let mut to = target.route.server;
            to.set_port(beat.port);
            let result = match self.mode.protocol {
                Protocol::Tcp => begin_connection(to),
                Protocol::Udp => socket.send_to(&[], to).map(drop),
            };
            match result {
                Ok(()) => sent = true,
                Err(error) => failed = Some(unsent(server, &error)),
            }
        }
        failed.filter(|_| !sent).map_or(Ok(()), Err)
    }

    fn sent(&self) -> KnockSuccess {
        let request = self.request;
        let addresses = self.targets.first().map(|target| named(target.claim).join(",")).unwrap_or_default();
        let success = Success {
            result: "sent",
            action: request.action.to_string(),
            server: request.server.clone(),
            address: Some(addresses).filter(|addresses| !addresses.is_empty()),
            seconds: None,
            server_time_ms: None,
            round_trip_ms: None,
            servers: None,
        };
        let text = format!("{}: {} sent; a port sequence gets no reply", request.server, request.action);
        let servers = self.targets.iter().map(|target| target.route.server).collect();
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
            "knocking again in {left} s, in the next time step (a server accepts no port sequence from the time step in which it started)"
        ))
    }

    fn knock(&mut self) -> Result<(), ClientError> {
        let (step, wait) = self.choose();
        if !wait.is_zero() {
            // The clock was set back, or another process has used this time step.
            self.next = Some(clock::steady().plus(wait));
            return Ok(());
        }
        self.report.note(&format!("{}: knocking again", self.request.server));
        self.send_all(step)
    }
}

/// Sends the first packet of a TCP connection, whether or not the connection succeeds.
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
        let send_at = if self.wait_ms == 0 { "now".to_owned() } else { format!("in {} ms", self.wait_ms) };
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
            ("send", &send_at),
            ("valid until", &self.good_until),
        ] {
            text.push_str(&format!("{name:<12} {value}\n"));
        }
        text.push_str("nothing was sent\n");
        text
    }
}
