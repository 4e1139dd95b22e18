//! The highest serial of each sealed entry: the store can bring back an old entry, and this recognizes it.
//!
//! Pure: the keeper writes what has changed to disk, fsynced, before it applies an entry.

use std::collections::BTreeMap;

use crate::keys::StoreKey;

/// The highest serial seen of each name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Serials {
    highest: BTreeMap<String, u64>,
}

/// What to do with an entry that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum SerialVerdict {
    /// Write the serials to disk, then apply the entry.
    New,
    /// The entry is known: apply it, nothing has to be written.
    Same,
    /// The store has brought back an old entry: keep the one that is applied, or none.
    RolledBack {
        /// The highest serial seen.
        highest: u64,
    },
}

/// A line is no serial of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {0}: not SERIAL NAME, with 16 hex digits")]
pub struct InvalidSerial(usize);

impl Serials {
    /// Compares the serial of an entry with the highest one seen, and records it.
    pub fn record(&mut self, key: &StoreKey, serial: u64) -> SerialVerdict {
        let name = key.to_string();
        let Some(highest) = self.highest.get_mut(&name) else {
            self.highest.insert(name, serial);
            return SerialVerdict::New;
        };
        match serial.cmp(highest) {
            std::cmp::Ordering::Less => SerialVerdict::RolledBack { highest: *highest },
            std::cmp::Ordering::Equal => SerialVerdict::Same,
            std::cmp::Ordering::Greater => {
                *highest = serial;
                SerialVerdict::New
            }
        }
    }

    /// The serial of the next change of this entry. It also continues after a deletion, so that a deleted entry does not
    /// come back.
    #[must_use]
    pub fn next(&self, key: &StoreKey) -> u64 {
        self.highest.get(&key.to_string()).map_or(1, |highest| highest.saturating_add(1))
    }

    /// What must be on disk: one line for each name, including the names that were deleted.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.highest.iter().map(|(name, serial)| format!("{serial:016x} {name}\n")).collect()
    }

    /// Reads what was on disk.
    ///
    /// # Errors
    /// If a line is no serial; then the file is damaged, and nothing of it can be relied on.
    pub fn from_text(text: &str) -> Result<Self, InvalidSerial> {
        let mut highest = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let invalid = || InvalidSerial(index.saturating_add(1));
            let (serial, name) = line.split_once(' ').ok_or_else(invalid)?;
            let serial = crate::keys::hex16(serial.as_bytes()).ok_or_else(invalid)?;
            if name.is_empty() || highest.insert(name.to_owned(), serial).is_some() {
                return Err(invalid());
            }
        }
        Ok(Self { highest })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(name: &str) -> StoreKey {
        StoreKey::PolicyClient(name.parse().unwrap())
    }

    #[test]
    fn an_old_entry_is_recognized_also_after_a_restart() {
        let mut serials = Serials::default();
        assert_eq!(serials.record(&client("a"), 3), SerialVerdict::New);
        assert_eq!(serials.record(&client("a"), 3), SerialVerdict::Same);
        assert_eq!(serials.record(&client("a"), 5), SerialVerdict::New);
        let mut serials = Serials::from_text(&serials.to_text()).unwrap();
        assert_eq!(serials.record(&client("a"), 4), SerialVerdict::RolledBack { highest: 5 });
        assert_eq!(serials.record(&client("b"), 1), SerialVerdict::New);
        assert_eq!((serials.next(&client("a")), serials.next(&client("c"))), (6, 1));
    }

    #[test]
    fn a_damaged_line_is_named() {
        for bad in ["x", "0000000000000001", "01 a", "0000000000000001 "] {
            let text = format!("0000000000000001 a\n{bad}\n");
            assert_eq!(Serials::from_text(&text), Err(InvalidSerial(2)), "{bad}");
        }
        assert!(Serials::from_text("0000000000000001 a\n0000000000000002 a\n").is_err());
    }

    proptest! {
        #[test]
        fn what_is_applied_never_goes_back(serials in proptest::collection::vec((0_usize..3, 0_u64..20), 0..50)) {
            let names = ["a", "b", "c"].map(client);
            let mut state = Serials::default();
            let mut applied = [None; 3];
            for (name, serial) in serials {
                match state.record(&names[name], serial) {
                    SerialVerdict::New => {
                        prop_assert!(applied[name].is_none_or(|old| serial > old));
                        applied[name] = Some(serial);
                    }
                    SerialVerdict::Same => prop_assert_eq!(applied[name], Some(serial)),
                    SerialVerdict::RolledBack { highest } => {
                        prop_assert_eq!(applied[name], Some(highest));
                        prop_assert!(serial < highest);
                    }
                }
                prop_assert_eq!(Serials::from_text(&state.to_text()), Ok(state.clone()));
            }
        }
    }
}
