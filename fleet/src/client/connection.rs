//! One endpoint: a warm connection, its version, and a token that is renewed when it expires.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::http::Response;
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};
use zeroize::Zeroizing;

use super::deadline::{Deadline, Patience};
use super::endpoint::{Endpoint, FixedResolver};
use super::error::{StoreFault, printable};
use super::identity::{Login, TlsIdentity};
use super::response::{ErrorAnswer, TokenResponse, VersionResponse};

/// The longest answer that is read. A page of policy is far below.
pub(super) const LONGEST_ANSWER: u64 = 4 << 20;
/// An endpoint that does not open a watch within this time is left for the next one.
const WATCH_OPENS_WITHIN: Duration = Duration::from_secs(1);
/// One for claims, and one for what goes on beside them.
const MOST_IDLE: usize = 2;
/// An idle connection is kept this long: `StoreClient::warm` uses it every few seconds.
const IDLE: Duration = Duration::from_secs(120);

pub(super) struct StoreConnection {
    pub(super) endpoint: Endpoint,
    agent: Agent,
    login: Option<Login>,
    token: Mutex<Option<Zeroizing<String>>>,
    /// Whether the version was good when it was last asked for; asked again after a lost connection, because the server
    /// may have been replaced.
    is_verified: AtomicBool,
    /// Whether the agent has created its TLS configuration, with its cache of sessions: it keeps only one that was
    /// created for a request without a timeout of its own.
    is_primed: AtomicBool,
}

impl StoreConnection {
    pub(super) fn new(endpoint: Endpoint, tls: Option<&TlsIdentity>, login: Option<Login>) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // Never a proxy from the environment.
            .proxy(None)
            .https_only(endpoint.is_tls())
            .user_agent("")
            .accept("")
            .accept_encoding("")
            .no_delay(true)
            .max_idle_connections(MOST_IDLE)
            .max_idle_connections_per_host(MOST_IDLE)
            .max_idle_age(IDLE)
            .timeout_global(Some(Patience::CLAIM.each));
        if let Some(tls) = tls {
            config = config.tls_config(tls.config());
        }
        let agent =
            Agent::with_parts(config.build(), DefaultConnector::default(), FixedResolver(endpoint.clone()));
        Self {
            endpoint,
            agent,
            login,
            token: Mutex::new(None),
            is_verified: AtomicBool::new(false),
            is_primed: AtomicBool::new(false),
        }
    }

    /// Sends a request and returns the body of its answer, within this time in all.
    pub(super) fn post(&self, path: &str, body: &[u8], within: Duration) -> Result<Vec<u8>, StoreFault> {
        let deadline = Deadline::within(within);
        let answer = self.with_token(deadline, within, |token, left| {
            read(self.request(path, token).config().timeout_global(Some(left)).build().send(body), within)
        });
        answer.map_err(|fault| {
            if is_lost(&fault) {
                self.is_verified.store(false, Ordering::Relaxed);
            }
            match fault {
                // Of what was left at the last step.
                StoreFault::Timeout(_) => StoreFault::Timeout(within.as_millis()),
                fault => fault,
            }
        })
    }

    /// Opens a stream, which ends with an error after this much silence.
    pub(super) fn stream(
        &self,
        path: &str,
        body: &[u8],
        silence: Duration,
    ) -> Result<Response<Body>, StoreFault> {
        let within = WATCH_OPENS_WITHIN;
        self.with_token(Deadline::within(within), within, |token, left| {
            let response = self
                .request(path, token)
                .header("Grpc-Metadata-hasleader", "true")
                .config()
                .timeout_global(None)
                .timeout_connect(Some(left))
                .timeout_recv_response(Some(left))
                .timeout_per_read(Some(silence))
                .build()
                .send(body)
                .map_err(|error| fault(error, left))?;
            if response.status().is_success() { Ok(response) } else { Err(rejection(response)) }
        })
    }

    /// The version, after checking that it loses no data.
    pub(super) fn version(&self, within: Duration) -> Result<String, StoreFault> {
        let request = self.agent.get(self.url("/version"));
        let response = if self.is_primed.load(Ordering::Relaxed) {
            request.config().timeout_global(Some(within)).build().call()
        } else {
            request.call()
        };
        let body = read(response, within)?;
        self.is_primed.store(true, Ordering::Relaxed);
        let version: VersionResponse = parse(&body)?;
        if is_bad(&version.etcdserver) {
            return Err(StoreFault::BadVersion(printable(&version.etcdserver)));
        }
        self.is_verified.store(true, Ordering::Relaxed);
        Ok(printable(&version.etcdserver))
    }

    fn with_token<T>(
        &self,
        deadline: Deadline,
        within: Duration,
        send: impl Fn(Option<&str>, Duration) -> Result<T, StoreFault>,
    ) -> Result<T, StoreFault> {
        let left = || deadline.left().ok_or(StoreFault::Timeout(within.as_millis()));
        if !self.is_verified.load(Ordering::Relaxed) {
            self.version(left()?)?;
        }
        let known = self.known_token();
        if known.is_some() || self.login.is_none() {
            match send(known.as_ref().map(|token| token.as_str()), left()?) {
                Err(StoreFault::Token) if self.login.is_some() => {}
                other => return other,
            }
        }
        let token = self.log_in(left()?)?;
        send(Some(token.as_str()), left()?)
    }

    fn known_token(&self) -> Option<Zeroizing<String>> {
        self.token.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn log_in(&self, within: Duration) -> Result<Zeroizing<String>, StoreFault> {
        let login = self.login.as_ref().ok_or(StoreFault::Token)?;
        let body = login.body().map_err(|error| StoreFault::Invalid(error.to_string()))?;
        let request = self.request("/v3/auth/authenticate", None);
        let sent = request.config().timeout_global(Some(within)).build().send(body.as_slice());
        let answer = Zeroizing::new(read(sent, within)?);
        let token = Zeroizing::new(parse::<TokenResponse>(&answer)?.token);
        *self.token.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(token.clone());
        Ok(token)
    }

    fn request(&self, path: &str, token: Option<&str>) -> ureq::RequestBuilder<ureq::typestate::WithBody> {
        let request = self.agent.post(self.url(path)).header("Content-Type", "application/json");
        match token {
            Some(token) => request.header("Authorization", token),
            None => request,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint.url())
    }
}

