//! Why the store did not do what was asked: which endpoint, the reason, and what to do about it.

use std::fmt;

use crate::rollback::WentBack;

/// A failed request to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    endpoint: String,
    fault: StoreFault,
}

/// The reason of a [`StoreError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreFault {
    /// No answer within the deadline: whether the request was carried out is unknown.
    #[error("no answer within {0} ms")]
    Timeout(u128),
    /// The connection failed or ended: whether the request was carried out is unknown.
    #[error("{0}")]
    Connection(String),
    /// The certificate of the endpoint or our own was rejected, or they do not speak TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// etcd rejects every request through its gateway whose client certificate has a common name.
    #[error("the client certificate has a CommonName, and etcd's gateway rejects all of these")]
    CommonName,
    /// User or password are wrong.
    #[error("user name or password rejected")]
    WrongPassword,
    /// The token has expired or is invalid; the client renews it.
    #[error("token expired or invalid")]
    Token,
    /// Users and roles have not been enabled.
    #[error("authentication is not enabled")]
    NoAuthentication,
    /// The user's roles do not allow this.
    #[error("permission denied")]
    Permission,
    /// The store has no leader at the moment, or is overloaded.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The database has reached its quota; etcd accepts no writes until the alarm is disarmed.
    #[error("database space exceeded (NOSPACE)")]
    NoSpace,
    /// The revision to resume from has been compacted: everything must be read again.
    #[error("revision compacted; the oldest is {0}")]
    Compacted(u64),
    /// A lease has ended.
    #[error("lease not found")]
    NoLease,
    /// The name of a user or a role exists already.
    #[error("it exists already")]
    Exists,
    /// A version with a known inconsistency of its data.
    #[error("etcd {0} can lose or duplicate data")]
    BadVersion(String),
    /// The store has forgotten what it once knew: nothing that it grants can be relied on.
    #[error("{0}")]
    WentBack(WentBack),
    /// An answer that etcd does not give, or that is too long.
    #[error("invalid answer: {0}")]
    Invalid(String),
    /// Any other error that etcd reports.
    #[error("{0}")]
    Other(String),
}

impl StoreError {
    /// An error of this endpoint.
    pub(crate) fn new(endpoint: &str, fault: StoreFault) -> Self {
        Self { endpoint: endpoint.to_owned(), fault }
    }

    /// The URL of the endpoint that was asked last.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The reason.
    #[must_use]
    pub const fn fault(&self) -> &StoreFault {
        &self.fault
    }
}

impl StoreFault {
    /// What the administrator can do, as an instruction.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Tls(_) => "check with openssl s_client that ca, cert and key fit this endpoint",
            Self::CommonName => {
                "issue a client certificate with an empty subject; user and password identify the member"
            }
            Self::WrongPassword => "run spa-knockd fleet join again",
            Self::NoAuthentication => {
                "if etcd is empty, spa-knockd fleet init explains how to set the fleet up again; otherwise find out why, then: etcdctl auth enable"
            }
            Self::Permission => "grant the user the role that spa-knockd fleet init has created",
            Self::NoSpace => "compact and defragment etcd, then etcdctl alarm disarm",
            Self::BadVersion(_) => "install etcd 3.4, or 3.5.3 or later",
            Self::WentBack(_) => WentBack::HINT,
            Self::Timeout(_)
            | Self::Connection(_)
            | Self::Token
            | Self::Unavailable(_)
            | Self::Compacted(_)
            | Self::NoLease
            | Self::Exists
            | Self::Invalid(_)
            | Self::Other(_) => return None,
        })
    }

    /// Whether another endpoint, or the same one a moment later, could succeed.
    pub(crate) const fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Timeout(_)
                | Self::Connection(_)
                | Self::Tls(_)
                | Self::Token
                | Self::Unavailable(_)
                | Self::BadVersion(_)
                | Self::Invalid(_)
        )
    }

    /// The meaning of an error that the gateway reports with this gRPC code (0 if there is none).
    pub(crate) fn of_answer(code: u32, text: &str) -> Self {
        let has = |part| text.contains(part);
        match code {
            _ if has("CommonName") => Self::CommonName,
            _ if has("database space exceeded") => Self::NoSpace,
            _ if has("authentication failed") => Self::WrongPassword,
            _ if has("invalid auth token")
                || has("user name is empty")
                || has("revision in header is old") =>
            {
                Self::Token
            }
            _ if has("authentication is not enabled") => Self::NoAuthentication,
            _ if has("permission denied") => Self::Permission,
            _ if has("revision has been compacted") => Self::Compacted(0),
            _ if has("lease not found") => Self::NoLease,
            _ if has("already exists") || has("already enabled") => Self::Exists,
            // Unavailable, ResourceExhausted (too many requests), DeadlineExceeded, Canceled, Internal, Unknown.
            14 | 8 | 4 | 1 | 13 | 2 => Self::Unavailable(printable(text)),
            _ if has("no leader") || has("leader changed") || has("timed out") => {
                Self::Unavailable(printable(text))
            }
            _ => Self::Other(printable(text)),
        }
    }
}

/// Text of the other side, without control characters, and short.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(200).filter(|c| !c.is_control()).collect()
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store {}: {}", self.endpoint, self.fault)?;
        match self.fault.hint() {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StoreError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_reports_is_recognized_by_code_and_text() {
        let cases = [
            (16, "etcdserver: invalid auth token", StoreFault::Token),
            (3, "etcdserver: user name is empty", StoreFault::Token),
            (3, "etcdserver: revision in header is old", StoreFault::Token),
            (3, "etcdserver: authentication failed, invalid user ID or password", StoreFault::WrongPassword),
            (9, "etcdserver: authentication is not enabled", StoreFault::NoAuthentication),
            (7, "etcdserver: permission denied", StoreFault::Permission),
            (8, "etcdserver: mvcc: database space exceeded", StoreFault::NoSpace),
            (5, "etcdserver: requested lease not found", StoreFault::NoLease),
            (11, "etcdserver: mvcc: required revision has been compacted", StoreFault::Compacted(0)),
            (9, "etcdserver: role name already exists", StoreFault::Exists),
            (14, "etcdserver: no leader", StoreFault::Unavailable("etcdserver: no leader".to_owned())),
            (3, "context\u{1b}[0m", StoreFault::Other("context[0m".to_owned())),
        ];
        for (code, text, fault) in cases {
            assert_eq!(StoreFault::of_answer(code, text), fault, "{text}");
        }
    }

    #[test]
    fn an_error_names_the_endpoint_the_reason_and_the_fix() {
        let error = StoreError::new("https://a:2379", StoreFault::CommonName);
        assert_eq!(
            error.to_string(),
            "store https://a:2379: the client certificate has a CommonName, and etcd's gateway rejects all of these\n\
             hint: issue a client certificate with an empty subject; user and password identify the member"
        );
    }
}
