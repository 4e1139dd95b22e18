//! Translates the stanzas of an `access.conf` into the text of a `spa-knockd.toml`: an action for each different right,
//! and a command for each client.

use std::collections::BTreeSet;
use std::time::Duration;

use super::actions::{PlannedAction, StanzaTranslation};
use super::clients::{ClientEnd, ClientNames};
use crate::config::{KNOCK_PORT, quoted, written};
use crate::console::own_command;
use spa_knock_core::knock::{ActionName, ServerId};
use spa_knock_fwknop::{ConfigProblem, Place, ServerOutline, StanzaOutline};

/// The largest `window` of a config.
const WINDOW_MAX: Duration = Duration::from_secs(600);

/// The generated config and the remarks about it.
#[derive(Debug)]
pub(super) struct FwknopTranslation {
    /// The text of a `spa-knockd.toml`.
    pub(super) text: String,
    /// What was left out or has changed.
    pub(super) remarks: Vec<ConfigProblem>,
    /// The actions that clients can be allowed.
    pub(super) actions: Vec<ActionName>,
}

/// An action, and the stanzas that it is for.
struct NamedAction {
    name: ActionName,
    plan: PlannedAction,
    places: Vec<Place>,
}

/// Translates the stanzas for the server `id`. `from` is the name of the file, for the heading, and `now` the time in
/// seconds since 1970.
pub(super) fn translate(
    stanzas: &[StanzaOutline],
    server: &ServerOutline,
    id: &ServerId,
    from: &str,
    now: u64,
) -> FwknopTranslation {
    let mut remarks = Vec::new();
    let settings = settings(server, id, &mut remarks);
    let (mut actions, mut clients, mut names) = (Vec::new(), Vec::new(), ClientNames::default());
    for stanza in stanzas {
        let end = stanza.expires.map(|expiry| ClientEnd::of(expiry, now));
        remarks.extend(end.and_then(|end| remark_on_end(stanza, end)));
        if matches!(end, Some(ClientEnd::Over | ClientEnd::Invalid)) {
            continue;
        }
        let mut translation = StanzaTranslation::new(stanza);
        let plans = translation.actions();
        remarks.append(&mut translation.remarks);
        let allowed: Vec<ActionName> =
            plans.into_iter().filter_map(|plan| add(&mut actions, plan, &stanza.place)).collect();
        if !allowed.is_empty() {
            clients.push(format!("# {}\n#   {}\n", shown(&stanza.place), names.command(stanza, &allowed)));
        }
    }
    let mut sections = vec![format!("{}{settings}{}", head(from), firewall(&actions))];
    sections.extend(actions.iter().map(section));
    sections.push(format!("# The clients, each with a new key:\n{}", clients.concat()));
    let actions = actions.into_iter().map(|action| action.name).collect();
    FwknopTranslation { text: sections.join("\n"), remarks, actions }
}

/// Adds an action, unless there is one like it. Returns its name.
fn add(actions: &mut Vec<NamedAction>, plan: PlannedAction, place: &Place) -> Option<ActionName> {
    if let Some(same) = actions.iter_mut().find(|action| action.plan.body == plan.body) {
        if same.places.last() != Some(place) {
            same.places.push(place.clone());
        }
        return Some(same.name.clone());
    }
    let used: BTreeSet<&ActionName> = actions.iter().map(|action| &action.name).collect();
    let numbered = (2..).map(|number: u32| format!("{}-{number}", plan.stem));
    let names = std::iter::once(plan.stem.clone()).chain(numbered);
    let name = names.map_while(|name| name.parse::<ActionName>().ok()).find(|name| !used.contains(name))?;
    actions.push(NamedAction { name: name.clone(), plan, places: vec![place.clone()] });
    Some(name)
}

fn head(from: &str) -> String {
    let from: String = from.chars().flat_map(char::escape_debug).collect();
    format!(
        "# The rights of {from} as actions, which need a knock of spa-knock instead of a packet of fwknop.\n\
         # Review this file and run `{}` before you use it. The commands at its end create the clients.\n\n",
        own_command("check")
    )
}

