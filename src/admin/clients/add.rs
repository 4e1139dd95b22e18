//! `spa-knockd client add`: one client, or one for each SSH key of a user. Adds all of them or none.

use std::collections::BTreeSet;
use std::path::Path;

use zeroize::Zeroizing;

use super::client_files::{ClientFiles, CreatedFiles};
use super::definition::definition;
use super::enrollment::{Enrollment, enrollment_of, enrollments_of};
use super::fleet_clients::{FleetClient, FleetClients, is_member};
use super::key_output::{PresentSecret, check_stdin, pair_key, readmit, render, show_otp};
use super::ssh_keys::{read_public_key, shown, signing_text, signing_with};
use super::{HAND_OVER, day_or_time, expiry, joined};
use crate::admin::args::AddClient;
use crate::admin::notify;
use crate::config::{self, ServerConfig};
use crate::console::{AdminError, notice, own_command, print};
use crate::gate::console_grants::is_console;
use crate::os::files::{self, FileMode};
use crate::state;
use spa_knock_core::auth::ActionPart;
use spa_knock_core::crypto::{KeyFile, OtpSeed};
use spa_knock_core::knock::{ActionName, ClientName};

/// What to do with several keys of one user.
const HAND_OVER_EACH: &str =
    "give each to the device that has its SSH key so that no one else can read it, and keep no copy";

/// A new client, complete but not written.
struct NewClient {
    enrollment: Enrollment,
    files: ClientFiles,
    otp: Option<OtpSeed>,
    key: KeyFile,
    /// The key as its owner gets it.
    handed_over: Zeroizing<String>,
}

impl NewClient {
    /// The client as the fleet gets it.
    fn for_fleet(&self, add: &AddClient) -> FleetClient<'_> {
        let Enrollment { name, signing, expires } = &self.enrollment;
        FleetClient {
            name,
            definition: definition(add, name, signing.as_ref(), *expires),
            key: &self.key,
            otp: self.otp.as_ref(),
            is_counted: add.uses.is_some(),
        }
    }
}

/// Adds clients, completely or not at all.
///
/// # Errors
/// When the config or a key is invalid, a name is in use, an action is unknown, or something cannot be written.
pub(crate) fn add(path: &Path, add: &AddClient) -> Result<(), AdminError> {
    let expires = add.expires.as_deref().map(expiry).transpose()?;
    check_stdin(add.key.as_deref(), add.ssh_key.as_deref())?;
    let config = config::load(path)?;
    let fleet = FleetClients::if_asked(&config, add.fleet)?;
    check_counted(&config, add)?;
    let signing = match &add.ssh_key {
        Some(file) => Some(signing_with(read_public_key(file)?, add.touch)?),
        None => None,
    };
    let enrollments = match &add.ssh_keys_of {
        Some(user) => enrollments_of(&config, add, user, expires)?,
        None => enrollment_of(&config, add, signing, expires)?.into_iter().collect(),
    };
    if enrollments.is_empty() {
        return Ok(());
    }
    if let (Some(_), Some(user), true) = (&add.output, &add.ssh_keys_of, enrollments.len() > 1) {
        let which = if add.if_missing { "keys without a client" } else { "keys that can sign knocks" };
        return Err(AdminError::usage(format_args!(
            "--output: for one key, but user {user} has {} {which}\nhint: leave it out to print the keys; --token prints one in each line",
            enrollments.len()
        )));
    }
    let clients =
        enrollments.into_iter().map(|enrollment| prepare(path, &config, add, fleet.as_ref(), enrollment));
    let clients: Vec<NewClient> = clients.collect::<Result<_, _>>()?;
    for client in &clients {
        if fleet.is_none() {
            readmit(&config, &client.key)?;
        }
        // An earlier client of this name may have been removed by hand.
        state::forget_uses(&config.state_dir, &client.enrollment.name).map_err(AdminError::run)?;
    }

    let created = create_files(add, fleet.as_ref(), &clients)?;
    let prints_key = add.output.is_none() && add.key.is_none();
    for (index, client) in clients.iter().enumerate() {
        if prints_key {
            print_key(add, client, index, clients.len())?;
        }
        if let Some(otp) = &client.otp {
            show_otp(otp, &config, &client.enrollment.name, prints_key)?;
        }
    }
    // Last, so that a key that no one received never becomes valid.
    if let Some(fleet) = &fleet {
        fleet.add(clients.iter().map(|client| client.for_fleet(add)).collect())?;
    }
    created.persist();
    print_added(&config, add, &clients);
    let names: Vec<_> = clients.iter().map(|client| &client.enrollment.name).collect();
    if let Some(fleet) = &fleet {
        fleet.wait_for(&config, &names);
        return Ok(());
    }
    let subject = if names.len() > 1 { "clients" } else { "client" };
    notify::request_reload(&config, &format!("{subject} {}", joined(names)))
}

