//! `doctor`: looks at everything that a knock needs, one after the other, and says of each whether it is well and,
//! where it is not, what to do.

pub(super) mod sntp;

use std::net::{IpAddr, SocketAddr};

use super::args::DoctorArgs;
use super::failure::{ClientError, ExitCause};
use super::knock::plan::is_global;
use super::knock::request::KnockRequest;
use super::knock::route::{FamilyFilter, Route, resolve};
use super::knock::{ADDRESSES_MAX, CLOCKS_APART, KnockSuccess, LastReply, knock_and_keep, listed};
use super::report::{Reporter, print};
use crate::os::clock;
use crate::os::files::io_error_text;
use sntp::Apart;
use spa_knock_core::knock::{ActionName, ReplyStatus};

/// What is asked for where nobody names an action: a server that knows us says that it has none of this name.
const HARMLESS: &str = "spa-knock-doctor";

/// So many addresses of an NTP server are asked, one after the other.
const NTP_ADDRESSES_MAX: usize = 4;

/// What came of a knock at one address.
struct DoctorFinding {
    server: SocketAddr,
    outcome: Result<KnockSuccess, ClientError>,
    last: Option<LastReply>,
}

/// How many things are wrong, and of which kind the first is.
#[derive(Default)]
struct Diagnosis {
    wrong: usize,
    first: Option<ExitCause>,
}

/// Examines everything that a knock as it is meant needs.
pub(super) fn examine(args: DoctorArgs) -> Result<(), ClientError> {
    let (named, ntp) = (args.action.is_some(), args.ntp.clone());
    let harmless: ActionName = HARMLESS
        .parse()
        .map_err(|error| ClientError::new(ExitCause::Usage, format!("{HARMLESS}: {error}")))?;
    let mut request = KnockRequest::to_examine(args, harmless)?;
    let mut diagnosis = Diagnosis::default();
    diagnosis.key(&request)?;
    let servers = diagnosis.name(&request)?;
    let host = request.target.host.clone();
    let ways = diagnosis.ways(&servers)?;
    diagnosis.clock(ntp.as_deref())?;
    let findings: Vec<_> = ways
        .iter()
        .map(|way| {
            // Each address for itself: a knock that may choose hides the one that is silent.
            request.target.host = host_of(way);
            let mut last = None;
            let outcome = knock_and_keep(&request, &Reporter::SILENT, &mut last);
            DoctorFinding { server: *way, outcome, last }
        })
        .collect();
    request.target.host = host;
    let answered = findings.iter().any(|finding| finding.last.is_some());
    for finding in findings {
        diagnosis.knock(&request, finding, named, answered)?;
    }
    match diagnosis.first {
        None => Ok(()),
        Some(cause) => {
            let things = if diagnosis.wrong == 1 { "thing is" } else { "things are" };
            Err(ClientError::new(cause, format!("{}: {} {things} wrong", request.server, diagnosis.wrong)))
        }
    }
}

impl Diagnosis {
    fn key(&mut self, request: &KnockRequest) -> Result<(), ClientError> {
        let fingerprint = request.key.keys(&request.target.id).fingerprint;
        let client = request.key.file.client.as_ref();
        let client = client.map(|client| format!(", client {client}")).unwrap_or_default();
        let told =
            format!("{}: {}{client}, fingerprint {fingerprint}", request.key.origin, request.key.kind());
        match request.key.server() {
            Some(server) if *server != request.target.id => self.wrong(
                ExitCause::Files,
                "key",
                &format!("{told}: is for server {server}, not for {}", request.target.id),
                "without --server-id and the profile's id, the key's counts",
            ),
            _ => well("key", &told),
        }
    }

    fn name(&mut self, request: &KnockRequest) -> Result<Vec<SocketAddr>, ClientError> {
        let (host, port) = (request.target.host.as_str(), request.target.port);
        match resolve(host, port, request.family, None) {
            Ok(mut servers) => {
                servers.truncate(ADDRESSES_MAX);
                well("name", &format!("{host}: {}", listed(&servers)))?;
                Ok(servers)
            }
            Err(failure) => {
                self.failed("name", &failure)?;
                Ok(Vec::new())
            }
        }
    }

    /// Those that there is a way to. Where there is none, only the lack of all is wrong.
    fn ways(&mut self, servers: &[SocketAddr]) -> Result<Vec<SocketAddr>, ClientError> {
        let mut ways = Vec::new();
        for (family, name) in [(FamilyFilter::V4, "IPv4"), (FamilyFilter::V6, "IPv6")] {
            let mut of_family = servers.iter().filter(|server| family.takes(server.ip())).peekable();
            if of_family.peek().is_none() {
                note(name, "the server has no address of it")?;
            }
            for &server in of_family {
                match Route::to(server) {
                    Ok(route) => {
                        well(name, &format!("to {} from {}{}", server.ip(), route.own, kind(route.own)))?;
                        ways.push(server);
                    }
                    Err(error) => {
                        note(name, &format!("no way to {}: {}", server.ip(), io_error_text(&error)))?
                    }
                }
            }
        }
        if ways.is_empty() && !servers.is_empty() {
            self.wrong(
                ExitCause::Network,
                "way",
                "none to any of these addresses",
                "is this host on a network?",
            )?;
        }
        Ok(ways)
    }

