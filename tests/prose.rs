//! Wording: everything that people read is plain modern American English. Each pattern here has slowed readers down.
//!
//! The test reads the documents, the man pages, the units, the scripts, the command line's contract, and of Rust files the
//! comments, the literals and the names of tests. Identifiers have a shorter list of their own.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests read files and panic on failure"
)]

mod source;

use std::path::PathBuf;

use regex::Regex;
use source::{all_files, comments_and_strings, is_word, name_of, project, without_comments_and_strings};

/// Patterns between word boundaries, without regard to case, and what to write instead.
const PATTERNS: [(&str, &str); 43] = [
    (r"stands?|stood", "is in, is listed in, is established, exists, remains"),
    (r"told|tells?", "report, print, log, list, state"),
    (r"says?|said|saying", "report, print, log, list, state, specify; run a command"),
    (r"mend(s|ed|ing)?", "fix, repair, restore"),
    (r"anew|afresh", "again, from scratch"),
    (r"of late", "recently"),
    (r"meanwhile", "in the meantime"),
    (r"in its turn", "next"),
    (r"all the same", "anyway"),
    (r"but for|save for", "except"),
    (r"whom|whoever", "rewrite; anyone who"),
    (r"nobody('s)?", "no one; unknown client; unusable address"),
    (r"strangers?", "unknown client, unauthenticated sender"),
    (r"he|him|his", "they, them, their; or name the role"),
    (r"may do", "is allowed to"),
    (r"(may not |to )?be had", "is available, is unavailable"),
    (r"(is|are|was) to be", "must be, will be"),
    (r"(is|are) good for|good at", "is valid for"),
    (r"take(s|n)? up|took up", "apply, load"),
    (r"take(s|n)? away|took away", "remove"),
    (r"gone on with", "continues"),
    (r"(gives?|gave|given) up (its|all) rights", "drop privileges"),
    (r"walls?", "sandbox"),
    (r"ears", "watcher, supervisor"),
    (r"deeds?", "action, effect"),
    (r"gatehouse", "gate"),
    (r"ladder", "steps"),
    (r"lanes?", "replay domain"),
    (r"band", "knock range"),
    // A FIDO key is touched: that is the word of OpenSSH, and of `touch = "pin"`.
    (r"touch(es|ed|ing)? (a|the|its|each|eight) (ports?|packets?|files?)|touched ports?", "port hit; change"),
    (r"(plain|legacy) sequences?", "knock sequence"),
    (r"undoings?", "undo task"),
    (r"talks nonsense", "sends an invalid message"),
    (r"made-up", "spoofed"),
    (r"for people", "human-readable"),
    (r"what (it|he) (is|was) told", "its argument"),
    (r"at once", "immediately, simultaneously"),
    (r"counts? for nothing|none counts|counts? at once", "is valid, takes effect"),
    (r"colou?rless|colours?|coloured|behaviours?|licences?|neighbours?", "American spelling"),
    (r"[a-z]*(recognis|organis|synchronis|normalis|initialis|randomis|serialis)[a-z]*", "American spelling"),
    (r"it is tried|is tried once more", "the daemon retries"),
    (r"a while ago|for a while yet", "state the time"),
    (r"taken-over|takes over a watcher", "compromised watcher"),
];

/// Patterns that are more than words, matched as they are.
const SENTENCES: [(&str, &str); 2] = [
    (r"(?-u)\bwithout (it|that)([.,;:)]|$)", "otherwise"),
    (r"(?-u)(^|[.;:] )Who(ever)? (has|can|gets|knows|sees|may|reads)\b", "anyone who"),
];

/// A word of knockd's users alone: a section of its config. Paths and lines that are about knockd are left out.
const DOOR: (&str, &str) = (r"(?i-u)\bdoors?\b", "port; action (a door is a section of knockd.conf)");
const KNOCKD: &str = r"(?i)knockd?\.conf|\bknockd\b|legacy|doors\.";

