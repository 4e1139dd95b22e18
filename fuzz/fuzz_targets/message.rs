//! Any bytes are a message or none, in both directions; a message is written and read again as it was. Whatever knock
//! a watcher makes up, the keeper neither records it nor acts on it.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use spa_knock::fuzzing::{MESSAGE, order_again, report_again, reported};
use spa_knock_core::auth::{Judgment, Keeper};
use spa_knock_core_fuzz::site;

thread_local! {
    /// One for all inputs: nothing that is refused before step 5 leaves anything behind.
    static KEEPER: RefCell<Keeper> = RefCell::new(site::keeper());
}

fuzz_target!(|data: &[u8]| {
    let message = data.get(..MESSAGE).unwrap_or(data);
    for again in [report_again, order_again] {
        if let Some(written) = again(message) {
            assert_eq!(written.len(), MESSAGE);
            assert_eq!(again(&written).as_deref(), Some(written.as_slice()));
        }
    }
    if let Some((knock, source)) = reported(message) {
        KEEPER.with_borrow_mut(|keeper| {
            let Judgment::Refuse(refusal) = keeper.judge(&knock, source, site::NOW) else {
                panic!("not refused, though nobody sealed it");
            };
            assert!(refusal.record.is_none() && refusal.reply.is_none());
            assert_eq!(keeper.replay().acceptances().count(), 0);
        });
    }
});
