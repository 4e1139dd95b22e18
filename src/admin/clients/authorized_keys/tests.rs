use proptest::prelude::*;

use super::*;

const ED: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAw1DInpu1AUJNxvw21MVAnXYFO1LNSH4KXDra/jnQ1i";
const EC: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBGjZ+fBdnTLlzgK8dYAW0C/aC0a0HxgRhrjxq55jrYG9+wtprE6HAsFWbZ/+7ZHGezPi1d2zYOcvFzSIIh0SvdI=";
const SK: &str = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAdFXEPfGW+Ti8P64TpRSD5V/TCl8mG2YAF6oZ6AOpXRAAAABHNzaDo=";
const SK_EC: &str = "sk-ecdsa-sha2-nistp256@openssh.com AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20AAAAIbmlzdHAyNTYAAABBBIdLfGQVVkAeVbp8rwWTerdivZCKLLVG3nRLtnu9bW08ZnHgY96jAp8+9sVK42N0uA4fc6C3Zwyj+5rR6kgUcz0AAAAEc3NoOg==";

/// 2026-11-29T00:00:00Z.
const NOW: u64 = 1_795_910_400;

fn parse(text: &str) -> AuthorizedKeys {
    AuthorizedKeys::parse(text, Timestamp::from_millis(NOW * 1_000))
}

/// The key of a one-line file: when it expires, in seconds, and what its FIDO device must state.
fn usable(line: &str) -> (Option<u64>, Touch) {
    let keys = parse(line);
    assert_eq!((keys.usable.len(), &*keys.skipped), (1, &[][..]), "{line}");
    let key = &keys.usable[0];
    (key.expires.map(|time| time.as_millis() / 1_000), key.touch)
}

/// Why the line of a one-line file is skipped.
fn skipped(line: &str) -> String {
    let keys = parse(line);
    assert_eq!((keys.usable.len(), keys.skipped.len()), (0, 1), "{line}");
    keys.skipped[0].to_string()
}

#[test]
fn keys_of_all_four_kinds_are_used_and_empty_lines_and_comments_are_not_counted_as_skipped() {
    let text = format!("# mine\n\n{ED} me@here\n  \t{EC}\r\n#{SK}\n{SK}  two words\n \n{SK_EC}");
    let keys = parse(&text);
    let lines: Vec<usize> = keys.usable.iter().map(|key| key.line).collect();
    assert_eq!((lines, &*keys.skipped), (vec![3, 4, 6, 8], &[][..]));
    let texts: Vec<String> = keys.usable.iter().map(|key| key.key.to_string()).collect();
    assert_eq!(texts, [ED, EC, SK, SK_EC]);
    assert_eq!(parse(""), AuthorizedKeys::default());
}

#[test]
fn an_option_that_limits_only_the_session_is_ignored() {
    for options in [
        "restrict",
        "pty",
        "user-rc",
        "no-pty",
        "no-user-rc",
        "no-agent-forwarding",
        "no-port-forwarding",
        "no-X11-forwarding",
        "no-x11-forwarding",
        "no-verify-required",
        "agent-forwarding",
        "port-forwarding",
        "X11-forwarding",
        "restrict,pty,port-forwarding",
        "RESTRICT,No-PTY",
        r#"permitopen="192.0.2.1:80""#,
        r#"permitopen="192.0.2.1:80",permitopen="[2001:db8::1]:*""#,
        r#"permitlisten="8080""#,
        r#"environment="A=b, c=\"d\" # e""#,
        r#"tunnel="0""#,
    ] {
        assert_eq!(usable(&format!("{options} {ED}")), (None, Touch::Present), "{options}");
    }
}

