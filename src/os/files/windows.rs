//! Permissions on Windows, where files have an owner and an access list. The client alone runs there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::path::Path;

use windows_permissions::constants::{SeObjectType, SecurityInformation};
use windows_permissions::utilities::current_process_sid;
use windows_permissions::wrappers::{
    ConvertSecurityDescriptorToStringSecurityDescriptor, GetSecurityInfo, LookupAccountSid, SetSecurityInfo,
};
use windows_permissions::{LocalBox, SecurityDescriptor, Sid};

use super::access_list::{AccessList, AccessProblem, ForbiddenAccess, well_known};
use super::{FileError, FileMode};

/// Access rights and a flag of CreateFile.
const GENERIC_WRITE: u32 = 0x4000_0000;
const READ_CONTROL: u32 = 0x0002_0000;
const WRITE_DAC: u32 = 0x0004_0000;
const BACKUP_SEMANTICS: u32 = 0x0200_0000;
/// FILE_FLAG_OPEN_REPARSE_POINT: opens a link itself.
const OPEN_REPARSE_POINT: u32 = 0x0020_0000;

/// The owner and the access list of a file or folder, as text.
pub(super) struct Permissions(String);

/// Owner and access list of an opened file.
pub(super) fn of_file(file: &File) -> io::Result<Permissions> {
    let parts = SecurityInformation::Owner | SecurityInformation::Dacl;
    let descriptor = GetSecurityInfo(file, SeObjectType::SE_FILE_OBJECT, parts)?;
    let text = ConvertSecurityDescriptorToStringSecurityDescriptor(&descriptor, parts)?;
    Ok(Permissions(text.to_string_lossy().into_owned()))
}

/// Owner and access list of a file or folder.
pub(super) fn of_path(path: &Path) -> io::Result<Permissions> {
    // Without this flag, a folder cannot be opened.
    of_file(&OpenOptions::new().access_mode(READ_CONTROL).custom_flags(BACKUP_SEMANTICS).open(path)?)
}

pub(super) fn open_for_reading(path: &Path) -> io::Result<File> {
    File::open(path)
}

pub(super) fn check_file(path: &Path, permissions: &Permissions) -> Result<(), FileError> {
    check(path, permissions, ForbiddenAccess::Access)
}

pub(super) fn check_folder(folder: &Path, permissions: &Permissions) -> Result<(), FileError> {
    check(folder, permissions, ForbiddenAccess::Replace)
}

pub(super) fn check_unwritable(path: &Path, permissions: &Permissions) -> Result<(), FileError> {
    let forbidden = if path.is_dir() { ForbiddenAccess::Replace } else { ForbiddenAccess::Change };
    check(path, permissions, forbidden)
}

fn check(path: &Path, permissions: &Permissions, forbidden: ForbiddenAccess) -> Result<(), FileError> {
    let user = user().map_err(|error| FileError::io(path, &error))?;
    let Some(list) = AccessList::parse(&permissions.0, identifier) else {
        return Err(FileError::new(path, "its access list cannot be read", Some(move_hint())));
    };
    let Err(problem) = list.check(&user, forbidden) else { return Ok(()) };
    let name = super::error::displayed(path);
    let (reason, hint) = match problem {
        AccessProblem::NoList => ("has no access list, so everyone can access it".to_owned(), move_hint()),
        AccessProblem::Owner(owner) => (
            format!("belongs to {}, not to you, Administrators or SYSTEM", account_name(&owner)),
            format!("run as an administrator: icacls \"{name}\" /setowner \"*{user}\""),
        ),
        AccessProblem::Accounts(accounts) => {
            let names: Vec<_> = accounts.iter().map(|account| account_name(account)).collect();
            let what = match forbidden {
                ForbiddenAccess::Access => "access it",
                ForbiddenAccess::Change => "change it",
                ForbiddenAccess::Replace => "replace files in this directory",
            };
            // A whole drive is not this user's to restrict.
            let is_drive = path.is_dir() && path.parent().is_none();
            let hint = if is_drive { move_hint() } else { icacls(&name, &user, &accounts, path.is_dir()) };
            (format!("its access list allows others to {what}: {}", names.join(", ")), hint)
        }
    };
    Err(FileError::new(path, reason, Some(hint)))
}

