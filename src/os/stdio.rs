//! Standard input and output as unbuffered byte streams, and closing the output so that its reader sees the end.

use std::fs::File;
use std::io;

#[cfg(unix)]
use std::os::fd::AsFd;
#[cfg(windows)]
use std::os::windows::io::AsHandle;

/// Standard input, unbuffered: a read returns what is available.
///
/// # Errors
/// When it is closed, or no descriptor is left.
pub fn input() -> io::Result<File> {
    #[cfg(unix)]
    return Ok(io::stdin().as_fd().try_clone_to_owned()?.into());
    #[cfg(windows)]
    return Ok(io::stdin().as_handle().try_clone_to_owned()?.into());
}

/// Standard output, unbuffered: a write leaves this process immediately.
///
/// # Errors
/// When it is closed, or no descriptor is left.
pub fn output() -> io::Result<File> {
    #[cfg(unix)]
    return Ok(io::stdout().as_fd().try_clone_to_owned()?.into());
    #[cfg(windows)]
    return Ok(io::stdout().as_handle().try_clone_to_owned()?.into());
}

/// Standard error, unbuffered.
///
/// # Errors
/// When it is closed, or no descriptor is left.
#[cfg(unix)]
pub fn error() -> io::Result<File> {
    Ok(io::stderr().as_fd().try_clone_to_owned()?.into())
}

/// Whether the reader of standard output sees its end now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputEnd {
    /// It does.
    Seen,
    /// Only when this process exits.
    AtExit,
}

/// Closes `output`, which [`output`] has returned, and standard output, so that the reader of a pipe or socket sees the
/// end. Standard input stays open.
///
/// # Errors
/// When the system has no `/dev/null`.
#[cfg(unix)]
pub fn end_output(output: File) -> io::Result<OutputEnd> {
    use std::net::Shutdown;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    // If it is a socket, standard input may be another descriptor of it, which keeps it open. If not, this call fails
    // harmlessly.
    let _ = UnixStream::from(OwnedFd::from(output)).shutdown(Shutdown::Write);
    // Standard output is replaced instead of closed, because the next opened file would get its number.
    #[allow(clippy::disallowed_methods, reason = "not a file that a user names")]
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(null)?;
    Ok(OutputEnd::Seen)
}

/// Closes `output`, but not standard output, which the standard library cannot close on Windows.
///
/// # Errors
/// Never.
#[cfg(windows)]
pub fn end_output(output: File) -> io::Result<OutputEnd> {
    drop(output);
    Ok(OutputEnd::AtExit)
}
