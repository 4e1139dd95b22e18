//! `spa-knockd client …`: a client is its key file in `keys_dir` and its `clients.d/NAME.toml`. The latter makes
//! it count, so it comes last and goes first.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::cli::{AddClient, KeyForm};
use super::console::{Failure, complain, print, table, tell};
use super::keys::{LoadedClient, load_clients, load_keys, pair_for};
use super::{qr, reload, rotation, state};
use crate::config::{self, CLIENTS_FOLDER, ClientEntry, Instant, KNOCK_PORT, ServerConfig, full_name};
use crate::crypto::{Holder, KeyFile, OtpSeed, PairSecret, Secret};
use crate::knock::{ClientName, Timestamp};
use crate::os::clock;
use crate::os::files::{self, Mode};

/// Adds a client, whole or not at all.
///
/// # Errors
/// When the config or the key is bad, the name is taken, an action unknown, or something cannot be written.
pub(super) fn add(path: &Path, add: &AddClient) -> Result<(), Failure> {
    let expires = add.expires.as_deref().map(expiry).transpose()?;
    let config = config::load(path)?;
    check_new(&config, add)?;
    let files = ClientFiles::of(path, &config, &add.name);
    let otp = add.otp.then(|| OtpSeed::generate(add.otp_hash, add.otp_digits)).transpose();
    let otp = otp.map_err(Failure::run)?;
    let made = [Some(&files.key), Some(&files.definition), otp.as_ref().map(|_| &files.otp)];
    if let Some(file) = made.into_iter().flatten().find(|file| files::exists(file)) {
        return Err(Failure::run(format_args!(
            "client {}: {} is left from an earlier one\nhint: remove it, or choose another name",
            add.name,
            file.display()
        )));
    }
    let key = pair_key(&config, &add.name, add.key.as_deref())?;
    let handed_over = handed_over(&key, &add.form)?;
    // An earlier client of this name that was removed by hand.
    state::forget_uses(&config.state_dir, &add.name).map_err(Failure::run)?;

    let mut created = Created::default();
    for folder in [files.key.parent(), files.definition.parent()].into_iter().flatten() {
        files::create_folder(folder, Mode::Private)?;
    }
    created.file(&files.key, key.to_text().as_bytes())?;
    if let Some(otp) = &otp {
        created.file(&files.otp, otp.to_text().as_bytes())?;
    }
    if let Some(output) = &add.output {
        created.file(output, handed_over.as_bytes())?;
    }
    created.file(&files.definition, definition(add, expires).as_bytes())?;
    let prints_key = add.output.is_none() && add.key.is_none();
    if prints_key {
        print(&handed_over)?;
    }
    if let Some(otp) = &otp {
        show_otp(otp, &config, &add.name, prints_key)?;
    }
    created.keep();
    say_added(add);
    reload::tell_daemon(&config, &format!("client {}", add.name))
}

/// Prints a table of all clients.
///
/// # Errors
/// When the config is bad or a key cannot be used; what can be shown is printed nevertheless.
pub(super) fn list(path: &Path) -> Result<(), Failure> {
    let config = config::load(path)?;
    let mut rows = vec![["NAME", "ALLOW", "EXPIRES", "FINGERPRINT"].map(str::to_owned)];
    for (name, entry) in &config.clients {
        let fingerprint = load_keys(&config, name, &entry.key)
            .map_or_else(|_| "-".to_owned(), |keys| keys.fingerprint.to_string());
        rows.push([name.to_string(), comma(&entry.rules.allow), expires_text(entry), fingerprint]);
    }
    print(&table(&rows))?;
    load_clients(&config)?;
    Ok(())
}

