//! Public key files, as `ssh-keygen` writes them beside private keys. A private key is never opened.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::client::failure::{ClientError, ExitCause};
use crate::config::public_key_file;
use crate::os::files;
use spa_knock_core::crypto::ssh::PublicKey;

/// Reads the public key that `path` names: a file whose name ends with `.pub`, else the one beside it.
///
/// # Errors
/// If there is no such file, or its key cannot sign knocks.
pub(super) fn read(path: &Path) -> Result<PublicKey, ClientError> {
    let public = public_path(path);
    let text = files::read_text(&public).map_err(|error| {
        let is_missing = error.missing;
        let failure = ClientError::from(error).with_object("public key file ");
        if is_missing && public != path {
            return failure.hint(format!(
                "spa-knock never reads a private key: write its public key to that file, for example with \
                 `ssh-keygen -y -f {} > {}`, or name a public key file (FILE.pub)",
                path.display(),
                public.display()
            ));
        }
        failure
    })?;
    public_key_file::read(&text).map_err(|error| {
        ClientError::new(ExitCause::Files, format!("public key file {}: {error}", public.display()))
            .hint(error.hint())
    })
}

/// The private key that belongs to a public key file, for ssh-add.
pub(super) fn private_path(path: &Path) -> PathBuf {
    if is_public(path) { path.with_extension("") } else { path.to_owned() }
}

fn public_path(path: &Path) -> PathBuf {
    if is_public(path) {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

fn is_public(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("pub"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl user@host";

    fn write(path: &Path, text: &str) {
        files::create_new(path, files::FileMode::Private, text.as_bytes()).unwrap();
    }

    #[test]
    fn beside_a_private_key_its_public_key_is_read() {
        let scratch = tempfile::tempdir().unwrap();
        let private = scratch.path().join("id_ed25519");
        // Would be an error if it were read.
        files::create_folder(&private, files::FileMode::Private).unwrap();
        let public = scratch.path().join("id_ed25519.pub");
        write(&public, &format!("# mine\n\n{KEY}\n"));
        let key = read(&private).unwrap();
        assert_eq!(read(&public).unwrap(), key);
        assert_eq!((private_path(&public), private_path(&private)), (private.clone(), private));
    }

    #[test]
    fn errors_name_the_file_and_what_to_do() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let missing = read(&path("id_rsa")).unwrap_err();
        assert!(missing.reason().contains("id_rsa.pub"), "{missing}");
        assert!(missing.advice().starts_with("spa-knock never reads a private key"), "{missing}");
        write(&path("two.pub"), &format!("{KEY}\n{KEY}\n"));
        write(&path("rsa.pub"), "ssh-rsa AAAAB3NzaC1yc2E=\n");
        write(&path("empty.pub"), "");
        for (name, reason) in [
            ("two.pub", "has more than one key"),
            ("rsa.pub", "cannot sign knocks"),
            ("empty.pub", "expected a public key"),
        ] {
            let failure = read(&path(name)).unwrap_err();
            assert_eq!(failure.cause(), ExitCause::Files);
            assert!(failure.reason().contains(reason), "{name}: {failure}");
        }
    }
}
