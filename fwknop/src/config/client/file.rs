//! `.fwknoprc`: stanzas, each of which begins with `[name]`. The stanza `default` applies to all others.

use std::path::Path;

use super::options::ClientOptions;
use super::variables::ClientDraft;
use crate::config::problem::{ConfigProblem, Place};

/// The name of the stanza that applies to all others.
const DEFAULT: &str = "default";

/// The stanzas of a `.fwknoprc`, in order.
#[derive(Default)]
pub struct ClientFile {
    /// The stanzas, `default` included.
    pub stanzas: Vec<ClientStanza>,
    /// What is ignored outside of all stanzas.
    pub notices: Vec<ConfigProblem>,
}

/// A stanza. A stanza with problems cannot be used. Has no `Debug`, because it can contain keys.
pub struct ClientStanza {
    /// The name between the brackets.
    pub name: String,
    /// The line of its beginning.
    pub place: Place,
    /// Its options.
    pub options: ClientOptions,
    /// Its lines, in order.
    pub lines: Vec<StanzaLine>,
    /// Lines that have no effect, or another one than written.
    pub notices: Vec<ConfigProblem>,
    /// Lines because of which it cannot be used.
    pub problems: Vec<ConfigProblem>,
}

/// A line of a stanza: where a variable is set. Does not contain the value, which can be a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StanzaLine {
    /// Where it is.
    pub place: Place,
    /// The variable.
    pub name: String,
}

impl ClientFile {
    /// The stanza of this name, in any case of letters.
    #[must_use]
    pub fn stanza(&self, name: &str) -> Option<&ClientStanza> {
        self.stanzas.iter().find(|stanza| stanza.name.eq_ignore_ascii_case(name))
    }

    /// The stanza `default`.
    #[must_use]
    pub fn default_stanza(&self) -> Option<&ClientStanza> {
        self.stanza(DEFAULT)
    }

    /// All stanzas except `default`.
    pub fn named(&self) -> impl Iterator<Item = &ClientStanza> {
        self.stanzas.iter().filter(|stanza| !stanza.is_default())
    }
}

impl ClientStanza {
    /// Whether it applies to all others.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.name.eq_ignore_ascii_case(DEFAULT)
    }
}

/// Parses a `.fwknoprc`. `path` is for messages.
#[must_use]
pub fn parse_client(path: &Path, text: &str) -> ClientFile {
    let mut file = ClientFile::default();
    let mut drafts: Vec<ClientDraft> = Vec::new();
    let mut current = None;
    for (line, number) in text.lines().zip(1..) {
        let place = Place { file: path.to_owned(), line: number };
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = stanza_name(line) {
            let known = file.stanzas.iter().position(|stanza| stanza.name.eq_ignore_ascii_case(name));
            // A stanza that occurs twice continues.
            current = Some(known.unwrap_or(file.stanzas.len()));
            if known.is_none() {
                file.stanzas.push(ClientStanza::new(name, place));
                drafts.push(ClientDraft::default());
            }
            continue;
        }
        match current.and_then(|at| file.stanzas.get_mut(at).zip(drafts.get_mut(at))) {
            Some((stanza, draft)) => stanza.line(draft, line, place),
            None => file.notices.push(
                ConfigProblem::new(&place, "ignored: is before the first stanza")
                    .hint("begin one with [default]"),
            ),
        }
    }
    for (stanza, draft) in file.stanzas.iter_mut().zip(drafts) {
        stanza.options = draft.finish();
    }
    file
}

fn stanza_name(line: &str) -> Option<&str> {
    line.strip_prefix('[')?.split(']').next().map(str::trim)
}

