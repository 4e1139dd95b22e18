//! `spa-knockd fleet init`: sets up a fleet in the store, and makes this server its first member. Changes nothing before all
//! checks have passed.

use std::path::Path;
use std::time::Duration;

use super::config_section::{NewSection, etcd};
use super::earlier_state::{NewFleet, NewState};
use super::join_line;
use super::secret_input;
use super::setup_files::{self, MemberFiles};
use crate::admin::args::InitFleet;
use crate::admin::clients::CreatedFiles;
use crate::config::{self, EtcdSettings, ServerConfig, fleet_folder};
use crate::console::{AdminError, notice, own_command};
use crate::fleet::admin::StoreAccess;
use crate::fleet::admin::join_line::JoinLine;
use crate::fleet::admin::setup::{self, ServerPast, StoreAuth};
use crate::fleet::admin::survey::survey;
use crate::fleet::files::{FleetFiles, LoginFile};
use crate::os::clock;
use crate::os::files::{self, FileMode};
use crate::state;
use spa_knock_core::crypto::Secret;
use spa_knock_core::knock::Timestamp;
use spa_knock_fleet::FleetName;
use spa_knock_fleet::client::{Login, StoreClient, StoreFault};
use spa_knock_fleet::init::StoreRole;
use spa_knock_fleet::keys::KeySpace;

/// More than bcrypt, with which etcd keeps passwords, looks at.
const PASSWORD_MAX: usize = 256;

/// Sets up a fleet, and prints its join line.
///
/// # Errors
/// If a check fails, or the store or this host can't be changed. Users and roles may then remain in the store, which the
/// next try changes.
pub(crate) fn init(path: &Path, args: &InitFleet) -> Result<(), AdminError> {
    let fleet: FleetName = args
        .name
        .parse()
        .map_err(|error| AdminError::usage(format_args!("--name: {error}\nhint: for example --name prod")))?;
    let member = setup_files::member_name(args.member.as_deref())?;
    if args.enable_auth && args.user != "root" {
        return Err(AdminError::usage("--enable-auth: etcd demands the user root\nhint: leave out --user"));
    }
    let config = config::load(path)?;
    check_alone(&config)?;
    let given = setup_files::named_tls(&args.tls)?;
    let target = setup_files::beside(path);
    setup_files::check_free(&target, given.as_ref())?;
    let present = setup_files::present_tls(&target, given.as_ref())?;
    let access = StoreAccess::new(&args.endpoints, given.as_ref().or(present.as_ref()))?;
    let password =
        secret_input::read(&format!("password of the etcd user {}", args.user), PASSWORD_MAX, |_| true)?;
    let root = Login { user: args.user.clone(), password };

    let space = KeySpace::new(&fleet);
    let client = access.client(Some(&root), None);
    let auth = setup::check_endpoints(&client, &space, &args.user)?;
    let client = match (auth, args.enable_auth) {
        (StoreAuth::Enabled, _) => client,
        (StoreAuth::Missing, true) => access.client(None, None),
        (StoreAuth::Missing, false) => {
            return Err(AdminError::run(
                "the store has no authentication: anyone with a client certificate can change everything\nhint: repeat the command with --enable-auth; other users of this etcd then need a login, too",
            ));
        }
    };
    let cluster = setup::check_new(&client, &fleet)?;
    let section = NewSection {
        name: &fleet,
        member: &member,
        endpoints: &args.endpoints,
        cluster,
        made_by: "fleet init",
    };
    let new_config = section.checked(path, section.appended_to(&files::read_text(path)?))?;
    let secret = Secret::generate().map_err(AdminError::run)?;
    let [member_login, admin_login] =
        [setup::new_login(&fleet, StoreRole::Member)?, setup::new_login(&fleet, StoreRole::Admin)?];
    let join = JoinLine {
        fleet: fleet.clone(),
        server: config.id.clone(),
        cluster,
        endpoints: args.endpoints.clone(),
        login: Some(member_login.clone()),
        secret: secret.clone(),
    };
    let line = join.to_text().ok_or_else(|| AdminError::usage("--endpoints: too long for a join line"))?;

    let mut created = CreatedFiles::default();
    let content = MemberFiles {
        fleet: &fleet,
        secret: &secret,
        member: Some(&member_login),
        admin: Some(&admin_login),
    };
    setup_files::create(&target, given.as_ref(), &content, &mut created)?;
    setup::create_users(&client, &fleet, &member_login, &admin_login)?;
    let client = if auth == StoreAuth::Missing {
        setup::enable_authentication(&client, &root.password)?;
        access.client(Some(&root), None)
    } else {
        client
    };
    let first = setup::first_floor(clock::wall(), config.window, past_of(&config));
    let new_fleet = NewFleet { secret: &secret, cluster, is_joined: false };
    let written = setup::create_floor(&client, &fleet, first)
        .and_then(|()| check_member(&access.client(Some(&member_login), None), &space))
        .and_then(|()| NewState::create(&config.state_dir, &new_fleet))
        .and_then(|state| {
            files::replace(path, FileMode::Private, new_config.text.as_bytes())?;
            Ok(state)
        });
    match written {
        Ok(state) => state.persist(),
        Err(failure) => {
            setup::remove_floor(&client, &fleet);
            return Err(failure);
        }
    }
    created.persist();
    print_done(&fleet, first);
    join_line::print_line(&line)
}

