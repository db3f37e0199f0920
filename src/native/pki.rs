//! Certificates: of the embedded KMS, and of vCenter and its hosts. Private keys are made and stay in 0600 files; only certificates cross.

use std::path::Path;
use std::time::Duration;

use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;
use vmseal_channel::{Proxy, pki};

use crate::background;
use crate::fault::guard;
use crate::kmip_connection::KmipProxy;

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

/// Makes a client key in a new 0600 file and a self-signed certificate (PEM), for a KMS that pins single certificates.
#[napi]
pub fn create_self_signed_client(common_name: String, key_file: String) -> Result<String> {
    guard(|| pki::create_self_signed(&common_name, Path::new(&key_file)))
}

/// Makes a client key in a new 0600 file and a signing request (PKCS#10, PEM).
#[napi]
pub fn create_certificate_request(common_name: String, key_file: String) -> Result<String> {
    guard(|| pki::create_request(&common_name, Path::new(&key_file)))
}

/// Signs a request (PKCS#10, PEM) as a client certificate (PEM); of the request only key and common name count. `notAfter`, in
/// seconds since 1970, is another end than the usual one.
#[napi]
pub fn sign_certificate_request(
    ca_certificate: String,
    ca_key_file: String,
    request: String,
    common_name: Option<String>,
    not_after: Option<f64>,
) -> Result<String> {
    let not_after = not_after.map(|seconds| seconds as i64);
    guard(|| {
        pki::sign_csr(&ca_certificate, Path::new(&ca_key_file), &request, common_name.as_deref(), not_after)
    })
}

/// Signs a request (PKCS#10, PEM) as a server certificate (PEM) for DNS names and IP addresses; of the request only the
/// key counts. `notAfter` as for `signCertificateRequest`.
#[napi]
pub fn sign_server_request(
    ca_certificate: String,
    ca_key_file: String,
    request: String,
    names: Vec<String>,
    not_after: Option<f64>,
) -> Result<String> {
    let not_after = not_after.map(|seconds| seconds as i64);
    guard(|| pki::sign_server_csr(&ca_certificate, Path::new(&ca_key_file), &request, &names, not_after))
}

/// The certificate chain that a server shows (PEM, its own first), before anybody trusts it.
#[napi(ts_return_type = "Promise<string>")]
pub fn fetch_server_certificate(
    env: &Env,
    host: String,
    port: u16,
    timeout_ms: u32,
    proxy: Option<KmipProxy>,
) -> Result<Object<'_>> {
    let timeout = Duration::from_millis(timeout_ms.into());
    let proxy = proxy.map(Proxy::from);
    background::promise(env, move || {
        guard(|| vmseal_channel::fetch_server_certificate(&host, port, proxy.as_ref(), timeout))
    })
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
