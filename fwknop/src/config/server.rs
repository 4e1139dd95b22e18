//! `fwknopd.conf`: where packets come from, and what applies to all stanzas.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::includes::ConfigFiles;
use super::lines::lines;
use super::ports::PacketPorts;
use super::problem::{ConfigProblem, Place};
use super::values::{self, Invalid};

/// The longest time that fwknop can accept packets after they were made, in seconds.
const AGE_MAX: u32 = 100_000;
const AGE: u32 = 120;
const PORT: u16 = 62_201;

/// Settings that apply to all stanzas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// The interface; none for the default.
    pub interface: Option<String>,
    /// Where packets arrive.
    pub ports: PacketPorts,
    /// Whether packets come by a socket, not by capture.
    pub udp_server: bool,
    /// The port on which connections are accepted whose first segment is a packet.
    pub tcp_server: Option<u16>,
    /// Whether requests of HTTP contain packets.
    pub http: bool,
    /// Whether requests of any user agent do, not only those of fwknop.
    pub any_user_agent: bool,
    /// Whether the header `X-Forwarded-For` names the source of a request.
    pub forwarded_for: bool,
    /// How far a packet's time may be from the server's, in seconds; none if it is not checked.
    pub age_max: Option<u32>,
    /// Whether packets may ask to be forwarded to other hosts.
    pub forwarding: bool,
    /// Whether packets may ask for another port of this host.
    pub local_nat: bool,
    /// The source address of forwarded connections: an address, or (none) the one of the interface.
    pub snat: Option<Option<Ipv4Addr>>,
    /// Whether fwknopd would look up host names in packets. They are always refused here.
    pub resolves_names: bool,
    /// `access.conf`.
    pub access: PathBuf,
    /// More files with stanzas.
    pub access_folder: Option<PathBuf>,
    /// The directory of the process id file.
    pub run_directory: PathBuf,
    /// The program that runs commands for other users.
    pub sudo: PathBuf,
    /// The identity in the system log.
    pub identity: String,
}

impl Default for ServerSettings {
    /// The settings of an empty file.
    fn default() -> Self {
        let whole = Place { file: PathBuf::new(), line: 0 };
        read_server(&whole, "").0
    }
}

