//! What applies: command line and config weighed against each other, as knockd does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::options::Options;
use crate::knockd::{Config, Door, OneTimeList};
use crate::os::files;

const INTERFACE: &str = "eth0";
const PID_FILE: &str = "/var/run/knockd.pid";
/// libpcap's name for all of them.
const ANY: &str = "any";

/// What the daemon runs with.
#[derive(Debug)]
pub(super) struct Settings {
    /// Where the config is.
    pub(super) path: PathBuf,
    /// Its text.
    pub(super) text: Vec<u8>,
    /// Its doors.
    pub(super) doors: Vec<Door>,
    /// The one-time sequences of those that have some, by their places.
    pub(super) lists: BTreeMap<usize, OneTimeList>,
    /// Where to listen; none at all = everywhere.
    pub(super) interfaces: Vec<String>,
    /// The config's over the command line's.
    pub(super) log_file: Option<PathBuf>,
    /// The same.
    pub(super) pid_file: PathBuf,
    /// Whether to log to syslog.
    pub(super) syslog: bool,
}

impl Settings {
    /// Reads the config that the command line names.
    ///
    /// # Errors
    /// In knockd's words.
    pub(super) fn read(options: &Options) -> Result<Self, String> {
        let path = options.config.clone();
        let text = files::read_bytes(&path).map_err(|error| error.to_string())?;
        let Config { options: said, doors } = Config::read(&text).map_err(|error| error.to_string())?;
        check(&doors)?;
        let mut lists = BTreeMap::new();
        for (place, door) in doors.iter().enumerate() {
            if let Some(file) = &door.one_time {
                lists.insert(place, read_list(file, door)?);
            }
        }
        let mut interfaces = match (options.interface.as_slice(), said.interfaces.as_slice()) {
            ([], []) => vec![INTERFACE.to_owned()],
            ([], said) => said.to_vec(),
            (given, _) => given.to_vec(),
        };
        if interfaces.iter().any(|name| name == ANY) {
            interfaces.clear();
        }
        Ok(Self {
            path,
            text,
            doors,
            lists,
            interfaces,
            log_file: said.log_file.or_else(|| options.logfile.clone()),
            pid_file: said.pid_file.or_else(|| options.pidfile.clone()).unwrap_or_else(|| PID_FILE.into()),
            syslog: said.syslog,
        })
    }

    /// Where it listens, for the log.
    pub(super) fn shown_interfaces(&self) -> String {
        if self.interfaces.is_empty() { ANY.to_owned() } else { self.interfaces.join(",") }
    }
}

/// The sequences of a door's one-time file.
///
/// # Errors
/// When it cannot be read or none is left.
pub(super) fn read_list(file: &Path, door: &Door) -> Result<OneTimeList, String> {
    let list = OneTimeList::read(&files::read_bytes(file).map_err(|error| error.to_string())?);
    for error in list.skipped() {
        log::warn!("config: section {}: {error}", door.name);
    }
    if list.current().is_none() {
        let message = crate::knockd::Message::NoSequences(&door.name).text();
        return Err(message.trim_end().to_owned());
    }
    Ok(list)
}

/// What the grammar allows but this daemon cannot do.
fn check(doors: &[Door]) -> Result<(), String> {
    for door in doors {
        let commands = [&door.start, &door.start_6, &door.stop, &door.stop_6];
        if commands.into_iter().flatten().any(|command| std::str::from_utf8(command.text()).is_err()) {
            return Err(format!("config: section {}: a command is not UTF-8 text", door.name));
        }
        if door.opening.is_some() {
            return Err(format!("config: section {}: Open: {}", door.name, crate::config::NOT_YET));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str, words: &[&str]) -> Result<Settings, String> {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("knockd.conf");
        files::create_new(&path, files::Mode::Private, config.as_bytes()).unwrap();
        let words: Vec<_> =
            ["knockd", "-c", path.to_str().unwrap()].iter().chain(words).map(Into::into).collect();
        let options = super::super::options::parse(&words).ok().unwrap();
        Settings::read(&options).map_err(|error| error.replace(path.to_str().unwrap(), "F"))
    }

    #[test]
    fn the_config_beats_the_command_line_but_for_interfaces() {
        let plain = read("", &[]).unwrap();
        assert_eq!((plain.interfaces, plain.log_file), (vec!["eth0".to_owned()], None));
        assert_eq!(plain.pid_file, Path::new("/var/run/knockd.pid"));
        let config = "[options]\nlogfile=/l\npidfile=/p\ninterface=a\ninterface=b\nusesyslog";
        let said = read(config, &["-g", "/x", "-p", "/y"]).unwrap();
        assert_eq!((said.log_file, said.pid_file), (Some("/l".into()), "/p".into()));
        assert_eq!((said.interfaces, said.syslog), (vec!["a".to_owned(), "b".to_owned()], true));
        assert_eq!(read(config, &["-i", "c"]).unwrap().interfaces, ["c"]);
        assert!(read(config, &["-i", "any"]).unwrap().interfaces.is_empty());
        let given = read("", &["-g", "/x", "-p", "/y"]).unwrap();
        assert_eq!((given.log_file, given.pid_file), (Some("/x".into()), "/y".into()));
    }

    #[test]
    fn what_cannot_be_run_is_told() {
        for (config, reason) in [
            ("[a]\nx", "config: line 2: syntax error"),
            ("[a]\none_time_sequences=/nonexistent/s", "/nonexistent/s: no such file or directory"),
            (
                "[a]\none_time_sequences=/dev/null",
                "no more sequences left in the one time sequences file for door a --> disabling the door",
            ),
            ("[a]\nsequence=1\nopen=tcp/22\nfor=1s", "config: section a: Open: not yet in this version"),
        ] {
            assert_eq!(read(config, &[]).err().as_deref(), Some(reason), "{config}");
        }
    }
}
