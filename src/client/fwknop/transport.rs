//! Sends a packet: in a datagram, over a connection, or in an HTTP request.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use spa_knock_fwknop::{ClientOptions, PacketTransport};

use super::packet::random_port;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::knock::request::check_printable;
use crate::client::knock::route::{FamilyFilter, Route, put, resolve, unbracketed};
use crate::client::report::Reporter;
use crate::os::files::io_error_text;

/// The port of fwknopd.
const PORT: u16 = 62_201;
/// fwknopd accepts only requests with this word, unless it is configured otherwise.
const USER_AGENT: &str = "Fwknop/2.6.10";
/// How long to wait for a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for the reply of a proxy, which stops forwarding a request when its connection ends.
const PROXY_PATIENCE: Duration = Duration::from_secs(5);

/// Where packets are sent, and how.
pub(super) struct PacketRoute {
    /// The server, as typed.
    server: String,
    /// The host to connect to: the server, or a proxy.
    host: String,
    port: u16,
    transport: PacketTransport,
    family: FamilyFilter,
    user_agent: String,
    is_proxied: bool,
}

/// The `User-Agent` of HTTP requests.
pub(super) fn user_agent(options: &ClientOptions) -> &str {
    options.user_agent.as_deref().unwrap_or(USER_AGENT)
}

impl PacketRoute {
    /// The route according to the options.
    pub(super) fn new(
        server: &str,
        options: &ClientOptions,
        proxy: Option<&str>,
    ) -> Result<Self, ClientError> {
        check_printable("SERVER", server)?;
        check_printable("User-Agent", user_agent(options))?;
        let transport = options.transport.unwrap_or(PacketTransport::Udp);
        let mut port = options.server_port.unwrap_or(PORT);
        if options.random_port == Some(true) {
            port = random_port()?;
        }
        let mut host = unbracketed(server).to_owned();
        if let Some(proxy) = proxy {
            check_printable("-H", proxy)?;
            let proxy = proxy.strip_prefix("http://").unwrap_or(proxy).trim_end_matches('/');
            (host, port) = proxy_address(proxy, port)?;
        }
        Ok(Self {
            server: unbracketed(server).to_owned(),
            host,
            port,
            transport,
            family: if options.ipv4_only == Some(true) { FamilyFilter::V4 } else { FamilyFilter::Any },
            user_agent: user_agent(options).to_owned(),
            is_proxied: proxy.is_some(),
        })
    }

    /// The name of the transport, and the proxy.
    pub(super) fn transport(&self) -> String {
        match self.is_proxied {
            true => format!("{} through the proxy", self.transport.name()),
            false => self.transport.name().to_owned(),
        }
    }

    /// Sends a packet to one address, and returns the address.
    pub(super) fn send(&self, wire: &str, report: &Reporter) -> Result<SocketAddr, ClientError> {
        let address = self.address()?;
        let sent = match self.transport {
            PacketTransport::Udp => Route::to(address).and_then(|route| put(&route.socket, wire.as_bytes())),
            PacketTransport::Tcp => self.over_connection(address, wire, report),
            PacketTransport::Http => self.over_connection(address, &self.request(wire), report),
        };
        sent.map(|()| address).map_err(|error| {
            let text = match error.kind() {
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no connection in time".to_owned(),
                _ => io_error_text(&error),
            };
            let failure =
                ClientError::new(ExitCause::Network, format!("{}: {address}: packet not sent: {text}", self.server));
            match self.transport {
                PacketTransport::Udp => failure,
                _ => failure.hint("something must accept the connection: with fwknopd, set ENABLE_TCP_SERVER Y, or use a web server's port"),
            }
        })
    }

    /// The first IPv4 address: packets request access for an IPv4 address, and fwknopd listens on no other. An IPv6
    /// address only if there is no other.
    fn address(&self) -> Result<SocketAddr, ClientError> {
        let mut addresses = resolve(&self.host, self.port, self.family, None).map_err(|failure| {
            failure.hint(match self.is_proxied {
                true => "check the name of the proxy, -H",
                false => "check the name: -D, or SPA_SERVER in the stanza",
            })
        })?;
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let missing = || ClientError::new(ExitCause::Network, format!("{}: has no address", self.host));
        addresses.first().copied().ok_or_else(missing)
    }

