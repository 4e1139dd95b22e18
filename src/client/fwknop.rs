//! Options of fwknop's client, which this client does not have: what to type instead.

use clap::error::{ContextKind, ContextValue};

/// What to type instead of an option of fwknop, if that is why a command line was refused.
pub(super) fn hint(error: &clap::Error) -> Option<&'static str> {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return None };
    Some(match option.as_str() {
        "-A" | "--access" => {
            "-A is an option of fwknop; here the ACTION decides what opens: spa-knock SERVER open-ssh, or \
             spa-knock SERVER open-port tcp/22 if the server has such an action"
        }
        "-D" | "--destination" => {
            "-D is an option of fwknop; here SERVER is given alone: spa-knock SERVER ACTION"
        }
        "-R" | "--resolve-ip-http" | "--resolve-url" => {
            "-R is an option of fwknop; leave it out: the server itself reports the address that it sees"
        }
        "-a" | "--allow-ip" => "-a is an option of fwknop; here it is --source ADDRESS",
        "-f" | "--fw-timeout" => "-f is an option of fwknop; here it is --for 30s",
        "-N" | "--nat-access" => {
            "-N is an option of fwknop; here the server's config names the target: an action with `forward`"
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
    fn an_option_of_fwknop_leads_to_what_to_type_instead() {
        for (line, word) in [
            ("spa-knock -A tcp/22 -R -D host", "ACTION"),
            ("spa-knock -R -D host", "leave it out"),
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
