//! A site whose command writes the name of each knock to a file. No name may be in this file twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use spa_knock_core::knock::ReplyStatus;
use spa_knock_core::wire::Datagram;

use crate::net::{CLIENT4, Daemon, KNOCK_PORT, Key, Lab, SERVER4, Site, ask, knock, within};

/// Time limit for a valid knock, from its first datagram to its effect.
const WORKS_WITHIN: Duration = Duration::from_secs(1);
/// How far the client's clock is ahead. A repeated knock must be refused as a replay, not because it has become stale.
const AHEAD: Duration = Duration::from_secs(20);

/// The site and the daemon under test.
pub(crate) struct Notebook {
    pub(crate) lab: Lab,
    pub(crate) site: Site,
    pub(crate) laptop: Key,
    program: PathBuf,
    /// Whether an undo command writes each name to a second file one second later.
    pub(crate) has_undo: bool,
}

/// A knock that writes its name to the file, at most once.
pub(crate) struct Note {
    pub(crate) name: String,
    pub(crate) datagram: Datagram,
}

impl Notebook {
    /// Returns `None` if the user cannot create namespaces. `server` is as in `Site::new`.
    pub(crate) fn new(program: &Path, server: &str) -> Option<Self> {
        let lab = Lab::new()?;
        let site = Site::new("", "");
        let laptop = site.key("laptop");
        let notebook = Self { lab, site, laptop, program: program.to_owned(), has_undo: false };
        notebook.configure(server);
        Some(notebook)
    }

    /// A notebook with an undo command that runs after one second.
    pub(crate) fn with_undo(program: &Path) -> Option<Self> {
        let notebook = Self { has_undo: true, ..Self::new(program, "")? };
        notebook.configure("");
        Some(notebook)
    }

    /// Writes the config with these lines in `[server]`.
    pub(crate) fn configure(&self, server: &str) {
        let undone = self.site.path("undone");
        let undo = format!(
            "undo = [\"/bin/sh\", \"-c\", \"echo $0 >> {}\", \"{{argument}}\"]\nfor = \"1s\"\n",
            undone.display()
        );
        self.site.write_config(
            server,
            &format!(
                "[firewall]\nprotect = [\"tcp/22\"]\n\
                 [action.open-ssh]\nopen = [\"tcp/22\"]\nfor = \"1s\"\n\
                 [action.note]\nrun = [\"/bin/sh\", \"-c\", \"echo $0 >> {}\", \"{{argument}}\"]\n{}\
                 [client.laptop]\nkey = \"laptop.key\"\nallow = [\"note\", \"open-ssh\"]\n",
                self.site.path("notes").display(),
                if self.has_undo { &*undo } else { "" }
            ),
        );
    }

    /// A command that runs the daemon, with `before` in front of its program and arguments.
    pub(crate) fn command(&self, before: &[impl AsRef<Path>]) -> Command {
        let mut args = before.iter().map(AsRef::as_ref).chain([self.program.as_path()]);
        let mut command = Command::new(args.next().unwrap());
        command.args(args).args(Daemon::arguments(&self.site));
        command
    }

    /// Starts a daemon without any injected faults.
    pub(crate) fn start(&self) -> Daemon {
        Daemon::start_command(&self.lab.server, self.command(&[""; 0]))
    }

    /// A knock from a client whose clock is fast.
    pub(crate) fn note(&self, name: &str) -> Note {
        self.note_ahead(name, AHEAD)
    }

    /// A knock from a client whose clock is fast by this much.
    pub(crate) fn note_ahead(&self, name: &str, ahead: Duration) -> Note {
        let mut knock = knock("note");
        knock.timestamp = knock.timestamp.plus(ahead);
        knock.argument = name.parse().unwrap();
        Note { name: name.to_owned(), datagram: self.laptop.seal(&knock) }
    }

    /// Sends a knock and returns the status of the reply.
    pub(crate) fn knock(&self, note: &Note) -> Option<ReplyStatus> {
        let reply = ask(&self.lab.client.udp(CLIENT4), SERVER4, note.datagram.as_bytes())?;
        Some(self.laptop.open(&reply, &note.datagram).status)
    }

    /// Sends an old knock again, from a port for which no reply is stored.
    pub(crate) fn repeat(&self, old: &Note) {
        self.lab.client.udp(CLIENT4).send_to(old.datagram.as_bytes(), (SERVER4, KNOCK_PORT)).unwrap();
    }

    /// Sends a valid knock, and resends it as clients do until it has acted. Returns the time that this took.
    pub(crate) fn works(&self, name: &str) -> Duration {
        let note = self.note(name);
        let socket = self.lab.client.udp(CLIENT4);
        let start = Instant::now();
        let done = within(WORKS_WITHIN, || {
            socket.send_to(note.datagram.as_bytes(), (SERVER4, KNOCK_PORT)).unwrap();
            self.times(&note) > 0
        });
        assert!(done, "{name}: a valid knock acts");
        start.elapsed()
    }

    /// Number of times that a knock has acted.
    pub(crate) fn times(&self, note: &Note) -> usize {
        self.lines("notes", note)
    }

    /// Number of times that its undo command has run.
    pub(crate) fn times_undone(&self, note: &Note) -> usize {
        self.lines("undone", note)
    }

    fn lines(&self, file: &str, note: &Note) -> usize {
        let text = fs::read_to_string(self.site.path(file)).unwrap_or_default();
        text.lines().filter(|line| *line == note.name).count()
    }
}
