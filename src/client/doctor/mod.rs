//! `doctor`: checks everything that a knock needs, and prints a verdict for each check, with a hint for each problem.

mod clock_check;
pub(super) mod sntp;
mod ssh_key;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::args::DoctorArgs;
use super::failure::{ClientError, ExitCause};
use super::fan_out::Member;
use super::knock::plan::is_global;
use super::knock::request::{ClientRequest, KnockRequest};
use super::knock::route::{FamilyFilter, Route, resolve};
use super::knock::{ADDRESSES_MAX, CLOCK_TOLERANCE, KnockSuccess, LastReply, knock_and_keep, listed};
use super::report::{Reporter, print};
use crate::os::files::io_error_text;
use sntp::ClockDifference;
use spa_knock_core::knock::{ActionName, ReplyStatus};

/// The action to request if none is named. No server has it; a server that knows the key refuses it.
const HARMLESS: &str = "spa-knock-doctor";

/// The result of a knock at one address.
struct DoctorFinding {
    server: SocketAddr,
    outcome: Result<KnockSuccess, ClientError>,
    last: Option<LastReply>,
}

/// Counts the problems, and remembers the kind of the first one.
#[derive(Default)]
struct Diagnosis {
    /// Whether the command line names an action.
    named: bool,
    /// The NTP server to compare the clock with, if one is given; none once the clock has been checked.
    ntp: Option<Option<String>>,
    problems: usize,
    first: Option<ExitCause>,
}

/// Checks everything that the requested knock needs.
///
/// # Errors
/// If there is any problem, with the cause of the first one.
pub(super) fn examine(args: DoctorArgs) -> Result<(), ClientError> {
    let (named, ntp) = (args.action.is_some(), args.ntp.clone());
    let harmless: ActionName = HARMLESS
        .parse()
        .map_err(|error| ClientError::new(ExitCause::Usage, format!("{HARMLESS}: {error}")))?;
    let request = ClientRequest::to_examine(args, harmless)?;
    let mut diagnosis = Diagnosis { named, ntp: Some(ntp), ..Diagnosis::default() };
    let server = match request {
        ClientRequest::One(mut request) => {
            diagnosis.server(&mut request)?;
            request.server
        }
        ClientRequest::Several(group) => {
            for Member { name, request } in group.members {
                match request.map(Arc::into_inner) {
                    Ok(Some(mut request)) => {
                        ok("server", &name)?;
                        diagnosis.server(&mut request)?;
                    }
                    // No one else has the request.
                    Ok(None) => {}
                    Err(failure) => diagnosis.failed("server", &failure.with_object(&format!("{name}: ")))?,
                }
            }
            group.server
        }
    };
    match diagnosis.first {
        None => Ok(()),
        Some(cause) => {
            let problems = if diagnosis.problems == 1 { "problem" } else { "problems" };
            Err(ClientError::new(cause, format!("{server}: {} {problems} found", diagnosis.problems)))
        }
    }
}

impl Diagnosis {
    /// Checks everything that a knock at one server needs.
    fn server(&mut self, request: &mut KnockRequest) -> Result<(), ClientError> {
        self.key(request)?;
        let can_sign = self.ssh_key(request)?;
        let servers = self.name(request)?;
        let routes = self.routes(&servers)?;
        // Once is enough: all servers have the same NTP server to be compared with.
        if let Some(ntp) = self.ntp.take() {
            self.clock(ntp.as_deref())?;
        }
        if !can_sign {
            return skip("knock", "no knock without a signature by the SSH key");
        }
        let host = request.target.host.clone();
        let mut findings = Vec::new();
        for server in routes {
            // Each address separately: a knock that may choose an address hides the silent ones.
            request.target.host = host_of(&server);
            let mut last = None;
            let outcome = knock_and_keep(request, &Reporter::SILENT, &mut last);
            findings.push(DoctorFinding { server, outcome, last });
        }
        request.target.host = host;
        let has_reply = findings.iter().any(|finding| finding.last.is_some());
        let named = self.named;
        findings.into_iter().try_for_each(|finding| self.knock(request, finding, named, has_reply))
    }

    fn key(&mut self, request: &KnockRequest) -> Result<(), ClientError> {
        let fingerprint = request.key.file.fingerprint(request.version(), &request.target.id);
        let client = request.key.file.client.as_ref();
        let client = client.map(|client| format!(", client {client}")).unwrap_or_default();
        let text =
            format!("{}: {}{client}, fingerprint {fingerprint}", request.key.origin, request.key.kind());
        match request.key.server() {
            Some(server) if *server != request.target.id => self.problem(
                ExitCause::Files,
                "key",
                &format!("{text}: is for server {server}, not for {}", request.target.id),
                "omit --server-id and remove `id` from the profile to use the key's server id",
            ),
            _ => ok("key", &text),
        }
    }

    fn name(&mut self, request: &KnockRequest) -> Result<Vec<SocketAddr>, ClientError> {
        let (host, port) = (request.target.host.as_str(), request.target.port);
        match resolve(host, port, request.family, None) {
            Ok(mut servers) => {
                servers.truncate(ADDRESSES_MAX);
                ok("name", &format!("{host}: {}", listed(&servers)))?;
                Ok(servers)
            }
            Err(failure) => {
                self.failed("name", &failure)?;
                Ok(Vec::new())
            }
        }
    }

