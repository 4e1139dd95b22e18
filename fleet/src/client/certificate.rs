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

/// Whether the first certificate of a chain in PEM form has a CommonName; nothing if there is no certificate.
#[must_use]
pub fn has_common_name(pem: &[u8]) -> Option<bool> {
    let certificate = CertificateDer::pem_slice_iter(pem).next()?.ok()?;
    let (_, subject) = subject(&certificate)?;
    Some(subject.windows(COMMON_NAME.len()).any(|part| part == COMMON_NAME))
}

fn subject(certificate: &[u8]) -> Option<Element<'_>> {
    let ((tag, certificate), _) = value(certificate)?;
    let ((tbs_tag, mut rest), _) = value(certificate)?;
    if tag != SEQUENCE || tbs_tag != SEQUENCE {
        return None;
    }
    if rest.first() == Some(&VERSION) {
        rest = value(rest)?.1;
    }
    for _ in 0..BEFORE_SUBJECT {
        rest = value(rest)?.1;
    }
    value(rest).map(|(subject, _)| subject).filter(|(tag, _)| *tag == SEQUENCE)
}

/// A tag and its value.
type Element<'a> = (u8, &'a [u8]);

/// The first value, with its tag, and what follows it.
fn value(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 3 {
            return None;
        }
        length = digits
            .iter()
            .try_fold(0_usize, |all, digit| all.checked_mul(256)?.checked_add(usize::from(*digit)))?;
        rest = after;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some(((tag, content), rest))
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
