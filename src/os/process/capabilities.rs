//! Our capabilities are ours: programs that we start get none of them, but for what is lent to one that cannot work
//! without. This is about a daemon that is not root; what root starts is root.

use std::io;

use caps::CapSet;

use crate::os::host::Capability;

/// Takes out of what programs inherit all that a service manager put there. The calling thread starts nothing with
/// rights from here on, but by `with_ambient`.
///
/// # Errors
/// When the system refuses.
pub fn clear_inheritable() -> io::Result<()> {
    caps::clear(None, CapSet::Ambient).map_err(io::Error::other)?;
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)
}

/// Gives up all of them for good, in every set but the bounding one, which only CAP_SETPCAP may change.
///
/// # Errors
/// When the system refuses.
pub fn drop_all() -> io::Result<()> {
    clear_inheritable()?;
    caps::clear(None, CapSet::Permitted).map_err(io::Error::other)
}

/// What `start` starts on this thread gets these capabilities, if we have them.
pub fn with_ambient<T>(capabilities: &[Capability], start: impl FnOnce() -> T) -> T {
    for &capability in capabilities {
        // Where we do not have it ourselves, the program says so better than we could.
        let _ = raise(capability);
    }
    let started = start();
    // Lowering is always allowed.
    let _ = clear_inheritable();
    started
}

/// The ambient set is what lives through execve; the kernel wants it inheritable as well.
fn raise(capability: Capability) -> Result<(), caps::errors::CapsError> {
    let capability = capability.as_str().parse()?;
    caps::raise(None, CapSet::Inheritable, capability)?;
    caps::raise(None, CapSet::Ambient, capability)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread's sets end with it, so that this takes nothing from the other tests.
    fn apart(test: impl FnOnce() + Send) {
        std::thread::scope(|scope| scope.spawn(test).join()).unwrap();
    }

    fn is_ambient(capability: Capability) -> bool {
        caps::has_cap(None, CapSet::Ambient, capability.as_str().parse().unwrap()).unwrap()
    }

    #[test]
    fn what_is_lent_is_taken_back_and_no_more_is_lent_than_there_is() {
        apart(|| {
            let ours = caps::has_cap(None, CapSet::Permitted, caps::Capability::CAP_NET_RAW).unwrap();
            clear_inheritable().unwrap();
            let lent = with_ambient(&[Capability::NetRaw], || {
                [Capability::NetRaw, Capability::NetAdmin].map(is_ambient)
            });
            assert_eq!(lent, [ours, false]);
            for set in [CapSet::Ambient, CapSet::Inheritable] {
                assert!(caps::read(None, set).unwrap().is_empty(), "{set:?}");
            }
        });
    }

    #[test]
    fn nothing_is_left_when_all_are_dropped() {
        apart(|| {
            drop_all().unwrap();
            for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Permitted, CapSet::Effective] {
                assert!(caps::read(None, set).unwrap().is_empty(), "{set:?}");
            }
            assert!(!with_ambient(&[Capability::NetRaw], || is_ambient(Capability::NetRaw)));
        });
    }
}
