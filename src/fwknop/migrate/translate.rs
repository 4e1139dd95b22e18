//! Translates the stanzas of an `access.conf` into the text of a `spa-knockd.toml`: an action for each different right,
//! and a command for each client.

use std::collections::BTreeSet;
use std::time::Duration;

use super::actions::{PlannedAction, StanzaTranslation};
use super::clients::{ClientNames, is_time};
use crate::config::{KNOCK_PORT, quoted, written};
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

/// Translates the stanzas for the server `id`. `from` is the name of the file, for the heading.
pub(super) fn translate(
    stanzas: &[StanzaOutline],
    server: &ServerOutline,
    id: &ServerId,
    from: &str,
) -> FwknopTranslation {
    let mut remarks = Vec::new();
    let settings = settings(server, id, &mut remarks);
    let (mut actions, mut clients, mut names) = (Vec::new(), Vec::new(), ClientNames::default());
    for stanza in stanzas {
        let mut translation = StanzaTranslation::new(stanza);
        let plans = translation.actions();
        remarks.append(&mut translation.remarks);
        remarks.extend(remark_on_expiry(stanza));
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
         # Review this file and run `spa-knockd check` before you use it. The commands at its end create the clients.\n\n"
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
        "\n[firewall]\n\
         # As with fwknopd, your own firewall closes the ports. One rule of yours must accept the packets with the mark of a\n\
         # grant; `spa-knockd check` reports if it is missing. For forwarded ports, the chain FORWARD needs it, too:\n\
         #   iptables -I INPUT -m mark --mark 0x10000000/0x10000000 -j ACCEPT\n\
         mode = \"mark\"\n"
            .to_owned()
    } else {
        "\n[firewall]\nbackend = \"none\"                       # all actions only run commands\n".to_owned()
    }
}

fn section(action: &NamedAction) -> String {
    let places: Vec<String> = action.places.iter().map(shown).collect();
    format!("# {}\n[action.{}]\n{}", places.join(", "), action.name, action.plan.body)
}

fn remark_on_expiry(stanza: &StanzaOutline) -> Option<ConfigProblem> {
    let invalid = stanza.expires.is_some_and(|expiry| !is_time(expiry));
    let names = ["ACCESS_EXPIRE", "ACCESS_EXPIRE_EPOCH"];
    let name = names.into_iter().find(|name| stanza.has(name)).filter(|_| invalid)?;
    let reason = format!("{name}: not translated; there is no such time");
    Some(ConfigProblem { place: stanza.place_of(name).clone(), reason, hint: None })
}

/// A place on one line.
fn shown(place: &Place) -> String {
    place.to_string().chars().flat_map(char::escape_debug).collect()
}

fn is_interface(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._@:-".contains(&byte);
    (1..=15).contains(&name.len()) && name.bytes().all(is_allowed)
}
