//! Keeps our capabilities from programs that we start, except those that a program needs. This concerns a daemon that
//! is not root; programs started by root run as root.

use std::io;

use caps::CapSet;

use crate::os::host::Capability;

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
    let capability = capability.as_str().parse()?;
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
        caps::has_cap(None, CapSet::Ambient, capability.as_str().parse().unwrap()).unwrap()
    }

    #[test]
    fn ambient_capabilities_are_temporary_and_limited_to_our_own() {
        on_own_thread(|| {
            let ours = caps::has_cap(None, CapSet::Permitted, caps::Capability::CAP_NET_RAW).unwrap();
            clear_inheritable().unwrap();
            let ambient = with_ambient(&[Capability::NetRaw], || {
                [Capability::NetRaw, Capability::NetAdmin].map(is_ambient)
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
            assert!(!with_ambient(&[Capability::NetRaw], || is_ambient(Capability::NetRaw)));
        });
    }
}
