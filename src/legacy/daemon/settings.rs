//! What applies: command line and config weighed against each other, as knockd does.

use std::path::PathBuf;

use super::args::KnockdArgs;
use super::config_file::KnockdConfig;

const INTERFACE: &str = "eth0";
const PID_FILE: &str = "/var/run/knockd.pid";
/// libpcap's name for all of them.
const ANY: &str = "any";

/// What the daemon runs with.
#[derive(Debug)]
pub(in crate::legacy) struct Settings {
    /// Where the config is.
    pub(in crate::legacy) path: PathBuf,
    /// What it says.
    pub(in crate::legacy) written: KnockdConfig,
    /// Where to listen; none at all = everywhere.
    pub(in crate::legacy) interfaces: Vec<String>,
    /// The config's over the command line's.
    pub(in crate::legacy) log_file: Option<PathBuf>,
    /// The same.
    pub(in crate::legacy) pid_file: PathBuf,
}

impl Settings {
    /// Reads the config that the command line names.
    ///
    /// # Errors
    /// In knockd's words.
    pub(in crate::legacy) fn read(options: &KnockdArgs) -> Result<Self, String> {
        let path = options.config.clone();
        let written = KnockdConfig::read(&path).map_err(|wrong| wrong.to_string())?;
        let said = &written.options;
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
            log_file: said.log_file.clone().or_else(|| options.logfile.clone()),
            pid_file: said
                .pid_file
                .clone()
                .or_else(|| options.pidfile.clone())
                .unwrap_or_else(|| PID_FILE.into()),
            interfaces,
            written,
        })
    }

    /// Where it listens, for the log.
    pub(in crate::legacy) fn shown_interfaces(&self) -> String {
        if self.interfaces.is_empty() { ANY.to_owned() } else { self.interfaces.join(",") }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::os::files;

    fn read(config: &str, words: &[&str]) -> Result<Settings, String> {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("knockd.conf");
        files::create_new(&path, files::FileMode::Private, config.as_bytes()).unwrap();
        let words: Vec<_> =
            ["knockd", "-c", path.to_str().unwrap()].iter().chain(words).map(Into::into).collect();
        let options = crate::legacy::daemon::args::parse(&words).ok().unwrap();
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
        assert_eq!(
            (said.interfaces, said.written.options.syslog),
            (vec!["a".to_owned(), "b".to_owned()], true)
        );
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
            ("[a]\none_time_sequences=/dev/null", "/dev/null: not a regular file"),
        ] {
            assert_eq!(read(config, &[]).err().as_deref(), Some(reason), "{config}");
        }
    }
}