    /// The packet in the path of a request. `+` and `/` have other meanings there.
    fn request(&self, wire: &str) -> String {
        let path = wire.replace('+', "-").replace('/', "_");
        let host = if self.server.contains(':') { format!("[{}]", self.server) } else { self.server.clone() };
        let scheme = if self.is_proxied { format!("http://{host}") } else { String::new() };
        format!(
            "GET {scheme}/{path} HTTP/1.1\r\nUser-Agent: {}\r\nAccept: */*\r\nHost: {host}\r\nConnection: close\r\n\r\n",
            self.user_agent
        )
    }

    fn over_connection(&self, address: SocketAddr, text: &str, report: &Reporter) -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // In one segment: fwknopd does not join segments.
        stream.write_all(text.as_bytes())?;
        if self.is_proxied {
            stream.set_read_timeout(Some(PROXY_PATIENCE))?;
            let mut reply = [0; 512];
            let length = stream.read(&mut reply).unwrap_or_default();
            let reply = String::from_utf8_lossy(reply.get(..length).unwrap_or_default()).into_owned();
            let status = reply.lines().next().unwrap_or_default();
            report.detail(|| format!("the proxy replied '{}'", status.escape_default()));
        } else {
            // Ends the connection in order; otherwise a system may discard what has not been delivered.
            let _ = stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}

/// `HOST[:PORT]`.
fn proxy_address(text: &str, port: u16) -> Result<(String, u16), ClientError> {
    let (host, port) =
        match text.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']')) {
            Some((host, number)) => (host, number.parse().ok().filter(|&number| number != 0)),
            None => (text, Some(port)),
        };
    match (host.is_empty(), port) {
        (false, Some(port)) => Ok((unbracketed(host).to_owned(), port)),
        _ => Err(ClientError::new(ExitCause::Usage, "-H: not a proxy").hint("write it as HOST[:PORT]")),
    }
}

/// `SERVER port PORT over TRANSPORT`.
impl fmt::Display for PacketRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, host, port, .. } = self;
        match (self.is_proxied, self.transport.name()) {
            (true, name) => write!(f, "{server} over {name}, through the proxy {host} port {port}"),
            (false, name) => write!(f, "{server} port {port} over {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(server: &str, proxy: Option<&str>) -> PacketRoute {
        let options = ClientOptions { transport: Some(PacketTransport::Http), ..ClientOptions::default() };
        PacketRoute::new(server, &options, proxy).ok().unwrap()
    }

    #[test]
    fn a_request_is_that_of_fwknops_client() {
        let end = "User-Agent: Fwknop/2.6.10\r\nAccept: */*\r\nHost: server\r\nConnection: close\r\n\r\n";
        assert_eq!(route("server", None).request("9a+b/c"), format!("GET /9a-b_c HTTP/1.1\r\n{end}"));
        assert_eq!(
            route("server", Some("http://proxy:3128/")).request("9a+b/c"),
            format!("GET http://server/9a-b_c HTTP/1.1\r\n{end}")
        );
        assert!(route("2001:db8::1", None).request("9").contains("\r\nHost: [2001:db8::1]\r\n"));
    }

    #[test]
    fn a_proxy_has_a_host_and_an_optional_port() {
        for (proxy, host, port) in [
            ("proxy:3128", "proxy", 3128),
            ("http://proxy", "proxy", 62_201),
            ("[2001:db8::1]:80", "2001:db8::1", 80),
            ("2001:db8::1", "2001:db8::1", 62_201),
        ] {
            let route = route("server", Some(proxy));
            assert_eq!((route.host.as_str(), route.port), (host, port), "{proxy}");
        }
        for invalid in ["", ":80", "proxy:0", "proxy:x"] {
            assert!(proxy_address(invalid, PORT).is_err(), "{invalid}");
        }
    }
}
