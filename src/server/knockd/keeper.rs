//! The loop that hears what the watcher sees, logs it and runs what it means.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::super::console::Failure;
use super::super::state;
use super::book::Book;
use super::ears::{Ears, Gone, Post};
use super::leases::{Leases, Told, tell_left};
use super::messages::FromWatcher;
use super::options::Options;
use super::settings::{Settings, read_list};
use crate::knockd::{Client, Door, Event, Message, OneTimeList, Step};
use crate::os::files::{self, Mode};
use crate::os::signals::Signals;
use crate::os::{clock, confine, wait};

/// How long the loop sleeps at most, and how often the host's addresses are looked at.
const TICK: Duration = Duration::from_secs(10);
/// Reports taken before signals and commands have their turn.
const BATCH: usize = 256;
/// Before another watcher is started: at first, and at most.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(30);
/// How long a daemon that stops waits for start commands.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// Whom the watcher becomes.
const USER: &str = "spa-knock";

/// The running daemon.
pub(super) struct Keeper {
    path: PathBuf,
    options: ForReload,
    doors: Vec<Door>,
    /// Doors that are not in here any more are closed for good.
    lists: BTreeMap<usize, OneTimeList>,
    post: Post,
    ears: Option<Ears>,
    restart: Option<Duration>,
    delay: Duration,
    book: Book,
    leases: Leases,
    pid_file: Option<PathBuf>,
    wanted_pid_file: PathBuf,
    _lock: File,
}

/// What of the command line a reload needs.
struct ForReload(Box<dyn Fn() -> Result<Settings, String>>);

impl Keeper {
    /// Takes its folder, reads what is still to be closed, and starts to watch.
    ///
    /// # Errors
    /// When one of them fails.
    pub(super) fn start(settings: Settings, options: Options) -> Result<Self, Failure> {
        let folder = options.state_dir.join(folder_name(&settings.path));
        let lock = state::lock(&folder)?;
        let (undoings, left) = state::open_undoings_in(&folder).map_err(Failure::run)?;
        tell_left(left);
        let client = "knockd".parse().map_err(Failure::run)?;
        let identity = confine::unprivileged(USER)
            .map_err(|error| Failure::run(format_args!("watcher: {}", files::plain(&error))))?;
        let post = Post {
            config: settings.text.clone(),
            interfaces: settings.interfaces.clone(),
            only_v4: options.only_ip_v4,
            identity,
        };
        let ears = Ears::start(&post, false).map_err(Failure::run)?;
        if options.lookup {
            log::warn!("--lookup: {}: addresses are logged without names", crate::config::NOT_YET);
        }
        if !settings.doors.is_empty() {
            log::warn!(
                "plain sequences can be sniffed and replayed by who sees them; `spa-knockd migrate` is a way out"
            );
        }
        let book = Book::open(settings.log_file.clone(), settings.syslog, options.verbose || options.debug);
        let interfaces = settings.shown_interfaces();
        book.write(&Message::Starting(&interfaces));
        book.say(&format!("listening on {interfaces}..."));
        let keeper = Self {
            path: settings.path,
            doors: settings.doors,
            lists: settings.lists,
            post,
            ears: Some(ears),
            restart: None,
            delay: RESTART_FIRST,
            book,
            leases: Leases::new(undoings, client),
            pid_file: None,
            wanted_pid_file: settings.pid_file,
            options: ForReload(Box::new(move || Settings::read(&options))),
            _lock: lock,
        };
        keeper.tell_sequences();
        Ok(keeper)
    }

    /// Writes the process's number; what fails is only logged.
    pub(super) fn write_pid_file(&mut self) {
        let path = self.wanted_pid_file.clone();
        match files::replace(&path, Mode::Public, format!("{}\n", std::process::id()).as_bytes()) {
            Ok(()) => self.pid_file = Some(path),
            Err(error) => self.book.write(&Message::PidFile(&path, &error.reason)),
        }
    }

