//! Reads `[client.NAME]` tables, from the config or from `clients.d/NAME.toml`: a client's rules and key file.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

use super::document::{Document, TomlTable, TomlValue};
use super::problem::full_name;
use super::sections::{KEY_LIMIT, read_key_limit};
use super::{ClientEntry, PreviousKey, SigningEntry, SourceLocation};
use spa_knock_core::auth::{ClientRules, Touch};
use spa_knock_core::crypto::ssh::PublicKey;
use spa_knock_core::knock::{ActionName, AddressPolicy, ClientName, PrefixLengths};

const SOURCES: [(&str, AddressPolicy); 3] = [
    (AddressPolicy::Exact.as_str(), AddressPolicy::Exact),
    (AddressPolicy::Observed.as_str(), AddressPolicy::Observed),
    (AddressPolicy::Listed.as_str(), AddressPolicy::Listed),
];

const TOUCHES: [(&str, Touch); 2] =
    [(Touch::Present.as_str(), Touch::Present), (Touch::Pin.as_str(), Touch::Pin)];
const PUBLIC_KEY: &str = "public_key";

/// The allowed values of `grants`, the number of grants a client can hold. A kernel set has 65,536 elements.
pub(super) const GRANTS: RangeInclusive<u32> = 1..=32_768;
/// The default of `grants`.
const GRANTS_USUAL: u32 = 64;
/// Without `grants` in the config, a client can hold its largest action for this many addresses, for example while it
/// moves between networks.
const MOVES: u32 = 4;

/// The largest value of `uses`; TOML has no larger integer.
const USES_MAX: u64 = i64::MAX.unsigned_abs();

/// The parts of the config that clients refer to.
pub(super) struct ClientContext {
    pub(super) keys_dir: PathBuf,
    /// All actions, if known, with the number of grants that each one makes for one address.
    pub(super) actions: Option<BTreeMap<ActionName, u32>>,
    /// `server.grants`.
    pub(super) grants: Option<u32>,
}

impl ClientContext {
    /// The context if the main file could not be read.
    pub(super) fn unknown() -> Self {
        Self { keys_dir: PathBuf::new(), actions: None, grants: None }
    }
}

/// A client table; an invalid one has no entry, and its problems are reported.
pub(super) struct ReadClient {
    pub(super) name: ClientName,
    pub(super) place: SourceLocation,
    pub(super) entry: Option<ClientEntry>,
}

/// Reads a file of `clients.d`: one client with the name of the file.
pub(super) fn read_client_file(
    document: &Document<'_>,
    file: &Path,
    context: &ClientContext,
) -> Vec<ReadClient> {
    let mut root = document.root();
    let clients = root.table("client");
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if clients.is_empty() {
        clients.problem(
            "missing",
            Some(&format!("a file in clients.d must contain one table, [client.{name}]")),
        );
    }
    let read = read_clients(clients, file, context);
    for other in read.iter().filter(|client| client.name.as_str() != name) {
        let hint = format!("rename the file to {}.toml, or the table to [client.{name}]", other.name);
        document.report(
            &other.place,
            format!("{}: does not match the file name", full_name("client", other.name.as_str())),
            Some(hint),
        );
    }
    root.finish();
    read
}

/// The reserved client name of grants from the console.
pub const CONSOLE: &str = "console";

/// Reads all clients of a table.
pub(super) fn read_clients(table: TomlTable<'_>, file: &Path, context: &ClientContext) -> Vec<ReadClient> {
    let mut clients = Vec::new();
    for (name, value) in table.entries() {
        let entry = value.table().and_then(|table| read_client(table, file, context));
        match name.parse::<ClientName>() {
            Ok(name) if name.as_str() == CONSOLE => value.problem(
                "name is reserved for grants from the console (spa-knockd let-in)",
                Some("choose another name for this client"),
            ),
            Ok(name) => clients.push(ReadClient { name, place: value.place(), entry }),
            Err(error) => value.problem(error, None),
        }
    }
    clients
}

fn read_client(mut table: TomlTable<'_>, file: &Path, context: &ClientContext) -> Option<ClientEntry> {
    let key = table.require("key", "add key = \"NAME.key\" (its key file in keys_dir)");
    let allow = table.require("allow", "add allow = [\"ACTION\"] (the actions that it can request)");
    let [source, rate, expires, previous, grant_prefix, uses, otp, key_limit, grants] =
        ["source", "rate", "expires", "previous", "grant-prefix", "uses", "otp", KEY_LIMIT, "grants"]
            .map(|key| table.take(key));
    let signing = read_signing(&mut table);
    let key = key.and_then(|value| read_key(&value, &context.keys_dir));
    let otp = otp.and_then(|value| read_key(&value, &context.keys_dir));
    let is_signed = !matches!(signing, Some(None));
    let previous = previous.and_then(|value| read_previous(value.table()?, is_signed, &context.keys_dir));
    let allowed = allow.as_ref().and_then(|value| read_allow(value, context.actions.as_ref()));
    let sources = match source {
        Some(value) => read_sources(&value),
        None => Some(BTreeSet::from([AddressPolicy::Exact, AddressPolicy::Observed])),
    };
    let (allowed, sources) = (allowed.unwrap_or_default(), sources.unwrap_or_default());
    let grants =
        read_grants(grants.as_ref(), allow.as_ref(), largest_action(&allowed, &sources, context), context);
    let rules = ClientRules {
        allow: allowed,
        sources,
        grants,
        grant_prefix: grant_prefix.and_then(|value| read_lengths(&value)).unwrap_or(PrefixLengths::SINGLE),
        rate: rate.and_then(|value| value.parsed()),
        expires: expires.and_then(|value| value.instant()),
        uses: uses.and_then(|value| value.integer(1..=USES_MAX)),
        key_limit: key_limit.and_then(|value| read_key_limit(&value)),
    };
    table.finish();
    Some(ClientEntry { key: key?, otp, defined_in: file.to_owned(), previous, signing: signing?, rules })
}