/// Checks that this server is no member of a fleet yet, and that no daemon accepts knocks now.
fn check_alone(config: &ServerConfig) -> Result<(), AdminError> {
    if config.fleet.is_none() {
        return check_stopped(config);
    }
    let place = config.places.of(&["fleet"]);
    match etcd(config).filter(|settings| is_gone(settings)) {
        Some(settings) => {
            let files = FleetFiles::of(settings);
            let [member, admin] = [LoginFile::Member, LoginFile::Admin].map(|of| files.login(of));
            Err(AdminError::run(format_args!(
                "config {place}: has a section [fleet] already, but the store has nothing of fleet {}\nhint: if etcd can be restored from a snapshot, do this instead; to set up a new fleet, on each member: systemctl stop spa-knockd; remove the section [fleet]; move {}, {} and {} away; to keep keys of clients, also copy {}; then repeat this command on one member, and run spa-knockd fleet join on the others",
                settings.name,
                files.key().display(),
                member.display(),
                admin.display(),
                fleet_folder(&config.state_dir).join("keys").display()
            )))
        }
        None => Err(AdminError::run(format_args!(
            "config {place}: has a section [fleet] already\nhint: {} shows the fleet; to leave it, remove the section and the directory `fleet`",
            own_command("fleet status")
        ))),
    }
}

/// Whether the store answers and has nothing of the fleet. A rejected password does not show that: someone can have changed
/// it.
fn is_gone(settings: &EtcdSettings) -> bool {
    survey(settings).is_ok_and(|survey| match survey.content {
        Ok(content) => content.floor.is_none() && content.clients == 0,
        Err(error) => *error.fault() == StoreFault::NoAuthentication,
    })
}

/// Until the daemon runs as a member, it accepts knocks that the store does not know of, and another member would accept a
/// copy of each.
pub(super) fn check_stopped(config: &ServerConfig) -> Result<(), AdminError> {
    if !state::is_locked(&config.state_dir) {
        return Ok(());
    }
    Err(AdminError::run(
        "the daemon runs: until it is restarted, it would accept knocks that the store does not know of\nhint: systemctl stop spa-knockd, repeat this command, then start it again; ports stay as they are, and established connections stay open",
    ))
}

/// Whether knocks can have been accepted for this server id.
pub(super) fn past_of(config: &ServerConfig) -> ServerPast {
    if config.clients.is_empty() && !state::has_run(&config.state_dir) {
        ServerPast::Unused
    } else {
        ServerPast::Used
    }
}

/// Checks that members can log in and read.
fn check_member(client: &StoreClient, space: &KeySpace) -> Result<(), AdminError> {
    setup::check_endpoints(client, space, "of the members").map(drop)
}

fn print_done(fleet: &FleetName, floor: Timestamp) {
    notice(format_args!("fleet {fleet}: set up"));
    print_floor(floor);
    notice(format_args!(
        "\nnext:\n  \
         {}\n  \
         # add clients to all members\n  \
         {}\n  \
         # start the daemon\n  \
         systemctl start spa-knockd\n",
        join_line::USE,
        own_command("client add NAME --allow open-ssh --fleet -o NAME.key")
    ));
}

/// Reports from when on knocks are accepted, if that is not now.
pub(super) fn print_floor(floor: Timestamp) {
    let now = clock::wall();
    if floor > now {
        let wait = Duration::from_secs(floor.distance(now).as_secs().saturating_add(1));
        notice(format_args!(
            "knocks are accepted in {}: a copy of an earlier one could be accepted until then",
            humantime::format_duration(wait)
        ));
    }
}