/// Checks that a client can be added, and makes its key.
fn prepare(
    path: &Path,
    config: &ServerConfig,
    add: &AddClient,
    fleet: Option<&FleetClients>,
    enrollment: Enrollment,
) -> Result<NewClient, AdminError> {
    let name = &enrollment.name;
    check_new(config, add, name)?;
    let files = match fleet {
        Some(fleet) => fleet.files_of(name),
        None => ClientFiles::of(path, config, name),
    };
    let otp = add.otp.then(|| OtpSeed::generate(add.otp_hash, add.otp_digits)).transpose();
    let otp = otp.map_err(AdminError::run)?;
    let new_files = [Some(&files.key), Some(&files.definition), otp.as_ref().map(|_| &files.otp)];
    // Those of the fleet are the daemon's: it replaces them.
    let new_files = if fleet.is_some() { [None; 3] } else { new_files };
    if let Some(file) = new_files.into_iter().flatten().find(|file| files::exists(file)) {
        return Err(AdminError::run(format_args!(
            "client {name}: {} remains from an earlier client of this name\nhint: remove the file, or choose another name",
            file.display()
        )));
    }
    let signer = enrollment.signing.as_ref().map(|signing| &signing.public_key);
    let mut key = pair_key(config, name, add.key.as_deref(), signer, PresentSecret::Refused)?;
    if let (Some(fleet), Some(_)) = (fleet, &add.key) {
        fleet.check_not_revoked(&key)?;
    }
    if let Some(address) = &add.address {
        key.address = Some(address.clone());
    }
    let handed_over = render(&key, &add.form)?;
    Ok(NewClient { files, otp, key, handed_over, enrollment })
}

/// Creates all files; the definitions, which make the clients valid, are the last ones.
fn create_files(
    add: &AddClient,
    fleet: Option<&FleetClients>,
    clients: &[NewClient],
) -> Result<CreatedFiles, AdminError> {
    let mut created = CreatedFiles::default();
    if fleet.is_some() {
        for (client, output) in clients.iter().zip(&add.output) {
            created.file(output, client.handed_over.as_bytes())?;
        }
        return Ok(created);
    }
    for client in clients {
        let files = &client.files;
        for folder in [files.key.parent(), files.definition.parent()].into_iter().flatten() {
            files::create_folder(folder, FileMode::Private)?;
        }
        created.file(&files.key, client.key.to_text().as_bytes())?;
        if let Some(otp) = &client.otp {
            created.file(&files.otp, otp.to_text().as_bytes())?;
        }
        if let Some(output) = &add.output {
            created.file(output, client.handed_over.as_bytes())?;
        }
    }
    for client in clients {
        let Enrollment { name, signing, expires } = &client.enrollment;
        let text = definition(add, name, signing.as_ref(), *expires);
        created.file(&client.files.definition, text.as_bytes())?;
    }
    Ok(created)
}

