//! No module imports from a layer above its own, and only `crypto` names a cryptographic library.
//!
//! The tests read the text of `core/src/` and `src/`: every path `crate::…` or `spa_knock_core::…` outside comments and
//! strings is an import of the named module by the file's module.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests read files and panic on failure"
)]

mod source;

use std::path::Path;

use source::{before_tests, is_word, name_of, project, rust_files, without_comments_and_strings};

/// Modules by layer, the lowest first, and what each may import besides the layers below and itself.
const LAYERS: &[&[(&str, &[&str])]] = &[
    &[("knock", &[])],
    &[("crypto", &[]), ("wire", &["crypto"])],
    &[("auth", &[])],
    &[("os", &[]), ("packet", &[]), ("manual", &[]), ("console", &["os"]), ("completion", &["os"])],
    &[("capture", &[]), ("firewall", &[])],
    &[("config", &[]), ("ipc", &[])],
    &[
        ("supervisor", &["control"]),
        ("watcher", &[]),
        ("state", &[]),
        ("gate", &["state"]),
        ("control", &["gate"]),
        ("audit", &["control"]),
    ],
    &[("legacy", &[]), ("fleet", &[])],
    &[("daemon", &[]), ("admin", &[]), ("client", &[])],
    &[("dispatch", &[]), ("fuzzing", &[])],
];

/// Libraries that only some modules may name.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("ring", &["crypto"]),
    ("hmac", &["crypto"]),
    ("sha1", &["crypto"]),
    ("sha2", &["crypto"]),
    ("base64", &["crypto"]),
    (
        "zeroize",
        &["crypto", "os", "client", "config", "ipc", "watcher", "admin", "legacy", "fleet", "fwknop"],
    ),
];

