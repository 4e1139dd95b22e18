//! The directory `fleet` next to the config: certificates, logins and the fleet key. All but the certificates are secret.
//!
//! ```text
//! ca.pem  cert.pem  key.pem    for TLS: the store's CA, this member's certificate without CommonName, and its key
//! login                        user and password of the members
//! admin-login                  those of the administrator, only where clients are added
//! fleet.key                    seals clients and grants; the same on all members
//! ```

use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::ipc::{self, CONTENT_MAX};
use crate::config::EtcdSettings;
use crate::os::files::{self, FileError};
use spa_knock_core::crypto::Secret;
use spa_knock_fleet::FleetName;
use spa_knock_fleet::client::{Endpoint, Login};
use spa_knock_fleet::keys::KeySpace;
use spa_knock_fleet::seal::FleetKey;

const KEY_HEADER: &str = "spa-knock-fleet-key: 1";

/// The directory of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FleetFiles(pub(crate) PathBuf);

/// Who logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginFile {
    /// The member itself.
    Member,
    /// The administrator.
    Admin,
}

/// The files for TLS, in PEM form.
pub(crate) struct TlsFiles {
    pub(crate) ca: Zeroizing<String>,
    pub(crate) certificate: Zeroizing<String>,
    pub(crate) key: Zeroizing<String>,
}

/// A file of the fleet that is unusable, with a hint. Contains no byte of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct FleetFileError(pub(crate) String);

impl From<FileError> for FleetFileError {
    fn from(error: FileError) -> Self {
        Self(error.to_string())
    }
}

impl FleetFiles {
    /// The files of a member with these settings.
    pub(crate) fn of(settings: &EtcdSettings) -> Self {
        Self(settings.files.clone())
    }

    /// The path of the fleet key.
    pub(crate) fn key(&self) -> PathBuf {
        self.0.join("fleet.key")
    }

    /// The path of a login.
    pub(crate) fn login(&self, of: LoginFile) -> PathBuf {
        self.0.join(match of {
            LoginFile::Member => "login",
            LoginFile::Admin => "admin-login",
        })
    }

    /// The paths of the files for TLS: CA, certificate and key.
    pub(crate) fn tls(&self) -> [PathBuf; 3] {
        ["ca.pem", "cert.pem", "key.pem"].map(|file| self.0.join(file))
    }

    /// Reads the secret that all members share.
    ///
    /// # Errors
    /// If the file is missing, readable by others, or that of another fleet.
    pub(crate) fn read_secret(&self, fleet: &FleetName) -> Result<Secret, FleetFileError> {
        let path = self.key();
        let text = files::read_daemon_secret(&path)?;
        let invalid = |why: String| {
            let hint = "copy the file from another member, or run spa-knockd fleet join";
            FleetFileError(format!("{}: {why}\nhint: {hint}", path.display()))
        };
        let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut next = |start: &str| lines.next().and_then(|line| line.strip_prefix(start));
        if next(KEY_HEADER) != Some("") {
            return Err(invalid("not a fleet key".to_owned()));
        }
        match next("fleet: ") {
            Some(name) if name == fleet.as_str() => {}
            _ => return Err(invalid(format!("is not the key of fleet {fleet}"))),
        }
        let secret = next("secret: ").and_then(secret_from_hex);
        secret.ok_or_else(|| invalid("the secret must be 64 hex digits".to_owned()))
    }

    /// Reads the fleet key.
    ///
    /// # Errors
    /// If the file is missing, readable by others, or that of another fleet.
    pub(crate) fn read_key(&self, fleet: &FleetName) -> Result<FleetKey, FleetFileError> {
        Ok(FleetKey::new(&self.read_secret(fleet)?, &KeySpace::new(fleet)))
    }

    /// Reads user and password; none if there is no such file, for a store without authentication.
    ///
    /// # Errors
    /// If the file is readable by others, or has another form.
    pub(crate) fn read_login(&self, of: LoginFile) -> Result<Option<Login>, FleetFileError> {
        let path = self.login(of);
        let text = match files::read_daemon_secret(&path) {
            Err(error) if error.missing => return Ok(None),
            text => text?,
        };
        let mut lines = text.lines();
        let mut next = |start: &str| {
            lines.next().and_then(|line| line.strip_prefix(start)).filter(|text| !text.is_empty())
        };
        let (user, password) = (next("user: "), next("password: "));
        match (user, password) {
            (Some(user), Some(password)) => {
                Ok(Some(Login { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) }))
            }
            _ => Err(FleetFileError(format!(
                "{}: not a login\nhint: write two lines, `user: NAME` and `password: PASSWORD`",
                path.display()
            ))),
        }
    }

    /// Reads the files for TLS; none if there is none of them, for a store on a loopback address.
    ///
    /// # Errors
    /// If only some of them exist, the key is readable by others, or one of them is too long.
    pub(crate) fn read_tls(&self) -> Result<Option<TlsFiles>, FleetFileError> {
        let paths = self.tls();
        if !paths.iter().any(|path| files::exists(path)) {
            return Ok(None);
        }
        let [ca, certificate, key] = paths;
        let read = |path: &Path, is_secret: bool| {
            let text = if is_secret {
                files::read_daemon_secret(path)?
            } else {
                Zeroizing::new(files::read_text(path)?)
            };
            if text.len() > CONTENT_MAX {
                return Err(FleetFileError(format!(
                    "{}: longer than 64 KiB\nhint: keep only the CA that has signed the store's certificates",
                    path.display()
                )));
            }
            Ok(text)
        };
        Ok(Some(TlsFiles {
            ca: read(&ca, false)?,
            certificate: read(&certificate, false)?,
            key: read(&key, true)?,
        }))
    }
}

/// The text of the file of a fleet key.
pub(crate) fn key_text(fleet: &FleetName, secret: &Secret) -> Zeroizing<String> {
    let digits = Zeroizing::new(ipc::hex(secret.expose()));
    Zeroizing::new(format!("{KEY_HEADER}\nfleet: {fleet}\nsecret: {}\n", *digits))
}

/// The text of the file of a login.
pub(crate) fn login_text(login: &Login) -> Zeroizing<String> {
    Zeroizing::new(format!("user: {}\npassword: {}\n", login.user, *login.password))
}

/// The secret that 64 hex digits mean.
pub(crate) fn secret_from_hex(text: &str) -> Option<Secret> {
    let bytes = Zeroizing::new(ipc::from_hex(text)?);
    Some(Secret::from_bytes(bytes.as_slice().try_into().ok()?))
}

/// Resolves the endpoints.
///
/// # Errors
/// The first one whose host has no address; that may be temporary.
pub(crate) fn resolved(endpoints: &[String]) -> Result<Vec<Endpoint>, FleetFileError> {
    let resolve = |url: &String| {
        let text = |error: spa_knock_fleet::client::InvalidEndpoint| FleetFileError(error.to_string());
        let (host, port) = Endpoint::host_and_port(url).map_err(text)?;
        let found =
            (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        Endpoint::new(url, &found).map_err(text)
    };
    endpoints.iter().map(resolve).collect()
}
