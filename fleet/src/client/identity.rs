//! Who we are for the store, and which stores we trust: certificates, and user and password.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use zeroize::Zeroizing;

use super::json;

/// Certificates for mutual TLS, checked when they are read. The private key stays in memory for as long as a client uses
/// it; the TLS library does not wipe it.
#[derive(Clone)]
pub struct TlsIdentity(TlsConfig);

/// Why certificates are unusable. The files' content is never repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsIdentityError {
    /// The file of the CA has no certificate.
    #[error(
        "ca: contains no certificate in PEM form\nhint: use the certificate of the CA that signed etcd's certificates"
    )]
    Ca,
    /// The file of the client certificate has none.
    #[error("cert: contains no certificate in PEM form\nhint: use a client certificate without CommonName")]
    Certificate,
    /// The file of the key has none.
    #[error("key: contains no private key in PEM form\nhint: use an unencrypted PKCS#8, PKCS#1 or SEC1 key")]
    Key,
    /// Key and certificate do not belong together.
    #[error("key: does not fit cert ({0})\nhint: use the key that the certificate was issued for")]
    Mismatch(String),
}

/// User and password of a member or an administrator.
#[derive(Clone)]
pub struct Login {
    /// The name of the user in etcd.
    pub user: String,
    /// Their password.
    pub password: Zeroizing<String>,
}

/// A login as the gateway and [`crate::init`] send it.
#[derive(Serialize)]
struct NamedPassword<'a> {
    name: &'a str,
    password: &'a str,
}

impl Login {
    pub(crate) fn body(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        json::body(&NamedPassword { name: &self.user, password: &self.password })
    }
}

impl TlsIdentity {
    /// Reads the CA's certificates, the client's certificate chain and its key, all in PEM form.
    ///
    /// # Errors
    /// If one of them is missing, or key and certificate do not belong together.
    pub fn from_pem(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, TlsIdentityError> {
        check(certificate, key)?;
        let roots = certificates(ca).ok_or(TlsIdentityError::Ca)?;
        let chain = certificates(certificate).ok_or(TlsIdentityError::Certificate)?;
        let key = PrivateKey::from_pem(key).map_err(|_| TlsIdentityError::Key)?;
        let config = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .client_cert(Some(ClientCert::new_with_certs(&chain, key)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        Ok(Self(config))
    }

    pub(super) fn config(&self) -> TlsConfig {
        self.0.clone()
    }
}

fn certificates(pem: &[u8]) -> Option<Vec<Certificate<'static>>> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.ok()? {
            found.push(certificate);
        }
    }
    (!found.is_empty()).then_some(found)
}

/// Lets the TLS library compare key and certificate: ureq would panic on a mismatch.
fn check(certificate: &[u8], key: &[u8]) -> Result<(), TlsIdentityError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsIdentityError::Certificate)?;
    if chain.is_empty() {
        return Err(TlsIdentityError::Certificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsIdentityError::Key)?;
    let mismatch = |error: rustls::Error| TlsIdentityError::Mismatch(error.to_string());
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_auth_cert(chain, key)
        .map(drop)
        .map_err(mismatch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_a_certificate_or_key_are_named() {
        let no_certificate = TlsIdentity::from_pem(b"", b"", b"").err();
        assert_eq!(no_certificate, Some(TlsIdentityError::Certificate));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(TlsIdentity::from_pem(b"", broken, b"x").err(), Some(TlsIdentityError::Key));
    }
}
