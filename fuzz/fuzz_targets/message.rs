//! Any bytes are a message or none, in both directions; a message survives reading and writing. The keeper neither
//! records a knock forged by a watcher nor acts on it.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use spa_knock::fuzzing::{MESSAGE, order_again, report_again, reported};
use spa_knock_core::auth::{Judgment, Keeper};
use spa_knock_core_fuzz::site;

thread_local! {
    /// One for all inputs: a refusal before step 5 leaves no state behind.
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
                panic!("not refused without a valid body");
            };
            assert!(refusal.record.is_none() && refusal.reply.is_none());
            assert_eq!(keeper.replay().acceptances().count(), 0);
        });
    }
});
