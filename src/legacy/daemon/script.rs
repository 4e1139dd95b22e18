//! A door's command as an argument of `/bin/sh -c`. knockd accepts any bytes, such as Latin-1. A command that is not
//! UTF-8 is escaped to ASCII, and the shell restores the bytes.

const START: &str = "eval \"$(printf '";
const END: &str = "')\"";

/// A shell script that runs `command`, byte for byte.
pub(in crate::legacy) fn script(command: Vec<u8>) -> String {
    String::from_utf8(command).unwrap_or_else(|error| {
        let escaped: String = error.as_bytes().iter().map(|&byte| escape(byte)).collect();
        format!("{START}{escaped}{END}")
    })
}

/// The command of a script, for the log.
pub(in crate::legacy) fn shown(script: &str) -> Vec<u8> {
    let inner = script.strip_prefix(START).and_then(|rest| rest.strip_suffix(END));
    inner.and_then(unescape).unwrap_or_else(|| script.as_bytes().to_vec())
}

/// Escapes a byte for the format string of printf(1).
fn escape(byte: u8) -> String {
    match byte {
        b' '..=b'~' if !matches!(byte, b'\'' | b'\\' | b'%' | b'"' | b'$' | b'`') => {
            char::from(byte).to_string()
        }
        _ => format!("\\{byte:03o}"),
    }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        if *first == b'\\' {
            let (octal, after) = after.split_at_checked(3)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(octal).ok()?, 8).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::os::process::spawn::run_to_end;

    #[test]
    fn utf_8_is_unchanged_and_other_bytes_reach_the_program_unchanged() {
        assert_eq!(script(b"echo h\xC3\xB4te".to_vec()), "echo hôte");
        assert_eq!(shown("echo hôte"), "echo hôte".as_bytes());
        for (command, bytes) in [
            (&b"printf h\xF4te | od -An -tx1"[..], "68 f4 74 65"),
            (b"printf '%s|' '\xFF \\b' 1% \"$(printf 'a')\" | od -An -tx1", "ff 20 5c 62 7c 31 25 7c 61 7c"),
            (b"x=`printf '\xE9'`; printf %s \"$x\" | od -An -tx1", "e9"),
        ] {
            let script = script(command.to_vec());
            assert!(script.is_ascii(), "{script}");
            assert_eq!(shown(&script), command);
            let output = run_to_end("sh", &["-c", &script], "", Duration::from_secs(10)).unwrap();
            assert_eq!(output.trim(), bytes, "{script}");
        }
    }
}