/// The command that removes inherited and these accounts' access. Identifiers instead of names work in each language, and
/// in cmd and PowerShell alike.
fn icacls(name: &str, user: &str, accounts: &[String], is_folder: bool) -> String {
    let inherited = if is_folder { "(OI)(CI)" } else { "" };
    let removed: String = accounts.iter().map(|account| format!(" \"*{account}\"")).collect();
    format!(
        "icacls \"{name}\" /inheritance:r /remove:g{removed} /grant:r \"*{user}:{inherited}F\" \"*S-1-5-18:{inherited}F\""
    )
}

fn move_hint() -> String {
    "use a directory of your own on a drive with NTFS, e.g. %APPDATA%\\spa-knock".to_owned()
}

/// The identifier of the user of this process.
fn user() -> io::Result<String> {
    Ok(current_process_sid()?.to_string())
}

/// The identifier for an abbreviation.
fn identifier(short: &str) -> Option<String> {
    short.parse::<LocalBox<Sid>>().ok().map(|sid| sid.to_string())
}

/// The name of an account and its identifier.
fn account_name(identifier: &str) -> String {
    let name = well_known(identifier).map(str::to_owned).or_else(|| {
        let (name, domain) = LookupAccountSid(&*identifier.parse::<LocalBox<Sid>>().ok()?).ok()?;
        Some(format!("{}\\{}", domain.to_string_lossy(), name.to_string_lossy()))
    });
    name.map_or_else(|| identifier.to_owned(), |name| format!("{name} ({identifier})"))
}

/// Allows access to the user and SYSTEM alone; nothing is inherited from the folder.
fn restrict(file: &mut File, is_folder: bool) -> io::Result<()> {
    let (user, inherited) = (user()?, if is_folder { "OICI" } else { "" });
    let text = format!("D:P(A;{inherited};FA;;;{user})(A;{inherited};FA;;;SY)");
    let descriptor: LocalBox<SecurityDescriptor> = text.parse()?;
    let parts = SecurityInformation::Dacl | SecurityInformation::ProtectedDacl;
    SetSecurityInfo(file, SeObjectType::SE_FILE_OBJECT, parts, None, None, descriptor.dacl(), None)
}

/// No one else can open a new private file until it is closed, so that no one can before it is restricted.
pub(super) fn set_new_mode(options: &mut OpenOptions, mode: FileMode) {
    if mode == FileMode::Private {
        options.access_mode(GENERIC_WRITE | READ_CONTROL | WRITE_DAC).share_mode(0);
    }
}

/// Restricts a file that was just created with [`set_new_mode`].
pub(super) fn complete(file: &mut File, path: &Path, mode: FileMode) -> Result<(), FileError> {
    match mode {
        FileMode::Private => restrict(file, false).map_err(|error| {
            let reason = format!("its access list cannot be set: {}", super::io_error_text(&error));
            FileError::new(path, reason, Some(move_hint()))
        }),
        FileMode::Public => Ok(()),
    }
}

/// Creates a folder and its missing parent folders, each of them restricted before anything is in it.
pub(super) fn create_folder(path: &Path, mode: FileMode) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_folder(parent, mode)?;
    }
    std::fs::create_dir(path)?;
    if mode == FileMode::Private {
        let access = READ_CONTROL | WRITE_DAC;
        // Not through a link that someone has put there in the meantime.
        let flags = BACKUP_SEMANTICS | OPEN_REPARSE_POINT;
        let mut folder = OpenOptions::new().access_mode(access).custom_flags(flags).open(path)?;
        restrict(&mut folder, true)?;
    }
    Ok(())
}

pub(super) fn sync_folder(_: &Path) -> Result<(), FileError> {
    Ok(())
}
