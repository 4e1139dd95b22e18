//! At the first start, the packets that fwknopd has accepted are adopted from its `digest.cache`, so that none of them is
//! accepted a second time.

use std::path::Path;
use std::time::Duration;

use crate::legacy::fwknop::settings::LoadedStanza;
use crate::os::files;
use crate::state::ReplayFolder;
use spa_knock_core::auth::{ReplayDomain, ReplayMemory};
use spa_knock_core::knock::Timestamp;
use spa_knock_fwknop::identity_in_digest_cache;

/// The name of the file in `FWKNOP_RUN_DIR`.
const FILE: &str = "digest.cache";

/// Adopts the packets that are recent enough to be accepted again. A file that does not exist or cannot be read is only
/// logged: fwknopd may never have run here.
pub(super) fn adopt_digests(
    run_directory: &Path,
    stanzas: &[LoadedStanza],
    window: Duration,
    (state, memory): (&mut ReplayFolder, &mut ReplayMemory),
) {
    let path = run_directory.join(FILE);
    let text = match files::read_trusted_text(&path) {
        Ok(text) => text,
        Err(error) if error.missing => return,
        Err(error) => {
            return log::warn!("{error}; packets that fwknopd has just accepted could be accepted again");
        }
    };
    let floor = memory.floor();
    let mut adopted = 0_usize;
    for (id, time) in text.lines().filter_map(entry).filter(|(_, time)| *time > floor) {
        for loaded in stanzas {
            if let Ok(acceptance) = memory.accept(loaded.keys, ReplayDomain::Datagrams, time, id, window) {
                // A failure leaves it known until the next start.
                let _ = state.record(&acceptance);
                adopted = adopted.saturating_add(1);
            }
        }
    }
    if adopted > 0 {
        log::info!("fwknop: adopted the packets of the last {} s from {}", window.as_secs(), path.display());
    }
}

/// The packet and the time of a line: `digest protocol source port destination port time`.
fn entry(line: &str) -> Option<([u8; 12], Timestamp)> {
    let mut words = line.split_ascii_whitespace();
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = identity_in_digest_cache(words.next()?)?;
    let seconds: u64 = words.next_back()?.parse().ok()?;
    Some(([a, b, c, d, e, f, g, h, i, j, k, l], Timestamp::from_millis(seconds.saturating_mul(1_000))))
}
