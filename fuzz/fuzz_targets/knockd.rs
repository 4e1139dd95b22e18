//! Any bytes are a config of knockd or are refused, always with the same result; a config can be executed. Any bytes
//! are a list of one-time sequences, which is used up line by line.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use spa_knock::legacy::knockd::{Config, OneTimeList};

const SOURCES: [&str; 2] = ["203.0.113.9", "2001:db8::9"];

fuzz_target!(|text: &[u8]| {
    let config = Config::read(text);
    assert_eq!(config, Config::read(text), "read twice");
    match config {
        Ok(config) => check_config(&config),
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with("config: ") || message.starts_with("error: "), "{message}");
        }
    }
    check_list(text);
});

fn check_config(config: &Config) {
    for door in &config.doors {
        assert!(door.name.chars().count() <= 127);
        assert!(door.sequence.is_some() || door.one_time.is_some());
        let knocks = door.sequence.as_ref().map_or(1, |sequence| sequence.knocks().len());
        assert!((1..=32).contains(&knocks));
        let has_commands =
            [&door.start, &door.start_6, &door.stop, &door.stop_6].into_iter().any(Option::is_some);
        assert!(door.opening.is_none() || !has_commands);
        for source in SOURCES {
            let source: IpAddr = source.parse().expect("an address");
            if let Ok(Some(orders)) = door.orders(source) {
                assert!(orders.start.len() <= 4095 && orders.stop.is_none_or(|stop| stop.len() <= 4095));
            }
        }
    }
    assert!(config.options.interfaces.iter().all(|name| !name.is_empty() && name.chars().count() <= 31));
}

fn check_list(text: &[u8]) {
    let mut list = OneTimeList::read(text);
    // Each use removes one line, or one piece of a long line.
    let most = text.split(|&byte| byte == b'\n').count() + text.len() / 4_095;
    for _ in 0..=most.min(64) {
        let Some(used) = list.used() else {
            assert!(list.current().is_none());
            return;
        };
        assert!(list.current().is_some());
        assert_eq!(used.len(), text.len());
        list = OneTimeList::read(&used);
    }
    assert!(most > 64, "it is never used up");
}