/// What looks like one of the patterns, and is none.
const EXEMPT: [&str; 10] = [
    r"\bstands? (for|in for)\b|\bstand-ins?\b",
    r"\b(user|as|or|to|is|USER|by|into|for|and) nobody\b",
    r"[`'\x22:/=(]nobody\b|\bnobody(:|`|\x22|, whose)",
    r"bin/touch\b|\btouch\(1\)|`touch`|\btouch -|\x22touch\x22|'touch'",
    // A key of the config, for FIDO devices.
    r"\btouch = |\.touch\b",
    r"(?i)\bwall[- ](clock|time)s?\b",
    r"\bhis\(",
    r"prints what it (is|was) told",
    r"SPDX-Licence|Open Font Licence|Not synchronised",
    r"deny list of",
];

/// Parts of identifiers that are not allowed.
const PARTS: [&str; 25] = [
    "told",
    "tell",
    "tells",
    "said",
    "say",
    "says",
    "heard",
    "hear",
    "hears",
    "mend",
    "mended",
    "mends",
    "whom",
    "whoever",
    "stranger",
    "strangers",
    "deed",
    "deeds",
    "lane",
    "lanes",
    "gatehouse",
    "ears",
    "undoing",
    "undoings",
    "touched",
];

#[test]
fn no_text_has_one_of_the_patterns() {
    let patterns = Patterns::new();
    let mut found = Vec::new();
    for path in files() {
        let name = name_of(&path);
        let text = std::fs::read_to_string(&path).unwrap();
        found.extend(patterns.hits(&name, &prose(&name, &text)));
    }
    assert!(found.is_empty(), "{} hits:\n{}\n", found.len(), found.join("\n"));
}

#[test]
fn no_identifier_has_one_of_the_parts() {
    let mut found = Vec::new();
    for path in files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
    {
        let text = without_comments_and_strings(&std::fs::read_to_string(&path).unwrap());
        for (number, line) in (1..).zip(text.lines()) {
            let bad = identifiers(line)
                .filter(|identifier| parts(identifier).any(|part| PARTS.contains(&part.as_str())));
            found.extend(bad.map(|identifier| format!("{}:{number}: {identifier}", name_of(&path))));
        }
    }
    assert!(found.is_empty(), "{} identifiers:\n{}\n", found.len(), found.join("\n"));
}

#[test]
fn a_planted_fault_is_found() {
    let patterns = Patterns::new();
    let found = |name: &str, text: &str| -> Vec<String> {
        let hits = patterns.hits(name, &prose(name, text));
        hits.iter().map(|hit| hit.split(": write").next().unwrap().to_owned()).collect()
    };
    assert_eq!(found("README.md", "Fine.\nAll but for him."), ["README.md:2: but for", "README.md:2: him"]);
    let rust = "/// Told to whom?\nlet told = \"a stranger\"; // mended\n#[test]\nfn it_is_mended() {}\n";
    assert_eq!(
        found("x.rs", rust),
        ["x.rs:1: Told", "x.rs:1: whom", "x.rs:2: mended", "x.rs:2: stranger", "x.rs:4: mended"]
    );
    assert_eq!(found("x.rs", "let told = he;"), [""; 0]);
    assert_eq!(found("x.md", "TTL stands for time to live; it runs as nobody."), [""; 0]);
    assert_eq!(
        found("x.md", "It fails without it.\nWho has the key knocks."),
        ["x.md:1: without it.", "x.md:2: Who has"]
    );
    assert_eq!(found("x.md", "a door\na door of knockd"), ["x.md:1: door"]);
    assert_eq!(found("src/legacy/x.md", "a door"), [""; 0]);
    assert_eq!(
        identifiers("let was_told = ToldTwice::new(42);").collect::<Vec<_>>(),
        ["let", "was_told", "ToldTwice", "new"]
    );
    assert_eq!(parts("was_toldTwice").collect::<Vec<_>>(), ["was", "told", "twice"]);
}

