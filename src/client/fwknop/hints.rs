//! Options of fwknop's client that this client does not have, and what to use instead.

use clap::error::{ContextKind, ContextValue};

/// What to use instead of an option of fwknop, if a command line was rejected because of one.
pub(in crate::client) fn hint(error: &clap::Error) -> Option<&'static str> {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return None };
    Some(match option.as_str() {
        "-A" | "--access" => {
            "-A is an option of fwknop; request an ACTION instead: spa-knock SERVER open-ssh, or \
             spa-knock SERVER open-port tcp/22 if the server has such an action; for a server that runs fwknopd: spa-knock fwknop -A …"
        }
        "-D" | "--destination" => {
            "-D is an option of fwknop; write SERVER without an option: spa-knock SERVER ACTION; for a server that runs fwknopd: spa-knock fwknop -D …"
        }
        "-R" | "--resolve-ip-http" | "--resolve-url" => {
            "-R is an option of fwknop; omit it: the server itself reports the address that it sees"
        }
        "-a" | "--allow-ip" => "-a is an option of fwknop; use --source ADDRESS instead",
        "-f" | "--fw-timeout" => "-f is an option of fwknop; use --for 30s instead",
        "-N" | "--nat-access" => {
            "-N is an option of fwknop; request an action with `forward` instead: the server's config sets its target"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::client::args::Cli;

    #[test]
    fn an_option_of_fwknop_is_rejected_with_its_replacement() {
        for (line, word) in [
            ("spa-knock -A tcp/22 -R -D host", "ACTION"),
            ("spa-knock -R -D host", "omit it"),
            ("spa-knock -D host", "SERVER"),
            ("spa-knock host open-ssh -a 192.0.2.1", "--source"),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).err().unwrap();
            assert!(hint(&error).unwrap().contains(word), "{line}");
        }
        let error = Cli::try_parse_from(["spa-knock", "--no-such", "host"]).err().unwrap();
        assert_eq!(hint(&error), None);
    }
}
