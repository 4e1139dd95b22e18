//! A connection to ssh-agent: a Unix socket, or a named pipe of Windows. What is sent and received is up to the caller.

use std::io::{self, Read, Write};
use std::path::Path;

use spa_knock_core::knock::Steady;

/// A connection to ssh-agent, on which reading and writing end at a given time.
pub struct AgentSocket {
    #[cfg(unix)]
    stream: std::os::unix::net::UnixStream,
    #[cfg(windows)]
    stream: std::fs::File,
    #[cfg(unix)]
    end: Steady,
}

#[cfg(unix)]
impl AgentSocket {
    /// Connects. This can block if the agent does not accept connections.
    ///
    /// # Errors
    /// When there is no agent at this path, or it does not allow us to connect.
    pub fn connect(path: &Path, end: Steady) -> io::Result<Self> {
        Ok(Self { stream: std::os::unix::net::UnixStream::connect(path)?, end })
    }

    /// Sets when reading and writing end, with an error of the kind `TimedOut` or `WouldBlock`.
    pub const fn set_end(&mut self, end: Steady) {
        self.end = end;
    }

    fn time_left(&self) -> io::Result<std::time::Duration> {
        let left = self.end.since(crate::os::clock::steady());
        // A timeout of zero is an error.
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

#[cfg(unix)]
impl Read for AgentSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.time_left()?))?;
        self.stream.read(buffer)
    }
}

#[cfg(unix)]
impl Write for AgentSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.time_left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(windows)]
impl AgentSocket {
    /// Connects. While all instances of the pipe are in use, tries again.
    ///
    /// # Errors
    /// When there is no agent at this path, it does not allow us to connect, or the pipe is in use until `end`.
    #[allow(clippy::disallowed_methods, reason = "not a file")]
    pub fn connect(path: &Path, end: Steady) -> io::Result<Self> {
        use std::os::windows::fs::OpenOptionsExt as _;

        /// ERROR_PIPE_BUSY.
        const BUSY: i32 = 231;
        /// SECURITY_IDENTIFICATION: the process that has created the pipe cannot act in our name.
        const IDENTIFICATION: u32 = 0x0001_0000;
        const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
        const PIPES: &str = r"\\.\pipe\";

        // Anything else would be a file, and be overwritten.
        if !path.to_str().is_some_and(|path| path.replace('/', r"\").to_ascii_lowercase().starts_with(PIPES))
        {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, r"not a named pipe (\\.\pipe\NAME)"));
        }
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).security_qos_flags(IDENTIFICATION);
        loop {
            match options.open(path) {
                Err(error) if error.raw_os_error() == Some(BUSY) && crate::os::clock::steady() < end => {
                    std::thread::sleep(PAUSE);
                }
                opened => return Ok(Self { stream: opened? }),
            }
        }
    }

    /// Does nothing: a pipe has no timeouts. The caller must not wait for this connection.
    pub const fn set_end(&mut self, _: Steady) {}
}

#[cfg(windows)]
impl Read for AgentSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

#[cfg(windows)]
impl Write for AgentSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;
    use crate::os::clock;

    #[test]
    fn reading_ends_at_the_given_time_and_bytes_arrive_before() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        let mut socket = AgentSocket::connect(&path, clock::steady().plus(Duration::from_secs(60))).unwrap();
        let (mut agent, _) = listener.accept().unwrap();
        agent.write_all(b"hello").unwrap();
        let mut buffer = [0; 5];
        socket.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello");
        for time in [Duration::from_millis(20), Duration::ZERO] {
            socket.set_end(clock::steady().plus(time));
            let error = socket.read(&mut buffer).unwrap_err();
            assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
        }
    }

    #[test]
    fn there_is_no_connection_where_no_agent_is() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        crate::os::files::create_new(&file, crate::os::files::FileMode::Private, b"").unwrap();
        for path in [scratch.path().join("nothing"), file] {
            assert!(AgentSocket::connect(&path, clock::steady()).is_err(), "{}", path.display());
        }
    }
}
