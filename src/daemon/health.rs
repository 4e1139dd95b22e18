//! Serves the health checks of load balancers, and decides whether this daemon can grant what a balancer would send to
//! it. The kernel drops the port for everyone else; this server closes their connections as well, because there is no
//! rule while the gate is off.

use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::event_loop::Daemon;
use super::http::{HttpPage, HttpServer, PageStatus, Peers};
use crate::config::HealthSettings;
use crate::gate::state::GateState;
use crate::os::poll::Polled;
use crate::os::{clock, files};
use spa_knock_core::knock::Steady;

/// The paths of health checks.
const PATHS: &[&str] = &["/", "/health"];
/// The interval between requests for a report of the watcher. By itself, it may report only every 20 s.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// A watcher that has reported nothing for this long is not healthy. After 35 s it is replaced.
const REPORT_MAX: Duration = Duration::from_secs(15);
/// The interval between attempts to bind an address that is not available yet.
const BIND_RETRY: Duration = Duration::from_secs(5);

/// The server of the health checks.
pub(super) struct HealthChecks {
    settings: HealthSettings,
    /// None while the address cannot be bound.
    server: Option<HttpServer>,
    bind_due: Steady,
    report_due: Steady,
}

/// Why a load balancer should send nothing to this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HealthProblem {
    /// The administrator has turned the gate off, or its trial has ended.
    GateOff,
    /// Our rules are missing or changed, and not restored yet.
    GateNotLoaded,
    /// No watcher runs.
    NoWatcher,
    /// The watcher hangs.
    WatcherSilent,
    /// Each knock must be recorded in the audit log, which cannot be written.
    AuditLog,
    /// Knocks cannot be recorded in the state directory.
    StateDirectory,
    /// The store of the fleet does not answer.
    #[cfg(feature = "fleet")]
    FleetStore,
}

impl fmt::Display for HealthProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GateOff => "gate off",
            Self::GateNotLoaded => "gate not loaded",
            Self::NoWatcher => "no watcher",
            Self::WatcherSilent => "watcher silent",
            Self::AuditLog => "audit log",
            Self::StateDirectory => "state directory",
            #[cfg(feature = "fleet")]
            Self::FleetStore => "fleet store",
        })
    }
}

impl HealthChecks {
    /// Starts listening; if the address is not available, tries again until it is.
    pub(super) fn start(settings: HealthSettings) -> Self {
        let server = listen(&settings)
            .inspect_err(|error| log::error!("{error}; health checks are not served; retrying"))
            .ok();
        Self::with(settings, server)
    }

    /// Starts listening.
    ///
    /// # Errors
    /// The reason in human-readable form.
    pub(super) fn open(settings: HealthSettings) -> Result<Self, String> {
        let server = listen(&settings)?;
        Ok(Self::with(settings, Some(server)))
    }

    fn with(settings: HealthSettings, server: Option<HttpServer>) -> Self {
        let now = clock::steady();
        Self { settings, server, bind_due: now.plus(BIND_RETRY), report_due: now }
    }

    /// The address on which checks are served.
    pub(super) const fn address(&self) -> SocketAddr {
        self.settings.address
    }

    /// Applies settings with the same address.
    pub(super) fn set_peers(&mut self, settings: HealthSettings) {
        if let Some(server) = &mut self.server {
            server.set_peers(Peers::From(settings.from.clone()));
        }
        self.settings = settings;
    }

    /// Whether the watcher must be asked for a report, at most once in each interval.
    fn take_report_due(&mut self, now: Steady) -> bool {
        let is_due = now >= self.report_due;
        if is_due {
            self.report_due = now.plus(REPORT_INTERVAL);
        }
        is_due
    }

    /// Serves checks with this result.
    fn run_due(&mut self, now: Steady, health: Result<(), HealthProblem>) {
        if self.server.is_none() && now >= self.bind_due {
            self.bind_due = now.plus(BIND_RETRY);
            self.server = listen(&self.settings).ok();
            if self.server.is_some() {
                log::info!("server.health {}: bound; health checks are served", self.settings.address);
            }
        }
        if let Some(server) = &mut self.server {
            server.run_due(&mut || page(health));
        }
    }
}

impl Polled for HealthChecks {
    /// Readable when a balancer connects, sends or disconnects.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        if let Some(server) = &self.server {
            server.fds(out);
        }
    }

    fn deadline(&self) -> Option<Steady> {
        let bind = self.server.is_none().then_some(self.bind_due);
        let connections = self.server.as_ref().and_then(Polled::deadline);
        [Some(self.report_due), bind, connections].into_iter().flatten().min()
    }
}

