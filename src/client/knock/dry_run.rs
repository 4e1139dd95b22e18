//! `--dry-run`: prints what would be sent, field by field, but never a secret or a datagram.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::plan::Claim;
use super::request::KnockRequest;
use super::route::Route;
use super::{listed, named, previews};
use crate::client::agent::Signing;
use crate::client::failure::ClientError;
use crate::client::report::Reporter;
use crate::config::AddressChoice;
use crate::os::clock;
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::ReplyWanted;
use spa_knock_core::wire::{DATAGRAM_MAX, DATAGRAM_MIN};

/// What one knock would contain: the fields in JSON.
#[derive(Serialize)]
pub(in crate::client) struct DryRun<'a> {
    result: &'static str,
    server: &'a str,
    address: IpAddr,
    port: u16,
    server_id: &'a str,
    key: String,
    kind: &'static str,
    client: Option<&'a str>,
    fingerprint: String,
    action: &'a str,
    argument: &'a str,
    seconds: u32,
    otp: bool,
    /// The fingerprint of the SSH key that would sign the knock.
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_key: Option<String>,
    /// Whether the agent has that key.
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_key_in_agent: Option<bool>,
    /// The agent in words: that it has the key, or why it cannot sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_agent: Option<String>,
    policy: &'static str,
    addresses: Vec<String>,
    reply: bool,
    timestamp: String,
    length_min: usize,
    length_max: usize,
    /// The addresses that follow without a reply.
    #[serde(skip)]
    others: Vec<SocketAddr>,
}

/// Prints what the requested knock would contain.
pub(in crate::client) fn print(request: &KnockRequest, report: &Reporter) -> Result<(), ClientError> {
    let dry_runs = each(request)?;
    // In turn, so there is one.
    let Some(dry_run) = dry_runs.first() else { return Ok(()) };
    report.product(&format!("{}{NOTHING_SENT}", dry_run.text()), dry_run)
}

/// What the knock at each address of the server would contain, or what the first one would contain if they are tried in
/// turn.
pub(in crate::client) fn each(request: &KnockRequest) -> Result<Vec<DryRun<'_>>, ClientError> {
    let fingerprint = request.key.file.fingerprint(request.version(), &request.target.id);
    let mut knocks = previews(request, fingerprint)?;
    let others = match request.addresses {
        AddressChoice::First => knocks.split_off(1),
        AddressChoice::All => Vec::new(),
    };
    let others: Vec<_> = others.iter().map(|(route, _)| route.server).collect();
    let agent = request.signing.as_deref().map(Agent::of);
    let dry_run = |(route, claim): &(Route, Claim)| DryRun {
        others: others.clone(),
        ssh_key_in_agent: agent.as_ref().map(|agent| agent.has_key),
        ssh_agent: agent.as_ref().map(|agent| agent.text.clone()),
        ..DryRun::new(request, fingerprint, route, *claim)
    };
    Ok(knocks.iter().map(dry_run).collect())
}

/// What is known about the agent without a signature.
struct Agent {
    has_key: bool,
    text: String,
}

impl Agent {
    fn of(signing: &Signing) -> Self {
        match signing.open() {
            Ok(key) => {
                let kind = key.key().kind().short_name();
                Self { has_key: true, text: format!("{}: has the key ({kind})", signing.agent_name()) }
            }
            Err(failure) => Self { has_key: false, text: failure.reason().to_owned() },
        }
    }
}

impl<'a> DryRun<'a> {
    fn new(request: &'a KnockRequest, fingerprint: Fingerprint, route: &Route, claim: Claim) -> Self {
        Self {
            result: "dry-run",
            server: request.member.as_deref().unwrap_or(&request.server),
            address: route.server.ip(),
            port: route.server.port(),
            server_id: request.target.id.as_str(),
            key: request.key.origin.to_string(),
            kind: request.key.kind(),
            client: request.key.file.client.as_ref().map(|client| client.as_str()),
            fingerprint: fingerprint.to_string(),
            action: request.action.as_str(),
            argument: request.argument.as_str(),
            seconds: request.seconds,
            otp: request.otp.is_some(),
            ssh_key: request.signing.as_ref().map(|signing| signing.fingerprint().to_string()),
            ssh_key_in_agent: None,
            ssh_agent: None,
            policy: claim.policy.as_str(),
            addresses: named(claim),
            reply: request.reply == ReplyWanted::Yes,
            timestamp: clock::rfc3339(clock::wall()),
            length_min: DATAGRAM_MIN,
            length_max: DATAGRAM_MAX,
            others: Vec::new(),
        }
    }

    /// The fields as text.
    pub(in crate::client) fn text(&self) -> String {
        let or = |text: &str, none: &str| if text.is_empty() { none.to_owned() } else { text.to_owned() };
        let seconds =
            if self.seconds == 0 { "set by the action".to_owned() } else { self.seconds.to_string() };
        let mut text = String::new();
        for (name, value) in [
            ("server", self.server.to_owned()),
            ("address", format!("{} port {}{}", self.address, self.port, alternatives(&self.others))),
            ("server id", self.server_id.to_owned()),
            ("key", self.key.clone()),
            ("kind", self.kind.to_owned()),
            ("client", or(self.client.unwrap_or_default(), "not named")),
            ("fingerprint", self.fingerprint.clone()),
            ("action", self.action.to_owned()),
            ("argument", or(self.argument, "none")),
            ("seconds", seconds),
            ("password", if self.otp { "one-time" } else { "none" }.to_owned()),
            ("ssh key", self.ssh_key.clone().unwrap_or_default()),
            ("agent", self.ssh_agent.clone().unwrap_or_default()),
            ("policy", self.policy.to_owned()),
            ("addresses", or(&self.addresses.join(", "), "none")),
            ("reply", if self.reply { "requested" } else { "not requested" }.to_owned()),
            ("timestamp", self.timestamp.clone()),
            ("length", format!("{} to {} bytes", self.length_min, self.length_max)),
        ]
        .into_iter()
        .filter(|(name, value)| !matches!(*name, "ssh key" | "agent") || !value.is_empty())
        {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<12} {value}");
        }
        text
    }
}

/// The last line of the text.
pub(in crate::client) const NOTHING_SENT: &str = "nothing was sent\n";

fn alternatives(others: &[SocketAddr]) -> String {
    match others {
        [] => String::new(),
        others => format!("; without a reply also {}", listed(others)),
    }
}
