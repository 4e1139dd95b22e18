//! Collects the daemon status for `spa-knockd status` and the metrics.

use std::os::fd::AsFd;
use std::time::Duration;

use super::event_loop::Daemon;
use super::watcher_reports::COUNT_MAX;
use crate::capture::CaptureKind;
use crate::config::Interfaces;
use crate::control::status::{
    CaptureState, DaemonStatus, Datagrams, Frames, GateMode, GateStatus, KnockCount, LogState, PortsState,
    PreviousKeyUse, RefusedSignatures, ThrottledClient, WatcherState,
};
use crate::firewall::FirewallMode;
use crate::gate::state::GateState;
use crate::os::{clock, log as os_log, poll};
use spa_knock_core::auth::KnockResult;
use spa_knock_core::knock::Steady;

/// The watcher's counters are requested again if they are older than this.
const COUNT_AGE: Duration = Duration::from_millis(100);

impl Daemon {
    /// The current daemon status.
    pub(super) fn status(&mut self) -> DaemonStatus {
        self.refresh_counts();
        let now = clock::steady();
        let health = self.health.is_some().then(|| self.check_health());
        let (legacy, fwknop) = self.legacy.state();
        let filters_hints = self.executor.gate().filters_hints();
        let config = &self.setup.config;
        let (state, left) = match self.executor.gate_state() {
            GateState::NeverClosed | GateState::Closed => (GateMode::On, None),
            GateState::Open => (GateMode::Off, None),
            GateState::Trial(until) => (GateMode::Trial, Some(until.since(clock::boot()).as_secs())),
        };
        let seen = self.supervisor.stats();
        let counts = seen.counts;
        let ended = |(ending, count): (KnockResult, u64)| KnockCount {
            event: ending.event().to_owned(),
            reason: ending.reason().to_owned(),
            count,
        };
        let users = self.keeper.users_of_previous_keys().into_iter();
        let (commands, pending_undo) = self.executor.queue_depths();
        DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            server: config.id.to_string(),
            pid: std::process::id(),
            uptime: now.since(self.started).as_secs(),
            gate: GateStatus {
                state,
                seconds_left: left,
                protect: config.gated().iter().chain(&config.published).map(ToString::to_string).collect(),
                mark: match config.mode {
                    FirewallMode::Mark(mark) => Some(mark.to_string()),
                    FirewallMode::Guard | FirewallMode::Set => None,
                },
            },
            capture: CaptureState {
                kind: match config.capture {
                    CaptureKind::Pcap => "pcap".to_owned(),
                    CaptureKind::Udp => "udp".to_owned(),
                },
                port: config.port,
                interfaces: match (config.capture, &config.interfaces) {
                    (CaptureKind::Pcap, Interfaces::Named(names)) => names.clone(),
                    // The socket receives on all of them.
                    (CaptureKind::Udp, _) | (_, Interfaces::Any) => vec!["any".to_owned()],
                },
                missing: self.supervisor.missing_interfaces(),
                replies: self.supervisor.replies(),
                frames: seen.intake.map(|intake| Frames {
                    received: intake.received,
                    dropped: intake.dropped,
                    if_dropped: intake.if_dropped,
                }),
                hint_filter: (config.capture == CaptureKind::Udp).then_some(filters_hints),
            },
            watcher: WatcherState {
                uptime: self.supervisor.since().map(|since| now.since(since).as_secs()),
                report_age: self.supervisor.report_age().map(|age| age.as_secs()),
                restarts: self.supervisor.restarts(),
            },
            health: health
                .map(|health| health.map_or_else(|problem| problem.to_string(), |()| "ok".to_owned())),
            clients: self.setup.clients.len(),
            actions: config.actions.len(),
            grants: self.executor.live().len(),
            commands,
            audit: self.audit.state(),
            log: LogState { lost: os_log::lost() },
            pending_undo,
            datagrams: Datagrams {
                authentic: counts.authentic,
                unknown_hint: counts.unknown_hint,
                forged: counts.forged,
                duplicates: counts.duplicates,
                bad_length: counts.bad_length,
                throttled: counts.throttled,
            },
            ports: config.ports.map(|knock_range| PortsState {
                range: knock_range.to_string(),
                hits: counts.port_hits,
                sequences: counts.sequences,
            }),
            legacy,
            fwknop,
            fleet: self.fleet.state(&self.setup),
            knocks: self.tally.counts().map(ended).collect(),
            throttled: self
                .throttled
                .iter()
                .map(|(client, &count)| ThrottledClient { client: client.to_string(), count })
                .collect(),
            signatures: self
                .signatures
                .iter()
                .map(|(client, &count)| RefusedSignatures { client: client.to_string(), count })
                .collect(),
            previous_keys: users
                .map(|(client, uses)| PreviousKeyUse { client: client.to_string(), uses })
                .collect(),
        }
    }

    /// Asks the watcher for its counters, unless they are recent, and waits up to 200 ms. Knocks that arrive in the
    /// meantime are judged as usual.
    fn refresh_counts(&mut self) {
        let start = clock::steady();
        let deadline = start.plus(COUNT_MAX);
        let recent = |at: Option<Steady>, age: Duration| at.is_some_and(|at| start.since(at) <= age);
        let Some(watcher) = self.supervisor.watcher() else { return };
        let known = recent(watcher.reported_at(), COUNT_AGE);
        if known || watcher.is_silent(start) || !watcher.request_stats() {
            return;
        }
        while clock::steady() < deadline
            && let Some(watcher) = self.supervisor.watcher()
            && !recent(watcher.reported_at(), Duration::ZERO)
        {
            let left = deadline.since(clock::steady());
            if poll::readable(&[watcher.as_fd()], left).is_err() {
                return;
            }
            self.drain_reports();
        }
    }
}
