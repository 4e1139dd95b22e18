//! Any text is a key file or is refused; a key file survives writing and reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spa_knock_core::crypto::KeyFile;

fuzz_target!(|text: &str| {
    let Ok(key) = KeyFile::parse(text) else { return };
    let written = key.to_text();
    let again = KeyFile::parse(&written).expect("the written text is a key file");
    assert!(*again.to_text() == *written, "the same secret, server and other fields");
    assert!((again.client, again.address, again.port) == (key.client, key.address, key.port));
});