/// Prints a key to standard output; of several keys, each is introduced on standard error.
fn print_key(add: &AddClient, client: &NewClient, index: usize, count: usize) -> Result<(), AdminError> {
    if count > 1 {
        let Enrollment { name, signing, .. } = &client.enrollment;
        let key = signing.as_ref().map(|signing| format!(", for {}", shown(&signing.public_key)));
        if index > 0 && !add.form.token {
            print("\n")?;
        }
        notice(format_args!("client {name}{}:", key.unwrap_or_default()));
    }
    print(&client.handed_over)
}

/// The store counts uses and codes only for clients of the fleet.
fn check_counted(config: &ServerConfig, add: &AddClient) -> Result<(), AdminError> {
    if add.fleet || !(add.otp || add.uses.is_some()) || !is_member(config) {
        return Ok(());
    }
    Err(AdminError::usage(
        "--otp and --uses: the fleet's store does not count for a client that only this server has\nhint: add --fleet",
    ))
}

fn check_new(config: &ServerConfig, add: &AddClient, name: &ClientName) -> Result<(), AdminError> {
    if is_console(name) || (config.legacy.is_some() && config::is_legacy_client(name)) {
        return Err(AdminError::run(format_args!(
            "client {name}: name is reserved for grants without a client\nhint: choose another name"
        )));
    }
    if config.clients.contains_key(name) {
        return Err(AdminError::run(format_args!(
            "client {name}: exists already, defined in {}\nhint: to replace its key: {}; to add another client, choose another name",
            config.places.of(&["client", name.as_str()]),
            own_command(&format!("client rotate {name}"))
        )));
    }
    if let Some(unknown) = add.allow.iter().find(|action| !config.actions.contains_key(action)) {
        let known = joined(config.actions.keys());
        let hint = if known.is_empty() {
            "define an action in the config".to_owned()
        } else {
            format!("defined actions: {known}")
        };
        return Err(AdminError::run(format_args!("client {name}: no such action: {unknown}\nhint: {hint}")));
    }
    Ok(())
}

/// The action for an example: `open-ssh`, else one that opens a port, else any.
fn example<'a>(config: &ServerConfig, allow: &BTreeSet<&'a ActionName>) -> &'a str {
    let usual = allow.iter().find(|action| action.as_str() == "open-ssh");
    let opens = |name: &&&ActionName| {
        config.actions.get(**name).is_some_and(|action| {
            action.parts.iter().any(|part| !matches!(part, ActionPart::Close(_) | ActionPart::Run { .. }))
        })
    };
    usual.or_else(|| allow.iter().find(opens)).or(allow.first()).map_or("ACTION", |action| action.as_str())
}

fn print_added(config: &ServerConfig, add: &AddClient, clients: &[NewClient]) {
    let allow: BTreeSet<_> = add.allow.iter().collect();
    for Enrollment { name, signing, expires } in clients.iter().map(|client| &client.enrollment) {
        notice(format_args!("client {name}: added, allowed actions: {}", joined(&allow)));
        if let Some(signing) = signing {
            let limit = expires.filter(|_| add.ssh_keys_of.is_some());
            let until = limit.map(|time| format!(", until {}", day_or_time(time))).unwrap_or_default();
            notice(format_args!(
                "client {name}: its SSH key signs each knock: {}{until}",
                signing_text(signing)
            ));
        }
    }
    match &add.output {
        Some(file) => notice(format_args!(
            "its key is in {}: {HAND_OVER}\nto knock: {}spa-knock{} SERVER {}",
            file.display(),
            if add.form.token { "spa-knock import - < FILE, then: " } else { "" },
            if add.form.token { "" } else { " --key FILE" },
            example(config, &allow),
        )),
        None if add.key.is_none() && clients.len() > 1 => {
            notice(format_args!("their keys are printed above: {HAND_OVER_EACH}"))
        }
        None if add.key.is_none() => notice(format_args!("its key is printed above: {HAND_OVER}")),
        None => {}
    }
}