/// Prints everything about a client but its secret.
///
/// # Errors
/// When the config or the key is bad, or there is no such client.
pub(super) fn show(path: &Path, name: &ClientName) -> Result<(), Failure> {
    let config = config::load(path)?;
    let entry = find(&config, name)?;
    let keys = load_keys(&config, name, &entry.key);
    let fingerprint = keys.as_ref().map_or_else(|_| "-".to_owned(), |keys| keys.fingerprint.to_string());
    let rate = entry.rules.rate.map_or_else(|| "unlimited".to_owned(), |rate| rate.to_string());
    let mut lines = vec![
        ("name", name.to_string()),
        ("server", config.id.to_string()),
        ("allow", comma(&entry.rules.allow)),
        ("source", comma(&entry.rules.sources)),
        ("rate", rate),
        ("expires", expires_text(entry)),
        ("uses", uses_text(&config, name, entry)),
        ("one-time passwords", otp_text(entry)),
        ("key", entry.key.display().to_string()),
        ("fingerprint", fingerprint),
        ("defined", config.places.of(&["client", name.as_str()]).to_string()),
    ];
    if let Some(previous) = &entry.previous {
        lines.push(("previous key", rotation::previous_text(&config, name, previous)));
    }
    print(&lines.iter().map(|(label, value)| format!("{label}: {value}\n")).collect::<String>())?;
    match keys {
        Ok(_) => Ok(()),
        Err(problem) => Err(Failure::key(problem)),
    }
}

/// Removes a client that `add` made.
///
/// # Errors
/// When the config is bad, there is no such client, it is defined in the config itself, or a file stays.
pub(super) fn revoke(path: &Path, name: &ClientName) -> Result<(), Failure> {
    let config = config::load(path)?;
    let entry = find(&config, name)?;
    check_own_file(path, &config, name, entry, "remove")?;
    files::remove(&entry.defined_in)?;
    tell(format_args!("client {name}: revoked"));
    let previous = entry.previous.iter().map(|previous| &previous.key);
    let removed =
        remove_keys(&config, name, std::iter::once(&entry.key).chain(previous).chain(entry.otp.as_ref()));
    // Before anything else that failed: it must not knock any more.
    reload::tell_daemon(&config, &format!("client {name}"))?;
    state::forget_uses(&config.state_dir, name).map_err(Failure::run)?;
    removed
}

/// Removes the key files of a client that is gone or has other ones, unless somebody else may need them.
///
/// # Errors
/// When one of them is still there; the others are gone.
pub(super) fn remove_keys<'k>(
    config: &ServerConfig,
    name: &ClientName,
    keys: impl Iterator<Item = &'k PathBuf>,
) -> Result<(), Failure> {
    keys.map(|key| remove_key(config, name, key)).fold(Ok(()), Result::and)
}

fn remove_key(config: &ServerConfig, name: &ClientName, key: &Path) -> Result<(), Failure> {
    let names = |client: &ClientEntry| client.key == key || client.otp.as_deref() == Some(key);
    let shared = config.clients.iter().any(|(other, client)| other != name && names(client));
    if shared || !key.starts_with(&config.keys_dir) {
        tell(format_args!("left alone: its key file {}", key.display()));
        return Ok(());
    }
    match files::remove(key) {
        Err(error) if !error.missing => {
            complain(format_args!("key file {error}"));
            Err(Failure::run(format_args!(
                "client {name}: its key file is still there\nhint: rm {}",
                key.display()
            )))
        }
        _ => Ok(()),
    }
}

/// Whether a client is defined in a file of its own, which commands may change.
pub(super) fn check_own_file(
    path: &Path,
    config: &ServerConfig,
    name: &ClientName,
    entry: &ClientEntry,
    change: &str,
) -> Result<(), Failure> {
    if entry.defined_in != path {
        return Ok(());
    }
    Err(Failure::run(format_args!(
        "client {name}: defined in the config itself, which commands do not change\n\
         hint: {change} [{}] at {}, then reload the daemon",
        full_name("client", name.as_str()),
        config.places.of(&["client", name.as_str()])
    )))
}

/// The files that make a client.
struct ClientFiles {
    key: PathBuf,
    otp: PathBuf,
    definition: PathBuf,
}

impl ClientFiles {
    fn of(path: &Path, config: &ServerConfig, name: &ClientName) -> Self {
        Self {
            key: config.keys_dir.join(format!("{name}.key")),
            otp: config.keys_dir.join(format!("{name}.otp")),
            definition: path.with_file_name(CLIENTS_FOLDER).join(format!("{name}.toml")),
        }
    }
}

/// Files that go again unless they are kept.
#[derive(Default)]
pub(super) struct Created(Vec<PathBuf>);

