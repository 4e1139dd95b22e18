//! Our capabilities: which are missing, and how to add them; and keeping them from programs that we start, except those
//! that a program needs. The latter concerns a daemon that is not root; programs started by root run as root.

use std::io;

use rustix::io::Errno;
/// One capability, or a set of them.
pub use rustix::thread::CapabilitySet as Capability;
use rustix::thread::{self, CapabilitySets, set_capabilities};

/// Something that a process does, and the capabilities that it needs for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The config key that requires it.
    pub key: &'static str,
    /// What the process does, as the subject of a sentence.
    pub purpose: &'static str,
    /// The capabilities that it needs for that.
    pub capabilities: Vec<Capability>,
}

impl Need {
    /// The part that this process lacks; `None` if it lacks nothing. A set that cannot be read counts as complete: the
    /// system then reports what is missing.
    #[must_use]
    pub fn missing(mut self) -> Option<Self> {
        let effective = thread::capabilities(None).map_or(Capability::all(), |sets| sets.effective);
        self.capabilities.retain(|&capability| !effective.contains(capability));
        (!self.capabilities.is_empty()).then_some(self)
    }
}

/// `CAP_SETUID, CAP_KILL`.
#[must_use]
pub fn names(capabilities: &[Capability]) -> String {
    let names: Vec<_> = short_names(capabilities).map(|name| format!("CAP_{name}")).collect();
    names.join(", ")
}

/// `SETUID`, `KILL`.
fn short_names(capabilities: &[Capability]) -> impl Iterator<Item = &'static str> {
    capabilities.iter().flat_map(Capability::iter_names).map(|(name, _)| name)
}

/// Error text for missing capabilities: a line for each purpose, and a hint with all of them.
#[must_use]
pub fn missing_text(missing: &[Need]) -> String {
    let lines: String = missing.iter().map(|need| format!("{}\n", need_text(need))).collect();
    let mut all: Vec<Capability> = Vec::new();
    for &capability in missing.iter().flat_map(|need| &need.capabilities) {
        if !all.contains(&capability) {
            all.push(capability);
        }
    }
    format!("{lines}hint: {}", missing_hint(&all))
}

/// The line for one purpose.
#[must_use]
pub fn need_text(need: &Need) -> String {
    let Need { key, purpose, capabilities } = need;
    format!("{key}: {purpose} needs {}, which this process does not have", names(capabilities))
}

/// How to add missing capabilities.
#[must_use]
pub fn missing_hint(missing: &[Capability]) -> String {
    let options: Vec<_> = short_names(missing).map(|name| format!("--cap-add={name}")).collect();
    format!("in a container, add {}; elsewhere, run it as root or with its systemd unit", options.join(" "))
}

/// Clears the inheritable and ambient capabilities that a service manager may have set. From then on, programs that
/// this thread starts get no capabilities, except through `with_ambient`.
///
/// # Errors
/// When the system refuses.
pub fn clear_inheritable() -> io::Result<()> {
    thread::clear_ambient_capability_set()?;
    let sets = thread::capabilities(None)?;
    set_capabilities(None, CapabilitySets { inheritable: Capability::empty(), ..sets })?;
    Ok(())
}

/// Drops all capabilities permanently, in every set except the bounding set, which only CAP_SETPCAP can change.
///
/// # Errors
/// When the system refuses.
pub fn drop_all() -> io::Result<()> {
    thread::clear_ambient_capability_set()?;
    let none = Capability::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// Limits the bounding set to these capabilities, also where the kernel has capabilities that the library does not know.
///
/// # Errors
/// When the system refuses.
pub fn bound(kept: Capability) -> io::Result<()> {
    for capability in (0..u64::BITS).map(|number| Capability::from_bits_retain(1_u64.rotate_left(number))) {
        match thread::capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => {
                thread::remove_capability_from_bounding_set(capability)?;
            }
            Ok(_) => {}
            // capabilities(7): the kernel has no further ones.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Programs that `start` starts on this thread get these capabilities, if this process has them.
pub fn with_ambient<T>(capabilities: &[Capability], start: impl FnOnce() -> T) -> T {
    for &capability in capabilities {
        // If we do not have it either, the program reports that better than we could.
        let _ = raise(capability);
    }
    let started = start();
    // Lowering is always allowed.
    let _ = clear_inheritable();
    started
}

/// Adds a capability to the ambient set, which survives execve; the kernel requires it to be inheritable as well.
fn raise(capability: Capability) -> io::Result<()> {
    let sets = thread::capabilities(None)?;
    set_capabilities(None, CapabilitySets { inheritable: sets.inheritable | capability, ..sets })?;
    thread::configure_capability_in_ambient_set(capability, true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::os::files;

    /// Runs a test on a thread of its own, whose capability sets end with it, so that other tests are unaffected.
    fn on_own_thread(test: impl FnOnce() + Send) {
        std::thread::scope(|scope| scope.spawn(test).join()).unwrap();
    }

    /// A set of this thread, as the kernel lists it: not through the library that changes it.
    fn listed(set: &str) -> u64 {
        let status = files::read_text(Path::new("/proc/thread-self/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    }

    fn is_in(set: &str, capability: Capability) -> bool {
        listed(set) & capability.bits() != 0
    }

    #[test]
    fn ambient_capabilities_are_temporary_and_limited_to_our_own() {
        on_own_thread(|| {
            let ours = is_in("CapPrm", Capability::NET_RAW);
            clear_inheritable().unwrap();
            let ambient = with_ambient(&[Capability::NET_RAW], || {
                [Capability::NET_RAW, Capability::NET_ADMIN].map(|capability| is_in("CapAmb", capability))
            });
            assert_eq!(ambient, [ours, false]);
            for set in ["CapAmb", "CapInh"] {
                assert_eq!(listed(set), 0, "{set}");
            }
        });
    }

    #[test]
    fn no_capability_is_left_after_all_are_dropped() {
        on_own_thread(|| {
            drop_all().unwrap();
            for set in ["CapAmb", "CapInh", "CapPrm", "CapEff"] {
                assert_eq!(listed(set), 0, "{set}");
            }
            let raw = Capability::NET_RAW;
            assert!(!with_ambient(&[raw], || is_in("CapAmb", raw)));
            let need = Need { key: "server.capture", purpose: "capturing packets", capabilities: vec![raw] };
            assert_eq!(
                missing_text(&need.missing().into_iter().collect::<Vec<_>>()),
                "server.capture: capturing packets needs CAP_NET_RAW, which this process does not have\n\
                 hint: in a container, add --cap-add=NET_RAW; elsewhere, run it as root or with its systemd unit"
            );
        });
    }
}
