//! Where etcd answers: a URL for TLS and HTTP, and the addresses behind it, resolved in advance, because the store process
//! can open no file and hence asks no name server.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// One member of the store: `https://host:port`, with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
    addresses: Vec<SocketAddr>,
}

/// Why a text is not the URL of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Not a URL of the expected form.
    #[error(
        "endpoint {0:?}: not a URL of the form https://HOST:PORT\nhint: name the scheme and the port, and no path"
    )]
    Form(String),
    /// Without TLS on a network, anyone on the path decides what is claimed.
    #[error(
        "endpoint {0:?}: http is only allowed for a loopback address\nhint: use https, with a CA and a client certificate"
    )]
    Plain(String),
    /// No address is known for it.
    #[error("endpoint {0:?}: has no address\nhint: use a name that resolves, or an address")]
    Address(String),
}

impl Endpoint {
    /// An endpoint from its URL and the addresses that its host name resolves to. For a host that is an address,
    /// `addresses` can be empty.
    ///
    /// # Errors
    /// If the URL is not `https://HOST:PORT`, or has no address.
    pub fn new(url: &str, addresses: &[SocketAddr]) -> Result<Self, InvalidEndpoint> {
        let (host, port) = Self::host_and_port(url)?;
        let literal = host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        let addresses: Vec<_> = match literal {
            Some(address) => vec![address],
            None => addresses.iter().take(4).map(|a| SocketAddr::new(a.ip(), port)).collect(),
        };
        if addresses.is_empty() {
            return Err(InvalidEndpoint::Address(url.to_owned()));
        }
        let is_plain = url.starts_with("http:");
        if is_plain && !literal.is_some_and(|address| address.ip().is_loopback()) {
            return Err(InvalidEndpoint::Plain(url.to_owned()));
        }
        Ok(Self { url: url.trim_end_matches('/').to_owned(), addresses })
    }

    /// Host and port of the URL: what has to be resolved before [`Endpoint::new`].
    ///
    /// # Errors
    /// If the URL is not `https://HOST:PORT`.
    pub fn host_and_port(url: &str) -> Result<(String, u16), InvalidEndpoint> {
        let form = || InvalidEndpoint::Form(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| form())?;
        let known = matches!(uri.scheme_str(), Some("https" | "http"));
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let authority = uri.authority().ok_or_else(form)?;
        let port = authority.port_u16().filter(|port| *port != 0).ok_or_else(form)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if !known || !bare || host.is_empty() || authority.as_str().contains('@') {
            return Err(form());
        }
        Ok((host.to_owned(), port))
    }

    /// The URL, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The addresses, for the rules of a sandbox.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether connections use TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.url.starts_with("https:")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// Resolves the one host of an agent. ureq's own resolver starts a thread for each connection.
#[derive(Debug)]
pub(super) struct FixedResolver(pub(super) Endpoint);

impl Resolver for FixedResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut resolved = self.empty();
        // At most four, and there is room for sixteen: `push` panics on a full list.
        for address in self.0.addresses.iter().take(4) {
            resolved.push(*address);
        }
        Ok(resolved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_a_port() {
        let address: SocketAddr = "10.0.0.5:1".parse().unwrap();
        let cases = [
            ("https://10.0.0.1:2379", "10.0.0.1:2379"),
            ("https://[fd00::1]:2379/", "[fd00::1]:2379"),
            ("http://127.0.0.1:2379", "127.0.0.1:2379"),
            ("https://etcd-1.example.org:2379", "10.0.0.5:2379"),
        ];
        for (url, expected) in cases {
            let endpoint = Endpoint::new(url, &[address]).unwrap();
            assert_eq!(endpoint.addresses(), [expected.parse().unwrap()], "{url}");
            assert_eq!(endpoint.url(), url.trim_end_matches('/'));
        }
    }

    #[test]
    fn what_is_no_endpoint_is_rejected_with_the_reason() {
        let form = [
            "",
            "etcd:2379",
            "https://etcd",
            "https://etcd:0",
            "ftp://etcd:1",
            "https://a:b@etcd:1",
            "https://e:1/x",
        ];
        for url in form {
            assert_eq!(Endpoint::new(url, &[]), Err(InvalidEndpoint::Form(url.to_owned())), "{url}");
        }
        for url in ["http://10.0.0.1:2379", "http://[fd00::1]:1"] {
            assert_eq!(Endpoint::new(url, &[]), Err(InvalidEndpoint::Plain(url.to_owned())), "{url}");
        }
        let url = "https://etcd-1:2379";
        assert_eq!(Endpoint::new(url, &[]), Err(InvalidEndpoint::Address(url.to_owned())));
    }
}
