//! The clock of this host, compared with that of an NTP server.

use super::{Diagnosis, difference_text, ok, skip, sntp};
use crate::client::failure::{ClientError, ExitCause};
use crate::client::knock::CLOCK_TOLERANCE;
use crate::client::knock::route::{FamilyFilter, resolve};
use crate::os::clock;

/// Maximum number of addresses of an NTP server that are queried, one after the other.
const NTP_ADDRESSES_MAX: usize = 4;

impl Diagnosis {
    /// Compares the clock with that of an NTP server, if one is given.
    pub(super) fn clock(&mut self, ntp: Option<&str>) -> Result<(), ClientError> {
        let here = clock::rfc3339(clock::wall());
        let Some(ntp) = ntp else {
            return skip("clock", &format!("{here} on this host; use --ntp HOST to compare it"));
        };
        let (host, port) = match ntp.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().unwrap_or(sntp::PORT))
            }
            _ => (ntp, sntp::PORT),
        };
        let servers = match resolve(host, port, FamilyFilter::Any, None) {
            Ok(servers) => servers,
            Err(failure) => {
                return self.problem(
                    failure.cause(),
                    "clock",
                    &format!("NTP server {}", failure.reason()),
                    "pass --ntp an address, or a name that this host can resolve; spa-knock itself needs no NTP server",
                );
            }
        };
        let mut result = Err("has no address".to_owned());
        for server in servers.into_iter().take(NTP_ADDRESSES_MAX) {
            result = sntp::query(server);
            if result.is_ok() {
                break;
            }
        }
        match result {
            Ok(offset) if offset.size() <= CLOCK_TOLERANCE => {
                ok("clock", &format!("{} NTP server {ntp}", difference_text(offset)))
            }
            Ok(offset) => self.problem(
                ExitCause::NoReply,
                "clock",
                &format!("{} NTP server {ntp}", difference_text(offset)),
                "set the clock: the server ignores knocks outside its window (30 s by default)",
            ),
            Err(reason) => self.problem(
                ExitCause::Network,
                "clock",
                &format!("NTP server {ntp}: {reason}"),
                "try another NTP server, or check whether UDP port 123 is filtered",
            ),
        }
    }
}
