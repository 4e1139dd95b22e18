//! Any texts are a config or are refused, always with the same result. A config satisfies the guarantees of its types;
//! a refusal names place and reason, and prints nothing unescaped.
//!
//! The input contains the main file and then client files, separated by lines of `#####`.
#![no_main]

use std::path::{Path, PathBuf};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use spa_knock::config::{ConfigErrors, ConfigText, Interfaces, ServerConfig, read};
use spa_knock_core::auth::{ActionPart, Template, Term, Uses};

const CLIENT_FILES: [&str; 2] =
    ["/etc/spa-knock/clients.d/laptop.toml", "/etc/spa-knock/clients.d/phone.toml"];
const YEAR: Duration = Duration::from_secs(365 * 86_400);

fuzz_target!(|text: &str| {
    let mut texts = text.split("#####\n");
    let main = source("/etc/spa-knock/spa-knockd.toml", texts.next().unwrap_or_default());
    let clients: Vec<ConfigText> =
        CLIENT_FILES.into_iter().zip(texts).map(|(file, text)| source(file, text)).collect();
    let config = read(&main, &clients);
    assert_eq!(config, read(&main, &clients), "read twice");
    match config {
        Ok(config) => check_config(&config),
        Err(errors) => check_errors(&errors),
    }
});

fn source(file: &str, text: &str) -> ConfigText {
    ConfigText { file: PathBuf::from(file), text: text.to_owned() }
}

fn check_config(config: &ServerConfig) {
    assert!((Duration::from_secs(1)..=Duration::from_secs(600)).contains(&config.window));
    assert!(config.port != 0);
    for path in [&config.state_dir, &config.keys_dir, &config.control] {
        assert!(path.is_absolute());
    }
    if let Interfaces::Named(names) = &config.interfaces {
        assert!(!names.is_empty() && names.iter().all(|name| (1..=15).contains(&name.len())));
    }
    for action in config.actions.values() {
        assert!(!action.parts.is_empty());
        assert!(action.term.is_none_or(is_term));
        assert!(action.parts.iter().all(|part| is_part(part, action.term.is_some(), config)));
    }
    for ports in [&config.protect, &config.published] {
        for (place, one) in ports.iter().enumerate() {
            assert!(
                ports[..place].iter().all(|other| !other.overlap(*one)),
                "the ranges of a set do not overlap"
            );
        }
    }
    for prefixes in config.failsafe.iter().map(|failsafe| &failsafe.allow) {
        for (place, one) in prefixes.iter().enumerate() {
            let (before, others) = (&prefixes[..place], &prefixes[place + 1..]);
            assert!(before.iter().chain(others).all(|other| !one.contains(other.first())));
        }
    }
    for client in config.clients.values() {
        assert!(client.key.is_absolute());
        assert!(client.previous.as_ref().is_none_or(|previous| previous.key.is_absolute()));
        assert!(!client.rules.sources.is_empty());
        assert!(!client.rules.allow.is_empty());
        assert!(client.rules.allow.iter().all(|action| config.actions.contains_key(action)));
    }
}

fn is_term(term: Term) -> bool {
    (Duration::from_secs(1)..=YEAR).contains(&term.usual) && (term.usual..=YEAR).contains(&term.max)
}

fn is_part(part: &ActionPart, lasts: bool, config: &ServerConfig) -> bool {
    match part {
        ActionPart::Open { ports, uses } => {
            let once = *uses == Uses::One;
            lasts && !ports.is_empty() && (!once || ports.iter().all(|ports| ports.single().is_some()))
        }
        ActionPart::OpenArgument { allowed, .. } => lasts && !allowed.is_empty(),
        ActionPart::Forward { to, .. } => {
            let [v4, v6] = [true, false].map(|v4| to.iter().filter(|to| to.is_ipv4() == v4).count());
            lasts && v4 <= 1 && v6 <= 1 && v4 + v6 > 0 && to.iter().all(|to| to.port() != 0)
        }
        ActionPart::Close(closed) => config.actions[closed].term.is_some(),
        ActionPart::Run { argv, undo, .. } => {
            is_command(argv) && undo.as_ref().is_none_or(|undo| lasts && is_command(undo))
        }
    }
}

fn is_command(argv: &[Template]) -> bool {
    let program = argv.first().filter(|program| program.is_constant());
    program.is_some_and(|program| Path::new(&program.fill(|_| String::new())).is_absolute())
}

fn check_errors(errors: &ConfigErrors) {
    assert!(!errors.problems().is_empty());
    assert!(errors.problems().is_sorted());
    let shown = errors.to_string();
    let raw = shown.chars().find(|&c| c.is_control() && c != '\n');
    assert_eq!(raw, None, "a control character in {shown:?}");
}
