//! The text that `-h` and `--help` print below the options.

macro_rules! examples_and_signals {
    () => {
        "\
Examples:
  spa-knockd init                              write a first config
  spa-knockd client add laptop --allow open-ssh -o laptop.key
                                               add a client and write its key to laptop.key
  spa-knockd check                             report every problem in the config and on the host
  spa-knockd run                               start the daemon (systemd does this)

Signals to a running daemon:
  SIGHUP             reload config, clients and keys; an invalid config changes nothing
  SIGTERM, SIGINT    stop; grants remain until they expire"
    };
}

macro_rules! exit_codes {
    () => {
        "\
Exit codes:
  0  success    1  runtime failure    2  invalid usage    5  config or key error"
    };
}

/// Below the options of `-h`.
pub(super) const AFTER_HELP: &str = concat!(examples_and_signals!(), "\n\n", exit_codes!());

/// Below the options of `--help`, and the source of sections of the man page.
pub(super) const AFTER_LONG_HELP: &str = concat!(
    examples_and_signals!(),
    "

Files:
  /etc/spa-knock/spa-knockd.toml      the config, see spa-knockd.toml(5)
  /etc/spa-knock/clients.d/*.toml     one file for each client
  /etc/spa-knock/keys/                the clients' keys, mode 0600
  /var/lib/spa-knock/                 state: replay memory, undo tasks, the gate as last closed
  /var/log/spa-knock/audit.jsonl      the audit log
  /run/spa-knock/control.sock         the socket on which the daemon receives these commands
  /run/spa-knock/gate-*.lock          locked by the daemon of each network namespace

Environment:
  SPA_KNOCKD_LOG                      log level of the daemon: error, warn, info (default) or debug
  NO_COLOR                            disables colors, unless it is empty

",
    exit_codes!()
);