struct Patterns {
    /// Each with what to write instead.
    all: Vec<(Regex, &'static str)>,
    /// Any of them: most lines have none.
    any: Regex,
    exempt: Regex,
    door: Regex,
    knockd: Regex,
}

impl Patterns {
    fn new() -> Self {
        let words = PATTERNS.iter().map(|(pattern, _)| format!(r"(?i-u)\b(?:{pattern})\b"));
        let sentences = SENTENCES.iter().map(|(pattern, _)| (*pattern).to_owned());
        let all: Vec<String> = words.chain(sentences).collect();
        let any: Vec<String> = all.iter().map(|pattern| format!("(?:{pattern})")).collect();
        let instead = PATTERNS.iter().chain(&SENTENCES).map(|(_, instead)| *instead);
        Self {
            all: all.iter().map(|pattern| Regex::new(pattern).unwrap()).zip(instead).collect(),
            any: Regex::new(&format!("{}|{}", any.join("|"), DOOR.0)).unwrap(),
            exempt: Regex::new(&EXEMPT.join("|")).unwrap(),
            door: Regex::new(DOOR.0).unwrap(),
            knockd: Regex::new(KNOCKD).unwrap(),
        }
    }

    /// The patterns that a text has: file, line, words, and what to write instead.
    fn hits(&self, name: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| self.any.is_match(line)) {
            let line = self.exempt.replace_all(line, "…");
            let mut report = |words: &str, instead: &str| {
                found.push(format!(
                    "{name}:{number}: {}: write {instead}",
                    words.trim_start_matches(['.', ';', ':', ' '])
                ));
            };
            for (pattern, instead) in &self.all {
                pattern.find_iter(&line).for_each(|hit| report(hit.as_str(), instead));
            }
            if !self.knockd.is_match(name) && !self.knockd.is_match(&line) {
                self.door.find_iter(&line).for_each(|hit| report(hit.as_str(), DOOR.1));
            }
        }
        found
    }
}

/// Every file that people read.
fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = [
        "README.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "Cargo.toml",
        "core/Cargo.toml",
        "fleet/Cargo.toml",
        "fwknop/Cargo.toml",
        "clippy.toml",
        "keys.example",
    ]
    .map(project)
    .to_vec();
    for folder in [
        "docs",
        "src",
        "core",
        "fleet",
        "fwknop",
        "fuzz",
        "tests",
        "benches",
        "packaging",
        "contrib",
        "scripts",
        "ports",
    ] {
        files.extend(all_files(&project(folder)));
    }
    let is_read = |path: &PathBuf| {
        let name = name_of(path);
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_generated = ["target/", "/corpus/", "tests/prose.rs", "Cargo.lock", "debian/copyright"]
            .iter()
            .any(|part| name.contains(part));
        let is_text = match extension {
            Some(extension) => {
                matches!(
                    extension,
                    "md" | "rs"
                        | "trycmd"
                        | "toml"
                        | "service"
                        | "conf"
                        | "yml"
                        | "lua"
                        | "py"
                        | "js"
                        | "sh"
                        | "5"
                        | "txt"
                        | "example"
                        | "mjs"
                        | "go"
                        | "java"
                )
            }
            None => name.starts_with("scripts/") || name.starts_with("packaging/debian/"),
        };
        is_text && !is_generated
    };
    files.retain(is_read);
    files.sort();
    files.dedup();
    files
}

/// What of a file is prose: all of a document; of a Rust file comments, literals and the names of tests.
fn prose(name: &str, text: &str) -> String {
    if !name.ends_with(".rs") {
        return text.to_owned();
    }
    let mut lines: Vec<String> = comments_and_strings(text).lines().map(str::to_owned).collect();
    let mut is_test = false;
    for (line, words) in text.lines().zip(&mut lines) {
        let line = line.trim_start();
        if let (true, Some(name)) = (is_test, line.strip_prefix("fn ")) {
            words.push_str(&name.split('(').next().unwrap_or_default().replace('_', " "));
        }
        is_test = line == "#[test]" || (is_test && line.starts_with("#["));
    }
    lines.join("\n")
}

fn identifiers(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c| !is_word(c)).filter(|word| word.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}

/// The words of an identifier, in lower case.
fn parts(identifier: &str) -> impl Iterator<Item = String> {
    let mut spaced = String::new();
    for c in identifier.chars() {
        if c.is_uppercase() {
            spaced.push('_');
        }
        spaced.extend(c.to_lowercase());
    }
    let words: Vec<String> = spaced.split('_').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    words.into_iter()
}
