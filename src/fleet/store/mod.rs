//! The store process: talks to etcd for the keeper. Has no key that opens a knock. Its threads share one client, so that
//! no claim waits for anything else:
//!
//! ```text
//! main        messages from the keeper, and a report every second
//! claims      claims what waits, up to 64 knocks in one transaction
//! mirror      follows policy, grants, members and floor
//! grants      writes and deletes grants; creates their leases in advance
//! upkeep      the member's record, the floor, and the state of each endpoint, every 10 s
//! ```

mod claims;
mod grants;
mod keeper_channel;
mod mailbox;
mod mirroring;
mod settings;
mod store_health;
mod upkeep;

use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use zeroize::Zeroizing;

use self::claims::{ClaimDesk, ClaimThread};
use self::grants::{GrantThread, GrantWork};
use self::keeper_channel::{KeeperChannel, KeeperGone};
use self::mailbox::Mailbox;
use self::mirroring::MirrorThread;
use self::settings::StoreSettings;
use self::store_health::StoreHealth;
use self::upkeep::{MemberDescription, UpkeepThread};
use super::ipc::{FromStore, MESSAGE_MAX, ToStore, VERSION};
use crate::os::net::seqpacket::Channel;
use crate::os::process::{privileges, sandbox, signals};
use crate::os::{clock, poll};
use spa_knock_core::knock::Steady;
use spa_knock_fleet::client::StoreClient;

const NAME: &str = "spa-knock-store";
/// How much memory it may map in addition to what it has before its threads start, in bytes. Their stacks count.
const EXTRA_MEMORY: u64 = 64 << 20;
/// TLS and JSON need less than half of this, in debug builds too.
const STACK: usize = 512 << 10;
/// Two idle connections, a watch and requests for each of 16 endpoints, and its own descriptors.
const DESCRIPTORS_MAX: u64 = 128;
/// How often the keeper gets a report.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Runs the store process until the keeper closes its end of the channel.
#[must_use]
pub fn main() -> ExitCode {
    crate::os::log::start_without_waiting(NAME);
    let Ok(channel) = Channel::from_stdin() else {
        log::error!("must be started by spa-knockd");
        return ExitCode::from(2);
    };
    if signals::ignore_all().is_err() {
        return ExitCode::FAILURE;
    }
    let keeper = Arc::new(KeeperChannel::new(channel));
    match run(&keeper) {
        Ok(KeeperGone) => ExitCode::SUCCESS,
        Err(reason) => {
            // If the keeper is gone too, no one can receive the reason.
            let _ = keeper.send(&FromStore::Failed(reason));
            ExitCode::FAILURE
        }
    }
}

/// Runs until the keeper is gone.
///
/// # Errors
/// Why it cannot run, as human-readable text.
fn run(keeper: &Arc<KeeperChannel>) -> Result<KeeperGone, String> {
    if keeper.send(&FromStore::Version(VERSION.to_owned())).is_err() {
        return Ok(KeeperGone);
    }
    let Ok(settings) = receive_settings(keeper) else { return Ok(KeeperGone) };
    let parts = Parts::new(keeper, settings?);
    match parts.start_confined().map_err(|error| format!("store process: {error}"))? {
        Ok(()) => parts.run(),
        Err(gone) => Ok(gone),
    }
}

fn receive_settings(keeper: &KeeperChannel) -> Result<Result<StoreSettings, String>, KeeperGone> {
    let mut collected = settings::SettingsMessages::default();
    let mut buffer = Zeroizing::new(vec![0; MESSAGE_MAX]);
    loop {
        match keeper.recv(&mut buffer)? {
            Some(ToStore::Start(start)) => return Ok(collected.complete(&start)),
            Some(message) => {
                if let Err(reason) = collected.add(message) {
                    return Ok(Err(reason));
                }
            }
            None => return Ok(Err(invalid_message())),
        }
    }
}

fn invalid_message() -> String {
    "store process: received an invalid message".to_owned()
}

/// What the threads share.
struct Parts {
    keeper: Arc<KeeperChannel>,
    settings: StoreSettings,
    client: Arc<StoreClient>,
    health: Arc<StoreHealth>,
    claims: Arc<ClaimDesk>,
    grants: Arc<Mailbox<GrantWork>>,
    description: Arc<Mailbox<Option<MemberDescription>>>,
}

impl Parts {
    fn new(keeper: &Arc<KeeperChannel>, mut settings: StoreSettings) -> Self {
        let client = Arc::new(settings.take_client());
        Self {
            keeper: Arc::clone(keeper),
            client,
            health: Arc::new(StoreHealth::new(settings.member.clone(), clock::steady())),
            settings,
            claims: Arc::default(),
            grants: Arc::default(),
            description: Arc::default(),
        }
    }

