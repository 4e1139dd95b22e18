//! Any texts are fwknop's config or are refused, always with the same result. A config satisfies the guarantees of its
//! types; each problem names a place and a reason.
//!
//! The input contains `access.conf`, `fwknopd.conf` and a file that they can include as `/i`, separated by lines of
//! `#####`.
#![no_main]

use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use spa_knock_fwknop::{
    AccessConfig, ConfigFiles, ConfigProblem, ServerSettings, outline_access, outline_server, parse_access,
    parse_server,
};
use zeroize::Zeroizing;

/// How often files are read for one input: each can include itself many times, three levels deep.
const READS_MAX: usize = 200;

struct Texts<'a> {
    texts: Vec<&'a str>,
    reads: usize,
}

impl ConfigFiles for Texts<'_> {
    fn read(&mut self, path: &Path) -> Result<Zeroizing<String>, String> {
        self.reads += 1;
        let at = match path.to_str() {
            Some("/a") => 0,
            Some("/s") => 1,
            _ => 2,
        };
        match self.texts.get(at) {
            Some(text) if self.reads < READS_MAX => Ok(Zeroizing::new((*text).to_owned())),
            _ => Err("no such file".to_owned()),
        }
    }

    fn list(&mut self, _: &Path) -> Result<Vec<PathBuf>, String> {
        Ok(vec!["/d/i.conf".into(), "/d/other".into()])
    }
}

fuzz_target!(|input: &str| {
    let texts: Vec<&str> = input.split("#####\n").collect();
    let files = || Texts { texts: texts.clone(), reads: 0 };
    let server = parse_server(Path::new("/s"), &mut files());
    assert_eq!(server, parse_server(Path::new("/s"), &mut files()), "read twice");
    let settings = match server {
        Ok((settings, notices)) => {
            check_problems(&notices);
            settings
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            check_problems(&problems);
            ServerSettings::default()
        }
    };
    assert!(settings.age_max.is_none_or(|age| age <= 100_000));
    assert!(settings.tcp_server != Some(0));
    match parse_access(Path::new("/a"), &settings, &mut files()) {
        Ok(access) => check_access(&access),
        Err(problems) => {
            assert!(!problems.is_empty());
            check_problems(&problems);
        }
    }
    // The same files, read to be translated.
    let _ = outline_server(Path::new("/s"), texts.get(1).copied().unwrap_or_default());
    let _ = outline_access(Path::new("/a"), &settings, &mut files());
});

fn check_access(AccessConfig { stanzas, notices }: &AccessConfig) {
    check_problems(notices);
    assert!(!stanzas.is_empty());
    for stanza in stanzas {
        assert!(!stanza.key.is(stanza.hmac_key.as_bytes()), "two different keys");
        assert!(stanza.hmac_key.as_bytes().len() <= 136);
        assert!((1..=1 << 23).contains(&stanza.timeout_max));
        assert!((1..=stanza.timeout_max).contains(&stanza.timeout));
        let ports = stanza.open_ports.iter().flatten().chain(&stanza.restrict_ports);
        assert!(ports.clone().all(|port| port.number != 0));
        assert!(stanza.cycle.as_ref().is_none_or(|cycle| cycle.close.is_none() || cycle.timer > 0));
    }
}

fn check_problems(problems: &[ConfigProblem]) {
    for problem in problems {
        assert!(!problem.reason.is_empty());
        assert!(!problem.place.file.as_os_str().is_empty(), "{problem}");
    }
}
