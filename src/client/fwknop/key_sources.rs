//! Where the keys of a packet come from: the options, a file with a line for each server, standard input or another
//! descriptor, a prompt.

use std::io::{self, IsTerminal};
use std::path::Path;

use spa_knock_fwknop::{CLIENT_HMAC_KEY_MAX, CipherKey, ClientOptions, Digest, HmacKey, KeyBytes};
use zeroize::Zeroizing;

use super::args::KeyArgs;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::report::Reporter;
use crate::os::terminal::HiddenInput;
use crate::os::{env, files};

/// The two keys of a packet.
pub(super) struct PacketKeys {
    pub(super) key: CipherKey,
    pub(super) hmac_key: HmacKey,
}

/// The purpose of a key.
#[derive(Clone, Copy)]
enum KeyPurpose {
    Encryption,
    Hmac,
}

/// Refuses a packet without HMAC.
pub(super) fn check_hmac(options: &ClientOptions) -> Result<(), ClientError> {
    let has_key = options.hmac_key.is_some() || options.hmac_key_file.is_some();
    if has_key || options.use_hmac == Some(true) {
        return Ok(());
    }
    Err(ClientError::new(
        ExitCause::Usage,
        "no HMAC key: without one, fwknopd accepts a copied packet again if one character is added",
    )
    .hint(
        "run `spa-knock fwknop --key-gen`, and copy the line HMAC_KEY_BASE64 into the stanza of ~/.fwknoprc and into \
         that of the server's access.conf; with --use-hmac, the key is asked for",
    ))
}

impl PacketKeys {
    /// Reads both keys.
    pub(super) fn read(args: &KeyArgs, options: &ClientOptions) -> Result<Self, ClientError> {
        let mut input = KeyInput::new(args)?;
        let server = options.server.as_deref();
        let key =
            input.key(KeyPurpose::Encryption, options.key.as_ref(), options.key_file.as_deref(), server)?;
        let hmac_key = input.key(
            KeyPurpose::Hmac,
            options.hmac_key.as_ref(),
            options.hmac_key_file.as_deref(),
            server,
        )?;
        if hmac_key.bytes().len() > CLIENT_HMAC_KEY_MAX {
            return Err(ClientError::new(
                ExitCause::Files,
                format!(
                    "HMAC key: longer than {CLIENT_HMAC_KEY_MAX} bytes; fwknop's client would cut it off"
                ),
            ));
        }
        let cipher_key = CipherKey::new(key.bytes())
            .map_err(|error| ClientError::new(ExitCause::Files, format!("encryption key: {error}")))?;
        if cipher_key.is(hmac_key.bytes()) {
            return Err(ClientError::new(ExitCause::Files, "HMAC key: is the same as the encryption key")
                .hint("use two different keys"));
        }
        let digest = options.hmac_digest.unwrap_or(Digest::Sha256);
        Ok(Self { key: cipher_key, hmac_key: HmacKey::new(digest, hmac_key.bytes()) })
    }
}

/// Lines with keys that are not in an option or a file.
enum KeyInput {
    Lines(Zeroizing<String>, usize),
    Prompt,
}

impl KeyInput {
    fn new(args: &KeyArgs) -> Result<Self, ClientError> {
        let text = match args.fd {
            Some(0) => files::read_secret_from_stdin()?,
            Some(_) if cfg!(windows) => {
                return Err(ClientError::new(
                    ExitCause::Usage,
                    "--fd: Windows has no descriptors with numbers",
                )
                .hint("use --stdin"));
            }
            Some(number) => files::read_secret_from_descriptor(number)?,
            None if args.stdin => files::read_secret_from_stdin()?,
            None => return Ok(Self::Prompt),
        };
        Ok(Self::Lines(text, 0))
    }

    /// A key: the option, else the line of its file, else the next line of the input.
    fn key(
        &mut self,
        purpose: KeyPurpose,
        given: Option<&KeyBytes>,
        file: Option<&str>,
        server: Option<&str>,
    ) -> Result<KeyBytes, ClientError> {
        let key = match (given, file) {
            (Some(key), _) => key.clone(),
            (None, Some(path)) => in_file(path, server)?,
            (None, None) => self.next(purpose)?,
        };
        if key.bytes().is_empty() {
            return Err(ClientError::new(ExitCause::Files, format!("{}: is empty", purpose.name())));
        }
        Ok(key)
    }

    fn next(&mut self, purpose: KeyPurpose) -> Result<KeyBytes, ClientError> {
        match self {
            Self::Lines(text, used) => {
                let line = text.lines().nth(*used).ok_or_else(|| {
                    ClientError::new(ExitCause::Files, format!("{}: not in the input", purpose.name())).hint(
                        "pass one line for each key that is not in the stanza, the encryption key first",
                    )
                })?;
                *used = used.saturating_add(1);
                Ok(KeyBytes::from_passphrase(line))
            }
            Self::Prompt => prompt(purpose),
        }
    }
}

impl KeyPurpose {
    const fn name(self) -> &'static str {
        match self {
            Self::Encryption => "encryption key",
            Self::Hmac => "HMAC key",
        }
    }
}

/// The key in the line `SERVER: KEY`. It is everything after the space that follows the colon.
fn in_file(path: &str, server: Option<&str>) -> Result<KeyBytes, ClientError> {
    let Some(server) = server else {
        return Err(ClientError::new(ExitCause::Usage, format!("{path}: a server must be given, too"))
            .hint("add -D SERVER"));
    };
    let path = env::expanded(Path::new(path));
    let text = files::read_secret(&path)?;
    let line = |line: &'_ str| {
        let (name, key) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case(server).then(|| KeyBytes::from_passphrase(key.trim_start()))
    };
    text.lines().filter(|line| !line.starts_with('#')).find_map(line).ok_or_else(|| {
        ClientError::new(ExitCause::Files, format!("{}: there is no line for {server}", path.display()))
            .hint(format!("add one: {server}: KEY"))
    })
}

fn prompt(purpose: KeyPurpose) -> Result<KeyBytes, ClientError> {
    let name = purpose.name();
    if !io::stdin().is_terminal() {
        return Err(ClientError::new(ExitCause::Files, format!("no {name}, and no terminal to ask for it"))
            .hint("put it into the stanza of ~/.fwknoprc, or pass it with --stdin"));
    }
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::Interrupted => ClientError::new(ExitCause::Usage, "interrupted; nothing was sent"),
        _ => ClientError::new(ExitCause::Files, format!("terminal: {}", files::io_error_text(&error))),
    };
    Reporter::PLAIN.note(&format!("enter the {name} (it is not shown)"));
    let line = HiddenInput::new().and_then(|mut terminal| terminal.line()).map_err(failed)?;
    let line = line.unwrap_or_default();
    Ok(KeyBytes::from_passphrase(line.trim_end_matches(['\r', '\n'])))
}
