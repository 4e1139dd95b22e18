//! The watcher process for fwknop's packets.

use std::process::ExitCode;

fn main() -> ExitCode {
    spa_knock::legacy::fwknop::watcher::main()
}
