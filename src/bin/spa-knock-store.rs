//! The store process of a fleet.

use std::process::ExitCode;

fn main() -> ExitCode {
    spa_knock::fleet::store::main()
}
