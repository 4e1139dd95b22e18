//! Combines the command line and the config, with knockd's precedence.

use std::path::PathBuf;

use super::args::KnockdArgs;
use super::config_file::KnockdConfig;

const INTERFACE: &str = "eth0";
const PID_FILE: &str = "/var/run/knockd.pid";
/// libpcap's name for all interfaces.
const ANY: &str = "any";

/// The settings of the daemon.
#[derive(Debug)]
pub(in crate::legacy) struct Settings {
    /// The path of the config.
    pub(in crate::legacy) path: PathBuf,
    /// The config.
    pub(in crate::legacy) knockd_config: KnockdConfig,
    /// The interfaces to listen on; empty for all. Those of the command line take precedence.
    pub(in crate::legacy) interfaces: Vec<String>,
    /// The log file. The config takes precedence.
    pub(in crate::legacy) log_file: Option<PathBuf>,
    /// The file for the process id. The config takes precedence.
    pub(in crate::legacy) pid_file: PathBuf,
}

impl Settings {
    /// Reads the config that the command line names.
    ///
    /// # Errors
    /// The error in the config, in knockd's wording.
    pub(in crate::legacy) fn read(options: &KnockdArgs) -> Result<Self, String> {
        let path = options.config.clone();
        let knockd_config = KnockdConfig::read(&path).map_err(|error| error.to_string())?;
        let in_file = &knockd_config.options;
        let mut interfaces = match (options.interface.as_slice(), in_file.interfaces.as_slice()) {
            ([], []) => vec![INTERFACE.to_owned()],
            ([], in_file) => in_file.to_vec(),
            (given, _) => given.to_vec(),
        };
        if interfaces.iter().any(|name| name == ANY) {
            interfaces.clear();
        }
        Ok(Self {
            path,
            log_file: in_file.log_file.clone().or_else(|| options.logfile.clone()),
            pid_file: in_file
                .pid_file
                .clone()
                .or_else(|| options.pidfile.clone())
                .unwrap_or_else(|| PID_FILE.into()),
            interfaces,
            knockd_config,
        })
    }

    /// The interfaces, for the log.
    pub(in crate::legacy) fn shown_interfaces(&self) -> String {
        if self.interfaces.is_empty() { ANY.to_owned() } else { self.interfaces.join(",") }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::os::files;

    fn read(config: &str, args: &[&str]) -> Result<Settings, String> {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("knockd.conf");
        files::create_new(&path, files::FileMode::Private, config.as_bytes()).unwrap();
        let args: Vec<_> =
            ["knockd", "-c", path.to_str().unwrap()].iter().chain(args).map(Into::into).collect();
        let options = crate::legacy::daemon::args::parse(&args).ok().unwrap();
        Settings::read(&options).map_err(|error| error.replace(path.to_str().unwrap(), "F"))
    }

    #[test]
    fn the_config_takes_precedence_over_the_command_line_except_for_interfaces() {
        let defaults = read("", &[]).unwrap();
        assert_eq!((defaults.interfaces, defaults.log_file), (vec!["eth0".to_owned()], None));
        assert_eq!(defaults.pid_file, Path::new("/var/run/knockd.pid"));
        let config = "[options]\nlogfile=/l\npidfile=/p\ninterface=a\ninterface=b\nusesyslog";
        let both = read(config, &["-g", "/x", "-p", "/y"]).unwrap();
        assert_eq!((both.log_file, both.pid_file), (Some("/l".into()), "/p".into()));
        assert_eq!(
            (both.interfaces, both.knockd_config.options.syslog),
            (vec!["a".to_owned(), "b".to_owned()], true)
        );
        assert_eq!(read(config, &["-i", "c"]).unwrap().interfaces, ["c"]);
        assert!(read(config, &["-i", "any"]).unwrap().interfaces.is_empty());
        let given = read("", &["-g", "/x", "-p", "/y"]).unwrap();
        assert_eq!((given.log_file, given.pid_file), (Some("/x".into()), "/y".into()));
    }

    #[test]
    fn an_unusable_config_is_reported() {
        for (config, reason) in [
            ("[a]\nx", "config: line 2: syntax error"),
            ("[a]\none_time_sequences=/nonexistent/s", "/nonexistent/s: no such file or directory"),
            ("[a]\none_time_sequences=/dev/null", "/dev/null: not a regular file"),
        ] {
            assert_eq!(read(config, &[]).err().as_deref(), Some(reason), "{config}");
        }
    }
}