/// What a variable is for.
enum Meaning {
    Used,
    /// Has no effect here, because what it is for is done in another way.
    Replaced(&'static str),
    /// Asks for something that this server does not have; refused unless the value means no.
    Unsupported(&'static str),
    Unknown,
}

/// Parses a `fwknopd.conf`; also returns what has no effect in it.
///
/// # Errors
/// All problems because of which the file cannot be used.
pub fn parse_server(
    path: &Path,
    files: &mut dyn ConfigFiles,
) -> Result<(ServerSettings, Vec<ConfigProblem>), Vec<ConfigProblem>> {
    let whole = Place { file: path.to_owned(), line: 0 };
    let text = files.read(path).map_err(|reason| vec![ConfigProblem::new(&whole, reason)])?;
    let (settings, problems, notices) = read_server(&whole, &text);
    if problems.is_empty() { Ok((settings, notices)) } else { Err(problems) }
}

/// The settings of a `fwknopd.conf`, for its translation into another config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOutline {
    /// The settings; what cannot be followed has its default.
    pub settings: ServerSettings,
    /// The problems because of which [`parse_server`] would refuse the file.
    pub problems: Vec<ConfigProblem>,
    whole: Place,
    places: HashMap<String, Place>,
}

/// Reads the settings of the text of a `fwknopd.conf`, also if some of them cannot be followed.
#[must_use]
pub fn outline_server(path: &Path, text: &str) -> ServerOutline {
    let whole = Place { file: path.to_owned(), line: 0 };
    let (settings, problems, _) = read_server(&whole, text);
    let places = lines(text)
        .map(|line| (line.name.to_owned(), Place { line: line.number, ..whole.clone() }))
        .collect();
    ServerOutline { settings, problems, whole, places }
}

impl ServerOutline {
    /// The line of the first of these variables that the file has, or else the file.
    #[must_use]
    pub fn place_of(&self, names: &[&str]) -> &Place {
        names.iter().find_map(|name| self.places.get(*name)).unwrap_or(&self.whole)
    }
}

/// The settings, the problems and the notices.
fn read_server(whole: &Place, text: &str) -> (ServerSettings, Vec<ConfigProblem>, Vec<ConfigProblem>) {
    let (mut problems, mut notices) = (Vec::new(), Vec::new());
    let mut variables: HashMap<String, (String, Place)> = HashMap::new();
    for line in lines(text) {
        let place = Place { line: line.number, ..whole.clone() };
        let Some(value) = line.value else {
            problems.push(ConfigProblem::new(&place, format!("{}: has no value", line.name)));
            continue;
        };
        let value = match expand(value.trim_end(), &variables) {
            Ok(value) => value,
            Err(invalid) => {
                problems.push(invalid.at(&place, line.name));
                continue;
            }
        };
        match meaning(line.name) {
            Meaning::Used => {}
            Meaning::Replaced(reason) => {
                notices.push(ConfigProblem::new(&place, format!("{}: has no effect: {reason}", line.name)));
            }
            Meaning::Unsupported(reason) if values::yes(&value) == Ok(false) => {
                notices.push(ConfigProblem::new(&place, format!("{}: has no effect: {reason}", line.name)));
            }
            Meaning::Unsupported(reason) => {
                problems.push(ConfigProblem::new(&place, format!("{}: {reason}", line.name)));
            }
            Meaning::Unknown => {
                notices.push(ConfigProblem::new(
                    &place,
                    format!("{}: ignored: fwknop has no such variable", line.name),
                ));
            }
        }
        variables.insert(line.name.to_owned(), (value, place));
    }
    let mut values = ServerVariables { variables: &variables, problems: &mut problems, whole };
    let settings = values.settings();
    if let Some((_, place)) = variables.get("ENABLE_NAT_DNS").filter(|_| settings.resolves_names) {
        notices.push(
            ConfigProblem::new(
                place,
                "ENABLE_NAT_DNS: has no effect: host names in packets are not looked up",
            )
            .hint("send the IPv4 address with `fwknop -N`, or set FORCE_NAT in the stanza"),
        );
    }
    (settings, problems, notices)
}

fn meaning(name: &str) -> Meaning {
    match name {
        "PCAP_INTF"
        | "PCAP_FILTER"
        | "ENABLE_UDP_SERVER"
        | "UDPSERV_PORT"
        | "ENABLE_TCP_SERVER"
        | "TCPSERV_PORT"
        | "ENABLE_SPA_OVER_HTTP"
        | "ALLOW_ANY_USER_AGENT"
        | "ENABLE_X_FORWARDED_FOR"
        | "ENABLE_SPA_PACKET_AGING"
        | "MAX_SPA_PACKET_AGE"
        | "ENABLE_IPT_FORWARDING"
        | "ENABLE_IPT_LOCAL_NAT"
        | "ENABLE_IPT_SNAT"
        | "ENABLE_FIREWD_FORWARDING"
        | "ENABLE_FIREWD_LOCAL_NAT"
        | "ENABLE_FIREWD_SNAT"
        | "SNAT_TRANSLATE_IP"
        | "ENABLE_NAT_DNS"
        | "FWKNOP_RUN_DIR"
        | "FWKNOP_CONF_DIR"
        | "ACCESS_FILE"
        | "ACCESS_FOLDER"
        | "SUDO_EXE"
        | "SYSLOG_IDENTITY" => Meaning::Used,
        "ENABLE_DIGEST_PERSISTENCE" | "DIGEST_FILE" | "DIGEST_DB_FILE" => {
            Meaning::Replaced("accepted packets are always remembered, in the state directory")
        }
        "VERBOSE" | "LOCALE" | "SYSLOG_FACILITY" => Meaning::Replaced("the log has one form"),
        "ENABLE_PCAP_PROMISC"
        | "ENABLE_PCAP_ANY_DIRECTION"
        | "PCAP_DISPATCH_COUNT"
        | "PCAP_LOOP_SLEEP"
        | "MAX_SNIFF_BYTES"
        | "UDPSERV_SELECT_TIMEOUT"
        | "EXIT_AT_INTF_DOWN" => {
            Meaning::Replaced("packets are captured as they arrive, and an interface may go and come back")
        }
        "RULES_CHECK_THRESHOLD" => Meaning::Replaced("the kernel ends each grant"),
        "ENABLE_RULE_PREPEND" | "ENABLE_DESTINATION_RULE" | "FIREWALL_EXE" | "FWKNOP_PID_FILE" => {
            Meaning::Replaced("the firewall has a table of its own")
        }
        "GPG_HOME_DIR" | "GPG_EXE" => Meaning::Replaced("GnuPG is not supported"),
        "ENABLE_IPT_OUTPUT" | "ENABLE_FIREWD_OUTPUT" => Meaning::Unsupported(
            "rules for outgoing packets are not supported: accept established connections there",
        ),
        "ENABLE_NFQ_CAPTURE" => {
            Meaning::Unsupported("capturing by NFQUEUE is not supported: remove the line")
        }
        "PCAP_FILE" => Meaning::Unsupported("is read by `spa-knockd explain`"),
        "ENABLE_EXTERNAL_CMDS" => Meaning::Unsupported("fwknopd has never supported it: use CMD_CYCLE_OPEN"),
        "CMD_EXEC_TIMEOUT" => Meaning::Replaced("commands have a time limit of their own"),
        _ if name.starts_with("EXTERNAL_CMD")
            || name.starts_with("ENABLE_EXT_")
            || name == "EXT_CMD_PREFIX" =>
        {
            Meaning::Replaced("fwknopd has never supported it")
        }
        _ if name.starts_with("NFQ_") => Meaning::Replaced("capturing by NFQUEUE is not supported"),
        _ if name.starts_with("IPFW_") || name.starts_with("FLUSH_IPFW") => {
            Meaning::Replaced("it is for ipfw")
        }
        _ if name.starts_with("PF_") => Meaning::Replaced("it is for pf"),
        _ if name.starts_with("FLUSH_") || name.starts_with("IPT_") || name.starts_with("FIREWD_") => {
            Meaning::Replaced("the firewall has a table of its own")
        }
        "ENABLE_IPT_COMMENT_CHECK" | "ENABLE_FIREWD_COMMENT_CHECK" => {
            Meaning::Replaced("the firewall has a table of its own")
        }
        _ => Meaning::Unknown,
    }
}

/// Whether only a `fwknopd.conf` has this variable.
pub(super) fn is_only_in_server(name: &str) -> bool {
    !name.starts_with("GPG_") && !matches!(meaning(name), Meaning::Unknown)
}

/// Replaces `$NAME` by the value that NAME has above this line, or by its default.
fn expand(value: &str, variables: &HashMap<String, (String, Place)>) -> Result<String, Invalid> {
    let mut parts = value.split('$');
    let mut expanded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
        let (name, rest) = part.split_at(end);
        let value = match (variables.get(name), name) {
            (Some((value, _)), _) => value.as_str(),
            (None, "FWKNOP_RUN_DIR") => RUN_DIRECTORY,
            (None, "FWKNOP_CONF_DIR") => CONF_DIRECTORY,
            _ => return Err(Invalid::new(format!("${name} has no value above this line"))),
        };
        expanded.push_str(value);
        expanded.push_str(rest);
    }
    Ok(expanded)
}