/// The section `[server]`.
fn settings(server: &ServerOutline, id: &ServerId, remarks: &mut Vec<ConfigProblem>) -> String {
    let mut remark = |names: &[&str], text: &str| {
        let name = names.first().copied().unwrap_or_default();
        let place = server.place_of(names).clone();
        remarks.push(ConfigProblem { place, reason: format!("{name}: {text}"), hint: None });
    };
    let mut text = format!("[server]\nid = {}\n", quoted(id.as_str()));
    let settings = &server.settings;
    match &settings.interface {
        Some(name) if is_interface(name) => text.push_str(&format!("interfaces = [{}]\n", quoted(name))),
        Some(_) => remark(&["PCAP_INTF"], "not translated; not the name of an interface"),
        None => {}
    }
    if settings.udp_server {
        text.push_str("capture = \"udp\"\n");
    }
    match settings.ports.udp.as_ref().map(|ports| (*ports.start(), *ports.end())) {
        Some((KNOCK_PORT, KNOCK_PORT)) => {}
        Some((first, last)) if first == last => text.push_str(&format!("port = {first}\n")),
        Some(_) => remark(&["PCAP_FILTER"], "not translated; knocks are sent to one port"),
        None => remark(&["PCAP_FILTER"], "not translated; knocks are datagrams of UDP"),
    }
    match settings.age_max.map(|seconds| Duration::from_secs(seconds.into())) {
        Some(age) if age <= WINDOW_MAX => text.push_str(&format!("window = {}\n", quoted(&written(age)))),
        Some(_) => {
            let limit = written(WINDOW_MAX);
            remark(&["MAX_SPA_PACKET_AGE"], &format!("changed to {limit}, the maximum"));
            text.push_str(&format!("window = {}\n", quoted(&limit)));
        }
        None => {
            let limit = written(WINDOW_MAX);
            remark(
                &["ENABLE_SPA_PACKET_AGING"],
                &format!("not translated; a knock is accepted for {limit} at most"),
            );
            text.push_str(&format!("window = {}\n", quoted(&limit)));
        }
    }
    if settings.tcp_server.is_some() {
        remark(&["ENABLE_TCP_SERVER"], "not translated; knocks are datagrams of UDP");
    }
    if settings.http {
        remark(&["ENABLE_SPA_OVER_HTTP"], "not translated; knocks are datagrams of UDP");
    }
    if settings.forwarding {
        let names = ["ENABLE_IPT_FORWARDING", "ENABLE_FIREWD_FORWARDING"];
        remark(
            &names,
            "clients cannot name the target of a connection; add an action with `forward` for each target",
        );
    }
    if settings.local_nat {
        let names = ["ENABLE_IPT_LOCAL_NAT", "ENABLE_FIREWD_LOCAL_NAT"];
        remark(&names, "clients cannot name another port; add an action with `forward` for each port");
    }
    if settings.snat.is_some() {
        let names = ["ENABLE_IPT_SNAT", "ENABLE_FIREWD_SNAT"];
        remark(&names, "not translated; the target sees the client's address");
    }
    text
}

/// The section `[firewall]`.
fn firewall(actions: &[NamedAction]) -> String {
    if actions.iter().any(|action| action.plan.opens) {
        format!(
            "\n[firewall]\n\
         # As with fwknopd, your own firewall closes the ports. One rule of yours must accept the packets with the mark of a\n\
         # grant; `{}` reports if it is missing. For forwarded ports, the chain FORWARD needs it, too:\n\
         #   iptables -I INPUT -m mark --mark 0x10000000/0x10000000 -j ACCEPT\n\
         mode = \"mark\"\n",
            own_command("check")
        )
    } else {
        "\n[firewall]\nbackend = \"none\"                       # all actions only run commands\n".to_owned()
    }
}

fn section(action: &NamedAction) -> String {
    let places: Vec<String> = action.places.iter().map(shown).collect();
    format!("# {}\n[action.{}]\n{}", places.join(", "), action.name, action.plan.body)
}

fn remark_on_end(stanza: &StanzaOutline, end: ClientEnd) -> Option<ConfigProblem> {
    let text = match end {
        ClientEnd::Ahead => return None,
        ClientEnd::Over => "left out: the stanza has expired",
        ClientEnd::Invalid => "left out: there is no such time",
    };
    let names = ["ACCESS_EXPIRE", "ACCESS_EXPIRE_EPOCH"];
    let name = names.into_iter().find(|name| stanza.has(name))?;
    let place = stanza.place_of(name).clone();
    Some(ConfigProblem { place, reason: format!("{name}: {text}"), hint: None })
}

/// A place on one line.
fn shown(place: &Place) -> String {
    place.to_string().chars().flat_map(char::escape_debug).collect()
}

