//! The watcher process of the daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    spa_knock::watcher::main()
}