impl Created {
    pub(super) fn file(&mut self, path: &Path, content: &[u8]) -> Result<(), Failure> {
        files::create_new(path, Mode::Private, content)?;
        self.0.push(path.to_owned());
        Ok(())
    }

    pub(super) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        // The last one first: the definition must not outlive its key.
        for path in self.0.iter().rev() {
            if let Err(error) = files::remove(path) {
                complain(format_args!("{error}\nhint: remove it by hand"));
            }
        }
    }
}

fn check_new(config: &ServerConfig, add: &AddClient) -> Result<(), Failure> {
    let name = &add.name;
    if config.clients.contains_key(name) {
        return Err(Failure::run(format_args!(
            "client {name}: there is one already, at {}\nhint: choose another name, or first: spa-knockd client revoke {name}",
            config.places.of(&["client", name.as_str()])
        )));
    }
    if let Some(unknown) = add.allow.iter().find(|action| !config.actions.contains_key(action)) {
        let known = comma(config.actions.keys());
        let hint = if known.is_empty() { "the config has no action yet".to_owned() } else { known };
        return Err(Failure::run(format_args!(
            "client {name}: no action is called {unknown}\nhint: defined actions: {hint}"
        )));
    }
    Ok(())
}

/// A new key, or the derived one that was given.
pub(super) fn pair_key(
    config: &ServerConfig,
    name: &ClientName,
    given: Option<&Path>,
) -> Result<KeyFile, Failure> {
    let secret = match given {
        None => PairSecret::new(Secret::generate().map_err(Failure::run)?),
        Some(path) => given_secret(config, path)?,
    };
    let port = Some(config.port).filter(|&port| port != KNOCK_PORT);
    let holder = Holder::Pair { server: config.id.clone(), secret };
    Ok(KeyFile { client: Some(name.clone()), holder, address: None, port })
}

fn given_secret(config: &ServerConfig, path: &Path) -> Result<PairSecret, Failure> {
    let stdin = path == Path::new("-");
    let shown = if stdin { "standard input".to_owned() } else { format!("key file {}", path.display()) };
    let text = if stdin { files::read_secret_from_stdin() } else { files::read_secret(path) };
    let text = text.map_err(Failure::key)?;
    let key = KeyFile::parse(&text).map_err(|error| Failure::key(format_args!("{shown}: {error}")))?;
    let secret = pair_for(&key, &config.id)
        .map_err(|(reason, hint)| Failure::key(format_args!("{shown}: {reason}\nhint: {hint}")))?;
    let fingerprint = secret.keys(&config.id).fingerprint;
    let has_it = |client: &LoadedClient| client.key_sets().any(|keys| keys.fingerprint == fingerprint);
    let owner = load_clients(config)?.into_iter().find(has_it);
    if let Some(owner) = owner {
        return Err(Failure::key(format_args!(
            "{shown}: the same secret as that of client {}\nhint: each client needs a secret of its own",
            owner.name
        )));
    }
    Ok(secret.clone())
}

/// A key as its owner takes it: its file's text, or one line, perhaps as a picture.
pub(super) fn handed_over(key: &KeyFile, form: &KeyForm) -> Result<Zeroizing<String>, Failure> {
    if !form.token && !form.qr {
        return Ok(key.to_text());
    }
    // A pair key always has one; a picture takes fifteen times what a token can be.
    let token = key.to_token().ok_or_else(|| Failure::run("a root key has no token"))?;
    if form.qr {
        return qr::drawn(&token).ok_or_else(|| Failure::run("the token is too long for a QR code"));
    }
    let mut line = Zeroizing::new(String::with_capacity(token.len().saturating_add(1)));
    line.push_str(&token);
    line.push('\n');
    Ok(line)
}

/// What an app reads. Where the key itself goes to standard output, which may be a file, this goes to the terminal.
fn show_otp(
    otp: &OtpSeed,
    config: &ServerConfig,
    name: &ClientName,
    beside_key: bool,
) -> Result<(), Failure> {
    let uri = otp.uri(&config.id, name);
    let picture = qr::drawn(&uri).unwrap_or_default();
    let mut text =
        Zeroizing::new(String::with_capacity(picture.len().saturating_add(uri.len()).saturating_add(2)));
    for part in [picture.as_str(), &uri, "\n"] {
        text.push_str(part);
    }
    if !beside_key {
        return print(&text);
    }
    tell(text.trim_end_matches('\n'));
    Ok(())
}

