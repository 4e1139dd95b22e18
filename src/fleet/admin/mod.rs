//! What the administrator's commands need of the store, and the line with which a server joins. Runs in a process of its
//! own; knows no command line.

pub(crate) mod join_line;
pub(crate) mod policy;
pub(crate) mod setup;
pub(crate) mod survey;

use std::path::{Path, PathBuf};

use super::files::{FleetFileError, FleetFiles, LoginFile, TlsFiles, resolved};
use crate::config::{EtcdSettings, fleet_folder};
use crate::console::AdminError;
use spa_knock_fleet::client::{
    Endpoint, KeyRange, Login, Patience, RangeRequest, StoreClient, StoreError, StoreFault, TlsIdentity,
    has_common_name,
};
use spa_knock_fleet::keys::{KeySpace, StoreKey};
use spa_knock_fleet::rollback::StoreMark;

/// Where the store is, and with which certificate it is asked.
pub(crate) struct StoreAccess {
    endpoints: Vec<Endpoint>,
    tls: Option<TlsIdentity>,
}

impl From<FleetFileError> for AdminError {
    fn from(error: FleetFileError) -> Self {
        Self::run(error)
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        Self::run(error)
    }
}

impl StoreAccess {
    /// Access to the store's members at these URLs.
    ///
    /// # Errors
    /// If a URL is invalid or has no address, or certificate and key are unusable.
    pub(crate) fn new(urls: &[String], tls: Option<&TlsFiles>) -> Result<Self, AdminError> {
        // The store refuses it only while it has authentication: enabling this would lock everyone out.
        if tls.is_some_and(|tls| has_common_name(tls.certificate.as_bytes()) == Some(true)) {
            let fault = StoreFault::CommonName;
            let hint = fault.hint().unwrap_or_default();
            return Err(AdminError::run(format_args!("cert: {fault}\nhint: {hint}")));
        }
        let identity = tls.map(|tls| {
            let [ca, certificate, key] = [&tls.ca, &tls.certificate, &tls.key].map(|text| text.as_bytes());
            TlsIdentity::from_pem(ca, certificate, key).map_err(AdminError::run)
        });
        if tls.is_none() && urls.iter().any(|url| url.starts_with("https:")) {
            return Err(AdminError::usage(
                "endpoints with https need certificates\nhint: pass --ca FILE --cert FILE --key FILE, or put ca.pem, cert.pem and key.pem into the directory `fleet` next to the config",
            ));
        }
        Ok(Self { endpoints: resolved(urls)?, tls: identity.transpose()? })
    }

    /// Access as a member of the fleet has it.
    ///
    /// # Errors
    /// If a file of the fleet is unusable, or an endpoint has no address.
    pub(crate) fn of(settings: &EtcdSettings) -> Result<Self, AdminError> {
        let tls = FleetFiles::of(settings).read_tls()?;
        Self::new(&settings.endpoints, tls.as_ref())
    }

    /// A client of the store. `mark` is what was seen of it before.
    pub(crate) fn client(&self, login: Option<&Login>, mark: Option<StoreMark>) -> StoreClient {
        StoreClient::new(self.endpoints.clone(), self.tls.as_ref(), login, mark)
    }
}

/// A client with the login of the member or of the administrator.
///
/// # Errors
/// If a file of the fleet is unusable. Without a login of the administrator, names the server that must have one.
pub(crate) fn client_as(settings: &EtcdSettings, login: LoginFile) -> Result<StoreClient, AdminError> {
    let files = FleetFiles::of(settings);
    let access = StoreAccess::of(settings)?;
    let found = files.read_login(login)?;
    if found.is_none() && login == LoginFile::Admin && files.read_login(LoginFile::Member)?.is_some() {
        return Err(AdminError::run(format_args!(
            "{}: missing; this server has no login of the fleet's administrator\nhint: run this command on the server where spa-knockd fleet init was run, or copy the file from there",
            files.login(login).display()
        )));
    }
    Ok(access.client(found.as_ref(), None))
}

/// Reads a number such as a count of uses; none if the store has none.
///
/// # Errors
/// If the store does not answer, or a file of the fleet is unusable.
pub(crate) fn read_count(settings: &EtcdSettings, key: &StoreKey) -> Result<Option<u64>, AdminError> {
    let read = RangeRequest::new(KeyRange::one(space(settings).path(key)));
    let found = client_as(settings, LoginFile::Member)?.range(&read, Patience::BACKGROUND)?.kvs.pop();
    let number = |value: &[u8]| u64::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok();
    Ok(found.and_then(|found| number(&found.value)))
}

/// The keys of a fleet.
pub(crate) fn space(settings: &EtcdSettings) -> KeySpace {
    KeySpace::new(&settings.name)
}

/// Where a member keeps the highest serial of each entry ([`spa_knock_fleet::serials::Serials`]).
pub(crate) fn serials_file(state_dir: &Path) -> PathBuf {
    fleet_folder(state_dir).join("serials")
}
