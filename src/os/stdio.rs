//! Standard input and output as plain streams of bytes, and the end of the output told to whoever reads it.

use std::fs::File;
use std::io;

#[cfg(unix)]
use std::os::fd::AsFd;
#[cfg(windows)]
use std::os::windows::io::AsHandle;

/// Standard input, unbuffered: a read returns what is there.
///
/// # Errors
/// When it is closed or no descriptor is left.
pub fn input() -> io::Result<File> {
    #[cfg(unix)]
    return Ok(io::stdin().as_fd().try_clone_to_owned()?.into());
    #[cfg(windows)]
    return Ok(io::stdin().as_handle().try_clone_to_owned()?.into());
}

/// Standard output, unbuffered: a write has left this process.
///
/// # Errors
/// When it is closed or no descriptor is left.
pub fn output() -> io::Result<File> {
    #[cfg(unix)]
    return Ok(io::stdout().as_fd().try_clone_to_owned()?.into());
    #[cfg(windows)]
    return Ok(io::stdout().as_handle().try_clone_to_owned()?.into());
}

/// Standard error, unbuffered.
///
/// # Errors
/// When it is closed or no descriptor is left.
#[cfg(unix)]
pub fn error() -> io::Result<File> {
    Ok(io::stderr().as_fd().try_clone_to_owned()?.into())
}

/// Tells the reader of our standard output that nothing more comes, be it a pipe or a socket: what was got from
/// [`output`] is closed with it. Standard input stays.
///
/// # Errors
/// When the system has no `/dev/null`.
#[cfg(unix)]
pub fn end_output(output: File) -> io::Result<()> {
    use std::net::Shutdown;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    // Of a socket, standard input may be another descriptor, which keeps it open. What is no socket says so.
    let _ = UnixStream::from(OwnedFd::from(output)).shutdown(Shutdown::Write);
    // In place of standard output rather than closing it: the next file opened would be taken for it.
    #[allow(clippy::disallowed_methods, reason = "no file that anybody names")]
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(null).map_err(io::Error::from)
}

/// Ends what was got from [`output`]; its reader sees the end of it when this process ends.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn end_output(output: File) -> io::Result<()> {
    drop(output);
    Ok(())
}