fn is_interface(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._@:-".contains(&byte);
    (1..=15).contains(&name.len()) && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use spa_knock_fwknop::{ConfigFiles, outline_access, outline_server};
    use zeroize::Zeroizing;

    use super::*;
    use crate::config::{ConfigText, ServerConfig, read};

    /// One `access.conf`.
    struct OneFile<'a>(&'a str);

    impl ConfigFiles for OneFile<'_> {
        fn read(&mut self, _: &Path) -> Result<Zeroizing<String>, String> {
            Ok(Zeroizing::new(self.0.to_owned()))
        }

        fn list(&mut self, _: &Path) -> Result<Vec<PathBuf>, String> {
            Ok(Vec::new())
        }
    }

    /// The translation, all problems and remarks, and the config if there is an action.
    fn translated(access: &str, settings: &str) -> (String, Vec<String>, Option<ServerConfig>) {
        let server = outline_server(Path::new("f"), settings);
        let outline = outline_access(Path::new("a"), &server.settings, &mut OneFile(access));
        let translation =
            translate(&outline.stanzas, &server, &"bastion".parse().unwrap(), "a", 1_800_000_000);
        let problems = server.problems.into_iter().chain(outline.problems).chain(translation.remarks);
        let problems = problems.map(|problem| format!("{}: {}", problem.place, problem.reason)).collect();
        let source = ConfigText {
            file: PathBuf::from("/etc/spa-knock/spa-knockd.toml"),
            text: translation.text.clone(),
        };
        let load = || read(&source, &[]).unwrap_or_else(|errors| panic!("{errors}\n{}", source.text));
        let config = (!translation.actions.is_empty()).then(load);
        (translation.text, problems, config)
    }

    /// The bodies of the actions that a stanza becomes, and the problems and remarks.
    fn actions(stanza: &str, settings: &str) -> (String, Vec<String>) {
        let (text, problems, _) = translated(&format!("SOURCE ANY\n{stanza}\n"), settings);
        let sections = text.split("# a:1\n").filter(|section| section.starts_with("[action"));
        (
            sections
                .map(|section| section.split("\n#").next().unwrap().trim_end().to_owned() + "\n")
                .collect(),
            problems,
        )
    }

    #[test]
    fn equal_rights_become_one_action_and_each_stanza_a_client() {
        let (text, problems, config) = translated(
            "SOURCE ANY\nOPEN_PORTS tcp/22\nREQUIRE_USERNAME alice\nREQUIRE_SOURCE_ADDRESS Y\nKEY __CHANGEME__\n\
             SOURCE ANY\nOPEN_PORTS tcp/22\nREQUIRE_USERNAME bob\nACCESS_EXPIRE_EPOCH 1900000000\n\
             SOURCE ANY\nOPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 60\nMAX_FW_TIMEOUT 60\n",
            "PCAP_INTF eth1;\nENABLE_UDP_SERVER Y;\nUDPSERV_PORT 50000;\nMAX_SPA_PACKET_AGE 60;\n",
        );
        assert_eq!(
            text,
            "# The rights of a as actions, which need a knock of spa-knock instead of a packet of fwknop.\n\
             # Review this file and run `spa-knockd check` before you use it. The commands at its end create the clients.\n\n\
             [server]\nid = \"bastion\"\ninterfaces = [\"eth1\"]\ncapture = \"udp\"\nport = 50000\nwindow = \"1m\"\n\n\
             [firewall]\n\
             # As with fwknopd, your own firewall closes the ports. One rule of yours must accept the packets with the mark of a\n\
             # grant; `spa-knockd check` reports if it is missing. For forwarded ports, the chain FORWARD needs it, too:\n\
             #   iptables -I INPUT -m mark --mark 0x10000000/0x10000000 -j ACCEPT\n\
             mode = \"mark\"\n\n\
             # a:1, a:6\n[action.open-tcp-22]\nopen = [\"tcp/22\"]\nfor = \"30s\"\nmax = \"5m\"\n\n\
             # a:10\n[action.open-tcp-22-2]\nopen = [\"tcp/22\"]\nfor = \"1m\"\n\n\
             # The clients, each with a new key:\n\
             # a:1\n#   spa-knockd client add alice --allow open-tcp-22 -o alice.key\n\
             # a:6\n#   spa-knockd client add bob --allow open-tcp-22 --source exact,observed --expires 2030-03-17T17:46:40+00:00 -o bob.key\n\
             # a:10\n#   spa-knockd client add client --allow open-tcp-22-2 --source exact,observed -o client.key\n"
        );
        assert_eq!(problems, [""; 0]);
        assert_eq!(config.unwrap().actions.len(), 2);
    }

    #[test]
    fn an_action_has_the_rights_of_its_stanza() {
        const LIMITED: &str = "commands had no time limit; each is now killed after 1h (see `timeout`)";
        const TERM: &str = "for = \"30s\"\nmax = \"5m\"\n";
        const NAT: &str = "ENABLE_IPT_FORWARDING Y;";
        const NAMED: &str = "f:1: ENABLE_IPT_FORWARDING: clients cannot name the target of a connection; add an action \
                             with `forward` for each target";
        for (stanza, settings, body, problems) in [
            (
                "OPEN_PORTS tcp/22,udp/53,tcp/22\nRESTRICT_PORTS udp/53",
                "",
                format!("[action.open-tcp-22]\nopen = [\"tcp/22\"]\n{TERM}"),
                vec![],
            ),
            (
                "OPEN_PORTS tcp/993, tcp/22",
                "",
                format!("[action.open-port]\nopen = \"argument\"\nallow-ports = [\"tcp/22\", \"tcp/993\"]\n{TERM}"),
                vec!["a:2: OPEN_PORTS: the client names one of the ports with each knock".to_owned()],
            ),
            (
                "RESTRICT_PORTS tcp/1,tcp/25,udp/65535",
                "",
                format!(
                    "[action.open-port]\nopen = \"argument\"\n\
                     allow-ports = [\"tcp/2-24\", \"tcp/26-65535\", \"udp/1-65534\"]\n{TERM}"
                ),
                vec![],
            ),
            (
                "OPEN_PORTS tcp/22\nRESTRICT_PORTS tcp/22",
                "",
                String::new(),
                vec!["a:3: RESTRICT_PORTS: left out: no port remains".to_owned()],
            ),
            (
                "OPEN_PORTS tcp/22\nDESTINATION 10.0.0.1\nENABLE_CMD_EXEC Y\nFW_ACCESS_TIMEOUT 900",
                "",
                "[action.open-tcp-22]\nopen = [\"tcp/22\"]\nfor = \"5m\"\n".to_owned(),
                vec![
                    "a:5: FW_ACCESS_TIMEOUT: is above MAX_FW_TIMEOUT, which limits it to 300 s".to_owned(),
                    "a:3: DESTINATION: not translated; a knock can be sent to any address of this host".to_owned(),
                    "a:4: ENABLE_CMD_EXEC: clients cannot send commands; add an action with `run` for each command"
                        .to_owned(),
                ],
            ),
            (
                "OPEN_PORTS tcp/8022,tcp/8023\nFORCE_NAT 10.0.0.5 22\nFORCE_MASQUERADE Y",
                NAT,
                format!(
                    "[action.forward-tcp-8022]\nforward = {{ from = \"tcp/8022\", to = \"10.0.0.5:22\" }}\n{TERM}\
                     [action.forward-tcp-8023]\nforward = {{ from = \"tcp/8023\", to = \"10.0.0.5:22\" }}\n{TERM}"
                ),
                vec![
                    NAMED.to_owned(),
                    "a:4: FORCE_MASQUERADE: not translated; the target sees the client's address".to_owned(),
                ],
            ),
            (
                "FORCE_NAT 10.0.0.5 22",
                NAT,
                String::new(),
                vec![
                    NAMED.to_owned(),
                    "a:2: FORCE_NAT: left out: an action forwards single ports; list them in OPEN_PORTS and migrate again"
                        .to_owned(),
                ],
            ),
            (
                "OPEN_PORTS tcp/22\nFORCE_NAT 127.0.0.1 22",
                NAT,
                String::new(),
                vec![NAMED.to_owned(), "a:3: FORCE_NAT: left out: the target is not another host".to_owned()],
            ),
            (
                "CMD_CYCLE_OPEN /bin/a \"$IP\" {x}\nCMD_CYCLE_CLOSE b $CLIENT_TIMEOUT\nCMD_CYCLE_TIMER 900",
                "",
                "[action.run]\nrun = [\"/bin/a\", \"\\\"{address}\\\"\", \"{{x}}\"]\ntimeout = \"1h\"\n\
                 undo = [\"/usr/bin/env\", \"b\", \"{seconds}\"]\nfor = \"15m\"\n"
                    .to_owned(),
                vec![format!("a:2: CMD_CYCLE_OPEN: {LIMITED}")],
            ),
            (
                "OPEN_PORTS udp/53\nCMD_CYCLE_OPEN /bin/a $PROTO/$PORT\nCMD_CYCLE_CLOSE NONE",
                "",
                "[action.run-udp-53]\nrun = [\"/bin/a\", \"17/53\"]\ntimeout = \"1h\"\n".to_owned(),
                vec![format!("a:3: CMD_CYCLE_OPEN: {LIMITED}")],
            ),
            (
                "CMD_CYCLE_OPEN /bin/a $PORT\nCMD_CYCLE_CLOSE NONE",
                "",
                String::new(),
                vec![
                    "a:2: CMD_CYCLE_OPEN: left out: it contains $PORT or $PROTO; list the ports in OPEN_PORTS and migrate again"
                        .to_owned(),
                ],
            ),
            (
                "CMD_CYCLE_OPEN /bin/a\nCMD_CYCLE_CLOSE /bin/b $TIMEOUT\nCMD_CYCLE_TIMER 5",
                "",
                String::new(),
                vec![
                    "a:3: CMD_CYCLE_CLOSE: left out: $TIMEOUT has no equivalent; $CLIENT_TIMEOUT is the time in seconds"
                        .to_owned(),
                ],
            ),
            (
                "OPEN_PORTS tcp/22\nACCESS_EXPIRE_EPOCH 1799999999",
                "",
                String::new(),
                vec!["a:3: ACCESS_EXPIRE_EPOCH: left out: the stanza has expired".to_owned()],
            ),
            (
                "OPEN_PORTS tcp/22\nACCESS_EXPIRE 02/31/2030",
                "",
                String::new(),
                vec!["a:3: ACCESS_EXPIRE: left out: there is no such time".to_owned()],
            ),
            (
                "OPEN_PORTS any/1",
                "",
                String::new(),
                vec![
                    "a:1: stanza: left out, because one of its lines is invalid".to_owned(),
                    "a:2: OPEN_PORTS: any/1: not a port".to_owned(),
                ],
            ),
            (
                "OPEN_PORTS tcp/22",
                "ENABLE_SPA_PACKET_AGING N;\nPCAP_FILTER tcp port 80;\nENABLE_SPA_OVER_HTTP Y;\nPCAP_INTF a b;",
                format!("[action.open-tcp-22]\nopen = [\"tcp/22\"]\n{TERM}"),
                vec![
                    "f:4: PCAP_INTF: not translated; not the name of an interface".to_owned(),
                    "f:2: PCAP_FILTER: not translated; knocks are datagrams of UDP".to_owned(),
                    "f:1: ENABLE_SPA_PACKET_AGING: not translated; a knock is accepted for 10m at most".to_owned(),
                    "f:3: ENABLE_SPA_OVER_HTTP: not translated; knocks are datagrams of UDP".to_owned(),
                ],
            ),
        ] {
            assert_eq!(actions(stanza, settings), (body, problems), "{stanza}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_translation_of_any_config_loads(
            lines in proptest::collection::vec(
                proptest::prop_oneof![
                    "SOURCE (ANY|10\\.0\\.0\\.0/8)",
                    "(OPEN|RESTRICT)_PORTS (tcp|udp)/[1-9][0-9]{0,3}(, (tcp|udp)/[1-9][0-9]{0,3}){0,3}",
                    "(FW_ACCESS|MAX_FW)_TIMEOUT [1-9][0-9]{0,6}",
                    "REQUIRE_USERNAME [a-zA-Z0-9 ._\"\\\\-]{1,40}",
                    "CMD_CYCLE_(OPEN|CLOSE) (/bin/)?[a-zäIP{}$'\"\\\\ #*]{1,20}[$]?(IP|PORT|CLIENT_TIMEOUT|DST|)",
                    "CMD_CYCLE_CLOSE NONE", "CMD_CYCLE_TIMER [1-9][0-9]{0,6}",
                    "FORCE_NAT (10|127)\\.0\\.0\\.1 [1-9][0-9]{0,3}", "(FORWARD_ALL|DISABLE_DNAT|FORCE_MASQUERADE) Y",
                    "ACCESS_EXPIRE [01]?[0-9]/[0-3]?[0-9]/(20|99)[0-9]{2}", "ACCESS_EXPIRE_EPOCH [0-9]{1,19}",
                ], 0..16),
            settings in proptest::collection::vec(
                proptest::prop_oneof![
                    "PCAP_INTF [a-z0-9/ \"]{1,20}", "MAX_SPA_PACKET_AGE [1-9][0-9]{0,4}", "UDPSERV_PORT [1-9][0-9]{0,3}",
                    "ENABLE_(UDP_SERVER|SPA_PACKET_AGING|IPT_FORWARDING) [YN]", "PCAP_FILTER udp port [1-9][0-9]{0,3}",
                ], 0..6))
        {
            translated(&format!("SOURCE ANY\n{}", lines.join("\n")), &settings.join(";\n"));
        }
    }
}
