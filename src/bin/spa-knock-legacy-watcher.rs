//! The watcher process for knockd's knock sequences.

use std::process::ExitCode;

fn main() -> ExitCode {
    spa_knock::legacy::watcher::main()
}
