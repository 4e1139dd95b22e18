//! The threads: one for each server resolves its name, and one for each address knocks there. They pass on what happens
//! and share nothing else with the thread that gathers it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::thread;

use crate::client::failure::{ClientError, ExitCause};
use crate::client::knock::race::{Race, RaceEvent};
use crate::client::knock::request::KnockRequest;
use crate::client::knock::route::Route;
use crate::client::knock::unanswered::send_to_one;
use crate::client::knock::{
    ADDRESSES_MAX, KnockSuccess, Knocker, Unsent, all_addresses, listed, origin, routes_to,
};
use crate::client::panics::caught;
use crate::client::report::Reporter;
use crate::config::AddressChoice;
use crate::os::clock;
use crate::os::files::io_error_text;
use spa_knock_core::knock::{ReplyWanted, Steady};

/// What is knocked at: an address of a server, or a server whose address is not known or changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// The number of the server in the group, from 0.
    pub(super) member: usize,
    /// The address.
    pub(super) address: Option<SocketAddr>,
}

/// What happens at a server.
pub(super) enum KnockEvent {
    /// The targets of this server are known, and what follows.
    Resolved(usize, KnockStage, Vec<Target>),
    /// A knock was sent for the first time.
    Sent(Target),
    /// A server has replied.
    Reply(Target),
    /// A knock has its outcome.
    Outcome(Target, Result<KnockSuccess, ClientError>),
    /// A server that has granted accepts the connection.
    Connected(TcpStream),
}

/// How far a knock without an outcome is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KnockStage {
    /// The server's name is being resolved.
    Resolving,
    /// An SSH key has to sign the knock, which a user may have to confirm.
    Signing,
    /// It is being sent, and no reply is wanted: once sent, it has its outcome.
    Sending,
    /// It was sent first at this time.
    Sent(Steady),
}

/// Knocks at one server.
pub(super) struct MemberKnock {
    pub(super) member: usize,
    pub(super) name: String,
    pub(super) request: Arc<KnockRequest>,
    pub(super) report: Reporter,
    pub(super) events: Sender<KnockEvent>,
    /// Whether the knock is still of use.
    pub(super) wanted: Arc<AtomicBool>,
}

impl MemberKnock {
    /// Starts to knock. The threads end by themselves: at the latest when the time for replies is over.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub(super) fn start(self) -> io::Result<()> {
        thread::Builder::new().spawn(move || self.run()).map(drop)
    }

    fn run(&self) {
        // The server is one target until its addresses are known; a later outcome of that target changes nothing.
        let knock = || {
            self.resolve_and_knock();
            Ok(())
        };
        if let Err(failure) = caught(&self.name, knock) {
            self.send_outcome(self.target(None), Err(failure));
        }
    }

    fn resolve_and_knock(&self) {
        let report = self.report.about(&self.name);
        let wanted = Some(Arc::clone(&self.wanted));
        let knocker = Knocker { wanted, ..Knocker::new(&self.request, &report) };
        match all_addresses(&self.request) {
            Ok(addresses) => self.knock_at(&knocker, addresses),
            Err(failure) => self.send_outcome(self.target(None), Err(failure)),
        }
    }

    fn knock_at(&self, knocker: &Knocker<'_>, mut addresses: Vec<SocketAddr>) {
        knocker.report.detail(|| format!("{}: resolved to {}", self.request.target.host, listed(&addresses)));
        if addresses.len() > ADDRESSES_MAX {
            let number = addresses.len();
            knocker
                .report
                .note(&format!("has {number} addresses; only the first {ADDRESSES_MAX} get a knock"));
            addresses.truncate(ADDRESSES_MAX);
        }
        let targets = match self.request.addresses {
            AddressChoice::First => vec![self.target(None)],
            AddressChoice::All => addresses.iter().map(|address| self.target(Some(*address))).collect(),
        };
        let stage = match (&self.request.signing, self.request.reply) {
            (Some(_), _) => KnockStage::Signing,
            (None, ReplyWanted::No) => KnockStage::Sending,
            (None, ReplyWanted::Yes) => KnockStage::Sent(clock::steady()),
        };
        let _ = self.events.send(KnockEvent::Resolved(self.member, stage, targets));
        match self.request.addresses {
            AddressChoice::First => {
                let (routes, unsent) = routes_to(addresses, knocker.report);
                let outcome = self.knock(knocker, self.target(None), routes, unsent);
                self.send_outcome(self.target(None), outcome);
            }
            AddressChoice::All => self.knock_at_each(knocker, addresses),
        }
    }

    fn knock_at_each(&self, knocker: &Knocker<'_>, addresses: Vec<SocketAddr>) {
        thread::scope(|scope| {
            for address in addresses {
                let target = self.target(Some(address));
                let knock = move || {
                    let knocked = caught(&self.name, || {
                        let report = self.report.about(&origin(Some(&self.name), address.ip()));
                        let (routes, unsent) = routes_to(vec![address], &report);
                        self.knock(&knocker.with_report(&report), target, routes, unsent)
                    });
                    self.send_outcome(target, knocked);
                };
                if let Err(error) = thread::Builder::new().spawn_scoped(scope, knock) {
                    self.send_outcome(target, Err(no_thread(&self.name, &error)));
                }
            }
        });
    }

    fn knock(
        &self,
        knocker: &Knocker<'_>,
        target: Target,
        routes: Vec<Route>,
        unsent: Unsent,
    ) -> Result<KnockSuccess, ClientError> {
        match self.request.reply {
            ReplyWanted::Yes => Race::new(knocker, &routes, unsent).run(&mut |event| {
                let _ = self.events.send(match event {
                    RaceEvent::Sent => KnockEvent::Sent(target),
                    RaceEvent::Reply(_) => KnockEvent::Reply(target),
                });
            }),
            ReplyWanted::No => send_to_one(knocker, &mut routes.into_iter(), unsent),
        }
    }

    /// It is no error if no one receives it: the result may be certain already.
    fn send_outcome(&self, target: Target, outcome: Result<KnockSuccess, ClientError>) {
        let _ = self.events.send(KnockEvent::Outcome(target, outcome));
    }

    const fn target(&self, address: Option<SocketAddr>) -> Target {
        Target { member: self.member, address }
    }
}

/// The outcome at a server for which there is no thread.
pub(super) fn no_thread(server: &str, error: &io::Error) -> ClientError {
    ClientError::new(
        ExitCause::Network,
        format!("{server}: no thread for the knock: {}", io_error_text(error)),
    )
}