    /// The servers with a route. A server without one is a problem only if no server has a route.
    fn routes(&mut self, servers: &[SocketAddr]) -> Result<Vec<SocketAddr>, ClientError> {
        let mut routable = Vec::new();
        for (family, name) in [(FamilyFilter::V4, "IPv4"), (FamilyFilter::V6, "IPv6")] {
            let mut of_family = servers.iter().filter(|server| family.contains(server.ip())).peekable();
            if of_family.peek().is_none() {
                skip(name, &format!("the server has no {name} address"))?;
            }
            for &server in of_family {
                match Route::to(server) {
                    Ok(route) => {
                        ok(
                            name,
                            &format!(
                                "to {} from {}{}",
                                server.ip(),
                                route.own,
                                nat_note(route.own, server.ip())
                            ),
                        )?;
                        routable.push(server);
                    }
                    Err(error) => {
                        skip(name, &format!("no route to {}: {}", server.ip(), io_error_text(&error)))?
                    }
                }
            }
        }
        if routable.is_empty() && !servers.is_empty() {
            self.problem(
                ExitCause::Network,
                "route",
                "no route to any of these addresses",
                "check whether this host is connected to a network",
            )?;
        }
        Ok(routable)
    }

    /// Reports a knock at one address. `has_reply`: at least one address replied.
    fn knock(
        &mut self,
        request: &KnockRequest,
        finding: DoctorFinding,
        named: bool,
        has_reply: bool,
    ) -> Result<(), ClientError> {
        let DoctorFinding { server, outcome, last } = finding;
        let server = server.ip();
        let status = last.as_ref().map(|last| last.reply.status);
        let is_harmless = request.action.as_str() == HARMLESS && !named;
        match outcome {
            Ok(knocked) => ok("knock", &format!("{server}: {}", knocked.text))?,
            Err(_) if is_harmless && matches!(status, Some(ReplyStatus::UnknownAction | ReplyStatus::NotAllowed)) => {
                ok(
                    "knock",
                    &format!(
                        "{server}: got a reply: the server knows this key; `doctor SERVER ACTION` requests a real action"
                    ),
                )?;
            }
            Err(failure) if has_reply && failure.cause() == ExitCause::NoReply => self.problem(
                failure.cause(),
                "knock",
                failure.reason(),
                &format!(
                    "remove {server} from {}, or let the server listen there: until then each knock takes longer, because only another address replies",
                    request.target.host
                ),
            )?,
            Err(failure) => self.failed("knock", &failure)?,
        }
        let Some(last) = last else { return Ok(()) };
        self.clocks(&last)?;
        address(&last)
    }

    fn clocks(&mut self, last: &LastReply) -> Result<(), ClientError> {
        let (theirs, ours) = (last.reply.server_time, last.at);
        let size = theirs.distance(ours);
        let difference = difference_text(if theirs > ours {
            ClockDifference::Behind(size)
        } else {
            ClockDifference::Ahead(size)
        });
        if size <= CLOCK_TOLERANCE {
            return ok("clock", &format!("{difference} the server's clock"));
        }
        self.problem(
            ExitCause::NoReply,
            "clock",
            &format!("{difference} the server's clock"),
            "use --ntp HOST to find out whose clock is wrong; the server ignores knocks outside its window",
        )
    }

    fn failed(&mut self, subject: &str, failure: &ClientError) -> Result<(), ClientError> {
        self.problem(failure.cause(), subject, failure.reason(), failure.advice())
    }

    fn problem(
        &mut self,
        cause: ExitCause,
        subject: &str,
        text: &str,
        hint: &str,
    ) -> Result<(), ClientError> {
        self.problems = self.problems.saturating_add(1);
        self.first.get_or_insert(cause);
        let hint = if hint.is_empty() { String::new() } else { format!("hint: {hint}\n") };
        line("FAIL", subject, text)?;
        print(hint.as_bytes())
    }
}

/// The address as a host name, with its scope.
fn host_of(server: &SocketAddr) -> String {
    match server {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        other => other.ip().to_string(),
    }
}

/// Reports whether the server sees the local address, or one that NAT puts in its place.
fn address(last: &LastReply) -> Result<(), ClientError> {
    let (own, seen) = (last.own, last.reply.observed);
    if own == seen {
        return ok("address", &format!("the server sees {seen}, which is this host's own address"));
    }
    ok(
        "address",
        &format!("the server sees {seen}, because {own} is translated (NAT); others may share that address"),
    )
}

/// A remark if the address must be translated on the way to a public server.
fn nat_note(own: IpAddr, server: IpAddr) -> &'static str {
    if is_global(server) && !is_global(own) { ", which is not a public address: expect NAT" } else { "" }
}

fn difference_text(offset: ClockDifference) -> String {
    let seconds = offset.size().as_secs_f64();
    match offset {
        ClockDifference::Ahead(_) => format!("{seconds:.3} s ahead of"),
        ClockDifference::Behind(_) => format!("{seconds:.3} s behind"),
    }
}

fn ok(subject: &str, text: &str) -> Result<(), ClientError> {
    line("ok", subject, text)
}

fn skip(subject: &str, text: &str) -> Result<(), ClientError> {
    line("skip", subject, text)
}

fn line(verdict: &str, subject: &str, text: &str) -> Result<(), ClientError> {
    print(format!("{verdict:<6} {subject:<8} {text}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translation_is_expected_only_between_a_private_address_and_a_public_server() {
        for (own, server, expected) in [
            ("192.168.1.5", "203.0.113.1", true),
            ("192.168.1.5", "192.168.1.1", false),
            ("127.0.0.1", "127.0.0.1", false),
            ("198.51.100.7", "203.0.113.1", false),
            ("fd00::2", "2001:db8::1", true),
        ] {
            let note = nat_note(own.parse().unwrap(), server.parse().unwrap());
            assert_eq!(!note.is_empty(), expected, "{own} {server}");
        }
    }
}
