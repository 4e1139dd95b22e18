//! A stanza as a profile: what corresponds, and which lines have no counterpart.

use std::fmt::Write as _;
use std::path::Path;

use spa_knock_fwknop::{AllowedAddress, ClientOptions, ClientStanza, ConfigProblem, PacketTransport};

use crate::client::failure::{ClientError, ExitCause};
use crate::os::env;
use spa_knock_core::knock::{ClientName, ServerId};

/// The port of fwknopd and of spa-knockd.
const PORT: u16 = 62_201;
/// The action that `spa-knockd init` writes.
const OPEN_SSH: &str = "open-ssh";

/// A profile and what is reported about it.
pub(super) struct ProfileDraft {
    /// The name of the stanza and of the profile.
    pub(super) name: String,
    /// The client's name, as a proposal.
    pub(super) client: ClientName,
    /// What was not translated, by line.
    pub(super) remarks: Vec<String>,
    address: String,
    id: ServerId,
    port: Option<u16>,
    action: Option<&'static str>,
    /// The requested ports, if no action of `spa-knockd init` opens them.
    access: Option<String>,
    source: &'static str,
    listed: Option<String>,
    seconds: Option<u32>,
}

impl ProfileDraft {
    /// Translates a stanza; `options` are its own and those of `default`.
    ///
    /// # Errors
    /// When it names no server.
    pub(super) fn new(
        stanza: &ClientStanza,
        default: Option<&ClientStanza>,
        options: &ClientOptions,
    ) -> Result<Self, ClientError> {
        let failed = |reason: &str| {
            ClientError::new(
                ExitCause::Files,
                format!("{}: stanza [{}]: {reason}", stanza.place, stanza.name),
            )
        };
        let address = options.server.clone().ok_or_else(|| failed("has no SPA_SERVER"))?;
        let id = ServerId::from_typed(&address)
            .map_err(|_| failed("SPA_SERVER is not a host name or an address"))?;
        let access = options
            .access
            .as_ref()
            .map(|ports| ports.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
        let opens_ssh = access.as_deref() == Some("tcp/22") && options.nat.is_none();
        let (source, listed) = match options.allow {
            Some(AllowedAddress::Source) => ("observed", None),
            Some(AllowedAddress::Address(address)) => ("", Some(address.to_string())),
            Some(AllowedAddress::Resolve) | None => ("auto", None),
        };
        let mut remarks = Vec::new();
        for stanza in [Some(stanza), default].into_iter().flatten() {
            remarks.extend(stanza.lines.iter().filter_map(|line| {
                let of_line = |found: &&ConfigProblem| found.place == line.place;
                // Some problems are about keys, which are not used; others are lines that are left out.
                if let Some(problem) = stanza.problems.iter().find(of_line) {
                    return Some(format!("{}: {}; not translated", line.place, problem.reason));
                }
                if let Some(remark) = remark(&line.name, options, opens_ssh) {
                    return Some(format!("{}: {}: not translated: {remark}", line.place, line.name));
                }
                stanza.notices.iter().find(of_line).map(|notice| format!("{}: {}", line.place, notice.reason))
            }));
            let of_no_line =
                |problem: &&ConfigProblem| !stanza.lines.iter().any(|line| line.place == problem.place);
            remarks.extend(
                stanza
                    .problems
                    .iter()
                    .filter(of_no_line)
                    .map(|problem| format!("{}: {}", problem.place, problem.reason)),
            );
        }
        Ok(Self {
            name: stanza.name.clone(),
            client: client_name(options),
            remarks,
            address,
            id,
            port: options.server_port.filter(|&port| port != PORT),
            action: opens_ssh.then_some(OPEN_SSH),
            access: access.filter(|_| !opens_ssh),
            source,
            listed,
            seconds: options.timeout.map(|timeout| timeout.0).filter(|&seconds| seconds > 0),
        })
    }

    /// The profile, with the file of its key.
    pub(super) fn profile(&self, key: &Path) -> String {
        let mut text = format!("[server.{}]\n", table_name(&self.name));
        let key = key.display().to_string();
        let source = self.listed.as_deref().unwrap_or(self.source);
        let action = match (self.action, &self.access) {
            (Some(action), _) => format!("action = {}", quoted(action)),
            (None, Some(access)) => format!(
                "# action = {}    # ACCESS {access}: ask the server's administrator for the action's name",
                quoted(&proposed(access))
            ),
            (None, None) => {
                "# action = \"…\"    # ask the server's administrator for the action's name".to_owned()
            }
        };
        let lines = [
            Some(format!("address = {}", quoted(&self.address))),
            self.port.map(|port| format!("port = {port}")),
            Some(format!("id = {}", quoted(self.id.as_str()))),
            Some(format!("key = {}", quoted(&key))),
            Some(action),
            Some(format!("source = {}", quoted(source))),
            self.seconds.map(|seconds| format!("for = \"{seconds}s\"")),
        ];
        for line in lines.into_iter().flatten() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// The file in which the server's administrator gets the derived key.
    pub(super) fn pair_file(&self) -> String {
        format!("{}.pair", self.client)
    }

    /// The commands with which the key gets to the server: of the user, and of the server's administrator.
    pub(super) fn commands(&self, key: &Path) -> [String; 2] {
        let key = key.display().to_string();
        let key = if key.contains(|c: char| c.is_whitespace() || c == '\'') { quoted(&key) } else { key };
        let policy = if self.source == "observed" { " --source exact,observed" } else { "" };
        [
            format!("spa-knock derive --key {key} --server-id {}", self.id),
            format!(
                "spa-knockd client add {} --allow {}{policy} --key {}",
                self.client,
                self.action.unwrap_or("ACTION"),
                self.pair_file()
            ),
        ]
    }
}

/// Why a variable has no counterpart; none if it has one, or needs none.
fn remark(variable: &str, options: &ClientOptions, opens_ssh: bool) -> Option<&'static str> {
    Some(match variable {
        "KEY" | "KEY_BASE64" | "KEY_FILE" | "HMAC_KEY" | "HMAC_KEY_BASE64" | "HMAC_KEY_FILE" => {
            "the profile has a new key"
        }
        "ACCESS" if !opens_ssh => "the profile needs the name of an action that opens these ports",
        "SPA_SERVER_PROTO"
            if options.transport.is_some_and(|transport| transport != PacketTransport::Udp) =>
        {
            "a knock is a UDP datagram; where these are blocked, use --ports"
        }
        "RAND_PORT" => "a knock goes to a fixed port",
        "NAT_ACCESS" | "NAT_LOCAL" | "NAT_PORT" | "NAT_RAND_PORT" => {
            "the server's config sets the target: request an action with `forward`"
        }
        "SPOOF_USER" => "a client is identified by its key",
        "TIME_OFFSET" => "set the clock; `spa-knock doctor --ntp HOST` compares it",
        "RESOLVE_URL" | "RESOLVE_HTTP_ONLY" | "WGET_CMD" | "HTTP_USER_AGENT" | "USE_WGET_USER_AGENT" => {
            "the server itself reports the address that it sees"
        }
        "SERVER_RESOLVE_IPV4" => "knock with -4",
        "VERBOSE" => "knock with -v",
        _ if variable.contains("GPG") => "GnuPG is not supported; the profile has a new key",
        // Digests and modes belong to fwknop's keys. What remains is unknown, also to fwknop.
        _ => return None,
    })
}

/// The name that `spa-knockd migrate` gives to an action that opens one port.
fn proposed(access: &str) -> String {
    if access.contains(',') { "…".to_owned() } else { format!("open-{}", access.replace('/', "-")) }
}

/// The user of the packets, else the account, if it is a client's name.
fn client_name(options: &ClientOptions) -> ClientName {
    let names = [options.user.clone(), env::user_name(), Some("client".to_owned())];
    let mut names = names.into_iter().flatten().filter_map(|name| name.parse().ok());
    // The last one is always valid.
    names.next().unwrap_or_else(|| client_name(&ClientOptions::default()))
}

/// A name in a heading: in quotes only if TOML needs them.
fn table_name(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !name.is_empty() && name.bytes().all(is_bare) { name.to_owned() } else { quoted(name) }
}

/// A text in quotes. The escapes of JSON are also those of TOML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use spa_knock_fwknop::parse_client;

