//! The watcher of the daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    spa_knock::watcher::main()
}
