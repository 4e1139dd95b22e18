//! Any bytes are a lease or none; a lease is read exactly as written. The first byte selects whether the checksum is
//! corrected, so that the code behind it is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spa_knock::fuzzing::lease_again;
use spa_knock_core_fuzz::form;

fuzz_target!(|data: &[u8]| {
    let (form, bytes) = form(data);
    let lease = form.lease(bytes);
    if let Some(again) = lease_again(&lease) {
        assert_eq!(again.as_bytes(), lease);
    }
});