const RUN_DIRECTORY: &str = "/run/fwknop";
const CONF_DIRECTORY: &str = "/etc/fwknop";

/// Reads variables; a problem leads to a default, and is reported.
struct ServerVariables<'a> {
    variables: &'a HashMap<String, (String, Place)>,
    problems: &'a mut Vec<ConfigProblem>,
    whole: &'a Place,
}

impl ServerVariables<'_> {
    fn get<T>(&mut self, name: &str, default: T, parse: impl Fn(&str) -> Result<T, Invalid>) -> T {
        let Some((value, place)) = self.variables.get(name) else { return default };
        match parse(value) {
            Ok(value) => value,
            Err(invalid) => {
                self.problems.push(invalid.at(place, name));
                default
            }
        }
    }

    fn yes(&mut self, names: &[&str]) -> bool {
        let mut any = false;
        for name in names {
            any |= self.get(name, false, values::yes);
        }
        any
    }

    fn settings(&mut self) -> ServerSettings {
        let http = self.yes(&["ENABLE_SPA_OVER_HTTP"]);
        let udp_server = self.yes(&["ENABLE_UDP_SERVER"]);
        let filtered = self.get("PCAP_FILTER", PacketPorts::udp(PORT), PacketPorts::parse);
        let udp_port = self.get("UDPSERV_PORT", PORT, values::port_number);
        let directory = self.get("FWKNOP_CONF_DIR", CONF_DIRECTORY.to_owned(), values::text);
        let access = self.get("ACCESS_FILE", "access.conf".to_owned(), values::text);
        let age = self.get("MAX_SPA_PACKET_AGE", AGE, |value| values::number(value, 1, AGE_MAX));
        let tcp_port = self.get("TCPSERV_PORT", PORT, values::port_number);
        let snat_to = self.get("SNAT_TRANSLATE_IP", None, |value| match value {
            "__CHANGEME__" => Ok(None),
            value => value.parse().map(Some).map_err(|_| Invalid::new("expected an IPv4 address")),
        });
        let settings = ServerSettings {
            interface: self.get("PCAP_INTF", None, |value| Ok(Some(value.to_owned()))),
            ports: if udp_server { PacketPorts::udp(udp_port) } else { filtered },
            udp_server,
            tcp_server: self.yes(&["ENABLE_TCP_SERVER"]).then_some(tcp_port),
            http,
            any_user_agent: self.yes(&["ALLOW_ANY_USER_AGENT"]),
            forwarded_for: self.yes(&["ENABLE_X_FORWARDED_FOR"]),
            age_max: self.get("ENABLE_SPA_PACKET_AGING", true, values::yes).then_some(age),
            forwarding: self.yes(&["ENABLE_IPT_FORWARDING", "ENABLE_FIREWD_FORWARDING"]),
            local_nat: self.yes(&["ENABLE_IPT_LOCAL_NAT", "ENABLE_FIREWD_LOCAL_NAT"]),
            snat: self.yes(&["ENABLE_IPT_SNAT", "ENABLE_FIREWD_SNAT"]).then_some(snat_to),
            resolves_names: self.get("ENABLE_NAT_DNS", true, values::yes),
            access: Path::new(&directory).join(access),
            access_folder: self.get("ACCESS_FOLDER", None, |value| Ok(Some(value.into()))),
            run_directory: self.get("FWKNOP_RUN_DIR", RUN_DIRECTORY.into(), |value| Ok(value.into())),
            sudo: self.get("SUDO_EXE", "/usr/bin/sudo".into(), |value| Ok(value.into())),
            identity: self.get("SYSLOG_IDENTITY", "fwknopd".to_owned(), values::text),
        };
        if http && settings.ports.tcp.is_none() {
            let place = self.variables.get("ENABLE_SPA_OVER_HTTP").map_or(self.whole, |(_, place)| place);
            self.problems.push(
                ConfigProblem::new(place, "ENABLE_SPA_OVER_HTTP: PCAP_FILTER has no TCP port")
                    .hint("set PCAP_FILTER to, for example, tcp port 80"),
            );
        }
        settings
    }
}
