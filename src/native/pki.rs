//! Certificates of the embedded KMS. Private keys are made and stay in 0600 files; only certificates cross.

use std::path::Path;

use napi::Result;
use napi_derive::napi;
use vmseal_channel::pki;

use crate::fault::guard;

/// Makes a CA: a P-256 key in a new 0600 file, and a certificate for ten years (PEM).
#[napi]
pub fn create_authority(common_name: String, key_file: String) -> Result<String> {
    guard(|| pki::create_authority(&common_name, Path::new(&key_file), pki::AUTHORITY_DAYS))
}

/// Makes a server key in a new 0600 file and its certificate (PEM) for DNS names and IP addresses.
#[napi]
pub fn issue_server_certificate(
    ca_certificate: String,
    ca_key_file: String,
    names: Vec<String>,
    key_file: String,
) -> Result<String> {
    guard(|| pki::issue_server(&ca_certificate, Path::new(&ca_key_file), &names, Path::new(&key_file)))
}

/// Makes a client key in a new 0600 file and its certificate (PEM).
#[napi]
pub fn issue_client_certificate(
    ca_certificate: String,
    ca_key_file: String,
    common_name: String,
    key_file: String,
) -> Result<String> {
    guard(|| pki::issue_client(&ca_certificate, Path::new(&ca_key_file), &common_name, Path::new(&key_file)))
}

/// What a certificate says.
#[napi(object, object_from_js = false)]
pub struct CertificateDescription {
    pub subject: String,
    pub issuer: String,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// Seconds since 1970.
    pub not_before: f64,
    /// Seconds since 1970.
    pub not_after: f64,
    /// Hex SHA-256 of the public key (SPKI): what a client is known by.
    pub key_hash: String,
}

/// Describes the first certificate of a PEM text.
#[napi]
pub fn describe_certificate(certificate: String) -> Result<CertificateDescription> {
    let description = guard(|| pki::describe(&certificate))?;
    Ok(CertificateDescription {
        subject: description.subject,
        issuer: description.issuer,
        serial: description.serial,
        not_before: description.not_before as f64,
        not_after: description.not_after as f64,
        key_hash: hex(&description.spki_sha256),
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
