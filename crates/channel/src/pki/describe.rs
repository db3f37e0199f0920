//! What a certificate says.

use base64ct::{Base64, Encoding};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::Error;
use crate::tls::certificates;

/// The parts of a certificate that people and clients of this crate look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Distinguished name of the holder, as text (RFC 4514 order of the certificate).
    pub subject: String,
    /// Common name of the holder, when there is one.
    pub subject_cn: Option<String>,
    /// Distinguished name of the issuer.
    pub issuer: String,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// Start of validity, seconds since 1970.
    pub not_before: i64,
    /// End of validity, seconds since 1970.
    pub not_after: i64,
    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER): what a client is known by.
    pub spki_sha256: [u8; 32],
    /// Whether it may issue other certificates.
    pub is_authority: bool,
}

/// Describes the first certificate of a PEM text.
///
/// Errors: [`Error::Certificate`].
pub fn describe(certificate_pem: &str) -> Result<Description, Error> {
    let der = first(certificate_pem)?;
    let certificate = parse(&der)?;
    Ok(Description {
        subject: certificate.subject().to_string(),
        subject_cn: common_name(&certificate),
        issuer: certificate.issuer().to_string(),
        serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        spki_sha256: spki_hash(&certificate),
        is_authority: certificate.is_ca(),
    })
}

/// SHA-256 of the public key (SubjectPublicKeyInfo, DER) of the first certificate of a PEM text.
///
/// Errors: [`Error::Certificate`].
pub fn spki_sha256(certificate_pem: &str) -> Result<[u8; 32], Error> {
    Ok(spki_hash(&parse(&first(certificate_pem)?)?))
}

pub(crate) fn spki_hash(certificate: &X509Certificate<'_>) -> [u8; 32] {
    Sha256::digest(certificate.public_key().raw).into()
}

pub(crate) fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

pub(super) fn first(certificate_pem: &str) -> Result<CertificateDer<'static>, Error> {
    // At least one: `certificates` refuses an empty text.
    certificates(certificate_pem, "certificate").map(|mut chain| chain.swap_remove(0))
}

pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate)
        .map_err(|error| Error::Certificate(format!("the certificate cannot be read: {error}")))
}

/// A certificate (DER) as PEM (RFC 7468).
pub fn to_pem(certificate_der: &[u8]) -> String {
    let text = Base64::encode_string(certificate_der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|&letter| char::from(letter)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
