//! The lab: network namespaces connected by virtual cables, a daemon in one of them, clients in the others.
//!
//! The namespaces have no names. They exist as long as a descriptor or a process holds them, so nothing is left behind
//! however a test ends. All traffic stays on the cables.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests start processes, read files and the clock, and panic on failure"
)]

mod count;
mod daemon;
mod flood;
mod frame;
mod hits;
mod kernel_log;
mod knockd;
mod lab;
mod load;
mod mounts;
mod namespace;
mod probe;
mod prober;
mod site;
mod ssh_agent;

pub(crate) use count::Counter;
pub(crate) use daemon::Daemon;
pub(crate) use flood::{flood, forged};
pub(crate) use frame::{Wire, ipv4_with_options, ipv6_with_extensions, plain, tagged};
pub(crate) use hits::{HitKind, hit_ports, hit_ports_as_clients_do, syn_frames};
pub(crate) use kernel_log::KernelLog;
pub(crate) use knockd::{Knockd, knock_in_a_flood};
pub(crate) use lab::{
    BOTH, CLIENT4, CLIENT6, KNOCK_PORT, Lab, NEIGHBOR4, NEIGHBOR6, NatLab, ROUTER4, SERVER4, SERVER6, is_root,
};
pub(crate) use load::Load;
pub(crate) use mounts::Mounts;
pub(crate) use namespace::{Namespace, children_of, limited, signal_limited};
pub(crate) use probe::{LATE, ask, ask_patiently, assert_on_time, still_echoes};
pub(crate) use prober::Prober;
pub(crate) use site::{Key, NO_LIMITS, SERVER_ID, Site, await_time_step, knock, open_ssh, step};
pub(crate) use ssh_agent::{SigningCounter, SshAgent, public_key};

use std::time::{Duration, Instant};

/// Time limit for what must happen and whose time is not what is tested: only a failing test waits for so long. A busy
/// disk can stall what waits for it, such as a start of the daemon, for half a minute.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Whether `check` returns true within `limit`; called every 20 ms.
pub(crate) fn within(limit: Duration, mut check: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if check() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether `SPA_KNOCK_FULL=1` asks for more repetitions, which take much longer.
pub(crate) fn full() -> bool {
    std::env::var_os("SPA_KNOCK_FULL").is_some_and(|value| value == "1")
}
