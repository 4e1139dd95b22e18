//! The daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    spa_knock::dispatch::main()
}