    fn clock(&mut self, ntp: Option<&str>) -> Result<(), ClientError> {
        let here = clock::rfc3339(clock::wall());
        let Some(ntp) = ntp else {
            return note("clock", &format!("{here} here; --ntp HOST compares it"));
        };
        let (host, port) = match ntp.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().unwrap_or(sntp::PORT))
            }
            _ => (ntp, sntp::PORT),
        };
        let servers = match resolve(host, port, FamilyFilter::Any, None) {
            Ok(servers) => servers,
            Err(failure) => {
                return self.wrong(
                    failure.cause(),
                    "clock",
                    &format!("NTP server {}", failure.reason()),
                    "give --ntp an address, or a name that this host resolves; spa-knock needs no NTP server",
                );
            }
        };
        let mut asked = Err("has no address".to_owned());
        for server in servers.into_iter().take(NTP_ADDRESSES_MAX) {
            asked = sntp::ask(server);
            if asked.is_ok() {
                break;
            }
        }
        match asked {
            Ok(apart) if apart.size() <= CLOCKS_APART => {
                well("clock", &format!("{} NTP server {ntp}", difference(apart)))
            }
            Ok(apart) => self.wrong(
                ExitCause::NoReply,
                "clock",
                &format!("{} NTP server {ntp}", difference(apart)),
                "set it: beyond the server's window (30 s unless configured) knocks stay unanswered",
            ),
            Err(reason) => self.wrong(
                ExitCause::Network,
                "clock",
                &format!("NTP server {ntp}: {reason}"),
                "name another one, or look whether UDP port 123 is filtered",
            ),
        }
    }

    /// What came of a knock at one address; `answered` means that one of them has answered.
    fn knock(
        &mut self,
        request: &KnockRequest,
        finding: DoctorFinding,
        named: bool,
        answered: bool,
    ) -> Result<(), ClientError> {
        let DoctorFinding { server, outcome, last } = finding;
        let server = server.ip();
        let known = last.as_ref().map(|answer| answer.reply.status);
        let asked_in_vain = request.action.as_str() == HARMLESS && !named;
        match outcome {
            Ok(knocked) => well("knock", &format!("{server}: {}", knocked.text))?,
            Err(_) if asked_in_vain && matches!(known, Some(ReplyStatus::UnknownAction | ReplyStatus::NotAllowed)) => {
                well(
                    "knock",
                    &format!(
                        "{server}: answered: the server knows this key; `doctor SERVER ACTION` asks for something"
                    ),
                )?;
            }
            Err(failure) if answered && failure.cause() == ExitCause::NoReply => self.wrong(
                failure.cause(),
                "knock",
                failure.reason(),
                &format!(
                    "remove {server} from {}, or let the server listen there: until then each knock is answered later, at another address",
                    request.target.host
                ),
            )?,
            Err(failure) => self.failed("knock", &failure)?,
        }
        let Some(answer) = last else { return Ok(()) };
        self.clocks(&answer)?;
        address(&answer)
    }

    fn clocks(&mut self, answer: &LastReply) -> Result<(), ClientError> {
        let (theirs, ours) = (answer.reply.server_time, answer.at);
        let size = theirs.distance(ours);
        let told = difference(if theirs > ours { Apart::Behind(size) } else { Apart::Ahead(size) });
        if size <= CLOCKS_APART {
            return well("clock", &format!("{told} the server's"));
        }
        self.wrong(
            ExitCause::NoReply,
            "clock",
            &format!("{told} the server's"),
            "--ntp HOST says whose clock is wrong; beyond the server's window knocks stay unanswered",
        )
    }

    fn failed(&mut self, subject: &str, failure: &ClientError) -> Result<(), ClientError> {
        self.wrong(failure.cause(), subject, failure.reason(), failure.advice())
    }

    fn wrong(&mut self, cause: ExitCause, subject: &str, told: &str, hint: &str) -> Result<(), ClientError> {
        self.wrong = self.wrong.saturating_add(1);
        self.first.get_or_insert(cause);
        let hint = if hint.is_empty() { String::new() } else { format!("hint: {hint}\n") };
        line("FAIL", subject, told)?;
        print(hint.as_bytes())
    }
}

/// An address as a host, with its scope.
fn host_of(server: &SocketAddr) -> String {
    match server {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        other => other.ip().to_string(),
    }
}

/// Whether the address that the server sees is ours, or one that it is translated into.
fn address(answer: &LastReply) -> Result<(), ClientError> {
    let (own, seen) = (answer.own, answer.reply.observed);
    if own == seen {
        return well("address", &format!("the server sees {seen}, which is our own"));
    }
    well(
        "address",
        &format!("the server sees {seen}, into which our own {own} is translated; others may share it"),
    )
}

fn kind(own: IpAddr) -> &'static str {
    if is_global(own) { "" } else { ", which is no address of the Internet: expect translation" }
}

fn difference(apart: Apart) -> String {
    let seconds = apart.size().as_secs_f64();
    match apart {
        Apart::Ahead(_) => format!("{seconds:.3} s ahead of"),
        Apart::Behind(_) => format!("{seconds:.3} s behind"),
    }
}

fn well(subject: &str, told: &str) -> Result<(), ClientError> {
    line("ok", subject, told)
}

fn note(subject: &str, told: &str) -> Result<(), ClientError> {
    line("skip", subject, told)
}

fn line(verdict: &str, subject: &str, told: &str) -> Result<(), ClientError> {
    print(format!("{verdict:<6} {subject:<8} {told}\n").as_bytes())
}