    use super::*;
    use crate::config::Profiles;
    use spa_knock_core::knock::{ActionName, SourceOption};

    fn translated(text: &str) -> Result<ProfileDraft, ClientError> {
        let file = parse_client(Path::new("rc"), text);
        let stanza = file.stanza("office").unwrap();
        let default = file.default_stanza();
        let options = match default {
            Some(default) => stanza.options.clone().or(&default.options),
            None => stanza.options.clone(),
        };
        ProfileDraft::new(stanza, default, &options)
    }

    #[test]
    fn a_stanza_becomes_a_profile() {
        for (lines, source, seconds, action, port) in [
            ("ACCESS tcp/22\nALLOW_IP resolve\n", "auto", None, Some("open-ssh"), None),
            ("ACCESS tcp/22\nALLOW_IP source\nFW_TIMEOUT 60\n", "observed", Some(60), Some("open-ssh"), None),
            (
                "ACCESS tcp/80\nALLOW_IP 192.0.2.7\nSPA_SERVER_PORT 4000\n",
                "192.0.2.7",
                None,
                None,
                Some(4000),
            ),
            ("ACCESS tcp/22\nNAT_ACCESS 10.0.0.1:22\nFW_TIMEOUT 0\n", "auto", None, None, None),
        ] {
            let text = format!("[office]\nSPA_SERVER Office.example.org\n{lines}");
            let profile = translated(&text).ok().unwrap().profile(Path::new("/k/\"q\".key"));
            let profiles = Profiles::parse(&profile);
            assert!(profiles.problems_except(&[]).is_empty(), "{profile}");
            let profile = profiles.of("office");
            assert_eq!(profile.address.as_deref(), Some("Office.example.org"));
            assert_eq!(profile.id.as_ref().map(ServerId::as_str), Some("office.example.org"));
            assert_eq!(profile.key.as_deref(), Some(Path::new("/k/\"q\".key")));
            assert_eq!(profile.source, source.parse::<SourceOption>().ok(), "{lines}");
            assert_eq!((profile.seconds, profile.port), (seconds, port), "{lines}");
            assert_eq!(profile.action.as_ref().map(ActionName::as_str), action, "{lines}");
        }
    }

