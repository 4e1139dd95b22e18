//! A laboratory: network namespaces joined by cables, a daemon in one of them, clients in the others.
//!
//! Namespaces have no name: they live as long as a descriptor or a process holds them, so nothing is left behind,
//! whatever ends a test. All traffic stays on the cables.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests start processes, read files and the clock, and may fail loudly"
)]

mod count;
mod daemon;
mod flood;
mod frame;
mod kernel_log;
mod knockd;
mod lab;
mod load;
mod mounts;
mod namespace;
mod probe;
mod prober;
mod site;
mod touch;

pub(crate) use count::Counter;
pub(crate) use daemon::Daemon;
pub(crate) use flood::{flood, forged};
pub(crate) use frame::{Wire, ipv4_with_options, ipv6_with_extensions, plain, tagged};
pub(crate) use kernel_log::KernelLog;
pub(crate) use knockd::{Knockd, knock_in_a_flood};
pub(crate) use lab::{
    BOTH, CLIENT4, CLIENT6, KNOCK_PORT, Lab, NEIGHBOUR4, NEIGHBOUR6, NatLab, ROUTER4, SERVER4, SERVER6,
};
pub(crate) use load::Load;
pub(crate) use mounts::Mounts;
pub(crate) use namespace::{Namespace, limited};
pub(crate) use probe::{LATE, ask, ask_patiently, assert_on_time, converse};
pub(crate) use prober::Prober;
pub(crate) use site::{Key, NO_LIMITS, SERVER_ID, Site, await_step, knock, open_ssh, step};
pub(crate) use touch::{Touch, syn_frames, touch, touch_as_clients_do};

use std::time::{Duration, Instant};

/// Whether `check` holds within `limit`; asked every 20 ms.
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

/// Larger numbers, for those who have the time.
pub(crate) fn full() -> bool {
    std::env::var_os("SPA_KNOCK_FULL").is_some_and(|value| value == "1")
}
