//! The client program.

use std::process::ExitCode;

fn main() -> ExitCode {
    spa_knock::client::main()
}