/// 3.5.0 to 3.5.2 can diverge after a crash (etcd's announcement of March 2022).
fn is_bad(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']);
    let [major, minor, patch] = [(); 3].map(|()| parts.next().and_then(|part| part.parse::<u32>().ok()));
    match (major, minor, patch) {
        (Some(3), Some(5), Some(patch)) => patch <= 2,
        // Before 3.4, the gateway has other paths.
        (Some(3), Some(minor), Some(_)) => minor < 4,
        _ => true,
    }
}

fn is_lost(fault: &StoreFault) -> bool {
    matches!(fault, StoreFault::Connection(_) | StoreFault::Tls(_) | StoreFault::Timeout(_))
}

fn read(sent: Result<Response<Body>, ureq::Error>, within: Duration) -> Result<Vec<u8>, StoreFault> {
    let mut response = sent.map_err(|error| fault(error, within))?;
    if !response.status().is_success() {
        return Err(rejection(response));
    }
    response
        .body_mut()
        .with_config()
        .limit(LONGEST_ANSWER)
        .read_to_vec()
        .map_err(|error| fault(error, within))
}

/// The meaning of an answer that reports an error: JSON, or plain text.
fn rejection(mut response: Response<Body>) -> StoreFault {
    let status = response.status().as_u16();
    let body = match response.body_mut().with_config().limit(64 << 10).read_to_vec() {
        Ok(body) => body,
        Err(error) => return fault(error, Patience::CLAIM.each),
    };
    match serde_json::from_slice::<ErrorAnswer>(&body) {
        Ok(answer) => StoreFault::of_error(&answer),
        Err(_) => StoreFault::of_answer(0, &format!("HTTP {status}: {}", String::from_utf8_lossy(&body))),
    }
}

impl StoreFault {
    pub(super) fn of_error(answer: &ErrorAnswer) -> Self {
        let text = if answer.error.is_empty() { &answer.message } else { &answer.error };
        Self::of_answer(answer.code, text)
    }
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, StoreFault> {
    serde_json::from_slice(body).map_err(|error| StoreFault::Invalid(printable(&error.to_string())))
}

/// The meaning of an error of the transport, after `within`.
fn fault(error: ureq::Error, within: Duration) -> StoreFault {
    match error {
        ureq::Error::Timeout(_) => StoreFault::Timeout(within.as_millis()),
        ureq::Error::Io(error) => io_fault(&error, within),
        ureq::Error::Rustls(error) => StoreFault::Tls(error.to_string()),
        ureq::Error::Tls(reason) => StoreFault::Tls(reason.to_owned()),
        ureq::Error::BodyExceedsLimit(limit) => StoreFault::Invalid(format!("longer than {limit} bytes")),
        error => StoreFault::Connection(printable(&error.to_string())),
    }
}

pub(super) fn io_fault(error: &io::Error, within: Duration) -> StoreFault {
    if let Some(inner) = error.get_ref() {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return StoreFault::Tls(tls.to_string());
        }
        if let Some(ureq::Error::Timeout(_)) = inner.downcast_ref::<ureq::Error>() {
            return StoreFault::Timeout(within.as_millis());
        }
    }
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => StoreFault::Timeout(within.as_millis()),
        _ => StoreFault::Connection(printable(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_lose_data_are_rejected() {
        for good in ["3.4.23", "3.5.3", "3.5.21", "3.6.0", "3.6.0-rc.1"] {
            assert!(!is_bad(good), "{good}");
        }
        for bad in ["3.5.0", "3.5.1", "3.5.2", "3.5.0-rc.0", "3.3.27", "2.3.8", "", "4.0.0", "x.y.z"] {
            assert!(is_bad(bad), "{bad}");
        }
    }
}