impl ClientStanza {
    fn new(name: &str, place: Place) -> Self {
        Self {
            name: name.to_owned(),
            place,
            options: ClientOptions::default(),
            lines: Vec::new(),
            notices: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Reads a line that is neither empty nor a comment: `NAME value`. The value ends at a space, `#` or `;`.
    fn line(&mut self, draft: &mut ClientDraft, line: &str, place: Place) {
        let (name, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let name = name.strip_suffix(':').unwrap_or(name);
        let rest = rest.trim();
        let value = rest.split(['#', ';', ' ', '\t']).next().unwrap_or_default();
        let after = rest.get(value.len()..).unwrap_or_default();
        // The line itself is not shown: it can contain a key.
        if name.contains('=') || value.starts_with('=') {
            let problem = ConfigProblem::new(&place, "contains '=' between variable and value");
            return self.problems.push(problem.hint("separate them with space: SPA_SERVER 192.0.2.1"));
        }
        self.lines.push(StanzaLine { place: place.clone(), name: name.to_owned() });
        if value.is_empty() {
            return self.problems.push(ConfigProblem::new(&place, format!("{name}: has no value")));
        }
        // A comment after space is meant as one; what else follows the value is ignored by fwknop, too.
        if !after.is_empty() && !after.trim_start_matches([' ', '\t']).starts_with(['#', ';'])
            || after.starts_with(['#', ';'])
        {
            let notice =
                format!("{name}: what follows the first word of the value, or '#' or ';', is ignored");
            let notice = ConfigProblem::new(&place, notice);
            let is_key = matches!(name, "KEY" | "HMAC_KEY");
            let hint = format!("write a key with such characters as {name}_BASE64");
            self.notices.push(if is_key { notice.hint(hint) } else { notice });
        }
        match draft.set(name, value) {
            Ok(None) => {}
            Ok(Some(notice)) => self.notices.push(ConfigProblem::new(&place, format!("{name}: {notice}"))),
            Err(error) => self.problems.push(ConfigProblem::new(&place, format!("{name}: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::client::{AllowedAddress, ClientTimeout, NatPort, PacketTransport, TimeOffset};
    use crate::packet::Digest;

    fn parse(text: &str) -> ClientFile {
        parse_client(Path::new("rc"), text)
    }

    fn texts(problems: &[ConfigProblem]) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_variable_sets_its_option() {
        let file = parse(
            "[a]\nSPA_SERVER host.example.org\nSPA_SERVER_PORT: 4000\nSPA_SERVER_PROTO TCP\nRAND_PORT n\n\
             SERVER_RESOLVE_IPV4 Y\nACCESS tcp/22,udp/53\nALLOW_IP source\nRESOLVE_URL http://192.0.2.1/ip\n\
             RESOLVE_HTTP_ONLY Y\nWGET_CMD /bin/wget\nHTTP_USER_AGENT a/1\nUSE_WGET_USER_AGENT Y\nFW_TIMEOUT 30\n\
             SPOOF_USER alice\nTIME_OFFSET -60\nNAT_ACCESS 10.0.0.1:22\nNAT_LOCAL Y\nNAT_PORT 4444\nDIGEST_TYPE md5\n\
             HMAC_DIGEST_TYPE sha3_256\nUSE_HMAC Y\nKEY_BASE64 dGVzdA==\nHMAC_KEY_BASE64 dGVzdDI\nVERBOSE 2\n\
             ENCRYPTION_MODE cbc\nNO_SAVE_ARGS Y\nUSE_GPG N\nKEY_FILE f\nHMAC_KEY_FILE g\n",
        );
        let stanza = file.stanza("A").unwrap();
        assert_eq!(texts(&stanza.problems), [""; 0]);
        assert_eq!(texts(&stanza.notices), [""; 0]);
        let options = &stanza.options;
        assert_eq!(options.server.as_deref(), Some("host.example.org"));
        assert_eq!((options.server_port, options.transport), (Some(4000), Some(PacketTransport::Tcp)));
        assert_eq!((options.random_port, options.ipv4_only), (Some(false), Some(true)));
        assert_eq!(options.access.as_ref().map(|ports| ports.0.len()), Some(2));
        assert_eq!((options.allow, options.timeout), (Some(AllowedAddress::Source), Some(ClientTimeout(30))));
        assert_eq!(options.resolve_url.as_deref(), Some("http://192.0.2.1/ip"));
        assert_eq!((options.resolve_http_only, options.wget_user_agent), (Some(true), Some(true)));
        assert_eq!(
            (options.wget.as_deref(), options.user_agent.as_deref()),
            (Some("/bin/wget"), Some("a/1"))
        );
        assert_eq!((options.user.as_deref(), options.time_offset), (Some("alice"), Some(TimeOffset(-60))));
        assert_eq!(options.nat.as_ref().map(ToString::to_string).as_deref(), Some("10.0.0.1,22"));
        assert_eq!((options.nat_local, options.nat_port), (Some(true), Some(NatPort::Number(4444))));
        assert_eq!((options.digest, options.hmac_digest), (Some(Digest::Md5), Some(Digest::Sha3_256)));
        assert_eq!(options.key.as_ref().unwrap().bytes(), b"test");
        assert_eq!(options.hmac_key.as_ref().unwrap().bytes(), b"test2");
        assert_eq!((options.use_hmac, options.verbose), (Some(true), Some(true)));
        assert_eq!((options.key_file.as_deref(), options.hmac_key_file.as_deref()), (Some("f"), Some("g")));
        assert_eq!(stanza.lines.len(), 29);
        assert_eq!(stanza.lines.last().map(|line| line.place.to_string()).as_deref(), Some("rc:30"));
    }

    #[test]
    fn a_key_is_the_text_up_to_space_or_a_comment() {
        for (line, key) in [
            ("KEY foo bar  ", "foo"),
            ("KEY: foo", "foo"),
            ("  KEY\tfoo", "foo"),
            ("KEY foo#bar", "foo"),
            ("KEY foo;bar", "foo"),
            ("KEY \"foo\"", "\"foo\""),
            ("KEY foo\r", "foo"),
            ("KEY foo\nKEY bar", "bar"),
            ("KEY foo\nKEY_BASE64 YmFy", "foo"),
            ("KEY_BASE64 YmFy\nKEY foo", "foo"),
        ] {
            let file = parse(&format!("[a]\n{line}\n"));
            let stanza = file.stanza("a").unwrap();
            assert_eq!(stanza.options.key.as_ref().unwrap().bytes(), key.as_bytes(), "{line}");
            assert_eq!(
                stanza.notices.len(),
                usize::from(["foo#", "foo;", "foo bar"].iter().any(|end| line.contains(end))),
                "{line}"
            );
        }
    }

    #[test]
    fn a_named_stanza_has_precedence_over_the_default_one() {
        let file =
            parse("[Default]\nFW_TIMEOUT 20\nACCESS tcp/80\n[a]\nFW_TIMEOUT 30\n[b]\n[a]\nACCESS tcp/22\n");
        assert_eq!(file.named().map(|stanza| stanza.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let merged = |name: &str| {
            let default = &file.default_stanza().unwrap().options;
            let options = file.stanza(name).unwrap().options.clone().or(default);
            (options.timeout.unwrap().0, options.access.unwrap().0.first().unwrap().to_string())
        };
        assert_eq!(merged("a"), (30, "tcp/22".to_owned()), "a stanza that occurs twice continues");
        assert_eq!(merged("b"), (20, "tcp/80".to_owned()));
    }

    #[test]
    fn resolving_has_precedence_over_an_address_in_the_same_stanza() {
        let file = parse(
            "[a]\nRESOLVE_IP_HTTPS Y\nALLOW_IP 192.0.2.1\n[b]\nRESOLVE_IP_HTTPS N\nALLOW_IP 192.0.2.1\n",
        );
        assert_eq!(file.stanza("a").unwrap().options.allow, Some(AllowedAddress::Resolve));
        assert!(matches!(file.stanza("b").unwrap().options.allow, Some(AllowedAddress::Address(_))));
    }

    #[test]
    fn every_problem_is_reported_with_its_line_but_without_the_value() {
        let text = "FOO sesame\n[a]\nFW_TIMEOUT sesame\nSPA_SERVER_PORT 99999\nKEY=sesame\nKEY = sesame\nACCESS\n\
                    ENCRYPTION_MODE legacy\nUSE_GPG Y\nSPOOF_SOURCE_IP 192.0.2.1\nSPA_SERVER_PROTO icmp\n\
                    HMAC_KEY_BASE64 se$ame\nUSE_HMAC perhaps\nALLOW_IP 2001:db8::1\nKEY __CHANGEME__\n";
        let file = parse(text);
        let problems = texts(&file.stanza("a").unwrap().problems);
        let expected = [
            "rc:3: FW_TIMEOUT: expected a number of seconds from 0 to 65536",
            "rc:4: SPA_SERVER_PORT: expected a port from 1 to 65535",
            "rc:5: contains '=' between variable and value",
            "rc:6: contains '=' between variable and value",
            "rc:7: ACCESS: has no value",
            "rc:8: ENCRYPTION_MODE: only CBC is supported",
            "rc:9: USE_GPG: GnuPG is not supported",
            "rc:10: SPOOF_SOURCE_IP: packets with another source address are not supported",
            "rc:11: SPA_SERVER_PROTO: raw packets are not supported",
            "rc:12: HMAC_KEY_BASE64: is not base64",
            "rc:13: USE_HMAC: expected Y or N",
            "rc:14: ALLOW_IP: is an IPv6 address",
            "rc:15: KEY: is still __CHANGEME__",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}");
            assert!(!problem.contains("sesame"), "{problem}");
        }
        assert_eq!(
            texts(&file.notices),
            ["rc:1: ignored: is before the first stanza\nhint: begin one with [default]"]
        );
    }

    #[test]
    fn variables_without_effect_are_reported_with_their_line() {
        let file = parse(
            "[a]\nkey foo\nCLIENT_TIMEOUT 60\nGPG_SIGNER x\nSPA_SOURCE_PORT 5\nKEY a#b\nACCESS tcp/22 # ssh\nUSE_HMAC Y ; on\n",
        );
        let stanza = file.stanza("a").unwrap();
        assert_eq!(stanza.problems.len(), 0);
        assert_eq!(
            texts(&stanza.notices),
            [
                "rc:2: key: ignored: fwknop's client has no such variable",
                "rc:3: CLIENT_TIMEOUT: ignored, also by fwknop; write FW_TIMEOUT",
                "rc:4: GPG_SIGNER: ignored: GnuPG is not supported",
                "rc:5: SPA_SOURCE_PORT: ignored: fwknop uses it for raw packets only",
                "rc:6: KEY: what follows the first word of the value, or '#' or ';', is ignored\nhint: write a key with such characters as KEY_BASE64",
            ]
        );
        assert!(stanza.options.key.as_ref().is_some_and(|key| key.bytes() == b"a"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[\\[\\]A-Z_ \\n#;=:a-z0-9/.é]{0,200}") {
            let _ = parse(&text);
        }
    }
}