#[test]
fn expiry_and_verification_are_applied_and_the_earliest_expiry_is_used() {
    for (line, expected) in [
        (format!(r#"expiry-time="20270131Z" {ED}"#), (Some(1_801_353_600), Touch::Present)),
        (format!(r#"restrict,Expiry-Time="202701310000Z",pty {ED}"#), (Some(1_801_353_600), Touch::Present)),
        (
            format!(r#"expiry-time="20280131Z",expiry-time="20270131Z" {ED}"#),
            (Some(1_801_353_600), Touch::Present),
        ),
        (
            format!(r#"expiry-time="20270131Z",expiry-time="20280131Z" {ED}"#),
            (Some(1_801_353_600), Touch::Present),
        ),
        (format!("verify-required {SK}"), (None, Touch::Pin)),
        (format!("verify-required,no-verify-required {SK_EC}"), (None, Touch::Pin)),
        (format!("verify-required,expiry-time=\"20270131Z\"\t {SK_EC}"), (Some(1_801_353_600), Touch::Pin)),
    ] {
        assert_eq!(usable(&line), expected, "{line}");
    }
}

#[test]
fn any_other_option_or_key_is_skipped_with_its_line_and_the_reason() {
    let unsupported = |name: &str| format!("line 1: option {name} is not supported for knocks");
    let no_touch = "line 1: option no-touch-required: a knock with a FIDO key always needs a touch";
    let no_time = "line 1: option expiry-time: not a time of the form YYYYMMDD[Z] or YYYYMMDDHHMM[SS][Z]";
    let malformed = "line 1: malformed options";
    let kind = "line 1: this kind of key cannot sign knocks (use ssh-ed25519, ecdsa-sha2-nistp256, \
                sk-ssh-ed25519@openssh.com or sk-ecdsa-sha2-nistp256@openssh.com)";
    for (line, message) in [
        (format!(r#"from="192.0.2.0/24" {ED}"#), &*unsupported("from")),
        (format!(r#"restrict,command="echo hello, world" {ED}"#), &unsupported("command")),
        (format!("cert-authority {ED}"), &unsupported("cert-authority")),
        (format!(r#"principals="a" {ED}"#), &unsupported("principals")),
        (format!("touch-required {SK}"), &unsupported("touch-required")),
        (format!("no-such-option {ED}"), &unsupported("no-such-option")),
        (format!("no-touch-required {SK}"), no_touch),
        (format!("No-Touch-Required,verify-required {SK}"), no_touch),
        // With a value that it must not have, or without one.
        (format!(r#"restrict="x" {ED}"#), &unsupported("restrict")),
        (format!("permitopen {ED}"), &unsupported("permitopen")),
        (format!("expiry-time {ED}"), &unsupported("expiry-time")),
        (format!(r#"expiry-time="soon" {ED}"#), no_time),
        (format!(r#"expiry-time="20201131Z" {ED}"#), no_time),
        (format!(r#"expiry-time="20201130Z" {ED}"#), "line 1: the key has expired"),
        (format!(r#"expiry-time="20261129Z" {ED}"#), "line 1: the key has expired"),
        (format!("verify-required {ED}"), "line 1: option verify-required needs a key in a FIDO device"),
        (format!("restrict,{ED}"), &unsupported("ssh-ed25519")),
        (format!("restrict,,pty {ED}"), malformed),
        (format!(",restrict {ED}"), malformed),
        (format!("restrict, {ED}"), malformed),
        (format!("tunnel=0 {ED}"), malformed),
        (format!(r#"tunnel="0"pty {ED}"#), malformed),
        (format!(r#"tunnel="0 {ED}"#), malformed),
        (format!(r#"tunnel="0\" {ED}"#), malformed),
        (format!("dm9uIGVpbmVtIHNjaGzDvHNzZWw= {ED}"), malformed),
        (format!(r#"restrict {}"#, ED.replace("ed25519", "ed448")), kind),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ== me".to_owned(), kind),
        ("ssh-ed25519-cert-v01@openssh.com AAAA".to_owned(), kind),
        (
            ED.replace("ssh-ed25519", "ecdsa-sha2-nistp256"),
            "line 1: the text names another algorithm than the key itself",
        ),
        ("ssh-ed25519".to_owned(), "line 1: expected a public key such as ssh-ed25519 AAAA…"),
        ("restrict".to_owned(), "line 1: expected a public key such as ssh-ed25519 AAAA…"),
        ("restrict ".to_owned(), "line 1: expected a public key such as ssh-ed25519 AAAA…"),
        (
            format!("{ED}AAAA"),
            "line 1: damaged: fields are missing, have wrong lengths or are followed by other bytes",
        ),
        (
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
            "line 1: not a valid key: its point is not on the curve, not canonical or of small order",
        ),
    ] {
        assert_eq!(skipped(&line), message, "{line}");
    }
}

#[test]
fn the_first_usable_line_of_a_key_sets_its_limits() {
    let text = format!("from=\"192.0.2.1\" {ED}\nexpiry-time=\"20270131Z\" {ED} one\n{EC}\n{ED} two\n");
    let keys = parse(&text);
    let lines: Vec<_> = keys.usable.iter().map(|key| (key.line, key.expires.is_some())).collect();
    assert_eq!(lines, [(2, true), (3, false)]);
    let skipped: Vec<String> = keys.skipped.iter().map(ToString::to_string).collect();
    assert_eq!(
        skipped,
        ["line 1: option from is not supported for knocks", "line 4: the same key as in line 2"]
    );
}

/// One option, and what it does to the key of its line.
#[derive(Debug, Clone)]
enum Item {
    Ignored(&'static str, Option<String>),
    Verify,
    /// At noon in UTC of this day in January 2027.
    Expires(u8),
    Refused(String, Option<String>),
}

impl Item {
    fn text(&self) -> String {
        let with_value = |name: &str, value: &Option<String>| match value {
            Some(value) => format!("{name}=\"{}\"", value.replace('"', "\\\"")),
            None => name.to_owned(),
        };
        match self {
            Self::Ignored(name, value) => with_value(name, value),
            Self::Verify => "verify-required".to_owned(),
            Self::Expires(day) => format!("expiry-time=\"202701{day:02}1200Z\""),
            Self::Refused(name, value) => with_value(name, value),
        }
    }
}

fn item() -> impl Strategy<Value = Item> {
    let value = || "[a-z ,=\"#:*]{0,12}";
    prop_oneof![
        6 => prop::sample::select(vec!["restrict", "pty", "no-pty", "user-rc", "X11-forwarding"])
            .prop_map(|name| Item::Ignored(name, None)),
        4 => (prop::sample::select(vec!["permitopen", "permitlisten", "environment", "tunnel"]), value())
            .prop_map(|(name, value)| Item::Ignored(name, Some(value))),
        2 => Just(Item::Verify),
        2 => (1_u8..29).prop_map(Item::Expires),
        1 => (prop::sample::select(vec!["from", "command", "principals", "x-y"]), value())
            .prop_map(|(name, value)| Item::Refused(name.to_owned(), Some(value))),
        1 => prop::sample::select(vec!["cert-authority", "touch-required", "no-touch-required", "x-y"])
            .prop_map(|name| Item::Refused(name.to_owned(), None)),
    ]
}

proptest! {
    /// The oracle knows what was written, and never parses it.
    #[test]
    fn a_line_has_the_limits_of_the_options_that_were_written(
        items in prop::collection::vec(item(), 1..6), is_fido: bool, comment in "[a-z\" ,=]{0,10}",
    ) {
        let options: Vec<String> = items.iter().map(Item::text).collect();
        let key = if is_fido { SK } else { ED };
        let keys = parse(&format!("{} {key} {comment}", options.join(",")));
        let refused = items.iter().any(|item| matches!(item, Item::Refused(..)));
        let verify = items.iter().any(|item| matches!(item, Item::Verify));
        let day = items.iter().filter_map(|item| if let Item::Expires(day) = item { Some(*day) } else { None }).min();
        if refused || (verify && !is_fido) {
            prop_assert_eq!((keys.usable.len(), keys.skipped.len()), (0, 1));
        } else {
            let expires = day.map(|day| Timestamp::from_millis((1_798_761_600 + (u64::from(day) - 1) * 86_400 + 43_200) * 1_000));
            let touch = if verify { Touch::Pin } else { Touch::Present };
            prop_assert_eq!(keys.skipped, &[]);
            let usable = &keys.usable[0];
            prop_assert_eq!((usable.expires, usable.touch, usable.key.to_string()), (expires, touch, key.to_owned()));
        }
    }

    #[test]
    fn each_line_of_any_text_is_used_or_skipped(
        text in "([ -~\t]{0,60}\n){0,6}",
        near in prop::collection::vec("(restrict|from|permitopen)(=\"[ -~]{0,8}\"?)?[, ]?(ssh-ed25519 AAAA[A-Za-z0-9+/=]{0,60})?", 0..6),
    ) {
        for text in [text, near.join("\n")] {
            let keys = parse(&text);
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).count();
            prop_assert_eq!(keys.usable.len() + keys.skipped.len(), lines);
        }
    }
}
