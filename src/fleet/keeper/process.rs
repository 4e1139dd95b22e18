//! Handle to the store process: starts it, sends its settings, and reads its messages.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::config::EtcdSettings;
use crate::fleet::files::{self as fleet_files, FleetFiles, LoginFile, TlsFiles};
use crate::fleet::ipc::{self, FromStore, MESSAGE_MAX, SecretText, StartSettings, TlsPart, ToStore, VERSION};
use crate::os::process::privileges::Identity;
use crate::os::{clock, files, host};
use crate::supervisor::channel_process::{ChannelProcess, Disconnected, START_MAX, other_version};
use crate::supervisor::program::Program;
use spa_knock_core::knock::Steady;
use spa_knock_fleet::client::Login;
use spa_knock_fleet::rollback::StoreMark;

/// A store process that has reported nothing for this long hangs: a report arrives every second.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(10);
/// One heap for all threads: each further one would reserve as much memory as the process is allowed to have.
const ENVIRONMENT: [(&str, &str); 1] = [("MALLOC_ARENA_MAX", "1")];

/// A running store process. Dropping it ends it.
pub(crate) struct StoreProcess {
    process: ChannelProcess,
    buffer: Vec<u8>,
    landlock: String,
}

impl StoreProcess {
    /// Starts it and waits until it is confined. The store itself need not answer. `mark` is what was seen of the store
    /// before.
    ///
    /// # Errors
    /// Why it does not run, as human-readable text. That a host name does not resolve may be temporary.
    pub(crate) fn start(
        program: &Program,
        settings: &EtcdSettings,
        identity: Option<Identity>,
        window: Duration,
        mark: Option<&StoreMark>,
    ) -> Result<Self, String> {
        // Everything that can be wrong in advance, before a process is started.
        let messages = messages(settings, identity, window, mark)?;
        let process = ChannelProcess::start(program, "store process", None, &ENVIRONMENT)?;
        let deadline = process.since().plus(START_MAX);
        let mut store = Self { process, buffer: vec![0; MESSAGE_MAX], landlock: String::new() };
        // A process of another version must not receive keys.
        match store.recv_before(program, deadline)? {
            FromStore::Version(version) if version == VERSION => {}
            FromStore::Version(version) => return Err(other_version(program, &version, VERSION)),
            FromStore::Failed(reason) => return Err(reason),
            _ => return Err(not_ours(program)),
        }
        let sent = messages.iter().try_for_each(|message| {
            // A process that reads each message just before its timeout must not delay the keeper either.
            match clock::steady() < deadline {
                true => store.process.send(&ipc::to_bytes(message)),
                false => Err(std::io::ErrorKind::TimedOut.into()),
            }
        });
        // If it exits early, its own message explains more than an error of the channel.
        match store.recv_before(program, deadline)? {
            FromStore::Running { landlock } => store.landlock = landlock,
            FromStore::Failed(reason) => return Err(reason),
            _ => return Err(not_ours(program)),
        }
        sent.map_err(|error| format!("store process: {}", files::io_error_text(&error)))?;
        Ok(store)
    }

    /// Sends one message if there is room for it. Returns whether there was. Never waits.
    pub(crate) fn try_send(&self, message: &ToStore) -> bool {
        self.process.try_send(&ipc::to_bytes(message))
    }

    /// Receives one message, if there is one. An invalid one ends the connection.
    ///
    /// # Errors
    /// If the process has exited, or must be replaced.
    pub(crate) fn try_recv(&mut self) -> Result<Option<FromStore>, Disconnected> {
        let Some(length) = self.process.try_recv(&mut self.buffer)? else { return Ok(None) };
        self.read(length).map(Some).ok_or(Disconnected)
    }

    /// Which Landlock version confines it.
    pub(crate) fn landlock(&self) -> &str {
        &self.landlock
    }

    /// When it will have been silent for too long, unless it sends a message before.
    pub(crate) const fn silence_deadline(&self) -> Steady {
        self.process.silence_deadline(SILENCE_MAX)
    }

    /// Kills it if it has sent no message for too long; returns the length of its silence. It must be dropped and
    /// replaced then. Call this after receiving its messages: after a pause of the keeper itself, they are still in the
    /// channel.
    pub(crate) fn kill_if_silent(&mut self, now: Steady) -> Option<Duration> {
        let silence = Some(self.process.silence(now)).filter(|silence| *silence >= SILENCE_MAX)?;
        self.process.kill();
        Some(silence)
    }

    fn recv_before(&mut self, program: &Program, deadline: Steady) -> Result<FromStore, String> {
        let length = self.process.recv_before(deadline, &mut self.buffer)?;
        self.read(length).ok_or_else(|| not_ours(program))
    }

    fn read(&self, length: usize) -> Option<FromStore> {
        self.buffer.get(..length).and_then(ipc::read)
    }
}

impl AsFd for StoreProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

fn not_ours(program: &Program) -> String {
    format!("{}: is not the store process of this daemon", program.path())
}