/// The largest number of grants that one knock of such a client makes, and the action that makes them.
fn largest_action<'a>(
    allowed: &'a BTreeSet<ActionName>,
    sources: &BTreeSet<AddressPolicy>,
    context: &ClientContext,
) -> Option<(u32, &'a ActionName)> {
    // A listed knock can contain one address per IP version.
    let addresses = if sources.contains(&AddressPolicy::Listed) { 2 } else { 1 };
    let actions = context.actions.as_ref()?;
    let of_action = |name| Some((actions.get(name)?.saturating_mul(addresses), name));
    allowed.iter().filter_map(of_action).max_by_key(|(accesses, _)| *accesses)
}

/// The number of grants that a client can hold: the configured number, else the default, or more if an action needs
/// more.
fn read_grants(
    own: Option<&TomlValue<'_>>,
    allow: Option<&TomlValue<'_>>,
    most: Option<(u32, &ActionName)>,
    context: &ClientContext,
) -> u32 {
    let written = match own {
        Some(value) => value.integer(GRANTS),
        None => context.grants,
    };
    let largest = most.map_or(0, |(accesses, _)| accesses);
    let Some(limit) = written else {
        return GRANTS_USUAL.max(largest.saturating_mul(MOVES)).min(*GRANTS.end());
    };
    if let (Some(value), Some((accesses, action))) = (own.or(allow), most.filter(|(most, _)| *most > limit)) {
        value.problem(
            format_args!(
                "action {action} opens {accesses} ports or ranges in one knock, but `grants` is {limit}"
            ),
            Some("increase `grants`, or write neighboring ports as one range, e.g. tcp/8000-8099"),
        );
    }
    limit
}

fn read_key(value: &TomlValue<'_>, keys_dir: &Path) -> Option<PathBuf> {
    let path = Path::new(value.text()?);
    if path.file_name().is_none() || path.components().any(|part| part == Component::ParentDir) {
        value.problem(
            "not a key file name",
            Some("name a file in keys_dir or an absolute path, without '..'"),
        );
        return None;
    }
    Some(keys_dir.join(path))
}

/// Reads `"/24"`, or a list of one length per IP version.
fn read_lengths(value: &TomlValue<'_>) -> Option<PrefixLengths> {
    let mut lengths = PrefixLengths::SINGLE;
    for item in value.one_or_more()? {
        match lengths.with(item.text()?) {
            Ok(more) => lengths = more,
            Err(error) => {
                item.problem(error, None);
                return None;
            }
        }
    }
    Some(lengths)
}

/// Reads the SSH key that must sign the client's knocks. The outer `None` is a problem, which is reported.
fn read_signing(table: &mut TomlTable<'_>) -> Option<Option<SigningEntry>> {
    let (public_key, touch) = (table.take(PUBLIC_KEY), table.take("touch"));
    let chosen = touch.as_ref().and_then(|value| value.choice(&TOUCHES));
    let Some(public_key) = public_key else {
        if let Some(value) = touch {
            value.problem(
                "without a public_key, nothing is signed",
                Some("add public_key, or remove `touch`"),
            );
        }
        return Some(None);
    };
    // Without a valid key there is no client, so that it is never one of version 1 by mistake.
    let public_key: PublicKey = public_key.parsed()?;
    if let Some(value) = touch.filter(|_| !public_key.kind().is_fido()) {
        value.problem(
            format_args!("not for a key of kind {}", public_key.kind().algorithm()),
            Some("remove it; only FIDO keys (sk-…) state that someone is present"),
        );
    }
    Some(Some(SigningEntry { public_key, touch: chosen.unwrap_or_default() }))
}

/// Reads the `previous` table, which `client rotate` writes.
fn read_previous(mut table: TomlTable<'_>, is_signed: bool, keys_dir: &Path) -> Option<PreviousKey> {
    let key = table.require("key", "add key = \"NAME.key\" (the replaced key file)");
    let until = table.require("until", "add until = 2027-01-31T12:00:00Z (when it stops being valid)");
    let key = key.and_then(|value| read_key(&value, keys_dir));
    let until = until.and_then(|value| value.instant());
    let public_key = table.take(PUBLIC_KEY);
    if let Some(value) = public_key.as_ref().filter(|_| !is_signed) {
        value.problem(
            "the client itself has no public_key, so its previous key needs none",
            Some("remove it, or add public_key to the client"),
        );
    }
    let public_key = public_key.map(|value| value.parsed());
    table.finish();
    Some(PreviousKey {
        key: key?,
        until: until?,
        public_key: public_key.map_or(Some(None), |key| key.map(Some))?,
    })
}

fn read_allow(
    value: &TomlValue<'_>,
    known: Option<&BTreeMap<ActionName, u32>>,
) -> Option<BTreeSet<ActionName>> {
    let mut allow = BTreeSet::new();
    for item in value.list()? {
        let Some(name) = item.parsed::<ActionName>() else { continue };
        if let Some(known) = known.filter(|known| !known.contains_key(&name)) {
            let names: Vec<_> = known.keys().map(ActionName::as_str).collect();
            let hint = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            item.problem(format_args!("no such action: {name}"), Some(&format!("defined actions: {hint}")));
        }
        allow.insert(name);
    }
    Some(allow)
}

fn read_sources(value: &TomlValue<'_>) -> Option<BTreeSet<AddressPolicy>> {
    Some(value.list()?.iter().filter_map(|item| item.choice(&SOURCES)).collect())
}