    /// Runs until a signal ends it; its number is the exit code, as in knockd.
    pub(super) fn run(mut self, mut signals: Signals) -> ExitCode {
        /// SIGTERM and SIGINT, signal(7).
        const TERM: u8 = 15;
        const INT: u8 = 2;
        let mut looked = clock::steady();
        loop {
            if let Err(error) = self.wait(&signals) {
                return Failure::run(format_args!("poll: {error}")).exit();
            }
            signals.drain();
            if signals.stop() {
                break;
            }
            if signals.take_reload() {
                self.reload();
            }
            self.hear();
            self.tend();
            self.mind();
            if clock::steady().saturating_sub(looked) >= TICK {
                looked = clock::steady();
                if let Some(ears) = &mut self.ears {
                    ears.tell_addresses(&self.post);
                }
            }
        }
        self.settle();
        self.book.say("closing...");
        self.book.write(&Message::ShuttingDown);
        if let Some(path) = &self.pid_file {
            let _ = files::remove(path);
        }
        ExitCode::from(if signals.interrupt() { INT } else { TERM })
    }

    /// Waits a moment for commands that open: once they have ended it is known when to close.
    fn settle(&mut self) {
        let deadline = clock::steady().saturating_add(SETTLE_MAX);
        while self.leases.is_opening() && clock::steady() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            self.tend();
        }
    }

    fn wait(&self, signals: &Signals) -> std::io::Result<()> {
        let mut fds: Vec<BorrowedFd<'_>> = vec![signals.as_fd()];
        fds.extend(self.ears.as_ref().map(AsFd::as_fd));
        fds.extend(self.leases.descriptors());
        let restart = self.restart.map(|due| due.saturating_sub(clock::steady()));
        let patience = restart.into_iter().chain(self.leases.patience()).fold(TICK, Duration::min);
        wait::readable(&fds, patience).map(drop)
    }

    fn hear(&mut self) {
        for _ in 0..BATCH {
            let report = match self.ears.as_ref().map(Ears::try_recv) {
                Some(Ok(Some(report))) => report,
                Some(Ok(None)) | None => return,
                Some(Err(Gone)) => return self.lose("the watcher ended"),
            };
            match report {
                FromWatcher::Event(event) => self.happen(&event),
                FromWatcher::Untold(number) => {
                    log::warn!("a flood: {number} stages and timeouts of a second are not logged");
                }
                FromWatcher::Lost(reason) => self.miss(&reason),
                FromWatcher::Failed(reason) => return self.lose(&reason),
                FromWatcher::Watching => return self.lose("the watcher talks nonsense"),
            }
        }
    }

    fn happen(&mut self, event: &Event) {
        let Some(door) = self.doors.get(event.door) else { return };
        let client = Client { address: event.source, name: None };
        self.book.write(&match event.step {
            Step::Stage(stage) => Message::Stage(client, &door.name, stage),
            Step::Open => Message::Open(client, &door.name),
            Step::Timeout(stage) => Message::SequenceTimeout(client, &door.name, stage),
        });
        if event.step == Step::Open && self.use_up(event.door) {
            let Some(door) = self.doors.get(event.door) else { return };
            let told = self.leases.open(door, event.source);
            self.log(&told);
        }
    }

    /// Marks the sequence that has opened a door, if it was good once; whether the door may open.
    fn use_up(&mut self, place: usize) -> bool {
        let Some(door) = self.doors.get(place) else { return false };
        let Some(file) = &door.one_time else { return true };
        // A list that is not there any more has nothing that could open.
        let Some(used) = self.lists.remove(&place).and_then(|list| list.used()) else { return false };
        if let Err(error) = files::replace(file, Mode::Private, &used) {
            // It opens, but never again: what is not marked would be good a second time.
            log::error!("{error}");
            self.book.write(&Message::NotMarked(&door.name));
            return true;
        }
        match read_list(file, door) {
            Ok(list) => {
                if let Some(ears) = &self.ears {
                    ears.renew(place, list.current());
                }
                self.lists.insert(place, list);
            }
            Err(_) => self.book.write(&Message::NoSequences(&door.name)),
        }
        true
    }

    fn tell_sequences(&self) {
        for (place, list) in &self.lists {
            if let Some(ears) = &self.ears {
                ears.renew(*place, list.current());
            }
        }
    }

    fn tend(&mut self) {
        let told = self.leases.tend();
        self.log(&told);
    }

    fn log(&self, told: &[Told]) {
        for told in told {
            match told {
                Told::Running { door, command } => {
                    self.book.write(&Message::Running(door, command.as_bytes()))
                }
                Told::Status { door, status } => self.book.write(&Message::Status(door, *status)),
                Told::Timeout { source, door } => {
                    let client = Client { address: *source, name: None };
                    self.book.write(&Message::CommandTimeout(client, door));
                }
                Told::Truncated(which) => self.book.write(&Message::Truncated(*which)),
                Told::NotStarted { door, reason } => {
                    log::error!("{door}: {reason}");
                    self.book.write(&Message::ForkFailed);
                }
            }
        }
    }

    /// The watcher is gone, or goes now.
    fn lose(&mut self, why: &str) {
        self.ears = None;
        log::error!("{why}\nstarting another watcher in {} ms", self.delay.as_millis());
        self.postpone();
    }

    /// The watcher goes on with the interfaces that are left.
    fn miss(&mut self, why: &str) {
        log::error!("{why}\nwatching the other interfaces, and looking for this one again");
        if self.restart.is_none() {
            self.postpone();
        }
    }

    fn postpone(&mut self) {
        self.restart = Some(clock::steady().saturating_add(self.delay));
        self.delay = self.delay.saturating_mul(2).min(RESTART_MAX);
    }

    /// Starts another watcher where one is due: one that watches everywhere, or anywhere if there is none.
    fn mind(&mut self) {
        if self.restart.is_none_or(|due| clock::steady() < due) {
            return;
        }
        self.restart = None;
        match Ears::start(&self.post, self.ears.is_none()) {
            Ok(ears) => {
                log::info!("watching again");
                self.delay = RESTART_FIRST;
                self.ears = Some(ears);
                self.tell_sequences();
            }
            Err(_) => self.postpone(),
        }
    }

    /// Takes up the config anew; one that is wrong changes nothing.
    fn reload(&mut self) {
        self.book.write(&Message::Rereading(&self.path));
        let taken = (self.options.0)().and_then(|new| {
            let post = Post { config: new.text.clone(), ..self.post.clone() };
            Ears::start(&post, true).map(|ears| (new, post, ears))
        });
        match taken {
            Ok((new, post, ears)) => {
                (self.post, self.ears) = (post, Some(ears));
                (self.doors, self.lists) = (new.doors, new.lists);
                self.tell_sequences();
                self.book.turn_to(new.log_file, new.syslog);
            }
            Err(reason) => {
                log::error!("{reason}");
                self.book.write(&Message::Kept(&reason));
                self.book.turn_to(None, false);
            }
        }
    }
}

/// One folder for each config: its path, in characters that a name can have (as systemd-escape(1) does).
fn folder_name(path: &Path) -> String {
    let path = path.to_string_lossy();
    let mut name = String::new();
    for byte in path.trim_matches('/').bytes() {
        match byte {
            b'/' => name.push('-'),
            b'.' if name.is_empty() => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_config_has_a_folder_of_its_own() {
        for (path, name) in [
            ("/etc/knockd.conf", "etc-knockd.conf"),
            ("/etc/knockd-conf", "etc-knockd\\x2dconf"),
            ("/.x/../ä", "\\x2ex-..-\\xc3\\xa4"),
        ] {
            assert_eq!(folder_name(Path::new(path)), name);
        }
    }
}
