//! Whether a certificate has a CommonName. etcd's gateway refuses all of these, but only while authentication is enabled, so
//! that it must be known before.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// DER: a sequence.
const SEQUENCE: u8 = 0x30;
/// DER: the version of a certificate, which is optional.
const VERSION: u8 = 0xa0;
/// DER: the object identifier 2.5.4.3, commonName (RFC 5280, appendix A.1).
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
/// Serial number, signature algorithm, issuer and validity are before the subject (RFC 5280, section 4.1).
const BEFORE_SUBJECT: usize = 4;

/// A value in DER, and what follows it.
struct DerValue<'a> {
    tag: u8,
    content: &'a [u8],
    rest: &'a [u8],
}

/// Whether the first certificate of a chain in PEM form has a CommonName; nothing if there is no certificate.
#[must_use]
pub fn has_common_name(pem: &[u8]) -> Option<bool> {
    let certificate = CertificateDer::pem_slice_iter(pem).next()?.ok()?;
    let subject = subject(&certificate)?;
    Some(subject.windows(COMMON_NAME.len()).any(|part| part == COMMON_NAME))
}

fn subject(certificate: &[u8]) -> Option<&[u8]> {
    let mut rest = DerValue::sequence(DerValue::sequence(certificate)?)?;
    if rest.first() == Some(&VERSION) {
        rest = DerValue::first(rest)?.rest;
    }
    for _ in 0..BEFORE_SUBJECT {
        rest = DerValue::first(rest)?.rest;
    }
    DerValue::sequence(rest)
}

impl<'a> DerValue<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if digits.len() > 3 {
                return None;
            }
            let number = |all: usize, digit: &u8| all.checked_mul(256)?.checked_add(usize::from(*digit));
            length = digits.iter().try_fold(0, number)?;
            rest = after;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        Some(Self { tag, content, rest })
    }

    /// The content of the first value, if it is a sequence.
    fn sequence(bytes: &'a [u8]) -> Option<&'a [u8]> {
        Self::first(bytes).filter(|value| value.tag == SEQUENCE).map(|value| value.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj …`.
    const WITHOUT: &str = include_str!("certificate/without.pem");
    const WITH: &str = include_str!("certificate/with.pem");
    /// The issuer has one, the subject has none.
    const ISSUER: &str = include_str!("certificate/issuer.pem");

    #[test]
    fn only_a_common_name_in_the_subject_of_the_first_certificate_matters() {
        for (pem, expected) in [
            (WITHOUT.to_owned(), Some(false)),
            (WITH.to_owned(), Some(true)),
            (ISSUER.to_owned(), Some(false)),
            (format!("{ISSUER}{WITH}"), Some(false)),
            (format!("{WITH}{ISSUER}"), Some(true)),
            (String::new(), None),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), None),
        ] {
            assert_eq!(has_common_name(pem.as_bytes()), expected, "{pem}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = subject(&bytes);
        }
    }
}