    #[test]
    fn an_action_for_other_ports_is_proposed_in_a_comment() {
        for (access, line) in [
            ("tcp/8443", "# action = \"open-tcp-8443\"    # ACCESS tcp/8443: "),
            ("tcp/1,udp/2", "# action = \"…\" "),
        ] {
            let text = format!("[office]\nSPA_SERVER h\nACCESS {access}\n");
            let profile = translated(&text).ok().unwrap().profile(Path::new("/k"));
            assert!(profile.lines().any(|found| found.starts_with(line)), "{profile}");
        }
    }

    #[test]
    fn what_is_not_translated_is_reported_by_its_line() {
        let text = "[default]\nRESOLVE_IP_HTTPS Y\nRESOLVE_URL https://192.0.2.1\n[office]\nSPA_SERVER 192.0.2.1\nACCESS tcp/80\n\
                    KEY_BASE64 dGVzdA==\nHMAC_KEY_BASE64 dGVzdDI=\nUSE_HMAC Y\nSPA_SERVER_PROTO tcp\nUSE_GPG Y\n\
                    NAT_ACCESS 10.0.0.1:22\nTIME_OFFSET 5\nFW_TIMEOUT x\nVERBOSE Y\nFOO bar\nKEY=x\n";
        let remarks = translated(text).ok().unwrap().remarks;
        let expected = [
            "rc:6: ACCESS: not translated: the profile needs",
            "rc:7: KEY_BASE64: not translated: the profile has a new key",
            "rc:8: HMAC_KEY_BASE64: not translated: the profile has a new key",
            "rc:10: SPA_SERVER_PROTO: not translated: a knock is a UDP datagram",
            "rc:11: USE_GPG: GnuPG is not supported",
            "rc:12: NAT_ACCESS: not translated: the server's config sets the target",
            "rc:13: TIME_OFFSET: not translated: set the clock",
            "rc:14: FW_TIMEOUT: expected a number",
            "rc:15: VERBOSE: not translated: knock with -v",
            "rc:16: FOO: ignored: fwknop's client has no such variable",
            "rc:17: contains '='",
            "rc:3: RESOLVE_URL: not translated: the server itself reports",
        ];
        assert_eq!(remarks.len(), expected.len(), "{remarks:#?}");
        for (remark, expected) in remarks.iter().zip(expected) {
            assert!(remark.starts_with(expected), "{remark}");
        }
    }

    #[test]
    fn the_administrator_gets_a_command_that_fits_the_profile() {
        let text = "[office]\nSPA_SERVER h\nACCESS tcp/22\nALLOW_IP source\nSPOOF_USER alice\n";
        assert_eq!(
            translated(text).ok().unwrap().commands(Path::new("/k/office.key")),
            [
                "spa-knock derive --key /k/office.key --server-id h",
                "spa-knockd client add alice --allow open-ssh --source exact,observed --key alice.pair"
            ]
        );
        let failure = translated("[office]\nACCESS tcp/22\n").err().unwrap();
        assert_eq!(failure.reason(), "rc:1: stanza [office]: has no SPA_SERVER");
    }
}
