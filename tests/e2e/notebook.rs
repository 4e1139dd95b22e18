//! A site whose command writes down the knocks that it ran for: none may stand there twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use spa_knock_core::knock::ReplyStatus;
use spa_knock_core::wire::Datagram;

use crate::net::{CLIENT4, Daemon, KNOCK_PORT, Key, Lab, SERVER4, Site, ask, knock, within};

/// How long an honest knock may take, from its first sending to what it does.
const WORKS_WITHIN: Duration = Duration::from_secs(1);
/// How far the client's clock is ahead: that the server's has moved on must not be what keeps a knock out.
const AHEAD: Duration = Duration::from_secs(20);

/// The site, and the daemon that is tried there.
pub(crate) struct Notebook {
    pub(crate) lab: Lab,
    pub(crate) site: Site,
    pub(crate) laptop: Key,
    program: PathBuf,
    /// What is written there is taken back a second later, in another file.
    pub(crate) undoes: bool,
}

/// A knock that leaves its name in the notebook, once if all is well.
pub(crate) struct Note {
    pub(crate) name: String,
    pub(crate) datagram: Datagram,
}

impl Notebook {
    /// Nothing for those who may not make namespaces. `server` as in `Site::new`.
    pub(crate) fn new(program: &Path, server: &str) -> Option<Self> {
        let lab = Lab::new()?;
        let site = Site::new("", "");
        let laptop = site.key("laptop");
        let book = Self { lab, site, laptop, program: program.to_owned(), undoes: false };
        book.configure(server);
        Some(book)
    }

    /// One whose knocks are undone a second later.
    pub(crate) fn undoing(program: &Path) -> Option<Self> {
        let book = Self { undoes: true, ..Self::new(program, "")? };
        book.configure("");
        Some(book)
    }

    /// Writes the config, again with other lines of `[server]`.
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
                if self.undoes { &*undo } else { "" }
            ),
        );
    }

    /// The daemon's program and its words, behind those that come before it.
    pub(crate) fn command(&self, before: &[impl AsRef<Path>]) -> Command {
        let mut words = before.iter().map(AsRef::as_ref).chain([self.program.as_path()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(Daemon::words(&self.site));
        command
    }

    /// A daemon that nothing happens to.
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

    /// Sends a knock; what the server says to it.
    pub(crate) fn knock(&self, note: &Note) -> Option<ReplyStatus> {
        let answer = ask(&self.lab.client.udp(CLIENT4), SERVER4, note.datagram.as_bytes())?;
        Some(self.laptop.open(&answer, &note.datagram).status)
    }

    /// Sends a knock that was sent before, from a port that no answer is remembered for.
    pub(crate) fn repeat(&self, old: &Note) {
        self.lab.client.udp(CLIENT4).send_to(old.datagram.as_bytes(), (SERVER4, KNOCK_PORT)).unwrap();
    }

    /// How long an honest knock takes, sent as clients do: again while nothing happens.
    pub(crate) fn works(&self, name: &str) -> Duration {
        let note = self.note(name);
        let socket = self.lab.client.udp(CLIENT4);
        let start = Instant::now();
        let done = within(WORKS_WITHIN, || {
            socket.send_to(note.datagram.as_bytes(), (SERVER4, KNOCK_PORT)).unwrap();
            self.times(&note) > 0
        });
        assert!(done, "{name}: an honest knock");
        start.elapsed()
    }

    /// How often a knock has acted.
    pub(crate) fn times(&self, note: &Note) -> usize {
        self.lines("notes", note)
    }

    /// How often what it did has been undone.
    pub(crate) fn times_undone(&self, note: &Note) -> usize {
        self.lines("undone", note)
    }

    fn lines(&self, file: &str, note: &Note) -> usize {
        let text = fs::read_to_string(self.site.path(file)).unwrap_or_default();
        text.lines().filter(|line| *line == note.name).count()
    }
}