    /// Enters the sandbox, permanently, reports that to the keeper, and starts the threads.
    fn start_confined(&self) -> io::Result<Result<(), KeeperGone>> {
        privileges::set_process_name(c"spa-knock-store")?;
        privileges::drop_rights(self.settings.identity)?;
        privileges::limit_memory(EXTRA_MEMORY)?;
        let landlock = sandbox::only_connect_to(&self.settings.ports);
        let works = self.works();
        // Threads wait twice: until all have been created, and until all are restricted.
        let barrier = Arc::new(Barrier::new(works.len().saturating_add(1)));
        for (name, work) in works {
            let barrier = Arc::clone(&barrier);
            std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
                let _end = EndOfProcess;
                barrier.wait();
                barrier.wait();
                let KeeperGone = work();
            })?;
        }
        barrier.wait();
        privileges::deny_new_processes()?;
        sandbox::restrict_calls_of_threads(&*self.keeper, DESCRIPTORS_MAX)?;
        log::info!("confined: seccomp, landlock ABI {landlock}");
        // The keeper expects this before anything that the threads send.
        let reported = self.keeper.send(&FromStore::Running { landlock: landlock.to_string() });
        barrier.wait();
        Ok(reported)
    }

    fn works(&self) -> [(&'static str, ThreadWork); 4] {
        let (keeper, health) = (|| Arc::clone(&self.keeper), || Arc::clone(&self.health));
        let (client, space) = (|| Arc::clone(&self.client), || self.settings.space.clone());
        let claims = ClaimThread {
            keeper: keeper(),
            health: health(),
            client: client(),
            desk: Arc::clone(&self.claims),
            space: space(),
            claimant: self.settings.claimant(),
        };
        let mirror = MirrorThread { keeper: keeper(), health: health(), client: client(), space: space() };
        let grants = GrantThread {
            health: health(),
            client: client(),
            space: space(),
            work: Arc::clone(&self.grants),
        };
        let upkeep = UpkeepThread {
            health: health(),
            client: client(),
            space: space(),
            member: self.settings.member.clone(),
            version: self.settings.version.clone(),
            window: self.settings.window,
            description: Arc::clone(&self.description),
        };
        [
            ("claims", Box::new(move || claims.run())),
            ("mirror", Box::new(move || mirror.run())),
            ("grants", Box::new(move || grants.run())),
            ("upkeep", Box::new(move || upkeep.run())),
        ]
    }

    /// Passes messages of the keeper on to the threads, and reports every second.
    fn run(&self) -> Result<KeeperGone, String> {
        let mut buffer = Zeroizing::new(vec![0; MESSAGE_MAX]);
        let mut report_due = clock::steady();
        loop {
            let now = clock::steady();
            if now >= report_due {
                // If the keeper is busy, the next report reaches it.
                self.keeper.try_send(&FromStore::Report(Box::new(self.health.report(&self.client, now))));
                report_due = now.plus(REPORT_EVERY);
            }
            let left = report_due.since(now);
            let waited = poll::readable(&[self.keeper.descriptor()], left);
            if !waited.map_err(|error| format!("store process: {error}"))?.contains(&true) {
                continue;
            }
            match self.keeper.recv(&mut buffer) {
                Ok(message) => match self.pass_on(message.ok_or_else(invalid_message)?, clock::steady())? {
                    Ok(()) => {}
                    Err(gone) => return Ok(gone),
                },
                Err(gone) => return Ok(gone),
            }
        }
    }

    fn pass_on(&self, message: ToStore, now: Steady) -> Result<Result<(), KeeperGone>, String> {
        match message {
            ToStore::Claim(claim) => {
                let ticket = claim.ticket;
                let claim = claims::parse(&self.settings.space, &claim).ok_or_else(invalid_message)?;
                if let Err(refused) = self.claims.push(claim, ticket, now) {
                    return Ok(self.keeper.send(&refused));
                }
            }
            ToStore::Publish { id, seconds, sealed, replaces } => {
                let grant = grants::parse(&id, seconds, &sealed, now).ok_or_else(invalid_message)?;
                let replaced = grants::parse_ids(&replaces).ok_or_else(invalid_message)?;
                self.grants.change(|work| work.publish(grant, replaced));
            }
            ToStore::Withdraw { ids } => {
                let ids = grants::parse_ids(&ids).ok_or_else(invalid_message)?;
                self.grants.change(|work| work.withdraw(ids));
            }
            ToStore::Describe { address, policy_revision, policy_digest } => {
                let new = MemberDescription { address, policy_revision, policy_digest };
                self.description.change(|description| *description = Some(new));
            }
            ToStore::Endpoint { .. } | ToStore::Tls(..) | ToStore::Login { .. } | ToStore::Start(_) => {
                return Err(invalid_message());
            }
        }
        Ok(Ok(()))
    }
}

type ThreadWork = Box<dyn FnOnce() -> KeeperGone + Send>;

/// A thread that has ended, even by a panic, ends the process: the keeper starts another one.
struct EndOfProcess;

impl Drop for EndOfProcess {
    fn drop(&mut self) {
        std::process::exit(1);
    }
}
