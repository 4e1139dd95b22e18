//! Our capabilities: which are missing, and how to add them; and keeping them from programs that we start, except those
//! that a program needs. The latter concerns a daemon that is not root; programs started by root run as root.

use std::io;

use caps::CapSet;
pub use caps::Capability;

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
        self.capabilities.retain(|&capability| {
            caps::has_cap(None, CapSet::Effective, capability).is_ok_and(|effective| !effective)
        });
        (!self.capabilities.is_empty()).then_some(self)
    }
}

/// `CAP_SETUID, CAP_KILL`.
#[must_use]
pub fn names(capabilities: &[Capability]) -> String {
    let names: Vec<_> = capabilities.iter().map(ToString::to_string).collect();
    names.join(", ")
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
    let options: Vec<_> = missing
        .iter()
        .map(|capability| format!("--cap-add={}", capability.to_string().trim_start_matches("CAP_")))
        .collect();
    format!("in a container, add {}; elsewhere, run it as root or with its systemd unit", options.join(" "))
}

/// Clears the inheritable and ambient capabilities that a service manager may have set. From then on, programs that
/// this thread starts get no capabilities, except through `with_ambient`.
///
/// # Errors
/// When the system refuses.
pub fn clear_inheritable() -> io::Result<()> {
    caps::clear(None, CapSet::Ambient).map_err(io::Error::other)?;
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)
}

/// Drops all capabilities permanently, in every set except the bounding set, which only CAP_SETPCAP can change.
///
/// # Errors
/// When the system refuses.
pub fn drop_all() -> io::Result<()> {
    clear_inheritable()?;
    caps::clear(None, CapSet::Permitted).map_err(io::Error::other)
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
fn raise(capability: Capability) -> Result<(), caps::errors::CapsError> {
    caps::raise(None, CapSet::Inheritable, capability)?;
    caps::raise(None, CapSet::Ambient, capability)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a test on a thread of its own, whose capability sets end with it, so that other tests are unaffected.
    fn on_own_thread(test: impl FnOnce() + Send) {
        std::thread::scope(|scope| scope.spawn(test).join()).unwrap();
    }

    fn is_ambient(capability: Capability) -> bool {
        caps::has_cap(None, CapSet::Ambient, capability).unwrap()
    }

    #[test]
    fn ambient_capabilities_are_temporary_and_limited_to_our_own() {
        on_own_thread(|| {
            let ours = caps::has_cap(None, CapSet::Permitted, Capability::CAP_NET_RAW).unwrap();
            clear_inheritable().unwrap();
            let ambient = with_ambient(&[Capability::CAP_NET_RAW], || {
                [Capability::CAP_NET_RAW, Capability::CAP_NET_ADMIN].map(is_ambient)
            });
            assert_eq!(ambient, [ours, false]);
            for set in [CapSet::Ambient, CapSet::Inheritable] {
                assert!(caps::read(None, set).unwrap().is_empty(), "{set:?}");
            }
        });
    }

    #[test]
    fn no_capability_is_left_after_all_are_dropped() {
        on_own_thread(|| {
            drop_all().unwrap();
            for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Permitted, CapSet::Effective] {
                assert!(caps::read(None, set).unwrap().is_empty(), "{set:?}");
            }
            let raw = Capability::CAP_NET_RAW;
            assert!(!with_ambient(&[raw], || is_ambient(raw)));
            let need = Need { key: "server.capture", purpose: "capturing packets", capabilities: vec![raw] };
            assert_eq!(
                missing_text(&need.missing().into_iter().collect::<Vec<_>>()),
                "server.capture: capturing packets needs CAP_NET_RAW, which this process does not have\n\
                 hint: in a container, add --cap-add=NET_RAW; elsewhere, run it as root or with its systemd unit"
            );
        });
    }
}