/// What `--expires` says.
fn expiry(text: &str) -> Result<Timestamp, Failure> {
    let now = clock::wall();
    let time = match text.parse::<Instant>() {
        Ok(Instant(time)) => time,
        Err(form) => humantime::parse_duration(text).map(|span| now.plus(span)).map_err(|_| {
            Failure::usage(format_args!("--expires: not a time\nhint: {form}, or 90d from now"))
        })?,
    };
    if time <= now {
        return Err(Failure::usage(format_args!("--expires: {} is over", day_or_time(time))));
    }
    Ok(time)
}

/// A time to the second, as TOML and people write it; a day's first moment is the day.
pub(super) fn day_or_time(time: Timestamp) -> String {
    let text = clock::rfc3339(time);
    let seconds = text.split('.').next().unwrap_or(&text);
    seconds.strip_suffix("T00:00:00").map_or_else(|| format!("{seconds}Z"), str::to_owned)
}

fn definition(add: &AddClient, expires: Option<Timestamp>) -> String {
    let allow: BTreeSet<_> = add.allow.iter().collect();
    let quoted: Vec<String> = allow.iter().map(|action| format!("\"{action}\"")).collect();
    let table = full_name("client", add.name.as_str());
    let mut text = format!(
        "# Made by `spa-knockd client add`; `spa-knockd client revoke {}` removes it.\n\
         [{table}]\nkey = \"{}.key\"\nallow = [{}]\n",
        add.name,
        add.name,
        quoted.join(", ")
    );
    let lines = [
        expires.map(|expires| format!("expires = {}", day_or_time(expires))),
        add.uses.map(|uses| format!("uses = {uses}")),
        add.otp.then(|| format!("otp = \"{}.otp\"", add.name)),
    ];
    for line in lines.into_iter().flatten() {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn say_added(add: &AddClient) {
    let name = &add.name;
    let allow: BTreeSet<_> = add.allow.iter().collect();
    tell(format_args!("client {name}: added, may do {}", comma(&allow)));
    let hand_over = "hand it over on a way that nobody else can read, and keep no copy";
    match &add.output {
        Some(file) => tell(format_args!(
            "its key is in {}: {hand_over}\nit knocks with: spa-knock --key FILE SERVER {}",
            file.display(),
            allow.first().map_or("ACTION", |action| action.as_str()),
        )),
        None if add.key.is_none() => tell(format_args!("its key is what was printed: {hand_over}")),
        None => {}
    }
}

pub(super) fn find<'a>(config: &'a ServerConfig, name: &ClientName) -> Result<&'a ClientEntry, Failure> {
    config.clients.get(name).ok_or_else(|| {
        let known = comma(config.clients.keys());
        let hint =
            if known.is_empty() { "there are no clients".to_owned() } else { format!("clients: {known}") };
        Failure::run(format_args!("client {name}: there is none of this name\nhint: {hint}"))
    })
}

fn expires_text(entry: &ClientEntry) -> String {
    match entry.rules.expires {
        None => "never".to_owned(),
        Some(time) if time <= clock::wall() => format!("{} (over)", day_or_time(time)),
        Some(time) => day_or_time(time),
    }
}

fn uses_text(config: &ServerConfig, name: &ClientName, entry: &ClientEntry) -> String {
    let Some(uses) = entry.rules.uses else { return "unlimited".to_owned() };
    match state::uses(&config.state_dir) {
        Ok(counts) => {
            let used = counts.of(name);
            format!("{used} of {uses} used, {} left", uses.saturating_sub(used))
        }
        Err(error) => format!("of {uses}: {error}"),
    }
}

fn otp_text(entry: &ClientEntry) -> String {
    entry
        .otp
        .as_ref()
        .map_or_else(|| "not needed".to_owned(), |file| format!("needed, from {}", file.display()))
}

fn comma(items: impl IntoIterator<Item: ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}