impl Daemon {
    /// Serves health checks. Called after the watcher's reports are read: after a pause of the daemon itself, they are
    /// still in the channel.
    pub(super) fn serve_health(&mut self) {
        let now = clock::steady();
        let Some(mut health) = self.health.take() else { return };
        if health.take_report_due(now)
            && let Some(watcher) = self.supervisor.watcher()
        {
            watcher.prompt();
        }
        health.run_due(now, self.check_health());
        self.health = Some(health);
    }

    /// Whether this daemon can grant a knock: one line for each condition.
    ///
    /// # Errors
    /// The first condition that is not met.
    pub(super) fn check_health(&mut self) -> Result<(), HealthProblem> {
        let require = |is_met: bool, problem| if is_met { Ok(()) } else { Err(problem) };
        let report_age = self.supervisor.report_age();
        require(self.executor.gate_state() != GateState::Open, HealthProblem::GateOff)?;
        require(self.executor.gate().is_loaded(), HealthProblem::GateNotLoaded)?;
        require(report_age.is_some(), HealthProblem::NoWatcher)?;
        require(report_age.is_some_and(|age| age < REPORT_MAX), HealthProblem::WatcherSilent)?;
        require(self.audit.check_available().is_ok(), HealthProblem::AuditLog)?;
        require(self.state.can_record(), HealthProblem::StateDirectory)?;
        self.fleet.check(clock::steady())
    }
}

fn listen(settings: &HealthSettings) -> Result<HttpServer, String> {
    let HealthSettings { address, from } = settings;
    HttpServer::on_address(*address, Peers::From(from.clone()), PATHS).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AddrInUse => format!(
                "\nhint: find the process that uses it with 'ss -ltnp sport = :{}'; if it is spa-knockd, whose address \
                 the new one includes, restart it",
                address.port()
            ),
            ErrorKind::AddrNotAvailable => "\nhint: use an address of this host".to_owned(),
            ErrorKind::PermissionDenied => {
                "\nhint: use a port from 1024, or restart spa-knockd, which has dropped the privilege for this one"
                    .to_owned()
            }
            _ => String::new(),
        };
        format!("server.health {address}: {}{hint}", files::io_error_text(&error))
    })
}

fn page(health: Result<(), HealthProblem>) -> HttpPage {
    match health {
        Ok(()) => HttpPage { status: PageStatus::Available, body: "ok\n".to_owned() },
        Err(problem) => HttpPage { status: PageStatus::Unavailable, body: format!("{problem}\n") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str) -> HealthSettings {
        HealthSettings { address: address.parse().unwrap(), from: vec!["127.0.0.0/8".parse().unwrap()] }
    }

    #[test]
    fn an_address_of_another_host_is_named_with_the_fix() {
        // TEST-NET-1 (RFC 5737).
        let error = HealthChecks::open(settings("192.0.2.1:8080")).err().unwrap();
        assert_eq!(
            error,
            "server.health 192.0.2.1:8080: cannot assign requested address\nhint: use an address of this host"
        );
    }

    #[test]
    fn an_address_in_use_is_named_with_the_fix_and_bound_when_it_is_free() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = HealthChecks::open(settings(&address.to_string())).err().unwrap();
        assert!(
            error.starts_with(&format!(
                "server.health {address}: address already in use\nhint: find the process "
            )),
            "{error}"
        );
        let mut health = HealthChecks::start(settings(&address.to_string()));
        let now = clock::steady();
        health.run_due(now.plus(BIND_RETRY), Ok(()));
        assert!(health.server.is_none());
        drop(taken);
        health.run_due(now.plus(BIND_RETRY), Ok(()));
        assert!(health.server.is_none(), "the next attempt is not due yet");
        // A process that another test has just started holds the listener, too, until it runs its program.
        let is_bound = (2..500).any(|attempt| {
            health.run_due(now.plus(BIND_RETRY.saturating_mul(attempt)), Ok(()));
            health.server.is_some() || {
                std::thread::sleep(Duration::from_millis(2));
                false
            }
        });
        assert!(is_bound);
    }

    #[test]
    fn reports_are_requested_at_most_once_in_each_interval() {
        let mut health = HealthChecks::with(settings("127.0.0.1:1"), None);
        let now = clock::steady();
        assert!(health.take_report_due(now));
        assert!(!health.take_report_due(now));
        assert!(health.take_report_due(now.plus(REPORT_INTERVAL)));
    }

    #[test]
    fn a_page_states_the_reason_with_status_503() {
        assert_eq!(page(Ok(())), HttpPage { status: PageStatus::Available, body: "ok\n".to_owned() });
        let unavailable = page(Err(HealthProblem::WatcherSilent));
        assert_eq!(
            unavailable,
            HttpPage { status: PageStatus::Unavailable, body: "watcher silent\n".to_owned() }
        );
    }
}