/// All settings, from the config and the files of the fleet.
fn messages(
    settings: &EtcdSettings,
    identity: Option<Identity>,
    window: Duration,
    mark: Option<&StoreMark>,
) -> Result<Vec<ToStore>, String> {
    let fleet = FleetFiles::of(settings);
    let mut messages = Vec::new();
    for endpoint in fleet_files::resolved(&settings.endpoints).map_err(|error| error.to_string())? {
        let addresses = endpoint.addresses().to_vec();
        messages.push(ToStore::Endpoint { url: endpoint.url().to_owned(), addresses });
    }
    if let Some(TlsFiles { ca, certificate, key }) = fleet.read_tls().map_err(|error| error.to_string())? {
        for (part, text) in [(TlsPart::Ca, ca), (TlsPart::Certificate, certificate), (TlsPart::Key, key)] {
            messages.push(ToStore::Tls(part, SecretText(text)));
        }
    }
    if let Some(Login { user, password }) =
        fleet.read_login(LoginFile::Member).map_err(|error| error.to_string())?
    {
        messages.push(ToStore::Login { user, password: SecretText(password) });
    }
    // Written into claims for the reader of an incident: nothing depends on it.
    let boot = host::boot_id().and_then(|id| ipc::array_from_hex(&id.replace('-', ""))).unwrap_or([0; 16]);
    messages.push(ToStore::Start(StartSettings {
        fleet: settings.name.to_string(),
        member: settings.member.to_string(),
        boot: ipc::hex(&boot),
        window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
        mark: mark.map(StoreMark::to_string),
        user: identity.map(|Identity { uid, gid }| (uid, gid)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }));
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{GrantScope, WhenLost};
    use crate::fleet::ipc::{ClaimMessage, OutcomeMessage};
    use crate::os::poll;

    fn settings(folder: &std::path::Path) -> EtcdSettings {
        EtcdSettings {
            name: "prod".parse().unwrap(),
            member: "a".parse().unwrap(),
            // No service is there, and nothing is sent to another host.
            endpoints: vec!["http://127.0.0.1:9".to_owned()],
            files: folder.to_owned(),
            cluster: None,
            grants: GrantScope::All,
            when_lost: WhenLost::Refuse,
            revoked_within: Duration::from_secs(600),
        }
    }

    /// The program beside the folder of this test's program, where cargo puts it.
    fn program(name: &'static str) -> Option<Program> {
        let own = files::own_program().unwrap();
        let path = own.parent()?.parent()?.join(name);
        if !files::exists(&path) {
            println!("skipped: {} is not built", path.display());
            return None;
        }
        Some(Program::of_test(name, path).unwrap())
    }

    #[test]
    fn a_store_process_runs_without_a_store_and_ends_with_its_handle() {
        let Some(program) = program(Program::STORE) else { return };
        let folder = tempfile::tempdir().unwrap();
        let window = Duration::from_secs(30);
        let mut store = StoreProcess::start(&program, &settings(folder.path()), None, window, None).unwrap();
        assert!(!store.landlock().is_empty());
        let claim = ClaimMessage {
            ticket: 7,
            key: format!("claim/{:016x}/{}/0/{}", 5, "01".repeat(8), "02".repeat(12)),
            attempt: "03".repeat(16),
            code: None,
            uses: None,
        };
        assert!(store.try_send(&ToStore::Claim(claim)));
        let (mut reports, mut refused) = (0, false);
        while reports < 2 || !refused {
            assert!(clock::steady() < store.silence_deadline(), "it is silent");
            poll::readable(&[store.as_fd()], SILENCE_MAX).unwrap();
            match store.try_recv().unwrap() {
                Some(FromStore::Report(report)) => {
                    assert_eq!(report.silent_ms, None);
                    reports += 1;
                }
                Some(FromStore::Claimed { ticket: 7, outcome: OutcomeMessage::Unknown(_), .. }) => {
                    refused = true;
                }
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
        let now = clock::steady();
        assert_eq!(store.kill_if_silent(now), None);
        assert!(store.kill_if_silent(now.plus(SILENCE_MAX)).is_some());
        // Its end of the channel closes when it has been killed.
        let end = now.plus(START_MAX);
        loop {
            assert!(clock::steady() < end, "it is still there");
            poll::readable(&[store.as_fd()], START_MAX).unwrap();
            if store.try_recv().is_err() {
                break;
            }
        }
    }

    #[test]
    fn unusable_files_are_found_before_a_process_is_started() {
        let folder = tempfile::tempdir().unwrap();
        let all = |settings: &EtcdSettings| messages(settings, None, Duration::from_secs(30), None);
        let good = settings(folder.path());
        assert_eq!(all(&good).unwrap().len(), 2);
        let broken = EtcdSettings { endpoints: vec!["http://127.0.0.1".to_owned()], ..good.clone() };
        assert!(all(&broken).unwrap_err().contains("not a URL"));
        files::replace(&folder.path().join("login"), files::FileMode::Private, b"me").unwrap();
        assert!(all(&good).unwrap_err().contains("not a login"));
    }

    #[test]
    fn another_program_is_not_sent_any_key() {
        let Some(watcher) = program(Program::WATCHER) else { return };
        let folder = tempfile::tempdir().unwrap();
        let started =
            StoreProcess::start(&watcher, &settings(folder.path()), None, Duration::from_secs(30), None);
        assert!(started.err().unwrap().contains("is not the store process of this daemon"));
    }
}