#[test]
fn no_module_imports_from_a_layer_above_its_own() {
    let mut found = Vec::new();
    for source in ["core/src", "src"].map(project) {
        let files = rust_files(&source);
        assert!(files.len() > 20, "the source is missing");
        for path in files {
            let Some(module) = module_of(path.strip_prefix(&source).unwrap()) else { continue };
            found.extend(faults(&name_of(&path), &module, &std::fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// A build can leave out the folder `legacy/`: it replaces or leaves out the few files that name it.
#[test]
fn the_module_for_knockd_is_named_in_few_files() {
    const ALLOWED: [&str; 6] = [
        "src/dispatch.rs",
        "src/daemon/legacy.rs",
        "src/admin/check/legacy.rs",
        "src/client/legacy/",
        "src/admin/check/fwknop.rs",
        "src/admin/explain/fwknop.rs",
    ];
    let mut found = Vec::new();
    for path in rust_files(&project("src")) {
        let name = name_of(&path);
        let text = std::fs::read_to_string(&path).unwrap();
        let names_it = imports(&without_comments_and_strings(before_tests(&text)))
            .into_iter()
            .any(|(_, target)| target == "legacy");
        if names_it
            && !name.starts_with("src/legacy/")
            && !ALLOWED.iter().any(|allowed| name.starts_with(allowed))
        {
            found.push(name);
        }
    }
    assert!(found.is_empty(), "these name crate::legacy: {found:?}");
}

/// Keeps files and folders small, so that a reader finds code by their names.
#[test]
fn no_file_has_over_350_lines_before_its_tests_and_no_folder_over_15_percent() {
    let (mut all, mut folders, mut long) = (0, std::collections::BTreeMap::new(), Vec::new());
    for source in ["core/src", "fleet/src", "fwknop/src", "src"].map(project) {
        for path in rust_files(&source) {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.lines().count();
            all += lines;
            let inside = path.strip_prefix(&source).unwrap();
            // A build can leave it out, and it is read by itself.
            let apart =
                ["client/fwknop", "legacy/fwknop"].into_iter().find(|folder| inside.starts_with(folder));
            let folder = apart.map(str::to_owned).or_else(|| module_of(inside)).unwrap_or_default();
            *folders.entry(folder).or_insert(0) += lines;
            let is_test =
                path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
            let before = before_tests(&text).lines().count();
            if !is_test && before > 350 {
                long.push(format!("{} {before}", name_of(&path)));
            }
        }
    }
    assert!(long.is_empty(), "{long:?}");
    folders.retain(|_, lines| *lines * 100 > all * 15);
    assert!(folders.is_empty(), "of {all}: {folders:?}");
}

/// What counts lines stops at the tests.
#[test]
fn nothing_follows_the_declaration_of_a_module_of_tests() {
    for source in ["core/src", "fleet/src", "fwknop/src", "src"].map(project) {
        for path in rust_files(&source) {
            let text = std::fs::read_to_string(&path).unwrap();
            let Some((_, tests)) = text.split_once("\n#[cfg(test)]\n") else { continue };
            let mut lines = tests.lines().skip_while(|line| line.starts_with("#["));
            if lines.next().is_some_and(|declared| declared.ends_with(';')) {
                assert_eq!(lines.next(), None, "{}", name_of(&path));
            }
        }
    }
}

/// Core reads no files, packets, configs or command lines, so it must not depend on libraries for these.
#[test]
fn core_depends_on_no_library_for_input_and_output() {
    let manifest = include_str!("../core/Cargo.toml");
    let mut names = manifest_libraries(manifest);
    names.sort();
    let allowed =
        ["base64", "hmac", "proptest", "ring", "serde_json", "sha1", "sha2", "thiserror", "zeroize"];
    assert_eq!(names, allowed, "core/Cargo.toml");
}

#[test]
fn an_import_from_a_higher_layer_is_found() {
    let cases = [
        ("knock", "use crate::wire::Reader;", "src/x.rs:1: knock -> wire"),
        ("knock", "\nuse zeroize::Zeroize;", "src/x.rs:2: knock -> zeroize (library)"),
        ("knock", "use serde::Serialize;", "src/x.rs:1: knock -> serde (library)"),
        ("knock", "#[derive(thiserror::Error)]", "src/x.rs:1: knock -> thiserror (library)"),
        ("crypto", "use crate::packet::Frame;", "src/x.rs:1: crypto -> packet"),
        ("crypto", "use crate::wire::Hint;", "src/x.rs:1: crypto -> wire"),
        ("wire", "fn f(_: crate::auth::Order) {}", "src/x.rs:1: wire -> auth"),
        ("wire", "let key = ring::hmac::Key::new();", "src/x.rs:1: wire -> ring (library)"),
        ("auth", "use crate::{\n    os::clock,\n};", "src/x.rs:2: auth -> os"),
        ("auth", "use crate::{knock::Action, daemon};", "src/x.rs:1: auth -> daemon"),
        ("auth", "use super::super::daemon::Loop;", "src/x.rs:1: auth -> daemon"),
        ("firewall", "use crate::config::Backend;", "src/x.rs:1: firewall -> config"),
        ("knock", "use spa_knock_core::wire::Reader;", "src/x.rs:1: knock -> wire"),
        ("os", "use crate::config::ServerConfig;", "src/x.rs:1: os -> config"),
        ("client", "use crate::daemon::run;", "src/x.rs:1: client -> daemon"),
        ("knock", "use crate::nowhere::X;", "src/x.rs:1: knock -> nowhere"),
    ];
    for (module, text, fault) in cases {
        assert_eq!(faults("src/x.rs", module, text), [fault], "{text}");
    }
}

#[test]
fn an_import_from_a_lower_layer_is_allowed() {
    let cases = [
        ("wire", "use crate::crypto::{Tag, MacKey};\nuse crate::knock::Knock;"),
        ("wire", "// crate::daemon is far above\n/// [`crate::auth`]\nlet text = \"crate::client\";"),
        ("wire", "let ring: Vec<u8> = self::ring(); r#\"use crate::auth;\"#"),
        ("firewall", "use crate::{knock::Action, os::{clock, runner::Run}};"),
        ("admin", "use crate::config::ServerConfig;\nuse zeroize::Zeroizing;"),
        ("knock", "use std::net::IpAddr;\nuse super::Timestamp;\nuse core::fmt;"),
        ("auth", "use super::{Rate, Template};\nuse crate::auth::policy::Policy;"),
        ("knock", "#[cfg(test)]\nmod tests {\n    use proptest::prelude::*;\n    use super::*;\n}"),
    ];
    for (module, text) in cases {
        assert_eq!(faults("src/x.rs", module, text), [""; 0], "{text}");
    }
}

/// The names in `text` that `module` must not use, as `file:line: module -> target`.
fn faults(file: &str, module: &str, text: &str) -> Vec<String> {
    let code = without_comments_and_strings(before_tests(text));
    let mut faults = Vec::new();
    for (at, target) in imports(&code) {
        if !may_import(module, &target) {
            faults.push(format!("{file}:{}: {module} -> {target}", line(&code, at)));
        }
    }
    for (at, library) in libraries(&code) {
        if !may_name(module, &library) {
            faults.push(format!("{file}:{}: {module} -> {library} (library)", line(&code, at)));
        }
    }
    faults
}

fn may_import(module: &str, target: &str) -> bool {
    let (Some(from), Some(to)) = (layer_of(module), layer_of(target)) else { return false };
    let peers = LAYERS[from].iter().find(|(name, _)| *name == module).map_or(&[][..], |(_, peers)| peers);
    module == target || to < from || peers.contains(&target)
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.iter().any(|(name, _)| *name == module))
}

fn may_name(module: &str, library: &str) -> bool {
    if module == "knock" {
        return false;
    }
    LIBRARIES.iter().find(|(name, _)| *name == library).is_none_or(|(_, homes)| homes.contains(&module))
}

/// The first names after `crate::` (or after enough `super::` to leave a two-level module), each with its offset. A
/// group is split into its members.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut imports = Vec::new();
    for root in ["crate::", "spa_knock_core::", "super::super::"] {
        for (at, _) in code.match_indices(root) {
            if code.get(..at).is_some_and(|before| before.ends_with(is_word) || before.ends_with("::")) {
                continue;
            }
            let path = at.saturating_add(root.len());
            for start in group_members(code, path) {
                let name = identifier(&code[start..]);
                // In deeper modules, `super::super::` is still inside the module and can be followed by any name.
                if root != "super::super::" || layer_of(&name).is_some() {
                    imports.push((start, name));
                }
            }
        }
    }
    imports.retain(|(_, name)| !name.is_empty());
    imports
}

/// The offsets of the names at `path`: a single name, or the top-level names of a `{…}` group.
fn group_members(code: &str, path: usize) -> Vec<usize> {
    if !code[path..].starts_with('{') {
        return vec![path];
    }
    let mut members = Vec::new();
    let mut depth = 0_usize;
    let mut expects_name = false;
    for (offset, c) in code[path..].char_indices() {
        match c {
            '{' => depth = depth.saturating_add(1),
            '}' if depth == 1 => break,
            '}' => depth = depth.saturating_sub(1),
            _ if c.is_whitespace() => continue,
            _ if expects_name && depth == 1 && is_word(c) => members.push(path.saturating_add(offset)),
            _ => {}
        }
        expects_name = depth == 1 && matches!(c, '{' | ',');
    }
    members
}

/// The libraries named at the root of a path, each with its offset. The project's modules and the standard library are
/// left out.
fn libraries(code: &str) -> Vec<(usize, String)> {
    let mut known = manifest_libraries(include_str!("../core/Cargo.toml"));
    known.extend(manifest_libraries(include_str!("../Cargo.toml")));
    known.retain(|library| library != "spa_knock_core");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("::") {
        let before = &code[..at];
        let start = before.rfind(|c| !is_word(c)).map_or(0, |end| end.saturating_add(1));
        let name = &before[start..];
        let rooted = before[..start].ends_with("::") || before[..start].ends_with('.');
        if !rooted && known.iter().any(|library| library == name) {
            found.push((start, name.to_owned()));
        }
    }
    found
}

/// The names of all libraries in the dependency sections of a manifest.
fn manifest_libraries(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if inside && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            names.push(line.split([' ', '=']).next().unwrap_or(line).replace('-', "_"));
        }
    }
    names
}

/// The module of a file: `wire/reply.rs` → `wire`, `packet/mod.rs` → `packet`. The crate's root and the programs in
/// `bin/` are above all layers and have none.
fn module_of(path: &Path) -> Option<String> {
    let first = path.components().next()?.as_os_str().to_str()?;
    let module = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(module, "lib" | "bin")).then(|| module.to_owned())
}

fn line(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count().saturating_add(1)
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| is_word(*c)).collect()
}
