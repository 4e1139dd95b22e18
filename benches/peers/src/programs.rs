//! Where the programs are that the script has built.

fn of(variable: &str, name: &str) -> String {
    let folder =
        std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: use scripts/compare"));
    format!("{folder}/{name}")
}

/// A program of spa-knock.
pub(crate) fn spa_knock(name: &str) -> String {
    of("PEERS_SPA_KNOCK", name)
}

/// A program of letmein.
pub(crate) fn letmein(name: &str) -> String {
    of("PEERS_LETMEIN", name)
}
