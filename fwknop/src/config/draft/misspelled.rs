//! Misspelled variables. fwknop ignores them; ignoring `OPEN_PORT` would open all ports.

/// The variables of a stanza.
const VARIABLES: [&str; 35] = [
    "SOURCE",
    "DESTINATION",
    "KEY",
    "KEY_BASE64",
    "HMAC_KEY",
    "HMAC_KEY_BASE64",
    "HMAC_DIGEST_TYPE",
    "OPEN_PORTS",
    "RESTRICT_PORTS",
    "REQUIRE_USERNAME",
    "REQUIRE_SOURCE_ADDRESS",
    "REQUIRE_SOURCE",
    "FW_ACCESS_TIMEOUT",
    "MAX_FW_TIMEOUT",
    "ACCESS_EXPIRE",
    "ACCESS_EXPIRE_EPOCH",
    "ENCRYPTION_MODE",
    "ENABLE_CMD_EXEC",
    "ENABLE_CMD_SUDO_EXEC",
    "CMD_EXEC_USER",
    "CMD_EXEC_GROUP",
    "CMD_SUDO_EXEC_USER",
    "CMD_SUDO_EXEC_GROUP",
    "CMD_CYCLE_OPEN",
    "CMD_CYCLE_CLOSE",
    "CMD_CYCLE_TIMER",
    "FORCE_NAT",
    "FORCE_SNAT",
    "FORCE_MASQUERADE",
    "FORWARD_ALL",
    "DISABLE_DNAT",
    "GPG_DECRYPT_ID",
    "GPG_DECRYPT_PW",
    "GPG_HOME_DIR",
    "GPG_REMOTE_ID",
];
/// Most letters that differ.
const DISTANCE: usize = 2;

/// The variable that an unknown name was probably meant to be.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    let upper = name.to_uppercase();
    let distance = |variable: &str| {
        // Of a short name, little would be left.
        let most = if variable.len() < 6 { 1 } else { DISTANCE };
        Some(strsim::damerau_levenshtein(&upper, variable)).filter(|distance| *distance <= most)
    };
    let near = VARIABLES.iter().filter_map(|variable| Some((distance(variable)?, *variable)));
    near.min_by_key(|(distance, _)| *distance).map(|(_, variable)| variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_one_or_two_letters_are_misspelled() {
        for (name, expected) in [
            ("OPEN_PORT", Some("OPEN_PORTS")),
            ("OPENPORTS", Some("OPEN_PORTS")),
            ("open_ports", Some("OPEN_PORTS")),
            ("RESTRICT_PORT", Some("RESTRICT_PORTS")),
            ("REQUIRE_USERNMAE", Some("REQUIRE_USERNAME")),
            ("ACCESS_EXPIRES", Some("ACCESS_EXPIRE")),
            ("SOURCES", Some("SOURCE")),
            ("FOO", None),
            ("PORTS", None),
            ("ENABLE_EXTERNAL_CMDS", None),
            ("EXTERNAL_CMD_OPEN", None),
            ("PERMIT_CLIENT_PORTS", None),
            ("DATA_COLLECT_MODE", None),
        ] {
            assert_eq!(meant(name), expected, "{name}");
        }
    }
}
