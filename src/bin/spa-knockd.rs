//! The daemon and the administrator's commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    spa_knock::dispatch::main()
}
