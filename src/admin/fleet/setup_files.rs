//! The files of a new member: what they contain, and where they are written; all or none of them.

use std::path::Path;

use zeroize::Zeroizing;

use crate::admin::args::FleetTls;
use crate::admin::clients::CreatedFiles;
use crate::console::AdminError;
use crate::fleet::files::{FleetFiles, LoginFile, TlsFiles, key_text, login_text};
use crate::os::files::{self, FileMode};
use crate::os::host;
use spa_knock_core::crypto::Secret;
use spa_knock_fleet::client::Login;
use spa_knock_fleet::{FleetName, MemberName};

/// What the directory of a new member contains besides the files for TLS.
pub(super) struct MemberFiles<'a> {
    pub(super) fleet: &'a FleetName,
    pub(super) secret: &'a Secret,
    pub(super) member: Option<&'a Login>,
    pub(super) admin: Option<&'a Login>,
}

/// The directory `fleet` next to the config.
pub(super) fn beside(config: &Path) -> FleetFiles {
    FleetFiles(config.with_file_name("fleet"))
}

/// Reads the files that the command line names.
///
/// # Errors
/// If one is unreadable, or others can read the key.
pub(super) fn named_tls(tls: &FleetTls) -> Result<Option<TlsFiles>, AdminError> {
    let (Some(ca), Some(cert), Some(key)) = (&tls.ca, &tls.cert, &tls.key) else { return Ok(None) };
    Ok(Some(TlsFiles {
        ca: Zeroizing::new(files::read_text(ca)?),
        certificate: Zeroizing::new(files::read_text(cert)?),
        key: files::read_secret(key)?,
    }))
}

/// The files for TLS that are in the directory already, if the command line names none.
///
/// # Errors
/// If only some of them exist, or one is unusable.
pub(super) fn present_tls(
    target: &FleetFiles,
    given: Option<&TlsFiles>,
) -> Result<Option<TlsFiles>, AdminError> {
    if given.is_some() { Ok(None) } else { Ok(target.read_tls()?) }
}

/// Checks that no file remains from an earlier fleet. Files for TLS only matter if new ones are to replace them.
///
/// # Errors
/// The first one that exists.
pub(super) fn check_free(target: &FleetFiles, tls: Option<&TlsFiles>) -> Result<(), AdminError> {
    let logins = [LoginFile::Member, LoginFile::Admin].map(|of| target.login(of));
    let certificates = tls.map(|_| target.tls());
    let mut all = std::iter::once(target.key()).chain(logins).chain(certificates.into_iter().flatten());
    match all.find(|file| files::exists(file)) {
        None => Ok(()),
        Some(file) => Err(AdminError::run(format_args!(
            "{}: remains from another fleet or an earlier try\nhint: if it is not needed: rm {}",
            file.display(),
            file.display()
        ))),
    }
}

/// Writes the files; they are removed again unless the result is made to persist.
///
/// # Errors
/// If one can't be written. Then none is left.
pub(super) fn create(
    target: &FleetFiles,
    tls: Option<&TlsFiles>,
    content: &MemberFiles<'_>,
    created: &mut CreatedFiles,
) -> Result<(), AdminError> {
    files::create_folder(&target.0, FileMode::Private)?;
    if let Some(tls) = tls {
        let [ca, certificate, key] = target.tls();
        for (path, text) in [(ca, &tls.ca), (certificate, &tls.certificate), (key, &tls.key)] {
            created.file(&path, text.as_bytes())?;
        }
    }
    created.file(&target.key(), key_text(content.fleet, content.secret).as_bytes())?;
    for (of, login) in [(LoginFile::Member, content.member), (LoginFile::Admin, content.admin)] {
        if let Some(login) = login {
            created.file(&target.login(of), login_text(login).as_bytes())?;
        }
    }
    Ok(())
}

/// The name that was given, or this host's name without its domain.
///
/// # Errors
/// If it is no name of a member.
pub(super) fn member_name(given: Option<&str>) -> Result<MemberName, AdminError> {
    if let Some(name) = given {
        return name.parse().map_err(|error| {
            AdminError::usage(format_args!("--member: {error}\nhint: for example --member b1"))
        });
    }
    let host = host::name().unwrap_or_default().to_ascii_lowercase();
    let name = host.split('.').next().unwrap_or_default();
    name.parse().map_err(|error| {
        AdminError::usage(format_args!("host name {name:?}: {error}\nhint: choose a name with --member NAME"))
    })
}
